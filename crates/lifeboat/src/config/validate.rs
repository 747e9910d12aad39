//! What no type can check: that names exist and are names, and that keys fit together.
//!
//! Pure: looks at no file but the configuration's own text, for the places of mistakes. What is
//! really there is for `config check`.

use super::load::Loaded;
use super::model::{Config, PruneWhen, SourceConfig, When};
use super::repository::RepositoryConfig;
use super::runs::Overlap;
use super::schedule::Schedule;
use super::{diagnose, keys};

/// The mistakes of a configuration that was read, each pointed at.
pub(crate) fn mistakes(loaded: &Loaded) -> Vec<String> {
    let mut found = Vec::new();
    let Loaded { config, places } = loaded;
    for (name, repository) in &config.repository {
        let mut add = |key: &str, message: &str| {
            found.push(places.point(&["repository", name, key], message));
        };
        if let Err(message) = plain_name("repository", name) {
            add("", &message);
        }
        for (key, message) in repository.mistakes() {
            add(key, &message);
        }
        check_drive(repository, &mut add);
        if let Some(Err(error)) = repository.encrypt_to.as_deref().map(keys::check_literal) {
            add("encrypt_to", &keys::in_one(&error));
        }
    }
    if let Some(drill) = &config.drill {
        for (key, text) in [("schedule", &drill.schedule), ("rebuild", &drill.rebuild)] {
            if let Some(Err(why)) = text.as_deref().map(Schedule::read) {
                found.push(places.point(&["drill", key], &why));
            }
        }
    }
    for (key, message) in config.agent.iter().flat_map(|agent| agent.mistakes()) {
        found.push(places.point(&["agent", key], &message));
    }
    for (name, notify) in &config.notify {
        if let Err(message) = plain_name("notifier", name) {
            found.push(places.point(&["notify", name], &message));
        }
        for (key, message) in notify.mistakes() {
            found.push(places.point(&["notify", name, key], &message));
        }
    }
    for (name, source) in &config.source {
        let mut add = |key: &[&str], message: &str| {
            let mut path = vec!["source", name.as_str()];
            path.extend(key);
            found.push(places.point(&path, message));
        };
        if let Err(message) = plain_name("source", name) {
            add(&[], &message);
        }
        check_kind(source, &mut add);
        check_service(source, &mut add);
        if let Some(Err(why)) = source.schedule.as_deref().map(Schedule::read) {
            add(&["schedule"], &why);
        }
        for (key, message) in source.drill.iter().flat_map(|drill| drill.mistakes()) {
            add(&["drill", key], &message);
        }
        check_repositories(config, source, &mut add);
        check_prune(config, source, &mut add);
        if source.overlap == Some(Overlap::Wait) && source.time_limit.is_none() {
            add(&["overlap"], "`overlap = \"wait\"` needs an end: set `time_limit` as well");
        }
    }
    found
}

/// A drive and the folder on it.
fn check_drive(repository: &RepositoryConfig, add: &mut dyn FnMut(&str, &str)) {
    let Some(mount) = &repository.mount else {
        if repository.file_system.is_some() {
            add("file_system", "it belongs to `mount`, which says where that drive appears");
        }
        return;
    };
    let folder = repository.url.strip_prefix("file://").map(lifeboat_stores::path_of_url);
    match folder {
        Some(Ok(folder)) if mount.is_absolute() && folder.starts_with(mount) => {}
        _ => add("mount", "the URL must be file:// and a folder at or below the mount point"),
    }
}

/// A name under which a folder can be made: no way out of it, and nothing hidden.
pub(crate) fn plain_name(what: &str, name: &str) -> Result<(), String> {
    let plain = !name.is_empty()
        && name.len() <= 200
        && !name.starts_with(['.', '-'])
        && !name.contains(['/', '@'])
        && !name.chars().any(char::is_control);
    match plain {
        true => Ok(()),
        false => Err(format!(
            "`{}` cannot be the name of a {what}: no `/`, `@` or control character in it, no `.` \
             or `-` at its start, 200 bytes at most",
            name.escape_debug()
        )),
    }
}

type Add<'a> = dyn FnMut(&[&str], &str) + 'a;

