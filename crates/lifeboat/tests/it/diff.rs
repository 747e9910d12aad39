//! `lifeboat diff`: any two of live database, backup, state of a log, file and salvage.

use std::fs;
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use crate::postgres_server::{self, Server, kinds_of_majors};
use crate::support::{World, add_rows, damage};

/// A configured database with a backup, and changed since.
fn changed_since_backup() -> World {
    let world = World::new();
    let path = world.database("chat.db", 2_000);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    world.run(&["backup"]).expect(0);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DELETE FROM message WHERE id BETWEEN 11 AND 15;
             UPDATE message SET body = 'changed' WHERE id = 100;
             UPDATE message SET body = NULL, person = 2 WHERE id = 101",
        )
        .unwrap();
    add_rows(&connection, 5_000, 3);
    world
}

fn table<'a>(value: &'a Value, name: &str) -> &'a Value {
    let tables = value["tables"].as_array().unwrap();
    tables.iter().find(|table| table["table"] == name).unwrap()
}

fn counts(value: &Value, name: &str) -> Vec<u64> {
    let table = table(value, name);
    ["only_a", "only_b", "changed", "same"].map(|it| table[it].as_u64().unwrap()).to_vec()
}

#[test]
fn a_backup_and_the_live_database_are_compared_by_table_and_key() {
    let world = changed_since_backup();
    let ran = world.run(&["diff", "chat@latest", "chat", "--json"]).expect(20);
    let value = ran.json();
    assert_eq!(value["outcome"], "differs");
    assert_eq!(counts(&value, "message"), [5, 3, 2, 1_993]);
    assert_eq!(counts(&value, "person"), [0, 0, 0, 2]);
    assert_eq!(table(&value, "message")["key"], serde_json::json!(["id"]));
    assert_eq!(table(&value, "message")["changed_columns"]["body"], 2);
    // The other way round, and the rows themselves.
    let ran = world.run(&["diff", "chat", "chat@latest", "--table", "message"]).expect(20);
    assert!(ran.out.contains("3 only in A, 5 only in B, 2 changed in "), "{}", ran.out);
    assert!(ran.out.contains("+ id=11 "), "{}", ran.out);
    assert!(ran.out.contains("and 5 more: --rows COUNT"), "{}", ran.out);
    let all = ["diff", "chat", "chat@latest", "--table", "message", "--rows", "100"];
    let ran = world.run(&all).expect(20);
    assert!(ran.out.contains("~ id=100 body='changed' -> 'message 100"), "{}", ran.out);
    // Nothing is left, and what is the same is said with 0.
    assert!(world.names("tmp").is_empty());
    let name = world.names("repo/chat").into_iter().find(|name| name.ends_with(".json"));
    let name = name.filter(|name| name != "source.json").unwrap_or_else(|| "chat@latest".into());
    let backup = name.trim_end_matches(".json");
    let ran = world.run(&["diff", backup, "chat@latest"]).expect(0);
    assert!(ran.out.contains("2 tables are the same, with 2,002 rows"), "{}", ran.out);
    let artifact = world.artifact("chat", ".db.zst");
    world.run(&["diff", artifact.to_str().unwrap(), "chat@latest"]).expect(0);
}

