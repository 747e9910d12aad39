//! Restore in place: refused where it must be, complete where it is done, and undone on demand.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rusqlite::Connection;

use crate::support::{
    Holder, World, add_rows, content, is_root, make_database, mode, rows, set_mode,
};

/// A world with a backup of 20 rows and a database of 25.
fn world_with_changes() -> (World, std::path::PathBuf) {
    let world = World::new();
    let path = world.database("app.db", 20);
    world.repo(&["backup", "app.db"]).expect(0);
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 1000, 5);
    connection.close().unwrap();
    (world, path)
}

#[test]
fn without_a_terminal_the_plan_is_printed_and_nothing_is_done() {
    let (world, path) = world_with_changes();
    let ran = world.repo(&["restore", "app"]).expect(24).says("--yes");
    assert!(ran.err.contains("keep ") && ran.err.contains(".before_restore."), "{}", ran.err);
    assert_eq!(rows(&path), 25);
    world.repo(&["restore", "app", "--yes"]).expect(0);
    let ran = world.repo(&["undo", "app"]).expect(24);
    assert!(ran.err.contains("move "), "{}", ran.err);
    assert_eq!(rows(&path), 20);
}

#[test]
fn the_answer_at_a_terminal_is_yes_or_the_name() {
    for (answer, code, expected) in [("yes", 0, 20), ("app", 0, 20), ("no", 24, 25), ("", 24, 25)] {
        let (world, path) = world_with_changes();
        // `script` gives the program a terminal.
        let line =
            format!("{} restore app --repo {}", env!("CARGO_BIN_EXE_lifeboat"), world.text("repo"));
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::piped());
        command.env("HOME", world.path("home")).env("XDG_STATE_HOME", world.path("state"));
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        use std::io::Write;
        child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
        let ran = crate::support::ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{answer}: {}", ran.out);
        assert!(ran.out.contains("Answer `yes` or `app`"), "{}", ran.out);
        assert_eq!(rows(&path), expected, "{answer}");
    }
}

#[test]
fn refused_while_another_process_has_the_database_open() {
    let (world, path) = world_with_changes();
    let holder = Holder::of(&path);
    let ran = world.repo(&["restore", "app", "--yes"]).expect(23);
    assert!(ran.err.contains("sqlite3"), "{}", ran.err);
    assert!(ran.err.contains(&holder.id().to_string()), "{}", ran.err);
    // Elsewhere is no harm.
    world.repo(&["restore", "app", "--to", "elsewhere.db"]).expect(0);
    drop(holder);
    assert_eq!(rows(&path), 25);
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 20);
}

