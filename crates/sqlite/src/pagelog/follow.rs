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
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::CheckLevel;
use lifeboat_core::marks::MarkKind;
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{CaptureOptions, Source as _};
use lifeboat_core::store::ObjectName;
use lifeboat_core::{Error, Kind, Result};

use super::delta::{Before, Changed, encode};
use super::history::History;
use super::increment::{Increment, IncrementOutcome, Ready, base_of, compare, ready};
use super::open::{Looked, OpenLog};
use super::{FILES_MAX, history, log_bytes_max};
use crate::ffi::{self, Mark};
use crate::held::{self, HeldFile};
use crate::holders::side_file;
use crate::lock_proof::LockProof;
use crate::snapshot::frames::{Keep, PageMap};
use crate::snapshot::wal::{self, Between, Place, WalHeader};
use crate::snapshot::{Attempt, Pinned, missing, pin};
use crate::source::SqliteSource;

/// Pages that are encoded together.
const BATCH_PAGES: usize = 256;
/// For so long after the `-wal` was let go its beginning anew is waited for.
const HURRIED_MS: u64 = 2_000;
/// A file that was written so short a time ago may have been written again without a newer time.
const YOUNG_MS: i64 = 1_000;

/// The bounds of a follower.
#[derive(Clone, Copy, Debug)]
pub struct FollowBounds {
    /// How large the `-wal` may be while we keep it from beginning anew, in bytes.
    pub pinned_wal_bytes_max: u64,
    /// How long we keep it from beginning anew, in milliseconds.
    pub pinned_ms_max: u64,
    /// Databases that are smaller are compared instead of being kept from it, in bytes.
    pub pinned_from_bytes: u64,
    /// After so long without a change, that there was none is written down, in milliseconds.
    pub heartbeat_ms: u64,
    /// After all pages were compared, so many times as long as that took they are not again. In
    /// WAL mode, where nobody waits for it.
    pub compare_pause_wal: u64,
    /// The same where writers wait meanwhile.
    pub compare_pause_rollback: u64,
}

impl Default for FollowBounds {
    fn default() -> Self {
        FollowBounds {
            pinned_wal_bytes_max: 64 << 20,
            pinned_ms_max: 10 * 60_000,
            pinned_from_bytes: 32 << 20,
            heartbeat_ms: 60_000,
            compare_pause_wal: 3,
            compare_pause_rollback: 20,
        }
    }
}

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
    path: PathBuf,
    options: CaptureOptions,
    bounds: FollowBounds,
    log: OpenLog,
    /// How many files its log has, and their size in bytes.
    log_size: (usize, u64),
    /// The manifests of its source when it began.
    manifests: BTreeSet<String>,
    known: Option<Known>,
    pin: Option<Pin>,
    /// How large the `-wal` was at the last look, in bytes, and when that was.
    wal_bytes: u64,
    looked_ms: u64,
    /// It grows by more than it may become within a second.
    is_fast: bool,
    /// One descriptor for all looks: each that is closed while a state is held would be kept.
    database: Option<HeldFile>,
    /// How the files stood at the last look.
    stamp: Option<Stamp>,
    /// Until then the `-wal` is likely to begin anew, by the clock that never goes back.
    hurried_until_ms: u64,
    /// When all pages may be compared again, by the clock that never goes back.
    compare_after_ms: u64,
    _lock: SourceLock,
}

/// How far a `-wal` was read.
struct Known {
    header: WalHeader,
    place: Place,
    /// The last frame of each page up to there, as far as it was read.
    frames: PageMap,
}

/// A state that is held between two looks.
struct Pin {
    // Dropped before the file: a descriptor is closed with the last connection.
    _pinned: Box<Pinned>,
    proof: LockProof,
    since_ms: u64,
}

