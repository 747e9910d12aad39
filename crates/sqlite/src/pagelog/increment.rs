//! A run that adds one file to a log: what changed since its end, found by page hashes.
//!
//! The database is read once, as for a backup, in any journal mode, and nothing runs before or
//! after. Where there is nothing to add to, or adding is worse than a new backup, the run says so
//! and stores nothing: whoever asked for it makes a backup then.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use jiff::Timestamp;
use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::{CheckOutcome, Condition, Manifest, Purpose};
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{Capture, CaptureOptions, CaptureReport, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};

use super::chain::{Chain, moment_of};
use super::compare::{ChangedSink, Found, WalLimit};
use super::delta::{Changed, Encoding};
use super::history::{DATABASE, History, PAGE_HASHES, page_hashes};
use super::open::{Looked, OpenLog};
use super::write::{LogWriter, Stored};
use super::{FILES_MAX, journal, log_bytes_max};
use crate::wal_place::WalPlace;

/// Batches of changed pages, of 1 MiB each, that wait for being encoded: a state is held until all
/// pages were read, and not until they are stored.
const BATCHES_WAITING: usize = if cfg!(test) { 2 } else { 24 };

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

/// Why a backup is needed where there is none, or none but of a database that was damaged.
const NO_BASE: &str = "there is no sound backup of it yet";

/// A log that can be added to, and the versions of its pages.
pub(crate) struct Ready<'a> {
    pub(crate) log: OpenLog,
    pub(crate) history: History<'a>,
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
    let known = match repository {
        Some(repository) => {
            repository.folder_of(&request.identity)?.map(|(folder, _)| (repository, folder))
        }
        None => None,
    };
    let found = match &known {
        Some((repository, folder)) => {
            let (entry, _) = repository.source_entry(folder)?;
            ready(env, repository, folder, base_of(&entry))?
        }
        None => Err(NO_BASE.to_owned()),
    };
    let base = match found {
        Ok(ready) => {
            let (name, position) = (ready.log.base.name.clone(), ready.log.position);
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
    let _lock = SourceLock::take(env, request.lock_folder, &record, repository.header().id)?;
    let (entry, _) = repository.source_entry(&folder)?;
    let mut ready = match ready(env, repository, &folder, base_of(&entry))? {
        Ok(ready) => ready,
        Err(why) => return Ok(IncrementOutcome::BackupNeeded(why)),
    };
    let Ready { log, history } = &mut ready;
    let mut outcome = compare(env, (request.source, &request.options), (log, history), None)?;
    if let IncrementOutcome::Added(increment) = &mut outcome {
        increment.elapsed_ms = env.elapsed_ms(begun_ms);
    }
    Ok(outcome)
}

/// The backup whose log is added to: the newest one that can be a base.
pub(crate) fn base_of(entry: &SourceEntry) -> Option<&Manifest> {
    entry.backups.iter().rev().find(|backup| {
        backup.condition != Condition::Damaged
            && backup.purpose != Some(Purpose::BeforeRestore)
            && backup.artifact(PAGE_HASHES).is_some()
            && backup.artifact(DATABASE).is_some()
    })
}

/// The log of that base, if it can be added to; else why not.
pub(crate) fn ready<'a>(
    env: &Env,
    repository: &'a Repository,
    folder: &str,
    base: Option<&Manifest>,
) -> Result<Result<Ready<'a>, String>> {
    let Some(base) = base else { return Ok(Err(NO_BASE.to_owned())) };
    let name = &base.name;
    // Nothing may lie beside sealed backups that tells what is in them, or that others can open.
    let sealed_to =
        base.artifact(DATABASE).and_then(|one| one.sealed.as_ref()).map(|seal| &seal.to);
    let wanted = repository.recipients().map(|recipients| recipients.names());
    if wanted.is_some_and(|wanted| sealed_to.is_none_or(|names| names != wanted)) {
        return Ok(Err(format!("{name} is not sealed as what is stored now")));
    }
    let chain = Chain::of(repository, folder, base)?;
    let (files, log_bytes) = chain.size();
    if chain.gap().is_some() {
        return Ok(Err(format!("a file of the log of {name} is missing")));
    }
    if files >= FILES_MAX {
        return Ok(Err(format!("the log of {name} has {files} files")));
    }
    let base_bytes = base.artifact(DATABASE).map_or(0, |artifact| artifact.stored_bytes);
    if log_bytes > log_bytes_max(base_bytes) {
        return Ok(Err(format!("the log of {name} has grown to {log_bytes} bytes")));
    }
    let opened = match sealed_to.is_some() && repository.keys().is_none() {
        true => ready_by_notes(repository, folder, &chain)?,
        false => ready_by_footers(env, repository, &chain)?,
    };
    let now_ms = env.clock.now().as_millisecond();
    Ok(opened.and_then(|ready| match ready.log.behind_clock(now_ms) {
        Some(why) => Err(format!("{why} of {name}")),
        None => Ok(ready),
    }))
}

