//! `lifeboat install`: the files by which systemd or cron make the backups.
//!
//! `jobs` finds what is to be run and which places each run writes to, `systemd` and `cron` write
//! that down, `files` plans and applies: a file that is not ours is never touched.

mod cron;
mod files;
mod jobs;
mod postgres;
mod systemd;
mod told;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

pub(crate) use self::cron::words as cron_words;
pub(crate) use self::files::MARK;
use self::files::Plan;
pub(crate) use self::jobs::{Job, Program, of as jobs_of};
pub(crate) use self::systemd::{AGENT, argument, timer_of};
use crate::config::diagnose::shown;
use crate::session::Session;
use crate::ui::confirm::confirm;
use crate::ui::units;

/// Let systemd or cron make, prune and verify the backups of the configuration, and a server
/// archive its log
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Systemd(SystemdArgs),
    Cron(CronArgs),
    Postgres(postgres::Args),
}

/// Write a service and a timer for each source that has a `schedule`
///
/// Besides, backups are pruned every day, where `keep` says what stays, all are verified every
/// week, and a repository elsewhere, or on a drive, gets what it missed. With --agent one service
/// does all that without timers, and follows databases.
///
/// The services run as root, or as the user with --user, with just the rights that the
/// configuration needs. Units that an earlier run wrote for sources which are gone are removed.
/// A file that lifeboat did not write is never overwritten; changes of your own belong into
/// `systemctl edit UNIT`.
///
/// A password that the configuration calls { credential = "NAME" } is read from
/// /etc/credstore/NAME; ~/.pgpass of whoever installs is read as always.
#[derive(Debug, clap::Args)]
struct SystemdArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// One service for all, `lifeboat run`, instead of a timer for each
    #[arg(long)]
    agent: bool,
    /// The unit that is started when a backup fails, or the agent ends by itself
    #[arg(long, value_name = "UNIT", value_parser = unit_name)]
    on_failure: Option<String>,
}

/// Write /etc/cron.d/lifeboat with a line for each source that has a `schedule`
///
/// Besides, backups are pruned every day, where `keep` says what stays, all are verified every
/// week, and a repository elsewhere, or on a drive, gets what it missed. With --user the lines are
/// printed instead, for `crontab -e`. A file that lifeboat did not write is never overwritten.
#[derive(Debug, clap::Args)]
struct CronArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Print the files as they would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// For this user instead of the system
    #[arg(long)]
    user: bool,
    /// Remove exactly the files that an earlier run wrote
    #[arg(long)]
    uninstall: bool,
    /// Write below this folder, and leave the running system alone
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

fn unit_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":_.-@%\\".contains(c);
    let good = text.contains('.') && !text.starts_with(['-', '.']) && text.chars().all(allowed);
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not the name of a unit, such as alert@%n.service")),
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if let Action::Postgres(args) = &args.action {
        return postgres::run(session, args);
    }
    if session.globals.repo.is_some() {
        return Err(Error::new(Kind::Usage, "--repo has no meaning for `install`").hint(
            "name the repository in the configuration: the schedule runs what stands there",
        ));
    }
    let common = match &args.action {
        Action::Systemd(args) => &args.common,
        Action::Cron(args) => &args.common,
        Action::Postgres(args) => return postgres::run(session, args),
    };
    if !common.user && common.root.is_none() && !session.surroundings.is_root {
        return Err(Error::new(Kind::Usage, "installing for the system needs root")
            .hint("run it as root, or give --user"));
    }
    match args.action {
        Action::Systemd(args) => systemd_files(session, &args),
        Action::Cron(args) => cron_file(session, &args.common),
        Action::Postgres(args) => postgres::run(session, &args),
    }
}

