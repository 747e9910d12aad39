//! The run of a backup: capture, store, read back, check, and only then the manifest.
//!
//! Whatever fails before the manifest leaves no backup: artifacts of a failed run are deleted,
//! those of a killed run are garbage without a manifest.

mod commit;
pub mod lock;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::files::FilesSource;
use crate::manifest::{
    Artifact, Check, CheckLevel, CheckOutcome, Condition, Manifest, Method, Purpose, SourceLabel,
    format_of,
};
use crate::marks::{self, Begun, MarkKind};
use crate::names::NamePattern;
use crate::pipeline::Compression;
use crate::policy::Hold;
use crate::repository::{Repository, SourceIdentity};
use crate::scratch::{Scratch, decode_into, stored_expectation};
use crate::seal;
use crate::service::Service;
use crate::source::{
    Capture, CaptureOptions, CaptureReport, CheckReport, Engine, Inspection, Source,
};
use crate::store::{ObjectInfo, ObjectName, put_bytes};

pub(crate) use commit::commit;
use lock::SourceLock;
use store::StoredArtifacts;

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

/// Makes a backup. When this returns `Ok`, the backup can be restored.
pub fn run(
    env: &Env,
    repository: &Repository,
    request: &BackupRequest<'_>,
) -> Result<BackupOutcome> {
    env.crash.pass("backup.begin")?;
    // First, so that nothing is created for a source that does not exist.
    request.source.inspect()?;
    let (folder, record) = repository.claim(env, &request.identity)?;
    let _lock = SourceLock::take(env, request.lock_folder, &record)?;
    if let Some(manifest) = unchanged(repository, request, &record)? {
        return Ok(BackupOutcome::Unchanged { folder, manifest: Box::new(manifest) });
    }
    let timings = BTreeMap::new();
    let repository = &match request.options.check {
        CheckLevel::None => repository.clone(),
        _ => repository.with_passing_key(),
    };
    let mut run = Run {
        env,
        repository,
        request,
        folder,
        record,
        timings,
        manifest_may_exist: false,
        begun: None,
    };
    let mut stored = StoredArtifacts::new(env, repository, run.folder.clone());
    match run.go(&mut stored) {
        Ok(manifest) => {
            Ok(BackupOutcome::Committed { folder: run.folder, manifest: Box::new(manifest) })
        }
        Err(error) => {
            // What a manifest may name is not deleted: half a backup is worse than garbage.
            if !run.manifest_may_exist && stored.delete() {
                run.forget_begun();
            }
            Err(error)
        }
    }
}

/// The newest backup, if the source asks for backups on change only and has not changed since.
fn unchanged(
    repository: &Repository,
    request: &BackupRequest<'_>,
    record: &SourceRecord,
) -> Result<Option<Manifest>> {
    if !request.on_change {
        return Ok(None);
    }
    let Some(digest) = request.source.content_digest()? else { return Ok(None) };
    let catalog = repository.catalog()?;
    let entry = catalog.sources.iter().find(|entry| entry.record.id == record.id);
    let newest = entry.and_then(|entry| entry.newest_good());
    Ok(newest.filter(|newest| newest.content_digest.as_ref() == Some(&digest)).cloned())
}

struct Run<'a> {
    env: &'a Env,
    repository: &'a Repository,
    request: &'a BackupRequest<'a>,
    folder: String,
    record: SourceRecord,
    timings: BTreeMap<String, u64>,
    /// The manifest is stored, or was sent and could not be taken back.
    manifest_may_exist: bool,
    /// The mark that says that this run began, while it stands.
    begun: Option<ObjectName>,
}

/// A source that is still held.
type Held<'a> = Box<dyn Capture + 'a>;