/// The same where what is stored can be read.
fn ready_by_footers<'a>(
    env: &Env,
    repository: &'a Repository,
    chain: &Chain<'_>,
) -> Result<Result<Ready<'a>, String>> {
    let (folder, base, name) = (chain.folder, chain.base, &chain.base.name);
    // What is damaged or foreign can be no base, and hinders no new backup.
    let opened = chain.way(chain.end()).and_then(|way| {
        let mark = match way.last() {
            Some((last, _)) if last.is_sealed() => {
                last.mark(repository, &last.label(repository)?)?
            }
            _ => [0; 32],
        };
        let Some(mut state) = page_hashes(env, repository, folder, base)? else {
            return Err(Error::new(Kind::NotCovered, format!("{name} has no page hashes")));
        };
        let history = History::open(repository, folder, base, &mut state, &way)?;
        let taken_ms = base.taken_at.as_millisecond();
        let (held_ms, until_ms) =
            way.last().map_or((taken_ms, taken_ms), |(_, last)| (last.held_ms, last.until_ms));
        let log = OpenLog {
            repository: repository.clone(),
            folder: folder.to_owned(),
            base: base.clone(),
            state,
            depths: history.depths.clone(),
            position: chain.end(),
            link: history.link,
            held_ms,
            until_ms,
            mark,
            wal_place: None,
            journal: None,
        };
        Ok(Ready { log, history })
    });
    match opened {
        Ok(ready) => Ok(Ok(ready)),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            Ok(Err(error.to_string()))
        }
        // The key that is named is another repository's.
        Err(error) if error.kind() == Kind::WrongKey => ready_by_notes(repository, folder, chain),
        Err(error) => Err(error),
    }
}

