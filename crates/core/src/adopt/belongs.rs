//! Which source a script's file belongs to. Pure.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use super::names::{Content, ScriptName};
use crate::names::NamePattern;

/// A source that is known, from the configuration or the repository.
#[derive(Clone, Debug)]
pub struct KnownSource {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Where its database is.
    pub path: Option<PathBuf>,
    /// How its backups are named.
    pub pattern: NamePattern,
}

/// The known sources that a file in `folder` may belong to, as indices: of all rules the first
/// one that any source fits.
///
/// A copy beside a database is of that database. Else a source whose backups would have this name
/// is meant, and else one whose name, or whose database's file name, the script used.
pub fn candidates(script: &ScriptName, folder: &Path, known: &[KnownSource]) -> Vec<usize> {
    let beside = |source: &KnownSource| source.path.as_deref() == Some(&*folder.join(&script.base));
    let moment = TimeZone::UTC.to_timestamp(script.local).ok();
    let by_pattern = |source: &KnownSource| {
        moment.is_some_and(|moment| source.pattern.name(&source.name, moment) == script.stem)
    };
    let words = words(script);
    let by_name = |source: &KnownSource| {
        let path = source.path.as_deref();
        let names = [path.and_then(Path::file_stem), path.and_then(Path::file_name)];
        let mut names = names.into_iter().flatten().filter_map(|name| name.to_str());
        words.contains(&source.name.as_str()) || names.any(|name| words.contains(&name))
    };
    let rules: [&dyn Fn(&KnownSource) -> bool; 3] = [&beside, &by_pattern, &by_name];
    for rule in rules {
        let fits = |source: &KnownSource| source.kind == script.content.kind() && rule(source);
        let found: Vec<usize> = (0..known.len()).filter(|index| fits(&known[*index])).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// The names that a script may have meant by its base: `admin_sqlite` is of `admin`.
fn words(script: &ScriptName) -> Vec<&str> {
    let mut words = vec![script.base.as_str(), script.group()];
    let engines: &[&str] = match script.content {
        Content::Sqlite => &["_sqlite", "-sqlite"],
        Content::Dump => &["_postgres", "-postgres", "_postgresql", "-postgresql"],
    };
    let group = script.group();
    words.extend(engines.iter().find_map(|engine| group.strip_suffix(engine)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::names;

    fn source(name: &str, path: &str, pattern: &str) -> KnownSource {
        KnownSource {
            name: name.into(),
            kind: "sqlite".into(),
            path: Some(path.into()),
            pattern: pattern.parse().unwrap(),
        }
    }

    fn found(name: &str, folder: &str, known: &[KnownSource]) -> Vec<usize> {
        candidates(&names::read(name).unwrap(), Path::new(folder), known)
    }

    #[test]
    fn the_place_then_the_pattern_then_the_name() {
        let dash = "{source}-{date}-{time}";
        let known = [
            source("chat", "/srv/a/superchat.db", dash),
            source("superchat", "/srv/b/superchat.db", dash),
            source("admin", "/srv/c/data.db", "admin_sqlite_{date}_{time}"),
            source("other", "/srv/d/admin.db", dash),
        ];
        let copy = "superchat.db.backup-v1-20250108-140000";
        assert_eq!(found(copy, "/srv/a", &known), [0], "beside the database");
        assert_eq!(found(copy, "/elsewhere", &known), [0, 1], "which of the two is not known");
        assert_eq!(found("superchat-20250108-140000.db.gz", "/b", &known), [1]);
        assert_eq!(found("admin_sqlite_20250108_140000.db.gz", "/b", &known), [2]);
        assert_eq!(found("admin_sqlite_20250108_140000.db.gz", "/b", &known[3..]), [0]);
        assert_eq!(found("admin.db.before_restore.20250108_140000", "/x", &known[3..]), [0]);
        assert_eq!(found("admin_postgres_20250108_140000.sql.gz", "/b", &known), [0_usize; 0]);
        assert_eq!(found("strange-20250108-140000.db.gz", "/b", &known), [0_usize; 0]);
    }
}
