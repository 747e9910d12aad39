//! What a policy leads to: a forecast of the backups that will exist, and of the space they take.
//! Pure: it is given what exists, when backups will be made, and the rule.
//!
//! Every backup to come is taken for a good one of the same size, and every prune for permitted.

use std::collections::{BTreeMap, HashSet, VecDeque};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::manifest::Condition;
use crate::policy::{self, Candidate, Floors, Keep};

/// More backups to come than this are not simulated.
pub const MOMENTS_MAX: usize = 200_000;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The most lines of the table of steps.
const STEPS_MAX: i64 = 26;

/// What a forecast is made of.
#[derive(Clone, Debug)]
pub struct Forecast<'a> {
    /// When it begins.
    pub now: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// The zone of the policy's calendar.
    pub zone: &'a TimeZone,
    /// What is kept.
    pub keep: &'a Keep,
    /// What is kept in any case.
    pub floors: Floors,
    /// How long bytes stay after a backup was removed.
    pub grace: SignedDuration,
    /// What exists, with what it takes in bytes; those that are removed already are not among them.
    pub existing: Vec<(Candidate, u64)>,
    /// What removed backups take whose bytes are still there, and when these go.
    pub removed: Vec<(Timestamp, u64)>,
    /// When backups will be made, in order.
    pub moments: &'a [Timestamp],
    /// What each of them will take, in bytes.
    pub backup_bytes: u64,
    /// What is free in the store's place, in bytes, where that is known.
    pub free_bytes: Option<u64>,
}

/// What a policy leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Simulation {
    /// How it stands from time to time; the first is now, the last is the end.
    pub steps: Vec<Step>,
    /// How many backups of which age there are at the end, from the youngest on.
    pub ages: Vec<Age>,
    /// The most that is taken at any time, in bytes.
    pub stored_bytes_max: u64,
    /// When the store's place would be full if nobody else used it, if it would.
    pub full_at: Option<Timestamp>,
}

/// How it stands at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The moment.
    pub at: Timestamp,
    /// How many backups are listed.
    pub backups: usize,
    /// The moment that the oldest of them shows.
    pub oldest: Option<Timestamp>,
    /// What is stored, in bytes, with what is removed and not deleted yet.
    pub stored_bytes: u64,
}

/// How many backups are of an age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Age {
    /// The age in days that they do not exceed; `None` for all that are older.
    pub days_max: Option<i64>,
    /// How many.
    pub backups: usize,
}

/// Lets time pass: backups are made, and pruned once a day.
pub fn simulate(forecast: Forecast<'_>) -> Simulation {
    let step = step_of(forecast.until.duration_since(forecast.now));
    let mut state = State::new(forecast);
    let mut steps = vec![state.step(state.forecast.now)];
    let (mut day, mut next_step) = (state.forecast.now, later(state.forecast.now, step));
    while day < state.forecast.until {
        day = later(day, DAY).min(state.forecast.until);
        state.live_until(day);
        if day >= next_step || day == state.forecast.until {
            steps.push(state.step(day));
            next_step = later(next_step, step);
        }
    }
    let ages = state.ages();
    let State { stored_bytes_max, full_at, .. } = state;
    Simulation { steps, ages, stored_bytes_max, full_at }
}

/// When the bytes of an existing backup go, if backups are made as is foreseen, and pruned once a
/// day; the end of the forecast for one that is kept longer.
pub fn goes_at(forecast: Forecast<'_>, backup: &str) -> Timestamp {
    let (grace, until) = (forecast.grace, forecast.until);
    let mut gone_at = None;
    day_by_day(State::new(forecast), |day, state| {
        let is_there = state.candidates.iter().any(|candidate| candidate.name == backup);
        gone_at = (!is_there).then_some(day);
        is_there
    });
    gone_at.map_or(until, |day| later(day, grace))
}

/// When existing backups are listed no more, if backups are made as is foreseen, and pruned once a
/// day; those that are kept longer than the forecast are left out. Their bytes go after the grace.
pub fn departures(forecast: Forecast<'_>) -> BTreeMap<String, Timestamp> {
    let names = forecast.existing.iter().map(|(candidate, _)| candidate.name.clone());
    let mut left: HashSet<String> = names.collect();
    let mut departures = BTreeMap::new();
    day_by_day(State::new(forecast), |day, state| {
        let listed: HashSet<&str> = state.candidates.iter().map(|one| one.name.as_str()).collect();
        for name in left.extract_if(|name| !listed.contains(name.as_str())) {
            departures.insert(name, day);
        }
        !left.is_empty()
    });
    departures
}

/// Lets days pass to the end of the forecast, or until `goes_on` has seen enough.
fn day_by_day(mut state: State<'_>, mut goes_on: impl FnMut(Timestamp, &State<'_>) -> bool) {
    let mut day = state.forecast.now;
    while day < state.forecast.until {
        day = later(day, DAY).min(state.forecast.until);
        state.live_until(day);
        if !goes_on(day, &state) {
            return;
        }
    }
}

