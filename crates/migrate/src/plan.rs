//! What a migration will do: every table read once, every column decided, every value that does not
//! fit found, and the statements for the server.

use std::path::PathBuf;
use std::sync::Mutex;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::{Moment, MomentReader};

use crate::decide::{self, Choice, Misfits};
use crate::ids::{self, IdSet};
use crate::mapping::{Mapping, Orphans};
use crate::names::{NameStyle, Names};
use crate::orphans::{self, OrphanKey};
use crate::profile::{TableProfile, profile};
use crate::read;
use crate::scan::{self, Part, rowid_name, scan, shown, unreadable};
use crate::schema::{LeftOut, Schema, Table};
use crate::statements::{self, Statements};
use crate::target::Target;

/// So many misfits of a column are kept with their rows.
const MISFITS_KEPT: usize = 1_000;
/// The server makes no table with more columns.
const COLUMNS_MAX: usize = 1_600;
/// Tables are examined in parts of so many rowids, by all readers beside each other.
const PART_ROWIDS: u64 = 100_000;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The mapping, and the file that it came from.
    pub mapping: Mapping,
    /// That file.
    pub mapping_path: Option<PathBuf>,
    /// How names are written.
    pub names: NameStyle,
    /// What becomes of values that do not fit.
    pub misfits: Misfits,
    /// What becomes of rows whose foreign keys lead nowhere.
    pub orphans: Orphans,
}

/// A plan. It holds for the moment that it was made of.
pub struct Plan {
    pub(crate) schema: Schema,
    pub(crate) names: Names,
    pub(crate) tables: Vec<TablePlan>,
    pub(crate) statements: Statements,
    pub(crate) orphans: Vec<OrphanKey>,
    pub(crate) options: Options,
    /// How long reading and deciding took.
    pub(crate) plan_ms: u64,
}

/// What becomes of one table.
pub(crate) struct TablePlan {
    pub(crate) profile: TableProfile,
    pub(crate) columns: Vec<ColumnPlan>,
    /// The column that keeps the rowid: its name on the server.
    pub(crate) rowid: Option<String>,
}

/// What becomes of one column.
pub(crate) struct ColumnPlan {
    pub(crate) choice: Choice,
    pub(crate) misfits: u64,
    /// The first of them: row, value, why.
    pub(crate) shown: Vec<(String, String, &'static str)>,
    pub(crate) policy: Misfits,
    /// Whether the server computes it.
    pub(crate) is_computed: bool,
}

impl Plan {
    /// Values that would not fit, whose policy is to refuse.
    pub fn refused(&self) -> u64 {
        self.misfits_with(|policy| policy != Misfits::Quarantine)
    }

    /// Values whose rows go to the table of rejects.
    pub fn quarantined(&self) -> u64 {
        self.misfits_with(|policy| policy == Misfits::Quarantine)
    }

    fn misfits_with(&self, of: impl Fn(Misfits) -> bool) -> u64 {
        let columns = self.tables.iter().flat_map(|table| &table.columns);
        columns.filter(|column| of(column.policy)).map(|column| column.misfits).sum()
    }

    /// Rows whose foreign keys lead nowhere.
    pub fn orphaned(&self) -> u64 {
        self.orphans.iter().map(|key| key.count).sum()
    }

    /// What has no counterpart, or none that is certain.
    pub fn untranslated(&self) -> usize {
        self.statements.untranslated.len()
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.profile.digest.rows).sum()
    }

    /// The statements of the whole schema, for review.
    pub fn sql(&self) -> String {
        self.statements.script()
    }

    /// Fails where something would be lost that nobody agreed to.
    pub fn agreed(&self) -> Result<()> {
        let columns = |table: &&TablePlan| table.columns.len() + usize::from(table.rowid.is_some());
        if let Some(place) = self.tables.iter().position(|table| columns(&table) > COLUMNS_MAX) {
            let (name, count) = (&self.schema.tables[place].name, columns(&&self.tables[place]));
            return Err(Error::new(
                Kind::Refused,
                format!("table {name} has {count} columns, and the server takes {COLUMNS_MAX}"),
            )
            .hint("split it in two, or leave it out in a --mapping: skip = true"));
        }
        let refused = self.refused();
        if refused > 0 {
            return Err(Error::new(
                Kind::Refused,
                format!("{refused} values do not fit the types of their columns"),
            )
            .hint(
                "mend them in the database, or choose: --misfits widen (types that take them \
                 all), --misfits quarantine (their rows go to _lifeboat_rejects), or types in a \
                 --mapping; --dry-run shows them",
            ));
        }
        let orphaned = self.orphaned();
        if orphaned > 0 && self.options.orphans == Orphans::Refuse {
            return Err(Error::new(
                Kind::Refused,
                format!("{orphaned} rows have foreign keys that lead nowhere"),
            )
            .hint(
                "delete or mend them (sqlite3 DATABASE 'PRAGMA foreign_key_check'), or load them \
                 with the keys NOT VALID: --orphans not-valid",
            ));
        }
        Ok(())
    }
}

