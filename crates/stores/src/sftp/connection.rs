//! One session of SFTP over the pipes of an `ssh` process.
//!
//! A connection has one user at a time, who may have many requests under way. Both pipes are read
//! and written without blocking, so that neither side can wait for the other for ever. A server
//! that is silent too long is given up; `ssh` itself notices one that is dead.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use super::address::SftpAddress;
use super::explain;
use super::wire::{self, Malformed, Request, Response, Status};

/// The version that every server speaks.
const VERSION: u32 = 3;
/// How long a wait for the server is, before we look around.
const SLICE_MS: i64 = 500;
/// So many of them without a byte when the run must end, and the server is given up: what is left
/// is to clean up.
const SLICES_MAX_WHEN_STOPPED: u32 = 20;
/// How much of what `ssh` says is kept.
const SAID_BYTES_MAX: usize = 16 << 10;
/// How much is read from the pipe at once.
const READ_BYTES: usize = 256 << 10;
/// What a packet of data may hold where the server does not say.
const DATA_BYTES: u64 = 32 << 10;
/// The most that we ask for, whatever the server allows.
const DATA_BYTES_MAX: u64 = 256 << 10;
/// How long `ssh` may take to end when it is told to, in milliseconds.
const END_MS: u64 = 1_000;

/// Why a step did not succeed.
pub(super) enum Failure {
    /// The connection is lost; a new one may do it.
    Lost(Error),
    /// The server said no.
    Status(Status),
    /// Another attempt would fail as well.
    Ended(Error),
}

/// What a server can do beyond version 3.
#[derive(Clone, Debug, Default)]
pub(super) struct Abilities {
    pub(super) fsync: bool,
    pub(super) hardlink: bool,
    pub(super) statvfs: bool,
    limits: bool,
}

/// A session.
pub(super) struct Connection {
    env: Env,
    host: String,
    /// So many slices without a byte, and the server is given up.
    slices_max: u32,
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    said: Arc<Mutex<Vec<u8>>>,
    /// What was read and is not taken apart yet, from `start` on.
    inbox: Vec<u8>,
    start: usize,
    /// What one read of the pipe gives.
    chunk: Box<[u8]>,
    /// Answers that came before they were asked for.
    early: HashMap<u32, Response>,
    /// Requests whose answer nobody wants.
    forgotten: HashSet<u32>,
    next_id: u32,
    pub(super) abilities: Abilities,
    /// How many bytes of data a request may ask for, or carry.
    pub(super) read_bytes: usize,
    pub(super) write_bytes: usize,
}

