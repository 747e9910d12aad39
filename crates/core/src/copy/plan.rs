//! What a copy would do: a comparison of two repositories. Nothing is written.

use std::collections::{BTreeMap, HashSet};

use super::log::{self, LogPlan, LogSelection};
use super::send::{is_whole, sealed_name};
use super::{CopyItem, CopyPlan, Fate};
use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::manifest::{Artifact, Manifest};
use crate::marks::{Begun, MarkKind};
use crate::policy::{self, Candidate, Floors, Keep};
use crate::prune;
use crate::repository::Repository;
use crate::store::{ObjectInfo, ObjectName};

/// Who stored something so long ago, and no manifest since, has ended.
const GIVEN_UP: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// What a plan is made with.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// The rule of the second repository; without one, everything is copied.
    pub keep: Option<&'a Keep>,
    /// Whether what is there is read and compared with its hashes. Else its size is enough.
    pub verify: bool,
    /// Who knows the log of the source, if it can have one.
    pub log: Option<&'a dyn LogSelection>,
}

/// Compares what two repositories have of a source.
pub fn plan(
    env: &Env,
    from: (&Repository, &SourceEntry),
    to: (&Repository, Option<&SourceEntry>),
    options: &Options<'_>,
) -> Result<CopyPlan> {
    let (repository, entry) = to;
    let objects = match entry {
        Some(entry) => repository.store().list(Some(&entry.folder))?,
        None => Vec::new(),
    };
    let comparison = Comparison {
        env,
        from: from.0,
        to: repository,
        entry,
        there: objects.iter().map(|object| (object.name.file_name(), object)).collect(),
        kept: kept(env, from.1, to, options.keep)?,
        verify: options.verify,
    };
    let items = from.1.backups.iter().map(|backup| comparison.item(backup));
    let items: Vec<CopyItem> = items.collect::<Result<_>>()?;
    let log = match options.log {
        None => LogPlan::default(),
        Some(selection) => {
            let staying: Vec<&Manifest> = items
                .iter()
                .filter(|item| matches!(item.fate, Fate::There | Fate::Copy | Fate::Repair))
                .map(|item| &item.manifest)
                .collect();
            log::plan(env, from, to, &staying, selection)?
        }
    };
    Ok(CopyPlan { folder: from.1.folder.clone(), items, log })
}

/// How many backups of the first the second lacks and would keep, as far as catalogs show.
pub fn lacking(
    env: &Env,
    from: &SourceEntry,
    to: (&Repository, Option<&SourceEntry>),
    keep: Option<&Keep>,
) -> Result<usize> {
    let kept = kept(env, from, to, keep)?;
    let is_known = |backup: &Manifest| {
        to.1.is_some_and(|entry| {
            let mut known = entry.backups.iter().chain(&entry.removed);
            known.any(|known| known.id == backup.id)
        })
    };
    let lacking = from.backups.iter().filter(|backup| kept.contains(&backup.id));
    Ok(lacking.filter(|backup| !is_known(backup)).count())
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

struct Comparison<'a> {
    env: &'a Env,
    from: &'a Repository,
    to: &'a Repository,
    entry: Option<&'a SourceEntry>,
    there: BTreeMap<&'a str, &'a ObjectInfo>,
    kept: HashSet<uuid::Uuid>,
    verify: bool,
}

/// What was found of a backup.
struct Found {
    fate: Fate,
    artifacts: Vec<Artifact>,
    rest: Vec<ObjectInfo>,
    sealed_anew: bool,
    reason: Option<String>,
}

impl Found {
    fn of(fate: Fate) -> Self {
        let (artifacts, rest) = (Vec::new(), Vec::new());
        Found { fate, artifacts, rest, sealed_anew: false, reason: None }
    }

    fn impossible(reason: &str) -> Self {
        Found { reason: Some(reason.to_owned()), ..Found::of(Fate::Impossible) }
    }
}

