//! What is different between SQLite and PostgreSQL, trap by trap. Those that lose rows with other
//! tools are in `silent_failures.rs`; here are the others, and this list says where each is:
//!
//! | trap | test |
//! |---|---|
//! | 1 affinity: words among numbers | `values::words_among_numbers_are_misfits` |
//! | 2 integers of 64 bits, rowids, sequences | `silent_failures::t41_t46_...` |
//! | 3 reals of 8 bytes, infinities | `silent_failures::t43_t44_...` |
//! | 4 decimals and their digits | `values::types_are_decided_by_values` |
//! | 5 booleans | `silent_failures::t39_...`, `trap_05_...` |
//! | 6 dates in every form, out of range | `values::types_are_decided_by_values`, `trap_06_...` |
//! | 7, 8 NUL bytes, texts that are not UTF-8 | `silent_failures::t40_...` |
//! | 9 blobs among texts, texts among blobs | `values::words_...`, `trap_09_...` |
//! | 10 no type, ANY, mixed | `values::types_are_decided_by_values` |
//! | 11 VARCHAR(n) that nobody enforced | `values::types_are_decided_by_values` |
//! | 12 NOT NULL, CHECK, DEFAULT | `silent_failures::t42_...`, `trap_12_...` |
//! | 13 generated columns | `silent_failures::t43_t44_...` |
//! | 14 NULLs in primary keys | `schema::tables_of_every_kind_arrive` |
//! | 15 NOCASE, RTRIM, the order of texts | `silent_failures::t42_...`, `trap_15_...` |
//! | 16 partial, expression, DESC indexes; their names | `silent_failures::t42_...`, `trap_16_...`
//! |
//! | 17 foreign keys: orphans, cycles, actions | `silent_failures::t45_...`, `trap_17_...` |
//! | 18 names: case, length, reserved words | `schema::names_...`, `schema::tables_of_every_...` |
//! | 19 views and triggers | `silent_failures::t42_...` |
//! | 20 WITHOUT ROWID, STRICT, virtual tables | `schema::tables_of_every_...`, `trap_20_...` |
//! | 21 rowids of tables without a key | `values::a_mapping_has_the_last_word` |
//! | 22 one moment, damage | `schema::the_moment_is_...`, `trap_22_...` |
//! | 23 sizes: columns, keys, values | `values::texts_are_what_they_were`, `trap_23_...` |
//! | 24 JSON that PostgreSQL would not take | `trap_24_...` |
//! | 25 comparisons that mean something else | `trap_25_...` |
//! | 26 COPY's own marks | `values::texts_are_what_they_were` |
//! | 27 proof | `faults::a_changed_value_...`, `random::what_arrives_is_what_was_sent` |
//! | 28 all or nothing | `faults`, `resume`, and the program's own `migrate_faults.rs` |

use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::Kind;
use lifeboat_migrate::{Misfits, Options, Orphans};

use crate::support::Pair;

#[test]
fn trap_05_truths_as_words_and_as_defaults() {
    let pair = Pair::new(
        18,
        "trap05",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, word BOOLEAN, set_ BOOLEAN NOT NULL DEFAULT TRUE,
           off BOOL DEFAULT 0, flag INTEGER DEFAULT 1, mixed BOOLEAN);
         INSERT INTO t VALUES (1, 'true', 1, 0, 1, 0), (2, 'f', 0, 1, 0, 'yes');
         CREATE INDEX on_true ON t(id) WHERE set_ = 1;",
    );
    pair.migrated(Options::default());
    let rows = pair.ask("SELECT word, set_, off, flag, mixed FROM t ORDER BY id");
    assert_eq!(rows, ["t|t|f|1|0", "f|f|t|0|yes"]);
    let new = "INSERT INTO t(id) VALUES (3) RETURNING set_, off, flag";
    assert_eq!(pair.ask(new), ["t|f|1"]);
    let index = pair.ask("SELECT indexdef FROM pg_indexes WHERE indexname = 'on_true'");
    assert!(index[0].contains("WHERE (set_ = true)"), "{index:?}");
}

