//! What metrics tell of a source beyond what the table shows.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::status::SourceStatus;
use lifeboat_postgres::wal::{ArchiverState, Slot};
use lifeboat_sqlite::KIND;

use crate::repositories::Opened;
use crate::sources::Target;
use crate::standing::{Facts, LogEnd, interval_ms};

/// What metrics tell beyond the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// The kind of the source: "sqlite".
    pub(super) engine: String,
    /// When the oldest restorable backup was taken.
    pub(super) oldest_at: Option<Timestamp>,
    /// Bytes of the newest good backup, in the repository and restored.
    pub(super) newest_bytes: Option<(u64, u64)>,
    /// Milliseconds that it took.
    pub(super) took_ms: Option<u64>,
    /// The time between two runs of its schedule, in milliseconds.
    pub(super) interval_ms: Option<u64>,
    /// Whether something is missing in its log.
    pub(super) has_gap: bool,
    /// What the server has of its log and the repository lacks, in bytes.
    pub(super) lag_bytes: Option<u64>,
    /// The replication slots of its server.
    pub(super) slots: Vec<Slot>,
    /// The size of the `-wal` beside the database.
    pub(super) wal_bytes: Option<u64>,
    /// Until when nobody can delete the newest good backup.
    pub(super) locked_until: Option<Timestamp>,
    log_end: Option<LogEnd>,
}

impl Measured {
    /// What a repository says of a source.
    pub(super) fn of(
        facts: &Facts,
        entry: Option<&SourceEntry>,
        status: &SourceStatus<'_>,
    ) -> Self {
        let newest = status.newest_good;
        let took_ms = newest.map(|newest| newest.completed_at.duration_since(newest.taken_at));
        let oldest = entry.and_then(|entry| entry.backups.first());
        Measured {
            engine: newest.or(oldest).map_or(String::new(), |one| one.source.kind.clone()),
            oldest_at: oldest.map(|oldest| oldest.taken_at),
            newest_bytes: newest.map(|newest| (newest.stored_bytes(), newest.plain_bytes())),
            took_ms: took_ms.and_then(|took| u64::try_from(took.as_millis()).ok()),
            has_gap: facts.gap.is_some(),
            log_end: facts.log_end,
            ..Measured::default()
        }
    }

    /// The same with what the configuration promises, and what lies beside the database.
    pub(super) fn promised(self, target: &Target, now: Timestamp, zone: &TimeZone) -> Self {
        let interval_ms = interval_ms(target.schedule.as_deref(), now, zone);
        let engine = target.source.kind().to_owned();
        let is_sqlite = engine == KIND;
        let wal = target.path.as_ref().filter(|_| is_sqlite).map(|path| {
            let mut wal = path.clone().into_os_string();
            wal.push("-wal");
            PathBuf::from(wal)
        });
        // Without one there is nothing in it.
        let wal_bytes = wal.map(|wal| fs::metadata(wal).map_or(0, |found| found.len()));
        Measured { engine, interval_ms, wal_bytes, ..self }
    }

    /// What its server says.
    pub(super) fn ask(&mut self, server: &ArchiverState) {
        let end = self.log_end.map(|end| end.place.0);
        self.lag_bytes = server.current.zip(end).map(|(at, end)| at.0.saturating_sub(end));
        self.slots.clone_from(&server.slots);
    }

    /// Until when the newest good backup is locked, where the store locks what it is given.
    pub(super) fn ask_for_lock(
        &mut self,
        opened: &Opened,
        entry: Option<&SourceEntry>,
        newest_good: Option<&str>,
    ) -> Result<()> {
        let store = opened.repository.store();
        let (Some(entry), Some(name)) = (entry, newest_good) else { return Ok(()) };
        if store.lock_period().is_some() {
            let object = opened.repository.object(&entry.folder, &format!("{name}.json"))?;
            self.locked_until = store.locked_until(&object)?;
        }
        Ok(())
    }
}

/// A moment as metrics have it.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
