//! Which databases make one source, and what each is called.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat_core::names;

use crate::discover::Database;

/// Names that say what a file is, and nothing of whose.
const COMMON: &[&str] =
    &["app", "data", "database", "db", "main", "sqlite", "prod", "production", "store", "storage"];

/// Folders that say as little.
const COMMON_FOLDERS: &[&str] =
    &["data", "_data", "db", "database", "databases", "lib", "share", "storage", "var", "srv"];

/// The unit of all that have it open; `None` where they differ, as one of them may be a visitor.
pub(super) fn unit(database: &Database) -> Option<String> {
    let mut units = database.openers.iter().filter_map(|opener| opener.unit.as_ref());
    let first = units.next()?;
    units.all(|unit| unit == first).then(|| first.clone())
}

/// A name for a database: that of its file, of its folder where the file's says nothing, both
/// where that is taken, then with a number.
pub(super) fn free_name(path: &Path, taken: &mut BTreeSet<String>) -> String {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| names::source_name(&part.to_string_lossy())).unwrap_or_default()
    };
    let stem = text(path.file_stem());
    let folders = path.ancestors().skip(1).map(|folder| text(folder.file_name()));
    let folder = folders
        .map(|name| name.trim_start_matches('.').to_owned())
        .find(|name| !name.is_empty() && !COMMON_FOLDERS.contains(&name.as_str()));
    let both = folder.as_ref().map(|folder| names::source_name(&format!("{folder}-{stem}")));
    let is_common = COMMON.contains(&stem.as_str());
    let mut wanted: Vec<String> = Vec::new();
    wanted.extend(folder.filter(|_| is_common));
    wanted.push(stem.clone());
    wanted.extend(both);
    free(wanted, &stem, taken)
}

/// The first of those names that is free, else the last one with a number.
pub(super) fn free(wanted: Vec<String>, stem: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| names::source_name(&format!("{stem}-{number}")));
    let free = wanted.into_iter().chain(numbered).find(|name| taken.insert(name.clone()));
    free.unwrap_or_else(|| stem.to_owned())
}

/// So many databases of one name in folders beside each other are tenants of one application.
const TENANTS_MIN: usize = 4;

/// Folders of applications that have nothing to do with each other.
const NO_TENANTS: &[&str] =
    &["/", "/var/lib", "/var/www", "/srv", "/opt", "/data", "/home", "/root", "/usr/local"];

/// Databases that one source stands for: those of tenants together, every other alone.
pub(super) fn groups<'a>(databases: &[&'a Database]) -> Vec<Vec<&'a Database>> {
    let mut groups: Vec<Vec<&'a Database>> = Vec::new();
    for database in databases {
        let same = |group: &&mut Vec<&Database>| {
            pattern(database).is_some_and(|found| pattern(group[0]).as_ref() == Some(&found))
                && unit(group[0]) == unit(database)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(database),
            None => groups.push(vec![database]),
        }
    }
    let split = |group: Vec<&'a Database>| match group.len() >= TENANTS_MIN {
        true => vec![group],
        false => group.into_iter().map(|database| vec![database]).collect(),
    };
    groups.into_iter().flat_map(split).collect()
}

/// The glob that stands for a tenant's database and those beside it, and the folder of all.
pub(super) fn pattern(database: &Database) -> Option<(String, PathBuf)> {
    let name = database.path.file_name()?.to_str()?;
    let folder = database.path.parent()?.parent()?;
    let text = folder.to_str()?;
    let is_plain = !text.contains(['*', '?']) && !name.contains(['*', '?']);
    let is_one = !NO_TENANTS.contains(&text) && folder.parent() != Some(Path::new("/home"));
    (is_plain && is_one).then(|| (format!("{text}/*/{name}"), folder.to_owned()))
}

/// The name that a glob's source gives to one of its databases.
pub(super) fn tenant(name: &str, database: &Database) -> String {
    let folder = database.path.parent().and_then(Path::file_name).unwrap_or_default();
    names::source_name(&format!("{name}-{}", folder.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_databases_apart() {
        let mut taken = BTreeSet::new();
        let mut name = |path: &str| free_name(Path::new(path), &mut taken);
        assert_eq!(name("/var/lib/superchat/superchat.db"), "superchat");
        assert_eq!(name("/srv/bot/data/app.db"), "bot");
        assert_eq!(name("/srv/shop/app.db"), "shop");
        assert_eq!(name("/opt/superchat/superchat.db"), "superchat-superchat");
        assert_eq!(name("/home/a/.superchat/superchat.db"), "superchat-2");
        assert_eq!(name("/data.db"), "data");
        assert_eq!(name("/data/data.db"), "data-2");
    }
}
