//! Two databases change names in one transaction, while sessions of the old one are ended.
//!
//! `ALTER DATABASE ... RENAME` first takes the lock that every new session of that database needs,
//! then waits a few seconds for the old sessions to be gone. So from its lock to its commit nobody
//! new comes in, and we only have to end those that are there. Killed at any moment, the server
//! rolls back: the old database has its name still.

use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::client::Client;
use crate::quote::{identifier, literal};
use crate::session::Session;

use super::load::ScratchDatabase;
use super::plan::RestorePlan;

/// How long to wait between two rounds of ending sessions.
const ROUND_MS: u64 = 20;
/// A swap waits so long for the lock before it gives up.
const LOCK_TIMEOUT_MS: u64 = 30_000;

pub(super) struct Swapped {
    pub(super) sessions_ended: u64,
}

/// Puts the scratch database in place.
pub(super) fn swap(
    env: &Env,
    server: &Client,
    plan: &RestorePlan,
    mut scratch: ScratchDatabase,
) -> Result<Swapped> {
    scratch.leave();
    let mut renames = Vec::new();
    if let Some(kept_as) = &plan.kept_as {
        renames.push((plan.database.as_str(), kept_as.as_str()));
    }
    renames.push((scratch.name(), plan.database.as_str()));
    // The mark of a scratch database goes in the same moment.
    let comment = plan.facts.get("comment").and_then(Value::as_str).map(literal);
    let comment = comment.unwrap_or_else(|| "NULL".to_owned());
    let comment = format!("COMMENT ON DATABASE {} IS {comment}", identifier(&plan.database));
    let sessions_ended = rename(env, server, &renames, Some(&comment))?;
    scratch.placed();
    Ok(Swapped { sessions_ended })
}

/// Renames databases in that order and runs the statement, all or none. Gives back how many
/// sessions were ended.
pub(super) fn rename(
    env: &Env,
    server: &Client,
    renames: &[(&str, &str)],
    statement: Option<&str>,
) -> Result<u64> {
    let what = format!("cannot rename the database {}", renames[0].0);
    let (mut renamer, mut ender) = (Session::open(server, &what)?, Session::open(server, &what)?);
    let names: Vec<String> = renames.iter().map(|(from, _)| literal(from)).collect();
    let end_sessions = format!(
        "SELECT count(pg_catalog.pg_terminate_backend(pid)) AS ended \
         FROM pg_catalog.pg_stat_activity WHERE datname IN ({})",
        names.join(", ")
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let renamed = rename_all(env, &mut renamer, renames, statement);
            done.store(true, Ordering::Release);
            renamed
        });
        let mut ended = 0;
        let mut ending = Ok(());
        while !done.load(Ordering::Acquire) && ending.is_ok() {
            ending = ender.row(&end_sessions).map(|row| {
                ended += row.get("ended").and_then(Value::as_u64).unwrap_or(0);
            });
            env.clock.sleep_ms(ROUND_MS);
        }
        let renamed = work
            .join()
            .map_err(|_| Error::new(Kind::Failed, "the thread that renames ended badly"))?;
        renamed.map_err(|error| {
            error.context(what.clone()).hint(
                "nothing was changed: the old database is in its place, the new one was removed",
            )
        })?;
        ending.map(|()| ended)
    })
}

fn rename_all(
    env: &Env,
    session: &mut Session,
    renames: &[(&str, &str)],
    statement: Option<&str>,
) -> Result<()> {
    session.execute(&format!("SET lock_timeout = {LOCK_TIMEOUT_MS}; BEGIN"))?;
    for (from, to) in renames {
        let (from, to) = (identifier(from), identifier(to));
        session.execute(&format!("ALTER DATABASE {from} RENAME TO {to}"))?;
        env.crash.pass("restore.renaming")?;
    }
    statement.map_or(Ok(()), |statement| session.execute(statement))?;
    session.execute("COMMIT")
}
