//! All backups are lost: a new one at once, to where there is room, read back and checked in full,
//! then copied to wherever else a repository answers.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::scratch::free_bytes;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::offers::{Facts, Live, Verdict};
use super::steps::Step;
use super::tell;
use crate::repositories;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::confirm::confirm;
use crate::ui::units;
use crate::world;

/// Looks, then does it.
pub(super) fn run(
    session: &Session,
    env: &Env,
    target: &Target,
    what: &str,
    (facts, verdict): (&Facts, &Verdict),
) -> Result<ExitCode> {
    let printer = &session.printer;
    if !matches!(facts.live, Live::Sound(_) | Live::Unfinished) {
        if printer.json() {
            printer.json_data(&tell::as_json(facts, verdict))?;
        } else {
            printer.data(&tell::text(session, facts, verdict))?;
        }
        let message = format!("{}: {}", facts.place, verdict.diagnosis);
        let hint = format!(
            "bring the database back first: lifeboat rescue {} --take 1; then this again",
            units::shell_word(what)
        );
        return Err(Error::new(Kind::CheckFailed, message).hint(hint));
    }
    let (first, others) = places(session, env, target, facts)?;
    let mut steps = vec![
        Step::command(&["backup", what, "--repo", &first, "--check", "full"]),
        Step::command(&["verify", &target.name, "--repo", &first, "--level", "full"]),
    ];
    steps.extend(
        others
            .iter()
            .map(|other| Step::command(&["copy", &target.name, "--from", &first, "--to", other])),
    );
    if !session.globals.yes {
        let mut text = format!("{}: {}\nwhat is to be done now:\n", facts.place, verdict.diagnosis);
        for (index, step) in steps.iter().enumerate() {
            text.push_str(&format!("  {}. {}\n", index + 1, step.text()));
        }
        for note in &facts.notes {
            text.push_str(&format!("note: {}\n", units::one_line(note)));
        }
        match printer.json() {
            true => printer.json_data(&json!({
                "outcome": "planned",
                "steps": steps.iter().map(Step::text).collect::<Vec<_>>(),
            }))?,
            false => printer.data(&text)?,
        }
        let question = format!("backing up {}", units::one_line(&target.name));
        confirm(&session.surroundings, printer, &question, &target.name)?;
    }
    for step in &steps {
        printer.note(&format!("-> {}", step.text()));
        step.take(session, env, None)?;
    }
    if others.is_empty() {
        printer.note(
            "there is one copy now, and it may be on the disk of the database: configure a second \
             repository, then lifeboat copy",
        );
    }
    printer.note("why the others are lost is worth a look: lifeboat doctor");
    Ok(ExitCode::SUCCESS)
}

/// The repository that takes the first backup, and the others that answer.
fn places(
    session: &Session,
    env: &Env,
    target: &Target,
    facts: &Facts,
) -> Result<(String, Vec<String>)> {
    let needed = match &target.path {
        Some(path) => fs::metadata(path).map_or(0, |found| found.len()),
        None => target.source.inspect().map_or(0, |found| found.plain_bytes),
    };
    let mut working = Vec::new();
    for place in repositories::places(session)? {
        // One that is damaged is left as it is: what can be had of it is for a calmer hour.
        let opened = place.open(env).and_then(|repository| repository.catalog().map(drop));
        let is_usable = match opened {
            Ok(()) => true,
            Err(error) => error.kind() == Kind::NoRepository && is_empty(&place.url),
        };
        let room = place.store(env).and_then(|store| store.space()).ok().flatten();
        let has_room = room.is_none_or(|room| room.free_bytes > needed);
        if is_usable && has_room {
            working.push(place.name.unwrap_or(place.url));
        }
    }
    if !working.is_empty() {
        let first = working.remove(0);
        return Ok((first, working));
    }
    let default = world::default_repository(&session.surroundings);
    let beside = Path::new(&facts.place).parent().map(|folder| folder.join("lifeboat-emergency"));
    for folder in default.into_iter().chain(beside) {
        let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let has_room = free_bytes(existing).is_ok_and(|free| free > needed);
        let is_free = !folder.exists() || is_empty(&repositories::local_url(&folder));
        if has_room && is_free {
            return Ok((repositories::local_url(&folder), Vec::new()));
        }
    }
    Err(Error::new(Kind::NoSpace, "no place was found that could take a backup")
        .hint("name one: lifeboat rescue --lost-backups --repo /mnt/other/disk"))
}

/// Whether nothing is in a folder, so that a repository may be made there.
fn is_empty(url: &str) -> bool {
    let Some(path) = url.strip_prefix("file://").map(lifeboat_stores::path_of_url) else {
        return true;
    };
    let Ok(path) = path else { return false };
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}
