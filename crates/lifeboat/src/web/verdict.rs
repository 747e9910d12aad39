//! What is said of a source: one verdict, the reason, and the command that mends it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::look::Look;
use crate::commands::status::{Row, State};
use crate::config::values::Period;
use crate::standing::{Code, Severity};
use crate::ui::units;

/// How a source stands; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It can be restored as promised.
    Good,
    /// It can, and something is to be seen to.
    Doubtful,
    /// It cannot, or not as promised.
    Bad,
}

impl Verdict {
    /// In a word, which is also its class in the style sheet.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Doubtful => "doubtful",
            Verdict::Bad => "bad",
        }
    }
}

/// What is wrong, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// How bad that is.
    pub(crate) verdict: Verdict,
    /// In words.
    pub(crate) text: String,
    /// A command to copy.
    pub(crate) command: Option<String>,
}

/// A source in all repositories.
pub(crate) struct SourceView<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// How it stands: as badly as the first reason.
    pub(crate) verdict: Verdict,
    /// What is wrong, the worst first.
    pub(crate) reasons: Vec<Reason>,
    /// Its rows, one for each repository.
    pub(crate) rows: Vec<&'a Row>,
    /// The newest moment that can be restored, from whichever repository.
    pub(crate) newest: Option<Timestamp>,
}

impl SourceView<'_> {
    /// When a restore of it was proved last.
    pub(crate) fn proven_at(&self) -> Option<Timestamp> {
        self.rows.iter().filter_map(|row| row.drills.proven_at()).max()
    }

    /// How long a restore takes: of several repositories from the slowest, as nobody knows which
    /// of them will be left.
    pub(crate) fn takes_ms(&self) -> Option<u64> {
        self.rows.iter().filter_map(|row| row.objectives.rto.measured_ms).max()
    }
}

/// All sources, the worst first.
pub(crate) fn of_look(look: &Look, now: Timestamp) -> Vec<SourceView<'_>> {
    of_rows(&look.rows, now, &|url| look.label_of(url).to_owned())
}

/// The same of rows; `name` is that of a repository by its URL.
fn of_rows<'a>(
    rows: &'a [Row],
    now: Timestamp,
    name: &dyn Fn(&str) -> String,
) -> Vec<SourceView<'a>> {
    let mut grouped: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        grouped.entry(&row.source).or_default().push(row);
    }
    let mut views: Vec<SourceView<'_>> =
        grouped.into_iter().map(|(source, rows)| view(source, rows, now, name)).collect();
    views.sort_by(|one, other| {
        let worse = other.verdict.cmp(&one.verdict);
        // Within one verdict by name, which is the order that they have.
        worse.then_with(|| one.name.cmp(other.name))
    });
    views
}

/// How old the newest restorable moment of a row is now, and whether that is within its promise.
pub(crate) fn age_of(row: &Row, now: Timestamp) -> (State, Option<u64>) {
    let Some(newest) = row.safe_until().filter(|_| row.state != State::Never) else {
        return (State::Never, None);
    };
    let age_ms = u64::try_from(now.duration_since(newest).as_millis()).unwrap_or(0);
    let is_late = row.age_ms_max.is_some_and(|most_ms| age_ms > most_ms);
    (if is_late { State::Stale } else { State::Fresh }, Some(age_ms))
}

fn view<'a>(
    source: &'a str,
    rows: Vec<&'a Row>,
    now: Timestamp,
    name: &dyn Fn(&str) -> String,
) -> SourceView<'a> {
    // What is wrong everywhere is said once, and what is wrong somewhere with where that is.
    let mut found: Vec<(Reason, Vec<String>)> = Vec::new();
    for row in &rows {
        for reason in reasons_of(row, now) {
            let place = name(&row.repository);
            match found.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, places)) => places.push(place),
                None => found.push((reason, vec![place])),
            }
        }
    }
    let somewhere = |(mut reason, places): (Reason, Vec<String>)| {
        if places.len() < rows.len() {
            reason.text = format!("{}: {}", places.join(", "), reason.text);
        }
        reason
    };
    let mut reasons: Vec<Reason> = found.into_iter().map(somewhere).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    let moment = |row: &&Row| row.log_held.or(row.taken_at).filter(|_| row.state != State::Never);
    let newest = rows.iter().filter_map(moment).max();
    SourceView {
        name: source,
        verdict: reasons.first().map_or(Verdict::Good, |reason| reason.verdict),
        reasons,
        rows,
        newest,
    }
}