/// The first of these lengths that makes no table too long.
fn step_of(length: SignedDuration) -> SignedDuration {
    let days = [1, 7, 30, 91, 365];
    let fits = |days: &i64| length.as_hours() / 24 / days <= STEPS_MAX;
    let days = days.into_iter().find(fits).unwrap_or(3_650);
    SignedDuration::from_hours(days * 24)
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

struct State<'a> {
    forecast: Forecast<'a>,
    /// What is listed, and what each takes.
    candidates: Vec<Candidate>,
    bytes: Vec<u64>,
    /// What is removed, and when its bytes go: in that order.
    waiting: VecDeque<(Timestamp, u64)>,
    made: usize,
    stored_bytes: u64,
    stored_bytes_max: u64,
    /// What was stored at the beginning: the free space is beside that.
    stored_bytes_first: u64,
    full_at: Option<Timestamp>,
}

impl<'a> State<'a> {
    fn new(mut forecast: Forecast<'a>) -> Self {
        let (candidates, bytes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut forecast.existing).into_iter().unzip();
        let mut removed = std::mem::take(&mut forecast.removed);
        removed.sort_unstable();
        let stored_bytes = bytes.iter().chain(removed.iter().map(|(_, bytes)| bytes)).sum();
        State {
            forecast,
            candidates,
            bytes,
            waiting: removed.into(),
            made: 0,
            stored_bytes,
            stored_bytes_max: stored_bytes,
            stored_bytes_first: stored_bytes,
            full_at: None,
        }
    }

    /// Makes the backups up to that moment, then prunes.
    fn live_until(&mut self, until: Timestamp) {
        while let Some(at) = self.forecast.moments.get(self.made).filter(|at| **at <= until) {
            self.candidates.push(Candidate {
                name: format!("to-come-{:08}", self.made),
                taken_at: *at,
                condition: Condition::Good,
                proven: false,
                pin: None,
                depends_on: Vec::new(),
                purpose: None,
            });
            self.bytes.push(self.forecast.backup_bytes);
            self.made += 1;
            self.stored_bytes = self.stored_bytes.saturating_add(self.forecast.backup_bytes);
            self.note_space(*at);
        }
        while self.waiting.front().is_some_and(|(at, _)| *at <= until) {
            let (_, bytes) = self.waiting.pop_front().unwrap_or((until, 0));
            self.stored_bytes = self.stored_bytes.saturating_sub(bytes);
        }
        self.prune(until);
    }

    fn note_space(&mut self, at: Timestamp) {
        self.stored_bytes_max = self.stored_bytes_max.max(self.stored_bytes);
        let more = self.stored_bytes.saturating_sub(self.stored_bytes_first);
        if self.full_at.is_none() && self.forecast.free_bytes.is_some_and(|free| more > free) {
            self.full_at = Some(at);
        }
    }

    fn prune(&mut self, now: Timestamp) {
        let Forecast { keep, zone, floors, .. } = &self.forecast;
        if keep.forever || keep.is_empty() {
            return;
        }
        let decisions = policy::decide(now, zone, keep, floors, &self.candidates);
        let goes = later(now, self.forecast.grace);
        let mut keeps = decisions.iter().map(policy::Decision::keeps);
        for (keeps, bytes) in keeps.clone().zip(&self.bytes) {
            if !keeps {
                self.waiting.push_back((goes, *bytes));
            }
        }
        let mut keeps_bytes = keeps.clone();
        self.candidates.retain(|_| keeps.next().unwrap_or(true));
        self.bytes.retain(|_| keeps_bytes.next().unwrap_or(true));
    }

    fn step(&self, at: Timestamp) -> Step {
        Step {
            at,
            backups: self.candidates.len(),
            oldest: self.candidates.iter().map(|one| one.taken_at).min(),
            stored_bytes: self.stored_bytes,
        }
    }

