//! Years of schedules in a moment: sources that fail, hang or cannot be killed, hosts that sleep,
//! clocks that are set, an agent that is killed and begun anew. Seeded: a failure says its seed.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::*;

/// The time between two looks.
const TICK_S: i64 = 240;

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// What the runs of a job are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    Fails,
    Hangs,
    /// Goes on whatever is done to it.
    Immortal,
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(name: &str, schedule: &str, zone: &str, lane: Lane) -> Spec {
    Spec {
        name: name.to_owned(),
        schedule: Schedule::read(schedule).unwrap(),
        zone: TimeZone::get(zone).unwrap(),
        delay_ms_max: 300_000,
        limit_ms: Some(6 * 3_600_000),
        lane,
    }
}

const LIMITS: Limits = Limits {
    at_once: 3,
    hang_ms: 30 * 60_000,
    retry: Retry { times: 3, delay_ms: 60_000, delay_ms_max: 900_000 },
    drain_ms: 60_000,
};

struct World {
    dice: Dice,
    scheduler: Scheduler,
    now: Now,
    /// When each run ends by itself, by the steady clock; `None` for never.
    runs: BTreeMap<String, Option<u64>>,
    manners: BTreeMap<String, Manner>,
    starts: BTreeMap<String, Vec<Timestamp>>,
    kills: usize,
}

impl World {
    fn new(seed: u64, jobs: Vec<(Spec, Manner)>, limits: Limits, begin: Timestamp) -> Self {
        let now = Now { wall: begin, steady_ms: 0 };
        let manners = jobs.iter().map(|(spec, manner)| (spec.name.clone(), *manner)).collect();
        let specs = jobs.into_iter().map(|(spec, _)| spec).collect();
        World {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            scheduler: Scheduler::new(specs, limits, &BTreeMap::new(), seed, now),
            now,
            runs: BTreeMap::new(),
            manners,
            starts: BTreeMap::new(),
            kills: 0,
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.now.wall += SignedDuration::from_secs(seconds);
        self.now.steady_ms += u64::try_from(seconds).unwrap() * 1000;
    }

    fn look(&mut self) {
        let over: Vec<String> = self
            .runs
            .iter()
            .filter(|(_, end)| end.is_some_and(|end| end <= self.now.steady_ms))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.end(&name);
        }
        for name in self.runs.keys().cloned().collect::<Vec<_>>() {
            if self.manners[&name] == Manner::Good {
                self.scheduler.step(self.now, Event::Alive(name));
            }
        }
        self.tell(Event::Tick);
    }

    fn end(&mut self, name: &str) {
        self.runs.remove(name);
        let outcome = match self.manners[name] {
            Manner::Good if self.dice.below(50) == 0 => Outcome::Failed { may_pass: true },
            Manner::Good => Outcome::Done,
            _ => Outcome::Failed { may_pass: self.dice.below(2) == 0 },
        };
        self.tell(Event::Ended(name.to_owned(), outcome));
    }

    fn tell(&mut self, event: Event) {
        for action in self.scheduler.step(self.now, event) {
            match action {
                Action::Start { job, .. } => {
                    let end_ms = match self.manners[&job] {
                        Manner::Good => Some(self.dice.below(20 * 60_000)),
                        Manner::Fails => Some(self.dice.below(90_000)),
                        Manner::Hangs | Manner::Immortal => None,
                    };
                    let end_ms = end_ms.map(|length| self.now.steady_ms + length);
                    self.starts.entry(job.clone()).or_default().push(self.now.wall);
                    assert_eq!(self.runs.insert(job, end_ms), None, "twice at once");
                }
                Action::Kill { job } => {
                    self.kills += 1;
                    if self.manners[&job] != Manner::Immortal {
                        self.end(&job);
                    }
                }
                _ => {}
            }
        }
        let upkeep = self.runs.keys().filter(|name| name.starts_with("upkeep")).count();
        let immortal = self.manners.values().filter(|it| **it == Manner::Immortal).count();
        assert!(upkeep <= 1);
        assert!(self.runs.len() - upkeep <= LIMITS.at_once + immortal, "{:?}", self.runs);
    }

