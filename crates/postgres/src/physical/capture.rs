//! A base backup on its way to the repository.
//!
//! One connection does all of it: it takes a slot of its own, so that the log of the time of the
//! backup stays until it is sent, then the server sends each tablespace, the main data directory
//! with that log, and its manifest. What comes is read while it is passed on.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, CheckOutcome};
use lifeboat_core::source::{
    ArtifactPlan, Capture, CaptureOptions, CaptureReport, CheckReport, Sink,
};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::damage::{self, Judgement};
use super::facts::ClusterFacts;
use super::page_hashes::{HASH_BYTES, HashWriter};
use super::parent::Parent;
use super::relations;
use super::rewrite::Rewrite;
use super::source::ClusterSource;
use super::watch::{Blocks, Watch};
use super::{ROLE_BASE, ROLE_HASHES, ROLE_SERVER_MANIFEST, ROLE_TABLESPACE};
use crate::failure::code_of;
use crate::page::PAGE_BYTES;
use crate::replication::{
    BackupEnd, BackupStart, BaseBackup, BaseBackupOptions, Piece, ReplicationConnection, Tablespace,
};
use crate::server_manifest::ServerManifest;

/// A manifest of the server of about this size is expected.
const MANIFEST_BYTES_ESTIMATE: u64 = 256 << 10;
/// A manifest of the server that is larger is none.
const MANIFEST_BYTES_MAX: usize = 1 << 30;
/// The limits of the server for its rate, in KiB a second.
const RATE_KIB: std::ops::RangeInclusive<u64> = 32..=1_048_576;

/// The code of an error that means: the server is not in the state that this needs.
const NOT_IN_STATE: &str = "55000";

/// What the checks of a physical backup are called.
pub(super) const CHECK_FILES: &str = "server_manifest";
pub(super) const CHECK_PAGES: &str = "page_checksums";

/// What came last of the stream, and has not been taken.
enum Next {
    Archive(usize),
    Manifest,
    End(BackupEnd),
}

/// A cluster that is being sent.
pub(super) struct ClusterCapture<'a> {
    env: &'a Env,
    source: &'a ClusterSource,
    facts: ClusterFacts,
    check: CheckLevel,
    backup: BaseBackup,
    /// What it builds on.
    parent: Option<Arc<Parent>>,
    started_at: Timestamp,
    next: Option<Next>,
    watch: Watch,
    manifest: Vec<u8>,
    warnings: Vec<String>,
}

impl<'a> ClusterCapture<'a> {
    pub(super) fn begin(
        env: &'a Env,
        source: &'a ClusterSource,
        options: &CaptureOptions,
    ) -> Result<Self> {
        let mut connection = source.connect(env)?;
        let facts = ClusterFacts::read(&mut connection, &source.attempt())?;
        let mut warnings = Vec::new();
        hold_log(env, &mut connection, &mut warnings)?;
        if !facts.has_checksums {
            warnings.push(
                "page checksums are off in this cluster: damage of its pages cannot be seen"
                    .to_owned(),
            );
        }
        let parent = fitting_parent(source, &facts, &mut warnings)?;
        let started_at = env.clock.now();
        let (backup, parent) =
            begin_backup(env, source, connection, &facts, parent, &mut warnings)?;
        let pages_are_known = facts.page_bytes == PAGE_BYTES as u64;
        let can_check = facts.has_checksums && pages_are_known;
        let mut watch = Watch::new(can_check, backup.start().position.0);
        if pages_are_known && !facts.knows_changes() {
            let folder = source.options.scratch_folder();
            let older = parent.clone().map(|one| (one, Rewrite::new(folder.to_owned())));
            watch.hash_blocks(Blocks { writer: HashWriter::new(folder)?, older });
        }
        Ok(ClusterCapture {
            env,
            source,
            facts,
            check: options.check,
            backup,
            parent,
            started_at,
            next: None,
            watch,
            manifest: Vec::new(),
            warnings,
        })
    }

