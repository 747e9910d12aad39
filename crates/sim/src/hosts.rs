//! The third kind of history: several hosts prune one source in one repository, by rules of their
//! own, while backups are made there and copied back.
//!
//! Each of them may sleep at any request to the store, for hours, and be killed; their clocks
//! differ by up to 40 minutes. A holder of the lease that wakes up late must not go on.
//!
//! - Nothing is deleted but by the host that holds the lease when the store hears of it.
//! - No artifact is deleted while its manifest is there, not even if that was copied back after
//!   another host had deleted it all.
//! - A backup whose making takes days is whole when its manifest is there.

mod turns;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lifeboat_core::env::{Clock as _, Env};
use lifeboat_core::names::NamePattern;
use lifeboat_core::policy::{Floors, Keep};
use lifeboat_core::prune::{self, GRACE, PruneRequest};
use lifeboat_core::repository::{FORMAT, Header, Repository};
use lifeboat_core::store::{ObjectName, Store, put_bytes};
use lifeboat_core::{Error, Kind};

use self::turns::{HostClock, HostStore, StoreClock, Turns, files};
use crate::clock::SeededRandom;
use crate::history::Broken;
use crate::rotation::member::{FOLDER, OURS, manifest, put, source, text};
use crate::store::FaultyStore;

const HOUR_MS: u64 = 3_600_000;
/// How often each host prunes.
const ROUNDS: u64 = 24;

/// What happened in a history.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostsReport {
    /// Prunes that came to their end.
    pub pruned: u64,
    /// Prunes that another one's lease stopped before they began.
    pub locked: u64,
    /// Prunes that lost their lease, and stopped.
    pub lost: u64,
    /// Prunes that were killed.
    pub killed: u64,
    /// Backups whose bytes were deleted.
    pub deleted: u64,
    /// Backups that came back after that.
    pub came_back: u64,
}

/// The history, as its hosts share it.
struct World {
    turns: Arc<Turns>,
    store: Arc<FaultyStore>,
    seed: u64,
    answers_lost: u64,
    report: Mutex<HostsReport>,
}

/// Plays the history of a seed.
pub fn run(seed: u64) -> Result<HostsReport, Broken> {
    let store = FaultyStore::new(seed);
    let turns = Turns::new(seed ^ 0x0068_6f73_7473, 3);
    store.dated_by(Arc::new(StoreClock(Arc::clone(&turns))));
    let answers_lost = if seed.is_multiple_of(3) { 40 } else { 0 };
    let report = Mutex::default();
    let world = World { turns, store, seed, answers_lost, report };
    world.make()?;
    let failed: Vec<Broken> = std::thread::scope(|scope| {
        let hosts: Vec<_> = (0..3).map(|host| (host, &world)).collect();
        let threads: Vec<_> = hosts
            .into_iter()
            .map(|(host, world)| {
                scope.spawn(move || {
                    world.turns.begin(host);
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        if host == 0 { world.back_up() } else { world.prune(host) }
                    }));
                    world.turns.end(host);
                    ended.unwrap_or_else(|_| Err("a host panicked".to_owned()))
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(ended) => ended,
            Err(_) => Err("a host panicked".to_owned()),
        });
        ended.filter_map(Result::err).collect()
    });
    match world.turns.broken().or(failed.into_iter().next()) {
        Some(broken) => Err(broken),
        None => {
            world.check()?;
            Ok(*world.report.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
        }
    }
}

impl World {
    fn make(&self) -> Result<(), Broken> {
        let created_at = StoreClock(Arc::clone(&self.turns)).now();
        let header = Header {
            format: FORMAT,
            id: "00000000-0000-4000-8000-0000000000ff".parse().map_err(|_| "no id")?,
            created_at,
            time_zone: "UTC".into(),
            conditional_put: true,
        };
        let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        put(&self.store, "lifeboat.json", &header)?;
        put(&self.store, &format!("{FOLDER}/source.json"), &text(&source(FOLDER)))
    }

    fn env(&self, host: usize) -> Env {
        let clock = Arc::new(HostClock(Arc::clone(&self.turns), host));
        let random = Arc::new(SeededRandom::new(self.seed * 10 + host as u64));
        let mut env = Env::new(clock, random, format!("host-{host}"));
        env.threads = 1;
        env
    }

    fn host_store(&self, env: &Env, host: usize, answers_lost: u64) -> Arc<HostStore> {
        let (inner, turns) = (Arc::clone(&self.store), Arc::clone(&self.turns));
        Arc::new(HostStore { inner, turns, host, name: env.host.clone(), answers_lost })
    }

