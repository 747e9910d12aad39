//! One contender follows a database under three loads; then what it stored is restored.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::watch::{Role, Seen, Watch, cpu_s, forget_memory, memory_bytes_peak, now_us};
use super::{Bench, MESSAGES, RATES, ask};
use crate::bench::litestream;
use crate::process::{Taken, measured, output};

/// How long a follower may take until it follows.
const READY: Duration = Duration::from_secs(180);
/// How long it may take for what was committed last.
const DRAIN: Duration = Duration::from_secs(20);

/// Who follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The writer is alone.
    Nobody,
    Lifeboat,
    Litestream,
}

impl Who {
    pub(super) fn name(self) -> &'static str {
        match self {
            Who::Nobody => "nobody",
            Who::Lifeboat => "lifeboat run",
            Who::Litestream => "litestream replicate",
        }
    }
}

/// What a contender did.
pub(super) struct Followed {
    pub(super) who: Who,
    /// Until it followed: seconds, processor seconds, peak memory in bytes, bytes that it stored.
    pub(super) begin: Option<(f64, f64, u64, u64)>,
    /// The largest file that it had stored then: the whole database.
    pub(super) first_bytes: u64,
    /// Under each load.
    pub(super) loads: Vec<Load>,
    pub(super) pages: u64,
    pub(super) restores: Vec<Restored>,
}

/// What happened under one load.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    pub(super) rate: u32,
    pub(super) seconds: f64,
    /// How long each commit took, sorted, in microseconds.
    pub(super) delays_us: Vec<u64>,
    /// How old each commit was when a file with it was seen, sorted, in microseconds.
    pub(super) lags_us: Vec<u64>,
    pub(super) wal_bytes_max: u64,
    pub(super) cpu_s: f64,
    pub(super) memory_bytes: u64,
    pub(super) log: (usize, u64),
    pub(super) merged: (usize, u64),
    /// The largest of these.
    pub(super) merged_bytes_max: u64,
    pub(super) base: (usize, u64),
}

/// A restore of what was stored.
pub(super) struct Restored {
    pub(super) what: &'static str,
    pub(super) taken: Taken,
    /// How far behind the moment that was asked for the restored state ends, in seconds.
    pub(super) behind_s: f64,
}

/// A follower that is ended when it is dropped.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        // SAFETY: it sends a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.0.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

pub(super) fn measure(bench: &Bench, who: Who, place: &Path) -> Result<Followed> {
    let database = place.join("data/app.db");
    let watch = Watch::begin(place.join("stored"), place.join("data/app.db-wal"));
    let began = Instant::now();
    let follower = begin(bench, who, place)?;
    let pid = follower.as_ref().map(|follower| follower.0.id());
    let (mut begin, mut first_bytes) = (None, 0);
    if let Some(pid) = pid {
        wait_ready(who, place, &watch)?;
        let seen = watch.take().0;
        let stored = seen.iter().map(|seen| seen.bytes).sum();
        first_bytes = seen.iter().map(|seen| seen.bytes).max().unwrap_or(0);
        let took = (began.elapsed().as_secs_f64(), cpu_s(pid), memory_bytes_peak(pid), stored);
        begin = Some(took);
    }
    let (mut loads, mut middle_us) = (Vec::new(), 0);
    let is_wanted = |rate: u32| bench.options.only_rate.is_none_or(|only| only == rate);
    for (rate, messages) in RATES.into_iter().zip(MESSAGES).filter(|(rate, _)| is_wanted(*rate)) {
        eprintln!("  {}", shown(rate));
        let from_us = now_us();
        loads.push(load(bench, place, &watch, pid, (rate, messages))?);
        if rate == 200 || bench.options.only_rate.is_some() {
            middle_us = from_us + (now_us() - from_us) / 2;
        }
    }
    drop(follower);
    drop(watch);
    let size = fs::metadata(&database)?.len();
    let (pages, restores_made) = (size / 4096, Vec::new());
    let mut followed = Followed { who, begin, first_bytes, loads, pages, restores: restores_made };
    if who != Who::Nobody {
        restores(bench, who, place, middle_us, &mut followed)?;
    }
    Ok(followed)
}

