//! PostgreSQL 17 with all of its programs, for the long tests.
//!
//! No package of this distribution or of Python's brings it whole. The next release of Debian does:
//! its packages are unpacked into a folder of their own, and the programs there are told to use the
//! libraries beside them, so that they run as any other program of this host. As root only.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process::{is_there, output, run};

const RELEASE: &str = "trixie";
const PACKAGE: &str = "postgresql-17";
/// The folder that the release is unpacked into.
const PLACE: &str = "/var/cache/lifeboat-tests/trixie";
const PROGRAMS: &str = "usr/lib/postgresql/17/bin";
/// Written last: a folder without it is a half one.
const READY: &str = "lifeboat-is-ready";
/// What only an installation by package needs.
const NEEDLESS: &[&str] = &["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc"];

/// Whether the long tests were asked for.
pub(crate) fn is_wanted() -> bool {
    std::env::var("LIFEBOAT_LONG_TESTS").is_ok_and(|value| value == "1")
}

/// Installs it, if it is missing.
pub(crate) fn install() -> Result<()> {
    let place = Path::new(PLACE);
    if place.join(READY).exists() {
        println!("PostgreSQL 17 is there");
        return Ok(());
    }
    if !packages::is_root() {
        bail!("PostgreSQL 17 is unpacked by root: LIFEBOAT_LONG_TESTS=1 cargo xtask test");
    }
    let tools = ["debootstrap", "patchelf"];
    let missing: Vec<&str> = tools.into_iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove the half {PLACE}"))?;
    }
    fs::create_dir_all(place).with_context(|| format!("cannot make {PLACE}"))?;
    println!("unpacking {PACKAGE} of {RELEASE} to {PLACE}");
    let said = fs::File::create(place.with_extension("log"))?;
    let mut unpack = Command::new("debootstrap");
    unpack.args(["--variant=minbase", &format!("--include={PACKAGE}"), RELEASE, PLACE]);
    run(unpack.stdout(said))
        .with_context(|| format!("{}.log says what debootstrap did", place.display()))?;
    for folder in NEEDLESS {
        let _ = fs::remove_dir_all(place.join(folder));
    }
    for program in programs(place)? {
        settle(place, &program)?;
    }
    run(Command::new(place.join(PROGRAMS).join("postgres")).arg("--version"))?;
    fs::write(place.join(READY), "")?;
    Ok(())
}

/// The programs that are no scripts.
fn programs(place: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let folder = place.join(PROGRAMS);
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("{PACKAGE} did not bring {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let mut first = [0; 4];
        let read = fs::File::open(&path)?.read_exact(&mut first);
        if read.is_ok() && first == *b"\x7fELF" {
            found.push(path);
        }
    }
    Ok(found)
}

/// Lets a program run with the loader and the libraries of its own release. The libraries of its
/// libraries are looked for there as well: that needs the older kind of path, which is inherited.
fn settle(place: &Path, program: &Path) -> Result<()> {
    let loader = output(Command::new("patchelf").arg("--print-interpreter").arg(program))?;
    let loader = place.join(loader.trim().trim_start_matches('/'));
    let libraries = fs::canonicalize(&loader)
        .with_context(|| format!("{} has no loader", program.display()))?;
    let libraries = libraries.parent().context("a loader lies in a folder")?;
    let mut command = Command::new("patchelf");
    command.arg("--set-interpreter").arg(&loader).arg("--force-rpath");
    run(command.arg("--set-rpath").arg(libraries).arg(program))
}
