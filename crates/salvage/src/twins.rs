//! Pages that are there twice: where a write went astray, one of the two lies in a wrong place, and
//! nothing in it says which.

use std::collections::BTreeSet;

/// Bits for each page, and how many of them a page sets.
const BITS: usize = 32;
const PROBES: u32 = 8;

/// Remembers pages by bits of their hashes, and those that came again by the whole.
pub(crate) struct Twins {
    bits: Vec<u64>,
    found: BTreeSet<u64>,
}

impl Twins {
    pub(crate) fn new(pages: u32) -> Self {
        let words = (pages as usize * BITS / 64).max(64);
        Twins { bits: vec![0; words], found: BTreeSet::new() }
    }

    /// Takes note of a page; `true` where it was there before, but for a chance in millions.
    pub(crate) fn add(&mut self, page: &[u8]) -> bool {
        let hash = hash(page);
        let mut was_there = true;
        for probe in 0..PROBES {
            let bit = hash.rotate_left(probe * 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bit = (bit >> 20) as usize % (self.bits.len() * 64);
            was_there &= self.bits[bit / 64] & 1 << (bit % 64) != 0;
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
        if was_there {
            self.found.insert(hash);
        }
        was_there
    }

    /// Whether a page is one of those that are there twice.
    pub(crate) fn has(&self, page: &[u8]) -> bool {
        !self.found.is_empty() && self.found.contains(&hash(page))
    }
}

/// Fast, and good enough where nobody means harm.
fn hash(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight));
    words.fold(0x51_7cc1_b727_220a, |hash: u64, word| {
        (hash ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_found_and_others_are_not() {
        let page = |number: u32| {
            let mut page = vec![7; 512];
            page[100..104].copy_from_slice(&number.to_be_bytes());
            page
        };
        let mut twins = Twins::new(10_000);
        let again = (0..10_000).filter(|&number| twins.add(&page(number))).count();
        assert!(again < 3, "{again}");
        assert!(twins.add(&page(77)) && twins.has(&page(77)));
        assert!(!twins.has(&page(100_000)));
    }
}
