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
    let mut number = 1;
    loop {
        let mut name = OsString::from(path);
        name.push(format!(".{}.{}", aside.label, aside.time));
        if number > 1 {
            name.push(format!(".{number}"));
        }
        if fs::symlink_metadata(&name).is_err() {
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
    let main = aside_path(place, aside);
    let files = std::iter::once(place).chain(side_files.iter().map(PathBuf::as_path));
    let there = files.filter(|file| fs::symlink_metadata(file).is_ok());
    there
        .map(|file| {
            let suffix = &file.as_os_str().as_encoded_bytes()[place.as_os_str().len()..];
            let mut name = main.clone().into_os_string();
            name.push(String::from_utf8_lossy(suffix).as_ref());
            (file.to_owned(), name.into())
        })
        .collect()
}
