//! Questions in SQL to a database that was restored, and to the live one beside it.

use std::collections::BTreeMap;

use lifeboat_core::Result;
use serde_json::Value;

use crate::client::Client;
use crate::quote::identifier;
use crate::session::Session;

/// Whether the first value of the answer to a query is true, or a number other than 0; and that
/// value for people. The query sees the names that the database's own settings show it.
pub fn is_true(client: &Client, query: &str) -> Result<(bool, String)> {
    let mut session = Session::open(client, "cannot ask the restored database")?;
    session.execute("RESET search_path; SET default_transaction_read_only = on")?;
    let query = query.trim().trim_end_matches(';');
    let rows = session.rows(query)?;
    let first = rows.first().and_then(|row| row.values().next()).cloned();
    let answer = first.unwrap_or(Value::Null);
    let holds = match &answer {
        Value::Bool(holds) => *holds,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        _ => false,
    };
    let shown = if rows.is_empty() { "no row".to_owned() } else { answer.to_string() };
    Ok((holds, shown))
}

/// Rows of each ordinary table, `schema.table`, as they are now. Nobody waits for it; a table that
/// takes longer than `table_ms` to count is an error.
pub fn rows_of_tables(client: &Client, table_ms: u64) -> Result<BTreeMap<String, u64>> {
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
        let count =
            session.row(&format!("SELECT count(*) AS rows FROM ONLY {in_schema}.{table}"))?;
        let count = count.get("rows").and_then(Value::as_u64).unwrap_or_default();
        counted.insert(format!("{schema}.{name}"), count);
    }
    Ok(counted)
}
