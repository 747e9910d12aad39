//! The page: a table of each measure, and each bar with what was reached.

use super::follow::{Followed, Load, Who, shown};
use super::increments::{FLOOR, OURS, Way, step_names};
use super::{Options, RATES};

/// Memory above page hashes that a follower may use, in bytes.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
const PAGE_HASH_BYTES: u64 = 16;
/// How much larger than without a follower a `-wal` may become, in bytes.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// How much longer than without a follower the slowest commit may take, in microseconds.
const DELAY_US_MAX: u64 = 50_000;

/// A load that was measured for less says nothing of an hour: files of Litestream's level 1 span 30
/// seconds.
const LOAD_SECONDS_MIN: f64 = 55.0;
/// From when on a log of ours is followed by a new backup, as the page log has it: files, bytes,
/// and how many times the backup's.
const LOG_FILES: f64 = 1_000_000.0;
const LOG_BYTES_MIN: f64 = 4_194_304.0;
const LOG_BYTES_TIMES: f64 = 8.0;
/// How many times these bytes under a writer in a hurry.
const HURRIED_TIMES: f64 = 4.0;

pub(super) fn page(options: &Options, followed: &[Followed], ways: Option<&[Way]>) -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut page = format!(
        "`cargo xtask bench pagelog`: a database of {} MB with a random unique index, {threads} \
         cores, {} s for each load.\n",
        options.size_mb, options.seconds
    );
    if !followed.is_empty() {
        page.push_str(&begins(followed));
        page.push_str(&loads(followed));
        page.push_str(&hours(followed));
        page.push_str(&restores(followed));
    }
    if let Some(ways) = ways {
        page.push_str(&increments(options, ways));
    }
    page.push_str("\n| bar | reached | asked | |\n|---|--:|--:|---|\n");
    if !followed.is_empty() {
        page.push_str(&bars(followed));
    }
    page
}

fn begins(followed: &[Followed]) -> String {
    let mut text = String::from(
        "\nUntil the database is followed (Litestream stores the first copy in three levels):\n\n\
         | | seconds | CPU s | peak memory MB | stored MB |\n|---|--:|--:|--:|--:|\n",
    );
    for one in followed {
        if let Some((wall_s, cpu_s, memory, stored)) = one.begin {
            let (name, memory, stored) = (one.who.name(), mb(memory), mb(stored));
            text.push_str(&format!(
                "| {name} | {wall_s:.1} | {cpu_s:.1} | {memory} | {stored} |\n"
            ));
        }
    }
    text
}

fn loads(followed: &[Followed]) -> String {
    let mut text = String::from(
        "\nUnder load. Shipped: files as they were first written (L0), with how many; merged: what \
         was made of several of them besides; lag: age of a commit when the first file with it was \
         seen; delay: how long a commit took.\n\n\
         | transactions | | commits | shipped MB (files) | merged MB | backups MB | CPU s | peak \
         memory MB | lag median / worst s | delay median / 99 % / 99.9 % / worst ms | -wal MB |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for rate in RATES {
        for one in followed {
            let Some(load) = of_rate(one, rate) else { continue };
            text.push_str(&load_line(one.who, load));
        }
    }
    text
}

fn load_line(who: Who, load: &Load) -> String {
    let delay = |part| at(&load.delays_us, part) as f64 / 1e3;
    let follower = match who {
        Who::Nobody => "| | | | | | ".to_owned(),
        _ => format!(
            "| {:.2} ({}) | {:.2} | {:.2} | {:.1} | {} | {:.2} / {:.2} ",
            load.log.1 as f64 / 1e6,
            load.log.0,
            load.merged.1 as f64 / 1e6,
            load.base.1 as f64 / 1e6,
            load.cpu_s,
            mb(load.memory_bytes),
            at(&load.lags_us, 0.5) as f64 / 1e6,
            at(&load.lags_us, 1.0) as f64 / 1e6,
        ),
    };
    format!(
        "| {} | {} | {} {follower}| {:.2} / {:.2} / {:.1} / {:.1} | {:.1} |\n",
        shown(load.rate),
        who.name(),
        load.delays_us.len(),
        delay(0.5),
        delay(0.99),
        delay(0.999),
        delay(1.0),
        load.wal_bytes_max as f64 / 1e6,
    )
}

