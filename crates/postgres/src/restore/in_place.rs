//! A restore by a role that may not create databases: schema by schema, in one transaction.
//!
//! Within the database that is there, the schemas of the dump are renamed to
//! `SCHEMA_before_restore_TIME`, the dump is loaded beside them, its rows are counted, and then all
//! of it is committed, or none. Nobody's session is ended: who was writing into a table goes on in
//! the old one, which stays. `undo` renames back.
//!
//! What belongs to no schema (large objects, event triggers, foreign servers) would stand in its
//! own way: a dump that has such things is refused, with their names.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::moment::date_and_time;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::archive::{Contents, Entry};
use crate::child::Running;
use crate::client::Client;
use crate::quote::{identifier, literal};
use crate::script::ScriptReader;
use crate::session::{Row, Session};
use crate::source::DumpFormat;

use super::load::archive_options;
use super::plan::{RestorePlan, short_name};
use super::stage::{self, Loaded, Staged};
use super::{RestoreOutcome, RestoreRequest, counts};

/// What is in an archive beside the things of schemas and hurts nobody.
const HARMLESS: &[&str] = &[
    "SCHEMA",
    "EXTENSION",
    "COMMENT",
    "ACL",
    "DEFAULT ACL",
    "ENCODING",
    "STDSTRINGS",
    "SEARCHPATH",
    "DATABASE",
    "DATABASE PROPERTIES",
];
/// A line longer than this is taken in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;
/// So many names are told.
const NAMED_MAX: usize = 5;

/// Names, and the ones that they become.
pub(super) type Renames = Vec<(String, String)>;

/// What changes its name.
#[derive(Clone, Debug, Default)]
pub(super) struct InPlace {
    /// Schemas, and the names that they get.
    pub(super) renames: Vec<(String, String)>,
    /// Extensions that stay in the schema of that name.
    pub(super) extensions: Vec<(String, String)>,
    /// Entries that are there already, by number: extensions, and what is said of them.
    left_out: BTreeSet<i64>,
    /// Whether the schema `public` is to be made anew, and for whom.
    public_owner: Option<String>,
}

/// Plans it. `refusal` is the error where it is not possible either.
pub(super) fn plan(
    env: &Env,
    request: &RestoreRequest<'_>,
    contents: Option<&Contents>,
    plan: &mut RestorePlan,
    refusal: Error,
) -> Result<InPlace> {
    let is_part = !request.schemas.is_empty() || !request.tables.is_empty();
    let contents = match contents {
        Some(contents) if plan.replaces && !is_part => contents,
        _ => return Err(refusal),
    };
    of_no_schema(contents, &refusal)?;
    let mut session = Session::open(request.target, "cannot look into the database")?;
    let (role, database) = may_create_schemas(&mut session)?;
    let mut in_place = InPlace::default();
    let mut wanted = schemas_of(contents);
    leave_apart(&mut session, contents, &mut wanted, &mut in_place)?;
    let there = session.rows(
        "SELECT n.nspname AS name, pg_catalog.pg_get_userbyid(n.nspowner) AS owner, \
          pg_catalog.pg_has_role(n.nspowner, 'USAGE') AS is_ours \
         FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' \
          AND n.nspname <> 'information_schema' ORDER BY n.nspname",
    )?;
    let replaced: Vec<&Row> =
        there.iter().filter(|row| wanted.contains(text(row, "name"))).collect();
    let foreign: Vec<&&Row> =
        replaced.iter().filter(|row| row.get("is_ours") != Some(&Value::Bool(true))).collect();
    if let Some(first) = foreign.first() {
        let statements = foreign
            .iter()
            .map(|row| format!("ALTER SCHEMA {} OWNER TO {role}", identifier(text(row, "name"))));
        return Err(Error::new(
            Kind::Refused,
            format!(
                "the role {role} may not create databases, and the schema {} of {database} belongs \
                 to {}",
                text(first, "name"),
                text(first, "owner")
            ),
        )
        .hint(format!(
            "as a superuser, in that database: {}; or ALTER ROLE {role} CREATEDB",
            statements.collect::<Vec<_>>().join("; ")
        )));
    }
    let taken: Vec<&str> = there.iter().map(|row| text(row, "name")).collect();
    let names: Vec<&str> = replaced.iter().map(|row| text(row, "name")).collect();
    let public = replaced.iter().find(|row| text(row, "name") == "public");
    in_place.renames = kept_names(&names, env.clock.now(), &taken);
    in_place.public_owner = public.map(|row| text(row, "owner").to_owned());
    extensions(&mut session, contents, &names, &mut in_place)?;
    tell(plan, &in_place, &taken, &wanted);
    Ok(in_place)
}

fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Things that no schema holds.
fn of_no_schema(contents: &Contents, refusal: &Error) -> Result<()> {
    let is_one = |entry: &&Entry| {
        entry.schema.is_empty() && !HARMLESS.contains(&entry.kind.as_str())
            || entry.kind.starts_with("BLOB")
    };
    let names: Vec<String> = contents
        .entries
        .iter()
        .filter(is_one)
        .map(|entry| format!("{} {}", entry.kind.to_lowercase(), entry.name))
        .collect();
    match names.is_empty() {
        true => Ok(()),
        false => {
            let some = names[..names.len().min(NAMED_MAX)].join(", ");
            Err(Error::new(
                Kind::Refused,
                format!(
                    "{}; and schema by schema it cannot be restored, for the dump has what no \
                     schema holds: {some}",
                    refusal.message()
                ),
            )
            .hint(refusal.hint_text().unwrap_or_default().to_owned()))
        }
    }
}

/// The role and the database, if schemas can be made there.
fn may_create_schemas(session: &mut Session) -> Result<(String, String)> {
    let row = session.row(
        "SELECT pg_catalog.quote_ident(current_user) AS role, \
          pg_catalog.quote_ident(current_database()) AS database, \
          pg_catalog.has_database_privilege(current_database(), 'CREATE') AS may",
    )?;
    let (role, database) = (text(&row, "role").to_owned(), text(&row, "database").to_owned());
    match row.get("may") == Some(&Value::Bool(true)) {
        true => Ok((role, database)),
        false => Err(Error::new(
            Kind::Refused,
            format!("the role {role} may not create databases, nor schemas in {database}"),
        )
        .hint(format!(
            "as a superuser: ALTER ROLE {role} CREATEDB, or GRANT CREATE ON DATABASE {database} \
             TO {role}"
        ))),
    }
}

/// The schemas that the dump makes or fills.
fn schemas_of(contents: &Contents) -> BTreeSet<String> {
    let of = |entry: &Entry| match entry.kind.as_str() {
        "SCHEMA" => Some(entry.name.clone()),
        "EXTENSION" | "COMMENT" | "ACL" | "DEFAULT ACL" => None,
        _ => Some(entry.schema.clone()).filter(|name| !name.is_empty()),
    };
    contents.entries.iter().filter_map(of).collect()
}

/// Schemas of extensions alone stay as they are.
fn leave_apart(
    session: &mut Session,
    contents: &Contents,
    wanted: &mut BTreeSet<String>,
    in_place: &mut InPlace,
) -> Result<()> {
    let rows = session.rows(
        "SELECT DISTINCT n.nspname AS name FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace",
    )?;
    for name in rows.iter().map(|row| text(row, "name")) {
        if contents.entries.iter().any(|entry| entry.schema == name) || !wanted.remove(name) {
            continue;
        }
        let about = [format!("SCHEMA {name}"), format!("SCHEMA {}", identifier(name))];
        let is_about = |entry: &&Entry| match entry.kind.as_str() {
            "SCHEMA" => entry.name == name,
            "COMMENT" | "ACL" => about.contains(&entry.name),
            _ => false,
        };
        in_place.left_out.extend(contents.entries.iter().filter(is_about).map(|entry| entry.id));
    }
    Ok(())
}

