//! Many histories: 50 seeds, or as many as `LIFEBOAT_SIM_SEEDS` says; one only with
//! `LIFEBOAT_SIM_SEED`. A broken promise is printed with its seed.
#![allow(clippy::disallowed_methods, reason = "which seeds are played is asked by a person")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_core::env::CRASH_POINTS;
use lifeboat_sim::{Report, run};

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

#[test]
fn every_promise_is_kept_for_every_seed() {
    let (first, count) = match number("LIFEBOAT_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("LIFEBOAT_SIM_SEEDS").unwrap_or(50)),
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
                    let folder = tempfile::tempdir().unwrap();
                    let played = std::panic::catch_unwind(|| run(seed, folder.path()));
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
    let reports = reports.into_inner().unwrap();
    println!("{count} seeds: {:?}", sum(&reports));
    if count >= 50 {
        enough_happened(&sum(&reports));
    }
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
