//! The columns of a table as its records store them. SQLite itself is asked: the table is created
//! in memory, and described.

use rusqlite::Connection;

use crate::record::Value;

/// How a column stores values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

/// A column that records have.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) affinity: Affinity,
    pub(crate) not_null: bool,
    /// Computed from others: it is stored, and must not be given.
    pub(crate) is_generated: bool,
    /// The value of records from before the column came, as SQL.
    pub(crate) default: Option<String>,
}

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) name: String,
    /// In the order of records.
    pub(crate) fields: Vec<Column>,
    /// The field that stands for the rowid, and is NULL in records.
    pub(crate) alias: Option<usize>,
    pub(crate) has_rowids: bool,
    /// A name of the rowid that no column has.
    pub(crate) rowid_name: Option<&'static str>,
    /// The fields of the primary key of a table without rowids.
    pub(crate) key: Vec<usize>,
}

impl Layout {
    /// Describes a table that the connection has. `None` where it is no table with rows.
    pub(crate) fn of(connection: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let kind: Option<(String, bool)> = connection
            .prepare("SELECT type, wr FROM pragma_table_list(?1) WHERE schema = 'main'")?
            .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .next()
            .transpose()?;
        let Some((_, without_rowid)) = kind.filter(|(kind, _)| kind == "table" || kind == "shadow")
        else {
            return Ok(None);
        };
        let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden, cid \
                   FROM pragma_table_xinfo(?1) ORDER BY cid";
        let all: Vec<(Column, String, i64, i64, i64)> = connection
            .prepare(sql)?
            .query_map([name], |row| {
                let declared: String = row.get::<_, Option<String>>(1)?.unwrap_or_default();
                let hidden: i64 = row.get(5)?;
                let column = Column {
                    name: row.get(0)?,
                    affinity: affinity(&declared),
                    not_null: row.get(2)?,
                    is_generated: hidden == 3,
                    default: row.get(3)?,
                };
                Ok((column, declared, row.get(4)?, hidden, row.get(6)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut layout = Layout {
            name: name.to_owned(),
            fields: Vec::new(),
            alias: None,
            has_rowids: !without_rowid,
            rowid_name: None,
            key: Vec::new(),
        };
        let taken =
            |name: &str| all.iter().any(|(column, ..)| column.name.eq_ignore_ascii_case(name));
        layout.rowid_name = ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name));
        let key_index = key_index(connection, name)?;
        if without_rowid {
            let Some(index) = key_index else { return Ok(None) };
            let order = "SELECT cid, key FROM pragma_index_xinfo(?1) ORDER BY seqno";
            let order: Vec<(i64, bool)> = connection
                .prepare(order)?
                .query_map([index], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (cid, is_key) in order {
                let Some(found) = all.iter().find(|(.., own)| *own == cid) else { continue };
                if is_key {
                    layout.key.push(layout.fields.len());
                }
                layout.fields.push(found.0.clone());
            }
            return Ok(Some(layout));
        }
        // A primary key without an index is the rowid itself.
        let stored = all.iter().filter(|(.., hidden, _)| *hidden != 2 && *hidden != 1);
        for (column, _, primary, ..) in stored {
            if *primary > 0 && key_index.is_none() {
                layout.alias = Some(layout.fields.len());
            }
            layout.fields.push(column.clone());
        }
        Ok(Some(layout))
    }

    /// The rowid as SQL names it, if it can be named.
    pub(crate) fn rowid(&self) -> Option<String> {
        match self.alias {
            Some(alias) => Some(crate::fill::quoted(&self.fields[alias].name)),
            None => self.rowid_name.filter(|_| self.has_rowids).map(str::to_owned),
        }
    }

    /// Whether a record can be a row of this table.
    pub(crate) fn fits(&self, values: &[Value<'_>]) -> bool {
        let is_sound = |index: usize, column: &Column| {
            let Some(value) = values.get(index) else {
                return !column.not_null || column.default.is_some() || self.alias == Some(index);
            };
            match value {
                Value::Null => !column.not_null || self.alias == Some(index),
                _ if self.alias == Some(index) => false,
                Value::Blob(_) => true,
                Value::Text(text) => match column.affinity {
                    Affinity::Integer | Affinity::Real | Affinity::Numeric => !is_number(text),
                    _ => true,
                },
                Value::Integer(_) => column.affinity != Affinity::Text,
                Value::Real(_) => column.affinity != Affinity::Text,
            }
        };
        let minimum = self.key.len().max(1);
        values.len() <= self.fields.len()
            && values.len() >= minimum.min(self.fields.len())
            && self.fields.iter().enumerate().all(|(index, column)| is_sound(index, column))
    }

    /// How well a record fits: the more, the more of its values are what a column is made for.
    pub(crate) fn affection(&self, values: &[Value<'_>]) -> usize {
        let points = |(column, value): (&Column, &Value<'_>)| match (column.affinity, value) {
            (Affinity::Integer, Value::Integer(_)) => 4,
            (Affinity::Text, Value::Text(_)) => 4,
            (Affinity::Real, Value::Real(_)) => 4,
            (Affinity::Blob, Value::Blob(_)) => 4,
            (Affinity::Numeric, Value::Integer(_) | Value::Real(_) | Value::Text(_)) => 3,
            (Affinity::Real, Value::Integer(_)) => 3,
            (_, Value::Null) => 2,
            _ => 1,
        };
        self.fields.iter().zip(values).map(points).sum()
    }
}

/// The index of a table's primary key, if it has one of its own.
fn key_index(connection: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE origin = 'pk'";
    connection.prepare(sql)?.query_map([table], |row| row.get(0))?.next().transpose()
}

/// By SQLite's rule for declared types.
fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |word: &str| declared.contains(word);
    match () {
        () if has("INT") => Affinity::Integer,
        () if has("CHAR") || has("CLOB") || has("TEXT") => Affinity::Text,
        () if has("BLOB") || declared.is_empty() || declared == "ANY" => Affinity::Blob,
        () if has("REAL") || has("FLOA") || has("DOUB") => Affinity::Real,
        () => Affinity::Numeric,
    }
}

/// Whether a text would have been stored as a number.
fn is_number(text: &[u8]) -> bool {
    let text = std::str::from_utf8(text).unwrap_or("x").trim();
    text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && text.parse::<f64>().is_ok()
}
