//! A log grows old: `prune` tells its states apart less finely, and every one that stays comes back
//! to the byte.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use lifeboat_core::env::CRASH_POINTS;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, ran, within_one_hour};

const CONFIG: &str = "[repository.main]\nurl = \"file://$REPO\"\n\n\
    [source.app]\nsqlite = \"$DATA/app.db\"\nkeep = { last = 1 }\n";

/// Changes a database; what its file is then, all of it.
pub(crate) fn change(path: &Path, sql: &str) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    fs::read(path).unwrap()
}

/// A backup and states behind it: what the database was at each position.
fn history(world: &World, states: usize) -> (String, Vec<Vec<u8>>) {
    let path = world.database("app.db", 600);
    let made = world.run(&["backup", "--json"]).expect(0).json();
    let base = made[0]["backup"].as_str().unwrap().to_owned();
    let mut images = vec![fs::read(&path).unwrap()];
    for round in 1..=states {
        add(world, &mut images, round);
    }
    (base, images)
}

fn add(world: &World, images: &mut Vec<Vec<u8>>, round: usize) {
    let path = world.path("data/app.db");
    let sql = format!(
        "UPDATE message SET body = 'round {round}' WHERE id % 50 = {};
         DELETE FROM message WHERE id = {round};
         INSERT INTO person(name) VALUES('person {round}')",
        round % 3
    );
    images.push(change(&path, &sql));
    world.run(&["backup", "--incremental"]).expect(0);
}

/// The files of the log of a backup, by level.
fn files(world: &World, base: &str) -> Vec<String> {
    let levels = ["0", "1", "2"].map(|level| {
        let names = world.names(&format!("repo/app/log/{base}/{level}"));
        let whole = names.into_iter().filter(|name| !name.starts_with('.'));
        whole.map(|name| format!("{level}/{name}")).collect::<Vec<_>>()
    });
    levels.concat()
}

fn pruned(world: &World) -> Value {
    world.run(&["prune", "--yes", "--json"]).expect(0).json()[0].clone()
}

