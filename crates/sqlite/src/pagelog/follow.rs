//! Following a database while its application writes: new commits are in the repository at once.
//!
//! In WAL mode what is new are the frames behind the place that was read last, up to the mark of a
//! read transaction, proved by their chain of checksums. No connection of ours ever writes, makes
//! a checkpoint or changes the journal mode. Where the `-wal` was begun anew behind our back, what
//! it held before is read as long as it is there and can be proved to be all; else, or where there
//! is no `-wal`, all pages are compared by their hashes. For a large database that costs more than
//! a few frames, so a read transaction stays open between two looks, which keeps the `-wal` from
//! beginning anew; it is let go for a while when the `-wal` has grown too large, or time is over.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::Result;
use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::marks::MarkKind;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{CaptureOptions, Source};
use lifeboat_core::store::ObjectName;

use super::bounds::{FollowBounds, Pace};
use super::guard::Guard;
use super::history::History;
use super::increment::{Increment, IncrementOutcome, Ready, base_of, compare, look, ready};
use super::known::{Known, KnownFrames, News, is_wal, known_at, known_of, limit_of};
use super::open::{Looked, OpenLog};
use super::outrun::is_outrun;
use super::rush::Rush;
use super::stamp::{FileStamp, Stamp};
use super::{FILES_MAX, history, log_bytes_max};
use crate::ffi::{self, Mark};
use crate::held::{self, HeldFile};
use crate::holders::side_file;
use crate::lock_proof::LockProof;
use crate::snapshot::behind;
use crate::snapshot::wal::{self, WalHeader};
use crate::snapshot::{Attempt, Pinned, missing, pin};
use crate::source::SqliteSource;

/// For so long after the `-wal` was let go its beginning anew is waited for.
const HURRIED_MS: u64 = 2_000;
/// How often a header is looked for that is about to be written.
const HEADER_LOOKS: usize = 20;
/// How much larger than else a log may grow while its writer is in a hurry.
const HURRIED_TIMES: u64 = 4;
/// For so long at least it is measured how fast a `-wal` grows, and where it grew by much.
const MEASURED_MS: u64 = 250;
const MEASURED_MS_MIN: u64 = 50;
/// A `-wal` that grew by so much since a look is looked at again.
const GROWN_BYTES: u64 = 2 << 20;

/// What is followed, and how.
pub struct FollowRequest<'a> {
    /// The database.
    pub path: PathBuf,
    /// What makes it the same source as last time.
    pub identity: SourceIdentity,
    /// Bounds of a capture.
    pub options: CaptureOptions,
    /// Bounds of following.
    pub bounds: FollowBounds,
    /// Where locks are kept, if anywhere.
    pub lock_folder: Option<&'a Path>,
    /// Where pages are put aside that wait to be stored and are too many for memory, if anywhere.
    pub aside_folder: Option<PathBuf>,
}

/// What a look at a database led to.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing is new.
    Unchanged,
    /// A state was added to the log.
    Added(Increment),
    /// The log cannot be added to any more: a backup is needed, for this reason.
    BackupNeeded(String),
}

/// A database that is followed into the log of its newest backup.
pub struct Follower {
    source: SqliteSource,
    pub(super) path: PathBuf,
    options: CaptureOptions,
    pub(super) bounds: FollowBounds,
    pub(super) aside_folder: Option<PathBuf>,
    pub(super) log: OpenLog,
    /// How many files its log has, and their size in bytes.
    log_size: (usize, u64),
    /// The manifests of its source when it began.
    manifests: BTreeSet<String>,
    pub(super) known: Option<Known>,
    pub(super) pin: Option<Pin>,
    /// How large the `-wal` was at the last look, in bytes.
    wal_bytes: u64,
    /// The same where it was measured last how fast that grows, and when that was.
    pub(super) measured: (u64, u64),
    /// Its writer is in a hurry.
    is_fast: bool,
    /// The same, and it is followed without holding a state.
    pub(super) rush: Option<Rush>,
    /// Its pages could not be compared while a state was held.
    is_outrun: bool,
    /// Until then states are held, however fast it is, by the clock that never goes back.
    pub(super) calm_until_ms: u64,
    /// One descriptor for all looks: each that is closed while a state is held would be kept.
    pub(super) database: Option<Arc<HeldFile>>,
    /// How the files stood at the last look.
    stamp: Option<Stamp>,
    /// They stood as before.
    is_at_rest: bool,
    /// How the database file stood before the last look after which all of the `-wal` was known.
    /// As long as it stands so, nothing was copied there, and the `-wal` has all that came since.
    settled: Option<FileStamp>,
    /// Until then the `-wal` is likely to begin anew, by the clock that never goes back.
    hurried_until_ms: u64,
    /// When all pages may be compared again, by the clock that never goes back.
    pub(super) compare_after_ms: u64,
    /// How often that is, where nothing else shows what changed; else 0.
    compare_every_ms: u64,
    _lock: SourceLock,
}

