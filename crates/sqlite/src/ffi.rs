//! All of the crate's unsafe code: what neither `rusqlite` nor the standard library offers.
//!
//! Two groups: the moment that a read transaction is pinned to (`sqlite3_snapshot_get`), and
//! locks that belong to an open file instead of a process. Each function takes safe types and
//! says which facts of SQLite or Linux make it sound.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use libsqlite3_sys as sqlite;
use rusqlite::Connection;

/// The state of a `-wal` that a read transaction sees: SQLite's own read mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The last frame that belongs to the state; frames count from 1.
    pub(crate) frame_max: u32,
    /// How many pages the state has.
    pub(crate) page_count: u32,
    /// The cumulative checksum after that frame.
    pub(crate) checksum: (u32, u32),
    /// Both salts, as they stand in the `-wal`.
    pub(crate) salts: [u8; 8],
}

/// The mark of the connection's read transaction, which must be open. `None` where the `-wal`
/// has never held a committed frame.
pub(crate) fn snapshot_mark(connection: &Connection) -> Option<Mark> {
    let mut snapshot: *mut sqlite::sqlite3_snapshot = ptr::null_mut();
    // SAFETY: the handle is alive as long as `connection`; the name is a C string; SQLite sets
    // `snapshot` only when it answers SQLITE_OK, and then it is ours to free.
    let code = unsafe {
        sqlite::sqlite3_snapshot_get(connection.handle(), c"main".as_ptr(), &mut snapshot)
    };
    if code != sqlite::SQLITE_OK || snapshot.is_null() {
        return None;
    }
    // SAFETY: a snapshot is a copy of the header of the wal-index, 48 bytes without padding.
    let raw = unsafe { snapshot.cast::<[u8; 48]>().read_unaligned() };
    // SAFETY: it came from sqlite3_snapshot_get and is not used afterwards.
    unsafe { sqlite::sqlite3_snapshot_free(snapshot) };
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let mut salts = [0; 8];
    salts.copy_from_slice(&raw[32..40]);
    Some(Mark { frame_max: word(16), page_count: word(20), checksum: (word(24), word(28)), salts })
}

/// Whether the path that the connection was opened by now names another file than the one that
/// the connection has open.
pub(crate) fn has_moved(connection: &Connection) -> bool {
    let mut moved: libc::c_int = 0;
    // SAFETY: the handle is alive; this control writes one int.
    let code = unsafe {
        sqlite::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            sqlite::SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast(),
        )
    };
    code == sqlite::SQLITE_OK && moved != 0
}

/// A lock on a range of a file, owned by the open file: other threads and connections of this
/// process neither release nor share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeLock {
    /// Shared with other readers.
    Shared,
    /// Not held any longer.
    Released,
}

/// Takes or releases a lock on `length` bytes at `start`, without waiting. `false` when another
/// holds a conflicting lock.
pub(crate) fn lock_range(
    file: &File,
    lock: RangeLock,
    start: i64,
    length: i64,
) -> io::Result<bool> {
    let kind = match lock {
        RangeLock::Shared => libc::F_RDLCK,
        RangeLock::Released => libc::F_UNLCK,
    };
    let request = flock(kind, start, length);
    // SAFETY: the descriptor is open as long as `file`; the request outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            error => Err(error),
        },
    }
}

/// Whether anybody else holds a lock on one of those bytes, shared or not.
pub(crate) fn is_range_locked(file: &File, start: i64, length: i64) -> io::Result<bool> {
    let mut request = flock(libc::F_WRLCK, start, length);
    // SAFETY: as above; the kernel overwrites the request with the lock that it found.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut request) } {
        0 => Ok(i32::from(request.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

fn flock(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Whether this process may write the file, by its effective user.
pub(crate) fn may_write(path: &std::path::Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::WRITE_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}
