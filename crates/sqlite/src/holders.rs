//! Which other processes have a database, or one of its side files, open.
//!
//! Found by device and inode among the open files of all processes that we may look at, and
//! among the kernel's list of locks, which everybody may read. Nothing is opened for it, so no
//! lock of ours can be lost.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_core::source::Holder;

/// `-wal`, `-shm` and `-journal` of a database.
pub(crate) fn side_files(path: &Path) -> Vec<PathBuf> {
    ["-wal", "-shm", "-journal"].iter().map(|suffix| side_file(path, suffix)).collect()
}

/// The path with a suffix behind its last byte.
pub(crate) fn side_file(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// The other processes that have the database open, sorted by process, one entry for each file.
/// A path that does not exist is open nowhere.
pub(crate) fn holders(path: &Path) -> Vec<Holder> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut files = BTreeMap::new();
    for file in std::iter::once(path.clone()).chain(side_files(&path)) {
        if let Ok(metadata) = fs::metadata(&file) {
            files.insert((metadata.dev(), metadata.ino()), file);
        }
    }
    if files.is_empty() {
        return Vec::new();
    }
    let mut found = by_open_files(&files);
    found.extend(by_locks(&files));
    found.sort_by(|a, b| (a.pid, &a.path).cmp(&(b.pid, &b.path)));
    found.dedup();
    found
}

/// " by name (process 12)" for a message; empty when nobody is found.
pub(crate) fn describe(path: &Path) -> String {
    let mut names: Vec<String> = holders(path)
        .iter()
        .map(|holder| format!("{} (process {})", holder.name, holder.pid))
        .collect();
    names.dedup();
    match names.is_empty() {
        true => String::new(),
        false => format!(" by {}", names.join(", ")),
    }
}

type Files = BTreeMap<(u64, u64), PathBuf>;

fn by_open_files(files: &Files) -> Vec<Holder> {
    let own = std::process::id();
    let mut found = Vec::new();
    for pid in processes().filter(|&pid| pid != own) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(metadata) = fs::metadata(descriptor.path()) else { continue };
            if let Some(path) = files.get(&(metadata.dev(), metadata.ino())) {
                found.push(Holder { pid, name: name_of(pid), path: path.clone() });
            }
        }
    }
    found
}

fn by_locks(files: &Files) -> Vec<Holder> {
    let own = std::process::id();
    let others = locks().into_iter().filter(|&(pid, _)| pid != own);
    others
        .filter_map(|(pid, identity)| {
            let path = files.get(&identity)?.clone();
            Some(Holder { pid, name: name_of(pid), path })
        })
        .collect()
}

/// Every lock that a process holds: the process, and device and inode of the file. From lines
/// such as `1: POSIX  ADVISORY  WRITE 1234 fe:01:5678 1073741825 1073741825`. Those that are
/// waited for, and those that belong to an open file instead of a process, are not among them.
pub(crate) fn locks() -> Vec<(u32, (u64, u64))> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter(|line| !line.contains("->"));
    held.filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| !word.contains("ADVISORY"));
        let (pid, file) = (words.nth(2)?, words.next()?);
        Some((pid.parse().ok()?, lock_identity(file)?))
    })
    .collect()
}

fn lock_identity(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode = parts.next()?.parse().ok()?;
    Some((rustix::fs::makedev(major, minor), inode))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn name_of(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => name.trim_end().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_go_behind_the_last_byte() {
        assert_eq!(side_file(Path::new("/a b/x.db"), "-wal"), Path::new("/a b/x.db-wal"));
    }

    #[test]
    fn another_process_is_found_and_we_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(holders(file.path()), []);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(file.path()).unwrap())
            .spawn()
            .unwrap();
        let found = holders(file.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, child.id());
        assert_eq!(holders(file.path()), []);
    }
}
