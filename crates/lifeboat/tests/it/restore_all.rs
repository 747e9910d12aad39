//! `restore --all`: one plan over every source, the moment, another root, and what happens when
//! one of them fails.

use std::fs;

use rusqlite::Connection;

use crate::support::{World, add_rows, content, damage, rows};

/// Two databases, one with a companion, and files with a rhythm of their own.
fn world() -> World {
    let world = World::new();
    for (name, count) in [("chat.db", 10), ("shop.db", 20)] {
        world.database(name, count);
    }
    fs::create_dir(world.path("etc")).unwrap();
    for name in ["key", "config.toml"] {
        fs::write(world.path("etc").join(name), format!("{name} 1")).unwrap();
    }
    let etc = world.text("etc");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.chat]\nsqlite = \"$DATA/chat.db\"\nfiles = [\"{etc}/config.toml\"]\n\
         [source.shop]\nsqlite = \"$DATA/shop.db\"\n\
         [source.z-key]\nfiles = [\"{etc}/key\"]\nwhen = \"on-change\"\n"
    ));
    world
}

fn lose_everything(world: &World) {
    for folder in ["data", "etc"] {
        fs::remove_dir_all(world.path(folder)).unwrap();
    }
    // Where the program is started from.
    fs::create_dir(world.path("data")).unwrap();
}

#[test]
fn everything_comes_back_by_one_plan() {
    let world = world();
    let before = content(&world.path("data/chat.db"));
    world.run(&["backup"]).expect(0);
    lose_everything(&world);
    let plan = world.run(&["restore", "--all", "--dry-run"]).expect(0);
    for text in ["SOURCE", "z-key", "chat.db, /...", "shop.db", "put it in place"] {
        assert!(plan.out.contains(text), "{text}: {}", plan.out);
    }
    assert!(
        world.names("data").is_empty() && !world.path("etc").exists(),
        "a plan changes nothing"
    );
    world.run(&["restore", "--all"]).expect(24).says("restoring 3 sources");
    assert!(world.names("data").is_empty());
    let ran = world.run(&["restore", "--all", "--yes", "--json"]).expect(0);
    let json = ran.json();
    let order: Vec<&str> =
        json.as_array().unwrap().iter().map(|it| it["source"].as_str().unwrap()).collect();
    assert_eq!(order, ["z-key", "chat", "shop"], "files first");
    assert_eq!(content(&world.path("data/chat.db")), before);
    assert_eq!(rows(&world.path("data/shop.db")), 20);
    assert_eq!(fs::read_to_string(world.path("etc/key")).unwrap(), "key 1");
    assert_eq!(fs::read_to_string(world.path("etc/config.toml")).unwrap(), "config.toml 1");
}

#[test]
fn each_goes_to_its_newest_at_the_moment_and_can_be_undone() {
    let world = world();
    world.run(&["backup"]).expect(0);
    let first = world.run(&["list", "chat", "--json"]).expect(0).json();
    let moment = first[0]["taken_at"].as_str().unwrap().to_owned();
    for (name, more) in [("chat.db", 1), ("shop.db", 2)] {
        let connection = Connection::open(world.path("data").join(name)).unwrap();
        add_rows(&connection, 1000, more);
    }
    fs::write(world.path("etc/config.toml"), "config.toml 2").unwrap();
    world.run(&["backup", "chat"]).expect(0);
    // Of the first round `shop` and the key were taken later than `chat`: their second names the
    // moment that has all of them.
    let all = world.run(&["list", "--json"]).expect(0).json();
    let of = |name: &str| {
        let found = all.as_array().unwrap().iter().find(|it| it["source"]["name"] == name);
        found.unwrap()["taken_at"].as_str().unwrap().to_owned()
    };
    let second = of("z-key").max(of("shop")).max(moment);
    world.run(&["restore", "--all", "--at", &second, "--yes"]).expect(0);
    assert_eq!((rows(&world.path("data/chat.db")), rows(&world.path("data/shop.db"))), (10, 20));
    assert_eq!(fs::read_to_string(world.path("etc/config.toml")).unwrap(), "config.toml 1");
    for (name, count) in [("chat", 11), ("shop", 22)] {
        world.run(&["undo", name, "--yes"]).expect(0);
        assert_eq!(rows(&world.path("data").join(format!("{name}.db"))), count);
    }
    world.run(&["restore", "--all", "--at", "2001-01-01", "--yes"]).expect(22);
    assert_eq!(rows(&world.path("data/chat.db")), 11);
}

#[test]
fn another_root_takes_all_of_it_and_nothing_is_touched_here() {
    let world = world();
    world.run(&["backup"]).expect(0);
    let before = (world.names("data"), world.names("etc"));
    let root = world.path("new/root");
    // Nothing is overwritten there, so nothing is asked.
    world.run(&["restore", "--all", "--root", root.to_str().unwrap()]).expect(0);
    let below = |path: &str| root.join(world.text(path).trim_start_matches('/'));
    assert_eq!(rows(&below("data/chat.db")), 10);
    assert_eq!(rows(&below("data/shop.db")), 20);
    assert_eq!(fs::read_to_string(below("etc/key")).unwrap(), "key 1");
    assert_eq!(fs::read_to_string(below("etc/config.toml")).unwrap(), "config.toml 1");
    assert_eq!((world.names("data"), world.names("etc")), before);
}

