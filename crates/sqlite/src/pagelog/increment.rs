//! A run that adds one file to a log: what changed since its end, found by page hashes.
//!
//! The database is read once, as for a backup, in any journal mode, and nothing runs before or
//! after. Where there is nothing to add to, or adding is worse than a new backup, the run says so
//! and stores nothing: whoever asked for it makes a backup then.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use jiff::Timestamp;
use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::catalog::{Catalog, SourceRecord};
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::{CheckOutcome, Condition, Manifest, Purpose};
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{Capture, CaptureOptions, CaptureReport, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};

use super::chain::Chain;
use super::compare::{ChangedSink, Found};
use super::delta::{Changed, encode};
use super::history::{DATABASE, History, PAGE_HASHES, page_hashes};
use super::layout::Footer;
use super::names::Span;
use super::read::digest_of;
use super::state::PageState;
use super::write::{LogWriter, Stored};
use super::{FILES_MAX, LOG_BYTES_SHARE};

/// Batches of changed pages that wait for being encoded.
const BATCHES_WAITING: usize = 2;

/// Everything that an increment is to be made with.
pub struct IncrementRequest<'a> {
    /// What is backed up.
    pub source: &'a dyn Source,
    /// What makes it the same source as last time.
    pub identity: SourceIdentity,
    /// Method, check and bounds.
    pub options: CaptureOptions,
    /// Where locks are kept, if anywhere.
    pub lock_folder: Option<&'a Path>,
}

/// What a run would do.
#[derive(Clone, Debug)]
pub struct IncrementPlan {
    /// What the source is and how much would be read.
    pub inspection: Inspection,
    /// The backup to whose log it would add, and the position there; or why a backup is needed.
    pub base: Result<(String, u64), String>,
    /// The steps, a line each.
    pub steps: Vec<String>,
}

/// How a run ended well.
#[derive(Clone, Debug)]
pub enum IncrementOutcome {
    /// A file was added to a log.
    Added(Increment),
    /// Nothing was stored: a backup is needed, for this reason.
    BackupNeeded(String),
}

/// What a run added to a log.
#[derive(Clone, Debug)]
pub struct Increment {
    /// The folder in the repository.
    pub folder: String,
    /// The name of the base.
    pub base: String,
    /// The new position.
    pub position: u64,
    /// The object.
    pub object: String,
    /// Everything is in it that was committed until then.
    pub held: Timestamp,
    /// How many pages changed, and how many there are.
    pub pages: (u32, u32),
    /// The size of the file in bytes.
    pub stored_bytes: u64,
    /// The size of the database.
    pub plain_bytes: u64,
    /// The names of checks that were made of the captured state.
    pub checks: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// A log that can be added to.
struct Ready<'a> {
    chain: Chain<'a>,
    /// The hashes at its end.
    state: PageState,
    history: History<'a>,
    /// Everything before this is in it.
    since_ms: i64,
}

/// Looks at source and repository and says what a run would do, without doing it. Without a
/// repository there is nothing to add to.
pub fn plan(
    env: &Env,
    repository: Option<&Repository>,
    url: &str,
    request: &IncrementRequest<'_>,
) -> Result<IncrementPlan> {
    let inspection = request.source.inspect()?;
    let mut steps = Vec::new();
    let catalog = repository.map(Repository::catalog).transpose()?.unwrap_or_default();
    let entry = catalog.sources.iter().find(|entry| request.identity.is(&entry.record));
    let found = match (repository, entry) {
        (Some(repository), Some(entry)) => {
            let base = base_of(&catalog, &entry.record);
            ready(env, repository, &entry.folder, base)?
        }
        _ => Err("there is no backup of it yet".to_owned()),
    };
    let base = match found {
        Ok(ready) => {
            let (name, position) = (ready.chain.base.name.clone(), ready.chain.end());
            let location = request.source.location()?;
            steps.push(format!(
                "read {location} ({}, {} bytes) and compare the hash of each page with that at \
                 position {position} of {name}",
                inspection.description, inspection.plain_bytes
            ));
            steps.push(match &ready.history.unreadable {
                None => "take the pages that differ, as differences from what is stored".into(),
                Some(why) => format!("take the pages that differ, whole: {why}"),
            });
            steps.push(format!("store them in {url} as position {}", position + 1));
            steps.push("read it back and compare".to_owned());
            Ok((name, position))
        }
        Err(why) => {
            steps.push(format!("make a backup instead: {why}"));
            Err(why)
        }
    };
    Ok(IncrementPlan { inspection, base, steps })
}

