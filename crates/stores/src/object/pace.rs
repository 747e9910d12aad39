//! A limit of bytes per second: whoever would be too early waits.

use std::sync::Mutex;
use std::time::Duration;

use lifeboat_core::env::Env;

/// So much may be taken at once after a rest.
const REST_US: u64 = 100_000;

/// Bytes per second, for all who share it.
pub(super) struct Pace {
    env: Env,
    bytes_per_s: Option<u64>,
    /// When the next bytes may go, in microseconds of the monotonic clock.
    next_us: Mutex<u64>,
}

impl Pace {
    pub(super) fn new(env: &Env, bytes_per_s: Option<u64>) -> Self {
        let bytes_per_s = bytes_per_s.filter(|bytes| *bytes > 0);
        Pace { env: env.clone(), bytes_per_s, next_us: Mutex::new(0) }
    }

    /// Waits until so many bytes may go.
    pub(super) async fn take(&self, bytes: usize) {
        let wait_us = self.reserve(bytes, self.env.clock.monotonic_ms() * 1000);
        if wait_us > 0 {
            tokio::time::sleep(Duration::from_micros(wait_us)).await;
        }
    }

    /// How long to wait for them.
    fn reserve(&self, bytes: usize, now_us: u64) -> u64 {
        let Some(bytes_per_s) = self.bytes_per_s else { return 0 };
        let cost_us = (bytes as u128 * 1_000_000 / u128::from(bytes_per_s)) as u64;
        let Ok(mut next_us) = self.next_us.lock() else { return 0 };
        let start_us = (*next_us).max(now_us.saturating_sub(REST_US));
        *next_us = start_us.saturating_add(cost_us);
        start_us.saturating_sub(now_us)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::object::for_tests::env;

    #[test]
    fn bytes_go_as_fast_as_they_may() {
        let pace = Pace::new(&env(), Some(1_000_000));
        let mut waited_us = 0;
        // Ten megabytes at one a second, the clock standing still but for what was waited.
        for _ in 0..160 {
            waited_us = pace.reserve(62_500, 5_000_000);
        }
        let must = 10_000_000 - 62_500 - REST_US;
        assert_eq!(waited_us, must);
        assert_eq!(Pace::new(&env(), None).reserve(1 << 30, 0), 0);
        let _ = Arc::new(pace);
    }
}
