//! A database that seems whole: proved on all cores while it is copied. What is copied here needs
//! no second look; anything else is left to those who take a closer one.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};

use crate::copy;
use crate::look::{Opened, side_files};
use crate::prove::{Proven, prove};
use crate::report::{Counts, Report, TableReport, Way};
use crate::schema::{self, Described};
use crate::target::Place;
use crate::text::Encoding;
use crate::view::View;

/// Whether a copy could be made, and what is said of it. `None` where the database has to be
/// looked at: it is damaged, or not understood.
pub(crate) fn copied(
    env: &Env,
    database: &Path,
    opened: &mut Opened,
    place: &Place,
    subject: &str,
) -> Result<Option<Report>> {
    let mut notes = opened.notes.clone();
    let is_torn = match lay_over(database, opened, &mut notes)? {
        Some(is_torn) => is_torn,
        None => {
            opened.view.lay(None);
            return Ok(None);
        }
    };
    let made = attempt(env, opened, place, subject);
    let report = |(described, proven): (Described, Proven)| Report {
        way: Way::Copied,
        tables: tables(&described, &proven),
        nowhere: ("lost_and_found".to_owned(), Counts::default()),
        marks: String::new(),
        page_size: opened.view.page_size(),
        pages: opened.view.page_count(),
        unreadable_pages: 0,
        donated: opened.view.donated().to_vec(),
        notes,
        problems: if is_torn { vec![TORN.to_owned()] } else { Vec::new() },
        merged: false,
        is_doubtful: false,
    };
    let report = made?.map(report);
    if report.is_none() {
        opened.view.lay(None);
    }
    Ok(report)
}

/// What a report says of a side file whose end cannot be read.
pub(crate) const TORN: &str = "a side file is torn: transactions behind that are lost";

/// Lays over the file what SQLite would. Whether that is torn; `None` where it is not clear what
/// belongs to the database.
fn lay_over(database: &Path, opened: &mut Opened, notes: &mut Vec<String>) -> Result<Option<bool>> {
    let mut torn = None;
    for side in side_files(database, opened.view.page_size())? {
        match side.overlay {
            Err(why) => notes.push(why),
            Ok(_) if torn.is_some() => return Ok(None),
            Ok(overlay) => {
                torn = Some(overlay.torn.is_some());
                notes.push(side.words);
                opened.view.lay(Some(overlay));
            }
        }
    }
    Ok(Some(torn.unwrap_or(false)))
}

fn attempt(
    env: &Env,
    opened: &Opened,
    place: &Place,
    subject: &str,
) -> Result<Option<(Described, Proven)>> {
    let view = &opened.view;
    let number = |at| view.number(at).unwrap_or(0);
    // A map of parents is SQLite's to check, and what it cannot open is no copy.
    let is_plain = view.shape.has_header && number(52) == 0 && number(64) == 0;
    let Some(encoding) = Encoding::of(number(56)).filter(|_| is_plain) else { return Ok(None) };
    let Some(pages) = view.whole_count() else { return Ok(None) };
    let (entries, schema_is_whole) = schema::read(env, view, encoding)?;
    let mut described = schema::describe(&entries, &[]).map_err(schema::describing)?;
    if !schema_is_whole || !described.problems.is_empty() {
        return Ok(None);
    }
    let file = place.create()?;
    let refuted = AtomicBool::new(false);
    env.tell(Event::PhaseBegan {
        subject,
        phase: "copying",
        bytes_total: Some(u64::from(pages) * view.page_size() as u64),
    });
    let (proven, written) = std::thread::scope(|scope| {
        let copier = scope.spawn(|| written(env, view, pages, &file, &refuted));
        let Described { connection, tables, .. } = &mut described;
        let proven = prove(env, view, pages, encoding, &entries, connection, tables, &refuted);
        if proven.is_err() {
            refuted.store(true, Ordering::Relaxed);
        }
        let broke_off = |_| Err(Error::new(Kind::Failed, "the thread that copies broke off"));
        (proven, copier.join().unwrap_or_else(broke_off))
    });
    env.tell(Event::PhaseEnded { phase: "copying" });
    let proven = proven?;
    let is_written = written?;
    let proven = proven.filter(|_| is_written && view.unreadable() == 0);
    let proven = match proven {
        Some(proven) if copy::agrees(env, &place.part, &proven.asks, subject)? => Some(proven),
        _ => None,
    };
    match proven {
        Some(proven) => {
            place.publish()?;
            Ok(Some((described, proven)))
        }
        None => {
            place.discard()?;
            Ok(None)
        }
    }
}

/// Writes the copy, to the disk; `false` where it is not wanted any more.
fn written(env: &Env, view: &View, pages: u32, file: &File, refuted: &AtomicBool) -> Result<bool> {
    let go_on = || !refuted.load(Ordering::Relaxed);
    if !copy::write(env, view, pages, file, &go_on)? {
        return Ok(false);
    }
    file.sync_all().map_err(crate::target::writing)?;
    Ok(true)
}

fn tables(described: &Described, proven: &Proven) -> Vec<TableReport> {
    let report = |(table, &rows): (&schema::Table, &u64)| TableReport {
        name: table.layout.name.clone(),
        counts: Counts { certain: rows, ..Counts::default() },
        lost_pages: 0,
        ranges: Vec::new(),
        in_donor: 0,
    };
    described.tables.iter().zip(&proven.rows).map(report).collect()
}
