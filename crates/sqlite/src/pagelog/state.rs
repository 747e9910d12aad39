//! The state of a database as hashes: one for each page, and a digest of them all.
//!
//! The digest is the root of a tree over the page hashes in groups of 256, so that a commit costs
//! the hashing of its pages' groups and of one hash a group, and not of all pages. A sum or an
//! exclusive-or of page hashes would be cheaper still, but pages could be made that cancel each
//! other out; here a collision would be one of BLAKE3.

use lifeboat_core::pipeline::BlockHash;

/// How many page hashes are hashed together.
const GROUP_PAGES: usize = 256;

/// The digest of a state: equal for equal page size, page count and pages.
pub(crate) type StateDigest = [u8; 32];

/// The hashes of all pages of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageState {
    page_size: u32,
    hashes: Vec<BlockHash>,
    /// One for each group; `None` where a page of it has changed.
    groups: Vec<Option<[u8; 32]>>,
}

impl PageState {
    /// A state of those pages.
    pub(crate) fn new(page_size: u32, hashes: Vec<BlockHash>) -> Self {
        let groups = vec![None; hashes.len().div_ceil(GROUP_PAGES)];
        PageState { page_size, hashes, groups }
    }

    /// Page size in bytes.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// How many pages it has.
    pub(crate) fn page_count(&self) -> u32 {
        self.hashes.len() as u32
    }

    /// The hash of a page; pages count from 1.
    pub(crate) fn hash(&self, page: u32) -> Option<&BlockHash> {
        self.hashes.get((page as usize).checked_sub(1)?)
    }

    /// Cuts the state, or lengthens it by pages whose hashes must be set.
    pub(crate) fn resize(&mut self, page_count: u32) {
        let (before, after) = (self.hashes.len(), page_count as usize);
        self.hashes.resize(after, BlockHash::default());
        self.groups.resize(after.div_ceil(GROUP_PAGES), None);
        // The group in which the shorter of both ends has other members now.
        if before != after
            && let Some(group) = self.groups.get_mut(before.min(after) / GROUP_PAGES)
        {
            *group = None;
        }
    }

    /// Sets the hash of a page of the state.
    pub(crate) fn set(&mut self, page: u32, hash: BlockHash) {
        let index = page as usize - 1;
        if self.hashes[index] != hash {
            self.hashes[index] = hash;
            self.groups[index / GROUP_PAGES] = None;
        }
    }

    /// The digest.
    pub(crate) fn digest(&mut self) -> StateDigest {
        let mut root = blake3::Hasher::new();
        root.update(b"LBSTATE1");
        root.update(&self.page_size.to_le_bytes());
        root.update(&(self.hashes.len() as u32).to_le_bytes());
        for (group, hashes) in self.groups.iter_mut().zip(self.hashes.chunks(GROUP_PAGES)) {
            let digest = || *blake3::hash(hashes.as_flattened()).as_bytes();
            root.update(group.get_or_insert_with(digest));
        }
        *root.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(seed: u64) -> BlockHash {
        lifeboat_core::pipeline::block_hash(&seed.to_le_bytes())
    }

    fn fresh(state: &PageState) -> StateDigest {
        PageState::new(state.page_size, state.hashes.clone()).digest()
    }

    proptest! {
        #[test]
        fn what_changed_step_by_step_has_the_digest_of_the_whole(
            first in 0_u32..1500,
            steps in proptest::collection::vec((0_u32..1500, any::<u64>(), any::<bool>()), 0..40),
        ) {
            let mut state = PageState::new(4096, (0..u64::from(first)).map(hash).collect());
            state.digest();
            for (page, seed, resize) in steps {
                if resize {
                    state.resize(page);
                } else if (1..=state.page_count()).contains(&page) {
                    state.set(page, hash(seed));
                }
                prop_assert_eq!(state.digest(), fresh(&state));
            }
        }
    }

    #[test]
    fn order_size_and_count_matter() {
        let digest = |size, seeds: &[u64]| {
            PageState::new(size, seeds.iter().copied().map(hash).collect()).digest()
        };
        let all = [
            digest(4096, &[1, 2]),
            digest(4096, &[2, 1]),
            digest(8192, &[1, 2]),
            digest(4096, &[1, 2, 2]),
            digest(4096, &[]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
    }
}
