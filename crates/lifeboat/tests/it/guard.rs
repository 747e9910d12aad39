//! The guard: commands that succeed, fail and are killed behind a backup; what is found afterwards;
//! the way back; and the look at pending migrations before a service starts.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Holder, Ran, World, add_rows, content, mode, ran, rows, set_mode};

/// The program on this world's repository, which is named before what belongs to the command.
fn repo_command(world: &World, arguments: &[&str]) -> Command {
    let repo = world.text("repo");
    world.command(&[&["--repo", repo.as_str()][..], arguments].concat())
}

fn repo(world: &World, arguments: &[&str]) -> Ran {
    ran(repo_command(world, arguments).output().unwrap())
}

/// A database of a server with versions 1 to 8, and 500 messages.
fn chat(world: &World, name: &str) -> std::path::PathBuf {
    let path = world.database(name, 500);
    let sql = "CREATE TABLE schema_migrations(version INTEGER PRIMARY KEY, name TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8)
            INSERT INTO schema_migrations SELECT i, 'step ' || i FROM n;";
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path
}

fn version(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT max(version) FROM schema_migrations";
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

const NINTH: &str = "INSERT INTO schema_migrations VALUES (9, 'ninth');";

fn one_of(value: &Value) -> &Value {
    let list = value.as_array().unwrap();
    assert_eq!(list.len(), 1, "{value}");
    &list[0]
}

/// The copies beside a database of the folder `data`.
fn copies(world: &World) -> Vec<String> {
    let names = world.names("data");
    names.into_iter().filter(|name| name.contains(".backup-v")).collect()
}

#[test]
fn a_migration_that_succeeds_leaves_a_backup_that_says_so() {
    let world = World::new();
    let path = chat(&world, "super chat.db");
    let before = content(&path);
    let guarded =
        repo(&world, &["guard", "super chat.db", "--", "sqlite3", "super chat.db", NINTH]);
    let guarded = guarded.expect(0).says("v8").says("v9");
    assert_eq!(guarded.out, "", "standard output is the command's");
    assert_eq!(version(&path), 9);
    let list = repo(&world, &["list"]).expect(0).out;
    assert!(list.contains("before migration v8 -> v9, succeeded"), "{list}");
    let shown = repo(&world, &["show", "super chat"]).expect(0).out;
    assert!(shown.contains("before migration v8 -> v9, succeeded"), "{shown}");
    let manifest = repo(&world, &["show", "super chat", "--json"]).expect(0).json();
    assert_eq!(manifest["purpose"], "migration");
    assert_eq!(manifest["schema_version"]["version"], "8");
    repo(&world, &["restore", "super chat", "--yes"]).expect(0);
    assert_eq!((version(&path), content(&path)), (8, before));
}

#[test]
fn a_marker_holds_the_name_of_the_program_and_none_of_its_arguments() {
    let world = World::new();
    chat(&world, "app.db");
    repo(&world, &["guard", "app.db", "--", "/bin/sh", "-c", "true", "--password=hunter2"])
        .expect(0);
    let name = &world.names("repo/markers/app")[0];
    let marker = fs::read_to_string(world.path("repo/markers/app").join(name)).unwrap();
    assert!(marker.contains("\"command\": \"sh\""), "{marker}");
    let found = Command::new("grep").arg("-r").arg("hunter2").arg(world.path("repo")).output();
    assert_eq!(found.unwrap().stdout, b"", "an argument was stored");
    assert_eq!(&world.names("repo/outcomes/app")[0], name);
    assert_eq!(mode(&world.path("repo/markers/app").join(name)), 0o600);
}

#[test]
fn a_command_that_fails_is_told_with_the_way_back_which_works() {
    let world = World::new();
    let path = chat(&world, "it's mine.db");
    let before = content(&path);
    let script = format!("{NINTH} DELETE FROM message WHERE id % 2; SELECT * FROM nowhere;");
    let failed = repo(&world, &["guard", "it's mine.db", "--", "sqlite3", "it's mine.db", &script]);
    let failed = failed.expect(1).says("exit code 1").says("was v8 and is v9 now");
    let hint = failed.err.lines().find(|line| line.contains("to go back: ")).unwrap();
    let command = hint.split("to go back: ").nth(1).unwrap();
    assert_eq!((version(&path), rows(&path)), (9, 250), "nothing is rolled back unasked");
    assert!(repo(&world, &["list"]).expect(0).out.contains("v8 -> v9, failed"));
    // As a person would: the very line, in a shell.
    let program = env!("CARGO_BIN_EXE_lifeboat");
    let line = command.replacen("lifeboat", &format!("'{program}'"), 1);
    let mut shell = world.command(&[]);
    let environment: Vec<_> =
        shell.get_envs().map(|(k, v)| (k.to_owned(), v.map(Into::into))).collect();
    shell = Command::new("sh");
    shell.arg("-c").arg(format!("{line} --yes")).env_clear().current_dir(world.path("data"));
    for (name, value) in environment {
        let value: Option<std::ffi::OsString> = value;
        shell.env(name, value.unwrap());
    }
    ran(shell.output().unwrap()).expect(0);
    assert_eq!((version(&path), content(&path)), (8, before));
}

#[test]
fn a_rollback_brings_everything_back_and_keeps_what_there_was() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let before = content(&path);
    let script = format!("{NINTH} DROP TABLE message; SELECT * FROM nowhere;");
    let guarded = repo(
        &world,
        &["guard", "app.db", "--rollback", "--json", "--", "sqlite3", "app.db", &script],
    );
    let result = guarded.expect(1).json();
    assert_eq!(result["outcome"], "rolled-back");
    assert_eq!((&result["exit_code"], &result["command"]), (&1.into(), &"sqlite3".into()));
    assert_eq!(result["from_version"]["version"], "8");
    assert_eq!(result["to_version"]["version"], "9");
    assert_eq!((version(&path), content(&path)), (8, before));
    let kept = result["rolled_back"]["kept_aside"][0].as_str().unwrap();
    assert_eq!(version(Path::new(kept)), 9, "what it left is kept");
    assert!(repo(&world, &["list"]).expect(0).out.contains("v8 -> v9, rolled back"));
}

