//! How a source stands, as values: the same on the overview and on the screen of the source.

use maud::{Markup, html};

use super::context::Ctx;
use super::layout;
use super::verdict::{self, SourceView, Verdict};
use crate::commands::status::{Row, State};
use crate::config::values::Period;
use crate::ui::units;

/// What the values are called.
pub(crate) const HEADS: [&str; 5] =
    ["Newest moment", "A restore takes", "Last proof", "Copies", "Next run"];

/// The verdict in a word.
pub(crate) fn mark(verdict: Verdict) -> Markup {
    html! { span class={ "mark " (verdict.word()) } { (verdict.word()) } }
}

/// The values, in the order of `HEADS`.
pub(crate) fn cells(ctx: &Ctx, view: &SourceView<'_>) -> [Markup; 5] {
    let promised = view.rows.iter().filter_map(|row| row.age_ms_max).min();
    let may_take = view.rows.iter().filter_map(|row| row.objectives.rto.promised_ms).min();
    let newest = html! {
        @match view.newest {
            Some(at) => { (layout::time(ctx, at)) }
            None => { "never" }
        }
        (promise(promised))
    };
    let takes = html! {
        @match view.takes_ms() {
            Some(takes_ms) => { (units::duration(takes_ms)) }
            None => { "not measured" }
        }
        (promise(may_take))
    };
    let proven = html! {
        @match view.proven_at() {
            Some(at) => { (layout::time(ctx, at)) }
            None => { "never" }
        }
    };
    let copies = html! { @for copy in &view.rows { (copy_in(ctx, copy)) } };
    [newest, takes, proven, copies, next(ctx, view.name)]
}

fn promise(milliseconds: Option<u64>) -> Markup {
    let period = milliseconds.map(|milliseconds| Period { milliseconds }.to_string());
    html! { @if let Some(period) = period { small { "promised: " (period) } } }
}

/// Whether a repository can restore the source as promised.
fn copy_in(ctx: &Ctx, row: &Row) -> Markup {
    let name = ctx.look.label_of(&row.repository);
    let (class, word) = match verdict::age_of(row, ctx.now).0 {
        State::Fresh => ("good", "fresh"),
        State::Stale => ("bad", "stale"),
        State::Never => ("bad", "none"),
    };
    html! { span.copy { (name) " " span class={ "mark " (class) } { (word) } } }
}

/// When the agent makes the next backup.
fn next(ctx: &Ctx, source: &str) -> Markup {
    let name = format!("backup-{source}");
    let jobs = ctx.agent.iter().flat_map(|state| &state.jobs);
    let job = jobs.clone().find(|job| job.name == name);
    html! {
        @match job {
            Some(job) if job.is_running => { a href="/runs" { "runs now" } }
            Some(job) => {
                @match job.next { Some(at) => { (layout::time(ctx, at)) } None => { "none" } }
            }
            None => { "none" }
        }
    }
}
