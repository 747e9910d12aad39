//! Rights that are too wide: databases, host keys and repositories that others can read or write.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Finding, Subject};
use crate::config::diagnose::shown;
use crate::repositories;
use crate::ui::units;

const CHECK: &str = "file rights";

/// Of databases, of keys among the files beside them, and of repositories in folders.
pub(super) fn too_wide(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in subject.targets {
        if let Some(path) = &target.path {
            findings.extend(of_database(&target.name, path));
        }
    }
    findings.extend(keys(subject).iter().filter_map(|path| of_key(path)));
    for place in repositories::places(subject.session).unwrap_or_default() {
        let path = place.url.strip_prefix("file://").map(lifeboat_stores::path_of_url);
        let Some(Ok(folder)) = path else { continue };
        if reachable(&folder) & 0o006 != 0 {
            let message = format!("others can look into {}", shown(&folder));
            let hint = format!("chmod go-rwx {}", units::shell_word(&shown(&folder)));
            findings.push(Finding::warning(CHECK, place.label(), message, hint));
        }
    }
    match findings.is_empty() {
        true => vec![Finding::good(CHECK, "", "nobody else reads databases, keys or repositories")],
        false => findings,
    }
}

/// The bits that others have on a path, as far as the folders above let them come there.
fn reachable(path: &Path) -> u32 {
    let mode = |path: &Path| fs::metadata(path).map_or(0, |found| found.mode());
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match path.ancestors().skip(1).all(|folder| mode(folder) & 0o001 != 0) {
        true => mode(&path) & 0o007,
        false => 0,
    }
}

fn of_database(name: &str, path: &Path) -> Option<Finding> {
    let word = units::shell_word(&shown(path));
    let (can, mend) = match reachable(path) {
        bits if bits & 0o002 != 0 => ("write", "o-rwx"),
        bits if bits & 0o004 != 0 => ("read", "o-r"),
        _ => return None,
    };
    let message = format!("everybody on this host can {can} {}", shown(path));
    let hint = format!("chmod {mend} {word} {word}-wal {word}-shm; chmod o-rwx the folder");
    Some(Finding::warning(CHECK, name, message, hint))
}

/// Files of the configuration whose names are those of private keys.
fn keys(subject: &Subject<'_>) -> Vec<PathBuf> {
    let Ok(loaded) = subject.session.loaded() else { return Vec::new() };
    let all = loaded.config.source.values().flat_map(|source| &source.files);
    let places = all.filter(|file| file.0.glob.is_none()).map(|file| file.0.place());
    places.filter(|path| is_key(path)).collect()
}

/// Whether a file's name is that of a private key of SSH.
pub(crate) fn is_key(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.ends_with(".pub") && (name.contains("host_key") || name.ends_with("_key"))
}

/// `sshd` and others refuse a private key that the group or others can read.
fn of_key(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.mode() & 0o7777;
    (mode & 0o077 != 0).then(|| {
        let place = shown(path);
        let message = format!("the key {place} has the mode {mode:04o}: others can read it");
        Finding::warning(CHECK, &place, message, format!("chmod 600 {}", units::shell_word(&place)))
    })
}
