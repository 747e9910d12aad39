//! Data directories of clusters, copied from one that `initdb` made once: a test run needs
//! hundreds, and half of what their servers cost was the making.
//!
//! A copy gets a system identifier of its own, in `global/pg_control` and in the files of the log:
//! else two clusters of a test would be the same one.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_postgres::control;

use crate::place::installed;

/// Where the checksum of the control file may be: it is of all that stands before it.
const SUMS_AT: [usize; 2] = [288, 292];
/// Where the identifier is in the first page of a file of the log, and what says that it is there.
const IDENTIFIER_AT: u64 = 24;
const LONG_HEADER: u16 = 2;

/// Makes the data directory of a cluster as `initialize` does with that `initdb` and those
/// arguments: by it, or as a copy of what it made before.
///
/// # Errors
///
/// What `initialize` gives.
///
/// # Panics
///
/// If no copy can be made.
pub fn make<E>(
    initdb: &Path,
    arguments: &[&str],
    data: &Path,
    initialize: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // One at a time makes an original; who has it copies it beside others.
    static MAKING: Mutex<()> = Mutex::new(());
    let Some(original) = original(initdb, arguments) else { return initialize(data) };
    if !original.exists() {
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if !original.exists() {
            initialize(data)?;
            keep(data, &original);
            return Ok(());
        }
    }
    copy(&original, data);
    rename(data, new_identifier());
    Ok(())
}

/// Where the original lies; another one after another installation. `None` where none can be kept.
fn original(initdb: &Path, arguments: &[&str]) -> Option<PathBuf> {
    let folder = installed("clusters");
    fs::create_dir_all(&folder).ok()?;
    let program = initdb.canonicalize().ok()?;
    let facts = program.metadata().ok()?;
    let words = [program.to_str()?, &arguments.join(" ")].join(" ");
    let name: String =
        words.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '_' }).collect();
    let tail = name.len().saturating_sub(150);
    Some(folder.join(format!("{}-{}-{}", &name[tail..], facts.size(), facts.mtime())))
}

/// Keeps it, unless another process was faster.
fn keep(data: &Path, original: &Path) {
    let name = format!(".{}.{}", original.file_name().unwrap().display(), std::process::id());
    let part = original.with_file_name(name);
    copy(data, &part);
    if fs::rename(&part, original).is_err() {
        fs::remove_dir_all(&part).unwrap();
    }
}

/// With owners and modes.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let copied = command.args(["-aT", "--reflink=auto"]).arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

/// As `initdb` makes them: of the time, and of what tells apart those of the same moment.
fn new_identifier() -> u64 {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    (now.as_secs() << 32)
        | u64::from(now.subsec_micros()) << 12 ^ (u64::from(process) << 6 ^ number)
}

/// Gives the cluster in a folder another identifier.
fn rename(data: &Path, identifier: u64) {
    let path = data.join(control::PATH);
    let mut bytes = fs::read(&path).unwrap();
    let sum = |bytes: &[u8], at: usize| crc32c::crc32c(&bytes[..at]).to_le_bytes();
    let sum_at = SUMS_AT.into_iter().find(|&at| sum(&bytes, at) == bytes[at..at + 4]);
    let sum_at = sum_at.expect("the control file has its checksum where it is looked for");
    bytes[..8].copy_from_slice(&identifier.to_le_bytes());
    let sum = sum(&bytes, sum_at);
    bytes[sum_at..sum_at + 4].copy_from_slice(&sum);
    File::options().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
    for entry in fs::read_dir(data.join("pg_wal")).unwrap().map(Result::unwrap) {
        if !entry.file_type().unwrap().is_file() {
            continue;
        }
        let file = File::options().read(true).write(true).open(entry.path()).unwrap();
        let mut head = [0; 4];
        file.read_exact_at(&mut head, 0).unwrap();
        assert!(u16::from_le_bytes([head[2], head[3]]) & LONG_HEADER != 0, "{:?}", entry.path());
        file.write_all_at(&identifier.to_le_bytes(), IDENTIFIER_AT).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use crate::postgres::{cluster, majors};

    #[test]
    fn no_cluster_is_another_one() {
        for major in majors() {
            let identifier = || {
                let cluster = cluster(*major, &[]);
                super::control::Control::of_folder(&cluster.data_folder())
                    .unwrap()
                    .system_identifier
            };
            assert_ne!(identifier(), identifier(), "{major}");
        }
    }
}
