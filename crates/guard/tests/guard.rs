//! The library against the real program and a real database.

#![allow(clippy::unwrap_used, reason = "a failure of a test is a panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lifeboat_guard::{Error, Guard};
use rusqlite::Connection;

/// The program: named by LIFEBOAT_PROGRAM, else built beside this test.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(named) = std::env::var_os("LIFEBOAT_PROGRAM") {
            return named.into();
        }
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "lifeboat", "--bin", "lifeboat"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        profile.join("lifeboat")
    })
}

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("app.db")).unwrap();
        let sql = "PRAGMA journal_mode = wal; PRAGMA user_version = 3; CREATE TABLE t(a);
            INSERT INTO t VALUES (1), (2)";
        connection.execute_batch(sql).unwrap();
        World { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn guard(&self) -> Guard {
        let config = self.folder.path().join("config.toml");
        std::fs::write(&config, "").unwrap();
        // With its state in this folder: the library passes the environment on as it is.
        let (script, folder) = (self.folder.path().join("lifeboat"), self.folder.path());
        let text = format!(
            "#!/bin/sh\nXDG_STATE_HOME='{}' exec '{}' \"$@\"\n",
            folder.display(),
            program().display()
        );
        if !script.exists() {
            lifeboat_test_support::executable(&script, &text);
        }
        Guard::new(self.path()).program(script).config(config).repository(folder.join("repo"))
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        Connection::open(self.path())?.execute_batch(sql)
    }

    fn version(&self) -> i64 {
        let connection = Connection::open(self.path()).unwrap();
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    fn backups(&self) -> usize {
        let Ok(folder) = std::fs::read_dir(self.folder.path().join("repo/app")) else { return 0 };
        let names = folder.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".db.zst")).count()
    }
}

#[test]
fn a_migration_that_succeeds_gives_its_value_behind_a_backup() {
    let world = World::new();
    let value = world
        .guard()
        .invariant("SELECT count(*) FROM t")
        .run(|ready| {
            assert_eq!(world.backups(), 1, "the backup is there before");
            assert!(ready.restore.as_ref().unwrap().starts_with("lifeboat restore app@"));
            world.execute("PRAGMA user_version = 4").map(|()| 7)
        })
        .unwrap();
    assert_eq!((value, world.version()), (7, 4));
}

#[test]
fn one_that_fails_is_told_or_rolled_back() {
    let world = World::new();
    let fails = || world.execute("PRAGMA user_version = 4; SELECT * FROM nowhere");
    match world.guard().run(|_| fails()) {
        Err(Error::Failed { cause: Some(cause), restore, rolled_back: false, .. }) => {
            assert!(cause.to_string().contains("nowhere"), "{cause}");
            assert!(restore.unwrap().contains("lifeboat restore"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.version(), 4);
    world.execute("PRAGMA user_version = 3").unwrap();
    let error = world.guard().rollback(true).run(|_| fails()).unwrap_err();
    assert!(matches!(error, Error::Failed { rolled_back: true, .. }), "{error}");
    assert!(error.to_string().contains("rolled back"), "{error}");
    assert_eq!(world.version(), 3);
}

#[test]
fn what_had_to_hold_and_does_not_is_no_success() {
    let world = World::new();
    let guard = world.guard().rollback(true).invariant("SELECT count(*) FROM t");
    match guard.run(|_| world.execute("DELETE FROM t")) {
        Err(Error::Failed { cause: None, message, rolled_back: true, .. }) => {
            assert!(message.contains("gave 2 before, and 0 now"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_is_a_failure() {
    let world = World::new();
    let guard = world.guard().rollback(true);
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        guard.run(|_| -> Result<(), rusqlite::Error> {
            world.execute("PRAGMA user_version = 4")?;
            panic!("as asked");
        })
    }));
    assert!(ended.is_err());
    assert_eq!(world.version(), 3, "it was rolled back before the panic went on");
}

#[test]
fn without_a_backup_nothing_is_run() {
    let world = World::new();
    let not_run = |guard: Guard| match guard
        .run(|_| -> Result<(), std::fmt::Error> { panic!("it must not be run") })
    {
        Err(Error::NotRun { message, hint }) => (message, hint),
        other => panic!("{other:?}"),
    };
    let (message, hint) = not_run(world.guard().program("/nowhere/lifeboat"));
    assert!(message.contains("/nowhere/lifeboat") && hint.is_some(), "{message}");
    let (message, _) = not_run(world.guard().invariant("DELETE FROM t"));
    assert!(message.contains("nothing was run"), "{message}");
    std::fs::write(world.path(), "this is no database, but a text of some length").unwrap();
    let (message, _) = not_run(world.guard());
    assert!(message.contains("nothing was run"), "{message}");
}

#[test]
fn the_example_migrates_and_migrates_no_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("new.db");
    let run = ["run", "--quiet", "--package", "lifeboat-guard", "--example", "migrate", "--"];
    // Where the program was built with all else, its example was built beside it.
    let built = program().parent().unwrap().join("examples/migrate");
    let is_built = std::env::var_os("LIFEBOAT_PROGRAM").is_some() && built.exists();
    let example = || {
        let mut example =
            Command::new(if is_built { built.as_path() } else { env!("CARGO").as_ref() });
        let output = example
            .args(if is_built { &[][..] } else { &run[..] })
            .arg(&database)
            .arg(folder.path().join("repo"))
            .env("LIFEBOAT_PROGRAM", program())
            .env("XDG_STATE_HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(example(), "3 migrations applied\n");
    assert_eq!(example(), "0 migrations applied\n");
}
