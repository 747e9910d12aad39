//! From stored bytes to plain bytes.
//!
//! One thread reads, hashes what it reads and cuts it into frames; workers decompress; the caller
//! takes the plain bytes in order. Streams that were not written as frames (a script's `.gz`) are
//! decompressed by the reading thread. Never more plain bytes are produced than allowed.

use sha2::{Digest, Sha256};

use super::Wrapping;
use super::cut::Cutter;
use super::hashes::{BlockHash, Sha256Hex};
use super::lane::{self, Pool};
use super::stored::{Hashed, Stored};
use super::unpack::{Unpacked, Unpacker};
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
    /// Size of the plain bytes, where their SHA-256 need not be taken.
    pub plain_bytes: Option<u64>,
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

/// Opens and decompresses an object. `consume` gets the plain bytes in order; it must not trust
/// them before this function returned, because the hashes are compared last.
///
/// Fails with [`Kind::CheckFailed`] for anything damaged, cut, or not as expected, and with
/// [`Kind::WrongKey`] where the seal is not for the key that was given.
pub fn decode(
    reader: ObjectReader,
    wrapping: impl Into<Wrapping>,
    threads: usize,
    expectation: &Expectation<'_>,
    consume: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Decoded> {
    unwrap(reader, &wrapping.into(), threads, expectation, consume)
}

fn unwrap(
    reader: ObjectReader,
    wrapping: &Wrapping,
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
            let hashed = expectation.stored.is_some();
            move || {
                let mut stored = Hashed::new(reader, hashed, expectation.stored_chunks);
                let source = Stored::new(wrapping.open(object, &mut stored)?);
                let whole = Cutter { source, entry, pool }.run(wrapping.compression)?;
                stored.end(whole)
            }
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
    if expectation.plain_bytes.is_some_and(|must| must != plain_bytes) {
        let message = format!("{object} holds {plain_bytes} bytes, not as many as it must");
        return Err(Error::new(Kind::CheckFailed, message));
    }
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
