//! Where nothing was copied into the database file, the `-wal` has all that is new: nothing is
//! compared for that, and what is found is the state.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use lifeboat_core::backup::{self, BackupRequest};
use lifeboat_core::event::{Event, Observer};
use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::SourceIdentity;
use lifeboat_core::source::{CaptureOptions, Source};
use rusqlite::Connection;

use super::super::bounds::FollowBounds;
use super::super::follow::{FollowRequest, Follower, Step};
use super::*;
use crate::snapshot::Snapshot;
use crate::{SqliteEngine, SqliteSource};

/// A clock for which every file is old.
#[derive(Default)]
struct Later(AtomicU64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(4_102_444_800 + self.0.fetch_add(2, Ordering::SeqCst) as i64)
            .unwrap()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.fetch_add(2, Ordering::SeqCst) * 1_000
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

/// Counts how often all pages were compared.
#[derive(Default)]
struct Comparisons(AtomicUsize);

impl Observer for Comparisons {
    fn observe(&self, event: &Event<'_>) {
        if matches!(event, Event::PhaseBegan { phase: "comparing pages", .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn options() -> CaptureOptions {
    CaptureOptions {
        method: Method::Online,
        check: CheckLevel::None,
        check_memory_bytes: 16 << 20,
        lock_ms_max: 1 << 40,
        wal_growth_bytes_max: 1 << 30,
    }
}

/// A follower, and the application that it follows.
pub(super) struct Followed {
    pub(super) env: Env,
    comparisons: Arc<Comparisons>,
    pub(super) follower: Follower,
    pub(super) application: Connection,
    pub(super) path: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

/// The bounds of most tests.
fn bounds() -> FollowBounds {
    FollowBounds { compare_pause_wal: 0, ..FollowBounds::default() }
}

pub(super) fn begin() -> Followed {
    begin_at(Arc::new(Later::default()), 0)
}

/// The same by that clock, of a database with so many rows.
pub(super) fn begin_at(clock: Arc<dyn Clock>, rows: u32) -> Followed {
    begin_with(clock, rows, (Arc::new(Memory::default()), bounds()))
}

/// The same in a store, with bounds.
pub(super) fn begin_in(store: Arc<dyn Store>, bounds: FollowBounds) -> Followed {
    begin_with(Arc::new(Later::default()), 0, (store, bounds))
}

/// The same by that clock.
pub(super) fn begin_with(
    clock: Arc<dyn Clock>,
    rows: u32,
    (store, bounds): (Arc<dyn Store>, FollowBounds),
) -> Followed {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let make = "PRAGMA journal_mode = wal; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT UNIQUE)";
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(make).unwrap();
    connection.execute_batch(&rows_of(rows)).unwrap();
    drop(connection);
    let comparisons = Arc::new(Comparisons::default());
    let mut env = Env::new(clock, Arc::new(Still), "host");
    env.observer = comparisons.clone();
    let repository = Repository::open_or_create(&env, store).unwrap();
    let source = SqliteSource::new(path.clone());
    let identity = SourceIdentity {
        id: None,
        name: "app".into(),
        kind: source.kind().into(),
        host: env.host.clone(),
        location: source.location().unwrap(),
    };
    let request = BackupRequest {
        source: &source,
        engine: &SqliteEngine,
        identity: identity.clone(),
        companions: None,
        options: options(),
        compression: Compression::DEFAULT,
        pattern: NamePattern::default(),
        pin: None,
        purpose: None,
        service: None,
        on_change: false,
        lock_folder: None,
        scratch_folder: folder.path(),
        tool: "test",
        warnings: &[],
    };
    backup::run(&env, &repository, &request).unwrap();
    let request = FollowRequest {
        path: path.clone(),
        identity,
        options: options(),
        bounds,
        lock_folder: None,
        aside_folder: Some(folder.path().join("aside")),
    };
    let (follower, _) = Follower::begin(&env, &repository, request).unwrap().unwrap();
    let application = Connection::open(&path).unwrap();
    application.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    Followed { env, comparisons, follower, application, path, _folder: folder }
}

/// What inserts so many rows.
fn rows_of(count: u32) -> String {
    format!(
        "INSERT INTO t(b) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i \
         < {count}) SELECT hex(randomblob(40)) FROM n WHERE {count} > 0"
    )
}

impl Followed {
    pub(super) fn run(&self, sql: &str) {
        self.application.execute_batch(sql).unwrap();
    }

    pub(super) fn write(&self) {
        self.run(&rows_of(60));
    }

    /// Looks once: a state must be added, by so many comparisons, and be what the database is.
    fn look(&mut self, comparisons: usize) {
        let before = self.comparisons.0.load(Ordering::SeqCst);
        let step = self.follower.step(&self.env).unwrap();
        assert!(matches!(step, Step::Added(_)), "{step:?}");
        assert_eq!(self.comparisons.0.load(Ordering::SeqCst) - before, comparisons);
        self.require_state();
    }

    /// The state at the end of the log must be what the database is.
    pub(super) fn require_state(&self) {
        let mut snapshot = Snapshot::take(&self.path).unwrap();
        let state = &self.follower.log.state;
        assert_eq!(snapshot.page_count(), state.page_count());
        let mut content = vec![0; snapshot.page_size() as usize];
        for page in 1..=state.page_count() {
            snapshot.read_pages(page, &mut content).unwrap();
            assert_eq!(state.hash(page), Some(&block_hash(&content)), "page {page}");
        }
    }
}

/// As those of a pool do in turn: each writes what it counted itself into the head of the `-wal`.
#[test]
fn a_wal_that_another_connection_begins_anew_needs_no_comparison() {
    let mut followed = begin();
    let other = Connection::open(&followed.path).unwrap();
    followed.write();
    followed.write();
    followed.look(0);
    followed.run("PRAGMA wal_checkpoint");
    followed.write();
    followed.look(0);
    // Behind the place that is known, and in the database file before the next look.
    followed.run("INSERT INTO t(b) VALUES ('one')");
    followed.run("PRAGMA wal_checkpoint");
    other.execute_batch("INSERT INTO t(b) VALUES ('another')").unwrap();
    followed.look(0);
}

#[test]
fn a_wal_that_was_made_since_needs_no_comparison() {
    let mut followed = begin();
    followed.write();
    followed.look(0);
    followed.write();
    followed.look(0);
}

#[test]
fn a_wal_that_was_begun_anew_after_all_was_read_needs_none() {
    let mut followed = begin();
    followed.write();
    followed.look(0);
    followed.run("PRAGMA wal_checkpoint(RESTART)");
    // The database file stands otherwise: once more all is read, and is what it was.
    let step = followed.follower.step(&followed.env).unwrap();
    assert!(matches!(step, Step::Unchanged | Step::Added(_)), "{step:?}");
    followed.write();
    followed.look(0);
}

#[test]
fn where_something_was_copied_since_all_is_compared() {
    let mut followed = begin();
    followed.write();
    followed.run("PRAGMA wal_checkpoint(TRUNCATE)");
    followed.write();
    followed.look(1);
    for _ in 0..2 {
        followed.write();
        followed.run("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    followed.write();
    followed.look(1);
}

#[test]
fn nor_where_somebody_only_opened_it_when_it_was_looked_at() {
    let bounds = FollowBounds { pinned_from_bytes: 0, ..bounds() };
    let mut followed = begin_in(Arc::new(Memory::default()), bounds);
    // What has no room in its memory is in the `-wal` before it is committed.
    followed.run("PRAGMA cache_size = 1; BEGIN");
    followed.run(&rows_of(3_000));
    assert!(std::fs::metadata(followed.path.with_extension("db-wal")).unwrap().len() > 0);
    let step = followed.follower.step(&followed.env).unwrap();
    assert!(matches!(step, Step::Unchanged), "{step:?}");
    followed.run("COMMIT");
    for _ in 0..3 {
        followed.run("PRAGMA wal_checkpoint(PASSIVE)");
        followed.write();
    }
    followed.look(0);
}
