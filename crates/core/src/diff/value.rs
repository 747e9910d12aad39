//! Values of rows, and the order that keys come in.

use std::cmp::Ordering;

use super::Shape;

pub(super) const NULL: u8 = 0;
pub(super) const INTEGER: u8 = 1;
pub(super) const REAL: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const BLOB: u8 = 4;

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// None.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// A text as it is stored.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// How texts of a key are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextOrder {
    /// By their bytes in UTF-8.
    #[default]
    Utf8,
    /// By their bytes in UTF-16, little end first.
    Utf16Le,
    /// By their bytes in UTF-16, big end first.
    Utf16Be,
}

/// A value where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ref<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl Ref<'_> {
    /// Whether it is the same, to the last bit.
    pub(super) fn is(&self, other: &Ref<'_>) -> bool {
        match (self, other) {
            (Ref::Null, Ref::Null) => true,
            (Ref::Integer(a), Ref::Integer(b)) => a == b,
            (Ref::Real(a), Ref::Real(b)) => a.to_bits() == b.to_bits(),
            (Ref::Text(a), Ref::Text(b)) | (Ref::Blob(a), Ref::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl From<Ref<'_>> for Value {
    fn from(value: Ref<'_>) -> Value {
        match value {
            Ref::Null => Value::Null,
            Ref::Integer(number) => Value::Integer(number),
            Ref::Real(number) => Value::Real(number),
            Ref::Text(text) => Value::Text(text.to_vec()),
            Ref::Blob(bytes) => Value::Blob(bytes.to_vec()),
        }
    }
}

/// The values of a row that a batch holds.
pub(super) fn values(mut row: &[u8]) -> impl Iterator<Item = Ref<'_>> {
    std::iter::from_fn(move || {
        let (value, rest) = first(row)?;
        row = rest;
        Some(value)
    })
}

fn first(row: &[u8]) -> Option<(Ref<'_>, &[u8])> {
    let (kind, rest) = row.split_first()?;
    if *kind == NULL {
        return Some((Ref::Null, rest));
    }
    let (eight, rest) = rest.split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*eight);
    match *kind {
        INTEGER => Some((Ref::Integer(number.cast_signed()), rest)),
        REAL => Some((Ref::Real(f64::from_bits(number)), rest)),
        kind => {
            let (bytes, rest) = rest.split_at_checked(usize::try_from(number).ok()?)?;
            Some((if kind == TEXT { Ref::Text(bytes) } else { Ref::Blob(bytes) }, rest))
        }
    }
}

/// The first values of a row.
pub(super) fn prefix(row: &[u8], count: usize) -> &[u8] {
    let mut rest = row;
    for _ in 0..count {
        let Some((_, after)) = first(rest) else { break };
        rest = after;
    }
    &row[..row.len() - rest.len()]
}

/// The order of two rows by their keys.
pub(super) fn compare_keys(a: &[u8], b: &[u8], shape: &Shape) -> Ordering {
    let pairs = values(a).zip(values(b)).take(shape.key);
    let orders = pairs.map(|(a, b)| compare(a, b, shape.text_order));
    orders.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Nothing, then numbers, then texts, then bytes: as SQLite orders them.
fn compare(a: Ref<'_>, b: Ref<'_>, order: TextOrder) -> Ordering {
    let rank = |value: Ref<'_>| match value {
        Ref::Null => 0,
        Ref::Integer(_) | Ref::Real(_) => 1,
        Ref::Text(_) => 2,
        Ref::Blob(_) => 3,
    };
    match (a, b) {
        (Ref::Integer(a), Ref::Integer(b)) => a.cmp(&b),
        (Ref::Real(a), Ref::Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Ref::Integer(a), Ref::Real(b)) => mixed(a, b),
        (Ref::Real(a), Ref::Integer(b)) => mixed(b, a).reverse(),
        (Ref::Text(a), Ref::Text(b)) => texts(a, b, order),
        (Ref::Blob(a), Ref::Blob(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// A whole number beside one with a fraction, exactly.
fn mixed(whole: i64, real: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match real {
        real if real >= LIMIT => Ordering::Less,
        real if real < -LIMIT => Ordering::Greater,
        real => {
            let floor = real.floor();
            let behind = if real > floor { Ordering::Less } else { Ordering::Equal };
            whole.cmp(&(floor as i64)).then(behind)
        }
    }
}

fn texts(a: &[u8], b: &[u8], order: TextOrder) -> Ordering {
    let units = |text: &[u8], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        String::from_utf8_lossy(text).encode_utf16().flat_map(bytes).collect()
    };
    match order {
        TextOrder::Utf8 => a.cmp(b),
        TextOrder::Utf16Le => units(a, u16::to_le_bytes).cmp(&units(b, u16::to_le_bytes)),
        TextOrder::Utf16Be => units(a, u16::to_be_bytes).cmp(&units(b, u16::to_be_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_exactly() {
        assert_eq!(mixed(3, 3.0), Ordering::Equal);
        assert_eq!(mixed(3, 3.5), Ordering::Less);
        assert_eq!(mixed(-3, -3.5), Ordering::Greater);
        assert_eq!(mixed(i64::MAX, 9_223_372_036_854_775_808.0), Ordering::Less);
        assert_eq!(mixed(i64::MAX, f64::INFINITY), Ordering::Less);
        assert_eq!(mixed(i64::MIN, f64::NEG_INFINITY), Ordering::Greater);
        assert_eq!(mixed(9_007_199_254_740_993, 9_007_199_254_740_992.0), Ordering::Greater);
    }

    #[test]
    fn texts_of_utf16_are_ordered_by_their_bytes_there() {
        let (a, b) = ("\u{100}".as_bytes(), "a".as_bytes());
        assert_eq!(texts(a, b, TextOrder::Utf8), Ordering::Greater);
        assert_eq!(texts(a, b, TextOrder::Utf16Le), Ordering::Less);
        assert_eq!(texts(a, b, TextOrder::Utf16Be), Ordering::Greater);
    }
}
