//! A data directory whose server is stopped, or does not start: a server of ours on a copy of it.
//!
//! The directory itself is only read. On the copy the server may look past wrong checksums, may
//! have
//! `amcheck` installed, and may start without a log that it cannot replay.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use lifeboat_core::env::Env;
use lifeboat_core::scratch::free_bytes;
use lifeboat_core::{Error, Kind, Result};

use super::blocks::{BadBlocks, scan};
use super::report::SalvageReport;
use super::{PART, into, make_folder, publish, require_absent, write_new, writing};
use crate::child::Running;
use crate::client::{Client, ClientOptions};
use crate::cluster::{RunAs, as_user, run_as};
use crate::control::Control;
use crate::recovery::recover::running_server;
use crate::recovery::server::{
    FolderServer, ServerPrograms, Standing, scratch_folder, server_folder,
};
use crate::session::Session;

const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// What a running server or a standby leaves there, and a copy must not have.
const LEFT_OUT: &[&str] =
    &["postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal"];

/// Where tablespaces are copied to, beside the copy of the data directory.
const SPACES: &str = "tablespaces";

/// What came of a data directory.
#[derive(Clone, Debug, Default)]
pub struct FolderSalvage {
    /// Its damaged blocks, a line for each file.
    pub blocks: Vec<String>,
    /// How many are damaged.
    pub damaged: u64,
    /// How many were looked at.
    pub pages: u64,
    /// Whether the log could not be replayed, and was left out.
    pub without_log: bool,
    /// Its databases.
    pub databases: Vec<SalvageReport>,
    /// What is to be known.
    pub notes: Vec<String>,
}

impl FolderSalvage {
    /// Whether everything came back.
    pub fn is_whole(&self) -> bool {
        self.damaged == 0 && !self.without_log && self.databases.iter().all(SalvageReport::is_whole)
    }
}

/// Reads all databases of a data directory into a new folder, one below it for each. `scratch` is a
/// folder on the same file system, which the caller removes: the copy goes there. `users`: roles
/// that may be superusers, in the order in which they are tried.
pub fn from_folder(
    env: &Env,
    options: &ClientOptions,
    data: &Path,
    (to, scratch): (&Path, &Path),
    users: &[String],
) -> Result<FolderSalvage> {
    require_absent(to)?;
    require_stopped(data)?;
    let control = Control::of_folder(data)?;
    let major = major_of(data)?;
    let programs = ServerPrograms::find(options, major)?;
    let blocks = scan(env, data)?;
    let place = scratch_folder(scratch)?;
    let owner = rustix::process::geteuid().is_root().then(run_as);
    let owner = owner.as_ref();
    let copy = place.path().join("data");
    let bytes = size_of(data)?;
    let free = free_bytes(scratch)?;
    if free < bytes {
        let message = format!("a copy of {} needs {bytes} bytes, {free} are free", data.display());
        return Err(Error::new(Kind::NoSpace, message).hint("name another place with --to"));
    }
    copy_folder(env, data, &copy, owner)?;
    let mut notes = Vec::new();
    let ids = owner.map(|owner| (owner.uid, owner.gid));
    let start = |settings: &[(&str, String)]| -> Result<(FolderServer, Standing)> {
        let folder = server_folder(&copy, ids)?;
        let limits = &control.limits;
        let mut server = FolderServer::start(&programs, &copy, folder, ids, limits, settings)?;
        let standing = server.wait(env, &mut || Ok(()))?;
        Ok((server, standing))
    };
    let (mut server, mut standing) = start(&[])?;
    if standing != Standing::Ready {
        let log = server.log();
        drop(server);
        without_log(&programs, &copy, owner)?;
        notes.push(format!(
            "the server did not start with its log and was started without it: what was written \
             last may be missing, and rows may contradict each other ({})",
            last_line(&log)
        ));
        (server, standing) = start(&[])?;
    }
    if standing != Standing::Ready {
        let message = format!("no server starts on a copy of {}", data.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .caused_by(last_line(&server.log()))
            .hint("restore a backup: lifeboat list"));
    }
    let part = scratch.join(PART);
    make_folder(&part)?;
    let found = read(env, &server, users, &part, &blocks, notes)?;
    publish(&part, to)?;
    Ok(found)
}

fn read(
    env: &Env,
    server: &FolderServer,
    users: &[String],
    to: &Path,
    blocks: &BadBlocks,
    notes: Vec<String>,
) -> Result<FolderSalvage> {
    let (user, names) = databases(server, users)?;
    let client = server.client(&user, "postgres")?;
    let mut found = FolderSalvage {
        blocks: blocks.lines(Some(&client)),
        damaged: blocks.damaged,
        pages: blocks.pages,
        without_log: !notes.is_empty(),
        notes,
        ..FolderSalvage::default()
    };
    match globals(&client) {
        Ok(globals) => write_new(&to.join("globals.sql"), &globals)?,
        Err(error) => found.notes.push(format!("no roles: {error}")),
    }
    for name in names {
        let client = server.client(&user, &name)?;
        let place = to.join(name.replace('/', "_"));
        make_folder(&place)?;
        match into(env, &client, &place, true) {
            Ok(report) => found.databases.push(report),
            Err(error) if error.kind() == Kind::NoSpace => return Err(error),
            Err(error) if matches!(error.kind(), Kind::Interrupted | Kind::Terminated) => {
                return Err(error);
            }
            Err(error) => found.databases.push(SalvageReport {
                problems: vec![format!("it cannot be read: {error}")],
                database: name,
                ..SalvageReport::default()
            }),
        }
    }
    match found.databases.iter().all(|database| database.tables.is_empty() && !database.is_whole())
    {
        true => Err(Error::new(Kind::CheckFailed, "no table of any database can be read")
            .hint("restore a backup: lifeboat list")),
        false => Ok(found),
    }
}

