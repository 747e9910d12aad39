//! Statistics for the first queries of a new database, on several cores.

use std::sync::Mutex;

use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::client::Client;
use crate::quote::identifier;
use crate::session::Session;

/// Sessions at once: one reads a large table while the other takes all that are small.
const SESSIONS: usize = 2;
/// A table of fewer bytes is not worth a statement of its own.
const LARGE_BYTES: u64 = 16 << 20;
const ATTEMPT: &str = "cannot analyze the new database";

/// Runs `ANALYZE` over all of it.
///
/// Of a table that has parts the server reads the parts too: with such tables among them one
/// statement over everything is quicker than several.
pub(super) fn analyze(client: &Client) -> Result<()> {
    let mut session = Session::open(client, ATTEMPT)?;
    let rows = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name, c.relkind AS kind, \
         CASE c.relkind WHEN 'p' THEN 0 ELSE pg_catalog.pg_relation_size(c.oid) END AS bytes \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' \
         AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY bytes DESC",
    )?;
    let is_large = |row: &&_| bytes_of(row) >= LARGE_BYTES;
    let has_parts = rows.iter().any(|row| row.get("kind").and_then(Value::as_str) == Some("p"));
    let large = rows.iter().filter(is_large).count();
    if has_parts || large < SESSIONS {
        return session.execute("ANALYZE");
    }
    let names: Vec<String> = rows.iter().map(name_of).collect();
    let (large, small) = names.split_at(large);
    // The last one is taken first.
    let mut statements = vec![format!("ANALYZE {}", small.join(", "))];
    statements.retain(|_| !small.is_empty());
    statements.extend(large.iter().rev().map(|name| format!("ANALYZE {name}")));
    let statements = Mutex::new(statements);
    let next = || statements.lock().ok().and_then(|mut statements| statements.pop());
    let run = |mut session: Session| -> Result<()> {
        while let Some(statement) = next() {
            session.execute(&statement)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| Session::open(client, ATTEMPT).and_then(run));
        let own = run(session);
        let panicked = |_| Err(Error::new(Kind::Failed, "the thread ended badly"));
        own.and(other.join().unwrap_or_else(panicked))
    })
}

fn bytes_of(row: &crate::session::Row) -> u64 {
    row.get("bytes").and_then(Value::as_u64).unwrap_or(0)
}

fn name_of(row: &crate::session::Row) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{}.{}", identifier(text("schema")), identifier(text("name")))
}
