//! Damage of every kind to databases of every kind, new in each run, for as long as is allowed:
//! `LIFEBOAT_FUZZ_S` seconds, 20 in `cargo xtask test`. A failure prints the seed of its
//! round, which `LIFEBOAT_FUZZ_SEED` repeats.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_core::Kind;
use lifeboat_salvage::{Request, Way};
use rusqlite::Connection;

use crate::world::{Dice, Sample, env};

/// Without a word of how long.
const SECONDS: u64 = 3;
const LIMIT_MS: u64 = 120_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A database file, and what lies beside it.
#[derive(Clone)]
struct Input {
    bytes: Vec<u8>,
    side: Option<(&'static str, Vec<u8>)>,
}

fn inputs() -> Vec<Input> {
    let plain = |sample: Sample| Input { bytes: fs::read(&sample.path).unwrap(), side: None };
    let mut inputs = vec![
        plain(Sample::chat("PRAGMA page_size = 512", 40)),
        plain(Sample::chat("PRAGMA page_size = 1024; PRAGMA encoding = 'UTF-16be'", 30)),
        plain(Sample::chat("PRAGMA page_size = 512; PRAGMA auto_vacuum = incremental", 40)),
        plain(crate::proved::indexes_of("PRAGMA page_size = 512", 80)),
        plain(crate::proved::asked()),
    ];
    inputs.extend(with_sides());
    inputs
}

/// A log, and a journal, that belong to their databases.
fn with_sides() -> Vec<Input> {
    let mut inputs = Vec::new();
    for (mode, ending) in [("WAL", "-wal"), ("DELETE", "-journal")] {
        let pragmas = format!("PRAGMA page_size = 512; PRAGMA journal_mode = {mode}");
        let sample = Sample::chat(&pragmas, 40);
        let connection = Connection::open(&sample.path).unwrap();
        let open = "PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 3; BEGIN;
                    UPDATE Message SET content = content || 'x'";
        connection.execute_batch(open).unwrap();
        if mode == "WAL" {
            connection.execute_batch("COMMIT").unwrap();
        }
        let side = fs::read(crate::world::beside(&sample.path, ending)).unwrap();
        inputs.push(Input { bytes: fs::read(&sample.path).unwrap(), side: Some((ending, side)) });
    }
    inputs
}

/// One change.
fn change(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    const ODD: [u8; 12] = [0, 1, 2, 5, 10, 13, 0x7f, 0x80, 0x81, 0xfe, 0xff, 0x0c];
    if bytes.is_empty() {
        return;
    }
    let at = match dice.roll(4) {
        0 => dice.roll(100),
        1 => dice.roll(bytes.len() / 512 + 1) * 512 + dice.roll(16),
        2 => dice.roll(bytes.len() / 512 + 1) * 512 + dice.roll(120),
        _ => dice.roll(bytes.len()),
    }
    .min(bytes.len() - 1);
    let room = bytes.len() - at;
    match dice.roll(9) {
        0 => bytes[at] ^= 1 << dice.roll(8),
        1 => bytes[at] = ODD[dice.roll(ODD.len())],
        2 => bytes[at] = dice.roll(256) as u8,
        3 => {
            let length = room.min(4);
            let value = [0_u32, 1, 2, u32::MAX, 1 << 31, dice.roll(4_000) as u32][dice.roll(6)];
            bytes[at..at + length].copy_from_slice(&value.to_be_bytes()[..length]);
        }
        4 => {
            let length = room.min(9);
            bytes[at..at + length].fill(0xff);
        }
        5 => {
            let length = 512.min(other.len()).min(bytes.len());
            let from = dice.roll(other.len() / 512) * 512;
            let to = dice.roll(bytes.len() / 512 + 1) * 512;
            let length = length.min(other.len() - from).min(bytes.len().saturating_sub(to));
            if length > 0 {
                bytes[to..to + length].copy_from_slice(&other[from..from + length]);
            }
        }
        6 if dice.roll(4) == 0 => bytes.truncate(at),
        7 if dice.roll(4) == 0 => {
            let more = (0..dice.roll(700)).map(|_| dice.roll(256) as u8).collect::<Vec<_>>();
            bytes.splice(at..at, more);
        }
        _ => {
            let length = room.min(1 + dice.roll(40));
            bytes[at..at + length].fill(ODD[dice.roll(ODD.len())]);
        }
    }
}

#[test]
fn whatever_happens_to_a_database() {
    let seconds = number("LIFEBOAT_FUZZ_S").unwrap_or(SECONDS);
    let repeated = number("LIFEBOAT_FUZZ_SEED");
    let first = repeated.unwrap_or_else(|| RandomState::new().hash_one("fuzz") >> 16);
    let inputs = inputs();
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let (mut rounds, mut salvaged) = (0, 0);
    while rounds == 0 || (repeated.is_none() && begun.elapsed() < Duration::from_secs(seconds)) {
        let seed = first + rounds;
        salvaged += usize::from(round(folder.path(), &inputs, seed));
        rounds += 1;
    }
    println!("{rounds} rounds from seed {first}, {salvaged} gave a new database");
}

/// One database, damaged. Whether anything could be read.
fn round(folder: &Path, inputs: &[Input], seed: u64) -> bool {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut input = inputs[dice.roll(inputs.len())].clone();
    let other = &inputs[dice.roll(inputs.len())].bytes;
    let most = [1, 4, 40][dice.roll(3)];
    for _ in 0..1 + dice.roll(most) {
        match &mut input.side {
            Some((_, side)) if dice.roll(2) == 0 => change(side, other, &mut dice),
            _ => change(&mut input.bytes, other, &mut dice),
        }
    }
    let (database, to) = (folder.join("it.db"), folder.join("new.db"));
    fs::write(&database, &input.bytes).unwrap();
    if let Some((ending, side)) = &input.side {
        fs::write(crate::world::beside(&database, ending), side).unwrap();
    }
    let deleted = dice.roll(4) == 0;
    let request = Request { database: &database, to: &to, donor: None, merge_rows: false, deleted };
    let here = format!("LIFEBOAT_FUZZ_SEED={seed}");
    let env = env().limited(LIMIT_MS, "2min");
    let made = catch_unwind(AssertUnwindSafe(|| lifeboat_salvage::salvage(&env, &request)));
    let made = made.unwrap_or_else(|_| panic!("{here}: it panicked"));
    assert!(fs::read(&database).unwrap() == input.bytes, "{here}: the database was written");
    let is_made = match made {
        Ok(report) => {
            let connection = Connection::open(&to).unwrap();
            let check = "PRAGMA integrity_check(1)";
            let said = connection.query_row(check, [], |row| row.get(0));
            // Of a virtual table that is damaged SQLite may say nothing but that it cannot.
            let said: String = said.unwrap_or_else(|error| error.to_string());
            let is_sound = said == "ok" || report.way == Way::Rows && !report.is_whole();
            assert!(is_sound, "{here}: {said}");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), Kind::CheckFailed, "{here}: {error:?}");
            assert!(!to.exists(), "{here}");
            false
        }
    };
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    is_made
}
