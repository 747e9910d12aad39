//! What runs now, how far it is and what it says; what ran last, and what is next.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};
use serde_json::Value;

use super::{Done, restore};
use crate::control::{AgentState, Ended, JobState, Line, Question, RunState, Told};
use crate::said::{self, Said};
use crate::ui::units;
use crate::web::address::{self, part as segment};
use crate::web::context::Ctx;
use crate::web::layout;
use crate::web::table::{Row, Table};

fn agent(ctx: &Ctx) -> Result<&AgentState> {
    ctx.agent.as_ref().ok_or_else(|| {
        Error::new(Kind::Failed, "no agent runs here: nothing is begun by itself")
            .hint("lifeboat run; or, to have it run always: lifeboat install systemd --agent")
    })
}

/// What the run that is asked for is called.
pub(super) fn name(ctx: &Ctx) -> Option<String> {
    let id = ctx.given("run")?;
    let runs = ctx.agent.iter().flat_map(|agent| &agent.runs);
    let title = runs.clone().find(|run| run.id == id).map_or(id, |run| run.title.as_str());
    Some(units::one_line(title))
}

/// The screen.
pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    // That nothing runs by itself is what there is to say, and no failure of the page.
    let state = match agent(ctx) {
        Ok(state) => state,
        Err(error) => return Ok(layout::error(&error)),
    };
    let asked: Vec<&RunState> = state.runs.iter().filter(|run| run.ended.is_some()).collect();
    Ok(html! {
        section data-live="runs" aria-live="polite" { (going(state)) }
        @if let Some(until) = state.paused_until {
            p.summary.doubtful { "Paused: nothing begins by itself until " (ctx.moment(until)) }
        }
        h2 { "Jobs" }
        @let heads = ["Job", "Next", "Last", "Now"];
        @let heads = if ctx.may_do() { &heads[..] } else { &heads[..3] };
        (Table { caption: "The jobs of the agent", heads }
            .of(state.jobs.iter().map(|job| job_row(ctx, job))))
        @if !asked.is_empty() {
            h2 { "Restores" }
            ul { @for run in asked { li {
                (outcome(run.ended.as_ref())) " "
                a href={ "/runs/" (segment(&run.id)) } { (units::one_line(&run.title)) }
                @if let Some(by) = &run.by { ", asked for by " (by) }
                " " (layout::time(ctx, run.begun_at))
            } } }
        }
    })
}

fn job_row(ctx: &Ctx, job: &JobState) -> Row {
    let address = format!("/runs/{}", segment(&job.name));
    let first = html! { a href=(address) { (units::one_line(&job.name)) } };
    let next = html! {
        @if job.is_running { a href=(address) { "runs now" } }
        @else if let Some(next) = job.next { (layout::time(ctx, next)) }
        @else { "none" }
    };
    let last = html! {
        @match &job.last {
            None => { "never" }
            Some(last) => {
                (outcome(Some(last))) " " (layout::time(ctx, last.ended_at))
                @if let Some(error) = &last.error { p.reason.bad { (error) } }
            }
        }
    };
    let mut cells = vec![first, next, last];
    if ctx.may_do() {
        cells.push(run_now(ctx, job));
    }
    Row::marked(if job.is_failing { "bad" } else { "" }, cells)
}

fn run_now(ctx: &Ctx, job: &JobState) -> Markup {
    html! {
        form method="post" action="/runs/begin" {
            (layout::form_key(ctx))
            input type="hidden" name="job" value=(job.name);
            button.quiet disabled[job.is_running] aria-label={ "Run now: " (job.name) } {
                "Run now"
            }
        }
    }
}

fn outcome(ended: Option<&Ended>) -> Markup {
    let (class, word) = match ended.map(|ended| ended.outcome.as_str()) {
        None => ("doubtful", "runs"),
        Some("done") => ("good", "done"),
        Some("absent") => ("doubtful", "no drive"),
        Some(_) => ("bad", "failed"),
    };
    html! { span class={ "mark " (class) } { (word) } }
}

