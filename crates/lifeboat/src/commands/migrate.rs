//! `lifeboat migrate`: from SQLite to PostgreSQL, planned before, proved after.

mod before;
mod place;
mod source;
mod switch;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_migrate::{Done, Facts, LoadOptions, Mapping, Options, Plan};
use serde_json::{Value, json};

use self::place::Place;
use self::source::Source;
use self::switch::Switch;
use self::words::{MisfitsWord, NamesWord, OrphansWord};
use crate::postgres::{self, Database};
use crate::selection;
use crate::session::{Session, TOOL};
use crate::signals;
use crate::ui::{confirm, units};

/// So many workers read and load beside each other at most.
const WORKERS_MAX: usize = 4;

/// Migrate a SQLite database to PostgreSQL, verified to the last value
///
/// Reads one moment of the database while its application goes on. First everything is read once
/// and nothing is loaded: what the values of each column really are decides its type. A value that
/// does not fit, or a row whose foreign key leads nowhere, stops it before anything is loaded, and
/// is named with its row.
///
/// Then, by default, the database is backed up, and that backup pinned. The rows are loaded into a
/// schema beside the one that is meant, with several workers; keys, indexes and checks follow;
/// every row is read back and compared; and in one transaction all of it takes its place. A failure
/// leaves the target as it was, and the next run goes on with the tables that were finished. A
/// database that is not there is made.
///
/// What has no counterpart in PostgreSQL, or none that is certain (other triggers than those that
/// set columns of the updated row, some views and checks), is listed with its text.
///
/// What is written to SQLite after the moment that is read is not there: stop what writes to it
/// before, for the minutes that it takes (a million rows in a few seconds), or run it once for
/// trial, then again with --replace when the writers are stopped. Nothing follows the database.
///
/// Instead of a live database a restore point can be migrated: SOURCE@latest, SOURCE@TIME or the
/// name of a backup, or SOURCE with --at.
///
/// Exit code 0: every row is there and was compared. 3: some rows were put aside, as asked. 20: the
/// comparison failed. 23: something does not fit, and nothing was loaded.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// The SQLite database: a file, the name of a source, or a restore point: SOURCE@latest,
    /// SOURCE@TIME, the name of a backup
    #[arg(required = true)]
    sqlite: Option<String>,
    /// The PostgreSQL database: postgresql://USER@HOST/DATABASE, or the name of a source
    #[arg(value_name = "POSTGRES-URL", required_unless_present_any = ["dry_run", "schema_only"])]
    url: Option<String>,
    /// Read everything, print what would be done and every value that does not fit, and load
    /// nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the statements of the schema, and load nothing
    #[arg(long, conflicts_with = "dry_run")]
    schema_only: bool,
    /// A file that says otherwise for types, tables or columns
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// How names are written: as they are (queries need "Quotes"), in lower case, or as they are
    /// with views in lower case beside them [default: keep]
    #[arg(long, value_name = "HOW")]
    names: Option<NamesWord>,
    /// What becomes of values that do not fit what was declared: nothing is loaded, the column gets
    /// a type that takes them all, or their rows go to the table _lifeboat_rejects [default:
    /// refuse]
    #[arg(long, value_name = "HOW")]
    misfits: Option<MisfitsWord>,
    /// What becomes of rows whose foreign keys lead nowhere: nothing is loaded, or they are, and
    /// the key is NOT VALID [default: refuse]
    #[arg(long, value_name = "HOW")]
    orphans: Option<OrphansWord>,
    /// The schema that the tables go to
    #[arg(long, value_name = "NAME", default_value = "public")]
    schema: String,
    /// Set aside what is in that schema, as NAME_before_migrate_TIME
    #[arg(long)]
    replace: bool,
    /// Make no backup of the SQLite database before
    #[arg(long)]
    no_backup: bool,
    /// Load without reading back and comparing every row
    #[arg(long)]
    no_verify: bool,
    /// Write the whole report to a file: JSON where it ends with .json, else Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Migrate the newest state at or before this time, of a backup or of the log that follows one
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    #[command(flatten)]
    switch: SwitchArgs,
}

