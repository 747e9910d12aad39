//! From the configuration, or a path on the command line, to what core can back up and restore.
//!
//! Adding a kind of source is one line in [`engines`] and one arm in [`Target::configured`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::files::{FileEntry, FilesEngine, FilesSource};
use lifeboat_core::glob;
use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::names::{self, NamePattern};
use lifeboat_core::pipeline::Compression;
use lifeboat_core::policy::Keep;
use lifeboat_core::repository::SourceIdentity;
use lifeboat_core::service::Service;
use lifeboat_core::source::{CaptureOptions, Engine, Source};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::pagelog::Resolution;
use lifeboat_sqlite::{SqliteEngine, SqliteSource};
use uuid::Uuid;

use crate::addresses;
use crate::clusters::{self, Cluster};
use crate::config::drill::DrillConfig;
use crate::config::model::{
    FileConfig, GuardConfig, OneOrMany, PruneWhen, ServiceConfig, SqliteConfig, When,
};
use crate::config::postgres::PostgresConfig;
use crate::config::values::TextOr;
use crate::config::{Config, SourceConfig, diagnose};
use crate::postgres::{self, Database};
use crate::runs::Manner;
use crate::ui::units;

/// The engines of all kinds of sources.
pub(crate) fn engines() -> Vec<&'static dyn Engine> {
    vec![&SqliteEngine, &FilesEngine, postgres::engine(), clusters::engine()]
}

/// The engine of a kind.
pub(crate) fn engine(kind: &str) -> Result<&'static dyn Engine> {
    engines().into_iter().find(|engine| engine.kind() == kind).ok_or_else(|| {
        Error::new(Kind::Failed, format!("this program knows no source of the kind `{kind}`"))
            .hint("use a newer lifeboat")
    })
}

/// The growth of a `-wal` beyond which a check lets go of it: it would fill the disk.
const WAL_GROWTH_BYTES_MAX: u64 = 256 << 20;

const LOCK_MS_MAX: u64 = 5_000;

/// How much memory a check may use where nothing else is configured.
pub(crate) const CHECK_MEMORY_BYTES: u64 = 512_000_000;

const SERVICE_TIMEOUT_MS: u64 = 60_000;

/// One thing that can be backed up, with everything that the configuration says of it.
pub(crate) struct Target {
    /// Its name in the repository.
    pub(crate) name: String,
    /// What is read.
    pub(crate) source: Box<dyn Source>,
    /// The database's file; `None` for a source of files.
    pub(crate) path: Option<PathBuf>,
    /// The database's server, where it has one.
    pub(crate) database: Option<Database>,
    /// The whole cluster, where it is one.
    pub(crate) cluster: Option<Cluster>,
    /// What belongs to the same restore point.
    pub(crate) companions: Option<FilesSource>,
    /// Its id, where it is configured.
    pub(crate) id: Option<Uuid>,
    /// Method, check and bounds.
    pub(crate) options: CaptureOptions,
    /// Compression, where the source has one of its own.
    pub(crate) compression: Option<Compression>,
    /// How its backups are named.
    pub(crate) pattern: NamePattern,
    /// The service that uses it.
    pub(crate) service: Option<Service>,
    /// Whether an unchanged source makes no new backup.
    pub(crate) on_change: bool,
    /// The names of the repositories that take its backups; `None` for all.
    pub(crate) repositories: Option<Vec<String>>,
    /// How old its newest backup may be, in milliseconds.
    pub(crate) rpo_ms: Option<u64>,
    /// How long its restore may take, in milliseconds.
    pub(crate) rto_ms: Option<u64>,
    /// How its migrations are guarded.
    pub(crate) guard: GuardConfig,
    /// How its restore is rehearsed.
    pub(crate) drill: DrillConfig,
    /// What is kept of its backups, where that is configured.
    pub(crate) keep: Option<Keep>,
    /// How far back any moment can be restored by its log, in milliseconds, where that is limited.
    pub(crate) log_window_ms: Option<u64>,
    /// How finely the states of its page log can be told apart, where it says so.
    pub(crate) resolution: Option<Resolution>,
    /// Whether it is pruned after each backup.
    pub(crate) prune_after_backup: bool,
    /// When it is backed up, where that is configured.
    pub(crate) schedule: Option<String>,
    /// How its runs are made.
    pub(crate) manner: Manner,
    /// What each of its backups has to say.
    pub(crate) warnings: Vec<String>,
}

