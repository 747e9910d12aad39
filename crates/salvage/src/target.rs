//! The new database: made under another name, filled, checked, and only then given its own.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::schema::{Entry, SEQUENCE, Table, make_one};
use crate::text::Encoding;

/// Memory of SQLite's page cache, in KiB: rows are appended, and indexes are sorted within it.
const CACHE_KIB: u32 = 32 * 1024;
/// The same while the result is checked.
const CHECK_CACHE_KIB: u32 = 128 * 1024;
/// Threads that sort for an index, each with as much memory as the cache.
const SORTERS_MAX: usize = 2;
/// Lines of a check that are kept.
const LINES_MAX: usize = 20;
/// Instructions of SQLite between two questions whether to stop.
const STOP_EVERY: i32 = 20_000;

/// What the new database has in common with the old one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) page_size: usize,
    pub(crate) encoding: Encoding,
    /// As `PRAGMA auto_vacuum` counts.
    pub(crate) auto_vacuum: u32,
    pub(crate) user_version: i32,
    pub(crate) application_id: i32,
}

/// The place of the new database, and the name that it has meanwhile.
pub(crate) struct Place {
    to: PathBuf,
    /// The name meanwhile.
    pub(crate) part: PathBuf,
    /// The file, locked for as long as it is made: one without a lock is of a run that was killed.
    lock: RefCell<Option<File>>,
}

impl Place {
    /// Refuses a place where something is.
    pub(crate) fn new(to: &Path, id: u32) -> Result<Self> {
        if fs::symlink_metadata(to).is_ok() {
            let message = format!("{} is there already", to.display());
            return Err(Error::new(Kind::Refused, message).hint("name a place where nothing is"));
        }
        for ending in ["-wal", "-journal"] {
            let side = with_ending(to, ending);
            if fs::symlink_metadata(&side).is_ok() {
                let message =
                    format!("{} is there, and would be taken for the new one's", side.display());
                return Err(Error::new(Kind::Refused, message).hint("name another place"));
            }
        }
        let name = to.file_name().ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} is no name of a file", to.display()))
        })?;
        let prefix = format!(".{}.salvage-", name.to_string_lossy());
        remove_leftovers(to, &prefix);
        let part = to.with_file_name(format!("{prefix}{id:08x}"));
        Ok(Place { to: to.to_owned(), part, lock: RefCell::new(None) })
    }

    /// Creates the file, for its owner alone.
    pub(crate) fn create(&self) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&self.part).map_err(|error| self.failed("create", error))?;
        // This lock is none of those that SQLite has, and needs a descriptor of its own that stays.
        let lock = file.try_clone().map_err(|error| self.failed("create", error))?;
        lock.try_lock().map_err(|error| self.failed("lock", error.into()))?;
        self.lock.replace(Some(lock));
        Ok(file)
    }

    /// Gives it its name, when its bytes are on the disk.
    pub(crate) fn publish(&self) -> Result<()> {
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        sync(&self.part).map_err(|error| self.failed("write", error))?;
        renameat_with(CWD, &self.part, CWD, &self.to, RenameFlags::NOREPLACE)
            .map_err(|error| self.failed("rename to", error.into()))?;
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync(folder.unwrap_or(Path::new("."))).map_err(|error| self.failed("write", error))
    }

    /// Removes what was made under the other name.
    pub(crate) fn discard(&self) -> Result<()> {
        fs::remove_file(&self.part).map_err(|error| self.failed("remove", error))
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(Kind::Failed, format!("cannot {what} {}", self.to.display()), error)
    }
}

/// Removes what runs that were killed left of the same database. What cannot be removed hinders
/// nothing.
fn remove_leftovers(to: &Path, prefix: &str) {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let is_one =
            id.is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_one || !is_file {
            continue;
        }
        let path = entry.path();
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            for ending in ["", "-journal", "-wal", "-shm"] {
                let _ = fs::remove_file(with_ending(&path, ending));
            }
        }
    }
}

impl Drop for Place {
    /// What did not get its name is of no use.
    fn drop(&mut self) {
        for ending in ["", "-journal", "-wal", "-shm"] {
            // Mostly it is not there.
            let _ = fs::remove_file(with_ending(&self.part, ending));
        }
    }
}

/// A path with something behind its last letter.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// An error of SQLite on the new database.
pub(crate) fn failed(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Kind::NoSpace,
        Some(rusqlite::ErrorCode::OperationInterrupted) => Kind::Interrupted,
        _ => Kind::Failed,
    };
    with_way_out(Error::new(kind, "cannot write the new database").caused_by(error))
}

/// Opens the new database and gives it the settings of the old one.
pub(crate) fn open(path: &Path, settings: &Settings, threads: usize) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let threads = threads.min(SORTERS_MAX);
    let sql = format!(
        "PRAGMA page_size = {}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {};
         PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -{CACHE_KIB}; PRAGMA threads = {threads};
         PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;
         PRAGMA trusted_schema = OFF; PRAGMA user_version = {}; PRAGMA application_id = {}",
        settings.page_size,
        settings.encoding.name(),
        settings.auto_vacuum,
        settings.user_version,
        settings.application_id,
    );
    connection.execute_batch(&sql).map_err(failed)?;
    Ok(connection)
}

