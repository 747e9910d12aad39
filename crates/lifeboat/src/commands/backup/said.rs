//! What is said of a backup that was made: its line of facts, its checks, and the commands that
//! go on from it.

use std::path::{Path, PathBuf};

use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::repository::Repository;

use crate::repositories;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::printer::Style;
use crate::ui::units;

/// When it was taken, as people read it.
pub(super) fn taken(session: &Session, manifest: &Manifest) -> String {
    units::moment(manifest.taken_at, &session.surroundings.time_zone)
}

/// Tells of a backup that was made: where, how large, how checked, and how it is restored.
pub(super) fn committed(
    session: &Session,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
) {
    let printer = &session.printer;
    let good = printer.paint_err(Style::Good, "backed up");
    let total_ms = manifest.timings_ms.get("total").copied().unwrap_or(0);
    let mut text = format!(
        "{good} {} as {} in {}\n",
        units::one_line(&manifest.source.name),
        units::one_line(&manifest.name),
        units::duration(total_ms),
    );
    text.push_str(&format!("  where    {}/{folder}\n", repository.url()));
    let (plain, stored) = (manifest.plain_bytes(), manifest.stored_bytes());
    text.push_str(&format!(
        "  size     {} stored of {}\n",
        units::bytes(stored),
        units::bytes(plain)
    ));
    text.push_str(&format!("  checked  {}\n", checked(manifest)));
    if let Some(seal) = manifest.artifacts.iter().find_map(|artifact| artifact.sealed.as_ref()) {
        text.push_str(&format!("  sealed   to {}\n", units::one_line(&seal.to.join(", "))));
    }
    text.push_str(&format!("  restore  {}", restore_command(session, folder, manifest)));
    printer.note(&text);
    let is_open = manifest.artifacts.iter().any(|artifact| artifact.sealed.is_none());
    if is_open && manifest.facts.get("role_passwords").is_some_and(|has| has == true) {
        let name = units::one_line(&manifest.source.name);
        let message = format!(
            "the hashes of all roles' passwords are in it, and {} is not sealed: who reads it can \
             try passwords; name `encrypt_to` for the repository",
            repository.url()
        );
        printer.warning(&name, &message);
    }
    // That a check moved to a scratch restore is in the line above already: how, not what.
    let moved = manifest.checks.iter().any(|check| check.on == "scratch-restore");
    for warning in &manifest.warnings {
        match moved && warning.contains("scratch restore") {
            true => printer.detail(warning),
            false => printer.warning(&units::one_line(&manifest.source.name), warning),
        }
    }
}

/// What was checked, on what, in one line.
pub(crate) fn checked(manifest: &Manifest) -> String {
    let mut parts: Vec<String> = Vec::new();
    for check in &manifest.checks {
        let name = check.name.replace('_', " ");
        let on = check.on.replace('-', " ");
        let notes = match check.notes.len() {
            0 => String::new(),
            1 => format!(" ({})", check.notes[0]),
            count => format!(" ({} and {} more notes)", check.notes[0], count - 1),
        };
        parts.push(format!("{name} on {on}{notes}"));
    }
    match manifest.condition {
        Condition::Good => {}
        Condition::Unchecked => parts.push("the database itself was not checked".to_owned()),
        Condition::Damaged => parts.push("the database was damaged, as is known".to_owned()),
    }
    parts.join(", ")
}

/// The command that restores a backup, with the options that this run was given to find it.
pub(crate) fn restore_command(session: &Session, folder: &str, manifest: &Manifest) -> String {
    let moment = lifeboat_core::moment::compact(manifest.taken_at);
    let mut command = String::from("lifeboat restore ");
    command.push_str(&units::shell_word(&format!("{folder}@{moment}")));
    command.push_str(&options_of_run(session));
    command
}

/// What a command has to name for the same source: its configured name, else its database.
pub(super) fn word_of(session: &Session, target: &Target) -> String {
    let configured =
        session.loaded().is_ok_and(|loaded| loaded.config.source.contains_key(&target.name));
    match (&target.path, configured) {
        (Some(path), false) => {
            std::path::absolute(path).unwrap_or(path.clone()).to_string_lossy().into_owned()
        }
        _ => target.name.clone(),
    }
}

/// The options that this run was given to find configuration and repository, each with a space
/// before it.
pub(super) fn options_of_run(session: &Session) -> String {
    let mut command = String::new();
    let absolute = |path: &Path| -> PathBuf { std::path::absolute(path).unwrap_or(path.into()) };
    if let Some(config) = &session.globals.config {
        let config = absolute(config);
        command.push_str(&format!(" --config {}", units::shell_word(&config.to_string_lossy())));
    }
    if let Some(file) = &session.globals.env_file {
        let file = absolute(file);
        command.push_str(&format!(" --env-file {}", units::shell_word(&file.to_string_lossy())));
    }
    if session.globals.repo.is_some() {
        // What was typed may be a path that holds in this folder only: with it, there is one place.
        let places = repositories::places(session).unwrap_or_default();
        let label = places.first().map_or("", |place| place.label());
        command.push_str(&format!(" --repo {}", units::shell_word(label)));
    }
    command
}
