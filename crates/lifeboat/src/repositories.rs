//! From a URL, a path, or a name in the configuration, to a repository.
//!
//! The kinds of stores are listed in the crate of the stores; this is what the command line and
//! the configuration make of them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::catalog::Catalog;
use lifeboat_core::env::Env;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::policy::Keep;
use lifeboat_core::repository::Repository;
use lifeboat_core::seal::Keys;
use lifeboat_core::store::Store;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::pagelog::Resolution;

use crate::buckets;
use crate::cache::CacheFolder;
use crate::config::diagnose;
use crate::config::repository::RepositoryConfig;
use crate::keys::Sealing;
use crate::session::Session;

/// A repository that the configuration or the command line names; nothing was looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name in the configuration.
    pub(crate) name: Option<String>,
    /// Its URL.
    pub(crate) url: String,
    /// The compression that it asks for.
    pub(crate) compression: Option<Compression>,
    /// What is kept there, whatever the sources say.
    pub(crate) keep: Option<Keep>,
    /// How finely the states of logs can be told apart there, whatever the sources say.
    pub(crate) resolution: Option<Resolution>,
    /// All that is configured of it.
    pub(crate) config: Box<RepositoryConfig>,
    /// To whom it is sealed what is stored there, and what opens it.
    pub(crate) sealing: Sealing,
}

impl Place {
    fn at(url: String, sealing: Sealing) -> Self {
        let config = RepositoryConfig { url: url.clone(), ..RepositoryConfig::default() };
        let (name, compression) = (None, None);
        let (keep, resolution) = (None, None);
        Place { name, url, compression, keep, resolution, config: config.into(), sealing }
    }

    /// How it is called in messages: its name, else its URL.
    pub(crate) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.url)
    }

    /// Its store.
    pub(crate) fn store(&self, env: &Env) -> Result<Arc<dyn Store>> {
        let mut options = buckets::options(&self.config)?;
        // A bare host knows the bucket's name alone.
        options.finds_object_lock = self.name.is_none();
        lifeboat_stores::open(env, &self.url, &options)
    }

    /// Opens what is there, to read it.
    pub(crate) fn open(&self, env: &Env) -> Result<Repository> {
        let repository = Repository::open(self.store(env)?)?;
        Ok(repository
            .with_keys(self.sealing.keys.clone())
            .keeping_known(self.sealing.known.as_deref()))
    }

    /// Opens it, or creates it in an empty place: what is stored is sealed as the configuration
    /// asks.
    pub(crate) fn open_or_create(&self, env: &Env) -> Result<Repository> {
        let recipients = self.sealing.recipients()?;
        let repository = Repository::open_or_create(env, self.store(env)?)?;
        Ok(repository
            .with_keys(self.sealing.keys.clone())
            .keeping_known(self.sealing.known.as_deref())
            .sealed_to(recipients))
    }
}

/// The repositories of this run: the one that `--repo` names, else all that are configured, else
/// the default one.
pub(crate) fn places(session: &Session) -> Result<Vec<Place>> {
    let configured = configured(session)?;
    if let Some(wanted) = &session.globals.repo {
        return Ok(vec![named(wanted, &configured, session.keys()?)?]);
    }
    if !configured.is_empty() {
        return Ok(configured);
    }
    let folder = crate::world::default_repository(&session.surroundings).ok_or_else(|| {
        Error::new(Kind::Usage, "no place for a default repository: HOME is not set")
            .hint("name a repository with --repo file:///path")
    })?;
    Ok(vec![Place::at(local_url(&folder), Sealing::unsealed(session.keys()?))])
}

/// The place that a name, a URL or a path means.
pub(crate) fn place_of(session: &Session, wanted: &str) -> Result<Place> {
    named(wanted, &configured(session)?, session.keys()?)
}

/// The repository that a name, a URL or a path means.
pub(crate) fn place(session: &Session, wanted: &str) -> Result<Place> {
    named(wanted, &configured(session)?, session.keys()?)
}

fn configured(session: &Session) -> Result<Vec<Place>> {
    let (repositories, keys) = (&session.loaded()?.config.repository, session.keys()?);
    let places = repositories.iter().map(|(name, repository)| Place {
        name: Some(name.clone()),
        url: repository.url.clone(),
        compression: repository.compression.map(|compression| compression.0),
        keep: repository.keep.as_ref().map(|keep| keep.0.keep()),
        resolution: repository.log.map(|log| log.resolution()),
        config: repository.clone().into(),
        sealing: Sealing::of(repository, keys.clone(), session.folders.known.as_deref()),
    });
    Ok(places.collect())
}

/// The place that a name, a URL or a path means.
fn named(wanted: &str, configured: &[Place], keys: Option<Arc<dyn Keys>>) -> Result<Place> {
    if let Some(place) = configured.iter().find(|place| place.name.as_deref() == Some(wanted)) {
        return Ok(place.clone());
    }
    if wanted.contains("://") {
        lifeboat_stores::check_url(wanted)?;
        return Ok(at(wanted.to_owned(), configured, keys));
    }
    if wanted.contains('/') || Path::new(wanted).exists() {
        let failed =
            |error| Error::io(Kind::Usage, format!("cannot use `{wanted}` as a repository"), error);
        let path: PathBuf = std::path::absolute(wanted).map_err(failed)?;
        return Ok(at(local_url(&path), configured, keys));
    }
    let known: Vec<&str> = configured.iter().filter_map(|place| place.name.as_deref()).collect();
    let error = Error::new(Kind::Usage, diagnose::unknown_word("repository", wanted, &known));
    Err(error.hint("name a configured repository, a URL such as file:///var/backups, or a path"))
}

