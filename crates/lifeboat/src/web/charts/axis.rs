//! The axis of time: where a moment lies, and which moments get a word.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use maud::{Markup, html};

use super::percent;

const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

/// Steps between two words, in seconds, up to half a day.
const STEPS_S: [i64; 9] = [60, 300, 900, 1_800, HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 21_600, 43_200];

/// A stretch of time over the width of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// The moment at its left end.
    pub(crate) from: Timestamp,
    /// The moment at its right end: after `from`.
    pub(crate) until: Timestamp,
    /// In which zone days begin.
    pub(crate) zone: TimeZone,
}

/// How far two words are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Seconds(i64),
    Days(i64),
    Months(i64),
}

impl Axis {
    /// An axis that has a length, whatever it is asked for.
    pub(crate) fn new(from: Timestamp, until: Timestamp, zone: &TimeZone) -> Self {
        let least = from.checked_add(SignedDuration::from_mins(1)).unwrap_or(Timestamp::MAX);
        Axis { from, until: until.max(least), zone: zone.clone() }
    }

    fn length_s(&self) -> f64 {
        self.until.duration_since(self.from).as_secs_f64().max(1.0)
    }

    /// Where a moment lies, in percent; what lies outside lies on the edge.
    pub(crate) fn place(&self, at: Timestamp) -> f64 {
        let place = at.duration_since(self.from).as_secs_f64() / self.length_s();
        (place * 100.0).clamp(0.0, 100.0)
    }

