//! Bad input: a clear error, the right exit code, and nothing lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rusqlite::Connection;

use crate::support::{Held, World, content, damage, is_root, ran, rows, set_mode};

#[test]
fn no_such_file_is_never_created() {
    let world = World::new();
    for name in ["nope.db", "/no/such/folder/nope.db", "./nope.db"] {
        world.repo(&["backup", name]).expect(15).says("nope.db");
    }
    assert!(world.names("data").is_empty());
    assert!(!world.path("repo").exists(), "no repository for nothing");
}

#[test]
fn a_folder_is_no_database() {
    let world = World::new();
    fs::create_dir(world.path("data/app.db")).unwrap();
    world.repo(&["backup", "app.db"]).expect(15).says("is a folder");
}

#[test]
fn an_empty_file_and_a_foreign_one_are_named_as_such() {
    let world = World::new();
    fs::write(world.path("data/empty.db"), "").unwrap();
    world.repo(&["backup", "empty.db"]).expect(20).says("is empty");
    let noise: Vec<u8> =
        (0..8192u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(world.path("data/noise.db"), noise).unwrap();
    world.repo(&["backup", "noise.db"]).expect(20).says("noise.db");
    assert!(!world.path("repo").exists());
}

#[test]
fn no_permission_is_said() {
    let world = World::new();
    let path = world.database("app.db", 10);
    set_mode(&path, 0);
    let mut command = world.repo_command(&["backup", "app.db"]);
    if is_root() {
        set_mode(&world.path(""), 0o755);
        set_mode(&world.path("data"), 0o777);
        command.uid(65_534).gid(65_534);
    }
    ran(command.output().unwrap()).expect(15).says("app.db");
    assert!(!world.path("repo").exists());
}

#[test]
fn a_repository_that_may_not_be_written_is_said() {
    let world = World::new();
    let path = world.database("app.db", 10);
    fs::create_dir(world.path("locked")).unwrap();
    set_mode(&world.path("locked"), 0o555);
    set_mode(&path, 0o644);
    let mut command = world.command(&["backup", "app.db", "--repo"]);
    command.arg(world.path("locked"));
    if is_root() {
        set_mode(&world.path(""), 0o755);
        set_mode(&world.path("data"), 0o777);
        command.uid(65_534).gid(65_534);
    }
    ran(command.output().unwrap()).expect(13).says("locked");
}

#[test]
fn a_damaged_database_is_backed_up_only_without_a_check_and_is_marked() {
    let world = World::new();
    let path = world.database("app.db", 3000);
    world.repo(&["backup", "app.db"]).expect(0);
    damage(&path);
    world.repo(&["backup", "app.db", "--check", "full"]).expect(20).says("damaged");
    let list = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "no backup of a damaged database");
    // The damage is seen even so, as rows are counted from the bytes that go by.
    world.repo(&["backup", "app.db", "--check", "none"]).expect(0).says("damaged");
    let list = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(list[1]["condition"], "damaged");
    world.repo(&["status", "app"]).expect(0).says("of a damaged database");
    // It is never put in place by default, and the one before it is still good.
    world.repo(&["restore", "app", "--to", "back.db"]).expect(20);
    assert!(!world.path("data/back.db").exists());
    world.repo(&["verify"]).expect(0);
}

#[test]
fn a_truncated_database_is_damaged() {
    let world = World::new();
    let path = world.database("app.db", 3000);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let ran = world.repo(&["backup", "app.db"]);
    assert!(ran.code == 20 || ran.code == 15, "{ran:?}");
    assert!(world.names("repo/app").iter().all(|name| name == "source.json"), "nothing is left");
}

#[test]
fn a_repository_that_is_a_file_is_refused() {
    let world = World::new();
    world.database("app.db", 10);
    fs::write(world.path("repo"), "precious").unwrap();
    world.repo(&["backup", "app.db"]).expect(13).says("is a file");
    assert_eq!(fs::read(world.path("repo")).unwrap(), b"precious");
}

#[test]
fn no_repository_is_its_own_exit_code() {
    let world = World::new();
    for command in [&["list"][..], &["status"], &["verify"], &["restore", "app"], &["show", "app"]]
    {
        world.repo(command).expect(10).says("there is no repository");
    }
    assert!(!world.path("repo").exists(), "reading makes nothing");
}