/// What is changed when everything is there.
#[derive(Debug, clap::Args)]
struct SwitchArgs {
    /// Write the new database into this file of variables: ADMIN_DB_TYPE=postgres and
    /// ADMIN_DATABASE_URL, without a password unless one is there for the same database. The old
    /// file is kept as FILE.before_migrate.TIME
    #[arg(long, value_name = "FILE", conflicts_with = "no_verify")]
    switch_env: Option<PathBuf>,
    /// Add the new database to the configuration, with the schedule, retention and repositories of
    /// the SQLite database's source. The old file is kept as FILE.before_migrate.TIME
    #[arg(long, conflicts_with = "no_verify")]
    switch_config: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Compare a migrated database with SQLite again, row by row
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The SQLite database, or a restore point of it
    sqlite: String,
    /// The PostgreSQL database
    #[arg(value_name = "POSTGRES-URL")]
    url: String,
    /// The schema that the tables are in
    #[arg(long, value_name = "NAME", default_value = "public")]
    schema: String,
    /// Compare with the newest state at or before this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    if let Some(Subcommand::Verify(args)) = &args.command {
        return verify(session, &env, args);
    }
    let Some(sqlite) = &args.sqlite else {
        return Err(Error::new(Kind::Usage, "no database is named"));
    };
    let options = options(&args)?;
    let database = args.url.as_deref().map(|url| database(session, url)).transpose()?;
    let source = Source::open(session, &env, sqlite, args.at.as_deref())?;
    let switch = match &database {
        Some(database) => {
            let url = args.url.as_deref().filter(|url| postgres::is_address(url));
            let url = url.map_or_else(|| database.address().url(), str::to_owned);
            Switch::plan(session, &args.switch, source.path(), (database.address(), &url))?
        }
        None => Switch::default(),
    };
    let loads = !args.dry_run && !args.schema_only;
    let mut moment = source.moment(session, &env, workers(&env))?;
    let mut facts = facts(&env, &args, (&source, &moment), &switch);
    let plan = lifeboat_migrate::plan(&env, &mut moment, options)?;
    session.progress.clear();
    if args.schema_only {
        session.printer.data(&plan.sql())?;
        return plan.agreed().map(|()| ExitCode::SUCCESS);
    }
    let Some(database) = database.filter(|_| loads) else {
        let value =
            json!({ "outcome": "planned", "plan": plan.to_json(), "switch": switch.to_json() });
        print(session, &value, &format!("{}{}", plan.text(), switch.text()))?;
        save(&args, &facts, &plan, None)?;
        return plan.agreed().map(|()| ExitCode::SUCCESS);
    };
    if let Err(error) = plan.agreed() {
        save(&args, &facts, &plan, None)?;
        session.printer.data(&plan.problems_text())?;
        return Err(error);
    }
    if args.replace && !session.globals.yes {
        let question = format!("set aside what is in schema {}", args.schema);
        confirm::confirm(&session.surroundings, &session.printer, &question, &args.schema)?;
    }
    switch.lines().iter().for_each(|line| session.printer.note(line));
    let url = database.address().label();
    // The moment is held meanwhile: the backup has all of it, and what was written since.
    let backup = match args.no_backup {
        true => None,
        false if source.is_restored() => source.pin(session, &env, &url)?.map(|name| vec![name]),
        false => Some(before::back_up(session, &env, sqlite, &url)?),
    };
    let load_options =
        LoadOptions { schema: args.schema.clone(), replace: args.replace, verify: !args.no_verify };
    let place = Place::prepare(&env, &database, &args.schema)?;
    let done = lifeboat_migrate::load(&env, &mut moment, &plan, place.client(), &load_options)?;
    env.crash.pass("migrate.committed")?;
    place.finish(&env)?;
    session.progress.clear();
    facts.ended_at = shown(&env);
    facts.backups = backup.clone().unwrap_or_default();
    save(&args, &facts, &plan, Some(&done))?;
    let ended = tell(session, &plan, &done, backup.as_deref())?;
    for kept in switch.apply(session, &env)? {
        session.printer.note(&format!("switched; what it was before: {}", kept.display()));
    }
    Ok(ended)
}

/// A worker waits for the server half of its time.
fn workers(env: &Env) -> usize {
    (2 * env.threads).clamp(2, WORKERS_MAX)
}

/// The database that was named on the command line.
fn database(session: &Session, url: &str) -> Result<Database> {
    if !postgres::is_address(url) {
        let target = selection::target_of(session, url)?;
        return target.and_then(|target| target.database).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{url} is no PostgreSQL database"))
                .hint("postgresql://USER@HOST/DATABASE, or the name of a source")
        });
    }
    let address = postgres::typed(url)?;
    // A configured one may come with a password.
    let configured = match address.database() {
        Some(_) => selection::target_of(session, url)?.and_then(|target| target.database),
        None => None,
    };
    match (address.database(), configured) {
        (Some(_), Some(database)) => Ok(database.as_typed(&address)),
        (Some(_), None) => Ok(Database::at(address)),
        (None, _) => Err(Error::new(Kind::Usage, format!("{} names no database", address.label()))
            .hint("postgresql://USER@HOST/DATABASE")),
    }
}

