//! Many databases that one `lifeboat run` follows.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::follow::{Agent, is_long, make, wait_for};
use crate::support::World;

#[test]
fn databases_of_a_glob_come_and_go_in_one_process() {
    let world = World::new();
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n\n[source.tenant]\nsqlite = { glob = \"$DATA/*.db\" }\n",
    );
    let paths: Vec<PathBuf> =
        (0..30).map(|number| world.path("data").join(format!("t{number}.db"))).collect();
    paths.iter().for_each(|path| make(path, "WAL"));
    let ran = world.run(&["run", "--once", "--json"]).expect(0);
    let began =
        ran.json().as_array().unwrap().iter().filter(|one| one["outcome"] == "following").count();
    assert_eq!(began, 30, "{}", ran.out);
    for (number, path) in paths.iter().enumerate() {
        let connection = Connection::open(path).unwrap();
        let sql = "INSERT INTO ticks SELECT ?1, 0, 'k', 'b'";
        connection.execute(sql, [number as i64]).unwrap();
    }
    fs::remove_file(&paths[3]).unwrap();
    make(&world.path("data/new.db"), "WAL");
    let ran = world.run(&["run", "--once", "--json"]).expect(0);
    let outcomes = ran.json();
    let outcomes = outcomes.as_array().unwrap();
    assert!(outcomes.iter().any(|one| one["source"] == "tenant-new"), "{outcomes:?}");
    assert!(!outcomes.iter().any(|one| one["source"] == "tenant-t3"));
    world.run(&["restore", "tenant-t7", "--to", "back.db"]).expect(0);
    let connection = Connection::open(world.path("data/back.db")).unwrap();
    let n: i64 = connection.query_row("SELECT n FROM ticks", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 7);
}

/// Hundreds of tenants in one process: threads are as many as the process has, whatever comes,
/// and of files each has its lock and nothing more.
#[test]
fn hundreds_of_databases_in_one_process_with_bounded_files_and_threads() {
    let tenants: usize = if is_long() { 300 } else { 120 };
    let world = World::new();
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n\n[source.tenant]\nsqlite = { glob = \"$DATA/*.db\" }\n",
    );
    let paths: Vec<PathBuf> =
        (0..tenants).map(|number| world.path("data").join(format!("t{number}.db"))).collect();
    make(&paths[0], "WAL");
    // Copies of a database at rest.
    let connection = Connection::open(&paths[0]).unwrap();
    connection.close().unwrap();
    for path in &paths[1..] {
        fs::copy(&paths[0], path).unwrap();
    }
    let agent = Agent::configured(&world, &[]);
    let said = || fs::read_to_string(world.path("agent.log")).unwrap();
    // Each is backed up first: a busy machine takes its time for that.
    let following = || said().matches("following tenant-").count();
    for share in 1..=10 {
        wait_for("a tenth more of them", || following() >= tenants * share / 10);
    }
    let mut most = (0, 0);
    for round in 0..3 {
        for (number, path) in paths.iter().enumerate().skip(round).step_by(7) {
            let connection = Connection::open(path).unwrap();
            let sql = "INSERT INTO ticks SELECT ?1, 0, 'k' || ?1, 'b'";
            connection.execute(sql, [(number * 10 + round) as i64]).unwrap();
        }
        for _ in 0..10 {
            sleep(Duration::from_millis(50));
            let process = format!("/proc/{}", agent.id());
            let threads = fs::read_dir(format!("{process}/task")).unwrap().count();
            let files = fs::read_dir(format!("{process}/fd")).unwrap().count();
            most = (most.0.max(threads), most.1.max(files));
        }
    }
    assert!(most.0 <= 40, "{} threads", most.0);
    assert!(most.1 <= tenants + 200, "{} files", most.1);
    // All of it is stored before the end, for which an agent has little time.
    let written = (0..tenants).filter(|number| number % 7 < 3).count();
    wait_for("what was written", || {
        let listed = world.run(&["list", "--json"]).expect(0).json();
        let is_stored = |entry: &&Value| entry["log"]["position"].as_u64() > Some(0);
        listed.as_array().unwrap().iter().filter(is_stored).count() >= written
    });
    let ticks = |path: &Path| -> i64 {
        let connection = Connection::open(path).unwrap();
        connection.query_row("SELECT count(*) FROM ticks", [], |row| row.get(0)).unwrap()
    };
    wait_for("the newest state of one", || {
        world.run(&["restore", "tenant-t7", "--to", "back.db", "--yes"]).expect(0);
        ticks(&world.path("data/back.db")) == ticks(&paths[7])
    });
    agent.terminate();
}
