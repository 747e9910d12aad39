//! `lifeboat rescue`: what can be had of a database that is lost or damaged, and that it is had.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, add_rows, content, damage, ran, rows};

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

/// At a terminal it asks, and the answer decides; an empty one means what is recommended.
#[test]
fn the_answer_at_a_terminal_decides() {
    for (answer, code, is_mended) in
        [("1\nyes\n", 0, true), ("\nyes\n", 0, true), ("no\n", 20, false), ("1\nno\n", 24, false)]
    {
        let world = world();
        let path = world.path("data/chat.db");
        damage(&path);
        let damaged = fs::read(&path).unwrap();
        // `script` gives the program a terminal.
        let line = format!("{} rescue chat", env!("CARGO_BIN_EXE_lifeboat"));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_clear();
        let own = world.command(&[]);
        command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.current_dir(world.path("data")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{answer}: {}", ran.out);
        assert!(ran.out.contains("which one?"), "{}", ran.out);
        match is_mended {
            true => assert_eq!(rows(&path), 3_000),
            false => assert!(fs::read(&path).unwrap() == damaged),
        }
    }
}

/// The names that the scripts of both guides give, compressed and not.
#[test]
fn backups_under_the_names_of_the_guides_are_found() {
    for name in [
        "superchat-20260106-120000.db.gz",
        "admin_sqlite_20260106_120000.db.gz",
        "superchat-20260106-120000.db",
    ] {
        let world = World::new();
        let source = if name.starts_with("admin") { "admin" } else { "superchat" };
        let path = world.database(&format!("{source}.db"), 400);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
        connection.close().unwrap();
        fs::create_dir(world.path("old")).unwrap();
        let plain = world.path("old").join(name.trim_end_matches(".gz"));
        fs::copy(&path, &plain).unwrap();
        if name.ends_with(".gz") {
            assert!(Command::new("gzip").arg(&plain).status().unwrap().success());
        }
        fs::remove_file(&path).unwrap();
        let (place, old) = (path.to_str().unwrap(), world.text("old"));
        let take = ["rescue", place, "--look-in", &old, "--take", "1", "--yes"];
        world.run(&take).expect(0);
        assert_eq!(rows(&path), 400, "{name}");
    }
}

/// Of several sources one is named, and the others stay as they are.
#[test]
fn of_several_sources_one_is_named() {
    let world = World::new();
    let (chat, other) = (world.database("chat.db", 300), world.database("other.db", 200));
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n\
         [source.other]\nsqlite = \"$DATA/other.db\"\n",
    );
    world.run(&["backup"]).expect(0);
    fs::remove_file(&chat).unwrap();
    fs::remove_file(&other).unwrap();
    world.run(&["rescue"]).expect(2).says("lifeboat rescue chat|other");
    world.run(&["rescue", "chat", "--take", "1", "--yes"]).expect(0);
    assert_eq!((rows(&chat), other.exists()), (300, false));
    world.run(&["rescue", "other", "--take", "1", "--yes"]).expect(0);
    assert_eq!(rows(&other), 200);
}

/// What a rescue left that was killed: told, and what was not finished goes; what somebody may need
/// stays, and what is being made now, too.
#[test]
fn what_a_killed_rescue_left_is_told_and_what_it_did_not_finish_goes() {
    let world = world();
    damage(&world.path("data/chat.db"));
    let finished = world.path("data/chat.db.salvaged-20260106-120000");
    let unfinished = world.path("data/.chat.db.salvaged-20260106-120000.salvage-0000ab12");
    let in_use = world.path("data/.chat.db.salvaged-20260106-120001.salvage-0000ab13");
    let others = world.path("data/chat.db.salvaged-by-hand");
    for path in [&finished, &unfinished, &in_use, &others] {
        fs::write(path, "rows").unwrap();
    }
    let maker = fs::File::open(&in_use).unwrap();
    maker.try_lock().unwrap();
    let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
    let notes: Vec<String> =
        looked["notes"].as_array().unwrap().iter().map(|note| note.to_string()).collect();
    let says = |path: &std::path::Path| {
        let word = path.to_str().unwrap().to_owned();
        notes.iter().filter(move |note| note.contains(&word))
    };
    assert!(says(&finished).all(|note| note.contains("rm ")) && says(&finished).count() == 1);
    assert_eq!((says(&unfinished).count(), says(&in_use).count()), (1, 0), "{notes:?}");
    assert_eq!(says(&others).count(), 0, "{notes:?}");
    world.run(&["rescue", "chat", "--take", "1", "--yes"]).expect(0).says("of a rescue");
    assert!(!unfinished.exists());
    assert!(finished.exists() && in_use.exists() && others.exists());
}

