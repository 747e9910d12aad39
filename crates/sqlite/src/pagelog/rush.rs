//! Following a writer in a hurry: its frames are read as they come, and no state is held.
//!
//! To hold a state until it is stored would keep the `-wal` from beginning anew. Of a writer of
//! tens of megabytes a second it would grow past its bound at once. So here what is new in it is
//! copied as it comes: the pages of new frames, with the versions that they had before, into
//! memory, and aside what is too much for that. Now and then what was collected is stored as one
//! file of the log, by a thread of its own, while the looking goes on.
//!
//! Each look holds its state until the next one: so no turn of the `-wal` can be over unseen, and
//! as what is held moves on from look to look, the writer's checkpoints come after it, piece by
//! piece. Where the `-wal` is as large as a turn may be, nothing is held until it begins anew,
//! which is waited for and nothing else: a turn takes hundredths of a second. What is missed after
//! all is seen, as the chain of checksums does not lead there: then all pages are compared, by
//! `catch_up`, while the looking goes on as well.

use std::fs::File;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, block_hashes};
use lifeboat_core::{Error, Kind, Result};

use super::bounds::FollowBounds;
use super::collected::{Collected, HeldBefore, HeldBefores, Room};
use super::delta::{Changed, Encoding, GROUP_PAGES, PageBytes};
use super::follow::{Follower, Step};
use super::increment::Increment;
use super::keeper::Keeper;
use super::known::{Known, News, Versions, Whence};
use super::open::{self, Ended, Looked};
use super::pool::Pool;
use super::rest::Rest;
use super::spool::Spools;
use super::write::LogWriter;
use crate::ffi::Mark;
use crate::snapshot::frames::{Keep, PageMap};
use crate::snapshot::wal;
use crate::snapshot::{Attempt, pin};

/// The time between two looks, as long as enough is new; what is less waits for so long.
pub(super) const LOOK_MS: u64 = 4;
const LOOK_MS_MAX: u64 = 60;
/// More new frames than that are not waited for.
const FRAMES_DUE: u32 = 400;
/// So often it is looked whether the `-wal` began anew, a millisecond apart, before anything else.
/// As long as little is written, its writer is about to copy it into the database file.
const TURN_LOOKS: usize = 400;
/// How often a look is tried that falls on the moment in which the `-wal` is begun anew.
pub(super) const TRIES: usize = 4;
/// What is collected is stored when it is so much, sooner than when its time has come, in bytes:
/// the more, the fewer versions of a page are stored. Measured on 20 messages a commit with random
/// keys: 42 pages for each of 40 commits, 38 of 70, 34 of 160. It takes twice as much memory.
const BYTES_DUE: usize = 10 << 20;
/// Pages are put aside in so many files: of what is being stored, and of what is collected then.
const SPOOLS: usize = 2;
/// How fast a writer is, is told by what it wrote within so long.
const WINDOW_MS: u64 = 1_000;
/// A turn was missed and not caught up with: for so long states are held again.
const MISSED_MS: u64 = 10_000;

/// A writer in a hurry, and what was collected of it.
pub(super) struct Rush {
    keeper: Keeper,
    pub(super) collected: Collected,
    /// The `-wal` as it was looked at last, and when that was, by the clock that never goes back.
    file: Option<File>,
    looked_ms: u64,
    /// When something was stored last, by the same clock.
    stored_ms: u64,
    /// Since when it is counted how many bytes were written, and how many there were.
    window: (u64, u64),
    is_calm: bool,
    pub(super) is_missed: bool,
    /// Pages were read from the database file though no state was held: they are those of the state
    /// only when the next look has found what was written meanwhile.
    pub(super) is_unsettled: bool,
    /// The state of a look is held until the next one, however large the `-wal` is.
    pub(super) keeps: bool,
    /// The next look stores what there is, whatever the time.
    is_hastened: bool,
}

