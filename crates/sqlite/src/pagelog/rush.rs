//! Following a writer in a hurry: its frames are read as they come, and no state is held.
//!
//! To hold a state keeps the `-wal` from beginning anew. Of a writer of tens of megabytes a second
//! it would grow past its bound at once, and the checkpoint that follows would be a large one, for
//! which a commit waits. So here the `-wal` begins anew whenever its writer likes, and what stands
//! in it is looked at so often that no turn of it is missed: the pages of new frames are copied
//! into memory, with the versions that they had before, as long as these are still there. Now and
//! then what was collected is stored as one file of the log, by a thread of its own, while the
//! looking goes on; what is too much for memory is left, and read when it is stored. A state is
//! held for no longer than it takes to see how far it reaches, or to read what was left. What is
//! missed after all is seen, as the chain of checksums does not lead there: then all pages are
//! compared, by `catch_up`, while the looking goes on as well.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, block_hash};
use lifeboat_core::{Error, Kind, Result};

use super::collected::Collected;
use super::delta::{Changed, Encoding};
use super::follow::{Follower, Step};
use super::increment::Increment;
use super::known::{Known, News, Versions};
use super::open::{self, Ended, Looked};
use super::rest::Rest;
use super::write::LogWriter;
use crate::ffi::Mark;
use crate::snapshot::frames::{Keep, PageMap};
use crate::snapshot::wal;
use crate::snapshot::{Attempt, Glimpse, pin};

/// The time between two looks, as long as enough is new; what is less waits for so long.
pub(super) const LOOK_MS: u64 = 4;
const LOOK_MS_MAX: u64 = 60;
/// After so many frames SQLite's writers copy them into the database file, where nobody chose
/// otherwise: then pages are not what they were before any more.
const TURN_FRAMES: u32 = 1_000;
/// More new frames than that are not waited for.
const FRAMES_DUE_MAX: u32 = 400;
/// How often a look is tried that falls on the moment in which the `-wal` is begun anew.
pub(super) const TRIES: usize = 4;
/// What is collected is stored when it is so much, sooner than when its time has come, in bytes.
const BYTES_DUE: usize = 6 << 20;
/// Pages that are encoded together.
const BATCH_PAGES: usize = 128;
/// How fast a writer is, is told by what it wrote within so long.
const WINDOW_MS: u64 = 1_000;
/// A turn was missed and not caught up with: for so long states are held again.
const MISSED_MS: u64 = 10_000;

/// A writer in a hurry, and what was collected of it.
pub(super) struct Rush {
    glimpse: Glimpse,
    pub(super) collected: Collected,
    /// The `-wal` as it was looked at last, and when that was, by the clock that never goes back.
    file: Option<File>,
    looked_ms: u64,
    /// When something was stored last, by the same clock.
    stored_ms: u64,
    /// Since when it is counted how many bytes were written, and how many there were.
    window: (u64, u64),
    is_calm: bool,
    /// How many frames its `-wal` has when it is begun anew, about.
    turn_frames: u32,
    pub(super) is_missed: bool,
    /// Pages were read from the database file though no state was held: they are those of the state
    /// only when the next look has found what was written meanwhile.
    pub(super) is_unsettled: bool,
    /// The state of a look is held until the next one, which comes soon.
    pub(super) keeps: bool,
    is_held: Cell<bool>,
}

impl Follower {
    /// Takes up following without holding a state. `is_missed` where a turn of the `-wal` was: then
    /// all pages are compared first. `false` where that cannot be.
    pub(super) fn begin_rush(
        &mut self,
        env: &Env,
        looked: Looked,
        is_missed: bool,
    ) -> Result<bool> {
        let Attempt::Pinned(pinned) = pin(&self.path)? else { return Ok(false) };
        let glimpse = Glimpse::of(&self.path, pinned)?;
        if self.database.as_ref().map(|file| file.identity()) != Some(glimpse.identity()) {
            return Ok(false);
        }
        let now_ms = env.clock.monotonic_ms();
        let mut rush = Rush {
            glimpse,
            collected: Collected::none(self.log.state.page_count(), looked),
            file: None,
            looked_ms: 0,
            stored_ms: now_ms,
            window: (now_ms, 0),
            is_calm: false,
            turn_frames: TURN_FRAMES,
            is_missed,
            is_unsettled: false,
            keeps: false,
            is_held: Cell::new(false),
        };
        if !is_missed {
            self.collect(env, &mut rush, None)?;
        }
        let is_begun = is_missed || !rush.is_missed;
        self.rush = is_begun.then_some(rush);
        Ok(is_begun)
    }

