//! The rule of retention once more, by its definitions and the slow way: what the simulation holds
//! the program's decisions against. It shares nothing with the program's own.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::manifest::Condition;
use lifeboat_core::policy::Keep;

/// So many of the newest good ones always stay.
pub(super) const GOOD_MIN: usize = 3;
const MIGRATIONS_MIN: usize = 2;

/// What the rule must know of a backup.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) taken_at: Timestamp,
    pub(super) condition: Condition,
    pub(super) is_migration: bool,
    /// The name of the one that it builds on.
    pub(super) parent: Option<String>,
    /// Until when it is pinned, if it is; `Some(None)` is for ever.
    pub(super) pinned: Option<Option<Timestamp>>,
}

impl Known {
    fn age(&self) -> (Timestamp, &str) {
        (self.taken_at, &self.name)
    }

    /// Whether it counts: good, and not of the future.
    pub(super) fn counts(&self, now: Timestamp) -> bool {
        self.condition == Condition::Good && self.taken_at <= now
    }

    pub(super) fn is_pinned(&self, now: Timestamp) -> bool {
        self.pinned.is_some_and(|until| until.is_none_or(|until| now < until))
    }
}

/// The tiers and how many buckets of each are kept.
pub(super) fn tiers(keep: &Keep) -> [(&'static str, u32); 6] {
    [
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("quarterly", keep.quarterly),
        ("yearly", keep.yearly),
    ]
}

/// The bucket of a moment, in the words of a calendar.
pub(super) fn bucket(tier: &str, moment: Timestamp, zone: &TimeZone) -> String {
    let local = moment.to_zoned(zone.clone());
    match tier {
        "hourly" => moment.strftime("%Y-%m-%d %H").to_string(),
        "daily" => local.strftime("%Y-%m-%d").to_string(),
        "weekly" => local.strftime("%G-W%V").to_string(),
        "monthly" => local.strftime("%Y-%m").to_string(),
        "quarterly" => format!("{}-Q{}", local.year(), (local.month() - 1) / 3 + 1),
        _ => local.strftime("%Y").to_string(),
    }
}

/// Those that count, newest first.
pub(super) fn good(now: Timestamp, all: &[Known]) -> Vec<&Known> {
    let mut good: Vec<&Known> = all.iter().filter(|one| one.counts(now)).collect();
    good.sort_by(|a, b| b.age().cmp(&a.age()));
    good
}

/// The names of those that stay: by a rule of their own, or as others that stay build on them.
pub(super) fn kept(
    now: Timestamp,
    zone: &TimeZone,
    keep: &Keep,
    all: &[Known],
) -> BTreeSet<String> {
    with_parents(kept_alone(now, zone, keep, all), all)
}

/// These, and all that they build on.
pub(super) fn with_parents(mut names: BTreeSet<String>, all: &[Known]) -> BTreeSet<String> {
    loop {
        let parents = all.iter().filter(|one| names.contains(&one.name));
        let parents: Vec<String> = parents.filter_map(|one| one.parent.clone()).collect();
        let before = names.len();
        let is_there = |parent: &String| all.iter().any(|one| one.name == *parent);
        names.extend(parents.into_iter().filter(is_there));
        if names.len() == before {
            return names;
        }
    }
}

fn kept_alone(now: Timestamp, zone: &TimeZone, keep: &Keep, all: &[Known]) -> BTreeSet<String> {
    let named = keep.last > 0 || keep.within.is_some() || tiers(keep).iter().any(|tier| tier.1 > 0);
    if keep.forever || !named {
        return all.iter().map(|one| one.name.clone()).collect();
    }
    let good = good(now, all);
    let mut names = BTreeSet::new();
    let mut stays = |one: &Known| names.insert(one.name.clone());
    for one in all {
        let doubtful = one.condition != Condition::Good;
        let is_newest = good.first().is_none_or(|newest| one.taken_at > newest.taken_at);
        let young = now.as_second() - one.taken_at.as_second() < 14 * 86_400;
        if one.taken_at > now || one.is_pinned(now) || doubtful && (is_newest || young) {
            stays(one);
        }
    }
    let Some(newest) = good.first() else { return names };
    let behind_newest = |one: &Known| newest.taken_at.duration_since(one.taken_at);
    for (place, one) in good.iter().enumerate() {
        let within = keep.within.is_some_and(|within| behind_newest(one) <= within);
        if place < GOOD_MIN || place < keep.last as usize || within {
            stays(one);
        }
    }
    let ninety_days = SignedDuration::from_hours(90 * 24);
    for (place, one) in good.iter().filter(|one| one.is_migration).enumerate() {
        if place < MIGRATIONS_MIN || behind_newest(one) < ninety_days {
            stays(one);
        }
    }
    for (tier, count) in tiers(keep).into_iter().filter(|(_, count)| *count > 0) {
        let mut seen = Vec::new();
        for one in &good {
            let bucket = bucket(tier, one.taken_at, zone);
            if !seen.contains(&bucket) {
                seen.push(bucket);
                if seen.len() <= count as usize {
                    stays(one);
                }
            }
        }
        if let Some(oldest) = good.last().filter(|_| seen.len() < count as usize) {
            stays(oldest);
        }
    }
    names
}
