//! Which settings of a server are to be changed, so that it archives with us, or no longer does.

use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Session as ServerSession, literal};
use serde_json::Value;

use super::before::{Before, Was};
use crate::ui::units;

/// What marks an archive command as ours.
const OURS: &str = " wal push %p";
/// After so many seconds a server ends a segment that has something in it.
const ARCHIVE_TIMEOUT: &str = "60s";
/// Versions from this one on can let a role change single settings.
const SINGLE_RIGHTS_MAJOR: u64 = 150_000;
/// Settings that only a restart of the server changes.
const AT_RESTART: &[&str] = &["archive_mode", "wal_level"];
/// Programs that archive, by a word of their command, and what their users restore with.
const OTHERS: &[(&str, &str, &str)] = &[
    ("pgbackrest", "pgBackRest", "pgbackrest restore"),
    ("barman", "Barman", "barman recover"),
    ("wal-g", "WAL-G", "wal-g backup-fetch"),
    ("pg_probackup", "pg_probackup", "pg_probackup restore"),
    ("pgmoneta", "pgmoneta", "pgmoneta-cli restore"),
];

/// A setting that is to be changed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) setting: &'static str,
    pub(super) before: String,
    /// Whether `before` was set by ALTER SYSTEM.
    by_alter_system: bool,
    /// `None` takes away what ALTER SYSTEM set.
    pub(super) after: Option<String>,
}

/// What is to be set.
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// What people must know of it.
    pub(super) notes: Vec<String>,
    /// The restore command that belongs to it.
    pub(super) restore_command: String,
    /// Whether our role may change them; else somebody writes them into `postgresql.conf`.
    pub(super) is_allowed: bool,
    /// The cluster.
    pub(super) system: String,
}

/// The commands that a server is given.
pub(super) struct Commands {
    pub(super) archive: String,
    pub(super) restore: String,
}

impl Commands {
    /// Of a program with its configuration, for a source.
    pub(super) fn of(program: &str, source: &str) -> Commands {
        // A percent sign means something to the server.
        let (program, source) = (program.replace('%', "%%"), source.replace('%', "%%"));
        Commands {
            archive: format!("{program}{OURS} --source {source}"),
            restore: format!("{program} wal fetch %f %p --source {source}"),
        }
    }
}

impl Change {
    /// The statement that makes it.
    pub(super) fn statement(&self) -> String {
        match &self.after {
            Some(value) => format!("ALTER SYSTEM SET {} = {}", self.setting, literal(value)),
            None => format!("ALTER SYSTEM RESET {}", self.setting),
        }
    }

    /// The line of `postgresql.conf` that makes it.
    pub(super) fn line(&self) -> String {
        match &self.after {
            Some(value) => format!("{} = {}", self.setting, literal(value)),
            None => format!("# {} as it was before", self.setting),
        }
    }

    /// What it was, for the day on which it is to be so again.
    pub(super) fn was(&self) -> Was {
        Was {
            value: self.before.clone(),
            by_alter_system: self.by_alter_system,
            ours: self.after.clone().unwrap_or_default(),
        }
    }
}

impl Plan {
    /// Whether the server must be restarted for it.
    pub(super) fn needs_restart(&self) -> bool {
        self.changes.iter().any(|change| AT_RESTART.contains(&change.setting))
    }
}

/// The settings of a server, as a plan needs them.
struct Settings<'a> {
    server: &'a mut ServerSession,
}

impl Settings<'_> {
    /// The value; empty where the version knows no such setting.
    fn value(&mut self, name: &str) -> Result<String> {
        let value = self.server.setting_or_none(name)?.unwrap_or_default();
        // What a server says that does not archive.
        Ok(if value == "(disabled)" { String::new() } else { value })
    }

    /// Whether ALTER SYSTEM set it; `false` where we may not see that.
    fn is_by_alter_system(&mut self, name: &str) -> Result<bool> {
        let row = self.server.row(&format!(
            "SELECT coalesce(max(sourcefile), '') AS file FROM pg_catalog.pg_settings \
             WHERE name = {}",
            literal(name)
        ))?;
        let file = row.get("file").and_then(Value::as_str).unwrap_or_default();
        Ok(file.ends_with("postgresql.auto.conf"))
    }

    fn change(&mut self, setting: &'static str, after: Option<String>) -> Result<Change> {
        let (before, by_alter_system) = (self.value(setting)?, self.is_by_alter_system(setting)?);
        Ok(Change { setting, before, by_alter_system, after })
    }

    /// Whether our role may use ALTER SYSTEM for what we set.
    fn may_alter(&mut self) -> Result<bool> {
        if self.value("allow_alter_system")? == "off" {
            return Ok(false);
        }
        let version: u64 = self.value("server_version_num")?.parse().unwrap_or(0);
        let of_setting = match version >= SINGLE_RIGHTS_MAJOR {
            true => " OR pg_catalog.has_parameter_privilege('archive_command', 'ALTER SYSTEM')",
            false => "",
        };
        let row = self.server.row(&format!(
            "SELECT rolsuper{of_setting} AS may FROM pg_catalog.pg_roles \
             WHERE rolname = current_user"
        ))?;
        Ok(row.get("may") == Some(&Value::Bool(true)))
    }
}

