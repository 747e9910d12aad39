//! The world of the tests: the system's clock, and numbers that differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lifeboat_core::env::{Clock, Env, Random};
use lifeboat_core::store::ObjectName;

struct Real {
    begun: Instant,
    count: AtomicU64,
}

impl Clock for Real {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    fn monotonic_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
}

impl Random for Real {
    fn fill(&self, buffer: &mut [u8]) {
        let nanoseconds = jiff::Timestamp::now().as_nanosecond() as u64;
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let seed = (nanoseconds ^ (number << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let seed = (seed ^ (seed >> 31)).to_le_bytes();
        buffer.iter_mut().zip(seed.iter().cycle()).for_each(|(byte, seed)| *byte = *seed);
    }
}

pub(crate) fn env() -> Env {
    let real = Arc::new(Real { begun: Instant::now(), count: AtomicU64::new(1) });
    Env::new(real.clone(), real, "host")
}

pub(crate) fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}
