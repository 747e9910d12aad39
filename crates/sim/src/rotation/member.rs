//! One repository of a simulated rotation: what was put there, by whom, and what must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Condition;
use lifeboat_core::policy::Keep;
use lifeboat_core::repository::{FORMAT, Header, Repository};
use lifeboat_core::store::{ObjectInfo, ObjectName, Store, get_bytes, put_bytes};
use lifeboat_sqlite::sample::Seeded;
use serde_json::{Value, json};

use super::rule::{self, Known};
use crate::clock::{SeededRandom, SimulatedClock};
use crate::crash::PowerCuts;
use crate::history::Broken;
use crate::store::FaultyStore;

/// The source's folder.
pub(crate) const FOLDER: &str = "chat";
/// The end of a file that shows that this program wrote it.
pub(crate) const OURS: [u8; 4] = [0xb1, 0xea, 0x92, 0x8f];

/// A backup that was put there once.
pub(super) struct Made {
    pub(super) known: Known,
    id: String,
    /// Its artifacts, and their sizes.
    files: Vec<(String, u64)>,
    /// Whether its bytes were rightly deleted.
    pub(super) deleted: bool,
    /// How many there were before it.
    number: usize,
}

/// A repository, and what is known of it.
pub(super) struct Member {
    pub(super) store: Arc<FaultyStore>,
    pub(super) power: Arc<PowerCuts>,
    pub(super) env: Env,
    pub(super) repository: Repository,
    pub(super) zone: TimeZone,
    pub(super) keep: Keep,
    pub(super) made: BTreeMap<String, Made>,
    /// What interrupted runs left.
    pub(super) garbage: BTreeSet<String>,
    strangers: BTreeMap<ObjectName, Vec<u8>>,
    /// What was kept by, for each record of a prune.
    pub(super) records: BTreeMap<String, Keep>,
    /// The latest moment that a prune took for now.
    pub(super) horizon: Timestamp,
    /// How many backups there were when `keep` was last changed.
    pub(super) made_before_edit: usize,
    /// Where its runs keep their locks: the next one knows by them that the last was killed.
    pub(super) locks: tempfile::TempDir,
}

/// What is there by the names of objects alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct There {
    /// Backups without a tombstone.
    pub(super) listed: BTreeSet<String>,
    /// Backups with one.
    pub(super) removed: BTreeSet<String>,
    /// All objects and their sizes.
    pub(super) objects: BTreeMap<String, u64>,
}

fn error(error: lifeboat_core::Error) -> Broken {
    format!("{error:?}")
}

pub(crate) fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

impl Member {
    /// A repository with that calendar, in which strangers keep files too.
    pub(super) fn new(
        random: &mut Seeded,
        clock: &Arc<SimulatedClock>,
        zone_name: &str,
        keep: Keep,
    ) -> Result<Self, Broken> {
        let store = FaultyStore::new(random.next());
        let power = Arc::new(PowerCuts::new(Arc::clone(&store)));
        let seeded = Arc::new(SeededRandom::new(random.next()));
        let mut env = Env::new(Arc::clone(clock) as _, seeded, "simulated");
        env.crash = Arc::clone(&power) as _;
        env.threads = 1;
        let created_at = env.clock.now();
        let header = Header {
            format: FORMAT,
            id: env.new_uuid(),
            created_at,
            time_zone: zone_name.into(),
            conditional_put: true,
        };
        let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
        let mut member = Member {
            repository: {
                put(&store, "lifeboat.json", &header)?;
                put(&store, &format!("{FOLDER}/source.json"), &text(&source(FOLDER)))?;
                Repository::open(Arc::clone(&store) as Arc<dyn Store>).map_err(error)?
            },
            zone: TimeZone::get(zone_name).map_err(|error| error.to_string())?,
            store,
            power,
            env,
            keep,
            made: BTreeMap::new(),
            garbage: BTreeSet::new(),
            strangers: BTreeMap::new(),
            records: BTreeMap::new(),
            horizon: created_at,
            made_before_edit: 0,
            locks: tempfile::tempdir().map_err(|error| error.to_string())?,
        };
        member.let_strangers_in()?;
        Ok(member)
    }

