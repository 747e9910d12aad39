//! `cargo xtask bench retention`: looking at many backups in a local repository.
//!
//! One real backup is made and multiplied, an hour between each and the next. Then `list`,
//! `status` and `prune --dry-run` are timed: cold without a cache of manifests, cold with it, and
//! warm. Cold means that the kernel's caches of files were dropped, for which it must be root.
//! Last, the rule of retention alone decides on ten times as many backups. What counts is the best
//! of some runs, as anything else that runs only makes it slower; the median stands beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Programs, build, make_sample};
use crate::process::{Taken, measured, output};
use crate::root;

/// What cold must stay below, with a cache, in seconds.
const COLD_S_MAX: f64 = 2.0;
/// What deciding must stay below, in milliseconds.
const DECIDE_MS_MAX: f64 = 1_000.0;
const COMMANDS: [&[&str]; 3] = [&["list"], &["status"], &["prune", "--dry-run"]];
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// A manifest younger than some seconds is not cached.
const SETTLE: Duration = Duration::from_secs(6);

struct Options {
    backups: u64,
    runs: usize,
}

/// Where it happens.
struct Place {
    folder: PathBuf,
    lifeboat: PathBuf,
    said: PathBuf,
}

/// What the runs of one command took, in one of the three ways.
#[derive(Default)]
struct Times {
    runs: Vec<Taken>,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let folder = root().join("target/bench/retention");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let programs = build()?;
    let place = Place {
        lifeboat: programs.lifeboat.clone(),
        said: folder.join("said"),
        folder: folder.clone(),
    };
    let made = make_repository(&programs, &place, &options)?;
    eprint!("{made}");
    let is_cold = drop_caches().is_ok();
    let mut page = format!(
        "`cargo xtask bench retention --backups {} --runs {}`: {}\n\n",
        options.backups,
        options.runs,
        made.trim()
    );
    if !is_cold {
        page.push_str("**Nothing is cold here**: dropping the kernel's caches needs root.\n\n");
    }
    page.push_str(&timed_commands(&place, &options)?);
    page.push_str(&decided(&programs, options.backups * 10)?);
    let path = folder.join("report.md");
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { backups: 10_000, runs: 5 };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--backups" => options.backups = value.parse().context("--backups")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.backups == 0 || options.runs == 0 {
        bail!("--backups and --runs must be at least 1");
    }
    Ok(options)
}

impl Place {
    fn lifeboat(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lifeboat);
        command.args(arguments).arg("--config").arg(self.folder.join("config.toml"));
        command.env("XDG_STATE_HOME", self.folder.join("state")).current_dir(&self.folder);
        command
    }
}

/// Says what was made.
fn make_repository(programs: &Programs, place: &Place, options: &Options) -> Result<String> {
    let database = make_sample(programs, &place.folder, "app", 1)?;
    let repository = place.folder.join("repository");
    let config = format!(
        "[repository.local]\nurl = \"file://{}\"\n\
         [source.app]\nsqlite = \"{}\"\n\
         keep = {{ hourly = 48, daily = 30, weekly = 8, monthly = 12, yearly = 3 }}\n",
        repository.display(),
        database.display()
    );
    fs::write(place.folder.join("config.toml"), config)?;
    measured(&mut place.lifeboat(&["backup", "app"]), &place.said)?;
    let count = options.backups.to_string();
    let mut multiply = Command::new(&programs.many_backups);
    let made = output(multiply.arg(repository.join("app")).arg(count))?;
    output(&mut Command::new("sync"))?;
    std::thread::sleep(SETTLE);
    Ok(made)
}

