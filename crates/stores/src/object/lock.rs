//! Object lock: what is stored stays for a time, whatever anybody with our credentials does.
//!
//! In a bucket with versions a put over an object makes a newer version, and a delete a marker:
//! what was there is still there. So of what backups are made of, the oldest version of a name
//! counts, whatever lies above it: objects are put only if absent, so nothing of ours is ever above
//! another. It is deleted by its version, which the lock refuses before its time. Small notes
//! (tombstones, pins, leases) are seen and deleted as anywhere else.
//!
//! The library knows neither versions nor retention: these requests are made and signed here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::marks;
use lifeboat_core::store::{LockProbe, ObjectInfo, ObjectName};
use lifeboat_core::{Error, Kind, Result};
use object_store::{ObjectStoreExt, PutPayload};
use reqwest::Method;

use super::Shared;
use super::explain::{Asked, explain, refusal_of};
use super::signed::{Signed, encoded, text_of};
use crate::options::ObjectLock;

/// The folder of what is put to see whether it stays.
pub(super) const PROBES: &str = ".probes";
/// So long a probe is locked.
const PROBE_LOCKED: SignedDuration = SignedDuration::from_mins(2);

/// How objects are locked, and which version of each counts.
pub(super) struct Lock {
    /// How what is put is locked; `None` where that is left to the bucket.
    asked: Option<ObjectLock>,
    /// Versions that were found to be the oldest of their key.
    known: Mutex<HashMap<String, String>>,
}

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    key: String,
    id: String,
    is_marker: bool,
    is_latest: bool,
    modified: Timestamp,
    bytes: u64,
}

impl Lock {
    pub(super) fn new(asked: Option<ObjectLock>) -> Self {
        Lock { asked, known: Mutex::default() }
    }

