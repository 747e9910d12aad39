//! Where `cargo xtask test` puts what tests need, and how a test says that it lacks something.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether this process runs as root, who is refused nothing.
///
/// # Panics
///
/// Without the file system of processes.
pub fn is_root() -> bool {
    user() == 0
}

/// The number of the user of this process.
pub(crate) fn user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Where a file of what was installed for tests is, whether it is there or not.
pub fn installed(file: &str) -> PathBuf {
    match is_root() {
        true => Path::new("/var/cache/lifeboat-tests").join(file),
        false => {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/servers-of-tests").join(file)
        }
    }
}

/// Says past the test harness, which keeps what a passing test prints to itself, what was skipped.
///
/// # Panics
///
/// If nobody can be told.
pub fn skipped(what: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {what}\n").as_bytes()).unwrap();
}
