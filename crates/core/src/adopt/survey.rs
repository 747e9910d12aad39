//! What lies in a folder of scripts' backups: found, not yet read.
//!
//! Links are not followed, folders within are entered only when asked for, and nothing that is no
//! regular file is opened. Files of our own repositories are nobody's to adopt.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::names::{self, ScriptName};
use crate::error::{Error, Kind, Result};

/// What a file was when it was looked at: it must be the same when it is read, and when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode.
    pub identity: (u64, u64),
    /// Size in bytes.
    pub bytes: u64,
    /// When it was modified last.
    pub modified: Timestamp,
    /// When anything of it changed last, in seconds and nanoseconds.
    changed: (i64, i64),
}

/// A file that was found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it is.
    pub path: PathBuf,
    /// What it was then; `None` of what is no regular file.
    pub stat: Option<Stat>,
    /// What its name says, or why it is left.
    pub name: Result<ScriptName, String>,
}

impl Stat {
    fn of(metadata: &Metadata) -> Self {
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
        Stat {
            identity: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: Timestamp::new(seconds, nanoseconds).unwrap_or(Timestamp::MIN),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether anything of it changed in the last seconds. A clock that went back counts too.
    pub(super) fn changed_within(&self, now: Timestamp, seconds: i64) -> bool {
        now.as_second().saturating_sub(self.changed.0) < seconds
    }

    /// Of an open file.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Stat::of(&metadata))
    }

    /// Of whatever has that path now, if it is a regular file.
    pub(super) fn of_path(path: &Path) -> io::Result<Option<Self>> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(metadata.is_file().then(|| Stat::of(&metadata)))
    }
}

/// Opens a file that was seen, if it still is what it was. Never waits for a pipe, never follows a
/// link that took its place.
pub(super) fn open(path: &Path, stat: &Stat) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let failed = |error| unreadable(path, error);
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(flags.cast_signed());
    let file = options.open(path).map_err(failed)?;
    match Stat::of_file(&file).map_err(failed)? == *stat {
        true => Ok(file),
        false => Err(changed(path)),
    }
}

/// The error of a file that is not what it was a moment ago.
pub(super) fn changed(path: &Path) -> Error {
    Error::new(Kind::SourceUnavailable, format!("{} changed while it was read", path.display()))
        .hint("run it again when nothing writes there")
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
        .hint("run it as a user who may read that")
}

/// All files of the folders, each once, sorted by path. A file may be named instead of a folder.
pub fn survey(places: &[PathBuf], recursive: bool) -> Result<Vec<Seen>> {
    let mut found = BTreeMap::new();
    for place in places {
        let place = fs::canonicalize(place).map_err(|error| unreadable(place, error))?;
        let metadata = fs::metadata(&place).map_err(|error| unreadable(&place, error))?;
        let before = found.len();
        let ours = of_repository(&place);
        match metadata.is_dir() {
            true => walk(&place, recursive && !ours, &mut found)?,
            false => add(place.clone(), &metadata, &mut found),
        }
        let adoptable = || found.values().any(|seen: &Seen| seen.name.is_ok());
        if ours && (found.len() == before || !adoptable()) {
            return Err(repository(&place));
        }
    }
    Ok(found.into_values().collect())
}

/// Whether a folder is a repository of ours, or a source's folder in one.
fn of_repository(folder: &Path) -> bool {
    let header = |folder: &Path| folder.join("lifeboat.json").is_file();
    header(folder) || folder.join("source.json").is_file() && folder.parent().is_some_and(header)
}

fn repository(place: &Path) -> Error {
    let is_root = place.join("lifeboat.json").is_file();
    let root = if is_root { place } else { place.parent().unwrap_or(place) };
    Error::new(Kind::Usage, format!("{} is a repository already", root.display()))
        .hint(format!("nothing in it needs to be adopted: lifeboat list --repo {}", root.display()))
}

fn walk(folder: &Path, recursive: bool, found: &mut BTreeMap<PathBuf, Seen>) -> Result<()> {
    // What lies in a source's folder of a repository is known there.
    let is_source = folder.join("source.json").is_file() && of_repository(folder);
    if is_source {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Gone since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&path, error)),
        };
        match metadata.is_dir() && recursive && !of_repository(&path) {
            true => match walk(&path, recursive, found) {
                Ok(()) => {}
                Err(error) => left(path, error.message().to_owned(), found),
            },
            false => add(path, &metadata, found),
        }
    }
    Ok(())
}

fn add(path: PathBuf, metadata: &Metadata, found: &mut BTreeMap<PathBuf, Seen>) {
    let kind = metadata.file_type();
    let why = match path.file_name().and_then(|name| name.to_str()) {
        Some("lifeboat.json" | "README.txt") if path.parent().is_some_and(of_repository) => return,
        _ if kind.is_dir() && of_repository(&path) => return,
        _ if kind.is_dir() => "a folder: --recursive looks into it",
        _ if kind.is_symlink() => "a link: what it leads to is not looked at",
        _ if !kind.is_file() => "neither a file nor a folder",
        _ if path.to_str().is_none() => "its path is not UTF-8: no manifest could name it",
        None => "it has no name",
        Some(name) => {
            let name = names::read(name).map_err(str::to_owned);
            let stat = Some(Stat::of(metadata));
            found.insert(path.clone(), Seen { path, stat, name });
            return;
        }
    };
    left(path, why.to_owned(), found);
}

fn left(path: PathBuf, why: String, found: &mut BTreeMap<PathBuf, Seen>) {
    found.insert(path.clone(), Seen { path, stat: None, name: Err(why) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_not_followed_and_folders_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let file = "chat-20250108-140000.db";
        fs::create_dir_all(root.join("in/deep")).unwrap();
        fs::create_dir(root.join("out")).unwrap();
        for place in ["in", "in/deep", "out"] {
            fs::write(root.join(place).join(file), "x").unwrap();
        }
        symlink(root.join("out"), root.join("in/linked")).unwrap();
        symlink(root.join("out").join(file), root.join("in/chat-20250109-140000.db")).unwrap();
        symlink(root.join("in"), root.join("in/deep/loop")).unwrap();
        let adoptable = |recursive| -> Vec<PathBuf> {
            let seen = survey(&[root.join("in"), root.join("in")], recursive).unwrap();
            seen.into_iter().filter(|seen| seen.name.is_ok()).map(|seen| seen.path).collect()
        };
        assert_eq!(adoptable(false), [root.join("in").join(file)]);
        assert_eq!(adoptable(true), [root.join("in").join(file), root.join("in/deep").join(file)]);
        let through_a_link = survey(&[root.join("in/linked")], false).unwrap();
        assert_eq!(through_a_link[0].path, root.join("out").join(file), "a link that was named");
        let missing = survey(&[root.join("gone")], false).unwrap_err();
        assert_eq!(missing.kind(), Kind::SourceUnavailable);
    }

    #[test]
    fn what_took_a_file_s_place_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat-20250108-140000.db");
        fs::write(&path, "one").unwrap();
        let stat = Stat::of_path(&path).unwrap().unwrap();
        assert!(open(&path, &stat).is_ok());
        fs::rename(&path, folder.path().join("other")).unwrap();
        symlink(folder.path().join("other"), &path).unwrap();
        assert!(open(&path, &stat).is_err());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "two").unwrap();
        assert!(open(&path, &stat).is_err());
    }
}
