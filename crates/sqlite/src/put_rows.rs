//! Rows of another database put back into a live one, while its application runs.
//!
//! What would be done is found out in a read transaction, without stopping anybody. Then one short
//! transaction does it, and looks at each row again: what the application wrote meanwhile counts.
//! Nothing that is there is replaced unless that was asked for, and then only rows with the same
//! key. Foreign keys are checked when it commits, whether the application checks them or not.

mod aside;

use std::path::Path;
use std::time::Duration;

use lifeboat_core::diff::{Conflict, PutOutcome, PutPlan, PutRequest, Value};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement, ToSql, params_from_iter};

pub use self::aside::copy_aside;

use crate::held::{self, Announced, Identity};
use crate::probe::Probe;
use crate::snapshot::failed;
use crate::table::{Table, Unique, quoted, tables, uniques};

/// How long the transaction waits for those of others.
const BUSY_TIMEOUT_MS: u64 = 30_000;
/// Rows between two looks whether the run must end.
const ROWS_PER_LOOK: u64 = 1_024;
/// So many rows that refer to one that is missing are named.
const VIOLATIONS_MAX: usize = 5;

/// What would be done, by a look at both.
pub fn plan_rows(
    env: &Env,
    live: &Path,
    from: &Probe,
    request: &PutRequest<'_>,
) -> Result<PutPlan> {
    let live = Probe::open(live)?;
    let shape = Shape::of(&live, from, request)?;
    let mut plan = PutPlan {
        table: shape.table.name.clone(),
        key: shape.key.clone(),
        columns: shape.key.iter().chain(&shape.rest).cloned().collect(),
        triggers: shape.triggers.clone(),
        notes: shape.notes.clone(),
        ..PutPlan::default()
    };
    let wrong = |error| failed(live.path(), error);
    let mut finder = Finder::new(live.connection(), &shape).map_err(wrong)?;
    each_row(env, from, &shape, request, &mut |row| {
        let found = finder.find(&row).map_err(wrong)?;
        let keep = |rows: usize| rows < request.rows_max;
        match found {
            Found::Missing => {
                plan.missing += 1;
                if keep(plan.missing_rows.len()) {
                    plan.missing_rows.push(row);
                }
            }
            Found::Same => plan.same += 1,
            Found::Other { why, has_key } => {
                plan.conflicts += 1;
                plan.same_key += u64::from(has_key);
                if keep(plan.conflict_rows.len()) {
                    let key = row[..shape.key.len()].to_vec();
                    plan.conflict_rows.push(Conflict { key, why });
                }
            }
        }
        Ok(())
    })?;
    Ok(plan)
}

/// Does it, for all tables in one transaction.
pub fn put_rows(
    env: &Env,
    live: &Path,
    from: &Probe,
    requests: &[PutRequest<'_>],
) -> Result<Vec<PutOutcome>> {
    let shapes = {
        let probe = Probe::open(live)?;
        let shapes = requests.iter().map(|request| Shape::of(&probe, from, request));
        shapes.collect::<Result<Vec<Shape>>>()?
    };
    let writer = Writer::open(live)?;
    let wrong = |error| writing(live, error);
    let runs_triggers = requests.iter().any(|request| request.run_triggers == Some(true));
    let connection = &writer.connection;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, runs_triggers)
        .map_err(wrong)?;
    connection.execute_batch("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON").map_err(wrong)?;
    let mut outcomes = Vec::new();
    for (request, shape) in requests.iter().zip(&shapes) {
        outcomes.push(put_table(env, live, connection, from, (request, shape))?);
    }
    if let Err(error) = connection.execute_batch("COMMIT") {
        let foreign = error.sqlite_error().map(|failure| failure.extended_code)
            == Some(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
        return Err(match foreign {
            true => violated(connection, &shapes),
            false => wrong(error),
        });
    }
    Ok(outcomes)
}

fn put_table(
    env: &Env,
    live: &Path,
    connection: &Connection,
    from: &Probe,
    (request, shape): (&PutRequest<'_>, &Shape),
) -> Result<PutOutcome> {
    let wrong = |error| writing(live, error);
    let mut finder = Finder::new(connection, shape).map_err(wrong)?;
    let mut insert = connection.prepare(&shape.insert()).map_err(wrong)?;
    let mut update = match request.overwrite && !shape.rest.is_empty() {
        true => Some(connection.prepare(&shape.update()).map_err(wrong)?),
        false => None,
    };
    let mut outcome = PutOutcome::default();
    each_row(env, from, shape, request, &mut |row| {
        let refused = |error| not_taken(shape, &row, error);
        match finder.find(&row).map_err(wrong)? {
            Found::Same => {}
            Found::Missing => match insert.execute(params_from_iter(row.iter().map(Bound))) {
                Ok(_) => outcome.inserted += 1,
                // An index of some rows or of an expression has something equal.
                Err(error) if is_unique(&error) => outcome.left += 1,
                Err(error) => return Err(refused(error)),
            },
            Found::Other { has_key: true, .. } if update.is_some() => {
                let Some(update) = &mut update else { return Ok(()) };
                match update.execute(params_from_iter(row.iter().map(Bound))) {
                    Ok(_) => outcome.overwritten += 1,
                    Err(error) if is_unique(&error) => outcome.left += 1,
                    Err(error) => return Err(refused(error)),
                }
            }
            Found::Other { .. } => outcome.left += 1,
        }
        Ok(())
    })?;
    Ok(outcome)
}

/// The connection that writes.
struct Writer {
    // Declared, and so dropped, before the announcement.
    connection: Connection,
    _announced: Announced,
}

impl Writer {
    fn open(live: &Path) -> Result<Writer> {
        let wrong = |error| writing(live, error);
        let identity =
            Identity::of_path(live).map_err(|error| crate::snapshot::missing(live, error))?;
        let announced = held::announce(identity);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(live, flags).map_err(wrong)?;
        connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS)).map_err(wrong)?;
        connection.execute_batch("PRAGMA foreign_keys = ON").map_err(wrong)?;
        Ok(Writer { connection, _announced: announced })
    }
}

