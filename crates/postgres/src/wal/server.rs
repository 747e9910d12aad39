//! How the archiver of a running server does: what waits, what failed, and what slots hold on to.

use jiff::Timestamp;
use lifeboat_core::Result;
use serde::Serialize;
use serde_json::Value;

use super::name::Lsn;
use crate::session::{Row, Session};

/// The state of a server's archiver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArchiverState {
    /// `archive_mode`: `on`, `always`, or `off`.
    pub mode: String,
    /// `archive_command`; empty where it has none, or a module archives.
    pub command: String,
    /// `archive_timeout`: after so long a file is ended in which something was committed, in
    /// milliseconds; 0 for never.
    pub timeout_ms: u64,
    /// How many attempts failed since the counters began.
    pub failed: u64,
    /// Whether the last attempt failed.
    pub is_failing: bool,
    /// The file that was archived last, and when.
    pub last_archived: Option<(String, Timestamp)>,
    /// The file that failed last, and when.
    pub last_failed: Option<(String, Timestamp)>,
    /// How many files wait, where the role may look.
    pub waiting: Option<u64>,
    /// How long the oldest of them has waited, in milliseconds.
    pub waiting_ms: Option<u64>,
    /// What `pg_wal` takes, in bytes, where the role may look.
    pub wal_bytes: Option<u64>,
    /// The data directory, where the role may see it.
    pub data: Option<String>,
    /// The end of what it wrote of its log.
    #[serde(serialize_with = "place")]
    pub current: Option<Lsn>,
    /// The replication slots.
    pub slots: Vec<Slot>,
}

fn place<S: serde::Serializer>(place: &Option<Lsn>, to: S) -> std::result::Result<S::Ok, S::Error> {
    place.map(|place| place.to_string()).serialize(to)
}

/// What is wrong with an archiver, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The words.
    pub text: String,
    /// Whether the server will stop, or has lost what was not archived, if nobody does anything.
    pub is_urgent: bool,
}

impl Complaint {
    fn new(text: impl Into<String>, is_urgent: bool) -> Complaint {
        Complaint { text: text.into(), is_urgent }
    }
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// As its words.
impl Serialize for Complaint {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it now.
    pub is_active: bool,
    /// How much of the log it holds on to, in bytes.
    pub retained_bytes: u64,
    /// What the server says of that: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
}

impl ArchiverState {
    /// Asks a server.
    pub fn read(session: &mut Session) -> Result<ArchiverState> {
        let row = session.row(
            "SELECT pg_catalog.current_setting('archive_mode') AS mode, \
             1000 * (SELECT setting::bigint FROM pg_catalog.pg_settings \
             WHERE name = 'archive_timeout') AS timeout_ms, \
             pg_catalog.current_setting('archive_command') AS command, failed_count AS failed, \
             failed_count > 0 AND (last_archived_time IS NULL \
             OR last_failed_time > last_archived_time) AS failing, \
             last_archived_wal, pg_catalog.to_char(last_archived_time AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS last_archived_time, \
             last_failed_wal, pg_catalog.to_char(last_failed_time AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS last_failed_time, \
             pg_catalog.has_function_privilege('pg_catalog.pg_ls_archive_statusdir()', 'EXECUTE') \
             AND pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE') \
             AS may_look, \
             (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_lsn() END)::text AS current, \
             CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'MEMBER') \
             THEN pg_catalog.current_setting('data_directory', true) END AS data \
             FROM pg_catalog.pg_stat_archiver",
        )?;
        let mut state = ArchiverState {
            mode: text(&row, "mode").unwrap_or_default(),
            timeout_ms: number(&row, "timeout_ms").unwrap_or(0),
            // "(disabled)" is what a server says that does not archive.
            command: text(&row, "command").filter(|text| text != "(disabled)").unwrap_or_default(),
            failed: number(&row, "failed").unwrap_or(0),
            is_failing: row.get("failing") == Some(&Value::Bool(true)),
            last_archived: file_and_time(&row, "last_archived"),
            last_failed: file_and_time(&row, "last_failed"),
            data: text(&row, "data"),
            current: text(&row, "current").and_then(|text| text.parse().ok()),
            ..ArchiverState::default()
        };
        if row.get("may_look") == Some(&Value::Bool(true)) {
            let row = session.row(
                "SELECT count(*) AS waiting, pg_catalog.round(1000 * extract(epoch FROM \
                 pg_catalog.now() - min(modification)))::bigint AS waiting_ms, \
                 (SELECT pg_catalog.sum(size)::bigint FROM pg_catalog.pg_ls_waldir()) AS wal_bytes \
                 FROM pg_catalog.pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
            )?;
            state.waiting = number(&row, "waiting");
            state.waiting_ms = number(&row, "waiting_ms");
            state.wal_bytes = number(&row, "wal_bytes");
        }
        let slots = session.rows(
            "SELECT slot_name AS name, active, coalesce(wal_status, '') AS wal_status, \
             greatest(0, pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
             THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, \
             restart_lsn))::bigint AS retained FROM pg_catalog.pg_replication_slots ORDER BY 1",
        )?;
        state.slots = slots
            .iter()
            .map(|row| Slot {
                name: text(row, "name").unwrap_or_default(),
                is_active: row.get("active") == Some(&Value::Bool(true)),
                retained_bytes: number(row, "retained").unwrap_or(0),
                wal_status: text(row, "wal_status").unwrap_or_default(),
            })
            .collect();
        Ok(state)
    }

    /// What is wrong with it; `free_bytes` is what the disk of its `pg_wal` has left,
    /// where that is known.
    pub fn complaints(&self, free_bytes: Option<u64>) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        let mut complain = |is_urgent: bool, text: String| {
            complaints.push(Complaint::new(text, is_urgent));
        };
        if self.mode == "off" {
            complain(false, "archive_mode is off: no log comes into the repository".to_owned());
        } else if self.is_failing {
            let file = self.last_failed.as_ref().map(|(file, _)| file.as_str()).unwrap_or("a file");
            let times = self.failed;
            let text = format!(
                "the archiver fails, {times} times so far, the last time at {file}: the server's log \
                 says why"
            );
            complain(false, text);
        }
        let (waiting, waiting_ms) = (self.waiting.unwrap_or(0), self.waiting_ms.unwrap_or(0));
        if waiting >= WAITING_MAX || (waiting > 0 && waiting_ms > WAITING_MS_MAX) {
            let minutes = waiting_ms / 60_000;
            // One that makes progress is slow, and not dead.
            let is_dead = waiting_ms > WAITING_MS_MAX;
            complain(
                is_dead,
                format!("{waiting} files wait to be archived, the oldest for {minutes} minutes"),
            );
        }
        if let (Some(wal_bytes), Some(free_bytes)) = (self.wal_bytes, free_bytes)
            && waiting > 0
            && free_bytes < wal_bytes
        {
            let (wal, free) = (wal_bytes >> 20, free_bytes >> 20);
            let text = format!(
                "pg_wal takes {wal} MiB and its disk has {free} MiB left: when it is full, the server \
                 ends"
            );
            complain(true, text);
        }
        for slot in &self.slots {
            let name = &slot.name;
            let mib = slot.retained_bytes >> 20;
            if slot.wal_status == "lost" {
                complain(true, format!("the slot {name} has lost log that was not received"));
            } else if slot.wal_status == "unreserved"
                || (!slot.is_active && slot.retained_bytes > IDLE_SLOT_BYTES_MAX)
                || free_bytes.is_some_and(|free| slot.retained_bytes > free)
            {
                let is_filling = free_bytes.is_some_and(|free| slot.retained_bytes > free);
                complain(is_filling, format!("the slot {name} holds on to {mib} MiB of the log"));
            }
        }
        complaints
    }
}

