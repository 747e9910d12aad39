//! One simulated history, and the promises that are tested after each of its steps.
//!
//! - A backup whose run succeeded is listed, verifies, and restores to the very bytes that the
//!   database had; unless it was damaged later: then verify says so and restore refuses.
//! - What is listed is whole, also when its run was cut off or did not hear that it had succeeded.
//! - A restore that fails leaves what was there; one that succeeds put the right bytes there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::catalog::Catalog;
use lifeboat_core::env::{CRASH_POINTS, Env};
use lifeboat_core::files::{FileEntry, FilesSource};
use lifeboat_core::manifest::{CheckLevel, Condition, Manifest, Method};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::restore::{self, FilesChoice, Mapping, Origin, RestoreRequest};
use lifeboat_core::source::{CaptureOptions, Source};
use lifeboat_core::store::Store;
use lifeboat_core::verify::{self, VerifyLevel};
use lifeboat_core::{Error, Kind};
use lifeboat_sqlite::sample::{SampleOptions, Seeded, Size, Writer, WriterOptions, create, prove};
use lifeboat_sqlite::{SqliteEngine, SqliteSource};

use crate::clock::{SeededRandom, SimulatedClock};
use crate::crash::PowerCuts;
use crate::model::{Damage, Model};
use crate::store::{Faults, FaultyStore};

/// A promise that was broken, or a part of the simulation that did not work.
pub type Broken = String;

/// What happened in a history, so that a test can see that enough of it did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Backups that succeeded, and that failed.
    pub backups: (u64, u64),
    /// Restores that succeeded, and that failed.
    pub restores: (u64, u64),
    /// Objects that were damaged on purpose.
    pub damaged: u64,
    /// Damage that verify reported.
    pub reported: u64,
    /// Listed backups whose run had not succeeded.
    pub unacknowledged: u64,
    /// Crash points that were passed.
    pub points: BTreeSet<&'static str>,
}

/// Plays the history of a seed in an empty folder.
pub fn run(seed: u64, folder: &Path) -> Result<Report, Broken> {
    let mut history = History::begin(seed, folder).map_err(|error| format!("{error:?}"))?;
    let steps = 4 + history.random.below(7);
    for number in 0..steps {
        let step = history.step().map_err(|broken| format!("step {number}: {broken}"))?;
        history.store.reboot();
        history.power.arm(None);
        history
            .check_promises()
            .map_err(|broken| format!("after step {number} ({step}): {broken}"))?;
    }
    history.report.points = history.power.passed();
    Ok(history.report)
}

struct History {
    random: Seeded,
    folder: PathBuf,
    database: PathBuf,
    writer: Option<Writer>,
    seed: u64,
    clock: Arc<SimulatedClock>,
    store: Arc<FaultyStore>,
    power: Arc<PowerCuts>,
    env: Env,
    model: Model,
    report: Report,
    restores: u64,
}

impl History {
    fn begin(seed: u64, folder: &Path) -> lifeboat_core::Result<Self> {
        let mut random = Seeded::new(seed);
        let database = folder.join("chat.db");
        let page_bytes = [512, 1024, 4096, 4096, 16384, 65536][random.below(6) as usize];
        let journal_mode = ["wal", "wal", "delete", "truncate"][random.below(4) as usize];
        create(
            &database,
            &SampleOptions {
                size: Size::Messages(random.below(1_200)),
                page_bytes,
                journal_mode: journal_mode.into(),
                seed,
                users: 40,
                rooms: 10,
            },
        )?;
        let clock = Arc::new(SimulatedClock::default());
        let store = FaultyStore::new(random.next());
        let power = Arc::new(PowerCuts::new(Arc::clone(&store)));
        let random_bytes = Arc::new(SeededRandom::new(random.next()));
        let mut env = Env::new(Arc::clone(&clock) as _, random_bytes, "simulated");
        env.crash = Arc::clone(&power) as _;
        env.threads = 1 + random.below(2) as usize;
        fs::write(folder.join("host_key"), b"a key")
            .map_err(|error| Error::io(Kind::Failed, "cannot write the companion file", error))?;
        Ok(History {
            random,
            folder: folder.to_owned(),
            database,
            writer: None,
            seed,
            clock,
            store,
            power,
            env,
            model: Model::default(),
            report: Report::default(),
            restores: 0,
        })
    }

    /// One random thing. Returns what it was.
    fn step(&mut self) -> Result<String, Broken> {
        match self.random.below(20) {
            0..10 => self.backup(),
            10..14 => self.restore(),
            14..16 => self.verify(),
            16..19 => Ok(self.damage()),
            _ => {
                let back = self.random.one_in(2);
                let jump = self.random.below(90_000_000) as i64;
                self.clock.jump_ms(if back { -jump } else { jump });
                Ok("the clock jumps".into())
            }
        }
    }

