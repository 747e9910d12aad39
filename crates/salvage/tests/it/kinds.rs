//! Every kind of database and of table that SQLite has, row by row.

use lifeboat_salvage::Way;
use rusqlite::Connection;

use crate::world::{Outcome, Sample};

/// Damages only the count of free pages, so that the database goes row by row.
fn row_by_row(sample: &Sample) -> Outcome {
    sample.damage(|bytes| bytes[39] ^= 0x40);
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.report.way, Way::Rows);
    outcome
}

fn pragma<T: rusqlite::types::FromSql>(sample: &Sample, name: &str) -> T {
    let connection = Connection::open(sample.to()).unwrap();
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn page_sizes_encodings_and_modes() {
    for pragmas in [
        "PRAGMA page_size = 512",
        "PRAGMA page_size = 1024; PRAGMA encoding = 'UTF-16le'",
        "PRAGMA page_size = 65536; PRAGMA encoding = 'UTF-16be'",
        "PRAGMA auto_vacuum = full",
        "PRAGMA auto_vacuum = incremental; PRAGMA page_size = 2048",
        "PRAGMA journal_mode = WAL",
    ] {
        let sample = Sample::chat(
            &format!("{pragmas}; PRAGMA user_version = 77; PRAGMA application_id = -5"),
            400,
        );
        row_by_row(&sample).all_certain(&sample);
        assert_eq!(pragma::<i64>(&sample, "page_size"), sample.page_size as i64, "{pragmas}");
        assert_eq!(pragma::<i64>(&sample, "user_version"), 77);
        assert_eq!(pragma::<i64>(&sample, "application_id"), -5);
        let encoding: String = pragma(&sample, "encoding");
        assert!(encoding == "UTF-8" || pragmas.contains(&encoding), "{encoding}");
        let auto_vacuum: i64 = pragma(&sample, "auto_vacuum");
        assert_eq!(auto_vacuum > 0, pragmas.contains("auto_vacuum"));
        let connection = Connection::open(sample.to()).unwrap();
        let kinds = "SELECT count(*) FROM sqlite_schema WHERE name IN
                     ('message_by_channel', 'recent', 'no_empty')";
        assert_eq!(connection.query_row(kinds, [], |row| row.get::<_, i64>(0)), Ok(3));
        let next = "INSERT INTO User(nick) VALUES('new') RETURNING id";
        assert_eq!(connection.query_row(next, [], |row| row.get::<_, i64>(0)), Ok(201));
    }
}

#[test]
fn tables_of_every_kind() {
    let sample = Sample::made("", |connection| {
        connection
            .execute_batch(
                "CREATE TABLE plain(a, b TEXT, c INTEGER, d REAL, e BLOB, f NUMERIC);
                 CREATE TABLE strict_one(id INTEGER PRIMARY KEY, n INT, t TEXT, a ANY) STRICT;
                 CREATE TABLE computed(a INT, b INT AS (a * 2) STORED, c INT AS (a + 1), d TEXT);
                 CREATE TABLE descending(id INTEGER PRIMARY KEY DESC, a);
                 CREATE TABLE all_names(rowid, _rowid_, oid, a);
                 CREATE TABLE without_one(a INT, b TEXT, c, PRIMARY KEY(b, a DESC)) WITHOUT ROWID;
                 CREATE TABLE \"odd \"\" name\"(\"a \"\" b\" INTEGER PRIMARY KEY, \"select\" TEXT);
                 CREATE TABLE empty_one(a, b);
                 CREATE TABLE short_rows(id INTEGER PRIMARY KEY, a);
                 CREATE TABLE checked(a INTEGER CHECK (a > 0), b TEXT COLLATE NOCASE UNIQUE);
                 CREATE VIRTUAL TABLE words USING fts5(body);
                 INSERT INTO words VALUES('some words'), ('other words');
                 CREATE VIRTUAL TABLE places USING rtree(id, x0, x1);
                 INSERT INTO places VALUES(1, 2, 3), (2, 4, 5)",
            )
            .unwrap();
        for index in 0..500_i64 {
            let text = format!("text {index} ☂").repeat(1 + index as usize % 7 * 40);
            connection
                .execute(
                    "INSERT INTO plain VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                    (index, &text, index << (index % 60), index as f64, text.as_bytes(), "12.5"),
                )
                .unwrap();
            for sql in [
                "INSERT INTO strict_one VALUES(?1, ?1 * 7, ?2, ?2)",
                "INSERT INTO computed(a, d) VALUES(?1, ?2)",
                "INSERT INTO descending VALUES(-?1, ?2)",
                "INSERT INTO all_names VALUES(?1, 'x', NULL, ?2)",
                "INSERT INTO without_one VALUES(?1, ?2, NULL)",
                "INSERT INTO \"odd \"\" name\" VALUES(?1 * 1000000007, ?2)",
                "INSERT INTO short_rows VALUES(?1, ?2)",
                "INSERT INTO checked VALUES(?1 + 1, ?2)",
            ] {
                connection.execute(sql, (index, &text)).unwrap();
            }
        }
        connection
            .execute_batch(
                "ALTER TABLE short_rows ADD COLUMN b TEXT NOT NULL DEFAULT 'it''s';
                 ALTER TABLE short_rows ADD COLUMN c DEFAULT 7; DELETE FROM plain WHERE c % 3 = 0",
            )
            .unwrap();
    });
    let outcome = row_by_row(&sample);
    // Rowids of the table that hides all their names cannot be given.
    let values = |content: &crate::world::Content| -> Vec<String> {
        content["all_names"].values().cloned().collect()
    };
    assert_eq!(values(&outcome.content).len(), values(&sample.truth).len());
    for (table, rows) in sample.truth.iter().filter(|(table, _)| *table != "all_names") {
        assert_eq!(&outcome.content[table], rows, "{table}");
    }
    assert!(outcome.report.is_whole(), "{:#?}", outcome.report);
    let connection = Connection::open(sample.to()).unwrap();
    let found = "SELECT count(*) FROM words WHERE words MATCH 'words'";
    assert_eq!(connection.query_row(found, [], |row| row.get::<_, i64>(0)), Ok(2));
    let found = "SELECT count(*) FROM places WHERE x0 > 3";
    assert_eq!(connection.query_row(found, [], |row| row.get::<_, i64>(0)), Ok(1));
}

#[test]
fn texts_that_are_none_are_kept_as_they_are_and_named() {
    let sample = Sample::made("", |connection| {
        connection
            .execute_batch(
                "CREATE TABLE latin(id INTEGER PRIMARY KEY, t TEXT);
                 INSERT INTO latin VALUES(1, 'sound'), (2, CAST(x'e97e' AS TEXT)), (3, 'x')",
            )
            .unwrap();
    });
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.content, sample.truth);
    let total = outcome.report.total();
    assert_eq!((total.certain, total.uncertain), (2, 1), "SQLite finds nothing wrong with it");
    assert!(outcome.marked.contains(&("latin".to_owned(), "2".to_owned())));
}

#[test]
fn rows_that_were_deleted_come_only_when_asked_for() {
    let sample = Sample::chat("", 2_000);
    let connection = Connection::open(&sample.path).unwrap();
    let sql = format!("DELETE FROM Message WHERE id > {}", crate::world::FIRST_ID + 1_000 * 4096);
    connection.execute_batch(&sql).unwrap();
    let now = crate::world::content(&connection);
    connection.close().unwrap();
    let before = sample.truth.clone();
    let sample = Sample { truth: now, ..sample };
    row_by_row(&sample).all_certain(&sample);
    let sample = Sample { truth: before, ..sample };
    let outcome = sample
        .salvage_by(|request| lifeboat_salvage::Request { deleted: true, ..request })
        .unwrap();
    let exact = outcome.exact(&sample, "Message");
    assert!(exact > 1_800, "{exact} rows");
    assert!(outcome.report.total().uncertain > 800);
}
