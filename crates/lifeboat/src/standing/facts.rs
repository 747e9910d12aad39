//! What a repository shows of a source, and what was promised of it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::repository::Repository;
use lifeboat_postgres::wal::Lsn;
use lifeboat_sqlite::pagelog::Moment;

use super::objective::LastDrill;
use super::rested::Asked;
use super::unusual::Sample;
use crate::commands::wal::moments;
use crate::config::schedule::Schedule;
use crate::config::values::Period;
use crate::logs;
use crate::session::Session;

/// What was promised of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// How old its newest restorable moment may be, in milliseconds.
    pub(crate) age_ms_max: Option<u64>,
    /// How long its restore may take.
    pub(crate) rto_ms_max: Option<u64>,
    /// How long ago a drill may have passed.
    pub(crate) drill_ms_max: Option<u64>,
}

/// The end of a log of a cluster, in one repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The cluster's system identifier.
    pub(crate) system: u64,
    /// The timeline.
    pub(crate) timeline: u32,
    /// The last place that can be restored.
    pub(crate) place: Lsn,
    /// The last time that the log tells up to it.
    pub(crate) at: Option<Timestamp>,
}

/// What a repository shows of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Its name.
    pub(crate) source: String,
    /// The URL of the repository.
    pub(crate) repository: String,
    /// What was promised.
    pub(crate) promise: Promise,
    /// The newest moment that can be restored.
    pub(crate) newest_at: Option<Timestamp>,
    /// Until when its server committed nothing that is not in the log, where it says that.
    pub(crate) unchanged_until: Option<Timestamp>,
    /// The newest state of its page log, as `restore` takes it.
    pub(crate) logged: Option<(String, Moment)>,
    /// The end of the log of its cluster.
    pub(crate) log_end: Option<LogEnd>,
    /// What is missing in its log behind the newest backup.
    pub(crate) gap: Option<String>,
    /// Its good backups, oldest first.
    pub(crate) samples: Vec<Sample>,
    /// Why the last drill failed, if it did.
    pub(crate) drill_failure: Option<String>,
    /// The last drill that measured a restore.
    pub(crate) drill: Option<LastDrill>,
    /// When one passed last.
    pub(crate) proven_at: Option<Timestamp>,
    /// The bytes of the newest good backup, when restored.
    pub(crate) newest_bytes: Option<u64>,
    /// Newer backups that were not checked, or that are of a damaged database.
    pub(crate) doubtful: usize,
    /// Backups that are dated in the future.
    pub(crate) in_future: usize,
    /// Manifests that cannot be read.
    pub(crate) unreadable: usize,
}

/// How old a backup may be where its schedule alone says so: one and a half times the time between
/// two runs, of which the longer counts where weekends are free.
pub(crate) fn by_schedule(text: Option<&str>, now: Timestamp, zone: &TimeZone) -> Option<u64> {
    Some(interval_ms(text, now, zone)?.saturating_mul(3) / 2)
}

/// The time between two runs of a schedule, in milliseconds.
pub(crate) fn interval_ms(text: Option<&str>, now: Timestamp, zone: &TimeZone) -> Option<u64> {
    let schedule = Schedule::read(text?).ok()?;
    let next = schedule.next(now, zone)?;
    // The one before: on a Monday that of Friday, where weekends are free.
    let before = schedule.newest(Timestamp::MIN, now, zone)?;
    u64::try_from(next.duration_since(before).as_millis()).ok()
}

impl Promise {
    /// What the configuration says of a source; `age_ms_max` holds where it says nothing of its
    /// age.
    pub(crate) fn new(
        (rpo, rto, drill): (Option<Period>, Option<Period>, Option<Period>),
        schedule: Option<&str>,
        age_ms_max: Option<u64>,
        (now, zone): (Timestamp, &TimeZone),
    ) -> Self {
        let ms = |period: Option<Period>| period.map(|period| period.milliseconds);
        Promise {
            age_ms_max: ms(rpo).or_else(|| by_schedule(schedule, now, zone)).or(age_ms_max),
            rto_ms_max: ms(rto),
            drill_ms_max: ms(drill),
        }
    }
}

impl Facts {
    /// One of which the repository holds nothing.
    pub(crate) fn nothing(source: &str, repository: &str, promise: Promise) -> Self {
        let (source, repository) = (source.to_owned(), repository.to_owned());
        Facts { source, repository, promise, ..Facts::default() }
    }

