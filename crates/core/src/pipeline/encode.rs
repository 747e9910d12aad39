//! From plain bytes to a stored object.
//!
//! The capture writes on the calling thread; workers hash blocks and compress frames; one thread
//! hashes what is stored and hands it to the store. At most a few batches of 1 MiB are under way.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::gzip::GzipWriter;
use super::hashes::{BlockHash, Sha256Hex, block_hash};
use super::lane::{self, Entry, Exit, Pool};
use super::prove::Prover;
use super::sending::Sending;
use super::zstd_frames::{ZstdWriter, seek_table};
use super::{BATCH_BYTES, Compression, FRAME_BYTES_MAX, STREAM_FRAME_BYTES};
use crate::error::{Error, Kind, Result};
use crate::seal::Recipients;
use crate::source::{BlockObserver, Sink};
use crate::store::Put;

/// The stored bytes are hashed in chunks of this size, so that reading back can use all cores.
pub(crate) const CHUNK_BYTES: u64 = 4 << 20;

/// How an artifact is to be encoded.
pub struct EncodeOptions {
    /// The compression.
    pub compression: Compression,
    /// The size of the blocks whose hashes are kept; a divisor of 128 KiB.
    pub block_bytes: Option<u32>,
    /// Who else sees the plain bytes, on the worker threads.
    pub observer: Option<Arc<dyn BlockObserver>>,
    /// How many threads compress.
    pub threads: usize,
    /// Expected plain size in bytes.
    pub plain_bytes_estimate: u64,
    /// To whom it is sealed, if it is.
    pub seal: Option<Arc<Recipients>>,
}

/// What was stored.
pub struct Encoded {
    /// Size of the plain bytes.
    pub plain_bytes: u64,
    /// SHA-256 of the plain bytes.
    pub plain_sha256: Sha256Hex,
    /// Size as stored.
    pub stored_bytes: u64,
    /// SHA-256 as stored.
    pub stored_sha256: Sha256Hex,
    /// Hashes of the blocks, where asked for.
    pub block_hashes: Vec<BlockHash>,
    /// BLAKE3 of each 4 MiB of the stored bytes.
    pub(crate) chunk_hashes: Vec<blake3::Hash>,
}

/// Streams what `produce` writes into `put`, and commits it.
///
/// `progress` hears of plain bytes as they are read. Fails with the error of `produce`, of the
/// compression, or of the store, whichever came first; then nothing is stored.
pub fn encode(
    options: &EncodeOptions,
    put: Box<dyn Put>,
    progress: &dyn Fn(u64),
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Encoded> {
    // Two kinds of buffers, so that each keeps its length on its way round.
    let (plain_pool, stored_pool) =
        (Pool::new(options.threads + 4), Pool::new(options.threads + 4));
    let (produced, stored) = std::thread::scope(|scope| {
        let (entry, exit) = lane::open(scope, options.threads, || {
            let mut worker = Worker::new(options, plain_pool.clone(), stored_pool.clone());
            move |batch| worker.work(batch)
        });
        let frames = matches!(options.compression, Compression::Zstd { .. });
        let writer_pool = match options.compression {
            Compression::None => plain_pool.clone(),
            _ => stored_pool.clone(),
        };
        let blocks_estimate = match options.block_bytes {
            Some(bytes) => options.plain_bytes_estimate / u64::from(bytes) + 1,
            None => 0,
        };
        let writer = scope.spawn(move || {
            let out = Sending::begin(put, options.seal.as_ref())?;
            let mut writer = Writer::new(out, blocks_estimate as usize, frames);
            writer.drain(&exit, &writer_pool)?;
            writer.finish()
        });
        let mut sink = BatchSink::new(entry, plain_pool.clone(), progress);
        let produced = produce(&mut sink).and_then(|()| sink.finish());
        // Without the last batch the writer sees that the stream is not whole, and commits nothing.
        let lane_closed = sink.lane_closed;
        drop(sink);
        let stored = writer
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the storing thread panicked")));
        match (produced, stored) {
            (Ok(produced), Ok(stored)) => Ok((produced, stored)),
            (Ok(_), Err(error)) => Err(error),
            // The producer could not go on because the store failed: the store's error says why.
            (Err(_), Err(error)) if lane_closed => Err(error),
            (Err(error), _) => Err(error),
        }
    })?;
    let (stored, put) = stored;
    put.commit()?;
    Ok(Encoded { plain_bytes: produced.0, plain_sha256: produced.1, ..stored })
}

/// A run of plain bytes on its way to a worker.
struct Batch {
    offset: u64,
    plain: Vec<u8>,
    last: bool,
}

/// What a worker made of a batch.
struct Packed {
    stored: Vec<u8>,
    frames: Vec<(u32, u32)>,
    blocks: Vec<BlockHash>,
    last: bool,
}

struct Worker {
    codec: Codec,
    /// A stream without blocks is proved here, one with blocks when it is read back.
    prover: Option<Prover>,
    frame_bytes: usize,
    block_bytes: Option<usize>,
    observer: Option<Arc<dyn BlockObserver>>,
    plain_pool: Pool,
    stored_pool: Pool,
}

enum Codec {
    Plain,
    Zstd(ZstdWriter),
    Gzip(GzipWriter),
}

impl Worker {
    fn new(options: &EncodeOptions, plain_pool: Pool, stored_pool: Pool) -> Self {
        let frame_bytes = match (options.block_bytes, options.compression) {
            // Nobody looks for a page in it.
            (None, Compression::Zstd { .. }) => STREAM_FRAME_BYTES,
            _ => FRAME_BYTES_MAX,
        };
        let codec = match options.compression {
            Compression::None => Codec::Plain,
            Compression::Zstd { level } => Codec::Zstd(ZstdWriter::new(level, frame_bytes)),
            Compression::Gzip { level } => Codec::Gzip(GzipWriter::new(level)),
        };
        let block_bytes = options.block_bytes.map(|bytes| bytes as usize);
        let observer = options.observer.clone();
        let prover = block_bytes.is_none().then(Prover::new);
        Worker { codec, prover, frame_bytes, block_bytes, observer, plain_pool, stored_pool }
    }

    fn work(&mut self, batch: Batch) -> Result<Packed> {
        let Batch { offset, plain, last } = batch;
        if let Some(observer) = &self.observer {
            observer.observe(offset, &plain);
        }
        let blocks = match self.block_bytes {
            Some(bytes) => plain.chunks(bytes).map(block_hash).collect(),
            None => Vec::new(),
        };
        // An empty stream still needs one frame: standard tools refuse a file of no bytes.
        let empty: &[&[u8]] = if last && offset == 0 && plain.is_empty() { &[&[]] } else { &[] };
        let chunks = plain.chunks(self.frame_bytes).chain(empty.iter().copied());
        let mut frames = Vec::with_capacity(BATCH_BYTES / self.frame_bytes);
        let mut stored = self.stored_pool.take();
        stored.clear();
        match &mut self.codec {
            Codec::Plain => return Ok(Packed { stored: plain, frames, blocks, last }),
            Codec::Zstd(writer) => {
                for chunk in chunks {
                    let start = stored.len();
                    writer.append(chunk, &mut stored)?;
                    let frame = &stored[start..];
                    self.prover.iter_mut().try_for_each(|prover| prover.zstd(frame, chunk))?;
                    frames.push((frame.len() as u32, chunk.len() as u32));
                }
            }
            Codec::Gzip(writer) => {
                for chunk in chunks {
                    let start = stored.len();
                    writer.append(chunk, &mut stored)?;
                    let member = &stored[start..];
                    self.prover.iter_mut().try_for_each(|prover| prover.gzip(member, chunk))?;
                }
            }
        }
        self.plain_pool.give(plain);
        Ok(Packed { stored, frames, blocks, last })
    }
}

/// The producing end: collects plain bytes into batches.
struct BatchSink<'a> {
    entry: Entry<Batch, Result<Packed>>,
    pool: Pool,
    progress: &'a dyn Fn(u64),
    batch: Vec<u8>,
    filled: usize,
    offset: u64,
    hash: Sha256,
    lane_closed: bool,
}