/// A state that is held between two looks.
pub(super) struct Pin {
    // Dropped before the file: a descriptor is closed with the last connection.
    _pinned: Box<Pinned>,
    proof: LockProof,
    since_ms: u64,
}

impl Follower {
    /// Opens the log of the newest backup and adds what changed since its end. `Err` within is why
    /// a backup is needed first.
    pub fn begin(
        env: &Env,
        repository: &Repository,
        request: FollowRequest<'_>,
    ) -> Result<Result<(Self, Increment), String>> {
        let source = SqliteSource::new(request.path.clone());
        source.inspect()?;
        let path =
            fs::canonicalize(&request.path).map_err(|error| missing(&request.path, error))?;
        let (folder, record) = repository.claim(env, &request.identity)?;
        let what = format!("another run that adds to the log of `{}`", record.name);
        let file = format!("log-{}", record.id);
        let lock = SourceLock::named(env, request.lock_folder, &file, &record.name, &what)?;
        let manifests = manifests(repository, &folder)?;
        // Of its own source alone: many that are followed begin at once.
        let (entry, _) = repository.source_entry(&folder)?;
        let begun = ready(env, repository, &folder, base_of(&entry))?;
        drop(entry);
        let Ready { mut log, mut history } = match begun {
            Ok(ready) => ready,
            Err(why) => return Ok(Err(why)),
        };
        let options = CaptureOptions { check: CheckLevel::None, ..request.options };
        let file = held::open(&path).map_err(|error| missing(&path, error))?;
        history = history.with_database(file, log.depths.clone());
        // Before the pages are compared: what comes after this place was compared or is new.
        let (stamp, looked) = Looked::around(env, || Stamp::of(&path))?;
        let (known, held) = known_of(&path)?;
        let settled = stamp.settled(looked.held_ms, known.is_some());
        let bounds = request.bounds;
        let limit = limit_of(&path, known.as_ref(), bounds.held_wal_bytes_max());
        let is_held = held.is_some();
        let guard = held.map(|held| Guard::begin(held, Arc::clone(&limit))).transpose()?;
        let begun_ms = env.clock.monotonic_ms();
        let limit = is_held.then_some(&*limit);
        let compared = compare(env, (&source, &options), (&mut log, &mut history), limit);
        // Its first look compares them otherwise.
        let is_outrun = is_outrun(&compared, limit) && bounds.rush_from_bytes < u64::MAX;
        let compared = match is_outrun {
            true => IncrementOutcome::Added(Increment::standing(&log)),
            false => compared?,
        };
        let compare_every_ms = match is_held {
            true => 0,
            false => env.elapsed_ms(begun_ms).saturating_mul(1 + bounds.compare_pause_rollback),
        };
        let increment = match compared {
            IncrementOutcome::Added(increment) => increment,
            IncrementOutcome::BackupNeeded(why) => return Ok(Err(why)),
        };
        drop(guard);
        let follower = Follower {
            source,
            path,
            options,
            bounds,
            aside_folder: request.aside_folder,
            log_size: super::chain::Chain::of(repository, &folder, &log.base)?.size(),
            log,
            manifests,
            known: known.filter(|_| !is_outrun),
            pin: None,
            wal_bytes: 0,
            measured: (0, 0),
            is_fast: false,
            rush: None,
            is_outrun,
            calm_until_ms: 0,
            database: None,
            stamp: settled.and(stamp.if_old(looked.held_ms)).filter(|_| !is_outrun),
            is_at_rest: false,
            settled: settled.filter(|_| !is_outrun),
            hurried_until_ms: 0,
            compare_after_ms: 0,
            compare_every_ms,
            _lock: lock,
        };
        Ok(Ok((follower, increment)))
    }

