//! Simulated histories of page logs: a database that its application changes in every way that
//! SQLite has, an agent or increments that add to its log, prunes that thin it out, a store, a
//! clock and machines that fail.
//!
//! - Every state that was recorded is what the database was then, to the byte, as long as the rule
//!   of its age keeps it; a state that was stored although its run failed is one that was tried.
//! - Nothing that fails leads to a gap, and nothing that is damaged is restored as something else.

mod promises;
mod readers;
mod writer;

use std::collections::BTreeMap;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::{CRASH_POINTS, Clock, Env};
use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::prune::LogLevels;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::seal::{Identity, Keys, Recipients};
use lifeboat_core::source::Source;
use lifeboat_core::store::Store;
use lifeboat_core::{Error, Kind};
use lifeboat_sqlite::pagelog::{
    self, Chain, FollowBounds, FollowRequest, Follower, Increment, IncrementOutcome,
    IncrementRequest, LogThinner, Packing, Resolution, Step, Target,
};
use lifeboat_sqlite::sample::Seeded;
use lifeboat_sqlite::{SqliteEngine, SqliteSource};

use self::readers::{CaughtUp, Readers};
use self::writer::Application;
use crate::clock::{SeededRandom, SimulatedClock};
use crate::crash::PowerCuts;
use crate::history::{Broken, capture_options};
use crate::store::{Faults, FaultyStore};

/// What happened in a history, so that a test can see that enough of it did.
#[derive(Clone, Debug, Default)]
pub struct PagelogReport {
    /// Backups that were made.
    pub backups: u64,
    /// States that were recorded, and looks that failed.
    pub states: (u64, u64),
    /// States that were restored and compared.
    pub restored: u64,
    /// Logs that were thinned out, and thinnings that failed.
    pub thinned: (u64, u64),
    /// Files that were merged away.
    pub merged: u64,
    /// Files that were put into packs.
    pub packed: u64,
    /// Moments that were asked for, and found as they must be.
    pub moments: u64,
    /// States that a standby showed, and how often it was cut off while it changed.
    pub shown: (u64, u64),
    /// Times that a turn of the `-wal` was missed, and made up for without holding a state.
    pub caught_up: u64,
    /// Crashes of the application, of the agent, and of the machine.
    pub crashes: (u64, u64, u64),
    /// Files that were damaged or removed on purpose, and restores that said so.
    pub damaged: (u64, u64),
    /// States of sealed logs, and of those that a host without a key wrote.
    pub sealed: (u64, u64),
    /// States of a writer in a hurry, of which none was held.
    pub hurried: u64,
    /// Crash points that were passed.
    pub points: std::collections::BTreeSet<&'static str>,
}

/// Plays the history of a seed in an empty folder.
pub fn run(seed: u64, folder: &Path) -> Result<PagelogReport, Broken> {
    let mut history = History::begin(seed, folder)?;
    let steps = 6 + history.random.below(14);
    for number in 0..steps {
        let step = history.step().map_err(|broken| format!("step {number}: {broken}"))?;
        history.store.reboot();
        history.power.arm(None);
        if number % 3 == 0 || number + 1 == steps {
            history
                .check_promises()
                .map_err(|broken| format!("after step {number} ({step}): {broken}"))?;
        }
    }
    history.damage()?;
    history.report.points = history.power.passed();
    history.report.caught_up = history.caught_up.count();
    Ok(history.report)
}

/// A state that was recorded.
struct Recorded {
    image: Arc<Vec<u8>>,
    until_ms: i64,
}

/// What a repository is sealed with. Its bytes are others each time that a seed is played.
struct Seal {
    identity: Arc<Identity>,
    recipients: Arc<Recipients>,
    /// The host that writes has no key: it knows of the log what it notes.
    is_blind: bool,
}

/// The key of those who restore.
struct Key(Arc<Identity>);

impl Keys for Key {
    fn identity(&self) -> lifeboat_core::Result<Arc<Identity>> {
        Ok(Arc::clone(&self.0))
    }
}

