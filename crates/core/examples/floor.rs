//! The least that a backup and a restore must do, as a measure for the benchmark.
//!
//! `floor backup DATABASE LEVEL [FRAMES]`: one pass that reads, takes BLAKE3 of each page and
//! compresses independent frames of 128 KiB with zstd, on all cores; the frames go to a file, or
//! nowhere. Prints how many bytes they take. `floor restore FRAMES DATABASE`: decompresses on
//! all cores, writes, syncs. Its file is for itself alone: frames in the order in which they were
//! done, then where each one belongs.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE_BYTES: usize = 4096;
const FRAME_BYTES: usize = 128 << 10;
/// Bytes of one entry of the index: place in the file, bytes stored, number of the frame.
const ENTRY_BYTES: usize = 24;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["backup", database, level] => backup(database, level, None),
        ["backup", database, level, frames] => backup(database, level, Some(frames)),
        ["restore", frames, database] => restore(frames, database),
        _ => Err(io::Error::other(
            "say `backup DATABASE LEVEL [FRAMES]` or `restore FRAMES DATABASE`",
        )),
    };
    match done {
        Ok(bytes) => {
            println!("{bytes}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the same work on every core; the first error ends it.
fn on_all_cores(work: impl Fn() -> io::Result<()> + Sync) -> io::Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })
}

fn backup(database: &str, level: &str, frames: Option<&str>) -> io::Result<u64> {
    let level: i32 = level.parse().map_err(io::Error::other)?;
    let source = File::open(database)?;
    let size = source.metadata()?.len();
    let target = frames.map(File::create).transpose()?;
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(0));
    let index = Mutex::new(Vec::new());
    let digests = Mutex::new(0u8);
    on_all_cores(|| {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let mut plain = vec![0; FRAME_BYTES];
        let mut stored = vec![0; zstd::zstd_safe::compress_bound(FRAME_BYTES)];
        let mut mixed = 0;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let offset = number * FRAME_BYTES as u64;
            if offset >= size {
                break;
            }
            let length = (size - offset).min(FRAME_BYTES as u64) as usize;
            source.read_exact_at(&mut plain[..length], offset)?;
            for page in plain[..length].chunks(PAGE_BYTES) {
                mixed ^= blake3::hash(page).as_bytes()[0];
            }
            let bytes = compressor.compress_to_buffer(&plain[..length], &mut stored)?;
            let place = end.fetch_add(bytes as u64, Ordering::Relaxed);
            if let Some(target) = &target {
                target.write_all_at(&stored[..bytes], place)?;
                lock(&index)?.push([place, bytes as u64, number]);
            }
        }
        *lock(&digests)? ^= mixed;
        Ok(())
    })?;
    // Without a use of the digests the compiler might leave them out.
    std::hint::black_box(*lock(&digests)?);
    let frames_end = end.load(Ordering::Relaxed);
    if let Some(target) = &target {
        let entries = std::mem::take(&mut *lock(&index)?);
        let mut bytes: Vec<u8> =
            entries.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend((entries.len() as u64).to_le_bytes());
        bytes.extend(size.to_le_bytes());
        target.write_all_at(&bytes, frames_end)?;
        target.sync_all()?;
    }
    Ok(frames_end)
}

fn restore(frames: &str, database: &str) -> io::Result<u64> {
    let source = File::open(frames)?;
    let source_bytes = source.metadata()?.len();
    let mut tail = [0; 16];
    source.read_exact_at(&mut tail, source_bytes.saturating_sub(16))?;
    let (count, size) = (number_at(&tail, 0), number_at(&tail, 8));
    let mut index = vec![0; count as usize * ENTRY_BYTES];
    let index_place = source_bytes - 16 - index.len() as u64;
    source.read_exact_at(&mut index, index_place)?;
    let target = File::create(database)?;
    let next = AtomicU64::new(0);
    on_all_cores(|| {
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let mut plain = vec![0; FRAME_BYTES];
        let mut stored = vec![0; zstd::zstd_safe::compress_bound(FRAME_BYTES)];
        loop {
            let entry = next.fetch_add(1, Ordering::Relaxed) as usize * ENTRY_BYTES;
            if entry >= index.len() {
                return Ok(());
            }
            let length = number_at(&index, entry + 8) as usize;
            source.read_exact_at(&mut stored[..length], number_at(&index, entry))?;
            let bytes = decompressor.decompress_to_buffer(&stored[..length], &mut plain)?;
            let offset = number_at(&index, entry + 16) * FRAME_BYTES as u64;
            target.write_all_at(&plain[..bytes], offset)?;
        }
    })?;
    target.sync_all()?;
    Ok(size)
}

fn number_at(bytes: &[u8], place: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[place..place + 8]);
    u64::from_le_bytes(number)
}

fn lock<T>(mutex: &Mutex<T>) -> io::Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| io::Error::other("a thread panicked"))
}
