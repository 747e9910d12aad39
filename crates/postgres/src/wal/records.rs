//! Times in the log: the ends of transactions, and restore points, found in a segment's records.
//!
//! A segment is a row of pages, each with a header; records lie behind each other across pages,
//! each aligned to 8 bytes, with its length (4 bytes), transaction (4), the place of the record
//! before (8), flags (1), kind (1) and a CRC-32C (4, at byte 20). Only records that hold a time are
//! looked into, and only those whose checksum is right count. Behind the last record lie zeros, or
//! what a recycled file held before: pages of another address, or records that do not follow.
//!
//! The same in all versions from 13 to 18.

use jiff::Timestamp;

use super::header::{HEADER_BYTES, SegmentHeader};
use super::name::Lsn;

/// The size of a page's header: of the first page of a segment, and of the others.
const LONG_BYTES: usize = 40;
const SHORT_BYTES: usize = 24;
/// The header of a record.
const RECORD_BYTES: usize = 24;
/// Flags of a page: it begins with the rest of a record; that record was given up.
const CONTINUES: u16 = 0x0001;
const GIVEN_UP: u16 = 0x0008;
/// Kinds of records.
const OF_LOG: u8 = 0;
const OF_TRANSACTION: u8 = 1;
const RESTORE_POINT: u8 = 0x70;
/// Kinds of ends of transactions, below the mask: commit, abort, and of prepared ones.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
const END_MASK: u8 = 0x70;
/// A record longer than this is none.
const RECORD_BYTES_MAX: usize = 1 << 30;
/// From 1970 to 2000, in microseconds.
const EPOCH_US: i64 = 946_684_800_000_000;
/// So many restore points of a segment are remembered.
const RESTORE_POINTS_MAX: usize = 1_000;

/// What the records of a segment say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The first time in it.
    pub first: Option<Timestamp>,
    /// The last one.
    pub last: Option<Timestamp>,
    /// Named moments, with the place behind each.
    pub restore_points: Vec<(String, Lsn)>,
    /// The place behind the last whole record, if there is one.
    pub end: Option<Lsn>,
    /// Where that record begins, if it does so in this segment.
    pub last_begins: Option<Lsn>,
}

/// Reads the records of one segment while its bytes go by.
pub struct RecordReader {
    header: SegmentHeader,
    page: Vec<u8>,
    address: u64,
    partial: Option<Partial>,
    previous: Option<u64>,
    is_over: bool,
    /// Only records that end behind this place count.
    behind: Lsn,
    times: Times,
}

/// A record whose end has not come yet.
struct Partial {
    begins: u64,
    total: usize,
    seen: usize,
    bytes: Vec<u8>,
}

impl RecordReader {
    /// For a segment with that header. Its bytes are given from the first one on.
    pub fn new(header: SegmentHeader) -> Self {
        RecordReader {
            header,
            page: Vec::with_capacity(header.page_bytes as usize),
            address: header.address.0,
            partial: None,
            previous: None,
            is_over: false,
            behind: Lsn(0),
            times: Times::default(),
        }
    }

    /// Only times of records count that end behind that place.
    pub fn only_behind(mut self, place: Lsn) -> Self {
        self.behind = place;
        self
    }

    /// The first time that was found so far, in whole pages.
    pub fn first(&self) -> Option<Timestamp> {
        self.times.first
    }

    /// Reads a whole segment, or its beginning, at hand. `None` if it has no header.
    pub fn read(bytes: &[u8]) -> Option<Times> {
        let header = SegmentHeader::parse(bytes.get(..HEADER_BYTES)?, "it").ok()?;
        let mut reader = RecordReader::new(header);
        reader.push(bytes);
        Some(reader.finish())
    }

