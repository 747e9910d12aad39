//! Loads a dump into a new database of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::child::Running;
use crate::client::Client;
use crate::quote::{identifier, literal};
use crate::session::Session;
use crate::source::DumpFormat;

use super::RestoreRequest;
use super::plan::RestorePlan;
use super::stage::{Loaded, Staged};
use super::{counts, statistics};

/// More jobs than this do not help a small server.
pub(super) const JOBS_MAX: usize = 8;
/// Settings whose value is a list of names: it is written as it stands.
const LISTS: &[&str] = &[
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "local_preload_libraries",
    "shared_preload_libraries",
];

/// The database that is loaded. Dropped, unless it was swapped in.
pub(super) struct ScratchDatabase {
    client: Client,
    server: Client,
    name: String,
    placed: bool,
    /// Shows others that somebody is at work in it.
    at_work: Option<Session>,
}

/// What a scratch database has as its comment until it is in its place.
pub(super) const SCRATCH_MARK: &str = "lifeboat loads a dump here: not a database to use";

impl ScratchDatabase {
    /// Makes it empty, with the encoding and collation of the dump's.
    pub(super) fn make(server: &Client, plan: &RestorePlan) -> Result<Self> {
        let client = server.with_database(&plan.scratch)?;
        let mut session = Session::open(server, "cannot make a database to load the dump into")?;
        session.execute(&format!(
            "CREATE DATABASE {} TEMPLATE template0{}",
            identifier(&plan.scratch),
            locale(plan)
        ))?;
        let server = server.with_database(&plan.maintenance)?;
        let name = plan.scratch.clone();
        let mut made = ScratchDatabase { client, server, name, placed: false, at_work: None };
        made.at_work = Some(Session::open(&made.client, "cannot enter the new database")?);
        let (name, mark) = (identifier(&made.name), literal(SCRATCH_MARK));
        session.execute(&format!("COMMENT ON DATABASE {name} IS {mark}"))?;
        Ok(made)
    }

    /// Nobody of ours is in it any more.
    pub(super) fn leave(&mut self) {
        self.at_work = None;
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It has its final name now.
    pub(super) fn placed(mut self) {
        self.placed = true;
    }
}

impl Drop for ScratchDatabase {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        self.leave();
        if let Ok(mut session) = Session::open(&self.server, "cannot remove a scratch database") {
            let _ = session.execute(&format!("DROP DATABASE {}", identifier(&self.name)));
        }
    }
}

/// Encoding and collation as options of `CREATE DATABASE`; nothing where no manifest says them.
fn locale(plan: &RestorePlan) -> String {
    let text = |name: &str| plan.facts.get(name).and_then(Value::as_str);
    let mut options = String::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            options.push_str(&format!(" {name} {}", literal(value)));
        }
    };
    add("ENCODING", text("encoding"));
    add("LC_COLLATE", text("collate"));
    add("LC_CTYPE", text("ctype"));
    let provider = text("locale_provider").filter(|_| plan.server_major >= 15);
    match (provider, text("locale")) {
        (Some("i"), Some(locale)) => {
            add("ICU_LOCALE", Some(locale));
            options.push_str(" LOCALE_PROVIDER icu");
        }
        (Some("b"), Some(locale)) if plan.server_major >= 17 => {
            add("BUILTIN_LOCALE", Some(locale));
            options.push_str(" LOCALE_PROVIDER builtin");
        }
        (Some("c"), _) => options.push_str(" LOCALE_PROVIDER libc"),
        _ => {}
    }
    options
}

