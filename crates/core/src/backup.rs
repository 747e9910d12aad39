//! The run of a backup: capture, store, read back, check, and only then the manifest.
//!
//! Whatever fails before the manifest leaves no backup: artifacts of a failed run are deleted,
//! those of a killed run are garbage without a manifest.

mod branch;
mod commit;
pub mod lock;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::files::FilesSource;
use crate::manifest::{
    Artifact, Check, CheckLevel, CheckOutcome, Condition, Manifest, Method, Purpose, SourceLabel,
    format_of,
};
use crate::names::NamePattern;
use crate::pipeline::Compression;
use crate::policy::Hold;
use crate::repository::{Repository, SourceIdentity};
use crate::retry;
use crate::scratch::{Scratch, decode_into, stored_expectation};
use crate::service::Service;
use crate::source::{
    Capture, CaptureOptions, CaptureReport, CheckReport, Engine, Inspection, Source,
};

use branch::Branch;
pub(crate) use commit::{NotCommitted, commit};
use lock::SourceLock;
use store::Branches;

/// How often the capture of a set of files is begun.
const FILES_CAPTURES_MAX: usize = 3;

/// Everything that a backup is to be made with.
pub struct BackupRequest<'a> {
    /// What is backed up.
    pub source: &'a dyn Source,
    /// The engine of its kind.
    pub engine: &'a dyn Engine,
    /// What makes it the same source as last time.
    pub identity: SourceIdentity,
    /// Files that belong to the same restore point.
    pub companions: Option<&'a FilesSource>,
    /// Method, checks and bounds.
    pub options: CaptureOptions,
    /// Compression of the artifacts.
    pub compression: Compression,
    /// How the backup is named.
    pub pattern: NamePattern,
    /// Why it must not be pruned, and until when, if so.
    pub pin: Option<Hold>,
    /// What it is made for, if more than the daily round.
    pub purpose: Option<Purpose>,
    /// What is stopped and started by the method `cold`.
    pub service: Option<&'a Service>,
    /// Whether an unchanged source makes no new backup.
    pub on_change: bool,
    /// Where locks are kept, if anywhere.
    pub lock_folder: Option<&'a Path>,
    /// Where scratch restores are made.
    pub scratch_folder: &'a Path,
    /// The program and its version, for the manifest.
    pub tool: &'a str,
    /// What a person should know of this source, for the manifest.
    pub warnings: &'a [String],
}

/// What a run would do; `--dry-run` prints it.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// What the source is and how much would be read.
    pub inspection: Inspection,
    /// The steps, a line each.
    pub steps: Vec<String>,
}

/// How a run ended well.
#[derive(Debug)]
pub enum BackupOutcome {
    /// A new backup is in the repository.
    Committed {
        /// The folder in the repository.
        folder: String,
        /// Its manifest.
        manifest: Box<Manifest>,
    },
    /// The source has not changed since this backup, and none was asked for then.
    Unchanged {
        /// The folder in the repository.
        folder: String,
        /// The newest backup.
        manifest: Box<Manifest>,
    },
}

/// Looks at source and repository and says what a run would do, without doing it.
pub fn plan(url: &str, request: &BackupRequest<'_>) -> Result<BackupPlan> {
    let inspection = request.source.inspect()?;
    let mut steps = Vec::new();
    if let (Method::Cold, Some(service)) = (request.options.method, request.service) {
        steps.push(format!("stop {}: {}", service.name, service.stop.join(" ")));
    }
    let location = request.source.location()?;
    let bytes = match inspection.plain_bytes {
        0 => String::new(),
        bytes => format!(", {bytes} bytes"),
    };
    steps.push(format!(
        "read {location} ({}{bytes}), method {:?}",
        inspection.description, request.options.method
    ));
    if let Some(companions) = request.companions {
        steps.push(format!("read its companion files: {}", companions.location()?));
    }
    if let (Method::Cold, Some(service)) = (request.options.method, request.service) {
        steps.push(format!("start {}: {}", service.name, service.start.join(" ")));
    }
    steps.push(format!("store it in {url}, compression {}", request.compression));
    steps.push("read it back and compare".into());
    if request.options.check != CheckLevel::None {
        steps.push(format!(
            "check ({:?}) the pinned state; where that would hold it too long, a scratch restore \
             of {} bytes in {}",
            request.options.check,
            inspection.plain_bytes,
            request.scratch_folder.display()
        ));
    }
    steps.push("commit the manifest".into());
    Ok(BackupPlan { inspection, steps })
}

