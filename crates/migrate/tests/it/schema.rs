//! Keys, names and tables of every kind.

use lifeboat_core::Kind;
use lifeboat_migrate::{Misfits, NameStyle, Options, Orphans};

use crate::support::Pair;

#[test]
fn tables_of_every_kind_arrive() {
    for major in [15, 18] {
        let pair = Pair::new(
            major,
            "kinds",
            "PRAGMA foreign_keys = OFF; CREATE TABLE w(k TEXT, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;
             CREATE TABLE s(id INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT;
             CREATE TABLE \"select\"(\"from\" INTEGER, \"a b\" TEXT, \"é\" TEXT, PRIMARY KEY(\"from\"));
             CREATE TABLE nullkey(k TEXT PRIMARY KEY, v); CREATE TABLE nokey(a, b);
             CREATE TABLE a(id INTEGER PRIMARY KEY, b INT REFERENCES b(id));
             CREATE TABLE b(id INTEGER PRIMARY KEY, a INT REFERENCES a(id));
             CREATE TABLE code(c TEXT UNIQUE COLLATE RTRIM, d TEXT, UNIQUE(d, c));
             CREATE VIRTUAL TABLE docs USING fts5(title, body);
             CREATE TABLE empty(x);
             INSERT INTO w VALUES ('a', 1, 'x'), ('a', 2, NULL);
             INSERT INTO s VALUES (1, 'x', 'y'), (2, 3, 'z');
             INSERT INTO \"select\" VALUES (1, 'x', 'y');
             INSERT INTO nullkey VALUES (NULL, 1), (NULL, 2), ('k', 3);
             INSERT INTO nokey VALUES (1, 'x'), (1, 'x'), (NULL, NULL);
             INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1);
             INSERT INTO code VALUES ('x', 'y'); INSERT INTO docs VALUES ('one', 'two');",
        );
        let done = pair.migrated(Options::default());
        assert_eq!(done.tables.len(), 10, "{}", done.text());
        assert_eq!(pair.ask("SELECT \"a b\", \"é\" FROM \"select\""), ["x|y"]);
        assert_eq!(pair.ask("SELECT title, body FROM docs"), ["one|two"]);
        assert!(pair.refused("INSERT INTO w VALUES ('a', 1, NULL)").unwrap().contains("duplicate"));
        assert!(
            pair.refused("INSERT INTO nullkey VALUES ('k', '9')").unwrap().contains("duplicate")
        );
        assert!(
            pair.refused("INSERT INTO code VALUES ('x  ', 'z')").unwrap().contains("duplicate")
        );
        assert_eq!(pair.ask("SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), ["2"]);
        let text = pair.plan(Options::default()).unwrap().text();
        assert!(
            text.contains("virtual table docs (fts5)") && text.contains("to_tsvector"),
            "{text}"
        );
    }
}

/// SQLite compares the integer 7 with the key '7' as texts.
#[test]
fn a_key_of_another_kind_and_a_key_whose_row_was_put_aside() {
    let pair = Pair::new(
        18,
        "follows",
        "PRAGMA foreign_keys = OFF; CREATE TABLE p(id TEXT PRIMARY KEY, x INT);
         CREATE TABLE c(p INTEGER REFERENCES p(id), note TEXT DEFAULT 'none');
         INSERT INTO p VALUES ('7', 1), ('8', 'word'); INSERT INTO c VALUES (7, 'a'), (8, x'00')",
    );
    let put_aside = Options { misfits: Misfits::Quarantine, ..Options::default() };
    pair.sqlite().execute_batch("INSERT INTO c VALUES (8, 'b')").unwrap();
    let error = pair.migrate(put_aside.clone()).err().unwrap();
    assert!(error.hint_text().unwrap().contains("--orphans not-valid"), "{error:?}");
    let done = pair.migrated(Options { orphans: Orphans::NotValid, ..put_aside });
    assert_eq!((done.rows(), done.rejected(), done.refused()), (3, 2, 1), "{}", done.text());
    let keys = pair.ask("SELECT convalidated FROM pg_constraint WHERE contype = 'f'");
    assert_eq!(keys, ["f"]);
    assert!(pair.refused("INSERT INTO c VALUES ('9', 'x')").unwrap().contains("foreign key"));
}

#[test]
fn names_are_kept_folded_or_both() {
    let long = "x".repeat(70);
    let statements = format!(
        "CREATE TABLE \"userAccount\"(id INTEGER PRIMARY KEY, \"userName\" TEXT, {long}1 INT, {long}2 INT);
         CREATE INDEX \"userIdx\" ON \"userAccount\"(\"userName\");
         INSERT INTO \"userAccount\" VALUES (1, 'Ann', 1, 2)"
    );
    let pair = Pair::new(18, "names", &statements);
    pair.migrated(Options { names: NameStyle::Both, ..Options::default() });
    assert_eq!(pair.ask("SELECT \"userName\" FROM \"userAccount\""), ["Ann"]);
    assert_eq!(pair.ask("SELECT username FROM useraccount"), ["Ann"]);
    assert_eq!(
        pair.ask(
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'userAccount'"
        ),
        ["4"]
    );
    let pair = Pair::new(18, "names", &statements);
    pair.migrated(Options { names: NameStyle::Lower, ..Options::default() });
    assert_eq!(pair.ask("SELECT username FROM useraccount"), ["Ann"]);
    let twice = Pair::new(18, "names", "CREATE TABLE t(\"É\" INT, \"é\" INT)");
    twice.migrated(Options::default());
    let folded = Options { names: NameStyle::Lower, ..Options::default() };
    let error = twice.plan(folded).err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
}

/// A write-ahead log that is not in the file yet, and a rollback journal's database.
#[test]
fn the_moment_is_that_of_the_live_database() {
    let pair = Pair::new(15, "moment", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let writer = pair.sqlite();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (1), (2)").unwrap();
    assert_eq!(pair.migrated(Options::default()).rows(), 2);
    drop(writer);
    let pair = Pair::new(
        15,
        "moment",
        "PRAGMA journal_mode = delete; CREATE TABLE t(id INTEGER PRIMARY KEY)",
    );
    let writer = pair.sqlite();
    writer.execute_batch("INSERT INTO t VALUES (1), (2), (3)").unwrap();
    assert_eq!(pair.migrated(Options::default()).rows(), 3);
    let bytes = std::fs::read(pair.path()).unwrap();
    writer.execute_batch("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(bytes.len(), std::fs::read(pair.path()).unwrap().len());
}

#[test]
fn the_script_for_review_is_what_is_run() {
    let pair = Pair::new(
        18,
        "script",
        "CREATE TABLE p(id INTEGER PRIMARY KEY, n INT DEFAULT 5 CHECK (n IN (1, 5)), t TEXT DEFAULT 'x''y');
         CREATE TABLE c(p INT REFERENCES p, k TEXT); CREATE INDEX i ON c(k);
         CREATE VIEW v AS SELECT k FROM c JOIN p ON p.id = c.p WHERE n = 1;
         CREATE TRIGGER odd INSERT ON p BEGIN DELETE FROM c; END",
    );
    let sql = pair.plan(Options::default()).unwrap().sql();
    assert!(sql.contains("-- not migrated: trigger odd"), "{sql}");
    assert_eq!(pair.refused(&sql), None, "{sql}");
    assert_eq!(pair.ask("INSERT INTO p DEFAULT VALUES RETURNING id, n, t"), ["1|5|x'y"]);
}
