//! Reading parts of a stored artifact: the frames that hold them, and no others.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use libdeflater::Decompressor;
use zstd_safe::DCtx;

use super::zstd_frames::{self, SEEK_FRAME_BYTES, SEEK_TAIL_BYTES, SeekTail};
use super::{Compression, FRAME_BYTES_MAX, Wrapping, gzip};
use crate::error::{Error, Kind, Result};
use crate::seal::{Opener, ReadSeek};
use crate::store::{ObjectName, ObjectReader, Store};

/// What is read ahead where parts are asked for in rising order.
const AHEAD_BYTES: u64 = 1 << 20;

/// Reads parts of an artifact's plain bytes. It is fastest in rising order.
pub struct PartReader<'a> {
    stored: StoredParts<'a>,
    plain_bytes: u64,
    frames: Frames,
    zstd: DCtx<'static>,
    gzip: Decompressor,
    /// The frame that was decompressed last.
    current: Option<usize>,
    plain: Vec<u8>,
}

/// Where frames begin.
enum Frames {
    /// There are none: the bytes are plain.
    None,
    /// As the table at the end says: one more start than frames.
    Zstd { starts: Vec<u64>, frame_bytes: u64 },
    /// As each member says; known as far as they were looked at.
    Gzip { starts: Vec<u64> },
}

impl<'a> PartReader<'a> {
    /// Looks how the artifact is cut. `None` where no part can be read without the rest, as in
    /// another program's stream.
    pub fn open(
        store: &'a dyn Store,
        object: &ObjectName,
        wrapping: impl Into<Wrapping>,
        (stored_bytes, plain_bytes): (u64, u64),
    ) -> Result<Option<Self>> {
        let Wrapping { compression, opener } = wrapping.into();
        let mut stored = match &opener {
            None => StoredParts::new(store, object, stored_bytes, AHEAD_BYTES),
            Some(opener) => {
                StoredParts::new(store, object, stored_bytes, AHEAD_BYTES).opened(opener)?
            }
        };
        let frames = match compression {
            Compression::None if stored.bytes == plain_bytes => Frames::None,
            Compression::None => return Ok(None),
            Compression::Zstd { .. } => match zstd_starts(&mut stored, plain_bytes)? {
                Some(frames) => frames,
                None => return Ok(None),
            },
            Compression::Gzip { .. } => match member_at(&mut stored, 0)? {
                Some(_) => Frames::Gzip { starts: vec![0] },
                None => return Ok(None),
            },
        };
        Ok(Some(PartReader {
            stored,
            plain_bytes,
            frames,
            zstd: DCtx::create(),
            gzip: Decompressor::new(),
            current: None,
            plain: Vec::new(),
        }))
    }

    /// Fills the buffer with the plain bytes from `offset` on.
    pub fn read(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        if offset + buffer.len() as u64 > self.plain_bytes {
            return Err(self.damaged("it is shorter than what is read of it"));
        }
        while !buffer.is_empty() {
            let (at, available) = match &self.frames {
                Frames::None => {
                    let range = offset..offset + buffer.len() as u64;
                    buffer.copy_from_slice(self.stored.read(range)?);
                    return Ok(());
                }
                Frames::Zstd { frame_bytes, .. } => self.frame(offset, *frame_bytes)?,
                Frames::Gzip { .. } => self.frame(offset, FRAME_BYTES_MAX as u64)?,
            };
            let count = available.min(buffer.len());
            let (now, later) = buffer.split_at_mut(count);
            now.copy_from_slice(&self.plain[at..at + count]);
            buffer = later;
            offset += count as u64;
        }
        Ok(())
    }

    /// Plain bytes from `offset` on, at least one and at most `bytes_max`, as they lie here: those
    /// of one frame. To read much in rising order, without a copy of it.
    pub fn some(&mut self, offset: u64, bytes_max: usize) -> Result<&[u8]> {
        let left = self.plain_bytes.saturating_sub(offset);
        let wanted = left.min(bytes_max as u64) as usize;
        if wanted == 0 {
            return Err(self.damaged("it is shorter than what is read of it"));
        }
        let frame_bytes = match &self.frames {
            Frames::None => return self.stored.read(offset..offset + wanted as u64),
            Frames::Zstd { frame_bytes, .. } => *frame_bytes,
            Frames::Gzip { .. } => FRAME_BYTES_MAX as u64,
        };
        let (at, available) = self.frame(offset, frame_bytes)?;
        Ok(&self.plain[at..at + available.min(wanted)])
    }

