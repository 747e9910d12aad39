//! `cargo xtask bench agent`: what the agent takes while nothing happens, and while a little does.
//!
//! Many small databases are followed by a real agent with schedules and a page, whose metrics are
//! asked for every 15 seconds as Prometheus does. The processor and the memory of it and of all
//! that it began are read from /proc: ticks of the processes that live and of those that ended, and
//! the share of memory that is theirs (Pss). With `--writes` somebody writes to one of the
//! databases each second. What misses its bar is printed as a miss.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::build;
use super::web::{address, ask};
use crate::process::{output, run as run_command};
use crate::root;

/// What an idle agent must stay below: of one core, in percent; in MB.
const CPU_PERCENT_MAX: f64 = 1.0;
const MEMORY_MB_MAX: f64 = 64.0;
/// Ticks of the processor in a second.
const TICKS_PER_S: f64 = 100.0;
/// Between two questions for the metrics.
const SCRAPED_EVERY_S: u64 = 15;
/// After the last database is followed, all that was begun for it comes to rest.
const REST: Duration = Duration::from_secs(15);

struct Options {
    sources: usize,
    seconds: u64,
    writes: bool,
    program: Option<PathBuf>,
}

/// The agent, which ends with the benchmark.
pub(super) struct Agent(Child);

impl Agent {
    /// Begins it.
    pub(super) fn of(command: &mut Command) -> Result<Self> {
        Ok(Agent(command.spawn()?))
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let id = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let folder = root().join("target/bench/agent");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("data"))?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build()?.lifeboat,
    };
    let command = |words: &[&str]| {
        let mut command = Command::new(&program);
        let config = folder.join("config.toml");
        command.arg("--config").arg(config).args(words).current_dir(&folder);
        command.env("XDG_STATE_HOME", folder.join("state")).env("HOME", &folder);
        command.env("XDG_CACHE_HOME", folder.join("cache"));
        command
    };
    make(&folder, options.sources)?;
    run_command(command(&["--quiet", "backup"]).stdout(Stdio::null()))?;
    let log = fs::File::create(folder.join("agent.log"))?;
    let mut running = command(&["run"]);
    let agent = Agent(running.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
    wait_until_followed(&folder, options.sources)?;
    let address = address(&folder)?;
    ask(&address, "/metrics", None)?;
    std::thread::sleep(REST);
    let (begun, before) = (Instant::now(), ticks(agent.0.id()));
    let mut memory = Vec::new();
    let mut writes = 0_usize;
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        std::thread::sleep(Duration::from_secs(1));
        if options.writes {
            write(&folder, writes % options.sources)?;
            writes += 1;
        }
        memory.push(memory_of(agent.0.id()));
        if (memory.len() as u64).is_multiple_of(SCRAPED_EVERY_S) {
            ask(&address, "/metrics", None)?;
        }
    }
    let used_s = (ticks(agent.0.id()) - before) / TICKS_PER_S;
    let percent = used_s * 100.0 / begun.elapsed().as_secs_f64();
    let page = page(&options, percent, &memory, writes);
    fs::write(folder.join("report.md"), &page)?;
    println!("{page}");
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { sources: 200, seconds: 60, writes: false, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if *name == "--writes" {
            options.writes = true;
            continue;
        }
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--sources" => options.sources = value.parse().context("--sources")?,
            "--seconds" => options.seconds = value.parse().context("--seconds")?,
            "--program" => options.program = Some(PathBuf::from(value)),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.sources == 0 || options.seconds == 0 {
        bail!("--sources and --seconds must be at least 1");
    }
    Ok(options)
}