/// A repository that takes a backup.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// It.
    pub repository: &'a Repository,
    /// How artifacts are compressed there.
    pub compression: Compression,
}

/// Makes a backup. When this returns `Ok`, the backup can be restored.
pub fn run(
    env: &Env,
    repository: &Repository,
    request: &BackupRequest<'_>,
) -> Result<BackupOutcome> {
    let destination = Destination { repository, compression: request.compression };
    let only = run_all(env, &[destination], request).pop();
    only.unwrap_or_else(|| Err(Error::new(Kind::Failed, "no repository was named")))
}

/// Makes one backup in several repositories: the source is read once. How it ended in each, in
/// their order. One that fails does not disturb the others, and nothing of it is left there.
///
/// In all of them the backup has the same id, the same name and the same moment.
pub fn run_all(
    env: &Env,
    destinations: &[Destination<'_>],
    request: &BackupRequest<'_>,
) -> Vec<Result<BackupOutcome>> {
    let begun = env.crash.pass("backup.begin");
    // First, so that nothing is created for a source that does not exist.
    if let Err(error) = begun.and_then(|()| request.source.inspect().map(drop)) {
        return shared(error, destinations.iter().map(|_| None).collect());
    }
    let mut ended: Vec<Option<Result<BackupOutcome>>> = Vec::new();
    let (mut branches, mut places) = (Vec::new(), Vec::new());
    let mut source = request.identity.id;
    for (index, destination) in destinations.iter().enumerate() {
        ended.push(match branch(env, destination, request, &mut source) {
            Ok(Ok(branch)) => {
                branches.push(branch);
                places.push(index);
                None
            }
            Ok(Err(unchanged)) => Some(Ok(unchanged)),
            Err(error) => Some(Err(error)),
        });
    }
    if branches.is_empty() {
        return ended.into_iter().flatten().collect();
    }
    let branches = Branches::new(env, branches);
    let mut run = Run { env, request, branches, timings: BTreeMap::new() };
    let went = run.go();
    let manifests = went.as_ref().map(Clone::clone).unwrap_or_default();
    for (index, mut branch) in places.into_iter().zip(run.branches.into_all()) {
        let manifest = manifests.iter().find(|(folder, id, _)| {
            *folder == branch.folder && *id == branch.repository.header().id
        });
        ended[index] = match (branch.error.take(), manifest) {
            (Some(error), _) => {
                branch.clean_up();
                Some(Err(error))
            }
            (None, Some((folder, _, manifest))) => {
                let (folder, manifest) = (folder.clone(), Box::new(manifest.clone()));
                Some(Ok(BackupOutcome::Committed { folder, manifest }))
            }
            (None, None) => {
                branch.clean_up();
                None
            }
        };
    }
    match went {
        Err(error) => shared(error, ended),
        Ok(_) => ended.into_iter().flatten().collect(),
    }
}

/// An error that all have in common who did not end otherwise.
fn shared(error: Error, ended: Vec<Option<Result<BackupOutcome>>>) -> Vec<Result<BackupOutcome>> {
    let again = error.again();
    let mut error = Some(error);
    let mut next = || error.take().unwrap_or_else(|| again.again());
    ended.into_iter().map(|ended| ended.unwrap_or_else(|| Err(next()))).collect()
}

/// What a repository has to do with the run: a branch of it, or nothing, as nothing changed.
fn branch<'a>(
    env: &'a Env,
    destination: &Destination<'_>,
    request: &BackupRequest<'_>,
    source: &mut Option<Uuid>,
) -> Result<Result<Branch<'a>, BackupOutcome>> {
    let repository = destination.repository;
    let (folder, record) = repository.claim_as(env, &request.identity, *source)?;
    // A folder that is new in the next one belongs to the same source.
    *source = source.or(Some(record.id));
    let place = repository.header().id;
    let lock = SourceLock::take(env, request.lock_folder, &record, place)?;
    if let Some(manifest) = unchanged(repository, request, &folder)? {
        return Ok(Err(BackupOutcome::Unchanged { folder, manifest: Box::new(manifest) }));
    }
    let repository = match request.options.check {
        CheckLevel::None => repository.clone(),
        _ => repository.with_passing_key(),
    };
    let compression = destination.compression;
    Ok(Ok(Branch::new(env, repository, (folder, record), compression, lock)))
}

