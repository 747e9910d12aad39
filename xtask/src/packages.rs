//! Packages of the distribution that the tests need.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{is_there, run};

/// Whether we run as root, who may install packages.
pub(crate) fn is_root() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Installs Debian packages; where that is not possible, the error names the command.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_root() || !is_there("apt-get") {
        bail!("the tests need {list}; as root: apt-get install -y {list}");
    }
    println!("installing {list}");
    let quiet = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Acquire::Retries=3"]);
        command
    };
    run(quiet().arg("update"))?;
    run(quiet().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

/// A command of npm, which is installed if it is missing.
pub(crate) fn npm() -> Result<Command> {
    if !is_there("npm") {
        install(&["npm"])?;
    }
    Ok(Command::new("npm"))
}

/// Unpacks a Debian package to a folder without installing it: nothing of it is started, and no
/// other package comes with it.
pub(crate) fn unpack(package: &str, place: &Path) -> Result<()> {
    if !is_there("apt-get") || !is_there("dpkg-deb") {
        bail!("{package} comes from Debian, and apt-get is not here");
    }
    println!("unpacking {package}");
    let download =
        || run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(place));
    if download().is_err() && is_root() {
        // The lists are of a time when another version was there.
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        download()?;
    }
    let files = std::fs::read_dir(place).context("cannot read what was fetched")?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let fetched = paths.filter(|path| path.extension().is_some_and(|ending| ending == "deb")).max();
    let fetched = fetched.with_context(|| format!("apt-get fetched no {package}"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&fetched).arg(place))?;
    std::fs::remove_file(&fetched).context("cannot remove what was unpacked")
}