fn timed_commands(place: &Place, options: &Options) -> Result<String> {
    let cache = place.folder.join("state/lifeboat/cache");
    let (mut rows, mut bars) = (String::new(), String::new());
    for arguments in COMMANDS {
        let name = arguments.join(" ");
        eprintln!("{name}");
        let (mut without, mut cold, mut warm) =
            (Times::default(), Times::default(), Times::default());
        for _ in 0..options.runs {
            if cache.exists() {
                fs::remove_dir_all(&cache)?;
            }
            let timed = || measured(&mut place.lifeboat(arguments), &place.said);
            let _ = drop_caches();
            without.runs.push(timed()?);
            if fs::read_dir(&cache).map_or(0, Iterator::count) != 1 {
                bail!("`lifeboat {name}` wrote no cache below {}", cache.display());
            }
            let _ = drop_caches();
            cold.runs.push(timed()?);
            warm.runs.push(timed()?);
        }
        rows.push_str(&format!(
            "| `{name}` | {} | {} | {} | {:.0} MB |\n",
            without.shown(),
            cold.shown(),
            warm.shown(),
            without.memory_bytes_peak().max(cold.memory_bytes_peak()) as f64 / 1e6
        ));
        let reached = cold.best() < COLD_S_MAX;
        let best = cold.best();
        bars.push_str(&bar(&format!("`{name}`, cold"), best, "s", COLD_S_MAX, reached));
    }
    Ok(format!(
        "| | cold, no cache | cold | warm | peak memory |\n|---|--:|--:|--:|--:|\n{rows}\n\
         Seconds: the best run, and the median.\n\n\
         | bar | reached | asked | |\n|---|--:|--:|---|\n{bars}"
    ))
}

impl Times {
    fn sorted(&self) -> Vec<f64> {
        let mut walls: Vec<f64> = self.runs.iter().map(|run| run.wall_s).collect();
        walls.sort_by(f64::total_cmp);
        walls
    }

    fn best(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::INFINITY)
    }

    fn shown(&self) -> String {
        let walls = self.sorted();
        let median = walls.get(walls.len() / 2).copied().unwrap_or(f64::NAN);
        format!("{:.2} ({median:.2})", self.best())
    }

    fn memory_bytes_peak(&self) -> u64 {
        self.runs.iter().map(|run| run.memory_bytes_peak).max().unwrap_or_default()
    }
}

/// The last line of the bars.
fn decided(programs: &Programs, count: u64) -> Result<String> {
    let mut best_ms = f64::INFINITY;
    for _ in 0..3 {
        let mut decide = Command::new(&programs.many_backups);
        let line = output(decide.args(["decide", &count.to_string()]))?;
        best_ms = best_ms.min(milliseconds_of(&line)?);
    }
    let what = format!("the rule alone, on {count} backups");
    Ok(bar(&what, best_ms, "ms", DECIDE_MS_MAX, best_ms < DECIDE_MS_MAX))
}

/// The number before the word `ms`.
fn milliseconds_of(line: &str) -> Result<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = words.iter().position(|word| *word == "ms").filter(|place| *place > 0);
    let place = place.with_context(|| format!("no milliseconds in `{}`", line.trim()))?;
    words[place - 1].parse().with_context(|| format!("no milliseconds in `{}`", line.trim()))
}

fn bar(what: &str, best: f64, unit: &str, limit: f64, reached: bool) -> String {
    let verdict = if reached { "reached" } else { "**missed**" };
    format!("| {what} | {best:.2} {unit} | below {limit} {unit} | {verdict} |\n")
}

/// Everything that was read of files is read from the disk next time.
fn drop_caches() -> Result<()> {
    output(&mut Command::new("sync"))?;
    fs::write(Path::new(DROP_CACHES), "3").context("dropping the kernel's caches needs root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--backups", "50", "--runs", "1"]).unwrap();
        assert_eq!((options.backups, options.runs), (50, 1));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--backups", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_the_program_says_becomes_a_number_and_a_bar() {
        assert_eq!(milliseconds_of("3 of 9 stay, decided in 35.8 ms\n").unwrap(), 35.8);
        assert!(milliseconds_of("nothing").is_err() && milliseconds_of("ms").is_err());
        assert!(bar("x", 2.5, "s", 2.0, false).contains("| 2.50 s | below 2 s | **missed** |"));
    }

    #[test]
    fn the_best_and_the_median_are_shown() {
        let run = |wall_s| Taken { wall_s, cpu_s: 0.0, memory_bytes_peak: 5 };
        let times = Times { runs: vec![run(3.0), run(1.0), run(2.0)] };
        assert_eq!((times.shown().as_str(), times.memory_bytes_peak()), ("1.00 (2.00)", 5));
    }
}
