//! Databases of any shape after any history: the captured image is the state, to the byte, and
//! the rows are counted right.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod support;

use std::path::Path;

use lifeboat_core::manifest::CheckLevel;
use proptest::prelude::*;
use rusqlite::Connection;

use support::{capture_with, integrity, number, open_image, options, serialized};

/// What a database is made as.
#[derive(Clone, Debug)]
struct Shape {
    page_size: u32,
    reserved_bytes: u8,
    mode: &'static str,
    encoding: &'static str,
    auto_vacuum: &'static str,
}

/// One thing that happens to it.
#[derive(Clone, Debug)]
enum Step {
    Insert { table: usize, rows: u32, bytes: u32 },
    Update { table: usize, every: u32, bytes: u32 },
    Delete { table: usize, every: u32 },
    Begin,
    Commit,
    Rollback,
    Checkpoint(&'static str),
    Vacuum,
    ShrinkIncrementally,
    Mode(&'static str),
    NewTable,
    Capture,
}

const TABLES: [&str; 3] = ["plain", "keyed", "words"];

fn shapes() -> impl Strategy<Value = Shape> {
    (
        prop::sample::select(vec![512, 1024, 2048, 4096, 8192, 32768, 65536]),
        prop::sample::select(vec![0, 0, 8, 32]),
        prop::sample::select(vec!["wal", "wal", "delete", "persist", "truncate"]),
        prop::sample::select(vec!["UTF-8", "UTF-16le", "UTF-16be"]),
        prop::sample::select(vec!["none", "full", "incremental"]),
    )
        .prop_map(|(page_size, reserved_bytes, mode, encoding, auto_vacuum)| Shape {
            page_size,
            reserved_bytes,
            mode,
            encoding,
            auto_vacuum,
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let table = 0..TABLES.len();
    let step = prop_oneof![
        4 => (table.clone(), 1..200_u32, 0..3000_u32)
            .prop_map(|(table, rows, bytes)| Step::Insert { table, rows, bytes }),
        2 => (table.clone(), 1..9_u32, 0..900_u32)
            .prop_map(|(table, every, bytes)| Step::Update { table, every, bytes }),
        2 => (table, 1..6_u32).prop_map(|(table, every)| Step::Delete { table, every }),
        1 => Just(Step::Begin),
        1 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        2 => prop::sample::select(vec!["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
            .prop_map(Step::Checkpoint),
        1 => Just(Step::Vacuum),
        1 => Just(Step::ShrinkIncrementally),
        1 => prop::sample::select(vec!["wal", "delete", "persist"]).prop_map(Step::Mode),
        1 => Just(Step::NewTable),
        3 => Just(Step::Capture),
    ];
    prop::collection::vec(step, 1..24)
}

fn make(path: &Path, shape: &Shape) -> Connection {
    let connection = Connection::open(path).unwrap();
    reserve(&connection, shape.reserved_bytes);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {};
             PRAGMA journal_mode = {}; PRAGMA cache_size = 30; PRAGMA synchronous = OFF;
             CREATE TABLE plain(a, body);
             CREATE TABLE keyed(a TEXT PRIMARY KEY, body) WITHOUT ROWID;
             CREATE VIRTUAL TABLE words USING fts5(a, body);
             CREATE INDEX plain_body ON plain(body, a);",
            shape.page_size, shape.encoding, shape.auto_vacuum, shape.mode
        ))
        .unwrap();
    connection
}

fn reserve(connection: &Connection, bytes: u8) {
    let mut bytes = i32::from(bytes);
    // SAFETY: the handle is alive; this control reads and writes one int.
    let code = unsafe {
        rusqlite::ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut bytes).cast(),
        )
    };
    assert_eq!(code, rusqlite::ffi::SQLITE_OK);
}

/// Some steps are not possible in some states; those change nothing.
fn apply(connection: &Connection, step: &Step, serial: &mut u32) {
    *serial += 1;
    let sql = match step {
        Step::Insert { table, rows, bytes } => format!(
            "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows})
             INSERT INTO {} (a, body)
             SELECT 'k{serial} ' || i, hex(randomblob(abs(random() % ({bytes} + 1)))) FROM c",
            TABLES[*table]
        ),
        Step::Update { table, every, bytes } => format!(
            "UPDATE {} SET body = hex(randomblob({bytes})) WHERE length(a) % {every} = 0",
            TABLES[*table]
        ),
        Step::Delete { table, every } => {
            let table = TABLES[*table];
            format!("DELETE FROM {table} WHERE length(body) % {every} = 0")
        }
        Step::Begin => "BEGIN".to_owned(),
        Step::Commit => "COMMIT".to_owned(),
        Step::Rollback => "ROLLBACK".to_owned(),
        Step::Checkpoint(mode) => format!("PRAGMA wal_checkpoint({mode})"),
        Step::Vacuum => "VACUUM".to_owned(),
        Step::ShrinkIncrementally => "PRAGMA incremental_vacuum(7)".to_owned(),
        Step::Mode(mode) => format!("PRAGMA journal_mode = {mode}"),
        Step::NewTable => format!("CREATE TABLE \"t {serial}\" AS SELECT * FROM plain"),
        Step::Capture => return,
    };
    let _ = connection.execute_batch(&sql);
}

/// Captures while a transaction may be open, which must not be in the image.
fn capture_and_compare(path: &Path) {
    let expected = serialized(path);
    let captured =
        capture_with(path, &options(CheckLevel::Quick), 65_536, Box::new(|_| {})).unwrap();
    assert!(captured.image == expected, "not what SQLite reads");
    let image = open_image(&captured.image);
    assert_eq!(integrity(&image), ["ok"]);
    for (table, rows) in captured.report.rows.unwrap() {
        assert_eq!(number(&image, &format!("SELECT count(*) FROM \"{table}\"")), rows as i64);
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND rootpage > 0";
    assert!(number(&image, tables) >= 7);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_image_is_the_state(shape in shapes(), steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = make(&path, &shape);
        let mut serial = 0;
        for step in &steps {
            apply(&connection, step, &mut serial);
            // With a rollback journal an open transaction keeps readers out once it spilled.
            let is_free = connection.is_autocommit() || is_wal(&connection);
            if matches!(step, Step::Capture) && is_free {
                capture_and_compare(&path);
            }
        }
        if !connection.is_autocommit() {
            connection.execute_batch("COMMIT").unwrap();
        }
        capture_and_compare(&path);
        drop(connection);
        capture_and_compare(&path);
    }
}

fn is_wal(connection: &Connection) -> bool {
    connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)).unwrap() == "wal"
}

#[allow(clippy::disallowed_methods)] // tests are told how long to run
fn cases() -> u32 {
    if std::env::var_os("LIFEBOAT_LONG").is_some() { 2_000 } else { 48 }
}