impl Target {
    /// All sources of the configuration, globs expanded, in the order of their names.
    pub(crate) fn all(config: &Config) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for (name, source) in &config.source {
            targets.extend(Target::configured(name, source)?);
        }
        let mut names = BTreeSet::new();
        match targets.iter().find(|target| !names.insert(target.name.clone())) {
            Some(twice) => Err(Error::new(
                Kind::Usage,
                format!("two sources of the configuration have the name `{}`", twice.name),
            )
            .hint("rename one of them: a glob names its databases after what its wildcards match")),
            None => Ok(targets),
        }
    }

    /// What one section of the configuration stands for.
    pub(crate) fn configured(name: &str, config: &SourceConfig) -> Result<Vec<Target>> {
        if let Some(postgres) = config.postgres.as_ref().filter(|postgres| postgres.0.physical) {
            let cluster = Cluster::configured(&postgres.0)?;
            let mut target = Target::of_cluster(name.to_owned(), cluster).with(config, None);
            if !config.files.is_empty() {
                target.companions = Some(files(&config.files)?);
            }
            return Ok(vec![target]);
        }
        if let Some(postgres) = &config.postgres {
            return Target::of_servers(name, config, &postgres.0);
        }
        let Some(sqlite) = config.sqlite.as_ref().map(|sqlite| &sqlite.0) else {
            let source = Box::new(files(&config.files)?);
            return Ok(vec![Target::new(name.to_owned(), source, None).with(config, None)]);
        };
        let mut places = Vec::new();
        if let Some(path) = &sqlite.path {
            places.push((name.to_owned(), path.clone()));
        }
        if let Some(pattern) = &sqlite.glob {
            let found = glob::find(pattern)?;
            if found.is_empty() {
                let message = format!("the glob {pattern} of `{name}` matches no database");
                return Err(Error::new(Kind::SourceUnavailable, message)
                    .hint("mend the glob, or remove the source from the configuration"));
            }
            for found in found {
                let one = names::source_name(&format!("{name}-{}", found.variable));
                places.push((one, found.path));
            }
        }
        places
            .into_iter()
            .map(|(name, path)| {
                let mut target = Target::database(name, path).with(config, Some(sqlite));
                if !config.files.is_empty() {
                    target.companions = Some(files(&config.files)?);
                }
                Ok(target)
            })
            .collect()
    }

    /// One database of a server, or several.
    fn of_servers(
        name: &str,
        config: &SourceConfig,
        postgres: &PostgresConfig,
    ) -> Result<Vec<Target>> {
        let database = Database::configured(postgres)?;
        let databases = match postgres.databases.as_ref().map(OneOrMany::names) {
            None => vec![(name.to_owned(), database)],
            Some([all]) if all == "all" => {
                let named = database.all_of_server()?.into_iter();
                named.map(|one| (format!("{name}-{one}"), database.named(&one))).collect()
            }
            Some(names) => {
                names.iter().map(|one| (format!("{name}-{one}"), database.named(one))).collect()
            }
        };
        databases
            .into_iter()
            .map(|(name, database)| {
                let name = names::source_name(&name);
                let mut target = Target::server(name, database).with(config, None);
                if !config.files.is_empty() {
                    target.companions = Some(files(&config.files)?);
                }
                Ok(target)
            })
            .collect()
    }

    /// A database of a server.
    pub(crate) fn server(name: String, database: Database) -> Target {
        let source = Box::new(database.clone().source());
        Target { database: Some(database), ..Target::new(name, source, None) }
    }

    /// A whole cluster.
    pub(crate) fn of_cluster(name: String, cluster: Cluster) -> Target {
        let source = Box::new(cluster.clone().source());
        Target { cluster: Some(cluster), ..Target::new(name, source, None) }
    }

    /// A database by its path, which nobody configured.
    pub(crate) fn database(name: String, path: PathBuf) -> Target {
        let source = Box::new(SqliteSource::new(path.clone()));
        Target::new(name, source, Some(path))
    }

    fn new(name: String, source: Box<dyn Source>, path: Option<PathBuf>) -> Target {
        Target {
            name,
            source,
            path,
            database: None,
            cluster: None,
            companions: None,
            id: None,
            options: CaptureOptions {
                method: Method::Online,
                check: CheckLevel::Quick,
                check_memory_bytes: CHECK_MEMORY_BYTES,
                lock_ms_max: LOCK_MS_MAX,
                wal_growth_bytes_max: WAL_GROWTH_BYTES_MAX,
            },
            compression: None,
            pattern: NamePattern::default(),
            service: None,
            on_change: false,
            repositories: None,
            rpo_ms: None,
            rto_ms: None,
            guard: GuardConfig::default(),
            drill: DrillConfig::default(),
            keep: None,
            resolution: None,
            log_window_ms: None,
            prune_after_backup: false,
            schedule: None,
            manner: Manner::default(),
            warnings: Vec::new(),
        }
    }

    fn with(mut self, config: &SourceConfig, sqlite: Option<&SqliteConfig>) -> Target {
        if let Some(check) = config.check {
            self.options.check = check;
        }
        if let Some(sqlite) = sqlite {
            self.options.method = sqlite.method.unwrap_or(self.options.method);
            self.options.lock_ms_max = sqlite.lock_ms_max.unwrap_or(self.options.lock_ms_max);
            if let Some(memory) = sqlite.check_memory {
                self.options.check_memory_bytes = memory.0.bytes;
            }
        }
        self.id = config.id;
        self.warnings = config.warnings.clone();
        self.compression = config.compression.map(|compression| compression.0);
        self.pattern = config.name.as_ref().map(|name| name.0.clone()).unwrap_or_default();
        self.service = config.service.as_ref().map(|service| service_of(&service.0));
        self.on_change = config.when == Some(When::OnChange);
        self.repositories = config.repository.as_ref().map(|names| names.names().to_vec());
        self.guard = config.guard.clone().unwrap_or_default();
        self.drill = config.drill.clone().unwrap_or_default();
        self.rpo_ms = config.rpo.map(|rpo| rpo.0.milliseconds);
        self.rto_ms = config.rto.map(|rto| rto.0.milliseconds);
        self.keep = config.keep.as_ref().map(|keep| keep.0.keep());
        self.resolution = config.log.map(|log| log.resolution());
        let postgres = config.postgres.as_ref().map(|postgres| &postgres.0);
        let window = postgres.and_then(|postgres| postgres.wal_window);
        self.log_window_ms = window.map(|window| window.0.milliseconds);
        self.schedule = config.schedule.clone();
        self.prune_after_backup = config.prune == Some(PruneWhen::AfterBackup);
        self.manner = Manner::of(config);
        self
    }

    /// The engine of its kind.
    pub(crate) fn engine(&self) -> Result<&'static dyn Engine> {
        engine(self.source.kind())
    }

    /// Whether it is a whole PostgreSQL cluster, which has a log.
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// What makes its backups ones of the same source.
    pub(crate) fn identity(&self, env: &Env) -> Result<SourceIdentity> {
        Ok(SourceIdentity {
            id: self.id,
            name: self.name.clone(),
            kind: self.source.kind().to_owned(),
            host: env.host.clone(),
            location: self.location()?,
        })
    }

    /// Where it is, or was: a lost database still has its place.
    pub(crate) fn location(&self) -> Result<String> {
        match &self.path {
            Some(path) => text_of(&place_of(path)?),
            None => self.source.location(),
        }
    }

    /// Whether it is the database at that place.
    pub(crate) fn is_at(&self, place: &Path) -> bool {
        let here = self.path.as_ref().and_then(|path| place_of(path).ok());
        here.is_some_and(|here| here == place)
    }
}

