//! What a restore would do, decided before anything is done.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::moment::{age, date_and_time};
use lifeboat_core::restore::Origin;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Map, Value};

use crate::archive::Contents;
use crate::client::{Client, Program};
use crate::facts::ServerFacts;
use crate::quote::literal;
use crate::session::{Row, Session};
use crate::source::DumpFormat;

use super::RestoreRequest;
use super::in_place::{self, InPlace};
use super::leftovers::{abandoned, left, leftovers};
use super::load::JOBS_MAX;
use super::roles::{self, MissingRole};
use super::stage;

/// Names of databases and other things are cut to so many bytes by the server.
const NAME_BYTES_MAX: usize = 63;
/// More memory than this makes no index quicker.
const INDEX_MEMORY_KB_MAX: u64 = 512 << 10;
/// What only superusers may make, whatever rights others have.
const FOR_SUPERUSERS: &[&str] = &["EVENT TRIGGER", "FOREIGN DATA WRAPPER", "ACCESS METHOD"];
/// The roles that managed servers give instead of a superuser.
const MANAGED_SUPERUSERS: &[&str] = &["rds_superuser", "cloudsqlsuperuser", "azure_pg_admin"];
/// Where a session lives that renames databases.
const MAINTENANCE: &[&str] = &["postgres", "template1"];

/// What a restore would do; `--dry-run` prints it, and the question before it shows it.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// What a person calls what is restored.
    pub what: String,
    /// The database that it will be.
    pub database: String,
    /// The server, as a URL without secrets.
    pub server: String,
    /// Whether a database of that name is there and will be swapped out.
    pub replaces: bool,
    /// The name that the old database gets.
    pub kept_as: Option<String>,
    /// The name under which the new one is loaded.
    pub scratch: String,
    /// Roles that the dump names and the server lacks; they are made.
    pub roles_to_make: Vec<MissingRole>,
    /// Sessions of the old database, which will be ended: who, from where.
    pub sessions: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The steps, a line each.
    pub steps: Vec<String>,
    /// Plain size of the dump, where it is known.
    pub plain_bytes: Option<u64>,
    /// Scratch databases of restores that were killed; they are dropped first.
    pub abandoned: Vec<String>,
    pub(super) in_place: Option<InPlace>,
    pub(super) maintenance: String,
    pub(super) loader: Program,
    pub(super) format: DumpFormat,
    /// What an index may be built with, where that is more than the server's own setting.
    pub(super) index_memory_kb: Option<u64>,
    /// So many processes help with one index: beside it others are built.
    pub(super) index_helpers: usize,
    pub(super) facts: Map<String, Value>,
    pub(super) with_owners: bool,
    pub(super) server_major: u32,
}

impl RestorePlan {
    /// A client of the database from which others are made and renamed.
    pub(super) fn maintenance(&self, target: &Client) -> Result<Client> {
        target.with_database(&self.maintenance)
    }
}