    /// Whether a moment lies on it.
    pub(crate) fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at <= self.until
    }

    /// Moments with their words, at most so many.
    pub(crate) fn ticks(&self, most: usize) -> Vec<(Timestamp, String)> {
        let all = [
            &STEPS_S.map(Step::Seconds)[..],
            &[1, 2, 7, 14].map(Step::Days),
            &[1, 2, 3, 6, 12, 24, 60, 120, 600, 1_200].map(Step::Months),
        ]
        .concat();
        let fits = |step: &Step| self.length_s() / step.length_s() <= most as f64;
        let step = all.into_iter().find(fits).unwrap_or(Step::Months(12_000));
        let begin = self.from.to_zoned(self.zone.clone()).datetime();
        let mut at = step.first(begin);
        let mut ticks = Vec::new();
        // Longer than the longest axis has steps: the end of the calendar ends it as well.
        for _ in 0..4 * most + 100 {
            let Ok(zoned) = at.to_zoned(self.zone.clone()) else { break };
            if zoned.timestamp() > self.until {
                break;
            }
            if self.holds(zoned.timestamp()) {
                ticks.push((zoned.timestamp(), step.word(at)));
            }
            match step.next(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        ticks
    }

    /// The words below a chart, with a thin line above each.
    pub(super) fn drawn(&self, top: f64, bottom: f64) -> Markup {
        html! {
            @for (at, word) in self.ticks(5) {
                @let place = self.place(at);
                line.grid x1=(percent(place)) x2=(percent(place)) y1=(top) y2=(bottom) {}
                // A word at the very edge would be cut.
                @if (4.0..=96.0).contains(&place) {
                    text.tick x=(percent(place)) y=(bottom + 14.0) text-anchor="middle" { (word) }
                }
            }
        }
    }
}

impl Step {
    fn length_s(self) -> f64 {
        match self {
            Step::Seconds(seconds) => seconds as f64,
            Step::Days(days) => (days * DAY_S) as f64,
            Step::Months(months) => months as f64 * 30.4 * DAY_S as f64,
        }
    }

    /// A moment of this step at or before another.
    fn first(self, begin: DateTime) -> DateTime {
        let date = begin.date();
        match self {
            Step::Seconds(_) => date.to_datetime(jiff::civil::Time::midnight()),
            Step::Days(days) => {
                // Weeks begin on Mondays; other steps on a day that does not depend on the view.
                let since = date
                    .since(Date::constant(2001, 1, 1))
                    .map_or(0, |span| i64::from(span.get_days()).rem_euclid(days));
                let date = date.checked_sub(since.days()).unwrap_or(date);
                date.to_datetime(jiff::civil::Time::midnight())
            }
            Step::Months(months) => {
                let first = date.first_of_month();
                let number = i64::from(first.year()) * 12 + i64::from(first.month()) - 1;
                let back = number.rem_euclid(months).months();
                let first = first.checked_sub(back).unwrap_or(first);
                first.to_datetime(jiff::civil::Time::midnight())
            }
        }
    }

    fn next(self, at: DateTime) -> Option<DateTime> {
        match self {
            Step::Seconds(seconds) => at.checked_add(SignedDuration::from_secs(seconds)).ok(),
            Step::Days(days) => at.checked_add(days.days()).ok(),
            Step::Months(months) => at.checked_add(months.months()).ok(),
        }
    }

    fn word(self, at: DateTime) -> String {
        let is_midnight = at.time() == jiff::civil::Time::midnight();
        let form = match self {
            Step::Seconds(_) if is_midnight => "%-d %b",
            Step::Seconds(_) => "%H:%M",
            Step::Days(_) => "%-d %b",
            Step::Months(months) if months % 12 == 0 => "%Y",
            Step::Months(_) => "%b %Y",
        };
        at.strftime(form).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn words(from: &str, until: &str, zone: &TimeZone) -> Vec<String> {
        let axis = Axis::new(at(from), at(until), zone);
        axis.ticks(5).into_iter().map(|(_, word)| word).collect()
    }

    #[test]
    fn words_stand_at_round_moments() {
        let utc = &TimeZone::UTC;
        assert_eq!(
            words("2026-01-08T10:07:00Z", "2026-01-08T13:50:00Z", utc),
            ["11:00", "12:00", "13:00"]
        );
        assert_eq!(
            words("2026-01-07T20:00:00Z", "2026-01-08T16:00:00Z", utc),
            ["8 Jan", "06:00", "12:00"]
        );
        // Weeks begin on Mondays.
        let weeks = words("2026-01-07T20:00:00Z", "2026-02-08T16:00:00Z", utc);
        assert_eq!(weeks, ["12 Jan", "19 Jan", "26 Jan", "2 Feb"]);
        let years = words("2020-05-07T20:00:00Z", "2026-02-08T16:00:00Z", utc);
        assert_eq!(years, ["2022", "2024", "2026"]);
        let months = words("2026-01-07T20:00:00Z", "2026-05-08T16:00:00Z", utc);
        assert_eq!(months, ["Feb 2026", "Mar 2026", "Apr 2026", "May 2026"]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let axis = Axis::new(at("2026-03-28T00:00:00Z"), at("2026-03-31T00:00:00Z"), &berlin);
        let days: Vec<String> = axis.ticks(5).iter().map(|(at, _)| at.to_string()).collect();
        // Clocks go forward on the 29th: that day has 23 hours.
        let expected = ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-30T22:00:00Z"];
        assert_eq!(days, expected);
    }

    #[test]
    fn places_stay_on_the_chart() {
        let zone = &TimeZone::UTC;
        let axis = Axis::new(at("2026-01-01T00:00:00Z"), at("2026-01-03T00:00:00Z"), zone);
        assert_eq!(axis.place(at("2026-01-02T00:00:00Z")), 50.0);
        assert_eq!(axis.place(at("2025-01-02T00:00:00Z")), 0.0);
        assert_eq!(axis.place(at("2027-01-02T00:00:00Z")), 100.0);
        // One without a length gets one, and the longest comes to an end.
        let axis = Axis::new(Timestamp::MAX, Timestamp::MIN, zone);
        assert!(axis.place(at("2026-01-02T00:00:00Z")).is_finite());
        assert!(Axis::new(Timestamp::MIN, Timestamp::MAX, zone).ticks(5).len() <= 20);
    }
}
