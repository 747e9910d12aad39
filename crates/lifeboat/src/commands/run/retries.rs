//! When a database that could not be followed is looked at again, and what is said of it meanwhile:
//! the same once, and no more of the machine's time than a small part.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How long a database that failed is left alone: doubled each time, up to the second.
const RETRY_MS: (u64, u64) = (1_000, 60_000);
/// To find damage takes no more than this part of the time, one to so many: a large database is
/// read for minutes before it shows. A store that takes long to fail is asked again as soon as any.
const REST: u64 = 20;
/// It is never left alone for longer.
const REST_MS_MAX: u64 = 60 * 60_000;
/// What was said is said again after so long: who reads the journal of a day shall find it.
const SAY_EVERY_MS: u64 = 60 * 60_000;

/// The failures of a database since it was followed last.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failures: u32,
    next_ms: u64,
    /// The file that failed: another one in its place is looked at at once.
    file: Option<(u64, u64)>,
    /// What was said last, and when.
    said: Option<(String, u64)>,
}

impl Retries {
    /// Whether it may be looked at.
    pub(super) fn is_due(&self, now_ms: u64, path: &Path) -> bool {
        now_ms >= self.next_ms || identity(path) != self.file
    }

    /// It could be looked at.
    pub(super) fn passed(&mut self) {
        // What was said stays said until it is followed: a backup in between is no news of that.
        (self.failures, self.next_ms, self.file) = (0, 0, None);
    }

    /// It is followed again: what comes then is news.
    pub(super) fn followed(&mut self) {
        *self = Retries::default();
    }

    /// It failed now, and damage took so long to find. Whether that is to be said.
    pub(super) fn failed(
        &mut self,
        (now_ms, damage_ms): (u64, u64),
        path: &Path,
        text: &str,
    ) -> bool {
        self.failures += 1;
        let usual_ms = (RETRY_MS.0 << self.failures.min(10)).min(RETRY_MS.1);
        let rest_ms = damage_ms.saturating_mul(REST).min(REST_MS_MAX);
        (self.next_ms, self.file) = (now_ms + usual_ms.max(rest_ms), identity(path));
        let is_said = self
            .said
            .as_ref()
            .is_some_and(|(said, at_ms)| said == text && now_ms < at_ms + SAY_EVERY_MS);
        if !is_said {
            self.said = Some((text.to_owned(), now_ms));
        }
        !is_said
    }
}

/// Which file it is; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_an_hour_and_another_thing_at_once() {
        let (mut retries, path) = (Retries::default(), Path::new("/nothing/there"));
        let mut failed = |now_ms, text| retries.failed((now_ms, 0), path, text);
        assert!(failed(0, "damaged"));
        assert!(!failed(60_000, "damaged"));
        assert!(failed(61_000, "gone"));
        assert!(failed(62_000, "damaged"));
        assert!(!failed(62_000 + SAY_EVERY_MS - 1, "damaged"));
        assert!(failed(62_000 + SAY_EVERY_MS, "damaged"));
        // A backup in between, and the same again.
        retries.passed();
        assert!(!retries.failed((63_000 + SAY_EVERY_MS, 0), path, "damaged"));
        retries.followed();
        assert!(retries.failed((63_000 + SAY_EVERY_MS, 0), path, "damaged"));
    }

    #[test]
    fn what_fails_is_left_alone_for_longer_each_time_and_for_as_long_as_it_costs() {
        let (mut retries, path) = (Retries::default(), Path::new("/nothing/there"));
        let mut now_ms = 0;
        for pause_ms in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            retries.failed((now_ms, 0), path, "damaged");
            assert!(!retries.is_due(now_ms + pause_ms - 1, path), "{pause_ms}");
            now_ms += pause_ms;
            assert!(retries.is_due(now_ms, path), "{pause_ms}");
        }
        // One that is read for a minute before its damage shows.
        retries.failed((now_ms, 60_000), path, "damaged");
        assert!(!retries.is_due(now_ms + 20 * 60_000 - 1, path));
        assert!(retries.is_due(now_ms + 20 * 60_000, path));
        retries.failed((now_ms, u64::MAX), path, "damaged");
        assert!(retries.is_due(now_ms + REST_MS_MAX, path));
    }

    #[test]
    fn another_file_in_its_place_is_looked_at_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("app.db"), folder.path().join("other"));
        std::fs::write(&path, "torn").unwrap();
        std::fs::write(&other, "whole").unwrap();
        let mut retries = Retries::default();
        retries.failed((0, 0), &path, "damaged");
        assert!(!retries.is_due(1, &path));
        std::fs::rename(&other, &path).unwrap();
        assert!(retries.is_due(1, &path));
    }
}
