//! Copies that no repository knows: what restores and migrations kept beside the database, and
//! what scripts left in the usual folders, files of SQLite and dumps of a server's database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::adopt::{
    self, Candidate, Content, Known, KnownSource, Look, LookOptions, Occasion, Seen,
};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{UndoRequest, undo_plan};
use lifeboat_sqlite::SqliteEngine;

use super::offers::{Copy, Way};
use super::space::folders_of_repositories;
use super::steps::Step;
use crate::postgres::Database;
use crate::session::Session;
use crate::sources::{self, Target};

/// Folders where scripts put backups, and where one more level is looked into.
const USUAL: &[&str] = &["/var/backups", "/backups", "/data/backups", "/srv/backups"];

/// So many of a kind are looked into, the newest first: each is decompressed and checked.
const LOOKED_INTO_MAX: usize = 2;

/// The database that is lost, as scripts knew it.
struct Lost<'a> {
    target: &'a Target,
    content: Content,
    /// Its file, or its name on the server.
    path: PathBuf,
    /// Where it goes back to, as `restore --to` takes it.
    to: String,
}

/// Copies of a SQLite database, newest first within their kind.
pub(super) fn look(
    session: &Session,
    env: &Env,
    target: &Target,
    place: &Path,
    look_in: &[PathBuf],
    notes: &mut Vec<String>,
) -> Vec<Copy> {
    let beside = place.parent().unwrap_or(Path::new("/"));
    let mut folders = vec![beside.to_owned(), beside.join("backups")];
    folders.extend(usual(session, target));
    let to = place.to_string_lossy().into_owned();
    let lost = Lost { target, content: Content::Sqlite, path: place.to_owned(), to };
    let mut copies: Vec<Copy> = kept(env, target, place).into_iter().collect();
    copies.extend(search(session, env, &lost, (&folders, look_in), notes));
    copies
}

/// Dumps of a server's database that scripts made, newest first.
pub(super) fn dumps(
    session: &Session,
    env: &Env,
    (target, database): (&Target, &Database),
    look_in: &[PathBuf],
    notes: &mut Vec<String>,
) -> Vec<Copy> {
    let path = PathBuf::from(database.address().database().unwrap_or(&target.name));
    let lost = Lost { target, content: Content::Dump, path, to: database.address().url() };
    search(session, env, &lost, (&usual(session, target), look_in), notes)
}

fn search(
    session: &Session,
    env: &Env,
    lost: &Lost<'_>,
    (folders, look_in): (&[PathBuf], &[PathBuf]),
    notes: &mut Vec<String>,
) -> Vec<Copy> {
    let mut seen = BTreeMap::new();
    let there = folders.iter().filter(|folder| folder.is_dir());
    for folder in there.chain(look_in) {
        match adopt::survey(std::slice::from_ref(folder), false) {
            Ok(found) => seen.extend(found.into_iter().map(|seen| (seen.path.clone(), seen))),
            // A repository of ours is looked at as one.
            Err(_) if !look_in.contains(folder) => {}
            Err(error) => notes.push(error.to_string()),
        }
    }
    let known = [KnownSource {
        name: lost.target.name.clone(),
        kind: lost.content.kind().to_owned(),
        path: Some(lost.path.clone()),
        pattern: lost.target.pattern.clone(),
    }];
    let mut candidates: Vec<Candidate> = seen
        .into_values()
        .filter_map(|seen| candidate(session, env, seen))
        .filter(|found| {
            let folder = found.path.parent().unwrap_or(Path::new("/"));
            found.script.content == lost.content
                && !adopt::candidates(&found.script, folder, &known).is_empty()
        })
        .collect();
    candidates.sort_by_key(|found| std::cmp::Reverse(found.decided.taken_at));
    let mut copies = Vec::new();
    let mut counts = BTreeMap::new();
    for candidate in &candidates {
        let way = way(&candidate.script.occasion);
        let count = counts.entry(way).or_insert(0);
        *count += 1;
        if *count <= LOOKED_INTO_MAX {
            copies.push(of_file(session, env, lost, candidate));
        }
    }
    let more: usize = counts.values().map(|count| count.saturating_sub(LOOKED_INTO_MAX)).sum();
    if more > 0 {
        notes.push(format!("{more} older copies of scripts were not looked into"));
    }
    copies
}

