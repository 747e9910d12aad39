//! What a guard says: what it found afterwards, how that is judged, and the way back.

use std::process::ExitCode;

use lifeboat_core::manifest::{CheckLevel, CheckOutcome, SchemaVersion};
use lifeboat_core::marks::{Ending, version_word};
use lifeboat_core::restore::RestoreOutcome;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::Probe;
use serde_json::{Value, json};

use super::Guard;
use super::invariants::{Before, Invariant};
use super::safety::Safety;
use super::work::{Ended, Work};
use crate::config::model::GuardPlace;
use crate::ui::printer::Style;
use crate::ui::{report, units};

/// The database after the command.
pub(super) struct Report {
    /// The version of the schema before.
    from: Option<SchemaVersion>,
    /// The version that the command left.
    pub(super) to: Option<SchemaVersion>,
    /// How it ended.
    pub(super) ending: Ending,
    /// The restore, where it was rolled back.
    pub(super) restored: Option<RestoreOutcome>,
    /// What the migration tool began and did not end.
    unfinished: Vec<String>,
    /// What held before and holds no more.
    broken: Vec<String>,
    /// Why it cannot be read.
    unreadable: Option<String>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    /// Whether anything was run that may have changed it.
    has_run: bool,
}

impl Report {
    /// Before anything was looked at.
    pub(super) fn new(safety: &Safety, before: &Before, ended: &Ended) -> Report {
        let from = safety.version().or(before.version.as_ref()).cloned();
        Report {
            to: from.clone(),
            from,
            ending: Ending::Failed,
            restored: None,
            unfinished: Vec::new(),
            broken: Vec::new(),
            unreadable: None,
            exit_code: ended.exit_code,
            signal: ended.signal,
            has_run: ended.has_run,
        }
    }

    /// Looks at the database as the command left it.
    pub(super) fn look(&mut self, guard: &Guard<'_>, safety: &Safety, before: &Before) {
        let is_there = guard.place.symlink_metadata().is_ok();
        let asks_after = guard.invariants.iter().any(|one| matches!(one, Invariant::After(_)));
        if safety.saved.is_empty() && !is_there && !asks_after {
            // There was none and there is none: nothing that had to hold is lost.
            return;
        }
        let mut probe = match Probe::open(&guard.place) {
            Ok(probe) => probe,
            Err(error) => {
                self.to = None;
                return self.unreadable = Some(error.to_string());
            }
        };
        let memory_bytes = guard.target.options.check_memory_bytes;
        match probe.check(guard.env, CheckLevel::Quick, memory_bytes) {
            Ok(check) if check.outcome == CheckOutcome::Failed => {
                self.broken.push(format!("it is damaged: {}", check.damage.join("; ")));
            }
            Ok(_) => {}
            Err(error) => self.broken.push(format!("it could not be checked: {error}")),
        }
        match probe.schema_version() {
            Ok(version) => self.to = version,
            Err(error) => self.broken.push(format!("its version cannot be read: {error}")),
        }
        let unfinished = probe.unfinished();
        self.unfinished =
            unfinished.into_iter().filter(|line| !before.unfinished.contains(line)).collect();
        self.broken.extend(before.broken(&probe, &guard.invariants));
    }

    /// Why it is no success, in a fragment; `None` if it is one.
    pub(super) fn failure(&self, guard: &Guard<'_>, ended: &Ended, work: &Work) -> Option<String> {
        let name = work.name();
        if let Some(failed) = &ended.failed {
            return Some(failed.clone());
        }
        if let Some(why) = &self.unreadable {
            return Some(format!("{name} ended well, but the database cannot be read: {why}"));
        }
        if !self.broken.is_empty() {
            let source = &guard.target.name;
            let list = self.broken.join("; ");
            return Some(format!("{name} ended well, but `{source}` is not as it must be: {list}"));
        }
        let first = self.unfinished.first()?;
        Some(format!("{name} ended well, but left a migration unfinished ({first})"))
    }

    /// The backup was restored.
    pub(super) fn rolled_back(&mut self, outcome: RestoreOutcome) {
        self.restored = Some(outcome);
    }

    /// The error that says what became of the database, and the way back.
    pub(super) fn explain(
        &self,
        guard: &Guard<'_>,
        safety: &Safety,
        failure: String,
        rollback_failed: Option<Error>,
    ) -> Error {
        let from = version_word(self.from.as_ref());
        if let Some(restored) = &self.restored {
            let message = format!("{failure}; rolled back, the schema is {from} again");
            let kept = restored.kept_aside.first().map(|path| path.to_string_lossy().into_owned());
            let hint = match kept {
                Some(kept) => format!("what it left is kept as {}", units::one_line(&kept)),
                None => "mend it, then run the same command again".to_owned(),
            };
            return Error::new(Kind::Failed, message).hint(hint);
        }
        let way_back = safety.way_back(guard);
        let hint = match (&way_back, self.has_run) {
            (_, false) => "nothing was changed: mend the command, then run it again".to_owned(),
            (Some(way_back), _) => format!("to go back: {way_back}"),
            (None, _) => format!(
                "there was no database before: to begin again, move {} away",
                units::shell_word(&guard.place.to_string_lossy())
            ),
        };
        let state = self.state(&from, &failure);
        match rollback_failed {
            None => Error::new(Kind::Failed, format!("{failure}{state}")).hint(hint),
            Some(error) => {
                let message = format!("{failure}{state}; it was not rolled back");
                let inner = error.hint_text().map(|hint| format!("{hint}; then: "));
                let way_back = way_back.unwrap_or_default();
                let hint = format!("{}{way_back}", inner.unwrap_or_default());
                Error::new(Kind::Failed, message).caused_by(error).hint(hint)
            }
        }
    }

