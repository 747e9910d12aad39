//! Whose turn it is: several hosts, of which one at a time does something, as a seed decides.
//!
//! Each host has a thread, and goes on only while it has the turn. It may lose it at every request
//! to the store, and sleep there, for seconds or for hours: as a process that is stopped, or as a
//! laptop whose lid is closed. So each seed is one history, and plays the same way again.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use jiff::Timestamp;
use lifeboat_core::env::Clock;
use lifeboat_core::lease::LeaseRecord;
use lifeboat_core::store::{ObjectInfo, ObjectName, ObjectReader, Put, Space, Store, get_bytes};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::sample::Seeded;

use super::FOLDER;
use crate::store::FaultyStore;

const MINUTE_MS: u64 = 60_000;
/// What is asked of a store arrives there within so much, or never.
const UNDER_WAY_MS_MAX: u64 = 6 * MINUTE_MS;
/// When the history begins, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_736_344_800_000;

/// Who does what when.
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    random: Seeded,
    now_ms: u64,
    current: usize,
    hosts: Vec<Host>,
    broken: Vec<String>,
}

#[derive(Clone, Default)]
struct Host {
    is_there: bool,
    wakes_at_ms: u64,
    /// How far its clock is from the true time.
    off_by_ms: i64,
    /// How long its other clock stood still.
    stood_still_ms: u64,
    /// At how many calls from now it dies; 0 is never.
    calls_to_death: u64,
    is_dead: bool,
}

