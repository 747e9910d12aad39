//! Logs of sealed repositories: a host without a key follows its database and sees its log whole;
//! who has the key goes back to every state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_core::env::CRASH_POINTS;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, add_rows, content, ran, within_one_hour};

/// A world whose key lies elsewhere, and a configuration that seals to it.
fn sealed_world(rows: u32) -> World {
    let world = World::new();
    let made = world.run(&["key", "new", &world.text("home/elsewhere")]).expect(0);
    world.database("app.db", rows);
    configure(&world, made.out.trim(), "");
    world
}

fn configure(world: &World, recipient: &str, more: &str) {
    world.configure(&format!(
        "[repository.off]\nurl = \"file://$REPO\"\nencrypt_to = [\"{recipient}\"]\n{more}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n"
    ));
}

fn add(world: &World, first: u32, count: u32) {
    let connection = Connection::open(world.path("data/app.db")).unwrap();
    add_rows(&connection, first, count);
}

/// Looks at the database once, and says what became of it.
fn followed(world: &World) -> Vec<String> {
    let ran = world.run(&["run", "--once", "--json"]).expect(0);
    let outcome = |one: &Value| one["outcome"].as_str().unwrap().to_owned();
    ran.json().as_array().unwrap().iter().map(outcome).collect()
}

/// The files of all logs.
fn files(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for base in world.names("repo/app/log") {
        for level in world.names(&format!("repo/app/log/{base}")) {
            let folder = format!("repo/app/log/{base}/{level}");
            let names = world.names(&folder).into_iter().filter(|name| !name.starts_with('.'));
            found.extend(names.map(|name| world.path(&folder).join(name)));
        }
    }
    found
}

fn listed(world: &World) -> Value {
    world.run(&["list", "--json"]).expect(0).json()
}

#[test]
fn a_host_without_a_key_follows_and_one_with_it_goes_back_to_each_state() {
    let world = sealed_world(3_000);
    let key = world.text("home/elsewhere");
    assert_eq!(followed(&world), ["backed-up", "following"]);
    let mut contents = vec![content(&world.path("data/app.db"))];
    for round in 1..=3 {
        add(&world, 10_000 * round, 20);
        assert_eq!(followed(&world), ["following"], "no other backup, and nothing that was lost");
        contents.push(content(&world.path("data/app.db")));
    }
    add(&world, 90_000, 5);
    let plan = world.run(&["backup", "--incremental", "--dry-run"]).expect(0);
    assert!(plan.out.contains("whole: what is stored is sealed, and no key"), "{}", plan.out);
    world.run(&["backup", "--incremental"]).expect(0).says("pages are stored whole");
    contents.push(content(&world.path("data/app.db")));

    // What can be seen without the key.
    let found = files(&world);
    assert!(found.len() >= 4, "{found:?}");
    for file in &found {
        assert!(file.to_str().unwrap().ends_with(".pagelog.age"), "{file:?} is open");
    }
    let log = listed(&world)[0]["log"].clone();
    assert_eq!(log["states"].as_u64(), Some(found.len() as u64), "{log}");
    world.run(&["verify", "--level", "stored"]).expect(0).says("its log leads to");
    world.run(&["status"]).expect(0);
    world.run(&["restore", "app", "--to", "back.db"]).expect(12).says("--identity FILE");

    // What needs it: every state, and the log as a whole.
    let base = listed(&world)[0]["name"].as_str().unwrap().to_owned();
    let end = found.len();
    for (at, expected) in contents.iter().rev().enumerate().take(4) {
        let state = format!("{base}+{}", end - at);
        world.run(&["restore", &state, "--to", "back.db", "--yes", "--identity", &key]).expect(0);
        assert_eq!(&content(&world.path("data/back.db")), expected, "{state}");
    }
    world.run(&["verify", "--level", "full", "--identity", &key]).expect(0);
    // age opens each file as any other.
    for file in &found {
        let opened = Command::new("age").args(["-d", "-i", &key]).arg(file).output().unwrap();
        assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
        let tail = &opened.stdout[opened.stdout.len() - 40..];
        assert!(opened.stdout.starts_with(b"LBPAGLOG") && tail.starts_with(b"LBLOGEND"));
    }
    // With the key at hand differences are made from what is stored: far fewer bytes than whole.
    add(&world, 95_000, 5);
    world.run(&["backup", "--incremental", "--identity", &key]).expect(0);
    let size = |file: &Path| fs::metadata(file).unwrap().len();
    let newest = files(&world);
    assert!(size(&newest[end]) * 2 < size(&newest[end - 1]), "differences are smaller");
    world.run(&["restore", "app", "--to", "back.db", "--yes", "--identity", &key]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), content(&world.path("data/app.db")));
    // What this host noted does not know of that state: it begins anew, and says why.
    assert_eq!(followed(&world), ["backed-up", "following"]);
}

