//! What stands in a `-wal` behind a place up to a mark, also where the log was begun anew between.
//!
//! A chain of cumulative checksums leads from frame to frame of one log, and from none to the log
//! that was begun anew over it. That nothing was missed there is proved in one of two ways:
//!
//! - By the mark of a log that is just being begun anew. SQLite's header of the wal-index then has
//!   no frame, the next salts, and still the number of pages and the checksum of the last commit
//!   of the log before: what leads there is all that it held, and the database file is that state.
//!   (After a recovery that found no commit both are zero, which proves nothing.)
//! - By the frames of the log before that are still in the file, and an end behind them where
//!   nothing of that log can have stood.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lifeboat_core::Result;

use super::frames::{Keep, PageMap};
use super::scanner::{Copies, Scanner};
use super::wal::{self, FRAME_HEADER_BYTES, Place, WalHeader, be_word, frame_offset, unreadable};
use crate::ffi::Mark;

/// Frames are kept as they were scanned if they take no more than that, in bytes.
const COPIED_BYTES_MAX: usize = 4 << 20;
/// Frames that are read at once where it is not known how many there are.
const TAIL_FRAMES: u32 = 32;

/// What stands between two places of a log.
pub(crate) struct Between {
    /// The last frame of each page.
    pub(crate) frames: PageMap,
    /// How many there are in all.
    pub(crate) frame_count: u64,
    /// How many commits.
    pub(crate) commits: u64,
    /// The fewest pages that the database had after one of them.
    pub(crate) page_count_min: u32,
    /// The frames as the chain of checksums proved them; of few enough.
    copies: Option<Copies>,
    /// Where frames of a log that was begun anew are among them: from there on new ones may be
    /// written over them.
    overwritten_from: Option<(WalHeader, Place)>,
    /// Whether all of them are behind that place, so that a log begun anew takes none at first.
    outlasts: bool,
}

/// Reads the frames behind a place, up to a mark. `None` where the chain of checksums does not lead
/// from one to the other.
pub(crate) fn between(
    file: &File,
    header: &WalHeader,
    from: Place,
    mark: &Mark,
) -> Result<Option<Between>> {
    let frames = mark.frame_max.saturating_sub(from.frame);
    let mut scanner = Scanner::from(file, header, from, frames).keeping(COPIED_BYTES_MAX);
    let mut found = Between::none();
    while scanner.place.frame < mark.frame_max {
        let Some(frame) = scanner.next()? else { return Ok(None) };
        found.frames.push(frame.page, scanner.place.frame);
        found.frame_count += 1;
        if frame.commit_pages != 0 {
            found.commits += 1;
            found.page_count_min = found.page_count_min.min(frame.commit_pages);
        }
    }
    found.frames.settle();
    let whole = scanner.place == Place { frame: mark.frame_max, checksum: mark.checksum };
    found.copies = scanner.into_copies();
    Ok(whole.then_some(found))
}

/// The mark of the end of a log, if the given one was made while that log was begun anew, and the
/// chain leads there from a place in it: the state is the same.
pub(crate) fn ended(
    file: &File,
    before: &WalHeader,
    from: Place,
    mark: &Mark,
) -> Result<Option<Mark>> {
    let is_next = mark.frame_max == 0 && before.is_before(mark.salts);
    if !is_next || mark.page_count == 0 || mark.checksum == (0, 0) {
        return Ok(None);
    }
    let mut scanner = Scanner::from(file, before, from, TAIL_FRAMES);
    while scanner.place.checksum != mark.checksum {
        if scanner.next()?.is_none() {
            return Ok(None);
        }
    }
    let mut salts = [0; 8];
    salts.copy_from_slice(before.salts());
    Ok(Some(Mark { frame_max: scanner.place.frame, salts, ..*mark }))
}

/// What a log held behind a place when it was begun anew, once, right before `after`: its frames
/// stay in the file until new ones reach them, and the database file has all of them. `None` where
/// that is not so, or it cannot be proved that these are all.
pub(crate) fn tail(
    file: &File,
    before: &WalHeader,
    from: Place,
    after: &WalHeader,
) -> Result<Option<Between>> {
    if !after.is_next_of(before) || !is_intact(file, before, from)? {
        return Ok(None);
    }
    let mut scanner = Scanner::from(file, before, from, TAIL_FRAMES).keeping(COPIED_BYTES_MAX);
    let mut found = Between { overwritten_from: Some((*before, from)), ..Between::none() };
    let mut uncommitted = Vec::new();
    while let Some(frame) = scanner.next()? {
        uncommitted.push((frame.page, scanner.place.frame));
        if frame.commit_pages != 0 {
            found.frame_count += uncommitted.len() as u64;
            uncommitted.drain(..).for_each(|(page, frame)| found.frames.push(page, frame));
            found.commits += 1;
            found.page_count_min = found.page_count_min.min(frame.commit_pages);
        }
    }
    found.frames.settle();
    let last = scanner.place.frame;
    found.copies = scanner.into_copies();
    Ok(is_end(file, before, last)?.then_some(found))
}

