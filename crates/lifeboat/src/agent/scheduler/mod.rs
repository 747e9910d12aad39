//! When which job runs: a state machine that knows neither clock nor process.
//!
//! It is told what happened and what time it is, and says what is to be done. Each rule is here:
//! - What was missed, by sleep, downtime or a run that took too long, is caught up once.
//! - A run that failed for a reason that may pass is tried again, later each time, until its next
//!   moment has come.
//! - A run that takes too long, or does nothing for too long, is asked to end, then killed. One
//!   that even that does not end gives its place to others, and is not begun again beside itself.
//! - Sources whose last run failed come after all others, and never take the last place.
//! - Upkeep (prune, copy, verify, drill) has one place of its own: neither waits for the other.
//! - A clock that was set back by more than a moment is followed; one that jumps ahead is a sleep.
//!
//! `step` has the rules, `due` the arithmetic of moments.

mod due;
mod step;
#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::retry::Retry;
use serde::{Deserialize, Serialize};

use crate::config::schedule::Schedule;

/// One job and when it runs.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its name: "backup-superchat".
    pub(crate) name: String,
    /// When it runs.
    pub(crate) schedule: Schedule,
    /// By which clocks, where the schedule says nothing.
    pub(crate) zone: TimeZone,
    /// How far its moment may be moved, so that not all begin at once.
    pub(crate) delay_ms_max: u64,
    /// How long it may take.
    pub(crate) limit_ms: Option<u64>,
    /// Beside which others it runs.
    pub(crate) lane: Lane,
}

/// Beside which others a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Backups, several at once.
    Backup,
    /// Upkeep of repositories, one at a time.
    Upkeep,
    /// What looks at everything: it waits for nobody.
    Watch,
}

/// What holds for all jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many backups run at once.
    pub(crate) at_once: usize,
    /// How long a run may do nothing.
    pub(crate) hang_ms: u64,
    /// How a failed run is tried again.
    pub(crate) retry: Retry,
    /// How long runs may go on when all is to end.
    pub(crate) drain_ms: u64,
}

/// Between being asked to end and being killed, and between that and being given up.
const GRACE_MS: u64 = 60_000;
const GIVE_UP_MS: u64 = 30_000;

/// From so many failures on, one source is in no more trouble than another.
const TROUBLE_MAX: u32 = 3;

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// The one of the calendar, which may jump.
    pub(crate) wall: Timestamp,
    /// The one that never goes back, in milliseconds.
    pub(crate) steady_ms: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Time passed.
    Tick,
    /// A run did something.
    Alive(String),
    /// A run ended.
    Ended(String, Outcome),
    /// Somebody wants a job to run now, whether its moment has come or not.
    Asked(String),
    /// Nothing is to begin by itself for so many milliseconds; with none, all goes on.
    Pause(u64),
    /// There are other jobs now, or other limits.
    Reload(Vec<Spec>, Limits),
    /// All is to end.
    Drain,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Done,
    /// Its repository is not there for now, which is no failure.
    Absent,
    /// Not well; whether that may pass by itself.
    Failed {
        /// Whether another attempt can help.
        may_pass: bool,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin a run. Where its moment is long past, by how much.
    Start {
        /// The job.
        job: String,
        /// How late it is, in milliseconds.
        late_ms: u64,
        /// Which attempt it is, from 0 on.
        attempt: u32,
    },
    /// Ask a run to end.
    Terminate {
        /// The job.
        job: String,
        /// Why.
        why: Why,
    },
    /// Kill it, with all that it began.
    Kill {
        /// The job.
        job: String,
    },
    /// It could not be killed: others have its place.
    GiveUp {
        /// The job.
        job: String,
    },
    /// A run will be tried again.
    Retry {
        /// The job.
        job: String,
        /// In how many milliseconds.
        in_ms: u64,
    },
    /// The clock of the calendar went back, by so many milliseconds.
    SetBack {
        /// By how much.
        by_ms: u64,
    },
    /// What is to be kept has changed.
    Save,
    /// Nothing runs any more, and nothing will.
    Finished,
}

/// Why a run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It took too long.
    Limit,
    /// It did nothing for too long.
    Hang,
    /// All is to end.
    Drain,
}

/// What is kept of a job between two processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Up to which moment its runs are done.
    pub(crate) handled: Timestamp,
    /// The schedule by which that is so.
    pub(crate) schedule: String,
    /// How many runs failed in a row.
    #[serde(default)]
    pub(crate) failures: u32,
}

