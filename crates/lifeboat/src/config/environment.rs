//! The configuration that variables stand for, where there is no file: `ADMIN_DB_TYPE`,
//! `ADMIN_DB_PATH`, `ADMIN_DATABASE_URL`, `BACKUP_DIR` and `RETENTION_DAYS`, as the chatbot's
//! backup scripts have them.
//!
//! They come from the environment, else from the file that `--env-file` names, else from `.env`
//! in the current folder. The application's own variables are looked at beside them: where it
//! opens another database than the scripts take, both are backed up, and it is said.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lifeboat_core::names::source_name;
use lifeboat_core::source::Engine as _;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::SqliteEngine;

use super::application::{self, Opens};
use super::diagnose::shown;
use super::dotenv;
use super::model::{Config, KeepConfig, PruneWhen, SourceConfig, SqliteConfig};
use super::postgres::PostgresConfig;
use super::repository::RepositoryConfig;
use super::values::{Period, Text, TextOr};
use crate::repositories::local_url;
use crate::rotation::Days;
use crate::sources;
use crate::world::Surroundings;

/// Where those scripts put backups unless `BACKUP_DIR` says otherwise.
const FOLDER_DEFAULT: &str = "/data/backups";

const NAMES: &[&str] =
    &["ADMIN_DB_TYPE", "ADMIN_DB_PATH", "ADMIN_DATABASE_URL", "BACKUP_DIR", "RETENTION_DAYS"];

/// A file of variables larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration of these variables; `None` where none of them names a database.
pub(crate) fn config(
    surroundings: &Surroundings,
    env_file: Option<&Path>,
) -> Result<Option<Config>> {
    let variables = Variables::of(surroundings, env_file)?;
    if let Some(url) = variables.postgres()? {
        return variables.config_of_server(url).map(Some);
    }
    let Some(path) = variables.path("ADMIN_DB_PATH")? else {
        return match env_file {
            None => Ok(None),
            Some(file) => {
                let message = format!("{} does not set ADMIN_DB_PATH", shown(file));
                Err(Error::new(Kind::Usage, message).hint("write ADMIN_DB_PATH=/path/of/admin.db"))
            }
        };
    };
    let place = sources::place_of(&path)?;
    let repository = variables.repository()?;
    let pattern = "admin_sqlite_{date}_{time}".parse()?;
    let mut source = SourceConfig {
        sqlite: Some(TextOr(SqliteConfig { path: Some(path), ..SqliteConfig::default() })),
        name: Some(Text(pattern)),
        keep: Some(variables.keep()?),
        prune: Some(PruneWhen::AfterBackup),
        ..SourceConfig::default()
    };
    let name = sources::name_of(&place);
    let mut config = Config::default();
    config.repository.insert("backup-dir".to_owned(), repository);
    match variables.opened_instead(&place) {
        Instead::Nothing => {}
        Instead::Doubt(doubt) => source.warnings.push(doubt),
        Instead::Database { path, doubt } => {
            source.warnings.extend(doubt);
            let also = match sources::name_of(&path) {
                also if also == name => format!("{also}-application"),
                also => also,
            };
            let sqlite = SqliteConfig { path: Some(path), ..SqliteConfig::default() };
            let application = SourceConfig {
                sqlite: Some(TextOr(sqlite)),
                keep: source.keep.clone(),
                prune: source.prune,
                ..SourceConfig::default()
            };
            config.source.insert(also, application);
        }
    }
    config.source.insert(name, source);
    Ok(Some(config))
}

/// What the application opens where that is not what the scripts take.
enum Instead {
    /// Nothing else, as far as its variables and its folder tell.
    Nothing,
    /// Something that is no SQLite database here, or nobody knows.
    Doubt(String),
    /// Another database; with a doubt where the scripts' one looks like a leftover.
    Database { path: PathBuf, doubt: Option<String> },
}

/// Compares what the scripts take with what the application opens.
fn compare(taken: &Path, opens: &Path, by: &str) -> Instead {
    let Ok(Some(used)) = lifeboat_sqlite::glance(opens) else { return Instead::Nothing };
    let opens = &sources::place_of(opens).unwrap_or_else(|_| opens.to_owned());
    let seen = lifeboat_sqlite::glance(taken).ok().flatten();
    if seen.is_some_and(|seen| seen.identity == used.identity) {
        return Instead::Nothing;
    }
    let is_idle = SqliteEngine.holders(taken).is_ok_and(|holders| holders.is_empty());
    let state = match seen {
        None => Some("which is not there".to_owned()),
        Some(seen) if is_idle && seen.written < used.written => Some(format!(
            "which no process has open and which was written last {}, the other one {}",
            date(seen.written),
            date(used.written)
        )),
        Some(_) => None,
    };
    let doubt = state.map(|state| {
        format!(
            "the application opens {} by {by}, and not {}, {state}: both are backed up",
            shown(opens),
            shown(taken)
        )
    });
    Instead::Database { path: opens.to_owned(), doubt }
}

fn date(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    time.map_or("at an unknown time".to_owned(), |time| {
        time.strftime("%Y-%m-%d %H:%M UTC").to_string()
    })
}

