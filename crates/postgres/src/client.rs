//! The client programs of PostgreSQL: which are there, which fit a server, and how they are run.
//!
//! A program must not be older than the server: `pg_dump` then refuses. Of those that fit, the one
//! nearest to the server's version is taken, because what it writes can be restored there.
//!
//! A child gets the address as keywords and values behind `-d`, and the password in a private file
//! that `PGPASSFILE` names: nothing secret is in its command line or its environment. Its messages
//! are in English, so that [`crate::failure`] knows them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use lifeboat_core::{Error, Kind, Result};
use tempfile::TempPath;

use crate::address::{Address, Secret};

/// Where Debian and its relatives keep each major version: `/usr/lib/postgresql/15/bin`.
const VERSIONED: &[(&str, &str)] = &[("/usr/lib/postgresql", "bin"), ("/usr", "bin")];
/// What Debian's programs in `/usr/bin` are links to.
const WRAPPER: &str = "pg_wrapper";
/// What a server that does not answer is waited for, in seconds, where the address says nothing.
const CONNECT_TIMEOUT_S: &str = "15";

/// Where client programs are looked for, and how they are run.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Folders that come before all others.
    pub folders: Vec<PathBuf>,
    /// The folders of `PATH`, which come last.
    pub search_path: Vec<PathBuf>,
    /// Put before each program and its arguments: `["docker", "exec", "-i", "db"]`. The programs
    /// are then those of the container.
    pub prefix: Vec<String>,
    /// Variables of our environment that hold secrets: no child gets them.
    pub secret_variables: Vec<String>,
    /// The variables of our environment that the client library knows, by name: PGHOST, PGSSLMODE.
    /// Child processes inherit them; our own connections look here.
    pub variables: BTreeMap<String, String>,
    /// PGPASSWORD of our environment.
    pub password_variable: Option<Secret>,
    /// The folder in which `.pgpass` is.
    pub home: Option<PathBuf>,
    /// The user that we run as: the role where nothing names one.
    pub system_user: Option<String>,
    /// How much memory a server of ours may use, in bytes, about; its defaults where nothing is
    /// said.
    pub server_memory_bytes: Option<u64>,
}

/// A client program that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What is run: a path, or a bare name behind a prefix.
    pub path: PathBuf,
    /// Its major version: 15.
    pub major: u32,
    /// Its version as it says it: "15.18 (Debian 15.18-0+deb12u1)".
    pub version: String,
}

/// An address, and the programs that reach it.
#[derive(Debug)]
pub struct Client {
    address: Address,
    options: ClientOptions,
    password_file: Option<TempPath>,
}

impl Client {
    /// A client of that address. A password goes to a private file, which lives as long as this.
    pub fn new(address: Address, options: ClientOptions) -> Result<Self> {
        let password_file = match &address.password {
            None => None,
            Some(password) => {
                let failed = |error| Error::io(Kind::Failed, "cannot write a private file", error);
                let mut file = tempfile::Builder::new()
                    .prefix("lifeboat-pgpass-")
                    .tempfile()
                    .map_err(failed)?;
                let escaped = password.expose().replace('\\', r"\\").replace(':', r"\:");
                if escaped.contains('\n') {
                    return Err(Error::new(Kind::Usage, "a password has several lines")
                        .hint("is the right file named? It must hold the password alone"));
                }
                writeln!(file, "*:*:*:*:{escaped}").map_err(failed)?;
                Some(file.into_temp_path())
            }
        };
        Ok(Client { address, options, password_file })
    }

    /// Where it leads.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where its programs are, and what our environment says.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Whether the programs run on this host and read our files.
    pub fn is_local(&self) -> bool {
        self.options.prefix.is_empty()
    }

    /// The same server and programs, another database.
    pub fn with_database(&self, database: &str) -> Result<Self> {
        Client::new(self.address.clone().with_database(database), self.options.clone())
    }

