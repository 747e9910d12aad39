//! What is stored over time: measured up to now, foreseen after it, against the disk.

use jiff::Timestamp;
use maud::{Markup, html};

use super::{Axis, Figure, Told, percent};
use crate::ui::units;

const HEIGHT: u32 = 190;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 168.0;
/// How much of the height what is drawn takes at most, so that its line is seen.
const HEAD: f64 = 1.08;

/// What was or will be stored at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The moment.
    pub(crate) at: Timestamp,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// Everything that is drawn of one repository.
#[derive(Clone, Debug)]
pub(crate) struct Growth<'a> {
    /// Unique on its page.
    pub(crate) id: &'a str,
    /// What grows.
    pub(crate) of: &'a str,
    /// The time that is shown.
    pub(crate) axis: Axis,
    /// The present.
    pub(crate) now: Timestamp,
    /// What was, the oldest first.
    pub(crate) past: &'a [Sample],
    /// What will be, the soonest first.
    pub(crate) future: &'a [Sample],
    /// How much there is room for: what is stored with what is free. `None` where nobody knows.
    pub(crate) room_bytes: Option<u64>,
    /// When that is full, if it will be.
    pub(crate) full_at: Option<Timestamp>,
}

impl Growth<'_> {
    /// The chart.
    pub(crate) fn drawn(&self) -> Markup {
        let title = format!("What {} takes", units::one_line(self.of));
        let figure = Figure {
            id: self.id,
            title: &title,
            description: &self.sentence(),
            height: HEIGHT,
            told: &self.told(),
        };
        figure.around(&self.drawing())
    }

    fn sentence(&self) -> String {
        let stored = |sample: &Sample| units::bytes(sample.bytes);
        let mut text = match self.past.last() {
            Some(last) => format!("{} are stored now", stored(last)),
            None => "nothing is stored yet".to_owned(),
        };
        if let Some(end) = self.future.last() {
            let at = end.at.to_zoned(self.axis.zone.clone()).strftime("%-d %B %Y").to_string();
            text.push_str(&format!(", {} are foreseen on {at}", stored(end)));
        }
        text.push_str(&match (self.full_at, self.room_bytes) {
            (Some(at), _) => {
                let at = at.to_zoned(self.axis.zone.clone()).strftime("%-d %B %Y");
                format!("; the disk is full on {at}")
            }
            (None, Some(room)) => format!("; there is room for {}", units::bytes(room)),
            (None, None) => String::new(),
        });
        text
    }

    /// The largest amount that is drawn: the disk only where it comes near.
    fn most(&self) -> f64 {
        let all = self.past.iter().chain(self.future);
        let most = all.map(|sample| sample.bytes).max().unwrap_or(0);
        let near = |room: &u64| *room <= most.saturating_mul(3);
        most.max(self.room_bytes.filter(near).unwrap_or(0)).max(1) as f64 * HEAD
    }

    fn height(&self, bytes: u64) -> f64 {
        BOTTOM - bytes as f64 / self.most() * (BOTTOM - TOP)
    }

    /// A line of places in a drawing of 1000 by the chart's height, that is stretched to its width.
    fn line(&self, samples: &[Sample]) -> String {
        let place = |sample: &Sample| {
            let x = self.axis.place(sample.at) * 10.0;
            format!("{x:.1},{:.1}", self.height(sample.bytes))
        };
        samples.iter().map(place).collect::<Vec<_>>().join(" ")
    }

    fn drawing(&self) -> Markup {
        let future: Vec<Sample> =
            self.past.last().into_iter().chain(self.future).copied().collect();
        let area = |samples: &[Sample]| match (samples.first(), samples.last()) {
            (Some(first), Some(last)) => format!(
                "{:.1},{BOTTOM} {} {:.1},{BOTTOM}",
                self.axis.place(first.at) * 10.0,
                self.line(samples),
                self.axis.place(last.at) * 10.0
            ),
            _ => String::new(),
        };
        html! {
            (self.axis.drawn(TOP, BOTTOM))
            svg x="0" y="0" width="100%" height=(HEIGHT) viewBox=(format!("0 0 1000 {HEIGHT}"))
                preserveAspectRatio="none"
            {
                polygon.area points=(area(self.past)) {}
                polygon.area.foreseen points=(area(&future)) {}
                polyline.line points=(self.line(self.past)) {}
                polyline.line.foreseen points=(self.line(&future)) {}
            }
            @for bytes in levels(self.most() / HEAD) {
                line.grid x1="0" x2="100%" y1=(px(self.height(bytes))) y2=(px(self.height(bytes))) {}
                text.tick x="4" y=(px(self.height(bytes) - 3.0)) { (units::bytes(bytes)) }
            }
            @if let Some(room) = self.room_bytes.filter(|room| *room as f64 <= self.most()) {
                line.full x1="0" x2="100%" y1=(px(self.height(room))) y2=(px(self.height(room))) {}
                text.tick x="99%" y=(px(self.height(room) + 12.0)) text-anchor="end" {
                    "full: " (units::bytes(room))
                }
            }
            @let now = percent(self.axis.place(self.now));
            line.now x1=(now) x2=(now) y1=(TOP) y2=(BOTTOM) {}
            @if let Some(at) = self.full_at.filter(|at| self.axis.holds(*at)) {
                (super::at(self.axis.place(at), BOTTOM, &html! {
                    title { "full" }
                    path.bad d="M-5,-5 L5,5 M5,-5 L-5,5" {}
                }))
            }
        }
    }

    fn told(&self) -> Told {
        let row = |sample: &Sample, kind: &str| {
            let day = sample.at.to_zoned(self.axis.zone.clone()).date().to_string();
            vec![day, units::bytes(sample.bytes), kind.to_owned()]
        };
        // Of a long past the end is told, of each day the last.
        let mut rows: Vec<Vec<String>> = Vec::new();
        for sample in self.past {
            let row = row(sample, "measured");
            match rows.last_mut().filter(|last| last[0] == row[0]) {
                Some(last) => *last = row,
                None => rows.push(row),
            }
        }
        let mut rows = rows.split_off(rows.len().saturating_sub(60));
        rows.extend(self.future.iter().map(|sample| row(sample, "foreseen")));
        Told { heads: vec!["day", "stored", "how it is known"], rows, note: None }
    }
}

