//! What the configuration gives the agent to do: the jobs that `install` would have timers run,
//! and the processes that never end.

use std::collections::BTreeMap;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::scheduler::{Lane, Limits, Spec};
use crate::commands::install::{Program, jobs_of};
use crate::config::schedule::Schedule;
use crate::session::Session;

/// The job that looks at everything.
pub(super) const WATCH: &str = "watch";
/// It reads what repositories hold, and never their content.
const WATCH_MS_MAX: u64 = 15 * 60_000;

/// All that there is to do.
pub(super) struct Plan {
    /// The jobs of the scheduler.
    pub(super) specs: Vec<Spec>,
    /// What holds for all of them.
    pub(super) limits: Limits,
    /// What runs each job, by its name.
    pub(super) commands: BTreeMap<String, Vec<String>>,
    /// What is to run all the time, by a name.
    pub(super) lasting: BTreeMap<String, Vec<String>>,
    /// The program and the options that every child gets.
    pub(super) base: Vec<String>,
}

impl Plan {
    /// Of the configuration as it is now. `follow` are the options of the follower.
    pub(super) fn of(session: &Session, env: &Env, follow: &[String]) -> Result<Plan> {
        if session.globals.repo.is_some() {
            return Err(Error::new(Kind::Usage, "--repo has no meaning for the whole of `run`")
                .hint("name the database to follow, or the repository in the configuration"));
        }
        let program = Program::of(session)?;
        let config = &session.loaded()?.config;
        let (jobs, _) = jobs_of(session)?;
        let base = base(session, &program);
        let (mut specs, mut commands) = (Vec::new(), BTreeMap::new());
        let agent = config.agent.clone().unwrap_or_default();
        if !config.source.is_empty() {
            let arguments = ["--json", "watch", "--unattended"].map(str::to_owned);
            commands.insert(WATCH.to_owned(), [&base[..], &arguments].concat());
            specs.push(Spec {
                name: WATCH.to_owned(),
                schedule: Schedule::read(agent.watch())
                    .map_err(|why| Error::new(Kind::Usage, format!("`watch` of `agent`: {why}")))?,
                zone: session.surroundings.time_zone.clone(),
                delay_ms_max: 0,
                limit_ms: Some(WATCH_MS_MAX),
                lane: Lane::Watch,
            });
        }
        // A timer would do it where there is no agent.
        for job in jobs.into_iter().filter(|job| job.name != WATCH) {
            let command = [&base[..], &["--json".to_owned()], &job.arguments].concat();
            commands.insert(job.name.clone(), command);
            let lane = match job.name.starts_with("backup-") {
                true => Lane::Backup,
                false => Lane::Upkeep,
            };
            specs.push(Spec {
                zone: session.surroundings.time_zone.clone(),
                delay_ms_max: job.random_delay_s.saturating_mul(1000),
                limit_ms: job.timeout_s.map(|seconds| seconds.saturating_mul(1000)),
                name: job.name,
                schedule: job.schedule,
                lane,
            });
        }
        let mut lasting = BTreeMap::new();
        let mut add = |name: String, arguments: &[String]| {
            lasting.insert(name, [&base[..], arguments].concat());
        };
        let json = session.printer.json().then(|| "--json".to_owned());
        if config.source.values().any(|source| source.sqlite.is_some()) {
            let mut arguments = vec!["run".to_owned(), "--follow".to_owned()];
            arguments.extend(json.clone());
            arguments.extend(follow.iter().cloned());
            add("follow".to_owned(), &arguments);
        }
        for (name, source) in &config.source {
            if source.postgres.as_ref().is_some_and(|postgres| postgres.0.receive) {
                let mut arguments = vec!["wal".into(), "receive".into()];
                arguments.extend(json.clone());
                // A name may begin like an option.
                arguments.extend(["--".to_owned(), name.clone()]);
                add(format!("receive-{name}"), &arguments);
            }
        }
        if agent.listen.is_some() {
            let mut arguments = vec!["web".to_owned(), "serve".to_owned()];
            arguments.extend(json.clone());
            add("web".to_owned(), &arguments);
        }
        let limits = Limits {
            at_once: agent.at_once(env.threads),
            hang_ms: agent.hang_ms(),
            retry: agent.retry(),
            drain_ms: agent.drain_ms(),
        };
        Ok(Plan { specs, limits, commands, lasting, base })
    }
}

/// The same of a session.
pub(crate) fn base_of(session: &Session) -> Result<Vec<String>> {
    Ok(base(session, &Program::of(session)?))
}

/// The program and the options that every child gets.
fn base(session: &Session, program: &Program) -> Vec<String> {
    let mut base = vec![program.binary.clone()];
    if let Some(config) = &program.config {
        base.extend(["--config".to_owned(), config.clone()]);
    }
    for identity in &session.globals.identity {
        base.extend(["--identity".to_owned(), identity.to_string_lossy().into_owned()]);
    }
    base
}