#[test]
fn a_command_that_is_killed_has_failed() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let script = format!("sqlite3 app.db \"{NINTH}\"; kill -9 $$");
    let killed = repo(&world, &["guard", "app.db", "--rollback", "--", "sh", "-c", &script]);
    killed.expect(1).says("signal 9").says("rolled back, the schema is v8 again");
    assert_eq!(version(&path), 8);
}

#[test]
fn a_guard_that_is_killed_leaves_its_backup_and_its_marker() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let script = format!("sqlite3 app.db \"{NINTH}\"; kill -9 $PPID");
    assert_eq!(repo(&world, &["guard", "app.db", "--", "sh", "-c", &script]).code, 137);
    let list = repo(&world, &["list"]).expect(0).out;
    assert!(list.contains("before migration from v8"), "{list}");
    repo(&world, &["restore", "app", "--yes"]).expect(0);
    assert_eq!(version(&path), 8);
}

/// Asked to end, a guard asks its command to end, and still judges what it left.
#[test]
fn a_signal_is_passed_on_and_the_guard_outlives_its_command() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let script = format!(
        "trap 'sqlite3 app.db \"{NINTH}\"; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    );
    let mut guard =
        repo_command(&world, &["guard", "app.db", "--rollback", "--", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut out = BufReader::new(guard.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "the command's output is passed through");
    let id = rustix::process::Pid::from_raw(guard.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let mut err = String::new();
    guard.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let status = guard.wait().unwrap();
    assert_eq!(status.code(), Some(143), "{err}");
    assert!(err.contains("exit code 7") && err.contains("rolled back"), "{err}");
    assert_eq!(version(&path), 8);
}

#[test]
fn without_a_backup_nothing_is_run() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let touch = ["--", "touch", "it-ran"];
    // A place that is no folder, a damaged database, a question that cannot be asked.
    fs::write(world.path("file"), "x").unwrap();
    let file = world.text("file");
    let run = world.run(&[&["--repo", &file, "guard", "app.db"][..], &touch].concat());
    assert_ne!(run.code, 0);
    assert!(run.err.contains("nothing was run"), "{}", run.err);
    for invariant in ["DELETE FROM message", "SELECT nothing FROM nowhere", "after:"] {
        let run =
            repo(&world, &[&["guard", "app.db", "--invariant", invariant][..], &touch].concat());
        run.expect(2);
    }
    repo(&world, &["guard", "app.db"]).expect(2).says("no command");
    repo(&world, &["guard", "app.db", "--check", "none", "--", "true"]).expect(2);
    assert!(!world.path("data/it-ran").exists());
    Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    crate::support::damage(&path);
    let run = repo(&world, &[&["guard", "app.db"][..], &touch].concat());
    run.expect(20).says("nothing was run");
    for beside in ["--beside", "--place=both"] {
        let run = repo(&world, &[&["guard", "app.db", beside][..], &touch].concat());
        run.expect(20);
    }
    assert!(!world.path("data/it-ran").exists());
    assert_eq!(copies(&world), [""; 0]);
}

#[test]
fn what_is_not_as_it_must_be_is_no_success() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let guard = |invariants: &[&str], sql: &str| -> Ran {
        let mut arguments = vec!["guard", "app.db", "--rollback"];
        for invariant in invariants {
            arguments.extend(["--invariant", invariant]);
        }
        arguments.extend(["--", "sqlite3", "app.db", sql]);
        repo(&world, &arguments)
    };
    let count = "SELECT count(*) FROM message";
    guard(&[count], "DELETE FROM message WHERE id = 7").expect(1).says("gave 500 before, and 499");
    guard(&[count], "DROP TABLE message").expect(1).says("no such table");
    let after = "after: SELECT count(*) = 1 FROM channel";
    guard(&[after], "CREATE TABLE channel(id)").expect(1).says("gives 0, which is not true");
    guard(&[after], "SELECT 1").expect(1).says("no such table: channel");
    // Without being asked for: references, and what the migration tool left undone.
    let orphan = "INSERT INTO message VALUES (9000, 77, 'x')";
    guard(&[], orphan).expect(1).says("refer to one that is not there");
    let dirty = "ALTER TABLE schema_migrations ADD dirty; UPDATE schema_migrations SET dirty = 1
        WHERE version = 8";
    guard(&[], dirty).expect(1).says("unfinished").says("schema_migrations: 8");
    assert_eq!((version(&path), rows(&path)), (8, 500));
    guard(&[count, after], "CREATE TABLE channel(id); INSERT INTO channel VALUES (1)").expect(0);
    // What was wrong before need not be right afterwards.
    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!("PRAGMA foreign_keys = OFF; {orphan}"))
        .unwrap();
    guard(&[], "SELECT 1").expect(0);
}

