//! Names that collide with ours, and schemas that do not want to be made again.

use rusqlite::Connection;

use crate::world::Sample;

#[test]
fn tables_that_have_our_names_keep_them() {
    let sample = Sample::made("", |connection| {
        connection
            .execute_batch(
                "CREATE TABLE lost_and_found(a, b); INSERT INTO lost_and_found VALUES(1, 'x');
                 CREATE TABLE _lifeboat_salvage(a); INSERT INTO _lifeboat_salvage VALUES(5)",
            )
            .unwrap();
    });
    sample.damage(|bytes| bytes[39] ^= 0x40);
    let outcome = sample.salvage().unwrap().all_certain(&sample);
    assert_eq!(outcome.report.marks, "_lifeboat_salvage_1");
    assert_eq!(outcome.report.nowhere.0, "lost_and_found_1");
}

#[test]
fn a_statement_that_is_broken_is_mended_by_a_donor_or_made_up() {
    let make = || {
        Sample::made("", |connection| {
            connection
                .execute_batch(
                    "CREATE TABLE kept(id INTEGER PRIMARY KEY, word TEXT, number REAL);
                     CREATE TABLE other(a, b, c, d, e, f)",
                )
                .unwrap();
            for index in 0..900 {
                let values = (index, format!("word {index}"), index as f64 + 0.25);
                connection.execute("INSERT INTO kept VALUES(?1, ?2, ?3)", values).unwrap();
            }
        })
    };
    let (sample, donor) = (make(), make());
    sample.damage(|bytes| {
        let at = bytes.windows(12).position(|w| w == b"TABLE kept(i").unwrap();
        bytes[at..at + 5].copy_from_slice(b"TUBLE");
    });
    let outcome = sample
        .salvage_by(|request| lifeboat_salvage::Request {
            donor: crate::world::donor(&donor.path),
            ..request
        })
        .unwrap();
    assert_eq!(outcome.content["kept"], sample.truth["kept"]);
    assert!(!outcome.report.is_whole());
    let outcome = sample.salvage().unwrap();
    assert_eq!(outcome.content["kept"].len(), 900);
    let connection = Connection::open(sample.to()).unwrap();
    let sql = "SELECT c1 FROM kept WHERE c2 = 17.25";
    assert_eq!(connection.query_row(sql, [], |row| row.get(0)), Ok("word 17".to_owned()));
}

#[test]
fn a_hostile_schema_does_nothing_but_make_tables() {
    let sample = Sample::made("", |connection| {
        connection.execute_batch("CREATE TABLE harmless_table_of_mine(a, b, c)").unwrap();
        connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        connection.execute_batch("PRAGMA writable_schema = ON").unwrap();
        for (name, sql) in [
            ("attached", "CREATE TABLE attached(a); ATTACH '/tmp/lifeboat-salvage-x' AS y"),
            (
                "endless",
                "CREATE TABLE endless AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL \
                         SELECT n + 1 FROM r) SELECT n FROM r",
            ),
        ] {
            let insert = "INSERT INTO sqlite_schema VALUES('table', ?1, ?1, 2, ?2)";
            connection.execute(insert, (name, sql)).unwrap();
        }
    });
    let outcome = sample.salvage();
    assert!(!std::path::Path::new("/tmp/lifeboat-salvage-x").exists());
    let outcome = outcome.unwrap();
    assert_eq!(outcome.content["t"].len(), 1);
    assert!(outcome.report.problems.len() >= 2, "{:?}", outcome.report.problems);
}
