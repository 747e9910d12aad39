//! Pages of a database file replaced in place, all or none, under SQLite's own locks.
//!
//! A connection of SQLite's holds the file exclusively meanwhile, so that whoever has it open
//! looks before or after. What is overwritten goes to a rollback journal of SQLite's format first:
//! after a crash the next who opens the database, reader or we, finds it and goes back. The
//! journal's end is the moment of the change. The counter of changes on the first page goes on, by
//! which readers see that what they keep in memory is old; this also holds for another page size.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::header::{HEADER_BYTES, Header, lock_page};
use crate::holders::side_file;

/// The first bytes of a rollback journal.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The header of a journal takes a whole sector.
const SECTOR_BYTES: usize = 512;
/// What the checksums of a journal begin with.
const NONCE: u32 = 0x6c62_6f61;
/// The time between two tries to get the file alone.
const RETRY_MS: u64 = 20;

/// The state that a database file is to have.
pub(crate) struct Change<'a> {
    pub(crate) page_size: u32,
    pub(crate) page_count: u32,
    /// The pages that differ from what is in the file, in rising order.
    pub(crate) pages: &'a [u32],
    /// Fills a buffer with a page.
    pub(crate) read: &'a dyn Fn(u32, &mut [u8]) -> Result<()>,
}

/// A database that nobody else reads or writes now.
pub(crate) struct Alone {
    // Let go first: the connection has the locks, and a descriptor that is closed drops them.
    connection: Connection,
    file: File,
}

impl Alone {
    /// Waits until the database can be had alone. What a crash left half is undone by that.
    pub(crate) fn take(env: &Env, path: &Path) -> Result<Self> {
        let failed = |error: rusqlite::Error| {
            let message = format!("cannot hold {} for a change", path.display());
            Error::new(Kind::Failed, message).caused_by(error)
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot write to {}", path.display()), error)
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        loop {
            env.proceed()?;
            match connection.execute_batch("BEGIN EXCLUSIVE") {
                Ok(()) => return Ok(Alone { connection, file }),
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                    env.pause_ms(RETRY_MS)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The file, for reading.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the change.
    pub(crate) fn change(self, env: &Env, path: &Path, change: &Change<'_>) -> Result<()> {
        let journal = side_file(path, "-journal");
        let written = self.write(env, path, &journal, change);
        if written.is_err() && journal.exists() {
            // As after a crash: who opens it next goes back.
            return written;
        }
        let Alone { connection, file } = self;
        let ended = connection.execute_batch("ROLLBACK").map_err(|error| {
            Error::new(Kind::Failed, format!("cannot let {} go", path.display())).caused_by(error)
        });
        drop(connection);
        drop(file);
        written.and(ended)
    }

    fn write(&self, env: &Env, path: &Path, journal: &Path, change: &Change<'_>) -> Result<()> {
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::StorageFull => Kind::NoSpace,
                _ => Kind::Failed,
            };
            Error::io(kind, format!("cannot change {}", path.display()), error)
        };
        let mut first = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut first, 0).map_err(failed)?;
        let before = Header::parse(&first).ok_or_else(|| {
            Error::new(Kind::Refused, format!("{} is no database any more", path.display()))
                .hint("remove it: it is restored anew")
        })?;
        let bytes = self.file.metadata().map_err(failed)?.len();
        let old = Old {
            page_size: before.page_size,
            page_count: u32::try_from(bytes / u64::from(before.page_size)).unwrap_or(u32::MAX),
        };
        self.keep(journal, &old, change).map_err(failed)?;
        sync_folder(path).map_err(failed)?;
        env.crash.pass("standby.journaled")?;
        let counter = u32::from_be_bytes([first[24], first[25], first[26], first[27]]);
        let mut page = vec![0; change.page_size as usize];
        for &number in change.pages {
            (change.read)(number, &mut page)?;
            if number == 1 {
                local_first_page(&mut page, counter.wrapping_add(1), change.page_count);
            }
            let offset = u64::from(number - 1) * u64::from(change.page_size);
            self.file.write_all_at(&page, offset).map_err(failed)?;
        }
        let bytes = u64::from(change.page_count) * u64::from(change.page_size);
        self.file.set_len(bytes).and_then(|()| self.file.sync_data()).map_err(failed)?;
        env.crash.pass("standby.written")?;
        fs::remove_file(journal).and_then(|()| sync_folder(path)).map_err(failed)
    }

    /// Writes what will be overwritten into a journal, and syncs it.
    fn keep(&self, journal: &Path, old: &Old, change: &Change<'_>) -> std::io::Result<()> {
        let lock_page = lock_page(old.page_size);
        let kept: Vec<u32> = match old.page_size == change.page_size {
            true => {
                let changed = change.pages.iter().copied().filter(|&page| page <= old.page_count);
                changed.chain(change.page_count + 1..=old.page_count).collect()
            }
            false => (1..=old.page_count).collect(),
        };
        let kept: Vec<u32> = kept.into_iter().filter(|&page| page != lock_page).collect();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(journal)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        let mut head = Vec::with_capacity(SECTOR_BYTES);
        head.extend(JOURNAL_MAGIC);
        let words = [kept.len() as u32, NONCE, old.page_count, SECTOR_BYTES as u32, old.page_size];
        words.iter().for_each(|word| head.extend(word.to_be_bytes()));
        head.resize(SECTOR_BYTES, 0);
        writer.write_all(&head)?;
        let mut page = vec![0; old.page_size as usize];
        for number in kept {
            let offset = u64::from(number - 1) * u64::from(old.page_size);
            self.file.read_exact_at(&mut page, offset)?;
            writer.write_all(&number.to_be_bytes())?;
            writer.write_all(&page)?;
            writer.write_all(&checksum(&page).to_be_bytes())?;
        }
        writer.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}

/// The pages of a file before it is changed.
struct Old {
    page_size: u32,
    page_count: u32,
}

/// Makes of a first page that of a copy of our own: in rollback mode, so that nothing of it is in
/// any other file, and with a counter of changes that goes on.
pub(crate) fn local_first_page(page: &mut [u8], counter: u32, page_count: u32) {
    page[18..20].copy_from_slice(&[1, 1]);
    page[24..28].copy_from_slice(&counter.to_be_bytes());
    page[28..32].copy_from_slice(&page_count.to_be_bytes());
    page[92..96].copy_from_slice(&counter.to_be_bytes());
}

/// The checksum of a page in a journal: every two hundredth byte from its end.
fn checksum(page: &[u8]) -> u32 {
    let places = (1..page.len().saturating_sub(199)).rev().step_by(200);
    places.fold(NONCE, |sum, place| sum.wrapping_add(u32::from(page[place])))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
