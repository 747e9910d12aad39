//! What a segment says of itself in its first bytes.
//!
//! A page of the log begins with its magic (2 bytes), flags (2), timeline (4) and address (8), in
//! the byte order of the server; the first page of a segment goes on, from byte 24, with the
//! system identifier (8), the size of segments (4) and of pages (4).

use lifeboat_core::{Error, Kind, Result};

use super::name::{Lsn, Segment};
use super::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// How many bytes of a segment its header takes.
pub const HEADER_BYTES: usize = 40;
/// The flag of a header that has the system identifier.
const LONG_HEADER: u16 = 0x0002;
/// The upper byte of every magic since version 8.
const MAGIC_HIGH: u16 = 0xd100;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The magic: which version of PostgreSQL wrote it.
    pub magic: u16,
    /// The timeline on which its first page was written: of the first segment of a timeline, the
    /// parent's.
    pub timeline: u32,
    /// The address of its first byte.
    pub address: Lsn,
    /// The cluster's system identifier.
    pub system: u64,
    /// How many bytes a segment of that cluster has.
    pub segment_bytes: u64,
    /// How many bytes a page has.
    pub page_bytes: u32,
}

impl SegmentHeader {
    /// Reads it. `what` names the segment in errors; these are [`Kind::CheckFailed`].
    pub fn parse(bytes: &[u8], what: &str) -> Result<SegmentHeader> {
        let wrong = |why: &str| Error::new(Kind::CheckFailed, format!("{what} {why}"));
        if bytes.len() < HEADER_BYTES {
            return Err(wrong("is too short for a segment of the log"));
        }
        let word = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(four)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (magic, flags) = (word(0) as u16, (word(0) >> 16) as u16);
        if magic & 0xff00 != MAGIC_HIGH {
            return Err(wrong("does not begin as a segment of the log does"));
        }
        if flags & LONG_HEADER == 0 {
            return Err(wrong("begins with a page that is not the first of a segment"));
        }
        let header = SegmentHeader {
            magic,
            timeline: word(4),
            address: Lsn(long(8)),
            system: long(24),
            segment_bytes: u64::from(word(32)),
            page_bytes: word(36),
        };
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let possible = header.segment_bytes.is_power_of_two()
            && sizes.contains(&header.segment_bytes)
            && header.page_bytes.is_power_of_two()
            && (1 << 10..=1 << 16).contains(&header.page_bytes);
        match possible {
            true => Ok(header),
            false => Err(wrong("names impossible sizes of segments or pages")),
        }
    }

    /// Whether it is that segment, by its name, of a file of so many bytes.
    pub fn check(&self, segment: Segment, file_bytes: u64, what: &str) -> Result<()> {
        let wrong = |why: String| Err(Error::new(Kind::CheckFailed, format!("{what} {why}")));
        if self.segment_bytes != file_bytes {
            let own = self.segment_bytes;
            return wrong(format!("has {file_bytes} bytes, a segment of its cluster has {own}"));
        }
        let address = segment.begins(self.segment_bytes);
        if !segment.is_possible(self.segment_bytes) || self.address != address {
            return wrong(format!("begins at {}, by its name it must at {address}", self.address));
        }
        // The first segment of a timeline begins with pages of its parent.
        if self.timeline == 0 || self.timeline > segment.timeline {
            let (own, named) = (self.timeline, segment.timeline);
            return wrong(format!("is of timeline {own}, by its name of {named}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a segment of 1 MiB at 0/300000.
    pub(crate) fn header() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xd110_u16.to_le_bytes());
        bytes.extend(LONG_HEADER.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0x30_0000_u64.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(42_u64.to_le_bytes());
        bytes.extend((1_u32 << 20).to_le_bytes());
        bytes.extend(8192_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_header_is_read_and_compared_with_its_name() {
        let header = SegmentHeader::parse(&header(), "x").unwrap();
        assert_eq!((header.system, header.segment_bytes), (42, 1 << 20));
        let segment = Segment { timeline: 1, high: 0, low: 3 };
        header.check(segment, 1 << 20, "x").unwrap();
        header.check(Segment { timeline: 2, ..segment }, 1 << 20, "x").unwrap();
        for (segment, bytes) in [
            (Segment { low: 4, ..segment }, 1 << 20),
            (Segment { high: 1, ..segment }, 1 << 20),
            (segment, 1 << 24),
            (segment, (1 << 20) - 1),
        ] {
            let error = header.check(segment, bytes, "x").unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{segment} {bytes}");
        }
        let older = SegmentHeader { timeline: 2, ..header };
        assert!(older.check(segment, 1 << 20, "x").is_err());
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let sound = header();
        for (at, byte) in [(1, 0), (2, 0), (34, 0x11), (37, 0), (35, 0x80)] {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            assert!(SegmentHeader::parse(&bytes, "x").is_err(), "{at}");
        }
        assert!(SegmentHeader::parse(&sound[..39], "x").is_err());
    }
}
