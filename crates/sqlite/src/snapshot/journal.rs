//! The rollback journal of a transaction that was cut off: the pages as they were before it.
//!
//! SQLite would roll the transaction back in the database file. We never write to a source, so
//! the original pages are laid over the file in memory. Which records count follows SQLite's
//! playback exactly: the result is byte for byte what its rollback would leave.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lifeboat_core::{Error, Kind, Result};

use super::frames::{Keep, PageMap};
use super::lock::SharedLock;
use super::wal::read_up_to;
use crate::header::{Header, lock_page};

const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// Bytes of a header before its padding to a sector.
const HEADER_BYTES: usize = 28;
/// The longest path of a super-journal that SQLite looks at.
const SUPER_NAME_BYTES_MAX: u32 = 512;

/// The original pages, and how many there were.
pub(crate) struct Journal {
    file: File,
    page_size: u32,
    page_count: u32,
    pages: PageMap,
    segments: Vec<Segment>,
}

/// Records that follow one header without a gap.
struct Segment {
    first_record: u32,
    offset: u64,
}

struct SegmentHeader {
    records: u32,
    checksum_seed: u32,
    page_count: u32,
    sector_bytes: u32,
    page_size: u32,
}

impl Journal {
    /// Reads the journal beside a database that is locked by us; `None` when it is not one of a
    /// transaction that was cut off, or no longer.
    pub(crate) fn open(path: &Path, lock: &SharedLock, header: &Header) -> Result<Option<Self>> {
        let failed = |error| unreadable(path, error);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let length = file.metadata().map_err(failed)?.len();
        let mut first = [0; 1];
        let filled = read_up_to(&file, &mut first, 0).map_err(failed)?;
        if filled == 0 || first[0] == 0 || lock.is_reserved().map_err(failed)? {
            return Ok(None);
        }
        let database_bytes = lock.file().metadata().map_err(failed)?.len();
        let pages_in_file = database_bytes.div_ceil(u64::from(header.page_size)) as u32;
        let stale = is_stale(&file, length).map_err(failed)?;
        let mut journal = Journal {
            file,
            page_size: header.page_size,
            page_count: header.page_count().unwrap_or(pages_in_file),
            pages: PageMap::new(Keep::First),
            segments: Vec::new(),
        };
        if !stale {
            journal.read_segments(length).map_err(failed)?;
        }
        journal.pages.settle();
        Ok(Some(journal))
    }

    /// Page size in bytes before the transaction.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// How many pages the database had before the transaction.
    pub(crate) fn page_count(&self) -> u32 {
        self.page_count
    }

    /// How many pages it restores.
    pub(crate) fn records(&self) -> usize {
        self.pages.len()
    }

    /// Writes the original pages over the buffer, which begins with page `first`.
    pub(crate) fn overlay(&self, first: u32, buffer: &mut [u8]) -> Result<()> {
        let page_bytes = self.page_size as usize;
        let last = first + (buffer.len() / page_bytes) as u32;
        for &(page, record) in self.pages.range(first..last) {
            let at = (page - first) as usize * page_bytes;
            self.file
                .read_exact_at(&mut buffer[at..at + page_bytes], self.offset_of(record) + 4)
                .map_err(|error| unreadable(Path::new("the journal"), error))?;
        }
        Ok(())
    }

    fn record_bytes(&self) -> u64 {
        u64::from(self.page_size) + 8
    }

    fn offset_of(&self, record: u32) -> u64 {
        let index = self.segments.partition_point(|segment| segment.first_record <= record) - 1;
        let segment = &self.segments[index];
        segment.offset + u64::from(record - segment.first_record) * self.record_bytes()
    }

    fn read_segments(&mut self, length: u64) -> io::Result<()> {
        let mut offset = 0;
        let mut sector_bytes = 0;
        let mut first_record = 0;
        while let Some(header) = self.read_header(offset, sector_bytes, length)? {
            if offset == 0 {
                sector_bytes = header.sector_bytes;
                self.page_size = header.page_size;
                self.page_count = header.page_count;
            }
            offset += u64::from(sector_bytes);
            let records = match header.records {
                u32::MAX => (length - u64::from(sector_bytes)) / self.record_bytes(),
                records => u64::from(records),
            };
            self.segments.push(Segment { first_record, offset });
            let (read, whole) =
                self.read_records(first_record, offset, records, header.checksum_seed)?;
            if !whole {
                return Ok(());
            }
            first_record += read;
            offset = (offset + u64::from(read) * self.record_bytes())
                .next_multiple_of(u64::from(sector_bytes));
        }
        Ok(())
    }

