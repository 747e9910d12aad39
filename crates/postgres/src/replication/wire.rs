//! Messages on a socket: framing, TLS below it, and waits that can be ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::sync::Arc;

use super::parameters::Place;

/// How often a wait looks whether the run must end.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A message that cannot be sent within this time never will be.
const SEND_TIMEOUT_MS: u64 = 120_000;
const INBOX_BYTES: usize = 512 << 10;
/// No server sends a longer message in answer to what we ask, but for a row of a table: those of
/// COPY begin with this. What is no such server is known by lengths that make no sense.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
const ROW_BYTES_MAX: usize = 1 << 30;
const ROW: u8 = b'd';
/// A peer that is gone without a word is found out: seconds until asked, between, and how often.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 8);

enum Stream {
    Socket(UnixStream),
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Closed,
}

/// A stream of messages in both directions.
pub(super) struct Wire {
    env: Env,
    stream: Stream,
    inbox: Vec<u8>,
    /// Where the next message begins, and where what was read ends.
    begin: usize,
    end: usize,
    /// The body of the newest message.
    body: std::ops::Range<usize>,
    pub(super) outbox: BytesMut,
    /// What is tried, for errors.
    what: String,
}

impl Wire {
    /// Connects, without a word.
    pub(super) fn connect(env: &Env, place: &Place, timeout_ms: u64, what: &str) -> Result<Self> {
        let stream = match place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(|error| {
                    let message = format!("{what}: no server answers at {}", path.display());
                    unreachable(Error::io(Kind::SourceUnavailable, message, error))
                })?;
                let timeouts = stream
                    .set_read_timeout(Some(LOOK_AGAIN))
                    .and_then(|()| stream.set_write_timeout(Some(LOOK_AGAIN)));
                timeouts.map_err(|error| Error::io(Kind::Failed, what, error))?;
                Stream::Socket(stream)
            }
            Place::Host { address, port, .. } => {
                Stream::Plain(connect_host(env, address, *port, timeout_ms, what)?)
            }
        };
        Ok(Wire {
            env: env.clone(),
            stream,
            inbox: vec![0; INBOX_BYTES],
            begin: 0,
            end: 0,
            body: 0..0,
            outbox: BytesMut::new(),
            what: what.to_owned(),
        })
    }

    /// Whether the other end is on another host, so that TLS has a meaning.
    pub(super) fn may_be_tls(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    /// Asks for TLS and makes it. False where the server has none.
    pub(super) fn upgrade(
        &mut self,
        config: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Result<bool> {
        frontend::ssl_request(&mut self.outbox);
        self.flush()?;
        let timeout_ms = SEND_TIMEOUT_MS;
        let begun_ms = self.env.clock.monotonic_ms();
        let mut answer = [0];
        while self.read_some(&mut answer)? == 0 {
            if self.env.elapsed_ms(begun_ms) > timeout_ms {
                return Err(self.silent());
            }
        }
        match answer[0] {
            b'N' => return Ok(false),
            b'S' => {}
            // A server in trouble says so in a message: its text is read where one is expected.
            other => {
                self.inbox[0] = other;
                (self.begin, self.end) = (0, 1);
                return Ok(false);
            }
        }
        let failed = |error: rustls::Error| {
            let message = format!("{}: TLS failed", self.what);
            Error::new(Kind::SourceUnavailable, message).caused_by(error)
        };
        let server_name = ServerName::try_from(name.to_owned()).map_err(|error| {
            Error::new(Kind::Usage, format!("`{name}` cannot be the name of a host"))
                .caused_by(error)
        })?;
        let client = ClientConnection::new(config, server_name).map_err(failed)?;
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Closed) else {
            return Err(Error::new(Kind::Failed, "TLS is for connections to hosts"));
        };
        let mut tls = Box::new(StreamOwned::new(client, stream));
        while tls.conn.is_handshaking() {
            match tls.conn.complete_io(&mut tls.sock) {
                Ok(_) => {}
                Err(error) if is_wait(&error) => {
                    self.env.proceed()?;
                    if self.env.elapsed_ms(begun_ms) > timeout_ms {
                        return Err(self.silent());
                    }
                }
                Err(error) => {
                    return Err(Error::io(
                        Kind::SourceUnavailable,
                        format!("{}: TLS failed", self.what),
                        error,
                    )
                    .hint("sslmode and sslrootcert say which certificates are accepted"));
                }
            }
        }
        self.stream = Stream::Tls(tls);
        Ok(true)
    }

    /// Sends what is in the outbox.
    pub(super) fn flush(&mut self) -> Result<()> {
        let begun_ms = self.env.clock.monotonic_ms();
        let mut sent = 0;
        while sent < self.outbox.len() {
            let wrote = match &mut self.stream {
                Stream::Socket(stream) => stream.write(&self.outbox[sent..]),
                Stream::Plain(stream) => stream.write(&self.outbox[sent..]),
                Stream::Tls(stream) => stream.write(&self.outbox[sent..]),
                Stream::Closed => return Err(self.closed(None)),
            };
            match wrote {
                Ok(0) => return Err(self.closed(None)),
                Ok(count) => sent += count,
                Err(error) if is_wait(&error) => self.may_wait(begun_ms)?,
                Err(error) => return Err(self.closed(Some(error))),
            }
        }
        self.outbox.clear();
        // TLS keeps what did not fit into the socket.
        while let Stream::Tls(stream) = &mut self.stream {
            match stream.flush() {
                Ok(()) => break,
                Err(error) if is_wait(&error) => self.may_wait(begun_ms)?,
                Err(error) => return Err(self.closed(Some(error))),
            }
        }
        Ok(())
    }

    fn may_wait(&self, begun_ms: u64) -> Result<()> {
        self.env.proceed()?;
        match self.env.elapsed_ms(begun_ms) > SEND_TIMEOUT_MS {
            true => Err(self.silent()),
            false => Ok(()),
        }
    }

    /// The kind of the next message. Without one within that time, nothing; without a limit, it is
    /// waited for as long as the run may go on.
    pub(super) fn receive(&mut self, within_ms: Option<u64>) -> Result<Option<u8>> {
        let mut begun_ms = None;
        loop {
            if let Some(tag) = self.take_message()? {
                return Ok(Some(tag));
            }
            self.make_room()?;
            let (begin, end) = (self.end, self.inbox.len());
            let mut inbox = std::mem::take(&mut self.inbox);
            let read = self.read_some(&mut inbox[begin..end]);
            self.inbox = inbox;
            match read? {
                0 => {}
                count => {
                    self.end += count;
                    continue;
                }
            }
            let now_ms = self.env.clock.monotonic_ms();
            let begun_ms = *begun_ms.get_or_insert(now_ms);
            if within_ms.is_some_and(|limit_ms| now_ms - begun_ms >= limit_ms) {
                return Ok(None);
            }
        }
    }

    /// The body of the newest message.
    pub(super) fn body(&self) -> &[u8] {
        &self.inbox[self.body.clone()]
    }

    /// What is tried, for errors.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    fn take_message(&mut self) -> Result<Option<u8>> {
        let unread = &self.inbox[self.begin..self.end];
        let Some((&tag, rest)) = unread.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
        else {
            return Ok(None);
        };
        let most = if tag == ROW { ROW_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        if !(4..=most).contains(&length) {
            let message = format!("{}: what answers is not a PostgreSQL server", self.what);
            return Err(Error::new(Kind::SourceUnavailable, message)
                .hint("is this the server's port? psql would not understand it either"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.body = self.begin + 5..self.begin + 1 + length;
        self.begin += 1 + length;
        Ok(Some(tag))
    }

    /// Moves what is unread to the front, and grows where one message does not fit.
    fn make_room(&mut self) -> Result<()> {
        let unread = self.end - self.begin;
        let wanted = match self.inbox[self.begin..self.end].get(1..5) {
            Some(length) => {
                length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)).saturating_add(1)
            }
            None => 0,
        };
        // One large message does not keep its room for ever.
        if unread == 0 && self.inbox.len() > 8 * INBOX_BYTES {
            self.inbox.truncate(INBOX_BYTES);
            self.inbox.shrink_to_fit();
            (self.begin, self.end) = (0, 0);
        }
        if self.begin > 0 && (unread == 0 || self.begin + wanted.max(unread + 1) > self.inbox.len())
        {
            self.inbox.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, unread);
        }
        if wanted > self.inbox.len() {
            self.inbox.resize(wanted, 0);
        }
        Ok(())
    }

    /// Reads what is there; nothing where nothing came for a while.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match &mut self.stream {
            Stream::Socket(stream) => stream.read(buffer),
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
            Stream::Closed => return Err(self.closed(None)),
        };
        self.env.proceed()?;
        match read {
            Ok(0) => Err(self.closed(None)),
            Ok(count) => Ok(count),
            Err(error) if is_wait(&error) => Ok(0),
            Err(error) => Err(self.closed(Some(error))),
        }
    }

    fn closed(&self, error: Option<std::io::Error>) -> Error {
        let message = format!("{}: the server closed the connection unexpectedly", self.what);
        let closed = Error::new(Kind::SourceUnavailable, message)
            .hint("the server stopped, or ended our session: see its log");
        match error {
            Some(error) => closed.caused_by(error),
            None => closed,
        }
    }

    fn silent(&self) -> Error {
        let message = format!("{}: the server does not answer", self.what);
        Error::new(Kind::SourceUnavailable, message)
            .hint("does a firewall keep us from it, or does it have too much to do?")
    }
}