/// Plans a restore. Refuses what can be refused before anything is written.
pub fn plan(env: &Env, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
    let Some(database) = request.target.address().database().map(str::to_owned) else {
        return Err(Error::new(Kind::Usage, "which database should it be?")
            .hint("name it in the URL: --to postgresql://HOST/DATABASE"));
    };
    let (mut session, maintenance) = maintenance(request.target)?;
    let server_facts = ServerFacts::read(&mut session)?;
    let existing = existing(&mut session, &database)?;
    let looked = look(env, request)?;
    let manifest = request.origin.manifest();
    let facts = manifest.map(|manifest| manifest.facts.clone()).unwrap_or_default();
    let loader = loader(request.target, &looked, server_facts.major)?;
    let now = env.clock.now();
    let databases = databases(&mut session)?;
    let (kept_as, scratch) = free_names(&database, now, &databases);
    let abandoned = abandoned(&mut session, &leftovers(&database, &databases))?;
    let mut plan = RestorePlan {
        what: request.origin.name(),
        server: request.target.address().label(),
        replaces: existing.is_some(),
        kept_as: existing.as_ref().map(|_| kept_as),
        scratch,
        roles_to_make: Vec::new(),
        sessions: Vec::new(),
        warnings: left(&leftovers(&database, &databases), &abandoned),
        steps: Vec::new(),
        plain_bytes: manifest.and_then(|manifest| Some(manifest.artifacts.first()?.plain_bytes)),
        abandoned,
        in_place: None,
        maintenance,
        loader,
        format: looked.format,
        index_memory_kb: index_memory_kb(&mut session, env)?,
        index_helpers: (env.threads / 2).max(1),
        facts,
        with_owners: request.with_owners,
        server_major: server_facts.major,
        database,
    };
    if let Some(manifest) = manifest {
        let taken = age(now.duration_since(manifest.taken_at));
        plan.steps.push(format!(
            "take {} (backed up {taken} ago; what was written since then is not in it)",
            manifest.name
        ));
    }
    match (may_create(&mut session, &plan), &existing) {
        (Err(refusal), _) if refusal.kind() == Kind::Refused => {
            let contents = looked.contents.as_ref();
            plan.in_place = Some(in_place::plan(env, request, contents, &mut plan, refusal)?);
        }
        (Err(error), _) => return Err(error),
        (Ok(()), Some(existing)) => may_rename(&mut session, &mut plan, existing)?,
        (Ok(()), None) => {}
    }
    if let Some(contents) = &looked.contents {
        plan_roles(env, &mut session, request, contents, &mut plan)?;
        extensions(&mut session, contents)?;
        of_superusers(&mut session, contents)?;
    }
    versions(&looked, &mut plan);
    steps(request, &mut plan);
    Ok(plan)
}

/// A session from which databases can be made and renamed.
fn maintenance(target: &Client) -> Result<(Session, String)> {
    let what = format!("cannot restore to {}", target.address().label());
    let mut last = None;
    for database in MAINTENANCE {
        let client = target.with_database(database)?;
        // Whoever restores the database `postgres` itself must be connected to another one.
        if target.address().database() == Some(*database) {
            continue;
        }
        match Session::open(&client, &what) {
            Ok(session) => return Ok((session, (*database).to_owned())),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Failed, what)))
}

/// A share of what the server keeps for its cache, for each job, if that is more than it gives to
/// the building of an index by itself.
fn index_memory_kb(session: &mut Session, env: &Env) -> Result<Option<u64>> {
    let row = session.row(
        "SELECT pg_catalog.pg_size_bytes(current_setting('shared_buffers')) / 1024 AS cache, \
         pg_catalog.pg_size_bytes(current_setting('maintenance_work_mem')) / 1024 AS own",
    )?;
    let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0);
    let share = number("cache") / env.threads.clamp(1, JOBS_MAX) as u64;
    Ok(Some(share.min(INDEX_MEMORY_KB_MAX)).filter(|share| *share > number("own")))
}

/// The names of all databases.
fn databases(session: &mut Session) -> Result<Vec<String>> {
    let rows = session.rows("SELECT datname FROM pg_catalog.pg_database ORDER BY datname")?;
    let name = |row: &Row| row.get("datname")?.as_str().map(str::to_owned);
    Ok(rows.iter().filter_map(name).collect())
}

/// The names that the old and the new database get: of this moment, or of the first second after
/// it in which neither is taken.
fn free_names(database: &str, now: Timestamp, taken: &[String]) -> (String, String) {
    let mut moment = now;
    loop {
        let (date, time) = date_and_time(moment);
        let name = |word: &str| short_name(database, &format!("_{word}_{date}_{time}"));
        let (kept_as, scratch) = (name("before_restore"), name("restore"));
        let is_free = !taken.contains(&kept_as) && !taken.contains(&scratch);
        match moment.checked_add(SignedDuration::from_secs(1)) {
            Ok(later) if !is_free => moment = later,
            _ => return (kept_as, scratch),
        }
    }
}

