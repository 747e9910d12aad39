//! Random schemas with random values: what arrives is what was sent, or it is refused beforehand.

use lifeboat_migrate::{Misfits, Options};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::types::Value;

use crate::support::Pair;

const DECLARED: &[&str] = &[
    "INTEGER",
    "INT",
    "TEXT",
    "",
    "REAL",
    "BLOB",
    "NUMERIC",
    "DECIMAL(8,3)",
    "BOOLEAN",
    "DATETIME",
    "DATE",
    "VARCHAR(5)",
    "ANY",
    "TIMESTAMP",
];

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(Value::Null),
        4 => any::<i64>().prop_map(Value::Integer),
        4 => (-2_i64..3).prop_map(Value::Integer),
        3 => any::<f64>().prop_map(Value::Real),
        3 => (-1e6..1e6).prop_map(Value::Real),
        4 => ".{0,12}".prop_map(Value::Text),
        2 => "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]( [0-2][0-9]:[0-5][0-9]:[0-5][0-9])?".prop_map(Value::Text),
        2 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Blob),
    ]
}

/// A table: the types of its columns, and rows.
fn table() -> impl Strategy<Value = (Vec<&'static str>, Vec<Vec<Value>>)> {
    prop::collection::vec(prop::sample::select(DECLARED), 1..6).prop_flat_map(|declared| {
        let row = prop::collection::vec(value(), declared.len());
        (Just(declared), prop::collection::vec(row, 0..12))
    })
}

#[test]
fn what_arrives_is_what_was_sent() {
    let is_long = std::env::var("LIFEBOAT_LONG_TESTS").is_ok_and(|value| value == "1");
    let cases = if is_long { 400 } else { 24 };
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let tables = prop::collection::vec(table(), 1..4);
    runner
        .run(&(tables, prop::bool::ANY), |(tables, is_old)| {
            let pair = Pair::new(if is_old { 15 } else { 18 }, "random", "");
            let connection = pair.sqlite();
            let mut rows_sent = 0;
            for (number, (declared, rows)) in tables.iter().enumerate() {
                let columns: Vec<String> = declared
                    .iter()
                    .enumerate()
                    .map(|(place, declared)| format!("c{place} {declared}"))
                    .collect();
                let key = if number % 2 == 0 { "id INTEGER PRIMARY KEY, " } else { "" };
                let create = format!("CREATE TABLE t{number}({key}{})", columns.join(", "));
                connection.execute_batch(&create).unwrap();
                let marks = vec!["?"; declared.len()].join(", ");
                let names: Vec<String> =
                    (0..declared.len()).map(|place| format!("c{place}")).collect();
                let insert =
                    format!("INSERT INTO t{number}({}) VALUES ({marks})", names.join(", "));
                for row in rows {
                    connection.execute(&insert, rusqlite::params_from_iter(row)).unwrap();
                    rows_sent += 1;
                }
            }
            for misfits in [Misfits::Widen, Misfits::Quarantine] {
                let options = Options { misfits, ..Options::default() };
                let pair = match misfits {
                    Misfits::Widen => &pair,
                    _ => {
                        pair.refused("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
                        &pair
                    }
                };
                let done = pair.migrate(options);
                prop_assert!(done.is_ok(), "{:?}", done.err());
                let done = done.unwrap();
                prop_assert_eq!(done.rows() + done.rejected(), rows_sent);
                if misfits == Misfits::Widen {
                    prop_assert_eq!(done.rejected(), 0);
                }
                let verified = pair.verify();
                prop_assert_eq!(verified.different(), 0, "{}", verified.text());
            }
            Ok(())
        })
        .unwrap();
}
