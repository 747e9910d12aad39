//! What the values of a column really are, whatever was declared.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::digest::{Digest, RowHash};
use crate::ids::IdSet;
use crate::scan::{Part, scan_part};
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
    /// Values that are not ids of the table that they refer to, where that is looked at.
    pub(crate) unknown_ids: u64,
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

    /// Takes what was seen in another part of the table.
    fn merge(&mut self, other: &ColumnProfile) {
        if other.integers > 0 {
            let is_first = self.integers == 0;
            let (least, most) = (other.integer_min, other.integer_max);
            self.integer_min = if is_first { least } else { self.integer_min.min(least) };
            self.integer_max = if is_first { most } else { self.integer_max.max(most) };
        }
        if other.reals > 0 {
            let is_first = self.reals == 0;
            let (least, most) = (other.real_min, other.real_max);
            self.real_min = if is_first { least } else { self.real_min.min(least) };
            self.real_max = if is_first { most } else { self.real_max.max(most) };
        }
        self.bytes_max = self.bytes_max.max(other.bytes_max);
        self.letters_max = self.letters_max.max(other.letters_max);
        for (mine, its) in self.counts().into_iter().zip(other.clone().counts()) {
            *mine += *its;
        }
    }

    fn counts(&mut self) -> [&mut u64; 20] {
        [
            &mut self.nulls,
            &mut self.integers,
            &mut self.reals,
            &mut self.texts,
            &mut self.blobs,
            &mut self.zero_or_one,
            &mut self.inexact,
            &mut self.seconds,
            &mut self.milliseconds,
            &mut self.julian,
            &mut self.nul,
            &mut self.not_utf8,
            &mut self.empty,
            &mut self.dates,
            &mut self.moments,
            &mut self.moments_utc,
            &mut self.moments_elsewhere,
            &mut self.truths,
            &mut self.too_many_digits,
            &mut self.unknown_ids,
        ]
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

impl TableProfile {
    /// Takes what was seen in another part of the table.
    pub(crate) fn merge(&mut self, other: &TableProfile) {
        self.digest.merge(other.digest);
        let columns = self.columns.iter_mut().zip(&other.columns);
        columns.for_each(|(mine, its)| mine.merge(its));
    }
}

/// Reads a part of a table once. Columns that refer to the ids of a table come with those.
pub(crate) fn profile(
    env: &Env,
    connection: &Connection,
    table: &Table,
    part: Part,
    ids: &[Option<&IdSet>],
) -> Result<TableProfile> {
    let limits: Vec<_> =
        table.columns.iter().map(|column| declared_numbers(&column.declared)).collect();
    let mut profile = TableProfile {
        columns: vec![ColumnProfile::default(); table.columns.len()],
        ..TableProfile::default()
    };
    let mut hash = RowHash::default();
    scan_part(env, connection, table, part, |row| {
        for (place, column) in profile.columns.iter_mut().enumerate() {
            let value = row.value(place)?;
            hash.raw(value);
            column.note(value, limits[place]);
            if let Some(ids) = ids[place] {
                column.unknown_ids += u64::from(!ids.is_met_by(value));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_together_are_the_whole() {
        let values = [
            ValueRef::Integer(5),
            ValueRef::Null,
            ValueRef::Integer(-7),
            ValueRef::Real(1.5),
            ValueRef::Text(b"2024-01-01"),
            ValueRef::Text(b"true"),
            ValueRef::Text(b"\xff"),
            ValueRef::Blob(b"1234567890123"),
            ValueRef::Real(-2.5),
            ValueRef::Integer(1_700_000_000),
        ];
        for split in 0..=values.len() {
            let seen = |values: &[ValueRef<'_>]| {
                let mut profile = ColumnProfile::default();
                values.iter().for_each(|value| profile.note(*value, None));
                profile
            };
            let (whole, mut parts) = (seen(&values), seen(&values[..split]));
            parts.merge(&seen(&values[split..]));
            // Dates and truths are counted for as long as all texts are some.
            (parts.dates, parts.truths) = (whole.dates, whole.truths);
            assert_eq!(format!("{parts:?}"), format!("{whole:?}"), "{split}");
        }
    }
}
