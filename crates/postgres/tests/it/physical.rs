//! Physical backups of real clusters under load, unpacked by `tar` alone, started and compared.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use lifeboat_core::Result;
use lifeboat_core::manifest::{CheckLevel, Condition, Manifest};
use lifeboat_core::verify::{self, VerifyLevel};
use lifeboat_postgres::page::PAGE_BYTES;
use lifeboat_postgres::physical::{
    Parent, ROLE_BASE, ROLE_HASHES, ROLE_SERVER_MANIFEST, ROLE_TABLESPACE,
};
use lifeboat_postgres::recovery::increment::IncrementHeader;
use lifeboat_postgres::server_manifest::ServerManifest;
use lifeboat_postgres::{Client, ClusterEngine, ClusterSource, PhysicalOptions};

use tempfile::TempDir;

use crate::data_folder::{Server, as_server, folder, map_spaces, own, program, unpack};
use crate::support::{
    Place, back_up_as, cluster, cluster_with, env, kinds_of_majors, majors, place, run, text_of,
};

pub(crate) fn source(client: Client) -> ClusterSource {
    ClusterSource::new(client, PhysicalOptions::default(), env())
}

pub(crate) fn back_up(place: &Place, client: Client) -> Result<Manifest> {
    back_up_from(place, &source(client))
}

/// The same of a source that was made before, and may build on another backup.
pub(crate) fn back_up_from(place: &Place, source: &ClusterSource) -> Result<Manifest> {
    back_up_as(place, &env(), source, &ClusterEngine, CheckLevel::Quick)
}

fn damage(place: &Place, manifest: &Manifest) -> Vec<String> {
    let level = VerifyLevel::Check(CheckLevel::Quick);
    let (repository, folder) = (&place.repository, manifest.source.name.as_str());
    let scratch = (Path::new("/var/tmp"), 1 << 28);
    let engine = &ClusterEngine;
    verify::run(&env(), repository, folder, manifest, engine, level, scratch).unwrap().damage
}

/// pgbench on a cluster, until dropped.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(major: u32, client: &Client) -> Load {
        let address = client.address();
        let mut command = as_server(&program(major, "pgbench"));
        for (option, name) in [("-h", "host"), ("-p", "port"), ("-U", "user")] {
            command.arg(option).arg(address.get(name).unwrap());
        }
        let database = address.database().unwrap();
        let mut fill = as_server(&program(major, "pgbench"));
        fill.args(command.get_args()).args(["-i", "-q", "-s", "1", database]);
        assert!(fill.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
        command.args(["-n", "-c", "2", "-T", "600", database]);
        Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What pgbench never breaks: all balances agree, and with the history too.
pub(crate) fn assert_balanced(client: &Client) {
    let sums = text_of(
        client,
        "SELECT (SELECT sum(abalance) FROM public.pgbench_accounts) = \
                (SELECT coalesce(sum(delta), 0) FROM public.pgbench_history) \
            AND (SELECT sum(bbalance) FROM public.pgbench_branches) = \
                (SELECT coalesce(sum(delta), 0) FROM public.pgbench_history) \
            AND (SELECT sum(tbalance) FROM public.pgbench_tellers) = \
                (SELECT coalesce(sum(delta), 0) FROM public.pgbench_history) AS agree",
    );
    assert_eq!(sums, "t");
}

/// A table in a tablespace, and one that does not outlive a crash. Gives the tablespace's folder.
pub(crate) fn furnish(client: &Client) -> TempDir {
    let space = folder();
    own(space.path());
    run(client, &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", space.path().display()));
    run(
        client,
        "CREATE TABLE public.outside TABLESPACE elsewhere AS \
         SELECT g, repeat('y', 50) AS y FROM generate_series(1, 20000) g; \
         CREATE UNLOGGED TABLE public.fleeting AS SELECT 1 AS one",
    );
    space
}

/// The server's own verifier on an unpacked backup, where that version's works.
pub(crate) fn server_verifies(major: u32, data: &Path) {
    let verifier = program(major, "pg_verifybackup");
    let works = as_server(&verifier).arg("--version").output();
    if major == 18 || !works.is_ok_and(|output| output.status.success()) {
        lifeboat_test_support::skipped(&format!("pg_verifybackup of {major} does not run here"));
        return;
    }
    let output = as_server(&verifier).arg(data).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "pg_verifybackup {major}: {said}");
}

/// The artifacts of a backup with one tablespace. Newer servers know themselves what changes.
fn roles_of(major: u32) -> Vec<&'static str> {
    let hashes = if major < 17 { &[ROLE_HASHES][..] } else { &[] };
    [&[ROLE_TABLESPACE, ROLE_BASE, ROLE_SERVER_MANIFEST][..], hashes].concat()
}

