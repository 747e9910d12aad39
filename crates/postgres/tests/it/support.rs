//! Clusters, repositories and a clock for tests.

use std::path::{Path, PathBuf};

use lifeboat_core::backup::{self, BackupOutcome, BackupRequest};
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, Manifest, Method};
use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use lifeboat_core::repository::{Repository, SourceIdentity};
use lifeboat_core::source::{CaptureOptions, Engine, Source};
use lifeboat_core::{Error, Result};
use lifeboat_postgres::{
    Client, DumpFormat, PostgresEngine, PostgresSource, Selection, Session, ThrowAwayCluster,
};
pub(crate) use lifeboat_test_support::env;
pub(crate) use lifeboat_test_support::postgres::{
    cluster as cluster_with, kinds_of_majors, majors, options,
};

pub(crate) fn cluster(major: u32) -> ThrowAwayCluster {
    cluster_with(major, &[])
}

pub(crate) fn run(client: &Client, statements: &str) {
    Session::open(client, "the test").unwrap().execute(statements).unwrap();
}

/// The only value of a query, as psql shows it.
pub(crate) fn text_of(client: &Client, query: &str) -> String {
    let program = client.program("psql", None).unwrap();
    let output = client.command(&program).args(["-X", "-A", "-t", "-c", query]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{query}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository in a temporary folder.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) repository: Repository,
}

pub(crate) fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let env = env();
    let store = lifeboat_stores::open(&env, &url, &lifeboat_stores::Options::default()).unwrap();
    let repository = Repository::open_or_create(&env, store).unwrap();
    Place { folder, repository }
}

pub(crate) fn source(client: Client) -> PostgresSource {
    PostgresSource::new(client, DumpFormat::Custom, Selection::default())
}

/// A backup of a source, read back.
pub(crate) fn back_up(
    place: &Place,
    source: &PostgresSource,
    check: CheckLevel,
) -> Result<Manifest> {
    back_up_as(place, &env(), source, &PostgresEngine { options: options() }, check)
}

/// A backup of any source, in that world.
pub(crate) fn back_up_as(
    place: &Place,
    env: &Env,
    source: &dyn Source,
    engine: &dyn Engine,
    check: CheckLevel,
) -> Result<Manifest> {
    let request = BackupRequest {
        source,
        engine,
        identity: SourceIdentity {
            id: None,
            name: "shop".into(),
            kind: source.kind().into(),
            host: "host".into(),
            location: source.location()?,
        },
        companions: None,
        options: CaptureOptions {
            method: Method::Online,
            check,
            check_memory_bytes: 1 << 28,
            lock_ms_max: 5_000,
            wal_growth_bytes_max: 1 << 28,
        },
        compression: Compression::DEFAULT,
        pattern: NamePattern::default(),
        pin: None,
        purpose: None,
        service: None,
        on_change: false,
        lock_folder: None,
        scratch_folder: Path::new("/var/tmp"),
        tool: "test",
        warnings: &[],
    };
    match backup::run(env, &place.repository, &request)? {
        BackupOutcome::Committed { manifest, .. } => Ok(*manifest),
        BackupOutcome::Unchanged { .. } => {
            Err(Error::new(lifeboat_core::Kind::Failed, "unchanged"))
        }
    }
}

/// The stored file of an artifact.
pub(crate) fn stored(place: &Place, manifest: &Manifest, role: &str) -> PathBuf {
    let artifact = manifest.artifact(role).unwrap();
    place.folder.path().join("shop").join(&artifact.name)
}
