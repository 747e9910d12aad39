//! `lifeboat proof`: what drills showed, read from the repositories and verified.

pub(crate) mod facts;
mod page;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::drill::{self, Chain, Finding, Proof, installation_of};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::proofs;
use crate::repositories::{self, Opened};
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// Show and verify what drills proved
///
/// Each drill leaves a proof in the repository that it restored from: a record in JSON, signed with
/// the Ed25519 key of the installation that made it, which names the hash of the proof before it.
/// So one that is changed, removed or moved is found.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the proofs, the newest last
    List(ListArgs),
    /// Show one proof: the newest of a source, or the one of that name
    Show(ShowArgs),
    /// Verify the signatures and the chains of all proofs
    ///
    /// The exit code is 20 if anything is wrong. That the newest proofs were removed is seen by the
    /// host that made them, and wherever a backup names its proof.
    Verify(VerifyArgs),
    /// Write a report for people and auditors: all proofs of a month on one page
    Report(report::Args),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Names of sources; all without any
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A source, or the name of a proof as `list` shows it; the newest of all without it
    #[arg(value_name = "SOURCE|PROOF")]
    what: Option<String>,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Accept only proofs of this public key, 64 hexadecimal digits, or of the installation with
    /// this name; may be given again
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Also write the public key of this installation to a file, for whoever verifies elsewhere
    #[arg(long, value_name = "FILE")]
    export_key: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let (opened, failures) = repositories::look_over(session, &env)?;
    match args.action {
        Action::List(args) => list(session, &opened, &args)?,
        Action::Show(args) => show(session, &opened, &args)?,
        Action::Verify(args) => verify(session, &env, &opened, &args)?,
        Action::Report(args) => report::run(session, &env, &opened, &args)?,
    }
    super::incomplete(&failures)
}

/// A proof with its place.
struct Found {
    repository: String,
    object: String,
    proof: Proof,
}

/// All proofs that can be read, the oldest first; what cannot is a warning.
fn all(session: &Session, opened: &[Opened]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for one in opened {
        for chain in drill::chains(&one.repository)? {
            for link in chain.links {
                match link.proof {
                    Ok(proof) => {
                        let (repository, object) = (one.repository.url(), link.object);
                        found.push(Found { repository, object, proof });
                    }
                    Err(error) => session.printer.warning("", &format!("left out: {error}")),
                }
            }
        }
    }
    found.sort_by_key(|found| found.proof.record.ended_at);
    Ok(found)
}

fn is_of(found: &Found, sources: &[String]) -> bool {
    sources.is_empty() || sources.contains(&found.proof.record.source.name)
}

fn list(session: &Session, opened: &[Opened], args: &ListArgs) -> Result<()> {
    let found: Vec<Found> =
        all(session, opened)?.into_iter().filter(|found| is_of(found, &args.sources)).collect();
    if session.printer.json() {
        return session.printer.json_data(&found.iter().map(as_json).collect::<Vec<_>>());
    }
    let mut table = Table::new(&[
        ("when", Align::Left),
        ("source", Align::Left),
        ("restored", Align::Left),
        ("result", Align::Left),
        ("took", Align::Right),
        ("data age", Align::Right),
        ("proof", Align::Left),
    ]);
    let zone = &session.surroundings.time_zone;
    for Found { object, proof, .. } in &found {
        let record = &proof.record;
        let restored = record.state.as_deref().or(record.backup.as_deref()).unwrap_or("nothing");
        let style = if record.passed { Style::Good } else { Style::Bad };
        let word = if record.passed { "passed" } else { "failed" };
        table.row(vec![
            (units::moment(record.ended_at, zone), None),
            (units::one_line(&record.source.name), None),
            (units::one_line(restored), None),
            (word.to_owned(), Some(style)),
            (record.restore_ms.map_or_else(String::new, units::duration), None),
            (record.data_age_ms.map_or_else(String::new, units::coarse), None),
            (object.clone(), None),
        ]);
    }
    match found.is_empty() {
        true => session.printer.note("there are no proofs yet: `lifeboat drill` makes one"),
        false => session.printer.data(&table.to_text(&session.printer))?,
    }
    Ok(())
}

fn as_json(found: &Found) -> Value {
    json!({
        "proof": found.object,
        "repository": found.repository,
        "record": found.proof.record,
        "signature": found.proof.signature,
    })
}

fn show(session: &Session, opened: &[Opened], args: &ShowArgs) -> Result<()> {
    let is_meant = |found: &Found| match args.what.as_deref() {
        None | Some("latest") => true,
        Some(what) => {
            let record = &found.proof.record;
            found.object == what || record.source.name == what || record.id.to_string() == what
        }
    };
    let found = all(session, opened)?.into_iter().rev().find(is_meant).ok_or_else(|| {
        let of = args.what.as_ref().map(|what| format!(" of `{what}`")).unwrap_or_default();
        Error::new(Kind::NotCovered, format!("there is no proof{of}"))
            .hint("lifeboat drill; lifeboat proof list")
    })?;
    if session.printer.json() {
        return session.printer.json_data(&as_json(&found));
    }
    session.printer.data(&text_of(session, &found))
}

