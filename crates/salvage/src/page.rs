//! One page of a b-tree: what it says of itself, and whether that can be true.

use std::ops::Range;

use crate::bytes::{half, varint, word};

/// What a disk loses at the least.
pub(crate) const SECTOR_BYTES: usize = 512;

/// What a b-tree page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rows of a table.
    TableLeaf,
    /// Children of a table's tree, with the highest rowid of each.
    TableInterior,
    /// Entries of an index, or rows of a table without rowids.
    IndexLeaf,
    /// The same, with children between them.
    IndexInterior,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            13 => Some(Kind::TableLeaf),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            2 => Some(Kind::IndexInterior),
            _ => None,
        }
    }

    /// Whether it has no children.
    pub(crate) fn is_leaf(self) -> bool {
        matches!(self, Kind::TableLeaf | Kind::IndexLeaf)
    }

    /// Whether it is of a tree with rowids.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Kind::TableLeaf | Kind::TableInterior)
    }
}

/// A page that can be one of a b-tree.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a> {
    bytes: &'a [u8],
    start: usize,
    /// What it holds.
    pub(crate) kind: Kind,
    /// How many cells it says that it has.
    pub(crate) cells: usize,
}

/// A cell of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// The page to its left; 0 on leaves.
    pub(crate) child: u32,
    /// The rowid, in trees of tables.
    pub(crate) rowid: i64,
    /// Bytes of the payload, in all.
    pub(crate) total: u64,
    /// Where the beginning of the payload stands on the page.
    pub(crate) local: Range<usize>,
    /// The page where the payload goes on; 0 where all of it is here.
    pub(crate) overflow: u32,
    /// Where the cell ends on the page.
    end: usize,
}

impl Cell {
    /// Where it ends on its page.
    pub(crate) fn end(&self) -> usize {
        self.end
    }
}

impl<'a> Page<'a> {
    /// Takes the bytes for a b-tree page. `None` where they cannot be one. `usable` are the bytes
    /// of a page without those that belong to an extension.
    pub(crate) fn parse(number: u32, bytes: &'a [u8], usable: usize) -> Option<Self> {
        let start = if number == 1 { 100 } else { 0 };
        let bytes = bytes.get(..usable)?;
        let kind = Kind::of(*bytes.get(start)?)?;
        let page = Page { bytes, start, kind, cells: half(bytes, start + 3)? };
        (page.pointers_end() <= usable).then_some(page)
    }

    /// The bytes of the page that belong to it.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn pointers(&self) -> usize {
        self.start + if self.kind.is_leaf() { 8 } else { 12 }
    }

    fn pointers_end(&self) -> usize {
        self.pointers() + 2 * self.cells
    }

    /// The child behind the last cell.
    pub(crate) fn right_child(&self) -> Option<u32> {
        if self.kind.is_leaf() { None } else { word(self.bytes, self.start + 8) }
    }

    /// Where a cell begins; `None` where that cannot be.
    fn pointer(&self, index: usize) -> Option<usize> {
        let at = half(self.bytes, self.pointers() + 2 * index)?;
        (at >= self.pointers_end() && at < self.bytes.len()).then_some(at)
    }

    /// A cell; `None` where it cannot be one.
    pub(crate) fn cell(&self, index: usize) -> Option<Cell> {
        let begin = self.pointer(index)?;
        let mut at = begin;
        let child = match self.kind.is_leaf() {
            true => 0,
            false => {
                at += 4;
                word(self.bytes, begin)?
            }
        };
        let mut cell = Cell { child, rowid: 0, total: 0, local: at..at, overflow: 0, end: at };
        if self.kind != Kind::TableInterior {
            let (total, length) = varint(self.bytes, at)?;
            cell.total = total;
            at += length;
        }
        if self.kind.is_table() {
            let (rowid, length) = varint(self.bytes, at)?;
            cell.rowid = rowid as i64;
            at += length;
        }
        let local = match self.kind {
            Kind::TableInterior => 0,
            _ => local_bytes(cell.total, self.bytes.len(), self.kind.is_table()),
        };
        cell.local = at..at.checked_add(local)?;
        cell.end = cell.local.end;
        if (local as u64) < cell.total {
            cell.overflow = word(self.bytes, cell.end)?;
            cell.end += 4;
        }
        (cell.end <= self.bytes.len()).then_some(cell)
    }

    /// Whether a sector within its content is empty, as where a disk lost it.
    pub(crate) fn has_hole(&self) -> bool {
        let top = half(self.bytes, self.start + 5).unwrap_or(0).max(self.pointers_end());
        let first = top.next_multiple_of(SECTOR_BYTES).min(self.bytes.len());
        has_empty_sector(&self.bytes[first..])
    }

    /// Whether every byte of its content is accounted for once: by cells, by the list of free
    /// blocks, or by the count of fragments. Pages that SQLite wrote are; few changes of a page's
    /// structure stay unseen.
    pub(crate) fn is_exact(&self) -> bool {
        self.accounted().unwrap_or(false)
    }

    fn accounted(&self) -> Option<bool> {
        let usable = self.bytes.len();
        let top = match half(self.bytes, self.start + 5)? {
            0 => 65536,
            top => top,
        };
        if top > usable || top < self.pointers_end() {
            return None;
        }
        let mut spans = Vec::with_capacity(self.cells + 4);
        for index in 0..self.cells {
            let (begin, cell) = (self.pointer(index)?, self.cell(index)?);
            // What is freed of a cell must hold the four bytes of a free block.
            spans.push((begin, cell.end.max(begin + 4)));
        }
        let mut at = half(self.bytes, self.start + 1)?;
        while at != 0 {
            let (next, bytes) = (half(self.bytes, at)?, half(self.bytes, at + 2)?);
            if bytes < 4 || (next != 0 && next < at + bytes + 4) || at + bytes > usable {
                return None;
            }
            spans.push((at, at + bytes));
            at = next;
        }
        spans.sort_unstable();
        let (mut end, mut fragments) = (top, 0);
        for (from, to) in spans {
            fragments += from.checked_sub(end)?;
            end = to;
        }
        fragments += usable.checked_sub(end)?;
        Some(fragments == usize::from(self.bytes[self.start + 7]))
    }
}

