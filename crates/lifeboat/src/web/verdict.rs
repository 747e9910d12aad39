//! What is said of a source: one verdict, the reason, and the command that mends it. Pure.

use jiff::Timestamp;

use super::look::Look;
use crate::commands::status::{Row, State};
use crate::config::values::Period;
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

/// All sources, the worst first.
pub(crate) fn of_look(look: &Look, now: Timestamp) -> Vec<SourceView<'_>> {
    of_rows(&look.rows, now)
}

/// The same of rows.
pub(crate) fn of_rows(rows: &[Row], now: Timestamp) -> Vec<SourceView<'_>> {
    let mut grouped: std::collections::BTreeMap<&str, Vec<&Row>> = Default::default();
    for row in rows {
        grouped.entry(&row.source).or_default().push(row);
    }
    let mut views: Vec<SourceView<'_>> =
        grouped.into_iter().map(|(name, rows)| view(name, rows, now)).collect();
    views.sort_by(|one, other| {
        let worse = other.verdict.cmp(&one.verdict);
        // Within one verdict by name, which is the order that they have.
        worse.then_with(|| one.name.cmp(other.name))
    });
    views
}

/// How old the newest restorable moment of a row is now, and whether that is within its promise.
pub(crate) fn age_of(row: &Row, now: Timestamp) -> (State, Option<u64>) {
    let Some(newest) = row.log_held.or(row.taken_at).filter(|_| row.state != State::Never) else {
        return (State::Never, None);
    };
    let age_ms = u64::try_from(now.duration_since(newest).as_millis()).unwrap_or(0);
    let is_late = row.age_ms_max.is_some_and(|most_ms| age_ms > most_ms);
    (if is_late { State::Stale } else { State::Fresh }, Some(age_ms))
}

fn view<'a>(name: &'a str, rows: Vec<&'a Row>, now: Timestamp) -> SourceView<'a> {
    let mut reasons: Vec<Reason> =
        rows.iter().flat_map(|row| reasons_of(row, rows.len() > 1, now)).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.verdict));
    reasons.dedup();
    let moment = |row: &&Row| row.log_held.or(row.taken_at).filter(|_| row.state != State::Never);
    let newest = rows.iter().filter_map(moment).max();
    SourceView {
        name,
        verdict: reasons.first().map_or(Verdict::Good, |reason| reason.verdict),
        reasons,
        rows,
        newest,
    }
}

fn reasons_of(row: &Row, is_one_of_several: bool, now: Timestamp) -> Vec<Reason> {
    let word = units::shell_word(&row.source);
    let place = match is_one_of_several {
        true => format!(" in {}", row.repository),
        false => String::new(),
    };
    let mut found = Vec::new();
    let mut add = |verdict, text: String, command: Option<String>| {
        found.push(Reason { verdict, text, command });
    };
    match age_of(row, now) {
        (State::Never, _) => {
            let text = format!("there is no good backup{place}");
            add(Verdict::Bad, text, Some(format!("lifeboat backup {word}")));
        }
        (State::Stale, Some(age_ms)) => {
            let promised = Period { milliseconds: row.age_ms_max.unwrap_or(0) };
            let age = units::coarse(age_ms);
            let text = format!("the newest state{place} is {age} old, promised are {promised}");
            add(Verdict::Bad, text, Some(format!("lifeboat backup {word}")));
        }
        _ => {}
    }
    if let Some(failed) = row.last_attempt.as_ref().filter(|last| last.has_failed()) {
        let why = failed.error.as_deref().unwrap_or("for a reason that is not known");
        let text = format!("the last backup{place} failed: {why}");
        add(Verdict::Doubtful, text, Some(format!("lifeboat backup {word}")));
    }
    if let Some(text) = row.drills.complaint(&row.source) {
        let verdict = match row.drills.is_required() || row.drills.has_passed() == Some(false) {
            true => Verdict::Bad,
            false => Verdict::Doubtful,
        };
        add(verdict, text, None);
    }
    if row.lacking > 0 {
        let text = format!("{} backups of another repository are not{place}", row.lacking);
        let to = units::shell_word(&row.repository);
        add(Verdict::Doubtful, text, Some(format!("lifeboat copy {word} --to {to}")));
    }
    for (count, what) in status_doubts(row) {
        add(Verdict::Doubtful, format!("{count} {what}"), None);
    }
    for complaint in &row.archiver {
        let verdict = if complaint.is_urgent { Verdict::Bad } else { Verdict::Doubtful };
        add(verdict, complaint.text.clone(), None);
    }
    if let Some(why) = &row.prune_waits {
        let text = format!("a prune waits for an approval: {why}");
        add(Verdict::Doubtful, text, Some("lifeboat prune --dry-run".to_owned()));
    }
    found
}

fn status_doubts(row: &Row) -> impl Iterator<Item = (usize, &'static str)> {
    crate::commands::status::doubts(row).into_iter().filter(|(count, _)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, newest: Option<&str>, most_ms: Option<u64>) -> Row {
        let taken_at = newest.map(|text| text.parse().unwrap());
        Row {
            taken_at,
            state: if newest.is_some() { State::Fresh } else { State::Never },
            age_ms_max: most_ms,
            ..Row::for_test(source)
        }
    }

    #[test]
    fn the_worst_comes_first_with_the_command_that_mends_it() {
        let now: Timestamp = "2025-01-08T12:00:00Z".parse().unwrap();
        let rows = [
            row("a", Some("2025-01-08T11:59:00Z"), Some(3_600_000)),
            row("b c", Some("2025-01-08T09:00:00Z"), Some(3_600_000)),
            row("d", None, None),
            row("e", Some("2025-01-01T00:00:00Z"), None),
        ];
        let views = of_rows(&rows, now);
        let names: Vec<&str> = views.iter().map(|view| view.name).collect();
        assert_eq!(names, ["b c", "d", "a", "e"]);
        let reason = &views[0].reasons[0];
        assert_eq!(reason.text, "the newest state is 3 h old, promised are 1h");
        assert_eq!(reason.command.as_deref(), Some("lifeboat backup 'b c'"));
        assert_eq!(views[1].reasons[0].text, "there is no good backup");
        assert!(views[2..].iter().all(|view| view.verdict == Verdict::Good));
    }

    #[test]
    fn what_was_fresh_when_it_was_read_grows_old() {
        let row = row("a", Some("2025-01-08T11:00:00Z"), Some(3_600_000));
        let at = |text: &str| age_of(&row, text.parse().unwrap());
        assert_eq!(at("2025-01-08T12:00:00Z"), (State::Fresh, Some(3_600_000)));
        assert_eq!(at("2025-01-08T12:00:01Z"), (State::Stale, Some(3_601_000)));
    }
}
