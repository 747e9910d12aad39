//! One moment of a database, readable page by page while others write.
//!
//! How the moment is held depends on what is found:
//!
//! | found | held by | pages come from |
//! |---|---|---|
//! | WAL mode | a read transaction | database file, overlaid with the `-wal` up to our mark |
//! | rollback journal | a read transaction, which blocks commits | database file |
//! | a journal of a transaction that was cut off | a lock of our own | file, overlaid with the journal |
//! | a `-wal` that SQLite may not index for us | nothing: watched | file and `-wal` up to the last commit |
//! | a file that SQLite refuses | a lock of our own | database file |
//!
//! The source is never written to. One trace may stay: a database in WAL mode that had no
//! `-wal` and no `-shm` beside it has them afterwards, the `-wal` empty; SQLite's own readers
//! leave them, too.
//!
//! Reading goes forward only, and each batch is proved before it is handed on, so bytes that
//! were streamed need never be taken back.

pub(crate) mod behind;
pub(crate) mod frames;
mod journal;
mod lock;
mod offline;
mod pinned;
mod scanner;
pub(crate) mod wal;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::{Error, Kind, Result};

pub(crate) use self::pinned::{Attempt, Glimpse, Pinned, busy, failed, missing, pin};

use self::journal::Journal;
use self::lock::SharedLock;
use self::offline::Watch;
use self::pinned::log_is_foreign;
use self::wal::{Scan, Wal, read_up_to};
use crate::ffi;
use crate::header::{self, HEADER_BYTES, Header};
use crate::held::{self, HeldFile};
use crate::holders::side_file;
use crate::lock_proof;

/// How often a moment is taken anew when it slipped away before anything was read.
const ATTEMPTS_MAX: u32 = 5;

/// A moment of a database.
pub(crate) struct Snapshot {
    path: PathBuf,
    page_size: u32,
    page_count: u32,
    frames: usize,
    damage: Vec<String>,
    blocks_writers: bool,
    overlay: Overlay,
    // In this order: the connection goes before the lock, both before the descriptor.
    pinned: Option<Box<Pinned>>,
    lock: Option<SharedLock>,
    database: Arc<HeldFile>,
}

/// What keeps others from writing. Dropping it lets them.
pub(crate) struct Hold {
    _pinned: Option<Box<Pinned>>,
    _lock: Option<SharedLock>,
}

/// What lies over the database file.
enum Overlay {
    /// Nothing: the file is the state.
    None,
    /// The `-wal` up to our mark. `reset_loses` where a reset of the log would lose the state,
    /// because we could not put a mark in shared memory.
    Wal { wal: Wal, reset_loses: bool },
    /// The `-wal` up to its last commit, watched for changes.
    Offline { wal: Option<Wal>, watch: Box<Watch> },
    /// The original pages of a transaction that was cut off.
    Journal(Journal),
}

