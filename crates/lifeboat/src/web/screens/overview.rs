//! The overview: can I restore right now? One verdict for each source, the worst first, with the
//! reason and the command that mends it.

use lifeboat_core::Result;
use maud::{Markup, html};

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
        @if is_long { (search(ctx)) }
        @if !views.is_empty() {
            table.sources {
                caption.unseen { "Sources, the worst first" }
                thead { tr {
                    th scope="col" { "Source" }
                    th scope="col" { "Newest restorable moment" }
                    th scope="col" { "Promised" }
                    th scope="col" { "Last proof" }
                    th scope="col" { "Copies" }
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
    let promised = view.rows.iter().filter_map(|row| row.age_ms_max).min();
    let promised = promised.map(|milliseconds| Period { milliseconds }.to_string());
    let proven = view.rows.iter().filter_map(|row| row.drills.proven_at()).max();
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
            }
            td data-label="Promised" { (promised.as_deref().unwrap_or("\u{2013}")) }
            td data-label="Last proof" {
                @match proven {
                    Some(at) => { (layout::time(ctx, at)) }
                    None => { "never" }
                }
            }
            td data-label="Copies" { (units::count(view.rows.len() as u64)) }
        }
    }
}
