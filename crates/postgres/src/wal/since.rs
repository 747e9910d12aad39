//! What a running server committed behind the end of its archived log: nothing, or since when.
//!
//! A cluster that rests archives nothing: its log ends where the last file was switched, however
//! long ago that was, and yet nothing would be lost. So the server is asked for the bytes behind
//! that end, as a standby asks, and the first end of a transaction in them is looked for. Of a busy
//! server that is found in the first bytes.

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::env::Env;

use super::header::{HEADER_BYTES, SegmentHeader};
use super::name::Lsn;
use super::records::RecordReader;
use crate::client::Client;
use crate::replication::{ReplicationConnection, WalMessage};

/// So much of the log is looked through.
const BYTES_MAX: u64 = 64 << 20;
/// The longest wait for each piece, in milliseconds.
const WAIT_MS: u64 = 5_000;
/// The flag of a page that begins with the rest of a record.
const CONTINUES: u8 = 0x01;

/// The end of what is archived of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The cluster's system identifier.
    pub system: u64,
    /// The timeline.
    pub timeline: u32,
    /// The first place that is not archived.
    pub end: Lsn,
}

/// What was committed behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Nothing, up to the moment that the server was asked.
    Nothing,
    /// Something; the first of it at that moment, by the server's clock.
    Since(Timestamp),
    /// That cannot be told: it is another cluster or timeline by now, the server has what is behind
    /// the end no more, or very much of it without the end of a transaction.
    Unknown,
}

/// Asks a server what it committed behind the end of what is archived. Needs the right to
/// replicate.
pub fn committed_behind(env: &Env, client: &Client, archived: Archived) -> Result<Behind> {
    let mut server = ReplicationConnection::open(env, client, "cannot ask for the log")?;
    let identity = server.identify_system()?;
    let (system, timeline) = (identity.system_identifier, identity.timeline);
    if (system, timeline) != (archived.system, archived.timeline) {
        return Ok(Behind::Unknown);
    }
    // What was flushed by then: later is not asked about.
    let until = identity.position.0;
    let end = archived.end.0;
    if until <= end {
        return Ok(Behind::Nothing);
    }
    let Some(segment_bytes) = segment_bytes(&server.show("wal_segment_size")?) else {
        return Ok(Behind::Unknown);
    };
    let from = end - end % segment_bytes;
    match server.start_replication(None, crate::replication::Lsn(from), timeline) {
        Ok(None) => {}
        // The server has it no more, or there is nothing on this timeline.
        Ok(Some(_)) | Err(_) => return Ok(Behind::Unknown),
    }
    let mut look = Look { end, until, next: from, segment_bytes, reader: None };
    let behind = loop {
        match server.receive_wal(WAIT_MS)? {
            Some(WalMessage::Data { begin, bytes, .. }) if begin.0 == look.next => {
                if let Some(behind) = look.take(bytes) {
                    break behind;
                }
            }
            Some(WalMessage::KeepAlive { .. }) => {}
            _ => return Ok(Behind::Unknown),
        }
        if look.next - from > BYTES_MAX.max(segment_bytes) {
            break Behind::Unknown;
        }
    };
    // Else its log complains of one who went away.
    server.end_replication()?;
    Ok(behind)
}

/// "16MB", as a server says how large a segment is.
fn segment_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "B" | "" => 1,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| bytes.is_power_of_two())
}

/// Bytes of the log that go by.
struct Look {
    /// Behind this place.
    end: u64,
    /// Up to this one.
    until: u64,
    /// The place of the next byte.
    next: u64,
    segment_bytes: u64,
    /// What reads the segment that goes by.
    reader: Option<RecordReader>,
}

impl Look {
    /// Takes more bytes. What is known by them, if that is all that is asked.
    fn take(&mut self, mut bytes: &[u8]) -> Option<Behind> {
        while !bytes.is_empty() {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => match self.begin(bytes) {
                    Some(reader) => reader,
                    None => return Some(Behind::Unknown),
                },
            };
            let left = self.segment_bytes - self.next % self.segment_bytes;
            let share = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            reader.push(&bytes[..share]);
            bytes = &bytes[share..];
            self.next += share as u64;
            if let Some(first) = reader.first() {
                return Some(Behind::Since(first));
            }
            if self.next >= self.until {
                let first = reader.finish().first;
                return Some(first.map_or(Behind::Nothing, Behind::Since));
            }
            self.reader = (share as u64 != left).then_some(reader);
        }
        None
    }

    /// Begins with a segment. `None` where its first record began in the one before: that may be
    /// the end of a transaction, of which the archive has the first half.
    fn begin(&self, bytes: &[u8]) -> Option<RecordReader> {
        let header = SegmentHeader::parse(bytes.get(..HEADER_BYTES)?, "it").ok()?;
        let begins_before = bytes[2] & CONTINUES != 0 && header.address.0 >= self.end;
        (!begins_before).then(|| RecordReader::new(header).only_behind(Lsn(self.end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_servers_write_them() {
        assert_eq!(segment_bytes("16MB"), Some(16 << 20));
        assert_eq!(segment_bytes("1GB"), Some(1 << 30));
        assert_eq!(segment_bytes("1024kB"), Some(1 << 20));
        assert_eq!(segment_bytes("17MB"), None);
        assert_eq!(segment_bytes(""), None);
    }
}