    /// As after a kill of the process: its runs are gone, what is kept is not.
    fn begin_anew(&mut self) {
        self.runs.retain(|name, _| self.manners[name] == Manner::Immortal);
        let specs: Vec<Spec> = self.scheduler.jobs.values().map(|job| job.spec.clone()).collect();
        // An immortal run of before is a matter of the lock of its source.
        self.runs.clear();
        let (kept, seed) = (self.scheduler.kept(), self.scheduler.seed);
        let text = serde_json::to_string(&kept).unwrap();
        let kept = serde_json::from_str(&text).unwrap();
        self.scheduler = Scheduler::new(specs, LIMITS, &kept, seed, self.now);
    }
}

fn jobs() -> Vec<(Spec, Manner)> {
    vec![
        (spec("hourly", "hourly", "Europe/Berlin", Lane::Backup), Manner::Good),
        (spec("nightly", "daily 02:30", "Europe/Berlin", Lane::Backup), Manner::Good),
        (spec("far", "daily 02:30", "Australia/Lord_Howe", Lane::Backup), Manner::Good),
        (spec("cron", "30 1 1,15 * 0", "America/New_York", Lane::Backup), Manner::Good),
        (spec("calendar", "Mon..Fri 0/6:15", "UTC", Lane::Backup), Manner::Good),
        (spec("upkeep-prune", "30 4 * * *", "Europe/Berlin", Lane::Upkeep), Manner::Good),
        (spec("upkeep-verify", "0 5 * * 0", "Europe/Berlin", Lane::Upkeep), Manner::Good),
        (spec("fails", "*/10 * * * *", "UTC", Lane::Backup), Manner::Fails),
        (spec("fails-too", "*/5 * * * *", "UTC", Lane::Backup), Manner::Fails),
        (spec("hangs", "hourly", "UTC", Lane::Backup), Manner::Hangs),
        (spec("hangs-too", "*/20 * * * *", "UTC", Lane::Backup), Manner::Hangs),
        (spec("immortal", "hourly", "UTC", Lane::Backup), Manner::Immortal),
    ]
}

/// Each moment of each healthy job is followed by a start, however badly the others do; and no
/// moment by two, unless the run failed.
#[test]
fn no_moment_is_missed_and_none_comes_twice_in_years_with_clock_changes() {
    let is_long = std::env::var_os("LIFEBOAT_LONG_TESTS").is_some();
    let (seeds, until) =
        if is_long { (6, "2029-03-15T00:00:00Z") } else { (1, "2027-04-15T00:00:00Z") };
    let (begin, until) = (at("2026-01-01T00:00:00Z"), at(until));
    for seed in 1..=seeds {
        let mut world = World::new(seed, jobs(), LIMITS, begin);
        // When nobody looked: from, until.
        let mut away: Vec<(Timestamp, Timestamp)> = Vec::new();
        while world.now.wall < until {
            match world.dice.below(20_000) {
                // A sleep: the steady clock stands.
                0 => {
                    let hours = 1 + i64::try_from(world.dice.below(60)).unwrap();
                    let from = world.now.wall;
                    world.now.wall += SignedDuration::from_hours(hours);
                    away.push((from, world.now.wall));
                }
                1 => world.begin_anew(),
                _ => world.pass(TICK_S),
            }
            world.look();
        }
        assert!(world.kills > 100, "{}", world.kills);
        for (spec, _) in jobs().iter().filter(|(_, manner)| *manner == Manner::Good) {
            check(seed, spec, &world.starts[&spec.name], &away, (begin, until));
        }
    }
}

fn check(
    seed: u64,
    spec: &Spec,
    starts: &[Timestamp],
    away: &[(Timestamp, Timestamp)],
    (begin, until): (Timestamp, Timestamp),
) {
    let moments = spec.schedule.moments(begin, until, &spec.zone, usize::MAX);
    // The delay, and as long as others may have the place: good runs take 20 minutes.
    let patience = SignedDuration::from_mins(65);
    for moment in &moments {
        let slept = away.iter().find(|(from, to)| *from <= *moment + patience && moment <= to);
        let latest = slept.map_or(*moment, |(_, to)| *to) + patience;
        let after = starts.partition_point(|start| start < moment);
        let started = starts.get(after).is_some_and(|start| *start <= latest);
        let around = &starts[after.saturating_sub(3)..(after + 3).min(starts.len())];
        let end_is_near = latest > until;
        let what = || format!("seed {seed}: {} at {moment}: {around:?}", spec.name);
        assert!(started || end_is_near, "{}", what());
    }
    // One in 50 fails and is tried again, a process that was killed begins its runs again.
    let most = moments.len() + moments.len() / 20 + 20;
    assert!(starts.len() <= most, "seed {seed}: {}: {} of {most}", spec.name, starts.len());
}

