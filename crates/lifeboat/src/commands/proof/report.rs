//! `lifeboat proof report`: the proofs of a month on one page, as HTML and as Markdown.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use lifeboat_core::drill::{self, DrillRecord};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::page;
use super::{Found, all, is_of};
use crate::private;
use crate::proofs;
use crate::repositories::Opened;
use crate::session::Session;

/// What the report is made of, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of sources; all without any
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// The month: 2026-11 [default: this one]
    #[arg(long, value_name = "MONTH")]
    month: Option<String>,
    /// Write a page of HTML, which prints well and asks for nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write Markdown; to standard output without a file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Everything that a page shows.
pub(super) struct Report<'a> {
    /// "November 2026".
    pub(super) month: String,
    /// When it was made, and by what.
    pub(super) made: String,
    /// The proofs, the oldest first.
    pub(super) records: Vec<(&'a str, &'a DrillRecord)>,
    /// Sources of the configuration without a drill that passed in that month.
    pub(super) missing: Vec<String>,
    /// What is wrong with the chains.
    pub(super) findings: Vec<String>,
    /// How many proofs were verified in all.
    pub(super) verified: usize,
    /// The zone in which times are written.
    pub(super) zone: jiff::tz::TimeZone,
}

pub(super) fn run(session: &Session, env: &Env, opened: &[Opened], args: &Args) -> Result<()> {
    let zone = session.surroundings.time_zone.clone();
    let first = match &args.month {
        Some(text) => month(text)?,
        None => env.clock.now().to_zoned(zone.clone()).date().first_of_month(),
    };
    let found = all(session, opened)?;
    let is_in = |found: &&Found| {
        let date = found.proof.record.ended_at.to_zoned(zone.clone()).date();
        date.first_of_month() == first && is_of(found, &args.sources)
    };
    let records: Vec<(&str, &DrillRecord)> = found
        .iter()
        .filter(is_in)
        .map(|found| (found.object.as_str(), &found.proof.record))
        .collect();
    let mut findings = Vec::new();
    for one in opened {
        let marks: Vec<_> =
            one.catalog.sources.iter().flat_map(|entry| entry.drilled.clone()).collect();
        for chain in drill::chains(&one.repository)? {
            let known = proofs::head(session, &one.repository, &chain.installation)?;
            let wrong = drill::verify(&one.repository, &chain, known.as_ref(), &marks);
            findings.extend(wrong.into_iter().map(|it| format!("{}: {}", it.object, it.message)));
        }
    }
    let config = &session.loaded()?.config;
    let passed =
        |name: &str| records.iter().any(|(_, record)| record.passed && record.source.name == name);
    let wanted = config
        .source
        .keys()
        .filter(|name| (args.sources.is_empty() || args.sources.contains(name)) && !passed(name));
    let report = Report {
        month: first.strftime("%B %Y").to_string(),
        made: format!(
            "{} by {}",
            env.clock.now().to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z"),
            crate::session::TOOL
        ),
        missing: wanted.cloned().collect(),
        verified: found.len(),
        records,
        findings,
        zone,
    };
    write(session, &report, args)
}

fn write(session: &Session, report: &Report<'_>, args: &Args) -> Result<()> {
    let mut written: Vec<&Path> = Vec::new();
    if let Some(path) = &args.html {
        private::write_new(path, &page::html(report))?;
        written.push(path);
    }
    if let Some(path) = &args.markdown {
        private::write_new(path, &page::markdown(report))?;
        written.push(path);
    }
    match (written.is_empty(), session.printer.json()) {
        (_, true) => session.printer.json_data(&json!({
            "html": args.html,
            "markdown": args.markdown,
            "month": report.month,
            "drills": report.records.len(),
            "passed": report.records.iter().filter(|(_, record)| record.passed).count(),
            "missing": report.missing,
            "findings": report.findings,
        })),
        (true, false) => session.printer.data(&page::markdown(report)),
        (false, false) => {
            let lines: Vec<String> =
                written.iter().map(|path| format!("{}\n", path.display())).collect();
            session.printer.data(&lines.concat())
        }
    }
}

/// The first day of a month that is written `2026-11`.
fn month(text: &str) -> Result<Date> {
    format!("{text}-01").parse().map_err(|_| {
        Error::new(Kind::Usage, format!("`{text}` is no month")).hint("write it as 2026-11")
    })
}
