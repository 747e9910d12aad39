//! Going through the frames of a `-wal` as long as their chain of checksums holds, and keeping what
//! was read of it.

use std::fs::File;

use lifeboat_core::Result;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

use super::wal::{
    FRAME_HEADER_BYTES, Place, WalHeader, be_word, checksum, frame_offset, unreadable,
};

/// How much of a `-wal` is read at once.
const SCAN_BYTES: usize = 1 << 20;

/// What a frame says of itself.
pub(super) struct Frame {
    pub(super) page: u32,
    pub(super) commit_pages: u32,
}

/// Goes through the frames of a log.
pub(super) struct Scanner<'a> {
    file: &'a File,
    header: &'a WalHeader,
    /// The last frame that was good, and the cumulative checksum after it.
    pub(super) place: Place,
    /// So much is read at once, in bytes.
    block_bytes: usize,
    /// What was read last, and how far it was gone through, in bytes.
    block: Block,
    consumed: usize,
    /// What was read before, where it is kept.
    copies: Option<Copies>,
}

impl<'a> Scanner<'a> {
    /// From the beginning.
    pub(super) fn new(file: &'a File, header: &'a WalHeader) -> Self {
        Scanner::from(file, header, header.start(), u32::MAX)
    }

    /// From a place on, where about so many frames are wanted.
    pub(super) fn from(file: &'a File, header: &'a WalHeader, place: Place, frames: u32) -> Self {
        let frame_bytes = frame_bytes(header);
        let frames = (SCAN_BYTES / frame_bytes).min(frames as usize).max(1);
        let block_bytes = frames * frame_bytes;
        Scanner {
            file,
            header,
            place,
            block_bytes,
            block: Block::default(),
            consumed: 0,
            copies: None,
        }
    }

    /// The same, which keeps what it reads if that is no more than so many bytes.
    pub(super) fn keeping(self, bytes_max: usize) -> Self {
        Scanner { copies: Some(Copies { blocks: Vec::new(), bytes: 0, bytes_max }), ..self }
    }

    /// What was kept, where that was not too much.
    pub(super) fn into_copies(mut self) -> Option<Copies> {
        self.keep();
        self.copies
    }

    pub(super) fn next(&mut self) -> Result<Option<Frame>> {
        let frame_bytes = frame_bytes(self.header);
        if self.consumed == self.block.bytes.len() {
            self.read()?;
            if self.block.bytes.is_empty() {
                return Ok(None);
            }
        }
        let raw = &self.block.bytes[self.consumed..self.consumed + frame_bytes];
        let page = be_word(raw, 0);
        if page == 0 || &raw[8..16] != self.header.salts() {
            return Ok(None);
        }
        let sum = checksum(self.header.big_endian, self.place.checksum, &raw[..8]);
        let sum = checksum(self.header.big_endian, sum, &raw[FRAME_HEADER_BYTES..]);
        if sum != (be_word(raw, 16), be_word(raw, 20)) {
            return Ok(None);
        }
        let commit_pages = be_word(raw, 4);
        self.place = Place { frame: self.place.frame + 1, checksum: sum };
        self.consumed += frame_bytes;
        Ok(Some(Frame { page, commit_pages }))
    }

    /// Reads on, as many whole frames as there are.
    fn read(&mut self) -> Result<()> {
        self.keep();
        let mut bytes = std::mem::take(&mut self.block.bytes);
        bytes.clear();
        bytes.reserve_exact(self.block_bytes);
        let first = self.place.frame + 1;
        let offset = frame_offset(self.header.page_size, first);
        // Into room that was not filled with zeros before: that takes as long as to copy it.
        while bytes.len() < self.block_bytes {
            let at = offset + bytes.len() as u64;
            match pread(self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(unreadable(error.into())),
            }
        }
        bytes.truncate(bytes.len() / frame_bytes(self.header) * frame_bytes(self.header));
        (self.block, self.consumed) = (Block { first, bytes }, 0);
        Ok(())
    }

    /// Keeps what was read last, if that is not too much.
    fn keep(&mut self) {
        let Some(copies) = &mut self.copies else { return };
        let block = std::mem::take(&mut self.block);
        self.consumed = 0;
        if !block.bytes.is_empty() && !copies.add(block) {
            self.copies = None;
        }
    }
}

fn frame_bytes(header: &WalHeader) -> usize {
    FRAME_HEADER_BYTES + header.page_size as usize
}

/// Frames one behind the other, as they stand in the file.
#[derive(Default)]
struct Block {
    /// The number of the first.
    first: u32,
    bytes: Vec<u8>,
}

/// Frames as they were read.
pub(super) struct Copies {
    blocks: Vec<Block>,
    bytes: usize,
    bytes_max: usize,
}

impl Copies {
    /// Whether there was room for it.
    fn add(&mut self, block: Block) -> bool {
        self.bytes += block.bytes.len();
        self.blocks.push(block);
        self.bytes <= self.bytes_max
    }

    /// The page of so many bytes in a frame.
    pub(super) fn page(&self, frame: u32, page_bytes: usize) -> Option<&[u8]> {
        let frame_bytes = FRAME_HEADER_BYTES + page_bytes;
        self.blocks.iter().find_map(|Block { first, bytes }| {
            let at = frame.checked_sub(*first)? as usize * frame_bytes;
            bytes.get(at + FRAME_HEADER_BYTES..at + frame_bytes)
        })
    }

    /// Both; a frame that each has is that of the first: the last block of one may hold more than
    /// was wanted.
    pub(super) fn and(mut self, other: Copies) -> Copies {
        self.blocks.extend(other.blocks);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: usize = 512;

    fn block(first: u32, fills: &[u8]) -> Block {
        let frame = |fill: &u8| vec![*fill; FRAME_HEADER_BYTES + PAGE_BYTES];
        Block { first, bytes: fills.iter().flat_map(frame).collect() }
    }

    fn copies(blocks: Vec<Block>, frames_max: usize) -> Option<Copies> {
        let bytes_max = frames_max * (FRAME_HEADER_BYTES + PAGE_BYTES);
        let mut copies = Copies { blocks: Vec::new(), bytes: 0, bytes_max };
        blocks.into_iter().all(|block| copies.add(block)).then_some(copies)
    }

    #[test]
    fn frames_are_found_by_their_number_and_too_many_are_not_kept() {
        let tail = copies(vec![block(8, &[18, 19]), block(10, &[20])], 3).unwrap();
        // Read a little further than was wanted, to where the other begins.
        let new = copies(vec![block(1, &[1, 2, 3, 4, 5, 6, 7, 99])], 8).unwrap();
        let both = tail.and(new);
        let fill = |frame| both.page(frame, PAGE_BYTES).map(|page| (page.len(), page[0]));
        assert_eq!([1, 7].map(fill), [1, 7].map(|fill| Some((PAGE_BYTES, fill))));
        assert_eq!([8, 9, 10].map(fill), [18, 19, 20].map(|fill| Some((PAGE_BYTES, fill))));
        assert_eq!([0, 11].map(fill), [None, None]);
        assert!(copies(vec![block(8, &[18, 19]), block(10, &[20])], 2).is_none());
    }
}
