//! Pages that wait to be stored and are too many for memory.
//!
//! They go to files without a name, and are gone with the process. Read back soon, they mostly
//! never reach the disk. The files are made once: to make one, a file system that is busy may keep
//! whoever looks waiting for longer than a turn of the `-wal` takes.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// They take no more than one part in so many of the space that is free.
const FREE_PART: u64 = 4;
/// Of a file that nobody needs any more so much is kept, in bytes.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// Where those are that nobody has anything in.
#[derive(Clone, Default)]
pub(super) struct Spools {
    empty: Arc<Mutex<Vec<Spool>>>,
    /// How much one of them may take, in bytes.
    bytes_max: u64,
}

impl Spools {
    /// So many of them, where there can be any.
    pub(super) fn begin(folder: &Path, page_bytes: usize, bytes_max: u64, count: usize) -> Self {
        let begin = |_| Spool::begin(folder, page_bytes);
        let empty = Arc::new(Mutex::new((0..count).filter_map(begin).collect()));
        Spools { empty, bytes_max }
    }

    /// Takes one, which has as much room as there is now.
    pub(super) fn take(&self) -> Option<Spool> {
        let spool = self.lock().pop()?;
        spool.with_room(self.bytes_max)
    }

    /// Nobody needs what is in it any more.
    pub(super) fn give_back(&self, mut spool: Spool) {
        spool.clear();
        self.lock().push(spool);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spool>> {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pages that were put aside.
pub(super) struct Spool {
    file: File,
    page_bytes: usize,
    /// For how many pages it has had room, and may have.
    count: u32,
    count_max: u32,
    /// Places in it that nobody needs any more.
    free: Vec<u32>,
}

impl Spool {
    /// An empty one, which has no room yet. `None` where there can be none.
    fn begin(folder: &Path, page_bytes: usize) -> Option<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()?;
        let file = tempfile::tempfile_in(folder).ok()?;
        Some(Spool { file, page_bytes, count: 0, count_max: 0, free: Vec::new() })
    }

    /// An empty one with room for so many bytes at most, as far as there is space.
    fn with_room(mut self, bytes_max: u64) -> Option<Self> {
        let space = rustix::fs::fstatvfs(&self.file).ok()?;
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        let pages_max = bytes_max.min(free_bytes / FREE_PART) / self.page_bytes as u64;
        self.count_max = u32::try_from(pages_max).unwrap_or(u32::MAX);
        Some(self)
    }

    fn clear(&mut self) {
        if self.offset(self.count) > KEPT_BYTES_MAX {
            // Where that cannot be, its space is used again all the same.
            let _ = self.file.set_len(0);
        }
        self.count = 0;
        self.free.clear();
    }

    /// Puts a page aside: where it is. `None` where there is no space.
    pub(super) fn put(&mut self, content: &[u8]) -> Option<u32> {
        let at =
            self.free.last().copied().or((self.count < self.count_max).then_some(self.count))?;
        self.file.write_all_at(content, self.offset(at)).ok()?;
        if self.free.pop().is_none() {
            self.count += 1;
        }
        Some(at)
    }

    /// Nobody needs what is there any more.
    pub(super) fn free(&mut self, at: u32) {
        self.free.push(at);
    }

    /// Reads the page that is there.
    pub(super) fn read(&self, at: u32, content: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(content, self.offset(at))
    }

    fn offset(&self, at: u32) -> u64 {
        u64::from(at) * self.page_bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_again_in_any_order_and_places_are_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let known = folder.path().join("known");
        let spools = Spools::begin(&known, 512, 3_001 * 512, 1);
        let mut spool = spools.take().unwrap();
        assert!(spools.take().is_none(), "no more are made");
        let content = |page: u32| vec![page as u8; 512];
        let read = |spool: &Spool, at| {
            let mut content = vec![0; 512];
            spool.read(at, &mut content).map(|()| content)
        };
        for page in 0..3_000 {
            assert_eq!(spool.put(&content(page)), Some(page));
        }
        for page in [2_999, 0, 1_500] {
            assert_eq!(read(&spool, page).unwrap(), content(page));
        }
        spool.free(17);
        assert_eq!(spool.put(&content(5)), Some(17));
        assert_eq!(spool.put(&content(6)), Some(3_000));
        assert_eq!(spool.put(&content(7)), None, "it is full");
        assert_eq!(read(&spool, 17).unwrap(), content(5));
        assert!(read(&spool, 3_001).is_err());
        assert_eq!(std::fs::read_dir(&known).unwrap().count(), 0);
        spools.give_back(spool);
        let mut spool = spools.take().unwrap();
        assert_eq!(spool.put(&content(9)), Some(0), "nobody needs what was there");
        assert_eq!(read(&spool, 0).unwrap(), content(9));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(Spools::begin(&folder.path().join("file"), 512, 1 << 20, 2).take().is_none());
    }
}
