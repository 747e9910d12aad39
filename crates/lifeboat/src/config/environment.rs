//! The configuration that variables stand for, where there is no file: `ADMIN_DB_TYPE`,
//! `ADMIN_DB_PATH`, `ADMIN_DATABASE_URL`, `BACKUP_DIR` and `RETENTION_DAYS`, as the chatbot's
//! backup scripts have them.
//!
//! They come from the environment, else from the file that `--env-file` names, else from `.env`
//! in the current folder. No other variable of such a file is looked at.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use super::diagnose::shown;
use super::dotenv;
use super::model::{Config, KeepConfig, PruneWhen, RepositoryConfig, SourceConfig, SqliteConfig};
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
    variables.only_sqlite()?;
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
    let folder = variables.path("BACKUP_DIR")?.unwrap_or_else(|| FOLDER_DEFAULT.into());
    let repository = RepositoryConfig { url: local_url(&folder), compression: None, keep: None };
    let pattern = "admin_sqlite_{date}_{time}".parse()?;
    let source = SourceConfig {
        sqlite: Some(TextOr(SqliteConfig { path: Some(path), ..SqliteConfig::default() })),
        name: Some(Text(pattern)),
        keep: Some(variables.keep()?),
        prune: Some(PruneWhen::AfterBackup),
        ..SourceConfig::default()
    };
    let mut config = Config::default();
    config.repository.insert("backup-dir".to_owned(), repository);
    config.source.insert(sources::name_of(&place), source);
    Ok(Some(config))
}

/// Where the variables are looked up.
struct Variables<'a> {
    surroundings: &'a Surroundings,
    /// What the file sets.
    values: Vec<(String, String)>,
    /// The folder that paths in the file are relative to.
    folder: PathBuf,
}

impl<'a> Variables<'a> {
    fn of(surroundings: &'a Surroundings, env_file: Option<&Path>) -> Result<Self> {
        let path = env_file.unwrap_or(Path::new(".env"));
        let folder = absolute(path.parent().unwrap_or(Path::new("")).join("."))?;
        let Some(text) = text_of(path, env_file.is_some())? else {
            return Ok(Variables { surroundings, values: Vec::new(), folder });
        };
        let values = dotenv::read(&text, NAMES).map_err(|why| {
            Error::new(Kind::Usage, format!("cannot read {}: {why}", shown(path)))
                .hint("mend that line, or name another file with --env-file")
        })?;
        Ok(Variables { surroundings, values, folder })
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

    fn only_sqlite(&self) -> Result<()> {
        let kind = self.text("ADMIN_DB_TYPE");
        let message = match kind.as_deref() {
            Some("sqlite") => return Ok(()),
            Some(kind @ ("postgres" | "postgresql")) => {
                format!("ADMIN_DB_TYPE is `{kind}`, and this version backs up SQLite only")
            }
            Some(kind) => format!("ADMIN_DB_TYPE is `{kind}`, which is no kind of database"),
            None if self.text("ADMIN_DB_PATH").is_none()
                && self.text("ADMIN_DATABASE_URL").is_some() =>
            {
                "ADMIN_DATABASE_URL names a PostgreSQL database, and this version backs up SQLite \
                 only"
                    .to_owned()
            }
            None => return Ok(()),
        };
        Err(Error::new(Kind::Usage, message).hint(
            "set ADMIN_DB_TYPE=sqlite and ADMIN_DB_PATH; a configuration file goes before these \
             variables: lifeboat config init",
        ))
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
    fn another_engine_is_refused_and_no_path_is_no_configuration() {
        let none = Surroundings::for_test(&[("BACKUP_DIR", "/mnt/b")], true);
        assert!(config(&none, None).unwrap().is_none());
        for variables in [
            &[("ADMIN_DB_PATH", "/a.db"), ("ADMIN_DB_TYPE", "postgres")][..],
            &[("ADMIN_DATABASE_URL", "postgresql://u:p@h/d")][..],
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
