//! Following a writer in a hurry: its frames are read as they come, and no state is held.
//!
//! To hold a state keeps the `-wal` from beginning anew. Of a writer of tens of megabytes a second
//! it would grow past its bound at once, and the checkpoint that follows would be a large one, for
//! which a commit waits. So here the `-wal` begins anew whenever its writer likes, and what stands
//! in it is looked at so often that no turn of it is missed: the pages of new frames are copied
//! into memory, with the versions that they had before, as long as these are still there. Now and
//! then what was collected is stored as one file of the log, by a thread of its own, while the
//! looking goes on. A state is held for the few milliseconds of a look. What is missed after all is
//! seen, as the chain of checksums does not lead there: then all pages are compared.

use std::collections::BTreeMap;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, block_hash};
use lifeboat_core::{Error, Kind, Result};

use super::delta::{Changed, encode};
use super::follow::{Follower, Step};
use super::increment::Increment;
use super::known::{Known, Versions};
use super::open::{self, Ended, Looked};
use super::write::LogWriter;
use crate::ffi::Mark;
use crate::held::HeldFile;
use crate::snapshot::frames::{Keep, PageMap};
use crate::snapshot::wal;
use crate::snapshot::{Attempt, Glimpse, pin};

/// The time between two looks.
const LOOK_MS: u64 = 10;
/// What is collected is stored when it is so much, sooner than when its time has come, in bytes.
const BYTES_DUE: usize = 8 << 20;
/// While something is being stored, no more than that is collected beside it.
const BYTES_MAX: usize = 16 << 20;
/// What a look may find: more is not collected in memory.
const BYTES_FOUND_MAX: usize = 32 << 20;
/// Pages that are encoded together.
const BATCH_PAGES: usize = 128;
/// How fast a writer is, is told by what it wrote within so long.
const WINDOW_MS: u64 = 1_000;
/// A turn was missed: for so long states are held again.
const MISSED_MS: u64 = 10_000;

/// A writer in a hurry, and what was collected of it.
pub(super) struct Rush {
    glimpse: Glimpse,
    collected: Collected,
    /// When something was stored last, by the clock that never goes back.
    stored_ms: u64,
    /// Since when it is counted how many bytes were written, and how many there were.
    window: (u64, u64),
    is_calm: bool,
    is_missed: bool,
}

/// Pages that changed since the state at the end of the log.
struct Collected {
    pages: BTreeMap<u32, Page>,
    /// Pages of the database after the last look.
    page_count: u32,
    commits: u64,
    looked: Looked,
}