/// Everything that runs now.
pub(crate) fn going(state: &AgentState) -> Markup {
    let going: Vec<&RunState> = state.runs.iter().filter(|run| run.ended.is_none()).collect();
    html! {
        @if going.is_empty() { p.quiet { "Nothing runs now." } } @else { h2 { "Running now" } }
        @for run in going {
            article.run {
                h3 { a href={ "/runs/" (segment(&run.id)) } { (run.title) } }
                (progress(&run.told))
            }
        }
    }
}

fn progress(told: &Told) -> Markup {
    let speed = units::speed(told.bytes_done, told.elapsed_ms).filter(|_| told.bytes_done > 0);
    let what = format!("{} {}", told.phase, told.subject);
    html! {
        @if told.phase.is_empty() { p { "It has begun." } }
        @else {
            @if let Some(total) = told.bytes_total.filter(|total| *total > 0) {
                progress max=(total) value=(told.bytes_done.min(total)) aria-label=(what) {}
            }
            p {
                (what)
                @if told.bytes_done > 0 { ": " (units::bytes(told.bytes_done)) }
                @if let Some(total) = told.bytes_total { " of " (units::bytes(total)) }
                @if let Some(speed) = speed { ", " (speed) }
                @if let Some(left_ms) = told.left_ms { ", " (units::duration(left_ms)) " left" }
            }
        }
    }
}

/// The screen of one run.
pub(super) fn draw_one(ctx: &Ctx) -> Result<Markup> {
    let state = agent(ctx)?;
    let id = ctx.given("run").unwrap_or_default();
    let clock = (ctx.now, &ctx.look.zone);
    let Some(piece) = one(state, id, ctx.control.as_deref(), clock) else {
        let message = format!("there is no run that is called `{}`", units::one_line(id));
        return Err(Error::new(Kind::NotCovered, message).hint("look at the screen of the runs"));
    };
    let is_going = state.runs.iter().any(|run| run.id == id && run.ended.is_none());
    let job = state.jobs.iter().find(|job| job.name == id && !job.is_running);
    let source = id.strip_prefix("backup-");
    let source = source.filter(|name| ctx.look.rows.iter().any(|row| row.source == *name));
    Ok(html! {
        @if id.starts_with("restore-") { (restore::steps(3)) }
        section data-live={ "run:" (id) } aria-live="polite" { (piece) }
        @if is_going {
            p.note {
                "It belongs to the agent: this page may be closed, and how it ends is found here."
            }
        }
        @if is_going && ctx.may_do() {
            form method="post" action="/runs/stop" {
                (layout::form_key(ctx))
                input type="hidden" name="run" value=(id);
                button.quiet { "Ask it to end" }
            }
        }
        @if let Some(job) = job.filter(|_| ctx.may_do()) { (run_now(ctx, job)) }
        p.actions {
            @if let Some(source) = source { a href=(address::of_source(source)) { "The source" } }
            a href="/runs" { "All runs" }
        }
    })
}

/// One run: while it goes on, and when it has ended; of a job also those before it. The agent is
/// asked at `socket`, and what its runs said is kept beside it.
pub(crate) fn one(
    state: &AgentState,
    id: &str,
    socket: Option<&Path>,
    (now, zone): (Timestamp, &TimeZone),
) -> Option<Markup> {
    let Some(run) = state.runs.iter().find(|run| run.id == id) else {
        let job = state.jobs.iter().find(|job| job.name == id)?;
        let kept = socket.and_then(said::folder).map(|folder| said::of(&folder, id));
        return Some(of_job(job, &kept.unwrap_or_default(), zone));
    };
    Some(html! {
        p { "Begun " (units::age(run.begun_at, now)) @if let Some(by) = &run.by { " by " (by) } }
        @match &run.ended {
            None => { (progress(&run.told)) }
            Some(ended) => { (end(ended, zone)) (result(run)) }
        }
        @if !run.told.lines.is_empty() {
            h3 { "What it says" }
            (log("What it says", run.told.lines.iter()))
        }
    })
}

