//! Receiving the log as the server writes it, into the repositories.
//!
//! A segment grows in a file without a name. What came is stored as a piece after a short time, so
//! that a loss of the server costs seconds; when the segment is whole it is stored as such, and its
//! pieces go. The server hears of a place only when it is durable in every repository: so it keeps
//! what is not, by a slot, and as a synchronous standby lets nobody believe in a commit before.
//!
//! A new connection begins at the segment behind the last whole one that all repositories hold.
//! What it receives again has the same bytes as before.

mod slot;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek as _, Write as _};
use std::path::PathBuf;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::log;
use lifeboat_core::store::ObjectInfo;
use lifeboat_core::{Error, Kind, Result};

pub use self::slot::drop_slot;
use self::slot::{find_slot, make_slot};
use super::archive::{Archive, Member};
use super::name::{Kept, Lsn, Segment, WalFile, log_prefix};
use super::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::client::Client;
use crate::replication::{ReplicationConnection, ReplicationEnd, SystemIdentity, WalMessage};

/// Between two words to the server, in milliseconds: it ends a connection after 60 seconds.
const STATUS_MS: u64 = 5_000;
/// The longest wait for the server, in milliseconds.
const WAIT_MS: u64 = 1_000;
/// So many pieces of a segment become one.
const PIECES_MAX: usize = 16;

/// How the log is received.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// The replication slot, which is made if it is not there and stays.
    pub slot: String,
    /// What came is durable after so many milliseconds at the latest. 0: at once.
    pub flush_ms: u64,
    /// And after so many bytes.
    pub flush_bytes: u64,
    /// Ends when this place is durable.
    pub until: Option<Until>,
    /// The slot may hold on to so much.
    pub slot_bytes_max: Option<u64>,
    /// Whether the slot goes when it holds on to more. Else it is a warning.
    pub drop_slot: bool,
    /// Where a segment grows.
    pub scratch: PathBuf,
}

/// When receiving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At this place.
    Place(Lsn),
    /// Where the server is when we connect.
    Now,
}

/// How receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What is durable.
    pub flushed: Lsn,
    /// On which timeline.
    pub timeline: u32,
}

/// Receives from one connection until it ends. `archive` makes the archive of a cluster by its
/// system identifier; `alive` is called whenever the server was told how far we are. Errors of the
/// connection and of the repositories may pass: the caller connects again.
///
/// What the slot holds on to is looked at before the repositories are: a repository that is away
/// must not fill the server's disk.
pub fn receive(
    env: &Env,
    client: &Client,
    options: &ReceiveOptions,
    archive: &dyn Fn(u64) -> Result<Archive>,
    alive: &dyn Fn(),
) -> Result<Received> {
    let what = format!("cannot receive the log of {}", client.address().label());
    let mut connection = ReplicationConnection::open(env, client, &what)?;
    let identity = connection.identify_system()?;
    let segment_bytes = size_of(&connection.show("wal_segment_size")?)?;
    let slot = find_slot(&mut connection, options)?;
    if let Some(restart) = slot.flatten() {
        let retained = identity.position.0.saturating_sub(restart.0);
        options.judge_slot(env, retained, &mut false)?;
    }
    let archive = archive(identity.system_identifier)?;
    let reserved = match slot {
        Some(restart) => restart,
        None => make_slot(&mut connection, options).map(|()| None)?,
    };
    let until = options.until.map(|until| match until {
        Until::Place(lsn) => lsn,
        Until::Now => identity.position,
    });
    let (timeline, begin) = begin_at(env, &archive, &identity, reserved, segment_bytes)?;
    let mut receiver = Receiver {
        env,
        archive: &archive,
        alive,
        options,
        segment_bytes,
        until,
        timeline,
        growing: Growing::new(options, begin)?,
        flushed: begin,
        server_end: identity.position,
        pieces: Vec::new(),
        said_at_ms: 0,
        has_warned: false,
    };
    receiver.go(&mut connection, identity.timeline)
}

