//! Small objects that say something of a backup without touching it: that it goes (a tombstone),
//! that it stays (a pin), what the last prune did (a record), that a migration was begun behind it
//! (a marker) and how that ended (an outcome), how its last drill went.
//!
//! They lie outside the source's folder, under `tombstones/`, `pins/`, `prunes/`, `markers/`,
//! `outcomes/`, `drilled/`, `levels/` and `rested/`, so that nothing in the folder is ever
//! rewritten. Each names the source's id, and the backup's: a name that another backup took
//! meanwhile is not meant.

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::manifest::{Manifest, Purpose, SchemaVersion};
use crate::policy::Hold;

/// The version of these objects that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Says that a backup, or the garbage of an interrupted run, is to be deleted after a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name; of garbage, what its files have in common.
    pub backup: String,
    /// The backup's id; `None` for garbage, which has none.
    pub id: Option<Uuid>,
    /// The artifacts, as files of the source's folder.
    pub files: Vec<String>,
    /// Why it goes.
    pub reason: String,
    /// When this was decided.
    pub marked_at: Timestamp,
    /// When its bytes may be deleted.
    pub delete_after: Timestamp,
}

/// Says that a backup must stay, or that the pin of its manifest has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name.
    pub backup: String,
    /// The backup's id.
    pub id: Uuid,
    /// Whether it must stay. `false` ends the pin that the manifest holds.
    pub pinned: bool,
    /// Why.
    pub reason: String,
    /// From when on it holds no more; `None` for ever.
    pub until: Option<Timestamp>,
    /// When this was said.
    pub pinned_at: Timestamp,
}

/// What a prune did, and on which ground: the next one compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRecord {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// When it ended.
    pub pruned_at: Timestamp,
    /// Digest of the policy that it followed.
    pub policy: String,
    /// The id of its plan.
    pub plan: String,
    /// The newest good backup at that time.
    pub newest_good: String,
    /// The moment that it shows.
    pub newest_good_at: Timestamp,
    /// Names of the backups and the garbage that got a tombstone.
    pub marked: Vec<String>,
    /// Names of those whose bytes were deleted.
    pub deleted: Vec<String>,
}

/// By which rule the logs of a source were thinned out last: the next time compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelsRecord {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// When that was said.
    pub said_at: Timestamp,
    /// The rule.
    #[serde(flatten)]
    pub rule: LevelRule,
}

/// For how long states of a log can be told apart how finely, in milliseconds of their age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelRule {
    /// For so long every state stays.
    pub all_ms: u64,
    /// For so long the last state of each minute stays.
    pub minutely_ms: u64,
    /// For so long the last state of each hour stays.
    pub hourly_ms: u64,
}

/// Says that a migration, or any risky command, was begun behind a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name.
    pub backup: String,
    /// The backup's id.
    pub id: Uuid,
    /// The name of the program that was run, without its folder. Never its arguments, which may
    /// hold secrets. `None` where something else migrates, such as the service that starts.
    pub command: Option<String>,
    /// The version of the schema before.
    pub from_version: Option<SchemaVersion>,
    /// When it was begun.
    pub begun_at: Timestamp,
}

/// Says how a migration ended that was begun behind a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name.
    pub backup: String,
    /// The backup's id.
    pub id: Uuid,
    /// How it ended.
    pub ending: Ending,
    /// The version of the schema that it left, before anything was rolled back.
    pub to_version: Option<SchemaVersion>,
    /// The exit code of the command, where it had one.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it, where one did.
    pub signal: Option<i32>,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The command succeeded, and what had to hold afterwards holds.
    Succeeded,
    /// It did not, and the database is as it left it.
    Failed,
    /// It did not, and the backup was restored.
    RolledBack,
}

/// Says that a run began to store a backup under a name, so that what it leaves if it is killed is
/// known to be ours although its bytes do not show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The name that the backup is to have.
    pub backup: String,
    /// When the run began.
    pub begun_at: Timestamp,
    /// Whether it is a copy of a backup of another repository, which the next copy goes on with.
    #[serde(default, rename = "copy", skip_serializing_if = "std::ops::Not::not")]
    pub is_copy: bool,
}

/// Says that a host with the key opened a sealed backup, and what was found was right: the checks
/// that were made before it was sealed are ones of what is stored since then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name.
    pub backup: String,
    /// The backup's id: of another one of that name it says nothing.
    pub id: Uuid,
    /// How deep it was looked into: "hash", "quick" or "full".
    pub level: String,
    /// When.
    pub verified_at: Timestamp,
    /// On which host.
    pub host: String,
}

