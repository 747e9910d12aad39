//! The drill of a whole PostgreSQL cluster: restored with everything that it builds on, recovered
//! by a server of its version to the moment, every table read, and amcheck where that is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::drill::Outcome;
use lifeboat_core::{Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::check::ClusterCheck;
use lifeboat_postgres::recovery::log_state::{LogState, supply};
use lifeboat_postgres::recovery::open_again;
use lifeboat_postgres::recovery::plan::{Action, ClusterPlan, ClusterRequest, major_of, plan};
use lifeboat_postgres::recovery::restore::{Carry, ClusterOutcome, apply};
use lifeboat_postgres::recovery::serve::{NoLog, Supply};
use lifeboat_postgres::recovery::server::{ServerPrograms, scratch_folder};
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target, Timeline};
use lifeboat_postgres::rows_of_tables;
use lifeboat_postgres::wal::BasePlace;

use super::choose::Choice;
use super::making::Work;
use super::{dump, file};
use crate::cluster_backups::{ancestors, archive, users};
use crate::postgres;
use crate::ui::units;

/// How long the live cluster may count one table.
const LIVE_TABLE_MS: u64 = 60_000;

/// Up to where the log is replayed, and where it comes from.
type Moment = (Target, Timeline, Arc<dyn Supply>);

/// Restores and checks.
pub(super) fn drill(work: &mut Work<'_>, choice: &Choice) -> Result<()> {
    let options = work.server_options(postgres::options());
    let selected = &work.state.selected;
    let manifest = &selected.manifest;
    // Says which package is missing, before anything is read.
    ServerPrograms::find(&options, major_of(manifest)?)?;
    let begun_ms = work.env.clock.monotonic_ms();
    let (target, timeline, log) = moment(work, choice)?;
    let folder = scratch_folder(work.scratch.path())?;
    let older = ancestors(selected)?;
    let stored =
        |manifest| Stored { repository: &selected.repository, folder: &selected.folder, manifest };
    let request = ClusterRequest {
        chain: older.iter().chain([manifest]).map(stored).collect(),
        to: &folder.path().join("data"),
        in_place: false,
        delta: false,
        tablespaces: &[],
        target,
        timeline,
        action: Action::Promote,
        options: &options,
    };
    let planned = plan(work.env, &request)?;
    let carry = Carry {
        supply: log,
        next: NextStart::Plain,
        users: users(work.subject.target.as_deref()),
        service: None,
        strict: true,
        deep: true,
    };
    let outcome = apply(work.env, &request, &planned, &carry)?;
    work.record.restore_ms = Some(work.env.elapsed_ms(begun_ms));
    work.env.crash.pass("drill.restored")?;
    reached(work, &outcome);
    let check = outcome.check.clone().unwrap_or_default();
    content(work, &outcome, &check);
    live(work, &check);
    let root = work.scratch.path().join("files");
    file::only_companions(work, &root)?;
    ask(work, &planned, &carry.users)
}

/// To the end of the log, to the moment that was asked for, or, where no log leads on, to the end
/// of the backup.
fn moment(work: &mut Work<'_>, choice: &Choice) -> Result<Moment> {
    let selected = &work.state.selected;
    let archive = archive(work.session, work.env, selected)?;
    let log = LogState::of(work.env, &archive, &selected.manifest)?;
    let target = match choice {
        Choice::Newest => Target::End,
        Choice::At(at, _) => Target::Time(*at),
        Choice::Random => {
            // Later moments are restored from the next backup.
            let until = next_of(work).map(|next| next.ends);
            match log.any_position(work.env, &archive, until)? {
                Some((position, timeline)) => {
                    let supply = supply(archive, &selected.manifest);
                    return Ok((Target::Position(position), timeline, supply));
                }
                None => Target::Consistent,
            }
        }
    };
    match log.decide(&target, Timeline::Latest) {
        _ if log.covered().is_empty() && !matches!(choice, Choice::At(..)) => {}
        Ok(timeline) => return Ok((target, timeline, supply(archive, &selected.manifest))),
        // A moment that was named is meant, or nothing.
        Err(error) if matches!(choice, Choice::At(..)) => return Err(error),
        Err(error) if error.kind() == Kind::NotCovered => {
            let detail = format!("it does not lead on: {error}");
            work.found("log", Outcome::Failed, detail);
        }
        Err(error) => return Err(error),
    }
    let timeline = log.decide(&Target::Consistent, Timeline::Latest)?;
    if log.covered().is_empty() {
        work.found("log", Outcome::Skipped, "there is none behind the backup");
    }
    Ok((Target::Consistent, timeline, Arc::new(NoLog)))
}

/// The place of the next backup of the same cluster in its log.
fn next_of(work: &Work<'_>) -> Option<BasePlace> {
    let own = BasePlace::of(&work.state.selected.manifest)?;
    let backups = &work.subject.entry?.backups;
    let later = backups.iter().filter_map(BasePlace::of).filter(|place| place.system == own.system);
    later.filter(|place| place.ends > own.ends).min_by_key(|place| place.ends)
}

