//! Rows per table, counted while the bytes go by, without reading anything twice.
//!
//! Each page of a b-tree says what it is and how many cells it has; each interior page names its
//! children. That is noted for every page that passes, 4 bytes a page and 4 more for each child.
//! When all have passed, each table is walked from its root and the cells of its leaves are
//! summed. The counts are therefore those of the very bytes that were stored.
//!
//! Pages that only look like a b-tree are noted and never reached. A walk that meets a page
//! which does not fit, or one twice, is given up: that table has no count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use lifeboat_core::source::BlockObserver;

/// The b-tree of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRoot {
    /// The table's name.
    pub(crate) name: String,
    /// The page where its b-tree begins.
    pub(crate) page: u32,
}

const LEAF_TABLE: u32 = 1 << 16;
const INTERIOR_TABLE: u32 = 2 << 16;
const LEAF_INDEX: u32 = 3 << 16;
const INTERIOR_INDEX: u32 = 4 << 16;
const KIND_MASK: u32 = 7 << 16;
const CELLS_MASK: u32 = 0xffff;
const VISITED: u32 = 1 << 31;

/// Notes what passes.
pub(crate) struct RowCounter {
    page_size: usize,
    /// Kind and number of cells of each page; 0 for what is no b-tree page.
    pages: Vec<AtomicU32>,
    children: Mutex<Children>,
}

/// The children of all interior pages, in one list.
#[derive(Default)]
struct Children {
    /// Page, where its children begin in `list`, how many.
    spans: Vec<(u32, u32, u32)>,
    list: Vec<u32>,
}

/// The counts, and the tables that could not be walked.
pub(crate) struct RowCounts {
    /// Rows of each table.
    pub(crate) rows: BTreeMap<String, u64>,
    /// Tables whose b-tree does not hold together.
    pub(crate) broken: Vec<String>,
}

impl RowCounter {
    /// A counter for a database of that shape.
    pub(crate) fn new(page_size: u32, page_count: u32) -> Self {
        let pages = (0..page_count).map(|_| AtomicU32::new(0)).collect();
        RowCounter { page_size: page_size as usize, pages, children: Mutex::default() }
    }

    /// Counts the rows of these tables. To be called when all pages have passed.
    pub(crate) fn count(&self, tables: &[TableRoot]) -> RowCounts {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.spans.sort_unstable();
        let mut counts = RowCounts { rows: BTreeMap::new(), broken: Vec::new() };
        for table in tables {
            match self.walk(table.page, &children) {
                Some(rows) => {
                    counts.rows.insert(table.name.clone(), rows);
                }
                None => counts.broken.push(table.name.clone()),
            }
        }
        counts
    }

    fn walk(&self, root: u32, children: &Children) -> Option<u64> {
        let root_kind = self.page(root)?.load(Ordering::Relaxed) & KIND_MASK;
        let (leaf, interior) = match root_kind {
            LEAF_TABLE | INTERIOR_TABLE => (LEAF_TABLE, INTERIOR_TABLE),
            LEAF_INDEX | INTERIOR_INDEX => (LEAF_INDEX, INTERIOR_INDEX),
            _ => return None,
        };
        let mut rows = 0;
        let mut open = vec![root];
        while let Some(page) = open.pop() {
            let noted = self.page(page)?.fetch_or(VISITED, Ordering::Relaxed);
            let (kind, cells) = (noted & KIND_MASK, u64::from(noted & CELLS_MASK));
            if noted & VISITED != 0 || (kind != leaf && kind != interior) {
                return None;
            }
            // A table without rowid keeps rows in its interior pages, too.
            if kind == leaf || kind == INTERIOR_INDEX {
                rows += cells;
            }
            if kind == interior {
                open.extend_from_slice(children.of(page)?);
            }
        }
        Some(rows)
    }

    fn page(&self, page: u32) -> Option<&AtomicU32> {
        self.pages.get(page.checked_sub(1)? as usize)
    }

