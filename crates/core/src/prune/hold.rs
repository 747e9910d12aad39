//! Pin, unpin, undelete: what a person says against the policy.

use jiff::Timestamp;

use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::Manifest;
use crate::marks::{FORMAT, MarkKind, Pin, to_bytes};
use crate::policy::Hold;
use crate::repository::Repository;
use crate::store::{ObjectName, put_bytes};

/// Pins a backup: no prune takes it before `hold` ends. A pin that it has already is replaced.
/// [`Kind::Usage`] for an end that is not in the future.
pub fn pin(
    env: &Env,
    repository: &Repository,
    entry: &SourceEntry,
    backup: &Manifest,
    hold: &Hold,
) -> Result<()> {
    let now = env.clock.now();
    if let Some(until) = hold.until.filter(|until| *until <= now) {
        return Err(Error::new(Kind::Usage, format!("a pin until {until} would hold nothing"))
            .hint("name a moment in the future, or none"));
    }
    let pin = said(entry, backup, true, hold.clone(), now);
    replace(repository, entry, backup, &pin)
}

/// Ends the pin of a backup, whether it was pinned later or when it was made. `false` if it has
/// none.
pub fn unpin(
    env: &Env,
    repository: &Repository,
    entry: &SourceEntry,
    backup: &Manifest,
) -> Result<bool> {
    if entry.hold(backup).is_none() {
        return Ok(false);
    }
    match &backup.pin {
        // The manifest is never changed: an object says that what it holds has ended.
        Some(reason) => {
            let hold = Hold { reason: reason.clone(), until: None };
            let ended = said(entry, backup, false, hold, env.clock.now());
            replace(repository, entry, backup, &ended)?;
        }
        None => repository.store().delete(&pin_object(entry, backup)?)?,
    }
    Ok(true)
}

/// Takes a backup back that has a tombstone, and before it what it builds on.
/// [`Kind::NotCovered`] if there is none of that name, or if its bytes are gone.
pub fn undelete(repository: &Repository, entry: &SourceEntry, name: &str) -> Result<()> {
    let Some(backup) = entry.removed.iter().find(|backup| backup.name == name) else {
        let tombstone = entry.tombstones.iter().any(|tombstone| tombstone.backup == name);
        let why = match tombstone {
            true => "its deletion has begun, or it is garbage of an interrupted run",
            false => "it has no tombstone",
        };
        let message = format!("`{name}` cannot be taken back: {why}");
        return Err(Error::new(Kind::NotCovered, message)
            .hint("lifeboat prune --dry-run shows what has a tombstone"));
    };
    let mut chain = vec![backup];
    let all = || entry.backups.iter().chain(&entry.removed);
    while let Some(parent) = chain.last().and_then(|youngest| youngest.parent) {
        let found = all().find(|other| other.id == parent);
        // No manifest of ours leads to itself.
        let Some(found) =
            found.filter(|_| chain.len() <= entry.backups.len() + entry.removed.len())
        else {
            let message = format!("`{name}` cannot be taken back: what it builds on is gone");
            return Err(Error::new(Kind::NotCovered, message).hint("lifeboat list --all"));
        };
        chain.push(found);
    }
    let is_removed = |backup: &&&Manifest| entry.removed.iter().any(|other| other.id == backup.id);
    for backup in chain.iter().rev().filter(is_removed) {
        let object = ObjectName::new(MarkKind::Tombstone.object(&entry.folder, &backup.name))?;
        repository.store().delete(&object)?;
    }
    Ok(())
}

fn said(
    entry: &SourceEntry,
    backup: &Manifest,
    pinned: bool,
    hold: Hold,
    pinned_at: Timestamp,
) -> Pin {
    Pin {
        format: FORMAT,
        source: entry.record.id,
        backup: backup.name.clone(),
        id: backup.id,
        pinned,
        reason: hold.reason,
        until: hold.until,
        pinned_at,
    }
}

fn pin_object(entry: &SourceEntry, backup: &Manifest) -> Result<ObjectName> {
    ObjectName::new(MarkKind::Pin.object(&entry.folder, &backup.name))
}

/// Objects are never overwritten: the old one goes first. A crash between the two leaves what the
/// manifest says, and the command has failed.
fn replace(
    repository: &Repository,
    entry: &SourceEntry,
    backup: &Manifest,
    pin: &Pin,
) -> Result<()> {
    let object = pin_object(entry, backup)?;
    repository.store().delete(&object)?;
    put_bytes(repository.store(), &object, &to_bytes(pin))
}