fn way(occasion: &Occasion) -> Way {
    match occasion {
        Occasion::Schedule => Way::Backup,
        Occasion::Migration(_) => Way::Migration,
        Occasion::BeforeRestore => Way::Kept,
    }
}

/// Folders where scripts put backups, and those of our repositories: whoever had a script before
/// took the same one.
fn usual(session: &Session, target: &Target) -> Vec<PathBuf> {
    let local = folders_of_repositories(session);
    let usual = USUAL.iter().map(PathBuf::from).chain(local);
    usual.flat_map(|folder| [folder.join(&target.name), folder]).collect()
}

fn candidate(session: &Session, env: &Env, seen: Seen) -> Option<Candidate> {
    let (script, stat) = (seen.name.ok()?, seen.stat?);
    let zone = &session.surroundings.time_zone;
    let decided = adopt::decide(script.local, zone, stat.modified, env.clock.now()).ok()?;
    Some(Candidate { path: seen.path, stat, script, decided })
}

/// A file of a script, looked into.
fn of_file(session: &Session, env: &Env, lost: &Lost<'_>, candidate: &Candidate) -> Copy {
    let engines = sources::engines();
    let options = LookOptions {
        engines: &engines,
        check: CheckLevel::Quick,
        check_memory_bytes: lost.target.options.check_memory_bytes,
        scratch_folder: &session.folders.scratch,
    };
    let path = candidate.path.to_string_lossy();
    let (mut rows, mut unsound, mut notes) = (None, None, Vec::new());
    match adopt::look(env, candidate, &Known::default(), &options) {
        Ok(Look::Sound(sound)) => {
            rows = sound.description.rows.as_ref().map(|rows| rows.values().sum());
            notes = sound.notes;
        }
        Ok(Look::Known(_)) => {}
        Ok(Look::Left(_, why)) => unsound = Some(why),
        Err(error) => unsound = Some(error.to_string()),
    }
    let what = match &candidate.script.occasion {
        Occasion::Schedule => "a backup of a script".to_owned(),
        Occasion::Migration(version) => format!("the copy before the migration from {version}"),
        Occasion::BeforeRestore => "kept before a restore of a script".to_owned(),
    };
    Copy {
        way: way(&candidate.script.occasion),
        title: format!("{path}, {what}"),
        as_of: candidate.decided.taken_at,
        rows,
        unsound,
        notes,
        steps: vec![Step::command(&["restore", &path, "--to", &lost.to])],
    }
}

/// What the last restore of ours kept aside.
fn kept(env: &Env, target: &Target, place: &Path) -> Option<Copy> {
    let service = target.service.as_ref();
    let request = UndoRequest { place: place.to_owned(), engine: &SqliteEngine, service };
    let plan = undo_plan(env, &request).ok()?;
    let (path, _) = plan.moves.first()?;
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    let mut unsound = None;
    // Its own -wal goes with it; a check of the file alone says too little then.
    let mut notes = Vec::new();
    let has_side_files = plan.moves.len() > 1;
    match super::look::state(env, path, target.options.check_memory_bytes) {
        Err(why) if has_side_files => notes.push(format!("looked at without its -wal: {why}")),
        Err(why) => unsound = Some(why),
        Ok(()) => {}
    }
    Some(Copy {
        way: Way::Kept,
        title: format!("{}, kept by the last restore", path.display()),
        as_of: Timestamp::try_from(modified).ok()?,
        rows: None,
        unsound,
        notes,
        steps: vec![Step::command(&["undo", &place.to_string_lossy()])],
    })
}
