//! Looks through well-known folders for files that may be databases, for `.env` files and for
//! the data folders of PostgreSQL.
//!
//! Breadth first over all of them, so that a bound that is reached costs the deepest places, and
//! symbolic links are not followed: what they lead to is found where it is.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Clock;

use super::{LeftOut, Search, rules};

/// Well-known places and how many folders deep each is looked into. `*` stands for every folder.
const PLACES: &[(&str, usize)] = &[
    ("/var/lib", 4),
    ("/var/lib/docker/volumes", 6),
    ("/var/www", 4),
    ("/var/local", 4),
    ("/var/opt", 4),
    ("/srv", 5),
    ("/opt", 5),
    ("/data", 5),
    ("/usr/local/var", 4),
    ("/home/*", 2),
    ("/home/*/.local/share", 4),
    ("/root", 2),
    ("/root/.local/share", 4),
];

/// How deep the home of whoever asks is looked into, below its data folder more.
const HOME_DEPTH: usize = 2;
const SHARE_DEPTH: usize = 4;

/// How deep a folder that was named is looked into, or the one where the program was started.
const NAMED_DEPTH: usize = 8;
const CURRENT_DEPTH: usize = 4;

/// More than so many reports of one kind help nobody.
const REPORTS_MAX: usize = 100;

/// What a walk found.
#[derive(Default)]
pub(super) struct Walked {
    /// Files that may be databases, by their names.
    pub(super) candidates: Vec<PathBuf>,
    /// `.env` files.
    pub(super) settings: Vec<PathBuf>,
    /// Data folders of PostgreSQL.
    pub(super) clusters: Vec<PathBuf>,
    /// Folders that were left out.
    pub(super) left_out: Vec<LeftOut>,
    /// What could not be looked at.
    pub(super) notes: Vec<String>,
}

/// Walks.
pub(super) fn walk(search: &Search, clock: &dyn Clock) -> Walked {
    let begun_ms = clock.monotonic_ms();
    let mut walker = Walker {
        search,
        walked: Walked::default(),
        seen: BTreeSet::new(),
        unreadable: Vec::new(),
        entries: 0,
    };
    let mut queue: VecDeque<(PathBuf, usize)> = starts(search).into();
    while let Some((folder, depth)) = queue.pop_front() {
        let elapsed_ms = clock.monotonic_ms().saturating_sub(begun_ms);
        if walker.entries >= search.entries_max || elapsed_ms > search.time_ms_max {
            walker.walked.notes.push(format!(
                "the search stopped at {} after {} names in {} s: name the folders that matter, \
                 lifeboat init DIR",
                folder.display(),
                walker.entries,
                elapsed_ms / 1000
            ));
            break;
        }
        if walker.seen.insert(folder.clone()) {
            let below = walker.folder(&folder);
            if depth > 0 {
                queue.extend(below.into_iter().map(|folder| (folder, depth - 1)));
            }
        }
    }
    walker.end()
}

/// Where to begin. What was named comes first, so that no bound keeps it from being seen.
fn starts(search: &Search) -> Vec<(PathBuf, usize)> {
    let mut starts: Vec<(PathBuf, usize)> =
        search.named.iter().map(|folder| (folder.clone(), NAMED_DEPTH)).collect();
    let current = search.current.iter().filter(|current| current.parent().is_some());
    starts.extend(current.map(|current| (current.clone(), CURRENT_DEPTH)));
    if let Some(home) = &search.home {
        starts.push((home.join(".local/share"), SHARE_DEPTH));
        starts.push((home.clone(), HOME_DEPTH));
    }
    for (place, depth) in PLACES {
        match place.split_once("/*") {
            None => starts.push((PathBuf::from(place), *depth)),
            Some((folder, rest)) => {
                let rest = rest.trim_start_matches('/');
                let folders = folders_in(search, Path::new(folder));
                starts.extend(folders.into_iter().map(|folder| match rest {
                    "" => (folder, *depth),
                    rest => (folder.join(rest), *depth),
                }));
            }
        }
    }
    // The deepest reach of a place counts, as each is looked into once.
    starts.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
    starts
}

fn folders_in(search: &Search, folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(search.real(folder)).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| folder.join(entry.file_name()))
        .collect();
    found.sort();
    found
}

struct Walker<'a> {
    search: &'a Search,
    walked: Walked,
    seen: BTreeSet<PathBuf>,
    unreadable: Vec<PathBuf>,
    entries: usize,
}

impl Walker<'_> {
    /// Looks at what is in a folder, and gives the folders below that are to be looked into.
    fn folder(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(self.search.real(folder)) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.unreadable.push(folder.to_owned());
                }
                return Vec::new();
            }
        };
        let mut names = BTreeSet::new();
        let mut folders = Vec::new();
        for entry in entries.flatten() {
            self.entries += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.file_name());
            } else if kind.is_file() {
                names.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if names.contains("lifeboat.json") {
            self.leave(folder, "a repository of backups");
            return Vec::new();
        }
        if names.contains("PG_VERSION") {
            self.walked.clusters.push(folder.to_owned());
            return Vec::new();
        }
        self.files(folder, &names);
        folders.sort();
        folders
            .into_iter()
            .map(|name| folder.join(name))
            .filter(|below| self.is_wanted(below))
            .collect()
    }

    fn files(&mut self, folder: &Path, names: &BTreeSet<String>) {
        for name in names {
            if name == ".env" {
                self.walked.settings.push(folder.join(name));
            }
            let sides = ["-wal", "-shm", "-journal"];
            if sides.iter().any(|side| name.ends_with(side)) {
                continue;
            }
            let in_use = sides.iter().any(|side| names.contains(&format!("{name}{side}")));
            if in_use || rules::may_be_database(name) || rules::copy(name).is_some() {
                self.walked.candidates.push(folder.join(name));
            }
        }
    }

    fn is_wanted(&mut self, below: &Path) -> bool {
        if self.search.named.iter().any(|named| named == below) {
            return true;
        }
        let name = below.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let by_place = match self.search.meant(below) {
            Some(_) => None,
            None => rules::place(below),
        };
        match by_place.or_else(|| rules::folder(&name)) {
            None => true,
            Some(reason) => {
                self.leave(below, reason);
                false
            }
        }
    }

    fn leave(&mut self, folder: &Path, reason: &str) {
        if self.walked.left_out.len() < REPORTS_MAX {
            let reason = reason.to_owned();
            self.walked.left_out.push(LeftOut { path: folder.to_owned(), reason });
        }
    }

    fn end(mut self) -> Walked {
        let shown: Vec<String> =
            self.unreadable.iter().take(3).map(|path| path.display().to_string()).collect();
        let count = self.unreadable.len();
        if count > 0 {
            let more = if count > shown.len() { ", ..." } else { "" };
            let folders = if count == 1 { "1 folder" } else { &format!("{count} folders") };
            self.walked.notes.push(format!(
                "{folders} cannot be read by this user ({}{more}): run it as root to look there",
                shown.join(", ")
            ));
        }
        self.walked
    }
}