/// All jobs.
pub(crate) struct Scheduler {
    jobs: BTreeMap<String, Job>,
    limits: Limits,
    /// What spreads the moments of this host.
    seed: u64,
    draining_since_ms: Option<u64>,
    /// Until when nothing begins by itself.
    paused_until_ms: u64,
    is_finished: bool,
}

struct Job {
    spec: Spec,
    handled: Timestamp,
    next: Option<Timestamp>,
    /// The moment of the run that goes on, or failed and is tried again.
    tried: Option<Timestamp>,
    attempts: u32,
    again_at_ms: Option<u64>,
    failures: u32,
    running: Option<Running>,
    /// It is not wanted any more, and still runs.
    is_gone: bool,
}

struct Running {
    begun_ms: u64,
    alive_ms: u64,
    ending: Option<Ending>,
}

struct Ending {
    why: Why,
    since_ms: u64,
    is_killed: bool,
    is_given_up: bool,
}

impl Scheduler {
    /// These jobs, with what is known of them from before.
    pub(crate) fn new(
        specs: Vec<Spec>,
        limits: Limits,
        kept: &BTreeMap<String, Kept>,
        seed: u64,
        now: Now,
    ) -> Self {
        let jobs = specs.into_iter().map(|spec| {
            let known = kept.get(&spec.name).filter(|kept| kept.schedule == schedule_of(&spec));
            let handled = known.map_or(now.wall, |known| known.handled);
            let failures = known.map_or(0, |known| known.failures);
            (spec.name.clone(), Job::new(spec, handled, failures))
        });
        let jobs = jobs.collect();
        let (draining_since_ms, paused_until_ms, is_finished) = (None, 0, false);
        Scheduler { jobs, limits, seed, draining_since_ms, paused_until_ms, is_finished }
    }

    /// What is to be kept.
    pub(crate) fn kept(&self) -> BTreeMap<String, Kept> {
        let kept = |job: &Job| Kept {
            handled: job.handled,
            schedule: schedule_of(&job.spec),
            failures: job.failures,
        };
        let jobs = self.jobs.iter().filter(|(_, job)| !job.is_gone);
        jobs.map(|(name, job)| (name.clone(), kept(job))).collect()
    }

    /// The job that is due first, and its moment.
    pub(crate) fn next(&self) -> Option<(&str, Timestamp)> {
        let waiting = self.jobs.iter().filter(|(_, job)| job.running.is_none() && !job.is_gone);
        let due = waiting.filter_map(|(name, job)| Some((name.as_str(), self.due_at(job)?)));
        due.min_by_key(|(_, at)| *at)
    }

    /// Each job: its name, its next moment, whether it runs, and whether its last run failed.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Option<Timestamp>, bool, bool)> {
        let wanted = self.jobs.iter().filter(|(_, job)| !job.is_gone);
        wanted.map(|(name, job)| {
            let next = self.due_at(job);
            (name.as_str(), next, job.running.is_some(), job.is_troubled())
        })
    }

    /// For how many milliseconds nothing begins by itself; zero for none.
    pub(crate) fn paused_ms(&self, now: Now) -> u64 {
        self.paused_until_ms.saturating_sub(now.steady_ms)
    }

    /// How many jobs run.
    pub(crate) fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.running.is_some()).count()
    }

    /// The jobs whose last run failed.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &str> {
        self.jobs.iter().filter(|(_, job)| job.is_troubled()).map(|(name, _)| name.as_str())
    }
}

impl Job {
    fn new(spec: Spec, handled: Timestamp, failures: u32) -> Self {
        let next = spec.schedule.next(handled, &spec.zone);
        Job {
            spec,
            handled,
            next,
            tried: None,
            attempts: 0,
            again_at_ms: None,
            failures,
            running: None,
            is_gone: false,
        }
    }

    /// Whether its last run failed.
    fn is_troubled(&self) -> bool {
        self.trouble() > 0
    }

    /// How often it failed of late, up to a number from which on all are alike.
    fn trouble(&self) -> u32 {
        (self.failures + self.attempts.min(1)).min(TROUBLE_MAX)
    }

    /// Whether it takes a place: what was given up does not.
    fn takes_place(&self) -> bool {
        let ending = self.running.as_ref().map(|running| &running.ending);
        ending.is_some_and(|ending| ending.as_ref().is_none_or(|ending| !ending.is_given_up))
    }
}

/// What tells one schedule from another.
fn schedule_of(spec: &Spec) -> String {
    spec.schedule.on_calendar().join("; ")
}