#[test]
fn what_a_restore_kept_a_copy_of_a_script_and_a_salvage_are_sides_too() {
    let world = changed_since_backup();
    let live = world.text("data/chat.db");
    fs::copy(&live, world.path("data/copied.db")).unwrap();
    let sqlite3 = |sql: &str| {
        let done = Command::new("sqlite3").arg(&live).arg(sql).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    sqlite3("PRAGMA wal_checkpoint(TRUNCATE)");
    // A copy of a script, compressed.
    let gzip = Command::new("gzip").args(["-k", &live]).output().unwrap();
    assert!(gzip.status.success());
    world.run(&["diff", "chat.db.gz", "chat"]).expect(0);
    world.run(&["restore", "chat", "--yes"]).expect(0);
    let kept = world.names("data").into_iter();
    let kept = kept.filter(|name| name.contains(".before_restore.") && !name.ends_with("-wal"));
    let kept: Vec<String> = kept.filter(|name| !name.ends_with("-shm")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let value = world.run(&["diff", &kept[0], "chat.db", "--json"]).expect(20).json();
    assert_eq!(counts(&value, "message"), [3, 5, 2, 1_993]);
    world.run(&["diff", &kept[0], "chat.db.gz"]).expect(0);
    // What salvage brought back of a damaged copy, beside the backup.
    let broken = world.path("data/broken.db");
    fs::copy(&live, &broken).unwrap();
    damage(&broken);
    world.run(&["salvage", "broken.db", "--to", "saved.db"]).expect(3);
    let value = world.run(&["diff", "chat@latest", "saved.db", "--json"]).expect(20).json();
    let found = counts(&value, "message");
    assert!(found[0] > 0 && found[3] > 1_500, "{found:?}");
    assert_eq!(table(&value, "_lifeboat_salvage")["where"], "only_b");
    // A damaged one is said to be damaged, and by no means the same.
    let ran = world.run(&["diff", "broken.db", "chat"]);
    assert_eq!(ran.code, 20, "{ran:?}");
}

#[test]
fn wrong_sides_are_refused_with_what_mends_it() {
    let world = changed_since_backup();
    world.run(&["diff", "chat", "nothing"]).expect(22);
    world.run(&["diff", "chat", "chat@-30d"]).expect(22);
    world.run(&["diff", "chat", "chat", "--table", "nobody"]).expect(2).says("nobody");
    fs::write(world.path("data/text"), "just a text\n".repeat(100)).unwrap();
    world.run(&["diff", "chat", "text"]).expect(20).says("does not hold a database");
    world.run(&["diff", "chat", "postgresql:///x?host=/nowhere"]).expect(2).says("of two kinds");
    assert!(world.names("tmp").is_empty(), "{:?}", world.names("tmp"));
}

#[test]
fn a_dump_and_the_live_database_of_a_server_are_compared() {
    for major in kinds_of_majors() {
        let server = Server::new(*major);
        server.sql("postgres", "CREATE DATABASE chat");
        server.sql(
            "chat",
            "SET search_path = public;
             CREATE TABLE person(id bigint PRIMARY KEY, name text, height float8, born date);
             INSERT INTO person SELECT i, 'name' || i || E'\\t\\\\', i / 3.0, '2001-02-03'
                 FROM generate_series(1, 2000) AS i;
             CREATE TABLE word(w varchar(20), n int, b bytea, PRIMARY KEY (w, n));
             INSERT INTO word SELECT chr(60 + i % 60) || i, i, '\\x0001' FROM generate_series(1, 999) i;
             CREATE TABLE bag(a text, b int);
             INSERT INTO bag SELECT 'x', i % 3 FROM generate_series(1, 30) AS i",
        );
        let world = postgres_server::world_of(&server.url("chat"));
        postgres_server::run(&world, &["backup"]).expect(0);
        let name = world
            .names("repo")
            .into_iter()
            .find(|name| world.path("repo").join(name).join("source.json").is_file());
        let (name, url) = (name.unwrap(), server.url("chat"));
        let backup = format!("{name}@latest");
        let same = postgres_server::run(&world, &["diff", &backup, &url]).expect(0);
        assert!(same.out.contains("3 tables are the same, with 3,029 rows"), "{}", same.out);
        server.sql(
            "chat",
            "SET search_path = public;
             DELETE FROM person WHERE id IN (1, 7, 2000); INSERT INTO person VALUES (5000, 'new');
             UPDATE person SET height = height + 1e-9 WHERE id = 9;
             UPDATE word SET b = '\\x0002' WHERE n = 3; DELETE FROM word WHERE n = 999;
             INSERT INTO bag VALUES ('x', 1), (NULL, NULL); DELETE FROM bag WHERE b = 2;
             CREATE INDEX by_name ON person(name)",
        );
        let arguments = ["diff", &backup, &url, "--json", "--rows", "3"];
        let value = postgres_server::run(&world, &arguments).expect(20).json();
        assert_eq!(counts(&value, "public.person"), [3, 1, 1, 1_996]);
        assert_eq!(counts(&value, "public.word"), [1, 0, 1, 997]);
        assert_eq!(counts(&value, "public.bag"), [10, 2, 0, 20]);
        assert_eq!(table(&value, "public.person")["changed_columns"]["height"], 1);
        assert_eq!(table(&value, "public.person")["rows"][0]["a"]["name"], "name1\t\\");
        assert_eq!(value["schema"][0]["name"], "public.by_name");
        let one = ["diff", &url, &url, "--table", "word"];
        postgres_server::run(&world, &one).expect(0);
        assert!(world.names("tmp").is_empty(), "{:?}", world.names("tmp"));
    }
}
