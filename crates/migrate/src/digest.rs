//! What a table holds, in one number: the sum of the hashes of its rows, in whatever order.
//!
//! XXH3 with 128 bits: rows are short, and a hash made for secrets took a fifth of a migration. It
//! finds what went wrong, not what somebody forged, and a sum of hashes could not do more.

use twox_hash::XxHash3_128;

use crate::target::Value;

/// A table's rows and what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) rows: u64,
    pub(crate) sum: u128,
}

impl Digest {
    /// Takes a row's hash.
    pub(crate) fn add(&mut self, row: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row);
    }

    /// Takes the rows of another part of the same table.
    pub(crate) fn merge(&mut self, other: Digest) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// As people and files have it.
    pub(crate) fn text(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// Takes the hash of one row after the other.
#[derive(Default)]
pub(crate) struct RowHash {
    bytes: Vec<u8>,
    large: Option<Box<XxHash3_128>>,
}

/// A row that is larger is hashed as it comes.
const ROW_BYTES: usize = 64 << 10;

impl RowHash {
    /// Takes a value that fits its type.
    pub(crate) fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Null => self.bytes.push(0),
            Value::Int(number) => self.number(1, number.to_le_bytes()),
            Value::Double(number) => self.number(2, number.to_bits().to_le_bytes()),
            Value::Numeric(text) => self.run(3, text.as_bytes()),
            Value::Boolean(is) => self.bytes.extend_from_slice(&[4, u8::from(*is)]),
            Value::Text(bytes) => self.run(5, bytes),
            Value::Bytes(bytes) => self.run(6, bytes),
            Value::Instant(micros) => self.number(7, micros.to_le_bytes()),
            Value::Day(days) => self.number(8, i64::from(*days).to_le_bytes()),
            Value::Uuid(bytes) => self.run(9, bytes),
        }
    }

    /// Takes a value as SQLite has it.
    pub(crate) fn raw(&mut self, value: rusqlite::types::ValueRef<'_>) {
        use rusqlite::types::ValueRef;
        match value {
            ValueRef::Null => self.bytes.push(0),
            ValueRef::Integer(number) => self.number(1, number.to_le_bytes()),
            ValueRef::Real(number) => self.number(2, number.to_bits().to_le_bytes()),
            ValueRef::Text(bytes) => self.run(5, bytes),
            ValueRef::Blob(bytes) => self.run(6, bytes),
        }
    }

    fn number(&mut self, tag: u8, bytes: [u8; 8]) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&bytes);
    }

    fn run(&mut self, tag: u8, bytes: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        if bytes.len() <= ROW_BYTES {
            self.bytes.extend_from_slice(bytes);
            return;
        }
        let large = self.large.get_or_insert_default();
        large.write(&self.bytes);
        large.write(bytes);
        self.bytes.clear();
    }

    /// The hash of the row, which is over.
    pub(crate) fn finish(&mut self) -> u128 {
        let hash = match self.large.take() {
            Some(mut large) => {
                large.write(&self.bytes);
                large.finish_128()
            }
            None => XxHash3_128::oneshot(&self.bytes),
        };
        self.bytes.clear();
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_rows_is_nothing_and_order_of_values_is_all() {
        let row = |values: &[Value<'_>]| {
            let mut hash = RowHash::default();
            values.iter().for_each(|value| hash.value(value));
            hash.finish()
        };
        let text = |text: &'static str| Value::Text(text.as_bytes().into());
        assert_ne!(row(&[text("ab"), text("c")]), row(&[text("a"), text("bc")]));
        assert_ne!(row(&[Value::Null, text("")]), row(&[text(""), Value::Null]));
        let large = "x".repeat(ROW_BYTES + 1);
        let large = Value::Text(large.as_bytes().into());
        assert_ne!(row(&[large.clone(), Value::Int(1)]), row(&[large, Value::Int(2)]));
        let (a, b) = (row(&[text("a")]), row(&[text("b")]));
        let (mut one, mut other) = (Digest::default(), Digest::default());
        [a, b].into_iter().for_each(|hash| one.add(hash));
        [b, a].into_iter().for_each(|hash| other.add(hash));
        assert_eq!(one, other);
    }
}
