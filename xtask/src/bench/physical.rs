//! `cargo xtask bench postgres-physical`: whole clusters, us beside pgBackRest and `pg_basebackup`.
//!
//! A server of version 15 with page checksums holds the tables of `pgbench` and a table of texts;
//! it archives to pgBackRest, which needs that. Each contender makes a full backup, then the same
//! rows are changed and each makes an incremental one, then each restores what it stored. A server
//! of version 18 with the same tables shows what an incremental is where the server knows what
//! changed. The last part is archiving. What we restore is compared with the server's own manifest.
//! What has no bar and takes long is done in the first round only.
//!
//! All is read from memory and written to disk, synced. The numbers are medians; the server's own
//! processor time is in nobody's, the wall time has all of it. What misses its bar is printed so.

mod place;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::place::{NEW_PORT, Place};
use super::measure::{self, Measured, Run};
use super::report::{self, Bar, Limit, bar, bytes, wall};
use super::wal::{self, Speeds};
use crate::process::{is_there, run as run_command};
use crate::root;

const FLOOR: &str = "backup: tar to zstd -1 -T0, synced (the floor)";
const PG_BASEBACKUP: &str = "backup: pg_basebackup, server-zstd:1";
const THEIRS: &str = "backup: pgBackRest, zst 1";
const THEIRS_GZ: &str = "backup: pgBackRest, gz 6";
const OURS: &str = "backup: lifeboat, zstd:1";
const THEIRS_NEXT: &str = "incremental backup on 15: pgBackRest, zst 1";
const OURS_NEXT: &str = "incremental backup on 15: lifeboat, zstd:1";
const OURS_NEW: &str = "incremental backup on 18: lifeboat, zstd:1";
const FLOOR_BACK: &str = "restore: zstd -d to tar, synced (the floor)";
const THEIRS_BACK: &str = "restore: pgBackRest, zst 1";
const OURS_BACK: &str = "restore: lifeboat";
const OURS_PROVED: &str = "restore: lifeboat, recovered and every table read";
const THEIRS_DELTA: &str = "delta restore without change: pgBackRest, zst 1";
const OURS_DELTA: &str = "delta restore without change: lifeboat";

const BARS: &[Bar] = &[
    bar("pgBackRest / lifeboat, backup, wall", THEIRS, OURS, wall, Limit::AtLeast(2.0)),
    bar("lifeboat / pg_basebackup, backup, wall", OURS, PG_BASEBACKUP, wall, Limit::AtMost(1.1)),
    bar("lifeboat / floor, backup, wall", OURS, FLOOR, wall, Limit::AtMost(1.6)),
    bar("lifeboat / floor, backup, bytes", OURS, FLOOR, bytes, Limit::AtMost(1.05)),
    bar("pgBackRest / lifeboat, restore, wall", THEIRS_BACK, OURS_BACK, wall, Limit::AtLeast(1.6)),
    bar("lifeboat / pgBackRest, delta, wall", OURS_DELTA, THEIRS_DELTA, wall, Limit::AtMost(1.0)),
];

/// How far the others are from the floor: what any program could reach on this machine.
const FLOORS: &[(&str, &str, &str)] = &[
    ("pgBackRest / floor, backup, wall", THEIRS, FLOOR),
    ("pgBackRest / floor, restore, wall", THEIRS_BACK, FLOOR_BACK),
    ("lifeboat / floor, restore, wall", OURS_BACK, FLOOR_BACK),
];

