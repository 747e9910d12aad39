//! Values for tests of views: sources and backups as a repository would show them.

use jiff::Timestamp;
use lifeboat_core::catalog::{SourceEntry, SourceRecord};
use lifeboat_core::drill::DrillRecord;
use lifeboat_core::manifest::{Artifact, Check, CheckOutcome, Condition};
use lifeboat_core::manifest::{Manifest, Method, SourceLabel};
use uuid::Uuid;

/// So many hours after midnight of 2026-01-08 in UTC.
pub(crate) fn hour(hours: i64) -> Timestamp {
    Timestamp::from_second(1_767_830_400 + hours * 3_600).expect("within the calendar")
}

/// A good backup of that hour, with 1,000 bytes stored.
pub(crate) fn backup(source: &str, hours: i64) -> Manifest {
    let at = hour(hours);
    let name = format!("{source}-{}", at.strftime("%Y%m%d-%H%M%S"));
    Manifest {
        format: 1,
        id: Uuid::from_u128(u128::from(at.as_second().unsigned_abs())),
        name: name.clone(),
        source: SourceLabel {
            id: Uuid::from_u128(7),
            name: source.to_owned(),
            kind: "sqlite".into(),
            host: "host".into(),
            location: format!("/srv/{source}.db"),
        },
        method: Method::Online,
        taken_at: at,
        completed_at: at,
        condition: Condition::Good,
        facts: serde_json::Map::new(),
        schema_version: None,
        rows: None,
        content_digest: None,
        artifacts: vec![Artifact {
            role: "database".into(),
            name: format!("{name}.db.zst"),
            compression: "zstd".into(),
            stored_bytes: 1_000,
            stored_sha256: String::new(),
            plain_bytes: 4_000,
            plain_sha256: String::new(),
            sealed: None,
            file: None,
        }],
        checks: vec![Check {
            name: "quick_check".into(),
            on: "stored-pages".into(),
            outcome: CheckOutcome::Passed,
            notes: Vec::new(),
            elapsed_ms: 1,
        }],
        timings_ms: [("capture".to_owned(), 20), ("store".to_owned(), 5)].into(),
        warnings: Vec::new(),
        parent: None,
        purpose: None,
        adopted: None,
        pin: None,
        pin_until: None,
        tool: "lifeboat 0.1.0".into(),
    }
}

/// A source with a good backup of each of these hours, the oldest first.
pub(crate) fn entry(source: &str, hours: &[i64]) -> SourceEntry {
    let backups: Vec<Manifest> = hours.iter().map(|hours| backup(source, *hours)).collect();
    let record = SourceRecord {
        format: 1,
        id: Uuid::from_u128(7),
        name: source.to_owned(),
        kind: "sqlite".into(),
        host: "host".into(),
        location: format!("/srv/{source}.db"),
    };
    SourceEntry { backups, ..SourceEntry::new(source.to_owned(), record) }
}

/// A drill of that hour.
pub(crate) fn drill(source: &str, hours: i64, passed: bool) -> DrillRecord {
    let at = hour(hours);
    let backup = backup(source, hours);
    DrillRecord {
        format: 1,
        id: Uuid::from_u128(u128::from(at.as_second().unsigned_abs())),
        installation: "0123456789abcdef".into(),
        public_key: "00".repeat(32),
        sequence: 1,
        previous: None,
        host: "host".into(),
        repository: Uuid::from_u128(9),
        repository_url: "file:///srv/backups".into(),
        source: backup.source.clone(),
        chosen: "newest".into(),
        from_kit: false,
        backup: Some(backup.name),
        backup_id: Some(backup.id),
        state: None,
        moment: Some(at),
        begun_at: at,
        ended_at: at,
        data_age_ms: Some(60_000),
        data_age_ms_max: Some(3_600_000),
        restore_ms: Some(1_500),
        restore_ms_max: None,
        stored_bytes: Some(1_000),
        plain_bytes: Some(4_000),
        phases: Vec::new(),
        checks: Vec::new(),
        passed,
        failure: (!passed).then(|| "rows are missing".into()),
        tool: "lifeboat 0.1.0".into(),
    }
}