    /// The header at that offset; `None` at the journal's end. Only the first says how large
    /// sectors and pages are.
    fn read_header(
        &self,
        offset: u64,
        sector_bytes: u32,
        length: u64,
    ) -> io::Result<Option<SegmentHeader>> {
        let mut raw = [0; HEADER_BYTES];
        let filled = read_up_to(&self.file, &mut raw, offset)?;
        if filled < HEADER_BYTES || raw[..8] != MAGIC {
            return Ok(None);
        }
        let word = |at: usize| be_word(&raw, at);
        let page_size = if word(24) == 0 { self.page_size } else { word(24) };
        let header = SegmentHeader {
            records: word(8),
            checksum_seed: word(12),
            page_count: word(16),
            sector_bytes: if offset == 0 { word(20) } else { sector_bytes },
            page_size,
        };
        let sound = header.sector_bytes.is_power_of_two()
            && (32..=65536).contains(&header.sector_bytes)
            && page_size.is_power_of_two()
            && (512..=65536).contains(&page_size)
            && offset + u64::from(header.sector_bytes) <= length;
        Ok(sound.then_some(header))
    }

    /// Notes the records of a segment. Says how many were read, and whether playback goes on
    /// behind them.
    fn read_records(
        &mut self,
        first_record: u32,
        offset: u64,
        records: u64,
        checksum_seed: u32,
    ) -> io::Result<(u32, bool)> {
        let mut record = vec![0; self.record_bytes() as usize];
        for index in 0..records {
            let at = offset + index * self.record_bytes();
            let filled = read_up_to(&self.file, &mut record, at)?;
            if filled < record.len() {
                return Ok((index as u32, false));
            }
            let (page, rest) = (be_word(&record, 0), &record[4..]);
            let (image, sum) = rest.split_at(self.page_size as usize);
            if page == 0 || page == lock_page(self.page_size) {
                return Ok((index as u32, false));
            }
            let position = first_record + index as u32;
            if page > self.page_count {
                continue;
            }
            if checksum(checksum_seed, image) != be_word(sum, 0) {
                // A later image of a page that is known already is not looked at by SQLite.
                let known = self.pages.contains(page);
                if known {
                    continue;
                }
                return Ok((index as u32, false));
            }
            self.pages.push(page, position);
        }
        Ok((records as u32, true))
    }
}

/// Whether the journal belongs to a transaction over several databases that was committed: it
/// names a super-journal, and that is gone.
fn is_stale(file: &File, length: u64) -> io::Result<bool> {
    let mut tail = [0; 16];
    if length < 16 || read_up_to(file, &mut tail, length - 16)? < 16 || tail[8..] != MAGIC {
        return Ok(false);
    }
    let name_bytes = be_word(&tail, 0);
    if name_bytes == 0 || name_bytes > SUPER_NAME_BYTES_MAX || u64::from(name_bytes) > length - 16 {
        return Ok(false);
    }
    let mut name = vec![0; name_bytes as usize];
    read_up_to(file, &mut name, length - 16 - u64::from(name_bytes))?;
    let sum = name.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(byte as i8 as u32));
    if sum != be_word(&tail, 4) {
        return Ok(false);
    }
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    Ok(is_super_name(name) && !path.try_exists()?)
}

/// Whether a name ends as SQLite ends those of super-journals: `-mj` and nine hexadecimal
/// digits, the third from the end a 9. Any other is no name, and the journal counts.
fn is_super_name(name: &[u8]) -> bool {
    let Some((_, ending)) = name.split_last_chunk::<12>() else { return false };
    let digits = &ending[3..];
    ending.starts_with(b"-mj") && digits[6] == b'9' && digits.iter().all(u8::is_ascii_hexdigit)
}

/// The checksum of a record: every 200th byte from the page's end.
fn checksum(seed: u32, image: &[u8]) -> u32 {
    let mut sum = seed;
    let mut at = image.len() as i64 - 200;
    while at > 0 {
        sum = sum.wrapping_add(u32::from(image[at as usize]));
        at -= 200;
    }
    sum
}

fn be_word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
}
