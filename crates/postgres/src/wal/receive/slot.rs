//! The replication slot by which a server keeps what was not received, and how much that may be.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::ReceiveOptions;
use crate::client::Client;
use crate::replication::{Lsn, ReplicationConnection};

/// How often a slot is tried to be removed, and the pause between, in milliseconds.
const DROP_TRIES_MAX: u32 = 50;
const DROP_AGAIN_MS: u64 = 100;

/// Removes a slot that nobody uses any more.
pub fn drop_slot(env: &Env, client: &Client, slot: &str) -> Result<()> {
    let what = format!("cannot remove the slot {slot} of {}", client.address().label());
    // The server may not have noticed yet that its last reader, which was us, has gone.
    for _ in 1..DROP_TRIES_MAX {
        if ReplicationConnection::open(env, client, &what)?.drop_slot(slot, false).is_ok() {
            return Ok(());
        }
        env.pause_ms(DROP_AGAIN_MS)?;
    }
    ReplicationConnection::open(env, client, &what)?.drop_slot(slot, false)
}

/// The slot, and from where on it holds on to the log. Versions before 15 cannot be asked.
pub(super) fn find_slot(
    connection: &mut ReplicationConnection,
    options: &ReceiveOptions,
) -> Result<Option<Option<Lsn>>> {
    const READABLE_MAJOR: u32 = 15;
    if connection.server_major() < READABLE_MAJOR {
        return Ok(None);
    }
    Ok(connection.read_slot(&options.slot)?.map(|state| state.restart))
}

/// Makes the slot, if it is not there.
pub(super) fn make_slot(
    connection: &mut ReplicationConnection,
    options: &ReceiveOptions,
) -> Result<()> {
    match connection.create_slot(&options.slot, false, true) {
        Err(error) if format!("{error:?}").contains("already exists") => Ok(()),
        created => created,
    }
}

impl ReceiveOptions {
    /// Whether the slot holds on to more than it may, which fills the server's disk: an error
    /// where it is to go then, else a warning, once.
    pub(super) fn judge_slot(&self, env: &Env, retained: u64, has_warned: &mut bool) -> Result<()> {
        let Some(bytes_max) = self.slot_bytes_max else { return Ok(()) };
        if retained <= bytes_max {
            *has_warned = false;
            return Ok(());
        }
        if self.drop_slot {
            return Err(too_much(&self.slot, retained));
        }
        if !std::mem::replace(has_warned, true) {
            let mib = retained >> 20;
            let message = format!("the slot holds on to {mib} MiB of the log on the server's disk");
            env.warn(&self.slot, &message);
        }
        Ok(())
    }
}

/// The slot must go.
fn too_much(slot: &str, retained: u64) -> Error {
    let mib = retained >> 20;
    Error::new(Kind::NotCovered, format!("the slot {slot} held on to {mib} MiB, more than it may"))
        .hint("it was removed, and the log has a gap: make a base backup, then receive again")
}