impl Follower {
    /// Takes up following without holding a state until it is stored. `is_missed` where a turn of
    /// the `-wal` was: then all pages are compared first. `false` where that cannot be.
    pub(super) fn begin_rush(
        &mut self,
        env: &Env,
        looked: Looked,
        is_missed: bool,
    ) -> Result<bool> {
        let (Attempt::Pinned(one), Attempt::Pinned(other)) = (pin(&self.path)?, pin(&self.path)?)
        else {
            return Ok(false);
        };
        let is_it = Some((one.identity(), other.identity()));
        if self.database.as_ref().map(|file| (file.identity(), file.identity())) != is_it {
            return Ok(false);
        }
        let keeper = Keeper::begin(&self.path, [one, other], self.bounds.compared_wal_bytes_max)?;
        let now_ms = env.clock.monotonic_ms();
        let mut rush = Rush {
            keeper,
            collected: Collected::none(self.room(), self.log.state.page_count(), looked),
            file: None,
            looked_ms: 0,
            stored_ms: now_ms,
            window: (now_ms, 0),
            is_calm: false,
            is_missed,
            is_unsettled: false,
            keeps: false,
            is_hastened: false,
        };
        if !is_missed {
            self.collect(env, &mut rush, None)?;
        }
        let is_begun = is_missed || !rush.is_missed;
        self.rush = is_begun.then_some(rush);
        Ok(is_begun)
    }

    /// Where what is collected of it is kept.
    fn room(&self) -> Room {
        let page_bytes = self.log.state.page_size() as usize;
        let FollowBounds { collected_bytes_max, aside_bytes_max, .. } = self.bounds;
        let begin = |folder| Spools::begin(folder, page_bytes, aside_bytes_max, SPOOLS);
        let spools = self.aside_folder.as_deref().map(begin).unwrap_or_default();
        let pool = Pool::new(page_bytes, collected_bytes_max);
        Room { bytes_max: collected_bytes_max, stored_bytes: Arc::default(), pool, spools }
    }

