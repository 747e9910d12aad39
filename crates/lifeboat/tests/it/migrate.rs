//! `lifeboat migrate` as a person runs it: planned, loaded, compared, reported.

use std::fs;

use crate::postgres_server::Server;
use crate::support::{World, make_database};

const SHOP: &str = "CREATE TABLE item(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
                      made DATETIME DEFAULT CURRENT_TIMESTAMP, sold BOOLEAN DEFAULT 0);
                    INSERT INTO item(name, made) VALUES ('one', '2024-01-01 10:00:00'),
                      ('two', '2024-01-02 10:00:00');
                    CREATE TABLE note(id TEXT PRIMARY KEY, item INT REFERENCES item(id), body TEXT);
                    INSERT INTO note VALUES ('a', 1, 'x'), ('b', 2, NULL);
                    CREATE INDEX note_item ON note(item)";

fn shop(world: &World, more: &str) {
    let connection = rusqlite::Connection::open(world.path("data/shop.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = wal").unwrap();
    connection.execute_batch(SHOP).unwrap();
    connection.execute_batch(more).unwrap();
}

/// The second guide's nine steps in one command: T20.
#[test]
fn t20_one_command_backs_up_makes_the_database_loads_and_proves_it() {
    for major in [15, 18] {
        let (world, server) = (World::new(), Server::new(major));
        shop(&world, "");
        let url = server.url("shop_admin");
        let report = world.text("data/report.md");
        let ran =
            world.repo(&["migrate", "shop.db", &url, "--json", "--report", &report]).expect(0);
        let value = ran.json();
        assert_eq!(value["outcome"], "migrated");
        assert_eq!((&value["done"]["rows"], &value["done"]["verified"]), (&4.into(), &true.into()));
        assert_eq!(server.databases(), ["postgres", "shop_admin"]);
        let rows = server.ask("shop_admin", "SELECT name, made, sold FROM item ORDER BY id");
        assert_eq!(rows[0], "one|2024-01-01 10:00:00+00|f");
        let keys =
            server.ask("shop_admin", "SELECT contype FROM pg_constraint WHERE contype = 'f'");
        assert_eq!(keys, ["f"]);
        let backup = value["backups"][0].as_str().unwrap().to_owned();
        let shown = world.repo(&["show", &backup]).expect(0);
        assert!(shown.out.contains("before the migration to"), "{}", shown.out);
        let text = fs::read_to_string(report).unwrap();
        for said in [
            "Every row was read back from the server and is the same",
            "| item | 2 | 0 | `",
            "one moment of the live database",
            &format!("| backup before, pinned | {backup} |"),
            &format!("| server | PostgreSQL {major}"),
            "Nothing: all of the schema is there",
            "Name ____",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        world.run(&["migrate", "verify", "shop.db", &url]).expect(0);
        server.sql("shop_admin", "UPDATE public.note SET body = 'y' WHERE id = 'b'");
        let ran = world.run(&["migrate", "verify", "shop.db", &url]).expect(20);
        assert!(ran.out.contains("1 not the same: id 'b'"), "{}", ran.out);
        // Again: nothing there is touched.
        world.repo(&["migrate", "shop.db", &url]).expect(23).says("--replace");
    }
}

#[test]
fn a_dry_run_tells_every_value_that_does_not_fit_and_touches_nothing() {
    let (world, server) = (World::new(), Server::new(15));
    shop(&world, "INSERT INTO item(id, name, sold) VALUES (7, CAST(x'ff' AS TEXT), 2)");
    let before = fs::read(world.path("data/shop.db")).unwrap();
    let ran = world.run(&["migrate", "shop.db", "--dry-run"]).expect(23).says("--misfits");
    assert!(ran.out.contains("rowid 7: '\u{fffd}': not UTF-8"), "{}", ran.out);
    assert!(
        ran.out.contains("sold BOOLEAN -> bigint: 1 values are neither 0 nor 1"),
        "{}",
        ran.out
    );
    let url = server.url("postgres");
    world.run(&["migrate", "shop.db", &url, "--no-backup"]).expect(23);
    assert_eq!(
        server.ask("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'item'"),
        ["0"]
    );
    assert_eq!(fs::read(world.path("data/shop.db")).unwrap(), before);
    let aside = ["migrate", "shop.db", &url, "--no-backup", "--misfits", "quarantine"];
    world.run(&aside).expect(3).says("_lifeboat_rejects");
    assert_eq!(server.ask("postgres", "SELECT count(*) FROM item"), ["2"]);
    let script =
        world.run(&["migrate", "shop.db", "--schema-only", "--misfits", "widen"]).expect(0);
    assert!(script.out.contains("CREATE TABLE \"item\" ("), "{}", script.out);
}

/// A database as the chatbot's admin has it, made of what its tables are made of.
const ADMIN: &str = "
    CREATE TABLE agents(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, model TEXT,
      temperature REAL, is_default INTEGER DEFAULT 0, created_at TEXT DEFAULT (datetime('now')),
      updated_at DATETIME DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE prompts(id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
      agent_id TEXT REFERENCES agents(id) ON DELETE CASCADE, body TEXT NOT NULL, version INTEGER);
    CREATE TABLE audit_log(id INTEGER PRIMARY KEY AUTOINCREMENT, actor TEXT,
      action TEXT CHECK (action IN ('create', 'update', 'delete')), payload_json TEXT,
      created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE jobs(id TEXT PRIMARY KEY, status TEXT NOT NULL DEFAULT 'pending', attempts INT,
      available_at DATETIME, CHECK (attempts >= 0));
    CREATE UNIQUE INDEX one_default ON agents(is_default) WHERE is_default = 1;
    CREATE INDEX prompts_agent ON prompts(agent_id, version DESC);
    CREATE INDEX audit_at ON audit_log(created_at);
    CREATE INDEX jobs_open ON jobs(status, available_at);
    CREATE VIEW open_jobs AS SELECT id, attempts FROM jobs WHERE status = 'pending';
    CREATE TRIGGER agents_touch AFTER UPDATE ON agents BEGIN
      UPDATE agents SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id; END;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO agents(id, name, model, temperature, is_default)
      SELECT 'agent-' || i, 'O''Agent ' || i || '; BEGIN TRANSACTION;',
        CASE WHEN i % 3 THEN 'model' END, i / 7.0, i = 1 FROM n;
    INSERT INTO prompts(agent_id, body, version)
      SELECT id, 'PRAGMA' || char(10) || 'COMMIT;', 1 FROM agents;
    INSERT INTO audit_log(actor, action, payload_json)
      SELECT id, 'create', '{\"a\": null}' FROM agents;
    DELETE FROM audit_log WHERE id = 400;
    INSERT INTO jobs SELECT 'job-' || id, 'pending', 0, '2025-01-08 10:00:00' FROM agents";

/// The chapter of the second guide on a migration: nine steps, whose export, edited with `sed`,
/// ends with exit code 0 and most tables missing. Here its steps are one command, and what it
/// promises is looked at step by step.
#[test]
fn the_nine_steps_of_the_guide_are_one_command() {
    let (world, server) = (World::new(), Server::new(15));
    let database = world.text("data/admin.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("PRAGMA journal_mode = wal").unwrap();
    connection.execute_batch(ADMIN).unwrap();
    world.configure(&format!(
        "[repository.local]\nurl = \"file://{}\"\n[source.admin]\nsqlite = \"{database}\"\n\
         schedule = \"daily 02:00\"\n",
        world.text("repo")
    ));
    fs::write(world.path("data/.env"), "ADMIN_DB_TYPE=sqlite\nADMIN_DB_PATH=admin.db\n").unwrap();
    let (url, report) = (server.url("chatbot_admin"), world.text("data/report.md"));
    let switch = ["--switch-env", ".env", "--switch-config", "--report", &report];
    world.run(&[&["migrate", "admin", &url][..], &switch].concat()).expect(0);
    // 1: a last backup of SQLite, which stays.
    let listed = world.run(&["list", "admin", "--json"]).expect(0).json();
    let backup = listed[0]["name"].as_str().unwrap().to_owned();
    assert!(world.run(&["show", &backup]).expect(0).out.contains("before the migration to"));
    // 2 to 5: a database with all of it.
    let say = |query: &str| server.ask("chatbot_admin", query);
    let count = |table: &str| say(&format!("SELECT count(*) FROM {table}"));
    for (table, rows) in [("agents", "400"), ("prompts", "400"), ("audit_log", "399")] {
        assert_eq!(count(table), [rows], "{table}");
    }
    let text = fs::read_to_string(&report).unwrap();
    assert!(text.contains("to the last value") && text.contains("all of the schema"), "{text}");
    // 6: the application's variables.
    let variables = fs::read_to_string(world.path("data/.env")).unwrap();
    assert!(variables.contains("ADMIN_DB_TYPE=postgres\n"), "{variables}");
    // 7: verified, and again whenever it is asked.
    world.run(&["migrate", "verify", "admin", &url]).expect(0);
    // 8: the application's own statements.
    assert_eq!(say("SELECT body FROM prompts WHERE agent_id = 'agent-7'"), ["PRAGMA", "COMMIT;"]);
    assert_eq!(say("SELECT count(*) FROM open_jobs WHERE attempts = 0"), ["400"]);
    let new = "INSERT INTO audit_log(actor, action) VALUES ('x', 'update') RETURNING id";
    assert_eq!(say(new)[0], "401");
    server.sql("chatbot_admin", "DELETE FROM public.agents WHERE id = 'agent-9'");
    assert_eq!(count("prompts"), ["399"]);
    // 9: its backups, on the same schedule.
    world.run(&["backup", "chatbot_admin"]).expect(0);
    assert_eq!(world.run(&["config", "show"]).expect(0).out.matches("daily 02:00").count(), 2);
}

/// A state of a repository, whatever became of the live database since.
#[test]
fn a_restore_point_is_migrated_pinned_and_compared() {
    let (world, server) = (World::new(), Server::new(15));
    shop(&world, "");
    world.repo(&["backup", "shop.db"]).expect(0);
    let connection = rusqlite::Connection::open(world.path("data/shop.db")).unwrap();
    connection.execute_batch("DELETE FROM note; UPDATE item SET name = 'later'").unwrap();
    let url = server.url("then");
    let ran = world.repo(&["migrate", "shop@latest", &url, "--json"]).expect(0);
    let backup = ran.json()["backups"][0].as_str().unwrap().to_owned();
    assert!(world.repo(&["show", &backup]).expect(0).out.contains("before the migration to"));
    assert_eq!(server.ask("then", "SELECT name FROM item ORDER BY id"), ["one", "two"]);
    world.repo(&["migrate", "verify", "shop@latest", &url]).expect(0);
    world.repo(&["migrate", "verify", "shop.db", &url]).expect(20);
    world.repo(&["backup", "shop.db"]).expect(0);
    let at = ["migrate", "shop", &server.url("now"), "--at", "-0s"];
    world.repo(&at).expect(0);
    assert_eq!(server.ask("now", "SELECT DISTINCT name FROM item"), ["later"]);
    world.repo(&["migrate", "shop", &server.url("no"), "--at", "2001-01-01"]).expect(22);
    assert_eq!(server.databases(), ["now", "postgres", "then"]);
    let left = world.names("state").into_iter().filter(|name| name.contains("scratch"));
    assert_eq!(left.count(), 0);
}

/// Step 6 and step 9 of the second guide.
#[test]
fn the_application_and_the_schedule_are_switched_and_the_old_files_kept() {
    let (world, server) = (World::new(), Server::new(15));
    shop(&world, "");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://{}\"\n[source.shop]\nsqlite = \"{}\"\n\
         schedule = \"hourly\"\nrpo = \"2h\"\nname = \"admin_sqlite_{{date}}_{{time}}\"\n\
         [source.shop.keep]\ndaily = 7\n",
        world.text("repo"),
        world.text("data/shop.db")
    ));
    let env = world.path("data/.env");
    fs::write(&env, "SECRET=x\nADMIN_DB_TYPE=sqlite\nADMIN_DB_PATH=./shop.db\n").unwrap();
    let url = server.url("shop_admin");
    let switch = ["--switch-env", ".env", "--switch-config"];
    let plan = [&["migrate", "shop", &url, "--dry-run"][..], &switch].concat();
    let ran = world.run(&plan).expect(0);
    assert!(ran.out.contains("  ADMIN_DB_TYPE=postgres"), "{}", ran.out);
    assert!(ran.out.contains("  [source.shop_admin]"), "{}", ran.out);
    assert!(fs::read_to_string(&env).unwrap().contains("sqlite"));
    world.run(&[&["migrate", "shop", &url][..], &switch].concat()).expect(0);
    let text = fs::read_to_string(&env).unwrap();
    assert!(text.starts_with("SECRET=x\nADMIN_DB_TYPE=postgres\nADMIN_DB_PATH=./shop.db\n"));
    assert!(text.contains("ADMIN_DATABASE_URL='postgresql://"), "{text}");
    let copies = world.names("data");
    assert!(copies.iter().any(|name| name.starts_with(".env.before_migrate.")), "{copies:?}");
    let shown = world.run(&["config", "show"]).expect(0).out;
    let new = shown.split("[source.shop_admin]").nth(1).unwrap();
    assert!(new.contains("hourly") && new.contains("daily = 7"), "{shown}");
    // What is scheduled works, by the variables alone too.
    world.run(&["backup", "shop_admin"]).expect(0);
    world.run(&["restore", "shop_admin", "--to", "back.sql"]).expect(0);
    world.run(&["--env-file", ".env", "backup", "--repo", &world.text("other")]).expect(0);
    // Where the policy is nowhere, it is said before anything is loaded.
    let ran = world.run(&["migrate", "nowhere.db", &server.url("x"), "--switch-config"]);
    assert_ne!(ran.code, 0);
    assert_eq!(server.databases(), ["postgres", "shop_admin"]);
}

#[test]
fn wrong_words_are_told() {
    let world = World::new();
    make_database(&world.path("data/app.db"), 3);
    let secret = "postgresql://ann:secret@localhost/x";
    let ran = world.run(&["migrate", "app.db", secret]).expect(2);
    assert!(!ran.err.contains("secret@"), "{}", ran.err);
    world.run(&["migrate", "app.db", "postgresql://localhost"]).expect(2).says("names no database");
    world.run(&["migrate", "nothere.db", "--dry-run"]).expect(15);
    assert!(!world.path("data/nothere.db").exists());
    fs::write(world.path("data/m.toml"), "[table.x]\nskipp = 1\n").unwrap();
    world
        .run(&["migrate", "app.db", "--dry-run", "--mapping", "m.toml"])
        .expect(2)
        .says("m.toml:2:1");
}
