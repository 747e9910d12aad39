//! `backup --incremental` and what comes back of it: every state to the byte, in any journal mode,
//! and a log that is not whole is refused with what can be restored instead.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::env::CRASH_POINTS;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, add_rows, content, make_database, mode, ran, rows, set_mode};

/// Changes the database and closes it, so that its file alone is the state.
fn change(path: &Path, sql: &str) -> Vec<u8> {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    fs::read(path).unwrap()
}

/// Adds a state to the log; its JSON.
fn increment(world: &World) -> Value {
    let ran = world.repo(&["backup", "app.db", "--incremental", "--json"]).expect(0);
    ran.json()[0].clone()
}

fn log_folder(world: &World) -> PathBuf {
    let backups = world.path("repo/app/log");
    let names = world.names("repo/app/log");
    backups.join(names.last().unwrap()).join("0")
}

fn log_file(world: &World, from: u64) -> PathBuf {
    log_folder(world).join(format!("{from:010}-{:010}.pagelog", from + 1))
}

/// A backup, and states with one change each: what the file was at each position.
fn history(world: &World, changes: &[&str]) -> (String, Vec<Vec<u8>>) {
    let path = world.database("app.db", 2_000);
    let mut states = vec![change(&path, "")];
    let made = world.repo(&["backup", "app.db", "--json"]).expect(0).json();
    for (index, sql) in changes.iter().enumerate() {
        states.push(change(&path, sql));
        let added = increment(world);
        assert_eq!(added["outcome"], "incremented", "{sql}: {added}");
        assert_eq!(added["position"], index as u64 + 1);
    }
    (made[0]["backup"].as_str().unwrap().to_owned(), states)
}

const CHANGES: &[&str] = &[
    "INSERT INTO person VALUES(3, 'cyd')",
    "",
    "UPDATE message SET body = 'changed' || id WHERE id % 50 = 0",
    "DELETE FROM message WHERE id > 1500",
    "VACUUM",
    "CREATE TABLE more(x); INSERT INTO more SELECT randomblob(900) FROM message LIMIT 300",
    "PRAGMA journal_mode = DELETE; UPDATE message SET body = 'again' WHERE id < 20",
    "DROP TABLE more; PRAGMA auto_vacuum = FULL; VACUUM",
    "PRAGMA journal_mode = WAL; DELETE FROM message WHERE id < 1000",
    "PRAGMA user_version = 43",
];

#[test]
fn every_state_comes_back_to_the_byte() {
    let world = World::new();
    let (base, states) = history(&world, CHANGES);
    for (position, state) in states.iter().enumerate() {
        let name = format!("{base}+{position}");
        world.repo(&["restore", &name, "--to", "back.db", "--yes"]).expect(0);
        assert!(fs::read(world.path("data/back.db")).unwrap() == *state, "{position}");
    }
    world.repo(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == states[CHANGES.len()]);
    world.repo(&["restore", &base, "--to", "back.db", "--yes"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == states[0], "the backup itself");
    for level in ["hash", "full"] {
        let verified = world.repo(&["verify", "--level", level, "--json"]).expect(0).json();
        assert_eq!(verified[0]["log"]["states"], CHANGES.len() as u64, "{verified}");
    }
    let listed = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["log"]["position"], CHANGES.len() as u64);
    assert!(world.repo(&["list"]).expect(0).out.contains("log: 10 states until "));
    let status = world.repo(&["status", "--json", "--max-age", "1h"]).expect(0).json();
    assert_eq!(status[0]["log_state"], format!("{base}+10"), "{status}");
    let beyond = world.repo(&["restore", &format!("{base}+11"), "--to", "x.db"]).expect(22);
    beyond.says("the log of").says(&format!("lifeboat restore {base}+10"));
}

#[test]
fn any_moment_is_the_newest_state_before_it() {
    let world = World::new();
    let path = world.database("app.db", 300);
    world.repo(&["backup", "app.db"]).expect(0);
    let mut moments = Vec::new();
    for round in 1..=4_u32 {
        change(&path, &format!("DELETE FROM message WHERE id > {}", 300 - round * 10));
        let held = increment(&world)["held"].as_str().unwrap().to_owned();
        moments.push((held, 300 - round * 10));
    }
    for window in moments.windows(2) {
        // Right before a state was taken hold of, the one before is the newest.
        let (at, before) = (&window[1].0, window[0].1);
        world.repo(&["restore", "app", "--at", at, "--to", "back.db", "--yes"]).expect(0);
        assert_eq!(rows(&world.path("data/back.db")), before, "{at}");
    }
    world.repo(&["restore", "app", "--at", "2020-01-01", "--to", "x.db"]).expect(22);
    // A state that is damaged hinders none of which is known that it lies before, and counts where
    // it may be the one.
    let third = log_file(&world, 2);
    let original = fs::read(&third).unwrap();
    let mut damaged = original.clone();
    damaged[original.len() - 200] ^= 0x40;
    fs::write(&third, damaged).unwrap();
    let at =
        |round: usize| ["restore", "app", "--at", &moments[round].0, "--to", "back.db", "--yes"];
    world.repo(&at(1)).expect(0);
    assert_eq!(rows(&world.path("data/back.db")), moments[0].1);
    world.repo(&at(2)).expect(20).says("is damaged").says("+2; or a newer backup");
    fs::write(&third, original).unwrap();
    let plan = world.repo(&["restore", "app", "--to", "x.db", "--dry-run"]).expect(0);
    assert!(plan.out.contains("lay its log over it: 4 files"), "{}", plan.out);
    assert!(!world.path("data/x.db").exists());
}

