//! What was collected of a writer in a hurry since the state at the end of the log.
//!
//! Pages are kept in memory, with the versions that they had before, up to a bound. Of what goes
//! beyond it only the numbers are kept: such a page is left where it is, and read when all is
//! stored, while a state is held for that. So neither a store that is slow nor a database that has
//! to be compared as a whole takes more memory, or keeps the `-wal` from beginning anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_core::Result;
use lifeboat_core::pipeline::{BlockHash, block_hash};

use super::open::Looked;
use super::state::PageState;

/// Pages that changed since the state at the end of the log, or may have.
pub(super) struct Collected {
    pub(super) pages: BTreeMap<u32, Page>,
    /// What is kept of them, in bytes.
    bytes: usize,
    /// Pages of the database after the last look.
    pub(super) page_count: u32,
    pub(super) commits: u64,
    pub(super) looked: Looked,
}

/// A page in its newest version, and in that of the log's state where it could be read.
#[derive(Default)]
pub(super) struct Page {
    /// Known when it is stored.
    pub(super) hash: BlockHash,
    /// `None` where it is left to be read when it is stored.
    pub(super) content: Option<Arc<Vec<u8>>>,
    /// Often the content of what is being stored.
    pub(super) before: Option<Arc<Vec<u8>>>,
}

impl Page {
    fn bytes(&self) -> usize {
        [&self.content, &self.before].into_iter().flatten().map(|bytes| bytes.len()).sum()
    }
}

impl Collected {
    pub(super) fn none(page_count: u32, looked: Looked) -> Self {
        Collected { pages: BTreeMap::new(), bytes: 0, page_count, commits: 0, looked }
    }

    /// How many more pages of that size may be kept in so many bytes, each with its version before.
    pub(super) fn room(&self, page_bytes: usize, bytes_max: usize) -> usize {
        bytes_max.saturating_sub(self.bytes) / (2 * page_bytes)
    }

    /// Whether the content of a page is kept: then a newer one takes no more.
    pub(super) fn is_kept(&self, page: u32) -> bool {
        self.pages.get(&page).is_some_and(|page| page.content.is_some())
    }

    /// Adds a page, without content where it is left. `before` finds what it was before.
    pub(super) fn add(
        &mut self,
        (page, content): (u32, Option<Vec<u8>>),
        before: impl FnOnce() -> Result<Option<Arc<Vec<u8>>>>,
    ) -> Result<()> {
        let content = content.map(Arc::new);
        if let Some(there) = self.pages.get_mut(&page) {
            self.bytes -= there.bytes();
            there.content = content;
            self.bytes += there.bytes();
            return Ok(());
        }
        let before = if content.is_some() { before()? } else { None };
        let page_of = Page { content, before, ..Page::default() };
        self.bytes += page_of.bytes();
        self.pages.insert(page, page_of);
        Ok(())
    }

    /// Leaves a page to be read when it is stored, if nothing newer is known of it.
    pub(super) fn leave(&mut self, page: u32) {
        if page <= self.page_count {
            self.pages.entry(page).or_default();
        }
    }

    /// Leaves all of them: what was collected is not the newest any more, or may not be.
    pub(super) fn leave_all(&mut self) {
        self.pages.values_mut().for_each(|page| page.content = None);
        self.bytes = self.pages.values().map(Page::bytes).sum();
    }

    /// The pages that were left.
    pub(super) fn left(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().filter(|(_, page)| page.content.is_none()).map(|(number, _)| *number)
    }

    /// That many pages the database has: what was cut off is no page of the state, whatever it
    /// becomes later.
    pub(super) fn cut(&mut self, page_count: u32) {
        if self.pages.last_key_value().is_some_and(|(page, _)| *page > page_count) {
            let cut = self.pages.split_off(&(page_count + 1));
            self.bytes -= cut.values().map(Page::bytes).sum::<usize>();
        }
        self.page_count = page_count;
    }

    /// Takes out what its pages were before, in their order: of use until they are encoded.
    pub(super) fn take_befores(&mut self) -> Vec<Option<Arc<Vec<u8>>>> {
        self.pages.values_mut().map(|page| page.before.take()).collect()
    }

    /// Hashes its pages, and leaves out those that do not differ from a state. Of those that were
    /// left the hashes are known.
    pub(super) fn hash(&mut self, state: &PageState) {
        self.pages.retain(|&page, of| {
            if let Some(content) = &of.content {
                of.hash = block_hash(content);
            }
            state.hash(page) != Some(&of.hash)
        });
    }
}
