//! What the repositories take: how much, how it grows, when the disk is full, and whose it is.

mod view;

use jiff::Timestamp;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::policy::{Floors, Keep};
use lifeboat_core::prune::{self, Forecast, Simulation};
use maud::{Markup, html};

use self::view::{Share, StorageView};
use crate::commands::status::disk::Disk;
use crate::repositories::Opened;
use crate::sources::Target;
use crate::standing::SpaceHistory;
use crate::ui::units;
use crate::web::address;
use crate::web::charts::{Axis, Growth, Sample};
use crate::web::context::Ctx;
use crate::web::held;
use crate::web::layout;
use crate::web::table::{Row, Table};

/// So many days of sources are gone through to foresee how a repository grows.
const SOURCE_DAYS_MAX: usize = 6_000;
/// So far it is foreseen at most, and at least, in days.
const DAYS: (usize, usize) = (365, 30);
/// A disk that will be full within so many days is something to see to.
const SOON_DAYS: usize = 92;
/// So many of the largest sources are listed.
const LARGEST: usize = 20;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let targets = Target::all(&ctx.look.loaded.config)?;
    let mut sections = Vec::new();
    for (index, opened) in ctx.look.opened.iter().enumerate() {
        sections.push(one(ctx, index, opened, &targets)?);
    }
    Ok(html! {
        (layout::failures(ctx))
        @if sections.is_empty() { p { "There is no repository yet." } }
        @for section in &sections { (section) }
    })
}

fn one(ctx: &Ctx, index: usize, opened: &Opened, targets: &[Target]) -> Result<Markup> {
    let entries = &opened.catalog.sources;
    let days = (SOURCE_DAYS_MAX / entries.len().max(1)).clamp(DAYS.1, DAYS.0);
    let far = held::in_days(ctx, days);
    let mut to_come: Vec<(Option<&Target>, Vec<Timestamp>)> = Vec::new();
    for entry in entries {
        let target = target_of(ctx, opened, entry, targets);
        to_come.push((target, held::moments(ctx, target, far)));
    }
    // As far as all of them are foreseen.
    let until = to_come.iter().map(|(_, moments)| held::reach(moments, far)).min().unwrap_or(far);
    let simulations: Vec<Simulation> = entries
        .iter()
        .zip(&to_come)
        .map(|(entry, (target, moments))| {
            let moments = &moments[..moments.partition_point(|at| *at <= until)];
            foreseen(ctx, opened, entry, (*target, moments, until))
        })
        .collect::<Result<_>>()?;
    let disk = ctx.look.disks.iter().find(|disk| disk.repository == opened.repository.url());
    let space = disk.map(|disk| disk.space);
    let view = view::view(entries, &simulations, space, ctx.now);
    let id = format!("growth-{index}");
    let from = view.past.first().map_or(ctx.now, |first| first.at);
    let until = view.future.last().map_or(ctx.now, |last| last.at);
    let growth = Growth {
        id: &id,
        of: opened.place.label(),
        axis: Axis::new(from, until, &ctx.look.zone),
        now: ctx.now,
        past: &view.past,
        future: &view.future,
        room_bytes: view.room_bytes,
        full_at: view.full_at,
    };
    Ok(html! {
        section {
            h2 { (opened.place.label()) }
            p {
                span.path { (opened.repository.url()) } ": "
                (units::bytes(view.stored_bytes)) " in " (units::count(view.backups as u64)) " backups"
                @if view.removed_bytes > 0 {
                    ", and " (units::bytes(view.removed_bytes)) " of removed ones whose time has not come"
                }
                "."
            }
            (filling(ctx, &view))
            (growth.drawn())
            (disk_over_time(ctx, index, disk))
            p.note {
                "What was is told of what is still there, by when it was made. What comes is \
                 foreseen by schedules and retention, each backup as large as the newest of its \
                 source; a source without a schedule is taken to stay as it is."
            }
            (largest(&view))
        }
    })
}

/// The configured source whose folder that is.
fn target_of<'t>(
    ctx: &Ctx,
    opened: &Opened,
    entry: &SourceEntry,
    targets: &'t [Target],
) -> Option<&'t Target> {
    let url = opened.repository.url();
    let is_it = |row: &&crate::commands::status::Row| {
        row.repository == url && row.folder.as_deref() == Some(&entry.folder)
    };
    let row = ctx.look.rows.iter().find(is_it)?;
    targets.iter().find(|target| target.name == row.source)
}