impl Turns {
    /// So many hosts, whose clocks differ.
    pub(super) fn new(seed: u64, count: usize) -> Arc<Self> {
        let mut random = Seeded::new(seed);
        let mut hosts = vec![Host { is_there: true, ..Host::default() }; count];
        for host in &mut hosts {
            host.off_by_ms = random.below(40 * MINUTE_MS) as i64 - 20 * MINUTE_MS as i64;
        }
        let state = State { random, now_ms: BEGIN_MS, current: 0, hosts, broken: Vec::new() };
        Arc::new(Turns { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits for the first turn.
    pub(super) fn begin(&self, host: usize) {
        self.wait(self.lock(), host);
    }

    /// Never asks again.
    pub(super) fn end(&self, host: usize) {
        let mut state = self.lock();
        state.hosts[host].is_there = false;
        state.choose();
        self.changed.notify_all();
    }

    /// Sleeps for that time; others go on.
    pub(super) fn sleep(&self, host: usize, milliseconds: u64) {
        let mut state = self.lock();
        state.hosts[host].wakes_at_ms = state.now_ms + milliseconds;
        state.choose();
        self.changed.notify_all();
        self.wait(state, host);
    }

    /// The true time.
    pub(super) fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    /// A number below that.
    pub(super) fn random(&self, below: u64) -> u64 {
        self.lock().random.below(below)
    }

    /// From now on the host lives for so many calls.
    pub(super) fn set_death(&self, host: usize, calls: u64) {
        let host = &mut self.lock().hosts[host];
        (host.calls_to_death, host.is_dead) = (calls, false);
    }

    /// Something that must never be.
    pub(super) fn is_broken(&self, what: String) {
        self.lock().broken.push(what);
    }

    /// What was broken first.
    pub(super) fn broken(&self) -> Option<String> {
        self.lock().broken.first().cloned()
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, host: usize) {
        while state.current != host {
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// A call to the store: perhaps the last of this host; perhaps others come first.
    fn call(&self, host: usize, sleeps_ms_max: u64) -> Result<()> {
        let mut state = self.lock();
        let own = &mut state.hosts[host];
        if own.calls_to_death > 0 {
            own.calls_to_death -= 1;
            own.is_dead |= own.calls_to_death == 0;
        }
        if own.is_dead {
            return Err(Error::new(Kind::StoreUnavailable, "the host is dead"));
        }
        state.now_ms += 5 + state.random.below(400);
        if state.random.one_in(30) {
            // From moments to hours, as often as each.
            let bits = 8 + state.random.below(17);
            let sleeps_ms = state.random.below(1 << bits).min(sleeps_ms_max);
            let stands_still = state.random.one_in(2);
            let now_ms = state.now_ms;
            let own = &mut state.hosts[host];
            own.wakes_at_ms = now_ms + sleeps_ms;
            own.stood_still_ms += if stands_still { sleeps_ms } else { 0 };
        }
        if state.hosts[host].wakes_at_ms > state.now_ms || state.random.one_in(3) {
            state.choose();
            self.changed.notify_all();
            self.wait(state, host);
        }
        Ok(())
    }
}

impl State {
    /// Somebody who is awake goes on; where all sleep, time passes.
    fn choose(&mut self) {
        let there = || self.hosts.iter().filter(|host| host.is_there);
        let Some(first) = there().map(|host| host.wakes_at_ms).min() else { return };
        self.now_ms = self.now_ms.max(first);
        let is_awake = |host: &Host| host.is_there && host.wakes_at_ms <= self.now_ms;
        let awake: Vec<usize> =
            (0..self.hosts.len()).filter(|&index| is_awake(&self.hosts[index])).collect();
        self.current = awake[self.random.below(awake.len() as u64) as usize];
    }
}

/// The clock of a host.
pub(super) struct HostClock(pub(super) Arc<Turns>, pub(super) usize);

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let mut state = self.0.lock();
        state.now_ms += 1;
        let shown_ms = state.now_ms as i64 + state.hosts[self.1].off_by_ms;
        Timestamp::from_millisecond(shown_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic_ms(&self) -> u64 {
        let state = self.0.lock();
        state.now_ms - state.hosts[self.1].stood_still_ms.min(state.now_ms)
    }

    fn sleep_ms(&self, milliseconds: u64) {
        self.0.sleep(self.1, milliseconds);
    }
}

/// The clock of the store, which dates what is put.
pub(super) struct StoreClock(pub(super) Arc<Turns>);

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        // To the second, as many have it.
        let seconds = self.0.now_ms() / 1000;
        Timestamp::from_second(seconds as i64).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

/// The store as a host sees it.
pub(super) struct HostStore {
    pub(super) inner: Arc<FaultyStore>,
    pub(super) turns: Arc<Turns>,
    pub(super) host: usize,
    /// Its name in leases.
    pub(super) name: String,
    /// One in so many puts has no answer; 0 is none.
    pub(super) answers_lost: u64,
}

impl HostStore {
    fn call(&self) -> Result<()> {
        self.turns.call(self.host, u64::MAX)
    }

    /// Nothing may be deleted but by the holder of the lease, and no artifact of a backup.
    fn look_at_deletion(&self, name: &ObjectName) {
        if name.as_str().starts_with("leases/") {
            return;
        }
        let names = self.inner.names();
        let leases = names.iter().filter(|name| name.as_str().starts_with("leases/"));
        let newest = leases.filter(|name| name.file_name().ends_with(".json")).max();
        let record: Option<LeaseRecord> = newest.and_then(|newest| {
            let bytes = get_bytes(&*self.inner, newest, 1 << 20).ok()?;
            serde_json::from_slice(&bytes).ok()
        });
        if record.is_none_or(|record| record.host != self.name || record.ended) {
            self.turns.is_broken(format!("{} deletes {name} without the lease", self.name));
        }
        let stem = name.as_str().strip_suffix(".db.zst");
        if let Some(stem) = stem
            && names.iter().any(|other| other.as_str() == format!("{stem}.json"))
        {
            self.turns.is_broken(format!("{} deletes {name} of a backup", self.name));
        }
    }
}

struct HostPut {
    inner: Box<dyn Put>,
    turns: Arc<Turns>,
    host: usize,
    answers_lost: u64,
}

impl Write for HostPut {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for HostPut {
    fn commit(self: Box<Self>) -> Result<()> {
        self.turns.call(self.host, u64::MAX)?;
        let lost = || Error::new(Kind::StoreUnavailable, "the connection broke");
        let hits = |turns: &Turns| self.answers_lost > 0 && turns.random(self.answers_lost) == 0;
        if hits(&self.turns) {
            return Err(lost());
        }
        let is_lost = hits(&self.turns);
        self.inner.commit()?;
        self.turns.call(self.host, u64::MAX)?;
        if is_lost { Err(lost()) } else { Ok(()) }
    }
}

impl Store for HostStore {
    fn url(&self) -> String {
        self.inner.url()
    }

    fn put(&self, name: &ObjectName) -> Result<Box<dyn Put>> {
        let (turns, host, answers_lost) = (Arc::clone(&self.turns), self.host, self.answers_lost);
        Ok(Box::new(HostPut { inner: self.inner.put(name)?, turns, host, answers_lost }))
    }

    fn get(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<ObjectReader> {
        self.call()?;
        self.inner.get(name, range)
    }

    fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>> {
        self.call()?;
        self.inner.head(name)
    }

    fn list(&self, prefix: Option<&str>) -> Result<Vec<ObjectInfo>> {
        self.call()?;
        self.inner.list(prefix)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        // Between the look at the lease and its effect lies a request.
        self.turns.call(self.host, UNDER_WAY_MS_MAX)?;
        self.look_at_deletion(name);
        self.inner.delete(name)?;
        self.turns.call(self.host, u64::MAX)
    }

    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// What lies in the source's folder and ends so, without the folder.
pub(super) fn files(store: &FaultyStore, ending: &str) -> Vec<String> {
    let prefix = format!("{FOLDER}/");
    let names = store.names();
    let own = names.iter().filter_map(|name| name.as_str().strip_prefix(&prefix));
    own.filter_map(|file| file.strip_suffix(ending)).map(str::to_owned).collect()
}