    /// Decompresses the frame that holds a plain offset. Where in it that is, and how many bytes
    /// follow from there.
    fn frame(&mut self, offset: u64, frame_bytes: u64) -> Result<(usize, usize)> {
        let index = (offset / frame_bytes) as usize;
        if self.current != Some(index) {
            self.current = None;
            self.decompress(index, frame_bytes)?;
            self.current = Some(index);
        }
        let at = (offset - index as u64 * frame_bytes) as usize;
        match self.plain.len().checked_sub(at) {
            Some(available) if available > 0 => Ok((at, available)),
            _ => Err(self.damaged("a frame is shorter than it must be")),
        }
    }

    fn decompress(&mut self, index: usize, frame_bytes: u64) -> Result<()> {
        match &mut self.frames {
            Frames::None => Ok(()),
            Frames::Zstd { starts, .. } => {
                let range = starts[index]..starts[index + 1];
                let before = index as u64 * frame_bytes;
                let plain_bytes = frame_bytes.min(self.plain_bytes - before) as usize;
                let frame = self.stored.read(range)?;
                zstd_frames::decompress(&mut self.zstd, frame, plain_bytes, &mut self.plain)
            }
            Frames::Gzip { starts } => {
                while starts.len() <= index + 1 {
                    let last = starts[starts.len() - 1];
                    let Some(bytes) = member_at(&mut self.stored, last)? else {
                        return Err(self.damaged("it is cut short"));
                    };
                    starts.push(last + bytes);
                }
                let member = self.stored.read(starts[index]..starts[index + 1])?;
                self.plain.clear();
                gzip::append_plain(&mut self.gzip, member, &mut self.plain)
            }
        }
        .map_err(|error| match error.kind() {
            Kind::CheckFailed => error.context(format!("{} is damaged", self.stored.object)),
            _ => error,
        })
    }

    fn damaged(&self, why: &str) -> Error {
        Error::new(Kind::CheckFailed, format!("{} is damaged: {why}", self.stored.object))
    }
}

/// The size of a member of ours that begins there.
fn member_at(stored: &mut StoredParts<'_>, start: u64) -> Result<Option<u64>> {
    let end = start + gzip::HEADER_BYTES as u64;
    if end > stored.bytes {
        return Ok(None);
    }
    let header = stored.read(start..end)?.first_chunk().and_then(gzip::member_bytes);
    Ok(header.map(|bytes| bytes as u64).filter(|bytes| start + bytes <= stored.bytes))
}

/// The frames by the table at the end; `None` where there is no table of ours.
fn zstd_starts(stored: &mut StoredParts<'_>, plain_bytes: u64) -> Result<Option<Frames>> {
    let Some(tail_at) = stored.bytes.checked_sub(SEEK_TAIL_BYTES) else { return Ok(None) };
    let tail = SeekTail::parse(stored.read(tail_at..stored.bytes)?);
    let Some(table_at) = tail.and_then(|tail| stored.bytes.checked_sub(tail.table_bytes())) else {
        return Ok(None);
    };
    let table = stored.read(table_at..stored.bytes)?.to_vec();
    let Some(entries) = zstd_frames::parse_seek_table(&table) else { return Ok(None) };
    let (mut starts, mut stored_sum, mut plain_sum) = (vec![0], 0, 0);
    let frame_bytes = entries.first().map_or(1, |entry| u64::from(entry.1).max(1));
    for (index, &(stored_bytes, plain)) in entries.iter().enumerate() {
        let is_last = index + 1 == entries.len();
        if u64::from(plain) > frame_bytes || (!is_last && u64::from(plain) != frame_bytes) {
            return Ok(None);
        }
        stored_sum += u64::from(stored_bytes);
        plain_sum += u64::from(plain);
        starts.push(stored_sum);
    }
    let whole = stored_sum == table_at && plain_sum == plain_bytes;
    Ok((whole && frame_bytes <= SEEK_FRAME_BYTES).then_some(Frames::Zstd { starts, frame_bytes }))
}

/// Gives a range of an object, or of a part of one.
type Get<'a> = Box<dyn Fn(Range<u64>) -> Result<ObjectReader> + Send + 'a>;