    /// The folder of its source in the repository.
    pub fn folder(&self) -> &str {
        &self.log.folder
    }

    /// The database, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the last look found that nothing was written since the one before, and all is
    /// stored.
    pub fn is_at_rest(&self) -> bool {
        self.is_at_rest
    }

    /// It is at rest still, as somebody else saw at that time of the clock that never goes back:
    /// from then on it counts how fast its `-wal` grows.
    pub fn rests_until(&mut self, now_ms: u64) {
        self.measured.1 = now_ms;
    }

    /// How soon it is worth to look again: the sooner it is seen that the `-wal` began anew, the
    /// more pages are still as they were before.
    pub fn pace(&self, env: &Env) -> Pace {
        let is_hurried = env.clock.monotonic_ms() < self.hurried_until_ms;
        match (self.rush.is_some(), self.pin.is_some()) {
            (true, _) => Pace::Hurried,
            (false, true) => Pace::Watched,
            (false, false) if self.is_fast || is_hurried => Pace::Hurried,
            // The sooner it is seen that somebody writes, the less has to be compared.
            (false, false) if self.is_large() && !self.is_compared() => Pace::Watched,
            _ => Pace::Calm,
        }
    }

    fn is_large(&self) -> bool {
        let bytes = u64::from(self.log.state.page_count()) * u64::from(self.log.state.page_size());
        bytes >= self.bounds.pinned_from_bytes
    }

    /// How much may be lost when the host is, in milliseconds: the time between two looks. Where
    /// pages must be compared, that is longer the longer it takes.
    pub fn rpo_ms(&self) -> u64 {
        self.bounds.store_every_ms.max(self.compare_every_ms)
    }

    /// Whether pages must be compared, because the database is not in WAL mode.
    pub fn is_compared(&self) -> bool {
        self.compare_every_ms > 0
    }

    /// Whether its writer is in a hurry, and no state of it is held.
    pub fn is_hurried(&self) -> bool {
        self.rush.is_some()
    }

    /// Whether it knows of changes that are not stored yet.
    pub fn is_behind(&self) -> bool {
        self.rush.as_ref().is_some_and(Rush::is_behind)
    }

    /// Whether much was written since the last look, or the `-wal` was begun: a state that is held
    /// then is in the way, and pages are not long what they were.
    pub fn has_grown(&self) -> bool {
        let Ok(Some(file)) = wal::open(&side_file(&self.path, "-wal")) else { return false };
        let Some(known) = &self.known else {
            return file.metadata().is_ok_and(|wal| wal.len() > 0);
        };
        let frames = GROWN_BYTES / (u64::from(known.header.page_size) + 24);
        let frame = known.place.frame.saturating_add(frames as u32);
        let header = || wal::header(&file).ok().flatten();
        let is_begun_anew = || header().is_some_and(|header| header != known.header);
        wal::has_frame(&file, &known.header, frame) || self.pin.is_none() && is_begun_anew()
    }

    /// Whether the backup whose log it adds to is still there, and none was made since it began.
    pub fn is_current(&self) -> Result<bool> {
        let (repository, folder) = (&self.log.repository, &self.log.folder);
        let tombstone = MarkKind::Tombstone.object(folder, &self.log.base.name);
        let is_removed = repository.store().head(&ObjectName::new(tombstone)?)?.is_some();
        let now = manifests(repository, folder)?;
        let is_there = now.contains(&format!("{}.json", self.log.base.name));
        Ok(is_there && !is_removed && now.is_subset(&self.manifests))
    }

