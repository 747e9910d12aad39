//! `lifeboat restore PLACE --rows-from X --table T`: partial loss, mended while the application
//! runs.

use std::fs;

use rusqlite::Connection;

use crate::postgres_server::{self, Server, kinds_of_majors};
use crate::support::{World, content, rows};

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE room(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE,
        shout TEXT AS (upper(name)) STORED);
    CREATE TABLE post(id INTEGER PRIMARY KEY, room INTEGER NOT NULL REFERENCES room(id), body);
    CREATE TABLE seen(who TEXT, post INTEGER, at REAL, PRIMARY KEY(who, post)) WITHOUT ROWID;
    CREATE TABLE log(line);
    CREATE TRIGGER logged AFTER INSERT ON post BEGIN
        INSERT INTO log VALUES('post ' || new.id); END;
    INSERT INTO room(id, name) VALUES(1, 'hall'), (2, 'attic'), (9, 'cellar');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
        INSERT INTO post SELECT i, 1 + i % 2, 'post ' || i FROM n;
    INSERT INTO seen SELECT 'ann', id, id / 4.0 FROM post;
    DELETE FROM log;";

fn world(sql: &str) -> World {
    let world = World::new();
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n",
    );
    let connection = Connection::open(world.path("data/chat.db")).unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    world.run(&["backup"]).expect(0);
    connection.execute_batch(sql).unwrap();
    world
}

fn open(world: &World) -> Connection {
    Connection::open(world.path("data/chat.db")).unwrap()
}

fn one(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

const POSTS: [&str; 6] = ["restore", "chat", "--rows-from", "chat@latest", "--table", "post"];

fn posts<'a>(more: &[&'a str]) -> Vec<&'a str> {
    POSTS.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn missing_rows_go_back_while_the_application_runs_and_nothing_is_replaced() {
    let world = world(
        "DELETE FROM post WHERE id BETWEEN 100 AND 199; INSERT INTO post VALUES(150, 1, 'new');
         UPDATE post SET body = 'edited' WHERE id = 300; INSERT INTO post VALUES(900, 1, 'later')",
    );
    // The application has it open, and reads.
    let application = open(&world);
    let all = ["--where", "id BETWEEN 100 AND 300", "--triggers", "skip"];
    let plan = world.run(&posts(&[&all[..], &["--dry-run"]].concat())).expect(0);
    assert!(plan.out.contains("post: 99 rows are missing and are put in"), "{}", plan.out);
    assert!(plan.out.contains("! id=150: the row of that key has other values in "), "{plan:?}");
    assert_eq!(one(&application, "SELECT count(*) FROM post"), 402);
    world.run(&posts(&all)).expect(24);
    let done = world.run(&posts(&[&all[..], &["--yes", "--json"]].concat())).expect(0).json();
    assert_eq!(done["tables"][0]["inserted"], 99);
    assert_eq!(done["tables"][0]["left"], 2);
    assert_eq!(one(&application, "SELECT count(*) FROM post"), 501);
    assert_eq!(one(&application, "SELECT count(*) FROM post WHERE body IN ('new', 'edited')"), 2);
    assert_eq!(
        one(
            &application,
            "SELECT count(*) FROM log WHERE line <> 'post 150'
        AND line <> 'post 900'"
        ),
        0,
        "no trigger ran"
    );
    drop(application);
    // A second time there is nothing to do, and no copy is made.
    world.run(&posts(&[&all[..], &["--yes"]].concat())).expect(0);
    let kept = world.names("data").into_iter().filter(|it| it.contains(".before_restore.")).count();
    assert_eq!(kept, 1, "{:?}", world.names("data"));
    world.run(&["undo", "chat", "--yes"]).expect(0);
    assert_eq!(one(&open(&world), "SELECT count(*) FROM post"), 402);
}

#[test]
fn a_writer_goes_on_meanwhile_in_every_journal_mode() {
    for mode in ["wal", "delete"] {
        let world =
            world(&format!("PRAGMA journal_mode = {mode}; DELETE FROM post WHERE id < 400"));
        let path = world.path("data/chat.db");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let connection = Connection::open(&path).unwrap();
                connection.busy_timeout(std::time::Duration::from_secs(300)).unwrap();
                // On a slow disk it would hold its lock nearly all the time.
                connection.pragma_update(None, "synchronous", "off").unwrap();
                let mut written = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    connection
                        .execute("INSERT INTO post VALUES(NULL, 1, 'meanwhile')", [])
                        .unwrap();
                    written += 1;
                    // Whoever writes without a pause keeps all others out of a rollback journal.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                written
            });
            let ran = world.run(&posts(&["--triggers", "skip", "--yes"]));
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            let written = writer.join().unwrap();
            ran.expect(0);
            written
        });
        let connection = open(&world);
        let meanwhile = "SELECT count(*) FROM post WHERE body = 'meanwhile'";
        assert_eq!(one(&connection, meanwhile), written, "{mode}");
        assert_eq!(one(&connection, "SELECT count(*) FROM post WHERE id <= 500"), 500, "{mode}");
    }
}

