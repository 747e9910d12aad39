//! Many histories: 50 seeds, or as many as `LIFEBOAT_SIM_SEEDS` says, from `LIFEBOAT_SIM_SEED` on;
//! that one only where nothing says how many. A broken promise is printed with its seed.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "which seeds are played is asked by a person, and a failure is a panic"
)]

use std::panic::RefUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_core::env::CRASH_POINTS;
use lifeboat_sim::hosts::{self, HostsReport};
use lifeboat_sim::pagelog::{self, PagelogReport};
use lifeboat_sim::places::{self, PlacesReport};
use lifeboat_sim::rotation::{self, RotationReport};
use lifeboat_sim::{Report, run};

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Plays all seeds on all cores; the reports of those that kept every promise, if all did.
fn play<R: Send>(run: impl Fn(u64) -> Result<R, String> + Sync + RefUnwindSafe) -> Vec<R> {
    let (first, count) = match (number("LIFEBOAT_SIM_SEED"), number("LIFEBOAT_SIM_SEEDS")) {
        (Some(seed), count) => (seed, count.unwrap_or(1)),
        (None, count) => (1, count.unwrap_or(50)),
    };
    let next = AtomicU64::new(first);
    let (reports, broken) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        break;
                    }
                    let played = std::panic::catch_unwind(|| run(seed));
                    match played.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                        Ok(report) => reports.lock().unwrap().push(report),
                        Err(what) => broken.lock().unwrap().push(format!(
                            "seed {seed}: {what}\n  again with LIFEBOAT_SIM_SEED={seed}"
                        )),
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{} of {count} seeds:\n{}", broken.len(), broken.join("\n"));
    reports.into_inner().unwrap()
}

#[test]
fn every_promise_is_kept_for_every_seed() {
    let reports = play(|seed| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        run(seed, folder.path())
    });
    println!("{} seeds: {:?}", reports.len(), sum(&reports));
    if reports.len() >= 50 {
        enough_happened(&sum(&reports));
    }
}

#[test]
fn every_promise_of_the_rotation_is_kept_for_every_seed() {
    let reports = play(rotation::run);
    let all = sum_of_rotations(&reports);
    println!("{} seeds: {all:?}", reports.len());
    if reports.len() >= 50 {
        assert!(all.made >= 5_000 && all.days >= 40 * 365, "{all:?}");
        assert!(all.incremental >= 1_000, "{all:?}");
        assert!(all.pruned >= 100 && all.refused >= 50 && all.cut_off >= 50, "{all:?}");
        assert!(all.marked >= 1_000 && all.deleted >= 500 && all.taken_back >= 20, "{all:?}");
        assert!(all.garbage >= 3 && all.by_hand >= 50, "{all:?}");
        assert!(all.clock_set >= 50 && all.clock_changes >= 25, "{all:?}");
    }
}

#[test]
fn one_repository_that_fails_takes_nothing_from_the_others_for_any_seed() {
    let reports = play(|seed| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        places::run(seed, folder.path())
    });
    let sum = |of: fn(&PlacesReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (taken, missed) = (sum(|one| one.taken.0), sum(|one| one.taken.1));
    let (copied, cut_off) = (sum(|one| one.copied.0), sum(|one| one.copied.1));
    let (parted, emptied) = (sum(|one| one.parted), sum(|one| one.emptied));
    println!(
        "{} seeds: {taken} taken and {missed} not, {parted} runs parted, {copied} copied, \
         {cut_off} copies cut off, {emptied} emptied",
        reports.len()
    );
    if reports.len() >= 50 {
        assert!(taken >= 400 && missed >= 60 && parted >= 50 && copied >= 200);
        assert!(cut_off >= 20 && emptied >= 30);
    }
}

#[test]
fn no_two_hosts_prune_at_once_for_any_seed() {
    let reports = play(hosts::run);
    let sum = |of: fn(&HostsReport) -> u64| reports.iter().map(of).sum::<u64>();
    let (pruned, deleted) = (sum(|one| one.pruned), sum(|one| one.deleted));
    let (locked, lost) = (sum(|one| one.locked), sum(|one| one.lost));
    let (killed, came_back) = (sum(|one| one.killed), sum(|one| one.came_back));
    println!(
        "{} seeds: {pruned} prunes, {deleted} backups deleted, {came_back} came back, \
         {locked} prunes locked out, {lost} lost their lease, {killed} killed",
        reports.len()
    );
    if reports.len() >= 50 {
        assert!(pruned >= 500 && deleted >= 500 && came_back >= 100);
        assert!(locked >= 50 && lost >= 5 && killed >= 50);
    }
}

