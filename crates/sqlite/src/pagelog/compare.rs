//! The end of a capture at which pages are compared with the hashes of a state.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::pipeline::{BlockHash, hash_each};
use lifeboat_core::source::{BlockObserver, Sink};
use lifeboat_core::{Error, Kind, Result};

use super::state::PageState;
use crate::snapshot::wal::{self, WalHeader};

/// What is read at once, in bytes.
const BUFFER_BYTES: usize = 1 << 20;
/// Changed pages that are handed on together, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// The time between two tries to hand something on.
const FULL_PAUSE: Duration = Duration::from_millis(5);
/// With so few changed pages no share of all is too large.
const CHANGED_MIN: u32 = 4_096;

/// How far a `-wal` may grow while all pages are compared, as the state that is held for that keeps
/// it from beginning anew. Also from a log that is begun behind that state nothing can be copied.
pub(crate) struct WalLimit {
    path: PathBuf,
    /// The log as it was found, and how many frames it may have.
    found: Option<(WalHeader, u32)>,
    bytes: u64,
    /// It was passed: when it is let go the `-wal` begins anew.
    was_passed: AtomicBool,
}

impl WalLimit {
    /// How often whoever watches it looks: a writer of a hundred megabytes a second is two of them
    /// further then.
    pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

    /// So many bytes, for the `-wal` at that path. Of one that was found to have about as many
    /// already, an eighth more than it has: of these bytes, as it may be ours that it is so large.
    pub(crate) fn of(path: PathBuf, found: Option<(WalHeader, u32)>, bytes: u64) -> Self {
        let found = found.map(|(header, frame)| {
            let more = (frame / 8).min(frames_of(&header, bytes) / 8);
            (header, frames_of(&header, bytes).max(frame.saturating_add(more)))
        });
        WalLimit { path, found, bytes, was_passed: AtomicBool::new(false) }
    }

    /// Whether it has grown so far. What cannot be read has not: whoever reads it says why.
    pub(crate) fn is_passed(&self) -> bool {
        let Ok(Some(file)) = wal::open(&self.path) else { return false };
        let Ok(Some(header)) = wal::header(&file) else { return false };
        let frames = match self.found {
            Some((found, frames)) if found == header => frames,
            _ => frames_of(&header, self.bytes),
        };
        let is_passed = wal::has_frame(&file, &header, frames.max(1));
        self.was_passed.fetch_or(is_passed, Ordering::SeqCst);
        is_passed
    }

    /// Whether it had grown so far when it was looked at.
    pub(crate) fn was_passed(&self) -> bool {
        self.was_passed.load(Ordering::SeqCst)
    }

    /// That it has not.
    pub(crate) fn require(&self) -> Result<()> {
        if !self.is_passed() {
            return Ok(());
        }
        let message = format!(
            "its -wal grew to more than {} MiB while all its pages were compared: it was let go",
            self.bytes >> 20
        );
        Err(Error::new(Kind::SourceUnavailable, message).hint(
            "it is tried again; under a writer that is always so fast, allow more: --compare-max",
        ))
    }
}

/// How many frames take so many bytes.
fn frames_of(header: &WalHeader, bytes: u64) -> u32 {
    u32::try_from(bytes / (u64::from(header.page_size) + 24)).unwrap_or(u32::MAX)
}

/// A page that differs.
pub(crate) struct Found {
    /// Its number.
    pub(crate) page: u32,
    /// Its hash.
    pub(crate) hash: BlockHash,
    /// Its hash before, if there was such a page.
    pub(crate) hash_before: Option<BlockHash>,
    /// Its content.
    pub(crate) content: Vec<u8>,
}

/// Takes the pages of a state in their order and sends on those that differ.
pub(crate) struct ChangedSink<'a> {
    env: &'a Env,
    state: &'a PageState,
    observer: Option<Arc<dyn BlockObserver>>,
    limit: Option<&'a WalLimit>,
    sender: Option<SyncSender<Vec<Found>>>,
    buffer: Vec<u8>,
    batch: Vec<Found>,
    /// Pages seen, and those of them that differ.
    pages: u32,
    changed: u32,
    is_too_much: bool,
}

impl<'a> ChangedSink<'a> {
    pub(crate) fn new(
        env: &'a Env,
        (state, limit): (&'a PageState, Option<&'a WalLimit>),
        observer: Option<Arc<dyn BlockObserver>>,
        sender: SyncSender<Vec<Found>>,
    ) -> Self {
        ChangedSink {
            env,
            state,
            observer,
            limit,
            sender: Some(sender),
            buffer: vec![0; BUFFER_BYTES],
            batch: Vec::new(),
            pages: 0,
            changed: 0,
            is_too_much: false,
        }
    }

    /// How many pages were seen; or why they are too many to be an increment.
    pub(crate) fn end(mut self, written: Result<()>) -> Result<Result<u32, String>> {
        if self.is_too_much {
            let why = format!("more than half of its {} pages changed", self.state.page_count());
            return Ok(Err(why));
        }
        written?;
        self.send()?;
        Ok(Ok(self.pages))
    }

    /// Hands on what was found. While that has to wait the `-wal` grows: so it is looked at.
    #[allow(clippy::disallowed_methods)] // real waiting, for a real file
    fn send(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        while let Some(sender) = &self.sender {
            batch = match sender.try_send(batch) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => break,
                Err(TrySendError::Full(batch)) => batch,
            };
            self.env.proceed()?;
            self.limit.map_or(Ok(()), WalLimit::require)?;
            std::thread::sleep(FULL_PAUSE);
        }
        Err(Error::new(Kind::StoreUnavailable, "the store stopped taking pages"))
    }
}

impl Sink for ChangedSink<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        self.env.proceed()?;
        self.limit.map_or(Ok(()), WalLimit::require)?;
        let page_bytes = self.state.page_size() as usize;
        if let Some(observer) = &self.observer {
            let offset = u64::from(self.pages) * page_bytes as u64;
            observer.observe(offset, &self.buffer[..bytes]);
        }
        let contents = self.buffer[..bytes].chunks(page_bytes);
        for (content, hash) in contents.zip(hash_each(&self.buffer[..bytes], page_bytes)) {
            self.pages += 1;
            let before = self.state.hash(self.pages).copied();
            if before != Some(hash) {
                self.changed += 1;
                let (page, content) = (self.pages, content.to_vec());
                self.batch.push(Found { page, hash, hash_before: before, content });
            }
        }
        self.env.tell(Event::Advanced { bytes: bytes as u64 });
        // Then a backup is smaller, and shortens every restore after it.
        if self.changed > CHANGED_MIN.max(self.state.page_count() / 2) {
            self.is_too_much = true;
            return Err(Error::new(Kind::Refused, "more than half of the pages changed"));
        }
        match self.batch.len() * page_bytes >= BATCH_BYTES {
            true => self.send(),
            false => Ok(()),
        }
    }
}
