//! What a schedule runs: a backup of each source that has a `schedule`, a prune where anything says
//! what to keep, a verify; the program as it was started now; and the places that each writes to.

use std::path::{Path, PathBuf};

use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::Address;

use super::told;
use crate::config::diagnose::shown;
use crate::config::listen;
use crate::config::model::{PruneWhen, SourceConfig};
use crate::config::postgres::PostgresConfig;
use crate::config::schedule::Schedule;
use crate::repositories::{self, Place};
use crate::session::Session;
use crate::sources::place_of;

/// The variables that decide which configuration and which folders a run finds.
const VARIABLES: &[&str] = &["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"];

/// The variables that say where PostgreSQL's programs find passwords and services.
const SERVER_VARIABLES: &[&str] = &["PGPASSFILE", "PGSERVICEFILE"];

/// Where PostgreSQL's programs look for a socket, as distributions build them.
const SOCKETS: &str = "/var/run/postgresql";

/// How lifeboat is started, so that it finds what this run finds.
#[derive(Debug)]
pub(crate) struct Program {
    /// The program's file.
    pub(crate) binary: String,
    /// The configuration, where it was named.
    pub(crate) config: Option<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Program {
    /// The program of this run.
    pub(crate) fn of(session: &Session) -> Result<Program> {
        let binary = std::env::current_exe()
            .map_err(|error| Error::io(Kind::Failed, "cannot find this program's file", error))?;
        let surroundings = &session.surroundings;
        let named = session.globals.config.clone().or_else(|| surroundings.path("LIFEBOAT_CONFIG"));
        let config = named.map(|path| text_of(&place_of(&path)?)).transpose()?;
        let mut environment = Vec::new();
        for name in VARIABLES.iter().chain(SERVER_VARIABLES) {
            if let Some(path) = surroundings.path(name).filter(|path| path.is_absolute()) {
                environment.push((*name, text_of(&path)?));
            }
        }
        Ok(Program { binary: text_of(&binary)?, config, environment })
    }

    /// The command that does a job.
    pub(crate) fn command(&self, job: &Job) -> Vec<String> {
        let mut command = vec![self.binary.clone()];
        if let Some(config) = &self.config {
            command.extend(["--config".to_owned(), config.clone()]);
        }
        command.extend(job.arguments.iter().cloned());
        command
    }
}

/// How long a run may take where nothing says more, in seconds.
const TIMEOUT_S: u64 = 6 * 3600;
/// What a run may take beyond the limits of its backups, in seconds.
const TIMEOUT_MARGIN_S: u64 = 600;

/// How much of the network a run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Network {
    /// Nothing but sockets that are files.
    Files,
    /// This host.
    Host,
    /// Any server.
    Any,
}

/// One scheduled command.
#[derive(Debug)]
pub(crate) struct Job {
    /// What stands for it in names of units: "backup-superchat", "prune".
    pub(crate) name: String,
    /// What it is, for people: "Backup of superchat".
    pub(crate) title: String,
    /// The command and its arguments.
    pub(crate) arguments: Vec<String>,
    /// When it runs.
    pub(crate) schedule: Schedule,
    /// How far its moment may be moved, in seconds.
    pub(crate) random_delay_s: u64,
    /// The folders that it writes to.
    pub(crate) writes: Vec<String>,
    /// All places that it must see, for what hides a part of the file system.
    pub(crate) sees: Vec<PathBuf>,
    /// Those folders of repositories and of our state that do not exist yet.
    pub(crate) made: Vec<PathBuf>,
    /// Whether a service is stopped meanwhile.
    pub(crate) stops: bool,
    /// How much of the network it needs.
    pub(crate) network: Network,
    /// Credentials that systemd hands to it, by name.
    pub(crate) credentials: Vec<String>,
    /// Whether it runs commands of the configuration, which may need anything.
    pub(crate) runs_commands: bool,
    /// Whether it is no failure that its repository is not there now.
    pub(crate) may_be_absent: bool,
    /// When systemd ends it, in seconds; `None` for never.
    pub(crate) timeout_s: Option<u64>,
}

