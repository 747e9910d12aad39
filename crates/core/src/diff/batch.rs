//! Rows as bytes: each value as its kind, then what it is.

use super::value::{self, Value};

/// A batch is full from so many bytes on.
const BATCH_BYTES: usize = 256 << 10;
/// And from so many rows on.
const BATCH_ROWS: usize = 4_096;

/// Some rows, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Adds no value to the row that is begun.
    pub fn null(&mut self) {
        self.bytes.push(value::NULL);
    }

    /// Adds a number.
    pub fn integer(&mut self, number: i64) {
        self.bytes.push(value::INTEGER);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// Adds a number with a fraction.
    pub fn real(&mut self, number: f64) {
        self.bytes.push(value::REAL);
        self.bytes.extend_from_slice(&number.to_bits().to_le_bytes());
    }

    /// Adds a text, as it is stored: not all are UTF-8.
    pub fn text(&mut self, text: &[u8]) {
        self.long(value::TEXT, text);
    }

    /// Adds bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.long(value::BLOB, bytes);
    }

    /// Adds any value.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.null(),
            Value::Integer(number) => self.integer(*number),
            Value::Real(number) => self.real(*number),
            Value::Text(text) => self.text(text),
            Value::Blob(bytes) => self.blob(bytes),
        }
    }

    fn long(&mut self, kind: u8, bytes: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends the row. Whether the batch is full then, and is to be handed on.
    pub fn end_row(&mut self) -> bool {
        self.ends.push(self.bytes.len());
        self.bytes.len() >= BATCH_BYTES || self.ends.len() >= BATCH_ROWS
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn row(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[index]]
    }
}