#[test]
fn a_live_database_is_added_with_what_is_in_its_wal() {
    let world = World::new();
    let path = world.database("app.db", 500);
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    world.repo(&["backup", "app.db"]).expect(0);
    for round in 0..3 {
        add_rows(&writer, 1_000 + round * 10, 10);
        increment(&world);
        if round == 1 {
            // The log of SQLite begins anew behind our back: T08 glues such pieces together.
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    let expected = content(&path);
    world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), expected);
}

#[test]
fn t22_a_missing_reordered_foreign_or_damaged_file_is_refused() {
    let world = World::new();
    let (base, states) = history(&world, &CHANGES[..4]);
    let latest = ["restore", "app", "--to", "x.db"];
    let at = ["restore", "app", "--at", "now", "--to", "x.db"];
    let position = format!("{base}+4");
    let position = ["restore", &position, "--to", "x.db"];
    let all = [&latest[..], &at[..], &position[..]];
    let refused = |code: i32, what: &str| {
        for arguments in all {
            world.repo(arguments).expect(code).says(what);
            assert!(!world.path("data/x.db").exists(), "{arguments:?}");
        }
        world.repo(&["verify"]).expect(20);
        // What is before the damage can be restored still.
        world.repo(&["restore", &format!("{base}+1"), "--to", "y.db", "--yes"]).expect(0);
        assert!(fs::read(world.path("data/y.db")).unwrap() == states[1]);
    };
    // Missing.
    let (second, third) = (log_file(&world, 1), log_file(&world, 2));
    let aside = world.path("data/aside");
    fs::rename(&second, &aside).unwrap();
    refused(22, &format!("lifeboat restore {base}+1"));
    // Reordered.
    fs::rename(&third, &second).unwrap();
    fs::rename(&aside, &third).unwrap();
    refused(22, "is in the wrong place");
    fs::rename(&second, &aside).unwrap();
    fs::rename(&third, &second).unwrap();
    fs::rename(&aside, &third).unwrap();
    // Of the same positions of another source.
    let other = World::new();
    history(&other, &CHANGES[..4]);
    let original = fs::read(&second).unwrap();
    fs::copy(log_file(&other, 1), &second).unwrap();
    refused(22, "does not belong to this log: it is of another source");
    // Damaged: in a page, in the index, in the footer.
    for at in [20, original.len() - 360, original.len() - 200] {
        let mut damaged = original.clone();
        damaged[at] ^= 0x40;
        fs::write(&second, &damaged).unwrap();
        refused(20, "is damaged");
        refused(20, &format!("lifeboat restore {base}+1"));
    }
    fs::write(&second, &original[..original.len() - 1]).unwrap();
    refused(20, "is damaged");
    // The next run does not add to it.
    let made = increment(&world);
    assert_eq!(made["outcome"], "committed", "{made}");
    world.repo(&["restore", "app", "--to", "z.db"]).expect(0);
    fs::write(&second, &original).unwrap();
    world.repo(&["verify", "--level", "quick"]).expect(0);
}

#[test]
fn t21_t23_t24_a_restore_by_time_leaves_no_old_wal_and_nothing_unproved() {
    let world = World::new();
    let path = world.database("app.db", 400);
    set_mode(&path, 0o640);
    world.repo(&["backup", "app.db"]).expect(0);
    change(&path, "DELETE FROM message WHERE id > 350");
    let held = increment(&world)["held"].as_str().unwrap().to_owned();
    change(&path, "DELETE FROM message");
    increment(&world);
    // An application that was killed left its rows in a `-wal`, and somebody removed the database.
    let lost = world.path("data/lost.db");
    make_database(&lost, 10);
    let writer = Connection::open(&lost).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    add_rows(&writer, 5_000, 9_000);
    fs::copy(world.path("data/lost.db-wal"), world.path("data/app.db-wal")).unwrap();
    fs::remove_file(&path).unwrap();
    // A log that turns out to be damaged only when its pages are laid touches nothing.
    let first = log_file(&world, 0);
    let original = fs::read(&first).unwrap();
    let mut damaged = original.clone();
    damaged[30] ^= 1;
    fs::write(&first, damaged).unwrap();
    world.repo(&["restore", "app", "--at", &held, "--yes"]).expect(0);
    assert_eq!(rows(&path), 400, "right before the first state there is only the backup");
    fs::remove_file(&path).unwrap();
    world.repo(&["restore", "app", "--yes"]).expect(20);
    assert!(!path.exists());
    fs::write(&first, original).unwrap();
    let at = ["restore", "app", "--at", "now", "--yes"];
    world.repo(&at).expect(0);
    assert_eq!(rows(&path), 0);
    assert_eq!(mode(&path), 0o640);
    assert!(!world.names("data").contains(&"app.db-journal".to_owned()));
    world.repo(&["undo", "app.db", "--yes"]);
}

