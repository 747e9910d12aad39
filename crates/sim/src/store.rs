//! A store in memory whose disk, network and power fail as a seed decides.
//!
//! It keeps the contract of [`Store`] wherever it answers: an object appears whole or not at all,
//! and is never overwritten. Its failures are those that real stores have: errors at any call, a
//! commit that fails although the object is there, a full disk, bits that flip on their way in or
//! out, answers that end early, and a client that dies between two calls.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use jiff::Timestamp;
use lifeboat_core::env::Clock;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::sample::Seeded;

/// How often each thing goes wrong: once in so many calls; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A put, get, head, list or delete fails.
    pub call_fails: u64,
    /// A write to an object that is being put fails after a part of it.
    pub write_fails: u64,
    /// A commit fails and the object is not there.
    pub commit_fails: u64,
    /// A commit fails and the object is there all the same.
    pub commit_fails_late: u64,
    /// A bit of what is stored is another than was sent.
    pub stores_flipped: u64,
    /// A bit of an answer is another than what is stored.
    pub reads_flipped: u64,
    /// An answer ends early, without an error.
    pub reads_short: u64,
    /// An answer ends early, with an error.
    pub reads_fail: u64,
    /// A list lacks what was put within so many calls before it, as where lists lag behind; 0 is
    /// never. Everything else sees it at once.
    pub lists_lag_calls: u64,
    /// The client dies at this many calls from now; 0 is never.
    pub dies_after_calls: u64,
    /// Bytes that fit into the store; 0 is without end.
    pub capacity_bytes: u64,
}

/// The store.
pub struct FaultyStore {
    shared: Mutex<Shared>,
    own: Weak<FaultyStore>,
}

struct Shared {
    /// What dates objects; without one all are from 1970.
    clock: Option<Arc<dyn Clock>>,
    dates: BTreeMap<ObjectName, Timestamp>,
    objects: BTreeMap<ObjectName, Arc<Vec<u8>>>,
    /// The calls so far, and at which of them an object was put.
    calls: u64,
    put_at: BTreeMap<ObjectName, u64>,
    faults: Faults,
    random: Seeded,
    calls_to_death: u64,
    dead: bool,
    used_bytes: u64,
    /// Counts reboots: a put of an earlier life cannot be committed.
    life: u64,
}

