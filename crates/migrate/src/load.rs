//! Loads what was planned: tables beside each other into a schema of its own, their keys, indexes
//! and checks, a comparison of every row, foreign keys, and at the end, in one transaction, the
//! views and the place that everything takes.
//!
//! What was loaded and proved stays when a run ends too soon: the next one takes each table over
//! whose rows in SQLite are still the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{Client, identifier, literal};
use lifeboat_sqlite::{Moment, MomentReader};

use crate::binary::{self, HEAD, TAIL};
use crate::compare;
use crate::digest::{Digest, RowHash};
use crate::keys::{self, Maker};
use crate::layout::{Converted, Layout, read_rows};
use crate::names::Names;
use crate::plan::{Plan, on_all};
use crate::rejects::Rejects;
use crate::report::{Done, TableDone, Times};
use crate::schema::{LeftOut, Schema};
use crate::server::{RECORD, REJECTS, Server};
use crate::statements::{self, Step};
use crate::swap;
use crate::target::Value;
use crate::work::{Job, Queue, StopOnPanic, Task};

/// Rows are handed on when they have so many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How it is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The schema that the tables are to be in.
    pub schema: String,
    /// Whether what is in that schema is set aside.
    pub replace: bool,
    /// Whether everything is read back and compared.
    pub verify: bool,
}

/// What a table on the server is, by the record of an earlier run.
struct Kept {
    fingerprint: String,
    rows: u64,
    digest: String,
    refused: Option<String>,
}

struct Loader<'a> {
    env: &'a Env,
    plan: &'a Plan,
    server: &'a Server<'a>,
    layouts: Vec<Layout>,
    kept: BTreeMap<String, Kept>,
    verify: bool,
    keys: Maker<'a>,
}

/// Loads a plan of that moment. The target changes at the very end, or not at all.
pub fn load(
    env: &Env,
    moment: &mut Moment,
    plan: &Plan,
    client: &Client,
    options: &LoadOptions,
) -> Result<Done> {
    plan.agreed()?;
    let server = Server::of_scratch(env, client, &options.schema)?;
    let mut control = server.open()?;
    server.prepare(&mut control)?;
    server.may_take(&mut control, options.replace)?;
    let layouts: Vec<Layout> =
        (0..plan.schema.tables.len()).map(|place| Layout::of(plan, place)).collect();
    let kept = begin(&mut control, &server, plan, &layouts)?;
    env.crash.pass("migrate.schema")?;
    let (orphans, one_at_a_time) = (plan.options.orphans, Mutex::default());
    let keys = Maker { env, server: &server, orphans, one_at_a_time };
    let verify = options.verify;
    let loader = Loader { env, plan, server: &server, layouts, kept, verify, keys };
    let (loaded, load_ms, proof_ms) = loader.all_tables(moment, &options.schema)?;
    let mut untranslated = Vec::new();
    let mut tables = Vec::with_capacity(loaded.len());
    for (place, slot) in loaded.into_iter().enumerate() {
        tables.push(TableDone {
            table: plan.schema.tables[place].name.clone(),
            name: loader.layouts[place].name.clone(),
            rows: slot.digest.rows,
            digest: slot.digest.text(),
            there: slot.there.map(|there| (there.rows, there.text())),
            rejected: slot.rejected,
            was_there: slot.was_there,
        });
        untranslated.extend(slot.refused);
    }
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    env.crash.pass("migrate.loaded")?;
    let begun_ms = env.clock.monotonic_ms();
    let set_aside = swap::finish(env, &server, &mut control, plan, options, &mut untranslated)?;
    let finish_ms = env.elapsed_ms(begun_ms);
    let times = Times { load_ms, proof_ms, finish_ms };
    let server = crate::server::only_text(&mut control, "SHOW server_version")?;
    let (refused, verified) = (untranslated, options.verify);
    Ok(Done { times, server, tables, refused, set_aside, verified })
}

