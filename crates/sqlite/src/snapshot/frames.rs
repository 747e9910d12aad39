//! Which page stands where in a `-wal` or a journal: a compact, sorted map.
//!
//! Eight bytes a page, whatever the file's size: positions are pushed as a scan meets them and
//! are sorted and thinned out now and then, so that a page that was written a thousand times
//! takes one entry.

use std::ops::Range;

/// Which of several entries of one page counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The earliest: a rollback journal's first image of a page is its original.
    First,
    /// The latest: a `-wal`'s last frame of a page is its newest state.
    Last,
}

/// A map from page number to position, where positions count frames or records.
#[derive(Debug)]
pub(crate) struct PageMap {
    keep: Keep,
    entries: Vec<(u32, u32)>,
    sorted: usize,
}

/// Entries that are pushed before the first thinning out.
const UNSORTED_MIN: usize = 16 * 1024;

impl PageMap {
    /// An empty map.
    pub(crate) fn new(keep: Keep) -> Self {
        PageMap { keep, entries: Vec::new(), sorted: 0 }
    }

    /// Notes that the page stands at that position. Positions must come in rising order.
    pub(crate) fn push(&mut self, page: u32, position: u32) {
        self.entries.push((page, position));
        if self.entries.len() >= UNSORTED_MIN.max(self.sorted * 2) {
            self.settle();
        }
    }

    /// Sorts what was pushed. To be called after the last push.
    pub(crate) fn settle(&mut self) {
        self.entries.sort_unstable();
        match self.keep {
            Keep::First => self.entries.dedup_by_key(|entry| entry.0),
            Keep::Last => self.entries.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 = later.1;
                }
                same
            }),
        }
        self.sorted = self.entries.len();
    }

    /// The entries of those pages, sorted by page. The map must be settled.
    pub(crate) fn range(&self, pages: Range<u32>) -> &[(u32, u32)] {
        debug_assert_eq!(self.sorted, self.entries.len());
        let from = self.entries.partition_point(|entry| entry.0 < pages.start);
        let to = self.entries.partition_point(|entry| entry.0 < pages.end);
        &self.entries[from..to]
    }

    /// Whether the page is in the map; slow until the map is settled.
    pub(crate) fn contains(&self, page: u32) -> bool {
        let (sorted, pushed) = self.entries.split_at(self.sorted);
        sorted.binary_search_by_key(&page, |entry| entry.0).is_ok()
            || pushed.iter().any(|entry| entry.0 == page)
    }

    /// Where the page stands. The map must be settled.
    pub(crate) fn position(&self, page: u32) -> Option<u32> {
        let found = self.entries.binary_search_by_key(&page, |entry| entry.0);
        found.ok().map(|at| self.entries[at].1)
    }

    /// All entries, sorted by page. The map must be settled.
    pub(crate) fn entries(&self) -> &[(u32, u32)] {
        &self.entries
    }

    /// How many pages are in the map.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no page is in the map.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_or_the_first_position_counts_across_thinning_out() {
        let mut last = PageMap::new(Keep::Last);
        let mut first = PageMap::new(Keep::First);
        for position in 0..100_000_u32 {
            last.push(position % 77 + 1, position);
            first.push(position % 77 + 1, position);
        }
        last.settle();
        first.settle();
        assert_eq!(last.len(), 77);
        assert!(last.entries.capacity() <= 2 * UNSORTED_MIN);
        assert_eq!(first.range(1..3), &[(1, 0), (2, 1)]);
        let newest = |page: u32| (0..100_000).rev().find(|at| at % 77 + 1 == page);
        assert_eq!(last.range(40..41), &[(40, newest(40).unwrap())]);
        assert!(last.range(78..500).is_empty());
    }
}
