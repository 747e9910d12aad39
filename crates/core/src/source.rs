//! What core must know of a kind of source: how it is captured, checked, and put back.
//!
//! A [`Source`] is one configured thing to protect; an [`Engine`] is what all sources of a kind
//! share, and works without the live source (on a restored file). Core knows neither SQLite nor
//! PostgreSQL: whatever is particular to them is behind these traits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::env::Env;
use crate::error::Result;
use crate::manifest::{
    Artifact, CheckLevel, CheckOutcome, FileFacts, Manifest, Method, SchemaVersion,
};

/// What a run asks of a capture.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// How the moment is obtained.
    pub method: Method,
    /// The check to make on the captured state, while it is pinned, where the engine can.
    pub check: CheckLevel,
    /// How much memory a check may use, in bytes.
    pub check_memory_bytes: u64,
    /// The longest that a lock which blocks writers may be held, in milliseconds.
    pub lock_ms_max: u64,
    /// The size beyond which a `-wal` pinned by us is let go: the check then moves to a scratch
    /// restore. In bytes of growth since the capture began.
    pub wal_growth_bytes_max: u64,
}

/// Sees the plain bytes of an artifact on the worker threads, in no particular order.
pub trait BlockObserver: Send + Sync {
    /// A run of whole blocks at `offset` of the artifact's plain bytes.
    fn observe(&self, offset: u64, plain: &[u8]);
}

/// One artifact that a capture will write.
#[derive(Clone)]
pub struct ArtifactPlan {
    /// What it is within the backup: "database", "files".
    pub role: &'static str,
    /// The name's ending before that of the compression: "db", "files.tar", "ts-16385.tar".
    pub extension: Cow<'static, str>,
    /// Expected plain size in bytes, for progress and for the check of free space.
    pub plain_bytes_estimate: u64,
    /// The size of the blocks whose hashes are kept: a database's page size.
    pub block_bytes: Option<u32>,
    /// Who else wants to see the bytes.
    pub observer: Option<Arc<dyn BlockObserver>>,
    /// Owner, group, mode and time of the file, where the artifact is one file.
    pub file: Option<FileFacts>,
}

/// Where a capture puts its bytes. Full batches go to the worker threads.
pub trait Sink {
    /// Room for at least one block. Fill a part of it, then call [`Sink::advance`].
    fn buffer(&mut self) -> &mut [u8];
    /// Says how many bytes of the buffer were filled. Fails when the store failed meanwhile.
    fn advance(&mut self, bytes: usize) -> Result<()>;
    /// Says that so many bytes of the source were read which an older backup has: nothing of them
    /// is stored, but the run came further.
    fn pass_over(&mut self, _bytes: u64) {}
}

/// A source held at one moment. Dropping it lets the source go, without success.
pub trait Capture {
    /// The artifacts, in the order in which they will be asked for.
    fn artifacts(&self) -> Vec<ArtifactPlan>;
    /// Writes the artifact with that index, once.
    fn write(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()>;
    /// Proves consistency, waits for checks, lets the source go, and reports.
    /// `stored` names what the manifest will say of each artifact's blocks, so that rows can be
    /// counted from the very bytes that are stored.
    fn finish(self: Box<Self>) -> Result<CaptureReport>;
}

/// What a capture found out.
#[derive(Clone, Debug, Default)]
pub struct CaptureReport {
    /// Facts of the engine, for the manifest: page size, journal mode, version.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// The moment that was captured, where it was held before the capture began.
    pub taken_at: Option<Timestamp>,
    /// The version of the application's schema, where a known table holds one.
    pub schema_version: Option<SchemaVersion>,
    /// Rows per table.
    pub rows: Option<BTreeMap<String, u64>>,
    /// The check made on the pinned state; `None` where none was asked for.
    pub check: Option<CheckReport>,
    /// A check was asked for and could not be made on the pinned state: why. Core makes it on a
    /// scratch restore of the stored artifact instead.
    pub check_deferred: Option<String>,
    /// Damage that was seen although no check was asked for: the backup is marked with it.
    pub damage_seen: Vec<String>,
    /// Digest of what was captured, equal for equal content (kind `files`: for `on-change`).
    pub content_digest: Option<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The backup that it builds on, where it holds only what changed since.
    pub parent: Option<Uuid>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// What was asked for.
    pub level: CheckLevel,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// What was run, in the engine's words: "integrity_check", "foreign_key_check".
    pub what: Vec<String>,
    /// The first lines of damage, in the engine's words.
    pub damage: Vec<String>,
    /// What could not be checked and why; violations that are not damage.
    pub notes: Vec<String>,
    /// Rows per table, where the check counted them.
    pub rows: Option<BTreeMap<String, u64>>,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// What stands at the place of a source right now, for plans and messages.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Plain size in bytes of what a backup would read.
    pub plain_bytes: u64,
    /// Lines for a person: "SQLite, WAL mode, 4096-byte pages, 242,613 pages".
    pub description: String,
}

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// Which file it has open.
    pub path: PathBuf,
}