/// Of this moment, or of the first second after it in which none of the names is taken.
fn kept_names(names: &[&str], now: Timestamp, taken: &[&str]) -> Vec<(String, String)> {
    let mut moment = now;
    loop {
        let (date, time) = date_and_time(moment);
        let kept = |name: &&str| short_name(name, &format!("_before_restore_{date}_{time}"));
        let renames: Vec<(String, String)> =
            names.iter().map(|name| ((*name).to_owned(), kept(name))).collect();
        let is_free = renames.iter().all(|(_, kept)| !taken.contains(&kept.as_str()));
        match moment.checked_add(SignedDuration::from_secs(1)) {
            Ok(later) if !is_free => moment = later,
            _ => return renames,
        }
    }
}

/// Extensions are there once: those of renamed schemas move into the new ones.
fn extensions(
    session: &mut Session,
    contents: &Contents,
    renamed: &[&str],
    in_place: &mut InPlace,
) -> Result<()> {
    let rows = session.rows(
        "SELECT e.extname AS name, n.nspname AS schema, e.extrelocatable AS moves, \
          pg_catalog.pg_has_role(e.extowner, 'USAGE') AND NOT EXISTS ( \
           SELECT FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_proc p ON p.oid = d.objid \
            LEFT JOIN pg_catalog.pg_type t ON t.oid = d.objid \
           WHERE d.refobjid = e.oid AND d.deptype = 'e' AND (NOT pg_catalog.pg_has_role( \
            coalesce(p.proowner, t.typowner), 'USAGE'))) AS is_ours \
         FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace",
    )?;
    let role = session.row("SELECT pg_catalog.quote_ident(current_user) AS role")?;
    for row in &rows {
        let (name, schema) = (text(row, "name"), text(row, "schema"));
        let about = format!("EXTENSION {}", identifier(name));
        let plain = format!("EXTENSION {name}");
        let is_about = |entry: &&Entry| match entry.kind.as_str() {
            "EXTENSION" => entry.name == name,
            "COMMENT" => entry.name == about || entry.name == plain,
            _ => false,
        };
        in_place.left_out.extend(contents.entries.iter().filter(is_about).map(|entry| entry.id));
        if !renamed.contains(&schema) {
            continue;
        }
        let is = |column: &str| row.get(column) == Some(&Value::Bool(true));
        if !is("moves") || !is("is_ours") {
            let why = if is("moves") { "is not ours to move" } else { "cannot be moved" };
            return Err(Error::new(
                Kind::Refused,
                format!(
                    "our role may not create databases, and within this one the extension {name} \
                     stands in the way: it is in the schema {schema} and {why}"
                ),
            )
            .hint(format!(
                "as a superuser: ALTER ROLE {} CREATEDB; or keep extensions in a schema of their own",
                text(&role, "role")
            )));
        }
        in_place.extensions.push((name.to_owned(), schema.to_owned()));
    }
    Ok(())
}

fn tell(plan: &mut RestorePlan, in_place: &InPlace, there: &[&str], wanted: &BTreeSet<String>) {
    let kept: Vec<&str> = in_place.renames.iter().map(|(_, kept)| kept.as_str()).collect();
    plan.kept_as = Some(kept.join(", ")).filter(|kept| !kept.is_empty());
    plan.warnings.push(format!(
        "our role may not create databases: the restore happens within {}, in one transaction",
        plan.database
    ));
    let others: Vec<&str> = there
        .iter()
        .copied()
        .filter(|name| !wanted.contains(*name) && !name.contains("_before_"))
        .collect();
    if !others.is_empty() {
        plan.warnings.push(format!(
            "schemas that the dump lacks stay as they are, and what in them uses the others goes \
             on to use the old ones: {}",
            others.join(", ")
        ));
    }
}

/// The steps, for people.
pub(super) fn steps(in_place: &InPlace) -> Vec<String> {
    let renames = in_place
        .renames
        .iter()
        .map(|(name, kept)| format!("in one transaction: rename the schema {name} to {kept}"));
    let mut steps: Vec<String> = renames.collect();
    steps.push("in the same transaction: load it, count its rows and compare".to_owned());
    steps.push("commit all of it, then ANALYZE".to_owned());
    steps
}

