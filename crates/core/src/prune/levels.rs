//! What becomes of the states of a source's logs as they grow old.
//!
//! A log that belongs to one backup is nothing without it: so a backup stays as long as its log
//! holds a state that is to stay. Of older states fewer stay: files of a log are merged, and go
//! when what takes their place was read back. That frees space and takes no backup away, so it asks
//! for no newer backup, and for an approval only where a rule keeps less than the one before; which
//! states are to stay is counted from the newest one and not from the clock, so that neither a
//! wrong clock nor a source that stopped loses anything.

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::{Action, Item, PrunePlan, level_rule};
use crate::backup::lock::SourceLock;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::manifest::Manifest;
use crate::marks::LevelRule;
use crate::repository::Repository;
use crate::store::Store;

/// Who knows how the logs of a source are thinned out. Made by the crate that knows the database.
pub trait LogLevels: std::fmt::Debug + Send + Sync {
    /// The rule by which they are; `None` where all states stay, and logs are only packed.
    fn rule(&self) -> Option<LevelRule>;

    /// Which of those backups must stay for their logs, by their names, and why. `backups` are all
    /// that are listed, oldest first.
    fn holds(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        backups: &[&Manifest],
    ) -> Result<HashMap<String, String>>;

    /// What becomes of the logs of those of these backups that have one.
    fn plan(
        &self,
        now: Timestamp,
        repository: &Repository,
        folder: &str,
        backups: &[&Manifest],
    ) -> Result<Vec<Thinning>>;

    /// Thins out the log of one of the backups, the second of `logs`. What is done is decided
    /// anew, by what is there. `hold` is
    /// asked before anything goes: whether that may still be done.
    fn thin(
        &self,
        env: &Env,
        repository: &Repository,
        folder: &str,
        logs: (&[&Manifest], &Manifest),
        hold: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Thinned>;
}

/// What becomes of the log of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Thinning {
    /// The backup.
    pub backup: String,
    /// How many states can be restored now, without the backup's own, and then.
    pub states: (usize, usize),
    /// How many files it has now, and then.
    pub files: (usize, usize),
    /// How many files are written, each in the place of several.
    pub merged: usize,
    /// What the files take that go, in bytes.
    pub going_bytes: u64,
    /// How many files are put into packs, and into how many.
    pub packed: (usize, usize),
    /// How many files go because they have been in a pack for long enough.
    pub spare: usize,
    /// Why no state goes although some are due, if so.
    pub waits: Option<String>,
}

impl Thinning {
    /// Whether anything is to be done.
    pub fn has_work(&self) -> bool {
        self.takes_states() || self.packed.1 > 0 || self.spare > 0
    }

    /// Whether states go.
    pub fn takes_states(&self) -> bool {
        self.waits.is_none() && (self.merged > 0 || self.files.0 > self.files.1)
    }
}

/// What was done to logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thinned {
    /// How many files were written.
    pub merged: usize,
    /// How many files went.
    pub deleted: usize,
    /// How many files are in packs that were not.
    pub packed: usize,
    /// How many bytes less there are.
    pub freed_bytes: u64,
}

/// Levels of files that a log may have.
const LEVELS: u8 = 3;

/// Removes what killed writers left, before that time, of files of the log whose objects' names
/// begin so.
pub fn discard_unfinished(store: &dyn Store, prefix: &str, before: Timestamp) -> Result<()> {
    for level in 0..LEVELS {
        for object in store.unfinished(&format!("{prefix}/{level}"))? {
            if object.modified < before {
                store.discard(&object.name)?;
            }
        }
    }
    Ok(())
}

/// What keeps backups for their logs turns their removal into a stay.
pub(super) fn hold(plan: &mut PrunePlan, holds: &HashMap<String, String>) {
    let marked = |item: &&mut Item| item.action == Action::Mark && item.id.is_some();
    for item in plan.items.iter_mut().filter(marked) {
        if let Some(why) = holds.get(&item.name) {
            item.action = Action::Keep;
            item.reasons = vec![why.clone()];
        }
    }
}

/// Thins out the logs of a source, and does nothing else: no backup goes, so it needs no newer one
/// and no approval, unless the rule keeps less than the one before. It holds the lease of the
/// source's folder.
///
/// [`Kind::Locked`] during a backup or a prune, [`Kind::Refused`] where an approval is needed.
pub fn thin_logs(
    env: &Env,
    repository: &Repository,
    (folder, levels): (&str, &dyn LogLevels),
    lock_folder: Option<&Path>,
) -> Result<Thinned> {
    let repository = &repository.without_cache();
    let (entry, _) = repository.source_entry(folder)?;
    let backups: Vec<&Manifest> = entry.backups.iter().collect();
    let planned = levels.plan(env.clock.now(), repository, folder, &backups)?;
    let source = (folder, entry.record.id);
    if !planned.iter().any(Thinning::has_work) {
        // By which rule they stay, whoever makes it shorter is to be asked for.
        if !planned.is_empty() && level_rule::gate(repository, folder, levels)?.is_none() {
            level_rule::note(env, repository, source, levels)?;
        }
        return Ok(Thinned::default());
    }
    level_rule::require_no_less(repository, folder, levels)?;
    let lock = SourceLock::take(env, lock_folder, &entry.record, repository.header().id)?;
    let mut lease = super::turn::take(env, repository, folder, &entry.record, &lock)?;
    let work = (folder, &planned[..]);
    let thinned = thin(env, repository, levels, (work, &backups), &mut || lease.hold())?;
    lease.hold()?;
    level_rule::note(env, repository, source, levels)?;
    lease.end();
    Ok(thinned)
}

/// Thins out the logs that are planned for a folder. One that is damaged is told of and left as it
/// is.
pub(super) fn thin(
    env: &Env,
    repository: &Repository,
    levels: &dyn LogLevels,
    ((folder, planned), backups): ((&str, &[Thinning]), &[&Manifest]),
    hold: &mut dyn FnMut() -> Result<()>,
) -> Result<Thinned> {
    let mut all = Thinned::default();
    for thinning in planned.iter().filter(|thinning| thinning.has_work()) {
        env.proceed()?;
        let Some(base) = backups.iter().find(|backup| backup.name == thinning.backup) else {
            continue;
        };
        match levels.thin(env, repository, folder, (backups, base), hold) {
            Ok(thinned) => {
                all.merged += thinned.merged;
                all.deleted += thinned.deleted;
                all.packed += thinned.packed;
                all.freed_bytes += thinned.freed_bytes;
            }
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::CheckFailed | Kind::NotCovered | Kind::WrongKey
                ) =>
            {
                env.warn(&thinning.backup, &format!("its log stays as it is: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}
