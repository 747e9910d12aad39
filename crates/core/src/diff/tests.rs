//! The merge join beside a plain comparison of two maps.

use std::sync::Arc;

use super::*;
use crate::env::{Clock, Env, Random};

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

fn env() -> Env {
    Env::new(Arc::new(Still), Arc::new(Still), "host".to_owned())
}

fn shape() -> Shape {
    Shape { table: "t".to_owned(), key: 1, text_order: TextOrder::Utf8, rows_max: 3 }
}

fn give(rows: &[(i64, &str)], sink: Sink<'_>) -> Result<()> {
    let mut batch = Batch::default();
    for (index, (key, text)) in rows.iter().enumerate() {
        batch.integer(*key);
        batch.text(text.as_bytes());
        batch.end_row();
        // Batches of every small size.
        if index % 3 == 0 {
            sink(std::mem::take(&mut batch))?;
        }
    }
    sink(batch)
}

fn difference(a: &[(i64, &str)], b: &[(i64, &str)]) -> Result<Difference> {
    compare(&env(), &shape(), |sink| give(a, sink), |sink| give(b, sink))
}

#[test]
fn rows_of_each_side_alone_and_changed_ones_are_told() {
    let a = [(1, "x"), (2, "x"), (4, "x"), (5, "x"), (9, "x")];
    let b = [(2, "x"), (3, "x"), (4, "y"), (5, "x"), (7, "x"), (8, "x")];
    let found = difference(&a, &b).unwrap();
    assert_eq!((found.only_a, found.only_b, found.changed, found.same), (2, 3, 1, 2));
    assert_eq!(found.columns, [0, 1]);
    assert_eq!(found.rows.len(), 3);
    assert_eq!(found.rows[0].a.as_ref().unwrap()[0], Value::Integer(1));
    assert!(difference(&a, &a).unwrap().is_same());
    assert_eq!(difference(&[], &b).unwrap().only_b, 6);
    assert!(difference(&[], &[]).unwrap().is_same());
}

#[test]
fn equal_keys_are_a_multiset() {
    let found = difference(&[(1, "a"), (1, "a"), (2, "b")], &[(1, "a"), (2, "b"), (2, "b")]);
    let found = found.unwrap();
    assert_eq!((found.only_a, found.only_b, found.same), (1, 1, 2));
}

#[test]
fn rows_out_of_order_are_an_error_and_so_is_a_reader_that_fails() {
    let error = difference(&[(2, "a"), (1, "a")], &[(1, "a")]).unwrap_err();
    assert_eq!(error.kind(), Kind::CheckFailed);
    let failing = |_: Sink<'_>| Err(Error::new(Kind::SourceUnavailable, "gone"));
    let error = compare(&env(), &shape(), failing, |sink| give(&[(1, "a")], sink)).unwrap_err();
    assert_eq!(error.kind(), Kind::SourceUnavailable);
}

#[test]
fn a_reader_that_is_not_wanted_any_more_ends() {
    let many: Vec<(i64, &str)> = (0..100_000).map(|key| (key, "row")).collect();
    let error = difference(&[(2, "a"), (1, "a")], &many).unwrap_err();
    assert_eq!(error.kind(), Kind::CheckFailed);
}
