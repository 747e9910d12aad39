//! What can be had of a damaged database: its schema, the rows of each table, read one table after
//! the other and, where a table is damaged, around the blocks that are.
//!
//! Nothing is written to the database. A server that has data checksums refuses a damaged page, and
//! we never ask a live one to look past that: it would mend the checksum of what it then believes.
//! That is done on a copy of a data directory alone ([`from_folder`]), and the rows that come so
//! are kept apart.

mod blocks;
mod folder;
mod report;
mod rows;

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

pub use self::blocks::{BadBlocks, scan};
pub use self::folder::{FolderSalvage, from_folder};
pub use self::report::{LostRow, SalvageReport, TableReport};

use self::rows::{Manner, Reader};
use crate::child::Running;
use crate::client::Client;
use crate::diff::{Table, tables};
use crate::quote::{identifier, literal};
use crate::session::Session;

/// The name of what is not whole yet, in the scratch folder.
const PART: &str = "part";
const SCHEMA_BYTES_MAX: usize = 256 << 20;
/// The first version that reads a range of a table's blocks alone.
const RANGES_SINCE: u32 = 14;

/// Reads what can be read of one database of a running server into a new folder.
/// `scratch` is a folder on the same file system, which the caller removes.
pub fn salvage(env: &Env, client: &Client, to: &Path, scratch: &Path) -> Result<SalvageReport> {
    require_absent(to)?;
    let part = scratch.join(PART);
    make_folder(&part)?;
    let report = into(env, client, &part, false)?;
    publish(&part, to)?;
    Ok(report)
}

/// Gives what is whole its name.
fn publish(part: &Path, to: &Path) -> Result<()> {
    fs::rename(part, to).map_err(|error| writing(to, error))
}

/// The same, into a folder that is there. The server must be ours alone where `is_copy`: only then
/// pages with a wrong checksum are read, too.
fn into(env: &Env, client: &Client, to: &Path, is_copy: bool) -> Result<SalvageReport> {
    let what = format!("cannot read {}", client.address().label());
    let mut session = Session::open(client, &what)?;
    let version = session.setting("server_version_num")?;
    let major = version.parse::<u32>().unwrap_or_default() / 10_000;
    let checksums = session.setting("data_checksums")? == "on";
    let mut report = SalvageReport {
        database: client.address().database().unwrap_or_default().to_owned(),
        ..SalvageReport::default()
    };
    if !checksums {
        report.notes.push(
            "the cluster has no data checksums: a value that was changed into another one shows \
             by nothing"
                .to_owned(),
        );
    }
    for (section, file) in [("pre-data", "schema-before.sql"), ("post-data", "schema-after.sql")] {
        schema(client, major, (section, &to.join(file)), &mut report)?;
    }
    let found = tables(&mut session).map_err(|error| {
        Error::new(Kind::CheckFailed, "the server's catalog cannot be read")
            .caused_by(error)
            .hint("restore a backup: lifeboat list")
    })?;
    let mut script = Script::default();
    make_folder(&to.join("rows"))?;
    for (index, table) in found.values().enumerate() {
        env.proceed()?;
        let manner = Manner { is_copy, has_ranges: major >= RANGES_SINCE };
        let reader = Reader::new(env, client, table, &to.join("rows"), index, manner)?;
        let table_report = reader.read()?;
        script.add(table, &table_report);
        report.tables.push(table_report);
    }
    let mut session = rows::reopened(env, client, &what)?;
    sequences(&mut session, client, &mut script, &mut report)?;
    large_objects(&mut session, &mut report);
    amcheck(env, &mut session, client, is_copy, &mut report)?;
    script.write(to)?;
    Ok(report)
}

/// The statements that make everything but rows.
fn schema(
    client: &Client,
    major: u32,
    (section, file): (&str, &Path),
    report: &mut SalvageReport,
) -> Result<()> {
    let program = client.program("pg_dump", Some(major))?;
    let mut command = client.command(&program);
    command.arg(format!("--section={section}"));
    match Running::output(command, format!("cannot dump the {section}"), SCHEMA_BYTES_MAX) {
        Ok((statements, _)) => write_new(file, &statements),
        Err(error) => {
            report.problems.push(format!("no statements of the {section}: {error}"));
            Ok(())
        }
    }
}

/// Sequences go on where they were.
fn sequences(
    session: &mut Session,
    client: &Client,
    script: &mut Script,
    report: &mut SalvageReport,
) -> Result<()> {
    let found = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' ORDER BY 1, 2",
    )?;
    for row in found {
        let text = |name: &str| row.get(name).and_then(|it| it.as_str()).unwrap_or_default();
        let name = format!("{}.{}", identifier(text("schema")), identifier(text("name")));
        let asked = session.row(&format!("SELECT last_value, is_called FROM {name}"));
        match asked {
            Ok(value) => {
                let number = |name: &str| value.get(name).map(ToString::to_string);
                let (last, called) = (number("last_value"), number("is_called"));
                if let (Some(last), Some(called)) = (last, called) {
                    let name = literal(&name);
                    script.sequences.push(format!("SELECT setval({name}, {last}, {called});"));
                }
            }
            Err(error) => {
                report.problems.push(format!("the sequence {name} cannot be read: {error}"));
                *session = Session::open(client, "cannot read sequences")?;
            }
        }
    }
    Ok(())
}

