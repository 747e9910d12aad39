//! Pages of a file that were made of others' content, as differences from those.
//!
//! Which they are is known when all pages were seen once. So that nobody has to hold all of them
//! until then, hashes of their cells are noted, and those of which more is new than a few runs are
//! read again.

use lifeboat_core::Result;

use super::cells::{Cells, count};
use super::delta::{Changed, Coder, Decoder, Encoded};

/// Pages whose prefixes are put together at once.
const TOGETHER: usize = 128;

/// What is noted of the pages of a file.
#[derive(Default)]
pub(super) struct Moves {
    /// The places of pages that are not encoded yet.
    left: Vec<usize>,
    cells: Cells,
}

impl Moves {
    /// Notes the page at that place, and whether it is encoded.
    pub(super) fn note(&mut self, place: usize, page: &Changed<'_>, is_encoded: bool) {
        if !is_encoded {
            self.left.push(place);
        }
        // Cells came from where there are fewer now, or others.
        if let Some((before, _)) = page.usable()
            && (!is_encoded || count(before) > count(&page.content))
        {
            self.cells.note(place as u32, before);
        }
    }

    /// Encodes those that are left, of which much stood in other pages before, maybe. `read` reads
    /// the page at a place.
    pub(super) fn encode<'a>(
        self,
        level: i32,
        encoded: &mut [Encoded],
        decoder: &mut Decoder,
        read: &dyn Fn(usize) -> Result<Changed<'a>>,
    ) -> Result<()> {
        let cells = self.cells.settled();
        for left in self.left.chunks(TOGETHER) {
            let mut pages = Vec::new();
            for &place in left {
                let page = read(place)?;
                let other = cells.whence(place as u32, &page.content);
                pages.push((place, page, other.map(|other| read(other as usize)).transpose()?));
            }
            let prefixes: Vec<Vec<u8>> =
                pages.iter().map(|(_, page, other)| joined(page, other.as_ref())).collect();
            let mut coder = Coder::new(level)?;
            for ((place, page, other), prefix) in pages.iter().zip(&prefixes) {
                let other = other.as_ref().map(|other| (other, &prefix[..]));
                encoded[*place] = coder.encode(page, other, decoder)?;
            }
        }
        Ok(())
    }
}

/// What both were before, one behind the other.
fn joined(page: &Changed<'_>, other: Option<&Changed<'_>>) -> Vec<u8> {
    let Some(other) = other else { return Vec::new() };
    let parts = [page.usable(), other.usable()].into_iter().flatten();
    parts.map(|(before, _)| before).collect::<Vec<_>>().concat()
}