    /// Takes more bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let page_bytes = self.header.page_bytes as usize;
        while !bytes.is_empty() && !self.is_over {
            let share = bytes.len().min(page_bytes - self.page.len());
            self.page.extend_from_slice(&bytes[..share]);
            bytes = &bytes[share..];
            if self.page.len() == page_bytes {
                let page = std::mem::take(&mut self.page);
                self.take_page(&page);
                self.page = page;
                self.page.clear();
                self.address += page_bytes as u64;
            }
        }
    }

    /// The times, when all bytes were given. A page that came in part counts as far as it came.
    pub fn finish(mut self) -> Times {
        if !self.is_over && self.page.len() > LONG_BYTES {
            let page = std::mem::take(&mut self.page);
            self.take_page(&page);
        }
        self.times
    }

    fn take_page(&mut self, page: &[u8]) {
        if self.is_over {
            return;
        }
        let word = |at: usize| number(page, at);
        let (magic, flags) = (word(0) as u16, (word(0) >> 16) as u16);
        let address = u64::from(word(8)) | u64::from(word(12)) << 32;
        if magic != self.header.magic || address != self.address {
            self.is_over = true;
            return;
        }
        let is_first = self.address == self.header.address.0;
        let begin = if is_first { LONG_BYTES } else { SHORT_BYTES };
        let rest = match flags & CONTINUES {
            0 => 0,
            _ => word(16) as usize,
        };
        if flags & GIVEN_UP != 0 || rest == 0 {
            self.partial = None;
        }
        let share = rest.min(page.len() - begin);
        if rest > 0 {
            self.go_on(&page[begin..begin + share], rest);
        }
        if share < rest {
            return;
        }
        self.take_records(page, aligned(begin + share));
    }

    /// The rest of a record of the page before, or a part of it.
    fn go_on(&mut self, bytes: &[u8], rest: usize) {
        let Some(mut partial) = self.partial.take() else { return };
        if partial.total - partial.seen != rest {
            self.is_over = true;
            return;
        }
        partial.take(bytes);
        match partial.seen == partial.total {
            true => {
                let end = self.address + (self.begin_of_page() + bytes.len()) as u64;
                self.whole(partial.begins, &partial.bytes, partial.total, end);
            }
            false => self.partial = Some(partial),
        }
    }

    fn begin_of_page(&self) -> usize {
        if self.address == self.header.address.0 { LONG_BYTES } else { SHORT_BYTES }
    }

    fn take_records(&mut self, page: &[u8], mut at: usize) {
        while at + 8 <= page.len() && !self.is_over {
            let total = number(page, at) as usize;
            // Zeros behind the last record, or a switch to the next segment.
            if !(RECORD_BYTES..=RECORD_BYTES_MAX).contains(&total) {
                self.is_over = true;
                return;
            }
            let begins = self.address + at as u64;
            let here = total.min(page.len() - at);
            let bytes = &page[at..at + here];
            if here == total {
                self.whole(begins, bytes, total, begins + total as u64);
            } else {
                let mut partial = Partial { begins, total, seen: 0, bytes: Vec::new() };
                partial.take(bytes);
                self.partial = Some(partial);
            }
            at = aligned(at + here);
        }
    }

    /// A record whose bytes came, or of one without a time only its header.
    fn whole(&mut self, begins: u64, bytes: &[u8], total: usize, end: u64) {
        if bytes.len() < RECORD_BYTES {
            self.is_over = true;
            return;
        }
        let before = u64::from(number(bytes, 8)) | u64::from(number(bytes, 12)) << 32;
        if self.previous.is_some_and(|previous| previous != before) {
            self.is_over = true;
            return;
        }
        self.previous = Some(begins);
        if has_time(bytes) {
            if bytes.len() != total || !is_sound(bytes) {
                self.is_over = true;
                return;
            }
            if end > self.behind.0 {
                self.note(bytes, end);
            }
        }
        (self.times.end, self.times.last_begins) = (Some(Lsn(end)), Some(Lsn(begins)));
    }

    fn note(&mut self, bytes: &[u8], end: u64) {
        let Some(data) = main_data(bytes) else { return };
        let Some(time) = data.first_chunk::<8>() else { return };
        let microseconds = i64::from_le_bytes(*time).saturating_add(EPOCH_US);
        let Ok(at) = Timestamp::from_microsecond(microseconds) else { return };
        self.times.first.get_or_insert(at);
        self.times.last = Some(at);
        if bytes[17] == OF_LOG && self.times.restore_points.len() < RESTORE_POINTS_MAX {
            let name = data[8..].split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            self.times.restore_points.push((name, Lsn(end)));
        }
    }
}

impl Partial {
    /// Bytes are kept only as far as somebody will look at them.
    fn take(&mut self, bytes: &[u8]) {
        self.seen += bytes.len();
        let mut rest = bytes;
        if self.bytes.len() < RECORD_BYTES {
            let share = rest.len().min(RECORD_BYTES - self.bytes.len());
            self.bytes.extend_from_slice(&rest[..share]);
            rest = &rest[share..];
        }
        if self.bytes.len() >= RECORD_BYTES && has_time(&self.bytes) {
            self.bytes.extend_from_slice(rest);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// Whether a record, of which at least the header is there, holds a time that counts.
fn has_time(bytes: &[u8]) -> bool {
    let (flags, kind) = (bytes[16], bytes[17]);
    match kind {
        OF_TRANSACTION => ENDS.contains(&(flags & END_MASK)),
        OF_LOG => flags & 0xf0 == RESTORE_POINT,
        _ => false,
    }
}

/// The checksum is over what follows the header, and then the header up to the checksum itself.
fn is_sound(bytes: &[u8]) -> bool {
    let body = crc32c::crc32c(&bytes[RECORD_BYTES..]);
    crc32c::crc32c_append(body, &bytes[..20]) == number(bytes, 20)
}

/// The record's own data, of one that changes no page.
fn main_data(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = RECORD_BYTES;
    loop {
        match *bytes.get(at)? {
            // Where it was replicated from; the transaction above this one.
            253 => at += 3,
            252 => at += 5,
            255 => {
                let length = usize::from(*bytes.get(at + 1)?);
                return bytes.get(at + 2..at + 2 + length);
            }
            254 => {
                let length = number(bytes.get(at + 1..at + 5)?, 0) as usize;
                return bytes.get(at + 5..at + 5 + length);
            }
            _ => return None,
        }
    }
}
