//! `lifeboat rescue`: what can be had of a database that is lost or damaged, and that it is had.

use std::fs;
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, add_rows, content, damage, rows};

/// A configured database of 3,000 rows with one backup, and 200 rows that came after it.
fn world() -> World {
    let world = World::new();
    world.database("chat.db", 3_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    world.run(&["backup", "chat"]).expect(0);
    let connection = Connection::open(world.path("data/chat.db")).unwrap();
    add_rows(&connection, 3_001, 200);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    connection.close().unwrap();
    world
}

fn ways(looked: &Value) -> Vec<&str> {
    let offers = looked["offers"].as_array().unwrap().iter();
    offers.map(|offer| offer["way"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_database_stays_and_nothing_is_written() {
    let world = world();
    let before = (world.names("data"), fs::read(world.path("data/chat.db")).unwrap());
    let looked = world.run(&["rescue", "--json"]).expect(0).json();
    assert_eq!(ways(&looked), ["leave", "backup"], "{looked:#}");
    assert_eq!(looked["offers"][0]["rows"], 3_202);
    assert_eq!(looked["offers"][1]["rows"], 3_002);
    let again = world.run(&["rescue", "--take", "1", "--yes"]).expect(0);
    assert!(again.err.contains("nothing was changed"), "{again:?}");
    assert_eq!(before.0, world.names("data"));
    assert!(before.1 == fs::read(world.path("data/chat.db")).unwrap());
}

#[test]
fn a_damaged_database_comes_back_from_its_backup_and_what_was_there_is_kept() {
    let world = world();
    let path = world.path("data/chat.db");
    damage(&path);
    let damaged = fs::read(&path).unwrap();
    let ran = world.run(&["rescue"]).expect(20).says("lifeboat rescue chat --take 1 --yes");
    assert!(ran.out.contains("<- recommended") && ran.out.contains("salvage"), "{ran:?}");
    let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
    assert_eq!(ways(&looked), ["backup", "salvage", "fresh"], "{looked:#}");
    assert!(fs::read(&path).unwrap() == damaged, "looking changes nothing");
    // Without a terminal and without --yes nothing is done.
    world.run(&["rescue", "chat", "--take", "1"]).expect(24);
    world.run(&["rescue", "chat", "--take", "9", "--yes"]).expect(2).says("1 to 3");
    world.run(&["rescue", "chat", "--take", "1", "--yes"]).expect(0).says("before_restore");
    assert_eq!(rows(&path), 3_000);
    // What was damaged is kept, and now it is what a restore kept.
    let looked = world.run(&["rescue", "chat", "--json"]).expect(0).json();
    assert_eq!(looked["unsound"].as_array().unwrap().len(), 1, "{looked:#}");
    world.run(&["undo", "chat", "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == damaged);
}

#[test]
fn a_salvage_takes_the_lost_rows_from_the_backup_and_keeps_the_young_ones() {
    let world = world();
    let path = world.path("data/chat.db");
    let whole = content(&path);
    damage(&path);
    let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
    let number = looked["offers"][1]["number"].to_string();
    world.run(&["rescue", "chat", "--take", &number, "--yes"]).expect(0).says("_lifeboat_salvage");
    let salvaged = content(&path);
    let lost: Vec<u32> =
        whole.iter().filter(|row| !salvaged.contains(row)).map(|row| row.0).collect();
    assert!(lost.is_empty(), "the rows of the lost page are the backup's: {lost:?}");
    assert!(!world.names("data").iter().any(|name| name.contains(".salvaged-")));
}

#[test]
fn a_database_that_was_deleted_comes_back_with_the_wal_that_is_still_there() {
    let world = World::new();
    let path = world.database("chat.db", 3_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    world.run(&["backup", "chat"]).expect(0);
    let whole = {
        let connection = Connection::open(&path).unwrap();
        add_rows(&connection, 3_001, 200);
        fs::copy(world.path("data/chat.db-wal"), world.path("tmp/wal")).unwrap();
        connection.close().unwrap();
        content(&path)
    };
    fs::remove_file(&path).unwrap();
    fs::rename(world.path("tmp/wal"), world.path("data/chat.db-wal")).unwrap();
    let looked = world.run(&["rescue", "--json"]).expect(20).json();
    assert!(ways(&looked).starts_with(&["wal"]), "it loses nothing: {looked:#}");
    world.run(&["rescue", "--take", "1", "--yes"]).expect(0);
    assert!(content(&path) == whole);
    // A -wal of another database is refused, and the backup is what is left.
    fs::remove_file(&path).unwrap();
    let other = world.database("other.db", 4_000);
    let connection = Connection::open(&other).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    add_rows(&connection, 4_001, 50);
    fs::copy(world.path("data/other.db-wal"), world.path("data/chat.db-wal")).unwrap();
    world.run(&["rescue", "chat", "--take", "1", "--yes"]).expect(22);
    assert!(!path.exists(), "nothing was put in place");
    assert!(!world.names("data").iter().any(|name| name.contains(".rescue-")));
    let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
    let backup = ways(&looked).iter().position(|way| *way == "backup").unwrap() + 1;
    world.run(&["rescue", "chat", "--take", &backup.to_string(), "--yes"]).expect(0);
    assert_eq!(rows(&path), 3_000);
}

#[test]
fn a_foreign_wal_loses_nothing() {
    let world = world();
    let path = world.path("data/chat.db");
    let whole = content(&path);
    let other = world.database("other.db", 4_000);
    let connection = Connection::open(&other).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    add_rows(&connection, 4_001, 50);
    fs::copy(world.path("data/other.db-wal"), world.path("data/chat.db-wal")).unwrap();
    let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
    assert_eq!(ways(&looked)[0], "salvage", "{looked:#}");
    world.run(&["rescue", "chat", "--take", "1", "--yes"]).expect(0);
    assert!(content(&path) == whole);
}

#[test]
fn copies_of_scripts_and_of_migrations_are_found_where_no_repository_is() {
    let world = World::new();
    let path = world.database("chat.db", 500);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    connection.close().unwrap();
    fs::copy(&path, world.path("data/chat.db.backup-v8-20260105-120000")).unwrap();
    fs::create_dir(world.path("old")).unwrap();
    fs::copy(&path, world.path("old/chat-20260106-120000.db")).unwrap();
    let gzip = Command::new("gzip").arg(world.path("old/chat-20260106-120000.db")).status();
    assert!(gzip.unwrap().success());
    fs::write(world.path("old/chat-20260107-120000.db.gz"), "cut short").unwrap();
    fs::remove_file(&path).unwrap();
    let (place, old) = (world.text("data/chat.db"), world.text("old"));
    let looked = world.run(&["rescue", &place, "--look-in", &old, "--json"]).expect(20).json();
    assert_eq!(ways(&looked), ["backup", "migration"], "{looked:#}");
    assert_eq!(looked["unsound"].as_array().unwrap().len(), 1, "{looked:#}");
    let take = ["rescue", &place, "--look-in", &old, "--take", "2", "--yes"];
    world.run(&take).expect(0);
    assert_eq!(rows(&path), 500);
    fs::remove_file(&path).unwrap();
    world.run(&["rescue", &place, "--look-in", &old, "--take", "1", "--yes"]).expect(0);
    assert_eq!(rows(&path), 500);
}

#[test]
fn a_fresh_database_is_the_last_of_the_list_and_can_be_undone() {
    let world = World::new();
    let path = world.path("data/chat.db");
    let zeros = vec![0; 65_536];
    fs::write(&path, &zeros).unwrap();
    let place = world.text("data/chat.db");
    let looked = world.run(&["rescue", &place, "--json"]).expect(20).json();
    assert_eq!(ways(&looked), ["fresh"], "{looked:#}");
    world.run(&["rescue", &place, "--take", "1", "--yes"]).expect(0).says("lifeboat undo");
    assert!(!path.exists());
    world.run(&["undo", &place, "--yes"]).expect(0);
    assert!(fs::read(&path).unwrap() == zeros);
    world.run(&["rescue", "nowhere"]).expect(15);
    world.run(&["rescue"]).expect(2).says("no database is configured");
}

#[test]
fn a_transaction_that_was_cut_off_is_nothing_to_rescue() {
    let world = World::new();
    let path = world.path("data/chat.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE message(id INTEGER PRIMARY KEY, person INTEGER, body TEXT);
             PRAGMA cache_size = 5; PRAGMA cache_spill = 1;",
        )
        .unwrap();
    add_rows(&connection, 1, 2_000);
    connection.execute_batch("BEGIN; UPDATE message SET body = body || 'x';").unwrap();
    // As a power cut leaves it: the file half written, the journal beside it.
    for ending in ["", "-journal"] {
        fs::copy(
            world.path(&format!("data/chat.db{ending}")),
            world.path(&format!("data/cut.db{ending}")),
        )
        .unwrap();
    }
    let looked = world.run(&["rescue", &world.text("data/cut.db"), "--json"]).expect(0).json();
    assert_eq!(ways(&looked)[0], "leave", "{looked:#}");
    assert_eq!(looked["offers"][0]["rows"], 2_000);
}
