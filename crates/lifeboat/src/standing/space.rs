//! How full the disks of repositories were, as far as this host has looked: a small file for each.
//!
//! They may be lost at any time: then there is no forecast for some hours.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::store::Space;
use serde::{Deserialize, Serialize};

use super::forecast::{Forecast, SpaceSample, forecast};
use crate::attempts;
use crate::private;
use crate::session::Session;

/// Between two samples.
const EVERY: SignedDuration = SignedDuration::from_mins(50);
/// So many are kept: two months of one an hour.
const SAMPLES_MAX: usize = 60 * 24;

/// The disk below one repository, over time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SpaceHistory {
    /// Whose it is.
    repository: String,
    /// Oldest first.
    pub(crate) samples: Vec<SpaceSample>,
}

fn path(session: &Session, url: &str) -> Option<PathBuf> {
    let folder = session.folders.locks.as_deref().and_then(Path::parent)?.join("space");
    Some(folder.join(format!("{}.json", attempts::digest(&[url]))))
}

impl SpaceHistory {
    /// What is known of a repository's disk.
    pub(crate) fn of(session: &Session, url: &str) -> Self {
        let bytes = path(session, url).and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let known: SpaceHistory = serde_json::from_slice(&bytes).unwrap_or_default();
        match known.repository == url {
            true => known,
            false => SpaceHistory { repository: url.to_owned(), samples: Vec::new() },
        }
    }

    /// Takes note of how full it is now, where that is news; and keeps it, if that can be done.
    pub(crate) fn note(&mut self, session: &Session, now: Timestamp, space: Space) {
        if !self.add(now, space) {
            return;
        }
        let Some(path) = path(session, &self.repository) else { return };
        let text = serde_json::to_vec(self).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| private::replace(&path, &text)) {
            let what = "how full the disk is is not written down";
            session.printer.detail(&format!("{what}: {}: {error}", path.display()));
        }
    }

    fn add(&mut self, now: Timestamp, space: Space) -> bool {
        // A clock that was ahead must not end it: what is of tomorrow was never so.
        self.samples.retain(|sample| sample.at <= now);
        let is_early = |last: &SpaceSample| now.duration_since(last.at) < EVERY;
        if self.samples.last().is_some_and(is_early) {
            return false;
        }
        let Space { used_bytes, free_bytes } = space;
        self.samples.push(SpaceSample { at: now, used_bytes, free_bytes });
        let too_many = self.samples.len().saturating_sub(SAMPLES_MAX);
        self.samples.drain(..too_many);
        true
    }

    /// How it goes on, with what is now.
    pub(crate) fn forecast(&self, now: Timestamp, space: Space) -> Option<Forecast> {
        let Space { used_bytes, free_bytes } = space;
        let mut samples = self.samples.clone();
        samples.push(SpaceSample { at: now, used_bytes, free_bytes });
        forecast(&samples, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_an_hour_apart_and_not_too_many() {
        let mut history = SpaceHistory::default();
        let at = |minute: i64| Timestamp::from_second(1_700_000_000 + minute * 60).unwrap();
        let space = Space { used_bytes: 1, free_bytes: 2 };
        let noted = (0..600).filter(|minute| history.add(at(*minute), space)).count();
        assert_eq!(noted, 12);
        // A clock that goes back takes what it told with it.
        assert!(!history.add(at(120), space));
        assert_eq!(history.samples.len(), 3);
        assert!(history.add(at(-1), space));
        assert_eq!(history.samples.len(), 1);
        for hour in 0..2000 {
            history.add(at(1000 + hour * 60), space);
        }
        assert_eq!(history.samples.len(), SAMPLES_MAX);
    }
}
