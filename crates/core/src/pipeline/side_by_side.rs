//! Hashing many blocks of one size at once.
//!
//! BLAKE3 is fast where a processor compresses eight chunks of a kilobyte (or sixteen) in one go. A
//! page of 4 KiB has four, so that half of what the processor could do lies idle, and each of the
//! three nodes above them is compressed alone. Here the same chunk of several blocks is compressed
//! in one go, and so is each node above: of pages of 4 KiB that takes half the time.
//!
//! The crate does this for one input of many kilobytes only, and shows the function beneath it for
//! benchmarks; its version is held fast in `Cargo.toml` for that. Every hash is that of
//! [`blake3::hash`], as the test below requires of each size of a page.

use blake3::platform::{MAX_SIMD_DEGREE, Platform};
use blake3::{BLOCK_LEN, CHUNK_LEN, IncrementCounter, OUT_LEN};

use super::hashes::{BlockHash, block_hash, shortened};

/// What BLAKE3 begins with: section 2.2 of its paper.
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

/// Chunks of the largest page.
const CHUNKS_MAX: usize = 64;
/// Blocks that are hashed at once.
const LANES: usize = MAX_SIMD_DEGREE;

/// What a chunk, or the nodes below a node, come to: of each block that is hashed at once.
type Level = [[u8; OUT_LEN]; LANES];

/// Hashes blocks, each as [`block_hash`] does.
pub fn block_hashes(blocks: &[&[u8]]) -> Vec<BlockHash> {
    let mut hashes = Vec::with_capacity(blocks.len());
    let mut levels = Vec::new();
    let mut rest = blocks;
    while let [first, ..] = rest {
        let same = rest.iter().take(LANES).take_while(|block| block.len() == first.len()).count();
        let (together, later) = rest.split_at(same);
        let chunks = first.len() / CHUNK_LEN;
        let is_fit = first.len().is_multiple_of(CHUNK_LEN)
            && chunks.is_power_of_two()
            && chunks <= CHUNKS_MAX;
        match is_fit && same > 1 {
            true => {
                levels.resize(chunks, [[0; OUT_LEN]; LANES]);
                hash_together(together, &mut levels, &mut hashes);
            }
            false => hashes.extend(together.iter().map(|block| block_hash(block))),
        }
        rest = later;
    }
    hashes
}

/// Hashes the blocks that lie behind each other, the last of which may be shorter.
pub fn hash_each(bytes: &[u8], block_bytes: usize) -> Vec<BlockHash> {
    block_hashes(&bytes.chunks(block_bytes).collect::<Vec<_>>())
}

/// Adds the hashes of no more blocks than there are lanes. They have as many chunks each as there
/// are levels, which make a tree in which every node has two below it.
fn hash_together(blocks: &[&[u8]], levels: &mut [Level], hashes: &mut Vec<BlockHash>) {
    let platform = Platform::detect();
    let root = |is_root: bool| if is_root { ROOT } else { 0 };
    let chunks = levels.len();
    for (number, level) in levels.iter_mut().enumerate() {
        let mut inputs = [&[0; CHUNK_LEN]; LANES];
        for (input, block) in inputs.iter_mut().zip(blocks) {
            if let Some(chunk) = block[number * CHUNK_LEN..].first_chunk() {
                *input = chunk;
            }
        }
        platform.hash_many(
            &inputs[..blocks.len()],
            &IV,
            number as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END | root(chunks == 1),
            level.as_flattened_mut(),
        );
    }
    let mut nodes = chunks;
    while nodes > 1 {
        for parent in 0..nodes / 2 {
            let below: [Level; 2] = [levels[2 * parent], levels[2 * parent + 1]];
            let flags = PARENT | root(nodes == 2);
            compress_parents(platform, &below, (blocks.len(), flags), &mut levels[parent]);
        }
        nodes /= 2;
    }
    hashes.extend(levels[0][..blocks.len()].iter().map(shortened));
}

/// Compresses a node of each block, of the two below it.
fn compress_parents(
    platform: Platform,
    below: &[Level; 2],
    (count, flags): (usize, u8),
    parents: &mut Level,
) {
    let mut inputs = [[0; BLOCK_LEN]; LANES];
    for (lane, input) in inputs[..count].iter_mut().enumerate() {
        let (left, right) = input.split_at_mut(OUT_LEN);
        left.copy_from_slice(&below[0][lane]);
        right.copy_from_slice(&below[1][lane]);
    }
    let inputs: [&[u8; BLOCK_LEN]; LANES] = std::array::from_fn(|lane| &inputs[lane]);
    let no = IncrementCounter::No;
    platform.hash_many(&inputs[..count], &IV, 0, no, flags, 0, 0, parents.as_flattened_mut());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hash_is_that_of_the_block_alone() {
        let bytes: Vec<u8> =
            (0..40 * 65_536_u32).map(|at| (at.wrapping_mul(at) % 251) as u8).collect();
        let sizes = (9..=16).map(|power| 1 << power).chain([0, 1, 1_000, 3 * 1024, 1 << 17]);
        for size in sizes {
            for count in [1, 2, 3, 7, 8, 9, 15, 16, 17, 39] {
                let blocks: Vec<&[u8]> =
                    (0..count).map(|at| &bytes[at * 1_013..at * 1_013 + size]).collect();
                let alone: Vec<BlockHash> = blocks.iter().map(|block| block_hash(block)).collect();
                assert_eq!(block_hashes(&blocks), alone, "{count} blocks of {size} bytes");
            }
        }
        let one_by_one = |bytes: &[u8]| bytes.chunks(4096).map(block_hash).collect::<Vec<_>>();
        assert_eq!(hash_each(&bytes[..50_000], 4096), one_by_one(&bytes[..50_000]));
        let mixed = [&bytes[..4096], &bytes[..1024], &bytes[7..1031], &bytes[..512], &[]];
        assert_eq!(block_hashes(&mixed), mixed.map(block_hash));
        assert_eq!(block_hashes(&[]), Vec::<BlockHash>::new());
    }
}
