//! Failures that other tools were seen to pass over in silence, each made to happen here. The
//! numbers are those of the project's checklist; those of the snapshot are tested where it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use rusqlite::Connection;

use crate::support::{
    World, add_rows, content, damage, is_root, make_database, mode, ran, rows, set_mode,
};

/// A wrong path: an empty database was created, backed up as successful, and pushed the good
/// backups out.
#[test]
fn t01_a_wrong_path_is_an_error_and_makes_nothing() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let before = (world.names("data"), world.names("repo"), world.names("repo/app"));
    world.repo(&["backup", "ap.db"]).expect(15);
    world.repo(&["backup", "gone/app.db"]).expect(15);
    assert_eq!((world.names("data"), world.names("repo"), world.names("repo/app")), before);
}

/// A restored file beside a stale `-wal`: it was replayed over the restored pages.
#[test]
fn t07_no_stale_side_file_is_left_beside_a_restored_database() {
    let world = World::new();
    let path = world.database("app.db", 300);
    world.repo(&["backup", "app.db"]).expect(0);
    let expected = content(&path);
    // Both kinds of side files, as unclean stops leave them.
    for (suffix, rewrite) in [
        ("-wal", "PRAGMA wal_autocheckpoint=0;"),
        ("-journal", "PRAGMA journal_mode=DELETE; PRAGMA cache_size=1;"),
    ] {
        let copy = world.path("tmp/work.db");
        fs::copy(&path, &copy).unwrap();
        let connection = Connection::open(&copy).unwrap();
        connection.execute_batch(rewrite).unwrap();
        let overwrite = "BEGIN IMMEDIATE;
             UPDATE message SET body = 'overwritten ' || id || hex(randomblob(300));";
        connection.execute_batch(overwrite).unwrap();
        if suffix == "-wal" {
            connection.execute_batch("COMMIT").unwrap();
        }
        let side = |path: &std::path::Path| {
            path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().to_str().unwrap()))
        };
        let bytes = fs::read(side(&copy)).unwrap();
        assert!(!bytes.is_empty(), "{suffix}");
        drop(connection);
        fs::write(side(&path), bytes).unwrap();
        world.repo(&["restore", "app", "--yes"]).expect(0);
        assert!(!side(&path).exists(), "{suffix} is left");
        assert_eq!(content(&path), expected, "{suffix}");
    }
}

/// The copy before a restore failed and the restore went on; it lay readable in a shared folder.
#[test]
fn t14_a_restore_stops_when_the_old_database_cannot_be_kept() {
    let world = World::new();
    // Room for the name under which it is staged, none for the one under which it is kept.
    let name = format!("{}.db", "n".repeat(227));
    let path = world.path("data").join(&name);
    make_database(&path, 20);
    world.repo(&["backup", path.to_str().unwrap()]).expect(0);
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 1000, 5);
    connection.close().unwrap();
    let ran = world.repo(&["restore", path.to_str().unwrap(), "--yes"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("keep"), "{}", ran.err);
    assert_eq!(rows(&path), 25, "what was there is still there");
}

#[test]
fn t14_what_is_kept_aside_stays_as_private_as_it_was() {
    let world = World::new();
    let path = world.database("app.db", 20);
    set_mode(&path, 0o600);
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&["restore", "app", "--yes"]).expect(0);
    for name in world.names("data") {
        assert_eq!(mode(&world.path("data").join(&name)), 0o600, "{name}");
    }
    assert_eq!(world.names("tmp").len(), 0, "no copy elsewhere");
}

/// A restored file was readable by everyone until the last step.
#[test]
fn t14_what_is_staged_is_private_from_its_first_byte() {
    let world = World::new();
    let path = world.database("app.db", 20);
    set_mode(&path, 0o644);
    world.repo(&["backup", "app.db"]).expect(0);
    for point in ["restore.staging", "restore.staged"] {
        let mut command = world.repo_command(&["restore", "app", "--yes"]);
        let output = command.env("LIFEBOAT_CRASH_AT", point).output().unwrap();
        assert_eq!(ran(output).code, 137, "{point}");
        let names = world.names("data");
        let staged = names.iter().find(|name| name.contains("staging"));
        if let Some(staged) = staged {
            assert_eq!(mode(&world.path("data").join(staged)), 0o600, "{point}");
        } else {
            assert_eq!(point, "restore.staging", "nothing is staged yet");
        }
    }
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(mode(&path), 0o644);
}

/// The copy before a restore lacked the rows of the `-wal`.
#[test]
fn t15_what_is_kept_aside_has_the_rows_of_its_wal() {
    let world = World::new();
    let path = world.database("app.db", 20);
    world.repo(&["backup", "app.db"]).expect(0);
    // The rows are in a `-wal` that no process has open any more.
    let work = world.path("tmp/work.db");
    fs::copy(&path, &work).unwrap();
    let connection = Connection::open(&work).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0;").unwrap();
    add_rows(&connection, 1000, 5);
    fs::copy(&work, &path).unwrap();
    fs::copy(world.path("tmp/work.db-wal"), world.path("data/app.db-wal")).unwrap();
    drop(connection);
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 20);
    let names = world.names("data");
    let kept = names
        .iter()
        .find(|name| {
            name.contains("before_restore") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .unwrap();
    assert_eq!(rows(&world.path("data").join(kept)), 25);
}

/// "Integrity check passed" was printed for every damaged database.
#[test]
fn t16_a_damaged_database_never_passes_its_check() {
    let world = World::new();
    let path = world.database("app.db", 3000);
    damage(&path);
    for check in ["quick", "full"] {
        world.repo(&["backup", "app.db", "--check", check]).expect(20);
    }
    world.repo(&["backup", "app.db", "--check", "none"]).expect(0);
    // Its bytes are what was stored; the database in them is not sound.
    world.repo(&["verify"]).expect(0);
    for level in ["quick", "full"] {
        world.repo(&["verify", "--level", level]).expect(20);
        world.repo(&["restore", "app", "--to", "back.db", "--check", level]).expect(20);
        assert!(!world.path("data/back.db").exists());
    }
}

/// An index that lacks a row is damage that only a full check finds.
#[test]
fn t16_an_index_that_lacks_rows_fails_the_full_check() {
    let world = World::new();
    let path = world.database("app.db", 300);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX message_body ON message(body) WHERE id < 0'
             WHERE name = 'message_body';",
        )
        .unwrap();
    connection.close().unwrap();
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 1000, 5);
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX message_body ON message(body)'
             WHERE name = 'message_body';",
        )
        .unwrap();
    connection.close().unwrap();
    world.repo(&["backup", "app.db", "--check", "full"]).expect(20).says("message_body");
}

