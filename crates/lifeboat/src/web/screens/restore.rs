//! The restore assistant: what, from when, where to; the plan; then the agent does it, whether or
//! not anybody looks.
//!
//! It is `lifeboat restore`, with the same plan and the same checks. Nothing is chosen before a
//! person did: the newest state is right after a disk was lost, and wrong after a `DELETE`. A new
//! place is offered first; what replaces something needs the source's name, typed. `wanted` is what
//! a form asks for, `plan` the two steps after it.

mod plan;
mod rows;
mod wanted;

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::{Manifest, Purpose};
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

pub(super) use self::plan::{begin, plan};
pub(super) use self::wanted::detail;
use crate::ui::units;
use crate::web::context::Ctx;
use crate::web::layout;

/// So many backups are offered; others are named by their moment.
const OFFERED_MAX: usize = 50;
/// The role of an artifact that holds companion files.
const FILES: &str = "files";
/// What the steps are called.
const STEPS: [&str; 4] = ["Source", "Moment and place", "Plan", "Result"];

/// What is restored.
pub(super) fn name(ctx: &Ctx) -> Option<String> {
    ctx.given("source").map(|source| format!("Restore {}", units::one_line(source)))
}

/// The screen.
pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    match ctx.given("source") {
        None => Ok(sources(ctx)),
        Some(source) => choose(ctx, source),
    }
}

/// How far one is.
pub(super) fn steps(now: usize) -> Markup {
    html! {
        ol.steps aria-label="Steps" {
            @for (index, step) in STEPS.iter().enumerate() {
                li aria-current=[(index == now).then_some("step")] { (step) }
            }
        }
    }
}

fn sources(ctx: &Ctx) -> Markup {
    let mut names: Vec<&str> = ctx.look.rows.iter().map(|row| row.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    html! {
        @if names.is_empty() {
            p.summary.doubtful { "There is no source yet, and nothing to restore." }
        } @else {
            (steps(0))
            form method="get" action="/restore" {
                label for="source" { "Which source?" }
                select #source name="source" { @for name in names { option { (name) } } }
                p { button { "Choose" } }
            }
        }
    }
}

/// The source in each repository that has it.
fn entries<'a>(ctx: &'a Ctx, source: &str) -> Result<Vec<&'a SourceEntry>> {
    let is_known = ctx.look.rows.iter().any(|row| row.source == source);
    if !is_known {
        let message = format!("there is no source `{}`", units::one_line(source));
        return Err(Error::new(Kind::NotCovered, message));
    }
    let all = ctx.look.opened.iter().flat_map(|opened| &opened.catalog.sources);
    let is_it = |entry: &&SourceEntry| entry.folder == source || entry.record.name == source;
    Ok(all.filter(is_it).collect())
}

/// A backup that is offered, with what is said of it.
type Offered<'a> = (&'a Manifest, Option<String>);

fn choose(ctx: &Ctx, source: &str) -> Result<Markup> {
    let entries = entries(ctx, source)?;
    let told = |entry: &'_ SourceEntry, backup: &Manifest| {
        let replaced = (backup.purpose == Some(Purpose::BeforeRestore))
            .then(|| "what a restore replaced".to_owned());
        entry.story(backup).or(replaced)
    };
    let mut backups: Vec<Offered<'_>> = entries
        .iter()
        .flat_map(|entry| entry.backups.iter().map(|backup| (backup, told(entry, backup))))
        .collect();
    backups.sort_by_key(|(backup, _)| std::cmp::Reverse(backup.taken_at));
    backups.dedup_by_key(|(backup, _)| &backup.name);
    if backups.is_empty() {
        let message = format!("`{}` has no backup", units::one_line(source));
        let hint = format!("lifeboat backup {}", units::shell_word(source));
        return Err(Error::new(Kind::NotCovered, message).hint(hint));
    }
    let is_files = entries.iter().all(|entry| entry.record.kind == FILES);
    let is_of_a_server = entries.iter().any(|entry| wanted::is_of_a_server(&entry.record.kind));
    let has_files = backups.iter().any(|(backup, _)| backup.artifact(FILES).is_some());
    let has_rows = rows::is_offered(ctx, source)?;
    let rows = has_rows.then(|| rows::offer(ctx, source));
    Ok(html! {
        (steps(1))
        @if !ctx.may_do() {
            p.doubtful { "You may look at this, and somebody else must do it." }
        }
        form.assistant method="post" action="/restore/plan" {
            (layout::form_key(ctx))
            input type="hidden" name="source" value=(source);
            (from_when(ctx, source, &backups))
            @if has_files && !is_files || has_rows { (what(ctx, has_files, rows)) }
            (where_to(ctx, source, is_of_a_server))
            button { "Show the plan" }
            " " span.note { "Nothing is done yet." }
        }
    })
}

/// The newest moment of it that can be restored, from whichever repository.
fn newest(ctx: &Ctx, source: &str) -> Option<Timestamp> {
    let rows = ctx.look.rows.iter().filter(|row| row.source == source);
    rows.filter_map(|row| row.log_held.max(row.taken_at)).max()
}

