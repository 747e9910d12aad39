//! The proof that nothing is wrong: what it takes for sound SQLite's own check does too, and what
//! that finds is not copied as if it were sound. `Outcome` asks SQLite of each new database.

use std::fs;

use lifeboat_salvage::Way;
use rusqlite::Connection;

use crate::world::{Dice, Sample};

/// Every kind of index that SQLite has.
const INDEXES: &str = "
CREATE TABLE word(id INTEGER PRIMARY KEY, a TEXT, b TEXT COLLATE NOCASE, n REAL, x BLOB,
  UNIQUE(b, n));
CREATE INDEX word_down ON word(a DESC, n);
CREATE INDEX word_trimmed ON word(a COLLATE RTRIM);
CREATE INDEX word_by_key ON word(x, id);
CREATE TABLE pair(k TEXT, l INTEGER, v TEXT, PRIMARY KEY(l DESC, k COLLATE NOCASE)) WITHOUT ROWID;
CREATE INDEX pair_value ON pair(v);
CREATE UNIQUE INDEX pair_unique ON pair(v, k) ;
CREATE TABLE sum(a INT, b INT AS (a * 2) STORED, c TEXT);
CREATE INDEX sum_stored ON sum(b);";

/// And those whose tables SQLite is asked about.
const ASKED: &str = "
CREATE TABLE odd(id INTEGER PRIMARY KEY, a INT, b TEXT, v INT AS (a + 1) VIRTUAL);
CREATE INDEX odd_part ON odd(a) WHERE a > 100;
CREATE INDEX odd_words ON odd(lower(b));
CREATE INDEX odd_virtual ON odd(v);
CREATE TABLE checked(id INTEGER PRIMARY KEY, a INT CHECK (a >= 0), b TEXT) STRICT;
CREATE TABLE late(id INTEGER PRIMARY KEY, a TEXT);";

fn fill(connection: &Connection, rows: i64) {
    let mut dice = Dice(9);
    for row in 0..rows {
        let long = if row % 50 == 0 { 900 } else { 1 };
        let text = format!("Wörd {} {}", dice.roll(400), " ".repeat(dice.roll(3))).repeat(long);
        let number = (dice.roll(4) > 0).then_some(row as f64 / [1.0, 4.0][row as usize % 2]);
        let blob = (row % 3 == 0).then(|| vec![row as u8; dice.roll(90)]);
        connection
            .execute(
                "INSERT INTO word VALUES(?1 * 3, ?2, ?2 || ?1, ?3, ?4)",
                (row, &text, number, blob),
            )
            .unwrap();
        let sql = "INSERT INTO pair VALUES(?2, ?1 / 7, ?2 || ?1) ON CONFLICT DO NOTHING";
        connection.execute(sql, (row, &text)).unwrap();
        connection.execute("INSERT INTO sum(a, c) VALUES(?1 % 90, ?2)", (row, &text)).unwrap();
    }
}

fn indexes(pragmas: &str) -> Sample {
    indexes_of(pragmas, 1_500)
}

/// A database with every kind of index, and so many rows in each table.
pub(crate) fn indexes_of(pragmas: &str, rows: i64) -> Sample {
    Sample::made(pragmas, |connection| {
        connection.execute_batch(INDEXES).unwrap();
        fill(connection, rows);
        // Free pages, and pages with free blocks.
        connection
            .execute_batch("DELETE FROM word WHERE id % 7 = 0; DROP INDEX word_down")
            .unwrap();
        connection.execute_batch("CREATE INDEX word_down ON word(a DESC, n)").unwrap();
    })
}

/// A database in which SQLite is asked about each table.
pub(crate) fn asked() -> Sample {
    Sample::made("", |connection| {
        connection.execute_batch(ASKED).unwrap();
        connection.execute_batch("CREATE VIRTUAL TABLE found USING fts5(body)").unwrap();
        for row in 0..800 {
            let values = (row, format!("Text {row}"));
            connection.execute("INSERT INTO odd(a, b) VALUES(?1, ?2)", values.clone()).unwrap();
            connection.execute("INSERT INTO checked(a, b) VALUES(?1, ?2)", values.clone()).unwrap();
            connection.execute("INSERT INTO late VALUES(?1, ?2)", values.clone()).unwrap();
            connection.execute("INSERT INTO found VALUES(?2 || ?1)", values).unwrap();
        }
        connection
            .execute_batch(
                "ALTER TABLE late ADD COLUMN b TEXT DEFAULT 'was not there';
                 ALTER TABLE late ADD COLUMN c; CREATE INDEX late_b ON late(b, c); ANALYZE",
            )
            .unwrap();
    })
}

#[track_caller]
fn is_copied(sample: &Sample) {
    let outcome = sample.salvage().unwrap().all_certain(sample);
    assert_eq!(outcome.report.way, Way::Copied);
    assert_eq!(fs::read(sample.to()).unwrap(), fs::read(&sample.path).unwrap());
}