impl FaultyStore {
    /// An empty store without faults, which draws its faults from that seed.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new_cyclic(|own| FaultyStore {
            shared: Mutex::new(Shared {
                clock: None,
                dates: BTreeMap::new(),
                objects: BTreeMap::new(),
                calls: 0,
                put_at: BTreeMap::new(),
                faults: Faults::default(),
                random: Seeded::new(seed),
                calls_to_death: 0,
                dead: false,
                used_bytes: 0,
                life: 0,
            }),
            own: own.clone(),
        })
    }

    /// From now on objects are dated by that clock.
    pub fn dated_by(&self, clock: Arc<dyn Clock>) {
        self.lock().clock = Some(clock);
    }

    /// From now on it fails like this.
    pub fn set_faults(&self, faults: Faults) {
        let mut shared = self.lock();
        shared.faults = faults;
        shared.calls_to_death = faults.dies_after_calls;
    }

    /// The client is dead: every call fails until [`FaultyStore::reboot`].
    pub fn crash(&self) {
        self.lock().dead = true;
    }

    /// A new client, without faults. What was not committed is gone.
    pub fn reboot(&self) {
        let mut shared = self.lock();
        shared.dead = false;
        shared.life += 1;
        shared.faults = Faults::default();
        shared.calls_to_death = 0;
        shared.used_bytes = shared.objects.values().map(|bytes| bytes.len() as u64).sum();
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<ObjectName> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Changes what is stored, as a failing disk or a person does: the object becomes what
    /// `change` makes of it, or is gone where that is `None`.
    pub fn damage(&self, name: &ObjectName, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut shared = self.lock();
        if let Some(bytes) = shared.objects.remove(name)
            && let Some(changed) = change(bytes.to_vec())
        {
            shared.objects.insert(name.clone(), Arc::new(changed));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins a call: fails where the client is dead or the network is.
    fn call(&self, what: &str) -> Result<MutexGuard<'_, Shared>> {
        let mut shared = self.lock();
        shared.step().map_err(|why| unavailable(what, why))?;
        Ok(shared)
    }
}

impl Shared {
    /// One call: perhaps the last.
    fn step(&mut self) -> Result<(), &'static str> {
        self.calls += 1;
        if self.calls_to_death > 0 {
            self.calls_to_death -= 1;
            self.dead |= self.calls_to_death == 0;
        }
        if self.dead {
            return Err("the client is dead");
        }
        match self.hits(self.faults.call_fails) {
            true => Err("the network failed"),
            false => Ok(()),
        }
    }

    fn info(&self, name: &ObjectName, bytes: &[u8]) -> ObjectInfo {
        let modified = self.dates.get(name).copied().unwrap_or(Timestamp::UNIX_EPOCH);
        ObjectInfo { name: name.clone(), bytes: bytes.len() as u64, modified }
    }

    fn hits(&mut self, once_in: u64) -> bool {
        once_in != 0 && self.random.one_in(once_in)
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        if !bytes.is_empty() {
            let bit = self.random.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }
}

fn unavailable(what: &str, why: &str) -> Error {
    Error::new(Kind::StoreUnavailable, format!("{what}: {why}"))
}

/// An object that is being written.
struct FaultyPut {
    store: Arc<FaultyStore>,
    name: ObjectName,
    bytes: Vec<u8>,
    life: u64,
}

impl Write for FaultyPut {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut shared = self.store.lock();
        if shared.dead || shared.life != self.life {
            return Err(io::Error::other("the client is dead"));
        }
        let fails = shared.faults.write_fails;
        if shared.hits(fails) {
            return Err(io::Error::other("the connection broke"));
        }
        let capacity = shared.faults.capacity_bytes;
        if capacity != 0 && shared.used_bytes + buffer.len() as u64 > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // A short write is no error: the caller goes on with the rest.
        let length = match buffer.len() > 1 && shared.random.one_in(8) {
            true => 1 + shared.random.below(buffer.len() as u64 - 1) as usize,
            false => buffer.len(),
        };
        shared.used_bytes += length as u64;
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for FaultyPut {
    fn commit(mut self: Box<Self>) -> Result<()> {
        let store = Arc::clone(&self.store);
        let what = format!("cannot commit {}", self.name);
        let mut shared = store.call(&what)?;
        if shared.life != self.life {
            return Err(unavailable(&what, "its client died"));
        }
        let faults = shared.faults;
        if shared.hits(faults.commit_fails) {
            return Err(unavailable(&what, "the network failed"));
        }
        if shared.objects.contains_key(&self.name) {
            return Err(Error::new(Kind::Refused, format!("{} exists already", self.name)));
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        if shared.hits(faults.stores_flipped) {
            shared.flip(&mut bytes);
        }
        shared.objects.insert(self.name.clone(), Arc::new(bytes));
        let now = shared.calls;
        shared.put_at.insert(self.name.clone(), now);
        if let Some(clock) = shared.clock.clone() {
            shared.dates.insert(self.name.clone(), clock.now());
        }
        match shared.hits(faults.commit_fails_late) {
            true => Err(unavailable(&what, "the answer was lost")),
            false => Ok(()),
        }
    }
}

/// An answer that breaks off with an error.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the connection broke"))
    }
}

impl Store for FaultyStore {
    fn url(&self) -> String {
        "simulated://store".to_owned()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let life = self.call(&format!("cannot put {name}"))?.life;
        let store = self.own.upgrade().ok_or_else(|| unavailable("put", "the store is gone"))?;
        Ok(Box::new(FaultyPut { store, name: name.clone(), bytes: Vec::new(), life }))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        let mut shared = self.call(&format!("cannot get {name}"))?;
        let missing = || Error::new(Kind::NotCovered, format!("there is no object {name}"));
        let stored = Arc::clone(shared.objects.get(name).ok_or_else(missing)?);
        let size = stored.len() as u64;
        let range = range.unwrap_or(0..size);
        let (from, to) = (range.start.min(size) as usize, range.end.min(size) as usize);
        let mut bytes = stored[from..to.max(from)].to_vec();
        let faults = shared.faults;
        if shared.hits(faults.reads_flipped) {
            shared.flip(&mut bytes);
        }
        let (short, fails) = (shared.hits(faults.reads_short), shared.hits(faults.reads_fail));
        if short || fails {
            bytes.truncate(shared.random.below(bytes.len() as u64) as usize);
        }
        match fails {
            true => Ok(Box::new(io::Cursor::new(bytes).chain(Broken))),
            false => Ok(Box::new(io::Cursor::new(bytes))),
        }
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        let shared = self.call(&format!("cannot ask for {name}"))?;
        Ok(shared.objects.get(name).map(|bytes| shared.info(name, bytes)))
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let shared = self.call("cannot list")?;
        let wanted = |name: &ObjectName| match prefix {
            Some(prefix) => {
                name.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
            }
            None => true,
        };
        let lag = shared.faults.lists_lag_calls;
        let is_seen = |name: &ObjectName| match shared.put_at.get(name) {
            Some(put_at) => lag == 0 || put_at + lag <= shared.calls,
            None => true,
        };
        let found = shared.objects.iter().filter(|(name, _)| wanted(name) && is_seen(name));
        Ok(found.map(|(name, bytes)| shared.info(name, bytes)).collect())
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.call(&format!("cannot delete {name}"))?.objects.remove(name);
        Ok(())
    }

    fn space(&self) -> Result<Option<Space>> {
        let shared = self.call("cannot ask for space")?;
        let capacity = shared.faults.capacity_bytes;
        let used_bytes = shared.used_bytes;
        let free_bytes = capacity.saturating_sub(used_bytes);
        Ok((capacity != 0).then_some(Space { used_bytes, free_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_core::store::{get_bytes, put_bytes};

    use super::*;

    fn name() -> ObjectName {
        ObjectName::new("a/b").unwrap()
    }

    #[test]
    fn without_faults_it_is_a_store_like_any_other() {
        lifeboat_stores::conformance::run(&*FaultyStore::new(1)).unwrap();
    }

    #[test]
    fn lists_lag_behind_and_catch_up() {
        let store = FaultyStore::new(1);
        store.set_faults(Faults { lists_lag_calls: 4, ..Faults::default() });
        let name = ObjectName::new("a/b").unwrap();
        put_bytes(&*store, &name, b"x").unwrap();
        assert!(store.list(None).unwrap().is_empty() && store.head(&name).unwrap().is_some());
        store.head(&name).unwrap();
        assert_eq!(store.list(None).unwrap().len(), 1);
    }

    #[test]
    fn a_dead_client_gets_no_answer_and_its_open_puts_are_gone() {
        let store = FaultyStore::new(1);
        let mut open = store.put(&name()).unwrap();
        open.write_all(b"half").unwrap();
        store.crash();
        assert!(open.write_all(b"more").is_err());
        assert!(store.list(None).is_err() && store.put(&name()).is_err());
        store.reboot();
        assert!(open.commit().is_err());
        assert!(store.list(None).unwrap().is_empty());
        put_bytes(&*store, &name(), b"new").unwrap();
    }

    #[test]
    fn each_fault_happens_when_asked_for() {
        let with = |faults: Faults| {
            let store = FaultyStore::new(9);
            put_bytes(&*store, &ObjectName::new("old").unwrap(), &[7; 1000]).unwrap();
            store.set_faults(faults);
            store
        };
        let old = ObjectName::new("old").unwrap();
        let never = Faults::default();
        assert!(with(Faults { call_fails: 1, ..never }).list(None).is_err());
        let refuses = |faults| put_bytes(&*with(faults), &name(), &[1; 100]).unwrap_err();
        assert_eq!(refuses(Faults { write_fails: 1, ..never }).kind(), Kind::StoreUnavailable);
        assert_eq!(refuses(Faults { capacity_bytes: 1, ..never }).kind(), Kind::NoSpace);
        refuses(Faults { commit_fails: 1, ..never });
        refuses(Faults { dies_after_calls: 2, ..never });
        let late = with(Faults { commit_fails_late: 1, ..never });
        assert!(put_bytes(&*late, &name(), b"x").is_err() && late.names().len() == 2);
        let reads = |faults| get_bytes(&*with(faults), &old, 2000);
        assert_ne!(reads(Faults { reads_flipped: 1, ..never }).unwrap(), [7; 1000]);
        assert!(reads(Faults { reads_short: 1, ..never }).unwrap().len() < 1000);
        assert!(reads(Faults { reads_fail: 1, ..never }).is_err());
        let flipped = with(Faults { stores_flipped: 1, ..never });
        put_bytes(&*flipped, &name(), &[7; 1000]).unwrap();
        assert_ne!(get_bytes(&*flipped, &name(), 2000).unwrap(), [7; 1000]);
    }
}