/// Adds to the log of the newest backup. When this gives [`IncrementOutcome::Added`], the new state
/// can be restored.
pub fn run(
    env: &Env,
    repository: &Repository,
    request: &IncrementRequest<'_>,
) -> Result<IncrementOutcome> {
    let begun_ms = env.clock.monotonic_ms();
    env.crash.pass("increment.begin")?;
    request.source.inspect()?;
    let (folder, record) = repository.claim(env, &request.identity)?;
    let _lock = SourceLock::take(env, request.lock_folder, &record)?;
    let catalog = repository.catalog()?;
    let base = base_of(&catalog, &record);
    let ready = match ready(env, repository, &folder, base)? {
        Ok(ready) => ready,
        Err(why) => return Ok(IncrementOutcome::BackupNeeded(why)),
    };
    let mut outcome = Run { env, repository, request, folder: &folder }.go(ready)?;
    if let IncrementOutcome::Added(increment) = &mut outcome {
        increment.elapsed_ms = env.elapsed_ms(begun_ms);
    }
    Ok(outcome)
}

/// The backup whose log is added to: the newest one that can be a base.
fn base_of<'c>(catalog: &'c Catalog, record: &SourceRecord) -> Option<&'c Manifest> {
    let entry = catalog.sources.iter().find(|entry| entry.record.id == record.id)?;
    entry.backups.iter().rev().find(|backup| {
        backup.condition != Condition::Damaged
            && backup.purpose != Some(Purpose::BeforeRestore)
            && backup.artifact(PAGE_HASHES).is_some()
            && backup.artifact(DATABASE).is_some()
    })
}

/// The log of that base, if it can be added to; else why not.
fn ready<'a>(
    env: &Env,
    repository: &'a Repository,
    folder: &'a str,
    base: Option<&'a Manifest>,
) -> Result<Result<Ready<'a>, String>> {
    let Some(base) = base else { return Ok(Err("there is no backup of it yet".to_owned())) };
    // Nothing may lie beside sealed backups that tells what is in them.
    if repository.recipients().is_some() {
        return Ok(Err("what is stored there is sealed, which a log is not yet".to_owned()));
    }
    let name = &base.name;
    let chain = Chain::of(repository, folder, base)?;
    let (files, log_bytes) = chain.size();
    if chain.gap().is_some() {
        return Ok(Err(format!("a file of the log of {name} is missing")));
    }
    if files >= FILES_MAX {
        return Ok(Err(format!("the log of {name} has {files} files")));
    }
    let base_bytes = base.artifact(DATABASE).map_or(0, |artifact| artifact.stored_bytes);
    if log_bytes > LOG_BYTES_SHARE.0.max(base_bytes / LOG_BYTES_SHARE.1) {
        return Ok(Err(format!("the log of {name} has grown to {log_bytes} bytes")));
    }
    // What is damaged or foreign can be no base, and hinders no new backup.
    let opened = chain.way(chain.end()).and_then(|way| {
        let Some(mut state) = page_hashes(env, repository, folder, base)? else {
            return Err(Error::new(Kind::NotCovered, format!("{name} has no page hashes")));
        };
        let history = History::open(repository, folder, base, &mut state, &way)?;
        let since_ms = way.last().map_or(base.taken_at.as_millisecond(), |(_, last)| last.held_ms);
        Ok((state, history, since_ms))
    });
    match opened {
        Ok((state, history, since_ms)) => Ok(Ok(Ready { chain, state, history, since_ms })),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

struct Run<'a> {
    env: &'a Env,
    repository: &'a Repository,
    request: &'a IncrementRequest<'a>,
    folder: &'a str,
}

