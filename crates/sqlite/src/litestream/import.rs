//! A replica's states as ours: its oldest state becomes a backup, each later one a position of the
//! log that follows it. From there `backup --incremental` and `run` go on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Manifest, Method};
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Replay as _;
use lifeboat_core::scratch::Scratch;
use lifeboat_core::source::{
    ArtifactPlan, Capture, CaptureOptions, CaptureReport, Inspection, Sink, Source,
};
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use super::replay::{ReplicaReplay, lay, unwritten};
use super::replica::{LtxFile, Replica, ReplicaState};
use crate::holders::side_files;
use crate::pagelog::adding::{Changed, Encoding, Looked, OpenLog, ready};
use crate::{KIND, SqliteSource};

/// Pages that are encoded together.
const BATCH_PAGES: usize = 256;
/// So many of the newest states are taken over one by one, no more: a log has an end.
const STATES_MAX: usize = 4_000;
/// Where a manifest says of which state of which replica its backup was made.
const FACT: &str = "litestream";

/// What an import led to.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The folder in the repository.
    pub folder: String,
    /// The backup that the oldest state became, or the newest where there can be no log.
    pub base: String,
    /// The position of the newest state.
    pub position: u64,
    /// How many states there are now.
    pub states: usize,
    /// The oldest and the newest.
    pub from: ReplicaState,
    /// See there.
    pub until: ReplicaState,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Takes a replica over. `request` says of which source and how; its own source is not read.
pub fn import(
    env: &Env,
    replica: &Replica,
    repository: &Repository,
    request: &BackupRequest<'_>,
) -> Result<Imported> {
    let states = replica.states();
    let newest = replica.meant(super::Target::Latest)?;
    let oldest = states[states.len().saturating_sub(STATES_MAX).min(states.len() - 1)];
    refuse_again(repository, request, replica, oldest)?;
    let mut import = Import { env, replica, repository, request };
    let (scratch, mut state) = import.build(oldest)?;
    let (folder, base) = import.back_up(&scratch, oldest)?;
    let mut imported = Imported {
        folder,
        base: base.name.clone(),
        position: 0,
        states: 1,
        from: oldest,
        until: oldest,
        notes: Vec::new(),
    };
    if oldest.transaction == newest.transaction {
        return Ok(imported);
    }
    match ready(env, repository, &imported.folder, Some(&base))? {
        Ok(ready) => {
            let mut log = ready.log;
            while let Some(file) = next(replica, state.transaction) {
                env.proceed()?;
                state = import.add(&scratch, &mut log, file, state)?;
                (imported.position, imported.until) = (log.position, state);
                imported.states += 1;
            }
        }
        Err(why) => {
            let (scratch, _) = import.build(newest)?;
            let (_, base) = import.back_up(&scratch, newest)?;
            (imported.base, imported.until, imported.states) = (base.name, newest, 2);
            imported.notes.push(format!("only the oldest and the newest state were taken: {why}"));
        }
    }
    Ok(imported)
}

/// A replica that was taken over is not taken over twice.
fn refuse_again(
    repository: &Repository,
    request: &BackupRequest<'_>,
    replica: &Replica,
    oldest: ReplicaState,
) -> Result<()> {
    let catalog = repository.catalog()?;
    let entry = catalog.sources.iter().find(|entry| request.identity.is(&entry.record));
    let fact = fact(replica, oldest);
    let known = entry.and_then(|entry| {
        entry.backups.iter().find(|backup| backup.facts.get(FACT) == Some(&fact))
    });
    match known {
        None => Ok(()),
        Some(known) => {
            let message = format!("{} was taken over before, as {}", replica.url(), known.name);
            Err(Error::new(Kind::Refused, message)
                .hint("go on from there: lifeboat backup --incremental, or lifeboat run"))
        }
    }
}

fn fact(replica: &Replica, state: ReplicaState) -> serde_json::Value {
    json!({ "url": replica.url(), "transaction": format!("{:016x}", state.transaction) })
}

/// The file that leads from a state to the next one, in the smallest step.
fn next(replica: &Replica, transaction: u64) -> Option<&LtxFile> {
    let follows = replica.files().filter(|file| {
        file.head.is_ok() && file.first <= transaction + 1 && file.last > transaction
    });
    follows.min_by_key(|file| (file.last, file.bytes))
}

struct Import<'a> {
    env: &'a Env,
    replica: &'a Replica,
    repository: &'a Repository,
    request: &'a BackupRequest<'a>,
}

/// A database file of a state, private; side files that SQLite leaves go with it.
struct Built(Scratch);

impl Drop for Built {
    fn drop(&mut self) {
        for side in side_files(&self.0.path()) {
            let _ = fs::remove_file(side);
        }
    }
}