/// Where the variables are looked up.
struct Variables<'a> {
    surroundings: &'a Surroundings,
    /// What the file sets.
    values: Vec<(String, String)>,
    /// The folder that paths in the file are relative to.
    folder: PathBuf,
    /// What the file sets of the application's variables, or why that cannot be told.
    application: Result<Vec<(String, String)>, String>,
}

impl<'a> Variables<'a> {
    fn of(surroundings: &'a Surroundings, env_file: Option<&Path>) -> Result<Self> {
        let path = env_file.unwrap_or(Path::new(".env"));
        let folder = absolute(path.parent().unwrap_or(Path::new("")).join("."))?;
        let Some(text) = text_of(path, env_file.is_some())? else {
            let (values, application) = (Vec::new(), Ok(Vec::new()));
            return Ok(Variables { surroundings, values, folder, application });
        };
        let values = dotenv::read(&text, NAMES).map_err(|why| {
            Error::new(Kind::Usage, format!("cannot read {}: {why}", shown(path)))
                .hint("mend that line, or name another file with --env-file")
        })?;
        // Read apart: what is wrong there is no reason to make no backup.
        let application = dotenv::read(&text, application::NAMES)
            .map_err(|why| format!("{}: {why}", shown(path)));
        Ok(Variables { surroundings, values, folder, application })
    }

    /// What the application opens instead of what the scripts take.
    fn opened_instead(&self, taken: &Path) -> Instead {
        let ours = |name: &str| {
            let value = self.surroundings.variable(name)?;
            Some(value.to_string_lossy().into_owned())
        };
        let in_file = match &self.application {
            Ok(values) => values,
            Err(why) if application::NAMES.iter().all(|name| ours(name).is_none()) => {
                return Instead::Doubt(format!(
                    "which database the application opens cannot be told: {why}"
                ));
            }
            Err(_) => &Vec::new(),
        };
        let variable = |name: &str| {
            let found = in_file.iter().find(|(found, _)| found == name);
            ours(name).or_else(|| found.map(|(_, value)| value.clone()))
        };
        match application::opens(variable, &self.folder) {
            Opens::Sqlite { path, by } => compare(taken, &path, by),
            Opens::Other { by, engine } => Instead::Doubt(format!(
                "by {by} the application uses {engine}, and not {}: that is not backed up",
                shown(taken)
            )),
        }
    }

    /// What the file says, where the environment says nothing.
    fn in_file(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        let ours = self.surroundings.variable(name).map(|value| value.to_string_lossy());
        ours.map(|value| value.into_owned()).or_else(|| self.in_file(name).map(str::to_owned))
    }

