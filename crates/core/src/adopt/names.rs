//! The names that backup scripts give: what they say of a file, before anybody looks into it.
//!
//! Pure. A name is only a claim; content decides. What is not named like a backup stays where it
//! is, and the error here says why in a person's words.

use jiff::civil;

/// What a name says that a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// A SQLite database.
    Sqlite,
    /// A dump of a PostgreSQL database, as SQL.
    Dump,
}

impl Content {
    /// The kind of its source.
    pub fn kind(self) -> &'static str {
        match self {
            Content::Sqlite => "sqlite",
            Content::Dump => "postgres",
        }
    }

    /// What its artifact is within a backup.
    pub fn role(self) -> &'static str {
        match self {
            Content::Sqlite => "database",
            Content::Dump => "dump",
        }
    }

    /// The ending of its artifact, before that of a compression.
    pub fn extension(self) -> &'static str {
        match self {
            Content::Sqlite => "db",
            Content::Dump => "sql",
        }
    }
}

/// Why a script made a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Its schedule.
    Schedule,
    /// A migration of the schema from that version.
    Migration(String),
    /// A restore, which was about to overwrite it.
    BeforeRestore,
}

/// What a name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptName {
    /// What stands before the time: `superchat`, `admin_sqlite`; of plain copies the name of the
    /// file that was copied, `superchat.db`.
    pub base: String,
    /// The name without the endings of compression and content.
    pub stem: String,
    /// The time of day in whatever zone the script ran.
    pub local: civil::DateTime,
    /// What it should hold.
    pub content: Content,
    /// Why it was made.
    pub occasion: Occasion,
}

impl ScriptName {
    /// The base without the ending of a database's file: the same for `superchat-...db.gz` and
    /// `superchat.db.backup-v1-...`.
    pub fn group(&self) -> &str {
        let known = DATABASE_ENDINGS.iter().find_map(|ending| self.base.strip_suffix(ending));
        known.filter(|group| !group.is_empty()).unwrap_or(&self.base)
    }
}

const DATABASE_ENDINGS: [&str; 3] = [".db", ".sqlite", ".sqlite3"];
const SIDE_ENDINGS: [&str; 3] = ["-wal", "-shm", "-journal"];
const BEFORE_RESTORE: &str = "before_restore";

/// Reads a file's name. The error says why it is none of a backup.
pub fn read(name: &str) -> Result<ScriptName, &'static str> {
    let plain = [".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    if SIDE_ENDINGS.iter().any(|ending| plain.ends_with(ending)) {
        return Err("a side file of a database: it means nothing without the file that it \
                    belonged to");
    }
    if let Some((base, time)) = plain.rsplit_once(".before_restore.") {
        return before_restore(base, time, plain);
    }
    if let Some((base, rest)) = plain.rsplit_once(".backup-v") {
        return migration(base, rest, plain);
    }
    let sqlite = DATABASE_ENDINGS.iter().find_map(|ending| plain.strip_suffix(ending));
    let (content, stem) = match (sqlite, plain.strip_suffix(".sql")) {
        (Some(stem), _) => (Content::Sqlite, stem),
        (None, Some(stem)) => (Content::Dump, stem),
        (None, None) => return Err(other(plain)),
    };
    let (base, _, local) = split_time(stem)?;
    let (base, occasion) = match base.strip_suffix(BEFORE_RESTORE) {
        Some(base) => (base.trim_end_matches(['_', '-', '.']), Occasion::BeforeRestore),
        None => (base, Occasion::Schedule),
    };
    named(base, stem, local, content, occasion)
}

/// `superchat.db.before_restore.20250108_140000`. A `-` in the time is of our own restores.
fn before_restore(base: &str, time: &str, stem: &str) -> Result<ScriptName, &'static str> {
    match split_time(time)? {
        ("", '_', local) => named(base, stem, local, Content::Sqlite, Occasion::BeforeRestore),
        ("", ..) => Err("kept by a restore of lifeboat: `lifeboat undo` goes back to it"),
        _ => Err(NO_TIME),
    }
}

/// `superchat.db.backup-v8-20250108-143022`.
fn migration(base: &str, rest: &str, stem: &str) -> Result<ScriptName, &'static str> {
    let (version, _, local) = split_time(rest)?;
    let is_version = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    if version.is_empty() || version.len() > 32 || !version.chars().all(is_version) {
        return Err("its name holds no version of a schema");
    }
    named(base, stem, local, Content::Sqlite, Occasion::Migration(version.to_owned()))
}

fn named(
    base: &str,
    stem: &str,
    local: civil::DateTime,
    content: Content,
    occasion: Occasion,
) -> Result<ScriptName, &'static str> {
    if base.is_empty() || base.starts_with('.') {
        return Err("its name does not say of what it is a backup");
    }
    Ok(ScriptName { base: base.to_owned(), stem: stem.to_owned(), local, content, occasion })
}

