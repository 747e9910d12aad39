//! What enters a run from outside: time, randomness, crash points and the observer of events.
//!
//! Everything here is injected, so that a simulation can run the same code at another moment,
//! with another seed, and stop it at any named point. `clippy.toml` forbids the direct ways.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Result;
use crate::event::{Event, Observer, Silent};
use crate::stop::Stop;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Milliseconds of a clock that never goes back, from an arbitrary start.
    fn monotonic_ms(&self) -> u64;
    /// Waits.
    fn sleep_ms(&self, milliseconds: u64);
}

/// Where random bytes come from.
pub trait Random: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// Named places at which a test may end the run as a power cut would.
pub trait CrashPoints: Send + Sync {
    /// Passed at each named place. Ends the process, or fails, where a test asked for it.
    fn pass(&self, point: &'static str) -> Result<()>;
}

/// Never crashes.
pub struct NoCrash;

impl CrashPoints for NoCrash {
    fn pass(&self, _point: &'static str) -> Result<()> {
        Ok(())
    }
}

/// The names of all crash points of core, in the order in which a run passes them.
/// Tests iterate over it; a point that is passed but not listed here fails a test.
pub const CRASH_POINTS: &[&str] = &[
    "backup.begin",
    "backup.artifact.streamed",
    "backup.artifact.committed",
    "backup.artifact.read_back",
    "backup.before_manifest",
    "backup.after_manifest",
    "increment.begin",
    "increment.streamed",
    "increment.before_file",
    "increment.after_file",
    "increment.read_back",
    "standby.journaled",
    "standby.written",
    "adopt.artifact.committed",
    "adopt.artifact.read_back",
    "adopt.before_manifest",
    "adopt.after_manifest",
    "adopt.original_removed",
    "copy.begun",
    "copy.artifact.committed",
    "copy.artifact.read_back",
    "copy.before_manifest",
    "copy.committed",
    "copy.repair.compared",
    "copy.repair.deleted",
    "copy.log.committed",
    "copy.log.stored",
    "restore.staging",
    "restore.staged",
    "restore.verified",
    "restore.kept_aside",
    "restore.original_removed",
    "restore.side_files_removed",
    "restore.swapped",
    "recovery.reused",
    "recovery.unpacked",
    "recovery.before_control",
    "recovery.assembled",
    "recovery.recovered",
    "recovery.kept_aside",
    "recovery.swapped",
    "undo.kept_aside",
    "undo.swapped",
    "prune.begin",
    "prune.unmarked",
    "prune.manifest_deleted",
    "prune.artifact_deleted",
    "prune.artifacts_deleted",
    "prune.deleted",
    "prune.marked",
    "prune.before_record",
    "prune.after_record",
    "merge.before_file",
    "merge.after_file",
    "merge.read_back",
    "merge.deleted",
    "pack.before_pack",
    "pack.after_pack",
    "pack.read_back",
    "pack.deleted",
    "drill.restored",
    "drill.checked",
    "drill.proved",
    "drill.mark",
    "log.committed",
    "log.read_back",
    "migrate.schema",
    "migrate.table",
    "migrate.indexed",
    "migrate.loaded",
    "migrate.before_commit",
    "migrate.committed",
    "wal.noted",
    "wal.deleted",
    "wal.segment_stored",
    "wal.piece_stored",
];

/// The injected world of a run.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Crash points.
    pub crash: Arc<dyn CrashPoints>,
    /// Observer of events.
    pub observer: Arc<dyn Observer>,
    /// The name of this host as manifests show it.
    pub host: String,
    /// How many threads a run may keep busy.
    pub threads: usize,
    /// What may end a run before its work is done.
    pub stop: Stop,
}

impl Env {
    /// A world without crash points and without an observer.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>, host: impl Into<String>) -> Self {
        Env {
            clock,
            random,
            crash: Arc::new(NoCrash),
            observer: Arc::new(Silent),
            host: host.into(),
            // Also one processor has time for another thread while one waits for a store.
            threads: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            stop: Stop::default(),
        }
    }

    /// The same world, in which a run must end within that time from now. `words` are the limit
    /// for people: "2h".
    #[must_use]
    pub fn limited(&self, limit_ms: u64, words: &str) -> Self {
        let ends_at_ms = self.clock.monotonic_ms().saturating_add(limit_ms);
        Env { stop: self.stop.until(ends_at_ms, words), ..self.clone() }
    }

    /// The same world, in which nothing ends a run: for what must be done after it.
    #[must_use]
    pub fn unstoppable(&self) -> Self {
        Env { stop: Stop::default(), ..self.clone() }
    }

    /// Asked at each step of a run: whether it may go on. Errors are those of [`Stop::ask`].
    pub fn proceed(&self) -> Result<()> {
        self.stop.ask(self.clock.monotonic_ms())
    }

    /// Waits, but no longer than the run may go on.
    pub fn pause_ms(&self, milliseconds: u64) -> Result<()> {
        const SLICE_MS: u64 = 50;
        let mut left_ms = milliseconds;
        while left_ms > 0 {
            self.proceed()?;
            let slice_ms = left_ms.min(SLICE_MS);
            self.clock.sleep_ms(slice_ms);
            left_ms -= slice_ms;
        }
        self.proceed()
    }

    /// A fresh random (version 4) UUID.
    pub fn new_uuid(&self) -> uuid::Uuid {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// Tells the observer.
    pub fn tell(&self, event: Event<'_>) {
        self.observer.observe(&event);
    }

    /// Tells the observer of something that a person should know.
    pub fn warn(&self, subject: &str, message: &str) {
        self.tell(Event::Warning { subject, message });
    }

    /// Milliseconds since a value that [`Clock::monotonic_ms`] gave.
    pub fn elapsed_ms(&self, since_ms: u64) -> u64 {
        self.clock.monotonic_ms().saturating_sub(since_ms)
    }
}
