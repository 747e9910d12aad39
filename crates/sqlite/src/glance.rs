//! What a file is, at a glance: its first bytes, without SQLite and without a lock.
//!
//! For whoever looks through folders of unknown files. The file is opened for reading by way of
//! `held`, so that no lock of a connection of ours is lost, and closed at once. Only regular
//! files are opened: a pipe would wait for a writer.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::header::{HEADER_BYTES, Header};
use crate::held;
use crate::holders::side_file;

/// A database, as far as its header and its metadata tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Size of the database's file in bytes.
    pub bytes: u64,
    /// Whether it is in WAL mode.
    pub is_wal: bool,
    /// When it, or its `-wal`, was written last.
    pub written: Option<SystemTime>,
    /// Device and inode: equal for two names of one file.
    pub identity: (u64, u64),
}

/// Looks at a file, links followed. `None` where it is no regular file or no database.
pub fn glance(path: &Path) -> io::Result<Option<Glance>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut first = [0; HEADER_BYTES];
    let file = held::open(path)?;
    match (&*file).read_exact(&mut first) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some(header) = Header::parse(&first) else { return Ok(None) };
    let wal = fs::metadata(side_file(path, "-wal")).and_then(|wal| wal.modified()).ok();
    Ok(Some(Glance {
        bytes: metadata.len(),
        is_wal: header.is_wal(),
        written: metadata.modified().ok().max(wal),
        identity: (metadata.dev(), metadata.ino()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_told_from_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a name without an ending");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(x);").unwrap();
        let seen = glance(&path).unwrap().unwrap();
        assert!(seen.is_wal && seen.bytes >= 4096);
        let text = folder.path().join("text.db");
        fs::write(&text, vec![b'x'; 5000]).unwrap();
        assert_eq!(glance(&text).unwrap(), None);
        fs::write(&text, b"SQLite format 3\0").unwrap();
        assert_eq!(glance(&text).unwrap(), None, "the magic alone is no header");
        assert_eq!(glance(folder.path()).unwrap(), None);
        assert!(glance(&folder.path().join("gone")).is_err());
    }
}
