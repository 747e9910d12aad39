//! One of two databases: live, in a file, or restored from a backup to a scratch place.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::restore::{self, FilesChoice, Mapping, Origin, Replay, RestoreRequest};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Client, LoadedDump, Loading, load};
use lifeboat_sqlite::Probe;

use crate::commands::drill::scratch::{Scratch, remove_leftovers};
use crate::logs::{self, State};
use crate::postgres;
use crate::selection;
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES, Target};
use crate::ui::units;

/// What was restored, for as long as it is read.
#[derive(Default)]
pub(crate) struct Holder {
    scratch: RefCell<Option<Scratch>>,
    dumps: RefCell<Vec<LoadedDump>>,
}

/// A database that can be read.
pub(crate) enum Database {
    /// A file of SQLite, held at one moment.
    Sqlite(Probe),
    /// A database of a server.
    Postgres(Box<Client>),
}

/// One side.
pub(crate) struct Side {
    /// What people call it.
    pub(crate) label: String,
    /// It.
    pub(crate) database: Database,
    /// Where its file lies, of SQLite.
    pub(crate) path: Option<PathBuf>,
    /// The name of the backup that it was restored from.
    pub(crate) backup: Option<String>,
}

impl Side {
    /// The newest state at or before a time, of a backup or of its log.
    pub(crate) fn open_at(
        session: &Session,
        env: &Env,
        holder: &Holder,
        argument: &str,
        at: &str,
    ) -> Result<Side> {
        let selected = selection::backup(session, env, argument, Some(at))?;
        restored(session, env, holder, &logs::meant(selected)?)
    }

    /// Finds what an argument means, and brings it where it can be read. What is made for that
    /// lives as long as the holder.
    pub(crate) fn open(
        session: &Session,
        env: &Env,
        holder: &Holder,
        argument: &str,
    ) -> Result<Side> {
        if postgres::is_address(argument) {
            let typed = postgres::typed(argument)?;
            let configured = selection::target_of(session, argument)?;
            let database = configured.and_then(|target| target.database);
            let database = match database {
                Some(database) => database.as_typed(&typed),
                None => postgres::Database::at(typed),
            };
            return live_server(&database);
        }
        if let Some(selected) = selection::artifact(session, env, argument)? {
            return restored(session, env, holder, &State::of_backup(selected));
        }
        // A path first: what lies there is meant, whatever a source is called.
        let path = Path::new(argument);
        if path.is_file() {
            return of_file(session, env, holder, path);
        }
        if let Some(target) = selection::target_of(session, argument)? {
            return live(&target);
        }
        let selected = selection::backup(session, env, argument, None)?;
        restored(session, env, holder, &logs::meant(selected)?)
    }
}

fn live(target: &Target) -> Result<Side> {
    if let Some(database) = &target.database {
        return live_server(database);
    }
    if target.cluster.is_some() {
        let message = format!("{} is a whole cluster", target.name);
        return Err(Error::new(Kind::Usage, message)
            .hint("name a database of it by its URL: postgresql://HOST/DATABASE"));
    }
    match &target.path {
        Some(path) => of_database(path, format!("{} (live)", target.name)),
        None => Err(no_rows(&target.name)),
    }
}

fn live_server(database: &postgres::Database) -> Result<Side> {
    let label = database.address().label();
    let database = Database::Postgres(Box::new(database.client()?));
    Ok(Side { label, database, path: None, backup: None })
}

fn of_database(path: &Path, label: String) -> Result<Side> {
    let database = Database::Sqlite(Probe::open(path)?);
    Ok(Side { label, database, path: Some(path.to_owned()), backup: None })
}

