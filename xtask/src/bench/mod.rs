//! `cargo xtask bench sqlite`: us, a guide's shell script and Litestream on one database. (The
//! other benchmarks, `retention`, `stores` and those of PostgreSQL, have files of their own.)
//!
//! Each contender makes a backup of the same database, one after the other, several times; then
//! each restores what it stored. The numbers are medians. A floor is measured beside them: the
//! least that any program must do for the same result. Nothing is left out: what misses its bar
//! is printed as a miss.

pub(crate) mod agent;
mod arena;
mod contenders;
pub(crate) mod drill;
mod litestream;
mod measure;
pub(crate) mod migrate;
pub(crate) mod pagelog;
pub(crate) mod physical;
pub(crate) mod postgres;
mod report;
pub(crate) mod retention;
pub(crate) mod salvage;
pub(crate) mod stores;
pub(crate) mod wal;
pub(crate) mod web;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{is_there, output, run as run_command};
use crate::root;
use contenders::{Contender, Place};
use measure::Measured;

/// What the benchmark was asked for.
#[derive(Debug)]
struct Options {
    size_mb: u64,
    runs: usize,
    large: bool,
    only: Option<String>,
}

/// Programs that were built for the benchmark.
pub(crate) struct Programs {
    pub(crate) lifeboat: PathBuf,
    pub(crate) floor: PathBuf,
    make_sample: PathBuf,
    many_backups: PathBuf,
    pub(crate) litestream: Option<PathBuf>,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    for tool in ["sqlite3", "gzip", "gunzip", "bash"] {
        if !is_there(tool) {
            bail!("the benchmark needs {tool} (as root: apt-get install -y sqlite3 gzip bash)");
        }
    }
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let litestream = litestream::install(&folder)?;
    let programs = Programs { litestream, ..build()? };
    let database = make_sample(&programs, &folder, "app", options.size_mb)?;
    let mut place = Place::new(&folder, database)?;
    let mut measured = Measured::default();
    for round in 1..=options.runs {
        eprintln!("round {round} of {}", options.runs);
        for contender in contenders::all(&programs) {
            if options.only.as_ref().is_none_or(|only| contender.name.contains(only.as_str())) {
                measure_one(&contender, &mut place, &mut measured)?;
            }
        }
    }
    let mut page = report::page(&measured, &place, &options_shown(&options));
    if options.large {
        page.push_str(&large(&programs, &folder, &options)?);
    }
    let path = folder.join("report.md");
    std::fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { size_mb: 1000, runs: 3, large: false, only: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if *name == "--large" {
            options.large = true;
            continue;
        }
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--size-mb" => options.size_mb = value.parse().context("--size-mb")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--only" => options.only = Some((*value).to_owned()),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.size_mb == 0 || options.runs == 0 {
        bail!("--size-mb and --runs must be at least 1");
    }
    Ok(options)
}

fn options_shown(options: &Options) -> String {
    format!("cargo xtask bench sqlite --size-mb {} --runs {}", options.size_mb, options.runs)
}

fn build() -> Result<Programs> {
    let cargo = |arguments: &[&str]| {
        run_command(Command::new(env!("CARGO")).args(arguments).current_dir(root()))
    };
    cargo(&["build", "--release", "--locked", "--package", "lifeboat"])?;
    cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "lifeboat-sqlite",
        "--example",
        "make_sample",
    ])?;
    for example in ["floor", "many_backups"] {
        let package = ["--package", "lifeboat-core", "--example", example];
        cargo(&[&["build", "--release", "--locked"][..], &package].concat())?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let release = root().join(target).join("release");
    Ok(Programs {
        lifeboat: release.join("lifeboat"),
        floor: release.join("examples/floor"),
        make_sample: release.join("examples/make_sample"),
        many_backups: release.join("examples/many_backups"),
        litestream: None,
    })
}

fn make_sample(programs: &Programs, folder: &Path, name: &str, size_mb: u64) -> Result<PathBuf> {
    let data = folder.join("data");
    let path = data.join(format!("{name}.db"));
    if data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    std::fs::create_dir_all(&data)?;
    let bytes = (size_mb * 1_000_000).to_string();
    let line = output(Command::new(&programs.make_sample).arg(&path).args(["--bytes", &bytes]))?;
    eprint!("{line}");
    Ok(path)
}

/// Backs up and restores once with one contender.
fn measure_one(contender: &Contender, place: &mut Place, measured: &mut Measured) -> Result<()> {
    eprintln!("  {}", contender.name);
    place.clear()?;
    let mut backup = (contender.backup)(place);
    let said = place.said();
    let taken = measure::with_disk(&mut backup, &said, &place.watched())?;
    let stored = (contender.stored_bytes)(place)?;
    measured.add(&format!("backup: {}", contender.name), taken, stored);
    let Some(restore) = &contender.restore else { return Ok(()) };
    place.settle()?;
    let restored = place.restored();
    let mut command = restore(place)?;
    let taken = measure::with_disk(&mut command, &said, &place.watched())?;
    place.compare(&restored, contender.restores_bytes)?;
    let bytes = std::fs::metadata(&restored)?.len();
    measured.add(&format!("restore: {}", contender.name), taken, bytes);
    Ok(())
}

/// Peak memory on a database five times as large, for the ways that must not need more.
fn large(programs: &Programs, folder: &Path, options: &Options) -> Result<String> {
    let size_mb = options.size_mb * 5;
    let database = make_sample(programs, folder, "large", size_mb)?;
    let mut place = Place::new(folder, database)?;
    let mut measured = Measured::default();
    for contender in contenders::all(programs) {
        if contender.at_large_size {
            measure_one(&contender, &mut place, &mut measured)?;
        }
    }
    Ok(report::large(&measured, size_mb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--size-mb", "100", "--large"]).unwrap();
        assert_eq!((options.size_mb, options.runs, options.large), (100, 3, true));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--size-mb", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
