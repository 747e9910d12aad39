//! `cargo xtask bench postgres-wal`: archiving a server's log, us and pgBackRest side by side. It
//! is a part of `bench postgres-physical` too.
//!
//! A cluster of PostgreSQL 15 makes segments under a load that changes rows, and an archive command
//! that fails keeps them. Then each contender archives the same segments in order, as the server's
//! archiver would: one command for each, and the next one only when it has ended well. Both may
//! work ahead: what waits is in `archive_status`. What is stored is read back by each in its own
//! way; that all is there is counted here. The numbers are medians.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::arena::{self, PROGRAMS};
use super::measure;
use super::report;
use crate::process::{is_there, output, run as run_command};
use crate::root;

const OURS: &str = "lifeboat wal push";
const FLOOR: &str = "zstd -1 of each, two at once, synced (the floor)";
const PGBACKREST: &str = "pgbackrest archive-push, asynchronous, zst 1, 2 processes";
/// We are to be so much faster.
const BAR: f64 = 1.4;
const PORT: u16 = 5432;

#[derive(Clone, Debug)]
struct Options {
    segments: usize,
    runs: usize,
    program: Option<PathBuf>,
}

/// Where everything happens.
struct Arena {
    base: arena::Arena,
    segments: Vec<String>,
}

/// Segments a second of each, in the order of the rounds, and what one takes as it is stored.
#[derive(Default)]
pub(super) struct Speeds {
    ours: Vec<f64>,
    theirs: Vec<f64>,
    floor: Vec<f64>,
    our_bytes: u64,
    their_bytes: u64,
    floor_bytes: u64,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let program = options.program.clone().map_or_else(super::physical::build, Ok)?;
    let mut speeds = measured(&program, options.segments, options.runs)?;
    let page = report(&options, &mut speeds);
    let path = root().join("target/bench/wal-report.md");
    fs::create_dir_all(root().join("target/bench"))?;
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

/// Archives so many segments, so often, by us and by pgBackRest where it is installed.
pub(super) fn measured(program: &Path, segments: usize, runs: usize) -> Result<Speeds> {
    let arena = Arena::new(program, segments)?;
    let with_pgbackrest = is_there("pgbackrest");
    let mut speeds = Speeds::default();
    for round in 1..=runs {
        eprintln!("archiving, round {round} of {runs}");
        let each = |name| measure::allocated_bytes(&[arena.path(name)]) / segments as u64;
        if with_pgbackrest {
            let speed = arena.pgbackrest()?;
            eprintln!("  {PGBACKREST}: {speed:.1} segments a second");
            speeds.theirs.push(speed);
            speeds.their_bytes = each("pgbackrest");
        }
        let speed = arena.floor()?;
        eprintln!("  {FLOOR}: {speed:.1} segments a second");
        speeds.floor.push(speed);
        speeds.floor_bytes = each("floor");
        let speed = arena.lifeboat()?;
        eprintln!("  {OURS}: {speed:.1} segments a second");
        speeds.ours.push(speed);
        speeds.our_bytes = each("repository");
    }
    Ok(speeds)
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { segments: 45, runs: 3, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--segments" => options.segments = value.parse().context("--segments")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--program" => options.program = Some(value.into()),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.segments == 0 || options.runs == 0 {
        bail!("--segments and --runs must be at least 1");
    }
    Ok(options)
}

impl Arena {
    fn new(program: &Path, segments: usize) -> Result<Arena> {
        let mut base = arena::Arena::new("wal", program)?;
        let settings = "archive_mode = on\narchive_command = '/bin/false'\nmax_wal_size = '8GB'\n\
                        shared_buffers = '256MB'\nfsync = off\nautovacuum = off\n";
        base.start("data", Path::new(PROGRAMS), PORT, settings)?;
        let mut arena = Arena { base, segments: Vec::new() };
        arena.make_segments(segments)?;
        arena.configure()?;
        Ok(arena)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path(name)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.base.command(program)
    }

    fn waiting(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path("data/pg_wal/archive_status"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".ready").map(str::to_owned));
        }
        names.retain(|name| name.len() == 24);
        names.sort();
        Ok(names)
    }

    /// Rows that change all over a table: whole pages and short records, as a busy server has them.
    fn make_segments(&mut self, count: usize) -> Result<()> {
        eprintln!("making {count} segments");
        output(self.command("pgbench").args(["-i", "-q", "-s", "20", "postgres"]))?;
        while self.waiting()?.len() < count {
            let change = "UPDATE pgbench_accounts SET abalance = abalance + (random() * 1000)::int \
                          WHERE aid % 3 = 0";
            self.base.psql(PORT, "postgres", change)?;
        }
        self.segments = self.waiting()?;
        self.segments.truncate(count);
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let here = self.base.here();
        fs::write(
            self.path("config.toml"),
            format!(
                "[repository.one]\nurl = \"file://{here}/repository\"\n[source.main.postgres]\n\
                 physical = true\nurl = \"postgresql:///postgres?user=postgres&host={here}\"\n"
            ),
        )?;
        fs::write(
            self.path("pgbackrest.conf"),
            format!(
                "[global]\nrepo1-path={here}/pgbackrest\nlog-level-console=off\n\
                 log-level-file=off\nlog-path={here}\nlock-path={here}/lock\n\
                 spool-path={here}/spool\ncompress-type=zst\ncompress-level=1\nprocess-max=2\n\
                 archive-async=y\n[main]\npg1-path={here}/data\npg1-socket-path={here}\n\
                 pg1-user=postgres\n"
            ),
        )?;
        // As the archiver does it.
        let script = "cd data && for segment in $SEGMENTS; do \"$@\" pg_wal/$segment || exit 1; \
                      mv pg_wal/archive_status/$segment.ready pg_wal/archive_status/$segment.done; \
                      done";
        fs::write(self.path("archive.sh"), script)?;
        Ok(())
    }

