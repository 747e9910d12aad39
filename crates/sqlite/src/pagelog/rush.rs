//! Following a writer in a hurry: its frames are read as they come, and no state is held.
//!
//! To hold a state keeps the `-wal` from beginning anew. Of a writer of tens of megabytes a second
//! it would grow past its bound at once, and the checkpoint that follows would be a large one, for
//! which a commit waits. So here the `-wal` begins anew whenever its writer likes, and what stands
//! in it is looked at so often that no turn of it is missed: the pages of new frames are copied
//! into memory, with the versions that they had before, as long as these are still there. Now and
//! then what was collected is stored as one file of the log, by a thread of its own, while the
//! looking goes on. A state is held for no longer than it takes to see how far it reaches. What is
//! missed after all is seen, as the chain of checksums does not lead there: then all pages are
//! compared, by `catch_up`, while the looking goes on as well.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, block_hash};
use lifeboat_core::{Error, Kind, Result};

use super::delta::{Changed, Encoding};
use super::follow::{Follower, Step};
use super::increment::Increment;
use super::known::{Known, News, Versions};
use super::open::{self, Ended, Looked};
use super::state::PageState;
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
const TRIES: usize = 4;
/// What is collected is stored when it is so much, sooner than when its time has come, in bytes.
const BYTES_DUE: usize = 6 << 20;
/// While something is being stored, no more than that is collected beside it: then the newest state
/// is held until that is over, so that what comes stays in the `-wal`.
const BYTES_MAX: usize = 12 << 20;
/// No state is held when the `-wal` is as large as that, in bytes.
const HELD_WAL_BYTES_MAX: u64 = 48 << 20;
/// What a look may find: more is not collected in memory.
const BYTES_FOUND_MAX: usize = 32 << 20;
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
    /// A state is held until the next look.
    is_held: Cell<bool>,
    /// Pages were read from the database file though no state was held: they are those of the state
    /// only when the next look has found what was written meanwhile.
    is_unsettled: bool,
}

/// Pages that changed since the state at the end of the log.
pub(super) struct Collected {
    pub(super) pages: BTreeMap<u32, Page>,
    /// Pages of the database after the last look.
    pub(super) page_count: u32,
    commits: u64,
    looked: Looked,
}

/// A page in its newest version, and in that of the log's state where it could be read.
#[derive(Default)]
pub(super) struct Page {
    /// Known when it is stored.
    pub(super) hash: BlockHash,
    pub(super) content: Arc<Vec<u8>>,
    /// Often the content of what is being stored.
    pub(super) before: Option<Arc<Vec<u8>>>,
}

impl Follower {
    /// Takes up following without holding a state, which is held as long as this takes. `false`
    /// where there is too much to begin with.
    pub(super) fn begin_rush(&mut self, env: &Env, mark: &Mark, looked: Looked) -> Result<bool> {
        let page_bytes = self.log.state.page_size() as usize;
        let is_small = self.known.as_ref().is_some_and(|known| {
            let frames = mark.frame_max.saturating_sub(known.place.frame);
            frames as usize * page_bytes <= BYTES_FOUND_MAX
        });
        let Attempt::Pinned(pinned) = pin(&self.path)? else { return Ok(false) };
        let glimpse = Glimpse::of(&self.path, pinned)?;
        let is_it = self.database.as_ref().map(|file| file.identity()) == Some(glimpse.identity());
        if !is_small || !is_it {
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
            is_missed: false,
            is_held: Cell::new(false),
            is_unsettled: false,
        };
        self.collect(env, &mut rush, None)?;
        let is_begun = !rush.is_missed;
        self.rush = is_begun.then_some(rush);
        Ok(is_begun)
    }