/// What was read of a database, compared.
struct Read {
    page_count: u32,
    writer: LogWriter,
    /// Why pages were stored whole, if so.
    unreadable: Option<String>,
}

impl Run<'_> {
    fn go(&self, mut ready: Ready<'_>) -> Result<IncrementOutcome> {
        let env = self.env;
        let held_ms = env.clock.now().as_millisecond();
        let mut capture = self.request.source.capture(env, &self.request.options)?;
        // Rounded away from each other: a commit within the same millisecond is on neither side.
        let until_ms = env.clock.now().as_millisecond() + 1;
        let (page_size, base) = (ready.state.page_size(), ready.chain.base);
        let plan = capture.artifacts().into_iter().next();
        if plan.and_then(|plan| plan.block_bytes) != Some(page_size) {
            return Ok(IncrementOutcome::BackupNeeded("its page size has changed".to_owned()));
        }
        let position = ready.chain.end();
        let span = Span { from: position, to: position + 1, level: 0 };
        let prefix = self.repository.log_prefix(self.folder, &base.name);
        let writer = LogWriter::begin(self.repository, span.object(&prefix)?, page_size)?;
        let read = match self.read(&mut *capture, &ready.state, &mut ready.history, writer)? {
            Ok(read) => read,
            Err(why) => return Ok(IncrementOutcome::BackupNeeded(why)),
        };
        env.crash.pass("increment.streamed")?;
        let report = capture.finish()?;
        let checks = require_sound(&report, &base.source.location)?;
        env.proceed()?;
        let before = ready.state.page_count();
        let state = &mut ready.state;
        let state_before = state.digest();
        state.resize(read.page_count);
        read.writer.each_hash(|page, hash| state.set(page, hash));
        let footer = Footer {
            source: base.source.id,
            base: base.id,
            from: span.from,
            to: span.to,
            index: 0..0,
            pages: 0,
            page_size,
            page_count: (before, read.page_count),
            is_compacted: false,
            commits: 0,
            since_ms: ready.since_ms,
            held_ms,
            until_ms,
            state_before,
            state_after: state.digest(),
            content: [0; 32],
            link_before: ready.history.link,
            link: [0; 32],
        };
        env.crash.pass("increment.before_file")?;
        let stored = read.writer.finish(footer)?;
        env.crash.pass("increment.after_file")?;
        self.read_back(&stored)?;
        env.crash.pass("increment.read_back")?;
        let mut warnings = report.warnings;
        warnings.extend(read.unreadable.map(|why| format!("pages are stored whole: {why}")));
        Ok(IncrementOutcome::Added(Increment {
            folder: self.folder.to_owned(),
            base: base.name.clone(),
            position: span.to,
            object: stored.object.to_string(),
            held: Timestamp::from_millisecond(held_ms).unwrap_or(Timestamp::UNIX_EPOCH),
            pages: (stored.footer.pages, read.page_count),
            stored_bytes: stored.bytes,
            plain_bytes: u64::from(read.page_count) * u64::from(page_size),
            checks,
            warnings,
            elapsed_ms: 0,
        }))
    }

    /// Reads the captured state on this thread, and encodes what changed on another one.
    fn read(
        &self,
        capture: &mut dyn Capture,
        state: &PageState,
        history: &mut History<'_>,
        writer: LogWriter,
    ) -> Result<Result<Read, String>> {
        let env = self.env;
        let plan = capture.artifacts().into_iter().next();
        let bytes_total = plan.as_ref().map(|plan| plan.plain_bytes_estimate);
        let observer = plan.and_then(|plan| plan.observer);
        let phase = "comparing pages";
        env.tell(Event::PhaseBegan { subject: self.folder, phase, bytes_total });
        let (sender, receiver): (SyncSender<Vec<Found>>, Receiver<Vec<Found>>) =
            sync_channel(BATCHES_WAITING);
        let (ended, encoded) = std::thread::scope(|scope| {
            let encoder = scope.spawn(|| encode_all(receiver, history, writer));
            let mut sink = ChangedSink::new(env, state, observer, sender);
            let written = capture.write(0, &mut sink);
            // With the sink the channel ends, and with it the encoder.
            let ended = sink.end(written);
            let panicked = |_| Err(Error::new(Kind::Failed, "the encoding thread panicked"));
            (ended, encoder.join().unwrap_or_else(panicked))
        });
        env.tell(Event::PhaseEnded { phase });
        // Where the encoder failed, the reader could not go on: the first error says why.
        match (ended, encoded) {
            (Ok(Ok(page_count)), Ok(writer)) => {
                let unreadable = history.unreadable.take();
                let unreadable = unreadable.filter(|_| writer.pages() > 0);
                Ok(Ok(Read { page_count, writer, unreadable }))
            }
            (Ok(Err(why)), _) => Ok(Err(why)),
            (_, Err(error)) => Err(error),
            (Err(error), Ok(_)) => Err(error),
        }
    }

    /// Compares what the store gives with what was sent. Pages were proved when they were encoded.
    fn read_back(&self, stored: &Stored) -> Result<()> {
        let store = self.repository.store();
        let mut hasher = blake3::Hasher::new();
        let size = store.head(&stored.object)?.map(|info| info.bytes);
        let read = match size == Some(stored.bytes) {
            true => digest_of(store, &stored.object, stored.bytes, &mut hasher),
            false => Ok(()),
        };
        if read.is_ok() && size == Some(stored.bytes) && hasher.finalize() == stored.digest {
            return Ok(());
        }
        let message = format!(
            "{}, read back from {}, is not what was sent",
            stored.object,
            self.repository.url()
        );
        if let Err(error) = store.delete(&stored.object) {
            self.env.warn(self.folder, &format!("{} is left behind: {error}", stored.object));
        }
        match read {
            Err(error) if error.kind() != Kind::CheckFailed => Err(error.context(message)),
            _ => Err(Error::new(Kind::CheckFailed, message).hint(
                "the storage damages what it is given: check the disk and its cables, then try \
                 again",
            )),
        }
    }
}

