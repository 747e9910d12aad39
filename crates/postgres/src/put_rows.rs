//! Rows of another database put back into a live one, while its applications run.
//!
//! The rows that are wanted go from one server to the other as COPY writes them, into a temporary
//! table; the server itself finds out which are missing, the same or in the way. To look at it that
//! transaction is rolled back; to do it, it goes on with one `INSERT ... ON CONFLICT DO NOTHING`
//! for each table. Sequences behind the columns are set to their highest value, never back.

use lifeboat_core::diff::{Conflict, PutOutcome, PutPlan, PutRequest, Value};
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value as Json;

use crate::client::Client;
use crate::diff::{Table, is_named, tables};
use crate::quote::{identifier, literal};
use crate::session::{Row, Session};

/// Rows between two looks whether the run must end.
const ROWS_PER_LOOK: u64 = 4_096;
/// The temporary table.
const WANTED: &str = "pg_temp.lifeboat_rows";

/// What would be done, by a look at both.
pub fn plan_rows(
    env: &Env,
    live: &Client,
    from: &Client,
    request: &PutRequest<'_>,
) -> Result<PutPlan> {
    let (mut live, mut from) = (to_write(live)?, to_read(from)?);
    let shape = Shape::of(&mut live, &mut from, request)?;
    shape.fetch(env, &mut live, &mut from, request.filter)?;
    let plan = shape.plan(&mut live, request.rows_max)?;
    live.execute("ROLLBACK")?;
    Ok(plan)
}

