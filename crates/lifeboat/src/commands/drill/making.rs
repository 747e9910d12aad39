//! One drill: restored, checked, removed, recorded.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_core::drill::{self, DrillCheck, DrillRecord, Drilled, FORMAT, Outcome, Phase, Proof};
use lifeboat_core::env::{Clock, Env};
use lifeboat_core::event::{Event, Observer};
use lifeboat_core::manifest::SourceLabel;
use lifeboat_core::{Error, Kind, Result, marks};
use lifeboat_postgres::ClientOptions;

use super::Args;
use super::choose::{Choice, Subject};
use super::scratch::Scratch;
use super::{cluster, dump, file};
use crate::logs::State;
use crate::proofs;
use crate::session::{Session, TOOL};
use crate::ui::{report, units};

/// What a drill made.
pub(super) struct Made {
    /// What it showed.
    pub(super) record: DrillRecord,
    /// The same, signed and stored.
    pub(super) proof: Option<Proof>,
    /// Where.
    pub(super) object: Option<String>,
    /// What was left in the scratch place, as asked.
    pub(super) kept: Option<PathBuf>,
    /// Why it did not pass.
    pub(super) failure: Option<Error>,
    /// Why no proof was stored.
    pub(super) unrecorded: Option<Error>,
}

/// A drill that goes on.
pub(super) struct Work<'a> {
    pub(super) session: &'a Session,
    pub(super) env: &'a Env,
    pub(super) subject: &'a Subject<'a>,
    pub(super) state: &'a State,
    pub(super) scratch: &'a Scratch,
    pub(super) record: &'a mut DrillRecord,
}

impl Work<'_> {
    /// How servers of ours are found and run.
    pub(super) fn server_options(&self, options: ClientOptions) -> ClientOptions {
        let server_memory_bytes = self.subject.config.memory_max.map(|size| size.0.bytes);
        ClientOptions { server_memory_bytes, ..options }
    }

    /// The version of the schema that was restored beside the live one. `recorded` is what the
    /// manifest says of the very state that was restored.
    pub(super) fn schema_version(
        &mut self,
        restored: Result<Option<String>, String>,
        recorded: Option<String>,
        live: Result<Option<String>, String>,
    ) {
        const NAME: &str = "schema_version";
        let word = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
        let restored = match restored {
            Ok(restored) => restored,
            // What the query reads is not there.
            Err(why) => return self.found(NAME, Outcome::Failed, why),
        };
        let is = word(&restored);
        if recorded.is_some() && recorded != restored {
            let detail = format!("it is {is}, backed up was {}", word(&recorded));
            return self.found(NAME, Outcome::Failed, detail);
        }
        match live {
            Err(why) => self.found(NAME, Outcome::Skipped, why),
            Ok(live) if live == restored => self.found(NAME, Outcome::Passed, is),
            Ok(live) => {
                let detail = format!("restored is {is}, live is {}", word(&live));
                self.found(NAME, Outcome::Noted, detail);
            }
        }
    }

    /// Notes what a check found.
    pub(super) fn found(&mut self, name: &str, outcome: Outcome, detail: impl Into<String>) {
        self.record.checks.push(DrillCheck::new(name, outcome, detail));
    }

    /// Notes damage, or that there is none.
    pub(super) fn judge(&mut self, name: &str, damage: &[String], sound: impl Into<String>) {
        match damage {
            [] => self.found(name, Outcome::Passed, sound),
            lines => self.found(name, Outcome::Failed, lines.join("; ")),
        }
    }
}

/// Whether an error says that what is stored is not what it must be.
pub(super) fn is_of_backup(error: &Error) -> bool {
    matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered | Kind::Failed)
}

/// What a state is called, as `restore` takes it.
pub(super) fn name_of(state: &State) -> String {
    use lifeboat_core::restore::Replay as _;
    let replay = state.replay.as_ref().map(|replay| replay.name());
    replay.unwrap_or_else(|| state.selected.manifest.name.clone())
}

/// Makes it. An error is one of this run, as a signal; what a drill shows is in what it made.
pub(super) fn drill(
    session: &Session,
    env: &Env,
    subject: &Subject<'_>,
    choice: &Choice,
    args: &Args,
) -> Result<Made> {
    let watch = Arc::new(PhaseWatch::new(env));
    let observer = Arc::clone(&watch) as Arc<dyn Observer>;
    let mut env = Env { observer, ..env.clone() };
    if let Some(limit) = &subject.config.time_limit {
        env = env.limited(limit.0.milliseconds, &limit.0.to_string());
    }
    let mut record = begin(&env, subject, choice);
    record.from_kit = args.of_kit;
    let mut kept = None;
    let worked = work(session, &env, subject, choice, args, &mut record, &mut kept);
    let error = match worked {
        Err(error) if matches!(error.kind(), Kind::Interrupted | Kind::Terminated) => {
            return Err(error);
        }
        worked => worked.err(),
    };
    record.phases = watch.phases();
    record.ended_at = env.clock.now();
    let failure = judge(&mut record, error);
    let mut made = Made { record, proof: None, object: None, kept, failure, unrecorded: None };
    env.crash.pass("drill.checked")?;
    if !args.no_proof
        && let Err(error) = prove(session, &env, subject, &mut made)
    {
        let message = format!("what the drill of {} showed is not recorded", subject.name);
        made.unrecorded = Some(error.context(message));
    }
    Ok(made)
}