/// A page in its newest version, and in that of the log's state where it could be read.
struct Page {
    hash: BlockHash,
    content: Vec<u8>,
    before: Option<Vec<u8>>,
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
        let is_it = self.database.as_ref().map(HeldFile::identity) == Some(glimpse.identity());
        if !is_small || !is_it {
            return Ok(false);
        }
        let now_ms = env.clock.monotonic_ms();
        let mut rush = Rush {
            glimpse,
            collected: Collected::none(self.log.state.page_count(), looked),
            stored_ms: now_ms,
            window: (now_ms, 0),
            is_calm: false,
            is_missed: false,
        };
        self.collect(env, &mut rush, None)?;
        let is_begun = !rush.is_missed;
        self.rush = is_begun.then_some(rush);
        Ok(is_begun)
    }

    /// A look at a writer in a hurry.
    pub(super) fn rush(&mut self, env: &Env, mut rush: Rush) -> Result<Step> {
        self.collect(env, &mut rush, None)?;
        if rush.is_missed {
            return self.end_missed(env, rush);
        }
        let now_ms = env.clock.monotonic_ms();
        let is_due = now_ms.saturating_sub(rush.stored_ms) >= self.bounds.store_every_ms
            || self.collected_bytes(&rush) >= BYTES_DUE;
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

    /// What was collected so far is no state: all pages are compared.
    fn end_missed(&mut self, env: &Env, rush: Rush) -> Result<Step> {
        drop(rush);
        let message = "its -wal began anew unseen: all pages are compared";
        env.tell(Event::Detail { message });
        self.calm_until_ms = env.clock.monotonic_ms().saturating_add(MISSED_MS);
        self.known = None;
        match pin(&self.path)? {
            Attempt::Pinned(pinned) => self.compare_all(env, None, Some(pinned)),
            _ => self.compare_all(env, None, None),
        }
    }

    /// Looks once, and copies what is new. `stored` is what is being stored meanwhile.
    fn collect(&mut self, env: &Env, rush: &mut Rush, stored: Option<&Collected>) -> Result<()> {
        let (mark, looked) = Looked::around(env, || rush.glimpse.take(&self.path))?;
        // Where it has become large all the same, because we are slow, it is held no longer than it
        // takes to see how far it reaches.
        let frame_bytes = u64::from(self.log.state.page_size()) + 24;
        let is_large = mark.as_ref().is_none_or(|mark| {
            u64::from(mark.frame_max) * frame_bytes > self.bounds.pinned_wal_bytes_max
        });
        if is_large {
            rush.glimpse.let_go(&self.path)?;
        }
        let is_whole = match mark {
            Some(mark) => self.collect_to(env, &mark, !is_large, (rush, stored))?,
            None => false,
        };
        if !is_large {
            rush.glimpse.let_go(&self.path)?;
        }
        rush.is_missed = !is_whole;
        rush.collected.looked = looked;
        Ok(())
    }

    fn collected_bytes(&self, rush: &Rush) -> usize {
        rush.collected.pages.len() * self.log.state.page_size() as usize
    }

    /// Whether everything up to that mark, whose state may be held, was collected.
    fn collect_to(
        &mut self,
        env: &Env,
        mark: &Mark,
        is_held: bool,
        (rush, stored): (&mut Rush, Option<&Collected>),
    ) -> Result<bool> {
        let Some((file, header, between)) = self.frames(env, mark)? else { return Ok(false) };
        // A VACUUM, say: comparing takes less memory.
        if between.frames.len() * header.page_size as usize > BYTES_FOUND_MAX {
            return Ok(false);
        }
        let is_same = self.known.as_ref().is_some_and(|known| known.header == header);
        let known = self.known.take().filter(|_| is_same).map(|known| known.frames);
        let frames = known.unwrap_or_else(|| PageMap::new(Keep::Last));
        let Some(database) = &self.database else { return Ok(false) };
        let versions = Versions { file: &file, frames: &frames, database };
        let collected = &mut rush.collected;
        for (page, frame) in between.wanted(mark.page_count, collected.page_count, &frames) {
            // What is in no frame is only in the file while a state is held.
            let is_there = (frame > 0 || is_held)
                && self.collect_page(&versions, (page, frame), collected, stored)?;
            if !is_there {
                return Ok(false);
            }
        }
        if !between.is_unchanged(&file, &header)? {
            return Ok(false);
        }
        // What was cut off is no page of the state, whatever it becomes later.
        collected.pages.retain(|page, _| *page <= mark.page_count);
        collected.page_count = mark.page_count;
        collected.commits += between.commits;
        let bytes = between.frame_count * (u64::from(header.page_size) + 24);
        rush.count(env, bytes, self.bounds.rush_from_bytes);
        self.known = Some(Known::at(header, mark, &between, frames));
        Ok(true)
    }

    /// Copies a page of a frame, or of the database file where that is 0. `false` where it is not
    /// there any more.
    fn collect_page(
        &self,
        versions: &Versions<'_>,
        (page, frame): (u32, u32),
        collected: &mut Collected,
        stored: Option<&Collected>,
    ) -> Result<bool> {
        let mut content = vec![0; self.log.state.page_size() as usize];
        let is_there = match frame {
            0 => versions.read_database(page, &mut content)?,
            frame => wal::read_frame(versions.file, frame, &mut content)?,
        };
        if !is_there {
            return Ok(false);
        }
        let hash = block_hash(&content);
        let earlier = collected.pages.remove(&page);
        let hash_before = self.log.state.hash(page).copied();
        if hash_before == Some(hash) {
            return Ok(true);
        }
        let before = match (earlier, hash_before) {
            (Some(earlier), _) => earlier.before,
            (None, None) => None,
            (None, Some(before)) => {
                let stored = stored.and_then(|stored| stored.pages.get(&page));
                match stored.filter(|stored| stored.hash == before) {
                    Some(stored) => Some(stored.content.clone()),
                    None => versions
                        .before(page, content.len(), |old| block_hash(old) == before)?
                        .map(|(old, _)| old),
                }
            }
        };
        collected.pages.insert(page, Page { hash, content, before });
        Ok(true)
    }

    /// Stores what was collected, and looks on meanwhile.
    fn store(&mut self, env: &Env, rush: &mut Rush) -> Result<Step> {
        let Collected { looked, page_count, commits, .. } = rush.collected;
        rush.stored_ms = env.clock.monotonic_ms();
        if rush.collected.pages.is_empty() && page_count == self.log.state.page_count() {
            return self.beat(env, looked);
        }
        let batch = std::mem::replace(&mut rush.collected, Collected::none(page_count, looked));
        let depths: Vec<u8> = batch.pages.keys().map(|&page| self.log.depth(page)).collect();
        let writer = self.log.begin_file(looked)?;
        let changed: Vec<(u32, BlockHash)> =
            batch.pages.iter().map(|(page, of)| (*page, of.hash)).collect();
        let facts = self.log.facts(&changed, page_count, looked, commits);
        let (repository, folder) = (self.log.repository.clone(), self.log.folder.clone());
        let mut journal = self.log.journal.take();
        let store_all = || {
            let writer = encode_all(env, &batch, &depths, writer)?;
            open::end(env, (&repository, &folder), writer, facts, journal.as_mut())
        };
        let ended = std::thread::scope(|scope| {
            if env.threads < 2 {
                return store_all();
            }
            let storing = scope.spawn(store_all);
            let mut looked = Ok(());
            // When the hurry is over, nothing is collected that would make it go on.
            while !storing.is_finished() && looked.is_ok() && !rush.is_missed && !rush.is_calm {
                looked = env.pause_ms(LOOK_MS);
                if looked.is_ok() && self.collected_bytes(rush) < BYTES_MAX {
                    looked = self.collect(env, rush, Some(&batch));
                }
            }
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
}

impl Rush {
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
    batch: &Collected,
    depths: &[u8],
    mut writer: LogWriter,
) -> Result<LogWriter> {
    let mut some = Vec::with_capacity(BATCH_PAGES);
    for ((&page, of), &depth) in batch.pages.iter().zip(depths) {
        let before = of.before.clone().map(|before| (before, depth));
        some.push(Changed { page, hash: of.hash, content: of.content.clone(), before });
        if some.len() == BATCH_PAGES {
            env.proceed()?;
            writer.add(&encode(&some)?)?;
            some.clear();
        }
    }
    writer.add(&encode(&some)?)?;
    Ok(writer)
}
