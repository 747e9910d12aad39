//! A capture: one moment streamed to a sink, with facts, rows and a check of the same moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, FileFacts, Method, SchemaVersion};
use lifeboat_core::owner;
use lifeboat_core::source::{
    ArtifactPlan, Capture, CaptureOptions, CaptureReport, CheckReport, Sink,
};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Map, Value};

use crate::check;
use crate::facts;
use crate::ffi;
use crate::header::{self, Header};
use crate::held::Identity;
use crate::lease::Lease;
use crate::lock_proof::{LOCKS_DROPPED, LockProof};
use crate::pinned_check::{Ended, PinnedCheck};
use crate::rows::{RowCounter, TableRoot};
use crate::schema;
use crate::snapshot::{Hold, Snapshot};
use crate::wal_place::{self, WalPlace};

/// The most that is read at once, in bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A capture of one database.
pub(crate) struct SqliteCapture {
    path: PathBuf,
    options: CaptureOptions,
    page_size: u32,
    page_count: u32,
    facts: Map<String, Value>,
    schema_version: Option<SchemaVersion>,
    tables: Option<Vec<TableRoot>>,
    rows: Arc<RowCounter>,
    file: FileFacts,
    identity: Option<Identity>,
    damage: Vec<String>,
    warnings: Vec<String>,
    deferred: Option<String>,
    check: Option<PinnedCheck>,
    /// Holds a moment that writers wait for.
    lease: Option<Lease<Hold>>,
    proof: LockProof,
    /// Gone when everything was read and nothing needs the moment any longer.
    snapshot: Option<Snapshot>,
    is_written: bool,
}

impl SqliteCapture {
    /// Begins with a moment that is held.
    pub(crate) fn begin(
        env: &Env,
        path: PathBuf,
        mut snapshot: Snapshot,
        options: &CaptureOptions,
    ) -> Result<Self> {
        let header = captured_header(&path, &mut snapshot)?;
        let file = file_facts(&path, snapshot.database())?;
        let mut warnings = Vec::new();
        if let Some(why) = snapshot.why_unconnected() {
            warnings.push(format!("read without SQLite's help: {why}"));
        }
        let tables = tables(&mut snapshot, &header, &mut warnings)?;
        let connection = snapshot.pinned().map(|pinned| pinned.connection());
        let schema_version = facts::schema_version(connection, header.user_version);
        let (page_size, page_count) = (snapshot.page_size(), snapshot.page_count());
        let mut facts = facts::facts(&header, page_count, snapshot.overlaid_pages());
        if let Some(mark) = connection.and_then(ffi::snapshot_mark) {
            facts.insert(wal_place::FACT.to_owned(), WalPlace::of(&mark).to_text().into());
        }
        let mut capture = SqliteCapture {
            options: options.clone(),
            page_size,
            page_count,
            facts,
            schema_version,
            tables,
            rows: Arc::new(RowCounter::new(page_size, page_count)),
            file,
            identity: Identity::of_path(&path).ok(),
            damage: snapshot.damage().to_vec(),
            warnings,
            deferred: None,
            check: None,
            lease: None,
            proof: LockProof::begin(&path),
            snapshot: None,
            is_written: false,
            path,
        };
        capture.begin_check(env, &mut snapshot)?;
        capture.begin_lease(&mut snapshot)?;
        capture.snapshot = Some(snapshot);
        Ok(capture)
    }

    /// Begins the check of this very moment beside the streaming, or says why it cannot be.
    fn begin_check(&mut self, env: &Env, snapshot: &mut Snapshot) -> Result<()> {
        if self.options.check == CheckLevel::None || !self.damage.is_empty() {
            return Ok(());
        }
        if let Some(why) = snapshot.why_unconnected() {
            self.deferred = Some(why.to_owned());
        } else if snapshot.blocks_writers() {
            self.deferred = Some("a check would keep writers from committing".to_owned());
        } else {
            let wal = snapshot.wal_file();
            let proof = self.proof.clone();
            if let Some(pinned) = snapshot.take_pinned() {
                self.check = Some(PinnedCheck::begin(env, pinned, proof, wal, &self.options)?);
            }
        }
        Ok(())
    }

    /// Sees to it that writers wait no longer than they may, whatever the sink does.
    fn begin_lease(&mut self, snapshot: &mut Snapshot) -> Result<()> {
        if snapshot.blocks_writers() && self.options.method != Method::Cold {
            self.lease = Some(Lease::begin(snapshot.take_hold(), self.options.lock_ms_max)?);
        }
        Ok(())
    }

