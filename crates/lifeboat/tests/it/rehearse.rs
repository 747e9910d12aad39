//! `lifeboat rehearse`: each alarm comes, what is real stays as it is, and nothing is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::bad_input::in_own_namespace;
use crate::cluster::{Yard, program};
use crate::support::{World, add_rows, ran};
use crate::wal_moments::{server, write};

/// All files below a folder and what is in them.
fn everything(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => everything(&path, found),
            false => drop(found.insert(path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
}

fn repository(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    everything(&world.path("repo"), &mut found);
    found
}

#[test]
fn each_alarm_comes_and_the_real_repository_stays_as_it_is() {
    let world = World::new();
    let path = world.database("chat.db", 2_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    world.run(&["backup", "chat"]).expect(0);
    for number in 0..4 {
        add_rows(&Connection::open(&path).unwrap(), 2_001 + number * 10, 10);
        world.run(&["backup", "chat", "--incremental"]).expect(0);
    }
    let before = repository(&world);
    let breaks = ["bitflip", "wal-gap", "wrong-key", "stale"];
    let options = breaks.map(|name| ["--break", name]).concat();
    let arguments = [&["rehearse", "chat", "--json"][..], &options].concat();
    let results = world.run(&arguments).expect(0).json();
    let results = results.as_array().unwrap();
    let codes: Vec<u64> =
        results.iter().map(|result| result["exit_code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [20, 22, 12, 21], "{results:#?}");
    let broken = results[1]["broken"].as_str().unwrap();
    assert!(broken.contains("of the log of chat-"), "its own log: {broken}");
    assert!(before == repository(&world), "the real repository was only read");
    assert!(world.names("tmp").is_empty(), "{:?}", world.names("tmp"));
    let shown = world.run(&["rehearse", "chat", "--break", "bitflip"]).expect(0);
    assert!(shown.out.contains("exit code 20: the alarm came"), "{shown:?}");
    world.run(&["rehearse", "nothing", "--break", "stale"]).expect(22);
}

#[test]
fn without_a_source_all_is_made_up() {
    let world = World::new();
    let full = in_own_namespace("true").is_some();
    let ran = world.run(&["rehearse", "--json"]).expect(if full { 0 } else { 3 });
    let results = ran.json();
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), 6, "{results:#?}");
    let codes: Vec<Option<u64>> =
        results.iter().map(|result| result["exit_code"].as_u64()).collect();
    let of_disk = full.then_some(14);
    assert_eq!(codes, [Some(20), Some(22), Some(12), of_disk, Some(21), Some(13)], "{results:#?}");
    assert!(world.names("tmp").is_empty());
    assert!(world.names("home/data").is_empty(), "no repository of the host was made");
}

/// Of a whole cluster its own backup, its own log and its own age.
#[test]
fn the_alarms_of_a_cluster_are_those_of_its_own_backup_and_log() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 15);
    let run = |arguments: &[&str]| ran(yard.command(program()).args(arguments).output().unwrap());
    run(&["backup", "main"]).expect(0);
    for _ in 0..3 {
        write(&mut cluster);
    }
    run(&["backup", "main", "--incremental"]).expect(0);
    for _ in 0..2 {
        write(&mut cluster);
    }
    let mut before = BTreeMap::new();
    everything(&yard.path("one"), &mut before);
    let breaks = ["bitflip", "wal-gap", "stale"].map(|name| ["--break", name]).concat();
    let ran = run(&[&["rehearse", "main", "--json"][..], &breaks].concat()).expect(0);
    let results = ran.json();
    let results = results.as_array().unwrap();
    let codes: Vec<u64> =
        results.iter().map(|result| result["exit_code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [20, 22, 21], "{results:#?}");
    let broken = results[1]["broken"].as_str().unwrap();
    assert!(broken.contains("of the log of main-"), "its own log: {broken}");
    let mut after = BTreeMap::new();
    everything(&yard.path("one"), &mut after);
    assert!(before == after, "the real repository was only read");
    assert!(yard.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
}