fn from_when(ctx: &Ctx, source: &str, backups: &[Offered<'_>]) -> Markup {
    let newest = newest(ctx, source);
    let (at, backup) = (ctx.given("at"), ctx.given("backup"));
    let choice = |value: &str, is_chosen: bool, text: &str| {
        html! {
            label {
                input type="radio" name="when" value=(value) required checked[is_chosen];
                (text)
            }
        }
    };
    html! {
        fieldset {
            legend { "From when" }
            div.choice {
                (choice("newest", false, "The newest state"))
                p.note {
                    @if let Some(newest) = newest {
                        "Of " (ctx.moment(newest)) " (" (ctx.age(newest)) "). "
                    }
                    "Right when a disk, a file or a host is gone. It has in it all that happened \
                     until then: a wrong DELETE or a bad migration too."
                }
            }
            div.choice {
                (choice("at", at.is_some(), "A moment, such as the last one before a loss"))
                p.note { "The newest state at or before this time. To undo a wrong DELETE, name a \
                    time before it." }
                label for="at" { "Time" }
                input #at name="at" value=[at] list="moments" autocomplete="off"
                    placeholder=(example(ctx, newest));
                datalist id="moments" {
                    @for (back, said) in [("-5m", "5 minutes ago"), ("-15m", "15 minutes ago"),
                        ("-1h", "an hour ago"), ("-1d", "a day ago")]
                    {
                        option value=(back) { (said) }
                    }
                }
            }
            div.choice {
                (choice("backup", at.is_none() && backup.is_some(), "A backup"))
                label for="backup" { "Made at" }
                select #backup name="backup" { (options(ctx, backups)) }
                @if backups.len() > OFFERED_MAX {
                    p.note { "The newest " (OFFERED_MAX) "; name the time of an older one above." }
                }
            }
        }
    }
}

/// A time as it is written: a little before the newest state.
fn example(ctx: &Ctx, newest: Option<Timestamp>) -> String {
    let before = newest.unwrap_or(ctx.now) - SignedDuration::from_mins(5);
    let local = before.to_zoned(ctx.look.zone.clone());
    format!("{}, or -2h", local.strftime("%Y-%m-%d %H:%M:%S"))
}

fn options(ctx: &Ctx, backups: &[Offered<'_>]) -> Markup {
    html! {
        @for (backup, told) in backups.iter().take(OFFERED_MAX) {
            option value=(backup.name) selected[ctx.given("backup") == Some(&backup.name)] {
                (ctx.moment(backup.taken_at)) " (" (ctx.age(backup.taken_at)) ")"
                @if let Some(told) = told { ", " (units::one_line(told)) }
            }
        }
    }
}

/// What of it; `rows` is what is asked of who wants rows, where they can be had.
fn what(ctx: &Ctx, has_files: bool, rows: Option<Markup>) -> Markup {
    let scopes = [
        ("", "The database"),
        ("also", "The database and its companion files"),
        ("only", "Its companion files alone"),
    ];
    let given = ctx.given("scope").unwrap_or_default();
    let choice = |value: &str, text: &str| {
        html! {
            label {
                input type="radio" name="scope" value=(value) checked[value == given];
                (text)
            }
        }
    };
    html! {
        fieldset {
            legend { "What" }
            @for (value, text) in &scopes[..if has_files { 3 } else { 1 }] {
                div.choice { (choice(value, text)) }
            }
            @if let Some(rows) = rows {
                div.choice { (choice(rows::SCOPE, "Rows of a table that it lacks now")) (rows) }
            }
        }
    }
}

fn where_to(ctx: &Ctx, source: &str, is_of_a_server: bool) -> Markup {
    let is_own = ctx.given("place") == Some("own");
    let to = ctx.given("to").map_or_else(|| new_place(ctx, source), str::to_owned);
    html! {
        fieldset {
            legend { "Where to" }
            div.choice {
                label {
                    input type="radio" name="place" value="new" checked[!is_own];
                    "A new place"
                }
                p.note { "Nothing that is there now is touched: look at it first." }
                label for="to" {
                    @if is_of_a_server {
                        "Path on the host, or postgresql:// and a new database, without a password"
                    } @else { "Path on the host" }
                }
                input #to name="to" value=(to) autocomplete="off";
            }
            div.choice {
                label {
                    input type="radio" name="place" value="own" checked[is_own];
                    "Where it was, in place of what is there now"
                }
                p.note { "What is there is kept beside it, for " code { "lifeboat undo" } "." }
            }
        }
    }
}

/// A place that is free, and that the agent may write to.
fn new_place(ctx: &Ctx, source: &str) -> String {
    let time = ctx.now.strftime("%Y%m%d-%H%M%S");
    let folder = restores(ctx).unwrap_or_else(|| PathBuf::from("/var/tmp"));
    folder.join(format!("{source}-{time}")).display().to_string()
}

/// The folder of restores below that of our state.
fn restores(ctx: &Ctx) -> Option<PathBuf> {
    Some(ctx.control.as_deref()?.parent()?.parent()?.join("restores"))
}