/// How one source goes on there.
fn foreseen(
    ctx: &Ctx,
    opened: &Opened,
    entry: &SourceEntry,
    (target, moments, until): (Option<&Target>, &[Timestamp], Timestamp),
) -> Result<Simulation> {
    // Without backups to come nothing changes, whatever the rule.
    let keep = match moments.is_empty() {
        true => Keep::default(),
        false => held::keep(opened, target),
    };
    let removed = entry.removed.iter().filter_map(|backup| {
        let tombstone = entry.tombstones.iter().find(|one| one.means(backup))?;
        Some((tombstone.delete_after, backup.stored_bytes()))
    });
    let existing = entry.backups.iter();
    Ok(prune::simulate(Forecast {
        now: ctx.now,
        until,
        zone: &prune::zone_of(&opened.repository)?,
        keep: &keep,
        floors: Floors::default(),
        grace: prune::GRACE,
        existing: existing.map(|one| (prune::candidate(entry, one), one.stored_bytes())).collect(),
        removed: removed.collect(),
        moments,
        backup_bytes: entry.backups.last().map_or(0, |newest| newest.stored_bytes()),
        free_bytes: None,
    }))
}

/// How full the disk was, as far as this host looked, and will be.
fn disk_over_time(ctx: &Ctx, index: usize, disk: Option<&Disk>) -> Markup {
    let Some(disk) = disk else { return html! {} };
    let history = SpaceHistory::of(&ctx.session(), &disk.repository);
    let past: Vec<Sample> = history
        .samples
        .iter()
        .filter(|sample| sample.at <= ctx.now)
        .map(|sample| Sample { at: sample.at, bytes: sample.used_bytes })
        .collect();
    let future = view::disk_to_come(disk.space, disk.forecast, ctx.now);
    let (Some(first), true) = (past.first(), past.len() > 1) else { return html! {} };
    let until = future.last().map_or(ctx.now, |last| last.at);
    let growth = Growth {
        id: &format!("disk-{index}"),
        of: "everything on its disk",
        axis: Axis::new(first.at, until, &ctx.look.zone),
        now: ctx.now,
        past: &past,
        future: &future,
        room_bytes: Some(disk.space.used_bytes.saturating_add(disk.space.free_bytes)),
        full_at: disk.forecast.and_then(|forecast| forecast.full_at),
    };
    growth.drawn()
}

fn filling(ctx: &Ctx, view: &StorageView) -> Markup {
    html! {
        @if let Some(space) = &view.space {
            @let is_soon = |at: Timestamp| at < held::in_days(ctx, SOON_DAYS);
            @let class = match (space.is_full(), view.full_at.is_some_and(is_soon)) {
                (true, _) => "bad",
                (false, true) => "doubtful",
                (false, false) => "good",
            };
            p class={ "summary " (class) } {
                "The disk is " (space.used_percent()) " % full, " (units::bytes(space.free_bytes))
                " are left"
                @if space.is_full() { ": from 80 % on there is a warning" }
                "."
                @if let Some(at) = view.full_at {
                    " As things go, it is full on "
                    (at.to_zoned(ctx.look.zone.clone()).strftime("%-d %B %Y").to_string()) "."
                }
            }
            meter min="0" max="100" high="80" optimum="0" value=(space.used_percent())
                aria-label="How full the disk is"
            { (space.used_percent()) " %" }
        } @else {
            p.note { "This store does not say how much room there is." }
        }
    }
}

fn largest(view: &StorageView) -> Markup {
    html! {
        @if !view.shares.is_empty() {
            h3 { "The largest sources" }
            (Table {
                caption: "Sources by what they take",
                heads: &["Source", "Stored", "Share", "Backups"],
            }
            .of(view.shares.iter().take(LARGEST).map(line)))
        }
    }
}

fn line(share: &Share) -> Row {
    Row::new([
        html! { a href=(address::of_source(&share.source)) { (units::one_line(&share.source)) } },
        html! { (units::bytes(share.stored_bytes)) },
        html! {
            svg.share aria-hidden="true" width="100" height="10" {
                rect width="100" height="10" {}
                rect.part width=(share.percent) height="10" {}
            }
            " " (share.percent) " %"
        },
        html! { (units::count(share.backups as u64)) },
    ])
}
