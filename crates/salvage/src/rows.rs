//! The way row by row: one thread reads, one writes, and SQLite sorts what indexes need.

use std::sync::mpsc::{SyncSender, sync_channel};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::Connection;

use crate::fill::{Filled, Filler, Names, quoted};
use crate::layout::Layout;
use crate::look::Look;
use crate::produce::{Parcel, Producer, Witness};
use crate::reason::Reason;
use crate::report::{Report, TableReport, Way};
use crate::schema::Table;
use crate::target::{self, Place, Settings, failed};
use crate::{Request, Verdict, ranges};

/// Batches between the two threads.
const QUEUE: usize = 4;
/// So many ranges of a table are looked up in the new one.
const RANGES_MAX: usize = 1_000;

/// Fills the new database, and checks it. `verdict`: what SQLite said of the old one.
pub(crate) fn salvage(
    env: &Env,
    request: &Request<'_>,
    look: &Look,
    donor: Option<&Look>,
    place: &Place,
    subject: &str,
    verdict: Verdict,
) -> Result<Report> {
    let sight = &look.sight;
    let tables = &sight.described.tables;
    let mut connection = target::open(&place.part, &settings(look), env.threads)?;
    target::make_tables(&mut connection, tables)?;
    connection.execute_batch("BEGIN").map_err(failed)?;
    env.tell(Event::PhaseBegan { subject, phase: "salvaging", bytes_total: None });
    let taken = |name: &str| sight.entries.iter().any(|entry| entry.name == name);
    let names = Names::free(&taken);
    let filled = fill(env, request, look, donor, &connection, names, verdict)?;
    let Filled { counts, donated, names } = filled;
    let mut problems = Vec::new();
    connection.execute_batch("COMMIT").map_err(failed)?;
    env.tell(Event::PhaseEnded { phase: "salvaging" });
    if counts.iter().all(|counts| counts.rows() == 0) && tables.is_empty() {
        let message = format!("nothing can be read of {}", request.database.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("restore a backup: `lifeboat list` shows them; or name one with --donor"));
    }
    env.tell(Event::PhaseBegan { subject, phase: "indexing", bytes_total: None });
    target::make_rest(&connection, &sight.entries, &mut problems);
    let mut reports = Vec::new();
    for ((table, counts), found) in tables.iter().zip(&counts).zip(&sight.survey.trees[1..]) {
        let name = table.layout.name.clone();
        let (lost_pages, ranges) = (found.lost_pages, ranges(found));
        let in_donor = donated[reports.len()];
        let mut report = TableReport { name, counts: *counts, lost_pages, ranges, in_donor };
        count_ranges(&connection, table.layout.rowid(), &mut report).map_err(failed)?;
        reports.push(report);
    }
    env.tell(Event::PhaseEnded { phase: "indexing" });
    check(env, &mut connection, subject, &mut problems)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    let nowhere = (names.nowhere, counts[tables.len()]);
    let mut report = look.report(Way::Rows, nowhere, names.marks);
    report.tables = reports;
    report.is_doubtful |= verdict == Verdict::Contradicted;
    report.merged = request.merge_rows && donor.is_some();
    report.problems.append(&mut problems);
    Ok(report)
}

fn settings(look: &Look) -> Settings {
    let number = |at| look.view.number(at).unwrap_or(0);
    Settings {
        page_size: look.view.page_size(),
        encoding: look.sight.encoding,
        auto_vacuum: match (number(52), number(64)) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        },
        user_version: number(60) as i32,
        application_id: number(68) as i32,
    }
}