/// Reads ranges of an object as it is stored, or of what lies below its seal; ahead where they come
/// in rising order.
pub struct StoredParts<'a> {
    object: ObjectName,
    get: Get<'a>,
    bytes: u64,
    ahead_bytes: u64,
    start: u64,
    window: Vec<u8>,
    /// What lies below the seal, where it was opened.
    opened: Option<Box<dyn ReadSeek + Send + 'a>>,
}

impl<'a> StoredParts<'a> {
    /// Of an object of that size. Where parts come in rising order, so many bytes are read ahead.
    pub fn new(store: &'a dyn Store, object: &ObjectName, bytes: u64, ahead_bytes: u64) -> Self {
        let name = object.clone();
        let get = move |range| store.get(&name, Some(range));
        StoredParts::of(object, get, bytes, ahead_bytes)
    }

    /// Of what lies in an object with that name, as it is given: so many bytes.
    pub fn of(
        object: &ObjectName,
        get: impl Fn(Range<u64>) -> Result<ObjectReader> + Send + 'a,
        bytes: u64,
        ahead_bytes: u64,
    ) -> Self {
        let (object, get, window) = (object.clone(), Box::new(get), Vec::new());
        StoredParts { object, get, bytes, ahead_bytes, start: 0, window, opened: None }
    }

    /// What lies below the seal of those. A seal is read in pieces of 64 KiB.
    pub fn opened(self, opener: &Opener) -> Result<Self> {
        let (object, ahead_bytes) = (self.object.clone(), self.ahead_bytes);
        let damaged = |error: Error| match error.kind() {
            Kind::CheckFailed => error.context(format!("{object} is damaged")),
            _ => error,
        };
        let sealed = Sequence { parts: self, at: 0 };
        let mut opened = opener.open_parts(object.as_str(), sealed).map_err(damaged)?;
        let bytes = opened
            .seek(SeekFrom::End(0))
            .map_err(|error| damaged(unread_object(&object, error)))?;
        let none = |_| Err(Error::new(Kind::Failed, "what is sealed is read below its seal"));
        let parts = StoredParts::of(&object, none, bytes, ahead_bytes);
        Ok(StoredParts { opened: Some(opened), ..parts })
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of that range.
    pub fn read(&mut self, range: Range<u64>) -> Result<&[u8]> {
        let end = self.start + self.window.len() as u64;
        if range.start < self.start || range.end > end {
            if range.end > self.bytes {
                let message = format!("{} is damaged: it is cut short", self.object);
                return Err(Error::new(Kind::CheckFailed, message));
            }
            let is_near = range.start >= self.start && range.start <= end + self.ahead_bytes;
            let ahead = if is_near && end > 0 { self.ahead_bytes } else { 0 };
            let until = range.end.max((range.start + ahead).min(self.bytes));
            self.fetch(range.start..until)?;
        }
        let at = (range.start - self.start) as usize;
        Ok(&self.window[at..at + (range.end - range.start) as usize])
    }

    fn fetch(&mut self, range: Range<u64>) -> Result<()> {
        let length = range.end - range.start;
        (self.start, self.window) = (range.start, Vec::with_capacity(length as usize));
        let read = match &mut self.opened {
            None => (self.get)(range)?.take(length).read_to_end(&mut self.window),
            Some(opened) => opened
                .seek(SeekFrom::Start(range.start))
                .and_then(|_| opened.take(length).read_to_end(&mut self.window)),
        };
        read.map_err(|error| unread_object(&self.object, error))?;
        match self.window.len() as u64 == length {
            true => Ok(()),
            false => Err(Error::new(Kind::CheckFailed, format!("{} is cut short", self.object))),
        }
    }
}

/// An error of reading an object: ours as it is, another one named.
pub fn unread_object(object: &ObjectName, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => {
            let message = format!("cannot read {object} of the repository");
            Error::io(Kind::StoreUnavailable, message, error)
        }
    }
}

/// An object as a stream that can be read from any place on. Its errors hold ours.
struct Sequence<'a> {
    parts: StoredParts<'a>,
    at: u64,
}

impl Read for Sequence<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let end = self.parts.bytes.min(self.at.saturating_add(buffer.len() as u64));
        if self.at >= end {
            return Ok(0);
        }
        let read = self.parts.read(self.at..end).map_err(std::io::Error::other)?;
        buffer[..read.len()].copy_from_slice(read);
        let length = read.len();
        self.at = end;
        Ok(length)
    }
}

impl Seek for Sequence<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.parts.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| std::io::Error::other("a place before the beginning"))?;
        Ok(self.at)
    }
}