    /// For how long what is put is locked.
    pub(super) fn period(&self) -> Option<SignedDuration> {
        self.asked.map(|asked| asked.period)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The lock of objects of that name, with what signs requests; `None` where none is asked for, and
/// for notes.
pub(super) fn of<'a>(shared: &'a Shared, name: &ObjectName) -> Option<(&'a Lock, &'a Signed)> {
    if marks::is_note(name.as_str()) || name.as_str().starts_with('.') {
        return None;
    }
    shared.lock().zip(shared.signed.as_ref())
}

/// Whether the bucket was made with object lock: asked where nothing says it, as by a host that
/// knows only the bucket's name. Who may not ask, or a server that does not know, says no.
pub(super) fn is_on(shared: &Shared, signed: &Signed) -> bool {
    let asked = signed.ask(Method::GET, "", "object-lock=", None);
    let said = shared.block_on(asked).ok().and_then(|text| text_of(&text, "ObjectLockEnabled"));
    said.is_some_and(|word| word == "Enabled")
}

/// The version of an object that counts; `None` if there is none.
pub(super) fn version(shared: &Shared, name: &ObjectName) -> Result<Option<String>> {
    let Some((lock, signed)) = of(shared, name) else { return Ok(None) };
    let key = shared.path(name)?.to_string();
    if let Some(id) = lock.known().get(&key) {
        return Ok(Some(id.clone()));
    }
    let versions = versions_of(shared, signed, &key, name)?;
    let oldest = versions.into_iter().rfind(|version| !version.is_marker);
    Ok(oldest.map(|oldest| {
        lock.known().insert(key, oldest.id.clone());
        oldest.id
    }))
}

/// All objects below a folder of the bucket: of each the version that counts.
pub(super) fn list(shared: &Shared, lock: &Lock, folder: &str) -> Result<Vec<ObjectInfo>> {
    let Some(signed) = &shared.signed else { return Ok(Vec::new()) };
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let versions = all_versions(signed, shared, &prefix)
        .map_err(|error| explain(shared, Asked::List, "", error))?;
    let mut found: HashMap<String, (ObjectInfo, Version)> = HashMap::new();
    for version in versions {
        let Some(name) = shared.name_of(&version.key) else { continue };
        let counts = match of(shared, &name) {
            // From the newest to the oldest of each key: the last one is it.
            Some(_) => !version.is_marker,
            None => version.is_latest && !version.is_marker,
        };
        if counts {
            let info = ObjectInfo { name, bytes: version.bytes, modified: version.modified };
            found.insert(version.key.clone(), (info, version));
        }
    }
    let mut known = lock.known();
    for (info, version) in found.values() {
        if of(shared, &info.name).is_some() {
            known.insert(version.key.clone(), version.id.clone());
        }
    }
    drop(known);
    Ok(found.into_values().map(|(info, _)| info).collect())
}

/// Deletes all versions and markers of an object, the newest first.
pub(super) fn delete(shared: &Shared, signed: &Signed, name: &ObjectName) -> Result<()> {
    let key = shared.path(name)?.to_string();
    let place = path_of(&key);
    for version in versions_of(shared, signed, &key, name)? {
        let query = format!("versionId={}", encoded(&version.id));
        let asked = signed.ask(Method::DELETE, &place, &query, None);
        if let Err(error) = shared.block_on(asked) {
            return Err(explain(shared, Asked::Delete, name.as_str(), error));
        }
    }
    if let Some(lock) = shared.lock() {
        lock.known().remove(&key);
    }
    Ok(())
}

/// Locks an object until then; one that is locked for longer stays so.
pub(super) fn retain(shared: &Shared, name: &ObjectName, until: Timestamp) -> Result<()> {
    let Some((lock, signed)) = of(shared, name) else { return Ok(()) };
    let Some(asked) = &lock.asked else { return Ok(()) };
    let key = shared.path(name)?.to_string();
    let Some(id) = version(shared, name)? else {
        return Err(Error::new(Kind::NotCovered, format!("there is no {name} in {}", shared.url)));
    };
    match shared.block_on(put_retention(signed, &key, &id, asked, until)) {
        Ok(()) => Ok(()),
        Err(error) => {
            let held = shared.block_on(retention(signed, &key, &id)).ok().flatten();
            match held.is_some_and(|held| held >= until) {
                true => Ok(()),
                false => Err(not_locked(shared, name, error)),
            }
        }
    }
}

fn not_locked(shared: &Shared, name: &ObjectName, error: object_store::Error) -> Error {
    let hint = match refusal_of(&error).map(|refusal| refusal.status) {
        Some(401 | 403) => {
            "these credentials need the rights s3:PutObjectRetention and s3:GetObjectRetention"
        }
        _ => "the bucket must have been made with object lock; or leave `object_lock` away",
    };
    let told = explain(shared, Asked::Write, name.as_str(), error);
    told.context(format!("cannot lock {name} in {}", shared.url)).hint(hint)
}

/// Until when the server keeps an object.
pub(super) fn locked_until(shared: &Shared, name: &ObjectName) -> Result<Option<Timestamp>> {
    let Some((_, signed)) = of(shared, name) else { return Ok(None) };
    let Some(id) = version(shared, name)? else { return Ok(None) };
    let key = shared.path(name)?.to_string();
    let held = shared.block_on(retention(signed, &key, &id));
    held.map_err(|error| explain(shared, Asked::Look, name.as_str(), error))
}

/// Puts a small object, locks it, and tries to get rid of it.
pub(super) fn probe(shared: &Shared) -> Result<Option<LockProbe>> {
    let Some((lock, signed)) = shared.lock().zip(shared.signed.as_ref()) else { return Ok(None) };
    let Some(asked) = &lock.asked else { return Ok(None) };
    let mut number = [0; 8];
    shared.env.random.fill(&mut number);
    let name = ObjectName::new(format!("{PROBES}/{:016x}", u64::from_le_bytes(number)))?;
    let path = shared.path(&name)?;
    let key = path.to_string();
    let put = shared.block_on(shared.store.put(&path, PutPayload::from_static(b"a probe")));
    put.map_err(|error| explain(shared, Asked::Write, name.as_str(), error))?;
    let Some(version) = versions_of(shared, signed, &key, &name)?.pop() else {
        return Err(Error::new(Kind::StoreUnavailable, format!("{name} has no version"))
            .hint("the bucket must have been made with object lock"));
    };
    let until = shared.env.clock.now().saturating_add(PROBE_LOCKED).unwrap_or(Timestamp::MAX);
    let retained = put_retention(signed, &key, &version.id, asked, until);
    shared.block_on(retained).map_err(|error| not_locked(shared, &name, error))?;
    let sooner = until.saturating_sub(SignedDuration::from_mins(1)).unwrap_or(until);
    let shortened = put_retention(signed, &key, &version.id, asked, sooner);
    let was_shortened = shared.block_on(shortened).is_ok();
    let may_mark_deleted = shared.block_on(shared.store.delete(&path)).is_ok();
    let query = format!("versionId={}", encoded(&version.id));
    let place = path_of(&key);
    let deleted = signed.ask(Method::DELETE, &place, &query, None);
    let was_deleted = shared.block_on(deleted).is_ok()
        && !versions_of(shared, signed, &key, &name)?.iter().any(|one| one.id == version.id);
    Ok(Some(LockProbe { was_shortened, was_deleted, may_mark_deleted }))
}

async fn put_retention(
    signed: &Signed,
    key: &str,
    version: &str,
    asked: &ObjectLock,
    until: Timestamp,
) -> object_store::Result<()> {
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
    let mode = asked.mode.word();
    let body = format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
         <RetainUntilDate>{until}</RetainUntilDate></Retention>"
    );
    let query = format!("retention=&versionId={}", encoded(version));
    signed.ask(Method::PUT, &path_of(key), &query, Some(body)).await.map(drop)
}