const NO_TIME: &str = "its name does not end with a date and a time";

/// What stands before `20250108-140000` or `20250108_140000` at the end, without the separator.
fn split_time(text: &str) -> Result<(&str, char, civil::DateTime), &'static str> {
    let at = text.len().checked_sub("YYYYMMDD-HHMMSS".len()).ok_or(NO_TIME)?;
    let (before, time) = text.split_at_checked(at).ok_or(NO_TIME)?;
    let bytes = time.as_bytes();
    let separator = char::from(bytes[8]);
    let digits = |range: std::ops::Range<usize>| -> Option<i16> {
        let part = &bytes[range];
        part.iter()
            .all(u8::is_ascii_digit)
            .then(|| part.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0')))
    };
    let parts = [0..4, 4..6, 6..8, 9..11, 11..13, 13..15].map(digits);
    let [Some(year), Some(month), Some(day), Some(hour), Some(minute), Some(second)] = parts else {
        return Err(NO_TIME);
    };
    if !matches!(separator, '-' | '_') {
        return Err(NO_TIME);
    }
    // All have two digits.
    let small = |number: i16| number as i8;
    let local = civil::DateTime::new(
        year,
        small(month),
        small(day),
        small(hour),
        small(minute),
        small(second),
        0,
    );
    let local = local.map_err(|_| "its name holds a date or a time that cannot be")?;
    let before = before.strip_suffix(['-', '_', '.']).unwrap_or(before);
    Ok((before, separator, local))
}

/// Why a file is left that is no database and no dump by its name.
fn other(name: &str) -> &'static str {
    match () {
        () if name.starts_with("ssh_host_key") => {
            "a copy of a host key without a date: protect the key itself as a source of files"
        }
        () if name.contains(".tar") || name.ends_with(".tgz") => {
            "an archive of files: only databases and dumps are adopted"
        }
        () if name.ends_with(".log") => "a log: only databases and dumps are adopted",
        () => "not named like the backup of a script",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> civil::DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn the_names_of_both_guides() {
        let moment = at("2025-01-08T14:00:00");
        for (name, base, group, content, occasion) in [
            ("superchat-20250108-140000.db.gz", "superchat", "superchat", Content::Sqlite, None),
            ("superchat-20250108-140000.db", "superchat", "superchat", Content::Sqlite, None),
            ("my-chat 2-20250108-140000.db.zst", "my-chat 2", "my-chat 2", Content::Sqlite, None),
            (
                "admin_sqlite_20250108_140000.db.gz",
                "admin_sqlite",
                "admin_sqlite",
                Content::Sqlite,
                None,
            ),
            (
                "admin_postgres_20250108_140000.sql.gz",
                "admin_postgres",
                "admin_postgres",
                Content::Dump,
                None,
            ),
            (
                "admin_postgres_20250108_140000.sql",
                "admin_postgres",
                "admin_postgres",
                Content::Dump,
                None,
            ),
            (
                "superchat.db.backup-v1-20250108-140000",
                "superchat.db",
                "superchat",
                Content::Sqlite,
                Some(Occasion::Migration("1".into())),
            ),
            (
                "superchat.db.backup-v12-20250108-140000.gz",
                "superchat.db",
                "superchat",
                Content::Sqlite,
                Some(Occasion::Migration("12".into())),
            ),
            (
                "admin.db.before_restore.20250108_140000",
                "admin.db",
                "admin",
                Content::Sqlite,
                Some(Occasion::BeforeRestore),
            ),
            (
                "admin_postgres_before_restore_20250108_140000.sql",
                "admin_postgres",
                "admin_postgres",
                Content::Dump,
                Some(Occasion::BeforeRestore),
            ),
        ] {
            let read = read(name).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!((read.base.as_str(), read.group()), (base, group), "{name}");
            assert_eq!((read.local, read.content), (moment, content), "{name}");
            assert_eq!(read.occasion, occasion.unwrap_or(Occasion::Schedule), "{name}");
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (name, why) in [
            ("superchat.db", "date and a time"),
            ("superchat-latest.db.gz", "date and a time"),
            ("superchat-20250132-140000.db.gz", "cannot be"),
            ("superchat-20250108-250000.db.gz", "cannot be"),
            ("superchat-20250108x140000.db.gz", "date and a time"),
            ("superchat-2025010८-140000.db.gz", "date and a time"),
            ("superchat-1400.db-wal", "side file"),
            ("superchat.db.backup-v1-20250108-140000-wal", "side file"),
            ("admin.db.before_restore.20250108-140000", "undo"),
            ("admin.db.before_restore.x", "date and a time"),
            ("superchat.db.backup-v-20250108-140000", "version"),
            ("-20250108-140000.db", "of what"),
            ("20250108-140000.db.gz", "of what"),
            ("ssh_host_key.backup", "host key"),
            ("full_backup_20250108_140000.tar.gz", "archive"),
            ("notes", "not named"),
            ("", "not named"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
