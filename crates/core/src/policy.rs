//! Retention: which backups of a source are kept, and why. Pure: no clock, no input or output.
//!
//! Only good backups count and win. Each tier (`hourly` to `yearly`) keeps the newest good backup
//! of each of its most recent buckets that are not empty; a backup stays if any rule keeps it. So
//! a source that stopped being backed up loses nothing: buckets are counted, not days.
//!
//! Buckets are those of the calendar of one time zone; an hour is one of the instant, so that a
//! clock change neither merges two hours nor doubles one. A tier that is not filled also keeps the
//! oldest good backup, from which its older buckets will grow.
//!
//! A backup made before a migration counts like any other, and stays longer by a rule of its own.
//!
//! [`Floors`] are what no policy can go below. A backup dated in the future is kept and never
//! counted: neither a wrong clock nor a forged date moves the others out. One that was not checked,
//! or is known to be damaged, wins nothing, and goes once it is old and a newer good one exists.

use std::collections::{HashMap, HashSet};
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::manifest::{Condition, Manifest, Purpose};

/// So many of the newest good migration backups always stay.
pub const MIGRATIONS_MIN: usize = 2;

/// How long a good migration backup is kept, in hours, when the newest good backup is taken for
/// now. It is a backup like any other besides: a tier may keep it longer.
pub const MIGRATION_HOURS: i64 = 90 * 24;

/// How long a backup is kept that was not checked or is damaged, at least, in hours.
pub const DOUBTFUL_HOURS: i64 = 14 * 24;

/// What a person wants to keep. One that names nothing keeps everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// Everything, whatever else is said.
    pub forever: bool,
    /// So many of the newest good backups.
    pub last: u32,
    /// So many hours, one backup of each.
    pub hourly: u32,
    /// So many days.
    pub daily: u32,
    /// So many ISO weeks.
    pub weekly: u32,
    /// So many months.
    pub monthly: u32,
    /// So many quarters.
    pub quarterly: u32,
    /// So many years.
    pub yearly: u32,
    /// All that are not older than this when the newest good backup is taken for now.
    pub within: Option<SignedDuration>,
}

/// What no policy can go below, beside pins and dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floors {
    /// So many of the newest good backups always stay. The newest one does even with 0.
    pub min_good: u32,
}

impl Default for Floors {
    fn default() -> Self {
        Floors { min_good: 3 }
    }
}

/// Why a backup must stay until a moment, or for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// In the words of whoever said so.
    pub reason: String,
    /// From when on it holds no more.
    pub until: Option<Timestamp>,
}

impl Hold {
    /// The pin that a backup was made with.
    pub fn of_manifest(backup: &Manifest) -> Option<Hold> {
        let reason = backup.pin.clone()?;
        Some(Hold { reason, until: backup.pin_until })
    }
}

/// What the rule must know of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, unique among the candidates.
    pub name: String,
    /// The moment that it shows.
    pub taken_at: Timestamp,
    /// Whether it may be relied on.
    pub condition: Condition,
    /// What it was made for.
    pub purpose: Option<Purpose>,
    /// Whether a rehearsed restore succeeded.
    pub proven: bool,
    /// Whether someone pinned it.
    pub pin: Option<Hold>,
    /// The names of backups without which it cannot be restored.
    pub depends_on: Vec<String>,
}

/// A rule that keeps one backup of each bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Hours, counted on the instant.
    Hourly,
    /// Days of the zone's calendar.
    Daily,
    /// ISO weeks.
    Weekly,
    /// Months.
    Monthly,
    /// Quarters.
    Quarterly,
    /// Years.
    Yearly,
}

