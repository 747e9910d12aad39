//! From stored bytes to plain bytes.
//!
//! One thread reads, hashes what it reads and cuts it into frames; workers decompress; the caller
//! takes the plain bytes in order. Streams that were not written as frames (a script's `.gz`) are
//! decompressed by the reading thread. Never more plain bytes are produced than allowed.

use std::io::Read;

use sha2::{Digest, Sha256};
use zstd_safe::DCtx;

use super::encode::CHUNK_BYTES;
use super::hashes::{BlockHash, Sha256Hex, block_hash};
use super::lane::{self, Entry, Pool};
use super::{BATCH_BYTES, Compression, gzip, zstd_frames};
use crate::error::{Error, Kind, Result};
use crate::store::ObjectReader;

/// What the stored and the plain bytes must be; everything given is checked.
#[derive(Clone, Debug, Default)]
pub struct Expectation<'a> {
    /// The object's name, for messages.
    pub object: &'a str,
    /// Size and SHA-256 as stored.
    pub stored: Option<(u64, String)>,
    /// BLAKE3 of each 4 MiB as stored: several times faster than SHA-256.
    pub stored_chunks: Option<&'a [blake3::Hash]>,
    /// Size and SHA-256 of the plain bytes.
    pub plain: Option<(u64, String)>,
    /// Size and hashes of the blocks.
    pub blocks: Option<(u32, &'a [BlockHash])>,
    /// More plain bytes than this are refused: what the place can hold.
    pub plain_bytes_max: Option<u64>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Size as stored.
    pub stored_bytes: u64,
    /// Size of the plain bytes.
    pub plain_bytes: u64,
}

/// Decompresses an object. `consume` gets the plain bytes in order; it must not trust them before
/// this function returned, because the hashes are compared last.
///
/// Fails with [`Kind::CheckFailed`] for anything damaged, cut, or not as expected.
pub fn decode(
    reader: ObjectReader,
    compression: Compression,
    threads: usize,
    expectation: &Expectation<'_>,
    consume: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Decoded> {
    let object = expectation.object;
    let (pool, stored_pool) = (Pool::new(threads + 4), Pool::new(threads + 4));
    let block_bytes = expectation.blocks.map(|(bytes, _)| bytes as usize);
    let (read, taken) = std::thread::scope(|scope| {
        let (entry, exit) = lane::open(scope, threads, || {
            let mut worker = Unpacker::new(block_bytes, pool.clone(), stored_pool.clone());
            move |job| worker.work(job)
        });
        let reading = scope.spawn({
            let pool = stored_pool.clone();
            let source = Stored::new(reader, expectation);
            move || Cutter { source, entry, pool }.run(compression)
        });
        let hash = expectation.plain.is_some().then(Sha256::new);
        let mut taker = Taker { expectation, consume, hash, bytes: 0, block: 0 };
        let mut taken = Ok(());
        while let Some(unpacked) = exit.next() {
            taken = unpacked.and_then(|unpacked| taker.take(unpacked, &pool));
            if taken.is_err() {
                break;
            }
        }
        drop(exit);
        let read = reading
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the reading thread panicked")));
        (read, taken.map(|()| (taker.bytes, taker.hash, taker.block)))
    });
    let damaged = |error: Error| match error.kind() {
        // An error with a hint comes from the caller and says already what is wrong.
        Kind::CheckFailed if error.hint_text().is_none() => {
            error.context(format!("{object} is damaged"))
        }
        _ => error,
    };
    let (plain_bytes, plain_hash, blocks) = taken.map_err(damaged)?;
    let (stored_bytes, stored_hash) = read.map_err(damaged)?;
    let sides = [
        ("stored", &expectation.stored, stored_bytes, stored_hash),
        ("plain", &expectation.plain, plain_bytes, plain_hash),
    ];
    compare(expectation, sides, blocks)?;
    Ok(Decoded { stored_bytes, plain_bytes })
}

/// What is expected of one side, its size, and its hash if one was taken.
type Side<'a> = (&'a str, &'a Option<(u64, String)>, u64, Option<Sha256>);

fn compare(expectation: &Expectation<'_>, sides: [Side<'_>; 2], blocks: usize) -> Result<()> {
    let object = expectation.object;
    let differs = |what: &str, is: String, must: String| {
        Error::new(Kind::CheckFailed, format!("{object}: {what} is {is}, must be {must}"))
    };
    for (side, expected, bytes, hash) in sides {
        let Some((bytes_must, sha256_must)) = expected else { continue };
        if bytes != *bytes_must {
            let what = format!("its {side} size");
            return Err(differs(&what, format!("{bytes} bytes"), format!("{bytes_must}")));
        }
        let sha256 = hash.map(|hash| Sha256Hex(hash.finalize().into()).to_string());
        if sha256.as_ref() != Some(sha256_must) {
            let what = format!("the SHA-256 of its {side} bytes");
            return Err(differs(&what, sha256.unwrap_or_default(), sha256_must.clone()));
        }
    }
    match expectation.blocks {
        Some((_, hashes)) if hashes.len() != blocks => {
            Err(differs("the number of its pages", blocks.to_string(), hashes.len().to_string()))
        }
        _ => Ok(()),
    }
}

