//! The mark of a directory that is not whole: a restore is at work there, or was killed.
//!
//! Whoever makes a directory holds a lock on its mark as long as it lives. So what a killed restore
//! left is told from what another one is making right now.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};

use super::plan::beside;
use super::write::{Place, failed, sync, write_file};
use crate::control;

/// A folder with this file in it is not whole.
pub const MARK: &str = "lifeboat.restoring";

/// A directory that is being made by us.
pub(super) struct Marked {
    _lock: File,
}

/// Marks a directory. `text` says of which cluster it is, where that one stays.
pub(super) fn mark(place: &Place, folder: &Path, text: &str) -> Result<Marked> {
    let path = folder.join(MARK);
    if path.exists() && is_held(&path) {
        let message = format!("another restore to {} is at work", folder.display());
        return Err(Error::new(Kind::Locked, message).hint("wait until it has ended"));
    }
    write_file(place, &path, text.as_bytes(), 0o600)?;
    let file = File::open(&path).map_err(|error| failed("read", &path, error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let message = format!("another restore to {} is at work", folder.display());
        Error::new(Kind::Locked, message).caused_by(io::Error::from(error))
    })?;
    Ok(Marked { _lock: file })
}

/// Whether the one who made a mark lives.
fn is_held(mark: &Path) -> bool {
    File::open(mark).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Whether a restore left a directory like that, and has ended.
pub(super) fn is_abandoned(folder: &Path) -> bool {
    let mark = folder.join(MARK);
    mark.exists() && !is_held(&mark)
}

/// Takes the mark off.
pub(super) fn unmark(folder: &Path) -> Result<()> {
    let mark = folder.join(MARK);
    match fs::remove_file(&mark) {
        Ok(()) => sync(folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", &mark, error)),
    }
}

/// A restore in place that was killed right behind the exchange left the new cluster with a mark,
/// though it is whole: everything comes before the exchange. Takes it off.
pub(super) fn settle(data: &Path) -> Result<()> {
    let is_of_exchange = fs::metadata(data.join(MARK)).is_ok_and(|mark| mark.len() == 0);
    match is_of_exchange && is_abandoned(data) && data.join(control::PATH).exists() {
        true => unmark(data),
        false => Ok(()),
    }
}

/// What killed restores left beside a data directory.
pub(super) fn leftovers(data: &Path) -> Vec<PathBuf> {
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (kept, staged) = (format!("{name}.before_restore."), beside(data, "restoring"));
    let entries = fs::read_dir(data.parent().unwrap_or(Path::new("/"))).into_iter().flatten();
    let folders = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let is_kept = |name: &str| name.starts_with(&kept);
        let name = path.file_name().and_then(|name| name.to_str());
        (name.is_some_and(is_kept) || *path == staged) && is_abandoned(path)
    });
    let mut folders: Vec<PathBuf> = folders.collect();
    folders.sort();
    folders
}

/// Removes what a killed restore left, with the tablespaces that it made for it.
pub(super) fn remove_leftover(folder: &Path) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = name.rsplit('.').next().unwrap_or_default();
    let ending = format!(".restored.{stamp}");
    for link in fs::read_dir(folder.join("pg_tblspc")).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(link.path()) else { continue };
        let is_its_own = target.to_string_lossy().ends_with(&ending);
        if is_its_own && target.is_dir() {
            fs::remove_dir_all(&target).map_err(|error| failed("remove", &target, error))?;
        }
    }
    fs::remove_dir_all(folder).map_err(|error| failed("remove", folder, error))
}