    /// A look at a writer in a hurry.
    pub(super) fn rush(&mut self, env: &Env, mut rush: Rush) -> Result<Step> {
        let now_ms = env.clock.monotonic_ms();
        let mut is_due = rush.is_missed
            || now_ms.saturating_sub(rush.stored_ms) >= self.bounds.store_every_ms
            || self.collected_bytes(&rush) >= BYTES_DUE;
        if !is_due && !self.is_worth_a_look(&rush, now_ms) {
            self.rush = Some(rush);
            return Ok(Step::Unchanged);
        }
        if !rush.is_missed {
            // A turn takes hundredths of a second: none may be over before the storing has begun.
            rush.keeps = is_due;
            self.collect(env, &mut rush, None)?;
        }
        if is_due {
            self.settle(env, &mut rush)?;
        }
        rush.keeps = false;
        if rush.is_missed || is_due && rush.is_unsettled {
            rush.let_go(&self.path)?;
            self.catch_up(env, &mut rush)?;
            is_due = true;
        }
        if rush.is_missed {
            return self.end_missed(env, rush);
        }
        if !is_due {
            self.rush = Some(rush);
            return Ok(Step::Unchanged);
        }
        let step = self.store(env, &mut rush)?;
        rush.let_go(&self.path)?;
        let is_over = rush.is_calm && rush.collected.pages.is_empty();
        if rush.is_missed || !is_over {
            self.rush = Some(rush);
        }
        Ok(step)
    }

    /// Looks until what was collected is a state.
    pub(super) fn settle(&mut self, env: &Env, rush: &mut Rush) -> Result<()> {
        for _ in 0..TRIES {
            if rush.is_missed || !rush.is_unsettled {
                break;
            }
            self.collect(env, rush, None)?;
        }
        Ok(())
    }

    /// Whether enough is new in the `-wal`, or enough time is over. The nearer the end of its turn
    /// is, the less is enough: what pages were before is read before it is written over.
    pub(super) fn is_worth_a_look(&self, rush: &Rush, now_ms: u64) -> bool {
        let (Some(known), Some(file)) = (&self.known, &rush.file) else { return true };
        let left = rush.turn_frames.saturating_sub(known.place.frame);
        let frame = known.place.frame.saturating_add((left / 2).clamp(1, FRAMES_DUE_MAX));
        let is_same = wal::header(file).is_ok_and(|header| header == Some(known.header));
        now_ms.saturating_sub(rush.looked_ms) >= LOOK_MS_MAX
            || !is_same
            || wal::has_frame(file, &known.header, frame)
    }

    /// What was collected so far is no state: all pages are compared while one is held.
    fn end_missed(&mut self, env: &Env, rush: Rush) -> Result<Step> {
        drop(rush);
        let message = "its -wal began anew unseen: a state is held while all pages are compared";
        env.tell(Event::Detail { message });
        self.calm_until_ms = env.clock.monotonic_ms().saturating_add(MISSED_MS);
        self.known = None;
        match pin(&self.path)? {
            Attempt::Pinned(pinned) => self.compare_all(env, None, Some(pinned)),
            _ => self.compare_all(env, None, None),
        }
    }

    /// Looks once, and copies what is new. `stored` is what is being stored meanwhile.
    pub(super) fn collect(
        &mut self,
        env: &Env,
        rush: &mut Rush,
        stored: Option<&Collected>,
    ) -> Result<()> {
        rush.is_missed = true;
        for _ in 0..TRIES {
            let (mark, looked) = rush.take_mark(env, &self.path)?;
            let Some(mark) = mark else { return Ok(()) };
            rush.looked_ms = env.clock.monotonic_ms();
            if self.collect_to(env, &mark, (rush, stored))? {
                rush.collected.looked = looked;
                rush.is_missed = false;
                return Ok(());
            }
            env.pause_ms(1)?;
        }
        Ok(())
    }

    /// Looks on as long as that is so.
    fn collect_while(
        &mut self,
        env: &Env,
        (rush, batch): (&mut Rush, &Collected),
        goes_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        // When the hurry is over, nothing is collected that would make it go on.
        while goes_on() && !rush.is_missed && !rush.is_calm {
            if rush.is_held.get() || self.is_worth_a_look(rush, env.clock.monotonic_ms()) {
                self.collect(env, rush, Some(batch))?;
            }
            env.pause_ms(LOOK_MS)?;
        }
        rush.let_go(&self.path)?;
        Ok(())
    }

