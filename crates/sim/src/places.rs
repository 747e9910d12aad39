//! One backup for several repositories of which some fail, and copies between them.
//!
//! - A repository without a fault takes the backup, whatever the others do.
//! - A backup that succeeded somewhere is listed there, whole; and it is the same one wherever it
//!   succeeded: one id, one name, the same bytes.
//! - What is listed is whole, also where the run was told of a failure.
//! - A copy brings what a repository lacks and takes nothing from any: one that lost everything
//!   gets all of it again, and empties no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::Result;
use lifeboat_core::backup::{self, BackupOutcome, BackupRequest, Destination};
use lifeboat_core::copy;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::Source;
use lifeboat_core::store::Store;
use lifeboat_core::verify::{self, VerifyLevel};
use lifeboat_sqlite::sample::{SampleOptions, Seeded, Size, Writer, WriterOptions, create};
use lifeboat_sqlite::{SqliteEngine, SqliteSource};

use crate::clock::{SeededRandom, SimulatedClock};
use crate::history::{Broken, capture_options};
use crate::store::{Faults, FaultyStore};

/// What happened, so that a test can see that enough of it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlacesReport {
    /// Backups that a repository took, and did not.
    pub taken: (u64, u64),
    /// Runs in which some repositories took it and some did not.
    pub parted: u64,
    /// Backups that copies brought, and copies that a fault ended.
    pub copied: (u64, u64),
    /// Repositories that lost everything.
    pub emptied: u64,
}

/// Plays the history of a seed in an empty folder.
pub fn run(seed: u64, folder: &Path) -> std::result::Result<PlacesReport, Broken> {
    let begun = Places::begin(seed, folder);
    let mut places = begun.map_err(|error| format!("{error:?}"))?;
    for round in 0..5 {
        // Two runs never begin in one second, and what a run left is a day old at times.
        let later_ms = [2_000, 2_000, 25 * 3_600_000];
        let later_ms = later_ms[places.random.below(3) as usize];
        places.env.clock.sleep_ms(later_ms);
        places.round(round > 0).map_err(|broken| format!("round {round}: {broken}"))?;
    }
    Ok(places.report)
}

struct Places {
    random: Seeded,
    folder: PathBuf,
    database: PathBuf,
    writer: Writer,
    env: Env,
    stores: Vec<Arc<FaultyStore>>,
    report: PlacesReport,
}

impl Places {
    fn begin(seed: u64, folder: &Path) -> Result<Self> {
        let mut random = Seeded::new(seed);
        let database = folder.join("chat.db");
        create(
            &database,
            &SampleOptions {
                size: Size::Messages(random.below(800)),
                page_bytes: [1024, 4096][random.below(2) as usize],
                // In rollback mode the check is one of what is stored, in one of the repositories.
                journal_mode: ["wal", "delete"][random.below(2) as usize].into(),
                seed,
                users: 20,
                rooms: 5,
            },
        )?;
        let writer = Writer::open(&database, WriterOptions { seed, ..WriterOptions::default() })?;
        let bytes = Arc::new(SeededRandom::new(random.next()));
        let clock = Arc::new(SimulatedClock::default());
        let mut env = Env::new(clock as _, bytes, "simulated");
        env.threads = 1 + random.below(2) as usize;
        let stores: Vec<_> = (0..3).map(|_| FaultyStore::new(random.next())).collect();
        for store in &stores {
            Repository::open_or_create(&env, Arc::clone(store) as Arc<dyn Store>)?;
        }
        let (folder, report) = (folder.to_owned(), PlacesReport::default());
        Ok(Places { random, folder, database, writer, env, stores, report })
    }

    fn repositories(&self) -> Result<Vec<Repository>> {
        let open = |store: &Arc<FaultyStore>| Repository::open(Arc::clone(store) as _);
        self.stores.iter().map(open).collect()
    }

