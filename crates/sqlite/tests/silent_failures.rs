//! Failures that other tools report as success. Each test bears the number of its failure.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::Kind;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome, Method};
use lifeboat_core::source::{CaptureOptions, Engine};
use lifeboat_sqlite::SqliteEngine;
use rusqlite::Connection;

use support::child::{Other, Role};
use support::{capture, capture_error, capture_with, env, number, open_image, options, serialized};

fn method(method: Method) -> CaptureOptions {
    CaptureOptions { method, lock_ms_max: 300, ..options(CheckLevel::Quick) }
}

/// A database in WAL mode with 17,000 rows, all in its file.
fn chat(folder: &Path) -> PathBuf {
    let path = folder.join("chat.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT);
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 17000)
             INSERT INTO t(body) SELECT hex(randomblob(20)) FROM c;",
        )
        .unwrap();
    path
}

fn check_file(path: &Path, level: CheckLevel) -> lifeboat_core::source::CheckReport {
    SqliteEngine.check_file(&env(), path, level, 64 << 20).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn t01_t27_a_missing_database_is_an_error_and_is_never_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.db");
    for method_named in [Method::Online, Method::Checkpoint, Method::Cold] {
        let error = capture_error(&path, &method(method_named));
        assert_eq!(error.kind(), Kind::SourceUnavailable);
        assert!(error.message().contains("chat.db"), "{error:?}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn t02_t29_an_incomplete_checkpoint_is_an_error_that_names_who_holds_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("INSERT INTO t(body) VALUES ('a')").unwrap();
    let reader = Other::begin(&path, Role::Read);
    writer.execute_batch("INSERT INTO t(body) VALUES ('b')").unwrap();
    let error = capture_error(&path, &method(Method::Checkpoint));
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert!(error.message().contains("checkpoint incomplete"), "{error:?}");
    assert!(error.message().contains(&format!("process {}", reader.id())), "{error:?}");
    drop(reader);
    let captured = capture_with(&path, &method(Method::Checkpoint), 1 << 20, Box::new(|_| {}));
    let captured = captured.unwrap();
    assert!(captured.image == fs::read(&path).unwrap(), "after a checkpoint the file is all");
    assert_eq!(captured.report.rows.unwrap()["t"], 17_002);
}

#[test]
fn a_checkpoint_of_a_database_without_a_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    Connection::open(&path).unwrap().pragma_update(None, "journal_mode", "delete").unwrap();
    let error = capture_error(&path, &method(Method::Checkpoint));
    assert!(error.message().contains("not in WAL mode"), "{error:?}");
}

#[test]
fn t03_a_cold_copy_after_an_unclean_stop_has_the_rows_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    let writer = Other::begin(&path, Role::UncopiedRows);
    let error = capture_error(&path, &method(Method::Cold));
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert!(error.message().contains(&format!("process {}", writer.id())), "{error:?}");
    drop(writer);
    let before = fs::read(&path).unwrap();
    let captured = capture_with(&path, &method(Method::Cold), 1 << 20, Box::new(|_| {})).unwrap();
    assert_eq!(number(&open_image(&captured.image), "SELECT count(*) FROM t"), 20_000);
    assert_eq!(captured.report.rows.unwrap()["t"], 20_000);
    assert!(fs::read(&path).unwrap() == before, "the source was written to");
}

#[test]
fn t04_t16_a_damaged_index_fails_whatever_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let connection = Connection::open(&path).unwrap();
    // Rows go in while the schema does not know the index.
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE t(a); CREATE INDEX idx_tokens_ok ON t(a); INSERT INTO t VALUES (1);
             CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE type = 'index';
             PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE type = 'index';",
        )
        .unwrap();
    drop(connection);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "INSERT INTO t VALUES (2); PRAGMA writable_schema = ON;
             INSERT INTO sqlite_schema SELECT * FROM kept;",
        )
        .unwrap();
    drop(connection);
    let report = check_file(&path, CheckLevel::Full);
    assert_eq!(report.outcome, CheckOutcome::Failed);
    assert!(report.damage.iter().any(|line| line.contains("idx_tokens_ok")), "{report:?}");
    assert_eq!(report.what, ["integrity_check", "foreign_key_check"]);
    let captured = capture_with(&path, &options(CheckLevel::Full), 1 << 20, Box::new(|_| {}));
    let report = captured.unwrap().report.check.unwrap();
    assert_eq!(report.outcome, CheckOutcome::Failed);
    assert!(report.damage.iter().any(|line| line.contains("idx_tokens_ok")), "{report:?}");
}

