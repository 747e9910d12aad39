//! A server with its connections: opened when needed, kept for the next one, and opened anew where
//! they were lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Result};

use super::address::SftpAddress;
use super::connection::{Connection, Failure};
use super::explain;
use super::wire::{self, Attributes, Request, Response, Status};

/// How long we wait before each further attempt, in milliseconds. A connection that was kept may
/// have ended long ago: the first new one is tried at once.
const DELAYS_MS: &[u64] = &[0, 500, 1_000, 2_000, 4_000];
/// How many connections are kept.
const IDLE_MAX: usize = 8;

/// What a step gives: its result, or the server's no.
pub(super) type Answer<T> = std::result::Result<T, Status>;
/// What may go wrong with one step on one connection.
pub(super) type Step<T> = std::result::Result<T, Failure>;

pub(super) struct Server {
    pub(super) env: Env,
    pub(super) address: SftpAddress,
    idle: Mutex<Vec<Connection>>,
    /// It was reached before. A host that never was may not be there at all: it is given up when
    /// the time is over, and not after as many attempts as one that will come again.
    is_known: AtomicBool,
}

impl Server {
    pub(super) fn new(env: &Env, address: SftpAddress) -> Self {
        Server {
            env: env.clone(),
            address,
            idle: Mutex::default(),
            is_known: AtomicBool::new(false),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one user.
    pub(super) fn take(&self) -> Step<Connection> {
        let kept = self.idle().pop();
        if let Some(connection) = kept {
            return Ok(connection);
        }
        let opened = Connection::open(&self.env, &self.address)?;
        self.is_known.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    /// Keeps a connection for the next user.
    pub(super) fn give(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    /// Repeats a step while it fails because the connection is lost, within bounds.
    pub(super) fn steadily<T>(&self, mut step: impl FnMut() -> Step<T>) -> Result<Answer<T>> {
        let mut delays_ms = DELAYS_MS.iter();
        let begun_ms = self.env.clock.monotonic_ms();
        loop {
            match step() {
                Ok(done) => return Ok(Ok(done)),
                Err(Failure::Status(status)) => return Ok(Err(status)),
                Err(Failure::Ended(error)) => return Err(error),
                Err(Failure::Lost(error)) => {
                    // Those that were kept were lost with it.
                    self.idle().clear();
                    let Some(delay_ms) = delays_ms.next() else { return Err(error) };
                    if self.env.proceed().is_err() && *delay_ms > DELAYS_MS[1] {
                        return Err(error);
                    }
                    let passed_ms = self.env.elapsed_ms(begun_ms) + delay_ms;
                    if passed_ms >= self.address.reach_ms()
                        && !self.is_known.load(Ordering::Relaxed)
                    {
                        return Err(error);
                    }
                    self.env.clock.sleep_ms(*delay_ms);
                }
            }
        }
    }

    /// A step that can be done twice, on any connection.
    pub(super) fn with<T>(
        &self,
        mut step: impl FnMut(&mut Connection) -> Step<T>,
    ) -> Result<Answer<T>> {
        self.steadily(|| {
            let mut connection = self.take()?;
            let done = step(&mut connection);
            if !matches!(done, Err(Failure::Lost(_) | Failure::Ended(_))) {
                self.give(connection);
            }
            done
        })
    }

    /// What is at a path; `None` if there is nothing.
    pub(super) fn stat(&self, path: &str) -> Result<Answer<Option<Attributes>>> {
        let found = self.with(|connection| {
            match connection.call(|id| Request::new(wire::STAT, id).text(path))? {
                Response::Attributes(found) => Ok(found),
                _ => Err(connection.unexpected()),
            }
        })?;
        Ok(match found {
            Ok(found) => Ok(Some(found)),
            Err(status) if status.is(wire::NO_SUCH_FILE) => Ok(None),
            Err(status) => Err(status),
        })
    }

    /// Removes a file; no error if it does not exist.
    pub(super) fn remove(&self, path: &str) -> Result<Answer<()>> {
        let removed = self
            .with(|connection| connection.call(|id| Request::new(wire::REMOVE, id).text(path)))?;
        Ok(match removed {
            Err(status) if !status.is(wire::NO_SUCH_FILE) => Err(status),
            _ => Ok(()),
        })
    }

    /// Makes a folder and those above it, 0700.
    pub(super) fn make_folders(&self, path: &str) -> Result<Answer<()>> {
        let make = |path: &str| {
            self.with(|connection| {
                connection.call(|id| Request::new(wire::MKDIR, id).text(path).mode(0o700))
            })
        };
        let mut made = make(path)?;
        if made.as_ref().is_err_and(|status| status.is(wire::NO_SUCH_FILE))
            && let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty())
        {
            if let Err(status) = self.make_folders(above)? {
                return Ok(Err(status));
            }
            made = make(path)?;
        }
        match made {
            Ok(_) => Ok(Ok(())),
            // A server says no more than "failure" of one that is there.
            Err(status) => match self.stat(path)? {
                Ok(Some(found)) if found.is_folder() => Ok(Ok(())),
                _ => Ok(Err(status)),
            },
        }
    }

    /// The server's no to something that we did at a path. One that has no room says so nowhere in
    /// version 3: it is asked.
    pub(super) fn refused(&self, what: &str, path: &str, status: &Status) -> Error {
        let url = self.address.url();
        if status.is(wire::FAILURE)
            && let Ok(Some(space)) = self.space()
            && space.free_bytes < (1 << 20)
        {
            let message = format!("{what} {path} in {url}: its disk is full");
            return Error::new(lifeboat_core::Kind::NoSpace, message)
                .hint("make room there, or choose another repository with --repo");
        }
        explain::status(&url, &format!("{what} {path}"), status)
    }

    /// How full the disk below the repository's folder is.
    pub(super) fn space(&self) -> Result<Option<lifeboat_core::store::Space>> {
        let mut path = self.address.path("");
        loop {
            let answer = self.with(|connection| match connection.abilities.statvfs {
                false => Ok(None),
                true => {
                    let answer = connection.call(|id| {
                        Request::new(wire::EXTENDED, id).text("statvfs@openssh.com").text(&path)
                    })?;
                    match answer {
                        Response::Extended(bytes) => Ok(Some(bytes)),
                        _ => Err(connection.unexpected()),
                    }
                }
            })?;
            match answer {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => return Ok(space_of(&bytes)),
                // A folder that is not there yet will be made in the one above it.
                Err(status) if status.is(wire::NO_SUCH_FILE) => match path.rsplit_once('/') {
                    Some(("", _)) if path != "/" => path = "/".to_owned(),
                    Some((above, _)) if !above.is_empty() => path = above.to_owned(),
                    None if path != "." => path = ".".to_owned(),
                    _ => return Ok(None),
                },
                Err(_) => return Ok(None),
            }
        }
    }
}

/// What `statvfs` says: block size, fragment size, blocks, free ones, those free for us.
fn space_of(bytes: &[u8]) -> Option<lifeboat_core::store::Space> {
    let [_, fragment, blocks, free, available] = wire::numbers::<5>(bytes).ok()?;
    (blocks > 0).then(|| lifeboat_core::store::Space {
        used_bytes: blocks.saturating_sub(free).saturating_mul(fragment),
        free_bytes: available.saturating_mul(fragment),
    })
}