    /// Files that are named like ours and are not, and a source of its own.
    fn let_strangers_in(&mut self) -> Result<(), Broken> {
        let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8];
        let other = manifest("other-20200101-000000", "other", self.env.clock.now(), &[]);
        let files: [(&str, Vec<u8>); 8] = [
            ("chat/notes.txt", b"mine".to_vec()),
            ("chat/chat-20190101-000000.db.gz", gzip.to_vec()),
            ("chat/chat-20190101-000000.db", b"SQLite format 3".to_vec()),
            ("chat/chat-20190102-000000.db.zst", b"another's zstd".to_vec()),
            ("chat/sub/chat-20190103-000000.db.zst", OURS.to_vec()),
            ("other/source.json", text(&source("other"))),
            ("other/other-20200101-000000.json", text(&other)),
            ("tombstones.txt", b"mine too".to_vec()),
        ];
        for (name, bytes) in files {
            put(&self.store, name, &bytes)?;
            self.strangers.insert(ObjectName::new(name).map_err(error)?, bytes);
        }
        Ok(())
    }

    /// A run of the schedule that ends well. A name that was used before is not used again.
    pub(super) fn back_up(&mut self, mut known: Known) -> Result<bool, Broken> {
        if self.made.contains_key(&known.name) {
            return Ok(false);
        }
        let mut files = Vec::new();
        for ending in ["db.zst", "pages.zst"] {
            let file = format!("{}.{ending}", known.name);
            let bytes = [file.as_bytes(), &OURS].concat();
            put(&self.store, &format!("{FOLDER}/{file}"), &bytes)?;
            files.push((file, bytes.len() as u64));
        }
        let mut manifest = manifest(&known.name, FOLDER, known.taken_at, &files);
        let id = self.env.new_uuid().to_string();
        manifest["id"] = id.clone().into();
        if let Some(parent) = &known.parent {
            manifest["parent"] = self.made[parent].id.clone().into();
        }
        manifest["condition"] = match known.condition {
            Condition::Good => "good",
            Condition::Unchecked => "unchecked",
            Condition::Damaged => "damaged",
        }
        .into();
        if known.is_migration {
            manifest["purpose"] = "migration".into();
        }
        if let Some(until) = known.pinned {
            // A pin that was made with the backup holds for ever.
            debug_assert!(until.is_none());
            manifest["pin"] = "when it was made".into();
        }
        put(&self.store, &format!("{FOLDER}/{}.json", known.name), &text(&manifest))?;
        let (name, number) = (known.name.clone(), self.made.len());
        known.pinned = known.pinned.map(|_| None);
        self.made.insert(name, Made { known, id, files, deleted: false, number });
        Ok(true)
    }

    /// What an incremental backup builds on now, if anything.
    pub(super) fn newest_good(&self) -> Result<Option<String>, Broken> {
        let listed = self.known(&self.look()?.listed);
        let good = listed.iter().filter(|one| one.condition == Condition::Good);
        let newest = good.max_by_key(|one| (one.taken_at, &one.name));
        Ok(newest.map(|newest| newest.name.clone()))
    }

    /// A run that ends before its manifest.
    pub(super) fn leave_garbage(&mut self, name: &str) -> Result<(), Broken> {
        if self.made.contains_key(name) || self.garbage.iter().any(|file| file.contains(name)) {
            return Ok(());
        }
        let file = format!("{name}.db.zst");
        put(&self.store, &format!("{FOLDER}/{file}"), &[b"half".as_slice(), &OURS].concat())?;
        self.garbage.insert(file);
        Ok(())
    }

    /// What is there.
    pub(super) fn look(&self) -> Result<There, Broken> {
        let listed = self.store.list(None).map_err(error)?;
        // Who may prune is another history: see `hosts`.
        let is_lease = |object: &ObjectInfo| object.name.as_str().starts_with("leases/");
        let objects: BTreeMap<String, u64> = listed
            .into_iter()
            .filter(|object| !is_lease(object))
            .map(|object| (object.name.to_string(), object.bytes))
            .collect();
        let with = |name: &&String, folder: &str| {
            objects.contains_key(&format!("{folder}{FOLDER}/{name}.json"))
        };
        let there = || self.made.keys().filter(|name| with(name, ""));
        let removed: BTreeSet<String> =
            there().filter(|name| with(name, "tombstones/")).cloned().collect();
        let listed = there().filter(|name| !removed.contains(*name)).cloned().collect();
        Ok(There { listed, removed, objects })
    }

    /// The JSON of an object.
    pub(super) fn json(&self, name: &str) -> Result<Value, Broken> {
        let name = ObjectName::new(name).map_err(error)?;
        let bytes = get_bytes(&*self.store, &name, 1 << 20).map_err(error)?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{name}: {error}"))
    }

    /// What the rule must know of these.
    pub(super) fn known<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<Known> {
        names.into_iter().map(|name| self.made[name].known.clone()).collect()
    }

    /// What must be true at any time.
    pub(super) fn check(&self) -> Result<(), Broken> {
        for (name, bytes) in &self.strangers {
            let found = get_bytes(&*self.store, name, 1 << 20).ok();
            if found.as_ref() != Some(bytes) {
                return Err(format!("{name} is a stranger's, and was touched"));
            }
        }
        let there = self.look()?;
        for (name, made) in &self.made {
            let is_there = there.listed.contains(name) || there.removed.contains(name);
            if !is_there && !made.deleted {
                return Err(format!("{name} is gone"));
            }
            let parent = made.known.parent.as_ref().filter(|_| is_there);
            let lost = |parent: &&String| match there.listed.contains(name) {
                true => !there.listed.contains(*parent),
                false => !there.listed.contains(*parent) && !there.removed.contains(*parent),
            };
            if let Some(parent) = parent.filter(lost) {
                return Err(format!("{name} builds on {parent}, which is not as much there"));
            }
            for (file, bytes) in made.files.iter().filter(|_| is_there) {
                if there.objects.get(&format!("{FOLDER}/{file}")) != Some(bytes) {
                    return Err(format!("{name} is there without its {file}"));
                }
            }
        }
        self.check_buckets(&there)
    }

    /// A backup for every bucket that should have one: of the buckets that the policy asks for,
    /// counted over all good backups that ever were, each that got one since the policy was last
    /// changed still has one that is listed.
    fn check_buckets(&self, there: &There) -> Result<(), Broken> {
        let horizon = self.horizon.max(self.env.clock.now());
        let mut good: Vec<&Made> =
            self.made.values().filter(|made| made.known.counts(horizon)).collect();
        good.sort_by_key(|made| std::cmp::Reverse(made.known.taken_at));
        for (tier, count) in rule::tiers(&self.keep).into_iter().filter(|(_, count)| *count > 0) {
            let mut buckets: Vec<(String, bool, bool)> = Vec::new();
            for made in &good {
                let bucket = rule::bucket(tier, made.known.taken_at, &self.zone);
                let is_new = made.number >= self.made_before_edit;
                let is_listed = there.listed.contains(&made.known.name);
                let filled = buckets.len() == count as usize;
                match buckets.iter_mut().find(|(known, _, _)| *known == bucket) {
                    Some((_, promised, covered)) => {
                        *promised |= is_new;
                        *covered |= is_listed;
                    }
                    // A day may come twice, where clocks go back over midnight.
                    None if filled => {}
                    None => buckets.push((bucket, is_new, is_listed)),
                }
            }
            if let Some((bucket, _, _)) = buckets.iter().find(|(_, new, listed)| *new && !listed) {
                return Err(format!("the {tier} bucket {bucket} has lost its backup"));
            }
        }
        Ok(())
    }
}