#[test]
fn without_a_key_it_is_seen_that_a_file_is_missing_or_was_changed() {
    let world = sealed_world(600);
    followed(&world);
    for round in 1..=4 {
        add(&world, 10_000 * round, 5);
        followed(&world);
    }
    let found = files(&world);
    let verify = || world.run(&["verify", "--level", "stored"]);
    verify().expect(0);
    let middle = &found[found.len() - 3];
    let bytes = fs::read(middle).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(middle, &changed).unwrap();
    verify().expect(20).says("does not follow the file that is before it now");
    // Another file of the same log under its name.
    fs::copy(&found[0], middle).unwrap();
    verify().expect(20).says("is in the wrong place");
    fs::remove_file(middle).unwrap();
    verify().expect(20).says("missing between the positions");
    // And with the key no moment beyond it is promised.
    let key = world.text("home/elsewhere");
    world.run(&["restore", "app", "--to", "x.db", "--identity", &key]).expect(22);
    fs::write(middle, &bytes).unwrap();
    verify().expect(0);
}

#[test]
fn what_a_host_knows_of_a_sealed_log_may_be_lost_or_be_another_hosts() {
    let world = sealed_world(600);
    followed(&world);
    assert_eq!(followed(&world), ["following"]);
    for name in world.names("state/lifeboat/known") {
        fs::remove_file(world.path("state/lifeboat/known").join(name)).unwrap();
    }
    let ran = world.run(&["run", "--once"]).expect(0);
    ran.says("has not kept the hashes of its pages");
    assert_eq!(listed(&world).as_array().unwrap().len(), 2);
    // Its last note is torn: so is what it knows of the last file.
    add(&world, 10_000, 5);
    followed(&world);
    let known = world.path("state/lifeboat/known");
    let names = world.names("state/lifeboat/known");
    let notes = names.iter().find(|name| name.ends_with(".notes")).unwrap();
    let bytes = fs::read(known.join(notes)).unwrap();
    fs::write(known.join(notes), &bytes[..bytes.len() - 1]).unwrap();
    world.run(&["run", "--once"]).expect(0).says("does not know what the end of its log");
    assert_eq!(listed(&world).as_array().unwrap().len(), 3);
    // Sealed to somebody else from now on: nothing is added to what the old key opens.
    let made = world.run(&["key", "new", &world.text("home/new")]).expect(0);
    configure(&world, made.out.trim(), "");
    world.run(&["run", "--once"]).expect(0).says("is not sealed as what is stored now");
    let key = world.text("home/new");
    world.run(&["restore", "app", "--to", "back.db", "--identity", &key]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), content(&world.path("data/app.db")));
}

#[test]
fn a_sealed_log_survives_a_kill_at_each_point() {
    let world = sealed_world(600);
    followed(&world);
    let mut next = 10_000;
    for point in CRASH_POINTS.iter().filter(|point| point.starts_with("increment.")) {
        add(&world, next, 5);
        next += 1_000;
        let mut killed = world.command(&["run", "--once"]);
        killed.env("LIFEBOAT_CRASH_AT", point);
        let code = ran(killed.stderr(Stdio::piped()).output().unwrap()).code;
        let outcome = followed(&world);
        assert_eq!(outcome, ["following"], "{point} ({code}): what is known fits what is there");
    }
    assert_eq!(listed(&world).as_array().unwrap().len(), 1);
    let key = world.text("home/elsewhere");
    world.run(&["verify", "--level", "full", "--identity", &key]).expect(0);
    world.run(&["restore", "app", "--to", "back.db", "--identity", &key]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), content(&world.path("data/app.db")));
}