async fn retention(
    signed: &Signed,
    key: &str,
    version: &str,
) -> object_store::Result<Option<Timestamp>> {
    // An answer to HEAD tells it everywhere.
    const UNTIL: &str = "x-amz-object-lock-retain-until-date";
    let query = format!("versionId={}", encoded(version));
    match signed.answer(Method::HEAD, &path_of(key), &query, None).await {
        Ok((headers, _)) => {
            let until = headers.get(UNTIL).and_then(|until| until.to_str().ok());
            Ok(until.and_then(|until| until.parse().ok()))
        }
        Err(error) if refusal_of(&error).is_some_and(|refusal| refusal.status == 404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn path_of(key: &str) -> String {
    let parts: Vec<String> = key.split('/').map(encoded).collect();
    format!("/{}", parts.join("/"))
}

/// All of one key, from the newest to the oldest.
fn versions_of(
    shared: &Shared,
    signed: &Signed,
    key: &str,
    name: &ObjectName,
) -> Result<Vec<Version>> {
    let mut versions = all_versions(signed, shared, key)
        .map_err(|error| explain(shared, Asked::List, name.as_str(), error))?;
    versions.retain(|version| version.key == key);
    Ok(versions)
}

/// All versions of the keys that begin so, of each key from the newest to the oldest.
fn all_versions(
    signed: &Signed,
    shared: &Shared,
    prefix: &str,
) -> object_store::Result<Vec<Version>> {
    let mut found = Vec::new();
    let mut from: Option<(String, String)> = None;
    loop {
        let prefix = encoded(prefix);
        let query = match &from {
            None => format!("prefix={prefix}&versions="),
            Some((key, id)) => format!(
                "key-marker={}&prefix={prefix}&version-id-marker={}&versions=",
                encoded(key),
                encoded(id)
            ),
        };
        let text = shared.block_on(signed.ask(Method::GET, "", &query, None))?;
        found.extend(read_versions(&text));
        let is_cut = text_of(&text, "IsTruncated").is_some_and(|word| word == "true");
        let next = text_of(&text, "NextKeyMarker").filter(|key| !key.is_empty());
        let next = next.zip(Some(text_of(&text, "NextVersionIdMarker").unwrap_or_default()));
        match next.filter(|next| is_cut && from.as_ref() != Some(next)) {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    // Servers may list markers behind versions. Of one second, the order of the list counts.
    found.sort_by(|a, b| a.key.cmp(&b.key).then(b.modified.cmp(&a.modified)));
    Ok(found)
}

fn read_versions(text: &str) -> Vec<Version> {
    let mut found = Vec::new();
    for (start, end, is_marker) in
        [("<Version>", "</Version>", false), ("<DeleteMarker>", "</DeleteMarker>", true)]
    {
        for part in text.split(start).skip(1) {
            let part = part.split(end).next().unwrap_or_default();
            let said = |name: &str| text_of(part, name);
            let (Some(key), Some(id)) = (said("Key"), said("VersionId")) else { continue };
            let modified = said("LastModified").and_then(|text| text.parse().ok());
            found.push(Version {
                key,
                id,
                is_marker,
                is_latest: said("IsLatest").is_some_and(|word| word == "true"),
                modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
                bytes: said("Size").and_then(|text| text.parse().ok()).unwrap_or(0),
            });
        }
    }
    found
}

/// After an object was put: it is locked for the time that is asked for.
pub(super) fn after_put(shared: &Arc<Shared>, name: &ObjectName) -> Result<()> {
    let period = of(shared, name).and_then(|(lock, _)| lock.period());
    let Some(period) = period else { return Ok(()) };
    let until = shared.env.clock.now().saturating_add(period);
    retain(shared, name, until.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_markers_are_told_apart() {
        let text = "<ListVersionsResult><Version><Key>a &amp; b</Key><VersionId>2</VersionId>\
            <IsLatest>false</IsLatest><LastModified>2026-11-25T22:40:36.000Z</LastModified>\
            <Size>7</Size></Version><DeleteMarker><Key>a &amp; b</Key><VersionId>3</VersionId>\
            <IsLatest>true</IsLatest></DeleteMarker></ListVersionsResult>";
        let found = read_versions(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].key.as_str(), found[0].bytes), ("a & b", 7));
        assert!(!found[0].is_marker && found[1].is_marker && found[1].is_latest);
    }
}