pub(crate) fn put(store: &Arc<FaultyStore>, name: &str, bytes: &[u8]) -> Result<(), Broken> {
    let name = ObjectName::new(name).map_err(error)?;
    put_bytes(&**store, &name, bytes).map_err(error)
}

pub(crate) fn source(name: &str) -> Value {
    let id = format!("00000000-0000-4000-8000-{:012x}", name.len());
    let location = format!("/srv/{name}.db");
    json!({
        "format": 1, "id": id, "name": name, "kind": "sqlite", "host": "simulated",
        "location": location,
    })
}

/// A manifest as `docs/format.md` has it.
pub(crate) fn manifest(
    name: &str,
    folder: &str,
    taken_at: Timestamp,
    files: &[(String, u64)],
) -> Value {
    let artifact = |(file, bytes): &(String, u64)| {
        let role = if file.contains(".db") { "database" } else { "page-hashes" };
        json!({
            "role": role, "name": file, "compression": "zstd", "stored_bytes": bytes,
            "stored_sha256": "", "plain_bytes": bytes, "plain_sha256": "",
        })
    };
    let artifacts: Vec<Value> = files.iter().map(artifact).collect();
    json!({
        "format": 1, "id": "00000000-0000-4000-8000-000000000001", "name": name,
        "source": source(folder), "method": "online", "taken_at": taken_at,
        "completed_at": taken_at, "condition": "good", "facts": {}, "artifacts": artifacts,
        "checks": [], "timings_ms": {}, "tool": "simulation",
    })
}
