//! Databases with several names: SQLite finds the `-wal` and the journal by the name, so that two
//! names of one file have two of them, and corrupt it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Finding, Subject};
use crate::config::diagnose::shown;
use crate::ui::units;

const CHECK: &str = "hard links";

/// Each database's number of names.
pub(super) fn of_databases(subject: &Subject<'_>) -> Vec<Finding> {
    let paths = subject.targets.iter().filter_map(|target| Some((target, target.path.as_ref()?)));
    let several = paths.filter_map(|(target, path)| {
        let found = fs::metadata(path).ok().filter(|found| found.nlink() > 1)?;
        let place = shown(path);
        let message = format!(
            "{place} has {} names: whoever opens another one does not see its -wal and its locks",
            found.nlink()
        );
        let folder = path.parent().map_or_else(|| "/".to_owned(), shown);
        let hint = format!(
            "find {} -xdev -samefile {} shows them; remove all but one",
            units::shell_word(&folder),
            units::shell_word(&place)
        );
        Some(Finding::warning(CHECK, &target.name, message, hint))
    });
    let findings: Vec<Finding> = several.collect();
    let has_any = subject.targets.iter().any(|target| target.path.is_some());
    match findings.is_empty() && has_any {
        true => vec![Finding::good(CHECK, "", "each database has one name")],
        false => findings,
    }
}
