//! When a disk will be full, by how its free bytes went so far. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// So long a time must be known before anything is foretold.
const SPAN_MIN: SignedDuration = SignedDuration::from_hours(6);
/// From so many samples.
const SAMPLES_MIN: usize = 6;
/// Older ones say nothing of now.
const SPAN_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);
/// What is further away than this is no forecast.
const FAR_DAYS: f64 = 3650.0;
const DAY_S: f64 = 86_400.0;

/// How full a disk was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpaceSample {
    /// When.
    pub(crate) at: Timestamp,
    /// What was used, in bytes, by whomever.
    pub(crate) used_bytes: u64,
    /// What was left.
    pub(crate) free_bytes: u64,
}

/// How a disk will go on, if it goes on as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Forecast {
    /// When it will be full; `None` where it does not grow, or not in ten years.
    pub(crate) full_at: Option<Timestamp>,
    /// How much more is used each day, in bytes; negative where it is less.
    pub(crate) bytes_per_day: i64,
    /// Since when that was measured.
    pub(crate) since: Timestamp,
}

/// A straight line through what was free in the last 30 days: the middle one of all its slopes, so
/// that a prune, or somebody's large file that came and went, does not turn it. `None` while less
/// than six hours are known.
pub(crate) fn forecast(samples: &[SpaceSample], now: Timestamp) -> Option<Forecast> {
    let is_recent =
        |sample: &&SpaceSample| sample.at <= now && now.duration_since(sample.at) <= SPAN_MAX;
    let recent: Vec<&SpaceSample> = samples.iter().filter(is_recent).collect();
    let (first, last) = (*recent.first()?, *recent.last()?);
    let is_enough = recent.len() >= SAMPLES_MIN && last.at.duration_since(first.at) >= SPAN_MIN;
    if !is_enough {
        return None;
    }
    let per_second = middle_slope(&thinned(&recent))?;
    let bytes_per_day = -(per_second * DAY_S);
    let left_days = last.free_bytes as f64 / bytes_per_day;
    let is_near = bytes_per_day > 0.0 && left_days < FAR_DAYS;
    let full_at = is_near.then(|| {
        let left = SignedDuration::from_secs((left_days * DAY_S) as i64);
        last.at.saturating_add(left).unwrap_or(last.at)
    });
    Some(Forecast { full_at, bytes_per_day: bytes_per_day as i64, since: first.at })
}

/// Evenly chosen ones, the first and the last among them: all pairs of them are looked at.
fn thinned<'a>(samples: &[&'a SpaceSample]) -> Vec<&'a SpaceSample> {
    const MOST: usize = 120;
    if samples.len() <= MOST {
        return samples.to_vec();
    }
    (0..MOST).map(|at| samples[at * (samples.len() - 1) / (MOST - 1)]).collect()
}

/// Of the free bytes, for each second.
fn middle_slope(samples: &[&SpaceSample]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (at, one) in samples.iter().enumerate() {
        for other in &samples[at + 1..] {
            let seconds = other.at.duration_since(one.at).as_secs_f64();
            if seconds > 0.0 {
                slopes.push((other.free_bytes as f64 - one.free_bytes as f64) / seconds);
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(hour: i64, free_bytes: u64) -> SpaceSample {
        let at = Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap();
        SpaceSample { at, used_bytes: 2_000_000 - free_bytes, free_bytes }
    }

    fn days_left(samples: &[SpaceSample]) -> Option<f64> {
        let last = samples.last().unwrap().at;
        let full_at = forecast(samples, last).unwrap().full_at?;
        Some(full_at.duration_since(last).as_secs_f64() / DAY_S)
    }

    #[test]
    fn what_grows_evenly_is_full_when_it_is() {
        // 24,000 bytes a day.
        let samples: Vec<_> =
            (0..=72).map(|hour| sample(hour, 1_000_000 - hour as u64 * 1000)).collect();
        let left = days_left(&samples).unwrap();
        assert!((left - 928_000.0 / 24_000.0).abs() < 0.01, "{left}");
        let found = forecast(&samples, samples[72].at).unwrap();
        assert_eq!((found.bytes_per_day, found.since), (24_000, samples[0].at));
    }

    #[test]
    fn a_prune_now_and_then_does_not_turn_it_round() {
        let free = |hour: i64| 1_000_000 - (hour as u64 % 100) * 1000;
        let samples: Vec<_> = (0..=60).map(|hour| sample(hour + 60, free(hour + 60))).collect();
        // After 40 hours of growth a prune freed all of it, and it grows again.
        assert!(days_left(&samples).is_some(), "{:?}", forecast(&samples, samples[60].at));
        let level: Vec<_> = (0..=72).map(|hour| sample(hour, 500_000 + hour as u64 % 3)).collect();
        assert_eq!(forecast(&level, level[72].at).unwrap().full_at, None);
        let freed: Vec<_> = (0..=72).map(|hour| sample(hour, 5_000 + hour as u64 * 10)).collect();
        let found = forecast(&freed, freed[72].at).unwrap();
        assert_eq!((found.full_at, found.bytes_per_day), (None, -240));
    }

    #[test]
    fn too_little_is_no_forecast() {
        let few: Vec<_> = (0..5).map(|hour| sample(hour * 3, 1_000 - hour as u64)).collect();
        assert_eq!(forecast(&few, few[4].at), None);
        let short: Vec<_> = (0..60)
            .map(|at| SpaceSample {
                at: Timestamp::from_second(1_700_000_000 + at * 60).unwrap(),
                ..sample(0, 1_000 - at as u64)
            })
            .collect();
        assert_eq!(forecast(&short, short[59].at), None);
        assert_eq!(forecast(&[], few[0].at), None);
        // A clock that went back has samples of tomorrow.
        let day: Vec<_> = (0..=24).map(|hour| sample(hour, 1_000_000 - hour as u64)).collect();
        assert_eq!(forecast(&day, day[2].at), None);
        // A month ago says nothing of now.
        let late = sample(24 * 60, 1);
        assert_eq!(forecast(&day, late.at), None);
    }

    #[test]
    fn many_samples_are_as_good_as_some() {
        let samples: Vec<_> =
            (0..=700).map(|hour| sample(hour, 1_000_000 - hour as u64 * 100)).collect();
        let left = days_left(&samples).unwrap();
        assert!((left - 930_000.0 / 2_400.0).abs() < 0.1, "{left}");
    }
}