#[test]
fn trap_06_what_is_no_moment_stays_what_it_was() {
    let pair = Pair::new(
        15,
        "trap06",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, micros DATETIME, far DATETIME, apart DATETIME,
           bad DATE, clock DATETIME, edge DATETIME);
         INSERT INTO t VALUES
           (1, 1700000000123456, 9000000000000, '2024-01-01T10:00:00+02:00', '2024-02-30',
            '12:30', '0001-01-01 00:00:00'),
           (2, 1700000000123457, -1, '2024-01-01T10:00:00-05:00', '0000-00-00',
            'now', '9999-12-31 23:59:59.999999')",
    );
    let text = pair.plan(Options::default()).unwrap().text();
    assert!(text.contains("apart DATETIME -> text"), "an offset would be lost: {text}");
    pair.migrated(Options::default());
    assert_eq!(
        pair.ask("SELECT micros, far, apart, bad, clock, edge FROM t ORDER BY id"),
        [
            "1700000000123456|9000000000000|2024-01-01T10:00:00+02:00|2024-02-30|12:30|\
             0001-01-01 00:00:00+00",
            "1700000000123457|-1|2024-01-01T10:00:00-05:00|0000-00-00|now|\
             9999-12-31 23:59:59.999999+00"
        ]
    );
}

#[test]
fn trap_09_texts_among_blobs_and_the_other_way_round() {
    let statements = "CREATE TABLE t(id INTEGER PRIMARY KEY, raw BLOB, words TEXT);
                      INSERT INTO t VALUES (1, x'00ff', 'a'), (2, 'text', x'6162'), (3, x'', '')";
    let pair = Pair::new(18, "trap09", statements);
    let error = pair.migrate(Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    pair.migrated(Options { misfits: Misfits::Widen, ..Options::default() });
    assert_eq!(
        pair.ask("SELECT encode(raw, 'hex'), encode(words, 'hex') FROM t ORDER BY id"),
        ["00ff|61", "74657874|6162", "|"]
    );
}

#[test]
fn trap_12_checks_and_defaults_in_sqlites_words() {
    let pair = Pair::new(
        15,
        "trap12",
        "CREATE TABLE t(id INTEGER PRIMARY KEY,
           code TEXT CHECK (code GLOB '[A-Z][0-9]*'), mail TEXT CHECK (mail LIKE '%@%'),
           kind TEXT DEFAULT \"plain\" CHECK (kind == 'plain' OR kind IN ('a', 'b')),
           n INT CHECK (typeof(n) = 'integer' OR n IS NULL), len TEXT CHECK (length(len) <= 5),
           at INTEGER DEFAULT (strftime('%s', 'now')), both TEXT DEFAULT ('a' || 'b'),
           token BLOB DEFAULT (randomblob(16)), odd TEXT CHECK (json_type(odd) IS NULL));
         INSERT INTO t(id, code, mail, len, odd) SELECT 1, 'A1', 'a@b', 'äöüßx', NULL
           WHERE 1; ",
    );
    let text = pair.plan(Options::default()).unwrap().text();
    assert!(text.contains("json_type"), "{text}");
    let done = pair.migrated(Options::default());
    assert_eq!(done.refused(), 0, "{}", done.text());
    for wrong in [
        "(code) VALUES ('a1')",
        "(mail) VALUES ('x')",
        "(kind) VALUES ('c')",
        "(len) VALUES ('123456')",
    ] {
        let said = pair.refused(&format!("INSERT INTO t{wrong}")).unwrap_or_default();
        assert!(said.contains("check constraint"), "{wrong}: {said}");
    }
    let new = "INSERT INTO t(code) VALUES ('B2') RETURNING kind, \"both\", at > 1700000000, \
               octet_length(token)";
    assert_eq!(pair.ask(new), ["plain|ab|t|16"]);
}

#[test]
fn trap_15_texts_have_the_order_of_their_bytes() {
    let pair = Pair::new(
        18,
        "trap15",
        "CREATE TABLE t(s TEXT PRIMARY KEY, n TEXT COLLATE NOCASE, r TEXT COLLATE RTRIM);
         INSERT INTO t VALUES ('b', 'B', 'x'), ('B', 'a', 'x '), ('ä', 'ä', 'y'), ('a', 'Ä', 'z');
         CREATE UNIQUE INDEX n ON t(n)",
    );
    pair.migrated(Options::default());
    let here = "SELECT group_concat(s, '') FROM (SELECT s FROM t ORDER BY s)";
    let here: String = pair.sqlite().query_row(here, [], |row| row.get(0)).unwrap();
    assert_eq!(pair.ask("SELECT string_agg(s, '' ORDER BY s) FROM t"), [here]);
    // NOCASE knows the letters of ASCII alone: ä and Ä are two.
    assert!(pair.refused("INSERT INTO t VALUES ('c', 'A', 'x')").unwrap().contains("duplicate"));
    let text = pair.plan(Options::default()).unwrap().text();
    assert!(text.contains("NOCASE becomes lower(...)"), "{text}");
}

