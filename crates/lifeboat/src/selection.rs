//! From what a person writes to the backup that is meant.
//!
//! `superchat`, `superchat@latest`, `superchat@20250108-140000`, `superchat@-2h`, the name of a
//! backup, that with a position of its log behind a `+`, the path of a database, or the path of an
//! artifact. A source that is configured is found by its identity first, so that a folder with a
//! suffix is the right one.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use lifeboat_core::catalog::{BackupExpression, SourceEntry};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Origin;
use lifeboat_core::source::Engine as _;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::CLUSTER_KIND;
use lifeboat_sqlite::SqliteEngine;
use lifeboat_sqlite::pagelog::Target;
use lifeboat_stores::Options;

use crate::clusters;
use crate::config::diagnose;
use crate::logs;
use crate::postgres;
use crate::repositories::{self, Opened};
use crate::session::Session;
use crate::sources;
use crate::ui::units;

/// A backup that was found.
pub(crate) struct Selected {
    /// The repository that holds it.
    pub(crate) repository: Repository,
    /// Its source's folder there.
    pub(crate) folder: String,
    /// It.
    pub(crate) manifest: Manifest,
    /// What was said of it.
    pub(crate) meant: Meant,
    /// The backups before it, newest first, whose logs may lead further.
    pub(crate) earlier: Vec<Manifest>,
}

impl Selected {
    /// It as what is restored.
    pub(crate) fn origin(&self) -> Origin<'_> {
        let Selected { repository, folder, manifest, .. } = self;
        Origin::Backup { repository, folder, manifest }
    }
}

/// Whether a backup was meant, or a state to which its log may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The backup.
    Backup,
    /// A state.
    State(Target),
}

/// What `restore` was asked for.
pub(crate) enum Wanted {
    /// A backup of a repository.
    Backup(Box<Selected>),
    /// A file that no repository knows.
    File(PathBuf),
}

/// A source in a repository that was opened.
pub(crate) struct Found<'a> {
    /// The repository.
    pub(crate) opened: &'a Opened,
    /// The source.
    pub(crate) entry: &'a SourceEntry,
}

/// The sources, in every repository, that an argument without a moment names.
pub(crate) fn entries<'a>(
    session: &Session,
    env: &Env,
    opened: &'a [Opened],
    argument: &str,
) -> Result<Vec<Found<'a>>> {
    let target = target_of(session, argument)?;
    let mut found = Vec::new();
    let mut first_error = None;
    for one in opened {
        match entry(env, one, argument, target.as_ref()) {
            Ok(entry) => found.push(Found { opened: one, entry }),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match (found.is_empty(), first_error) {
        (true, Some(error)) => Err(error),
        _ => Ok(found),
    }
}

/// The configured source of that name or at that path, if there is one.
pub(crate) fn target_of(session: &Session, argument: &str) -> Result<Option<sources::Target>> {
    let config = &session.loaded()?.config;
    // Without a database the address of a server means all that it holds.
    if postgres::is_address(argument) && postgres::typed(argument)?.database().is_none() {
        return clusters::at_address(config, argument).map(Some);
    }
    sources::configured_at(config, argument)
}

fn entry<'a>(
    env: &Env,
    opened: &'a Opened,
    argument: &str,
    target: Option<&sources::Target>,
) -> Result<&'a SourceEntry> {
    if let Some(target) = target
        && let Some(own) = own_entry(env, opened, target)?
    {
        return Ok(own);
    }
    let by_name = opened.catalog.source(argument);
    if by_name.as_ref().is_err_and(|error| error.kind() == Kind::NotCovered) {
        let place = sources::place_of(Path::new(argument))?;
        let at = opened.catalog.source_at(&env.host, &place.to_string_lossy());
        return at.map_or(by_name, Ok);
    }
    by_name
}