/// Makes the schema and its record, or takes those of an earlier run; what of it is not the same
/// any more is dropped.
fn begin(
    control: &mut LoadingConnection,
    server: &Server<'_>,
    plan: &Plan,
    layouts: &[Layout],
) -> Result<BTreeMap<String, Kept>> {
    let scratch = server.scratch();
    let record = identifier(RECORD);
    let is_there = control.rows(&format!(
        "SELECT to_regclass({}) IS NOT NULL, to_regnamespace({}) IS NOT NULL",
        literal(&format!("{scratch}.{record}")),
        literal(&scratch)
    ))?;
    let answer =
        |place: usize| is_there.first().and_then(|row| row.get(place)?.as_deref()) == Some("t");
    if answer(1) && !answer(0) {
        let message = format!("schema {scratch} is there, and is none of ours");
        return Err(Error::new(Kind::Refused, message)
            .hint(format!("look at it, and drop it: DROP SCHEMA {scratch} CASCADE")));
    }
    if !answer(1) {
        control.execute(&format!(
            "BEGIN; CREATE SCHEMA {scratch}; CREATE TABLE {scratch}.{record} (\
             table_name text PRIMARY KEY, layout text NOT NULL, fingerprint text NOT NULL, \
             rows bigint NOT NULL, digest text NOT NULL, is_finished boolean NOT NULL, \
             refused text); COMMENT ON TABLE {scratch}.{record} IS \
             'what lifeboat migrated, for: lifeboat migrate verify'; \
             CREATE TABLE {scratch}.{} (table_name text NOT NULL, row_name text NOT NULL, \
             column_name text NOT NULL, type_of text NOT NULL, value bytea, reason text); COMMIT",
            identifier(REJECTS)
        ))?;
        return Ok(BTreeMap::new());
    }
    let rows = control.rows(&format!(
        "SELECT table_name, fingerprint, rows, digest, refused, is_finished FROM {record}"
    ))?;
    let mut kept = BTreeMap::new();
    for row in rows {
        let text = |place: usize| row.get(place).cloned().flatten();
        let Some(table) = text(0) else { continue };
        let one = Kept {
            fingerprint: text(1).unwrap_or_default(),
            rows: text(2).and_then(|rows| rows.parse().ok()).unwrap_or(0),
            digest: text(3).unwrap_or_default(),
            refused: text(4),
        };
        if text(5).as_deref() == Some("t") {
            kept.insert(table, one);
        }
    }
    kept.retain(|table, one| {
        let mut places = 0..plan.schema.tables.len();
        let place = places.find(|place| plan.schema.tables[*place].name == *table);
        place.is_some_and(|place| one.fingerprint == fingerprint(plan, place, &layouts[place]))
    });
    drop_others(control, server, plan, layouts, &kept)?;
    Ok(kept)
}

/// Drops all that an earlier run made, but for the tables that are taken over.
fn drop_others(
    control: &mut LoadingConnection,
    server: &Server<'_>,
    plan: &Plan,
    layouts: &[Layout],
    kept: &BTreeMap<String, Kept>,
) -> Result<()> {
    keys::drop_all(control, &server.scratch())?;
    let stays = |name: &str| {
        let mut layouts = layouts.iter();
        name == RECORD
            || name == REJECTS
            || layouts.any(|layout| layout.name == name && kept.contains_key(&layout.table))
    };
    let tables = control.rows(&format!(
        "SELECT relname FROM pg_catalog.pg_class WHERE relkind = 'r' \
         AND relnamespace = to_regnamespace({})",
        literal(&server.scratch())
    ))?;
    for name in tables.into_iter().flatten().flatten().filter(|name| !stays(name)) {
        control.execute(&format!("DROP TABLE {} CASCADE", identifier(&name)))?;
    }
    let others: Vec<String> = plan
        .schema
        .tables
        .iter()
        .filter(|table| kept.contains_key(&table.name))
        .map(|table| literal(&table.name))
        .collect();
    let others = if others.is_empty() { "''".to_owned() } else { others.join(", ") };
    for table in [RECORD, REJECTS] {
        let table = identifier(table);
        control.execute(&format!("DELETE FROM {table} WHERE table_name NOT IN ({others})"))?;
    }
    Ok(())
}

