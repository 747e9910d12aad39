//! Stored bytes as they are read: hashed, compared, and kept until they are used.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::encode::CHUNK_BYTES;
use crate::error::{Error, Kind, Result};
use crate::store::ObjectReader;

/// The bytes of an object, hashed as they are read. Its errors hold ours.
pub(super) struct Hashed<'a> {
    reader: ObjectReader,
    hash: Option<Sha256>,
    chunks: Option<ChunkComparer<'a>>,
    bytes: u64,
}

impl<'a> Hashed<'a> {
    /// `hashed`: SHA-256 is taken; `chunks`: each 4 MiB is compared as it is read.
    pub(super) fn new(
        reader: ObjectReader,
        hashed: bool,
        chunks: Option<&'a [blake3::Hash]>,
    ) -> Self {
        let hash = hashed.then(Sha256::new);
        Hashed { reader, hash, chunks: chunks.map(ChunkComparer::new), bytes: 0 }
    }

    /// The reading is over: size and hash. `whole`: the end was reached, and must be the end.
    pub(super) fn end(mut self, whole: bool) -> Result<(u64, Option<Sha256>)> {
        if let Some(chunks) = self.chunks.as_mut().filter(|_| whole) {
            chunks.end()?;
        }
        Ok((self.bytes, self.hash))
    }

    fn note(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        match &mut self.chunks {
            Some(chunks) => chunks.take(bytes),
            None => Ok(()),
        }
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(got) => {
                    self.note(&buffer[..got]).map_err(std::io::Error::other)?;
                    return Ok(got);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = match error.downcast::<Error>() {
                        Ok(error) => error,
                        Err(error) => Error::io(Kind::StoreUnavailable, "cannot read it", error),
                    };
                    return Err(std::io::Error::other(error));
                }
            }
        }
    }
}

/// Bytes below the seal, with those in hand that are not used yet.
pub(super) struct Stored<'a> {
    reader: Box<dyn Read + 'a>,
    window: Vec<u8>,
    used: usize,
}

impl<'a> Stored<'a> {
    /// Nothing is read yet.
    pub(super) fn new(reader: Box<dyn Read + 'a>) -> Self {
        Stored { reader, window: Vec::new(), used: 0 }
    }

    /// What was read and is not used yet.
    pub(super) fn unused(&self) -> &[u8] {
        &self.window[self.used..]
    }

    /// Reads up to 256 KiB more; `false` at the end.
    pub(super) fn more(&mut self) -> Result<bool> {
        self.window.drain(..self.used);
        self.used = 0;
        let start = self.window.len();
        self.window.resize(start + (256 << 10), 0);
        let got = self.reader.read(&mut self.window[start..]).map_err(|error| {
            error
                .downcast::<Error>()
                .unwrap_or_else(|error| Error::io(Kind::StoreUnavailable, "cannot read it", error))
        })?;
        self.window.truncate(start + got);
        Ok(got > 0)
    }

    /// Says that the first so many unused bytes are used now.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.used += bytes;
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

pub(super) fn cut_short() -> Error {
    Error::new(Kind::CheckFailed, "it is cut short")
}