#[test]
fn a_source_without_a_backup_is_said_and_the_others_are_restored() {
    let world = world();
    world.run(&["backup", "chat", "z-key"]).expect(0);
    lose_everything(&world);
    let plan = world.run(&["restore", "--all", "--dry-run"]).expect(3);
    assert!(plan.out.contains("no backup"), "{}", plan.out);
    world
        .run(&["restore", "--all", "--yes"])
        .expect(3)
        .says("1 of 3 sources have no backup to go back to: shop");
    assert_eq!(rows(&world.path("data/chat.db")), 10);
    assert!(!world.path("data/shop.db").exists());
}

#[test]
fn the_first_failure_is_the_end_and_says_what_was_done() {
    let world = world();
    world.run(&["backup"]).expect(0);
    // The database that is second: its stored bytes are not what they were.
    let artifact = world.artifact("chat", ".db.zst");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&artifact, bytes).unwrap();
    let connection = Connection::open(world.path("data/shop.db")).unwrap();
    add_rows(&connection, 1000, 1);
    drop(connection);
    fs::write(world.path("etc/key"), "key 2").unwrap();
    let ran = world.run(&["restore", "--all", "--yes", "--json"]).expect(20);
    assert!(ran.err.contains("restored: z-key; not done: chat, shop"), "{}", ran.err);
    let outcomes: Vec<String> =
        ran.json().as_array().unwrap().iter().map(|it| it["outcome"].to_string()).collect();
    assert_eq!(outcomes, ["\"restored\"", "\"not-done\"", "\"not-done\""]);
    assert_eq!(fs::read_to_string(world.path("etc/key")).unwrap(), "key 1");
    assert_eq!((rows(&world.path("data/chat.db")), rows(&world.path("data/shop.db"))), (10, 21));
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_changed() {
    let world = world();
    world.run(&["backup"]).expect(0);
    fs::write(world.path("etc/key"), "key 2").unwrap();
    let holder = crate::support::Holder::of(&world.path("data/shop.db"));
    world
        .run(&["restore", "--all", "--yes"])
        .expect(23)
        .says("`shop` cannot be restored, nothing was changed");
    drop(holder);
    assert_eq!(fs::read_to_string(world.path("etc/key")).unwrap(), "key 2");
    let text = fs::read_to_string(world.path("home/config/lifeboat/config.toml")).unwrap();
    let twice = format!("{text}[source.again]\nsqlite = \"{}\"\n", world.text("data/shop.db"));
    world.configure(&twice);
    world.run(&["restore", "--all", "--yes"]).expect(2).says("go to the same place");
    for wrong in
        [&["restore"][..], &["restore", "--all", "chat"], &["restore", "chat", "--root", "/x"]]
    {
        world.run(wrong).expect(2);
    }
}

#[test]
fn a_kill_half_way_leaves_each_source_as_it_was_or_restored_and_can_be_run_again() {
    let world = world();
    world.run(&["backup"]).expect(0);
    for (name, more) in [("chat.db", 1), ("shop.db", 2)] {
        let connection = Connection::open(world.path("data").join(name)).unwrap();
        add_rows(&connection, 1000, more);
    }
    fs::write(world.path("etc/key"), "key 2").unwrap();
    let mut command = world.command(&["restore", "--all", "--yes"]);
    let killed = command.env("LIFEBOAT_CRASH_AT", "restore.verified").output().unwrap();
    assert_eq!(crate::support::ran(killed).code, 137);
    assert_eq!(fs::read_to_string(world.path("etc/key")).unwrap(), "key 1", "the first was done");
    assert_eq!((rows(&world.path("data/chat.db")), rows(&world.path("data/shop.db"))), (11, 22));
    world.run(&["restore", "--all", "--yes"]).expect(0);
    assert_eq!((rows(&world.path("data/chat.db")), rows(&world.path("data/shop.db"))), (10, 20));
}

/// On a bare host a glob matches nothing: the repository knows what it meant.
#[test]
fn databases_of_a_glob_come_back_when_all_of_them_are_lost() {
    let world = World::new();
    for tenant in ["one", "two"] {
        fs::create_dir(world.path("data").join(tenant)).unwrap();
        world.database(&format!("{tenant}/app.db"), 10);
    }
    world.database("other.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.tenant]\nsqlite = { glob = \"$DATA/*/app.db\" }\n",
    );
    world.run(&["backup"]).expect(0);
    world.run(&["backup", "other.db"]).expect(0);
    lose_everything_below_data(&world);
    world.run(&["restore", "--all", "--yes"]).expect(0);
    for tenant in ["one", "two"] {
        assert_eq!(rows(&world.path("data").join(tenant).join("app.db")), 10);
    }
    assert!(!world.path("data/other.db").exists(), "nobody configured it");
    // One of them alone is as lost.
    fs::remove_dir_all(world.path("data/two")).unwrap();
    damage_one(&world);
    world.run(&["restore", "--all", "--yes"]).expect(0);
    assert_eq!(rows(&world.path("data/two/app.db")), 10);
}

fn lose_everything_below_data(world: &World) {
    fs::remove_dir_all(world.path("data")).unwrap();
    fs::create_dir(world.path("data")).unwrap();
}

/// What is there and broken is replaced as what is lost is.
fn damage_one(world: &World) {
    let path = world.path("data/one/app.db");
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 1000, 500);
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    drop(connection);
    damage(&path);
}
