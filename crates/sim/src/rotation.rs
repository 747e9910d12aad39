//! The second kind of history: years of backups in several repositories, and their rotation.
//!
//! Backups come by a schedule that has gaps and failures, also of single repositories. The clock
//! is set forward and back, and passes the changes of daylight saving. Policies are edited, backups
//! are pinned, unpinned and taken back, runs leave garbage, and prunes are cut off or refused.
//! Manifests are written by the public format; everything else is the program's own.
//!
//! After every step, in every repository:
//! - what no prune could rightly delete is there, whole, and strangers' files are untouched;
//! - each bucket that the policy asks for and that got a backup has one;
//! - a prune did what a second implementation of the rule says, and nothing while a gate was
//!   closed; cut off, it did nothing else; the floors hold in any case.

pub(crate) mod member;
mod prune;
mod rule;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Clock as _;
use lifeboat_core::manifest::Condition;
use lifeboat_core::names::NamePattern;
use lifeboat_core::policy::{Hold, Keep};
use lifeboat_core::prune::{pin, undelete, unpin};
use lifeboat_sqlite::sample::Seeded;

use self::member::{FOLDER, Member};
use self::rule::Known;
use crate::clock::SimulatedClock;
use crate::history::Broken;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Calendars with changes of an hour, of half an hour, at midnight, and of a whole day.
const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Africa/Casablanca",
];

/// What happened in a history, so that a test can see that enough of it did.
#[derive(Clone, Debug, Default)]
pub struct RotationReport {
    /// Backups that were made, in any repository.
    pub made: u64,
    /// Of these: what builds on another one.
    pub incremental: u64,
    /// Days from the first to the last moment.
    pub days: u64,
    /// Prunes that came to their end.
    pub pruned: u64,
    /// Prunes that were refused.
    pub refused: u64,
    /// Prunes that were cut off.
    pub cut_off: u64,
    /// Backups that got a tombstone.
    pub marked: u64,
    /// Backups whose bytes were deleted.
    pub deleted: u64,
    /// Backups that a rule took back.
    pub taken_back: u64,
    /// Leftovers that were collected.
    pub garbage: u64,
    /// Backups that a person took back or pinned.
    pub by_hand: u64,
    /// How often the clock was set.
    pub clock_set: u64,
    /// How often backups went on through a change of daylight saving.
    pub clock_changes: u64,
}

/// Plays the history of a seed.
pub fn run(seed: u64) -> Result<RotationReport, Broken> {
    let mut history = Rotation::begin(seed)?;
    for number in 0..20 + history.random.below(10) {
        let step = history.step().map_err(|broken| format!("step {number}: {broken}"))?;
        for (place, member) in history.members.iter().enumerate() {
            member.check().map_err(|broken| {
                format!("after step {number} ({step}): in repository {place}: {broken}")
            })?;
        }
    }
    let (first, last) = (history.began, history.clock.now());
    history.report.days = last.duration_since(first).as_hours().unsigned_abs() / 24;
    Ok(history.report)
}

struct Rotation {
    random: Seeded,
    clock: Arc<SimulatedClock>,
    began: Timestamp,
    members: Vec<Member>,
    /// How far the clock is from the true time.
    wrong_by_ms: i64,
    report: RotationReport,
}

impl Rotation {
    fn begin(seed: u64) -> Result<Self, Broken> {
        let mut random = Seeded::new(seed ^ 0x726f_7461_7465);
        let clock = Arc::new(SimulatedClock::default());
        clock.jump_ms(random.below(400 * DAY_MS as u64) as i64);
        let mut members = Vec::new();
        for _ in 0..1 + random.below(3) {
            let zone = ZONES[random.below(ZONES.len() as u64) as usize];
            let keep = policy(&mut random);
            members.push(Member::new(&mut random, &clock, zone, keep)?);
        }
        let began = clock.now();
        let report = RotationReport::default();
        Ok(Rotation { random, clock, began, members, wrong_by_ms: 0, report })
    }

    fn step(&mut self) -> Result<String, Broken> {
        match self.random.below(30) {
            0..10 => self.live(),
            10..20 => self.prune(),
            20..22 => self.through_a_clock_change(),
            22 => {
                let days = 1 + self.random.below(120) as i64;
                self.clock.jump_ms(days * DAY_MS);
                Ok(format!("nothing for {days} days"))
            }
            23 | 24 => Ok(self.set_clock()),
            25 => self.edit_policy(),
            26 => self.leave_garbage(),
            _ => self.by_hand(),
        }
    }

    /// Backups at an interval.
    fn live(&mut self) -> Result<String, Broken> {
        let hours = [1, 1, 6, 24, 24, 168][self.random.below(6) as usize];
        let count = 2 + self.random.below(20);
        self.tick(hours * HOUR_MS, count)?;
        Ok(format!("{count} backups, one in {hours} h"))
    }

    fn tick(&mut self, interval_ms: i64, count: u64) -> Result<(), Broken> {
        for _ in 0..count {
            let late_ms = self.random.below(300_000) as i64;
            self.clock.jump_ms(interval_ms - 150_000 + late_ms);
            if self.random.one_in(12) {
                continue;
            }
            let taken_at = self.clock.now();
            let condition = match self.random.below(24) {
                0 | 1 => Condition::Unchecked,
                2 => Condition::Damaged,
                _ => Condition::Good,
            };
            let known = Known {
                name: NamePattern::default().name(FOLDER, taken_at),
                taken_at,
                condition,
                is_migration: self.random.one_in(25),
                parent: None,
                pinned: self.random.one_in(60).then_some(None),
            };
            let builds = self.random.one_in(2);
            for member in &mut self.members {
                if !self.random.one_in(15) {
                    let parent = if builds { member.newest_good()? } else { None };
                    self.report.incremental += u64::from(parent.is_some());
                    let known = Known { parent, ..known.clone() };
                    self.report.made += u64::from(member.back_up(known)?);
                }
            }
        }
        Ok(())
    }

