//! The method `checkpoint`: everything in the `-wal` is copied into the database file first.
//!
//! The one method that writes, because it is asked to. It succeeds only when SQLite says that
//! it was not busy and that every frame was copied: SQLite reports an incomplete checkpoint as a
//! row of numbers, not as an error.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lifeboat_core::{Error, Kind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::header::Header;
use crate::held::{self, Identity};
use crate::holders::{describe, side_file};
use crate::snapshot::{failed, missing};

/// What SQLite answers to `PRAGMA wal_checkpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    busy: i64,
    frames: i64,
    copied: i64,
}

impl Answer {
    /// Whether every frame is in the database file. "Not busy" alone does not say so.
    pub(crate) fn is_complete(self) -> bool {
        self.busy == 0 && self.frames >= 0 && self.frames == self.copied
    }
}

/// Copies the whole `-wal` into the database file, or fails. While it waits for readers, writers
/// wait for it: for `wait_ms_max` at most.
pub(crate) fn checkpoint(path: &Path, header: &Header, wait_ms_max: u64) -> Result<()> {
    if !header.is_wal() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not in WAL mode: there is nothing to checkpoint", path.display()),
        )
        .hint("use `--method online`"));
    }
    let journal = side_file(path, "-journal");
    if fs::metadata(&journal).is_ok_and(|metadata| metadata.len() > 0) {
        return Err(Error::new(
            Kind::SourceUnavailable,
            format!("{} may hold a transaction that was cut off", journal.display()),
        )
        .hint("use `--method online`, which reads it without writing to the database"));
    }
    let answer = run(path, wait_ms_max)?;
    match answer.is_complete() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "checkpoint incomplete: {} of {} frames of {} are in the database file, the \
                 others are held up{}",
                answer.copied.max(0),
                answer.frames.max(0),
                path.display(),
                describe(path)
            ),
        )
        .hint("use `--method online`, which needs no checkpoint, or try again")),
    }
}

fn run(path: &Path, wait_ms_max: u64) -> Result<Answer> {
    let identity = Identity::of_path(path).map_err(|error| missing(path, error))?;
    let announced = held::announce(identity);
    let answer = ask(path, wait_ms_max).map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => Error::new(
            Kind::SourceUnavailable,
            format!("no permission to write to {}, which a checkpoint does", path.display()),
        )
        .hint("run as the owner of the database, or use `--method online`")
        .caused_by(error),
        _ => failed(path, error),
    });
    drop(announced);
    answer
}

fn ask(path: &Path, wait_ms_max: u64) -> rusqlite::Result<Answer> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_millis(wait_ms_max))?;
    // Our close must not be the one that copies and removes the log, unseen by the check below.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
        Ok(Answer { busy: row.get(0)?, frames: row.get(1)?, copied: row.get(2)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t29_not_busy_is_not_complete() {
        assert!(!Answer { busy: 0, frames: 201, copied: 101 }.is_complete());
        assert!(!Answer { busy: 1, frames: 201, copied: 201 }.is_complete());
        assert!(!Answer { busy: 0, frames: -1, copied: -1 }.is_complete());
        assert!(Answer { busy: 0, frames: 201, copied: 201 }.is_complete());
        assert!(Answer { busy: 0, frames: 0, copied: 0 }.is_complete());
    }
}
