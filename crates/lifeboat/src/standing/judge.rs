//! What is wrong with a source, by what its repository shows. Pure.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::store::Space;

use super::alert::{Alert, Code, Severity};
use super::facts::Facts;
use super::forecast::Forecast;
use super::objective::{Objective, Outcome, ms_between};
use super::unusual::unusual;
use crate::config::values::Period;
use crate::ui::units;

/// A disk that is full so soon is to be looked at, and at once.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
const NOW: SignedDuration = SignedDuration::from_hours(3 * 24);

/// All that is wrong with a source.
pub(crate) fn judge(facts: &Facts, now: Timestamp) -> Vec<Alert> {
    let word = units::shell_word(&facts.source);
    let mut found = Vec::new();
    let mut add = |code, severity, what: String, command: String| {
        let place = (facts.source.as_str(), facts.repository.as_str());
        found.push(Alert::new((code, severity), place, units::one_line(&what), command));
    };
    let backup = format!("lifeboat backup {word}");
    let age_ms_max = facts.promise.age_ms_max;
    let safe_until = facts.safe_until();
    let rpo = Objective::rpo(age_ms_max, safe_until, now);
    match (safe_until, age_ms_max) {
        (None, _) => {
            let what = "it was never backed up here".to_owned();
            add(Code::Never, Severity::Stale, what, backup);
        }
        (Some(at), Some(age_ms_max)) if rpo.is_broken() => {
            let age = units::coarse(ms_between(at, now));
            let most = Period { milliseconds: age_ms_max };
            let what = match facts.unchanged_until {
                Some(_) => format!("what was committed in the last {age} is not stored, of {most}"),
                None => format!("the newest moment that can be restored is {age} old, of {most}"),
            };
            add(Code::Stale, Severity::Stale, what, backup);
        }
        (Some(_), Some(_)) => {}
        (Some(_), None) => {
            let what = "nothing says how old its newest backup may be".to_owned();
            let command = "lifeboat watch --max-age 26h".to_owned();
            add(Code::NoPromise, Severity::Warning, what, command);
        }
    }
    of_restores(facts, now, &word, &mut add);
    let verify = || format!("lifeboat verify {word}");
    if let Some(gap) = &facts.gap {
        let what = format!("its log has a gap: {gap}");
        add(Code::LogGap, Severity::Broken, what, verify());
    }
    if facts.in_future > 0 {
        let what = format!("{} backups are dated in the future: a clock is wrong", facts.in_future);
        add(Code::FutureBackup, Severity::Warning, what, format!("lifeboat list {word}"));
    }
    if facts.unreadable > 0 {
        let what = format!("{} manifests cannot be read", facts.unreadable);
        add(Code::Unreadable, Severity::Warning, what, verify());
    }
    if facts.doubtful > 0 {
        let count = facts.doubtful;
        let what = format!("{count} newer backups were not checked, or are of a damaged database");
        add(Code::Doubtful, Severity::Warning, what, verify());
    }
    for (code, what) in unusual(&facts.samples) {
        add(code, Severity::Warning, what, format!("lifeboat list {word}"));
    }
    found
}

/// What drills showed, and how long a restore takes by them.
fn of_restores(
    facts: &Facts,
    now: Timestamp,
    word: &str,
    add: &mut impl FnMut(Code, Severity, String, String),
) {
    let drill = || format!("lifeboat drill {word}");
    if let Some(why) = &facts.drill_failure {
        let what = format!("the last drill failed: {why}");
        add(Code::DrillFailed, Severity::Broken, what, drill());
    } else if let Some(most) = facts.promise.drill_ms_max
        && facts.proven_at.is_none_or(|at| ms_between(at, now) > most)
    {
        let every = Period { milliseconds: most };
        let what = format!("no drill passed within the {every} of its promise");
        add(Code::DrillOverdue, Severity::Warning, what, drill());
    }
    let rto = Objective::rto(facts.promise.rto_ms_max, facts.drill, facts.newest_bytes);
    match (rto.outcome, rto.promised_ms, rto.measured_ms) {
        (Outcome::Broken, Some(promised), Some(measured)) => {
            let most = Period { milliseconds: promised };
            let takes = units::duration(measured);
            let what = format!("a restore takes {takes}, of {most}: {}", rto.basis);
            add(Code::RestoreTooSlow, Severity::Warning, what, "lifeboat proof list".to_owned());
        }
        (Outcome::Unmeasured, Some(promised), _) if facts.newest_at.is_some() => {
            let most = Period { milliseconds: promised };
            let what =
                format!("a restore within {most} is promised, and no drill has measured one");
            add(Code::RestoreNotMeasured, Severity::Warning, what, drill());
        }
        _ => {}
    }
}

