//! `lifeboat list`: the backups of the sources.

use std::process::ExitCode;

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::manifest::{Condition, Manifest};
use serde_json::Value;

use crate::repositories;
use crate::selection::{self, Found};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// List the backups
///
/// Oldest first. With --json, an array of their manifests, each with its `repository` and
/// `folder`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of sources, or paths of databases; all without any
    #[arg(value_name = "SOURCE|PATH")]
    sources: Vec<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
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
        true => session.printer.json_data(&manifests(&found))?,
        false => print(session, &found, env.clock.now(), opened.len() > 1)?,
    }
    super::incomplete(&failures)
}

fn manifests(found: &[Found<'_>]) -> Vec<Value> {
    let mut list = Vec::new();
    for Found { opened, entry } in found {
        for manifest in &entry.backups {
            list.push(with_place(manifest, &opened.repository.url(), &entry.folder));
        }
    }
    list
}

/// A manifest as JSON, with the place where it lies.
pub(crate) fn with_place(manifest: &Manifest, url: &str, folder: &str) -> Value {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    value["repository"] = url.into();
    value["folder"] = folder.into();
    value
}

fn print(session: &Session, found: &[Found<'_>], now: Timestamp, several: bool) -> Result<()> {
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
    let mut table = Table::new(&columns);
    let mut rows = 0;
    for Found { opened, entry } in found {
        for manifest in &entry.backups {
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
            table.row(cells);
            rows += 1;
        }
    }
    match rows {
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