/// What is wrong with a source in one repository: what `lifeboat status` says, and what has grown
/// old since that was read.
fn reasons_of(row: &Row, now: Timestamp) -> Vec<Reason> {
    let is_said = |code: Code| row.alerts.iter().any(|alert| alert.code == code);
    let mut found = Vec::new();
    if let (State::Stale, Some(age_ms)) = age_of(row, now)
        && !is_said(Code::Stale)
    {
        let promised = Period { milliseconds: row.age_ms_max.unwrap_or(0) };
        let age = units::coarse(age_ms);
        found.push(Reason {
            verdict: Verdict::Bad,
            text: format!("the newest state is {age} old, promised are {promised}"),
            command: Some(format!("lifeboat backup {}", units::shell_word(&row.source))),
        });
    }
    if row.state == State::Never && !is_said(Code::Never) {
        found.push(Reason {
            verdict: Verdict::Bad,
            text: "there is no good backup".to_owned(),
            command: Some(format!("lifeboat backup {}", units::shell_word(&row.source))),
        });
    }
    for alert in row.alerts.iter().filter(|alert| alert.code != Code::NoPromise) {
        found.push(Reason {
            verdict: match alert.severity {
                Severity::Stale | Severity::Broken => Verdict::Bad,
                Severity::Warning => Verdict::Doubtful,
            },
            text: alert.what.clone(),
            command: Some(alert.command.clone()).filter(|command| !command.is_empty()),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Alert;

    fn row(source: &str, newest: Option<&str>, most_ms: Option<u64>) -> Row {
        let taken_at = newest.map(|text| text.parse().unwrap());
        Row {
            taken_at,
            state: if newest.is_some() { State::Fresh } else { State::Never },
            age_ms_max: most_ms,
            ..Row::for_test(source)
        }
    }

    fn alert(code: Code, severity: Severity, what: &str) -> Alert {
        let text = |text: &str| text.to_owned();
        let (source, repository) = (String::new(), String::new());
        let (what, command, since) = (text(what), text("lifeboat mend"), None);
        Alert { code, severity, source, repository, what, command, since }
    }

    fn views(rows: &[Row]) -> Vec<SourceView<'_>> {
        of_rows(rows, "2025-01-08T12:00:00Z".parse().unwrap(), &|url| url.to_owned())
    }

    #[test]
    fn the_worst_comes_first_with_the_command_that_mends_it() {
        let never = alert(Code::Never, Severity::Stale, "there is none");
        let rows = [
            row("a", Some("2025-01-08T11:59:00Z"), Some(3_600_000)),
            row("b c", Some("2025-01-08T09:00:00Z"), Some(3_600_000)),
            Row { alerts: vec![never], ..row("d", None, None) },
            row("e", Some("2025-01-01T00:00:00Z"), None),
        ];
        let views = views(&rows);
        let names: Vec<&str> = views.iter().map(|view| view.name).collect();
        assert_eq!(names, ["b c", "d", "a", "e"]);
        let reason = &views[0].reasons[0];
        assert_eq!(reason.text, "the newest state is 3 h old, promised are 1h");
        assert_eq!(reason.command.as_deref(), Some("lifeboat backup 'b c'"));
        assert_eq!(views[1].reasons[0].text, "there is none");
        assert!(views[2..].iter().all(|view| view.verdict == Verdict::Good));
    }

    #[test]
    fn what_is_wrong_everywhere_is_said_once() {
        let in_place = |place: &str, alerts: Vec<Alert>| Row {
            repository: place.to_owned(),
            alerts,
            ..row("a", Some("2025-01-08T11:59:00Z"), None)
        };
        let failed = || alert(Code::BackupFailed, Severity::Warning, "the last one failed");
        let slow = alert(Code::RestoreTooSlow, Severity::Broken, "too slow");
        let rows = [in_place("x", vec![failed(), slow]), in_place("y", vec![failed()])];
        let views = views(&rows);
        let said: Vec<&str> = views[0].reasons.iter().map(|reason| reason.text.as_str()).collect();
        assert_eq!(said, ["x: too slow", "the last one failed"]);
        assert_eq!(views[0].verdict, Verdict::Bad);
    }

    #[test]
    fn what_was_fresh_when_it_was_read_grows_old() {
        let row = row("a", Some("2025-01-08T11:00:00Z"), Some(3_600_000));
        let at = |text: &str| age_of(&row, text.parse().unwrap());
        assert_eq!(at("2025-01-08T12:00:00Z"), (State::Fresh, Some(3_600_000)));
        assert_eq!(at("2025-01-08T12:00:01Z"), (State::Stale, Some(3_601_000)));
    }
}
