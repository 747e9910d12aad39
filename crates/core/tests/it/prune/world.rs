//! A repository of real backups of one file, a clock that is set, and a power that can be cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::{CRASH_POINTS, Clock, CrashPoints, Env, Random};
use lifeboat_core::files::{FileEntry, FilesEngine, FilesSource};
use lifeboat_core::manifest::{CheckLevel, Manifest, Method};
use lifeboat_core::marks::LevelRule;
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::policy::{Floors, Hold, Keep};
use lifeboat_core::prune::{
    self, GRACE, LogLevels, PrunePlan, PruneRequest, Pruned, Thinned, Thinning,
};
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::CaptureOptions;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store, put_bytes};
use lifeboat_core::{Error, Kind, Result};

use crate::world::MemoryStore;

pub(super) const FOLDER: &str = "app";

/// Holds those backups for their logs, which it never thins out.
#[derive(Debug)]
pub(super) struct Holding(pub(super) &'static [&'static str]);

impl LogLevels for Holding {
    fn rule(&self) -> Option<LevelRule> {
        Some(LevelRule { all_ms: 0, minutely_ms: 0, hourly_ms: 0 })
    }

    fn holds(
        &self,
        _now: Timestamp,
        _repository: &Repository,
        _folder: &str,
        backups: &[&Manifest],
    ) -> Result<HashMap<String, String>> {
        let held = backups.iter().filter(|backup| self.0.contains(&backup.name.as_str()));
        Ok(held.map(|backup| (backup.name.clone(), "its log is kept".to_owned())).collect())
    }

    fn plan(
        &self,
        _now: Timestamp,
        _repository: &Repository,
        _folder: &str,
        _backups: &[&Manifest],
    ) -> Result<Vec<Thinning>> {
        Ok(Vec::new())
    }

    fn thin(
        &self,
        _env: &Env,
        _repository: &Repository,
        _folder: &str,
        _logs: (&[&Manifest], &Manifest),
        _hold: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Thinned> {
        Ok(Thinned::default())
    }
}

/// Stands still but for those who set it and those who wait.
pub(super) struct SetClock(pub(super) AtomicI64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        // Each look takes a millisecond, or two prunes would share one.
        Timestamp::from_millisecond(self.0.fetch_add(1, Ordering::SeqCst)).unwrap()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst) as u64
    }

    fn sleep_ms(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds as i64, Ordering::SeqCst);
    }
}

struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        let bytes = bytes_of(self.0.fetch_add(1, Ordering::SeqCst));
        buffer.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
    }
}

/// Bytes that differ for each number, without a generator of our own.
fn bytes_of(number: u64) -> [u8; 16] {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mixed.to_le_bytes());
    bytes[8..].copy_from_slice(&(mixed ^ number.rotate_left(17)).to_le_bytes());
    bytes
}

/// Fails at the armed point, and from then on its store answers nothing.
#[derive(Default)]
pub(super) struct Crash {
    armed: Mutex<Option<(&'static str, u32)>>,
    dead: AtomicBool,
}

impl Crash {
    /// The power goes when the point is passed for that time, counted from 0.
    pub(super) fn arm(&self, point: &'static str, time: u32) {
        *self.armed.lock().unwrap() = Some((point, time));
    }

