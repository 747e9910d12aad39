//! A world for unit tests of object stores: the system's clock, numbers that count.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the injected world")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_core::env::{Clock, Env, Random};

struct World(AtomicU64, std::time::Instant);

impl Clock for World {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    fn monotonic_ms(&self) -> u64 {
        self.1.elapsed().as_millis() as u64
    }
    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    }
}

impl Random for World {
    fn fill(&self, buffer: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        buffer.iter_mut().zip(number.iter().cycle()).for_each(|(byte, number)| *byte = *number);
    }
}

/// The world.
pub(crate) fn env() -> Env {
    let world = Arc::new(World(AtomicU64::new(1), std::time::Instant::now()));
    Env::new(world.clone(), world, "host")
}