#[test]
fn a_rollback_refuses_while_another_process_has_the_database_open() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let holder = Holder::of(&path);
    let script = format!("{NINTH} SELECT * FROM nowhere;");
    let run = repo(&world, &["guard", "app.db", "--rollback", "--", "sqlite3", "app.db", &script]);
    let run = run.expect(1).says("it was not rolled back").says("has the database open");
    assert!(run.err.contains(&holder.id().to_string()), "{}", run.err);
    assert!(run.err.contains("lifeboat restore app@"), "{}", run.err);
    assert_eq!(version(&path), 9);
    drop(holder);
    repo(&world, &["restore", "app", "--yes"]).expect(0);
    assert_eq!(version(&path), 8);
}

#[test]
fn where_there_is_no_database_the_command_makes_the_first_one() {
    let world = World::new();
    let create =
        "CREATE TABLE schema_migrations(version); INSERT INTO schema_migrations VALUES (1)";
    let run = ["guard", "./new.db", "--", "sqlite3", "new.db", create];
    let required = ["guard", "./new.db", "--require-database", "--", "true"];
    repo(&world, &required).expect(15).says("--require-database");
    repo(&world, &run).expect(0).says("nothing to back up").says("is v1 now");
    assert_eq!(version(&world.path("data/new.db")), 1);
    assert_eq!(world.names("repo"), [""; 0], "no repository was made for nothing");
    // An empty file is as good as none; one that was backed up and is gone is lost.
    fs::write(world.path("data/empty.db"), "").unwrap();
    repo(&world, &["guard", "empty.db", "--", "sqlite3", "empty.db", create]).expect(0);
    repo(&world, &["backup", "new.db"]).expect(0);
    fs::remove_file(world.path("data/new.db")).unwrap();
    repo(&world, &run).expect(15).says("is a backup of it").says("lifeboat restore");
    assert!(!world.path("data/new.db").exists());
}