/// Whether one of the sectors is empty.
pub(crate) fn has_empty_sector(bytes: &[u8]) -> bool {
    bytes.chunks_exact(SECTOR_BYTES).any(|sector| sector.iter().all(|&byte| byte == 0))
}

/// How much of a payload stands on the page itself, by SQLite's rule.
fn local_bytes(total: u64, usable: usize, is_table: bool) -> usize {
    let least = (usable - 12) * 32 / 255 - 23;
    let most = if is_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    if total <= most as u64 {
        return total as usize;
    }
    let fitting = least + ((total - least as u64) % (usable as u64 - 4)) as usize;
    if fitting <= most { fitting } else { least }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[0] = 13;
        bytes[3..5].copy_from_slice(&2_u16.to_be_bytes());
        bytes[5..7].copy_from_slice(&500_u16.to_be_bytes());
        bytes[8..10].copy_from_slice(&506_u16.to_be_bytes());
        bytes[10..12].copy_from_slice(&500_u16.to_be_bytes());
        bytes[500..506].copy_from_slice(&[4, 2, 2, 1, 1, 7]);
        bytes[506..512].copy_from_slice(&[4, 1, 2, 1, 1, 9]);
        bytes
    }

    #[test]
    fn a_page_that_sqlite_would_write_is_exact() {
        let bytes = leaf();
        let page = Page::parse(2, &bytes, 512).unwrap();
        assert!(page.is_exact());
        let cell = page.cell(0).unwrap();
        assert_eq!((cell.rowid, cell.total, cell.local), (1, 4, 508..512));
    }

    #[test]
    fn no_change_of_the_structure_stays_unseen() {
        for at in (3..7).chain(8..12).chain([500, 506]) {
            for bit in 0..8 {
                let mut bytes = leaf();
                bytes[at] ^= 1 << bit;
                let exact = Page::parse(2, &bytes, 512).is_some_and(|page| page.is_exact());
                assert!(!exact, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn no_bytes_break_it() {
        let mut state = 7_u64;
        for round in 0..20_000 {
            let mut bytes = leaf();
            for _ in 0..=round % 9 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % 512;
                bytes[at] = (state >> 25) as u8;
            }
            for number in [1, 2] {
                if let Some(page) = Page::parse(number, &bytes, 512) {
                    page.is_exact();
                    for index in 0..page.cells {
                        if let Some(cell) = page.cell(index) {
                            assert!(cell.end <= 512 && cell.local.end <= 512);
                        }
                    }
                }
            }
        }
    }
}