#[test]
fn a_damaged_artifact_is_found_and_never_restored() {
    for (what, change) in [
        ("flipped", (|bytes: &mut Vec<u8>| bytes[20_000] ^= 1) as fn(&mut Vec<u8>)),
        ("truncated", |bytes| bytes.truncate(20_000)),
        ("emptied", Vec::clear),
        ("longer", |bytes| bytes.extend_from_slice(b"more")),
    ] {
        let world = World::new();
        let path = world.database("app.db", 3000);
        world.repo(&["backup", "app.db"]).expect(0);
        let before = content(&path);
        let artifact = world.artifact("app", ".db.zst");
        let mut bytes = fs::read(&artifact).unwrap();
        change(&mut bytes);
        fs::remove_file(&artifact).unwrap();
        fs::write(&artifact, bytes).unwrap();
        world.repo(&["verify"]).expect(20).says("1 of 1 backups are damaged");
        let ran = world.repo(&["restore", "app", "--yes"]);
        assert_eq!(ran.code, 20, "{what}: {ran:?}");
        assert_eq!(content(&path), before, "{what}");
        assert!(!world.names("data").iter().any(|name| name.contains("lifeboat")), "{what}");
    }
}

#[test]
fn a_missing_artifact_is_found() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    fs::remove_file(world.artifact("app", ".db.zst")).unwrap();
    world.repo(&["verify"]).expect(20);
    let ran = world.repo(&["restore", "app", "--to", "back.db"]);
    assert!(ran.code == 20 || ran.code == 22, "{ran:?}");
}

#[test]
fn a_manifest_of_a_newer_version_is_not_guessed_at() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let manifest = fs::read_dir(world.path("repo/app"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().unwrap() == "json" && !path.ends_with("source.json"))
        .unwrap();
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 99")).unwrap();
    world.repo(&["list"]).expect(0).says("format 99");
    world.repo(&["verify"]).expect(20).says("format 99");
    world.repo(&["restore", "app", "--to", "back.db"]).expect(22).says("format 99");
    fs::write(&manifest, "{ not json").unwrap();
    world.repo(&["verify"]).expect(20).says("cannot be read");
    assert!(!world.path("data/back.db").exists());
}

#[test]
fn two_backups_of_one_source_at_once() {
    let world = World::new();
    world.database("app.db", 1000);
    let first = world.repo_command(&["backup", "app.db"]);
    let first = Held::at(&world, first, "backup.before_manifest");
    let second = world.repo(&["backup", "app.db"]).expect(11);
    assert!(second.err.contains(&first.id().to_string()), "{}", second.err);
    first.go_on().expect(0);
    world.repo(&["verify"]).expect(0);
}

#[test]
fn the_same_second_twice_makes_two_backups() {
    let world = World::new();
    world.database("app.db", 10);
    for _ in 0..3 {
        world.repo(&["backup", "app.db"]).expect(0);
    }
    let list = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 3);
    world.repo(&["verify"]).expect(0);
}

#[test]
fn two_databases_of_the_same_file_name_do_not_mix() {
    let world = World::new();
    for (folder, count) in [("one", 10), ("two", 20)] {
        fs::create_dir(world.path("data").join(folder)).unwrap();
        world.database(&format!("{folder}/app.db"), count);
        world.repo(&["backup", &format!("{folder}/app.db")]).expect(0);
    }
    // The path says which; the shared name alone is ambiguous, and both are listed.
    world.repo(&["restore", "app", "--to", "x.db"]).expect(2).says("two/app.db");
    for (folder, count) in [("one", 10), ("two", 20)] {
        let to = format!("{folder}-back.db");
        world.repo(&["restore", &format!("{folder}/app.db"), "--to", &to]).expect(0);
        assert_eq!(rows(&world.path("data").join(&to)), count);
    }
    world.repo(&["restore", "app-2", "--to", "second.db"]).expect(0);
    assert_eq!(rows(&world.path("data/second.db")), 20);
}

/// A shell that can mount a file system of its own. `None`, told aloud, where the kernel or a
/// container does not allow that.
pub(crate) fn in_own_namespace(script: &str) -> Option<Command> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command
    };
    let probe = shell("mount -t tmpfs tmpfs /tmp").output().unwrap();
    if probe.status.success() {
        return Some(shell(script));
    }
    let reason = String::from_utf8_lossy(&probe.stderr).into_owned();
    lifeboat_test_support::skipped(&format!("no file system can be mounted here: {reason}"));
    None
}