/// The jobs of the configuration, and the names of the sources without a schedule.
pub(crate) fn of(session: &Session) -> Result<(Vec<Job>, Vec<String>)> {
    let loaded = session.loaded()?;
    if loaded.places.files.is_empty() {
        return Err(Error::new(Kind::Usage, "there is no configuration to install")
            .hint("`lifeboat config init` writes one"));
    }
    let places = repositories::places(session)?;
    let (mut jobs, mut left_out) = (Vec::new(), Vec::new());
    for (name, source) in &loaded.config.source {
        let Some(text) = &source.schedule else {
            left_out.push(name.clone());
            continue;
        };
        let schedule = Schedule::read(text).map_err(|why| {
            let place = ["source", name.as_str(), "schedule"];
            Error::new(Kind::Usage, loaded.places.point(&place, &why))
        })?;
        jobs.push(backup(session, name, source, schedule, &places)?);
    }
    if !jobs.is_empty() {
        jobs.extend(prune(session, &places)?);
        jobs.extend(copies(session, &places)?);
        jobs.push(verify(session, &places)?);
        jobs.extend(drills(session, &places)?);
        jobs.extend(told::watch(session, &places)?);
    }
    for job in &mut jobs {
        told::add(session, job)?;
    }
    Ok((jobs, left_out))
}

/// The agent as one job: it runs all of them, and what never ends.
pub(crate) fn agent(session: &Session, jobs: Vec<Job>) -> Result<Job> {
    let places = repositories::places(session)?;
    let mut all = of_repositories(session, "run", "Lifeboat", "hourly", &places)?;
    let config = &session.loaded()?.config;
    // Followed databases and received logs need what a backup of theirs needs.
    for (name, source) in config.source.iter().filter(|(_, source)| source.schedule.is_none()) {
        let schedule = all.schedule.clone();
        add(&mut all, backup(session, name, source, schedule, &places)?);
    }
    jobs.into_iter().for_each(|job| add(&mut all, job));
    told::add(session, &mut all)?;
    // A page that nobody can reach is none.
    if let Some(Ok(page)) = config.agent.as_ref().and_then(|agent| agent.page()) {
        let needed = match &page.address {
            listen::Address::Network(address) if !address.ip().is_loopback() => Network::Any,
            _ => Network::Host,
        };
        all.network = all.network.max(needed);
        if let listen::Address::Socket(path) = &page.address {
            let folder: Vec<PathBuf> = path.parent().map(Path::to_owned).into_iter().collect();
            all.writes.extend(texts_of(&folder)?);
        }
    }
    for texts in [&mut all.writes, &mut all.credentials] {
        texts.sort();
        texts.dedup();
    }
    Ok(all)
}

fn add(all: &mut Job, one: Job) {
    all.writes.extend(one.writes);
    all.sees.extend(one.sees);
    all.made.extend(one.made);
    all.credentials.extend(one.credentials);
    all.stops |= one.stops;
    all.runs_commands |= one.runs_commands;
    all.network = all.network.max(one.network);
}

/// The prune of every day, unless nobody says what to keep, or backups are pruned as they are made.
fn prune(session: &Session, places: &[Place]) -> Result<Option<Job>> {
    let config = &session.loaded()?.config;
    let by_source = |source: &&SourceConfig| {
        let keep = source.keep.as_ref().map(|keep| keep.0.keep());
        keep.is_some_and(|keep| !keep.forever) || places.iter().any(|place| place.keep.is_some())
    };
    let mut kept = config.source.values().filter(by_source);
    if kept.all(|source| source.prune == Some(PruneWhen::AfterBackup)) {
        return Ok(None);
    }
    let runs_commands = config.hooks.is_some();
    let mut job = of_repositories(session, "prune", "Prune of old backups", "30 4 * * *", places)?;
    job.arguments = vec!["prune".into(), "--unattended".into()];
    Ok(Some(Job { runs_commands: runs_commands || job.runs_commands, ..job }))
}

