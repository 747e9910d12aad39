//! A clock that runs as fast as the simulation, and jumps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;
use lifeboat_core::env::{Clock, Random};
use lifeboat_sqlite::sample::Seeded;

/// Where every simulation begins: 2025-01-08T14:00:00Z, in milliseconds since 1970.
const BEGIN_MS: i64 = 1_736_344_800_000;

/// Time that passes by being looked at or waited for.
pub struct SimulatedClock {
    wall_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl Default for SimulatedClock {
    fn default() -> Self {
        SimulatedClock { wall_ms: AtomicI64::new(BEGIN_MS), monotonic_ms: AtomicU64::new(0) }
    }
}

impl SimulatedClock {
    /// Sets the wall clock forward, or back, as an administrator or a time server does.
    pub fn jump_ms(&self, milliseconds: i64) {
        self.wall_ms.fetch_add(milliseconds, Ordering::SeqCst);
    }

    fn pass_ms(&self, milliseconds: u64) -> i64 {
        self.monotonic_ms.fetch_add(milliseconds, Ordering::SeqCst);
        let passed = i64::try_from(milliseconds).unwrap_or(i64::MAX);
        self.wall_ms.fetch_add(passed, Ordering::SeqCst)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let now_ms = self.pass_ms(1);
        Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic_ms(&self) -> u64 {
        self.pass_ms(1);
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn sleep_ms(&self, milliseconds: u64) {
        self.pass_ms(milliseconds);
        // Threads that wait for one another still need a turn.
        std::thread::yield_now();
    }
}

/// Random bytes that a seed decides.
pub struct SeededRandom(Mutex<Seeded>);

impl SeededRandom {
    /// The bytes of that seed.
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(Seeded::new(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        let mut seeded = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&seeded.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