#[test]
fn trap_16_indexes_whose_names_are_cut_alike_stay_two() {
    let long = "i".repeat(70);
    let pair = Pair::new(
        15,
        "trap16",
        &format!(
            "CREATE TABLE t(a TEXT, b INT, \"t_pkey\" INT, PRIMARY KEY(a)); CREATE TABLE t_pkey(x);
             CREATE INDEX {long}1 ON t(b); CREATE INDEX {long}2 ON t(b DESC, a);
             CREATE UNIQUE INDEX part ON t(b) WHERE a > 'm'; INSERT INTO t VALUES ('a', 1, 1), ('b', 1, 1)"
        ),
    );
    pair.migrated(Options::default());
    assert_eq!(pair.ask("SELECT count(*) FROM pg_indexes WHERE tablename = 't'"), ["4"]);
    assert_eq!(
        pair.ask(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'p'"
        ),
        ["1"]
    );
    assert_eq!(pair.refused("INSERT INTO t VALUES ('c', 1, 1)"), None);
    assert!(pair.refused("INSERT INTO t VALUES ('n', 5, 1), ('o', 5, 1)").is_some());
}

#[test]
fn trap_17_keys_keep_their_actions_and_what_is_no_key_is_said() {
    let pair = Pair::new(
        18,
        "trap17",
        "CREATE TABLE p(id INTEGER PRIMARY KEY, code TEXT UNIQUE, plain INT);
         CREATE TABLE w(a INT, b TEXT, PRIMARY KEY(a, b)) WITHOUT ROWID;
         CREATE TABLE c(id INTEGER PRIMARY KEY,
           p INT REFERENCES p ON DELETE CASCADE ON UPDATE SET NULL,
           code TEXT REFERENCES p(code) ON DELETE RESTRICT, plain INT REFERENCES p(plain),
           a INT, b TEXT, FOREIGN KEY (a, b) REFERENCES w DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE k(x TEXT PRIMARY KEY, p INT REFERENCES p) WITHOUT ROWID;
         PRAGMA foreign_keys = OFF;
         INSERT INTO p VALUES (1, 'x', 5), (2, 'y', 6); INSERT INTO w VALUES (1, 'b');
         INSERT INTO c VALUES (1, 1, 'x', 5, 1, 'b'), (2, NULL, NULL, NULL, 1, NULL);
         INSERT INTO k VALUES ('lost', 99)",
    );
    let plan = pair.plan(Options::default()).unwrap();
    assert!(plan.text().contains("no key of the other table"), "{}", plan.text());
    assert!(plan.text().contains("x 'lost'"), "the row has no rowid: {}", plan.text());
    pair.migrated(Options { orphans: Orphans::NotValid, ..Options::default() });
    let keys = pair.ask(
        "SELECT confdeltype, confupdtype, condeferred FROM pg_constraint WHERE contype = 'f' \
         AND conrelid = 'c'::regclass ORDER BY 1",
    );
    assert_eq!(keys, ["a|a|t", "c|n|f", "r|a|f"]);
    pair.ask("DELETE FROM p WHERE id = 2");
    assert_eq!(pair.ask("SELECT count(*) FROM c"), ["2"]);
}

#[test]
fn trap_20_what_belongs_to_sqlite_itself_stays_there() {
    let pair = Pair::new(
        15,
        "trap20",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES (1, 'one');
         CREATE INDEX i ON t(s); ANALYZE;
         CREATE VIRTUAL TABLE box USING rtree(id, x0, x1); INSERT INTO box VALUES (1, 0, 5);
         CREATE VIRTUAL TABLE search USING fts5(s, content='t', content_rowid='id');
         CREATE VIRTUAL TABLE old USING fts4(body); INSERT INTO old VALUES ('words');
         CREATE TEMP TABLE mine(x); INSERT INTO mine VALUES (1);
         PRAGMA user_version = 7; PRAGMA application_id = 9",
    );
    let plan = pair.plan(Options::default()).unwrap();
    let text = plan.text();
    for said in ["search (fts5)", "index of another table", "to_tsvector", "user_version 7"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    pair.migrated(Options::default());
    let tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname NOT LIKE '\\_%' \
                  AND relnamespace = 'public'::regnamespace ORDER BY 1";
    assert_eq!(pair.ask(tables), ["box", "old", "t"]);
    assert_eq!(pair.ask("SELECT x1 FROM box"), ["5"]);
    assert_eq!(pair.ask("SELECT body FROM old"), ["words"]);
}

/// Two tables that a writer changes together are as they were together.
#[test]
fn trap_22_a_busy_database_is_read_at_one_moment() {
    let pair = Pair::new(
        18,
        "trap22",
        "CREATE TABLE a(id INTEGER PRIMARY KEY, n INT); CREATE TABLE b(id INTEGER PRIMARY KEY, n INT)",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = pair.sqlite();
            writer.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let both =
                    "BEGIN; INSERT INTO a(n) VALUES (1); INSERT INTO b(n) VALUES (1); COMMIT";
                writer.execute_batch(both).unwrap();
                std::thread::yield_now();
            }
        });
        let result = pair.migrate(Options::default());
        stop.store(true, Ordering::Relaxed);
        let rows = result.unwrap().rows();
        assert_eq!(rows % 2, 0);
    });
    assert_eq!(pair.ask("SELECT (SELECT count(*) FROM a) = (SELECT count(*) FROM b)"), ["t"]);
}

