//! Rows on their way from the threads that read to the one that writes: flat, and bounded.

use crate::leaf::Row;
use crate::reason::Reason;
use crate::record::Value;
use crate::text::Encoding;

/// A batch that has so many bytes of texts and blobs, or so many values, is sent.
const BYTES: usize = 1 << 20;
const VALUES: usize = 20_000;

/// A value, whose bytes are those of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flat {
    Null,
    Integer(i64),
    Real(f64),
    Text(usize, usize),
    Blob(usize, usize),
}

/// A row, whose values are those of the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlatRow {
    pub(crate) page: u32,
    pub(crate) rowid: i64,
    pub(crate) reason: Reason,
    first: usize,
    count: usize,
}

impl FlatRow {
    /// The same, no surer than that.
    pub(crate) fn for_reason(&self, reason: Reason) -> Self {
        FlatRow { reason: self.reason.max(reason), ..*self }
    }
}

/// A cell that gave no row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostCell {
    pub(crate) page: u32,
    pub(crate) rowid: Option<i64>,
    pub(crate) reason: Reason,
}

/// Rows of one table.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    values: Vec<Flat>,
    pub(crate) rows: Vec<FlatRow>,
    pub(crate) lost: Vec<LostCell>,
}

impl Batch {
    /// Takes a row; its texts become UTF-8.
    pub(crate) fn push(&mut self, row: &Row<'_>, encoding: Encoding) {
        let (first, mut reason) = (self.values.len(), row.reason);
        for value in row.values {
            let flat = match value {
                Value::Null => Flat::Null,
                Value::Integer(number) => Flat::Integer(*number),
                Value::Real(number) => Flat::Real(*number),
                Value::Blob(bytes) => self.keep(bytes, Flat::Blob),
                Value::Text(bytes) => {
                    if encoding != Encoding::Utf8 && !encoding.is_valid(bytes) {
                        reason = Reason::TextConverted;
                    }
                    self.keep(&encoding.to_utf8(bytes), Flat::Text)
                }
            };
            self.values.push(flat);
        }
        let count = self.values.len() - first;
        self.rows.push(FlatRow { page: row.page, rowid: row.rowid, reason, first, count });
    }

    fn keep(&mut self, bytes: &[u8], flat: fn(usize, usize) -> Flat) -> Flat {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        flat(begin, self.bytes.len())
    }

    /// The values of a row.
    pub(crate) fn values(&self, row: &FlatRow) -> &[Flat] {
        &self.values[row.first..row.first + row.count]
    }

    /// The bytes of a text or blob.
    pub(crate) fn bytes(&self, from: usize, to: usize) -> &[u8] {
        &self.bytes[from..to]
    }

    /// Whether it is time to send it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= BYTES || self.values.len() >= VALUES || self.lost.len() >= VALUES
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.lost.is_empty()
    }
}