fn of_file(session: &Session, env: &Env, holder: &Holder, path: &Path) -> Result<Side> {
    let label = units::one_line(&path.to_string_lossy());
    let found = lifeboat_sqlite::glance(path).map_err(|error| {
        Error::io(Kind::SourceUnavailable, format!("cannot read {label}"), error)
    })?;
    if found.is_some() {
        return of_database(path, label);
    }
    let keys = session.keys()?;
    let origin = Origin::File { path, keys: keys.as_deref() };
    match lifeboat_postgres::restore::is_dump(env, path, keys.as_deref()) {
        true => loaded(session, env, holder, origin, label),
        false => unpacked(session, env, holder, (origin, None), label),
    }
}

/// A backup, or a state of its log, restored to the scratch place.
fn restored(session: &Session, env: &Env, holder: &Holder, state: &State) -> Result<Side> {
    let manifest = &state.selected.manifest;
    let label = match &state.replay {
        Some(replay) => replay.name(),
        None => manifest.name.clone(),
    };
    let side = match manifest.source.kind.as_str() {
        lifeboat_sqlite::KIND => {
            let replay = state.replay.as_ref().map(|replay| replay as &dyn Replay);
            unpacked(session, env, holder, (state.selected.origin(), replay), label)
        }
        postgres::KIND => loaded(session, env, holder, state.selected.origin(), label),
        lifeboat_postgres::CLUSTER_KIND => {
            let message = format!("{label} is a backup of a whole cluster");
            let restore = format!("lifeboat restore {} --to DIR", units::shell_word(&label));
            Err(Error::new(Kind::Usage, message)
                .hint(format!("`{restore}`, start it, and name the URL of a database in it")))
        }
        _ => Err(no_rows(&label)),
    };
    side.map(|side| Side { backup: Some(manifest.name.clone()), ..side })
}

fn unpacked(
    session: &Session,
    env: &Env,
    holder: &Holder,
    (origin, replay): (Origin<'_>, Option<&dyn Replay>),
    label: String,
) -> Result<Side> {
    of_database(&restored_file(session, env, holder, (origin, replay))?, label)
}

/// The file of a database that was restored to the scratch place.
pub(crate) fn restored_file(
    session: &Session,
    env: &Env,
    holder: &Holder,
    (origin, replay): (Origin<'_>, Option<&dyn Replay>),
) -> Result<PathBuf> {
    let mut scratch = holder.scratch.borrow_mut();
    let scratch = match &mut *scratch {
        Some(scratch) => scratch,
        none => {
            remove_leftovers(&session.folders.scratch);
            none.insert(Scratch::new(env, &session.folders.scratch)?)
        }
    };
    let path = scratch.path().join(format!("{}.db", env.new_uuid().simple()));
    let request = RestoreRequest {
        origin,
        replay,
        engine: sources::engine(lifeboat_sqlite::KIND)?,
        to: Some(path.clone()),
        files: FilesChoice::No,
        files_root: None,
        mapping: Mapping::nothing(),
        // Its hashes are compared; every row of it is read right after.
        check: CheckLevel::None,
        check_memory_bytes: CHECK_MEMORY_BYTES,
        service: None,
        scratch_folder: scratch.path(),
    };
    let plan = restore::plan(env, &request)?;
    restore::apply(env, &request, &plan)?;
    Ok(path)
}

fn loaded(
    session: &Session,
    env: &Env,
    holder: &Holder,
    origin: Origin<'_>,
    label: String,
) -> Result<Side> {
    match load(env, &postgres::options(), origin, &session.folders.scratch)? {
        Loading::Loaded(dump) => {
            let client = dump.client()?;
            holder.dumps.borrow_mut().push(*dump);
            let database = Database::Postgres(Box::new(client));
            Ok(Side { label, database, path: None, backup: None })
        }
        Loading::NotHere(why) => {
            Err(Error::new(Kind::SourceUnavailable, format!("{label} cannot be loaded here"))
                .caused_by(why)
                .hint("install what is missing, or restore it to a server and name its URL"))
        }
    }
}

fn no_rows(label: &str) -> Error {
    Error::new(Kind::Usage, format!("{label} holds files, and no rows"))
        .hint("restore it with --to, and compare the folders with `diff -r`")
}
