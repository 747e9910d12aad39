//! A proxy that counts what a client asks of a server: requests, and bytes in each direction.
//!
//! It understands just enough of HTTP/1.1 to see where one request ends and the next one begins.
//! Its round is counted and not timed, as it takes time itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// The longest beginning of a request that is waited for.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// How many requests, by method.
    pub(super) requests: BTreeMap<String, u64>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

impl Counts {
    pub(super) fn requests(&self) -> u64 {
        self.requests.values().sum()
    }

    /// "12 (9 GET, 3 PUT)"
    pub(super) fn shown(&self) -> String {
        let parts: Vec<String> =
            self.requests.iter().map(|(method, count)| format!("{count} {method}")).collect();
        format!("{} ({})", self.requests(), parts.join(", "))
    }
}

/// The proxy. It ends with the program.
pub(super) struct Counter {
    pub(super) address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
}

impl Counter {
    pub(super) fn before(server: SocketAddr) -> Result<Counter> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the proxy")?;
        let address = listener.local_addr()?;
        let counts: Arc<Mutex<Counts>> = Arc::default();
        let counted = Arc::clone(&counts);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counts = Arc::clone(&counted);
                // A connection that fails is the client's business: it says so.
                std::thread::spawn(move || drop(serve(client, server, &counts)));
            }
        });
        Ok(Counter { address, counts })
    }

    /// What was counted since the last time.
    pub(super) fn take(&self) -> Counts {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(client: TcpStream, server: SocketAddr, counts: &Arc<Mutex<Counts>>) -> Result<()> {
    let server = TcpStream::connect(server)?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut back_from, mut back_to) = (server.try_clone()?, client.try_clone()?);
    let returned = Arc::clone(counts);
    let back = std::thread::spawn(move || {
        let _ = passed_on(&mut back_from, &mut back_to, |piece| {
            note(&returned, |counts| counts.bytes_received += piece.len() as u64);
        });
        let _ = back_to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (client, server);
    let mut reader = Requests::default();
    let _ = passed_on(&mut from, &mut to, |piece| {
        let begun = reader.push(piece);
        note(counts, |counts| {
            counts.bytes_sent += piece.len() as u64;
            begun.into_iter().for_each(|method| *counts.requests.entry(method).or_default() += 1);
        });
    });
    let _ = to.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}

fn note(counts: &Mutex<Counts>, change: impl FnOnce(&mut Counts)) {
    change(&mut counts.lock().unwrap_or_else(PoisonError::into_inner));
}

fn passed_on(
    from: &mut TcpStream,
    to: &mut TcpStream,
    mut look: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        look(&buffer[..got]);
        to.write_all(&buffer[..got])?;
    }
}

/// Where in a stream of requests we are.
#[derive(Default)]
struct Requests {
    /// A beginning, or a line of a body in chunks, that is not whole yet.
    open: Vec<u8>,
    within: Within,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    #[default]
    Head,
    Body(u64),
    /// The line that says how long the next chunk is.
    ChunkSize,
    /// A chunk with the end of its line.
    Chunk(u64),
    /// The lines behind the last chunk.
    Trailer,
    /// Not HTTP as we know it: nothing more is counted.
    Lost,
}

impl Requests {
    /// Takes the next bytes; the methods of the requests that they begin.
    fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut begun = Vec::new();
        while !bytes.is_empty() {
            match self.within {
                Within::Lost => break,
                Within::Body(left) | Within::Chunk(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[now..];
                    let left = left - now as u64;
                    self.within = match (self.within, left) {
                        (Within::Body(_), 0) => Within::Head,
                        (Within::Body(_), left) => Within::Body(left),
                        (_, 0) => Within::ChunkSize,
                        (_, left) => Within::Chunk(left),
                    };
                }
                Within::Head | Within::ChunkSize | Within::Trailer => {
                    let line_end = bytes.iter().position(|byte| *byte == b'\n');
                    let now = line_end.map_or(bytes.len(), |end| end + 1);
                    self.open.extend_from_slice(&bytes[..now]);
                    bytes = &bytes[now..];
                    if line_end.is_some() {
                        begun.extend(self.line());
                    }
                    if self.open.len() > HEAD_BYTES_MAX {
                        self.within = Within::Lost;
                    }
                }
            }
        }
        begun
    }

    /// A line is whole. The method, if it ends the beginning of a request.
    fn line(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.open).into_owned();
        match self.within {
            Within::Head if text.ends_with("\r\n\r\n") => {
                self.open.clear();
                self.within = after_head(&text);
                return text.split(' ').next().map(str::to_owned);
            }
            Within::ChunkSize => {
                self.open.clear();
                let digits = text.trim().split(';').next().unwrap_or_default();
                self.within = match u64::from_str_radix(digits, 16) {
                    Ok(0) => Within::Trailer,
                    Ok(length) => Within::Chunk(length + 2),
                    Err(_) => Within::Lost,
                };
            }
            Within::Trailer => {
                self.open.clear();
                if text == "\r\n" {
                    self.within = Within::Head;
                }
            }
            _ => {}
        }
        None
    }
}

fn after_head(head: &str) -> Within {
    let value = |wanted: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    if value("transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked")) {
        return Within::ChunkSize;
    }
    match value("content-length").map(|length| length.parse()) {
        None | Some(Ok(0)) => Within::Head,
        Some(Ok(length)) => Within::Body(length),
        Some(Err(_)) => Within::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        PUT /b HTTP/1.1\r\ncontent-length: 10\r\n\r\nGET / \r\n\r\n\
        PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nsum: 1\r\n\r\n\
        HEAD /d HTTP/1.1\r\n\r\n";

    #[test]
    fn requests_are_counted_however_the_stream_is_cut() {
        for piece_bytes in [1, 2, 7, 1000] {
            let mut requests = Requests::default();
            let pieces = STREAM.as_bytes().chunks(piece_bytes);
            let methods: Vec<String> = pieces.flat_map(|piece| requests.push(piece)).collect();
            assert_eq!(methods, ["GET", "PUT", "PUT", "HEAD"], "{piece_bytes}");
        }
    }

    #[test]
    fn a_proxy_passes_on_and_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let counter = Counter::before(listener.local_addr().unwrap()).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 18];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            request
        });
        let mut client = TcpStream::connect(counter.address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.shutdown(Shutdown::Write).unwrap();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(&server.join().unwrap(), b"GET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let counts = counter.take();
        assert_eq!((counts.bytes_sent, counts.shown().as_str()), (18, "1 (1 GET)"));
        assert_eq!(counter.take(), Counts::default());
    }
}
