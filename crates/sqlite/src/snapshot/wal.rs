//! The `-wal` of a pinned state: which frames belong to it, and reading pages from them.
//!
//! A frame counts if it is not beyond the reader's own mark, and only if the whole chain up to
//! the mark is sound: salts of the header, cumulative checksums, and at the end the checksum
//! that SQLite itself remembers for the mark. Where the chain is not the mark's, the log was
//! reset after we began, which is possible only if it had been copied into the database file
//! before: then the file alone is the state, and is frozen.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_core::{Error, Kind, Result};

use super::frames::{Keep, PageMap};
use super::scanner::Scanner;
use crate::ffi::Mark;

/// Bytes of the header of a `-wal`.
pub(crate) const WAL_HEADER_BYTES: usize = 32;
/// Bytes before the page in each frame.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;

/// The header of a `-wal`, and what its checksums are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader {
    raw: [u8; WAL_HEADER_BYTES],
    pub(super) big_endian: bool,
    pub(crate) page_size: u32,
}

impl WalHeader {
    /// Reads a header whose own checksum is right.
    pub(crate) fn parse(raw: [u8; WAL_HEADER_BYTES]) -> Option<Self> {
        let word = |at: usize| be_word(&raw, at);
        let big_endian = match word(0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let header = WalHeader { raw, big_endian, page_size: word(8) };
        let sound = word(4) == 3_007_000
            && header.page_size.is_power_of_two()
            && (512..=65536).contains(&header.page_size)
            && checksum(big_endian, (0, 0), &raw[..24]) == (word(24), word(28));
        sound.then_some(header)
    }

    /// Both salts.
    pub(crate) fn salts(&self) -> &[u8] {
        &self.raw[16..24]
    }

    /// Whether it is the header with which a log with that other one was begun anew.
    pub(crate) fn is_next_of(&self, before: &WalHeader) -> bool {
        self.page_size == before.page_size && self.turns_since(before) == 1
    }

    /// How often a log with that other header was begun anew until it had this one, by SQLite's
    /// rule: the first salt counts, the second one is random. (The number of checkpoints that a
    /// header has as well is what the connection that wrote it counted of its own.)
    pub(crate) fn turns_since(&self, before: &WalHeader) -> u32 {
        be_word(self.salts(), 0).wrapping_sub(be_word(before.salts(), 0))
    }

    /// Whether a log with this header was begun anew with those salts, by the same rule.
    pub(super) fn is_before(&self, salts: [u8; 8]) -> bool {
        be_word(&salts, 0) == be_word(&self.raw, 16).wrapping_add(1)
    }

    /// The place of a mark in a log with this header.
    pub(crate) fn place(&self, mark: &Mark) -> Place {
        match mark.frame_max {
            0 => self.start(),
            frame => Place { frame, checksum: mark.checksum },
        }
    }

    /// The place before the first frame.
    pub(crate) fn start(&self) -> Place {
        Place { frame: 0, checksum: self.checksum() }
    }

    fn checksum(&self) -> (u32, u32) {
        (be_word(&self.raw, 24), be_word(&self.raw, 28))
    }
}

/// A `-wal` with the frames that belong to one state.
pub(crate) struct Wal {
    file: File,
    header: WalHeader,
    frames: PageMap,
}

/// What a scan up to a mark found.
pub(crate) enum Scan {
    /// All frames of the mark.
    Whole(Wal),
    /// The log was reset since: the database file alone is the state.
    Reset,
    /// The log is the mark's, but damaged. SQLite goes on reading it until its next recovery,
    /// which will lose everything from the first bad frame on.
    Damaged(Wal, String),
}

/// What a scan without a mark found: everything up to the last commit.
pub(crate) struct Committed {
    /// The log, or nothing where no commit is in it.
    pub(crate) wal: Option<Wal>,
    /// Pages of the database after that commit.
    pub(crate) page_count: Option<u32>,
}

/// A place in a log: a frame, and the cumulative checksum after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The frame; 0 is before the first.
    pub(crate) frame: u32,
    /// The checksum.
    pub(crate) checksum: (u32, u32),
}

/// The header of a log; `None` where it has none, or a damaged one.
pub(crate) fn header(file: &File) -> Result<Option<WalHeader>> {
    Ok(read_header(file)?.and_then(WalHeader::parse))
}