/// How the files of a database stand: equal where nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    database: (u64, u64, u64, i64, i64),
    wal: Option<(u64, u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let of = |metadata: fs::Metadata| {
            let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.size());
            (device, inode, size, metadata.mtime(), metadata.mtime_nsec())
        };
        let database = fs::metadata(path).map(of).map_err(|error| missing(path, error))?;
        let wal = fs::metadata(side_file(path, "-wal")).map(of).ok();
        Ok(Stamp { database, wal })
    }

    /// Whether something may have been written within the same tick of the file system's clock.
    fn is_young(&self, now_ms: i64) -> bool {
        let written = [Some(self.database), self.wal].into_iter().flatten();
        written.map(|(.., s, ns)| s * 1_000 + ns / 1_000_000).any(|ms| ms >= now_ms - YOUNG_MS)
    }
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
        let catalog = repository.catalog()?;
        let base = base_of(&catalog, &record);
        let Ready { mut log, mut history } = match ready(env, repository, &folder, base)? {
            Ok(ready) => ready,
            Err(why) => return Ok(Err(why)),
        };
        let options = CaptureOptions { check: CheckLevel::None, ..request.options };
        let file = held::open(&path).map_err(|error| missing(&path, error))?;
        history = history.with_database(file, log.depths.clone());
        // Before the pages are compared: what comes after this place was compared or is new.
        let (known, held) = known_of(&path)?;
        let increment = match compare(env, &source, &options, &mut log, &mut history)? {
            IncrementOutcome::Added(increment) => increment,
            IncrementOutcome::BackupNeeded(why) => return Ok(Err(why)),
        };
        drop(held);
        let follower = Follower {
            source,
            path,
            options,
            bounds: request.bounds,
            log_size: super::chain::Chain::of(repository, &folder, &log.base)?.size(),
            log,
            manifests,
            known,
            pin: None,
            wal_bytes: 0,
            looked_ms: 0,
            is_fast: false,
            database: None,
            stamp: None,
            hurried_until_ms: 0,
            compare_after_ms: 0,
            _lock: lock,
        };
        Ok(Ok((follower, increment)))
    }

    /// The folder of its source in the repository.
    pub fn folder(&self) -> &str {
        &self.log.folder
    }

    /// Whether it is worth to look again soon: the sooner it is seen that the `-wal` began anew,
    /// the more pages are still as they were before.
    pub fn is_hurried(&self, env: &Env) -> bool {
        self.is_fast || (env.clock.monotonic_ms() < self.hurried_until_ms && self.pin.is_none())
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
        let (stamp, looked) = Looked::around(env, || Stamp::of(&self.path))?;
        if self.stamp == Some(stamp) && !stamp.is_young(looked.held_ms) {
            // A state that nobody needs is not held.
            (self.pin, self.database) = (None, None);
            return self.beat(env, looked);
        }
        let (attempt, looked) = Looked::around(env, || pin(&self.path))?;
        let pinned = match attempt {
            Attempt::Pinned(pinned) if is_wal(&pinned) => pinned,
            _ => return self.compare_all(env, Some(stamp), None),
        };
        let Some(mark) = ffi::snapshot_mark(pinned.connection()) else {
            return self.compare_all(env, Some(stamp), Some(pinned));
        };
        if self.database.as_ref().is_none_or(|file| file.identity() != pinned.identity()) {
            let opened = held::open(&self.path).map_err(|error| missing(&self.path, error))?;
            self.database = Some(opened);
        }
        let is_worth = self.is_worth(env, &mark);
        let mut pinned = Some(pinned);
        let step = match self.frames(&mark)? {
            Some((file, header, between)) => {
                if !is_worth && self.has_all(&between, mark.page_count) {
                    // What is read outlasts it: the sooner the `-wal` begins anew, the better.
                    (self.pin, pinned) = (None, None);
                }
                self.add_frames(env, looked, (&file, header), &mark, between)?
            }
            None => None,
        };
        let Some(step) = step else {
            let pinned = match pinned {
                Some(pinned) => Some(pinned),
                None => match pin(&self.path)? {
                    Attempt::Pinned(pinned) => Some(pinned),
                    _ => None,
                },
            };
            return self.compare_all(env, Some(stamp), pinned);
        };
        self.stamp = Some(stamp);
        self.keep_pin(pinned.filter(|_| is_worth), env);
        match step {
            Step::Unchanged => self.beat(env, looked),
            step => Ok(step),
        }
    }

    /// The frames that are new at that mark, where it is proved that nothing else is.
    fn frames(&self, mark: &Mark) -> Result<Option<(fs::File, WalHeader, Between)>> {
        let Some(known) = &self.known else { return Ok(None) };
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(None) };
        let Some(header) = wal::header(&file)? else { return Ok(None) };
        if header.salts() != mark.salts || header.page_size != self.log.state.page_size() {
            return Ok(None);
        }
        let from = match header == known.header {
            true if mark.frame_max >= known.place.frame => known.place,
            true => return Ok(None),
            // Begun anew while we held the state before: that is possible only if the database file
            // was that very state, and only once.
            false if self.pin.as_ref().is_some_and(|pin| pin.proof.is_held()) => header.start(),
            // Else what it held behind our place must still be there, and be all.
            false if mark.frame_max > known.place.frame => return Ok(None),
            false => {
                let tail = wal::tail(&file, &known.header, known.place, &header)?;
                let new = wal::between(&file, &header, header.start(), mark)?;
                let both = tail.zip(new).map(|(tail, new)| tail.and_then(new));
                return Ok(both.map(|between| (file, header, between)));
            }
        };
        let between = wal::between(&file, &header, from, mark)?;
        Ok(between.map(|between| {
            let between = between.outlasting(&header, from);
            (file, header, between)
        }))
    }

    /// Adds the pages of those frames. `None` where the `-wal` began anew while they were read.
    fn add_frames(
        &mut self,
        env: &Env,
        looked: Looked,
        (file, header): (&fs::File, WalHeader),
        mark: &Mark,
        between: Between,
    ) -> Result<Option<Step>> {
        let is_same = self.known.as_ref().is_some_and(|known| known.header == header);
        let before = match is_same {
            true => self.known.take().map(|known| known.frames),
            false => None,
        };
        let mut frames = before.unwrap_or_else(|| PageMap::new(Keep::Last));
        let Some(database) = &self.database else { return Ok(None) };
        let versions = Versions { file, frames: &frames, database };
        let wanted = self.wanted(&between, mark.page_count, &frames);
        let mut writer = self.log.begin_file()?;
        let mut is_whole = true;
        for pages in wanted.chunks(BATCH_PAGES) {
            env.proceed()?;
            let mut batch = Vec::with_capacity(pages.len());
            for &(page, frame) in pages {
                match self.changed(&versions, page, frame)? {
                    Some(Ok(changed)) => batch.push(changed),
                    Some(Err(Gone)) => is_whole = false,
                    None => {}
                }
            }
            writer.add(&encode(&batch)?)?;
        }
        is_whole &= between.is_unchanged(file, &header)?;
        if !is_whole {
            return Ok(None);
        }
        let has_changed = writer.pages() > 0 || mark.page_count != self.log.state.page_count();
        // What stood before the log was begun anew will be written over.
        for &(page, frame) in between.frames.entries() {
            if frame <= mark.frame_max {
                frames.push(page, frame);
            }
        }
        frames.settle();
        let place = Place { frame: mark.frame_max, checksum: mark.checksum };
        self.known = Some(Known { header, place, frames });
        if !has_changed {
            return Ok(Some(Step::Unchanged));
        }
        let commits = between.commits;
        let stored = self.log.end_file(env, writer, mark.page_count, looked, commits)?;
        self.grow(stored.bytes);
        Ok(Some(self.added(Increment::of(&self.log, &stored))))
    }

    /// The pages that may have changed, each with its frame: those of new frames, and those by
    /// which the database grew without writing them.
    fn wanted(&self, between: &Between, page_count: u32, known: &PageMap) -> Vec<(u32, u32)> {
        let entries = between.frames.entries().iter().copied();
        let mut wanted: Vec<(u32, u32)> = entries.filter(|&(page, _)| page <= page_count).collect();
        // What was cut off meanwhile may have come back as something else.
        let kept = self.log.state.page_count().min(between.page_count_min);
        for page in kept + 1..=page_count {
            if between.frames.position(page).is_none() {
                wanted.push((page, known.position(page).unwrap_or(0)));
            }
        }
        wanted.sort_unstable();
        wanted
    }

    /// A page of a frame, or of the database file where the frame is 0, if it differs from the
    /// state.
    fn changed(
        &self,
        versions: &Versions<'_>,
        page: u32,
        frame: u32,
    ) -> Result<Option<Result<Changed, Gone>>> {
        let mut content = vec![0; self.log.state.page_size() as usize];
        let is_there = match frame {
            0 => versions.read_database(page, &mut content)?,
            frame => wal::read_frame(versions.file, frame, &mut content)?,
        };
        if !is_there {
            return Ok(Some(Err(Gone)));
        }
        let hash = block_hash(&content);
        let before_hash = self.log.state.hash(page).copied();
        if before_hash == Some(hash) {
            return Ok(None);
        }
        let before: Before = match before_hash {
            Some(before) => {
                versions.before(page, content.len(), |old| block_hash(old) == before)?
            }
            None => None,
        };
        let before = before.map(|(old, _)| (old, self.log.depth(page)));
        Ok(Some(Ok(Changed { page, hash, content, before })))
    }

    /// Whether those frames hold all that the database grew by.
    fn has_all(&self, between: &Between, page_count: u32) -> bool {
        let kept = self.log.state.page_count().min(between.page_count_min);
        (kept + 1..=page_count).all(|page| between.frames.contains(page))
    }

    /// Whether it is worth to hold the state of that mark, for a bounded time and size.
    fn is_worth(&mut self, env: &Env, mark: &Mark) -> bool {
        let page_size = u64::from(self.log.state.page_size());
        let bytes = u64::from(mark.page_count) * page_size;
        let wal_bytes = u64::from(mark.frame_max) * (page_size + 24);
        // By the next look it will have grown as much again.
        let grown_bytes = wal_bytes.saturating_sub(self.wal_bytes);
        let (now_ms, bytes_max) = (env.clock.monotonic_ms(), self.bounds.pinned_wal_bytes_max);
        let passed_ms = now_ms.saturating_sub(self.looked_ms).max(1);
        self.is_fast = grown_bytes.saturating_mul(1_000) / passed_ms > bytes_max;
        (self.wal_bytes, self.looked_ms) = (wal_bytes, now_ms);
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
    /// not again before a multiple of the time that it took.
    fn compare_all(
        &mut self,
        env: &Env,
        stamp: Option<Stamp>,
        pinned: Option<Box<Pinned>>,
    ) -> Result<Step> {
        let begun_ms = env.clock.monotonic_ms();
        if begun_ms < self.compare_after_ms {
            return Ok(Step::Unchanged);
        }
        let pause = match pinned {
            Some(_) => self.bounds.compare_pause_wal,
            None => self.bounds.compare_pause_rollback,
        };
        (self.pin, self.database) = (None, None);
        let known = match pinned {
            Some(pinned) => Some((known_at(&self.path, &pinned)?, pinned)),
            None => None,
        };
        self.known = None;
        let file = held::open(&self.path).map_err(|error| missing(&self.path, error))?;
        let versions = History::none(self.log.state.page_size());
        let mut versions = versions.with_database(file, self.log.depths.clone());
        let outcome = compare(env, &self.source, &self.options, &mut self.log, &mut versions)?;
        if let Some((known, pinned)) = known {
            // Held from here on, the `-wal` does not begin anew right after it was made up for.
            let mark = ffi::snapshot_mark(pinned.connection());
            self.known = known;
            if let Some(mark) = mark.filter(|_| self.known.is_some()) {
                let is_worth = self.is_worth(env, &mark);
                self.keep_pin(Some(pinned).filter(|_| is_worth), env);
            }
        }
        self.stamp = stamp;
        let took_ms = env.elapsed_ms(begun_ms);
        let pause_ms = took_ms.saturating_mul(pause);
        self.compare_after_ms = env.clock.monotonic_ms().saturating_add(pause_ms);
        match outcome {
            IncrementOutcome::Added(increment) => {
                self.grow(increment.stored_bytes);
                Ok(self.added(increment))
            }
            IncrementOutcome::BackupNeeded(why) => Ok(Step::BackupNeeded(why)),
        }
    }

    /// Writes down that nothing changed, now and then.
    fn beat(&mut self, env: &Env, looked: Looked) -> Result<Step> {
        let due_ms = self.log.held_ms.saturating_add_unsigned(self.bounds.heartbeat_ms);
        if looked.held_ms < due_ms {
            return Ok(Step::Unchanged);
        }
        let (writer, page_count) = (self.log.begin_file()?, self.log.state.page_count());
        let stored = self.log.end_file(env, writer, page_count, looked, 0)?;
        self.grow(stored.bytes);
        Ok(self.added(Increment::of(&self.log, &stored)))
    }

    /// Its log has one file more.
    fn grow(&mut self, bytes: u64) {
        self.log_size = (self.log_size.0 + 1, self.log_size.1 + bytes);
    }

    fn added(&self, increment: Increment) -> Step {
        let base = self.log.base.artifact(history::DATABASE);
        let base_bytes = base.map_or(0, |artifact| artifact.stored_bytes);
        let (name, (files, bytes)) = (&self.log.base.name, self.log_size);
        if bytes > log_bytes_max(base_bytes) || files >= FILES_MAX {
            let why = format!("the log of {name} has grown to {bytes} bytes in {files} files");
            return Step::BackupNeeded(why);
        }
        Step::Added(increment)
    }
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

/// What was read is not there any more.
struct Gone;

/// Where earlier versions of pages are.
struct Versions<'a> {
    file: &'a fs::File,
    /// The last frame of each page before the new ones.
    frames: &'a PageMap,
    database: &'a HeldFile,
}