/// How the rows of one table are found and put in.
struct Shape {
    /// The live table.
    table: Table,
    /// The same in the other database.
    from: Table,
    /// The columns of its key; one, the name of its rowid, where it has no other.
    key: Vec<String>,
    /// The other columns that both have.
    rest: Vec<String>,
    uniques: Vec<Unique>,
    triggers: Vec<String>,
    notes: Vec<String>,
}

impl Shape {
    fn of(live: &Probe, from: &Probe, request: &PutRequest<'_>) -> Result<Shape> {
        let table_of = |probe: &Probe| -> Result<Table> {
            let all = tables(probe.connection()).map_err(|error| failed(probe.path(), error))?;
            let table = all.into_iter().find(|it| it.name.eq_ignore_ascii_case(request.table));
            let place = probe.path().display();
            table.ok_or_else(|| {
                let message = format!("{place} has no table `{}`", request.table);
                Error::new(Kind::Usage, message).hint("lifeboat diff shows the tables of both")
            })
        };
        let (table, other) = (table_of(live)?, table_of(from)?);
        if table.is_virtual || other.is_virtual {
            let message =
                format!("{} is a virtual table, which has no rows of its own", table.name);
            return Err(Error::new(Kind::Refused, message).hint(
                "put the rows back that it is made of, then build it anew: \
                 INSERT INTO t(t) VALUES('rebuild') for FTS5",
            ));
        }
        let connection = live.connection();
        let asked = uniques(connection, &table.name)
            .and_then(|uniques| Ok((uniques, triggers(connection, &table.name)?)));
        let (uniques, triggers) = asked.map_err(|error| failed(live.path(), error))?;
        let has_key = !table.primary_key.is_empty() && table.has_key_of(&other);
        let mut notes = Vec::new();
        let key = match (has_key, table.rowid, other.rowid) {
            (true, ..) => table.primary_key.clone(),
            (false, Some(rowid), Some(_)) => {
                notes.push(
                    "no key of its own: rows are told apart by rowid, which a VACUUM may \
                            have changed"
                        .to_owned(),
                );
                vec![rowid.to_owned()]
            }
            _ => {
                let message = format!("the key of {} is another one there", table.name);
                return Err(Error::new(Kind::Refused, message)
                    .hint("nothing says which rows belong together"));
            }
        };
        let is_key = |name: &str| key.iter().any(|key| key.eq_ignore_ascii_case(name));
        let (both, gone): (Vec<String>, Vec<String>) = other
            .columns
            .iter()
            .map(|column| column.name.clone())
            .filter(|name| !is_key(name))
            .partition(|name| table.column(name).is_some());
        if !gone.is_empty() {
            notes.push(format!("not put back, as the table has them no more: {}", gone.join(", ")));
        }
        let new = table.columns.iter().map(|column| column.name.as_str());
        let new: Vec<&str> =
            new.filter(|name| !is_key(name) && other.column(name).is_none()).collect();
        if !new.is_empty() {
            notes.push(format!("filled with their defaults: {}", new.join(", ")));
        }
        Ok(Shape { table, from: other, key, rest: both, uniques, triggers, notes })
    }