    /// One run, with its faults; then one without, a copy among them; then all is looked at.
    fn round(&mut self, with_faults: bool) -> std::result::Result<(), Broken> {
        let told = |error| format!("{error:?}");
        for _ in 0..self.random.below(6) {
            self.writer.tick(self.env.clock.now().as_millisecond()).map_err(told)?;
        }
        let repositories = self.repositories().map_err(told)?;
        let faults: Vec<Option<Faults>> =
            (0..self.stores.len()).map(|_| self.fault().filter(|_| with_faults)).collect();
        for (store, faults) in self.stores.iter().zip(&faults) {
            store.set_faults(faults.unwrap_or_default());
        }
        let outcomes = self.back_up(&repositories);
        self.stores.iter().for_each(|store| store.reboot());
        let outcomes = outcomes.map_err(told)?;
        self.judge(&faults, outcomes)?;
        self.look().map_err(|broken| format!("after the backup: {broken}"))?;
        self.copy_all()
    }

    /// What goes wrong in one of them; mostly nothing.
    fn fault(&mut self) -> Option<Faults> {
        let often = 1 + self.random.below(20);
        let none = Faults::default();
        Some(match self.random.below(12) {
            0 => Faults { dies_after_calls: 1 + self.random.below(20), ..none },
            1 => Faults { call_fails: often, ..none },
            2 => Faults { write_fails: often, commit_fails: often, ..none },
            3 => Faults { commit_fails_late: 1 + often / 4, ..none },
            4 => Faults { stores_flipped: 1 + often / 3, ..none },
            5 => Faults { reads_flipped: often, reads_short: often, reads_fail: often, ..none },
            6 => Faults { capacity_bytes: 1 + self.random.below(300_000), ..none },
            _ => return None,
        })
    }

    fn back_up(&mut self, repositories: &[Repository]) -> Result<Vec<Result<BackupOutcome>>> {
        let source = SqliteSource::new(self.database.clone());
        let forms = [Compression::None, Compression::Gzip { level: 1 }, Compression::DEFAULT];
        let destinations: Vec<Destination<'_>> = repositories
            .iter()
            .map(|repository| {
                let compression = forms[self.random.below(3) as usize];
                Destination { repository, compression }
            })
            .collect();
        let check = [CheckLevel::None, CheckLevel::Quick][self.random.below(2) as usize];
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
            companions: None,
            options: capture_options(check),
            compression: Compression::DEFAULT,
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
        Ok(backup::run_all(&self.env, &destinations, &request))
    }

    fn judge(
        &mut self,
        faults: &[Option<Faults>],
        outcomes: Vec<Result<BackupOutcome>>,
    ) -> std::result::Result<(), Broken> {
        if outcomes.len() != self.stores.len() {
            return Err(format!("{} outcomes of {}", outcomes.len(), self.stores.len()));
        }
        let mut same: Option<(String, String, String)> = None;
        let (mut taken, mut missed) = (0, 0);
        for (index, (outcome, faults)) in outcomes.into_iter().zip(faults).enumerate() {
            let manifest = match (outcome, faults) {
                (Ok(BackupOutcome::Committed { manifest, .. }), _) => manifest,
                (Ok(_), _) => return Err("a backup that was asked for was not made".into()),
                (Err(error), None) => {
                    return Err(format!("repository {index} has no fault and failed: {error:?}"));
                }
                (Err(_), Some(_)) => {
                    missed += 1;
                    continue;
                }
            };
            taken += 1;
            let plain = manifest.artifacts.first().map(|one| one.plain_sha256.clone());
            let this = (manifest.id.to_string(), manifest.name.clone(), plain.unwrap_or_default());
            if *same.get_or_insert_with(|| this.clone()) != this {
                return Err(format!("two backups of one run differ: {same:?} and {this:?}"));
            }
            let listed = self.listed(index).map_err(|error| format!("{error:?}"))?;
            if !listed.iter().any(|one| one.id == manifest.id) {
                return Err(format!("{} succeeded in {index} and is not listed", manifest.name));
            }
        }
        self.report.taken = (self.report.taken.0 + taken, self.report.taken.1 + missed);
        self.report.parted += u64::from(taken > 0 && missed > 0);
        Ok(())
    }

