//! What the benchmark of retention measures with.
//!
//! `many_backups FOLDER COUNT`: makes COUNT backups of the one backup that lies in a source's
//! folder of a local repository. Each is whole and older than the one before by an hour; the
//! manifests have the rows of an application with 40 tables. `many_backups decide COUNT`: decides
//! on so many backups by the rule of retention, and prints how many stay and the milliseconds.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]
#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::manifest::{Condition, Manifest};
use lifeboat_core::names::NamePattern;
use lifeboat_core::policy::{Candidate, Floors, Keep, decide};
use uuid::Uuid;

const TABLES: u64 = 40;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["decide", count] => number(count).map(decide_on),
        [folder, count] => number(count).and_then(|count| multiply(Path::new(folder), count)),
        _ => {
            Err(io::Error::other("say `many_backups FOLDER COUNT` or `many_backups decide COUNT`"))
        }
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> io::Result<u32> {
    text.parse().map_err(|_| io::Error::other(format!("{text} is no number")))
}

fn multiply(folder: &Path, count: u32) -> io::Result<String> {
    let first = only_manifest(folder)?;
    let artifacts = first.artifacts.iter().map(|artifact| fs::read(folder.join(&artifact.name)));
    let artifacts = artifacts.collect::<io::Result<Vec<_>>>()?;
    let mut bytes = 0;
    for number in 1..count {
        let mut backup = first.clone();
        backup.id = Uuid::from_u128(first.id.as_u128() ^ u128::from(number));
        backup.taken_at = first.taken_at - SignedDuration::from_hours(i64::from(number));
        backup.completed_at = first.completed_at - SignedDuration::from_hours(i64::from(number));
        backup.name = NamePattern::default().name(&first.source.name, backup.taken_at);
        let rows = backup.rows.get_or_insert_default();
        for table in 0..TABLES.saturating_sub(rows.len() as u64) {
            let name = format!("table_of_the_application_{table}");
            rows.insert(name, table * 9_973 * u64::from(count - number));
        }
        for (artifact, content) in backup.artifacts.iter_mut().zip(&artifacts) {
            artifact.name = artifact.name.replacen(&first.name, &backup.name, 1);
            fs::write(folder.join(&artifact.name), content)?;
        }
        let manifest = backup.to_bytes();
        bytes += manifest.len();
        fs::write(folder.join(format!("{}.json", backup.name)), manifest)?;
    }
    Ok(format!("{count} backups, {bytes} bytes of manifests"))
}

fn only_manifest(folder: &Path) -> io::Result<Manifest> {
    let mut found = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        if is_json && path.file_name().is_some_and(|name| name != "source.json") {
            let bytes = fs::read(&path)?;
            let manifest = Manifest::parse(&bytes, &path.to_string_lossy());
            if found.replace(manifest.map_err(io::Error::other)?).is_some() {
                return Err(io::Error::other("the folder holds more than one backup"));
            }
        }
    }
    found.ok_or_else(|| io::Error::other("the folder holds no backup"))
}

/// A backup each hour, of which each rule that there is keeps some.
fn decide_on(count: u32) -> String {
    let start = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 40);
    let moment = |hour: u32| start + SignedDuration::from_hours(i64::from(hour));
    let candidate = |hour| Candidate {
        name: NamePattern::default().name("superchat", moment(hour)),
        taken_at: moment(hour),
        condition: Condition::Good,
        proven: hour % 1_000 == 0,
        pin: None,
        purpose: None,
        depends_on: Vec::new(),
    };
    let candidates: Vec<Candidate> = (0..count).map(candidate).collect();
    let keep = Keep {
        last: 10,
        hourly: 48,
        daily: 3_000,
        weekly: 500,
        monthly: 120,
        quarterly: 40,
        yearly: 10,
        within: Some(SignedDuration::from_hours(24 * 30)),
        ..Keep::default()
    };
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let began = Instant::now();
    let decisions = decide(moment(count), &zone, &keep, &Floors::default(), &candidates);
    let elapsed_ms = began.elapsed().as_secs_f64() * 1e3;
    let kept = decisions.iter().filter(|decision| decision.keeps()).count();
    format!("{kept} of {count} stay, decided in {elapsed_ms:.1} ms")
}
