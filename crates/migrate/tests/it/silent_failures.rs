//! What another tool loses with exit code 0: here it arrives, or it is said before anything is
//! loaded.

use lifeboat_core::Kind;
use lifeboat_migrate::{Misfits, Options, Orphans};

use crate::support::Pair;

const MAJORS: &[u32] = &[15, 18];

/// One boolean of 2: the rows of all batches were lost.
#[test]
fn t39_a_boolean_of_2_loses_no_row() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t39",
            "CREATE TABLE \"User\"(id INTEGER PRIMARY KEY, \"userName\" TEXT, deleted BOOLEAN);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20002)
             INSERT INTO \"User\" SELECT i, 'u' || i, i % 2 FROM n;
             UPDATE \"User\" SET deleted = 2 WHERE id = 77;
             CREATE TABLE sound(id INTEGER PRIMARY KEY, ok BOOLEAN DEFAULT 1);
             INSERT INTO sound VALUES (1, 0), (2, 1), (3, NULL)",
        );
        assert_eq!(pair.migrated(Options::default()).rows(), 20_005);
        assert_eq!(pair.ask("SELECT count(*), max(deleted) FROM \"User\""), ["20002|2"]);
        let rows = pair.ask("SELECT id, ok FROM sound ORDER BY id");
        assert_eq!(rows, ["1|f", "2|t", "3|∅"]);
        pair.ask("INSERT INTO sound(id) VALUES (9)");
        assert_eq!(pair.ask("SELECT ok FROM sound WHERE id = 9"), ["t"]);
    }
}

/// One NUL byte or bad UTF-8: 129 of 300,000 rows were left.
#[test]
fn t40_nul_bytes_and_bad_utf8_are_refused_widened_or_put_aside() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t40",
            "CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT);
             INSERT INTO kv VALUES (1, 'plain'), (2, 'a' || char(0) || 'b'),
               (3, CAST(x'ff' AS TEXT)), (4, CAST(x'eda080' AS TEXT)), (5, '')",
        );
        let before = pair.objects();
        let plan = pair.plan(Options::default()).unwrap();
        assert_eq!(plan.refused(), 3);
        let text = plan.text();
        for line in ["rowid 2: ", "rowid 3: ", "rowid 4: ", "not UTF-8", "a NUL byte in a text"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(pair.migrate(Options::default()).err().unwrap().kind(), Kind::Refused);
        assert_eq!(pair.objects(), before);

        let put_aside = Options { misfits: Misfits::Quarantine, ..Options::default() };
        let done = pair.migrated(put_aside);
        assert_eq!((done.rows(), done.rejected()), (2, 3));
        let query = "SELECT row_name, encode(value, 'hex'), reason FROM _lifeboat_rejects \
                     WHERE column_name = 'v' ORDER BY row_name";
        assert_eq!(
            pair.ask(query),
            [
                "rowid 2|610062|a NUL byte in a text",
                "rowid 3|ff|not UTF-8",
                "rowid 4|eda080|not UTF-8"
            ]
        );

        let pair = Pair::new(*major, "t40", &pair_statements(&pair));
        let widened = Options { misfits: Misfits::Widen, ..Options::default() };
        assert_eq!(pair.migrated(widened).rows(), 5);
        assert_eq!(
            pair.ask("SELECT encode(v, 'hex') FROM kv WHERE k IN (2, 4) ORDER BY k"),
            ["610062", "eda080"]
        );
    }
}

/// The same again.
fn pair_statements(pair: &Pair) -> String {
    format!(
        "ATTACH '{}' AS old; CREATE TABLE kv(k INTEGER PRIMARY KEY, v TEXT);
         INSERT INTO kv SELECT * FROM old.kv",
        pair.path().display()
    )
}

/// A value beyond 32 bits emptied its table; sequences began below ids once given out.
#[test]
fn t41_t46_integers_have_64_bits_and_no_id_is_given_twice() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t41",
            "CREATE TABLE big(id INTEGER PRIMARY KEY AUTOINCREMENT, n INT, s SMALLINT);
             INSERT INTO big VALUES (1, 9223372036854775807, 70000), (2, -9223372036854775808, 0),
               (1000000, 0, 0);
             DELETE FROM big WHERE id = 1000000;
             CREATE TABLE plain(id INTEGER PRIMARY KEY, n INT); INSERT INTO plain VALUES (41, 1);
             CREATE TABLE empty(id INTEGER PRIMARY KEY)",
        );
        pair.migrated(Options::default());
        assert_eq!(
            pair.ask("SELECT n, s FROM big ORDER BY id"),
            ["9223372036854775807|70000", "-9223372036854775808|0"]
        );
        assert_eq!(pair.ask("INSERT INTO big(n) VALUES (1) RETURNING id"), ["1000001"]);
        assert_eq!(pair.ask("INSERT INTO plain(n) VALUES (1) RETURNING id"), ["42"]);
        assert_eq!(pair.ask("INSERT INTO empty DEFAULT VALUES RETURNING id"), ["1"]);
    }
}