#[test]
fn a_cluster_under_load_is_restored_with_tar_and_a_server_alone() {
    for major in kinds_of_majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        let space = furnish(&client);
        run(&client, "CREATE DATABASE many");
        let many: String = (0..300)
            .map(|n| format!("CREATE TABLE public.t{n} (id int PRIMARY KEY, x text);"))
            .collect();
        run(&cluster.client("many").unwrap(), &many);
        let load = Load::start(*major, &client);
        let place = place();
        let manifest = back_up(&place, cluster.client("postgres").unwrap()).unwrap();
        assert_eq!(manifest.condition, Condition::Good, "{major}");
        let roles: Vec<&str> = manifest.artifacts.iter().map(|one| one.role.as_str()).collect();
        assert_eq!(roles, roles_of(*major), "{major}");
        let fact = |name: &str| manifest.facts[name].clone();
        assert_eq!(fact("data_checksums"), true);
        assert_eq!(fact("from_standby"), false);
        assert_eq!(fact("server_major"), *major);
        assert!(fact("pages_checked").as_u64().unwrap() > 1_000);
        assert!(fact("unlogged_relations").as_u64().unwrap() > 0);
        assert_eq!(fact("tablespaces")[0]["path"], space.path().to_str().unwrap());
        assert_eq!(damage(&place, &manifest), [""; 0], "{major}");
        drop(load);
        drop(cluster);
        let restored = folder();
        let data = unpack(&place, &manifest, restored.path());
        server_verifies(*major, &data);
        map_spaces(&data);
        let server = Server::start(*major, &data);
        assert_balanced(&server.client("postgres"));
        assert_eq!(
            text_of(&server.client("postgres"), "SELECT count(*) FROM public.outside"),
            "20000"
        );
        assert_eq!(
            text_of(&server.client("postgres"), "SELECT count(*) FROM public.fleeting"),
            "0"
        );
        assert_eq!(text_of(&server.client("many"), "SELECT count(*) FROM public.t299"), "0");
    }
}

/// The file of a table, with everything written to it.
fn file_of(data: &Path, client: &Client, table: &str) -> PathBuf {
    run(client, "CHECKPOINT");
    data.join(text_of(client, &format!("SELECT pg_relation_filepath('{table}')")))
}

#[test]
fn a_table_that_is_corrupt_on_disk_never_passes_as_good() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        run(
            &client,
            "CREATE TABLE public.hurt AS SELECT g, repeat('x', 90) AS x \
             FROM generate_series(1, 20000) g",
        );
        let path = file_of(&cluster.data_folder(), &client, "public.hurt");
        let name = path.strip_prefix(cluster.data_folder()).unwrap().to_str().unwrap().to_owned();
        let file = fs::File::options().write(true).open(&path).unwrap();
        // More than the five in a file that the server names, and a page without its first half.
        for block in 10..20_u64 {
            file.write_all_at(b"!", block * PAGE_BYTES as u64 + 5_000).unwrap();
        }
        file.write_all_at(&[0; 4_096], 30 * PAGE_BYTES as u64).unwrap();
        let place = place();
        let manifest = back_up(&place, cluster.client("postgres").unwrap()).unwrap();
        assert_eq!(manifest.condition, Condition::Damaged, "{major}");
        let damaged = manifest.facts["damaged_pages"].as_array().unwrap();
        let blocks: Vec<u64> = damaged.iter().map(|page| page["block"].as_u64().unwrap()).collect();
        assert_eq!(blocks, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 30], "{major}");
        assert!(damaged.iter().all(|page| page["file"] == name.as_str()), "{damaged:?}");
        let told = format!("damaged: {name} (public.hurt of the database postgres): block 10, 11");
        assert!(manifest.warnings.iter().any(|line| line.starts_with(&told)), "{manifest:?}");
        // What is known is no news; what comes later is.
        assert_eq!(damage(&place, &manifest), [""; 0]);
        let mut forgotten = manifest.clone();
        forgotten.facts.remove("damaged_pages");
        assert!(damage(&place, &forgotten)[0].starts_with(&format!("{name}: block 10")));
        // The log and all other files are right: what is sound can still be had.
        let mut other = manifest.clone();
        other.artifacts.retain(|artifact| artifact.role != "backup-manifest");
        assert!(!damage(&place, &other).is_empty());
    }
}

#[test]
fn a_cluster_without_checksums_says_what_nobody_can_see() {
    let place = place();
    let first = back_up(&place, cluster(16).client("postgres").unwrap()).unwrap();
    let restored = folder();
    let data = unpack(&place, &first, restored.path());
    // Recovered and stopped in order: only then can checksums be turned off.
    Server::start(16, &data).stop();
    let mut command = as_server(&program(16, "pg_checksums"));
    let output = command.args(["--disable", "--no-sync", "-D"]).arg(&data).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start(16, &data);
    let manifest = back_up(&place, server.client("postgres")).unwrap();
    assert_eq!(manifest.condition, Condition::Good);
    assert_eq!(manifest.facts["data_checksums"], false);
    let notes: Vec<&String> = manifest.checks.iter().flat_map(|check| &check.notes).collect();
    assert_eq!(notes, ["page checksums: off, cannot be verified"]);
    let warned = manifest.warnings.iter().any(|line| line.contains("checksums are off"));
    assert!(warned, "{manifest:?}");
}

