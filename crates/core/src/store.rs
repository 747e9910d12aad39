//! Where objects live: the trait that every store implements.
//!
//! Objects are immutable. They are put only if absent, become visible whole or not at all, and
//! are durable once [`Put::commit`] returned. That is all that the repository relies on. The
//! trait blocks: concurrency belongs to the caller, which has threads of its own.

use std::fmt;
use std::io::{Read, Write};
use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::{Error, Kind, Result};

/// The name of an object: segments separated by `/`, never absolute, never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Accepts a name that no store can take for a path out of the repository.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let sound = !name.is_empty()
            && name.len() <= 1024
            && !name.contains('\0')
            && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        match sound {
            true => Ok(ObjectName(name)),
            false => Err(Error::new(Kind::Failed, format!("`{name}` is not an object's name"))),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// How full the place of a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// What is used, in bytes, by whomever.
    pub used_bytes: u64,
    /// What is left for us, in bytes.
    pub free_bytes: u64,
}

impl Space {
    /// From here on a place is worth a warning: there must be time left to do something.
    pub const FULL_PERCENT: u8 = 80;

    /// How much of what can be used is used, rounded up, as `df` has it.
    pub fn used_percent(&self) -> u8 {
        let (used, free) = (u128::from(self.used_bytes), u128::from(self.free_bytes));
        u8::try_from((used * 100).div_ceil((used + free).max(1))).unwrap_or(100)
    }

    /// Whether it is worth a warning.
    pub fn is_full(&self) -> bool {
        self.used_percent() >= Space::FULL_PERCENT
    }
}

/// What became of the attempts to get rid of an object that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockProbe {
    /// Its lock could be shortened.
    pub was_shortened: bool,
    /// Its bytes could be deleted.
    pub was_deleted: bool,
    /// It could be hidden by a plain deletion, which deletes no bytes.
    pub may_mark_deleted: bool,
}

/// An object that is being written. Dropped without [`Put::commit`], it never existed.
pub trait Put: Write + Send {
    /// Makes the object durable and visible, if no object has its name. An existing one is left
    /// as it is, and the error is [`Kind::Refused`].
    fn commit(self: Box<Self>) -> Result<()>;
}

/// Reads an object.
pub type ObjectReader = Box<dyn Read + Send>;

/// A place that keeps immutable objects.
pub trait Store: Send + Sync {
    /// The URL under which a person knows it. Never a secret in it.
    fn url(&self) -> String;
    /// Begins an object.
    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>>;
    /// Reads an object, or a range of it. [`Kind::NotCovered`] if it does not exist.
    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader>;
    /// Asks for an object; `None` only when the store answered that it does not exist.
    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>>;
    /// All objects whose name begins with `prefix` and a `/`, or all; sorted by name. What is
    /// being written is not among them.
    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>>;
    /// Removes an object; no error if it does not exist.
    fn delete(&self, name: &ObjectName) -> Result<()>;
    /// What writers left right under a prefix that ended before [`Put::commit`]: objects that never
    /// were, with names that no object has. Those of which a writer is known to live are not among
    /// them. A store whose unfinished objects vanish by themselves has none.
    fn unfinished(&self, _prefix: &str) -> Result<Vec<ObjectInfo>> {
        Ok(Vec::new())
    }
    /// Removes one of [`Store::unfinished`]; `false` if its writer lives after all.
    fn discard(&self, _name: &ObjectName) -> Result<bool> {
        Ok(false)
    }
    /// Whether objects can be put and deleted, as far as that can be known without a trace.
    fn check_writable(&self) -> Result<()> {
        Ok(())
    }
    /// How far the store's clock is ahead of ours, as its last answer told; `None` where none did.
    fn clock_ahead(&self) -> Option<SignedDuration> {
        None
    }
    /// How full its place is, where the store knows.
    fn space(&self) -> Result<Option<Space>>;
    /// Told once that the place does not keep two writers of one name apart, as its repository has
    /// recorded: from now on the store has to do it by itself, at the price of more requests.
    fn without_conditional_put(&self) {}
    /// For how long the store locks what is put, where it was asked to.
    fn lock_period(&self) -> Option<SignedDuration> {
        None
    }
    /// Locks an object until then, or longer where it is so already. Nothing where none is asked
    /// for.
    fn retain(&self, _name: &ObjectName, _until: Timestamp) -> Result<()> {
        Ok(())
    }
    /// Until when an object is locked.
    fn locked_until(&self, _name: &ObjectName) -> Result<Option<Timestamp>> {
        Ok(None)
    }
    /// Tries to delete what is locked, on an object of its own; `None` where nothing is locked.
    fn probe_lock(&self) -> Result<Option<LockProbe>> {
        Ok(None)
    }
    /// How many objects may be read at once: as many as make it faster. 1 unless it says more.
    fn readers(&self) -> usize {
        1
    }
}

/// Writes a small object in one go.
pub fn put_bytes(store: &dyn Store, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    let mut put = store.put(name)?;
    put.write_all(bytes).map_err(|error| {
        Error::io(Kind::StoreUnavailable, format!("cannot write {name} to {}", store.url()), error)
    })?;
    put.commit()
}

/// Reads a small object whole. Fails beyond `bytes_max`.
pub fn get_bytes(store: &dyn Store, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    store.get(name, None)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| {
        Error::io(Kind::StoreUnavailable, format!("cannot read {name} of {}", store.url()), error)
    })?;
    match bytes.len() as u64 > bytes_max {
        true => Err(Error::new(
            Kind::CheckFailed,
            format!("{name} of {} is larger than {bytes_max} bytes", store.url()),
        )),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_full_from_its_bound_on() {
        let space = |used_bytes, free_bytes| Space { used_bytes, free_bytes };
        assert_eq!(space(79, 21).used_percent(), 79);
        assert_eq!(space(791, 209).used_percent(), 80);
        assert_eq!(space(u64::MAX, 0).used_percent(), 100);
        assert_eq!(space(u64::MAX, u64::MAX).used_percent(), 50);
        assert_eq!(space(0, 0).used_percent(), 0);
        assert!(space(80, 20).is_full() && !space(79, 21).is_full());
    }
}
