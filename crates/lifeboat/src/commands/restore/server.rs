//! `lifeboat restore` to a server: a dump takes the name of the database that it was.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::backup::{self, BackupOutcome};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, Purpose};
use lifeboat_core::names::source_name;
use lifeboat_core::policy::Hold;
use lifeboat_core::restore::Origin;
use lifeboat_core::seal::Keys;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::restore::{self, RestoreOutcome, RestorePlan, RestoreRequest};
use lifeboat_postgres::{Address, Client};
use serde_json::{Value, json};

use super::Args;
use crate::cluster_backups::covering;
use crate::commands::backup::{Choices, chosen, request};
use crate::postgres::{self, Database};
use crate::repositories;
use crate::selection::Selected;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;

/// How long the backup that is made before a restore is pinned.
const SAFETY_PIN_HOURS: i64 = 30 * 24;

/// The options that only dumps of a server have.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// PostgreSQL: leave owners and rights out, so that everything belongs to our role
    #[arg(long)]
    no_owner: bool,
    /// PostgreSQL: only this schema, into a new database (--to)
    #[arg(long, value_name = "SCHEMA", requires = "to")]
    schema: Vec<String>,
    /// PostgreSQL: only this table, into a new database (--to). With --rows-from: the table whose
    /// rows are put back; several go in one transaction
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// PostgreSQL: go on although the database that is there cannot be backed up first; it stays
    /// under another name all the same
    #[arg(long)]
    without_safety_backup: bool,
}

impl ServerArgs {
    fn is_part(&self) -> bool {
        !self.schema.is_empty() || !self.table.is_empty()
    }

    /// The tables that are meant.
    pub(super) fn tables(&self) -> &[String] {
        &self.table
    }

    /// None of them means anything for a file.
    pub(super) fn refuse_elsewhere(&self) -> Result<()> {
        match self.no_owner || self.without_safety_backup || self.is_part() {
            true => Err(Error::new(
                Kind::Usage,
                "--no-owner, --schema, --table and --without-safety-backup are for dumps of \
                 PostgreSQL",
            )
            .hint("leave them away")),
            false => Ok(()),
        }
    }
}

/// Whether a restore goes to a server: by what it is of, unless it goes to a file.
pub(super) fn is_meant(kind: &str, to: Option<&Path>) -> bool {
    let to_server = to.is_none_or(|to| postgres::is_address(&to.to_string_lossy()));
    kind == postgres::KIND && to_server
}

/// Whether a file that nobody knows is a dump, or is meant as one.
pub(super) fn takes(env: &Env, path: &Path, keys: Option<&dyn Keys>, to: Option<&Path>) -> bool {
    let to_server = to.is_some_and(|to| postgres::is_address(&to.to_string_lossy()));
    to_server || restore::is_dump(env, path, keys)
}

/// Restores a dump.
pub(super) fn run(
    session: &Session,
    env: &Env,
    args: &Args,
    origin: Origin<'_>,
    target: Option<&Target>,
) -> Result<ExitCode> {
    if !args.server.table.is_empty() && args.to.is_none() {
        return Err(Error::new(Kind::Usage, "--table alone goes into a new database")
            .hint("name one with --to; or put rows back into the live one with --rows-from"));
    }
    let database = destination(session, args, origin, target)?;
    let client = database.client()?;
    let request = RestoreRequest {
        origin,
        target: &client,
        with_owners: !args.server.no_owner,
        schemas: &args.server.schema,
        tables: &args.server.table,
        scratch_folder: &session.folders.scratch,
    };
    let mut plan = restore::plan(env, &request)?;
    if let (Some(at), Some(manifest)) = (&args.at, origin.manifest())
        && let Some(command) = covering(session, env, &database, at)
    {
        let taken = units::moment(manifest.taken_at, &session.surroundings.time_zone);
        plan.warnings.push(format!(
            "the dump shows {taken}; the whole cluster goes to that very moment: {command}"
        ));
    }
    if plan.replaces && args.server.is_part() {
        return Err(Error::new(
            Kind::Refused,
            format!("{} is there: a part of a backup must not take its place", plan.database),
        )
        .hint("restore the part to a new database, and copy from there what is needed"));
    }
    if args.dry_run {
        print_plan(session, args, &plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    agree(session, args, &plan)?;
    let safety = safety_backup(session, env, args, &database, target, &plan)?;
    let outcome = restore::apply(env, &request, &plan)?;
    session.progress.clear();
    say(session, &plan, &outcome, safety.as_deref(), &database)?;
    Ok(ExitCode::SUCCESS)
}

/// A dump that goes back to its server, as a part of more.
pub(super) struct Planned {
    database: Database,
    client: Client,
    pub(super) plan: RestorePlan,
}

/// Plans it: nothing is changed.
pub(super) fn plan_one(
    session: &Session,
    env: &Env,
    args: &Args,
    selected: &Selected,
    target: &Target,
) -> Result<Planned> {
    let database = destination(session, args, selected.origin(), Some(target))?;
    let client = database.client()?;
    let plan = restore::plan(env, &of_one(session, args, selected, &client))?;
    Ok(Planned { database, client, plan })
}

fn of_one<'a>(
    session: &'a Session,
    args: &'a Args,
    selected: &'a Selected,
    client: &'a Client,
) -> RestoreRequest<'a> {
    RestoreRequest {
        origin: selected.origin(),
        target: client,
        with_owners: !args.server.no_owner,
        schemas: &[],
        tables: &[],
        scratch_folder: &session.folders.scratch,
    }
}

