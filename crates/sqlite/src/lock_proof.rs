//! Proof that the locks which hold a moment were not dropped behind SQLite's back.
//!
//! Code of this process that opens and closes a database file drops every lock that the process
//! has on it (see `held`). Nothing tells us: only the kernel's list of locks shows it. The list
//! names files by device and inode, and some file systems call a device differently there; so
//! what is proved is that a lock which was in the list at the beginning is still in it.
//!
//! The kernel gives the list in pieces: one that is read while others lock and unlock can lack an
//! entry that was there all the time. It never shows one that is gone, so what several readings
//! show together is true, and a lock counts as dropped only when none of many shows it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::holders::{locks, side_file};

/// Why a moment is not held any longer.
pub(crate) const LOCKS_DROPPED: &str =
    "another part of this process opened and closed the database file, which drops its locks";

/// How often the list is read before a lock that it does not show counts as dropped.
const READINGS_MAX: usize = 30;

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
        let mut unseen = self.files.clone();
        for _ in 0..READINGS_MAX {
            let now = locked_by_us();
            unseen.retain(|file| !now.contains(file));
            if unseen.is_empty() {
                return true;
            }
        }
        false
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
    let own_locks: Vec<_> = std::iter::repeat_with(locks)
        .take(3)
        .flatten()
        .filter(|lock| lock.pid == own && lock.file == file)
        .collect();
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

    #[test]
    fn the_locks_of_others_that_come_and_go_do_not_hide_ours() {
        use std::sync::atomic::{AtomicBool, Ordering};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let sql = "PRAGMA journal_mode = wal; CREATE TABLE t(a)";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let _snapshot = Snapshot::take(&path).unwrap();
        let proof = LockProof::begin(&path);
        let other = fs::File::create(folder.path().join("other")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Enough locks that the list does not fit into one piece.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for kind in [libc::F_WRLCK, libc::F_UNLCK] {
                        (0..400).for_each(|byte| set_lock(&other, kind, 2 * byte));
                    }
                }
            });
            let held = (0..300).all(|_| proof.is_held());
            stop.store(true, Ordering::Relaxed);
            assert!(held);
        });
    }

    fn set_lock(file: &fs::File, kind: libc::c_int, byte: i64) {
        use std::os::fd::AsRawFd;

        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open and the structure lives through the call.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) }, 0);
    }
}