/// The newest backup, if the source asks for backups on change only and has not changed since.
fn unchanged(
    repository: &Repository,
    request: &BackupRequest<'_>,
    folder: &str,
) -> Result<Option<Manifest>> {
    if !request.on_change {
        return Ok(None);
    }
    let Some(digest) = request.source.content_digest()? else { return Ok(None) };
    let (entry, _) = repository.source_entry(folder)?;
    let newest = entry.newest_good();
    Ok(newest.filter(|newest| newest.content_digest.as_ref() == Some(&digest)).cloned())
}

struct Run<'a> {
    env: &'a Env,
    request: &'a BackupRequest<'a>,
    branches: Branches<'a>,
    timings: BTreeMap<String, u64>,
}

/// Folder, repository and manifest of a backup that exists.
type Made = (String, Uuid, Manifest);

/// A source that is still held.
type Held<'a> = Box<dyn Capture + 'a>;

/// Stores a set of files. A large one that is emptied while it is read ends the capture: nothing of
/// it is stored, and it is begun again.
fn stream_files<'c>(
    env: &'c Env,
    request: &BackupRequest<'_>,
    source: &'c dyn Source,
    branches: &mut Branches<'_>,
    name: &str,
) -> Result<Held<'c>> {
    for _ in 1..FILES_CAPTURES_MAX {
        let mut capture = source.capture(env, &request.options)?;
        match store_all(env, &mut *capture, branches, name) {
            Err(error) if error.kind() == Kind::SourceUnavailable => {
                let message = format!("{error}: the files are read again");
                env.tell(Event::Detail { message: &message });
            }
            ended => return ended.map(|()| capture),
        }
    }
    let mut capture = source.capture(env, &request.options)?;
    store_all(env, &mut *capture, branches, name)?;
    Ok(capture)
}

fn store_all(
    env: &Env,
    capture: &mut dyn Capture,
    branches: &mut Branches<'_>,
    name: &str,
) -> Result<()> {
    for (index, plan) in capture.artifacts().into_iter().enumerate() {
        branches.add(name, &plan, None, |sink| capture.write(index, sink))?;
        env.crash.pass("backup.artifact.committed")?;
    }
    Ok(())
}

/// What is known when the source was let go.
struct Captured {
    report: CaptureReport,
    companions: Option<CaptureReport>,
    taken_at: jiff::Timestamp,
}

impl<'a> Run<'a> {
    fn go(&mut self) -> Result<Vec<Made>> {
        let (request, env) = (self.request, self.env);
        let begun_ms = env.clock.monotonic_ms();
        let name = self.free_name()?;
        self.branches.each(|branch| branch.note_begun(&name))?;
        let cold = request.options.method == Method::Cold;
        let stopped = match (cold, request.service) {
            (true, Some(service)) => Some(service.stop(env)?),
            _ => None,
        };
        let taken_at = env.clock.now();
        let capture = self.stream(&name)?;
        let companions = self.stream_companions(&name)?;
        // A check may still go on in a thread of the capture: meanwhile we read back. Not while a
        // service is stopped: it comes first.
        let deep = request.options.check != CheckLevel::None;
        if !cold {
            self.timed("read_back", |run| run.branches.read_back(deep))?;
        }
        let report = self.timed("finish_capture", |_| capture.finish())?;
        if let Some(stopped) = stopped {
            stopped.start()?;
        }
        if cold {
            self.timed("read_back", |run| run.branches.read_back(deep))?;
        }
        env.crash.pass("backup.artifact.read_back")?;
        self.timed("store_page_hashes", |run| run.branches.store_page_hashes(&name))?;
        let taken_at = report.taken_at.unwrap_or(taken_at);
        let captured = Captured { report, companions, taken_at };
        let check = self.check(&captured)?;
        self.timings.insert("total".into(), env.elapsed_ms(begun_ms));
        let read_back_ms = self.timings.get("read_back").copied().unwrap_or(0);
        let manifest = self.manifest(name, captured)?;
        let mut made = Vec::new();
        for branch in self.branches.alive() {
            let own = own_manifest(&manifest, branch, &check, read_back_ms);
            match branch.commit(&own) {
                Ok(()) => made.push((branch.folder.clone(), branch.repository.header().id, own)),
                Err(error) => branch.error = Some(error),
            }
        }
        Ok(made)
    }