fn options(args: &Args) -> Result<Options> {
    let mapping = match &args.mapping {
        Some(path) => Mapping::read(path)?,
        None => Mapping::default(),
    };
    Ok(Options {
        names: args.names.map(Into::into).or(mapping.names).unwrap_or_default(),
        misfits: args.misfits.map(Into::into).or(mapping.misfits).unwrap_or_default(),
        orphans: args.orphans.map(Into::into).or(mapping.orphans).unwrap_or_default(),
        mapping_path: args.mapping.clone(),
        mapping,
    })
}

fn tell(
    session: &Session,
    plan: &Plan,
    done: &Done,
    backup: Option<&[String]>,
) -> Result<ExitCode> {
    let value = json!({
        "outcome": "migrated", "backups": backup, "done": done.to_json(), "plan": plan.to_json(),
    });
    print(session, &value, &done.text())?;
    let lost = plan.untranslated() + done.refused();
    if lost > 0 && !session.printer.json() {
        let message = format!("{lost} things have no certain counterpart: --report or --dry-run");
        session.printer.warning("", &message);
    }
    if let Some(name) = &done.set_aside {
        session.printer.note(&format!("what was there is now in schema {name}"));
    }
    if done.rejected() > 0 {
        let rows = units::count(done.rejected());
        return Err(Error::new(Kind::Incomplete, format!("{rows} rows were put aside"))
            .hint("SELECT * FROM _lifeboat_rejects says which and why; nothing was switched"));
    }
    let (rows, tables) = (units::count(done.rows()), done.tables.len());
    let how = match done.verified {
        true => "read back, and the same on both sides",
        false => "not compared, as asked",
    };
    session.printer.note(&format!("{rows} rows of {tables} tables are there: {how}"));
    Ok(ExitCode::SUCCESS)
}

fn verify(session: &Session, env: &Env, args: &VerifyArgs) -> Result<ExitCode> {
    let client = database(session, &args.url)?.client()?;
    let source = Source::open(session, env, &args.sqlite, args.at.as_deref())?;
    let mut moment = source.moment(session, env, workers(env))?;
    let verified = lifeboat_migrate::verify(env, &mut moment, &client, &args.schema)?;
    session.progress.clear();
    let different = verified.different();
    let outcome = if different == 0 { "same" } else { "different" };
    print(
        session,
        &json!({ "outcome": outcome, "verified": verified.to_json() }),
        &verified.text(),
    )?;
    match different {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Error::new(Kind::CheckFailed, "a table is not the same on both sides")),
        count => Err(Error::new(
            Kind::CheckFailed,
            format!("{count} tables are not the same on both sides"),
        )),
    }
}

fn print(session: &Session, value: &Value, text: &str) -> Result<()> {
    match session.printer.json() {
        true => session.printer.json_data(value),
        false => session.printer.data(text),
    }
}

fn shown(env: &Env) -> String {
    env.clock.now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn facts(
    env: &Env,
    args: &Args,
    (source, moment): (&Source, &lifeboat_sqlite::Moment),
    switch: &Switch,
) -> Facts {
    let words = [
        args.names.map(|word| format!("--names {}", words::of(&word))),
        args.misfits.map(|word| format!("--misfits {}", words::of(&word))),
        args.orphans.map(|word| format!("--orphans {}", words::of(&word))),
        args.mapping.as_ref().map(|path| format!("--mapping {}", path.display())),
        (args.schema != "public").then(|| format!("--schema {}", args.schema)),
    ];
    Facts {
        tool: TOOL.to_owned(),
        source: source.label.clone(),
        source_bytes: source.bytes(),
        way: source.way(moment),
        read_at: shown(env),
        target: args.url.clone(),
        ended_at: shown(env),
        choices: words.into_iter().flatten().collect(),
        backups: Vec::new(),
        switches: switch.lines(),
    }
}

/// Writes the report that somebody signs.
fn save(args: &Args, facts: &Facts, plan: &Plan, done: Option<&Done>) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    let text = match path.extension().is_some_and(|extension| extension == "json") {
        true => format!("{:#}\n", plan.report_json(facts, done)),
        false => plan.markdown(facts, done),
    };
    std::fs::write(path, text)
        .map_err(|error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error))
}
