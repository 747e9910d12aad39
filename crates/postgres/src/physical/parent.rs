//! The backup that an incremental one builds on, as far as that one must know it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;
use uuid::Uuid;

use super::facts::ClusterFacts;
use super::page_hashes::HashIndex;

/// A backup that is built on.
#[derive(Debug)]
pub struct Parent {
    pub(super) id: Uuid,
    pub(super) name: String,
    system_identifier: Option<String>,
    server_major: Option<u64>,
    /// The server's manifest of it.
    server_manifest: File,
    /// The hashes of its blocks, where the server is older than 17.
    pub(super) hashes: Option<HashIndex>,
}

impl Parent {
    /// Of what was read of it: the server's manifest, and the hashes of its blocks if it has any.
    pub fn new(manifest: &Manifest, server_manifest: File, hashes: Option<File>) -> Result<Self> {
        let text = |name: &str| manifest.facts.get(name)?.as_str().map(str::to_owned);
        Ok(Parent {
            id: manifest.id,
            name: manifest.name.clone(),
            system_identifier: text("system_identifier"),
            server_major: manifest.facts.get("server_major").and_then(Value::as_u64),
            server_manifest,
            hashes: hashes.map(HashIndex::of).transpose()?,
        })
    }

    /// The server's manifest of it, from its beginning.
    pub(super) fn server_manifest(&self) -> Result<impl Read> {
        let mut file = &self.server_manifest;
        let begun = file.seek(SeekFrom::Start(0));
        begun.map_err(|error| Error::io(Kind::Failed, "cannot read a scratch file", error))?;
        Ok(file)
    }

    /// Why a backup of that cluster cannot build on it, if so.
    pub(super) fn misfit(&self, facts: &ClusterFacts) -> Option<String> {
        let own = facts.identity.system_identifier.to_string();
        if self.system_identifier.as_ref() != Some(&own) {
            return Some(format!("{} is of another cluster", self.name));
        }
        if self.server_major != Some(u64::from(facts.major)) {
            return Some(format!("{} is of another version of the server", self.name));
        }
        if facts.knows_changes() || self.hashes.is_some() {
            return None;
        }
        Some(format!("{} has no block hashes", self.name))
    }

    /// The server that is to know what changed must be told to.
    pub(super) fn require_summaries(facts: &ClusterFacts, what: &str) -> Result<()> {
        if !facts.knows_changes() || facts.summarizes_wal {
            return Ok(());
        }
        let message = format!("{what}: the server does not write down what changes");
        Err(Error::new(Kind::SourceUnavailable, message).hint(
            "set summarize_wal = on in postgresql.conf and reload it, or make full backups: \
             without --incremental",
        ))
    }
}
