//! The one who writes: rows into their tables, and what is not certain of them beside.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use lifeboat_core::Result;
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{Connection, ErrorCode, Statement, ToSql};

use crate::batch::{Batch, Flat, FlatRow};
use crate::layout::{Affinity, Layout};
use crate::produce::{Parcel, To};
use crate::reason::{Mark, Reason};
use crate::report::{Counts, DonatedPage};
use crate::schema::Table;
use crate::survey::Gap;
use crate::target::failed;

/// The most columns that a table can have.
const COLUMNS_MAX: usize = 1_900;
/// So many rows of which only the key is known are looked for in a donor.
const ROWIDS_MAX: usize = 100_000;

/// Fills a new database.
pub(crate) struct Filler<'c> {
    connection: &'c Connection,
    tables: &'c [Table],
    /// Rows of each table, and then those that belong nowhere.
    pub(crate) counts: Vec<Counts>,
    insert: Option<(usize, Insert<'c>)>,
    mark: Statement<'c>,
    /// For rows that belong nowhere, by how many values they have.
    nowhere: BTreeMap<usize, Statement<'c>>,
    /// The names of our own tables.
    pub(crate) names: Names,
    /// Where pages of each table were lost, and rows of which only the key is known.
    gaps: Vec<Vec<Gap>>,
    lost_rowids: BTreeSet<(usize, i64)>,
    /// Whether the rows of a donor are put in, and how many of each table it has that are lost.
    pub(crate) merges: bool,
    donated: Vec<u64>,
    columns: usize,
}

/// The names of the tables that we add.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) marks: String,
    pub(crate) nowhere: String,
}

impl Names {
    /// Names that no table has.
    pub(crate) fn free(taken: &dyn Fn(&str) -> bool) -> Self {
        let free = |name: &str| {
            let more = (1..).map(|number| format!("{name}_{number}"));
            let mut all = std::iter::once(name.to_owned()).chain(more);
            all.find(|name| !taken(name)).unwrap_or_default()
        };
        Names { marks: free("_lifeboat_salvage"), nowhere: free("lost_and_found") }
    }
}