/// `16MB`, `1GB`.
fn size_of(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => 1,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(bytes))
        .ok_or_else(|| Error::new(Kind::Failed, format!("no segment has the size {text}")))
}

/// Where to begin: behind the last whole segment that every repository holds; where there is none,
/// where the slot or the server is. Never behind what the server keeps for the slot.
fn begin_at(
    env: &Env,
    archive: &Archive,
    identity: &SystemIdentity,
    reserved: Option<Lsn>,
    segment_bytes: u64,
) -> Result<(u32, Lsn)> {
    let floor = |lsn: Lsn| Lsn(lsn.0 - lsn.0 % segment_bytes);
    let mut oldest: Option<(u32, Lsn)> = None;
    for member in &archive.members {
        let newest = newest_whole(env, archive, member)?.map(|segment| {
            (segment.timeline, Lsn(segment.begins(segment_bytes).0 + segment_bytes))
        });
        // One that is ahead of the server is of another one.
        let newest = newest.filter(|(timeline, lsn)| {
            *timeline <= identity.timeline && floor(*lsn) <= identity.position
        });
        let here =
            newest.unwrap_or((identity.timeline, floor(reserved.unwrap_or(identity.position))));
        oldest = Some(oldest.map_or(here, |oldest| oldest.min(here)));
    }
    Ok(oldest.unwrap_or((identity.timeline, floor(identity.position))))
}

/// The newest whole segment of a member. Pieces of whole ones, which a kill left, go.
fn newest_whole(env: &Env, archive: &Archive, member: &Member) -> Result<Option<Segment>> {
    let prefix = log_prefix(&member.folder, archive.system);
    let objects = member.repository.store().list(Some(&prefix))?;
    let kept = |object: &ObjectInfo| Some(Kept::of_object(object.name.as_str())?.2);
    let kept: Vec<Kept> = objects.iter().filter_map(kept).collect();
    let whole: BTreeSet<Segment> = kept
        .iter()
        .filter_map(|kept| match kept {
            Kept::File(WalFile::Segment(segment)) => Some(*segment),
            _ => None,
        })
        .collect();
    for piece in &kept {
        if matches!(piece, Kept::Piece(segment, ..) if whole.contains(segment)) {
            env.proceed()?;
            let object = piece.object(&member.folder, archive.system);
            log::delete(&member.repository, &object)?;
        }
    }
    Ok(whole.last().copied())
}

/// The segment that comes now.
struct Growing {
    file: File,
    /// Where its first byte lies.
    begins: Lsn,
    /// How many of its bytes came.
    bytes: u64,
}

impl Growing {
    fn new(options: &ReceiveOptions, begins: Lsn) -> Result<Growing> {
        let file = tempfile::tempfile_in(&options.scratch).map_err(|error| {
            let folder = options.scratch.display();
            Error::io(Kind::Failed, format!("cannot write to {folder}"), error)
        })?;
        Ok(Growing { file, begins, bytes: 0 })
    }

    fn end(&self) -> Lsn {
        Lsn(self.begins.0 + self.bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(unwritable)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn empty(&mut self, begins: Lsn) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(unwritable)?;
        (self.begins, self.bytes) = (begins, 0);
        Ok(())
    }

    /// A part of it, to be read from its beginning.
    fn part(&self, from: u64, to: u64) -> Result<Box<dyn Read>> {
        use std::os::unix::fs::FileExt as _;
        struct Part {
            file: File,
            at: u64,
            to: u64,
        }
        impl Read for Part {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let share = buffer.len().min((self.to - self.at) as usize);
                let got = self.file.read_at(&mut buffer[..share], self.at)?;
                self.at += got as u64;
                Ok(got)
            }
        }
        let file = self.file.try_clone().map_err(unwritable)?;
        Ok(Box::new(Part { file, at: from, to }))
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::io(Kind::Failed, "cannot keep what is received", error)
        .hint("choose another folder with TMPDIR")
}

struct Receiver<'a> {
    env: &'a Env,
    archive: &'a Archive,
    alive: &'a dyn Fn(),
    options: &'a ReceiveOptions,
    segment_bytes: u64,
    until: Option<Lsn>,
    timeline: u32,
    growing: Growing,
    /// Everything before is durable everywhere.
    flushed: Lsn,
    server_end: Lsn,
    /// The pieces of this segment that are stored.
    pieces: Vec<(u32, u32)>,
    said_at_ms: u64,
    has_warned: bool,
}

