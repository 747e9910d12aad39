//! `cargo xtask bench stores`: a bucket against a folder, and us against restic and the guide's
//! way, all on one server of object storage on loopback.
//!
//! The server shares the machine with its clients, so its processor time stands beside theirs, and
//! so does a floor: the time in which `curl` sends and fetches the bytes that we store, with
//! nothing else done. Because a server is another machine as a rule, ours are measured once more
//! with a core for the client and another one for the server: there the bars are looked at.
//! Requests and bytes are counted in a round of their own, through a proxy, which is not timed.
//! Last, thousands of backups in the bucket are listed by a host that knows nothing of them.

mod count;
mod server;
mod ways;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::count::{Counter, Counts};
use self::server::{BUCKET, Server};
use self::ways::{
    AWS, BUCKET_APART, BUCKET_OURS, COPY, FLOOR, LOCAL, LOCAL_APART, Place, RESTIC, Way,
};
use super::report::verdict;
use super::{Programs, build, make_sample};
use crate::process::{Taken, is_there, measured, output};
use crate::root;

/// A bucket may take so much longer than a folder.
const RATIO_MAX: f64 = 1.2;
/// A list of all backups must end within this, in seconds.
const LIST_S_MAX: f64 = 3.0;
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

#[derive(Debug)]
struct Options {
    size_mb: u64,
    runs: usize,
    backups: u64,
    /// A program that was built before, with the examples beside it.
    program: Option<PathBuf>,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Run {
    taken: Taken,
    server_cpu_s: f64,
    stored_bytes: u64,
}

/// All runs by what they did, in the order in which they were first made.
#[derive(Default)]
struct Runs {
    order: Vec<String>,
    runs: BTreeMap<String, Vec<Run>>,
    counts: BTreeMap<String, Counts>,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    for tool in ["sqlite3", "gzip", "gunzip", "bash", "cmp"] {
        if !is_there(tool) {
            bail!("the benchmark needs {tool} (as root: apt-get install -y sqlite3 gzip bash)");
        }
    }
    let folder = root().join("target/bench/stores");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("arena"))?;
    let programs = match &options.program {
        Some(program) => built(program),
        None => build()?,
    };
    let place = Place {
        database: make_sample(&programs, &folder, "app", options.size_mb)?,
        arena: folder.join("arena"),
        said: folder.join("said.txt"),
        lifeboat: programs.lifeboat.clone(),
        server: Server::start(&folder.join("server"))?,
    };
    let (ways, missing) = ways::all();
    let mut runs = Runs::default();
    for round in 1..=options.runs {
        eprintln!("round {round} of {}", options.runs);
        for way in &ways {
            measure(way, &place, &mut runs)?;
        }
    }
    let counter = Counter::before(place.server.address)?;
    for way in ways.iter().filter(|way| way.uses_server) {
        count(way, &place, &counter, &mut runs)?;
    }
    let mut page = page(&options, &place, &runs, &missing)?;
    // Said before the list begins, which takes its time.
    println!("{page}");
    let list = listed(&programs, &place, &counter, &options)?;
    println!("{list}");
    page.push_str(&list);
    let path = folder.join("report.md");
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("the same is in {}", path.display());
    Ok(())
}

