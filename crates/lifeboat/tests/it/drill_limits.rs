//! What bounds a drill, and what its questions find: rows that break what their tables demand,
//! another schema, too little time, too little space.

use std::fs;

use rusqlite::Connection;
use serde_json::Value;

use crate::bad_input::in_own_namespace;
use crate::drill::{check, configure, nothing_is_left, record, world};
use crate::support::{World, ran};

/// The only backup's manifest.
fn manifest(world: &World) -> std::path::PathBuf {
    let names = world.names("repo/app").into_iter();
    let mut names = names.filter(|name| name.ends_with(".json") && name != "source.json");
    world.path("repo/app").join(names.next().unwrap())
}

#[test]
fn a_row_that_breaks_a_check_fails_verify_drill_and_restore() {
    let world = World::new();
    let path = world.database("app.db", 10);
    let broken = "CREATE TABLE account(id INTEGER PRIMARY KEY, cents CHECK (cents >= 0));
                  PRAGMA ignore_check_constraints = ON;
                  INSERT INTO account(cents) VALUES (5), (-5)";
    Connection::open(&path).unwrap().execute_batch(broken).unwrap();
    let with = |check: &str| {
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n\
             [source.app]\nsqlite = \"$DATA/app.db\"\ncheck = \"{check}\"\n"
        ));
    };
    let said = "CHECK constraint failed in account: cents >= 0";
    with("none");
    world.run(&["backup"]).expect(0);
    world.run(&["verify", "--level", "full"]).expect(20).says(said);
    world.run(&["drill"]).expect(20).says(said);
    let to = world.text("data/back.db");
    world.run(&["restore", "app", "--to", &to]).expect(20).says(said);
    assert_eq!(world.names("data").iter().filter(|name| name.contains("back")).count(), 0);
    // As it is, it can be had, and is not altered.
    world.run(&["restore", "app", "--to", &to, "--check", "none"]).expect(0);
    let rows: u32 = Connection::open(&to)
        .unwrap()
        .query_row("SELECT count(*) FROM account WHERE cents < 0", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
    // Whoever looks while it is backed up is told then.
    for check in ["quick", "full"] {
        with(check);
        world.run(&["backup"]).expect(20).says(said);
    }
}

#[test]
fn another_version_of_the_schema_than_was_backed_up_fails_it() {
    let world = world("");
    let live = Connection::open(world.path("data/app.db")).unwrap();
    live.pragma_update(None, "user_version", 3).unwrap();
    world.run(&["backup"]).expect(0);
    let found = record(&world.run(&["drill", "--json"]).expect(0));
    assert_eq!(check(&found, "schema_version")["detail"], "3");
    // The application went on to the next one, whose backup is not made yet.
    live.pragma_update(None, "user_version", 4).unwrap();
    let found = world.run(&["drill"]).expect(0);
    drop(found.says("restored is 3, live is 4"));
    // The configuration knows better where it stands.
    live.execute_batch("CREATE TABLE about(version TEXT); INSERT INTO about VALUES ('v7')")
        .unwrap();
    configure(&world, "schema_version = \"SELECT version FROM about\"");
    world.run(&["drill"]).expect(20).says("no such table: about");
    world.run(&["backup"]).expect(0);
    let found = record(&world.run(&["drill", "--json"]).expect(0));
    assert_eq!(check(&found, "schema_version")["detail"], "'v7'", "{found:#}");
    // A manifest that tells of another one.
    let other = World::new();
    let path = other.database("app.db", 10);
    Connection::open(path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    configure(&other, "");
    for name in ["ssh_host_key", "app.toml"] {
        fs::write(other.path("data").join(name), "x").unwrap();
    }
    other.run(&["backup"]).expect(0);
    let text = fs::read_to_string(manifest(&other)).unwrap();
    let wrong = text.replace("\"version\": \"3\"", "\"version\": \"2\"");
    assert_ne!(text, wrong);
    fs::write(manifest(&other), wrong).unwrap();
    other.run(&["drill"]).expect(20).says("it is 3, backed up was 2");
    nothing_is_left(&other);
}

#[test]
fn a_drill_that_takes_too_long_is_ended_whatever_it_waits_for() {
    let endless = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) \
                   SELECT count(*) FROM c";
    let world = world("");
    for waits in [
        format!("assert = [\"{endless}\"]"),
        "command = [\"sleep\", \"600\"]\nprobe = \"tcp\"\ncommand_timeout = \"10m\"".to_owned(),
    ] {
        configure(&world, &format!("{waits}\ntime_limit = \"1s\"\nmemory_max = \"64MB\""));
        world.run(&["drill"]).expect(20).says("the time limit of 1s is over");
        nothing_is_left(&world);
        let shown = world.run(&["proof", "show", "app", "--json"]).expect(0).json();
        let failure = shown["record"]["failure"].as_str().unwrap();
        assert!(failure.contains("the time limit of 1s is over"), "{failure}");
    }
}

#[test]
fn a_scratch_place_without_room_is_told_and_left_empty() {
    let world = World::new();
    world.database("app.db", 20_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n",
    );
    world.run(&["backup"]).expect(0);
    let script = "mount -t tmpfs -o size=600k tmpfs \"$1\" && TMPDIR=\"$1\" \"$2\" drill --json; \
                  code=$?; ls -A \"$1\" | sed 's/^/left: /' >&2; exit $code";
    let Some(mut command) = in_own_namespace(script) else { return };
    fs::create_dir(world.path("small")).unwrap();
    let own = world.command(&[]);
    for (name, value) in own.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    command.arg(world.path("small")).arg(env!("CARGO_BIN_EXE_lifeboat"));
    let ran = ran(command.output().unwrap()).expect(14);
    let made: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(made[0]["record"]["passed"], false, "{made:#}");
    assert!(!ran.err.contains("left: "), "what it began is removed: {}", ran.err);
    assert!(ran.err.contains("TMPDIR"), "{}", ran.err);
}
