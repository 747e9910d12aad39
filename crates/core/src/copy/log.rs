//! The log of a source goes along with its backups: objects that the other repository lacks.
//!
//! Which these are, knows the crate of the database. Each goes byte for byte, is read back and
//! compared, and looked into as far as that needs no key; one that is damaged is not left there.

use serde::Serialize;

use super::Copied;
use super::send::hashed;
use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::log::{self, Outgoing, Placed};
use crate::manifest::Manifest;
use crate::pipeline::{Compression, Expectation, decode};
use crate::repository::Repository;
use crate::seal;
use crate::store::{ObjectInfo, ObjectName, Put, get_bytes, put_bytes};

/// A file of a log that is sealed on the way is held in memory: no larger one.
const SEALED_BYTES_MAX: u64 = 64 << 20;
/// The level at which it is compressed then, as its server's run would.
const LEVEL: i32 = 3;
/// What holds the hash of a sealed object's plain bytes, and how long it may be.
const HASH_BYTES_MAX: u64 = 100;

/// Who knows the objects of a source's log. Made by the crate that knows the database.
pub trait LogSelection: Send + Sync {
    /// The objects in a folder of the first repository that one of those backups needs and that
    /// the second lacks, oldest first. The backups are those that the second has, or gets.
    fn lacking(
        &self,
        env: &Env,
        from: (&Repository, &str),
        to: (&Repository, Option<&str>),
        staying: &[&Manifest],
    ) -> Result<Vec<ObjectInfo>>;

    /// Whether [`LogSelection::seal`] can seal an object of that name. Those that have an ending of
    /// [`crate::log`] are sealed without it.
    fn can_seal(&self, _object: &str) -> bool {
        false
    }

    /// Stores an object of the first repository in the second one under that name, sealed as that
    /// one asks, and reads it back.
    fn seal(
        &self,
        _env: &Env,
        (_, object): (&Repository, &ObjectInfo),
        _to: (&Repository, &ObjectName),
    ) -> Result<()> {
        Err(Error::new(Kind::Failed, format!("{} cannot be sealed", object.name)))
    }

    /// Whether an object that was copied is what it says of itself, where that needs no key.
    fn check(&self, repository: &Repository, object: &ObjectInfo) -> Result<()>;
}

/// An object of a log on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogPart {
    /// Its name in the folder of the source.
    pub file: String,
    /// Its size as stored.
    pub bytes: u64,
    /// Whether it is sealed on the way.
    pub sealed_anew: bool,
}

/// What becomes of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogPlan {
    /// What goes, oldest first.
    pub parts: Vec<LogPart>,
    /// Why some of it does not, if so.
    pub reason: Option<String>,
}

impl LogPlan {
    /// The bytes that are sent.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What of a log the second repository lacks.
pub(super) fn plan(
    env: &Env,
    (from, entry): (&Repository, &SourceEntry),
    (to, own): (&Repository, Option<&SourceEntry>),
    staying: &[&Manifest],
    selection: &dyn LogSelection,
) -> Result<LogPlan> {
    if own.is_some_and(|own| own.record.id != entry.record.id) {
        // What a log says of its source would not be true there.
        return Ok(LogPlan::default());
    }
    let folder = own.map(|own| own.folder.as_str());
    let lacking = selection.lacking(env, (from, &entry.folder), (to, folder), staying)?;
    let mut plan = LogPlan::default();
    for object in lacking {
        let rest = object.name.as_str().strip_prefix(&entry.folder);
        let Some(file) = rest.and_then(|rest| rest.strip_prefix('/')) else { continue };
        match sealing(from, to, &object, selection) {
            Ok(sealed_anew) => {
                let (file, bytes) = (file.to_owned(), object.bytes);
                plan.parts.push(LogPart { file, bytes, sealed_anew });
            }
            Err(reason) => plan.reason = Some(reason.to_owned()),
        }
    }
    Ok(plan)
}

/// Whether an object is sealed on the way, or why it cannot go.
fn sealing(
    from: &Repository,
    to: &Repository,
    object: &ObjectInfo,
    selection: &dyn LogSelection,
) -> std::result::Result<bool, &'static str> {
    let Some(wanted) = to.recipients() else { return Ok(false) };
    let name = object.name.as_str();
    let is_sealed = name.ends_with(seal::SUFFIX);
    let same = from.recipients().is_some_and(|own| own.names() == wanted.names());
    match (is_sealed, same, log::file_of(name)) {
        (true, true, _) => Ok(false),
        (true, false, _) if from.keys().is_none() => {
            Err("the log is sealed to others than that repository asks; name the key: --identity")
        }
        (_, _, None) if !selection.can_seal(name) => {
            Err("that repository is sealed, and such a log cannot be")
        }
        _ => Ok(true),
    }
}

pub(super) struct LogCopier<'a> {
    pub(super) env: &'a Env,
    pub(super) from: &'a Repository,
    pub(super) from_folder: &'a str,
    pub(super) to: &'a Repository,
    pub(super) to_folder: String,
}

