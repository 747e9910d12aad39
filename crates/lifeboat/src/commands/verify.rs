//! `lifeboat verify`: reads backups from the repository as a restore would, and says whether they
//! are sound.

mod cluster;

use std::collections::BTreeMap;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::files;
use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::repository::Repository;
use lifeboat_core::verify::{self, VerifyLevel, VerifyReport};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::CLUSTER_KIND;
use lifeboat_sqlite::pagelog::{self, LogReport, ScratchCheck};
use serde_json::{Value, json};

use super::replica;
use super::words::LevelWord;
use crate::notify::Ended;
use crate::replicas;
use crate::repositories;
use crate::selection::{self, Found};
use crate::session::Session;
use crate::sources::{self, CHECK_MEMORY_BYTES};
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// Verify backups in the repository
///
/// Every byte is read and compared with what the manifest says; with --level quick or full, the
/// database is also restored to a scratch place and checked. A log that follows a backup is read as
/// well: each file must lead from the state before to the one that it names. The exit code is 20 if
/// anything is damaged.
///
/// With --level full a whole PostgreSQL cluster is restored with everything that it builds on,
/// started there, its log replayed (of the newest backup to the end of the archive), every table
/// read, and every database checked by amcheck. What is not on this host is skipped by name.
///
/// A sealed backup needs its key, and verifying it proves more than the host could that made it:
/// that the key opens what is stored. That is recorded beside the backup, where `show` tells of it.
/// Without the key, --level stored compares the sealed bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Sources, of which every backup is verified, or backups; all without any; or a replica of
    /// Litestream
    #[arg(value_name = "SOURCE|BACKUP|REPLICA")]
    what: Vec<String>,
    /// How thoroughly
    #[arg(long, value_enum, default_value = "hash")]
    level: LevelWord,
}

/// A backup to verify, or a manifest that cannot be read.
struct Job {
    repository: Repository,
    folder: String,
    manifest: Result<Box<Manifest>, (String, String)>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    if let [argument] = &args.what[..]
        && let Some(named) = replicas::find(session, &env, argument)?
    {
        replica::verify(session, &env, &named.replica, args.level)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (jobs, failures) = jobs(session, &env, &args)?;
    if jobs.is_empty() {
        let error = Error::new(Kind::NotCovered, "there is no backup to verify");
        return Err(error.hint("lifeboat backup makes one"));
    }
    let level = match args.level {
        LevelWord::Stored => VerifyLevel::Stored,
        LevelWord::Hash => VerifyLevel::Hash,
        other => VerifyLevel::Check(CheckLevel::from(other)),
    };
    let mut results = Vec::new();
    let (mut damaged, mut errors) = (0, Vec::new());
    let mut told = Told::default();
    for job in &jobs {
        match verify_one(session, &env, job, level) {
            Ok(result) => {
                let is_damaged = result["sound"] != true;
                damaged += usize::from(is_damaged);
                told.add(job, is_damaged.then(|| damaged_one(job)).as_ref());
                results.push(result);
            }
            Err(error) => {
                session.progress.clear();
                let name = job.name();
                let error = error.context(format!("{name} could not be verified"));
                told.add(job, Some(&error));
                results.push(json!({ "backup": name, "error": report::as_json(&error) }));
                errors.push(error);
            }
        }
    }
    told.all(session, args.what.iter().all(|what| !what.contains(['@', '/'])));
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    conclude(session, jobs.len(), damaged, errors)?;
    super::incomplete(&failures)
}

/// What is told of each source: what failed first.
#[derive(Default)]
struct Told {
    sources: BTreeMap<(String, String), Option<Ended>>,
}

impl Told {
    fn add(&mut self, job: &Job, failure: Option<&Error>) {
        let (folder, url) = (job.folder.clone(), job.repository.url());
        let ended = failure.and_then(|_| Ended::of("verify", &folder, &url, failure));
        let known = self.sources.entry((folder, url)).or_default();
        *known = known.take().or(ended);
    }

