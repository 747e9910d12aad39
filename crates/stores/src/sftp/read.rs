//! Reading a file with many requests under way. A connection that is lost is replaced, and the
//! reading goes on where it was.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use lifeboat_core::{Error, Kind, Result};

use super::connection::{Connection, Failure};
use super::server::{Answer, Server, Step};
use super::wire::{self, Request, Response};

/// How many bytes are under way at most.
const WINDOW_BYTES: u64 = 4 << 20;

pub(super) struct SftpReader {
    server: Arc<Server>,
    path: String,
    open: Option<Open>,
    /// Where the next byte that is given comes from.
    position: u64,
    /// Where it ends.
    end: u64,
    buffer: Vec<u8>,
    used: usize,
}

/// A file that is open on a connection.
struct Open {
    connection: Connection,
    handle: Vec<u8>,
    /// Requests under way, in order: id and length.
    under_way: VecDeque<(u32, u64)>,
    /// Where the next request begins.
    next: u64,
}

impl SftpReader {
    /// Opens a file. The outer error is one of the connection, the inner one the server's no.
    pub(super) fn open(
        server: &Arc<Server>,
        path: String,
        range: Option<Range<u64>>,
    ) -> Result<Answer<Self>> {
        let range = range.unwrap_or(0..u64::MAX);
        let (position, end) = (range.start, range.end.max(range.start));
        let server = Arc::clone(server);
        let mut reader =
            SftpReader { server, path, open: None, position, end, buffer: Vec::new(), used: 0 };
        let server = Arc::clone(&reader.server);
        Ok(server.steadily(|| reader.ready())?.map(|()| reader))
    }

    fn ready(&mut self) -> Step<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let mut connection = self.server.take()?;
        let path = self.path.as_str();
        let opened = connection.handle(|id| {
            Request::new(wire::OPEN, id).text(path).u32(wire::OPEN_READ).no_attributes()
        });
        let handle = match opened {
            Ok(handle) => handle,
            Err(failure) => {
                if matches!(failure, Failure::Status(_)) {
                    self.server.give(connection);
                }
                return Err(failure);
            }
        };
        let size = connection.send(|id| Request::new(wire::FSTAT, id).text(&handle))?;
        let mut open = Open { connection, handle, under_way: VecDeque::new(), next: self.position };
        // The first piece is asked for in the same breath: most objects are small.
        let first = self.end.min(self.position.saturating_add(open.connection.read_bytes as u64));
        open.ask(first)?;
        let Response::Attributes(found) = open.connection.wait(size)? else {
            return Err(open.connection.unexpected());
        };
        if let Some(bytes) = found.bytes {
            self.end = self.end.min(bytes);
        }
        self.open = Some(open);
        Ok(())
    }

    /// Gets the next bytes; `false` at the end.
    fn more(&mut self) -> Step<bool> {
        self.ready()?;
        let Some(open) = &mut self.open else { return Ok(false) };
        if self.position >= self.end {
            return Ok(false);
        }
        open.ask(self.end)?;
        let Some((id, length)) = open.under_way.pop_front() else { return Ok(false) };
        let data = match open.connection.wait(id) {
            Ok(Response::Data(data)) => data,
            Ok(_) => return Err(open.connection.unexpected()),
            Err(Failure::Status(status)) if status.is(wire::END_OF_FILE) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        if data.is_empty() || data.len() as u64 > length {
            return Err(open.connection.unexpected());
        }
        let got = data.len() as u64;
        (self.buffer, self.used) = (data, 0);
        self.position += got;
        if got < length {
            // The server gave less than was asked for: what follows is asked for anew.
            open.abandon();
            open.next = self.position;
        }
        Ok(true)
    }

    fn more_steadily(&mut self) -> io::Result<bool> {
        let server = Arc::clone(&self.server);
        let answer = server.steadily(|| {
            let more = self.more();
            if matches!(more, Err(Failure::Lost(_))) {
                self.open = None;
            }
            more
        });
        match answer {
            Ok(Ok(more)) => Ok(more),
            Ok(Err(status)) => {
                Err(io::Error::other(server.refused("cannot read", &self.path, &status)))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Open {
    /// Asks for what is not under way yet, up to `end` or as far as the window reaches.
    fn ask(&mut self, end: u64) -> Step<()> {
        let mut window: u64 = self.under_way.iter().map(|(_, length)| length).sum();
        while self.next < end && window < WINDOW_BYTES {
            let length = (end - self.next).min(self.connection.read_bytes as u64);
            let (handle, offset) = (&self.handle, self.next);
            let id = self.connection.send(|id| {
                Request::new(wire::READ, id).text(handle).u64(offset).u32(length as u32)
            })?;
            self.under_way.push_back((id, length));
            self.next += length;
            window += length;
        }
        Ok(())
    }

    fn abandon(&mut self) {
        for (id, _) in self.under_way.drain(..) {
            self.connection.forget(id);
        }
    }
}

impl Read for SftpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() && !self.more_steadily()? {
            return match self.position < self.end && self.end < u64::MAX {
                true => Err(io::Error::other(Error::new(
                    Kind::CheckFailed,
                    format!("{} ended before its size", self.path),
                ))),
                false => Ok(0),
            };
        }
        let count = buffer.len().min(self.buffer.len() - self.used);
        buffer[..count].copy_from_slice(&self.buffer[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

impl Drop for SftpReader {
    fn drop(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.abandon();
            open.connection.close(&open.handle);
            self.server.give(open.connection);
        }
    }
}
