//! Proof that the files of a database stayed as they were, where nothing can hold them.
//!
//! A database in WAL mode whose folder we may not write to cannot be opened: SQLite needs a
//! `-shm` there. Its files are then read as a recovery would read them, and every batch is
//! handed on only if none of them has changed since.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use crate::holders::side_file;

/// How the files of a database looked at the beginning.
pub(crate) struct Watch {
    database: PathBuf,
    seen: [Option<Stamp>; 4],
}

/// Inode, size and times of a file. Size alone stays when a page is overwritten, the time of
/// modification alone when a clock is coarse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Watch {
    /// Begins to watch. `None` is never among the answers: a file that is absent is watched for
    /// appearing.
    pub(crate) fn begin(database: &Path, open: &File) -> Result<Self> {
        let watch = Watch { database: database.to_owned(), seen: stamps(database)? };
        let own = open.metadata().map(|metadata| Stamp::of(&metadata));
        match own {
            Ok(stamp) if Some(stamp) == watch.seen[0] => Ok(watch),
            _ => Err(Error::new(
                Kind::SourceUnavailable,
                format!("{} changes while it is opened", database.display()),
            )
            .hint("run as a user who may write to the folder of the database")),
        }
    }

    /// Whether all files are as they were.
    pub(crate) fn is_unchanged(&self) -> Result<bool> {
        Ok(stamps(&self.database)? == self.seen)
    }
}

fn stamps(database: &Path) -> Result<[Option<Stamp>; 4]> {
    let stamp = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(
            Kind::SourceUnavailable,
            format!("cannot look at {}", path.display()),
            error,
        )),
    };
    Ok([
        stamp(database)?,
        stamp(&side_file(database, "-wal"))?,
        stamp(&side_file(database, "-shm"))?,
        stamp(&side_file(database, "-journal"))?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        fs::write(&path, "one").unwrap();
        fs::write(folder.path().join("x.db-wal"), "log").unwrap();
        let open = File::open(&path).unwrap();
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(folder.path().join("x.db-shm"), "").unwrap(),
            &|| fs::write(folder.path().join("x.db-wal"), "log2").unwrap(),
            &|| fs::remove_file(folder.path().join("x.db-wal")).unwrap(),
            &|| File::options().write(true).open(&path).unwrap().set_len(9).unwrap(),
        ];
        for change in changes {
            let watch = Watch::begin(&path, &open).unwrap();
            assert!(watch.is_unchanged().unwrap());
            change();
            assert!(!watch.is_unchanged().unwrap());
        }
    }
}
