//! Killed at every named point: what is listed verifies and restores, and nothing half is left in
//! the way of the next run.

use std::fs;
use std::path::Path;

use lifeboat_core::env::CRASH_POINTS;
use rusqlite::Connection;

use crate::support::{World, add_rows, content, ran, rows};

fn killed_at(world: &World, arguments: &[&str], point: &str) {
    let output = world.repo_command(arguments).env("LIFEBOAT_CRASH_AT", point).output().unwrap();
    let ended = ran(output);
    assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
}

fn points(prefix: &str) -> Vec<&'static str> {
    let points: Vec<&str> =
        CRASH_POINTS.iter().copied().filter(|point| point.starts_with(prefix)).collect();
    assert!(!points.is_empty());
    points
}

#[test]
fn every_point_belongs_to_a_run_that_is_tested_here() {
    // Those of a prune are tried in `prune.rs`, those of an increment in `increments.rs`, those of
    // a server's log in `wal.rs`, those of a cluster's restore in `cluster_restore.rs`, those of a
    // copy in `copy.rs`, of a standby in `standby.rs`, of thinning a log in `thinning.rs`, of
    // packing one in the simulation, of a drill in `drill.rs`, of a migration in that crate's
    // `resume.rs`.
    let ours = ["adopt.", "backup.", "restore.", "undo."];
    let elsewhere = [
        "increment.",
        "prune.",
        "log.",
        "wal.",
        "recovery.",
        "copy.",
        "standby.",
        "merge.",
        "pack.",
        "drill.",
        "migrate.",
    ];
    let known = [&ours[..], &elsewhere].concat();
    for point in CRASH_POINTS {
        assert!(known.iter().any(|prefix| point.starts_with(prefix)), "{point}");
    }
}

#[test]
fn killed_in_a_backup() {
    for point in points("backup.") {
        for before in [0, 1] {
            let world = World::new();
            let path = world.database("app.db", 500);
            for _ in 0..before {
                world.repo(&["backup", "app.db"]).expect(0);
            }
            let expected = content(&path);
            killed_at(&world, &["backup", "app.db"], point);
            // The manifest makes the backup: after it, one more is there, before it, none.
            let more = usize::from(point == "backup.after_manifest");
            let listed = match world.path("repo/lifeboat.json").exists() {
                true => world.repo(&["list", "--json"]).expect(0).json().as_array().unwrap().len(),
                false => 0,
            };
            assert_eq!(listed, before + more, "{point}");
            if listed > 0 {
                world.repo(&["verify", "--level", "full"]).expect(0);
                world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
                assert_eq!(content(&world.path("data/back.db")), expected, "{point}");
            }
            // The next run is not hindered by what was left.
            world.repo(&["backup", "app.db"]).expect(0);
            let after = world.repo(&["list", "--json"]).expect(0).json();
            assert_eq!(after.as_array().unwrap().len(), listed + 1, "{point}");
            world.repo(&["verify", "--level", "full"]).expect(0);
        }
    }
}

/// The old database with its rows in the `-wal`, and a backup of fewer rows.
fn before_restore() -> (World, std::path::PathBuf) {
    let world = World::new();
    let path = world.database("app.db", 500);
    world.repo(&["backup", "app.db"]).expect(0);
    // Rows that are only in the `-wal`, as an application leaves them that was killed.
    let line = "PRAGMA wal_autocheckpoint=0; \
                INSERT INTO message SELECT id + 10000, person, body FROM message WHERE id <= 50;\n\
                .system kill -9 $PPID\n";
    let mut child = std::process::Command::new("sqlite3")
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    child.wait().unwrap();
    assert!(fs::metadata(path.with_extension("db-wal")).unwrap().len() > 0);
    (world, path)
}

/// Rows of whatever is at the place or kept aside, without changing it.
fn rows_of_copy(world: &World, path: &Path) -> u32 {
    let copy = world.path("tmp/copy.db");
    for suffix in ["", "-wal", "-shm"] {
        let side = |path: &Path| {
            let mut name = path.to_owned().into_os_string();
            name.push(suffix);
            std::path::PathBuf::from(name)
        };
        let _ = fs::remove_file(side(&copy));
        if side(path).exists() {
            fs::copy(side(path), side(&copy)).unwrap();
        }
    }
    rows(&copy)
}

/// The newest database kept aside.
fn kept(world: &World, label: &str) -> Option<std::path::PathBuf> {
    let names = world.names("data");
    let kept = names
        .iter()
        .rfind(|name| name.contains(label) && !name.ends_with("-wal") && !name.ends_with("-shm"));
    kept.map(|name| world.path("data").join(name))
}

#[test]
fn killed_in_a_restore() {
    for point in points("restore.") {
        let (world, path) = before_restore();
        killed_at(&world, &["restore", "app", "--yes"], point);
        // At the place is the old database whole, the new one whole, or nothing; the old one is
        // somewhere, with the rows of its `-wal`.
        let old = match path.exists() {
            true => match rows_of_copy(&world, &path) {
                550 => true,
                500 => false,
                other => panic!("{point}: {other} rows at the place"),
            },
            false => false,
        };
        if !old {
            let kept = kept(&world, ".before_restore.").expect("the old database is kept");
            assert_eq!(rows_of_copy(&world, &kept), 550, "{point}");
        }
        world.repo(&["list"]).expect(0);
        world.repo(&["verify"]).expect(0);
        world.repo(&["restore", "app", "--yes"]).expect(0);
        assert_eq!(rows(&path), 500, "{point}");
        assert!(!world.names("data").iter().any(|name| name.contains("staging")), "{point}");
    }
}

#[test]
fn killed_in_an_undo() {
    for point in points("undo.") {
        let (world, path) = before_restore();
        world.repo(&["restore", "app", "--yes"]).expect(0);
        killed_at(&world, &["undo", "app", "--yes"], point);
        let found = [Some(path.clone()), kept(&world, ".before_restore.")];
        let whole = found
            .into_iter()
            .flatten()
            .filter(|path| path.exists())
            .any(|path| rows_of_copy(&world, &path) == 550);
        assert!(whole, "{point}: the database before the restore is lost");
        // A second undo, or a restore after it, ends in a defined state.
        world.repo(&["restore", "app", "--yes"]).expect(0);
        assert_eq!(rows(&path), 500, "{point}");
    }
}

#[test]
fn killed_at_random_moments() {
    // 200 of them in the long run, which a variable asks for.
    let count = match std::env::var("LIFEBOAT_LONG").is_ok() {
        true => 200,
        false => 12,
    };
    let world = World::new();
    let path = world.database("app.db", 20_000);
    world.repo(&["backup", "app.db"]).expect(0);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..count {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after_ms = (seed >> 33) % 400;
        let connection = Connection::open(&path).unwrap();
        add_rows(&connection, 1_000_000 + round * 10, 10);
        connection.close().unwrap();
        let restores = seed >> 63 == 1;
        let arguments: &[&str] = match restores {
            true => &["restore", "app", "--to", "there.db", "--yes"],
            false => &["backup", "app.db"],
        };
        let mut child = world
            .repo_command(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        let _ = child.kill();
        child.wait().unwrap();
        world.repo(&["verify", "--level", "quick"]).expect(0);
        world.repo(&["restore", "app", "--to", "back.db", "--yes"]).expect(0);
        assert!(rows(&world.path("data/back.db")) >= 20_000, "round {round}, {after_ms} ms");
        // A database at the place is a whole one.
        if world.path("data/there.db").exists() {
            assert!(rows(&world.path("data/there.db")) >= 20_000, "round {round}, {after_ms} ms");
        }
    }
}
