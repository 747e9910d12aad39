//! Two tables compared row by row: a merge join of rows that come in the order of their keys.
//!
//! Each side is read by a thread of its own, which writes its rows into batches; a batch is a few
//! hundred kilobytes, and two wait at most. Rows that are equal are recognized by their bytes. What
//! a database is, this module does not know: [`Batch`] takes values, first those of the key.

mod batch;
mod put;
mod tables;
mod value;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::env::Env;
use crate::error::{Error, Kind, Result};

pub use self::batch::Batch;
pub use self::put::{Conflict, PutOutcome, PutPlan, PutRequest};
pub use self::tables::{Comparison, Place, SchemaDifference, TableDifference, TableOutcome};
pub use self::value::{TextOrder, Value};

use self::value::{compare_keys, values};

/// Batches that wait between a reader and the comparison.
const WAITING_MAX: usize = 2;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The name of the table, for errors.
    pub table: String,
    /// How many columns, from the first on, are the key.
    pub key: usize,
    /// How texts of a key are ordered.
    pub text_order: TextOrder,
    /// So many rows that differ are kept, to be shown.
    pub rows_max: usize,
}

/// What differs between two tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Rows whose key the second table lacks.
    pub only_a: u64,
    /// Rows whose key the first table lacks.
    pub only_b: u64,
    /// Rows with the same key and another value.
    pub changed: u64,
    /// Rows that are equal.
    pub same: u64,
    /// For each column, how many of the changed rows have another value there.
    pub columns: Vec<u64>,
    /// The first rows that differ, in the order of their keys.
    pub rows: Vec<RowDifference>,
}

/// A row that differs: all its values, those of the key first.
#[derive(Clone, Debug, PartialEq)]
pub struct RowDifference {
    /// The row of the first table.
    pub a: Option<Vec<Value>>,
    /// The row of the second table.
    pub b: Option<Vec<Value>>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.only_a + self.only_b + self.changed == 0
    }
}

/// Takes the batches of a reader. An error means that nobody wants more.
pub type Sink<'a> = &'a mut dyn FnMut(Batch) -> Result<()>;

/// Compares the rows of two readers, which run beside each other.
pub fn compare(
    env: &Env,
    shape: &Shape,
    a: impl FnOnce(Sink<'_>) -> Result<()> + Send,
    b: impl FnOnce(Sink<'_>) -> Result<()> + Send,
) -> Result<Difference> {
    thread::scope(|scope| {
        let start = |sender: SyncSender<Batch>| {
            move |batch: Batch| {
                let gone = |_| Error::new(Kind::Failed, "the comparison has ended");
                sender.send(batch).map_err(gone)
            }
        };
        let ((send_a, from_a), (send_b, from_b)) =
            (sync_channel(WAITING_MAX), sync_channel(WAITING_MAX));
        let reader_a = scope.spawn(move || a(&mut start(send_a)));
        let reader_b = scope.spawn(move || b(&mut start(send_b)));
        let mut sides = (Side::new(from_a), Side::new(from_b));
        let merged = merge(env, shape, &mut sides);
        let is_whole = merged.is_ok();
        // Lets a reader go that still has rows.
        drop(sides);
        let panicked = |_| Err(Error::new(Kind::Failed, "a reader of rows ended without a word"));
        let (read_a, read_b) =
            (reader_a.join().unwrap_or_else(panicked), reader_b.join().unwrap_or_else(panicked));
        match is_whole {
            // A reader that failed ended its rows too soon.
            true => read_a.and(read_b).and(merged),
            false => merged,
        }
    })
}

/// The rows of one reader.
struct Side {
    batches: Receiver<Batch>,
    batch: Batch,
    row: usize,
    last_key: Vec<u8>,
    is_new: bool,
}

impl Side {
    fn new(batches: Receiver<Batch>) -> Self {
        Side { batches, batch: Batch::default(), row: 0, last_key: Vec::new(), is_new: true }
    }

    /// Whether there is a row. It is the same one until [`Side::advance`].
    fn has_row(&mut self, env: &Env, shape: &Shape) -> Result<bool> {
        while self.row >= self.batch.rows() {
            env.proceed()?;
            match self.batches.recv() {
                Ok(batch) => (self.batch, self.row, self.is_new) = (batch, 0, true),
                Err(_) => return Ok(false),
            }
        }
        if self.is_new {
            self.require_order(shape)?;
        }
        Ok(true)
    }

    /// A table whose index is damaged gives rows out of order: each would be missed.
    fn require_order(&mut self, shape: &Shape) -> Result<()> {
        let row = self.batch.row(self.row);
        let order = match self.last_key.is_empty() {
            true => std::cmp::Ordering::Less,
            false => compare_keys(&self.last_key, row, shape),
        };
        if order == std::cmp::Ordering::Greater {
            let message =
                format!("the rows of {} do not come in the order of their key", shape.table);
            return Err(Error::new(Kind::CheckFailed, message)
                .hint("its index may be damaged: check the database with `lifeboat verify`"));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(value::prefix(row, shape.key));
        self.is_new = false;
        Ok(())
    }

    fn row(&self) -> &[u8] {
        self.batch.row(self.row)
    }

    fn advance(&mut self) {
        self.row += 1;
        self.is_new = true;
    }
}

fn merge(env: &Env, shape: &Shape, (a, b): &mut (Side, Side)) -> Result<Difference> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let mut difference = Difference::default();
    loop {
        let (has_a, has_b) = (a.has_row(env, shape)?, b.has_row(env, shape)?);
        let order = match (has_a, has_b) {
            (false, false) => return Ok(difference),
            (true, false) => Less,
            (false, true) => Greater,
            (true, true) => match a.row() == b.row() {
                true => Equal,
                false => compare_keys(a.row(), b.row(), shape),
            },
        };
        match order {
            Less => {
                difference.only_a += 1;
                note(&mut difference, shape, Some(a.row()), None);
                a.advance();
            }
            Greater => {
                difference.only_b += 1;
                note(&mut difference, shape, None, Some(b.row()));
                b.advance();
            }
            Equal => {
                if a.row() == b.row() {
                    difference.same += 1;
                } else {
                    difference.changed += 1;
                    count_columns(&mut difference.columns, a.row(), b.row());
                    note(&mut difference, shape, Some(a.row()), Some(b.row()));
                }
                a.advance();
                b.advance();
            }
        }
    }
}

fn note(difference: &mut Difference, shape: &Shape, a: Option<&[u8]>, b: Option<&[u8]>) {
    if difference.rows.len() < shape.rows_max {
        let of = |row: &[u8]| values(row).map(Value::from).collect();
        difference.rows.push(RowDifference { a: a.map(of), b: b.map(of) });
    }
}

fn count_columns(columns: &mut Vec<u64>, a: &[u8], b: &[u8]) {
    for (index, (a, b)) in values(a).zip(values(b)).enumerate() {
        if columns.len() <= index {
            columns.push(0);
        }
        columns[index] += u64::from(!a.is(&b));
    }
}

#[cfg(test)]
mod tests;
