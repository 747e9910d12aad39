//! What a repository knows of the host that wrote it: enough to go on on a bare one.
//!
//! The configuration is the one that the host kept there; where it kept none, one is made of the
//! sources themselves.

use std::path::Path;

use lifeboat_core::catalog::Catalog;
use lifeboat_core::repository::{KeptConfiguration, Repository};
use lifeboat_core::restore::Mapping;
use lifeboat_core::{Error, Kind, Result, files};
use toml::Table;

use crate::config::model::SqliteConfig;
use crate::config::postgres::PostgresConfig;
use crate::config::repository::RepositoryConfig;
use crate::config::values::TextOr;
use crate::config::{Config, SourceConfig};
use crate::postgres;

/// The configuration of a host, as a repository has it.
pub(crate) struct Rebuilt {
    /// It, with the host's name in it: its backups are found again by that.
    pub(crate) config: Config,
    /// Where it was kept; `None` where it was made of the sources.
    pub(crate) kept: Option<KeptConfiguration>,
}

/// The configuration as it is kept: one file, without secrets, the host's name in it.
pub(crate) fn text(config: &Config, host: &str) -> Result<String> {
    let config = Config { host: Some(host.to_owned()), ..config.clone() };
    let failed = |error: toml::ser::Error| {
        Error::new(Kind::Failed, "cannot write the configuration as a text").caused_by(error)
    };
    let table = Table::try_from(config).map_err(failed)?;
    let text = toml::to_string_pretty(&table).map_err(failed)?;
    Ok(format!("# The configuration of lifeboat, without comments and secrets.\n{text}"))
}

/// The configuration of `host`; of this one, or the only one, where none is named.
pub(crate) fn of(
    repository: &Repository,
    catalog: &Catalog,
    host: Option<&str>,
    this_host: &str,
) -> Result<Rebuilt> {
    let kept = repository.configurations()?;
    let mut hosts: Vec<String> = kept.iter().map(|kept| kept.host.clone()).collect();
    hosts.extend(catalog.sources.iter().map(|entry| entry.record.host.clone()));
    hosts.sort();
    hosts.dedup();
    let chosen = match (host, &hosts[..]) {
        (Some(host), _) if hosts.iter().any(|known| known == host) => host.to_owned(),
        (Some(host), _) => return Err(which(&format!("no backup here is of `{host}`"), &hosts)),
        (None, [only]) => only.clone(),
        (None, _) if hosts.iter().any(|known| known == this_host) => this_host.to_owned(),
        (None, []) => {
            let message = format!("{} holds no backup", repository.url());
            return Err(Error::new(Kind::NotCovered, message));
        }
        (None, _) => return Err(which("backups of several hosts are here", &hosts)),
    };
    match kept.into_iter().find(|kept| kept.host == chosen) {
        Some(kept) => {
            let text = repository.read_configuration(&kept)?;
            let config = toml::from_str(&text).map_err(|error: toml::de::Error| {
                let message = format!("{} cannot be read", kept.object);
                Error::new(Kind::CheckFailed, message)
                    .caused_by(error)
                    .hint("it may be of a newer lifeboat")
            })?;
            Ok(Rebuilt { config, kept: Some(kept) })
        }
        None => Ok(Rebuilt { config: of_sources(catalog, &chosen), kept: None }),
    }
}

fn which(problem: &str, hosts: &[String]) -> Error {
    Error::new(Kind::Usage, format!("{problem}: {}", hosts.join(", ")))
        .hint("name the one that is to be rebuilt: --host NAME")
}

/// What the sources say of themselves.
fn of_sources(catalog: &Catalog, host: &str) -> Config {
    let mut config = Config { host: Some(host.to_owned()), ..Config::default() };
    for entry in catalog.sources.iter().filter(|entry| entry.record.host == host) {
        let record = &entry.record;
        let mut source = SourceConfig { id: Some(record.id), ..SourceConfig::default() };
        match record.kind.as_str() {
            lifeboat_sqlite::KIND => {
                let path = Some(record.location.clone().into());
                source.sqlite = Some(TextOr(SqliteConfig { path, ..SqliteConfig::default() }));
            }
            postgres::KIND if postgres::is_address(&record.location) => {
                let url = Some(record.location.clone());
                source.postgres = Some(TextOr(PostgresConfig { url, ..PostgresConfig::default() }));
            }
            files::KIND => {
                let paths = record.location.split(':').filter(|path| path.starts_with('/'));
                let file = |path: &str| {
                    let path = Some(path.into());
                    TextOr(crate::config::model::FileConfig { path, ..Default::default() })
                };
                source.files = paths.map(file).collect();
            }
            _ => continue,
        }
        config.source.insert(entry.folder.clone(), source);
    }
    config
}

/// Makes the repository that was adopted one of the configuration, as it was reached, if it is none
/// yet.
pub(crate) fn add_repository(config: &mut Config, reached: &RepositoryConfig) {
    let same = |known: &str| known.trim_end_matches('/') == reached.url.trim_end_matches('/');
    if config.repository.values().any(|known| same(&known.url)) {
        return;
    }
    // What was sealed so far stays sealed, under whatever address it is reached.
    let sealed = || config.repository.values().find_map(|known| known.encrypt_to.clone());
    let encrypt_to = reached.encrypt_to.clone().or_else(sealed);
    let free = |name: &String| !config.repository.contains_key(name);
    let names = (1..).map(|number| match number {
        1 => "adopted".to_owned(),
        number => format!("adopted-{number}"),
    });
    let name = names.into_iter().find(free).unwrap_or_default();
    config.repository.insert(name, RepositoryConfig { encrypt_to, ..reached.clone() });
}

/// Gives the sources their paths on this host, and ids where their backups would not be found
/// otherwise. Gives the names of those whose backups begin anew.
pub(crate) fn apply(mapping: &Mapping, config: &mut Config, catalog: &Catalog) -> Vec<String> {
    let mut anew = Vec::new();
    let mapped_text = |text: &str| mapping.path(Path::new(text)).to_string_lossy().into_owned();
    for (name, source) in &mut config.source {
        if let Some(TextOr(sqlite)) = &mut source.sqlite {
            if let Some(path) = &sqlite.path {
                let new = mapping.path(path);
                let is_it = |location: &str| Path::new(location) == path;
                let entry = catalog.sources.iter().find(|entry| is_it(&entry.record.location));
                if new != *path && source.id.is_none() {
                    source.id = entry.map(|entry| entry.record.id);
                }
                sqlite.path = Some(new);
            }
            if let Some(glob) = &sqlite.glob {
                let new = mapped_text(glob);
                if new != *glob {
                    anew.push(name.clone());
                }
                sqlite.glob = Some(new);
            }
        }
        for TextOr(file) in &mut source.files {
            file.path = file.path.as_ref().map(|path| mapping.path(path));
            file.glob = file.glob.as_ref().map(|glob| mapped_text(glob));
        }
    }
    anew
}
