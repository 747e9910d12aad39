//! What is held while others work, and let go when the `-wal` passes its limit: whatever they wait
//! for, be it a store that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use lifeboat_core::{Error, Kind, Result};

use super::compare::WalLimit;

/// A state in the care of a thread that lets it go in time.
pub(super) struct Guard<T> {
    /// Dropped, it tells the thread that it is over.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<T>>>,
    /// Set before it is let go.
    is_gone: Arc<AtomicBool>,
}

impl<T: Send + 'static> Guard<T> {
    /// Takes what holds a state into care.
    pub(super) fn begin(held: T, limit: Arc<WalLimit>) -> Result<Self> {
        let (end, ended) = channel();
        let is_gone = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&is_gone);
        let thread = std::thread::Builder::new().name("wal-limit".into());
        let thread =
            thread.spawn(move || guard(held, (&limit, &gone), &ended)).map_err(|error| {
                Error::new(Kind::Failed, "a thread cannot be started").caused_by(error)
            })?;
        Ok(Guard { end: Some(end), thread: Some(thread), is_gone })
    }

    /// Gives it back, if it is still held.
    pub(super) fn end(mut self) -> Option<T> {
        self.take_back()
    }
}

impl<T> Guard<T> {
    /// Whether it was held until now.
    pub(super) fn is_held(&self) -> bool {
        !self.is_gone.load(Ordering::SeqCst)
    }

    fn take_back(&mut self) -> Option<T> {
        self.end = None;
        self.thread.take()?.join().ok().flatten()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // It is let go before whoever fails looks again.
        drop(self.take_back());
    }
}

fn guard<T>(
    held: T,
    (limit, is_gone): (&WalLimit, &AtomicBool),
    ended: &Receiver<()>,
) -> Option<T> {
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(WalLimit::LOOK_EVERY) {
        if limit.is_passed() {
            is_gone.store(true, Ordering::SeqCst);
            return None;
        }
    }
    Some(held)
}
