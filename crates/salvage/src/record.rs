//! A record: the values of one row or index entry.

use crate::bytes::varint;

/// Most columns that a table of SQLite can have.
const FIELDS_MAX: usize = 32_767;

/// One value, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Real(f64),
    /// In the encoding of the database.
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// What became of reading a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its header and its length agree, and all of it was there.
    Whole,
    /// It agrees with itself, but its end is not there: so many values stand in full.
    Cut(usize),
    /// Nothing can be said of its values.
    Broken,
}

/// Reads a record of `total` bytes of which `payload` is what could be read. `values` gets every
/// value; those beyond the end of `payload` are NULL, or the beginning of a text or blob.
pub(crate) fn read<'a>(payload: &'a [u8], total: u64, values: &mut Vec<Value<'a>>) -> Form {
    values.clear();
    read_into(payload, total, values).unwrap_or(Form::Broken)
}

fn read_into<'a>(payload: &'a [u8], total: u64, values: &mut Vec<Value<'a>>) -> Option<Form> {
    let (header, length) = varint(payload, 0)?;
    let header_end = usize::try_from(header).ok()?;
    if header > total || header_end < length || header_end > payload.len() {
        return None;
    }
    let (mut type_at, mut at) = (length, header);
    let mut whole = None;
    while type_at < header_end {
        let (serial, length) = varint(&payload[..header_end], type_at)?;
        type_at += length;
        let end = at.checked_add(value_bytes(serial)?)?;
        if end > total || values.len() == FIELDS_MAX {
            return None;
        }
        if end > payload.len() as u64 && whole.is_none() {
            whole = Some(values.len());
        }
        values.push(value(payload, serial, at, end));
        at = end;
    }
    if at != total {
        return None;
    }
    Some(whole.map_or(Form::Whole, Form::Cut))
}

fn value(payload: &[u8], serial: u64, from: u64, to: u64) -> Value<'_> {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(payload.len());
    let bytes = &payload[clamp(from)..clamp(to)];
    let is_whole = bytes.len() as u64 == to - from;
    match serial {
        0 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 if is_whole => Value::Integer(integer(bytes)),
        7 if is_whole => {
            let bits = bytes.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
            Value::Real(f64::from_bits(bits))
        }
        1..=7 => Value::Null,
        _ if serial % 2 == 1 => Value::Text(bytes),
        _ => Value::Blob(bytes),
    }
}

fn integer(bytes: &[u8]) -> i64 {
    let first = bytes.first().map_or(0, |&byte| i64::from(byte as i8));
    bytes.iter().skip(1).fold(first, |sum, &byte| sum << 8 | i64::from(byte))
}

fn value_bytes(serial: u64) -> Option<u64> {
    match serial {
        0 | 8 | 9 => Some(0),
        1..=4 => Some(serial),
        5 => Some(6),
        6 | 7 => Some(8),
        10 | 11 => None,
        _ => Some((serial - 12) / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        let payload = [7, 0, 1, 9, 2, 17, 14, 0xff, 0x01, 0x00, b'a', b'b', 0x55];
        let mut values = Vec::new();
        assert_eq!(read(&payload, 13, &mut values), Form::Whole);
        let expected = [
            Value::Null,
            Value::Integer(-1),
            Value::Integer(1),
            Value::Integer(256),
            Value::Text(b"ab"),
            Value::Blob(&[0x55]),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn reserved_types_wrong_lengths_and_ends() {
        let mut values = Vec::new();
        assert_eq!(read(&[2, 11], 2, &mut values), Form::Broken);
        assert_eq!(read(&[2, 1, 5], 4, &mut values), Form::Broken);
        assert_eq!(read(&[9, 1], 2, &mut values), Form::Broken);
        assert_eq!(read(&[], 0, &mut values), Form::Broken);
        assert_eq!(read(&[3, 1, 19, 5, b'x'], 7, &mut values), Form::Cut(1));
        assert_eq!(values, [Value::Integer(5), Value::Text(b"x")]);
        assert_eq!(read(&[1], 1, &mut values), Form::Whole);
    }
}