fn existing(session: &mut Session, database: &str) -> Result<Option<Row>> {
    let query = format!(
        "SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba) AS owner, \
          pg_catalog.pg_has_role(d.datdba, 'USAGE') AS is_ours, d.datistemplate AS is_template \
         FROM pg_catalog.pg_database d WHERE d.datname = {}",
        literal(database)
    );
    Ok(session.rows(&query)?.pop())
}

/// What can be known of the dump without unpacking all of it.
struct Looked {
    format: DumpFormat,
    contents: Option<Contents>,
    dump_major: Option<u32>,
}

/// Reads as far as the table of contents reaches.
fn look(env: &Env, request: &RestoreRequest<'_>) -> Result<Looked> {
    let manifest = request.origin.manifest();
    let head = stage::head(env, request.origin)?;
    let version = match (&head.contents, manifest) {
        (Some(contents), _) => Some(contents.dump_version.clone()),
        (None, Some(manifest)) => {
            let program = manifest.facts.get("dump_program").and_then(Value::as_str);
            program.map(|program| program.trim_start_matches("pg_dump ").to_owned())
        }
        (None, None) => None,
    };
    let digits = |text: String| {
        text.split(|letter: char| !letter.is_ascii_digit())
            .next()
            .and_then(|text| text.parse().ok())
    };
    Ok(Looked {
        format: head.format,
        contents: head.contents,
        dump_major: version.and_then(digits),
    })
}

fn loader(target: &Client, looked: &Looked, server_major: u32) -> Result<Program> {
    match looked.format {
        DumpFormat::Custom => {
            target.program("pg_restore", looked.dump_major.or(Some(server_major)))
        }
        DumpFormat::Plain => target.program("psql", Some(server_major)),
    }
}

fn may_create(session: &mut Session, plan: &RestorePlan) -> Result<()> {
    let row = session.row(
        "SELECT current_user AS role, rolcreatedb OR rolsuper AS may \
         FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )?;
    if row.get("may") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let role = row.get("role").and_then(Value::as_str).unwrap_or_default();
    Err(Error::new(
        Kind::Refused,
        format!(
            "the role {role} may not create databases: a restore to {} needs that",
            plan.server
        ),
    )
    .hint(format!("as a superuser: ALTER ROLE \"{role}\" CREATEDB; or name another user in --to")))
}

/// What stands against renaming the old database, and who is in it.
fn may_rename(session: &mut Session, plan: &mut RestorePlan, existing: &Row) -> Result<()> {
    let database = literal(&plan.database);
    let refused = |message: String, hint: &str| Err(Error::new(Kind::Refused, message).hint(hint));
    let owner = existing.get("owner").and_then(Value::as_str).unwrap_or_default();
    if existing.get("is_ours") != Some(&Value::Bool(true)) {
        return refused(
            format!("the database {} belongs to {owner}, whose rights we lack", plan.database),
            "connect as its owner or a superuser, or restore to another database with --to",
        );
    }
    let prepared = session.rows(&format!(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = {database}"
    ))?;
    if !prepared.is_empty() {
        return refused(
            format!("{} prepared transactions of {} are open", prepared.len(), plan.database),
            "end them with COMMIT PREPARED or ROLLBACK PREPARED: SELECT * FROM pg_prepared_xacts",
        );
    }
    let slots = session.rows(&format!(
        "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = {database}"
    ))?;
    for slot in slots.iter().filter_map(|row| row.get("slot_name")?.as_str()) {
        plan.warnings.push(format!(
            "the replication slot {slot} stays with the old database: make it anew in the new one"
        ));
    }
    let sessions = session.rows(&format!(
        "SELECT pid, coalesce(usename::text, '') AS role, \
          coalesce(nullif(application_name, ''), backend_type) AS name, \
          coalesce(client_addr::text, 'local') AS place \
         FROM pg_catalog.pg_stat_activity WHERE datname = {database} ORDER BY pid"
    ))?;
    for row in sessions {
        let text =
            |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        plan.sessions.push(format!("{} as {} from {}", text("name"), text("role"), text("place")));
    }
    Ok(())
}

/// Which roles are missing, and whether we can make them.
fn plan_roles(
    env: &Env,
    session: &mut Session,
    request: &RestoreRequest<'_>,
    contents: &Contents,
    plan: &mut RestorePlan,
) -> Result<()> {
    if !request.with_owners {
        plan.warnings.push("owners and rights of the dump are left out, as asked".to_owned());
        return Ok(());
    }
    let globals = stage::globals(env, request)?;
    let mut named = roles::named_by(contents);
    if let Some(owner) = plan.facts.get("owner").and_then(Value::as_str) {
        named.insert(owner.to_owned());
    }
    named.extend(of_the_database(&plan.facts));
    let missing = roles::missing(session, &named, globals.as_deref())?;
    let unknown: Vec<&str> = missing
        .iter()
        .filter(|role| role.statements.is_empty())
        .map(|role| role.name.as_str())
        .collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        return Err(Error::new(
            Kind::Refused,
            format!("the server lacks roles that the dump names: {list}"),
        )
        .hint("make them (CREATE ROLE), or restore without owners and rights: --no-owner"));
    }
    let row = session.row(
        "SELECT rolcreaterole OR rolsuper AS may FROM pg_catalog.pg_roles \
         WHERE rolname = current_user",
    )?;
    if !missing.is_empty() && row.get("may") != Some(&Value::Bool(true)) {
        let list: Vec<&str> = missing.iter().map(|role| role.name.as_str()).collect();
        return Err(Error::new(
            Kind::Refused,
            format!("our role may not make the missing roles: {}", list.join(", ")),
        )
        .hint("connect as a superuser, make them by hand, or restore with --no-owner"));
    }
    plan.roles_to_make = missing;
    Ok(())
}