/// A path as text. One that is not UTF-8 is refused: no manifest could name the place, and a
/// restore would go elsewhere.
fn text_of(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("the path {} is not UTF-8", diagnose::shown(path));
        Error::new(Kind::Usage, message).hint("rename it: no manifest can name this place")
    })
}

/// The absolute path of a file, links resolved, whether it exists or not.
pub(crate) fn place_of(path: &Path) -> Result<PathBuf> {
    if let Ok(resolved) = fs::canonicalize(path) {
        return Ok(resolved);
    }
    let failed = |error| {
        Error::io(Kind::Usage, format!("cannot use the path {}", diagnose::shown(path)), error)
    };
    // One of PostgreSQL has a meaning of its own, where it can have one.
    if let Some(text) = path.to_str().filter(|text| !postgres::is_address(text))
        && addresses::scheme(text).is_some()
    {
        return Err(addresses::no_path("what is named", text));
    }
    let absolute = std::path::absolute(path).map_err(failed)?;
    // A link to a file that is lost still says where that file was.
    let absolute = match fs::read_link(&absolute) {
        Ok(target) => absolute.parent().unwrap_or(Path::new("/")).join(target),
        Err(_) => absolute,
    };
    match (absolute.parent().map(fs::canonicalize), absolute.file_name()) {
        (Some(Ok(folder)), Some(name)) => Ok(folder.join(name)),
        _ => Ok(absolute),
    }
}