    /// A new process. Whether the power had gone.
    pub(super) fn reboot(&self) -> bool {
        *self.armed.lock().unwrap() = None;
        self.dead.swap(false, Ordering::SeqCst)
    }
}

impl CrashPoints for Crash {
    fn pass(&self, point: &'static str) -> Result<()> {
        assert!(CRASH_POINTS.contains(&point), "{point} is not listed");
        match &mut *self.armed.lock().unwrap() {
            Some((armed, 0)) if *armed == point => {
                self.dead.store(true, Ordering::SeqCst);
                Err(Error::new(Kind::Interrupted, "the power was cut"))
            }
            Some((armed, times)) if *armed == point => {
                *times -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A store that knows when its objects were stored, and is gone when the power is.
struct TimedStore {
    inner: MemoryStore,
    stored_at: Mutex<BTreeMap<ObjectName, Timestamp>>,
    pub(super) clock: Arc<SetClock>,
    pub(super) crash: Arc<Crash>,
    locks: Locks,
}

/// Until when each object is locked, in a store that locks.
type Locks = Arc<Mutex<Option<BTreeMap<ObjectName, Timestamp>>>>;

impl TimedStore {
    fn alive(&self) -> Result<()> {
        match self.crash.dead.load(Ordering::SeqCst) {
            true => Err(Error::new(Kind::StoreUnavailable, "the power is gone")),
            false => Ok(()),
        }
    }

    fn timed(&self, mut info: ObjectInfo) -> ObjectInfo {
        let mut stored_at = self.stored_at.lock().unwrap();
        info.modified = *stored_at.entry(info.name.clone()).or_insert_with(|| self.clock.now());
        info
    }
}

impl Store for TimedStore {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        self.alive()?;
        let now = self.clock.now();
        self.stored_at.lock().unwrap().insert(name.clone(), now);
        self.inner.put(name)
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.alive()?;
        self.inner.get(name, range)
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.alive()?;
        Ok(self.inner.head(name)?.map(|info| self.timed(info)))
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        self.alive()?;
        Ok(self.inner.list(prefix)?.into_iter().map(|info| self.timed(info)).collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.alive()?;
        self.inner.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    fn lock_period(&self) -> Option<SignedDuration> {
        self.locks.lock().unwrap().is_some().then_some(SignedDuration::from_hours(240))
    }

    fn retain(&self, name: &ObjectName, until: Timestamp) -> Result<()> {
        self.alive()?;
        self.locks.lock().unwrap().as_mut().unwrap().insert(name.clone(), until);
        Ok(())
    }

    fn locked_until(&self, name: &ObjectName) -> Result<Option<Timestamp>> {
        Ok(self.locks.lock().unwrap().as_ref().and_then(|locks| locks.get(name).copied()))
    }
}

/// A repository, a source of one file, and the time.
pub(super) struct World {
    pub(super) env: Env,
    pub(super) clock: Arc<SetClock>,
    pub(super) crash: Arc<Crash>,
    pub(super) store: MemoryStore,
    pub(super) repository: Repository,
    folder: tempfile::TempDir,
    pub(super) keep: Keep,
    locks: Locks,
    /// How full the store's place is.
    pub(super) space: Option<Space>,
    pub(super) levels: Option<Arc<dyn LogLevels>>,
}

impl World {
    pub(super) fn new(keep: Keep) -> World {
        let clock = Arc::new(SetClock(AtomicI64::new(1_736_344_800_000)));
        let crash = Arc::new(Crash::default());
        let mut env = Env::new(clock.clone(), Arc::new(Counting(AtomicU64::new(1))), "host");
        env.crash = crash.clone();
        env.threads = 1;
        let store = MemoryStore::default();
        let stored_at = Mutex::default();
        let (inner, timed_clock) = (store.clone(), clock.clone());
        let (locks, timed_crash) = (Locks::default(), crash.clone());
        let timed = TimedStore {
            inner,
            stored_at,
            clock: timed_clock,
            crash: timed_crash,
            locks: locks.clone(),
        };
        let repository = Repository::open_or_create(&env, Arc::new(timed)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"what is protected").unwrap();
        let (space, levels) = (None, None);
        World { env, clock, crash, store, repository, folder, keep, locks, space, levels }
    }

    /// From now on the store locks, for ten days.
    pub(super) fn locks(&self) {
        *self.locks.lock().unwrap() = Some(BTreeMap::new());
    }

    /// Until when that object is locked.
    pub(super) fn locked_until(&self, file: &str) -> Option<Timestamp> {
        let object = self.repository.object(FOLDER, file).unwrap();
        self.repository.store().locked_until(&object).unwrap()
    }

    /// Makes one backup of each of the next days.
    pub(super) fn days(&self, count: u32) {
        for _ in 0..count {
            self.pass(24);
            self.backup();
        }
    }

    /// Writes a backup's manifest anew, as one that builds on another.
    pub(super) fn build_on(&self, child: &Manifest, parent: &Manifest) {
        let object = self.repository.object(FOLDER, &format!("{}.json", child.name)).unwrap();
        self.repository.store().delete(&object).unwrap();
        let child = Manifest { parent: Some(parent.id), ..child.clone() };
        put_bytes(self.repository.store(), &object, &child.to_bytes()).unwrap();
    }

    pub(super) fn pass(&self, count: i64) {
        self.clock.sleep_ms(u64::try_from(count).unwrap() * 3_600_000);
    }

    pub(super) fn backup(&self) -> Manifest {
        self.try_backup(None, "zstd").unwrap()
    }

    pub(super) fn try_backup(&self, pin: Option<&str>, compression: &str) -> Result<Manifest> {
        let entry =
            FileEntry { path: self.folder.path().join("file"), is_glob: false, optional: false };
        let source = FilesSource::new(vec![entry])?;
        let identity = SourceIdentity {
            id: None,
            name: FOLDER.into(),
            kind: "files".into(),
            host: "host".into(),
            location: "there".into(),
        };
        let request = BackupRequest {
            source: &source,
            engine: &FilesEngine,
            identity,
            companions: None,
            options: CaptureOptions {
                method: Method::Online,
                check: CheckLevel::None,
                check_memory_bytes: 1 << 20,
                lock_ms_max: 1_000,
                wal_growth_bytes_max: 1 << 20,
            },
            compression: compression.parse::<Compression>()?,
            pattern: NamePattern::default(),
            pin: pin.map(|reason| Hold { reason: reason.to_owned(), until: None }),
            purpose: None,
            service: None,
            on_change: false,
            lock_folder: None,
            scratch_folder: self.folder.path(),
            tool: "test",
            warnings: &[],
        };
        match backup::run(&self.env, &self.repository, &request)? {
            BackupOutcome::Committed { manifest, .. } => Ok(*manifest),
            BackupOutcome::Unchanged { .. } => panic!("a backup was asked for"),
        }
    }

    pub(super) fn request(&self) -> PruneRequest<'static> {
        let floors = Floors::default();
        let keep = self.keep.clone();
        PruneRequest {
            folder: FOLDER,
            keep,
            also_within: None,
            floors,
            grace: GRACE,
            space: self.space,
            log: None,
            levels: self.levels.clone(),
        }
    }

    pub(super) fn plan(&self) -> PrunePlan {
        prune::plan(&self.env, &self.repository, &self.request()).unwrap()
    }

    pub(super) fn prune(&self, approval: Option<&str>) -> Result<Pruned> {
        let request = self.request();
        let plan = prune::plan(&self.env, &self.repository, &request)?;
        // By its lock a run knows that the last one of this host was killed.
        let locks = self.folder.path().join("locks");
        prune::apply(&self.env, &self.repository, &request, &plan, approval, Some(&locks))
    }

    /// Prunes, with the approval of whatever the plan is.
    pub(super) fn prune_approved(&self) -> Result<Pruned> {
        let id = prune::plan(&self.env, &self.repository, &self.request())?.id;
        self.prune(Some(&id))
    }

    pub(super) fn entry(&self) -> SourceEntry {
        let catalog = self.repository.catalog().unwrap();
        catalog.sources.into_iter().find(|entry| entry.folder == FOLDER).unwrap()
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        let objects = self.store.list(None).unwrap();
        objects.into_iter().map(|object| object.name.to_string()).collect()
    }

    /// The same without the records of prunes, which differ in their times, and their leases.
    pub(super) fn names_without_records(&self) -> BTreeSet<String> {
        let is_other = |name: &String| !name.starts_with("prunes/") && !name.starts_with("leases/");
        self.names().into_iter().filter(is_other).collect()
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        put_bytes(self.repository.store(), &ObjectName::new(name).unwrap(), bytes).unwrap();
    }

    /// Every backup that is listed, or can be taken back, has all its artifacts, unharmed.
    pub(super) fn assert_whole(&self, context: &str) {
        let entry = self.entry();
        for backup in entry.backups.iter().chain(&entry.removed) {
            for artifact in &backup.artifacts {
                let object = self.repository.object(FOLDER, &artifact.name).unwrap();
                let found = self.store.head(&object).unwrap();
                let bytes = found.map(|info| info.bytes);
                assert_eq!(bytes, Some(artifact.stored_bytes), "{context}: {object}");
            }
        }
    }
}
