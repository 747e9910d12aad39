//! Charts that the server draws as SVG, so that the page needs no script and asks nobody for one.
//!
//! Pure: values in, markup out. Horizontal places are percentages, so that a chart fills any width
//! and its words keep their size, on a phone too. Colours are classes of the style sheet, which has
//! them for light and dark; every state is told by a shape as well. Each chart has a title, a
//! description and, folded up below it, a table that says the same.

mod axis;
mod growth;
mod heat;
mod spark;
mod timeline;

use maud::{Markup, html};

use super::table::{Row, Table};

pub(crate) use self::axis::Axis;
pub(crate) use self::growth::{Growth, Sample};
pub(crate) use self::heat::{Day, DayState, Heat};
pub(crate) use self::spark::Spark;
pub(crate) use self::timeline::{Mark, MarkKind, Point, PointState, Span, SpanKind, Timeline};

/// A table that says what a chart shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The heads of its columns.
    pub(crate) heads: Vec<&'static str>,
    /// Its rows.
    pub(crate) rows: Vec<Vec<String>>,
    /// What is said below it, such as that rows were left out.
    pub(crate) note: Option<String>,
}

/// What every chart is beside its drawing.
struct Figure<'a> {
    /// Unique on its page: what names the title and the description to a screen reader.
    id: &'a str,
    /// What is shown, in a few words.
    title: &'a str,
    /// What it shows, in a sentence.
    description: &'a str,
    /// Its height in pixels.
    height: u32,
    /// The same as a table.
    told: &'a Told,
}

impl Figure<'_> {
    /// The chart with its words around it.
    fn around(&self, drawing: &Markup) -> Markup {
        let (title, description) = (format!("{}-title", self.id), format!("{}-desc", self.id));
        html! {
            figure.chart id=(self.id) {
                svg role="img" width="100%" height=(self.height)
                    aria-labelledby=(format!("{title} {description}"))
                {
                    title id=(title) { (self.title) }
                    desc id=(description) { (self.description) }
                    (drawing)
                }
                figcaption { (self.description) }
                @if !self.told.rows.is_empty() {
                    details {
                        summary { (self.title) " as a table" }
                        (table(self.title, self.told))
                    }
                }
            }
        }
    }
}

fn table(caption: &str, told: &Told) -> Markup {
    let cells = |row: &Vec<String>| row.iter().map(|cell| html! { (cell) }).collect::<Vec<_>>();
    html! {
        (Table { caption, heads: &told.heads }.of(told.rows.iter().map(|row| Row::new(cells(row)))))
        @if let Some(note) = &told.note { p.note { (note) } }
    }
}

/// A place as SVG takes it, in percent of the width.
fn percent(place: f64) -> String {
    format!("{place:.2}%")
}

/// A drawing of fixed size at a place: its lines are meant around its own origin.
fn at(place: f64, y: f64, drawing: &Markup) -> Markup {
    html! { svg x=(percent(place)) y=(format!("{y:.1}")) overflow="visible" { (drawing) } }
}

/// A legend: each shape with what it means.
fn legend(entries: &[(Markup, &str)]) -> Markup {
    html! {
        ul.legend {
            @for (shape, meaning) in entries {
                li {
                    svg aria-hidden="true" width="18" height="14" { (shape) }
                    (meaning)
                }
            }
        }
    }
}