impl LogCopier<'_> {
    /// Sends what the plan says. What follows one that fails goes all the same: a gap that is
    /// filled later costs nothing then.
    pub(super) fn copy(
        &self,
        plan: &LogPlan,
        selection: &dyn LogSelection,
        copied: &mut Copied,
    ) -> Result<()> {
        let (env, phase) = (self.env, "copying the log");
        let bytes_total = Some(2 * plan.bytes());
        env.tell(Event::PhaseBegan { subject: &self.to_folder, phase, bytes_total });
        for part in &plan.parts {
            env.proceed()?;
            let sent = match part.sealed_anew {
                true => self.seal(part, selection),
                false => self.send(part, selection),
            };
            match sent {
                Ok(()) => copied.log_objects += 1,
                // It was pruned while we were on the way.
                Err(error) if error.kind() == Kind::NotCovered => {}
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => copied.log_failed.push((part.file.clone(), error)),
            }
            env.crash.pass("copy.log.stored")?;
        }
        env.tell(Event::PhaseEnded { phase });
        Ok(())
    }

    fn send(&self, part: &LogPart, selection: &dyn LogSelection) -> Result<()> {
        let source = ObjectName::new(format!("{}/{}", self.from_folder, part.file))?;
        let object = ObjectName::new(format!("{}/{}", self.to_folder, part.file))?;
        self.send_hash(&source, &object)?;
        let mut put = self.to.store().put(&object)?;
        let (bytes, hash) = hashed(self.env, self.from.store(), &source, &mut |bytes| {
            put.write_all(bytes).map_err(|error| {
                let message = format!("cannot write {object} to {}", self.to.url());
                Error::io(Kind::StoreUnavailable, message, error)
            })
        })?;
        match Put::commit(put) {
            // Its writer was faster, and has compared it.
            Err(error) if error.kind() == Kind::Refused => return Ok(()),
            committed => committed?,
        }
        self.env.crash.pass("copy.log.committed")?;
        let stored = ObjectInfo { name: object, bytes, modified: self.env.clock.now() };
        let looked = self.look(&stored, &hash).and_then(|()| selection.check(self.to, &stored));
        if looked.as_ref().is_err_and(|error| error.kind() == Kind::CheckFailed) {
            self.to.store().delete(&stored.name)?;
        }
        looked
    }

    /// Reads it back: the bytes that were sent, and frames that are whole, if it has some.
    fn look(&self, stored: &ObjectInfo, hash: &str) -> Result<()> {
        let name = stored.name.as_str();
        let compression = match name.ends_with(log::ENDING) {
            true => Compression::DEFAULT,
            false => Compression::None,
        };
        let expectation = Expectation {
            object: name,
            stored: Some((stored.bytes, hash.to_owned())),
            ..Expectation::default()
        };
        let reader = self.to.store().get(&stored.name, None)?;
        let threads = self.env.threads;
        decode(reader, compression, threads, &expectation, &mut |_| self.env.proceed()).map(drop)
    }

    /// The hash beside a sealed object is there before it.
    fn send_hash(&self, source: &ObjectName, object: &ObjectName) -> Result<()> {
        let (Some(source), Some(object)) = (log::hash_beside(source)?, log::hash_beside(object)?)
        else {
            return Ok(());
        };
        let bytes = match get_bytes(self.from.store(), &source, HASH_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == Kind::NotCovered => return Ok(()),
            Err(error) => return Err(error),
        };
        match put_bytes(self.to.store(), &object, &bytes) {
            Err(error) if error.kind() != Kind::Refused => Err(error),
            _ => Ok(()),
        }
    }

    /// The same as if its server had stored it there.
    fn seal(&self, part: &LogPart, selection: &dyn LogSelection) -> Result<()> {
        let Some(file) = log::file_of(&part.file) else {
            let name = ObjectName::new(format!("{}/{}", self.from_folder, part.file))?;
            let plain = part.file.strip_suffix(seal::SUFFIX).unwrap_or(&part.file);
            let target = format!("{}/{plain}{}", self.to_folder, seal::SUFFIX);
            let object = ObjectInfo { name, bytes: part.bytes, modified: self.env.clock.now() };
            let (from, to) = ((self.from, &object), (self.to, &ObjectName::new(target)?));
            selection.seal(self.env, from, to)?;
            return self.env.crash.pass("copy.log.committed");
        };
        let mut plain = Vec::new();
        let source = format!("{}/{file}", self.from_folder);
        let found =
            log::get(self.env, self.from, &source, SEALED_BYTES_MAX, &mut |bytes: &[u8]| {
                plain.extend_from_slice(bytes);
                self.env.proceed()
            })?;
        if found.is_none() {
            return Err(Error::new(Kind::NotCovered, format!("{source} is gone")));
        }
        let outgoing = Outgoing {
            object: &format!("{}/{file}", self.to_folder),
            label: file,
            bytes: plain.len() as u64,
            open: &|| Ok(Box::new(std::io::Cursor::new(plain.clone()))),
            level: LEVEL,
        };
        match log::put(self.env, &[self.to], &outgoing).pop() {
            Some(Ok(Placed::Stored(_) | Placed::AlreadyThere)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(Error::new(Kind::Failed, format!("{file} was not stored"))),
        }
    }
}
