//! Verify: a restore to nowhere.
//!
//! Reads a backup from the repository as a restore does, and reports instead of placing it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{Artifact, CheckLevel, CheckOutcome, Manifest};
use crate::marks::{self, MarkKind, Proof};
use crate::pipeline::{Compression, Expectation, decode};
use crate::repository::Repository;
use crate::scratch::{Scratch, decode_into, expectation};
use crate::source::{BackupReader, Engine};
use crate::store::{ObjectName, put_bytes};

/// How deep a backup is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyLevel {
    /// Every artifact is read and its stored bytes are compared: it needs no key.
    Stored,
    /// Every artifact is read, opened, decompressed, and its hashes compared.
    Hash,
    /// Also restored to a scratch place and checked by its engine.
    Check(CheckLevel),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The backup's name.
    pub backup: String,
    /// Whether everything is as it must be.
    pub sound: bool,
    /// What is wrong, a line each.
    pub damage: Vec<String>,
    /// What could not be checked, and other remarks.
    pub notes: Vec<String>,
    /// Bytes that were read from the repository.
    pub stored_bytes: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Verifies one backup. Damage is in the report; an error means that it could not be looked at.
pub fn run(
    env: &Env,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
    engine: &dyn Engine,
    level: VerifyLevel,
    scratch: (&Path, u64),
) -> Result<VerifyReport> {
    let begun_ms = env.clock.monotonic_ms();
    let mut report = VerifyReport {
        backup: manifest.name.clone(),
        sound: true,
        damage: Vec::new(),
        notes: Vec::new(),
        stored_bytes: manifest.stored_bytes(),
        elapsed_ms: 0,
    };
    let mut reader = match level {
        VerifyLevel::Check(level) if level != CheckLevel::None => engine.reader(manifest, level),
        _ => None,
    };
    for (index, artifact) in manifest.artifacts.iter().enumerate() {
        let checked = match level {
            _ if reader.is_some() => hash(env, repository, folder, artifact, reader.as_deref_mut()),
            VerifyLevel::Check(level) if index == 0 && level != CheckLevel::None => {
                check(env, repository, folder, manifest, engine, level, scratch, &mut report)
            }
            VerifyLevel::Stored => stored(env, repository, folder, artifact),
            _ => hash(env, repository, folder, artifact, None),
        };
        match checked {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                report.damage.push(one_line(&error));
            }
            Err(error) => return Err(error),
        }
    }
    // What it says of a part that did not come whole is known already.
    if let Some(reader) = reader.filter(|_| report.damage.is_empty()) {
        let checked = reader.finish()?;
        report.notes.extend(checked.notes);
        if checked.outcome == CheckOutcome::Failed {
            report.damage.extend(checked.damage);
        }
    }
    report.sound = report.damage.is_empty();
    report.elapsed_ms = env.elapsed_ms(begun_ms);
    Ok(report)
}

/// Records that this host opened a sealed backup and found it right: its checks count for what is
/// stored from now on. What was recorded of a deeper look stays. `None` where nothing is to be
/// recorded: of an open backup, or one whose seal was not opened.
pub fn record(
    env: &Env,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
    level: VerifyLevel,
) -> Result<Option<Proof>> {
    let rank = match level {
        VerifyLevel::Stored => return Ok(None),
        VerifyLevel::Hash | VerifyLevel::Check(CheckLevel::None) => 0,
        VerifyLevel::Check(CheckLevel::Quick) => 1,
        VerifyLevel::Check(CheckLevel::Full) => 2,
    };
    if manifest.artifacts.iter().all(|artifact| artifact.sealed.is_none()) {
        return Ok(None);
    }
    const LEVELS: [&str; 3] = ["hash", "quick", "full"];
    let known = repository.proof(folder, manifest)?;
    let rank_of = |proof: &Proof| LEVELS.iter().position(|level| *level == proof.level);
    if known.as_ref().is_some_and(|known| rank_of(known).is_none_or(|known| known >= rank)) {
        return Ok(known);
    }
    let proof = Proof {
        format: marks::FORMAT,
        source: manifest.source.id,
        backup: manifest.name.clone(),
        id: manifest.id,
        level: LEVELS[rank].to_owned(),
        verified_at: env.clock.now(),
        host: env.host.clone(),
    };
    let object = ObjectName::new(MarkKind::Proof.object(folder, &manifest.name))?;
    if repository.store().head(&object)?.is_some() {
        repository.store().delete(&object)?;
    }
    put_bytes(repository.store(), &object, &marks::to_bytes(&proof))?;
    Ok(Some(proof))
}

