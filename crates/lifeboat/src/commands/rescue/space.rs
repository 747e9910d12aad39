//! A full disk: what may be deleted safely, with the bytes of each. Nothing goes without a plan and
//! a yes.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lifeboat_core::adopt::{Occasion, read_name};
use lifeboat_core::env::Env;
use lifeboat_core::prune::{self, Action};
use lifeboat_core::source::Engine as _;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::SqliteEngine;
use serde_json::json;

use super::leftovers::{self, is_unlocked};
use super::look::{entries, opened};
use super::steps::Step;
use super::tighter;
use crate::repositories;
use crate::rotation::Rule;
use crate::session::Session;
use crate::sources::{self, Target};
use crate::ui::confirm::confirm;
use crate::ui::units;

/// What a restore kept aside is old after so long.
const KEPT_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The copy before a migration, as the guide has it.
const MIGRATION_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many copies before migrations stay, the newest, however old.
const MIGRATIONS_MIN: usize = 2;
/// A scratch file without a lock is of a run that was killed after so long.
const SCRATCH_AGE: Duration = Duration::from_secs(3600);

/// Something that may go.
struct Item {
    /// What it is, for a person.
    what: String,
    bytes: u64,
    steps: Vec<Step>,
}

/// Looks, asks, and deletes.
pub(super) fn run(
    session: &Session,
    env: &Env,
    target: Option<&Target>,
    take: Option<usize>,
) -> Result<ExitCode> {
    let targets = match target {
        Some(_) => Vec::new(),
        None => Target::all(&session.loaded()?.config)?,
    };
    let targets: Vec<&Target> = target.into_iter().chain(&targets).collect();
    let mut notes = Vec::new();
    let mut items = Vec::new();
    for target in &targets {
        items.extend(beside(target)?);
        notes.extend(writers(target));
    }
    items.extend(scratch(session));
    items.extend(abandoned(session)?);
    let opened = opened(session, env, &mut notes);
    for target in &targets {
        for (one, entry) in entries(env, target, &opened) {
            let Some(rule) = Rule::of(&one.place, target, None) else {
                notes.push(format!(
                    "everything of {} stays in {}: write `keep`, then lifeboat prune",
                    target.name,
                    one.place.label()
                ));
                continue;
            };
            let request = rule.request(session, env, &one.repository, &entry.folder);
            let plan = prune::plan(env, &one.repository, &request)?;
            let of = |action| {
                let those = plan.items.iter().filter(move |item| item.action == action);
                those.map(|item| item.stored_bytes).sum::<u64>()
            };
            if of(Action::Mark) + of(Action::Delete) > 0 {
                let words = ["prune", &target.name, "--repo", one.place.label()];
                items.push(Item {
                    what: format!(
                        "what `keep` of {} does not keep in {}: {} now, {} after {:#}",
                        target.name,
                        one.place.label(),
                        units::bytes(of(Action::Delete)),
                        units::bytes(of(Action::Mark)),
                        plan.grace
                    ),
                    bytes: of(Action::Delete) + of(Action::Mark),
                    steps: vec![Step::command(&words)],
                });
            }
            notes.extend(tighter::note(env, one, (target, entry), &request)?);
        }
        notes.extend(logs(target));
    }
    session.progress.clear();
    conclude(session, env, &targets, (&items, &notes), take)
}

