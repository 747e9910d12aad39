//! `lifeboat salvage`: rows out of a corrupt SQLite database, each with how sure it is; and what
//! can be had of PostgreSQL.

mod donor;
mod server;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use lifeboat_salvage::{Counts, DonatedPage, Report, Request, TableReport, Way};

use crate::commands::diff::side::Holder;
use crate::session::Session;
use crate::signals;
use crate::ui::printer::Style;
use crate::ui::units;

/// So many lines of a kind are printed; all are in the result of --json.
const LINES_MAX: usize = 20;

/// Get the rows out of a corrupt database
///
/// Reads the damaged file page by page, never writes to it, and makes a new database of everything
/// that can be read. It takes what no other tool opens: a header, a schema or the root of a table
/// that is lost, trees with cycles, a file that is cut, holes, bytes before the header, a database
/// that is compressed under another name, a -wal of another database beside it.
///
/// A row is certain where everything agrees that can be checked, uncertain where something speaks
/// against it or nothing says to which table it belongs, and altered where a part of it is lost.
/// The table _lifeboat_salvage of the new database has a line for each row that is not certain,
/// with its key and the reason. Rows that fit no table are in lost_and_found.
///
/// With --donor the pages of a backup stand in where it is proved that the database has not changed
/// them since: then they, and their rows, are certain. With a rollback journal that is proved by
/// the header, which counts transactions, where there was none since. In WAL mode by the -wal
/// beside the database, which must be there and unbroken, and by the repository, which knows with
/// which of its frames a backup or a state of the log ended: keep the -wal, and name the newest
/// state (SOURCE@latest). Each page that was taken is named in the result of --json.
///
/// SQLite keeps no checksums: a text that was changed into another text shows nothing by itself.
/// Where single bytes were found changed, all rows without proof are therefore uncertain; with a
/// donor those are proved whose page it has to the last byte.
///
/// Of PostgreSQL a database of a running server is read, by its name or URL, or a data directory
/// whose server is stopped. --to becomes a folder: the statements of the schema, the rows of each
/// table, and load.sql, which loads them into a new database (`psql -d NEW -f load.sql`). Where the
/// server refuses a damaged page, the rows around it are read, and the block is named. A data
/// directory is copied first, beside --to, and only read; on the copy a server of ours looks past
/// wrong checksums too, and what comes so is kept apart as uncertain. With --dry-run the damaged
/// blocks of a data directory are named, and nothing is made. What is damaged but for its schema
/// and rows (indexes) is named and lost nothing. The newest backup is named, too: it mostly is
/// better.
///
/// Exit code 0: everything came back, for certain. 3: the new database is there, but rows are
/// lost, or not certain. 20: nothing could be read, and there is no new database.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The damaged database: a file of SQLite; the data directory of PostgreSQL; or a source or URL
    /// of PostgreSQL
    #[arg(value_name = "DATABASE")]
    database: PathBuf,
    /// Where the new database goes, or the folder for PostgreSQL. Nothing may be there
    #[arg(long, value_name = "NEW")]
    to: PathBuf,
    /// A backup of the same database: a file, compressed or not, or what a repository holds, as
    /// SOURCE@latest, SOURCE@TIME or the name of a backup. Its pages stand in for harmed ones where
    /// that is proved; the statements of its tables for those that are lost; and it is said how
    /// many rows that are lost it has
    #[arg(long, value_name = "BACKUP")]
    donor: Option<PathBuf>,
    /// Put the rows of the donor in that are lost: those whose keys lie where pages were lost. They
    /// are uncertain, as they are from then
    #[arg(long, requires = "donor")]
    merge_rows: bool,
    /// Take rows that were deleted, too, as far as their pages were not used again. They are
    /// uncertain
    #[arg(long)]
    deleted: bool,
    /// Say what is there, and make nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    if let Some(done) = server::run(session, &env, &args)? {
        return Ok(done);
    }
    let Args { database, to, deleted, .. } = &args;
    let holder = Holder::default();
    let donor = args.donor.as_deref().map(|donor| donor::find(session, &env, &holder, donor));
    let donor = donor.transpose()?;
    let request = Request {
        database,
        to,
        donor: donor.as_ref().map(donor::Found::donor),
        merge_rows: args.merge_rows,
        deleted: *deleted,
    };
    let report = match args.dry_run {
        true => lifeboat_salvage::examine(&env, &request)?,
        false => lifeboat_salvage::salvage(&env, &request)?,
    };
    session.progress.clear();
    match session.printer.json() {
        true => {
            let mut value = report.to_json();
            value["outcome"] = if args.dry_run { "planned" } else { "salvaged" }.into();
            value["database"] = database.to_string_lossy().into();
            value["to"] = to.to_string_lossy().into();
            session.printer.json_data(&value)?;
        }
        false => session.printer.data(&text(session, &report, database, to))?,
    }
    match report.is_whole() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(incomplete(&report, to)),
    }
}