/// The same on a host without a key: by what it noted. Earlier versions of pages are not there.
fn ready_by_notes<'a>(
    repository: &'a Repository,
    folder: &str,
    chain: &Chain<'_>,
) -> Result<Result<Ready<'a>, String>> {
    let (known, journal) = match journal::open(repository, chain) {
        Ok(Ok(known)) => known,
        Ok(Err(why)) => return Ok(Err(why)),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let until = match chain.at(known.position) {
        Ok(moment) => moment.until,
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            return Ok(Err(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let mut history = History::none(known.state.page_size());
    history.unreadable = Some("what is stored is sealed, and no key is named here".to_owned());
    let log = OpenLog {
        repository: repository.clone(),
        folder: folder.to_owned(),
        base: chain.base.clone(),
        state: known.state,
        depths: known.depths,
        position: known.position,
        link: known.link,
        held_ms: known.held_ms,
        until_ms: until.as_millisecond(),
        mark: known.mark,
        wal_place: None,
        journal: Some(journal),
    };
    Ok(Ok(Ready { log, history }))
}

/// Reads the database once, compares the hash of each page, and adds what differs. With a limit the
/// state that is held for that is let go when the `-wal` passes it: an error.
pub(crate) fn compare(
    env: &Env,
    source: (&dyn Source, &CaptureOptions),
    (log, history): (&mut OpenLog, &mut History<'_>),
    limit: Option<&WalLimit>,
) -> Result<IncrementOutcome> {
    Ok(match look(env, source, (log, history), limit)? {
        Ok(seen) => IncrementOutcome::Added(seen.store(env, log)?),
        Err(why) => IncrementOutcome::BackupNeeded(why),
    })
}

/// The same, without adding it. `Err` within is why a backup is needed.
pub(crate) fn look(
    env: &Env,
    (source, options): (&dyn Source, &CaptureOptions),
    (log, history): (&OpenLog, &mut History<'_>),
    limit: Option<&WalLimit>,
) -> Result<Result<Seen, String>> {
    let (capture, looked) = Looked::around(env, || source.capture(env, options))?;
    let page_size = log.state.page_size();
    let plan = capture.artifacts().into_iter().next();
    if plan.and_then(|plan| plan.block_bytes) != Some(page_size) {
        return Ok(Err("its page size has changed".to_owned()));
    }
    let read = match read(env, capture, (log, looked, limit), history)? {
        Ok(read) => read,
        Err(why) => return Ok(Err(why)),
    };
    let checks = require_sound(&read.report, &log.base.source.location)?;
    env.proceed()?;
    Ok(Ok(Seen { looked, read, checks }))
}

/// What a comparison of all pages led to.
pub(crate) struct Seen {
    pub(crate) looked: Looked,
    read: Read,
    checks: Vec<String>,
}

impl Seen {
    /// Whether it is the state at the end of the log.
    pub(crate) fn is_end_of(&self, log: &OpenLog) -> bool {
        self.read.writer.pages() == 0 && self.read.page_count == log.state.page_count()
    }

    /// Adds it to the log.
    pub(crate) fn store(self, env: &Env, log: &mut OpenLog) -> Result<Increment> {
        let Seen { looked, read, checks } = self;
        log.wal_place = WalPlace::of_facts(&read.report.facts);
        let stored = log.end_file(env, read.writer, read.page_count, looked, 0)?;
        let mut warnings = read.report.warnings;
        warnings.extend(read.unreadable.map(|why| format!("pages are stored whole: {why}")));
        Ok(Increment { checks, warnings, ..Increment::of(log, &stored) })
    }
}

/// What was read of a database, compared.
struct Read {
    page_count: u32,
    writer: LogWriter,
    report: CaptureReport,
    /// Why pages were stored whole, if so.
    unreadable: Option<String>,
}

/// Reads the captured state on this thread, and encodes what changed on another one.
fn read(
    env: &Env,
    mut capture: Box<dyn Capture + '_>,
    (log, looked, limit): (&OpenLog, Looked, Option<&WalLimit>),
    history: &mut History<'_>,
) -> Result<Result<Read, String>> {
    let plan = capture.artifacts().into_iter().next();
    let bytes_total = plan.as_ref().map(|plan| plan.plain_bytes_estimate);
    let observer = plan.and_then(|plan| plan.observer);
    let phase = "comparing pages";
    env.tell(Event::PhaseBegan { subject: &log.folder, phase, bytes_total });
    let (sender, receiver): (SyncSender<Vec<Found>>, Receiver<Vec<Found>>) =
        sync_channel(BATCHES_WAITING);
    let (ended, encoded) = std::thread::scope(|scope| {
        // A store may take its time even to begin: a state is held here.
        let encoder = scope.spawn(|| encode_all(receiver, history, log.begin_file(looked)?));
        let mut sink = ChangedSink::new(env, (&log.state, limit), observer, sender);
        let written = capture.write(0, &mut sink);
        // With the sink the channel ends, and with it the encoder.
        let ended = sink.end(written).and_then(|ended| match ended {
            Ok(page_count) => {
                env.crash.pass("increment.streamed")?;
                Ok(Ok((page_count, capture.finish()?)))
            }
            Err(why) => Ok(Err(why)),
        });
        let panicked = |_| Err(Error::new(Kind::Failed, "the encoding thread panicked"));
        (ended, encoder.join().unwrap_or_else(panicked))
    });
    env.tell(Event::PhaseEnded { phase });
    // Where the encoder failed, the reader could not go on: the first error says why.
    match (ended, encoded) {
        (Ok(Ok((page_count, report))), Ok(writer)) => {
            let unreadable = history.unreadable.take();
            let unreadable = unreadable.filter(|_| writer.pages() > 0);
            Ok(Ok(Read { page_count, writer, report, unreadable }))
        }
        (Ok(Err(why)), _) => Ok(Err(why)),
        (_, Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error),
    }
}

impl Increment {
    /// The end of a log, to which nothing was added.
    pub(crate) fn standing(log: &OpenLog) -> Self {
        let (pages, page_size) = (log.state.page_count(), log.state.page_size());
        Increment {
            folder: log.folder.clone(),
            base: log.base.name.clone(),
            position: log.position,
            object: String::new(),
            held: Timestamp::from_millisecond(log.held_ms).unwrap_or(log.base.taken_at),
            pages: (0, pages),
            stored_bytes: 0,
            plain_bytes: u64::from(pages) * u64::from(page_size),
            checks: Vec::new(),
            warnings: Vec::new(),
            elapsed_ms: 0,
        }
    }

    /// What was just added to a log.
    pub(crate) fn of(log: &OpenLog, stored: &Stored) -> Self {
        let (pages, page_size) = (stored.footer.page_count.1, stored.footer.page_size);
        Increment {
            folder: log.folder.clone(),
            base: log.base.name.clone(),
            position: log.position,
            object: stored.object.to_string(),
            held: moment_of(&stored.footer).held,
            pages: (stored.footer.pages, pages),
            stored_bytes: stored.bytes,
            plain_bytes: u64::from(pages) * u64::from(page_size),
            checks: Vec::new(),
            warnings: Vec::new(),
            elapsed_ms: 0,
        }
    }
}

/// Takes changed pages, looks up what they were, and writes how they differ.
fn encode_all(
    receiver: Receiver<Vec<Found>>,
    history: &mut History<'_>,
    mut writer: LogWriter,
) -> Result<LogWriter> {
    // As long as there are few, they are kept until all are there.
    let mut changed: Vec<Changed<'_>> = Vec::new();
    let mut encoding = Encoding::CAREFUL;
    loop {
        let received = receiver.recv();
        let is_last = received.is_err();
        for Found { page, hash, hash_before, content } in received.unwrap_or_default() {
            let before = match hash_before {
                Some(hash) => history.before(page, hash)?,
                None => None,
            };
            changed.push(Changed::read((page, hash), content, before));
        }
        if writer.pages() == 0 {
            let page_bytes = changed.first().map_or(0, |page| page.content.len());
            encoding = Encoding::CAREFUL.of_file(changed.len(), page_bytes);
        }
        if is_last || !encoding.is_whole() {
            writer.add(&encoding.encode(&changed)?)?;
            changed.clear();
        }
        if is_last {
            return Ok(writer);
        }
    }
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
