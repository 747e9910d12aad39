//! Rows of the new database against those of the dump and of the manifest.

use std::collections::BTreeMap;

use lifeboat_core::verify::row_differences;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::client::Client;
use crate::quote::{identifier, literal};
use crate::session::Session;

use super::RestoreRequest;
use super::plan::RestorePlan;
use super::stage::Loaded;

/// So many tables are counted by one query.
const TABLES_AT_ONCE: usize = 50;

/// Counts what was not counted yet, and compares. A restore of some tables only compares those.
pub(super) fn compare(
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    loaded: &Loaded,
    client: &Client,
) -> Result<BTreeMap<String, u64>> {
    let mut session = Session::open(client, "cannot count the rows of the new database")?;
    compare_in(&mut session, request, plan, loaded)
}

/// The same in a session that sees what was loaded.
pub(super) fn compare_in(
    session: &mut Session,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    Loaded { rows, counted, .. }: &Loaded,
) -> Result<BTreeMap<String, u64>> {
    // A policy that hides rows from us must be an error, not a smaller number.
    session.execute("SET row_security = off")?;
    let counted = count(session, rows, counted)?;
    let partly = !request.schemas.is_empty() || !request.tables.is_empty();
    let mut wrong = row_differences(Some(rows), Some(&counted));
    let missing = rows.keys().filter(|table| !counted.contains_key(*table));
    wrong.extend(missing.filter(|_| !partly).map(|table| format!("table {table} is missing")));
    if let Some(manifest) = request.origin.manifest() {
        let differs = manifest.rows.as_ref().is_some_and(|known| known != rows);
        wrong.extend(differs.then(|| "the dump and its manifest do not agree on rows".to_owned()));
    }
    match wrong.is_empty() {
        true => Ok(counted),
        false => {
            let lines: Vec<&str> = wrong.iter().take(3).map(String::as_str).collect();
            Err(Error::new(
                Kind::CheckFailed,
                format!("{} came back incomplete: {}", plan.what, lines.join("; ")),
            )
            .hint("nothing was changed: the old database is in its place"))
        }
    }
}

/// The statement that counts the rows of a table, without those of tables that inherit from it.
pub(super) fn count_of(schema: &str, name: &str) -> String {
    format!("SELECT count(*) AS rows FROM ONLY {}.{}", identifier(schema), identifier(name))
}

fn count(
    session: &mut Session,
    expected: &BTreeMap<String, u64>,
    counted: &BTreeMap<String, u64>,
) -> Result<BTreeMap<String, u64>> {
    let rows = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'",
    )?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let tables: Vec<(String, String)> = rows
        .iter()
        .map(|row| (text(row.get("schema")), text(row.get("name"))))
        .filter(|(schema, name)| {
            let table = format!("{schema}.{name}");
            expected.contains_key(&table) && !counted.contains_key(&table)
        })
        .collect();
    let mut counted = counted.clone();
    for some in tables.chunks(TABLES_AT_ONCE) {
        let parts: Vec<String> = some
            .iter()
            .map(|(schema, name)| {
                let key = literal(&format!("{schema}.{name}"));
                format!("SELECT {key} AS name, ({}) AS rows", count_of(schema, name))
            })
            .collect();
        for row in session.rows(&parts.join(" UNION ALL "))? {
            let rows = row.get("rows").and_then(Value::as_u64).unwrap_or(0);
            counted.insert(text(row.get("name")), rows);
        }
    }
    Ok(counted)
}
