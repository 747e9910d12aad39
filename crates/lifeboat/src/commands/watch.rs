//! `lifeboat watch`: what is wrong, whether anything runs or not; told to those who are to be told.
//!
//! Without a repository it is the first observer, which looks at everything that this host's
//! configuration promises. With one it is the second: `elsewhere` needs nothing of the first host.

mod elsewhere;

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::status::overall;
use crate::config::values::Period;
use crate::notify::{self, Ended};
use crate::session::Session;
use crate::standing::{Alert, Code, Known, Severity, known, servers, sort};
use crate::ui::units;

/// Tell what is wrong, of everything or of a repository on another host
///
/// Without REPO it looks at all that the configuration of this host promises, in every repository,
/// as `lifeboat run` does every five minutes; run it by a schedule where no agent runs.
///
/// With REPO it reads that repository, and nothing else: no state of this host, no configuration
/// but the one that each host keeps in the repository with its backups. So it tells of a host that
/// is gone, with credentials that may only read. Run it by a schedule on another host. That a
/// cluster rests, and archives nothing for that, its own host notes in the repository.
///
/// Each source must have a restorable moment that is no older than its `rpo`; where it has none,
/// than one and a half times its schedule allows; else than --max-age. Sources that are configured
/// and were never backed up are told of, as are sizes and numbers of rows far from those of the
/// same weekday, drills that failed or are overdue, restores that take longer than `rto`, gaps in
/// logs, clocks that are wrong, and a disk that is 80 % full or will be full within two weeks.
/// Without REPO also copies that are missing, backups that failed, archivers that do, drives that
/// were away for too long, and certificates and credentials that end.
///
/// Whoever `notify` of the configuration names is told of each once, again while it goes on, and
/// when it is over.
///
/// The exit code is 21 where a source is stale, 20 where a drill failed or a log has a gap, 13
/// where a repository cannot be read; warnings alone leave it 0.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The repository: a URL, a path, or a configured name; else --repo
    #[arg(value_name = "REPO")]
    repository: Option<String>,
    /// How old the newest backup may be where nothing else is promised: 26h, 7d
    #[arg(long, value_name = "AGE")]
    max_age: Option<Period>,
    /// What was found is told, and is no failure of this run
    #[arg(long, hide = true)]
    unattended: bool,
}

/// What was looked at, and what is wrong.
struct Found {
    /// For people and errors: the repository, or all of them.
    place: String,
    sources: Vec<String>,
    alerts: Vec<Alert>,
    /// Whether an alert of another run is one that this run would have found again.
    is_judged: fn(&Alert, &str) -> bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let max_age_ms = args.max_age.map(|age| age.milliseconds);
    let named = args.repository.clone().or_else(|| session.globals.repo.clone());
    let mut found = match named {
        Some(wanted) => elsewhere::look(session, &wanted, max_age_ms)?,
        None if session.config_files()?.is_empty() => {
            return Err(Error::new(Kind::Usage, "there is no repository to watch")
                .hint("name it: lifeboat watch s3://bucket/backups"));
        }
        None => here(session, args.max_age)?,
    };
    sort(&mut found.alerts);
    note(session, &found);
    tell(session, &found)?;
    match args.unattended {
        true => Ok(ExitCode::SUCCESS),
        false => conclude(&found),
    }
}

/// Everything that the configuration of this host promises.
fn here(session: &Session, max_age: Option<Period>) -> Result<Found> {
    let env = session.env()?;
    let now = env.clock.now();
    let (sources, mut alerts) = overall::alerts(session, &env, max_age)?;
    let asks = known(session).is_time_to_ask(now);
    if asks {
        // What was found before is found again, or is over.
        alerts.retain(|alert| !matches!(alert.code, Code::Certificate | Code::Credential));
        alerts.extend(servers::look(session, now)?);
    }
    Known::keep(session, now, &mut alerts, asks);
    let place = "what is configured".to_owned();
    Ok(Found { place, sources, alerts, is_judged: |_, _| true })
}

fn tell(session: &Session, found: &Found) -> Result<()> {
    let Found { place, sources, alerts, .. } = found;
    let printer = &session.printer;
    if printer.json() {
        return printer.json_data(&json!({
            "watched": place, "sources": sources, "alerts": alerts,
        }));
    }
    for alert in alerts {
        let text = format!("{} ({})", alert.what, alert.command);
        let subject = if alert.source.is_empty() { &alert.repository } else { &alert.source };
        printer.warning(&units::one_line(subject), &text);
    }
    if alerts.is_empty() {
        printer.note(&format!("{} sources, all as promised", sources.len()));
    }
    Ok(())
}

/// What is wrong now, and what is not any more, for those who are told.
fn note(session: &Session, found: &Found) {
    let news = found.alerts.iter().filter(|alert| alert.code.is_news());
    for alert in news {
        session.note_ended(Some(Ended::of_alert(alert, true)));
    }
    let lost = |alert: &Alert| alert.code == Code::RepositoryUnreadable;
    let blind: Vec<&str> =
        found.alerts.iter().filter(|alert| lost(alert)).map(|one| &*one.repository).collect();
    for before in notify::alerts_that_go_on(session) {
        let goes_on = found.alerts.iter().any(|alert| alert.key() == before.key());
        // Of what could not be read nothing is known to be over.
        let is_seen = lost(&before) || !blind.contains(&&*before.repository);
        if !goes_on && is_seen && (found.is_judged)(&before, &found.place) {
            session.note_ended(Some(Ended::of_alert(&before, false)));
        }
    }
}

/// The end: an error of the kind of the worst.
fn conclude(found: &Found) -> Result<ExitCode> {
    let worst = found.alerts.first().filter(|worst| worst.severity != Severity::Warning);
    let Some(worst) = worst else { return Ok(ExitCode::SUCCESS) };
    let (kind, what) = match (worst.severity, worst.code) {
        (Severity::Stale, Code::RepositoryUnreadable) => {
            (Kind::NoRepository, "a repository is not there")
        }
        (_, Code::RepositoryUnreadable) => (Kind::StoreUnavailable, "a repository cannot be read"),
        (_, Code::SourceLost) => (Kind::SourceUnavailable, "a source cannot be found"),
        (Severity::Stale, _) => (Kind::Stale, "a source is stale"),
        (_, Code::Archiver) => (Kind::Stale, "the log of a cluster is not archived"),
        _ => (Kind::CheckFailed, "a drill failed, or a log has a gap"),
    };
    Err(Error::new(kind, format!("{what}: {}", found.place)).hint(worst.command.clone()))
}

impl Found {
    /// What is known of a repository that is watched from elsewhere.
    fn of_repository(url: String, sources: Vec<String>, alerts: Vec<Alert>) -> Self {
        let is_judged = |alert: &Alert, place: &str| {
            alert.repository == place && alert.code.is_seen_from_elsewhere()
        };
        Found { place: url, sources, alerts, is_judged }
    }
}
