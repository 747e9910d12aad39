//! What surrounds a backup: the lock against another run, hooks, further attempts, the limit of
//! its time, and the note of how it ended.
//!
//! One backup is one source in one repository. Its time begins with waiting for another run; when
//! it is over, or a signal came, the hooks `after` and `on_failure` are run all the same.

use lifeboat_core::backup::lock::SourceLock;
use lifeboat_core::env::Env;
use lifeboat_core::retry::{self, Retry};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::attempts;
use crate::config::SourceConfig;
use crate::config::runs::Overlap;
use crate::config::values::Period;
use crate::hooks::{self, Hooks, Phase, Variables};
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// Between two looks whether the other run has ended, in milliseconds.
const LOOK_AGAIN_MS: u64 = 500;

/// How the backups of a source are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Its hooks.
    pub(crate) hooks: Hooks,
    /// Further attempts, where the source says something of them.
    retry: Option<Retry>,
    overlap: Overlap,
    time_limit: Option<Period>,
}

impl Manner {
    /// As it is configured.
    pub(crate) fn of(config: &SourceConfig) -> Manner {
        Manner {
            hooks: Hooks::of(config.hooks.as_ref()),
            retry: config.retry.as_ref().map(|retry| retry.retry()),
            overlap: config.overlap.unwrap_or_default(),
            time_limit: config.time_limit.map(|limit| limit.0),
        }
    }
}

/// What the command line says of runs.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct RunArgs {
    /// How often a backup is tried again that failed for a reason that may pass by itself
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// How long each backup may take: 90s, 15m, 2h. Then it ends and leaves nothing
    #[arg(long, value_name = "TIME")]
    pub(crate) time_limit: Option<Period>,
    /// Run no hooks
    #[arg(long)]
    pub(crate) no_hooks: bool,
}

/// How a backup ended, with all around it.
pub(crate) struct Ended {
    /// The result as it is printed, or the failure.
    pub(crate) result: Result<Value>,
    /// Why the hook `after` failed: the backup is good all the same.
    pub(crate) after_failed: Option<Error>,
}

/// Makes a backup with all that surrounds it. `make` is one attempt, in the world that it is given.
pub(crate) fn backup(
    session: &Session,
    env: &Env,
    args: &RunArgs,
    (target, url): (&Target, &str),
    make: &mut dyn FnMut(&Env) -> Result<Value>,
) -> Ended {
    let begun_at = env.clock.now();
    let limit = args.time_limit.or(target.manner.time_limit);
    let limited = match limit {
        Some(limit) => env.limited(limit.milliseconds, &limit.to_string()),
        None => env.clone(),
    };
    let run = Run { session, args, target, url, limited };
    let ended = run.go(env, make);
    let is_skipped = ended.result.as_ref().is_ok_and(|result| result["outcome"] == "skipped");
    // How the other run ends is for that run to write down.
    if !is_skipped {
        attempts::note(session, env, target, url, begun_at, &ended.result);
    }
    ended
}

struct Run<'a> {
    session: &'a Session,
    args: &'a RunArgs,
    target: &'a Target,
    url: &'a str,
    limited: Env,
}

impl Run<'_> {
    fn go(&self, env: &Env, make: &mut dyn FnMut(&Env) -> Result<Value>) -> Ended {
        let lock = match self.lock() {
            Ok(Ok(lock)) => lock,
            Ok(Err(other)) => {
                return Ended { result: Ok(self.skipped(&other)), after_failed: None };
            }
            Err(error) => {
                self.on_failure(env, &error);
                return Ended { result: Err(error), after_failed: None };
            }
        };
        let result = self.hook(&self.limited, Phase::Before, &Variables::new());
        let result = result.and_then(|()| self.attempts(make));
        let variables = match &result {
            Ok(result) => variables_of(result),
            Err(error) => hooks::variables_of(error),
        };
        // Whatever ended the run: a hook may have to start an application again.
        let after = self.hook(&env.unstoppable(), Phase::After, &variables);
        let after_failed = match (after, &result) {
            (Err(error), Ok(_)) => Some(after_failed("the backup", error)),
            (Err(error), Err(_)) => {
                self.warn(&error);
                None
            }
            (Ok(()), _) => None,
        };
        if let Some(error) = result.as_ref().err().or(after_failed.as_ref()) {
            self.on_failure(env, error);
        }
        drop(lock);
        Ended { result, after_failed }
    }

    /// The lock, or the error that says who has it where that is a reason to skip.
    fn lock(&self) -> Result<Result<SourceLock, Error>> {
        let folder = self.session.folders.locks.as_deref();
        let name = &self.target.name;
        let what = format!("another backup of `{name}`");
        let file = format!("run-{}", attempts::key(&self.limited, self.target, self.url));
        let mut is_said = false;
        loop {
            let error = match SourceLock::named(&self.limited, folder, &file, name, &what) {
                Err(error) if error.kind() == Kind::Locked => error,
                taken => return taken.map(Ok),
            };
            match self.target.manner.overlap {
                Overlap::Fail => return Err(error),
                Overlap::Skip => return Ok(Err(error)),
                Overlap::Wait => self.wait_for(&error, &mut is_said)?,
            }
        }
    }

    fn wait_for(&self, other: &Error, is_said: &mut bool) -> Result<()> {
        if !std::mem::replace(is_said, true) {
            self.session.printer.note(&format!("{other}: waiting for its end"));
        }
        let paused = self.limited.pause_ms(LOOK_AGAIN_MS);
        paused.map_err(|error| error.context(format!("{other}, and its end did not come")))
    }

    fn skipped(&self, other: &Error) -> Value {
        self.session.progress.clear();
        let name = units::one_line(&self.target.name);
        self.session.printer.note(&format!("{name}: skipped, {other}"));
        json!({
            "source": self.target.name,
            "repository": self.url,
            "outcome": "skipped",
            "reason": other.message(),
        })
    }

    fn attempts(&self, make: &mut dyn FnMut(&Env) -> Result<Value>) -> Result<Value> {
        let configured = &self.session.loaded()?.config.retry;
        let configured = configured.as_ref().map(|retry| retry.retry());
        let mut retry = self.target.manner.retry.or(configured).unwrap_or(Retry::DEFAULT);
        if let Some(times) = self.args.retries {
            retry.times = times;
        }
        let mut is_said = false;
        retry::run(&self.limited, &retry, &self.target.name, || {
            loop {
                // A prune, or a run that was started in another way, may have it.
                match (make(&self.limited), self.target.manner.overlap) {
                    (Err(error), Overlap::Skip) if error.kind() == Kind::Locked => {
                        return Ok(self.skipped(&error));
                    }
                    (Err(error), Overlap::Wait) if error.kind() == Kind::Locked => {
                        self.wait_for(&error, &mut is_said)?;
                    }
                    (made, _) => return made,
                }
            }
        })
    }

    fn hook(&self, env: &Env, phase: Phase, variables: &Variables) -> Result<()> {
        if self.args.no_hooks {
            return Ok(());
        }
        let mut all = variables.clone();
        all.push(("LIFEBOAT_COMMAND", "backup".to_owned()));
        all.push(("LIFEBOAT_SOURCE", self.target.name.clone()));
        all.push(("LIFEBOAT_REPOSITORY", self.url.to_owned()));
        let subject = units::one_line(&self.target.name);
        self.target.manner.hooks.run(self.session, env, phase, &subject, &all)
    }

    fn on_failure(&self, env: &Env, error: &Error) {
        let variables = hooks::variables_of(error);
        if let Err(error) = self.hook(&env.unstoppable(), Phase::OnFailure, &variables) {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &Error) {
        warn(self.session, &self.target.name, error);
    }
}

