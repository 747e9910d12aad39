//! Checks of a database through a connection: what was found, judged as a whole.
//!
//! `PRAGMA integrity_check` says "ok" in one row, and anything else is damage; its output is
//! never searched for a word. Where a module or a collation is missing in this program, the
//! tables are checked one by one, and what could not be checked is told: that is no damage, and
//! no pass either. Constraints of tables that SQLite passes over are asked beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_core::env::Clock;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::CheckReport;
use rusqlite::Connection;

use crate::constraints::{Broken, broken};

/// Lines of damage that a report keeps.
pub(crate) const DAMAGE_LINES_MAX: usize = 20;
/// Memory of a quick check, in bytes: it reads each page once, so that a cache does little.
const QUICK_CACHE_BYTES: u64 = 16 << 20;
/// Tables named in a note on broken foreign keys.
const TABLES_NAMED_MAX: usize = 5;

/// How a check is stopped before its end.
pub(crate) type StopWhen = Box<dyn FnMut() -> bool + Send>;

/// Instructions of SQLite between two questions whether to stop.
const STOP_EVERY: i32 = 20_000;

/// A check that ended, or was stopped.
pub(crate) enum Checked {
    /// It ended.
    Done(CheckReport),
    /// It was stopped on demand: nothing is known.
    Stopped,
}

/// Checks the database of a connection.
pub(crate) fn check(
    connection: &mut Connection,
    clock: &Arc<dyn Clock>,
    level: CheckLevel,
    memory_bytes: u64,
    stop_when: Option<StopWhen>,
) -> Checked {
    let begun_ms = clock.monotonic_ms();
    if let Some(stop_when) = stop_when
        && let Err(error) = connection.progress_handler(STOP_EVERY, Some(stop_when))
    {
        return Checked::Done(failed(level, error.to_string()));
    }
    let cache_bytes = match level {
        CheckLevel::Full => memory_bytes,
        _ => memory_bytes.min(QUICK_CACHE_BYTES),
    };
    let mut findings = Findings::default();
    let outcome =
        set_cache(connection, cache_bytes).and_then(|()| run(connection, level, &mut findings));
    // The same connection goes on to be used.
    let _ = connection.progress_handler(0, None::<fn() -> bool>);
    match outcome {
        Err(error) if is_interrupted(&error) => Checked::Stopped,
        Err(error) => {
            findings.damage.push(error.to_string());
            Checked::Done(findings.report(level, clock.monotonic_ms() - begun_ms))
        }
        Ok(()) => Checked::Done(findings.report(level, clock.monotonic_ms() - begun_ms)),
    }
}

/// The report of a check that could not even begin: the file itself is the damage.
pub(crate) fn failed(level: CheckLevel, damage: String) -> CheckReport {
    let findings = Findings { what: what(level), damage: vec![damage], ..Findings::default() };
    findings.report(level, 0)
}