    /// For people: what the command made of the database.
    fn state(&self, from: &str, failure: &str) -> String {
        if let Some(why) = &self.unreadable {
            return format!("; the schema was {from}, and now {why}");
        }
        let to = version_word(self.to.as_ref());
        let mut text = match from == to {
            true => format!("; the schema is {from}, as before"),
            false => format!("; the schema was {from} and is {to} now"),
        };
        if !self.unfinished.is_empty() {
            text.push_str(&format!(", unfinished: {}", self.unfinished.join(", ")));
        }
        if self.broken.iter().any(|line| !failure.contains(line)) {
            text.push_str(&format!("; broken: {}", self.broken.join("; ")));
        }
        text
    }
}

/// Says that the backup is there. A caller waits for that line.
pub(super) fn ready(guard: &Guard<'_>, safety: &Safety, work: &Work) -> Result<()> {
    let printer = &guard.session.printer;
    if let Work::Caller = work {
        let line = json!({
            "type": "ready",
            "source": guard.target.name,
            "database": guard.place,
            "saved": safety.to_json(guard),
            "restore": safety.way_back(guard),
        });
        return printer.data(&format!("{line}\n"));
    }
    for saved in &safety.saved {
        let good = printer.paint_err(Style::Good, "backed up");
        let (name, shown) = (units::one_line(&guard.target.name), saved.shown());
        let version = version_word(safety.version());
        printer.note(&format!("{good} {name} ({version}) as {shown}"));
    }
    if let Work::Command(..) = work {
        printer.note(&format!("running {}", work.name()));
    }
    Ok(())
}

/// The result: as JSON, or a line where it succeeded. What failed is told by the error.
pub(super) fn end(
    guard: &Guard<'_>,
    result: &Report,
    safety: &Safety,
    error: Option<&Error>,
    work: &Work,
) -> Result<()> {
    let printer = &guard.session.printer;
    let caller = matches!(work, Work::Caller);
    if printer.json() || caller {
        let value = to_json(guard, result, safety, error, work);
        return match caller {
            true => printer.data(&format!("{value}\n")),
            false => printer.json_data(&value),
        };
    }
    if error.is_none() {
        let (from, to) = (version_word(result.from.as_ref()), version_word(result.to.as_ref()));
        let good = printer.paint_err(Style::Good, "succeeded");
        let schema = match from == to {
            true => format!("the schema is {to}, as before"),
            false => format!("the schema was {from} and is {to} now"),
        };
        let name = work.name();
        let mut text = format!("{good}: {name}; {schema}");
        if let Some(way_back) = safety.way_back(guard) {
            text.push_str(&format!("\n  to go back: {way_back}"));
        }
        printer.note(&text);
    }
    Ok(())
}

fn to_json(
    guard: &Guard<'_>,
    result: &Report,
    safety: &Safety,
    error: Option<&Error>,
    work: &Work,
) -> Value {
    let rolled_back = result.restored.as_ref().map(|outcome| {
        json!({
            "place": outcome.place,
            "kept_aside": outcome.kept_aside,
            "elapsed_ms": outcome.elapsed_ms,
        })
    });
    json!({
        "type": "result",
        "outcome": result.ending,
        "source": guard.target.name,
        "database": guard.place,
        "command": work.program(),
        "exit_code": result.exit_code,
        "signal": result.signal,
        "from_version": result.from,
        "to_version": result.to,
        "unfinished": result.unfinished,
        "broken": result.broken,
        "unreadable": result.unreadable,
        "saved": safety.to_json(guard),
        "restore": safety.way_back(guard),
        "rolled_back": rolled_back,
        "error": error.map(report::as_json),
    })
}

/// What a run would do.
pub(super) fn plan(guard: &Guard<'_>, nothing: bool, name: &str) -> Result<ExitCode> {
    let database = units::one_line(&guard.place.to_string_lossy());
    let mut steps = Vec::new();
    let safe = !nothing;
    if safe {
        steps.push(format!("look at {database}, and ask {} invariants", guard.invariants.len()));
    }
    if safe && guard.where_to != GuardPlace::Beside {
        steps.push(format!("back up `{}` into its repositories, and check it", guard.target.name));
    }
    if safe && guard.where_to != GuardPlace::Repository {
        steps.push(format!("copy it to {database}.backup-vVERSION-TIME, and check it"));
    }
    if nothing {
        steps.push(format!("back up nothing: there is no database at {database} yet"));
    }
    steps.push(format!("run {name}"));
    steps.push("look at the database again".to_owned());
    steps.push(match (guard.rollback, nothing) {
        (true, false) => "if it failed, restore the backup".to_owned(),
        _ => "if it failed, say how to go back".to_owned(),
    });
    let printer = &guard.session.printer;
    if printer.json() {
        let value = json!({ "outcome": "planned", "source": guard.target.name, "steps": steps });
        printer.json_data(&value)?;
    } else {
        let lines = steps.iter().enumerate();
        let text: String = lines.map(|(at, step)| format!("  {}. {step}\n", at + 1)).collect();
        printer.data(&format!("{}:\n{text}", units::one_line(&guard.target.name)))?;
    }
    Ok(ExitCode::SUCCESS)
}