/// Whether nothing of that log can have stood behind a frame: what stands there is older, or
/// nothing ever did. A file that was cut to a size that people choose proves nothing.
fn is_end(file: &File, header: &WalHeader, frame: u32) -> Result<bool> {
    let offset = frame_offset(header.page_size, frame + 1);
    let mut next = [0; FRAME_HEADER_BYTES];
    match file.read_exact_at(&mut next, offset) {
        Ok(()) => Ok(&next[8..16] != header.salts()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let bytes = file.metadata().map_err(unreadable)?.len();
            let is_chosen = bytes.is_multiple_of(1_000) || bytes.is_multiple_of(1_024);
            Ok(bytes == offset && !is_chosen)
        }
        Err(error) => Err(unreadable(error)),
    }
}

/// Whether a frame of a log is still where it was. Frames are written in their order: then so are
/// all behind it.
fn is_intact(file: &File, header: &WalHeader, at: Place) -> Result<bool> {
    if at.frame == 0 {
        return Ok(false);
    }
    let mut head = [0; FRAME_HEADER_BYTES];
    match file.read_exact_at(&mut head, frame_offset(header.page_size, at.frame)) {
        Ok(()) => {
            let checksum = (be_word(&head, 16), be_word(&head, 20));
            Ok(&head[8..16] == header.salts() && checksum == at.checksum)
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(unreadable(error)),
    }
}

impl Between {
    fn none() -> Self {
        Between {
            frames: PageMap::new(Keep::Last),
            frame_count: 0,
            commits: 0,
            page_count_min: u32::MAX,
            copies: None,
            overwritten_from: None,
            outlasts: false,
        }
    }

    /// What a page of so many bytes became, if it was copied.
    pub(crate) fn copied(&self, page: u32, page_bytes: usize) -> Option<&[u8]> {
        self.copies.as_ref()?.page(self.frames.position(page)?, page_bytes)
    }

    /// The pages that may have changed, each with its frame: those of new frames, and those by
    /// which a database of so many pages grew without writing them; 0 where they are in its file.
    /// `known` has the last frames before.
    pub(crate) fn wanted(
        &self,
        page_count: u32,
        page_count_before: u32,
        known: &PageMap,
    ) -> Vec<(u32, u32)> {
        let entries = self.frames.entries().iter().copied();
        let mut wanted: Vec<(u32, u32)> = entries.filter(|&(page, _)| page <= page_count).collect();
        // What was cut off meanwhile may have come back as something else.
        let kept = page_count_before.min(self.page_count_min);
        for page in kept + 1..=page_count {
            if self.frames.position(page).is_none() {
                wanted.push((page, known.position(page).unwrap_or(0)));
            }
        }
        wanted.sort_unstable();
        wanted
    }

    /// The same, which stays readable when the log is begun anew, until new frames come over the
    /// place that it begins behind.
    pub(crate) fn outlasting(mut self, header: &WalHeader, from: Place) -> Self {
        self.outlasts = from.frame > 0;
        self.overwritten_from = Some((*header, from)).filter(|_| self.outlasts);
        self
    }

    /// Whether it is all that there was, and what was read of it what it was, after `header` was
    /// found the log's. What was copied is, as long as nothing was read from frames besides.
    pub(crate) fn is_unchanged(
        &self,
        file: &File,
        header: &WalHeader,
        has_read_frames: bool,
    ) -> Result<bool> {
        let is_tail = self.overwritten_from.is_some() && !self.outlasts;
        if self.copies.is_some() && !has_read_frames && !is_tail {
            return Ok(true);
        }
        let is_same = wal::header(file)?.as_ref() == Some(header);
        Ok((is_same || self.outlasts) && self.is_intact(file)?)
    }

    /// Whether everything that it names is still there, where the log may be written over.
    pub(crate) fn is_intact(&self, file: &File) -> Result<bool> {
        match &self.overwritten_from {
            None => Ok(true),
            Some((header, place)) => is_intact(file, header, *place),
        }
    }

    /// What came after it, though its frames stand before those of the log that was begun anew.
    pub(crate) fn and_then(self, later: Between) -> Self {
        let mut frames = PageMap::new(Keep::Last);
        for &(page, frame) in self.frames.entries() {
            if later.frames.position(page).is_none() {
                frames.push(page, frame);
            }
        }
        later.frames.entries().iter().for_each(|&(page, frame)| frames.push(page, frame));
        frames.settle();
        Between {
            frames,
            frame_count: self.frame_count + later.frame_count,
            commits: self.commits + later.commits,
            page_count_min: self.page_count_min.min(later.page_count_min),
            copies: self.copies.zip(later.copies).map(|(copies, later)| copies.and(later)),
            ..self
        }
    }
}