/// SQLite forgets what tables demand of their rows where it may only read, and says "ok".
#[test]
fn a_row_that_breaks_a_check_is_damage_also_where_nothing_may_be_written() {
    for mode in ["wal", "delete"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode = {mode};
                 CREATE TABLE t(a INTEGER CONSTRAINT positive CHECK (a > 0), b TEXT,
                                CHECK (json_extract(b, '$.x') IS NOT 1));
                 INSERT INTO t VALUES (1, NULL), (NULL, '{{}}');"
            ))
            .unwrap();
        let levels = [CheckLevel::Quick, CheckLevel::Full];
        for level in levels {
            assert_eq!(check_file(&path, level).outcome, CheckOutcome::Passed, "{mode}");
        }
        let broken = |row: &str, line: &str| {
            let ignore = "PRAGMA ignore_check_constraints = ON; DELETE FROM t;";
            connection.execute_batch(&format!("{ignore} INSERT INTO t VALUES {row}")).unwrap();
            // The copy has no `-wal` beside it.
            let copy = folder.path().join("copy.db");
            fs::write(&copy, serialized(&path)).unwrap();
            let before = fs::read(&copy).unwrap();
            for level in levels {
                let report = check_file(&copy, level);
                assert_eq!(report.damage, [line], "{mode}: {row}");
                let live = capture_with(&path, &options(level), 1 << 20, Box::new(|_| {}));
                let live = live.unwrap().report.check.map(|report| report.damage);
                // Where its writers would wait, what was stored is checked instead.
                let found = (mode == "wal").then(|| vec![line.to_owned()]);
                assert_eq!(live, found, "{mode}: {row}");
            }
            assert!(fs::read(&copy).unwrap() == before, "what is checked is not altered");
        };
        broken("(-1, NULL)", "CHECK constraint failed in t: positive");
        broken(
            "(1, '{\"x\": 1}')",
            "CHECK constraint failed in t: json_extract(b, '$.x') IS NOT 1",
        );
        let malformed =
            "CHECK constraint failed in t: json_extract(b, '$.x') IS NOT 1: malformed JSON";
        broken("(1, '{')", malformed);
    }
}

#[test]
fn a_check_that_only_the_application_can_ask_is_told_and_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let sql = "CREATE TABLE t(a CHECK (a > 0), b); INSERT INTO t VALUES (1, 2);
               PRAGMA writable_schema = ON; UPDATE sqlite_schema SET
               sql = 'CREATE TABLE t(a CHECK (a > 0), b CHECK (is_known(b)))';";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let report = check_file(&path, CheckLevel::Full);
    assert_eq!(report.outcome, CheckOutcome::Partial, "{report:?}");
    assert_eq!(report.notes, ["table t was not asked is_known(b): no such function: is_known"]);
}

#[test]
fn t05_an_empty_file_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.db");
    fs::write(&path, "").unwrap();
    let error = capture_error(&path, &options(CheckLevel::None));
    assert_eq!(error.kind(), Kind::CheckFailed);
    assert!(error.message().contains("is empty"), "{error:?}");
    assert_eq!(check_file(&path, CheckLevel::Full).outcome, CheckOutcome::Failed);
    assert_eq!(check_file(&path, CheckLevel::Quick).outcome, CheckOutcome::Failed);
    assert_eq!(names(folder.path()), ["empty.db"]);
}

#[test]
fn t16_a_page_of_garbage_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[40 * 4096..41 * 4096].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    assert_eq!(check_file(&path, CheckLevel::Quick).outcome, CheckOutcome::Failed);
    let report = capture(&path).report;
    assert_eq!(report.check.unwrap().outcome, CheckOutcome::Failed);
    assert_eq!(report.rows.unwrap(), [].into(), "a broken table has no count");
    assert!(report.damage_seen[0].contains("could not be counted"));
}

#[test]
fn t25_the_source_is_as_it_was() {
    for mode in ["wal", "delete", "truncate", "persist"] {
        let folder = tempfile::tempdir().unwrap();
        let path = chat(folder.path());
        Connection::open(&path).unwrap().pragma_update(None, "journal_mode", mode).unwrap();
        let (before, names_before) = (fs::read(&path).unwrap(), names(folder.path()));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let captured = capture(&path);
        assert!(captured.image == before && fs::read(&path).unwrap() == before);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
        // SQLite's readers of a database in WAL mode leave an empty log and its index.
        let left: Vec<String> =
            names(folder.path()).into_iter().filter(|name| !names_before.contains(name)).collect();
        match mode {
            "wal" => {
                assert_eq!(left, ["chat.db-shm", "chat.db-wal"]);
                assert_eq!(fs::metadata(folder.path().join("chat.db-wal")).unwrap().len(), 0);
            }
            _ => assert_eq!(left, Vec::<String>::new()),
        }
    }
}

#[test]
fn t26_versions_mode_and_rowids_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA user_version = 41; PRAGMA application_id = 1234567;
             CREATE TABLE r(a); INSERT INTO r(rowid, a) VALUES (7, 'x'), (900, 'y');",
        )
        .unwrap();
    let captured = capture(&path);
    assert_eq!(captured.report.facts["user_version"], 41);
    assert_eq!(captured.report.facts["application_id"], 1_234_567);
    assert_eq!(captured.report.facts["journal_mode"], "wal");
    let restored = folder.path().join("restored.db");
    fs::write(&restored, &captured.image).unwrap();
    let restored = Connection::open(&restored).unwrap();
    assert_eq!(number(&restored, "PRAGMA user_version"), 41);
    assert_eq!(number(&restored, "PRAGMA application_id"), 1_234_567);
    assert_eq!(number(&restored, "SELECT max(rowid) FROM r"), 900);
    let mode: String = restored.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn t28_rows_of_the_log_alone_are_in_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = chat(folder.path());
    let writer = Other::begin(&path, Role::UncopiedRows);
    let captured = capture(&path);
    assert_eq!(captured.report.rows.unwrap()["t"], 20_000);
    assert_eq!(number(&open_image(&captured.image), "SELECT count(*) FROM t"), 20_000);
    drop(writer);
    assert!(captured.image == serialized(&path));
}
