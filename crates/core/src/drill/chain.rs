//! The chains of proofs in a repository: one for each installation that made drills from it.
//!
//! `drills/<installation>/<sequence>.json`, each with the SHA-256 of the one before. Objects are
//! put only if absent, so two drills at once never take one place. That the newest ones were
//! removed shows where somebody remembers them: the host that made them, and the marks of the
//! backups.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::key::{ProofKey, sha256};
use super::record::{DrillRecord, Drilled, Proof};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::marks::{self, MarkKind};
use crate::parallel::in_parallel;
use crate::repository::Repository;
use crate::store::{ObjectInfo, ObjectName, Store, get_bytes, put_bytes};

const FOLDER: &str = "drills";
const PROOF_BYTES_MAX: u64 = 16 << 20;
/// No more are remembered.
const RIGHT_ONES_MAX: usize = 50_000;
/// How often the next place is tried for, when others are faster.
const ATTEMPTS_MAX: usize = 20;

/// The end of a chain, as somebody knows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// The number of the last proof.
    pub sequence: u64,
    /// The SHA-256 of its object.
    pub sha256: String,
}

/// A place in a chain.
#[derive(Debug)]
pub struct Link {
    /// The object.
    pub object: String,
    /// The number in its name.
    pub sequence: u64,
    /// The SHA-256 of its bytes; none where they could not be read.
    pub sha256: Option<String>,
    /// What it holds, if that was signed.
    pub proof: Result<Proof>,
}

