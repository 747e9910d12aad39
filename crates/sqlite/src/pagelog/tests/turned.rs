//! A `-wal` that begins anew between two looks of one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::bounds::FollowBounds;
use super::super::follow::Step;
use super::settled::begin_with;
use super::*;

/// What is done before the clock tells the time, and how often it tells it before that.
type Deed = (u32, Box<dyn FnOnce() + Send>);

/// A clock that something happens by.
#[derive(Default)]
struct Eventful(AtomicU64, Mutex<Option<Deed>>);

impl Clock for Eventful {
    fn now(&self) -> Timestamp {
        let mut deed = self.1.lock().unwrap();
        match &mut *deed {
            Some((0, _)) => deed.take().into_iter().for_each(|(_, deed)| deed()),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let passed_s = self.0.fetch_add(2, Ordering::SeqCst);
        Timestamp::from_second(4_102_444_800 + passed_s as i64).unwrap()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.fetch_add(2, Ordering::SeqCst) * 1_000
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

/// A look at a `-wal` that is due to begin anew takes hold of it where all of it was copied to the
/// database file: that keeps it from nothing. What is seen of the next one then is its beginning,
/// which is not let go.
#[test]
fn what_began_anew_while_it_was_waited_for_is_held() {
    let clock = Arc::new(Eventful::default());
    let bounds = FollowBounds {
        rush_from_bytes: 0,
        store_every_ms: u64::MAX,
        pinned_from_bytes: 0,
        pinned_wal_bytes_max: 200_000,
        compare_pause_wal: 0,
        ..FollowBounds::default()
    };
    let mut followed = begin_with(clock.clone(), 0, (Arc::new(Memory::default()), bounds));
    while !followed.follower.is_hurried() {
        followed.write();
        followed.follower.step(&followed.env).unwrap();
    }
    followed.run("INSERT INTO t(b) SELECT hex(randomblob(150000))");
    assert!(matches!(followed.follower.step(&followed.env).unwrap(), Step::Unchanged));
    // It was let go, as it is too large.
    followed.run("PRAGMA wal_checkpoint(PASSIVE)");
    let application = rusqlite::Connection::open(&followed.path).unwrap();
    let write = move || application.execute_batch("INSERT INTO t(b) VALUES('begun')").unwrap();
    *clock.1.lock().unwrap() = Some((2, Box::new(write)));
    followed.follower.step(&followed.env).unwrap();
    assert!(clock.1.lock().unwrap().is_none(), "nothing was written meanwhile");
    let restart = "PRAGMA wal_checkpoint(RESTART)";
    let application = &followed.application;
    application.execute_batch("PRAGMA busy_timeout = 0").unwrap();
    let is_held: bool = application.query_row(restart, [], |row| row.get(0)).unwrap();
    assert!(is_held, "it may begin anew unseen");
}