impl<'c> Filler<'c> {
    pub(crate) fn new(
        connection: &'c Connection,
        tables: &'c [Table],
        names: Names,
        gaps: Vec<Vec<Gap>>,
    ) -> Result<Self> {
        let marks = quoted(&names.marks);
        let sql = format!(
            "CREATE TABLE {marks}(\"table\" TEXT NOT NULL, key, mark TEXT NOT NULL,
             reason TEXT NOT NULL, page INTEGER)"
        );
        connection.execute_batch(&sql).map_err(failed)?;
        let sql = format!("INSERT INTO {marks} VALUES(?1, ?2, ?3, ?4, ?5)");
        let mark = connection.prepare(&sql).map_err(failed)?;
        let counts = vec![Counts::default(); tables.len() + 1];
        let (donated, lost_rowids) = (vec![0; tables.len()], BTreeSet::new());
        Ok(Filler {
            connection,
            tables,
            counts,
            insert: None,
            mark,
            nowhere: BTreeMap::new(),
            gaps,
            lost_rowids,
            merges: false,
            donated,
            names,
            columns: 0,
        })
    }

    /// Notes the pages of a donor that stand in.
    pub(crate) fn note_donated(&mut self, pages: &[DonatedPage]) -> Result<()> {
        for DonatedPage { page, harm } in pages {
            let reason = format!("{}: the donor's stands in, which is proved", harm.words());
            self.mark.execute(("", Owned::Null, "donated", reason, page)).map_err(failed)?;
        }
        Ok(())
    }

    /// Takes rows.
    pub(crate) fn take(&mut self, parcel: &Parcel) -> Result<()> {
        match parcel.to {
            To::Table(index, is_reached) => self.fill_table(index, is_reached, &parcel.batch),
            To::Donor(index) => self.take_from_donor(index, &parcel.batch),
            To::Nowhere => {
                parcel.batch.rows.iter().try_for_each(|row| self.put_nowhere(&parcel.batch, row))
            }
        }
    }

    fn fill_table(&mut self, index: usize, is_reached: bool, batch: &Batch) -> Result<()> {
        let table = &self.tables[index];
        if self.insert.as_ref().is_none_or(|(current, _)| *current != index) {
            self.insert = None;
            self.insert = Some((index, Insert::new(self.connection, table)?));
        }
        for lost in &batch.lost {
            self.counts[index].lost += 1;
            if let Some(rowid) = lost.rowid.filter(|_| self.lost_rowids.len() < ROWIDS_MAX) {
                self.lost_rowids.insert((index, rowid));
            }
            let key = lost.rowid.map_or(Owned::Null, Owned::Integer);
            self.note(&table.layout.name, &key, "lost", lost.reason, lost.page)?;
        }
        for row in &batch.rows {
            let Some((_, insert)) = &mut self.insert else { continue };
            let outcome = match table.layout.name.as_str() {
                "sqlite_sequence" => sequence(self.connection, batch, row),
                _ => insert.row(batch, row),
            };
            match outcome {
                Ok(()) => self.count(index, batch, row, row.reason)?,
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    if insert.has_same(self.connection, batch, row)? {
                        continue;
                    }
                    let reason = if is_reached { Reason::Refused } else { Reason::Doubled };
                    let row = row.for_reason(reason);
                    self.put_nowhere(batch, &row)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Rows of a donor: those whose keys lie where this table lost something, and are not there.
    /// The others were deleted since the donor was made, or are there.
    fn take_from_donor(&mut self, index: usize, batch: &Batch) -> Result<()> {
        let table = &self.tables[index];
        if self.insert.as_ref().is_none_or(|(current, _)| *current != index) {
            self.insert = Some((index, Insert::new(self.connection, table)?));
        }
        for row in &batch.rows {
            let was_lost = !table.layout.has_rowids && !self.gaps[index].is_empty()
                || self.lost_rowids.contains(&(index, row.rowid))
                || self.gaps[index].iter().any(|gap| gap.holds(row.rowid, row.rowid));
            let Some((_, insert)) = self.insert.as_mut().filter(|_| was_lost) else { continue };
            if insert.has_key(self.connection, &table.layout, batch, row)? {
                continue;
            }
            if !self.merges {
                self.donated[index] += 1;
                continue;
            }
            match insert.row(batch, row) {
                Ok(()) => {
                    self.donated[index] += 1;
                    self.count(index, batch, row, row.reason)?;
                }
                // It contradicts a row that is there.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Counts a row that was written, and notes what speaks against it.
    fn count(&mut self, index: usize, batch: &Batch, row: &FlatRow, reason: Reason) -> Result<()> {
        self.counts[index].add(reason.mark());
        if reason == Reason::Sound {
            return Ok(());
        }
        let layout = &self.tables[index].layout;
        let key = match layout.has_rowids {
            true => Owned::Integer(row.rowid),
            false => key_of(batch, row, layout),
        };
        self.note(&layout.name, &key, reason.mark().word(), reason, row.page)
    }

    fn note(&mut self, table: &str, key: &Owned, mark: &str, why: Reason, page: u32) -> Result<()> {
        self.mark.execute((table, key, mark, why.words(), page)).map(|_| ()).map_err(failed)
    }

    fn put_nowhere(&mut self, batch: &Batch, row: &FlatRow) -> Result<()> {
        let values = batch.values(row);
        let values = &values[..values.len().min(COLUMNS_MAX)];
        let table = quoted(&self.names.nowhere);
        self.widen(&table, values.len())?;
        let statement = match self.nowhere.entry(values.len()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let sql = into_nowhere_sql(&table, values.len());
                new.insert(self.connection.prepare(&sql).map_err(failed)?)
            }
        };
        let bind = |statement: &mut Statement<'_>| {
            statement.raw_bind_parameter(1, row.page)?;
            statement.raw_bind_parameter(2, values.len() as i64)?;
            statement.raw_bind_parameter(3, row.rowid)?;
            for (index, value) in values.iter().enumerate() {
                statement.raw_bind_parameter(index + 4, Bound(borrowed(batch, value)))?;
            }
            statement.raw_execute()
        };
        bind(statement).map_err(failed)?;
        let key = Owned::Integer(self.connection.last_insert_rowid());
        let reason = row.reason.max(Reason::Orphan);
        let nowhere = self.tables.len();
        self.counts[nowhere].add(reason.mark());
        let name = self.names.nowhere.clone();
        self.note(&name, &key, reason.mark().word(), reason, row.page)
    }

    /// Makes the table of rows that belong nowhere wide enough.
    fn widen(&mut self, table: &str, columns: usize) -> Result<()> {
        if self.counts[self.tables.len()] == Counts::default() && self.columns == 0 {
            let sql =
                format!("CREATE TABLE {table}(page INTEGER, fields INTEGER, key INTEGER, c0)");
            self.connection.execute_batch(&sql).map_err(failed)?;
            self.columns = 1;
        }
        while self.columns < columns {
            let sql = format!("ALTER TABLE {table} ADD COLUMN c{}", self.columns);
            self.connection.execute_batch(&sql).map_err(failed)?;
            self.columns += 1;
        }
        Ok(())
    }

    /// Notes for each table how many rows of it are certain.
    pub(crate) fn finish(mut self) -> Result<Filled> {
        self.insert = None;
        for (table, counts) in self.tables.iter().zip(&self.counts) {
            let words = format!("{} rows", counts.certain);
            let values =
                (&table.layout.name, Owned::Null, Mark::Certain.word(), words, Owned::Null);
            self.mark.execute(values).map_err(failed)?;
        }
        Ok(Filled { counts: self.counts, donated: self.donated, names: self.names })
    }
}

fn into_nowhere_sql(table: &str, values: usize) -> String {
    let places: String = (0..values).map(|index| format!(", ?{}", index + 4)).collect();
    let names: String = (0..values).map(|index| format!(", c{index}")).collect();
    format!("INSERT INTO {table}(page, fields, key{names}) VALUES(?1, ?2, ?3{places})")
}

/// What became of filling.
pub(crate) struct Filled {
    pub(crate) counts: Vec<Counts>,
    pub(crate) donated: Vec<u64>,
    pub(crate) names: Names,
}

/// How rows come into one table.
struct Insert<'c> {
    statement: Statement<'c>,
    has_key: bool,
    /// The fields of a record that are given, in the order of the statement's places.
    fields: Vec<usize>,
    /// The value of each field in records that end before it.
    defaults: Vec<Owned>,
    /// Asks for the same row.
    same: String,
}

impl<'c> Insert<'c> {
    fn new(connection: &'c Connection, table: &Table) -> Result<Self> {
        let layout = &table.layout;
        let key = layout.rowid();
        let is_given =
            |&index: &usize| layout.alias != Some(index) && !layout.fields[index].is_generated;
        let fields: Vec<usize> = (0..layout.fields.len()).filter(is_given).collect();
        let named = fields.iter().map(|&index| quoted(&layout.fields[index].name));
        let names: Vec<String> = key.iter().cloned().chain(named).collect();
        let places: Vec<String> = (1..=names.len()).map(|place| format!("?{place}")).collect();
        let table_name = quoted(&layout.name);
        let sql = match names.is_empty() {
            true => format!("INSERT INTO {table_name} DEFAULT VALUES"),
            false => {
                let (names, places) = (names.join(", "), places.join(", "));
                format!("INSERT INTO {table_name}({names}) VALUES({places})")
            }
        };
        let equal = names.iter().zip(&places).map(|(name, place)| format!("{name} IS {place}"));
        let same = equal.collect::<Vec<_>>().join(" AND ");
        let same = format!("SELECT 1 FROM {table_name} WHERE {same}");
        let defaults = layout.fields.iter().map(|field| {
            let default = field.default.as_ref();
            let value = default.map(|sql| {
                connection.query_row(&format!("SELECT {sql}"), [], |row| row.get::<_, Owned>(0))
            });
            value.and_then(|value| value.ok()).unwrap_or(Owned::Null)
        });
        Ok(Insert {
            defaults: defaults.collect(),
            statement: connection.prepare(&sql).map_err(failed)?,
            has_key: key.is_some(),
            fields,
            same,
        })
    }

    fn row(&mut self, batch: &Batch, row: &FlatRow) -> rusqlite::Result<()> {
        bind(&mut self.statement, self.has_key, &self.fields, &self.defaults, batch, row)?;
        self.statement.raw_execute().map(|_| ())
    }

    /// Whether the table has a row of that key.
    fn has_key(
        &self,
        connection: &Connection,
        layout: &Layout,
        batch: &Batch,
        row: &FlatRow,
    ) -> Result<bool> {
        let table = quoted(&layout.name);
        let name = |index: &usize| quoted(&layout.fields[*index].name);
        let names: Vec<String> = match layout.rowid() {
            Some(rowid) => vec![rowid],
            None => layout.key.iter().map(name).collect(),
        };
        let equal = names.iter().enumerate().map(|(at, name)| format!("{name} IS ?{}", at + 1));
        let sql =
            format!("SELECT 1 FROM {table} WHERE {}", equal.collect::<Vec<_>>().join(" AND "));
        let ask = || {
            let mut statement = connection.prepare(&sql)?;
            let values = batch.values(row);
            match layout.has_rowids {
                true => statement.raw_bind_parameter(1, row.rowid)?,
                false => layout.key.iter().enumerate().try_for_each(|(at, &field)| {
                    let value = values.get(field).map_or(ValueRef::Null, |v| borrowed(batch, v));
                    statement.raw_bind_parameter(at + 1, Bound(value))
                })?,
            }
            let found = statement.raw_query().next()?.is_some();
            Ok(found)
        };
        // A table whose rowids have no name, and that has no key, may hold it or not.
        if names.is_empty() { Ok(true) } else { ask().map_err(failed) }
    }

    /// Whether the table has that very row already.
    fn has_same(&self, connection: &Connection, batch: &Batch, row: &FlatRow) -> Result<bool> {
        let ask = || {
            let mut statement = connection.prepare(&self.same)?;
            bind(&mut statement, self.has_key, &self.fields, &self.defaults, batch, row)?;
            let found = statement.raw_query().next()?.is_some();
            Ok(found)
        };
        ask().map_err(failed)
    }
}

fn bind(
    statement: &mut Statement<'_>,
    has_key: bool,
    fields: &[usize],
    defaults: &[Owned],
    batch: &Batch,
    row: &FlatRow,
) -> rusqlite::Result<()> {
    let first = if has_key { 2 } else { 1 };
    if has_key {
        statement.raw_bind_parameter(1, row.rowid)?;
    }
    let values = batch.values(row);
    for (place, &field) in fields.iter().enumerate() {
        match values.get(field) {
            Some(value) => {
                statement.raw_bind_parameter(place + first, Bound(borrowed(batch, value)))?;
            }
            None => statement.raw_bind_parameter(place + first, &defaults[field])?,
        }
    }
    Ok(())
}

/// A row of SQLite's own count of `AUTOINCREMENT`, which filling the tables has begun.
fn sequence(connection: &Connection, batch: &Batch, row: &FlatRow) -> rusqlite::Result<()> {
    let [name, Flat::Integer(count)] = batch.values(row) else { return Ok(()) };
    let name = Bound(borrowed(batch, name));
    let update = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
    if connection.prepare(update)?.execute((&name, count))? == 0 {
        let insert = "INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)";
        connection.prepare(insert)?.execute((&name, count))?;
    }
    Ok(())
}

/// The key of a row without a rowid: its value, or its values as JSON.
fn key_of(batch: &Batch, row: &FlatRow, layout: &Layout) -> Owned {
    let values = batch.values(row);
    let owned = |&index: &usize| match values.get(index) {
        // As its column takes it.
        Some(Flat::Integer(number)) if layout.fields[index].affinity == Affinity::Text => {
            Owned::Text(number.to_string())
        }
        Some(Flat::Integer(number)) => Owned::Integer(*number),
        Some(Flat::Real(number)) => Owned::Real(*number),
        Some(Flat::Blob(from, to)) => Owned::Blob(batch.bytes(*from, *to).to_vec()),
        Some(Flat::Text(from, to)) => {
            Owned::Text(String::from_utf8_lossy(batch.bytes(*from, *to)).into_owned())
        }
        Some(Flat::Null) | None => Owned::Null,
    };
    if let [only] = &layout.key[..] {
        return owned(only);
    }
    let parts = layout.key.iter().map(|index| match owned(index) {
        Owned::Null => serde_json::Value::Null,
        Owned::Integer(number) => number.into(),
        Owned::Real(number) => number.into(),
        Owned::Text(text) => text.into(),
        Owned::Blob(bytes) => {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
    });
    Owned::Text(serde_json::Value::Array(parts.collect()).to_string())
}

fn borrowed<'a>(batch: &'a Batch, value: &Flat) -> ValueRef<'a> {
    match *value {
        Flat::Null => ValueRef::Null,
        Flat::Integer(number) => ValueRef::Integer(number),
        Flat::Real(number) => ValueRef::Real(number),
        Flat::Text(from, to) => ValueRef::Text(batch.bytes(from, to)),
        Flat::Blob(from, to) => ValueRef::Blob(batch.bytes(from, to)),
    }
}

/// A value that is bound as it lies.
struct Bound<'a>(ValueRef<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// A name as SQL takes it, whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
