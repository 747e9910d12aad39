//! The thread that reads: rows of every tree, in the order of their keys, then those of orphans.

use std::cell::RefCell;
use std::sync::mpsc::SyncSender;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind as ErrorKind, Result};

use crate::batch::{Batch, LostCell};
use crate::leaf::{Item, Leaf, judge};
use crate::look::Look;
use crate::marks::Marks;
use crate::orphan::{self, Home, Homes};
use crate::page::{Kind, Page};
use crate::payload::Payloads;
use crate::reason::Reason;
use crate::schema::Table;
use crate::survey::Survey;
use crate::text::Encoding;
use crate::view::{Got, View};
use crate::walk::{Stop, walk};

/// Where rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Into that table of the list. `false` where they were reached from no tree.
    Table(usize, bool),
    /// Into that table, where it lost something: they come from a donor.
    Donor(usize),
    /// Into the table of rows that belong nowhere.
    Nowhere,
}

/// What one thread tells the other.
pub(crate) struct Parcel {
    pub(crate) to: To,
    pub(crate) batch: Batch,
}

/// Everything that reading needs.
pub(crate) struct Producer<'a> {
    pub(crate) env: &'a Env,
    pub(crate) view: &'a View,
    pub(crate) encoding: Encoding,
    pub(crate) tables: &'a [Table],
    pub(crate) survey: &'a Survey,
    /// Why rows of reached pages are no more than uncertain.
    pub(crate) doubt: Reason,
    /// Why rows are not, whose values go on on other pages.
    pub(crate) doubt_long: Reason,
    /// Whether rows that were deleted are wanted too.
    pub(crate) deleted: bool,
    /// Whether the schema is known as a whole, so that what fits no table is of no table.
    pub(crate) schema_is_whole: bool,
    /// A sound donor: what it has to the last byte was not changed since.
    pub(crate) witness: Option<Witness<'a>>,
    pub(crate) send: SyncSender<Parcel>,
}

/// A donor, for single pages.
pub(crate) struct Witness<'a> {
    view: &'a View,
    page: RefCell<Vec<u8>>,
}

impl<'a> Witness<'a> {
    /// A donor that is sound itself, with pages of the same size.
    pub(crate) fn of(look: &Look, donor: &'a Look) -> Option<Self> {
        let view = &donor.view;
        let is_sound = !donor.sight.survey.is_damaged() && view.unreadable() == 0;
        let is_alike =
            (view.page_size(), view.usable()) == (look.view.page_size(), look.view.usable());
        let page = RefCell::new(vec![0; view.page_size()]);
        (is_sound && is_alike).then_some(Witness { view, page })
    }

    /// Whether the donor has that page, to the last byte.
    fn has(&self, number: u32, page: Page<'_>) -> bool {
        let mut other = self.page.borrow_mut();
        let is_there = self.view.glance(number, &mut other) == Got::Whole;
        is_there && other.get(..page.bytes().len()) == Some(page.bytes())
    }
}

impl<'a> Producer<'a> {
    /// Of what was looked at, with no doubts.
    pub(crate) fn of(env: &'a Env, look: &'a Look, send: SyncSender<Parcel>) -> Self {
        let sight = &look.sight;
        Producer {
            env,
            view: &look.view,
            encoding: sight.encoding,
            tables: &sight.described.tables,
            survey: &sight.survey,
            doubt: Reason::Sound,
            doubt_long: Reason::Sound,
            deleted: false,
            schema_is_whole: sight.schema_is_whole,
            witness: None,
            send,
        }
    }

    /// Sends everything.
    pub(crate) fn run(&self) -> Result<()> {
        let mut visited = Marks::new(self.view.page_count());
        for index in 0..self.tables.len() {
            self.table(index, To::Table(index, true), &mut visited)?;
        }
        self.orphans()
    }

    /// Sends the rows of some tables, each to the place that is named for it.
    pub(crate) fn donate(&self, pairs: &[(usize, usize)]) -> Result<()> {
        let mut visited = Marks::new(self.view.page_count());
        pairs.iter().try_for_each(|&(own, to)| self.table(own, To::Donor(to), &mut visited))
    }