    fn ages(&self) -> Vec<Age> {
        let bounds = [Some(1), Some(7), Some(31), Some(92), Some(366), None];
        let mut ages: Vec<Age> =
            bounds.into_iter().map(|days_max| Age { days_max, backups: 0 }).collect();
        for candidate in &self.candidates {
            let hours = self.forecast.until.duration_since(candidate.taken_at).as_hours();
            let fits = |age: &&mut Age| age.days_max.is_none_or(|days| hours < days * 24);
            if let Some(age) = ages.iter_mut().find(fits) {
                age.backups += 1;
            }
        }
        ages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_736_294_400 + hours * 3_600).unwrap()
    }

    fn forecast<'a>(keep: &'a Keep, moments: &'a [Timestamp], hours: i64) -> Forecast<'a> {
        Forecast {
            now: at(0),
            until: at(hours),
            zone: const { &TimeZone::UTC },
            keep,
            floors: Floors::default(),
            grace: SignedDuration::from_hours(7 * 24),
            existing: Vec::new(),
            removed: Vec::new(),
            moments,
            backup_bytes: 10,
            free_bytes: None,
        }
    }

    #[test]
    fn a_backup_goes_when_its_last_tier_lets_it_go() {
        let keep = Keep { hourly: 48, daily: 30, ..Keep::default() };
        let moments: Vec<Timestamp> = (1..=100 * 24).map(at).collect();
        let candidate = |name: &str, hours: i64| Candidate {
            name: name.into(),
            taken_at: at(hours),
            condition: Condition::Good,
            proven: false,
            pin: None,
            depends_on: Vec::new(),
            purpose: None,
        };
        let goes = |keep: &Keep, hours: i64| {
            let existing = vec![(candidate("oldest", -2_000), 1), (candidate("new", hours), 1)];
            let foreseen = Forecast { existing, ..forecast(keep, &moments, 100 * 24) };
            goes_at(foreseen, "new").duration_since(at(0)).as_hours() / 24
        };
        // The first hour is midnight: the hour before is the newest one of its day, which is the
        // first of the 30 that are kept.
        assert_eq!(at(0).to_string(), "2025-01-08T00:00:00Z");
        assert_eq!(goes(&keep, -1), 29 + 7);
        assert_eq!(goes(&keep, 0), 2 + 7);
        let forever = Keep { forever: true, ..Keep::default() };
        assert_eq!(goes(&forever, 0), 100, "the end of the forecast");
        // All at once, and without the grace.
        let leaving = |keep: &Keep| {
            let all = [-2_000, -1, 0].map(|hours| (candidate(&hours.to_string(), hours), 1));
            let all = Forecast { existing: all.into(), ..forecast(keep, &moments, 100 * 24) };
            departures(all)
                .into_iter()
                .map(|(name, day)| (name, day.duration_since(at(0)).as_hours() / 24))
        };
        let expected = [("-1".to_owned(), 29), ("-2000".to_owned(), 28), ("0".to_owned(), 2)];
        assert_eq!(leaving(&keep).collect::<Vec<_>>(), expected);
        assert_eq!(leaving(&forever).count(), 0);
    }

    #[test]
    fn two_years_of_hours_are_as_many_as_the_tiers_ask_for() {
        let keep = Keep { hourly: 48, daily: 30, monthly: 12, ..Keep::default() };
        let moments: Vec<Timestamp> = (1..=730 * 24).map(at).collect();
        let simulation = simulate(forecast(&keep, &moments, 730 * 24));
        let end = simulation.steps.last().unwrap();
        // 48 hours, which have the newest of three of the 30 days, which have two of the months.
        assert_eq!(end.backups, 48 + 27 + 10);
        assert_eq!(simulation.steps.len(), 1 + 730_usize.div_ceil(30));
        let of_ages: usize = simulation.ages.iter().map(|age| age.backups).sum();
        assert_eq!(of_ages, end.backups);
        // What waits for its deletion takes space too: a week of hours.
        let bytes = end.stored_bytes as i64 - end.backups as i64 * 10;
        assert!((6 * 230..=8 * 240).contains(&bytes), "{bytes}");
        assert!(simulation.stored_bytes_max >= end.stored_bytes);
    }

    #[test]
    fn what_is_kept_for_ever_fills_the_disk_at_a_known_time() {
        let keep = Keep { forever: true, ..Keep::default() };
        let moments: Vec<Timestamp> = (1..=100).map(|day| at(day * 24)).collect();
        let mut what = forecast(&keep, &moments, 100 * 24);
        what.free_bytes = Some(495);
        what.removed = vec![(at(240), 30)];
        let simulation = simulate(what);
        assert_eq!(simulation.steps.last().unwrap().backups, 100);
        // 30 bytes become free on the tenth day: 53 backups have room beside what there was.
        assert_eq!(simulation.full_at, Some(at(53 * 24)));
        assert_eq!(simulate(forecast(&keep, &moments, 100 * 24)).full_at, None);
    }

    #[test]
    fn without_backups_to_come_what_is_there_stays() {
        let keep = Keep { daily: 7, ..Keep::default() };
        let candidate = |day: i64| Candidate {
            name: format!("old-{day:02}"),
            taken_at: at(-day * 24),
            condition: Condition::Good,
            proven: false,
            pin: None,
            depends_on: Vec::new(),
            purpose: None,
        };
        let mut what = forecast(&keep, &[], 400 * 24);
        what.existing = (1..=10).map(|day| (candidate(day), 5)).collect();
        let simulation = simulate(what);
        let end = simulation.steps.last().unwrap();
        assert_eq!((end.backups, end.stored_bytes), (7, 35));
        assert_eq!(end.oldest, Some(at(-7 * 24)));
        assert_eq!(simulation.ages.last().unwrap().backups, 7);
    }
}
