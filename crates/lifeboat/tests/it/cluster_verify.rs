//! `verify --level full` of whole clusters: started, its log replayed, read; and damage that was
//! given right hashes is found by the server's own manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Yard, done};
use crate::cluster_restore::{
    CONFIGURATION, PORT, archived, lifeboat, lifeboat_as_we_are, moment, primary, shown,
};
use crate::postgres_server::{kinds_of_majors, skipped};

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

#[test]
fn a_sealed_chain_is_verified_and_restored_with_its_key_alone() {
    let major = 15;
    let yard = Yard::new();
    yard.configure(CONFIGURATION);
    let key = yard.path("key");
    let made = lifeboat(&yard, &["key", "new", key.to_str().unwrap()]).expect(0);
    let recipient = made.out.trim().to_owned();
    let mut primary = primary(&yard, major);
    let sealed = CONFIGURATION
        .replace("/repository\"\n", &format!("/repository\"\nencrypt_to = [\"{recipient}\"]\n"));
    yard.configure(&sealed);
    let identity = ["--identity", key.to_str().unwrap()];
    let with_key =
        |arguments: &[&str]| lifeboat_as_we_are(&yard, &[&identity[..], arguments].concat());
    lifeboat(&yard, &["backup", "main"]).expect(0);
    moment(&primary, 1);
    // Without the key nothing can be compared: a whole one is made, and that is said.
    let whole = lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
    drop(whole.says("a whole backup is made"));
    let first = moment(&primary, 2);
    lifeboat(&yard, &[&identity[..], &["backup", "main", "--incremental"]].concat()).expect(0);
    let second = moment(&primary, 3);
    moment(&primary, 4);
    archived(&mut primary);
    primary.stop();
    let parents = lifeboat(&yard, &["show", "main@latest", "--json"]).expect(0).json();
    assert!(parents["parent"].is_string(), "{parents}");
    lifeboat_as_we_are(&yard, &["verify", "main"]).expect(12);
    lifeboat_as_we_are(&yard, &["verify", "main", "--level", "stored"]).expect(0);
    with_key(&["verify", "main@latest", "--level", "full"]).expect(0);
    for (name, at, last) in [("one", &first, 2), ("two", &second, 3)] {
        let to = yard.path(name);
        let to = ["restore", "main", "--at", at, "--to", to.to_str().unwrap()];
        with_key(&to).expect(0);
        assert_eq!(shown(&yard, major, name), (last, "t".to_owned()));
    }
    // What is sealed is read from its beginning; a directory is reused all the same.
    let to = yard.path("two");
    let again = ["restore", "main", "--delta", "--to", to.to_str().unwrap(), "--yes"];
    with_key(&again).expect(0);
    assert_eq!(shown(&yard, major, "two"), (4, "t".to_owned()));
}

/// A shell with a file system of its own, where we may mount one.
fn with_small_disk(yard: &Yard, size: &str) -> Option<Command> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command
    };
    let probe = shell("mount -t tmpfs tmpfs /tmp").output().unwrap();
    if !probe.status.success() {
        skipped("a restore to a full disk: no file system can be mounted here");
        return None;
    }
    let script = "small=$1; size=$2; shift 2; mount -t tmpfs -o size=\"$size\" tmpfs \"$small\"; \
                  chmod 755 \"$small\"; \"$@\"; code=$?; ls -A \"$small\"; exit $code";
    let mut command = shell(script);
    command.arg(yard.path("small")).arg(size);
    Some(command)
}

#[test]
fn a_disk_that_fills_during_a_restore_is_said_and_nothing_is_left() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 15);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    for number in 1..=3 {
        primary.ask(PORT, "INSERT INTO told (n) SELECT 0 FROM generate_series(1, 200000)");
        moment(&primary, number);
    }
    archived(&mut primary);
    primary.stop();
    fs::create_dir(yard.path("small")).unwrap();
    let to = yard.path("small/data");
    // Too small for the backup; for what the log makes of it; for its last files.
    for size in ["20m", "62m", "70m"] {
        let Some(mut command) = with_small_disk(&yard, size) else { return };
        let own = crate::cluster_restore::as_we_are(&yard);
        command.arg(own.get_program()).args(["restore", "main", "--to"]).arg(&to);
        for (name, value) in own.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let ran = crate::support::ran(command.output().unwrap());
        assert_eq!(ran.code, 14, "{size}: {ran:?}");
        assert_eq!(ran.out, "", "{size}: something is left");
    }
    lifeboat_as_we_are(&yard, &["restore", "main", "--to", to.to_str().unwrap()]).expect(0);
    assert_eq!(shown(&yard, 15, "small/data").0, 3);
}