/// What a worker gets.
enum Job {
    /// Whole frames of zstd with their plain size in all.
    Zstd { frames: Vec<u8>, plain_bytes: usize },
    /// Whole members of gzip, each with its size.
    Gzip { members: Vec<u8>, sizes: Vec<usize> },
    /// Bytes that are plain already.
    Plain(Vec<u8>),
}

struct Unpacked {
    plain: Vec<u8>,
    blocks: Vec<BlockHash>,
}

struct Unpacker {
    zstd: DCtx<'static>,
    gzip: libdeflater::Decompressor,
    block_bytes: Option<usize>,
    pool: Pool,
    stored_pool: Pool,
}

impl Unpacker {
    fn new(block_bytes: Option<usize>, pool: Pool, stored_pool: Pool) -> Self {
        let gzip = libdeflater::Decompressor::new();
        Unpacker { zstd: DCtx::create(), gzip, block_bytes, pool, stored_pool }
    }

    fn work(&mut self, job: Result<Job>) -> Result<Unpacked> {
        let plain = match job? {
            Job::Plain(plain) => plain,
            Job::Zstd { frames, plain_bytes } => {
                let mut plain = self.pool.take();
                zstd_frames::decompress(&mut self.zstd, &frames, plain_bytes, &mut plain)?;
                self.stored_pool.give(frames);
                plain
            }
            Job::Gzip { members, sizes } => {
                let mut plain = self.pool.take();
                plain.clear();
                let mut rest = &members[..];
                for size in sizes {
                    let (member, later) = rest.split_at(size);
                    gzip::append_plain(&mut self.gzip, member, &mut plain)?;
                    rest = later;
                }
                self.stored_pool.give(members);
                plain
            }
        };
        let blocks = match self.block_bytes {
            Some(bytes) => plain.chunks(bytes).map(block_hash).collect(),
            None => Vec::new(),
        };
        Ok(Unpacked { plain, blocks })
    }
}

/// The caller's end.
struct Taker<'a, 'b> {
    expectation: &'a Expectation<'b>,
    consume: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    hash: Option<Sha256>,
    bytes: u64,
    block: usize,
}

impl Taker<'_, '_> {
    fn take(&mut self, unpacked: Unpacked, pool: &Pool) -> Result<()> {
        let object = self.expectation.object;
        self.bytes += unpacked.plain.len() as u64;
        if let Some(bytes_max) = self.expectation.plain_bytes_max
            && self.bytes > bytes_max
        {
            return Err(Error::new(
                Kind::NoSpace,
                format!("{object} holds more than the {bytes_max} bytes that have room"),
            ));
        }
        if let Some((_, hashes)) = self.expectation.blocks {
            let expected = hashes.get(self.block..self.block + unpacked.blocks.len());
            if expected != Some(&unpacked.blocks[..]) {
                let wrong = unpacked.blocks.iter().zip(expected.unwrap_or_default());
                let page = self.block + wrong.take_while(|(is, must)| is == must).count() + 1;
                return Err(Error::new(
                    Kind::CheckFailed,
                    format!("page {page} of {object} is not the page that was backed up"),
                ));
            }
            self.block += unpacked.blocks.len();
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&unpacked.plain);
        }
        (self.consume)(&unpacked.plain)?;
        pool.give(unpacked.plain);
        Ok(())
    }
}

