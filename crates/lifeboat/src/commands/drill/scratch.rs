//! The scratch place of a drill, a comparison or a salvage: a folder of its own, gone when the run
//! ends, however it ends.
//!
//! Whoever runs holds a lock in it. A folder without a holder is of a run that was killed: the next
//! one removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

const PREFIX: &str = "lifeboat-drill-";
const KEPT: &str = "lifeboat-kept-drill-";
const LOCK: &str = "lock";
/// A folder that is older than this without a lock is nobody's: who makes one locks it at once.
const UNLOCKED_AGE_MAX: Duration = Duration::from_secs(3600);

/// The folder. Removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl Scratch {
    /// A new one below `parent`, which is made if it is missing.
    pub(crate) fn new(env: &Env, parent: &Path) -> Result<Scratch> {
        let failed = |error| {
            let message = format!("cannot make a scratch folder in {}", parent.display());
            Error::io(Kind::Failed, message, error).hint("choose another folder with TMPDIR")
        };
        if !parent.exists() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let path = parent.join(format!("{PREFIX}{}", env.new_uuid().simple()));
        // A server of PostgreSQL runs in a folder below, as another user than root.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().mode(mode).create(&path).map_err(failed)?;
        let lock = lock_file(&path, true).and_then(|lock| {
            lock.try_lock().map_err(std::io::Error::from)?;
            Ok(lock)
        });
        match lock {
            Ok(lock) => Ok(Scratch { path, keep: false, _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                Err(failed(error))
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there, under a name that no drill removes.
    pub(super) fn keep(mut self) -> Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let kept = self.path.with_file_name(name.replacen(PREFIX, KEPT, 1));
        let failed =
            |error| Error::io(Kind::Failed, format!("cannot keep {}", self.path.display()), error);
        fs::remove_file(self.path.join(LOCK)).map_err(failed)?;
        fs::rename(&self.path, &kept).map_err(failed)?;
        self.keep = true;
        Ok(kept)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.path);
        }
    }
}

fn lock_file(folder: &Path, create: bool) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(LOCK))
}

/// Folders may have come back without the right to change them.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_ok() {
        return;
    }
    make_writable(path);
    let _ = fs::remove_dir_all(path);
}

fn make_writable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Removes what killed drills left below `parent`. Gives their paths.
pub(crate) fn remove_leftovers(parent: &Path) -> Vec<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Ok(found) = entry.metadata() else { continue };
        // The parent may be everybody's: a link, or another user's folder, is not ours.
        if is_named && found.is_dir() && found.uid() == own && is_left(&entry.path(), &found) {
            remove(&entry.path());
            removed.push(entry.path());
        }
    }
    removed
}

fn is_left(folder: &Path, found: &fs::Metadata) -> bool {
    match lock_file(folder, false) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let age = found.modified().ok().and_then(|at| at.elapsed().ok());
            age.is_some_and(|age| age > UNLOCKED_AGE_MAX)
        }
    }
}