    /// Everything waits again, and nothing is stored.
    fn clear(&self) -> Result<()> {
        for segment in &self.segments {
            let status =
                |word: &str| self.path(&format!("data/pg_wal/archive_status/{segment}.{word}"));
            if status("done").exists() {
                fs::rename(status("done"), status("ready"))?;
            }
        }
        for name in ["pgbackrest", "spool", "lock", "repository", "state", "floor"] {
            let path = self.path(name);
            let _ = fs::remove_dir_all(&path);
            output(self.command("mkdir").arg(&path))?;
        }
        fs::remove_dir(self.path("repository"))?;
        run_command(&mut Command::new("sync"))
    }

    /// Segments in a second.
    fn archive(&self, command: &[&str]) -> Result<f64> {
        let mut archive = self.command("bash");
        archive.env("SEGMENTS", self.segments.join(" "));
        archive.arg(self.path("archive.sh")).args(command);
        self.timed(&mut archive)
    }

    fn timed(&self, command: &mut Command) -> Result<f64> {
        #[allow(clippy::disallowed_methods, reason = "a benchmark measures the time that passes")]
        let begun = Instant::now();
        run_command(command.stdout(Stdio::null()))?;
        Ok(self.segments.len() as f64 / begun.elapsed().as_secs_f64())
    }

    fn lifeboat(&self) -> Result<f64> {
        self.clear()?;
        let program = self.path("lifeboat").display().to_string();
        let speed = self.archive(&[&program, "wal", "push"])?;
        self.wait_for_helper(&program)?;
        let text =
            output(self.command(&program).args(["wal", "check", "--read", "--json", "--offline"]))?;
        let stored = self.segments.iter().filter(|name| self.is_stored(name)).count();
        if stored != self.segments.len() || text.is_empty() {
            bail!("{OURS}: {stored} of {} segments are stored", self.segments.len());
        }
        Ok(speed)
    }

    /// Our helper ends by itself: until then it would do what waits anew for the next one.
    fn wait_for_helper(&self, program: &str) -> Result<()> {
        let begins = format!("{program}\0wal\0helper");
        let is_helper = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(begins.as_bytes())
        };
        for _ in 0..300 {
            if !fs::read_dir("/proc")?.flatten().any(|entry| is_helper(&entry)) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        bail!("the helper of {program} never ends");
    }

    /// What any program could reach that compresses as much.
    fn floor(&self) -> Result<f64> {
        self.clear()?;
        let mut floor = self.command("bash");
        floor.env("SEGMENTS", self.segments.join("\n"));
        floor.arg("-c").arg(
            "echo \"$SEGMENTS\" | xargs -P 2 -I {} sh -c \
             'zstd -q -1 data/pg_wal/{} -o floor/{}.zst && sync floor/{}.zst floor'",
        );
        self.timed(&mut floor)
    }

    fn is_stored(&self, segment: &str) -> bool {
        let systems = fs::read_dir(self.path("repository/main/wal")).into_iter().flatten();
        let mut paths = systems.flatten().map(|one| one.path().join(&segment[..8]));
        paths.any(|path| path.join(format!("{segment}.zst")).exists())
    }

    fn pgbackrest(&self) -> Result<f64> {
        self.clear()?;
        let config = format!("--config={}", self.path("pgbackrest.conf").display());
        let command = ["pgbackrest", config.as_str(), "--stanza=main"];
        output(self.command(command[0]).args(&command[1..]).arg("stanza-create"))?;
        let speed = self.archive(&[&command[..], &["archive-push"]].concat())?;
        // Its helper may still be at work.
        std::thread::sleep(std::time::Duration::from_secs(2));
        Ok(speed)
    }
}

fn median(speeds: &mut [f64]) -> Option<f64> {
    speeds.sort_by(f64::total_cmp);
    speeds.get(speeds.len() / 2).copied()
}

fn report(options: &Options, speeds: &mut Speeds) -> String {
    let Options { segments, runs, .. } = options;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let (table, line) = lines(speeds);
    format!(
        "`cargo xtask bench postgres-wal --segments {segments} --runs {runs}`: segments of 16 MiB, \
         {threads} cores, load at the end {}, medians.\n\n{table}\n\
         | bar | reached | asked | |\n|---|--:|--:|---|\n{line}",
        load.join(" ")
    )
}

/// A table of the speeds, and the line of the bar.
pub(super) fn lines(speeds: &mut Speeds) -> (String, String) {
    let mut table = String::from(
        "| archive command | segments a second | MB of each as stored |\n|---|--:|--:|\n",
    );
    let (ours, theirs) = (median(&mut speeds.ours), median(&mut speeds.theirs));
    let all = [
        (FLOOR, median(&mut speeds.floor), speeds.floor_bytes),
        (PGBACKREST, theirs, speeds.their_bytes),
        (OURS, ours, speeds.our_bytes),
    ];
    for (name, speed, bytes) in all {
        let speed = speed.map_or("not measured".to_owned(), |speed| format!("{speed:.1}"));
        table.push_str(&format!("| {name} | {speed} | {:.1} |\n", bytes as f64 / 1e6));
    }
    let what = "lifeboat / pgBackRest, segments a second";
    let line = match ours.zip(theirs) {
        Some((ours, theirs)) => {
            let reached = ours / theirs;
            let verdict = report::verdict(reached >= BAR);
            format!("| {what} | {reached:.2} | at least {BAR} | {verdict} |\n")
        }
        None => format!("| {what} | not measured | at least {BAR} | |\n"),
    };
    (table, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--segments", "5"]).unwrap();
        assert_eq!((options.segments, options.runs), (5, 3));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--segments", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut []), None);
    }
}
