//! Where the content of a page stood before: in which of the pages that change with it.
//!
//! When a page of a B-tree is split, or evened out with those beside it, whole rows of cells go
//! from one page to another, and nothing of a page's own version before is like it. The cells
//! themselves are what they were: so some of each page are noted by a hash of their bytes, the same
//! ones wherever they stand, and the page is looked for in which most of a new one's stood. It is a
//! guess, by which nothing but size is decided; any bytes will do.

/// One of so many cells is noted.
const ONE_OF: u64 = 16;
/// Of another page's cells there must be more than one part in so many of those that stayed: a page
/// that is made of two takes longer to restore.
const STAYED_PART: usize = 2;
/// Spreads what words differ in over the highest bits: 2^64 by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// So many bytes of a cell tell it from others.
const CELL_BYTES: usize = 24;

/// Cells of pages, and where they stand.
#[derive(Default)]
pub(super) struct Cells {
    /// Hash of a cell, and the place of its page.
    noted: Vec<(u64, u32)>,
    /// Where among them, when they are sorted, those begin whose hashes have these highest bits,
    /// and how many such bits there are: a search by halves waits for memory at each of its steps.
    starts: Vec<u32>,
    bits: u32,
}

impl Cells {
    /// Notes cells of a page that has that place.
    pub(super) fn note(&mut self, place: u32, page: &[u8]) {
        each_noted(page, |hash| self.noted.push((hash, place)));
    }

    /// The same, when all are noted.
    pub(super) fn settled(mut self) -> Self {
        self.noted.sort_unstable();
        self.bits = self.noted.len().max(1).ilog2();
        self.starts = vec![0; (1 << self.bits) + 1];
        for (hash, _) in &self.noted {
            let at = self.highest(*hash);
            self.starts[at + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut self.starts {
            sum += *start;
            *start = sum;
        }
        self
    }

    fn highest(&self, hash: u64) -> usize {
        hash.unbounded_shr(u64::BITS - self.bits) as usize
    }

    /// The places of pages in which that cell stood.
    fn same(&self, hash: u64) -> impl Iterator<Item = u32> {
        let at = self.highest(hash);
        let near = &self.noted[self.starts[at] as usize..self.starts[at + 1] as usize];
        near.iter().filter(move |(noted, _)| *noted == hash).map(|(_, place)| *place)
    }

    /// The place at which most cells of a page stood, its own aside, if these are not few beside
    /// those that stayed. To be asked when all are noted.
    pub(super) fn whence(&self, own: u32, page: &[u8]) -> Option<u32> {
        let mut found: Vec<(u32, usize)> = Vec::new();
        each_noted(page, |hash| {
            // What stands in many pages tells nothing.
            for place in self.same(hash).take(4) {
                match found.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, count)) => *count += 1,
                    None => found.push((place, 1)),
                }
            }
        });
        let stayed = found.iter().find(|(place, _)| *place == own).map_or(0, |(_, count)| *count);
        let others = found.into_iter().filter(|(place, _)| *place != own);
        let most = others.max_by_key(|(_, count)| *count);
        most.filter(|(_, count)| count * STAYED_PART > stayed).map(|(place, _)| place)
    }
}

/// How many cells a page of a B-tree has.
pub(super) fn count(page: &[u8]) -> u16 {
    match page {
        [2 | 5 | 10 | 13, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

/// Tells the hash of each cell of a B-tree's page that is noted.
fn each_noted(page: &[u8], mut tell: impl FnMut(u64)) {
    let (head, child, is_index) = match page.first() {
        Some(2) => (12, 4, true),
        Some(5) => (12, 4, false),
        Some(10) => (8, 0, true),
        Some(13) => (8, 0, false),
        _ => return,
    };
    let word = |at: usize| Some(usize::from(u16::from_be_bytes(*page.get(at..)?.first_chunk()?)));
    for number in 0..usize::from(count(page)) {
        let Some(at) = word(head + 2 * number) else { return };
        let Some(cell) = page.get(at + child..).filter(|_| at >= head) else { continue };
        let bytes = match is_index {
            // Behind it is the next cell, which is another one elsewhere.
            true => index_cell_bytes(cell).min(CELL_BYTES),
            // An inner page's cell is a child and a number; a leaf's row begins with its number.
            false if child > 0 => 4,
            false => CELL_BYTES,
        };
        let cell = cell.get(..bytes).unwrap_or(cell);
        if is_drawn(cell) {
            tell(hash_of(cell));
        }
    }
}

/// How many bytes a cell of an index has, as far as they count: a length, and so many bytes.
fn index_cell_bytes(cell: &[u8]) -> usize {
    match *cell {
        [small @ 0..0x80, ..] => 1 + usize::from(small),
        _ => CELL_BYTES,
    }
}

/// Whether a cell is one of those that are noted: told by two words of it, as it is asked of all.
fn is_drawn(cell: &[u8]) -> bool {
    let word = match (cell.first_chunk(), cell.last_chunk()) {
        (Some(first), Some(last)) => {
            u64::from_le_bytes(*first).rotate_left(32) ^ u64::from_le_bytes(*last)
        }
        _ if cell.is_empty() => return false,
        _ => hash_of(cell),
    };
    word.wrapping_mul(FACTOR) >> (64 - ONE_OF.ilog2()) == 0
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let hash = match bytes.last_chunk::<8>() {
        // The last word is read whole, with some of what came before it, where it is cut.
        Some(last) => {
            let words = bytes.as_chunks::<8>().0.iter().chain([last]);
            words.fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)))
        }
        None => bytes.iter().fold(bytes.len() as u64, |hash, byte| mix(hash, u64::from(*byte))),
    };
    hash.wrapping_mul(FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A leaf of an index with cells of those keys.
    fn leaf(keys: impl Iterator<Item = u64>) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[0] = 10;
        let (mut count, mut at) = (0_usize, 4096);
        for key in keys {
            at -= 25;
            page[at] = 24;
            page[at + 1..at + 9]
                .copy_from_slice(&key.wrapping_mul(0x1234_5678_9abc_def1).to_le_bytes());
            page[at + 9..at + 17].copy_from_slice(&key.to_le_bytes());
            page[8 + 2 * count..10 + 2 * count].copy_from_slice(&(at as u16).to_be_bytes());
            count += 1;
        }
        page[3..5].copy_from_slice(&(count as u16).to_be_bytes());
        page
    }

    #[test]
    fn the_page_is_found_from_which_cells_came() {
        let before: Vec<Vec<u8>> =
            (0..9_u64).map(|page| leaf(page * 500..page * 500 + 140)).collect();
        let mut cells = Cells::default();
        (0..9).zip(&before).for_each(|(place, page)| cells.note(place, page));
        let cells = cells.settled();
        // Half of a page that was split, in another order of its bytes.
        let half = leaf((7 * 500 + 60..7 * 500 + 140).rev());
        assert_eq!(cells.whence(3, &half), Some(7));
        assert_eq!(cells.whence(7, &half), None);
        assert_eq!(cells.whence(3, &leaf(90_000..90_140)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_page(kind in 0_u8..16, mut page in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(first) = page.first_mut() {
                *first = kind;
            }
            let mut cells = Cells::default();
            cells.note(1, &page);
            prop_assert_eq!(cells.settled().whence(1, &page), None);
        }
    }
}
