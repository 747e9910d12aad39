//! `lifeboat wal`: the log of a PostgreSQL cluster, into the repositories and back.

mod behind;
mod check;
pub(crate) mod exit;
mod fetch;
mod helper;
mod known;
mod limit;
pub(crate) mod moments;
mod push;
mod receive;

use std::process::ExitCode;

pub(crate) use self::behind::unchanged_until;
pub(crate) use self::check::{free_bytes, state};

use lifeboat_core::env::Env;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::{Archive, Member, Spool};

use crate::config::SourceConfig;
use crate::config::values::Period;
use crate::repositories::{self, Place};
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// The level at which the log is compressed, where nothing else is configured: it must keep up with
/// a busy server.
const LEVEL: i32 = 1;
/// The level while many files wait, into folders alone: elsewhere the way there takes longer than
/// the processor, and fewer bytes are sooner there.
const LEVEL_HURRIED: i32 = -1;

/// Keep the log of a PostgreSQL cluster (WAL) in the repositories
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Push(push::Args),
    Fetch(fetch::Args),
    Receive(receive::Args),
    Check(check::Args),
    #[command(hide = true)]
    Helper(helper::Args),
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Push(args) => push::run(session, &args),
        Action::Fetch(args) => fetch::run(session, &args),
        Action::Receive(args) => receive::run(session, &args),
        Action::Check(args) => check::run(session, &args),
        Action::Helper(args) => helper::run(session, &args),
    }
}

/// Whose log it is.
#[derive(Clone, Debug, clap::Args)]
struct SourceArgs {
    /// The source of the configuration; needed where there are several clusters
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Do this file alone, and start no helper that does the next ones meanwhile
    #[arg(long)]
    no_helper: bool,
    /// End with an error when a file takes longer, as where a repository neither answers nor fails;
    /// raise it for large segments on a slow line
    #[arg(long, value_name = "TIME", default_value = "10m")]
    limit: Period,
}

/// A source, and where its log lies.
struct Subject {
    identity: SourceIdentity,
    places: Vec<Place>,
    level: i32,
    level_hurried: Option<i32>,
}

impl Subject {
    /// The source that is named, or the only one.
    fn of(session: &Session, env: &Env, name: Option<&str>) -> Result<Subject> {
        let target = target(session, name)?;
        let places = repositories::places(session)?.into_iter().filter(|place| {
            let named =
                |names: &Vec<String>| place.name.as_ref().is_some_and(|name| names.contains(name));
            session.globals.repo.is_some() || target.repositories.as_ref().is_none_or(named)
        });
        let places: Vec<Place> = places.collect();
        let compression = places.iter().find_map(|place| target.compression.or(place.compression));
        let level = match compression {
            Some(Compression::Zstd { level }) => level,
            _ => LEVEL,
        };
        let are_folders = places.iter().all(|place| place.url.starts_with("file:"));
        let level_hurried = (compression.is_none() && are_folders).then_some(LEVEL_HURRIED);
        Ok(Subject { identity: target.identity(env)?, places, level, level_hurried })
    }

    /// Its archive for writing: folders are claimed where there are none. What could not be opened
    /// comes beside it.
    fn for_writing(
        &self,
        session: &Session,
        env: &Env,
        system: u64,
    ) -> Result<(Archive, Vec<Error>)> {
        self.open(system, |place| {
            let repository = known::open_or_create(session, env, place)?;
            let (folder, _) = repository.claim(env, &self.identity)?;
            Ok((repository, folder))
        })
    }

    /// Its archive for reading.
    fn for_reading(&self, env: &Env, system: u64) -> Result<(Archive, Vec<Error>)> {
        self.open(system, |place| {
            let repository = place.open(env)?;
            let found = repository.folder_of(&self.identity)?;
            let (folder, _) = found.ok_or_else(|| {
                let name = units::one_line(&self.identity.name);
                let message = format!("{} holds nothing of `{name}`", place.label());
                Error::new(Kind::NotCovered, message)
                    .hint("name the source whose log it is with --source")
            })?;
            Ok((repository, folder))
        })
    }

    fn open(
        &self,
        system: u64,
        open: impl Fn(&Place) -> Result<(Repository, String)>,
    ) -> Result<(Archive, Vec<Error>)> {
        let (mut members, mut failures) = (Vec::new(), Vec::new());
        for place in &self.places {
            match open(place) {
                Ok((repository, folder)) => {
                    members.push(Member { label: place.label().to_owned(), repository, folder });
                }
                Err(error) => failures.push(error),
            }
        }
        if members.is_empty() {
            return Err(match failures.is_empty() {
                true => Error::new(Kind::Usage, "no repository takes this source")
                    .hint("name one that is configured under `repository` of the source"),
                false => failures.remove(0),
            });
        }
        let (level, level_hurried) = (self.level, self.level_hurried);
        Ok((Archive { members, system, level, level_hurried }, failures))
    }
}

/// The configured cluster that is named, or the only one.
pub(crate) fn target(session: &Session, name: Option<&str>) -> Result<Target> {
    let sources = &session.loaded()?.config.source;
    let is_cluster = |source: &SourceConfig| {
        source.postgres.as_ref().is_some_and(|postgres| postgres.0.physical)
    };
    let named = |name: &str| format!("--source {}", units::shell_word(name));
    let candidates: Vec<&String> =
        sources.iter().filter(|(_, source)| is_cluster(source)).map(|(name, _)| name).collect();
    let name = match (name, candidates.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only.as_str(),
        (None, []) => {
            return Err(Error::new(Kind::Usage, "no PostgreSQL cluster is configured").hint(
                "a log belongs to a whole cluster: write `physical = true` in the table of its \
                 source, and name the configuration with --config",
            ));
        }
        (None, [first, ..]) => {
            let message = format!("{} PostgreSQL clusters are configured", candidates.len());
            return Err(Error::new(Kind::Usage, message).hint(named(first)));
        }
    };
    let Some(source) = sources.get(name).filter(|source| is_cluster(source)) else {
        let name = units::one_line(name);
        let known: Vec<&str> = candidates.iter().map(|name| name.as_str()).collect();
        let message = format!("`{name}` is no configured PostgreSQL cluster");
        let hint = match known.is_empty() {
            true => "a cluster is a source with `physical = true`; name the configuration with \
                     --config"
                .to_owned(),
            false => format!("configured are: {}", known.join(", ")),
        };
        return Err(Error::new(Kind::Usage, message).hint(hint));
    };
    let mut targets = Target::configured(name, source)?;
    match (targets.pop(), targets.is_empty()) {
        (Some(target), true) => Ok(target),
        _ => Err(Error::new(Kind::Usage, format!("`{name}` is no cluster"))
            .hint("configure the cluster as a source of its own, with `physical = true`")),
    }
}

/// The notes of an archive on this host; none where there is no place for them.
fn spool(session: &Session, env: &Env, archive: &Archive) -> Option<Spool> {
    let folder = session.folders.spool.as_deref()?;
    match Spool::of(folder, archive) {
        Ok(spool) => Some(spool),
        Err(error) => {
            let message = format!("without a helper that works ahead: {error}");
            env.tell(lifeboat_core::event::Event::Detail { message: &message });
            None
        }
    }
}

/// The first of several errors of repositories, with the others in its message.
fn all_of(mut failures: Vec<Error>) -> Result<()> {
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(()), Err);
    }
    let words: Vec<String> = failures.iter().map(Error::to_string).collect();
    let first = failures.remove(0);
    Err(first.context(words.join("; ")))
}