/// Loads all of it; the first error ends it.
pub(super) fn load(
    env: &Env,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    staged: &Staged,
    scratch: &ScratchDatabase,
) -> Result<Loaded> {
    let phase = "loading";
    env.tell(Event::PhaseBegan { subject: &plan.what, phase, bytes_total: None });
    let what = format!("cannot load {} into {}", plan.what, scratch.name());
    let client = scratch.client();
    let failed = |error| Error::io(Kind::Failed, what.as_str(), error);
    let mut command = client.command(&plan.loader);
    match staged.format {
        DumpFormat::Custom => {
            archive_options(&mut command, request);
            command.args(request.schemas.iter().map(|schema| format!("--schema={schema}")));
            command.args(request.tables.iter().map(|table| format!("--table={table}")));
            if !request.schemas.is_empty() || !request.tables.is_empty() {
                // A part that the dump does not have is a mistake, not an empty database.
                command.arg("--strict-names");
            }
            match in_jobs(client) {
                // From a file, several jobs at once; it is read where it is. At least two, for one
                // alone does not empty a table before it loads it.
                true => {
                    let jobs = env.threads.clamp(2, JOBS_MAX);
                    command.arg(format!("--jobs={jobs}")).arg(staged.path()).stdin(Stdio::null());
                }
                false => {
                    command.stdin(File::open(staged.path()).map_err(failed)?);
                }
            }
        }
        DumpFormat::Plain => {
            command.args(["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
            command.stdin(Stdio::piped());
        }
    }
    quick_session(&mut command, plan);
    let mut running = Running::start(command, what.as_str())?;
    if staged.format == DumpFormat::Plain {
        feed(&mut running, staged)?;
    }
    running.finish_within(env).map_err(nothing_changed)?;
    env.tell(Event::PhaseEnded { phase });
    Ok(Loaded { noise_lines: staged.noise_lines, ..Loaded::of(staged.rows.clone()) })
}

/// The error of a loader, with what it means.
pub(super) fn nothing_changed(error: Error) -> Error {
    let hint = match error.hint_text() {
        Some(hint) => format!("nothing was changed; {hint}"),
        None => "nothing was changed: mend the dump, or choose another backup".to_owned(),
    };
    error.hint(hint)
}

/// Whether several jobs of `pg_restore` can load one file.
pub(super) fn in_jobs(target: &Client) -> bool {
    target.is_local()
}

/// What every `pg_restore` of ours is told.
pub(super) fn archive_options(command: &mut Command, request: &RestoreRequest<'_>) {
    command.args(["--exit-on-error", "--no-tablespaces"]);
    if !request.with_owners {
        command.args(["--no-owner", "--no-privileges"]);
    }
}

/// Settings of the sessions that load. Durability is not needed before the swap: its own commit
/// comes last and is synced. Indexes may use as much memory as the server has for its cache.
pub(super) fn session_settings(plan: &RestorePlan) -> String {
    let mut options = format!(
        "-c synchronous_commit=off -c statement_timeout=0 -c max_parallel_maintenance_workers={}",
        plan.index_helpers
    );
    if let Some(kilobytes) = plan.index_memory_kb {
        options.push_str(&format!(" -c maintenance_work_mem={kilobytes}kB"));
    }
    options
}

/// The same for a program of PostgreSQL's.
pub(super) fn quick_session(command: &mut Command, plan: &RestorePlan) {
    command.env("PGOPTIONS", session_settings(plan));
}

/// Gives psql the script within a guard that lets no command of psql through.
fn feed(running: &mut Running, staged: &Staged) -> Result<()> {
    use std::io::Write;
    let Some(mut stdin) = running.stdin() else {
        return Err(Error::new(Kind::Failed, "psql has no input"));
    };
    let mut file = File::open(staged.path())
        .map_err(|error| Error::io(Kind::Failed, "cannot read the unpacked dump", error))?;
    // Where psql ends early, its own error says why: a broken pipe is not the reason.
    let key = staged.guard();
    let _ = writeln!(stdin, "\\restrict {key}")
        .and_then(|()| std::io::copy(&mut file, &mut stdin))
        .and_then(|_| writeln!(stdin, "\n\\unrestrict {key}"));
    Ok(())
}

/// What belongs to the database itself and is in no dump of its objects: settings, owner.
pub(super) fn finish(plan: &RestorePlan, scratch: &ScratchDatabase) -> Result<()> {
    let mut session = Session::open(scratch.client(), "cannot finish the new database")?;
    let name = identifier(scratch.name());
    if plan.with_owners {
        for statement in settings(plan, &name) {
            session.execute(&statement)?;
        }
        if let Some(owner) = plan.facts.get("owner").and_then(Value::as_str) {
            session.execute(&format!("ALTER DATABASE {name} OWNER TO {}", identifier(owner)))?;
        }
        // After that: the owner is who gives the rights.
        for statement in rights(plan, &name) {
            session.execute(&statement)?;
        }
    }
    if let Some(limit) = plan.facts.get("connections_max").and_then(Value::as_u64) {
        session.execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}"))?;
    }
    Ok(())
}

/// Who may do what with the database, where the manifest says it.
fn rights(plan: &RestorePlan, database: &str) -> Vec<String> {
    let Some(rights) = plan.facts.get("rights").and_then(Value::as_array) else {
        return Vec::new();
    };
    let grant = |one: &Value| {
        let right = one.get("right").and_then(Value::as_str)?;
        let is_word = right.bytes().all(|byte| byte.is_ascii_uppercase());
        let role = one.get("role").and_then(Value::as_str).map(identifier);
        let role = role.unwrap_or_else(|| "PUBLIC".to_owned());
        let option = match one.get("grantable") == Some(&Value::Bool(true)) {
            true => " WITH GRANT OPTION",
            false => "",
        };
        is_word.then(|| format!("GRANT {right} ON DATABASE {database} TO {role}{option}"))
    };
    let none = format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC");
    std::iter::once(none).chain(rights.iter().filter_map(grant)).collect()
}

/// Counts the rows that were not counted yet and compares all of them, and meanwhile makes the
/// statistics for the first queries.
pub(super) fn count_and_analyze(
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    loaded: &Loaded,
    scratch: &ScratchDatabase,
) -> Result<BTreeMap<String, u64>> {
    std::thread::scope(|scope| {
        let analyzing = scope.spawn(|| statistics::analyze(scratch.client()));
        let counted = counts::compare(request, plan, loaded, scratch.client());
        let analyzed = analyzing.join();
        let counted = counted?;
        analyzed.unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the thread ended badly")))?;
        Ok(counted)
    })
}

fn settings(plan: &RestorePlan, database: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for one in plan.facts.get("settings").and_then(Value::as_array).into_iter().flatten() {
        let whose = match one.get("role").and_then(Value::as_str) {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {database}", identifier(role)),
            None => format!("ALTER DATABASE {database}"),
        };
        for setting in one.get("set").and_then(Value::as_array).into_iter().flatten() {
            let Some((name, value)) = setting.as_str().and_then(|text| text.split_once('=')) else {
                continue;
            };
            let is_word =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
            let value = match LISTS.contains(&name) {
                true if value.is_empty() => "''".to_owned(),
                true => value.to_owned(),
                false => literal(value),
            };
            if is_word {
                statements.push(format!("{whose} SET {name} TO {value}"));
            }
        }
    }
    statements
}
