//! Locks of a store that keeps objects for a time: they are extended while a backup is kept.
//!
//! Every object is locked when it is put, and a backup then for as long as it is to be kept, as far
//! as that can be foreseen. Once half of that time is over, everything that has no
//! tombstone is locked anew, the manifests first: so no artifact is ever kept for less than we
//! expect, and what a rule no longer keeps can go when its last lock ends. An object under
//! `retained/` says until when all was locked, and what was left out.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;
use crate::error::{Kind, Result};
use crate::manifest::Manifest;
use crate::marks::{self, FORMAT, MarkKind, to_bytes};
use crate::parallel::in_parallel;
use crate::repository::Repository;
use crate::store::{ObjectInfo, ObjectName, get_bytes, put_bytes};

const RECORD_BYTES_MAX: u64 = 16 << 20;

/// `retained/<folder>/<time>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Retained {
    format: u32,
    source: Uuid,
    /// Until when everything was locked at least.
    until: Timestamp,
    /// The backups that had a tombstone then.
    left_out: BTreeSet<String>,
}

/// Extends the locks of a source's folder where it is time. How many objects were locked anew.
pub fn extend(env: &Env, repository: &Repository, folder: &str) -> Result<usize> {
    let store = repository.store();
    let Some(period) = store.lock_period() else { return Ok(0) };
    let now = env.clock.now();
    let tombstones = names_of(repository, &MarkKind::Tombstone.prefix(folder))?;
    let prefix = format!("retained/{folder}");
    let records = store.list(Some(&prefix))?;
    let newest = records.iter().map(|record| &record.name).max();
    if let Some(last) = newest.map(|newest| read(repository, newest)).transpose()?.flatten() {
        let half = SignedDuration::from_secs(period.as_secs() / 2);
        let is_long = last.until.duration_since(now) >= half;
        if is_long && last.left_out.is_subset(&tombstones) {
            return Ok(0);
        }
    }
    let until = now.checked_add(period).unwrap_or(Timestamp::MAX);
    let mut objects: Vec<ObjectName> = store
        .list(Some(folder))?
        .into_iter()
        .map(|object| object.name)
        .filter(|name| !is_of(&tombstones, folder, name))
        .collect();
    // False comes first: manifests.
    objects.sort_by_key(|name| !name.as_str().ends_with(".json"));
    for name in ["lifeboat.json", "README.txt"] {
        objects.push(ObjectName::new(name)?);
    }
    let done = in_parallel(&objects, store.readers(), |name| {
        env.proceed()?;
        match store.retain(name, until) {
            // A piece of a log that is whole by now.
            Err(error) if error.kind() == Kind::NotCovered => Ok(()),
            done => done,
        }
    });
    done.into_iter().collect::<Result<()>>()?;
    let source = repository.source_record(folder)?.id;
    let record = Retained { format: FORMAT, source, until, left_out: tombstones };
    let name = until.strftime("%Y%m%d-%H%M%S-%3f").to_string();
    let object = ObjectName::new(format!("{prefix}/{name}.json"))?;
    put_bytes(store, &object, &to_bytes(&record))?;
    // Who has no right to delete leaves them to one that has.
    let old = |record: &&ObjectInfo| record.name < object;
    records.iter().filter(old).for_each(|record| drop(store.delete(&record.name)));
    Ok(objects.len())
}

/// Locks what a backup is made of until then, where that is longer than it is locked already. The
/// manifest first, as above.
pub fn lock_backup(
    repository: &Repository,
    folder: &str,
    backup: &Manifest,
    until: Timestamp,
) -> Result<()> {
    let manifest = format!("{}.json", backup.name);
    let artifacts = backup.artifacts.iter().map(|artifact| artifact.name.as_str());
    [manifest.as_str()]
        .into_iter()
        .chain(artifacts)
        .try_for_each(|file| repository.store().retain(&repository.object(folder, file)?, until))
}

/// One that cannot be read counts as none: then all is locked anew.
fn read(repository: &Repository, object: &ObjectName) -> Result<Option<Retained>> {
    let read = get_bytes(repository.store(), object, RECORD_BYTES_MAX)
        .and_then(|bytes| marks::parse(&bytes, object.as_str()));
    match read {
        Ok(record) => Ok(Some(record)),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => Ok(None),
        Err(error) => Err(error),
    }
}

fn names_of(repository: &Repository, prefix: &str) -> Result<BTreeSet<String>> {
    let objects = repository.store().list(Some(prefix))?;
    let names = objects.iter().filter_map(|object| object.name.file_name().strip_suffix(".json"));
    Ok(names.map(str::to_owned).collect())
}

/// Whether an object belongs to one of those backups.
fn is_of(backups: &BTreeSet<String>, folder: &str, name: &ObjectName) -> bool {
    let Some(rest) = name.as_str().strip_prefix(folder) else { return false };
    let rest = rest.trim_start_matches('/');
    let logged = rest.strip_prefix("log/").and_then(|rest| rest.split('/').next());
    match logged {
        Some(backup) => backups.contains(backup),
        None => backups.iter().any(|backup| {
            rest.strip_prefix(backup.as_str()).is_some_and(|ending| ending.starts_with('.'))
        }),
    }
}
