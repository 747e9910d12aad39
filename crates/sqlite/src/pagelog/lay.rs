//! Laying files of a log over a database file: of each page only the needed version is written.
//!
//! Files are taken some at a time, as many as memory is meant for, while those before are laid. Of
//! a page with several versions among them the way from the one before to the last is walked in
//! memory, on all cores; what comes out must have the hash of the last. What differences need of
//! other pages (`others`) is made before anything is written.

mod others;

use std::fs::File;
use std::mem::take as take_all;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};

use self::others::Others;
use super::chain::Step;
use super::delta::{Befores, Decoder};
use super::layout::{Entry, Footer, HEAD_BYTES, Index};
use super::needed::Needed;
use super::read::LogObject;
use super::replay::{unread, unwritten};

/// What is taken at once of the files of a log: two of these are in memory at a time. The more it
/// is, the fewer pages are written more than once.
pub(super) const BATCH: Batch = Batch { bytes: 24 << 20, pages: 200_000 };
/// Files that are laid at once, whatever they hold.
const PARTS_MAX: usize = 4_000;
/// Pages that one thread lays in a row.
const TASK_PAGES: usize = 512;
/// Pages that follow one another are written at once, up to so many bytes.
const RUN_BYTES: usize = 256 << 10;

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) bytes: u64,
    pub(super) pages: usize,
}

/// Pages of a file, as they are stored there.
struct Part<'a> {
    object: &'a LogObject,
    footer: &'a Footer,
    /// Those that count: where they are stored is where they are in `bytes`.
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Whether others of the same file came before.
    is_rest: bool,
}

impl<'a> Part<'a> {
    /// A part with some entries, of whose file bytes are given from `start` on.
    fn of(
        (object, footer): &'a Step,
        entries: impl Iterator<Item = Entry>,
        (start, stored): (u64, &[u8]),
    ) -> Self {
        let mut part =
            Part { object, footer, entries: Vec::new(), bytes: Vec::new(), is_rest: false };
        for mut entry in entries {
            let Range { start: from, end: to } = entry.stored;
            let here = part.bytes.len() as u64;
            part.bytes.extend(&stored[(from - start) as usize..(to - start) as usize]);
            entry.stored = here..here + (to - from);
            part.entries.push(entry);
        }
        part
    }

    fn stored(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.stored.start as usize..entry.stored.end as usize]
    }
}

/// Lays all of these files over a database file, in their order.
pub(super) fn all(
    env: &Env,
    repository: &Repository,
    steps: &[Step],
    (file, place): (&File, &Path),
    batch: Batch,
) -> Result<()> {
    let needed = match batch.together(steps) < steps.len() {
        true => Needed::of(env, repository, steps)?,
        // In memory it is seen anyway.
        false => Needed::unknown(),
    };
    let (sender, receiver) = sync_channel(0);
    let (taken, laid) = std::thread::scope(|scope| {
        let needed = &needed;
        let take = move || take(env, repository, (steps, needed), (batch.half(), &sender));
        let taker = scope.spawn(take);
        let mut laid = Ok(());
        for parts in &receiver {
            laid = lay(env, &parts, file, place);
            if laid.is_err() {
                break;
            }
        }
        // Where laying failed, the taker ends as nobody receives any more.
        drop(receiver);
        let panicked = |_| Err(Error::new(Kind::Failed, "the reading thread panicked"));
        (taker.join().unwrap_or_else(panicked), laid)
    });
    laid.and(taken)
}

