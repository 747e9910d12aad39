//! The first way through all trees: which pages belong to what, and what speaks against the
//! database. It decides which side file belongs to it, and how far rows without proof are believed.

use std::cell::RefCell;

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use crate::bytes::word;
use crate::layout::Layout;
use crate::leaf::{Item, Leaf, judge};
use crate::marks::Marks;
use crate::page::Kind;
use crate::payload::Payloads;
use crate::reason::Reason;
use crate::text::Encoding;
use crate::twins::Twins;
use crate::view::{Got, View};
use crate::walk::{Stop, walk};

/// So many gaps of a table are remembered.
const GAPS_MAX: usize = 100_000;

/// A tree, as the schema names it.
#[derive(Clone, Copy)]
pub(crate) struct Tree<'a> {
    pub(crate) root: u32,
    /// Whether its pages are those of a table with rowids.
    pub(crate) is_table: bool,
    /// The columns of its rows; `None` for indexes.
    pub(crate) layout: Option<&'a Layout>,
}

/// Rowids that lie behind one, and not behind another, and of which nothing was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) above: Option<i64>,
    pub(crate) up_to: Option<i64>,
}

impl Gap {
    /// Whether it has all of these rowids.
    pub(crate) fn holds(&self, first: i64, last: i64) -> bool {
        self.above.is_none_or(|above| first > above) && self.up_to.is_none_or(|end| last <= end)
    }
}

/// What was found of one tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Rows, or entries of an index.
    pub(crate) rows: u64,
    /// Those against which nothing speaks.
    pub(crate) sound: u64,
    /// Cells that give no row.
    pub(crate) lost_cells: u64,
    /// Pages that are named and not there.
    pub(crate) lost_pages: u64,
    /// Where they were, as far as that is remembered.
    pub(crate) gaps: Vec<Gap>,
}

/// What is known of the database's pages.
pub(crate) struct Survey {
    pub(crate) marks: Marks,
    /// Pages with rows that are there twice.
    pub(crate) twins: Twins,
    /// What contradicts: lost pages, pages claimed twice, keys out of order, bad cells.
    pub(crate) faults: u64,
    /// Texts that are not valid among them: no damage by themselves, as applications store such.
    pub(crate) invalid_texts: u64,
    /// Pages that hold both what is sound and what is damaged: the mark of single changed bytes.
    pub(crate) changed_pages: u64,
    /// What was found of each tree.
    pub(crate) trees: Vec<Found>,
    /// Whether the list of free pages holds together.
    pub(crate) freelist_is_sound: bool,
}

impl Found {
    fn lost(&mut self, gap: Gap) {
        self.lost_pages += 1;
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        }
    }
}

/// Walks all trees.
pub(crate) fn survey(
    env: &Env,
    view: &View,
    encoding: Encoding,
    trees: &[Tree<'_>],
) -> Result<Survey> {
    let mut survey = Survey {
        marks: Marks::new(view.page_count()),
        twins: Twins::new(view.page_count()),
        faults: 0,
        invalid_texts: 0,
        changed_pages: 0,
        trees: vec![Found::default(); trees.len()],
        freelist_is_sound: false,
    };
    for (index, tree) in trees.iter().enumerate() {
        survey.tree(env, view, encoding, index, *tree)?;
    }
    survey.freelist_is_sound = survey.freelist(view);
    survey.faults += u64::from(!survey.freelist_is_sound);
    Ok(survey)
}

impl Survey {
    fn tree(
        &mut self,
        env: &Env,
        view: &View,
        encoding: Encoding,
        index: usize,
        tree: Tree<'_>,
    ) -> Result<()> {
        let marks = RefCell::new(std::mem::replace(&mut self.marks, Marks::new(0)));
        let mut payloads = Payloads::new(view);
        let mut claim = |page| !view.is_special(page) && marks.borrow_mut().claim_tree(page);
        let mut visit = |stop: &Stop<'_>| {
            let Some(page) = stop.page else {
                self.faults += 1;
                self.trees[index].lost(Gap { above: stop.above, up_to: stop.up_to });
                return Ok(());
            };
            self.faults += u64::from(stop.got != Got::Whole);
            if page.kind == Kind::TableInterior {
                self.faults += u64::from(!page.is_exact());
                return Ok(());
            }
            let doubt = Reason::Sound;
            // By themselves twins are no fault: two tables may hold the same.
            if tree.layout.is_some() && page.cells > 0 {
                self.twins.add(page.bytes());
            }
            let leaf = Leaf { stop, page, layout: tree.layout, encoding, doubt, doubt_long: doubt };
            let mut claim = |page| !marks.borrow_mut().claim_overflow(page);
            let (found, invalid_texts) = (&mut self.trees[index], &mut self.invalid_texts);
            let judged = judge(&leaf, &mut payloads, &mut claim, &mut |item| {
                match item {
                    Item::Lost { .. } => found.lost_cells += 1,
                    Item::Row(row) => {
                        found.rows += 1;
                        found.sound += u64::from(row.reason == Reason::Sound);
                        *invalid_texts += u64::from(row.reason == Reason::InvalidText);
                    }
                }
                Ok(())
            })?;
            self.faults += judged.faults;
            self.changed_pages += u64::from(judged.is_changed);
            Ok(())
        };
        let walked = walk(env, view, tree.root, tree.is_table, &mut claim, &mut visit);
        self.marks = marks.into_inner();
        walked
    }

    /// Whether anything but texts that are not valid speaks against the database: those alone may
    /// be what an application stored.
    pub(crate) fn is_damaged(&self) -> bool {
        self.faults > self.invalid_texts
    }

    /// Whether anything but the list of free pages is damaged.
    pub(crate) fn has_damaged_pages(&self) -> bool {
        self.faults > self.invalid_texts + u64::from(!self.freelist_is_sound)
    }

    /// Reads the list of free pages; `false` where it does not hold together.
    fn freelist(&mut self, view: &View) -> bool {
        let (mut trunk, count) = (view.number(32), view.number(36));
        let Some(count) = count else { return false };
        let mut page = vec![0; view.page_size()];
        let mut seen = 0_u32;
        let mut is_sound = true;
        while let Some(number) = trunk.filter(|&number| number != 0) {
            // A page that is listed twice, or claimed by a tree, ends the list.
            if !self.marks.set_free(number) || view.read(number, &mut page) != Got::Whole {
                return false;
            }
            seen += 1;
            let leaves = word(&page, 4).unwrap_or(0) as usize;
            if leaves > view.usable() / 4 - 2 {
                return false;
            }
            for index in 0..leaves {
                is_sound &=
                    word(&page, 8 + 4 * index).is_some_and(|leaf| self.marks.set_free(leaf));
                seen += 1;
            }
            trunk = word(&page, 0);
        }
        is_sound && seen == count
    }
}
