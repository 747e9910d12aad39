//! Files that lie beside a database and mean something: a transaction that was cut off, a `-wal`
//! whose database is gone, what a restore left half-way.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::source::Engine as _;
use lifeboat_sqlite::SqliteEngine;

use super::{Finding, Subject};
use crate::config::diagnose::shown;
use crate::sources;
use crate::ui::units;

const CHECK: &str = "leftovers";

/// From this size on a `-wal` is larger than any checkpoint leaves it.
const WAL_BYTES_MAX: u64 = 256 << 20;

/// Beside each database.
pub(super) fn beside(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut looked = false;
    for target in subject.targets {
        let Some(path) = &target.path else { continue };
        let Ok(place) = sources::place_of(path) else { continue };
        looked = true;
        findings.extend(of_one(&target.name, &place));
    }
    match findings.is_empty() && looked {
        true => {
            vec![Finding::good(CHECK, "", "nothing beside the databases that tells of trouble")]
        }
        false => findings,
    }
}

fn of_one(name: &str, place: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let word = |path: &Path| units::shell_word(&shown(path));
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let is_held = SqliteEngine.holders(place).is_ok_and(|holders| !holders.is_empty());
    let side = |ending: &str| {
        let mut name = place.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (wal, journal) = (side("-wal"), side("-journal"));
    let sides = [&wal, &journal];
    if fs::symlink_metadata(place).is_err() {
        for left in sides.into_iter().filter(|path| bytes(path) > 0) {
            let message = format!("{} is there, and its database is not", shown(left));
            let hint = format!("lifeboat rescue {}", units::shell_word(name));
            findings.push(Finding::warning(CHECK, name, message, hint));
        }
        return findings;
    }
    if bytes(&journal) > 0 && !is_held && is_hot(&journal) {
        let message = format!("{} is of a transaction that was cut off", shown(&journal));
        let hint = "never remove or move it: start the application, which rolls back";
        findings.push(Finding::warning(CHECK, name, message, hint));
    }
    if bytes(&wal) > WAL_BYTES_MAX {
        let message = format!(
            "{} has {}: no checkpoint comes through, a reader may hold it",
            shown(&wal),
            units::bytes(bytes(&wal))
        );
        let hint = format!("sqlite3 {} 'PRAGMA wal_checkpoint(TRUNCATE)'", word(place));
        findings.push(Finding::warning(CHECK, name, message, hint));
    } else if bytes(&wal) > 0 && !is_held {
        let message = format!(
            "{} holds rows that are not in the database's file, and nobody has it open: the \
             application did not end cleanly",
            shown(&wal)
        );
        let hint = "copy, move and restore both together, or start the application";
        findings.push(Finding::warning(CHECK, name, message, hint));
    }
    let staged = place.with_file_name(format!(
        ".{}.lifeboat-staging",
        place.file_name().unwrap_or_default().to_string_lossy()
    ));
    let is_left = fs::File::open(&staged).is_ok_and(|file| file.try_lock().is_ok());
    if is_left {
        let message = format!(
            "a restore that was killed left {} ({})",
            shown(&staged),
            units::bytes(bytes(&staged))
        );
        findings.push(Finding::warning(CHECK, name, message, format!("rm {}", word(&staged))));
    }
    findings
}

/// A journal that is kept for the next transaction begins with zeros.
fn is_hot(journal: &Path) -> bool {
    fs::File::open(journal).is_ok_and(|mut file| {
        let mut first = [0; 8];
        std::io::Read::read_exact(&mut file, &mut first).is_ok() && first[0] == 0xd9
    })
}
