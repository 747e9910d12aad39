//! Values of every kind, and how their columns are decided.

use lifeboat_core::Kind;
use lifeboat_migrate::{Misfits, Options};

use crate::support::Pair;

#[test]
fn types_are_decided_by_values() {
    for major in [15, 18] {
        let pair = Pair::new(
            major,
            "decided",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, iso DATETIME, z TIMESTAMP, bad DATETIME,
               mixed DATETIME, secs DATETIME, ms TIMESTAMP, jd DATETIME, day DATE, epoch INTEGER,
               flag INTEGER, price DECIMAL(10,2), wide DECIMAL(4,2), any ANY, untyped, raw BLOB,
               code VARCHAR(3), long VARCHAR(3), frac INTEGER);
             INSERT INTO t VALUES
              (1, '2024-02-29 12:00:00', '2024-01-01T00:00:00Z', '2024-02-30', '2024-01-01',
               1700000000, 1700000000123, 2460310.5, '2024-02-29', 1700000000, 1, 12.30, 123.456,
               7, x'00ff', x'00', 'abc', 'abcd', 1.5),
              (2, '1999-12-31T23:59:59.25', '0001-01-01 00:00:00+00:00', '0000-00-00',
               '2024-01-01 10:00', 0, 1700000000999, 2460310.75, '0001-01-01', 1700000001, 0, 0.1,
               9007199254740993, 'seven', 'text', x'', 'äöü', 'x', 9007199254740992),
              (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               NULL, NULL, NULL, NULL, NULL)",
        );
        let done = pair.migrated(Options::default());
        assert_eq!(done.rows(), 3);
        let types = pair.ask(
            "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) \
             FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0",
        );
        let tz = "timestamp with time zone";
        assert_eq!(
            types,
            [format!(
                "bigint,{tz},{tz},text,text,bigint,{tz},{tz},date,bigint,bigint,numeric(10,2),\
                 numeric,text,bytea,bytea,character varying(3),text,double precision"
            )]
        );
        let row = "SELECT iso, z, bad, mixed, ms, jd, day, price, wide, \"any\", encode(untyped, 'hex'), \
                   code, frac FROM t WHERE id = ";
        assert_eq!(
            pair.ask(&format!("{row}1")),
            ["2024-02-29 12:00:00+00|2024-01-01 00:00:00+00|2024-02-30|2024-01-01|\
              2023-11-14 22:13:20.123+00|2024-01-01 00:00:00+00|2024-02-29|12.30|123.456|7|00ff|\
              abc|1.5"]
        );
        assert_eq!(
            pair.ask(&format!("{row}2")),
            ["1999-12-31 23:59:59.25+00|0001-01-01 00:00:00+00|0000-00-00|2024-01-01 10:00|\
              2023-11-14 22:13:20.999+00|2024-01-01 06:00:00+00|0001-01-01|0.10|9007199254740993|\
              seven|74657874|äöü|9.007199254740992e+15"]
        );
        let text = pair.plan(Options::default()).unwrap().text();
        assert!(text.contains("look like seconds since 1970, 2023-11-14"), "{text}");
        assert!(text.contains("only 0 and 1"), "{text}");
    }
}

#[test]
fn words_among_numbers_are_misfits() {
    let statements = "CREATE TABLE m(id INTEGER PRIMARY KEY, n INTEGER, x REAL, b TEXT);
                      INSERT INTO m VALUES (1, 5, 1.5, 'a'), (2, 'abc', 'x', x'00'), (3, x'01', 2, 'c')";
    let pair = Pair::new(15, "words", statements);
    let plan = pair.plan(Options::default()).unwrap();
    assert_eq!(plan.refused(), 4);
    let rejected = pair.migrated(Options { misfits: Misfits::Quarantine, ..Options::default() });
    assert_eq!((rejected.rows(), rejected.rejected()), (1, 2));
    let pair = Pair::new(15, "words", statements);
    pair.migrated(Options { misfits: Misfits::Widen, ..Options::default() });
    assert_eq!(
        pair.ask("SELECT encode(n, 'escape'), x, encode(b, 'hex') FROM m ORDER BY id"),
        ["5|1.5|61", "abc|x|00", "\u{1}|2.0|63"]
    );
}

#[test]
fn a_mapping_has_the_last_word() {
    let pair = Pair::new(
        18,
        "mapped",
        "CREATE TABLE \"Old\"(id INTEGER PRIMARY KEY, at INTEGER, flag INTEGER, doc TEXT, u TEXT, x INT);
         INSERT INTO \"Old\" VALUES (1, 1700000000, 1, '{\"a\": 1}',
           '123e4567-e89b-12d3-a456-426614174000', 5), (2, NULL, 0, '[]', NULL, 70000);
         CREATE TABLE nokey(a TEXT); INSERT INTO nokey VALUES ('x'), ('x');
         CREATE TABLE skipped(a)",
    );
    let text = "[table.old]\nname = \"new\"\n[table.old.column.at]\ntype = \"timestamptz\"\n\
                [table.old.column.flag]\ntype = \"boolean\"\nname = \"is_set\"\n\
                [table.old.column.doc]\ntype = \"json\"\n[table.old.column.u]\ntype = \"uuid\"\n\
                [table.skipped]\nskip = true\n[table.nokey]\nrowid = \"_rowid_\"\n";
    pair.migrated(pair.mapped(text));
    let rows = pair.ask("SELECT at, is_set, doc->>'a', u FROM new ORDER BY id");
    assert_eq!(
        rows,
        ["2023-11-14 22:13:20+00|t|1|123e4567-e89b-12d3-a456-426614174000", "∅|f|∅|∅"]
    );
    assert_eq!(pair.ask("SELECT a, _rowid_ FROM nokey ORDER BY 2"), ["x|1", "x|2"]);
    assert_eq!(pair.ask("SELECT to_regclass('skipped')"), ["∅"]);
    let small = format!("{text}[table.old.column.x]\ntype = \"smallint\"\n");
    let plan = pair.plan(pair.mapped(&small)).unwrap();
    assert!(plan.text().contains("rowid 2: 70000: out of the range"), "{}", plan.text());
    let wrong = pair.plan(pair.mapped("[table.nothere]\nskip = true\n")).err().unwrap();
    assert_eq!(wrong.kind(), Kind::Usage);
    assert!(wrong.message().contains("mapping.toml:1:8: there is no table"), "{wrong}");
}

/// COPY's own marks, and the edges of texts and of large values.
#[test]
fn texts_are_what_they_were() {
    let pair = Pair::new(
        18,
        "texts",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT, b BLOB);
         INSERT INTO t VALUES (1, '\\N', NULL), (2, '\\.', x''), (3, char(9) || char(13) || char(10), NULL),
           (4, '', NULL), (5, '''\"\\', NULL), (6, char(128512), NULL);
         INSERT INTO t SELECT 7, CAST(replace(hex(zeroblob(1500000)), '00', 'ab') AS TEXT), zeroblob(5000000);
         CREATE INDEX large ON t(s); CREATE UNIQUE INDEX larger ON t(b);",
    );
    let done = pair.migrated(Options::default());
    assert_eq!(done.refused(), 0, "{}", done.text());
    assert_eq!(pair.ask("SELECT s FROM t WHERE id < 3 ORDER BY id"), ["\\N", "\\."]);
    assert_eq!(
        pair.ask("SELECT length(s), octet_length(b) FROM t WHERE id = 7"),
        ["3000000|5000000"]
    );
}
