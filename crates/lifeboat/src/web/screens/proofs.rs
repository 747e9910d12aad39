//! What drills proved: the proofs of a month with what they come to, and one proof with all that it
//! says.

mod view;

use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::drill::{self, Chain, DrillCheck, DrillRecord, Outcome};
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

use self::view::{Month, Shown};
use crate::commands::proof::facts::{measured, restored};
use crate::proofs;
use crate::repositories::Opened;
use crate::ui::units;
use crate::web::address;
use crate::web::context::Ctx;
use crate::web::table::{Row, Table};

/// The chains of a repository, and what is wrong with them.
struct Read<'a> {
    opened: &'a Opened,
    chains: Vec<Chain>,
    findings: Vec<String>,
}

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let read = read(ctx)?;
    let all = shown(&read);
    let source = ctx.given("source");
    let configured = &ctx.look.loaded.config.source;
    let configured: Vec<&str> = configured.keys().map(String::as_str).collect();
    let today = ctx.now.to_zoned(ctx.look.zone.clone()).date();
    let asked = (ctx.given("month"), today);
    let month = view::month(&all, &ctx.look.zone, asked, source, &configured);
    let findings: Vec<&String> = read.iter().flat_map(|one| &one.findings).collect();
    Ok(html! {
        (chains(all.len(), &findings))
        (heading(&month, source))
        (sums(&month))
        @if !month.missing.is_empty() {
            p.doubtful {
                "No drill passed in this month of: "
                @for (index, name) in month.missing.iter().enumerate() {
                    @if index > 0 { ", " }
                    a href=(address::of_source(name)) { (units::one_line(name)) }
                }
                " " code.command { "lifeboat drill" }
            }
        }
        (list(ctx, &month))
        p.note {
            "The same for people who have no page: "
            code.command {
                "lifeboat proof report --month " (month.first.strftime("%Y-%m").to_string())
                " --html report.html"
            }
        }
    })
}

/// One proof.
pub(super) fn draw_one(ctx: &Ctx) -> Result<Markup> {
    let read = read(ctx)?;
    let wanted = ctx.given("proof").unwrap_or_default();
    let all = shown(&read);
    let found = all.iter().find(|shown| shown.record.id.to_string() == wanted);
    let shown = found.ok_or_else(|| {
        Error::new(Kind::NotCovered, "there is no such proof")
            .hint("the proofs of all drills are listed")
    })?;
    let record = shown.record;
    let word = if record.passed { "good" } else { "bad" };
    Ok(html! {
        p class={ "summary " (word) } {
            "The restore of " (units::one_line(&record.source.name))
            @if record.passed { " passed" } @else { " failed" }
            " at " (ctx.moment(record.ended_at))
            @if let Some(failure) = &record.failure { ": " (units::one_line(failure)) }
        }
        (facts(ctx, shown))
        (phases(record))
        (checks(record))
        p { "To check its signature and its chain: " code.command { "lifeboat proof verify" } }
    })
}

fn read(ctx: &Ctx) -> Result<Vec<Read<'_>>> {
    let session = ctx.session();
    let mut read = Vec::new();
    for opened in &ctx.look.opened {
        let entries = &opened.catalog.sources;
        let marks: Vec<_> =
            entries.iter().flat_map(|entry: &SourceEntry| entry.drilled.clone()).collect();
        let chains = drill::chains_again(&opened.repository, ctx.looks.right_proofs())?;
        let mut findings = Vec::new();
        for chain in &chains {
            let known = proofs::head(&session, &opened.repository, &chain.installation)?;
            let wrong = drill::verify(&opened.repository, chain, known.as_ref(), &marks);
            findings.extend(wrong.into_iter().map(|it| format!("{}: {}", it.object, it.message)));
        }
        read.push(Read { opened, chains, findings });
    }
    Ok(read)
}

