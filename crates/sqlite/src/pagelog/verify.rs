//! Reading a log as a restore would, and saying what of it can be restored.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_core::Kind;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome, Manifest};
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Replay;
use lifeboat_core::scratch::{Scratch, decode_into, stored_expectation};
use lifeboat_core::source::Engine;
use lifeboat_core::{Error, Result};

use super::chain::{Chain, Target};
use super::history::{History, page_hashes};
use super::layout::Digest;
use super::read::LogObject;
use super::replay::LogReplay;

/// What was found of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// How many files it has, and their size in bytes.
    pub files: usize,
    /// Their size in bytes.
    pub stored_bytes: u64,
    /// How many states can be restored, without the base.
    pub states: usize,
    /// The newest position that can be restored.
    pub end: u64,
    /// What is wrong, a line each.
    pub damage: Vec<String>,
    /// What could not be checked, and other remarks.
    pub notes: Vec<String>,
}

/// How a log is to be restored for a check.
pub struct ScratchCheck<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// How thoroughly.
    pub level: CheckLevel,
    /// Where.
    pub folder: &'a Path,
    /// How much memory the check may use.
    pub memory_bytes: u64,
}

/// Verifies the log of a backup: every byte is read, and the files must lead from the base's state
/// to the last one. With `scratch` the newest state is also restored and checked. Damage is in the
/// report; an error means that it could not be looked at.
pub fn verify(
    env: &Env,
    repository: &Repository,
    folder: &str,
    base: &Manifest,
    scratch: Option<ScratchCheck<'_>>,
) -> Result<LogReport> {
    let chain = Chain::of(repository, folder, base)?;
    let (files, stored_bytes) = chain.size();
    let (states, end) = (chain.states(), chain.end());
    let mut report = LogReport { files, stored_bytes, states, end, ..LogReport::default() };
    if chain.is_empty() {
        return Ok(report);
    }
    if let Some(gap) = chain.gap() {
        report.damage.push(format!(
            "files of the log are missing between the positions {} and {}: nothing after {} can be \
             restored",
            gap.after, gap.before, gap.after
        ));
    }
    let (phase, bytes_total) = ("verifying the log", Some(stored_bytes));
    env.tell(Event::PhaseBegan { subject: &base.name, phase, bytes_total });
    // Without a key what is stored is compared with what the labels say of it.
    let is_closed = chain.is_sealed() && repository.keys().is_none();
    match is_closed {
        true => check_labels(env, &chain, &mut report)?,
        false => {
            for file in &chain.files {
                env.proceed()?;
                note(&mut report, check_file(repository, file))?;
                env.tell(Event::Advanced { bytes: file.bytes });
            }
        }
    }
    env.tell(Event::PhaseEnded { phase });
    if report.damage.is_empty() && !is_closed {
        let followed = follow(env, &chain);
        note(&mut report, followed)?;
    }
    if let Some(scratch) = scratch.filter(|_| report.damage.is_empty() && !is_closed) {
        let checked = restore_and_check(env, &chain, &scratch, &mut report);
        note(&mut report, checked)?;
    }
    Ok(report)
}

/// What is damaged or missing is in the report; other errors end it.
fn note(report: &mut LogReport, checked: Result<()>) -> Result<()> {
    match checked {
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            let mut line = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                line.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            if !report.damage.contains(&line) {
                report.damage.push(line);
            }
            Ok(())
        }
        other => other,
    }
}

/// Reads all of a file, and compares its digest; of a sealed one also what its label says.
fn check_file(repository: &Repository, file: &LogObject) -> Result<()> {
    let footer = file.footer(repository)?;
    if file.is_sealed() && !file.label(repository)?.fits(&footer) {
        let message = format!("{}: its label says something else than it does", file.object);
        return Err(Error::new(Kind::CheckFailed, message));
    }
    file.check_content(repository, &footer)
}

/// What can be seen of sealed files without a key: that each is of this log, and that each is, byte
/// for byte, the one that the file behind it names.
fn check_labels(env: &Env, chain: &Chain<'_>, report: &mut LogReport) -> Result<()> {
    let mut marks: BTreeMap<u64, Digest> = BTreeMap::new();
    let mut unnamed = 0;
    let is_known = |mark: &Digest| *mark != [0; 32];
    for file in &chain.files {
        env.proceed()?;
        let checked = (|| {
            let label = file.label(chain.repository)?;
            chain.require_own(file, (label.source, label.base))?;
            let before = marks.get(&label.from);
            let is_named = is_known(&label.mark_before);
            unnamed += usize::from(!is_named && label.from > 0);
            if before
                .is_some_and(|before| is_named && is_known(before) && *before != label.mark_before)
            {
                return Err(Error::new(
                    Kind::CheckFailed,
                    format!("{} does not follow the file that is before it now", file.object),
                ));
            }
            marks.entry(label.to).or_insert(file.mark(chain.repository, &label)?);
            Ok(())
        })();
        note(report, checked)?;
        env.tell(Event::Advanced { bytes: file.bytes });
    }
    // The newest one is named by none yet.
    report.notes.push(format!(
        "it is sealed and no key is named: {} of {} files were compared with the digest that the \
         file behind them has",
        chain.files.len().saturating_sub(1 + unnamed),
        chain.files.len()
    ));
    Ok(())
}

/// Walks from the base's hashes to the end: each file must lead to the state that it names.
fn follow(env: &Env, chain: &Chain<'_>) -> Result<()> {
    let way = chain.way(chain.end())?;
    let Chain { repository, folder, base, .. } = chain;
    let Some(mut state) = page_hashes(env, repository, folder, base)? else {
        let message = format!("{} has a log and no page hashes", base.name);
        return Err(Error::new(Kind::CheckFailed, message));
    };
    History::open(repository, folder, base, &mut state, &way).map(drop)
}

/// Restores the newest state to a scratch place and lets the engine check it.
fn restore_and_check(
    env: &Env,
    chain: &Chain<'_>,
    scratch: &ScratchCheck<'_>,
    report: &mut LogReport,
) -> Result<()> {
    let Chain { repository, folder, base, .. } = chain;
    let (Some(artifact), Some(replay)) =
        (base.artifacts.first(), LogReplay::to(chain, Target::Latest)?)
    else {
        return Ok(());
    };
    let (phase, bytes_total) = ("restoring to a scratch place", Some(artifact.plain_bytes));
    env.tell(Event::PhaseBegan { subject: &base.name, phase, bytes_total });
    let mut file = Scratch::new(scratch.folder, artifact.plain_bytes.max(replay.plain_bytes()))?;
    let place = file.path();
    let object = repository.object(folder, &artifact.name)?;
    let expectation = stored_expectation(artifact);
    decode_into(env, repository, &object, (artifact, &expectation), file.file(), &place)?;
    env.tell(Event::PhaseEnded { phase });
    replay.apply(env, file.file(), &place)?;
    let phase = "checking";
    env.tell(Event::PhaseBegan { subject: &base.name, phase, bytes_total: None });
    let checked = scratch.engine.check_file(env, &place, scratch.level, scratch.memory_bytes)?;
    env.tell(Event::PhaseEnded { phase });
    report.notes.extend(checked.notes);
    if checked.outcome == CheckOutcome::Failed {
        report.damage.extend(checked.damage);
    }
    Ok(())
}