/// Makes a plan. Reads everything once; tables beside each other, as many as there are readers.
pub fn plan(env: &Env, moment: &mut Moment, options: Options) -> Result<Plan> {
    let begun_ms = env.clock.monotonic_ms();
    let mut schema = read::read(moment.reader()).map_err(|error| {
        Error::new(Kind::SourceUnavailable, "cannot read the schema").caused_by(error)
    })?;
    if let Some(path) = &options.mapping_path {
        options.mapping.check(&schema, path)?;
    }
    leave_out(&mut schema, &options.mapping);
    let names = Names::of(&schema, &options.mapping, options.names)?;
    let phase = "examining";
    env.tell(Event::PhaseBegan { subject: "the database", phase, bytes_total: None });
    let ids = ids::read_all(env, moment.reader(), &schema)?;
    let profiles = profiles(env, moment, &schema, &ids)?;
    let order = largest_first(&profiles);
    let tables = on_all(moment.readers_mut(), &order, |reader, place| {
        let profile = profiles[*place].clone();
        plan_table(env, reader, (&schema.tables[*place], profile), &options)
    })?;
    let mut tables: Vec<(usize, TablePlan)> = order.iter().copied().zip(tables).collect();
    tables.sort_by_key(|(place, _)| *place);
    let mut tables: Vec<TablePlan> = tables.into_iter().map(|(_, table)| table).collect();
    follow_keys(&schema, &mut tables);
    let orphans = orphans::find(moment.reader(), &schema, |place, key| {
        let table = &schema.tables[place];
        let of_columns = ids::of_columns(&schema, &ids, table);
        let column = key.from.first().and_then(|name| table.column(name));
        let met = |column: usize| tables[place].profile.columns[column].unknown_ids == 0;
        column.is_some_and(|column| of_columns[column].is_some() && met(column))
    })?;
    drop(ids);
    let statements = statements::write(&schema, &names, &mut tables, &orphans, &options);
    env.tell(Event::PhaseEnded { phase });
    let plan_ms = env.elapsed_ms(begun_ms);
    Ok(Plan { schema, names, tables, statements, orphans, options, plan_ms })
}

fn leave_out(schema: &mut Schema, mapping: &Mapping) {
    let (skipped, kept) = std::mem::take(&mut schema.tables)
        .into_iter()
        .partition::<Vec<Table>, _>(|table| mapping.skips(&table.name));
    schema.tables = kept;
    schema.left_out.extend(skipped.into_iter().map(|table| LeftOut {
        what: format!("table {}", table.name),
        why: "the mapping leaves it out".into(),
        sql: String::new(),
    }));
}

/// A column of integers that refers to a key of texts becomes texts: SQLite compares it so, and
/// PostgreSQL makes no foreign key of two kinds.
fn follow_keys(schema: &Schema, tables: &mut [TablePlan]) {
    for (place, child) in schema.tables.iter().enumerate() {
        for key in &child.foreign_keys {
            let named = |table: &Table| table.name.eq_ignore_ascii_case(&key.table);
            let Some(parent) = schema.tables.iter().position(named) else { continue };
            let of_parent = &schema.tables[parent];
            let to: Vec<usize> = match key.to.is_empty() {
                true => of_parent.primary_key.clone(),
                false => key.to.iter().filter_map(|name| of_parent.column(name)).collect(),
            };
            for (from, to) in key.from.iter().zip(to) {
                let target = tables[parent].columns[to].choice.target;
                let Some(from) = child.column(from) else { continue };
                let seen = &tables[place].profile.columns[from];
                let only_integers = seen.integers == seen.values();
                let choice = &mut tables[place].columns[from].choice;
                if target == Target::Text && choice.target == Target::BigInt && only_integers {
                    choice.target = target;
                    choice.loose = true;
                    choice.why = format!("texts, as the key of {} is", of_parent.name);
                }
            }
        }
    }
}