/// What only a superuser may make would fail the load at its very end.
fn of_superusers(session: &mut Session, contents: &Contents) -> Result<()> {
    let wanted = contents.entries.iter().filter(|entry| FOR_SUPERUSERS.contains(&&*entry.kind));
    let wanted: Vec<String> =
        wanted.map(|entry| format!("{} {}", entry.kind.to_lowercase(), entry.name)).collect();
    let managed: Vec<String> = MANAGED_SUPERUSERS.iter().map(|role| literal(role)).collect();
    let row = session.row(&format!(
        "SELECT pg_catalog.quote_ident(current_user) AS role, rolsuper OR EXISTS ( \
          SELECT FROM pg_catalog.pg_roles m WHERE m.rolname IN ({}) \
          AND pg_catalog.pg_has_role(m.oid, 'MEMBER')) AS may \
         FROM pg_catalog.pg_roles WHERE rolname = current_user",
        managed.join(", ")
    ))?;
    if wanted.is_empty() || row.get("may") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let role = row.get("role").and_then(Value::as_str).unwrap_or_default();
    Err(Error::new(
        Kind::Refused,
        format!(
            "the dump has what only a superuser may make, and {role} is none: {}",
            wanted.join(", ")
        ),
    )
    .hint("connect as a superuser: --to postgresql://SUPERUSER@HOST/DATABASE"))
}

/// The roles that have rights or settings of their own in the database.
fn of_the_database(facts: &Map<String, Value>) -> Vec<String> {
    let of = |name: &str| facts.get(name).and_then(Value::as_array).into_iter().flatten();
    let role = |one: &Value| one.get("role")?.as_str().map(str::to_owned);
    let roles = of("rights").chain(of("settings")).filter_map(role);
    roles.filter(|role| !role.starts_with("pg_")).collect()
}

