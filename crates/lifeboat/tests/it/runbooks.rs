//! The pages of `docs/runbooks/`: each command of theirs, as it stands there and in its order.
//!
//! A line may end with `# exit code N`; without that it must succeed. Pages with a test of their
//! own are named here.

use std::fs;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::support::{World, damage, ran, rows};

/// Pages whose commands other tests run, or that have none.
const ELSEWHERE: &[&str] =
    &["README.md", "corrupt-postgres.md", "corrupt-sqlite.md", "restore-test.md"];

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbooks");

/// The commands of a page with the exit codes that they have.
fn commands(page: &str) -> Vec<(String, i32)> {
    let text = fs::read_to_string(Path::new(FOLDER).join(page)).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty());
    let parsed = lines.map(|line| match line.split_once("# exit code ") {
        Some((command, code)) => (command.trim_end().to_owned(), code.trim().parse().unwrap()),
        None => (line.to_owned(), 0),
    });
    parsed.collect()
}

fn run(world: &World, page: &str) {
    let found = commands(page);
    assert!(!found.is_empty(), "{page} has no command");
    for (command, code) in found {
        let line = command.replacen("lifeboat", env!("CARGO_BIN_EXE_lifeboat"), 1);
        let line = if command.starts_with("lifeboat") { line } else { command.clone() };
        let of_world = world.command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(world.path("data"));
        shell.env_clear().envs(of_world.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let ran = ran(shell.output().unwrap());
        assert_eq!(ran.code, code, "{page}: {command}\n{}\n{}", ran.out, ran.err);
    }
}

/// A database `chat.db` with a host key beside it, backed up.
fn world() -> World {
    let world = World::new();
    world.database("chat.db", 2_000);
    let key = world.text("data/ssh_host_key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
        .status()
        .unwrap();
    assert!(made.success());
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [repository.other]\nurl = \"file://$DATA/other\"\n\
         [source.chat]\nsqlite = \"$DATA/chat.db\"\nfiles = [\"$DATA/ssh_host_key\"]\n\
         keep = { daily = 7 }\n",
    );
    world.run(&["backup", "chat"]).expect(0);
    world
}

#[test]
fn every_page_is_run_by_a_test() {
    let list = include_str!("runbooks.rs");
    for entry in fs::read_dir(FOLDER).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_run = list.contains(&format!("\"{name}\""));
        assert!(is_run || ELSEWHERE.contains(&name.as_str()), "nothing runs {name}");
        let index = fs::read_to_string(Path::new(FOLDER).join("README.md")).unwrap();
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name}");
    }
}

#[test]
fn a_database_that_is_lost() {
    let world = world();
    fs::remove_file(world.path("data/chat.db")).unwrap();
    run(&world, "database-lost.md");
    assert_eq!(rows(&world.path("data/chat.db")), 2_000);
}

#[test]
fn a_database_that_is_damaged() {
    let world = world();
    damage(&world.path("data/chat.db"));
    run(&world, "database-damaged.md");
    assert_eq!(rows(&world.path("data/chat.db")), 2_000);
}

#[test]
fn a_migration_that_went_wrong() {
    let world = world();
    let database = world.text("data/chat.db");
    let sql = "ALTER TABLE message RENAME TO broken";
    world.run(&["guard", "chat", "--", "sqlite3", &database, sql]).expect(0);
    run(&world, "migration-failed.md");
    assert_eq!(rows(&world.path("data/chat.db")), 2_000);
}

#[test]
fn rows_that_were_deleted() {
    let world = world();
    let connection = Connection::open(world.path("data/chat.db")).unwrap();
    connection.execute_batch("DELETE FROM message WHERE id % 3 = 0").unwrap();
    connection.close().unwrap();
    run(&world, "partial-loss.md");
    assert_eq!(rows(&world.path("data/chat.db")), 2_000);
}

#[test]
fn a_host_key_that_is_lost() {
    let world = world();
    let before = fs::read(world.path("data/ssh_host_key")).unwrap();
    fs::remove_file(world.path("data/ssh_host_key")).unwrap();
    run(&world, "host-key-lost.md");
    assert_eq!(fs::read(world.path("data/ssh_host_key")).unwrap(), before);
}

#[test]
fn a_disk_that_is_full() {
    run(&world(), "disk-full.md");
}

#[test]
fn backups_that_are_all_lost() {
    let world = world();
    fs::remove_dir_all(world.path("repo")).unwrap();
    let _ = fs::remove_dir_all(world.path("data/other"));
    run(&world, "backups-lost.md");
}

#[test]
fn a_restore_that_was_wrong() {
    let world = world();
    let connection = Connection::open(world.path("data/chat.db")).unwrap();
    connection.execute_batch("DELETE FROM message WHERE id > 1000").unwrap();
    connection.close().unwrap();
    world.run(&["restore", "chat", "--yes"]).expect(0);
    run(&world, "restore-was-wrong.md");
    assert_eq!(rows(&world.path("data/chat.db")), 1_000);
}
