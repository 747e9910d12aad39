//! What a repository takes, now and later. Pure: catalogs and forecasts in, what is drawn out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::prune::Simulation;
use lifeboat_core::store::Space;

use crate::standing::Forecast;
use crate::web::charts::Sample;

/// So many points draw the past.
const POINTS: usize = 200;

/// Everything that is drawn of a repository.
pub(super) struct StorageView {
    pub(super) backups: usize,
    pub(super) stored_bytes: u64,
    /// Of backups that have a tombstone.
    pub(super) removed_bytes: u64,
    /// How full its disk is, where that is known.
    pub(super) space: Option<Space>,
    /// What it would take if it had all that is free.
    pub(super) room_bytes: Option<u64>,
    /// When that is reached.
    pub(super) full_at: Option<Timestamp>,
    pub(super) past: Vec<Sample>,
    pub(super) future: Vec<Sample>,
    /// The largest first.
    pub(super) shares: Vec<Share>,
}

/// What a source takes of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) source: String,
    pub(super) backups: usize,
    pub(super) stored_bytes: u64,
    pub(super) percent: u64,
}

/// Makes it. `simulations` are of the same length in time, one for each source.
pub(super) fn view(
    entries: &[SourceEntry],
    simulations: &[Simulation],
    space: Option<Space>,
    now: Timestamp,
) -> StorageView {
    let sum = |backups: &[Manifest]| backups.iter().map(Manifest::stored_bytes).sum::<u64>();
    let stored_bytes: u64 = entries.iter().map(|entry| sum(&entry.backups)).sum();
    let removed_bytes: u64 = entries.iter().map(|entry| sum(&entry.removed)).sum();
    let all = stored_bytes + removed_bytes;
    let room_bytes = space.map(|space| all.saturating_add(space.free_bytes));
    let future = future(simulations);
    StorageView {
        backups: entries.iter().map(|entry| entry.backups.len()).sum(),
        stored_bytes,
        removed_bytes,
        space,
        room_bytes,
        full_at: room_bytes.and_then(|room| full_at(all, &future, room, now)),
        past: past(entries, now),
        future,
        shares: shares(entries, stored_bytes),
    }
}

/// What is still there, by when it was made.
fn past(entries: &[SourceEntry], now: Timestamp) -> Vec<Sample> {
    let all = entries.iter().flat_map(|entry| entry.backups.iter().chain(&entry.removed));
    let mut made: Vec<(Timestamp, u64)> =
        all.map(|backup| (backup.taken_at.min(now), backup.stored_bytes())).collect();
    made.sort_unstable();
    let mut bytes = 0;
    let mut samples: Vec<Sample> = made
        .into_iter()
        .map(|(at, more)| {
            bytes += more;
            Sample { at, bytes }
        })
        .collect();
    let step = samples.len().div_ceil(POINTS).max(1);
    let last = samples.len().saturating_sub(1);
    let mut index = 0;
    samples.retain(|_| {
        index += 1;
        (index - 1) % step == 0 || index - 1 == last
    });
    samples.extend((!samples.is_empty()).then_some(Sample { at: now, bytes }));
    samples
}

/// The sum of all forecasts, without the present.
fn future(simulations: &[Simulation]) -> Vec<Sample> {
    let mut sums: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for step in simulations.iter().flat_map(|simulation| simulation.steps.iter().skip(1)) {
        *sums.entry(step.at).or_default() += step.stored_bytes;
    }
    sums.into_iter().map(|(at, bytes)| Sample { at, bytes }).collect()
}

/// When the room is used up, on the straight line between two samples.
fn full_at(
    stored_bytes: u64,
    future: &[Sample],
    room_bytes: u64,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut before = Sample { at: now, bytes: stored_bytes };
    for sample in future {
        if sample.bytes >= room_bytes && sample.bytes > before.bytes {
            let share = room_bytes.saturating_sub(before.bytes) as f64
                / (sample.bytes - before.bytes) as f64;
            let length = sample.at.duration_since(before.at).as_secs_f64() * share;
            let length = jiff::SignedDuration::from_secs(length as i64);
            return before.at.checked_add(length).ok();
        }
        before = *sample;
    }
    None
}