/// Carries it out.
pub(super) fn apply(
    env: &Env,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    in_place: &InPlace,
) -> Result<RestoreOutcome> {
    let begun_ms = env.clock.monotonic_ms();
    let staged = stage::stage(env, request, false)?;
    env.crash.pass("restore.staged")?;
    let what = format!("cannot load {} into {}", plan.what, plan.database);
    let mut session = Session::open(request.target, &what)?;
    let phase = "loading";
    env.tell(Event::PhaseBegan { subject: &plan.what, phase, bytes_total: None });
    let loaded = begin(&mut session, in_place)
        .and_then(|()| load(&mut session, request, plan, in_place, &staged))
        .and_then(|()| {
            counts::compare_in(&mut session, request, plan, &Loaded::of(staged.rows.clone()))
        });
    let rows = loaded.map_err(|error| match error.hint_text() {
        Some(_) => error,
        None => error.hint("nothing was changed: the transaction was rolled back"),
    })?;
    env.crash.pass("restore.verified")?;
    session.execute("COMMIT")?;
    env.crash.pass("restore.swapped")?;
    env.tell(Event::PhaseEnded { phase });
    let mut warnings = plan.warnings.clone();
    let analyzed =
        Session::open(request.target, &what).and_then(|mut session| session.execute("ANALYZE"));
    warnings.extend(analyzed.err().map(|error| format!("ANALYZE failed: {error}")));
    Ok(RestoreOutcome {
        database: plan.database.clone(),
        kept_as: plan.kept_as.clone(),
        rows,
        roles: Vec::new(),
        sessions_ended: 0,
        warnings,
        elapsed_ms: env.elapsed_ms(begun_ms),
    })
}

/// Begins the transaction, and makes room.
fn begin(session: &mut Session, in_place: &InPlace) -> Result<()> {
    session.execute("BEGIN; SET LOCAL lock_timeout = 30000")?;
    for statement in renaming(&in_place.renames) {
        session.execute(&statement)?;
    }
    if let Some(owner) = &in_place.public_owner {
        session.execute(&format!("CREATE SCHEMA public AUTHORIZATION {}", identifier(owner)))?;
        let row = session
            .row("SELECT current_setting('server_version_num')::int >= 150000 AS is_private")?;
        // As every new database has it; what the dump says of it comes on top.
        let rights = match row.get("is_private") == Some(&Value::Bool(true)) {
            true => "USAGE",
            false => "USAGE, CREATE",
        };
        session.execute(&format!("GRANT {rights} ON SCHEMA public TO PUBLIC"))?;
    }
    let made: Vec<&str> = in_place.renames.iter().map(|(name, _)| name.as_str()).collect();
    for (extension, schema) in &in_place.extensions {
        if made.contains(&schema.as_str()) && schema != "public" {
            session.execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", identifier(schema)))?;
        }
        session.execute(&moving(extension, schema))?;
    }
    Ok(())
}

/// The statements that rename schemas, in that order.
pub(super) fn renaming(renames: &[(String, String)]) -> Vec<String> {
    let one = |(from, to): &(String, String)| {
        format!("ALTER SCHEMA {} RENAME TO {}", identifier(from), identifier(to))
    };
    renames.iter().map(one).collect()
}

/// The statement that moves an extension.
pub(super) fn moving(extension: &str, schema: &str) -> String {
    format!("ALTER EXTENSION {} SET SCHEMA {}", identifier(extension), identifier(schema))
}

/// Feeds the dump as SQL into the open transaction.
fn load(
    session: &mut Session,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    in_place: &InPlace,
    staged: &Staged,
) -> Result<()> {
    let failed = |error| Error::io(Kind::Failed, "cannot read the unpacked dump", error);
    let mut command = request.target.offline(&plan.loader);
    archive_options(&mut command, request);
    let list = list_of(in_place, staged, request.target)?;
    if let Some(list) = &list {
        command.arg("-L").arg(list.path());
    }
    command.args(["-f", "-"]).stdin(File::open(staged.path()).map_err(failed)?);
    let mut running = Running::start(command, "cannot read the unpacked dump")?;
    let Some(mut script) = running.stdout() else {
        return Err(Error::new(Kind::Failed, "pg_restore has no output"));
    };
    session.feed(&staged.guard(), |psql| pass_on(&mut script, psql))?;
    drop(script);
    running.finish().map(drop)
}

