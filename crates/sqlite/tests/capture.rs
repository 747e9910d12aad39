//! Captures of databases of every shape, compared with SQLite's own view of them.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod support;

use std::fs;
use std::path::Path;

use lifeboat_core::Kind;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use rusqlite::Connection;

use support::{capture, capture_error, capture_with, number, open_image, options, serialized};

fn database(path: &Path, pragmas: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(pragmas).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT);
             CREATE TABLE word(text TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
             CREATE TABLE empty(a);
             CREATE INDEX note_body ON note(body);
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000)
             INSERT INTO note SELECT i, printf('%d %s', i, hex(randomblob(i % 90))) FROM c;
             INSERT INTO word SELECT body, id FROM note;
             DELETE FROM note WHERE id % 5 = 0;
             PRAGMA user_version = 12;",
        )
        .unwrap();
    connection
}

fn compare(path: &Path, writer: &Connection) {
    let expected = serialized(path);
    let captured = capture(path);
    assert!(captured.image == expected, "not what SQLite reads");
    assert_eq!(captured.bytes_estimated, expected.len() as u64);
    let rows = captured.report.rows.unwrap();
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["empty", "note", "word"]);
    for (table, count) in rows {
        assert_eq!(number(writer, &format!("SELECT count(*) FROM {table}")), count as i64);
    }
    assert_eq!(captured.report.schema_version.unwrap().version, "12");
    assert_eq!(captured.report.warnings, Vec::<String>::new());
}

#[test]
fn every_page_size_in_both_modes() {
    for page_size in [512, 1024, 4096, 65536] {
        for (mode, checked) in [("wal", true), ("delete", false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a b.db");
            let pragmas = format!("PRAGMA page_size = {page_size}; PRAGMA journal_mode = {mode};");
            let writer = database(&path, &pragmas);
            compare(&path, &writer);
            let report = capture(&path).report;
            assert_eq!(report.check.is_some(), checked);
            assert_eq!(report.check_deferred.is_some(), !checked);
            if let Some(check) = report.check {
                assert_eq!(check.outcome, CheckOutcome::Passed);
                assert_eq!(check.what, ["quick_check"]);
            }
            assert_eq!(report.facts["page_size"], page_size);
            assert_eq!(report.facts["user_version"], 12);
        }
    }
}

#[test]
fn encodings_and_auto_vacuum() {
    for pragmas in [
        "PRAGMA encoding = 'UTF-16le'; PRAGMA journal_mode = wal;",
        "PRAGMA encoding = 'UTF-16be'; PRAGMA auto_vacuum = full;",
        "PRAGMA auto_vacuum = incremental; PRAGMA journal_mode = wal;",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let writer = database(&path, pragmas);
        compare(&path, &writer);
    }
}

#[test]
fn a_missing_path_is_never_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t01.db");
    let error = capture_error(&path, &options(CheckLevel::Quick));
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert!(error.message().contains("t01.db"), "{error:?}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn small_batches_give_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let _writer = database(&path, "PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;");
    let expected = serialized(&path);
    let captured = capture_with(&path, &options(CheckLevel::Full), 4096, Box::new(|_| {})).unwrap();
    assert!(captured.image == expected);
    assert_eq!(captured.report.check.unwrap().outcome, CheckOutcome::Passed);
    assert_eq!(number(&open_image(&captured.image), "SELECT count(*) FROM note"), 2400);
}