fn systemd_files(session: &Session, args: &SystemdArgs) -> Result<ExitCode> {
    let common = &args.common;
    let folder = match common.user {
        false => PathBuf::from("/etc/systemd/system"),
        true => {
            let ours = session.surroundings.config_folder();
            let above = ours.as_deref().and_then(Path::parent).map(Path::to_owned);
            above.map(|above| above.join("systemd/user")).ok_or_else(no_home)?
        }
    };
    let (mut wanted, mut folders) = (Vec::new(), Vec::new());
    if !common.uninstall {
        let program = Program::of(session)?;
        let failure = args.on_failure.as_deref();
        let mut jobs = jobs(session)?;
        if args.agent {
            jobs = vec![jobs::agent(session, jobs)?];
        }
        for job in jobs {
            folders.extend(job.made.iter().cloned());
            match args.agent {
                true => {
                    let agent = session.loaded()?.config.agent.clone().unwrap_or_default();
                    let drain_s = agent.drain_ms().div_ceil(1000);
                    wanted.push(systemd::agent(&program, &job, drain_s, common.user, failure));
                }
                false => wanted.extend(systemd::units(&program, &job, common.user, failure)?),
            }
        }
    }
    let plan = Plan::of(&below(common, folder), wanted, systemd::is_ours)?.making(folders);
    let is_begun = |name: &String| name.ends_with(".timer") || name == systemd::AGENT;
    let timers: Vec<String> = plan.names().filter(is_begun).collect();
    if !carry_out(session, common, &plan, |plan| {
        let gone: Vec<String> = plan.removed().filter(is_begun).collect();
        let system = systemd::Manager { user: common.user, there: common.root.is_none() };
        system.disable(&gone)?;
        plan.apply()?;
        system.enable(&timers)
    })? {
        return Ok(ExitCode::SUCCESS);
    }
    if !common.uninstall && !systemd::is_running() {
        let user = if common.user { " --user" } else { "" };
        let timers: Vec<String> = timers.iter().map(|timer| units::shell_word(timer)).collect();
        session.printer.note(&format!(
            "systemd does not run here; where it does: systemctl{user} daemon-reload && \
             systemctl{user} enable --now {}",
            timers.join(" ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn cron_file(session: &Session, args: &CommonArgs) -> Result<ExitCode> {
    if args.user && args.uninstall {
        return Err(Error::new(Kind::Usage, "lifeboat writes no crontab of a user")
            .hint("remove its lines by hand: crontab -e"));
    }
    if args.user {
        let text = cron::text(&Program::of(session)?, &jobs(session)?, false)?;
        match session.printer.json() {
            true => session.printer.json_data(&json!({ "crontab": text }))?,
            false => session.printer.data(&text)?,
        }
        session.printer.note("put these lines into your crontab: crontab -e");
        return Ok(ExitCode::SUCCESS);
    }
    let mut wanted = Vec::new();
    if !args.uninstall {
        let text = cron::text(&Program::of(session)?, &jobs(session)?, true)?;
        wanted.push((cron::FILE.to_owned(), text));
    }
    let plan = Plan::of(&below(args, "/etc/cron.d".into()), wanted, |name| name == cron::FILE)?;
    carry_out(session, args, &plan, Plan::apply)?;
    Ok(ExitCode::SUCCESS)
}

/// The sources with a schedule. Without any there is nothing to install; one that is left out is
/// said to be so.
fn jobs(session: &Session) -> Result<Vec<Job>> {
    let (jobs, left_out) = jobs::of(session)?;
    if jobs.is_empty() {
        return Err(Error::new(Kind::Usage, "no source of the configuration has a `schedule`")
            .hint("add `schedule = \"hourly\"` to a source; `lifeboat config init` writes one"));
    }
    for name in left_out {
        session.printer.warning(&name, "it has no `schedule`: nothing will back it up by itself");
    }
    Ok(jobs)
}

fn below(args: &CommonArgs, folder: PathBuf) -> PathBuf {
    match &args.root {
        Some(root) => root.join(folder.strip_prefix("/").unwrap_or(&folder)),
        None => folder,
    }
}

/// Shows the plan, asks, and does it. False where nothing was to be done, or it was a dry run.
fn carry_out(
    session: &Session,
    args: &CommonArgs,
    plan: &Plan,
    apply: impl FnOnce(&Plan) -> Result<()>,
) -> Result<bool> {
    let printer = &session.printer;
    let json = |outcome: &str| plan.as_json(outcome);
    if args.dry_run {
        match printer.json() {
            true => printer.json_data(&json("planned"))?,
            false => printer.data(&plan.as_text())?,
        }
        return Ok(false);
    }
    if plan.is_done() {
        match printer.json() {
            true => printer.json_data(&json("unchanged"))?,
            false => printer.note("nothing to do: all is as it should be"),
        }
        return Ok(false);
    }
    if !session.globals.yes {
        plan.steps().iter().for_each(|step| printer.line(step));
        let verb = if args.uninstall { "uninstalling" } else { "installing" };
        let question = format!("{verb} the schedule in {}", shown(plan.folder()));
        confirm(&session.surroundings, printer, &question, "lifeboat")?;
    }
    apply(plan)?;
    match printer.json() {
        true => printer.json_data(&json("done"))?,
        false => plan.steps().iter().for_each(|step| printer.note(&format!("done: {step}"))),
    }
    Ok(true)
}

fn no_home() -> Error {
    Error::new(Kind::Usage, "no place for units of this user: HOME is not set")
        .hint("set HOME, or install for the system as root, without --user")
}