/// What was built before.
fn built(program: &Path) -> Programs {
    let folder = program.parent().unwrap_or(Path::new(".")).join("examples");
    Programs {
        lifeboat: program.to_owned(),
        floor: folder.join("floor"),
        make_sample: folder.join("make_sample"),
        many_backups: folder.join("many_backups"),
        litestream: None,
    }
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { size_mb: 1000, runs: 3, backups: 10_000, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--size-mb" => options.size_mb = value.parse().context("--size-mb")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--backups" => options.backups = value.parse().context("--backups")?,
            "--program" => options.program = Some(std::path::absolute(value)?),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.size_mb == 0 || options.runs == 0 || options.backups == 0 {
        bail!("--size-mb, --runs and --backups must be at least 1");
    }
    Ok(options)
}

/// Backs up and restores once.
fn measure(way: &Way, place: &Place, runs: &mut Runs) -> Result<()> {
    eprintln!("  {}", way.name);
    let at = place.server.address;
    place.clear()?;
    (way.prepare)(place, at)?;
    place.settle()?;
    if way.is_apart {
        place.server.keep_to_its_core(true)?;
    }
    let timed = |command: &mut Command| -> Result<(Taken, f64)> {
        let before = place.server.cpu_s()?;
        let taken = measured(command, &place.said)?;
        Ok((taken, place.server.cpu_s()? - before))
    };
    let (taken, server_cpu_s) = timed(&mut (way.backup)(place, at))?;
    let stored_bytes = place.stored_bytes(way);
    runs.add(format!("backup: {}", way.name), Run { taken, server_cpu_s, stored_bytes });
    if way.name == LOCAL {
        place.keep_artifact()?;
    }
    if let Some(restore) = way.restore {
        place.settle()?;
        let (taken, server_cpu_s) = timed(&mut restore(place, at))?;
        place.compare(way)?;
        runs.add(format!("restore: {}", way.name), Run { taken, server_cpu_s, stored_bytes });
    }
    if way.is_apart {
        place.server.keep_to_its_core(false)?;
    }
    Ok(())
}

/// The same through the proxy: what is asked of the server.
fn count(way: &Way, place: &Place, counter: &Counter, runs: &mut Runs) -> Result<()> {
    place.clear()?;
    (way.prepare)(place, place.server.address)?;
    measured(&mut (way.backup)(place, counter.address), &place.said)?;
    runs.counts.insert(format!("backup: {}", way.name), counter.take());
    if let Some(restore) = way.restore {
        measured(&mut restore(place, counter.address), &place.said)?;
        runs.counts.insert(format!("restore: {}", way.name), counter.take());
    }
    Ok(())
}

impl Runs {
    fn add(&mut self, name: String, run: Run) {
        if !self.runs.contains_key(&name) {
            self.order.push(name.clone());
        }
        self.runs.entry(name).or_default().push(run);
    }

    /// The median of a number.
    fn median(&self, name: &str, number: impl Fn(&Run) -> f64) -> Option<f64> {
        let mut numbers: Vec<f64> = self.runs.get(name)?.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        let half = numbers.len() / 2;
        match numbers.len() % 2 {
            0 => Some((numbers[half.checked_sub(1)?] + numbers[half]) / 2.0),
            _ => numbers.get(half).copied(),
        }
    }

    fn wall_s(&self, name: &str) -> Option<f64> {
        self.median(name, |run| run.taken.wall_s)
    }

    fn line(&self, name: &str) -> Option<String> {
        let of = |number: fn(&Run) -> f64| self.median(name, number);
        let counts = self.counts.get(name);
        let moved = |bytes: fn(&Counts) -> u64| {
            counts.map_or_else(String::new, |counts| format!("{:.1}", bytes(counts) as f64 / 1e6))
        };
        Some(format!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} | {} | {} | {} |\n",
            of(|run| run.taken.wall_s)?,
            of(|run| run.taken.cpu_s)?,
            of(|run| run.server_cpu_s)?,
            of(|run| run.stored_bytes as f64)? / 1e6,
            of(|run| run.taken.memory_bytes_peak as f64)? / 1e6,
            counts.map(Counts::shown).unwrap_or_default(),
            moved(|counts| counts.bytes_sent),
            moved(|counts| counts.bytes_received),
        ))
    }
}

fn page(options: &Options, place: &Place, runs: &Runs, missing: &[&str]) -> Result<String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut page = format!(
        "`cargo xtask bench stores --size-mb {} --runs {} --backups {}`: a database of {:.0} MB, \
         {threads} cores, medians. The server is s3s-fs on the same cores, but where \
         each has one; there restores have their check, elsewhere none.\n\n",
        options.size_mb,
        options.runs,
        options.backups,
        fs::metadata(&place.database)?.len() as f64 / 1e6,
    );
    for name in missing {
        page.push_str(&format!("SKIPPED: {name} is not installed here.\n\n"));
    }
    page.push_str(
        "| | wall s | CPU s | server CPU s | stored MB | peak memory MB | requests | sent MB | \
         received MB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    page.extend(runs.order.iter().filter_map(|name| runs.line(name)));
    page.push_str("\n| bar | reached | asked | |\n|---|--:|--:|---|\n");
    let pairs = [
        (BUCKET_APART, LOCAL_APART, "a core for each"),
        (BUCKET_OURS, LOCAL, "the server on the client's cores"),
    ];
    for (bucket, folder, how) in pairs {
        for what in ["backup", "restore"] {
            let name = |way: &str| format!("{what}: {way}");
            let ratio = runs.wall_s(&name(bucket)).zip(runs.wall_s(&name(folder)));
            let ratio = ratio.map_or(f64::NAN, |(ours, local)| ours / local);
            let reached = verdict(ratio <= RATIO_MAX);
            page.push_str(&format!(
                "| {what}, bucket / folder, wall, {how} | {ratio:.2} | at most {RATIO_MAX} | \
                 {reached} |\n"
            ));
        }
    }
    page.push_str("\n| beside ours in the bucket | time | bytes | requests |\n|---|--:|--:|--:|\n");
    for what in ["backup", "restore"] {
        for other in [RESTIC, AWS, FLOOR] {
            page.push_str(&beside(runs, what, other));
        }
    }
    if let Some(copy_s) = runs.wall_s(&format!("backup: {COPY}")) {
        page.push_str(&format!(
            "\nThe `.backup` file, which restic needs first, takes another {copy_s:.2} s.\n"
        ));
    }
    Ok(page)
}