fn connect_host(
    env: &Env,
    address: &str,
    port: u16,
    timeout_ms: u64,
    what: &str,
) -> Result<TcpStream> {
    let failed = |error| {
        let message = format!("{what}: cannot reach {address}, port {port}");
        unreachable(Error::io(Kind::SourceUnavailable, message, error))
    };
    let mut last = None;
    for address in (address, port).to_socket_addrs().map_err(failed)? {
        env.proceed()?;
        match TcpStream::connect_timeout(&address, Duration::from_millis(timeout_ms)) {
            Ok(stream) => {
                let set = stream
                    .set_nodelay(true)
                    .and_then(|()| stream.set_read_timeout(Some(LOOK_AGAIN)))
                    .and_then(|()| stream.set_write_timeout(Some(LOOK_AGAIN)));
                set.map_err(failed)?;
                keep_alive(&stream);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(|| std::io::Error::other("the name means no address"))))
}

/// Where this cannot be set, a dead peer is found out later.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt;
    let (idle, between, count) = KEEP_ALIVE;
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, idle);
    let _ = sockopt::set_tcp_keepintvl(stream, between);
    let _ = sockopt::set_tcp_keepcnt(stream, count);
}

fn unreachable(error: Error) -> Error {
    error.hint("is the server running, and is this its address? pg_isready tells")
}

fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Drop for Wire {
    /// Says goodbye, so that the server's log has no complaint; nobody waits for an answer.
    fn drop(&mut self) {
        let mut goodbye = BytesMut::new();
        frontend::terminate(&mut goodbye);
        let _ = match &mut self.stream {
            Stream::Socket(stream) => stream.write(&goodbye),
            Stream::Plain(stream) => stream.write(&goodbye),
            Stream::Tls(stream) => stream.write(&goodbye),
            Stream::Closed => Ok(0),
        };
    }
}
