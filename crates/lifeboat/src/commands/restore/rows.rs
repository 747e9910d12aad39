//! `lifeboat restore PLACE --rows-from X --table T`: rows that are missing go back into a live
//! database, while its application runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::diff::{PutOutcome, PutPlan, PutRequest};
use lifeboat_core::env::Env;
use lifeboat_core::names;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::Client;
use serde_json::{Map, Value, json};

use super::Args;
use super::server::make_safety_backup;
use crate::commands::diff::say::value_json;
use crate::commands::diff::side::{Database, Holder, Side};
use crate::postgres;
use crate::selection;
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;

/// So many rows of each kind are shown, and are in the result of --json.
const ROWS_SHOWN: usize = 10;
/// So much of a value is shown.
const VALUE_BYTES: usize = 60;

/// The options of putting rows back.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RowsArgs {
    /// Put rows of this one back that the live database lacks, and replace nothing: a backup, a
    /// file or what salvage made, as `lifeboat diff` takes them. With --table
    #[arg(long, value_name = "X", requires = "table", conflicts_with_all = ["all", "to", "files",
          "at", "wal", "follow"])]
    rows_from: Option<String>,
    /// With --rows-from: a condition in SQL on the rows that are wanted [default: all]
    #[arg(long, value_name = "SQL", requires = "rows_from")]
    r#where: Option<String>,
    /// With --rows-from: replace rows that have the same key and other values, too
    #[arg(long, requires = "rows_from")]
    overwrite: bool,
    /// With --rows-from, where the table has triggers: whether they run for the rows
    #[arg(long, value_enum, value_name = "WHAT", requires = "rows_from")]
    triggers: Option<TriggersWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TriggersWord {
    /// They run, as for any new row: a search index is kept up to date, and a log gets a line
    Run,
    /// They do not run: rows come back as they were, and what triggers made then comes back by
    /// itself
    Skip,
}

impl RowsArgs {
    /// Where the rows come from, if rows are wanted.
    pub(super) fn source(&self) -> Option<&str> {
        self.rows_from.as_deref()
    }
}

/// A live database.
enum Live {
    File(PathBuf),
    Server(Box<Client>, Box<postgres::Database>),
}

