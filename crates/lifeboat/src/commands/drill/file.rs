//! The drill of what becomes files: SQLite databases with their companion files, and sets of files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use lifeboat_core::drill::Outcome;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::restore::{self, FilesChoice, Mapping, Replay, RestoreOutcome, RestoreRequest};
use lifeboat_core::source::CheckReport;
use lifeboat_core::{Error, Kind, Result, files};
use lifeboat_sqlite::Probe;

use super::application::{self, Restored};
use super::making::Work;
use super::{host_keys, rows};
use crate::sources::{self, CHECK_MEMORY_BYTES};
use crate::ui::units;

/// A live database that is not in WAL mode keeps its writers waiting while it is read: only one
/// that is read at once is counted.
const LIVE_JOURNAL_BYTES_MAX: u64 = 64 << 20;
const READ_BYTES: usize = 1 << 20;

/// Restores and checks.
pub(super) fn drill(work: &mut Work<'_>) -> Result<()> {
    let kind = work.state.selected.manifest.source.kind.clone();
    let is_files = kind == files::KIND;
    let root = work.scratch.path().join("files");
    let database = (!is_files).then(|| work.scratch.path().join("restored.db"));
    let outcome = restored(work, database.clone(), &root)?;
    work.env.crash.pass("drill.restored")?;
    if let Some(path) = &database {
        let checked = outcome.check.as_ref();
        plain_hash(work, path)?;
        integrity(work, checked);
        let counted = checked.and_then(|check| check.rows.clone());
        manifest_rows(work, counted.as_ref());
        if kind == lifeboat_sqlite::KIND {
            let has_all_references = checked.is_some_and(found_no_violation);
            ask(work, path, has_all_references, counted)?;
        }
    }
    companions(work, &root, Some(&outcome));
    run_application(work, database.as_deref(), &root, None)
}

/// The same restore as any other, to the scratch place.
fn restored(work: &mut Work<'_>, to: Option<PathBuf>, root: &Path) -> Result<RestoreOutcome> {
    let begun_ms = work.env.clock.monotonic_ms();
    let outcome = restored_by_core(work, to, root)?;
    work.record.restore_ms = Some(work.env.elapsed_ms(begun_ms));
    let manifest = &work.state.selected.manifest;
    let stored = units::bytes(manifest.stored_bytes());
    let detail = format!("{stored} as they were stored, by SHA-256");
    work.found("stored_hashes", Outcome::Passed, detail);
    if let Some(replay) = &work.state.replay {
        let detail = format!("all pages are those of {}", replay.name());
        work.found("state_digest", Outcome::Passed, detail);
    }
    Ok(outcome)
}

/// The companion files of a database that a server has, alone.
pub(super) fn only_companions(work: &mut Work<'_>, root: &Path) -> Result<()> {
    let has_files = work.state.selected.manifest.artifact(files::ROLE).is_some();
    let outcome = match has_files {
        true => Some(restored_by_core(work, None, root)?),
        false => None,
    };
    companions(work, root, outcome.as_ref());
    Ok(())
}

fn restored_by_core(
    work: &mut Work<'_>,
    to: Option<PathBuf>,
    root: &Path,
) -> Result<RestoreOutcome> {
    let manifest = &work.state.selected.manifest;
    let has_files = manifest.artifact(files::ROLE).is_some();
    let target = work.subject.target.as_deref();
    let memory_max = work.subject.config.memory_max.map(|size| size.0.bytes);
    let request = RestoreRequest {
        origin: work.state.selected.origin(),
        replay: work.state.replay.as_ref().map(|replay| replay as &dyn Replay),
        engine: sources::engine(&manifest.source.kind)?,
        files: match (has_files, &to) {
            (true, Some(_)) => FilesChoice::Also,
            (true, None) => FilesChoice::Only,
            (false, _) => FilesChoice::No,
        },
        files_root: Some(root.to_owned()),
        to: Some(to.unwrap_or_else(|| root.to_owned())),
        mapping: Mapping::nothing(),
        check: CheckLevel::Full,
        check_memory_bytes: target
            .map_or(CHECK_MEMORY_BYTES, |target| target.options.check_memory_bytes)
            .min(memory_max.unwrap_or(u64::MAX)),
        service: None,
        scratch_folder: work.scratch.path(),
    };
    let planned = restore::plan(work.env, &request);
    let restored = planned.and_then(|plan| restore::apply(work.env, &request, &plan));
    let outcome = restored.map_err(|error| match error.kind() {
        // A drill has no place that one could choose but this.
        Kind::NoSpace => error.hint("make room, or choose another folder with TMPDIR"),
        _ => error,
    })?;
    for warning in &outcome.warnings {
        work.found("restore", Outcome::Noted, warning.clone());
    }
    Ok(outcome)
}

