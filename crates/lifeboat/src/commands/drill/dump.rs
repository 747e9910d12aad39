//! The drill of a dump of PostgreSQL: restored into a throw-away cluster, as into any server.

use std::collections::BTreeMap;

use lifeboat_core::drill::Outcome;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{
    Client, Loading, first_value, is_true, load, rows_of_tables, schema_version,
};
use lifeboat_sqlite::VERSION_TABLES;

use super::making::Work;
use super::{file, rows};
use crate::postgres;
use crate::ui::{report, units};

/// How long the live database may count one table.
const LIVE_TABLE_MS: u64 = 60_000;

/// Restores and checks.
pub(super) fn drill(work: &mut Work<'_>) -> Result<()> {
    let options = work.subject.target.as_ref().and_then(|target| target.database.as_ref());
    let options = options.map_or_else(postgres::options, |database| database.options().clone());
    let options = work.server_options(options);
    let begun_ms = work.env.clock.monotonic_ms();
    let origin = work.state.selected.origin();
    let loaded = match load(work.env, &options, origin, work.scratch.path())? {
        Loading::Loaded(loaded) => loaded,
        Loading::NotHere(why) => {
            let message = "the dump cannot be loaded on this host";
            return Err(Error::new(Kind::SourceUnavailable, message)
                .caused_by(why.clone())
                .hint("install what is missing, or drill on a host that has it"));
        }
    };
    work.record.restore_ms = Some(work.env.elapsed_ms(begun_ms));
    work.env.crash.pass("drill.restored")?;
    let stored = units::bytes(work.state.selected.manifest.stored_bytes());
    work.found("stored_hashes", Outcome::Passed, format!("{stored} as they were stored"));
    let detail = format!("every statement succeeded on a server of version {}", loaded.major());
    work.found("load_into_throw_away_cluster", Outcome::Passed, detail);
    let sum: u64 = loaded.outcome.rows.values().sum();
    let tables = loaded.outcome.rows.len();
    let detail = format!("{} rows in {tables} tables", units::count(sum));
    work.found("rows_manifest", Outcome::Passed, detail);
    // Its indexes were made a moment ago, of the rows that were counted.
    work.found("amcheck", Outcome::Skipped, "a dump holds no indexes that could be damaged");
    let client = loaded.client()?;
    ask(work, &client);
    let live = work.subject.target.as_ref().and_then(|target| target.database.clone());
    let live = live.map(|database| database.client());
    compare_versions(work, &client, live.as_ref());
    let live = live.map(|live| live.and_then(|it| rows_of_tables(work.env, &it, LIVE_TABLE_MS)));
    compare_live(work, &loaded.outcome.rows, live);
    let root = work.scratch.path().join("files");
    file::only_companions(work, &root)?;
    let url = client.address().url();
    file::run_application(work, None, &root, Some(&url))
}

/// The queries of the configuration.
pub(super) fn ask(work: &mut Work<'_>, client: &Client) {
    for sql in work.subject.config.assert.clone() {
        let (outcome, detail) = match is_true(client, &sql) {
            Ok((true, answer)) => (Outcome::Passed, format!("`{sql}` gives {answer}")),
            Ok((false, answer)) => {
                (Outcome::Failed, format!("`{sql}` gives {answer}, which is not true"))
            }
            Err(error) => {
                let causes = report::causes(&error).join(": ");
                (Outcome::Failed, format!("`{sql}` cannot be asked: {error} {causes}"))
            }
        };
        work.found("assert", outcome, detail);
    }
}

/// The version of the schema beside the live one.
pub(super) fn compare_versions(
    work: &mut Work<'_>,
    restored: &Client,
    live: Option<&Result<Client>>,
) {
    let of = |client: &Client| {
        let found = match &work.subject.config.schema_version {
            Some(sql) => first_value(client, sql),
            None => schema_version(client, VERSION_TABLES),
        };
        found.map_err(|error| units::one_line(&error.to_string()))
    };
    let live = match live {
        None => Err("no live database is configured".to_owned()),
        Some(Err(error)) => Err(units::one_line(&error.to_string())),
        Some(Ok(client)) => of(client),
    };
    work.schema_version(of(restored), None, live);
}

/// Rows beside those of the live database, where that answers.
pub(super) fn compare_live(
    work: &mut Work<'_>,
    restored: &BTreeMap<String, u64>,
    live: Option<Result<BTreeMap<String, u64>>>,
) {
    match live {
        None => work.found("rows_live", Outcome::Skipped, "no live database is configured"),
        Some(Err(error)) => {
            work.found("rows_live", Outcome::Skipped, units::one_line(&error.to_string()));
        }
        Some(Ok(live)) => {
            let bounds = work.subject.config.rows_bounds();
            // What a selection leaves out, or what is not an ordinary table, is not in a backup.
            let live: BTreeMap<String, u64> =
                live.into_iter().filter(|(table, _)| restored.contains_key(table)).collect();
            let lines = rows::beyond(restored, &live, bounds);
            work.judge("rows_live", &lines, format!("within {} % of the live database", bounds.0));
        }
    }
}
