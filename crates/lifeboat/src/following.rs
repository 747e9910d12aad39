//! How much may be lost of a database that `lifeboat run` follows, as the follower says it: for
//! `status` and `list`, which are other processes.
//!
//! Small files of JSON in our state folder, as those of `attempts` are.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::attempts;
use crate::session::Session;
use crate::ui::units;

/// For so long after its time a look may still come, in milliseconds.
const LATE_MS: u64 = 60_000;

/// What a follower says of a database in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Following {
    /// The backup whose log it adds to.
    pub(crate) base: String,
    /// What was committed within so many milliseconds may be lost with the host.
    pub(crate) rpo_ms: u64,
    /// All pages are compared at each look, because the database is not in WAL mode: the time above
    /// is the time between two of these.
    pub(crate) is_compared: bool,
    /// After so long without a change that is written down.
    pub(crate) heartbeat_ms: u64,
}

/// Where that is written down for a source's folder in a repository; `None` where this host has no
/// folder for it.
pub(crate) fn path(session: &Session, url: &str, folder: &str) -> Option<PathBuf> {
    let below = session.folders.locks.as_deref()?.parent()?.join("following");
    Some(below.join(format!("{}.json", attempts::digest(&[url, folder]))))
}

/// What is said of the log of a backup whose newest state was taken then. `None` where nobody here
/// follows it, or not any more.
pub(crate) fn of(
    session: &Session,
    (url, folder): (&str, &str),
    base: &str,
    (held, now): (Timestamp, Timestamp),
) -> Option<Following> {
    let bytes = fs::read(path(session, url, folder)?).ok()?;
    let following: Following = serde_json::from_slice(&bytes).ok()?;
    let age_ms = u64::try_from(now.duration_since(held).as_millis()).unwrap_or(0);
    let late_ms = following.heartbeat_ms.max(following.rpo_ms.saturating_mul(2));
    let is_alive = age_ms <= late_ms.saturating_add(LATE_MS);
    (following.base == base && is_alive).then_some(following)
}

impl Following {
    /// In words: "RPO 21 s".
    pub(crate) fn told(&self) -> String {
        let rpo = units::duration(self.rpo_ms);
        match self.is_compared {
            true => format!("RPO {rpo}: it is not in WAL mode, its pages are compared that often"),
            false => format!("RPO {rpo}"),
        }
    }

    /// For programs.
    pub(crate) fn as_json(&self) -> Value {
        json!({ "rpo_ms": self.rpo_ms, "pages_are_compared": self.is_compared })
    }

    /// Whether it says much the same as another one: the time that a comparison takes varies.
    pub(crate) fn is_as(&self, other: &Following) -> bool {
        let is_near = self.rpo_ms.abs_diff(other.rpo_ms) <= self.rpo_ms / 4;
        is_near && Following { rpo_ms: other.rpo_ms, ..self.clone() } == *other
    }
}