fn databases(server: &FolderServer, users: &[String]) -> Result<(String, Vec<String>)> {
    for user in users {
        for database in ["postgres", "template1"] {
            let client = server.client(user, database)?;
            let Ok(mut session) = Session::open(&client, "cannot list databases") else { continue };
            return Ok((user.clone(), session.databases()?));
        }
    }
    let message = format!("none of the roles {} is let in", users.join(", "));
    Err(Error::new(Kind::CheckFailed, message).hint("restore a backup: lifeboat list"))
}

fn globals(client: &Client) -> Result<Vec<u8>> {
    let program = client.program("pg_dumpall", None)?;
    let mut command = client.command(&program);
    command.arg("--globals-only");
    let (statements, _) = Running::output(command, "cannot dump the roles", OUTPUT_BYTES_MAX)?;
    Ok(statements)
}

/// Refuses a directory on which a server runs.
fn require_stopped(data: &Path) -> Result<()> {
    match running_server(data) {
        Some(process) => {
            let message = format!("a server (process {process}) has {} open", data.display());
            Err(Error::new(Kind::Refused, message)
                .hint("stop it; or name the URL of a database, to read its intact rows meanwhile"))
        }
        None => Ok(()),
    }
}

fn major_of(data: &Path) -> Result<u32> {
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(|error| {
        Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
    })?;
    text.trim().parse().map_err(|error| {
        Error::new(Kind::CheckFailed, format!("{} holds no version", path.display()))
            .caused_by(error)
            .hint("write the server's major version into a copy of it: 15")
    })
}

fn without_log(programs: &ServerPrograms, copy: &Path, owner: Option<&RunAs>) -> Result<()> {
    let program = programs.beside("pg_resetwal").ok_or_else(|| {
        Error::new(Kind::SourceUnavailable, "pg_resetwal is not beside the server's programs")
    })?;
    let _ = fs::remove_file(copy.join("postmaster.pid"));
    let _ = fs::remove_file(copy.join("backup_label"));
    let mut command = std::process::Command::new(program);
    as_user(&mut command, owner).args(["-f", "-D"]).arg(copy).env("LC_ALL", "C");
    command.current_dir("/").stdin(Stdio::null());
    Running::output(command, "cannot leave the log of a copy out", OUTPUT_BYTES_MAX).map(drop)
}

fn last_line(log: &str) -> String {
    let is_bad = |line: &&str| ["FATAL", "PANIC"].iter().any(|word| line.contains(word));
    let line = log.lines().find(is_bad).or_else(|| log.lines().last());
    line.unwrap_or("it said nothing").to_owned()
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::SourceUnavailable, format!("cannot read {}", path.display()), error)
        .hint("run as the user of the server")
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
        bytes += if metadata.is_dir() { size_of(&path)? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Copies a data directory. A link to `pg_wal` becomes a folder. So that no link leads a server of
/// ours to the original, a tablespace is copied beside, and its link leads there.
fn copy_folder(env: &Env, from: &Path, to: &Path, owner: Option<&RunAs>) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to).map_err(|error| writing(to, error))?;
    let is_spaces = from.file_name().is_some_and(|name| name == "pg_tblspc");
    for entry in fs::read_dir(from).map_err(|error| unreadable(from, error))? {
        env.proceed()?;
        let path = entry.map_err(|error| unreadable(from, error))?.path();
        let name = path.file_name().unwrap_or_default();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
        let place = to.join(name);
        if metadata.is_dir() && is_spaces {
            // Beside the data directory, which is two folders up.
            let beside = to.ancestors().nth(2).unwrap_or(to).join(SPACES);
            fs::DirBuilder::new()
                .mode(0o711)
                .recursive(true)
                .create(&beside)
                .map_err(|error| writing(&beside, error))?;
            let copy = beside.join(name);
            copy_folder(env, &path, &copy, owner)?;
            std::os::unix::fs::symlink(&copy, &place).map_err(|error| writing(&place, error))?;
        } else if metadata.is_dir() {
            copy_folder(env, &path, &place, owner)?;
        } else if metadata.is_file() {
            fs::copy(&path, &place).map_err(|error| {
                Error::io(Kind::Failed, format!("cannot copy {}", path.display()), error)
                    .hint("name a place with more room with --to")
            })?;
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&place, mode).map_err(|error| writing(&place, error))?;
            own(&place, owner)?;
        }
    }
    own(to, owner)
}

fn own(path: &Path, owner: Option<&RunAs>) -> Result<()> {
    match owner {
        Some(RunAs { uid, gid }) => std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
            .map_err(|error| writing(path, error)),
        None => Ok(()),
    }
}
