//! What runs behind the backup: a command with our terminal and our signals, or a caller that says
//! on standard input how its own work went.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use super::Args;
use crate::session::Session;
use crate::ui::units;

/// What is run.
#[derive(Debug)]
pub(super) enum Work {
    /// A program with its arguments.
    Command(OsString, Vec<OsString>),
    /// Something in the process that started us.
    Caller,
    /// Nothing yet: the service that starts behind us.
    Service,
}

/// How it ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Whether it can have changed anything.
    pub(super) has_run: bool,
    /// Why it counts as failed; `None` where it succeeded.
    pub(super) failed: Option<String>,
    /// Its exit code.
    pub(super) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
    /// The signal by which we were asked to end meanwhile.
    pub(super) interrupted: Option<u8>,
    /// The caller asks to go back.
    pub(super) wants_rollback: bool,
}

impl Work {
    /// What the arguments ask for.
    pub(super) fn of(args: &Args) -> Result<Work> {
        match (args.command.split_first(), args.caller, args.watch) {
            (Some((program, arguments)), ..) => {
                Ok(Work::Command(program.clone(), arguments.to_vec()))
            }
            (None, true, _) => Ok(Work::Caller),
            (None, false, true) => Ok(Work::Service),
            (None, false, false) => Err(Error::new(Kind::Usage, "there is no command to guard")
                .hint("write it behind `--`: lifeboat guard app.db -- ./migrate up")),
        }
    }

    /// The name of the program without folder and arguments, which may hold secrets.
    pub(super) fn program(&self) -> Option<String> {
        let Work::Command(program, _) = self else { return None };
        let name = Path::new(program).file_name().unwrap_or(OsStr::new("command"));
        Some(units::one_line(&name.to_string_lossy()))
    }

    /// For people: "`migrate`".
    pub(super) fn name(&self) -> String {
        match (self, self.program()) {
            (_, Some(program)) => format!("`{program}`"),
            (Work::Caller, None) => "the caller".to_owned(),
            (_, None) => "the service".to_owned(),
        }
    }

    /// Runs it to its end. Only what keeps us from waiting is an error: it may go on then.
    pub(super) fn run(&self, session: &Session, env: &Env) -> Result<Ended> {
        // First, so that no signal is missed: from here on none of them ends us.
        let signals = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD];
        let mut signals = SignalsInfo::<WithOrigin>::new(signals)
            .map_err(|error| Error::io(Kind::Failed, "cannot receive signals", error))?;
        match self {
            Work::Command(program, arguments) => {
                let mut command = Command::new(program);
                command.args(arguments);
                if session.printer.json() {
                    // Standard output is the result's alone.
                    command.stdout(Stdio::from(io::stderr()));
                }
                match command.spawn() {
                    Ok(child) => wait(child, &mut signals, &self.name()),
                    Err(error) => Ok(not_run(&self.name(), &error)),
                }
            }
            Work::Caller => Ok(listen(io::stdin().lock())),
            Work::Service => {
                env.warn("", "a service runs after this command");
                Ok(Ended::default())
            }
        }
    }
}

fn not_run(name: &str, error: &io::Error) -> Ended {
    let failed = Some(format!("{name} could not be run: {error}"));
    Ended { failed, ..Ended::default() }
}

/// Waits for a child, and passes on what we are asked to do. An interrupt from the keyboard goes
/// to the whole group of processes: the child has had it already.
fn wait(mut child: Child, signals: &mut SignalsInfo<WithOrigin>, name: &str) -> Result<Ended> {
    let failed = |error| Error::io(Kind::Failed, format!("cannot wait for {name}"), error);
    let mut interrupted = None;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(ended(status, interrupted, name));
        }
        for origin in signals.wait() {
            if origin.signal == SIGCHLD {
                continue;
            }
            interrupted = u8::try_from(origin.signal).ok();
            if !matches!(origin.cause, Cause::Kernel) {
                pass_on(&child, origin.signal);
            }
        }
    }
}

fn pass_on(child: &Child, signal: i32) {
    let signal = match signal {
        SIGINT => Signal::INT,
        SIGHUP => Signal::HUP,
        SIGQUIT => Signal::QUIT,
        _ => Signal::TERM,
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It was not waited for, so the number is still its own. It may have ended.
        let _ = kill_process(pid, signal);
    }
}

fn ended(status: ExitStatus, interrupted: Option<u8>, name: &str) -> Ended {
    let (exit_code, signal) = (status.code(), status.signal());
    let failed = match (exit_code, signal) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("{name} ended with exit code {code}")),
        (None, Some(signal)) => Some(format!("{name} was ended by signal {signal}")),
        (None, None) => Some(format!("{name} ended in an unknown way")),
    };
    Ended { has_run: true, failed, exit_code, signal, interrupted, wants_rollback: false }
}

/// What the caller says of its work. One that goes away has failed.
fn listen(mut input: impl BufRead) -> Ended {
    let mut word = String::new();
    let heard = input.read_line(&mut word);
    let mut ended = Ended { has_run: true, ..Ended::default() };
    ended.failed = match (heard, word.trim()) {
        (Ok(_), "succeeded") => None,
        (Ok(_), "failed") => Some("the caller's work failed".to_owned()),
        (Ok(_), "rollback") => {
            ended.wants_rollback = true;
            Some("the caller's work failed".to_owned())
        }
        (Ok(_), "") => Some("the caller went away before its work was done".to_owned()),
        (Ok(_), _) => Some("the caller said neither succeeded nor failed".to_owned()),
        (Err(error), _) => Some(format!("the caller cannot be heard: {error}")),
    };
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_word_is_success() {
        assert_eq!(listen(&b"succeeded\n"[..]).failed, None);
        for words in [&b"failed\n"[..], b"", b"\n", b"success\n", b"succeeded again\n"] {
            assert!(listen(words).failed.is_some(), "{words:?}");
            assert!(!listen(words).wants_rollback);
        }
        assert!(listen(&b"rollback\n"[..]).wants_rollback);
    }

    #[test]
    fn arguments_are_no_part_of_the_name() {
        let work = Work::Command("/usr/bin/mig rate".into(), vec!["--password=x".into()]);
        assert_eq!(work.program().as_deref(), Some("mig rate"));
        assert_eq!(work.name(), "`mig rate`");
    }
}
