//! Copies: what one repository has of a source and another lacks goes there, byte for byte.
//!
//! Nothing is ever removed by it: that a backup is gone here says nothing of what is there. A
//! backup that was pruned there is not brought back.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::backup::commit;
use crate::backup::lock::SourceLock;
use crate::catalog::{SourceEntry, SourceRecord};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{Artifact, Manifest};
use crate::marks::{self, Begun, MarkKind};
use crate::pipeline::Sha256Hex;
use crate::policy::{self, Candidate, Floors, Keep};
use crate::prune;
use crate::repository::{Repository, SourceIdentity};
use crate::store::{ObjectInfo, ObjectName, Store, get_bytes, put_bytes};

/// The longest mark that is copied, in bytes.
const MARK_BYTES_MAX: u64 = 1 << 20;

/// What becomes of a backup that the first repository has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The second has it, whole as far as sizes show.
    There,
    /// It lacks it, and gets it.
    Copy,
    /// It has it, but an artifact is missing or has another size: that is put anew.
    Repair,
    /// Its rule would not keep it.
    NotKept,
    /// It was pruned there.
    Removed,
    /// It cannot be copied as it is.
    Impossible,
}

/// A backup, and what becomes of it.
#[derive(Clone, Debug, Serialize)]
pub struct CopyItem {
    /// Its name.
    pub backup: String,
    /// What becomes of it.
    pub fate: Fate,
    /// How many bytes that takes.
    pub bytes: u64,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    #[serde(skip)]
    manifest: Manifest,
    /// The artifacts that are sent.
    #[serde(skip)]
    artifacts: Vec<Artifact>,
}

/// What a copy of one source would do. Made by [`plan()`], done by [`apply()`].
#[derive(Clone, Debug, Serialize)]
pub struct CopyPlan {
    /// The source's folder in the first repository.
    pub folder: String,
    /// Its backups there, from the oldest on.
    pub items: Vec<CopyItem>,
}

impl CopyPlan {
    /// The backups with that fate.
    pub fn with(&self, fate: Fate) -> impl Iterator<Item = &CopyItem> {
        self.items.iter().filter(move |item| item.fate == fate)
    }