#[test]
fn where_nothing_can_be_added_to_a_backup_is_made() {
    let world = World::new();
    let path = world.database("app.db", 2_000);
    let plan = world.repo(&["backup", "app.db", "--incremental", "--dry-run"]).expect(0);
    assert!(plan.out.contains("make a backup instead: there is no sound backup of it yet"));
    let first = world.repo(&["backup", "app.db", "--incremental", "--json"]).expect(0);
    assert_eq!(first.json()[0]["outcome"], "committed");
    let plan = world.repo(&["backup", "app.db", "--incremental", "--dry-run"]).expect(0);
    assert!(plan.out.contains("as differences from what is stored"), "{}", plan.out);
    change(&path, "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM");
    let said = world.repo(&["backup", "app.db", "--incremental"]).expect(0);
    said.says("a backup is made instead: its page size has changed");
    change(&path, "DELETE FROM message WHERE id > 1900");
    assert_eq!(increment(&world)["outcome"], "incremented");
    world.repo(&["backup", "app.db", "--incremental", "--method", "cold"]).expect(2);
}

#[test]
fn bases_of_every_compression_are_read_in_parts() {
    for compression in ["gzip", "none", "zstd:1"] {
        let world = World::new();
        let path = world.database("app.db", 3_000);
        world.repo(&["backup", "app.db", "--compress", compression]).expect(0);
        let state = change(&path, "UPDATE message SET body = body || '!' WHERE id % 100 = 0");
        let added = increment(&world);
        let (changed, stored) =
            (added["pages_changed"].as_u64().unwrap(), added["stored_bytes"].as_u64().unwrap());
        assert!(changed > 20 && stored < changed * 300 + 600, "{compression}: {added}");
        world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
        assert!(fs::read(world.path("data/back.db")).unwrap() == state, "{compression}");
    }
}

#[test]
fn a_base_that_cannot_be_read_makes_whole_pages() {
    let world = World::new();
    let path = world.database("app.db", 3_000);
    world.repo(&["backup", "app.db"]).expect(0);
    let artifact = world.artifact("app", ".db.zst");
    let original = fs::read(&artifact).unwrap();
    let mut damaged = original.clone();
    damaged[500..].iter_mut().step_by(700).for_each(|byte| *byte ^= 0x11);
    fs::write(&artifact, damaged).unwrap();
    let state = change(&path, "UPDATE message SET body = body || '!' WHERE id % 100 = 0");
    let said = world.repo(&["backup", "app.db", "--incremental"]).expect(0);
    said.says("pages are stored whole: ");
    fs::write(&artifact, original).unwrap();
    world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
    assert!(fs::read(world.path("data/back.db")).unwrap() == state);
}

#[test]
fn killed_in_an_increment() {
    let points: Vec<&str> =
        CRASH_POINTS.iter().copied().filter(|point| point.starts_with("increment.")).collect();
    assert!(points.len() >= 5);
    for point in points {
        let world = World::new();
        let path = world.database("app.db", 500);
        world.repo(&["backup", "app.db"]).expect(0);
        let states = [change(&path, ""), change(&path, "DELETE FROM message WHERE id > 400")];
        let mut command = world.repo_command(&["backup", "app.db", "--incremental"]);
        let killed = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(killed.code, 128 + 9, "{point} is never passed: {killed:?}");
        let is_there = ["increment.after_file", "increment.read_back"].contains(&point);
        world.repo(&["verify", "--level", "quick"]).expect(0);
        world.repo(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
        let expected = &states[usize::from(is_there)];
        assert!(fs::read(world.path("data/back.db")).unwrap() == *expected, "{point}");
        // The next run is not hindered by what was left.
        let state = change(&path, "DELETE FROM message WHERE id > 300");
        assert_eq!(increment(&world)["position"], if is_there { 2 } else { 1 }, "{point}");
        world.repo(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
        assert!(fs::read(world.path("data/back.db")).unwrap() == state, "{point}");
    }
}

#[test]
fn killed_in_a_restore_over_a_log() {
    let world = World::new();
    let (_, states) = history(&world, &CHANGES[..3]);
    let path = world.path("data/app.db");
    for point in ["restore.staging", "restore.staged", "restore.verified"] {
        let before = change(&path, "DELETE FROM message WHERE id > 900");
        let mut command = world.repo_command(&["restore", "app", "--yes"]);
        let killed = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(killed.code, 128 + 9, "{point}");
        assert!(fs::read(&path).unwrap() == before, "{point}");
    }
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == states[3]);
}