    fn count(&self, add: impl FnOnce(&mut HostsReport)) {
        add(&mut self.report.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Backups, and copies that come from elsewhere.
    fn back_up(&self) -> Result<(), Broken> {
        let env = self.env(0);
        let store = self.host_store(&env, 0, 0);
        let mut made: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for _ in 0..2 * ROUNDS {
            self.turns.sleep(0, HOUR_MS * (6 + self.turns.random(12)));
            let taken_at = env.clock.now();
            let name = NamePattern::default().name(FOLDER, taken_at);
            let bytes = [name.as_bytes(), &OURS].concat();
            let file = (format!("{name}.db.zst"), bytes.len() as u64);
            let mut json = manifest(&name, FOLDER, taken_at, &[file]);
            json["id"] = env.new_uuid().to_string().into();
            if self.put_back(&store, &name, &text(&json))? {
                made.insert(name, text(&json));
            }
            for (name, json) in &made {
                let there = self.store.names();
                let is_there = |object: String| there.iter().any(|one| one.as_str() == object);
                if !is_there(format!("{FOLDER}/{name}.json"))
                    && !is_there(format!("tombstones/{FOLDER}/{name}.json"))
                    && self.turns.random(3) == 0
                    && self.put_back(&store, name, json)?
                {
                    self.count(|report| report.came_back += 1);
                }
            }
        }
        Ok(())
    }

    /// Its artifact, perhaps days before its manifest.
    fn put_back(&self, store: &HostStore, name: &str, json: &[u8]) -> Result<bool, Broken> {
        let bytes = [name.as_bytes(), &OURS].concat();
        let object = |ending: &str| ObjectName::new(format!("{FOLDER}/{name}{ending}"));
        let failed = |error: Error| format!("{name}: {error:?}");
        match put_bytes(store, &object(".db.zst").map_err(failed)?, &bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Refused => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        if self.turns.random(6) == 0 {
            self.turns.sleep(0, HOUR_MS * self.turns.random(60));
        }
        put_bytes(store, &object(".json").map_err(failed)?, json).map_err(failed)?;
        Ok(true)
    }

    /// Prunes, at about the times at which the other one does.
    fn prune(&self, host: usize) -> Result<(), Broken> {
        let env = self.env(host);
        let store: Arc<dyn Store> = self.host_store(&env, host, self.answers_lost);
        let keep = Keep { last: 2 + host as u32, ..Keep::default() };
        for _ in 0..ROUNDS {
            let period_ms = 26 * HOUR_MS;
            let late_ms = self.turns.random(HOUR_MS / 10);
            let next_ms = (self.turns.now_ms() / period_ms + 1) * period_ms + late_ms;
            self.turns.sleep(host, next_ms - self.turns.now_ms());
            let death = if self.turns.random(4) == 0 { 20 + self.turns.random(120) } else { 0 };
            self.turns.set_death(host, death);
            let pruned = Repository::open(Arc::clone(&store)).and_then(|repository| {
                let request = PruneRequest {
                    folder: FOLDER,
                    keep: keep.clone(),
                    also_within: None,
                    floors: Floors::default(),
                    grace: GRACE,
                    space: None,
                    log: None,
                    levels: None,
                };
                let plan = prune::plan(&env, &repository, &request)?;
                let (id, idle) = (plan.id.clone(), plan.is_idle());
                let done = prune::apply(&env, &repository, &request, &plan, Some(&id), None)?;
                Ok((done, idle))
            });
            match pruned {
                Ok((_, true)) => {}
                Ok((done, false)) => self.count(|report| {
                    report.pruned += 1;
                    report.deleted += done.deleted.len() as u64;
                }),
                Err(error) if error.kind() == Kind::Locked => {
                    self.count(|report| match error.message().contains("lost its lease") {
                        true => report.lost += 1,
                        false => report.locked += 1,
                    })
                }
                // Another prune did it, or nothing newer is there.
                Err(error) if error.kind() == Kind::Refused => {}
                Err(error) if error.kind() == Kind::StoreUnavailable => {
                    self.count(|report| report.killed += 1);
                }
                // What was there when it was listed is gone, or comes.
                Err(error) if error.kind() == Kind::NotCovered => {}
                Err(error) => return Err(format!("host {host}: {error:?}")),
            }
        }
        Ok(())
    }

    /// Every backup that is there is whole.
    fn check(&self) -> Result<(), Broken> {
        let artifacts = files(&self.store, ".db.zst");
        let manifests = files(&self.store, ".json");
        let mut backups = manifests.iter().filter(|name| *name != "source");
        match backups.find(|name| !artifacts.contains(name)) {
            Some(name) => Err(format!("{name} has a manifest, and no artifact")),
            None => Ok(()),
        }
    }
}
