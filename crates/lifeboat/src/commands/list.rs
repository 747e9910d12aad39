//! `lifeboat list`: the backups of the sources.

use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::marks::Tombstone;
use lifeboat_core::policy::Hold;
use lifeboat_sqlite::pagelog::Range;
use serde_json::{Value, json};

use super::replica;
use super::wal::moments;
use crate::following::{self, Following};
use crate::logs::{self, Reach};
use crate::replicas;
use crate::repositories::{self, Opened};
use crate::selection::{self, Found};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// List the backups
///
/// Oldest first. With --json, an array of their manifests, each with its `repository`, its
/// `folder`, what holds it (`hold`), the migration that it was made before (`note`) and how far the
/// log that follows it reaches (`log`); with --all also with what a prune said of it (`removed`).
///
/// Below it, where a source has a log: the moments that can be restored by it, and what is missing.
/// With --json a backup of a cluster has them as `restorable`, and what is missing behind them as
/// `gap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of sources, or paths of databases; all without any; or a replica of Litestream
    #[arg(value_name = "SOURCE|PATH|REPLICA")]
    sources: Vec<String>,
    /// Those as well that a prune removed and whose bytes are still there, and when these go
    #[arg(long)]
    all: bool,
}

/// A backup, and the tombstone that it has, if it is removed.
type Row<'a> = (&'a Manifest, Option<&'a Tombstone>);

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    if let [argument] = &args.sources[..]
        && let Some(named) = replicas::find(session, &env, argument)?
    {
        replica::list(session, &named.replica)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (opened, failures) = repositories::look_over(session, &env)?;
    let mut found: Vec<Found<'_>> = Vec::new();
    if args.sources.is_empty() {
        for one in &opened {
            found.extend(one.catalog.sources.iter().map(|entry| Found { opened: one, entry }));
        }
    }
    for argument in &args.sources {
        found.extend(selection::entries(session, &env, &opened, argument)?);
    }
    for Found { opened, entry } in &found {
        for unreadable in &entry.unreadable {
            let url = &opened.place.url;
            env.warn(&unreadable.object, &format!("{} ({url})", unreadable.reason));
        }
    }
    match session.printer.json() {
        true => session.printer.json_data(&manifests(session, &env, &found, args.all)?)?,
        false => {
            print(session, &found, args.all, env.clock.now(), opened.len() > 1)?;
            print_moments(session, &env, &found)?;
        }
    }
    super::incomplete(&failures)
}

/// The backups of a source, oldest first; with `all` also those that have a tombstone.
fn rows(entry: &SourceEntry, all: bool) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = entry.backups.iter().map(|backup| (backup, None)).collect();
    if all {
        let tombstone = |backup| entry.tombstones.iter().find(|tombstone| tombstone.means(backup));
        rows.extend(entry.removed.iter().map(|backup| (backup, tombstone(backup))));
        rows.sort_by_key(|(backup, _)| (backup.taken_at, &backup.name));
    }
    rows
}

