//! One backup goes from one repository to another: artifacts first, each read back and compared,
//! then the manifest.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use super::{CopyItem, CopyPlan, Fate};
use crate::backup::{NotCommitted, commit};
use crate::catalog::{SourceEntry, SourceRecord};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{Artifact, MANIFEST_BYTES_MAX, Manifest, format_of};
use crate::marks::{self, Begun, MarkKind};
use crate::pipeline::{Expectation, Sha256Hex, read_back_bytes, seal_anew};
use crate::repository::Repository;
use crate::seal;
use crate::store::{ObjectName, Store, get_bytes, put_bytes};

/// The longest mark that is copied, in bytes.
const MARK_BYTES_MAX: u64 = 1 << 20;

pub(super) struct Copier<'a> {
    pub(super) env: &'a Env,
    pub(super) from: &'a Repository,
    pub(super) entry: &'a SourceEntry,
    pub(super) to: &'a Repository,
    pub(super) folder: String,
    pub(super) own: SourceRecord,
}

/// The name of an artifact that is sealed on the way.
pub(super) fn sealed_name(artifact: &Artifact) -> String {
    match artifact.sealed {
        Some(_) => artifact.name.clone(),
        None => format!("{}{}", artifact.name, seal::SUFFIX),
    }
}

/// Whether an object has the bytes that its artifact says.
pub(super) fn is_whole(
    env: &Env,
    repository: &Repository,
    object: &ObjectName,
    artifact: &Artifact,
) -> Result<bool> {
    let (phase, bytes_total) = ("comparing", Some(artifact.stored_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let read = read(env, repository.store(), object, artifact, &mut |_| Ok(()));
    env.tell(Event::PhaseEnded { phase });
    match read {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Copier<'_> {
    /// Sends a backup that is not there. What was sent when it fails stays for the next copy, as
    /// long as its bytes are good; a mark says whose it is.
    pub(super) fn copy(&self, item: &CopyItem) -> Result<()> {
        let begun = self.note_begun(&item.backup)?;
        self.env.crash.pass("copy.begun")?;
        let sent = self.send_all(item);
        let manifest_may_exist = match &sent {
            Ok(()) => true,
            Err(failed) => failed.manifest_may_exist,
        };
        let ended = sent.map_err(|failed| failed.error);
        match &ended {
            // It is for the next copy, or for a prune.
            Err(error) if error.kind() != Kind::CheckFailed || manifest_may_exist => return ended,
            Err(_) => self.delete_rest(item)?,
            Ok(()) => {}
        }
        if let Err(error) = self.to.store().delete(&begun) {
            self.env.warn(&self.folder, &format!("{begun} is left behind: {error}"));
        }
        ended
    }

    fn send_all(&self, item: &CopyItem) -> Result<(), NotCommitted> {
        let never = |error| NotCommitted { error, manifest_may_exist: false };
        let mut manifest = item.manifest.clone();
        manifest.source.id = self.own.id;
        manifest.artifacts.clear();
        for artifact in &item.artifacts {
            let stored = match item.sealed_anew {
                true => self.seal(artifact, item),
                false => self.send(artifact, item).map(|()| artifact.clone()),
            };
            manifest.artifacts.push(stored.map_err(never)?);
            self.env.crash.pass("copy.artifact.read_back").map_err(never)?;
        }
        manifest.format = format_of(&manifest.artifacts).max(item.manifest.format);
        self.env.crash.pass("copy.before_manifest").map_err(never)?;
        match commit(self.env, self.to, &self.folder, &manifest) {
            // Another copy was faster: it is the same backup.
            Err(failed) if failed.error.kind() == Kind::Refused && self.is_there(&manifest) => {}
            committed => committed?,
        }
        self.env
            .crash
            .pass("copy.committed")
            .map_err(|error| NotCommitted { error, manifest_may_exist: true })
    }

    fn is_there(&self, wanted: &Manifest) -> bool {
        let object = self.to.object(&self.folder, &format!("{}.json", wanted.name));
        let found = object.and_then(|object| {
            let bytes = get_bytes(self.to.store(), &object, MANIFEST_BYTES_MAX)?;
            Manifest::parse(&bytes, object.as_str())
        });
        found.is_ok_and(|found| found.id == wanted.id && found.artifacts == wanted.artifacts)
    }

    /// What came of a backup whose bytes are not those of its manifest.
    fn delete_rest(&self, item: &CopyItem) -> Result<()> {
        for artifact in &item.artifacts {
            let name = match item.sealed_anew {
                true => sealed_name(artifact),
                false => artifact.name.clone(),
            };
            let object = self.to.object(&self.folder, &name)?;
            // What was there before is left to a prune: it may be named by its own run yet.
            if item.rest.iter().any(|left| left.name == object) {
                continue;
            }
            if let Err(error) = self.to.store().delete(&object) {
                self.env.warn(&self.folder, &format!("{object} is left behind: {error}"));
            }
        }
        Ok(())
    }

    /// Puts again what is missing or damaged. What is there goes first, as nothing is overwritten;
    /// not before it is sure that what comes is better.
    pub(super) fn repair(&self, item: &CopyItem) -> Result<()> {
        for artifact in &item.artifacts {
            let source = self.from.object(&self.entry.folder, &artifact.name)?;
            read(self.env, self.from.store(), &source, artifact, &mut |_| Ok(()))?;
            self.env.crash.pass("copy.repair.compared")?;
            self.to.store().delete(&self.to.object(&self.folder, &artifact.name)?)?;
            self.env.crash.pass("copy.repair.deleted")?;
            self.send(artifact, item)?;
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
            is_copy: true,
        };
        let object = ObjectName::new(MarkKind::Begun.object(&self.folder, name))?;
        match put_bytes(self.to.store(), &object, &marks::to_bytes(&mark)) {
            Err(error) if error.kind() != Kind::Refused => Err(error),
            _ => Ok(object),
        }
    }

    /// Streams an artifact over. What does not have the hash of its manifest is never committed.
    /// What a killed copy left is taken as it is, if it is right.
    fn send(&self, artifact: &Artifact, item: &CopyItem) -> Result<()> {
        let (env, phase) = (self.env, "copying");
        let source = self.from.object(&self.entry.folder, &artifact.name)?;
        let object = self.to.object(&self.folder, &artifact.name)?;
        if item.rest.iter().any(|left| left.name == object) {
            match is_whole(env, self.to, &object, artifact)? {
                true => return Ok(()),
                false => self.to.store().delete(&object)?,
            }
        }
        let bytes_total = Some(2 * artifact.stored_bytes);
        env.tell(Event::PhaseBegan { subject: &self.folder, phase, bytes_total });
        let mut put = self.to.store().put(&object)?;
        let url = self.to.url();
        read(env, self.from.store(), &source, artifact, &mut |bytes| {
            put.write_all(bytes).map_err(|error| {
                let message = format!("cannot write {object} to {url}");
                Error::io(Kind::StoreUnavailable, message, error)
            })
        })?;
        match put.commit() {
            // Another copy was faster: it is compared like ours.
            Err(error) if error.kind() == Kind::Refused => {}
            committed => committed?,
        }
        env.crash.pass("copy.artifact.committed")?;
        let read_back = read(env, self.to.store(), &object, artifact, &mut |_| Ok(()));
        env.tell(Event::PhaseEnded { phase });
        read_back
    }

    /// The same, and its seal is one for the recipients there: what it is now.
    fn seal(&self, artifact: &Artifact, item: &CopyItem) -> Result<Artifact> {
        let (env, phase) = (self.env, "sealing anew");
        let bytes_total = Some(2 * artifact.stored_bytes);
        let source = self.from.object(&self.entry.folder, &artifact.name)?;
        let name = sealed_name(artifact);
        let object = self.to.object(&self.folder, &name)?;
        let Some(recipients) = self.to.recipients() else {
            return Err(Error::new(Kind::Failed, format!("{} does not seal", self.to.url())));
        };
        if item.rest.iter().any(|left| left.name == object) {
            self.to.store().delete(&object)?;
        }
        env.tell(Event::PhaseBegan { subject: &self.folder, phase, bytes_total });
        let opener = self.from.wrapping(artifact)?.opener;
        let expectation = Expectation {
            object: &artifact.name,
            stored: Some((artifact.stored_bytes, artifact.stored_sha256.clone())),
            ..Expectation::default()
        };
        let progress = |bytes| {
            env.proceed()?;
            env.tell(Event::Advanced { bytes });
            Ok(())
        };
        let reader = self.from.store().get(&source, None)?;
        let put = self.to.store().put(&object)?;
        let sealed = seal_anew((reader, opener), &expectation, (put, recipients), &progress)?;
        env.crash.pass("copy.artifact.committed")?;
        read_back_bytes(self.to.store(), &object, &sealed, env.threads, &progress)?;
        env.tell(Event::PhaseEnded { phase });
        Ok(Artifact {
            name,
            stored_bytes: sealed.stored_bytes,
            stored_sha256: sealed.stored_sha256.to_string(),
            sealed: self.to.seal(),
            ..artifact.clone()
        })
    }

    /// Pins, markers and outcomes of what is there now and has none of its own.
    pub(super) fn copy_marks(&self, plan: &CopyPlan) -> Result<()> {
        for item in &plan.items {
            if !matches!(item.fate, Fate::There | Fate::Copy | Fate::Repair) {
                continue;
            }
            let known = [
                (MarkKind::Pin, self.entry.pins.iter().any(|pin| pin.backup == item.backup)),
                (MarkKind::Marker, self.entry.markers.iter().any(|it| it.backup == item.backup)),
                (MarkKind::Outcome, self.entry.outcomes.iter().any(|it| it.backup == item.backup)),
            ];
            for (kind, _) in known.into_iter().filter(|(_, is_there)| *is_there) {
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

/// Reads an object to its end and compares it with its artifact.
fn read(
    env: &Env,
    store: &dyn Store,
    object: &ObjectName,
    artifact: &Artifact,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (bytes, hash) = hashed(env, store, object, each)?;
    match bytes == artifact.stored_bytes && hash == artifact.stored_sha256 {
        true => Ok(()),
        false => Err(Error::new(
            Kind::CheckFailed,
            format!("{object} of {} is not what its manifest says", store.url()),
        )
        .hint("lifeboat verify says more; copy it from another repository with --from")),
    }
}

/// Reads an object to its end: its size and SHA-256.
pub(super) fn hashed(
    env: &Env,
    store: &dyn Store,
    object: &ObjectName,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(u64, String)> {
    let mut reader = store.get(object, None)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        env.proceed()?;
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
        env.tell(Event::Advanced { bytes: count as u64 });
    }
    Ok((bytes, Sha256Hex(hash.finalize().into()).to_string()))
}
