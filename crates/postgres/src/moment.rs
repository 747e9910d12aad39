//! Several databases of one server held at moments as near to each other as it allows.
//!
//! A server has no snapshot that spans databases. So a transaction is begun in each of them first,
//! all at once, and the dumps follow one after the other; the manifests say how far apart the
//! moments are.

use std::sync::Mutex;

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::env::Env;
use serde_json::{Value, json};

use crate::client::Client;
use crate::session::Session;

/// The databases that are held together: each with its moment.
#[derive(Debug, Default)]
pub struct MomentGroup {
    members: Mutex<Vec<(String, Timestamp)>>,
}

impl MomentGroup {
    fn add(&self, database: &str, at: Timestamp) {
        let mut members = self.members.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        members.push((database.to_owned(), at));
    }

    /// What manifests say of it; nothing of a group of one.
    pub(crate) fn to_manifest(&self) -> Option<Value> {
        let members = self.members.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let moments = members.iter().map(|(_, at)| *at);
        let (first, last) = (moments.clone().min()?, moments.max()?);
        if members.len() < 2 {
            return None;
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let spread_ms = last.duration_since(first).as_millis();
        Some(json!({ "databases": names, "spread_ms": u64::try_from(spread_ms).unwrap_or(0) }))
    }
}

/// A transaction that holds a moment of a database, and the name of its snapshot.
pub(crate) struct Held {
    pub(crate) session: Session,
    pub(crate) snapshot: Option<String>,
    pub(crate) at: Timestamp,
}

/// Takes hold of the present moment of a database.
pub(crate) fn hold(env: &Env, client: &Client, what: &str) -> Result<Held> {
    let mut session = Session::open(client, what)?;
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let at = env.clock.now();
    // The first query takes the snapshot, this one.
    let row = session.row("SELECT pg_catalog.pg_export_snapshot() AS snapshot")?;
    let snapshot = row.get("snapshot").and_then(Value::as_str).map(str::to_owned);
    Ok(Held { session, snapshot, at })
}

/// Takes hold of it as a member of a group.
pub(crate) fn hold_with(
    env: &Env,
    client: &Client,
    what: &str,
    group: &MomentGroup,
) -> Result<Held> {
    let held = hold(env, client, what)?;
    group.add(client.address().database().unwrap_or_default(), held.at);
    Ok(held)
}
