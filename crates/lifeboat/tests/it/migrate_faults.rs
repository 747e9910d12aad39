//! A migration that ends half-way, whatever ends it: the target is as it was, it is said how to go
//! on, and the next run does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};

use lifeboat_core::env::CRASH_POINTS;

use crate::postgres_server::{Server, skipped};
use crate::support::{Ran, World, is_root, ran};

fn world(rows: u32) -> World {
    let world = World::new();
    let connection = rusqlite::Connection::open(world.path("data/app.db")).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = wal; CREATE TABLE a(id INTEGER PRIMARY KEY, s TEXT UNIQUE);
             CREATE TABLE b(id INTEGER PRIMARY KEY, a INT REFERENCES a(id));
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO a SELECT i, 'text of some length, so that rows need room ' || i FROM n;
             INSERT INTO b SELECT id, id FROM a; CREATE INDEX b_a ON b(a)"
        ))
        .unwrap();
    world
}

fn migrate(world: &World, url: &str) -> Ran {
    world.run(&["migrate", "app.db", url, "--no-backup"])
}

/// Nothing of ours is where people look.
#[track_caller]
fn untouched(server: &Server, database: &str, when: &str) {
    let query = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(server.ask(database, query), ["1"], "{when}");
    assert_eq!(server.ask(database, "SELECT x FROM public.mine"), ["7"], "{when}");
}

const MINE: &str = "CREATE TABLE public.mine(x int); INSERT INTO public.mine VALUES (7)";

#[test]
fn killed_at_every_point_the_target_is_as_it_was_and_the_next_run_goes_on() {
    let (world, server) = (world(50), Server::new(15));
    let points = CRASH_POINTS.iter().filter(|point| point.starts_with("migrate."));
    for point in points {
        // A database that is not there, and one with something in it.
        for is_there in [false, true] {
            let (name, url) = ("target", server.url("target"));
            let mut arguments = vec!["migrate", "app.db", &url, "--no-backup"];
            if is_there {
                server.sql("postgres", "CREATE DATABASE target");
                server.sql(name, MINE);
                arguments.extend(["--replace", "--yes"]);
            }
            let mut command = world.command(&arguments);
            let killed = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
            assert_eq!(killed.code, 128 + 9, "{point}: {killed:?}");
            match (is_there, *point) {
                (true, "migrate.committed") => {}
                (true, _) => untouched(&server, name, point),
                (false, _) => assert!(!server.databases().contains(&name.to_owned()), "{point}"),
            }
            world.run(&arguments).expect(0);
            world.run(&["migrate", "verify", "app.db", &url]).expect(0);
            let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%lifeboat_new'";
            assert_eq!(server.ask(name, left), ["0"], "{point}");
            assert!(server.databases().iter().all(|name| !name.contains("lifeboat")), "{point}");
            server.sql("postgres", "DROP DATABASE target");
        }
    }
}

/// Waits in the middle of the migration, when the first index was made.
fn pause(server: &Server, database: &str) {
    server.sql(
        database,
        "CREATE SCHEMA guards; CREATE FUNCTION guards.wait() RETURNS event_trigger \
         LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END'; \
         CREATE EVENT TRIGGER slow ON ddl_command_end WHEN tag IN ('CREATE INDEX') \
         EXECUTE FUNCTION guards.wait()",
    );
}

fn begin(world: &World, server: &Server, url: &str) -> (Child, i32) {
    let mut command = world.command(&["migrate", "app.db", url, "--no-backup"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' LIMIT 1";
    server.wait_for(asleep);
    let pid = server.ask("template1", asleep)[0].parse().unwrap();
    (child, pid)
}

#[test]
fn a_server_that_breaks_off_half_way_leaves_nothing_half() {
    let (world, server) = (world(50), Server::new(18));
    server.sql("postgres", "CREATE DATABASE target");
    let url = server.url("target");
    pause(&server, "target");
    let (child, pid) = begin(&world, &server, &url);
    // Another one may not begin now.
    migrate(&world, &url).expect(11).says("another migration");
    // A process of the server that is killed takes all of it down; it recovers by itself.
    let kill = |pid: i32| {
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(killed.success());
    };
    kill(pid);
    let ended = ran(child.wait_with_output().unwrap());
    assert!(![0, 137].contains(&ended.code), "{ended:?}");
    assert!(ended.err.contains("hint") || ended.err.contains("try"), "{}", ended.err);
    let up = || {
        let mut command = server.tool("psql", "target");
        command.args(["-XAtc", "SELECT 1"]).output().unwrap().status.success()
    };
    for _ in 0..600 {
        if up() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let query = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(server.ask("target", query), ["0"]);
    server.sql("target", "DROP EVENT TRIGGER slow; DROP SCHEMA guards CASCADE");
    migrate(&world, &url).expect(0);
    world.run(&["migrate", "verify", "app.db", &url]).expect(0);
}

#[test]
fn a_role_without_rights_is_told_which_it_needs() {
    let (world, server) = (world(10), Server::new(15));
    server.sql("postgres", "CREATE ROLE poor LOGIN; CREATE DATABASE target");
    let poor = server.url_as("poor", "target");
    migrate(&world, &poor).expect(15).says("GRANT CREATE ON DATABASE");
    let poor = server.url_as("poor", "nothere");
    migrate(&world, &poor).expect(15).says("createdb");
    assert_eq!(server.databases(), ["postgres", "target"]);
}

/// Somebody who reads what is set aside does not hold it up.
#[test]
fn a_target_in_use_is_set_aside_all_the_same() {
    let (world, server) = (world(10), Server::new(15));
    server.sql("postgres", "CREATE DATABASE target");
    server.sql("target", MINE);
    let mut reader = server.session("target");
    reader.execute("BEGIN; SELECT * FROM public.mine").unwrap();
    let url = server.url("target");
    migrate(&world, &url).expect(23).says("--replace");
    untouched(&server, "target", "refused");
    world.run(&["migrate", "app.db", &url, "--no-backup", "--replace", "--yes"]).expect(0);
    reader.execute("COMMIT").unwrap();
    migrate(&world, &url).expect(23);
}

#[test]
fn a_full_disk_of_the_server_leaves_the_target_as_it_was() {
    let small = tempfile::Builder::new().prefix("lifeboat-small-").tempdir_in("/var/tmp").unwrap();
    let server = Server::new(15);
    let owner = fs::metadata(server.sockets()).unwrap().uid();
    let options = format!("size=3m,mode=700,uid={owner}");
    let mounted = is_root()
        && Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(small.path())
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        return skipped("a full disk of the server: only root may mount a small one");
    }
    let _mount = Mount(small.path());
    let place = small.path().display();
    let world = world(40_000);
    server.sql("postgres", &format!("CREATE TABLESPACE small LOCATION '{place}'"));
    server.sql("postgres", "CREATE DATABASE target");
    server.sql("target", MINE);
    server.sql("postgres", "ALTER DATABASE target SET default_tablespace = 'small'");
    let url = server.url("target");
    let replace = ["migrate", "app.db", &url, "--no-backup", "--replace", "--yes"];
    let full = world.run(&replace);
    assert_ne!(full.code, 0);
    assert!(full.err.contains("No space left"), "{}", full.err);
    untouched(&server, "target", "full");
    server.sql("postgres", "ALTER DATABASE target RESET default_tablespace");
    world.run(&replace).expect(0);
    server.sql("target", "DROP SCHEMA IF EXISTS public_lifeboat_new CASCADE");
}

struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // The server still has files there.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
