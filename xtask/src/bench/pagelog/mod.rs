//! `cargo xtask bench pagelog`: us and Litestream, following a database while one writer writes.
//!
//! The writer is a process of its own that writes the same seeded transactions for each contender,
//! at three rates one after the other, and notes when each commit ended. A watcher notes when each
//! file became visible in the repository. So what is measured is what a user has: bytes, processor
//! time and memory of the follower, the age of a commit when it is safe, and what the follower
//! costs the writer. Then what was stored is restored, and increments are compared with those of
//! restic and borg. What misses its bar is printed as a miss.

mod follow;
mod increments;
mod report;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::follow::{Followed, Who};
use super::{litestream, make_sample};
use crate::process::{is_there, output, run as run_command};
use crate::root;

/// What the benchmark was asked for.
#[derive(Clone, Copy, Debug)]
struct Options {
    size_mb: u64,
    seconds: u64,
    /// Messages that are added before each increment.
    rows: [u64; 2],
    with_increments: bool,
    with_loads: bool,
    /// Only this one of [`RATES`].
    only_rate: Option<u32>,
}

impl Options {
    const WHOLE: Options = Options {
        size_mb: 1000,
        seconds: 60,
        rows: [1_000, 100_000],
        with_increments: true,
        with_loads: true,
        only_rate: None,
    };
    const SHORT: Options =
        Options { size_mb: 60, seconds: 10, rows: [1_000, 10_000], ..Self::WHOLE };
}

/// Transactions a second; 0 is as many as the writer can.
const RATES: [u32; 3] = [20, 200, 0];
/// Messages in a transaction at each rate.
const MESSAGES: [u32; 3] = [5, 5, 20];

/// The programs, and where everything happens.
struct Bench {
    lifeboat: PathBuf,
    writer: PathBuf,
    floor: PathBuf,
    litestream: Option<PathBuf>,
    /// The database from which each contender gets a copy.
    sample: PathBuf,
    arena: PathBuf,
    options: Options,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    if !is_there("sqlite3") {
        bail!("the benchmark needs sqlite3 (as root: apt-get install -y sqlite3)");
    }
    let folder = root().join("target/bench");
    fs::create_dir_all(&folder)?;
    let litestream = litestream::install(&folder)?;
    let programs = super::build()?;
    for example in ["log_writer", "page_floor"] {
        let package = ["--package", "lifeboat-sqlite", "--example", example];
        let build = ["build", "--release", "--locked"];
        run_command(Command::new(env!("CARGO")).args(build).args(package).current_dir(root()))?;
    }
    let examples = programs.floor.parent().context("the examples have no folder")?.to_owned();
    let sample = make_sample(&programs, &folder, "app", options.size_mb)?;
    let bench = Bench {
        lifeboat: programs.lifeboat,
        writer: examples.join("log_writer"),
        floor: examples.join("page_floor"),
        litestream,
        sample,
        arena: folder.join("arena"),
        options,
    };
    let page = bench.measure()?;
    let _ = fs::remove_dir_all(&bench.arena);
    let path = folder.join("pagelog-report.md");
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = match arguments.contains(&"--short") {
        true => Options::SHORT,
        false => Options::WHOLE,
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        match *name {
            "--short" => continue,
            "--no-increments" => options.with_increments = false,
            "--only-increments" => options.with_loads = false,
            _ => {
                let value = rest.next().with_context(|| format!("{name} needs a value"))?;
                match *name {
                    "--size-mb" => options.size_mb = value.parse().context("--size-mb")?,
                    "--seconds" => options.seconds = value.parse().context("--seconds")?,
                    "--rate" => options.only_rate = Some(value.parse().context("--rate")?),
                    _ => bail!("{name} is not known: see `cargo xtask help`"),
                }
            }
        }
    }
    if options.size_mb == 0 || options.seconds == 0 {
        bail!("--size-mb and --seconds must be at least 1");
    }
    if options.only_rate.is_some_and(|rate| !RATES.contains(&rate)) {
        bail!("--rate must be 20, 200, or 0 for as many as the writer can");
    }
    Ok(options)
}

impl Bench {
    fn measure(&self) -> Result<String> {
        let mut followed = Vec::new();
        if self.options.with_loads {
            for who in [Who::Nobody, Who::Litestream, Who::Lifeboat] {
                if who == Who::Litestream && self.litestream.is_none() {
                    continue;
                }
                followed.push(self.follow(who)?);
            }
        }
        let increments = match self.options.with_increments {
            true => Some(self.increments()?),
            false => None,
        };
        Ok(report::page(&self.options, &followed, increments.as_deref()))
    }

    fn follow(&self, who: Who) -> Result<Followed> {
        eprintln!("{}", who.name());
        let place = self.fresh(who.name())?;
        follow::measure(self, who, &place)
    }

    /// An empty folder with a copy of the database, and no write of before still under way.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        if self.arena.exists() {
            fs::remove_dir_all(&self.arena)?;
        }
        let place = self.arena.join(name.replace(' ', "-"));
        for folder in ["data", "stored", "home"] {
            fs::create_dir_all(place.join(folder))?;
        }
        fs::copy(&self.sample, place.join("data/app.db"))?;
        run_command(&mut Command::new("sync"))?;
        Ok(place)
    }

    /// A command that sees no configuration of this host.
    fn command(&self, program: &Path, place: &Path) -> Command {
        let mut command = Command::new(program);
        let home = place.join("home");
        command.env("HOME", &home).env_remove("LIFEBOAT_CONFIG");
        for variable in ["XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, &home);
        }
        command
    }
}

/// One answer of a database, as text.
fn ask(database: &Path, sql: &str) -> Result<String> {
    let text = output(Command::new("sqlite3").arg("-readonly").arg(database).arg(sql))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--short", "--seconds", "3"]).unwrap();
        assert_eq!((options.size_mb, options.seconds), (60, 3));
        for wrong in [&["--seconds"][..], &["--seconds", "0"], &["--what", "1"], &["--rate", "7"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
