//! From plain bytes to a stored object.
//!
//! The capture writes on the calling thread; workers hash blocks and compress frames; one thread
//! hashes the plain bytes in order; a thread for each output hashes what is stored and hands it to
//! its store. At most a few batches of 1 MiB are under way.

mod alone;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use super::gzip::GzipWriter;
use super::hashes::{BlockHash, Sha256Hex};
use super::lane::{self, Entry, Exit, Pool};
use super::prove::Prover;
use super::sending::Sending;
use super::side_by_side::hash_each;
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
    pub block_hashes: Arc<Vec<BlockHash>>,
    /// BLAKE3 of each 4 MiB of the stored bytes.
    pub(crate) chunk_hashes: Vec<blake3::Hash>,
}

/// Where a stream goes: one of several places that get the same plain bytes.
pub struct Output {
    /// How it is compressed there.
    pub compression: Compression,
    /// To whom it is sealed there, if it is.
    pub seal: Option<Arc<Recipients>>,
    /// The object.
    pub put: Box<dyn Put>,
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
    encode_one(options, put, progress, true, produce)
}

/// The same without the SHA-256 of the plain and the stored bytes, which then is zeros: where
/// nobody keeps them, much of the work is saved. With one thread that is the calling one.
pub(crate) fn encode_unhashed(
    options: &EncodeOptions,
    put: Box<dyn Put>,
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Encoded> {
    if options.threads == 1 && options.block_bytes.is_none() {
        return alone::encode(options, put, produce);
    }
    encode_one(options, put, &|_| {}, false, produce)
}

fn encode_one(
    options: &EncodeOptions,
    put: Box<dyn Put>,
    progress: &dyn Fn(u64),
    hashed: bool,
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Encoded> {
    let (compression, seal) = (options.compression, options.seal.clone());
    let outputs = vec![Output { compression, seal, put }];
    let stored = encode_as(options, outputs, progress, hashed, produce)?.pop();
    stored.unwrap_or_else(|| Err(Error::new(Kind::Failed, "nothing was stored")))
}

/// How many batches may wait for an output that is slower than the others.
const WAITING_MAX: usize = 2;

/// Streams what `produce` writes into several objects at once: read once, hashed once, compressed
/// once for each compression among them. `options` say the rest.
///
/// An output that fails is left behind and does not disturb the others: what it was given is not
/// committed. An error of `produce` or of the compression is one of all, and nothing is stored.
pub fn encode_all(
    options: &EncodeOptions,
    outputs: Vec<Output>,
    progress: &dyn Fn(u64),
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Vec<Result<Encoded>>> {
    encode_as(options, outputs, progress, true, produce)
}

fn encode_as(
    options: &EncodeOptions,
    outputs: Vec<Output>,
    progress: &dyn Fn(u64),
    hashed: bool,
    produce: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<Vec<Result<Encoded>>> {
    let mut compressions: Vec<Compression> = Vec::new();
    for output in &outputs {
        if !compressions.contains(&output.compression) {
            compressions.push(output.compression);
        }
    }
    // Two kinds of buffers, so that each keeps its length on its way round.
    let pools = Pools::new(options.threads + 4, compressions.len());
    std::thread::scope(|scope| {
        let (entry, exit) = lane::open(scope, options.threads, || {
            let mut worker = Worker::new(options, &compressions, pools.clone(), hashed);
            move |batch| worker.work(batch)
        });
        let (mut doors, mut storing) = (Vec::new(), Vec::new());
        for output in outputs {
            let (door, packed) = sync_channel::<Arc<Packed>>(WAITING_MAX);
            let place = compressions.iter().position(|one| *one == output.compression);
            let pools = pools.clone();
            doors.push(door);
            storing.push(scope.spawn(move || {
                let mut writer = Writer::new(output, place.unwrap_or_default(), hashed)?;
                while let Ok(packed) = packed.recv() {
                    writer.take(&packed)?;
                    pools.give(packed);
                }
                writer.finish()
            }));
        }
        let sharing = scope.spawn({
            let (hash, pool) = (hashed.then(Sha256::new), pools.plain.clone());
            move || share(&exit, doors, hash, &pool, options.blocks_estimate())
        });
        let mut sink = BatchSink::new(entry, pools.plain.clone(), progress);
        let produced = produce(&mut sink).and_then(|()| sink.finish());
        // Without the last batch the writers see that the stream is not whole, and commit nothing.
        let lane_closed = sink.lane_closed;
        drop(sink);
        let panicked = || Error::new(Kind::Failed, "a storing thread panicked");
        let blocks = sharing.join().unwrap_or_else(|_| Err(panicked()));
        let stored: Vec<Result<Encoded>> =
            storing.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(panicked()))).collect();
        let (blocks, plain_sha256) = blocks?;
        let block_hashes = Arc::new(blocks);
        let plain_bytes = match produced {
            Ok(plain_bytes) => plain_bytes,
            // The producer could not go on because no output took anything: their errors say why.
            Err(_) if lane_closed && stored.iter().all(Result::is_err) => return Ok(stored),
            Err(error) => return Err(error),
        };
        let whole = |encoded: Encoded| Encoded {
            plain_bytes,
            plain_sha256,
            block_hashes: Arc::clone(&block_hashes),
            ..encoded
        };
        Ok(stored.into_iter().map(|encoded| encoded.map(whole)).collect())
    })
}

/// Gives each output what the workers packed, in order, collects the hashes of the blocks, and
/// hashes the plain bytes. Ends early when no output takes anything any more.
fn share(
    exit: &Exit<Result<Packed>>,
    mut doors: Vec<SyncSender<Arc<Packed>>>,
    mut hash: Option<Sha256>,
    pool: &Pool,
    blocks_estimate: usize,
) -> Result<(Vec<BlockHash>, Sha256Hex)> {
    let mut blocks = Vec::with_capacity(blocks_estimate);
    while let Some(packed) = exit.next() {
        let mut packed = packed?;
        blocks.append(&mut packed.blocks);
        if let Some(hash) = &mut hash {
            let is_plain = packed.forms.iter().find(|form| form.is_plain);
            hash.update(is_plain.map_or(&packed.plain, |form| &form.stored));
            if is_plain.is_none() {
                pool.give(std::mem::take(&mut packed.plain));
            }
        }
        let packed = Arc::new(packed);
        doors.retain(|door| door.send(Arc::clone(&packed)).is_ok());
        if doors.is_empty() {
            break;
        }
    }
    let hash = hash.map(|hash| hash.finalize().into());
    Ok((blocks, Sha256Hex(hash.unwrap_or_default())))
}

impl EncodeOptions {
    fn blocks_estimate(&self) -> usize {
        let blocks = self.block_bytes.map(|bytes| self.plain_bytes_estimate / u64::from(bytes) + 1);
        blocks.unwrap_or(0) as usize
    }
}

/// Buffers that go round.
#[derive(Clone)]
struct Pools {
    plain: Pool,
    stored: Pool,
}

impl Pools {
    /// For so many batches under way, each in so many forms.
    fn new(batches: usize, forms: usize) -> Self {
        Pools { plain: Pool::new(batches), stored: Pool::new(batches * forms) }
    }

    /// Takes the buffers of a batch back, once nobody else holds it.
    fn give(&self, packed: Arc<Packed>) {
        let Some(packed) = Arc::into_inner(packed) else { return };
        for form in packed.forms {
            match form.is_plain {
                true => self.plain.give(form.stored),
                false => self.stored.give(form.stored),
            }
        }
    }
}

/// A run of plain bytes on its way to a worker.
struct Batch {
    offset: u64,
    plain: Vec<u8>,
    last: bool,
}

/// What a worker made of a batch.
struct Packed {
    /// One for each compression.
    forms: Vec<Form>,
    /// The plain bytes where they are hashed, and no form holds them.
    plain: Vec<u8>,
    blocks: Vec<BlockHash>,
    last: bool,
}

/// A batch in one compression.
struct Form {
    stored: Vec<u8>,
    frames: Vec<(u32, u32)>,
    is_plain: bool,
}

struct Worker {
    codecs: Vec<(Codec, usize)>,
    /// A stream without blocks is proved here, one with blocks when it is read back.
    prover: Option<Prover>,
    block_bytes: Option<usize>,
    observer: Option<Arc<dyn BlockObserver>>,
    pools: Pools,
    /// Whether the plain bytes go on with what was made of them.
    keeps_plain: bool,
}

enum Codec {
    Plain,
    Zstd(ZstdWriter),
    Gzip(GzipWriter),
}

impl Codec {
    /// The codec, and how many plain bytes are a frame.
    fn of(compression: Compression, block_bytes: Option<u32>) -> (Codec, usize) {
        let frame_bytes = match (block_bytes, compression) {
            // Nobody looks for a page in it.
            (None, Compression::Zstd { .. }) => STREAM_FRAME_BYTES,
            _ => FRAME_BYTES_MAX,
        };
        let codec = match compression {
            Compression::None => Codec::Plain,
            Compression::Zstd { level } => Codec::Zstd(ZstdWriter::new(level, frame_bytes)),
            Compression::Gzip { level } => Codec::Gzip(GzipWriter::new(level)),
        };
        (codec, frame_bytes)
    }

    /// Appends a frame; its size with zstd, whose table of seeks needs it.
    fn append(
        &mut self,
        chunk: &[u8],
        stored: &mut Vec<u8>,
        prover: &mut Option<Prover>,
    ) -> Result<Option<(u32, u32)>> {
        let start = stored.len();
        match self {
            Codec::Plain => stored.extend_from_slice(chunk),
            Codec::Zstd(writer) => {
                writer.append(chunk, stored)?;
                let frame = &stored[start..];
                prover.iter_mut().try_for_each(|prover| prover.zstd(frame, chunk))?;
                return Ok(Some((frame.len() as u32, chunk.len() as u32)));
            }
            Codec::Gzip(writer) => {
                writer.append(chunk, stored)?;
                let member = &stored[start..];
                prover.iter_mut().try_for_each(|prover| prover.gzip(member, chunk))?;
            }
        }
        Ok(None)
    }
}

impl Worker {
    fn new(
        options: &EncodeOptions,
        compressions: &[Compression],
        pools: Pools,
        keeps_plain: bool,
    ) -> Self {
        let of = |compression: &Compression| Codec::of(*compression, options.block_bytes);
        let codecs = compressions.iter().map(of).collect();
        let block_bytes = options.block_bytes.map(|bytes| bytes as usize);
        let prover = block_bytes.is_none().then(Prover::new);
        let observer = options.observer.clone();
        Worker { codecs, prover, block_bytes, observer, pools, keeps_plain }
    }

    fn work(&mut self, batch: Batch) -> Result<Packed> {
        let Batch { offset, plain, last } = batch;
        if let Some(observer) = &self.observer {
            observer.observe(offset, &plain);
        }
        let blocks = match self.block_bytes {
            Some(bytes) => hash_each(&plain, bytes),
            None => Vec::new(),
        };
        // An empty stream still needs one frame: standard tools refuse a file of no bytes.
        let empty: &[&[u8]] = if last && offset == 0 && plain.is_empty() { &[&[]] } else { &[] };
        let mut forms = Vec::with_capacity(self.codecs.len());
        let mut plain_place = None;
        for (place, (codec, frame_bytes)) in self.codecs.iter_mut().enumerate() {
            let mut form = Form { stored: Vec::new(), frames: Vec::new(), is_plain: false };
            if matches!(codec, Codec::Plain) {
                plain_place = Some(place);
            } else {
                form.stored = self.pools.stored.take();
                form.stored.clear();
                form.frames.reserve(BATCH_BYTES / *frame_bytes);
                for chunk in plain.chunks(*frame_bytes).chain(empty.iter().copied()) {
                    form.frames.extend(codec.append(chunk, &mut form.stored, &mut self.prover)?);
                }
            }
            forms.push(form);
        }
        // The plain bytes go on themselves where they are wanted.
        let mut kept = Vec::new();
        match plain_place {
            Some(place) => {
                forms[place] = Form { stored: plain, frames: Vec::new(), is_plain: true }
            }
            None if self.keeps_plain => kept = plain,
            None => self.pools.plain.give(plain),
        }
        Ok(Packed { forms, plain: kept, blocks, last })
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
    lane_closed: bool,
}

impl<'a> BatchSink<'a> {
    fn new(entry: Entry<Batch, Result<Packed>>, pool: Pool, progress: &'a dyn Fn(u64)) -> Self {
        let batch = vec![0; BATCH_BYTES];
        BatchSink { entry, pool, progress, batch, filled: 0, offset: 0, lane_closed: false }
    }

    fn send(&mut self, last: bool) -> Result<()> {
        let next = self.pool.take_of(BATCH_BYTES);
        let mut plain = std::mem::replace(&mut self.batch, next);
        plain.truncate(self.filled);
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

    /// How many plain bytes there were.
    fn finish(&mut self) -> Result<u64> {
        self.send(true)?;
        Ok(self.offset)
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

    fn pass_over(&mut self, bytes: u64) {
        (self.progress)(bytes);
    }
}

/// The storing end of one output: what the workers packed goes out in order.
struct Writer {
    out: Sending,
    /// Which of a batch's forms it takes.
    place: usize,
    frames: Option<Vec<(u32, u32)>>,
    whole: bool,
}

impl Writer {
    fn new(output: Output, place: usize, hashed: bool) -> Result<Self> {
        let frames = matches!(output.compression, Compression::Zstd { .. }).then(Vec::new);
        let out = Sending::begin(output.put, output.seal.as_ref(), hashed)?;
        Ok(Writer { out, place, frames, whole: false })
    }

    fn take(&mut self, packed: &Packed) -> Result<()> {
        let form = &packed.forms[self.place];
        self.out.write(&form.stored)?;
        if let Some(frames) = &mut self.frames {
            frames.extend(&form.frames);
        }
        self.whole = packed.last;
        Ok(())
    }

    fn finish(mut self) -> Result<Encoded> {
        if !self.whole {
            return Err(Error::new(Kind::Failed, "the stream ended before it was whole"));
        }
        if let Some(frames) = self.frames.take() {
            self.out.write(&seek_table(&frames))?;
        }
        self.out.finish()?.commit()
    }
}
