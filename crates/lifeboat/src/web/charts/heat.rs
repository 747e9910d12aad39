//! The heat map of days: whether each day had a backup, and how much was stored.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::{Date, Weekday};
use maud::{Markup, html};

use super::{Figure, Told, legend, percent};
use crate::ui::units;

/// The height of a day's cell, and of its row.
const CELL: f64 = 11.0;
const ROW: f64 = 14.0;
/// Where the first row begins: below the names of months.
const TOP: f64 = 18.0;
const HEIGHT: u32 = 18 + 7 * 14 + 4;
/// How much of the width the names of weekdays take, in percent.
const LEFT: f64 = 4.0;

/// What happened on a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Day {
    /// The best that happened.
    pub(crate) state: DayState,
    /// How many backups were made that are still there.
    pub(crate) backups: u64,
    /// What they take, in bytes.
    pub(crate) stored_bytes: u64,
    /// How many runs failed.
    pub(crate) failures: u64,
}

/// How a day was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DayState {
    /// Nothing is known of it.
    #[default]
    Nothing,
    /// A good backup.
    Good,
    /// Backups that were not checked, or are of a damaged database, and no good one.
    Doubtful,
    /// A run failed, and no good backup was made.
    Failed,
}

/// Days up to the last one, in weeks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heat<'a> {
    /// The source's name.
    pub(crate) source: &'a str,
    /// The last day: today.
    pub(crate) today: Date,
    /// How many weeks are shown.
    pub(crate) weeks: u8,
    /// What is known of days; one that is not here had nothing.
    pub(crate) days: &'a BTreeMap<Date, Day>,
}

impl Day {
    fn words(&self) -> String {
        let mut text = match self.state {
            DayState::Nothing => return "no backup".to_owned(),
            DayState::Good | DayState::Doubtful | DayState::Failed if self.backups > 0 => {
                let word = if self.backups == 1 { "backup" } else { "backups" };
                let bytes = units::bytes(self.stored_bytes);
                format!("{} {word}, {bytes}", units::count(self.backups))
            }
            _ => "no backup".to_owned(),
        };
        if self.state == DayState::Doubtful {
            text.push_str(", none of them good");
        }
        if self.failures > 0 {
            text.push_str(&format!(", {} failed", units::count(self.failures)));
        }
        text
    }
}

impl Heat<'_> {
    /// The chart with its legend.
    pub(crate) fn drawn(&self) -> Markup {
        let title = format!("Days of {}", units::one_line(self.source));
        let figure = Figure {
            id: "days",
            title: &title,
            description: &self.sentence(),
            height: HEIGHT,
            told: &self.told(),
        };
        html! {
            (figure.around(&self.drawing()))
            (self.legend())
        }
    }

    /// The Monday of the first week.
    fn first(&self) -> Date {
        let monday = i64::from(self.today.weekday().to_monday_zero_offset());
        let back = (monday + 7 * (i64::from(self.weeks.max(1)) - 1)).days();
        self.today.checked_sub(back).unwrap_or(self.today)
    }

    fn shown(&self) -> impl Iterator<Item = Date> {
        let (first, last) = (self.first(), self.today);
        first.series(1.day()).take_while(move |date| *date <= last)
    }

    fn day(&self, date: Date) -> Day {
        self.days.get(&date).cloned().unwrap_or_default()
    }

    fn sentence(&self) -> String {
        // What lies before the first backup is no loss.
        let began = self.days.keys().next().copied();
        let mut counts: BTreeMap<DayState, usize> = BTreeMap::new();
        for date in self.shown().filter(|date| began.is_some_and(|began| *date >= began)) {
            *counts.entry(self.day(date).state).or_default() += 1;
        }
        let count = |state| counts.get(&state).copied().unwrap_or(0);
        format!(
            "{} weeks: {} with a good backup, {} with doubtful ones, {} on which it failed, \
             {} without any",
            self.weeks,
            units::counted(count(DayState::Good), "day"),
            count(DayState::Doubtful),
            count(DayState::Failed),
            count(DayState::Nothing),
        )
    }

    fn drawing(&self) -> Markup {
        let column = (100.0 - LEFT) / f64::from(self.weeks.max(1));
        let most = self.shown().map(|date| self.day(date).stored_bytes).max().unwrap_or(0);
        html! {
            @for (row, name) in [(0.0, "Mon"), (3.0, "Thu"), (6.0, "Sun")] {
                text.tick x="0" y=(TOP + row * ROW + 9.0) { (name) }
            }
            @for (index, date) in self.shown().enumerate() {
                @let (week, weekday) = ((index / 7) as f64, (index % 7) as f64);
                @let x = LEFT + week * column;
                @let y = TOP + weekday * ROW;
                @let day = self.day(date);
                @if date.day() <= 7 && date.weekday() == Weekday::Monday && x < 94.0 {
                    text.tick x=(percent(x)) y="11" { (date.strftime("%b").to_string()) }
                }
                rect class=(class_of(&day, most)) x=(percent(x)) y=(format!("{y:.1}"))
                    width=(percent(column * 0.82)) height=(CELL) rx="2"
                {
                    title { (date) ": " (day.words()) }
                }
                (mark(day.state, x + column * 0.41, y + CELL / 2.0))
            }
        }
    }

    fn legend(&self) -> Markup {
        let cell = |class: &str, state| {
            html! {
                rect class=(class) x="2" y="1" width="12" height="12" rx="2" {}
                svg x="8" y="7" overflow="visible" { (shape(state)) }
            }
        };
        legend(&[
            (cell("day good size-1", DayState::Good), "little stored"),
            (cell("day good size-4", DayState::Good), "much stored"),
            (cell("day doubtful", DayState::Doubtful), "none of them good"),
            (cell("day failed", DayState::Failed), "failed"),
            (cell("day nothing", DayState::Nothing), "no backup"),
        ])
    }

    fn told(&self) -> Told {
        let known = self.shown().filter(|date| self.days.contains_key(date));
        let mut rows: Vec<Vec<String>> =
            known.map(|date| vec![date.to_string(), self.day(date).words()]).collect();
        rows.reverse();
        Told { heads: vec!["day", "what happened"], rows, note: None }
    }
}