impl Versions<'_> {
    /// An earlier version that is the right one: of an earlier frame, else of the database file.
    fn before(
        &self,
        page: u32,
        page_bytes: usize,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<Before> {
        let mut old = vec![0; page_bytes];
        if let Some(frame) = self.frames.position(page)
            && wal::read_frame(self.file, frame, &mut old)?
            && is_right(&old)
        {
            return Ok(Some((old, 0)));
        }
        let is_there = self.read_database(page, &mut old)? && is_right(&old);
        Ok(is_there.then_some((old, 0)))
    }

    /// A page of the database file; zeros behind its end.
    fn read_database(&self, page: u32, content: &mut [u8]) -> Result<bool> {
        let offset = u64::from(page - 1) * content.len() as u64;
        match self.database.read_at(content, offset) {
            Ok(read) => {
                content[read..].fill(0);
                Ok(true)
            }
            Err(error) => {
                Err(Error::io(Kind::SourceUnavailable, "cannot read the database file", error))
            }
        }
    }
}

fn is_wal(pinned: &Pinned) -> bool {
    let mode =
        pinned.connection().query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
    mode.is_ok_and(|mode| mode == "wal")
}

/// A place in the `-wal` that is held by what is given with it, where there is one.
fn known_of(path: &Path) -> Result<(Option<Known>, Option<Box<Pinned>>)> {
    match pin(path)? {
        Attempt::Pinned(pinned) if is_wal(&pinned) => Ok((known_at(path, &pinned)?, Some(pinned))),
        _ => Ok((None, None)),
    }
}

fn known_at(path: &Path, pinned: &Pinned) -> Result<Option<Known>> {
    let Some(mark) = ffi::snapshot_mark(pinned.connection()) else { return Ok(None) };
    let Some(file) = wal::open(&side_file(path, "-wal"))? else { return Ok(None) };
    let Some(header) = wal::header(&file)? else { return Ok(None) };
    if header.salts() != mark.salts {
        return Ok(None);
    }
    let between = wal::between(&file, &header, header.start(), &mark)?;
    let place = Place { frame: mark.frame_max, checksum: mark.checksum };
    Ok(between.map(|between| Known { header, place, frames: between.frames }))
}
