//! Which files of a folder of migrations a database has not had. Pure: of names alone.
//!
//! Names are `001_users.sql`, `V1.2__users.sql`, `20250101120000_users.sql`,
//! `2014_10_12_000000_users.php`, or folders named so. A database lists names, or versions, or
//! holds one version. What cannot be compared counts as pending: a backup too many costs less than
//! one too few.

use lifeboat_core::manifest::SchemaVersion;
use lifeboat_sqlite::Applied;

/// What is pending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// Names of the files, in the order of their versions.
    pub(super) files: Vec<String>,
    /// Names that could not be compared with what the database says, and count as pending.
    pub(super) unclear: Vec<String>,
    /// How many migrations the folder holds.
    pub(super) total: usize,
}

/// A version as numbers, so that 10 is after 9 and 1.10 after 1.9.
type Version = Vec<u64>;

/// Compares the names in a folder with what a database says of itself.
pub(super) fn pending(
    names: &[String],
    applied: &Applied,
    version: Option<&SchemaVersion>,
) -> Pending {
    let mut migrations: Vec<&String> = names.iter().filter(|name| is_migration(name)).collect();
    migrations.sort_by_key(|name| (version_of(name), (*name).clone()));
    let total = migrations.len();
    let listed = |name: &str| applied.names.iter().any(|applied| is_same(applied, name));
    // As soon as one is listed by its name, all are.
    let by_name = migrations.iter().any(|name| listed(name));
    let had = versions_had(applied, version);
    let mut result = Pending { total, ..Pending::default() };
    for name in migrations {
        match (by_name, version_of(name), &had) {
            (true, ..) if listed(name) => {}
            (true, ..) => result.files.push(name.clone()),
            (false, Some(file), Some(had)) if had.covers(&file) => {}
            (false, Some(_), Some(_)) => result.files.push(name.clone()),
            (false, None, _) | (false, _, None) => result.unclear.push(name.clone()),
        }
    }
    result
}

/// The versions that a database had.
struct Had {
    all: Vec<Version>,
}

impl Had {
    /// A list may begin with a baseline, and a table may hold the newest version alone: what is
    /// below the lowest one counts as had.
    fn covers(&self, file: &Version) -> bool {
        match (self.all.iter().min(), self.all.iter().max()) {
            (Some(lowest), Some(highest)) => {
                self.all.contains(file) || file < lowest || (self.all.len() == 1 && file < highest)
            }
            // No migration was applied yet.
            _ => false,
        }
    }
}

/// `None` where the database says nothing that can be compared with numbers.
fn versions_had(applied: &Applied, version: Option<&SchemaVersion>) -> Option<Had> {
    let texts: Vec<&str> = match (&applied.read_from, version) {
        (Some(_), _) => applied.names.iter().map(String::as_str).collect(),
        (None, Some(version)) => vec![version.version.as_str()],
        (None, None) => Vec::new(),
    };
    let all: Option<Vec<Version>> =
        texts.iter().map(|text| numbers(text).or_else(|| version_of(text))).collect();
    all.map(|all| Had { all })
}

/// Whether a name of the table means that file: as it is, without its ending, or without that of a
/// pair for up and down.
fn is_same(applied: &str, file: &str) -> bool {
    let stem = |name: &str| -> String {
        let name = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        name.strip_suffix(".up").unwrap_or(name).to_owned()
    };
    applied == file || applied == stem(file) || stem(applied) == stem(file) && applied.contains('.')
}

/// Whether a name is that of a migration: not of one that takes back, repeats, or is hidden.
fn is_migration(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let undoes = lower.ends_with(".down.sql") || lower.ends_with(".rollback.sql");
    let flyway = |first: char| name.starts_with(first) && name.contains("__");
    let hidden = name.starts_with(['.', '_']) || name.ends_with('~');
    let known = lower.ends_with(".sql") || version_of(name).is_some();
    known && !undoes && !hidden && !flyway('U') && !flyway('R')
}

/// The version at the beginning of a name.
fn version_of(name: &str) -> Option<Version> {
    if let Some((version, _)) = name.strip_prefix(['V', 'v']).and_then(|rest| rest.split_once("__"))
    {
        return numbers(&version.replace('_', "."));
    }
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let parts: Vec<&str> = name.split(['_', '-', '.']).collect();
    let digits = |at: usize, count: usize| {
        parts.get(at).is_some_and(|part| part.len() == count && part.bytes().all(|b| is_digit(&b)))
    };
    // A date in parts, with or without a time: 2014_10_12_000000.
    if digits(0, 4) && digits(1, 2) && digits(2, 2) {
        let time = if digits(3, 6) { parts[3] } else { "" };
        return numbers(&format!("{}{}{}{time}", parts[0], parts[1], parts[2]));
    }
    let end = name.bytes().position(|byte| !is_digit(&byte)).unwrap_or(name.len());
    let ends_well = name[end..].is_empty() || name[end..].starts_with(['_', '-', '.']);
    if end == 0 || !ends_well { None } else { numbers(&name[..end]) }
}

