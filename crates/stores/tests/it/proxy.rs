//! What lies between a store and its server in tests: a proxy that breaks connections.
//!
//! Everything that it does follows from a seed and from the number of the connection, so that a
//! failing run can be had again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// What happens to a connection.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is reset when so many bytes have gone to the server.
    ResetUp(u64),
    /// It is reset when so many bytes have come back: 0 loses a whole answer.
    ResetDown(u64),
    /// It ends in good order after so many bytes have come back.
    CutDown(u64),
    /// Each piece that comes back is held up by so many milliseconds.
    SlowDown(u64),
    /// One bit of what comes back is turned, behind so many bytes.
    FlipDown(u64),
    /// The server is not asked: this is its answer.
    Answer(String),
    /// Requests that begin so are answered by the second text, the others reach the server.
    Instead(&'static str, String),
}

/// What decides on the fault of a connection by its number.
type Plan = dyn Fn(u64) -> Fault + Send + Sync;

/// The proxy; it ends with its value.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    ends: Arc<AtomicBool>,
    pub(crate) connections: Arc<AtomicU64>,
}

/// An answer with a body in XML, as S3 gives it.
pub(crate) fn answer(status: &str, headers: &str, code: &str) -> String {
    let body = format!("<Error><Code>{code}</Code><Message>made up</Message></Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

impl Proxy {
    /// A proxy before that server.
    pub(crate) fn before(
        server: SocketAddr,
        plan: impl Fn(u64) -> Fault + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicU64::new(0));
        let (ended, counted) = (Arc::clone(&ends), Arc::clone(&connections));
        let plan: Arc<Plan> = Arc::new(plan);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let (Ok(client), fault) = (client, plan(number)) else { continue };
                std::thread::spawn(move || serve(client, server, &fault));
            }
        });
        Proxy { address, ends, connections }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn reset(stream: &TcpStream) {
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}

fn serve(mut client: TcpStream, server: SocketAddr, fault: &Fault) {
    if let Fault::Answer(answer) = fault {
        answer_instead(&mut client, answer);
        return;
    }
    let Ok(upstream) = TcpStream::connect(server) else { return };
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    let up_max = if let Fault::ResetUp(bytes) = fault { *bytes } else { u64::MAX };
    let instead = match fault {
        Fault::Instead(begin, answer) => Some((*begin, answer.clone())),
        _ => None,
    };
    let up = std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        let mut left = up_max;
        while let Ok(count @ 1..) = from_client.read(&mut buffer) {
            // A request begins a piece: the next one is sent when the last was answered.
            if let Some((begin, answer)) = &instead
                && buffer[..count].starts_with(begin.as_bytes())
            {
                let _ = from_client.write_all(answer.as_bytes());
                let _ = from_client.shutdown(Shutdown::Both);
                let _ = to_server.shutdown(Shutdown::Both);
                return;
            }
            let share = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= share as u64;
            if to_server.write_all(&buffer[..share]).is_err() || share < count {
                reset(&from_client);
                let _ = to_server.shutdown(Shutdown::Both);
                return;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
    });
    down(&client, upstream, fault);
    let _ = up.join();
}

/// From the server to the client.
fn down(mut client: &TcpStream, mut upstream: TcpStream, fault: &Fault) {
    let mut buffer = vec![0; 16 << 10];
    let mut gone: u64 = 0;
    while let Ok(count) = upstream.read(&mut buffer) {
        let end = match fault {
            Fault::ResetDown(bytes) | Fault::CutDown(bytes) if gone + count as u64 >= *bytes => {
                Some((bytes - gone.min(*bytes)) as usize)
            }
            _ if count == 0 => Some(0),
            _ => None,
        };
        if let Fault::SlowDown(milliseconds) = fault {
            std::thread::sleep(Duration::from_millis(*milliseconds));
        }
        if let Fault::FlipDown(at) = fault
            && (gone..gone + count as u64).contains(at)
        {
            buffer[(at - gone) as usize] ^= 4;
        }
        let share = end.unwrap_or(count).min(count);
        let written = client.write_all(&buffer[..share]);
        gone += share as u64;
        if end.is_some() || written.is_err() {
            break;
        }
    }
    match fault {
        Fault::ResetDown(_) => reset(client),
        _ => drop(client.shutdown(Shutdown::Both)),
    }
    let _ = upstream.shutdown(Shutdown::Both);
}

/// Reads the head of a request and what of its body is there, and answers.
fn answer_instead(client: &mut TcpStream, answer: &str) {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
    let length = |head: &str| -> usize {
        let line = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned)
        });
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        if seen.len() >= end + 4 + length(&head) {
            break;
        }
    }
    let _ = client.write_all(answer.as_bytes());
    let _ = client.shutdown(Shutdown::Both);
}

/// Numbers that follow from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}
