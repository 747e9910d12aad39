//! Measuring one command, and keeping what was measured.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Taken, measured};

/// How often the size of the folders is looked at, for each thousand files in them: a look takes
/// the processor from whoever is measured.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const FILES_OF_A_LOOK: u64 = 1_000;

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) taken: Taken,
    /// Bytes that stay: stored by a backup, restored by a restore.
    pub(crate) bytes: u64,
    /// Bytes on disk at the worst moment beyond those at the end.
    pub(crate) disk_bytes_extra: u64,
}

/// What all runs took, by name, in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Measured {
    order: Vec<String>,
    runs: BTreeMap<String, Vec<Run>>,
}

impl Measured {
    pub(crate) fn add(&mut self, name: &str, (taken, disk): (Taken, Disk), bytes: u64) {
        if !self.runs.contains_key(name) {
            self.order.push(name.to_owned());
        }
        // What is stored counts where it is stored; all else that was there is extra.
        let disk_bytes_extra = disk.peak_bytes.saturating_sub(bytes);
        let run = Run { taken, bytes, disk_bytes_extra };
        self.runs.entry(name.to_owned()).or_default().push(run);
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.order
    }

    /// The median of each number on its own; of memory and disk the worst.
    pub(crate) fn median(&self, name: &str) -> Option<Run> {
        let runs = self.runs.get(name)?;
        let middle = |number: &dyn Fn(&Run) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            let half = numbers.len() / 2;
            match numbers.len() % 2 {
                0 => (numbers[half - 1] + numbers[half]) / 2.0,
                _ => numbers[half],
            }
        };
        Some(Run {
            taken: Taken {
                wall_s: middle(&|run| run.taken.wall_s),
                cpu_s: middle(&|run| run.taken.cpu_s),
                memory_bytes_peak: runs.iter().map(|run| run.taken.memory_bytes_peak).max()?,
            },
            bytes: middle(&|run| run.bytes as f64) as u64,
            disk_bytes_extra: runs.iter().map(|run| run.disk_bytes_extra).max()?,
        })
    }
}

/// How much the watched folders grew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    /// Growth at the worst moment.
    pub(crate) peak_bytes: u64,
}

/// Runs a command and watches how the folders grow meanwhile.
pub(crate) fn with_disk(
    command: &mut Command,
    said: &Path,
    folders: &[PathBuf],
) -> Result<(Taken, Disk)> {
    let (at_first, files) = looked_at(folders);
    let look_every = LOOK_EVERY * (1 + files / FILES_OF_A_LOOK) as u32;
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(at_first));
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(allocated_bytes(folders), Ordering::Relaxed);
                std::thread::sleep(look_every);
            }
        });
        let taken = measured(command, said);
        done.store(true, Ordering::Relaxed);
        taken
    })?;
    let peak = peak.load(Ordering::Relaxed).max(allocated_bytes(folders));
    Ok((taken, Disk { peak_bytes: peak.saturating_sub(at_first) }))
}

/// Bytes that the files of the folders take. What vanishes during the look counts as nothing.
pub(crate) fn allocated_bytes(folders: &[PathBuf]) -> u64 {
    looked_at(folders).0
}

/// The same, and how many files there are.
fn looked_at(folders: &[PathBuf]) -> (u64, u64) {
    let (mut sum, mut files) = (0, 0);
    let mut open = folders.to_vec();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => {
                    sum += found.blocks() * 512;
                    files += 1;
                }
                Err(_) => {}
            }
        }
    }
    (sum, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(wall_s: f64, bytes: u64, peak_bytes: u64) -> ((Taken, Disk), u64) {
        let taken = Taken { wall_s, cpu_s: wall_s / 2.0, memory_bytes_peak: bytes };
        ((taken, Disk { peak_bytes }), bytes)
    }

    #[test]
    fn medians_are_of_each_number_and_the_worst_of_memory_and_disk() {
        let mut measured = Measured::default();
        for (wall, bytes, peak) in [(3.0, 10, 10), (1.0, 30, 90), (2.0, 20, 25)] {
            let (taken, bytes) = run_of(wall, bytes, peak);
            measured.add("x", taken, bytes);
        }
        let median = measured.median("x").unwrap();
        assert_eq!((median.taken.wall_s, median.taken.cpu_s, median.bytes), (2.0, 1.0, 20));
        assert_eq!((median.taken.memory_bytes_peak, median.disk_bytes_extra), (30, 60));
        assert!(measured.median("y").is_none());
        assert_eq!(measured.names(), ["x"]);
    }
}