/// Makes the tables, empty.
pub(crate) fn make_tables(connection: &mut Connection, tables: &[Table]) -> Result<()> {
    for table in tables.iter().filter(|table| !table.sql.is_empty()) {
        make_one(connection, &table.sql).map_err(failed)?;
    }
    // It is there as soon as one table counts by it, though of that one nothing may be left.
    if tables.iter().any(|table| table.layout.name == SEQUENCE) {
        let name = "_lifeboat_counts_for_a_moment";
        let sql = format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY AUTOINCREMENT)");
        connection.execute_batch(&format!("{sql}; DROP TABLE {name}")).map_err(failed)?;
    }
    Ok(())
}

/// Makes everything that is no table with rows. What fails is said, and left out.
pub(crate) fn make_rest(connection: &Connection, entries: &[Entry], problems: &mut Vec<String>) {
    for kind in ["index", "view", "trigger"] {
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            let Some(sql) = &entry.sql else { continue };
            if let Err(error) = connection.execute(sql, []) {
                problems.push(format!("{kind} {} was not made: {error}", entry.name));
            }
        }
    }
    let is_virtual = |entry: &&Entry| entry.kind == "table" && entry.is_virtual();
    for entry in entries.iter().filter(is_virtual) {
        if let Err(error) = make_virtual(connection, entry) {
            problems.push(format!("virtual table {} was not made: {error}", entry.name));
        }
    }
}

/// A virtual table is only its entry: what it stores lies in tables, which are there by now. An
/// entry that cannot be read would make all others unreadable: it is tried elsewhere first.
fn make_virtual(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let taken = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    if connection.query_row(taken, [&entry.name], |row| row.get::<_, i64>(0))? > 0 {
        return Err(rusqlite::Error::InvalidParameterName("its name is taken".to_owned()));
    }
    let elsewhere = Connection::open_in_memory()?;
    elsewhere.execute_batch("PRAGMA trusted_schema = OFF")?;
    add_entry(&elsewhere, entry)?;
    add_entry(connection, entry)
}

fn add_entry(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA writable_schema = ON")?;
    let sql = "INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql) \
               VALUES('table', ?1, ?2, 0, ?3)";
    let made = connection.execute(sql, (&entry.name, &entry.table, &entry.sql));
    connection.execute_batch("PRAGMA writable_schema = RESET")?;
    made?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Lets a signal end what SQLite does.
pub(crate) fn stoppable(connection: &mut Connection, env: &Env) -> Result<()> {
    let env = env.clone();
    let stop = move || env.proceed().is_err();
    connection.progress_handler(STOP_EVERY, Some(stop)).map_err(failed)
}

/// What SQLite says against a database; nothing where it says "ok".
pub(crate) fn check(env: &Env, connection: &Connection, most: usize) -> Result<Vec<String>> {
    let most = most.min(LINES_MAX);
    let said = set_check_cache(connection, 1)
        .and_then(|()| lines(connection, &format!("PRAGMA integrity_check({most})")));
    // A check that was ended by a signal says nothing.
    env.proceed()?;
    Ok(match said {
        Ok(lines) if lines == ["ok"] => Vec::new(),
        Ok(lines) if lines.is_empty() => vec!["the check gave no answer".to_owned()],
        Ok(lines) => lines,
        Err(error) => vec![error.to_string()],
    })
}

/// Gives a connection that checks its share of the memory.
pub(crate) fn set_check_cache(connection: &Connection, connections: usize) -> rusqlite::Result<()> {
    let kib = CHECK_CACHE_KIB / u32::try_from(connections.max(1)).unwrap_or(1);
    connection.execute_batch(&format!("PRAGMA cache_size = -{kib}"))
}

/// What a check of SQLite says of one table: "ok", or what is wrong.
pub(crate) fn check_table(
    connection: &Connection,
    check: &str,
    table: &str,
) -> rusqlite::Result<Vec<String>> {
    lines(connection, &format!("PRAGMA {check}('{}')", table.replace('\'', "''")))
}

/// What SQLite says against each table with rows by itself: where it cannot look into a virtual
/// one, or has no collation, the others are judged without it.
pub(crate) fn damaged_tables(env: &Env, connection: &Connection) -> Result<Vec<String>> {
    let sql =
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow')";
    let mut damaged = Vec::new();
    for name in lines(connection, sql).map_err(failed)? {
        env.proceed()?;
        match check_table(connection, "integrity_check", &name) {
            Ok(lines) if lines == ["ok"] => {}
            Ok(lines) => damaged.extend(lines),
            // It cannot be checked, which is said elsewhere.
            Err(_) => {}
        }
    }
    Ok(damaged)
}

fn lines(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// An error of the file system on the new database.
pub(crate) fn writing(error: std::io::Error) -> Error {
    with_way_out(Error::io(Kind::Failed, "cannot write the new database", error))
}

fn with_way_out(error: Error) -> Error {
    match error.kind() {
        Kind::NoSpace => error.hint("make room there, or name another place with --to"),
        _ => error,
    }
}