/// Storage after an hour at that rate, in bytes; `None` where it was measured for too short a time.
fn hour_bytes(one: &Followed, load: &Load) -> Option<f64> {
    if load.seconds < LOAD_SECONDS_MIN {
        return None;
    }
    let per_hour = |bytes: u64| bytes as f64 / load.seconds * 3600.0;
    let (log, first) = (per_hour(load.log.1), one.first_bytes as f64);
    Some(match one.who {
        // Level 0 is kept for five minutes. Of levels 2 and 3, whose files span five minutes and an
        // hour, each holds at least the pages of the largest file of level 1. The first copy is in
        // the snapshots and in levels 1 and 2.
        Who::Litestream => {
            let wider = load.merged_bytes_max as f64;
            let levels = per_hour(load.merged.1) + wider * (12.0 + 1.0);
            first * 3.0 + log / 12.0 + levels
        }
        // All that is shipped stays for a day, and each time that a log has grown too long a new
        // backup begins another.
        _ => {
            let files = load.log.0 as f64 / load.seconds * 3600.0;
            let times = if load.rate == 0 { HURRIED_TIMES } else { 1.0 };
            let log_bytes = LOG_BYTES_MIN.max(first * LOG_BYTES_TIMES);
            let logs = (log / log_bytes / times).max(files / LOG_FILES);
            first * (1.0 + logs.floor()) + log + per_hour(load.merged.1)
        }
    })
}

fn hours(followed: &[Followed]) -> String {
    let mut text = String::from(
        "\nStorage after an hour, from what was stored under load. Ours: the backups, and all that is \
         shipped, as every state stays for a day. Litestream, at least: its first copy in three \
         levels, its level 1 for the hour, level 0 for the five minutes that it is kept, and of \
         levels 2 and 3 for each file as much as the largest one of level 1.\n\n\
         | transactions | | MB |\n|---|---|--:|\n",
    );
    for rate in RATES {
        for one in followed.iter().filter(|one| one.who != Who::Nobody) {
            let Some(load) = of_rate(one, rate) else { continue };
            let bytes = hour_bytes(one, load).map(|bytes| format!("{:.0}", bytes / 1e6));
            let bytes = bytes.unwrap_or_else(|| "measured for too short a time".to_owned());
            text.push_str(&format!("| {} | {} | {bytes} |\n", shown(rate), one.who.name()));
        }
    }
    text
}

fn restores(followed: &[Followed]) -> String {
    let mut text = String::from(
        "\nRestores of what was stored, without a check of SQLite's (ours compares the digest of \
         all pages all the same).\n\n| | of | seconds | CPU s | peak memory MB | behind that time s \
         |\n|---|---|--:|--:|--:|--:|\n",
    );
    for one in followed {
        for restored in &one.restores {
            text.push_str(&format!(
                "| {} | {} | {:.2} | {:.2} | {} | {:.2} |\n",
                one.who.name(),
                restored.what,
                restored.taken.wall_s,
                restored.taken.cpu_s,
                mb(restored.taken.memory_bytes_peak),
                restored.behind_s,
            ));
        }
    }
    text
}

fn increments(options: &Options, ways: &[Way]) -> String {
    let mut text = String::from(
        "\nIncrements: MB, wall seconds, CPU seconds. restic and borg read the copy that `sqlite3 \
         .backup` made, whose time comes on top.\n\n| |",
    );
    for name in step_names(options) {
        text.push_str(&format!(" {name} |"));
    }
    text.push_str("\n|---|--:|--:|--:|\n");
    for way in ways {
        text.push_str(&format!("| {} |", way.name));
        for step in &way.steps {
            let bytes = step.bytes as f64 / 1e6;
            text.push_str(&match &step.taken {
                Some(taken) => {
                    format!(" {bytes:.2}, {:.1}, {:.1} |", taken.wall_s, taken.cpu_s)
                }
                None if step.note.is_empty() => " |".to_owned(),
                None => format!(" {bytes:.2} |"),
            });
        }
        text.push('\n');
    }
    let of = |name: &str| ways.iter().find(|way| way.name == name);
    if let (Some(ours), Some(floor)) = (of(OURS), of(FLOOR)) {
        for (ours, floor) in ours.steps.iter().zip(&floor.steps).skip(1) {
            text.push_str(&format!(
                "\nFloor: {}; ours is {:.2} times that.\n",
                floor.note,
                ours.bytes as f64 / floor.bytes.max(1) as f64
            ));
        }
    }
    text
}