/// The frames of a log that nobody writes any more, up to its last commit.
pub(crate) struct Frames {
    /// Page and number of each, in their order.
    pub(crate) frames: Vec<(u32, u32)>,
    /// How many pages the database has after the last commit.
    pub(crate) page_count: u32,
    /// The fewest that it had after one of them.
    pub(crate) page_count_min: u32,
    /// The first frame that is damaged, where others of this log follow it.
    pub(crate) damaged: Option<u32>,
}

/// Reads all frames up to the last commit, each proved by the chain of checksums.
pub(crate) fn committed_frames(file: &File, header: &WalHeader) -> Result<Frames> {
    let mut scanner = Scanner::new(file, header);
    let mut found =
        Frames { frames: Vec::new(), page_count: 0, page_count_min: u32::MAX, damaged: None };
    let mut committed = 0;
    while let Some(frame) = scanner.next()? {
        found.frames.push((frame.page, scanner.place.frame));
        if frame.commit_pages != 0 {
            found.page_count = frame.commit_pages;
            found.page_count_min = found.page_count_min.min(frame.commit_pages);
            committed = found.frames.len();
        }
    }
    found.frames.truncate(committed);
    // The last frame may have been half written when it was copied: none of this log is behind it.
    let bad = scanner.place.frame + 1;
    let mut salts = [0; 8];
    let behind = frame_offset(header.page_size, bad + 1) + 8;
    let is_read = file.read_exact_at(&mut salts, behind).is_ok();
    found.damaged = (is_read && salts == *header.salts()).then_some(bad);
    Ok(found)
}

/// Whether a frame of a log with that header is there.
pub(crate) fn has_frame(file: &File, header: &WalHeader, frame: u32) -> bool {
    let mut salts = [0; 8];
    let offset = frame_offset(header.page_size, frame) + 8;
    file.read_exact_at(&mut salts, offset).is_ok() && salts == *header.salts()
}

/// Fills the buffer with the page of a frame. `false` where the log ends before.
pub(crate) fn read_frame(file: &File, frame: u32, page: &mut [u8]) -> Result<bool> {
    let offset = frame_offset(page.len() as u32, frame) + FRAME_HEADER_BYTES as u64;
    match file.read_exact_at(page, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(unreadable(error)),
    }
}

/// Opens a `-wal`; `None` where there is none.
pub(crate) fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(
            Kind::SourceUnavailable,
            format!("cannot open {}", path.display()),
            error,
        )),
    }
}

/// Reads the frames up to the mark of a read transaction that is held.
pub(crate) fn scan_to_mark(file: File, page_size: u32, mark: &Mark) -> Result<Scan> {
    let Some(raw) = read_header(&file)? else { return Ok(Scan::Reset) };
    let Some(header) = WalHeader::parse(raw) else {
        return Ok(match read_header(&file)? {
            Some(again) if again == raw => {
                let header = WalHeader { raw, big_endian: false, page_size };
                let wal = Wal { file, header, frames: PageMap::new(Keep::Last) };
                Scan::Damaged(wal, "the header of the -wal is damaged".into())
            }
            _ => Scan::Reset,
        });
    };
    if header.salts() != mark.salts || header.page_size != page_size {
        return Ok(Scan::Reset);
    }
    let mut scanner = Scanner::new(&file, &header);
    let mut frames = PageMap::new(Keep::Last);
    while scanner.place.frame < mark.frame_max {
        match scanner.next()? {
            Some(frame) => frames.push(frame.page, scanner.place.frame),
            None => break,
        }
    }
    let whole = scanner.place.frame == mark.frame_max && scanner.place.checksum == mark.checksum;
    if !whole && read_header(&file)? != Some(raw) {
        return Ok(Scan::Reset);
    }
    let bad_frame = scanner.place.frame + 1;
    if !whole {
        frames = unchecked_frames(&file, &header, mark.frame_max)?;
    }
    frames.settle();
    let wal = Wal { file, header, frames };
    Ok(match whole {
        true => Scan::Whole(wal),
        false => Scan::Damaged(wal, format!("frame {bad_frame} of the -wal is damaged")),
    })
}