/// Stored bytes, hashed as they are read, with those in hand that are not used yet.
struct Stored<'a> {
    reader: ObjectReader,
    hash: Option<Sha256>,
    chunks: Option<ChunkComparer<'a>>,
    bytes: u64,
    window: Vec<u8>,
    used: usize,
}

impl<'a> Stored<'a> {
    fn new(reader: ObjectReader, expectation: &Expectation<'a>) -> Self {
        Stored {
            reader,
            hash: expectation.stored.is_some().then(Sha256::new),
            chunks: expectation.stored_chunks.map(ChunkComparer::new),
            bytes: 0,
            window: Vec::new(),
            used: 0,
        }
    }

    fn note(&mut self, start: usize, got: usize) -> Result<()> {
        let bytes = &self.window[start..start + got];
        self.bytes += got as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        match &mut self.chunks {
            Some(chunks) => chunks.take(bytes),
            None => Ok(()),
        }
    }

    fn unused(&self) -> &[u8] {
        &self.window[self.used..]
    }

    /// Reads up to 256 KiB more; `false` at the end.
    fn more(&mut self) -> Result<bool> {
        self.window.drain(..self.used);
        self.used = 0;
        let start = self.window.len();
        self.window.resize(start + (256 << 10), 0);
        let got = self.read_hashed(start)?;
        self.window.truncate(start + got);
        Ok(got > 0)
    }

    fn read_hashed(&mut self, start: usize) -> Result<usize> {
        loop {
            match self.reader.read(&mut self.window[start..]) {
                Ok(got) => return self.note(start, got).map(|()| got),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(Kind::StoreUnavailable, "cannot read it", error));
                }
            }
        }
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.unused().is_empty() && !self.more().map_err(std::io::Error::other)? {
            return Ok(0);
        }
        let count = self.unused().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.window[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// The reading end: cuts stored bytes into jobs.
struct Cutter<'a> {
    source: Stored<'a>,
    entry: Entry<Result<Job>, Result<Unpacked>>,
    pool: Pool,
}

/// The consumer stopped, for a reason that it knows.
struct Gone;

