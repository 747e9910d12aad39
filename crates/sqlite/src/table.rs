//! Tables as their statements describe them: columns, key, and what makes rows of them one by one.

use rusqlite::Connection;

/// The names under which SQLite knows a rowid, unless columns have them.
const ROWID_NAMES: &[&str] = &["rowid", "_rowid_", "oid"];

/// A table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: String,
    /// Whether a module keeps its rows elsewhere.
    pub(crate) is_virtual: bool,
    /// Its columns that hold what was put there: generated ones are left out.
    pub(crate) columns: Vec<Column>,
    /// The columns of its primary key, in the key's order.
    pub(crate) primary_key: Vec<String>,
    /// A name of its rowid; `None` where it has none, or columns have all its names.
    pub(crate) rowid: Option<&'static str>,
    /// Whether its primary key is its rowid.
    pub(crate) key_is_rowid: bool,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Whether it may be empty.
    pub(crate) is_nullable: bool,
}

/// An index that lets no two rows be equal in its columns.
#[derive(Clone, Debug)]
pub(crate) struct Unique {
    /// Its name.
    pub(crate) name: String,
    /// Its columns.
    pub(crate) columns: Vec<String>,
}

impl Table {
    /// The column of that name, whatever its case.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// Whether that names the same primary key of the other.
    pub(crate) fn has_key_of(&self, other: &Table) -> bool {
        let (own, others) = (&self.primary_key, &other.primary_key);
        own.len() == others.len()
            && own.iter().zip(others).all(|(own, other)| own.eq_ignore_ascii_case(other))
    }
}

/// A name in SQL text.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// All tables but SQLite's own, sorted by name.
pub(crate) fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = connection.prepare(
        "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'
         AND type IN ('table', 'virtual', 'shadow') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY name",
    )?;
    let found = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    let described = found.into_iter().map(|(name, kind, without_rowid)| {
        describe(connection, name, kind == "virtual", without_rowid)
    });
    described.collect()
}

fn describe(
    connection: &Connection,
    name: String,
    is_virtual: bool,
    without_rowid: bool,
) -> rusqlite::Result<Table> {
    if is_virtual {
        // Its module may be missing here, and its rows are in other tables.
        let (columns, primary_key) = (Vec::new(), Vec::new());
        return Ok(Table {
            name,
            is_virtual,
            columns,
            primary_key,
            rowid: None,
            key_is_rowid: false,
        });
    }
    let mut statement =
        connection.prepare("SELECT name, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1)")?;
    let rows = statement.query_map([&name], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, bool>(1)?,
            row.get::<_, u32>(2)?,
            row.get::<_, u32>(3)?,
        ))
    })?;
    let rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    let mut key: Vec<(u32, String)> = rows
        .iter()
        .filter(|(_, _, place, _)| *place > 0)
        .map(|(name, _, place, _)| (*place, name.clone()))
        .collect();
    key.sort();
    let has_key_index = connection.query_row(
        "SELECT count(*) FROM pragma_index_list(?1) WHERE origin = 'pk'",
        [&name],
        |row| row.get::<_, u32>(0),
    )? > 0;
    let is_taken = |own: &&&str| !rows.iter().any(|(name, ..)| name.eq_ignore_ascii_case(own));
    let rowid = ROWID_NAMES.iter().find(is_taken).copied().filter(|_| !without_rowid);
    let columns = rows
        .iter()
        .filter(|(_, _, _, hidden)| *hidden == 0)
        .map(|(name, not_null, ..)| Column { name: name.clone(), is_nullable: !not_null })
        .collect();
    Ok(Table {
        is_virtual,
        columns,
        key_is_rowid: !without_rowid && key.len() == 1 && !has_key_index,
        primary_key: key.into_iter().map(|(_, name)| name).collect(),
        rowid,
        name,
    })
}

/// The indexes of a table that forbid equal rows, but for that of its primary key, and for those
/// of some rows or of expressions.
pub(crate) fn uniques(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Unique>> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_index_list(?1)
         WHERE \"unique\" AND NOT partial AND origin <> 'pk' ORDER BY name",
    )?;
    let names = statement.query_map([table], |row| row.get::<_, String>(0))?;
    let names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
    let mut statement =
        connection.prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?;
    let mut found = Vec::new();
    for name in names {
        let columns = statement.query_map([&name], |row| row.get::<_, Option<String>>(0))?;
        let columns: Option<Vec<String>> = columns.collect::<rusqlite::Result<_>>()?;
        found.extend(columns.map(|columns| Unique { name, columns }));
    }
    Ok(found)
}
