//! One thread of the proof: pages of trees, from their roots down.

use std::borrow::Cow;
use std::cmp::Ordering as Order;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_core::Result;

use super::digest::Digest;
use super::order::{Part, compare};
use super::plan::Tree;
use super::{Digest as Sum, Shared};
use crate::leaf::{Item, Leaf, judge};
use crate::page::{Kind, Page};
use crate::payload::Payloads;
use crate::reason::Reason;
use crate::record::{Form, Value, read};
use crate::view::Got;
use crate::walk::Stop;

/// A part of a tree, and what the pages above it say of its keys.
#[derive(Clone)]
pub(super) struct Job {
    tree: usize,
    number: u32,
    depth: u32,
    above: Option<i64>,
    up_to: Option<i64>,
    /// The same for trees without rowids: the entries before and behind.
    after: Option<Arc<[u8]>>,
    before: Option<Arc<[u8]>>,
}

impl Job {
    /// The whole tree.
    pub(super) fn root(tree: usize, number: u32) -> Self {
        Job { tree, number, depth: 1, above: None, up_to: None, after: None, before: None }
    }

    fn child(&self, number: u32) -> Self {
        Job { number, depth: self.depth + 1, ..self.clone() }
    }
}

/// What one thread has.
pub(super) struct Worker<'a> {
    shared: &'a Shared<'a>,
    payloads: Payloads<'a>,
    buffer: Vec<u8>,
    pages: u32,
    /// Of each index: the sum of its table's rows, and that of its entries.
    pub(super) digests: Vec<[Digest; 2]>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        Worker {
            shared,
            payloads: Payloads::new(shared.view),
            buffer: vec![0; shared.view.page_size()],
            pages: 0,
            digests: vec![Default::default(); shared.plan.indexes.len()],
        }
    }

    /// Reads parts of trees until none is left.
    pub(super) fn run(&mut self, jobs: &[Job], next: &AtomicUsize) -> Result<()> {
        let mut open = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            open.push(job.clone());
            while let Some(job) = open.pop() {
                let begin = open.len();
                self.page(job, &mut open)?;
                open[begin..].reverse();
                if self.shared.refuted.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads one page, and names its children.
    pub(super) fn page(&mut self, job: Job, below: &mut Vec<Job>) -> Result<()> {
        self.pages = self.pages.wrapping_add(1);
        if self.pages.is_multiple_of(256) {
            self.shared.env.proceed()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let looked = self.look(&job, &mut buffer, below);
        self.buffer = buffer;
        if !looked? {
            self.shared.refuted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether nothing speaks against it.
    fn look(&mut self, job: &Job, buffer: &mut [u8], below: &mut Vec<Job>) -> Result<bool> {
        let view = self.shared.view;
        let tree = &self.shared.plan.trees[job.tree];
        if view.read(job.number, buffer) != Got::Whole {
            return Ok(false);
        }
        let page = Page::parse(job.number, buffer, view.usable());
        let Some(page) = page.filter(|page| page.kind.is_table() == tree.is_table) else {
            return Ok(false);
        };
        if page.kind.is_leaf() && !self.is_as_deep(job) {
            return Ok(false);
        }
        match page.kind {
            Kind::TableInterior => Ok(page.is_exact() && self.children(job, &page, below)),
            Kind::TableLeaf => self.rows(job, tree, page),
            Kind::IndexLeaf | Kind::IndexInterior => self.entries(job, tree, &page, below),
        }
    }

    fn is_as_deep(&self, job: &Job) -> bool {
        let depth = &self.shared.depths[job.tree];
        let known = depth.compare_exchange(0, job.depth, Ordering::Relaxed, Ordering::Relaxed);
        known.err().is_none_or(|known| known == job.depth)
    }

    /// The children of a page with rowids, which are in order.
    fn children(&self, job: &Job, page: &Page<'_>, below: &mut Vec<Job>) -> bool {
        let mut above = job.above;
        for index in 0..page.cells {
            let Some(cell) = page.cell(index) else { return false };
            let is_behind = above.is_none_or(|above| cell.rowid > above);
            if !is_behind || job.up_to.is_some_and(|end| cell.rowid > end) {
                return false;
            }
            if !self.shared.take(cell.child) {
                return false;
            }
            below.push(Job { above, up_to: Some(cell.rowid), ..job.child(cell.child) });
            above = Some(cell.rowid);
        }
        let last = page.right_child().filter(|&child| self.shared.take(child));
        below.extend(last.map(|child| Job { above, ..job.child(child) }));
        last.is_some()
    }

    /// Rows of a table with rowids.
    fn rows(&mut self, job: &Job, tree: &Tree<'_>, page: Page<'_>) -> Result<bool> {
        let (shared, digests) = (self.shared, &mut self.digests);
        let (above, up_to) = (job.above, job.up_to);
        let stop = Stop { number: job.number, page: Some(page), got: Got::Whole, above, up_to };
        let leaf = Leaf { layout: tree.layout, ..Leaf::looked_at(&stop, page, shared.encoding) };
        let mut claim = |page| !shared.take(page);
        let mut count = 0;
        let judged = judge(&leaf, &mut self.payloads, &mut claim, &mut |item| {
            if let Item::Row(row) = item
                && row.reason == Reason::Sound
            {
                count += 1;
                add_row(shared, digests, tree, row.rowid, row.values);
            }
            Ok(())
        })?;
        shared.rows[job.tree].fetch_add(count, Ordering::Relaxed);
        Ok(judged.faults == 0)
    }

    /// Entries of an index, or rows of a table without rowids; with children between them on
    /// pages that are no leaves.
    fn entries(
        &mut self,
        job: &Job,
        tree: &Tree<'_>,
        page: &Page<'_>,
        below: &mut Vec<Job>,
    ) -> Result<bool> {
        if !page.is_exact() {
            return Ok(false);
        }
        let shared = self.shared;
        let mut stored = Vec::with_capacity(page.cells);
        for index in 0..page.cells {
            let Some(cell) = page.cell(index) else { return Ok(false) };
            let mut is_shared = |page| !shared.take(page);
            let (payload, chain) = self.payloads.read(page, &cell, &mut is_shared);
            if chain.is_broken || chain.is_shared || chain.is_odd {
                return Ok(false);
            }
            let payload = match cell.overflow {
                0 => Cow::Borrowed(&page.bytes()[cell.local.clone()]),
                _ => Cow::Owned(payload.to_vec()),
            };
            stored.push((payload, cell.child));
        }
        if !self.are_sound(job, tree, &stored) {
            return Ok(false);
        }
        if page.kind.is_leaf() {
            return Ok(true);
        }
        let mut after = job.after.clone();
        for (payload, child) in &stored {
            if !shared.take(*child) {
                return Ok(false);
            }
            let before: Arc<[u8]> = Arc::from(&payload[..]);
            let next = Some(Arc::clone(&before));
            below.push(Job { after, before: Some(before), ..job.child(*child) });
            after = next;
        }
        let last = page.right_child().filter(|&child| shared.take(child));
        below.extend(last.map(|child| Job { after, ..job.child(child) }));
        Ok(last.is_some())
    }

    /// Whether entries can be read and are in order, and between those of the pages above.
    fn are_sound(&mut self, job: &Job, tree: &Tree<'_>, stored: &[(Cow<'_, [u8]>, u32)]) -> bool {
        let (mut last, mut values) = (Vec::new(), Vec::new());
        let mut has_last = match &job.after {
            Some(after) if !is_whole(after, &mut last) => return false,
            after => after.is_some(),
        };
        for (payload, _) in stored {
            if !is_whole(payload, &mut values) || !self.is_known(tree, &values) {
                return false;
            }
            if has_last && !is_before(tree, &last, &values) {
                return false;
            }
            self.add_entry(job, tree, &values);
            std::mem::swap(&mut last, &mut values);
            has_last = true;
        }
        match &job.before {
            Some(before) => {
                is_whole(before, &mut values) && (!has_last || is_before(tree, &last, &values))
            }
            None => true,
        }
    }

    /// Whether an entry has as many values as it must, or a row is one of its table.
    fn is_known(&self, tree: &Tree<'_>, values: &[Value<'_>]) -> bool {
        let encoding = self.shared.encoding;
        let is_text = |value: &Value<'_>| match value {
            Value::Text(text) => encoding.is_valid(text),
            _ => true,
        };
        match (tree.layout, tree.index) {
            (Some(layout), _) => layout.fits(values) && values.iter().all(is_text),
            (None, Some(index)) => values.len() == self.shared.plan.indexes[index].columns.len(),
            // What is not understood is left to SQLite.
            (None, None) => true,
        }
    }

    fn add_entry(&mut self, job: &Job, tree: &Tree<'_>, values: &[Value<'_>]) {
        if let Some(index) = tree.index {
            self.digests[index][1].add(values.iter().copied());
        }
        if tree.layout.is_some() {
            self.shared.rows[job.tree].fetch_add(1, Ordering::Relaxed);
            add_row(self.shared, &mut self.digests, tree, 0, values);
        }
    }
}