/// Stores a set of files. A large one that is emptied while it is read ends the capture: nothing of
/// it is stored, and it is begun again.
fn stream_files<'c>(
    env: &'c Env,
    request: &BackupRequest<'_>,
    source: &'c dyn Source,
    stored: &mut StoredArtifacts<'_>,
    name: &str,
) -> Result<Held<'c>> {
    for _ in 1..FILES_CAPTURES_MAX {
        let mut capture = source.capture(env, &request.options)?;
        match store_all(env, request, &mut *capture, stored, name) {
            Err(error) if error.kind() == Kind::SourceUnavailable => {
                let message = format!("{error}: the files are read again");
                env.tell(Event::Detail { message: &message });
            }
            ended => return ended.map(|()| capture),
        }
    }
    let mut capture = source.capture(env, &request.options)?;
    store_all(env, request, &mut *capture, stored, name)?;
    Ok(capture)
}

fn store_all(
    env: &Env,
    request: &BackupRequest<'_>,
    capture: &mut dyn Capture,
    stored: &mut StoredArtifacts<'_>,
    name: &str,
) -> Result<()> {
    for (index, plan) in capture.artifacts().into_iter().enumerate() {
        stored.add(name, &plan, request.compression, |sink| capture.write(index, sink))?;
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
    fn go(&mut self, stored: &mut StoredArtifacts<'a>) -> Result<Manifest> {
        let (request, env) = (self.request, self.env);
        let begun_ms = env.clock.monotonic_ms();
        let name = self.free_name()?;
        self.note_begun(&name)?;
        let cold = request.options.method == Method::Cold;
        let stopped = match (cold, request.service) {
            (true, Some(service)) => Some(service.stop(env)?),
            _ => None,
        };
        let taken_at = env.clock.now();
        let capture = self.stream(stored, &name)?;
        let companions = self.stream_companions(stored, &name)?;
        // A check may still go on in a thread of the capture: meanwhile we read back. Not while a
        // service is stopped: it comes first.
        let deep = request.options.check != CheckLevel::None;
        if !cold {
            self.timed("read_back", |_| stored.read_back(deep))?;
        }
        let report = self.timed("finish_capture", |_| capture.finish())?;
        if let Some(stopped) = stopped {
            stopped.start()?;
        }
        if cold {
            self.timed("read_back", |_| stored.read_back(deep))?;
        }
        env.crash.pass("backup.artifact.read_back")?;
        self.timed("store_page_hashes", |_| stored.store_page_hashes(&name))?;
        let taken_at = report.taken_at.unwrap_or(taken_at);
        let captured = Captured { report, companions, taken_at };
        let checks = self.checks(stored, &captured)?;
        self.timings.insert("total".into(), env.elapsed_ms(begun_ms));
        let manifest = self.manifest(name, stored.artifacts(), captured, checks);
        self.commit(&manifest)?;
        self.forget_begun();
        Ok(manifest)
    }

    fn timed<T>(
        &mut self,
        phase: &'static str,
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        self.env.proceed()?;
        let begun_ms = self.env.clock.monotonic_ms();
        let done = work(self);
        self.timings.insert(phase.into(), self.env.elapsed_ms(begun_ms));
        done
    }

    /// Says that this name is ours before anything is stored under it: the bytes of an artifact
    /// that is sealed or not compressed would not show it, and nobody could ever delete them.
    fn note_begun(&mut self, name: &str) -> Result<()> {
        let sealed = self.repository.recipients().is_some();
        if self.request.compression != Compression::None && !sealed {
            return Ok(());
        }
        let mark = Begun {
            format: marks::FORMAT,
            source: self.record.id,
            backup: name.to_owned(),
            begun_at: self.env.clock.now(),
        };
        let object = ObjectName::new(MarkKind::Begun.object(&self.folder, name))?;
        match put_bytes(self.repository.store(), &object, &marks::to_bytes(&mark)) {
            // One that was killed in the same second, before it stored anything, said the same.
            Err(error) if error.kind() != Kind::Refused => return Err(error),
            _ => {}
        }
        self.begun = Some(object);
        Ok(())
    }

    /// The mark has served. One that cannot be deleted is left for a prune.
    fn forget_begun(&mut self) {
        let Some(object) = self.begun.take() else { return };
        if let Err(error) = self.repository.store().delete(&object) {
            self.env.warn(&self.folder, &format!("{object} is left behind: {error}"));
        }
    }

    /// A line that was lost in a configuration must not put into the open what was sealed so far.
    fn refuse_to_unseal(&self, there: &[ObjectInfo]) -> Result<()> {
        let sealed = there.iter().any(|object| object.name.as_str().ends_with(seal::SUFFIX));
        match sealed && self.repository.recipients().is_none() {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Refused,
                format!(
                    "backups of {} in {} are sealed, and this one would not be",
                    self.record.name,
                    self.repository.url()
                ),
            )
            .hint(
                "name the recipients again (`encrypt_to` of the repository); to store it open on \
                 purpose, take another repository",
            )),
        }
    }

    /// A name that no backup has yet. Names hold whole seconds: within one, we wait for the next.
    fn free_name(&self) -> Result<String> {
        let folder = format!("{}/", self.folder);
        for _ in 0..100 {
            let now = self.env.clock.now();
            let name = self.request.pattern.name(&self.record.name, now);
            let stem = format!("{folder}{name}.");
            let taken = self.repository.store().list(Some(&self.folder))?;
            self.refuse_to_unseal(&taken)?;
            if !taken.iter().any(|object| object.name.as_str().starts_with(&stem)) {
                return Ok(name);
            }
            let into_second_ms = now.subsec_millisecond().max(0) as u64;
            self.env.pause_ms(1_000 - into_second_ms)?;
        }
        Err(Error::new(Kind::Failed, format!("every name for `{}` is taken", self.folder))
            .hint("is the clock standing still? see `date`"))
    }

    /// Takes hold of the source and stores its artifacts.
    fn stream(&mut self, stored: &mut StoredArtifacts<'a>, name: &str) -> Result<Held<'a>> {
        let (request, env) = (self.request, self.env);
        self.timed("stream", |_| {
            if request.source.kind() == crate::files::KIND {
                return stream_files(env, request, request.source, stored, name);
            }
            let mut capture = request.source.capture(env, &request.options)?;
            store_all(env, request, &mut *capture, stored, name)?;
            Ok(capture)
        })
    }

    fn stream_companions(
        &mut self,
        stored: &mut StoredArtifacts<'a>,
        name: &str,
    ) -> Result<Option<CaptureReport>> {
        let Some(companions) = self.request.companions else { return Ok(None) };
        let database = PathBuf::from(self.request.source.location()?);
        let mut own = self.request.engine.side_files(&database);
        own.push(database);
        let companions = companions.without(own);
        let capture = stream_files(self.env, self.request, &companions, stored, name)?;
        capture.finish().map(Some)
    }

    /// All checks that belong into the manifest. One that found damage is an error.
    fn checks(&mut self, stored: &StoredArtifacts<'_>, captured: &Captured) -> Result<Vec<Check>> {
        let mut checks = stored.checks(self.timings.get("read_back").copied().unwrap_or(0));
        let (check, on) = match (&captured.report.check, &captured.report.check_deferred) {
            (_, Some(_)) => (Some(self.check_scratch(stored)?), "scratch-restore"),
            (Some(check), None) => (Some(check.clone()), self.held()),
            (None, None) => (None, ""),
        };
        let Some(check) = check else { return Ok(checks) };
        if check.outcome == CheckOutcome::Failed {
            return Err(damaged(&check, &self.record.location));
        }
        checks.extend(check.what.iter().map(|what| Check {
            name: what.clone(),
            on: on.into(),
            outcome: check.outcome,
            notes: check.notes.clone(),
            elapsed_ms: check.elapsed_ms,
        }));
        Ok(checks)
    }

    /// What a check of the held moment looked at. Below a seal nobody can compare it again.
    fn held(&self) -> &'static str {
        match self.repository.recipients() {
            Some(_) => "before-seal",
            None => "pinned-snapshot",
        }
    }

    /// Restores the first artifact to a scratch place and lets the engine check it.
    fn check_scratch(&mut self, stored: &StoredArtifacts<'_>) -> Result<CheckReport> {
        let Some((object, artifact)) = stored.first() else {
            return Err(Error::new(Kind::Failed, "the capture has no artifact"));
        };
        let (request, env) = (self.request, self.env);
        self.timed("check", |run| {
            let bytes_total = Some(artifact.plain_bytes);
            let phase = "restoring to a scratch place";
            env.tell(Event::PhaseBegan { subject: &run.folder, phase, bytes_total });
            let mut scratch = Scratch::new(request.scratch_folder, artifact.plain_bytes)?;
            let place = scratch.path();
            decode_into(
                env,
                run.repository,
                object,
                (artifact, &stored_expectation(artifact)),
                scratch.file(),
                &place,
            )?;
            env.tell(Event::PhaseEnded { phase });
            let phase = "checking";
            env.tell(Event::PhaseBegan { subject: &run.folder, phase, bytes_total: None });
            let options = &request.options;
            let memory_bytes = options.check_memory_bytes;
            let report = request.engine.check_file(env, &place, options.check, memory_bytes)?;
            env.tell(Event::PhaseEnded { phase });
            Ok(report)
        })
    }

    fn manifest(
        &self,
        name: String,
        artifacts: Vec<Artifact>,
        captured: Captured,
        checks: Vec<Check>,
    ) -> Manifest {
        let report = captured.report;
        let mut warnings = self.request.warnings.to_vec();
        warnings.extend(report.warnings);
        if let Some(reason) = report.check_deferred {
            warnings.push(format!("the check was made on a scratch restore: {reason}"));
        }
        warnings.extend(captured.companions.into_iter().flat_map(|report| report.warnings));
        let checked = self.request.options.check != CheckLevel::None
            || self.record.kind == crate::files::KIND;
        let condition = match (report.damage_seen.is_empty(), checked) {
            (false, _) => Condition::Damaged,
            (true, true) => Condition::Good,
            (true, false) => Condition::Unchecked,
        };
        warnings.extend(report.damage_seen.into_iter().map(|line| format!("damaged: {line}")));
        Manifest {
            format: format_of(&artifacts),
            id: self.env.new_uuid(),
            name,
            source: SourceLabel {
                id: self.record.id,
                name: self.record.name.clone(),
                kind: self.record.kind.clone(),
                host: self.record.host.clone(),
                location: self.record.location.clone(),
            },
            method: self.request.options.method,
            taken_at: captured.taken_at,
            completed_at: self.env.clock.now(),
            condition,
            facts: report.facts,
            schema_version: report.schema_version,
            rows: report.rows,
            content_digest: report.content_digest,
            artifacts,
            checks,
            timings_ms: self.timings.clone(),
            warnings,
            pin: self.request.pin.as_ref().map(|hold| hold.reason.clone()),
            pin_until: self.request.pin.as_ref().and_then(|hold| hold.until),
            purpose: self.request.purpose,
            adopted: None,
            tool: self.request.tool.to_owned(),
        }
    }

    fn commit(&mut self, manifest: &Manifest) -> Result<()> {
        self.env.crash.pass("backup.before_manifest")?;
        // The last moment: from here on the backup exists, and an end in time is a success.
        self.env.proceed()?;
        let (repository, folder) = (self.repository, self.folder.as_str());
        commit(self.env, repository, folder, manifest).map_err(|failed| {
            self.manifest_may_exist = failed.manifest_may_exist;
            failed.error
        })?;
        self.manifest_may_exist = true;
        self.env.crash.pass("backup.after_manifest")?;
        self.env.tell(Event::BackupCommitted { subject: folder, name: &manifest.name });
        Ok(())
    }
}

fn damaged(check: &CheckReport, location: &str) -> Error {
    let lines: Vec<&str> = check.damage.iter().take(3).map(String::as_str).collect();
    let more = check.damage.len().saturating_sub(lines.len());
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Error::new(
        Kind::CheckFailed,
        format!(
            "{location} is damaged: {} found: {}{more}",
            check.what.join(", "),
            lines.join("; ")
        ),
    )
    .hint(
        "no backup was made, older ones are untouched. To keep a copy of what is there: \
         lifeboat backup --check none. To go back: lifeboat restore",
    )
}
