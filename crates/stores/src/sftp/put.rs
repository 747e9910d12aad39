//! Writing an object: under a hidden name, with many requests under way, synced, and then named
//! unless something has the name.
//!
//! What the server has not acknowledged is kept: where the connection is lost, it is sent again on
//! a new one, at the same place in the same file.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use lifeboat_core::store::Put;
use lifeboat_core::{Error, Kind, Result};

use super::connection::{Connection, Failure};
use super::read::SftpReader;
use super::server::{Answer, Server, Step};
use super::wire::{self, Request};

/// How many bytes are under way at most.
const WINDOW_BYTES: usize = 4 << 20;

pub(super) struct SftpPut {
    server: Arc<Server>,
    part: String,
    path: String,
    open: Option<(Connection, Vec<u8>)>,
    /// Sent and not acknowledged, in order.
    under_way: VecDeque<Sent>,
    under_way_bytes: usize,
    /// Collected for the next request.
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    /// Of all that was written: whether an object that has the name is this one.
    hash: blake3::Hasher,
    /// The connection was lost while the name was given.
    may_be_named: bool,
    is_removed: bool,
}

struct Sent {
    id: u32,
    offset: u64,
    bytes: Vec<u8>,
}

impl SftpPut {
    /// Creates the hidden file. The inner error is the server's no.
    pub(super) fn create(
        server: &Arc<Server>,
        part: String,
        path: String,
    ) -> Result<Answer<SftpPut>> {
        let mut is_ours = false;
        let opened = server.steadily(|| {
            let mut connection = server.take()?;
            // After a lost answer the file may be there already, and is ours: its name is random.
            let exclusive = if is_ours { 0 } else { wire::OPEN_EXCLUSIVE };
            let flags = wire::OPEN_WRITE | wire::OPEN_CREATE | exclusive;
            let opened = connection
                .handle(|id| Request::new(wire::OPEN, id).text(&part).u32(flags).mode(0o600));
            match opened {
                Ok(handle) => Ok((connection, handle)),
                Err(failure) => {
                    match failure {
                        Failure::Lost(_) => is_ours = true,
                        Failure::Status(_) => server.give(connection),
                        Failure::Ended(_) => {}
                    }
                    Err(failure)
                }
            }
        })?;
        Ok(opened.map(|open| SftpPut {
            server: Arc::clone(server),
            part,
            path,
            open: Some(open),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            buffer: Vec::new(),
            offset: 0,
            hash: blake3::Hasher::new(),
            may_be_named: false,
            is_removed: false,
        }))
    }

    /// A step on the connection; on a new one where it is lost, after what was not acknowledged was
    /// sent again.
    fn steadily<T>(&mut self, mut step: impl FnMut(&mut SftpPut) -> Step<T>) -> Result<Answer<T>> {
        let server = Arc::clone(&self.server);
        server.steadily(|| {
            let done = self.reopen().and_then(|()| step(self));
            if matches!(done, Err(Failure::Lost(_))) {
                self.open = None;
            }
            done
        })
    }

