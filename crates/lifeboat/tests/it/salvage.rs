//! `lifeboat salvage` as a person at night meets it: its exit codes, its words, its JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;

use crate::support::{World, add_rows, content, damage, ran};

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

/// A configured database whose writer stays: the connection, and a backup.
fn written(world: &World, pragmas: &str) -> Connection {
    let path = world.database("chat.db", 3_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(pragmas).unwrap();
    add_rows(&connection, 3_001, 50);
    world.run(&["backup", "chat"]).expect(0);
    connection
}

/// What lies at the place of the database now, copied and damaged; and what it holds.
fn evidence(world: &World) -> (PathBuf, Vec<(u32, String)>) {
    let folder = world.path("evidence");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    for ending in ["", "-wal"] {
        let name = format!("chat.db{ending}");
        let _ = fs::copy(world.path("data").join(&name), folder.join(&name));
    }
    let damaged = folder.join("chat.db");
    damage(&damaged);
    (damaged, content(&world.path("data/chat.db")))
}

fn donated(world: &World, damaged: &Path, donor: &str, code: i32) -> usize {
    let to = world.text("tmp/new.db");
    let _ = fs::remove_file(&to);
    let damaged = damaged.to_str().unwrap();
    let ran = world.run(&["salvage", damaged, "--to", &to, "--donor", donor, "--json"]);
    let value = ran.expect(code).json();
    let left: Vec<String> = world.names("tmp").into_iter().filter(|it| it != "new.db").collect();
    assert!(left.is_empty(), "{left:?}");
    value["donated_pages"].as_array().unwrap().len()
}

/// The server goes on writing while a page of its file is lost: the `-wal` proves that it did not
/// change since the backup, or since the newest state of the log.
#[test]
fn pages_of_a_backup_or_of_its_log_stand_in_for_harmed_ones() {
    let world = World::new();
    let connection = written(&world, "PRAGMA wal_autocheckpoint = 0");
    add_rows(&connection, 4_000, 100);
    let (damaged, truth) = evidence(&world);
    for donor in ["chat@latest", "chat", world.artifact("chat", ".db.zst").to_str().unwrap()] {
        assert_eq!(donated(&world, &damaged, donor, 0), 1, "{donor}");
        assert!(content(&world.path("tmp/new.db")) == truth);
    }
    // A copy of that backup as a file: nothing says which frame it ended with.
    let copy = world.text("tmp/copy.db");
    world.run(&["restore", "chat@latest", "--to", &copy]).expect(0);
    fs::rename(&copy, world.path("evidence/copy.db")).unwrap();
    assert_eq!(donated(&world, &damaged, &world.text("evidence/copy.db"), 3), 0);
    // The log goes on to a later -wal; the backup's is no more.
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    add_rows(&connection, 5_000, 100);
    world.run(&["backup", "chat", "--incremental"]).expect(0);
    add_rows(&connection, 6_000, 100);
    let (damaged, truth) = evidence(&world);
    assert_eq!(donated(&world, &damaged, "chat@latest", 0), 1);
    assert!(content(&world.path("tmp/new.db")) == truth);
    let names = world.names("repo/chat");
    let backup = names.iter().find(|name| name.ends_with(".db.zst")).unwrap();
    assert_eq!(donated(&world, &damaged, backup.trim_end_matches(".db.zst"), 3), 0);
    let to = world.text("tmp/other.db");
    let absent = ["salvage", damaged.to_str().unwrap(), "--to", &to, "--donor", "nobody"];
    world.run(&absent).expect(22);
}

/// With a rollback journal the header counts transactions: where there was none since, the backup's
/// pages are the database's, and all rows are certain.
#[test]
fn pages_stand_in_where_no_transaction_was_made_since() {
    let world = World::new();
    let connection = written(&world, "PRAGMA journal_mode = DELETE");
    let (damaged, truth) = evidence(&world);
    let copy = world.text("evidence/copy.db");
    world.run(&["restore", "chat@latest", "--to", &copy]).expect(0);
    for donor in ["chat@latest", &copy] {
        assert_eq!(donated(&world, &damaged, donor, 0), 1, "{donor}");
        assert!(content(&world.path("tmp/new.db")) == truth);
    }
    add_rows(&connection, 4_000, 1);
    let (damaged, _) = evidence(&world);
    assert_eq!(donated(&world, &damaged, "chat@latest", 3), 0);
}

/// Killed half-way it leaves nothing that looks whole, and the next one removes what it left.
#[test]
fn a_salvage_that_is_killed_leaves_nothing_that_looks_whole() {
    let world = World::new();
    let path = world.database("chat.db", 60_000);
    let connection = Connection::open(&path).unwrap();
    let closed = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE";
    connection.execute_batch(closed).unwrap();
    connection.close().unwrap();
    let whole = content(&path);
    for is_damaged in [false, true] {
        if is_damaged {
            let mut bytes = fs::read(&path).unwrap();
            bytes[39] ^= 0x40;
            fs::write(&path, bytes).unwrap();
        }
        let before = fs::read(&path).unwrap();
        let parts = || {
            let names = world.names("data").into_iter();
            names.filter(|name| name.starts_with(".new.db")).collect::<Vec<_>>()
        };
        let mut command = world.command(&["salvage", "chat.db", "--to", "new.db"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // As soon as it has begun to write, or has ended before anybody saw that.
        while parts().is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(fs::read(&path).unwrap() == before);
        let to = world.path("data/new.db");
        if to.exists() {
            // It was faster: then all of it is there.
            assert!(content(&to) == whole);
            fs::remove_file(&to).unwrap();
        }
        world.run(&["salvage", "chat.db", "--to", "new.db"]).expect(0);
        assert!(content(&to) == whole && parts().is_empty(), "{:?}", parts());
        fs::remove_file(&to).unwrap();
    }
}

/// The commands of the page `docs/runbooks/corrupt-sqlite.md`, as they stand there and in their
/// order.
#[test]
fn what_the_runbook_says_works() {
    let world = World::new();
    let path = closed(&world);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    world.run(&["backup", "chat"]).expect(0);
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 9_000, 1);
    connection.close().unwrap();
    let whole = content(Path::new(&path));
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2 / 4096 * 4096;
    bytes[half..half + 4 * 4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbooks/corrupt-sqlite.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let commands: Vec<&str> = blocks.iter().flat_map(|block| block.lines()).collect();
    assert!(commands.len() > 12, "{commands:?}");
    let mut salvages = 0;
    for command in commands {
        let code = if command.starts_with("lifeboat salvage") { 3 } else { 0 };
        salvages += usize::from(code == 3);
        let words = command.replacen("lifeboat", env!("CARGO_BIN_EXE_lifeboat"), 1);
        let words = if command.starts_with("lifeboat") { words } else { command.to_owned() };
        let mut shell = world.command(&[]);
        let mut shell_command = std::process::Command::new("sh");
        shell_command.args(["-c", &words]).current_dir(world.path("data"));
        shell_command.env_clear().envs(shell.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let ran = ran(shell_command.output().unwrap());
        assert_eq!(ran.code, code, "{command}\n{ran:?}");
        shell.env_clear();
    }
    assert_eq!(salvages, 3);
    assert_eq!(content(Path::new(&path)), whole);
    assert!(world.path("data/evidence/chat.db").exists());
}
