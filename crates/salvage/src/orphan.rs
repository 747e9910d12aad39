//! Pages that no tree reaches: to which table they belong, by the shape of their rows.

use crate::leaf::{Item, Leaf, judge};
use crate::page::{Kind, Page};
use crate::payload::Payloads;
use crate::reason::Reason;
use crate::schema::Table;
use crate::survey::{Found, Survey};
use crate::text::Encoding;
use crate::view::{Got, View};
use crate::walk::Stop;

/// What an additional column is worth where two tables fit.
const SAME_LENGTH_POINTS: usize = 16;

/// Where the rows of an orphan go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// To that table of the list. Whether nothing else is possible.
    Table(usize, Reason),
    /// No table fits, or several do.
    Unknown,
}

/// What decides.
pub(crate) struct Homes<'a> {
    pub(crate) tables: &'a [Table],
    /// What the survey found of each table.
    pub(crate) found: &'a [Found],
    /// Whether every page that is neither reached nor free must be one that was lost from a table.
    pub(crate) is_closed: bool,
}

/// Whether a page is one that nothing reaches, and holds rows or entries.
pub(crate) fn is_orphan(view: &View, survey: &Survey, number: u32, deleted: bool) -> bool {
    let marks = &survey.marks;
    let is_beyond = view.claimed().is_some_and(|count| number > count);
    !marks.is_claimed(number)
        && !view.is_special(number)
        && (deleted || !(marks.is_free(number) || is_beyond))
}

/// Reads a page that may be an orphan. `None` where it holds nothing.
pub(crate) fn leaf<'a>(view: &View, number: u32, buffer: &'a mut [u8]) -> Option<Stop<'a>> {
    let got = view.read(number, buffer);
    if got == Got::Nothing {
        return None;
    }
    let page = Page::parse(number, buffer, view.usable())?;
    // A table without rowids keeps rows above its leaves, too.
    let is_rows = page.kind != Kind::TableInterior && page.cells > 0;
    is_rows.then_some(Stop { number, page: Some(page), got, above: None, up_to: None })
}

impl Homes<'_> {
    /// Finds the table of a page.
    pub(crate) fn of(
        &self,
        stop: &Stop<'_>,
        page: Page<'_>,
        encoding: Encoding,
        payloads: &mut Payloads<'_>,
    ) -> Home {
        let mut points: Vec<Option<usize>> = vec![Some(0); self.tables.len()];
        let mut range: Option<(i64, i64)> = None;
        let leaf = Leaf::looked_at(stop, page, encoding);
        let (mut rows, mut is_short) = (0, vec![false; self.tables.len()]);
        let judged = judge(&leaf, payloads, &mut |_| false, &mut |item| {
            let Item::Row(row) = item else { return Ok(()) };
            rows += 1;
            let (first, last) = range.unwrap_or((row.rowid, row.rowid));
            range = Some((first.min(row.rowid), last.max(row.rowid)));
            let all = points.iter_mut().zip(&mut is_short).zip(self.tables);
            for ((points, is_short), table) in all {
                let layout = &table.layout;
                let fits = layout.has_rowids == page.kind.is_table() && layout.fits(row.values);
                let same = usize::from(row.values.len() == layout.fields.len());
                *is_short |= same == 0;
                *points = points.filter(|_| fits).map(|points| {
                    points + layout.affection(row.values) + same * SAME_LENGTH_POINTS
                });
            }
            Ok(())
        });
        let Some((first, last)) = range.filter(|_| judged.is_ok() && rows > 0) else {
            return Home::Unknown;
        };
        match self.choose(&points, first, last, page.kind == Kind::TableLeaf) {
            // Rows from before a column came, or those of another table.
            Home::Table(index, Reason::Sound) if is_short[index] => {
                Home::Table(index, Reason::Orphan)
            }
            home => home,
        }
    }

    /// Among the tables that fit those that miss pages come first, and of these those that miss
    /// just these keys; then the better fit decides, and nothing where there is none.
    fn choose(&self, points: &[Option<usize>], first: i64, last: i64, has_keys: bool) -> Home {
        let rank = |index: usize| {
            let found = &self.found[index];
            let misses = found.lost_pages > 0;
            let misses_these = has_keys && found.gaps.iter().any(|gap| gap.holds(first, last));
            (usize::from(misses) + usize::from(misses_these), points[index].unwrap_or(0))
        };
        let fitting: Vec<usize> = (0..points.len())
            .filter(|&index| points[index].is_some())
            .filter(|&index| !self.is_closed || self.found[index].lost_pages > 0)
            .collect();
        let Some(best) = fitting.iter().copied().max_by_key(|&index| rank(index)) else {
            return Home::Unknown;
        };
        if fitting.iter().filter(|&&index| rank(index) == rank(best)).count() > 1 {
            return Home::Unknown;
        }
        // Where all pages are accounted for, and only one table misses any that could be this one,
        // it is this one.
        let misses_these = has_keys && rank(best).0 == 2;
        let others = fitting.iter().filter(|&&index| rank(index).0 >= rank(best).0).count() > 1;
        match self.is_closed && misses_these && !others {
            true => Home::Table(best, Reason::Sound),
            false => Home::Table(best, Reason::Orphan),
        }
    }
}
