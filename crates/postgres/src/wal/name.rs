//! Names: of files in `pg_wal`, of places in the log, and of objects in a repository.

use std::fmt;

use lifeboat_core::coverage::Stretch;
use lifeboat_core::log;

pub use crate::replication::Lsn;

/// A segment: its timeline, and the two numbers of its name. How many bytes it has is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The timeline.
    pub timeline: u32,
    /// The upper half of its first byte's place.
    pub high: u32,
    /// Which segment of those 4 GiB it is.
    pub low: u32,
}

impl Segment {
    /// The segment that holds a place.
    pub fn of(timeline: u32, lsn: Lsn, segment_bytes: u64) -> Segment {
        let low = (lsn.0 & 0xffff_ffff) / segment_bytes;
        Segment { timeline, high: (lsn.0 >> 32) as u32, low: low as u32 }
    }

    /// Where it begins.
    pub fn begins(&self, segment_bytes: u64) -> Lsn {
        Lsn((u64::from(self.high) << 32) + u64::from(self.low) * segment_bytes)
    }

    /// The next one of its timeline.
    #[must_use]
    pub fn next(&self, segment_bytes: u64) -> Segment {
        let behind = self.begins(segment_bytes).0.saturating_add(segment_bytes);
        Segment::of(self.timeline, Lsn(behind), segment_bytes)
    }

    /// Whether a cluster with segments of that size can have it.
    pub fn is_possible(&self, segment_bytes: u64) -> bool {
        u64::from(self.low) < (1 << 32) / segment_bytes
    }

    /// What of the log it holds.
    pub fn stretch(&self, segment_bytes: u64) -> Stretch {
        let from = self.begins(segment_bytes).0;
        Stretch { branch: self.timeline, from, to: from.saturating_add(segment_bytes) }
    }

    fn parse(text: &str) -> Option<Segment> {
        let part = |range: std::ops::Range<usize>| hexadecimal(text.get(range)?);
        let whole = text.len() == 24 && text.is_ascii();
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        (whole && timeline > 0).then_some(Segment { timeline, high, low })
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

/// Eight digits as PostgreSQL writes them: upper case.
fn hexadecimal(digits: &str) -> Option<u32> {
    let sound = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    (sound && digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// A file that a server archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFile {
    /// A segment: `000000010000000000000003`.
    Segment(Segment),
    /// The last segment of a timeline that was left in its middle: `NAME.partial`.
    Partial(Segment),
    /// What a base backup says of itself: `NAME.00000028.backup`.
    Backup(Segment, u32),
    /// Where a timeline left its parent: `00000002.history`.
    History(u32),
}

impl WalFile {
    /// Reads the name of a file.
    pub fn parse(name: &str) -> Option<WalFile> {
        if let Some(rest) = name.strip_suffix(".history") {
            return hexadecimal(rest).filter(|timeline| *timeline > 0).map(WalFile::History);
        }
        if let Some(rest) = name.strip_suffix(".partial") {
            return Segment::parse(rest).map(WalFile::Partial);
        }
        if let Some(rest) = name.strip_suffix(".backup") {
            let (segment, offset) = rest.split_once('.')?;
            return Some(WalFile::Backup(Segment::parse(segment)?, hexadecimal(offset)?));
        }
        Segment::parse(name).map(WalFile::Segment)
    }

    /// Its timeline.
    pub fn timeline(&self) -> u32 {
        match self {
            WalFile::Segment(segment) | WalFile::Partial(segment) => segment.timeline,
            WalFile::Backup(segment, _) => segment.timeline,
            WalFile::History(timeline) => *timeline,
        }
    }

    /// The segment, where it has the bytes of one.
    pub fn segment(&self) -> Option<Segment> {
        match self {
            WalFile::Segment(segment) | WalFile::Partial(segment) => Some(*segment),
            WalFile::Backup(..) | WalFile::History(_) => None,
        }
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::Segment(segment) => segment.fmt(f),
            WalFile::Partial(segment) => write!(f, "{segment}.partial"),
            WalFile::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
            WalFile::History(timeline) => write!(f, "{timeline:08X}.history"),
        }
    }
}

/// What lies in a repository: a file of the server, or a piece of a segment that was received and
/// is not whole yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kept {
    /// A file that a server archives.
    File(WalFile),
    /// The bytes `from` up to, and without, `to` of a segment: `NAME.00000000-00010000.piece`.
    Piece(Segment, u32, u32),
}

impl Kept {
    /// Its name without the ending of objects.
    pub fn name(&self) -> String {
        match self {
            Kept::File(file) => file.to_string(),
            Kept::Piece(segment, from, to) => format!("{segment}.{from:08X}-{to:08X}.piece"),
        }
    }

