//! Ports for servers that cannot be told to choose one.
//!
//! A port that the kernel chose and that was given back may be taken before the server has it: by a
//! test beside, or by any connection, whose own end gets a port of the same range. So ports are
//! taken from outside that range, and each is locked for as long as this process lives.
//!
//! Whether somebody has one is asked by a connection, not by listening at it: what listened here
//! for a moment is held longer by a child that a test beside starts just then, and its server
//! refused.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::place::user;

/// Above what needs rights, below what the kernel gives to connections as a rule.
const PORTS: Range<u32> = 10_240..32_768;

/// A port on 127.0.0.1 that nobody has, for this process alone.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let folder = std::env::temp_dir().join(format!("lifeboat-ports-of-tests-{}", user()));
    fs::create_dir_all(&folder).unwrap();
    let given_by_kernel = of_connections();
    let count = PORTS.end - PORTS.start;
    for _ in PORTS {
        // Each process begins elsewhere: most of their numbers are near each other.
        let number = std::process::id().wrapping_mul(97) + ASKED.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number % count;
        if given_by_kernel.contains(&port) {
            continue;
        }
        let lock = File::create(folder.join(port.to_string())).unwrap();
        let port = u16::try_from(port).unwrap();
        if lock.try_lock().is_ok() && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            // Until the process ends.
            std::mem::forget(lock);
            return port;
        }
    }
    panic!("no port is free");
}

/// The ports that the kernel gives to connections, where they are not beyond ours as a rule.
fn of_connections() -> Range<u32> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        // It may give all of them: then there is no better one.
        (Some(first), Some(last)) if first > PORTS.start + 1_000 => first..last + 1,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::*;
    use crate::forks::while_children_start;

    #[test]
    fn no_port_is_given_twice_and_a_server_gets_it() {
        let mut ports = BTreeSet::new();
        while_children_start(|| {
            for _ in 0..50 {
                let port = free_port();
                assert!(!of_connections().contains(&u32::from(port)));
                drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
                ports.insert(port);
            }
        });
        assert_eq!(ports.len(), 50);
    }
}
