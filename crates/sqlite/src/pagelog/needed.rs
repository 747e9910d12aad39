//! Which versions of pages a way through a log needs, seen from its end. What a later version
//! replaces that is no difference from it, need not be read, and a file of such pages not at all.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::repository::Repository;

use super::chain::Step;
use super::layout::Index;

/// Indexes that are in memory at once, for each reader.
const INDEXES: usize = 4;

/// The versions that are needed: a bit for each that is stored.
pub(super) struct Needed {
    /// By file, then by the place in its index. Empty where nothing is known.
    bits: Vec<Vec<u64>>,
}

impl Needed {
    /// Nothing is known: all are needed.
    pub(super) fn unknown() -> Self {
        Needed { bits: Vec::new() }
    }

    /// Reads the index of each file, from the end on.
    pub(super) fn of(env: &Env, repository: &Repository, steps: &[Step]) -> Result<Self> {
        let end = steps.last().map_or(0, |(_, footer)| footer.page_count.1 as usize);
        let counts = steps.iter().map(|(_, footer)| footer.page_count);
        let most = counts.map(|(before, after)| before.max(after)).max().unwrap_or(0) as usize;
        // Of each page, whether a version before the place that was reached is needed.
        let mut pages: Vec<bool> = (0..most).map(|page| page < end).collect();
        let mut needed = Needed { bits: vec![Vec::new(); steps.len()] };
        let readers = repository.store().readers().max(1);
        let places: Vec<usize> = (0..steps.len()).rev().collect();
        for some in places.chunks(readers * INDEXES) {
            env.proceed()?;
            let indexes = in_parallel(some, readers, |&at| {
                let (object, footer) = &steps[at];
                object.index_alone(repository, footer)
            });
            for (&at, index) in some.iter().zip(indexes) {
                let before = steps[at].1.page_count.0;
                needed.bits[at] = take(&index?, before, &mut pages);
            }
        }
        Ok(needed)
    }

    /// Whether the version is needed that is at this place in the index of that file.
    pub(super) fn has(&self, at: usize, number: usize) -> bool {
        self.bits.get(at).is_none_or(|bits| bits[number / 64] >> (number % 64) & 1 == 1)
    }

    /// Whether none of that file is.
    pub(super) fn has_none(&self, at: usize) -> bool {
        self.bits.get(at).is_some_and(|bits| bits.iter().all(|bits| *bits == 0))
    }
}

/// The bits of a file. `pages` says which pages are needed behind it, and then before it.
fn take(index: &Index, count_before: u32, pages: &mut [bool]) -> Vec<u64> {
    let mut bits = vec![0; index.len().div_ceil(64)];
    let mut needs_other = false;
    for (number, entry) in index.entries().enumerate() {
        // The index says that it is at most the last page of the state behind the file.
        let page = &mut pages[entry.page as usize - 1];
        if *page {
            bits[number / 64] |= 1 << (number % 64);
            *page = entry.form.needs_own();
            needs_other |= entry.form.needs_other();
        }
    }
    if needs_other {
        // From which one is with what is stored; it is one of the same file.
        let there = index.entries().filter(|entry| entry.page <= count_before);
        there.for_each(|entry| pages[entry.page as usize - 1] = true);
    }
    bits
}