    fn prune(&mut self) -> Result<String, Broken> {
        let mut story = String::new();
        for member in &mut self.members {
            if self.random.below(5) > 0 {
                story.push_str(&member.prune(&mut self.random, &mut self.report)?);
                story.push_str("; ");
            }
        }
        Ok(story)
    }

    /// On to the next change of a repository's calendar, and hourly backups through it.
    fn through_a_clock_change(&mut self) -> Result<String, Broken> {
        let chosen = self.random.below(self.members.len() as u64) as usize;
        let zone = self.members[chosen].zone.clone();
        let now = self.clock.now();
        let Some(change) = zone.following(now).next() else {
            return Ok("no clock change there".into());
        };
        let before = change.timestamp() - SignedDuration::from_hours(5);
        self.clock.jump_ms(before.duration_since(now).as_millis() as i64);
        self.report.clock_changes += 1;
        self.tick(HOUR_MS / 2, 20)?;
        Ok(format!("through the clock change at {}", change.timestamp()))
    }

    fn set_clock(&mut self) -> String {
        let jump_ms = match (self.wrong_by_ms, self.random.below(4)) {
            // Somebody notices.
            (wrong, _) if wrong != 0 && !self.random.one_in(4) => -wrong,
            (_, 0) => self.random.below(400 * DAY_MS as u64) as i64,
            (_, 1) => self.random.below(3 * DAY_MS as u64) as i64,
            (_, 2) => -(self.random.below(3 * DAY_MS as u64) as i64),
            (_, _) => -(self.random.below(60 * DAY_MS as u64) as i64),
        };
        self.wrong_by_ms += jump_ms;
        self.clock.jump_ms(jump_ms);
        self.report.clock_set += 1;
        format!("the clock is set by {} minutes", jump_ms / 60_000)
    }

    fn edit_policy(&mut self) -> Result<String, Broken> {
        let keep = policy(&mut self.random);
        let chosen = self.random.below(self.members.len() as u64) as usize;
        let member = &mut self.members[chosen];
        member.keep = keep;
        member.made_before_edit = member.made.len();
        Ok(format!("repository {chosen} keeps {:?}", member.keep))
    }

    fn leave_garbage(&mut self) -> Result<String, Broken> {
        let name = NamePattern::default().name(FOLDER, self.clock.now());
        for member in &mut self.members {
            member.leave_garbage(&name)?;
        }
        Ok(format!("{name} ends before its manifest"))
    }

    /// Somebody pins, unpins or takes back.
    fn by_hand(&mut self) -> Result<String, Broken> {
        let chosen = self.random.below(self.members.len() as u64) as usize;
        let member = &mut self.members[chosen];
        let error = |error: lifeboat_core::Error| format!("by hand: {error:?}");
        let catalog = member.repository.catalog().map_err(error)?;
        let Some(entry) = catalog.sources.iter().find(|entry| entry.folder == FOLDER) else {
            return Err("the source is not in the catalog".into());
        };
        agrees(member, entry)?;
        let takes_back = self.random.one_in(2);
        let from = if takes_back { &entry.removed } else { &entry.backups };
        let Some(backup) = from.get(self.random.below(from.len() as u64) as usize) else {
            return Ok("nothing to do by hand".into());
        };
        self.report.by_hand += 1;
        let name = &backup.name;
        if takes_back {
            undelete(&member.repository, entry, name).map_err(error)?;
            return Ok(format!("{name} is taken back"));
        }
        let Some(made) = member.made.get_mut(name) else {
            return Err(format!("{name} is listed, and nobody made it"));
        };
        if self.random.one_in(3) {
            let unpinned = unpin(&member.env, &member.repository, entry, backup).map_err(error)?;
            if unpinned != made.known.pinned.is_some() {
                return Err(format!("{name} is unpinned: {unpinned}"));
            }
            made.known.pinned = None;
            return Ok(format!("{name} is unpinned"));
        }
        let days = 1 + self.random.below(300) as i64;
        let until = self.clock.now() + SignedDuration::from_hours(24 * days);
        let until = (!self.random.one_in(4)).then_some(until);
        let hold = Hold { reason: "by hand".into(), until };
        pin(&member.env, &member.repository, entry, backup, &hold).map_err(error)?;
        made.known.pinned = Some(until);
        Ok(format!("{name} is pinned until {until:?}"))
    }
}

/// The catalog says what the names of the objects say.
fn agrees(member: &Member, entry: &SourceEntry) -> Result<(), Broken> {
    let there = member.look()?;
    let same = |backups: &[lifeboat_core::manifest::Manifest],
                names: &std::collections::BTreeSet<String>| {
        backups.len() == names.len() && backups.iter().all(|backup| names.contains(&backup.name))
    };
    let agrees = same(&entry.backups, &there.listed)
        && same(&entry.removed, &there.removed)
        && entry.unreadable.is_empty();
    match agrees {
        true => Ok(()),
        false => Err("the catalog does not say what is there".into()),
    }
}

/// What somebody might want to keep.
fn policy(random: &mut Seeded) -> Keep {
    let mut keep = Keep::default();
    let mut some = |below: u64| if random.one_in(2) { random.below(below) as u32 } else { 0 };
    keep.last = some(12);
    keep.hourly = some(30);
    keep.daily = some(20);
    keep.weekly = some(10);
    keep.monthly = some(8);
    keep.quarterly = some(6);
    keep.yearly = some(4);
    let days = i64::from(some(20));
    keep.within = (days > 0).then(|| SignedDuration::from_hours(24 * days));
    keep
}
