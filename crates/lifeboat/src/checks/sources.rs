//! Sources of files and of SQLite: there, whole enough to be recognized, and readable as a backup
//! will read them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lifeboat_core::source::Source as _;
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::Access;

use super::{Finding, Subject, may};
use crate::config::diagnose::shown;
use crate::sources::Target;

const CHECK: &str = "source";

pub(super) fn readable(subject: &Subject<'_>) -> Vec<Finding> {
    let lost = subject.lost.iter().map(|(name, error)| Finding::bad(CHECK, name, error));
    // Those on servers are more than one question: see `postgres`.
    let here = subject.targets.iter().filter(|target| target.database.is_none());
    let found = here.map(|target| Finding::of(CHECK, &target.name, look(target)));
    let beside =
        subject.targets.iter().filter(|target| target.database.is_some()).filter_map(|target| {
            let files = target.companions.as_ref()?;
            let found = files.inspect().map(|inspection| inspection.description);
            Some(Finding::of(CHECK, &target.name, found))
        });
    lost.chain(found).chain(beside).collect()
}

fn look(target: &Target) -> Result<String> {
    let mut text = target.source.inspect()?.description;
    if let Some(files) = &target.companions {
        text.push_str(&format!(", {}", files.inspect()?.description));
    }
    if let Some(path) = &target.path {
        side_files(path, text.contains("WAL mode"))?;
    }
    Ok(text)
}

/// A reader of a database in WAL mode writes its locks into the `-shm`, and makes it where it is
/// missing.
fn side_files(path: &Path, is_wal: bool) -> Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let side = |suffix: &str| {
        let mut name = OsString::from(&path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let (wal, shared, journal) = (side("-wal"), side("-shm"), side("-journal"));
    for file in [&wal, &journal].into_iter().filter(|file| file.exists()) {
        may(file, Access::READ_OK, Kind::SourceUnavailable, "read")
            .map_err(|error| hinted(error, file))?;
    }
    if !is_wal {
        return Ok(());
    }
    let (place, what) = match shared.exists() {
        true => (shared.as_path(), "write to"),
        false => (path.parent().unwrap_or(Path::new("/")), "make a -shm in"),
    };
    let wanted = Access::READ_OK | Access::WRITE_OK;
    may(place, wanted, Kind::SourceUnavailable, what).map_err(|error| hinted(error, place))
}

fn hinted(error: Error, place: &Path) -> Error {
    let owner = std::fs::metadata(place).map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    let owner = owner.map_or("its owner".to_owned(), |owner| format!("user {owner} or root"));
    error.hint(format!("run backups as {owner}, who may use {}", shown(place)))
}