/// All proofs of an installation, in their order.
#[derive(Debug)]
pub struct Chain {
    /// The installation.
    pub installation: String,
    /// Its proofs.
    pub links: Vec<Link>,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The object that it is about.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

fn object_of(installation: &str, sequence: u64) -> Result<ObjectName> {
    ObjectName::new(format!("{FOLDER}/{installation}/{sequence:010}.json"))
}

/// Installation and number of an object that is named like a proof.
fn place_of(object: &str) -> Option<(&str, u64)> {
    let (installation, file) = object.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    let digits = file.strip_suffix(".json")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((installation, digits.parse().ok().filter(|_| plain)?))
}

/// Puts a record at the end of the chain of its installation, signed, and reads it back. `known` is
/// the end that this host remembers: a chain that is shorter was cut, and goes on behind the gap,
/// so that the gap stays to be seen.
pub fn append(
    repository: &Repository,
    key: &ProofKey,
    mut record: DrillRecord,
    known: Option<&Head>,
) -> Result<(Proof, String, Head)> {
    let store = repository.store();
    let installation = key.installation();
    (record.installation, record.public_key) = (installation.clone(), key.public());
    for _ in 0..ATTEMPTS_MAX {
        let stored = head_of(repository, &installation)?;
        let end = match (stored, known) {
            (Some(stored), Some(known)) if known.sequence > stored.sequence => Some(known.clone()),
            (None, Some(known)) => Some(known.clone()),
            (stored, _) => stored,
        };
        record.sequence = end.as_ref().map_or(0, |end| end.sequence) + 1;
        record.previous = end.map(|end| end.sha256);
        let proof = Proof::sign(record.clone(), key);
        let (bytes, object) = (proof.to_bytes(), object_of(&installation, record.sequence)?);
        match put_bytes(store, &object, &bytes) {
            Err(error) if error.kind() == Kind::Refused => continue,
            put => put?,
        }
        if get_bytes(store, &object, PROOF_BYTES_MAX)? != bytes {
            let message = format!("{object} was not stored as it was written");
            return Err(Error::new(Kind::CheckFailed, message).hint("lifeboat doctor"));
        }
        let head = Head { sequence: record.sequence, sha256: sha256(&bytes) };
        return Ok((proof, object.to_string(), head));
    }
    Err(Error::new(Kind::Locked, "other drills store their proofs all the time")
        .hint("run the drill again"))
}

/// The end of a chain as the repository has it.
fn head_of(repository: &Repository, installation: &str) -> Result<Option<Head>> {
    let objects = repository.store().list(Some(&format!("{FOLDER}/{installation}")))?;
    let last = objects.iter().filter_map(|object| {
        place_of(object.name.as_str()).map(|(_, sequence)| (sequence, &object.name))
    });
    let Some((sequence, name)) = last.max_by_key(|(sequence, _)| *sequence) else {
        return Ok(None);
    };
    let bytes = get_bytes(repository.store(), name, PROOF_BYTES_MAX)?;
    Ok(Some(Head { sequence, sha256: sha256(&bytes) }))
}

/// Notes beside a backup how its drill went. What was noted before is replaced.
pub fn mark(env: &Env, repository: &Repository, folder: &str, drilled: &Drilled) -> Result<()> {
    let object = ObjectName::new(MarkKind::Drilled.object(folder, &drilled.backup))?;
    let store = repository.store();
    if store.head(&object)?.is_some() {
        store.delete(&object)?;
    }
    env.crash.pass("drill.mark")?;
    match put_bytes(store, &object, &marks::to_bytes(drilled)) {
        // Another drill of the same backup was faster: its word is as good.
        Err(error) if error.kind() == Kind::Refused => Ok(()),
        put => put,
    }
}

/// Signatures that were found right, by the SHA-256 of the proof's bytes: who looks again and again
/// reads and hashes each proof, and checks the signature of what is new.
#[derive(Default)]
pub struct RightOnes(Mutex<HashSet<String>>);

impl RightOnes {
    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a proof whose bytes have that SHA-256.
    fn read(&self, bytes: &[u8], sha256: &str, object: &str) -> Result<Proof> {
        let was_right = self.known().contains(sha256);
        let proof = Proof::read(bytes, object, was_right)?;
        if !was_right {
            let mut known = self.known();
            if known.len() >= RIGHT_ONES_MAX {
                known.clear();
            }
            known.insert(sha256.to_owned());
        }
        Ok(proof)
    }
}

/// Reads all chains of a repository.
pub fn chains(repository: &Repository) -> Result<Vec<Chain>> {
    chains_again(repository, &RightOnes::default())
}

/// The same, by who looks again.
pub fn chains_again(repository: &Repository, right: &RightOnes) -> Result<Vec<Chain>> {
    let store = repository.store();
    let objects: Vec<_> = store
        .list(Some(FOLDER))?
        .into_iter()
        .filter(|object| place_of(object.name.as_str()).is_some())
        .collect();
    let read = in_parallel(&objects, store.readers(), |object| link_of(store, object, right));
    let mut chains: BTreeMap<String, Vec<Link>> = BTreeMap::new();
    for link in read {
        let link = link?;
        let Some((installation, _)) = place_of(&link.object) else { continue };
        chains.entry(installation.to_owned()).or_default().push(link);
    }
    let chains = chains.into_iter().map(|(installation, mut links)| {
        links.sort_by_key(|link| link.sequence);
        Chain { installation, links }
    });
    Ok(chains.collect())
}

/// Reads a proof. Damage is told in it; what is of the store ends it all.
fn link_of(store: &dyn Store, object: &ObjectInfo, right: &RightOnes) -> Result<Link> {
    let name = object.name.to_string();
    let sequence = place_of(&name).map_or(0, |(_, sequence)| sequence);
    let bytes = match get_bytes(store, &object.name, PROOF_BYTES_MAX) {
        Err(error) if !matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            return Err(error);
        }
        bytes => bytes,
    };
    let sha256 = bytes.as_ref().ok().map(|bytes| sha256(bytes));
    let hash = sha256.as_deref().unwrap_or_default();
    let proof = bytes.and_then(|bytes| right.read(&bytes, hash, &name));
    Ok(Link { object: name, sequence, sha256, proof })
}

