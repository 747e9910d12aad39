//! Pages of a file that were made of others' content, as differences from those.
//!
//! Which they are is known when all pages were encoded once. So that nobody has to hold all of them
//! until then, hashes of their cells are noted, and the few that are encoded anew are read again.

use lifeboat_core::Result;

use super::cells::{Cells, count};
use super::delta::{Befores, Changed, Coder, Decoder, Encoded, Form, require_back};

/// A page that takes more than one part in so many has come from elsewhere, maybe.
const LARGE_PART: usize = 8;
/// Pages whose prefixes are put together at once.
const TOGETHER: usize = 32;

/// What is noted of the pages of a file.
#[derive(Default)]
pub(super) struct Moves {
    /// The places of pages that are large as they were encoded.
    large: Vec<u32>,
    cells: Cells,
}

impl Moves {
    /// Notes the page at that place, as it was encoded.
    pub(super) fn note(&mut self, place: u32, page: &Changed<'_>, encoded: &Encoded) {
        let is_large = encoded.stored.len() > page.content.len() / LARGE_PART;
        if is_large {
            self.large.push(place);
        }
        // Cells came from where there are fewer now, or others.
        if let Some((before, _)) = page.usable()
            && (is_large || count(before) > count(&page.content))
        {
            self.cells.note(place, before);
        }
    }

    /// Encodes large ones anew, of which much stood in other pages before. `read` reads the page at
    /// a place.
    pub(super) fn encode<'a>(
        self,
        level: i32,
        encoded: &mut [Encoded],
        decoder: &mut Decoder,
        read: &dyn Fn(usize) -> Result<Changed<'a>>,
    ) -> Result<()> {
        let cells = self.cells.settled();
        let mut frame = Vec::new();
        for large in self.large.chunks(TOGETHER) {
            let mut moved = Vec::new();
            for &place in large {
                let page = read(place as usize)?;
                if let Some(other) = cells.whence(place, &page.content) {
                    moved.push((place as usize, page, read(other as usize)?));
                }
            }
            let joined = |(_, page, other): &(usize, Changed<'_>, Changed<'_>)| {
                let parts = [page.usable(), other.usable()];
                parts.into_iter().flatten().map(|(before, _)| before).collect::<Vec<_>>().concat()
            };
            let prefixes: Vec<Vec<u8>> = moved.iter().map(joined).collect();
            let mut coder = Coder::new(level)?;
            for ((place, page, other), prefix) in moved.iter().zip(&prefixes) {
                let one = &mut encoded[*place];
                frame.clear();
                frame.extend(other.page.to_le_bytes());
                frame.extend(coder.frame(Some(prefix), &page.content)?);
                if frame.len() >= one.stored.len() {
                    continue;
                }
                let (own, other) = (page.usable(), other.usable());
                let depth_of = |before: Option<(&[u8], u8)>| before.map_or(0, |(_, depth)| depth);
                let depth = depth_of(own).max(depth_of(other)) + 1;
                one.form = match own {
                    Some(_) => Form::Joint(depth),
                    None => Form::Moved(depth),
                };
                one.stored.clone_from(&frame);
                let befores =
                    Befores { own: own.map(|(own, _)| own), other: other.map(|(other, _)| other) };
                require_back(decoder, one, befores, &page.content)?;
            }
        }
        Ok(())
    }
}