/// What is wrong with the disk of a repository.
pub(crate) fn of_disk(
    repository: &str,
    space: Space,
    forecast: Option<&Forecast>,
    now: Timestamp,
) -> Vec<Alert> {
    let mut found = Vec::new();
    let free = units::bytes(space.free_bytes);
    if space.is_full() {
        let percent = space.used_percent();
        let what = format!("the disk of the repository is {percent} % full, {free} are left");
        let kind = (Code::DiskFilling, Severity::Warning);
        found.push(Alert::new(kind, ("", repository), what, "lifeboat prune --dry-run"));
    }
    if let Some(forecast) = forecast
        && let Some(full_at) = forecast.full_at
    {
        let left = full_at.duration_since(now);
        let code = match () {
            () if left <= NOW => Code::DiskFullNow,
            () if left <= SOON => Code::DiskFullSoon,
            () => return found,
        };
        let per_day = units::bytes(u64::try_from(forecast.bytes_per_day).unwrap_or(0));
        let day = full_at.strftime("%Y-%m-%d");
        let what = format!(
            "the disk of the repository will be full on {day}: {free} are left, and each day takes \
             {per_day}"
        );
        let command = "lifeboat prune --simulate 30d";
        found.push(Alert::new((code, Severity::Warning), ("", repository), what, command));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::facts::Promise;
    use super::super::objective::LastDrill;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn good() -> Facts {
        let newest_at = Some(at("2026-03-02T02:00:00Z"));
        let promise = Promise { age_ms_max: Some(86_400_000), ..Promise::default() };
        Facts { source: "app".to_owned(), promise, newest_at, ..Facts::default() }
    }

    fn said(facts: &Facts) -> Vec<(Code, Severity)> {
        let alerts = judge(facts, at("2026-03-02T12:00:00Z"));
        assert!(alerts.iter().all(|alert| alert.command.starts_with("lifeboat ")), "{alerts:?}");
        alerts.iter().map(|alert| (alert.code, alert.severity)).collect()
    }

    #[test]
    fn what_is_as_promised_is_nothing_to_tell() {
        assert_eq!(said(&good()), []);
    }

    #[test]
    fn age_is_judged_by_the_promise_and_its_absence_is_said() {
        let late = Facts { newest_at: Some(at("2026-03-01T11:00:00Z")), ..good() };
        assert_eq!(said(&late), [(Code::Stale, Severity::Stale)]);
        let words = judge(&late, at("2026-03-02T12:00:00Z")).remove(0).what;
        assert!(words.contains("1 d 1 h old, of 1d"), "{words}");
        let never = Facts { newest_at: None, ..good() };
        assert_eq!(said(&never), [(Code::Never, Severity::Stale)]);
        let blind = Facts { promise: Promise::default(), ..good() };
        assert_eq!(said(&blind), [(Code::NoPromise, Severity::Warning)]);
    }

    #[test]
    fn drills_gaps_and_clocks_are_told() {
        let promise = Promise { drill_ms_max: Some(86_400_000), ..good().promise };
        let overdue = Facts { promise, ..good() };
        assert_eq!(said(&overdue), [(Code::DrillOverdue, Severity::Warning)]);
        let proven_at = Some(at("2026-03-02T01:00:00Z"));
        assert_eq!(said(&Facts { proven_at, ..overdue.clone() }), []);
        let failed = Facts { drill_failure: Some("rows".to_owned()), proven_at, ..overdue };
        assert_eq!(said(&failed), [(Code::DrillFailed, Severity::Broken)]);
        let gap = Some("files are missing".to_owned());
        let gap = Facts { gap, in_future: 1, unreadable: 1, doubtful: 1, ..good() };
        let codes: Vec<Code> = said(&gap).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, [Code::LogGap, Code::FutureBackup, Code::Unreadable, Code::Doubtful]);
    }

    #[test]
    fn a_restore_that_would_take_too_long_is_a_broken_promise() {
        let promise = Promise { rto_ms_max: Some(60_000), ..good().promise };
        let facts = Facts { promise, newest_bytes: Some(3_000), ..good() };
        assert_eq!(said(&facts), [(Code::RestoreNotMeasured, Severity::Warning)]);
        let drill = |restore_ms| {
            let drilled_at = at("2026-03-01T02:00:00Z");
            Some(LastDrill { drilled_at, restore_ms, bytes: Some(1_000) })
        };
        assert_eq!(said(&Facts { drill: drill(20_000), ..facts.clone() }), []);
        let slow = Facts { drill: drill(20_001), ..facts };
        assert_eq!(said(&slow), [(Code::RestoreTooSlow, Severity::Warning)]);
    }

    #[test]
    fn a_disk_is_told_of_before_it_is_full() {
        let now = at("2026-03-02T12:00:00Z");
        let of = |used_bytes: u64, days: Option<i64>| {
            let space = Space { used_bytes, free_bytes: 100 - used_bytes };
            let full_at = days.map(|days| now + SignedDuration::from_hours(24 * days));
            let forecast = Forecast { full_at, bytes_per_day: 1, since: now };
            let alerts = of_disk("file:///b", space, Some(&forecast), now);
            alerts.into_iter().map(|alert| alert.code).collect::<Vec<_>>()
        };
        assert_eq!(of(79, None), []);
        assert_eq!(of(80, None), [Code::DiskFilling]);
        assert_eq!(of(79, Some(15)), []);
        assert_eq!(of(79, Some(14)), [Code::DiskFullSoon]);
        assert_eq!(of(90, Some(3)), [Code::DiskFilling, Code::DiskFullNow]);
        assert_eq!(of_disk("", Space { used_bytes: 1, free_bytes: 9 }, None, now), []);
    }
}
