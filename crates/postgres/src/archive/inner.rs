//! The compression inside an archive: that of `pg_dump -Fc` without `-Z0`, of each table's rows and
//! of each large object on its own.

mod lz4;

use flate2::{Decompress, FlushDecompress, Status};
use lifeboat_core::{Error, Kind, Result};
use zstd::stream::raw::{Decoder, Operation};

use lz4::Lz4Frame;

/// What is made of the pieces at a time.
const PLAIN_BYTES: usize = 64 << 10;

/// How the data of an archive are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InnerCompression {
    /// As they are: what we write.
    #[default]
    None,
    /// What `pg_dump -Fc` does by itself.
    Gzip,
    /// `--compress=lz4`.
    Lz4,
    /// `--compress=zstd`.
    Zstd,
}

/// Takes the pieces of one table's rows, or of one large object, and gives the plain bytes.
pub(super) struct Inner {
    kind: Stream,
    plain: Vec<u8>,
    begun: bool,
    ended: bool,
}

enum Stream {
    Gzip(Box<Decompress>),
    Zstd(Box<Decoder<'static>>),
    Lz4(Box<Lz4Frame>),
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

impl Inner {
    /// `None` for what is plain already.
    pub(super) fn new(compression: InnerCompression) -> Result<Option<Self>> {
        let kind = match compression {
            InnerCompression::None => return Ok(None),
            InnerCompression::Gzip => Stream::Gzip(Box::new(Decompress::new(true))),
            InnerCompression::Zstd => {
                let decoder = Decoder::new().map_err(|error| {
                    Error::new(Kind::Failed, "zstd cannot begin").caused_by(error)
                })?;
                Stream::Zstd(Box::new(decoder))
            }
            InnerCompression::Lz4 => Stream::Lz4(Box::default()),
        };
        Ok(Some(Inner { kind, plain: vec![0; PLAIN_BYTES], begun: false, ended: false }))
    }

    /// The next table or object begins.
    pub(super) fn begin(&mut self) -> Result<()> {
        (self.begun, self.ended) = (false, false);
        match &mut self.kind {
            Stream::Gzip(stream) => {
                stream.reset(true);
                Ok(())
            }
            Stream::Zstd(stream) => stream.reinit().map_err(|error| wrong(&error)),
            Stream::Lz4(frame) => {
                **frame = Lz4Frame::default();
                Ok(())
            }
        }
    }

    /// Takes a piece. `hear` gets its plain bytes.
    pub(super) fn take(
        &mut self,
        mut piece: &[u8],
        hear: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.begun |= !piece.is_empty();
        if let Stream::Lz4(frame) = &mut self.kind {
            frame.take(piece, hear)?;
            self.ended = frame.has_ended();
            return Ok(());
        }
        loop {
            let (used, made, ended) = self.step(piece)?;
            // Nothing at all would be the end of a large object.
            if made > 0 {
                hear(&self.plain[..made])?;
            }
            piece = &piece[used..];
            self.ended = ended;
            match (ended, piece.is_empty()) {
                (true, true) => return Ok(()),
                (true, false) => return Err(wrong(&"bytes follow the end")),
                (false, true) if made < self.plain.len() => return Ok(()),
                (false, false) if used == 0 && made == 0 => return Err(wrong(&"it stands still")),
                _ => {}
            }
        }
    }

    /// How many bytes were used and made, and whether the stream is at its end.
    fn step(&mut self, piece: &[u8]) -> Result<(usize, usize, bool)> {
        if self.ended {
            return Err(wrong(&"bytes follow the end"));
        }
        match &mut self.kind {
            Stream::Gzip(stream) => {
                let before = (stream.total_in(), stream.total_out());
                let status = stream
                    .decompress(piece, &mut self.plain, FlushDecompress::None)
                    .map_err(|error| wrong(&error))?;
                let used = (stream.total_in() - before.0) as usize;
                let made = (stream.total_out() - before.1) as usize;
                Ok((used, made, status == Status::StreamEnd))
            }
            Stream::Zstd(stream) => {
                let status =
                    stream.run_on_buffers(piece, &mut self.plain).map_err(|error| wrong(&error))?;
                Ok((status.bytes_read, status.bytes_written, status.remaining == 0))
            }
            // It takes whole pieces.
            Stream::Lz4(_) => Ok((piece.len(), 0, false)),
        }
    }

    /// The table or object is over: its stream must be.
    pub(super) fn end(&self) -> Result<()> {
        match self.begun && !self.ended {
            true => Err(wrong(&"it ends too soon")),
            false => Ok(()),
        }
    }
}

fn wrong(why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::CheckFailed, format!("the compression inside the dump is damaged: {why}"))
}