/// The moment that the cluster shows.
fn reached(work: &mut Work<'_>, outcome: &ClusterOutcome) {
    let Some(recovered) = &outcome.recovered else { return };
    let position = recovered.reached.position.map(|position| position.to_string());
    let at = recovered.reached.last_commit.as_deref().and_then(|text| {
        let zone = jiff::tz::TimeZone::UTC;
        lifeboat_core::moment::parse(text, work.env.clock.now(), &zone).ok()
    });
    let moment: Option<Timestamp> = at.max(Some(work.state.selected.manifest.taken_at));
    if let Some(moment) = moment {
        work.record.moment = Some(moment);
        let age = work.record.begun_at.duration_since(moment).as_millis();
        work.record.data_age_ms = Some(u64::try_from(age).unwrap_or(0));
    }
    if let Some(position) = position {
        let files = recovered.log_files;
        work.record.state = Some(format!("{} to {position}", work.state.selected.manifest.name));
        let detail = format!("replayed up to {position}, from {files} files of the archive");
        work.found("log", Outcome::Passed, detail);
    }
}

/// What was found while everything was read.
fn content(work: &mut Work<'_>, outcome: &ClusterOutcome, check: &ClusterCheck) {
    let size = units::bytes(outcome.bytes);
    work.found(
        "server_manifest",
        Outcome::Passed,
        format!("{size} as the server's manifest has them"),
    );
    match outcome.has_checksums {
        true => {
            let sound = format!("{} pages", units::count(outcome.pages.pages));
            work.judge("page_checksums", &outcome.pages.lines(5), sound);
        }
        false => work.found("page_checksums", Outcome::Skipped, "the cluster has none"),
    }
    let rows: u64 = check.rows.values().sum();
    let sound = format!("{} rows in {} tables", units::count(rows), check.rows.len());
    work.judge("every_row_read", &check.damage, sound);
    if !check.amcheck.is_empty() {
        work.found("amcheck", Outcome::Passed, check.amcheck.join(", "));
    }
    for note in &check.notes {
        work.found("amcheck", Outcome::Skipped, note.clone());
    }
}

/// Rows beside those of the live cluster, database by database.
fn live(work: &mut Work<'_>, check: &ClusterCheck) {
    let client = work
        .subject
        .target
        .as_ref()
        .and_then(|target| target.cluster.as_ref().map(|cluster| cluster.asking()));
    let live = client.map(|client| {
        let client = client?;
        let databases: BTreeSet<&str> =
            check.rows.keys().filter_map(|key| key.split('.').next()).collect();
        let mut rows = BTreeMap::new();
        for database in databases {
            let client = client.with_database(database)?;
            let counted = rows_of_tables(work.env, &client, LIVE_TABLE_MS)?;
            rows.extend(
                counted.into_iter().map(|(name, rows)| (format!("{database}.{name}"), rows)),
            );
        }
        rows.retain(|table, _| !check.unlogged.contains(table));
        Ok(rows)
    });
    let ordinary: BTreeMap<String, u64> = match &live {
        // Views that hold rows are read there and not counted here.
        Some(Ok(live)) => {
            let both = check.rows.iter().filter(|(table, _)| live.contains_key(*table));
            both.map(|(table, rows)| (table.clone(), *rows)).collect()
        }
        _ => check.rows.clone(),
    };
    let detail = "a backup of files counts no rows; each one was read";
    work.found("rows_manifest", Outcome::Skipped, detail);
    dump::compare_live(work, &ordinary, live);
}

/// Queries and the application, where there are any: the server is started once more for them.
fn ask(work: &mut Work<'_>, planned: &ClusterPlan, users: &[String]) -> Result<()> {
    let config = &work.subject.config;
    let asks_version = config.schema_version.is_some() || config.database.is_some();
    if config.assert.is_empty() && config.command.is_empty() && !asks_version {
        let detail = "the drill names no `database` of the cluster";
        work.found("schema_version", Outcome::Skipped, detail);
        return Ok(());
    }
    let database = config.database.clone().unwrap_or_else(|| "postgres".to_owned());
    let major = major_of(&work.state.selected.manifest)?;
    let (options, owner) = (work.server_options(postgres::options()), planned.place.owner);
    let server = open_again(work.env, &options, major, &planned.to, owner)?;
    let let_in = users.iter().find_map(|user| {
        let client = server.client(user, &database).ok()?;
        lifeboat_postgres::Session::open(&client, "the restored cluster").ok().map(|_| client)
    });
    let Some(client) = let_in else {
        let detail = format!("no role of {} may ask {database}", users.join(", "));
        work.found("assert", Outcome::Failed, detail);
        return server.stop(work.env);
    };
    let live = work.subject.target.as_ref().and_then(|target| target.cluster.as_ref());
    let live = live.map(|cluster| cluster.asking()?.with_database(&database));
    dump::compare_versions(work, &client, live.as_ref());
    dump::ask(work, &client);
    work.env.proceed()?;
    let root = work.scratch.path().join("files");
    let url = client.address().url();
    let asked = file::run_application(work, None, &root, Some(&url));
    server.stop(work.env).and(asked)
}