/// The databases, in WAL mode as applications have them, and the configuration.
pub(super) fn make(folder: &Path, sources: usize) -> Result<()> {
    let first = folder.join("data/0.db");
    let sql = "PRAGMA journal_mode = WAL; CREATE TABLE message (id INTEGER PRIMARY KEY, body TEXT); \
               WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
               INSERT INTO message SELECT i, hex(randomblob(40)) FROM n;";
    run_command(Command::new("sqlite3").arg(&first).arg(sql).stdout(Stdio::null()))?;
    for number in 1..sources {
        fs::copy(&first, folder.join(format!("data/{number}.db")))?;
    }
    let mut config = format!(
        "[repository.local]\nurl = \"file://{}/repo\"\n[agent]\nlisten = \"127.0.0.1:0\"\n",
        folder.display()
    );
    for number in 0..sources {
        config.push_str(&format!(
            "[source.app{number}]\nsqlite = \"{}/data/{number}.db\"\nschedule = \"daily 02:00\"\n\
             rpo = \"1d\"\nkeep = {{ daily = 7 }}\n",
            folder.display()
        ));
    }
    Ok(fs::write(folder.join("config.toml"), config)?)
}

fn wait_until_followed(folder: &Path, sources: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
        if said.matches("following app").count() >= sources {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(120) {
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            bail!("not all databases are followed after two minutes: {last:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn write(folder: &Path, number: usize) -> Result<()> {
    let sql = "INSERT INTO message (body) VALUES (hex(randomblob(100)))";
    let database = folder.join(format!("data/{number}.db"));
    output(Command::new("sqlite3").arg(database).arg(sql)).map(drop)
}

/// A process and all below it that live.
fn tree(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|id| id.parse().ok()).flat_map(tree));
    }
    all
}

/// What they used of the processor, with those that ended.
fn ticks(process: u32) -> f64 {
    let of = |id: u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
        Some((11..=14).filter_map(|at| fields.get(at)?.parse::<f64>().ok()).sum())
    };
    tree(process).into_iter().filter_map(of).sum()
}

/// The memory that is theirs, in MB, for each of them by what it does.
pub(super) fn memory_of(process: u32) -> BTreeMap<&'static str, f64> {
    let of = |id: u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0 / 1e6)
    };
    let mut found = BTreeMap::new();
    for id in tree(process) {
        *found.entry(role(id)).or_default() += of(id).unwrap_or(0.0);
    }
    found
}

/// What a process of the agent does.
fn role(id: u32) -> &'static str {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let has = |word: &str| line.split(|byte| *byte == 0).any(|one| one == word.as_bytes());
    match (has("web"), has("--follow"), has("run")) {
        (true, _, _) => "the page",
        (_, true, _) => "the follower",
        (_, _, true) => "the agent",
        _ => "its runs",
    }
}

fn page(
    options: &Options,
    percent: f64,
    each: &[BTreeMap<&'static str, f64>],
    writes: usize,
) -> String {
    let memory: Vec<f64> = each.iter().map(|one| one.values().sum()).collect();
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let middle = |part: &[f64]| {
        let mut sorted = part.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    };
    let thirds = memory.len().div_ceil(3).max(1);
    let thirds: Vec<String> =
        memory.chunks(thirds).map(|part| format!("{:.1} MB", middle(part))).collect();
    let verdict = |is_met: bool| if is_met { "met" } else { "**missed**" };
    let (median, peak) = (middle(&memory), most(&memory));
    let of_role = |role: &&str| -> Vec<f64> {
        each.iter().map(|one| one.get(role).copied().unwrap_or(0.0)).collect()
    };
    let roles = ["the agent", "the follower", "the page"];
    let roles: Vec<String> =
        roles.iter().map(|role| format!("{role} {:.1} MB", middle(&of_role(role)))).collect();
    let what = if writes == 0 { "nothing happens".to_owned() } else { format!("{writes} writes") };
    format!(
        "`cargo xtask bench agent --sources {} --seconds {}{}`: {what}\n\n\
         | what | measured | bar | |\n|---|---:|---:|---|\n\
         | of one core | {percent:.2} % | {CPU_PERCENT_MAX} % | {} |\n\
         | memory, the median | {median:.1} MB | {MEMORY_MB_MAX} MB | {} |\n\
         | memory, the most (with the watch) | {peak:.1} MB | | |\n\n\
         The medians of each: {}. The median of each third of the time: {}.\n",
        options.sources,
        options.seconds,
        if options.writes { " --writes" } else { "" },
        verdict(percent < CPU_PERCENT_MAX),
        verdict(median < MEMORY_MB_MAX),
        roles.join(", "),
        thirds.join(", "),
    )
}