/// A place under its URL: what is configured of it holds as well.
fn at(url: String, configured: &[Place], keys: Option<Arc<dyn Keys>>) -> Place {
    let is_it = |place: &&Place| place.url.trim_end_matches('/') == url.trim_end_matches('/');
    let known = configured.iter().find(is_it).cloned();
    known.unwrap_or_else(|| Place::at(url, Sealing::unsealed(keys)))
}

/// The `file://` URL of an absolute path.
pub(crate) fn local_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' | b' ' | 0..=0x1f | 0x7f.. => url.push_str(&format!("%{byte:02X}")),
            _ => url.push(char::from(byte)),
        }
    }
    url
}

/// A repository that was opened, with all that it holds.
pub(crate) struct Opened {
    /// Where it is.
    pub(crate) place: Place,
    /// It.
    pub(crate) repository: Repository,
    /// What it holds.
    pub(crate) catalog: Catalog,
}

/// Opens and reads all repositories of this run. One that fails is reported as a warning as long
/// as another can be read: the kind of the first failure is given back with what was read.
pub(crate) fn open_all(session: &Session, env: &Env) -> Result<(Vec<Opened>, Vec<Error>)> {
    open_each(session, env, |repository| repository)
}

/// The same for what deletes: with the credentials that are configured for that.
pub(crate) fn open_all_to_prune(session: &Session, env: &Env) -> Result<(Vec<Opened>, Vec<Error>)> {
    let mut places = places(session)?;
    places.iter_mut().for_each(|place| *place.config = place.config.to_prune());
    open_those(env, places, |_, repository| Ok((repository.catalog()?, repository)))
}

/// The same for what only looks at backups and never at their content: manifests that were read
/// before are taken from the cache, and from packs.
pub(crate) fn look_over(session: &Session, env: &Env) -> Result<(Vec<Opened>, Vec<Error>)> {
    open_each(session, env, |repository| {
        let cache = session.folders.caches.as_deref();
        repository.only_looked_at(env, cache.map(|folder| CacheFolder::place(folder, env)))
    })
}

/// The kinds of sources whose facts say what can be restored of them.
const FACTS_OF: &[&str] = &[lifeboat_postgres::CLUSTER_KIND];

/// The same for who asks how everything stands, and keeps it: in brief, as there may be thousands
/// of backups. Of each manifest rows and times are sums, and hashes are not there. What was read so
/// before, and is as it was then, is not read once more.
pub(crate) fn look_briefly(
    session: &Session,
    env: &Env,
    before: &[Opened],
) -> Result<(Vec<Opened>, Vec<Error>)> {
    let nothing = Catalog::default();
    open_those(env, places(session)?, |place, repository| {
        let cache = session.folders.caches.as_deref();
        let cache = cache.map(|folder| CacheFolder::place(folder, env));
        let repository = repository.only_looked_at(env, cache).in_brief(FACTS_OF);
        let is_it = |older: &&Opened| {
            older.place == *place && older.repository.header() == repository.header()
        };
        let older = before.iter().find(is_it).map_or(&nothing, |older| &older.catalog);
        Ok((repository.catalog_after(older)?, repository))
    })
}

fn open_each(
    session: &Session,
    env: &Env,
    prepare: impl Fn(Repository) -> Repository,
) -> Result<(Vec<Opened>, Vec<Error>)> {
    open_those(env, places(session)?, |_, repository| {
        let repository = prepare(repository);
        Ok((repository.catalog()?, repository))
    })
}

fn open_those(
    env: &Env,
    places: Vec<Place>,
    read: impl Fn(&Place, Repository) -> Result<(Catalog, Repository)>,
) -> Result<(Vec<Opened>, Vec<Error>)> {
    let (mut opened, mut failures) = (Vec::new(), Vec::new());
    for place in places {
        match place.open(env).and_then(|repository| read(&place, repository)) {
            Ok((catalog, repository)) => opened.push(Opened { place, repository, catalog }),
            Err(error) => failures.push(error),
        }
    }
    if opened.is_empty() && !failures.is_empty() {
        return Err(failures.remove(0));
    }
    for error in &failures {
        env.warn("", &format!("left out: {error}"));
    }
    Ok((opened, failures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_urls_are_named() {
        for url in ["/var/backups", "file://relative", "ftp://x/y"] {
            let error = lifeboat_stores::check_url(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{url}");
            assert!(error.message().contains(url), "{error}");
        }
    }

    #[test]
    fn paths_become_urls_without_loss() {
        assert_eq!(local_url(Path::new("/mnt/a b%")), "file:///mnt/a%20b%25");
        assert_eq!(local_url(Path::new("/é\n")), "file:///%C3%A9%0A");
    }

    #[test]
    fn repositories_are_found_by_name_url_and_path() {
        let at = Place::at("file:///b".into(), Sealing::unsealed(None));
        let local = Place { name: Some("local".into()), ..at };
        let configured = [local.clone()];
        assert_eq!(named("local", &configured, None).unwrap(), local);
        assert_eq!(named("file:///b", &configured, None).unwrap(), local);
        assert_eq!(named("/c", &configured, None).unwrap().url, "file:///c");
        let error = named("locla", &configured, None).unwrap_err();
        assert_eq!(error.message(), "unknown repository `locla`, did you mean `local`?");
        let error = named("local", &[], None).unwrap_err();
        assert_eq!(error.message(), "unknown repository `local`, none is configured");
    }
}
