//! Packages of the distribution that the tests need.

use std::process::Command;

use anyhow::{Result, bail};

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
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    run(quiet().arg("update"))?;
    run(quiet().args(["install", "-y", "--no-install-recommends"]).args(packages))
}