/// Moves the rows, and then those of a donor.
fn fill(
    env: &Env,
    request: &Request<'_>,
    look: &Look,
    donor: Option<&Look>,
    connection: &Connection,
    names: Names,
    verdict: Verdict,
) -> Result<Filled> {
    let sight = &look.sight;
    let tables = &sight.described.tables[..];
    let gaps = sight.survey.trees[1..].iter().take(tables.len());
    let gaps = gaps.map(|found| found.gaps.clone()).collect();
    let mut filler = Filler::new(connection, tables, names, gaps)?;
    filler.note_donated(look.view.donated())?;
    let is_contradicted = verdict == Verdict::Contradicted;
    let is_doubtful =
        is_contradicted || sight.survey.changed_pages > 0 && verdict != Verdict::Sound;
    let is_damaged = sight.survey.has_damaged_pages() && verdict != Verdict::Sound;
    let doubt = |is_so: bool, reason| if is_so { reason } else { Reason::Sound };
    let own = |send| Producer {
        doubt: doubt(is_doubtful, Reason::Unproved),
        doubt_long: doubt(is_damaged, Reason::LongUnproved),
        deleted: request.deleted,
        witness: donor.and_then(|donor| Witness::of(look, donor)),
        ..Producer::of(env, look, send)
    };
    pump(&mut filler, own, &Producer::run)?;
    if let Some(donor) = donor {
        let pairs = pairs(&donor.sight.described.tables, tables);
        filler.merges = request.merge_rows;
        let donors = |send| Producer { doubt: Reason::Donor, ..Producer::of(env, donor, send) };
        pump(&mut filler, donors, &|producer| producer.donate(&pairs))?;
    }
    filler.finish()
}

/// One thread reads, this one writes.
fn pump<'a>(
    filler: &mut Filler<'_>,
    producer: impl FnOnce(SyncSender<Parcel>) -> Producer<'a>,
    read: &(dyn Fn(&Producer<'a>) -> Result<()> + Sync),
) -> Result<()> {
    let (send, receive) = sync_channel(QUEUE);
    let producer = producer(send);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&producer));
        let mut written = Ok(());
        for parcel in receive {
            written = filler.take(&parcel);
            if written.is_err() {
                // The queue is dropped here, and so the reader ends.
                break;
            }
        }
        let read = reader
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the thread that reads broke off")));
        written.and(read)
    })
}

/// Tables of a donor with the same names and columns, each with its place here.
fn pairs(donor: &[Table], own: &[Table]) -> Vec<(usize, usize)> {
    let names = |layout: &Layout| -> Vec<String> {
        layout.fields.iter().map(|field| field.name.clone()).collect()
    };
    let is_same = |a: &Layout, b: &Layout| {
        a.name == b.name && a.has_rowids == b.has_rowids && names(a) == names(b)
    };
    let place = |table: &Table| own.iter().position(|own| is_same(&own.layout, &table.layout));
    let found = donor.iter().enumerate().filter(|(_, table)| !table.sql.is_empty());
    found.filter_map(|(index, table)| Some((index, place(table)?))).collect()
}

/// Counts the rows that came back where pages were lost, and narrows the ranges to what
/// surrounds them.
fn count_ranges(
    connection: &Connection,
    rowid: Option<String>,
    report: &mut TableReport,
) -> rusqlite::Result<()> {
    let Some(rowid) = rowid else { return Ok(()) };
    let table = quoted(&report.name);
    let sql = format!(
        "SELECT count(*) FROM {table} WHERE (?1 IS NULL OR {rowid} > ?1) \
         AND (?2 IS NULL OR {rowid} <= ?2)"
    );
    let mut statement = connection.prepare(&sql)?;
    for range in report.ranges.iter_mut().take(RANGES_MAX) {
        let rows: i64 = statement.query_row((range.above, range.up_to), |row| row.get(0))?;
        range.rows = rows.unsigned_abs();
    }
    Ok(())
}

/// SQLite must find nothing wrong with what we made. What it cannot look into is said.
fn check(
    env: &Env,
    connection: &mut Connection,
    subject: &str,
    problems: &mut Vec<String>,
) -> Result<()> {
    env.tell(Event::PhaseBegan { subject, phase: "checking", bytes_total: None });
    target::stoppable(connection, env)?;
    let lines = target::check(env, connection, 20)?;
    env.tell(Event::PhaseEnded { phase: "checking" });
    if lines.is_empty() {
        return Ok(());
    }
    let damaged = target::damaged_tables(env, connection)?;
    if let Some(line) = damaged.first() {
        let message = format!("the new database is damaged, and was not kept: {line}");
        return Err(Error::new(Kind::CheckFailed, message).hint("check the disk, and try again"));
    }
    problems.extend(lines.into_iter().map(|line| format!("integrity_check: {line}")));
    Ok(())
}
