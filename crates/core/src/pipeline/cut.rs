//! The reading end of the way back: cuts stored bytes into whole frames for the workers.
//!
//! What was not written as frames is decompressed here, as a stream.

use std::io::Read;

use super::lane::{Entry, Pool};
use super::stored::{Stored, cut_short};
use super::unpack::{Job, Unpacked};
use super::{BATCH_BYTES, Compression, gzip, zstd_frames};
use crate::error::{Error, Kind, Result};

/// The reading end: cuts stored bytes into jobs.
pub(super) struct Cutter<'a> {
    pub(super) source: Stored<'a>,
    pub(super) entry: Entry<Result<Job>, Result<Unpacked>>,
    pub(super) pool: Pool,
}

/// The consumer stopped, for a reason that it knows.
struct Gone;

impl Cutter<'_> {
    /// Reads to the end; `false` where the consumer stopped before it.
    pub(super) fn run(mut self, compression: Compression) -> Result<bool> {
        let cut = match compression {
            Compression::None => self.cut_plain(),
            Compression::Zstd { .. } => self.cut_zstd(),
            Compression::Gzip { .. } => self.cut_gzip(),
        };
        cut.map(|cut| cut.is_ok())
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
                    self.source.consume(stored_bytes);
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
            self.source.consume(now as usize);
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
                    self.source.consume(size);
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

struct Broken(Option<std::io::Error>);

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| std::io::Error::other("the decoder failed")))
    }
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
