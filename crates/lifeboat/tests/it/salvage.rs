//! `lifeboat salvage` as a person at night meets it: its exit codes, its words, its JSON.

use std::fs;

use rusqlite::Connection;

use crate::support::World;

/// A database with some thousand rows, closed.
fn closed(world: &World) -> String {
    let path = world.database("chat.db", 5_000);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE")
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_sound_database_comes_back_whole() {
    let world = World::new();
    let path = closed(&world);
    let ran = world.run(&["salvage", &path, "--to", "new.db"]).expect(0);
    assert!(ran.out.contains("nothing is damaged"), "{ran:?}");
    assert_eq!(fs::read(world.path("data/new.db")).unwrap(), fs::read(&path).unwrap());
    world.run(&["salvage", &path, "--to", "new.db"]).expect(23).says("is there already");
}

#[test]
fn a_damaged_database_says_what_is_lost_and_why() {
    let world = World::new();
    let path = closed(&world);
    let bytes = fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    let half = damaged.len() / 2 / 4096 * 4096;
    damaged[half..half + 4 * 4096].fill(0);
    fs::write(&path, &damaged).unwrap();
    let ran = world.run(&["salvage", &path, "--to", "new.db", "--dry-run"]).expect(3);
    assert!(ran.out.contains("lost"), "{ran:?}");
    assert!(!world.path("data/new.db").exists());
    let ran = world.run(&["salvage", &path, "--to", "new.db", "--json"]).expect(3);
    let result = ran.json();
    assert_eq!((&result["outcome"], &result["whole"]), (&"salvaged".into(), &false.into()));
    assert!(result["rows"]["certain"].as_u64().unwrap() > 1_000, "{result:#}");
    let connection = Connection::open(world.path("data/new.db")).unwrap();
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let sql = "SELECT count(*) FROM _lifeboat_salvage WHERE mark = 'certain'";
    let tables: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(tables > 0);
    assert_eq!(fs::read(&path).unwrap(), damaged, "the damaged file stays as it is");
}

/// Silent failure T06: `.recover` fails, and the pipe behind it leaves an empty database that is
/// "ok".
#[test]
fn where_nothing_can_be_read_there_is_no_new_database() {
    let world = World::new();
    for (name, content) in [("empty.db", vec![]), ("zeros.db", vec![0; 65536])] {
        let path = world.path("data").join(name);
        fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        world.run(&["salvage", path, "--to", "new.db"]).expect(20).says("lifeboat list");
        assert!(!world.path("data/new.db").exists());
        assert_eq!(world.names("data"), [name], "nothing is left behind");
        fs::remove_file(path).unwrap();
    }
    world.run(&["salvage", "absent.db", "--to", "new.db"]).expect(15).says("absent.db");
    world.run(&["salvage", ".", "--to", "new.db"]).expect(2).says("is no file");
}
