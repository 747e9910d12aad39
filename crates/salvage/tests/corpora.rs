//! The damaged databases with which SQLite tests itself, in their thousands: nothing panics, none
//! takes long or much memory, and what is called whole is what SQLite reads.
//!
//! A sample of them; `LIFEBOAT_LONG_TESTS=1` takes all. It is a program of its own, without the
//! harness of other tests: the memory of the process is then what they take.
// The clock is real; a test that cannot go on panics.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]
// There is no harness that would print for it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "it/world.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_salvage::{Request, Way};
use rusqlite::{Connection, OpenFlags};

use crate::world::{Dice, env, rounds};

const NAME: &str = "damaged_databases_of_sqlite_itself";
/// What a salvage may take of the processors: what else the machine does is no matter.
const CPU_MS_MAX: u64 = 10_000;
/// One that goes on for so long is ended, which fails the test.
const LIMIT_MS: u64 = 120_000;
const MEMORY_KIB_MAX: u64 = 512 << 10;

fn files() -> Vec<PathBuf> {
    let place = lifeboat_test_support::installed("sqlite-corpora");
    let all = ["fuzzdata3.db", "fuzzdata7.db"].map(|name| place.join(name));
    all.into_iter().filter(|path| path.exists()).collect()
}

fn main() {
    // As the harness would: a list, or a part of the name.
    let mut wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    if std::env::args().any(|argument| argument == "--list") {
        return println!("{NAME}: test");
    }
    if wanted.next().is_some_and(|part| !NAME.contains(&part)) {
        return;
    }
    if files().is_empty() {
        eprintln!("SKIPPED: SQLite's damaged databases, which cargo xtask test fetches");
        return;
    }
    each_in_turn();
    println!("test {NAME} ... ok");
}

fn each_in_turn() {
    let mut seen = Seen::default();
    for file in files() {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let corpus = Connection::open_with_flags(&file, flags).unwrap();
        let mut all = corpus.prepare("SELECT dbid, dbcontent FROM db").unwrap();
        let mut rows = all.query([]).unwrap();
        let every = rounds(25, 1) as usize;
        let mut dice = Dice(20_261);
        while let Some(row) = rows.next().unwrap() {
            let (id, content): (i64, Vec<u8>) = (row.get(0).unwrap(), row.get(1).unwrap());
            if dice.roll(every) == 0 {
                seen.one(&format!("{} {id}", file.display()), &content);
            }
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    println!("{seen:?}, {} MiB at most in databases: {}", peak >> 10, seen.tried);
    assert!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    assert!(seen.salvaged > seen.tried / 2, "{seen:?}");
}

#[derive(Debug, Default)]
struct Seen {
    tried: usize,
    salvaged: usize,
    copied: usize,
    whole: usize,
    rows: u64,
    slowest_cpu_ms: u64,
}

impl Seen {
    fn one(&mut self, name: &str, content: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let (database, to) = (folder.path().join("it.db"), folder.path().join("new.db"));
        fs::write(&database, content).unwrap();
        let request = Request {
            database: &database,
            to: &to,
            donor: None,
            merge_rows: false,
            deleted: self.tried % 5 == 4,
        };
        let begun = cpu_ms();
        let made = lifeboat_salvage::salvage(&env().limited(LIMIT_MS, "2min"), &request);
        let took = cpu_ms() - begun;
        assert!(took < CPU_MS_MAX, "{name}: {took} ms");
        self.slowest_cpu_ms = self.slowest_cpu_ms.max(took);
        self.tried += 1;
        assert_eq!(fs::read(&database).unwrap(), content, "{name} was written");
        let report = match made {
            Ok(report) => report,
            Err(error) => {
                let is_of_database = error.kind() == lifeboat_core::Kind::CheckFailed;
                assert!(is_of_database, "{name}: {error:?}");
                return assert!(!to.exists(), "{name}");
            }
        };
        self.salvaged += 1;
        self.rows += report.total().rows();
        if report.way == Way::Copied {
            self.copied += 1;
            assert_eq!(check(&to), ["ok"], "{name} is called sound");
        }
        if report.is_whole() {
            self.whole += 1;
            whole_has_what_sqlite_reads(name, &database, &to);
        }
    }
}

/// What this process has had of the processors.
fn cpu_ms() -> u64 {
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = stat.rsplit(')').next().unwrap();
    let fields = behind_name.split_ascii_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() * TICK_MS
}

fn check(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("PRAGMA integrity_check(3)").unwrap();
    let lines = statement.query_map([], |row| row.get(0)).unwrap();
    lines.collect::<rusqlite::Result<_>>().unwrap()
}

/// What is called whole has at least the rows that SQLite reads of each table.
fn whole_has_what_sqlite_reads(name: &str, database: &Path, to: &Path) {
    let counts = |path: &Path| -> BTreeMap<String, i64> {
        let Ok(connection) = Connection::open(path) else { return BTreeMap::new() };
        let tables = || -> rusqlite::Result<Vec<String>> {
            let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 1";
            connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        let count = |table: &String| {
            let table = table.replace('"', "\"\"");
            let sql = format!("SELECT count(*) FROM (SELECT * FROM \"{table}\" NOT INDEXED)");
            connection.query_row(&sql, [], |row| row.get(0)).ok()
        };
        let tables = tables().unwrap_or_default();
        tables.iter().filter_map(|table| Some((table.clone(), count(table)?))).collect()
    };
    let (old, new) = (counts(database), counts(to));
    for (table, rows) in old.iter().filter(|(table, _)| !table.starts_with("sqlite_")) {
        let is = new.get(table);
        assert!(is >= Some(rows), "{name}: {table} has {is:?} rows, SQLite reads {rows}");
    }
}