fn px(place: f64) -> String {
    format!("{place:.1}")
}

/// Two to four round amounts up to the largest one.
fn levels(most: f64) -> Vec<u64> {
    let magnitude = 10_f64.powf(most.max(1.0).log10().floor());
    let steps = [0.25, 0.5, 1.0, 2.0, 5.0].map(|factor| factor * magnitude);
    let step = steps.into_iter().find(|step| most / step <= 4.5).unwrap_or(magnitude);
    (1..=4_u32)
        .map(|index| f64::from(index) * step)
        .take_while(|level| *level <= most)
        .map(|level| level.round() as u64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn day(days: i64) -> Timestamp {
        Timestamp::from_second(1_767_830_400 + days * 86_400).unwrap()
    }

    fn growth<'a>(past: &'a [Sample], future: &'a [Sample], room: Option<u64>) -> Growth<'a> {
        Growth {
            id: "growth-0",
            of: "local",
            axis: Axis::new(day(-10), day(10), &TimeZone::UTC),
            now: day(0),
            past,
            future,
            room_bytes: room,
            full_at: room.map(|_| day(5)),
        }
    }

    #[test]
    fn past_and_future_meet_at_now() {
        let past = [Sample { at: day(-10), bytes: 100 }, Sample { at: day(0), bytes: 500 }];
        let future = [Sample { at: day(10), bytes: 1_000 }];
        let drawn = growth(&past, &future, Some(800)).drawn().into_string();
        let height = |bytes: f64| 168.0 - bytes / 1_080.0 * 158.0;
        let line = format!("0.0,{:.1} 500.0,{:.1}", height(100.0), height(500.0));
        let foreseen = format!("500.0,{:.1} 1000.0,{:.1}", height(500.0), height(1_000.0));
        assert!(drawn.contains(&line) && drawn.contains(&foreseen), "{drawn}");
        let words = "500 B are stored now, 1.0 kB are foreseen on 18 January 2026; \
                     the disk is full on 13 January 2026";
        assert!(drawn.contains(words), "{drawn}");
        assert!(drawn.contains("full: 800 B"));
    }

    #[test]
    fn nothing_and_zero_are_drawn_without_a_number_that_is_none() {
        for past in [&[][..], &[Sample { at: day(0), bytes: 0 }]] {
            let drawn = growth(past, &[], None).drawn().into_string();
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
    }

    #[test]
    fn levels_are_round_and_few() {
        assert_eq!(levels(1_000.0), [250, 500, 750, 1_000]);
        assert_eq!(levels(7_300.0), [2_000, 4_000, 6_000]);
        for most in [0.0, 1.0, 3.0, 99.0, 1e19] {
            assert!(levels(most).len() <= 4, "{most}");
        }
    }
}
