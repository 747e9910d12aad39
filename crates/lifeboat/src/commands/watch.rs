//! `lifeboat watch`: a second observer, on another host, that needs nothing of the first one.
//!
//! Here are the facts, read from the repository; `judge` has the rules and is pure.

mod judge;

use std::collections::BTreeSet;
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::catalog::{Catalog, SourceEntry};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use self::judge::{Complaint, Facts, Promise, Sample, Severity, judge};
use crate::config::schedule::Schedule;
use crate::config::values::Period;
use crate::config::{Config, SourceConfig};
use crate::notify::Ended;
use crate::session::Session;
use crate::ui::units;
use crate::{logs, rebuild, repositories};

/// Watch a repository from another host
///
/// Reads the repository, and nothing else: no state of this host, no configuration but the one that
/// each host keeps in the repository with its backups. So it tells of a host that is gone, with
/// credentials that may only read. Run it by a schedule on another host.
///
/// Each source must have a good backup, or a state of its log, that is no older than its `rpo`;
/// where it has none, than one and a half times its schedule allows; else than --max-age. Sources
/// that are configured and were never backed up are told of, as are sizes and numbers of rows far
/// from those of the same weekday, drills that failed or are overdue, gaps in logs, clocks that are
/// wrong, and a disk that is 80 % full.
///
/// The exit code is 21 where a source is stale, 20 where a drill failed or a log has a gap;
/// warnings alone leave it 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The repository: a URL, a path, or a configured name; else --repo
    #[arg(value_name = "REPO")]
    repository: Option<String>,
    /// How old the newest backup may be where the repository knows no promise: 26h, 7d
    #[arg(long, value_name = "AGE")]
    max_age: Option<Period>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let wanted = args.repository.or_else(|| session.globals.repo.clone()).ok_or_else(|| {
        Error::new(Kind::Usage, "there is no repository to watch")
            .hint("name it: lifeboat watch s3://bucket/backups")
    })?;
    let env = session.env()?;
    let place = repositories::place(session, &wanted)?;
    let repository = place.open(&env)?.only_looked_at(&env, None);
    let catalog = repository.catalog()?;
    let now = env.clock.now();
    let watch = Watch { env: &env, repository: &repository, catalog: &catalog, now };
    let max_age_ms = args.max_age.map(|age| age.milliseconds);
    let (facts, mut complaints) = watch.facts(max_age_ms)?;
    complaints.extend(facts.iter().flat_map(|facts| judge(facts, now)));
    if let Some(space) = repository.store().space()?.filter(|space| space.is_full()) {
        let percent = space.used_percent();
        let free = units::bytes(space.free_bytes);
        let what = format!("the disk is {percent} % full, {free} are left");
        complaints.push(Complaint::new(Severity::Warning, "", what, "lifeboat prune --dry-run"));
    }
    complaints.sort_by_key(|complaint| complaint.severity);
    tell(session, &repository, &facts, &complaints)
}

fn tell(
    session: &Session,
    repository: &Repository,
    facts: &[Facts],
    complaints: &[Complaint],
) -> Result<ExitCode> {
    let printer = &session.printer;
    if printer.json() {
        printer.json_data(&json!({
            "repository": repository.url(),
            "sources": facts.iter().map(|facts| &facts.source).collect::<Vec<_>>(),
            "complaints": complaints,
        }))?;
    } else {
        for complaint in complaints {
            let text = format!("{} ({})", complaint.what, complaint.command);
            printer.warning(&units::one_line(&complaint.source), &text);
        }
        if complaints.is_empty() {
            printer.note(&format!("{} sources, all as promised", facts.len()));
        }
    }
    note(session, &repository.url(), facts, complaints);
    let worst = complaints.first().map(|complaint| complaint.severity);
    let (kind, what) = match worst {
        Some(Severity::Stale) => (Kind::Stale, "a source is stale"),
        Some(Severity::Broken) => (Kind::CheckFailed, "a drill failed, or a log has a gap"),
        Some(Severity::Warning) | None => return Ok(ExitCode::SUCCESS),
    };
    let hint = complaints.first().map_or(String::new(), |complaint| complaint.command.clone());
    Err(Error::new(kind, format!("{what}: {}", repository.url())).hint(hint))
}

/// How each source stands, for those who are told.
fn note(session: &Session, url: &str, facts: &[Facts], complaints: &[Complaint]) {
    let known = facts.iter().map(|facts| facts.source.as_str());
    let names: BTreeSet<&str> = known.chain(complaints.iter().map(|one| &*one.source)).collect();
    for name in names {
        let is_wrong = |one: &&Complaint| one.source == name && one.severity != Severity::Warning;
        let wrong: Vec<&Complaint> = complaints.iter().filter(is_wrong).collect();
        let what: Vec<&str> = wrong.iter().map(|one| one.what.as_str()).collect();
        let failure = wrong
            .first()
            .map(|first| Error::new(Kind::Stale, what.join("; ")).hint(first.command.clone()));
        session.note_ended(Ended::of("watch", name, url, failure.as_ref()));
    }
}

/// What is looked at.
struct Watch<'a> {
    env: &'a Env,
    repository: &'a Repository,
    catalog: &'a Catalog,
    now: Timestamp,
}

