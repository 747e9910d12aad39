//! What the service manager is told: that we are ready, what we do, that we are alive.
//!
//! One datagram each, to the socket that it names. Where it names none, nothing is sent; that one
//! cannot be sent is no failure of the agent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::world::Surroundings;

/// The variables of the service manager, which no child may have: it would speak for us.
pub(super) const VARIABLES: [&str; 2] = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// The way to the service manager.
pub(super) struct Systemd {
    way: Option<(UnixDatagram, SocketAddr)>,
    watchdog_ms: Option<u64>,
    alive_at_ms: u64,
    status: String,
}

impl Systemd {
    /// As the environment has it.
    pub(super) fn of(surroundings: &Surroundings) -> Self {
        let address = surroundings.variable("NOTIFY_SOCKET").and_then(|name| {
            match name.as_bytes().split_first() {
                Some((b'@', name)) => SocketAddr::from_abstract_name(name).ok(),
                _ => SocketAddr::from_pathname(name).ok(),
            }
        });
        let watchdog = surroundings.variable("WATCHDOG_USEC");
        let watchdog_us: Option<u64> = watchdog.and_then(|text| text.to_str()?.parse().ok());
        Systemd {
            way: address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address))),
            // Twice as often as it must be.
            watchdog_ms: watchdog_us.map(|watchdog_us| watchdog_us / 2_000),
            alive_at_ms: 0,
            status: String::new(),
        }
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.way {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    /// All that was to be begun has begun.
    pub(super) fn ready(&self) {
        self.send("READY=1");
    }

    /// The configuration is read anew, since that reading of the monotonic clock.
    pub(super) fn reloading(&self, monotonic_us: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}"));
    }

    /// The end has begun, and may take so long.
    pub(super) fn stopping(&self, at_most_ms: u64) {
        let at_most_us = at_most_ms.saturating_mul(1000);
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={at_most_us}"));
    }

    /// Whether there is somebody who is told.
    pub(super) fn is_there(&self) -> bool {
        self.way.is_some()
    }

    /// What goes on, for people; sent where it changed.
    pub(super) fn status(&mut self, status: String) {
        if self.status != status {
            self.send(&format!("STATUS={}", status.replace('\n', " ")));
            self.status = status;
        }
    }

    /// Tells that we are alive, when it is time.
    pub(super) fn alive(&mut self, steady_ms: u64) {
        let Some(watchdog_ms) = self.watchdog_ms else { return };
        if steady_ms >= self.alive_at_ms {
            self.send("WATCHDOG=1");
            self.alive_at_ms = steady_ms + watchdog_ms;
        }
    }
}
