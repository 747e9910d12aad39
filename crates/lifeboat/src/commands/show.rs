//! `lifeboat show`: one backup, for people.

use std::fmt::Write as _;
use std::process::ExitCode;

use lifeboat_core::Result;
use lifeboat_core::manifest::Manifest;

use super::wal::moments;
use super::{backup, list};
use crate::selection::{self, Selected};
use crate::session::Session;
use crate::ui::units;

/// Show everything that is known of a backup
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup: SOURCE, SOURCE@TIME, its name, or the path of one of its files
    backup: String,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let selected = selection::backup(session, &env, &args.backup, None)?;
    let Selected { repository, folder, manifest, .. } = &selected;
    match session.printer.json() {
        true => {
            let mut value = list::with_place(manifest, &repository.url(), folder);
            if let Some(proof) = repository.proof(folder, manifest)? {
                value["proof"] = serde_json::to_value(proof).unwrap_or_default();
            }
            moments::add_to(
                &mut value,
                &moments::of_selected(session, &env, &selected)?,
                &manifest.name,
            );
            session.printer.json_data(&value)?;
        }
        false => {
            let mut text = text(session, &selected, env.clock.now())?;
            let moments = moments::of_selected(session, &env, &selected)?;
            let mut lines = Lines::default();
            for line in moments::of_backup(session, &moments, &manifest.name) {
                lines.add("restorable", &units::one_line(&line));
            }
            text.push_str(&lines.text);
            session.printer.data(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(session: &Session, selected: &Selected, now: jiff::Timestamp) -> Result<String> {
    let Selected { repository, folder, manifest, .. } = selected;
    let mut lines = Lines::default();
    lines.add("backup", &units::one_line(&manifest.name));
    lines.add("id", &manifest.id.to_string());
    let source = &manifest.source;
    let what = format!("{} ({}), {}", source.name, source.kind, source.id);
    lines.add("source", &units::one_line(&what));
    lines.add("location", &units::one_line(&format!("{} on {}", source.location, source.host)));
    let age = units::age(manifest.taken_at, now);
    lines.add("taken", &format!("{} ({age})", selection::moment(session, manifest)));
    lines.add("method", &word(&manifest.method));
    if let Some(adopted) = &manifest.adopted {
        let zone = units::one_line(&adopted.zone);
        lines.add("adopted from", &units::one_line(&adopted.path));
        lines.add("", &format!("modified {}, its name is of {zone}", adopted.modified_at));
    }
    lines.add("condition", &word(&manifest.condition));
    lines.add("checked", &backup::checked(manifest));
    if let Some(proof) = repository.proof(folder, manifest)? {
        let at = units::moment(proof.verified_at, &session.surroundings.time_zone);
        let what =
            format!("stored, with the key, level {}, on {} at {at}", proof.level, proof.host);
        lines.add("verified", &units::one_line(&what));
    }
    for note in manifest.checks.iter().flat_map(|check| &check.notes) {
        lines.add("note", note);
    }
    for warning in &manifest.warnings {
        lines.add("warning", warning);
    }
    if let Some(story) = repository.story(folder, manifest)? {
        lines.add("note", &units::one_line(&story));
    }
    if let Some(hold) = repository.hold(folder, manifest)? {
        let zone = &session.surroundings.time_zone;
        let until = hold.until.map(|until| format!(" (until {})", units::moment(until, zone)));
        let pin = format!("{}{}", hold.reason, until.unwrap_or_default());
        lines.add("pinned", &units::one_line(&pin));
    }
    lines.add("where", &format!("{}/{folder}", repository.url()));
    artifacts(manifest, &mut lines);
    if let Some(version) = &manifest.schema_version {
        lines.add("schema", &format!("{} ({})", version.version, version.read_from));
    }
    // Offsets are for programs: `--json` has them.
    for (name, fact) in manifest.facts.iter().filter(|(name, _)| *name != "data_begins") {
        let fact = fact.as_str().map_or_else(|| fact.to_string(), str::to_owned);
        lines.add(&name.replace('_', " "), &units::one_line(&fact));
    }
    for (table, rows) in manifest.rows.iter().flatten() {
        lines.add("rows", &format!("{} in {}", units::count(*rows), units::one_line(table)));
    }
    let timings: Vec<String> = manifest
        .timings_ms
        .iter()
        .map(|(phase, milliseconds)| {
            format!("{} {}", phase.replace('_', " "), units::duration(*milliseconds))
        })
        .collect();
    lines.add("timings", &timings.join(", "));
    lines.add("made by", &manifest.tool);
    lines.add("restore", &backup::restore_command(session, folder, manifest));
    Ok(lines.text)
}

fn artifacts(manifest: &Manifest, lines: &mut Lines) {
    for artifact in &manifest.artifacts {
        lines.add(
            &artifact.role.replace('-', " "),
            &format!(
                "{}, {} of {}, {}",
                units::one_line(&artifact.name),
                units::bytes(artifact.stored_bytes),
                units::bytes(artifact.plain_bytes),
                artifact.compression,
            ),
        );
        for recipient in artifact.sealed.iter().flat_map(|seal| &seal.to) {
            lines.add("sealed to", &units::one_line(recipient));
        }
        lines.add("sha-256", &format!("{} as stored", artifact.stored_sha256));
        lines.add("", &format!("{} plain", artifact.plain_sha256));
    }
}

/// A value of an enum as manifests write it.
fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "{name:<16} {value}");
    }
}
