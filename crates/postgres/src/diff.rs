//! Two databases compared, table by table and row by row.
//!
//! Each side is one transaction that sees one moment. The server gives the rows of a table in the
//! order of its primary key, as text, which is exact for every type; a table without a key is
//! compared as what it is, a bag of rows.

mod describe;

use std::collections::BTreeMap;

use lifeboat_core::diff::{
    Batch, Comparison, Place, SchemaDifference, Shape, Sink, TableDifference, TableOutcome,
    TextOrder, compare as compare_rows,
};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use crate::client::Client;
use crate::copy_text::fields;
use crate::quote::identifier;
use crate::session::Session;

pub(crate) use self::describe::{Column, Table, tables};

/// Rows between two looks whether the run must end.
const ROWS_PER_LOOK: u64 = 4_096;

/// One database, held at one moment.
struct Side {
    session: Session,
    /// Whether texts in the order of the collation `C` are in the order of their UTF-8.
    is_utf8: bool,
    tables: BTreeMap<String, Table>,
    schema: BTreeMap<(String, String), String>,
}

/// Compares two databases; with names, these tables alone. So many rows of each table that differ
/// are kept.
pub fn compare(
    env: &Env,
    a: &Client,
    b: &Client,
    only: &[String],
    rows_max: usize,
) -> Result<Comparison> {
    let (mut a, mut b) = (Side::open(a)?, Side::open(b)?);
    let mut names: Vec<String> = a.tables.keys().chain(b.tables.keys()).cloned().collect();
    names.sort();
    names.dedup();
    if let Some(missing) = only.iter().find(|it| !names.iter().any(|name| is_named(name, it))) {
        return Err(Error::new(Kind::Usage, format!("neither side has a table `{missing}`"))
            .hint("write TABLE or SCHEMA.TABLE; leave --table away to see all tables"));
    }
    let is_meant = |name: &str| only.is_empty() || only.iter().any(|it| is_named(name, it));
    let mut comparison = Comparison { schema: schema(&a, &b), ..Comparison::default() };
    if !only.is_empty() {
        // Of single tables their columns alone.
        comparison.schema.retain(|it| it.kind == "table" && is_meant(&it.name));
    }
    for name in names.iter().filter(|name| is_meant(name)) {
        let outcome = match (a.tables.get(name).cloned(), b.tables.get(name).cloned()) {
            (Some(table), None) => TableOutcome::OnlyA { rows: a.count(&table)? },
            (None, Some(table)) => TableOutcome::OnlyB { rows: b.count(&table)? },
            (Some(of_a), Some(of_b)) => {
                comparison.tables.push(both(env, (&mut a, &of_a), (&mut b, &of_b), rows_max)?);
                continue;
            }
            (None, None) => continue,
        };
        comparison.tables.push(TableDifference { name: name.clone(), outcome, notes: Vec::new() });
    }
    Ok(comparison)
}

/// Whether a person may mean that table: `person` or `public.person`.
pub(crate) fn is_named(table: &str, typed: &str) -> bool {
    table == typed || table.split_once('.').is_some_and(|(_, name)| name == typed)
}

