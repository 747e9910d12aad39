//! Reads the rows of a table, each with what names it.

use std::fmt::Write as _;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::identifier;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::schema::Table;

/// How often it is asked whether the run must end: so many rows.
const ROWS_PER_LOOK: u64 = 1_024;
/// No more letters of a value are shown.
const SHOWN_LETTERS: usize = 60;

/// One row.
pub(crate) struct ScannedRow<'a, 'b> {
    row: &'a rusqlite::Row<'b>,
    table: &'a Table,
    with_rowid: bool,
}

impl<'a> ScannedRow<'a, '_> {
    /// The value of a column.
    pub(crate) fn value(&self, column: usize) -> Result<ValueRef<'a>> {
        let place = column + usize::from(self.with_rowid);
        self.row.get_ref(place).map_err(|error| unreadable(self.table, error))
    }

    /// Its number, where the table gives its rows one.
    pub(crate) fn rowid(&self) -> Option<i64> {
        match self.with_rowid {
            true => self.row.get_ref(0).ok()?.as_i64().ok(),
            false => None,
        }
    }

    /// What names it for people: `rowid 17`, or its key.
    pub(crate) fn name(&self) -> String {
        if let Some(rowid) = self.rowid() {
            return format!("rowid {rowid}");
        }
        let mut name = String::new();
        for column in &self.table.primary_key {
            let shown = self.value(*column).map_or_else(|_| "?".to_owned(), shown);
            let separator = if name.is_empty() { "" } else { ", " };
            let _ = write!(name, "{separator}{} {shown}", self.table.columns[*column].name);
        }
        name
    }
}

/// The name by which the rowid of a table can be asked for, if it has one.
pub(crate) fn rowid_name(table: &Table) -> Option<&'static str> {
    let is_free = |name: &&&str| table.column(name).is_none();
    match table.without_rowid {
        true => None,
        false => ["rowid", "_rowid_", "oid"].iter().find(is_free).copied(),
    }
}

/// Rowids from the first to the last, both of them too; `None` is all of a table.
pub(crate) type Part = Option<(i64, i64)>;

/// Parts of a table that several readers take beside each other, each of no more than so many
/// rowids, and not too many.
pub(crate) fn parts(connection: &Connection, table: &Table, rowids: u64) -> Vec<Part> {
    const PARTS_MAX: u64 = 64;
    let ends = || {
        let rowid = rowid_name(table).filter(|_| table.module.is_none())?;
        let name = identifier(&table.name);
        let end = |which: &str| {
            let sql = format!("SELECT {which}({rowid}) FROM {name}");
            connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0)).ok().flatten()
        };
        Some((end("min")?, end("max")?))
    };
    let Some((least, most)) = ends() else { return vec![None] };
    let span = most.abs_diff(least);
    let count = (span / rowids).clamp(1, PARTS_MAX);
    if count == 1 {
        return vec![None];
    }
    let width = span / count + 1;
    let begin = |part: u64| least.saturating_add_unsigned(width.saturating_mul(part));
    let end = |part: u64| if part + 1 == count { most } else { begin(part + 1) - 1 };
    (0..count).map(|part| Some((begin(part), end(part)))).collect()
}

/// Hands on each row of a table.
pub(crate) fn scan(
    env: &Env,
    connection: &Connection,
    table: &Table,
    each: impl FnMut(&ScannedRow<'_, '_>) -> Result<()>,
) -> Result<()> {
    scan_part(env, connection, table, None, each)
}

/// Hands on each row of a part of a table.
pub(crate) fn scan_part(
    env: &Env,
    connection: &Connection,
    table: &Table,
    part: Part,
    mut each: impl FnMut(&ScannedRow<'_, '_>) -> Result<()>,
) -> Result<()> {
    let rowid = rowid_name(table);
    let names = table.columns.iter().map(|column| identifier(&column.name));
    let all: Vec<String> = rowid.map(str::to_owned).into_iter().chain(names).collect();
    // NOT INDEXED: in the order of the table, and from the table itself.
    let hint = if table.module.is_some() { "" } else { " NOT INDEXED" };
    let mut sql = format!("SELECT {} FROM {}{hint}", all.join(", "), identifier(&table.name));
    if let (Some((first, last)), Some(rowid)) = (part, rowid) {
        let _ = write!(sql, " WHERE {rowid} BETWEEN {first} AND {last}");
    }
    let failed = |error| unreadable(table, error);
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut count = 0_u64;
    while let Some(row) = rows.next().map_err(failed)? {
        if count.is_multiple_of(ROWS_PER_LOOK) {
            env.proceed()?;
        }
        count += 1;
        each(&ScannedRow { row, table, with_rowid: rowid.is_some() })?;
    }
    Ok(())
}

pub(crate) fn unreadable(table: &Table, error: rusqlite::Error) -> Error {
    let message = format!("cannot read table {}", table.name);
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => Error::new(Kind::CheckFailed, message)
            .hint("the database is damaged: restore it, or run `lifeboat salvage` first"),
        Some(rusqlite::ErrorCode::TooBig) => Error::new(Kind::Refused, message)
            .hint("one of its values is larger than 1 GB, and PostgreSQL takes none of that size"),
        _ => Error::new(Kind::SourceUnavailable, message),
    }
    .caused_by(error)
}

/// A value for people: in one line, and not without end.
pub(crate) fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(bytes) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_LETTERS)]);
            let mut shown: String =
                text.chars().take(SHOWN_LETTERS).flat_map(char::escape_debug).collect();
            if text.chars().count() > SHOWN_LETTERS {
                shown.push_str("...");
            }
            format!("'{shown}'")
        }
        ValueRef::Blob(bytes) => {
            let head = &bytes[..bytes.len().min(SHOWN_LETTERS / 4)];
            let digits: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
            let more = if head.len() < bytes.len() { "..." } else { "" };
            format!("x'{digits}{more}' ({} bytes)", bytes.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_row_once() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)").unwrap();
        let table = Table { name: "t".into(), ..Table::default() };
        assert_eq!(parts(&connection, &table, 10), [None]);
        for ids in [vec![5], vec![1, 2, 11, 25, 30], vec![i64::MIN, -1, 0, 7, i64::MAX]] {
            for id in &ids {
                connection.execute("INSERT INTO t VALUES (?1)", [id]).unwrap();
            }
            let parts = parts(&connection, &table, 10);
            let has = |id: &i64| {
                let holds = |part: &&Part| part.is_none_or(|(a, b)| (a..=b).contains(id));
                parts.iter().filter(holds).count()
            };
            assert!(ids.iter().all(|id| has(id) == 1), "{parts:?}");
            connection.execute("DELETE FROM t", []).unwrap();
        }
    }
}