/// How a disk goes on if it goes on as before: until it is full, but no further than three months.
pub(super) fn disk_to_come(
    space: Space,
    forecast: Option<Forecast>,
    now: Timestamp,
) -> Vec<Sample> {
    let Some(forecast) = forecast else { return Vec::new() };
    let far = now.checked_add(jiff::SignedDuration::from_hours(90 * 24)).unwrap_or(Timestamp::MAX);
    let at = forecast.full_at.unwrap_or(far).clamp(now, far);
    let days = at.duration_since(now).as_secs_f64() / 86_400.0;
    let more = (forecast.bytes_per_day as f64 * days) as i64;
    let bytes = space.used_bytes.saturating_add_signed(more);
    vec![Sample { at, bytes }]
}

fn shares(entries: &[SourceEntry], all: u64) -> Vec<Share> {
    let share = |entry: &SourceEntry| {
        let stored_bytes: u64 = entry.backups.iter().map(Manifest::stored_bytes).sum();
        Share {
            source: entry.folder.clone(),
            backups: entry.backups.len(),
            stored_bytes,
            percent: stored_bytes.saturating_mul(100) / all.max(1),
        }
    };
    let mut shares: Vec<Share> = entries.iter().map(share).collect();
    shares.sort_by(|a, b| b.stored_bytes.cmp(&a.stored_bytes).then(a.source.cmp(&b.source)));
    shares
}

#[cfg(test)]
mod tests {
    use lifeboat_core::prune::{Age, Step};

    use super::*;
    use crate::web::made::{self, hour};

    fn simulation(bytes: &[u64]) -> Simulation {
        let step = |(days, stored_bytes): (usize, &u64)| Step {
            at: hour(24 * days as i64),
            backups: 1,
            oldest: None,
            stored_bytes: *stored_bytes,
        };
        Simulation {
            steps: bytes.iter().enumerate().map(step).collect(),
            ages: Vec::<Age>::new(),
            stored_bytes_max: 0,
            full_at: None,
        }
    }

    #[test]
    fn sources_are_summed_and_the_largest_comes_first() {
        let small = made::entry("small", &[-2]);
        let large = made::entry("large", &[-3, -1, 0]);
        let simulations = [simulation(&[1_000, 2_000, 3_000]), simulation(&[3_000, 3_000, 7_000])];
        let space = Space { used_bytes: 90, free_bytes: 3_500 };
        let view = view(&[small, large], &simulations, Some(space), hour(0));
        assert_eq!((view.backups, view.stored_bytes), (4, 4_000));
        let names: Vec<(&str, u64)> =
            view.shares.iter().map(|share| (share.source.as_str(), share.percent)).collect();
        assert_eq!(names, [("large", 75), ("small", 25)]);
        let last = view.past.last().unwrap();
        assert_eq!((last.at, last.bytes), (hour(0), 4_000));
        assert_eq!(view.future[1], Sample { at: hour(48), bytes: 10_000 });
        // 5,000 after a day, 10,000 after two: 7,500 in the middle.
        assert_eq!((view.room_bytes, view.full_at), (Some(7_500), Some(hour(36))));
    }

    #[test]
    fn a_disk_goes_on_as_before_until_it_is_full() {
        let space = Space { used_bytes: 1_000, free_bytes: 500 };
        let forecast =
            |full_at, bytes_per_day| Some(Forecast { full_at, bytes_per_day, since: hour(-99) });
        let to_come = |forecast| disk_to_come(space, forecast, hour(0));
        let full = to_come(forecast(Some(hour(240)), 50));
        assert_eq!(full, [Sample { at: hour(240), bytes: 1_500 }]);
        // What shrinks never is, and is told for three months.
        let shrinks = to_come(forecast(None, -100));
        assert_eq!(shrinks, [Sample { at: hour(90 * 24), bytes: 0 }]);
        assert!(to_come(None).is_empty());
    }

    #[test]
    fn nothing_is_never_full() {
        let view = view(&[], &[], None, hour(0));
        assert_eq!((view.full_at, view.past.len(), view.future.len()), (None, 0, 0));
        let entry = made::entry("app", &(-500..0).collect::<Vec<i64>>());
        let view = super::view(&[entry], &[], None, hour(0));
        assert!(view.past.len() <= POINTS + 2, "{}", view.past.len());
        assert_eq!(view.past.last().unwrap().bytes, 500_000);
    }
}
