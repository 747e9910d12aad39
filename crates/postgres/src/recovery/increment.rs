//! A file of an incremental backup: some blocks of a file, to be put over an older state of it.
//!
//! The layout is PostgreSQL 17's: a magic number, how many blocks there are, how long the file was
//! at its shortest since the older state, the numbers of the blocks, zeros up to the next multiple
//! of a block, then the blocks. What the older state holds beyond that shortest length is obsolete:
//! a block there that is not among those sent is zeros.

use lifeboat_core::{Error, Kind, Result};

use crate::page::{PAGE_BYTES, SEGMENT_BLOCKS};

/// What the name of such a file begins with.
pub const PREFIX: &str = "INCREMENTAL.";
/// The first four bytes.
pub const MAGIC: u32 = 0xd3ae_1f0d;
pub(super) const FIXED_BYTES: usize = 12;

/// What stands before the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementHeader {
    /// How many blocks of the older state are still meant.
    pub truncation_blocks: u32,
    /// The numbers of the blocks that follow, within the file.
    pub blocks: Vec<u32>,
}

/// Such a file while it goes by: its header, then the bytes of its blocks.
#[derive(Default)]
pub(crate) struct IncrementStream {
    begun: Vec<u8>,
    header: Option<IncrementHeader>,
}

impl IncrementStream {
    /// What stands before the blocks, once it has come.
    pub(crate) fn header(&self) -> Option<&IncrementHeader> {
        self.header.as_ref()
    }

    /// Takes bytes of the header. When it is whole: the bytes of blocks that came behind it.
    pub(crate) fn begin(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        self.begun.extend_from_slice(bytes);
        let Some(header) = IncrementHeader::parse(&self.begun)? else { return Ok(None) };
        if self.begun.len() < header.header_bytes() {
            return Ok(None);
        }
        let blocks = self.begun.split_off(header.header_bytes());
        (self.begun, self.header) = (Vec::new(), Some(header));
        Ok(Some(blocks))
    }
}

impl IncrementHeader {
    /// Reads it from the beginning of such a file. `None`: more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else { return Ok(None) };
        let (words, _) = fixed.as_chunks::<4>();
        let [magic, count, truncation_blocks] =
            [0, 1, 2].map(|index| u32::from_le_bytes(words[index]));
        if magic != MAGIC {
            return Err(damaged("it does not begin as such a file does"));
        }
        if count > SEGMENT_BLOCKS || truncation_blocks > SEGMENT_BLOCKS {
            return Err(damaged("it tells of more blocks than a file can have"));
        }
        let Some(numbers) = rest.get(..count as usize * 4) else { return Ok(None) };
        let (words, _) = numbers.as_chunks::<4>();
        let blocks: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let ascending = blocks.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || blocks.last().is_some_and(|last| *last >= SEGMENT_BLOCKS) {
            return Err(damaged("its blocks are not in order"));
        }
        Ok(Some(IncrementHeader { truncation_blocks, blocks }))
    }

    /// How many bytes come before the first block.
    pub fn header_bytes(&self) -> usize {
        let bytes = FIXED_BYTES + self.blocks.len() * 4;
        match self.blocks.is_empty() {
            true => bytes,
            false => bytes.next_multiple_of(PAGE_BYTES),
        }
    }

    /// The size of the whole such file.
    pub fn file_bytes(&self) -> u64 {
        self.header_bytes() as u64 + self.blocks.len() as u64 * PAGE_BYTES as u64
    }

    /// The size of the file that results.
    pub fn result_bytes(&self) -> u64 {
        let beyond = self.blocks.last().map_or(0, |last| last + 1);
        u64::from(self.truncation_blocks.max(beyond)) * PAGE_BYTES as u64
    }

    /// The header as it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.header_bytes());
        let fixed = [MAGIC, self.blocks.len() as u32, self.truncation_blocks];
        for word in fixed.iter().chain(&self.blocks) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(self.header_bytes(), 0);
        bytes
    }
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::CheckFailed, format!("an incremental file is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for blocks in [vec![], vec![0], vec![3, 4, 900], (0..5_000).collect()] {
            let header = IncrementHeader { truncation_blocks: 10, blocks };
            let bytes = header.to_bytes();
            assert_eq!(bytes.len(), header.header_bytes());
            assert_eq!(IncrementHeader::parse(&bytes).unwrap(), Some(header.clone()));
            let beyond = header.blocks.last().map_or(0, |last| u64::from(*last) + 1).max(10);
            assert_eq!(header.result_bytes(), beyond * PAGE_BYTES as u64);
        }
    }

    #[test]
    fn what_is_cut_waits_and_what_is_wrong_is_refused() {
        let header = IncrementHeader { truncation_blocks: 10, blocks: vec![1, 2] };
        let bytes = header.to_bytes();
        for cut in [0, 4, 11, 12, 19] {
            assert_eq!(IncrementHeader::parse(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        for (at, to) in [(0, 1), (7, 9), (11, 9), (12, 2), (19, 9)] {
            let mut changed = bytes.clone();
            changed[at] = to;
            assert!(IncrementHeader::parse(&changed).is_err(), "{at}");
        }
    }
}
