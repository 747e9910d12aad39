//! Pages that wait to be stored and are too many for memory.
//!
//! They go to a file without a name in the folder of what is known of repositories, and are gone
//! with the process. Read back soon, they mostly never reach the disk.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

/// It takes no more than one part in so many of the space that is free.
const FREE_PART: u64 = 4;

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
    /// An empty one, for so many bytes at most. `None` where there can be none.
    pub(super) fn begin(folder: &Path, page_bytes: usize, bytes_max: u64) -> Option<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()?;
        let file = tempfile::tempfile_in(folder).ok()?;
        let space = rustix::fs::fstatvfs(&file).ok()?;
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        let pages_max = bytes_max.min(free_bytes / FREE_PART) / page_bytes as u64;
        let count_max = u32::try_from(pages_max).unwrap_or(u32::MAX);
        Some(Spool { file, page_bytes, count: 0, count_max, free: Vec::new() })
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
    pub(super) fn read(&self, at: u32) -> std::io::Result<Vec<u8>> {
        let mut content = vec![0; self.page_bytes];
        self.file.read_exact_at(&mut content, self.offset(at)).map(|()| content)
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
        let mut spool = Spool::begin(&known, 512, 3_001 * 512).unwrap();
        let content = |page: u32| vec![page as u8; 512];
        for page in 0..3_000 {
            assert_eq!(spool.put(&content(page)), Some(page));
        }
        for page in [2_999, 0, 1_500] {
            assert_eq!(spool.read(page).unwrap(), content(page));
        }
        spool.free(17);
        assert_eq!(spool.put(&content(5)), Some(17));
        assert_eq!(spool.put(&content(6)), Some(3_000));
        assert_eq!(spool.put(&content(7)), None, "it is full");
        assert_eq!(spool.read(17).unwrap(), content(5));
        assert!(spool.read(3_001).is_err());
        assert_eq!(std::fs::read_dir(&known).unwrap().count(), 0);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(Spool::begin(&folder.path().join("file"), 512, 1 << 20).is_none());
    }
}
