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
    let others = locks().into_iter().filter(|lock| lock.pid != own);
    others
        .filter_map(|lock| {
            let path = files.get(&lock.file)?.clone();
            Some(Holder { pid: lock.pid, name: name_of(lock.pid), path })
        })
        .collect()
}

/// A lock that a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    /// The process.
    pub(crate) pid: u32,
    /// Device and inode of the file.
    pub(crate) file: (u64, u64),
    /// The first byte that is locked.
    pub(crate) first: u64,
    /// The last.
    pub(crate) last: u64,
}

/// Every lock that a process holds. Those that are waited for, and those that belong to an open
/// file instead of a process, are not among them.
pub(crate) fn locks() -> Vec<Lock> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().filter(|line| !line.contains("->")).filter_map(parse_lock).collect()
}

/// A line such as `1: POSIX  ADVISORY  WRITE 1234 fe:01:5678 1073741825 1073741825`.
fn parse_lock(line: &str) -> Option<Lock> {
    let mut words = line.split_whitespace().skip_while(|word| !word.contains("ADVISORY"));
    let pid = words.nth(2)?.parse().ok()?;
    let file = lock_identity(words.next()?)?;
    let first = words.next()?.parse().ok()?;
    let last = words.next().map_or(Some(u64::MAX), |word| match word {
        "EOF" => Some(u64::MAX),
        number => number.parse().ok(),
    })?;
    Some(Lock { pid, file, first, last })
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
    fn lines_of_the_kernel_are_read() {
        let lock = parse_lock("7: POSIX  ADVISORY  READ 12 fe:01:56 124 EOF").unwrap();
        assert_eq!((lock.pid, lock.first, lock.last), (12, 124, u64::MAX));
        assert_eq!(lock.file, (rustix::fs::makedev(0xfe, 1), 56));
        assert!(parse_lock("7: OFDLCK ADVISORY  READ -1 fe:01:56 0 EOF").is_none());
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
