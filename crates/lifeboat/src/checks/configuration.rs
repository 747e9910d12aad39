//! The configuration: found, readable, without mistakes, and private where it must be.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use lifeboat_core::{Error, Kind};

use super::{Finding, Subject};
use crate::config::diagnose::shown;
use crate::config::trust;
use crate::ui::units;

const CHECK: &str = "configuration";

/// Whether there is one, what is wrong with it, and who can write it.
pub(super) fn file(subject: &Subject<'_>) -> Vec<Finding> {
    let session = subject.session;
    let loaded = match session.loaded() {
        Ok(loaded) => loaded,
        Err(error) => return vec![Finding::bad(CHECK, "", &error)],
    };
    let files: Vec<_> = loaded.places.files.iter().map(|file| file.path.clone()).collect();
    if files.is_empty() && loaded.config.source.is_empty() {
        return vec![Finding::warning(
            CHECK,
            "",
            "there is none: nothing is backed up by itself",
            "lifeboat init",
        )];
    }
    if files.is_empty() {
        return vec![Finding::good(CHECK, "", "of variables of the environment")];
    }
    let doubts = match trust::has_commands(&loaded.config) {
        true => trust::doubts(&files, rustix::process::geteuid().as_raw()),
        false => Vec::new(),
    };
    let mut findings: Vec<Finding> = files
        .iter()
        .map(|path| Finding::good(CHECK, &shown(path), "read, without mistakes"))
        .collect();
    if loaded.config.source.is_empty() {
        let hint = "add a [source.NAME]; `lifeboat init --example --dry-run` shows every key";
        findings.push(Finding::warning(CHECK, "", "it has no source: nothing is backed up", hint));
    }
    findings.extend(doubts.into_iter().map(|doubt| {
        let message = format!("{doubt}: whoever can, runs commands in the next backup");
        Finding::warning(CHECK, "", message, "chown root FILE; chmod go-w FILE, and its folder")
    }));
    findings
}

/// Files with passwords: there, ours, and closed to others.
pub(super) fn secrets(subject: &Subject<'_>) -> Vec<Finding> {
    let Ok(loaded) = subject.session.loaded() else { return Vec::new() };
    let mut findings = Vec::new();
    for (name, source) in &loaded.config.source {
        let Some(postgres) = source.postgres.as_ref().map(|postgres| &postgres.0) else { continue };
        if let Some(path) = postgres.password.as_ref().and_then(|secret| secret.file.as_ref()) {
            findings.push(secret(path));
        }
        // A password in the URL makes the configuration itself a secret.
        let has_password = postgres.address().is_ok_and(|address| address.password.is_some());
        if !has_password {
            continue;
        }
        for file in &loaded.places.files {
            let mode = fs::metadata(&file.path).map_or(0, |found| found.mode());
            if mode & 0o044 != 0 && file.text.contains("://") {
                let path = shown(&file.path);
                let error = Error::new(
                    Kind::Usage,
                    format!("the password of `{name}` is in {path}, which others can read"),
                );
                let hint = format!("chmod 600 {}", units::shell_word(&path));
                findings.push(Finding::bad("secret", "", &error.hint(hint)));
            }
        }
    }
    findings.extend(password_file(subject));
    findings
}

fn secret(path: &Path) -> Finding {
    let name = shown(path);
    let word = units::shell_word(&name);
    let found = match fs::metadata(path) {
        Err(error) => {
            let message = format!("cannot read the password in {name}");
            Err(Error::io(Kind::Usage, message, error).hint(format!(
                "write the password alone into it: install -m 600 /dev/stdin {word}"
            )))
        }
        Ok(found) if found.mode() & 0o007 != 0 => {
            Err(Error::new(Kind::Usage, "everybody can read the password in it")
                .hint(format!("chmod 600 {word}")))
        }
        Ok(found) if found.mode() & 0o070 != 0 => {
            let message = format!("its group can use it (mode {:04o})", found.mode() & 0o7777);
            return Finding::warning("secret", &name, message, format!("chmod 600 {word}"));
        }
        Ok(_) => match fs::File::open(path) {
            Ok(_) => Ok("readable by its owner alone".to_owned()),
            Err(error) => {
                let message = format!("cannot read the password in {name}");
                Err(Error::io(Kind::Usage, message, error)
                    .hint(format!("give it to the user who backs up: chown USER {word}")))
            }
        },
    };
    Finding::of("secret", &name, found)
}

/// PostgreSQL's own file of passwords: the client programs ignore one that others can read.
fn password_file(subject: &Subject<'_>) -> Option<Finding> {
    if !subject.targets.iter().any(|target| target.database.is_some()) {
        return None;
    }
    let surroundings = &subject.session.surroundings;
    let path = surroundings
        .path("PGPASSFILE")
        .or_else(|| Some(surroundings.path("HOME")?.join(".pgpass")))?;
    let mode = fs::metadata(&path).ok()?.mode();
    let name = shown(&path);
    Some(match mode & 0o077 {
        0 => Finding::good("secret", &name, "readable by its owner alone"),
        _ => {
            let message = "PostgreSQL's programs ignore it: others can read it";
            Finding::warning(
                "secret",
                &name,
                message,
                format!("chmod 600 {}", units::shell_word(&name)),
            )
        }
    })
}