/// NOT NULL, CHECK, partial and NOCASE indexes, views and triggers vanished unsaid.
#[test]
fn t42_what_a_schema_promises_is_kept_or_said() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t42",
            "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE UNIQUE,
               age INT CHECK (age >= 0 AND age < 150), gone BOOLEAN NOT NULL DEFAULT 0,
               made TEXT DEFAULT (datetime('now')), updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
               odd TEXT CHECK (json_valid(odd) OR odd IS NULL));
             CREATE INDEX living ON person(age DESC) WHERE gone = 0;
             CREATE INDEX lowered ON person(lower(name));
             CREATE VIEW adults AS SELECT id, name FROM person WHERE age >= 18;
             CREATE VIEW recent AS SELECT id, age FROM person ORDER BY age LIMIT 5;
             CREATE VIEW old AS SELECT id AS number, count(*) AS n FROM person WHERE age > 60 GROUP BY id;
             CREATE TRIGGER touch AFTER UPDATE ON person BEGIN
               UPDATE person SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id; END;
             CREATE TRIGGER guard BEFORE DELETE ON person BEGIN SELECT RAISE(ABORT, 'no'); END;
             INSERT INTO person(id, name, age, updated_at) VALUES (1, 'Ann', 30, '2020-01-01 00:00:00')",
        );
        let plan = pair.plan(Options::default()).unwrap();
        let text = plan.text();
        for said in
            ["json_valid", "view recent", "view adults", "trigger guard", "RAISE(ABORT, 'no')"]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
        let done = pair.migrated(Options::default());
        assert_eq!(done.refused(), 0, "{}", done.text());
        for (statement, why) in [
            ("INSERT INTO person(name) VALUES (NULL)", "null value"),
            ("INSERT INTO person(name) VALUES ('ANN')", "duplicate key"),
            ("INSERT INTO person(name, age) VALUES ('Bob', 150)", "check constraint"),
        ] {
            let said = pair.refused(statement).unwrap_or_default();
            assert!(said.contains(why), "{statement}: {said}");
        }
        let indexes = pair.ask("SELECT indexdef FROM pg_indexes WHERE indexname = 'living'");
        assert!(
            indexes[0].contains("age DESC") && indexes[0].contains("WHERE (gone = false)"),
            "{indexes:?}"
        );
        assert_eq!(pair.ask("SELECT number, n FROM old"), Vec::<String>::new());
        pair.ask("UPDATE person SET age = 31");
        assert_eq!(pair.ask("SELECT updated_at > '2021-01-01' FROM person"), ["t"]);
        let comment = pair.ask("SELECT obj_description('person'::regclass)");
        assert!(comment[0].contains("json_valid"), "{comment:?}");
        let made = pair.ask("INSERT INTO person(name) VALUES ('Cid') RETURNING made ~ '^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d$'");
        assert_eq!(made, ["t"]);
    }
}

/// Generated columns vanished with their data; REAL became 4 bytes.
#[test]
fn t43_t44_generated_columns_and_reals_are_exact() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t43",
            "CREATE TABLE g(a INT, b TEXT, len INT AS (length(b)) STORED,
               up TEXT GENERATED ALWAYS AS (upper(b)) VIRTUAL, odd TEXT AS (printf('%03d', a)) STORED);
             INSERT INTO g(a, b) VALUES (1, 'höflich'), (7, NULL), (3, '');
             CREATE TABLE r(id INTEGER PRIMARY KEY, x REAL, f FLOAT);
             INSERT INTO r VALUES (1, 0.580852084350056, 0.1), (2, 9e999, -9e999), (3, -0.0, 5e-324),
               (4, 1.7976931348623157e308, 3)",
        );
        pair.migrated(Options::default());
        assert_eq!(
            pair.ask("SELECT len, up, odd FROM g ORDER BY a"),
            ["7|HöFLICH|001", "0||003", "∅|∅|007"]
        );
        assert!(pair.refused("INSERT INTO g(len) VALUES (1)").is_some());
        assert_eq!(
            pair.ask("SELECT x, f FROM r ORDER BY id"),
            [
                "0.580852084350056|0.1",
                "Infinity|-Infinity",
                "0|5e-324",
                "1.7976931348623157e+308|3"
            ]
        );
    }
}

/// Foreign keys that fail were skipped unsaid.
#[test]
fn t45_orphans_are_named_and_refused_or_loaded_as_asked() {
    for major in MAJORS {
        let pair = Pair::new(
            *major,
            "t45",
            "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
             CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE,
               self INT REFERENCES c(id) DEFERRABLE INITIALLY DEFERRED);
             PRAGMA foreign_keys = OFF;
             INSERT INTO c VALUES (1, 1, 2), (2, 99, NULL), (3, NULL, 1)",
        );
        let plan = pair.plan(Options::default()).unwrap();
        assert_eq!(plan.orphaned(), 1);
        assert!(plan.text().contains("leads nowhere in p: rowid 2"), "{}", plan.text());
        let error = pair.migrate(Options::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        let kept = Options { orphans: Orphans::NotValid, ..Options::default() };
        pair.migrated(kept);
        let keys = pair.ask(
            "SELECT convalidated, condeferred, confdeltype FROM pg_constraint WHERE contype = 'f' \
             ORDER BY convalidated",
        );
        assert_eq!(keys, ["f|f|c", "t|t|a"]);
        assert!(pair.refused("INSERT INTO c VALUES (5, 98, NULL)").is_some());
    }
}