    fn collected_bytes(&self, rush: &Rush) -> usize {
        rush.collected.pages.len() * self.log.state.page_size() as usize
    }

    /// Whether everything up to that mark was collected.
    pub(super) fn collect_to(
        &mut self,
        env: &Env,
        mark: &Mark,
        (rush, stored): (&mut Rush, Option<&Collected>),
    ) -> Result<bool> {
        let Some(news) = self.news(env, mark)? else { return Ok(false) };
        self.collect_news(env, news, (rush, stored))
    }

    /// Whether what is new was collected. Where not, what was known stays known.
    pub(super) fn collect_news(
        &mut self,
        env: &Env,
        mut news: News,
        (rush, stored): (&mut Rush, Option<&Collected>),
    ) -> Result<bool> {
        let frame_bytes = u64::from(news.header.page_size) + 24;
        let page_count = news.mark.page_count;
        let Some(known) = &self.known else { return Ok(false) };
        let (is_same, newest) = (known.header == news.header, known.frames.newest());
        let none = PageMap::new(Keep::Last);
        let positions = if is_same { newest } else { &none };
        let wanted = news.between.wanted(page_count, rush.collected.page_count, positions);
        let Some(database) = &self.database else { return Ok(false) };
        let versions = Versions { file: &news.file, frames: &known.frames, database };
        let page_bytes = news.header.page_size as usize;
        let mut pages = Vec::with_capacity(wanted.len());
        let (mut has_read_frames, mut has_read_file) = (false, false);
        let mut room = rush.collected.room(page_bytes, self.bounds.collected_bytes_max);
        for (page, frame) in wanted {
            let copied = news.between.take(page);
            if !rush.collected.is_kept(page) {
                if room == 0 {
                    pages.push((page, None));
                    continue;
                }
                room -= 1;
            }
            has_read_frames |= copied.is_none() && frame > 0;
            has_read_file |= copied.is_none() && frame == 0;
            match versions.content((page, frame), copied, page_bytes)? {
                Some(content) => pages.push((page, Some(content))),
                None => return Ok(false),
            }
        }
        if !news.between.is_unchanged(&news.file, &news.header, has_read_frames)? {
            return Ok(false);
        }
        let collected = &mut rush.collected;
        for (page, content) in pages {
            let before = || self.before(&versions, page, page_bytes, stored);
            collected.add((page, content), before)?;
        }
        collected.cut(page_count);
        collected.commits += news.between.commits;
        rush.is_unsettled = has_read_file;
        if !is_same {
            rush.turn_frames = rush.turn_frames / 4 * 3 + known.place.frame / 4;
        }
        rush.count(env, news.between.frame_count * frame_bytes, self.bounds.rush_from_bytes);
        let frames = self.take_known_frames(&news);
        self.known = Some(Known::after(&news, frames));
        rush.file = Some(news.file);
        Ok(true)
    }

    /// A page's version in the log's state, where that is still to be had.
    fn before(
        &self,
        versions: &Versions<'_>,
        page: u32,
        page_bytes: usize,
        stored: Option<&Collected>,
    ) -> Result<Option<Arc<Vec<u8>>>> {
        let Some(before) = self.log.state.hash(page).copied() else { return Ok(None) };
        let stored = stored.and_then(|stored| stored.pages.get(&page));
        let stored = stored.filter(|stored| stored.hash == before);
        if let Some(content) = stored.and_then(|stored| stored.content.as_ref()) {
            return Ok(Some(Arc::clone(content)));
        }
        let found = versions.before(page, page_bytes, |old| block_hash(old) == before)?;
        Ok(found.map(|(old, _)| Arc::new(old)))
    }

