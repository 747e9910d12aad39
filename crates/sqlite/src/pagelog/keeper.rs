//! The state that a look at a writer in a hurry took hold of, until the next look.
//!
//! While it is held the `-wal` cannot begin anew, so nothing can be missed, and what pages were
//! before stays in the database file. A thread of its own lets it go when the `-wal` has grown to
//! its bound all the same, whatever keeps the one who looks.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use lifeboat_core::{Error, Kind, Result};

use super::compare::WalLimit;
use crate::ffi::Mark;
use crate::holders::side_file;
use crate::snapshot::{Glimpse, Pinned};

/// Takes hold of the newest state again and again.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// Dropped, it tells the thread that it is over.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    held: Mutex<Held>,
}

/// Two connections, in turn.
struct Held {
    glimpses: [Glimpse; 2],
    /// Which of them hold a state.
    holds: [bool; 2],
    /// Which of them holds the newest one, or held it last.
    newest: usize,
}

impl Keeper {
    /// Holds nothing yet; nor ever longer than until the `-wal` has so many bytes.
    pub(super) fn begin(path: &Path, pinned: [Box<Pinned>; 2], bytes_max: u64) -> Result<Self> {
        let [one, other] = pinned;
        let glimpses = [Glimpse::of(path, one)?, Glimpse::of(path, other)?];
        let held = Held { glimpses, holds: [false; 2], newest: 0 };
        let shared = Arc::new(Shared { path: path.to_owned(), held: Mutex::new(held) });
        let (end, ended) = channel();
        let limit = WalLimit::of(side_file(path, "-wal"), None, bytes_max);
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wal-limit".into());
        let thread = thread.spawn(move || watched.watch(&limit, &ended)).map_err(|error| {
            Error::new(Kind::Failed, "a thread cannot be started").caused_by(error)
        })?;
        Ok(Keeper { shared, end: Some(end), thread: Some(thread) })
    }

    /// Takes hold of the newest state. That of the last look is held on: as long as it is, nothing
    /// newer than that is copied into the database file.
    pub(super) fn take(&self) -> Result<Option<Mark>> {
        self.lock().take(&self.shared.path)
    }

    /// Lets go the state of the last look: all that is newer was copied.
    pub(super) fn move_on(&self) -> Result<()> {
        let mut held = self.lock();
        let before = 1 - held.newest;
        held.let_go(before, &self.shared.path)
    }

    /// Lets go all that is held.
    pub(super) fn let_go(&self) -> Result<()> {
        self.lock().let_go_all(&self.shared.path)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // The one that waited for it has nothing left to do.
            let _ = thread.join();
        }
    }
}

impl Held {
    fn take(&mut self, path: &Path) -> Result<Option<Mark>> {
        let next = 1 - self.newest;
        self.let_go(next, path)?;
        let taken = self.glimpses[next].take(path)?;
        (self.holds[next], self.newest) = (true, next);
        Ok(taken)
    }

    fn let_go(&mut self, at: usize, path: &Path) -> Result<()> {
        match std::mem::take(&mut self.holds[at]) {
            true => self.glimpses[at].let_go(path),
            false => Ok(()),
        }
    }

    fn let_go_all(&mut self, path: &Path) -> Result<()> {
        self.let_go(0, path).and(self.let_go(1, path))
    }
}

impl Shared {
    fn watch(&self, limit: &WalLimit, ended: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(WalLimit::LOOK_EVERY) {
            if limit.is_passed() {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                // What cannot be let go here, whoever looks next is told of.
                let _ = held.let_go_all(&self.path);
            }
        }
    }
}
