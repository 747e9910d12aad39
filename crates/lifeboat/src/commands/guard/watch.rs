//! `guard --watch`: before a service starts, a backup if its start is about to migrate.
//!
//! Nothing pending costs a look at a folder and a table. A backup that fails is an error, so that
//! the service does not start its migration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::marks::version_word;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::Probe;
use serde_json::json;

use super::invariants::Before;
use super::migrations::{self, Pending};
use super::safety::Safety;
use super::work::Work;
use super::{Args, Guard, drop_in, tell};
use crate::sources;
use crate::ui::units;

/// Names of migrations that a line tells.
const NAMES_TOLD_MAX: usize = 5;

pub(super) fn run(guard: &Guard<'_>, args: &Args) -> Result<ExitCode> {
    let folder = folder(guard, args)?;
    if let Some(unit) = &args.print_drop_in {
        return drop_in::print(guard, args, &folder, unit);
    }
    let names = names(&folder)?;
    let Some(nothing) = guard.there(args.require_database)? else {
        return look(guard, args, &names);
    };
    guard.session.printer.note(&format!("{nothing}: nothing to back up"));
    say(guard, "nothing-there", &Pending::default(), None)
}

fn look(guard: &Guard<'_>, args: &Args, names: &[String]) -> Result<ExitCode> {
    // Over before the backup begins.
    let (applied, version) = {
        let probe = Probe::open(&guard.place)?;
        (probe.applied()?, probe.schema_version()?)
    };
    let pending = migrations::pending(names, &applied, version.as_ref());
    let printer = &guard.session.printer;
    let (name, word) = (units::one_line(&guard.target.name), version_word(version.as_ref()));
    if pending.total == 0 {
        printer.warning(&name, "there are no migrations in the folder: is it the right one?");
    }
    if !pending.unclear.is_empty() {
        let message = format!(
            "{} cannot be compared with what the database says of its schema, so there is a backup \
             in any case",
            told(&pending.unclear)
        );
        printer.warning(&name, &message);
    }
    if pending.files.is_empty() && pending.unclear.is_empty() {
        printer.note(&format!("{name}: no migration is pending after {word}"));
        return say(guard, "nothing-pending", &pending, None);
    }
    if !pending.files.is_empty() {
        printer.note(&format!("{name}: after {word} come {}", told(&pending.files)));
    }
    if args.dry_run {
        return say(guard, "planned", &pending, None);
    }
    let _lock = guard.lock()?;
    let before = Before::at(version);
    let safety = Safety::make(guard, &before).map_err(|error| guard.nothing_was_run(error))?;
    safety.begin(guard.env, None)?;
    guard.session.progress.clear();
    tell::ready(guard, &safety, &Work::Service)?;
    guard.rotate(&safety);
    say(guard, "backed-up", &pending, Some(&safety))
}

fn say(
    guard: &Guard<'_>,
    outcome: &str,
    pending: &Pending,
    safety: Option<&Safety>,
) -> Result<ExitCode> {
    let printer = &guard.session.printer;
    if printer.json() {
        printer.json_data(&json!({
            "outcome": outcome,
            "source": guard.target.name,
            "database": guard.place,
            "pending": pending.files,
            "unclear": pending.unclear,
            "saved": safety.map(|safety| safety.to_json(guard)),
            "restore": safety.and_then(|safety| safety.way_back(guard)),
        }))?;
    } else if let Some(way_back) = safety.and_then(|safety| safety.way_back(guard)) {
        printer.note(&format!("  to go back: {way_back}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(names: &[String]) -> String {
    let shown: Vec<String> =
        names.iter().take(NAMES_TOLD_MAX).map(|name| units::one_line(name)).collect();
    match names.len().saturating_sub(NAMES_TOLD_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn folder(guard: &Guard<'_>, args: &Args) -> Result<PathBuf> {
    let named = args.pending.as_ref().or(guard.target.guard.pending.as_ref());
    let folder = named.ok_or_else(|| {
        Error::new(Kind::Usage, "--watch needs the folder of migrations")
            .hint("name it with --pending, or as `guard = { pending = \"...\" }` of the source")
    })?;
    sources::place_of(folder)
}

/// The names of what lies in the folder. One that cannot be read is an error: nobody could say what
/// is pending.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| {
        let message = format!("cannot read the migrations in {}", folder.display());
        Error::io(Kind::Usage, message, error).hint("name their folder with --pending")
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
