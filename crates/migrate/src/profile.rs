//! What the values of a column really are, whatever was declared.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::digest::{Digest, RowHash};
use crate::scan::scan;
use crate::schema::Table;
use crate::target::{Target, is_exact};
use crate::time::{self, Zone};

/// From 2000 to 2100, in seconds: what looks like a moment.
const SECONDS: std::ops::Range<i64> = 946_684_800..4_102_444_800;

/// What was seen in a column.
#[derive(Clone, Debug, Default)]
pub(crate) struct ColumnProfile {
    pub(crate) nulls: u64,
    pub(crate) integers: u64,
    pub(crate) reals: u64,
    pub(crate) texts: u64,
    pub(crate) blobs: u64,
    /// Of the integers: the least, the greatest, 0 or 1, beyond 2^53, like seconds or milliseconds
    /// of this century.
    pub(crate) integer_min: i64,
    pub(crate) integer_max: i64,
    pub(crate) zero_or_one: u64,
    pub(crate) inexact: u64,
    pub(crate) seconds: u64,
    pub(crate) milliseconds: u64,
    /// Of the reals.
    pub(crate) real_min: f64,
    pub(crate) real_max: f64,
    pub(crate) julian: u64,
    /// Of texts and blobs.
    pub(crate) bytes_max: usize,
    pub(crate) letters_max: usize,
    pub(crate) nul: u64,
    pub(crate) not_utf8: u64,
    pub(crate) empty: u64,
    pub(crate) dates: u64,
    pub(crate) moments: u64,
    pub(crate) moments_utc: u64,
    pub(crate) moments_elsewhere: u64,
    pub(crate) truths: u64,
    /// Values that exceed the digits that were declared.
    pub(crate) too_many_digits: u64,
}

impl ColumnProfile {
    /// Values that are not NULL.
    pub(crate) fn values(&self) -> u64 {
        self.integers + self.reals + self.texts + self.blobs
    }

    /// Whether all texts can be texts of PostgreSQL.
    pub(crate) fn texts_are_clean(&self) -> bool {
        self.nul == 0 && self.not_utf8 == 0
    }

    fn note(&mut self, value: ValueRef<'_>, limits: Option<(u32, u32)>) {
        match value {
            ValueRef::Null => self.nulls += 1,
            ValueRef::Integer(number) => self.note_integer(number),
            ValueRef::Real(number) => {
                let (least, most) = match self.reals {
                    0 => (number, number),
                    _ => (self.real_min.min(number), self.real_max.max(number)),
                };
                (self.real_min, self.real_max) = (least, most);
                self.reals += 1;
                self.julian += u64::from(time::of_julian(number).is_some());
            }
            ValueRef::Text(bytes) => self.note_text(bytes),
            ValueRef::Blob(bytes) => {
                self.blobs += 1;
                self.bytes_max = self.bytes_max.max(bytes.len());
            }
        }
        if limits.is_some() && matches!(value, ValueRef::Integer(_) | ValueRef::Real(_)) {
            let fits = Target::Numeric(limits).convert(value, false).is_ok();
            self.too_many_digits += u64::from(!fits);
        }
    }

    fn note_integer(&mut self, number: i64) {
        let (least, most) = match self.integers {
            0 => (number, number),
            _ => (self.integer_min.min(number), self.integer_max.max(number)),
        };
        (self.integer_min, self.integer_max) = (least, most);
        self.integers += 1;
        self.zero_or_one += u64::from(matches!(number, 0 | 1));
        self.inexact += u64::from(!is_exact(number));
        self.seconds += u64::from(SECONDS.contains(&number));
        self.milliseconds += u64::from(SECONDS.contains(&(number / 1_000)));
    }

    fn note_text(&mut self, bytes: &[u8]) {
        let before = self.texts;
        self.texts += 1;
        self.bytes_max = self.bytes_max.max(bytes.len());
        self.empty += u64::from(bytes.is_empty());
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                // Letters are never more than bytes: they are counted where it matters.
                if bytes.len() > self.letters_max {
                    self.letters_max = self.letters_max.max(text.chars().count());
                }
                self.nul += u64::from(bytes.contains(&0));
            }
            Err(_) => self.not_utf8 += 1,
        }
        // Most columns of texts are no dates: the first one that is none tells.
        let until_now = self.dates + self.moments + self.moments_utc + self.moments_elsewhere;
        if until_now == before {
            match time::parse(bytes) {
                Some(parsed) if parsed.date_only => self.dates += 1,
                Some(parsed) => match parsed.zone {
                    Zone::Unsaid => self.moments += 1,
                    Zone::Utc => self.moments_utc += 1,
                    Zone::Other => self.moments_elsewhere += 1,
                },
                None => {}
            }
        }
        if self.truths == before {
            let is_truth = Target::Boolean.convert(ValueRef::Text(bytes), false).is_ok();
            self.truths += u64::from(is_truth);
        }
    }
}

/// What was seen in a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableProfile {
    pub(crate) columns: Vec<ColumnProfile>,
    /// The rows as SQLite has them.
    pub(crate) digest: Digest,
}

/// Reads a table once.
pub(crate) fn profile(env: &Env, connection: &Connection, table: &Table) -> Result<TableProfile> {
    let limits: Vec<_> =
        table.columns.iter().map(|column| declared_numbers(&column.declared)).collect();
    let mut profile = TableProfile {
        columns: vec![ColumnProfile::default(); table.columns.len()],
        ..TableProfile::default()
    };
    let mut hash = RowHash::default();
    scan(env, connection, table, |row| {
        for (place, column) in profile.columns.iter_mut().enumerate() {
            let value = row.value(place)?;
            hash.raw(value);
            column.note(value, limits[place]);
        }
        profile.digest.add(hash.finish());
        Ok(())
    })?;
    Ok(profile)
}

/// Precision and scale of `DECIMAL(10, 2)`.
pub(crate) fn declared_numbers(declared: &str) -> Option<(u32, u32)> {
    let (name, rest) = declared.split_once('(')?;
    let upper = name.to_ascii_uppercase();
    if !upper.contains("DEC") && !upper.contains("NUMERIC") {
        return None;
    }
    let mut numbers = rest.trim_end().strip_suffix(')')?.split(',').map(|one| one.trim().parse());
    let precision = numbers.next()?.ok()?;
    let scale = numbers.next().and_then(|scale| scale.ok()).unwrap_or(0);
    (1..=1_000).contains(&precision).then_some((precision, scale))
}