    fn reopen(&mut self) -> Step<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let mut connection = self.server.take()?;
        let part = self.part.as_str();
        let handle = connection.handle(|id| {
            Request::new(wire::OPEN, id).text(part).u32(wire::OPEN_WRITE).no_attributes()
        })?;
        for sent in &mut self.under_way {
            sent.id = send(&mut connection, &handle, sent.offset, &sent.bytes)?;
        }
        self.open = Some((connection, handle));
        Ok(())
    }

    /// Sends what was collected.
    fn send_buffer(&mut self) -> Result<Answer<()>> {
        if self.buffer.is_empty() {
            return Ok(Ok(()));
        }
        let bytes = std::mem::take(&mut self.buffer);
        let (offset, length) = (self.offset, bytes.len());
        self.offset += length as u64;
        let sent = self.steadily(|put| {
            let (connection, handle) = put.parts()?;
            send(connection, handle, offset, &bytes)
        })?;
        match sent {
            Ok(id) => {
                self.under_way.push_back(Sent { id, offset, bytes });
                self.under_way_bytes += length;
                self.settle(WINDOW_BYTES)
            }
            Err(status) => Ok(Err(status)),
        }
    }

    /// Waits until no more than so many bytes are under way.
    fn settle(&mut self, bytes_max: usize) -> Result<Answer<()>> {
        while self.under_way_bytes > bytes_max {
            let acknowledged = self.steadily(|put| {
                let Some(id) = put.under_way.front().map(|sent| sent.id) else { return Ok(()) };
                put.parts()?.0.wait(id).map(drop)
            })?;
            if let Err(status) = acknowledged {
                return Ok(Err(status));
            }
            if let Some(sent) = self.under_way.pop_front() {
                self.under_way_bytes -= sent.bytes.len();
                // Its memory serves the next piece.
                if self.buffer.capacity() == 0 {
                    self.buffer = sent.bytes;
                    self.buffer.clear();
                }
            }
        }
        Ok(Ok(()))
    }

    fn parts(&mut self) -> Step<(&mut Connection, &[u8])> {
        match &mut self.open {
            Some((connection, handle)) => Ok((connection, handle)),
            None => Err(Failure::Ended(Error::new(Kind::Failed, "the object is not open"))),
        }
    }

    fn sync(&mut self) -> Result<Answer<()>> {
        self.steadily(|put| {
            let (connection, handle) = put.parts()?;
            match connection.abilities.fsync {
                false => Ok(()),
                true => connection
                    .call(|id| {
                        Request::new(wire::EXTENDED, id).text("fsync@openssh.com").text(handle)
                    })
                    .map(drop),
            }
        })
    }

    /// Gives the file its name, unless something has it.
    fn publish(&mut self) -> Result<()> {
        let (part, path) = (self.part.clone(), self.path.clone());
        let linked = self.name_by(|connection| match connection.abilities.hardlink {
            false => Ok(false),
            true => connection
                .call(|id| {
                    let request = Request::new(wire::EXTENDED, id);
                    request.text("hardlink@openssh.com").text(&part).text(&path)
                })
                .map(|_| true),
        })?;
        match linked {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // It exists, or the file system knows no links.
            Err(_) => {
                if self.is_taken()? {
                    return self.taken();
                }
            }
        }
        // A rename of version 3 does not overwrite; a look before keeps those to it that would.
        if self.is_taken()? {
            return self.taken();
        }
        let renamed = self.name_by(|connection| {
            connection.call(|id| Request::new(wire::RENAME, id).text(&part).text(&path)).map(drop)
        })?;
        match renamed {
            Ok(()) => {
                // The hidden name is gone: the file goes on under its own.
                self.part.clone_from(&self.path);
                self.is_removed = true;
                Ok(())
            }
            Err(status) => match self.is_taken()? {
                true => self.taken(),
                false => Err(self.server.refused("cannot name", &self.path, &status)),
            },
        }
    }

    fn name_by<T>(
        &mut self,
        mut step: impl FnMut(&mut Connection) -> Step<T>,
    ) -> Result<Answer<T>> {
        self.steadily(|put| {
            let done = step(put.parts()?.0);
            put.may_be_named |= matches!(done, Err(Failure::Lost(_)));
            done
        })
    }

    fn is_taken(&self) -> Result<bool> {
        match self.server.stat(&self.path)? {
            Ok(found) => Ok(found.is_some()),
            Err(status) => Err(self.server.refused("cannot look at", &self.path, &status)),
        }
    }

    /// Something has the name: after a lost answer it may be this very object.
    fn taken(&self) -> Result<()> {
        if self.may_be_named && self.is_this_one()? {
            return Ok(());
        }
        let message = format!("{} in {} exists and is never overwritten", self.path, self.url());
        Err(Error::new(Kind::Refused, message))
    }

    fn is_this_one(&self) -> Result<bool> {
        let Ok(mut reader) = SftpReader::open(&self.server, self.path.clone(), None)? else {
            return Ok(false);
        };
        let mut hash = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hash.finalize() == self.hash.finalize()),
                Ok(count) => hash.update(&buffer[..count]),
                Err(error) => {
                    let message = format!("cannot read {} of {}", self.path, self.url());
                    return Err(Error::io(Kind::StoreUnavailable, message, error));
                }
            };
        }
    }

    fn url(&self) -> String {
        self.server.address.url()
    }

    /// The hidden name goes, whatever happens.
    fn remove_part(&mut self) {
        if !std::mem::replace(&mut self.is_removed, true) {
            let _ = self.server.remove(&self.part);
        }
    }

    fn let_go(&mut self) {
        if let Some((mut connection, handle)) = self.open.take() {
            for sent in self.under_way.drain(..) {
                connection.forget(sent.id);
            }
            connection.close(&handle);
            self.server.give(connection);
        }
    }

    fn write_steadily(&mut self, bytes: &[u8]) -> Result<usize> {
        let most = self.open.as_ref().map_or(32 << 10, |(connection, _)| connection.write_bytes);
        let count = bytes.len().min(most.saturating_sub(self.buffer.len()).max(1));
        self.buffer.extend_from_slice(&bytes[..count]);
        self.hash.update(&bytes[..count]);
        if self.buffer.len() >= most
            && let Err(status) = self.send_buffer()?
        {
            return Err(self.server.refused("cannot write", &self.path, &status));
        }
        Ok(count)
    }
}

fn send(connection: &mut Connection, handle: &[u8], offset: u64, bytes: &[u8]) -> Step<u32> {
    connection.send(|id| Request::new(wire::WRITE, id).text(handle).u64(offset).text(bytes))
}

impl Write for SftpPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.write_steadily(bytes).map_err(|error| match error.kind() {
            // The kind of an `io::Error` is what crosses this border.
            Kind::NoSpace => io::Error::new(io::ErrorKind::StorageFull, error),
            _ => io::Error::other(error),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for SftpPut {
    fn commit(mut self: Box<Self>) -> Result<()> {
        let sent = match self.send_buffer()? {
            Ok(()) => self.settle(0)?,
            refused => refused,
        };
        let synced = match sent {
            Ok(()) => self.sync()?,
            refused => refused,
        };
        if let Err(status) = synced {
            return Err(self.server.refused("cannot write", &self.path, &status));
        }
        self.publish()?;
        // Once more: a journal that holds the new name reaches the disk with its file.
        if let Err(status) = self.sync()? {
            return Err(self.server.refused("cannot sync", &self.path, &status));
        }
        self.let_go();
        self.remove_part();
        Ok(())
    }
}

impl Drop for SftpPut {
    fn drop(&mut self) {
        self.let_go();
        self.remove_part();
    }
}
