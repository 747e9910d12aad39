//! What the proofs of drills come to. Pure: records in, what is drawn out.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use lifeboat_core::drill::DrillRecord;

/// A proof, with its object in the repository.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    /// The repository's name.
    pub(super) place: &'a str,
    /// The object.
    pub(super) object: &'a str,
    /// What was signed.
    pub(super) record: &'a DrillRecord,
}

/// What the drills of a source came to in a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) source: String,
    pub(super) drills: usize,
    pub(super) passed: usize,
    pub(super) slowest_ms: u64,
    /// The oldest data that would have been lost.
    pub(super) oldest_ms: u64,
}

/// A month of proofs.
pub(super) struct Month<'a> {
    /// Its first day.
    pub(super) first: Date,
    /// The months before and after it that have proofs.
    pub(super) others: Vec<Date>,
    /// Its proofs, the newest first.
    pub(super) proofs: Vec<Shown<'a>>,
    /// What they come to, by source.
    pub(super) sums: Vec<Sum>,
    /// Sources of the configuration of which no drill passed.
    pub(super) missing: Vec<String>,
}

/// The month that was asked for, else that of today.
pub(super) fn month<'a>(
    all: &[Shown<'a>],
    zone: &TimeZone,
    (asked, today): (Option<&str>, Date),
    source: Option<&str>,
    configured: &[&str],
) -> Month<'a> {
    let of =
        |shown: &Shown<'_>| shown.record.ended_at.to_zoned(zone.clone()).date().first_of_month();
    let asked = asked.and_then(|text| format!("{text}-01").parse::<Date>().ok());
    let first = asked.unwrap_or(today).first_of_month();
    let is_asked = |name: &str| source.is_none_or(|source| source == name);
    let theirs = all.iter().filter(|shown| is_asked(&shown.record.source.name));
    let mut others: Vec<Date> = theirs.clone().map(of).filter(|month| *month != first).collect();
    others.sort();
    others.dedup();
    let mut proofs: Vec<Shown<'a>> = theirs.filter(|shown| of(shown) == first).copied().collect();
    proofs.sort_by_key(|shown| std::cmp::Reverse(shown.record.ended_at));
    let passed = |name: &str| {
        proofs.iter().any(|shown| shown.record.passed && shown.record.source.name == name)
    };
    let missing = configured.iter().filter(|name| is_asked(name) && !passed(name));
    Month {
        first,
        others,
        sums: sums(&proofs),
        missing: missing.map(|name| (*name).to_owned()).collect(),
        proofs,
    }
}

fn sums(proofs: &[Shown<'_>]) -> Vec<Sum> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for Shown { record, .. } in proofs {
        let sum = sums.entry(&record.source.name).or_insert_with(|| Sum {
            source: record.source.name.clone(),
            drills: 0,
            passed: 0,
            slowest_ms: 0,
            oldest_ms: 0,
        });
        sum.drills += 1;
        sum.passed += usize::from(record.passed);
        sum.slowest_ms = sum.slowest_ms.max(record.restore_ms.unwrap_or(0));
        sum.oldest_ms = sum.oldest_ms.max(record.data_age_ms.unwrap_or(0));
    }
    sums.into_values().collect()
}

/// Where each phase of a drill lies, in percent of all: where it begins, and how long it is.
pub(super) fn phases(record: &DrillRecord) -> Vec<(&str, u64, f64, f64)> {
    let all: u64 = record.phases.iter().map(|phase| phase.elapsed_ms).sum();
    let share = |time: u64| time as f64 * 100.0 / all.max(1) as f64;
    let mut before = 0;
    let one = |phase: &'_ lifeboat_core::drill::Phase| {
        let begins = share(before);
        before += phase.elapsed_ms;
        (begins, share(phase.elapsed_ms))
    };
    let places: Vec<(f64, f64)> = record.phases.iter().map(one).collect();
    let named = record.phases.iter().zip(places);
    named.map(|(phase, (at, width))| (phase.name.as_str(), phase.elapsed_ms, at, width)).collect()
}

#[cfg(test)]
mod tests {
    use lifeboat_core::drill::Phase;

    use super::*;
    use crate::web::made;

    fn record(source: &str, hours: i64, passed: bool) -> DrillRecord {
        made::drill(source, hours, passed)
    }

    #[test]
    fn a_month_has_its_proofs_and_says_what_is_missing() {
        let records = [
            record("app", -24 * 30, true),
            record("app", 0, true),
            record("app", 5, false),
            record("other", 2, false),
        ];
        let all: Vec<Shown<'_>> = records
            .iter()
            .map(|record| Shown { place: "local", object: "drills/x/1.json", record })
            .collect();
        let today = made::hour(0).to_zoned(TimeZone::UTC).date();
        let ask = |asked, source| {
            month(&all, &TimeZone::UTC, (asked, today), source, &["app", "other", "third"])
        };
        let now = ask(None, None);
        assert_eq!(now.proofs.len(), 3);
        assert_eq!(now.proofs[0].record.ended_at, made::hour(5));
        assert_eq!(now.missing, ["other", "third"]);
        assert_eq!((now.sums[0].drills, now.sums[0].passed), (2, 1));
        assert_eq!(now.others, ["2025-12-01".parse::<Date>().unwrap()]);
        let before = ask(Some("2025-12"), Some("app"));
        assert_eq!((before.proofs.len(), before.missing.len()), (1, 0));
        // What is no month is this one.
        assert_eq!(ask(Some("<b>"), None).first, now.first);
    }

    #[test]
    fn phases_fill_the_bar() {
        let mut record = record("app", 0, true);
        let phase = |name: &str, elapsed_ms| Phase { name: name.into(), elapsed_ms };
        record.phases = vec![phase("restoring", 300), phase("checking", 100)];
        let phases = phases(&record);
        assert_eq!(phases[1], ("checking", 100, 75.0, 25.0));
        record.phases = vec![phase("restoring", 0)];
        assert_eq!(super::phases(&record)[0].3, 0.0);
    }
}
