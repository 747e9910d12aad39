//! `lifeboat adopt`: what other backup scripts left becomes backups of ours; a repository of ours
//! becomes the one of this host.

mod destinations;
mod replica;
mod report;
mod repository;

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use lifeboat_core::adopt::{
    self, AdoptRequest, Adoption, Because, Candidate, Known, Look, LookOptions, Outcome, Removal,
    Seen,
};
use lifeboat_core::catalog::Catalog;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::{Error, Kind, Result};

use self::destinations::{Group, Sorter};
use self::report::Report;
use super::words::{CheckWord, MappingArgs};
use crate::replicas;
use crate::repositories::{self, Place};
use crate::session::{Session, TOOL};
use crate::sources;
use crate::ui::confirm::confirm;
use crate::ui::units;

/// Take over a repository on a bare host, or the files that other backup scripts left
///
/// The argument decides. Of a repository, a URL or a folder with `lifeboat.json`: sources, catalog
/// and configuration are back, as the host kept them there that wrote it; nothing is restored yet,
/// and nothing is overwritten. What comes next is printed: `lifeboat restore --all`, and
/// `lifeboat install` for the schedules. Where folders or accounts have other names on this host,
/// --map-path and --map-user say so.
///
/// Of a folder with files of scripts, and of a repository with such files in it if --recursive is
/// given:
///
/// A file is found by its name and judged by its content: databases as in
/// superchat-20250108-140000.db.gz, admin_sqlite_20250108_140000.db.gz,
/// superchat.db.backup-v1-20250108-140000 and admin.db.before_restore.20250108_140000, and dumps
/// of PostgreSQL as in admin_postgres_20250108_140000.sql.gz. Each is read to its end and checked;
/// then it joins the backups of its source, is listed, verified, restored and pruned like them.
/// What is damaged, empty, or something else stays where it is, and is told. Running it again
/// adopts nothing twice.
///
/// Of a replica of Litestream 0.5, a URL or a folder: its oldest state becomes a backup of the
/// database that --source names, each later one a position of the log that follows it; from there
/// `lifeboat run` and `lifeboat backup --incremental` go on.
///
/// The originals stay, unless --remove-originals is given. The exit code is 3 if some files are
/// left that look like backups, and others are backups now.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A repository; a replica of Litestream; or folders with files of scripts, or single files,
    /// links in which are not followed
    #[arg(value_name = "URL|FOLDER", required = true)]
    folders: Vec<PathBuf>,
    /// Of a repository: where the configuration goes [default: where it is looked for]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Of a repository: the host that is to be rebuilt [default: this one, or the only one]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    mapping: MappingArgs,
    /// The source whose backups they are: a configured name, or the path of its database. With
    /// NAME= in front it holds for the files whose names begin so [default: the one that fits]
    #[arg(long, value_name = "[NAME=]SOURCE|PATH")]
    source: Vec<String>,
    /// The time zone in which the scripts ran, such as Europe/Berlin [default: the system's]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// How thoroughly databases are checked [default: quick]
    #[arg(long, value_name = "LEVEL")]
    check: Option<CheckWord>,
    /// Look into the folders within, too
    #[arg(long)]
    recursive: bool,
    /// Delete each original once its backup was read back, so that no more than one is there twice
    #[arg(long)]
    remove_originals: bool,
    /// Read and check everything, print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Whether anything was said that only files of scripts have.
    fn is_of_scripts(&self) -> bool {
        let says_how = self.zone.is_some() || self.check.is_some() || !self.source.is_empty();
        says_how || self.recursive || self.remove_originals
    }
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    if let [argument] = &args.folders[..]
        && let Some(text) = argument.to_str()
    {
        let env = session.env()?;
        if let Some(named) = replicas::find(session, &env, text)? {
            return replica::run(session, &env, &args, &named);
        }
    }
    if let [argument] = &args.folders[..]
        && !args.is_of_scripts()
        && repository::is_meant(session, argument)?
    {
        return repository::run(session, &args, argument);
    }
    if args.to.is_some() || args.host.is_some() || !args.mapping.is_empty() {
        let message = "--to, --host, --map-path and --map-user are for one repository";
        return Err(Error::new(Kind::Usage, message).hint("lifeboat adopt URL"));
    }
    let env = session.env()?;
    let (zone, zone_name) = zone(session, &args)?;
    let place = place(session)?;
    let seen = adopt::survey(&args.folders, args.recursive)?;
    let catalog = match place.open(&env) {
        Ok(repository) => Some(repository.catalog()?),
        Err(error) if error.kind() == Kind::NoRepository => None,
        Err(error) => return Err(error),
    };
    let sorter = Sorter::new(session, &env, &place, catalog.as_ref(), &args.source)?;
    let mut report = Report::new(session, &place.url, args.dry_run);
    let files = candidates(&env, &zone, seen, &mut report);
    let (groups, without) = sorter.sort(files);
    for (file, why) in without {
        report.without_source(&file, &why);
    }
    let work = Work { session, env: &env, args: &args, zone: &zone_name };
    let ended = match args.dry_run {
        true => work.plan(&groups, catalog.as_ref(), &mut report),
        false => work.adopt(&groups, &place, &mut report),
    };
    report.end(ended)
}