/// What was stored of a backup, as the next one needs it.
pub(crate) fn parent(place: &Place, manifest: &Manifest) -> Parent {
    let plain = |role: &str| {
        let stored = &manifest.artifact(role)?.name;
        let stored = place.folder.path().join(&manifest.source.name).join(stored);
        let output = std::process::Command::new("zstd").arg("-dc").arg(stored).output().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &output.stdout).unwrap();
        Some(file)
    };
    Parent::new(manifest, plain(ROLE_SERVER_MANIFEST).unwrap(), plain(ROLE_HASHES)).unwrap()
}

#[test]
fn an_incremental_backup_holds_what_changed() {
    for major in kinds_of_majors() {
        let settings: &[&str] = if *major >= 17 { &["summarize_wal=on"] } else { &[] };
        let cluster = cluster_with(*major, settings);
        let client = cluster.client("postgres").unwrap();
        run(
            &client,
            "CREATE TABLE public.large AS SELECT g AS id, md5(g::text) AS x, 0 AS n \
             FROM generate_series(1, 200000) g; \
             CREATE TABLE public.shrinks AS SELECT * FROM public.large; \
             CREATE INDEX ON public.large (id)",
        );
        let place = place();
        let source = source(cluster.client("postgres").unwrap());
        let whole = back_up_from(&place, &source).unwrap();
        assert_eq!(whole.parent, None);
        run(
            &client,
            "UPDATE public.large SET n = 1 WHERE id % 20000 = 0; \
             CREATE TABLE public.new AS SELECT 1 AS one; \
             DELETE FROM public.shrinks WHERE id > 1000",
        );
        run(&client, "VACUUM public.shrinks");
        source.build_on(Some(parent(&place, &whole)));
        let changed = back_up_from(&place, &source).unwrap();
        assert_eq!(changed.parent, Some(whole.id), "{major}: {:?}", changed.warnings);
        assert_eq!(changed.condition, Condition::Good, "{major}");
        let plain = |manifest: &Manifest| manifest.artifact(ROLE_BASE).unwrap().plain_bytes;
        let log = changed.facts["wal_bytes"].as_u64().unwrap();
        assert!(plain(&changed) - log < plain(&whole) / 4, "{major}: {}", plain(&changed) - log);
        assert_eq!(damage(&place, &changed), [""; 0], "{major}");
        // Nothing changed since: next to nothing is stored.
        source.build_on(Some(parent(&place, &changed)));
        let nothing = back_up_from(&place, &source).unwrap();
        assert_eq!(nothing.parent, Some(changed.id));
        assert!(plain(&nothing) <= plain(&changed), "{major}");
        assert_eq!(damage(&place, &nothing), [""; 0], "{major}");
        assert_rebuilt(&place, [&whole, &changed, &nothing]);
    }
}

/// Lays a chain together in memory, and compares it with what the servers' manifests say: of older
/// servers the newest names the whole files, of newer ones only the incremental ones.
fn assert_rebuilt(place: &Place, chain: [&Manifest; 3]) {
    let folder = folder();
    let states = chain.map(|manifest| {
        let data = folder.path().join(&manifest.name);
        fs::create_dir(&data).unwrap();
        unpack(place, manifest, &data)
    });
    let newest = ServerManifest::parse(&fs::read(states[2].join("backup_manifest")).unwrap());
    let mut rebuilt = 0;
    for (path, told) in newest.unwrap().files {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let whole = format!("{parent}/{}", name.trim_start_matches("INCREMENTAL."));
        let increment = format!("{parent}/INCREMENTAL.{}", name.trim_start_matches("INCREMENTAL."));
        if !states[2].join(&increment).exists() {
            continue;
        }
        let mut bytes = Vec::new();
        for state in &states {
            if let Ok(increment) = fs::read(state.join(&increment)) {
                let header = IncrementHeader::parse(&increment).unwrap().unwrap();
                bytes.truncate(header.truncation_blocks as usize * PAGE_BYTES);
                bytes.resize(header.result_bytes() as usize, 0);
                let blocks = increment[header.header_bytes()..].chunks(PAGE_BYTES);
                for (number, block) in header.blocks.iter().zip(blocks) {
                    let at = *number as usize * PAGE_BYTES;
                    bytes[at..at + PAGE_BYTES].copy_from_slice(block);
                }
            } else if let Ok(found) = fs::read(state.join(&whole)) {
                bytes = found;
            }
        }
        rebuilt += 1;
        if path == whole {
            let sum = crc32c::crc32c(&bytes).swap_bytes();
            assert_eq!(told.bytes, bytes.len() as u64, "{path}");
            assert_eq!(told.checksum.unwrap().hex, format!("{sum:08x}"), "{path}");
        }
    }
    assert!(rebuilt > 100, "{rebuilt}");
}
