//! Moments: which one is due, which are missed, and by how much each is moved.

use jiff::{SignedDuration, Timestamp};

use super::{Job, Now, Scheduler};

/// A clock that goes back by less is being set right, and nothing is done about it.
const SET_BACK_MS: u64 = 10 * 60_000;

/// Why a job is to run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its moment has come, the first of those that were not handled.
    Moment(Timestamp),
    /// It failed, and it is time to try again.
    Again(Timestamp),
}

impl Scheduler {
    /// The next moment of a job, moved by its share of the delay: the same for a job, a moment and
    /// a host, so that it can be foretold.
    pub(super) fn due_at(&self, job: &Job) -> Option<Timestamp> {
        let moment = job.next?;
        let second = moment.as_second().to_le_bytes();
        let bytes = job.spec.name.bytes().chain(second).chain(self.seed.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let delay_ms = (hash >> 16) % (job.spec.delay_ms_max + 1);
        let delay = SignedDuration::from_millis(i64::try_from(delay_ms).unwrap_or(i64::MAX));
        Some(moment.saturating_add(delay).unwrap_or(moment))
    }

    /// Why a job that does not run is due, if it is.
    pub(super) fn due(&self, job: &Job, now: Now) -> Option<Due> {
        // It is only ever moved to later: most moments are far, and asked for often.
        let has_come = job.next.is_some_and(|moment| moment <= now.wall);
        if has_come && self.due_at(job).is_some_and(|at| at <= now.wall) {
            return job.next.map(Due::Moment);
        }
        match (job.again_at_ms, job.tried) {
            (Some(at_ms), Some(moment)) if at_ms <= now.steady_ms => Some(Due::Again(moment)),
            _ => None,
        }
    }

    /// Follows a clock that was set back: what was done by the wrong one does not count. Says by
    /// how much it went back.
    pub(super) fn follow_clock(&mut self, now: Now) -> Option<u64> {
        let mut back_ms = None;
        for job in self.jobs.values_mut() {
            let latest = job.tried.map_or(job.handled, |tried| tried.max(job.handled));
            let ahead_ms = latest.as_millisecond().saturating_sub(now.wall.as_millisecond());
            let ahead_ms = u64::try_from(ahead_ms).unwrap_or(0);
            if ahead_ms <= SET_BACK_MS {
                continue;
            }
            job.handled = job.handled.min(now.wall);
            job.tried = job.tried.map(|tried| tried.min(now.wall));
            job.next = job.spec.schedule.next(now.wall, &job.spec.zone);
            back_ms = back_ms.max(Some(ahead_ms));
        }
        back_ms
    }
}
