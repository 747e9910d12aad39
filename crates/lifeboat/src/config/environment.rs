//! The configuration that the environment's variables stand for, where there is no file:
//! `ADMIN_DB_TYPE`, `ADMIN_DB_PATH` and `BACKUP_DIR`, as the chatbot's backup scripts have them.

use lifeboat_core::{Error, Kind, Result};

use super::model::{Config, RepositoryConfig, SourceConfig, SqliteConfig};
use super::values::{Text, TextOr};
use crate::repositories::local_url;
use crate::sources;
use crate::world::Surroundings;

/// Where those scripts put backups unless `BACKUP_DIR` says otherwise.
const FOLDER_DEFAULT: &str = "/data/backups";

/// The configuration of these variables; `None` where `ADMIN_DB_PATH` is not set.
pub(crate) fn config(surroundings: &Surroundings) -> Result<Option<Config>> {
    let Some(path) = surroundings.path("ADMIN_DB_PATH") else { return Ok(None) };
    let kind = surroundings.variable("ADMIN_DB_TYPE").map(|kind| kind.to_string_lossy());
    if let Some(kind) = kind.filter(|kind| kind != "sqlite") {
        return Err(Error::new(Kind::Usage, format!("ADMIN_DB_TYPE is `{kind}`"))
            .hint("this version backs up `sqlite`; unset ADMIN_DB_PATH to ignore the variables"));
    }
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path)
            .map_err(|error| Error::io(Kind::Usage, "cannot use a path of the environment", error))
    };
    let place = sources::place_of(&path)?;
    let folder = surroundings.path("BACKUP_DIR").unwrap_or_else(|| FOLDER_DEFAULT.into());
    let repository =
        RepositoryConfig { url: local_url(&absolute(&folder)?), compression: None, keep: None };
    let pattern = "admin_sqlite_{date}_{time}".parse()?;
    let source = SourceConfig {
        sqlite: Some(TextOr(SqliteConfig {
            path: Some(absolute(&path)?),
            ..SqliteConfig::default()
        })),
        name: Some(Text(pattern)),
        ..SourceConfig::default()
    };
    let mut config = Config::default();
    config.repository.insert("backup-dir".to_owned(), repository);
    config.source.insert(sources::name_of(&place), source);
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_make_a_source_and_a_repository() {
        let surroundings = Surroundings::for_test(
            &[("ADMIN_DB_PATH", "/srv/chat bot/admin.db"), ("BACKUP_DIR", "/mnt/b")],
            true,
        );
        let config = config(&surroundings).unwrap().unwrap();
        assert_eq!(config.repository["backup-dir"].url, "file:///mnt/b");
        assert!(config.source["admin"].sqlite.is_some());
    }

    #[test]
    fn another_engine_is_refused_and_no_path_is_no_configuration() {
        let none = Surroundings::for_test(&[("BACKUP_DIR", "/mnt/b")], true);
        assert!(config(&none).unwrap().is_none());
        let postgres = [("ADMIN_DB_PATH", "/a.db"), ("ADMIN_DB_TYPE", "postgres")];
        let error = config(&Surroundings::for_test(&postgres, true)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