fn incomplete(report: &Report, to: &Path) -> Error {
    let total = report.total();
    let lost_pages: u64 = report.tables.iter().map(|table| table.lost_pages).sum();
    let parts = [
        (total.uncertain, "rows are uncertain"),
        (total.altered, "rows are altered"),
        (total.lost, "rows could not be read"),
        (lost_pages, "pages of tables are lost"),
        (report.problems.len() as u64, "problems beside rows"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, words)| format!("{} {words}", units::count(count))).collect();
    let what = match parts.is_empty() {
        true => "not all of it could be read".to_owned(),
        false => parts.join(", "),
    };
    let hint = match report.way {
        Way::Looked => "the same command without --dry-run makes the new database".to_owned(),
        _ => format!(
            "sqlite3 {} 'SELECT * FROM {} LIMIT 20' says which and why",
            units::shell_word(&to.to_string_lossy()),
            report.marks
        ),
    };
    Error::new(Kind::Incomplete, what).hint(hint)
}

fn text(session: &Session, report: &Report, database: &Path, to: &Path) -> String {
    let (database, to) = (shown(database), shown(to));
    let mut text = match report.way {
        Way::Looked => {
            format!("{database}: {} pages of {} bytes\n", report.pages, report.page_size)
        }
        Way::Copied if report.donated.is_empty() => {
            format!("{to}: a copy of all pages, as nothing is damaged\n")
        }
        Way::Copied => format!("{to}: a copy of all pages, with those of the donor\n"),
        Way::Rows => format!("{to}: made row by row of {} pages\n", report.pages),
    };
    for note in &report.notes {
        let _ = writeln!(text, "  {}", units::one_line(note));
    }
    let donated = report.donated.iter().take(LINES_MAX);
    for DonatedPage { page, harm } in donated {
        let _ =
            writeln!(text, "  page {page} is the donor's: of the database's own {}", harm.words());
    }
    if report.donated.len() > LINES_MAX {
        let more = units::count((report.donated.len() - LINES_MAX) as u64);
        let _ = writeln!(text, "  and {more} pages more, all in the result of --json");
    }
    let (whole, harmed): (Vec<&TableReport>, Vec<_>) =
        report.tables.iter().partition(|table| table.is_whole());
    for table in harmed {
        table_text(session, table, report.merged, &mut text);
    }
    if report.nowhere.1 != Counts::default() {
        let (name, counts) = &report.nowhere;
        let _ = writeln!(text, "  {name}: {}", counts_text(counts));
    }
    let rows: u64 = whole.iter().map(|table| table.counts.certain).sum();
    if !whole.is_empty() {
        let (tables, rows) = (units::count(whole.len() as u64), units::count(rows));
        let _ = writeln!(text, "  {tables} tables are whole, with {rows} rows, all certain");
    }
    for problem in report.problems.iter().take(LINES_MAX) {
        let problem = units::one_line(problem);
        let _ = writeln!(text, "  {} {problem}", session.printer.paint_out(Style::Doubtful, "!"));
    }
    if report.is_doubtful {
        text.push_str("  single bytes were changed: what nothing proves is uncertain\n");
    }
    text
}

fn table_text(session: &Session, table: &TableReport, merged: bool, text: &mut String) {
    let name = session.printer.paint_out(Style::Strong, &units::one_line(&table.name));
    let _ = write!(text, "  {name}: {}", counts_text(&table.counts));
    if table.lost_pages > 0 {
        let _ = write!(text, ", {} pages lost", units::count(table.lost_pages));
    }
    text.push('\n');
    if table.in_donor > 0 {
        let rows = units::count(table.in_donor);
        let _ = match merged {
            true => writeln!(text, "    {rows} lost rows were taken from the donor"),
            false => writeln!(text, "    the donor has {rows} of the lost rows: --merge-rows"),
        };
    }
    for range in table.ranges.iter().take(LINES_MAX) {
        let back = match range.rows {
            0 => "nothing came back".to_owned(),
            rows => format!("{} rows came back", units::count(rows)),
        };
        let place = match (range.above, range.up_to) {
            (None, None) => "of all keys".to_owned(),
            (Some(above), None) => format!("of keys above {above}"),
            (None, Some(up_to)) => format!("of keys up to {up_to}"),
            (Some(above), Some(up_to)) => format!("of keys above {above} and up to {up_to}"),
        };
        let _ = writeln!(text, "    {place}, {back}");
    }
}

fn counts_text(counts: &Counts) -> String {
    let parts = [
        (counts.certain, "certain"),
        (counts.uncertain, "uncertain"),
        (counts.altered, "altered"),
        (counts.lost, "not readable"),
    ];
    let parts = parts.into_iter().filter(|(count, word)| *count > 0 || *word == "certain");
    let parts: Vec<String> =
        parts.map(|(count, word)| format!("{} {word}", units::count(count))).collect();
    parts.join(", ")
}

fn shown(path: &Path) -> String {
    units::one_line(&path.to_string_lossy())
}
