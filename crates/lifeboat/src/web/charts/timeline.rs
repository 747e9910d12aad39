//! The timeline of a source: which moments can be restored, what lies between them, what is kept
//! there and what retention will take away.
//!
//! Four rows below one another: ranges and gaps, backups, what a person said of them (pins and
//! markers of migrations), and what goes. `now` is a line; what lies right of it is to come.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::{Axis, Figure, Told, at, legend, percent};
use crate::ui::units;

/// The most places of one row that are told apart: as many as a wide screen shows.
const PLACES: f64 = 400.0;
/// The most rows of the table below it.
const ROWS_MAX: usize = 200;
const HEIGHT: u32 = 132;
/// The middle of each row.
const RANGES_Y: f64 = 22.0;
const POINTS_Y: f64 = 50.0;
const MARKS_Y: f64 = 74.0;
const GOES_Y: f64 = 98.0;
const BOTTOM: f64 = 112.0;

/// A stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// What it is.
    pub(crate) kind: SpanKind,
    /// Its first moment.
    pub(crate) from: Timestamp,
    /// Its last moment.
    pub(crate) until: Timestamp,
    /// More of it, in a few words.
    pub(crate) said: String,
}

/// What a stretch of time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// Every state of it can be restored.
    Any,
    /// The last state of each minute or hour of it can.
    Coarse,
    /// Nothing of it can, although a log was kept.
    Gap,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// The moment that it shows.
    pub(crate) at: Timestamp,
    /// What it is worth.
    pub(crate) state: PointState,
    /// Its name.
    pub(crate) name: String,
    /// When retention takes it away, as far as that can be foreseen.
    pub(crate) goes_at: Option<Timestamp>,
}

/// What a backup is worth, the worst last: of several at one place the worst is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PointState {
    /// A rehearsed restore succeeded.
    Proven,
    /// Checked and right.
    Good,
    /// Not checked.
    Unchecked,
    /// Of a damaged database.
    Damaged,
}

/// What somebody said of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Which kind of word.
    pub(crate) kind: MarkKind,
    /// The moment of its backup.
    pub(crate) at: Timestamp,
    /// The words.
    pub(crate) said: String,
}

/// Which kind of word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// It must stay.
    Pin,
    /// A migration was begun behind it.
    Migration,
}

/// Everything that a timeline shows.
#[derive(Clone, Debug)]
pub(crate) struct Timeline<'a> {
    /// The source's name.
    pub(crate) source: &'a str,
    /// The time that is shown.
    pub(crate) axis: Axis,
    /// The present.
    pub(crate) now: Timestamp,
    /// Ranges and gaps, in any order.
    pub(crate) spans: &'a [Span],
    /// Backups, the oldest first.
    pub(crate) points: &'a [Point],
    /// Pins and markers, the oldest first.
    pub(crate) marks: &'a [Mark],
}

impl Span {
    /// Whether nothing of it can be restored.
    pub(crate) fn is_gap(&self) -> bool {
        self.kind == SpanKind::Gap
    }
}

impl SpanKind {
    fn word(self) -> &'static str {
        match self {
            SpanKind::Any => "any moment",
            SpanKind::Coarse => "some moments",
            SpanKind::Gap => "gap",
        }
    }

    fn class(self) -> &'static str {
        match self {
            SpanKind::Any => "range",
            SpanKind::Coarse => "range coarse",
            SpanKind::Gap => "gap",
        }
    }
}

impl PointState {
    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            PointState::Proven => "proven",
            PointState::Good => "good",
            PointState::Unchecked => "unchecked",
            PointState::Damaged => "damaged",
        }
    }

    /// A shape of its own for each: none is told by its colour alone.
    fn shape(self) -> Markup {
        match self {
            PointState::Proven => html! {
                circle.good r="3.5" {}
                circle.ring r="6" {}
            },
            PointState::Good => html! { circle.good r="4" {} },
            PointState::Unchecked => html! { circle.doubt r="3.5" {} },
            PointState::Damaged => html! { path.bad d="M-4,-4 L4,4 M4,-4 L-4,4" {} },
        }
    }
}

