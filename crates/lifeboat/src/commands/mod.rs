//! The commands: one line and one file for each verb.

mod adopt;
pub(crate) mod agent;
mod backup;
mod completions;
mod config;
mod copy;
mod demo;
mod diff;
mod doctor;
mod drill;
mod guard;
mod init;
pub(crate) mod install;
mod key;
mod kit;
mod list;
mod man;
mod notify;
mod migrate;
mod pin;
pub(crate) mod proof;
mod prune;
mod reference;
mod rehearse;
mod replica;
mod rescue;
mod restore;
mod run;
mod salvage;
mod show;
pub(crate) mod status;
mod undo;
mod verify;
pub(crate) mod wal;
mod watch;
mod web;
mod words;

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};

use crate::notify::Watch;
use crate::session::Session;

/// Every command with its arguments. The doc comment of each `Args` is its help and its manual.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Backup(backup::Args),
    List(list::Args),
    Show(show::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Verify(verify::Args),
    Restore(Box<restore::Args>),
    Undo(undo::Args),
    Adopt(adopt::Args),
    Drill(drill::Args),
    Proof(proof::Args),
    Rehearse(rehearse::Args),
    Guard(guard::Args),
    Rescue(rescue::Args),
    Salvage(salvage::Args),
    Diff(diff::Args),
    Migrate(Box<migrate::Args>),
    Prune(prune::Args),
    Copy(copy::Args),
    Pin(pin::Args),
    Unpin(pin::UnpinArgs),
    Undelete(pin::UndeleteArgs),
    Notify(notify::Args),
    Wal(wal::Args),
    Watch(watch::Args),
    Web(web::Args),
    Run(run::Args),
    Agent(agent::Args),
    Demo(demo::Args),
    #[command(hide = true)]
    DemoWriter(demo::WriterArgs),
    Init(init::Args),
    Config(config::Args),
    Install(install::Args),
    Key(key::Args),
    Kit(kit::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Reference(reference::Args),
}

impl Command {
    /// Whether it can be shown another moment as now.
    fn can_be_tried(&self) -> bool {
        matches!(self, Command::List(_) | Command::Status(_) | Command::Prune(_))
    }

    /// Runs the command. Results other than errors may have an exit code of their own.
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode> {
        if session.globals.now.is_some() && !self.can_be_tried() {
            return Err(Error::new(Kind::Usage, "--now is for `prune`, `list` and `status` alone")
                .hint("leave --now away"));
        }
        let watch = self.told().and_then(|command| Watch::begin(session, command));
        let result = self.run_alone(session);
        if let Some(watch) = watch {
            watch.end(&result);
        }
        result
    }

    /// Its name, where those who are told how runs end are told of it.
    fn told(&self) -> Option<&'static str> {
        match self {
            Command::Backup(args) => (!args.is_dry_run()).then_some("backup"),
            Command::Verify(_) => Some("verify"),
            Command::Drill(args) => (!args.is_dry_run()).then_some("drill"),
            Command::Prune(args) => (!args.is_dry_run()).then_some("prune"),
            Command::Copy(args) => (!args.is_dry_run()).then_some("copy"),
            Command::Watch(_) => Some("watch"),
            _ => None,
        }
    }

    fn run_alone(self, session: &Session) -> Result<ExitCode> {
        match self {
            Command::Backup(args) => backup::run(session, args),
            Command::List(args) => list::run(session, args),
            Command::Show(args) => show::run(session, args),
            Command::Status(args) => status::run(session, args),
            Command::Doctor(args) => doctor::run(session, args),
            Command::Verify(args) => verify::run(session, args),
            Command::Restore(args) => restore::run(session, *args),
            Command::Undo(args) => undo::run(session, args),
            Command::Adopt(args) => adopt::run(session, args),
            Command::Drill(args) => drill::run(session, args),
            Command::Rehearse(args) => rehearse::run(session, &args),
            Command::Proof(args) => proof::run(session, args),
            Command::Guard(args) => guard::run(session, args),
            Command::Rescue(args) => rescue::run(session, &args),
            Command::Salvage(args) => salvage::run(session, args),
            Command::Diff(args) => diff::run(session, args),
            Command::Migrate(args) => migrate::run(session, *args),
            Command::Prune(args) => prune::run(session, args),
            Command::Copy(args) => copy::run(session, args),
            Command::Pin(args) => pin::run(session, args),
            Command::Unpin(args) => pin::run_unpin(session, args),
            Command::Undelete(args) => pin::run_undelete(session, args),
            Command::Notify(args) => notify::run(session, args),
            Command::Wal(args) => wal::run(session, args),
            Command::Watch(args) => watch::run(session, args),
            Command::Web(args) => web::run(session, args),
            Command::Run(args) => run::run(session, args),
            Command::Agent(args) => agent::run(session, args),
            Command::Demo(args) => demo::run(session, args),
            Command::DemoWriter(args) => demo::run_writer(session, args),
            Command::Init(args) => init::run(session, args),
            Command::Config(args) => config::run(session, args),
            Command::Install(args) => install::run(session, args),
            Command::Key(args) => key::run(session, args),
            Command::Kit(args) => kit::run(session, args),
            Command::Completions(args) => completions::run(session, args),
            Command::Man(args) => man::run(session, args),
            Command::Reference(args) => reference::run(session, args),
        }
    }
}

/// The end of a command that could not read every repository: what it printed is not all.
fn incomplete(failures: &[Error]) -> Result<ExitCode> {
    match failures.len() {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Error::new(Kind::Incomplete, "a repository could not be read")
            .hint("the warning above says why")),
        count => {
            Err(Error::new(Kind::Incomplete, format!("{count} repositories could not be read"))
                .hint("the warnings above say why"))
        }
    }
}
