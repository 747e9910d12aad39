//! Room for a restore: the new database is complete beside the old one before it takes its place.

use std::fs;

use lifeboat_core::scratch::free_bytes;

use super::{Finding, Subject, existing};
use crate::config::diagnose::shown;
use crate::ui::units;

const CHECK: &str = "room to restore";

/// At the place of each database.
pub(super) fn beside(subject: &Subject<'_>) -> Vec<Finding> {
    let paths = subject.targets.iter().filter_map(|target| Some((target, target.path.as_ref()?)));
    let one = |(target, path): (&crate::sources::Target, &std::path::PathBuf)| {
        let needed = fs::metadata(path).ok()?.len();
        let folder = existing(path.parent().unwrap_or(path));
        let free = match free_bytes(&folder) {
            Ok(free) => free,
            Err(error) => {
                return Some(Finding::bad(CHECK, &target.name, &error).at_most_a_warning());
            }
        };
        let (has, needs) = (units::bytes(free), units::bytes(needed));
        Some(match free < needed {
            true => {
                let message =
                    format!("a restore beside {} needs {needs}, {has} are free there", shown(path));
                let hint = "lifeboat rescue --disk-full says what may go";
                Finding::warning(CHECK, &target.name, message, hint)
            }
            false => {
                Finding::good(CHECK, &target.name, format!("it needs {needs}, {has} are free"))
            }
        })
    };
    paths.filter_map(one).collect()
}
