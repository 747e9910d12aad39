//! Thinning out logs by the way, and packing them, in a thread of its own: what is followed goes on
//! meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use lifeboat_core::env::Env;
use lifeboat_core::prune::{LogLevels, Thinned, thin_logs};
use lifeboat_core::repository::SourceIdentity;
use lifeboat_core::{Kind, Result};
use lifeboat_sqlite::pagelog::Packing;

use super::Job;
use crate::repositories::Place;
use crate::rotation::{self, Rule};
use crate::session::Session;
use crate::ui::units;

/// How soon logs are thinned out after the beginning, in milliseconds.
const FIRST_MS: u64 = 5 * 60_000;
/// How often then: as often as a quarter of the time passes for which every state stays, within
/// these bounds. Whatever is merged, all of its log before it is read, so some hours are at once.
const EVERY_MS: (u64, u64) = (60 * 60_000, 6 * 60 * 60_000);
/// Clocks that went apart by so much since the beginning: the one of the calendar was set.
const SET_MS: u64 = 10 * 60_000;

/// When it is time, and what goes on.
pub(super) struct Thinning {
    due_ms: u64,
    /// Both clocks at the beginning: what is old is not decided after one of them was set.
    begun_ms: (i64, u64),
    going: Option<JoinHandle<Vec<Done>>>,
    /// How many states were added since a log was packed, by source and repository.
    unpacked: BTreeMap<(String, String), usize>,
}

/// What became of the logs of a source in a repository.
struct Done {
    name: String,
    label: String,
    thinned: Result<Thinned>,
}

/// The logs of a source in a repository, which grow old by a rule.
struct Task {
    place: Place,
    name: String,
    identity: SourceIdentity,
    levels: Arc<dyn LogLevels>,
    locks: Option<PathBuf>,
}

impl Thinning {
    pub(super) fn begin(env: &Env) -> Self {
        let (wall_ms, steady_ms) = (env.clock.now().as_millisecond(), env.clock.monotonic_ms());
        Thinning {
            due_ms: steady_ms + FIRST_MS,
            begun_ms: (wall_ms, steady_ms),
            going: None,
            unpacked: BTreeMap::new(),
        }
    }

    /// A state was added to the log of that one.
    pub(super) fn added(&mut self, job: &Job<'_>) {
        *self.unpacked.entry(job.key()).or_default() += 1;
    }

    /// Begins it when it is time, and says what came of it when it is over. A log to which the
    /// states of a pack were added is packed before.
    pub(super) fn go_on(&mut self, session: &Session, env: &Env, jobs: &[Job<'_>]) {
        if let Some(going) = self.going.take_if(|going| going.is_finished()) {
            tell(session, going.join().unwrap_or_default());
        }
        if self.going.is_some() {
            return;
        }
        let now_ms = env.clock.monotonic_ms();
        let is_due = now_ms >= self.due_ms;
        let files = Packing::default().files;
        let is_many = |states: usize| states >= files;
        let mut chosen: Vec<&Job<'_>> = jobs.iter().collect();
        chosen.retain(|job| is_due || self.unpacked.get(&job.key()).copied().is_some_and(is_many));
        for job in &chosen {
            self.unpacked.remove(&job.key());
        }
        let mut tasks: Vec<Task> = chosen.into_iter().map(|job| task(session, job)).collect();
        if is_due {
            let all_ms = tasks.iter().filter_map(|task| Some(task.levels.rule()?.all_ms));
            let every_ms = all_ms.min().map_or(EVERY_MS.1, |all_ms| all_ms / 4);
            self.due_ms = now_ms + every_ms.clamp(EVERY_MS.0, EVERY_MS.1);
        } else {
            tasks.iter_mut().for_each(|task| task.levels = rotation::packer());
        }
        if tasks.is_empty() {
            return;
        }
        if is_due && self.was_set(env) {
            let message = "the clock was set: no log is thinned out before `lifeboat run` is begun \
                           anew, or `lifeboat prune` is run";
            session.printer.warning("", message);
            return;
        }
        let env = env.clone();
        self.going = Some(std::thread::spawn(move || thin_all(&env, tasks)));
    }

    fn was_set(&self, env: &Env) -> bool {
        let wall_ms = env.clock.now().as_millisecond() - self.begun_ms.0;
        let steady_ms = env.clock.monotonic_ms() - self.begun_ms.1;
        wall_ms.abs_diff(i64::try_from(steady_ms).unwrap_or(i64::MAX)) > SET_MS
    }

    /// Waits for what goes on: after a signal it ends at its next step.
    pub(super) fn end(self) {
        if let Some(going) = self.going {
            let _ = going.join();
        }
    }
}

/// Thins out all of them now.
pub(super) fn now(session: &Session, env: &Env, jobs: &[Job<'_>]) {
    tell(session, thin_all(env, jobs.iter().map(|job| task(session, job)).collect()));
}

fn task(session: &Session, job: &Job<'_>) -> Task {
    let rule = Rule::of(job.place, job.target, None);
    let mut place = job.place.clone();
    *place.config = place.config.to_prune();
    Task {
        place,
        levels: rule.map_or_else(rotation::packer, |rule| rule.levels()),
        name: job.target.name.clone(),
        identity: job.request.identity.clone(),
        locks: session.folders.locks.clone(),
    }
}

fn thin_all(env: &Env, tasks: Vec<Task>) -> Vec<Done> {
    let mut done = Vec::new();
    for task in tasks {
        if env.proceed().is_err() {
            break;
        }
        let label = task.place.label().to_owned();
        done.push(Done { label, thinned: thin(env, &task), name: task.name });
    }
    done
}

fn thin(env: &Env, task: &Task) -> Result<Thinned> {
    let repository = task.place.open(env)?;
    match repository.folder_of(&task.identity)? {
        Some((folder, _)) => {
            thin_logs(env, &repository, (&folder, &*task.levels), task.locks.as_deref())
        }
        None => Ok(Thinned::default()),
    }
}

fn tell(session: &Session, done: Vec<Done>) {
    for Done { name, label, thinned } in done {
        let (name, printer) = (units::one_line(&name), &session.printer);
        match thinned {
            Ok(thinned) if thinned == Thinned::default() => {}
            Ok(Thinned { merged, deleted, packed, freed_bytes }) => printer.detail(&format!(
                "{name}: its log in {label} was thinned out: {merged} files merged, {packed} put \
                 into packs, {deleted} deleted, {} less",
                units::bytes(freed_bytes)
            )),
            // A backup or a prune goes on; or deleting is somebody else's.
            Err(error) if matches!(error.kind(), Kind::Locked | Kind::Denied) => {
                printer.detail(&format!("{name}: its log in {label} stays as it is: {error}"));
            }
            Err(error) if matches!(error.kind(), Kind::Interrupted | Kind::Terminated) => {}
            Err(error) => {
                printer.warning(&name, &format!("its log in {label} is not thinned out: {error}"));
            }
        }
    }
}
