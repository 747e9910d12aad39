//! Hashes: SHA-256 of whole artifacts, and 16 bytes of BLAKE3 for each block.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// The first 16 bytes of a block's BLAKE3 hash.
pub type BlockHash = [u8; 16];

/// Hashes one block.
pub fn block_hash(block: &[u8]) -> BlockHash {
    shortened(blake3::hash(block).as_bytes())
}

/// What is kept of a block's hash.
pub(super) fn shortened(hash: &[u8; blake3::OUT_LEN]) -> BlockHash {
    let mut short = BlockHash::default();
    short.copy_from_slice(&hash[..16]);
    short
}

/// A SHA-256 that prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Hex(pub [u8; 32]);

impl Sha256Hex {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256Hex(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The hashes of an artifact's blocks, as they are kept beside it (`.pages.zst`).
///
/// Layout, little-endian: the magic `LBPAGES1`, block size in bytes (u32), zero (u32), number of
/// blocks (u64), then 16 bytes a block: the first half of the BLAKE3 of its plain bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlockHashes {
    /// Size of a block in bytes. The last one may be shorter.
    pub block_bytes: u32,
    /// The hashes, in the order of the blocks.
    pub hashes: Arc<Vec<BlockHash>>,
}

const MAGIC: &[u8; 8] = b"LBPAGES1";
const HEADER_BYTES: usize = 24;

impl BlockHashes {
    /// The header; the hashes follow it as they are.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&self.block_bytes.to_le_bytes());
        header[16..].copy_from_slice(&(self.hashes.len() as u64).to_le_bytes());
        header
    }

    /// Size in bytes of header and hashes.
    pub fn plain_bytes(&self) -> u64 {
        (HEADER_BYTES + self.hashes.len() * size_of::<BlockHash>()) as u64
    }

    /// Reads what [`BlockHashes::header`] and the hashes make.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(Kind::CheckFailed, "the page hashes are damaged");
        let (header, hashes) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
        let number = |range: std::ops::Range<usize>| {
            let mut word = [0; 8];
            word[..range.len()].copy_from_slice(&header[range]);
            u64::from_le_bytes(word)
        };
        let (hashes, rest) = hashes.as_chunks::<16>();
        if &header[..8] != MAGIC || number(16..24) != hashes.len() as u64 || !rest.is_empty() {
            return Err(damaged());
        }
        Ok(BlockHashes { block_bytes: number(8..12) as u32, hashes: Arc::new(hashes.to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_hashes_round_trip_and_damage_is_seen() {
        let hashes = BlockHashes { block_bytes: 4096, hashes: Arc::new(vec![[7; 16], [9; 16]]) };
        let mut bytes = hashes.header().to_vec();
        bytes.extend(hashes.hashes.as_flattened());
        assert_eq!(bytes.len() as u64, hashes.plain_bytes());
        assert_eq!(BlockHashes::parse(&bytes).unwrap(), hashes);
        for cut in 0..bytes.len() {
            assert!(BlockHashes::parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
