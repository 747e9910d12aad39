//! Copies: what one repository has of a source and another lacks goes there, with the log that
//! belongs to it.
//!
//! Bytes go as they are stored, so that no key is needed and each hash of the manifest holds. Only
//! what the other repository would have sealed to others is sealed anew on the way. Nothing is
//! ever removed by it: that a backup is gone here says nothing of what is there. A backup that was
//! pruned there is not brought back. A copy that was killed goes on with the next one.

mod log;
mod plan;
mod send;

use serde::Serialize;

use crate::backup::lock::SourceLock;
use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::Result;
use crate::manifest::{Artifact, Manifest};
use crate::repository::{Repository, SourceIdentity};
use crate::store::ObjectInfo;

pub use log::{LogPart, LogPlan, LogSelection};
pub use plan::{Options, lacking, plan};

use log::LogCopier;
use send::Copier;

/// What becomes of a backup that the first repository has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The second has it: whole as far as sizes show, or hashes where that was asked for.
    There,
    /// It lacks it, and gets it.
    Copy,
    /// It has it, but an artifact is missing or damaged: that is put anew.
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
    /// Whether it is sealed anew on the way, to the recipients of the second repository.
    pub sealed_anew: bool,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    #[serde(skip)]
    manifest: Manifest,
    /// The artifacts that are sent.
    #[serde(skip)]
    artifacts: Vec<Artifact>,
    /// Objects that a copy left there which was killed.
    #[serde(skip)]
    rest: Vec<ObjectInfo>,
}

/// What a copy of one source would do. Made by [`plan()`], done by [`apply()`].
#[derive(Clone, Debug, Serialize)]
pub struct CopyPlan {
    /// The source's folder in the first repository.
    pub folder: String,
    /// Its backups there, from the oldest on.
    pub items: Vec<CopyItem>,
    /// Its log.
    pub log: LogPlan,
}

impl CopyPlan {
    /// The backups with that fate.
    pub fn with(&self, fate: Fate) -> impl Iterator<Item = &CopyItem> {
        self.items.iter().filter(move |item| item.fate == fate)
    }

    /// The bytes that are sent.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum::<u64>() + self.log.bytes()
    }
}

/// How a copy ended.
#[derive(Debug, Default)]
pub struct Copied {
    /// Each backup that was sent or mended, in the order of the plan.
    pub backups: Vec<(String, Result<()>)>,
    /// How many objects of the log are there now that were not.
    pub log_objects: usize,
    /// Those that are not, and why.
    pub log_failed: Vec<(String, crate::error::Error)>,
}

/// Sends what the plan says. One that fails leaves no backup, and the next one is sent.
pub fn apply(
    env: &Env,
    (from, entry): (&Repository, &SourceEntry),
    to: &Repository,
    plan: &CopyPlan,
    selection: Option<&dyn LogSelection>,
    lock_folder: Option<&std::path::Path>,
) -> Result<Copied> {
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
    let log = LogCopier { env, from, from_folder: &entry.folder, to, to_folder: folder.clone() };
    let copier = Copier { env, from, entry, to, folder, own };
    let mut copied = Copied::default();
    for item in &plan.items {
        let sent = match item.fate {
            Fate::Copy => copier.copy(item),
            Fate::Repair => copier.repair(item),
            _ => continue,
        };
        copied.backups.push((item.backup.clone(), sent));
        env.proceed()?;
    }
    copier.copy_marks(plan)?;
    if let Some(selection) = selection {
        log.copy(&plan.log, selection, &mut copied)?;
    }
    Ok(copied)
}
