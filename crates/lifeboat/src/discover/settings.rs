//! `.env` files: which database the application opens by them, and which its backup script takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lifeboat_postgres::Address;

use super::{Database, Search};
use crate::config::application::{self, Opens};
use crate::config::dotenv;
use crate::postgres;

/// A file larger than this holds no variables.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the backup script reads.
const SCRIPT: &[&str] = &["ADMIN_DB_TYPE", "ADMIN_DB_PATH", "ADMIN_DATABASE_URL"];

/// What a file of variables says of databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The file.
    pub(crate) file: PathBuf,
    /// What the backup script would take.
    pub(crate) script: Option<PathBuf>,
    /// What the application opens, where the file is one of the chatbot's or says it.
    pub(crate) application: Option<Opens>,
    /// Whether the script would dump PostgreSQL.
    pub(crate) script_takes_postgres: bool,
    /// Databases of PostgreSQL by the variables that name them; a password in one is kept apart.
    pub(crate) servers: Vec<(&'static str, Address)>,
    /// Why the file could not be read.
    pub(crate) problem: Option<String>,
}

/// Reads a file; `None` where it says nothing of databases.
pub(super) fn read(search: &Search, file: &Path) -> Option<Settings> {
    let mut settings = Settings { file: file.to_owned(), ..Settings::default() };
    let real = search.real(file);
    let metadata = fs::metadata(&real).ok()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return None;
    }
    let text = match fs::read_to_string(&real) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            settings.problem = Some("it cannot be read by this user".to_owned());
            return Some(settings);
        }
        Err(_) => return None,
    };
    let names: Vec<&str> = SCRIPT.iter().chain(application::NAMES).copied().collect();
    if !names.iter().any(|name| text.contains(name)) {
        return None;
    }
    let mut values = Vec::new();
    // Each apart: a line that no shell would take hides only what it sets.
    for name in names {
        match dotenv::read(&text, &[name]) {
            Ok(found) => values.extend(found),
            Err(why) => settings.problem = Some(why),
        }
    }
    settings.take(&values);
    Some(settings)
}

impl Settings {
    fn take(&mut self, values: &[(String, String)]) {
        let folder = self.file.parent().unwrap_or(Path::new("/")).to_owned();
        let variable = |name: &str| {
            let found = values.iter().find(|(found, value)| found == name && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        self.script = variable("ADMIN_DB_PATH").map(|path| clean(&folder.join(path)));
        let kind = variable("ADMIN_DB_TYPE").unwrap_or_default();
        self.script_takes_postgres = kind.starts_with("postgres")
            || (kind.is_empty()
                && self.script.is_none()
                && variable("ADMIN_DATABASE_URL").is_some());
        for name in ["DATABASE_URL", "ADMIN_DATABASE_URL"] {
            let taken = name != "ADMIN_DATABASE_URL" || self.script_takes_postgres;
            let address = variable(name).filter(|_| taken).and_then(|text| {
                let is_postgres = postgres::is_address(&text);
                is_postgres.then(|| Address::parse(&text).ok()).flatten()
            });
            let named = address.filter(|address| address.database().is_some());
            self.servers.extend(named.map(|address| (name, address)));
        }
        let is_chatbot = SCRIPT.iter().any(|name| variable(name).is_some());
        let says = application::NAMES.iter().any(|name| variable(name).is_some());
        if is_chatbot || says {
            self.application = Some(match application::opens(variable, &folder) {
                Opens::Sqlite { path, by } => Opens::Sqlite { path: clean(&path), by },
                other => other,
            });
        }
    }

    /// The databases of files that it names, with what names them.
    pub(super) fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        let mut paths = Vec::new();
        if let Some(Opens::Sqlite { path, by }) = &self.application {
            let by = if *by == "its default" { "the application's default," } else { by };
            paths.push((by, path.clone()));
        }
        paths.extend(self.script.clone().map(|path| ("ADMIN_DB_PATH", path)));
        paths
    }

    /// Other engines that it names, a line for each.
    pub(crate) fn elsewhere(&self) -> Vec<String> {
        let file = self.file.display();
        let mut lines = Vec::new();
        // What is a source, or a comment of its own, is told there.
        let is_told = |name: &str| self.servers.iter().any(|(variable, _)| *variable == name);
        if let Some(Opens::Other { by, engine }) = &self.application
            && !is_told(by)
        {
            lines.push(format!("{engine}, which {by} in {file} names"));
        }
        if self.script_takes_postgres && !is_told("ADMIN_DATABASE_URL") {
            lines.push(format!("PostgreSQL, which ADMIN_DATABASE_URL in {file} names"));
        }
        lines
    }

    /// What a person must know: what could not be read, and what the script leaves unprotected.
    pub(super) fn warnings<'a>(
        &self,
        found: &dyn Fn(&Path) -> Option<&'a Database>,
    ) -> Vec<String> {
        let problem = self.problem.iter().map(|why| format!("{}: {why}", self.file.display()));
        problem.chain(self.mismatch(found)).collect()
    }

    /// What is wrong where the script takes another database than the application opens.
    fn mismatch<'a>(&self, found: &dyn Fn(&Path) -> Option<&'a Database>) -> Option<String> {
        let script = self.script.as_ref()?;
        let file = self.file.display();
        let opens = match self.application.as_ref()? {
            Opens::Other { by, engine } => {
                return Some(format!(
                    "in {file} ADMIN_DB_PATH names {}, which the application does not open: by \
                     {by} it uses {engine}",
                    script.display()
                ));
            }
            Opens::Sqlite { path, by } => (path, by),
        };
        let there = found(opens.0);
        let is_same = match (there, found(script)) {
            (Some(there), Some(taken)) => std::ptr::eq(there, taken),
            _ => opens.0 == script,
        };
        if is_same {
            return None;
        }
        // The application's own default says nothing while no such file is there.
        if there.is_none() && *opens.1 == "its default" {
            return None;
        }
        let describe = |path: &Path| match found(path) {
            None => "no database is there".to_owned(),
            Some(database) => state(database),
        };
        Some(format!(
            "in {file} ADMIN_DB_PATH names {} ({}), but the application opens {} by {} ({}): a \
             backup of the first alone does not protect it",
            script.display(),
            describe(script),
            opens.0.display(),
            opens.1,
            describe(opens.0)
        ))
    }
}

/// Whether anybody uses a database, in a few words.
fn state(database: &Database) -> String {
    let open = match database.openers.first() {
        Some(opener) => format!("open in {} ({})", opener.name, opener.pid),
        None => "open in no process that we see".to_owned(),
    };
    match database.written.and_then(written) {
        Some(written) => format!("{open}, last written {written}"),
        None => open,
    }
}

fn written(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// A path without `.` and `..`, which no link is asked for.
fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}
