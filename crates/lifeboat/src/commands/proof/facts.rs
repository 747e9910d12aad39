//! What a proof says in one line each, for the report of a month and for the page of one proof.

use jiff::Timestamp;
use lifeboat_core::drill::DrillRecord;

use crate::ui::units;

/// The backup or state that was restored.
pub(crate) fn restored(record: &DrillRecord) -> &str {
    record.state.as_deref().or(record.backup.as_deref()).unwrap_or("nothing")
}

/// What was measured, with what was promised, as pairs; `moment` writes a time.
pub(crate) fn measured(
    record: &DrillRecord,
    moment: impl Fn(Timestamp) -> String,
) -> Vec<(&'static str, String)> {
    let within = |took: u64, most: Option<u64>| match most {
        Some(most) => format!("{}, promised {}", units::duration(took), units::duration(most)),
        None => units::duration(took),
    };
    let restore = record.restore_ms.map(|took| within(took, record.restore_ms_max));
    let age = record.data_age_ms.map(|age| within(age, record.data_age_ms_max));
    let facts = [
        ("Shows", record.moment.map(moment)),
        ("Restore took (RTO)", restore),
        ("Data was old (RPO)", age),
        ("Size", record.plain_bytes.map(units::bytes)),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
