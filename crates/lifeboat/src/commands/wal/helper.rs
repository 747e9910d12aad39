//! The helper process that pushes or fetches ahead. It is started by `wal push` and `wal fetch`,
//! and nobody waits for it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::control::DataDirectory;
use lifeboat_postgres::wal::ahead;

use super::exit::Rule;
use super::limit::Limit;
use super::{SourceArgs, Subject, all_of, spool};
use crate::session::Session;
use crate::signals;

/// What a helper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Work {
    /// Push what waits in archive_status
    Push,
    /// Fetch the segments behind the one that was asked for last
    Fetch,
}

/// Work ahead of a server
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    work: Work,
    #[command(flatten)]
    source: SourceArgs,
    /// The cluster's data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    // Who hangs keeps the file from everybody.
    let limit = Limit::begin(session, args.source.limit, Rule::Ours);
    let data = DataDirectory::at(&args.data)?;
    let subject = Subject::of(session, &env, args.source.source.as_deref())?;
    let (archive, failures) = match args.work {
        Work::Push => subject.for_writing(session, &env, data.system)?,
        Work::Fetch => subject.for_reading(&env, data.system)?,
    };
    all_of(failures)?;
    let spool = spool(session, &env, &archive)
        .ok_or_else(|| Error::new(Kind::Failed, "there is no place for the notes of a helper"))?;
    let alive = || limit.alive();
    match args.work {
        Work::Push => ahead::run_pusher(&env, &archive, &spool, &data, &alive)?,
        Work::Fetch => ahead::run_fetcher(&env, &archive, &spool, &alive)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts one with the same configuration. Without it all goes on, one file at a time.
pub(super) fn start(session: &Session, env: &Env, source: &SourceArgs, work: Work, data: &Path) {
    if let Err(error) = spawn(session, source, work, data) {
        let message = format!("without a helper that works ahead: {error}");
        env.tell(Event::Detail { message: &message });
    }
}

fn spawn(session: &Session, source: &SourceArgs, work: Work, data: &Path) -> Result<()> {
    let failed = |error| Error::io(Kind::Failed, "cannot start a helper", error);
    let absolute = |path: &Path| std::path::absolute(path).map_err(failed);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["wal", "helper"]).arg(match work {
        Work::Push => "push",
        Work::Fetch => "fetch",
    });
    command.arg("--data").arg(absolute(data)?);
    let globals = &session.globals;
    if let Some(config) = &globals.config {
        command.arg("--config").arg(absolute(config)?);
    }
    if let Some(file) = &globals.env_file {
        command.arg("--env-file").arg(absolute(file)?);
    }
    for identity in &globals.identity {
        command.arg("--identity").arg(absolute(identity)?);
    }
    if let Some(repository) = &globals.repo {
        command.arg("--repo").arg(repository);
    }
    if let Some(name) = &source.source {
        command.arg("--source").arg(name);
    }
    command.args(["--limit", &source.limit.to_string()]);
    // A signal for the server's command is none for the helper.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(failed)
}
