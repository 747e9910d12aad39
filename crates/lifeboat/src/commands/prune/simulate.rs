//! `lifeboat prune --simulate 2y`: what a policy leads to. A forecast, said as one.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::policy::Candidate;
use lifeboat_core::prune::{self, Forecast, MOMENTS_MAX, Simulation};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::Job;
use crate::config::schedule::Schedule;
use crate::config::values::Period;
use crate::session::Session;
use crate::ui::table::{Align, Table};
use crate::ui::units;

/// The shortest and the longest time that is simulated, in days.
const DAYS: std::ops::RangeInclusive<i64> = 1..=100 * 365;

/// Simulates one source in one repository, and prints what would be.
pub(super) fn one(
    session: &Session,
    env: &Env,
    job: &Job<'_>,
    length: Period,
    every: Option<Period>,
) -> Result<Value> {
    let now = env.clock.now();
    let length = duration(length);
    if !DAYS.contains(&(length.as_hours() / 24)) {
        return Err(Error::new(Kind::Usage, "only a day to 100 years can be simulated")
            .hint("write --simulate 2y, or 90d"));
    }
    let until = now.checked_add(length).unwrap_or(Timestamp::MAX);
    let entry = job.entry;
    let newest = entry.backups.iter().rev().find(|backup| backup.taken_at <= now);
    let newest = newest.ok_or_else(|| {
        let message = format!("`{}` has no backup yet whose size could be taken", entry.folder);
        Error::new(Kind::NotCovered, message).hint("make one first: lifeboat backup")
    })?;
    let zone = &session.surroundings.time_zone;
    let (moments, rhythm) = moments(job, newest.taken_at, now, until, zone, every)?;
    let repository = &job.opened.repository;
    let request = job.rule.request(session, env, repository, job.folder);
    let keep = request.keep.and_within(request.also_within);
    let backup_bytes = newest.stored_bytes();
    let simulation = prune::simulate(Forecast {
        now,
        until,
        zone: &prune::zone_of(repository)?,
        keep: &keep,
        floors: request.floors,
        grace: request.grace,
        existing: existing(entry),
        removed: removed(entry),
        moments: &moments,
        backup_bytes,
        free_bytes: repository.store().space()?.map(|space| space.free_bytes),
    });
    if !session.printer.json() {
        let size = units::bytes(backup_bytes);
        let about = format!(
            "{}: forecast of a backup {rhythm}, each of {size} as the newest, pruned every day",
            units::one_line(job.folder)
        );
        session.printer.data(&text(session, &about, &simulation))?;
    }
    Ok(json!({
        "outcome": "simulated",
        "repository": job.opened.place.url,
        "folder": job.folder,
        "until": until,
        "rhythm": rhythm,
        "backup_bytes": backup_bytes,
        "simulation": simulation,
    }))
}

fn duration(period: Period) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(period.milliseconds).unwrap_or(i64::MAX))
}

/// When backups will be made, and that in words: by `--every`, else by the source's schedule.
fn moments(
    job: &Job<'_>,
    newest: Timestamp,
    now: Timestamp,
    until: Timestamp,
    zone: &TimeZone,
    every: Option<Period>,
) -> Result<(Vec<Timestamp>, String)> {
    let too_many = || {
        let message = format!("more than {} backups to come", units::count(MOMENTS_MAX as u64));
        Error::new(Kind::Usage, message).hint("simulate a shorter time, or a longer --every")
    };
    if let Some(period) = every {
        let step = duration(period);
        if step < SignedDuration::from_secs(1) {
            return Err(Error::new(Kind::Usage, "--every 0s has no end").hint("write --every 1h"));
        }
        let mut moments = Vec::new();
        let mut at = newest.checked_add(step).ok();
        while let Some(moment) = at.filter(|at| *at <= until) {
            // Those between the newest one and now were missed.
            if moment > now {
                moments.push(moment);
            }
            if moments.len() > MOMENTS_MAX {
                return Err(too_many());
            }
            at = match moment > now {
                true => moment.checked_add(step).ok(),
                false => moment.checked_add(step).ok().map(|next| next.max(now)),
            };
        }
        return Ok((moments, format!("every {period}")));
    }
    let name = units::one_line(job.folder);
    let Some(schedule) = job.schedule.as_deref() else {
        return Err(Error::new(
            Kind::Usage,
            format!("nothing says how often `{name}` is backed up"),
        )
        .hint("add --every 1h, or a `schedule` to the configuration"));
    };
    let read = Schedule::read(schedule).map_err(|why| Error::new(Kind::Usage, why))?;
    let moments = read.moments(now, until, zone, MOMENTS_MAX + 1);
    match moments.len() > MOMENTS_MAX {
        true => Err(too_many()),
        false => Ok((moments, format!("by the schedule \"{schedule}\""))),
    }
}

fn existing(entry: &SourceEntry) -> Vec<(Candidate, u64)> {
    let backups = entry.backups.iter();
    backups.map(|backup| (prune::candidate(entry, backup), backup.stored_bytes())).collect()
}

fn removed(entry: &SourceEntry) -> Vec<(Timestamp, u64)> {
    let bytes = |backup: &lifeboat_core::manifest::Manifest| {
        let tombstone = entry.tombstones.iter().find(|tombstone| tombstone.means(backup))?;
        Some((tombstone.delete_after, backup.stored_bytes()))
    };
    entry.removed.iter().filter_map(bytes).collect()
}

fn text(session: &Session, about: &str, simulation: &Simulation) -> String {
    let zone = &session.surroundings.time_zone;
    let date = |at: Timestamp| at.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string();
    let mut table = Table::new(&[
        ("at", Align::Left),
        ("backups", Align::Right),
        ("oldest", Align::Left),
        ("stored", Align::Right),
    ]);
    for step in &simulation.steps {
        table.row(vec![
            (date(step.at), None),
            (units::count(step.backups as u64), None),
            (step.oldest.map(date).unwrap_or_default(), None),
            (units::bytes(step.stored_bytes), None),
        ]);
    }
    let mut ages = Table::new(&[("age at the end", Align::Left), ("backups", Align::Right)]);
    for age in &simulation.ages {
        let word = match age.days_max {
            Some(1) => "up to a day".to_owned(),
            Some(days) => format!("up to {days} days"),
            None => "older".to_owned(),
        };
        ages.row(vec![(word, None), (units::count(age.backups as u64), None)]);
    }
    let mut text = format!("{about}\n{}", table.to_text(&session.printer));
    text.push_str(&ages.to_text(&session.printer));
    let most = units::bytes(simulation.stored_bytes_max);
    let _ = match simulation.full_at {
        Some(at) => writeln!(
            text,
            "at most {most}: with what is free today, the disk would be full on {}",
            date(at)
        ),
        None => writeln!(text, "at most {most}, with what is removed and not deleted yet"),
    };
    text
}