    fn timed<T>(
        &mut self,
        phase: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.env.proceed()?;
        let begun_ms = self.env.clock.monotonic_ms();
        let done = work(self);
        self.timings.insert(phase.into(), self.env.elapsed_ms(begun_ms));
        done
    }

    /// A name that no backup has yet in any of the repositories. Names hold whole seconds: within
    /// one, we wait for the next.
    fn free_name(&mut self) -> Result<String> {
        for _ in 0..100 {
            let now = self.env.clock.now();
            let name = self.branches.first()?.name_now(&self.request.pattern);
            let taken = AtomicBool::new(false);
            self.branches.each(|branch| {
                taken.fetch_or(branch.has(&name)?, Ordering::Relaxed);
                Ok(())
            })?;
            if !taken.into_inner() {
                return Ok(name);
            }
            let into_second_ms = now.subsec_millisecond().max(0) as u64;
            self.env.pause_ms(1_000 - into_second_ms)?;
        }
        let folder = self.branches.first()?.folder.clone();
        Err(Error::new(Kind::Failed, format!("every name for `{folder}` is taken"))
            .hint("is the clock standing still? see `date`"))
    }

    /// Takes hold of the source and stores its artifacts.
    fn stream(&mut self, name: &str) -> Result<Held<'a>> {
        let (request, env) = (self.request, self.env);
        self.timed("stream", |run| {
            if request.source.kind() == crate::files::KIND {
                return stream_files(env, request, request.source, &mut run.branches, name);
            }
            let mut capture = request.source.capture(env, &request.options)?;
            store_all(env, &mut *capture, &mut run.branches, name)?;
            Ok(capture)
        })
    }

    fn stream_companions(&mut self, name: &str) -> Result<Option<CaptureReport>> {
        let Some(companions) = self.request.companions else { return Ok(None) };
        let database = PathBuf::from(self.request.source.location()?);
        let mut own = self.request.engine.side_files(&database);
        own.push(database);
        let companions = companions.without(own);
        let (env, request) = (self.env, self.request);
        let capture = stream_files(env, request, &companions, &mut self.branches, name)?;
        capture.finish().map(Some)
    }

    /// The check of the database, if one was asked for, and whether it was one of what is stored.
    /// One that found damage is an error.
    fn check(&mut self, captured: &Captured) -> Result<Option<(CheckReport, bool)>> {
        let report = &captured.report;
        let (check, scratch) = match (&report.check, &report.check_deferred) {
            (_, Some(_)) => (self.check_scratch()?, true),
            (Some(check), None) => (check.clone(), false),
            (None, None) => return Ok(None),
        };
        match check.outcome {
            CheckOutcome::Failed => Err(damaged(&check, &self.branches.first()?.record.location)),
            _ => Ok(Some((check, scratch))),
        }
    }

    /// Restores the first artifact to a scratch place and lets the engine check it. All
    /// repositories hold the same bytes, as was read back: one of them is asked, and where its
    /// store fails, the next.
    fn check_scratch(&mut self) -> Result<CheckReport> {
        loop {
            let checked = self.timed("check", |run| run.check_stored(run.branches.first()?));
            match checked {
                // What it found in the database is no error: one here is of what this one stored.
                Err(error)
                    if retry::may_pass(error.kind()) || error.kind() == Kind::CheckFailed =>
                {
                    let failed = self.branches.alive().next();
                    failed.ok_or_else(no_artifact)?.error = Some(error);
                    self.branches.first()?;
                }
                checked => return checked,
            }
        }
    }

    fn check_stored(&self, branch: &Branch<'_>) -> Result<CheckReport> {
        let stored = branch.stored.first().ok_or_else(no_artifact)?;
        let (request, env, artifact) = (self.request, self.env, &stored.artifact);
        let bytes_total = Some(artifact.plain_bytes);
        let phase = "restoring to a scratch place";
        env.tell(Event::PhaseBegan { subject: &branch.folder, phase, bytes_total });
        let mut scratch = Scratch::new(request.scratch_folder, artifact.plain_bytes)?;
        let place = scratch.path();
        decode_into(
            env,
            &branch.repository,
            &stored.object,
            (artifact, &stored_expectation(artifact)),
            scratch.file(),
            &place,
        )?;
        env.tell(Event::PhaseEnded { phase });
        let phase = "checking";
        env.tell(Event::PhaseBegan { subject: &branch.folder, phase, bytes_total: None });
        let options = &request.options;
        let memory_bytes = options.check_memory_bytes;
        let report = request.engine.check_file(env, &place, options.check, memory_bytes)?;
        env.tell(Event::PhaseEnded { phase });
        Ok(report)
    }

    /// What the manifests of all repositories have in common.
    fn manifest(&self, name: String, captured: Captured) -> Result<Manifest> {
        let record = &self.branches.first()?.record;
        let report = captured.report;
        let mut warnings = self.request.warnings.to_vec();
        warnings.extend(report.warnings);
        if let Some(reason) = report.check_deferred {
            warnings.push(format!("the check was made on a scratch restore: {reason}"));
        }
        warnings.extend(captured.companions.into_iter().flat_map(|report| report.warnings));
        let checked =
            self.request.options.check != CheckLevel::None || record.kind == crate::files::KIND;
        let condition = match (report.damage_seen.is_empty(), checked) {
            (false, _) => Condition::Damaged,
            (true, true) => Condition::Good,
            (true, false) => Condition::Unchecked,
        };
        warnings.extend(report.damage_seen.into_iter().map(|line| format!("damaged: {line}")));
        Ok(Manifest {
            format: format_of(&[]),
            id: self.env.new_uuid(),
            name,
            source: SourceLabel {
                id: record.id,
                name: record.name.clone(),
                kind: record.kind.clone(),
                host: record.host.clone(),
                location: record.location.clone(),
            },
            method: self.request.options.method,
            taken_at: captured.taken_at,
            completed_at: self.env.clock.now(),
            condition,
            facts: report.facts,
            schema_version: report.schema_version,
            rows: report.rows,
            content_digest: report.content_digest,
            artifacts: Vec::new(),
            checks: Vec::new(),
            timings_ms: self.timings.clone(),
            warnings,
            pin: self.request.pin.as_ref().map(|hold| hold.reason.clone()),
            pin_until: self.request.pin.as_ref().and_then(|hold| hold.until),
            parent: report.parent,
            purpose: self.request.purpose,
            adopted: None,
            tool: self.request.tool.to_owned(),
        })
    }
}

