//! The check of a moment while it is held, in a thread of its own beside the streaming.
//!
//! The thread owns the connection whose transaction holds the moment, so what is checked is what
//! is streamed. A pinned moment keeps the `-wal` from being reset: where it grows beyond its
//! bound meanwhile, the check is given up, and made elsewhere.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use lifeboat_core::env::Env;
use lifeboat_core::source::{CaptureOptions, CheckReport};
use lifeboat_core::{Error, Kind, Result};

use crate::check::{self, Checked};
use crate::snapshot::Pinned;

const GOES_ON: u8 = 0;
const NOT_WANTED: u8 = 1;
const WAL_GREW: u8 = 2;

/// A check that goes on.
pub(crate) struct PinnedCheck {
    stop: Arc<AtomicU8>,
    // The thread's result keeps the transaction open until it is taken.
    thread: Option<JoinHandle<(Box<Pinned>, Checked)>>,
    wal_growth_bytes_max: u64,
}

/// How a check ended.
pub(crate) enum Ended {
    /// With a result.
    Report(CheckReport),
    /// Given up: why.
    LetGo(String),
}

impl PinnedCheck {
    /// Begins. `wal` is watched, if there is one.
    pub(crate) fn begin(
        env: &Env,
        mut pinned: Box<Pinned>,
        wal: Option<File>,
        options: &CaptureOptions,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicU8::new(GOES_ON));
        let wal_growth_bytes_max = options.wal_growth_bytes_max;
        let stop_when = stop_when(Arc::clone(&stop), wal, wal_growth_bytes_max);
        let clock = Arc::clone(&env.clock);
        let (level, memory_bytes) = (options.check, options.check_memory_bytes);
        let thread = std::thread::Builder::new()
            .name("sqlite-check".to_owned())
            .spawn(move || {
                let connection = pinned.connection_mut();
                let checked =
                    check::check(connection, &clock, level, memory_bytes, Some(stop_when));
                (pinned, checked)
            })
            .map_err(|error| Error::io(Kind::Failed, "cannot start a thread", error))?;
        Ok(PinnedCheck { stop, thread: Some(thread), wal_growth_bytes_max })
    }

    /// Waits for its end, and lets the moment go.
    pub(crate) fn end(mut self) -> Result<Ended> {
        let Some(thread) = self.thread.take() else {
            return Err(Error::new(Kind::Failed, "a check ends once"));
        };
        // Had the thread died, nothing would have held the moment that was streamed.
        let (_pinned, checked) = thread
            .join()
            .map_err(|_| Error::new(Kind::Failed, "the check of the database broke off"))?;
        Ok(match checked {
            Checked::Done(report) => Ended::Report(report),
            Checked::Stopped => Ended::LetGo(format!(
                "the -wal grew by more than {} bytes during the check",
                self.wal_growth_bytes_max
            )),
        })
    }
}

impl Drop for PinnedCheck {
    fn drop(&mut self) {
        self.stop.store(NOT_WANTED, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The capture is given up, so its result is of no interest.
            let _ = thread.join();
        }
    }
}

fn stop_when(stop: Arc<AtomicU8>, wal: Option<File>, growth_bytes_max: u64) -> check::StopWhen {
    let length = |wal: &Option<File>| {
        wal.as_ref().and_then(|wal| wal.metadata().ok()).map_or(0, |metadata| metadata.len())
    };
    let begun_bytes = length(&wal);
    Box::new(move || {
        if length(&wal) > begun_bytes.saturating_add(growth_bytes_max) {
            stop.store(WAL_GREW, Ordering::Relaxed);
        }
        stop.load(Ordering::Relaxed) != GOES_ON
    })
}
