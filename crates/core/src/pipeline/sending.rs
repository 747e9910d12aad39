//! The storing end: seals where asked, hashes what is stored, and hands it to the store, in order.

use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::encode::{CHUNK_BYTES, Encoded};
use super::hashes::Sha256Hex;
use crate::error::{Error, Kind, Result};
use crate::seal::{Recipients, Sealing};
use crate::store::Put;

/// Where stored bytes go.
pub(super) enum Sending {
    Open(Box<Counted>),
    Sealed(Box<Sealing<Counted>>),
}

impl Sending {
    /// Begins an object. What is hashed is what the store gets: below the seal. Its SHA-256 is
    /// zeros where it is not wanted.
    pub(super) fn begin(
        put: Box<dyn Put>,
        seal: Option<&Arc<Recipients>>,
        wants_sha256: bool,
    ) -> Result<Self> {
        let counted = Counted::new(put, wants_sha256);
        Ok(match seal {
            None => Sending::Open(Box::new(counted)),
            Some(recipients) => {
                let sealing = Sealing::begin(recipients, counted).map_err(failed)?;
                Sending::Sealed(Box::new(sealing))
            }
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match self {
            Sending::Open(counted) => counted.write_all(bytes),
            Sending::Sealed(sealing) => sealing.write_all(bytes),
        };
        written.map_err(failed)
    }

    /// All is written: it is committed by whoever gets it.
    pub(super) fn finish(self) -> Result<Sent> {
        let mut counted = match self {
            Sending::Open(counted) => *counted,
            Sending::Sealed(sealing) => sealing.finish().map_err(failed)?,
        };
        if counted.chunk_left < CHUNK_BYTES {
            counted.end_chunk();
        }
        Ok(Sent {
            put: counted.put,
            bytes: counted.bytes,
            sha256: Sha256Hex(counted.hash.map(|hash| hash.finalize().into()).unwrap_or_default()),
            chunk_hashes: counted.chunk_hashes,
        })
    }
}

fn failed(error: io::Error) -> Error {
    Error::io(Kind::StoreUnavailable, "cannot write to the repository", error)
}

/// What was sent.
pub(super) struct Sent {
    put: Box<dyn Put>,
    bytes: u64,
    sha256: Sha256Hex,
    chunk_hashes: Vec<blake3::Hash>,
}

impl Sent {
    /// Commits the object. What its plain bytes are, the caller knows.
    pub(super) fn commit(self) -> Result<Encoded> {
        self.put.commit()?;
        Ok(Encoded {
            plain_bytes: 0,
            plain_sha256: Sha256Hex([0; 32]),
            stored_bytes: self.bytes,
            stored_sha256: self.sha256,
            block_hashes: Arc::default(),
            chunk_hashes: self.chunk_hashes,
        })
    }
}

/// Counts and hashes what goes to the store.
pub(super) struct Counted {
    put: Box<dyn Put>,
    bytes: u64,
    hash: Option<Sha256>,
    chunk: blake3::Hasher,
    chunk_hashes: Vec<blake3::Hash>,
    chunk_left: u64,
}

impl Counted {
    fn new(put: Box<dyn Put>, wants_sha256: bool) -> Self {
        Counted {
            put,
            bytes: 0,
            hash: wants_sha256.then(Sha256::new),
            chunk: blake3::Hasher::new(),
            chunk_hashes: Vec::new(),
            chunk_left: CHUNK_BYTES,
        }
    }

    fn note(&mut self, mut bytes: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at((self.chunk_left as usize).min(bytes.len()));
            self.chunk.update(now);
            self.chunk_left -= now.len() as u64;
            if self.chunk_left == 0 {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    fn end_chunk(&mut self) {
        self.chunk_hashes.push(self.chunk.finalize());
        self.chunk.reset();
        self.chunk_left = CHUNK_BYTES;
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put.write_all(bytes)?;
        self.note(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put.flush()
    }
}