/// Why a backup is kept or removed; shown as the words that a person reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policy is to keep everything.
    Forever,
    /// The policy names nothing.
    NoPolicy,
    /// One of so many newest.
    Last(u32),
    /// The newest good one of a bucket, such as "2025-01-08".
    Bucket(Tier, String),
    /// The oldest good one, while a tier has fewer buckets than it asks for.
    OldestUnfilled(Tier),
    /// Young enough.
    Within(SignedDuration),
    /// The floor of all floors.
    NewestGood,
    /// The newest one whose restore was rehearsed.
    NewestProven,
    /// Within the floor of so many.
    MinGood(u32),
    /// Made before a migration, and within the floor of these.
    NewestMigration,
    /// Made before a migration, and young enough.
    YoungMigration,
    /// Someone said so.
    Pinned(Hold),
    /// Its date is after now: a clock was or is wrong.
    Future,
    /// Another one that is kept cannot be restored without it.
    NeededBy(String),
    /// Not good, and no good one is newer.
    DoubtfulNewer(Condition),
    /// Not good, and not old.
    DoubtfulYoung(Condition),
    /// Removed: not good, old, and a good one is newer.
    DoubtfulOld(Condition),
    /// Removed: good, and nothing asks for it.
    NoRule,
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays, for all of these reasons.
    Keep(Vec<Reason>),
    /// It goes.
    Remove(Reason),
}

impl Keep {
    /// Whether it names nothing, and so keeps everything.
    pub fn is_empty(&self) -> bool {
        *self == Keep::default()
    }

    /// The same, and in any case all that are younger than this. What keeps everything stays so.
    pub fn and_within(&self, within: Option<SignedDuration>) -> Keep {
        match self.is_empty() {
            true => self.clone(),
            false => Keep { within: self.within.max(within), ..self.clone() },
        }
    }

    fn tiers(&self) -> impl Iterator<Item = (Tier, u32)> {
        let tiers = [
            (Tier::Hourly, self.hourly),
            (Tier::Daily, self.daily),
            (Tier::Weekly, self.weekly),
            (Tier::Monthly, self.monthly),
            (Tier::Quarterly, self.quarterly),
            (Tier::Yearly, self.yearly),
        ];
        tiers.into_iter().filter(|(_, count)| *count > 0)
    }
}

impl Decision {
    /// Whether it stays.
    pub fn keeps(&self) -> bool {
        matches!(self, Decision::Keep(_))
    }

    /// The reasons, in the words that a person reads.
    pub fn words(&self) -> Vec<String> {
        match self {
            Decision::Keep(reasons) => reasons.iter().map(Reason::to_string).collect(),
            Decision::Remove(reason) => vec![reason.to_string()],
        }
    }
}

/// Decides on every candidate, in their order, which is arbitrary. `zone` is that of the
/// calendar. Deciding again at the same moment on what was kept removes nothing more.
pub fn decide(
    now: Timestamp,
    zone: &TimeZone,
    keep: &Keep,
    floors: &Floors,
    candidates: &[Candidate],
) -> Vec<Decision> {
    let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
    newest_first.sort_by(|a, b| {
        let key = |index: &usize| (candidates[*index].taken_at, &candidates[*index].name);
        key(b).cmp(&key(a))
    });
    let past = newest_first.iter().copied().filter(|index| candidates[*index].taken_at <= now);
    let good: Vec<usize> =
        past.clone().filter(|index| candidates[*index].condition == Condition::Good).collect();
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); candidates.len()];
    apply_floors(floors, candidates, past, &good, &mut reasons);
    keep_migrations(candidates, &good, &mut reasons);
    apply_policy(zone, keep, candidates, &good, &mut reasons);
    for (candidate, reasons) in candidates.iter().zip(&mut reasons) {
        reasons.extend(reasons_of_its_own(now, candidate, good.first().map(|i| &candidates[*i])));
    }
    keep_dependencies(candidates, &newest_first, &mut reasons);
    let removed = |candidate: &Candidate| match candidate.condition {
        Condition::Good => Reason::NoRule,
        doubtful => Reason::DoubtfulOld(doubtful),
    };
    let decided = candidates.iter().zip(reasons).map(|(candidate, reasons)| match reasons[..] {
        [] => Decision::Remove(removed(candidate)),
        _ => Decision::Keep(reasons),
    });
    decided.collect()
}

fn apply_floors(
    floors: &Floors,
    candidates: &[Candidate],
    mut past: impl Iterator<Item = usize>,
    good: &[usize],
    reasons: &mut [Vec<Reason>],
) {
    if let Some(newest) = good.first() {
        reasons[*newest].push(Reason::NewestGood);
    }
    if let Some(proven) = past.find(|index| candidates[*index].proven) {
        reasons[proven].push(Reason::NewestProven);
    }
    for index in good.iter().take(floors.min_good as usize) {
        reasons[*index].push(Reason::MinGood(floors.min_good));
    }
}

