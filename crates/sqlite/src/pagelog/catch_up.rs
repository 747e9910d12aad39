//! Catching up with a writer in a hurry after a turn of its `-wal` was missed: all pages are
//! compared, and nothing is held.
//!
//! A page whose newest version is not in the `-wal` as it stands at a moment is in the database
//! file, whole, and nobody writes it there before a later version of it stands in the `-wal` and
//! was committed. So what is read of the file while all frames from the beginning of that `-wal` on
//! are collected is right for every page of which no frame was found, up to a look that began when
//! all was read; and of the others the newest frame counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::block_hash;
use lifeboat_core::{Error, Kind, Result};

use super::follow::Follower;
use super::known::{Known, KnownFrames, News};
use super::rush::{Collected, LOOK_MS, Page, Rush};
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
/// More changed pages than that are not kept in memory, in bytes.
const BYTES_MAX: usize = 64 << 20;

/// Pages of the file that differ from the state at the end of the log.
type Differing = Vec<(u32, Vec<u8>)>;

impl Follower {
    /// Collects everything that differs from the state at the end of the log. `rush.is_missed`
    /// stays where that failed.
    pub(super) fn catch_up(&mut self, env: &Env, rush: &mut Rush) -> Result<()> {
        env.tell(Event::Detail { message: "its -wal began anew unseen: its pages are compared" });
        for _ in 0..TRIES {
            rush.is_missed = true;
            rush.collected.pages.clear();
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
        let (mark, _) = rush.take_mark(env, &self.path)?;
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
        self.collect_news(env, news, (rush, None))
    }

    /// Compares what the database file holds, while what is written is collected.
    fn compare_file(&mut self, env: &Env, rush: &mut Rush) -> Result<bool> {
        let (state, page_count) = (self.log.state.clone(), rush.collected.page_count);
        let Some(database) = self.database.clone() else { return Ok(false) };
        if env.threads < 2 {
            let mut take = |differing| {
                take_over(&mut rush.collected, differing);
                true
            };
            compare(&database, (&state, page_count), &mut take, &AtomicBool::new(false))?;
            self.collect(env, rush, None)?;
            return Ok(!rush.is_missed);
        }
        let is_over = AtomicBool::new(false);
        let is_compared = std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PIECES);
            let is_over = &is_over;
            let comparing = scope.spawn(move || {
                let mut send = |differing| sender.send(differing).is_ok();
                compare(&database, (&state, page_count), &mut send, is_over)
            });
            let collected = self.collect_beside(env, rush, &receiver);
            is_over.store(true, Ordering::Relaxed);
            drop(receiver);
            let panicked = |_| Err(Error::new(Kind::Failed, "the comparing thread panicked"));
            let compared = comparing.join().unwrap_or_else(panicked);
            collected.and_then(|is_whole| Ok(compared? && is_whole))
        })?;
        if is_compared {
            // What was written to the file while it was read is in the `-wal` by now.
            self.collect(env, rush, None)?;
        }
        Ok(is_compared && !rush.is_missed)
    }

    /// Collects on, and takes over what was found to differ, until all of it was taken over.
    fn collect_beside(
        &mut self,
        env: &Env,
        rush: &mut Rush,
        receiver: &Receiver<Differing>,
    ) -> Result<bool> {
        let page_bytes = self.log.state.page_size() as usize;
        loop {
            match receiver.recv_timeout(Duration::from_millis(LOOK_MS)) {
                Ok(differing) => take_over(&mut rush.collected, differing),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            }
            env.proceed()?;
            if self.is_worth_a_look(rush, env.clock.monotonic_ms()) {
                self.collect(env, rush, None)?;
            }
            if rush.is_missed || rush.collected.pages.len() * page_bytes > BYTES_MAX {
                return Ok(false);
            }
        }
    }
}

/// Takes over pages of which no frame was found.
fn take_over(collected: &mut Collected, differing: Differing) {
    for (page, content) in differing {
        if page <= collected.page_count {
            let page_of = || Page { content: Arc::new(content), ..Page::default() };
            collected.pages.entry(page).or_insert_with(page_of);
        }
    }
}

/// Sends the pages of a database file that differ from a state, as long as `send` takes them.
/// `false` where that was ended.
fn compare(
    database: &HeldFile,
    (state, page_count): (&PageState, u32),
    send: &mut dyn FnMut(Differing) -> bool,
    is_over: &AtomicBool,
) -> Result<bool> {
    let page_bytes = state.page_size() as usize;
    let mut buffer = vec![0; BUFFER_BYTES.max(page_bytes)];
    let mut page = 0;
    while page < page_count {
        if is_over.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let offset = u64::from(page) * page_bytes as u64;
        let read = wal::read_up_to(database, &mut buffer, offset).map_err(|error| {
            Error::io(Kind::SourceUnavailable, "cannot read the database file", error)
        })?;
        buffer[read..].fill(0);
        let mut differing = Vec::new();
        for content in buffer.chunks_exact(page_bytes).take((page_count - page) as usize) {
            page += 1;
            if state.hash(page) != Some(&block_hash(content)) {
                differing.push((page, content.to_vec()));
            }
        }
        if !differing.is_empty() && !send(differing) {
            return Ok(false);
        }
    }
    Ok(true)
}