/// What brings a repository what it missed: one that is not always there, and to which sources go
/// that go elsewhere too. A drive is asked for every hour, as it may stay for no longer.
fn copies(session: &Session, places: &[Place]) -> Result<Vec<Job>> {
    let config = &session.loaded()?.config;
    let mut jobs = Vec::new();
    for place in places {
        let Some(name) = &place.name else { continue };
        let is_drive = place.config.drive().is_some();
        if !is_drive && place.url.starts_with("file://") {
            continue;
        }
        let goes_there_too = |source: &SourceConfig| match &source.repository {
            None => places.len() > 1,
            Some(names) => names.names().len() > 1 && names.names().contains(name),
        };
        if !config.source.values().any(goes_there_too) {
            continue;
        }
        let schedule = if is_drive { "20 * * * *" } else { "30 3 * * *" };
        let (job, title) = (format!("copy-{name}"), format!("Copy to {name} of what it lacks"));
        let job = of_repositories(session, &job, &title, schedule, places)?;
        let arguments = vec!["copy".to_owned(), "--to".to_owned(), name.clone()];
        jobs.push(Job { arguments, may_be_absent: is_drive, ..job });
    }
    Ok(jobs)
}

/// The verify of every week.
fn verify(session: &Session, places: &[Place]) -> Result<Job> {
    let mut job = of_repositories(session, "verify", "Verify of all backups", "0 5 * * 0", places)?;
    job.arguments = vec!["verify".into(), "--level".into(), "hash".into()];
    Ok(job)
}

/// The drills: of each source, and of all from what the repositories know.
fn drills(session: &Session, places: &[Place]) -> Result<Vec<Job>> {
    let config = &session.loaded()?.config;
    let Some(drill) = &config.drill else { return Ok(Vec::new()) };
    let kinds: [(&str, &str, &Option<String>, &[&str]); 2] = [
        ("drill", "Rehearsed restore of each source", &drill.schedule, &["drill"]),
        ("drill-rebuild", "Rehearsed rebuild", &drill.rebuild, &["drill", "--from-repository"]),
    ];
    let mut jobs = Vec::new();
    for (name, title, schedule, arguments) in kinds {
        let Some(schedule) = schedule else { continue };
        let job = of_repositories(session, name, title, schedule, places)?;
        let mut writes = job.writes.clone();
        for source in config.source.values() {
            // A database in WAL mode is read with its -shm, which is written to.
            writes.extend(texts_of(&database_folder(source)?.into_iter().collect::<Vec<_>>())?);
        }
        writes.sort();
        writes.dedup();
        // A server of ours runs as another user than root; an application may need anything.
        let needs_more = |source: &SourceConfig| {
            source.postgres.is_some()
                || source.drill.as_ref().is_some_and(|drill| !drill.command.is_empty())
        };
        let runs_commands = job.runs_commands || config.source.values().any(needs_more);
        let mut sees = job.sees.clone();
        sees.extend(writes.iter().map(PathBuf::from));
        sees.extend(
            config.source.values().flat_map(|it| it.files.iter().map(|file| file.0.place())),
        );
        let network = match config.source.values().any(|source| source.postgres.is_some()) {
            true => Network::Any,
            false => job.network.max(Network::Host),
        };
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        jobs.push(Job { arguments, writes, sees, runs_commands, network, ..job });
    }
    Ok(jobs)
}

/// A job that needs the repositories and nothing else.
pub(super) fn of_repositories(
    session: &Session,
    name: &str,
    title: &str,
    schedule: &str,
    places: &[Place],
) -> Result<Job> {
    let kept = kept(session, places.iter())?;
    let mut sees = kept.clone();
    sees.extend(session.config_files()?);
    sees.extend(places.iter().flat_map(|place| place.config.files()));
    let schedule = Schedule::read(schedule).map_err(|why| Error::new(Kind::Failed, why))?;
    Ok(Job {
        name: name.to_owned(),
        title: title.to_owned(),
        arguments: vec![name.to_owned()],
        random_delay_s: schedule.random_delay_s().into(),
        schedule,
        writes: texts_of(&kept)?,
        sees,
        made: missing(&kept),
        stops: false,
        network: network_of_places(places.iter()),
        credentials: credentials_of(places.iter()),
        runs_commands: places.iter().any(|place| place.config.runs_commands()),
        may_be_absent: false,
        timeout_s: Some(TIMEOUT_S),
    })
}