impl Watch<'_> {
    /// What is known of each source, and what is wrong with what is known.
    fn facts(&self, max_age_ms: Option<u64>) -> Result<(Vec<Facts>, Vec<Complaint>)> {
        let (mut facts, mut complaints) = (Vec::new(), Vec::new());
        let mut hosts: Vec<String> =
            self.repository.configurations()?.into_iter().map(|kept| kept.host).collect();
        hosts.extend(self.catalog.sources.iter().map(|entry| entry.record.host.clone()));
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            let config = match rebuild::of(self.repository, self.catalog, Some(&host), &host) {
                Ok(rebuilt) => rebuilt.config,
                Err(error) => {
                    let what = format!("what {host} promised cannot be read: {error}");
                    let command = "lifeboat watch --identity FILE";
                    complaints.push(Complaint::new(Severity::Warning, "", what, command));
                    Config::default()
                }
            };
            let mut seen = Vec::new();
            for entry in self.catalog.sources.iter().filter(|entry| entry.record.host == host) {
                let configured = configured(&config, &entry.record.name);
                seen.extend(configured.map(|(name, _)| name.clone()));
                let promise = self.promise(configured.map(|(_, source)| source), max_age_ms);
                facts.push(self.facts_of(entry, promise)?);
            }
            for (name, source) in &config.source {
                if !seen.contains(name) && self.is_kept_here(&config, source) {
                    let promise = self.promise(Some(source), max_age_ms);
                    facts.push(Facts { source: name.clone(), promise, ..Facts::default() });
                }
            }
        }
        Ok((facts, complaints))
    }

    fn promise(&self, source: Option<&SourceConfig>, max_age_ms: Option<u64>) -> Promise {
        let Some(source) = source else {
            return Promise { age_ms_max: max_age_ms, ..Promise::default() };
        };
        let schedule = source.schedule.as_deref().and_then(|text| Schedule::read(text).ok());
        let by_schedule = schedule.and_then(|schedule| {
            let next = schedule.next(self.now, &TimeZone::UTC)?;
            let before = schedule.newest(Timestamp::MIN, self.now, &TimeZone::UTC)?;
            u64::try_from(next.duration_since(before).as_millis()).ok()
        });
        let by_schedule = by_schedule.map(|interval_ms| interval_ms.saturating_mul(3) / 2);
        let rpo_ms = source.rpo.map(|rpo| rpo.0.milliseconds);
        let drill_every_ms = source.drill.as_ref().and_then(|drill| drill.every);
        Promise {
            age_ms_max: rpo_ms.or(by_schedule).or(max_age_ms),
            drill_ms_max: drill_every_ms.map(|every| every.0.milliseconds),
        }
    }

    /// Whether the source's backups come here. Where no configured address is this one, it is
    /// reached in another way, and all do.
    fn is_kept_here(&self, config: &Config, source: &SourceConfig) -> bool {
        let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
        let here = trimmed(&self.repository.url());
        let known = config.repository.iter().filter(|(_, one)| trimmed(&one.url) == here);
        let mut known = known.map(|(name, _)| name).peekable();
        match (&source.repository, known.peek()) {
            (Some(names), Some(_)) => known.any(|name| names.names().contains(name)),
            _ => true,
        }
    }

    fn facts_of(&self, entry: &SourceEntry, promise: Promise) -> Result<Facts> {
        let is_good =
            |backup: &&Manifest| backup.condition == Condition::Good && backup.taken_at <= self.now;
        let good: Vec<&Manifest> = entry.backups.iter().filter(is_good).collect();
        let log = match good.last() {
            Some(newest) => logs::reach(self.repository, &entry.folder, newest)?,
            None => None,
        };
        let logged = logs::newest(self.repository, entry)?.map(|(_, moment)| moment.held);
        let logged = logged.filter(|held| *held <= self.now);
        let drilled = entry.last_drill();
        let failure = drilled.filter(|last| !last.passed).map(|last| {
            last.failure.clone().unwrap_or_else(|| "for a reason that is not known".to_owned())
        });
        let sample = |backup: &&&Manifest| Sample {
            taken_at: backup.taken_at,
            bytes: backup.plain_bytes(),
            rows: backup.rows.as_ref().map(|rows| rows.values().sum()),
        };
        // One that builds on another is as large as what changed.
        let whole = good.iter().filter(|backup| backup.parent.is_none());
        self.env.proceed()?;
        Ok(Facts {
            source: entry.record.name.clone(),
            promise,
            newest_at: good.last().map(|newest| newest.taken_at).max(logged),
            samples: whole.map(|backup| sample(&backup)).collect(),
            drill_failure: failure,
            proven_at: entry.last_proven_at(),
            gap: log.and_then(|log| log.broken),
            in_future: entry.backups.iter().filter(|one| one.taken_at > self.now).count(),
            unreadable: entry.unreadable.len(),
        })
    }
}

/// What is configured of a source: under its name, or under that of the pattern that it came from.
fn configured<'a>(config: &'a Config, name: &str) -> Option<(&'a String, &'a SourceConfig)> {
    let by_pattern = |known: &&String| {
        name.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('-'))
    };
    let pattern = || config.source.keys().filter(by_pattern).max_by_key(|known| known.len());
    config.source.get_key_value(name).or_else(|| config.source.get_key_value(pattern()?))
}
