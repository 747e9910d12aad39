//! Two databases compared, table by table and row by row.
//!
//! Both are held by a read transaction while they are compared, so that each shows one moment. The
//! rows of a table come in the order of its primary key, or of its rowid where it has none. What is
//! compared are values to the last bit, not pages.

use std::collections::BTreeMap;

use lifeboat_core::diff::{
    Batch, Comparison, Place, SchemaDifference, Shape, Sink, TableDifference, TableOutcome,
    TextOrder, compare as compare_rows,
};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::types::ValueRef;

use crate::probe::Probe;
use crate::snapshot::failed;
use crate::table::{Table, quoted, tables};

/// Rows between two looks whether the run must end.
const ROWS_PER_LOOK: u64 = 4_096;

/// Compares two databases; with names, these tables alone. So many rows of each table that differ
/// are kept.
pub fn compare(
    env: &Env,
    a: &mut Probe,
    b: &mut Probe,
    only: &[String],
    rows_max: usize,
) -> Result<Comparison> {
    let order = text_order(a, b)?;
    let of = |probe: &Probe| -> Result<BTreeMap<String, Table>> {
        let tables = tables(probe.connection()).map_err(|error| failed(probe.path(), error))?;
        // What a module keeps is compared where it lies: in the tables beside the virtual one.
        let tables = tables.into_iter().filter(|table| !table.is_virtual);
        Ok(tables.map(|table| (table.name.to_lowercase(), table)).collect())
    };
    let (of_a, of_b) = (of(a)?, of(b)?);
    let mut names: Vec<&String> = of_a.keys().chain(of_b.keys()).collect();
    names.sort();
    names.dedup();
    let is_meant = |name: &str| only.is_empty() || only.iter().any(|it| it.to_lowercase() == *name);
    if let Some(missing) = only.iter().find(|table| !names.contains(&&table.to_lowercase())) {
        return Err(Error::new(
            Kind::Usage,
            format!("neither side has a table `{missing}` with rows"),
        )
        .hint("leave --table away to see all tables"));
    }
    let mut comparison = Comparison { schema: schema(a, b, only)?, ..Comparison::default() };
    for name in names.into_iter().filter(|name| is_meant(name)) {
        let table = match (of_a.get(name), of_b.get(name)) {
            (Some(table), None) => alone(a, table, |rows| TableOutcome::OnlyA { rows })?,
            (None, Some(table)) => alone(b, table, |rows| TableOutcome::OnlyB { rows })?,
            (Some(ta), Some(tb)) => both(env, (&mut *a, ta), (&mut *b, tb), order, rows_max)?,
            (None, None) => continue,
        };
        comparison.tables.push(table);
    }
    Ok(comparison)
}

/// How texts are ordered on both sides.
fn text_order(a: &Probe, b: &Probe) -> Result<TextOrder> {
    let encoding = |probe: &Probe| {
        let encoding =
            probe.connection().query_row("PRAGMA encoding", [], |row| row.get::<_, String>(0));
        encoding.map_err(|error| failed(probe.path(), error))
    };
    let (of_a, of_b) = (encoding(a)?, encoding(b)?);
    if of_a != of_b {
        let message = format!("texts are stored as {of_a} on one side and as {of_b} on the other");
        return Err(Error::new(Kind::Refused, message).hint(
            "no two texts are the same to the byte there: load one side into the encoding \
                   of the other, with `.dump` of sqlite3",
        ));
    }
    Ok(match of_a.as_str() {
        "UTF-16le" => TextOrder::Utf16Le,
        "UTF-16be" => TextOrder::Utf16Be,
        _ => TextOrder::Utf8,
    })
}