    /// The bytes that are sent.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

/// Compares what two repositories have of a source. `keep` is the rule of the second: without one,
/// everything is copied.
pub fn plan(
    env: &Env,
    from: &SourceEntry,
    to: (&Repository, Option<&SourceEntry>),
    keep: Option<&Keep>,
) -> Result<CopyPlan> {
    let (repository, entry) = to;
    let objects = match entry {
        Some(entry) => repository.store().list(Some(&entry.folder))?,
        None => Vec::new(),
    };
    let there: BTreeMap<&str, &ObjectInfo> =
        objects.iter().map(|object| (object.name.file_name(), object)).collect();
    let kept = kept(env, from, to, keep)?;
    let item = |backup: &Manifest| {
        let (fate, artifacts, reason) = fate(backup, to, &there, &kept);
        CopyItem {
            backup: backup.name.clone(),
            fate,
            bytes: artifacts.iter().map(|artifact| artifact.stored_bytes).sum(),
            reason,
            manifest: backup.clone(),
            artifacts,
        }
    };
    Ok(CopyPlan { folder: from.folder.clone(), items: from.backups.iter().map(item).collect() })
}

/// The ids of those that the second repository's rule would keep, of all that both have.
fn kept(
    env: &Env,
    from: &SourceEntry,
    (repository, entry): (&Repository, Option<&SourceEntry>),
    keep: Option<&Keep>,
) -> Result<HashSet<uuid::Uuid>> {
    let Some(keep) = keep else {
        return Ok(from.backups.iter().map(|backup| backup.id).collect());
    };
    let mut ids = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    for entry in std::iter::once(from).chain(entry) {
        for backup in &entry.backups {
            if !ids.contains(&backup.id) {
                ids.push(backup.id);
                candidates.push(prune::candidate(entry, backup));
            }
        }
    }
    let zone = prune::zone_of(repository)?;
    let floors = Floors::default();
    let decisions = policy::decide(env.clock.now(), &zone, keep, &floors, &candidates);
    let kept = ids.into_iter().zip(decisions).filter(|(_, decision)| decision.keeps());
    Ok(kept.map(|(id, _)| id).collect())
}

fn fate(
    backup: &Manifest,
    (repository, entry): (&Repository, Option<&SourceEntry>),
    there: &BTreeMap<&str, &ObjectInfo>,
    kept: &HashSet<uuid::Uuid>,
) -> (Fate, Vec<Artifact>, Option<String>) {
    let own = entry.and_then(|entry| entry.backups.iter().find(|own| own.id == backup.id));
    if let Some(own) = own {
        let is_whole = |artifact: &&Artifact| {
            let found = there.get(artifact.name.as_str());
            found.is_some_and(|found| found.bytes == artifact.stored_bytes)
        };
        let lacking: Vec<Artifact> =
            own.artifacts.iter().filter(|artifact| !is_whole(artifact)).cloned().collect();
        let same = lacking.iter().all(|artifact| backup.artifacts.contains(artifact));
        return match (lacking.is_empty(), same) {
            (true, _) => (Fate::There, Vec::new(), None),
            (false, true) => (Fate::Repair, lacking, None),
            (false, false) => {
                let reason = "it is damaged there, and is stored in another form here";
                (Fate::Impossible, Vec::new(), Some(reason.to_owned()))
            }
        };
    }
    if entry.is_some_and(|entry| entry.removed.iter().any(|gone| gone.id == backup.id)) {
        return (Fate::Removed, Vec::new(), None);
    }
    if !kept.contains(&backup.id) {
        return (Fate::NotKept, Vec::new(), None);
    }
    let stem = format!("{}.", backup.name);
    if there.keys().any(|file| file.starts_with(&stem)) {
        let reason = "another backup, or a rest of one, has its name there";
        return (Fate::Impossible, Vec::new(), Some(reason.to_owned()));
    }
    if let Some(wanted) = repository.recipients() {
        let wanted = wanted.names();
        let differs = |artifact: &Artifact| {
            artifact.sealed.as_ref().is_none_or(|seal| seal.to.as_slice() != wanted)
        };
        if backup.artifacts.iter().any(differs) {
            let reason = "it is not sealed to the recipients of that repository";
            return (Fate::Impossible, Vec::new(), Some(reason.to_owned()));
        }
    }
    (Fate::Copy, backup.artifacts.clone(), None)
}

/// Sends what the plan says; how each ended, in the order of the plan's copies and repairs. One
/// that fails leaves nothing of itself, and the next one is sent.
pub fn apply(
    env: &Env,
    (from, entry): (&Repository, &SourceEntry),
    to: &Repository,
    plan: &CopyPlan,
    lock_folder: Option<&std::path::Path>,
) -> Result<Vec<(String, Result<()>)>> {
    let record = &entry.record;
    let identity = SourceIdentity {
        id: Some(record.id),
        name: record.name.clone(),
        kind: record.kind.clone(),
        host: record.host.clone(),
        location: record.location.clone(),
    };
    // A folder of the same thing under another id is the one that is meant.
    let known = to.folder_of(&SourceIdentity { id: None, ..identity.clone() })?;
    let (folder, own) = match known {
        Some(known) => known,
        None => to.claim(env, &identity)?,
    };
    let _lock = SourceLock::take(env, lock_folder, &own, to.header().id)?;
    let copier = Copier { env, from, entry, to, folder, own };
    let mut done = Vec::new();
    for item in &plan.items {
        let sent = match item.fate {
            Fate::Copy => copier.copy(item),
            Fate::Repair => copier.repair(item),
            _ => continue,
        };
        done.push((item.backup.clone(), sent));
        env.proceed()?;
    }
    copier.copy_marks(plan)?;
    Ok(done)
}

struct Copier<'a> {
    env: &'a Env,
    from: &'a Repository,
    entry: &'a SourceEntry,
    to: &'a Repository,
    folder: String,
    own: SourceRecord,
}