fn large_objects(session: &mut Session, report: &mut SalvageReport) {
    let query = "SELECT count(*) AS count FROM pg_catalog.pg_largeobject_metadata";
    let count = session.row(query).ok().and_then(|row| row.get("count")?.as_u64());
    if let Some(count) = count.filter(|count| *count > 0) {
        report
            .problems
            .push(format!("{count} large objects are not read: pg_dump --large-objects"));
    }
}

/// What `amcheck` says of tables and indexes: where it is installed, or where we may install it.
fn amcheck(
    env: &Env,
    session: &mut Session,
    client: &Client,
    is_copy: bool,
    report: &mut SalvageReport,
) -> Result<()> {
    const WHAT: &str = "cannot ask amcheck";
    let install = "CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog";
    if is_copy && session.execute(install).is_err() {
        *session = Session::open(client, WHAT)?;
    }
    let place = session.rows(
        "SELECT pg_catalog.quote_ident(n.nspname) AS schema FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'",
    )?;
    let place = place.first().and_then(|row| row.get("schema")?.as_str().map(str::to_owned));
    let Some(place) = place else {
        report.notes.push(
            "indexes were not looked at, and tables by their rows alone: CREATE EXTENSION amcheck"
                .to_owned(),
        );
        return Ok(());
    };
    let relations = session.rows(
        "SELECT c.oid::pg_catalog.int8 AS oid, n.nspname || '.' || c.relname AS name, \
         c.relkind::pg_catalog.text AS kind FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
         LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam \
         WHERE c.relpersistence = 'p' AND (c.relkind IN ('r', 't', 'm') \
         OR c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid) ORDER BY 2",
    )?;
    for row in relations {
        let oid = row.get("oid").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let text = |name: &str| row.get(name).and_then(|it| it.as_str()).unwrap_or_default();
        let (name, is_index) = (text("name").to_owned(), text("kind") == "i");
        let query = match is_index {
            true => {
                format!("SELECT 1 AS blkno, '' AS msg FROM {place}.bt_index_check({oid}, true)")
            }
            false => format!("SELECT blkno, msg FROM {place}.verify_heapam({oid}) LIMIT 20"),
        };
        match session.rows(&query) {
            Ok(_) if is_index => {}
            Ok(found) => {
                report.heap.extend(found.iter().map(|row| {
                    let block = row.get("blkno").and_then(serde_json::Value::as_u64);
                    let message = row.get("msg").and_then(|it| it.as_str()).unwrap_or_default();
                    format!("{name}: block {}: {message}", block.unwrap_or_default())
                }));
            }
            Err(error) => {
                let line = format!("{name}: {error}");
                match is_index {
                    true => report.indexes.push(line),
                    false => report.heap.push(line),
                }
                *session = rows::reopened(env, client, WHAT)?;
            }
        }
    }
    Ok(())
}

/// The script that loads everything into a new database.
#[derive(Default)]
struct Script {
    certain: Vec<String>,
    uncertain: Vec<String>,
    sequences: Vec<String>,
}

impl Script {
    fn add(&mut self, table: &Table, report: &TableReport) {
        let columns: Vec<String> =
            table.columns.iter().map(|column| identifier(&column.name)).collect();
        let into = format!("\\copy {} ({}) FROM", table.sql_name(), columns.join(", "));
        self.certain.push(format!("{into} 'rows/{}'", report.file));
        if let Some(file) = &report.uncertain_file {
            self.uncertain.push(format!("{into} 'rows/{file}'"));
        }
    }

    fn write(&self, to: &Path) -> Result<()> {
        // What the rows were read with.
        let settings = "SET client_encoding = 'UTF8';\nSET DateStyle = 'ISO';\nSET TimeZone = 'UTC';\n\
                        SET IntervalStyle = 'postgres';\nSET row_security = off;\n";
        let load = format!(
            "\\set ON_ERROR_STOP on\n\\i schema-before.sql\n{settings}{}\n{}\n",
            self.certain.join("\n"),
            self.sequences.join("\n")
        );
        write_new(&to.join("load.sql"), load.as_bytes())?;
        match self.uncertain.is_empty() {
            true => Ok(()),
            false => {
                let load = format!("{settings}{}\n", self.uncertain.join("\n"));
                write_new(&to.join("load-uncertain.sql"), load.as_bytes())
            }
        }
    }
}

fn require_absent(to: &Path) -> Result<()> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(Error::new(Kind::Refused, format!("{} is there already", to.display()))
            .hint("name a folder that does not exist with --to")),
        Err(_) => Ok(()),
    }
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| writing(path, error))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|error| writing(path, error))
}

fn writing(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot write {}", path.display()), error)
        .hint("name another place with --to")
}