    fn backup(&mut self) -> Result<String, Broken> {
        let image = Arc::new(self.write().map_err(|error| format!("the writer: {error:?}"))?);
        // A connection that stays open keeps a `-wal`; without one SQLite clears it away.
        if self.random.one_in(2) {
            self.writer = None;
        }
        let fault = self.choose_fault("backup.");
        let compression = match self.random.below(4) {
            0 => Compression::None,
            1 => Compression::Gzip { level: 1 },
            _ => Compression::Zstd { level: 1 },
        };
        let check = [CheckLevel::None, CheckLevel::Quick, CheckLevel::Full];
        let check = check[self.random.below(3) as usize];
        let with_files = self.random.one_in(3);
        let done = self.run_backup(compression, check, with_files);
        let story = format!("backup with {compression}, check {check:?}, {fault}: ");
        match done {
            Ok((folder, manifest)) => {
                self.report.backups.0 += 1;
                if manifest.condition == Condition::Damaged {
                    return Err(format!("{story}a sound database is said to be damaged"));
                }
                self.model.acknowledge(&folder, &manifest, image);
                Ok(story + "succeeded")
            }
            Err(error) if fault == "no fault" => Err(format!("{story}{error:?}")),
            Err(error) => {
                self.report.backups.1 += 1;
                self.model.attempted.push(image);
                Ok(format!("{story}{error:?}"))
            }
        }
    }

    /// Adds a few transactions; returns what the database is then.
    fn write(&mut self) -> lifeboat_core::Result<Vec<u8>> {
        if self.writer.is_none() {
            let options = WriterOptions { seed: self.seed, ..WriterOptions::default() };
            self.writer = Some(Writer::open(&self.database, options)?);
        }
        let mut image = Vec::new();
        if let Some(writer) = &mut self.writer {
            for _ in 0..self.random.below(12) {
                writer.tick(self.env.clock.now().as_millisecond())?;
            }
            image = writer.image()?;
        }
        Ok(image)
    }

