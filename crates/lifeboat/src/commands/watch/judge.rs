//! What is wrong with a source, by what its repository shows. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::config::values::Period;
use crate::ui::units;

/// So many backups are needed before one can be unusual.
const SAMPLES_MIN: usize = 3;
/// By so much may it differ from the median, in percent.
const DIFFERENCE_PERCENT_MAX: u64 = 50;
/// A smaller difference is never unusual: bytes, rows.
const SLACK: (u64, u64) = (64 << 10, 1_000);

/// What was promised of a source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promise {
    /// How old its newest restorable moment may be.
    pub(super) age_ms_max: Option<u64>,
    /// How long ago a drill may have passed.
    pub(super) drill_ms_max: Option<u64>,
}

/// A good backup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was taken.
    pub(super) taken_at: Timestamp,
    /// Its bytes when restored.
    pub(super) bytes: u64,
    /// The rows of all tables, where they were counted.
    pub(super) rows: Option<u64>,
}

/// What a repository shows of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Its name.
    pub(super) source: String,
    /// What was promised.
    pub(super) promise: Promise,
    /// The newest moment that can be restored.
    pub(super) newest_at: Option<Timestamp>,
    /// Its good backups, oldest first.
    pub(super) samples: Vec<Sample>,
    /// Why the last drill failed, if it did.
    pub(super) drill_failure: Option<String>,
    /// When one passed last.
    pub(super) proven_at: Option<Timestamp>,
    /// What is missing in the log of the newest backup.
    pub(super) gap: Option<String>,
    /// Backups that are dated in the future.
    pub(super) in_future: usize,
    /// Manifests that cannot be read.
    pub(super) unreadable: usize,
}

/// How bad it is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Too old, or never.
    Stale,
    /// A restore was seen to fail, or would.
    Broken,
    /// Something to look at.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Complaint {
    /// How bad it is.
    pub(super) severity: Severity,
    /// The source; empty for the repository.
    pub(super) source: String,
    /// What is wrong.
    pub(super) what: String,
    /// The command that mends it, or says more.
    pub(super) command: String,
}

impl Complaint {
    /// One about a source, or about the repository where that is empty.
    pub(super) fn new(
        severity: Severity,
        source: &str,
        what: impl Into<String>,
        command: impl Into<String>,
    ) -> Self {
        Complaint {
            severity,
            source: source.to_owned(),
            what: what.into(),
            command: command.into(),
        }
    }
}

/// All that is wrong with a source.
pub(super) fn judge(facts: &Facts, now: Timestamp) -> Vec<Complaint> {
    let source = facts.source.as_str();
    let word = units::shell_word(source);
    let mut found = Vec::new();
    let mut add = |severity, what: String, command: String| {
        found.push(Complaint::new(severity, source, what, command));
    };
    let age_ms = |at: Timestamp| u64::try_from(now.duration_since(at).as_millis()).unwrap_or(0);
    let backup = format!("lifeboat backup {word}");
    match (facts.newest_at, facts.promise.age_ms_max) {
        (None, _) => add(Severity::Stale, "it was never backed up here".to_owned(), backup),
        (Some(at), Some(age_ms_max)) if age_ms(at) > age_ms_max => {
            let age = units::coarse(age_ms(at));
            let most = Period { milliseconds: age_ms_max };
            let what = format!("the newest moment that can be restored is {age} old, of {most}");
            add(Severity::Stale, what, backup);
        }
        (Some(_), Some(_)) => {}
        (Some(_), None) => {
            let what = "nothing says how old its newest backup may be".to_owned();
            add(Severity::Warning, what, "lifeboat watch --max-age 26h".to_owned());
        }
    }
    let drill = format!("lifeboat drill {word}");
    if let Some(why) = &facts.drill_failure {
        add(Severity::Broken, format!("the last drill failed: {}", units::one_line(why)), drill);
    } else if let Some(most) = facts.promise.drill_ms_max
        && facts.proven_at.is_none_or(|at| age_ms(at) > most)
    {
        let every = Period { milliseconds: most };
        add(Severity::Warning, format!("no drill passed within the {every} of its promise"), drill);
    }
    if let Some(gap) = &facts.gap {
        add(
            Severity::Broken,
            format!("its log has a gap: {gap}"),
            format!("lifeboat verify {word}"),
        );
    }
    if facts.in_future > 0 {
        let what = format!("{} backups are dated in the future: a clock is wrong", facts.in_future);
        add(Severity::Warning, what, format!("lifeboat list {word}"));
    }
    if facts.unreadable > 0 {
        let what = format!("{} manifests cannot be read", facts.unreadable);
        add(Severity::Warning, what, format!("lifeboat verify {word}"));
    }
    for what in unusual(&facts.samples) {
        add(Severity::Warning, what, format!("lifeboat list {word}"));
    }
    found
}