    /// A program of at least that major version, the nearest to it; any, without one.
    pub fn program(&self, name: &str, major_min: Option<u32>) -> Result<Program> {
        if let Some(program) = major_min.and_then(|major| self.exactly(name, major)) {
            return Ok(program);
        }
        let mut found = self.programs(name);
        found.sort_by_key(|program| program.major);
        let wanted = major_min.unwrap_or(0);
        let fits = found.iter().position(|program| program.major >= wanted);
        match (fits, major_min) {
            // Without a wish the newest: it talks to all servers.
            (Some(_), None) => Ok(found.remove(found.len() - 1)),
            (Some(index), Some(_)) => Ok(found.remove(index)),
            (None, _) => Err(self.missing(name, major_min, &found)),
        }
    }

    /// All programs of that name, each major version once, in the order of the search.
    pub fn programs(&self, name: &str) -> Vec<Program> {
        if !self.options.prefix.is_empty() {
            return self.version_of(Path::new(name)).into_iter().collect();
        }
        let mut found: Vec<Program> = Vec::new();
        for path in self.paths(name) {
            let Some(program) = self.known_version_of(&path) else { continue };
            if !found.iter().any(|other| other.major == program.major) {
                found.push(program);
            }
        }
        found
    }

    /// The first of that very version: no other one is asked then.
    fn exactly(&self, name: &str, major: u32) -> Option<Program> {
        if !self.options.prefix.is_empty() {
            return None;
        }
        let mut programs = self.paths(name).into_iter();
        programs.find_map(|path| self.known_version_of(&path).filter(|found| found.major == major))
    }