fn bars(followed: &[Followed]) -> String {
    let of = |who| followed.iter().find(|one| one.who == who);
    let (Some(ours), Some(alone)) = (of(Who::Lifeboat), of(Who::Nobody)) else {
        return String::new();
    };
    let mut text = String::new();
    let mut bar = |what: &str, reached: String, asked: &str, is_met: bool| {
        let verdict = if is_met { "met" } else { "**missed**" };
        text.push_str(&format!("| {what} | {reached} | {asked} | {verdict} |\n"));
    };
    let theirs = of(Who::Litestream);
    for rate in RATES {
        let (Some(load), Some(before)) = (of_rate(ours, rate), of_rate(alone, rate)) else {
            continue;
        };
        let at_rate = |what: &str| format!("{what}, {}", shown(rate));
        if let Some(their) = theirs.and_then(|theirs| of_rate(theirs, rate)) {
            let times = load.log.1 as f64 / their.log.1.max(1) as f64;
            bar(&at_rate("shipped / L0"), format!("{times:.3}"), "0.2", times <= 0.2);
            let hours = theirs.and_then(|theirs| {
                Some(hour_bytes(ours, load)? / hour_bytes(theirs, their)?.max(1.0))
            });
            if let Some(times) = hours {
                let what = at_rate("an hour's storage / theirs");
                bar(&what, format!("{times:.3}"), "0.2", times <= 0.2);
            }
            let per = |load: &Load| load.cpu_s / load.delays_us.len().max(1) as f64;
            let times = per(load) / per(their).max(1e-9);
            bar(&at_rate("CPU for a commit / theirs"), format!("{times:.2}"), "0.5", times <= 0.5);
        }
        let above = load.memory_bytes.saturating_sub(ours.pages * PAGE_HASH_BYTES);
        let reached = format!("{} MB", mb(above));
        bar(&at_rate("memory above page hashes"), reached, "67 MB", above <= MEMORY_BYTES_MAX);
        let worst = at(&load.lags_us, 1.0) as f64 / 1e6;
        let worst_max = if rate == 0 { 3.0 } else { 1.5 };
        let reached = format!("{worst:.2} s");
        bar(&at_rate("lag, worst"), reached, &format!("{worst_max} s"), worst < worst_max);
        if rate != 0 {
            let median = at(&load.lags_us, 0.5) as f64 / 1e6;
            bar(&at_rate("lag, median"), format!("{median:.2} s"), "0.7 s", median < 0.7);
        }
        let more = at(&load.delays_us, 1.0).saturating_sub(at(&before.delays_us, 1.0));
        let reached = format!("{:.1} ms", more as f64 / 1e3);
        bar(&at_rate("slowest commit, beyond alone"), reached, "50 ms", more <= DELAY_US_MAX);
        let more = load.wal_bytes_max.saturating_sub(before.wal_bytes_max);
        bar(
            &at_rate("-wal, beyond alone"),
            format!("{} MB", mb(more)),
            "67 MB",
            more <= WAL_BYTES_MAX,
        );
    }
    if let Some(theirs) = theirs {
        for (ours, theirs) in ours.restores.iter().zip(&theirs.restores) {
            let times = theirs.taken.wall_s / ours.taken.wall_s.max(1e-9);
            let what = format!("restore of {}: theirs / ours", ours.what);
            bar(&what, format!("{times:.1}"), "3", times >= 3.0);
        }
    }
    text
}

fn of_rate(followed: &Followed, rate: u32) -> Option<&Load> {
    followed.loads.iter().find(|load| load.rate == rate)
}

/// The number below which that part of sorted ones is; 0 where there is none.
fn at(sorted: &[u64], part: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(0)
}

fn mb(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_sorted_numbers() {
        assert_eq!((at(&[1, 2, 9], 0.5), at(&[1, 2, 9], 1.0), at(&[], 0.5)), (2, 9, 0));
    }

    #[test]
    fn bars_are_met_or_missed_by_what_was_measured() {
        let load = |log: u64, lag: u64| Load {
            rate: 200,
            seconds: 60.0,
            delays_us: vec![500; 12_000],
            lags_us: vec![lag],
            log: (60, log),
            ..Load::default()
        };
        let one = |who, load| Followed {
            who,
            begin: None,
            first_bytes: 0,
            loads: vec![load],
            pages: 0,
            restores: Vec::new(),
        };
        let all = [
            one(Who::Nobody, load(0, 0)),
            one(Who::Litestream, load(100, 900_000)),
            one(Who::Lifeboat, load(30, 500_000)),
        ];
        let text = bars(&all);
        assert!(text.contains("shipped / L0, 200 a second | 0.300 | 0.2 | **missed**"), "{text}");
        assert!(text.contains("lag, median, 200 a second | 0.50 s | 0.7 s | met"), "{text}");
    }
}
