//! Waiting until nobody has a database open that is about to be replaced.
//!
//! A service that was stopped may take a moment to end. A follower of ours, as the agent runs one,
//! has the database open at each look and for a while after the last write: nobody needs to be
//! told to stop what lets go by itself.

use std::fs;
use std::path::Path;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::service::{Service, Stopped};
use crate::source::{Engine, Holder};

/// How long others may still have the database open that are about to let it go.
const RELEASE_TIMEOUT_MS: u64 = 10_000;
/// How long others may that were not told to: a program that starts another one shares what it
/// has open for a moment, also what it is about to close.
const OTHERS_TIMEOUT_MS: u64 = 500;
/// How often it is looked.
const LOOK_EVERY_MS: u64 = 20;

/// Stops the service, where there is one, and makes sure that nobody has the place open.
pub(super) fn release<'a>(
    env: &'a Env,
    engine: &dyn Engine,
    service: Option<&'a Service>,
    place: &Path,
) -> Result<Option<Stopped<'a>>> {
    let stopped = service.map(|service| service.stop(env)).transpose()?;
    wait(env, engine, place, stopped.is_some())?;
    Ok(stopped)
}

/// Makes sure that nobody has the place open: others of this program are waited for.
pub(super) fn check_free(env: &Env, engine: &dyn Engine, place: &Path) -> Result<()> {
    wait(env, engine, place, false)
}

/// The same; `are_ending` where others were told to end.
fn wait(env: &Env, engine: &dyn Engine, place: &Path, are_ending: bool) -> Result<()> {
    let ours = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let begun_ms = env.clock.monotonic_ms();
    loop {
        let holders = engine.holders(place)?;
        if holders.is_empty() {
            return Ok(());
        }
        let let_go = are_ending || holders.iter().all(|holder| holder.name == ours.trim_end());
        let timeout_ms = if let_go { RELEASE_TIMEOUT_MS } else { OTHERS_TIMEOUT_MS };
        if env.elapsed_ms(begun_ms) > timeout_ms {
            return Err(held(place, &holders));
        }
        env.pause_ms(LOOK_EVERY_MS)?;
    }
}

/// The error that says who has the database open.
fn held(place: &Path, holders: &[Holder]) -> Error {
    let mut list: Vec<String> =
        holders.iter().map(|holder| format!("{} ({})", holder.name, holder.pid)).collect();
    list.dedup();
    Error::new(
        Kind::Refused,
        format!("{} is open in another process: {}", place.display(), list.join(", ")),
    )
    .hint(
        "stop that process, or configure `service` for the source so that it is stopped and \
         started; or restore elsewhere with --to",
    )
}