#[test]
fn a_sealed_log_is_thinned_where_the_key_is_and_goes_on_where_it_is_not() {
    within_one_hour();
    let world = sealed_world(600);
    let made = world.run(&["key", "show", &world.text("home/elsewhere")]).expect(0);
    let recipient = made.out.split_whitespace().find(|word| word.starts_with("age1")).unwrap();
    configure(&world, recipient, "log = { all = \"0s\", minutely = \"0s\", hourly = \"9d\" }");
    followed(&world);
    for round in 1..=4 {
        add(&world, 10_000 * round, 5);
        followed(&world);
    }
    let before = files(&world).len();
    world.run(&["prune", "--yes"]).expect(0);
    assert_eq!(files(&world).len(), before, "without the key nothing is merged");
    let key = world.text("home/elsewhere");
    world.run(&["prune", "--yes", "--identity", &key]).expect(0);
    let merged = files(&world);
    assert!(merged.len() == 1 && merged[0].to_str().unwrap().ends_with(".pagelog.age"));
    world.run(&["verify", "--level", "stored"]).expect(0);
    add(&world, 90_000, 5);
    assert_eq!(followed(&world), ["following"], "the merged file ends where it had written to");
    world.run(&["verify", "--level", "stored"]).expect(0);
    world.run(&["verify", "--level", "full", "--identity", &key]).expect(0);
    world.run(&["restore", "app", "--to", "back.db", "--identity", &key]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), content(&world.path("data/app.db")));
}

#[test]
fn logs_are_copied_into_sealed_repositories() {
    let world = World::new();
    world.database("app.db", 600);
    let keys: Vec<String> = ["one", "two"]
        .map(|name| {
            let made = world.run(&["key", "new", &world.text(name)]).expect(0);
            made.out.trim().to_owned()
        })
        .to_vec();
    world.configure(&format!(
        "[repository.open]\nurl = \"file://$REPO\"\n\
         [repository.one]\nurl = \"file://$DATA/one\"\nencrypt_to = [\"{}\"]\n\
         [repository.same]\nurl = \"file://$DATA/same\"\nencrypt_to = [\"{}\"]\n\
         [repository.two]\nurl = \"file://$DATA/two\"\nencrypt_to = [\"{}\"]\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n",
        keys[0], keys[0], keys[1]
    ));
    for round in 1..=4 {
        world.run(&["--repo", "open", "run", "--once"]).expect(0);
        add(&world, 10_000 * round, 5);
    }
    world.run(&["--repo", "open", "run", "--once"]).expect(0);
    let (one, two) = (world.text("one"), world.text("two"));
    // Open to sealed; sealed to sealed, byte for byte; sealed to others with the key.
    world.run(&["copy", "--from", "open", "--to", "one"]).expect(0);
    world.run(&["copy", "--from", "one", "--to", "same"]).expect(0);
    let denied = world.run(&["copy", "--from", "one", "--to", "two"]);
    assert!(denied.code != 0, "{denied:?}");
    world.run(&["copy", "--from", "one", "--to", "two", "--identity", &one]).expect(0);
    let expected = content(&world.path("data/app.db"));
    for (repository, key) in [("one", &one), ("same", &one), ("two", &two)] {
        let verify = ["--repo", repository, "verify", "--level", "full", "--identity", key];
        world.run(&verify).expect(0).says("its log leads to");
        world.run(&["--repo", repository, "verify", "--level", "stored"]).expect(0);
        let log = format!("data/{repository}/app/log");
        let base = world.names(&log).remove(0);
        for name in world.names(&format!("{log}/{base}/0")) {
            assert!(name.ends_with(".pagelog.age"), "{name} is open");
        }
        let restore =
            ["--repo", repository, "restore", "app", "--to", "back.db", "--yes", "--identity", key];
        world.run(&restore).expect(0);
        assert_eq!(content(&world.path("data/back.db")), expected, "{repository}");
    }
}