/// A job that does not run now: how its last run ended and what that said, and those before it.
fn of_job(job: &JobState, kept: &[Said], zone: &TimeZone) -> Markup {
    let is_last = |said: &&Said| Some(&said.ended) == job.last.as_ref();
    let before = kept.iter().filter(|said| !is_last(said)).collect::<Vec<_>>();
    html! {
        @if let Some(last) = &job.last { (end(last, zone)) } @else { p { "It never ran." } }
        @if let Some(said) = kept.iter().find(is_last) { (what_it_said(said)) }
        @if let Some(next) = job.next { p { "Next: " (units::moment(next, zone)) } }
        @if !before.is_empty() {
            h3 { "Runs before it" }
            @for said in before {
                details {
                    summary { (outcome(Some(&said.ended))) " " (units::moment(said.ended.ended_at, zone)) }
                    (end(&said.ended, zone))
                    (what_it_said(said))
                }
            }
        }
    }
}

fn what_it_said(said: &Said) -> Markup {
    html! {
        @if said.lines.is_empty() { p.quiet { "It said nothing." } }
        @else {
            @if said.left_out > 0 { p.note { (said.left_out) " lines before these are not kept." } }
            (log("What it said", said.lines.iter()))
        }
    }
}

fn log<'a>(label: &str, lines: impl Iterator<Item = &'a Line>) -> Markup {
    html! {
        ol.log tabindex="0" aria-label=(label) {
            @for line in lines { li class=(line.kind) { (line.text) } }
        }
    }
}

fn end(ended: &Ended, zone: &TimeZone) -> Markup {
    let took = ended.ended_at.duration_since(ended.begun_at).as_millis();
    let took = units::duration(u64::try_from(took).unwrap_or(0));
    html! {
        p { (outcome(Some(ended))) " after " (took) ", at " (units::moment(ended.ended_at, zone)) }
        @if let Some(error) = &ended.error { p.reason.bad { (error) } }
    }
}

/// What a restore printed at its end.
fn result(run: &RunState) -> Markup {
    let text = |name: &str| run.result[name].as_str();
    let kept = &run.result["kept_aside"];
    // Of rows that went back, one.
    let several = kept.as_array().map_or(std::slice::from_ref(kept), Vec::as_slice);
    let kept: Vec<&str> = several.iter().filter_map(|kept| kept.as_str()).collect();
    let tables = run.result["tables"].as_array();
    html! {
        @if text("outcome") == Some("nothing_missing") {
            p.summary { "No row was missing: nothing was changed." }
        }
        @for table in tables.into_iter().flatten() { (rows_of(table)) }
        dl {
            @if let Some(place) = text("place") { dt { "Where" } dd { code { (place) } } }
            @if !kept.is_empty() {
                dt { "What was there is kept" }
                @for kept in &kept { dd { code { (kept) } } }
            }
            @if let Some(undo) = text("undo") { dt { "To go back" } dd { code.command { (undo) } } }
        }
    }
}

/// What became of the rows of a table.
fn rows_of(table: &Value) -> Markup {
    let parts = [
        ("inserted", "put in"),
        ("overwritten", "replaced"),
        ("left", "left alone, as another row is in the way"),
    ];
    let parts = parts.map(|(name, words)| (table[name].as_u64().unwrap_or(0), words));
    let said = parts.iter().filter(|(count, _)| *count > 0);
    let said: Vec<String> =
        said.map(|(count, words)| format!("{} {words}", units::count(*count))).collect();
    let name = table["table"].as_str().unwrap_or_default();
    html! {
        @if !said.is_empty() { p { "Rows of " code { (units::one_line(name)) } ": " (said.join(", ")) } }
    }
}

/// Runs a job now.
pub(super) fn begin(ctx: &Ctx) -> Result<Done> {
    let job = ctx.given("job").unwrap_or_default().to_owned();
    ctx.ask(&Question::Run { job: job.clone() })?;
    Ok(Done::Go(format!("/runs/{}", segment(&job))))
}

/// Asks a run to end.
pub(super) fn stop(ctx: &Ctx) -> Result<Done> {
    let run = ctx.given("run").unwrap_or_default().to_owned();
    ctx.ask(&Question::Stop { run: run.clone() })?;
    Ok(Done::Go(format!("/runs/{}", segment(&run))))
}
