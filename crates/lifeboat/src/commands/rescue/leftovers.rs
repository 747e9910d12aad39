//! What a rescue that was killed left beside the database: the file between two of its steps, or
//! one that was not finished. The next one tells of both. What was not finished it removes when the
//! database is back; the other may be what somebody made by hand with the commands of the list.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lifeboat_core::source::Engine as _;
use lifeboat_sqlite::SqliteEngine;

use crate::session::Session;
use crate::ui::units;

/// What the names of such files go on with, behind that of the database; then the time follows.
pub(super) const LABELS: &[&str] = &[".rescue-", ".salvaged-"];

/// Who makes a file that is not finished holds a lock on it.
pub(super) fn is_unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Files that only a rescue makes, and that nobody uses.
pub(super) fn find(place: &Path) -> Vec<PathBuf> {
    let base = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_named = |name: &str| {
        // What is not finished is hidden.
        let rest = name.strip_prefix('.').unwrap_or(name).strip_prefix(&base);
        let time = rest.and_then(|rest| LABELS.iter().find_map(|label| rest.strip_prefix(label)));
        time.is_some_and(|time| time.starts_with(|digit: char| digit.is_ascii_digit()))
    };
    let entries = fs::read_dir(place.parent().unwrap_or(Path::new("/"))).into_iter().flatten();
    let named = entries.flatten().filter(|entry| {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_file && is_named(&entry.file_name().to_string_lossy())
    });
    let is_free = |path: &PathBuf| {
        is_unlocked(path) && SqliteEngine.holders(path).is_ok_and(|holders| holders.is_empty())
    };
    let mut found: Vec<PathBuf> = named.map(|entry| entry.path()).filter(is_free).collect();
    found.sort();
    found
}

/// Whether it was not finished, so that nobody can want it.
fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What is said of one.
pub(super) fn note(path: &Path) -> String {
    let size = units::bytes(fs::metadata(path).map_or(0, |found| found.len()));
    let word = units::shell_word(&path.to_string_lossy());
    match is_unfinished(path) {
        true => format!("a rescue that was killed left {size}, which the next one removes: {word}"),
        false => format!("a rescue that was killed left {size}; when nobody needs it: rm {word}"),
    }
}

/// Removes what was not finished, when the database is back.
pub(super) fn remove(session: &Session, found: &[PathBuf]) {
    for path in found.iter().filter(|path| is_unfinished(path)) {
        let shown = units::one_line(&path.to_string_lossy());
        match fs::remove_file(path) {
            Ok(()) => {
                session.printer.note(&format!("removed {shown}, of a rescue that was killed"));
            }
            Err(error) => session.printer.warning(&shown, &format!("cannot be removed: {error}")),
        }
    }
}
