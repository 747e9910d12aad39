//! Where in a `-wal` a follower stands, and where earlier versions of pages are.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::{Error, Kind, Result};

use super::compare::WalLimit;
use super::delta::Before;
use crate::ffi::{self, Mark};
use crate::held::HeldFile;
use crate::holders::side_file;
use crate::snapshot::behind::{self, Between};
use crate::snapshot::frames::{Keep, PageMap};
use crate::snapshot::wal::{self, Place, WalHeader};
use crate::snapshot::{Attempt, Pinned, pin};
use crate::wal_place::WalPlace;

/// How far a `-wal` was read.
pub(super) struct Known {
    pub(super) header: WalHeader,
    pub(super) place: Place,
    /// The salts of the log that was begun anew right behind that place, where that was seen.
    pub(super) next: Option<[u8; 8]>,
    pub(super) frames: KnownFrames,
}

/// Where pages are in a `-wal` up to a place.
pub(super) struct KnownFrames {
    /// The last frame of each page in this log, as far as it was read.
    newest: PageMap,
    /// Frames of the log before that may still be there, behind those of this one.
    older: PageMap,
}

/// What is new in a `-wal`.
pub(super) struct News {
    pub(super) file: fs::File,
    pub(super) header: WalHeader,
    /// The place up to which it goes: that of the mark, or the end of a log that was begun anew.
    pub(super) mark: Mark,
    pub(super) between: Between,
    /// See [`Known::next`].
    pub(super) next: Option<[u8; 8]>,
}

impl Known {
    /// Up to there, with what was known.
    pub(super) fn after(news: &News, mut frames: KnownFrames) -> Self {
        let News { header, mark, between, next, .. } = news;
        for &(page, frame) in between.frames.entries() {
            // What stood before the log was begun anew will be written over.
            match frame <= mark.frame_max {
                true => frames.newest.push(page, frame),
                false => frames.older.push(page, frame),
            }
        }
        frames.newest.settle();
        frames.older.settle();
        Known { header: *header, place: header.place(mark), next: *next, frames }
    }
}

impl Known {
    /// The place as it is stored.
    pub(super) fn stored_place(&self) -> WalPlace {
        let Known { header, place, next, .. } = self;
        let mut salts = [0; 8];
        salts.copy_from_slice(header.salts());
        match next {
            Some(next) => WalPlace { salts: *next, frame: 0, checksum: (0, 0) },
            None => WalPlace { salts, frame: place.frame, checksum: place.checksum },
        }
    }
}

impl KnownFrames {
    pub(super) fn none() -> Self {
        KnownFrames { newest: PageMap::new(Keep::Last), older: PageMap::new(Keep::Last) }
    }

    /// The same, as far as it is of use for a log that was begun anew.
    pub(super) fn older(self) -> Self {
        KnownFrames { newest: PageMap::new(Keep::Last), older: self.newest }
    }

    /// The last frame of each page in this log.
    pub(super) fn newest(&self) -> &PageMap {
        &self.newest
    }
}

/// Where an earlier version of a page may be, in the order in which it is looked for.
#[derive(Clone, Copy)]
pub(super) enum Whence {
    /// An earlier frame of the log.
    Newest,
    /// A frame of the log before.
    Older,
    Database,
}

impl Whence {
    pub(super) const ALL: [Whence; 3] = [Whence::Newest, Whence::Older, Whence::Database];
}

/// Where earlier versions of pages are.
pub(super) struct Versions<'a> {
    file: &'a fs::File,
    /// The last frame of each page before the new ones, in the log that has those.
    newest: Option<&'a PageMap>,
    /// The same of the log before, whose frames up to that one were written over.
    older: &'a PageMap,
    written_over: u32,
    database: &'a HeldFile,
}

impl<'a> Versions<'a> {
    /// Those before news. `is_same` where the frames are of the log that these are in.
    pub(super) fn before_news(
        (frames, is_same): (&'a KnownFrames, bool),
        news: &'a News,
        database: &'a HeldFile,
    ) -> Self {
        let (newest, older) = match is_same {
            true => (Some(&frames.newest), &frames.older),
            false => (None, &frames.newest),
        };
        Versions { file: &news.file, newest, older, written_over: news.mark.frame_max, database }
    }
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
        Ok(self.read_before(page, &mut old, is_right)?.then_some((old, 0)))
    }

    /// The same, into a buffer: whether there is one.
    pub(super) fn read_before(
        &self,
        page: u32,
        old: &mut [u8],
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<bool> {
        for whence in Whence::ALL {
            if self.read_from(whence, page, old)? && is_right(old) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An earlier version, whatever it is: whether there is one.
    pub(super) fn read_from(&self, whence: Whence, page: u32, old: &mut [u8]) -> Result<bool> {
        let older = || self.older.position(page).filter(|frame| *frame > self.written_over);
        let frame = match whence {
            Whence::Newest => self.newest.and_then(|newest| newest.position(page)),
            Whence::Older => older(),
            Whence::Database => return self.read_database(page, old),
        };
        frame.map_or(Ok(false), |frame| wal::read_frame(self.file, frame, old))
    }

    /// What a page became, of its frame, or of the database file where that is 0. `false` where it
    /// is not there any more.
    pub(super) fn read_new(&self, (page, frame): (u32, u32), content: &mut [u8]) -> Result<bool> {
        match frame {
            0 => self.read_database(page, content),
            frame => wal::read_frame(self.file, frame, content),
        }
    }

    pub(super) fn read_database(&self, page: u32, content: &mut [u8]) -> Result<bool> {
        Versions::read(self.database, page, content)
    }

    /// A page of the database file; zeros behind its end.
    pub(super) fn read(database: &HeldFile, page: u32, content: &mut [u8]) -> Result<bool> {
        let offset = u64::from(page - 1) * content.len() as u64;
        match database.read_at(content, offset) {
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
pub(super) fn limit_of(path: &Path, known: Option<&Known>, bytes: u64) -> Arc<WalLimit> {
    let found = known.map(|known| (known.header, known.place.frame));
    Arc::new(WalLimit::of(side_file(path, "-wal"), found, bytes))
}

pub(super) fn known_at(path: &Path, pinned: &Pinned) -> Result<Option<Known>> {
    let Some(mark) = ffi::snapshot_mark(pinned.connection()) else { return Ok(None) };
    let Some(file) = wal::open(&side_file(path, "-wal"))? else { return Ok(None) };
    let Some(header) = wal::header(&file)? else { return Ok(None) };
    if header.salts() != mark.salts {
        return Ok(None);
    }
    let between = behind::between(&file, &header, header.start(), &mark)?;
    Ok(between.map(|between| {
        Known::after(&News { file, header, mark, between, next: None }, KnownFrames::none())
    }))
}