/// The folders of our state and of those repositories.
fn kept<'a>(session: &Session, places: impl Iterator<Item = &'a Place>) -> Result<Vec<PathBuf>> {
    let state = session.folders.locks.as_deref().and_then(Path::parent);
    let mut kept: Vec<PathBuf> = state.into_iter().map(Path::to_owned).collect();
    for folder in places.filter_map(|place| folder_of(place).transpose()) {
        kept.push(place_of(&folder?)?);
    }
    Ok(kept)
}

/// What of the network leads to repositories.
fn network_of_places<'a>(mut places: impl Iterator<Item = &'a Place>) -> Network {
    let is_elsewhere = |place: &Place| !place.url.starts_with("file://");
    if places.any(is_elsewhere) { Network::Any } else { Network::Files }
}

/// The credentials that open them.
fn credentials_of<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<String> {
    let secrets = places.flat_map(|place| place.config.secrets());
    secrets.filter_map(|secret| secret.credential.clone()).collect()
}

fn missing(folders: &[PathBuf]) -> Vec<PathBuf> {
    folders.iter().filter(|folder| !folder.exists()).cloned().collect()
}

fn texts_of(folders: &[PathBuf]) -> Result<Vec<String>> {
    let mut texts: Vec<String> =
        folders.iter().map(|folder| text_of(folder)).collect::<Result<_>>()?;
    texts.sort();
    texts.dedup();
    Ok(texts)
}

fn backup(
    session: &Session,
    name: &str,
    source: &SourceConfig,
    schedule: Schedule,
    places: &[Place],
) -> Result<Job> {
    let chosen = |place: &&Place| match (&source.repository, &place.name) {
        (Some(names), Some(name)) => names.names().contains(name),
        _ => true,
    };
    let places: Vec<&Place> = places.iter().filter(chosen).collect();
    let mut writes = kept(session, places.iter().copied())?;
    let made = missing(&writes);
    writes.extend(database_folder(source)?);
    let mut sees = writes.clone();
    sees.extend(source.files.iter().map(|file| file.0.place()));
    sees.extend(session.config_files()?);
    let cold = source.sqlite.as_ref().is_some_and(|sqlite| sqlite.0.method == Some(Method::Cold));
    let service = source.service.as_ref().filter(|_| cold);
    let hooks = source.hooks.is_some() || session.loaded()?.config.hooks.is_some();
    let server = match &source.postgres {
        Some(postgres) => Server::of(session, name, source, &postgres.0)?,
        None => Server::default(),
    };
    sees.extend(server.sees);
    sees.extend(places.iter().flat_map(|place| place.config.files()));
    Ok(Job {
        name: format!("backup-{name}"),
        title: format!("Backup of {name}"),
        arguments: vec!["backup".to_owned(), name.to_owned()],
        random_delay_s: match source.random_delay {
            Some(delay) => delay.0.milliseconds / 1000,
            None => schedule.random_delay_s().into(),
        },
        schedule,
        writes: texts_of(&writes)?,
        sees,
        made,
        stops: service.is_some(),
        network: server.network.max(network_of_places(places.iter().copied())),
        credentials: [server.credentials, credentials_of(places.iter().copied())].concat(),
        runs_commands: hooks
            || places.iter().any(|place| place.config.runs_commands())
            || server.runs_commands
            || service.is_some_and(|service| service.0.unit.is_none()),
        may_be_absent: false,
        timeout_s: timeout_s(source, places.len()),
    })
}

/// What a backup of a server needs beyond that of a file.
pub(super) struct Server {
    pub(super) network: Network,
    pub(super) credentials: Vec<String>,
    runs_commands: bool,
    pub(super) sees: Vec<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        let (credentials, sees) = (Vec::new(), Vec::new());
        Server { network: Network::Files, credentials, runs_commands: false, sees }
    }
}

