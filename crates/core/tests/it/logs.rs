//! Files that are written, renamed, deleted and emptied while they are read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::event::{Event, Observer};
use lifeboat_core::files::{FileEntry, FilesEngine, FilesSource};
use lifeboat_core::manifest::{CheckLevel, Manifest, Method};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{CaptureOptions, Source};
use lifeboat_core::store::{ObjectName, Store};
use lifeboat_core::{Kind, Result};

use crate::world::MemoryStore;

type Deed = Box<dyn FnMut() + Send>;

/// Does something at the moment when all files are held and none was read yet.
struct Meanwhile(Mutex<Deed>);

impl Observer for Meanwhile {
    fn observe(&self, event: &Event<'_>) {
        if let Event::PhaseBegan { phase: "backing up", .. } = event {
            (self.0.lock().unwrap())();
        }
    }
}

struct World {
    folder: tempfile::TempDir,
    store: MemoryStore,
}

impl World {
    fn new() -> World {
        World { folder: tempfile::tempdir().unwrap(), store: MemoryStore::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self, pattern: &str) -> FilesSource {
        let entry = FileEntry { path: self.path(pattern), is_glob: true, optional: false };
        FilesSource::new(vec![entry]).unwrap()
    }

    /// A backup of what the pattern matches, during which that is done.
    fn backup(&self, pattern: &str, deed: impl FnMut() + Send + 'static) -> Result<Manifest> {
        let mut env = lifeboat_test_support::env();
        env.observer = Arc::new(Meanwhile(Mutex::new(Box::new(deed))));
        let repository = Repository::open_or_create(&env, Arc::new(self.store.clone()))?;
        let source = self.source(pattern);
        let request = BackupRequest {
            source: &source,
            engine: &FilesEngine,
            identity: SourceIdentity {
                id: None,
                name: "logs".into(),
                kind: "files".into(),
                host: "host".into(),
                location: "there".into(),
            },
            companions: None,
            options: CaptureOptions {
                method: Method::Online,
                check: CheckLevel::None,
                check_memory_bytes: 1 << 20,
                lock_ms_max: 1_000,
                wal_growth_bytes_max: 1 << 20,
            },
            compression: Compression::None,
            pattern: NamePattern::default(),
            pin: None,
            purpose: None,
            warnings: &[],
            service: None,
            on_change: false,
            lock_folder: None,
            scratch_folder: self.folder.path(),
            tool: "test",
        };
        match backup::run(&env, &repository, &request)? {
            BackupOutcome::Committed { manifest, .. } => Ok(*manifest),
            BackupOutcome::Unchanged { .. } => panic!("a backup was asked for"),
        }
    }

    /// What a backup holds: the files' names without folders, and their bytes.
    fn stored(&self, manifest: &Manifest) -> BTreeMap<String, Vec<u8>> {
        let object = ObjectName::new(format!("logs/{}", manifest.artifacts[0].name)).unwrap();
        let mut bytes = Vec::new();
        self.store.get(&object, None).unwrap().read_to_end(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), content);
        }
        files
    }
}

fn append(path: &PathBuf, text: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text).unwrap();
}

#[test]
fn a_log_that_grows_is_stored_as_it_was() {
    let world = World::new();
    let log = world.path("app.log");
    for bytes in [100, 9 << 20] {
        let before = vec![b'x'; bytes];
        fs::write(&log, &before).unwrap();
        let grows = log.clone();
        let manifest = world.backup("*.log", move || append(&grows, b"more\n")).unwrap();
        assert!(world.stored(&manifest)["app.log"] == before);
        // What was added later is a change for the next run.
        let digest = manifest.content_digest.unwrap();
        assert_ne!(world.source("*.log").digest().unwrap(), digest);
        fs::write(&log, &before).unwrap();
        assert_eq!(world.source("*.log").digest().unwrap(), digest);
    }
}

#[test]
fn logs_that_are_renamed_and_deleted_are_still_those_that_were_opened() {
    let world = World::new();
    let (log, older) = (world.path("app.log"), world.path("app.log.1"));
    fs::write(&log, "newest").unwrap();
    fs::write(&older, "older").unwrap();
    let manifest = world
        .backup("*.log*", move || {
            fs::rename(&log, &older).unwrap();
            fs::remove_file(&older).unwrap();
        })
        .unwrap();
    let stored = world.stored(&manifest);
    assert_eq!((&stored["app.log"][..], &stored["app.log.1"][..]), (&b"newest"[..], &b"older"[..]));
    assert!(manifest.warnings.is_empty(), "{:?}", manifest.warnings);
}

#[test]
fn a_log_that_is_emptied_never_fails_the_run_and_is_never_padded() {
    let world = World::new();
    let log = world.path("server.log");
    fs::write(&log, "before the start\n").unwrap();
    let emptied = log.clone();
    let manifest = world.backup("*.log", move || fs::write(&emptied, "new").unwrap()).unwrap();
    assert_eq!(world.stored(&manifest)["server.log"], b"new");
    assert!(manifest.warnings[0].contains("3 of its 17 bytes"), "{:?}", manifest.warnings);
    // A large one is read again.
    fs::write(&log, vec![b'x'; 9 << 20]).unwrap();
    let (emptied, mut times) = (log.clone(), 0);
    let manifest = world
        .backup("*.log", move || {
            times += 1;
            if times == 1 {
                fs::write(&emptied, "started again").unwrap();
            }
        })
        .unwrap();
    assert_eq!(world.stored(&manifest)["server.log"], b"started again");
    // One that is emptied again and again is an error, and nothing is left of the run.
    let objects = world.store.list(None).unwrap().len();
    fs::write(&log, vec![b'x'; 9 << 20]).unwrap();
    let emptied = log.clone();
    let error = world.backup("*.log", move || {
        File::options().write(true).open(&emptied).unwrap().set_len(0).unwrap();
        // The next capture opens a large one again: under the old name, what is held is empty.
        fs::remove_file(&emptied).unwrap();
        fs::write(&emptied, vec![b'x'; 9 << 20]).unwrap();
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::SourceUnavailable);
    assert_eq!(world.store.list(None).unwrap().len(), objects);
}

#[test]
fn a_pattern_finds_what_is_there_in_each_run() {
    let world = World::new();
    let nothing = world.backup("*.log*", || {}).unwrap_err();
    assert_eq!(nothing.kind(), Kind::SourceUnavailable);
    fs::write(world.path("app.log"), "1").unwrap();
    fs::create_dir(world.path("folder.log")).unwrap();
    let first = world.backup("*.log*", || {}).unwrap();
    assert_eq!(world.stored(&first).keys().collect::<Vec<_>>(), ["app.log"]);
    fs::write(world.path("app.log.2.gz"), "2").unwrap();
    let second = world.backup("*.log*", || {}).unwrap();
    assert_eq!(world.stored(&second).keys().collect::<Vec<_>>(), ["app.log", "app.log.2.gz"]);
    assert_eq!(world.source("*").inspect().unwrap().description, "2 files");
}

#[test]
fn more_files_than_are_held_open_are_stored_too() {
    let world = World::new();
    for index in 0..400 {
        fs::write(world.path(&format!("{index:03}.log")), format!("log {index}")).unwrap();
    }
    let last = world.path("399.log");
    let manifest = world.backup("*.log", move || drop(fs::remove_file(&last))).unwrap();
    let stored = world.stored(&manifest);
    assert_eq!(stored.len(), 399);
    assert_eq!(stored["398.log"], b"log 398");
    assert!(manifest.warnings[0].contains("399.log was moved away"), "{:?}", manifest.warnings);
    assert_eq!(manifest.facts["files"], 399);
}