/// Carries it out. Gives what was done, as JSON, and says it.
pub(super) fn apply_one(
    session: &Session,
    env: &Env,
    args: &Args,
    (selected, target): (&Selected, &Target),
    planned: &Planned,
) -> Result<Value> {
    let Planned { database, client, plan } = planned;
    let safety = safety_backup(session, env, args, database, Some(target), plan)?;
    let outcome = restore::apply(env, &of_one(session, args, selected, client), plan)?;
    session.progress.clear();
    for warning in &outcome.warnings {
        session.printer.warning(&units::one_line(&plan.what), warning);
    }
    say_text(session, plan, &outcome, safety.as_deref(), database);
    Ok(as_json(plan, &outcome, safety.as_deref(), database))
}

/// The database that the dump will be: what `--to` says, else where it came from, with what the
/// configuration says of that server.
fn destination(
    session: &Session,
    args: &Args,
    origin: Origin<'_>,
    target: Option<&Target>,
) -> Result<Database> {
    let configured = |label: &str| -> Result<Option<Database>> {
        let targets = Target::all(&session.loaded()?.config).unwrap_or_default();
        let mut databases = targets.into_iter().filter_map(|target| target.database);
        Ok(databases.find(|database| database.address().label() == label))
    };
    if let Some(to) = &args.to {
        let address = postgres::typed(&to.to_string_lossy())?;
        return Ok(match configured(&address.label())? {
            Some(database) => database.as_typed(&address),
            None => Database::at(address),
        });
    }
    if let Some(database) = target.and_then(|target| target.database.clone()) {
        return Ok(database);
    }
    let Some(manifest) = origin.manifest() else {
        let message = format!("where should {} be restored to?", origin.name());
        return Err(
            Error::new(Kind::Usage, message).hint("say it with --to postgresql://HOST/DATABASE")
        );
    };
    let place = &manifest.source.location;
    match configured(place)? {
        Some(database) => Ok(database),
        None if postgres::is_address(place) => {
            let role = manifest.facts.get("role").and_then(|role| role.as_str());
            let address = Address::parse(place)?;
            Ok(Database::at(match role.filter(|_| address.get("service").is_none()) {
                Some(role) => address.with("user", role),
                None => address,
            }))
        }
        None => Err(Error::new(
            Kind::Refused,
            format!("nothing says on which server {} was", manifest.name),
        )
        .hint("say where to: --to postgresql://HOST/DATABASE, or write a file: --to FILE.sql")),
    }
}

fn agree(session: &Session, args: &Args, plan: &RestorePlan) -> Result<()> {
    let text = plan_text(args, plan);
    if !plan.replaces || session.globals.yes {
        text.lines().for_each(|line| session.printer.detail(line));
        return Ok(());
    }
    text.lines().for_each(|line| session.printer.line(line));
    let question = format!("replacing the database {}", units::one_line(&plan.database));
    confirm(&session.surroundings, &session.printer, &question, &plan.database)
}

/// A backup of what is there, into the repository. Gives back its name.
fn safety_backup(
    session: &Session,
    env: &Env,
    args: &Args,
    database: &Database,
    target: Option<&Target>,
    plan: &RestorePlan,
) -> Result<Option<String>> {
    if !plan.replaces {
        session.printer.detail("there is no database to back up first");
        return Ok(None);
    }
    if args.server.without_safety_backup {
        return Ok(None);
    }
    let names = (plan.database.as_str(), plan.what.as_str());
    let made = make_safety_backup(session, env, database, target, names);
    made.map(Some).map_err(|error| {
        let hint = error.hint_text().map(|hint| format!("{hint}; or ")).unwrap_or_default();
        let message =
            format!("{} could not be backed up first, and was not touched", plan.database);
        Error::new(Kind::Refused, message).caused_by(error).hint(format!(
            "{hint}go on without it: --without-safety-backup (the old database stays as {})",
            plan.kept_as.as_deref().unwrap_or_default()
        ))
    })
}