fn check_kind(source: &SourceConfig, add: &mut Add<'_>) {
    if let Some(postgres) = &source.postgres {
        if source.sqlite.is_some() {
            add(&["postgres"], "`sqlite` and `postgres` exclude each other: make two sources");
        }
        if postgres.0.receive && !postgres.0.physical {
            let message = "it is for whole clusters: set `physical = true` as well";
            add(&["postgres", "receive"], message);
        }
        for (key, message) in postgres.0.mistakes() {
            add(&["postgres", key], &message);
        }
        if postgres.0.databases.is_some() && source.id.is_some() {
            add(&["id"], "one `id` cannot stand for several databases");
        }
        if source.when == Some(When::OnChange) {
            add(&["when"], "`when = \"on-change\"` is for sources of files alone");
        }
    }
    match &source.sqlite {
        None if source.files.is_empty() && source.postgres.is_none() => {
            add(&[], "it has neither `sqlite` nor `postgres` nor `files`");
        }
        None => {}
        Some(sqlite) => {
            let sqlite = &sqlite.0;
            match (&sqlite.path, &sqlite.glob) {
                (None, None) => add(&["sqlite"], "it has neither `path` nor `glob`"),
                (Some(_), Some(_)) => {
                    add(&["sqlite", "glob"], "`path` and `glob` exclude each other")
                }
                (Some(path), None) if !path.is_absolute() => {
                    add(&["sqlite", "path"], "the path is not absolute (`~` is not expanded)");
                }
                (None, Some(glob)) if !glob.starts_with('/') => {
                    add(&["sqlite", "glob"], "the pattern is not absolute (`~` is not expanded)");
                }
                (None, Some(glob)) if !glob.contains(['*', '?']) => {
                    add(&["sqlite", "glob"], "the pattern has no `*` and no `?`: write `path`");
                }
                _ => {}
            }
            if sqlite.glob.is_some() && source.id.is_some() {
                add(&["id"], "one `id` cannot stand for all databases of a `glob`");
            }
            if source.when == Some(When::OnChange) {
                add(&["when"], "`when = \"on-change\"` is for sources of files alone");
            }
        }
    }
    if let Some(guard) = &source.guard {
        if source.sqlite.is_none() {
            add(&["guard"], "`guard` is for SQLite databases");
        }
        if guard.pending.as_ref().is_some_and(|folder| !folder.is_absolute()) {
            add(&["guard", "pending"], "the folder is not absolute (`~` is not expanded)");
        }
    }
    if source.sqlite.is_none() && source.postgres.is_none() && source.check.is_some() {
        add(&["check"], "`check` is for databases; files have none to check");
    }
    for file in source.files.iter().map(|file| &file.0) {
        let shown = diagnose::shown(&file.place());
        match (&file.path, &file.glob) {
            (Some(_), Some(_)) => add(&["files"], "`path` and `glob` exclude each other"),
            (None, None) => add(&["files"], "an entry has neither `path` nor `glob`"),
            _ if !file.place().is_absolute() => {
                add(&["files"], &format!("`{shown}` is not an absolute path"));
            }
            (None, Some(glob)) if !glob.contains(['*', '?']) => {
                add(&["files"], &format!("`{shown}` has no `*` and no `?`: write `path`"));
            }
            _ => {}
        }
    }
}

fn check_service(source: &SourceConfig, add: &mut Add<'_>) {
    let Some(service) = source.service.as_ref().map(|service| &service.0) else {
        let cold = source.sqlite.as_ref().and_then(|sqlite| sqlite.0.method)
            == Some(lifeboat_core::manifest::Method::Cold);
        if cold {
            add(&["sqlite", "method"], "`method = \"cold\"` needs a `service` to stop and start");
        }
        return;
    };
    match (service.unit.is_some(), service.stop.is_empty(), service.start.is_empty()) {
        (true, true, true) | (false, false, false) => {}
        (false, true, true) => add(&["service"], "it has neither `unit` nor `stop` and `start`"),
        (true, ..) => add(&["service"], "`unit` excludes `stop` and `start`"),
        (false, ..) => add(&["service"], "`stop` and `start` belong together"),
    }
    if service.unit.as_ref().is_some_and(|unit| unit.is_empty() || unit.starts_with('-')) {
        add(&["service", "unit"], "this is not the name of a systemd unit");
    }
}

/// A prune without a rule would keep everything, and nobody would know.
fn check_prune(config: &Config, source: &SourceConfig, add: &mut Add<'_>) {
    let takes =
        |name: &String| source.repository.as_ref().is_none_or(|names| names.names().contains(name));
    let without = config.repository.iter().find(|(name, one)| takes(name) && one.keep.is_none());
    let has_rule = source.keep.is_some() || (without.is_none() && !config.repository.is_empty());
    if source.prune == Some(PruneWhen::AfterBackup) && !has_rule {
        add(&["prune"], "nothing says what to keep: write `keep` as well");
    }
}

fn check_repositories(config: &Config, source: &SourceConfig, add: &mut Add<'_>) {
    let Some(names) = &source.repository else { return };
    let known: Vec<&str> = config.repository.keys().map(String::as_str).collect();
    if names.names().is_empty() {
        add(&["repository"], "the list of repositories is empty: its backups would go nowhere");
    }
    for name in names.names() {
        if known.is_empty() {
            add(&["repository"], &format!("unknown repository `{name}`: none is configured"));
        } else if !known.contains(&name.as_str()) {
            add(&["repository"], &diagnose::unknown_word("repository", name, &known));
        }
    }
}

/// The keys that are set and do nothing yet, with where they stand: said by `config check`, so
/// that nobody relies on them.
pub(crate) fn used_later(loaded: &Loaded) -> Vec<String> {
    let Loaded { config, places } = loaded;
    let mut keys: Vec<Vec<&str>> = Vec::new();
    if config.agent.as_ref().is_some_and(|agent| agent.listen.is_some()) {
        keys.push(vec!["agent", "listen"]);
    }
    let line = |key: Vec<&str>| match places.line_of(&key) {
        Some((path, line)) => format!("{} ({}:{line})", key.join("."), diagnose::shown(path)),
        None => key.join("."),
    };
    keys.into_iter().map(line).collect()
}
