//! What surrounds a backup: the lock against another run, hooks, further attempts, the limit of
//! its time, and the note of how it ended.
//!
//! One backup is one source, in all of its repositories. Its time begins with waiting for another
//! run; when it is over, or a signal came, the hooks `after` and `on_failure` are run all the same.

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
    /// The result of each repository as it is printed, or its failure.
    pub(crate) results: Vec<Result<Value>>,
    /// Why the hook `after` failed: the backup is good all the same.
    pub(crate) after_failed: Option<Error>,
}

/// One attempt in those of the repositories, by their places in the list.
type Make<'a> = dyn FnMut(&Env, &[usize]) -> Vec<Result<Value>> + 'a;

/// Makes a backup in all of those repositories, with all that surrounds it. `make` is one attempt,
/// in the world that it is given; the results are in the order of `urls`.
pub(crate) fn backup(
    session: &Session,
    env: &Env,
    args: &RunArgs,
    (target, urls): (&Target, &[&str]),
    make: &mut Make<'_>,
) -> Ended {
    let begun_at = env.clock.now();
    let limit = args.time_limit.or(target.manner.time_limit);
    let limited = match limit {
        Some(limit) => env.limited(limit.milliseconds, &limit.to_string()),
        None => env.clone(),
    };
    let run = Run { session, args, target, urls, limited };
    let ended = run.go(env, make);
    for (url, result) in urls.iter().zip(&ended.results) {
        let is_skipped = result.as_ref().is_ok_and(|result| result["outcome"] == "skipped");
        // How the other run ends is for that run to write down.
        if !is_skipped {
            attempts::note(session, env, target, url, begun_at, result);
        }
    }
    ended
}

struct Run<'a> {
    session: &'a Session,
    args: &'a RunArgs,
    target: &'a Target,
    urls: &'a [&'a str],
    limited: Env,
}

impl Run<'_> {
    fn go(&self, env: &Env, make: &mut Make<'_>) -> Ended {
        let mut results: Vec<Option<Result<Value>>> = Vec::new();
        let (mut locks, mut open) = (Vec::new(), Vec::new());
        for (index, url) in self.urls.iter().enumerate() {
            results.push(match self.lock(url) {
                Ok(Ok(lock)) => {
                    locks.push(lock);
                    open.push(index);
                    None
                }
                Ok(Err(other)) => Some(Ok(self.skipped(url, &other))),
                Err(error) => Some(Err(error)),
            });
        }
        let mut not_after = None;
        if !open.is_empty() {
            let before = self.hook(&self.limited, Phase::Before, &Variables::new());
            let made = match before {
                Ok(()) => self.attempts(&open, make),
                Err(error) => shared(&error, &open),
            };
            // Whatever ended the run: a hook may have to start an application again.
            let after = self.hook(&env.unstoppable(), Phase::After, &variables_of_all(&made));
            match (after, made.iter().all(Result::is_err)) {
                (Err(error), false) => not_after = Some(after_failed("the backup", error)),
                (Err(error), true) => self.warn(&error),
                (Ok(()), _) => {}
            }
            for (index, result) in open.into_iter().zip(made) {
                results[index] = Some(result);
            }
        }
        let results: Vec<Result<Value>> = results.into_iter().flatten().collect();
        let failed = results.iter().find_map(|result| result.as_ref().err());
        if let Some(error) = failed.or(not_after.as_ref()) {
            self.on_failure(env, error);
        }
        drop(locks);
        Ended { results, after_failed: not_after }
    }

    /// The lock, or the error that says who has it where that is a reason to skip.
    fn lock(&self, url: &str) -> Result<Result<SourceLock, Error>> {
        let folder = self.session.folders.locks.as_deref();
        let name = &self.target.name;
        let what = format!("another backup of `{name}`");
        let file = format!("run-{}", attempts::key(&self.limited, self.target, url));
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

    fn skipped(&self, url: &str, other: &Error) -> Value {
        self.session.progress.clear();
        let name = units::one_line(&self.target.name);
        self.session.printer.note(&format!("{name}: skipped, {other}"));
        json!({
            "source": self.target.name,
            "repository": url,
            "outcome": "skipped",
            "reason": other.message(),
        })
    }

    /// Attempts until it is made somewhere. Where that is in some repositories only, the source is
    /// not read again: the others lack this backup, and a copy of it is what they need.
    fn attempts(&self, open: &[usize], make: &mut Make<'_>) -> Vec<Result<Value>> {
        let configured = self.session.loaded().ok().and_then(|loaded| loaded.config.retry.as_ref());
        let configured = configured.map(|retry| retry.retry());
        let mut retry = self.target.manner.retry.or(configured).unwrap_or(Retry::DEFAULT);
        if let Some(times) = self.args.retries {
            retry.times = times;
        }
        let mut last = Vec::new();
        let ended = retry::run(&self.limited, &retry, &self.target.name, || {
            last = self.attempt(open, make)?;
            match last.iter().all(Result::is_err) {
                // The first stands for all; it is given back when no attempt is left.
                true if !last.is_empty() => last.remove(0),
                _ => Ok(Value::Null),
            }
        });
        match ended {
            Ok(_) => last,
            Err(error) if last.len() + 1 == open.len() => {
                last.insert(0, Err(error));
                last
            }
            Err(error) => shared(&error, open),
        }
    }

    /// One attempt. A prune, or a run that was started in another way, may have the lock of some.
    fn attempt(&self, open: &[usize], make: &mut Make<'_>) -> Result<Vec<Result<Value>>> {
        let mut is_said = false;
        let mut results = make(&self.limited, open);
        loop {
            let is_locked = |result: &Result<Value>| {
                result.as_ref().is_err_and(|error| error.kind() == Kind::Locked)
            };
            let locked: Vec<usize> =
                (0..results.len()).filter(|place| is_locked(&results[*place])).collect();
            let Some(Err(first)) = locked.first().map(|place| &results[*place]) else {
                return Ok(results);
            };
            match self.target.manner.overlap {
                Overlap::Fail => return Ok(results),
                Overlap::Wait => {
                    self.wait_for(first, &mut is_said)?;
                    let again: Vec<usize> = locked.iter().map(|place| open[*place]).collect();
                    for (place, result) in locked.into_iter().zip(make(&self.limited, &again)) {
                        results[place] = result;
                    }
                }
                Overlap::Skip => {
                    for place in locked {
                        if let Err(error) = &results[place] {
                            results[place] = Ok(self.skipped(self.urls[open[place]], error));
                        }
                    }
                }
            }
        }
    }

    fn hook(&self, env: &Env, phase: Phase, variables: &Variables) -> Result<()> {
        if self.args.no_hooks {
            return Ok(());
        }
        let mut all = variables.clone();
        all.push(("LIFEBOAT_COMMAND", "backup".to_owned()));
        all.push(("LIFEBOAT_SOURCE", self.target.name.clone()));
        all.push(("LIFEBOAT_REPOSITORY", self.urls.join(" ")));
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

/// The same failure for each of them.
pub(crate) fn shared<T>(error: &Error, of: &[usize]) -> Vec<Result<T>> {
    of.iter().map(|_| Err(error.again())).collect()
}

/// What the results tell the hooks: the first that is good, else the first failure.
fn variables_of_all(results: &[Result<Value>]) -> Variables {
    let good = results.iter().find_map(|result| result.as_ref().ok());
    let failed = results.iter().find_map(|result| result.as_ref().err());
    match (good, failed) {
        (Some(result), _) => variables_of(result),
        (None, Some(error)) => hooks::variables_of(error),
        (None, None) => Variables::new(),
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
