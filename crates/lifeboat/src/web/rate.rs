//! How often somebody may try to enter. Pure: told what time it is.

use std::collections::{BTreeMap, VecDeque};

/// Within so long, in milliseconds,
const WINDOW_MS: u64 = 15 * 60_000;
/// so many may fail from one address,
const FAILURES_MAX: usize = 5;
/// and so many from all.
const FAILURES_OF_ALL_MAX: usize = 100;

/// When tries failed, by the address from which they came.
#[derive(Default)]
pub(super) struct Rate {
    failed: BTreeMap<String, VecDeque<u64>>,
}

impl Rate {
    /// For how many milliseconds nobody may try from there; zero where somebody may.
    pub(super) fn wait_ms(&mut self, from: &str, now_ms: u64) -> u64 {
        for failed in self.failed.values_mut() {
            failed.retain(|at_ms| now_ms.saturating_sub(*at_ms) < WINDOW_MS);
        }
        self.failed.retain(|_, failed| !failed.is_empty());
        let left = |at_ms: Option<&u64>| at_ms.map_or(0, |at_ms| at_ms + WINDOW_MS - now_ms);
        let of_all: usize = self.failed.values().map(VecDeque::len).sum();
        if of_all >= FAILURES_OF_ALL_MAX {
            return left(self.failed.values().flatten().min());
        }
        match self.failed.get(from) {
            Some(failed) if failed.len() >= FAILURES_MAX => left(failed.front()),
            _ => 0,
        }
    }

    /// A try from there failed.
    pub(super) fn failed(&mut self, from: &str, now_ms: u64) {
        self.failed.entry(from.to_owned()).or_default().push_back(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_waits_and_others_do_not_until_all_are_too_many() {
        let mut rate = Rate::default();
        for at in 0..FAILURES_MAX as u64 {
            assert_eq!(rate.wait_ms("a", at), 0);
            rate.failed("a", at);
        }
        assert_eq!(rate.wait_ms("a", 5), WINDOW_MS - 5);
        assert_eq!(rate.wait_ms("b", 5), 0);
        assert_eq!(rate.wait_ms("a", WINDOW_MS), 0, "the first is forgotten");
        for at in 0..FAILURES_OF_ALL_MAX {
            rate.failed(&at.to_string(), WINDOW_MS);
        }
        assert!(rate.wait_ms("b", WINDOW_MS) > 0);
    }
}