    /// A look at a writer in a hurry.
    pub(super) fn rush(&mut self, env: &Env, mut rush: Rush) -> Result<Step> {
        let now_ms = env.clock.monotonic_ms();
        let is_due = now_ms.saturating_sub(rush.stored_ms) >= self.bounds.store_every_ms
            || self.collected_bytes(&rush) >= BYTES_DUE;
        if !is_due && !self.is_worth_a_look(&rush, now_ms) {
            self.rush = Some(rush);
            return Ok(Step::Unchanged);
        }
        // What was collected is a state: if it is much, it goes first.
        let is_much = self.collected_bytes(&rush) >= BYTES_DUE && !rush.is_unsettled;
        if !is_much {
            self.collect(env, &mut rush, None)?;
        }
        for _ in 0..TRIES {
            if !is_due || rush.is_missed || !rush.is_unsettled {
                break;
            }
            self.collect(env, &mut rush, None)?;
        }
        if rush.is_missed || is_due && rush.is_unsettled {
            self.catch_up(env, &mut rush)?;
        }
        if rush.is_missed {
            return self.end_missed(env, rush);
        }
        if !is_due {
            self.rush = Some(rush);
            return Ok(Step::Unchanged);
        }
        let step = self.store(env, &mut rush)?;
        let is_over = rush.is_calm && rush.collected.pages.is_empty();
        if rush.is_missed || !is_over {
            self.rush = Some(rush);
        }
        Ok(step)
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
            env.pause_ms(LOOK_MS)?;
            let is_full = self.collected_bytes(rush) >= BYTES_MAX;
            match (is_full, is_full && self.is_wal_large(rush)) {
                (true, true) => rush.let_go(&self.path)?,
                (true, false) => rush.hold(&self.path)?,
                _ if self.is_worth_a_look(rush, env.clock.monotonic_ms()) => {
                    self.collect(env, rush, Some(batch))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the `-wal` is too large to be kept from beginning anew, or was begun anew.
    fn is_wal_large(&self, rush: &Rush) -> bool {
        let (Some(known), Some(file)) = (&self.known, &rush.file) else { return true };
        let frames = HELD_WAL_BYTES_MAX / (u64::from(known.header.page_size) + 24);
        // Where it was begun anew already, there is nothing to hold any more.
        let is_same = wal::header(file).is_ok_and(|header| header == Some(known.header));
        !is_same || wal::has_frame(file, &known.header, frames as u32)
    }

    fn collected_bytes(&self, rush: &Rush) -> usize {
        rush.collected.pages.len() * self.log.state.page_size() as usize
    }

    /// Whether everything up to that mark was collected.
    fn collect_to(
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
        // A VACUUM, say: comparing takes less memory.
        if news.between.frames.len() as u64 * frame_bytes > BYTES_FOUND_MAX as u64 {
            return Ok(false);
        }
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
        for (page, frame) in wanted {
            let copied = news.between.take(page);
            has_read_frames |= copied.is_none() && frame > 0;
            has_read_file |= copied.is_none() && frame == 0;
            match versions.content((page, frame), copied, page_bytes)? {
                Some(content) => pages.push((page, content)),
                None => return Ok(false),
            }
        }
        if !news.between.is_unchanged(&news.file, &news.header, has_read_frames)? {
            return Ok(false);
        }
        let collected = &mut rush.collected;
        for (page, content) in pages {
            self.add_page(&versions, (page, content), collected, stored)?;
        }
        // What was cut off is no page of the state, whatever it becomes later.
        if collected.pages.last_key_value().is_some_and(|(page, _)| *page > page_count) {
            collected.pages.split_off(&(page_count + 1));
        }
        collected.page_count = page_count;
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

    /// Adds a page to what was collected, with its version in the log's state where that is still
    /// to be had.
    fn add_page(
        &self,
        versions: &Versions<'_>,
        (page, content): (u32, Vec<u8>),
        collected: &mut Collected,
        stored: Option<&Collected>,
    ) -> Result<()> {
        if let Some(there) = collected.pages.get_mut(&page) {
            there.content = Arc::new(content);
            return Ok(());
        }
        let before = match self.log.state.hash(page).copied() {
            None => None,
            Some(before) => {
                let stored = stored.and_then(|stored| stored.pages.get(&page));
                match stored.filter(|stored| stored.hash == before) {
                    Some(stored) => Some(Arc::clone(&stored.content)),
                    None => versions
                        .before(page, content.len(), |old| block_hash(old) == before)?
                        .map(|(old, _)| Arc::new(old)),
                }
            }
        };
        let content = Arc::new(content);
        collected.pages.insert(page, Page { content, before, ..Page::default() });
        Ok(())
    }

    /// Stores what was collected, and looks on meanwhile.
    fn store(&mut self, env: &Env, rush: &mut Rush) -> Result<Step> {
        let Collected { looked, page_count, commits, .. } = rush.collected;
        rush.stored_ms = env.clock.monotonic_ms();
        let none = Collected::none(page_count, looked);
        let mut batch = std::mem::replace(&mut rush.collected, none);
        batch.hash(&self.log.state);
        let befores = batch.take_befores();
        if batch.pages.is_empty() && page_count == self.log.state.page_count() {
            return self.beat(env, looked);
        }
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
            let writer = encode_all(env, (&batch, befores), &depths, writer)?;
            open::end(env, (&repository, &folder), writer, facts, journal.as_mut())
        };
        let ended = std::thread::scope(|scope| {
            if env.threads < 2 {
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

impl Collected {
    fn none(page_count: u32, looked: Looked) -> Self {
        Collected { pages: BTreeMap::new(), page_count, commits: 0, looked }
    }

    /// Takes out what its pages were before, in their order: of use until they are encoded.
    fn take_befores(&mut self) -> Vec<Option<Arc<Vec<u8>>>> {
        self.pages.values_mut().map(|page| page.before.take()).collect()
    }

    /// Hashes its pages, and leaves those that differ from a state.
    fn hash(&mut self, state: &PageState) {
        self.pages.retain(|&page, of| {
            of.hash = block_hash(&of.content);
            state.hash(page) != Some(&of.hash)
        });
    }
}

impl Rush {
    /// The mark of the newest state, which is not held any more.
    pub(super) fn take_mark(&self, env: &Env, path: &Path) -> Result<(Option<Mark>, Looked)> {
        self.let_go(path)?;
        let taken = Looked::around(env, || self.glimpse.take(path))?;
        self.glimpse.let_go(path)?;
        Ok(taken)
    }

    /// Holds the newest state until the next look, so that what comes stays in the `-wal`.
    fn hold(&self, path: &Path) -> Result<()> {
        if !self.is_held.replace(true) {
            self.glimpse.take(path)?;
        }
        Ok(())
    }

    /// Lets go what is held.
    fn let_go(&self, path: &Path) -> Result<()> {
        match self.is_held.replace(false) {
            true => self.glimpse.let_go(path),
            false => Ok(()),
        }
    }

    /// Whether something was collected and not stored.
    pub(super) fn is_behind(&self) -> bool {
        !self.collected.pages.is_empty()
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

/// Encodes the pages of a batch, each with the number of differences that its version before is
/// made of.
fn encode_all(
    env: &Env,
    (batch, befores): (&Collected, Vec<Option<Arc<Vec<u8>>>>),
    depths: &[u8],
    mut writer: LogWriter,
) -> Result<LogWriter> {
    let page_bytes = batch.pages.values().next().map_or(0, |of| of.content.len());
    let encoding = Encoding::HURRIED.of_file(batch.pages.len(), page_bytes);
    let together = if encoding.is_whole() { usize::MAX } else { BATCH_PAGES };
    let pages = batch.pages.iter().zip(&befores).zip(depths);
    let changed = pages.map(|(((&page, of), before), &depth)| Changed {
        page,
        hash: of.hash,
        content: of.content.as_slice().into(),
        before: before.as_ref().map(|before| (before.as_slice().into(), depth)),
    });
    let changed: Vec<Changed<'_>> = changed.collect();
    for some in changed.chunks(together) {
        env.proceed()?;
        writer.add(&encoding.encode(some)?)?;
    }
    Ok(writer)
}