/// Reads everything up to the last commit, as a recovery would.
pub(crate) fn scan_committed(file: File, page_size: u32) -> Result<Committed> {
    let none = Committed { wal: None, page_count: None };
    let Some(header) = read_header(&file)?.and_then(WalHeader::parse) else { return Ok(none) };
    if header.page_size != page_size {
        return Ok(none);
    }
    let mut scanner = Scanner::new(&file, &header);
    let mut frames = PageMap::new(Keep::Last);
    let mut uncommitted = Vec::new();
    let mut page_count = None;
    while let Some(frame) = scanner.next()? {
        uncommitted.push((frame.page, scanner.place.frame));
        if frame.commit_pages != 0 {
            page_count = Some(frame.commit_pages);
            for (page, position) in uncommitted.drain(..) {
                frames.push(page, position);
            }
        }
    }
    frames.settle();
    let wal = (!frames.is_empty()).then_some(Wal { file, header, frames });
    Ok(Committed { wal, page_count })
}

impl Wal {
    /// Writes those pages of the state that the log holds over `buffer`, which begins with page
    /// `first`. `Ok(None)` where the log was reset meanwhile: what is in the buffer is then not
    /// to be used. Otherwise the number of pages that were written.
    pub(crate) fn overlay(&self, first: u32, buffer: &mut [u8]) -> Result<Option<usize>> {
        let page_bytes = self.header.page_size as usize;
        let last = first + (buffer.len() / page_bytes) as u32;
        let hits = self.frames.range(first..last);
        for &(page, frame) in hits {
            let at = (page - first) as usize * page_bytes;
            let offset = self.frame_offset(frame) + FRAME_HEADER_BYTES as u64;
            match self.file.read_exact_at(&mut buffer[at..at + page_bytes], offset) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(unreadable(error)),
            }
        }
        // A writer puts the new header before the first frame that it overwrites. So an
        // unchanged header proves that all of the above are frames of our generation.
        match hits.is_empty() || self.is_unchanged()? {
            true => Ok(Some(hits.len())),
            false => Ok(None),
        }
    }

    /// Whether the log is still of the generation that was scanned.
    pub(crate) fn is_unchanged(&self) -> Result<bool> {
        Ok(read_header(&self.file)? == Some(self.header.raw))
    }

    /// How many pages of the state the log holds.
    pub(crate) fn page_count(&self) -> usize {
        self.frames.len()
    }

    /// How many pages from `first` to `last` it holds.
    pub(crate) fn pages_within(&self, first: u32, last: u32) -> u32 {
        match first <= last {
            true => self.frames.range(first..last.saturating_add(1)).len() as u32,
            false => 0,
        }
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn frame_offset(&self, frame: u32) -> u64 {
        frame_offset(self.header.page_size, frame)
    }
}

/// The page of every frame, whatever its checksum: what SQLite's index of a damaged log says.
fn unchecked_frames(file: &File, header: &WalHeader, frame_max: u32) -> Result<PageMap> {
    let mut frames = PageMap::new(Keep::Last);
    for frame in 1..=frame_max {
        let mut raw = [0; FRAME_HEADER_BYTES];
        match file.read_exact_at(&mut raw, frame_offset(header.page_size, frame)) {
            Ok(()) if be_word(&raw, 0) != 0 => frames.push(be_word(&raw, 0), frame),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(frames)
}

pub(super) fn frame_offset(page_size: u32, frame: u32) -> u64 {
    let frame_bytes = FRAME_HEADER_BYTES as u64 + u64::from(page_size);
    WAL_HEADER_BYTES as u64 + u64::from(frame - 1) * frame_bytes
}

fn read_header(file: &File) -> Result<Option<[u8; WAL_HEADER_BYTES]>> {
    let mut raw = [0; WAL_HEADER_BYTES];
    match file.read_exact_at(&mut raw, 0) {
        Ok(()) => Ok(Some(raw)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// Fills as much of the buffer as the file has from there on.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

pub(super) fn unreadable(error: io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, "cannot read the -wal of the database", error)
}

pub(super) fn be_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The checksum of the WAL format, over a multiple of eight bytes.
pub(super) fn checksum(big_endian: bool, sum: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let (mut first, mut second) = sum;
    let (pairs, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in pairs {
        let (low, high) = match big_endian {
            true => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])),
            false => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])),
        };
        first = first.wrapping_add(low).wrapping_add(second);
        second = second.wrapping_add(high).wrapping_add(first);
    }
    (first, second)
}