fn what(level: CheckLevel) -> Vec<String> {
    let names: &[&str] = match level {
        CheckLevel::None => &[],
        CheckLevel::Quick => &["quick_check"],
        CheckLevel::Full => &["integrity_check", "foreign_key_check"],
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

#[derive(Default)]
struct Findings {
    what: Vec<String>,
    damage: Vec<String>,
    /// What could not be checked.
    gaps: Vec<String>,
    /// What is wrong with the content, though not damaged.
    violations: Vec<String>,
}

impl Findings {
    fn report(mut self, level: CheckLevel, elapsed_ms: u64) -> CheckReport {
        let outcome = match (self.damage.is_empty(), self.gaps.is_empty()) {
            (false, _) => CheckOutcome::Failed,
            (true, false) => CheckOutcome::Partial,
            (true, true) => CheckOutcome::Passed,
        };
        self.damage.truncate(DAMAGE_LINES_MAX);
        self.gaps.append(&mut self.violations);
        CheckReport {
            level,
            outcome,
            what: self.what,
            damage: self.damage,
            notes: self.gaps,
            rows: None,
            elapsed_ms,
        }
    }

    /// Judges the rows of a check: "ok" and nothing else, or damage.
    fn judge(&mut self, rows: Vec<String>) {
        if rows != ["ok"] {
            let lines = rows.iter().flat_map(|row| row.lines());
            self.damage.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
            if self.damage.is_empty() {
                self.damage.push("the check gave no answer".to_owned());
            }
        }
    }
}

fn run(
    connection: &Connection,
    level: CheckLevel,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    findings.what = what(level);
    let pragma = match level {
        CheckLevel::None => return Ok(()),
        CheckLevel::Quick => "quick_check",
        CheckLevel::Full => "integrity_check",
    };
    findings.gaps = missing_modules(connection)?;
    match rows_of(connection, &format!("PRAGMA {pragma}({DAMAGE_LINES_MAX})")) {
        Ok(rows) => findings.judge(rows),
        Err(error) if is_missing_extension(&error) => check_each(connection, pragma, findings)?,
        Err(error) => return Err(error),
    }
    if findings.damage.is_empty() {
        let Broken { damage, mut gaps } = broken(connection, DAMAGE_LINES_MAX)?;
        findings.damage = damage;
        findings.gaps.append(&mut gaps);
    }
    if level == CheckLevel::Full && findings.damage.is_empty() {
        check_foreign_keys(connection, findings)?;
    }
    Ok(())
}

/// Checks table by table, so that one that needs a missing extension does not hide the others.
fn check_each(
    connection: &Connection,
    pragma: &str,
    findings: &mut Findings,
) -> rusqlite::Result<()> {
    let tables = rows_of(connection, "SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    for table in tables {
        let quoted = table.replace('\'', "''");
        match rows_of(connection, &format!("PRAGMA {pragma}('{quoted}')")) {
            Ok(rows) => findings.judge(rows),
            Err(error) if is_missing_extension(&error) => {
                findings.gaps.push(format!("table {table} was not checked: {}", text(&error)));
            }
            Err(error) => return Err(error),
        }
    }
    // The list of free pages is checked only together with all tables.
    findings.gaps.push("tables were checked one by one, the list of free pages was not".into());
    Ok(())
}

/// Virtual tables whose module this program does not have: SQLite passes over them in silence.
fn missing_modules(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let known = rows_of(connection, "SELECT lower(name) FROM pragma_module_list")?;
    let mut statement = connection.prepare(
        "SELECT name, sql FROM sqlite_schema
         WHERE type = 'table' AND rootpage = 0 AND sql IS NOT NULL",
    )?;
    let mut rows = statement.query([])?;
    let mut missing = Vec::new();
    while let Some(row) = rows.next()? {
        let name = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
        let sql = String::from_utf8_lossy(row.get_ref(1)?.as_bytes()?).into_owned();
        match module_of(&sql, &name) {
            Some(module) if known.contains(&module) => {}
            Some(module) => missing.push(format!(
                "virtual table {name} was not checked: the module {module} is not in this program"
            )),
            None => missing.push(format!("virtual table {name} was not checked")),
        }
    }
    Ok(missing)
}

/// The module behind `CREATE VIRTUAL TABLE name USING module(...)`, in lower case.
fn module_of(sql: &str, name: &str) -> Option<String> {
    let after_name = sql.find(name).map_or(0, |at| at + name.len());
    let mut words = sql[after_name..]
        .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .filter(|word| !word.is_empty());
    words.by_ref().find(|word| word.eq_ignore_ascii_case("using"))?;
    Some(words.next()?.to_lowercase())
}

fn check_foreign_keys(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut violations: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut collect = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            *violations.entry((row.get(0)?, row.get(2)?)).or_default() += 1;
        }
        Ok(())
    };
    match collect() {
        Ok(()) => {}
        Err(error) if is_interrupted(&error) => return Err(error),
        Err(error) => {
            findings.gaps.push(format!("foreign keys were not checked: {}", text(&error)));
        }
    }
    let more = violations.len().saturating_sub(TABLES_NAMED_MAX);
    for ((table, parent), count) in violations.into_iter().take(TABLES_NAMED_MAX) {
        let rows = if count == 1 { "row refers" } else { "rows refer" };
        findings
            .violations
            .push(format!("foreign keys: {count} {rows} from {table} to what {parent} has not"));
    }
    if more > 0 {
        findings.violations.push(format!("foreign keys: {more} more pairs of tables"));
    }
    Ok(())
}

fn set_cache(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let kibibytes = (bytes / 1024).clamp(2000, i32::MAX as u64);
    connection
        .execute_batch(&format!("PRAGMA cache_size = -{kibibytes}; PRAGMA cell_size_check = ON;"))
}

fn rows_of(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned());
    }
    Ok(lines)
}

/// Whether the check was stopped on demand.
pub(crate) fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

/// Whether something that an application brings along is missing here, and nothing is damaged.
pub(crate) fn is_missing_extension(error: &rusqlite::Error) -> bool {
    const MISSING: &[&str] = &[
        "no such module",
        "no such collation sequence",
        "no such function",
        "unknown function",
        "unknown tokenizer",
        "no such tokenizer",
    ];
    let generic = error.sqlite_error().is_some_and(|failure| failure.extended_code & 0xff == 1);
    generic && MISSING.iter().any(|missing| text(error).contains(missing))
}

/// What SQLite said, without the statement that it was said of.
pub(crate) fn text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t04_ok_within_damage_is_damage() {
        let mut findings = Findings::default();
        findings.judge(vec!["row 38 missing from index idx_tokens_ok".into()]);
        assert_eq!(findings.report(CheckLevel::Full, 0).outcome, CheckOutcome::Failed);
        let mut findings = Findings::default();
        findings.judge(vec!["ok".into(), "ok".into()]);
        assert_eq!(findings.report(CheckLevel::Full, 0).outcome, CheckOutcome::Failed);
        let mut findings = Findings::default();
        findings.judge(Vec::new());
        assert_eq!(findings.report(CheckLevel::Full, 0).outcome, CheckOutcome::Failed);
        let mut findings = Findings::default();
        findings.judge(vec!["ok".into()]);
        assert_eq!(findings.report(CheckLevel::Full, 0).outcome, CheckOutcome::Passed);
    }

    #[test]
    fn modules_are_found_in_their_statements() {
        assert_eq!(module_of("CREATE VIRTUAL TABLE t USING fts5(a)", "t").unwrap(), "fts5");
        let quoted = "create virtual table \"using x\" using\nVec0 (a)";
        assert_eq!(module_of(quoted, "using x").unwrap(), "vec0");
    }
}