fn begin(env: &Env, subject: &Subject<'_>, choice: &Choice) -> DrillRecord {
    let repository = &subject.opened.repository;
    let now = env.clock.now();
    let label = |entry: &lifeboat_core::catalog::SourceEntry| SourceLabel {
        id: entry.record.id,
        name: entry.record.name.clone(),
        kind: entry.record.kind.clone(),
        host: entry.record.host.clone(),
        location: entry.record.location.clone(),
    };
    let unknown = || SourceLabel {
        id: uuid::Uuid::nil(),
        name: subject.name.clone(),
        kind: subject.target.as_ref().map_or("", |target| target.source.kind()).to_owned(),
        host: env.host.clone(),
        location: subject.target.as_ref().and_then(|it| it.location().ok()).unwrap_or_default(),
    };
    let target = subject.target.as_ref();
    DrillRecord {
        format: FORMAT,
        id: env.new_uuid(),
        installation: String::new(),
        public_key: String::new(),
        sequence: 0,
        previous: None,
        host: env.host.clone(),
        repository: repository.header().id,
        repository_url: repository.url(),
        source: subject.entry.map_or_else(unknown, label),
        chosen: choice.word().to_owned(),
        from_kit: false,
        backup: None,
        backup_id: None,
        state: None,
        moment: None,
        begun_at: now,
        ended_at: now,
        data_age_ms: None,
        // An older moment that was asked for says nothing of how much would be lost today.
        data_age_ms_max: target
            .and_then(|target| target.rpo_ms)
            .filter(|_| matches!(choice, Choice::Newest)),
        restore_ms: None,
        restore_ms_max: target.and_then(|target| target.rto_ms),
        stored_bytes: None,
        plain_bytes: None,
        phases: Vec::new(),
        checks: Vec::new(),
        passed: false,
        failure: None,
        tool: TOOL.to_owned(),
    }
}

/// Restores and checks; whatever was found stays in the record.
fn work(
    session: &Session,
    env: &Env,
    subject: &Subject<'_>,
    choice: &Choice,
    args: &Args,
    record: &mut DrillRecord,
    kept: &mut Option<PathBuf>,
) -> Result<()> {
    let selected = choice.selected(env, subject)?;
    record.backup = Some(selected.manifest.name.clone());
    record.backup_id = Some(selected.manifest.id);
    let state = crate::logs::meant(selected)?;
    let manifest = &state.selected.manifest;
    record.backup = Some(manifest.name.clone());
    record.backup_id = Some(manifest.id);
    record.state = state.replay.is_some().then(|| name_of(&state));
    record.moment = Some(state.taken_at());
    let age = record.begun_at.duration_since(state.taken_at()).as_millis();
    record.data_age_ms = Some(u64::try_from(age).unwrap_or(0));
    record.stored_bytes = Some(manifest.stored_bytes());
    record.plain_bytes = Some(manifest.plain_bytes());
    within_budget(subject, manifest.plain_bytes())?;
    let scratch = Scratch::new(env, &session.folders.scratch)?;
    let mut work = Work { session, env, subject, state: &state, scratch: &scratch, record };
    let done = match manifest.source.kind.as_str() {
        lifeboat_postgres::CLUSTER_KIND => cluster::drill(&mut work, choice),
        lifeboat_postgres::KIND => dump::drill(&mut work),
        _ => file::drill(&mut work),
    };
    // What broke off because the time was over is no damage.
    let done = done.or_else(|error| env.proceed().and(Err(error)));
    if args.keep {
        *kept = Some(scratch.keep()?);
    }
    done
}

fn within_budget(subject: &Subject<'_>, bytes: u64) -> Result<()> {
    match subject.config.space_max.map(|size| size.0.bytes) {
        Some(bytes_max) if bytes > bytes_max => {
            let (bytes, bytes_max) = (units::bytes(bytes), units::bytes(bytes_max));
            let message =
                format!("`{}` needs {bytes}, its drill may take {bytes_max}", subject.name);
            Err(Error::new(Kind::NoSpace, message).hint("raise `space_max` of its drill"))
        }
        _ => Ok(()),
    }
}

