//! The page that the benchmark prints: a table of medians, and each bar with what was reached.

use std::fs;

use super::contenders::Place;
use super::measure::{Measured, Run};

/// A bar: a ratio that must be at least, or at most, a number.
pub(super) struct Bar {
    what: &'static str,
    /// The run whose number is divided.
    above: &'static str,
    /// The run by whose number it is divided.
    below: &'static str,
    number: fn(&Run) -> f64,
    limit: Limit,
}

#[derive(Clone, Copy)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

const SCRIPT: &str = "backup: the guide's script";
const LITESTREAM: &str = "backup: litestream replicate -once";
const EQUAL: &str = "backup: lifeboat gzip, full check";
const DEFAULTS: &str = "backup: lifeboat (defaults)";
const LEVEL_1: &str = "backup: lifeboat zstd:1, quick check";
const PIPELINE: &str = "backup: lifeboat zstd:3, no check";
const PIPELINE_1: &str = "backup: lifeboat zstd:1, no check";
const FLOOR: &str = "backup: floor zstd:3";
const FLOOR_1: &str = "backup: floor zstd:1";
const FLOOR_WRITTEN: &str = "backup: floor zstd:3, written and synced";
const GUNZIP: &str = "restore: the guide's script";
const LITESTREAM_BACK: &str = "restore: litestream replicate -once";
const OURS_BACK: &str = "restore: lifeboat (defaults)";
const FLOOR_BACK: &str = "restore: floor zstd:3, written and synced";

pub(super) fn wall(run: &Run) -> f64 {
    run.taken.wall_s
}

fn cpu(run: &Run) -> f64 {
    run.taken.cpu_s
}

pub(super) fn bytes(run: &Run) -> f64 {
    run.bytes as f64
}

pub(super) const fn bar(
    what: &'static str,
    above: &'static str,
    below: &'static str,
    number: fn(&Run) -> f64,
    limit: Limit,
) -> Bar {
    Bar { what, above, below, number, limit }
}

const BARS: &[Bar] = &[
    bar("script / gzip and full check, wall", SCRIPT, EQUAL, wall, Limit::AtLeast(3.0)),
    bar("script / gzip and full check, CPU", SCRIPT, EQUAL, cpu, Limit::AtLeast(2.0)),
    bar("script / defaults, wall", SCRIPT, DEFAULTS, wall, Limit::AtLeast(12.0)),
    bar("defaults / Litestream, bytes", DEFAULTS, LITESTREAM, bytes, Limit::AtMost(0.65)),
    bar("defaults / Litestream, CPU", DEFAULTS, LITESTREAM, cpu, Limit::AtMost(1.25)),
    bar("no check / Litestream, CPU", PIPELINE, LITESTREAM, cpu, Limit::AtMost(1.25)),
    bar("level 1 / Litestream, bytes", LEVEL_1, LITESTREAM, bytes, Limit::AtMost(0.70)),
    bar("level 1 / Litestream, CPU", LEVEL_1, LITESTREAM, cpu, Limit::AtMost(0.85)),
    bar("level 1, no check / Litestream, CPU", PIPELINE_1, LITESTREAM, cpu, Limit::AtMost(0.85)),
    bar("no check / floor, wall", PIPELINE, FLOOR, wall, Limit::AtMost(1.3)),
    bar(
        "no check / floor that writes and syncs, wall",
        PIPELINE,
        FLOOR_WRITTEN,
        wall,
        Limit::AtMost(1.3),
    ),
    bar("no check / floor at level 1, wall", PIPELINE_1, FLOOR_1, wall, Limit::AtMost(1.3)),
    bar("gunzip / restore, wall", GUNZIP, OURS_BACK, wall, Limit::AtLeast(2.0)),
    bar(
        "litestream restore / restore, wall",
        LITESTREAM_BACK,
        OURS_BACK,
        wall,
        Limit::AtLeast(3.0),
    ),
    bar("restore / floor, wall", OURS_BACK, FLOOR_BACK, wall, Limit::AtMost(1.3)),
];

/// Peak memory that the pipeline may use at any size, above the page hashes, in bytes.
const MEMORY_BYTES_MAX: u64 = 96_000_000;
/// What page hashes may take, in bytes a page.
const PAGE_HASH_BYTES: u64 = 16;
const PAGE_BYTES: u64 = 4096;