pub(super) fn shown(rate: u32) -> String {
    match rate {
        0 => "unlimited".to_owned(),
        rate => format!("{rate} a second"),
    }
}

fn begin(bench: &Bench, who: Who, place: &Path) -> Result<Option<Follower>> {
    let database = place.join("data/app.db");
    let mut command = match who {
        Who::Nobody => return Ok(None),
        Who::Lifeboat => {
            let mut command = bench.command(&bench.lifeboat, place);
            command.args(["run", "--repo"]).arg(place.join("stored")).arg(&database);
            command
        }
        Who::Litestream => {
            let program = bench.litestream.as_ref().context("Litestream is not installed")?;
            let config = place.join("litestream.yml");
            fs::write(&config, litestream::configuration(&database, &place.join("stored")))?;
            let mut command = bench.command(program, place);
            command.args(["replicate", "-config"]).arg(config);
            command
        }
    };
    let said = File::create(place.join("said"))?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    Ok(Some(Follower(command.spawn()?)))
}

/// Waits until the first copy is stored and new commits are followed. Litestream stores the first
/// copy in several levels one after the other: the loads begin when that is over.
fn wait_ready(who: Who, place: &Path, watch: &Watch) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < READY {
        std::thread::sleep(Duration::from_millis(100));
        let said = fs::read_to_string(place.join("said")).unwrap_or_default();
        let is_ready = match who {
            Who::Lifeboat => said.contains("following"),
            _ => watch.bases() > 0 && watch.merged() > 0,
        };
        if is_ready {
            std::thread::sleep(Duration::from_secs(1));
            return Ok(());
        }
    }
    let said = fs::read_to_string(place.join("said")).unwrap_or_default();
    bail!("{} does not follow: {said}", who.name())
}

fn load(
    bench: &Bench,
    place: &Path,
    watch: &Watch,
    pid: Option<u32>,
    (rate, messages): (u32, u32),
) -> Result<Load> {
    let times = place.join("times");
    watch.take();
    let cpu_before = pid.map_or(0.0, cpu_s);
    pid.inspect(|&pid| forget_memory(pid));
    let began = Instant::now();
    let mut writer = bench.command(&bench.writer, place);
    writer.arg(place.join("data/app.db")).arg("--times").arg(&times);
    for (name, number) in [("--rate", rate.into()), ("--messages", messages.into())] {
        writer.args([name, &u64::to_string(&number)]);
    }
    // As long as alone: what a disk does now and then is in the longest of both.
    output(writer.args(["--seconds", &bench.options.seconds.to_string()]))?;
    let seconds = began.elapsed().as_secs_f64();
    let commits = commits(&times)?;
    // Its checkpoint is a part of a commit, and comes when others see it.
    let last_us = commits.last().map_or(0, |(at_us, took_us)| at_us.saturating_sub(*took_us));
    if pid.is_some() {
        drain(watch, last_us);
    }
    let ended_us = now_us();
    let (seen, wal_bytes_max) = watch.take();
    let of = |role| {
        let files = seen.iter().filter(move |seen| seen.role == role);
        (files.clone().count(), files.map(|seen| seen.bytes).sum())
    };
    let merged = seen.iter().filter(|seen| seen.role == Role::Merged);
    let merged_bytes_max = merged.map(|seen| seen.bytes).max().unwrap_or(0);
    let mut delays_us: Vec<u64> = commits.iter().map(|(_, took_us)| *took_us).collect();
    delays_us.sort_unstable();
    Ok(Load {
        rate,
        seconds,
        delays_us,
        lags_us: lags(&commits, &seen, ended_us),
        wal_bytes_max,
        cpu_s: pid.map_or(0.0, cpu_s) - cpu_before,
        memory_bytes: pid.map_or(0, memory_bytes_peak),
        log: of(Role::Log),
        merged: of(Role::Merged),
        merged_bytes_max,
        base: of(Role::Base),
    })
}

/// Waits until what was committed last is stored: a file that holds it, or none that is new.
fn drain(watch: &Watch, last_us: u64) {
    let began = Instant::now();
    while watch.held_us() < last_us && began.elapsed() < DRAIN {
        std::thread::sleep(Duration::from_millis(50));
        if began.elapsed() > Duration::from_secs(5) && watch.held_us() + 10_000 > last_us {
            break;
        }
    }
}