fn conclude(
    session: &Session,
    env: &Env,
    targets: &[&Target],
    (items, notes): (&[Item], &[String]),
    take: Option<usize>,
) -> Result<ExitCode> {
    let printer = &session.printer;
    let systems = file_systems(session, targets);
    match printer.json() {
        true => {
            let list = items.iter().enumerate().map(|(index, item)| {
                json!({
                    "number": index + 1, "what": item.what, "bytes": item.bytes,
                    "steps": item.steps.iter().map(Step::text).collect::<Vec<_>>(),
                })
            });
            let list: Vec<_> = list.collect();
            printer.json_data(&json!({
                "outcome": "looked", "file_systems": systems, "items": list, "notes": notes,
            }))?;
        }
        false => printer.data(&text(&systems, items, notes))?,
    }
    let chosen: Vec<&Item> = match take {
        Some(number) => {
            let one = number.checked_sub(1).and_then(|index| items.get(index));
            vec![one.ok_or_else(|| {
                Error::new(Kind::Usage, format!("the list has no number {number}"))
                    .hint("run it without --take first")
            })?]
        }
        None if session.globals.yes || session.surroundings.stdin_is_terminal => {
            items.iter().collect()
        }
        None => return Ok(ExitCode::SUCCESS),
    };
    if chosen.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        let bytes = chosen.iter().map(|item| item.bytes).sum();
        let question = format!("deleting {}", units::bytes(bytes));
        confirm(&session.surroundings, printer, &question, "delete")?;
    }
    // Who writes is stopped first, and started when there is room.
    let services: Vec<_> = targets.iter().filter_map(|target| target.service.as_ref()).collect();
    let mut stopped = Vec::new();
    for service in services {
        stopped.push(service.stop(env)?);
    }
    for step in chosen.iter().flat_map(|item| &item.steps) {
        env.proceed()?;
        printer.note(&format!("-> {}", step.text()));
        step.take(session, env, None)?;
    }
    stopped.into_iter().try_for_each(|stopped| stopped.start())?;
    let gone: u64 = chosen.iter().map(|item| item.bytes).sum();
    printer.note(&format!(
        "{} of {} things are gone, {}",
        chosen.len(),
        items.len(),
        units::bytes(gone)
    ));
    Ok(ExitCode::SUCCESS)
}

fn text(systems: &BTreeMap<String, String>, items: &[Item], notes: &[String]) -> String {
    let mut text = String::new();
    for (place, space) in systems {
        text.push_str(&format!("{}: {space}\n", units::one_line(place)));
    }
    text.push_str("\nwhat may be deleted:\n");
    for (index, item) in items.iter().enumerate() {
        let (bytes, what) = (units::bytes(item.bytes), units::one_line(&item.what));
        text.push_str(&format!("  {}. {bytes:>7}  {what}\n", index + 1));
        for step in &item.steps {
            text.push_str(&format!("              {}\n", units::one_line(&step.text())));
        }
    }
    if items.is_empty() {
        text.push_str("  nothing that is ours to delete\n");
    }
    for note in notes {
        text.push_str(&format!("note: {}\n", units::one_line(note)));
    }
    text
}

/// How full each place is that a run writes to.
fn file_systems(session: &Session, targets: &[&Target]) -> BTreeMap<String, String> {
    let mut places: Vec<PathBuf> =
        targets.iter().filter_map(|target| target.path.clone()).collect();
    places.push(session.folders.scratch.clone());
    places.extend(folders_of_repositories(session));
    let mut systems = BTreeMap::new();
    for place in places {
        let absolute = std::path::absolute(&place).unwrap_or(place);
        let Some(there) = absolute.ancestors().find(|path| path.exists()) else { continue };
        let Ok(space) = rustix::fs::statvfs(there) else { continue };
        let (free, all) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
        let space = format!("{} free of {}", units::bytes(free), units::bytes(all));
        systems.insert(absolute.display().to_string(), space);
    }
    systems
}

pub(super) fn folders_of_repositories(session: &Session) -> Vec<PathBuf> {
    let places = repositories::places(session).unwrap_or_default();
    let local = places.iter().filter_map(|place| place.url.strip_prefix("file://"));
    local.filter_map(|path| lifeboat_stores::path_of_url(path).ok()).collect()
}

/// Who writes to the database.
fn writers(target: &Target) -> Vec<String> {
    let Some(path) = &target.path else { return Vec::new() };
    let mut names: Vec<String> = SqliteEngine
        .holders(path)
        .unwrap_or_default()
        .into_iter()
        .map(|holder| format!("{} ({})", holder.name, holder.pid))
        .collect();
    names.dedup();
    match (&target.service, names.is_empty()) {
        (Some(service), _) => vec![format!(
            "{} writes to {}: it is stopped while things are deleted, and started then",
            service.name, target.name
        )],
        (None, false) => {
            vec![format!("{} writes to {}: stop it first", names.join(", "), target.name)]
        }
        (None, true) => Vec::new(),
    }
}

