//! The SQLite that applications bring: versions that are known to corrupt databases.
//!
//! Each build of SQLite has in it when its source was checked in, to the second: which tells of a
//! bundled one as well, that no package manager knows. So a version is known by its date.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use lifeboat_core::source::Engine as _;
use lifeboat_sqlite::{SqliteEngine, glance};

use super::{Finding, Subject};
use crate::config::diagnose::shown;

const CHECK: &str = "SQLite version";

/// So many processes of a database are looked at.
const PROCESSES_MAX: usize = 4;
/// So many files that a process runs.
const FILES_MAX: usize = 40;
/// So much of each.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// At once. A source id that lies across two pieces is found in the second.
const PIECE_BYTES: usize = 1 << 20;

/// `2022-12-28 14:03:47 ` and the beginning of the check-in's hash.
const DATE_BYTES: usize = 20;
const HASH_BYTES: usize = 36;

/// A fault, and the dates of the sources that have it.
struct Fault {
    /// Its first release is of this day.
    from: &'static str,
    /// The first release without it is of this day.
    before: &'static str,
    /// Whether it is of WAL mode alone.
    needs_wal: bool,
    what: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault {
        from: "2010-07-21",
        before: "2026-03-03",
        needs_wal: true,
        what: "two connections that write and checkpoint at one moment can lose a commit or corrupt \
               it (the WAL-reset bug of 3.7.0 to 3.51.2, rare)",
    },
    Fault {
        from: "2021-03-12",
        before: "2022-01-06",
        needs_wal: false,
        what: "it can corrupt a database (3.35.0 to 3.37.1)",
    },
];

/// Of each process that has a database open.
pub(super) fn of_applications(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in subject.targets {
        let Some(path) = &target.path else { continue };
        let Ok(Some(seen)) = glance(path) else { continue };
        let holders = SqliteEngine.holders(path).unwrap_or_default();
        let processes: BTreeSet<(u32, String)> =
            holders.into_iter().map(|holder| (holder.pid, holder.name)).collect();
        for (pid, name) in processes.into_iter().take(PROCESSES_MAX) {
            for (file, date) in dates(pid) {
                let faults: Vec<&str> = faults(&date, seen.is_wal).collect();
                let library = format!("{name} ({pid}) uses SQLite of {date} in {}", shown(&file));
                findings.push(match faults.is_empty() {
                    true => Finding::good(CHECK, &target.name, library),
                    false => {
                        let message = format!("{library}: {}", faults.join("; "));
                        let hint = "bring SQLite 3.51.3 or newer (or 3.50.7, 3.44.6), restart it, \
                                    and check: lifeboat backup --check full";
                        Finding::warning(CHECK, &target.name, message, hint)
                    }
                });
            }
        }
    }
    findings
}

fn faults(date: &str, is_wal: bool) -> impl Iterator<Item = &'static str> {
    let has = move |fault: &&Fault| {
        (fault.from..fault.before).contains(&date) && (is_wal || !fault.needs_wal)
    };
    FAULTS.iter().filter(has).map(|fault| fault.what).collect::<Vec<_>>().into_iter()
}

/// The files that a process runs and that have a SQLite in them, with the day of its source.
fn dates(pid: u32) -> Vec<(PathBuf, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|bits| bits.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .collect();
    // A library of that name first: then no other file need be read.
    files.sort_by_key(|path| (!is_library(path), path.clone()));
    files.dedup();
    let libraries: Vec<PathBuf> = files.iter().filter(|path| is_library(path)).cloned().collect();
    let files = if libraries.is_empty() { files } else { libraries };
    // A process of a container calls its files by paths of its own.
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let dated = files.into_iter().take(FILES_MAX).filter_map(|path| {
        let seen = root.join(path.strip_prefix("/").unwrap_or(&path));
        let file = File::open(seen).or_else(|_| File::open(&path)).ok()?;
        Some((path, date_in(file.take(FILE_BYTES_MAX))?))
    });
    dated.collect()
}

fn is_library(path: &Path) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().contains("sqlite3.so")
}

/// The day in the source id of SQLite, if one is in those bytes.
fn date_in(mut reader: impl Read) -> Option<String> {
    let kept = DATE_BYTES + HASH_BYTES - 1;
    let (mut buffer, mut filled) = (vec![0; PIECE_BYTES + kept], 0);
    loop {
        let read = reader.read(&mut buffer[filled..]).ok()?;
        let bytes = &buffer[..filled + read];
        if let Some(at) = bytes.windows(DATE_BYTES + HASH_BYTES).position(is_source_id) {
            return String::from_utf8(bytes[at..at + 10].to_vec()).ok();
        }
        if read == 0 {
            return None;
        }
        let end = filled + read;
        let from = end.saturating_sub(kept);
        buffer.copy_within(from..end, 0);
        filled = end - from;
    }
}

fn is_source_id(bytes: &[u8]) -> bool {
    let pattern = b"dddd-dd-dd dd:dd:dd ";
    let (date, hash) = bytes.split_at(DATE_BYTES);
    let fits = |(byte, wanted): (&u8, &u8)| match wanted {
        b'd' => byte.is_ascii_digit(),
        _ => byte == wanted,
    };
    // The dashes first: almost all bytes are told by one of them.
    date[4] == b'-'
        && date.iter().zip(pattern).all(fits)
        && hash.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_the_day_of_their_source() {
        let count = |date, is_wal| faults(date, is_wal).count();
        // 3.40.1, 3.36.0, 3.51.2, 3.51.3, 3.6.23.
        assert_eq!((count("2022-12-28", true), count("2022-12-28", false)), (1, 0));
        assert_eq!((count("2021-06-18", true), count("2021-06-18", false)), (2, 1));
        assert_eq!((count("2026-01-09", true), count("2026-03-13", true)), (1, 0));
        assert_eq!(count("2010-03-09", true), 0);
    }

    #[test]
    fn a_source_id_is_found_across_pieces_and_nothing_else_is_one() {
        let id =
            b"2022-12-28 14:03:47 df5c253c0b3dd24916e4ec7cf77d3db5294cc9fd45ae7b9c5e82ad8195f3";
        for before in [0, 1, PIECE_BYTES - 10, PIECE_BYTES, PIECE_BYTES + 54] {
            let mut bytes = vec![b'-'; before];
            bytes.extend_from_slice(id);
            bytes.extend_from_slice(&[0; 100]);
            assert_eq!(date_in(&bytes[..]).as_deref(), Some("2022-12-28"), "{before}");
        }
        assert_eq!(
            date_in(&b"2022-12-28 14:03:47 is a date, and no source id of SQLite at all"[..]),
            None
        );
    }
}
