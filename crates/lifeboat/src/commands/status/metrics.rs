//! The status as Prometheus reads it: from a file by way of node_exporter, or from anything that
//! can print.
//!
//! A moment that never was has no sample: 0 would be a time in 1970, and an alert that nobody
//! understands. What is measured from now on carries its moment, so that a file which nobody writes
//! any more grows old by itself.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::status::SourceStatus;

use super::disk::Disk;
use super::{Row, State};
use crate::config::schedule::Schedule;
use crate::sources::Target;

/// What metrics tell beyond the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// The kind of the source: "sqlite".
    engine: String,
    /// When the oldest restorable backup was taken.
    oldest_at: Option<Timestamp>,
    /// Bytes of the newest good backup, in the repository and restored.
    newest_bytes: Option<(u64, u64)>,
    /// Milliseconds that it took.
    took_ms: Option<u64>,
    /// How long a restore may take, in milliseconds.
    rto_ms_max: Option<u64>,
    /// The time between two runs of its schedule, in milliseconds.
    interval_ms: Option<u64>,
}

impl Measured {
    /// What a repository says of a source.
    pub(super) fn of(entry: Option<&SourceEntry>, status: &SourceStatus<'_>) -> Self {
        let newest = status.newest_good;
        let took_ms = newest.map(|newest| newest.completed_at.duration_since(newest.taken_at));
        let oldest = entry.and_then(|entry| entry.backups.first());
        Measured {
            engine: newest.or(oldest).map_or(String::new(), |one| one.source.kind.clone()),
            oldest_at: oldest.map(|oldest| oldest.taken_at),
            newest_bytes: newest.map(|newest| (newest.stored_bytes(), newest.plain_bytes())),
            took_ms: took_ms.and_then(|took| u64::try_from(took.as_millis()).ok()),
            rto_ms_max: None,
            interval_ms: None,
        }
    }

    /// The same with what the configuration promises.
    pub(super) fn promised(self, target: &Target, now: Timestamp, zone: &TimeZone) -> Self {
        let schedule = target.schedule.as_deref().and_then(|text| Schedule::read(text).ok());
        let interval_ms = schedule.and_then(|schedule| {
            let next = schedule.next(now, zone)?;
            // The one before: on a Monday that of Friday, where weekends are free.
            let before = schedule.newest(Timestamp::MIN, now, zone)?;
            u64::try_from(next.duration_since(before).as_millis()).ok()
        });
        let engine = target.source.kind().to_owned();
        Measured { engine, rto_ms_max: target.rto_ms, interval_ms, ..self }
    }
}

/// A metric: its name without the prefix, what it is, and its value for a row.
type OfRow = (&'static str, &'static str, fn(&Row) -> Option<f64>);

const OF_ROWS: &[OfRow] = &[
    ("last_success_timestamp_seconds", "When the newest good backup was taken.", |row| {
        row.taken_at.map(seconds)
    }),
    ("last_attempt_timestamp_seconds", "When the last backup on this host ended.", |row| {
        row.last_attempt.as_ref().map(|last| seconds(last.ended_at)).or(row.taken_at.map(seconds))
    }),
    ("last_run_status", "1 if the last backup that is known of succeeded, else 0.", |row| {
        let failed = row.last_attempt.as_ref().is_some_and(|last| last.has_failed());
        (row.last_attempt.is_some() || row.taken_at.is_some()).then_some(f64::from(!failed))
    }),
    ("run_duration_seconds", "How long the newest good backup took.", |row| {
        row.measured.took_ms.map(of_ms)
    }),
    ("expected_interval_seconds", "The time between two runs of the schedule.", |row| {
        row.measured.interval_ms.map(of_ms)
    }),
    ("newest_point_timestamp_seconds", "The newest moment that can be restored.", |row| {
        row.log_held.or(row.taken_at).map(seconds)
    }),
    ("oldest_point_timestamp_seconds", "When the oldest backup was taken.", |row| {
        row.measured.oldest_at.map(seconds)
    }),
    ("rpo_seconds", "How old the newest restorable moment was when this was measured.", |row| {
        row.age_ms.map(of_ms)
    }),
    ("rpo_objective_seconds", "How old it may be.", |row| row.age_ms_max.map(of_ms)),
    ("rto_measured_seconds", "How long the restore of the last drill took.", |row| {
        row.drills.restore_ms().map(of_ms)
    }),
    ("rto_objective_seconds", "How long a restore may take.", |row| {
        row.measured.rto_ms_max.map(of_ms)
    }),
    ("drill_status", "1 if the last drill passed, 0 if it failed.", |row| {
        row.drills.has_passed().map(f64::from)
    }),
    ("drill_last_success_timestamp_seconds", "When a drill passed last.", |row| {
        row.drills.proven_at().map(seconds)
    }),
    ("drill_interval_objective_seconds", "How often a drill must pass.", |row| {
        row.drills.every_ms().map(of_ms)
    }),
    ("stored_bytes", "What all backups take in the repository.", |row| {
        Some(row.stored_bytes as f64)
    }),
    ("last_backup_stored_bytes", "What the newest good backup takes there.", |row| {
        row.measured.newest_bytes.map(|(stored, _)| stored as f64)
    }),
    ("last_backup_bytes", "What the newest good backup takes when restored.", |row| {
        row.measured.newest_bytes.map(|(_, plain)| plain as f64)
    }),
    ("copies_lacking", "Backups that another repository has and this one lacks.", |row| {
        Some(row.lacking as f64)
    }),
    ("archiver_problems", "What is wrong with the archiver of its server.", |row| {
        Some(row.archiver.len() as f64)
    }),
    ("prune_waits", "1 if a prune waits for an approval.", |row| {
        Some(f64::from(row.prune_waits.is_some()))
    }),
    (
        "stale",
        "1 if the newest restorable moment is older than promised, or there is none.",
        |row| Some(f64::from(row.state != State::Fresh)),
    ),
];

