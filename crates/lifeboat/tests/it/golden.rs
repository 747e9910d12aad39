//! Repositories that earlier versions wrote stay readable for ever. Each lies in `tests/golden`, as
//! it was written, with the key that opens it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{World, content};

/// A copy of one, for a world that may add to it.
fn golden(name: &str) -> World {
    let world = World::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let copied =
        Command::new("cp").arg("-r").arg(from.join("repo")).arg(world.path("repo")).status();
    assert!(copied.unwrap().success());
    if from.join("recovery.key").exists() {
        fs::copy(from.join("recovery.key"), world.path("home/recovery.key")).unwrap();
        crate::support::set_mode(&world.path("home/recovery.key"), 0o600);
    }
    world
}

/// What every one of them holds: 40 messages, then a state of the log with 45 where it has one.
fn must_be_whole(world: &World, last: usize, identity: &[&str]) {
    world.repo(&[&["verify", "--level", "full"][..], identity].concat()).expect(0);
    let listed = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["condition"], "good");
    let to = world.text("data/back.db");
    let restore = ["restore", "app", "--to", &to, "--files"];
    world.repo(&[&restore[..], identity].concat()).expect(0);
    let rows = content(Path::new(&to));
    assert_eq!(rows.len(), last);
    assert!(rows[0].1.starts_with("message 1"), "{:?}", rows[0]);
}

#[test]
fn a_repository_of_manifests_of_format_1_is_read() {
    let world = golden("format-1");
    must_be_whole(&world, 45, &[]);
    let listed = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["format"], 1);
}

#[test]
fn a_repository_of_manifests_of_format_2_is_read() {
    let world = golden("format-2");
    let key = world.text("home/recovery.key");
    world.repo(&["verify"]).expect(12);
    must_be_whole(&world, 40, &["--identity", &key]);
    let listed = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["format"], 2);
}