/// The manifest of a branch: what it stored, and what was checked of that.
fn own_manifest(
    common: &Manifest,
    branch: &Branch<'_>,
    check: &Option<(CheckReport, bool)>,
    read_back_ms: u64,
) -> Manifest {
    let artifacts: Vec<Artifact> =
        branch.stored.iter().map(|stored| stored.artifact.clone()).collect();
    let mut checks = branch.checks(read_back_ms);
    if let Some((check, scratch)) = check {
        let on = if *scratch { "scratch-restore" } else { branch.held() };
        checks.extend(check.what.iter().map(|what| Check {
            name: what.clone(),
            on: on.into(),
            outcome: check.outcome,
            notes: check.notes.clone(),
            elapsed_ms: check.elapsed_ms,
        }));
    }
    Manifest {
        format: format_of(&artifacts),
        source: SourceLabel {
            id: branch.record.id,
            name: branch.record.name.clone(),
            kind: branch.record.kind.clone(),
            host: branch.record.host.clone(),
            location: branch.record.location.clone(),
        },
        completed_at: branch.env.clock.now(),
        artifacts,
        checks,
        ..common.clone()
    }
}

fn no_artifact() -> Error {
    Error::new(Kind::Failed, "the capture has no artifact")
}

fn damaged(check: &CheckReport, location: &str) -> Error {
    let lines: Vec<&str> = check.damage.iter().take(3).map(String::as_str).collect();
    let more = check.damage.len().saturating_sub(lines.len());
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    // What could not even be opened was not checked by anything that has a name.
    let by = match check.what.is_empty() {
        true => String::new(),
        false => format!("{} found: ", check.what.join(", ")),
    };
    Error::new(Kind::CheckFailed, format!("{location} is damaged: {by}{}{more}", lines.join("; ")))
        .hint(
            "no backup was made, older ones are untouched. To keep a copy of what is there: \
         lifeboat backup --check none. To go back: lifeboat restore. To get out what can be \
         read: lifeboat salvage",
        )
}