/// "1.10" as numbers; `None` for anything else.
fn numbers(text: &str) -> Option<Version> {
    let parts = text.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse().ok() } else { None }
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn had(read_from: &str, names: &[&str]) -> Applied {
        Applied { read_from: Some(read_from.to_owned()), names: files(names) }
    }

    fn at(version: &str) -> Option<SchemaVersion> {
        Some(SchemaVersion { read_from: "user_version".into(), version: version.into() })
    }

    #[test]
    fn numbers_are_compared_with_a_list_of_versions() {
        let folder = files(&["010_j.sql", "009_i.sql", "008_h.sql", "001_a.sql", "README.md"]);
        let all: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let found = pending(&folder, &had("schema_migrations.version", &all), None);
        assert_eq!(found.files, ["010_j.sql"]);
        assert_eq!((found.total, found.unclear.len()), (4, 0));
        let found = pending(&folder, &had("schema_migrations.version", &all[..7]), None);
        assert_eq!(found.files, ["008_h.sql", "009_i.sql", "010_j.sql"]);
        // One that was left out is pending, whatever came after it.
        let found = pending(&folder, &had("schema_migrations.version", &["1", "9", "10"]), None);
        assert_eq!(found.files, ["008_h.sql"]);
        // One row alone is the newest version, all below were had.
        let found = pending(&folder, &had("schema_migrations.version", &["9"]), None);
        assert_eq!(found.files, ["010_j.sql"]);
        let found = pending(&folder, &had("schema_migrations.version", &[]), None);
        assert_eq!(found.files.len(), 4);
    }

    #[test]
    fn names_are_compared_with_a_list_of_names() {
        let folder = files(&["001_a.sql", "002_b.sql", "018_c.sql"]);
        let listed = had("migrations.filename", &["001_a.sql", "018_c.sql"]);
        assert_eq!(pending(&folder, &listed, None).files, ["002_b.sql"]);
        let folder = files(&["2014_10_12_000000_create_users.php", "2026_01_02_000000_x.php"]);
        let listed = had("migrations.migration", &["2014_10_12_000000_create_users"]);
        assert_eq!(pending(&folder, &listed, None).files, ["2026_01_02_000000_x.php"]);
        let folder = files(&["20250101120000_init", "20260101120000_more", "migration_lock.toml"]);
        let listed = had("_prisma_migrations.migration_name", &["20250101120000_init"]);
        assert_eq!(pending(&folder, &listed, None).files, ["20260101120000_more"]);
    }

    #[test]
    fn one_version_is_compared_with_numbers() {
        let folder = files(&["V1__a.sql", "V1.9__b.sql", "V1_10__c.sql", "U1__a.sql", "R__v.sql"]);
        let found = pending(&folder, &Applied::default(), at("1.9").as_ref());
        assert_eq!(found.files, ["V1_10__c.sql"]);
        assert_eq!(found.total, 3);
        let folder = files(&["1_a.up.sql", "1_a.down.sql", "2_b.up.sql", "2_b.down.sql"]);
        let found = pending(&folder, &Applied::default(), at("1").as_ref());
        assert_eq!(found.files, ["2_b.up.sql"]);
        let found = pending(&folder, &Applied::default(), None);
        assert_eq!(found.files, ["1_a.up.sql", "2_b.up.sql"]);
        let diesel = files(&["2025-01-01-000000_a", "2025-02-01-000000_b"]);
        let listed = had("__diesel_schema_migrations.version", &["20250101000000"]);
        assert_eq!(pending(&diesel, &listed, None).files, ["2025-02-01-000000_b"]);
    }

    #[test]
    fn what_cannot_be_compared_counts_as_pending() {
        let folder = files(&["users.sql", "3f2a_x.py"]);
        let found = pending(&folder, &Applied::default(), at("3").as_ref());
        assert_eq!((found.files.len(), found.unclear), (0, files(&["users.sql"])));
        let listed = had("alembic_version.version_num", &["3f2a9c"]);
        let folder = files(&["001_a.sql"]);
        assert_eq!(pending(&folder, &listed, None).unclear, ["001_a.sql"]);
    }
}
