//! Types of PostgreSQL that values of SQLite can become, and the values in between.
//!
//! A value is converted once, from what SQLite says it is; encoded for the server by
//! [`crate::binary`]; and read back from what the server has. Both sides are compared as such
//! values: what a table holds is proved, not what was sent.

use std::borrow::Cow;

use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};

use crate::time;

/// The server takes no larger value.
pub(crate) const VALUE_BYTES_MAX: usize = 1_073_000_000;

/// How instants are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    /// As ISO texts.
    Text,
    /// Seconds since 1970.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Julian days.
    Julian,
}

/// A type of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    BigInt,
    Integer,
    SmallInt,
    Double,
    /// Without limits, or with a precision and a scale.
    Numeric(Option<(u32, u32)>),
    Boolean,
    Text,
    Varchar(u32),
    Bytea,
    Timestamptz(Form),
    Timestamp(Form),
    Date,
    Json,
    Uuid,
}

/// A value that fits its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Double(f64),
    /// A decimal without an exponent and without zeros at the end of its fraction.
    Numeric(Cow<'a, str>),
    Boolean(bool),
    Text(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    /// Microseconds since 1970.
    Instant(i64),
    /// Days since 1970.
    Day(i32),
    Uuid([u8; 16]),
}

/// Why a value does not fit.
pub(crate) type Misfit = &'static str;

impl Target {
    /// Its name in SQL.
    pub(crate) fn sql(self) -> String {
        match self {
            Target::BigInt => "bigint".into(),
            Target::Integer => "integer".into(),
            Target::SmallInt => "smallint".into(),
            Target::Double => "double precision".into(),
            Target::Numeric(None) => "numeric".into(),
            Target::Numeric(Some((precision, scale))) => format!("numeric({precision},{scale})"),
            Target::Boolean => "boolean".into(),
            Target::Text => "text".into(),
            Target::Varchar(length) => format!("varchar({length})"),
            Target::Bytea => "bytea".into(),
            Target::Timestamptz(_) => "timestamp with time zone".into(),
            Target::Timestamp(_) => "timestamp without time zone".into(),
            Target::Date => "date".into(),
            Target::Json => "json".into(),
            Target::Uuid => "uuid".into(),
        }
    }

    /// The type of that name, as a mapping gives it. The form of instants is decided by values.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), rest.strip_suffix(')')?),
            None => (text.as_str(), ""),
        };
        let mut numbers = arguments.split(',').map(|number| number.trim().parse::<u32>().ok());
        let (first, second) = (numbers.next().flatten(), numbers.next().flatten());
        Some(match name {
            "bigint" | "int8" => Target::BigInt,
            "integer" | "int" | "int4" => Target::Integer,
            "smallint" | "int2" => Target::SmallInt,
            "double precision" | "float8" | "double" => Target::Double,
            "numeric" | "decimal" => {
                Target::Numeric(first.map(|precision| (precision, second.unwrap_or(0))))
            }
            "boolean" | "bool" => Target::Boolean,
            "text" => Target::Text,
            "varchar" | "character varying" => first.map_or(Target::Text, Target::Varchar),
            "bytea" => Target::Bytea,
            "timestamptz" | "timestamp with time zone" => Target::Timestamptz(Form::Text),
            "timestamp" | "timestamp without time zone" => Target::Timestamp(Form::Text),
            "date" => Target::Date,
            "json" => Target::Json,
            "uuid" => Target::Uuid,
            _ => return None,
        })
    }

    /// Whether values are kept as texts that have a collation.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Target::Text | Target::Varchar(_))
    }

    /// What a value of SQLite becomes. `loose` lets texts be made of numbers, and bytes of texts.
    pub(crate) fn convert<'a>(self, value: ValueRef<'a>, loose: bool) -> Result<Value<'a>, Misfit> {
        if let ValueRef::Null = value {
            return Ok(Value::Null);
        }
        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = value
            && bytes.len() > VALUE_BYTES_MAX
        {
            return Err("larger than the server takes");
        }
        match self {
            Target::BigInt => int(value, i64::MIN, i64::MAX),
            Target::Integer => int(value, i32::MIN.into(), i32::MAX.into()),
            Target::SmallInt => int(value, i16::MIN.into(), i16::MAX.into()),
            Target::Double => double(value),
            Target::Numeric(limits) => numeric(value, limits),
            Target::Boolean => boolean(value),
            Target::Text => text(value, None, loose),
            Target::Varchar(length) => text(value, Some(length), loose),
            Target::Bytea => match value {
                ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes.into())),
                ValueRef::Text(bytes) if loose => Ok(Value::Bytes(bytes.into())),
                ValueRef::Text(_) => Err("a text among blobs"),
                _ => match text(value, None, loose) {
                    Ok(Value::Text(bytes)) => Ok(Value::Bytes(bytes)),
                    _ => Err("a number among blobs"),
                },
            },
            Target::Timestamptz(form) | Target::Timestamp(form) => {
                instant(value, form).map(Value::Instant)
            }
            Target::Date => match value {
                ValueRef::Text(bytes) => {
                    time::days_of(bytes).map(Value::Day).ok_or("not a date YYYY-MM-DD")
                }
                _ => Err("not a date YYYY-MM-DD"),
            },
            Target::Json => {
                let json = text(value, None, false)?;
                match value {
                    ValueRef::Text(bytes)
                        if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() =>
                    {
                        Ok(json)
                    }
                    _ => Err("not JSON"),
                }
            }
            Target::Uuid => match value {
                ValueRef::Text(bytes) => uuid(bytes).map(Value::Uuid).ok_or("not a UUID"),
                _ => Err("not a UUID"),
            },
        }
    }
}

