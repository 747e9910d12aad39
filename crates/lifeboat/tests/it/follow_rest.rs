//! Databases that rest are left alone until the kernel tells of a write; and what is written then
//! is stored as ever.

use std::fs;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use crate::follow::{Agent, log, wait_for};
use crate::support::World;

/// How many things of the kernel's that process listens to.
fn listens_to(process: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return 0 };
    let told = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    told.map(|text| text.matches("inotify wd:").count()).sum()
}

/// Whether writes to files there come from this kernel alone, as far as is known.
fn is_local(path: &Path) -> bool {
    let kind = Command::new("stat").args(["-f", "-c", "%t"]).arg(path).output().unwrap();
    let kind = String::from_utf8(kind.stdout).unwrap();
    ["ef53", "58465342", "9123683e", "1021994"].contains(&kind.trim())
}

fn rows(world: &World, source: &str) -> Option<i64> {
    let to = world.path("data/back.db");
    let _ = fs::remove_file(&to);
    let words = ["restore", source, "--to", "back.db", "--yes"];
    (world.repo(&words).code == 0).then(|| count(&to))
}

fn count(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_is_written_after_a_rest_is_stored() {
    let world = World::new();
    let names = ["wal", "rollback"];
    let databases = names.map(|name| world.path(&format!("data/{name}.db")));
    for (path, mode) in databases.iter().zip(["WAL", "DELETE"]) {
        let connection = Connection::open(path).unwrap();
        let sql = format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(x)");
        connection.execute_batch(&sql).unwrap();
    }
    let agent = Agent::start(&world, &["wal.db", "rollback.db"]);
    // The folder, both files, and what readers left beside one of them.
    let at_least = if is_local(&databases[0]) { 3 } else { 0 };
    for round in 1..=2 {
        wait_for("rest", || listens_to(agent.id()) >= at_least);
        for path in &databases {
            // Who writes comes and goes, and its -wal with it.
            let connection = Connection::open(path).unwrap();
            connection.execute("INSERT INTO t VALUES(1)", []).unwrap();
        }
        for name in names {
            wait_for("what was written", || rows(&world, name) == Some(round));
        }
    }
    // Another file takes the place of one.
    wait_for("rest", || listens_to(agent.id()) >= at_least);
    let other = world.path("other.db");
    fs::copy(&databases[1], &other).unwrap();
    Connection::open(&other).unwrap().execute("INSERT INTO t VALUES(1), (2)", []).unwrap();
    fs::rename(&other, &databases[1]).unwrap();
    wait_for("what took its place", || rows(&world, "rollback") == Some(4));
    let listed = world.repo(&["list", "wal", "--json"]).expect(0).json();
    assert_ne!(listed.as_array().unwrap().last().unwrap()["log"], Value::Null);
    agent.terminate();
}

/// Whether that process has that file open.
fn has_open(process: u32, path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|open| open == path))
}

#[test]
fn a_restore_waits_for_the_follower_to_let_the_database_go_and_for_nobody_else() {
    let world = World::new();
    let database = world.path("data/wal.db");
    let connection = Connection::open(&database).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(x)").unwrap();
    // A state of it is held as long as somebody writes, and for some looks after.
    let agent = Agent::start(&world, &["wal.db", "--pin-from", "0"]);
    wait_for("a backup", || log(&world, "wal") != Value::Null);
    connection.execute("INSERT INTO t VALUES(1)", []).unwrap();
    wait_for("a state that is held", || has_open(agent.id(), &database));
    let back = ["restore", "wal", "--to", "wal.db", "--yes"];
    let refused = world.repo(&back).expect(23);
    assert!(refused.err.contains(&format!("({})", std::process::id())), "{}", refused.err);
    connection.execute("INSERT INTO t VALUES(2)", []).unwrap();
    // A restore waits for who looks, but not as long as a slow disk may take to store.
    wait_for("what was written", || rows(&world, "wal") == Some(2));
    wait_for("a state that is held", || has_open(agent.id(), &database));
    connection.close().unwrap();
    world.repo(&back).expect(0);
    assert_eq!(count(&database), 2);
    agent.terminate();
}