#[test]
fn two_guards_of_one_database_do_not_run_at_once() {
    let world = World::new();
    chat(&world, "app.db");
    let mut first =
        repo_command(&world, &["guard", "app.db", "--", "sh", "-c", "echo ready; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let path = world.text("data/app.db");
    repo(&world, &["guard", &path, "--", "touch", "it-ran"]).expect(11).says("another guard");
    first.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(first.wait().unwrap().success(), "standard input is the command's");
    assert!(!world.path("data/it-ran").exists());
}

#[test]
fn copies_beside_the_database_have_the_servers_names_and_are_never_overwritten() {
    let world = World::new();
    let path = chat(&world, "super chat.db");
    set_mode(&path, 0o640);
    let before = content(&path);
    let zone = |arguments: &[&str]| {
        ran(repo_command(&world, arguments).env("TZ", "Asia/Kathmandu").output().unwrap())
    };
    for _ in 0..3 {
        zone(&["guard", "super chat.db", "--beside", "--", "true"]).expect(0);
    }
    let names = copies(&world);
    assert_eq!(names.len(), 3, "one for each run, also within a second: {names:?}");
    for name in &names {
        let time = name.strip_prefix("super chat.db.backup-v8-").unwrap();
        assert_eq!(time.len(), 15, "{name}");
        let copy = world.path("data").join(name);
        assert_eq!((mode(&copy), content(&copy)), (0o640, before.clone()));
    }
    assert_eq!(world.names("repo"), [""; 0], "beside is not in the repository");
    let script = format!("{NINTH} DROP TABLE message; SELECT * FROM nowhere;");
    let run =
        ["guard", "super chat.db", "--beside", "--rollback", "--", "sqlite3", "super chat.db"];
    repo(&world, &[&run[..], &[&script]].concat()).expect(1).says("rolled back");
    assert_eq!((version(&path), content(&path)), (8, before));
    assert!(!world.names("data").iter().any(|name| name.starts_with('.')), "nothing is left over");
}

#[test]
fn old_copies_of_ours_go_and_whatever_else_has_such_a_name_stays() {
    let world = World::new();
    let path = chat(&world, "app.db");
    repo(&world, &["guard", "app.db", "--beside", "--", "true"]).expect(0);
    let first = world.path("data").join(&copies(&world)[0]);
    const MARK: &str = "user.lifeboat.beside";
    let mut text = vec![0; 4096];
    let length = match rustix::fs::getxattr(&first, MARK, &mut text) {
        Ok(length) => length,
        // This file system keeps no marks: then the run must have said that nothing will go.
        Err(_) => {
            let run = repo(&world, &["guard", "app.db", "--beside", "--", "true"]);
            run.expect(0).says("it will not be rotated");
            return;
        }
    };
    let text = String::from_utf8(text[..length].to_vec()).unwrap();
    // Three copies of ours that are older than 90 days, by their marks; and one by a script.
    let mut mark: Value = serde_json::from_str(&text).unwrap();
    for day in ["20200101", "20200102", "20200103"] {
        let old = world.path("data").join(format!("app.db.backup-v7-{day}-120000"));
        fs::copy(&first, &old).unwrap();
        mark["taken_at"] = format!("2020-01-{}T12:00:00Z", &day[6..]).into();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&old, MARK, mark.to_string().as_bytes(), flags).unwrap();
    }
    let script = world.path("data/app.db.backup-v6-20190101-120000");
    fs::copy(&path, &script).unwrap();
    repo(&world, &["guard", "app.db", "--beside", "--", "false"]).expect(1);
    assert_eq!(copies(&world).len(), 6, "after a failure nothing goes");
    let run = repo(&world, &["guard", "app.db", "--beside", "--", "true"]).expect(0);
    assert!(run.err.contains("older than 90 days"), "{}", run.err);
    let left = copies(&world);
    assert_eq!(left.iter().filter(|name| name.contains("-v7-")).count(), 0, "{left:?}");
    assert_eq!(left.len(), 4);
    assert!(script.exists());
}

#[test]
fn pending_migrations_are_backed_up_before_a_service_starts() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let folder = world.path("migrations");
    fs::create_dir(&folder).unwrap();
    for number in 1..=8 {
        fs::write(folder.join(format!("{number:03}_step.sql")), "").unwrap();
    }
    let watch = ["guard", "--watch", "--pending", folder.to_str().unwrap(), "app.db"];
    repo(&world, &watch).expect(0).says("no migration is pending after v8");
    assert_eq!(world.names("repo"), [""; 0], "nothing pending makes nothing");
    fs::write(folder.join("009_next.sql"), "").unwrap();
    let run = repo(&world, &[&watch[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(run["outcome"], "backed-up");
    assert_eq!(one_of(&run["pending"]), "009_next.sql");
    assert_eq!(one_of(&run["saved"])["schema_version"]["version"], "8");
    assert!(repo(&world, &["list"]).expect(0).out.contains("before migration from v8"));
    let dry = repo(&world, &[&watch[..], &["--json", "--dry-run"]].concat()).expect(0).json();
    assert_eq!(dry["outcome"], "planned");
    assert_eq!(repo(&world, &["list", "--json"]).expect(0).json().as_array().unwrap().len(), 1);
    Connection::open(&path).unwrap().execute_batch(NINTH).unwrap();
    repo(&world, &watch).expect(0).says("no migration is pending after v9");
    // Whatever keeps us from knowing, or from the backup, keeps the service from starting.
    repo(&world, &["guard", "--watch", "--pending", "gone", "app.db"]).expect(2);
    repo(&world, &["guard", "--watch", "app.db"]).expect(2).says("--pending");
    fs::write(folder.join("010_more.sql"), "").unwrap();
    fs::write(world.path("file"), "x").unwrap();
    let file = world.text("file");
    assert_ne!(world.run(&[&watch[..], &["--repo", &file]].concat()).code, 0);
    let drop_in = repo(&world, &[&watch[..], &["--print-drop-in", "superchat"]].concat()).expect(0);
    assert!(drop_in.out.contains("superchat.service.d/lifeboat-guard.conf"), "{}", drop_in.out);
    assert!(drop_in.out.contains("\nExecStartPre=+"), "{}", drop_in.out);
}

#[test]
fn the_configuration_says_where_and_what_must_hold() {
    let world = World::new();
    let path = chat(&world, "app.db");
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/app.db\"\n\
         guard = { place = \"both\", rollback = true, invariants = [\"SELECT count(*) FROM message\"] }\n",
    );
    let broken = format!("{NINTH} DELETE FROM message;");
    world.run(&["guard", "chat", "--", "sqlite3", "app.db", &broken]).expect(1).says("rolled back");
    assert_eq!((version(&path), rows(&path)), (8, 500));
    assert_eq!((copies(&world).len(), world.names("repo/markers/chat").len()), (1, 1));
    let plan = world.run(&["guard", "chat", "--dry-run", "--", "true"]).expect(0).out;
    assert!(plan.contains("back up `chat`") && plan.contains("restore the backup"), "{plan}");
    assert_eq!(copies(&world).len(), 1);
}

#[test]
fn a_caller_says_how_its_own_work_went() {
    let world = World::new();
    let path = chat(&world, "app.db");
    for (word, code, outcome, left) in [
        ("succeeded\n", 0, "succeeded", 9),
        ("rollback\n", 1, "rolled-back", 9),
        ("failed\n", 1, "failed", 10),
        ("", 1, "failed", 11),
    ] {
        let mut guard = repo_command(&world, &["guard", "app.db", "--caller"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(guard.stdout.take().unwrap()).lines();
        let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(ready["type"], "ready");
        assert!(ready["restore"].as_str().unwrap().starts_with("lifeboat restore app@"));
        let next = version(&path) + 1;
        let sql = format!("INSERT INTO schema_migrations VALUES ({next}, 'next')");
        Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
        guard.stdin.take().unwrap().write_all(word.as_bytes()).unwrap();
        let result: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(result["outcome"], outcome, "{word}: {result}");
        assert_eq!(guard.wait().unwrap().code(), Some(code), "{word}");
        assert_eq!(version(&path), left, "{word}");
    }
}

/// Rows that stand in the `-wal` alone, of a server that was killed, are in the copy.
#[test]
fn rows_of_the_log_alone_are_in_both_kinds_of_backups() {
    let world = World::new();
    let path = chat(&world, "app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    add_rows(&connection, 10_000, 300);
    repo(&world, &["guard", "app.db", "--place", "both", "--", "true"]).expect(0);
    drop(connection);
    let copy = world.path("data").join(&copies(&world)[0]);
    assert_eq!(rows(&copy), 800);
    repo(&world, &["restore", "app", "--to", "elsewhere.db"]).expect(0);
    assert_eq!(rows(&world.path("data/elsewhere.db")), 800);
}

/// A command that is killed within a transaction leaves a journal, which must not be played back
/// over the database that is restored.
#[test]
fn a_transaction_that_was_cut_off_is_rolled_back_with_the_rest() {
    let world = World::new();
    let path = chat(&world, "app.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    let before = content(&path);
    let copy = world.path("tmp/work.db");
    fs::copy(&path, &copy).unwrap();
    let connection = Connection::open(&copy).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN IMMEDIATE;
             UPDATE message SET body = 'cut off ' || id || hex(randomblob(300))",
        )
        .unwrap();
    // As a kill would leave it: the pages that were written, and the journal that undoes them.
    for suffix in ["", "-journal"] {
        let from = format!("{}{suffix}", copy.display());
        fs::copy(from, world.path("tmp").join(format!("left{suffix}"))).unwrap();
    }
    drop(connection);
    let tmp = world.text("tmp");
    let script =
        format!("cp '{tmp}/left' app.db && cp '{tmp}/left-journal' app.db-journal && kill -9 $$");
    let run = repo(&world, &["guard", "app.db", "--rollback", "--", "sh", "-c", &script]);
    run.expect(1).says("rolled back, the schema is v8 again");
    assert!(!world.path("data/app.db-journal").exists());
    assert_eq!(content(&path), before);
}

/// The configuration and the commands of the page `docs/guard.md`, as they stand there.
#[test]
fn what_the_page_says_works() {
    let world = World::new();
    let path = chat(&world, "superchat.db");
    let user = "CREATE TABLE User(id); INSERT INTO User VALUES (1);
        CREATE TABLE Channel(id); INSERT INTO Channel VALUES (1)";
    Connection::open(&path).unwrap().execute_batch(user).unwrap();
    let migrations = world.path("data/migrations");
    fs::create_dir(&migrations).unwrap();
    fs::write(migrations.join("009_next.sql"), NINTH).unwrap();
    let script = format!("#!/bin/sh\nsqlite3 superchat.db \"{NINTH}\"\n");
    lifeboat_test_support::executable(&world.path("data/migrate"), &script);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guard.md");
    let here = |text: &str| {
        let text = text.replace("/var/lib/superchat", &world.text("data"));
        text.replace("/usr/share/superchat/migrations", &world.text("data/migrations"))
    };
    let page = here(&fs::read_to_string(page).unwrap());
    let block = |start: &str| {
        let from = page.find(start).unwrap_or_else(|| panic!("{start} is not on the page"));
        let rest = &page[from + start.len()..];
        rest[..rest.find("\n```").unwrap()].trim().to_owned()
    };
    let repository = "[repository.local]\nurl = \"file://$REPO\"\n";
    world.configure(&format!("{repository}{}", block("```toml\n")));
    let program = format!("'{}'", env!("CARGO_BIN_EXE_lifeboat"));
    let say = |line: &str| {
        let known = world.command(&[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line.replacen("lifeboat", &program, 1));
        shell.env_clear().current_dir(world.path("data"));
        for (name, value) in known.get_envs() {
            shell.env(name, value.unwrap());
        }
        ran(shell.output().unwrap())
    };
    let watch = page.lines().find(|line| line.starts_with("lifeboat guard --watch")).unwrap();
    let drop_in = say(watch).expect(0).out;
    let start = drop_in.lines().find_map(|line| line.strip_prefix("ExecStartPre=+")).unwrap();
    ran(world.command(&[]).args(start.split(' ').skip(1)).output().unwrap())
        .expect(0)
        .says("after v8 come 009_next.sql");
    say(&block("```\nlifeboat guard superchat -- ").replacen(
        "",
        "lifeboat guard superchat -- ",
        1,
    ))
    .expect(0);
    assert_eq!(version(&path), 9);
    // Once more it fails, as the ninth is there, and is rolled back as the page configures it.
    let asked = page.find("lifeboat guard superchat \\\n").unwrap();
    let asked = &page[asked..][..page[asked..].find("\n```").unwrap()];
    say(asked).expect(1).says("rolled back, the schema is v9 again");
    assert_eq!(copies(&world).len(), 3);
}
