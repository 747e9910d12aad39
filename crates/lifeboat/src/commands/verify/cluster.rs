//! `verify --level full` of a whole PostgreSQL cluster: restored with everything that it builds on
//! to a scratch place, started there, its log replayed, every table read, and amcheck where it is.
//!
//! Each backup goes to its own end, by the log that it brings with it. The newest one of its source
//! goes on to the end of the archived log, which proves that too. What this host cannot do is a
//! note that names it.

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, Condition, Manifest};
use lifeboat_core::verify::{VerifyLevel, VerifyReport};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::log_state::{LogState, supply};
use lifeboat_postgres::recovery::plan::{Action, ClusterRequest, major_of, plan};
use lifeboat_postgres::recovery::restore::{Carry, ClusterOutcome, apply};
use lifeboat_postgres::recovery::serve::{NoLog, Supply};
use lifeboat_postgres::recovery::server::{ServerPrograms, scratch_folder};
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target, Timeline};
use serde_json::{Value, json};

use super::Job;
use crate::cluster_backups::{ancestors, archive, users};
use crate::postgres;
use crate::selection::{Meant, Selected};
use crate::session::Session;
use crate::sources;
use crate::ui::units;

/// What a rehearsal showed, as JSON; damage and notes go into the report.
pub(super) fn rehearse(
    session: &Session,
    env: &Env,
    job: &Job,
    manifest: &Manifest,
    level: VerifyLevel,
    report: &mut VerifyReport,
) -> Result<Option<Value>> {
    // What is damaged already need not be started.
    if level != VerifyLevel::Check(CheckLevel::Full) || !report.sound {
        return Ok(None);
    }
    let options = postgres::options();
    let major = major_of(manifest)?;
    if let Err(error) = ServerPrograms::find(&options, major) {
        report.notes.push(format!("not started, its log not replayed, no table read: {error}"));
        return Ok(None);
    }
    let selected = Selected {
        repository: job.repository.clone(),
        folder: job.folder.clone(),
        manifest: manifest.clone(),
        meant: Meant::Backup,
        earlier: Vec::new(),
    };
    let rehearsed = start(session, env, &selected, &options, report);
    let outcome = match rehearsed {
        Ok(outcome) => outcome,
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            report.sound = false;
            report.damage.push(with_causes(&error));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let known = manifest.condition == Condition::Damaged;
    let mut damage = outcome.pages.lines(20);
    let tables = outcome.check.as_ref().map(|check| check.damage.clone()).unwrap_or_default();
    damage.extend(tables);
    match known {
        true => report.notes.extend(damage.into_iter().map(|line| format!("as is known: {line}"))),
        false => report.damage.extend(damage),
    }
    report.sound = report.damage.is_empty();
    Ok(Some(told(report, &outcome)))
}

fn start(
    session: &Session,
    env: &Env,
    selected: &Selected,
    options: &lifeboat_postgres::ClientOptions,
    report: &mut VerifyReport,
) -> Result<ClusterOutcome> {
    let manifest = &selected.manifest;
    let older = ancestors(selected)?;
    let (target, timeline, log) = moment(session, env, selected, report)?;
    let scratch = scratch_folder(&session.folders.scratch)?;
    let Selected { repository, folder, .. } = selected;
    let stored = |manifest| Stored { repository, folder, manifest };
    let request = ClusterRequest {
        chain: older.iter().chain([manifest]).map(stored).collect(),
        to: &scratch.path().join("data"),
        in_place: false,
        delta: false,
        tablespaces: &[],
        target,
        timeline,
        action: Action::Promote,
        options,
    };
    let plan = plan(env, &request)?;
    let carry = Carry {
        supply: log,
        next: NextStart::Plain,
        users: users(configured(session, env, manifest).as_ref()),
        service: None,
        strict: false,
        deep: true,
    };
    apply(env, &request, &plan, &carry)
}

/// Up to where the log is replayed, and where it comes from.
fn moment(
    session: &Session,
    env: &Env,
    selected: &Selected,
    report: &mut VerifyReport,
) -> Result<(Target, Timeline, std::sync::Arc<dyn Supply>)> {
    let catalog = selected.repository.catalog()?;
    let entry = catalog.sources.iter().find(|entry| entry.folder == selected.folder);
    let newest = entry.and_then(|entry| entry.backups.last()).map(|newest| newest.id);
    let archive = archive(session, env, selected)?;
    let log = LogState::of(env, &archive, &selected.manifest)?;
    if newest == Some(selected.manifest.id) && !log.covered().is_empty() {
        match log.decide(&Target::End, Timeline::Latest) {
            Ok(timeline) => {
                return Ok((Target::End, timeline, supply(archive, &selected.manifest)));
            }
            Err(error) if error.kind() == Kind::NotCovered => {
                report.notes.push(format!("the log behind it was not replayed: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    let timeline = log.decide(&Target::Consistent, Timeline::Latest)?;
    Ok((Target::Consistent, timeline, std::sync::Arc::new(NoLog)))
}

/// The configured source of a backup, whose role may be let in.
fn configured(session: &Session, env: &Env, manifest: &Manifest) -> Option<sources::Target> {
    let targets = sources::Target::all(&session.loaded().ok()?.config).ok()?;
    let record = &manifest.source;
    targets.into_iter().filter(sources::Target::is_cluster).find(|target| {
        target.identity(env).is_ok_and(|identity| match identity.id {
            Some(id) => id == record.id,
            None => identity.location == record.location,
        })
    })
}

/// Notes of what was done, and what could not be.
fn told(report: &mut VerifyReport, outcome: &ClusterOutcome) -> Value {
    let mut parts = Vec::new();
    let recovered = outcome.recovered.as_ref();
    if let Some(recovered) = recovered {
        let reached = &recovered.reached;
        let to = reached.position.map_or_else(String::new, |at| format!(" to {at}"));
        parts.push(format!("started, its log replayed{to}"));
    }
    let check = outcome.check.clone().unwrap_or_default();
    let rows: u64 = check.rows.values().sum();
    parts.push(format!("{} rows in {} tables read", units::count(rows), check.rows.len()));
    if !check.amcheck.is_empty() {
        parts.push(format!("amcheck of {}", check.amcheck.join(", ")));
    }
    if outcome.has_checksums {
        parts.push(format!("{} pages", units::count(outcome.pages.pages)));
    }
    report.notes.push(parts.join(", "));
    report.notes.extend(check.notes.iter().map(|note| format!("skipped: {note}")));
    if !check.unlogged.is_empty() {
        report.notes.push(format!("come back empty: {}", check.unlogged.join(", ")));
    }
    json!({
        "position": recovered.and_then(|it| it.reached.position).map(|at| at.to_string()),
        "last_commit": recovered.and_then(|it| it.reached.last_commit.clone()),
        "log_files": recovered.map(|it| it.log_files),
        "rows": check.rows,
        "amcheck": check.amcheck,
        "skipped": check.notes,
        "unlogged": check.unlogged,
        "pages": outcome.pages.pages,
        "damaged_pages": outcome.pages.damaged,
    })
}

fn with_causes(error: &Error) -> String {
    let causes = crate::ui::report::causes(error);
    causes.iter().fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