    fn is_by_rowid(&self) -> bool {
        self.table.primary_key.is_empty() || !self.table.has_key_of(&self.from)
    }

    /// The query for the rows that are wanted.
    fn select(&self, filter: Option<&str>) -> String {
        let own = |name: &String| match self.is_by_rowid() && *name == self.key[0] {
            true => self.from.rowid.unwrap_or("rowid").to_owned(),
            false => quoted(name),
        };
        let columns: Vec<String> = self.key.iter().chain(&self.rest).map(own).collect();
        let filter = filter.map(|filter| format!(" WHERE ({filter}\n)")).unwrap_or_default();
        format!("SELECT {} FROM {}{filter}", columns.join(", "), quoted(&self.from.name))
    }

    fn key_is(&self, first: usize) -> String {
        let parts = self.key.iter().enumerate();
        // `IS` finds a key with NULL in it, which SQLite allows.
        let parts = parts.map(|(index, key)| format!("{} IS ?{}", self.own(key), first + index));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    fn own(&self, name: &str) -> String {
        match self.is_by_rowid() && name == self.key[0] {
            true => name.to_owned(),
            false => quoted(name),
        }
    }

    /// `OR ABORT`, so that no clause of the table replaces a row in silence.
    fn insert(&self) -> String {
        let columns: Vec<String> =
            self.key.iter().chain(&self.rest).map(|name| self.own(name)).collect();
        let marks: Vec<String> = (1..=columns.len()).map(|index| format!("?{index}")).collect();
        let table = quoted(&self.table.name);
        let (columns, marks) = (columns.join(", "), marks.join(", "));
        format!("INSERT OR ABORT INTO {table} ({columns}) VALUES ({marks})")
    }

    fn update(&self) -> String {
        let sets: Vec<String> = self
            .rest
            .iter()
            .enumerate()
            .map(|(index, name)| format!("{} = ?{}", quoted(name), self.key.len() + 1 + index))
            .collect();
        let table = quoted(&self.table.name);
        format!("UPDATE OR ABORT {table} SET {} WHERE {}", sets.join(", "), self.key_is(1))
    }
}

/// The triggers that an insert or an update may run. What their statements do is not read: one too
/// many is no harm.
fn triggers(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = lower(?1)
         AND (sql LIKE '%insert%' OR sql LIKE '%update%') ORDER BY name",
    )?;
    let names = statement.query_map([table], |row| row.get(0))?;
    names.collect()
}

/// Gives each row that is wanted, its key first.
fn each_row(
    env: &Env,
    from: &Probe,
    shape: &Shape,
    request: &PutRequest<'_>,
    take: &mut dyn FnMut(Vec<Value>) -> Result<()>,
) -> Result<()> {
    let sql = shape.select(request.filter);
    let wrong = |error| failed(from.path(), error);
    let mut statement = from.connection().prepare(&sql).map_err(|error| match request.filter {
        Some(filter) => {
            let message = format!("`--where {}` cannot be asked", filter.escape_debug());
            Error::new(Kind::Usage, message)
                .caused_by(error)
                .hint("write a condition on columns of the table, as behind WHERE in a query")
        }
        None => wrong(error),
    })?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(wrong)?;
    let mut count = 0_u64;
    while let Some(row) = rows.next().map_err(wrong)? {
        count += 1;
        if count.is_multiple_of(ROWS_PER_LOOK) {
            env.proceed()?;
        }
        let values = (0..columns).map(|column| row.get_ref(column).map(value));
        take(values.collect::<rusqlite::Result<_>>().map_err(wrong)?)?;
    }
    Ok(())
}

/// What the live table has for a row.
enum Found {
    Missing,
    Same,
    Other { why: String, has_key: bool },
}

struct Finder<'a> {
    shape: &'a Shape,
    by_key: Statement<'a>,
    by_unique: Vec<(&'a Unique, Vec<usize>, Statement<'a>)>,
}

