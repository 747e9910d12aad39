//! `verify --level full` of whole clusters: started, its log replayed, read; and damage that was
//! given right hashes is found by the server's own manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Yard, done};
use crate::cluster_restore::{PORT, archived, lifeboat, lifeboat_as_we_are, moment, primary};
use crate::postgres_server::kinds_of_majors;

/// Versions whose servers come with contrib here.
const WITH_AMCHECK: &[u32] = &[15, 17];

#[test]
fn verify_full_starts_each_backup_replays_its_log_and_reads_every_table() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        primary.ask(PORT, "CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS one");
        if *major >= 17 {
            primary.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
            primary.ask(PORT, "SELECT pg_reload_conf()");
        }
        lifeboat(&yard, &["backup", "main"]).expect(0);
        moment(&primary, 1);
        lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        moment(&primary, 2);
        archived(&mut primary);
        primary.stop();
        let verified = lifeboat_as_we_are(&yard, &["verify", "main", "--level", "full", "--json"]);
        let verified = verified.expect(0).json();
        let reports = verified.as_array().unwrap();
        assert_eq!(reports.len(), 2, "{major}");
        let rows = |report: &Value| report["rehearsed"]["rows"]["postgres.public.told"].clone();
        // The older one shows itself, the newest the end of the log.
        assert_eq!((rows(&reports[0]), rows(&reports[1])), (0.into(), 2.into()), "{verified}");
        for report in reports {
            let rehearsed = &report["rehearsed"];
            assert_eq!(report["sound"], true, "{report}");
            assert_eq!(rehearsed["unlogged"][0], "postgres.public.fleeting", "{report}");
            assert_eq!(rehearsed["damaged_pages"], 0, "{report}");
            let checked = rehearsed["amcheck"].as_array().unwrap().len();
            let skipped = rehearsed["skipped"].to_string();
            match WITH_AMCHECK.contains(major) {
                true => assert_eq!((checked, skipped.as_str()), (2, "[]"), "{report}"),
                // What is not there is named, and no reason to fail.
                false => assert!(checked == 0 && skipped.contains("amcheck"), "{report}"),
            }
        }
        assert!(yard.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
    }
}

/// Changes bytes of an artifact below its compression, and gives it right hashes: what nobody sees
/// who compares what is stored with what the manifest says.
fn forge(folder: &Path, manifest: &Path, role: &str, needle: &[u8], with: &[u8]) {
    let mut made: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let artifacts = made["artifacts"].as_array_mut().unwrap();
    let artifact = artifacts.iter_mut().find(|artifact| artifact["role"] == role).unwrap();
    let path = folder.join(artifact["name"].as_str().unwrap());
    let mut plain = done(Command::new("zstd").arg("-dc").arg(&path).output().unwrap()).stdout;
    let at = plain.windows(needle.len()).position(|window| window == needle).unwrap();
    plain[at..at + with.len()].copy_from_slice(with);
    let forged = folder.join("forged");
    fs::write(&forged, &plain).unwrap();
    fs::remove_file(&path).unwrap();
    done(Command::new("zstd").args(["-q", "-o"]).arg(&path).arg(&forged).output().unwrap());
    let sum = |path: &PathBuf| {
        let output = done(Command::new("sha256sum").arg(path).output().unwrap());
        String::from_utf8_lossy(&output.stdout[..64]).into_owned()
    };
    artifact["plain_sha256"] = sum(&forged).into();
    artifact["stored_sha256"] = sum(&path).into();
    artifact["stored_bytes"] = fs::metadata(&path).unwrap().len().into();
    fs::remove_file(&forged).unwrap();
    fs::write(manifest, serde_json::to_vec(&made).unwrap()).unwrap();
}

/// T37: a flipped base, combined with what builds on it, verifies with the server's own program.
#[test]
fn t37_a_base_that_was_changed_and_hashed_anew_is_found_by_the_servers_manifest() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        primary.ask(PORT, "CREATE TABLE note AS SELECT 'the needle in it'::text AS text");
        if *major >= 17 {
            primary.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
            primary.ask(PORT, "SELECT pg_reload_conf()");
        }
        primary.ask(PORT, "CHECKPOINT");
        lifeboat(&yard, &["backup", "main"]).expect(0);
        moment(&primary, 1);
        lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        archived(&mut primary);
        primary.stop();
        let folder = yard.path("repository/main");
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let is_manifest = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("main-") && name.ends_with(".json")
        };
        let oldest = entries.filter(is_manifest).min().unwrap();
        forge(&folder, &oldest, "base", b"the needle in it", b"the poodle");
        // The hashes of the repository are right, and still nothing is sound.
        let told = lifeboat_as_we_are(&yard, &["verify", "main"]).expect(20);
        drop(told.says("manifest"));
        lifeboat_as_we_are(&yard, &["verify", "main", "--level", "full"]).expect(20);
        for what in ["main@latest", oldest.file_stem().unwrap().to_str().unwrap()] {
            let to = yard.path("restored");
            let to = to.to_str().unwrap();
            let told = lifeboat_as_we_are(&yard, &["restore", what, "--to", to]).expect(20);
            drop(told.says("manifest"));
            assert!(!Path::new(to).exists(), "{major}");
        }
    }
}
