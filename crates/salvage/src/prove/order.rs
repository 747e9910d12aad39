//! The order of index entries, by SQLite's rules for built-in collations.

use std::cmp::Ordering;

use crate::record::Value;

/// How texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collation {
    Binary,
    NoCase,
    RightTrim,
}

impl Collation {
    /// By its name; `None` for one that an application brings.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" => Some(Collation::Binary),
            "NOCASE" => Some(Collation::NoCase),
            "RTRIM" => Some(Collation::RightTrim),
            _ => None,
        }
    }

    fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Collation::Binary => a.cmp(b),
            Collation::NoCase => {
                let lower = |byte: &u8| byte.to_ascii_lowercase();
                a.iter().map(lower).cmp(b.iter().map(lower))
            }
            Collation::RightTrim => trimmed(a).cmp(trimmed(b)),
        }
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// One column of an index: how it is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) collation: Collation,
    pub(super) descending: bool,
}

/// Compares two entries by so many columns as there are parts.
pub(super) fn compare(parts: &[Part], a: &[Value<'_>], b: &[Value<'_>]) -> Ordering {
    for (part, (a, b)) in parts.iter().zip(a.iter().zip(b)) {
        let order = of_values(part.collation, a, b);
        if order != Ordering::Equal {
            return if part.descending { order.reverse() } else { order };
        }
    }
    Ordering::Equal
}

/// NULL is before numbers, these are before texts, and blobs are last.
fn of_values(collation: Collation, a: &Value<'_>, b: &Value<'_>) -> Ordering {
    let class = |value: &Value<'_>| match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    };
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Value::Integer(a), Value::Real(b)) => of_numbers(*a, *b),
        (Value::Real(a), Value::Integer(b)) => of_numbers(*b, *a).reverse(),
        (Value::Text(a), Value::Text(b)) => collation.compare(a, b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

/// Without a loss: not every integer is a number of the other kind.
fn of_numbers(integer: i64, real: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real >= LIMIT {
        return Ordering::Less;
    }
    if real < -LIMIT {
        return Ordering::Greater;
    }
    let whole = real.trunc();
    integer
        .cmp(&(whole as i64))
        .then_with(|| 0.0_f64.partial_cmp(&(real - whole)).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use rusqlite::types::ValueRef;

    use super::*;

    /// SQLite itself sorts, and we must agree with each pair.
    #[test]
    fn sqlite_orders_values_in_the_same_way() {
        let connection = Connection::open_in_memory().unwrap();
        let values = "NULL, 0, 1, -1, 9007199254740993, 9007199254740992.0, 9223372036854775807, \
            9.3e18, -9.3e18, 0.5, -0.5, 1.0, 1.5, '', 'a', 'A', 'a ', 'b', 'ab', 'B  ', 'Ä', 'ä', \
            '1', x'', x'00', x'61', x'ff'";
        for name in ["BINARY", "NOCASE", "RTRIM"] {
            let values: Vec<String> = values.split(", ").map(|v| format!("({v})")).collect();
            let values = values.join(", ");
            let sql = format!(
                "WITH t(x) AS (VALUES {values}) SELECT a.x, b.x, \
                 a.x COLLATE {name} < b.x, a.x COLLATE {name} = b.x FROM t a, t b"
            );
            let mut statement = connection.prepare(&sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            let part = Part { collation: Collation::of(name).unwrap(), descending: false };
            let mut count = 0;
            while let Some(row) = rows.next().unwrap() {
                let value = |index| match row.get_ref(index).unwrap() {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(number) => Value::Integer(number),
                    ValueRef::Real(number) => Value::Real(number),
                    ValueRef::Text(text) => Value::Text(text),
                    ValueRef::Blob(bytes) => Value::Blob(bytes),
                };
                let less: Option<bool> = row.get(2).unwrap();
                let equal: Option<bool> = row.get(3).unwrap();
                // With NULL no comparison of SQL says anything.
                let (Some(less), Some(equal)) = (less, equal) else { continue };
                let order = compare(&[part], &[value(0)], &[value(1)]);
                let both = (order == Ordering::Less, order == Ordering::Equal);
                assert_eq!(both, (less, equal), "{name} {:?} {:?}", value(0), value(1));
                count += 1;
            }
            assert!(count > 600);
        }
        let down = Part { collation: Collation::Binary, descending: true };
        let order = compare(&[down], &[Value::Null], &[Value::Integer(1)]);
        assert_eq!(order, Ordering::Greater);
    }
}