/// Whether it passed; if not, why.
fn judge(record: &mut DrillRecord, error: Option<Error>) -> Option<Error> {
    objectives(record);
    let failed: Vec<String> = record
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    let error = match (error, failed.is_empty()) {
        (Some(error), _) => error.context(format!("the drill of {} failed", record.source.name)),
        (None, true) => {
            record.passed = true;
            return None;
        }
        (None, false) => {
            let what = record.backup.as_deref().unwrap_or(&record.source.name);
            Error::new(Kind::CheckFailed, format!("the drill of {what} failed"))
                .caused_by(failed.join("; "))
                .hint("lifeboat proof show")
        }
    };
    let causes = report::causes(&error);
    record.failure = Some(match causes.is_empty() {
        true => error.to_string(),
        false => causes.join(": "),
    });
    Some(error)
}

/// Promises that were not kept: what was restored is right all the same.
fn objectives(record: &mut DrillRecord) {
    let mut missed = |name: &str, is: Option<u64>, max: Option<u64>, what: &str| {
        if let (Some(is), Some(max)) = (is, max) {
            let (shown, promised) = (units::duration(is), units::duration(max));
            let detail = format!("{what} {shown}, promised is {promised}");
            let outcome = if is > max { Outcome::Noted } else { Outcome::Passed };
            record.checks.push(DrillCheck::new(name, outcome, detail));
        }
    };
    missed("rto", record.restore_ms, record.restore_ms_max, "the restore took");
    missed("rpo", record.data_age_ms, record.data_age_ms_max, "the data was as old as");
}

/// Signs and stores it, and notes it beside the backup.
fn prove(session: &Session, env: &Env, subject: &Subject<'_>, made: &mut Made) -> Result<()> {
    // Whatever happened before: what was found is to be kept.
    let env = &env.unstoppable();
    let repository = &subject.opened.repository;
    let key = proofs::key(session, env)?;
    let known = proofs::head(session, repository, &key.installation())?;
    let (proof, object, head) =
        drill::append(repository, &key, made.record.clone(), known.as_ref())?;
    env.crash.pass("drill.proved")?;
    proofs::remember(session, repository, &key.installation(), &head)?;
    let record = &proof.record;
    if let (Some(entry), Some(backup), Some(id)) = (subject.entry, &record.backup, record.backup_id)
    {
        let before = entry.drilled.iter().find(|drilled| drilled.id == id);
        let still = made.failure.as_ref().is_some_and(|error| !is_of_backup(error));
        let passed_at = match record.passed {
            true => Some(record.ended_at),
            false => before.filter(|_| still).and_then(|before| before.passed_at),
        };
        let drilled = Drilled {
            format: marks::FORMAT,
            source: record.source.id,
            backup: backup.clone(),
            id,
            drilled_at: record.ended_at,
            passed: record.passed,
            passed_at,
            failure: record.failure.clone(),
            restore_ms: record.restore_ms,
            moment: record.moment,
            proof: Some(object.clone()),
            proof_sha256: Some(head.sha256),
            host: env.host.clone(),
        };
        drill::mark(env, repository, &entry.folder, &drilled)?;
    }
    made.record = proof.record.clone();
    (made.proof, made.object) = (Some(proof), Some(object));
    Ok(())
}

/// Notes how long each phase of a restore takes, and passes all on.
struct PhaseWatch {
    inner: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    seen: Mutex<Vec<(&'static str, u64, Option<u64>)>>,
}

impl PhaseWatch {
    fn new(env: &Env) -> Self {
        let (inner, clock) = (Arc::clone(&env.observer), Arc::clone(&env.clock));
        PhaseWatch { inner, clock, seen: Mutex::new(Vec::new()) }
    }

    fn phases(&self) -> Vec<Phase> {
        let now_ms = self.clock.monotonic_ms();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut phases: Vec<Phase> = Vec::new();
        for (name, begun_ms, ended_ms) in seen.iter() {
            let elapsed_ms = ended_ms.unwrap_or(now_ms).saturating_sub(*begun_ms);
            match phases.iter_mut().find(|phase| phase.name == *name) {
                Some(phase) => phase.elapsed_ms += elapsed_ms,
                None => phases.push(Phase { name: (*name).to_owned(), elapsed_ms }),
            }
        }
        phases
    }
}

impl Observer for PhaseWatch {
    fn observe(&self, event: &Event<'_>) {
        let now_ms = self.clock.monotonic_ms();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::PhaseBegan { phase, .. } => seen.push((phase, now_ms, None)),
            Event::PhaseEnded { phase } => {
                let open =
                    seen.iter_mut().rev().find(|(name, _, ended)| name == phase && ended.is_none());
                if let Some((_, _, ended)) = open {
                    *ended = Some(now_ms);
                }
            }
            _ => {}
        }
        drop(seen);
        self.inner.observe(event);
    }
}
