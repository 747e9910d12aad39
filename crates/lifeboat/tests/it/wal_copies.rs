//! A script's copy of a database with its hourly copies of the `-wal`: laid over it where they
//! belong to it, refused where not, with what can be had instead.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::{World, add_rows, rows};

/// What the script made: the database copied at the beginning and in the middle, and four copies of
/// the `-wal`, with one new beginning between the second and the third.
struct Copies {
    world: World,
    folder: PathBuf,
}

fn writer(path: &Path) -> Connection {
    let writer = Connection::open(path).unwrap();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    writer
}

impl Copies {
    fn new() -> Copies {
        let world = World::new();
        let folder = world.path("data/backups");
        fs::create_dir(&folder).unwrap();
        let live = world.database("app.db", 2_000);
        let copies = Copies { world, folder };
        let writer = writer(&live);
        let checkpoint = |kind: &str| {
            let sql = format!("PRAGMA wal_checkpoint({kind})");
            writer.query_row(&sql, [], |_| Ok(())).unwrap();
        };
        // The -wal of a database that runs for a while was begun anew before.
        add_rows(&writer, 2_001, 10);
        checkpoint("RESTART");
        copies.keep("app.db", "base.db");
        add_rows(&writer, 2_011, 190);
        copies.keep("app.db-wal", "app-0100.db-wal");
        add_rows(&writer, 2_201, 200);
        copies.keep("app.db-wal", "app-0200.db-wal");
        add_rows(&writer, 2_401, 100);
        checkpoint("RESTART");
        copies.keep("app.db", "app-at-0300.db");
        add_rows(&writer, 2_501, 30);
        copies.keep("app.db-wal", "app-0300.db-wal");
        add_rows(&writer, 2_531, 200);
        copies.keep("app.db-wal", "app-0400.db-wal");
        copies
    }

    fn keep(&self, from: &str, to: &str) {
        fs::copy(self.world.path("data").join(from), self.folder.join(to)).unwrap();
    }

    fn restore(&self, base: &str, wal: &str) -> crate::support::Ran {
        let (base, wal) = (self.folder.join(base), self.folder.join(wal));
        let (base, wal) = (base.to_str().unwrap(), wal.to_str().unwrap());
        self.world.run(&["restore", base, "--wal", wal, "--to", "back.db", "--yes"])
    }

    fn rows(&self, base: &str, wal: &str) -> u32 {
        self.restore(base, wal).expect(0);
        let rows = rows(&self.world.path("data/back.db"));
        fs::remove_file(self.world.path("data/back.db")).unwrap();
        rows
    }
}

#[test]
fn copies_of_one_wal_are_laid_over_the_database_they_belong_to() {
    let copies = Copies::new();
    assert_eq!(copies.rows("base.db", "app-0100.db-wal"), 2_200);
    assert_eq!(copies.rows("base.db", "app-0200.db-wal"), 2_400);
    assert_eq!(copies.rows("app-at-0300.db", "app-0300.db-wal"), 2_530);
    assert_eq!(copies.rows("app-at-0300.db", "app-0400.db-wal"), 2_730);
    let base = copies.folder.join("base.db");
    let plan = copies.world.run(&[
        "restore",
        base.to_str().unwrap(),
        "--wal",
        copies.folder.join("app-0100.db-wal").to_str().unwrap(),
        "--to",
        "back.db",
        "--dry-run",
    ]);
    assert!(plan.expect(0).out.contains("lay "));
    assert!(!copies.world.path("data/back.db").exists());
}

#[test]
fn t08_a_wal_that_was_begun_anew_is_refused_and_the_others_are_named() {
    let copies = Copies::new();
    for wal in ["app-0300.db-wal", "app-0400.db-wal"] {
        let refused = copies.restore("base.db", wal).expect(22);
        refused.says("does not belong").says("app-0100.db-wal").says("app-0200.db-wal");
        assert!(!copies.world.path("data/back.db").exists());
    }
    let refused = copies.restore("app-at-0300.db", "app-0100.db-wal");
    assert_eq!(refused.code, 22, "an older -wal over a newer database: {}", refused.err);
    let alone = copies.folder.join("base.db");
    let none = copies.world.run(&["restore", "nothing.db", "--wal", alone.to_str().unwrap()]);
    none.expect(2);
    copies.restore("base.db", "base.db").expect(20).says("is no -wal");
    copies
        .restore("base.db", "none.db-wal")
        .expect(15)
        .says("name the copy of the -wal with --wal");
    fs::create_dir(copies.folder.join("folder.db-wal")).unwrap();
    copies.restore("base.db", "folder.db-wal").expect(15).says("folder.db-wal is no file");
}

#[test]
fn a_wal_that_only_changes_rows_is_refused_by_the_copies_beside_it() {
    refused_by_the_copies_beside_it(false);
}

/// A connection counts its own checkpoints, and writes that into the head of the `-wal`.
#[test]
fn also_where_another_connection_of_a_pool_began_it_anew() {
    refused_by_the_copies_beside_it(true);
}

fn refused_by_the_copies_beside_it(of_a_pool: bool) {
    let world = World::new();
    let folder = world.path("data/backups");
    fs::create_dir(&folder).unwrap();
    let live = world.database("app.db", 2_000);
    let writer = writer(&live);
    let copy = |from: &str, to: &str| {
        fs::copy(world.path("data").join(from), folder.join(to)).unwrap();
    };
    let update = |writer: &Connection, from: u32| {
        // Of the same length: nothing grows, no index changes.
        let sql = "UPDATE person SET name = upper(name) WHERE id = ?1";
        writer.execute(sql, [from]).unwrap();
        let sql = "UPDATE message SET person = 3 - person WHERE id BETWEEN ?1 AND ?1 + 90";
        writer.execute(sql, [from * 500]).unwrap();
    };
    let begin_anew = |writer: &Connection| {
        writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    };
    update(&writer, 1);
    begin_anew(&writer);
    copy("app.db", "base.db");
    update(&writer, 2);
    copy("app.db-wal", "one.db-wal");
    let other = of_a_pool.then(|| self::writer(&live));
    let other = other.as_ref().unwrap_or(&writer);
    begin_anew(other);
    update(other, 3);
    copy("app.db-wal", "two.db-wal");
    let copies = Copies { world, folder };
    copies.restore("base.db", "one.db-wal").expect(0);
    let refused = copies.restore("base.db", "two.db-wal").expect(22);
    refused.says("earlier -wal").says("one.db-wal");
}

#[test]
fn a_damaged_copy_is_no_older_state() {
    let copies = Copies::new();
    let path = copies.folder.join("app-0200.db-wal");
    let mut bytes = fs::read(&path).unwrap();
    // In the second of two transactions that take about as much room.
    let place = bytes.len() / 4 * 3;
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    copies.restore("base.db", "app-0200.db-wal").expect(20).says("is damaged");
    // Cut in the middle of a frame, as a copy under way is: what was committed before counts.
    bytes[place] ^= 1;
    fs::write(&path, &bytes[..bytes.len() - 2_000]).unwrap();
    assert!(copies.rows("base.db", "app-0200.db-wal") >= 2_010);
}
