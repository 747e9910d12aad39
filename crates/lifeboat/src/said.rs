//! What the last runs of each job of the agent said, for whoever comes later: `journal` knows each
//! day, and no words.
//!
//! A small file of JSON for each job, in our state folder, with a bound on runs, on lines and on
//! bytes. Like the journal they may be lost at any time, and are never the reason of a failure.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attempts;
use crate::control::{Ended, Line};
use crate::private;

/// So many runs of a job are kept, and the last one that failed where that was before them.
const RUNS_MAX: usize = 5;
/// So many lines of a run, the last ones.
const LINES_MAX: usize = 100;
/// So many letters of a line.
const LETTERS_MAX: usize = 500;
/// What all lines of a job take, in bytes.
const BYTES_MAX: usize = 32 << 10;

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// How it ended.
    pub(crate) ended: Ended,
    /// Its last lines.
    pub(crate) lines: Vec<Line>,
    /// How many before them are not kept.
    #[serde(default)]
    pub(crate) left_out: usize,
}

/// Where they are, beside the agent's socket.
pub(crate) fn folder(socket: &Path) -> Option<PathBuf> {
    Some(socket.parent()?.join("said"))
}

fn name_of(job: &str) -> String {
    format!("{}.json", attempts::digest(&[job]))
}

/// The runs of a job that are kept, the newest first.
pub(crate) fn of(folder: &Path, job: &str) -> Vec<Said> {
    let bytes = fs::read(folder.join(name_of(job))).ok();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Keeps what a run said that has ended.
pub(crate) fn note(
    folder: &Path,
    job: &str,
    ended: &Ended,
    lines: &VecDeque<Line>,
) -> std::io::Result<()> {
    let mut runs = of(folder, job);
    add(&mut runs, Said::of(ended, lines));
    private::replace(&folder.join(name_of(job)), &serde_json::to_vec(&runs)?)
}

/// Forgets the jobs that there are no more.
pub(crate) fn retain<'a>(folder: &Path, jobs: impl Iterator<Item = &'a String>) {
    let wanted: Vec<String> = jobs.map(|job| name_of(job)).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_wanted = entry.file_name().to_str().is_some_and(|name| {
            // What is just being written ends otherwise.
            !name.ends_with(".json") || wanted.iter().any(|wanted| wanted == name)
        });
        if !is_wanted {
            // One that stays is small, and in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Said {
    fn of(ended: &Ended, lines: &VecDeque<Line>) -> Self {
        let left_out = lines.len().saturating_sub(LINES_MAX);
        let kept = lines.iter().skip(left_out).map(|line| {
            let text = line.text.chars().take(LETTERS_MAX).collect();
            Line { kind: line.kind.clone(), text }
        });
        Said { ended: ended.clone(), lines: kept.collect(), left_out }
    }
}

/// Adds one to those that are kept, the newest first.
fn add(runs: &mut Vec<Said>, said: Said) {
    runs.insert(0, said);
    let has_failed = |said: &Said| said.ended.outcome == "failed";
    let last_failure = runs.iter().position(has_failed);
    let mut at = 0..;
    runs.retain(|_| at.next().is_some_and(|at| at < RUNS_MAX || Some(at) == last_failure));
    let mut left_bytes = BYTES_MAX;
    for said in runs {
        // What was said last says how it ended.
        let fits = said.lines.iter().rev().take_while(|line| {
            let rest = left_bytes.checked_sub(line.text.len());
            left_bytes = rest.unwrap_or(0);
            rest.is_some()
        });
        let dropped = said.lines.len() - fits.count();
        said.lines.drain(..dropped);
        said.left_out += dropped;
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn ended(outcome: &str, second: i64) -> Ended {
        let at = Timestamp::from_second(second).unwrap();
        let outcome = outcome.to_owned();
        Ended { begun_at: at, ended_at: at, outcome, exit_code: Some(0), error: None }
    }

    fn lines(texts: impl Iterator<Item = String>) -> VecDeque<Line> {
        texts.map(|text| Line { kind: "note".to_owned(), text }).collect()
    }

    #[test]
    fn the_last_runs_are_kept_and_the_last_that_failed() {
        let mut runs = Vec::new();
        for second in 0..20 {
            let outcome = if [3, 5].contains(&second) { "failed" } else { "done" };
            add(&mut runs, Said::of(&ended(outcome, second), &VecDeque::new()));
        }
        let seconds: Vec<i64> = runs.iter().map(|run| run.ended.ended_at.as_second()).collect();
        assert_eq!(seconds, [19, 18, 17, 16, 15, 5]);
    }

    #[test]
    fn lines_are_bounded_and_the_last_ones_stay() {
        let mut runs = Vec::new();
        for second in 0..6 {
            let long = (0..200).map(|number| format!("{number} {}", "ä".repeat(1_000)));
            add(&mut runs, Said::of(&ended("done", second), &lines(long)));
        }
        let bytes: usize = runs.iter().flat_map(|run| &run.lines).map(|line| line.text.len()).sum();
        assert!(bytes <= BYTES_MAX, "{bytes}");
        let last = runs[0].lines.last().unwrap();
        assert!(last.text.starts_with("199 ä"));
        assert_eq!(last.text.chars().count(), LETTERS_MAX);
        assert_eq!(runs[0].lines.len() + runs[0].left_out, 200);
        assert!(runs[4].lines.is_empty());
    }

    #[test]
    fn jobs_that_are_gone_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("said");
        let said = lines(["it began".to_owned()].into_iter());
        for job in ["backup-app", "../gone"] {
            note(folder, job, &ended("failed", 1), &said).unwrap();
        }
        assert_eq!(of(folder, "backup-app")[0].lines[0].text, "it began");
        retain(folder, ["backup-app".to_owned()].iter());
        assert_eq!((of(folder, "backup-app").len(), of(folder, "../gone").len()), (1, 0));
    }
}
