//! Reading back what was stored, before anything is called a success.
//!
//! Two strengths. [`read_back_bytes`] proves that the store gives the bytes that were sent.
//! [`read_back_frames`] also decompresses them and proves, block by block, that they are the
//! blocks that were captured: then a check of the captured state is a check of what is stored.

use std::io::Read;

use super::encode::CHUNK_BYTES;
use super::{Encoded, Expectation, Wrapping, decode};
use crate::error::{Error, Kind, Result};
use crate::store::{ObjectName, Store};

/// Hears of bytes that were read back, and may end the reading by an error.
pub type Progress<'a> = dyn Fn(u64) -> Result<()> + Sync + 'a;

/// Compares the stored bytes with those that were sent, on all cores.
pub fn read_back_bytes(
    store: &dyn Store,
    name: &ObjectName,
    encoded: &Encoded,
    threads: usize,
    progress: &Progress<'_>,
) -> Result<()> {
    check_size(store, name, encoded)?;
    let chunks = encoded.chunk_hashes.len();
    let threads = threads.clamp(1, chunks.max(1));
    std::thread::scope(|scope| {
        let ranges = (0..threads).map(|thread| {
            let share = chunks * thread / threads..chunks * (thread + 1) / threads;
            scope.spawn(move || compare_chunks(store, name, encoded, share, progress))
        });
        let running: Vec<_> = ranges.collect();
        running.into_iter().try_for_each(|thread| {
            let panicked = |_| Err(Error::new(Kind::Failed, "a reading thread panicked"));
            thread.join().unwrap_or_else(panicked)
        })
    })
}

fn compare_chunks(
    store: &dyn Store,
    name: &ObjectName,
    encoded: &Encoded,
    chunks: std::ops::Range<usize>,
    progress: &Progress<'_>,
) -> Result<()> {
    if chunks.is_empty() {
        return Ok(());
    }
    let start = chunks.start as u64 * CHUNK_BYTES;
    let end = (chunks.end as u64 * CHUNK_BYTES).min(encoded.stored_bytes);
    let mut reader = store.get(name, Some(start..end))?;
    let mut buffer = vec![0; 256 << 10];
    for hash in &encoded.chunk_hashes[chunks] {
        let (mut hasher, mut left) = (blake3::Hasher::new(), CHUNK_BYTES as usize);
        while left > 0 {
            let share = left.min(buffer.len());
            let got = reader.read(&mut buffer[..share]).map_err(|error| {
                Error::io(Kind::StoreUnavailable, format!("cannot read {name} back"), error)
            })?;
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
            left -= got;
            progress(got as u64)?;
        }
        if hasher.finalize() != *hash {
            return Err(differs(store, name));
        }
    }
    Ok(())
}

/// Decompresses what is stored and compares sizes, hashes, and the hash of every block.
pub fn read_back_frames(
    store: &dyn Store,
    name: &ObjectName,
    encoded: &Encoded,
    wrapping: Wrapping,
    block_bytes: Option<u32>,
    threads: usize,
    progress: &Progress<'_>,
) -> Result<()> {
    check_size(store, name, encoded)?;
    // Where every block is compared, the SHA-256 of all of them would prove nothing more.
    let plain = (encoded.plain_bytes, encoded.plain_sha256.to_string());
    let expectation = Expectation {
        object: name.as_str(),
        stored_chunks: Some(&encoded.chunk_hashes),
        plain: block_bytes.is_none().then_some(plain),
        blocks: block_bytes.map(|bytes| (bytes, &encoded.block_hashes[..])),
        plain_bytes_max: Some(encoded.plain_bytes),
        ..Expectation::default()
    };
    let reader = store.get(name, None)?;
    decode(reader, wrapping, threads, &expectation, &mut |plain| progress(plain.len() as u64))
        .map(drop)
        .map_err(|error| match error.kind() {
            Kind::CheckFailed | Kind::NoSpace => differs(store, name).caused_by(error),
            _ => error,
        })
}

fn check_size(store: &dyn Store, name: &ObjectName, encoded: &Encoded) -> Result<()> {
    match store.head(name)? {
        Some(info) if info.bytes == encoded.stored_bytes => Ok(()),
        Some(_) => Err(differs(store, name)),
        None => Err(Error::new(
            Kind::CheckFailed,
            format!("{name} was stored in {} and is not there", store.url()),
        )),
    }
}

fn differs(store: &dyn Store, name: &ObjectName) -> Error {
    Error::new(
        Kind::CheckFailed,
        format!("{name}, read back from {}, is not what was sent", store.url()),
    )
    .hint("the storage damages what it is given: check the disk and its cables, then try again")
}
