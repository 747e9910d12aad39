//! Values as the binary form of COPY has them, and back.
//!
//! The two directions share nothing: what one of them got wrong, the comparison of the tables
//! shows.

use std::borrow::Cow;

use crate::target::{Target, Value};

/// What the binary form begins with.
pub(crate) const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub(crate) const TAIL: &[u8] = &[0xff, 0xff];
/// A larger text or blob is sent without a copy.
const LARGE_BYTES: usize = 1 << 20;
/// 2000-01-01 in microseconds and days since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_INFINITE: u16 = 0xd000;
const NUMERIC_MINUS_INFINITE: u16 = 0xf000;

/// Appends a value, its length before it.
pub(crate) fn put(target: Target, value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Value::Int(number) => match target {
            Target::SmallInt => field(&(*number as i16).to_be_bytes(), out),
            Target::Integer => field(&(*number as i32).to_be_bytes(), out),
            _ => field(&number.to_be_bytes(), out),
        },
        Value::Double(number) => field(&number.to_be_bytes(), out),
        Value::Numeric(text) => put_numeric(text, out),
        Value::Boolean(is) => field(&[u8::from(*is)], out),
        Value::Text(bytes) => field(bytes, out),
        Value::Bytes(bytes) => field(bytes, out),
        Value::Instant(micros) => field(&(micros - EPOCH_US).to_be_bytes(), out),
        Value::Day(days) => field(&(days - EPOCH_DAYS).to_be_bytes(), out),
        Value::Uuid(bytes) => field(bytes, out),
    }
}

/// The bytes of a value that is sent as it lies there, where it is so large that it is not copied
/// first.
pub(crate) fn large<'a>(value: &'a Value<'_>) -> Option<&'a [u8]> {
    match value {
        Value::Text(bytes) | Value::Bytes(bytes) if bytes.len() > LARGE_BYTES => Some(bytes),
        _ => None,
    }
}

fn field(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Digits in groups of four, from the decimal point in both directions.
fn put_numeric(text: &str, out: &mut Vec<u8>) {
    let infinite = match text {
        "Infinity" => Some(NUMERIC_INFINITE),
        "-Infinity" => Some(NUMERIC_MINUS_INFINITE),
        _ => None,
    };
    if let Some(sign) = infinite {
        let words = [0, 0, sign, 0].map(u16::to_be_bytes);
        return field(words.as_flattened(), out);
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NUMERIC_NEGATIVE, digits),
        None => (0, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let padded = format!(
        "{}{whole}{fraction}{}",
        "0".repeat((4 - whole.len() % 4) % 4),
        "0".repeat((4 - fraction.len() % 4) % 4)
    );
    let groups = padded.as_bytes().chunks(4);
    let mut groups: Vec<u16> =
        groups.map(|group| group.iter().fold(0, |sum, d| sum * 10 + u16::from(d - b'0'))).collect();
    let mut weight = whole.len().div_ceil(4) as i16 - 1;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    weight -= zeros as i16;
    if groups.is_empty() {
        weight = 0;
    }
    let mut body = Vec::with_capacity(8 + groups.len() * 2);
    body.extend_from_slice(&(groups.len() as u16).to_be_bytes());
    body.extend_from_slice(&weight.to_be_bytes());
    body.extend_from_slice(&sign.to_be_bytes());
    body.extend_from_slice(&(fraction.len() as u16).to_be_bytes());
    groups.iter().for_each(|group| body.extend_from_slice(&group.to_be_bytes()));
    field(&body, out);
}

/// A row that the server sent: its values one by one.
pub(crate) struct RowReader<'a> {
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// A row of so many columns. `None` where the bytes are none.
    pub(crate) fn new(bytes: &'a [u8], columns: usize) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*count)) == columns).then_some(RowReader { rest })
    }

    /// The next value, of that type.
    pub(crate) fn next(&mut self, target: Target) -> Option<Value<'a>> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.rest = rest;
            return Some(Value::Null);
        };
        let bytes = rest.get(..length)?;
        self.rest = &rest[length..];
        value_of(target, bytes)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

fn value_of(target: Target, bytes: &[u8]) -> Option<Value<'_>> {
    let long = || Some(i64::from_be_bytes(bytes.try_into().ok()?));
    Some(match target {
        Target::BigInt => Value::Int(long()?),
        Target::Integer => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Target::SmallInt => Value::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Target::Double => Value::Double(f64::from_be_bytes(bytes.try_into().ok()?)),
        Target::Numeric(_) => Value::Numeric(numeric_of(bytes)?.into()),
        Target::Boolean => Value::Boolean(*bytes.first()? != 0),
        Target::Text | Target::Varchar(_) | Target::Json => Value::Text(Cow::Borrowed(bytes)),
        Target::Bytea => Value::Bytes(Cow::Borrowed(bytes)),
        Target::Timestamptz(_) | Target::Timestamp(_) => {
            Value::Instant(long()?.checked_add(EPOCH_US)?)
        }
        Target::Date => {
            Value::Day(i32::from_be_bytes(bytes.try_into().ok()?).checked_add(EPOCH_DAYS)?)
        }
        Target::Uuid => Value::Uuid(bytes.try_into().ok()?),
    })
}