    /// Where a program of that name is, in the order of the search, each file once. Debian's
    /// wrapper is none: it starts one of those that are found without it.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        let mut real = Vec::new();
        let mut paths = Vec::new();
        for path in self.folders().into_iter().map(|folder| folder.join(name)) {
            let Ok(file) = fs::canonicalize(&path) else { continue };
            if !file.is_file() || file.ends_with(WRAPPER) || real.contains(&file) {
                continue;
            }
            real.push(file);
            paths.push(path);
        }
        paths
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = self.options.folders.clone();
        for (root, leaf) in VERSIONED {
            let Ok(entries) = fs::read_dir(root) else { continue };
            let versions = entries.flatten().map(|entry| entry.path());
            // `/usr/pgsql-16/bin` is how the community's RPM packages do it.
            let mut versions: Vec<PathBuf> = versions
                .filter(|path| {
                    *root != "/usr"
                        || path
                            .file_name()
                            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"pgsql-"))
                })
                .map(|path| path.join(leaf))
                .collect();
            versions.sort();
            folders.extend(versions);
        }
        folders.extend(self.options.search_path.iter().cloned());
        folders
    }

    /// The same, asked once in the life of this process: a restore runs a dozen programs.
    fn known_version_of(&self, path: &Path) -> Option<Program> {
        static KNOWN: Mutex<BTreeMap<PathBuf, Option<Program>>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = known.get(path) {
            return program.clone();
        }
        let program = self.version_of(path);
        known.insert(path.to_owned(), program.clone());
        program
    }

    /// Asks a program for its version: `pg_dump (PostgreSQL) 15.18 (Debian ...)`.
    fn version_of(&self, path: &Path) -> Option<Program> {
        let output = self.bare(path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let version = text.trim().split_once("(PostgreSQL) ")?.1.to_owned();
        let digits = version.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some(Program { path: path.to_owned(), major: digits.parse().ok()?, version })
    }

    fn missing(&self, name: &str, major_min: Option<u32>, found: &[Program]) -> Error {
        let prefix = self.options.prefix.join(" ");
        let place = match prefix.is_empty() {
            true => String::new(),
            false => format!(" behind `{prefix}`"),
        };
        let (message, package) = match (major_min, found.last()) {
            (Some(major), Some(old)) => (
                format!(
                    "{name}{place} is too old: its version is {}, the server's is {major}",
                    old.major
                ),
                format!("postgresql-client-{major}"),
            ),
            (Some(major), None) => {
                (format!("{name}{place} is missing"), format!("postgresql-client-{major}"))
            }
            (None, _) => (format!("{name}{place} is missing"), "postgresql-client".to_owned()),
        };
        Error::new(Kind::SourceUnavailable, message).hint(format!(
            "install it: apt-get install {package}; or say where it is: programs = \"/path/bin\""
        ))
    }

    fn bare(&self, path: &Path) -> Command {
        let mut words: Vec<OsString> = self.options.prefix.iter().map(OsString::from).collect();
        words.push(path.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C");
        for name in &self.options.secret_variables {
            command.env_remove(name);
        }
        command
    }

    /// A program that will connect to nothing.
    pub(crate) fn offline(&self, program: &Program) -> Command {
        self.bare(&program.path)
    }

    /// A program that will connect to the address. Standard streams are the caller's to set.
    pub fn command(&self, program: &Program) -> Command {
        let mut command = self.bare(&program.path);
        command.env("PGAPPNAME", "lifeboat").env_remove("PGOPTIONS").env_remove("PGCLIENTENCODING");
        if let Some(file) = &self.password_file {
            command.env("PGPASSFILE", file).env_remove("PGPASSWORD");
        }
        let mut address = self.address.clone();
        if address.get("connect_timeout").is_none() {
            address = address.with("connect_timeout", CONNECT_TIMEOUT_S);
        }
        command.args(["-w", "-d", &address.conninfo()]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with programs that only know their version.
    fn folder(programs: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, version) in programs {
            let script = format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n");
            lifeboat_test_support::executable(&folder.path().join(name), &script);
        }
        folder
    }

    fn client(folders: &[&tempfile::TempDir]) -> Client {
        let folders = folders.iter().map(|folder| folder.path().to_owned()).collect();
        // `psql-of-test` is in no folder of the host.
        let options = ClientOptions { folders, ..ClientOptions::default() };
        Client::new(Address::default(), options).unwrap()
    }

    #[test]
    fn the_nearest_version_that_is_not_older_is_taken() {
        let old = folder(&[("dump-of-test", "13.4")]);
        let middle = folder(&[("dump-of-test", "16.14 (Debian 16.14-1)")]);
        let new = folder(&[("dump-of-test", "18beta1")]);
        let client = client(&[&new, &old, &middle]);
        let major = |min| client.program("dump-of-test", min).map(|program| program.major);
        assert_eq!(major(Some(13)).unwrap(), 13);
        assert_eq!(major(Some(15)).unwrap(), 16);
        assert_eq!(major(Some(17)).unwrap(), 18);
        assert_eq!(major(None).unwrap(), 18);
        let error = major(Some(19)).unwrap_err();
        assert!(error.message().contains("too old: its version is 18, the server's is 19"));
        assert!(error.hint_text().unwrap().contains("postgresql-client-19"), "{error:?}");
        let error = client.program("absent-of-test", Some(15)).unwrap_err();
        assert_eq!(error.message(), "absent-of-test is missing");
    }

    #[test]
    fn a_child_sees_no_secret() {
        use std::os::unix::fs::PermissionsExt;
        let address = Address::parse("postgresql://ann:h:u\\sh@localhost/chat").unwrap();
        let client = Client::new(address, ClientOptions::default()).unwrap();
        let program = Program { path: "psql".into(), major: 15, version: "15".into() };
        let command = client.command(&program);
        assert!(!format!("{command:?}").contains("sh@"), "{command:?}");
        assert!(!format!("{:?}", command.get_args()).contains("h:u"), "{command:?}");
        let file = client.password_file.as_ref().unwrap().to_path_buf();
        assert_eq!(fs::read_to_string(&file).unwrap(), "*:*:*:*:h\\:u\\\\sh\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        drop(client);
        assert!(!file.exists());
    }
}
