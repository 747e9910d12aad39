//! The `-wal` is let go when it has grown by its bound, whatever the store does meanwhile.
#![allow(clippy::disallowed_methods)] // real waiting

use std::sync::Condvar;

use rusqlite::Connection;

use super::super::bounds::FollowBounds;
use super::super::follow::Step;
use super::settled::begin_in;
use super::*;

/// The bound, in bytes.
const BOUND: u64 = 400 << 10;

/// A store that stops taking bytes, and tells who waits for it.
#[derive(Clone, Default)]
struct Hanging(Memory, Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Hanging {
    fn hang(&self, hangs: bool) {
        self.1.0.lock().unwrap().0 = hangs;
        self.1.1.notify_all();
    }

    /// Hangs until what this returns is dropped: also by a test that fails, whose threads would
    /// wait for ever.
    fn hang_here(&self) -> Hangs<'_> {
        self.hang(true);
        Hangs(self)
    }

    fn wait_for_one(&self) {
        let (state, changed) = &*self.1;
        drop(changed.wait_while(state.lock().unwrap(), |(_, waiting)| *waiting == 0).unwrap());
    }
}

struct Hangs<'a>(&'a Hanging);

impl Drop for Hangs<'_> {
    fn drop(&mut self) {
        self.0.hang(false);
    }
}

impl Store for Hanging {
    fn url(&self) -> String {
        self.0.url()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let (state, changed) = &*self.1;
        let mut guard = state.lock().unwrap();
        guard.1 += 1;
        changed.notify_all();
        let mut guard = changed.wait_while(guard, |(hangs, _)| *hangs).unwrap();
        guard.1 -= 1;
        drop(guard);
        self.0.put(name)
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.0.get(name, range)
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.0.head(name)
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        self.0.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.0.delete(name)
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// Whether somebody keeps the `-wal` from beginning anew.
fn is_held(application: &Connection) -> bool {
    application.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0)).unwrap()
}

/// Writes while a look waits for its store, until the `-wal` is let go: then it has begun anew.
fn write_until_let_go(application: &Connection, path: &Path) {
    application.execute_batch("PRAGMA busy_timeout = 0").unwrap();
    let mut wal_bytes = 0;
    // One of these takes three pages and their parents: none reaches the bound.
    while wal_bytes + 32_000 < BOUND {
        assert!(is_held(application), "it is let go at {wal_bytes} bytes");
        let rows = "INSERT INTO t(b) SELECT hex(randomblob(4000))";
        application.execute_batch(rows).unwrap();
        wal_bytes = std::fs::metadata(path).unwrap().len();
    }
    application.execute_batch("INSERT INTO t(b) SELECT hex(randomblob(40000))").unwrap();
    // It hangs still.
    while is_held(application) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // It begins anew: that it was too large is not seen there any more.
    application.execute_batch("INSERT INTO t(b) VALUES('y')").unwrap();
}

/// The same while all pages are compared, where so many bytes changed.
fn while_compared(rows: usize) {
    let store = Hanging::default();
    let bounds = FollowBounds {
        compare_pause_wal: 0,
        // They can be compared without holding a state: a part of it is waited for.
        compared_wal_bytes_max: 4 * BOUND,
        pinned_from_bytes: 0,
        ..FollowBounds::default()
    };
    let mut followed = begin_in(Arc::new(store.clone()), bounds);
    for _ in 0..3 {
        followed.write();
        followed.run("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    for _ in 0..rows {
        followed.run("INSERT INTO t(b) SELECT hex(zeroblob(500000)) || hex(randomblob(20))");
    }
    followed.run("PRAGMA wal_checkpoint(TRUNCATE)");
    followed.run("INSERT INTO t(b) VALUES('x')");
    let wal = followed.path.with_file_name("app.db-wal");
    let (env, application) = (&followed.env, &followed.application);
    let follower = &mut followed.follower;
    let looked = std::thread::scope(|scope| {
        let hangs = store.hang_here();
        let looking = scope.spawn(|| follower.step(env));
        store.wait_for_one();
        write_until_let_go(application, &wal);
        drop(hangs);
        looking.join().unwrap()
    });
    // Where not all was read before, it is no state, and they are compared without holding one.
    match (rows, looked.unwrap()) {
        (0, step) => assert!(matches!(step, Step::Added(_)), "{step:?}"),
        (_, step) => {
            assert!(matches!(step, Step::Unchanged), "{step:?}");
            assert!(followed.follower.is_hurried());
        }
    }
    while !matches!(followed.follower.step(&followed.env).unwrap(), Step::Added(_)) {}
    followed.require_state();
}

#[test]
fn a_store_that_hangs_keeps_no_state_for_longer_than_its_bound() {
    while_compared(0);
}

#[test]
fn nor_where_more_changed_than_waits_for_it() {
    while_compared(6);
}

/// While a store hangs, a writer in a hurry goes on as it likes: its `-wal` begins anew, and of
/// what is too much for memory nothing is missing in the end.
#[test]
fn a_writer_in_a_hurry_is_not_held_by_a_store_that_hangs() {
    let store = Hanging::default();
    let bounds = FollowBounds {
        rush_from_bytes: 0,
        store_every_ms: 0,
        collected_bytes_max: 100_000,
        aside_bytes_max: 0,
        compare_pause_wal: 0,
        ..FollowBounds::default()
    };
    let mut followed = begin_in(Arc::new(store.clone()), bounds);
    followed.env.threads = 2;
    followed.write();
    while !followed.follower.is_hurried() {
        followed.write();
        followed.follower.step(&followed.env).unwrap();
    }
    followed.write();
    let (env, application) = (&followed.env, &followed.application);
    let follower = &mut followed.follower;
    std::thread::scope(|scope| {
        let hangs = store.hang_here();
        let looking =
            scope.spawn(|| while !matches!(follower.step(env).unwrap(), Step::Added(_)) {});
        store.wait_for_one();
        for _ in 0..10 {
            application.execute_batch("INSERT INTO t(b) SELECT hex(randomblob(30000))").unwrap();
            // A look takes hold for a moment.
            while is_held(application) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        drop(hangs);
        looking.join().unwrap();
    });
    followed.write();
    while !matches!(followed.follower.step(&followed.env).unwrap(), Step::Added(_)) {}
    while followed.follower.is_behind() {
        followed.follower.step(&followed.env).unwrap();
    }
    followed.require_state();
}
