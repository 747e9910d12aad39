//! What a host that asks its server leaves in a repository, so that who sees the repository alone
//! does not take a cluster that rests for one that is lost.

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::marks;
use lifeboat_core::repository::Repository;
use lifeboat_core::rested::{self, Rested};
use uuid::Uuid;

use super::facts::LogEnd;

/// What is to be said of the end of a log.
fn note(source: Uuid, end: LogEnd, until: Timestamp, host: &str) -> Rested {
    Rested {
        format: marks::FORMAT,
        source,
        system: end.system.to_string(),
        timeline: end.timeline,
        end: end.place.to_string(),
        until,
        host: host.to_owned(),
    }
}

/// Until when nothing was committed behind the end of a log, as its host noted it.
pub(crate) fn noted(
    repository: &Repository,
    (folder, source): (&str, Uuid),
    end: LogEnd,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let found = rested::read(repository, folder, &end.system.to_string())?;
    Ok(found.and_then(|found| found.holds_until(&note(source, end, now, ""), now)))
}

/// What this host knows of the end of a log, and what was promised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The end of the log.
    pub(crate) end: LogEnd,
    /// The newest moment that it tells of.
    pub(crate) newest_at: Timestamp,
    /// Until when its server committed nothing behind that.
    pub(crate) until: Timestamp,
    /// How old it may be, in milliseconds.
    pub(crate) age_ms_max: u64,
}

impl Asked {
    /// Notes it in the repository, where the archive alone will soon be too old and no note says
    /// so: twice within the time that was promised, and while writes come, never. Whether it did.
    pub(crate) fn leave(
        self,
        repository: &Repository,
        (folder, source): (&str, Uuid),
        (host, now): (&str, Timestamp),
    ) -> Result<bool> {
        if !self.is_due(self.newest_at, now) {
            return Ok(false);
        }
        let before = noted(repository, (folder, source), self.end, now)?;
        let is_news = before.is_none_or(|before| self.is_due(before, now) && before < self.until);
        if is_news {
            rested::note(repository, folder, &note(source, self.end, self.until, host))?;
        }
        Ok(is_news)
    }

    /// Whether half of the promised time has gone since then.
    fn is_due(self, since: Timestamp, now: Timestamp) -> bool {
        let age_ms = now.duration_since(since).as_millis();
        age_ms.saturating_mul(2) >= i128::from(self.age_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use lifeboat_postgres::wal::Lsn;

    use super::*;

    #[test]
    fn half_of_the_promised_time_must_have_gone() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let end = LogEnd { system: 7, timeline: 1, place: Lsn(0x300_0060), at: None };
        let asked = Asked { end, newest_at: now, until: now, age_ms_max: 3_600_000 };
        let ago = |minutes: i64| now - SignedDuration::from_mins(minutes);
        assert!(!asked.is_due(ago(29), now) && asked.is_due(ago(30), now));
        assert!(!asked.is_due(ago(-600), now));
        assert_eq!(note(Uuid::nil(), end, now, "h").end, "0/3000060");
    }
}