/// Takes changed pages, looks up what they were, and writes how they differ.
fn encode_all(
    receiver: Receiver<Vec<Found>>,
    history: &mut History<'_>,
    mut writer: LogWriter,
) -> Result<LogWriter> {
    while let Ok(batch) = receiver.recv() {
        let mut changed = Vec::with_capacity(batch.len());
        for Found { page, hash, hash_before, content } in batch {
            let before = match hash_before {
                Some(hash) => history.before(page, hash)?,
                None => None,
            };
            changed.push(Changed { page, hash, content, before });
        }
        writer.add(&encode(&changed)?)?;
    }
    Ok(writer)
}

/// The checks that the captured state passed. Damage is an error.
fn require_sound(report: &CaptureReport, location: &str) -> Result<Vec<String>> {
    let check = report.check.as_ref();
    let failed = check.filter(|check| check.outcome == CheckOutcome::Failed);
    let damage: Vec<&str> = failed
        .iter()
        .flat_map(|check| &check.damage)
        .chain(&report.damage_seen)
        .take(3)
        .map(String::as_str)
        .collect();
    if failed.is_some() || !damage.is_empty() {
        return Err(Error::new(
            Kind::CheckFailed,
            format!("{location} is damaged: {}", damage.join("; ")),
        )
        .hint("nothing was added to its log, what is stored is untouched: lifeboat restore"));
    }
    Ok(check.map(|check| check.what.clone()).unwrap_or_default())
}