    /// Looks at the database once. After an error it has to be begun anew.
    pub fn step(&mut self, env: &Env) -> Result<Step> {
        self.is_at_rest = false;
        if let Some(rush) = self.rush.take() {
            return self.rush(env, rush);
        }
        let (stamp, looked) = Looked::around(env, || Stamp::of(&self.path))?;
        if self.stamp == Some(stamp) {
            // A state that nobody needs is not held.
            (self.pin, self.database) = (None, None);
            self.is_at_rest = true;
            self.measured = (self.wal_bytes, env.clock.monotonic_ms());
            return self.beat(env, looked);
        }
        let (attempt, looked) = Looked::around(env, || pin(&self.path))?;
        let pinned = match attempt {
            Attempt::Pinned(pinned) if is_wal(&pinned) => pinned,
            _ => return self.compare_all(env, Some((stamp, looked.held_ms)), None),
        };
        let Some(mark) = ffi::snapshot_mark(pinned.connection()) else {
            return match self.is_untouched()? {
                true => self.hold_unwritten(env, (stamp, looked), pinned),
                false => self.compare_all(env, Some((stamp, looked.held_ms)), Some(pinned)),
            };
        };
        if self.database.as_ref().is_none_or(|file| file.identity() != pinned.identity()) {
            let opened = held::open(&self.path).map_err(|error| missing(&self.path, error))?;
            self.database = Some(Arc::new(opened));
        }
        self.know_beginning(env, &mark)?;
        let is_outrun = self.is_outrun || self.is_outrun_by(env, &mark)?;
        let is_worth = self.is_worth(env, &mark);
        if (self.is_fast || self.is_outrun) && self.begin_rush(env, looked, self.is_outrun)? {
            (self.pin, self.is_outrun) = (None, false);
            return Ok(Step::Unchanged);
        }
        let mut pinned = Some(pinned);
        let step = match self.news(env, &mark)? {
            Some(news) => {
                let is_missed = env.clock.monotonic_ms() < self.calm_until_ms;
                if !is_worth && !is_missed && self.has_all(&news.between, mark.page_count) {
                    // What is read outlasts it: the sooner the `-wal` begins anew, the better.
                    (self.pin, pinned) = (None, None);
                }
                let held = (self.pin.take(), pinned);
                let (step, held) = self.add_news_guarded(env, looked, news, held)?;
                (self.pin, pinned) = held.unwrap_or_default();
                step
            }
            None => None,
        };
        let Some(step) = step else {
            if is_outrun && self.begin_rush(env, looked, true)? {
                self.pin = None;
                return Ok(Step::Unchanged);
            }
            let pinned = match pinned {
                Some(pinned) => Some(pinned),
                None => match pin(&self.path)? {
                    Attempt::Pinned(pinned) => Some(pinned),
                    _ => None,
                },
            };
            return self.compare_all(env, Some((stamp, looked.held_ms)), pinned);
        };
        self.stamp = stamp.if_old(looked.held_ms);
        self.settled = stamp.settled(looked.held_ms, true);
        self.keep_pin(pinned.filter(|_| is_worth), env);
        match step {
            Step::Unchanged => self.beat(env, looked),
            step => Ok(step),
        }
    }

    /// Somebody opened the database since all was known, and of its new `-wal` nothing is committed
    /// yet: held from here on, nothing of what comes is missed.
    fn hold_unwritten(
        &mut self,
        env: &Env,
        (stamp, looked): (Stamp, Looked),
        pinned: Box<Pinned>,
    ) -> Result<Step> {
        self.known = None;
        let page_count = self.log.state.page_count();
        let mark = Mark { frame_max: 0, page_count, checksum: (0, 0), salts: [0; 8] };
        let is_worth = self.is_worth(env, &mark);
        self.stamp = stamp.if_old(looked.held_ms);
        self.keep_pin(Some(pinned).filter(|_| is_worth), env);
        self.beat(env, looked)
    }