    fn path(&self, name: &str) -> Result<Option<PathBuf>> {
        match (self.surroundings.path(name), self.in_file(name)) {
            (Some(path), _) => absolute(path).map(Some),
            (None, Some(path)) => absolute(self.folder.join(path)).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The address of the PostgreSQL database, where one is meant.
    fn postgres(&self) -> Result<Option<String>> {
        let wrong = |message: String, hint: &str| Err(Error::new(Kind::Usage, message).hint(hint));
        let url = self.text("ADMIN_DATABASE_URL");
        match (self.text("ADMIN_DB_TYPE").as_deref(), url) {
            (Some("sqlite"), _) => Ok(None),
            (Some("postgres" | "postgresql" | "pgsql"), Some(url)) => Ok(Some(url)),
            (Some(kind @ ("postgres" | "postgresql" | "pgsql")), None) => wrong(
                format!("ADMIN_DB_TYPE is `{kind}`, and ADMIN_DATABASE_URL is not set"),
                "write ADMIN_DATABASE_URL=postgresql://USER:PASSWORD@HOST:5432/DATABASE",
            ),
            (Some(kind), _) => wrong(
                format!("ADMIN_DB_TYPE is `{kind}`, which is no kind of database"),
                "write ADMIN_DB_TYPE=sqlite and ADMIN_DB_PATH, or ADMIN_DB_TYPE=postgres and \
                 ADMIN_DATABASE_URL",
            ),
            (None, url) => Ok(url.filter(|_| self.text("ADMIN_DB_PATH").is_none())),
        }
    }

    /// The source and the repository of a PostgreSQL database.
    fn config_of_server(&self, url: String) -> Result<Config> {
        let postgres = PostgresConfig { url: Some(url), ..PostgresConfig::default() };
        let address = postgres.address().map_err(|error| {
            error.context("ADMIN_DATABASE_URL is not the address of a database")
        })?;
        let Some(name) = address.database().map(source_name) else {
            return Err(Error::new(Kind::Usage, "ADMIN_DATABASE_URL names no database")
                .hint("write postgresql://USER:PASSWORD@HOST:5432/DATABASE"));
        };
        let source = SourceConfig {
            postgres: Some(TextOr(postgres)),
            name: Some(Text("admin_postgres_{date}_{time}".parse()?)),
            keep: Some(self.keep()?),
            prune: Some(PruneWhen::AfterBackup),
            ..SourceConfig::default()
        };
        let mut config = Config::default();
        config.repository.insert("backup-dir".to_owned(), self.repository()?);
        config.source.insert(name, source);
        Ok(config)
    }

    fn repository(&self) -> Result<RepositoryConfig> {
        let folder = self.path("BACKUP_DIR")?.unwrap_or_else(|| FOLDER_DEFAULT.into());
        Ok(RepositoryConfig { url: local_url(&folder), ..RepositoryConfig::default() })
    }

    /// As those scripts rotate: after each backup, what is older than so many days.
    fn keep(&self) -> Result<TextOr<KeepConfig>> {
        let days = match self.text("RETENTION_DAYS") {
            None => Days::DEFAULT,
            Some(text) => text.parse().map_err(|hint: String| {
                Error::new(Kind::Usage, format!("RETENTION_DAYS is `{text}`")).hint(hint)
            })?,
        };
        let within = Some(Text(Period { milliseconds: days.milliseconds() }));
        Ok(TextOr(KeepConfig { within, ..KeepConfig::default() }))
    }
}

/// The text of the file; `None` where it is not there and nobody named it, or where it says
/// nothing of our variables: a file of another program is none of our business.
fn text_of(path: &Path, is_named: bool) -> Result<Option<String>> {
    let failed = |error| Error::io(Kind::Usage, format!("cannot read {}", shown(path)), error);
    let mut bytes = Vec::new();
    let opened = match fs::metadata(path) {
        Ok(found) if !is_named && !found.is_file() => return Ok(None),
        Ok(_) => fs::File::open(path),
        Err(error) if !is_named && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        // Another user's file in the folder where we happen to be.
        Err(error) if !is_named && error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(None);
        }
        read => read.map_err(failed)?,
    };
    let is_ours = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    if !is_named && !NAMES.iter().any(|name| is_ours(name)) {
        return Ok(None);
    }
    let wrong = |what: &str| {
        Error::new(Kind::Usage, format!("{} {what}", shown(path)))
            .hint("name another file with --env-file")
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(&format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| wrong("is not UTF-8"))
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|error| {
        Error::io(Kind::Usage, format!("cannot use the path {}", shown(&path)), error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_make_a_source_and_a_repository() {
        let surroundings = Surroundings::for_test(
            &[
                ("ADMIN_DB_PATH", "/srv/chat bot/admin.db"),
                ("BACKUP_DIR", "/mnt/b"),
                ("RETENTION_DAYS", "30"),
            ],
            true,
        );
        let config = config(&surroundings, None).unwrap().unwrap();
        assert_eq!(config.repository["backup-dir"].url, "file:///mnt/b");
        assert!(config.source["admin"].sqlite.is_some());
        let within = config.source["admin"].keep.as_ref().unwrap().0.within.unwrap();
        assert_eq!(within.0.milliseconds, 30 * 24 * 60 * 60 * 1000);
    }

    #[test]
    fn the_address_of_a_server_makes_a_source() {
        for variables in [
            &[("ADMIN_DATABASE_URL", "postgresql://u:p%40@h/chat?sslmode=require")][..],
            &[("ADMIN_DATABASE_URL", "postgres://h/chat"), ("ADMIN_DB_TYPE", "postgres")][..],
            &[("ADMIN_DATABASE_URL", "pgsql:host=h;dbname=chat"), ("ADMIN_DB_TYPE", "pgsql")][..],
        ] {
            let config = config(&Surroundings::for_test(variables, true), None).unwrap().unwrap();
            let source = &config.source["chat"];
            let postgres = source.postgres.as_ref().unwrap();
            assert_eq!(postgres.0.address().unwrap().get("host"), Some("h"));
            assert_eq!(source.name.as_ref().unwrap().0.to_string(), "admin_postgres_{date}_{time}");
            let shown = toml::to_string(source).unwrap();
            assert!(!shown.contains("p%40") && !shown.contains("p@"), "{shown}");
        }
    }

    #[test]
    fn another_engine_is_refused_and_no_path_is_no_configuration() {
        let none = Surroundings::for_test(&[("BACKUP_DIR", "/mnt/b")], true);
        assert!(config(&none, None).unwrap().is_none());
        for variables in [
            &[("ADMIN_DB_PATH", "/a.db"), ("ADMIN_DB_TYPE", "postgres")][..],
            &[("ADMIN_DB_PATH", "/a.db"), ("ADMIN_DB_TYPE", "mysql")][..],
            &[("ADMIN_DATABASE_URL", "postgresql://u:p@h/")][..],
            &[("ADMIN_DATABASE_URL", "mysql://u:p@h/d")][..],
            &[("ADMIN_DB_PATH", "/a.db"), ("RETENTION_DAYS", "a week")][..],
            &[("ADMIN_DB_PATH", "/a.db"), ("RETENTION_DAYS", "0")][..],
        ] {
            let error = config(&Surroundings::for_test(variables, true), None).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!error.message().contains("u:p"), "a password: {error}");
        }
        let both = [("ADMIN_DB_PATH", "/a.db"), ("ADMIN_DATABASE_URL", "postgresql://h/d")];
        assert!(config(&Surroundings::for_test(&both, true), None).unwrap().is_some());
    }
}
