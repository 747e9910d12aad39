//! The screen of a source: its timeline, its days, and every restore point with the command that
//! restores it.

mod spans;
mod view;

use std::collections::BTreeMap;

use jiff::civil::Date;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use maud::{Markup, html};

use self::view::{Asked, Given, Length, Removed, RestorePoint, SourceView};
use crate::journal;
use crate::repositories::Opened;
use crate::sources::Target;
use crate::ui::units;
use crate::web::address;
use crate::web::charts::{Heat, Spark, Timeline};
use crate::web::context::Ctx;
use crate::web::held::{self, Held};
use crate::web::layout;
use crate::web::standing::{self, HEADS};
use crate::web::table::{Row, Table};
use crate::web::verdict;

/// The name of the source that is asked for.
pub(super) fn name(ctx: &Ctx) -> Option<String> {
    ctx.given("source").map(units::one_line)
}

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let name = ctx.given("source").unwrap_or_default();
    let held = held::find(ctx, name)?;
    let Some((opened, entry)) = held.stored else { return Ok(nothing(ctx, &held)) };
    let target = held::target(ctx, name)?;
    // A log that cannot be read takes nothing from what is known of backups.
    let (spans, failure) = match spans::of_entry(ctx, opened, entry) {
        Ok(spans) => (spans, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let asked = Asked {
        length: Length::of(ctx.given("show"))
            .unwrap_or_else(|| Length::that_holds(entry.backups.first(), ctx.now)),
        find: ctx.given("find").unwrap_or_default().to_owned(),
        skip: ctx.given("skip").and_then(|text| text.parse().ok()).unwrap_or(0),
    };
    let view = view::view(Given {
        entry,
        now: ctx.now,
        zone: &ctx.look.zone,
        spans,
        departures: held::departures(ctx, (opened, entry), target.as_ref())?,
        failures: failures(ctx, opened, target.as_ref())?,
        repository: (held.places.len() > 1).then_some(held.place),
        asked: asked.clone(),
    });
    Ok(html! {
        (head(ctx, &held, opened, entry))
        @if let Some(error) = &failure { (layout::error(error)) }
        (timeline(ctx, &held, &view, asked.length))
        (days(name, &view))
        (points(ctx, &held, &view, &asked))
        (removed(ctx, &view.removed))
    })
}

/// How many runs of this host failed, day by day.
fn failures(ctx: &Ctx, opened: &Opened, target: Option<&Target>) -> Result<BTreeMap<Date, u64>> {
    let Some(target) = target else { return Ok(BTreeMap::new()) };
    let session = ctx.session();
    let journal = journal::of(&session, &session.env()?, target, &opened.place.url);
    let failed = journal.days.into_iter().map(|(day, runs)| (day, runs.failed));
    Ok(failed.filter(|(_, failed)| *failed > 0).collect())
}

/// A source of which nothing was stored yet.
fn nothing(ctx: &Ctx, held: &Held<'_>) -> Markup {
    html! {
        (stands(ctx, held))
        p.summary.bad { "There is no backup of it in " (held.place) }
        p.path { (units::one_line(&held.row.repository)) }
    }
}

/// How it stands: the verdict, the reasons with what mends them, and the values of the overview.
fn stands(ctx: &Ctx, held: &Held<'_>) -> Markup {
    let all = verdict::of_look(&ctx.look, ctx.now);
    let Some(view) = all.iter().find(|view| view.name == held.row.source) else {
        return Markup::default();
    };
    let restore = address::to("/restore", &[("source", view.name)]);
    html! {
        div class={ "summary " (view.verdict.word()) } {
            p {
                (standing::mark(view.verdict))
                @if view.reasons.is_empty() { " It can be restored as promised." }
            }
            @for reason in &view.reasons { (layout::reason(reason)) }
        }
        dl.glance {
            @for (head, cell) in HEADS.iter().zip(standing::cells(ctx, view)) {
                div { dt { (head) } dd { (cell) } }
            }
        }
        p.actions {
            @if view.newest.is_some() { a.button href=(restore) { "Restore it" } }
            a href=(address::to("/proofs", &[("source", view.name)])) { "Its proofs" }
            a href=(address::to("/retention", &[("source", view.name), ("in", held.place)])) {
                "Try another retention"
            }
        }
    }
}

fn head(ctx: &Ctx, held: &Held<'_>, opened: &Opened, entry: &SourceEntry) -> Markup {
    let name = &held.row.source;
    let others = held.places.iter().filter(|place| **place != held.place);
    html! {
        (stands(ctx, held))
        p {
            (entry.record.kind) " on " (units::one_line(&entry.record.host)) ", "
            span.path { (units::one_line(&entry.record.location)) }
            br;
            "In the repository " strong { (held.place) } " ("
            span.path { (opened.repository.url()) } ")"
            @for place in others {
                ", also in " a href=(in_place(name, place)) { (place) }
            }
            "."
        }
    }
}

fn in_place(name: &str, place: &str) -> String {
    address::to(&address::of_source(name), &[("in", place)])
}

fn timeline(ctx: &Ctx, held: &Held<'_>, view: &SourceView, length: Length) -> Markup {
    let name = &held.row.source;
    let timeline = Timeline {
        source: name,
        axis: view.axis.clone(),
        now: ctx.now,
        spans: &view.spans,
        points: &view.points,
        marks: &view.marks,
    };
    let to = |length: Length| {
        let parameters = [("in", held.place), ("show", length.word())];
        address::to(&address::of_source(name), &parameters)
    };
    html! {
        section aria-labelledby="timeline-head" {
            h2 id="timeline-head" { "What can be restored" }
            p.choices {
                "Show the last "
                @for one in Length::ALL {
                    a href=(to(one)) aria-current=[(one == length).then_some("true")] {
                        (one.word())
                    }
                    " "
                }
            }
            (timeline.drawn())
            @if let Some(words) = view::reach_words(&view.spans, &ctx.look.zone) {
                p { "By its log: " (words) ", such as" }
                p { code.command {
                    "lifeboat restore " (units::shell_word(name)) " --at "
                    (units::shell_word(&newest_moment(ctx, view)))
                } }
            }
        }
    }
}

/// The end of what the log reaches, as `--at` takes it.
fn newest_moment(ctx: &Ctx, view: &SourceView) -> String {
    let ends = view.spans.iter().filter(|span| !span.is_gap()).map(|span| span.until);
    let newest = ends.max().unwrap_or(ctx.now);
    newest.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn days(name: &str, view: &SourceView) -> Markup {
    let heat = Heat { source: name, today: view.today, weeks: view::WEEKS, days: &view.days };
    let backups = Spark { of: "backups", durations_ms: &view.backups_ms };
    let drills = Spark { of: "drills", durations_ms: &view.drills_ms };
    html! {
        section aria-labelledby="days-head" {
            h2 id="days-head" { "Its days" }
            (heat.drawn())
            p.sparks { (backups.drawn()) " " (backups.sentence()) "." }
            p.sparks { (drills.drawn()) " " (drills.sentence()) "." }
        }
    }
}

fn points(ctx: &Ctx, held: &Held<'_>, view: &SourceView, asked: &Asked) -> Markup {
    let name = &held.row.source;
    html! {
        section aria-labelledby="points-head" {
            h2 id="points-head" { "Restore points" }
            form.search method="get" action=(address::of_source(name)) role="search" {
                input type="hidden" name="in" value=(held.place);
                input type="hidden" name="show" value=(asked.length.word());
                label for="find" { "Search names, dates, notes" }
                input id="find" type="search" name="find" value=(asked.find);
                button.quiet { "Search" }
            }
            p {
                (units::count(view.found as u64)) " of " (units::counted(view.all, "backup"))
                "; each command says what it will do, and asks, before it does it."
            }
            (Table {
                caption: "Restore points, the newest first",
                heads: &["Moment", "State", "Size", "Notes", "To restore it"],
            }
            .of(view.rows.iter().map(|row| point(ctx, name, row))))
            (pages(held, view, asked))
        }
    }
}

fn point(ctx: &Ctx, source: &str, row: &RestorePoint) -> Row {
    let step_by_step = address::to("/restore", &[("source", source), ("backup", &row.name)]);
    Row::new([
        html! { span.moment { (ctx.moment(row.at)) } small { (ctx.age(row.at)) } },
        html! { (row.state.word()) small { (row.checks) } },
        html! { (units::bytes(row.bytes)) small { (units::bytes(row.stored_bytes)) " stored" } },
        html! { @for note in &row.notes { div { (units::one_line(note)) } } },
        html! { code.command { (row.command) } " " a href=(step_by_step) { "step by step" } },
    ])
}

fn pages(held: &Held<'_>, view: &SourceView, asked: &Asked) -> Markup {
    let to = |skip: usize| {
        let skip = skip.to_string();
        let (place, show) = (("in", held.place), ("show", asked.length.word()));
        let parameters = [place, show, ("find", asked.find.as_str()), ("skip", &skip)];
        address::to(&address::of_source(&held.row.source), &parameters)
    };
    html! {
        @if asked.skip > 0 || view.found > asked.skip + view::PAGE {
            nav aria-label="Pages" { p.choices {
                @if asked.skip > 0 {
                    a href=(to(asked.skip.saturating_sub(view::PAGE))) { "Newer" } " "
                }
                @if view.found > asked.skip + view::PAGE {
                    a href=(to(asked.skip + view::PAGE)) { "Older" }
                }
            } }
        }
    }
}

fn removed(ctx: &Ctx, removed: &[Removed]) -> Markup {
    let row = |one: &Removed| {
        Row::new([
            html! { (units::one_line(&one.name)) },
            html! { (units::one_line(&one.reason)) },
            html! { (ctx.moment(one.until)) },
            html! { code.command { (one.command) } },
        ])
    };
    let table = Table {
        caption: "Removed backups, the newest first",
        heads: &["Backup", "Why", "Bytes go at", "To take it back"],
    };
    html! {
        @if !removed.is_empty() {
            section aria-labelledby="removed-head" {
                h2 id="removed-head" { "Removed, and still there" }
                (table.of(removed.iter().map(row)))
            }
        }
    }
}