/// All extensions of the dump must be installed on the server's host.
fn extensions(session: &mut Session, contents: &Contents) -> Result<()> {
    let rows = session.rows("SELECT name FROM pg_catalog.pg_available_extensions")?;
    let there: Vec<&str> = rows.iter().filter_map(|row| row.get("name")?.as_str()).collect();
    let wanted = contents.entries.iter().filter(|entry| entry.kind == "EXTENSION");
    let missing: Vec<&str> =
        wanted.map(|entry| entry.name.as_str()).filter(|name| !there.contains(name)).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Refused,
            format!("the server lacks extensions of the dump: {}", missing.join(", ")),
        )
        .hint("install the package that brings them, such as postgresql-contrib or postgis")),
    }
}

fn versions(looked: &Looked, plan: &mut RestorePlan) {
    let from = plan.facts.get("server_major").and_then(Value::as_u64);
    if let Some(from) = from.filter(|from| *from > u64::from(plan.server_major)) {
        plan.warnings.push(format!(
            "the dump is of PostgreSQL {from}, the server is older ({}): what it does not know \
             fails the restore, and nothing is changed then",
            plan.server_major
        ));
    }
    if looked.format == DumpFormat::Plain && plan.facts.is_empty() {
        plan.warnings.push(
            "an SQL script says little of itself before it is loaded: missing roles show then"
                .to_owned(),
        );
    }
}

fn steps(request: &RestoreRequest<'_>, plan: &mut RestorePlan) {
    let mut steps = Vec::new();
    for name in plan.abandoned.iter().filter(|_| plan.in_place.is_none()) {
        steps.push(format!("drop {name}, which a killed restore left half loaded"));
    }
    for role in &plan.roles_to_make {
        steps.push(format!("make the role {}", role.name));
    }
    if let Some(in_place) = &plan.in_place {
        steps.extend(in_place::steps(in_place));
        plan.steps.extend(steps);
        return;
    }
    steps.push(format!("load it into the new database {}", plan.scratch));
    if !request.schemas.is_empty() || !request.tables.is_empty() {
        let parts: Vec<&str> =
            request.schemas.iter().chain(request.tables).map(String::as_str).collect();
        steps.push(format!("only of it: {}", parts.join(", ")));
    }
    steps.push("count its rows and compare, then ANALYZE".to_owned());
    if let Some(kept_as) = &plan.kept_as {
        let sessions = match plan.sessions.len() {
            0 => String::new(),
            count => format!(", ending the {count} sessions that it has now"),
        };
        steps.push(format!("rename {} to {kept_as}{sessions}", plan.database));
    }
    steps.push(format!("rename {} to {}", plan.scratch, plan.database));
    plan.steps.extend(steps);
    if let Origin::File { .. } = request.origin
        && plan.facts.is_empty()
    {
        plan.warnings.push(
            "a file has no manifest: its rows are counted against what the file itself holds"
                .to_owned(),
        );
    }
}

/// `name` with that ending, cut so that the server does not cut it.
pub(super) fn short_name(name: &str, ending: &str) -> String {
    let room = NAME_BYTES_MAX.saturating_sub(ending.len());
    let end = (0..=room.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    format!("{}{ending}", &name[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_not_given_again() {
        let now: Timestamp = "2026-01-02T03:04:59Z".parse().unwrap();
        let names = |taken: &[&str]| {
            let taken: Vec<String> = taken.iter().map(|name| (*name).to_owned()).collect();
            free_names("chat", now, &taken)
        };
        assert_eq!(names(&["chat"]).0, "chat_before_restore_20260102_030459");
        assert_eq!(names(&["chat"]).1, "chat_restore_20260102_030459");
        let later = names(&["chat_restore_20260102_030459", "chat_before_restore_20260102_030500"]);
        assert_eq!(later.0, "chat_before_restore_20260102_030501");
        let long = "é".repeat(40);
        let (kept_as, scratch) = free_names(&long, now, &[]);
        assert!(kept_as.len() <= 63 && scratch.len() <= 63 && kept_as != scratch);
    }
}
