//! `lifeboat watch`: another host sees what is wrong, from the repository alone.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::support::{Ran, World, add_rows, is_root, set_mode};

/// A host with two sources, one of which was never backed up.
fn watched() -> World {
    let world = World::new();
    world.database("app.db", 100);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\ndrill = { every = \"30d\" }\n\
         [source.later]\nfiles = [\"$DATA/later.txt\"]\n",
    );
    world.run(&["backup", "app"]).expect(0);
    world
}

/// As another host: no configuration, no state, another name.
fn watch(world: &World, arguments: &[&str]) -> Ran {
    let other = World::new();
    let repository = world.text("repo");
    other.run(&[&["watch", repository.as_str()][..], arguments].concat())
}

#[test]
fn another_host_sees_what_was_promised_and_never_came() {
    let world = watched();
    let ran = watch(&world, &[]).expect(21).says("later: it was never backed up here");
    assert!(ran.err.contains("app: no drill passed within the 30d"), "{}", ran.err);
    assert!(!ran.err.contains("app: the newest"), "{}", ran.err);
    fs::write(world.path("data/later.txt"), "later").unwrap();
    world.run(&["backup", "later"]).expect(0);
    world.run(&["drill", "app"]).expect(0);
    // Nobody promised how old the newest backup of `later` may be: that is said, and no failure.
    watch(&world, &[]).expect(0).says("later: nothing says how old");
    let ran = watch(&world, &["--max-age", "1h"]).expect(0);
    // The disk below may be nearly full.
    assert!(!ran.err.contains("app") && !ran.err.contains("later"), "{}", ran.err);
    let json = watch(&world, &["--max-age", "0s", "--json"]).expect(21).json();
    assert_eq!(json["alerts"][0]["source"], "later", "its own promise comes first: {json}");
    let alerts = json["alerts"].as_array().unwrap();
    assert!(alerts.iter().all(|alert| alert["source"] != "app"), "{json}");
}

#[test]
fn a_repository_that_may_only_be_read_is_enough() {
    let world = watched();
    let before = files(&world.path("repo"));
    if !is_root() {
        set_mode(&world.path("repo"), 0o500);
    }
    watch(&world, &[]).expect(21);
    set_mode(&world.path("repo"), 0o700);
    assert_eq!(files(&world.path("repo")), before, "nothing was written");
    let other = World::new();
    other.run(&["watch"]).expect(2).says("no repository to watch");
    other.run(&["watch", &world.text("nowhere")]).expect(10);
}

#[test]
fn a_backup_that_lost_most_of_its_rows_is_unusual() {
    let world = watched();
    let path = world.path("data/app.db");
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 1_000, 20_000);
    for _ in 0..4 {
        add_rows(&connection, 100_000 + world.names("repo/app").len() as u32, 1);
        world.run(&["backup", "app"]).expect(0);
    }
    connection.execute_batch("DELETE FROM message; VACUUM;").unwrap();
    world.run(&["backup", "app"]).expect(0);
    watch(&world, &[]).says("app: the newest backup has 2 rows, those of");
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(format!("{:?} {}", entry.path(), entry.metadata().unwrap().len())),
        }
    }
    found.sort();
    found
}