#[test]
fn a_clock_that_was_years_ahead_stops_nothing() {
    let job = spec("job", "hourly", "UTC", Lane::Backup);
    let mut world = World::new(1, vec![(job, Manner::Good)], LIMITS, at("2026-01-01T00:30:00Z"));
    world.now.wall = at("2036-01-01T00:30:00Z");
    world.look();
    world.pass(3600);
    world.look();
    assert_eq!(world.starts["job"].len(), 2, "ten years are caught up once, then an hour");
    world.now.wall = at("2026-01-01T02:10:00Z");
    for _ in 0..120 {
        world.pass(60);
        world.look();
    }
    let starts = &world.starts["job"];
    assert!(starts[3] < at("2026-01-01T04:06:00Z"), "{starts:?}");
}

#[test]
fn what_was_missed_is_caught_up_once_and_is_known_after_a_restart() {
    let job = || spec("job", "daily 02:00", "UTC", Lane::Backup);
    let begin = Now { wall: at("2026-01-01T12:00:00Z"), steady_ms: 0 };
    let mut first = Scheduler::new(vec![job()], LIMITS, &BTreeMap::new(), 1, begin);
    assert_eq!(first.step(begin, Event::Tick), []);
    let kept = first.kept();
    let later = Now { wall: at("2026-01-09T01:00:00Z"), steady_ms: 5 };
    let mut second = Scheduler::new(vec![job()], LIMITS, &kept, 1, later);
    let late_ms = (6 * 24 + 23) * 3_600_000;
    let start = Action::Start { job: "job".into(), late_ms, attempt: 0 };
    assert_eq!(second.step(later, Event::Tick), std::slice::from_ref(&start));
    // A process that ended in the middle of it leaves it to the next one.
    let mut third = Scheduler::new(vec![job()], LIMITS, &second.kept(), 1, later);
    assert_eq!(third.step(later, Event::Tick), [start]);
    assert_eq!(third.step(later, Event::Ended("job".into(), Outcome::Done)), [Action::Save]);
    assert_eq!(third.step(later, Event::Tick), []);
    // Another schedule is no run that was missed.
    let other = spec("job", "hourly", "UTC", Lane::Backup);
    let mut fourth = Scheduler::new(vec![other], LIMITS, &kept, 1, later);
    assert_eq!(fourth.step(later, Event::Tick), []);
}

#[test]
fn retries_come_later_each_time_and_end_with_the_next_moment() {
    let job = spec("job", "hourly", "UTC", Lane::Backup);
    let mut now = Now { wall: at("2026-01-01T00:59:00Z"), steady_ms: 0 };
    let mut scheduler = Scheduler::new(vec![job], LIMITS, &BTreeMap::new(), 1, now);
    let mut attempts = Vec::new();
    for _ in 0..60 * 60 {
        now.wall += SignedDuration::from_secs(1);
        now.steady_ms += 1000;
        for action in scheduler.step(now, Event::Tick) {
            if let Action::Start { attempt, .. } = action {
                attempts.push((attempt, now.steady_ms));
                let failed = Outcome::Failed { may_pass: true };
                scheduler.step(now, Event::Ended("job".into(), failed));
            }
        }
    }
    let numbers: Vec<u32> = attempts.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    let gaps: Vec<u64> = attempts.windows(2).map(|two| two[1].1 - two[0].1).collect();
    assert!(gaps[0] <= 61_000 && gaps[2] >= 120_000, "{gaps:?}");
    assert_eq!(scheduler.failing().collect::<Vec<_>>(), ["job"]);
    // What cannot pass is not tried again.
    now.wall = at("2026-01-01T02:06:00Z");
    assert!(matches!(scheduler.step(now, Event::Tick)[..], [Action::Start { .. }]));
    let failed = Outcome::Failed { may_pass: false };
    assert_eq!(scheduler.step(now, Event::Ended("job".into(), failed)), [Action::Save]);
}

