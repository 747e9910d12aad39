//! What of the newest backup is far from what is usual for it. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::alert::Code;
use crate::ui::units;

/// So many backups are needed before one can be unusual.
const SAMPLES_MIN: usize = 3;
/// By so much may it differ from the median, in percent.
const DIFFERENCE_PERCENT_MAX: u64 = 50;
/// A smaller difference is never unusual: bytes, rows.
const SLACK: (u64, u64) = (64 << 10, 1_000);

/// A good backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it was taken.
    pub(crate) taken_at: Timestamp,
    /// Its bytes when restored.
    pub(crate) bytes: u64,
    /// The rows of all tables, where they were counted.
    pub(crate) rows: Option<u64>,
}

/// Compares with the median of those before it: of the same weekday, where there are enough, as
/// weekends may differ.
pub(super) fn unusual(samples: &[Sample]) -> Vec<(Code, String)> {
    let Some((newest, before)) = samples.split_last() else { return Vec::new() };
    let weekday = |sample: &Sample| sample.taken_at.to_zoned(TimeZone::UTC).weekday();
    let same: Vec<&Sample> =
        before.iter().filter(|sample| weekday(sample) == weekday(newest)).collect();
    let (of, whom) = match same.len() >= SAMPLES_MIN {
        true => (same, "the same weekday"),
        false => (before.iter().collect(), "before"),
    };
    let mut found = Vec::new();
    let bytes = median(of.iter().map(|sample| sample.bytes).collect());
    if let Some(usual) = bytes.filter(|usual| is_far(newest.bytes, *usual, SLACK.0)) {
        let (newest, usual) = (units::bytes(newest.bytes), units::bytes(usual));
        let what = format!("the newest backup has {newest}, those of {whom} have {usual}");
        found.push((Code::SizeUnusual, what));
    }
    let rows = median(of.iter().filter_map(|sample| sample.rows).collect());
    if let (Some(usual), Some(rows)) = (rows, newest.rows)
        && is_far(rows, usual, SLACK.1)
    {
        let (rows, usual) = (units::count(rows), units::count(usual));
        let what = format!("the newest backup has {rows} rows, those of {whom} have {usual}");
        found.push((Code::RowsUnusual, what));
    }
    found
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    (values.len() >= SAMPLES_MIN).then(|| values[values.len() / 2])
}

fn is_far(value: u64, usual: u64, slack: u64) -> bool {
    let difference = value.abs_diff(usual);
    let is_much =
        u128::from(difference) * 100 > u128::from(usual) * u128::from(DIFFERENCE_PERCENT_MAX);
    difference > slack && is_much
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sundays are small here, and no other day is.
    #[test]
    fn sizes_are_compared_with_those_of_the_same_weekday() {
        let begin: Timestamp = "2026-02-01T02:00:00Z".parse().unwrap();
        let sample = |day: i64, bytes: u64, rows: u64| {
            let taken_at = begin + jiff::SignedDuration::from_hours(24 * day);
            Sample { taken_at, bytes, rows: Some(rows) }
        };
        let usual = |day: i64| match day % 7 {
            0 => sample(day, 1_000_000, 10_000),
            _ => sample(day, 10_000_000, 100_000),
        };
        let with = |last: Sample| {
            let samples: Vec<Sample> = (0..28).map(usual).chain([last]).collect();
            unusual(&samples).len()
        };
        assert_eq!(with(usual(28)), 0, "a Sunday like others");
        assert_eq!(with(sample(29, 1_000_000, 10_000)), 2, "a Monday like a Sunday");
        assert_eq!(with(sample(29, 10_000_000, 40_000)), 1, "rows are missing");
        // An error text of 60 bytes is no database, and a small one may grow.
        assert_eq!(with(sample(29, 60, 0)), 2);
        let small: Vec<_> =
            (0..9).map(|day| sample(day, 8_192 * (1 + day as u64 % 3), 5)).collect();
        assert_eq!(unusual(&small), []);
        let few = [sample(0, 10_000_000, 5), sample(1, 100, 5)];
        assert_eq!(unusual(&few), [], "two are too few to judge");
    }
}
