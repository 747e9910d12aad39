//! Rows out of a corrupt SQLite database: a reader of its pages that trusts nothing.
//!
//! [`salvage`] looks at what is there, in every way that it can be seen, and makes a new database
//! of it. A database that nothing speaks against is copied page for page: `prove` looks at all that
//! SQLite's own `integrity_check` would, on all cores, and asks SQLite where something is unusual.
//! Any other is read row by row; of each row that is not certain the new database says why. The
//! damaged file is never written.
//!
//! From below: `page` and `record` read what may be anything; `view` gives pages of the file with
//! a `-wal` or a journal over it; `walk` goes through a tree past what is broken; `survey` finds
//! out which pages belong to what; `orphan` finds the table of those that nothing reaches;
//! `produce` and `fill` are the two ends of the row by row way.

mod batch;
mod bytes;
mod copy;
mod fill;
mod infer;
mod journal;
mod layout;
mod leaf;
mod look;
mod marks;
mod orphan;
mod overlay;
mod page;
mod payload;
mod produce;
mod prove;
mod reason;
mod record;
mod report;
mod rows;
mod schema;
mod shape;
mod stand_in;
mod survey;
mod target;
mod text;
mod twins;
mod unpack;
mod view;
mod wal;
mod walk;
mod whole;

use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Kind, Result};

pub use self::reason::{Harm, Mark};
pub use self::report::{Counts, DonatedPage, Range, Report, TableReport, Way};

use self::look::{Look, Opened, look};
use self::report::Counts as Rows;
use self::target::Place;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The damaged database.
    pub database: &'a Path,
    /// Where the new one goes; nothing may be there.
    pub to: &'a Path,
    /// A backup of it.
    pub donor: Option<Donor<'a>>,
    /// Whether rows that were lost are taken from the donor.
    pub merge_rows: bool,
    /// Whether rows are wanted that were deleted, too.
    pub deleted: bool,
}

/// A backup of the damaged database.
#[derive(Clone, Copy, Debug)]
pub struct Donor<'a> {
    /// Its file.
    pub path: &'a Path,
    /// With which frame of the `-wal` its state ended, where that is known.
    pub wal_place: Option<WalPlace>,
}

/// A place in a `-wal`: both salts as they stand in its header, a frame, and the checksum up to its
/// end. Frame 0 is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPlace {
    /// The salts.
    pub salts: [u8; 8],
    /// The frame.
    pub frame: u32,
    /// The checksum; of no meaning for frame 0.
    pub checksum: (u32, u32),
}

/// Looks at a database, and writes nothing but a scratch file where it must be unpacked.
pub fn examine(env: &Env, request: &Request<'_>) -> Result<Report> {
    let place = Place::new(request.to, id(env))?;
    let donor = donor(env, request, &place)?;
    let opened = opened(env, request, &place, donor.as_ref())?;
    let look = look(env, request.database, opened, entries(donor.as_ref()))?;
    let (tables, nowhere) = (look.tables(), ("lost_and_found".to_owned(), Rows::default()));
    Ok(Report { tables, ..look.report(Way::Looked, nowhere, String::new()) })
}

/// Makes a new database of what can be read. An error where nothing can.
pub fn salvage(env: &Env, request: &Request<'_>) -> Result<Report> {
    let place = Place::new(request.to, id(env))?;
    let donor = donor(env, request, &place)?;
    let subject = request.to.file_name().unwrap_or_default().to_string_lossy();
    let mut opened = opened(env, request, &place, donor.as_ref())?;
    if !request.deleted
        && let Some(report) = whole::copied(env, request.database, &mut opened, &place, &subject)?
    {
        return Ok(report);
    }
    let look = look(env, request.database, opened, entries(donor.as_ref()))?;
    let file = place.create()?;
    let survey = &look.sight.survey;
    let mut look_again = Vec::new();
    let mut verdict = Verdict::Unasked;
    let is_sound = !survey.is_damaged() && look.view.unreadable() == 0 && !request.deleted;
    if let Some(pages) = look.view.whole_count().filter(|_| is_sound) {
        copy::write(env, &look.view, pages, &file, &|| true)?;
        match copy::verdict(env, &place.part, &subject)? {
            None if survey.invalid_texts == 0 => {
                let nowhere = ("lost_and_found".to_owned(), Rows::default());
                let tables = look.tables();
                place.publish()?;
                return Ok(Report { tables, ..look.report(Way::Copied, nowhere, String::new()) });
            }
            None => {
                verdict = Verdict::Sound;
                look_again.push("SQLite finds nothing wrong with its pages".to_owned());
            }
            Some(line) => {
                if line.contains("index") || line.contains("order") {
                    verdict = Verdict::Contradicted;
                }
                look_again.push(format!("SQLite says of it: {line}"));
            }
        }
        let failed = |error| target::writing(error);
        file.set_len(0).map_err(failed)?;
    }
    let mut report = rows::salvage(env, request, &look, donor.as_ref(), &place, &subject, verdict)?;
    report.notes.extend(look_again);
    place.publish()?;
    Ok(report)
}