/// What a table was when it was loaded, and how: the same means that it need not be loaded again.
fn fingerprint(plan: &Plan, place: usize, layout: &Layout) -> String {
    let mut hash = blake3::Hasher::new();
    let statements = &plan.statements.tables[place];
    let layout = serde_json::to_string(layout).unwrap_or_default();
    let parts = [plan.tables[place].profile.digest.text(), statements.create.clone(), layout];
    let steps = statements.indexes.iter().chain(&statements.after).map(|step| step.sql.clone());
    for part in parts.into_iter().chain(steps) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

/// A table that is on the server.
#[derive(Default)]
struct Loaded {
    digest: Digest,
    /// As it was read back.
    there: Option<Digest>,
    rejected: u64,
    was_there: bool,
    /// What PostgreSQL refused of it.
    refused: Vec<LeftOut>,
}

impl Loader<'_> {
    /// All tables, their indexes and the comparison of their rows, beside each other. How long it
    /// took until all rows were there, and from then on.
    fn all_tables(&self, moment: &mut Moment, subject: &str) -> Result<(Vec<Loaded>, u64, u64)> {
        for reader in moment.readers_mut() {
            // Every page was looked at when the plan was made.
            let trust = "PRAGMA cell_size_check = OFF";
            reader.execute_batch(trust).map_err(|error| {
                Error::new(Kind::SourceUnavailable, "cannot read the database").caused_by(error)
            })?;
        }
        let begun_ms = self.env.clock.monotonic_ms();
        let phase = "loading";
        self.env.tell(Event::PhaseBegan { subject, phase, bytes_total: None });
        let jobs: Vec<Job> = (0..self.layouts.len()).map(|place| self.job(place)).collect();
        let workers = moment.readers_mut().len();
        let shares = jobs.iter().map(|job| job.steps).sum::<usize>() >= workers;
        let queue = Queue::new(jobs, &self.largest_first(), self.env.threads);
        let slots: Vec<Mutex<Loaded>> = self.layouts.iter().map(|_| Mutex::default()).collect();
        let loaded_ms = AtomicU64::new(0);
        let each: Vec<()> = moment.readers_mut().iter().map(|_| ()).collect();
        on_all(moment.readers_mut(), &each, |reader, ()| {
            let _guard = StopOnPanic(&queue);
            while let Some(task) = queue.next() {
                self.task(reader, task, &slots, shares).inspect_err(|_| queue.stop())?;
                if let Task::Load(_) = task {
                    loaded_ms.fetch_max(self.env.elapsed_ms(begun_ms), Ordering::Relaxed);
                }
                queue.done(task);
            }
            Ok(())
        })?;
        self.env.tell(Event::PhaseEnded { phase });
        let load_ms = loaded_ms.into_inner();
        let loaded = slots.into_iter().map(|slot| slot.into_inner().unwrap_or_default());
        Ok((loaded.collect(), load_ms, self.env.elapsed_ms(begun_ms) - load_ms))
    }

    /// What is to be done with a table. One of an earlier run has all but the comparison.
    fn job(&self, place: usize) -> Job {
        let is_kept = self.kept.contains_key(&self.plan.schema.tables[place].name);
        let steps = self.plan.statements.tables[place].indexes.len();
        Job {
            rows: self.plan.tables[place].profile.digest.rows,
            steps: if is_kept { 0 } else { steps },
            compares: self.verify,
            parents: self.plan.statements.tables[place].parents.clone(),
        }
    }

    fn task(
        &self,
        reader: &MomentReader,
        task: Task,
        slots: &[Mutex<Loaded>],
        shares: bool,
    ) -> Result<()> {
        let place = task.place();
        let slot = || slots[place].lock().unwrap_or_else(PoisonError::into_inner);
        let done = match task {
            Task::Load(_) => self.load_table(reader, place).map(|loaded| *slot() = loaded),
            Task::Step(_, step) => {
                let step = &self.plan.statements.tables[place].indexes[step];
                self.index(step, shares).map(|refused| slot().refused.extend(refused))
            }
            Task::Compare(_) => {
                let digest = slot().digest;
                self.compare(place, digest).map(|there| slot().there = Some(there))
            }
            Task::Close(_) => {
                let refused = std::mem::take(&mut slot().refused);
                self.close(place, refused).map(|refused| slot().refused = refused)
            }
            Task::Keys(_) => {
                let steps = &self.plan.statements.tables[place].foreign_keys;
                let made = self.keys.make(&self.layouts[place].name, steps);
                made.map(|refused| slot().refused.extend(refused))
            }
        };
        let name = || format!("table {}", self.plan.schema.tables[place].name);
        done.map_err(|error| error.context(name()))
    }

    fn largest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.layouts.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(self.plan.tables[*place].profile.digest.rows));
        order
    }

    fn load_table(&self, reader: &MomentReader, place: usize) -> Result<Loaded> {
        let (table, layout) = (&self.plan.schema.tables[place], &self.layouts[place]);
        let seen = self.plan.tables[place].profile.digest.rows;
        if let Some(kept) = self.kept.get(&table.name) {
            let sum = u128::from_str_radix(&kept.digest, 16).unwrap_or_default();
            let digest = Digest { rows: kept.rows, sum };
            let steps = kept.refused.as_deref().and_then(|text| serde_json::from_str(text).ok());
            let refused = steps.unwrap_or_default();
            let rejected = seen - kept.rows;
            return Ok(Loaded { digest, there: None, rejected, was_there: true, refused });
        }
        self.server.with(|connection| {
            connection.execute("BEGIN")?;
            connection.execute(&self.plan.statements.tables[place].create)?;
            let (digest, rejects) = self.copy(reader, place, connection)?;
            let rejected = rejects.rows();
            rejects.write(connection)?;
            if digest.rows + rejected != seen {
                let message = format!(
                    "table {} had {seen} rows and has {} now",
                    table.name,
                    digest.rows + rejected
                );
                return Err(Error::new(Kind::CheckFailed, message));
            }
            let layout_text = serde_json::to_string(layout).unwrap_or_default();
            connection.execute(&format!(
                "INSERT INTO {} VALUES ({}, {}, {}, {}, {}, false, NULL)",
                identifier(RECORD),
                literal(&table.name),
                literal(&layout_text),
                literal(&fingerprint(self.plan, place, layout)),
                digest.rows,
                literal(&digest.text())
            ))?;
            connection.execute("COMMIT")?;
            self.env.crash.pass("migrate.table")?;
            Ok(Loaded { digest, rejected, ..Loaded::default() })
        })
    }

    /// Sends the rows of a table. A row in a table that was made in the same transaction can be
    /// written as frozen.
    fn copy(
        &self,
        reader: &MomentReader,
        place: usize,
        connection: &mut LoadingConnection,
    ) -> Result<(Digest, Rejects)> {
        let (table, layout) = (&self.plan.schema.tables[place], &self.layouts[place]);
        let sent: Vec<bool> = (0..layout.width())
            .map(|at| layout.columns.get(at).is_none_or(|c| !c.computed))
            .collect();
        let targets: Vec<_> = (0..layout.width()).map(|at| layout.target(at)).collect();
        let width = sent.iter().filter(|sent| **sent).count() as u16;
        let (mut digest, mut hash) = (Digest::default(), RowHash::default());
        let mut rejects = Rejects::new(table);
        let mut rows = connection.copy_in(&format!(
            "COPY {} ({}) FROM stdin (FORMAT binary, FREEZE)",
            identifier(&layout.name),
            layout.sent()
        ))?;
        let mut piece = HEAD.to_vec();
        read_rows(self.env, reader, table, layout, |row, values, converted| {
            if let Converted::Aside(column, why) = converted {
                return rejects.take(row, column, why);
            }
            piece.extend_from_slice(&width.to_be_bytes());
            for (at, value) in values.iter().enumerate() {
                hash.value(value);
                match binary::large(value) {
                    _ if !sent[at] => {}
                    Some(bytes) => {
                        piece.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                        rows.put(&piece)?;
                        piece.clear();
                        bytes.chunks(PIECE_BYTES).try_for_each(|part| rows.put(part))?;
                    }
                    None => binary::put(targets[at], value, &mut piece),
                }
            }
            digest.add(hash.finish());
            if piece.len() >= PIECE_BYTES {
                self.env.tell(Event::Advanced { bytes: piece.len() as u64 });
                piece.chunks(PIECE_BYTES).try_for_each(|part| rows.put(part))?;
                piece.clear();
                // One large value does not keep its room for ever.
                piece.shrink_to(4 * PIECE_BYTES);
            }
            Ok(())
        })?;
        piece.extend_from_slice(TAIL);
        piece.chunks(PIECE_BYTES).try_for_each(|part| rows.put(part))?;
        let taken = rows.finish()?;
        if taken != digest.rows {
            let message = format!("{} rows were sent, and the server took {taken}", digest.rows);
            return Err(Error::new(Kind::CheckFailed, message));
        }
        Ok((digest, rejects))
    }

    /// Builds an index. Where there are as many as threads, each is built by one process: in
    /// memory, and not through files that several of them share.
    fn index(&self, step: &Step, shares: bool) -> Result<Option<LeftOut>> {
        self.env.proceed()?;
        self.server.with(|connection| {
            connection.execute("BEGIN")?;
            if shares {
                connection.execute("SET LOCAL max_parallel_maintenance_workers = 0")?;
            }
            let refused = run_step(connection, step)?;
            connection.execute("COMMIT")?;
            Ok(refused)
        })
    }

    /// What needs a table alone: keys and checks, and the note that it is finished.
    fn close(&self, place: usize, mut refused: Vec<LeftOut>) -> Result<Vec<LeftOut>> {
        let table = &self.plan.schema.tables[place];
        if self.kept.contains_key(&table.name) {
            return Ok(refused);
        }
        self.server.with(|connection| {
            connection.execute("BEGIN")?;
            for step in &self.plan.statements.tables[place].after {
                self.env.proceed()?;
                refused.extend(run_step(connection, step)?);
            }
            let name = identifier(&self.layouts[place].name);
            connection.execute(&format!("ANALYZE {name}"))?;
            let text = serde_json::to_string(&refused).unwrap_or_default();
            connection.execute(&format!(
                "UPDATE {} SET is_finished = true, refused = {} WHERE table_name = {}",
                identifier(RECORD),
                literal(&text),
                literal(&table.name)
            ))?;
            connection.execute("COMMIT")?;
            self.env.crash.pass("migrate.indexed")?;
            Ok(refused)
        })
    }

    fn compare(&self, place: usize, sent: Digest) -> Result<Digest> {
        let layout = &self.layouts[place];
        let there = self.server.with(|connection| {
            compare::digest_of_server(self.env, connection, layout, |_: &[Value<'_>], _| Ok(()))
        })?;
        if there == sent {
            return Ok(there);
        }
        let computed: Vec<&str> = layout
            .columns
            .iter()
            .filter(|column| column.computed)
            .map(|column| column.column.as_str())
            .collect();
        let message = format!(
            "{} rows with the digest {} were sent, and {} with {} are there",
            sent.rows,
            sent.text(),
            there.rows,
            there.text()
        );
        let error = Error::new(Kind::CheckFailed, message);
        Err(match computed.is_empty() {
            true => {
                error.hint("nothing was changed at the target; this is a fault of ours: tell us")
            }
            false => error.hint(format!(
                "the server computes {}: give the column another type in a mapping",
                computed.join(", ")
            )),
        })
    }
}

/// Runs a statement. One that is not required and that the server refuses is told, not fatal.
pub(crate) fn run_step(connection: &mut LoadingConnection, step: &Step) -> Result<Option<LeftOut>> {
    if step.is_required {
        let run = connection.execute(&step.sql);
        return run.map(|()| None).map_err(|error| error.context(step.what.clone()));
    }
    connection.execute("SAVEPOINT step")?;
    match connection.execute(&step.sql) {
        Ok(()) => {
            connection.execute("RELEASE SAVEPOINT step")?;
            Ok(None)
        }
        Err(error) if error.kind() == Kind::Interrupted || error.kind() == Kind::Terminated => {
            Err(error)
        }
        Err(error) => {
            connection.execute("ROLLBACK TO SAVEPOINT step")?;
            Ok(Some(LeftOut {
                what: step.what.clone(),
                why: format!("PostgreSQL refuses it: {}", error.message()),
                sql: step.original.clone(),
            }))
        }
    }
}

/// The comments that say what a table lost.
pub(crate) fn comment_statements(plan: &Plan, schema: &Schema, names: &Names) -> Vec<String> {
    statements::comments(&plan.statements, names, schema)
}