/// The whole page.
pub(crate) fn page(measured: &Measured, place: &Place, command: &str) -> String {
    let size = fs::metadata(&place.database).map_or(0, |found| found.len());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut page = format!(
        "`{command}`: a database of {:.0} MB, {threads} cores, medians; of memory and extra disk \
         the worst.\n\n",
        size as f64 / 1e6
    );
    page.push_str(&table(measured));
    page.push_str("\n| bar | reached | asked | |\n|---|--:|--:|---|\n");
    for bar in BARS {
        page.push_str(&bar_line(bar, measured));
    }
    if let Some(run) = measured.median(PIPELINE) {
        page.push_str(&memory_line(&run, size));
        let reached = run.disk_bytes_extra as f64 / 1e6;
        let verdict = verdict(reached < 10.0);
        page.push_str(&format!("| no check, extra disk | {reached:.0} MB | none | {verdict} |\n"));
    }
    page
}

/// What peak memory was at the large size.
pub(crate) fn large(measured: &Measured, size_mb: u64) -> String {
    let mut page = format!("\nThe database of {size_mb} MB:\n\n{}", table(measured));
    page.push_str("\n| bar | reached | asked | |\n|---|--:|--:|---|\n");
    if let Some(run) = measured.median(PIPELINE) {
        page.push_str(&memory_line(&run, size_mb * 1_000_000));
    }
    page
}

fn memory_line(run: &Run, size: u64) -> String {
    let above = run.taken.memory_bytes_peak.saturating_sub(size / PAGE_BYTES * PAGE_HASH_BYTES);
    format!(
        "| no check, peak memory above page hashes | {:.0} MB | at most {:.0} MB | {} |\n",
        above as f64 / 1e6,
        MEMORY_BYTES_MAX as f64 / 1e6,
        verdict(above < MEMORY_BYTES_MAX)
    )
}

pub(super) fn table(measured: &Measured) -> String {
    let mut table = String::from(
        "| | wall s | CPU s | bytes MB | peak memory MB | extra disk MB |\n|---|--:|--:|--:|--:|--:|\n",
    );
    for name in measured.names() {
        let Some(run) = measured.median(name) else { continue };
        table.push_str(&format!(
            "| {name} | {:.2} | {:.2} | {:.1} | {:.0} | {:.0} |\n",
            run.taken.wall_s,
            run.taken.cpu_s,
            run.bytes as f64 / 1e6,
            run.taken.memory_bytes_peak as f64 / 1e6,
            run.disk_bytes_extra as f64 / 1e6,
        ));
    }
    table
}

pub(super) fn bar_line(bar: &Bar, measured: &Measured) -> String {
    let asked = match bar.limit {
        Limit::AtLeast(limit) => format!("at least {limit}"),
        Limit::AtMost(limit) => format!("at most {limit}"),
    };
    let ratio = measured.median(bar.above).zip(measured.median(bar.below));
    let ratio = ratio.map(|(above, below)| (bar.number)(&above) / (bar.number)(&below));
    match ratio.filter(|ratio| ratio.is_finite()) {
        Some(ratio) => {
            let reached = match bar.limit {
                Limit::AtLeast(limit) => ratio >= limit,
                Limit::AtMost(limit) => ratio <= limit,
            };
            format!("| {} | {ratio:.2} | {asked} | {} |\n", bar.what, verdict(reached))
        }
        None => format!("| {} | not measured | {asked} | |\n", bar.what),
    }
}

pub(super) fn verdict(reached: bool) -> &'static str {
    match reached {
        true => "reached",
        false => "**missed**",
    }
}

#[cfg(test)]
mod tests {
    use super::super::contenders;
    use super::super::measure::Disk;
    use super::*;
    use crate::process::Taken;

    #[test]
    fn every_bar_names_runs_that_are_made() {
        let programs = crate::bench::Programs {
            lifeboat: "x".into(),
            floor: "x".into(),
            make_sample: "x".into(),
            many_backups: "x".into(),
            litestream: Some("x".into()),
        };
        let mut made = Vec::new();
        for contender in contenders::all(&programs) {
            made.push(format!("backup: {}", contender.name));
            made.extend(contender.restore.map(|_| format!("restore: {}", contender.name)));
        }
        for bar in BARS {
            assert!(made.iter().any(|name| name == bar.above), "{}", bar.above);
            assert!(made.iter().any(|name| name == bar.below), "{}", bar.below);
        }
    }

    #[test]
    fn a_bar_is_reached_missed_or_not_measured() {
        let mut measured = Measured::default();
        let taken = |wall_s| Taken { wall_s, cpu_s: 1.0, memory_bytes_peak: 1 };
        measured.add(SCRIPT, (taken(30.0), Disk { peak_bytes: 0 }), 1);
        measured.add(EQUAL, (taken(10.0), Disk { peak_bytes: 0 }), 1);
        assert!(bar_line(&BARS[0], &measured).contains("| 3.00 | at least 3 | reached |"));
        assert!(bar_line(&BARS[1], &measured).contains("**missed**"));
        assert!(bar_line(&BARS[3], &measured).contains("not measured"));
    }
}
