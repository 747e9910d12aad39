//! Where the database begins in its file, and how large its pages are, asked of the pages
//! themselves: a header is believed only as far as they agree with it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bytes::{half, word};
use crate::page::Page;

/// The first 16 bytes of every database.
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
/// How far into a file a header is looked for.
const PREFIX_BYTES_MAX: u64 = 64 << 20;
/// Pages that are asked, for each size.
const SAMPLES: u64 = 200;
const SIZES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

/// What the pages and the header say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes before the database.
    pub(crate) base: u64,
    pub(crate) page_size: usize,
    pub(crate) reserved: usize,
    /// Whether the header begins as it must, with sizes that the pages have.
    pub(crate) has_header: bool,
    /// The header's bytes; zeros where there is none.
    pub(crate) header: [u8; HEADER_BYTES],
}

impl Shape {
    /// The number of pages by the header, where its last writer kept it.
    pub(crate) fn page_count(&self) -> Option<u32> {
        let (count, changes) = (word(&self.header, 28)?, word(&self.header, 24)?);
        let kept = self.has_header && count > 0 && Some(changes) == word(&self.header, 92);
        kept.then_some(count)
    }

    /// A number of the header; 0 where there is none.
    pub(crate) fn number(&self, at: usize) -> u32 {
        word(&self.header, at).unwrap_or(0)
    }
}

/// Looks at a file of that many bytes. `None` where no page of a database is in it.
pub(crate) fn find(file: &File, length: u64) -> Option<Shape> {
    let begins = begins(file, length);
    let mut best: Option<(u64, Shape)> = None;
    for &base in &begins {
        let mut header = [0; HEADER_BYTES];
        let read = file.read_exact_at(&mut header, base).is_ok();
        let has_magic = read && header.starts_with(MAGIC);
        let claimed = if has_magic { claimed_size(&header) } else { None };
        let mut found: Option<(u64, usize, usize)> = None;
        let said = claimed.map(|(size, reserved)| (size, Some(reserved)));
        for (size, reserved) in said.into_iter().chain(SIZES.map(|size| (size, None))) {
            let (mut score, best) = score(file, base, length, size, reserved);
            // What the header says needs less proof.
            if reserved.is_some() {
                score = score * 4 + 1;
            }
            if score > found.map_or(0, |(score, ..)| score) {
                found = Some((score, size, best));
            }
        }
        let Some((score, page_size, reserved)) = found else { continue };
        if best.as_ref().is_none_or(|(other, _)| score > *other) {
            let has_header = claimed == Some((page_size, reserved));
            let header = if read && has_magic { header } else { [0; HEADER_BYTES] };
            best = Some((score, Shape { base, page_size, reserved, has_header, header }));
        }
    }
    best.map(|(_, shape)| shape)
}

/// Page size and reserved bytes by a header, if they are possible.
fn claimed_size(header: &[u8]) -> Option<(usize, usize)> {
    let size = match half(header, 16)? {
        1 => 65536,
        size => size,
    };
    let reserved = usize::from(header[20]);
    (SIZES.contains(&size) && size - reserved >= 480).then_some((size, reserved))
}

/// Where a database may begin: at the beginning, or where its first words stand.
fn begins(file: &File, length: u64) -> Vec<u64> {
    const PIECE: usize = 1 << 20;
    let mut begins = vec![0];
    let mut buffer = vec![0; PIECE + MAGIC.len()];
    let mut at = 0;
    while at < length.min(PREFIX_BYTES_MAX) && begins.len() < 8 {
        let wanted = buffer.len().min((length - at) as usize);
        let read = read_up_to(file, &mut buffer[..wanted], at);
        if read < MAGIC.len() {
            break;
        }
        let places = buffer[..read].windows(MAGIC.len()).enumerate();
        let found = places.filter(|(_, window)| window == MAGIC).map(|(index, _)| index as u64);
        begins.extend(found.map(|index| at + index).filter(|&place| place > 0).take(8));
        // A database that begins with its own first words needs no other.
        if at == 0 && buffer.starts_with(MAGIC) {
            return vec![0];
        }
        at += PIECE as u64;
    }
    begins.dedup();
    begins
}

/// How much of a sample of pages has the structure of pages of that size, in thousandths, and the
/// reserved bytes that fit best.
fn score(
    file: &File,
    base: u64,
    length: u64,
    size: usize,
    reserved: Option<usize>,
) -> (u64, usize) {
    let pages = (length.saturating_sub(base)).div_ceil(size as u64);
    let step = (pages / SAMPLES).max(1);
    let mut buffer = vec![0; size];
    let mut votes = [0_u64; 256];
    let mut looked = 0;
    for index in (0..pages).step_by(step as usize) {
        buffer.fill(0);
        read_up_to(file, &mut buffer, base + index * size as u64);
        looked += 1;
        let number = if index == 0 { 1 } else { 2 };
        let mut vote = |reserved: usize| {
            let page = Page::parse(number, &buffer, size - reserved);
            // An empty page proves little.
            if page.is_some_and(|page| page.cells > 0 && page.is_exact()) {
                votes[reserved] += 1;
            }
        };
        match reserved {
            Some(reserved) => vote(reserved),
            None => {
                let most = 255.min(size - 480);
                let likely = end_of_content(number, &buffer).map(|end| size.saturating_sub(end));
                vote(0);
                if let Some(likely) = likely.filter(|&likely| likely > 0 && likely <= most) {
                    vote(likely);
                }
            }
        }
    }
    let (best, count) =
        (0..256).map(|r| (r, votes[r])).max_by_key(|&(r, n)| (n, 255 - r)).unwrap_or((0, 0));
    (count * 1000 / looked.max(1), best)
}

/// Where the last cell of a page ends, if it is one.
fn end_of_content(number: u32, bytes: &[u8]) -> Option<usize> {
    let page = Page::parse(number, bytes, bytes.len())?;
    (0..page.cells).filter_map(|index| page.cell(index)).map(|cell| cell.end()).max()
}

/// Reads as much as there is.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}
