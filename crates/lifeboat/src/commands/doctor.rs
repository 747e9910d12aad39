//! `lifeboat doctor`: whether backups and restores can work on this host, before one has to.

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::Result;
use serde_json::json;

use crate::checks::{self, Finding, Verdict};
use crate::session::Session;

/// Look for what would make backups or restores fail
///
/// It looks at the configuration and at files with passwords, at every repository (reachable,
/// writable, with room for the next backups, the clock against the newest one), at every source
/// (files and databases readable; servers: client programs that fit, rights on all tables, on
/// passwords of roles and for a restore), at the services that the configuration names, at the
/// schedules that should be installed, and at the tools for restores by hand.
///
/// Of SQLite databases it says what harms them: a network file system, several names, a
/// transaction that was cut off or a -wal without its database beside it, rights that are too
/// wide, no room for a restore, and an application whose SQLite is known to corrupt databases. It
/// looks for databases of this host that no source protects, and for what keeps the clock right.
///
/// It changes nothing. Each line is good, a warning, or bad, with the command that mends it. The
/// exit code is 0 where nothing is bad; else that of the failure, or 1 where there are several
/// kinds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look for schedules below this folder, and leave the running system alone
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let root = args.root.unwrap_or_else(|| PathBuf::from("/"));
    let findings = checks::run(session, &root, false);
    show(session, &findings)?;
    checks::conclude(&findings)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints findings, a line each, and how many of which there are.
fn show(session: &Session, findings: &[Finding]) -> Result<()> {
    let printer = &session.printer;
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (good, warnings, bad) =
        (count(Verdict::Good), count(Verdict::Warning), count(Verdict::Bad));
    if printer.json() {
        let checks: Vec<_> = findings.iter().map(Finding::as_json).collect();
        return printer.json_data(
            &json!({ "checks": checks, "good": good, "warnings": warnings, "bad": bad }),
        );
    }
    let text: String = findings.iter().map(|finding| finding.text(printer)).collect();
    printer.data(&text)?;
    printer.note(&format!("{good} good, {warnings} warnings, {bad} bad"));
    Ok(())
}
