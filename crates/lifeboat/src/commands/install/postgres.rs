//! `lifeboat install postgres`: the settings by which a server archives its log with us.
//!
//! They are set by the server itself (`ALTER SYSTEM`), so that they are in its own file and not in
//! one that somebody else writes. What they were before is said, kept, and set again by
//! `--uninstall`. An archive command of another program is never replaced without a word of its
//! own.

mod before;
mod plan;

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Session as ServerSession, literal};
use serde_json::json;

use self::before::Before;
use self::plan::{Commands, Plan};
use crate::commands::wal::target;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::confirm::confirm;
use crate::ui::units;

/// Let a PostgreSQL server archive its log into the repositories
///
/// Sets archive_mode, archive_command, wal_level where it is too low, and archive_timeout where
/// there is none, with ALTER SYSTEM, after the plan was shown and confirmed. It says what a restart
/// of the server needs; it restarts nothing. Where the role may not use ALTER SYSTEM, the lines for
/// postgresql.conf are printed instead, and the exit code is 23. An archive command of another
/// program, such as pgbackrest, is shown, and replaced only with --replace.
///
/// What was set before is kept, and set again by --uninstall.
///
/// The server runs this program as its own user: that user must be able to read the configuration
/// and to write to the repositories.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source of the configuration; needed where there are several clusters
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// Print the statements, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Replace the archive command of another program
    #[arg(long)]
    replace: bool,
    /// Take our archive command out again, and set what was set before
    #[arg(long, conflicts_with = "replace")]
    uninstall: bool,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let target = target(session, args.source.as_deref())?;
    let mut server = connect(&target)?;
    let commands = commands(session, &target)?;
    let system = plan::system(&mut server)?;
    let mut before = Before::read(session, &target, &system);
    let plan = match args.uninstall {
        true => plan::uninstall(&mut server, commands, &before)?,
        false => plan::install(&mut server, commands, &target.name, args.replace)?,
    };
    if args.dry_run || plan.changes.is_empty() {
        show(session, args, &plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !plan.is_allowed {
        show(session, args, &plan)?;
        let message = "this role may not change the settings of the server (ALTER SYSTEM)";
        return Err(Error::new(Kind::Refused, message).hint(
            "put the lines above into postgresql.conf, or run this as a superuser of the server",
        ));
    }
    if !session.globals.yes {
        session.printer.line(text(&plan).trim_end());
        say_notes(session, &plan);
        let name = units::one_line(&target.name);
        let question = format!("changing the settings of the server of {name}");
        confirm(&session.surroundings, &session.printer, &question, &target.name)?;
    }
    if !args.uninstall {
        plan.changes.iter().for_each(|change| before.note(change.setting, change.was()));
        if let Err(error) = before.write(session, &target, &plan.system) {
            let message = format!("--uninstall will not know what was set before: {error}");
            session.printer.warning(&units::one_line(&target.name), &message);
        }
    }
    for change in &plan.changes {
        server.execute(&change.statement())?;
    }
    server.execute("SELECT pg_catalog.pg_reload_conf()")?;
    if args.uninstall {
        Before::forget(session, &target, &plan.system);
    }
    match session.printer.json() {
        true => session.printer.json_data(&as_json("done", &plan))?,
        false => {
            for change in &plan.changes {
                session.printer.note(&format!("done: {}", change.statement()));
            }
            say_notes(session, &plan);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(target: &Target) -> Result<ServerSession> {
    let Some(cluster) = &target.cluster else {
        return Err(Error::new(Kind::Usage, "the source has no server"));
    };
    let what = format!("cannot connect to {}", cluster.location());
    ServerSession::open(&cluster.asking()?, &what)
}

fn commands(session: &Session, target: &Target) -> Result<Commands> {
    let program = std::env::current_exe()
        .map_err(|error| Error::io(Kind::Failed, "cannot find this program's own path", error))?;
    let mut program = units::shell_word(&program.to_string_lossy());
    for file in session.config_files()?.iter().take(1) {
        program.push_str(&format!(" --config {}", units::shell_word(&file.to_string_lossy())));
    }
    Ok(Commands::of(&program, &units::shell_word(&target.name)))
}

/// The statements, or the lines of `postgresql.conf` where they cannot be made; what is set now.
fn text(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.is_allowed {
        text.push_str("# this role may not use ALTER SYSTEM: for postgresql.conf\n");
    }
    for change in &plan.changes {
        let (setting, now) = (change.setting, units::one_line(&change.before));
        text.push_str(&match plan.is_allowed {
            true => format!("{};  -- {setting} is '{now}' now\n", change.statement()),
            false => format!("{}  # is '{now}' now\n", change.line()),
        });
    }
    let (remark, reload) = match plan.is_allowed {
        true => ("--", "SELECT pg_reload_conf();"),
        false => ("#", "# then, as a superuser: SELECT pg_reload_conf();"),
    };
    text.push_str(&format!("{reload}\n"));
    if plan.needs_restart() {
        text.push_str(&format!("{remark} then restart the server\n"));
    }
    text
}

fn say_notes(session: &Session, plan: &Plan) {
    if plan.needs_restart() {
        session.printer.note("the server must be restarted for it: archive_mode and wal_level");
    }
    plan.notes.iter().for_each(|note| session.printer.note(note));
    session
        .printer
        .note(&format!("for a restore: restore_command = {}", literal(&plan.restore_command)));
}

fn show(session: &Session, args: &Args, plan: &Plan) -> Result<()> {
    let outcome = if args.dry_run { "planned" } else { "unchanged" };
    if session.printer.json() {
        return session.printer.json_data(&as_json(outcome, plan));
    }
    if plan.changes.is_empty() {
        session.printer.note("nothing to do: all is as it should be");
        return Ok(());
    }
    session.printer.data(&text(plan))?;
    say_notes(session, plan);
    Ok(())
}

fn as_json(outcome: &str, plan: &Plan) -> serde_json::Value {
    let changes = plan.changes.iter().map(|change| {
        json!({
            "setting": change.setting, "before": change.before, "after": change.after,
            "statement": change.statement(), "postgresql_conf": change.line(),
        })
    });
    json!({
        "outcome": outcome, "changes": changes.collect::<Vec<_>>(),
        "restart": plan.needs_restart(), "notes": plan.notes, "is_allowed": plan.is_allowed,
        "restore_command": plan.restore_command,
    })
}
