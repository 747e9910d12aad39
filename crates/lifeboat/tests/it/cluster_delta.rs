//! `restore --delta`: a directory that is there becomes the state that is wanted, and nothing is
//! written that is right already.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use lifeboat_core::env::CRASH_POINTS;

use crate::cluster::{Cluster, Yard};
use crate::cluster_restore::{
    PORT, archived, as_we_are, left, lifeboat, lifeboat_as_we_are, moment, primary,
    server_verifies, shown,
};
use crate::postgres_server::kinds_of_majors;
use crate::support::{Ran, ran};

/// Every file below a folder, with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                found.insert(format!("{name}/"), Vec::new());
                folders.push(path);
            } else {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[track_caller]
fn assert_same(is: &Path, must: &Path) {
    let (is, must) = (tree(is), tree(must));
    let differ = |(name, content): &(&String, &Vec<u8>)| is.get(*name) != Some(content);
    let differing: Vec<_> = must.iter().filter(differ).map(|(name, _)| name).collect();
    let foreign: Vec<_> = is.keys().filter(|name| !must.contains_key(*name)).collect();
    assert!(differing.is_empty() && foreign.is_empty(), "{differing:?}, foreign {foreign:?}");
}

fn delta(yard: &Yard, more: &[&str]) -> Ran {
    let to = yard.path("reused");
    let mut arguments = vec!["restore", "main@latest", "--delta", "--to", to.to_str().unwrap()];
    arguments.extend(more);
    lifeboat_as_we_are(yard, &arguments)
}

/// A primary with a tablespace, a backup, and on some versions an incremental one behind it.
fn backed_up<'a>(yard: &'a Yard, major: u32) -> Cluster<'a> {
    let mut primary = primary(yard, major);
    fs::create_dir(yard.path("space")).unwrap();
    yard.own("space");
    let space = yard.path("space");
    primary.ask(PORT, &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", space.display()));
    primary.ask(
        PORT,
        "CREATE TABLE outside TABLESPACE elsewhere AS SELECT g FROM generate_series(1, 9999) g",
    );
    moment(&primary, 1);
    lifeboat(yard, &["backup", "main"]).expect(0);
    if major >= 17 {
        primary.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
        primary.ask(PORT, "SELECT pg_reload_conf()");
        lifeboat(yard, &["backup", "main"]).expect(0);
    }
    moment(&primary, 2);
    primary.ask(PORT, "UPDATE outside SET g = 0 WHERE g < 9");
    lifeboat(yard, &["backup", "main", "--incremental"]).expect(0);
    archived(&mut primary);
    primary.stop();
    primary
}

#[test]
fn a_directory_is_reused_by_checksum_and_nothing_else_is_written() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        drop(backed_up(&yard, *major));
        let (fresh, reused) = (yard.path("fresh"), yard.path("reused"));
        for to in [&fresh, &reused] {
            let to = to.to_str().unwrap();
            let leave = ["restore", "main@latest", "--to", to, "--action", "leave"];
            lifeboat_as_we_are(&yard, &leave).expect(0);
        }
        server_verifies(&yard, *major, &fresh);
        let accounts = largest(&reused);
        let inode = fs::metadata(&accounts).unwrap().ino();
        // Damage, what is missing, what is foreign, what another version has in a tablespace.
        let hurt = fs::File::options().write(true).open(reused.join("base/1/1255")).unwrap();
        hurt.write_all_at(b"!", 9_000).unwrap();
        fs::remove_file(reused.join("base/1/1249")).unwrap();
        fs::File::options()
            .append(true)
            .open(reused.join("base/1/1259"))
            .unwrap()
            .set_len(8_192)
            .unwrap();
        fs::create_dir(reused.join("base/77777")).unwrap();
        for foreign in
            ["base/77777/1", "mine.txt", "postmaster.opts", "pg_wal/000000090000000000000001"]
        {
            fs::write(reused.join(foreign), "foreign").unwrap();
        }
        let spaces = yard.path("reused.tablespaces");
        let space = fs::read_dir(&spaces).unwrap().next().unwrap().unwrap().path();
        fs::create_dir(space.join("PG_14_202107181")).unwrap();
        fs::write(space.join("PG_14_202107181/theirs"), "theirs").unwrap();
        let before = tree(&reused);
        // Nothing without an answer, and a plan that says how much stays.
        delta(&yard, &["--action", "leave"]).expect(24);
        let plan = delta(&yard, &["--action", "leave", "--dry-run"]).expect(0);
        assert!(plan.out.contains("are right and stay"), "{}", plan.out);
        assert!(tree(&reused) == before, "a plan changes nothing");
        let made = delta(&yard, &["--action", "leave", "--yes", "--json"]).expect(0).json();
        assert!(made["kept_files"].as_u64().unwrap() > 500, "{made}");
        assert_eq!(fs::metadata(&accounts).unwrap().ino(), inode, "{major}: it was right");
        assert_eq!(fs::read_to_string(space.join("PG_14_202107181/theirs")).unwrap(), "theirs");
        fs::remove_dir_all(space.join("PG_14_202107181")).unwrap();
        assert_same(&reused, &with_links_of(&fresh, &reused));
        server_verifies(&yard, *major, &reused);
        // What a server made of it is made undone, and it goes to another moment.
        delta(&yard, &["--yes"]).expect(0);
        assert_eq!(shown(&yard, *major, "reused"), (2, "t".to_owned()), "{major}");
        let again = delta(&yard, &["--action", "leave", "--yes", "--json"]).expect(0).json();
        assert!(again["kept_bytes"].as_u64() > made["kept_bytes"].as_u64().map(|it| it / 2));
        assert_same(&reused, &with_links_of(&fresh, &reused));
    }
}

