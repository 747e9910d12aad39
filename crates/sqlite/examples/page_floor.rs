//! The least that an increment can take: `page_floor OLD NEW` compares two database files page by
//! page, and says how many pages differ and how few bytes they took, by the best way that was
//! found: groups of pages, compressed with their versions before as the dictionary.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::io;
use std::process::ExitCode;

use zstd_safe::{CCtx, CParameter};

/// Groups of so many pages, each with a level.
const WAYS: [(usize, i32); 5] = [(1, 3), (1, 19), (32, 3), (32, 19), (256, 19)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [old, new] = &arguments[..] else {
        eprintln!("usage: page_floor OLD NEW");
        return ExitCode::FAILURE;
    };
    match run(old, new) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(old: &str, new: &str) -> io::Result<String> {
    let (old, new) = (std::fs::read(old)?, std::fs::read(new)?);
    let size = match new.get(16..18) {
        Some([0, 1]) => 65_536,
        Some([high, low]) => usize::from(*high) << 8 | usize::from(*low),
        _ => return Err(io::Error::other("the database has no page")),
    };
    let mut changed = Vec::new();
    for (at, page) in new.chunks(size.max(512)).enumerate() {
        let before = old.get(at * page.len()..(at + 1) * page.len()).unwrap_or_default();
        if before != page {
            changed.push((before, page));
        }
    }
    let mut best: Option<(usize, (usize, i32))> = None;
    // The slow ways would take minutes where much has changed, and win little.
    for way in WAYS.into_iter().filter(|way| way.1 < 19 || changed.len() < 10_000) {
        let bytes = changed.chunks(way.0).map(|group| compressed(group, way.1)).sum::<usize>();
        if best.is_none_or(|(least, _)| bytes < least) {
            best = Some((bytes, way));
        }
    }
    let (bytes, (pages, level)) = best.unwrap_or((0, (1, 0)));
    Ok(format!("{} pages, {bytes} bytes, groups of {pages} at level {level}", changed.len()))
}

fn compressed(group: &[(&[u8], &[u8])], level: i32) -> usize {
    let before = group.iter().map(|(before, _)| *before).collect::<Vec<_>>().concat();
    let after = group.iter().map(|(_, after)| *after).collect::<Vec<_>>().concat();
    let mut frame = vec![0; zstd_safe::compress_bound(after.len())];
    let mut context = CCtx::create();
    let _ = context.set_parameter(CParameter::CompressionLevel(level));
    if !before.is_empty() {
        let _ = context.ref_prefix(&before);
    }
    context.compress2(&mut frame[..], &after).unwrap_or(after.len())
}