/// Does it, for all tables in one transaction.
pub fn put_rows(
    env: &Env,
    live: &Client,
    from: &Client,
    requests: &[PutRequest<'_>],
) -> Result<Vec<PutOutcome>> {
    let (mut live, mut from) = (to_write(live)?, to_read(from)?);
    let mut outcomes = Vec::new();
    for request in requests {
        let shape = Shape::of(&mut live, &mut from, request)?;
        shape.fetch(env, &mut live, &mut from, request.filter)?;
        outcomes.push(shape.put(&mut live, request)?);
        live.execute(&format!("DROP TABLE {WANTED}"))?;
    }
    env.proceed()?;
    live.execute("COMMIT").map_err(refused)?;
    Ok(outcomes)
}

fn to_write(client: &Client) -> Result<Session> {
    let what = format!("cannot put rows into {}", client.address().label());
    let mut session = Session::open(client, &what)?;
    session.execute("SET row_security = off; BEGIN; SET CONSTRAINTS ALL DEFERRED")?;
    Ok(session)
}

fn to_read(client: &Client) -> Result<Session> {
    let what = format!("cannot read rows of {}", client.address().label());
    let mut session = Session::open(client, &what)?;
    session.execute(
        "SET row_security = off; SET extra_float_digits = 3; SET bytea_output = hex; \
         SET IntervalStyle = postgres; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    )?;
    Ok(session)
}

fn refused(error: Error) -> Error {
    Error::new(Kind::Refused, "the server does not take the rows: nothing was changed")
        .caused_by(error)
        .hint(
            "rows that others refer to go first: name their tables before with --table; leave \
             rows out with --where",
        )
}

/// How the rows of one table are found and put in.
struct Shape {
    table: Table,
    /// All columns that both have, those of the key first.
    columns: Vec<String>,
    key: Vec<String>,
    uniques: Vec<(String, Vec<String>)>,
    triggers: Vec<(String, String)>,
    notes: Vec<String>,
}

impl Shape {
    fn of(live: &mut Session, from: &mut Session, request: &PutRequest<'_>) -> Result<Shape> {
        let (table, other) = (named(live, request.table)?, named(from, request.table)?);
        if table.key.is_empty() || table.key != other.key {
            let message = format!("{} has no primary key that both sides have", table.name());
            return Err(Error::new(Kind::Refused, message)
                .hint("nothing says which of its rows are there: copy them with psql"));
        }
        let key = table.key.clone();
        let rest = other.columns.iter().map(|column| column.name.clone());
        let (both, gone): (Vec<String>, Vec<String>) =
            rest.filter(|name| !key.contains(name)).partition(|name| table.column(name).is_some());
        let mut notes = Vec::new();
        if !gone.is_empty() {
            notes.push(format!("not put back, as the table has them no more: {}", gone.join(", ")));
        }
        let new = table.columns.iter().filter(|column| other.column(&column.name).is_none());
        let new: Vec<&str> = new.map(|column| column.name.as_str()).collect();
        if !new.is_empty() {
            notes.push(format!("filled with their defaults: {}", new.join(", ")));
        }
        let columns = key.iter().cloned().chain(both).collect();
        let (uniques, triggers) = (uniques(live, &table)?, triggers(live, &table)?);
        Ok(Shape { table, columns, key, uniques, triggers, notes })
    }

    /// Brings the rows that are wanted into the temporary table.
    fn fetch(
        &self,
        env: &Env,
        live: &mut Session,
        from: &mut Session,
        filter: Option<&str>,
    ) -> Result<()> {
        let (columns, table) = (list(&self.columns), self.table.sql_name());
        live.execute(&format!(
            "CREATE TEMPORARY TABLE lifeboat_rows ON COMMIT DROP AS \
             SELECT {columns} FROM ONLY {table} WITH NO DATA"
        ))?;
        // A condition sees the names that the database's own settings show it.
        from.execute("RESET search_path")?;
        let condition = filter.map(|filter| format!(" WHERE ({filter}\n)")).unwrap_or_default();
        let query = format!("SELECT {columns} FROM ONLY {table}{condition}");
        if let Some(filter) = filter {
            from.execute(&format!("EXPLAIN {query}")).map_err(|error| {
                let message = format!("`--where {}` cannot be asked", filter.escape_debug());
                Error::new(Kind::Usage, message)
                    .caused_by(error)
                    .hint("write a condition on columns of the table, as behind WHERE in a query")
            })?;
        }
        let target = format!("{WANTED} ({columns})");
        let mut count = 0_u64;
        live.copy_in(&target, |line| {
            from.copy_out(&query, &mut |row| {
                count += 1;
                if count.is_multiple_of(ROWS_PER_LOOK) {
                    env.proceed()?;
                }
                line(row)
            })
        })?;
        live.execute(&format!("ANALYZE {WANTED}"))
    }

    /// `w` beside the row `l` of the same key.
    fn joined(&self) -> String {
        let table = self.table.sql_name();
        format!("{WANTED} w LEFT JOIN ONLY {table} l ON {}", self.same_key())
    }

    fn same_key(&self) -> String {
        let parts = self.key.iter().map(|name| identifier(name));
        let parts: Vec<String> = parts.map(|name| format!("l.{name} = w.{name}")).collect();
        parts.join(" AND ")
    }

    /// Whether the live row has a value that differs in that column, as text: not every type knows
    /// what is equal.
    fn differs(name: &str) -> String {
        let name = identifier(name);
        format!("w.{name}::pg_catalog.text IS DISTINCT FROM l.{name}::pg_catalog.text")
    }

    /// Whether any does.
    fn any_differs(&self) -> String {
        let rest = &self.columns[self.key.len()..];
        match rest.is_empty() {
            true => "false".to_owned(),
            false => rest.iter().map(|it| Self::differs(it)).collect::<Vec<_>>().join(" OR "),
        }
    }

    /// The unique index that has the values of `w` already, or nothing.
    fn taken(&self) -> String {
        let known = |columns: &[String]| columns.iter().all(|it| self.columns.contains(it));
        let uniques = self.uniques.iter().filter(|(_, columns)| known(columns));
        let cases: Vec<String> = uniques
            .map(|(index, columns)| {
                let equal: Vec<String> = columns
                    .iter()
                    .map(|name| identifier(name))
                    .map(|name| format!("o.{name} = w.{name}"))
                    .collect();
                format!(
                    "WHEN EXISTS (SELECT 1 FROM ONLY {} o WHERE {}) THEN {}",
                    self.table.sql_name(),
                    equal.join(" AND "),
                    literal(index)
                )
            })
            .collect();
        match cases.is_empty() {
            true => "NULL::pg_catalog.text".to_owned(),
            false => format!("CASE {} END", cases.join(" ")),
        }
    }

    fn plan(&self, live: &mut Session, rows_max: usize) -> Result<PutPlan> {
        let first = identifier(&self.key[0]);
        let (joined, differs, taken) = (self.joined(), self.any_differs(), self.taken());
        let counted = live.row(&format!(
            "SELECT count(*) FILTER (WHERE l.{first} IS NULL AND taken IS NULL) AS missing, \
             count(*) FILTER (WHERE l.{first} IS NULL AND taken IS NOT NULL) AS taken, \
             count(*) FILTER (WHERE l.{first} IS NOT NULL AND ({differs})) AS other, \
             count(*) FILTER (WHERE l.{first} IS NOT NULL AND NOT ({differs})) AS same \
             FROM {joined} CROSS JOIN LATERAL (SELECT {taken} AS taken) u"
        ))?;
        let count = |name: &str| counted.get(name).and_then(Json::as_u64).unwrap_or_default();
        let texts = |columns: &[String]| -> String {
            let parts =
                columns.iter().map(|name| format!("w.{}::pg_catalog.text", identifier(name)));
            format!("ARRAY[{}]", parts.collect::<Vec<_>>().join(", "))
        };
        let missing = live.rows(&format!(
            "SELECT pg_catalog.to_json({}) AS values FROM {joined} \
             CROSS JOIN LATERAL (SELECT {taken} AS taken) u \
             WHERE l.{first} IS NULL AND taken IS NULL LIMIT {rows_max}",
            texts(&self.columns)
        ))?;
        let names: Vec<String> = self.columns[self.key.len()..]
            .iter()
            .map(|name| format!("CASE WHEN {} THEN {} END", Self::differs(name), literal(name)))
            .collect();
        let names = match names.is_empty() {
            true => "''".to_owned(),
            false => format!("pg_catalog.concat_ws(', ', {})", names.join(", ")),
        };
        let in_the_way = live.rows(&format!(
            "SELECT pg_catalog.to_json({}) AS values, taken, {names} AS names FROM {joined} \
             CROSS JOIN LATERAL (SELECT CASE WHEN l.{first} IS NULL THEN {taken} END AS taken) u \
             WHERE taken IS NOT NULL OR l.{first} IS NOT NULL AND ({differs}) LIMIT {rows_max}",
            texts(&self.key)
        ))?;
        Ok(PutPlan {
            table: self.table.name(),
            key: self.key.clone(),
            columns: self.columns.clone(),
            missing: count("missing"),
            missing_rows: missing.iter().map(values).collect(),
            same: count("same"),
            conflicts: count("other") + count("taken"),
            same_key: count("other"),
            conflict_rows: in_the_way.iter().map(conflict).collect(),
            triggers: self.triggers.iter().map(|(name, _)| name.clone()).collect(),
            notes: self.notes.clone(),
        })
    }

    fn put(&self, live: &mut Session, request: &PutRequest<'_>) -> Result<PutOutcome> {
        let table = self.table.sql_name();
        let switch = |live: &mut Session, word: &dyn Fn(&str) -> &'static str| {
            for (name, state) in &self.triggers {
                let (word, name) = (word(state), identifier(name));
                live.execute(&format!("ALTER TABLE {table} {word} TRIGGER {name}"))?;
            }
            Ok(())
        };
        let is_off = request.run_triggers != Some(true);
        if is_off {
            switch(live, &|_| "DISABLE")?;
        }
        let wanted = self.count(live, WANTED)?;
        let joined = format!("{WANTED} w JOIN ONLY {table} l ON {}", self.same_key());
        let same = self.count(live, &format!("{joined} WHERE NOT ({})", self.any_differs()))?;
        let overwritten = match request.overwrite {
            true => self.overwrite(live)?,
            false => 0,
        };
        let columns = list(&self.columns);
        let inserted = live
            .changed(&format!(
                "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE \
                 SELECT {columns} FROM {WANTED} ON CONFLICT DO NOTHING"
            ))
            .map_err(refused)?;
        self.set_sequences(live)?;
        if is_off {
            // What waits for the end of a transaction would wait for a trigger that is switched.
            live.execute("SET CONSTRAINTS ALL IMMEDIATE").map_err(refused)?;
            switch(live, &|state| match state {
                "A" => "ENABLE ALWAYS",
                "R" => "ENABLE REPLICA",
                _ => "ENABLE",
            })?;
            live.execute("SET CONSTRAINTS ALL DEFERRED")?;
        }
        let left = wanted.saturating_sub(same + overwritten + inserted);
        Ok(PutOutcome { inserted, overwritten, left })
    }

    fn overwrite(&self, live: &mut Session) -> Result<u64> {
        let rest = &self.columns[self.key.len()..];
        let always = |name: &&String| self.table.column(name).is_some_and(|it| !it.is_always);
        let sets: Vec<String> = rest
            .iter()
            .filter(always)
            .map(|name| identifier(name))
            .map(|name| format!("{name} = w.{name}"))
            .collect();
        if sets.is_empty() {
            return Ok(0);
        }
        let (table, differs) = (self.table.sql_name(), self.any_differs());
        let sql = format!(
            "UPDATE ONLY {table} l SET {} FROM {WANTED} w WHERE {} AND ({differs})",
            sets.join(", "),
            self.same_key()
        );
        live.changed(&sql).map_err(refused)
    }

    fn count(&self, live: &mut Session, of: &str) -> Result<u64> {
        let row = live.row(&format!("SELECT count(*) AS rows FROM {of}"))?;
        Ok(row.get("rows").and_then(Json::as_u64).unwrap_or_default())
    }

    /// A sequence that is behind the highest value of its column would give it again.
    fn set_sequences(&self, live: &mut Session) -> Result<()> {
        for column in &self.table.columns {
            let Some(sequence) = &column.sequence else { continue };
            let (name, table) = (identifier(&column.name), self.table.sql_name());
            live.execute(&format!(
                "SELECT pg_catalog.setval({}, highest) FROM \
                 (SELECT max({name}) AS highest FROM {table}) m, {sequence} s \
                 WHERE highest > s.last_value OR highest = s.last_value AND NOT s.is_called",
                literal(sequence)
            ))?;
        }
        Ok(())
    }
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ")
}

fn named(session: &mut Session, typed: &str) -> Result<Table> {
    let all = tables(session)?;
    let mut found = all.into_iter().filter(|(name, _)| is_named(name, typed));
    match (found.next(), found.next()) {
        (Some((_, table)), None) => Ok(table),
        (None, _) => Err(Error::new(Kind::Usage, format!("there is no table `{typed}`"))
            .hint("lifeboat diff shows the tables of both")),
        (Some(_), Some(_)) => {
            Err(Error::new(Kind::Usage, format!("several schemas have a table `{typed}`"))
                .hint("write SCHEMA.TABLE"))
        }
    }
}

/// The indexes that forbid equal rows, but for the primary key, and for those of some rows or of
/// expressions: these two decide when the rows are put in.
fn uniques(live: &mut Session, table: &Table) -> Result<Vec<(String, Vec<String>)>> {
    let rows = live.rows(&format!(
        "SELECT c.relname AS name, (SELECT pg_catalog.json_agg(a.attname) \
         FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(attnum, place), \
         pg_catalog.pg_attribute a WHERE k.place <= i.indnkeyatts \
         AND a.attrelid = i.indrelid AND a.attnum = k.attnum) AS columns \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         WHERE i.indrelid = {}::pg_catalog.regclass AND i.indisunique AND NOT i.indisprimary \
         AND i.indpred IS NULL AND i.indexprs IS NULL",
        literal(&table.sql_name())
    ))?;
    let unique = |row: &Row| {
        let columns = row.get("columns")?.as_array()?;
        let columns = columns.iter().filter_map(Json::as_str).map(str::to_owned).collect();
        Some((row.get("name")?.as_str()?.to_owned(), columns))
    };
    Ok(rows.iter().filter_map(unique).collect())
}

/// The triggers that run, with how they are enabled.
fn triggers(live: &mut Session, table: &Table) -> Result<Vec<(String, String)>> {
    let rows = live.rows(&format!(
        "SELECT tgname AS name, tgenabled::pg_catalog.text AS state FROM pg_catalog.pg_trigger \
         WHERE tgrelid = {}::pg_catalog.regclass AND NOT tgisinternal AND tgenabled <> 'D' \
         ORDER BY 1",
        literal(&table.sql_name())
    ))?;
    let text = |row: &Row, name: &str| Some(row.get(name)?.as_str()?.to_owned());
    Ok(rows.iter().filter_map(|row| Some((text(row, "name")?, text(row, "state")?))).collect())
}

fn values(row: &Row) -> Vec<Value> {
    let values = row.get("values").and_then(Json::as_array).cloned().unwrap_or_default();
    let value = |value: &Json| match value.as_str() {
        Some(text) => Value::Text(text.as_bytes().to_vec()),
        None => Value::Null,
    };
    values.iter().map(value).collect()
}

fn conflict(row: &Row) -> Conflict {
    let text = |name: &str| row.get(name).and_then(Json::as_str);
    let why = match text("taken") {
        Some(index) => format!("another row has its values, which {index} forbids"),
        None => {
            let names = text("names").unwrap_or_default();
            format!("the row of that key has other values in {names}")
        }
    };
    Conflict { key: values(row), why }
}