fn manifests(session: &Session, env: &Env, found: &[Found<'_>], all: bool) -> Result<Vec<Value>> {
    let (mut list, now) = (Vec::new(), env.clock.now());
    for Found { opened, entry } in found {
        let moments = moments::of_entry(session, env, &opened.repository, entry)?;
        let logged = logs::logged(&opened.repository, &entry.folder)?;
        for (manifest, tombstone) in rows(entry, all) {
            let mut value = with_place(manifest, &opened.repository.url(), &entry.folder);
            let hold = entry.hold(manifest);
            value["hold"] =
                json!(hold.map(|hold| { json!({ "reason": hold.reason, "until": hold.until }) }));
            value["note"] = json!(entry.story(manifest));
            let reach = match logged.contains(&manifest.name) {
                true => logs::reach(&opened.repository, &entry.folder, manifest)?,
                false => None,
            };
            value["log"] = json!(reach.map(|reach| {
                let following = following_of(session, opened, entry, manifest, &reach, now);
                json!({
                    "following": following.as_ref().map(Following::as_json),
                    "states": reach.states,
                    "stored_bytes": reach.stored_bytes,
                    "position": reach.newest.as_ref().map(|newest| newest.position),
                    "held": reach.newest.as_ref().map(|newest| newest.held),
                    "until": reach.newest.as_ref().map(|newest| newest.until),
                    "ranges": reach.ranges.iter().map(range_as_json).collect::<Vec<_>>(),
                    "broken": reach.broken,
                })
            }));
            moments::add_to(&mut value, &moments, &manifest.name);
            if all {
                value["removed"] = json!(tombstone.map(|tombstone| {
                    json!({
                        "reason": tombstone.reason,
                        "marked_at": tombstone.marked_at,
                        "delete_after": tombstone.delete_after,
                    })
                }));
            }
            list.push(value);
        }
    }
    Ok(list)
}

/// What the log of each source makes restorable beside the moments of its backups.
fn print_moments(session: &Session, env: &Env, found: &[Found<'_>]) -> Result<()> {
    for Found { opened, entry } in found {
        let moments = moments::of_entry(session, env, &opened.repository, entry)?;
        for line in moments::lines(session, &entry.folder, &moments) {
            session.printer.data(&format!("{}\n", units::one_line(&line)))?;
        }
    }
    Ok(())
}

/// What is to be said of a backup beside its numbers: that it is removed, that it is pinned, which
/// migration it was made before.
fn notes(
    session: &Session,
    opened: &Opened,
    entry: &SourceEntry,
    (manifest, tombstone): Row<'_>,
    is_logged: bool,
    now: Timestamp,
) -> Result<String> {
    let zone = &session.surroundings.time_zone;
    let mut notes = Vec::new();
    if let Some(tombstone) = tombstone {
        let when = units::moment(tombstone.delete_after, zone);
        notes.push(format!("removed, deleted after {when}"));
    }
    let holds = |hold: &Hold| hold.until.is_none_or(|until| until > now);
    if let Some(hold) = entry.hold(manifest).filter(holds) {
        let until = hold.until.map(|until| format!(" until {}", units::moment(until, zone)));
        notes.push(format!("pinned{}: {}", until.unwrap_or_default(), hold.reason));
    }
    notes.extend(entry.story(manifest));
    if is_logged && let Some(reach) = logs::reach(&opened.repository, &entry.folder, manifest)? {
        notes.push(told(&reach, zone));
        let following = following_of(session, opened, entry, manifest, &reach, now);
        notes.extend(following.as_ref().map(Following::told));
    }
    Ok(units::one_line(&notes.join("; ")))
}

/// What this host says of a log that it adds to.
fn following_of(
    session: &Session,
    opened: &Opened,
    entry: &SourceEntry,
    manifest: &Manifest,
    reach: &Reach,
    now: Timestamp,
) -> Option<Following> {
    let held = reach.newest.as_ref()?.held;
    following::of(session, (&opened.place.url, &entry.folder), &manifest.name, (held, now))
}

/// How far a log reaches, in words.
fn told(reach: &Reach, zone: &TimeZone) -> String {
    let states = if reach.states == 1 { "state" } else { "states" };
    let mut text = format!("log: {} {states}", units::count(reach.states as u64));
    match (reach.ranges.as_slice(), &reach.newest) {
        ([_, _, ..], _) => {
            let parts = reach.ranges.iter().map(|range| {
                let until = units::moment(range.moments.1.held, zone);
                format!("each {} until {until}", range.grain.word())
            });
            text.push_str(&format!(": {}", parts.collect::<Vec<_>>().join(", then ")));
        }
        (_, Some(newest)) => {
            text.push_str(&format!(" until {}", units::moment(newest.held, zone)));
        }
        (_, None) => {}
    }
    text.push_str(&format!(", {}", units::bytes(reach.stored_bytes)));
    if let Some(broken) = &reach.broken {
        text.push_str(&format!(", then broken: {broken}"));
    }
    text
}

/// States of a log that are told apart equally finely.
fn range_as_json(range: &Range) -> Value {
    let (first, last) = &range.moments;
    json!({
        "each": range.grain.word(),
        "states": range.states,
        "positions": [first.position, last.position],
        "from": first.held,
        "until": last.held,
    })
}

/// A manifest as JSON, with the place where it lies.
pub(crate) fn with_place(manifest: &Manifest, url: &str, folder: &str) -> Value {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    value["repository"] = url.into();
    value["folder"] = folder.into();
    value
}

fn print(
    session: &Session,
    found: &[Found<'_>],
    all: bool,
    now: Timestamp,
    several: bool,
) -> Result<()> {
    let mut noted_rows = Vec::new();
    for Found { opened, entry } in found {
        let logged = logs::logged(&opened.repository, &entry.folder)?;
        for row in rows(entry, all) {
            let is_logged = logged.contains(&row.0.name);
            noted_rows.push((opened, row, notes(session, opened, entry, row, is_logged, now)?));
        }
    }
    let rows = noted_rows;
    let noted = rows.iter().any(|(_, _, note)| !note.is_empty());
    let mut columns = vec![
        ("backup", Align::Left),
        ("taken", Align::Left),
        ("age", Align::Right),
        ("size", Align::Right),
        ("stored", Align::Right),
        ("condition", Align::Left),
        ("checks", Align::Left),
    ];
    if several {
        columns.push(("repository", Align::Left));
    }
    if noted {
        columns.push(("note", Align::Left));
    }
    let mut table = Table::new(&columns);
    let count = rows.len();
    for (opened, (manifest, _), note) in rows {
        let mut cells = vec![
            (units::one_line(&manifest.name), None),
            (selection::moment(session, manifest), None),
            (units::age(manifest.taken_at, now), None),
            (units::bytes(manifest.plain_bytes()), None),
            (units::bytes(manifest.stored_bytes()), None),
            condition(manifest.condition),
            (checks(manifest), None),
        ];
        if several {
            cells.push((opened.place.label().to_owned(), None));
        }
        if noted {
            cells.push((note, None));
        }
        table.row(cells);
    }
    match count {
        0 => session.printer.note("there are no backups yet"),
        _ => session.printer.data(&table.to_text(&session.printer))?,
    }
    Ok(())
}

/// A condition as a cell.
pub(crate) fn condition(condition: Condition) -> (String, Option<Style>) {
    match condition {
        Condition::Good => ("good".to_owned(), Some(Style::Good)),
        Condition::Unchecked => ("unchecked".to_owned(), Some(Style::Doubtful)),
        Condition::Damaged => ("damaged".to_owned(), Some(Style::Bad)),
    }
}

/// The checks beyond reading back, which every backup had.
fn checks(manifest: &Manifest) -> String {
    let names = manifest.checks.iter().map(|check| check.name.as_str());
    let deep: Vec<&str> = names.filter(|name| *name != "read_back").collect();
    match deep.is_empty() {
        true => "read back".to_owned(),
        false => deep.join(", ").replace('_', " "),
    }
}