#[test]
fn a_configured_service_is_stopped_and_started() {
    let (world, path) = world_with_changes();
    let holder = Holder::of(&path);
    let log = world.text("log");
    let stop = format!("echo stop >> {log}; kill -9 {}", holder.id());
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n\
         service = {{ stop = [\"sh\", \"-c\", \"{stop}\"], \
                      start = [\"sh\", \"-c\", \"echo start >> {log}\"] }}\n"
    ));
    world.run(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\n");
    assert_eq!(rows(&path), 20);
}

#[test]
fn a_lost_database_comes_back_with_its_mode_and_owner() {
    let world = World::new();
    let path = world.database("app.db", 20);
    set_mode(&path, 0o640);
    if is_root() {
        chown(&path, Some(1234), Some(2345)).unwrap();
    }
    let before = fs::metadata(&path).unwrap();
    world.repo(&["backup", "app.db"]).expect(0);
    fs::remove_file(&path).unwrap();
    world.repo(&["restore", path.to_str().unwrap(), "--yes"]).expect(0);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(mode(&path), 0o640);
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_eq!(rows(&path), 20);
}

#[test]
fn a_lost_folder_is_made_again() {
    let world = World::new();
    fs::create_dir_all(world.path("data/deep/er")).unwrap();
    let path = world.database("deep/er/app.db", 20);
    world.repo(&["backup", path.to_str().unwrap()]).expect(0);
    fs::remove_dir_all(world.path("data/deep")).unwrap();
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 20);
}

#[test]
fn undo_goes_back_and_forth_without_a_loss() {
    let (world, path) = world_with_changes();
    world.repo(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 20);
    world.repo(&["undo", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 25);
    // What was restored is kept as well.
    let kept = world.names("data").into_iter().find(|name| name.contains("before_undo")).unwrap();
    assert_eq!(rows(&world.path("data").join(kept)), 20);
    world.repo(&["undo", "app", "--yes"]).expect(22).says("before_restore");
}

#[test]
fn two_restores_in_one_second_keep_both_old_databases() {
    let (world, path) = world_with_changes();
    for _ in 0..3 {
        world.repo(&["restore", "app", "--yes"]).expect(0);
    }
    let kept: Vec<String> = world
        .names("data")
        .into_iter()
        .filter(|name| {
            name.contains("before_restore") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect();
    assert_eq!(kept.len(), 3, "{kept:?}");
    let most = kept.iter().map(|name| rows(&world.path("data").join(name))).max();
    assert_eq!(most, Some(25));
    assert_eq!(rows(&path), 20);
}

#[test]
fn two_restores_to_one_place_at_once() {
    let (world, path) = world_with_changes();
    let first = world.repo_command(&["restore", "app", "--yes"]);
    let first = crate::support::Held::at(&world, first, "restore.staged");
    assert!(world.names("data").iter().any(|name| name.contains("staging")));
    world.repo(&["restore", "app", "--yes"]).expect(11);
    first.go_on().expect(0);
    assert_eq!(rows(&path), 20);
}

#[test]
fn files_that_scripts_made_are_restored() {
    let world = World::new();
    let path = world.database("app.db", 500);
    let before = content(&path);
    let shell = |line: &str| {
        let status = std::process::Command::new("sh")
            .args(["-c", line])
            .current_dir(world.path("data"))
            .status()
            .unwrap();
        assert!(status.success(), "{line}");
    };
    shell(
        "sqlite3 app.db \".backup 'copy.db'\" && gzip -k copy.db && zstd -q copy.db -o copy.db.zst",
    );
    // Two members are one database.
    shell("head -c 8192 copy.db | gzip > two.db.gz && tail -c +8193 copy.db | gzip >> two.db.gz");
    for name in ["copy.db", "copy.db.gz", "copy.db.zst", "two.db.gz"] {
        let to = format!("back-{name}.db");
        world.repo(&["restore", name, "--to", &to]).expect(0);
        assert_eq!(content(&world.path("data").join(&to)), before, "{name}");
    }
    world.repo(&["restore", "copy.db.gz"]).expect(2).says("--to");

    let whole = fs::read(world.path("data/copy.db.gz")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(world.path("data").join(name), bytes).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    write("flipped.db.gz", &flipped);
    write("short.db.gz", &whole[..whole.len() - 9]);
    write("empty.db.gz", b"");
    write("text.db.gz", b"pg_dump: error: connection refused\n");
    shell("gzip -c copy.db.gz > twice.db.gz");
    for name in ["flipped.db.gz", "short.db.gz", "empty.db.gz", "text.db.gz", "twice.db.gz"] {
        world.repo(&["restore", name, "--to", "bad.db"]).expect(20);
        assert!(!world.path("data/bad.db").exists(), "{name}");
    }
}

#[test]
fn a_restore_to_a_folder_or_over_another_database() {
    let (world, path) = world_with_changes();
    fs::create_dir(world.path("data/folder")).unwrap();
    world.repo(&["restore", "app", "--to", "folder"]).expect(2).says("is a folder");
    // Over something that is there, a confirmation is needed and it is kept.
    make_database(&world.path("data/other.db"), 7);
    world.repo(&["restore", "app", "--to", "other.db"]).expect(24);
    assert_eq!(rows(&world.path("data/other.db")), 7);
    world.repo(&["restore", "app", "--to", "other.db", "--yes"]).expect(0);
    assert_eq!(rows(&world.path("data/other.db")), 20);
    world.repo(&["undo", "./other.db", "--yes"]).expect(0);
    assert_eq!(rows(Path::new(&world.path("data/other.db"))), 7);
    assert_eq!(rows(&path), 25);
}
