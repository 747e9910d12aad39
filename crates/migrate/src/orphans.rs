//! Foreign keys that lead nowhere: SQLite does not look unless it is told to.

use lifeboat_core::Result;
use lifeboat_postgres::identifier;
use rusqlite::Connection;

use crate::plan::of_sqlite;
use crate::scan::shown;
use crate::schema::{ForeignKey, Schema, Table};

/// So many rows of a key are named.
const SHOWN_MAX: usize = 1_000;

/// A key, and the rows whose key leads nowhere.
#[derive(Clone, Debug)]
pub(crate) struct OrphanKey {
    pub(crate) table: String,
    /// SQLite's number of the key.
    pub(crate) key: i64,
    pub(crate) parent: String,
    pub(crate) count: u64,
    /// The first rows, as they are named.
    pub(crate) rows: Vec<String>,
}

/// Looks at all keys of the tables of which it is not certain that they have none. A key that
/// SQLite itself cannot check has no orphans here.
pub(crate) fn find(
    connection: &Connection,
    schema: &Schema,
    is_certain: impl Fn(usize, &ForeignKey) -> bool,
) -> Result<Vec<OrphanKey>> {
    let mut found: Vec<OrphanKey> = Vec::new();
    for (place, table) in schema.tables.iter().enumerate() {
        if table.foreign_keys.iter().all(|key| is_certain(place, key)) {
            continue;
        }
        let failed = of_sqlite(table);
        let sql = "SELECT rowid, parent, fkid FROM pragma_foreign_key_check(?1)";
        let mut statement = connection.prepare(sql).map_err(&failed)?;
        let mut rows = statement.query([&table.name]).map_err(&failed)?;
        // "foreign key mismatch": the other table has no such key.
        while let Ok(Some(row)) = rows.next() {
            let rowid: Option<i64> = row.get(0).map_err(&failed)?;
            let key: i64 = row.get(2).map_err(&failed)?;
            let known = found.iter().position(|one| one.table == table.name && one.key == key);
            let place = match known {
                Some(place) => place,
                None => {
                    found.push(OrphanKey {
                        table: table.name.clone(),
                        key,
                        parent: row.get(1).map_err(&failed)?,
                        count: 0,
                        rows: Vec::new(),
                    });
                    found.len() - 1
                }
            };
            let orphan = &mut found[place];
            orphan.count += 1;
            if orphan.rows.len() < SHOWN_MAX {
                orphan.rows.extend(rowid.map(|id| format!("rowid {id}")));
            }
        }
        for orphan in found.iter_mut().filter(|one| one.table == table.name) {
            let key = table.foreign_keys.iter().find(|key| key.id == orphan.key);
            if let (true, Some(key)) = (orphan.rows.is_empty(), key) {
                orphan.rows = rows_without_rowid(connection, schema, (table, key))?;
            }
        }
    }
    Ok(found)
}

/// Rows of a table without rowids, by their keys.
fn rows_without_rowid(
    connection: &Connection,
    schema: &Schema,
    (table, key): (&Table, &ForeignKey),
) -> Result<Vec<String>> {
    let Some(parent) = schema.table(&key.table) else { return Ok(Vec::new()) };
    let of_parent = |place: usize| match key.to.get(place) {
        Some(name) => name.clone(),
        None => {
            let column = parent.primary_key.get(place).and_then(|at| parent.columns.get(*at));
            column.map_or_else(String::new, |column| column.name.clone())
        }
    };
    let pairs = key.from.iter().enumerate().map(|(place, from)| {
        let (from, to) = (identifier(from), identifier(&of_parent(place)));
        (format!("c.{from} IS NOT NULL"), format!("p.{to} = c.{from}"))
    });
    let (set, same): (Vec<String>, Vec<String>) = pairs.unzip();
    let columns: Vec<&str> =
        table.primary_key.iter().map(|place| table.columns[*place].name.as_str()).collect();
    let names: Vec<String> = columns.iter().map(|name| format!("c.{}", identifier(name))).collect();
    let sql = format!(
        "SELECT {} FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {}) \
         LIMIT {SHOWN_MAX}",
        names.join(", "),
        identifier(&table.name),
        set.join(" AND "),
        identifier(&parent.name),
        same.join(" AND ")
    );
    let failed = of_sqlite(table);
    let mut statement = connection.prepare(&sql).map_err(&failed)?;
    let rows = statement.query_map([], |row| {
        let part = |(place, name): (usize, &&str)| {
            row.get_ref(place).map(|value| format!("{name} {}", shown(value)))
        };
        let parts: rusqlite::Result<Vec<String>> = columns.iter().enumerate().map(part).collect();
        parts.map(|parts| parts.join(", "))
    });
    rows.and_then(Iterator::collect).map_err(failed)
}
