//! The damaged databases with which SQLite tests itself: thousands of them, in two files of
//! Debian's source package. Salvage is tried on them; where they cannot be had, its test says so.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::object_storage::folder;
use crate::process::{is_there, output, run};

const PACKAGE: &str = "sqlite3";
const FILES: &[&str] = &["fuzzdata3.db", "fuzzdata7.db"];
const PLACE: &str = "sqlite-corpora";

/// Unpacks them, if they are missing, and says where they could not be had.
pub(crate) fn install() -> Result<()> {
    let place = folder().join(PLACE);
    if FILES.iter().all(|file| place.join(file).exists()) {
        println!("the damaged databases of SQLite's own tests are there");
        return Ok(());
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    if let Err(error) = fetched(&place) {
        println!("SKIPPED: the damaged databases of SQLite's own tests: {error:#}");
    }
    Ok(())
}

fn fetched(place: &Path) -> Result<()> {
    if !is_there("apt-get") {
        bail!("they come in a source package of Debian, and apt-get is not here");
    }
    // The host's own lists of packages stay as they are: most have none of sources.
    let scratch = place.join("scratch");
    let (lists, cache) = (scratch.join("lists"), scratch.join("cache"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(cache.join("archives/partial"))?;
    let sources = scratch.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = format!("deb-src [signed-by={keys}] {} main\n", mirror()?);
    fs::write(&sources, line)?;
    let apt = || {
        let mut command = Command::new("apt-get");
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        command.arg("-qq").args(["-o", &option("Dir::Etc::sourcelist", &sources)]);
        command.args(["-o", "Dir::Etc::sourceparts=-"]);
        command.args(["-o", &option("Dir::State::lists", &lists)]);
        command.args(["-o", &option("Dir::Cache", &cache)]).current_dir(&scratch);
        command
    };
    println!("fetching the source package {PACKAGE}");
    run(apt().arg("update"))?;
    run(apt().args(["source", "--download-only", PACKAGE]))?;
    let words = "tar -xf *.orig.tar.xz --strip-components=2 --wildcards";
    let files: Vec<String> = FILES.iter().map(|file| format!("'*/test/{file}'")).collect();
    let words = format!("{words} {}", files.join(" "));
    run(Command::new("sh").args(["-c", &words]).current_dir(&scratch))?;
    for file in FILES {
        fs::rename(scratch.join(file), place.join(file))
            .with_context(|| format!("the source package has no {file}"))?;
    }
    fs::remove_dir_all(&scratch).context("cannot remove what was unpacked")
}

/// From where this host gets its packages, and the name of its release.
fn mirror() -> Result<String> {
    let words = ". /etc/os-release; echo $VERSION_CODENAME";
    let release = output(Command::new("sh").args(["-c", words]))?;
    let format = "$(REPO_URI) $(RELEASE)";
    let targets = ["indextargets", "--format", format, "Created-By: Packages", "Component: main"];
    let known = output(Command::new("apt-get").args(targets))?;
    let mut lines = known.lines();
    let line = lines.find(|line| line.split(' ').nth(1) == Some(release.trim()));
    line.map(str::to_owned).context("apt-get knows no packages of this release")
}