#[test]
fn trap_22_a_damaged_database_is_said_to_be_one() {
    let pair = Pair::new(
        15,
        "trap22b",
        "PRAGMA journal_mode = delete; CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO t SELECT i, 'a text of the row ' || i FROM n",
    );
    let mut bytes = std::fs::read(pair.path()).unwrap();
    bytes[4096 * 5..4096 * 5 + 200].fill(0xee);
    std::fs::write(pair.path(), bytes).unwrap();
    let error = pair.migrate(Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::CheckFailed, "{error:?}");
    assert!(error.hint_text().unwrap().contains("salvage"), "{error:?}");
    assert_eq!(pair.ask("SELECT to_regclass('t')"), ["∅"]);
}

#[test]
fn trap_23_more_columns_than_the_server_takes_are_said_before() {
    let columns: Vec<String> = (0..1_700).map(|number| format!("c{number}")).collect();
    let pair = Pair::new(18, "trap23", &format!("CREATE TABLE wide({})", columns.join(", ")));
    let error = pair.migrate(Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("1700 columns"), "{error}");
    let skipped = pair.mapped("[table.wide]\nskip = true\n");
    assert_eq!(pair.migrated(skipped).rows(), 0);
}

/// Values near the limit: hundreds of megabytes in one row.
#[test]
fn trap_23_a_huge_value_arrives() {
    let is_long = std::env::var("LIFEBOAT_LONG_TESTS").is_ok_and(|value| value == "1");
    let bytes = if is_long { 300_000_000 } else { 9_000_000 };
    let pair = Pair::new(
        15,
        "trap23b",
        &format!(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB, s TEXT);
             INSERT INTO t VALUES (1, zeroblob({bytes}), 'x'), (2, x'01', 'y')"
        ),
    );
    pair.migrated(Options::default());
    let sizes = pair.ask("SELECT octet_length(b), s FROM t ORDER BY id");
    assert_eq!(sizes, [format!("{bytes}|x"), "1|y".to_owned()]);
}

#[test]
fn trap_24_what_is_called_json_stays_a_text() {
    let pair = Pair::new(
        18,
        "trap24",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, doc JSON);
         INSERT INTO t VALUES (1, '{a: 1, /* five */ }'), (2, '{\"a\":1,\"a\":2}'), (3, '\"\\u0000\"')",
    );
    pair.migrated(Options::default());
    assert_eq!(
        pair.ask("SELECT doc FROM t WHERE id < 3 ORDER BY id"),
        ["{a: 1, /* five */ }", "{\"a\":1,\"a\":2}"]
    );
    let asked = pair.mapped("[table.t.column.doc]\ntype = \"json\"\n");
    let plan = pair.plan(asked).unwrap();
    assert!(plan.text().contains("rowid 1: '{a: 1, /* five */ }': not JSON"), "{}", plan.text());
}

#[test]
fn trap_25_what_means_something_else_is_in_the_report() {
    let pair = Pair::new(15, "trap25", "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let plan = pair.plan(Options::default()).unwrap();
    for text in [plan.text(), plan.markdown(&lifeboat_migrate::Facts::default(), None)] {
        for said in ["'1' and 1 are not equal", "LIKE tells the case", "must be in GROUP BY"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