/// Files of the database's folder: what restores and migrations kept, and what was left half-way.
fn beside(target: &Target) -> Result<Vec<Item>> {
    let Some(path) = &target.path else { return Ok(Vec::new()) };
    let place = sources::place_of(path)?;
    let folder = place.parent().unwrap_or(Path::new("/"));
    let base = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut kept, mut migrations, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(found) = entry.metadata() else { continue };
        if !found.is_file() {
            continue;
        }
        let aside = [".before_restore.", ".before_undo."];
        let aside = aside
            .iter()
            .chain(leftovers::LABELS)
            .any(|label| name.strip_prefix(&base).is_some_and(|rest| rest.starts_with(label)));
        let migration = read_name(&name).is_ok_and(|script| {
            script.base == base && matches!(script.occasion, Occasion::Migration(_))
        });
        if name == format!(".{base}.lifeboat-staging") && is_unlocked(&entry.path()) {
            items.push(item("of a restore that was killed", &entry.path(), &found));
        } else if aside && is_older(&found, KEPT_AGE) {
            kept.push((entry.path(), found));
        } else if migration {
            migrations.push((entry.path(), found));
        }
    }
    items.extend(
        kept.iter().map(|(path, found)| {
            item("kept by a restore or rescue, older than 7 days", path, found)
        }),
    );
    // The newest stay, however old they are: they are what a rollback of a migration needs.
    migrations.sort_by_key(|(_, found)| std::cmp::Reverse(found.modified().ok()));
    let old = migrations.iter().skip(MIGRATIONS_MIN);
    let old = old.filter(|(_, found)| is_older(found, MIGRATION_AGE));
    items.extend(old.map(|(path, found)| {
        item(
            "a copy before a migration, older than 30 days, and not of the two newest",
            path,
            found,
        )
    }));
    Ok(items)
}

fn item(what: &str, path: &Path, found: &Metadata) -> Item {
    Item {
        what: format!("{}: {what}", path.display()),
        bytes: found.blocks() * 512,
        steps: vec![Step::Remove(path.to_owned())],
    }
}

fn is_older(found: &Metadata, age: Duration) -> bool {
    let elapsed = found.modified().ok().and_then(|modified| modified.elapsed().ok());
    elapsed.is_some_and(|elapsed| elapsed > age)
}

/// What killed runs left in the scratch folder.
fn scratch(session: &Session) -> Vec<Item> {
    let own = rustix::process::geteuid().as_raw();
    let entries = fs::read_dir(&session.folders.scratch).into_iter().flatten().flatten();
    let left = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours =
            name.starts_with("lifeboat-scratch-") && found.is_file() && found.uid() == own;
        (is_ours && is_older(&found, SCRATCH_AGE))
            .then(|| item("of a check that was killed", &entry.path(), &found))
    });
    left.collect()
}

/// Objects of local repositories that were never finished: `.NAME.<16 digits>.part`.
fn abandoned(session: &Session) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for root in folders_of_repositories(session) {
        if root.join("lifeboat.json").is_file() {
            parts(&root, &mut items);
        }
    }
    Ok(items)
}

fn parts(folder: &Path, items: &mut Vec<Item>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Ok(found) = entry.metadata() else { continue };
        let digits = name.strip_suffix(".part").and_then(|rest| rest.rsplit_once('.'));
        let is_part = name.starts_with('.')
            && digits.is_some_and(|(_, digits)| {
                digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
        if found.is_dir() {
            parts(&path, items);
        } else if is_part && found.is_file() && is_unlocked(&path) {
            items.push(item("of a backup that was killed", &path, &found));
        }
    }
}

/// Logs beside the database, which the guide compresses: by hand, as nobody knows who writes them.
fn logs(target: &Target) -> Option<String> {
    let place = sources::place_of(target.path.as_deref()?).ok()?;
    let folder = place.parent()?;
    let logs = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "log"));
    let bytes: u64 = logs.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
    (bytes > 0).then(|| {
        let word = units::shell_word(&folder.to_string_lossy());
        format!(
            "logs in {word} have {}: gzip {word}/*.log while nobody writes them",
            units::bytes(bytes)
        )
    })
}
