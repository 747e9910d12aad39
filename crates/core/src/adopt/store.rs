//! A sound file becomes a backup: artifact, read back, manifest, and then the original may go.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::look::{Because, Candidate, Known, Look, LookOptions, Sound, look};
use super::names::Occasion;
use super::survey::{self, Stat};
use crate::backup::commit;
use crate::backup::lock::SourceLock;
use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{
    Adopted, Artifact, Check, CheckOutcome, Condition, Manifest, Method, Purpose, SourceLabel,
    format_of,
};
use crate::names::NamePattern;
use crate::pipeline::{
    Compression, EncodeOptions, Expectation, Sha256Hex, Wrapping, decode, encode,
};
use crate::repository::{Repository, SourceIdentity};
use crate::scratch::expectation;
use crate::seal::opener_of;
use crate::source::Sink;
use crate::store::ObjectName;

/// Everything that files of one source are adopted with.
pub struct AdoptRequest<'a> {
    /// The source whose backups they become.
    pub identity: SourceIdentity,
    /// How its backups are named.
    pub pattern: NamePattern,
    /// The compression of what is plain.
    pub compression: Compression,
    /// How files are looked into.
    pub look: LookOptions<'a>,
    /// The zone in which names were read, for the manifest.
    pub zone: &'a str,
    /// Whether each original goes once its backup was read back.
    pub remove_originals: bool,
    /// Where locks are kept, if anywhere.
    pub lock_folder: Option<&'a Path>,
    /// The program and its version, for the manifest.
    pub tool: &'a str,
}

/// What became of an original that was to go.
#[derive(Debug)]
pub enum Removal {
    /// Nobody asked for it.
    NotAsked,
    /// It is gone.
    Removed,
    /// It is still there, for this reason.
    Kept(String),
}

/// What became of a file.
#[derive(Debug)]
pub enum Outcome {
    /// It is a backup now.
    Adopted(Box<Manifest>, Removal),
    /// It was adopted before, as the backup of that name.
    Already(String, Removal),
    /// It is left as it is.
    Left(Because, String),
}

/// The adoption of files of one source. Holds the source's lock from the first file on that is
/// worth it, so that no folder is made for nothing.
pub struct Adoption<'a> {
    env: &'a Env,
    repository: &'a Repository,
    request: &'a AdoptRequest<'a>,
    claimed: Option<Claimed>,
}

struct Claimed {
    folder: String,
    record: SourceRecord,
    known: Known,
    backups: Vec<Manifest>,
    /// The names of all files in the folder.
    files: HashSet<String>,
    _lock: SourceLock,
}

impl<'a> Adoption<'a> {
    /// Begins with a source that the repository may know already.
    pub fn begin(
        env: &'a Env,
        repository: &'a Repository,
        request: &'a AdoptRequest<'a>,
    ) -> Result<Self> {
        let mut adoption = Adoption { env, repository, request, claimed: None };
        let catalog = repository.catalog()?;
        if catalog.sources.iter().any(|entry| request.identity.is(&entry.record)) {
            adoption.claim()?;
        }
        Ok(adoption)
    }

    /// The source's folder, once there is one.
    pub fn folder(&self) -> Option<&str> {
        self.claimed.as_ref().map(|claimed| claimed.folder.as_str())
    }

    fn claim(&mut self) -> Result<&mut Claimed> {
        let claimed = match self.claimed.take() {
            Some(claimed) => claimed,
            None => {
                let (env, request) = (self.env, self.request);
                let (folder, record) = self.repository.claim(env, &request.identity)?;
                let lock = SourceLock::take(
                    env,
                    request.lock_folder,
                    &record,
                    self.repository.header().id,
                )?;
                let list = self.repository.store().list(Some(&folder))?;
                let files = list.iter().map(|object| object.name.file_name().to_owned()).collect();
                let catalog = self.repository.catalog()?;
                let entry = catalog.sources.into_iter().find(|entry| entry.folder == folder);
                let known = entry.as_ref().map(Known::of).unwrap_or_default();
                let backups = entry.map(|entry| entry.backups).unwrap_or_default();
                Claimed { folder, record, known, backups, files, _lock: lock }
            }
        };
        Ok(self.claimed.insert(claimed))
    }