/// Whatever the policy is: who asked for it before a migration wants to find it. `good` is newest
/// first.
fn keep_migrations(candidates: &[Candidate], good: &[usize], reasons: &mut [Vec<Reason>]) {
    let Some(newest) = good.first().map(|index| candidates[*index].taken_at) else { return };
    let young = SignedDuration::from_hours(MIGRATION_HOURS);
    let is_migration = |index: &&usize| candidates[**index].purpose == Some(Purpose::Migration);
    for (place, index) in good.iter().filter(is_migration).enumerate() {
        if place < MIGRATIONS_MIN {
            reasons[*index].push(Reason::NewestMigration);
        }
        if newest.duration_since(candidates[*index].taken_at) < young {
            reasons[*index].push(Reason::YoungMigration);
        }
    }
}

/// `good` is newest first.
fn apply_policy(
    zone: &TimeZone,
    keep: &Keep,
    candidates: &[Candidate],
    good: &[usize],
    reasons: &mut [Vec<Reason>],
) {
    if keep.forever || keep.is_empty() {
        let reason = if keep.forever { Reason::Forever } else { Reason::NoPolicy };
        reasons.iter_mut().for_each(|reasons| reasons.push(reason.clone()));
        return;
    }
    for index in good.iter().take(keep.last as usize) {
        reasons[*index].push(Reason::Last(keep.last));
    }
    for (tier, count) in keep.tiers() {
        // A set, not the last bucket seen: where clocks go back over midnight, a day comes twice.
        let mut buckets = HashSet::new();
        for index in good {
            if buckets.len() >= count as usize {
                break;
            }
            let bucket = tier.bucket(candidates[*index].taken_at, zone);
            if buckets.insert(bucket) {
                reasons[*index].push(Reason::Bucket(tier, tier.label(bucket)));
            }
        }
        if let Some(oldest) = good.last().filter(|_| buckets.len() < count as usize) {
            reasons[*oldest].push(Reason::OldestUnfilled(tier));
        }
    }
    if let (Some(within), Some(newest)) = (keep.within, good.first()) {
        let newest = candidates[*newest].taken_at;
        for index in good {
            if newest.duration_since(candidates[*index].taken_at) > within {
                break;
            }
            reasons[*index].push(Reason::Within(within));
        }
    }
}

/// What keeps a backup whatever the others are, but for the newest good one.
fn reasons_of_its_own(
    now: Timestamp,
    candidate: &Candidate,
    newest_good: Option<&Candidate>,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(pin) = &candidate.pin
        && pin.until.is_none_or(|until| until > now)
    {
        reasons.push(Reason::Pinned(pin.clone()));
    }
    if candidate.taken_at > now {
        reasons.push(Reason::Future);
    } else if candidate.condition != Condition::Good {
        if newest_good.is_none_or(|newest| candidate.taken_at > newest.taken_at) {
            reasons.push(Reason::DoubtfulNewer(candidate.condition));
        }
        if now.duration_since(candidate.taken_at) < SignedDuration::from_hours(DOUBTFUL_HOURS) {
            reasons.push(Reason::DoubtfulYoung(candidate.condition));
        }
    }
    reasons
}

/// Keeps whatever a kept backup depends on, and what that depends on.
fn keep_dependencies(
    candidates: &[Candidate],
    newest_first: &[usize],
    reasons: &mut [Vec<Reason>],
) {
    if candidates.iter().all(|candidate| candidate.depends_on.is_empty()) {
        return;
    }
    let by_name: HashMap<&str, usize> =
        newest_first.iter().map(|index| (candidates[*index].name.as_str(), *index)).collect();
    let mut open: Vec<usize> =
        newest_first.iter().copied().filter(|index| !reasons[*index].is_empty()).collect();
    while let Some(index) = open.pop() {
        for name in &candidates[index].depends_on {
            let Some(needed) = by_name.get(name.as_str()).copied() else { continue };
            // One that is kept already, by a rule or for another, has been followed or will be.
            if reasons[needed].is_empty() {
                open.push(needed);
            }
            let needed_by = Reason::NeededBy(candidates[index].name.clone());
            if reasons[needed].last() != Some(&needed_by) {
                reasons[needed].push(needed_by);
            }
        }
    }
}