fn numeric_of(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight) = (words.next()?, words.next()? as i16);
    let (sign, _scale) = (words.next()?, words.next()?);
    match sign {
        NUMERIC_INFINITE => return Some("Infinity".into()),
        NUMERIC_MINUS_INFINITE => return Some("-Infinity".into()),
        0 | NUMERIC_NEGATIVE => {}
        _ => return Some("NaN".into()),
    }
    let groups: Vec<u16> = words.collect();
    if groups.len() != usize::from(count) {
        return None;
    }
    let group = |place: i32| {
        let index = i32::from(weight) - place;
        usize::try_from(index).ok().and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    let mut text = String::new();
    for place in (0..=i32::from(weight)).rev() {
        text.push_str(&format!("{:04}", group(place)));
    }
    let whole = text.trim_start_matches('0');
    let mut text = if whole.is_empty() { "0".to_owned() } else { whole.to_owned() };
    let last = i32::from(weight) - groups.len() as i32 + 1;
    if last < 0 {
        text.push('.');
        (last..0).rev().for_each(|place| text.push_str(&format!("{:04}", group(place))));
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    match sign == NUMERIC_NEGATIVE && text != "0" {
        true => Some(format!("-{text}")),
        false => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::decimal;
    use proptest::prelude::*;

    fn there_and_back(target: Target, value: Value<'_>) {
        let mut row = 1_u16.to_be_bytes().to_vec();
        put(target, &value, &mut row);
        let mut reader = RowReader::new(&row, 1).unwrap();
        assert_eq!(reader.next(target), Some(value));
        assert!(reader.is_empty());
    }

    #[test]
    fn odd_numbers_go_there_and_back() {
        for text in
            ["0", "0.0001", "-0.5", "10000", "99990000", "1.00000001", "Infinity", "-Infinity"]
        {
            there_and_back(Target::Numeric(None), Value::Numeric(text.into()));
        }
        there_and_back(Target::Double, Value::Double(-0.0));
        there_and_back(Target::Date, Value::Day(-719_162));
        there_and_back(Target::Boolean, Value::Boolean(true));
        there_and_back(Target::Text, Value::Null);
    }

    proptest! {
        #[test]
        fn every_double_and_integer_goes_there_and_back(bits: u64, number: i64) {
            let double = f64::from_bits(bits);
            if double.is_finite() {
                there_and_back(Target::Numeric(None), Value::Numeric(decimal(double).into()));
            }
            there_and_back(Target::Numeric(None), Value::Numeric(number.to_string().into()));
            there_and_back(Target::BigInt, Value::Int(number));
        }
    }
}
