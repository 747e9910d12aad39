//! What the repositories hold of a source, found for a screen, and by which rule it goes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::policy::{Floors, Keep};
use lifeboat_core::prune::{self, Forecast, MOMENTS_MAX};
use lifeboat_core::{Error, Kind, Result};

use super::context::Ctx;
use crate::commands::status::Row;
use crate::config::schedule::Schedule;
use crate::repositories::Opened;
use crate::rotation::Rule;
use crate::sources::Target;
use crate::ui::units;

/// So many decisions on backups are made to foresee when they go.
const DECISIONS_MAX: usize = 200_000;
/// So far it is foreseen at most, and at least, in days.
const DAYS: (usize, usize) = (92, 7);

/// A source in one repository.
pub(crate) struct Held<'a> {
    /// What is said of it there.
    pub(crate) row: &'a Row,
    /// The repository, and what is in it; `None` where nothing of the source is, or can be read.
    pub(crate) stored: Option<(&'a Opened, &'a SourceEntry)>,
    /// All repositories that have it, by the names that `--repo` takes.
    pub(crate) places: Vec<&'a str>,
    /// Its name for `--repo`.
    pub(crate) place: &'a str,
}

/// The source of that name, in the repository that was asked for, else the first that holds some
/// of it.
pub(crate) fn find<'a>(ctx: &'a Ctx, name: &str) -> Result<Held<'a>> {
    let rows: Vec<&Row> = ctx.look.rows.iter().filter(|row| row.source == name).collect();
    let stored = |row: &&Row| stored(ctx, row);
    let wanted = ctx.given("in");
    let row = rows
        .iter()
        .find(|row| wanted == Some(label(ctx, row)))
        .or_else(|| rows.iter().find(|row| stored(row).is_some()))
        .or(rows.first());
    let Some(row) = row.copied() else {
        let message = format!("there is no source `{}`", units::one_line(name));
        return Err(Error::new(Kind::NotCovered, message).hint("the overview has all of them"));
    };
    Ok(Held {
        row,
        stored: stored(&row),
        places: rows.iter().map(|row| label(ctx, row)).collect(),
        place: label(ctx, row),
    })
}

fn label<'a>(ctx: &'a Ctx, row: &'a Row) -> &'a str {
    opened(ctx, row).map_or(&row.repository, |opened| opened.place.label())
}

fn opened<'a>(ctx: &'a Ctx, row: &Row) -> Option<&'a Opened> {
    ctx.look.opened.iter().find(|opened| opened.repository.url() == row.repository)
}

fn stored<'a>(ctx: &'a Ctx, row: &Row) -> Option<(&'a Opened, &'a SourceEntry)> {
    let opened = opened(ctx, row)?;
    let folder = row.folder.as_deref()?;
    let entry = opened.catalog.sources.iter().find(|entry| entry.folder == folder)?;
    Some((opened, entry))
}

/// The source as the configuration has it; `None` where only repositories know it.
pub(crate) fn target(ctx: &Ctx, name: &str) -> Result<Option<Target>> {
    let targets = Target::all(&ctx.look.loaded.config)?;
    Ok(targets.into_iter().find(|target| target.name == name))
}

/// What is kept of a source there. Without a rule nothing goes.
pub(crate) fn keep(opened: &Opened, target: Option<&Target>) -> Keep {
    let rule = target.and_then(|target| Rule::of(&opened.place, target, None));
    rule.map_or_else(Keep::default, |rule| rule.keep().clone())
}

/// When a source will be backed up, from now on; empty where no schedule says it.
pub(crate) fn moments(ctx: &Ctx, target: Option<&Target>, until: Timestamp) -> Vec<Timestamp> {
    let schedule = target.and_then(|target| target.schedule.as_deref());
    let schedule = schedule.and_then(|text| Schedule::read(text).ok());
    let zone = &ctx.look.zone;
    schedule.map_or_else(Vec::new, |read| read.moments(ctx.now, until, zone, MOMENTS_MAX))
}

/// How far those moments go: to the last of them where there are more than are counted, as nothing
/// is known of what comes after it.
pub(crate) fn reach(moments: &[Timestamp], until: Timestamp) -> Timestamp {
    let is_cut = moments.len() >= MOMENTS_MAX;
    moments.last().copied().filter(|_| is_cut).unwrap_or(until)
}

/// A moment so many days from now.
pub(crate) fn in_days(ctx: &Ctx, days: usize) -> Timestamp {
    let hours = i64::try_from(days).unwrap_or(1) * 24;
    ctx.now.checked_add(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MAX)
}

/// When backups are listed no more, as far as it can be foreseen without making anybody wait.
pub(crate) fn departures(
    ctx: &Ctx,
    (opened, entry): (&Opened, &SourceEntry),
    target: Option<&Target>,
) -> Result<BTreeMap<String, Timestamp>> {
    let keep = keep(opened, target);
    if keep.forever || keep.is_empty() {
        return Ok(BTreeMap::new());
    }
    let days = (DECISIONS_MAX / entry.backups.len().max(1)).clamp(DAYS.1, DAYS.0);
    let until = in_days(ctx, days);
    let moments = moments(ctx, target, until);
    let zone = prune::zone_of(&opened.repository)?;
    Ok(prune::departures(Forecast {
        now: ctx.now,
        until,
        zone: &zone,
        keep: &keep,
        floors: Floors::default(),
        grace: prune::GRACE,
        existing: entry.backups.iter().map(|one| (prune::candidate(entry, one), 0)).collect(),
        removed: Vec::new(),
        moments: &moments,
        backup_bytes: 0,
        free_bytes: None,
    }))
}
