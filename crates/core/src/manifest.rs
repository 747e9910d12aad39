//! The manifest: the JSON that describes a backup and, by existing, commits it.
//!
//! Readers ignore fields they do not know. A field whose meaning an old reader would get wrong
//! needs a new version: see [`format_of`]. `docs/format.md` describes every field.
//! No secret is ever in it.

mod brief;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// The newest version of the manifest that this program reads.
pub const FORMAT_MAX: u32 = 2;

/// The version of a manifest without anything that a program of the first day would get wrong.
const FORMAT_FIRST: u32 = 1;

/// The version of a manifest with sealed artifacts, which a reader of the first would take for
/// compressed bytes.
const FORMAT_SEALED: u32 = 2;

/// The version that a manifest of those artifacts needs: the oldest that tells the truth.
pub fn format_of(artifacts: &[Artifact]) -> u32 {
    match artifacts.iter().any(|artifact| artifact.sealed.is_some()) {
        true => FORMAT_SEALED,
        false => FORMAT_FIRST,
    }
}

/// A manifest larger than this is not one.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// A backup, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this description.
    pub format: u32,
    /// The backup's id.
    pub id: Uuid,
    /// The name that its artifacts share: `superchat-20250108-140000`.
    pub name: String,
    /// Of what.
    pub source: SourceLabel,
    /// How the moment was obtained.
    pub method: Method,
    /// When the capture took hold of the moment that the backup shows.
    pub taken_at: Timestamp,
    /// When the manifest was written.
    pub completed_at: Timestamp,
    /// Whether it may be relied on.
    pub condition: Condition,
    /// Facts of the engine.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Version of the application's schema, where a known table holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<SchemaVersion>,
    /// Rows per table, counted from the bytes that were stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<BTreeMap<String, u64>>,
    /// Digest of the content, for sources that are backed up on change only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_digest: Option<String>,
    /// The stored objects.
    pub artifacts: Vec<Artifact>,
    /// What was checked, on what, with which result.
    pub checks: Vec<Check>,
    /// Milliseconds per phase.
    pub timings_ms: BTreeMap<String, u64>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The id of the backup that it builds on, where it holds only what changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Uuid>,
    /// What it was made for, where that is more than to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// Where it came from, if something else made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// Why it must not be pruned, where someone said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// From when on that pin holds no more; `None` for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_until: Option<Timestamp>,
    /// The program that wrote it: "lifeboat 0.1.0".
    pub tool: String,
}

/// The source as a backup knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLabel {
    /// Its stable id.
    pub id: Uuid,
    /// Its name: the folder in the repository.
    pub name: String,
    /// Its kind: "sqlite", "files".
    pub kind: String,
    /// The host it was on. A label.
    pub host: String,
    /// Where it was. A label.
    pub location: String,
}

/// Whether a backup may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Stored bytes were read back, and what was checked is right.
    Good,
    /// Stored bytes were read back; the database was not checked, as asked.
    Unchecked,
    /// The database was damaged when it was backed up, as is known.
    Damaged,
}

/// What a backup was made for. Retention has rules of its own for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To go back to, should a migration of the schema go wrong.
    Migration,
    /// To keep what a restore was about to replace. Not what "the newest backup" means.
    BeforeRestore,
    /// Something that a newer program knows, and this one treats as any other backup.
    #[serde(other)]
    Other,
}

/// The file of another program that became a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The absolute path that it had.
    pub path: String,
    /// Its file name, which with `sha256` says whether a file was adopted already.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// When it was modified last.
    pub modified_at: Timestamp,
    /// The zone in which its name's time was read: an IANA name.
    pub zone: String,
    /// How `taken_at` was decided.
    pub time_from: TimeFrom,
    /// The version of the schema that its name holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
}

/// How the moment of an adopted backup was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeFrom {
    /// Its name's local time means one moment.
    Name,
    /// Its name's local time came twice when clocks went back; its time of modification chose.
    NameAndModified,
    /// Its name's local time came twice, and nothing tells which it was: the first was taken.
    NameFirstOfTwo,
    /// Its name's local time was skipped when clocks went forward; it was read as if they had not.
    NameInGap,
}

