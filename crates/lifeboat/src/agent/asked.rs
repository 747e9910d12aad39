//! What people asked for beside the schedules: restores, each a process like every job.
//!
//! They belong to the agent, so that who asked may go; how they ended is kept, so that who comes
//! back finds it. One that the agent did not outlive is told of as that.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::child::{Ears, Run};
use super::control::Bell;
use super::scheduler::{Now, Outcome};
use super::supervisor::HEARD_MS;
use crate::control::{Ended, RunState, Told};
use crate::private;
use crate::session::Session;
use crate::ui::units;

/// So many that have ended are kept.
const KEPT_MAX: usize = 20;
/// So many run at once: each reads and writes as fast as it can.
const AT_ONCE_MAX: usize = 2;
/// Between being asked to end and being killed.
const GRACE_MS: u64 = 60_000;

/// One of them.
struct One {
    state: RunState,
    /// While it runs.
    run: Option<Run>,
    /// When it was first seen to have ended, before all was heard.
    ended_ms: Option<u64>,
    /// When it was asked to end.
    ending_ms: Option<u64>,
}

/// All of them, the newest last.
pub(super) struct AllAsked {
    all: Vec<One>,
    path: Option<PathBuf>,
}

impl AllAsked {
    /// Those that an agent before this one left.
    pub(super) fn read(session: &Session, now: Now) -> Self {
        let state = session.folders.locks.as_deref().and_then(|locks| locks.parent());
        let path = state.map(|state| state.join("agent/asked.json"));
        let read = path.as_deref().and_then(|path| fs::read(path).ok());
        let kept: Vec<RunState> =
            read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let all = kept.into_iter().map(|mut state| {
            let lost = || Ended {
                begun_at: state.begun_at,
                ended_at: now.wall,
                outcome: "failed".to_owned(),
                exit_code: None,
                error: Some("the agent ended before it did: ask for it again".to_owned()),
            };
            state.ended.get_or_insert_with(lost);
            One { state, run: None, ended_ms: None, ending_ms: None }
        });
        AllAsked { all: all.collect(), path }
    }

    /// Begins one. Gives its id, or why it is not begun.
    pub(super) fn begin(
        &mut self,
        session: &Session,
        bell: &Arc<Bell>,
        words: &[String],
        (title, by): (String, String),
        now: Now,
    ) -> Result<String, String> {
        if self.running().count() >= AT_ONCE_MAX {
            return Err(format!("{AT_ONCE_MAX} restores run already: wait for one of them"));
        }
        let time = now.wall.strftime("restore-%Y%m%d-%H%M%S").to_string();
        let taken = |id: &str| self.all.iter().any(|one| one.state.id == id);
        let more = (2..).map(|number| format!("{time}-{number}"));
        let id = std::iter::once(time.clone()).chain(more).find(|id| !taken(id));
        let id = id.unwrap_or(time);
        let (printer, bell) = (Arc::clone(&session.printer), Arc::clone(bell));
        let ears = Ears { printer, bell, result: true };
        let run = Run::begin(words, &id, &ears, now.steady_ms)
            .map_err(|error| format!("it cannot be begun: {error}"))?;
        session.printer.note(&format!("{id}: {} (asked for by {by})", units::one_line(&title)));
        let state = RunState {
            id: id.clone(),
            title,
            by: Some(by),
            begun_at: now.wall,
            told: Told::default(),
            ended: None,
            result: Value::Null,
        };
        self.all.push(One { state, run: Some(run), ended_ms: None, ending_ms: None });
        while self.all.len() > KEPT_MAX
            && let Some(oldest) = self.all.iter().position(|one| one.run.is_none())
        {
            self.all.remove(oldest);
        }
        self.save(session);
        Ok(id)
    }

    fn running(&self) -> impl Iterator<Item = &One> {
        self.all.iter().filter(|one| one.run.is_some())
    }

    /// Asks one to end. Whether there is one that runs.
    pub(super) fn stop(&mut self, id: &str, now: Now) -> bool {
        let wanted = |one: &&mut One| one.state.id == id && one.run.is_some();
        self.all.iter_mut().find(wanted).map(|one| one.ask_to_end(now)).is_some()
    }

    /// All are to end. How many had not been asked to before.
    pub(super) fn end(&mut self, now: Now) -> u64 {
        self.all.iter_mut().map(|one| u64::from(one.ask_to_end(now))).sum()
    }

    /// Whether none runs.
    pub(super) fn is_over(&self) -> bool {
        self.running().next().is_none()
    }

    /// Sees which have ended. How many.
    pub(super) fn look(&mut self, session: &Session, now: Now) -> u64 {
        let ended = self.all.iter_mut().filter_map(|one| one.look(session, now)).count();
        if ended > 0 {
            self.save(session);
        }
        ended as u64
    }

    /// What all of them tell.
    pub(super) fn states(&self) -> impl Iterator<Item = RunState> {
        self.all.iter().rev().map(|one| match &one.run {
            Some(run) => RunState { told: run.told(), ..one.state.clone() },
            None => one.state.clone(),
        })
    }

    fn save(&self, session: &Session) {
        let Some(path) = &self.path else { return };
        let states: Vec<&RunState> = self.all.iter().map(|one| &one.state).collect();
        let text = serde_json::to_vec_pretty(&states).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| private::replace(path, &text)) {
            let message = format!("cannot write {}: {error}", path.display());
            session.printer.warning("", &message);
        }
    }
}

impl One {
    /// Whether it runs, and had not been asked before.
    fn ask_to_end(&mut self, now: Now) -> bool {
        let (Some(run), None) = (&self.run, self.ending_ms) else { return false };
        run.terminate();
        self.ending_ms = Some(now.steady_ms);
        true
    }

    fn look(&mut self, session: &Session, now: Now) -> Option<()> {
        let run = self.run.as_mut()?;
        if !run.is_over() {
            let waited_ms = self.ending_ms.map_or(0, |since_ms| now.steady_ms - since_ms);
            if waited_ms >= GRACE_MS {
                run.kill();
            }
            return None;
        }
        let since_ms = *self.ended_ms.get_or_insert(now.steady_ms);
        if !run.is_heard() && now.steady_ms.saturating_sub(since_ms) < HEARD_MS {
            return None;
        }
        let (outcome, exit_code, error) = run.ended()?;
        let ended = Ended {
            begun_at: self.state.begun_at,
            ended_at: now.wall,
            outcome: word(outcome).to_owned(),
            exit_code,
            error,
        };
        let (printer, id) = (&session.printer, &self.state.id);
        match &ended.error {
            Some(error) => printer.warning(id, &format!("failed: {error}")),
            None => printer.note(&format!("{id}: done")),
        }
        self.state.told = run.told();
        self.state.result = run.take_result();
        self.state.ended = Some(ended);
        self.run = None;
        Some(())
    }
}

/// How a run ended, in a word.
pub(super) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Absent => "absent",
        Outcome::Failed { .. } => "failed",
    }
}