#[test]
fn no_space_in_the_repository_at_any_moment() {
    let world = World::new();
    world.database("app.db", 20_000);
    fs::create_dir(world.path("small")).unwrap();
    // A file system of its own in a namespace of its own: really full, and gone afterwards.
    let script = "mount -t tmpfs -o size=\"$3\" tmpfs \"$1\" && \
                  \"$2\" backup app.db --repo \"$1\"; \
                  code=$?; find \"$1\" -type f | sort; exit $code";
    for size in ["4k", "8k", "12k", "64k", "600k", "1400k"] {
        let Some(mut command) = in_own_namespace(script) else { return };
        command.arg(world.path("small")).args([env!("CARGO_BIN_EXE_lifeboat"), size]);
        command.env("XDG_STATE_HOME", world.path("state")).env("TMPDIR", world.path("tmp"));
        let ran = ran(command.current_dir(world.path("data")).output().unwrap());
        assert_eq!(ran.code, 14, "{size}: {ran:?}");
        for file in ran.out.lines().map(|line| line.rsplit('/').next().unwrap()) {
            let harmless = ["README.txt", "lifeboat.json", "source.json"].contains(&file);
            assert!(harmless, "{size}: {file} is left");
        }
    }
}

#[test]
fn what_cannot_be_checked_is_said_and_backed_up_all_the_same() {
    let world = World::new();
    let path = world.database("app.db", 100);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
             INSERT INTO sqlite_schema VALUES('table', 'elsewhere', 'elsewhere', 0,
                 'CREATE VIRTUAL TABLE elsewhere USING a_module_of_the_application(x)');",
        )
        .unwrap();
    connection.close().unwrap();
    for check in ["quick", "full"] {
        let ran = world.repo(&["backup", "app.db", "--check", check]).expect(0);
        assert!(ran.err.contains("elsewhere") || ran.err.contains("a_module"), "{}", ran.err);
    }
    world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(rows(&world.path("data/back.db")), 100);
}

#[test]
fn no_space_at_the_place_of_a_restore_changes_nothing() {
    let world = World::new();
    world.database("app.db", 20_000);
    world.repo(&["backup", "app.db"]).expect(0);
    fs::create_dir(world.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=600k tmpfs \"$1\" && \
                  \"$2\" restore app --to \"$1/app.db\" --repo \"$3\"; \
                  code=$?; ls -A \"$1\"; exit $code";
    let Some(mut command) = in_own_namespace(script) else { return };
    command.arg(world.path("small")).arg(env!("CARGO_BIN_EXE_lifeboat")).arg(world.path("repo"));
    command.env("XDG_STATE_HOME", world.path("state")).env("TMPDIR", world.path("tmp"));
    let ran = ran(command.output().unwrap()).expect(14);
    assert_eq!(ran.out, "");
}

#[test]
fn a_database_held_exclusively_is_named_with_its_holder() {
    let world = World::new();
    let path = world.path("data/app.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(a); INSERT INTO t VALUES(1); BEGIN EXCLUSIVE; INSERT INTO t VALUES(2);",
        )
        .unwrap();
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = { path = \"$DATA/app.db\", lock_ms_max = 60000 }\n",
    );
    let ran = world.run(&["backup"]).expect(15);
    assert!(ran.err.contains(&std::process::id().to_string()), "{}", ran.err);
    connection.execute_batch("COMMIT").unwrap();
    world.run(&["backup"]).expect(0);
}

#[test]
fn a_path_that_is_a_symbolic_link_is_its_target() {
    let world = World::new();
    let path = world.database("real.db", 10);
    symlink(&path, world.path("data/link.db")).unwrap();
    world.repo(&["backup", "link.db"]).expect(0);
    world.repo(&["backup", "real.db"]).expect(0);
    let list = world.repo(&["list", "--json"]).expect(0).json();
    assert_eq!(list[0]["source"], list[1]["source"], "one database, one source");
    assert_eq!(list[0]["source"]["location"], path.to_str().unwrap());
    // A restore to the link replaces its target, and the link stays.
    world.repo(&["restore", "link.db", "--yes"]).expect(0);
    assert!(fs::symlink_metadata(world.path("data/link.db")).unwrap().is_symlink());
    assert_eq!(rows(&path), 10);
}

#[test]
fn a_path_that_is_not_utf_8_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    let path = world.path("data").join(OsStr::from_bytes(b"caf\xe9.db"));
    fs::copy(world.database("app.db", 10), &path).unwrap();
    let output = world.repo_command(&["backup"]).arg(&path).output().unwrap();
    ran(output).expect(2);
    // Behind a link with a name that can be typed.
    symlink(&path, world.path("data/link.db")).unwrap();
    world.repo(&["backup", "link.db"]).expect(2).says("not UTF-8");
    assert!(!world.path("repo").exists());
}

