//! One moment of a database for several readers who ask in SQL.
//!
//! In WAL mode each reader has a read transaction of its own, and all of them have the same mark:
//! writers go on. A database with a rollback journal would keep its writers waiting for as long as
//! somebody reads; it is copied to a private file under one lock, bounded by one sequential read,
//! and the readers read the copy. So is one that SQLite cannot open without writing to it.

use std::io::Write;
use std::ops::Deref;
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::scratch::Scratch;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::Connection;

use crate::engine::open_immutable;
use crate::ffi;
use crate::snapshot::{Attempt, Pinned, Snapshot, busy, failed, missing, pin};

/// So often marks are compared anew where writers commit between them.
const ATTEMPTS_MAX: usize = 200;
/// What is copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// Readers of one and the same state of a database.
pub struct Moment {
    // Dropped before the copy that they read.
    readers: Vec<MomentReader>,
    _copy: Option<Scratch>,
    is_live: bool,
}

/// A connection that sees the moment, and cannot write.
pub struct MomentReader(Reader);

enum Reader {
    Pinned(Box<Pinned>),
    Copy(Connection),
}

impl Deref for MomentReader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.0 {
            Reader::Pinned(pinned) => pinned.connection(),
            Reader::Copy(connection) => connection,
        }
    }
}

impl Moment {
    /// Takes hold of the present moment, for so many readers. `scratch_folder` is where a copy
    /// goes, if one is needed.
    pub fn open(env: &Env, path: &Path, readers: usize, scratch_folder: &Path) -> Result<Self> {
        let path = std::fs::canonicalize(path).map_err(|error| missing(path, error))?;
        let mut moment = match pinned_readers(env, &path, readers)? {
            Some(readers) => Moment { readers, _copy: None, is_live: true },
            None => copied(env, &path, readers, scratch_folder)?,
        };
        for reader in &mut moment.readers {
            let settings = "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;
                            PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;
                            PRAGMA cache_size = -2000";
            reader.execute_batch(settings).map_err(|error| failed(&path, error))?;
        }
        Ok(moment)
    }

    /// The moment of a file that nobody writes to, such as a scratch restore.
    pub fn of_file(path: &Path, readers: usize) -> Result<Self> {
        let readers = immutable_readers(path, readers)?;
        Ok(Moment { readers, _copy: None, is_live: false })
    }

    /// Whether it is the live database that is read, not a copy.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// The readers, to be given to threads.
    pub fn readers_mut(&mut self) -> &mut [MomentReader] {
        &mut self.readers
    }

    /// The first of them.
    pub fn reader(&self) -> &MomentReader {
        &self.readers[0]
    }
}

/// Read transactions of one mark; `None` where writers would wait for them, or SQLite cannot.
fn pinned_readers(env: &Env, path: &Path, count: usize) -> Result<Option<Vec<MomentReader>>> {
    for _ in 0..ATTEMPTS_MAX {
        env.proceed()?;
        let mut pinned = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            let Attempt::Pinned(one) = pin(path)? else { return Ok(None) };
            let mode: String = one
                .connection()
                .query_row("PRAGMA journal_mode", [], |row| row.get(0))
                .map_err(|error| failed(path, error))?;
            if mode != "wal" {
                return Ok(None);
            }
            pinned.push(one);
        }
        let mark = |pinned: &Pinned| ffi::snapshot_mark(pinned.connection());
        let first = mark(&pinned[0]);
        let same = pinned.iter().all(|other| {
            mark(other) == first && Some(other.identity()) == pinned.first().map(|p| p.identity())
        });
        if same {
            let readers = pinned.into_iter().map(|one| MomentReader(Reader::Pinned(one)));
            return Ok(Some(readers.collect()));
        }
    }
    Err(busy(path, "is written to faster than several readers can take hold of it"))
}

fn copied(env: &Env, path: &Path, readers: usize, folder: &Path) -> Result<Moment> {
    let mut snapshot = Snapshot::take(path)?;
    if let Some(damage) = snapshot.damage().first() {
        let message = format!("{} is damaged: {damage}", path.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("restore it from a backup, or rescue its rows with `lifeboat salvage`"));
    }
    let page_bytes = snapshot.page_size() as usize;
    let (pages, pages_at_once) = (snapshot.page_count(), (PIECE_BYTES / page_bytes).max(1) as u32);
    let bytes = u64::from(pages) * page_bytes as u64;
    let mut copy = Scratch::new(folder, bytes)?;
    let place = copy.path();
    let subject = path.to_string_lossy();
    let phase = "copying";
    env.tell(Event::PhaseBegan { subject: &subject, phase, bytes_total: Some(bytes) });
    let mut page = 1;
    while page <= pages {
        env.proceed()?;
        let count = pages_at_once.min(pages - page + 1);
        let mut piece = vec![0; count as usize * page_bytes];
        snapshot.read_pages(page, &mut piece)?;
        if page == 1 && piece.len() > 20 {
            // The copy is whole without a log: its header must not ask for one.
            piece[18..20].fill(1);
        }
        copy.file().write_all(&piece).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write {}", place.display()), error)
        })?;
        page += count;
        env.tell(Event::Advanced { bytes: u64::from(count) * page_bytes as u64 });
    }
    env.tell(Event::PhaseEnded { phase });
    drop(snapshot);
    let readers = immutable_readers(&place, readers)?;
    Ok(Moment { readers, _copy: Some(copy), is_live: false })
}

fn immutable_readers(path: &Path, count: usize) -> Result<Vec<MomentReader>> {
    let open = || open_immutable(path).map_err(|error| failed(path, error));
    (0..count.max(1)).map(|_| Ok(MomentReader(Reader::Copy(open()?)))).collect()
}
