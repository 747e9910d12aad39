//! A writer in a hurry, in a thread of its own, with its own checkpoints: what is followed is the
//! database, also where next to nothing has room in memory.
#![allow(clippy::disallowed_methods)] // real time

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::Connection;

use super::super::bounds::FollowBounds;
use super::super::follow::Step;
use super::settled::begin_with;
use super::*;

/// States that are stored of it.
const STATES: usize = 6;

/// The real clock.
struct Real(Instant);

impl Clock for Real {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn sleep_ms(&self, milliseconds: u64) {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
    }
}

/// Changes rows everywhere, adds some, and takes some away, until it is enough.
fn write_all(path: &Path, is_enough: &AtomicBool) {
    let application = Connection::open(path).unwrap();
    application.execute_batch("PRAGMA wal_autocheckpoint = 100").unwrap();
    application.execute_batch("PRAGMA synchronous = OFF; PRAGMA busy_timeout = 20000").unwrap();
    for at in 0.. {
        if is_enough.load(Ordering::SeqCst) {
            return;
        }
        let rows = format!(
            "BEGIN; UPDATE t SET b = hex(randomblob(40)) WHERE a % 397 = {at} % 397; \
             INSERT INTO t(b) SELECT hex(randomblob(300)) FROM t LIMIT 3; \
             DELETE FROM t WHERE a = (SELECT min(a) + {at} FROM t); COMMIT"
        );
        application.execute_batch(&rows).unwrap();
        // A program without optimization is no match for a writer that never rests.
        std::thread::sleep(std::time::Duration::from_millis(4));
    }
}

/// Dropped, it is enough.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn follow(collected_bytes_max: usize, aside_bytes_max: u64) {
    let bounds = FollowBounds {
        rush_from_bytes: 0,
        store_every_ms: 5,
        pinned_from_bytes: 0,
        pinned_wal_bytes_max: 1_000_000,
        collected_bytes_max,
        aside_bytes_max,
        compare_pause_wal: 0,
        ..FollowBounds::default()
    };
    let store = Arc::new(Memory::default());
    let mut followed = begin_with(Arc::new(Real(Instant::now())), 4_000, (store, bounds));
    followed.env.threads = 2;
    let (path, env, follower) = (&followed.path, &followed.env, &mut followed.follower);
    let is_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also after a look that fails: else it would be written for ever.
        let _ended = Ended(&is_enough);
        scope.spawn(|| write_all(path, &is_enough));
        let mut states = 0;
        while states < STATES {
            let step = follower.step(env).unwrap();
            states += usize::from(follower.is_hurried() && matches!(step, Step::Added(_)));
        }
    });
    followed.write();
    while !matches!(followed.follower.step(&followed.env).unwrap(), Step::Added(_)) {}
    while followed.follower.is_behind() {
        followed.follower.step(&followed.env).unwrap();
    }
    followed.require_state();
}

#[test]
fn a_writer_in_a_hurry_is_followed_to_the_page() {
    follow(20 << 20, 0);
}

#[test]
fn also_where_most_is_put_aside() {
    follow(20_000, 1 << 30);
}

#[test]
fn and_where_most_is_left_to_be_read_when_it_is_stored() {
    follow(20_000, 20_000);
}

/// Nobody writes while its pages are compared, so that no look is due meanwhile: it counted as
/// missed again then, five times, and a state was held for ten seconds.
#[test]
fn a_turn_that_was_missed_is_caught_up_with_though_nobody_writes_any_more() {
    let bounds = FollowBounds {
        rush_from_bytes: 0,
        store_every_ms: 0,
        pinned_from_bytes: 0,
        compare_pause_wal: 0,
        ..FollowBounds::default()
    };
    let store = Arc::new(Memory::default());
    let mut followed = begin_with(Arc::new(Real(Instant::now())), 4_000, (store, bounds));
    followed.env.threads = 2;
    while !followed.follower.is_hurried() {
        followed.write();
        followed.follower.step(&followed.env).unwrap();
    }
    followed.follower.rush.as_ref().unwrap().let_go().unwrap();
    for _ in 0..3 {
        followed.write();
        followed.run("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    followed.write();
    let step = followed.follower.step(&followed.env).unwrap();
    assert!(matches!(step, Step::Added(_)), "{step:?}");
    assert!(followed.follower.is_hurried(), "a state is held for it");
    followed.require_state();
}
