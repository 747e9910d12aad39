//! `lifeboat doctor` on what harms SQLite databases, and on databases that nothing protects.

use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Holder, World, add_rows, make_database, set_mode};

fn doctor(world: &World) -> Value {
    let root = world.text("root");
    world.run(&["doctor", "--root", &root, "--json"]).json()
}

#[track_caller]
fn expect(report: &Value, check: &str, outcome: &str, said: &str) {
    let is_it = |finding: &Value| {
        let text = format!("{} {}", finding["message"], finding["hint"]);
        finding["check"] == check && finding["outcome"] == outcome && text.contains(said)
    };
    let all = report["checks"].as_array().unwrap();
    assert!(all.iter().any(is_it), "{check} is not {outcome} with {said:?} in {report:#}");
}

fn world() -> World {
    let world = World::new();
    fs::create_dir_all(world.path("root/srv/other")).unwrap();
    set_mode(&world.database("app.db", 50), 0o640);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/ssh_host_key\"]\n",
    );
    fs::write(world.path("data/ssh_host_key"), "key").unwrap();
    set_mode(&world.path("data/ssh_host_key"), 0o600);
    world
}

#[test]
fn names_keys_and_databases_without_a_source_are_told() {
    let world = world();
    let report = doctor(&world);
    for check in ["file system", "hard links", "leftovers", "file rights", "room to restore"] {
        expect(&report, check, "good", "");
    }
    expect(&report, "unprotected", "good", "no database without a source");
    fs::hard_link(world.path("data/app.db"), world.path("data/second-name.db")).unwrap();
    set_mode(&world.path("data/ssh_host_key"), 0o644);
    set_mode(&world.path("data/app.db"), 0o644);
    make_database(&world.path("root/srv/other/other.db"), 5);
    let report = doctor(&world);
    expect(&report, "hard links", "warning", "has 2 names");
    expect(&report, "file rights", "warning", "chmod 600");
    expect(&report, "file rights", "warning", "everybody on this host can read");
    expect(&report, "unprotected", "warning", "lifeboat backup /srv/other/other.db");
}

#[test]
fn what_lies_beside_a_database_is_told() {
    let world = world();
    let path = world.path("data/app.db");
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 51, 10);
    // An application that did not end cleanly: nobody has it open, and its -wal is there.
    for ending in ["", "-wal"] {
        let name = format!("data/app.db{ending}");
        fs::copy(world.path(&name), world.path(&format!("{name}.kept"))).unwrap();
    }
    connection.close().unwrap();
    for ending in ["", "-wal"] {
        let name = format!("data/app.db{ending}");
        fs::rename(world.path(&format!("{name}.kept")), world.path(&name)).unwrap();
    }
    expect(&doctor(&world), "leftovers", "warning", "did not end cleanly");
    fs::write(world.path("data/.app.db.lifeboat-staging"), "half").unwrap();
    expect(&doctor(&world), "leftovers", "warning", "a restore that was killed left");
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    journal.resize(600, 0);
    fs::write(world.path("data/app.db-journal"), journal).unwrap();
    expect(&doctor(&world), "leftovers", "warning", "never remove or move it");
    fs::remove_file(&path).unwrap();
    expect(&doctor(&world), "leftovers", "warning", "lifeboat rescue app");
}

#[test]
fn the_sqlite_of_an_application_is_told_by_the_day_of_its_source() {
    let world = world();
    let holder = Holder::of(&world.path("data/app.db"));
    let report = doctor(&world);
    let all = report["checks"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["check"] == "SQLite version");
    let found = found.unwrap_or_else(|| panic!("{report:#}"));
    let message = found["message"].as_str().unwrap();
    assert!(message.contains(&format!("({}) uses SQLite of 20", holder.id())), "{message}");
    // Debian's of this release has the fault; a later one does not.
    let sources = std::process::Command::new("sqlite3").arg("--version").output().unwrap();
    let day = String::from_utf8_lossy(&sources.stdout).split(' ').nth(1).unwrap().to_owned();
    assert!(message.contains(&day), "{day}: {message}");
    let expected = if day.as_str() < "2026-03-03" { "warning" } else { "good" };
    assert_eq!(found["outcome"], expected);
}