/// So many files may wait.
const WAITING_MAX: u64 = 32;
/// So long a file may wait, in milliseconds.
const WAITING_MS_MAX: u64 = 10 * 60_000;
/// A slot that nobody uses may hold on to so much.
const IDLE_SLOT_BYTES_MAX: u64 = 1 << 30;

fn text(row: &Row, name: &str) -> Option<String> {
    row.get(name)?.as_str().map(str::to_owned)
}

fn number(row: &Row, name: &str) -> Option<u64> {
    row.get(name)?.as_u64()
}

fn file_and_time(row: &Row, name: &str) -> Option<(String, Timestamp)> {
    let time = text(row, &format!("{name}_time"))?.parse().ok()?;
    Some((text(row, &format!("{name}_wal"))?, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_archiver_and_a_filling_disk_are_told() {
        let good = ArchiverState { mode: "on".into(), ..ArchiverState::default() };
        assert!(good.complaints(Some(0)).is_empty());
        let off = ArchiverState { mode: "off".into(), ..ArchiverState::default() };
        assert_eq!(off.complaints(None).len(), 1);
        let failing = ArchiverState { is_failing: true, failed: 3, ..good.clone() };
        assert!(failing.complaints(None)[0].text.contains("3 times"));
        let full = ArchiverState {
            waiting: Some(2),
            waiting_ms: Some(11 * 60_000),
            wal_bytes: Some(1 << 30),
            ..good.clone()
        };
        assert_eq!(full.complaints(Some(1 << 29)).len(), 2);
        assert!(full.complaints(Some(1 << 29)).iter().all(|complaint| complaint.is_urgent));
        assert!(!failing.complaints(None)[0].is_urgent);
        assert_eq!(full.complaints(Some(1 << 31)).len(), 1);
        let slot = |is_active, retained_bytes, wal_status: &str| {
            let (name, wal_status) = ("s".to_owned(), wal_status.to_owned());
            let slots = vec![Slot { name, is_active, retained_bytes, wal_status }];
            ArchiverState { slots, ..good.clone() }.complaints(Some(1 << 40)).len()
        };
        assert_eq!(slot(true, 1 << 35, "reserved"), 0);
        assert_eq!(slot(false, 1 << 35, "reserved"), 1);
        assert_eq!(slot(true, 5, "lost"), 1);
    }
}
