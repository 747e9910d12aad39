//! Databases of every shape beside changed copies of themselves.

use std::sync::Arc;

use lifeboat_core::diff::{Difference, Value};
use lifeboat_core::env::{Clock, Random};
use rusqlite::Connection;

use super::*;

struct Still;

impl Clock for Still {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

impl Random for Still {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(1);
    }
}

fn compared(sql: &str, change: &str) -> Comparison {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.db", "b.db"].map(|name| folder.path().join(name));
    for (index, path) in paths.iter().enumerate() {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(sql).unwrap();
        if index == 1 {
            connection.execute_batch(change).unwrap();
        }
    }
    let [mut a, mut b] = paths.map(|path| Probe::open(&path).unwrap());
    let env = Env::new(Arc::new(Still), Arc::new(Still), "host".to_owned());
    compare(&env, &mut a, &mut b, &[], 10).unwrap()
}

fn of<'a>(comparison: &'a Comparison, name: &str) -> &'a Difference {
    let table = comparison.tables.iter().find(|table| table.name == name).unwrap();
    match &table.outcome {
        TableOutcome::Compared { difference, .. } => difference,
        other => panic!("{name}: {other:?}"),
    }
}

fn counts(comparison: &Comparison, name: &str) -> (u64, u64, u64, u64) {
    let difference = of(comparison, name);
    (difference.only_a, difference.only_b, difference.changed, difference.same)
}

const SHAPES: &str = "
    CREATE TABLE ipk(id INTEGER PRIMARY KEY, x, y);
    CREATE TABLE word(w TEXT PRIMARY KEY, n);
    CREATE TABLE pair(a TEXT, b INT, v, PRIMARY KEY(b, a)) WITHOUT ROWID;
    CREATE TABLE bare(x);
    CREATE TABLE folded(w TEXT COLLATE NOCASE PRIMARY KEY, n);
    CREATE TABLE made(id INTEGER PRIMARY KEY, x, y AS (x + 1), z AS (x + 2) STORED);
    CREATE TABLE down(id INTEGER PRIMARY KEY DESC, x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO ipk SELECT i, 'x' || i, i * 1.5 FROM n;
    INSERT INTO word SELECT x, id FROM ipk;
    INSERT INTO word VALUES(NULL, 1), (NULL, 2), (7, 3), (7.5, 4), (x'00ff', 5);
    INSERT INTO pair SELECT x, id % 10, y FROM ipk;
    INSERT INTO bare SELECT x FROM ipk;
    INSERT INTO folded SELECT char(65 + id % 26 + 32 * (id % 2)) || id, id FROM ipk;
    INSERT INTO made(id, x) SELECT id, id FROM ipk;
    INSERT INTO down SELECT id, x FROM ipk;";

#[test]
fn equal_databases_are_the_same_whatever_their_shape() {
    for pragma in ["", "PRAGMA encoding = 'UTF-16le';", "PRAGMA encoding = 'UTF-16be';"] {
        let comparison = compared(&format!("{pragma}{SHAPES}"), "");
        assert!(!comparison.differs(), "{pragma} {comparison:?}");
        assert_eq!(comparison.tables.len(), 7);
        assert_eq!(counts(&comparison, "word"), (0, 0, 0, 2_005));
    }
}

#[test]
fn each_change_is_found_in_tables_of_every_shape() {
    let comparison = compared(
        SHAPES,
        "DELETE FROM ipk WHERE id IN (1, 2000); INSERT INTO ipk VALUES(5000, 'new', 1);
         UPDATE ipk SET y = 1 WHERE id = 7;
         DELETE FROM word WHERE w = 'x10' OR w IS NULL AND n = 2; UPDATE word SET n = 9 WHERE w = 7;
         UPDATE pair SET v = 'w' WHERE b = 3; DELETE FROM pair WHERE a = 'x20';
         DELETE FROM bare WHERE rowid = 5; UPDATE bare SET x = 1 WHERE rowid = 6;
         UPDATE folded SET n = -1 WHERE n = 100;
         UPDATE made SET x = 0 WHERE id = 3; DELETE FROM down WHERE id = 1",
    );
    assert_eq!(counts(&comparison, "ipk"), (2, 1, 1, 1_997));
    assert_eq!(counts(&comparison, "word"), (2, 0, 1, 2_002));
    assert_eq!(counts(&comparison, "pair"), (1, 0, 200, 1_799));
    assert_eq!(counts(&comparison, "bare"), (1, 0, 1, 1_998));
    assert_eq!(counts(&comparison, "folded"), (0, 0, 1, 1_999));
    assert_eq!(counts(&comparison, "made"), (0, 0, 1, 1_999));
    assert_eq!(counts(&comparison, "down"), (1, 0, 0, 1_999));
    assert_eq!(of(&comparison, "ipk").columns, [0, 0, 1]);
    assert_eq!(of(&comparison, "made").columns, [0, 1], "generated columns follow");
    assert!(comparison.schema.is_empty());
}

#[test]
fn kinds_of_values_are_not_the_same_although_they_are_equal() {
    let comparison = compared(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
         INSERT INTO t VALUES(1, 1), (2, 'a'), (3, NULL), (4, 0.5)",
        "UPDATE t SET x = 1.0 WHERE id = 1; UPDATE t SET x = x'61' WHERE id = 2;
         UPDATE t SET x = '' WHERE id = 3",
    );
    assert_eq!(counts(&comparison, "t"), (0, 0, 3, 1));
    let row = &of(&comparison, "t").rows[1];
    assert_eq!(row.a.as_ref().unwrap()[1], Value::Text(b"a".to_vec()));
    assert_eq!(row.b.as_ref().unwrap()[1], Value::Blob(b"a".to_vec()));
}

#[test]
fn schemas_that_differ_are_told_and_what_both_have_is_compared() {
    let comparison = compared(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 'a'), (2, 'b');
         CREATE INDEX i ON t(x); CREATE TABLE gone(x); INSERT INTO gone VALUES(1)",
        "ALTER TABLE t ADD COLUMN y DEFAULT 3; DROP INDEX i; DROP TABLE gone;
         CREATE VIEW v AS SELECT 1; UPDATE t SET x = 'c' WHERE id = 2",
    );
    assert_eq!(counts(&comparison, "t"), (0, 0, 1, 1));
    let schema: Vec<String> = comparison
        .schema
        .iter()
        .map(|it| format!("{} {} {}", it.place.word(), it.kind, it.name))
        .collect();
    assert_eq!(schema, ["only_a table gone", "changed table t", "only_a index i", "only_b view v"]);
    let gone = &comparison.tables[0];
    assert!(matches!(gone.outcome, TableOutcome::OnlyA { rows: 1 }), "{gone:?}");
}

#[test]
fn a_search_index_is_compared_where_its_rows_lie() {
    let comparison = compared(
        "CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('one'), ('two')",
        "INSERT INTO words VALUES('three')",
    );
    assert_eq!(counts(&comparison, "words_content"), (0, 1, 0, 2));
    assert!(comparison.tables.iter().all(|table| table.name != "words"));
    assert_eq!(comparison.not_compared(), 0);
}