    /// What the repository says of a source by its folder.
    pub(crate) fn of_entry(
        session: &Session,
        env: &Env,
        repository: &Repository,
        (name, entry): (&str, &SourceEntry),
        promise: Promise,
    ) -> Result<Self> {
        env.proceed()?;
        let now = env.clock.now();
        let past = entry.backups.iter().filter(|backup| backup.taken_at <= now);
        let good: Vec<&Manifest> =
            past.clone().filter(|backup| backup.condition == Condition::Good).collect();
        let newest = good.last().copied();
        let is_newer =
            |backup: &&Manifest| newest.is_none_or(|newest| backup.taken_at > newest.taken_at);
        let mut facts = Facts {
            newest_at: newest.map(|newest| newest.taken_at),
            // One that builds on another is as large as what changed.
            samples: good
                .iter()
                .filter(|one| one.parent.is_none())
                .map(|one| sample(one))
                .collect(),
            proven_at: entry.last_proven_at(),
            newest_bytes: newest.map(Manifest::plain_bytes),
            doubtful: past.filter(is_newer).count(),
            in_future: entry.backups.iter().filter(|one| one.taken_at > now).count(),
            unreadable: entry.unreadable.len(),
            ..Facts::nothing(name, &repository.url(), promise)
        };
        facts.add_drills(entry);
        if let Some(newest) = newest {
            facts.add_page_log(repository, entry, newest, now)?;
            facts.add_cluster_log(session, env, repository, entry)?;
        }
        Ok(facts)
    }

    /// The moment up to which nothing would be lost.
    pub(crate) fn safe_until(&self) -> Option<Timestamp> {
        let newest_at = self.newest_at?;
        Some(self.unchanged_until.map_or(newest_at, |until| until.max(newest_at)))
    }

    /// What its server said of the end of its log, where that was asked and something is promised.
    pub(crate) fn asked(&self) -> Option<Asked> {
        Some(Asked {
            end: self.log_end?,
            newest_at: self.newest_at?,
            until: self.unchanged_until?,
            age_ms_max: self.promise.age_ms_max?,
        })
    }

    fn add_drills(&mut self, entry: &SourceEntry) {
        let failed = entry.last_drill().filter(|last| !last.passed);
        self.drill_failure = failed.map(|last| {
            last.failure.clone().unwrap_or_else(|| "for a reason that is not known".to_owned())
        });
        // A restore that failed measures nothing.
        let measured = entry.drilled.iter().filter(|one| one.passed && one.restore_ms.is_some());
        self.drill = measured.max_by_key(|one| one.drilled_at).map(|last| {
            let mut all = entry.backups.iter().chain(&entry.removed);
            LastDrill {
                drilled_at: last.drilled_at,
                restore_ms: last.restore_ms.unwrap_or(0),
                bytes: all.find(|backup| last.means(backup)).map(Manifest::plain_bytes),
            }
        });
    }

    fn add_page_log(
        &mut self,
        repository: &Repository,
        entry: &SourceEntry,
        newest: &Manifest,
        now: Timestamp,
    ) -> Result<()> {
        let (logged, broken) = logs::newest_and_gap(repository, entry, newest)?;
        self.gap = broken;
        self.logged =
            logged.filter(|(_, moment)| moment.held <= now && self.newest_at < Some(moment.held));
        self.newest_at = self.newest_at.max(self.logged.as_ref().map(|(_, moment)| moment.held));
        Ok(())
    }

    fn add_cluster_log(
        &mut self,
        session: &Session,
        env: &Env,
        repository: &Repository,
        entry: &SourceEntry,
    ) -> Result<()> {
        let now = env.clock.now();
        let all = moments::of_entry(session, env, repository, entry)?;
        // Of a server that was set up anew there are two; the newest backup is of the one that is.
        let of_now =
            all.iter().max_by_key(|one| one.log.bases.last().map(|(_, base)| base.ended_at));
        let Some(one) = of_now else { return Ok(()) };
        let ends = one.ranges.iter().map(|range| LogEnd {
            system: one.log.system,
            timeline: range.timeline,
            place: range.to,
            at: range.to_time,
        });
        self.log_end = ends.max_by_key(|end| (end.at, end.place));
        let told = self.log_end.and_then(|end| end.at).filter(|at| *at <= now);
        self.newest_at = self.newest_at.max(told);
        // A backup from behind a gap on closes it.
        let newest_base = one.log.bases.iter().max_by_key(|(_, base)| base.ended_at);
        let closed = newest_base.map_or(0, |(_, base)| base.begins.0);
        let arithmetic = one.log.log();
        let gaps = arithmetic.gaps();
        self.gap = gaps.iter().find(|gap| gap.to > closed).map(|gap| {
            let (from, to) = (Lsn(gap.from), Lsn(gap.to));
            format!("timeline {}, {from} to {to}", gap.branch)
        });
        Ok(())
    }
}

fn sample(backup: &Manifest) -> Sample {
    Sample {
        taken_at: backup.taken_at,
        bytes: backup.plain_bytes(),
        rows: backup.rows.as_ref().map(|rows| rows.values().sum()),
    }
}