impl Tier {
    /// The bucket of a moment: a number that is equal for moments of one bucket.
    fn bucket(self, moment: Timestamp, zone: &TimeZone) -> i64 {
        if self == Tier::Hourly {
            return moment.as_second().div_euclid(3_600);
        }
        let date = zone.to_datetime(moment).date();
        let (year, month) = (i64::from(date.year()), i64::from(date.month()));
        match self {
            Tier::Weekly => {
                let week = date.iso_week_date();
                i64::from(week.year()) * 100 + i64::from(week.week())
            }
            Tier::Monthly => year * 100 + month,
            Tier::Quarterly => year * 10 + (month + 2) / 3,
            Tier::Yearly => year,
            Tier::Daily | Tier::Hourly => (year * 100 + month) * 100 + i64::from(date.day()),
        }
    }

    /// A bucket as people write it.
    fn label(self, bucket: i64) -> String {
        let (above, below) = (bucket / 100, bucket % 100);
        match self {
            Tier::Hourly => match Timestamp::from_second(bucket * 3_600) {
                Ok(hour) => hour.strftime("%Y-%m-%d %H:00 UTC").to_string(),
                Err(_) => bucket.to_string(),
            },
            Tier::Daily => format!("{:04}-{:02}-{below:02}", above / 100, above % 100),
            Tier::Weekly => format!("{above:04}-W{below:02}"),
            Tier::Monthly => format!("{above:04}-{below:02}"),
            Tier::Quarterly => format!("{:04}-Q{}", bucket / 10, bucket % 10),
            Tier::Yearly => format!("{bucket:04}"),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Hourly => "hourly",
            Tier::Daily => "daily",
            Tier::Weekly => "weekly",
            Tier::Monthly => "monthly",
            Tier::Quarterly => "quarterly",
            Tier::Yearly => "yearly",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Forever => f.write_str("kept forever"),
            Reason::NoPolicy => f.write_str("no retention is configured"),
            Reason::Last(1) => f.write_str("the last one"),
            Reason::Last(count) => write!(f, "one of the last {count}"),
            Reason::Bucket(tier, bucket) => write!(f, "{tier} {bucket}"),
            Reason::OldestUnfilled(tier) => write!(f, "oldest good, {tier} is not filled"),
            Reason::Within(within) => write!(f, "within {}", duration(*within)),
            Reason::NewestGood => f.write_str("newest good"),
            Reason::NewestProven => f.write_str("newest proven"),
            Reason::MinGood(count) => write!(f, "one of the {count} newest good"),
            Reason::NewestMigration => f.write_str("migration backup, one of the two newest"),
            Reason::YoungMigration => {
                write!(f, "migration backup, younger than {} days", MIGRATION_HOURS / 24)
            }
            Reason::Pinned(Hold { reason, until: None }) => write!(f, "pinned: {reason}"),
            Reason::Pinned(Hold { reason, until: Some(until) }) => {
                write!(f, "pinned until {until}: {reason}")
            }
            Reason::Future => f.write_str("dated in the future"),
            Reason::NeededBy(name) => write!(f, "needed by {name}"),
            Reason::DoubtfulNewer(condition) => {
                write!(f, "{}, and newer than the newest good", adjective(*condition))
            }
            Reason::DoubtfulYoung(condition) => {
                write!(f, "{}, younger than {} days", adjective(*condition), DOUBTFUL_HOURS / 24)
            }
            Reason::DoubtfulOld(condition) => write!(
                f,
                "{}, older than {} days, a newer one is good",
                adjective(*condition),
                DOUBTFUL_HOURS / 24
            ),
            Reason::NoRule => f.write_str("no rule keeps it"),
        }
    }
}

fn adjective(condition: Condition) -> &'static str {
    match condition {
        Condition::Good => "good",
        Condition::Unchecked => "unchecked",
        Condition::Damaged => "damaged",
    }
}

/// "30 days", "36 hours", "90 minutes", "5 seconds": the largest unit that divides it.
fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let divides = |(unit, _): &&(i64, &str)| seconds != 0 && seconds % unit == 0;
    let (unit, word) = units.iter().find(divides).copied().unwrap_or((1, "second"));
    match seconds / unit {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    }
}
