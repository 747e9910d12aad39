//! What the tests share: a world with the real clock, a sink in memory, and captures.
// Each test file uses a part; the clock is real; a test that cannot go on panics.
#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used)]

pub(crate) mod child;

use std::path::Path;
use std::sync::Arc;

use lifeboat_core::manifest::{CheckLevel, Method};
use lifeboat_core::source::{BlockObserver, CaptureOptions, CaptureReport, Sink, Source};
use lifeboat_core::{Error, Result};
use lifeboat_sqlite::SqliteSource;
pub(crate) use lifeboat_test_support::env;
use rusqlite::Connection;

/// Options for a capture with that check.
pub(crate) fn options(check: CheckLevel) -> CaptureOptions {
    CaptureOptions {
        method: Method::Online,
        check,
        check_memory_bytes: 64 << 20,
        lock_ms_max: 60_000,
        wal_growth_bytes_max: 1 << 40,
    }
}

/// Called before each batch, with the number of the batch.
pub(crate) type Hook<'a> = Box<dyn FnMut(usize) + 'a>;

/// Keeps what is streamed, and lets a test act between batches.
pub(crate) struct MemorySink<'a> {
    pub(crate) image: Vec<u8>,
    buffer: Vec<u8>,
    observer: Option<Arc<dyn BlockObserver>>,
    hook: Hook<'a>,
    batches: usize,
}

impl<'a> MemorySink<'a> {
    pub(crate) fn new(
        buffer_bytes: usize,
        observer: Option<Arc<dyn BlockObserver>>,
        hook: Hook<'a>,
    ) -> Self {
        // What is not filled must not be taken for content.
        let buffer = vec![0xaa; buffer_bytes];
        MemorySink { image: Vec::new(), buffer, observer, hook, batches: 0 }
    }
}

impl Sink for MemorySink<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        (self.hook)(self.batches);
        self.batches += 1;
        &mut self.buffer
    }

    fn advance(&mut self, bytes: usize) -> Result<()> {
        if let Some(observer) = &self.observer {
            observer.observe(self.image.len() as u64, &self.buffer[..bytes]);
        }
        self.image.extend_from_slice(&self.buffer[..bytes]);
        Ok(())
    }
}

/// What a capture gave.
pub(crate) struct Captured {
    pub(crate) image: Vec<u8>,
    pub(crate) report: CaptureReport,
    /// What the plan promised.
    pub(crate) bytes_estimated: u64,
}

/// Captures a database; `hook` runs before each batch of `buffer_bytes`.
pub(crate) fn capture_with(
    path: &Path,
    options: &CaptureOptions,
    buffer_bytes: usize,
    hook: Hook<'_>,
) -> Result<Captured> {
    let env = env();
    let source = SqliteSource::new(path.to_owned());
    let mut capture = source.capture(&env, options)?;
    let plans = capture.artifacts();
    assert_eq!(plans.len(), 1);
    assert_eq!((plans[0].role, &*plans[0].extension), ("database", "db"));
    let mut sink = MemorySink::new(buffer_bytes, plans[0].observer.clone(), hook);
    capture.write(0, &mut sink)?;
    let image = sink.image;
    let report = capture.finish()?;
    Ok(Captured { image, report, bytes_estimated: plans[0].plain_bytes_estimate })
}

/// Captures a database with a quick check.
pub(crate) fn capture(path: &Path) -> Captured {
    let captured = capture_with(path, &options(CheckLevel::Quick), 1 << 20, Box::new(|_| {}));
    captured.expect("the capture succeeds")
}

/// The error of a capture that must fail.
pub(crate) fn capture_error(path: &Path, options: &CaptureOptions) -> Error {
    match capture_with(path, options, 1 << 20, Box::new(|_| {})) {
        Ok(_) => panic!("the capture of {} succeeded", path.display()),
        Err(error) => error,
    }
}

/// Opens an image as a database in memory.
pub(crate) fn open_image(image: &[u8]) -> Connection {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.db");
    std::fs::write(&path, image).unwrap();
    let connection = Connection::open(&path).unwrap();
    // Open descriptors outlive their folder; a rollback journal is not needed any more.
    connection.execute_batch("PRAGMA journal_mode = MEMORY; SELECT * FROM sqlite_schema").ok();
    connection
}

/// The rows of a check of an image.
pub(crate) fn integrity(connection: &Connection) -> Vec<String> {
    let mut statement = connection.prepare("PRAGMA integrity_check").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// The image that SQLite's own pager reads now. Through a connection of its own: a writer's
/// cache may hold free pages that were never written.
pub(crate) fn serialized(path: &Path) -> Vec<u8> {
    let mut connection = Connection::open(path).unwrap();
    connection.serialize("main").unwrap().to_vec()
}

/// One number from a database.
pub(crate) fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}