#[test]
fn other_values_are_replaced_where_that_is_asked_for() {
    let world = world("UPDATE post SET body = 'bad' WHERE id < 4; DELETE FROM post WHERE id = 4");
    let more = ["--overwrite", "--triggers", "run", "--yes", "--where", "id < 10", "--json"];
    let done = world.run(&posts(&more)).expect(0).json();
    assert_eq!(done["tables"][0]["overwritten"], 3);
    assert_eq!(done["tables"][0]["inserted"], 1);
    let connection = open(&world);
    assert_eq!(one(&connection, "SELECT count(*) FROM post WHERE body = 'bad'"), 0);
    assert_eq!(one(&connection, "SELECT count(*) FROM log"), 1, "the trigger ran once");
    let kept = done["kept_aside"].as_str().unwrap();
    let before = Connection::open(kept).unwrap();
    assert_eq!(one(&before, "SELECT count(*) FROM post WHERE body = 'bad'"), 3);
    world.run(&["diff", "chat@latest", "chat", "--table", "post"]).expect(0);
}

#[test]
fn a_table_with_triggers_waits_for_a_word_about_them() {
    let world = world("DELETE FROM post WHERE id = 7");
    world.run(&posts(&["--yes"])).expect(23).says("the triggers logged");
    world.run(&posts(&["--dry-run"])).expect(0).says("--triggers skip");
    assert_eq!(one(&open(&world), "SELECT count(*) FROM post"), 499);
    assert!(world.names("data").iter().all(|name| !name.contains(".before_restore.")));
}

#[test]
fn rows_without_what_they_refer_to_change_nothing_and_go_together_with_it() {
    let world = world("DELETE FROM post WHERE room = 2; DELETE FROM room WHERE id = 2");
    let alone = ["--triggers", "skip", "--yes"];
    world.run(&posts(&alone)).expect(23).says("refer");
    // Nothing was put in, so the copy that was made before goes, too.
    assert!(world.names("data").iter().all(|name| !name.contains(".before_restore.")));
    assert_eq!(one(&open(&world), "SELECT count(*) FROM post"), 250);
    // In whatever order.
    world.run(&posts(&[&alone[..], &["--table", "room"]].concat())).expect(0);
    world.run(&["diff", "chat@latest", "chat"]).expect(0);
    let connection = open(&world);
    assert_eq!(one(&connection, "SELECT seq FROM sqlite_sequence WHERE name = 'room'"), 9);
    let shout = "SELECT shout = 'ATTIC' FROM room WHERE id = 2";
    assert_eq!(one(&connection, shout), 1, "generated columns follow");
}

#[test]
fn a_value_that_must_be_alone_is_in_the_way_and_a_table_without_rowid_is_filled() {
    let world = world(
        "PRAGMA foreign_keys = OFF; UPDATE room SET id = 20 WHERE name = 'attic';
         DELETE FROM seen WHERE post % 2 = 0; UPDATE seen SET at = 0 WHERE post = 1",
    );
    let table = ["restore", "chat.db", "--rows-from", "chat@latest", "--yes", "--json", "--table"];
    let done = world.run(&[&table[..], &["room"]].concat()).expect(0).json();
    assert_eq!(done["outcome"], "nothing_missing");
    let why = done["tables"][0]["conflict_rows"][0]["why"].as_str().unwrap();
    assert!(why.contains("another row has its name"), "{why}");
    let done = world.run(&[&table[..], &["seen"]].concat()).expect(0).json();
    assert_eq!(done["tables"][0]["inserted"], 250);
    assert_eq!(done["tables"][0]["left"], 1);
    for (more, code) in [
        (vec!["nobody"], 2),
        (vec!["seen", "--where", "no_such_column = 1"], 2),
        (vec!["seen", "--where", "1; DELETE FROM seen"], 2),
        (vec!["seen", "--table", "room", "--where", "1"], 2),
    ] {
        world.run(&[&table[..], &more].concat()).expect(code);
    }
    world.run(&["restore", "chat@latest", "--to", "x.db", "--table", "t"]).expect(2);
    world.run(&["restore", "chat", "--rows-from", "chat.db", "--table", "seen"]).expect(2);
    world.run(&["restore", "chat", "--rows-from", "chat@latest"]).expect(2);
}