impl<'a> Finder<'a> {
    fn new(connection: &'a Connection, shape: &'a Shape) -> rusqlite::Result<Self> {
        let table = quoted(&shape.table.name);
        let rest: Vec<String> = shape.rest.iter().map(|name| quoted(name)).collect();
        let rest = if rest.is_empty() { "1".to_owned() } else { rest.join(", ") };
        let by_key = format!("SELECT {rest} FROM {table} WHERE {} LIMIT 1", shape.key_is(1));
        let columns: Vec<&String> = shape.key.iter().chain(&shape.rest).collect();
        let mut by_unique = Vec::new();
        for unique in &shape.uniques {
            let place = |name: &String| columns.iter().position(|it| it.eq_ignore_ascii_case(name));
            let places: Option<Vec<usize>> = unique.columns.iter().map(place).collect();
            let Some(places) = places else { continue };
            let parts = unique.columns.iter().enumerate();
            let parts: Vec<String> =
                parts.map(|(at, name)| format!("{} = ?{}", quoted(name), at + 1)).collect();
            let sql = format!("SELECT 1 FROM {table} WHERE {} LIMIT 1", parts.join(" AND "));
            by_unique.push((unique, places, connection.prepare(&sql)?));
        }
        Ok(Finder { shape, by_key: connection.prepare(&by_key)?, by_unique })
    }

    fn find(&mut self, row: &[Value]) -> rusqlite::Result<Found> {
        let (key, rest) = row.split_at(self.shape.key.len());
        let mut rows = self.by_key.query(params_from_iter(key.iter().map(Bound)))?;
        if let Some(there) = rows.next()? {
            let mut differing = Vec::new();
            for (index, wanted) in rest.iter().enumerate() {
                if value(there.get_ref(index)?) != *wanted {
                    differing.push(self.shape.rest[index].clone());
                }
            }
            return Ok(match differing.is_empty() {
                true => Found::Same,
                false => {
                    let why =
                        format!("the row of that key has other values in {}", differing.join(", "));
                    Found::Other { why, has_key: true }
                }
            });
        }
        drop(rows);
        for (unique, places, statement) in &mut self.by_unique {
            let values = places.iter().map(|place| Bound(&row[*place]));
            if statement.exists(params_from_iter(values))? {
                let columns = unique.columns.join(", ");
                let why = format!("another row has its {columns}, which {} forbids", unique.name);
                return Ok(Found::Other { why, has_key: false });
            }
        }
        Ok(Found::Missing)
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(text.to_vec()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// A value that is bound as what it is.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn is_unique(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{
        SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE,
    };
    let code = error.sqlite_error().map(|failure| failure.extended_code);
    [SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE]
        .iter()
        .any(|known| code == Some(*known))
}

fn not_taken(shape: &Shape, row: &[Value], error: rusqlite::Error) -> Error {
    let pairs = shape.key.iter().zip(row);
    let key: Vec<String> =
        pairs.map(|(name, value)| format!("{name}={}", value.to_sql(60))).collect();
    let message = format!(
        "{} does not take the row {}: nothing was changed",
        shape.table.name,
        key.join(" ")
    );
    Error::new(Kind::Refused, message).caused_by(error).hint("leave such rows out with --where")
}

fn writing(path: &Path, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ReadOnly) => {
            Error::new(Kind::SourceUnavailable, format!("{} cannot be written", path.display()))
                .caused_by(error)
                .hint("run as the user of its application")
        }
        _ => failed(path, error),
    }
}

/// Which rows refer to one that is missing; the transaction is rolled back when it is dropped.
fn violated(connection: &Connection, shapes: &[Shape]) -> Error {
    let mut lines = Vec::new();
    for shape in shapes {
        let sql = format!("PRAGMA foreign_key_check({})", quoted(&shape.table.name));
        let named = connection.prepare(&sql).and_then(|mut statement| {
            let rows = statement.query_map([], |row| {
                Ok((row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?))
            })?;
            rows.take(VIOLATIONS_MAX).collect::<rusqlite::Result<Vec<_>>>()
        });
        lines.extend(named.unwrap_or_default().into_iter().map(|(rowid, parent)| {
            let row = rowid.map_or("a row".to_owned(), |rowid| format!("row {rowid}"));
            format!("{row} of {} refers to one that {parent} has not", shape.table.name)
        }));
    }
    Error::new(Kind::Refused, "the rows refer to others that are missing: nothing was changed")
        .caused_by(lines.join("; "))
        .hint("put those back in the same run: name their tables with --table as well")
}
