//! Services that are stopped and started around a cold backup or a restore.
//!
//! A service that was stopped is started again whatever happens: the starting command waits in a
//! process of its own, which runs it as soon as our end of a pipe closes. It closes when we say
//! so, when we fail, and when we are killed.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// How a service is stopped and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name for people: "superchat.service".
    pub name: String,
    /// Program and arguments that stop it.
    pub stop: Vec<String>,
    /// Program and arguments that start it.
    pub start: Vec<String>,
    /// How long each may take.
    pub timeout_ms: u64,
}

impl Service {
    /// A unit of systemd.
    pub fn unit(name: &str) -> Self {
        let command = |verb: &str| vec!["systemctl".into(), verb.into(), name.into()];
        Service {
            name: name.into(),
            stop: command("stop"),
            start: command("start"),
            timeout_ms: 60_000,
        }
    }

    /// Stops it. The value given back starts it again, at the latest when it is dropped.
    pub fn stop<'a>(&'a self, env: &'a Env) -> Result<Stopped<'a>> {
        // The starter comes first: from here on nothing can leave the service stopped.
        let starter = self.spawn_starter()?;
        let stopped = Stopped { service: self, env, starter: Some(starter) };
        let child = spawn(&self.stop, &self.name)?;
        let status = wait(env, child, self.timeout_ms, &self.stop, &self.name)?;
        env.proceed()?;
        match status.success() {
            true => Ok(stopped),
            false => Err(self.failed("stop", &self.stop, &status.to_string())),
        }
    }

    /// A shell that waits for the end of its standard input, then becomes the starting command.
    /// In a process group of its own, so that an interrupt at the terminal does not reach it.
    fn spawn_starter(&self) -> Result<Child> {
        Command::new("/bin/sh")
            .args(["-c", "cat >/dev/null; exec \"$@\"", "sh"])
            .args(&self.start)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let message = format!("cannot prepare to start {} again", self.name);
                Error::io(Kind::Failed, message, error)
            })
    }

    fn failed(&self, verb: &str, command: &[String], why: &str) -> Error {
        Error::new(
            Kind::SourceUnavailable,
            format!("cannot {verb} {}: `{}` ended with {why}", self.name, command.join(" ")),
        )
        .hint(format!("look at the service's log, then {verb} it by hand: {}", command.join(" ")))
    }
}

fn spawn(command: &[String], name: &str) -> Result<Child> {
    let (program, arguments) = command.split_first().ok_or_else(|| {
        Error::new(Kind::Usage, format!("the service {name} has an empty command"))
    })?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let message = format!("cannot run `{}` for the service {name}", command.join(" "));
            Error::io(Kind::SourceUnavailable, message, error)
        })
}

fn wait(
    env: &Env,
    mut child: Child,
    timeout_ms: u64,
    command: &[String],
    name: &str,
) -> Result<ExitStatus> {
    let begun_ms = env.clock.monotonic_ms();
    loop {
        let waited = child.try_wait();
        match waited.map_err(|error| Error::io(Kind::Failed, "cannot wait", error))? {
            Some(status) => return Ok(status),
            None if env.proceed().is_err() => {
                let _ = child.kill();
                let _ = child.wait();
                env.proceed()?;
            }
            None if env.elapsed_ms(begun_ms) > timeout_ms => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(
                    Kind::SourceUnavailable,
                    format!(
                        "`{}` of the service {name} did not end within {timeout_ms} ms",
                        command.join(" ")
                    ),
                ));
            }
            None => env.clock.sleep_ms(10),
        }
    }
}

/// A service that is stopped, and will be started.
pub struct Stopped<'a> {
    service: &'a Service,
    env: &'a Env,
    starter: Option<Child>,
}

impl Stopped<'_> {
    /// Starts it now, and says whether that worked.
    pub fn start(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        let Some(mut starter) = self.starter.take() else { return Ok(()) };
        drop(starter.stdin.take());
        let errors = starter.stderr.take();
        let service = self.service;
        // Whatever ends the run, the service is started.
        let env = self.env.unstoppable();
        let status = wait(&env, starter, service.timeout_ms, &service.start, &service.name)?;
        if status.success() {
            return Ok(());
        }
        let mut text = String::new();
        if let Some(errors) = errors {
            let _ = errors.take(4096).read_to_string(&mut text);
        }
        let why = format!("{status} {}", text.trim());
        Err(service.failed("start", &service.start, why.trim()))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            let hint = error.hint_text().unwrap_or_default();
            self.env.warn(&self.service.name, &format!("{error}; {hint}"));
        }
    }
}
