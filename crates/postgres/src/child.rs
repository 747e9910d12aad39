//! Child processes whose errors are kept apart from their data, and which never outlive us.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::failure;

/// So much of standard error is kept: its beginning, and as much of its end.
const STDERR_BYTES_MAX: usize = 32 << 10;
/// What a pipe of anybody's may hold, in bytes; it begins with 64 KiB.
const PIPE_BYTES: usize = 1 << 20;
/// How long to wait for a fuller pipe, in milliseconds.
const GATHER_MS: u64 = 1;
/// How often a run that waits for output looks whether it must end.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How often a child is asked whether it has ended, in milliseconds.
const WAIT_MS: u64 = 10;

/// A child. Killed when dropped before it was waited for.
pub(crate) struct Running {
    child: Option<Child>,
    errors: Option<JoinHandle<String>>,
    what: String,
    program: String,
}

impl Running {
    /// Starts a program; standard input is the caller's to set before. `what` says what is tried,
    /// for errors: "cannot read the database `chat`".
    pub(crate) fn start(mut command: Command, what: impl Into<String>) -> Result<Self> {
        let what = what.into();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
                Error::io(Kind::SourceUnavailable, format!("{what}: cannot run {program}"), error)
            })?;
        let errors = child.stderr.take().map(|stderr| std::thread::spawn(move || kept(stderr)));
        Ok(Running { child: Some(child), errors, what, program })
    }

    /// Its standard output, once. The pipe holds as much as the kernel lets anybody have, so that a
    /// child goes on writing while we compress.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take())?;
        // Where it stays smaller all is slower, and nothing else is.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        Some(stdout)
    }

    /// Reads what comes next of its output; meanwhile a run that must end is ended.
    pub(crate) fn read(
        &self,
        env: &Env,
        stdout: &mut ChildStdout,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let failed = |error| Error::io(Kind::Failed, format!("{}: reading", self.what), error);
        loop {
            env.proceed()?;
            let mut wanted = [PollFd::new(&*stdout, PollFlags::IN)];
            match poll(&mut wanted, Some(&LOOK_AGAIN)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error.into())),
            }
            gather(env, stdout, buffer.len().min(PIPE_BYTES / 2));
            match stdout.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => return read.map_err(failed),
            }
        }
    }

    /// Waits for its end, as [`Running::finish`] does; a run that must end kills it.
    pub(crate) fn finish_within(mut self, env: &Env) -> Result<String> {
        while let Some(child) = self.child.as_mut() {
            let ended = child.try_wait().map_err(|error| {
                Error::io(Kind::Failed, format!("cannot wait for {}", self.program), error)
            })?;
            if ended.is_some() {
                break;
            }
            env.pause_ms(WAIT_MS)?;
        }
        self.finish()
    }

    /// Its standard input, once, where it was piped.
    pub(crate) fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.as_mut().and_then(|child| child.stdin.take())
    }

    /// Waits for its end. Gives back what it said on standard error, or the error that this means.
    pub(crate) fn finish(mut self) -> Result<String> {
        let (status, errors) = self.wait()?;
        match status.success() {
            true => Ok(errors),
            false => {
                Err(failure::of_child(&self.what, &self.program, &status.to_string(), &errors))
            }
        }
    }

    /// What a reader of its output may say instead of an end that came too soon: the child's own
    /// error, if it has one.
    pub(crate) fn blame(mut self, otherwise: Error) -> Error {
        match self.wait() {
            Ok((status, errors)) if !status.success() => {
                failure::of_child(&self.what, &self.program, &status.to_string(), &errors)
            }
            _ => otherwise,
        }
    }

    fn wait(&mut self) -> Result<(std::process::ExitStatus, String)> {
        let Some(mut child) = self.child.take() else {
            return Err(Error::new(Kind::Failed, format!("{} was waited for twice", self.program)));
        };
        drop((child.stdin.take(), child.stdout.take()));
        let status = child.wait().map_err(|error| {
            Error::io(Kind::Failed, format!("cannot wait for {}", self.program), error)
        })?;
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok((status, errors))
    }

    /// Runs a program to its end. Gives back its output, which must not be longer than that.
    pub(crate) fn output(
        command: Command,
        what: impl Into<String>,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, String)> {
        let mut running = Running::start(command, what)?;
        let mut output = Vec::new();
        if let Some(stdout) = running.stdout() {
            let read = stdout.take(bytes_max as u64 + 1).read_to_end(&mut output);
            read.map_err(|error| Error::io(Kind::Failed, running.what.clone(), error))?;
        }
        if output.len() > bytes_max {
            let message = format!("{}: more than {bytes_max} bytes came", running.what);
            return Err(Error::new(Kind::Failed, message));
        }
        let errors = running.finish()?;
        Ok((output, errors))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits as long as the pipe fills, until so many bytes are in it. A program writes small pieces:
/// to be woken for each of them costs more than to read them.
fn gather(env: &Env, stdout: &ChildStdout, wanted_bytes: usize) {
    let mut before = 0;
    // Where it cannot be asked, what is there is read at once.
    while let Ok(there) = rustix::io::ioctl_fionread(stdout) {
        if there >= wanted_bytes as u64 || there == before {
            return;
        }
        before = there;
        env.clock.sleep_ms(GATHER_MS);
    }
}

/// Reads to the end, and keeps the beginning and the end.
fn kept(mut stderr: impl Read) -> String {
    let (mut kept, mut buffer) = (Vec::new(), vec![0_u8; 8 << 10]);
    while let Ok(count) = stderr.read(&mut buffer) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 4 * STDERR_BYTES_MAX {
            let end = kept.len() - STDERR_BYTES_MAX;
            kept.drain(STDERR_BYTES_MAX..end);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