#[test]
fn a_drain_waits_then_asks_then_kills_then_leaves() {
    let job = spec("job", "hourly", "UTC", Lane::Backup);
    let mut now = Now { wall: at("2026-01-01T00:59:00Z"), steady_ms: 0 };
    let mut scheduler = Scheduler::new(vec![job], LIMITS, &BTreeMap::new(), 1, now);
    now.wall = at("2026-01-01T01:06:00Z");
    scheduler.step(now, Event::Tick);
    assert_eq!(scheduler.running(), 1);
    assert_eq!(scheduler.step(now, Event::Drain), []);
    let mut after = |ms: u64| scheduler.step(Now { steady_ms: ms, ..now }, Event::Tick);
    assert_eq!(after(59_000), []);
    let job = || "job".to_owned();
    assert_eq!(after(60_000), [Action::Terminate { job: job(), why: Why::Drain }]);
    assert_eq!(after(60_000 + GRACE_MS), [Action::Kill { job: job() }]);
    let last = after(60_000 + GRACE_MS + GIVE_UP_MS);
    assert_eq!(last, [Action::GiveUp { job: job() }, Action::Finished]);
    assert_eq!(scheduler.kept()["job"].handled, at("2026-01-01T00:59:00Z"), "it is caught up");
}

#[test]
fn other_jobs_after_a_reload_leave_the_runs_alone() {
    let of = |name: &str, schedule: &str| spec(name, schedule, "UTC", Lane::Backup);
    let mut now = Now { wall: at("2026-01-01T00:59:00Z"), steady_ms: 0 };
    let both = vec![of("a", "hourly"), of("b", "hourly")];
    let mut scheduler = Scheduler::new(both, LIMITS, &BTreeMap::new(), 1, now);
    now.wall = at("2026-01-01T01:06:00Z");
    scheduler.step(now, Event::Tick);
    scheduler.step(now, Event::Reload(vec![of("b", "*/30 * * * *")], LIMITS));
    assert_eq!(scheduler.running(), 2);
    for name in ["a", "b"] {
        scheduler.step(now, Event::Ended(name.into(), Outcome::Done));
    }
    assert_eq!(scheduler.kept().keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(scheduler.next().map(|(name, _)| name), Some("b"));
    now.wall = at("2026-01-01T01:36:00Z");
    let actions = scheduler.step(now, Event::Tick);
    assert!(matches!(&actions[..], [Action::Start { job, .. }] if job == "b"), "{actions:?}");
}

#[test]
fn what_is_asked_for_runs_at_once_and_once_and_a_pause_is_caught_up() {
    let of = |name: &str| spec(name, "hourly", "UTC", Lane::Backup);
    let mut now = Now { wall: at("2026-01-01T00:30:00Z"), steady_ms: 0 };
    let limits = Limits { at_once: 1, ..LIMITS };
    let mut scheduler = Scheduler::new(vec![of("a"), of("b")], limits, &BTreeMap::new(), 1, now);
    for name in ["a", "b"] {
        // Also where all places are taken, and not beside itself.
        let begun = scheduler.step(now, Event::Asked(name.into()));
        assert!(matches!(&begun[..], [Action::Start { job, .. }] if job == name), "{begun:?}");
        assert_eq!(scheduler.step(now, Event::Asked(name.into())), []);
    }
    assert_eq!(scheduler.step(now, Event::Asked("c".into())), []);
    for name in ["a", "b"] {
        scheduler.step(now, Event::Ended(name.into(), Outcome::Done));
    }
    assert_eq!(scheduler.step(now, Event::Pause(2 * 3_600_000)), []);
    now = Now { wall: at("2026-01-01T02:10:00Z"), steady_ms: 6_000_000 };
    assert_eq!(scheduler.step(now, Event::Tick), []);
    assert_eq!(scheduler.paused_ms(now), 1_200_000);
    let begun = scheduler.step(now, Event::Pause(0));
    assert!(matches!(&begun[..], [Action::Start { late_ms: 4_200_000, .. }]), "{begun:?}");
    let begun = scheduler.step(now, Event::Ended("a".into(), Outcome::Done));
    assert!(matches!(&begun[..], [.., Action::Start { job, .. }] if job == "b"), "{begun:?}");
    scheduler.step(now, Event::Ended("b".into(), Outcome::Done));
    assert_eq!(scheduler.step(now, Event::Tick), [], "what was missed is one run");
}