    /// Stores what was collected, and looks on meanwhile.
    fn store(&mut self, env: &Env, rush: &mut Rush) -> Result<Step> {
        rush.stored_ms = env.clock.monotonic_ms();
        let has_left = rush.collected.left().next().is_some();
        let rest = match has_left {
            false => None,
            true => match self.hold_rest(env, rush)? {
                None => return Ok(Step::Unchanged),
                rest => rest.filter(|_| rush.collected.left().next().is_some()),
            },
        };
        let Collected { looked, page_count, commits, .. } = rush.collected;
        let none = Collected::none(page_count, looked);
        let mut batch = std::mem::replace(&mut rush.collected, none);
        batch.hash(&self.log.state);
        let befores = batch.take_befores();
        if batch.pages.is_empty() && page_count == self.log.state.page_count() {
            rush.let_go(&self.path)?;
            return self.beat(env, looked);
        }
        let page_bytes = self.log.state.page_size() as usize;
        let depths: Vec<u8> = batch.pages.keys().map(|&page| self.log.depth(page)).collect();
        let base = self.log.base.clone();
        let beginning = self.log.beginning(&base, looked);
        let changed: Vec<(u32, BlockHash)> =
            batch.pages.iter().map(|(page, of)| (*page, of.hash)).collect();
        self.log.wal_place = self.known.as_ref().map(Known::stored_place);
        let facts = self.log.facts(&changed, page_count, looked, commits);
        let (repository, folder) = (self.log.repository.clone(), self.log.folder.clone());
        let mut journal = self.log.journal.take();
        let store_all = || {
            // Not even a file is made by who looks: a file system may keep that waiting.
            let writer = LogWriter::begin(&repository, &folder, &beginning)?;
            let writer = encode_all(env, (&batch, befores, rest), &depths, page_bytes, writer)?;
            open::end(env, (&repository, &folder), writer, facts, journal.as_mut())
        };
        let ended = std::thread::scope(|scope| {
            if env.threads < 2 {
                rush.let_go(&self.path)?;
                return store_all();
            }
            let storing = scope.spawn(store_all);
            let looked = self.collect_while(env, (rush, &batch), &|| !storing.is_finished());
            let panicked = |_| Err(Error::new(Kind::Failed, "the storing thread panicked"));
            let ended: Result<Ended> = storing.join().unwrap_or_else(panicked);
            looked.and(ended)
        })?;
        self.log.journal = journal;
        self.log.go_on(&ended)?;
        self.grow(ended.stored.bytes);
        Ok(self.added(Increment::of(&self.log, &ended.stored)))
    }
}

impl Rush {
    /// The mark of the newest state, which is not held any more.
    pub(super) fn take_mark(&self, env: &Env, path: &Path) -> Result<(Option<Mark>, Looked)> {
        self.let_go(path)?;
        let taken = Looked::around(env, || self.glimpse.take(path))?;
        self.is_held.set(true);
        if !self.keeps {
            self.let_go(path)?;
        }
        Ok(taken)
    }

    /// Lets go what is held.
    pub(super) fn let_go(&self, path: &Path) -> Result<()> {
        match self.is_held.replace(false) {
            true => self.glimpse.let_go(path),
            false => Ok(()),
        }
    }

    /// Whether something was collected and not stored.
    pub(super) fn is_behind(&self) -> bool {
        self.is_missed || !self.collected.pages.is_empty()
    }

    /// Counts what was written, and judges whether its writer is still in a hurry.
    fn count(&mut self, env: &Env, bytes: u64, rush_from_bytes: u64) {
        let now_ms = env.clock.monotonic_ms();
        self.window.1 += bytes;
        let passed_ms = now_ms.saturating_sub(self.window.0);
        if passed_ms >= WINDOW_MS {
            self.is_calm = self.window.1 * 1_000 / passed_ms < rush_from_bytes / 2;
            self.window = (now_ms, 0);
        }
    }
}

/// The version before of each page of a batch, where it can be had.
type Befores = Vec<Option<Arc<Vec<u8>>>>;

/// Encodes the pages of a batch, each with the number of differences that its version before is
/// made of. What holds those that were left is let go then.
fn encode_all(
    env: &Env,
    (batch, befores, rest): (&Collected, Befores, Option<Rest>),
    depths: &[u8],
    page_bytes: usize,
    mut writer: LogWriter,
) -> Result<LogWriter> {
    let encoding = Encoding::HURRIED.of_file(batch.pages.len(), page_bytes);
    let together = if encoding.is_whole() { batch.pages.len().max(1) } else { BATCH_PAGES };
    let mut pages = batch.pages.iter().zip(&befores).zip(depths);
    loop {
        env.proceed()?;
        let mut changed = Vec::new();
        for (((&page, of), before), &depth) in pages.by_ref().take(together) {
            let content = match (&of.content, &rest) {
                (Some(content), _) => content.as_slice().into(),
                (None, Some(rest)) => rest.page(page, of.hash, page_bytes)?.into(),
                (None, None) => Cow::default(),
            };
            let before = before.as_ref().map(|before| (before.as_slice().into(), depth));
            changed.push(Changed { page, hash: of.hash, content, before });
        }
        if changed.is_empty() {
            return Ok(writer);
        }
        writer.add(&encoding.encode(&changed)?)?;
    }
}