struct History {
    random: Seeded,
    folder: PathBuf,
    database: PathBuf,
    application: Option<Application>,
    clock: Arc<SimulatedClock>,
    store: Arc<FaultyStore>,
    power: Arc<PowerCuts>,
    env: Env,
    follower: Option<Follower>,
    readers: Readers,
    caught_up: Arc<CaughtUp>,
    seal: Option<Seal>,
    resolution: Resolution,
    packing: Packing,
    clock_went_back: bool,
    bases: BTreeMap<String, Arc<Vec<u8>>>,
    recorded: BTreeMap<(String, u64), Recorded>,
    /// What looks that failed wanted to record.
    attempted: Vec<Arc<Vec<u8>>>,
    needs_backup: bool,
    report: PagelogReport,
}

impl Seal {
    fn new(is_blind: bool) -> Result<Self, Broken> {
        let identity = Arc::new(Identity::generate());
        let recipients = Recipients::parse(identity.recipients()).map_err(debug)?;
        Ok(Seal { identity, recipients: Arc::new(recipients), is_blind })
    }
}

fn debug(error: Error) -> Broken {
    format!("{error:?}")
}

impl History {
    fn begin(seed: u64, folder: &Path) -> Result<Self, Broken> {
        let mut random = Seeded::new(seed ^ 0x5eed_0f10);
        let database = folder.join("app.db");
        let mut application = Application::start(&database)?;
        let page_size = [512, 1024, 4096, 4096, 8192, 65536][random.below(6) as usize];
        let mode = ["WAL", "WAL", "WAL", "DELETE", "PERSIST"][random.below(5) as usize];
        application.run(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {}; PRAGMA journal_mode = {mode};
             CREATE TABLE log(id INTEGER PRIMARY KEY, body BLOB, key INTEGER);
             CREATE INDEX log_key ON log(key); CREATE TABLE total(n INTEGER);
             INSERT INTO total VALUES(0); INSERT INTO log(body, key) VALUES(x'00', 1);",
            random.below(3)
        ))?;
        let clock = Arc::new(SimulatedClock::default());
        let store = FaultyStore::new(random.next());
        let power = Arc::new(PowerCuts::new(Arc::clone(&store)));
        let random_bytes = Arc::new(SeededRandom::new(random.next()));
        let mut env = Env::new(Arc::clone(&clock) as _, random_bytes, "simulated");
        env.crash = Arc::clone(&power) as _;
        env.threads = 1 + random.below(2) as usize;
        let caught_up = Arc::new(CaughtUp::default());
        env.observer = Arc::clone(&caught_up) as _;
        let seal = random.one_in(3).then(|| Seal::new(random.one_in(2))).transpose()?;
        let all_ms = 30_000 + random.below(200_000);
        let minutely_ms = all_ms + random.below(900_000);
        let hourly_ms = minutely_ms + 3_600_000 * random.below(9);
        // Few files make a pack, so that packs of young and old states come about.
        let files = 2 + (seed % 4) as usize;
        let packing =
            Packing { files, spare: jiff::SignedDuration::from_secs(5), ..Packing::default() };
        Ok(History {
            random,
            folder: folder.to_owned(),
            database,
            application: Some(application),
            clock,
            store,
            power,
            env,
            follower: None,
            readers: Readers::none(folder),
            caught_up,
            seal,
            resolution: Resolution { all_ms, minutely_ms, hourly_ms },
            packing,
            clock_went_back: false,
            bases: BTreeMap::new(),
            recorded: BTreeMap::new(),
            attempted: Vec::new(),
            needs_backup: true,
            report: PagelogReport::default(),
        })
    }

    fn application(&mut self) -> Result<&mut Application, Broken> {
        if self.application.is_none() {
            self.application = Some(Application::start(&self.database)?);
        }
        self.application.as_mut().ok_or_else(|| "no application".to_owned())
    }

    fn image(&self) -> Result<Arc<Vec<u8>>, Broken> {
        match &self.application {
            Some(application) => application.image(&self.folder),
            None => writer::image(&self.database, &self.folder),
        }
        .map(Arc::new)
    }

    /// One random thing. Returns what it was.
    fn step(&mut self) -> Result<String, Broken> {
        if self.needs_backup {
            return self.back_up();
        }
        match self.random.below(33) {
            30.. => self.follow_for_readers(),
            0..10 => {
                let mut random = Seeded::new(self.random.next());
                let mut done = Vec::new();
                for _ in 0..1 + self.random.below(4) {
                    done.push(self.application()?.act(&mut random)?);
                }
                self.look().map(|look| format!("{}; {look}", done.join(", ")))
            }
            10..19 => {
                let mut random = Seeded::new(self.random.next());
                let done = self.application()?.act(&mut random)?;
                self.look().map(|look| format!("{done}; {look}"))
            }
            19..25 => self.thin(),
            25 => {
                let back = self.random.one_in(2);
                self.clock_went_back |= back;
                let jump = self.random.below(400_000) as i64;
                self.clock.jump_ms(if back { -jump } else { jump });
                Ok("the clock jumps".to_owned())
            }
            26 => {
                self.follower = None;
                self.report.crashes.1 += 1;
                Ok("the agent ended".to_owned())
            }
            27 => {
                let mut random = Seeded::new(self.random.next());
                self.application()?;
                if let Some(application) = self.application.take() {
                    application.crash(&mut random)?;
                }
                self.report.crashes.0 += 1;
                self.look().map(|look| format!("the application was killed; {look}"))
            }
            28 => {
                let mut random = Seeded::new(self.random.next());
                let synced = self.application()?.begin_unsynced(&mut random)?;
                // States are recorded that the database itself loses.
                let before = self.look()?;
                if self.needs_backup {
                    return Ok(before);
                }
                if let Some(application) = self.application.take() {
                    application.crash(&mut random)?;
                }
                self.follower = None;
                writer::lose_unsynced(&self.database, synced, &mut random)?;
                self.report.crashes.2 += 1;
                self.look().map(|look| format!("{before}; the machine lost its power; {look}"))
            }
            _ => {
                if let Some(application) = self.application.take() {
                    application.end()?;
                }
                self.look().map(|look| format!("the application ended; {look}"))
            }
        }
    }

    fn source(&self) -> SqliteSource {
        SqliteSource::new(self.database.clone())
    }

    fn identity(&self) -> Result<SourceIdentity, Broken> {
        let source = self.source();
        Ok(SourceIdentity {
            id: None,
            name: "app".into(),
            kind: source.kind().into(),
            host: self.env.host.clone(),
            location: source.location().map_err(debug)?,
        })
    }

    /// The repository for those who restore and thin out: where it is sealed they have the key.
    fn repository(&self) -> lifeboat_core::Result<Repository> {
        let repository =
            Repository::open_or_create(&self.env, Arc::clone(&self.store) as Arc<dyn Store>)?;
        Ok(match &self.seal {
            None => repository,
            Some(Seal { identity, recipients, .. }) => repository
                .sealed_to(Some(Arc::clone(recipients)))
                .with_keys(Some(Arc::new(Key(Arc::clone(identity))))),
        })
    }

    /// The repository for the host that writes.
    fn writers_repository(&self) -> lifeboat_core::Result<Repository> {
        let known = self.folder.join("known");
        let repository = self.repository()?.keeping_known(Some(&known));
        let is_blind = self.seal.as_ref().is_some_and(|seal| seal.is_blind);
        Ok(if is_blind { repository.with_keys(None) } else { repository })
    }

    fn back_up(&mut self) -> Result<String, Broken> {
        // Two backups within a second would have the same name.
        self.clock.sleep_ms(1_500);
        self.follower = None;
        let image = self.image()?;
        let source = self.source();
        let request = BackupRequest {
            source: &source,
            engine: &SqliteEngine,
            identity: self.identity()?,
            companions: None,
            options: capture_options(CheckLevel::None),
            compression: match self.random.below(4) {
                0 => Compression::None,
                1 => Compression::Gzip { level: 1 },
                _ => Compression::Zstd { level: 1 },
            },
            pattern: NamePattern::default(),
            pin: None,
            purpose: None,
            service: None,
            on_change: false,
            lock_folder: None,
            scratch_folder: &self.folder,
            tool: "simulation",
            warnings: &[],
        };
        let repository = self.writers_repository().map_err(debug)?;
        match backup::run(&self.env, &repository, &request).map_err(debug)? {
            BackupOutcome::Committed { manifest, .. } => {
                self.bases.insert(manifest.name.clone(), image);
                self.needs_backup = false;
                self.report.backups += 1;
                Ok(format!("backup {}", manifest.name))
            }
            BackupOutcome::Unchanged { .. } => Err("a backup was not made".to_owned()),
        }
    }

    /// Arms what goes wrong in the next run; returns it in words.
    fn choose_fault(&mut self, points: &[&str]) -> String {
        let often = 1 + self.random.below(25);
        let none = Faults::default();
        let faults = match self.random.below(24) {
            0..12 => return "no fault".into(),
            12..15 => {
                let is_of_run = |point: &&&str| points.iter().any(|begin| point.starts_with(begin));
                let of_run: Vec<_> = CRASH_POINTS.iter().filter(is_of_run).collect();
                let chosen = self.random.below(of_run.len() as u64) as usize;
                self.power.arm(Some(of_run[chosen]));
                return format!("power cut at {}", of_run[chosen]);
            }
            15 => Faults { dies_after_calls: 1 + self.random.below(30), ..none },
            16 => Faults { call_fails: often, ..none },
            17 => Faults { write_fails: often, commit_fails: often, ..none },
            18 | 19 => Faults { commit_fails_late: 1 + often / 8, ..none },
            20 => Faults { stores_flipped: 1 + often / 3, ..none },
            21 => Faults { reads_flipped: often, reads_short: often, reads_fail: often, ..none },
            22 => Faults { lists_lag_calls: 1 + self.random.below(40), ..none },
            _ => Faults { capacity_bytes: 1 + self.random.below(2_000_000), ..none },
        };
        self.store.set_faults(faults);
        format!("{faults:?}")
    }

    /// The agent looks, or an increment is made.
    fn look(&mut self) -> Result<String, Broken> {
        self.clock.sleep_ms([200, 1_000, 9_000, 70_000, 2_000_000][self.random.below(5) as usize]);
        let image = self.image()?;
        let fault = self.choose_fault(&["increment."]);
        let looked = self.add();
        let story = format!("a look with {fault}: ");
        // Whoever asks next sees what is there.
        self.store.reboot();
        self.power.arm(None);
        match looked {
            Ok(Looked::Added(increment)) => {
                self.report.states.0 += 1;
                if let Some(seal) = &self.seal {
                    self.report.sealed.0 += 1;
                    self.report.sealed.1 += u64::from(seal.is_blind);
                }
                let is_hurried = self.follower.as_ref().is_some_and(Follower::is_hurried);
                self.report.hurried += u64::from(is_hurried);
                self.record(&increment, image)?;
                Ok(format!("{story}{}+{}", increment.base, increment.position))
            }
            Ok(Looked::Nothing) => {
                self.require_newest(&image).map_err(|broken| format!("{story}{broken}"))?;
                Ok(format!("{story}nothing is new"))
            }
            Ok(Looked::BackupNeeded(why)) => {
                self.attempted.push(image);
                self.needs_backup = true;
                Ok(format!("{story}a backup is needed: {why}"))
            }
            Err(error) if fault == "no fault" => Err(format!("{story}{error:?}")),
            Err(error) => {
                self.report.states.1 += 1;
                self.attempted.push(image);
                self.follower = None;
                Ok(format!("{story}{error:?}"))
            }
        }
    }

    fn add(&mut self) -> lifeboat_core::Result<Looked> {
        let repository = self.writers_repository()?;
        if let Some(mut follower) = self.follower.take() {
            let mut step = follower.step(&self.env)?;
            while matches!(step, Step::Unchanged) && follower.is_behind() {
                step = follower.step(&self.env)?;
            }
            self.follower = Some(follower);
            return Ok(match step {
                Step::Unchanged => Looked::Nothing,
                Step::Added(increment) => Looked::Added(increment),
                Step::BackupNeeded(why) => Looked::BackupNeeded(why),
            });
        }
        let identity = self.identity().map_err(|why| Error::new(Kind::Failed, why))?;
        if self.random.one_in(3) {
            let source = self.source();
            let options = capture_options(CheckLevel::Quick);
            let request =
                IncrementRequest { source: &source, identity, options, lock_folder: None };
            return Ok(match pagelog::run(&self.env, &repository, &request)? {
                IncrementOutcome::Added(increment) => Looked::Added(increment),
                IncrementOutcome::BackupNeeded(why) => Looked::BackupNeeded(why),
            });
        }
        let request = FollowRequest {
            path: self.database.clone(),
            identity,
            options: capture_options(CheckLevel::None),
            bounds: FollowBounds {
                pinned_wal_bytes_max: [0, 100_000, 64 << 20][self.random.below(3) as usize],
                pinned_from_bytes: if self.random.one_in(2) { 0 } else { 1 << 30 },
                compare_pause_wal: 0,
                compare_pause_rollback: 0,
                // With a thread of its own for what is stored no two runs would be the same.
                rush_from_bytes: match self.env.threads == 1 && self.random.one_in(2) {
                    true => 0,
                    false => u64::MAX,
                },
                store_every_ms: 0,
                // What is too much is put aside; what is too much for that is left, and read when
                // it is stored.
                collected_bytes_max: [0, 30_000, 20 << 20][self.random.below(3) as usize],
                aside_bytes_max: [0, 50_000, 1 << 30][self.random.below(3) as usize],
                ..FollowBounds::default()
            },
            lock_folder: None,
            aside_folder: Some(self.folder.join("aside")),
        };
        Ok(match Follower::begin(&self.env, &repository, request)? {
            Ok((follower, increment)) => {
                self.follower = Some(follower);
                Looked::Added(increment)
            }
            Err(why) => Looked::BackupNeeded(why),
        })
    }

    fn record(&mut self, increment: &Increment, image: Arc<Vec<u8>>) -> Result<(), Broken> {
        let (base, position) = (increment.base.clone(), increment.position);
        let until_ms = self.with_chain(&base, |chain| {
            chain.moment(Target::Position(position)).map(|moment| moment.until.as_millisecond())
        })?;
        let until_ms = until_ms.map_err(|error| format!("it was not recorded: {error:?}"))?;
        self.recorded.insert((base, position), Recorded { image, until_ms });
        Ok(())
    }

    /// Where nothing is new, the newest state is what the database is.
    fn require_newest(&mut self, image: &[u8]) -> Result<(), Broken> {
        let newest = self.recorded.iter().next_back().map(|(_, recorded)| &*recorded.image);
        match newest {
            Some(newest) if *newest == image => Ok(()),
            Some(_) => Err("nothing is said to be new, but the database is another".to_owned()),
            None => Ok(()),
        }
    }

    fn with_chain<T>(&self, base: &str, look: impl FnOnce(&Chain<'_>) -> T) -> Result<T, Broken> {
        let repository = self.repository().map_err(debug)?;
        let catalog = repository.catalog().map_err(debug)?;
        // A source whose record was once misread has got a folder more.
        let find = |entry: &SourceEntry| entry.backups.iter().position(|one| one.name == base);
        let entry = catalog.sources.iter().find(|entry| find(entry).is_some());
        let entry = entry.ok_or_else(|| format!("{base} is gone"))?;
        let manifest = &entry.backups[find(entry).unwrap_or(0)];
        let chain = Chain::of(&repository, &entry.folder, manifest).map_err(debug)?;
        Ok(look(&chain))
    }

    /// A prune thins the logs out.
    fn thin(&mut self) -> Result<String, Broken> {
        let repository = self.repository().map_err(debug)?;
        let catalog = repository.catalog().map_err(debug)?;
        let entry = catalog.sources.last().ok_or("no source")?;
        let backups: Vec<&Manifest> = entry.backups.iter().collect();
        let fault = self.choose_fault(&["merge.", "pack."]);
        let thinner = LogThinner { resolution: Some(self.resolution), packing: self.packing };
        let mut told = String::new();
        for base in &backups {
            let done =
                thinner
                    .thin(&self.env, &repository, &entry.folder, (&backups, base), &mut || Ok(()));
            match done {
                Ok(thinned) => {
                    self.report.thinned.0 += u64::from(thinned.deleted > 0);
                    self.report.merged += thinned.deleted as u64;
                    self.report.packed += thinned.packed as u64;
                    told.push_str(&format!(" {}: {thinned:?}", base.name));
                }
                Err(error) if fault == "no fault" => return Err(format!("thinning: {error:?}")),
                Err(error) => {
                    self.report.thinned.1 += 1;
                    told.push_str(&format!(" {}: {error:?}", base.name));
                    break;
                }
            }
        }
        self.store.reboot();
        self.power.arm(None);
        self.require_kept().map_err(|broken| format!("thinning with {fault},{told}: {broken}"))?;
        // What goes by the rule is not asked for any more.
        let mut there = Vec::new();
        for (base, position) in self.recorded.keys() {
            there.push(
                self.with_chain(base, |chain| chain.moment(Target::Position(*position)).is_ok())?,
            );
        }
        let mut there = there.into_iter();
        self.recorded.retain(|_, _| there.next() == Some(true));
        Ok(format!("thinning with {fault}:{told}"))
    }

    /// Whether what the rule keeps is there: said once more, in other words than the program's.
    fn require_kept(&self) -> Result<(), Broken> {
        let all = |base: &String| self.recorded.range((base.clone(), 0)..=(base.clone(), u64::MAX));
        let mut newest = self.recorded.values().map(|one| one.until_ms).max().unwrap_or(0);
        for base in self.bases.keys() {
            // One that was stored although its run failed is one as well, and so is a backup.
            let ends = self.with_chain(base, |chain| {
                let at = |position| chain.moment(Target::Position(position));
                Ok((at(0)?.until.as_millisecond(), at(chain.end())?.until.as_millisecond()))
            })?;
            let (taken, end) = ends.map_err(debug)?;
            newest = newest.max(taken).max(end);
        }
        for base in self.bases.keys() {
            // Also those that were stored although their run failed.
            let there: BTreeMap<u64, i64> = self.with_chain(base, |chain| {
                let at = |position| chain.moment(Target::Position(position)).ok();
                (1..=chain.end())
                    .filter_map(|position| Some((position, at(position)?.until.as_millisecond())))
                    .collect()
            })?;
            for ((_, position), one) in all(base) {
                let age_ms = newest - one.until_ms;
                let alike = |unit_ms: i64| {
                    let mut later = there.range(*position..);
                    later.any(|(_, until_ms)| one.until_ms / unit_ms == until_ms / unit_ms)
                };
                let kept = match age_ms {
                    age if age <= self.resolution.all_ms as i64 => there.contains_key(position),
                    // Then the next state in its minute may be one of long ago.
                    _ if self.clock_went_back => true,
                    age if age <= self.resolution.minutely_ms as i64 => alike(60_000),
                    age if age <= self.resolution.hourly_ms as i64 => alike(3_600_000),
                    _ => true,
                };
                if !kept {
                    return Err(format!("{base}+{position}, {age_ms} ms old, is not kept"));
                }
            }
        }
        Ok(())
    }
}

/// What a look led to.
enum Looked {
    Nothing,
    Added(Increment),
    BackupNeeded(String),
}
