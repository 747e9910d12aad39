//! How a source stands: the age of its newest good backup against what was promised. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::catalog::SourceEntry;
use crate::manifest::{Condition, Manifest};

/// The verdict on one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A good backup, young enough or without a promise.
    Fresh,
    /// The newest good backup is older than promised.
    Stale,
    /// There never was a good backup.
    Never,
}

/// How one source stands.
#[derive(Clone, Debug)]
pub struct SourceStatus<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// The newest backup whose database was checked and found right.
    pub newest_good: Option<&'a Manifest>,
    /// Its age.
    pub age: Option<SignedDuration>,
    /// How many backups there are, good or not.
    pub backups: usize,
    /// What they take in the repository, in bytes.
    pub stored_bytes: u64,
    /// Newer backups that were not checked, or that are of a damaged database.
    pub newer_doubtful: usize,
    /// Backups dated in the future: a clock was or is wrong. They never count as the newest.
    pub in_future: usize,
}

/// Judges one source at `now`. `entry` is `None` for a configured source without a folder.
pub fn of_source(
    entry: Option<&SourceEntry>,
    now: Timestamp,
    age_max: Option<SignedDuration>,
) -> SourceStatus<'_> {
    let backups = entry.map_or(&[][..], |entry| &entry.backups);
    let past = backups.iter().filter(|backup| backup.taken_at <= now);
    let newest_good = past.clone().rev().find(|backup| backup.condition == Condition::Good);
    let age = newest_good.map(|backup| now.duration_since(backup.taken_at));
    let newer =
        |backup: &&Manifest| newest_good.is_none_or(|newest| backup.taken_at > newest.taken_at);
    SourceStatus {
        verdict: match (age, age_max) {
            (None, _) => Verdict::Never,
            (Some(age), Some(age_max)) if age > age_max => Verdict::Stale,
            (Some(_), _) => Verdict::Fresh,
        },
        newest_good,
        age,
        backups: backups.len(),
        stored_bytes: backups.iter().map(Manifest::stored_bytes).sum(),
        newer_doubtful: past.filter(newer).count(),
        in_future: backups.iter().filter(|backup| backup.taken_at > now).count(),
    }
}