impl Copier<'_> {
    /// Artifacts first, each read back and compared, then the manifest.
    fn copy(&self, item: &CopyItem) -> Result<()> {
        let begun = self.note_begun(&item.backup)?;
        let mut stored = Vec::new();
        let sent = item.artifacts.iter().try_for_each(|artifact| {
            self.send(artifact)?;
            stored.push(self.to.object(&self.folder, &artifact.name)?);
            Ok(())
        });
        let mut manifest = item.manifest.clone();
        manifest.source.id = self.own.id;
        let committed = sent.and_then(|()| {
            commit(self.env, self.to, &self.folder, &manifest).map_err(|failed| {
                if failed.manifest_may_exist {
                    stored.clear();
                }
                failed.error
            })
        });
        if committed.is_err() {
            for object in &stored {
                if let Err(error) = self.to.store().delete(object) {
                    self.env.warn(&self.folder, &format!("{object} is left behind: {error}"));
                }
            }
        }
        if let Err(error) = self.to.store().delete(&begun) {
            self.env.warn(&self.folder, &format!("{begun} is left behind: {error}"));
        }
        committed
    }

    /// Puts again what is missing or cut. A cut object goes first, as nothing is overwritten.
    fn repair(&self, item: &CopyItem) -> Result<()> {
        for artifact in &item.artifacts {
            self.to.store().delete(&self.to.object(&self.folder, &artifact.name)?)?;
            self.send(artifact)?;
        }
        Ok(())
    }

    /// Whose bytes these are shows in none of them.
    fn note_begun(&self, name: &str) -> Result<ObjectName> {
        let mark = Begun {
            format: marks::FORMAT,
            source: self.own.id,
            backup: name.to_owned(),
            begun_at: self.env.clock.now(),
        };
        let object = ObjectName::new(MarkKind::Begun.object(&self.folder, name))?;
        match put_bytes(self.to.store(), &object, &marks::to_bytes(&mark)) {
            Err(error) if error.kind() != Kind::Refused => Err(error),
            _ => Ok(object),
        }
    }

    /// Streams an artifact over. What does not have the hash of its manifest is never committed.
    fn send(&self, artifact: &Artifact) -> Result<()> {
        let (env, phase) = (self.env, "copying");
        let bytes_total = Some(2 * artifact.stored_bytes);
        env.tell(Event::PhaseBegan { subject: &self.folder, phase, bytes_total });
        let source = self.from.object(&self.entry.folder, &artifact.name)?;
        let object = self.to.object(&self.folder, &artifact.name)?;
        let mut put = self.to.store().put(&object)?;
        let url = self.to.url();
        self.read(self.from.store(), &source, artifact, &mut |bytes| {
            put.write_all(bytes).map_err(|error| {
                let message = format!("cannot write {object} to {url}");
                Error::io(Kind::StoreUnavailable, message, error)
            })
        })?;
        put.commit()?;
        let read_back = self.read(self.to.store(), &object, artifact, &mut |_| Ok(()));
        if read_back.is_err() {
            let _ = self.to.store().delete(&object);
        }
        env.tell(Event::PhaseEnded { phase });
        read_back
    }

    /// Reads an object to its end and compares it with its artifact.
    fn read(
        &self,
        store: &dyn Store,
        object: &ObjectName,
        artifact: &Artifact,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut reader = store.get(object, None)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            self.env.proceed()?;
            let count = reader.read(&mut buffer).map_err(|error| {
                let message = format!("cannot read {object} of {}", store.url());
                Error::io(Kind::StoreUnavailable, message, error)
            })?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
            each(&buffer[..count])?;
            self.env.tell(Event::Advanced { bytes: count as u64 });
        }
        let hash = Sha256Hex(hash.finalize().into()).to_string();
        match bytes == artifact.stored_bytes && hash == artifact.stored_sha256 {
            true => Ok(()),
            false => Err(Error::new(
                Kind::CheckFailed,
                format!("{object} of {} is not what its manifest says", store.url()),
            )
            .hint("lifeboat verify says more; copy it from another repository with --from")),
        }
    }

    /// Pins, markers and outcomes of what is there now and has none of its own.
    fn copy_marks(&self, plan: &CopyPlan) -> Result<()> {
        for item in &plan.items {
            if !matches!(item.fate, Fate::There | Fate::Copy | Fate::Repair) {
                continue;
            }
            for kind in [MarkKind::Pin, MarkKind::Marker, MarkKind::Outcome] {
                self.copy_mark(kind, &item.backup)?;
            }
        }
        Ok(())
    }

    fn copy_mark(&self, kind: MarkKind, backup: &str) -> Result<()> {
        // A mark names the source's id: under another one it would mean nothing.
        if self.own.id != self.entry.record.id {
            return Ok(());
        }
        let source = ObjectName::new(kind.object(&self.entry.folder, backup))?;
        let bytes = match get_bytes(self.from.store(), &source, MARK_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == Kind::NotCovered => return Ok(()),
            Err(error) => return Err(error),
        };
        let object = ObjectName::new(kind.object(&self.folder, backup))?;
        match put_bytes(self.to.store(), &object, &bytes) {
            Err(error) if error.kind() != Kind::Refused => Err(error),
            _ => Ok(()),
        }
    }
}
