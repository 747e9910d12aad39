//! `lifeboat wal check`: whether the log is whole, readable, and goes on.

use std::process::ExitCode;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::Session as ServerSession;
use lifeboat_postgres::wal::{
    ArchiverState, ClusterLog, Complaint, Kept, Lsn, Member, check_object,
};
use serde_json::{Value, json};

use super::{moments, target};
use crate::repositories;
use crate::selection;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::printer::Style;
use crate::ui::units;

/// Look for gaps, damage and a dead archiver
///
/// For each cluster and timeline in each repository: the moments that can be restored, what is
/// missing between them, and the newest file. With --read every object is read and decompressed,
/// not only those at the ends. Where the server can be reached, its archiver, its pg_wal and its
/// replication slots are looked at as well.
///
/// The exit code is 20 where something is damaged, else 22 where something is missing, else 21
/// where the archiver fails.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source of the configuration; needed where there are several clusters
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// Read every object
    #[arg(long)]
    read: bool,
    /// Leave the server alone
    #[arg(long)]
    offline: bool,
}

/// What was found in one repository.
#[derive(Default)]
struct Found {
    text: String,
    json: Vec<Value>,
    gaps: Vec<String>,
    damaged: Vec<String>,
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let env = session.env()?;
    let target = target(session, args.source.as_deref())?;
    let (opened, failures) = repositories::look_over(session, &env)?;
    let mut found = Found::default();
    let mut clusters = 0;
    for one in &opened {
        let named = one.place.name.as_ref();
        let is_meant = |names: &Vec<String>| named.is_some_and(|name| names.contains(name));
        let elsewhere = target.repositories.as_ref().is_some_and(|names| !is_meant(names));
        if elsewhere && session.globals.repo.is_none() {
            continue;
        }
        let Some(entry) = selection::own_entry(&env, one, &target)? else { continue };
        let member = Member {
            label: one.place.label().to_owned(),
            repository: one.repository.clone(),
            folder: entry.folder.clone(),
        };
        for log in ClusterLog::all(&env, &member, &entry.backups)? {
            clusters += 1;
            cluster(session, &env, args, &member, &log, &mut found)?;
        }
    }
    let server = if args.offline { None } else { server(session, &target) };
    match session.printer.json() {
        true => session.printer.json_data(&json!({
            "source": target.name, "clusters": found.json,
            "server": server.as_ref().map(|(state, complaints)| {
                json!({ "archiver": state, "complaints": complaints })
            }),
        }))?,
        false => session.printer.data(&found.text)?,
    }
    let complaints = server.map(|(_, complaints)| complaints).unwrap_or_default();
    for complaint in &complaints {
        session.printer.warning(&units::one_line(&target.name), &complaint.text);
    }
    let name = units::one_line(&target.name);
    if let Some(first) = found.damaged.first() {
        let message = format!("{} objects of the log are damaged: {first}", found.damaged.len());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("another repository may hold them whole; else make a base backup now"));
    }
    if let Some(first) = found.gaps.first() {
        let message = format!("the log has {} gaps: {first}", found.gaps.len());
        return Err(Error::new(Kind::NotCovered, message).hint(format!(
            "a base backup from now on closes it: lifeboat backup {}",
            units::shell_word(&target.name)
        )));
    }
    if clusters == 0 && failures.is_empty() {
        return Err(Error::new(Kind::NotCovered, format!("no repository holds a log of `{name}`"))
            .hint("lifeboat install postgres sets up the archive command"));
    }
    if let Some(first) = complaints.into_iter().next() {
        return Err(Error::new(Kind::Stale, first.text).hint("lifeboat doctor says more"));
    }
    crate::commands::incomplete(&failures)
}

