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
use crate::lock_proof::{LOCKS_DROPPED, LockProof};
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
    proof: LockProof,
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
        proof: LockProof,
        wal: Option<File>,
        options: &CaptureOptions,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicU8::new(GOES_ON));
        let wal_growth_bytes_max = options.wal_growth_bytes_max;
        let stop_when = stop_when(env, Arc::clone(&stop), wal, wal_growth_bytes_max);
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
        Ok(PinnedCheck { stop, thread: Some(thread), wal_growth_bytes_max, proof })
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
        if !self.proof.is_held() {
            return Ok(Ended::LetGo(LOCKS_DROPPED.to_owned()));
        }
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

fn stop_when(
    env: &Env,
    stop: Arc<AtomicU8>,
    wal: Option<File>,
    growth_bytes_max: u64,
) -> check::StopWhen {
    let length = |wal: &Option<File>| {
        wal.as_ref().and_then(|wal| wal.metadata().ok()).map_or(0, |metadata| metadata.len())
    };
    let begun_bytes = length(&wal);
    let env = env.clone();
    Box::new(move || {
        if length(&wal) > begun_bytes.saturating_add(growth_bytes_max) {
            stop.store(WAL_GREW, Ordering::Relaxed);
        }
        stop.load(Ordering::Relaxed) != GOES_ON || env.proceed().is_err()
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a real clock and real waiting
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;
    use lifeboat_core::env::{Clock, Random};
    use lifeboat_core::manifest::{CheckLevel, CheckOutcome, Method};
    use rusqlite::Connection;
    use std::io::Write;

    struct World;

    impl Clock for World {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic_ms(&self) -> u64 {
            0
        }
        fn sleep_ms(&self, _milliseconds: u64) {}
    }

    impl Random for World {
        fn fill(&self, _buffer: &mut [u8]) {}
    }

    fn pinned(folder: &std::path::Path) -> Box<Pinned> {
        let path = folder.join("x.db");
        let sql = "PRAGMA journal_mode = wal; CREATE TABLE t(a UNIQUE);
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)
             INSERT INTO t SELECT hex(randomblob(20)) FROM c;";
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        Snapshot::take(&path).unwrap().take_pinned().unwrap()
    }

    fn begin(folder: &std::path::Path) -> PinnedCheck {
        let env = Env::new(Arc::new(World), Arc::new(World), "test");
        let options = CaptureOptions {
            method: Method::Online,
            check: CheckLevel::Full,
            check_memory_bytes: 1 << 20,
            lock_ms_max: 0,
            wal_growth_bytes_max: 1,
        };
        PinnedCheck::begin(&env, pinned(folder), LockProof::default(), None, &options).unwrap()
    }

    #[test]
    fn a_log_that_grows_too_much_ends_the_check_without_a_verdict() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = File::create(&path).unwrap();
        let env = Env::new(Arc::new(World), Arc::new(World), "test");
        let mut stop_when = stop_when(&env, Arc::default(), File::open(&path).ok(), 100);
        log.write_all(&[0; 100]).unwrap();
        assert!(!stop_when());
        log.write_all(&[0; 1]).unwrap();
        assert!(stop_when());

        let database = tempfile::tempdir().unwrap();
        let mut pinned = pinned(database.path());
        let thread = std::thread::spawn(move || {
            let clock: Arc<dyn Clock> = Arc::new(World);
            let connection = pinned.connection_mut();
            let level = CheckLevel::Full;
            let checked = check::check(connection, &clock, level, 1 << 20, Some(Box::new(|| true)));
            (pinned, checked)
        });
        let check = PinnedCheck {
            stop: Arc::default(),
            thread: Some(thread),
            wal_growth_bytes_max: 1,
            proof: LockProof::default(),
        };
        match check.end().unwrap() {
            Ended::LetGo(why) => assert!(why.contains("grew by more than 1 bytes"), "{why}"),
            Ended::Report(report) => panic!("it was not stopped: {report:?}"),
        }
    }

    #[test]
    fn a_check_that_is_left_alone_ends_with_a_verdict() {
        let folder = tempfile::tempdir().unwrap();
        match begin(folder.path()).end().unwrap() {
            Ended::Report(report) => assert_eq!(report.outcome, CheckOutcome::Passed),
            Ended::LetGo(why) => panic!("it was stopped: {why}"),
        }
    }

    #[test]
    fn a_check_that_is_given_up_ends_and_lets_the_database_go() {
        let folder = tempfile::tempdir().unwrap();
        drop(begin(folder.path()));
        let connection = Connection::open(folder.path().join("x.db")).unwrap();
        let mode: String =
            connection.query_row("PRAGMA journal_mode = delete", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "delete");
    }
}
