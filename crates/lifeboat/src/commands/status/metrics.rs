//! The status as Prometheus reads it: from a file by way of node_exporter, or from anything that
//! can print.
//!
//! A moment that never was has no sample: 0 would be a time in 1970, and an alert that nobody
//! understands. What is measured from now on carries its moment, so that a file which nobody writes
//! any more grows old by itself.

use std::fmt::Write as _;

use super::measured::seconds;
use super::overall::{Reached, Told};
use super::row::{Row, State};
use crate::standing::Outcome;

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
    ("newest_point_timestamp_seconds", "The moment up to which nothing would be lost.", |row| {
        row.safe_until().map(seconds)
    }),
    ("oldest_point_timestamp_seconds", "When the oldest backup was taken.", |row| {
        row.measured.oldest_at.map(seconds)
    }),
    ("rpo_seconds", "How old the newest restorable moment was when this was measured.", |row| {
        row.age_ms.map(of_ms)
    }),
    ("rpo_objective_seconds", "How old it may be.", |row| row.age_ms_max.map(of_ms)),
    ("run_bytes", "What the last backup that was made on this host added.", |row| {
        row.last_attempt.as_ref()?.added_bytes.map(|bytes| bytes as f64)
    }),
    ("wal_gap", "1 if something is missing in its log.", |row| {
        Some(f64::from(row.measured.has_gap))
    }),
    ("wal_archive_lag_bytes", "What the server has of its log and the repository lacks.", |row| {
        row.measured.lag_bytes.map(|bytes| bytes as f64)
    }),
    ("sqlite_wal_bytes", "The size of the -wal beside the database.", |row| {
        row.measured.wal_bytes.map(|bytes| bytes as f64)
    }),
    (
        "immutable_until_timestamp_seconds",
        "Until when nobody can delete the newest good backup.",
        |row| row.measured.locked_until.map(seconds),
    ),
    ("rto_measured_seconds", "How long the restore of the last drill took.", |row| {
        row.drills.restore_ms().map(of_ms)
    }),
    (
        "rto_seconds",
        "How long a restore takes: as the last drill, in proportion to its size.",
        |row| row.objectives.rto.measured_ms.map(of_ms),
    ),
    ("rto_objective_seconds", "How long a restore may take.", |row| {
        row.objectives.rto.promised_ms.map(of_ms)
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

/// What is told of a repository.
type OfTarget = (&'static str, &'static str, fn(&Told<'_>, &Reached) -> Option<f64>);

const OF_TARGETS: &[OfTarget] = &[
    ("target_up", "1 if the repository can be opened and read.", |_, one| {
        Some(f64::from(one.is_up))
    }),
    ("target_free_bytes", "What is left on the disk of a repository.", |standing, one| {
        standing.space(one).map(|space| space.free_bytes as f64)
    }),
    ("target_used_bytes", "What is used of the disk of a repository.", |standing, one| {
        standing.space(one).map(|space| space.used_bytes as f64)
    }),
    (
        "target_full_eta_seconds",
        "In how long the disk of a repository will be full, where that is foreseen.",
        |standing, one| {
            let full_at = one.forecast?.full_at?;
            Some(full_at.duration_since(standing.now).as_secs_f64().max(0.0))
        },
    ),
    ("clock_skew_seconds", "How far the clock of a store is ahead of this host's.", |_, one| {
        one.clock_ahead_ms.map(|ahead_ms| ahead_ms as f64 / 1000.0)
    }),
];

/// The same under the names that the alert rules of a chatbot have always had.
const OF_GUIDE: &[OfRow] = &[
    ("last_backup_timestamp_seconds", "When the newest good backup was taken.", |row| {
        row.taken_at.map(seconds)
    }),
    (
        "backup_status",
        "1 if the last backup succeeded and the newest is fresh, else 0. Nothing where the newest \
         is good and nothing says how old it may be.",
        |row| {
            let failed = row.last_attempt.as_ref().is_some_and(|last| last.has_failed());
            // 1 for ever would be a lie in waiting.
            let is_known = failed || row.state != State::Fresh || row.age_ms_max.is_some();
            is_known.then(|| f64::from(!failed && row.state == State::Fresh))
        },
    ),
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
pub(crate) fn text(standing: &Told<'_>, guide: Option<&str>) -> String {
    let (mut text, rows) = (String::new(), standing.rows);
    let version = env!("CARGO_PKG_VERSION");
    begin(&mut text, "lifeboat_build_info", "The version of Lifeboat.", GAUGE);
    let _ = writeln!(text, "lifeboat_build_info{{version=\"{version}\"}} 1");
    let one = |text: &mut String, name: &str, help: &str, value: f64| {
        begin(text, name, help, GAUGE);
        let _ = writeln!(text, "{name} {value}");
    };
    let now = seconds(standing.now);
    one(&mut text, "lifeboat_collected_timestamp_seconds", "When this was measured.", now);
    let unreadable = standing.reached.iter().filter(|one| !one.is_up).count();
    let help = "Repositories that could not be read.";
    one(&mut text, "lifeboat_targets_unreadable", help, unreadable as f64);
    begin(
        &mut text,
        "lifeboat_source_info",
        "Each source in each repository that takes it.",
        GAUGE,
    );
    for row in rows {
        let _ = writeln!(text, "lifeboat_source_info{} 1", labels(row, &[]));
    }
    of_rows(&mut text, "lifeboat", OF_ROWS, rows);
    points(&mut text, rows);
    counters(&mut text, rows);
    promises(&mut text, rows);
    slots(&mut text, rows);
    for (name, help, value) in OF_TARGETS {
        let name = format!("lifeboat_{name}");
        begin(&mut text, &name, help, GAUGE);
        for one in standing.reached {
            if let Some(value) = value(standing, one) {
                let target = escaped(&one.repository);
                let _ = writeln!(text, "{name}{{target=\"{target}\"}} {value}");
            }
        }
    }
    told(standing, &mut text);
    alerts(standing, &mut text);
    if let Some(prefix) = guide {
        of_rows(&mut text, prefix, OF_GUIDE, rows);
    }
    text
}

fn points(text: &mut String, rows: &[Row]) {
    begin(text, "lifeboat_points", "Backups, by what is known of them.", GAUGE);
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
            let _ = writeln!(text, "lifeboat_points{} {count}", labels(row, &[("state", state)]));
        }
    }
}

/// What grows with each backup that this host makes.
fn counters(text: &mut String, rows: &[Row]) {
    let name = "lifeboat_runs_total";
    begin(text, name, "Backups that were made on this host, by how they ended.", COUNTER);
    let totals = |row: &Row| row.last_attempt_ever.as_ref().map(|last| last.totals);
    for row in rows {
        let Some(totals) = totals(row) else { continue };
        let results = [("done", totals.done), ("failed", totals.failed), ("absent", totals.absent)];
        for (result, count) in results {
            let _ = writeln!(text, "{name}{} {count}", labels(row, &[("result", result)]));
        }
    }
    let name = "lifeboat_added_bytes_total";
    begin(text, name, "What backups of this host added to the repository.", COUNTER);
    for row in rows {
        if let Some(totals) = totals(row) {
            let _ = writeln!(text, "{name}{} {}", labels(row, &[]), totals.added_bytes);
        }
    }
}

/// Whether each promise is kept; nothing where none was made, 0 also where it was never measured.
fn promises(text: &mut String, rows: &[Row]) {
    let name = "lifeboat_promise_kept";
    begin(text, name, "1 if what was promised was measured and is kept, else 0.", GAUGE);
    for row in rows {
        for (promise, objective) in [("rpo", &row.objectives.rpo), ("rto", &row.objectives.rto)] {
            if objective.promised_ms.is_some() {
                let is_kept = f64::from(objective.outcome == Outcome::Kept);
                let labels = labels(row, &[("promise", promise)]);
                let _ = writeln!(text, "{name}{labels} {is_kept}");
            }
        }
    }
}

fn slots(text: &mut String, rows: &[Row]) {
    let name = "lifeboat_replication_slot_retained_bytes";
    begin(text, name, "How much of its log a replication slot holds on to.", GAUGE);
    for row in rows {
        for slot in &row.measured.slots {
            let labels = labels(row, &[("slot", &slot.name)]);
            let _ = writeln!(text, "{name}{labels} {}", slot.retained_bytes);
        }
    }
}

/// Whether those who are to be told were.
fn told(standing: &Told<'_>, text: &mut String) {
    let name = "lifeboat_notify_failures_total";
    begin(text, name, "Deliveries to a notifier that failed.", COUNTER);
    for (notifier, deliveries, _) in standing.notifiers {
        let notifier = escaped(notifier);
        let _ = writeln!(text, "{name}{{notifier=\"{notifier}\"}} {}", deliveries.failures);
    }
    let name = "lifeboat_notify_waiting";
    begin(text, name, "Messages that wait for a notifier.", GAUGE);
    for (notifier, _, waiting) in standing.notifiers {
        let notifier = escaped(notifier);
        let _ = writeln!(text, "{name}{{notifier=\"{notifier}\"}} {waiting}");
    }
}

/// All that `watch` would tell of now.
fn alerts(standing: &Told<'_>, text: &mut String) {
    let name = "lifeboat_alert";
    begin(text, name, "1 for each thing that is wrong now.", GAUGE);
    let mut seen = std::collections::BTreeSet::new();
    for alert in standing.alerts {
        let (code, severity) = (alert.code.word(), alert.severity.word());
        let (source, target) = (escaped(&alert.source), escaped(&alert.repository));
        let line = format!(
            "{name}{{source=\"{source}\",target=\"{target}\",code=\"{code}\",\
             severity=\"{severity}\"}} 1"
        );
        // Two notifiers may be in the same trouble: a series is told once.
        if seen.insert(line.clone()) {
            let _ = writeln!(text, "{line}");
        }
    }
}

fn of_rows(text: &mut String, prefix: &str, metrics: &[OfRow], rows: &[Row]) {
    for (name, help, value) in metrics {
        let name = format!("{prefix}_{name}");
        begin(text, &name, help, GAUGE);
        for row in rows {
            if let Some(value) = value(row) {
                let _ = writeln!(text, "{name}{} {value}", labels(row, &[]));
            }
        }
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

fn begin(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn labels(row: &Row, more: &[(&str, &str)]) -> String {
    let (source, target) = (escaped(&row.source), escaped(&row.repository));
    let engine = escaped(&row.measured.engine);
    let more: String =
        more.iter().map(|(name, value)| format!(",{name}=\"{}\"", escaped(value))).collect();
    format!("{{source=\"{source}\",engine=\"{engine}\",target=\"{target}\"{more}}}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn of_ms(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}
