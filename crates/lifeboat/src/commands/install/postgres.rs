//! `lifeboat install postgres`: the settings by which a server archives its log with us.
//!
//! They are set by the server itself (`ALTER SYSTEM`), so that they are in its own file and not in
//! one that somebody else writes. What they were before is said. An archive command of another
//! program is never replaced without a word of its own.

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Session as ServerSession, literal};
use serde_json::json;

use crate::commands::wal::target;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::confirm::confirm;
use crate::ui::units;

/// What marks an archive command as ours.
const OURS: &str = " wal push %p";
/// After so many seconds a server ends a segment that has something in it.
const ARCHIVE_TIMEOUT: &str = "60s";

/// Let a PostgreSQL server archive its log into the repositories
///
/// Sets archive_mode, archive_command, wal_level where it is too low, and archive_timeout where
/// there is none, with ALTER SYSTEM, after the plan was shown and confirmed. It says what a restart
/// of the server needs; it restarts nothing. An archive command of another program, such as
/// pgbackrest, is shown, and replaced only with --replace.
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
    /// Take our archive command out again
    #[arg(long)]
    uninstall: bool,
}

/// What is to be set.
struct Plan {
    /// Setting, value before, and value; `None` resets it.
    changes: Vec<(&'static str, String, Option<String>)>,
    /// Whether the server must be restarted.
    restart: bool,
    /// The restore command that belongs to it.
    restore_command: String,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let target = target(session, args.source.as_deref())?;
    let mut server = connect(&target)?;
    let plan = plan(session, args, &target, &mut server)?;
    let statements: Vec<String> = plan.changes.iter().map(statement).collect();
    let name = units::one_line(&target.name);
    if args.dry_run || plan.changes.is_empty() {
        show(session, args, &plan, &statements)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        explain(session, &plan, &statements);
        let question = format!("changing the settings of the server of {name}");
        confirm(&session.surroundings, &session.printer, &question, &target.name)?;
    }
    for statement in &statements {
        server.execute(statement)?;
    }
    server.execute("SELECT pg_catalog.pg_reload_conf()")?;
    match session.printer.json() {
        true => session.printer.json_data(&as_json("done", &plan, &statements))?,
        false => {
            statements.iter().for_each(|line| session.printer.note(&format!("done: {line}")));
            restart(session, &plan);
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

fn plan(
    session: &Session,
    args: &Args,
    target: &Target,
    server: &mut ServerSession,
) -> Result<Plan> {
    let program = std::env::current_exe()
        .map_err(|error| Error::io(Kind::Failed, "cannot find this program's own path", error))?;
    let word = |text: &str| units::shell_word(text);
    let mut program = word(&program.to_string_lossy());
    for file in session.config_files()?.iter().take(1) {
        program.push_str(&format!(" --config {}", word(&file.to_string_lossy())));
    }
    // A percent sign means something to the server.
    let program = program.replace('%', "%%");
    let source = word(&target.name).replace('%', "%%");
    let archive_command = format!("{program}{OURS} --source {source}");
    let restore_command = format!("{program} wal fetch %f %p --source {source}");
    let now = |server: &mut ServerSession, name: &str| server.setting(name);
    let mut changes = Vec::new();
    let mut needs_restart = false;
    let command = now(server, "archive_command")?;
    let command = if command == "(disabled)" { String::new() } else { command };
    let mode = now(server, "archive_mode")?;
    let is_ours = command.contains(OURS);
    if args.uninstall {
        if is_ours {
            changes.push(("archive_command", command, None));
        }
        return Ok(Plan { changes, restart: false, restore_command });
    }
    let library = server.setting_or_none("archive_library")?.unwrap_or_default();
    let other = match (library.is_empty(), command.is_empty() || is_ours) {
        (false, _) => Some(("archive_library", library.clone())),
        (true, false) => Some(("archive_command", command.clone())),
        (true, true) => None,
    };
    if let Some((setting, value)) = other.filter(|_| !args.replace) {
        let value = units::one_line(&value);
        let message = format!("the server archives already: {setting} = '{value}'");
        return Err(Error::new(Kind::Refused, message).hint(
            "only one program can archive: --replace puts this one in its place; what the other \
             one stored stays where it is",
        ));
    }
    if command != archive_command {
        changes.push(("archive_command", command, Some(archive_command)));
    }
    if !library.is_empty() {
        changes.push(("archive_library", library, Some(String::new())));
    }
    if mode == "off" {
        changes.push(("archive_mode", mode, Some("on".to_owned())));
        needs_restart = true;
    }
    let level = now(server, "wal_level")?;
    if level == "minimal" {
        changes.push(("wal_level", level, Some("replica".to_owned())));
        needs_restart = true;
    }
    let timeout = now(server, "archive_timeout")?;
    if timeout == "0" {
        changes.push(("archive_timeout", timeout, Some(ARCHIVE_TIMEOUT.to_owned())));
    }
    Ok(Plan { changes, restart: needs_restart, restore_command })
}

fn statement((name, _, value): &(&'static str, String, Option<String>)) -> String {
    match value {
        Some(value) => format!("ALTER SYSTEM SET {name} = {}", literal(value)),
        None => format!("ALTER SYSTEM RESET {name}"),
    }
}

fn explain(session: &Session, plan: &Plan, statements: &[String]) {
    for ((name, before, _), statement) in plan.changes.iter().zip(statements) {
        let before = units::one_line(before);
        session.printer.line(&format!("{statement};  -- {name} is '{before}' now"));
    }
    restart(session, plan);
}

fn restart(session: &Session, plan: &Plan) {
    if plan.restart {
        session.printer.note("the server must be restarted for it: archive_mode and wal_level");
    }
    session
        .printer
        .note(&format!("for a restore: restore_command = {}", literal(&plan.restore_command)));
}

fn show(session: &Session, args: &Args, plan: &Plan, statements: &[String]) -> Result<()> {
    let outcome = if args.dry_run { "planned" } else { "unchanged" };
    if session.printer.json() {
        return session.printer.json_data(&as_json(outcome, plan, statements));
    }
    if plan.changes.is_empty() {
        session.printer.note("nothing to do: all is as it should be");
        return Ok(());
    }
    let mut text = String::new();
    for ((name, before, _), statement) in plan.changes.iter().zip(statements) {
        let before = units::one_line(before);
        text.push_str(&format!("{statement};  -- {name} is '{before}' now\n"));
    }
    text.push_str("SELECT pg_reload_conf();\n");
    if plan.restart {
        text.push_str("-- then restart the server\n");
    }
    session.printer.data(&text)?;
    restart(session, plan);
    Ok(())
}

fn as_json(outcome: &str, plan: &Plan, statements: &[String]) -> serde_json::Value {
    let changes = plan.changes.iter().zip(statements).map(|((name, before, value), statement)| {
        json!({ "setting": name, "before": before, "after": value, "statement": statement })
    });
    json!({
        "outcome": outcome, "changes": changes.collect::<Vec<_>>(), "restart": plan.restart,
        "restore_command": plan.restore_command,
    })
}