/// A restore turned 0600 of a user into 0644 of root.
#[test]
fn t23_mode_and_owner_are_kept() {
    let world = World::new();
    let path = world.database("app.db", 20);
    set_mode(&path, 0o600);
    if is_root() {
        chown(&path, Some(1234), Some(2345)).unwrap();
    }
    let owner =
        |path| fs::metadata(path).map(|now| (now.mode() & 0o7777, now.uid(), now.gid())).unwrap();
    let before = owner(&path);
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(owner(&path), before, "in place");
    fs::remove_file(&path).unwrap();
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(owner(&path), before, "of a lost one");
    world.repo(&["restore", "app", "--to", "elsewhere.db"]).expect(0);
    assert_eq!(owner(&world.path("data/elsewhere.db")).0 & 0o077, 0, "elsewhere");
}

/// The file was in its final place before it was checked.
#[test]
fn t24_nothing_is_in_its_place_before_it_was_checked() {
    for point in ["restore.staging", "restore.staged", "restore.verified"] {
        let world = World::new();
        world.database("app.db", 300);
        world.repo(&["backup", "app.db"]).expect(0);
        let mut command = world.repo_command(&["restore", "app", "--to", "there.db"]);
        let output = command.env("LIFEBOAT_CRASH_AT", point).output().unwrap();
        assert_eq!(ran(output).code, 137, "{point}");
        assert!(!world.path("data/there.db").exists(), "{point}");
        assert!(world.names("data").iter().all(|name| !name.starts_with("there")), "{point}");
    }
}

/// `.dump` lost user_version, application_id, WAL mode and rowids.
#[test]
fn t26_a_restored_database_is_the_same_to_the_last_property() {
    let world = World::new();
    let path = world.database("app.db", 20);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE bare(a TEXT); INSERT INTO bare(rowid, a) VALUES(7, 'x'), (1000, 'y');
             PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .unwrap();
    connection.close().unwrap();
    let image = fs::read(&path).unwrap();
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(fs::read(world.path("data/back.db")).unwrap(), image, "byte for byte");
    let back = Connection::open(world.path("data/back.db")).unwrap();
    let text =
        |sql: &str| back.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    assert_eq!(text("PRAGMA user_version"), 42.into());
    assert_eq!(text("PRAGMA application_id"), 7.into());
    assert_eq!(text("PRAGMA journal_mode"), "wal".to_owned().into());
    assert_eq!(text("SELECT max(rowid) FROM bare"), 1000.into());
}

/// A main file copied without its `-wal`: rows missing, integrity "ok".
#[test]
fn t28_a_plain_file_beside_its_wal_is_not_taken_for_a_backup() {
    let world = World::new();
    let work = world.database("work.db", 20);
    let connection = Connection::open(&work).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0;").unwrap();
    add_rows(&connection, 1000, 5);
    for suffix in ["", "-wal"] {
        let name = |base: &str| world.path("data").join(format!("{base}{suffix}"));
        fs::copy(name("work.db"), name("copy.db")).unwrap();
    }
    drop(connection);
    world.repo(&["restore", "copy.db", "--to", "back.db"]).expect(23).says("copy.db-wal");
    assert!(!world.path("data/back.db").exists());
    world.repo(&["backup", "copy.db"]).expect(0);
    world.repo(&["restore", "copy.db", "--to", "back.db"]).expect(0);
    assert_eq!(rows(&world.path("data/back.db")), 25);
}

/// A server copied the main file of its database alone before a migration: 17,000 of 20,000 rows,
/// those of the `-wal` were missing, and the copy passed for a backup.
#[test]
fn t11_a_migration_backup_has_the_rows_of_the_log() {
    let world = World::new();
    // A server that was killed: its last 3,000 rows are in the log alone.
    let live = world.path("tmp/app.db");
    make_database(&live, 17_000);
    let connection = Connection::open(&live).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    add_rows(&connection, 17_001, 3_000);
    let path = world.path("data/app.db");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", live.display());
        fs::copy(from, format!("{}{suffix}", path.display())).unwrap();
    }
    let alone = world.path("tmp/alone.db");
    fs::copy(&path, &alone).unwrap();
    assert_eq!(rows(&alone), 17_000, "a copy of the main file alone lacks them");
    let repo = world.text("repo");
    world.run(&["--repo", &repo, "guard", "app.db", "--place", "both", "--", "true"]).expect(0);
    let is_copy = |name: &String| name.contains(".backup-v42-");
    let name = world.names("data").into_iter().find(is_copy).unwrap();
    assert_eq!(rows(&world.path("data").join(name)), 20_000);
    world.repo(&["restore", "app", "--to", "restored.db"]).expect(0);
    assert_eq!(rows(&world.path("data/restored.db")), 20_000);
}