    /// What comes next must be that.
    fn expect(&mut self, wanted: impl FnOnce(&Next) -> bool) -> Result<()> {
        if self.next.is_none() {
            self.next = Some(match self.backup.piece()? {
                Piece::Archive(index) => Next::Archive(index),
                Piece::Manifest => Next::Manifest,
                Piece::End(end) => Next::End(end),
                Piece::Bytes(_) => return Err(self.disorder()),
            });
        }
        match self.next.as_ref().is_some_and(wanted) {
            true => Ok(()),
            false => Err(self.disorder()),
        }
    }

    fn disorder(&self) -> Error {
        let what = self.source.attempt();
        Error::new(Kind::Failed, format!("{what}: the parts of the backup come in disorder"))
    }

    /// Passes an archive on, and reads it meanwhile.
    fn archive(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()> {
        self.expect(|next| matches!(next, Next::Archive(found) if *found == index))?;
        self.watch.begin(self.backup.start().tablespaces[index].oid);
        let what = self.source.attempt();
        self.next = loop {
            match self.backup.piece()? {
                Piece::Bytes(bytes) => {
                    self.watch.pass(bytes, sink).map_err(|error| in_context(error, &what))?;
                }
                Piece::Archive(index) => break Some(Next::Archive(index)),
                Piece::Manifest => break Some(Next::Manifest),
                Piece::End(end) => break Some(Next::End(end)),
            }
        };
        self.watch.end_passed(sink).map_err(|error| in_context(error, &what))
    }

    /// The hashes of all blocks. The source needs no more.
    fn hashes(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let Some(blocks) = self.watch.take_blocks() else { return Ok(()) };
        let (mut file, _) = blocks.writer.finish()?;
        loop {
            let buffer = sink.buffer();
            let count = file.read(buffer).map_err(|error| {
                Error::io(Kind::Failed, "cannot read block hashes from a scratch file", error)
            })?;
            if count == 0 {
                return Ok(());
            }
            sink.advance(count)?;
        }
    }

    fn server_manifest(&mut self, sink: &mut dyn Sink) -> Result<()> {
        self.expect(|next| matches!(next, Next::Manifest))?;
        let end = loop {
            match self.backup.piece()? {
                Piece::Bytes(bytes) if self.manifest.len() < MANIFEST_BYTES_MAX => {
                    self.manifest.extend_from_slice(bytes);
                    put(bytes, sink)?;
                }
                Piece::End(end) => break end,
                _ => return Err(self.disorder()),
            }
        };
        self.next = Some(Next::End(end));
        Ok(())
    }

    fn check_report(&self, elapsed_ms: u64) -> Option<CheckReport> {
        if self.check == CheckLevel::None {
            return None;
        }
        let mut what = vec![CHECK_FILES.to_owned()];
        let mut notes = Vec::new();
        match self.facts.has_checksums {
            true => what.push(CHECK_PAGES.to_owned()),
            false => notes.push("page checksums: off, cannot be verified".to_owned()),
        }
        Some(CheckReport {
            level: self.check,
            // Damage is told apart: the backup is made all the same.
            outcome: CheckOutcome::Passed,
            what,
            damage: Vec::new(),
            notes,
            rows: None,
            elapsed_ms,
        })
    }

    fn manifest_facts(&self, end: &BackupEnd, judgement: &Judgement) -> Map {
        let start: &BackupStart = self.backup.start();
        let files = self.watch.files();
        let mut facts = self.facts.to_manifest();
        let tablespaces: Vec<Value> = start
            .tablespaces
            .iter()
            .filter(|tablespace| tablespace.oid.is_some())
            .map(|one| json!({ "oid": one.oid, "path": one.location, "bytes": one.bytes }))
            .collect();
        let suspects = files.suspects();
        let more = [
            ("timeline", json!(start.timeline)),
            ("start_lsn", json!(start.position.to_string())),
            ("stop_lsn", json!(end.position.to_string())),
            ("stop_timeline", json!(end.timeline)),
            ("start_time", json!(self.started_at.to_string())),
            ("stop_time", json!(self.env.clock.now().to_string())),
            ("from_standby", json!(files.label("BACKUP FROM") == Some("standby"))),
            ("files", json!(files.count())),
            ("wal_bytes", json!(files.wal_bytes())),
            ("unlogged_relations", json!(files.unlogged())),
            ("tablespaces", json!(tablespaces)),
            ("pages_checked", json!(suspects.pages)),
            ("pages_in_log", json!(suspects.newer)),
        ];
        facts.extend(more.map(|(name, value)| (name.to_owned(), value)));
        for (name, pages) in
            [("damaged_pages", &judgement.damaged), ("torn_pages", &judgement.torn)]
        {
            if !pages.is_empty() {
                facts.insert(name.to_owned(), damage::to_json(pages));
            }
        }
        facts
    }
}

type Map = serde_json::Map<String, Value>;

impl Capture for ClusterCapture<'_> {
    fn artifacts(&self) -> Vec<ArtifactPlan> {
        let plan = |role, extension: String, plain_bytes_estimate| ArtifactPlan {
            role,
            extension: extension.into(),
            plain_bytes_estimate,
            block_bytes: None,
            observer: None,
            file: None,
        };
        // A server that leaves out what did not change says how much all of it is.
        let is_part = self.parent.is_some() && self.facts.knows_changes();
        let bytes = |one: &Tablespace| if is_part { 0 } else { one.bytes };
        let tablespaces = self.backup.start().tablespaces.iter();
        let mut plans: Vec<ArtifactPlan> = tablespaces
            .map(|one| match one.oid {
                Some(oid) => plan(ROLE_TABLESPACE, format!("ts-{oid}.tar"), bytes(one)),
                None => plan(ROLE_BASE, "base.tar".to_owned(), bytes(one)),
            })
            .collect();
        let extension = "backup_manifest".to_owned();
        plans.push(plan(ROLE_SERVER_MANIFEST, extension, MANIFEST_BYTES_ESTIMATE));
        if self.watch.files().blocks.is_some() {
            let bytes: u64 = self.backup.start().tablespaces.iter().map(|one| one.bytes).sum();
            let bytes = bytes / PAGE_BYTES as u64 * HASH_BYTES as u64;
            plans.push(plan(ROLE_HASHES, "pages".to_owned(), bytes));
        }
        plans
    }