/// What SQLite said of a database in which we found nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was not asked, or complains of what is no damage.
    Unasked,
    /// It found nothing either.
    Sound,
    /// An index holds other values than its table, or keys are out of order: a value was changed,
    /// and nothing says whose.
    Contradicted,
}

/// The donor, looked at like any other: whether it is one is known before the database is read.
fn donor(env: &Env, request: &Request<'_>, place: &Place) -> Result<Option<Look>> {
    let Some(Donor { path, .. }) = request.donor else { return Ok(None) };
    let opened = look::open(env, path, &place.part).map_err(|error| {
        let is_absent = error.kind() == Kind::SourceUnavailable && error.hint_text().is_none();
        match is_absent {
            true => error.hint("restore the backup first: lifeboat restore SOURCE --to FILE"),
            false => error,
        }
    })?;
    look(env, path, opened, &[]).map(Some)
}

/// The statements of a donor's schema.
fn entries(donor: Option<&Look>) -> &[schema::Entry] {
    donor.map_or(&[], |donor| &donor.sight.entries)
}

/// Opens the database, with those pages of the donor that are proved to be its own.
fn opened(env: &Env, request: &Request<'_>, place: &Place, donor: Option<&Look>) -> Result<Opened> {
    let mut opened = look::open(env, request.database, &place.part)?;
    if let Some((asked, donor)) = request.donor.as_ref().zip(donor) {
        stand_in::lay(env, request.database, &mut opened, donor, asked.wal_place.as_ref())?;
    }
    Ok(opened)
}

fn id(env: &Env) -> u32 {
    let mut bytes = [0; 4];
    env.random.fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

impl Look {
    /// What the survey found of each table.
    fn tables(&self) -> Vec<TableReport> {
        let tables = self.sight.described.tables.iter().zip(&self.sight.survey.trees[1..]);
        let report = |(table, found): (&schema::Table, &survey::Found)| TableReport {
            name: table.layout.name.clone(),
            counts: Counts {
                certain: found.sound,
                uncertain: found.rows - found.sound,
                altered: 0,
                lost: found.lost_cells,
            },
            lost_pages: found.lost_pages,
            ranges: ranges(found),
            in_donor: 0,
        };
        tables.map(report).collect()
    }

    fn report(&self, way: Way, nowhere: (String, Counts), marks: String) -> Report {
        let mut problems = self.sight.described.problems.clone();
        if self.torn {
            problems.push(whole::TORN.to_owned());
        }
        let mut notes = self.notes.clone();
        if !self.sight.survey.freelist_is_sound {
            notes.push("the list of free pages is damaged, and was not relied upon".to_owned());
        }
        Report {
            way,
            tables: Vec::new(),
            nowhere,
            marks,
            page_size: self.view.page_size(),
            pages: self.view.page_count(),
            unreadable_pages: self.view.unreadable(),
            donated: self.view.donated().to_vec(),
            notes,
            problems,
            merged: false,
            is_doubtful: self.sight.survey.changed_pages > 0,
        }
    }
}

/// The gaps of a table, as a report has them: those that touch are one.
fn ranges(found: &survey::Found) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for gap in &found.gaps {
        match ranges.last_mut() {
            Some(last) if last.up_to.is_some() && last.up_to == gap.above => {
                last.up_to = gap.up_to;
            }
            _ => ranges.push(Range { above: gap.above, up_to: gap.up_to, rows: 0 }),
        }
    }
    ranges
}
