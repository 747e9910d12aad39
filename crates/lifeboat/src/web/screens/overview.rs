//! The overview: can I restore right now? One verdict for each source, the worst first, with the
//! reason and the command that mends it.

use lifeboat_core::Result;
use maud::{Markup, html};

use super::runs;
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::layout;
use crate::web::standing::{self, HEADS};
use crate::web::table::{Row, Table};
use crate::web::verdict::{self, SourceView, Verdict};

/// From so many sources on, they are searched.
const LONG: usize = 12;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let all = verdict::of_look(&ctx.look, ctx.now);
    let wanted = ctx.given("q");
    let is_shown = |view: &&SourceView<'_>| wanted.is_none_or(|text| view.name.contains(text));
    let shown: Vec<&SourceView<'_>> = all.iter().filter(is_shown).collect();
    let heads: Vec<&str> = std::iter::once("Source").chain(HEADS).collect();
    let table = Table { caption: "Sources, the worst first", heads: &heads };
    Ok(html! {
        (hero(&all))
        (layout::failures(ctx))
        @if all.is_empty() { (beginning()) } @else { (at_a_glance(ctx, &all)) }
        section data-live="runs" { @if let Some(state) = &ctx.agent { (runs::going(state)) } }
        @if all.len() > LONG { (layout::search(ctx, "Sources whose name has")) }
        @if let Some(wanted) = wanted.filter(|_| shown.is_empty() && !all.is_empty()) {
            p { "No source has “" (wanted) "” in its name. " a href="/" { "Show all" } }
        }
        (table.of(shown.into_iter().map(|view| row(ctx, view))))
    })
}

/// How it stands with everything, and what is worst.
fn hero(all: &[SourceView<'_>]) -> Markup {
    let count = |verdict| all.iter().filter(|view| view.verdict == verdict).count();
    let (class, text) = summary(all.len(), count(Verdict::Bad), count(Verdict::Doubtful));
    let worst = all.first().and_then(|view| Some((view.name, view.reasons.first()?)));
    html! {
        div class={ "summary " (class) } {
            p { strong { (text) } }
            @if let Some((name, reason)) = worst {
                p.worst {
                    a href=(address::of_source(name)) { (units::one_line(name)) } ": " (reason.text)
                    @if let Some(command) = &reason.command { " " code.command { (command) } }
                }
            }
        }
    }
}

fn summary(all: usize, bad: usize, doubtful: usize) -> (&'static str, String) {
    let sources = units::counted(all, "source");
    match (all, bad, doubtful) {
        (0, _, _) => ("doubtful", "There are no sources and no backups yet".to_owned()),
        (1, 0, 0) => ("good", "The only source can be restored as promised".to_owned()),
        (_, 0, 0) => ("good", format!("All {sources} can be restored as promised")),
        (1, 0, _) => ("doubtful", "It can be restored, and needs a look".to_owned()),
        (_, 0, 1) => ("doubtful", format!("All can be restored; 1 of {sources} needs a look")),
        (_, 0, some) => {
            ("doubtful", format!("All can be restored; {some} of {sources} need a look"))
        }
        (_, 1, _) => ("bad", format!("1 of {sources} breaks its promise")),
        (_, some, _) => ("bad", format!("{some} of {sources} break their promise")),
    }
}

/// What to do where nothing is there.
fn beginning() -> Markup {
    html! {
        p { "To begin:" }
        ol {
            li {
                code.command { "lifeboat init" }
                " finds the databases of this host and writes a configuration."
            }
            li { code.command { "lifeboat backup" } " makes the first backups." }
            li {
                code.command { "lifeboat install systemd --agent" }
                " has the agent make all others."
            }
        }
    }
}

/// What the worst of all sources comes to: how much would be lost, how long it would take, how long
/// ago that was last proved, and what comes next.
fn at_a_glance(ctx: &Ctx, all: &[SourceView<'_>]) -> Markup {
    let oldest = all.iter().filter_map(|view| Some((view.newest?, view.name))).min();
    let slowest = all.iter().filter_map(|view| Some((view.takes_ms()?, view.name))).max();
    let proven = all.iter().filter_map(|view| Some((view.proven_at()?, view.name))).min();
    let never = all.iter().filter(|view| view.proven_at().is_none()).count();
    let jobs = ctx.agent.iter().flat_map(|agent| &agent.jobs);
    let next = jobs.filter_map(|job| Some((job.next?, job.name.as_str()))).min();
    let without = all.iter().filter(|view| view.newest.is_none()).count();
    let of = |name: &str| html! { small title=(units::one_line(name)) { (units::one_line(name)) } };
    html! {
        dl.glance {
            div { dt { "Lost at most, if it fails now" } dd {
                @match oldest {
                    Some((at, name)) => { (layout::the_last(ctx, at)) (of(name)) }
                    None => "everything"
                }
                @if without > 0 { small { "and all of " (units::counted(without, "source")) } }
            } }
            div { dt { "Slowest restore" } dd {
                @match slowest {
                    Some((takes_ms, name)) => { (units::duration(takes_ms)) (of(name)) }
                    None => "not measured"
                }
            } }
            div { dt { "Oldest proof" } dd {
                @match proven {
                    Some((at, name)) => { (layout::time(ctx, at)) (of(name)) }
                    None => "none"
                }
                @if never > 0 { small { (units::counted(never, "source")) " never proved" } }
            } }
            div { dt { "Next run" } dd {
                @match next {
                    Some((at, name)) => { (layout::time(ctx, at)) (of(name)) }
                    None => { @if ctx.agent.is_some() { "none" } @else { "no agent runs" } }
                }
            } }
        }
    }
}

fn row(ctx: &Ctx, view: &SourceView<'_>) -> Row {
    let first = html! {
        (standing::mark(view.verdict))
        " " a href=(address::of_source(view.name)) { (units::one_line(view.name)) }
        @for reason in &view.reasons { (layout::reason(reason)) }
    };
    let mut cells = vec![first];
    cells.extend(standing::cells(ctx, view));
    Row::marked(view.verdict.word(), cells)
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn one_is_told_as_one_and_more_as_more() {
        for ((all, bad, doubtful), told) in [
            ((5, 1, 2), "1 of 5 sources breaks its promise"),
            ((5, 2, 0), "2 of 5 sources break their promise"),
            ((5, 0, 1), "All can be restored; 1 of 5 sources needs a look"),
            ((5, 0, 0), "All 5 sources can be restored as promised"),
            ((1, 1, 0), "1 of 1 source breaks its promise"),
            ((1, 0, 0), "The only source can be restored as promised"),
        ] {
            assert_eq!(summary(all, bad, doubtful).1, told);
        }
    }
}
