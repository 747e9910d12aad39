//! The retention simulator: a policy is tried on what there is, and nothing is applied. The form
//! asks by its address alone, so that a try can be kept as a link.

mod view;

use lifeboat_core::Result;
use lifeboat_core::policy::Keep;
use lifeboat_core::prune;
use maud::{Markup, html};

use self::view::{FIELDS, Given, Line, RetentionView};
use crate::ui::units;
use crate::web::address;
use crate::web::charts::{Axis, Growth, Sample};
use crate::web::context::Ctx;
use crate::web::held;
use crate::web::layout;
use crate::web::table::{Row, Table};

/// So far it is foreseen how a policy goes on.
const DAYS: usize = 365;
/// So many lines of what goes are shown, and of what stays.
const LINES: usize = 100;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let names = names(ctx);
    let has_backups =
        |name: &&String| ctx.look.rows.iter().any(|row| row.source == **name && row.backups > 0);
    let offered = names.iter().find(has_backups).or(names.first());
    let name = ctx.given("source").map(str::to_owned).or_else(|| offered.cloned());
    let Some(name) = name else {
        return Ok(html! { p { "There is no source yet, and so nothing to keep." } });
    };
    let held = held::find(ctx, &name)?;
    let target = held::target(ctx, &name)?;
    let (asked, wrong) = view::asked(&ctx.given);
    let Some((opened, entry)) = held.stored else {
        return Ok(html! {
            (form(ctx, &names, &name, &Keep::default(), &wrong))
            p { "There is no backup of " (units::one_line(&name)) " yet." }
        });
    };
    let in_force = held::keep(opened, target.as_ref());
    let tried = asked.clone().unwrap_or_else(|| in_force.clone());
    let until = held::in_days(ctx, DAYS);
    let moments = held::moments(ctx, target.as_ref(), until);
    let until = held::reach(&moments, until);
    let view = view::view(&Given {
        entry,
        now: ctx.now,
        zone: &prune::zone_of(&opened.repository)?,
        in_force: &in_force,
        tried: &tried,
        moments: &moments,
        until,
        free_bytes: opened.repository.store().space()?.map(|space| space.free_bytes),
    });
    Ok(html! {
        p {
            "In force for " a href=(address::of_source(&name)) { (units::one_line(&name)) }
            " in " (held.place) ": " code { "keep = " (view::as_toml(&in_force)) }
        }
        (form(ctx, &names, &name, &tried, &wrong))
        @if wrong.is_empty() {
            (outcome(&name, &tried, &view, asked.is_some()))
            (growth(ctx, &name, &view))
            (lines(ctx, &view))
        }
    })
}

fn names(ctx: &Ctx) -> Vec<String> {
    let mut names: Vec<String> = ctx.look.rows.iter().map(|row| row.source.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn form(ctx: &Ctx, names: &[String], name: &str, tried: &Keep, wrong: &[String]) -> Markup {
    html! {
        form.retention method="get" action="/retention" {
            @if let Some(place) = ctx.given("in") { input type="hidden" name="in" value=(place); }
            div.field {
                label for="source" { "Source" }
                select id="source" name="source" {
                    @for one in names { option value=(one) selected[one == name] { (one) } }
                }
            }
            fieldset {
                legend { "Keep the newest good backup of each of the last so many" }
                @for (field, label) in FIELDS {
                    div.field {
                        label for=(field) { (label) }
                        input id=(field) name=(field) type="number" inputmode="numeric" min="0"
                            max=(view::MOST)
                            value=(ctx.given(field).map_or_else(
                                || view::number(tried, field).to_string(),
                                str::to_owned,
                            ));
                    }
                }
            }
            @for message in wrong { p.bad role="alert" { (message) } }
            p { button { "See what would be kept" } " Nothing is applied." }
        }
    }
}

fn outcome(name: &str, tried: &Keep, view: &RetentionView, is_asked: bool) -> Markup {
    let class = if view.newly_removed > 0 { "doubtful" } else { "good" };
    let count = |count: usize| units::count(count as u64);
    html! {
        section aria-labelledby="outcome-head" {
            h2 id="outcome-head" { "What it would do" }
            p class={ "summary " (class) } {
                (units::counted(view.kept.0, "backup"))
                @if view.kept.0 == 1 { " stays (" } @else { " stay (" } (units::bytes(view.kept.1)) "), "
                (count(view.removed.0)) " go (" (units::bytes(view.removed.1)) ")"
                @if view.newly_removed > 0 {
                    ", of which " (count(view.newly_removed)) " stay by the policy in force"
                }
                "."
            }
            @if is_asked {
                p { "To use it, write this below " code { "[source." (units::one_line(name)) "]" }
                    " in the configuration; the first prune by it asks for an approval:" }
                p { code.command { "keep = " (view::as_toml(tried)) } }
            }
        }
    }
}

fn growth(ctx: &Ctx, name: &str, view: &RetentionView) -> Markup {
    let Some(simulation) = &view.simulation else {
        return html! {
            p.note { "No schedule says when it is backed up: what comes is not foreseen." }
        };
    };
    let mut samples =
        simulation.steps.iter().map(|step| Sample { at: step.at, bytes: step.stored_bytes });
    let past: Vec<Sample> = samples.next().into_iter().collect();
    let future: Vec<Sample> = samples.collect();
    let until = future.last().map_or(ctx.now, |last| last.at);
    let growth = Growth {
        id: "growth",
        of: name,
        axis: Axis::new(ctx.now, until, &ctx.look.zone),
        now: ctx.now,
        past: &past,
        future: &future,
        room_bytes: None,
        full_at: simulation.full_at,
    };
    html! {
        section aria-labelledby="growth-head" {
            h2 id="growth-head" { "How it goes on" }
            (growth.drawn())
            p.note {
                "By the schedule, each backup as large as the newest, pruned every day; what is \
                 removed takes room for a week more."
            }
        }
    }
}

fn lines(ctx: &Ctx, view: &RetentionView) -> Markup {
    html! {
        @for (keeps, title) in [(false, "What goes"), (true, "What stays")] {
            @let those: Vec<&Line> = view.lines.iter().filter(|line| line.keeps == keeps).collect();
            @if !those.is_empty() {
                section {
                    h2 { (title) }
                    (Table {
                        caption: &format!("{title}, the newest first"),
                        heads: &["Backup", "Stored", "Why"],
                    }
                    .of(those.iter().take(LINES).map(|line| row(ctx, line))))
                    @if those.len() > LINES {
                        p.note { (units::count((those.len() - LINES) as u64)) " more like these" }
                    }
                }
            }
        }
    }
}

fn row(ctx: &Ctx, line: &Line) -> Row {
    Row::new([
        html! { (units::one_line(&line.name)) small { (layout::time(ctx, line.at)) } },
        html! { (units::bytes(line.stored_bytes)) },
        html! {
            (line.reasons.join("; "))
            @if !line.keeps && line.keeps_now {
                " " strong { "(stays by the policy in force)" }
            }
        },
    ])
}