#[test]
fn wrong_words_on_the_command_line() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    for arguments in [
        &["backup", "app.db", "--compress", "lz4"][..],
        &["backup", "app.db", "--method", "magic"],
        &["restore", "app@yesterday-ish", "--to", "x.db"],
        &["restore", "app@-1h", "--at", "-2h", "--to", "x.db"],
        &["status", "--max-age", "soon"],
        &["frobnicate"],
        &[],
    ] {
        world.repo(arguments).expect(2);
    }
    world.repo(&["restore", "app@-1d", "--to", "x.db"]).expect(22);
    world.repo(&["restore", "other", "--to", "x.db"]).expect(22).says("it holds: app");
}

#[test]
fn one_bad_source_does_not_hinder_the_others() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n[source.gone]\nsqlite = \"$DATA/gone.db\"\n",
    );
    let ran = world.run(&["backup", "--json"]).expect(3);
    let results = ran.json();
    assert_eq!(results[0]["outcome"], "committed");
    assert_eq!(results[1]["outcome"], "failed");
    assert_eq!(results[1]["error"]["exit_code"], 15);
    world.run(&["backup", "gone"]).expect(15);
    assert!(!world.path("data/gone.db").exists());
}

#[test]
fn a_damaged_source_json_hides_no_backup() {
    let world = World::new();
    let repo = world.text("repo");
    world.database("app.db", 10);
    world.database("other.db", 10);
    for name in ["app", "other"] {
        world.run(&["backup", &world.text(&format!("data/{name}.db")), "--repo", &repo]).expect(0);
    }
    fs::write(world.path("repo/app/source.json"), "{ torn").unwrap();
    // Verify tells the damage, and that the backup beside it is sound.
    for (name, code) in [("app", 20), ("other", 0)] {
        world.run(&["verify", name, "--repo", &repo]).expect(code);
        let to = world.text(&format!("{name}-back.db"));
        world.run(&["restore", name, "--repo", &repo, "--to", &to]).expect(0);
        assert_eq!(rows(&world.path(&format!("{name}-back.db"))), 10);
    }
}

/// An address where a path is meant is refused, with what does it. No folder `s3:` is ever made.
#[test]
fn an_address_is_no_path() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let server = "postgresql://ann@localhost/chat";
    let migrate = format!("lifeboat migrate app {server}");
    for more in [&["--dry-run"][..], &["--follow"], &["--at", "now"], &["--wal", "app.db"]] {
        let ran = world.repo(&[&["restore", "app", "--to", server], more].concat()).expect(2);
        ran.says("is a SQLite database").says(&migrate);
    }
    // The same of a file that no repository knows.
    fs::copy(world.path("data/app.db"), world.path("data/copy.db")).unwrap();
    let ran = world.repo(&["restore", "copy.db", "--to", server]).expect(2);
    ran.says(&format!("lifeboat migrate copy.db {server}"));
    let file = format!("file://{}", world.text("data/app.db"));
    let path = format!("write the path itself: {}", world.text("data/app.db"));
    for (arguments, what) in [
        (&["restore", "app", "--to", "s3://bucket/app.db"][..], "--to is a path"),
        (&["restore", "app", "--to", &file], &path),
        (&["restore", "--all", "--root", "sftp://host/x"], "--root is a path"),
        (&["salvage", "app.db", "--to", server], "--to is a path"),
        (&["kit", "--to", "s3://bucket/kit"], "--to is a path"),
        (&["key", "new", "file:///key"], "write the path itself: /key"),
        (&["backup", &file], &path),
        (&["guard", "s3://bucket/app.db", "--", "true"], "what is named is a path"),
        (&["rescue", "s3://bucket/app.db"], "what is named is a path"),
        (&["undo", "sftp://host/app.db"], "what is named is a path"),
        (&["run", "sqlite:///app.db", "--once"], "write the path itself: app.db"),
    ] {
        let before = world.names("data");
        world.repo(arguments).expect(2).says(what);
        assert_eq!(world.names("data"), before, "{arguments:?}");
    }
    // What stands behind `--` is another program's.
    world.run(&["guard", "app.db", "--", "test", "s3://bucket/x", "!=", "x"]).expect(0);
    let secret = world.repo(&["restore", "app", "--to", "s3://ann:hush@bucket/x"]).expect(2);
    assert!(!secret.err.contains("hush"), "{}", secret.err);
}