/// A failure beside another one, which decides the exit code.
fn warn(session: &Session, subject: &str, error: &Error) {
    session.progress.clear();
    let causes = crate::ui::report::causes(error);
    let causes: String = causes.iter().map(|cause| format!(": {cause}")).collect();
    session.printer.warning(&units::one_line(subject), &format!("{error}{causes}"));
}

/// What a result tells the hooks.
fn variables_of(result: &Value) -> Variables {
    let mut variables = Variables::new();
    for (name, key) in [
        ("LIFEBOAT_OUTCOME", "outcome"),
        ("LIFEBOAT_BACKUP", "backup"),
        ("LIFEBOAT_STORED_BYTES", "stored_bytes"),
        ("LIFEBOAT_PLAIN_BYTES", "plain_bytes"),
    ] {
        match &result[key] {
            Value::String(text) => variables.push((name, text.clone())),
            Value::Number(number) => variables.push((name, number.to_string())),
            _ => {}
        }
    }
    variables
}

/// The hooks of a whole run of a command.
pub(crate) struct RunHooks<'a> {
    session: &'a Session,
    env: &'a Env,
    hooks: Hooks,
    command: &'static str,
}

impl<'a> RunHooks<'a> {
    /// Those of the configuration; none of them with `--no-hooks`.
    pub(crate) fn of(
        session: &'a Session,
        env: &'a Env,
        command: &'static str,
        no_hooks: bool,
    ) -> Result<Self> {
        let config = &session.loaded()?.config;
        let hooks = match no_hooks {
            true => Hooks::default(),
            false => Hooks::of(config.hooks.as_ref()),
        };
        Ok(RunHooks { session, env, hooks, command })
    }

    /// The lines of a plan: those before, and those after.
    pub(crate) fn lines(&self) -> (Vec<String>, Vec<String>) {
        let after = [self.hooks.lines(Phase::After), self.hooks.lines(Phase::OnFailure)].concat();
        (self.hooks.lines(Phase::Before), after)
    }

    /// Runs a command with its hooks around it. Where `before` fails, it is not run at all.
    pub(crate) fn around<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.hooks.is_empty() {
            return work();
        }
        let result = self.run(self.env, Phase::Before, Variables::new()).and_then(|()| work());
        let variables = match &result {
            Ok(_) => vec![("LIFEBOAT_OUTCOME", "done".to_owned())],
            Err(error) => hooks::variables_of(error),
        };
        let env = self.env.unstoppable();
        let after = self.run(&env, Phase::After, variables);
        let ended = match (result, after) {
            (Ok(_), Err(error)) => Err(after_failed(self.command, error)),
            (Err(error), Err(other)) => {
                warn(self.session, self.command, &other);
                Err(error)
            }
            (result, Ok(())) => result,
        };
        if let Err(error) = &ended {
            let failed = self.run(&env, Phase::OnFailure, hooks::variables_of(error));
            if let Err(other) = failed {
                warn(self.session, self.command, &other);
            }
        }
        ended
    }

    fn run(&self, env: &Env, phase: Phase, mut variables: Variables) -> Result<()> {
        variables.push(("LIFEBOAT_COMMAND", self.command.to_owned()));
        self.hooks.run(self.session, env, phase, &format!("`{}`", self.command), &variables)
    }
}

/// The error of a run in which all is good but a hook after it.
pub(crate) fn after_failed(subject: &str, error: Error) -> Error {
    let hint = "the backups are good; mend the hook `after` in the configuration";
    Error::new(Kind::Incomplete, format!("all of {subject} was done, but a hook after it failed"))
        .hint(hint)
        .caused_by(error)
}