    /// What is new at that mark, where it is proved that nothing else is.
    pub(super) fn news(&self, env: &Env, mark: &Mark) -> Result<Option<News>> {
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(None) };
        if let Some(known) = &self.known
            && let Some(end) = behind::ended(&file, &known.header, known.place, mark)?
        {
            let (header, next) = (known.header, Some(mark.salts));
            let between = behind::between(&file, &header, known.place, &end)?;
            return Ok(between.map(|between| {
                let between = between.outlasting(&header, known.place);
                News { file, header, mark: end, between, next }
            }));
        }
        let Some(header) = header_of(env, &file, mark)? else { return Ok(None) };
        if header.salts() != mark.salts || header.page_size != self.log.state.page_size() {
            return Ok(None);
        }
        let from = match &self.known {
            // It was made since, and nothing of it was copied to the database file.
            None if self.is_untouched()? => header.start(),
            None => return Ok(None),
            Some(known) if header == known.header && mark.frame_max >= known.place.frame => {
                known.place
            }
            Some(known) if header == known.header => return Ok(None),
            // That it was begun anew was seen.
            Some(known) if known.next == Some(mark.salts) => header.start(),
            // Begun anew while we held the state before: that is possible only if the database file
            // was that very state, and only once.
            Some(_) if self.pin.as_ref().is_some_and(|pin| pin.proof.is_held()) => header.start(),
            // The same, as it has all that was known, and nothing was copied there since.
            Some(known) if header.is_next_of(&known.header) && self.is_untouched()? => {
                header.start()
            }
            // Else what it held behind our place must still be there, and be all.
            Some(known) if mark.frame_max > known.place.frame => return Ok(None),
            Some(known) => {
                let tail = behind::tail(&file, &known.header, known.place, &header)?;
                let new = behind::between(&file, &header, header.start(), mark)?;
                let both = tail.zip(new).map(|(tail, new)| tail.and_then(new));
                let news = |between| News { file, header, mark: *mark, between, next: None };
                return Ok(both.map(news));
            }
        };
        let between = behind::between(&file, &header, from, mark)?;
        Ok(between.map(|between| {
            let between = between.outlasting(&header, from);
            News { file, header, mark: *mark, between, next: None }
        }))
    }

    /// Of a `-wal` that was begun since all was known, while its state of that mark is held: that
    /// all of it is new, where nothing was copied to the database file so far. Soon after something
    /// may be, and that it was nothing cannot be seen any more.
    fn know_beginning(&mut self, env: &Env, mark: &Mark) -> Result<()> {
        if mark.frame_max == 0 || !self.is_untouched()? {
            return Ok(());
        }
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(()) };
        let Some(header) = header_of(env, &file, mark)? else { return Ok(()) };
        let is_next = self.known.as_ref().is_none_or(|known| header.is_next_of(&known.header));
        if is_next && header.salts() == mark.salts && header.page_size == self.log.state.page_size()
        {
            let known = self.known.take();
            let frames = known.map_or_else(KnownFrames::none, |known| known.frames.older());
            self.known = Some(Known { header, place: header.start(), next: None, frames });
        }
        Ok(())
    }

    /// Whether the database file stands as it did when all was known.
    fn is_untouched(&self) -> Result<bool> {
        let Some(settled) = self.settled else { return Ok(false) };
        Ok(Stamp::of(&self.path)?.database() == settled)
    }

    /// Where pages were before that.
    pub(super) fn take_known_frames(&mut self, news: &News) -> KnownFrames {
        match self.known.take() {
            Some(known) if known.header == news.header => known.frames,
            Some(known) => known.frames.older(),
            None => KnownFrames::none(),
        }
    }

    /// Whether it is worth to hold the state of that mark, for a bounded time and size.
    fn is_worth(&mut self, env: &Env, mark: &Mark) -> bool {
        let page_size = u64::from(self.log.state.page_size());
        let bytes = u64::from(mark.page_count) * page_size;
        let wal_bytes = u64::from(mark.frame_max) * (page_size + 24);
        // By the next look it will have grown as much again.
        let grown_bytes = wal_bytes.saturating_sub(self.wal_bytes);
        let now_ms = env.clock.monotonic_ms();
        // Where it began anew too often to be seen, it is held for as long as may be.
        let bytes_max = match now_ms < self.calm_until_ms {
            true => self.bounds.pinned_wal_bytes_max.max(self.bounds.compared_wal_bytes_max),
            false => self.bounds.pinned_wal_bytes_max,
        };
        self.wal_bytes = wal_bytes;
        self.measure(now_ms);
        let since_ms = self.pin.as_ref().map_or(now_ms, |pin| pin.since_ms);
        // Without shared memory of its own SQLite holds a state in another way.
        let is_worth = bytes >= self.bounds.pinned_from_bytes
            && ffi::may_write(&side_file(&self.path, "-shm"))
            && wal_bytes + grown_bytes <= bytes_max
            && now_ms - since_ms <= self.bounds.pinned_ms_max;
        if !is_worth && self.pin.is_some() {
            self.hurried_until_ms = now_ms + HURRIED_MS;
        }
        is_worth
    }

    /// Measures how fast the `-wal` grows: a single commit is no hurry, however soon it is seen.
    fn measure(&mut self, now_ms: u64) {
        let (bytes, since_ms) = self.measured;
        let passed_ms = now_ms.saturating_sub(since_ms);
        let grown_bytes = self.wal_bytes.saturating_sub(bytes);
        let measured_ms = if grown_bytes < GROWN_BYTES { MEASURED_MS } else { MEASURED_MS_MIN };
        if passed_ms < measured_ms && self.bounds.rush_from_bytes > 0 {
            return;
        }
        self.is_fast = grown_bytes.saturating_mul(1_000) / passed_ms.max(1)
            > self.bounds.rush_from_bytes
            && now_ms >= self.calm_until_ms;
        self.measured = (self.wal_bytes, now_ms);
    }

    /// Holds the state that was read last, if one is given; another is let go.
    fn keep_pin(&mut self, pinned: Option<Box<Pinned>>, env: &Env) {
        let now_ms = env.clock.monotonic_ms();
        let since_ms = self.pin.as_ref().map_or(now_ms, |pin| pin.since_ms);
        // The new one is there before the old one goes: there is no moment between them.
        self.pin = pinned.map(|pinned| Pin {
            proof: LockProof::begin(&self.path),
            _pinned: pinned,
            since_ms,
        });
    }

    /// Compares all pages. In rollback mode that keeps writers waiting, and everywhere it costs: so
    /// not again before a multiple of the time that it took. `stamp` is how the files stood before
    /// a moment after which the state was taken hold of.
    pub(super) fn compare_all(
        &mut self,
        env: &Env,
        stamp: Option<(Stamp, i64)>,
        pinned: Option<Box<Pinned>>,
    ) -> Result<Step> {
        let begun_ms = env.clock.monotonic_ms();
        if begun_ms < self.compare_after_ms {
            return Ok(Step::Unchanged);
        }
        let is_held = pinned.is_some();
        let pause = match is_held {
            true => self.bounds.compare_pause_wal,
            false => self.bounds.compare_pause_rollback,
        };
        (self.pin, self.database) = (None, None);
        self.known = None;
        let known = pinned.as_ref().map(|held| known_at(&self.path, held)).transpose()?.flatten();
        let bytes_max = match begun_ms < self.calm_until_ms {
            true => self.bounds.compared_wal_bytes_max,
            false => self.bounds.held_wal_bytes_max(),
        };
        let limit = limit_of(&self.path, known.as_ref(), bytes_max);
        let guard = pinned.map(|pinned| Guard::begin(pinned, Arc::clone(&limit))).transpose()?;
        let file = held::open(&self.path).map_err(|error| missing(&self.path, error))?;
        let versions = History::none(self.log.state.page_size());
        let mut versions = versions.with_database(file, self.log.depths.clone());
        self.settled = None;
        let source = (&self.source as &dyn Source, &self.options);
        let due_ms = self.beat_ms();
        let limit = is_held.then_some(&*limit);
        let log = &self.log;
        let looked = look(env, source, (log, &mut versions), limit);
        if is_outrun(&looked, limit) {
            drop(guard);
            return match self.outrun(env)? {
                true => Ok(Step::Unchanged),
                false => looked.map(|_| Step::Unchanged),
            };
        }
        let log = &mut self.log;
        let outcome = match looked? {
            // One that is opened and closed at each use is compared each time: no file for nothing.
            Ok(seen) if seen.is_end_of(log) && seen.looked.held_ms < due_ms => Ok(None),
            Ok(seen) => Ok(Some(seen.store(env, log)?)),
            Err(why) => Err(why),
        };
        self.known = known;
        // Held from here on, the `-wal` does not begin anew right after it was made up for.
        if let Some(pinned) = guard.and_then(Guard::end) {
            let mark = ffi::snapshot_mark(pinned.connection());
            if let Some(mark) = mark.filter(|_| self.known.is_some()) {
                let is_worth = self.is_worth(env, &mark);
                self.keep_pin(Some(pinned).filter(|_| is_worth), env);
            }
        }
        self.stamp = stamp.and_then(|(stamp, held_ms)| stamp.if_old(held_ms));
        let is_known = self.known.is_some();
        self.settled =
            stamp.filter(|_| is_held).and_then(|(stamp, held_ms)| stamp.settled(held_ms, is_known));
        let took_ms = env.elapsed_ms(begun_ms);
        let pause_ms = took_ms.saturating_mul(pause);
        self.compare_every_ms = if is_held { 0 } else { took_ms.saturating_add(pause_ms) };
        self.compare_after_ms = env.clock.monotonic_ms().saturating_add(pause_ms);
        Ok(match outcome {
            Ok(Some(increment)) => {
                self.grow(increment.stored_bytes);
                self.added(increment)
            }
            Ok(None) => Step::Unchanged,
            Err(why) => Step::BackupNeeded(why),
        })
    }

    /// When it is to be written down that nothing changed.
    fn beat_ms(&self) -> i64 {
        self.log.held_ms.saturating_add_unsigned(self.bounds.heartbeat_ms)
    }

    /// Writes down that nothing changed, now and then.
    pub(super) fn beat(&mut self, env: &Env, looked: Looked) -> Result<Step> {
        if looked.held_ms < self.beat_ms() {
            return Ok(Step::Unchanged);
        }
        let (writer, page_count) = (self.log.begin_file(looked)?, self.log.state.page_count());
        self.log.wal_place = self.known.as_ref().map(Known::stored_place);
        let stored = self.log.end_file(env, writer, page_count, looked, 0)?;
        self.grow(stored.bytes);
        Ok(self.added(Increment::of(&self.log, &stored)))
    }

    /// Its log has one file more.
    pub(super) fn grow(&mut self, bytes: u64) {
        self.log_size = (self.log_size.0 + 1, self.log_size.1 + bytes);
    }

    pub(super) fn added(&self, increment: Increment) -> Step {
        let base = self.log.base.artifact(history::DATABASE);
        let base_bytes = base.map_or(0, |artifact| artifact.stored_bytes);
        let (name, (files, bytes)) = (&self.log.base.name, self.log_size);
        if let Some(why) = self.log.behind_clock(increment.held.as_millisecond()) {
            return Step::BackupNeeded(format!("{why} of {name}"));
        }
        // A backup holds a state for as long as it reads: it waits for a calmer writer, up to a
        // bound.
        let times = if self.is_fast { HURRIED_TIMES } else { 1 };
        if bytes > log_bytes_max(base_bytes).saturating_mul(times) || files >= FILES_MAX {
            let why = format!("the log of {name} has grown to {bytes} bytes in {files} files");
            return Step::BackupNeeded(why);
        }
        Step::Added(increment)
    }
}

/// The header of a log. While it is begun anew, SQLite's mark is a moment ahead of the file.
fn header_of(env: &Env, file: &fs::File, mark: &Mark) -> Result<Option<WalHeader>> {
    for _ in 0..HEADER_LOOKS {
        let header = wal::header(file)?;
        let is_it = header.is_some_and(|header| header.salts() == mark.salts);
        if is_it || mark.frame_max > 0 {
            return Ok(header);
        }
        env.pause_ms(1)?;
    }
    wal::header(file)
}

/// The files of a source's folder that are manifests by their names.
fn manifests(repository: &Repository, folder: &str) -> Result<BTreeSet<String>> {
    let objects = repository.store().list(Some(folder))?;
    let names = objects.iter().filter_map(|object| {
        let file = object.name.as_str().strip_prefix(folder)?.strip_prefix('/')?;
        (file.ends_with(".json") && !file.contains('/')).then(|| file.to_owned())
    });
    Ok(names.collect())
}
