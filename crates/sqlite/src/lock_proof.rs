//! Proof that the locks which hold a moment were not dropped behind SQLite's back.
//!
//! Code of this process that opens and closes a database file drops every lock that the process
//! has on it (see `held`). Nothing tells us: only the kernel's list of locks shows it. The list
//! names files by device and inode, and some file systems call a device differently there; so
//! what is proved is that a lock which was in the list at the beginning is still in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::holders::{locks, side_file};

/// Why a moment is not held any longer.
pub(crate) const LOCKS_DROPPED: &str =
    "another part of this process opened and closed the database file, which drops its locks";

/// The files of a database on which this process had locks. The default proves nothing, as for
/// a moment that no lock of the process holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockProof {
    files: Vec<(u64, u64)>,
}

impl LockProof {
    /// Notes what is locked now.
    pub(crate) fn begin(database: &Path) -> Self {
        let mut files = locked_by_us();
        let of_database: Vec<_> = [database.to_owned(), side_file(database, "-shm")]
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .collect();
        files.retain(|file| of_database.contains(file));
        files.sort_unstable();
        files.dedup();
        LockProof { files }
    }

    /// Whether all of it is still locked.
    pub(crate) fn is_held(&self) -> bool {
        if self.files.is_empty() {
            return true;
        }
        let now = locked_by_us();
        self.files.iter().all(|file| now.contains(file))
    }
}

fn locked_by_us() -> Vec<(u64, u64)> {
    let own = std::process::id();
    locks().into_iter().filter(|lock| lock.pid == own).map(|lock| lock.file).collect()
}

/// The byte of a `-shm` that is locked by readers for whom the database file alone is the state;
/// the next four are those of readers who need the `-wal`, too.
const FILE_ALONE_BYTE: u64 = 123;
const WITH_LOG_BYTES: std::ops::RangeInclusive<u64> = 124..=127;

/// Whether the locks of this process show that its readers need the `-wal`. Where they do not
/// show it, or readers of both kinds are at work, the answer is no.
pub(crate) fn needs_log(database: &Path) -> bool {
    let Ok(index) = fs::metadata(side_file(database, "-shm")) else { return false };
    let (own, file) = (std::process::id(), (index.dev(), index.ino()));
    let own_locks: Vec<_> =
        locks().into_iter().filter(|lock| lock.pid == own && lock.file == file).collect();
    let covers = |byte: u64| own_locks.iter().any(|lock| (lock.first..=lock.last).contains(&byte));
    !covers(FILE_ALONE_BYTE) && WITH_LOG_BYTES.into_iter().any(covers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;
    use rusqlite::Connection;

    #[test]
    fn readers_tell_by_their_locks_whether_they_need_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(a)").unwrap();
        let with_log = Snapshot::take(&path).unwrap();
        assert!(needs_log(&path));
        drop(with_log);
        writer.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).unwrap();
        let _file_alone = Snapshot::take(&path).unwrap();
        assert!(!needs_log(&path));
    }

    #[test]
    fn a_careless_close_of_the_database_or_its_index_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let sql = "PRAGMA journal_mode = wal; CREATE TABLE t(a)";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        for name in ["x.db", "x.db-shm"] {
            let snapshot = Snapshot::take(&path).unwrap();
            let proof = LockProof::begin(&path);
            assert_eq!(proof.files.len(), 2);
            drop(Snapshot::take(&path).unwrap());
            assert!(proof.is_held(), "another capture drops nothing");
            drop(fs::File::open(folder.path().join(name)).unwrap());
            assert!(!proof.is_held());
            drop(snapshot);
        }
    }
}
