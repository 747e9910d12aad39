//! A read-only connection whose open read transaction pins one state of a database.

use std::path::Path;
use std::time::Duration;

use lifeboat_core::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::ffi::{self, Mark};
use crate::held::{self, Announced, Identity};
use crate::holders;

/// How long to wait for others' locks before the database counts as busy.
const BUSY_TIMEOUT_MS: u64 = 10_000;

/// A connection with an open read transaction. Dropping it lets the state go.
pub(crate) struct Pinned {
    // Declared, and so dropped, before the announcement.
    connection: Connection,
    _announced: Announced,
    identity: Identity,
}

/// How an attempt to pin a state ended, errors aside.
pub(crate) enum Attempt {
    /// It is pinned.
    Pinned(Box<Pinned>),
    /// A transaction was cut off; its journal waits to be rolled back.
    HotJournal,
    /// The `-wal` cannot be read through SQLite, because it may not write beside it.
    NoSharedMemory,
    /// SQLite refuses to read the file at all: the reason.
    Refused(String),
}

/// Opens the database read-only and begins a read transaction.
pub(crate) fn pin(path: &Path) -> Result<Attempt> {
    let identity = Identity::of_path(path).map_err(|error| missing(path, error))?;
    let announced = held::announce(identity);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path, flags) {
        Ok(connection) => connection,
        Err(error) => return classify(path, error),
    };
    if let Err(error) = begin(&connection) {
        return classify(path, error);
    }
    if ffi::has_moved(&connection) || Identity::of_path(path).ok() != Some(identity) {
        return Err(Error::new(
            Kind::SourceUnavailable,
            format!("{} was replaced by another file while it was opened", path.display()),
        )
        .hint("run the backup again"));
    }
    Ok(Attempt::Pinned(Box::new(Pinned { connection, _announced: announced, identity })))
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;")?;
    // Reading the cookie takes the lock without parsing the schema, which may be damaged.
    let take_lock = || {
        connection.execute_batch("BEGIN")?;
        connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))
    };
    match take_lock() {
        Err(error) if code(&error) == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            // A file that is shorter than its header says is read only with this set.
            connection.execute_batch("ROLLBACK; PRAGMA writable_schema = ON;")?;
            take_lock().map(drop)
        }
        other => other.map(drop),
    }
}

fn classify(path: &Path, error: rusqlite::Error) -> Result<Attempt> {
    use rusqlite::ErrorCode::{CannotOpen, DatabaseCorrupt, NotADatabase};
    let extended = error.sqlite_error().map(|failure| failure.extended_code);
    match (extended, code(&error)) {
        (Some(rusqlite::ffi::SQLITE_READONLY_ROLLBACK), _) => Ok(Attempt::HotJournal),
        (
            Some(
                rusqlite::ffi::SQLITE_READONLY_RECOVERY
                | rusqlite::ffi::SQLITE_READONLY_CANTINIT
                | rusqlite::ffi::SQLITE_READONLY_CANTLOCK
                | rusqlite::ffi::SQLITE_READONLY_DIRECTORY,
            ),
            _,
        )
        | (_, Some(CannotOpen)) => Ok(Attempt::NoSharedMemory),
        (_, Some(DatabaseCorrupt | NotADatabase)) => Ok(Attempt::Refused(error.to_string())),
        _ => Err(failed(path, error)),
    }
}

impl Pinned {
    /// The connection. Its transaction must stay open.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The same, to set a progress handler.
    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Which file it reads.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// How many pages the state has; `None` where its schema is too damaged for SQLite to say.
    pub(crate) fn page_count(&self) -> rusqlite::Result<Option<u32>> {
        match self.connection.query_row("PRAGMA page_count", [], |row| row.get(0)) {
            Err(error) if code(&error) == Some(rusqlite::ErrorCode::DatabaseCorrupt) => Ok(None),
            other => other.map(Some),
        }
    }
}

/// A connection that takes hold of a state now and then, and lets it go soon.
pub(crate) struct Glimpse(Box<Pinned>);

impl Glimpse {
    /// Lets go the state that was pinned.
    pub(crate) fn of(path: &Path, pinned: Box<Pinned>) -> Result<Self> {
        let glimpse = Glimpse(pinned);
        glimpse.let_go(path)?;
        Ok(glimpse)
    }

    /// Takes hold of the newest state: its mark; `None` where there is no `-wal`, or another file
    /// has the database's name.
    pub(crate) fn take(&self, path: &Path) -> Result<Option<Mark>> {
        let connection = &self.0.connection;
        let taken = connection.execute_batch("BEGIN").and_then(|()| {
            connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))
        });
        taken.map_err(|error| failed(path, error))?;
        let is_it = !ffi::has_moved(connection);
        Ok(ffi::snapshot_mark(connection).filter(|_| is_it))
    }

    /// Lets it go.
    pub(crate) fn let_go(&self, path: &Path) -> Result<()> {
        self.0.connection.execute_batch("ROLLBACK").map_err(|error| failed(path, error))
    }
}

/// The error for a path that cannot even be looked at.
pub(crate) fn missing(path: &Path, error: std::io::Error) -> Error {
    let name = path.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::SourceUnavailable, format!("there is no database at {name}"))
                .hint("check the path; nothing was created there")
                .caused_by(error)
        }
        std::io::ErrorKind::PermissionDenied => {
            Error::new(Kind::SourceUnavailable, format!("no permission to read {name}"))
                .hint(format!("run as the owner of the database: see `ls -l {name}`"))
                .caused_by(error)
        }
        _ => Error::io(Kind::SourceUnavailable, format!("cannot read {name}"), error),
    }
}

/// The error for a database that SQLite could not read. A busy one is named with who holds it.
pub(crate) fn failed(path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{
        DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
        NotADatabase,
    };
    let name = path.display();
    let extended = error.sqlite_error().map(|failure| failure.extended_code);
    if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHORT_READ) {
        return log_is_foreign(path).caused_by(error);
    }
    match code(&error) {
        Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed) => {
            busy(path, "is locked").caused_by(error)
        }
        Some(DatabaseCorrupt | NotADatabase) => {
            Error::new(Kind::CheckFailed, format!("{name} is damaged"))
                .hint("restore it from a backup, or rescue its rows with `lifeboat salvage`")
                .caused_by(error)
        }
        Some(DiskFull) => {
            Error::new(Kind::NoSpace, format!("no space beside {name}")).caused_by(error)
        }
        _ => Error::new(Kind::SourceUnavailable, format!("SQLite cannot read {name}"))
            .caused_by(error),
    }
}

/// Somebody removed the `-wal` of a database that is in use, or put another in its place.
pub(crate) fn log_is_foreign(path: &Path) -> Error {
    Error::new(
        Kind::SourceUnavailable,
        format!(
            "the -wal of {} is not the one that its application writes to: somebody removed or \
             replaced it",
            path.display()
        ),
    )
    .hint(
        "what was committed since is in a file without a name, which goes when the application \
         stops: copy it before, from where `ls -l /proc/*/fd | grep deleted` shows it",
    )
}

/// The error for a database that others keep to themselves: who, and the ways out.
pub(crate) fn busy(path: &Path, how: &str) -> Error {
    let holders = holders::describe(path);
    Error::new(Kind::SourceUnavailable, format!("{} {how}{holders}", path.display())).hint(
        "try again when it is idle, use WAL mode in the application, or stop its service for \
         the copy: `--method cold`",
    )
}

fn code(error: &rusqlite::Error) -> Option<rusqlite::ErrorCode> {
    error.sqlite_error_code()
}