impl Side {
    fn open(client: &Client) -> Result<Side> {
        let what = format!("cannot compare {}", client.address().label());
        let mut session = Session::open(client, &what)?;
        session.execute(
            "SET row_security = off; SET extra_float_digits = 3; SET bytea_output = hex; \
             SET IntervalStyle = postgres; \
             BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )?;
        let encoding = session.setting("server_encoding")?;
        let tables = tables(&mut session)?;
        let schema = describe::schema(&mut session)?;
        let is_utf8 = matches!(encoding.as_str(), "UTF8" | "SQL_ASCII");
        Ok(Side { session, is_utf8, tables, schema })
    }

    fn count(&mut self, table: &Table) -> Result<u64> {
        let query = format!("SELECT count(*) AS rows FROM ONLY {}", table.sql_name());
        let row = self.session.row(&query)?;
        Ok(row.get("rows").and_then(serde_json::Value::as_u64).unwrap_or_default())
    }

    /// The query for the rows: its key, then the other columns that are compared.
    fn query(&self, table: &Table, plan: &Plan) -> String {
        let (mut columns, mut order) = (Vec::new(), Vec::new());
        for (name, kind) in &plan.key {
            let name = identifier(name);
            match kind {
                KeyKind::Number => {
                    columns.push(name.clone());
                    order.push(name);
                }
                KeyKind::Natural => {
                    columns.push(format!("{name}::pg_catalog.text"));
                    order.push(name);
                }
                KeyKind::Text => {
                    let text = format!("{name}::pg_catalog.text");
                    order.push(match self.is_utf8 {
                        true => format!("{text} COLLATE \"C\" NULLS FIRST"),
                        false => format!("pg_catalog.convert_to({text}, 'UTF8') NULLS FIRST"),
                    });
                    columns.push(text);
                }
            }
        }
        columns.extend(plan.rest.iter().map(|name| identifier(name)));
        let order = match order.is_empty() {
            true => String::new(),
            false => format!(" ORDER BY {}", order.join(", ")),
        };
        format!("SELECT {} FROM ONLY {}{order}", columns.join(", "), table.sql_name())
    }

    fn read(&mut self, env: &Env, query: &str, plan: &Plan, sink: Sink<'_>) -> Result<()> {
        let (mut batch, mut count) = (Batch::default(), 0_u64);
        self.session.copy_out(query, &mut |row| {
            count += 1;
            if count.is_multiple_of(ROWS_PER_LOOK) {
                env.proceed()?;
            }
            for (index, field) in fields(row).enumerate() {
                let is_number =
                    plan.key.get(index).is_some_and(|(_, kind)| *kind == KeyKind::Number);
                match field {
                    None => batch.null(),
                    Some(text) if is_number => match parsed(&text) {
                        Some(number) => batch.integer(number),
                        None => batch.text(&text),
                    },
                    Some(text) => batch.text(&text),
                }
            }
            match batch.end_row() {
                true => sink(std::mem::take(&mut batch)),
                false => Ok(()),
            }
        })?;
        sink(batch)
    }
}

fn parsed(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// How the values of a key are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyKind {
    /// As whole numbers.
    Number,
    /// As the type orders itself, which is the order of its texts.
    Natural,
    /// As texts, by their bytes.
    Text,
}

/// How two tables are read.
struct Plan {
    key: Vec<(String, KeyKind)>,
    rest: Vec<String>,
}

impl Plan {
    fn of(a: &Table, b: &Table) -> Plan {
        let common: Vec<&Column> =
            a.columns.iter().filter(|column| b.column(&column.name).is_some()).collect();
        let has_key = !a.key.is_empty() && a.key == b.key;
        let of = |name: &String| {
            let kinds = [a, b].map(|table| table.column(name).map(|column| column.kind.as_str()));
            let kind = match kinds {
                [
                    Some("smallint" | "integer" | "bigint"),
                    Some("smallint" | "integer" | "bigint"),
                ] => KeyKind::Number,
                [Some("uuid"), Some("uuid")] => KeyKind::Natural,
                _ => KeyKind::Text,
            };
            (name.clone(), kind)
        };
        // Without a key a row is all of itself.
        let key: Vec<(String, KeyKind)> = match has_key {
            true => a.key.iter().map(of).collect(),
            false => common.iter().map(|column| (column.name.clone(), KeyKind::Text)).collect(),
        };
        let is_key = |name: &String| key.iter().any(|(key, _)| key == name);
        let rest = common.iter().map(|column| column.name.clone()).filter(|it| !is_key(it));
        Plan { rest: rest.collect(), key }
    }
}

fn both(
    env: &Env,
    (a, of_a): (&mut Side, &Table),
    (b, of_b): (&mut Side, &Table),
    rows_max: usize,
) -> Result<TableDifference> {
    let plan = Plan::of(of_a, of_b);
    let name = of_a.name();
    let mut notes = Vec::new();
    let has_key = !of_a.key.is_empty() && of_a.key == of_b.key;
    if !has_key {
        notes.push("no primary key: a changed row counts as one on each side".to_owned());
    }
    if plan.key.is_empty() {
        let why = "its sides have no column in common".to_owned();
        return Ok(TableDifference { name, outcome: TableOutcome::NotCompared(why), notes });
    }
    let shape =
        Shape { table: name.clone(), key: plan.key.len(), text_order: TextOrder::Utf8, rows_max };
    let (query_a, query_b) = (a.query(of_a, &plan), b.query(of_b, &plan));
    let difference = compare_rows(
        env,
        &shape,
        |sink| a.read(env, &query_a, &plan, sink),
        |sink| b.read(env, &query_b, &plan, sink),
    )?;
    let key: Vec<String> = plan.key.into_iter().map(|(name, _)| name).collect();
    let columns = key.iter().cloned().chain(plan.rest).collect();
    let outcome = TableOutcome::Compared { key, columns, difference };
    Ok(TableDifference { name, outcome, notes })
}

fn schema(a: &Side, b: &Side) -> Vec<SchemaDifference> {
    let mut keys: Vec<_> = a.schema.keys().chain(b.schema.keys()).collect();
    keys.sort_by_key(|(kind, name)| (kind != "table", kind.clone(), name.clone()));
    keys.dedup();
    let differences = keys.into_iter().filter_map(|key| {
        let place = match (a.schema.get(key), b.schema.get(key)) {
            (Some(_), None) => Place::OnlyA,
            (None, Some(_)) => Place::OnlyB,
            (a, b) if a != b => Place::Changed,
            _ => return None,
        };
        Some(SchemaDifference { kind: key.0.clone(), name: key.1.clone(), place })
    });
    differences.collect()
}