    /// A look at a writer in a hurry.
    pub(super) fn rush(&mut self, env: &Env, mut rush: Rush) -> Result<Step> {
        let now_ms = env.clock.monotonic_ms();
        let mut is_due = rush.is_missed
            || std::mem::take(&mut rush.is_hastened)
            || now_ms.saturating_sub(rush.stored_ms) >= self.bounds.store_every_ms
            || self.collected_bytes(&rush) >= BYTES_DUE;
        if !is_due && !self.is_worth_a_look(&rush, now_ms) {
            self.rush = Some(rush);
            return Ok(Step::Unchanged);
        }
        if !rush.is_missed {
            // No turn may be over before the storing has begun.
            rush.keeps = is_due;
            self.collect(env, &mut rush, None)?;
        }
        if is_due {
            self.settle(env, &mut rush)?;
        }
        rush.keeps = false;
        if rush.is_missed || is_due && rush.is_unsettled {
            rush.keeper.let_go()?;
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
        if rush.is_calm {
            rush.keeper.let_go()?;
        }
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

    /// Whether enough is new in the `-wal`, or enough time is over.
    pub(super) fn is_worth_a_look(&self, rush: &Rush, now_ms: u64) -> bool {
        now_ms.saturating_sub(rush.looked_ms) >= LOOK_MS_MAX
            || self.has_begun_anew(rush)
            || self.has_grown_by(rush, FRAMES_DUE)
    }

    /// Whether the `-wal` has so many frames more than were looked at.
    fn has_grown_by(&self, rush: &Rush, frames: u32) -> bool {
        let (Some(known), Some(file)) = (&self.known, &rush.file) else { return true };
        wal::has_frame(file, &known.header, known.place.frame.saturating_add(frames))
    }

    fn has_begun_anew(&self, rush: &Rush) -> bool {
        let (Some(known), Some(file)) = (&self.known, &rush.file) else { return true };
        !wal::header(file).is_ok_and(|header| header == Some(known.header))
    }

    /// Whether the `-wal` is so large that it should begin anew.
    fn is_turn_due(&self) -> bool {
        let Some(known) = &self.known else { return true };
        let frame_bytes = u64::from(known.header.page_size) + 24;
        u64::from(known.place.frame) * frame_bytes >= self.bounds.pinned_wal_bytes_max
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

    /// Looks, and copies what is new. `stored` is what is being stored meanwhile. The state is held
    /// then, if the `-wal` is not too large for that: else it is seen first that it begins anew.
    pub(super) fn collect(
        &mut self,
        env: &Env,
        rush: &mut Rush,
        stored: Option<&Collected>,
    ) -> Result<()> {
        self.collect_once(env, rush, stored)?;
        if rush.is_missed {
            return rush.keeper.let_go();
        }
        if rush.keeps || !self.is_turn_due() {
            return Ok(());
        }
        // What comes after the last look and before the turn loses what it was before.
        for _ in 0..TRIES {
            let place = self.known.as_ref().map(|known| known.place);
            self.collect_once(env, rush, stored)?;
            if rush.is_missed || self.known.as_ref().map(|known| known.place) == place {
                break;
            }
        }
        if rush.is_missed {
            return rush.keeper.let_go();
        }
        if !self.is_turn_due() {
            // It began anew meanwhile: of this one the beginning alone was seen.
            return Ok(());
        }
        rush.keeper.let_go()?;
        for _ in 0..TURN_LOOKS {
            env.pause_ms(1)?;
            if self.has_begun_anew(rush) {
                return self.collect_once(env, rush, stored);
            }
            if self.has_grown_by(rush, FRAMES_DUE) {
                break;
            }
        }
        Ok(())
    }

    /// Looks once, and copies what is new. The state is held then.
    fn collect_once(
        &mut self,
        env: &Env,
        rush: &mut Rush,
        stored: Option<&Collected>,
    ) -> Result<()> {
        rush.is_missed = true;
        for _ in 0..TRIES {
            let (mark, looked) = rush.take_mark(env)?;
            let Some(mark) = mark else { return Ok(()) };
            rush.looked_ms = env.clock.monotonic_ms();
            if self.collect_to(env, &mark, (rush, stored))? {
                rush.collected.looked = looked;
                rush.is_missed = false;
                return rush.keeper.move_on();
            }
            rush.keeper.let_go()?;
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
            if self.is_worth_a_look(rush, env.clock.monotonic_ms()) {
                self.collect(env, rush, Some(batch))?;
            }
            env.pause_ms(LOOK_MS)?;
        }
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
        news: News,
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
        let versions = Versions::before_news((&known.frames, is_same), &news, database);
        let page_bytes = news.header.page_size as usize;
        let pool = rush.collected.pool();
        let mut stage = rush.collected.stage();
        let (mut has_read_frames, mut has_read_file) = (false, false);
        let mut is_whole = true;
        for (page, frame) in wanted {
            if let Some(copied) = news.between.copied(page, page_bytes) {
                stage.put(page, pool.copy(copied));
                continue;
            }
            has_read_frames |= frame > 0;
            has_read_file |= frame == 0;
            let mut content = pool.take();
            match versions.read_new((page, frame), &mut content)? {
                true => stage.put(page, content),
                false => is_whole = false,
            }
        }
        if !is_whole || !news.between.is_unchanged(&news.file, &news.header, has_read_frames)? {
            stage.drop_all();
            return Ok(false);
        }
        stage.add_all(|pages| self.befores(&versions, pages, &pool, stored))?;
        let collected = &mut rush.collected;
        collected.cut(page_count);
        collected.commits += news.between.commits;
        rush.is_unsettled = has_read_file;
        rush.count(env, news.between.frame_count * frame_bytes, self.bounds.rush_from_bytes);
        let frames = self.take_known_frames(&news);
        self.known = Some(Known::after(&news, frames));
        rush.file = Some(news.file);
        Ok(true)
    }

    /// Of each page its version in the log's state, where that is still to be had.
    fn befores(
        &self,
        versions: &Versions<'_>,
        pages: &[u32],
        pool: &Pool,
        stored: Option<&Collected>,
    ) -> Result<Vec<HeldBefore>> {
        let mut befores = vec![None; pages.len()];
        let mut sought = Vec::with_capacity(pages.len());
        for (place, &page) in pages.iter().enumerate() {
            let Some(hash) = self.log.state.hash(page).copied() else { continue };
            befores[place] =
                match stored.and_then(|stored| Some((stored, stored.pages.get(&page)?))) {
                    Some((stored, of)) if of.hash == hash => stored.share(&of.content)?,
                    _ => None,
                };
            if befores[place].is_none() {
                sought.push((place, page, hash));
            }
        }
        for whence in Whence::ALL {
            let mut read = Vec::with_capacity(sought.len());
            for (at, (_, page, _)) in sought.iter().enumerate() {
                let mut old = pool.take();
                if versions.read_from(whence, *page, &mut old)? {
                    read.push((at, old));
                }
            }
            let contents: Vec<&[u8]> = read.iter().map(|(_, old)| &old[..]).collect();
            let hashes = block_hashes(&contents);
            for ((at, old), found) in read.into_iter().zip(hashes) {
                let (place, _, hash) = sought[at];
                if found == hash {
                    befores[place] = Some(Arc::new(old));
                }
            }
            sought.retain(|(place, ..)| befores[*place].is_none());
        }
        Ok(befores)
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
        let mut batch = rush.collected.take();
        batch.hash(&self.log.state);
        let befores = batch.take_befores();
        if batch.pages.is_empty() && page_count == self.log.state.page_count() {
            rush.keeper.let_go()?;
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
    /// Takes hold of the newest state: its mark.
    pub(super) fn take_mark(&self, env: &Env) -> Result<(Option<Mark>, Looked)> {
        Looked::around(env, || self.keeper.take())
    }

    /// Lets go what is held.
    pub(super) fn let_go(&self) -> Result<()> {
        self.keeper.let_go()
    }

    /// What was collected is stored at the next look.
    pub(super) fn hasten(&mut self) {
        self.is_hastened = true;
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

/// Encodes the pages of a batch, each with the number of differences that its version before is
/// made of. What holds those that were left is let go then.
fn encode_all(
    env: &Env,
    (batch, befores, rest): (&Collected, HeldBefores, Option<Rest>),
    depths: &[u8],
    page_bytes: usize,
    mut writer: LogWriter,
) -> Result<LogWriter> {
    let encoding = Encoding::HURRIED.of_file(batch.pages.len(), page_bytes);
    let (pages, pool): (Vec<_>, _) = (batch.pages.iter().collect(), batch.pool());
    let read = |place: usize| {
        env.proceed()?;
        let (&page, of) = pages[place];
        let content = match (batch.lend(&of.content)?, &rest) {
            (Some(content), _) => content,
            (None, Some(rest)) => {
                let mut content = pool.take();
                rest.page(page, of.hash, &mut content)?;
                PageBytes::Pooled(content)
            }
            (None, None) => {
                let message = format!("page {page} was not collected");
                return Err(Error::new(Kind::Failed, message));
            }
        };
        let before = batch.lend(&befores.contents[place])?.map(|before| (before, depths[place]));
        Ok(Changed { page, hash: of.hash, content, before })
    };
    if encoding.is_whole() {
        writer.add(&encoding.encode_file(pages.len(), &read)?)?;
        return Ok(writer);
    }
    for start in (0..pages.len()).step_by(GROUP_PAGES) {
        let places = start..pages.len().min(start + GROUP_PAGES);
        let changed: Vec<Changed<'_>> = places.map(read).collect::<Result<_>>()?;
        writer.add(&encoding.encode(&changed)?)?;
    }
    Ok(writer)
}
