//! The lock that SQLite's readers take, taken by us where no connection can take it.
//!
//! It belongs to the open file, not to the process, so that neither connections of this process
//! nor descriptors that are closed elsewhere release it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::ffi::{self, RangeLock};
use crate::header::LOCK_BYTE;
use crate::held::HeldFile;

const PENDING: i64 = LOCK_BYTE as i64;
const RESERVED: i64 = PENDING + 1;
const SHARED: i64 = PENDING + 2;
const SHARED_BYTES: i64 = 510;

/// A shared lock on a database file; others may read, nobody may write to the file.
pub(crate) struct SharedLock {
    file: Arc<HeldFile>,
}

impl SharedLock {
    /// Takes the lock, without waiting; `None` when a writer has it for itself.
    pub(crate) fn take(file: &Arc<HeldFile>) -> io::Result<Option<Self>> {
        // As SQLite does: nobody gets in while a writer waits for the readers to leave.
        if !ffi::lock_range(file, RangeLock::Shared, PENDING, 1)? {
            return Ok(None);
        }
        let taken = ffi::lock_range(file, RangeLock::Shared, SHARED, SHARED_BYTES);
        ffi::lock_range(file, RangeLock::Released, PENDING, 1)?;
        Ok(taken?.then(|| SharedLock { file: Arc::clone(file) }))
    }

    /// Whether a writer has begun a transaction.
    pub(crate) fn is_reserved(&self) -> io::Result<bool> {
        ffi::is_range_locked(&self.file, RESERVED, 1)
    }

    /// The file that is locked.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        // The descriptor may be parked instead of closed, so the lock is released by itself.
        // Should that fail, it goes with the descriptor.
        let _ = ffi::lock_range(&self.file, RangeLock::Released, PENDING, 2 + SHARED_BYTES);
    }
}