/// What is in the tables: all parts of them, beside each other.
fn profiles(
    env: &Env,
    moment: &mut Moment,
    schema: &Schema,
    ids: &[Option<IdSet>],
) -> Result<Vec<TableProfile>> {
    let tables = schema.tables.iter().enumerate();
    let parts: Vec<(usize, Part)> = tables
        .flat_map(|(place, table)| {
            let parts = scan::parts(moment.reader(), table, PART_ROWIDS);
            parts.into_iter().map(move |part| (place, part))
        })
        .collect();
    let of_columns: Vec<Vec<Option<&IdSet>>> =
        schema.tables.iter().map(|table| ids::of_columns(schema, ids, table)).collect();
    let seen = on_all(moment.readers_mut(), &parts, |reader, (place, part)| {
        profile(env, reader, &schema.tables[*place], *part, &of_columns[*place])
    })?;
    let mut profiles: Vec<Option<TableProfile>> = vec![None; schema.tables.len()];
    for ((place, _), part) in parts.iter().zip(seen) {
        match &mut profiles[*place] {
            Some(profile) => profile.merge(&part),
            none => *none = Some(part),
        }
    }
    Ok(profiles.into_iter().map(Option::unwrap_or_default).collect())
}

/// The tables in the order in which they are taken.
fn largest_first(profiles: &[TableProfile]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..profiles.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse(profiles[*place].digest.rows));
    order
}

/// Does the same with each item, on as many threads as there are readers. The first error ends it.
pub(crate) fn on_all<T: Sync, R: Send>(
    readers: &mut [MomentReader],
    items: &[T],
    work: impl Fn(&MomentReader, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = Mutex::new(0);
    let take = || {
        let mut next = next.lock().ok()?;
        let place = *next;
        *next += 1;
        items.get(place).map(|item| (place, item))
    };
    let stop = || {
        if let Ok(mut next) = next.lock() {
            *next = items.len();
        }
    };
    let some = |reader: &MomentReader| {
        let mut done = Vec::new();
        while let Some((place, item)) = take() {
            match work(reader, item) {
                Ok(result) => done.push((place, result)),
                Err(error) => {
                    stop();
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let ended: Vec<Result<Vec<(usize, R)>>> = std::thread::scope(|scope| {
        let some = &some;
        let threads: Vec<_> =
            readers.iter_mut().map(|reader| scope.spawn(move || some(reader))).collect();
        let broken = |_| Err(Error::new(Kind::Failed, "a thread of the migration broke off"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(broken)).collect()
    });
    let mut done = Vec::with_capacity(items.len());
    for result in ended {
        done.extend(result?);
    }
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

fn plan_table(
    env: &Env,
    reader: &MomentReader,
    (table, profile): (&Table, TableProfile),
    options: &Options,
) -> Result<TablePlan> {
    let mapping = &options.mapping;
    let columns = table.columns.iter().zip(&profile.columns).map(|(column, seen)| {
        let policy = mapping.misfits(&table.name, &column.name).unwrap_or(options.misfits);
        let choice = match mapping.target(&table.name, &column.name, &column.declared) {
            Some(target) => decide::asked_for(target, seen, policy),
            None => decide::decide(&column.declared, seen, policy),
        };
        ColumnPlan { choice, misfits: 0, shown: Vec::new(), policy, is_computed: false }
    });
    let columns = columns.collect();
    let rowid = mapping.rowid(&table.name).map(str::to_owned);
    if rowid.is_some() && rowid_name(table).is_none() {
        return Err(Error::new(Kind::Usage, format!("table {} has no rowid", table.name))
            .hint("take `rowid` out of the mapping"));
    }
    let mut plan = TablePlan { profile, columns, rowid };
    find_misfits(env, reader, table, &mut plan)?;
    Ok(plan)
}

/// Looks at the rows again where a column may have values that do not fit.
fn find_misfits(
    env: &Env,
    reader: &MomentReader,
    table: &Table,
    plan: &mut TablePlan,
) -> Result<()> {
    if !plan.columns.iter().any(|column| column.choice.may_misfit) {
        return Ok(());
    }
    scan(env, reader, table, |row| {
        for (place, column) in plan.columns.iter_mut().enumerate() {
            let Choice { target, loose, may_misfit: true, .. } = column.choice else { continue };
            let value = row.value(place)?;
            if let Err(why) = target.convert(value, loose) {
                column.misfits += 1;
                if column.shown.len() < MISFITS_KEPT {
                    column.shown.push((row.name(), shown(value), why));
                }
            }
        }
        Ok(())
    })
}

/// The error for a table that cannot be read.
pub(crate) fn of_sqlite(table: &Table) -> impl Fn(rusqlite::Error) -> Error + '_ {
    move |error| unreadable(table, error)
}