#[test]
fn old_states_are_told_apart_less_finely_and_come_back_to_the_byte() {
    within_one_hour();
    let world = World::new();
    // All that is not the newest state is older than nothing.
    world.configure(&format!(
        "{CONFIG}log = {{ all = \"0s\", minutely = \"0s\", hourly = \"9d\" }}\n"
    ));
    let (base, mut images) = history(&world, 7);
    let plan = world.run(&["prune", "--dry-run"]).expect(0);
    assert!(plan.out.contains(&format!("log of {base}: keep ")), "{}", plan.out);
    assert!(plan.out.contains(" of 7 states: write 1 files, delete 7 of 7"), "{}", plan.out);
    assert_eq!(files(&world, &base).len(), 7, "a plan changes nothing");
    let done = pruned(&world);
    assert_eq!(done["plan"]["thinned"][0]["backup"], base.as_str(), "{done}");
    assert_eq!((done["log_merged"].as_u64(), done["log_thinned"].as_u64()), (Some(1), Some(7)));
    let merged = files(&world, &base);
    assert_eq!(merged, ["2/0000000000-0000000007.pagelog"]);
    world.run(&["verify", "--level", "full"]).expect(0);
    world.run(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == images[7]);
    let listed = world.run(&["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["log"]["ranges"][0]["each"], "hour", "{listed}");
    // A moment in between: the nearest earlier state, and why it is not nearer.
    let within = listed[0]["log"]["held"].as_str().unwrap();
    let plan = world.run(&["restore", "app", "--to", "x.db", "--at", "now", "--dry-run"]).expect(0);
    let held = &within[..19];
    assert!(plan.out.contains("the last state of each hour is kept"), "{}", plan.out);
    assert!(plan.out.contains(held), "{held}: {}", plan.out);
    let state = format!("{base}+3");
    world.run(&["restore", &state, "--to", "x.db"]).expect(22).says("the log of");
    // It goes on behind what was merged, and is merged again.
    for round in 8..=10 {
        add(&world, &mut images, round);
    }
    let listed = world.run(&["list", "--json"]).expect(0).json();
    let each: Vec<&str> = listed[0]["log"]["ranges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| range["each"].as_str().unwrap())
        .collect();
    assert_eq!(each, ["hour", "state"]);
    assert!(world.run(&["list"]).expect(0).out.contains("each hour until "));
    for (position, image) in images.iter().enumerate().skip(7) {
        let state = format!("{base}+{position}");
        world.run(&["restore", &state, "--to", "back.db", "--yes"]).expect(0);
        assert!(fs::read(world.path("data/back.db")).unwrap() == *image, "{position}");
    }
    pruned(&world);
    world.run(&["verify", "--level", "full"]).expect(0);
    world.run(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == images[10]);
    assert_eq!(pruned(&world)["outcome"], "nothing-to-do");
}

/// Four large files are a pack, as a thousand small ones are.
#[test]
fn files_of_a_log_are_packed_and_every_state_comes_back() {
    let world = World::new();
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n[repository.second]\n\
         url = \"file://$DATA/second\"\n\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         keep = \"forever\"\n",
    );
    let path = world.database("app.db", 600);
    change(&path, "CREATE TABLE more AS SELECT randomblob(1700000) AS x");
    let made = world.run(&["backup", "--repo", "main", "--json"]).expect(0).json();
    let base = made[0]["backup"].as_str().unwrap().to_owned();
    let mut images = vec![fs::read(&path).unwrap()];
    let mut add = || {
        images.push(change(&path, "UPDATE more SET x = randomblob(1700000)"));
        world.run(&["backup", "--incremental", "--repo", "main"]).expect(0);
    };
    (0..5).for_each(|_| add());
    let plan = world.run(&["prune", "--repo", "main", "--dry-run"]).expect(0);
    assert!(plan.out.contains("put 4 files into 1 packs"), "{}", plan.out);
    let prune = || world.run(&["prune", "--repo", "main", "--yes", "--json"]).expect(0).json();
    assert_eq!(prune()[0]["log_packed"], 4);
    assert_eq!(files(&world, &base).len(), 6, "what is packed goes later");
    let pack = "0/0000000000-0000000004.pagelogs";
    let packed = world.path(&format!("repo/app/log/{base}/{pack}"));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
    fs::File::options().append(true).open(packed).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(prune()[0]["log_thinned"], 4);
    assert_eq!(files(&world, &base), [pack, "0/0000000004-0000000005.pagelog"]);
    assert_eq!(prune()[0]["outcome"], "nothing-to-do");
    add();
    world.run(&["copy", "--to", "second"]).expect(0);
    for repository in ["main", "second"] {
        world.run(&["verify", "--repo", repository, "--level", "full"]).expect(0);
        for (position, image) in images.iter().enumerate().skip(1) {
            let state = format!("{base}+{position}");
            let all = ["restore", &state, "--repo", repository, "--to", "back.db", "--yes"];
            world.run(&all).expect(0);
            assert!(fs::read(world.path("data/back.db")).unwrap() == *image, "{position}");
        }
    }
    // A pack that is missing is a gap, and a damaged one is said.
    fs::write(world.path(&format!("data/second/app/log/{base}/{pack}")), b"no pack").unwrap();
    let state = format!("{base}+3");
    let lost = world.run(&["restore", &state, "--repo", "second", "--to", "x.db"]).expect(22);
    lost.says("what can be restored instead");
}

#[test]
fn a_rule_that_keeps_less_of_a_log_waits_for_an_approval() {
    let world = World::new();
    let log = |all: &str| {
        world.configure(&format!(
            "{CONFIG}log = {{ all = \"{all}\", minutely = \"0s\", hourly = \"9d\" }}\n"
        ));
    };
    log("8d");
    let (base, images) = history(&world, 4);
    // The rule is known from the first look on, also where nothing is to be done by it.
    world.run(&["run", "--once"]).expect(0);
    let before = files(&world, &base);
    log("0s");
    let plan = world.run(&["prune", "--dry-run", "--json"]).expect(0).json()[0]["plan"].clone();
    let gate = "less of its logs is to be kept";
    assert!(plan["gates"][0]["message"].as_str().unwrap().contains(gate), "{plan}");
    world.run(&["prune", "--yes"]).expect(23).says(gate).says("--approve");
    world.run(&["run", "--once"]).expect(0).says(gate);
    let kept = files(&world, &base);
    assert!(before.iter().all(|file| kept.contains(file)), "{before:?} {kept:?}");
    world.run(&["restore", &format!("{base}+2"), "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == images[2]);
    // As before, or approved, it goes on; then the new rule is the one to compare with.
    log("9d");
    world.run(&["run", "--once"]).expect(0);
    log("0s");
    let plan = world.run(&["prune", "--dry-run", "--json"]).expect(0).json()[0]["plan"].clone();
    world.run(&["prune", "--yes", "--approve", plan["id"].as_str().unwrap()]).expect(0);
    assert!(files(&world, &base).len() < before.len());
    add(&world, &mut images.clone(), 9);
    world.run(&["run", "--once"]).expect(0);
    assert_eq!(pruned(&world)["outcome"], "nothing-to-do");
    world.run(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn killed_while_a_log_is_thinned_out() {
    within_one_hour();
    let points: Vec<&str> =
        CRASH_POINTS.iter().copied().filter(|point| point.starts_with("merge.")).collect();
    assert!(points.len() >= 4);
    let world = World::new();
    world.configure(&format!(
        "{CONFIG}log = {{ all = \"0s\", minutely = \"0s\", hourly = \"9d\" }}\n"
    ));
    let (base, mut images) = history(&world, 3);
    for (round, point) in points.into_iter().enumerate() {
        let mut command = world.command(&["prune", "--yes"]);
        let killed = command.env("LIFEBOAT_CRASH_AT", point).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ran(killed).code, 128 + 9, "{point} is never passed");
        world.run(&["verify", "--level", "quick"]).expect(0);
        for back in [format!("{base}+{}", images.len() - 1), "app".to_owned()] {
            world.run(&["restore", &back, "--to", "back.db", "--yes"]).expect(0);
            assert!(fs::read(world.path("data/back.db")).unwrap() == images[images.len() - 1]);
        }
        // The next increment and the next prune are not hindered.
        add(&world, &mut images, 10 + round * 2);
        add(&world, &mut images, 11 + round * 2);
    }
    pruned(&world);
    assert_eq!(files(&world, &base).len(), 1, "{:?}", files(&world, &base));
    world.run(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == images[images.len() - 1]);
}

#[test]
fn a_backup_stays_as_long_as_its_log_holds_what_is_kept() {
    let world = World::new();
    let log = "log = { all = \"1d\" }\n";
    world.configure(&format!("{CONFIG}{log}"));
    let (base, images) = history(&world, 2);
    for _ in 0..4 {
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        world.run(&["backup"]).expect(0);
    }
    let plan = world.run(&["prune", "--json", "--dry-run"]).expect(0).json();
    let items = plan[0]["plan"]["items"].as_array().unwrap().clone();
    let of_base = items.iter().find(|item| item["name"] == base.as_str()).unwrap();
    assert_eq!(of_base["action"], "keep", "{of_base}");
    assert_eq!(of_base["reasons"][0], "states of its log are kept");
    // One without a log goes as ever.
    assert!(items.iter().any(|item| item["action"] == "mark"), "{items:?}");
    let approve = plan[0]["plan"]["id"].as_str().unwrap();
    world.run(&["prune", "--yes", "--approve", approve]).expect(0);
    world.run(&["restore", &format!("{base}+1"), "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == images[1]);
    // What nobody wants to keep holds nothing.
    let nothing = "log = { all = \"0s\", minutely = \"0s\", hourly = \"0s\" }\n";
    world.configure(&format!("{CONFIG}{nothing}"));
    let plan = world.run(&["prune", "--json", "--dry-run"]).expect(0).json();
    let items = plan[0]["plan"]["items"].as_array().unwrap().clone();
    let of_base = items.iter().find(|item| item["name"] == base.as_str()).unwrap();
    assert_eq!(of_base["action"], "mark", "{of_base}");
}