    fn run_backup(
        &self,
        compression: Compression,
        check: CheckLevel,
        with_files: bool,
    ) -> lifeboat_core::Result<(String, Box<Manifest>)> {
        let source = SqliteSource::new(self.database.clone());
        let entry =
            FileEntry { path: self.folder.join("host_key"), is_glob: false, optional: false };
        let companions = FilesSource::new(vec![entry])?;
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let repository = Repository::open_or_create(&self.env, store)?;
        let request = BackupRequest {
            source: &source,
            engine: &SqliteEngine,
            identity: SourceIdentity {
                id: None,
                name: "chat".into(),
                kind: source.kind().into(),
                host: self.env.host.clone(),
                location: source.location()?,
            },
            companions: with_files.then_some(&companions),
            options: capture_options(check),
            compression,
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
        match backup::run(&self.env, &repository, &request)? {
            BackupOutcome::Committed { folder, manifest } => Ok((folder, manifest)),
            BackupOutcome::Unchanged { .. } => {
                Err(Error::new(Kind::Failed, "a backup that was always asked for was not made"))
            }
        }
    }

    /// Arms what goes wrong in the next run; returns it in words.
    fn choose_fault(&mut self, points: &str) -> String {
        let often = 1 + self.random.below(25);
        let none = Faults::default();
        let faults = match self.random.below(15) {
            0..5 => return "no fault".into(),
            5..7 => {
                let of_run: Vec<_> =
                    CRASH_POINTS.iter().filter(|point| point.starts_with(points)).collect();
                let chosen = self.random.below(of_run.len() as u64) as usize;
                // Verify writes nothing, so it has no points.
                let Some(point) = of_run.get(chosen) else { return "no fault".into() };
                self.power.arm(Some(point));
                return format!("power cut at {point}");
            }
            7 => Faults { dies_after_calls: 1 + self.random.below(30), ..none },
            8 => Faults { call_fails: often, ..none },
            9 => Faults { write_fails: often * 4, commit_fails: often, ..none },
            10 => Faults { commit_fails_late: 1 + often / 4, ..none },
            11 => Faults { stores_flipped: 1 + often / 3, ..none },
            12 => Faults { reads_flipped: often, reads_short: often, reads_fail: often, ..none },
            13 => Faults { lists_lag_calls: 1 + self.random.below(40), ..none },
            _ => Faults { capacity_bytes: 1 + self.random.below(2_000_000), ..none },
        };
        self.store.set_faults(faults);
        format!("{faults:?}")
    }

    fn catalog(&self) -> lifeboat_core::Result<(Repository, Catalog)> {
        let repository = Repository::open(Arc::clone(&self.store) as Arc<dyn Store>)?;
        let catalog = repository.catalog()?;
        Ok((repository, catalog))
    }

    /// A random listed backup.
    fn pick(&mut self) -> Option<(Repository, String, Manifest)> {
        let (repository, catalog) = self.catalog().ok()?;
        let mut all: Vec<_> = catalog
            .sources
            .into_iter()
            .flat_map(|entry| {
                let folder = entry.folder;
                entry.backups.into_iter().map(move |backup| (folder.clone(), backup))
            })
            .collect();
        if all.is_empty() {
            return None;
        }
        let (folder, manifest) = all.swap_remove(self.random.below(all.len() as u64) as usize);
        Some((repository, folder, manifest))
    }

    fn verify(&mut self) -> Result<String, Broken> {
        let Some((repository, folder, manifest)) = self.pick() else {
            return Ok("nothing to verify".into());
        };
        let fault = self.choose_fault("verify.");
        let level = match self.random.below(3) {
            0 => VerifyLevel::Check(CheckLevel::Full),
            _ => VerifyLevel::Hash,
        };
        let verified = self.run_verify(&repository, &folder, &manifest, level);
        let damaged = self
            .model
            .expected(&folder, &manifest.name)
            .is_some_and(|known| known.damage.iter().any(|damage| *damage != Damage::Manifest));
        match verified {
            Ok(true) if damaged => Err(format!("verify of {} finds no damage", manifest.name)),
            Ok(sound) => Ok(format!("verify {level:?}, {fault}: {sound}")),
            Err(error) => Ok(format!("verify {level:?}, {fault}: {error:?}")),
        }
    }

    fn run_verify(
        &self,
        repository: &Repository,
        folder: &str,
        manifest: &Manifest,
        level: VerifyLevel,
    ) -> lifeboat_core::Result<bool> {
        let scratch = (self.folder.as_path(), 16 << 20);
        let engine = &SqliteEngine;
        let report = verify::run(&self.env, repository, folder, manifest, engine, level, scratch)?;
        Ok(report.sound)
    }

    /// Restores under faults, over a database that must not be lost.
    fn restore(&mut self) -> Result<String, Broken> {
        let Some((repository, folder, manifest)) = self.pick() else {
            return Ok("nothing to restore".into());
        };
        let parent = self.folder.join(format!("restored-{}", self.restores));
        let place = parent.join("chat.db");
        self.restores += 1;
        fs::create_dir(&parent).map_err(|error| error.to_string())?;
        let old = b"what was there before";
        fs::write(&place, old).map_err(|error| error.to_string())?;
        let fault = self.choose_fault("restore.");
        let done = self.run_restore(&repository, &folder, &manifest, &place, CheckLevel::Quick);
        let story = format!("restore of {}, {fault}: ", manifest.name);
        let now = fs::read(&place).ok();
        let kept = files_of(&parent)?.iter().any(|bytes| bytes == old);
        if !kept {
            return Err(format!("{story}the old database is lost"));
        }
        let expected = self.model.expected(&folder, &manifest.name);
        let right = |bytes: &Vec<u8>| match expected {
            Some(known) => *bytes == *known.image,
            None => self.model.attempted.iter().any(|image| **image == *bytes),
        };
        match (done, now) {
            (Ok(()), Some(bytes)) if right(&bytes) => {
                self.report.restores.0 += 1;
                Ok(story + "succeeded")
            }
            (Ok(()), _) => Err(format!("{story}said to have succeeded, and has not")),
            (Err(error), now) => {
                self.report.restores.1 += 1;
                match now {
                    Some(bytes) if bytes != old && !right(&bytes) => {
                        Err(format!("{story}{error:?}; the place holds something else"))
                    }
                    _ => Ok(format!("{story}{error:?}")),
                }
            }
        }
    }

    fn run_restore(
        &self,
        repository: &Repository,
        folder: &str,
        manifest: &Manifest,
        place: &Path,
        check: CheckLevel,
    ) -> lifeboat_core::Result<()> {
        let request = RestoreRequest {
            origin: Origin::Backup { repository, folder, manifest },
            replay: None,
            engine: &SqliteEngine,
            to: Some(place.to_owned()),
            files: FilesChoice::No,
            files_root: None,
            mapping: Mapping::nothing(),
            check,
            check_memory_bytes: 16 << 20,
            service: None,
            scratch_folder: &self.folder,
        };
        let plan = restore::plan(&self.env, &request)?;
        restore::apply(&self.env, &request, &plan).map(drop)
    }

    /// Damages an object of a backup that succeeded.
    fn damage(&mut self) -> String {
        let count = self.model.acknowledged.len() as u64;
        let chosen = self.random.below(count) as usize;
        let Some(backup) = self.model.acknowledged.values_mut().nth(chosen) else {
            return "nothing to damage".into();
        };
        let of_backup = self.random.below(backup.objects.len() as u64) as usize;
        let (name, damage) = backup.objects[of_backup].clone();
        let (how, random) = (self.random.below(4), &mut self.random);
        self.store.damage(&name, |mut bytes| {
            let place = random.below(bytes.len() as u64) as usize;
            match how {
                0 => return None,
                1 => bytes.truncate(place),
                // Damage that is undone by more of it would not be damage: this is not.
                _ => bytes.get_mut(place).map_or((), |byte| *byte = byte.wrapping_add(1)),
            }
            Some(bytes)
        });
        backup.damage.push(damage);
        self.report.damaged += 1;
        format!("damage of {name}, way {how}")
    }

    /// Tests all promises in a world without faults.
    fn check_promises(&mut self) -> Result<(), Broken> {
        let (repository, catalog) = match self.catalog() {
            Ok(found) => found,
            Err(error) if self.model.acknowledged.is_empty() => {
                // A repository that was damaged while it was being made never worked: its owner
                // throws it away.
                if error.kind() == Kind::CheckFailed {
                    for name in self.store.names() {
                        self.store.damage(&name, |_| None);
                    }
                }
                return Ok(());
            }
            Err(error) => return Err(format!("the repository cannot be listed: {error:?}")),
        };
        let mut listed = BTreeSet::new();
        for entry in &catalog.sources {
            for manifest in &entry.backups {
                listed.insert((entry.folder.clone(), manifest.name.clone()));
                self.check_listed(&repository, &entry.folder, manifest)
                    .map_err(|broken| format!("{}/{}: {broken}", entry.folder, manifest.name))?;
            }
        }
        for (key, known) in &self.model.acknowledged {
            if !listed.contains(key) && !known.damage.contains(&Damage::Manifest) {
                return Err(format!("{key:?} succeeded and is not listed"));
            }
        }
        Ok(())
    }

    fn check_listed(
        &mut self,
        repository: &Repository,
        folder: &str,
        manifest: &Manifest,
    ) -> Result<(), Broken> {
        let parent = self.folder.join(format!("checked-{}", self.restores));
        let place = parent.join("chat.db");
        self.restores += 1;
        fs::create_dir(&parent).map_err(|error| error.to_string())?;
        let sound = self.run_verify(repository, folder, manifest, VerifyLevel::Hash);
        let restored = self.run_restore(repository, folder, manifest, &place, CheckLevel::None);
        let bytes = fs::read(&place).ok();
        let Some(known) = self.model.expected(folder, &manifest.name) else {
            self.report.unacknowledged += 1;
            let whole = bytes
                .is_some_and(|bytes| self.model.attempted.iter().any(|image| **image == bytes));
            return match (sound, restored, whole) {
                (Ok(true), Ok(()), true) => Ok(()),
                (sound, restored, _) => Err(format!(
                    "listed, but not whole: verify says {sound:?}, restore {restored:?}"
                )),
            };
        };
        if bytes.as_ref().is_some_and(|bytes| *bytes != *known.image) {
            return Err("restored to other bytes than the database had".into());
        }
        let (damage, is_there) = (known.damage.clone(), bytes.is_some());
        let has = |damaged: Damage| damage.contains(&damaged);
        if restored.is_ok() != is_there {
            return Err(format!("restore says {restored:?}, but a file is there: {is_there}"));
        }
        if damage.is_empty() {
            if !matches!(sound, Ok(true)) {
                return Err(format!("undamaged, but verify says {sound:?}"));
            }
            if let Err(error) = &restored {
                return Err(format!("undamaged, but cannot be restored: {error:?}"));
            }
            prove(&place).map_err(|error| format!("{error:?}"))?;
        }
        let _ = fs::remove_dir_all(&parent);
        if damage.is_empty() {
            return Ok(());
        }
        if has(Damage::Database) && restored.is_ok() {
            return Err("the artifact is damaged, and restore says nothing".into());
        }
        if !has(Damage::Database) && !has(Damage::Manifest) && restored.is_err() {
            return Err(format!("the database is not damaged, but restore says {restored:?}"));
        }
        if (has(Damage::Database) || has(Damage::Other)) && matches!(sound, Ok(true)) {
            return Err("an artifact is damaged, and verify says nothing".into());
        }
        self.report.reported += u64::from(!matches!(sound, Ok(true)));
        Ok(())
    }
}

/// The contents of all files in a folder.
fn files_of(folder: &Path) -> Result<Vec<Vec<u8>>, Broken> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        contents.push(fs::read(path).map_err(|error| error.to_string())?);
    }
    Ok(contents)
}

/// How a simulated run captures: online, and in no hurry, as the simulated clock runs faster than
/// the real reading.
pub(crate) fn capture_options(check: CheckLevel) -> CaptureOptions {
    CaptureOptions {
        method: Method::Online,
        check,
        check_memory_bytes: 16 << 20,
        lock_ms_max: 1 << 40,
        wal_growth_bytes_max: 1 << 30,
    }
}