impl Proof {
    /// Whether it says something of that backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.id == manifest.id && self.source == manifest.source.id
    }
}

/// Says how the last drill of a backup went: whoever prunes or looks need not read all proofs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// Version of this description.
    pub format: u32,
    /// The source's id.
    pub source: Uuid,
    /// The backup's name.
    pub backup: String,
    /// The backup's id.
    pub id: Uuid,
    /// When the last drill of it ended.
    pub drilled_at: Timestamp,
    /// Whether that one passed.
    pub passed: bool,
    /// When one passed last that no later one has shown to be wrong.
    pub passed_at: Option<Timestamp>,
    /// Why the last one did not pass.
    pub failure: Option<String>,
    /// How long the restore took, with its checks, in milliseconds.
    pub restore_ms: Option<u64>,
    /// The moment that it showed.
    pub moment: Option<Timestamp>,
    /// The object of its proof, if one was stored.
    pub proof: Option<String>,
    /// The SHA-256 of that object.
    pub proof_sha256: Option<String>,
    /// On which host.
    pub host: String,
}

impl Drilled {
    /// Whether it says something of that backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.id == manifest.id && self.source == manifest.source.id
    }
}

/// What an object outside of the sources' folders says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// `tombstones/<folder>/<backup>.json`
    Tombstone,
    /// `pins/<folder>/<backup>.json`
    Pin,
    /// `prunes/<folder>/<time>.json`
    Record,
    /// `markers/<folder>/<backup>.json`
    Marker,
    /// `outcomes/<folder>/<backup>.json`
    Outcome,
    /// `begun/<folder>/<backup>.json`
    Begun,
    /// `proofs/<folder>/<backup>.json`
    Proof,
    /// `drilled/<folder>/<backup>.json`
    Drilled,
    /// `levels/<folder>/<time>.json`
    Levels,
    /// `rested/<folder>/<system>.json`
    Rested,
}

impl MarkKind {
    const ALL: [MarkKind; 10] = [
        MarkKind::Tombstone,
        MarkKind::Pin,
        MarkKind::Record,
        MarkKind::Marker,
        MarkKind::Outcome,
        MarkKind::Begun,
        MarkKind::Proof,
        MarkKind::Drilled,
        MarkKind::Levels,
        MarkKind::Rested,
    ];

    fn word(self) -> &'static str {
        match self {
            MarkKind::Tombstone => "tombstones",
            MarkKind::Pin => "pins",
            MarkKind::Record => "prunes",
            MarkKind::Marker => "markers",
            MarkKind::Outcome => "outcomes",
            MarkKind::Begun => "begun",
            MarkKind::Proof => "proofs",
            MarkKind::Drilled => "drilled",
            MarkKind::Levels => "levels",
            MarkKind::Rested => "rested",
        }
    }

    /// The prefix of all such objects of a source's folder, without a `/` at its end.
    pub fn prefix(self, folder: &str) -> String {
        format!("{}/{folder}", self.word())
    }

    /// The object of that name.
    pub fn object(self, folder: &str, name: &str) -> String {
        format!("{}/{folder}/{name}.json", self.word())
    }

    /// Kind, folder and name of an object that is one of these.
    pub fn of_object(object: &str) -> Option<(MarkKind, &str, &str)> {
        let mut parts = object.split('/');
        let (word, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = MarkKind::ALL.into_iter().find(|kind| kind.word() == word)?;
        let name = file.strip_suffix(".json").filter(|name| !name.is_empty())?;
        parts.next().is_none().then_some((kind, folder, name))
    }
}

/// Whether an object is one of these, or another small note that is no part of a backup: such are
/// deleted whenever they mean nothing any more.
pub fn is_note(object: &str) -> bool {
    let word = object.split_once('/').map_or("", |(word, _)| word);
    let others = ["leases", "retained", "packs"];
    others.contains(&word) || MarkKind::ALL.into_iter().any(|kind| kind.word() == word)
}

