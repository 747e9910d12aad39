//! `lifeboat migrate`: from SQLite to PostgreSQL, planned before, proved after.

mod place;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::policy::Hold;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_migrate::{Done, LoadOptions, Mapping, Options, Plan};
use lifeboat_sqlite::Moment;
use serde_json::{Value, json};

use self::place::Place;
use self::words::{MisfitsWord, NamesWord, OrphansWord};
use super::backup::{self, Choices};
use crate::postgres::{self, Database};
use crate::repositories;
use crate::runs::{self, RunArgs};
use crate::session::Session;
use crate::signals;
use crate::sources::{self, Target};
use crate::ui::{confirm, units};

/// So many workers read and load beside each other.
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
/// Exit code 0: every row is there and was compared. 3: some rows were put aside, as asked. 20: the
/// comparison failed. 23: something does not fit, and nothing was loaded.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// The SQLite database
    #[arg(required = true)]
    sqlite: Option<PathBuf>,
    /// The PostgreSQL database: postgresql://USER@HOST/DATABASE
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
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Compare a migrated database with SQLite again, row by row
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The SQLite database
    sqlite: PathBuf,
    /// The PostgreSQL database
    #[arg(value_name = "POSTGRES-URL")]
    url: String,
    /// The schema that the tables are in
    #[arg(long, value_name = "NAME", default_value = "public")]
    schema: String,
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
    let database = args.url.as_deref().map(database).transpose()?;
    let loads = !args.dry_run && !args.schema_only;
    let workers = env.threads.clamp(1, WORKERS_MAX);
    let mut moment = Moment::open(&env, sqlite, workers, &session.folders.scratch)?;
    let plan = lifeboat_migrate::plan(&env, &mut moment, options)?;
    session.progress.clear();
    if args.schema_only {
        session.printer.data(&plan.sql())?;
        return plan.agreed().map(|()| ExitCode::SUCCESS);
    }
    let Some(database) = database.filter(|_| loads) else {
        print(session, &json!({ "outcome": "planned", "plan": plan.to_json() }), &plan.text())?;
        save(&args, &plan, None)?;
        return plan.agreed().map(|()| ExitCode::SUCCESS);
    };
    if let Err(error) = plan.agreed() {
        session.printer.data(&plan.text())?;
        return Err(error);
    }
    if args.replace && !session.globals.yes {
        let question = format!("set aside what is in schema {}", args.schema);
        confirm::confirm(&session.surroundings, &session.printer, &question, &args.schema)?;
    }
    // The moment is held meanwhile: the backup has all of it, and what was written since.
    let backup = match args.no_backup {
        true => None,
        false => Some(back_up(session, &env, sqlite, args.url.as_deref().unwrap_or_default())?),
    };
    let load_options =
        LoadOptions { schema: args.schema.clone(), replace: args.replace, verify: !args.no_verify };
    let place = Place::prepare(&env, &database)?;
    let done = lifeboat_migrate::load(&env, &mut moment, &plan, place.client(), &load_options)?;
    place.finish(&env)?;
    session.progress.clear();
    save(&args, &plan, Some(&done))?;
    tell(session, &plan, &done, backup.as_deref())
}

/// The database that was named on the command line.
fn database(url: &str) -> Result<Database> {
    let address = postgres::typed(url)?;
    match address.database() {
        Some(_) => Ok(Database::at(address)),
        None => Err(Error::new(Kind::Usage, format!("{} names no database", address.label()))
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

/// A backup that stays: the way back. The names of what was made.
fn back_up(session: &Session, env: &Env, sqlite: &Path, url: &str) -> Result<Vec<String>> {
    let config = &session.loaded()?.config;
    let argument = sqlite.to_string_lossy().into_owned();
    let targets = sources::named(config, &[argument])?;
    let Some(target) = targets.first() else {
        return Err(Error::new(Kind::Usage, format!("{} is no source", sqlite.display())));
    };
    target.source.inspect()?;
    let places = backup::chosen(target, &repositories::places(session)?, session)?;
    if places.is_empty() {
        let message = "there is no repository for the backup before the migration";
        return Err(Error::new(Kind::Usage, message)
            .hint("name one with --repo, or go without it: --no-backup"));
    }
    let mut names = Vec::new();
    for place in places {
        let mut make = |env: &Env, _: &[usize]| {
            let made = store(session, env, target, &place, url);
            vec![made.map(|name| {
                names.push(name);
                json!({ "outcome": "committed" })
            })]
        };
        let run = (target, &[place.url.as_str()][..]);
        let ended = runs::backup(session, env, &RunArgs::default(), run, &mut make);
        ended.results.into_iter().collect::<Result<Vec<Value>>>()?;
    }
    session.progress.clear();
    names.iter().for_each(|name| session.printer.note(&format!("backed up and pinned: {name}")));
    Ok(names)
}

fn store(
    session: &Session,
    env: &Env,
    target: &Target,
    place: &repositories::Place,
    url: &str,
) -> Result<String> {
    use lifeboat_core::backup::BackupOutcome;
    let repository = place.open_or_create(env)?;
    let pin = Hold { reason: format!("before the migration to {url}"), until: None };
    let choices = Choices { pin: Some(pin), ..Choices::default() };
    let mut request = backup::request(session, env, target, place, choices)?;
    // An unchanged database that was backed up before would have nothing to pin.
    request.on_change = false;
    match lifeboat_core::backup::run(env, &repository, &request)? {
        BackupOutcome::Committed { manifest, .. } => Ok(manifest.name),
        BackupOutcome::Unchanged { .. } => {
            Err(Error::new(Kind::Failed, "the backup before the migration was not made"))
        }
    }
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
            .hint("SELECT * FROM _lifeboat_rejects says which and why"));
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
    let client = database(&args.url)?.client()?;
    let workers = env.threads.clamp(1, WORKERS_MAX);
    let mut moment = Moment::open(env, &args.sqlite, workers, &session.folders.scratch)?;
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

/// Writes the report that somebody signs.
fn save(args: &Args, plan: &Plan, done: Option<&Done>) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    let text = match path.extension().is_some_and(|extension| extension == "json") {
        true => {
            let value = json!({ "plan": plan.to_json(), "done": done.map(Done::to_json) });
            format!("{value:#}\n")
        }
        false => {
            plan.markdown(&args.sqlite.as_deref().unwrap_or(Path::new("")).to_string_lossy(), done)
        }
    };
    std::fs::write(path, text)
        .map_err(|error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error))
}