impl Comparison<'_> {
    fn item(&self, backup: &Manifest) -> Result<CopyItem> {
        let found = self.found(backup)?;
        Ok(CopyItem {
            backup: backup.name.clone(),
            fate: found.fate,
            bytes: found.artifacts.iter().map(|artifact| artifact.stored_bytes).sum(),
            sealed_anew: found.sealed_anew,
            reason: found.reason,
            manifest: backup.clone(),
            artifacts: found.artifacts,
            rest: found.rest,
        })
    }

    fn found(&self, backup: &Manifest) -> Result<Found> {
        let entry = self.entry;
        let own = entry.and_then(|entry| entry.backups.iter().find(|own| own.id == backup.id));
        if let Some(own) = own {
            return self.of_own(backup, own);
        }
        if entry.is_some_and(|entry| entry.removed.iter().any(|gone| gone.id == backup.id)) {
            return Ok(Found::of(Fate::Removed));
        }
        if !self.kept.contains(&backup.id) {
            return Ok(Found::of(Fate::NotKept));
        }
        let sealed_anew = self.must_be_sealed(backup);
        let sealed_to_others = |artifact: &Artifact| artifact.sealed.is_some();
        if sealed_anew
            && self.from.keys().is_none()
            && backup.artifacts.iter().any(sealed_to_others)
        {
            return Ok(Found::impossible(
                "it is not sealed to the recipients of that repository; with the key \
                 (--identity FILE) it is sealed to them on the way",
            ));
        }
        let stem = format!("{}.", backup.name);
        let rest = self.there.iter().filter(|(file, _)| file.starts_with(&stem));
        let rest: Vec<ObjectInfo> = rest.map(|(_, object)| (*object).clone()).collect();
        if !rest.is_empty()
            && let Some(reason) = self.foreign(backup, &rest, sealed_anew)?
        {
            return Ok(Found::impossible(reason));
        }
        let artifacts = backup.artifacts.clone();
        Ok(Found { artifacts, rest, sealed_anew, ..Found::of(Fate::Copy) })
    }

    /// A backup that the second repository has.
    fn of_own(&self, backup: &Manifest, own: &Manifest) -> Result<Found> {
        let mut lacking = Vec::new();
        for artifact in &own.artifacts {
            let found = self.there.get(artifact.name.as_str());
            let is_there = match found.filter(|found| found.bytes == artifact.stored_bytes) {
                Some(found) if self.verify => is_whole(self.env, self.to, &found.name, artifact)?,
                found => found.is_some(),
            };
            if !is_there {
                lacking.push(artifact.clone());
            }
        }
        let same = lacking.iter().all(|artifact| backup.artifacts.contains(artifact));
        Ok(match (lacking.is_empty(), same) {
            (true, _) => Found::of(Fate::There),
            (false, true) => Found { artifacts: lacking, ..Found::of(Fate::Repair) },
            (false, false) => {
                Found::impossible("it is damaged there, and is stored in another form here")
            }
        })
    }

    /// Whether the second repository seals, and an artifact is not sealed to its recipients.
    fn must_be_sealed(&self, backup: &Manifest) -> bool {
        let Some(wanted) = self.to.recipients() else { return false };
        let differs = |artifact: &Artifact| {
            artifact.sealed.as_ref().is_none_or(|seal| seal.to.as_slice() != wanted.names())
        };
        backup.artifacts.iter().any(differs)
    }

    /// Why objects that have the backup's name there cannot give way to a copy of it.
    fn foreign(
        &self,
        backup: &Manifest,
        rest: &[ObjectInfo],
        sealed_anew: bool,
    ) -> Result<Option<&'static str>> {
        const OTHER: &str = "another backup, or a rest of one, has its name there";
        let Some(entry) = self.entry else { return Ok(Some(OTHER)) };
        // A manifest is a backup.
        if rest.iter().any(|object| object.name.as_str().ends_with(".json")) {
            return Ok(Some(OTHER));
        }
        // What has a name that none of ours will have is in nobody's way.
        let ours = |object: &&ObjectInfo| {
            let file = object.name.file_name();
            let named = |artifact: &Artifact| match sealed_anew {
                true => file == sealed_name(artifact),
                false => file == artifact.name,
            };
            backup.artifacts.iter().any(named)
        };
        let in_the_way: Vec<&ObjectInfo> = rest.iter().filter(ours).collect();
        if in_the_way.is_empty() {
            return Ok(None);
        }
        let mark = ObjectName::new(MarkKind::Begun.object(&entry.folder, &backup.name))?;
        let begun = match self.to.read_mark::<Begun>(&mark) {
            Ok(begun) => Some(begun),
            Err(error) if matches!(error.kind(), Kind::NotCovered | Kind::CheckFailed) => None,
            Err(error) => return Err(error),
        };
        let now = self.env.clock.now();
        let is_old = |since: jiff::Timestamp| now.duration_since(since) >= GIVEN_UP;
        if begun.as_ref().is_some_and(|begun| begun.is_copy) {
            // What is sealed twice has other bytes: nobody can see whether that copy still goes on.
            let may_live = sealed_anew && !begun.is_some_and(|begun| is_old(begun.begun_at));
            return Ok(may_live.then_some(
                "a copy of it began less than a day ago and may go on elsewhere; later it is made \
                 anew",
            ));
        }
        // What the backup's own run left there, which failed in this repository or was killed.
        // Bytes that are right are taken as they are, whoever else may still name them.
        let mut other = in_the_way.into_iter().filter(|object| {
            let is_it = |artifact: &&Artifact| artifact.name == object.name.file_name();
            let artifact = backup.artifacts.iter().find(is_it).filter(|_| !sealed_anew);
            !artifact.is_some_and(|artifact| self.has(object, artifact))
        });
        let run_may_live = !is_old(backup.completed_at);
        Ok(other.any(|object| run_may_live || !is_old(object.modified)).then_some(
            "its run left other bytes there and may yet go on; a day after it they are replaced",
        ))
    }

    /// Whether an object has the bytes of an artifact; what cannot be read has not.
    fn has(&self, object: &ObjectInfo, artifact: &Artifact) -> bool {
        object.bytes == artifact.stored_bytes
            && is_whole(self.env, self.to, &object.name, artifact).unwrap_or(false)
    }
}
