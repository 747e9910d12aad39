//! The way back: into a scratch database, counted and checked, then swapped by name.
//!
//! Nothing of the live database is touched before its replacement stands complete beside it. Then,
//! in one transaction, the old one is renamed to `NAME_before_restore_TIME` and the new one takes
//! its name. Sessions of the old one are ended while the rename holds its lock: whatever they
//! committed is in the old database, which stays, and new sessions wait until the new one is there.
//! `undo` swaps back the same way. A role that may not create databases restores within the one
//! that is there, schema by schema (`in_place`).

mod by_table;
mod counts;
mod feed;
mod in_place;
mod leftovers;
mod load;
mod plan;
mod roles;
mod sections;
mod stage;
mod statistics;
mod stream;
mod swap;
mod undo;

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_core::restore::Origin;
use lifeboat_core::seal::Keys;

use crate::client::Client;
use crate::source::DumpFormat;

use by_table::ByTable;
pub use plan::{RestorePlan, plan};
use sections::Sections;
use stage::Staged;
pub use undo::{UndoPlan, undo, undo_plan};

/// What is to be restored, and where to.
pub struct RestoreRequest<'a> {
    /// The dump.
    pub origin: Origin<'a>,
    /// The database that the dump will be, on the server where it will be.
    pub target: &'a Client,
    /// Whether owners and rights are restored. Without them everything belongs to our role.
    pub with_owners: bool,
    /// Only these schemas, of an archive; none means all.
    pub schemas: &'a [String],
    /// Only these tables, of an archive; none means all.
    pub tables: &'a [String],
    /// Where the dump is unpacked.
    pub scratch_folder: &'a Path,
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreOutcome {
    /// The database that was restored.
    pub database: String,
    /// The name under which the old one stays, if there was one.
    pub kept_as: Option<String>,
    /// Rows per table as counted in the new database.
    pub rows: BTreeMap<String, u64>,
    /// Roles that were made.
    pub roles: Vec<String>,
    /// Sessions of the old database that were ended.
    pub sessions_ended: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// What the beginning of a dump says of what it needs.
pub(crate) struct Needs {
    /// The major version of the server that it is of.
    pub(crate) server_major: Option<u32>,
    /// The roles that it names.
    pub(crate) roles: Vec<String>,
}

/// Reads the beginning of a dump.
pub(crate) fn head(env: &Env, origin: Origin<'_>) -> Result<Needs> {
    let head = stage::head(env, origin)?;
    let Some(contents) = head.contents else {
        return Ok(Needs { server_major: None, roles: Vec::new() });
    };
    let digits = contents.server_version.split(|letter: char| !letter.is_ascii_digit()).next();
    Ok(Needs {
        server_major: digits.and_then(|digits| digits.parse().ok()),
        roles: roles::named_by(&contents).into_iter().collect(),
    })
}

/// Whether a file, plain, compressed or sealed, begins as a dump of PostgreSQL does.
pub fn is_dump(env: &Env, path: &Path, keys: Option<&dyn Keys>) -> bool {
    let origin = Origin::File { path, keys };
    match stage::begins_as(env, origin) {
        // Also one that cannot be restored: why not is said then.
        Ok(Some(DumpFormat::Custom)) => true,
        Ok(Some(DumpFormat::Plain)) => stage::head(env, origin).is_ok_and(|head| head.is_dump),
        _ => false,
    }
}

/// Whether an archive is loaded while it is read, and not from a file.
fn streams(request: &RestoreRequest<'_>, plan: &RestorePlan) -> Result<bool> {
    let in_jobs = load::in_jobs(request.target);
    Ok(stream::is_possible(request) && !(in_jobs && stage::has_room(request, plan.plain_bytes)?))
}

/// How a dump gets into the new database.
enum Way<'a> {
    /// Table by table, straight from the repository.
    ByTable(Box<ByTable<'a>>),
    /// From our disk.
    Staged(Staged),
    /// While it is read.
    Streamed,
}

impl<'a> Way<'a> {
    /// The quickest one that is possible.
    fn choose(env: &Env, request: &RestoreRequest<'a>, plan: &RestorePlan) -> Result<Self> {
        let is_archive = plan.format == DumpFormat::Custom;
        if let Some(tables) = by_table::find(env, request, plan)?.filter(|_| is_archive) {
            return Ok(Way::ByTable(Box::new(tables)));
        }
        match is_archive && streams(request, plan)? {
            true => Ok(Way::Streamed),
            false => stage::stage(env, request, load::in_jobs(request.target)).map(Way::Staged),
        }
    }
}

/// Carries out a plan. On failure what was there is still there, under its own name.
pub fn apply(
    env: &Env,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
) -> Result<RestoreOutcome> {
    if let Some(in_place) = &plan.in_place {
        return in_place::apply(env, request, plan, in_place);
    }
    let begun_ms = env.clock.monotonic_ms();
    let server = plan.maintenance(request.target)?;
    let way = Way::choose(env, request, plan)?;
    env.crash.pass("restore.staged")?;
    let mut warnings = plan.warnings.clone();
    warnings.extend(leftovers::drop_abandoned(&server, &plan.abandoned)?);
    let roles = roles::make(&server, &plan.roles_to_make)?;
    let scratch = load::ScratchDatabase::make(&server, plan)?;
    let sections = Sections { env, request, plan, scratch: &scratch };
    let loaded = match &way {
        Way::ByTable(tables) => by_table::load(sections, tables)?,
        Way::Staged(staged) => load::load(env, request, plan, staged, &scratch)?,
        Way::Streamed => stream::load(sections)?,
    };
    let rows = load::count_and_analyze(request, plan, &loaded, &scratch)?;
    load::finish(plan, &scratch)?;
    env.crash.pass("restore.verified")?;
    let swapped = swap::swap(env, &server, plan, scratch)?;
    env.crash.pass("restore.swapped")?;
    if loaded.noise_lines > 0 {
        warnings.push(format!(
            "{} lines of pg_dump's messages among the statements were left out",
            loaded.noise_lines
        ));
    }
    Ok(RestoreOutcome {
        database: plan.database.clone(),
        kept_as: plan.kept_as.clone(),
        rows,
        roles,
        sessions_ended: swapped.sessions_ended,
        warnings,
        elapsed_ms: env.elapsed_ms(begun_ms),
    })
}