/// How many times ours another way takes.
fn beside(runs: &Runs, what: &str, other: &str) -> String {
    let (theirs, ours) = (format!("{what}: {other}"), format!("{what}: {BUCKET_OURS}"));
    if !runs.runs.contains_key(&theirs) {
        return String::new();
    }
    let times = |both: Option<(f64, f64)>| match both {
        Some((theirs, ours)) if ours > 0.0 => format!("{:.2}", theirs / ours),
        _ => "not measured".to_owned(),
    };
    let moved = |name: &str| {
        let counts = runs.counts.get(name)?;
        Some((counts.bytes_sent + counts.bytes_received) as f64)
    };
    let requests = |name: &str| runs.counts.get(name).map(|counts| counts.requests() as f64);
    format!(
        "| {theirs} | {} | {} | {} |\n",
        times(runs.wall_s(&theirs).zip(runs.wall_s(&ours))),
        times(moved(&theirs).zip(moved(&ours))),
        times(requests(&theirs).zip(requests(&ours))),
    )
}

/// A list of many backups, by a host that never saw them: as they are, and after a prune that has
/// packed their manifests.
fn listed(
    programs: &Programs,
    place: &Place,
    counter: &Counter,
    options: &Options,
) -> Result<String> {
    eprintln!("a list of {} backups", options.backups);
    place.clear()?;
    let small = place.arena.join("small");
    fs::create_dir_all(&small)?;
    let small = make_sample(programs, &small, "app", 1)?;
    let at = place.server.address;
    measured(place.ours_in_bucket(&["backup", "--quiet"], at).arg(&small), &place.said)?;
    let folder = place.server.folder.join(BUCKET).join("chat/app");
    let mut multiply = Command::new(&programs.many_backups);
    let made = output(multiply.arg(folder).arg(options.backups.to_string()))?;
    eprint!("{made}");
    // A pack holds what is a few seconds old.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let mut page = format!(
        "\n{}, in the bucket, to a host without a cache:\n\n\
         | `lifeboat list` | wall s | CPU s | server CPU s | requests | asked | |\n\
         |---|--:|--:|--:|--:|--:|---|\n",
        made.trim(),
    );
    page.push_str(&listed_cold(place, counter, options, "one by one", 1)?);
    let prune = ["prune", "--yes", "--retention-days", "36500"];
    measured(place.ours_in_bucket(&prune, at).arg(&small), &place.said)?;
    let how = format!("packed by a prune, the best of {}", options.runs);
    page.push_str(&listed_cold(place, counter, options, &how, options.runs)?);
    Ok(page)
}

/// The best of so many lists, as a line of a table.
fn listed_cold(
    place: &Place,
    counter: &Counter,
    options: &Options,
    how: &str,
    runs: usize,
) -> Result<String> {
    let forget = || match place.arena.join("home/lifeboat") {
        state if state.exists() => fs::remove_dir_all(state),
        _ => Ok(()),
    };
    let mut best: Option<(Taken, f64)> = None;
    for _ in 0..runs {
        forget()?;
        output(&mut Command::new("sync"))?;
        // As root, the server's disk is cold as well.
        let _ = fs::write(Path::new(DROP_CACHES), "3");
        let before = place.server.cpu_s()?;
        let mut list = place.ours_in_bucket(&["list"], place.server.address);
        let taken = measured(&mut list, &place.said)?;
        let server_cpu_s = place.server.cpu_s()? - before;
        let lines = fs::read_to_string(&place.said)?.lines().count() as u64;
        if lines < options.backups {
            bail!("{lines} lines tell of {} backups", options.backups);
        }
        if best.is_none_or(|(best, _)| taken.wall_s < best.wall_s) {
            best = Some((taken, server_cpu_s));
        }
    }
    let (best, server_cpu_s) = best.context("nothing was listed")?;
    forget()?;
    measured(&mut place.ours_in_bucket(&["list"], counter.address), &place.said)?;
    Ok(format!(
        "| {how} | {:.2} | {:.2} | {server_cpu_s:.2} | {} | within {LIST_S_MAX} s | {} |\n",
        best.wall_s,
        best.cpu_s,
        counter.take().shown(),
        verdict(best.wall_s <= LIST_S_MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--size-mb", "100", "--backups", "50"]).unwrap();
        assert_eq!((options.size_mb, options.runs, options.backups), (100, 3, 50));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--size-mb", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut runs = Runs::default();
        let run = |wall_s| Run {
            taken: Taken { wall_s, cpu_s: 1.0, memory_bytes_peak: 1 },
            server_cpu_s: 0.5,
            stored_bytes: 1_000_000,
        };
        for wall_s in [1.0, 2.0, 9.0] {
            runs.add(format!("backup: {BUCKET_OURS}"), run(wall_s));
            runs.add(format!("backup: {RESTIC}"), run(wall_s * 3.0));
        }
        let line = beside(&runs, "backup", RESTIC);
        assert_eq!(line, format!("| backup: {RESTIC} | 3.00 | not measured | not measured |\n"));
        assert_eq!(beside(&runs, "restore", AWS), "");
        assert!(runs.line(&format!("backup: {BUCKET_OURS}")).unwrap().contains("| 2.00 | 1.00 |"));
    }
}
