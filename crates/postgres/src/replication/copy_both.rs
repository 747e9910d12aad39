//! The stream of the write-ahead log, in both directions: what the server writes comes, and how
//! far it is safe goes back.

use bytes::BufMut;
use lifeboat_core::{Error, Kind, Result};

use super::base_backup::INCREMENTAL_MAJOR;
use super::connection::{ReplicationConnection, quoted_name, text};
use super::lsn::Lsn;

/// A piece of an upload of a manifest.
const UPLOAD_PIECE_BYTES: usize = 64 << 10;
/// From the epoch of Unix to that of PostgreSQL, in microseconds.
const EPOCH_US: i64 = 946_684_800_000_000;

/// A message of the stream.
#[derive(Debug)]
pub enum WalMessage<'a> {
    /// Bytes of the log.
    Data {
        /// Where they begin.
        begin: Lsn,
        /// The end of the server's log.
        server_end: Lsn,
        /// They themselves.
        bytes: &'a [u8],
    },
    /// The server is there.
    KeepAlive {
        /// The end of the server's log.
        server_end: Lsn,
        /// An answer is wanted at once.
        reply: bool,
    },
    /// The server has no more on this timeline: see [`ReplicationConnection::end_replication`].
    End,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationEnd {
    /// The server shuts down, or we asked for the end.
    Done,
    /// The log goes on on another timeline, from that position.
    NextTimeline {
        /// Its number.
        timeline: u32,
        /// Where it begins.
        begin: Lsn,
    },
}

impl ReplicationConnection {
    /// Begins to stream the write-ahead log from a position on, with a slot or without.
    pub fn start_replication(
        &mut self,
        slot: Option<&str>,
        from: Lsn,
        timeline: u32,
    ) -> Result<Option<ReplicationEnd>> {
        let slot = slot.map(|slot| format!("SLOT {} ", quoted_name(slot))).unwrap_or_default();
        self.send_query(&format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}"))?;
        match self.message()? {
            b'W' => Ok(None),
            // That timeline ends at this very position: there is nothing to stream.
            b'T' => self.next_timeline().map(Some),
            b'C' => {
                self.until_ready()?;
                Ok(Some(ReplicationEnd::Done))
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// The next message of the stream, if one comes within that time.
    pub fn receive_wal(&mut self, within_ms: u64) -> Result<Option<WalMessage<'_>>> {
        match self.next(Some(within_ms))? {
            None => Ok(None),
            Some(b'd') => match wal_message(self.body()) {
                Some(message) => Ok(Some(message)),
                None => Err(self.nonsense("START_REPLICATION")),
            },
            Some(b'c') => Ok(Some(WalMessage::End)),
            Some(other) => Err(self.unexpected(other)),
        }
    }

    /// Tells the server how far the log is received, safe and replayed here; it then need not keep
    /// it. `at_us` are microseconds since 1970.
    pub fn send_status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        at_us: i64,
        reply: bool,
    ) -> Result<()> {
        let outbox = self.outbox();
        outbox.put_u8(b'd');
        outbox.put_i32(4 + 34);
        outbox.put_u8(b'r');
        for position in [written, flushed, applied] {
            outbox.put_u64(position.0);
        }
        outbox.put_i64(at_us - EPOCH_US);
        outbox.put_u8(u8::from(reply));
        self.flush()
    }

    /// Ends the stream from our side, or after [`WalMessage::End`], and says how it goes on.
    pub fn end_replication(&mut self) -> Result<ReplicationEnd> {
        postgres_protocol::message::frontend::copy_done(self.outbox());
        self.flush()?;
        loop {
            match self.message()? {
                // What was on its way is not ours any more.
                b'd' | b'c' => {}
                b'T' | b'C' => return self.next_timeline(),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Reads up to the end of the command; a row on the way names the next timeline.
    fn next_timeline(&mut self) -> Result<ReplicationEnd> {
        let mut end = ReplicationEnd::Done;
        loop {
            match self.message()? {
                b'T' | b'C' => {}
                b'D' => {
                    let row = self.row();
                    let timeline = text(&row, 0).and_then(|text| text.parse().ok());
                    let begin = text(&row, 1).and_then(|text| text.parse().ok());
                    if let Some((timeline, begin)) = timeline.zip(begin) {
                        end = ReplicationEnd::NextTimeline { timeline, begin };
                    }
                }
                b'Z' => return Ok(end),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Gives the server the manifest of the backup that the next, incremental one builds on.
    pub fn upload_manifest(&mut self, mut manifest: impl std::io::Read) -> Result<()> {
        if self.server_major() < INCREMENTAL_MAJOR {
            let message = format!("{}: the server is too old for this", self.what());
            return Err(Error::new(Kind::Failed, message));
        }
        self.send_query("UPLOAD_MANIFEST")?;
        match self.message()? {
            b'G' => {}
            other => return Err(self.unexpected(other)),
        }
        let mut piece = vec![0; UPLOAD_PIECE_BYTES];
        loop {
            let count = manifest.read(&mut piece).map_err(|error| {
                Error::io(Kind::Failed, "cannot read the manifest of the backup before", error)
            })?;
            if count == 0 {
                break;
            }
            let outbox = self.outbox();
            outbox.put_u8(b'd');
            outbox.put_i32(4 + count as i32);
            outbox.put_slice(&piece[..count]);
            self.flush()?;
        }
        postgres_protocol::message::frontend::copy_done(self.outbox());
        self.flush()?;
        self.until_ready()
    }
}

fn wal_message(body: &[u8]) -> Option<WalMessage<'_>> {
    let (kind, rest) = body.split_first()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let first = Lsn(u64::from_be_bytes(*first));
    match kind {
        b'w' => {
            let (server_end, rest) = rest.split_first_chunk::<8>()?;
            let server_end = Lsn(u64::from_be_bytes(*server_end));
            Some(WalMessage::Data { begin: first, server_end, bytes: rest.get(8..)? })
        }
        b'k' => {
            let reply = *rest.get(8)? != 0;
            Some(WalMessage::KeepAlive { server_end: first, reply })
        }
        _ => None,
    }
}