#[test]
fn every_promise_of_the_page_log_is_kept_for_every_seed() {
    let play_one = |seed| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        pagelog::run(seed, folder.path())
    };
    let reports = play(play_one);
    let mut all = PagelogReport::default();
    for report in &reports {
        all.backups += report.backups;
        all.states = (all.states.0 + report.states.0, all.states.1 + report.states.1);
        all.restored += report.restored;
        all.thinned = (all.thinned.0 + report.thinned.0, all.thinned.1 + report.thinned.1);
        all.merged += report.merged;
        all.packed += report.packed;
        let (of, crashes) = (&mut all.crashes, report.crashes);
        *of = (of.0 + crashes.0, of.1 + crashes.1, of.2 + crashes.2);
        all.damaged = (all.damaged.0 + report.damaged.0, all.damaged.1 + report.damaged.1);
        all.sealed = (all.sealed.0 + report.sealed.0, all.sealed.1 + report.sealed.1);
        all.hurried += report.hurried;
        all.moments += report.moments;
        all.shown = (all.shown.0 + report.shown.0, all.shown.1 + report.shown.1);
        all.caught_up += report.caught_up;
        all.points.extend(&report.points);
    }
    println!("{} seeds: {all:?}", reports.len());
    if reports.len() < 50 {
        return;
    }
    assert!(all.states.0 >= 150 && all.states.1 >= 40 && all.restored >= 500, "{all:?}");
    assert!(all.thinned.0 >= 6 && all.thinned.1 >= 3 && all.merged >= 20, "{all:?}");
    assert!(all.packed >= 20, "{all:?}");
    assert!(all.crashes.0 >= 5 && all.crashes.1 >= 5 && all.crashes.2 >= 5, "{all:?}");
    assert!(all.damaged.0 >= 30 && all.damaged.1 >= 30, "{all:?}");
    assert!(all.sealed.0 >= 40 && all.sealed.1 >= 15 && all.hurried >= 5, "{all:?}");
    assert!(all.moments >= 200 && all.shown.0 >= 20 && all.shown.1 >= 2, "{all:?}");
    assert!(all.caught_up >= 1, "{all:?}");
    let simulated = |point: &&&str| {
        (point.starts_with("increment.")
            || point.starts_with("standby.")
            || point.starts_with("merge.")
            || point.starts_with("pack."))
            && all.backups > 0
    };
    for point in CRASH_POINTS.iter().filter(simulated) {
        assert!(all.points.contains(point), "the point {point} was never passed");
    }
    // One more, another each time: what is printed plays it again.
    if number("LIFEBOAT_SIM_SEED").is_none() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.unwrap().as_nanos() as u64 >> 10;
        println!("and the seed {seed}: again with LIFEBOAT_SIM_SEED={seed}");
        let played = play_one(seed);
        assert!(played.is_ok(), "seed {seed}: {}", played.unwrap_err());
    }
}

fn sum_of_rotations(reports: &[RotationReport]) -> RotationReport {
    let mut all = RotationReport::default();
    for report in reports {
        all.made += report.made;
        all.incremental += report.incremental;
        all.days += report.days;
        all.pruned += report.pruned;
        all.refused += report.refused;
        all.cut_off += report.cut_off;
        all.marked += report.marked;
        all.deleted += report.deleted;
        all.taken_back += report.taken_back;
        all.garbage += report.garbage;
        all.by_hand += report.by_hand;
        all.clock_set += report.clock_set;
        all.clock_changes += report.clock_changes;
    }
    all
}

fn sum(reports: &[Report]) -> Report {
    let mut all = Report::default();
    for report in reports {
        all.backups.0 += report.backups.0;
        all.backups.1 += report.backups.1;
        all.restores.0 += report.restores.0;
        all.restores.1 += report.restores.1;
        all.damaged += report.damaged;
        all.reported += report.reported;
        all.unacknowledged += report.unacknowledged;
        all.points.extend(&report.points);
    }
    all
}

/// A simulation in which nothing happens proves nothing.
fn enough_happened(all: &Report) {
    assert!(all.backups.0 >= 50 && all.backups.1 >= 20, "{all:?}");
    assert!(all.restores.0 >= 10 && all.restores.1 >= 5, "{all:?}");
    assert!(all.damaged >= 20 && all.reported >= 10, "{all:?}");
    let simulated = |point: &&&str| point.starts_with("backup.") || point.starts_with("restore.");
    for point in CRASH_POINTS.iter().filter(simulated) {
        assert!(all.points.contains(point), "the point {point} was never passed");
    }
}
