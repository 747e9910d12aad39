//! Questions in SQL to a database that was restored, and to the live one beside it.

use std::collections::BTreeMap;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use serde_json::Value;

use crate::client::Client;
use crate::quote::identifier;
use crate::session::{Row, Session};

/// Whether the first value of the answer to a query is true, or a number other than 0; and that
/// value for people. The query sees the names that the database's own settings show it.
pub fn is_true(client: &Client, query: &str) -> Result<(bool, String)> {
    let answer = answer(client, query)?;
    let holds = match &answer {
        Some(Value::Bool(holds)) => *holds,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number != 0.0),
        _ => false,
    };
    Ok((holds, answer.map_or_else(|| "no row".to_owned(), |answer| answer.to_string())))
}

/// The first value of the answer to a query, as text; `None` where there is no row, or NULL.
pub fn first_value(client: &Client, query: &str) -> Result<Option<String>> {
    Ok(match answer(client, query)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    })
}

fn answer(client: &Client, query: &str) -> Result<Option<Value>> {
    let mut session = Session::open(client, "cannot ask the database")?;
    session.execute("RESET search_path; SET default_transaction_read_only = on")?;
    let query = query.trim().trim_end_matches(';');
    let rows = session.rows(query)?;
    Ok(rows.first().map(|row| row.values().next().cloned().unwrap_or(Value::Null)))
}

/// The version of the application's schema, from the first of those tables that the database has,
/// in any schema: its name, its column, and which of its rows counts. `None` where there is none.
pub fn schema_version(client: &Client, known: &[(&str, &str, &str)]) -> Result<Option<String>> {
    let mut session = Session::open(client, "cannot ask for the version of the schema")?;
    let columns = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name, a.attname AS column \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped \
         AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
         ORDER BY n.nspname <> 'public', n.nspname",
    )?;
    let has = |row: &Row, of: &str, value: &str| row.get(of).and_then(Value::as_str) == Some(value);
    for (table, column, rest) in known {
        let found =
            columns.iter().find(|row| has(row, "name", table) && has(row, "column", column));
        let Some(found) = found else { continue };
        let schema = found.get("schema").and_then(Value::as_str).unwrap_or_default();
        let query = format!(
            "SELECT CAST({} AS text) AS version FROM {}.{} {} LIMIT 1",
            identifier(column),
            identifier(schema),
            identifier(table),
            rest.replace("AS INTEGER)", "AS numeric)"),
        );
        // A table of that name with other columns belongs to something else.
        if let Ok(Some(version)) = first_value(client, &query) {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// Rows of each ordinary table, `schema.table`, as they are now. Nobody waits for it; a table that
/// takes longer than `table_ms` to count is an error, and so is the end of the run.
pub fn rows_of_tables(env: &Env, client: &Client, table_ms: u64) -> Result<BTreeMap<String, u64>> {
    let left_ms = env.stop.left_ms(env.clock.monotonic_ms()).unwrap_or(table_ms);
    // Zero would be no limit.
    let table_ms = table_ms.min(left_ms).max(1);
    let mut session = Session::open(client, "cannot count the rows of the live database")?;
    session.execute(&format!("SET row_security = off; SET statement_timeout = {table_ms}"))?;
    let tables = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence IN ('p', 'u') AND n.nspname NOT LIKE 'pg\\_%' \
         AND n.nspname <> 'information_schema'",
    )?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut counted = BTreeMap::new();
    for row in tables {
        let (schema, name) = (text(row.get("schema")), text(row.get("name")));
        let (in_schema, table) = (identifier(&schema), identifier(&name));
        env.proceed()?;
        let count =
            session.row(&format!("SELECT count(*) AS rows FROM ONLY {in_schema}.{table}"))?;
        let count = count.get("rows").and_then(Value::as_u64).unwrap_or_default();
        counted.insert(format!("{schema}.{name}"), count);
    }
    Ok(counted)
}