    /// Adopts one file, if it is sound and was not adopted before. An error ends the run: the next
    /// file could not be adopted either.
    pub fn one(&mut self, candidate: &Candidate) -> Result<Outcome> {
        let (env, request) = (self.env, self.request);
        env.proceed()?;
        let nothing = Known::default();
        let known = self.claimed.as_ref().map_or(&nothing, |claimed| &claimed.known);
        match look(env, candidate, known, &request.look)? {
            Look::Left(because, why) => Ok(Outcome::Left(because, why)),
            Look::Known(known) => {
                let removal = match known.is_listed {
                    true => self.remove_known(candidate, &known.name)?,
                    false => self.not_listed(),
                };
                Ok(Outcome::Already(known.name, removal))
            }
            Look::Sound(mut sound) => match self.store(candidate, &mut sound) {
                Ok(manifest) => {
                    let removal = self.remove(candidate)?;
                    Ok(Outcome::Adopted(Box::new(manifest), removal))
                }
                Err(error) if error.kind() == Kind::SourceUnavailable => {
                    Ok(Outcome::Left(Because::Unread, error.to_string()))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn store(&mut self, candidate: &Candidate, sound: &mut Sound) -> Result<Manifest> {
        let (env, request, known) = (self.env, self.request, self.repository);
        let begun_ms = env.clock.monotonic_ms();
        let claimed = self.claim()?;
        let place = Place::free(env, known, request, claimed, candidate, sound)?;
        // What a killed run left was found with the key at hand; what is stored now needs none.
        let repository = &match place.is_there {
            true => known.clone(),
            false => known.with_passing_key(),
        };
        let store = repository.store();
        let stored = match place.is_there {
            true => stored_before(store, &place.object),
            false => put(env, repository, request, &place, candidate, sound),
        }?;
        let artifact = Artifact {
            role: candidate.script.content.role().into(),
            name: place.file.clone(),
            compression: place.compression.word().into(),
            stored_bytes: stored.0,
            stored_sha256: stored.1,
            plain_bytes: sound.plain_bytes,
            plain_sha256: sound.plain_sha256.clone(),
            sealed: repository.seal(),
            file: None,
        };
        let mut manifest_may_exist = false;
        let committed = (|| {
            env.crash.pass("adopt.artifact.committed")?;
            let read_back_ms = read_back(env, repository, &place.object, &artifact)?;
            env.crash.pass("adopt.artifact.read_back")?;
            let total_ms = env.elapsed_ms(begun_ms);
            let mut manifest =
                manifest(env, request, &claimed.record, candidate, sound, &place.name);
            manifest.artifacts.push(artifact);
            manifest.format = format_of(&manifest.artifacts);
            manifest.checks.insert(0, read_back_check(read_back_ms));
            manifest.timings_ms.insert("read_back".into(), read_back_ms);
            manifest.timings_ms.insert("total".into(), total_ms);
            env.crash.pass("adopt.before_manifest")?;
            env.proceed()?;
            commit(env, repository, &claimed.folder, &manifest).map_err(|failed| {
                manifest_may_exist = failed.manifest_may_exist;
                failed.error
            })?;
            manifest_may_exist = true;
            env.crash.pass("adopt.after_manifest")?;
            Ok(manifest)
        })();
        if committed.is_err()
            && !manifest_may_exist
            && let Err(error) = store.delete(&place.object)
        {
            let left = format!("{} is left behind, without a manifest: {error}", place.object);
            env.warn(&claimed.folder, &left);
        }
        let manifest: Manifest = committed?;
        env.tell(Event::BackupCommitted { subject: &claimed.folder, name: &manifest.name });
        let (sha256, name) = (sound.sha256.clone(), manifest.name.clone());
        claimed.known.add(sha256, candidate.file_name().to_owned(), name);
        claimed.files.extend([place.file, format!("{}.json", manifest.name)]);
        claimed.backups.push(manifest.clone());
        Ok(manifest)
    }

    /// Removes an original whose backup was committed by an earlier run, once it was read again.
    fn remove_known(&self, candidate: &Candidate, backup: &str) -> Result<Removal> {
        if !self.request.remove_originals {
            return Ok(Removal::NotAsked);
        }
        let Some(claimed) = &self.claimed else { return Ok(Removal::NotAsked) };
        let manifest = claimed.backups.iter().find(|manifest| manifest.name == backup);
        let Some(artifact) = manifest.and_then(|manifest| manifest.artifacts.first()) else {
            return Ok(Removal::Kept(format!("{backup} names no artifact")));
        };
        let object = self.repository.object(&claimed.folder, &artifact.name)?;
        match read_back(self.env, self.repository, &object, artifact) {
            Ok(_) => self.remove(candidate),
            Err(error) => Ok(Removal::Kept(format!("its backup {backup} is not sound: {error}"))),
        }
    }

    fn not_listed(&self) -> Removal {
        match self.request.remove_originals {
            true => Removal::Kept("its backup was removed by a prune".into()),
            false => Removal::NotAsked,
        }
    }

    /// Removes an original, if it still is the file that was read.
    fn remove(&self, candidate: &Candidate) -> Result<Removal> {
        if !self.request.remove_originals {
            return Ok(Removal::NotAsked);
        }
        let path = &candidate.path;
        let removed = match Stat::of_path(path) {
            Ok(now) if now == Some(candidate.stat) => fs::remove_file(path),
            Ok(_) => return Ok(Removal::Kept("it changed after it was read".into())),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            return Ok(Removal::Kept(format!("it cannot be removed: {error}")));
        }
        self.env.crash.pass("adopt.original_removed")?;
        Ok(Removal::Removed)
    }
}

/// Where a backup goes.
struct Place {
    name: String,
    file: String,
    object: ObjectName,
    compression: Compression,
    /// A run that was killed stored it already.
    is_there: bool,
}

impl Place {
    /// A name that no backup has: several files may be of one moment.
    fn free(
        env: &Env,
        repository: &Repository,
        request: &AdoptRequest<'_>,
        claimed: &Claimed,
        candidate: &Candidate,
        sound: &Sound,
    ) -> Result<Place> {
        let compression = match sound.compression {
            Compression::None => request.compression,
            as_it_is => as_it_is,
        };
        let plain = request.pattern.name(&claimed.record.name, candidate.decided.taken_at);
        let extension = candidate.script.content.extension();
        for number in 1..10_000 {
            let name = if number == 1 { plain.clone() } else { format!("{plain}-{number}") };
            let suffixes = (compression.suffix(), repository.seal_suffix());
            let file = format!("{name}.{extension}{}{}", suffixes.0, suffixes.1);
            let stem = format!("{name}.");
            let mut of_name = claimed.files.iter().filter(|other| other.starts_with(&stem));
            let object = repository.object(&claimed.folder, &file)?;
            match (of_name.next(), of_name.next()) {
                (None, _) => return Ok(Place { name, file, object, compression, is_there: false }),
                // Without a manifest: what a killed run left, if it is the same.
                (Some(one), None)
                    if *one == file && holds(env, repository, &object, compression, sound) =>
                {
                    return Ok(Place { name, file, object, compression, is_there: true });
                }
                _ => {}
            }
        }
        Err(Error::new(Kind::Failed, format!("every name like `{plain}` is taken")))
    }
}

/// Whether an object is a whole artifact with that content.
fn holds(
    env: &Env,
    repository: &Repository,
    object: &ObjectName,
    compression: Compression,
    sound: &Sound,
) -> bool {
    let mut wrapping = Wrapping::from(compression);
    if let Some(seal) = repository.seal() {
        // Without a key nobody can tell, and another name is taken.
        match opener_of(repository.keys().map(|keys| &**keys), object.as_str(), &seal.to) {
            Ok(opener) => wrapping.opener = Some(opener),
            Err(_) => return false,
        }
    }
    let Ok(reader) = repository.store().get(object, None) else { return false };
    let expectation = Expectation {
        object: object.as_str(),
        plain: Some((sound.plain_bytes, sound.plain_sha256.clone())),
        plain_bytes_max: Some(sound.plain_bytes),
        ..Expectation::default()
    };
    decode(reader, wrapping, env.threads, &expectation, &mut |_| Ok(())).is_ok()
}

/// Stores the artifact: size and SHA-256 as stored.
fn put(
    env: &Env,
    repository: &Repository,
    request: &AdoptRequest<'_>,
    place: &Place,
    candidate: &Candidate,
    sound: &mut Sound,
) -> Result<(u64, String)> {
    let (phase, bytes_total) = ("storing", Some(candidate.stat.bytes));
    env.tell(Event::PhaseBegan { subject: candidate.file_name(), phase, bytes_total });
    let put = repository.store().put(&place.object)?;
    let as_it_is = sound.compression != Compression::None;
    let options = EncodeOptions {
        compression: if as_it_is { Compression::None } else { request.compression },
        block_bytes: None,
        observer: None,
        threads: env.threads,
        plain_bytes_estimate: sound.plain_bytes,
        seal: repository.recipients().cloned(),
    };
    if as_it_is {
        let mut file = survey::open(&candidate.path, &candidate.stat)?;
        let encoded =
            encode(&options, put, &|bytes| env.tell(Event::Advanced { bytes }), |sink| {
                match copy(&mut file, candidate, sink)? == sound.sha256 {
                    true => Ok(()),
                    false => Err(survey::changed(&candidate.path)),
                }
            })?;
        env.tell(Event::PhaseEnded { phase });
        return Ok((encoded.stored_bytes, encoded.stored_sha256.to_string()));
    }
    let scratch = sound.scratch.file();
    let encoded = encode(&options, put, &|bytes| env.tell(Event::Advanced { bytes }), |sink| {
        fill(scratch, sink)
    })?;
    env.tell(Event::PhaseEnded { phase });
    if encoded.plain_sha256.to_string() != sound.plain_sha256 {
        // Our own scratch file: a disk that does not give back what it was given.
        let _ = repository.store().delete(&place.object);
        let message = format!("the scratch file of {} changed", candidate.path.display());
        return Err(Error::new(Kind::CheckFailed, message)
            .hint("check the disk, or choose another folder for scratch files with TMPDIR"));
    }
    Ok((encoded.stored_bytes, encoded.stored_sha256.to_string()))
}

fn fill(scratch: &mut File, sink: &mut dyn Sink) -> Result<()> {
    let failed = |error| Error::io(Kind::Failed, "cannot read a scratch file", error);
    scratch.rewind().map_err(failed)?;
    loop {
        match scratch.read(sink.buffer()).map_err(failed)? {
            0 => return Ok(()),
            got => sink.advance(got)?,
        }
    }
}

/// Copies a file: its SHA-256.
fn copy(file: &mut File, candidate: &Candidate, sink: &mut dyn Sink) -> Result<String> {
    let name = candidate.path.display();
    let mut hash = Sha256::new();
    loop {
        let buffer = sink.buffer();
        let got = file.read(buffer).map_err(|error| {
            Error::io(Kind::SourceUnavailable, format!("cannot read {name}"), error)
        })?;
        if got == 0 {
            return Ok(Sha256Hex(hash.finalize().into()).to_string());
        }
        hash.update(&buffer[..got]);
        sink.advance(got)?;
    }
}

/// Size and SHA-256 of an object that is there.
fn stored_before(store: &dyn crate::store::Store, object: &ObjectName) -> Result<(u64, String)> {
    let mut reader = store.get(object, None)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let got = reader.read(&mut buffer).map_err(|error| {
            Error::io(Kind::StoreUnavailable, format!("cannot read {object}"), error)
        })?;
        if got == 0 {
            return Ok((bytes, Sha256Hex(hash.finalize().into()).to_string()));
        }
        hash.update(&buffer[..got]);
        bytes += got as u64;
    }
}

/// Reads an artifact from the repository and compares all: the bytes as stored, and what they hold
/// with what was checked. Gives the milliseconds that it took.
fn read_back(
    env: &Env,
    repository: &Repository,
    object: &ObjectName,
    artifact: &Artifact,
) -> Result<u64> {
    let begun_ms = env.clock.monotonic_ms();
    let (phase, bytes_total) = ("reading back", Some(artifact.plain_bytes));
    env.tell(Event::PhaseBegan { subject: &artifact.name, phase, bytes_total });
    let wrapping = repository.wrapping(artifact)?;
    let reader = repository.store().get(object, None)?;
    decode(reader, wrapping, env.threads, &expectation(artifact), &mut |plain| {
        env.tell(Event::Advanced { bytes: plain.len() as u64 });
        Ok(())
    })?;
    env.tell(Event::PhaseEnded { phase });
    Ok(env.elapsed_ms(begun_ms))
}

fn read_back_check(elapsed_ms: u64) -> Check {
    Check {
        name: "read_back".into(),
        on: "stored-bytes".into(),
        outcome: CheckOutcome::Passed,
        notes: Vec::new(),
        elapsed_ms,
    }
}

/// Everything of the manifest but its artifact and what is known after it was stored.
fn manifest(
    env: &Env,
    request: &AdoptRequest<'_>,
    record: &SourceRecord,
    candidate: &Candidate,
    sound: &Sound,
    name: &str,
) -> Manifest {
    let mut timings = BTreeMap::new();
    let checks = sound.check.iter().flat_map(|check| {
        timings.insert("check".to_owned(), check.elapsed_ms);
        check.what.iter().map(|what| Check {
            name: what.clone(),
            on: "scratch-restore".into(),
            outcome: check.outcome,
            notes: check.notes.clone(),
            elapsed_ms: check.elapsed_ms,
        })
    });
    let checks = checks.collect();
    let from_version = match &candidate.script.occasion {
        Occasion::Migration(version) => Some(version.clone()),
        _ => None,
    };
    Manifest {
        format: format_of(&[]),
        id: env.new_uuid(),
        name: name.to_owned(),
        source: SourceLabel {
            id: record.id,
            name: record.name.clone(),
            kind: record.kind.clone(),
            host: record.host.clone(),
            location: record.location.clone(),
        },
        method: Method::Adopted,
        taken_at: candidate.decided.taken_at,
        completed_at: env.clock.now(),
        condition: match sound.check {
            Some(_) => Condition::Good,
            None => Condition::Unchecked,
        },
        facts: sound.description.facts.clone(),
        schema_version: sound.description.schema_version.clone(),
        rows: sound.description.rows.clone(),
        content_digest: None,
        artifacts: Vec::new(),
        checks,
        timings_ms: timings,
        warnings: sound.notes.clone(),
        parent: None,
        purpose: from_version.is_some().then_some(Purpose::Migration),
        adopted: Some(Adopted {
            path: candidate.path.to_string_lossy().into_owned(),
            name: candidate.file_name().to_owned(),
            bytes: candidate.stat.bytes,
            sha256: sound.sha256.clone(),
            modified_at: candidate.stat.modified,
            zone: request.zone.to_owned(),
            time_from: candidate.decided.from,
            from_version,
        }),
        pin: None,
        pin_until: None,
        tool: request.tool.to_owned(),
    }
}