fn int(value: ValueRef<'_>, least: i64, most: i64) -> Result<Value<'static>, Misfit> {
    match value {
        ValueRef::Integer(number) if (least..=most).contains(&number) => Ok(Value::Int(number)),
        ValueRef::Integer(_) => Err("out of the range of the type"),
        ValueRef::Real(_) => Err("a fraction among integers"),
        ValueRef::Text(_) => Err("a text among numbers"),
        _ => Err("a blob among numbers"),
    }
}

fn double(value: ValueRef<'_>) -> Result<Value<'static>, Misfit> {
    match value {
        ValueRef::Real(number) => Ok(Value::Double(number)),
        ValueRef::Integer(number) if is_exact(number) => Ok(Value::Double(number as f64)),
        ValueRef::Integer(_) => Err("an integer that a double cannot hold"),
        ValueRef::Text(_) => Err("a text among numbers"),
        _ => Err("a blob among numbers"),
    }
}

/// Whether a double holds that integer.
pub(crate) fn is_exact(number: i64) -> bool {
    number.unsigned_abs() <= 1 << 53
}

fn numeric(value: ValueRef<'_>, limits: Option<(u32, u32)>) -> Result<Value<'static>, Misfit> {
    let text = match value {
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => decimal(number),
        ValueRef::Text(_) => return Err("a text among numbers"),
        _ => return Err("a blob among numbers"),
    };
    if let Some((precision, scale)) = limits {
        let digits = text.trim_start_matches('-');
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = whole.trim_start_matches('0');
        let fits = whole.len() + scale as usize <= precision as usize
            && fraction.len() <= scale as usize
            && !digits.contains("Inf");
        if !fits {
            return Err("more digits than the type has");
        }
    }
    Ok(Value::Numeric(text.into()))
}

/// The shortest decimal that is this double and no other, without an exponent.
pub(crate) fn decimal(number: f64) -> String {
    match number {
        _ if number.is_infinite() && number > 0.0 => "Infinity".into(),
        _ if number.is_infinite() => "-Infinity".into(),
        // A numeric has no negative zero.
        _ if number == 0.0 => "0".into(),
        _ => format!("{number}"),
    }
}

fn boolean(value: ValueRef<'_>) -> Result<Value<'static>, Misfit> {
    match value {
        ValueRef::Integer(0) => Ok(Value::Boolean(false)),
        ValueRef::Integer(1) => Ok(Value::Boolean(true)),
        ValueRef::Integer(_) => Err("neither 0 nor 1"),
        ValueRef::Text(b"true" | b"TRUE" | b"True" | b"t") => Ok(Value::Boolean(true)),
        ValueRef::Text(b"false" | b"FALSE" | b"False" | b"f") => Ok(Value::Boolean(false)),
        _ => Err("neither true nor false"),
    }
}

fn text(value: ValueRef<'_>, letters_max: Option<u32>, loose: bool) -> Result<Value<'_>, Misfit> {
    let bytes = match value {
        ValueRef::Text(bytes) => bytes,
        ValueRef::Integer(number) if loose => {
            return Ok(Value::Text(Cow::Owned(number.to_string().into_bytes())));
        }
        ValueRef::Real(number) if loose => {
            return Ok(Value::Text(Cow::Owned(format!("{number:?}").into_bytes())));
        }
        ValueRef::Blob(_) => return Err("a blob among texts"),
        _ => return Err("a number among texts"),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    if bytes.contains(&0) {
        return Err("a NUL byte in a text");
    }
    let too_long = |most: u32| text.chars().count() > most as usize;
    match letters_max.is_some_and(too_long) {
        true => Err("longer than the type allows"),
        false => Ok(Value::Text(Cow::Borrowed(bytes))),
    }
}

fn instant(value: ValueRef<'_>, form: Form) -> Result<i64, Misfit> {
    // What the server keeps: 4713 BC to 294276 AD, well beyond what SQLite's functions know.
    const LEAST: i64 = -200_000_000_000_000_000;
    const MOST: i64 = 9_000_000_000_000_000_000;
    let within = |micros: i64| (LEAST..=MOST).contains(&micros).then_some(micros);
    let scaled = |number: i64, by: i64| {
        number.checked_mul(by).and_then(within).ok_or("beyond the dates that the server knows")
    };
    match (value, form) {
        (ValueRef::Text(bytes), Form::Text) => match time::parse(bytes) {
            Some(parsed) => Ok(parsed.micros),
            None => Err("not a date and time"),
        },
        (ValueRef::Integer(number), Form::Seconds) => scaled(number, 1_000_000),
        (ValueRef::Integer(number), Form::Milliseconds) => scaled(number, 1_000),
        (ValueRef::Real(day), Form::Julian) => time::of_julian(day).ok_or("not a Julian day"),
        (ValueRef::Integer(day), Form::Julian) => {
            time::of_julian(day as f64).ok_or("not a Julian day")
        }
        _ => Err("not a date and time of the form that the others have"),
    }
}

fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = 0;
    for (place, byte) in text.iter().enumerate() {
        match (place, byte) {
            (8 | 13 | 18 | 23, b'-') => {}
            (8 | 13 | 18 | 23, _) => return None,
            (_, b'0'..=b'9' | b'a'..=b'f') if digits < 32 => {
                let digit = if byte.is_ascii_digit() { byte - b'0' } else { byte - b'a' + 10 };
                uuid[digits / 2] |= digit << (4 * (1 - digits % 2));
                digits += 1;
            }
            _ => return None,
        }
    }
    (digits == 32 && text.len() == 36).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |target: Target, value: ValueRef<'_>| {
            assert!(target.convert(value, false).is_err(), "{target:?} {value:?}");
        };
        refused(Target::BigInt, ValueRef::Text(b"abc"));
        refused(Target::BigInt, ValueRef::Real(1.5));
        refused(Target::Integer, ValueRef::Integer(1 << 31));
        refused(Target::Double, ValueRef::Integer(i64::MAX));
        refused(Target::Boolean, ValueRef::Integer(2));
        refused(Target::Text, ValueRef::Text(b"a\0b"));
        refused(Target::Text, ValueRef::Text(b"\xed\xa0\x80"));
        refused(Target::Text, ValueRef::Blob(b"a"));
        refused(Target::Varchar(2), ValueRef::Text("äöü".as_bytes()));
        refused(Target::Numeric(Some((4, 2))), ValueRef::Real(1.234));
        refused(Target::Numeric(Some((4, 2))), ValueRef::Integer(100));
        refused(Target::Date, ValueRef::Text(b"2024-02-30"));
        refused(Target::Timestamptz(Form::Seconds), ValueRef::Integer(i64::MAX));
        refused(Target::Uuid, ValueRef::Text(b"123e4567-e89b-12d3-a456-42661417400"));
        refused(Target::Json, ValueRef::Text(b"{a:1}"));
    }

    #[test]
    fn what_fits_is_what_it_was() {
        let is = |target: Target, value, expected: Value<'_>| {
            assert_eq!(target.convert(value, false), Ok(expected));
        };
        is(Target::Numeric(None), ValueRef::Real(12.34), Value::Numeric("12.34".into()));
        is(
            Target::Numeric(None),
            ValueRef::Real(1e21),
            Value::Numeric("1000000000000000000000".into()),
        );
        is(Target::Numeric(Some((4, 2))), ValueRef::Real(-99.99), Value::Numeric("-99.99".into()));
        is(Target::Boolean, ValueRef::Text(b"true"), Value::Boolean(true));
        is(
            Target::Varchar(3),
            ValueRef::Text("äöü".as_bytes()),
            Value::Text("äöü".as_bytes().into()),
        );
        is(Target::Timestamptz(Form::Milliseconds), ValueRef::Integer(5), Value::Instant(5_000));
        assert_eq!(Target::parse("Numeric(10, 2)"), Some(Target::Numeric(Some((10, 2)))));
        assert_eq!(Target::parse("what"), None);
    }
}