/// Reads the files, and sends them some at a time: at least half of what is taken at once.
fn take<'a>(
    env: &Env,
    repository: &Repository,
    (steps, needed): (&'a [Step], &Needed),
    (half, sender): (Batch, &SyncSender<Vec<Part<'a>>>),
) -> Result<()> {
    let (mut at, mut waiting) = (0, Vec::new());
    while at < steps.len() {
        env.proceed()?;
        let now = &steps[at..at + half.together(&steps[at..])];
        let sent = match now {
            [one] if !half.holds(&one.1) && !needed.has_none(at) => {
                let is_sent = waiting.is_empty() || sender.send(take_all(&mut waiting)).is_ok();
                is_sent && take_in_parts(repository, (one, half), (at, needed), sender)?
            }
            several => {
                let readers = repository.store().readers();
                let several: Vec<(usize, &Step)> = (at..).zip(several).collect();
                let parts = in_parallel(&several, readers, |&(at, step)| {
                    part(repository, step, (at, needed))
                });
                waiting.extend(parts.into_iter().collect::<Result<Vec<Part<'a>>>>()?);
                !half.is_full(&waiting) || sender.send(take_all(&mut waiting)).is_ok()
            }
        };
        if !sent {
            return Ok(());
        }
        let bytes = now.iter().map(|(object, _)| object.bytes).sum();
        env.tell(Event::Advanced { bytes });
        at += now.len();
    }
    if !waiting.is_empty() {
        // Where nobody takes it, laying failed, and that is told.
        let _ = sender.send(waiting);
    }
    Ok(())
}

impl Batch {
    fn half(self) -> Self {
        Batch { bytes: self.bytes / 2, pages: self.pages / 2 }
    }

    fn holds(self, footer: &Footer) -> bool {
        footer.index.end <= self.bytes && footer.pages as usize <= self.pages
    }

    fn is_full(self, parts: &[Part<'_>]) -> bool {
        let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
        let pages: usize = parts.iter().map(|part| part.entries.len()).sum();
        bytes as u64 >= self.bytes || pages >= self.pages || parts.len() >= PARTS_MAX
    }

    /// How many of the next files are taken at once.
    fn together(self, steps: &[Step]) -> usize {
        let (mut bytes, mut pages) = (0, 0);
        let fits = |(_, footer): &&Step| {
            bytes += footer.index.end;
            pages += footer.pages as usize;
            bytes <= self.bytes && pages <= self.pages
        };
        steps.iter().take_while(fits).count().max(1)
    }

    /// Entries from there on, as many as are taken at once: one at least.
    fn some(self, index: &Index, from: usize) -> Vec<Entry> {
        let first = index.entry(from);
        let end = first.stored.start + self.bytes;
        let more = (from + 1..index.len()).map(|at| index.entry(at));
        let more = more.take(self.pages.saturating_sub(1));
        let more = more.take_while(|entry| entry.stored.end <= end);
        std::iter::once(first.clone()).chain(more).collect()
    }
}

/// A file of which no page counts is not read.
fn part<'a>(
    repository: &Repository,
    step: &'a Step,
    (at, needed): (usize, &Needed),
) -> Result<Part<'a>> {
    let (object, footer) = step;
    if needed.has_none(at) {
        return Ok(Part::of(step, std::iter::empty(), (0, &[])));
    }
    let (index, bytes) = object.load(repository, footer)?;
    let entries = index.entries().enumerate().filter(|(number, _)| needed.has(at, *number));
    Ok(Part::of(step, entries.map(|(_, entry)| entry), (HEAD_BYTES as u64, &bytes)))
}

/// Sends a file that is too large for that, some pages at a time. `false` where nobody takes them.
fn take_in_parts<'a>(
    repository: &Repository,
    (step, batch): (&'a Step, Batch),
    (at, needed): (usize, &Needed),
    sender: &SyncSender<Vec<Part<'a>>>,
) -> Result<bool> {
    let (object, footer) = step;
    let mut reader = object.open(repository, footer)?;
    // What pages were before is there as long as no page of the file was laid.
    if reader.index.entries().any(|entry| entry.form.needs_other()) {
        return Ok(sender.send(vec![part(repository, step, (at, needed))?]).is_ok());
    }
    let mut from = 0;
    while from < reader.index.len() {
        let entries = batch.some(&reader.index, from);
        let ends = entries.first().zip(entries.last());
        let Range { start, end } = ends.map_or(0..0, |(a, b)| a.stored.start..b.stored.end);
        let (is_rest, count) = (from > 0, entries.len());
        let entries = (from..).zip(entries).filter(|(number, _)| needed.has(at, *number));
        let entries = entries.map(|(_, entry)| entry);
        let part = Part::of(step, entries, (start, reader.range(start..end)?));
        if sender.send(vec![Part { is_rest, ..part }]).is_err() {
            return Ok(false);
        }
        from += count;
    }
    Ok(true)
}

/// A version of a page: its number, and where it is among the parts.
type Version = (u32, usize, usize);

/// Lays parts over the file, which is in the state that the first of them follows.
fn lay(env: &Env, parts: &[Part<'_>], file: &File, place: &Path) -> Result<()> {
    let mut rest = parts;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(others::together(rest));
        lay_some(env, now, file, place)?;
        rest = later;
    }
    Ok(())
}

fn lay_some(env: &Env, parts: &[Part<'_>], file: &File, place: &Path) -> Result<()> {
    let others = Others::make(env, parts, (file, place))?;
    let Some(last) = parts.last().map(|part| part.footer) else { return Ok(()) };
    let page_bytes = u64::from(last.page_size);
    let resize = |pages: u32| {
        let sized = file.set_len(u64::from(pages) * page_bytes);
        sized.map_err(|error| unwritten(place, error))
    };
    // What was cut off in between comes back with new pages only.
    let counts = parts.iter().map(|part| part.footer.page_count.1);
    let least = counts.min().unwrap_or(0).min(parts[0].footer.page_count.0);
    // A large file comes in several parts, and what the first one brought stays.
    if !parts[0].is_rest {
        resize(least)?;
    }
    let versions = versions(parts)?;
    let pages: Vec<&[Version]> = versions.chunk_by(|a, b| a.0 == b.0).collect();
    let tasks: Vec<&[&[Version]]> = pages.chunks(TASK_PAGES).collect();
    let laid = in_parallel(&tasks, env.threads, |task| {
        env.proceed()?;
        let mut layer = Layer {
            parts,
            others: &others,
            file,
            place,
            decoder: Decoder::new(),
            before: Vec::new(),
            run: (0, Vec::new()),
        };
        task.iter().try_for_each(|versions| layer.page(versions))?;
        layer.write()
    });
    laid.into_iter().collect::<Result<()>>()?;
    resize(last.page_count.1)
}

/// The versions that count, sorted by page, and those of a page in their order.
fn versions(parts: &[Part<'_>]) -> Result<Vec<Version>> {
    let mut versions = Vec::with_capacity(parts.iter().map(|part| part.entries.len()).sum());
    let mut pages_max = u32::MAX;
    for (at, part) in parts.iter().enumerate().rev() {
        for (number, entry) in part.entries.iter().enumerate() {
            if entry.form.needs_own() && entry.page > part.footer.page_count.0 {
                let why = format!("page {} is a difference from none", entry.page);
                return Err(damaged(part, &why));
            }
            if entry.page <= pages_max {
                versions.push((entry.page, at, number));
            }
        }
        pages_max = pages_max.min(part.footer.page_count.1);
    }
    versions.sort_unstable();
    Ok(versions)
}

/// A thread that lays pages.
struct Layer<'a> {
    parts: &'a [Part<'a>],
    others: &'a Others,
    file: &'a File,
    place: &'a Path,
    decoder: Decoder,
    before: Vec<u8>,
    /// Pages that follow one another and are not written yet: where the first one begins.
    run: (u64, Vec<u8>),
}

impl Layer<'_> {
    /// Makes the last of a page's versions, to be written.
    fn page(&mut self, versions: &[Version]) -> Result<()> {
        let entry = |&(_, part, number): &Version| &self.parts[part].entries[number];
        let begins = versions.iter().rposition(|one| !entry(one).form.needs_own());
        let versions = &versions[begins.unwrap_or(0)..];
        let Some(&(page, last, number)) = versions.last() else { return Ok(()) };
        let page_bytes = self.parts[last].footer.page_size as usize;
        let offset = u64::from(page - 1) * page_bytes as u64;
        self.before.resize(page_bytes, 0);
        if begins.is_none() {
            let read = self.file.read_exact_at(&mut self.before, offset);
            read.map_err(|error| unread(self.place, error))?;
        }
        for &(_, at, number) in versions {
            let part = &self.parts[at];
            let entry = &part.entries[number];
            let other = self.others.of(self.parts, at, number)?;
            let befores = Befores { own: Some(&self.before), other };
            let content = self
                .decoder
                .decode(entry.form, part.stored(entry), befores, page_bytes)
                .map_err(|error| error.context(format!("{} is damaged", part.object.object)))?;
            self.before.copy_from_slice(content);
        }
        let part = &self.parts[last];
        if block_hash(&self.before) != part.entries[number].hash {
            return Err(damaged(part, &format!("page {page} is not the page that was stored")));
        }
        let (begin, run) = &self.run;
        if begin + run.len() as u64 != offset || run.len() >= RUN_BYTES {
            self.write()?;
            self.run.0 = offset;
        }
        self.run.1.extend(&self.before);
        Ok(())
    }

    /// Writes what was made and is not written yet.
    fn write(&mut self) -> Result<()> {
        let (begin, run) = &mut self.run;
        let written = self.file.write_all_at(run, *begin);
        run.clear();
        written.map_err(|error| unwritten(self.place, error))
    }
}

fn damaged(part: &Part<'_>, why: &str) -> Error {
    let error = Error::new(Kind::CheckFailed, why.to_owned());
    error.context(format!("{} is damaged", part.object.object))
}
