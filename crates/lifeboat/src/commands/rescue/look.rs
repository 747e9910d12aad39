//! Looks at a SQLite database and at everything that could take its place. Changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome, Condition, Manifest, Purpose};
use lifeboat_core::moment::compact;
use lifeboat_core::source::Engine as _;
use lifeboat_core::{Kind, Result};
use lifeboat_salvage::{Request, examine};
use lifeboat_sqlite::{KIND, Probe, SqliteEngine, glance};

use super::leftovers;
use super::offers::{Copy, Facts, Live, Salvage, Way};
use super::scripts;
use super::steps::Step;
use crate::config::diagnose::shown;
use crate::logs;
use crate::repositories::{self, Opened};
use crate::selection;
use crate::session::Session;
use crate::sources::{self, Target};

/// So many good backups of a repository are offered, the newest first.
const BACKUPS_MAX: usize = 2;

/// Gathers the facts of a database.
pub(super) fn look(
    session: &Session,
    env: &Env,
    target: &Target,
    look_in: &[PathBuf],
) -> Result<Facts> {
    let place = match &target.path {
        Some(path) => sources::place_of(path)?,
        None => PathBuf::from(target.location()?),
    };
    let mut notes = Vec::new();
    let live = live(env, &place, target.options.check_memory_bytes);
    let opened = opened(session, env, &mut notes);
    let mut copies = of_repositories(env, target, &place, &opened, &mut notes);
    copies.extend(scripts::look(session, env, target, &place, look_in, &mut notes));
    let is_gone = !matches!(live, Live::Sound(_) | Live::Unfinished);
    if is_gone && let Some(upon) = with_wal(env, &place, &opened, target) {
        copies.push(upon);
    }
    let written = written(&place);
    let salvage = match live {
        Live::Sound(_) | Live::Missing | Live::Unreadable(_) => None,
        Live::Unfinished | Live::Damaged(_) => {
            Some(salvage(session, env, &place, donor(session, env, target, &opened)))
        }
    };
    let holders = SqliteEngine.holders(&place)?;
    notes.extend(holders.iter().map(|holder| {
        let path = shown(&holder.path);
        match &target.service {
            Some(service) => format!(
                "{} ({}) has {path} open: {} is stopped first",
                holder.name, holder.pid, service.name
            ),
            None => format!("{} ({}) has {path} open: stop it first", holder.name, holder.pid),
        }
    }));
    notes.extend(leftovers::find(&place).iter().map(|path| leftovers::note(path)));
    let sides = SqliteEngine.side_files(&place);
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    let fresh = is_there(&place) || sides.iter().any(|side| is_there(side));
    Ok(Facts {
        now: env.clock.now(),
        name: target.name.clone(),
        place: place.to_string_lossy().into_owned(),
        live,
        written,
        copies,
        salvage,
        fresh: (fresh && is_gone).then_some(place),
        notes,
    })
}

/// What stands at the place.
fn live(env: &Env, place: &Path, check_memory_bytes: u64) -> Live {
    if fs::symlink_metadata(place).is_err() {
        return Live::Missing;
    }
    match glance(place) {
        Ok(Some(_)) => {}
        Ok(None) => return Live::Damaged("the file is no database as it is".to_owned()),
        Err(error) => return Live::Unreadable(error.to_string()),
    }
    if is_alone(place) {
        return alone(env, place, check_memory_bytes);
    }
    let mut probe = match Probe::open(place) {
        Ok(probe) => probe,
        Err(error) if error.kind() == Kind::CheckFailed => return Live::Damaged(error.to_string()),
        Err(error) if error.message().contains("within a transaction") => return Live::Unfinished,
        Err(error) => return Live::Unreadable(error.to_string()),
    };
    match probe.check(env, CheckLevel::Quick, check_memory_bytes) {
        Ok(report) if report.outcome == CheckOutcome::Failed || !report.damage.is_empty() => {
            let lines: Vec<&str> = report.damage.iter().take(2).map(String::as_str).collect();
            Live::Damaged(lines.join("; "))
        }
        Ok(_) => Live::Sound(probe.rows().map(|rows| rows.values().sum())),
        Err(error) => Live::Damaged(error.to_string()),
    }
}

/// Whether the file is all of the database, and nobody uses it: then it can be looked at without a
/// trace.
fn is_alone(place: &Path) -> bool {
    let has_content = |side: &PathBuf| fs::metadata(side).is_ok_and(|found| found.len() > 0);
    let is_held = SqliteEngine.holders(place).is_ok_and(|holders| !holders.is_empty());
    !is_held && !SqliteEngine.side_files(place).iter().any(has_content)
}

fn alone(env: &Env, place: &Path, memory_bytes: u64) -> Live {
    match state(env, place, memory_bytes) {
        Err(why) => Live::Damaged(why),
        Ok(()) => {
            let described = SqliteEngine.describe_file(place).ok();
            let rows = described.and_then(|described| described.rows);
            Live::Sound(rows.map(|rows| rows.values().sum()))
        }
    }
}