impl Connection {
    /// Starts `ssh` and greets the server.
    pub(super) fn open(env: &Env, address: &SftpAddress) -> Result<Self, Failure> {
        let mut command = Command::new("ssh");
        command.args(address.arguments());
        // A group of its own: a key on the terminal ends us, and we need it to clean up.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Failure::Ended(explain::no_ssh(error)))?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(Failure::Ended(Error::new(Kind::Failed, "ssh has no pipes")));
        };
        // Never waited for: a master of shared connections holds this pipe as long as it lives.
        let heard = Arc::clone(&said);
        std::thread::spawn(move || listen(errors, &heard));
        let mut connection = Connection {
            env: env.clone(),
            host: address.host().to_owned(),
            slices_max: slices(address.silent_ms()),
            child,
            input,
            output,
            said,
            inbox: Vec::new(),
            start: 0,
            chunk: vec![0; READ_BYTES].into(),
            early: HashMap::new(),
            forgotten: HashSet::new(),
            next_id: 0,
            abilities: Abilities::default(),
            read_bytes: DATA_BYTES as usize,
            write_bytes: DATA_BYTES as usize,
        };
        match connection.greet() {
            Ok(()) => Ok(connection),
            Err(Failure::Lost(error)) => Err(connection.explained(address, error)),
            Err(failure) => Err(failure),
        }
    }

    fn greet(&mut self) -> Result<(), Failure> {
        let ends = [ioctl_fionbio(&self.input, true), ioctl_fionbio(&self.output, true)];
        for end in ends {
            end.map_err(|error| self.lost("cannot talk to ssh", Some(error.into())))?;
        }
        self.write_all(&Request::new(wire::INIT, VERSION).into_bytes())?;
        let packet = self.packet()?;
        let (version, extensions) =
            wire::greeting(&packet).map_err(|malformed| self.malformed(malformed))?;
        if version < VERSION {
            let message = format!("{} speaks SFTP {version}, which is too old", self.host);
            return Err(Failure::Ended(Error::new(Kind::StoreUnavailable, message)));
        }
        let has = |name: &str| extensions.iter().any(|extension| extension == name);
        self.abilities = Abilities {
            fsync: has("fsync@openssh.com"),
            hardlink: has("hardlink@openssh.com"),
            statvfs: has("statvfs@openssh.com"),
            limits: has("limits@openssh.com"),
        };
        if self.abilities.limits {
            self.ask_limits()?;
        }
        Ok(())
    }

    fn ask_limits(&mut self) -> Result<(), Failure> {
        let answer = self.call(|id| Request::new(wire::EXTENDED, id).text("limits@openssh.com"))?;
        let Response::Extended(bytes) = answer else { return Ok(()) };
        let limits = wire::numbers::<4>(&bytes).map_err(|malformed| self.malformed(malformed))?;
        let chosen = |limit: u64| match limit {
            0 => DATA_BYTES as usize,
            limit => limit.min(DATA_BYTES_MAX) as usize,
        };
        (self.read_bytes, self.write_bytes) = (chosen(limits[1]), chosen(limits[2]));
        Ok(())
    }

    /// Why `ssh` ended before the greeting: what it said decides whether another attempt helps.
    fn explained(&mut self, address: &SftpAddress, error: Error) -> Failure {
        // What it said last may still be on its way.
        for _ in 0..20 {
            if matches!(self.child.try_wait(), Ok(Some(_))) && !self.words().is_empty() {
                break;
            }
            self.env.clock.sleep_ms(10);
        }
        explain::no_connection(address, &self.words(), error)
    }

    /// What `ssh` said on standard error.
    fn words(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    fn lost(&self, what: &str, cause: Option<io::Error>) -> Failure {
        let words = self.words();
        let words = words.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
        let error = Error::new(Kind::StoreUnavailable, format!("{}: {what}{words}", self.host));
        Failure::Lost(match cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        })
    }

    fn malformed(&self, malformed: Malformed) -> Failure {
        let message = format!("{}: {malformed}", self.host);
        Failure::Ended(Error::new(Kind::StoreUnavailable, message).hint(
            "if a file that the shell reads there prints something, let it do so on a terminal only",
        ))
    }

    /// Sends a request, and says by which id its answer comes.
    pub(super) fn send(&mut self, request: impl FnOnce(u32) -> Request) -> Result<u32, Failure> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.write_all(&request(id).into_bytes())?;
        Ok(id)
    }

    /// Waits for an answer. A status other than success is a failure.
    pub(super) fn wait(&mut self, id: u32) -> Result<Response, Failure> {
        loop {
            if let Some(response) = self.early.remove(&id) {
                return match response {
                    Response::Status(status) if !status.is(wire::OK) => {
                        Err(Failure::Status(status))
                    }
                    response => Ok(response),
                };
            }
            let packet = self.packet()?;
            let (of, response) =
                wire::response(&packet).map_err(|malformed| self.malformed(malformed))?;
            if !self.forgotten.remove(&of) {
                self.early.insert(of, response);
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call(
        &mut self,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<Response, Failure> {
        let id = self.send(request)?;
        self.wait(id)
    }

    /// The handle that a request gives.
    pub(super) fn handle(
        &mut self,
        request: impl FnOnce(u32) -> Request,
    ) -> Result<Vec<u8>, Failure> {
        match self.call(request)? {
            Response::Handle(handle) => Ok(handle),
            _ => Err(self.unexpected()),
        }
    }

    /// An answer that does not belong to its request.
    pub(super) fn unexpected(&self) -> Failure {
        self.malformed("an answer does not belong to its request")
    }

    /// Nobody will wait for this answer.
    pub(super) fn forget(&mut self, id: u32) {
        if self.early.remove(&id).is_none() {
            self.forgotten.insert(id);
        }
    }

    /// Closes a handle, and does not wait for it.
    pub(super) fn close(&mut self, handle: &[u8]) {
        if let Ok(id) = self.send(|id| Request::new(wire::CLOSE, id).text(handle)) {
            self.forget(id);
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let mut idle = 0;
        while !bytes.is_empty() {
            match self.input.write(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    idle = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Answers are taken meanwhile: else both ends would wait with full pipes.
                    if self.poll(true)? && self.receive()? {
                        idle = 0;
                    } else {
                        self.patience(&mut idle)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost("the connection is lost", Some(error))),
            }
        }
        Ok(())
    }

    /// The next packet, without its length.
    fn packet(&mut self) -> Result<Vec<u8>, Failure> {
        let mut idle = 0;
        loop {
            let whole = wire::whole_packet(&self.inbox[self.start..]);
            if let Some(length) = whole.map_err(|malformed| self.malformed(malformed))? {
                let begin = self.start + 4;
                let packet = self.inbox[begin..begin + length].to_vec();
                self.start = begin + length;
                return Ok(packet);
            }
            if self.receive()? {
                idle = 0;
            } else if !self.poll(false)? {
                self.patience(&mut idle)?;
            }
        }
    }

    /// Takes what is in the pipe; `false` if there is nothing.
    fn receive(&mut self) -> Result<bool, Failure> {
        self.inbox.drain(..self.start);
        self.start = 0;
        let read = self.output.read(&mut self.chunk);
        match read {
            Ok(0) => Err(self.lost("the connection is lost", None)),
            Ok(count) => {
                self.inbox.extend_from_slice(&self.chunk[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(self.lost("the connection is lost", Some(error))),
        }
    }

    /// Waits until there is something to read, or room to write; `true` if there is something to
    /// read.
    fn poll(&self, also_write: bool) -> Result<bool, Failure> {
        let slice = Timespec { tv_sec: 0, tv_nsec: SLICE_MS * 1_000_000 };
        let mut ends = vec![PollFd::new(&self.output, PollFlags::IN)];
        if also_write {
            ends.push(PollFd::new(&self.input, PollFlags::OUT));
        }
        match poll(&mut ends, Some(&slice)) {
            Ok(_) => Ok(!ends[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(self.lost("cannot wait for ssh", Some(error.into()))),
        }
    }

    fn patience(&self, idle: &mut u32) -> Result<(), Failure> {
        *idle += 1;
        let most = match self.env.proceed() {
            Ok(()) => self.slices_max,
            Err(_) => self.slices_max.min(SLICES_MAX_WHEN_STOPPED),
        };
        match *idle > most {
            true => Err(self.lost("the server does not answer", None)),
            false => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let mut waited_ms = 0;
        while waited_ms < END_MS && matches!(self.child.try_wait(), Ok(None)) {
            self.env.clock.sleep_ms(2);
            waited_ms += 2;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many waits make up that time.
fn slices(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds / SLICE_MS as u64).unwrap_or(u32::MAX)
}

/// Keeps the end of what `ssh` says.
fn listen(mut errors: impl Read, said: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = errors.read(&mut buffer) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(&buffer[..count]);
        let excess = said.len().saturating_sub(SAID_BYTES_MAX);
        said.drain(..excess);
    }
}
