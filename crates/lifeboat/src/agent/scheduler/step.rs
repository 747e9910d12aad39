//! What happened, and what is to be done about it.

use std::collections::BTreeMap;

use super::due::Due;
use super::{
    Action, Ending, Event, GIVE_UP_MS, GRACE_MS, Job, Lane, Limits, Now, Outcome, Running,
    Scheduler, Spec, Why, schedule_of,
};

/// A run that begins so long after its moment is said to be late.
const LATE_MS: i64 = 5 * 60_000;

impl Scheduler {
    /// Takes note of what happened, and says what is to be done.
    pub(crate) fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Alive(name) => {
                if let Some(running) = self.jobs.get_mut(&name).and_then(|job| job.running.as_mut())
                {
                    running.alive_ms = now.steady_ms;
                }
                return actions;
            }
            Event::Ended(name, outcome) => self.ended(now, &name, outcome, &mut actions),
            Event::Asked(name) => self.asked(now, &name, &mut actions),
            Event::Pause(for_ms) => self.paused_until_ms = now.steady_ms.saturating_add(for_ms),
            Event::Reload(specs, limits) => self.reload(now, specs, limits, &mut actions),
            Event::Drain => {
                let since = self.draining_since_ms.get_or_insert(now.steady_ms);
                // Asked twice, it waits no longer.
                if *since != now.steady_ms {
                    self.limits.drain_ms = 0;
                }
            }
        }
        if let Some(by_ms) = self.follow_clock(now) {
            actions.extend([Action::SetBack { by_ms }, Action::Save]);
        }
        self.look_at_running(now, &mut actions);
        match self.draining_since_ms {
            None if self.paused_ms(now) > 0 => {}
            None => self.start_some(now, &mut actions),
            Some(_) if !self.is_finished && !self.jobs.values().any(Job::takes_place) => {
                self.is_finished = true;
                actions.push(Action::Finished);
            }
            Some(_) => {}
        }
        actions
    }

    fn ended(&mut self, now: Now, name: &str, outcome: Outcome, actions: &mut Vec<Action>) {
        let retry = self.limits.retry;
        let seed = self.seed;
        let Some(job) = self.jobs.get_mut(name) else { return };
        let Some(running) = job.running.take() else { return };
        if job.is_gone {
            self.jobs.remove(name);
            return;
        }
        let ended_by = running.ending.map(|ending| ending.why);
        let is_done = |job: &mut Job| {
            job.handled = job.tried.take().map_or(job.handled, |tried| tried.max(job.handled));
            (job.attempts, job.again_at_ms) = (0, None);
        };
        match outcome {
            Outcome::Done => {
                is_done(job);
                job.failures = 0;
            }
            Outcome::Absent => is_done(job),
            // It is begun anew by the next process: what it was for is not done.
            Outcome::Failed { .. } if ended_by == Some(Why::Drain) => return,
            Outcome::Failed { may_pass } => {
                let may_pass = may_pass || ended_by.is_some();
                if may_pass && job.attempts < retry.times {
                    job.attempts += 1;
                    let in_ms = retry.delay_ms(job.attempts, seed ^ now.steady_ms);
                    job.again_at_ms = Some(now.steady_ms + in_ms);
                    actions.push(Action::Retry { job: name.to_owned(), in_ms });
                } else {
                    is_done(job);
                    job.failures = job.failures.saturating_add(1);
                }
            }
        }
        actions.push(Action::Save);
    }

    fn reload(&mut self, now: Now, specs: Vec<Spec>, limits: Limits, actions: &mut Vec<Action>) {
        self.limits = limits;
        let mut before: BTreeMap<String, Job> = std::mem::take(&mut self.jobs);
        for spec in specs {
            let job = match before.remove(&spec.name) {
                Some(mut job) if schedule_of(&job.spec) == schedule_of(&spec) => {
                    (job.spec, job.is_gone) = (spec, false);
                    job
                }
                Some(job) => Job {
                    running: job.running,
                    tried: job.tried,
                    ..Job::new(spec, now.wall, job.failures)
                },
                None => Job::new(spec, now.wall, 0),
            };
            self.jobs.insert(job.spec.name.clone(), job);
        }
        for (name, job) in before.into_iter().filter(|(_, job)| job.running.is_some()) {
            self.jobs.insert(name, Job { is_gone: true, next: None, again_at_ms: None, ..job });
        }
        actions.push(Action::Save);
    }

    /// Begins what somebody wants now, whatever else runs: a person waits for it.
    fn asked(&mut self, now: Now, name: &str, actions: &mut Vec<Action>) {
        let may_run = |job: &Job| job.running.is_none() && !job.is_gone;
        if self.draining_since_ms.is_none() && self.jobs.get(name).is_some_and(may_run) {
            self.start(now, name, Due::Moment(now.wall), actions);
        }
    }

    /// Ends what takes too long.
    fn look_at_running(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Limits { hang_ms, drain_ms, .. } = self.limits;
        let drains = self
            .draining_since_ms
            .is_some_and(|since_ms| now.steady_ms.saturating_sub(since_ms) >= drain_ms);
        for (name, job) in &mut self.jobs {
            let limit_ms = job.spec.limit_ms.unwrap_or(u64::MAX);
            let Some(running) = &mut job.running else { continue };
            let since = |ms: u64| now.steady_ms.saturating_sub(ms);
            let Some(ending) = &mut running.ending else {
                let why = match () {
                    () if drains => Why::Drain,
                    () if since(running.begun_ms) >= limit_ms => Why::Limit,
                    () if since(running.alive_ms) >= hang_ms => Why::Hang,
                    () => continue,
                };
                let since_ms = now.steady_ms;
                let ending = Ending { why, since_ms, is_killed: false, is_given_up: false };
                running.ending = Some(ending);
                actions.push(Action::Terminate { job: name.clone(), why });
                continue;
            };
            let waited_ms = since(ending.since_ms);
            if !ending.is_killed && waited_ms >= GRACE_MS {
                ending.is_killed = true;
                actions.push(Action::Kill { job: name.clone() });
            }
            if !ending.is_given_up && waited_ms >= GRACE_MS + GIVE_UP_MS {
                ending.is_given_up = true;
                actions.push(Action::GiveUp { job: name.clone() });
            }
        }
    }

    /// Begins what is due, as far as there are places.
    fn start_some(&mut self, now: Now, actions: &mut Vec<Action>) {
        let mut due: Vec<(u32, String, Due)> = Vec::new();
        for (name, job) in &self.jobs {
            if job.running.is_some() || job.is_gone {
                continue;
            }
            if let Some(reason) = self.due(job, now) {
                due.push((job.trouble(), name.clone(), reason));
            }
        }
        // Those without trouble first, then whoever waited longest.
        due.sort_by_key(|(trouble, _, reason)| match reason {
            Due::Moment(moment) | Due::Again(moment) => (*trouble, *moment),
        });
        for (trouble, name, reason) in due {
            let Some(job) = self.jobs.get(&name) else { continue };
            if self.has_place(job.spec.lane, trouble > 0) {
                self.start(now, &name, reason, actions);
            }
        }
    }

    fn has_place(&self, lane: Lane, is_troubled: bool) -> bool {
        let taken = |job: &&Job| job.spec.lane == lane && job.takes_place();
        let taken = self.jobs.values().filter(taken);
        let places = match lane {
            Lane::Upkeep | Lane::Watch => 1,
            Lane::Backup => self.limits.at_once.max(1),
        };
        // One place is never for those in trouble, where there are two.
        let of_trouble = taken.clone().filter(|job| job.is_troubled()).count();
        let may_take = !is_troubled || places == 1 || of_trouble + 1 < places;
        taken.count() < places && may_take
    }

    fn start(&mut self, now: Now, name: &str, reason: Due, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(name) else { return };
        let (Due::Moment(since) | Due::Again(since)) = reason;
        let moment = match reason {
            Due::Moment(first) => {
                // What was missed since then is done by this run, too.
                let (schedule, zone) = (&job.spec.schedule, &job.spec.zone);
                let moment = schedule.newest(first, now.wall, zone).unwrap_or(first);
                // What was to be tried again never came to be.
                job.failures = job.failures.saturating_add(u32::from(job.attempts > 0));
                (job.attempts, job.again_at_ms) = (0, None);
                job.next = job.spec.schedule.next(moment, &job.spec.zone);
                moment
            }
            Due::Again(moment) => {
                job.again_at_ms = None;
                moment
            }
        };
        job.tried = Some(moment);
        let begun_ms = now.steady_ms;
        job.running = Some(Running { begun_ms, alive_ms: begun_ms, ending: None });
        let late_ms = now.wall.as_millisecond().saturating_sub(since.as_millisecond());
        let is_late = late_ms > LATE_MS && job.attempts == 0;
        let late_ms = if is_late { u64::try_from(late_ms).unwrap_or(0) } else { 0 };
        actions.push(Action::Start { job: name.to_owned(), late_ms, attempt: job.attempts });
    }
}
