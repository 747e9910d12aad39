//! Catching up with a writer in a hurry after a turn of its `-wal` was missed: all pages are
//! compared, and nothing is held.
//!
//! A page whose newest version is not in the `-wal` as it stands at a moment is in the database
//! file, whole, and nobody writes it there before a later version of it stands in the `-wal` and
//! was committed. So when all of the file was read, while all frames from the beginning of that
//! `-wal` on were collected, a page of which no frame was found and whose hash is that of the log's
//! state is what it was there; one whose hash is another is new, as it was read. So it comes to an
//! end, however fast the writer is; what is too much for memory is put aside, or, where that cannot
//! be, left to be read when it is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, hash_each};
use lifeboat_core::{Error, Kind, Result};

use super::follow::Follower;
use super::known::{Known, KnownFrames, News};
use super::rush::{LOOK_MS, Rush};
use super::state::PageState;
use crate::held::HeldFile;
use crate::holders::side_file;
use crate::snapshot::behind;
use crate::snapshot::wal;

/// How often it is tried before a state is held for it.
const TRIES: usize = 5;
/// What is read of the file at once, in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Pages that were found to differ and are not taken over yet: so many pieces of the file.
const PIECES: usize = 4;

/// Pages of the file that differ from the state at the end of the log: number, hash, content.
type Differing = Vec<(u32, BlockHash, Vec<u8>)>;

impl Follower {
    /// Collects everything that differs from the state at the end of the log. `rush.is_missed`
    /// stays where that failed.
    pub(super) fn catch_up(&mut self, env: &Env, rush: &mut Rush) -> Result<()> {
        env.tell(Event::Detail { message: "its -wal began anew unseen: its pages are compared" });
        for _ in 0..TRIES {
            rush.is_missed = true;
            rush.collected.leave_all();
            if self.begin_anew(env, rush)? && self.compare_file(env, rush)? {
                return Ok(());
            }
            env.pause_ms(LOOK_MS)?;
        }
        rush.is_missed = true;
        Ok(())
    }

    /// Collects the `-wal` from its beginning on, whatever was known.
    fn begin_anew(&mut self, env: &Env, rush: &mut Rush) -> Result<bool> {
        let (mark, _) = rush.take_mark(env)?;
        let Some(mark) = mark else { return Ok(false) };
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(false) };
        let Some(header) = wal::header(&file)? else { return Ok(false) };
        if header.salts() != mark.salts || header.page_size != self.log.state.page_size() {
            return Ok(false);
        }
        let Some(between) = behind::between(&file, &header, header.start(), &mark)? else {
            return Ok(false);
        };
        let (place, frames) = (header.start(), KnownFrames::none());
        self.known = Some(Known { header, place, next: None, frames });
        // Pages that came with a growth are compared as all others are.
        rush.collected.page_count = mark.page_count;
        let news = News { file, header, mark, between, next: None };
        let is_begun = self.collect_news(env, news, (rush, None))?;
        // From here on nothing is missed: also where nobody writes, so that no look is due.
        rush.is_missed = !is_begun;
        Ok(is_begun)
    }

    /// Compares what the database file holds, while what is written is collected.
    fn compare_file(&mut self, env: &Env, rush: &mut Rush) -> Result<bool> {
        let Some(database) = self.database.clone() else { return Ok(false) };
        let comparison = Comparison {
            database,
            state: self.log.state.clone(),
            page_count: rush.collected.page_count,
            also: rush.collected.left().collect(),
        };
        if env.threads < 2 {
            let mut take = |differing| rush.collected.add_all_older(differing);
            comparison.run(&mut take, &AtomicBool::new(false))?;
            return self.is_caught_up(env, rush);
        }
        let is_over = AtomicBool::new(false);
        let is_compared = std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES);
            let is_over = &is_over;
            let comparing = scope.spawn(move || {
                comparison.run(&mut |differing| sender.send(differing).is_ok(), is_over)
            });
            let collected = self.collect_beside(env, rush, &receiver);
            is_over.store(true, Ordering::Relaxed);
            drop(receiver);
            let panicked = |_| Err(Error::new(Kind::Failed, "the comparing thread panicked"));
            let compared = comparing.join().unwrap_or_else(panicked);
            collected.and_then(|is_whole| Ok(compared? && is_whole))
        })?;
        Ok(is_compared && self.is_caught_up(env, rush)?)
    }

    /// Whether all is known: what was written to the file while it was read is in the `-wal` by
    /// now.
    fn is_caught_up(&mut self, env: &Env, rush: &mut Rush) -> Result<bool> {
        // No turn may be over before all is being stored.
        rush.keeps = true;
        let looked = self.collect(env, rush, None).and_then(|()| self.settle(env, rush));
        rush.keeps = false;
        looked?;
        let is_it = !rush.is_missed && !rush.is_unsettled;
        if !is_it {
            rush.let_go()?;
        }
        Ok(is_it)
    }

    /// Collects on, and takes over what was found to differ, until all of it was taken over.
    fn collect_beside(
        &mut self,
        env: &Env,
        rush: &mut Rush,
        receiver: &Receiver<Differing>,
    ) -> Result<bool> {
        loop {
            match receiver.recv_timeout(Duration::from_millis(LOOK_MS)) {
                Ok(differing) => {
                    // All that waits: a look may take longer than to compare the next piece.
                    let waiting = receiver.try_iter().take(PIECES);
                    for differing in std::iter::once(differing).chain(waiting) {
                        rush.collected.add_all_older(differing);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            }
            env.proceed()?;
            if self.is_worth_a_look(rush, env.clock.monotonic_ms()) {
                self.collect(env, rush, None)?;
            }
            if rush.is_missed {
                return Ok(false);
            }
        }
    }
}

/// What is compared.
struct Comparison {
    database: Arc<HeldFile>,
    /// The state at the end of the log.
    state: PageState,
    page_count: u32,
    /// Pages that are sent whether they differ or not, in their order.
    also: Vec<u32>,
}

impl Comparison {
    /// Sends the pages of the database file that differ from the state, as long as `send` takes
    /// them. `false` where that was ended.
    fn run(&self, send: &mut dyn FnMut(Differing) -> bool, is_over: &AtomicBool) -> Result<bool> {
        let page_bytes = self.state.page_size() as usize;
        let mut buffer = vec![0; BUFFER_BYTES.max(page_bytes)];
        let mut page = 0;
        while page < self.page_count {
            if is_over.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let offset = u64::from(page) * page_bytes as u64;
            let read = wal::read_up_to(&self.database, &mut buffer, offset).map_err(|error| {
                Error::io(Kind::SourceUnavailable, "cannot read the database file", error)
            })?;
            buffer[read..].fill(0);
            let mut differing = Vec::new();
            let count = (buffer.len() / page_bytes).min((self.page_count - page) as usize);
            let contents = &buffer[..count * page_bytes];
            let hashes = hash_each(contents, page_bytes);
            for (content, hash) in contents.chunks(page_bytes).zip(hashes) {
                page += 1;
                if self.state.hash(page) != Some(&hash) || self.also.binary_search(&page).is_ok() {
                    differing.push((page, hash, content.to_vec()));
                }
            }
            if !differing.is_empty() && !send(differing) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