/// Plans, asks, does and says.
pub(super) fn run(session: &Session, args: &Args, what: &str, from: &str) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let target = selection::target_of(session, what)?;
    let (live, name) = live(what, target.as_ref())?;
    let _lock = lock(session, &env, &live, &name)?;
    let holder = Holder::default();
    let side = Side::open(session, &env, &holder, from)?;
    if let (Live::File(live), Database::Sqlite(from)) = (&live, &side.database)
        && std::fs::canonicalize(live).is_ok_and(|live| live == from.path())
    {
        return Err(Error::new(Kind::Usage, format!("{} is the live database itself", side.label))
            .hint("name a backup, a file or what salvage made with --rows-from"));
    }
    let requests = requests(args)?;
    let job = Job { env: &env, live: &live, side: &side, requests: &requests };
    let plans = job.plan()?;
    session.progress.clear();
    let todo: u64 = plans.iter().map(|plan| planned(args, plan)).sum();
    let triggers = undecided(args, &plans);
    if args.dry_run || todo == 0 {
        say_plan(session, args, (&name, &side.label), &plans)?;
        if args.dry_run
            && let Some(error) = triggers
        {
            session.printer.warning(&name, &format!("{error}: --triggers run, or --triggers skip"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(error) = triggers {
        return Err(error);
    }
    let text = plan_text(args, (&name, &side.label), &plans);
    match session.globals.yes {
        true => text.lines().for_each(|line| session.printer.detail(line)),
        false => {
            text.lines().for_each(|line| session.printer.line(line));
            let question = format!("putting rows into {}", units::one_line(&name));
            confirm(&session.surroundings, &session.printer, &question, &name)?;
        }
    }
    let kept = keep(session, &env, &live, target.as_ref(), &side.label)?;
    let outcomes = job.put().inspect_err(|_| job.forget(args, todo, &kept))?;
    job.read_back(args, &outcomes)?;
    session.progress.clear();
    let undo = match &live {
        Live::File(path) => {
            Some(format!("lifeboat undo {}", units::shell_word(&path.to_string_lossy())))
        }
        Live::Server(..) => None,
    };
    say(session, (&name, &side.label), (&plans, &outcomes), (&kept, undo.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

/// What is done, to which database.
struct Job<'a> {
    env: &'a Env,
    live: &'a Live,
    side: &'a Side,
    requests: &'a [PutRequest<'a>],
}

impl Job<'_> {
    fn plan(&self) -> Result<Vec<PutPlan>> {
        let plan = |request: &PutRequest<'_>| match (self.live, &self.side.database) {
            (Live::File(live), Database::Sqlite(from)) => {
                lifeboat_sqlite::plan_rows(self.env, live, from, request)
            }
            (Live::Server(live, _), Database::Postgres(from)) => {
                lifeboat_postgres::plan_rows(self.env, live, from, request)
            }
            _ => Err(self.two_kinds()),
        };
        self.requests.iter().map(plan).collect()
    }

    fn put(&self) -> Result<Vec<PutOutcome>> {
        match (self.live, &self.side.database) {
            (Live::File(live), Database::Sqlite(from)) => {
                lifeboat_sqlite::put_rows(self.env, live, from, self.requests)
            }
            (Live::Server(live, _), Database::Postgres(from)) => {
                lifeboat_postgres::put_rows(self.env, live, from, self.requests)
            }
            _ => Err(self.two_kinds()),
        }
    }

    /// Removes the copy that was made before, where nothing was put in after all: the transaction
    /// was rolled back, and all that was missing is missing still.
    fn forget(&self, args: &Args, todo: u64, kept: &str) {
        let is_as_before =
            |plans: Vec<PutPlan>| plans.iter().map(|plan| planned(args, plan)).sum::<u64>() == todo;
        if matches!(self.live, Live::File(_)) && self.plan().is_ok_and(is_as_before) {
            // One that stays is in nobody's way.
            let _ = std::fs::remove_file(kept);
        }
    }

    /// Asks the live database again: nothing that was wanted may be missing.
    fn read_back(&self, args: &Args, outcomes: &[PutOutcome]) -> Result<()> {
        for (plan, outcome) in self.plan()?.iter().zip(outcomes) {
            let missing = planned(args, plan);
            if missing > outcome.left {
                let message = format!("{missing} rows of {} are not there after all", plan.table);
                return Err(Error::new(Kind::CheckFailed, message)
                    .hint("did its application remove them again? lifeboat diff shows them"));
            }
        }
        Ok(())
    }

    fn two_kinds(&self) -> Error {
        let message = format!("{} is of another kind than the live database", self.side.label);
        Error::new(Kind::Usage, message).hint("name a backup of the same database")
    }
}

fn requests(args: &Args) -> Result<Vec<PutRequest<'_>>> {
    let tables = args.server.tables();
    let filter = args.rows.r#where.as_deref();
    if filter.is_some() && tables.len() > 1 {
        return Err(Error::new(Kind::Usage, "--where is for one table, and several are named")
            .hint(
                "put the rows of one table back after the other, those first that others refer \
                   to",
            ));
    }
    let request = |table| PutRequest {
        table,
        filter,
        overwrite: args.rows.overwrite,
        run_triggers: args.rows.triggers.map(|word| word == TriggersWord::Run),
        rows_max: ROWS_SHOWN,
    };
    Ok(tables.iter().map(|table| request(table.as_str())).collect())
}

fn live(what: &str, target: Option<&Target>) -> Result<(Live, String)> {
    let of_server = |database: postgres::Database, name: String| -> Result<(Live, String)> {
        Ok((Live::Server(Box::new(database.client()?), Box::new(database)), name))
    };
    if postgres::is_address(what) {
        let typed = postgres::typed(what)?;
        let configured = target.and_then(|target| target.database.as_ref());
        let database = match configured {
            Some(database) => database.as_typed(&typed),
            None => postgres::Database::at(typed),
        };
        let name = database.address().label();
        return of_server(database, name);
    }
    if let Some(target) = target {
        if let Some(database) = &target.database {
            return of_server(database.clone(), target.name.clone());
        }
        if let Some(path) = &target.path {
            return Ok((Live::File(path.clone()), target.name.clone()));
        }
    }
    let path = sources::place_of(Path::new(what))?;
    let found = lifeboat_sqlite::glance(&path).ok().flatten();
    match found {
        Some(_) => Ok((Live::File(path.clone()), sources::name_of(&path))),
        None => Err(Error::new(Kind::Usage, format!("{what} is no live database"))
            .hint("name a source of the configuration, the path of a database, or its URL")),
    }
}

/// No two runs put rows into one database at once.
fn lock(session: &Session, env: &Env, live: &Live, name: &str) -> Result<SourceLock> {
    let place = match live {
        Live::File(path) => path.to_string_lossy().into_owned(),
        Live::Server(client, _) => client.address().label(),
    };
    let lock = format!("rows-{}", names::source_name(&place));
    let busy = format!("another run that puts rows into {name}");
    SourceLock::named(env, session.folders.locks.as_deref(), &lock, name, &busy)
}

/// The rows that would be changed.
fn planned(args: &Args, plan: &PutPlan) -> u64 {
    plan.missing + if args.rows.overwrite { plan.same_key } else { 0 }
}

/// The error where triggers are there, and nobody said whether they run.
fn undecided(args: &Args, plans: &[PutPlan]) -> Option<Error> {
    let found = plans.iter().find(|plan| !plan.triggers.is_empty() && planned(args, plan) > 0);
    let plan = found.filter(|_| args.rows.triggers.is_none())?;
    let names = plan.triggers.join(", ");
    let message = format!("{} has the triggers {names}: nothing was changed", plan.table);
    Some(Error::new(Kind::Refused, message).hint(
        "say --triggers run where they keep something like a search index up to date; say \
         --triggers skip where what they made is there still, or comes back by itself",
    ))
}

/// What the database was before: a copy beside the file, or a backup of the server's.
fn keep(
    session: &Session,
    env: &Env,
    live: &Live,
    target: Option<&Target>,
    from: &str,
) -> Result<String> {
    match live {
        Live::File(path) => {
            let copy = lifeboat_sqlite::copy_aside(env, path)?;
            Ok(copy.to_string_lossy().into_owned())
        }
        Live::Server(client, database) => {
            let name = client.address().database().unwrap_or_default();
            let what = format!("rows of {from}");
            make_safety_backup(session, env, database, target, (name, &what))
        }
    }
}

fn plan_text(args: &Args, (name, from): (&str, &str), plans: &[PutPlan]) -> String {
    let mut text = format!("plan for {}, with rows of {from}:\n", units::one_line(name));
    for plan in plans {
        let table = units::one_line(&plan.table);
        let mut line = |words: &str| text.push_str(&format!("  {table}: {words}\n"));
        line(&format!("{} rows are missing and are put in", units::count(plan.missing)));
        if plan.same > 0 {
            line(&format!("{} rows are there as they were", units::count(plan.same)));
        }
        if plan.conflicts > 0 {
            let others = units::count(plan.conflicts);
            line(&match args.rows.overwrite {
                false => format!("{others} rows are in the way of others, and are left alone"),
                true => format!(
                    "{others} rows are in the way of others: {} have the same key and are replaced",
                    units::count(plan.same_key)
                ),
            });
        }
        for note in &plan.notes {
            line(note);
        }
        if !plan.triggers.is_empty() {
            let names = plan.triggers.join(", ");
            line(&match args.rows.triggers {
                Some(TriggersWord::Run) => format!("the triggers {names} run"),
                Some(TriggersWord::Skip) => format!("the triggers {names} do not run"),
                None => format!("has the triggers {names}"),
            });
        }
        for row in &plan.missing_rows {
            let pairs = plan.columns.iter().zip(row);
            let pairs: Vec<String> = pairs
                .map(|(name, value)| format!("{name}={}", value.to_sql(VALUE_BYTES)))
                .collect();
            text.push_str(&format!("    + {}\n", units::one_line(&pairs.join(" "))));
        }
        for conflict in &plan.conflict_rows {
            let pairs = plan.key.iter().zip(&conflict.key);
            let key: Vec<String> = pairs
                .map(|(name, value)| format!("{name}={}", value.to_sql(VALUE_BYTES)))
                .collect();
            let line = format!("    ! {}: {}", key.join(" "), conflict.why);
            text.push_str(&format!("{}\n", units::one_line(&line)));
        }
    }
    text
}

fn say_plan(
    session: &Session,
    args: &Args,
    (name, from): (&str, &str),
    plans: &[PutPlan],
) -> Result<()> {
    if !session.printer.json() {
        return session.printer.data(&plan_text(args, (name, from), plans));
    }
    let outcome = if args.dry_run { "planned" } else { "nothing_missing" };
    let tables: Vec<Value> = plans.iter().map(plan_json).collect();
    session.printer.json_data(
        &json!({ "outcome": outcome, "place": name, "rows_from": from, "tables": tables }),
    )
}

fn plan_json(plan: &PutPlan) -> Value {
    let object = |names: &[String], values: &[lifeboat_core::diff::Value]| -> Map<String, Value> {
        let pairs = names.iter().zip(values);
        pairs.map(|(name, value)| (name.clone(), value_json(value))).collect()
    };
    json!({
        "table": plan.table,
        "missing": plan.missing,
        "same": plan.same,
        "conflicts": plan.conflicts,
        "same_key": plan.same_key,
        "missing_rows": plan.missing_rows.iter()
            .map(|row| object(&plan.columns, row)).collect::<Vec<_>>(),
        "conflict_rows": plan.conflict_rows.iter()
            .map(|it| json!({ "key": object(&plan.key, &it.key), "why": it.why }))
            .collect::<Vec<_>>(),
        "triggers": plan.triggers,
        "notes": plan.notes,
    })
}

fn say(
    session: &Session,
    (name, from): (&str, &str),
    (plans, outcomes): (&[PutPlan], &[PutOutcome]),
    (kept, undo): (&str, Option<&str>),
) -> Result<()> {
    let pairs = || plans.iter().zip(outcomes);
    if session.printer.json() {
        let tables: Vec<Value> = pairs()
            .map(|(plan, outcome)| {
                let mut value = plan_json(plan);
                value["inserted"] = outcome.inserted.into();
                value["overwritten"] = outcome.overwritten.into();
                value["left"] = outcome.left.into();
                value
            })
            .collect();
        return session.printer.json_data(&json!({
            "outcome": "restored",
            "place": name,
            "rows_from": from,
            "tables": tables,
            "kept_aside": kept,
            "undo": undo,
        }));
    }
    let good = session.printer.paint_err(Style::Good, "restored");
    let mut text = format!("{good} rows of {from} to {}", units::one_line(name));
    for (plan, outcome) in pairs() {
        let parts = [
            (outcome.inserted, "put in"),
            (outcome.overwritten, "replaced"),
            (outcome.left, "left alone: another row is in the way"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, words)| *count > 0 || *words == "put in")
            .map(|(count, words)| format!("{} {words}", units::count(count)))
            .collect();
        text.push_str(&format!("\n  {}  {}", units::one_line(&plan.table), parts.join(", ")));
    }
    text.push_str(&format!("\n  before   {}", units::one_line(kept)));
    if let Some(undo) = undo {
        text.push_str(&format!("\n  undo     {undo}"));
    }
    session.printer.note(&text);
    Ok(())
}