/// The hash of the restored file against that of what was backed up. Where a log was laid over it,
/// the digest of all pages was compared instead.
fn plain_hash(work: &mut Work<'_>, path: &Path) -> Result<()> {
    let manifest = &work.state.selected.manifest;
    let Some(artifact) = manifest.artifacts.first().filter(|_| work.state.replay.is_none()) else {
        return Ok(());
    };
    let failed =
        |error| Error::io(Kind::Failed, format!("cannot read {} again", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = lifeboat_core::drill::Hasher::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        work.env.proceed()?;
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let (found, must) = (hasher.finish(), artifact.plain_sha256.clone());
    let differs = (found != must).then(|| format!("SHA-256 is {found}, must be {must}"));
    let sound = format!("SHA-256 {}", &must[..must.len().min(16)]);
    work.judge("restored_hash", differs.as_slice(), sound);
    Ok(())
}

/// What the check of the restore found; damage has ended it already.
fn integrity(work: &mut Work<'_>, report: Option<&CheckReport>) {
    let Some(report) = report else { return };
    let outcome = match report.outcome {
        CheckOutcome::Passed => Outcome::Passed,
        CheckOutcome::Failed => Outcome::Failed,
        CheckOutcome::Partial => Outcome::Noted,
    };
    let notes = match report.notes.is_empty() {
        true => "ok".to_owned(),
        false => report.notes.join("; "),
    };
    for what in report.what.iter().filter(|what| *what != "foreign_key_check") {
        work.found(what, outcome, notes.clone());
    }
}

fn manifest_rows(work: &mut Work<'_>, counted: Option<&BTreeMap<String, u64>>) {
    let manifest = &work.state.selected.manifest;
    let (Some(must), Some(counted)) = (&manifest.rows, counted) else {
        return work.found("rows_manifest", Outcome::Skipped, "the rows could not be counted");
    };
    if work.state.replay.is_some() {
        let detail = "a later state than the manifest's was restored";
        return work.found("rows_manifest", Outcome::Skipped, detail);
    }
    let mut differences = lifeboat_core::verify::row_differences(Some(must), Some(counted));
    let lost = must.keys().filter(|table| !counted.contains_key(*table));
    differences.extend(lost.map(|table| format!("the table {table} is missing")));
    let sum: u64 = counted.values().sum();
    let sound = format!("{} rows in {} tables", units::count(sum), counted.len());
    work.judge("rows_manifest", &differences, sound);
}

/// Whether the check of the restore looked at all references, and each had its row.
fn found_no_violation(report: &CheckReport) -> bool {
    report.what.iter().any(|what| what == "foreign_key_check")
        && !report.notes.iter().any(|note| note.starts_with("foreign keys"))
}

/// Questions to the restored database, and to the live one.
fn ask(
    work: &mut Work<'_>,
    path: &Path,
    has_all_references: bool,
    counted: Option<BTreeMap<String, u64>>,
) -> Result<()> {
    let mut probe = Probe::open(path)?;
    probe.end_with(work.env)?;
    let version = version_of(work, &probe);
    let violations = if has_all_references { 0 } else { probe.violations()? };
    for sql in work.subject.config.assert.clone() {
        let (outcome, detail) = match probe.ask(&sql) {
            Ok(answer) if is_true(&answer) => (Outcome::Passed, format!("`{sql}` gives {answer}")),
            Ok(answer) => (Outcome::Failed, format!("`{sql}` gives {answer}, which is not true")),
            Err(error) => {
                let causes = crate::ui::report::causes(&error);
                (Outcome::Failed, format!("{error}: {}", causes.join(": ")))
            }
        };
        work.found("assert", outcome, detail);
    }
    drop(probe);
    work.env.proceed()?;
    live(work, version, violations, counted)
}

/// What was answered, or in a line why nothing was.
fn said(answer: Result<Option<String>>) -> Result<Option<String>, String> {
    answer.map_err(|error| {
        let causes = crate::ui::report::causes(&error).join(": ");
        units::one_line(&format!("{error}: {causes}"))
    })
}

/// The version of a schema, as the configuration asks for it, or where migration tools keep it.
fn version_of(work: &Work<'_>, probe: &Probe) -> Result<Option<String>> {
    match &work.subject.config.schema_version {
        Some(sql) => probe.ask(sql).map(Some),
        None => Ok(probe.schema_version()?.map(|version| version.version)),
    }
}

/// A number other than 0.
fn is_true(answer: &str) -> bool {
    answer.parse::<f64>().is_ok_and(|number| number != 0.0)
}

/// What the live database says, where it can be asked without a writer waiting for it.
fn live(
    work: &mut Work<'_>,
    version: Result<Option<String>>,
    violations: u64,
    counted: Option<BTreeMap<String, u64>>,
) -> Result<()> {
    let path = work.subject.target.as_ref().and_then(|target| target.path.clone());
    let manifest = &work.state.selected.manifest;
    let is_asked = work.subject.config.schema_version.is_some();
    // The manifest says what it was without being asked, and of its own state.
    let recorded = manifest.schema_version.as_ref().map(|version| version.version.clone());
    let recorded = recorded.filter(|_| work.state.replay.is_none() && !is_asked);
    let mut probe = match live_probe(path.as_deref()) {
        Ok(probe) => probe,
        Err(why) => {
            work.schema_version(said(version), recorded, Err(why.clone()));
            work.found("rows_live", Outcome::Skipped, why);
            let known = manifest
                .checks
                .iter()
                .any(|check| check.name == "foreign_key_check" && !check.notes.is_empty());
            foreign_keys(work, violations, if known { u64::MAX } else { 0 });
            return Ok(());
        }
    };
    probe.end_with(work.env)?;
    let is = said(version_of(work, &probe));
    // A live database that is large is not read for nothing.
    let live_violations = if violations == 0 { 0 } else { probe.violations()? };
    let live_rows = probe.rows();
    drop(probe);
    work.env.proceed()?;
    work.schema_version(said(version), recorded, is);
    foreign_keys(work, violations, live_violations);
    match (counted, live_rows) {
        (Some(counted), Some(live)) => {
            let bounds = work.subject.config.rows_bounds();
            let lines = rows::beyond(&counted, &live, bounds);
            let sound = format!("within {} % of the live database", bounds.0);
            work.judge("rows_live", &lines, sound);
        }
        _ => work.found("rows_live", Outcome::Skipped, "the rows could not be counted"),
    }
    Ok(())
}

/// A reference to a row that is not there is no damage where the live database has it too.
fn foreign_keys(work: &mut Work<'_>, violations: u64, known: u64) {
    let (outcome, detail) = match violations {
        0 => (Outcome::Passed, "every reference has its row".to_owned()),
        count if count <= known => {
            (Outcome::Noted, format!("{count} rows refer to one that is not there, as is known"))
        }
        count => (Outcome::Failed, format!("{count} rows refer to one that is not there")),
    };
    work.found("foreign_key_check", outcome, detail);
}

fn live_probe(path: Option<&Path>) -> Result<Probe, String> {
    let path = path.ok_or("no live database is configured")?;
    let shown = path.display();
    let found = lifeboat_sqlite::glance(path).map_err(|error| format!("{shown}: {error}"))?;
    let found = found.ok_or_else(|| format!("{shown} is no database"))?;
    if !found.is_wal && found.bytes > LIVE_JOURNAL_BYTES_MAX {
        return Err(format!("{shown} is not in WAL mode: its writers would wait"));
    }
    Probe::open(path).map_err(|error| error.to_string())
}

/// Files beside the database: each that is configured is there, and host keys are right.
fn companions(work: &mut Work<'_>, root: &Path, outcome: Option<&RestoreOutcome>) {
    let restored: &[PathBuf] = outcome.map(|outcome| outcome.files.as_slice()).unwrap_or_default();
    let manifest = &work.state.selected.manifest;
    if manifest.artifact(files::ROLE).is_some() {
        let missing: Vec<String> = required_files(work)
            .into_iter()
            .filter(|path| {
                let below = root.join(path.strip_prefix("/").unwrap_or(path));
                fs::symlink_metadata(below).is_err()
            })
            .map(|path| format!("{} was not restored", path.display()))
            .collect();
        let sound = format!("{} files and folders", restored.len());
        work.judge("files", &missing, sound);
    } else if !required_files(work).is_empty() {
        let detail = "files are configured, and the backup holds none";
        work.found("files", Outcome::Failed, detail);
    }
    let expected = work.subject.config.host_key.as_ref().map(|it| it.names().to_vec());
    let found = host_keys::check(root, restored, &expected.unwrap_or_default());
    work.record.checks.extend(found);
}

/// The paths that are configured and must be in each backup.
fn required_files(work: &Work<'_>) -> Vec<PathBuf> {
    let Ok(loaded) = work.session.loaded() else { return Vec::new() };
    let source = loaded.config.source.get(&work.subject.name);
    let entries = source.map(|source| source.files.as_slice()).unwrap_or_default();
    let required = entries.iter().filter(|entry| !entry.0.optional && entry.0.glob.is_none());
    required.map(|entry| entry.0.place()).collect()
}

/// The application, last of all: it may change what was restored.
pub(super) fn run_application(
    work: &mut Work<'_>,
    database: Option<&Path>,
    root: &Path,
    url: Option<&str>,
) -> Result<()> {
    let restored = Restored { database, files: root, url, scratch: work.scratch.path() };
    let found = application::check(work.env, &work.subject.config, &restored)?;
    work.record.checks.extend(found);
    Ok(())
}
