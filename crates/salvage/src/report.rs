//! What came back, and what did not.

use serde_json::{Value, json};

use crate::reason::{Harm, Mark};

/// So many ranges of a table are named.
const RANGES_MAX: usize = 1_000;

/// Rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Everything that can be checked agrees.
    pub certain: u64,
    /// They are there, and may be wrong.
    pub uncertain: u64,
    /// A part of each is lost.
    pub altered: u64,
    /// Cells of which no row could be read.
    pub lost: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, mark: Mark) {
        match mark {
            Mark::Certain => self.certain += 1,
            Mark::Uncertain => self.uncertain += 1,
            Mark::Altered => self.altered += 1,
        }
    }

    /// Rows that are in the new database.
    pub fn rows(&self) -> u64 {
        self.certain + self.uncertain + self.altered
    }
}

/// Keys between two that survived, where pages were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The rows that were lost have keys above this one; `None` where it was the beginning.
    pub above: Option<i64>,
    /// And up to this one; `None` where it was the end.
    pub up_to: Option<i64>,
    /// Rows within it that came back all the same.
    pub rows: u64,
}

/// What became of one table.
#[derive(Clone, Debug)]
pub struct TableReport {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub counts: Counts,
    /// Pages of it that are named by others, and not there.
    pub lost_pages: u64,
    /// Where they were.
    pub ranges: Vec<Range>,
    /// Rows that were lost and that the donor has.
    pub in_donor: u64,
}

impl TableReport {
    /// Whether nothing of it is missing or in doubt.
    pub fn is_whole(&self) -> bool {
        let counts = &self.counts;
        counts.uncertain + counts.altered + counts.lost == 0 && self.lost_pages == 0
    }
}

/// How the new database was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Page for page, as nothing is damaged.
    Copied,
    /// Row for row.
    Rows,
    /// Not at all: it was only looked at.
    Looked,
}

/// A page that was taken from a donor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DonatedPage {
    /// Its number.
    pub page: u32,
    /// What is wrong with the database's own.
    pub harm: Harm,
}

/// The result of a salvage.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it was done.
    pub way: Way,
    /// Each table of the schema.
    pub tables: Vec<TableReport>,
    /// The table of rows that belong nowhere, and how many are in it.
    pub nowhere: (String, Counts),
    /// The table of the new database that says of each row that is not certain why.
    pub marks: String,
    /// Bytes of a page.
    pub page_size: usize,
    /// Pages of the file.
    pub pages: u32,
    /// Pages that the disk did not give.
    pub unreadable_pages: u64,
    /// Pages of the donor that stand in for those of the database, as they were proved to be the
    /// same.
    pub donated: Vec<DonatedPage>,
    /// What was found about the file, its side files and its schema.
    pub notes: Vec<String>,
    /// What is missing in the new database, beside rows.
    pub problems: Vec<String>,
    /// Whether the rows of the donor were put in.
    pub merged: bool,
    /// Whether values were changed where nothing but luck would show it.
    pub is_doubtful: bool,
}

impl Report {
    /// Whether everything came back, for certain.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
            && self.unreadable_pages == 0
            && self.nowhere.1 == Counts::default()
            && self.tables.iter().all(TableReport::is_whole)
    }

    /// All tables together, with the rows that belong nowhere.
    pub fn total(&self) -> Counts {
        let all = self.tables.iter().map(|table| &table.counts).chain([&self.nowhere.1]);
        all.fold(Counts::default(), |sum, counts| Counts {
            certain: sum.certain + counts.certain,
            uncertain: sum.uncertain + counts.uncertain,
            altered: sum.altered + counts.altered,
            lost: sum.lost + counts.lost,
        })
    }

    /// The same for programs.
    pub fn to_json(&self) -> Value {
        let counts = |counts: &Counts| {
            json!({
                "certain": counts.certain, "uncertain": counts.uncertain,
                "altered": counts.altered, "lost": counts.lost,
            })
        };
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|table| {
                let ranges = table.ranges.iter().take(RANGES_MAX).map(|range| {
                    json!({ "above": range.above, "up_to": range.up_to, "rows": range.rows })
                });
                json!({
                    "name": table.name, "rows": counts(&table.counts),
                    "lost_pages": table.lost_pages, "in_donor": table.in_donor,
                    "lost_ranges": ranges.collect::<Vec<_>>(),
                })
            })
            .collect();
        let way = match self.way {
            Way::Copied => "pages",
            Way::Rows => "rows",
            Way::Looked => "none",
        };
        let donated: Vec<Value> = self
            .donated
            .iter()
            .map(|donated| json!({ "page": donated.page, "harm": donated.harm.words() }))
            .collect();
        json!({
            "whole": self.is_whole(), "copied_by": way, "rows": counts(&self.total()),
            "tables": tables,
            "lost_and_found": { "table": self.nowhere.0, "rows": counts(&self.nowhere.1) },
            "marks": self.marks, "page_size": self.page_size, "pages": self.pages,
            "unreadable_pages": self.unreadable_pages, "donor_merged": self.merged,
            "donated_pages": donated,
            "values_changed": self.is_doubtful,
            "notes": self.notes, "problems": self.problems,
        })
    }
}
