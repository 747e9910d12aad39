//! Where in a `-wal` a follower stands, and where earlier versions of pages are.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_core::{Error, Kind, Result};

use super::compare::WalLimit;
use super::delta::Before;
use crate::ffi::{self, Mark};
use crate::held::HeldFile;
use crate::holders::side_file;
use crate::snapshot::frames::PageMap;
use crate::snapshot::wal::{self, Between, Place, WalHeader};
use crate::snapshot::{Attempt, Pinned, pin};

/// How far a `-wal` was read.
pub(super) struct Known {
    pub(super) header: WalHeader,
    pub(super) place: Place,
    /// The last frame of each page up to there, as far as it was read.
    pub(super) frames: PageMap,
}

impl Known {
    /// Up to a mark, with what stands before it and what was known.
    pub(super) fn at(
        header: WalHeader,
        mark: &Mark,
        between: &Between,
        mut frames: PageMap,
    ) -> Self {
        // What stood before the log was begun anew will be written over.
        for &(page, frame) in between.frames.entries() {
            if frame <= mark.frame_max {
                frames.push(page, frame);
            }
        }
        frames.settle();
        Known { place: header.place(mark), header, frames }
    }
}

/// Where earlier versions of pages are.
pub(super) struct Versions<'a> {
    pub(super) file: &'a fs::File,
    /// The last frame of each page before the new ones.
    pub(super) frames: &'a PageMap,
    pub(super) database: &'a HeldFile,
}

impl Versions<'_> {
    /// An earlier version that is the right one: of an earlier frame, else of the database file.
    pub(super) fn before(
        &self,
        page: u32,
        page_bytes: usize,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<Before> {
        let mut old = vec![0; page_bytes];
        if let Some(frame) = self.frames.position(page)
            && wal::read_frame(self.file, frame, &mut old)?
            && is_right(&old)
        {
            return Ok(Some((old, 0)));
        }
        let is_there = self.read_database(page, &mut old)? && is_right(&old);
        Ok(is_there.then_some((old, 0)))
    }

    /// A page of the database file; zeros behind its end.
    pub(super) fn read_database(&self, page: u32, content: &mut [u8]) -> Result<bool> {
        let offset = u64::from(page - 1) * content.len() as u64;
        match self.database.read_at(content, offset) {
            Ok(read) => {
                content[read..].fill(0);
                Ok(true)
            }
            Err(error) => {
                Err(Error::io(Kind::SourceUnavailable, "cannot read the database file", error))
            }
        }
    }
}

/// Whether a database is in WAL mode.
pub(super) fn is_wal(pinned: &Pinned) -> bool {
    let mode =
        pinned.connection().query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
    mode.is_ok_and(|mode| mode == "wal")
}

/// A place in the `-wal` that is held by what is given with it, where there is one.
pub(super) fn known_of(path: &Path) -> Result<(Option<Known>, Option<Box<Pinned>>)> {
    match pin(path)? {
        Attempt::Pinned(pinned) if is_wal(&pinned) => Ok((known_at(path, &pinned)?, Some(pinned))),
        _ => Ok((None, None)),
    }
}

/// How far the `-wal` may grow from there while all pages are compared.
pub(super) fn limit_of(path: &Path, known: Option<&Known>, bytes: u64) -> Result<Option<WalLimit>> {
    let Some(known) = known else { return Ok(None) };
    let file = wal::open(&side_file(path, "-wal"))?;
    Ok(file.map(|file| WalLimit::behind(file, known.header, known.place.frame, bytes)))
}

pub(super) fn known_at(path: &Path, pinned: &Pinned) -> Result<Option<Known>> {
    let Some(mark) = ffi::snapshot_mark(pinned.connection()) else { return Ok(None) };
    let Some(file) = wal::open(&side_file(path, "-wal"))? else { return Ok(None) };
    let Some(header) = wal::header(&file)? else { return Ok(None) };
    if header.salts() != mark.salts {
        return Ok(None);
    }
    let between = wal::between(&file, &header, header.start(), &mark)?;
    let place = header.place(&mark);
    Ok(between.map(|between| Known { header, place, frames: between.frames }))
}
