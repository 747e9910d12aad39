//! The proof that nothing is wrong with a database: everything that SQLite's `integrity_check`
//! would look at, on all cores. Every page is one of a tree, of a long value, or free, and only
//! once; pages add up, keys are in order, leaves equally deep; and each index has just the entries
//! that the rows of its table give, by a sum over both that does not depend on their order. What
//! is not understood here, as an index on an expression, is left to SQLite, table by table.
//!
//! The first thing that speaks against the database ends it: what that means is not judged here.

mod digest;
mod order;
mod pages;
mod plan;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use rusqlite::Connection;

use self::digest::Digest;
use self::pages::{Job, Worker};
use self::plan::{Plan, WHOLE, plan};
use crate::bytes::word;
use crate::schema::{Entry, Table};
use crate::text::Encoding;
use crate::view::{Got, View};

/// So many parts of trees for each thread are enough that none waits long for the others.
const JOBS_PER_THREAD: usize = 32;
/// Levels of trees that are read by one thread, to find these parts.
const LEVELS_MAX: usize = 3;

/// What was proved.
pub(crate) struct Proven {
    /// Rows of each table that is described.
    pub(crate) rows: Vec<u64>,
    /// What is left to SQLite: a check, and the table that it is for.
    pub(crate) asks: Vec<(&'static str, String)>,
}

/// What all threads share.
struct Shared<'a> {
    env: &'a Env,
    view: &'a View,
    plan: &'a Plan<'a>,
    encoding: Encoding,
    /// Of each page, whether something has it.
    taken: Vec<AtomicU8>,
    /// Of each tree, how deep its leaves are; 0 before the first.
    depths: Vec<AtomicU32>,
    rows: Vec<AtomicU64>,
    /// Of each index, whether a row has a value that is not stored.
    unknown: Vec<AtomicBool>,
    /// Whether nothing is to be proved any more.
    refuted: &'a AtomicBool,
}

impl Shared<'_> {
    /// Takes a page; `false` where that cannot be.
    fn take(&self, page: u32) -> bool {
        let mark = (page as usize).checked_sub(1).and_then(|index| self.taken.get(index));
        mark.is_some_and(|mark| mark.swap(1, Ordering::Relaxed) == 0) && !self.view.is_special(page)
    }
}

/// Proves a database of so many pages. `None` where something speaks against the database, or it is
/// not understood; then
/// `refuted` tells others of it at once.
#[expect(clippy::too_many_arguments, reason = "all of it is the database")]
pub(crate) fn prove(
    env: &Env,
    view: &View,
    pages: u32,
    encoding: Encoding,
    entries: &[Entry],
    connection: &mut Connection,
    tables: &[Table],
    refuted: &AtomicBool,
) -> Result<Option<Proven>> {
    let schema_format = view.number(44).unwrap_or(0);
    let Some(plan) = plan(entries, connection, tables, encoding, schema_format)? else {
        refuted.store(true, Ordering::Relaxed);
        return Ok(None);
    };
    let shared = Shared {
        env,
        view,
        plan: &plan,
        encoding,
        taken: (0..pages).map(|_| AtomicU8::new(0)).collect(),
        depths: plan.trees.iter().map(|_| AtomicU32::new(0)).collect(),
        rows: plan.trees.iter().map(|_| AtomicU64::new(0)).collect(),
        unknown: plan.indexes.iter().map(|_| AtomicBool::new(false)).collect(),
        refuted,
    };
    let digests = all(&shared)?;
    if refuted.load(Ordering::Relaxed) || !is_accounted_for(&shared) {
        refuted.store(true, Ordering::Relaxed);
        return Ok(None);
    }
    let asks = asks(&shared, &digests);
    let rows = shared.rows[1..].iter().map(|rows| rows.load(Ordering::Relaxed));
    let rows = rows.take(tables.len()).collect();
    Ok(Some(Proven { rows, asks }))
}