    fn require_held(&self) -> Result<()> {
        if self.lease.as_ref().is_none_or(Lease::is_held) {
            return Ok(());
        }
        Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "{} could not be read within {} ms, the longest that its writers may be kept \
                 waiting",
                self.path.display(),
                self.options.lock_ms_max
            ),
        )
        .hint(
            "let the application use WAL mode (`PRAGMA journal_mode = WAL`), copy the file with \
             `cp --reflink=always` where the file system can and back the copy up, stop its \
             service for the copy (`--method cold`), or raise `lock_ms_max`",
        ))
    }

    /// Proves that the moment was held all the time, until here.
    fn require_locks(&self) -> Result<()> {
        match self.proof.is_held() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Failed,
                format!("{} was let go while it was read: {LOCKS_DROPPED}", self.path.display()),
            )
            .hint("keep the database file itself out of `files`, and run the backup again")),
        }
    }

    fn stream(&self, snapshot: &mut Snapshot, sink: &mut dyn Sink) -> Result<()> {
        let page_bytes = self.page_size as usize;
        let mut page = 1;
        while page <= self.page_count {
            let buffer = sink.buffer();
            let room = (buffer.len().min(BATCH_BYTES_MAX) / page_bytes).max(1);
            let pages = room.min((self.page_count - page) as usize + 1);
            if buffer.len() < page_bytes {
                return Err(Error::new(Kind::Failed, "the sink has no room for one page"));
            }
            let bytes = pages * page_bytes;
            snapshot.read_pages(page, &mut buffer[..bytes])?;
            self.require_held()?;
            sink.advance(bytes)?;
            page += pages as u32;
        }
        Ok(())
    }

    /// What the check found, together with what is wrong with the files as such.
    fn check_report(&mut self) -> Result<Option<CheckReport>> {
        let report = match self.check.take().map(PinnedCheck::end).transpose()? {
            None => None,
            Some(Ended::Report(report)) => Some(report),
            Some(Ended::LetGo(why)) => {
                self.deferred = Some(why);
                None
            }
        };
        // Without a check the damage only marks the backup.
        if self.damage.is_empty() || self.options.check == CheckLevel::None {
            return Ok(report);
        }
        let damage = std::mem::take(&mut self.damage);
        let mut merged = report.unwrap_or_else(|| {
            let mut fresh = check::failed(self.options.check, String::new());
            fresh.damage.clear();
            fresh
        });
        merged.outcome = lifeboat_core::manifest::CheckOutcome::Failed;
        merged.damage.splice(0..0, damage);
        merged.damage.truncate(check::DAMAGE_LINES_MAX);
        Ok(Some(merged))
    }

    fn count_rows(&mut self) -> Option<std::collections::BTreeMap<String, u64>> {
        let counts = self.rows.count(self.tables.as_ref()?);
        if !counts.broken.is_empty() {
            self.damage.push(format!(
                "rows could not be counted, the pages do not hold together: {}",
                counts.broken.join(", ")
            ));
        }
        Some(counts.rows)
    }
}

impl Capture for SqliteCapture {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        vec![ArtifactPlan {
            role: "database",
            extension: "db".into(),
            plain_bytes_estimate: u64::from(self.page_count) * u64::from(self.page_size),
            block_bytes: Some(self.page_size),
            observer: Some(self.rows.clone()),
            file: Some(self.file.clone()),
        }]
    }

    fn write(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()> {
        let snapshot = self.snapshot.take().filter(|_| index == 0);
        let Some(mut snapshot) = snapshot else {
            return Err(Error::new(Kind::Failed, "an artifact of a capture is written once"));
        };
        self.stream(&mut snapshot, sink)?;
        self.require_held()?;
        self.require_locks()?;
        self.is_written = true;
        // Here the moment is let go, except by a check that still reads it.
        drop(snapshot);
        self.lease = None;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<CaptureReport> {
        if !self.is_written {
            return Err(Error::new(Kind::Failed, "a capture is finished after it was written"));
        }
        let check = self.check_report()?;
        let rows = self.count_rows();
        if Identity::of_path(&self.path).ok() != self.identity {
            self.warnings.push(format!(
                "{} was replaced by another file while it was read: the backup shows the old one",
                self.path.display()
            ));
        }
        Ok(CaptureReport {
            taken_at: None,
            facts: self.facts,
            schema_version: self.schema_version,
            rows,
            check,
            check_deferred: self.deferred,
            damage_seen: self.damage,
            parent: None,
            content_digest: None,
            warnings: self.warnings,
        })
    }
}

/// The header of the captured first page, which may differ from that in the file.
fn captured_header(path: &std::path::Path, snapshot: &mut Snapshot) -> Result<Header> {
    let mut first = vec![0; snapshot.page_size() as usize];
    snapshot.read_pages(1, &mut first)?;
    header::require(path, &first)
}

/// The tables of the state: from SQLite, else from the pages of the schema.
fn tables(
    snapshot: &mut Snapshot,
    header: &Header,
    warnings: &mut Vec<String>,
) -> Result<Option<Vec<TableRoot>>> {
    let by_sqlite = snapshot.pinned().map(|pinned| facts::tables(pinned.connection()));
    if let Some(Ok(tables)) = by_sqlite {
        return Ok(Some(tables));
    }
    let tables = schema::tables(snapshot, header)?;
    if tables.is_none() {
        warnings.push("rows were not counted, the schema cannot be read".to_owned());
    }
    Ok(tables)
}

fn file_facts(path: &std::path::Path, file: &fs::File) -> Result<FileFacts> {
    let metadata = file.metadata().map_err(|error| {
        Error::io(Kind::SourceUnavailable, format!("cannot look at {}", path.display()), error)
    })?;
    Ok(FileFacts {
        path: path.to_owned(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        owner: owner::user_name(metadata.uid()),
        group: owner::group_name(metadata.gid()),
        modified_s: metadata.mtime(),
    })
}
