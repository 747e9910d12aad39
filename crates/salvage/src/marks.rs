//! What is known of each page: one byte for each.

const TREE: u8 = 1;
const OVERFLOW: u8 = 2;
const SHARED: u8 = 4;
const FREE: u8 = 8;

/// Who claims each page.
pub(crate) struct Marks(Vec<u8>);

impl Marks {
    pub(crate) fn new(pages: u32) -> Self {
        Marks(vec![0; pages as usize])
    }

    fn at(&mut self, page: u32) -> Option<&mut u8> {
        self.0.get_mut((page as usize).checked_sub(1)?)
    }

    fn has(&self, page: u32, bits: u8) -> bool {
        let index = (page as usize).checked_sub(1);
        index.and_then(|index| self.0.get(index)).is_some_and(|mark| mark & bits != 0)
    }

    fn claim(&mut self, page: u32, bit: u8) -> bool {
        let Some(mark) = self.at(page) else { return false };
        let is_first = *mark & (TREE | OVERFLOW) == 0;
        *mark |= bit | if is_first { 0 } else { SHARED };
        is_first
    }

    /// Claims a page for a tree; `false` where something had it before, or it is not there.
    pub(crate) fn claim_tree(&mut self, page: u32) -> bool {
        self.claim(page, TREE)
    }

    /// Claims a page for a long value; the same.
    pub(crate) fn claim_overflow(&mut self, page: u32) -> bool {
        self.claim(page, OVERFLOW)
    }

    /// Notes a page as free; `false` where something holds it, or it is not there.
    pub(crate) fn set_free(&mut self, page: u32) -> bool {
        let Some(mark) = self.at(page) else { return false };
        let is_unclaimed = *mark == 0;
        *mark |= FREE;
        is_unclaimed
    }

    /// Whether more than one claimed it.
    pub(crate) fn is_shared(&self, page: u32) -> bool {
        self.has(page, SHARED)
    }

    /// Whether a tree or a long value has it.
    pub(crate) fn is_claimed(&self, page: u32) -> bool {
        self.has(page, TREE | OVERFLOW)
    }

    /// Whether it is one of a tree.
    pub(crate) fn is_tree(&self, page: u32) -> bool {
        self.has(page, TREE)
    }

    /// Whether it is on the list of free pages, and nothing holds it.
    pub(crate) fn is_free(&self, page: u32) -> bool {
        self.has(page, FREE) && !self.is_claimed(page)
    }
}