/// The folder of a configured source: by its identity, and of several with the same (a database
/// that is configured twice) the one that has its name.
pub(crate) fn own_entry<'a>(
    env: &Env,
    opened: &'a Opened,
    target: &sources::Target,
) -> Result<Option<&'a SourceEntry>> {
    let identity = target.identity(env)?;
    let mut own = opened.catalog.sources.iter().filter(|entry| identity.is(&entry.record));
    let named = own.clone().find(|entry| entry.record.name == target.name);
    Ok(named.or_else(|| own.next()))
}

/// What `restore` is asked for: a backup, or a file.
pub(crate) fn wanted(
    session: &Session,
    env: &Env,
    argument: &str,
    at: Option<&str>,
    to: Option<&Path>,
) -> Result<Wanted> {
    let path = Path::new(argument);
    if let Some(selected) = artifact(session, env, argument)? {
        return Ok(Wanted::Backup(Box::new(selected)));
    }
    let error = match backup(session, env, argument, at) {
        Ok(selected) => return Ok(Wanted::Backup(Box::new(selected))),
        Err(error) => error,
    };
    let unknown = matches!(error.kind(), Kind::NotCovered | Kind::NoRepository | Kind::Usage);
    if !unknown || !path.is_file() || at.is_some() {
        return Err(error);
    }
    // A file that no repository knows is a backup that something else made, unless it is a
    // database that was never backed up.
    match (is_database(path), to) {
        (true, None) => Err(error),
        (true, Some(_)) => {
            require_complete(path)?;
            Ok(Wanted::File(path.to_owned()))
        }
        (false, _) => Ok(Wanted::File(path.to_owned())),
    }
}

/// Whether a file begins as a SQLite database does.
pub(crate) fn is_database(path: &Path) -> bool {
    let mut first = [0; 16];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && SqliteEngine.recognizes(&first)
}

/// Refuses a plain database whose side files hold a part of it: a copy of the main file alone
/// would silently lack what is in them.
fn require_complete(path: &Path) -> Result<()> {
    let has_content = |side: &PathBuf| {
        let shared_memory = side.as_os_str().as_encoded_bytes().ends_with(b"-shm");
        !shared_memory && fs::metadata(side).is_ok_and(|metadata| metadata.len() > 0)
    };
    let Some(side) = SqliteEngine.side_files(path).into_iter().find(has_content) else {
        return Ok(());
    };
    let (path, side) = (diagnose::shown(path), diagnose::shown(&side));
    Err(Error::new(
        Kind::Refused,
        format!("{path} is not the whole database: {side} belongs to it"),
    )
    .hint(format!(
        "back it up, which reads both, then restore the backup: lifeboat backup {}",
        units::shell_word(&path)
    )))
}