/// When each commit ended, and how long it took, in microseconds.
fn commits(times: &Path) -> Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string(times)?;
    let pair = |line: &str| {
        let (at, took) = line.split_once(' ')?;
        Some((at.parse().ok()?, took.parse().ok()?))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// How old each commit was when the first file with it was seen, sorted. A file's own time is that
/// of its look; what was being committed at the last look and is in no later file is as old as that
/// file was when it was seen: a restore afterwards shows that nothing is missing.
fn lags(commits: &[(u64, u64)], seen: &[Seen], ended_us: u64) -> Vec<u64> {
    let logs: Vec<&Seen> = seen.iter().filter(|seen| seen.role == Role::Log).collect();
    if logs.is_empty() {
        return Vec::new();
    }
    let mut next = 0;
    let mut lags: Vec<u64> = commits
        .iter()
        .map(|(at_us, took_us)| {
            while next + 1 < logs.len() && logs[next].held_us < *at_us {
                next += 1;
            }
            let begun_us = at_us.saturating_sub(*took_us);
            let is_near = logs[next].held_us + 10_000 >= begun_us;
            let safe_us = if is_near { logs[next].at_us } else { ended_us };
            safe_us.saturating_sub(*at_us)
        })
        .collect();
    lags.sort_unstable();
    lags
}

/// Restores the newest state and one of the middle, and looks what came out.
fn restores(
    bench: &Bench,
    who: Who,
    place: &Path,
    middle_us: u64,
    followed: &mut Followed,
) -> Result<()> {
    let database = place.join("data/app.db");
    let newest = ask(&database, LAST)?;
    let time = output(
        Command::new("date")
            .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"])
            .arg(format!("@{}", middle_us / 1_000_000)),
    )?;
    let (time, second_us) = (time.trim(), middle_us / 1_000_000 * 1_000_000);
    let restored = place.join("restored.db");
    for (what, at) in [("the newest state", None), ("a time", Some(time))] {
        eprintln!("  restore: {what}");
        let mut command = match who {
            Who::Litestream => {
                let program = bench.litestream.as_ref().context("Litestream is not installed")?;
                let mut command = bench.command(program, place);
                command.args(["restore", "-config"]).arg(place.join("litestream.yml"));
                command.args(at.into_iter().flat_map(|at| ["-timestamp", at]));
                command.arg("-o").arg(&restored).arg(&database);
                command
            }
            _ => {
                let mut command = bench.command(&bench.lifeboat, place);
                command.args(["restore", "app", "--check", "none", "--yes", "--quiet", "--repo"]);
                command.arg(place.join("stored")).arg("--to").arg(&restored);
                command.args(at.into_iter().flat_map(|at| ["--at", at]));
                command
            }
        };
        output(&mut Command::new("sync"))?;
        let taken = measured(&mut command, &place.join("said-restore"))?;
        let last = ask(&restored, LAST)?;
        let at_us =
            last.split('|').nth(1).and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0) * 1000;
        let behind_s = match at {
            None if last == newest => 0.0,
            None => bail!("{} restored {last}, not {newest}", who.name()),
            Some(_) => second_us.saturating_sub(at_us) as f64 / 1e6,
        };
        followed.restores.push(Restored { what, taken, behind_s });
        fs::remove_file(&restored)?;
    }
    Ok(())
}

const LAST: &str = "SELECT seq, at_ms FROM commits ORDER BY seq DESC LIMIT 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_commit_is_that_at_the_first_file_with_it() {
        let seen = |at_us, held_us| Seen { at_us, bytes: 1, role: Role::Log, held_us };
        let files = [seen(2_000_000, 1_000_000), seen(3_000_000, 2_500_000)];
        let commits = [(500_000, 1), (1_500_000, 1), (2_505_000, 1), (2_900_000, 1)];
        let lags = lags(&commits, &files, 9_000_000);
        assert_eq!(lags, [495_000, 1_500_000, 1_500_000, 6_100_000]);
    }
}