impl<'a> BatchSink<'a> {
    fn new(entry: Entry<Batch, Result<Packed>>, pool: Pool, progress: &'a dyn Fn(u64)) -> Self {
        let hash = Sha256::new();
        let batch = vec![0; BATCH_BYTES];
        BatchSink { entry, pool, progress, batch, filled: 0, offset: 0, hash, lane_closed: false }
    }

    fn send(&mut self, last: bool) -> Result<()> {
        let mut next = self.pool.take();
        next.resize(BATCH_BYTES, 0);
        let mut plain = std::mem::replace(&mut self.batch, next);
        plain.truncate(self.filled);
        self.hash.update(&plain);
        let bytes = plain.len() as u64;
        let batch = Batch { offset: self.offset, plain, last };
        self.offset += bytes;
        self.filled = 0;
        self.lane_closed = !self.entry.put(batch);
        (self.progress)(bytes);
        match self.lane_closed {
            false => Ok(()),
            true => Err(Error::new(Kind::StoreUnavailable, "the store stopped taking bytes")),
        }
    }

    fn finish(&mut self) -> Result<(u64, Sha256Hex)> {
        self.send(true)?;
        Ok((self.offset, Sha256Hex(std::mem::take(&mut self.hash).finalize().into())))
    }
}

impl Sink for BatchSink<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.batch[self.filled..]
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        self.filled += bytes;
        debug_assert!(self.filled <= BATCH_BYTES);
        match self.filled >= BATCH_BYTES {
            true => self.send(false),
            false => Ok(()),
        }
    }
}

/// The storing end: what the workers packed goes out in order.
struct Writer {
    out: Sending,
    block_hashes: Vec<BlockHash>,
    frames: Option<Vec<(u32, u32)>>,
    whole: bool,
}

impl Writer {
    fn new(out: Sending, blocks_estimate: usize, frames: bool) -> Self {
        let block_hashes = Vec::with_capacity(blocks_estimate);
        Writer { out, block_hashes, frames: frames.then(Vec::new), whole: false }
    }

    fn drain(&mut self, exit: &Exit<Result<Packed>>, pool: &Pool) -> Result<()> {
        while let Some(packed) = exit.next() {
            let packed = packed?;
            self.out.write(&packed.stored)?;
            pool.give(packed.stored);
            self.block_hashes.extend(packed.blocks);
            if let Some(frames) = &mut self.frames {
                frames.extend(packed.frames);
            }
            self.whole = packed.last;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Encoded, Box<dyn Put>)> {
        if !self.whole {
            return Err(Error::new(Kind::Failed, "the stream ended before it was whole"));
        }
        if let Some(frames) = self.frames.take() {
            self.out.write(&seek_table(&frames))?;
        }
        let sent = self.out.finish()?;
        let encoded = Encoded {
            plain_bytes: 0,
            plain_sha256: Sha256Hex([0; 32]),
            stored_bytes: sent.bytes,
            stored_sha256: sent.sha256,
            block_hashes: self.block_hashes,
            chunk_hashes: sent.chunk_hashes,
        };
        Ok((encoded, sent.put))
    }
}
