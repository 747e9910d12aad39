//! Finds the databases of a host: what is open, what lies in well-known places, what `.env`
//! files name.
//!
//! Everything is read below one root, `/` or the folder of a mounted system, and told with the
//! paths that hold there. Bounded in depth, in number and in time; what was not looked at is
//! said. Databases are recognized by their first bytes: none is opened with SQLite, no lock is
//! taken or lost, nothing is written. Who may not read something is told so, never that it is
//! not there.

mod clusters;
mod processes;
mod rules;
pub(crate) mod settings;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lifeboat_core::env::Clock;
use lifeboat_sqlite::{Glance, glance};

pub(crate) use clusters::Cluster;
pub(crate) use processes::Opener;
pub(crate) use settings::Settings;

/// Where a search looks.
pub(crate) struct Search {
    /// The folder that stands for `/`.
    pub(crate) root: PathBuf,
    /// The home of whoever asks, where it is below the root.
    pub(crate) home: Option<PathBuf>,
    /// The folder where the program was started, where it is below the root.
    pub(crate) current: Option<PathBuf>,
    /// Folders that were named: the rules hold below them, not for themselves.
    pub(crate) named: Vec<PathBuf>,
    /// How long it may take, in milliseconds.
    pub(crate) time_ms_max: u64,
    /// How many names of files are looked at.
    pub(crate) entries_max: usize,
}

impl Search {
    /// Whether the root is that of this system, so that processes see the paths that we see.
    fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The path under which we find what is called so below the root.
    pub(crate) fn real(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The folder around this place that somebody meant: a named one, or the current one.
    fn meant(&self, path: &Path) -> Option<&Path> {
        let current = self.current.iter().filter(|current| current.parent().is_some());
        let mut meant = self.named.iter().chain(current).filter(|folder| path.starts_with(folder));
        meant.next().map(PathBuf::as_path)
    }
}

/// A database that was found.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Size in bytes.
    pub(crate) bytes: u64,
    /// Whether it is in WAL mode.
    pub(crate) is_wal: bool,
    /// When it was written last.
    pub(crate) written: Option<SystemTime>,
    /// Who has it open.
    pub(crate) openers: Vec<Opener>,
    /// What a `.env` calls it: the variable and the file.
    pub(crate) named_by: Vec<String>,
    identity: (u64, u64),
}

/// Something that looks like a source and is not offered as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) reason: String,
}

/// All that a search found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Databases, in the order of their paths.
    pub(crate) databases: Vec<Database>,
    /// PostgreSQL clusters.
    pub(crate) clusters: Vec<Cluster>,
    /// `.env` files that say something of databases.
    pub(crate) settings: Vec<Settings>,
    /// Databases, or what may be ones, that are not offered.
    pub(crate) left_out: Vec<LeftOut>,
    /// What could not be looked at.
    pub(crate) notes: Vec<String>,
    /// What should alarm a person.
    pub(crate) warnings: Vec<String>,
}

/// Looks.
pub(crate) fn search(search: &Search, clock: &dyn Clock) -> Findings {
    let mut finder = Finder { search, findings: Findings::default(), by_identity: BTreeMap::new() };
    let walked = walk::walk(search, clock);
    let seen = processes::look(search);
    finder.open_files(&seen);
    for path in &walked.candidates {
        finder.candidate(path);
    }
    finder.findings.left_out.extend(walked.left_out);
    finder.findings.notes.extend(walked.notes);
    finder.containers(&seen);
    finder.settings(walked.settings);
    let Finder { mut findings, .. } = finder;
    findings.clusters = clusters::find(search, &seen, &walked.clusters);
    findings.notes.extend(seen.notes());
    findings.warnings.extend(seen.removed());
    findings.databases.sort_by(|a, b| a.path.cmp(&b.path));
    findings.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    findings.left_out.dedup();
    let warnings: Vec<String> = findings
        .settings
        .iter()
        .flat_map(|settings| settings.warnings(&|path| findings.database_at(search, path)))
        .collect();
    findings.warnings.extend(warnings);
    findings
}

struct Finder<'a> {
    search: &'a Search,
    findings: Findings,
    /// Where each file is in `findings.databases`, as one file may have several names.
    by_identity: BTreeMap<(u64, u64), usize>,
}