/// An error and its causes in one line.
fn one_line(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

fn hash(
    env: &Env,
    repository: &Repository,
    folder: &str,
    artifact: &Artifact,
    mut reader: Option<&mut (dyn BackupReader + 'static)>,
) -> Result<()> {
    let object = repository.object(folder, &artifact.name)?;
    let (phase, bytes_total) = ("verifying", Some(artifact.plain_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let wrapping = repository.wrapping(artifact)?;
    let stored = repository.store().get(&object, None)?;
    if let Some(reader) = &mut reader {
        reader.begin(artifact)?;
    }
    decode(stored, wrapping, env.threads, &expectation(artifact), &mut |plain| {
        env.proceed()?;
        env.tell(Event::Advanced { bytes: plain.len() as u64 });
        reader.as_mut().map_or(Ok(()), |reader| reader.push(plain))
    })?;
    reader.map_or(Ok(()), |reader| reader.end())?;
    env.tell(Event::PhaseEnded { phase });
    Ok(())
}

/// Compares the stored bytes, whatever lies below a seal.
fn stored(env: &Env, repository: &Repository, folder: &str, artifact: &Artifact) -> Result<()> {
    let object = repository.object(folder, &artifact.name)?;
    let (phase, bytes_total) = ("verifying", Some(artifact.stored_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let expectation = Expectation {
        object: &artifact.name,
        stored: Some((artifact.stored_bytes, artifact.stored_sha256.clone())),
        ..Expectation::default()
    };
    let reader = repository.store().get(&object, None)?;
    decode(reader, Compression::None, env.threads, &expectation, &mut |bytes| {
        env.tell(Event::Advanced { bytes: bytes.len() as u64 });
        env.proceed()
    })?;
    env.tell(Event::PhaseEnded { phase });
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "private, and each is used once")]
fn check(
    env: &Env,
    repository: &Repository,
    folder: &str,
    manifest: &Manifest,
    engine: &dyn Engine,
    level: CheckLevel,
    (scratch_folder, memory_bytes): (&Path, u64),
    report: &mut VerifyReport,
) -> Result<()> {
    let Some(artifact) = manifest.artifacts.first() else { return Ok(()) };
    let object = repository.object(folder, &artifact.name)?;
    let (phase, bytes_total) = ("restoring to a scratch place", Some(artifact.plain_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let mut scratch = Scratch::new(scratch_folder, artifact.plain_bytes)?;
    let place = scratch.path();
    decode_into(
        env,
        repository,
        &object,
        (artifact, &expectation(artifact)),
        scratch.file(),
        &place,
    )?;
    env.tell(Event::PhaseEnded { phase });
    let phase = "checking";
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total: None });
    let checked = engine.check_file(env, &place, level, memory_bytes)?;
    env.tell(Event::PhaseEnded { phase });
    report.notes.extend(checked.notes);
    if checked.outcome == CheckOutcome::Failed {
        report.damage.extend(checked.damage);
    }
    report.damage.extend(row_differences(manifest.rows.as_ref(), checked.rows.as_ref()));
    Ok(())
}

/// Tables whose rows are not as many as the manifest says, a line each. Compares only what both
/// sides counted.
pub fn row_differences(
    manifest: Option<&BTreeMap<String, u64>>,
    counted: Option<&BTreeMap<String, u64>>,
) -> Vec<String> {
    let (Some(manifest), Some(counted)) = (manifest, counted) else { return Vec::new() };
    let both = manifest.iter().filter_map(|(table, must)| Some((table, must, counted.get(table)?)));
    both.filter(|(_, must, is)| must != is)
        .map(|(table, must, is)| format!("table {table} has {is} rows, must have {must}"))
        .collect()
}
