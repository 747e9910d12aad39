//! How the files of a database stand: whether something was written since.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lifeboat_core::Result;

use crate::holders::side_file;
use crate::snapshot::missing;

/// A file that was written so short a time ago may have been written again without a newer time.
const YOUNG_MS: i64 = 1_000;

/// How a file stands: device, inode, size, and when it was changed, which nobody can set; of a
/// `-wal`, when it was written.
pub(super) type FileStamp = (u64, u64, u64, i64, i64);

/// How the files of a database stand: equal where nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    database: FileStamp,
    /// `None` where there is no `-wal`, or an empty one.
    wal: Option<FileStamp>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let of = |metadata: &fs::Metadata, (s, ns): (i64, i64)| {
            (metadata.dev(), metadata.ino(), metadata.size(), s, ns)
        };
        let database = fs::metadata(path).map_err(|error| missing(path, error))?;
        let wal = fs::metadata(side_file(path, "-wal")).ok().filter(|wal| wal.size() > 0);
        Ok(Stamp {
            database: of(&database, (database.ctime(), database.ctime_nsec())),
            // SQLite as root gives a `-wal` its owner each time that it opens one: a look would
            // be a change.
            wal: wal.as_ref().map(|wal| of(wal, (wal.mtime(), wal.mtime_nsec()))),
        })
    }

    /// The same, where it will differ after every write that comes after a moment at which these
    /// files were looked at: none of them was written within the same tick of the clock.
    pub(super) fn if_old(self, looked_ms: i64) -> Option<Self> {
        let files = [Some(self.database), self.wal];
        let is_old = files.into_iter().flatten().all(|file| !is_young(file, looked_ms));
        is_old.then_some(self)
    }

    /// The database file.
    pub(super) fn database(&self) -> FileStamp {
        self.database
    }

    /// The database file, of which a later write will be seen, where all of the `-wal` was read
    /// after that, or there was none.
    pub(super) fn settled(&self, now_ms: i64, is_known: bool) -> Option<FileStamp> {
        let is_settled = !is_young(self.database, now_ms) && (is_known || self.wal.is_none());
        is_settled.then_some(self.database)
    }
}

fn is_young((.., s, ns): FileStamp, now_ms: i64) -> bool {
    s * 1_000 + ns / 1_000_000 >= now_ms - YOUNG_MS
}
