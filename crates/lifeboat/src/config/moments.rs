//! The moments of a schedule, as the clocks of a zone show them. Pure.
//!
//! A time that a clock skips comes when it has skipped it. One that a clock shows twice comes once,
//! the first time; of a schedule for every hour it comes both times, as there is an hour between.

use std::collections::BTreeSet;

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Days further ahead than this are not looked for: the 29th of February on a Monday comes once in
/// 28 years, and in 40 where a year without one lies between.
const HORIZON: SignedDuration = SignedDuration::from_hours(41 * 366 * 24);

/// No clock is moved by more at once.
const SHIFT_MAX: SignedDuration = SignedDuration::from_hours(3);

/// How far back the newest moment is looked for, step by step, in hours.
const BACK_HOURS: [i64; 5] = [1, 24, 32 * 24, 370 * 24, 41 * 366 * 24];

/// Which days, and which times on them.
pub(super) struct Pattern<'a> {
    /// Whether it is on that day.
    pub(super) is_on: &'a dyn Fn(Date) -> bool,
    /// The hours; `None` is every hour.
    pub(super) hours: Option<&'a BTreeSet<u16>>,
    /// The minutes; `None` is every minute.
    pub(super) minutes: Option<&'a BTreeSet<u16>>,
    /// The seconds; `None` is every second.
    pub(super) seconds: Option<&'a BTreeSet<u16>>,
}

impl Pattern<'_> {
    /// The moments after `from` up to `until`, in order, but no more than `count_max`.
    pub(super) fn moments(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        count_max: usize,
    ) -> Vec<Timestamp> {
        let mut moments: Vec<Timestamp> = Vec::new();
        let civil = |at: Timestamp| at.to_zoned(zone.clone()).datetime();
        let first = civil(from).saturating_sub(SHIFT_MAX);
        let last = civil(until).saturating_add(SHIFT_MAX);
        let mut date = Some(first.date());
        while let Some(day) = date.filter(|day| *day <= last.date() && moments.len() < count_max) {
            if (self.is_on)(day) {
                let found = self.of_day(day, (first, last), zone);
                moments.extend(found.into_iter().filter(|at| *at > from && *at <= until));
            }
            date = day.tomorrow().ok();
        }
        moments.sort_unstable();
        moments.dedup();
        moments.truncate(count_max);
        moments
    }

    fn of_day(
        &self,
        day: Date,
        (first, last): (DateTime, DateTime),
        zone: &TimeZone,
    ) -> Vec<Timestamp> {
        let (hours, minutes) = (all(self.hours, 24), all(self.minutes, 60));
        let seconds = all(self.seconds, 60);
        let mut found = Vec::new();
        let within =
            |hour: &i8| day.at(*hour, 59, 59, 0) >= first && day.at(*hour, 0, 0, 0) <= last;
        for hour in hours.into_iter().filter(within) {
            for minute in &minutes {
                for second in &seconds {
                    let at = day.at(hour, *minute, *second, 0);
                    let ambiguous = zone.to_ambiguous_timestamp(at);
                    let is_twice = matches!(ambiguous.offset(), AmbiguousOffset::Fold { .. });
                    if is_twice && self.hours.is_none() {
                        found.extend(ambiguous.later());
                    }
                    found.extend(ambiguous.compatible());
                }
            }
        }
        found
    }

    /// The first moment after that one.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let until = after.saturating_add(HORIZON).unwrap_or(Timestamp::MAX);
        self.moments(after, until, zone, 1).first().copied()
    }

    /// The last moment after `from` up to `until`.
    pub(super) fn newest(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        BACK_HOURS.iter().find_map(|hours| {
            let back = SignedDuration::from_hours(*hours);
            let begin = until.saturating_sub(back).unwrap_or(Timestamp::MIN).max(from);
            self.moments(begin, until, zone, usize::MAX).last().copied()
        })
    }
}

fn all(set: Option<&BTreeSet<u16>>, end: i8) -> Vec<i8> {
    match set {
        Some(set) => set.iter().filter_map(|value| i8::try_from(*value).ok()).collect(),
        None => (0..end).collect(),
    }
}