/// The entries that are wanted, for `pg_restore`, where some are not.
fn list_of(
    in_place: &InPlace,
    staged: &Staged,
    target: &Client,
) -> Result<Option<tempfile::NamedTempFile>> {
    if in_place.left_out.is_empty() || staged.format != DumpFormat::Custom || !target.is_local() {
        return Ok(None);
    }
    let failed = |error| Error::io(Kind::Failed, "cannot write a list of entries", error);
    let mut file = tempfile::Builder::new().prefix("lifeboat-list-").tempfile().map_err(failed)?;
    for id in staged.entries.iter().filter(|id| !in_place.left_out.contains(id)) {
        writeln!(file, "{id};").map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(Some(file))
}

/// Passes a script on without its own guards: ours is around it.
fn pass_on(script: &mut dyn Read, psql: &mut dyn Write) -> Result<()> {
    let failed = |error| Error::io(Kind::Failed, "the script broke off", error);
    let (mut reader, mut line, mut buffer) = (ScriptReader::new(), Vec::new(), vec![0; 1 << 18]);
    loop {
        let count = script.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        for piece in buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if !piece.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
                break;
            }
            let is_guard = line.starts_with(b"\\restrict ") || line.starts_with(b"\\unrestrict ");
            let is_guard = is_guard && reader.is_outside();
            reader.push(&line)?;
            if !is_guard {
                psql.write_all(&line).map_err(failed)?;
            }
            line.clear();
        }
    }
    psql.write_all(&line).map_err(failed)
}

/// Schemas that a restore kept in a database, newest first: their time, and the renames back.
pub(super) fn kept(target: &Client) -> Result<Option<(String, Renames)>> {
    let mut session = Session::open(target, "cannot look for kept schemas")?;
    let rows = session.rows(
        "SELECT nspname AS name FROM pg_catalog.pg_namespace \
         WHERE nspname ~ '_before_restore_[0-9]{8}_[0-9]{6}$' ORDER BY nspname",
    )?;
    let names: Vec<&str> = rows.iter().map(|row| text(row, "name")).collect();
    let time = |name: &str| name[name.len() - "00000000_000000".len()..].to_owned();
    let Some(newest) = names.iter().map(|name| time(name)).max() else { return Ok(None) };
    let ending = format!("_before_restore_{newest}");
    let back = |name: &&str| Some(((*name).to_owned(), name.strip_suffix(&ending)?.to_owned()));
    Ok(Some((newest.clone(), names.iter().filter_map(back).collect())))
}

/// Renames kept schemas back; those that are there now get the ending.
pub(super) fn go_back(
    target: &Client,
    back: &[(String, String)],
    present_ending: &str,
) -> Result<()> {
    let mut session = Session::open(target, "cannot rename the schemas back")?;
    let names: Vec<String> = back.iter().map(|(_, name)| literal(name)).collect();
    let names = names.join(", ");
    let there = session.rows(&format!(
        "SELECT nspname AS name FROM pg_catalog.pg_namespace WHERE nspname IN ({names})"
    ))?;
    let extensions = session.rows(&format!(
        "SELECT e.extname AS name, n.nspname AS schema FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname IN ({names})"
    ))?;
    let away = there.iter().map(|row| text(row, "name"));
    let away: Vec<(String, String)> =
        away.map(|name| (name.to_owned(), short_name(name, present_ending))).collect();
    session.execute("BEGIN; SET LOCAL lock_timeout = 30000")?;
    for statement in renaming(&away).into_iter().chain(renaming(back)) {
        session.execute(&statement)?;
    }
    for row in &extensions {
        session.execute(&moving(text(row, "name"), text(row, "schema")))?;
    }
    session.execute("COMMIT")
}
