//! What has to hold before and after a migration: the invariants, asked of the live database in a
//! transaction that reads, and judged.
//!
//! Two forms. `SELECT count(*) FROM User` must be answered alike before and after. `after: SELECT
//! count(*) > 0 FROM Channel` is asked only afterwards, of tables that there may not be before, and
//! must be true, as SQLite takes a value for true.

use std::path::Path;

use lifeboat_core::manifest::SchemaVersion;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::Probe;

/// A question, and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Invariant {
    /// The same before and after.
    Same(String),
    /// True afterwards.
    After(String),
}

/// What was found before the command.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    /// The version of the schema.
    pub(super) version: Option<SchemaVersion>,
    /// What a migration tool had left undone.
    pub(super) unfinished: Vec<String>,
    /// Rows that refer to one that is not there.
    violations: u64,
    /// The answers, in the order of the invariants; `None` for those that are asked later.
    answers: Vec<Option<String>>,
}

impl Invariant {
    /// Reads one as a person writes it.
    pub(super) fn read(text: &str) -> Result<Invariant> {
        let text = text.trim();
        let (after, sql) = match text.strip_prefix("after:") {
            Some(sql) => (true, sql.trim()),
            None => (false, text),
        };
        match (sql.is_empty(), after) {
            (true, _) => Err(Error::new(Kind::Usage, "an invariant is empty")
                .hint("write a query, as in --invariant 'SELECT count(*) FROM User'")),
            (false, true) => Ok(Invariant::After(sql.to_owned())),
            (false, false) => Ok(Invariant::Same(sql.to_owned())),
        }
    }
}

impl Before {
    /// Nothing but a version is known.
    pub(super) fn at(version: Option<SchemaVersion>) -> Before {
        Before { version, ..Before::default() }
    }

    /// Asks everything in one transaction, which is over when this returns.
    pub(super) fn look(place: &Path, invariants: &[Invariant]) -> Result<Before> {
        let probe = Probe::open(place)?;
        let mut answers = Vec::new();
        for invariant in invariants {
            answers.push(match invariant {
                Invariant::Same(sql) => Some(probe.ask(sql)?),
                Invariant::After(_) => None,
            });
        }
        let (version, violations) = (probe.schema_version()?, probe.violations()?);
        Ok(Before { version, unfinished: probe.unfinished(), violations, answers })
    }

    /// What holds no more, a line each. What was not right before need not be so afterwards.
    pub(super) fn broken(&self, probe: &Probe, invariants: &[Invariant]) -> Vec<String> {
        let mut broken = Vec::new();
        match probe.violations() {
            Ok(count) if count > self.violations => broken.push(format!(
                "{count} rows refer to one that is not there, before it were {}",
                self.violations
            )),
            Ok(_) => {}
            Err(error) => broken.push(format!("references could not be checked: {error}")),
        }
        for (place, invariant) in invariants.iter().enumerate() {
            let before = self.answers.get(place).and_then(Option::as_deref);
            broken.extend(judge(invariant, before, |sql| probe.ask(sql)));
        }
        broken
    }
}

/// What is wrong with an answer, if anything is. Without one from before there was no database.
fn judge(
    invariant: &Invariant,
    before: Option<&str>,
    ask: impl Fn(&str) -> Result<String>,
) -> Option<String> {
    match (invariant, before) {
        (Invariant::Same(_), None) => None,
        (Invariant::Same(sql), Some(before)) => match ask(sql) {
            Ok(now) if now == before => None,
            Ok(now) => Some(format!("`{sql}` gave {before} before, and {now} now")),
            Err(error) => Some(format!("`{sql}` gave {before} before, and now: {}", cause(&error))),
        },
        (Invariant::After(sql), _) => match ask(sql) {
            Ok(now) if is_true(&now) => None,
            Ok(now) => Some(format!("`{sql}` gives {now}, which is not true")),
            Err(error) => Some(format!("`{sql}`: {}", cause(&error))),
        },
    }
}

fn cause(error: &Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether an answer is a number other than 0.
fn is_true(answer: &str) -> bool {
    answer.parse::<f64>().is_ok_and(|number| number != 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let same = Invariant::read(" SELECT 1 ").unwrap();
        assert_eq!(same, Invariant::Same("SELECT 1".into()));
        let after = Invariant::read("after:  SELECT 2").unwrap();
        assert_eq!(after, Invariant::After("SELECT 2".into()));
        for empty in ["", "  ", "after:", "after: "] {
            assert_eq!(Invariant::read(empty).unwrap_err().kind(), Kind::Usage, "{empty}");
        }
    }

    #[test]
    fn answers_are_judged() {
        let same = Invariant::Same("q".into());
        let after = Invariant::After("q".into());
        let gives = |text: &'static str| move |_: &str| Ok(text.to_owned());
        assert_eq!(judge(&same, Some("7"), gives("7")), None);
        assert!(judge(&same, Some("7"), gives("8")).unwrap().contains("gave 7 before, and 8 now"));
        assert!(judge(&same, Some("7"), |_| Err(Error::new(Kind::Usage, "gone"))).is_some());
        for (answer, holds) in
            [("1", true), ("-0.5", true), ("0", false), ("0.0", false), ("NULL", false)]
        {
            assert_eq!(judge(&after, None, gives(answer)).is_none(), holds, "{answer}");
        }
        assert!(judge(&after, None, gives("'1'")).is_some(), "a text is not true");
        assert!(judge(&after, None, gives("no row")).is_some());
    }
}