    fn listed(&self, index: usize) -> Result<Vec<Manifest>> {
        let repository = Repository::open(Arc::clone(&self.stores[index]) as _)?;
        let sources = repository.catalog()?.sources;
        Ok(sources.into_iter().flat_map(|entry| entry.backups).collect())
    }

    /// Everything that is listed anywhere is whole.
    fn look(&self) -> std::result::Result<(), Broken> {
        let repositories = self.repositories().map_err(|error| format!("{error:?}"))?;
        for (index, repository) in repositories.iter().enumerate() {
            let catalog = repository.catalog().map_err(|error| format!("{error:?}"))?;
            for entry in &catalog.sources {
                for manifest in &entry.backups {
                    let scratch = (self.folder.as_path(), 16 << 20);
                    let (folder, level) = (entry.folder.as_str(), VerifyLevel::Hash);
                    let (env, engine) = (&self.env, &SqliteEngine);
                    let report =
                        verify::run(env, repository, folder, manifest, engine, level, scratch);
                    if !report.as_ref().is_ok_and(|report| report.sound) {
                        return Err(format!("{index}: {} is not whole: {report:?}", manifest.name));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every repository gets what it lacks from the others; now and then one has lost everything,
    /// and now and then a copy is cut off and begins again.
    fn copy_all(&mut self) -> std::result::Result<(), Broken> {
        if self.random.one_in(4) {
            let store = &self.stores[self.random.below(3) as usize];
            for name in store.names() {
                if name.as_str().contains('/') {
                    store.damage(&name, |_| None);
                }
            }
            self.report.emptied += 1;
        }
        let ids = |listed: Vec<Manifest>| listed.iter().map(|one| one.id).collect::<BTreeSet<_>>();
        let told = |error| format!("{error:?}");
        let mut all = BTreeSet::new();
        for index in 0..self.stores.len() {
            all.extend(ids(self.listed(index).map_err(told)?));
        }
        for to in 0..self.stores.len() {
            for from in (0..self.stores.len()).filter(|from| *from != to) {
                let before = ids(self.listed(from).map_err(told)?);
                if self.random.one_in(3) {
                    let faults = self.fault().unwrap_or_default();
                    self.stores[to].set_faults(faults);
                    self.report.copied.1 += u64::from(self.copy(from, to).is_err());
                    self.stores[to].reboot();
                }
                self.report.copied.0 += self.copy(from, to).map_err(told)?;
                if ids(self.listed(from).map_err(told)?) != before {
                    return Err(format!("the copy from {from} to {to} changed {from}"));
                }
            }
            if ids(self.listed(to).map_err(told)?) != all {
                return Err(format!("repository {to} lacks something after all copies"));
            }
        }
        self.look().map_err(|broken| format!("after the copies: {broken}"))
    }

    /// How many backups were sent.
    fn copy(&self, from: usize, to: usize) -> Result<u64> {
        let repositories = self.repositories()?;
        let (from, to) = (&repositories[from], &repositories[to]);
        let (ours, theirs) = (from.catalog()?, to.catalog()?);
        let mut sent = 0;
        for entry in &ours.sources {
            let known = theirs.sources.iter().find(|other| other.folder == entry.folder);
            let options = copy::Options { verify: true, ..copy::Options::default() };
            let plan = copy::plan(&self.env, (from, entry), (to, known), &options)?;
            let copied = copy::apply(&self.env, (from, entry), to, &plan, None, None)?;
            for (_, ended) in copied.backups {
                ended?;
                sent += 1;
            }
        }
        Ok(sent)
    }
}
