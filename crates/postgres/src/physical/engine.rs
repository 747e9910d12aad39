//! What all physical backups share, without a live server: how they are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Artifact, CheckLevel, CheckOutcome, Manifest};
use lifeboat_core::source::{BackupReader, CheckReport, Engine, Holder};
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use super::capture::{CHECK_FILES, CHECK_PAGES};
use super::damage::{self, PageName};
use super::source::CLUSTER_KIND;
use super::watch::Watch;
use super::{ROLE_BASE, ROLE_SERVER_MANIFEST, ROLE_TABLESPACE};
use crate::replication::Lsn;
use crate::server_manifest::ServerManifest;

/// The engine of physical backups.
#[derive(Clone, Debug, Default)]
pub struct ClusterEngine;

impl Engine for ClusterEngine {
    fn kind(&self) -> &'static str {
        CLUSTER_KIND
    }

    fn recognizes(&self, _first_bytes: &[u8]) -> bool {
        // A tar archive may be anything.
        false
    }

    fn check_file(
        &self,
        _env: &Env,
        path: &Path,
        _level: CheckLevel,
        _memory_bytes: u64,
    ) -> Result<CheckReport> {
        let message = format!("{} is a part of a physical backup", path.display());
        Err(Error::new(Kind::Failed, message).hint("its parts are checked together"))
    }

    fn reader(&self, manifest: &Manifest, level: CheckLevel) -> Option<Box<dyn BackupReader>> {
        Some(Box::new(Reader::new(manifest, level)))
    }

    fn instead_of_in_place(&self) -> Option<&'static str> {
        Some("name an empty folder: --to FOLDER")
    }

    fn side_files(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    fn holders(&self, _path: &Path) -> Result<Vec<Holder>> {
        Ok(Vec::new())
    }
}

/// A backup that is read from a repository.
struct Reader {
    level: CheckLevel,
    watch: Watch,
    has_checksums: bool,
    /// Pages that are wrong, as its manifest says.
    known: BTreeSet<PageName>,
    server_manifest: Vec<u8>,
    now: Now,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Archive,
    ServerManifest,
    Other,
}

impl Reader {
    fn new(manifest: &Manifest, level: CheckLevel) -> Self {
        let facts = &manifest.facts;
        let has_checksums = facts.get("data_checksums") == Some(&Value::Bool(true));
        let start = facts.get("start_lsn").and_then(Value::as_str);
        let start = start.and_then(|text| Lsn::from_str(text).ok()).unwrap_or_default();
        let mut known = BTreeSet::new();
        for name in ["damaged_pages", "torn_pages"] {
            known.extend(facts.get(name).map(damage::of_json).unwrap_or_default());
        }
        Reader {
            level,
            watch: Watch::new(has_checksums, start.0),
            has_checksums,
            known,
            server_manifest: Vec::new(),
            now: Now::Other,
        }
    }
}

impl BackupReader for Reader {
    fn begin(&mut self, artifact: &Artifact) -> Result<()> {
        self.now = match artifact.role.as_str() {
            ROLE_BASE | ROLE_TABLESPACE => {
                self.watch.begin(tablespace_of(artifact)?);
                Now::Archive
            }
            ROLE_SERVER_MANIFEST => Now::ServerManifest,
            _ => Now::Other,
        };
        Ok(())
    }

    fn push(&mut self, plain: &[u8]) -> Result<()> {
        match self.now {
            Now::Archive => self.watch.push(plain),
            Now::ServerManifest => {
                self.server_manifest.extend_from_slice(plain);
                Ok(())
            }
            Now::Other => Ok(()),
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.now {
            Now::Archive => self.watch.end(),
            Now::ServerManifest | Now::Other => Ok(()),
        }
    }

    fn finish(self: Box<Self>) -> Result<CheckReport> {
        let mut report = CheckReport {
            level: self.level,
            outcome: CheckOutcome::Passed,
            what: vec![CHECK_FILES.to_owned()],
            damage: Vec::new(),
            notes: Vec::new(),
            rows: None,
            elapsed_ms: 0,
        };
        let files = self.watch.files();
        let compared = ServerManifest::parse(&self.server_manifest)
            .and_then(|manifest| files.compare(&manifest));
        match compared {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::CheckFailed => {
                report.damage.push(error.message().to_owned());
            }
            Err(error) => return Err(error),
        }
        match self.has_checksums {
            true => {
                report.what.push(CHECK_PAGES.to_owned());
                report.damage.extend(damage::lines(
                    &files.suspects().unknown_to(&self.known),
                    &BTreeMap::new(),
                ));
            }
            false => report.notes.push("page checksums: off, cannot be verified".to_owned()),
        }
        if !self.known.is_empty() {
            let count = self.known.len();
            report.notes.push(format!("{count} pages were wrong when it was made, as is known"));
        }
        if !report.damage.is_empty() {
            report.outcome = CheckOutcome::Failed;
        }
        Ok(report)
    }
}

/// Of which tablespace an archive is: `NAME.ts-16385.tar.zst`; `None` for the main data directory.
fn tablespace_of(artifact: &Artifact) -> Result<Option<u32>> {
    if artifact.role == ROLE_BASE {
        return Ok(None);
    }
    let oid = artifact.name.rsplit_once(".ts-").and_then(|(_, rest)| rest.split_once(".tar"));
    let oid = oid.and_then(|(oid, _)| oid.parse().ok());
    oid.map(Some).ok_or_else(|| {
        Error::new(Kind::CheckFailed, format!("{} names no tablespace", artifact.name))
    })
}