/// Which version the application's schema has, and how we know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion {
    /// Where it was read: "schema_migrations.version", "user_version".
    pub read_from: String,
    /// The version, as text.
    pub version: String,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is within the backup: "database", "dump", "files", "page-hashes".
    pub role: String,
    /// Its file name, in the folder of the manifest.
    pub name: String,
    /// "zstd", "gzip" or "none".
    pub compression: String,
    /// Size as stored.
    pub stored_bytes: u64,
    /// SHA-256 as stored, hexadecimal.
    pub stored_sha256: String,
    /// Size without compression.
    pub plain_bytes: u64,
    /// SHA-256 without compression, hexadecimal.
    pub plain_sha256: String,
    /// The seal around it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Seal>,
    /// Owner, group, mode and time, where it is one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
}

/// The seal around a stored object. What lies below it is compressed as the artifact says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// "age".
    pub format: String,
    /// The recipients: whoever has the key of one of them opens it.
    pub to: Vec<String>,
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// "read_back", "quick_check", "integrity_check", "foreign_key_check".
    pub name: String,
    /// What it looked at: "stored-bytes", "stored-pages", "pinned-snapshot", "scratch-restore",
    /// "before-seal".
    pub on: String,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// Damage, what could not be checked, violations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// How thoroughly a database is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckLevel {
    /// Not at all. The stored bytes are read back and compared all the same.
    None,
    /// The structure: for SQLite `quick_check`.
    Quick,
    /// Everything: for SQLite `integrity_check` and `foreign_key_check`.
    Full,
}

/// How the moment of a backup is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// While the application writes, without stopping it.
    Online,
    /// After a checkpoint that must have been complete.
    Checkpoint,
    /// While the service is stopped.
    Cold,
    /// By another program: its file was adopted. No capture has this method.
    Adopted,
}

/// Owner, group, mode and time of a file that was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Absolute path, links resolved.
    pub path: PathBuf,
    /// Permission bits, such as 0o640.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Owner's name on the host where it was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Group's name on the host where it was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Time of last modification, seconds since 1970.
    pub modified_s: i64,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// Everything that was asked for was checked, and is right.
    Passed,
    /// Damage was found.
    Failed,
    /// No damage was found, but parts could not be checked: see `notes`.
    Partial,
}

impl Manifest {
    /// Reads a manifest. One of a newer format is refused, never guessed at.
    pub fn parse(bytes: &[u8], object: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let damaged = |error: serde_json::Error| {
            Error::new(Kind::CheckFailed, format!("the manifest {object} cannot be read"))
                .caused_by(error)
                .hint("the artifacts beside it can be restored by hand: see README.txt there")
        };
        let read = serde_json::from_slice::<Manifest>(bytes);
        // The version comes first, also where a newer one no longer has our fields.
        let format = match &read {
            Ok(manifest) => manifest.format,
            Err(_) => serde_json::from_slice::<Header>(bytes).map_err(damaged)?.format,
        };
        if format > FORMAT_MAX {
            let message = format!(
                "the manifest {object} has format {format}, this program reads up to {FORMAT_MAX}"
            );
            return Err(Error::new(Kind::Failed, message).hint(
                "use a newer lifeboat, or restore by hand: see README.txt in the repository",
            ));
        }
        read.map_err(damaged)
    }

    /// The manifest as it is stored: JSON for people, with a newline at its end.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest is always JSON");
        bytes.push(b'\n');
        bytes
    }

    /// The artifact with that role.
    pub fn artifact(&self, role: &str) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| artifact.role == role)
    }

    /// Bytes that the backup takes in the repository, without the manifest.
    pub fn stored_bytes(&self) -> u64 {
        self.artifacts.iter().map(|artifact| artifact.stored_bytes).sum()
    }

    /// Bytes that it takes when restored.
    pub fn plain_bytes(&self) -> u64 {
        let restored = self.artifacts.iter().filter(|artifact| artifact.role != "page-hashes");
        restored.map(|artifact| artifact.plain_bytes).sum()
    }
}