/// When the database or its `-wal` was written last.
fn written(place: &Path) -> Option<Timestamp> {
    let modified =
        |path: &Path| Timestamp::try_from(fs::metadata(path).ok()?.modified().ok()?).ok();
    let sides = SqliteEngine.side_files(place);
    // A reader writes to the -shm.
    let kept = sides.iter().filter(|side| !side.to_string_lossy().ends_with("-shm"));
    kept.map(PathBuf::as_path).chain([place]).filter_map(modified).max()
}

/// The repositories that can be read; of the others it is said why not.
pub(super) fn opened(session: &Session, env: &Env, notes: &mut Vec<String>) -> Vec<Opened> {
    let places = match repositories::places(session) {
        Ok(places) => places,
        Err(error) => {
            notes.push(format!("no repository could be looked at: {error}"));
            return Vec::new();
        }
    };
    let mut opened = Vec::new();
    for place in places {
        let read = place.open(env).and_then(|repository| Ok((repository.catalog()?, repository)));
        match read {
            Ok((catalog, repository)) => opened.push(Opened { place, repository, catalog }),
            Err(error) => notes.push(format!("{} was not looked at: {error}", place.label())),
        }
    }
    opened
}

/// The source's folder in each repository that has one.
pub(super) fn entries<'a>(
    env: &Env,
    target: &Target,
    opened: &'a [Opened],
) -> Vec<(&'a Opened, &'a SourceEntry)> {
    let own = |one: &'a Opened| {
        let own = selection::own_entry(env, one, target).ok().flatten();
        Some((one, own.or_else(|| one.catalog.source(&target.name).ok())?))
    };
    opened.iter().filter_map(own).collect()
}

/// Backups that a check called good, newest first; not what a restore was about to replace.
pub(super) fn good(entry: &SourceEntry) -> impl Iterator<Item = &Manifest> {
    entry.backups.iter().rev().filter(|backup| {
        backup.condition == Condition::Good && backup.purpose != Some(Purpose::BeforeRestore)
    })
}

fn of_repositories(
    env: &Env,
    target: &Target,
    place: &Path,
    opened: &[Opened],
    notes: &mut Vec<String>,
) -> Vec<Copy> {
    let mut copies = Vec::new();
    for (one, entry) in entries(env, target, opened) {
        let label = one.place.label();
        match logs::newest(&one.repository, entry) {
            Ok(Some((state, moment))) => {
                let copy = of_backup(target, place, one, (&state, None), moment.until);
                copies.push(Copy { title: format!("{state} of {label}, by its log"), ..copy });
            }
            Ok(None) => {}
            Err(error) => notes.push(format!("the log in {label} was not looked at: {error}")),
        }
        copies.extend(good(entry).take(BACKUPS_MAX).map(|backup| {
            of_backup(target, place, one, (&backup.name, Some(backup)), backup.taken_at)
        }));
        // The copy before a migration is offered even where newer backups are.
        let before = good(entry).skip(BACKUPS_MAX);
        let mut before = before.filter(|backup| backup.purpose == Some(Purpose::Migration));
        copies.extend(before.next().map(|backup| {
            of_backup(target, place, one, (&backup.name, Some(backup)), backup.taken_at)
        }));
    }
    copies
}

fn of_backup(
    target: &Target,
    place: &Path,
    one: &Opened,
    (name, backup): (&str, Option<&Manifest>),
    as_of: Timestamp,
) -> Copy {
    let label = one.place.label();
    let is_migration = backup.is_some_and(|backup| backup.purpose == Some(Purpose::Migration));
    let rows = backup.and_then(|backup| backup.rows.as_ref()).map(|rows| rows.values().sum());
    let mut words = vec!["restore", name, "--repo", label];
    let place = place.to_string_lossy();
    let is_elsewhere =
        backup.is_none_or(|backup| backup.source.location != place) && target.path.is_some();
    if is_elsewhere {
        words.extend(["--to", &place]);
    }
    let what = if is_migration { "before a migration" } else { "a backup" };
    Copy {
        way: if is_migration { Way::Migration } else { Way::Backup },
        title: format!("{name} of {label}, {what}"),
        as_of,
        rows,
        unsound: None,
        notes: Vec::new(),
        steps: vec![Step::command(&words)],
    }
}

/// The newest good backup with the `-wal` that lies at the place upon it: what was committed since
/// the database's own file was last complete. Whether it fits is proved when it is done.
fn with_wal(env: &Env, place: &Path, opened: &[Opened], target: &Target) -> Option<Copy> {
    let wal = PathBuf::from(format!("{}-wal", place.display()));
    let copy = lifeboat_sqlite::WalCopy::open(&wal, place).ok()?;
    drop(copy);
    let written = Timestamp::try_from(fs::metadata(&wal).ok()?.modified().ok()?).ok()?;
    let of_all = entries(env, target, opened).into_iter();
    let newest = of_all.filter_map(|(one, entry)| Some((one, good(entry).next()?)));
    let (one, backup) = newest.max_by_key(|(_, backup)| backup.taken_at)?;
    let place = place.to_string_lossy();
    let base = free_name(env, &format!("{place}.rescue"));
    let label = one.place.label();
    Some(Copy {
        way: Way::Wal,
        title: format!("{} of {label}, and the -wal that is still there upon it", backup.name),
        as_of: written,
        rows: None,
        unsound: None,
        notes: Vec::new(),
        steps: vec![
            Step::command(&["restore", &backup.name, "--repo", label, "--to", &base]),
            Step::command(&["restore", &base, "--wal", &wal.to_string_lossy(), "--to", &place]),
            Step::Remove(base.clone().into()),
        ],
    })
}

