//! What putting missing rows back into a live database would do, and did.

use super::Value;

/// What would be done to one table.
#[derive(Clone, Debug, Default)]
pub struct PutPlan {
    /// The table.
    pub table: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// All columns that are filled, those of the key first.
    pub columns: Vec<String>,
    /// Rows whose key the live table lacks: they are put in.
    pub missing: u64,
    /// The first of them.
    pub missing_rows: Vec<Vec<Value>>,
    /// Rows that are there as they were.
    pub same: u64,
    /// Rows that are in the way of one that is wanted: left alone, unless they are overwritten.
    pub conflicts: u64,
    /// How many of them have the same key, and can be overwritten.
    pub same_key: u64,
    /// The first of them.
    pub conflict_rows: Vec<Conflict>,
    /// The triggers of the table that an insert may run.
    pub triggers: Vec<String>,
    /// What is to be known.
    pub notes: Vec<String>,
}

/// A row that is in the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The key of the row that was wanted.
    pub key: Vec<Value>,
    /// What is in its way: `other values in body`, `the index person_name has its values`.
    pub why: String,
}

/// What was done to one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOutcome {
    /// Rows that were put in.
    pub inserted: u64,
    /// Rows whose values were replaced.
    pub overwritten: u64,
    /// Rows that were left alone because one was in the way.
    pub left: u64,
}

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct PutRequest<'a> {
    /// The table.
    pub table: &'a str,
    /// A condition in SQL on the rows that are wanted; all without one.
    pub filter: Option<&'a str>,
    /// Whether rows with the same key and other values are replaced.
    pub overwrite: bool,
    /// Whether the table's triggers run; `None` where nobody said so.
    pub run_triggers: Option<bool>,
    /// So many rows of each kind are kept, to be shown.
    pub rows_max: usize,
}
