//! Whether only those may write a configuration whose commands it may name.
//!
//! A configuration with hooks, or with the commands of a service, is a program: whoever can write
//! it runs commands as the user that backs up.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::diagnose::shown;
use super::model::Config;

/// The bit of a folder in which only owners may rename: `/tmp`.
const STICKY: u32 = 0o1000;

/// Whether it names commands.
pub(crate) fn has_commands(config: &Config) -> bool {
    let of_service = |service: &super::model::ServiceConfig| !service.stop.is_empty();
    config.hooks.is_some()
        || config.source.values().any(|source| {
            let service = source.service.as_ref();
            source.hooks.is_some() || service.is_some_and(|service| of_service(&service.0))
        })
}

/// Why others than `user`, or root, can change one of these files; a line for each.
pub(crate) fn doubts(files: &[PathBuf], user: u32) -> Vec<String> {
    let mut doubts = Vec::new();
    for path in files {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        for (place, is_folder) in [(path.as_path(), false), (folder, true)] {
            let Ok(metadata) = fs::metadata(place) else { continue };
            let (mode, owner) = (metadata.mode(), metadata.uid());
            let place = shown(place);
            if owner != user && owner != 0 {
                doubts.push(format!("{place} belongs to another user (number {owner})"));
            } else if mode & 0o022 != 0 && !(is_folder && mode & STICKY != 0) {
                let mode = mode & 0o7777;
                doubts.push(format!("others can write {place} (mode {mode:04o})"));
            }
        }
    }
    doubts.dedup();
    doubts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_can_change_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, "").unwrap();
        let set = |place: &Path, mode| {
            fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
        };
        let user = fs::metadata(&path).unwrap().uid();
        let files = [path.clone()];
        for (file, above, expected) in
            [(0o600, 0o755, 0), (0o660, 0o700, 1), (0o602, 0o777, 2), (0o644, 0o1777, 0)]
        {
            set(&path, file);
            set(folder.path(), above);
            assert_eq!(doubts(&files, user).len(), expected, "{file:o} {above:o}");
        }
        set(&path, 0o600);
        assert_eq!(doubts(&files, user + 1).is_empty(), user == 0);
    }
}
