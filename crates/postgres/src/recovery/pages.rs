//! Pages that go by: counted, and the damaged ones named.

use std::collections::BTreeMap;

use crate::page::{PAGE_BYTES, PageVerdict, RelationFile, judge};

/// So many damaged pages are named; all are counted.
const NAMED_MAX: usize = 1_000;

/// A page that is not what the server wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub path: String,
    /// Its number in that file.
    pub block: u32,
}

/// What was found among pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages that were looked at.
    pub pages: u64,
    /// Of these: added by the server and not filled yet.
    pub new: u64,
    /// Of these: half written while the backup read them. The log holds them whole.
    pub newer: u64,
    /// Of these: damaged.
    pub damaged: u64,
    /// Those of them that are named.
    pub named: Vec<DamagedPage>,
}

impl PageCounts {
    /// Judges a page and counts it.
    pub fn take(
        &mut self,
        path: &str,
        file: RelationFile,
        block: u32,
        page: &[u8],
        newer_than: Option<u64>,
    ) {
        self.pages += 1;
        match judge(page, file.first_block().wrapping_add(block), newer_than) {
            PageVerdict::Sound => {}
            PageVerdict::New => self.new += 1,
            PageVerdict::Newer => self.newer += 1,
            PageVerdict::Damaged { .. } => {
                self.damaged += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(DamagedPage { path: path.to_owned(), block });
                }
            }
        }
    }

    /// Adds what others found.
    pub fn add(&mut self, other: PageCounts) {
        self.pages += other.pages;
        self.new += other.new;
        self.newer += other.newer;
        self.damaged += other.damaged;
        let room = NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(other.named.into_iter().take(room));
    }

    /// The damaged pages for people, a line for each file, no more than so many.
    pub fn lines(&self, lines_max: usize) -> Vec<String> {
        let mut files: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for page in &self.named {
            files.entry(&page.path).or_default().push(page.block);
        }
        let many = files.len().saturating_sub(lines_max);
        let line = |(path, blocks): (&str, Vec<u32>)| {
            let first: Vec<String> = blocks.iter().take(8).map(u32::to_string).collect();
            let more = if blocks.len() > 8 { ", ..." } else { "" };
            format!("{path}: the checksum is wrong of block {}{more}", first.join(", "))
        };
        let mut lines: Vec<String> = files.into_iter().take(lines_max).map(line).collect();
        if many > 0 {
            lines.push(format!("and of blocks in {many} more files"));
        }
        lines
    }
}

/// Cuts bytes into pages, whatever the pieces are in which they come.
#[derive(Default)]
pub(crate) struct PageCutter {
    begun: Vec<u8>,
    next: usize,
}

impl PageCutter {
    /// Takes the next bytes and shows each page with its place among them.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut show: impl FnMut(usize, &[u8])) {
        if !self.begun.is_empty() {
            let missing = (PAGE_BYTES - self.begun.len()).min(bytes.len());
            self.begun.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.begun.len() < PAGE_BYTES {
                return;
            }
            show(self.next, &self.begun);
            self.next += 1;
            self.begun.clear();
        }
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        for page in pages {
            show(self.next, page);
            self.next += 1;
        }
        self.begun.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_cut_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..5 * PAGE_BYTES + 77).map(|at| (at / PAGE_BYTES) as u8).collect();
        for piece in [1, 100, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, bytes.len()] {
            let (mut cutter, mut seen) = (PageCutter::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                cutter.push(piece, |index, page| seen.push((index, page[0], page[8_191])));
            }
            assert_eq!(seen, (0..5).map(|n| (n, n as u8, n as u8)).collect::<Vec<_>>(), "{piece}");
        }
    }

    #[test]
    fn damaged_pages_are_told_by_file() {
        let mut counts = PageCounts::default();
        let file = RelationFile::of_name("5").unwrap();
        let page = [1_u8; PAGE_BYTES];
        for block in 0..20 {
            counts.take("base/1/5", file, block, &page, None);
        }
        counts.take("base/1/6", file, 3, &page, None);
        counts.take("base/1/6", file, 3, &[0; PAGE_BYTES], None);
        assert_eq!((counts.pages, counts.new, counts.damaged), (22, 1, 21));
        let lines = counts.lines(1);
        assert_eq!(
            lines[0],
            "base/1/5: the checksum is wrong of block 0, 1, 2, 3, 4, 5, 6, 7, ..."
        );
        assert_eq!(lines[1], "and of blocks in 1 more files");
    }
}
