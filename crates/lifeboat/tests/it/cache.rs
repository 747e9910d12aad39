//! The cache of manifests: it is used, it may be lost or spoilt at any time, and it never makes a
//! lie of what the repository says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{World, mode, ran};

/// A world with so many backups that are old enough to be cached.
fn world(backups: u32) -> World {
    let world = World::new();
    world.database("app.db", 20);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\ncheck = \"quick\"\nkeep = { last = 3 }\n",
    );
    for _ in 0..backups {
        world.run(&["backup", "app"]).expect(0);
    }
    for manifest in manifests(&world) {
        set_modified(&manifest, 1_000);
    }
    world
}

/// The manifests, oldest first.
fn manifests(world: &World) -> Vec<PathBuf> {
    let names = world.names("repo/app").into_iter();
    let manifests = names.filter(|name| name.ends_with(".json") && name != "source.json");
    manifests.map(|name| world.path("repo/app").join(name)).collect()
}

fn set_modified(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Changes a manifest so that neither its size nor its time shows it.
fn forge(path: &Path, key: &str, value: Value) {
    let before = fs::read(path).unwrap();
    let mut manifest: Value = serde_json::from_slice(&before).unwrap();
    manifest[key] = value;
    let mut bytes = serde_json::to_vec(&manifest).unwrap();
    bytes.resize(before.len(), b' ');
    fs::write(path, bytes).unwrap();
    set_modified(path, 1_000);
}

fn listed(world: &World) -> Vec<Value> {
    let list = world.run(&["list", "--json"]).expect(0);
    assert_eq!(list.err, "");
    list.json().as_array().unwrap().clone()
}

fn tools(world: &World) -> Vec<String> {
    listed(world).iter().map(|one| one["tool"].as_str().unwrap().to_owned()).collect()
}

/// The one file of the cache.
fn cache(world: &World) -> PathBuf {
    let names = world.names("state/lifeboat/cache");
    assert_eq!(names.len(), 1, "{names:?}");
    world.path("state/lifeboat/cache").join(&names[0])
}

#[test]
fn what_was_read_is_read_again_only_where_the_store_says_that_it_changed() {
    let world = world(4);
    let first = listed(&world);
    assert_eq!(mode(&cache(&world)), 0o600);
    assert_eq!(mode(cache(&world).parent().unwrap()), 0o700);
    let paths = manifests(&world);
    forge(&paths[1], "tool", "forged".into());
    // It is used: nothing of the store's answer shows the change.
    assert_eq!(listed(&world), first);
    let status = world.run(&["status", "--json"]).expect(0).json();
    assert_eq!(status[0]["backups"], 4);
    // What is asked for the truth reads it.
    let name = first[1]["name"].as_str().unwrap();
    let shown = world.run(&["show", name, "--json"]).expect(0).json();
    assert_eq!(shown["tool"], "forged");
    set_modified(&paths[1], 2_000);
    assert_eq!(tools(&world)[1], "forged");
    // Its size says it as well.
    let mut bytes = fs::read(&paths[2]).unwrap();
    bytes.push(b'\n');
    fs::write(&paths[2], bytes).unwrap();
    forge(&paths[2], "tool", "longer".into());
    assert_eq!(tools(&world)[2], "longer");
    // What is gone is gone, and what is new is there.
    fs::remove_file(&paths[0]).unwrap();
    world.run(&["backup", "app"]).expect(0);
    assert_eq!(listed(&world).len(), 4);
    assert_ne!(listed(&world)[0], first[0]);
    // One that cannot be read is told of every time.
    fs::write(&paths[1], b"{").unwrap();
    set_modified(&paths[1], 2_000);
    for _ in 0..2 {
        let list = world.run(&["list", "--json"]).expect(0).says("cannot be read");
        assert_eq!(list.json().as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_young_manifest_is_not_cached_yet() {
    let world = World::new();
    world.database("app.db", 20);
    world.repo(&["backup", "app.db"]).expect(0);
    // As young as it can be: of a clock that is ahead.
    set_modified(&manifests(&world)[0], 2_000_000_000);
    world.repo(&["list"]).expect(0);
    assert_eq!(world.names("state/lifeboat/cache"), [""; 0]);
}

#[test]
fn a_spoilt_cache_is_as_if_it_were_not_there() {
    let world = world(3);
    let first = listed(&world);
    let path = cache(&world);
    let whole = fs::read(&path).unwrap();
    let other_version = [b"LBCACHE9", &whole[8..]].concat();
    for spoilt in [&whole[..whole.len() / 2], &whole[..10], b"", &other_version] {
        fs::write(&path, spoilt).unwrap();
        assert_eq!(listed(&world), first);
        assert_eq!(fs::read(&path).unwrap(), whole, "it was not made anew");
    }
    // That of another repository, under our name.
    let other = self::world(1);
    listed(&other);
    fs::copy(cache(&other), &path).unwrap();
    assert_eq!(listed(&world), first);
    assert_eq!(fs::read(&path).unwrap(), whole);
    // What is no file: a pipe that nobody writes to, a link, a folder.
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(listed(&world), first);
    fs::remove_file(&path).unwrap();
    let victim = world.path("data/victim");
    fs::write(&victim, b"untouched").unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    assert_eq!(listed(&world), first);
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(listed(&world), first);
    world.run(&["list", "-v"]).expect(0).says("cannot write the cache");
}

#[test]
fn a_place_that_cannot_be_written_is_no_failure() {
    let world = world(2);
    let first = listed(&world);
    fs::write(world.path("data/file"), b"").unwrap();
    for state in [world.path("data/file"), "/proc/nowhere".into()] {
        let run = |arguments: &[&str]| {
            ran(world.command(arguments).env("XDG_STATE_HOME", &state).output().unwrap())
        };
        let list = run(&["list", "--json"]).expect(0);
        assert_eq!((list.json(), list.err.as_str()), (json!(first), ""));
        run(&["status"]).expect(0);
        run(&["list", "--verbose"]).expect(0).says("the cache");
    }
}

#[test]
fn what_is_deleted_is_decided_by_what_is_there() {
    let world = world(5);
    let first = listed(&world);
    let paths = manifests(&world);
    forge(&paths[4], "condition", "damaged".into());
    let dry = world.run(&["prune", "--dry-run", "--json"]).expect(0).json();
    let marked = |plan: &Value| {
        let items = plan["items"].as_array().unwrap().iter();
        items.filter(|item| item["action"] == "mark").count()
    };
    assert_eq!(marked(&dry[0]["plan"]), 2, "the cache is not used");
    // The newest is no good one: three others stay, and it too.
    let pruned = world.run(&["prune", "--yes", "--json"]).expect(0).json();
    assert_eq!(pruned[0]["marked"], json!([first[0]["name"]]));
    // A tombstone counts at once, and so does its end.
    assert_eq!(listed(&world), first[1..]);
    world.run(&["undelete", first[0]["name"].as_str().unwrap()]).expect(0);
    assert_eq!(listed(&world), first);
    // Verify reads what is there: a manifest that is rotten is found.
    forge(&paths[2], "format", "rotten".into());
    assert_eq!(listed(&world), first);
    world.run(&["verify"]).expect(20);
}