/// The cluster's system identifier.
pub(super) fn system(server: &mut ServerSession) -> Result<String> {
    let row = server
        .row("SELECT system_identifier::text AS system FROM pg_catalog.pg_control_system()")?;
    Ok(row.get("system").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// What makes the server archive with us. [`Kind::Refused`] where another program does, unless it
/// is to be replaced.
pub(super) fn install(
    server: &mut ServerSession,
    commands: Commands,
    source: &str,
    replace: bool,
) -> Result<Plan> {
    let system = system(server)?;
    let mut settings = Settings { server };
    let command = settings.value("archive_command")?;
    let library = settings.value("archive_library")?;
    let is_ours = command.contains(OURS);
    let mut notes = Vec::new();
    let other = match (library.is_empty(), command.is_empty() || is_ours) {
        (false, _) => Some(("archive_library", library.clone())),
        (true, false) => Some(("archive_command", command.clone())),
        (true, true) => None,
    };
    if let Some((setting, value)) = other {
        let what = other_program(&value, source);
        if !replace {
            let value = units::one_line(&value);
            let message = format!("the server archives already: {setting} = '{value}'");
            return Err(Error::new(Kind::Refused, message).hint(format!(
                "only one program can archive: --replace puts this one in its place, and \
                 --uninstall sets that one again. {what}"
            )));
        }
        notes.push(what);
    }
    let mut changes = Vec::new();
    if command != commands.archive {
        changes.push(settings.change("archive_command", Some(commands.archive))?);
    }
    if !library.is_empty() {
        changes.push(settings.change("archive_library", Some(String::new()))?);
    }
    for (setting, wrong, right) in [
        ("archive_mode", "off", "on"),
        ("wal_level", "minimal", "replica"),
        ("archive_timeout", "0", ARCHIVE_TIMEOUT),
    ] {
        if settings.value(setting)? == wrong {
            changes.push(settings.change(setting, Some(right.to_owned()))?);
        }
    }
    let is_allowed = settings.may_alter()?;
    Ok(Plan { changes, notes, restore_command: commands.restore, is_allowed, system })
}

/// What becomes of the work of the program that archived before.
fn other_program(command: &str, source: &str) -> String {
    let source = units::shell_word(source);
    let known = OTHERS.iter().find(|(word, ..)| command.contains(word));
    let (name, restore) = match known {
        Some((_, name, restore)) => (*name, format!(" ({restore})")),
        None => ("the other program", String::new()),
    };
    format!(
        "what {name} stored stays, and can be restored by it{restore} up to the change; from a \
         backup after the change on everything is here: lifeboat backup {source}"
    )
}

/// What makes the server as it was before.
pub(super) fn uninstall(
    server: &mut ServerSession,
    commands: Commands,
    before: &Before,
) -> Result<Plan> {
    let system = system(server)?;
    let mut settings = Settings { server };
    let is_ours = settings.value("archive_command")?.contains(OURS);
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    if is_ours {
        for setting in ["archive_command", "archive_library", "archive_mode", "archive_timeout"] {
            let after = match before.settings.get(setting) {
                // Somebody else set it since.
                Some(was) if was.ours != settings.value(setting)? => continue,
                Some(was) if was.by_alter_system => Some(was.value.clone()),
                Some(_) => None,
                // Nothing was kept: ours goes, and what we cannot have set stays.
                None if setting == "archive_command" => None,
                None => continue,
            };
            changes.push(settings.change(setting, after)?);
        }
        let is_changed = |name: &str| changes.iter().any(|change| change.setting == name);
        let earlier = before.settings.get("archive_command").map_or("", |was| was.value.as_str());
        if earlier.is_empty() && !is_changed("archive_library") {
            notes.push(match is_changed("archive_mode") {
                true => "until the restart the server keeps its log, as it archives nowhere: \
                         restart it soon"
                    .to_owned(),
                false => "archive_mode stays on, and what the archive command was before is not \
                          known: without one the server keeps its log until its disk is full; set \
                          one, or archive_mode = off and restart"
                    .to_owned(),
            });
        }
    }
    let is_allowed = settings.may_alter()?;
    Ok(Plan { changes, notes, restore_command: commands.restore, is_allowed, system })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_known_programs_are_told_what_becomes_of_their_backups() {
        let told = other_program("pgbackrest --stanza=main archive-push %p", "main");
        assert!(
            told.contains("pgBackRest stored") && told.contains("pgbackrest restore"),
            "{told}"
        );
        let told = other_program("cp %p /archive/%f", "main");
        assert!(
            told.contains("the other program") && told.contains("lifeboat backup main"),
            "{told}"
        );
    }

    #[test]
    fn a_percent_sign_of_a_path_is_none_of_the_server() {
        let commands = Commands::of("'/opt/100%/lifeboat'", "a");
        assert_eq!(commands.archive, "'/opt/100%%/lifeboat' wal push %p --source a");
    }
}