    /// Reads such a name.
    pub fn parse(name: &str) -> Option<Kept> {
        let Some(rest) = name.strip_suffix(".piece") else {
            return WalFile::parse(name).map(Kept::File);
        };
        let (segment, range) = rest.split_once('.')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (hexadecimal(from)?, hexadecimal(to)?);
        (from < to).then_some(Kept::Piece(Segment::parse(segment)?, from, to))
    }

    /// Its timeline.
    pub fn timeline(&self) -> u32 {
        match self {
            Kept::File(file) => file.timeline(),
            Kept::Piece(segment, ..) => segment.timeline,
        }
    }

    /// The object of it, in the folder of a source, without the ending of objects.
    pub fn object(&self, folder: &str, system: u64) -> String {
        format!("{}/{:08X}/{}", log_prefix(folder, system), self.timeline(), self.name())
    }

    /// The folder, the system identifier and the file that an object is, if it is one of a log.
    pub fn of_object(object: &str) -> Option<(&str, u64, Kept)> {
        let rest = log::file_of(object)?;
        let (rest, name) = rest.rsplit_once('/')?;
        let (rest, timeline) = rest.rsplit_once('/')?;
        let (rest, system) = rest.rsplit_once('/')?;
        let folder = rest.strip_suffix("/wal")?;
        let kept = Kept::parse(name)?;
        (hexadecimal(timeline)? == kept.timeline()).then_some(())?;
        Some((folder, system.parse().ok()?, kept))
    }
}

/// Where the log of a cluster lies in the folder of its source.
pub fn log_prefix(folder: &str, system: u64) -> String {
    format!("{folder}/wal/{system}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn names_are_read_and_written() {
        for name in [
            "000000010000000000000003",
            "0000000A0000000F000000FF.partial",
            "000000010000000000000003.00000028.backup",
            "00000002.history",
        ] {
            let file = WalFile::parse(name).unwrap();
            assert_eq!(file.to_string(), name);
            let kept = Kept::parse(name).unwrap();
            let object = format!("{}.zst", kept.object("app", 7123));
            assert_eq!(Kept::of_object(&object), Some(("app", 7123, kept)), "{object}");
        }
        for other in [
            "00000001000000000000000",
            "00000001000000000000000g",
            "00000000000000000000000A",
            "000000010000000000000003.28.backup",
            "2.history",
            "00000002.history.done",
            "archive_status",
            "00000001000000000000000a",
        ] {
            assert_eq!(WalFile::parse(other), None, "{other}");
        }
        let piece = Kept::parse("000000010000000000000003.00000000-00012000.piece").unwrap();
        assert_eq!(piece.name(), "000000010000000000000003.00000000-00012000.piece");
        assert_eq!(Kept::parse("000000010000000000000003.00012000-00012000.piece"), None);
        assert_eq!(Kept::of_object("app/wal/7/00000002/000000010000000000000003.zst"), None);
    }

    #[test]
    fn segments_follow_each_other_whatever_their_size() {
        for (bytes, last) in [(MIB, 0xfff), (16 * MIB, 0xff), (64 * MIB, 0x3f), (1 << 30, 3)] {
            let segment = Segment { timeline: 1, high: 4, low: last };
            assert!(segment.is_possible(bytes) && !segment.next(bytes).is_possible(1 << 62));
            assert_eq!(segment.next(bytes), Segment { timeline: 1, high: 5, low: 0 });
            let begins = segment.begins(bytes);
            assert_eq!(Segment::of(1, begins, bytes), segment);
            assert_eq!(Segment::of(1, Lsn(begins.0 + bytes - 1), bytes), segment);
            assert!(!Segment { low: last + 1, ..segment }.is_possible(bytes));
        }
    }
}
