//! `cargo xtask bench web`: how long the page and the metrics take, with many sources and backups.
//!
//! Real backups of small databases are multiplied, and the page of a real agent is asked for the
//! overview and the metrics, over and over, as a browser and Prometheus do. The first answer, for
//! which everything is read, stands beside the others; so does the memory of each process. The same
//! number of backups is then looked at by `lifeboat status`, with and without its cache.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::agent::{Agent, make, memory_of};
use super::build;
use crate::process::{measured, output, run as run_command};
use crate::root;

/// What the answers must stay below, in milliseconds.
const OVERVIEW_MS_MAX: f64 = 100.0;
const METRICS_MS_MAX: f64 = 20.0;

struct Options {
    sources: usize,
    backups: usize,
    asked: usize,
    program: Option<PathBuf>,
    multiply: Option<PathBuf>,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let folder = root().join("target/bench/web");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("data"))?;
    let (program, multiply) = match (&options.program, &options.multiply) {
        (Some(program), Some(multiply)) => (program.clone(), multiply.clone()),
        _ => {
            let programs = build()?;
            (programs.lifeboat, programs.many_backups)
        }
    };
    let command = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(folder.join("config.toml")).args(words).current_dir(&folder);
        command.env("XDG_STATE_HOME", folder.join("state")).env("HOME", &folder);
        command
    };
    make(&folder, options.sources)?;
    run_command(command(&["--quiet", "backup"]).stdout(Stdio::null()))?;
    let each = (options.backups / options.sources).max(1).to_string();
    for number in 0..options.sources {
        let place = folder.join(format!("repo/app{number}"));
        output(Command::new(&multiply).arg(place).arg(&each))?;
    }
    let token = output(&mut command(&["web", "token", "bench", "--read-only"]))?;
    let status = status(&folder, &command)?;
    let log = fs::File::create(folder.join("agent.log"))?;
    let begun = Instant::now();
    let mut running = command(&["run"]);
    let agent = Agent::of(running.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))?;
    let address = address(&folder)?;
    let there_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let ask = |path: &str| ask(&address, path, Some(token.trim()));
    let (first, size) = ask("/")?;
    let mut page = format!(
        "`cargo xtask bench web --sources {} --backups {} --asked {}`: {}\n\n\
         | what | first | median | worst | bar | |\n|---|--:|--:|--:|--:|---|\n",
        options.sources,
        options.backups,
        options.asked,
        format_args!("the overview has {} kB", size / 1000),
    );
    let (first_metrics, _) = ask("/metrics")?;
    for (name, path, first, bar) in [
        ("overview", "/", first, OVERVIEW_MS_MAX),
        ("metrics", "/metrics", first_metrics, METRICS_MS_MAX),
    ] {
        let mut times = Vec::new();
        for _ in 0..options.asked {
            times.push(ask(path)?.0);
            std::thread::sleep(Duration::from_millis(50));
        }
        times.sort_by(f64::total_cmp);
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let verdict = if worst < bar { "met" } else { "**missed**" };
        page.push_str(&format!(
            "| {name} | {first:.1} ms | {median:.1} ms | {worst:.1} ms | {bar} ms | {verdict} |\n"
        ));
    }
    let memory = memory_of(agent.id());
    let roles: Vec<String> =
        memory.iter().map(|(role, bytes)| format!("{role} {bytes:.1} MB")).collect();
    page.push_str(&format!(
        "\nThe page was there {there_ms:.0} ms after the agent began. Memory: {:.1} MB ({}).\n{status}",
        memory.values().sum::<f64>(),
        roles.join(", "),
    ));
    fs::write(folder.join("report.md"), &page)?;
    println!("{page}");
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options =
        Options { sources: 200, backups: 10_000, asked: 50, program: None, multiply: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--sources" => options.sources = value.parse().context("--sources")?,
            "--backups" => options.backups = value.parse().context("--backups")?,
            "--asked" => options.asked = value.parse().context("--asked")?,
            "--program" => options.program = Some(PathBuf::from(value)),
            "--multiply" => options.multiply = Some(PathBuf::from(value)),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.sources == 0 || options.asked == 0 {
        bail!("--sources and --asked must be at least 1");
    }
    Ok(options)
}

/// What `lifeboat status` takes of so many backups.
fn status(folder: &Path, command: &dyn Fn(&[&str]) -> Command) -> Result<String> {
    let said = folder.join("status.txt");
    let cold = measured(&mut command(&["status"]), &said)?;
    let warm = measured(&mut command(&["status"]), &said)?;
    let line = |taken: crate::process::Taken| {
        format!("{:.2} s and {:.1} MB", taken.wall_s, taken.memory_bytes_peak as f64 / 1e6)
    };
    Ok(format!("`lifeboat status` took {}; again {}.\n", line(cold), line(warm)))
}

/// Where the page is, when it is there.
pub(super) fn address(folder: &Path) -> Result<String> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Ok(text) = fs::read_to_string(folder.join("state/lifeboat/web/address")) {
            return Ok(text.trim_start_matches("http://").trim_end_matches('/').to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the page did not come within a minute: see {}", folder.join("agent.log").display())
}

/// Milliseconds from the connection to the last byte, and how many bytes came.
pub(super) fn ask(address: &str, path: &str, token: Option<&str>) -> Result<(f64, usize)> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    let who = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    stream.write_all(format!("{head}{who}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("{path}: {}", String::from_utf8_lossy(&answer[..answer.len().min(200)]));
    }
    Ok((took_ms, answer.len()))
}
