//! What a schedule runs: the program as it was started now, and for each source the places that
//! its run writes to.

use std::path::{Path, PathBuf};

use lifeboat_core::manifest::Method;
use lifeboat_core::{Error, Kind, Result};

use crate::config::diagnose::shown;
use crate::config::model::SourceConfig;
use crate::config::schedule::Schedule;
use crate::repositories::{self, Place};
use crate::session::Session;
use crate::sources::place_of;

/// The variables that decide which configuration and which folders a run finds.
const VARIABLES: &[&str] = &["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"];

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
        for name in VARIABLES {
            if let Some(path) = surroundings.path(name).filter(|path| path.is_absolute()) {
                environment.push((*name, text_of(&path)?));
            }
        }
        Ok(Program { binary: text_of(&binary)?, config, environment })
    }

    /// The command that backs up a source.
    pub(crate) fn command(&self, source: &str) -> Vec<String> {
        let mut command = vec![self.binary.clone()];
        if let Some(config) = &self.config {
            command.extend(["--config".to_owned(), config.clone()]);
        }
        command.extend(["backup".to_owned(), source.to_owned()]);
        command
    }
}

/// How a run stops and starts the service of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stops {
    /// It does not.
    Nothing,
    /// It asks systemd.
    Unit,
    /// It runs commands of the configuration, which may need anything.
    ByCommands,
}

/// The scheduled backup of one source.
#[derive(Debug)]
pub(crate) struct Job {
    /// The source's name in the configuration.
    pub(crate) source: String,
    /// When it runs.
    pub(crate) schedule: Schedule,
    /// The folders that it writes to.
    pub(crate) writes: Vec<String>,
    /// All places that it must see, for what hides a part of the file system.
    pub(crate) sees: Vec<PathBuf>,
    /// Those folders of repositories and of our state that do not exist yet.
    pub(crate) made: Vec<PathBuf>,
    /// Whether a service is stopped meanwhile.
    pub(crate) stops: Stops,
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
        jobs.push(job(session, name, source, schedule, &places)?);
    }
    Ok((jobs, left_out))
}

fn job(
    session: &Session,
    name: &str,
    source: &SourceConfig,
    schedule: Schedule,
    places: &[Place],
) -> Result<Job> {
    let state = session.folders.locks.as_deref().and_then(Path::parent);
    let mut kept: Vec<PathBuf> = state.into_iter().map(Path::to_owned).collect();
    let chosen = |place: &&Place| match (&source.repository, &place.name) {
        (Some(names), Some(name)) => names.names().contains(name),
        _ => true,
    };
    for place in places.iter().filter(chosen) {
        kept.push(place_of(&folder_of(place)?)?);
    }
    let mut made: Vec<PathBuf> = kept.clone();
    made.retain(|folder| !folder.exists());
    let mut writes = kept;
    writes.extend(database_folder(source)?);
    let mut sees = writes.clone();
    sees.extend(source.files.iter().map(|file| file.0.place()));
    sees.extend(session.config_files()?);
    let mut writes: Vec<String> =
        writes.iter().map(|folder| text_of(folder)).collect::<Result<_>>()?;
    writes.sort();
    writes.dedup();
    let cold = source.sqlite.as_ref().is_some_and(|sqlite| sqlite.0.method == Some(Method::Cold));
    let stops = match source.service.as_ref().filter(|_| cold) {
        None => Stops::Nothing,
        Some(service) if service.0.unit.is_some() => Stops::Unit,
        Some(_) => Stops::ByCommands,
    };
    Ok(Job { source: name.to_owned(), schedule, writes, sees, made, stops })
}

fn folder_of(place: &Place) -> Result<PathBuf> {
    match place.url.strip_prefix("file://") {
        Some(path) => lifeboat_stores::path_of_url(path),
        None => Ok(place.url.clone().into()),
    }
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