/// The backup that an expression means, in any of the repositories: of several, the newest.
pub(crate) fn backup(
    session: &Session,
    env: &Env,
    argument: &str,
    at: Option<&str>,
) -> Result<Selected> {
    if let Some(selected) = artifact(session, env, argument)? {
        return Ok(selected);
    }
    let (opened, _) = repositories::open_all(session, env)?;
    // Of a cluster a name is from where, and the moment up to where: the newest backup may have
    // damage that the log behind an older one has not.
    if let Some(selected) = by_name(&opened, argument)
        && (at.is_none() || selected.manifest.source.kind == CLUSTER_KIND)
    {
        return Ok(selected);
    }
    if at.is_none()
        && let Some((name, position)) = position(argument)
        && let Some(selected) = by_name(&opened, name)
    {
        return Ok(Selected { meant: Meant::State(Target::Position(position)), ..selected });
    }
    let (source, moment) = split(&opened, session, argument, at)?;
    let expression = expression(session, env, source, moment)?;
    let target = target_of(session, source)?;
    let mut best: Option<Selected> = None;
    let mut first_error: Option<Error> = None;
    for one in &opened {
        let found = entry(env, one, source, target.as_ref()).and_then(|entry| {
            warn_of_unreadable(env, entry);
            // By its folder, as a name may be shared.
            let expression =
                BackupExpression { source: entry.folder.clone(), ..expression.clone() };
            // A backup that takes its time shows a later moment than its name tells.
            let named = at.is_none().then(|| named_after(entry, moment)).flatten();
            match named.or_else(|| entry.meant_by(&expression)) {
                Some(manifest) => Ok((entry, manifest)),
                None => Err(none_of(entry, one.catalog.backup(&expression).err())),
            }
        });
        match found {
            Ok((entry, manifest)) => {
                if best.as_ref().is_none_or(|best| best.manifest.taken_at < manifest.taken_at) {
                    let selected = selected(one, entry, manifest);
                    let meant = match manifest.taken_at.as_second() > expression.at.as_second() {
                        true => Meant::Backup,
                        false => state(&expression),
                    };
                    best = Some(Selected { meant, ..selected });
                }
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    best.ok_or_else(|| {
        first_error.unwrap_or_else(|| {
            Error::new(Kind::NoRepository, "there is no repository to look in")
                .hint("name one with --repo")
        })
    })
}

/// The newest backup of a configured source at or before a moment, in any of the repositories.
pub(crate) fn of_target(
    env: &Env,
    opened: &[Opened],
    target: &sources::Target,
    at: Timestamp,
) -> Result<Selected> {
    let mut best: Option<Selected> = None;
    let mut first_error: Option<Error> = None;
    for one in opened {
        match entry(env, one, &target.name, Some(target)) {
            Ok(entry) => {
                warn_of_unreadable(env, entry);
                let found = entry.at_or_before(at).map(|manifest| Selected {
                    meant: Meant::State(Target::At(at)),
                    ..selected(one, entry, manifest)
                });
                let is_newer = |found: &Selected| {
                    let taken_at = found.manifest.taken_at;
                    best.as_ref().is_none_or(|best| best.manifest.taken_at < taken_at)
                };
                best = found.filter(is_newer).or(best);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    best.ok_or_else(|| {
        let none = format!("`{}` has no backup at or before that moment", target.name);
        first_error.unwrap_or_else(|| Error::new(Kind::NotCovered, none).hint("lifeboat list"))
    })
}

/// A backup that an entry of a catalog names.
pub(crate) fn selected(opened: &Opened, entry: &SourceEntry, manifest: &Manifest) -> Selected {
    Selected {
        repository: opened.repository.clone(),
        folder: entry.folder.clone(),
        manifest: manifest.clone(),
        meant: Meant::Backup,
        earlier: logs::earlier(entry, manifest),
    }
}

/// The state that an expression means.
fn state(expression: &BackupExpression) -> Meant {
    Meant::State(match expression.text.as_str() {
        "latest" | "now" => Target::Latest,
        _ => Target::At(expression.at),
    })
}

/// The backup whose name ends with that time, as it stands there: `20250108-140000`.
fn named_after<'a>(entry: &'a SourceEntry, moment: &str) -> Option<&'a Manifest> {
    let (date, time) = moment.split_once(['-', '_'])?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (date.len(), time.len()) != (8, 6) || !digits(date) || !digits(time) {
        return None;
    }
    entry.backups.iter().rev().find(|backup| backup.name.ends_with(moment))
}

/// Name and position of `BACKUP+17`.
fn position(argument: &str) -> Option<(&str, u64)> {
    let (name, digits) = argument.rsplit_once('+')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((name, digits.parse().ok().filter(|_| is_number)?))
}

/// A manifest that cannot be read may be the one that was meant: nobody must take an older backup
/// for the newest.
fn warn_of_unreadable(env: &Env, entry: &SourceEntry) {
    for unreadable in &entry.unreadable {
        env.warn(&unreadable.object, &format!("left out: {}", unreadable.reason));
    }
}

/// Why a source has no backup to give.
fn none_of(entry: &SourceEntry, error: Option<Error>) -> Error {
    match (entry.unreadable.len(), error) {
        (0, Some(error)) => error,
        (count, _) => Error::new(
            Kind::NotCovered,
            format!(
                "`{}` has no backup that can be read then, and {count} that cannot",
                entry.folder
            ),
        )
        .hint("the warnings above say why; README.txt in the repository how to restore by hand"),
    }
}

/// Source and moment of an expression. A source or a path may have an `@` in its name: what is
/// known as it stands is not taken apart.
fn split<'a>(
    opened: &[Opened],
    session: &Session,
    argument: &'a str,
    at: Option<&'a str>,
) -> Result<(&'a str, &'a str)> {
    let known = opened
        .iter()
        .flat_map(|opened| &opened.catalog.sources)
        .any(|entry| entry.folder == argument || entry.record.name == argument);
    let whole = known
        || session.loaded()?.config.source.contains_key(argument)
        || fs::symlink_metadata(argument).is_ok();
    match (argument.rsplit_once('@').filter(|(source, _)| !whole && !source.is_empty()), at) {
        (Some((source, moment)), None) => Ok((source, moment)),
        (Some(_), Some(_)) => {
            let message = format!("`{argument}` has a moment, and --at names another");
            Err(Error::new(Kind::Usage, message).hint("leave one of them away"))
        }
        (None, at) => Ok((argument, at.unwrap_or("latest"))),
    }
}

fn expression(
    session: &Session,
    env: &Env,
    source: &str,
    moment: &str,
) -> Result<BackupExpression> {
    let zone = &session.surroundings.time_zone;
    let at = lifeboat_core::moment::parse(moment, env.clock.now(), zone)?;
    Ok(BackupExpression { source: source.to_owned(), at, text: moment.to_owned() })
}

fn by_name(opened: &[Opened], name: &str) -> Option<Selected> {
    for one in opened {
        for entry in &one.catalog.sources {
            if let Some(manifest) = entry.backups.iter().find(|backup| backup.name == name) {
                return Some(selected(one, entry, manifest));
            }
        }
    }
    None
}

/// The backup to which a file belongs, where it lies in a repository: an artifact or a manifest,
/// by its path or its URL.
pub(crate) fn artifact(session: &Session, env: &Env, argument: &str) -> Result<Option<Selected>> {
    let path = match argument.strip_prefix("file://") {
        Some(path) => lifeboat_stores::path_of_url(path)?,
        None => PathBuf::from(argument),
    };
    if !path.is_file() {
        return Ok(None);
    }
    let path = sources::place_of(&path)?;
    let folder = path.parent();
    let root = folder.and_then(Path::parent);
    let (Some(folder), Some(root), Some(name)) = (folder, root, path.file_name()) else {
        return Ok(None);
    };
    if !root.join("lifeboat.json").is_file() {
        return Ok(None);
    }
    let store = lifeboat_stores::open(env, &repositories::local_url(root), &Options::default())?;
    let repository = Repository::open(store)?.with_keys(session.keys()?);
    let catalog = repository.catalog()?;
    let (folder, name) =
        match (folder.file_name().and_then(|folder| folder.to_str()), name.to_str()) {
            (Some(folder), Some(name)) => (folder, name),
            _ => return Ok(None),
        };
    let Some(entry) = catalog.sources.iter().find(|entry| entry.folder == folder) else {
        return Ok(None);
    };
    let belongs = |manifest: &&Manifest| {
        name == format!("{}.json", manifest.name)
            || manifest.artifacts.iter().any(|artifact| artifact.name == name)
    };
    match entry.backups.iter().find(belongs) {
        Some(manifest) => {
            let (folder, manifest) = (folder.to_owned(), manifest.clone());
            let (meant, earlier) = (Meant::Backup, Vec::new());
            Ok(Some(Selected { folder, manifest, repository, meant, earlier }))
        }
        None => Ok(None),
    }
}

/// A moment for people.
pub(crate) fn moment(session: &Session, manifest: &Manifest) -> String {
    units::moment(manifest.taken_at, &session.surroundings.time_zone)
}