    fn write(&mut self, index: usize, sink: &mut dyn Sink) -> Result<()> {
        let archives = self.backup.start().tablespaces.len();
        match index {
            index if index < archives => self.archive(index, sink),
            index if index == archives => self.server_manifest(sink),
            _ => self.hashes(sink),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<CaptureReport> {
        let begun_ms = self.env.clock.monotonic_ms();
        let Some(Next::End(end)) = self.next.take() else { return Err(self.disorder()) };
        let what = self.source.attempt();
        let manifest = ServerManifest::parse(&self.manifest);
        let files = self.watch.files();
        manifest
            .and_then(|manifest| files.compare(&manifest))
            .map_err(|error| error.context(what))?;
        let judgement = files.suspects().judged_by_server(end.checksums_failed, &end.notices);
        if !judgement.torn.is_empty() {
            self.warnings.push(format!(
                "{} pages were read while the server wrote them; recovery takes them from the WAL",
                judgement.torn.len()
            ));
        }
        if files.unlogged() > 0 {
            self.warnings.push(format!(
                "{} unlogged tables and indexes come back empty, as after a crash",
                files.unlogged()
            ));
        }
        let names = match judgement.damaged.is_empty() {
            true => BTreeMap::new(),
            false => relations::names(&self.source.client, &judgement.damaged),
        };
        let mut damage_seen = damage::lines(&judgement.damaged, &names);
        if damage_seen.is_empty() && end.checksums_failed {
            damage_seen.push("the server found pages with wrong checksums".to_owned());
        }
        Ok(CaptureReport {
            facts: self.manifest_facts(&end, &judgement),
            // The backup shows the cluster as it was when it ended.
            taken_at: Some(self.env.clock.now()),
            check: self.check_report(self.env.elapsed_ms(begun_ms)),
            damage_seen,
            warnings: std::mem::take(&mut self.warnings),
            parent: self.parent.as_ref().map(|parent| parent.id),
            ..CaptureReport::default()
        })
    }
}

/// The backup that this one builds on: one that fits, if any was named.
fn fitting_parent(
    source: &ClusterSource,
    facts: &ClusterFacts,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Parent>>> {
    let Some(parent) = source.parent() else { return Ok(None) };
    if let Some(why) = parent.misfit(facts) {
        warnings.push(format!("this is a whole backup: {why}"));
        return Ok(None);
    }
    Parent::require_summaries(facts, &source.attempt())?;
    Ok(Some(parent))
}

/// Asks for the backup. A server that no longer knows what changed since then gives a whole one.
fn begin_backup(
    env: &Env,
    source: &ClusterSource,
    mut connection: ReplicationConnection,
    facts: &ClusterFacts,
    parent: Option<Arc<Parent>>,
    warnings: &mut Vec<String>,
) -> Result<(BaseBackup, Option<Arc<Parent>>)> {
    let mut options = BaseBackupOptions {
        label: "lifeboat".to_owned(),
        checkpoint: source.options.checkpoint,
        include_wal: true,
        max_rate_kib: source.options.max_rate_bytes.map(rate_kib),
        incremental: parent.is_some() && facts.knows_changes(),
    };
    if !options.incremental {
        return Ok((connection.base_backup(&options)?, parent));
    }
    if let Some(parent) = &parent {
        connection.upload_manifest(parent.server_manifest()?)?;
    }
    match connection.base_backup(&options) {
        Ok(backup) => Ok((backup, parent)),
        Err(error) if code_of(&error) == Some(NOT_IN_STATE) => {
            warnings.push(format!("this is a whole backup: {error}"));
            options.incremental = false;
            let mut connection = source.connect(env)?;
            hold_log(env, &mut connection, warnings)?;
            Ok((connection.base_backup(&options)?, None))
        }
        Err(error) => Err(error),
    }
}

/// What the store says is its own; what the stream says is told of the cluster.
fn in_context(error: Error, what: &str) -> Error {
    match error.kind() {
        Kind::CheckFailed => error.context(what),
        _ => error,
    }
}

/// Holds on to the log from now on, as long as this connection lives. A server without a free slot
/// may remove it meanwhile: then the backup fails, and says so.
fn hold_log(
    env: &Env,
    connection: &mut ReplicationConnection,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let name = format!("lifeboat_{}", env.new_uuid().simple());
    match connection.create_slot(&name, true, true) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == Kind::SourceUnavailable && is_gone(&error) => Err(error),
        Err(error) if matches!(error.kind(), Kind::Interrupted | Kind::Terminated) => Err(error),
        Err(error) => {
            warnings.push(format!("the WAL was not held on the server meanwhile: {error}"));
            Ok(())
        }
    }
}

/// Whether the connection itself has failed.
fn is_gone(error: &Error) -> bool {
    code_of(error).is_none()
}

/// In the unit and within the limits of the server.
fn rate_kib(bytes: u64) -> u32 {
    (bytes / 1_024).clamp(*RATE_KIB.start(), *RATE_KIB.end()) as u32
}

pub(super) fn put(mut bytes: &[u8], sink: &mut dyn Sink) -> Result<()> {
    while !bytes.is_empty() {
        let buffer = sink.buffer();
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        sink.advance(count)?;
    }
    Ok(())
}