fn cluster(
    session: &Session,
    env: &Env,
    args: &Args,
    member: &Member,
    log: &ClusterLog,
    found: &mut Found,
) -> Result<()> {
    let now = env.clock.now();
    let mut damaged: Vec<String> =
        log.unreadable.iter().map(|(object, why)| format!("{object}: {why}")).collect();
    let read: Vec<Kept> = match args.read {
        true => log.files.iter().map(|(kept, _)| *kept).collect(),
        false => log.newest().map(|(kept, _)| *kept).into_iter().collect(),
    };
    damaged.extend(damage(env, member, log, &read)?);
    damaged.sort();
    damaged.dedup();
    let mut cache = moments::cache(session, &member.repository);
    let ranges = log.ranges(env, member, &mut cache)?;
    cache.save();
    let arithmetic = log.log();
    let mut gaps: Vec<String> = Vec::new();
    for gap in arithmetic.gaps() {
        let (from, to) = (Lsn(gap.from), Lsn(gap.to));
        gaps.push(format!("timeline {}, {from} to {to} in {}", gap.branch, member.label));
    }
    for base in arithmetic.broken() {
        gaps.push(format!("{} lacks the log that it needs in {}", base.name, member.label));
    }
    let newest = log.newest().map(|(kept, info)| (kept.name(), info.modified));
    let system = log.system;
    let title = format!("{} in {}, cluster {system}", member.folder, member.label);
    found.text.push_str(&format!("{}\n", units::one_line(&title)));
    for range in &ranges {
        found.text.push_str(&format!("  {}\n", moments::line(session, range)));
    }
    let bad = |text: &str| session.printer.paint_out(Style::Bad, text);
    for gap in &gaps {
        found.text.push_str(&format!("  {} {gap}\n", bad("missing:")));
    }
    for object in &damaged {
        found.text.push_str(&format!("  {} {}\n", bad("damaged:"), units::one_line(object)));
    }
    if let Some((name, at)) = &newest {
        let age = units::age(*at, now);
        found.text.push_str(&format!("  newest file {name}, stored {age} ago\n"));
    }
    found.json.push(as_json(member, log, &ranges, &damaged, newest));
    found.gaps.extend(gaps);
    found.damaged.extend(damaged);
    Ok(())
}

fn as_json(
    member: &Member,
    log: &ClusterLog,
    ranges: &[lifeboat_postgres::wal::Range],
    damaged: &[String],
    newest: Option<(String, Timestamp)>,
) -> Value {
    let arithmetic = log.log();
    let gap = |gap: &lifeboat_core::coverage::Gap| {
        json!({
            "timeline": gap.branch, "from": Lsn(gap.from).to_string(), "to": Lsn(gap.to).to_string(),
        })
    };
    let broken: Vec<&str> = arithmetic.broken().iter().map(|base| base.name.as_str()).collect();
    json!({
        "repository": member.repository.url(), "folder": member.folder,
        "system_identifier": log.system.to_string(), "segment_bytes": log.segment_bytes,
        "files": log.files.len(), "ranges": ranges,
        "gaps": arithmetic.gaps().iter().map(gap).collect::<Vec<_>>(),
        "backups_without_their_log": broken, "damaged": damaged,
        "newest": newest.map(|(name, at)| json!({ "file": name, "stored_at": at })),
    })
}

/// Reads objects to nowhere: what is damaged, in words.
fn damage(env: &Env, member: &Member, log: &ClusterLog, kept: &[Kept]) -> Result<Vec<String>> {
    let worker = Env { threads: 1, ..env.clone() };
    let threads = env.threads.max(member.repository.store().readers());
    let read = in_parallel(kept, threads, |kept| {
        let object = kept.object(&member.folder, log.system);
        let checked = check_object(&worker, member, log, *kept);
        (object, checked)
    });
    let mut damaged = Vec::new();
    for (object, checked) in read {
        match checked {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NoSpace) => {
                damaged.push(format!("{object}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(damaged)
}

/// What a reachable server says, and what is wrong with it. That it cannot be reached is said, and
/// no error: the log is judged by itself.
fn server(session: &Session, target: &Target) -> Option<(ArchiverState, Vec<Complaint>)> {
    match state(target) {
        Ok(state) => {
            let complaints = state.complaints(free_bytes(&state));
            Some((state, complaints))
        }
        Err(error) => {
            let name = units::one_line(&target.name);
            session.printer.note(&format!("the archiver of {name} was not looked at: {error}"));
            None
        }
    }
}

/// Asks the server of a source how its archiver does.
pub(crate) fn state(target: &Target) -> Result<ArchiverState> {
    let Some(cluster) = &target.cluster else {
        return Err(Error::new(Kind::Usage, "it has no server"));
    };
    let what = format!("cannot connect to {}", cluster.location());
    ArchiverState::read(&mut ServerSession::open(&cluster.asking()?, &what)?)
}

/// What the disk of a server's `pg_wal` has left, if it is one of this host.
pub(crate) fn free_bytes(state: &ArchiverState) -> Option<u64> {
    let folder = std::path::Path::new(state.data.as_deref()?).join("pg_wal");
    let space = rustix::fs::statvfs(&folder).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}
