//! Keeps our own file descriptors of a database open for as long as any connection of this
//! process to the same file lives.
//!
//! POSIX locks belong to a process and a file. Closing any descriptor of the file drops all
//! locks that the process has on it, those of SQLite's connections among them, and the state
//! that a read transaction pins would change under its reader. So every descriptor of ours on a
//! database goes through [`open`], and every connection of ours through [`announce`]: a
//! descriptor that is let go while a connection lives is parked, and closed with the last one.
//! Descriptors of a `-wal` carry no locks and need none of this; a `-shm` is never opened here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Device and inode: what locks hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The file that the path names now, links followed.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&std::fs::metadata(path)?))
    }

    /// The file that these are the facts of.
    pub(crate) fn of_metadata(metadata: &std::fs::Metadata) -> Self {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

#[derive(Default)]
struct Inode {
    connections: usize,
    parked: Vec<File>,
}

static INODES: Mutex<BTreeMap<Identity, Inode>> = Mutex::new(BTreeMap::new());

fn inodes() -> MutexGuard<'static, BTreeMap<Identity, Inode>> {
    // A panic elsewhere leaves the map whole: every change to it is one call.
    INODES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is open for reading and closed only when no connection of ours needs its locks.
pub(crate) struct HeldFile {
    file: Option<File>,
    identity: Identity,
}

/// Opens a database file for reading.
pub(crate) fn open(path: &Path) -> io::Result<HeldFile> {
    let file = File::open(path)?;
    // Should this fail, the descriptor must not be closed carelessly either: but fstat on an
    // open descriptor of a file system that just opened it does not.
    let identity = Identity::of_metadata(&file.metadata()?);
    Ok(HeldFile { file: Some(file), identity })
}

impl HeldFile {
    /// Which file it is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }
}

impl Deref for HeldFile {
    type Target = File;

    fn deref(&self) -> &File {
        self.file.as_ref().expect("the file is taken out by drop alone")
    }
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        let mut inodes = inodes();
        // Closed or parked under the mutex: a connection that begins in between would lose its
        // locks.
        match inodes.get_mut(&self.identity) {
            Some(inode) => inode.parked.extend(self.file.take()),
            None => self.file = None,
        }
    }
}

/// Says that a connection of ours to a file lives. Make it before the connection, and drop it
/// after.
pub(crate) struct Announced {
    identity: Identity,
}

/// Announces a connection.
pub(crate) fn announce(identity: Identity) -> Announced {
    inodes().entry(identity).or_default().connections += 1;
    Announced { identity }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut inodes = inodes();
        let Some(inode) = inodes.get_mut(&self.identity) else { return };
        inode.connections -= 1;
        if inode.connections == 0 {
            inodes.remove(&self.identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(identity: Identity) -> Option<usize> {
        inodes().get(&identity).map(|inode| inode.parked.len())
    }

    #[test]
    fn a_descriptor_is_closed_with_the_last_connection() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = open(file.path()).unwrap();
        let identity = held.identity();
        let first = announce(identity);
        let second = announce(identity);
        drop(held);
        assert_eq!(parked(identity), Some(1));
        drop(first);
        assert_eq!(parked(identity), Some(1));
        drop(open(file.path()).unwrap());
        assert_eq!(parked(identity), Some(2));
        drop(second);
        assert_eq!(parked(identity), None);
    }
}