impl Cutter<'_> {
    fn run(mut self, compression: Compression) -> Result<(u64, Option<Sha256>)> {
        let cut = match compression {
            Compression::None => self.cut_plain(),
            Compression::Zstd { .. } => self.cut_zstd(),
            Compression::Gzip { .. } => self.cut_gzip(),
        };
        match (cut?, &mut self.source.chunks) {
            (Ok(()), Some(chunks)) => chunks.end()?,
            (Ok(()), None) | (Err(Gone), _) => {}
        }
        Ok((self.source.bytes, self.source.hash))
    }

    fn put(&self, job: Job) -> Result<(), Gone> {
        self.entry.put(Ok(job)).then_some(()).ok_or(Gone)
    }

    fn stored_buffer(&self) -> Vec<u8> {
        let mut buffer = self.pool.take();
        buffer.clear();
        buffer
    }

    fn cut_plain(&mut self) -> Result<Result<(), Gone>> {
        self.cut_stream(|source| Box::new(source))
    }

    /// Decompresses on this thread what is left, and passes it on in batches.
    fn cut_stream(
        &mut self,
        decoder: impl for<'a> FnOnce(&'a mut Stored<'_>) -> Box<dyn Read + 'a>,
    ) -> Result<Result<(), Gone>> {
        let mut decoder = decoder(&mut self.source);
        loop {
            let mut plain = Vec::with_capacity(BATCH_BYTES);
            let got = decoder.by_ref().take(BATCH_BYTES as u64).read_to_end(&mut plain);
            match got {
                Ok(0) => return Ok(Ok(())),
                Ok(_) => {
                    if !self.entry.put(Ok(Job::Plain(plain))) {
                        return Ok(Err(Gone));
                    }
                }
                Err(error) => return Err(stream_error(error)),
            }
        }
    }

    fn cut_zstd(&mut self) -> Result<Result<(), Gone>> {
        let (mut frames, mut plain_bytes) = (self.stored_buffer(), 0);
        loop {
            match zstd_frames::next_frame(self.source.unused(), BATCH_BYTES) {
                zstd_frames::Next::Frame { stored_bytes, plain_bytes: plain } => {
                    if plain_bytes + plain > BATCH_BYTES {
                        let job = Job::Zstd { frames, plain_bytes };
                        if self.put(job).is_err() {
                            return Ok(Err(Gone));
                        }
                        (frames, plain_bytes) = (self.stored_buffer(), 0);
                    }
                    frames.extend_from_slice(&self.source.unused()[..stored_bytes]);
                    plain_bytes += plain;
                    self.source.used += stored_bytes;
                }
                zstd_frames::Next::More => {
                    if self.source.more()? {
                        continue;
                    }
                    if !self.source.unused().is_empty() {
                        return Err(cut_short());
                    }
                    break;
                }
                zstd_frames::Next::Skippable { stored_bytes } => self.skip(stored_bytes)?,
                zstd_frames::Next::Foreign => return Err(foreign_bytes()),
                zstd_frames::Next::Stream => {
                    if self.put(Job::Zstd { frames, plain_bytes }).is_err() {
                        return Ok(Err(Gone));
                    }
                    return self.cut_stream(|source| match zstd::stream::Decoder::new(source) {
                        Ok(decoder) => Box::new(decoder),
                        Err(error) => Box::new(Broken(Some(error))),
                    });
                }
            }
        }
        Ok(self.put(Job::Zstd { frames, plain_bytes }))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        loop {
            let now = bytes.min(self.source.unused().len() as u64);
            self.source.used += now as usize;
            bytes -= now;
            if bytes == 0 {
                return Ok(());
            }
            if !self.source.more()? {
                return Err(cut_short());
            }
        }
    }

    fn cut_gzip(&mut self) -> Result<Result<(), Gone>> {
        let (mut members, mut sizes) = (self.stored_buffer(), Vec::new());
        loop {
            let unused = self.source.unused();
            let member = unused.first_chunk().map(gzip::member_bytes);
            match member {
                Some(Some(size)) if unused.len() >= size => {
                    members.extend_from_slice(&unused[..size]);
                    sizes.push(size);
                    self.source.used += size;
                    if sizes.len() == BATCH_BYTES / super::FRAME_BYTES_MAX {
                        if self.put(Job::Gzip { members, sizes }).is_err() {
                            return Ok(Err(Gone));
                        }
                        (members, sizes) = (self.stored_buffer(), Vec::new());
                    }
                }
                Some(None) => {
                    if self.put(Job::Gzip { members, sizes }).is_err() {
                        return Ok(Err(Gone));
                    }
                    return self.cut_stream(|source| {
                        Box::new(flate2::bufread::MultiGzDecoder::new(
                            std::io::BufReader::with_capacity(256 << 10, source),
                        ))
                    });
                }
                _ => {
                    if self.source.more()? {
                        continue;
                    }
                    match self.source.unused() {
                        [] => return Ok(self.put(Job::Gzip { members, sizes })),
                        _ => return Err(cut_short()),
                    }
                }
            }
        }
    }
}

/// Compares stored bytes, chunk by chunk, with the hashes of what was sent.
struct ChunkComparer<'a> {
    expected: std::slice::Iter<'a, blake3::Hash>,
    hasher: blake3::Hasher,
    left: u64,
}

impl<'a> ChunkComparer<'a> {
    fn new(expected: &'a [blake3::Hash]) -> Self {
        let hasher = blake3::Hasher::new();
        ChunkComparer { expected: expected.iter(), hasher, left: CHUNK_BYTES }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at((self.left as usize).min(bytes.len()));
            self.hasher.update(now);
            self.left -= now.len() as u64;
            if self.left == 0 {
                self.compare()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<()> {
        let hash = self.hasher.finalize();
        self.hasher.reset();
        self.left = CHUNK_BYTES;
        match self.expected.next() == Some(&hash) {
            true => Ok(()),
            false => Err(Error::new(Kind::CheckFailed, "its stored bytes are not those sent")),
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.left < CHUNK_BYTES {
            self.compare()?;
        }
        match self.expected.len() {
            0 => Ok(()),
            _ => Err(cut_short()),
        }
    }
}

struct Broken(Option<std::io::Error>);

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| std::io::Error::other("the decoder failed")))
    }
}

fn cut_short() -> Error {
    Error::new(Kind::CheckFailed, "it is cut short")
}

fn foreign_bytes() -> Error {
    Error::new(Kind::CheckFailed, "it holds bytes that are not zstd")
}

fn stream_error(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            cut_short().caused_by(error)
        }
        Err(error) => Error::new(Kind::CheckFailed, "it cannot be decompressed").caused_by(error),
    }
}