/// The statements that are not the same, but for those of tables that are left out.
fn schema(a: &Probe, b: &Probe, only: &[String]) -> Result<Vec<SchemaDifference>> {
    type Entries = BTreeMap<(String, String), String>;
    let of = |probe: &Probe| -> rusqlite::Result<Entries> {
        let mut statement = probe.connection().prepare(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?;
        let mut rows = statement.query([])?;
        let mut entries = Entries::new();
        while let Some(row) = rows.next()? {
            let of_table: String = row.get(2)?;
            if only.is_empty() || only.iter().any(|it| it.eq_ignore_ascii_case(&of_table)) {
                entries.insert((row.get(0)?, row.get(1)?), row.get(3)?);
            }
        }
        Ok(entries)
    };
    let of_a = of(a).map_err(|error| failed(a.path(), error))?;
    let of_b = of(b).map_err(|error| failed(b.path(), error))?;
    let mut keys: Vec<_> = of_a.keys().chain(of_b.keys()).collect();
    keys.sort_by_key(|(kind, name)| (kind != "table", kind.clone(), name.clone()));
    keys.dedup();
    let differences = keys.into_iter().filter_map(|key| {
        let place = match (of_a.get(key), of_b.get(key)) {
            (Some(_), None) => Place::OnlyA,
            (None, Some(_)) => Place::OnlyB,
            (a, b) if a != b => Place::Changed,
            _ => return None,
        };
        Some(SchemaDifference { kind: key.0.clone(), name: key.1.clone(), place })
    });
    Ok(differences.collect())
}

fn alone(
    probe: &Probe,
    table: &Table,
    outcome: impl FnOnce(u64) -> TableOutcome,
) -> Result<TableDifference> {
    let name = table.name.clone();
    let sql = format!("SELECT count(*) FROM {}", quoted(&table.name));
    let counted = probe.connection().query_row(&sql, [], |row| row.get::<_, i64>(0));
    let rows = counted.map_err(|error| failed(probe.path(), error))?;
    Ok(TableDifference { name, outcome: outcome(rows.cast_unsigned()), notes: Vec::new() })
}

fn both(
    env: &Env,
    (a, of_a): (&mut Probe, &Table),
    (b, of_b): (&mut Probe, &Table),
    order: TextOrder,
    rows_max: usize,
) -> Result<TableDifference> {
    let name = of_a.name.clone();
    let Some(plan) = Plan::of(of_a, of_b) else {
        let why = "it has another key on the other side, and no rowid".to_owned();
        let outcome = TableOutcome::NotCompared(why);
        return Ok(TableDifference { name, outcome, notes: Vec::new() });
    };
    let shape = Shape { table: name.clone(), key: plan.key_columns, text_order: order, rows_max };
    let (query_a, query_b) = (plan.query(of_a), plan.query(of_b));
    let compared = compare_rows(
        env,
        &shape,
        |sink| read(env, a, &query_a, sink),
        |sink| read(env, b, &query_b, sink),
    );
    let outcome = match compared {
        Ok(difference) => TableOutcome::Compared {
            key: plan.names[..plan.key.len().max(1)].to_vec(),
            columns: plan.names,
            difference,
        },
        // Something that its application brings along is missing here.
        Err(error) if error.kind() == Kind::Incomplete => {
            TableOutcome::NotCompared(error.message().to_owned())
        }
        Err(error) => return Err(error),
    };
    Ok(TableDifference { name, outcome, notes: plan.notes })
}

/// How two tables are read.
struct Plan {
    /// The columns of the primary key; none where rowids are compared.
    key: Vec<String>,
    /// The other columns that both have.
    rest: Vec<String>,
    /// How many values a row begins with that are its key.
    key_columns: usize,
    /// Whether rows without a key are told apart by their rowid.
    has_tie: bool,
    /// What the values are.
    names: Vec<String>,
    notes: Vec<String>,
}

impl Plan {
    /// `None` where nothing says which rows belong together.
    fn of(a: &Table, b: &Table) -> Option<Plan> {
        let has_key = !a.primary_key.is_empty() && a.has_key_of(b);
        let mut notes = Vec::new();
        if !has_key {
            a.rowid.zip(b.rowid)?;
            notes.push(
                "no key of its own: rows are compared by rowid, which a VACUUM may change"
                    .to_owned(),
            );
        }
        let key = if has_key { a.primary_key.clone() } else { Vec::new() };
        let is_key = |name: &str| key.iter().any(|key| key.eq_ignore_ascii_case(name));
        let both = a.columns.iter().filter(|column| b.column(&column.name).is_some());
        let rest: Vec<String> =
            both.map(|column| column.name.clone()).filter(|name| !is_key(name)).collect();
        let is_nullable = |table: &Table| {
            let of = |name: &String| table.column(name).is_none_or(|column| column.is_nullable);
            !table.key_is_rowid && key.iter().any(of)
        };
        let has_tie =
            has_key && (is_nullable(a) || is_nullable(b)) && a.rowid.is_some() && b.rowid.is_some();
        let mut names = key.clone();
        if !has_key || has_tie {
            names.push("rowid".to_owned());
        }
        let key_columns = names.len();
        names.extend(rest.iter().cloned());
        Some(Plan { key, rest, key_columns, has_tie, names, notes })
    }

    fn query(&self, table: &Table) -> String {
        let own = |name: &String| {
            quoted(table.column(name).map_or(name.as_str(), |column| column.name.as_str()))
        };
        let rowid = table.rowid.unwrap_or("rowid");
        let key: Vec<String> = self.key.iter().map(own).collect();
        let (mut columns, mut order) = (key.clone(), Vec::new());
        match (self.key.is_empty(), table.key_is_rowid) {
            // The rowid is what its column shows, and comes without a search.
            (false, true) => order.extend(key.iter().cloned()),
            (false, false) => order.extend(key.iter().map(|key| format!("{key} COLLATE BINARY"))),
            (true, _) => {
                columns.push(rowid.to_owned());
                order.push(rowid.to_owned());
            }
        }
        if self.has_tie {
            let is_null: Vec<String> = key.iter().map(|key| format!("{key} IS NULL")).collect();
            columns.push(format!("CASE WHEN {} THEN {rowid} END", is_null.join(" OR ")));
            order.push(rowid.to_owned());
        }
        columns.extend(self.rest.iter().map(own));
        let (columns, order) = (columns.join(", "), order.join(", "));
        format!("SELECT {columns} FROM {} ORDER BY {order}", quoted(&table.name))
    }
}

/// Reads the rows of a query.
fn read(env: &Env, probe: &mut Probe, query: &str, sink: Sink<'_>) -> Result<()> {
    let wrong = |error| unreadable(probe, error);
    let mut statement = probe.connection().prepare(query).map_err(wrong)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(wrong)?;
    let (mut batch, mut count) = (Batch::default(), 0_u64);
    while let Some(row) = rows.next().map_err(wrong)? {
        for column in 0..columns {
            push(&mut batch, row.get_ref(column).map_err(wrong)?);
        }
        count += 1;
        if count.is_multiple_of(ROWS_PER_LOOK) {
            env.proceed()?;
        }
        if batch.end_row() {
            sink(std::mem::take(&mut batch))?;
        }
    }
    sink(batch)
}

/// Adds a value as SQLite gives it.
pub(crate) fn push(batch: &mut Batch, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => batch.null(),
        ValueRef::Integer(number) => batch.integer(number),
        ValueRef::Real(number) => batch.real(number),
        ValueRef::Text(text) => batch.text(text),
        ValueRef::Blob(bytes) => batch.blob(bytes),
    }
}

/// What this program lacks makes a table incomparable, and is no damage: [`Kind::Incomplete`].
fn unreadable(probe: &Probe, error: rusqlite::Error) -> Error {
    match crate::check::is_missing_extension(&error) {
        true => Error::new(Kind::Incomplete, crate::check::text(&error)),
        false => failed(probe.path(), error),
    }
}

#[cfg(test)]
mod tests;