fn text_of(session: &Session, found: &Found) -> String {
    let record = &found.proof.record;
    let zone = &session.surroundings.time_zone;
    let moment = |at| units::moment(at, zone);
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!("{name:<10} {}\n", units::one_line(value)));
    };
    line("proof", &found.object);
    line("result", if record.passed { "passed" } else { "failed" });
    if let Some(failure) = &record.failure {
        line("because", failure);
    }
    line("source", &format!("{} ({})", record.source.name, record.source.kind));
    line("from", &record.repository_url);
    let restored = record.state.as_deref().or(record.backup.as_deref()).unwrap_or("nothing");
    line("restored", &format!("{restored}, chosen: {}", record.chosen));
    if let Some(at) = record.moment {
        line("shows", &moment(at));
    }
    line("drilled", &format!("{} on {}", moment(record.ended_at), record.host));
    if let Some(restore_ms) = record.restore_ms {
        line("took", &units::duration(restore_ms));
    }
    if let Some(age_ms) = record.data_age_ms {
        line("data age", &units::duration(age_ms));
    }
    for phase in &record.phases {
        line("phase", &format!("{} {}", phase.name, units::duration(phase.elapsed_ms)));
    }
    for check in &record.checks {
        let name = check.name.replace('_', " ");
        line(check.outcome.word(), &format!("{name}: {}", check.detail));
    }
    line("signed by", &record.public_key);
    let before = record.previous.as_deref().unwrap_or("nothing, it is the first");
    line("follows", before);
    text
}

fn verify(session: &Session, env: &Env, opened: &[Opened], args: &VerifyArgs) -> Result<()> {
    if let Some(path) = &args.export_key {
        let key = proofs::key(session, env)?;
        crate::private::write_new(path, &format!("{}\n", key.public()))?;
    }
    let own = proofs::known_key(session)?.map(|key| key.installation());
    let accepted: Vec<String> = args
        .key
        .iter()
        .map(|key| if key.len() == 64 { installation_of(key) } else { key.clone() })
        .collect();
    let mut results = Vec::new();
    let (mut proofs_seen, mut wrong) = (0, 0);
    for one in opened {
        let mut chains = drill::chains(&one.repository)?;
        add_remembered(session, one, own.as_deref(), &mut chains)?;
        let marks: Vec<_> =
            one.catalog.sources.iter().flat_map(|entry| entry.drilled.clone()).collect();
        let named = marks.iter().filter_map(|mark| mark.proof.as_deref()?.split('/').nth(1));
        for installation in named {
            if !chains.iter().any(|chain| chain.installation == installation) {
                chains.push(Chain { installation: installation.to_owned(), links: Vec::new() });
            }
        }
        for chain in &chains {
            let installation = &chain.installation;
            let known = proofs::head(session, &one.repository, installation)?;
            let mut findings = drill::verify(&one.repository, chain, known.as_ref(), &marks);
            if !accepted.is_empty() && !accepted.contains(installation) {
                findings.extend(chain.links.iter().map(|link| Finding {
                    object: link.object.clone(),
                    message: "it is of a key that is not accepted".to_owned(),
                }));
            }
            proofs_seen += chain.links.len();
            wrong += findings.len();
            let is_own = own.as_ref() == Some(installation);
            say(session, one, chain, is_own, &findings);
            results.push(json!({
                "repository": one.repository.url(),
                "installation": installation,
                "own": is_own,
                "proofs": chain.links.len(),
                "sound": findings.is_empty(),
                "findings": findings,
            }));
        }
    }
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    match (wrong, proofs_seen) {
        (0, 0) => Err(Error::new(Kind::NotCovered, "there are no proofs to verify")
            .hint("lifeboat drill makes one")),
        (0, _) => Ok(()),
        _ => {
            let what = if wrong == 1 { "finding" } else { "findings" };
            Err(Error::new(Kind::CheckFailed, format!("the proofs are not whole: {wrong} {what}"))
                .hint("ask who may write to the repository; drill again: lifeboat drill"))
        }
    }
}

/// A chain of which nothing is left is one that was removed.
fn add_remembered(
    session: &Session,
    one: &Opened,
    own: Option<&str>,
    chains: &mut Vec<Chain>,
) -> Result<()> {
    let Some(own) = own else { return Ok(()) };
    let is_there = chains.iter().any(|chain| chain.installation == own);
    if !is_there && proofs::head(session, &one.repository, own)?.is_some() {
        chains.push(Chain { installation: own.to_owned(), links: Vec::new() });
    }
    Ok(())
}

fn say(session: &Session, one: &Opened, chain: &Chain, is_own: bool, findings: &[Finding]) {
    let printer = &session.printer;
    let whose = if is_own { ", of this installation" } else { "" };
    let what = format!(
        "{} proofs of {}{whose} in {}",
        chain.links.len(),
        chain.installation,
        one.repository.url()
    );
    if findings.is_empty() {
        return printer.note(&format!("{} {what}", printer.paint_err(Style::Good, "sound")));
    }
    if printer.json() {
        return;
    }
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("\n  {}: {}", finding.object, units::one_line(&finding.message)))
        .collect();
    let mark = printer.paint_err(Style::Bad, "damaged");
    printer.line(&format!("{mark} {what}{}", lines.concat()));
}