/// A bar that is a number and no ratio: its name, the run, the number, its unit, and at most that.
type Most = (&'static str, &'static str, fn(&Run) -> f64, &'static str, f64);

const MOST: &[Most] = &[
    ("incremental on 15, bytes", OURS_NEXT, megabytes, "MB", 8.0),
    ("incremental on 15, wall", OURS_NEXT, wall, "s", 5.0),
    ("incremental on 18, bytes", OURS_NEW, megabytes, "MB", 8.0),
    ("incremental on 18, wall", OURS_NEW, wall, "s", 1.0),
    ("backup, memory", OURS, memory, "MB", 100.0),
    ("incremental on 15, memory", OURS_NEXT, memory, "MB", 100.0),
    ("incremental on 18, memory", OURS_NEW, memory, "MB", 100.0),
    ("restore, memory", OURS_BACK, memory, "MB", 100.0),
];

fn megabytes(run: &Run) -> f64 {
    run.bytes as f64 / 1e6
}

fn memory(run: &Run) -> f64 {
    run.taken.memory_bytes_peak as f64 / 1e6
}

#[derive(Clone, Debug)]
struct Options {
    scale: u64,
    text_mb: u64,
    segments: usize,
    runs: usize,
    only: Option<String>,
    skip: Option<String>,
    program: Option<PathBuf>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
            && self.skip.as_ref().is_none_or(|skip| !name.contains(skip.as_str()))
    }

    fn shown(&self) -> String {
        let Options { scale, text_mb, segments, runs, .. } = self;
        let mut shown = format!(
            "cargo xtask bench postgres-physical --scale {scale} --text-mb {text_mb} --segments \
             {segments} --runs {runs}"
        );
        for (name, value) in [("only", &self.only), ("skip", &self.skip)] {
            shown.extend(value.iter().map(|value| format!(" --{name} '{value}'")));
        }
        shown
    }
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    for tool in ["tar", "zstd", "bash"] {
        if !is_there(tool) {
            bail!("the benchmark needs {tool} (as root: apt-get install -y tar zstd bash)");
        }
    }
    let program = options.program.clone().map_or_else(build, Ok)?;
    let path = root().join("target/bench/physical-report.md");
    fs::create_dir_all(root().join("target/bench"))?;
    let write = |page: &str| {
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
    };
    let (mut measured, mut speeds) = (Measured::default(), Speeds::default());
    let mut data_bytes = 0;
    if options.only.as_ref().is_none_or(|only| only != "wal") {
        let place = Place::new(&program, options.scale, options.text_mb)?;
        data_bytes = place.data_bytes();
        for round in 1..=options.runs {
            eprintln!("round {round} of {}", options.runs);
            play(&place, &options, round, &mut measured)?;
            // A run takes its time: what is known is there already, of as many rounds as were made.
            let so_far = Options { runs: round, ..options.clone() };
            write(&page(&so_far, &measured, &mut speeds, data_bytes))?;
        }
    }
    if options.wants("wal") {
        speeds = wal::measured(&program, options.segments, options.runs)?;
    }
    let page = page(&options, &measured, &mut speeds, data_bytes);
    write(&page)?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let (only, skip, program) = (None, None, None);
    let mut options =
        Options { scale: 50, text_mb: 500, segments: 45, runs: 3, only, skip, program };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match (*name, *value) {
            ("--scale", "small") => {
                (options.scale, options.text_mb, options.segments) = (5, 20, 8);
            }
            ("--scale", value) => options.scale = value.parse().context("--scale")?,
            ("--text-mb", value) => options.text_mb = value.parse().context("--text-mb")?,
            ("--segments", value) => options.segments = value.parse().context("--segments")?,
            ("--runs", value) => options.runs = value.parse().context("--runs")?,
            ("--only", value) => options.only = Some(value.to_owned()),
            ("--skip", value) => options.skip = Some(value.to_owned()),
            ("--program", value) => options.program = Some(value.into()),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    let numbers = [options.scale, options.text_mb, options.segments as u64, options.runs as u64];
    if numbers.contains(&0) {
        bail!("--scale, --text-mb, --segments and --runs must be at least 1");
    }
    Ok(options)
}

/// Builds the program as it is shipped.
pub(super) fn build() -> Result<PathBuf> {
    let mut build = Command::new(env!("CARGO"));
    run_command(build.args(["build", "--release", "--locked", "--package", "lifeboat"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    Ok(root().join(target).join("release/lifeboat"))
}

/// One round: full backups, the change, incremental ones, and the way back.
fn play(place: &Place, options: &Options, round: usize, measured: &mut Measured) -> Result<()> {
    place.clear()?;
    let with_pgbackrest = is_there("pgbackrest");
    let mut one = |name: &str, stored: &str, command: &mut Command| -> Result<()> {
        if !options.wants(name) || (name.contains("pgBackRest") && !with_pgbackrest) {
            return Ok(());
        }
        place.settle()?;
        let before = place.stored_bytes(stored);
        let taken = measure::with_disk(command, &place.said(), &[place.folder()])?;
        eprintln!("  {name}: {:.1} s", taken.0.wall_s);
        measured.add(name, taken, place.stored_bytes(stored).saturating_sub(before));
        Ok(())
    };
    one(FLOOR, "floor", &mut place.floor())?;
    one(PG_BASEBACKUP, "pg_basebackup", &mut place.pg_basebackup())?;
    if with_pgbackrest {
        place.archive_to_pgbackrest(true)?;
        // It takes ten times as long as the others: once is enough.
        if round == 1 {
            let full = ["backup", "--type=full"];
            one(THEIRS_GZ, "pgbackrest-gz", &mut place.pgbackrest("gz", &full))?;
        }
        one(THEIRS, "pgbackrest-zst", &mut place.pgbackrest("zst", &["backup", "--type=full"]))?;
        place.archive_to_pgbackrest(false)?;
    }
    one(OURS, "repository", &mut place.lifeboat(&["backup", "main"]))?;
    one(
        "full backup on 18: lifeboat, zstd:1",
        "repository",
        &mut place.lifeboat(&["backup", "new"]),
    )?;
    let next = ["backup", "--incremental"];
    place.change()?;
    if with_pgbackrest {
        place.archive_to_pgbackrest(true)?;
        one(
            THEIRS_NEXT,
            "pgbackrest-zst",
            &mut place.pgbackrest("zst", &["backup", "--type=incr"]),
        )?;
        place.archive_to_pgbackrest(false)?;
    }
    one(OURS_NEXT, "repository", &mut place.lifeboat(&[&next[..], &["main"]].concat()))?;
    if options.wants(OURS_NEW) {
        place.wait_for_summary(NEW_PORT)?;
    }
    one(OURS_NEW, "repository", &mut place.lifeboat(&[&next[..], &["new"]].concat()))?;
    if options.wants(FLOOR) {
        one(FLOOR_BACK, "back", &mut place.floor_back())?;
        place.remove("back")?;
    }
    let newest = ["restore", "--type=immediate"];
    one(THEIRS_BACK, "theirs", &mut place.pgbackrest("zst", &newest))?;
    one(
        THEIRS_DELTA,
        "theirs",
        &mut place.pgbackrest("zst", &[&newest[..], &["--delta"]].concat()),
    )?;
    let mut restore = place.restore(&["--action", "leave"])?;
    one(OURS_BACK, "ours", &mut restore)?;
    place.verify("ours")?;
    if place.knows_delta() {
        let mut delta = place.restore(&["--action", "leave", "--delta"])?;
        one(OURS_DELTA, "ours", &mut delta)?;
    }
    if round > 1 {
        return Ok(());
    }
    place.remove("ours")?;
    let mut proved = place.restore(&[])?;
    one(OURS_PROVED, "ours", &mut proved)
}

fn page(options: &Options, measured: &Measured, speeds: &mut Speeds, data_bytes: u64) -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let mut page = format!(
        "`{}`: PostgreSQL 15 and 18, a data directory of {:.0} MB without its log, {threads} cores, \
         load at the end {}, medians; of memory and extra disk the worst. Without the server's \
         processor time.\n\n",
        options.shown(),
        data_bytes as f64 / 1e6,
        load.join(" ")
    );
    page.push_str(&report::table(measured));
    let (table, line) = wal::lines(speeds);
    page.push_str(&format!("\n{table}\n| bar | reached | asked | |\n|---|--:|--:|---|\n"));
    for bar in BARS {
        page.push_str(&report::bar_line(bar, measured));
    }
    for (what, one, other) in FLOORS {
        if let Some((one, other)) = measured.median(one).zip(measured.median(other)) {
            page.push_str(&format!("| {what} | {:.2} | | |\n", wall(&one) / wall(&other)));
        }
    }
    for (what, name, number, unit, most) in MOST {
        let reached = measured.median(name).map(|run| number(&run));
        page.push_str(&match reached {
            Some(reached) => format!(
                "| {what} | {reached:.2} {unit} | at most {most} {unit} | {} |\n",
                report::verdict(reached <= *most)
            ),
            None => format!("| {what} | not measured | at most {most} {unit} | |\n"),
        });
    }
    page + &line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--scale", "small", "--runs", "1", "--skip", "gz"]).unwrap();
        assert_eq!((options.scale, options.text_mb, options.segments), (5, 20, 8));
        assert!(options.wants(THEIRS) && !options.wants(THEIRS_GZ));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--scale", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_page_has_every_bar_also_of_what_was_not_measured() {
        let options = parse(&[]).unwrap();
        let page = page(&options, &Measured::default(), &mut Speeds::default(), 1);
        let speeds = 3;
        let bars = BARS.len() + MOST.len() + 1;
        assert_eq!(page.matches("not measured").count(), bars + speeds, "{page}");
    }
}