#[test]
fn rows_come_from_what_salvage_made_and_from_a_file_of_a_script() {
    let world = World::new();
    let path = world.database("chat.db", 1_000);
    fs::copy(&path, world.path("data/copy.db")).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("DELETE FROM message WHERE id > 500").unwrap();
    drop(connection);
    let before = content(&world.path("data/copy.db"));
    world.run(&["salvage", "copy.db", "--to", "saved.db"]).expect(0);
    let table = ["restore", "chat.db", "--table", "message", "--yes", "--rows-from", "saved.db"];
    world.run(&table).expect(0);
    assert_eq!(rows(&path), 1_000);
    assert_eq!(content(&path), before);
}

#[test]
fn rows_of_a_dump_go_back_into_the_live_database_of_a_server() {
    for major in kinds_of_majors() {
        let server = Server::new(*major);
        server.sql("postgres", "CREATE DATABASE chat");
        server.sql(
            "chat",
            "SET search_path = public;
             CREATE TABLE room(id int PRIMARY KEY, name text UNIQUE);
             CREATE TABLE post(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 room int REFERENCES room, body text, loud text GENERATED ALWAYS AS (upper(body)) STORED);
             CREATE TABLE line(id serial PRIMARY KEY, it text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.line(it) VALUES (new.body); RETURN new; END';
             INSERT INTO room VALUES (1, 'hall'), (2, 'attic');
             INSERT INTO post(room, body) SELECT 1 + i % 2, E'it''s\\t' || i
                 FROM generate_series(1, 400) AS i;
             CREATE TRIGGER noted AFTER INSERT ON post FOR EACH ROW EXECUTE FUNCTION note()",
        );
        let world = postgres_server::world_of(&server.url("chat"));
        let run = |arguments: &[&str]| postgres_server::run(&world, arguments);
        run(&["backup"]).expect(0);
        let url = server.url("chat");
        let latest = run(&["list", "--json"]).expect(0).json();
        let text = latest.to_string();
        let name = text.split('"').find(|word| word.starts_with("shop-")).unwrap().to_owned();
        server.sql(
            "chat",
            "SET search_path = public;
             DELETE FROM post WHERE room = 2; DELETE FROM room WHERE id = 2;
             UPDATE post SET body = 'edited' WHERE id = 2;
             ALTER SEQUENCE post_id_seq RESTART WITH 1",
        );
        let post = ["restore", &url, "--rows-from", &name, "--table", "post"];
        let with = |more: &[&str]| -> Vec<String> {
            post.iter().chain(more).map(|it| (*it).to_owned()).collect()
        };
        let go = |more: &[&str]| {
            let words = with(more);
            run(&words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let plan = go(&["--dry-run", "--json"]).expect(0).json();
        assert_eq!(plan["tables"][0]["missing"], 200, "{plan}");
        assert_eq!(plan["tables"][0]["same_key"], 1);
        assert_eq!(plan["tables"][0]["triggers"][0], "noted");
        go(&["--yes"]).expect(23).says("the triggers noted");
        go(&["--yes", "--triggers", "skip"]).expect(23).says("nothing was changed");
        assert_eq!(server.ask("chat", "SELECT count(*) AS n FROM public.post"), ["200"]);
        let room = [
            "restore",
            &url,
            "--rows-from",
            &name,
            "--yes",
            "--table",
            "room",
            "--table",
            "post",
            "--triggers",
            "skip",
            "--json",
        ];
        let done = run(&room).expect(0).json();
        assert_eq!(done["tables"][1]["inserted"], 200, "{done}");
        assert_eq!(done["tables"][1]["left"], 1);
        assert_eq!(server.ask("chat", "SELECT count(*) AS n FROM public.line"), ["0"]);
        go(&["--yes", "--overwrite", "--triggers", "run"]).expect(0);
        run(&["diff", &name, &url, "--table", "post"]).expect(0);
        // The next row gets a number of its own, and the trigger is as it was.
        server.sql("chat", "INSERT INTO public.post(room, body) VALUES (1, 'next')");
        let next = "SELECT max(id) AS n FROM public.post WHERE loud = 'NEXT'";
        assert_eq!(server.ask("chat", next), ["401"]);
        assert_eq!(server.ask("chat", "SELECT count(*) AS n FROM public.line"), ["1"]);
        run(&["show", done["kept_aside"].as_str().unwrap()]).expect(0);
        go(&["--yes", "--where", "no_column = 1"]).expect(2);
    }
}
