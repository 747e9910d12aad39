//! The overview: can I restore right now? One verdict for each source, the worst first, with the
//! reason and the command that mends it.

use lifeboat_core::Result;
use maud::{Markup, html};

use super::runs;
use crate::commands::status::{Row, State};
use crate::config::values::Period;
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::layout;
use crate::web::verdict::{self, SourceView, Verdict};

/// From so many sources on, they are searched.
const LONG: usize = 12;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let mut views = verdict::of_look(&ctx.look, ctx.now);
    let count = |verdict| views.iter().filter(|view| view.verdict == verdict).count();
    let summary = summary(views.len(), count(Verdict::Bad), count(Verdict::Doubtful));
    let is_long = views.len() > LONG;
    if let Some(wanted) = ctx.given("q") {
        views.retain(|view| view.name.contains(wanted));
    }
    Ok(html! {
        (summary)
        (layout::failures(ctx))
        section data-live="runs" { @if let Some(state) = &ctx.agent { (runs::going(state)) } }
        @if is_long { (search(ctx)) }
        @if !views.is_empty() {
            table.sources {
                caption.unseen { "Sources, the worst first" }
                thead { tr {
                    th scope="col" { "Source" }
                    th scope="col" { "Newest moment" }
                    th scope="col" { "A restore takes" }
                    th scope="col" { "Last proof" }
                    th scope="col" { "Copies" }
                    th scope="col" { "Next run" }
                } }
                tbody { @for view in &views { (row(ctx, view)) } }
            }
        }
    })
}

fn search(ctx: &Ctx) -> Markup {
    html! {
        form.search method="get" action="/" role="search" {
            label for="q" { "Sources whose name has" }
            input #q name="q" type="search" value=[ctx.given("q")];
            button { "Show" }
        }
    }
}

fn summary(all: usize, bad: usize, doubtful: usize) -> Markup {
    let (class, text) = match (all, bad, doubtful) {
        (0, _, _) => ("doubtful", "There are no sources and no backups yet".to_owned()),
        (_, 0, 0) => ("good", format!("All {all} sources can be restored as promised")),
        (_, 0, some) => ("doubtful", format!("All can be restored; {some} of {all} need a look")),
        (_, some, _) => ("bad", format!("{some} of {all} sources break their promise")),
    };
    html! { p class={ "summary " (class) } { (text) } }
}

fn row(ctx: &Ctx, view: &SourceView<'_>) -> Markup {
    let promised = view.rows.iter().filter_map(|row| row.age_ms_max).min().map(period);
    let proven = view.rows.iter().filter_map(|row| row.drills.proven_at()).max();
    // Of several repositories the slowest: nobody knows which of them will be left.
    let rto = view.rows.iter().map(|row| &row.objectives.rto);
    let takes_ms = rto.clone().filter_map(|rto| rto.measured_ms).max();
    let may_take = rto.filter_map(|rto| rto.promised_ms).min().map(period);
    html! {
        tr class=(view.verdict.word()) {
            th scope="row" {
                span class={ "mark " (view.verdict.word()) } { (view.verdict.word()) }
                " " a href=(address::of_source(view.name)) { (view.name) }
                @for reason in &view.reasons { (layout::reason(reason)) }
            }
            td data-label="Newest" {
                @match view.newest {
                    Some(at) => { (layout::time(ctx, at)) }
                    None => { "never" }
                }
                @if let Some(promised) = promised { small { "promised: " (promised) } }
            }
            td data-label="A restore takes" {
                @match takes_ms {
                    Some(takes_ms) => { (units::duration(takes_ms)) }
                    None => { "not measured" }
                }
                @if let Some(may_take) = may_take { small { "promised: " (may_take) } }
            }
            td data-label="Last proof" {
                @match proven {
                    Some(at) => { (layout::time(ctx, at)) }
                    None => { "never" }
                }
            }
            td data-label="Copies" {
                @for copy in &view.rows { (copy_in(ctx, copy)) }
            }
            td data-label="Next run" { (next(ctx, view.name)) }
        }
    }
}

fn period(milliseconds: u64) -> String {
    Period { milliseconds }.to_string()
}

/// Whether a repository can restore the source as promised.
fn copy_in(ctx: &Ctx, row: &Row) -> Markup {
    let opened = ctx.look.opened.iter().map(|opened| &opened.place);
    let place = opened.clone().find(|place| place.url == row.repository);
    let name = place.map_or(row.repository.as_str(), |place| place.label());
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
            Some(job) => { @if let Some(at) = job.next { (layout::time(ctx, at)) } }
            None => { "\u{2013}" }
        }
    }
}
