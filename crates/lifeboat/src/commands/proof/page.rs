//! The page of a report: what was restored in a month, what was found, and what is missing.
//!
//! One file of HTML without a script and without anything that is fetched; it is made for paper.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use lifeboat_core::drill::{DrillRecord, Outcome};

use super::facts::{measured, restored};
use super::report::Report;
use crate::ui::units;

const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em;color:#111}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3em .6em;border-bottom:1px solid #ccc;vertical-align:top}\
.passed{color:#06662b}.failed{color:#a40000;font-weight:bold}.skipped,.noted{color:#666}\
code{font-size:.9em;overflow-wrap:anywhere}section{break-inside:avoid}\
@media print{body{margin:0;max-width:none;font-size:11px}a{color:inherit}}";

/// What the drills of a source came to.
struct Sum<'a> {
    drills: usize,
    passed: usize,
    slowest_ms: u64,
    oldest_ms: u64,
    last: &'a DrillRecord,
}

fn sums<'a>(report: &Report<'a>) -> BTreeMap<&'a str, Sum<'a>> {
    let mut sums: BTreeMap<&str, Sum<'_>> = BTreeMap::new();
    for (_, record) in &report.records {
        let sum = sums.entry(&record.source.name).or_insert(Sum {
            drills: 0,
            passed: 0,
            slowest_ms: 0,
            oldest_ms: 0,
            last: record,
        });
        sum.drills += 1;
        sum.passed += usize::from(record.passed);
        sum.slowest_ms = sum.slowest_ms.max(record.restore_ms.unwrap_or(0));
        sum.oldest_ms = sum.oldest_ms.max(record.data_age_ms.unwrap_or(0));
        sum.last = record;
    }
    sums
}

fn word(passed: bool) -> &'static str {
    if passed { "passed" } else { "failed" }
}

fn moment(report: &Report<'_>, at: Timestamp) -> String {
    units::moment(at, &report.zone)
}

/// The rows about one drill, as pairs.
fn facts(report: &Report<'_>, object: &str, record: &DrillRecord) -> Vec<(&'static str, String)> {
    let restored = restored(record);
    let mut facts = vec![
        ("Restored", format!("{restored} ({})", record.chosen)),
        ("From", record.repository_url.clone()),
    ];
    facts.extend(measured(record, |at| moment(report, at)));
    if !record.phases.is_empty() {
        let phases = record.phases.iter();
        let phases: Vec<String> = phases
            .map(|phase| format!("{} {}", phase.name, units::duration(phase.elapsed_ms)))
            .collect();
        facts.push(("Phases", phases.join(", ")));
    }
    if let Some(failure) = &record.failure {
        facts.push(("Failed because", failure.clone()));
    }
    facts.push(("Host", record.host.clone()));
    facts.push(("Proof", object.to_owned()));
    facts.push(("Signed by", record.public_key.clone()));
    facts.into_iter().map(|(name, value)| (name, units::one_line(&value))).collect()
}

fn chain_line(report: &Report<'_>) -> String {
    match report.findings.is_empty() {
        true => format!(
            "All {} proofs in the repositories were verified: their signatures fit, none is missing.",
            report.verified
        ),
        false => "The chain of proofs is not whole:".to_owned(),
    }
}

/// The report in Markdown.
pub(super) fn markdown(report: &Report<'_>) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
    let mut text = format!("# Restore drills, {}\n\nMade {}.\n", report.month, report.made);
    let _ = write!(text, "\n{}\n", chain_line(report));
    for finding in &report.findings {
        let _ = writeln!(text, "- **{}**", cell(&units::one_line(finding)));
    }
    text.push_str("\n| source | drills | passed | slowest restore | oldest data | last |\n");
    text.push_str("|---|--:|--:|--:|--:|---|\n");
    for (name, sum) in sums(report) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} {} |",
            cell(&units::one_line(name)),
            sum.drills,
            sum.passed,
            units::duration(sum.slowest_ms),
            units::duration(sum.oldest_ms),
            moment(report, sum.last.ended_at),
            word(sum.last.passed),
        );
    }
    for name in &report.missing {
        let _ = writeln!(text, "| {} | 0 | **0** | | | no drill passed |", cell(name));
    }
    for (object, record) in &report.records {
        let name = cell(&units::one_line(&record.source.name));
        let when = moment(report, record.ended_at);
        let _ = write!(text, "\n## {name}, {when}: {}\n\n", word(record.passed));
        for (name, value) in facts(report, object, record) {
            let _ = writeln!(text, "- {name}: {}", cell(&value));
        }
        for check in &record.checks {
            let (name, detail) = (check.name.replace('_', " "), units::one_line(&check.detail));
            let _ = writeln!(text, "- {}: {name}: {}", check.outcome.word(), cell(&detail));
        }
    }
    text
}

/// The report as a page of HTML.
pub(super) fn html(report: &Report<'_>) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Restore drills, {month}</title>\n<style>{STYLE}</style></head>\n<body>\n\
         <h1>Restore drills, {month}</h1>\n<p>Made {made}.</p>\n",
        month = escaped(&report.month),
        made = escaped(&report.made),
    );
    let class = if report.findings.is_empty() { "passed" } else { "failed" };
    let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escaped(&chain_line(report)));
    if !report.findings.is_empty() {
        page.push_str("<ul>\n");
        for finding in &report.findings {
            let _ =
                writeln!(page, "<li class=\"failed\">{}</li>", escaped(&units::one_line(finding)));
        }
        page.push_str("</ul>\n");
    }
    summary(&mut page, report);
    for (object, record) in &report.records {
        one(&mut page, report, object, record);
    }
    page.push_str("</body></html>\n");
    page
}

fn summary(page: &mut String, report: &Report<'_>) {
    page.push_str(
        "<table>\n<tr><th>Source<th>Drills<th>Passed<th>Slowest restore<th>Oldest data<th>Last\n",
    );
    for (name, sum) in sums(report) {
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td class=\"{class}\">{} {class}",
            escaped(&units::one_line(name)),
            sum.drills,
            sum.passed,
            units::duration(sum.slowest_ms),
            units::duration(sum.oldest_ms),
            escaped(&moment(report, sum.last.ended_at)),
            class = word(sum.last.passed),
        );
    }
    for name in &report.missing {
        let name = escaped(name);
        let _ =
            writeln!(page, "<tr><td>{name}<td>0<td>0<td><td><td class=\"failed\">no drill passed");
    }
    page.push_str("</table>\n");
}

fn one(page: &mut String, report: &Report<'_>, object: &str, record: &DrillRecord) {
    let class = word(record.passed);
    let name = escaped(&units::one_line(&record.source.name));
    let when = escaped(&moment(report, record.ended_at));
    let _ =
        writeln!(page, "<section><h2>{name}, {when}: <span class=\"{class}\">{class}</span></h2>");
    page.push_str("<table>\n");
    for (name, value) in facts(report, object, record) {
        let value = escaped(&value);
        let _ = writeln!(page, "<tr><th>{name}<td><code>{value}</code>");
    }
    for check in &record.checks {
        let class = check.outcome.word();
        let mark = if check.outcome == Outcome::Failed { "failed: " } else { "" };
        let name = escaped(&check.name.replace('_', " "));
        let detail = escaped(&units::one_line(&check.detail));
        let _ = writeln!(page, "<tr><th>{name}<td class=\"{class}\">{mark}{detail}");
        if check.outcome == Outcome::Skipped {
            page.push_str(" (skipped)\n");
        }
    }
    page.push_str("</table></section>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
