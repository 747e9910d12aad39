//! The values that are text in the configuration and something else inside: sizes, periods, what
//! core reads from text, and keys that take a text or a table.
//!
//! Each is read by one function that names what it expects, serves the command line as well, and
//! writes itself back as the text that a person would have chosen.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// A value that is written as a text.
pub(crate) trait Written: Sized + fmt::Display {
    /// What is expected, for messages: "a size such as \"512MB\"".
    const EXPECTED: &'static str;

    /// Reads it, or says what is wrong with it.
    fn read(text: &str) -> Result<Self, String>;
}

/// Reads and writes a [`Written`] in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);
        impl<T: Written> Visitor<'_> for Reader<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::read(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Reader(PhantomData)).map(Text)
    }
}

impl<T: Written> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<T> JsonSchema for Text<T> {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The message of an error of core with its hint, for a place where only text fits.
fn in_one(error: &lifeboat_core::Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{}: {hint}", error.message()),
        None => error.message().to_owned(),
    }
}

impl Written for Compression {
    const EXPECTED: &'static str = "a compression such as \"zstd:3\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| in_one(&error))
    }
}

impl Written for NamePattern {
    const EXPECTED: &'static str = "a name pattern such as \"{source}-{date}-{time}\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| in_one(&error))
    }
}

impl Written for Size {
    const EXPECTED: &'static str = "a size such as \"512MB\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Written for Period {
    const EXPECTED: &'static str = "a length of time such as \"1h\"";

    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// A size in bytes, written as "512MB" or "1GiB".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// The size in bytes.
    pub(crate) bytes: u64,
}

/// The units of [`Size`], the longer names first: a text must not match the tail of another.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size: write a number and B, kB, MB, GB or MiB");
        let (number, factor) = SIZE_UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .ok_or_else(wrong)?;
        let number: u64 = number.trim_end().parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(factor).ok_or_else(wrong)?;
        Ok(Size { bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |unit: &&(&str, u64)| self.bytes != 0 && self.bytes.is_multiple_of(unit.1);
        let (unit, factor) =
            SIZE_UNITS.iter().filter(exact).max_by_key(|(_, factor)| *factor).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.bytes / factor)
    }
}

/// A length of time, written as "90s", "15m", "1h", "7d" or "2w".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Period {
    /// The length in milliseconds.
    pub(crate) milliseconds: u64,
}

/// The units of [`Period`] in milliseconds, "ms" before its parts.
const PERIOD_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("y", 365 * 86_400_000),
];

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a length of time: write 90s, 15m, 1h, 7d or 2w");
        let mut rest = text.trim();
        let mut milliseconds: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let factor = PERIOD_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let part = number.checked_mul(factor).ok_or_else(wrong)?;
            milliseconds = milliseconds.checked_add(part).ok_or_else(wrong)?;
            rest = tail.trim_start();
        }
        Ok(Period { milliseconds })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |unit: &&(&str, u64)| {
            self.milliseconds != 0 && self.milliseconds.is_multiple_of(unit.1)
        };
        let (unit, factor) = PERIOD_UNITS
            .iter()
            .filter(exact)
            .filter(|(unit, _)| *unit != "y")
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(&("s", 1_000));
        write!(f, "{}{unit}", self.milliseconds / factor)
    }
}

/// A table that may also be written as one text, its most important key.
pub(crate) trait FromText: Sized {
    /// What is expected, for messages: "a path, or a table with `path` or `glob`".
    const EXPECTED: &'static str;

    /// The table that the text stands for.
    fn from_text(text: &str) -> Result<Self, String>;

    /// The text that stands for this table, where nothing else is set in it.
    fn to_text(&self) -> Option<String>;
}

/// Reads and writes a [`FromText`]. A type of its own, so that an error points at the key inside
/// the table; serde's untagged enums say only that nothing matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextOr<T>(pub(crate) T);

impl<'de, T: FromText + DeserializeOwned> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: FromText + DeserializeOwned> Visitor<'de> for Either<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Either(PhantomData)).map(TextOr)
    }
}

impl<T: FromText + Serialize> Serialize for TextOr<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_text() {
            Some(text) => serializer.serialize_str(&text),
            None => self.0.serialize(serializer),
        }
    }
}

impl<T: JsonSchema> JsonSchema for TextOr<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("TextOr{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_back() {
        for text in ["512MB", "1GiB", "20kB", "7B", "3TB"] {
            assert_eq!(
                text.parse::<Size>().unwrap().to_string().to_lowercase(),
                text.to_lowercase()
            );
        }
        assert_eq!("1 GiB".parse::<Size>().unwrap().bytes, 1 << 30);
        for wrong in ["", "12", "MB", "-1MB", "1.5GB", "99999999999TB", "12 parsecs"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn periods_add_up() {
        assert_eq!("1h30m".parse::<Period>().unwrap().milliseconds, 5_400_000);
        assert_eq!("90m".parse::<Period>().unwrap().to_string(), "90m");
        assert_eq!("14d".parse::<Period>().unwrap().to_string(), "2w");
        for wrong in ["", "1", "h", "1 fortnight", "-1h", "99999999999999999999h"] {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
    }
}