/// The tablespaces of the two lie in different folders: that is all that may differ.
fn with_links_of(fresh: &Path, reused: &Path) -> std::path::PathBuf {
    for name in ["tablespace_map", "backup_manifest"] {
        fs::copy(reused.join(name), fresh.join(name)).unwrap();
    }
    fresh.to_owned()
}

fn largest(data: &Path) -> std::path::PathBuf {
    let folders = fs::read_dir(data.join("base")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).max_by_key(|it| it.metadata().unwrap().len()).unwrap()
}

#[test]
fn what_is_no_stopped_directory_of_that_cluster_is_not_reused() {
    let yard = Yard::new();
    let mut live = primary(&yard, 16);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let data = yard.path("primary");
    let to = |to: &Path| {
        let to = to.to_str().unwrap();
        lifeboat_as_we_are(&yard, &["restore", "main@latest", "--delta", "--to", to, "--yes"])
    };
    // A server runs on it.
    drop(to(&data).expect(23).says("has"));
    live.ask(PORT, "SELECT 1");
    live.stop();
    // Another cluster, of another version, and no cluster at all.
    drop(Cluster::new(&yard, 16, "other", &[]));
    drop(to(&yard.path("other")).expect(23).says("holds another cluster"));
    drop(Cluster::new(&yard, 15, "older", &[]));
    drop(to(&yard.path("older")).expect(23).says("is of PostgreSQL 15"));
    fs::create_dir(yard.path("files")).unwrap();
    fs::write(yard.path("files/mine"), "mine").unwrap();
    drop(to(&yard.path("files")).expect(23).says("is no data directory"));
    assert_eq!(fs::read_to_string(yard.path("files/mine")).unwrap(), "mine");
    // What the archive lacks is told before it is lost; then the live one itself is reused.
    fs::write(data.join("pg_wal/archive_status/000000010000000000000001.ready"), "").unwrap();
    let plan = ["restore", "main@latest", "--delta", "--to", data.to_str().unwrap(), "--dry-run"];
    let plan = lifeboat_as_we_are(&yard, &plan).expect(0);
    assert!(plan.out.contains("never archived"), "{}", plan.out);
    to(&data).expect(0);
    assert_eq!(shown(&yard, 16, "primary"), (0, "t".to_owned()));
    // Where nothing is, it is a restore like any other.
    to(&yard.path("new")).expect(0);
    assert_eq!(shown(&yard, 16, "new"), (0, "t".to_owned()));
}

#[test]
fn killed_anywhere_no_server_starts_on_it_and_the_next_run_finishes() {
    let yard = Yard::new();
    drop(backed_up(&yard, 15));
    let reused = yard.path("reused");
    delta(&yard, &["--yes"]).expect(0);
    let is_passed = |it: &&&str| it.starts_with("recovery.") && **it != "recovery.kept_aside";
    let points: Vec<_> = CRASH_POINTS.iter().filter(is_passed).collect();
    assert_eq!(points.len(), 6);
    for point in points {
        fs::remove_file(largest(&reused)).unwrap();
        let to = reused.to_str().unwrap();
        let mut command = as_we_are(&yard);
        command.args(["restore", "main@latest", "--delta", "--to", to, "--yes"]);
        let ended = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
        let is_whole = !reused.join("lifeboat.restoring").exists();
        assert_eq!(is_whole, *point == "recovery.swapped", "{point}");
        let begun = ["recovery.reused", "recovery.unpacked", "recovery.before_control"];
        assert_eq!(reused.join("global/pg_control").exists(), !begun.contains(point), "{point}");
        delta(&yard, &["--yes"]).expect(0);
        assert!(!reused.join("lifeboat.restoring").exists(), "{point}");
        assert_eq!(shown(&yard, 15, "reused"), (2, "t".to_owned()), "{point}");
    }
    assert!(left(&yard, "restoring").is_empty());
}