    /// That a source is well is known only where all of it was looked at.
    fn all(self, session: &Session, are_whole: bool) {
        for ((folder, url), failed) in self.sources {
            let well = || Ended::of("verify", &folder, &url, None).filter(|_| are_whole);
            session.note_ended(failed.or_else(well));
        }
    }
}

fn damaged_one(job: &Job) -> Error {
    let message = format!("{} is damaged", job.name());
    Error::new(Kind::CheckFailed, message).hint("lifeboat verify says what is wrong with it")
}

fn jobs(session: &Session, env: &Env, args: &Args) -> Result<(Vec<Job>, Vec<Error>)> {
    let mut jobs = Vec::new();
    // A path of an artifact needs none of the repositories that are configured.
    let mut rest = Vec::new();
    for argument in &args.what {
        match selection::artifact(session, env, argument)? {
            Some(selected) => jobs.push(selected.into()),
            None => rest.push(argument.as_str()),
        }
    }
    if rest.is_empty() && !args.what.is_empty() {
        return Ok((jobs, Vec::new()));
    }
    let (opened, failures) = repositories::open_all(session, env)?;
    if args.what.is_empty() {
        for one in &opened {
            for entry in &one.catalog.sources {
                jobs.extend(all_of(&Found { opened: one, entry }));
            }
        }
    }
    for argument in rest {
        match selection::entries(session, env, &opened, argument) {
            Ok(found) => jobs.extend(found.iter().flat_map(all_of)),
            Err(error) if error.kind() == Kind::NotCovered => {
                jobs.push(selection::backup(session, env, argument, None)?.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok((jobs, failures))
}

fn all_of(found: &Found<'_>) -> Vec<Job> {
    let Found { opened, entry } = found;
    let job = |manifest| Job {
        repository: opened.repository.clone(),
        folder: entry.folder.clone(),
        manifest,
    };
    let readable = entry.backups.iter().map(|backup| job(Ok(Box::new(backup.clone()))));
    let unreadable = entry
        .unreadable
        .iter()
        .map(|unreadable| job(Err((unreadable.object.clone(), unreadable.reason.clone()))));
    readable.chain(unreadable).collect()
}

impl From<selection::Selected> for Job {
    fn from(selected: selection::Selected) -> Job {
        Job {
            repository: selected.repository,
            folder: selected.folder,
            manifest: Ok(Box::new(selected.manifest)),
        }
    }
}

impl Job {
    fn name(&self) -> &str {
        match &self.manifest {
            Ok(manifest) => &manifest.name,
            Err((object, _)) => object,
        }
    }
}

fn verify_one(session: &Session, env: &Env, job: &Job, level: VerifyLevel) -> Result<Value> {
    let manifest = match &job.manifest {
        Ok(manifest) => manifest,
        Err((object, reason)) => {
            say(session, object, false, std::slice::from_ref(reason), &[]);
            return Ok(json!({
                "backup": object, "repository": job.repository.url(), "folder": job.folder,
                "sound": false, "damage": [reason],
            }));
        }
    };
    let engine = sources::engine(&manifest.source.kind)?;
    // A set of files has nothing but its hashes and the archive's own form.
    let level = match (&*manifest.source.kind, level) {
        (files::KIND, VerifyLevel::Check(_)) => VerifyLevel::Check(CheckLevel::Quick),
        // Whoever gave a changed cluster right hashes did not change the server's own manifest,
        // which says so while the bytes are read anyway.
        (CLUSTER_KIND, VerifyLevel::Hash) => VerifyLevel::Check(CheckLevel::Quick),
        (_, level) => level,
    };
    let scratch = (session.folders.scratch.as_path(), CHECK_MEMORY_BYTES);
    let mut found =
        verify::run(env, &job.repository, &job.folder, manifest, engine, level, scratch)?;
    let begun_ms = env.clock.monotonic_ms();
    let rehearsed = match manifest.source.kind == CLUSTER_KIND {
        true => cluster::rehearse(session, env, job, manifest, level, &mut found)?,
        false => None,
    };
    found.elapsed_ms += env.elapsed_ms(begun_ms);
    let log = match manifest.source.kind == lifeboat_sqlite::KIND {
        true => verify_log(session, env, job, manifest, level)?,
        false => LogReport::default(),
    };
    session.progress.clear();
    let VerifyReport { backup, sound, mut damage, mut notes, stored_bytes, elapsed_ms } = found;
    let sound = sound && log.damage.is_empty();
    damage.extend(log.damage.iter().map(|line| format!("its log: {line}")));
    notes.extend(log.notes.iter().map(|line| format!("its log: {line}")));
    if log.files > 0 && log.damage.is_empty() {
        notes.push(format!("its log leads to {} states, up to position {}", log.states, log.end));
    }
    let proved = match level {
        VerifyLevel::Stored => "stored-bytes",
        _ => "stored",
    };
    let proof = match sound {
        true => verify::record(env, &job.repository, &job.folder, manifest, level),
        false => Ok(None),
    };
    // Whoever may only read has verified it all the same.
    let proof = proof.unwrap_or_else(|error| {
        env.warn(&backup, &format!("that it was verified with its key is not recorded: {error}"));
        None
    });
    say(session, &backup, sound, &damage, &notes);
    Ok(json!({
        "backup": backup,
        "on": proved,
        "proof": proof,
        "repository": job.repository.url(),
        "folder": job.folder,
        "sound": sound,
        "damage": damage,
        "notes": notes,
        "stored_bytes": stored_bytes,
        "elapsed_ms": elapsed_ms,
        "rehearsed": rehearsed,
        "log": (log.files > 0).then(|| json!({
            "files": log.files, "stored_bytes": log.stored_bytes, "states": log.states,
            "position": log.end,
        })),
    }))
}

/// The log that follows a backup, read as a restore would.
fn verify_log(
    session: &Session,
    env: &Env,
    job: &Job,
    manifest: &Manifest,
    level: VerifyLevel,
) -> Result<LogReport> {
    let scratch = match level {
        VerifyLevel::Check(level) if level != CheckLevel::None => Some(ScratchCheck {
            engine: sources::engine(&manifest.source.kind)?,
            level,
            folder: &session.folders.scratch,
            memory_bytes: CHECK_MEMORY_BYTES,
        }),
        _ => None,
    };
    pagelog::verify(env, &job.repository, &job.folder, manifest, scratch)
}

fn say(session: &Session, backup: &str, sound: bool, damage: &[String], notes: &[String]) {
    let printer = &session.printer;
    let backup = units::one_line(backup);
    match sound {
        true => printer.note(&format!("{} {backup}", printer.paint_err(Style::Good, "sound"))),
        false if printer.json() => {}
        false => {
            let mark = printer.paint_err(Style::Bad, "damaged");
            let lines: Vec<String> = damage.iter().map(|line| format!("\n  {line}")).collect();
            printer.line(&format!("{mark} {backup}{}", lines.concat()));
        }
    }
    for note in notes {
        printer.note(&format!("  note: {note}"));
    }
}

fn conclude(session: &Session, all: usize, damaged: usize, mut errors: Vec<Error>) -> Result<()> {
    if damaged > 0 {
        for error in &errors {
            report::report(&session.printer, error);
        }
        return Err(Error::new(
            Kind::CheckFailed,
            format!("{damaged} of {all} backups are damaged"),
        )
        .hint("make a new backup now; `lifeboat list` shows the older ones"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let first = errors.remove(0);
    for error in &errors {
        report::report(&session.printer, error);
    }
    Err(first)
}