/// The zone of the names, and what it is called.
fn zone(session: &Session, args: &Args) -> Result<(TimeZone, String)> {
    let Some(name) = &args.zone else {
        let zone = session.surroundings.time_zone.clone();
        let name = zone.iana_name().unwrap_or("the system's").to_owned();
        return Ok((zone, name));
    };
    let zone = TimeZone::get(name).map_err(|error| {
        Error::new(Kind::Usage, format!("no time zone is known as `{}`", units::one_line(name)))
            .caused_by(error)
            .hint("write it as in Europe/Berlin, America/New_York or UTC")
    })?;
    let name = zone.iana_name().unwrap_or(name).to_owned();
    Ok((zone, name))
}

/// The one repository that takes them.
fn place(session: &Session) -> Result<Place> {
    let mut places = repositories::places(session)?;
    match (places.len(), places.pop()) {
        (1, Some(place)) => Ok(place),
        (count, last) => {
            let mut labels: Vec<&str> = places.iter().map(Place::label).collect();
            labels.extend(last.as_ref().map(Place::label));
            Err(Error::new(Kind::Usage, format!("which of {count} repositories takes them?"))
                .hint(format!("say it with --repo: {}", labels.join(", "))))
        }
    }
}

/// What is named like a backup, with its moment. The rest is reported.
fn candidates(
    env: &Env,
    zone: &TimeZone,
    seen: Vec<Seen>,
    report: &mut Report<'_>,
) -> Vec<Candidate> {
    let mut files = Vec::new();
    for Seen { path, stat, name } in seen {
        match (name, stat) {
            (Ok(script), Some(stat)) => {
                match adopt::decide(script.local, zone, stat.modified, env.clock.now()) {
                    Ok(decided) => files.push(Candidate { path, stat, script, decided }),
                    Err(error) => report.unrecognized(&path, error.message()),
                }
            }
            (Err(why), _) => report.unrecognized(&path, &why),
            (Ok(_), None) => report.unrecognized(&path, "not a regular file"),
        }
    }
    files
}

struct Work<'a> {
    session: &'a Session,
    env: &'a Env,
    args: &'a Args,
    zone: &'a str,
}

impl Work<'_> {
    fn look<'t>(&'t self, group: &Group, engines: &'t Engines) -> LookOptions<'t> {
        LookOptions {
            engines,
            check: self.args.check.map_or(CheckLevel::Quick, CheckLevel::from),
            check_memory_bytes: group.destination.check_memory_bytes,
            scratch_folder: &self.session.folders.scratch,
        }
    }

    fn plan(
        &self,
        groups: &[Group],
        catalog: Option<&Catalog>,
        report: &mut Report<'_>,
    ) -> Result<()> {
        let engines = sources::engines();
        for group in groups {
            let identity = &group.destination.identity;
            let entries = catalog.into_iter().flat_map(|catalog| &catalog.sources);
            let entry = entries.into_iter().find(|entry| identity.is(&entry.record));
            let known = entry.map(Known::of).unwrap_or_default();
            for file in &group.files {
                let name = &identity.name;
                match adopt::look(self.env, file, &known, &self.look(group, &engines))? {
                    Look::Known(known) => {
                        report.already(file, name, &known.name, &Removal::NotAsked)
                    }
                    Look::Sound(sound) => report.planned(file, name, &sound.notes),
                    Look::Left(because, why) => report.left(file, name, because, &why),
                }
            }
        }
        Ok(())
    }

    fn adopt(&self, groups: &[Group], place: &Place, report: &mut Report<'_>) -> Result<()> {
        let Some(first) = groups.first() else { return Ok(()) };
        if self.args.remove_originals {
            self.agree(groups, &first.destination.identity.name)?;
        }
        let repository = place.open_or_create(self.env)?;
        let engines = sources::engines();
        for group in groups {
            let request = AdoptRequest {
                identity: group.destination.identity.clone(),
                pattern: group.destination.pattern.clone(),
                compression: group.destination.compression,
                look: self.look(group, &engines),
                zone: self.zone,
                remove_originals: self.args.remove_originals,
                lock_folder: self.session.folders.locks.as_deref(),
                tool: TOOL,
            };
            let name = &request.identity.name;
            let mut adoption = Adoption::begin(self.env, &repository, &request)?;
            for file in &group.files {
                match adoption.one(file)? {
                    Outcome::Adopted(manifest, removal) => {
                        let folder = adoption.folder().unwrap_or(name);
                        report.adopted(file, folder, &manifest, &removal);
                    }
                    Outcome::Already(backup, removal) => {
                        report.already(file, name, &backup, &removal);
                    }
                    Outcome::Left(because, why) => report.left(file, name, because, &why),
                }
            }
        }
        Ok(())
    }

    /// Asks before originals are deleted.
    fn agree(&self, groups: &[Group], name: &str) -> Result<()> {
        let printer = &self.session.printer;
        let files = || groups.iter().flat_map(|group| &group.files);
        let bytes: u64 = files().map(|file| file.stat.bytes).sum();
        let count = files().count();
        if self.session.globals.yes {
            return Ok(());
        }
        for file in files() {
            printer.line(&format!("  {}", units::one_line(&file.path.to_string_lossy())));
        }
        printer.line(&format!(
            "each of these {count} files ({}) is deleted once its backup was read back",
            units::bytes(bytes)
        ));
        confirm(&self.session.surroundings, printer, "deleting the originals", name)
    }
}

/// The engines of all kinds of sources.
type Engines = Vec<&'static dyn lifeboat_core::source::Engine>;

/// Whether a file that was left is one too few.
fn is_missing(because: Because) -> bool {
    because != Because::Nothing
}