    fn table(&self, index: usize, to: To, visited: &mut Marks) -> Result<()> {
        let table = &self.tables[index];
        let mut payloads = Payloads::new(self.view);
        let mut batch = Batch::default();
        let mut claim = |page| !self.view.is_special(page) && visited.claim_tree(page);
        let mut visit = |stop: &Stop<'_>| {
            let Some(page) = stop.page.filter(|page| page.kind != Kind::TableInterior) else {
                return Ok(());
            };
            self.leaf(stop, page, Some(table), table.reason, &mut payloads, &mut batch)?;
            if batch.is_full() {
                self.send(to, &mut batch)?;
            }
            Ok(())
        };
        walk(self.env, self.view, table.root, table.layout.has_rowids, &mut claim, &mut visit)?;
        self.send(to, &mut batch)
    }

    fn leaf(
        &self,
        stop: &Stop<'_>,
        page: Page<'_>,
        table: Option<&Table>,
        doubt: Reason,
        payloads: &mut Payloads<'_>,
        batch: &mut Batch,
    ) -> Result<()> {
        let layout = table.map(|table| &table.layout);
        let (general, doubt_long) = self.doubts(stop.number, page);
        let doubt = general.max(doubt);
        let twin = self.survey.twins.has(page.bytes());
        let doubt = if twin { doubt.max(Reason::Twin) } else { doubt };
        let leaf = Leaf { stop, page, layout, encoding: self.encoding, doubt, doubt_long };
        let mut shared = |page| self.survey.marks.is_shared(page);
        judge(&leaf, payloads, &mut shared, &mut |item| {
            match item {
                Item::Row(row) => batch.push(&row, self.encoding),
                Item::Lost { page, rowid, reason } => {
                    batch.lost.push(LostCell { page, rowid, reason });
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Why no row of a page is certain, and why none is whose values go on on others. What a donor
    /// has to the last byte is doubted no more; of the other pages nobody asked it.
    fn doubts(&self, number: u32, page: Page<'_>) -> (Reason, Reason) {
        let has_it = |witness: &Witness<'_>| witness.has(number, page);
        match self.doubt != Reason::Sound && self.witness.as_ref().is_some_and(has_it) {
            true => (Reason::Sound, self.doubt_long.max(self.doubt)),
            false => (self.doubt, self.doubt_long),
        }
    }

    fn orphans(&self) -> Result<()> {
        let found = &self.survey.trees[1..];
        let is_closed = self.survey.freelist_is_sound && self.schema_is_whole && !self.deleted;
        let homes = Homes { tables: self.tables, found, is_closed };
        let mut buffer = vec![0; self.view.page_size()];
        let mut payloads = Payloads::new(self.view);
        let mut batch = Batch::default();
        let mut last = To::Nowhere;
        for number in 1..=self.view.page_count() {
            if number.is_multiple_of(256) {
                self.env.proceed()?;
            }
            if !orphan::is_orphan(self.view, self.survey, number, self.deleted) {
                continue;
            }
            let Some(stop) = orphan::leaf(self.view, number, &mut buffer) else { continue };
            let Some(page) = stop.page else { continue };
            let home = homes.of(&stop, page, self.encoding, &mut payloads);
            let (to, table, doubt) = match home {
                Home::Table(index, reason) => {
                    let table = &self.tables[index];
                    (To::Table(index, false), Some(table), reason.max(table.reason))
                }
                // Entries of indexes come again from the rows.
                Home::Unknown if !page.kind.is_table() && self.schema_is_whole => continue,
                Home::Unknown if is_schema(&stop, page, self.encoding, &mut payloads) => continue,
                Home::Unknown => (To::Nowhere, None, Reason::Orphan),
            };
            if to != last {
                self.send(last, &mut batch)?;
                last = to;
            }
            self.leaf(&stop, page, table, doubt, &mut payloads, &mut batch)?;
            if batch.is_full() {
                self.send(to, &mut batch)?;
            }
        }
        self.send(last, &mut batch)
    }

    fn send(&self, to: To, batch: &mut Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let parcel = Parcel { to, batch: std::mem::take(batch) };
        self.send
            .send(parcel)
            .map_err(|_| Error::new(ErrorKind::Failed, "the new database takes no more rows"))
    }
}

/// Whether a page holds entries of a schema, which were read before.
fn is_schema(
    stop: &Stop<'_>,
    page: Page<'_>,
    encoding: Encoding,
    payloads: &mut Payloads<'_>,
) -> bool {
    crate::schema::entries_of(stop, page, encoding, payloads).is_ok_and(|entries| entries > 0)
}
