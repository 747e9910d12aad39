//! The swap: what is there goes aside, what was staged takes its place.
//!
//! A crash between any two steps leaves at the place either the old database with its side files,
//! or nothing, or the new database alone: never a new database beside an old `-wal`, which SQLite
//! would replay over it, and never an old one without its own. What goes aside gets its second
//! name (a hard link) before it loses the first, so nothing is lost even if an application starts
//! in between.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Kind, Result};

use super::aside::{Aside, aside_names};
use super::stage::Staged;

/// Puts `staged` at `place`. Gives back the names under which the old files are kept.
pub(super) fn swap(
    env: &Env,
    staged: Staged,
    place: &Path,
    side_files: &[PathBuf],
    aside: &Aside,
) -> Result<Vec<PathBuf>> {
    let kept = keep_aside(place, side_files, aside)?;
    sync_folder_of(place)?;
    env.crash.pass("restore.kept_aside")?;
    remove(place)?;
    env.crash.pass("restore.original_removed")?;
    for side_file in side_files {
        remove(side_file)?;
    }
    sync_folder_of(place)?;
    env.crash.pass("restore.side_files_removed")?;
    fs::rename(&staged.path, place).map_err(|error| failed("put in place", place, error))?;
    staged.placed();
    sync_folder_of(place)?;
    env.crash.pass("restore.swapped")?;
    Ok(kept)
}

/// Gives the files at a place a second name each. The first names stay.
pub(super) fn keep_aside(
    place: &Path,
    side_files: &[PathBuf],
    aside: &Aside,
) -> Result<Vec<PathBuf>> {
    let names = aside_names(place, side_files, aside);
    names.iter().try_for_each(|(from, to)| link(from, to))?;
    Ok(names.into_iter().map(|(_, to)| to).collect())
}

/// A second name for a file; a move where the file system knows no hard links.
pub(super) fn link(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(failed("keep the old file: its new name is taken:", to, error))
        }
        Err(_) => fs::rename(from, to).map_err(|error| failed("keep aside", from, error)),
    }
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path, error)),
    }
}

pub(super) fn sync_folder_of(place: &Path) -> Result<()> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed("sync the folder", folder, error))
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot {what} {}", path.display()), error)
}
