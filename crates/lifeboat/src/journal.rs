//! How the runs of each source ended, day by day: a repository knows only what succeeded, and
//! `attempts` only how the last one ended.
//!
//! A small file of JSON for each source in each repository, in our state folder. Like those of
//! `attempts` they may be lost at any time, and are never the reason of a failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind};
use serde::{Deserialize, Serialize};

use crate::attempts;
use crate::notify::in_one;
use crate::private;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// So many days are known: a year and a month.
const DAYS_MAX: usize = 400;
/// So many letters of an error.
const LETTERS_MAX: usize = 200;

/// The runs of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Runs {
    /// How many went well.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) done: u64,
    /// How many failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) failed: u64,
    /// How many found no drive.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) absent: u64,
    /// Why the last one failed that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The days of a source, by the zone of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Each day on which it ran.
    pub(crate) days: BTreeMap<Date, Runs>,
}

fn path(session: &Session, env: &Env, target: &Target, url: &str) -> Option<PathBuf> {
    let folder = session.folders.locks.as_deref()?.parent()?.join("journal");
    Some(folder.join(format!("{}.json", attempts::key(env, target, url))))
}

/// What is known of a source in a repository.
pub(crate) fn of(session: &Session, env: &Env, target: &Target, url: &str) -> Journal {
    let bytes = path(session, env, target, url).and_then(|path| fs::read(path).ok());
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Writes down how a run ended.
pub(crate) fn note(
    session: &Session,
    env: &Env,
    (target, url): (&Target, &str),
    ended_at: Timestamp,
    failure: Option<&Error>,
) {
    let Some(path) = path(session, env, target, url) else { return };
    let mut journal = of(session, env, target, url);
    let zone = session.surroundings.time_zone.clone();
    journal.add(ended_at.to_zoned(zone).date(), failure);
    let text = serde_json::to_vec(&journal).map_err(std::io::Error::from);
    if let Err(error) = text.and_then(|text| private::replace(&path, &text)) {
        let message = format!("this run is in no journal: {}: {error}", path.display());
        session.printer.detail(&message);
    }
}

impl Journal {
    fn add(&mut self, day: Date, failure: Option<&Error>) {
        // A clock that was ahead must not push out what was.
        self.days.retain(|known, _| *known <= day);
        let runs = self.days.entry(day).or_default();
        match failure {
            None => runs.done += 1,
            Some(error) if error.kind() == Kind::StoreAbsent => runs.absent += 1,
            Some(error) => {
                runs.failed += 1;
                let words = units::one_line(&in_one(error));
                runs.error = Some(words.chars().take(LETTERS_MAX).collect());
            }
        }
        while self.days.len() > DAYS_MAX {
            self.days.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    #[test]
    fn days_are_counted_and_the_oldest_go() {
        let first: Date = "2026-01-01".parse().unwrap();
        let error = |kind, words: &str| Error::new(kind, words.to_owned());
        let mut journal = Journal::default();
        journal.add(first, None);
        journal.add(first, Some(&error(Kind::NoSpace, "the disk is full")));
        journal.add(first, Some(&error(Kind::CheckFailed, &"x".repeat(1_000))));
        journal.add(first, Some(&error(Kind::StoreAbsent, "no drive")));
        let runs = &journal.days[&first];
        assert_eq!((runs.done, runs.failed, runs.absent), (1, 2, 1));
        assert_eq!(runs.error.as_ref().map(String::len), Some(LETTERS_MAX));
        for day in 1..=500_i64 {
            journal.add(first.checked_add(day.days()).unwrap(), None);
        }
        assert_eq!(journal.days.len(), DAYS_MAX);
        assert!(serde_json::to_vec(&journal).unwrap().len() < 16_000);
        // What a wrong clock wrote is gone when the right one does.
        journal.add(first.checked_add(450.days()).unwrap(), None);
        let last = journal.days.last_key_value().unwrap();
        assert_eq!((*last.0, last.1.done), (first.checked_add(450.days()).unwrap(), 2));
    }
}
