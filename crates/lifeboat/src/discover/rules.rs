//! What is not offered as a source, and why: caches, profiles of browsers, what the system makes
//! anew, copies. Rules by name alone, so that they can be said.

use std::path::Path;

/// Folders that are not looked into, wherever they are.
const FOLDERS: &[(&str, &[&str])] = &[
    ("a cache", &[".cache", "cache", "Cache", "caches", "Caches", ".npm", ".cargo", ".rustup"]),
    (
        "the profile of a browser or a mail program",
        &[".mozilla", "mozilla", ".thunderbird", "thunderbird", "google-chrome", "chromium"],
    ),
    (
        "the profile of a browser or a mail program",
        &["BraveSoftware", "microsoft-edge", "vivaldi", "evolution", "firefox"],
    ),
    (
        "programs and their parts",
        &["node_modules", ".git", "site-packages", "dist-packages", ".venv", "venv", "snap"],
    ),
    ("programs and their parts", &["flatpak", "overlay2", "containers", "snapd", "__pycache__"]),
    (
        "what the desktop makes anew",
        &["tracker", "tracker3", "gvfs-metadata", "akonadi", "baloo", "zeitgeist"],
    ),
    ("thrown away", &["Trash", ".Trash", "lost+found"]),
    ("snapshots of the file system", &[".snapshots", ".zfs"]),
];

/// Folders of copies: not looked into, though a database that a program has open there counts.
const BACKUPS: &[&str] = &["backup", "backups", "Backups", "old", "archive"];

/// Places where the system keeps what it makes anew, or what lasts only for a while.
const PLACES: &[(&str, &[&str])] = &[
    ("temporary", &["/tmp", "/var/tmp", "/run", "/dev/shm"]),
    ("a cache", &["/var/cache"]),
    (
        "made anew by the system",
        &["/var/lib/apt", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/dnf", "/var/lib/PackageKit"],
    ),
    (
        "made anew by the system",
        &["/usr/lib/sysimage", "/var/lib/command-not-found", "/var/lib/fwupd", "/var/lib/colord"],
    ),
    (
        "made anew by the system",
        &["/var/lib/NetworkManager", "/var/lib/systemd", "/var/lib/cloud", "/var/lib/man-db"],
    ),
    ("made anew by the system", &["/var/lib/swcatalog", "/var/lib/mlocate", "/var/lib/plocate"]),
];

/// What a program calls a database that it has copied or thrown away.
const COPIES: &[&str] = &[".bak", ".old", ".orig", ".backup", ".save", ".corrupt", ".corrupted"];

/// The reason that a folder of that name is not looked into.
pub(super) fn folder(name: &str) -> Option<&'static str> {
    if BACKUPS.contains(&name) {
        return Some("a folder of copies");
    }
    let found = FOLDERS.iter().find(|(_, names)| names.contains(&name));
    found.map(|(reason, _)| *reason)
}

/// The reason that a place of the system is not looked into.
pub(super) fn place(path: &Path) -> Option<&'static str> {
    let found = PLACES.iter().find(|(_, places)| places.iter().any(|it| path.starts_with(it)));
    found.map(|(reason, _)| *reason)
}

/// The reason that a database which a program has open is left out, by where it is; `meant` is
/// the folder around it that somebody named. Folders of copies do not count here: what is in use
/// is no copy.
pub(super) fn open_file(path: &Path, meant: Option<&Path>) -> Option<&'static str> {
    let below = meant.and_then(|meant| path.strip_prefix(meant).ok()).unwrap_or(path);
    let names = below.parent().into_iter().flat_map(Path::components);
    let by_folder = names
        .filter_map(|component| component.as_os_str().to_str())
        .filter(|name| !BACKUPS.contains(name))
        .find_map(folder);
    let by_place = if meant.is_none() { place(path) } else { None };
    by_place.or(by_folder)
}

/// The reason that a file of that name is a copy: ours, one of a migration, or somebody else's.
pub(super) fn copy(name: &str) -> Option<&'static str> {
    if [".before_restore.", ".before_undo.", ".backup-v"].iter().any(|mark| name.contains(mark)) {
        return Some("a copy kept before a restore or a migration");
    }
    let is_copy =
        COPIES.iter().any(|ending| name.ends_with(ending) || name.contains(&format!("{ending}.")));
    let staged = name.starts_with('.') && name.ends_with(".lifeboat-staging");
    (is_copy || staged || name.ends_with('~') || has_moment(name)).then_some("a copy, by its name")
}

/// Whether a name holds a date and a time as scripts write them: 20250108-140000 or with `_`.
fn has_moment(name: &str) -> bool {
    name.as_bytes().windows(15).any(|window| {
        window.iter().enumerate().all(|(index, byte)| match index {
            8 => matches!(byte, b'-' | b'_'),
            _ => byte.is_ascii_digit(),
        })
    })
}

/// Endings that databases have; a file with another one is looked at only where a `-wal` or a
/// `-journal` is beside it.
pub(super) fn may_be_database(name: &str) -> bool {
    const ENDINGS: &[&str] =
        &["db", "sqlite", "sqlite3", "db3", "sqlitedb", "s3db", "sl3", "sdb", "kdb", "dat"];
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => {
            ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_and_copies_are_left_out_and_databases_are_not() {
        assert!(folder("google-chrome").is_some() && folder("superchat").is_none());
        assert!(place(Path::new("/var/lib/rpm/rpmdb.sqlite")).is_some());
        assert!(place(Path::new("/var/lib/rpmdb-app/app.db")).is_none());
        let open = |path: &str, meant: Option<&str>| {
            open_file(Path::new(path), meant.map(Path::new)).is_some()
        };
        assert!(open("/home/a/.mozilla/firefox/x/places.sqlite", None));
        assert!(open("/home/a/.mozilla/firefox/x/places.sqlite", Some("/home/a")));
        assert!(!open(
            "/home/a/.mozilla/firefox/x/places.sqlite",
            Some("/home/a/.mozilla/firefox/x")
        ));
        assert!(open("/tmp/a/app.db", None) && !open("/tmp/a/app.db", Some("/tmp/a")));
        assert!(!open("/srv/backups/index.db", None));
        for name in [
            "superchat.db.backup-v2-20250105-140000",
            "app.db.before_restore.20250108-140000",
            "superchat-20250108-140000.db",
            "app.db.bak",
            "app.db~",
        ] {
            assert!(copy(name).is_some(), "{name}");
        }
        for name in ["app.db", "superchat.db", "2025.sqlite", "backup.db"] {
            assert!(copy(name).is_none(), "{name}");
        }
        assert!(may_be_database("Plex.DB") && may_be_database("data") && may_be_database(".store"));
        assert!(!may_be_database("photo.jpg"));
    }
}