impl Finder<'_> {
    /// Whatever processes have open, by its first bytes, whatever its name.
    fn open_files(&mut self, seen: &processes::Seen) {
        for (path, openers) in seen.by_path() {
            let reason = rules::open_file(path, self.search.meant(path));
            let reason = reason.or_else(|| self.copy(path));
            match (self.look(path), reason) {
                (Ok(Some(_)), Some(reason)) => self.leave(path, reason),
                (Ok(Some(glance)), None) => {
                    let index = self.add(path, glance);
                    self.findings.databases[index].openers.extend(openers.iter().cloned());
                }
                // Most files that are open are no databases, and some are gone by now.
                _ => {}
            }
        }
    }

    fn candidate(&mut self, path: &Path) {
        if let Some(reason) = self.copy(path) {
            if self.look(path).is_ok_and(|found| found.is_some()) {
                self.leave(path, reason);
            }
            return;
        }
        match self.look(path) {
            Ok(Some(glance)) => drop(self.add(path, glance)),
            Ok(None) => {}
            // A name without an ending says nothing of what is in the file.
            Err(error) if path.extension().is_some() => {
                self.leave(path, &format!("cannot be read: {error}"));
            }
            Err(_) => {}
        }
    }

    /// Databases that processes of containers have open under paths of their own.
    fn containers(&mut self, seen: &processes::Seen) {
        for (identity, path, opener) in seen.elsewhere() {
            match self.by_identity.get(identity) {
                Some(&index) => {
                    let openers = &mut self.findings.databases[index].openers;
                    if !openers.contains(opener) {
                        openers.push(opener.clone());
                    }
                }
                None if rules::open_file(path, None).is_none() && opener.is_database => {
                    self.findings.notes.push(format!(
                        "{} ({}) has {} open, a path of its container: where it is on this host \
                         is not known; name its folder: lifeboat init DIR",
                        opener.name,
                        opener.pid,
                        path.display()
                    ));
                }
                None => {}
            }
        }
    }

    fn settings(&mut self, files: Vec<PathBuf>) {
        for file in files {
            let Some(settings) = settings::read(self.search, &file) else { continue };
            for (variable, path) in settings.paths() {
                if let Ok(Some(glance)) = self.look(&path) {
                    let index = self.add(&path, glance);
                    let named = format!("{variable} in {}", settings.file.display());
                    self.findings.databases[index].named_by.push(named);
                }
            }
            self.findings.settings.push(settings);
        }
    }

    fn look(&self, path: &Path) -> io::Result<Option<Glance>> {
        glance(&self.search.real(path))
    }

    /// Why a file is a copy, by its name or as it is in a repository of ours.
    fn copy(&self, path: &Path) -> Option<&'static str> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        rules::copy(name).or_else(|| {
            let folders = path.ancestors().skip(1).take(3);
            let is_repository =
                |folder: &Path| self.search.real(folder).join("lifeboat.json").is_file();
            folders.into_iter().any(is_repository).then_some("in a repository of backups")
        })
    }

    fn leave(&mut self, path: &Path, reason: &str) {
        let reason = reason.to_owned();
        self.findings.left_out.push(LeftOut { path: path.to_owned(), reason });
    }

    /// Adds a database, or finds it where it has been added under another name.
    fn add(&mut self, path: &Path, glance: Glance) -> usize {
        let Glance { bytes, is_wal, written, identity } = glance;
        if let Some(&index) = self.by_identity.get(&identity) {
            return index;
        }
        let index = self.findings.databases.len();
        self.by_identity.insert(identity, index);
        self.findings.databases.push(Database {
            path: path.to_owned(),
            bytes,
            is_wal,
            written,
            openers: Vec::new(),
            named_by: Vec::new(),
            identity,
        });
        index
    }
}

impl Findings {
    /// The database at that place, under whatever name it was found.
    fn database_at(&self, search: &Search, path: &Path) -> Option<&Database> {
        let seen = glance(&search.real(path)).ok().flatten()?;
        self.databases.iter().find(|database| database.identity == seen.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemClock;

    #[test]
    fn a_search_that_stops_early_says_so_and_has_looked_where_it_was_told_to() {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [("srv/a", "a.db"), ("opt/named", "b.db")] {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            let connection = rusqlite::Connection::open(folder.join(name)).unwrap();
            connection.execute_batch("CREATE TABLE t(x);").unwrap();
        }
        let mut search = Search {
            root: root.path().to_owned(),
            home: None,
            current: None,
            named: vec!["/opt/named".into()],
            time_ms_max: 60_000,
            entries_max: 1,
        };
        let paths = |search: &Search| {
            let findings = super::search(search, &SystemClock::start());
            let stopped = findings.notes.iter().any(|note| note.contains("stopped at"));
            let paths: Vec<String> = findings
                .databases
                .iter()
                .map(|database| database.path.display().to_string())
                .collect();
            (paths, stopped)
        };
        assert_eq!(paths(&search), (vec!["/opt/named/b.db".to_owned()], true));
        search.entries_max = 1000;
        let both = ["/opt/named/b.db", "/srv/a/a.db"].map(str::to_owned).to_vec();
        assert_eq!(paths(&search), (both, false));
    }
}
