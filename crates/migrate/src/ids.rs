//! The ids of tables that others refer to, one bit each: so that rows whose foreign keys lead
//! nowhere are found in the same pass in which everything is examined. SQLite's own look follows
//! each key through the file; it is only asked where a key may lead nowhere.

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_postgres::identifier;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::scan::unreadable;
use crate::schema::{ForeignKey, Schema, Table};

/// All sets together take no more.
const BYTES_MAX: u64 = 16 << 20;

/// The ids of a table.
pub(crate) struct IdSet {
    least: i64,
    bits: Vec<u64>,
}

impl IdSet {
    /// Reads them; `None` where they would take more than so many bytes.
    fn read(
        env: &Env,
        connection: &Connection,
        (table, key): (&Table, usize),
        bytes_max: u64,
    ) -> Result<Option<Self>> {
        let failed = |error| unreadable(table, error);
        let (key, name) = (identifier(&table.columns[key].name), identifier(&table.name));
        let end = |which: &str| {
            let sql = format!("SELECT {which}({key}) FROM {name}");
            connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0)).map_err(failed)
        };
        let (Some(least), Some(most)) = (end("min")?, end("max")?) else {
            return Ok(Some(IdSet { least: 0, bits: Vec::new() }));
        };
        let words = most.abs_diff(least) / 64 + 1;
        if words > bytes_max / 8 {
            return Ok(None);
        }
        let mut set = IdSet { least, bits: vec![0; words as usize] };
        let sql = format!("SELECT {key} FROM {name}");
        let mut statement = connection.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut count = 0_u64;
        while let Some(row) = rows.next().map_err(failed)? {
            let place = row.get::<_, i64>(0).map_err(failed)?.abs_diff(least);
            if let Some(word) = set.bits.get_mut((place / 64) as usize) {
                *word |= 1 << (place % 64);
            }
            if count.is_multiple_of(4_096) {
                env.proceed()?;
            }
            count += 1;
        }
        Ok(Some(set))
    }

    /// Whether a value that refers to these ids surely leads to one, or is NULL.
    pub(crate) fn is_met_by(&self, value: ValueRef<'_>) -> bool {
        match value {
            ValueRef::Null => true,
            ValueRef::Integer(id) if id >= self.least => {
                let place = id.abs_diff(self.least);
                let word = usize::try_from(place / 64).ok().and_then(|word| self.bits.get(word));
                word.is_some_and(|word| word >> (place % 64) & 1 == 1)
            }
            _ => false,
        }
    }
}

/// The ids of all tables that a foreign key refers to, by the place of the table.
pub(crate) fn read_all(
    env: &Env,
    connection: &Connection,
    schema: &Schema,
) -> Result<Vec<Option<IdSet>>> {
    let mut left = BYTES_MAX;
    let mut sets = Vec::with_capacity(schema.tables.len());
    for (place, table) in schema.tables.iter().enumerate() {
        let keys = schema.tables.iter().flat_map(|child| &child.foreign_keys);
        let is_parent = keys.filter_map(|key| parent_of(schema, key)).any(|one| one == place);
        let set = match table.rowid_alias.filter(|_| is_parent) {
            Some(key) => IdSet::read(env, connection, (table, key), left)?,
            None => None,
        };
        left -= set.as_ref().map_or(0, |set| set.bits.len() as u64 * 8);
        sets.push(set);
    }
    Ok(sets)
}

/// The place of the table whose ids a foreign key refers to, if it is of that kind.
fn parent_of(schema: &Schema, key: &ForeignKey) -> Option<usize> {
    let named = |table: &Table| table.name.eq_ignore_ascii_case(&key.table);
    let place = schema.tables.iter().position(named)?;
    let parent = &schema.tables[place];
    let id = parent.rowid_alias?;
    let is_id = match key.to.as_slice() {
        [] => true,
        [to] => parent.column(to) == Some(id),
        _ => false,
    };
    (is_id && key.from.len() == 1).then_some(place)
}

/// For each column of a table the ids that it refers to. One that refers to two tables has none.
pub(crate) fn of_columns<'a>(
    schema: &Schema,
    sets: &'a [Option<IdSet>],
    table: &Table,
) -> Vec<Option<&'a IdSet>> {
    let of_column = |place: usize| {
        let from =
            |key: &&ForeignKey| key.from.iter().any(|name| table.column(name) == Some(place));
        let mut keys = table.foreign_keys.iter().filter(from);
        match (keys.next(), keys.next()) {
            (Some(key), None) => sets.get(parent_of(schema, key)?)?.as_ref(),
            _ => None,
        }
    };
    (0..table.columns.len()).map(of_column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_met_and_nothing_else() {
        let set = IdSet { least: -3, bits: vec![0b1001, 1] };
        for (id, is) in [(-3, true), (0, true), (61, true), (-2, false), (62, false), (-4, false)] {
            assert_eq!(set.is_met_by(ValueRef::Integer(id)), is, "{id}");
        }
        assert!(!set.is_met_by(ValueRef::Integer(i64::MAX)));
        assert!(!set.is_met_by(ValueRef::Integer(i64::MIN)));
        assert!(set.is_met_by(ValueRef::Null));
        // SQLite compares the text 0 with the id 0: it is asked.
        assert!(!set.is_met_by(ValueRef::Text(b"0")));
    }
}