/// Killed at any moment of a salvage that is taken, it is run again and comes to the same end.
#[test]
fn killed_half_way_it_is_run_again() {
    let world = world();
    let path = world.path("data/chat.db");
    let whole = content(&path);
    damage(&path);
    let damaged = fs::read(&path).unwrap();
    let salvage = |world: &World| {
        let looked = world.run(&["rescue", "chat", "--json"]).expect(20).json();
        (1 + ways(&looked).iter().position(|way| *way == "salvage").unwrap()).to_string()
    };
    for round in 0..6 {
        if fs::read(&path).unwrap() != damaged {
            fs::write(&path, &damaged).unwrap();
        }
        let number = salvage(&world);
        let mut command = world.command(&["rescue", "chat", "--take", &number, "--yes"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + round * 45));
        child.kill().unwrap();
        child.wait().unwrap();
        // Either the damaged file is there as it was, or the new one is, whole.
        let is_there = path.exists() && fs::read(&path).unwrap() == damaged;
        let kept = world.names("data");
        let is_kept = kept.iter().any(|name| name.contains(".before_restore."));
        assert!(is_there || is_kept, "round {round}: {kept:?}");
        if is_there {
            world.run(&["rescue", "chat", "--take", &salvage(&world), "--yes"]).expect(0);
        } else if !path.exists() {
            world.run(&["undo", "chat", "--yes"]).expect(0);
            world.run(&["rescue", "chat", "--take", &salvage(&world), "--yes"]).expect(0);
        }
        let salvaged = content(&path);
        assert!(whole.iter().all(|row| salvaged.contains(row)), "round {round}");
        for name in world.names("data").iter().filter(|name| name.starts_with("chat.db.")) {
            fs::remove_file(world.path("data").join(name)).unwrap();
        }
    }
}

/// On a disk that has no byte left the look at it says what may go, and that it goes makes room.
#[test]
fn on_a_disk_that_is_really_full_room_is_made() {
    let world = World::new();
    world.database("chat.db", 2_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    fs::create_dir(world.path("full")).unwrap();
    // The database, three copies before migrations of which one may go, and then not a byte.
    let script = "mount -t tmpfs -o size=4m tmpfs \"$1\" && cp -p \"$3\"/chat.db* \"$1\" && \
        for at in 20240105 20240106 20240107; do \
          cp \"$1/chat.db\" \"$1/chat.db.backup-v3-$at-120000\"; \
          touch -d 2024-01-08 \"$1/chat.db.backup-v3-$at-120000\"; done; \
        dd if=/dev/zero of=\"$1/fill\" bs=1k 2>/dev/null; \
        df --output=avail \"$1\" | tail -1; \
        \"$2\" rescue \"$1/chat.db\" --disk-full --take 1 --yes; code=$?; \
        df --output=avail \"$1\" | tail -1; ls \"$1\"; exit $code";
    let Some(mut command) = crate::bad_input::in_own_namespace(script) else { return };
    command.arg(world.path("full")).arg(env!("CARGO_BIN_EXE_lifeboat")).arg(world.path("data"));
    let own = world.command(&[]);
    command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // What it keeps for itself lies on the full disk as well.
    command.env("XDG_STATE_HOME", world.path("full/state")).env("TMPDIR", world.path("full"));
    let ran = ran(command.output().unwrap()).expect(0);
    let numbers: Vec<u64> = ran.out.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers[0] == 0 && numbers[1] > 50, "{ran:?}");
    assert!(ran.out.contains("chat.db.backup-v3-20240107"), "the newest stay: {ran:?}");
    assert!(!ran.out.lines().any(|line| line == "chat.db.backup-v3-20240105-120000"), "{ran:?}");
}
