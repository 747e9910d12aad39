//! What drills showed of a source in a repository, against how often they were promised.

use jiff::Timestamp;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::{Error, Kind, Result};
use serde::Serialize;

use super::row::Row;
use crate::config::drill::DrillConfig;
use crate::config::values::Period;
use crate::ui::printer::Style;
use crate::ui::units;

/// The last drill, and the last one that passed.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Drills {
    /// When the last one ended.
    last_at: Option<Timestamp>,
    /// Whether it passed.
    passed: Option<bool>,
    /// Why it did not.
    failure: Option<String>,
    /// How long its restore took.
    restore_ms: Option<u64>,
    /// Its proof.
    proof: Option<String>,
    /// When one passed last, of a backup that is still there.
    proven_at: Option<Timestamp>,
    /// How long ago that is.
    proven_age_ms: Option<u64>,
    /// How often one must pass.
    every_ms: Option<u64>,
    /// Whether that is broken.
    overdue: bool,
    /// Whether that counts as an old backup does.
    required: bool,
}

impl Drills {
    /// What a repository says of a source.
    pub(super) fn of(entry: Option<&SourceEntry>, now: Timestamp) -> Self {
        let Some(entry) = entry else { return Drills::default() };
        let last = entry.last_drill();
        let proven_at = entry.last_proven_at();
        let age = |at: Timestamp| u64::try_from(now.duration_since(at).as_millis()).unwrap_or(0);
        Drills {
            last_at: last.map(|last| last.drilled_at),
            passed: last.map(|last| last.passed),
            failure: last.and_then(|last| last.failure.clone()),
            restore_ms: last.and_then(|last| last.restore_ms),
            proof: last.and_then(|last| last.proof.clone()),
            proven_at,
            proven_age_ms: proven_at.map(age),
            ..Drills::default()
        }
    }

    /// The same, measured by what the configuration promises.
    pub(super) fn promised(self, config: &DrillConfig) -> Self {
        let every_ms = config.every.map(|every| every.0.milliseconds);
        let is_late = |every_ms| self.proven_age_ms.is_none_or(|age_ms| age_ms > every_ms);
        let overdue = every_ms.is_some_and(is_late);
        Drills { every_ms, overdue, required: config.required, ..self }
    }

    /// How long the restore of the last one took.
    pub(crate) fn restore_ms(&self) -> Option<u64> {
        self.restore_ms
    }

    /// Whether the last one passed.
    pub(crate) fn has_passed(&self) -> Option<bool> {
        self.passed
    }

    /// When one passed last.
    pub(crate) fn proven_at(&self) -> Option<Timestamp> {
        self.proven_at
    }

    /// How often one must pass, in milliseconds.
    pub(crate) fn every_ms(&self) -> Option<u64> {
        self.every_ms
    }

    /// Whether it is overdue, and that counts as an old backup does.
    pub(crate) fn is_required(&self) -> bool {
        self.overdue && self.required
    }

    /// The cell of the table.
    pub(super) fn cell(&self) -> (String, Option<Style>) {
        let failed = self.passed == Some(false);
        let style = if failed || self.overdue { Some(Style::Bad) } else { None };
        let text = match self.proven_age_ms {
            Some(age_ms) => units::coarse(age_ms),
            None => "never".to_owned(),
        };
        (if failed { format!("{text}, then failed") } else { text }, style)
    }

    /// What is wrong, with the command that mends it.
    pub(crate) fn complaint(&self, source: &str) -> Option<String> {
        let command = format!("lifeboat drill {}", units::shell_word(source));
        if self.passed == Some(false) {
            let why = self.failure.as_deref().unwrap_or("for a reason that is not known");
            return Some(format!("the last drill failed: {} ({command})", units::one_line(why)));
        }
        let every = self.every_ms.filter(|_| self.overdue)?;
        let every = Period { milliseconds: every };
        Some(match self.proven_age_ms {
            Some(age_ms) => {
                let age = units::coarse(age_ms);
                format!("its restore was proved {age} ago, promised is every {every} ({command})")
            }
            None => format!("its restore was never proved, promised is every {every} ({command})"),
        })
    }
}

/// Drills that are overdue and required make the status that of an old backup.
pub(super) fn require(rows: &[Row]) -> Result<()> {
    let mut names: Vec<&str> =
        rows.iter().filter(|row| row.drills.is_required()).map(|row| row.source.as_str()).collect();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = names.iter().map(|name| units::shell_word(name)).collect();
    let what = if names.len() == 1 { "drill is" } else { "drills are" };
    let message = format!("{} {what} overdue: {}", names.len(), names.join(", "));
    Err(Error::new(Kind::Stale, message).hint(format!("lifeboat drill {}", words.join(" "))))
}
