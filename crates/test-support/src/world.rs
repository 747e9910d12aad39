//! The real world: the clock of the system and random numbers of the kernel.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lifeboat_core::env::{Clock, Env, Random};

/// The clock of the system.
pub struct SystemClock(Instant);

impl SystemClock {
    /// One whose [`Clock::monotonic_ms`] begins now.
    pub fn start() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        File::open("/dev/urandom").unwrap().read_exact(buffer).unwrap();
    }
}

/// A world with the real clock, on a host named `host`.
pub fn env() -> Env {
    Env::new(Arc::new(SystemClock::start()), Arc::new(SystemRandom), "host".to_owned())
}

/// Whether the long tests were asked for.
pub fn is_long() -> bool {
    std::env::var("LIFEBOAT_LONG_TESTS").is_ok_and(|value| value == "1")
}