impl Server {
    pub(super) fn of(
        session: &Session,
        name: &str,
        source: &SourceConfig,
        postgres: &PostgresConfig,
    ) -> Result<Self> {
        let address = postgres.address()?;
        let mut server = Server {
            network: network_of(&address),
            // A prefix reaches into a container; a full check starts a server as another user.
            runs_commands: !postgres.command.is_empty() || source.check == Some(CheckLevel::Full),
            ..Server::default()
        };
        match address.get("host") {
            Some(host) if host.starts_with('/') => server.sees.push(host.into()),
            None if !Path::new(SOCKETS).exists() => server.sees.push("/tmp".into()),
            _ => {}
        }
        for variable in SERVER_VARIABLES {
            server.sees.extend(session.surroundings.path(variable));
        }
        if let Some(secret) = &postgres.password {
            server.runs_commands |= !secret.command.is_empty();
            server.sees.extend(secret.file.clone());
            server.credentials.extend(secret.credential.clone());
            if let Some(variable) = &secret.env {
                let message = format!(
                    "its password is in the variable {variable}, which no schedule has: use \
                     password = {{ file = \"...\" }}"
                );
                session.printer.warning(name, &message);
            }
        }
        Ok(server)
    }
}

/// What of the network leads to a server.
fn network_of(address: &Address) -> Network {
    // What a service of pg_service.conf names is not known here.
    if address.get("service").is_some() {
        return Network::Any;
    }
    let hosts = [address.get("host"), address.get("hostaddr")].into_iter().flatten();
    let of = |host: &str| match host {
        "localhost" | "::1" => Network::Host,
        host if host.starts_with("127.") || host.starts_with('@') => Network::Host,
        host if host.is_empty() || host.starts_with('/') => Network::Files,
        _ => Network::Any,
    };
    hosts.flat_map(|hosts| hosts.split(',')).map(of).max().unwrap_or(Network::Files)
}

/// Later than the run ends by itself. How many databases a pattern will match nobody knows.
fn timeout_s(source: &SourceConfig, places: usize) -> Option<u64> {
    let Some(limit) = source.time_limit else { return Some(TIMEOUT_S) };
    let has_pattern = source.sqlite.as_ref().is_some_and(|sqlite| sqlite.0.glob.is_some());
    let backups = u64::try_from(places).unwrap_or(u64::MAX);
    let limits_s = (limit.0.milliseconds / 1000 + TIMEOUT_MARGIN_S).saturating_mul(backups);
    (!has_pattern).then(|| limits_s.max(TIMEOUT_S))
}

/// The folder of a repository on this host; of one on a drive, the whole drive.
fn folder_of(place: &Place) -> Result<Option<PathBuf>> {
    if let Some(drive) = &place.config.drive() {
        return Ok(Some(drive.mount.clone()));
    }
    place.url.strip_prefix("file://").map(lifeboat_stores::path_of_url).transpose()
}

/// A reader of a database in WAL mode writes to its `-shm`, which may have to be created. Of a
/// pattern, the folder above the first wildcard: databases may come later.
fn database_folder(source: &SourceConfig) -> Result<Option<PathBuf>> {
    let Some(sqlite) = source.sqlite.as_ref().map(|sqlite| &sqlite.0) else { return Ok(None) };
    if let Some(path) = &sqlite.path {
        return Ok(place_of(path)?.parent().map(Path::to_owned));
    }
    let Some(pattern) = &sqlite.glob else { return Ok(None) };
    let wildcard = pattern.find(['*', '?']).unwrap_or(pattern.len());
    let fixed = &pattern[..pattern[..wildcard].rfind('/').unwrap_or(0)];
    match fixed {
        "" => Err(Error::new(
            Kind::Usage,
            format!("the pattern {pattern} would need all of the file system to be writable"),
        )
        .hint("begin the pattern with a folder without wildcards, such as /srv/*/app.db")),
        fixed => place_of(Path::new(fixed)).map(Some),
    }
}

/// A path for a line of a unit or of a crontab.
fn text_of(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(str::to_owned).ok_or_else(|| {
        let message = format!("the path {} cannot stand in a schedule", shown(path));
        Error::new(Kind::Usage, message).hint("rename it: UTF-8 without control characters")
    })
}