fn shown<'a>(read: &'a [Read<'_>]) -> Vec<Shown<'a>> {
    let of = |one: &'a Read<'_>| {
        let links = one.chains.iter().flat_map(|chain| &chain.links);
        links.filter_map(|link| {
            let record = &link.proof.as_ref().ok()?.record;
            Some(Shown { place: one.opened.place.label(), object: &link.object, record })
        })
    };
    read.iter().flat_map(of).collect()
}

fn chains(verified: usize, findings: &[&String]) -> Markup {
    html! {
        @if findings.is_empty() {
            p {
                (units::counted(verified, "proof")) " verified just now: the signatures fit, and none \
                 is missing in its chain."
            }
        } @else {
            div.summary.bad {
                p { "The chain of proofs is not whole:" }
                ul { @for finding in findings { li { (units::one_line(finding)) } } }
            }
        }
    }
}

fn heading(month: &Month<'_>, source: Option<&str>) -> Markup {
    let to = |date: &jiff::civil::Date| {
        let month = date.strftime("%Y-%m").to_string();
        address::to("/proofs", &[("month", &month), ("source", source.unwrap_or_default())])
    };
    html! {
        h2 {
            (month.first.strftime("%B %Y").to_string())
            @if let Some(source) = source { ", " (units::one_line(source)) }
        }
        @if !month.others.is_empty() || source.is_some() {
            p.choices {
                @for other in month.others.iter().rev().take(12) {
                    a href=(to(other)) { (other.strftime("%b %Y").to_string()) } " "
                }
                @if source.is_some() { a href="/proofs" { "All sources" } }
            }
        }
    }
}

fn sums(month: &Month<'_>) -> Markup {
    let row = |sum: &view::Sum| {
        Row::new([
            html! { a href=(address::of_source(&sum.source)) { (units::one_line(&sum.source)) } },
            html! { (sum.passed) " of " (sum.drills) },
            html! { (units::duration(sum.slowest_ms)) },
            html! { (units::coarse(sum.oldest_ms)) },
        ])
    };
    let table = Table {
        caption: "What the drills of the month came to",
        heads: &["Source", "Passed", "Slowest restore", "Oldest data"],
    };
    table.of(month.sums.iter().map(row))
}

fn list(ctx: &Ctx, month: &Month<'_>) -> Markup {
    let table = Table {
        caption: "Proofs of the month, the newest first",
        heads: &["When", "Source", "Restored from", "Result", "Restore took", "Data age"],
    };
    html! {
        h2 { "Proofs" }
        @if month.proofs.is_empty() {
            p { "There is none of this month: " code.command { "lifeboat drill" } " makes one." }
        }
        (table.of(month.proofs.iter().map(|shown| line(ctx, shown))))
    }
}

fn line(ctx: &Ctx, shown: &Shown<'_>) -> Row {
    let record = shown.record;
    let (class, word) = if record.passed { ("good", "passed") } else { ("bad", "failed") };
    let none = || "\u{2013}".to_owned();
    Row::new([
        html! { a href={ "/proofs/" (record.id) } { (ctx.moment(record.ended_at)) } },
        html! { (units::one_line(&record.source.name)) },
        html! { (units::one_line(shown.place)) },
        html! {
            span class={ "mark " (class) } { (word) }
            @if let Some(failure) = &record.failure { " " (units::one_line(failure)) }
        },
        html! { (record.restore_ms.map_or_else(none, units::duration)) },
        html! { (record.data_age_ms.map_or_else(none, units::coarse)) },
    ])
}

fn facts(ctx: &Ctx, shown: &Shown<'_>) -> Markup {
    let record = shown.record;
    let mut facts = vec![("Restored", format!("{}, chosen: {}", restored(record), record.chosen))];
    facts.extend(measured(record, |at| ctx.moment(at)));
    facts.push(("From", format!("{} ({})", shown.place, record.repository_url)));
    facts.push(("Host", record.host.clone()));
    facts.push(("Made by", record.tool.clone()));
    facts.push(("Proof", shown.object.to_owned()));
    facts.push(("Signed by", record.public_key.clone()));
    html! {
        dl.facts {
            @for (name, value) in &facts { dt { (name) } dd { (units::one_line(value)) } }
        }
    }
}

fn phases(record: &DrillRecord) -> Markup {
    let phases = view::phases(record);
    let said: Vec<String> = phases
        .iter()
        .map(|(name, time, ..)| format!("{} {}", units::one_line(name), units::duration(*time)))
        .collect();
    html! {
        @if !phases.is_empty() {
            h2 { "How long each part took" }
            figure.chart {
                svg role="img" width="100%" height="26" aria-label=(said.join(", ")) {
                    title { (said.join(", ")) }
                    @for (index, (name, _, at, width)) in phases.iter().enumerate() {
                        rect class={ "phase phase-" (index % 4) } y="2" height="22"
                            x=(format!("{at:.2}%")) width=(format!("{width:.2}%"))
                        { title { (units::one_line(name)) } }
                    }
                }
                figcaption { (said.join(", ")) }
            }
        }
    }
}

fn checks(record: &DrillRecord) -> Markup {
    let row = |check: &DrillCheck| {
        Row::new([
            html! { (units::one_line(&check.name.replace('_', " "))) },
            html! { span class={ "mark " (class_of(check.outcome)) } { (check.outcome.word()) } },
            html! { (units::one_line(&check.detail)) },
        ])
    };
    let table = Table { caption: "The checks of this drill", heads: &["Check", "Result", "Found"] };
    html! {
        @if !record.checks.is_empty() {
            h2 { "What was checked" }
            (table.of(record.checks.iter().map(row)))
        }
    }
}

fn class_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "good",
        Outcome::Failed => "bad",
        Outcome::Skipped | Outcome::Noted => "doubtful",
    }
}
