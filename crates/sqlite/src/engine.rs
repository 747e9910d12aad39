//! What all SQLite databases share, without a live one: checks of files, names, holders.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::source::{CheckReport, Engine, FileDescription, Holder};
use lifeboat_core::{Error, Kind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::KIND;
use crate::check::{self, Checked};
use crate::facts;
use crate::header::{self, Header, MAGIC};
use crate::holders;

/// The engine of SQLite databases.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqliteEngine;

impl Engine for SqliteEngine {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn recognizes(&self, first_bytes: &[u8]) -> bool {
        first_bytes.starts_with(MAGIC)
    }

    fn check_file(
        &self,
        env: &Env,
        path: &Path,
        level: CheckLevel,
        memory_bytes: u64,
    ) -> Result<CheckReport> {
        let begun_ms = env.clock.monotonic_ms();
        let (first, bytes) = read_first(path)?;
        let header = match header::require(path, &first) {
            Ok(header) => header,
            Err(error) => return Ok(check::failed(level, error.message().to_owned())),
        };
        if let Some(damage) = truncation(&header, bytes) {
            return Ok(check::failed(level, damage));
        }
        let mut connection = match open_immutable(path) {
            Ok(connection) => connection,
            Err(error) => return Ok(check::failed(level, error.to_string())),
        };
        let watched = env.clone();
        let stop_when: check::StopWhen = Box::new(move || watched.proceed().is_err());
        let checked =
            check::check(&mut connection, &env.clock, level, memory_bytes, Some(stop_when));
        // A check that was broken off found nothing: the reason is the error.
        env.proceed()?;
        let mut report = match checked {
            Checked::Done(report) => report,
            Checked::Stopped => check::failed(level, "the check was interrupted".into()),
        };
        if level == CheckLevel::Full && report.damage.is_empty() {
            report.rows = count_rows(&connection);
        }
        report.elapsed_ms = env.elapsed_ms(begun_ms);
        Ok(report)
    }

    fn describe_file(&self, path: &Path) -> Result<FileDescription> {
        let (first, bytes) = read_first(path)?;
        let header = header::require(path, &first)?;
        let failed = |error| {
            let message = format!("cannot read the tables of {}", path.display());
            Error::new(Kind::CheckFailed, message).caused_by(error)
        };
        let connection = open_immutable(path).map_err(failed)?;
        let entries: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        let page_count = u32::try_from(bytes / u64::from(header.page_size)).unwrap_or(u32::MAX);
        Ok(FileDescription {
            facts: facts::facts(&header, page_count, 0),
            schema_version: facts::schema_version(Some(&connection), header.user_version),
            rows: count_rows(&connection),
            empty: (entries == 0).then(|| "no table is in it".to_owned()),
            notes: Vec::new(),
        })
    }

    fn may_lack_side_files(&self, description: &FileDescription) -> bool {
        description.facts.get("journal_mode").is_some_and(|mode| mode == "wal")
    }

    fn side_files(&self, path: &Path) -> Vec<PathBuf> {
        holders::side_files(path)
    }

    fn holders(&self, path: &Path) -> Result<Vec<Holder>> {
        Ok(holders::holders(path))
    }
}

/// The first bytes of a file that nobody else uses, and its size.
fn read_first(path: &Path) -> Result<(Vec<u8>, u64)> {
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot read {} to check it", path.display()), error)
    };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut first = Vec::with_capacity(4096);
    file.take(4096).read_to_end(&mut first).map_err(failed)?;
    Ok((first, bytes))
}

fn truncation(header: &Header, bytes: u64) -> Option<String> {
    let in_file = bytes / u64::from(header.page_size);
    let claimed = u64::from(header.page_count()?);
    (in_file < claimed).then(|| format!("the file ends after {in_file} of {claimed} pages"))
}

/// Opens a file as one that never changes: no locks, no side files, its `-wal` not looked at.
pub(crate) fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;")?;
    Ok(connection)
}

/// Rows per table; `None` where a table cannot be counted.
pub(crate) fn count_rows(
    connection: &Connection,
) -> Option<std::collections::BTreeMap<String, u64>> {
    let count = |name: &str| {
        let quoted = name.replace('"', "\"\"");
        let sql = format!("SELECT count(*) FROM \"{quoted}\"");
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).ok().map(i64::cast_unsigned)
    };
    let tables = facts::tables(connection).ok()?;
    tables.into_iter().map(|table| count(&table.name).map(|rows| (table.name, rows))).collect()
}