/// Reads one of these objects. One of a newer format is refused, never guessed at.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], object: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Header {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::new(Kind::CheckFailed, format!("{object} cannot be read"))
            .caused_by(error)
            .hint("it only says what becomes of a backup: the backup itself is untouched")
    };
    let header: Header = serde_json::from_slice(bytes).map_err(damaged)?;
    if header.format > FORMAT {
        let format = header.format;
        let message = format!("{object} has format {format}, this program reads up to {FORMAT}");
        return Err(Error::new(Kind::Failed, message).hint("use a newer lifeboat"));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// One of these objects as it is stored: JSON for people, with a newline at its end.
pub fn to_bytes(mark: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(mark).expect("our own types are always JSON");
    bytes.push(b'\n');
    bytes
}

impl Tombstone {
    /// Whether it means this backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.backup == manifest.name && self.id == Some(manifest.id)
    }

    /// When the bytes may be deleted: as it says, or sooner where the grace time was `shortened`.
    pub fn due_at(&self, shortened: Option<SignedDuration>) -> Timestamp {
        let sooner = shortened.and_then(|grace| self.marked_at.checked_add(grace).ok());
        sooner.map_or(self.delete_after, |sooner| sooner.min(self.delete_after))
    }

    /// Whether the bytes may be deleted. One that was made after `now` waits: the clock is wrong.
    pub fn is_due(&self, now: Timestamp, shortened: Option<SignedDuration>) -> bool {
        self.due_at(shortened) <= now && self.marked_at < now
    }
}

impl Pin {
    /// What stands for a pin that cannot be read: whatever it said, the backup stays.
    pub fn unreadable(source: Uuid, backup: &str) -> Self {
        Pin {
            format: FORMAT,
            source,
            backup: backup.to_owned(),
            id: Uuid::nil(),
            pinned: true,
            reason: "its pin cannot be read".into(),
            until: None,
            pinned_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// Whether it means this backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.backup == manifest.name && (self.id == manifest.id || self.id.is_nil())
    }

    /// What it holds, if it does not end another.
    pub fn hold(&self) -> Option<Hold> {
        self.pinned.then(|| Hold { reason: self.reason.clone(), until: self.until })
    }
}

impl Marker {
    /// Whether it means this backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.backup == manifest.name && self.id == manifest.id
    }
}

impl Outcome {
    /// Whether it means this backup.
    pub fn means(&self, manifest: &Manifest) -> bool {
        self.backup == manifest.name && self.id == manifest.id
    }
}

impl Ending {
    /// For people: "succeeded".
    pub fn word(self) -> &'static str {
        match self {
            Ending::Succeeded => "succeeded",
            Ending::Failed => "failed",
            Ending::RolledBack => "rolled back",
        }
    }
}

/// A version for people: "v8", or its name where it is no number; "v0" where there is none.
pub fn version_word(version: Option<&SchemaVersion>) -> String {
    match version.map(|version| version.version.as_str()) {
        None => "v0".to_owned(),
        Some(text) if text.starts_with(|first: char| first.is_ascii_digit()) => format!("v{text}"),
        Some(text) => text.to_owned(),
    }
}

/// What a backup's markers say, for people: "before migration v8 -> v9, succeeded". `None` for one
/// of the daily round.
pub fn told(
    backup: &Manifest,
    marker: Option<&Marker>,
    outcome: Option<&Outcome>,
) -> Option<String> {
    let from = match (marker, backup.purpose) {
        (Some(marker), _) => marker.from_version.as_ref(),
        (None, Some(Purpose::Migration)) => backup.schema_version.as_ref(),
        (None, _) => return None,
    };
    let from = version_word(from);
    Some(match outcome {
        None => format!("before migration from {from}"),
        Some(outcome) => {
            let to = version_word(outcome.to_version.as_ref());
            format!("before migration {from} -> {to}, {}", outcome.ending.word())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_again_and_others_are_not_taken_for_them() {
        let object = MarkKind::Pin.object("super chat", "super chat-20250108-140000");
        let found = MarkKind::of_object(&object).unwrap();
        assert_eq!(found, (MarkKind::Pin, "super chat", "super chat-20250108-140000"));
        for other in
            ["pins/a.json", "pins/a/b/c.json", "pins/a/b.db", "pin/a/b.json", "pins/a/.json"]
        {
            assert_eq!(MarkKind::of_object(other), None, "{other}");
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let error = parse::<Pin>(b"{\"format\": 2}", "pins/a/b.json").unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        let error = parse::<Pin>(b"{\"format\": 1}", "pins/a/b.json").unwrap_err();
        assert_eq!(error.kind(), Kind::CheckFailed);
    }
}
