//! Foreign keys that lead nowhere: SQLite does not look unless it is told to.

use lifeboat_core::Result;
use rusqlite::Connection;

use crate::plan::of_sqlite;
use crate::schema::{ForeignKey, Schema};

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
                orphan.rows.push(rowid.map_or_else(|| "?".into(), |id| format!("rowid {id}")));
            }
        }
    }
    Ok(found)
}
