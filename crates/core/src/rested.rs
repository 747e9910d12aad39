//! That the log of a cluster ends where its server stopped writing: a note of the host that asked
//! it, for whoever sees the repository alone.
//!
//! A cluster that rests archives nothing, and its log grows old as that of a host that is gone. So
//! the host leaves a note, `rested/<folder>/<system>.json`, with the end of the log that it means.
//! It is signed by nothing: it silences an alarm for a time, and no restore reads it. It is
//! replaced, the one before is deleted first.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Kind, Result};
use crate::marks::{self, MarkKind};
use crate::repository::Repository;
use crate::store::{ObjectName, get_bytes, put_bytes};

/// One of them is smaller, in bytes.
const BYTES_MAX: u64 = 64 << 10;
/// The clocks of two hosts may differ by so much.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Says until when a server had committed nothing behind the end of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rested {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The cluster's system identifier.
    pub system: String,
    /// The timeline of the log's end.
    pub timeline: u32,
    /// Where the log ends, as the server writes it: `0/3000060`.
    pub end: String,
    /// Until then nothing was committed behind it, by the clock of that host.
    pub until: Timestamp,
    /// Which host asked.
    pub host: String,
}

impl Rested {
    /// Until when the same end of the same log of that source is all that there is, where this says
    /// so at a time.
    pub fn holds_until(&self, same: &Rested, now: Timestamp) -> Option<Timestamp> {
        let of = |it: &Rested| (it.source, it.system.clone(), it.timeline, it.end.clone());
        let is_past = self.until <= now.saturating_add(SKEW_MAX).unwrap_or(now);
        (of(self) == of(same) && is_past).then(|| self.until.min(now))
    }
}

fn object_of(folder: &str, system: &str) -> Result<ObjectName> {
    ObjectName::new(MarkKind::Rested.object(folder, system))
}

/// The note on a cluster, if there is one that can be read.
pub fn read(repository: &Repository, folder: &str, system: &str) -> Result<Option<Rested>> {
    let object = object_of(folder, system)?;
    match get_bytes(repository.store(), &object, BYTES_MAX) {
        Ok(bytes) => Ok(marks::parse(&bytes, object.as_str()).ok()),
        Err(error) if error.kind() == Kind::NotCovered => Ok(None),
        Err(error) => Err(error),
    }
}

/// Leaves one. What was noted before is replaced.
pub fn note(repository: &Repository, folder: &str, rested: &Rested) -> Result<()> {
    let (store, object) = (repository.store(), object_of(folder, &rested.system)?);
    if store.head(&object)?.is_some() {
        store.delete(&object)?;
    }
    match put_bytes(store, &object, &marks::to_bytes(rested)) {
        // Another watch was faster: its word is as good.
        Err(error) if error.kind() == Kind::Refused => Ok(()),
        put => put,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_end_of_one_log_and_never_of_what_is_to_come() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let note = Rested {
            format: marks::FORMAT,
            source: Uuid::from_u128(7),
            system: "73".into(),
            timeline: 1,
            end: "0/3000060".into(),
            until: now - SignedDuration::from_secs(60),
            host: "h".into(),
        };
        let of = |until: Timestamp, same: &Rested| {
            Rested { until, ..note.clone() }.holds_until(same, now)
        };
        assert_eq!(of(note.until, &note), Some(note.until));
        assert_eq!(of(now + SignedDuration::from_secs(60), &note), Some(now));
        assert_eq!(of(now + SignedDuration::from_mins(6), &note), None);
        for other in [
            Rested { source: Uuid::nil(), ..note.clone() },
            Rested { system: "74".into(), ..note.clone() },
            Rested { timeline: 2, ..note.clone() },
            Rested { end: "0/4000000".into(), ..note.clone() },
        ] {
            assert_eq!(of(note.until, &other), None);
        }
    }
}