    /// Notes one page; its children go to `found`.
    fn note(&self, page: u32, bytes: &[u8], found: &mut Children) {
        let start = if page == 1 { 100 } else { 0 };
        let bytes_of_header = &bytes[start..];
        let (kind, is_interior) = match bytes_of_header[0] {
            13 => (LEAF_TABLE, false),
            5 => (INTERIOR_TABLE, true),
            10 => (LEAF_INDEX, false),
            2 => (INTERIOR_INDEX, true),
            _ => return,
        };
        let cells = u32::from(be_half(bytes_of_header, 3));
        if is_interior && !note_children(page, bytes, start, cells, found) {
            return;
        }
        if let Some(noted) = self.page(page) {
            noted.store(kind | cells, Ordering::Relaxed);
        }
    }
}

/// Notes the children of an interior page; `false` where the page contradicts itself.
fn note_children(page: u32, bytes: &[u8], start: usize, cells: u32, found: &mut Children) -> bool {
    let pointers = start + 12;
    let pointers_end = pointers + 2 * cells as usize;
    if pointers_end > bytes.len() {
        return false;
    }
    let begin = found.list.len();
    for cell in 0..cells as usize {
        let at = usize::from(be_half(bytes, pointers + 2 * cell));
        if at < pointers_end || at + 4 > bytes.len() {
            found.list.truncate(begin);
            return false;
        }
        found.list.push(be_word(bytes, at));
    }
    found.list.push(be_word(bytes, start + 8));
    found.spans.push((page, begin as u32, cells + 1));
    true
}

impl Children {
    fn of(&self, page: u32) -> Option<&[u32]> {
        let index = self.spans.binary_search_by_key(&page, |span| span.0).ok()?;
        let (_, begin, count) = self.spans[index];
        self.list.get(begin as usize..begin as usize + count as usize)
    }

    fn absorb(&mut self, other: Children) {
        let shift = self.list.len() as u32;
        self.list.extend_from_slice(&other.list);
        self.spans.extend(other.spans.iter().map(|&(page, at, count)| (page, at + shift, count)));
    }
}

impl BlockObserver for RowCounter {
    fn observe(&self, offset: u64, plain: &[u8]) {
        let mut found = Children::default();
        let first = offset / self.page_size as u64;
        for (index, page) in plain.chunks_exact(self.page_size).enumerate() {
            self.note(first as u32 + index as u32 + 1, page, &mut found);
        }
        if !found.spans.is_empty() {
            self.children.lock().unwrap_or_else(PoisonError::into_inner).absorb(found);
        }
    }
}

fn be_half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(cells: u16) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = 13;
        page[3..5].copy_from_slice(&cells.to_be_bytes());
        page
    }

    fn interior(children: [u32; 2]) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = 5;
        page[3..5].copy_from_slice(&1_u16.to_be_bytes());
        page[8..12].copy_from_slice(&children[1].to_be_bytes());
        page[12..14].copy_from_slice(&500_u16.to_be_bytes());
        page[500..504].copy_from_slice(&children[0].to_be_bytes());
        page
    }

    fn count(pages: &[Vec<u8>], root: u32) -> Option<u64> {
        let counter = RowCounter::new(512, pages.len() as u32 + 1);
        for (index, page) in pages.iter().enumerate().rev() {
            counter.observe((index as u64 + 1) * 512, page);
        }
        let table = TableRoot { name: "t".into(), page: root };
        counter.count(&[table]).rows.get("t").copied()
    }

    #[test]
    fn leaves_are_summed_in_any_order() {
        assert_eq!(count(&[interior([3, 4]), leaf(7), leaf(9)], 2), Some(16));
    }

    #[test]
    fn a_cycle_a_lost_page_and_a_foreign_page_give_no_count() {
        assert_eq!(count(&[interior([3, 2]), leaf(7)], 2), None);
        assert_eq!(count(&[interior([3, 99]), leaf(7)], 2), None);
        assert_eq!(count(&[interior([3, 4]), leaf(7), vec![0; 512]], 2), None);
        assert_eq!(count(&[interior([3, 3]), leaf(7)], 2), None);
        assert_eq!(count(&[leaf(7)], 0), None);
    }
}