impl MarkKind {
    fn word(self) -> &'static str {
        match self {
            MarkKind::Pin => "pin",
            MarkKind::Migration => "migration",
        }
    }

    fn shape(self) -> Markup {
        match self {
            MarkKind::Pin => html! { path.pin d="M-5,-5 L5,-5 L0,6 Z" {} },
            MarkKind::Migration => html! { path.migration d="M0,-6 L6,0 L0,6 L-6,0 Z" {} },
        }
    }
}

/// The end of what retention takes away.
fn goes_shape() -> Markup {
    html! { path.goes d="M-4,-5 L4,-5 M-4,5 L4,5 M0,-5 L0,5" {} }
}

impl Timeline<'_> {
    /// The chart with its legend.
    pub(crate) fn drawn(&self) -> Markup {
        let title = format!("Timeline of {}", units::one_line(self.source));
        let figure = Figure {
            id: "timeline",
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

    fn moment(&self, at: Timestamp) -> String {
        units::moment(at, &self.axis.zone)
    }

    fn sentence(&self) -> String {
        let count = |kind| self.spans.iter().filter(|span| span.kind == kind).count();
        let gaps = count(SpanKind::Gap);
        let ranges = self.spans.len() - gaps;
        let going = self.points.iter().filter_map(|point| point.goes_at).min();
        let mut text = format!(
            "{} to {}: {}, {} in which moments can be restored, {}",
            self.moment(self.axis.from),
            self.moment(self.axis.until),
            units::counted(self.points.len(), "backup"),
            units::counted(ranges, "range"),
            units::counted(gaps, "gap"),
        );
        if let Some(at) = going {
            text.push_str(&format!("; the first backup goes at {}", self.moment(at)));
        }
        text
    }

    fn drawing(&self) -> Markup {
        let now = self.axis.place(self.now);
        html! {
            defs {
                // Gaps are hatched: seen without any colour.
                pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"
                    patternTransform="rotate(45)"
                {
                    line.hatch x1="0" y1="0" x2="0" y2="6" {}
                }
            }
            rect.future x=(percent(now)) y="6" width=(percent(100.0 - now)) height="106" {}
            (self.axis.drawn(6.0, BOTTOM))
            line.base x1="0" x2="100%" y1=(POINTS_Y) y2=(POINTS_Y) {}
            @for span in self.spans.iter().filter(|span| self.shows(span)) { (self.span(span)) }
            @for (place, point, count) in self.gathered() {
                (at(place, POINTS_Y, &html! {
                    title { (self.of_point(point, count)) }
                    (point.state.shape())
                }))
            }
            @for mark in self.marks.iter().filter(|mark| self.axis.holds(mark.at)) {
                (at(self.axis.place(mark.at), MARKS_Y, &html! {
                    title { (units::one_line(&mark.said)) }
                    (mark.kind.shape())
                }))
            }
            @for (place, at_moment, count) in self.going() {
                (at(place, GOES_Y, &html! {
                    title { (count) " to go at " (self.moment(at_moment)) }
                    (goes_shape())
                }))
            }
            line.now x1=(percent(now)) x2=(percent(now)) y1="6" y2=(BOTTOM) {}
        }
    }

    fn shows(&self, span: &Span) -> bool {
        span.until >= self.axis.from && span.from <= self.axis.until
    }

    fn span(&self, span: &Span) -> Markup {
        let (from, until) = (self.axis.place(span.from), self.axis.place(span.until));
        // The shortest is seen as well.
        let width = (until - from).max(0.3);
        let (y, height) = match span.kind {
            SpanKind::Coarse => (RANGES_Y - 5.0, 10.0),
            SpanKind::Any | SpanKind::Gap => (RANGES_Y - 9.0, 18.0),
        };
        html! {
            rect class=(span.kind.class()) x=(percent(from.min(99.7))) y=(y)
                width=(percent(width)) height=(height)
            {
                title { (self.of_span(span)) }
            }
        }
    }

    fn of_span(&self, span: &Span) -> String {
        let (from, until) = (self.moment(span.from), self.moment(span.until));
        let mut text = format!("{}: {from} to {until}", span.kind.word());
        if !span.said.is_empty() {
            text.push_str(&format!(", {}", units::one_line(&span.said)));
        }
        text
    }

    fn of_point(&self, point: &Point, count: usize) -> String {
        let at = self.moment(point.at);
        match count {
            1 => format!("{}, {at}: {}", units::one_line(&point.name), point.state.word()),
            _ => format!("{count} backups around {at}, the worst is {}", point.state.word()),
        }
    }

    /// The backups that are shown, those at one place together: with the worst of them.
    fn gathered(&self) -> Vec<(f64, &Point, usize)> {
        let mut gathered: Vec<(f64, &Point, usize)> = Vec::new();
        for point in self.points.iter().filter(|point| self.axis.holds(point.at)) {
            let place = (self.axis.place(point.at) * PLACES / 100.0).round() / PLACES * 100.0;
            match gathered.last_mut().filter(|last| last.0 == place) {
                Some(last) => {
                    last.2 += 1;
                    if point.state > last.1.state {
                        last.1 = point;
                    }
                }
                None => gathered.push((place, point, 1)),
            }
        }
        gathered
    }

    /// Where backups go, those at one place together.
    fn going(&self) -> Vec<(f64, Timestamp, usize)> {
        let mut moments: Vec<Timestamp> =
            self.points.iter().filter_map(|point| point.goes_at).collect();
        moments.sort_unstable();
        let mut going: Vec<(f64, Timestamp, usize)> = Vec::new();
        for at in moments.into_iter().filter(|at| self.axis.holds(*at)) {
            let place = (self.axis.place(at) * PLACES / 400.0).round() / PLACES * 400.0;
            match going.last_mut().filter(|last| last.0 == place) {
                Some(last) => last.2 += 1,
                None => going.push((place, at, 1)),
            }
        }
        going
    }

    fn legend(&self) -> Markup {
        let inside = |shape: Markup| html! { svg x="9" y="7" overflow="visible" { (shape) } };
        let has = |kind| self.spans.iter().any(|span| span.kind == kind);
        let holds = |state| self.points.iter().any(|point| point.state == state);
        let mut entries = Vec::new();
        for kind in [SpanKind::Any, SpanKind::Coarse, SpanKind::Gap] {
            let bar = html! { rect class=(kind.class()) x="0" y="1" width="18" height="12" {} };
            if has(kind) {
                entries.push((bar, kind.word()));
            }
        }
        use PointState::{Damaged, Good, Proven, Unchecked};
        for state in [Proven, Good, Unchecked, Damaged].into_iter().filter(|state| holds(*state)) {
            entries.push((inside(state.shape()), state.word()));
        }
        for kind in [MarkKind::Pin, MarkKind::Migration] {
            if self.marks.iter().any(|mark| mark.kind == kind) {
                entries.push((inside(kind.shape()), kind.word()));
            }
        }
        if self.points.iter().any(|point| point.goes_at.is_some()) {
            entries.push((inside(goes_shape()), "goes by retention"));
        }
        legend(&entries)
    }

    /// Ranges, gaps, pins and markers, and what goes; the backups have a list of their own.
    fn told(&self) -> Told {
        let mut rows: Vec<(Timestamp, Vec<String>)> = Vec::new();
        for span in self.spans.iter().filter(|span| self.shows(span)) {
            let (from, until) = (self.moment(span.from), self.moment(span.until));
            let said = units::one_line(&span.said);
            rows.push((span.from, vec![span.kind.word().to_owned(), from, until, said]));
        }
        for mark in self.marks.iter().filter(|mark| self.axis.holds(mark.at)) {
            let (kind, at) = (mark.kind.word().to_owned(), self.moment(mark.at));
            rows.push((mark.at, vec![kind, at, String::new(), units::one_line(&mark.said)]));
        }
        for point in self.points.iter().filter(|point| point.state > PointState::Good) {
            let (state, at) = (point.state.word().to_owned(), self.moment(point.at));
            rows.push((point.at, vec![state, at, String::new(), units::one_line(&point.name)]));
        }
        for point in &mut self.points.iter() {
            let Some(goes_at) = point.goes_at else { continue };
            let at = self.moment(goes_at);
            let row = vec!["goes".to_owned(), at, String::new(), units::one_line(&point.name)];
            rows.push((goes_at, row));
        }
        rows.sort();
        let left_out = rows.len().saturating_sub(ROWS_MAX);
        let note = (left_out > 0).then(|| format!("{left_out} more are left out"));
        let rows = rows.into_iter().take(ROWS_MAX).map(|(_, row)| row).collect();
        Told { heads: vec!["what", "from", "to", "more"], rows, note }
    }
}

/// The zone of an axis is that of what is said beside it.
impl Axis {
    /// Everything from the oldest of these moments to a while after now, in which something goes.
    pub(crate) fn of_history(
        oldest: Option<Timestamp>,
        now: Timestamp,
        length: Option<jiff::SignedDuration>,
        zone: &TimeZone,
    ) -> Axis {
        let hour = jiff::SignedDuration::from_hours(1);
        let back = |length| now.checked_sub(length).unwrap_or(Timestamp::MIN);
        let whole = oldest.map_or(hour, |oldest| now.duration_since(oldest)).max(hour);
        let shown = length.unwrap_or(whole);
        // A quarter of the chart is to come.
        let until = now.checked_add(shown / 3).unwrap_or(Timestamp::MAX);
        Axis::new(back(shown), until, zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn hour(hours: i64) -> Timestamp {
        Timestamp::from_second(1_767_830_400 + hours * 3_600).unwrap()
    }

    fn point(hours: i64, state: PointState, goes: Option<i64>) -> Point {
        Point { at: hour(hours), state, name: format!("app-{hours}"), goes_at: goes.map(hour) }
    }

    fn drawn(source: &str, spans: &[Span], points: &[Point], marks: &[Mark]) -> String {
        let day = Some(SignedDuration::from_hours(72));
        let axis = Axis::of_history(None, hour(0), day, &TimeZone::UTC);
        let timeline = Timeline { source, axis, now: hour(0), spans, points, marks };
        timeline.drawn().into_string()
    }

    #[test]
    fn ranges_gaps_points_pins_and_what_goes_lie_at_their_places() {
        let spans = [
            Span { kind: SpanKind::Any, from: hour(-48), until: hour(-24), said: "x".into() },
            Span { kind: SpanKind::Gap, from: hour(-24), until: hour(-12), said: String::new() },
        ];
        let points = [
            point(-48, PointState::Proven, Some(12)),
            point(-24, PointState::Damaged, None),
            point(-12, PointState::Good, None),
        ];
        let pin = Mark { kind: MarkKind::Pin, at: hour(-12), said: "before the move".into() };
        let drawn = drawn("app", &spans, &points, &[pin]);
        // Three quarters of 96 hours are the past.
        assert!(drawn.contains(r#"class="range" x="25.00%" y="13" width="25.00%""#), "{drawn}");
        assert!(drawn.contains(r#"class="gap" x="50.00%" y="13" width="12.50%""#), "{drawn}");
        assert!(drawn.contains(r#"class="now" x1="75.00%""#), "{drawn}");
        assert!(drawn.contains(r#"svg x="88.00%" y="98.0""#), "{drawn}");
        for words in ["before the move", "any moment", "gap", "proven", "damaged", "role=\"img\""] {
            assert!(drawn.contains(words), "{words}: {drawn}");
        }
        assert!(drawn.contains("3 backups, 1 range in which moments can be restored, 1 gap"));
    }

    #[test]
    fn many_backups_are_drawn_as_few_and_the_worst_is_seen() {
        let mut points: Vec<Point> = (-7_000..0)
            .map(|minutes| Point {
                at: hour(0).checked_add(SignedDuration::from_mins(minutes)).unwrap(),
                ..point(0, PointState::Good, None)
            })
            .collect();
        points[6_000].state = PointState::Damaged;
        let drawn = drawn("app", &[], &points, &[]);
        let shapes = drawn.matches("<circle").count();
        assert!((250..=401).contains(&shapes), "{shapes}");
        assert!(drawn.contains("the worst is damaged"));
        assert!(drawn.len() < 100_000, "{}", drawn.len());
    }

    #[test]
    fn a_name_is_never_markup() {
        let name = "<script>alert(1)</script>";
        let mark = Mark { kind: MarkKind::Migration, at: hour(-1), said: name.into() };
        let mut bad = point(-1, PointState::Unchecked, Some(1));
        bad.name = name.into();
        let drawn = drawn(name, &[], &[bad], &[mark]);
        assert!(!drawn.contains("<script"), "{drawn}");
        assert!(drawn.contains("&lt;script&gt;"));
    }

    #[test]
    fn what_is_outside_is_not_drawn() {
        let points = [point(-1_000, PointState::Good, Some(2_000))];
        let drawn = drawn("app", &[], &points, &[]);
        // The legend has the only one.
        assert_eq!(drawn.matches("class=\"good\"").count(), 1, "{drawn}");
    }
}
