//! How the last backup of each source ended, also if it failed: a repository knows only what
//! succeeded.
//!
//! Small files of JSON in our state folder. They are a convenience for `status`: one that cannot
//! be written or read is left out, and never the reason of a failure.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::journal;
use crate::notify::{Ended, in_one};
use crate::private;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::report;

/// How one backup ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The source's name.
    pub(crate) source: String,
    /// The URL of the repository.
    pub(crate) repository: String,
    /// When it began.
    pub(crate) begun_at: Timestamp,
    /// When it ended.
    pub(crate) ended_at: Timestamp,
    /// "committed", "unchanged" or "failed".
    pub(crate) outcome: String,
    /// What failed, with its causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The kind of the failure: "no-space".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// How many bytes it added to the repository; none where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) added_bytes: Option<u64>,
    /// All runs of it on this host, with this one.
    #[serde(default)]
    pub(crate) totals: Totals,
    /// How many runs in a row found no drive there, with this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) missed: u64,
    /// When the first of them was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) missed_since: Option<Timestamp>,
}

/// How the runs of a source into a repository ended, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Totals {
    /// Well.
    pub(crate) done: u64,
    /// Not well.
    pub(crate) failed: u64,
    /// The drive was not there.
    pub(crate) absent: u64,
    /// What they added to the repository, in bytes.
    pub(crate) added_bytes: u64,
}

impl Totals {
    fn with(self, failure: Option<&Error>, added_bytes: Option<u64>) -> Totals {
        let is = |this: bool| u64::from(this);
        let is_absent = failure.is_some_and(|error| error.kind() == Kind::StoreAbsent);
        Totals {
            done: self.done + is(failure.is_none()),
            failed: self.failed + is(failure.is_some() && !is_absent),
            absent: self.absent + is(is_absent),
            added_bytes: self.added_bytes.saturating_add(added_bytes.unwrap_or(0)),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Attempt {
    /// Whether it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.outcome == "failed"
    }
}

/// What stands for a source in a repository in the names of our files: 16 hexadecimal digits.
pub(crate) fn key(env: &Env, target: &Target, url: &str) -> String {
    let location = target.location().unwrap_or_default();
    let id = target.id.map(|id| id.to_string()).unwrap_or_default();
    // A set of files is known by its name, as its list of paths may grow.
    let place = if target.path.is_some() { &location } else { &target.name };
    digest(&[target.source.kind(), &env.host, &id, place, url])
}

/// What stands for those words in the name of a file: 16 hexadecimal digits.
pub(crate) fn digest(words: &[&str]) -> String {
    let text = words.join("\0");
    // FNV-1a: the same in every version of the program.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn path(session: &Session, env: &Env, target: &Target, url: &str) -> Option<PathBuf> {
    let folder = session.folders.locks.as_deref()?.parent()?.join("attempts");
    Some(folder.join(format!("{}.json", key(env, target, url))))
}

/// Writes down how a backup ended.
pub(crate) fn note(
    session: &Session,
    env: &Env,
    target: &Target,
    url: &str,
    begun_at: Timestamp,
    result: &Result<Value>,
) {
    let failure = result.as_ref().err();
    session.note_ended(Ended::of("backup", &target.name, url, failure));
    journal::note(session, env, (target, url), env.clock.now(), failure);
    let Some(path) = path(session, env, target, url) else { return };
    let error = result.as_ref().err();
    let outcome = match result {
        Ok(value) => value["outcome"].as_str().unwrap_or("committed"),
        Err(_) => "failed",
    };
    let absent = error.is_some_and(|error| error.kind() == Kind::StoreAbsent);
    let before = last(session, env, target, url);
    let totals = before.as_ref().map(|before| before.totals).unwrap_or_default();
    let before = before.filter(|before| absent && before.missed > 0);
    // What was there already was not added.
    let adds = matches!(outcome, "committed" | "incremented");
    let stored = result.as_ref().ok().and_then(|value| value["stored_bytes"].as_u64());
    let added_bytes = stored.map(|bytes| if adds { bytes } else { 0 });
    let attempt = Attempt {
        source: target.name.clone(),
        repository: url.to_owned(),
        begun_at,
        ended_at: env.clock.now(),
        outcome: outcome.to_owned(),
        error: error.map(in_one),
        kind: error.map(|error| report::kind_name(error.kind())),
        added_bytes,
        totals: totals.with(error, added_bytes),
        missed: before.as_ref().map_or(0, |before| before.missed) + u64::from(absent),
        missed_since: absent
            .then(|| before.and_then(|before| before.missed_since).unwrap_or(begun_at)),
    };
    let text = serde_json::to_vec_pretty(&attempt).map_err(std::io::Error::from);
    if let Err(error) = text.and_then(|text| private::replace(&path, &text)) {
        let message =
            format!("how this run ended is not written down: {}: {error}", path.display());
        session.printer.detail(&message);
    }
}

/// How the last backup of a source in a repository ended, where that is known.
pub(crate) fn last(session: &Session, env: &Env, target: &Target, url: &str) -> Option<Attempt> {
    let bytes = fs::read(path(session, env, target, url)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
