//! Pages that stand in for those of the database file: of a `-wal`, or of a rollback journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where the pages are.
pub(crate) struct Overlay {
    file: File,
    /// Page and offset, in order.
    pages: Vec<(u32, u64)>,
    /// Pages of the database after it.
    pub(crate) page_count: u32,
    /// How many frames, or records, were taken.
    pub(crate) taken: u64,
    /// How many were left, where it is torn.
    pub(crate) torn: Option<u64>,
}

impl Overlay {
    pub(crate) fn new(
        file: File,
        pages: BTreeMap<u32, u64>,
        page_count: u32,
        taken: u64,
        torn: Option<u64>,
    ) -> Self {
        Overlay { file, pages: pages.into_iter().collect(), page_count, taken, torn }
    }

    /// Fills the buffer with a page, if it has it.
    pub(crate) fn read(&self, page: u32, buffer: &mut [u8]) -> bool {
        let Ok(index) = self.pages.binary_search_by_key(&page, |&(number, _)| number) else {
            return false;
        };
        self.file.read_exact_at(buffer, self.pages[index].1).is_ok()
    }
}
