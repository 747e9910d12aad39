//! The names under which files are kept before others take their places.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// How what goes aside is named: `NAME.LABEL.TIME`.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    pub(super) label: &'static str,
    pub(super) time: String,
}

/// `PATH.LABEL.TIME`, with a number behind it where that is taken.
pub(super) fn aside_path(path: &Path, aside: &Aside) -> PathBuf {
    free_path(path, aside, &[])
}

/// The same, where the name is free with each of these endings as well.
fn free_path(path: &Path, aside: &Aside, endings: &[String]) -> PathBuf {
    let is_taken = |name: &OsString, ending: &str| {
        let mut name = name.clone();
        name.push(ending);
        fs::symlink_metadata(name).is_ok()
    };
    let mut number = 1;
    loop {
        let mut name = OsString::from(path);
        name.push(format!(".{}.{}", aside.label, aside.time));
        if number > 1 {
            name.push(format!(".{number}"));
        }
        // A database that was lost leaves its side files alone aside.
        if !is_taken(&name, "") && !endings.iter().any(|ending| is_taken(&name, ending)) {
            return name.into();
        }
        number += 1;
    }
}

/// The files at a place and the names under which they will be kept. Side files keep to the main
/// name: `superchat.db.before_restore.TIME-wal` is what SQLite takes for the `-wal` of
/// `superchat.db.before_restore.TIME`.
pub(super) fn aside_names(
    place: &Path,
    side_files: &[PathBuf],
    aside: &Aside,
) -> Vec<(PathBuf, PathBuf)> {
    let ending_of = |file: &Path| {
        let ending = &file.as_os_str().as_encoded_bytes()[place.as_os_str().len()..];
        String::from_utf8_lossy(ending).into_owned()
    };
    let endings: Vec<String> = side_files.iter().map(|file| ending_of(file)).collect();
    let main = free_path(place, aside, &endings);
    let files = std::iter::once(place).chain(side_files.iter().map(PathBuf::as_path));
    let there = files.filter(|file| fs::symlink_metadata(file).is_ok());
    there
        .map(|file| {
            let mut name = main.clone().into_os_string();
            name.push(ending_of(file));
            (file.to_owned(), name.into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files_alone_take_a_name_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("app.db");
        let wal = folder.path().join("app.db-wal");
        let aside = Aside { label: "before_restore", time: "T".into() };
        // Twice within a second, and no database but what it left.
        for number in ["", ".2"] {
            fs::write(&wal, number).unwrap();
            let names = aside_names(&place, std::slice::from_ref(&wal), &aside);
            let name = format!("app.db.before_restore.T{number}-wal");
            assert_eq!(names, [(wal.clone(), folder.path().join(name))]);
            fs::rename(&names[0].0, &names[0].1).unwrap();
        }
    }
}
