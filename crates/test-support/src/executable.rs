//! Files that are written and then run.
//!
//! Never by this process: while it has such a file open for writing, a test beside may start a
//! child, which holds all that is open here until it becomes another program. For that moment the
//! kernel refuses to run the file ("Text file busy"), whatever its name became meanwhile. So
//! another process writes it, of which nobody starts children.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script that everybody may run, at once.
///
/// # Panics
///
/// If it cannot be written.
pub fn executable(path: &Path, text: &str) {
    let words = ["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"];
    let mut writer =
        Command::new("sh").args(words).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let status = writer.wait().unwrap();
    assert!(status.success(), "cannot write {}: {status}", path.display());
}

/// Copies a program to where everybody may run it, at once.
///
/// # Panics
///
/// If it cannot be copied.
pub fn copied_program(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cannot copy {} to {}: {status}", from.display(), to.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forks::while_children_start;

    #[test]
    fn what_was_written_runs_while_children_are_started_beside() {
        let folder = tempfile::tempdir().unwrap();
        while_children_start(|| {
            for number in 0..40 {
                let (script, copy) = (folder.path().join("script"), folder.path().join("copy"));
                executable(&script, &format!("#!/bin/sh\nexit {number}\n"));
                assert_eq!(Command::new(&script).status().unwrap().code(), Some(number));
                copied_program(Path::new("/bin/true"), &copy);
                assert!(Command::new(&copy).status().unwrap().success());
            }
        });
    }
}