impl Snapshot {
    /// Takes hold of the present moment of the database at that canonical path.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let taken = match pinned::pin(path)? {
                Attempt::Pinned(pinned) => Some(Self::of_pinned(path, pinned)?),
                Attempt::HotJournal => Self::of_hot_journal(path)?,
                Attempt::NoSharedMemory => Self::of_watched(path)?,
                Attempt::Refused(reason) => Some(Self::of_refused(path, reason)?),
            };
            match taken {
                Some(snapshot) => return Ok(snapshot),
                None => last = Some("its files changed while they were opened"),
            }
        }
        Err(busy(path, last.unwrap_or("cannot be read")))
    }

    fn of_pinned(path: &Path, pinned: Box<Pinned>) -> Result<Self> {
        let database = open_database(path)?;
        if database.identity() != pinned.identity() {
            return Err(replaced(path));
        }
        // The lock that we hold keeps the mode, and with it these fields of the file, as they are.
        let header = read_header(path, &database)?;
        let is_wal = header.is_wal();
        let counted = pinned.page_count().map_err(|error| failed(path, error))?;
        let mut snapshot = Snapshot {
            path: path.to_owned(),
            page_size: header.page_size,
            page_count: counted.unwrap_or(0),
            frames: 0,
            damage: Vec::new(),
            blocks_writers: !is_wal,
            overlay: Overlay::None,
            pinned: Some(pinned),
            lock: None,
            database: Arc::new(database),
        };
        if is_wal {
            snapshot.lay_wal()?;
        }
        if counted.is_none() {
            snapshot.count_pages()?;
        }
        snapshot.note_truncation()?;
        Ok(snapshot)
    }

    /// Lays the `-wal` over the file, as far as our mark reaches.
    fn lay_wal(&mut self) -> Result<()> {
        let Some(pinned) = &self.pinned else { return Ok(()) };
        let Some(mark) = ffi::snapshot_mark(pinned.connection()) else { return Ok(()) };
        if mark.frame_max == 0 {
            return Ok(());
        }
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else {
            return Err(log_is_foreign(&self.path));
        };
        let wal = match wal::scan_to_mark(file, self.page_size, &mark)? {
            Scan::Reset if lock_proof::needs_log(&self.path) => {
                return Err(log_is_foreign(&self.path));
            }
            Scan::Reset => return Ok(()),
            Scan::Whole(wal) => wal,
            Scan::Damaged(wal, how) => {
                self.damage.push(how);
                wal
            }
        };
        self.frames = wal.page_count();
        let reset_loses = !ffi::may_write(&side_file(&self.path, "-shm"));
        self.overlay = Overlay::Wal { wal, reset_loses };
        Ok(())
    }

    /// Counts the pages as SQLite does, where it cannot be asked.
    fn count_pages(&mut self) -> Result<()> {
        let mut first = vec![0; self.page_size as usize];
        self.read_pages(1, &mut first)?;
        let claimed = Header::parse(&first).and_then(|header| header.page_count());
        let mark = self.pinned.as_ref().and_then(|pinned| ffi::snapshot_mark(pinned.connection()));
        let in_log = mark.map(|mark| mark.page_count).filter(|&pages| pages > 0);
        let in_file = file_pages(&self.database, self.page_size, &self.path)?;
        self.page_count = claimed.or(in_log).unwrap_or(in_file);
        Ok(())
    }

    fn of_hot_journal(path: &Path) -> Result<Option<Self>> {
        let database = Arc::new(open_database(path)?);
        let Some(lock) = SharedLock::take(&database).map_err(|error| unreadable(path, error))?
        else {
            return Ok(None);
        };
        let header = read_header(path, &database)?;
        let journal_path = side_file(path, "-journal");
        let Some(journal) = Journal::open(&journal_path, &lock, &header)? else {
            return Ok(None);
        };
        Ok(Some(Snapshot {
            path: path.to_owned(),
            page_size: journal.page_size(),
            page_count: journal.page_count(),
            frames: journal.records(),
            damage: Vec::new(),
            blocks_writers: true,
            overlay: Overlay::Journal(journal),
            pinned: None,
            lock: Some(lock),
            database,
        }))
    }

    fn of_watched(path: &Path) -> Result<Option<Self>> {
        let database = Arc::new(open_database(path)?);
        let header = read_header(path, &database)?;
        if !header.is_wal() {
            return Err(Error::new(
                Kind::SourceUnavailable,
                format!("SQLite cannot open {}", path.display()),
            )
            .hint("check the rights on the file and on its folder"));
        }
        let Some(lock) = SharedLock::take(&database).map_err(|error| unreadable(path, error))?
        else {
            return Ok(None);
        };
        let watch = Box::new(Watch::begin(path, &database)?);
        let committed = match wal::open(&side_file(path, "-wal"))? {
            Some(file) => wal::scan_committed(file, header.page_size)?,
            None => wal::Committed { wal: None, page_count: None },
        };
        if !watch.is_unchanged()? {
            return Ok(None);
        }
        let in_file = file_pages(&database, header.page_size, path)?;
        let page_count = committed.page_count.or(header.page_count()).unwrap_or(in_file);
        let mut snapshot = Snapshot {
            path: path.to_owned(),
            page_size: header.page_size,
            page_count,
            frames: committed.wal.as_ref().map_or(0, Wal::page_count),
            damage: Vec::new(),
            blocks_writers: false,
            overlay: Overlay::Offline { wal: committed.wal, watch },
            pinned: None,
            lock: Some(lock),
            database,
        };
        snapshot.note_truncation()?;
        Ok(Some(snapshot))
    }

    fn of_refused(path: &Path, reason: String) -> Result<Self> {
        let database = Arc::new(open_database(path)?);
        let lock = SharedLock::take(&database).map_err(|error| unreadable(path, error))?;
        let Some(lock) = lock else { return Err(busy(path, "is locked")) };
        let header = read_header(path, &database)?;
        let page_count = file_pages(&database, header.page_size, path)?;
        Ok(Snapshot {
            path: path.to_owned(),
            page_size: header.page_size,
            page_count,
            frames: 0,
            damage: vec![format!("SQLite refuses the file: {reason}")],
            blocks_writers: true,
            overlay: Overlay::None,
            pinned: None,
            lock: Some(lock),
            database,
        })
    }

    /// Notes as damage that the file ends before its last page, and no log makes up for it.
    fn note_truncation(&mut self) -> Result<()> {
        let in_file = file_pages(&self.database, self.page_size, &self.path)?;
        let mut first = vec![0; self.page_size as usize];
        self.read_pages(1, &mut first)?;
        let claimed = Header::parse(&first).and_then(|header| header.page_count());
        let expected = self.page_count.max(claimed.unwrap_or(0));
        let overlaid = match &self.overlay {
            Overlay::Wal { wal, .. } | Overlay::Offline { wal: Some(wal), .. } => {
                wal.pages_within(in_file + 1, expected)
            }
            _ => 0,
        };
        if in_file + overlaid < expected {
            self.damage.push(format!("the file ends after {in_file} of {expected} pages"));
        }
        Ok(())
    }

    /// Page size in bytes.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// How many pages the state has.
    pub(crate) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// How many pages came from a `-wal` or a journal when the moment was taken.
    pub(crate) fn overlaid_pages(&self) -> usize {
        self.frames
    }

    /// What is wrong with the files as such.
    pub(crate) fn damage(&self) -> &[String] {
        &self.damage
    }

    /// Whether others cannot commit as long as this lives.
    pub(crate) fn blocks_writers(&self) -> bool {
        self.blocks_writers
    }

    /// Why there is no connection to the state, where there is none.
    pub(crate) fn why_unconnected(&self) -> Option<&'static str> {
        match (&self.pinned, &self.overlay) {
            (Some(_), _) => None,
            (None, Overlay::Journal(_)) => Some("a transaction was cut off and is rolled back"),
            (None, Overlay::Offline { .. }) => Some("the folder of the database is not writable"),
            (None, _) => Some("SQLite refuses the file"),
        }
    }

    /// The database file.
    pub(crate) fn database(&self) -> &File {
        &self.database
    }

    /// The read transaction, where one holds the state.
    pub(crate) fn pinned(&self) -> Option<&Pinned> {
        self.pinned.as_deref()
    }

    /// Hands the read transaction over: whoever has it now holds the state.
    pub(crate) fn take_pinned(&mut self) -> Option<Box<Pinned>> {
        self.pinned.take()
    }

    /// Hands over all that keeps others from writing.
    pub(crate) fn take_hold(&mut self) -> Hold {
        Hold { _pinned: self.pinned.take(), _lock: self.lock.take() }
    }

    /// A second descriptor of the `-wal`, to watch its growth.
    pub(crate) fn wal_file(&self) -> Option<File> {
        match &self.overlay {
            Overlay::Wal { wal, .. } => wal.file().try_clone().ok(),
            _ => File::open(side_file(&self.path, "-wal")).ok(),
        }
    }

    /// Fills the buffer, a whole number of pages, with those from page `first` on. Pages count
    /// from 1. What it returns is proved to be of this moment.
    pub(crate) fn read_pages(&mut self, first: u32, buffer: &mut [u8]) -> Result<()> {
        self.read_file_pages(first, buffer)?;
        match &self.overlay {
            Overlay::None => {}
            Overlay::Journal(journal) => journal.overlay(first, buffer)?,
            Overlay::Wal { wal, reset_loses } => match (wal.overlay(first, buffer)?, reset_loses) {
                (Some(_), _) => {}
                (None, true) => return Err(self.slipped_away()),
                (None, false) => {
                    // Our mark was 0: the log had been copied into the file whole, and the file
                    // is frozen as long as we read.
                    self.overlay = Overlay::None;
                    self.read_file_pages(first, buffer)?;
                }
            },
            Overlay::Offline { wal, watch } => {
                let whole = match wal {
                    Some(wal) => wal.overlay(first, buffer)?.is_some(),
                    None => true,
                };
                if !whole || !watch.is_unchanged()? {
                    return Err(self.slipped_away());
                }
            }
        }
        self.blank_lock_page(first, buffer);
        Ok(())
    }

    fn read_file_pages(&self, first: u32, buffer: &mut [u8]) -> Result<()> {
        let offset = u64::from(first - 1) * u64::from(self.page_size);
        let filled = read_up_to(&self.database, buffer, offset)
            .map_err(|error| unreadable(&self.path, error))?;
        buffer[filled..].fill(0);
        Ok(())
    }

    fn blank_lock_page(&self, first: u32, buffer: &mut [u8]) {
        let page_bytes = self.page_size as usize;
        let lock_page = header::lock_page(self.page_size);
        if let Some(index) = lock_page.checked_sub(first).map(|index| index as usize)
            && index < buffer.len() / page_bytes
        {
            buffer[index * page_bytes..(index + 1) * page_bytes].fill(0);
        }
    }

    fn slipped_away(&self) -> Error {
        Error::new(
            Kind::SourceUnavailable,
            format!(
                "{} was written to while it was read without the right to hold it",
                self.path.display()
            ),
        )
        .hint("run as a user who may write to the folder of the database")
    }
}

fn open_database(path: &Path) -> Result<HeldFile> {
    held::open(path).map_err(|error| missing(path, error))
}

fn read_header(path: &Path, database: &File) -> Result<Header> {
    let mut first = [0; HEADER_BYTES];
    let filled = read_up_to(database, &mut first, 0).map_err(|error| unreadable(path, error))?;
    header::require(path, &first[..filled])
}

fn file_pages(database: &File, page_size: u32, path: &Path) -> Result<u32> {
    let length = database.metadata().map_err(|error| unreadable(path, error))?.len();
    Ok(u32::try_from(length.div_ceil(u64::from(page_size))).unwrap_or(u32::MAX))
}

fn replaced(path: &Path) -> Error {
    Error::new(
        Kind::SourceUnavailable,
        format!("{} was replaced by another file while it was opened", path.display()),
    )
    .hint("run the backup again")
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
}

#[cfg(test)]
mod tests;