/// What is told of a repository's disk.
type OfDisk = (&'static str, &'static str, fn(&Disk) -> u64);

const OF_DISKS: &[OfDisk] = &[
    ("target_free_bytes", "What is left on the disk of a repository.", |disk| {
        disk.space.free_bytes
    }),
    ("target_used_bytes", "What is used of the disk of a repository.", |disk| {
        disk.space.used_bytes
    }),
];

/// The same under the names that the alert rules of a chatbot have always had.
const OF_GUIDE: &[OfRow] = &[
    ("last_backup_timestamp_seconds", "When the newest good backup was taken.", |row| {
        row.taken_at.map(seconds)
    }),
    ("backup_status", "1 if the last backup succeeded and the newest is fresh, else 0.", |row| {
        let failed = row.last_attempt.as_ref().is_some_and(|last| last.has_failed());
        Some(f64::from(!failed && row.state == State::Fresh))
    }),
    ("last_backup_size_bytes", "What the newest good backup takes.", |row| {
        row.measured.newest_bytes.map(|(stored, _)| stored as f64)
    }),
    ("backup_count", "How many backups there are.", |row| Some(row.backups as f64)),
    ("offsite_backup_status", "1 if the newest backup elsewhere is fresh, else 0.", |row| {
        let is_elsewhere = !row.repository.starts_with("file://");
        is_elsewhere.then(|| f64::from(row.state == State::Fresh))
    }),
];

/// All metrics, in the text format of Prometheus. `guide` is the prefix of the second set of names.
pub(crate) fn text(
    rows: &[Row],
    disks: &[Disk],
    unreadable: usize,
    (now, guide): (Timestamp, Option<&str>),
) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    begin(&mut text, "lifeboat_build_info", "The version of Lifeboat.");
    let _ = writeln!(text, "lifeboat_build_info{{version=\"{version}\"}} 1");
    let one = |text: &mut String, name: &str, help: &str, value: f64| {
        begin(text, name, help);
        let _ = writeln!(text, "{name} {value}");
    };
    one(&mut text, "lifeboat_collected_timestamp_seconds", "When this was measured.", seconds(now));
    let help = "Repositories that could not be read.";
    one(&mut text, "lifeboat_targets_unreadable", help, unreadable as f64);
    begin(&mut text, "lifeboat_source_info", "Each source in each repository that takes it.");
    for row in rows {
        let _ = writeln!(text, "lifeboat_source_info{} 1", labels(row, None));
    }
    of_rows(&mut text, "lifeboat", OF_ROWS, rows);
    begin(&mut text, "lifeboat_points", "Backups, by what is known of them.");
    for row in rows {
        let not_good = row.unreadable + row.in_future + row.newer_doubtful;
        let states = [
            ("listed", row.backups),
            ("unreadable", row.unreadable),
            ("future", row.in_future),
            ("doubtful", row.newer_doubtful),
            ("not_good", not_good),
        ];
        for (state, count) in states {
            let _ = writeln!(text, "lifeboat_points{} {count}", labels(row, Some(state)));
        }
    }
    for (name, help, value) in OF_DISKS {
        let name = format!("lifeboat_{name}");
        begin(&mut text, &name, help);
        for disk in disks {
            let target = escaped(&disk.repository);
            let _ = writeln!(text, "{name}{{target=\"{target}\"}} {}", value(disk));
        }
    }
    if let Some(prefix) = guide {
        of_rows(&mut text, prefix, OF_GUIDE, rows);
    }
    text
}

fn of_rows(text: &mut String, prefix: &str, metrics: &[OfRow], rows: &[Row]) {
    for (name, help, value) in metrics {
        let name = format!("{prefix}_{name}");
        begin(text, &name, help);
        for row in rows {
            if let Some(value) = value(row) {
                let _ = writeln!(text, "{name}{} {value}", labels(row, None));
            }
        }
    }
}

fn begin(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

fn labels(row: &Row, state: Option<&str>) -> String {
    let (source, target) = (escaped(&row.source), escaped(&row.repository));
    let engine = escaped(&row.measured.engine);
    let state = state.map_or(String::new(), |state| format!(",state=\"{state}\""));
    format!("{{source=\"{source}\",engine=\"{engine}\",target=\"{target}\"{state}}}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn of_ms(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}