/// A backup of a database as it is now, pinned, before that is restored to it. Its name.
pub(super) fn make_safety_backup(
    session: &Session,
    env: &Env,
    database: &Database,
    target: Option<&Target>,
    (name, what): (&str, &str),
) -> Result<String> {
    let label = database.address().label();
    let is_it = |target: &&Target| {
        target.database.as_ref().is_some_and(|own| own.address().label() == label)
    };
    let other;
    let target = match target.filter(is_it) {
        Some(target) => target,
        None => {
            other = Target::server(source_name(name), database.clone());
            &other
        }
    };
    let places = repositories::places(session)?;
    let place = chosen(target, &places, session)?.into_iter().next().ok_or_else(|| {
        Error::new(Kind::NoRepository, "no repository takes the backup").hint("name one: --repo")
    })?;
    let pin = Hold {
        reason: format!("before the restore of {what}"),
        until: env.clock.now().checked_add(jiff::SignedDuration::from_hours(SAFETY_PIN_HOURS)).ok(),
    };
    let purpose = Some(Purpose::BeforeRestore);
    let check = Some(CheckLevel::Quick);
    let choices = Choices { check, pin: Some(pin), purpose, ..Choices::default() };
    let request = request(session, env, target, &place, choices)?;
    let repository = place.open_or_create(env)?;
    match backup::run(env, &repository, &request)? {
        BackupOutcome::Committed { manifest, .. } | BackupOutcome::Unchanged { manifest, .. } => {
            Ok(manifest.name)
        }
    }
}

pub(super) fn plan_text(args: &Args, plan: &RestorePlan) -> String {
    let mut text = format!("plan for {} on {}:\n", units::one_line(&plan.what), plan.server);
    let safety = (plan.replaces && !args.server.without_safety_backup)
        .then(|| format!("back up {} as it is now", plan.database));
    for (index, step) in safety.iter().chain(&plan.steps).enumerate() {
        text.push_str(&format!("  {}. {}\n", index + 1, units::one_line(step)));
    }
    for session in &plan.sessions {
        text.push_str(&format!("  connected now: {}\n", units::one_line(session)));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  warning: {}\n", units::one_line(warning)));
    }
    text
}

fn print_plan(session: &Session, args: &Args, plan: &RestorePlan) -> Result<()> {
    if !session.printer.json() {
        return session.printer.data(&plan_text(args, plan));
    }
    session.printer.json_data(&plan_json(plan))
}

pub(super) fn plan_json(plan: &RestorePlan) -> Value {
    json!({
        "outcome": "planned",
        "what": plan.what,
        "server": plan.server,
        "database": plan.database,
        "replaces": plan.replaces,
        "kept_as": plan.kept_as,
        "roles_to_make": plan.roles_to_make.iter().map(|role| &role.name).collect::<Vec<_>>(),
        "sessions": plan.sessions,
        "plain_bytes": plan.plain_bytes,
        "steps": plan.steps,
        "warnings": plan.warnings,
    })
}

fn say(
    session: &Session,
    plan: &RestorePlan,
    outcome: &RestoreOutcome,
    safety: Option<&str>,
    database: &Database,
) -> Result<()> {
    let printer = &session.printer;
    for warning in &outcome.warnings {
        printer.warning(&units::one_line(&plan.what), warning);
    }
    if printer.json() {
        return printer.json_data(&as_json(plan, outcome, safety, database));
    }
    say_text(session, plan, outcome, safety, database);
    Ok(())
}

/// The command that goes back to what was there before.
fn undo(outcome: &RestoreOutcome, database: &Database) -> Option<String> {
    outcome.kept_as.as_ref()?;
    Some(format!("lifeboat undo {}", units::shell_word(&database.address().url())))
}

fn as_json(
    plan: &RestorePlan,
    outcome: &RestoreOutcome,
    safety: Option<&str>,
    database: &Database,
) -> Value {
    json!({
        "outcome": "restored",
        "what": plan.what,
        "server": plan.server,
        "database": outcome.database,
        "kept_as": outcome.kept_as,
        "safety_backup": safety,
        "rows": outcome.rows,
        "roles_made": outcome.roles,
        "sessions_ended": outcome.sessions_ended,
        "elapsed_ms": outcome.elapsed_ms,
        "undo": undo(outcome, database),
    })
}

fn say_text(
    session: &Session,
    plan: &RestorePlan,
    outcome: &RestoreOutcome,
    safety: Option<&str>,
    database: &Database,
) {
    let printer = &session.printer;
    let good = printer.paint_err(Style::Good, "restored");
    let took = units::duration(outcome.elapsed_ms);
    let mut text = format!("{good} {} in {took}", units::one_line(&plan.what));
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!("\n  {name:<8} {}", units::one_line(value)));
    };
    line("where", &database.address().label());
    let rows: u64 = outcome.rows.values().sum();
    let tables = outcome.rows.len();
    line("counted", &format!("{rows} rows in {tables} tables, as many as in the dump"));
    if let Some(safety) = safety {
        line("saved", safety);
    }
    if let Some(kept_as) = &outcome.kept_as {
        line("kept", &format!("{kept_as} (drop it when it is needed no more)"));
    }
    if let Some(undo) = undo(outcome, database) {
        line("undo", &undo);
    }
    printer.note(&text);
}