/// What a file says of itself, for the manifest of a backup that was made of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileDescription {
    /// Facts of the engine: page size, journal mode, version.
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// The version of the application's schema, where a known table holds one.
    pub schema_version: Option<SchemaVersion>,
    /// Rows per table, where they can be counted.
    pub rows: Option<BTreeMap<String, u64>>,
    /// Why it holds nothing that is worth a backup, if so: "no table is in it".
    pub empty: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Reads all artifacts of a backup while they go by, in their order, and judges them together:
/// for backups that no single file holds.
pub trait BackupReader {
    /// An artifact begins.
    fn begin(&mut self, artifact: &Artifact) -> Result<()>;
    /// Its next plain bytes.
    fn push(&mut self, plain: &[u8]) -> Result<()>;
    /// It ended.
    fn end(&mut self) -> Result<()>;
    /// All have ended.
    fn finish(self: Box<Self>) -> Result<CheckReport>;
}

/// One thing to protect.
pub trait Source: Send + Sync {
    /// The kind, the key of its engine: "sqlite", "files".
    fn kind(&self) -> &'static str;
    /// Where it lives, links resolved; the label that `source.json` keeps.
    fn location(&self) -> Result<String>;
    /// Looks without holding. Fails as a capture would for what is missing, foreign or empty.
    fn inspect(&self) -> Result<Inspection>;
    /// Digest of the content, equal exactly when nothing changed; `None` where that is not known.
    fn content_digest(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// Takes hold of one moment.
    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>>;
}

/// What all sources of a kind share, without a live source.
pub trait Engine: Send + Sync {
    /// The kind: "sqlite", "files".
    fn kind(&self) -> &'static str;
    /// Whether a file that starts with these bytes is one of ours.
    fn recognizes(&self, first_bytes: &[u8]) -> bool;
    /// Checks a file that nobody else has open. Leaves no file beside it.
    fn check_file(
        &self,
        env: &Env,
        path: &Path,
        level: CheckLevel,
        memory_bytes: u64,
    ) -> Result<CheckReport>;
    /// What reads a backup of this kind instead of [`Engine::check_file`], where its artifacts only
    /// make sense together.
    fn reader(&self, _manifest: &Manifest, _level: CheckLevel) -> Option<Box<dyn BackupReader>> {
        None
    }
    /// Says what is in a file that nobody else has open and that [`Engine::check_file`] passed.
    /// Leaves no file beside it.
    fn describe_file(&self, _path: &Path) -> Result<FileDescription> {
        Ok(FileDescription::default())
    }
    /// Whether a copy of such a file alone may lack what was only in a side file then.
    fn may_lack_side_files(&self, _description: &FileDescription) -> bool {
        false
    }
    /// What to do instead of a restore in place, where there is no such restore.
    fn instead_of_in_place(&self) -> Option<&'static str> {
        None
    }
    /// Makes of a restored artifact what a person needs, in the file itself, before it is checked
    /// and takes its place. Gives what was changed, a line each.
    fn mend_restored(&self, _file: &mut File) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// The side files that belong to `path`, whether they exist or not: `-wal`, `-shm`, `-journal`.
    fn side_files(&self, path: &Path) -> Vec<PathBuf>;
    /// The other processes that have `path` or one of its side files open.
    fn holders(&self, path: &Path) -> Result<Vec<Holder>>;
}