/// Reads all trees. The sums of each index: those of its table's rows, and those of its entries.
fn all(shared: &Shared<'_>) -> Result<Vec<[Digest; 2]>> {
    let threads = shared.env.threads.max(1);
    let mut first = Worker::new(shared);
    let mut jobs: Vec<Job> = Vec::new();
    for (tree, planned) in shared.plan.trees.iter().enumerate() {
        match shared.take(planned.root) {
            true => jobs.push(Job::root(tree, planned.root)),
            false => shared.refuted.store(true, Ordering::Relaxed),
        }
    }
    for _ in 0..LEVELS_MAX {
        if jobs.len() >= threads * JOBS_PER_THREAD || jobs.is_empty() {
            break;
        }
        let mut below = Vec::new();
        for job in jobs {
            first.page(job, &mut below)?;
        }
        jobs = below;
    }
    let next = AtomicUsize::new(0);
    let (jobs, next) = (&jobs, &next);
    std::thread::scope(|scope| {
        let more: Vec<_> = (1..threads)
            .map(|_| {
                scope.spawn(move || {
                    let mut worker = Worker::new(shared);
                    worker.run(jobs, next).map(|()| worker.digests)
                })
            })
            .collect();
        let mut done = first.run(jobs, next);
        let mut digests = first.digests;
        for thread in more {
            let broke_off = || Error::new(Kind::Failed, "a thread that reads broke off");
            match thread.join().unwrap_or_else(|_| Err(broke_off())) {
                Ok(others) => join(&mut digests, &others),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done.map(|()| digests)
    })
}

fn join(digests: &mut [[Digest; 2]], others: &[[Digest; 2]]) {
    for (own, other) in digests.iter_mut().zip(others) {
        own[0].join(&other[0]);
        own[1].join(&other[1]);
    }
}

/// Takes the free pages, and asks whether then every page was taken.
fn is_accounted_for(shared: &Shared<'_>) -> bool {
    let view = shared.view;
    let (mut trunk, count) = (view.number(32), view.number(36));
    let mut page = vec![0; view.page_size()];
    let mut seen = 0_u32;
    while let Some(number) = trunk.filter(|&number| number != 0) {
        if !shared.take(number) || view.read(number, &mut page) != Got::Whole {
            return false;
        }
        let leaves = word(&page, 4).unwrap_or(u32::MAX) as usize;
        if leaves > view.usable() / 4 - 2 {
            return false;
        }
        let mut leaves_at = (0..leaves).map(|index| word(&page, 8 + 4 * index));
        if !leaves_at.all(|leaf| leaf.is_some_and(|leaf| shared.take(leaf))) {
            return false;
        }
        seen += 1 + leaves as u32;
        trunk = word(&page, 0);
    }
    let all_taken = (1_u32..)
        .zip(&shared.taken)
        .all(|(page, mark)| mark.load(Ordering::Relaxed) != 0 || view.is_special(page));
    count == Some(seen) && all_taken
}

/// What SQLite is asked: what is planned, and tables whose sums are not those of an index.
fn asks(shared: &Shared<'_>, digests: &[[Digest; 2]]) -> Vec<(&'static str, String)> {
    let mut asks = shared.plan.asks.clone();
    for (number, index) in shared.plan.indexes.iter().enumerate() {
        let [of_rows, of_entries] = &digests[number];
        let is_unknown = shared.unknown[number].load(Ordering::Relaxed);
        if of_rows == of_entries && !is_unknown {
            continue;
        }
        let layout = shared.plan.trees[index.table].layout;
        asks.extend(layout.map(|layout| (WHOLE, layout.name.clone())));
    }
    // A whole check of a table has all that a part of it has.
    let whole: Vec<String> =
        asks.iter().filter(|(check, _)| *check == WHOLE).map(|(_, name)| name.clone()).collect();
    asks.retain(|(check, name)| *check == WHOLE || !whole.contains(name));
    asks.sort();
    asks.dedup();
    asks
}