impl Receiver<'_> {
    fn go(
        &mut self,
        connection: &mut ReplicationConnection,
        server_timeline: u32,
    ) -> Result<Received> {
        if self.timeline > 1 {
            self.store_history(connection, self.timeline)?;
        }
        loop {
            let begin = self.growing.begins;
            let slot = Some(self.options.slot.as_str());
            let ended = match connection.start_replication(slot, begin, self.timeline)? {
                Some(end) => Some(end),
                None => self.stream(connection)?,
            };
            match ended {
                Some(ReplicationEnd::NextTimeline { timeline, begin }) => {
                    self.switch(connection, timeline, begin)?;
                }
                Some(ReplicationEnd::Done) if self.timeline == server_timeline => {
                    let message = "the server ended the stream of its log";
                    return Err(Error::new(Kind::SourceUnavailable, message));
                }
                Some(ReplicationEnd::Done) => {
                    let timeline = self.timeline;
                    let message = format!("the server knows no way on from timeline {timeline}");
                    return Err(Error::new(Kind::SourceUnavailable, message));
                }
                None => return Ok(Received { flushed: self.flushed, timeline: self.timeline }),
            }
        }
    }

    /// Receives until the stream ends, or what was wanted is durable: `None`.
    fn stream(&mut self, connection: &mut ReplicationConnection) -> Result<Option<ReplicationEnd>> {
        let mut flushed_at_ms = self.env.clock.monotonic_ms();
        self.say(connection, false)?;
        loop {
            self.env.proceed()?;
            let pending = self.growing.end() > self.flushed;
            // With something to store nobody is waited for longer than that may take.
            let left_ms = self.options.flush_ms.saturating_sub(self.env.elapsed_ms(flushed_at_ms));
            let within_ms = if pending { left_ms.min(WAIT_MS) } else { WAIT_MS };
            let (mut is_over, mut reply) = (false, false);
            match connection.receive_wal(within_ms)? {
                Some(WalMessage::Data { begin, server_end, bytes }) => {
                    self.server_end = server_end;
                    if begin != self.growing.end() {
                        let (is, must) = (begin, self.growing.end());
                        let message =
                            format!("the server sends the log from {is}, not from {must}");
                        return Err(Error::new(Kind::SourceUnavailable, message));
                    }
                    if !pending {
                        flushed_at_ms = self.env.clock.monotonic_ms();
                    }
                    self.take(bytes)?;
                }
                Some(WalMessage::KeepAlive { server_end, reply: wanted }) => {
                    self.server_end = server_end;
                    reply = wanted;
                }
                Some(WalMessage::End) => is_over = true,
                None => {}
            }
            let before = self.flushed;
            let is_time = self.env.elapsed_ms(flushed_at_ms) >= self.options.flush_ms
                || self.growing.end().0 - self.flushed.0.min(self.growing.end().0)
                    >= self.options.flush_bytes
                || self.until.is_some_and(|until| self.growing.end() >= until);
            if is_over || (is_time && self.growing.end() > self.flushed) {
                self.flush()?;
                flushed_at_ms = self.env.clock.monotonic_ms();
            }
            let is_old = self.env.elapsed_ms(self.said_at_ms) > STATUS_MS;
            if reply || is_old || self.flushed > before {
                self.say(connection, false)?;
            }
            self.watch_slot()?;
            if self.until.is_some_and(|until| self.flushed >= until) {
                return Ok(None);
            }
            if is_over {
                return connection.end_replication().map(Some);
            }
        }
    }

    /// Takes bytes of the log. They may go on in the next segment.
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = (self.segment_bytes - self.growing.bytes) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.growing.write(now)?;
            if self.growing.bytes == self.segment_bytes {
                self.store_segment()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn segment(&self) -> Segment {
        Segment::of(self.timeline, self.growing.begins, self.segment_bytes)
    }

    /// The segment is whole: its pieces mean nothing any more.
    fn store_segment(&mut self) -> Result<()> {
        let segment = self.segment();
        let kept = Kept::File(WalFile::Segment(segment));
        self.store(kept, 0, self.segment_bytes)?;
        self.env.crash.pass("wal.segment_stored")?;
        self.flushed = self.growing.end();
        self.remove_pieces(segment, None)?;
        self.growing.empty(self.flushed)
    }

    fn store(&self, kept: Kept, from: u64, to: u64) -> Result<()> {
        let open = || self.growing.part(from, to);
        let label = format!("the received {}", kept.name());
        self.archive.store(self.env, kept, &label, to - from, &open).map(drop)
    }

    /// What came and is not durable yet becomes a piece; many pieces become one.
    fn flush(&mut self) -> Result<()> {
        let segment = self.segment();
        let to = self.growing.bytes;
        if to == 0 || self.growing.end() <= self.flushed {
            return Ok(());
        }
        let from = match self.pieces.len() < PIECES_MAX {
            true => self.flushed.0.saturating_sub(self.growing.begins.0),
            false => 0,
        };
        let piece = (from as u32, to as u32);
        self.store(Kept::Piece(segment, piece.0, piece.1), from, to)?;
        self.env.crash.pass("wal.piece_stored")?;
        self.flushed = self.growing.end();
        if from == 0 {
            self.remove_pieces(segment, Some(piece))?;
            self.pieces.clear();
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Removes the pieces of a segment that another object holds: of the whole segment, or of one
    /// piece from its beginning on.
    fn remove_pieces(&mut self, segment: Segment, within: Option<(u32, u32)>) -> Result<()> {
        for member in &self.archive.members {
            for (from, to) in self.archive.pieces(member, segment)? {
                let is_held = within.is_none_or(|within| {
                    (from, to) != within && from >= within.0 && to <= within.1
                });
                if is_held {
                    let piece = Kept::Piece(segment, from, to);
                    let object = piece.object(&member.folder, self.archive.system);
                    log::delete(&member.repository, &object)?;
                }
            }
        }
        if within.is_none() {
            self.pieces.clear();
        }
        Ok(())
    }

    /// The server goes on on another timeline: its first segment begins with what the last one of
    /// the old timeline held.
    fn switch(
        &mut self,
        connection: &mut ReplicationConnection,
        timeline: u32,
        begin: Lsn,
    ) -> Result<()> {
        self.store_history(connection, timeline)?;
        self.timeline = timeline;
        self.pieces.clear();
        let begins = Lsn(begin.0 - begin.0 % self.segment_bytes);
        self.flushed = self.flushed.min(begins);
        self.growing.empty(begins)
    }

    fn store_history(&self, connection: &mut ReplicationConnection, timeline: u32) -> Result<()> {
        let (name, bytes) = connection.timeline_history(timeline)?;
        let open =
            || -> Result<Box<dyn Read>> { Ok(Box::new(std::io::Cursor::new(bytes.clone()))) };
        let kept = Kept::File(WalFile::History(timeline));
        self.archive.store(self.env, kept, &name, bytes.len() as u64, &open).map(drop)
    }

    /// Tells the server what is durable.
    fn say(&mut self, connection: &mut ReplicationConnection, reply: bool) -> Result<()> {
        self.said_at_ms = self.env.clock.monotonic_ms();
        (self.alive)();
        let now: Timestamp = self.env.clock.now();
        let (written, flushed) = (self.growing.end(), self.flushed);
        connection.send_status(written, flushed, flushed, now.as_microsecond(), reply)
    }

    /// What the slot holds on to fills the server's disk.
    fn watch_slot(&mut self) -> Result<()> {
        let retained = self.server_end.0.saturating_sub(self.flushed.0);
        self.options.judge_slot(self.env, retained, &mut self.has_warned)
    }
}