impl Import<'_> {
    /// The database of a state, in a scratch file.
    fn build(&mut self, state: ReplicaState) -> Result<(Built, ReplicaState)> {
        let replay = ReplicaReplay::to(self.replica, state)?;
        let mut scratch = Scratch::new(self.request.scratch_folder, replay.plain_bytes())?;
        let place = scratch.path();
        replay.apply(self.env, scratch.file(), &place)?;
        Ok((Built(scratch), state))
    }

    fn back_up(&self, built: &Built, state: ReplicaState) -> Result<(String, Manifest)> {
        let source = StateSource {
            file: SqliteSource::new(built.0.path()),
            location: self.request.identity.location.clone(),
            at: state.at,
            fact: fact(self.replica, state),
        };
        let request = BackupRequest {
            source: &source,
            engine: self.request.engine,
            identity: self.request.identity.clone(),
            companions: None,
            options: CaptureOptions { method: Method::Adopted, ..self.request.options.clone() },
            compression: self.request.compression,
            pattern: self.request.pattern.clone(),
            pin: None,
            purpose: None,
            service: None,
            on_change: false,
            lock_folder: self.request.lock_folder,
            scratch_folder: self.request.scratch_folder,
            tool: self.request.tool,
            warnings: self.request.warnings,
        };
        match backup::run(self.env, self.repository, &request)? {
            BackupOutcome::Committed { folder, manifest }
            | BackupOutcome::Unchanged { folder, manifest } => Ok((folder, *manifest)),
        }
    }

    /// Adds the state to which a file leads, and makes the database file of it.
    fn add(
        &self,
        built: &Built,
        log: &mut OpenLog,
        file: &LtxFile,
        before: ReplicaState,
    ) -> Result<ReplicaState> {
        let (env, place) = (self.env, built.0.path());
        let database = fs::File::options().read(true).write(true).open(&place);
        let database = database.map_err(|error| unwritten(&place, error))?;
        let time_ms = file.head.as_ref().map_or(0, |head| head.time_ms);
        // The time of a file is taken a little after its frames were read: what was committed
        // between the two may be missing, so only the time before it is promised.
        let looked =
            Looked { held_ms: before.at.as_millisecond().max(log.held_ms), until_ms: time_ms };
        let mut writer = log.begin_file(looked)?;
        let mut batch: Vec<Changed<'_>> = Vec::new();
        let page_count = log.state.page_count();
        let after = lay(env, self.replica, file, page_count, &mut |number, page| {
            if let Some(changed) = changed(log, &database, &place, number, page)? {
                batch.push(changed);
            }
            if batch.len() == BATCH_PAGES {
                writer.add(&Encoding::CAREFUL.encode(&batch)?)?;
                batch.clear();
            }
            Ok(())
        })?;
        writer.add(&Encoding::CAREFUL.encode(&batch)?)?;
        let bytes = u64::from(after) * u64::from(log.state.page_size());
        database.set_len(bytes).map_err(|error| unwritten(&place, error))?;
        log.end_file(env, writer, after, looked, 0)?;
        let at = Timestamp::from_millisecond(time_ms).unwrap_or(before.at);
        Ok(ReplicaState { transaction: file.last, at })
    }
}

/// A page that differs from the state at the end of the log, which is written to the file.
fn changed(
    log: &OpenLog,
    database: &fs::File,
    place: &Path,
    number: u32,
    page: &[u8],
) -> Result<Option<Changed<'static>>> {
    let (hash, hash_before) = (block_hash(page), log.state.hash(number).copied());
    if hash_before == Some(hash) {
        return Ok(None);
    }
    let offset = u64::from(number - 1) * page.len() as u64;
    let mut before = None;
    if hash_before.is_some() {
        let mut old = vec![0; page.len()];
        database.read_exact_at(&mut old, offset).map_err(|error| {
            Error::io(Kind::Failed, format!("cannot read {}", place.display()), error)
        })?;
        before = (hash_before == Some(block_hash(&old))).then(|| (old, log.depth(number)));
    }
    database.write_all_at(page, offset).map_err(|error| unwritten(place, error))?;
    Ok(Some(Changed::read((number, hash), page.to_vec(), before)))
}

/// A state of a replica as a source: the file that was made of it, under the database's own name.
struct StateSource {
    file: SqliteSource,
    location: String,
    at: Timestamp,
    fact: serde_json::Value,
}

impl Source for StateSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn location(&self) -> Result<String> {
        Ok(self.location.clone())
    }

    fn inspect(&self) -> Result<Inspection> {
        self.file.inspect()
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        let options = CaptureOptions { method: Method::Online, ..options.clone() };
        let capture = self.file.capture(env, &options)?;
        Ok(Box::new(StateCapture { capture, at: self.at, fact: self.fact.clone() }))
    }
}

struct StateCapture<'a> {
    capture: Box<dyn Capture + 'a>,
    at: Timestamp,
    fact: serde_json::Value,
}

impl Capture for StateCapture<'_> {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        let plans = self.capture.artifacts().into_iter();
        // Owner and mode are those of a scratch file: they say nothing of the database.
        plans.map(|plan| ArtifactPlan { file: None, ..plan }).collect()
    }

    fn write(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()> {
        self.capture.write(index, sink)
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        let mut report = self.capture.finish()?;
        report.taken_at = Some(self.at);
        report.facts.insert(FACT.to_owned(), self.fact);
        Ok(report)
    }
}