/// What each index must have of a row.
fn add_row(
    shared: &Shared<'_>,
    digests: &mut [[Sum; 2]],
    tree: &Tree<'_>,
    rowid: i64,
    values: &[Value<'_>],
) {
    for &number in &tree.indexes {
        let columns = &shared.plan.indexes[number].columns;
        let fields = tree.layout.map_or(&[][..], |layout| &layout.fields);
        let mut is_unknown = false;
        let parts = columns.iter().map(|column| match *column {
            None => Value::Integer(rowid),
            Some(field) => values.get(field).copied().unwrap_or_else(|| {
                // The row is older than the column.
                is_unknown |= fields.get(field).is_none_or(|field| field.default.is_some());
                Value::Null
            }),
        });
        digests[number][0].add(parts);
        if is_unknown {
            shared.unknown[number].store(true, Ordering::Relaxed);
        }
    }
}

fn is_whole<'p>(payload: &'p [u8], values: &mut Vec<Value<'p>>) -> bool {
    read(payload, payload.len() as u64, values) == Form::Whole
}

/// Whether two entries that follow each other may do so.
fn is_before(tree: &Tree<'_>, a: &[Value<'_>], b: &[Value<'_>]) -> bool {
    let parts: &[Part] = &tree.parts;
    if parts.is_empty() {
        return true;
    }
    match compare(parts, a, b) {
        Order::Less => match tree.unique {
            Some(keys) if keys < parts.len() => {
                let is_null = a.iter().take(keys).any(|value| *value == Value::Null);
                is_null || compare(&parts[..keys], a, b) != Order::Equal
            }
            _ => true,
        },
        _ => false,
    }
}