/// What of the newest backup is far from the median of those before it: of the same weekday, where
/// there are enough, as weekends may differ.
fn unusual(samples: &[Sample]) -> Vec<String> {
    let Some((newest, before)) = samples.split_last() else { return Vec::new() };
    let weekday = |sample: &Sample| sample.taken_at.to_zoned(TimeZone::UTC).weekday();
    let same: Vec<&Sample> =
        before.iter().filter(|sample| weekday(sample) == weekday(newest)).collect();
    let (of, whom) = match same.len() >= SAMPLES_MIN {
        true => (same, "the same weekday"),
        false => (before.iter().collect(), "before"),
    };
    let mut found = Vec::new();
    let bytes = median(of.iter().map(|sample| sample.bytes).collect());
    if let Some(usual) = bytes.filter(|usual| is_far(newest.bytes, *usual, SLACK.0)) {
        let (newest, usual) = (units::bytes(newest.bytes), units::bytes(usual));
        found.push(format!("the newest backup has {newest}, those of {whom} have {usual}"));
    }
    let rows = median(of.iter().filter_map(|sample| sample.rows).collect());
    if let (Some(usual), Some(rows)) = (rows, newest.rows)
        && is_far(rows, usual, SLACK.1)
    {
        let (rows, usual) = (units::count(rows), units::count(usual));
        found.push(format!("the newest backup has {rows} rows, those of {whom} have {usual}"));
    }
    found
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    (values.len() >= SAMPLES_MIN).then(|| values[values.len() / 2])
}

fn is_far(value: u64, usual: u64, slack: u64) -> bool {
    let difference = value.abs_diff(usual);
    let is_much =
        u128::from(difference) * 100 > u128::from(usual) * u128::from(DIFFERENCE_PERCENT_MAX);
    difference > slack && is_much
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn good() -> Facts {
        let newest_at = Some(at("2026-03-02T02:00:00Z"));
        let promise = Promise { age_ms_max: Some(86_400_000), drill_ms_max: None };
        Facts { source: "app".to_owned(), promise, newest_at, ..Facts::default() }
    }

    fn said(facts: &Facts) -> Vec<(Severity, String)> {
        let complaints = judge(facts, at("2026-03-02T12:00:00Z")).into_iter();
        complaints.map(|complaint| (complaint.severity, complaint.what)).collect()
    }

    #[test]
    fn what_is_as_promised_is_nothing_to_tell() {
        assert_eq!(said(&good()), []);
    }

    #[test]
    fn age_is_judged_by_the_promise_and_its_absence_is_said() {
        let late = Facts { newest_at: Some(at("2026-03-01T11:00:00Z")), ..good() };
        assert!(said(&late)[0].1.contains("1 d 1 h old, of 1d"), "{:?}", said(&late));
        let never = Facts { newest_at: None, ..good() };
        assert_eq!(said(&never)[0].0, Severity::Stale);
        let blind = Facts { promise: Promise::default(), ..good() };
        assert_eq!(said(&blind)[0].0, Severity::Warning);
    }

    #[test]
    fn drills_gaps_and_clocks_are_told() {
        let promise = Promise { drill_ms_max: Some(86_400_000), ..good().promise };
        let overdue = Facts { promise, ..good() };
        assert_eq!(said(&overdue)[0].0, Severity::Warning);
        let proven_at = Some(at("2026-03-02T01:00:00Z"));
        assert_eq!(said(&Facts { proven_at, ..overdue.clone() }), []);
        let failed = Facts { drill_failure: Some("rows".to_owned()), proven_at, ..overdue };
        assert_eq!(said(&failed)[0].0, Severity::Broken);
        let gap = Facts { gap: Some("files are missing".to_owned()), in_future: 1, ..good() };
        let said = said(&gap);
        assert_eq!((said.len(), said[0].0, said[1].0), (2, Severity::Broken, Severity::Warning));
    }

    /// Sundays are small here, and no other day is.
    #[test]
    fn sizes_are_compared_with_those_of_the_same_weekday() {
        let sample = |day: i64, bytes: u64, rows: u64| {
            let taken_at = at("2026-02-01T02:00:00Z") + jiff::SignedDuration::from_hours(24 * day);
            Sample { taken_at, bytes, rows: Some(rows) }
        };
        let usual = |day: i64| match day % 7 {
            0 => sample(day, 1_000_000, 10_000),
            _ => sample(day, 10_000_000, 100_000),
        };
        let with = |last: Sample| {
            let samples = (0..28).map(usual).chain([last]).collect();
            said(&Facts { samples, ..good() }).len()
        };
        assert_eq!(with(usual(28)), 0, "a Sunday like others");
        assert_eq!(with(sample(29, 1_000_000, 10_000)), 2, "a Monday like a Sunday");
        assert_eq!(with(sample(29, 10_000_000, 40_000)), 1, "rows are missing");
        // An error text of 60 bytes is no database, and a small one may grow.
        assert_eq!(with(sample(29, 60, 0)), 2);
        let small = (0..9).map(|day| sample(day, 8_192 * (1 + day as u64 % 3), 5)).collect();
        assert_eq!(said(&Facts { samples: small, ..good() }), []);
        let few = vec![sample(0, 10_000_000, 5), sample(1, 100, 5)];
        assert_eq!(said(&Facts { samples: few, ..good() }), [], "two are too few to judge");
    }
}
