//! A hold on a database that keeps writers waiting, let go when its time is over.
//!
//! Whoever reads may be stopped by a store that is slow or gone; the application must not wait
//! for that. So the hold belongs to a thread with a timer, and the reader asks after each batch
//! whether it was still held: if so, what was read is of the moment.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use lifeboat_core::{Error, Kind, Result};

/// A hold of any kind, for a time.
pub(crate) struct Lease<H: Send + 'static> {
    shared: Arc<Shared<H>>,
    timer: Option<JoinHandle<()>>,
}

struct Shared<H> {
    state: Mutex<State<H>>,
    ended: Condvar,
}

struct State<H> {
    hold: Option<H>,
    is_over: bool,
}

impl<H> Shared<H> {
    fn state(&self) -> MutexGuard<'_, State<H>> {
        // Each change to the state is one step, so that a panic leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Send + 'static> Lease<H> {
    /// Holds for that long at most.
    pub(crate) fn begin(hold: H, time_ms_max: u64) -> Result<Self> {
        let state = Mutex::new(State { hold: Some(hold), is_over: false });
        let shared = Arc::new(Shared { state, ended: Condvar::new() });
        let timed = Arc::clone(&shared);
        let timer = std::thread::Builder::new()
            .name("sqlite-lease".to_owned())
            .spawn(move || {
                let waited = timed.ended.wait_timeout_while(
                    timed.state(),
                    Duration::from_millis(time_ms_max),
                    |state| !state.is_over,
                );
                let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                state.hold = None;
            })
            .map_err(|error| Error::io(Kind::Failed, "cannot start a thread", error))?;
        Ok(Lease { shared, timer: Some(timer) })
    }

    /// Whether it is still held.
    pub(crate) fn is_held(&self) -> bool {
        self.shared.state().hold.is_some()
    }
}

impl<H: Send + 'static> Drop for Lease<H> {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.ended.notify_all();
        if let Some(timer) = self.timer.take() {
            // It only waits, and then drops the hold.
            let _ = timer.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real waiting
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_with_its_time_or_with_its_lease() {
        let hold = Arc::new(());
        let lease = Lease::begin(Arc::clone(&hold), 30).unwrap();
        while lease.is_held() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(Arc::strong_count(&hold), 1);
        let lease = Lease::begin(Arc::clone(&hold), 60_000).unwrap();
        assert!(lease.is_held());
        drop(lease);
        assert_eq!(Arc::strong_count(&hold), 1);
    }
}