/// By the share of the largest day: each quarter has a shade of its own.
fn class_of(day: &Day, most: u64) -> &'static str {
    match day.state {
        DayState::Nothing => "day nothing",
        DayState::Doubtful => "day doubtful",
        DayState::Failed => "day failed",
        DayState::Good => match day.stored_bytes.saturating_mul(4) / most.max(1) {
            0 => "day good size-1",
            1 => "day good size-2",
            2 => "day good size-3",
            _ => "day good size-4",
        },
    }
}

/// What tells a bad day without its colour.
fn shape(state: DayState) -> Markup {
    html! {
        @match state {
            DayState::Failed => { path.cross d="M-3,-3 L3,3 M3,-3 L-3,3" {} }
            DayState::Doubtful => { circle.dot r="2" {} }
            DayState::Good | DayState::Nothing => {}
        }
    }
}

fn mark(state: DayState, x: f64, y: f64) -> Markup {
    match state {
        DayState::Failed | DayState::Doubtful => super::at(x, y, &shape(state)),
        DayState::Good | DayState::Nothing => Markup::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn day(state: DayState, backups: u64, stored_bytes: u64, failures: u64) -> Day {
        Day { state, backups, stored_bytes, failures }
    }

    #[test]
    fn every_day_has_a_cell_and_a_word() {
        let days = BTreeMap::from([
            (date("2026-11-02"), day(DayState::Good, 24, 4_000_000, 0)),
            (date("2026-11-03"), day(DayState::Good, 1, 1_000, 2)),
            (date("2026-11-04"), day(DayState::Failed, 0, 0, 1)),
            (date("2026-11-05"), day(DayState::Doubtful, 2, 9, 0)),
        ]);
        // A Friday: five days of the last week, and three weeks before.
        let heat = Heat { source: "app", today: date("2026-11-06"), weeks: 4, days: &days };
        let drawn = heat.drawn().into_string();
        let legend = 5;
        assert_eq!(drawn.matches("class=\"day ").count(), 3 * 7 + 5 + legend);
        for words in [
            "2026-11-02: 24 backups, 4.0 MB",
            "2026-11-03: 1 backup, 1.0 kB, 2 failed",
            "2026-11-04: no backup, 1 failed",
            "2026-11-05: 2 backups, 9 B, none of them good",
            "2026-11-06: no backup",
            "2 days with a good backup, 1 with doubtful ones, 1 on which it failed, 1 without any",
        ] {
            assert!(drawn.contains(words), "{words}: {drawn}");
        }
        // A failure is a cross, in the map and in the legend.
        assert_eq!(drawn.matches("class=\"cross\"").count(), 2);
        assert!(drawn.contains("day good size-4") && drawn.contains("day good size-1"));
    }

    #[test]
    fn a_source_without_backups_has_an_empty_map() {
        let days = BTreeMap::new();
        let heat = Heat { source: "a<b", today: date("2026-11-06"), weeks: 53, days: &days };
        let drawn = heat.drawn().into_string();
        assert!(drawn.contains("0 without any") && drawn.contains("a&lt;b"));
        assert!(!drawn.contains("NaN") && !drawn.contains("<details"));
    }
}