/// The sources that the arguments name: configured names, or paths of databases. Without
/// arguments, all that are configured.
pub(crate) fn named(config: &Config, arguments: &[String]) -> Result<Vec<Target>> {
    if arguments.is_empty() {
        return Target::all(config);
    }
    let mut chosen: Vec<Target> = Vec::new();
    for argument in arguments {
        let target = one(config, argument)?;
        for target in target {
            if !chosen.iter().any(|before| before.name == target.name && before.path == target.path)
            {
                chosen.push(target);
            }
        }
    }
    Ok(chosen)
}

/// What one argument names; several where it is the name of a glob.
fn one(config: &Config, argument: &str) -> Result<Vec<Target>> {
    if let Some(source) = config.source.get(argument) {
        return Target::configured(argument, source);
    }
    let is_path = argument.contains('/') || fs::symlink_metadata(argument).is_ok();
    if let Some(target) = configured_at(config, argument)? {
        return Ok(vec![target]);
    }
    if !is_path {
        return Err(unknown(config, argument));
    }
    let place = place_of(Path::new(argument))?;
    let name = name_of(&place);
    Ok(vec![Target::database(name, PathBuf::from(argument))])
}

/// The database at an address: the configured one, else one that nobody configured, named after
/// the database.
fn at_address(config: &Config, argument: &str) -> Result<Target> {
    let address = postgres::typed(argument)?;
    let label = address.label();
    for (name, source) in &config.source {
        let Ok(targets) = Target::configured(name, source) else { continue };
        let is_it = |target: &Target| {
            let database = target.database.as_ref();
            database.is_some_and(|database| database.address().label() == label)
        };
        if let Some(target) = targets.into_iter().find(is_it) {
            return Ok(target);
        }
    }
    let Some(database) = address.database().map(names::source_name) else {
        return Err(Error::new(Kind::Usage, format!("{label} names no database")).hint(
            "write postgresql://HOST/DATABASE; or --physical, for all that the server holds",
        ));
    };
    Ok(Target::server(database, Database::at(address)))
}

/// The configured source that has this name after its glob was expanded, or is at this place.
pub(crate) fn configured_at(config: &Config, argument: &str) -> Result<Option<Target>> {
    if postgres::is_address(argument) {
        return at_address(config, argument).map(Some);
    }
    let place = place_of(Path::new(argument))?;
    for (name, source) in &config.source {
        // A glob whose folder is gone must not hinder the backup of another database.
        let Ok(targets) = Target::configured(name, source) else { continue };
        let found =
            targets.into_iter().find(|target| target.name == argument || target.is_at(&place));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The name of a database that nobody configured: its file's, without the ending.
pub(crate) fn name_of(place: &Path) -> String {
    let stem = place.file_stem().unwrap_or(place.as_os_str());
    names::source_name(&stem.to_string_lossy())
}

fn unknown(config: &Config, argument: &str) -> Error {
    let shown = units::one_line(argument);
    let known: Vec<&str> = config.source.keys().map(String::as_str).collect();
    let message = format!("`{shown}` is neither a configured source nor a file here");
    let error = Error::new(Kind::SourceUnavailable, message);
    match (diagnose::closest(argument, &known), known.is_empty()) {
        (Some(meant), _) => error.hint(format!("did you mean `{meant}`?")),
        (None, true) => error.hint("name an existing database file; no source is configured"),
        (None, false) => error.hint(format!("configured are: {}", known.join(", "))),
    }
}

fn files(entries: &[TextOr<FileConfig>]) -> Result<FilesSource> {
    let entry = |entry: &TextOr<FileConfig>| FileEntry {
        path: entry.0.place(),
        is_glob: entry.0.glob.is_some(),
        optional: entry.0.optional,
    };
    FilesSource::new(entries.iter().map(entry).collect())
}

fn service_of(config: &ServiceConfig) -> Service {
    let mut service = match &config.unit {
        Some(unit) => Service::unit(unit),
        None => Service {
            name: config.stop.join(" "),
            stop: config.stop.clone(),
            start: config.start.clone(),
            timeout_ms: SERVICE_TIMEOUT_MS,
        },
    };
    if let Some(timeout) = config.timeout {
        service.timeout_ms = timeout.0.milliseconds;
    }
    service
}