/// The newest state that can be restored here, and the repository that has it.
fn donor<'a>(
    session: &Session,
    env: &Env,
    target: &Target,
    opened: &'a [Opened],
) -> Option<(String, &'a str)> {
    let has_keys = session.keys().is_ok_and(|keys| keys.is_some());
    let newest = |(one, entry): (&'a Opened, &'a SourceEntry)| {
        let backup = good(entry).next()?;
        let is_sealed = backup.artifacts.iter().any(|artifact| artifact.sealed.is_some());
        let of_backup = (backup.taken_at, backup.name.clone());
        let state = logs::newest(&one.repository, entry).ok().flatten();
        let state = state.map(|(name, moment)| (moment.until, name));
        let (until, name) = state.into_iter().chain([of_backup]).max()?;
        (!is_sealed || has_keys).then(|| (until, name, one.place.label()))
    };
    let found = entries(env, target, opened).into_iter().filter_map(newest);
    found.max().map(|(_, name, label)| (name, label))
}

/// A name with the time of day that nothing has: a run that was killed may have left one.
fn free_name(env: &Env, begin: &str) -> String {
    let name = format!("{begin}-{}", compact(env.clock.now()));
    let more = (2..).map(|number| format!("{name}-{number}"));
    let is_free = |name: &String| fs::symlink_metadata(name).is_err();
    std::iter::once(name.clone()).chain(more).find(is_free).unwrap_or(name)
}

/// What a salvage would give.
fn salvage(
    session: &Session,
    env: &Env,
    place: &Path,
    donor: Option<(String, &str)>,
) -> Result<Salvage, String> {
    let scratch = &session.folders.scratch;
    fs::create_dir_all(scratch).map_err(|error| error.to_string())?;
    let to = scratch.join(format!("lifeboat-rescue-{}", env.new_uuid().simple()));
    let request =
        Request { database: place, to: &to, donor: None, merge_rows: false, deleted: false };
    let report = examine(env, &request).map_err(|error| error.to_string())?;
    let total = report.total();
    let place = place.to_string_lossy();
    let new = free_name(env, &format!("{place}.salvaged"));
    let mut words: Vec<String> =
        ["salvage", &place, "--to", &new].iter().map(|word| (*word).to_owned()).collect();
    if let Some((donor, label)) = donor.filter(|_| !report.is_whole()) {
        let more = ["--donor", &donor, "--merge-rows", "--repo", label];
        words.extend(more.map(str::to_owned));
    }
    let make = if report.is_whole() { Step::Command(words) } else { Step::Partial(words) };
    Ok(Salvage {
        rows: total.rows(),
        doubtful: total.uncertain + total.altered,
        lost: total.lost,
        lost_pages: report.tables.iter().map(|table| table.lost_pages).sum(),
        is_whole: report.is_whole(),
        steps: vec![
            make,
            Step::command(&["restore", &new, "--to", &place]),
            Step::Remove(new.clone().into()),
        ],
    })
}

/// A database that only a repository knows any more, by its name there or by its place.
pub(super) fn remembered(session: &Session, env: &Env, what: &str) -> Option<Target> {
    let opened = opened(session, env, &mut Vec::new());
    let place = sources::place_of(Path::new(what)).ok()?;
    let is_it = |entry: &&SourceEntry| {
        let record = &entry.record;
        let by_place = record.host == env.host && Path::new(&record.location) == place;
        record.kind == KIND && (by_place || record.name == what || entry.folder == what)
    };
    let found = opened.iter().flat_map(|one| &one.catalog.sources).find(is_it);
    // What nobody knows may still have copies beside it.
    let (name, path) = match found {
        Some(entry) => (entry.record.name.clone(), PathBuf::from(&entry.record.location)),
        None if what.contains('/') && place.parent().is_some_and(Path::is_dir) => {
            (sources::name_of(&place), place)
        }
        None => return None,
    };
    Some(Target::database(name, path))
}

/// Whether a file that nobody has open passes a check, as it is without its side files.
pub(super) fn state(env: &Env, path: &Path, memory_bytes: u64) -> Result<(), String> {
    let report = SqliteEngine.check_file(env, path, CheckLevel::Quick, memory_bytes);
    let report = report.map_err(|error| error.to_string())?;
    match report.outcome == CheckOutcome::Failed || !report.damage.is_empty() {
        true => Err(report.damage.into_iter().take(2).collect::<Vec<_>>().join("; ")),
        false => Ok(()),
    }
}