/// Changes a database by SQLite itself, which is told to look away.
fn behind_its_back(sample: &Sample, sql: &str) {
    let connection = Connection::open(&sample.path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
}

/// An index that does not take part in what is done.
fn without_index(sample: &Sample, index: &str, sql: &str) {
    let hide = format!(
        "CREATE TEMP TABLE kept AS SELECT * FROM sqlite_schema WHERE name = '{index}';
         PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = '{index}'"
    );
    let connection = Connection::open(&sample.path).unwrap();
    connection.execute_batch(&hide).unwrap();
    let entry: (String, String, String, i64, Option<String>) = connection
        .query_row("SELECT * FROM kept", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .unwrap();
    connection.close().unwrap();
    behind_its_back(sample, sql);
    let connection = Connection::open(&sample.path).unwrap();
    connection.execute_batch("PRAGMA writable_schema = ON").unwrap();
    connection.execute("INSERT INTO sqlite_schema VALUES(?1, ?2, ?3, ?4, ?5)", entry).unwrap();
    connection.close().unwrap();
}

#[test]
fn sound_databases_with_indexes_of_all_kinds_are_copied() {
    for pragmas in [
        "PRAGMA page_size = 1024",
        "PRAGMA page_size = 512; PRAGMA encoding = 'UTF-16le'",
        "PRAGMA auto_vacuum = full",
        "PRAGMA journal_mode = WAL",
        "PRAGMA legacy_file_format = ON; PRAGMA page_size = 65536",
    ] {
        is_copied(&indexes(pragmas));
    }
    is_copied(&asked());
}

#[test]
fn an_index_that_lacks_a_row_or_has_one_too_many_is_not_sound() {
    type Damage = fn(&Sample);
    let damages: [Damage; 6] = [
        |sample| without_index(sample, "word_down", "DELETE FROM word WHERE id = 300"),
        |sample| without_index(sample, "word_trimmed", "UPDATE word SET a = 'new' WHERE id = 300"),
        |sample| without_index(sample, "pair_value", "UPDATE pair SET v = 'other' WHERE l = 20"),
        |sample| without_index(sample, "sum_stored", "INSERT INTO sum(a) VALUES(1)"),
        |sample| without_index(sample, "word_by_key", "UPDATE word SET x = x'00' WHERE id = 600"),
        |sample| {
            let swap = "UPDATE word SET a = (SELECT a FROM word w WHERE w.id = 906 - word.id)
                        WHERE id IN (300, 606)";
            without_index(sample, "word_down", swap);
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let sample = indexes("PRAGMA page_size = 2048");
        damage(&sample);
        let said = sample.ask::<String>("PRAGMA integrity_check(1)");
        assert_ne!(said, ["ok"], "damage {number} is none");
        let to = sample.to();
        let report = lifeboat_salvage::salvage(&crate::world::env(), &sample.request(&to)).unwrap();
        assert_eq!(report.way, Way::Rows, "damage {number}: {said:?}");
    }
}

#[test]
fn keys_that_are_there_twice_or_in_another_order_are_not_sound() {
    for (index, sql) in [
        ("word_twice", "UPDATE word SET x = x'07' WHERE id IN (300, 606)"),
        ("word_order", "UPDATE word SET x = x'07' WHERE id IN (300, 606)"),
    ] {
        let sample = indexes("");
        let made = format!("CREATE INDEX {index} ON word(x DESC, a)");
        behind_its_back(&sample, &made);
        let lie = match index {
            "word_twice" => "replace(sql, 'CREATE INDEX', 'CREATE UNIQUE INDEX')",
            _ => "replace(sql, 'DESC', '')",
        };
        behind_its_back(&sample, &format!("{sql}; UPDATE word SET a = 'x' WHERE x = x'07'"));
        behind_its_back(
            &sample,
            &format!(
                "PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = {lie} WHERE name = '{index}'"
            ),
        );
        assert_ne!(sample.ask::<String>("PRAGMA integrity_check(1)"), ["ok"], "{index}");
        let to = sample.to();
        let report = lifeboat_salvage::salvage(&crate::world::env(), &sample.request(&to)).unwrap();
        assert_eq!(report.way, Way::Rows, "{index}");
    }
}

#[test]
fn pages_that_nothing_uses_and_checks_that_fail_are_not_sound() {
    let sample = indexes("");
    behind_its_back(
        &sample,
        "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'word_trimmed'",
    );
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.report.way, Way::Rows);
    assert_eq!(outcome.content, sample.truth);
    let sample = Sample::made("", |connection| {
        connection
            .execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT CHECK (a < 9)); INSERT INTO t \
                 VALUES(1, 2); PRAGMA ignore_check_constraints = ON; INSERT INTO t VALUES(2, 70)",
            )
            .unwrap();
    });
    assert_ne!(sample.ask::<String>("PRAGMA integrity_check(1)"), ["ok"]);
    let to = sample.to();
    let report = lifeboat_salvage::salvage(&crate::world::env(), &sample.request(&to)).unwrap();
    assert_eq!(report.way, Way::Rows);
}

/// One change each, wherever it may be: whatever is copied is what SQLite calls sound.
#[test]
fn nothing_is_called_sound_that_sqlite_does_not() {
    let sample = indexes("PRAGMA page_size = 512");
    let sound = fs::read(&sample.path).unwrap();
    let (mut copied, rounds) = (0, crate::world::rounds(60, 4_000));
    for round in 0..rounds {
        let mut dice = Dice(round * 15_485_863 + 3);
        let mut bytes = sound.clone();
        let at = match dice.roll(3) {
            0 => dice.roll(100),
            1 => dice.roll(bytes.len() / 512) * 512 + dice.roll(40),
            _ => dice.roll(bytes.len()),
        };
        bytes[at] ^= 1 << dice.roll(8);
        fs::write(&sample.path, &bytes).unwrap();
        let to = sample.to();
        let _ = fs::remove_file(&to);
        let report = lifeboat_salvage::salvage(&crate::world::env(), &sample.request(&to));
        let Ok(report) = report else { continue };
        if report.way == Way::Copied {
            copied += 1;
            let connection = Connection::open(&to).unwrap();
            let said: String =
                connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).unwrap();
            assert_eq!(said, "ok", "round {round}, byte {at}");
        }
    }
    assert!(copied < rounds / 2, "{copied} of {rounds} changes are seen by nobody");
}