/// Everything that is wrong with a chain: proofs that were changed, removed, moved or put in from
/// elsewhere. `known` is its end as this host remembers it, `marks` what backups say of their
/// proofs.
pub fn verify(
    repository: &Repository,
    chain: &Chain,
    known: Option<&Head>,
    marks: &[Drilled],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |object: &str, message: String| {
        findings.push(Finding { object: object.to_owned(), message });
    };
    let mut before: Option<&Link> = None;
    for link in &chain.links {
        let expected = before.map_or(0, |before| before.sequence) + 1;
        if link.sequence != expected {
            let missing = format!("the proofs {expected} to {} are missing", link.sequence - 1);
            find(&link.object, missing);
        }
        match &link.proof {
            Err(error) => find(&link.object, error.message().to_owned()),
            Ok(Proof { record, .. }) => {
                let previous = before.and_then(|before| before.sha256.clone());
                for message in place_findings(repository, chain, link, record) {
                    find(&link.object, message);
                }
                if link.sequence == expected && record.previous != previous {
                    find(&link.object, "the proof before it is not the one that it names".into());
                }
                let earlier = before.and_then(|before| before.proof.as_ref().ok());
                if earlier.is_some_and(|earlier| earlier.record.ended_at > record.ended_at) {
                    find(&link.object, "it ended before the proof that comes before it".into());
                }
            }
        }
        before = Some(link);
    }
    let last = before.map_or(0, |last| last.sequence);
    let hash_of = |sequence: u64| {
        let link = chain.links.iter().find(|link| link.sequence == sequence);
        link.and_then(|link| link.sha256.as_deref())
    };
    if let Some(known) = known {
        let object = format!("{FOLDER}/{}/{:010}.json", chain.installation, known.sequence);
        match hash_of(known.sequence) {
            Some(hash) if hash == known.sha256 => {}
            Some(_) => find(&object, "it is not the one that this host stored".to_owned()),
            None if known.sequence > last => {
                find(&object, "it was stored by this host, and is missing".to_owned());
            }
            // The gap is told already.
            None => {}
        }
    }
    for mark in marks {
        let (Some(object), Some(sha256)) = (&mark.proof, &mark.proof_sha256) else { continue };
        let place = place_of(object).filter(|(of, _)| *of == chain.installation);
        let Some((_, sequence)) = place else { continue };
        match hash_of(sequence) {
            Some(hash) if hash == sha256 => {}
            Some(_) => find(object, format!("it is not the one that {} names", mark.backup)),
            None if sequence > last => {
                find(object, format!("it is missing, and {} names it", mark.backup));
            }
            None => {}
        }
    }
    findings
}

/// Whether a proof belongs where it lies.
fn place_findings(
    repository: &Repository,
    chain: &Chain,
    link: &Link,
    record: &DrillRecord,
) -> Vec<String> {
    let mut found = Vec::new();
    if record.installation != chain.installation {
        found.push(format!("it is of the installation {}", record.installation));
    }
    if record.sequence != link.sequence {
        found.push(format!("it is the proof {} of its chain", record.sequence));
    }
    if record.repository != repository.header().id {
        found.push(format!("it is of another repository, {}", record.repository_url));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{key, record};
    use super::*;

    #[test]
    fn a_signature_is_checked_once_for_the_same_bytes_and_always_for_others() {
        let right = RightOnes::default();
        let bytes = Proof::sign(record(1), &key()).to_bytes();
        let hash = sha256(&bytes);
        for _ in 0..2 {
            assert_eq!(right.read(&bytes, &hash, "x").unwrap().record, record(1));
            assert_eq!(right.known().len(), 1);
        }
        let text = String::from_utf8(bytes).unwrap();
        let changed = text.replace("\"passed\": true", "\"passed\": false").into_bytes();
        for _ in 0..2 {
            let error = right.read(&changed, &sha256(&changed), "x").unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed);
            assert_eq!(right.known().len(), 1);
        }
    }
}
