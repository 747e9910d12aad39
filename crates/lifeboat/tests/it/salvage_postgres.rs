//! `lifeboat salvage` of PostgreSQL: flipped bits in pages of real clusters.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use crate::cluster::{Cluster, Yard, done, program};
use crate::cluster_restore::{PORT, RESTORED, archived, primary};
use crate::postgres_server::kinds_of_majors;
use crate::support::{Ran, ran};

const TABLES: &str = "
    CREATE TABLE room(id int PRIMARY KEY, name text);
    CREATE TABLE message(id serial PRIMARY KEY, room int REFERENCES room, body text);
    CREATE TABLE long(id int PRIMARY KEY, body text);
    ALTER TABLE long ALTER body SET STORAGE EXTERNAL;
    INSERT INTO room SELECT i, 'room ' || i FROM generate_series(1, 50) AS i;
    INSERT INTO message(room, body) SELECT 1 + i % 50, 'message ' || i || repeat('x', 80)
        FROM generate_series(1, 5000) AS i;
    INSERT INTO long SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 20) AS i;
    CREATE INDEX by_body ON message(body)";

fn yard() -> Yard {
    let yard = Yard::new();
    yard.configure("[repository.local]\nurl = \"file://$YARD/repo\"\n");
    yard
}

/// Flips bits in the middle of a block.
fn flip(data: &Path, file: &str, block: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(data.join(file)).unwrap();
    let mut bytes = [0; 16];
    // Rows lie at the end of a page; an index fills from there, too.
    let at = block * 8_192 + 8_000;
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x15);
    file.write_all_at(&bytes, at).unwrap();
}

fn file_of(cluster: &Cluster<'_>, relation: &str) -> String {
    cluster.ask(5432, &format!("SELECT pg_relation_filepath('{relation}')"))
}

fn lifeboat(yard: &Yard, arguments: &[&str]) -> Ran {
    ran(yard.command(program()).args(arguments).output().unwrap())
}

fn url(yard: &Yard, database: &str) -> String {
    format!("postgresql:///{database}?host={}&user=postgres", yard.path("").display())
}

fn table<'a>(value: &'a Value, name: &str) -> &'a Value {
    let databases = value["databases"].as_array().unwrap();
    let tables = databases.iter().flat_map(|it| it["tables"].as_array().unwrap());
    tables.into_iter().find(|table| table["table"] == name).unwrap()
}

fn load(cluster: &Cluster<'_>, yard: &Yard, folder: &Path, script: &str) {
    let mut command = yard.command(&cluster.program("psql"));
    command.args(["-XAtq", "-U", "postgres", "-d", "loaded", "-f", script, "-h"]);
    done(command.arg(yard.path("")).current_dir(folder).output().unwrap());
}

#[test]
fn rows_around_damaged_blocks_come_back_and_the_blocks_are_named() {
    for major in kinds_of_majors() {
        let yard = yard();
        let mut cluster = Cluster::new(&yard, *major, "data", &["--data-checksums"]);
        cluster.up(5432);
        cluster.ask(5432, TABLES);
        let files: Vec<String> =
            ["message", "by_body"].iter().map(|name| file_of(&cluster, name)).collect();
        let toast = cluster.ask(
            5432,
            "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class
            WHERE relname = 'long'",
        );
        let in_block = "SELECT count(*) FROM message WHERE ctid >= '(3,0)' AND ctid < '(4,0)'";
        let in_block: u64 = cluster.ask(5432, in_block).parse().unwrap();
        cluster.stop();
        let sound = lifeboat(&yard, &["salvage", "data", "--to", "new", "--dry-run"]).expect(0);
        assert!(sound.out.contains("pages looked at"), "{}", sound.out);
        flip(&cluster.data, &files[0], 3);
        flip(&cluster.data, &files[1], 2);
        flip(&cluster.data, &toast, 1);
        let before = fs::read(cluster.data.join(&files[0])).unwrap();
        let looked = ["salvage", "data", "--to", "new", "--dry-run", "--json"];
        let looked = lifeboat(&yard, &looked).expect(3).json();
        assert_eq!(looked["damaged"], 3);
        let named = looked["blocks"].to_string();
        assert!(named.contains(&files[0]) && named.contains(&files[1]), "{named}");

        // The stopped cluster, by a server of ours on a copy.
        let found = lifeboat(&yard, &["salvage", "data", "--to", "new", "--json"]).expect(3).json();
        let message = table(&found, "public.message");
        assert_eq!(message["rows"], 5_000 - in_block, "{message}");
        let had = message["uncertain"].as_u64().unwrap()
            + message["lost_rows"].as_array().unwrap().len() as u64;
        assert_eq!(had, in_block, "{message}");
        assert_eq!(table(&found, "public.room")["rows"], 50);
        assert!(found["blocks"].to_string().contains("public.by_body"), "{}", found["blocks"]);
        assert_eq!(fs::read(cluster.data.join(&files[0])).unwrap(), before, "it was written");
        let left: Vec<_> = fs::read_dir(yard.path("")).unwrap().flatten().collect();
        let left: Vec<String> = left
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.') || name.starts_with("lifeboat-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");

        // The running one, without a doubt.
        cluster.up(5432);
        lifeboat(&yard, &["salvage", "data", "--to", "other"]).expect(23).says("open");
        let address = url(&yard, "postgres");
        let live = lifeboat(&yard, &["salvage", &address, "--to", "live", "--json"]).expect(3);
        let live = live.json();
        let message = table(&live, "public.message");
        assert_eq!(message["rows"], 5_000 - in_block);
        assert_eq!(message["lost_blocks"], serde_json::json!([3]));
        assert_eq!(message["uncertain"], 0);
        let long = table(&live, "public.long");
        let lost = long["lost_rows"].as_array().unwrap();
        assert!(!lost.is_empty() && lost[0]["key"].is_string(), "{long}");
        assert_eq!(long["rows"].as_u64().unwrap() + lost.len() as u64, 20);
        lifeboat(&yard, &["salvage", &address, "--to", "live"]).expect(23).says("already");

        // Without rights nothing is searched for damage.
        cluster.ask(5432, "CREATE ROLE stranger LOGIN");
        let strange = url(&yard, "postgres").replace("user=postgres", "user=stranger");
        let none = ["salvage", &strange, "--to", "none", "--json"];
        let none = lifeboat(&yard, &none).expect(3).json();
        let message = table(&none, "public.message");
        assert!(message["why"].as_str().unwrap().contains("permission denied"), "{message}");
        assert_eq!(message["lost_blocks"], serde_json::json!([]));

        // What came back is loaded.
        cluster.ask(5432, "CREATE DATABASE loaded");
        load(&cluster, &yard, &yard.path("new/postgres"), "load.sql");
        let count = |cluster: &Cluster<'_>| {
            let mut command = cluster.psql_command(5432, "SELECT count(*) FROM message");
            let output = done(command.args(["-d", "loaded"]).output().unwrap());
            String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
        };
        assert_eq!(count(&cluster), 5_000 - in_block);
        if let Some(file) = message_file(&found) {
            assert!(yard.path("new/postgres/rows").join(file).is_file());
            load(&cluster, &yard, &yard.path("new/postgres"), "load-uncertain.sql");
        }
        load(&cluster, &yard, &yard.path("new/postgres"), "schema-after.sql");
        assert!(count(&cluster) >= 5_000 - in_block);
    }
}

fn message_file(found: &Value) -> Option<String> {
    table(found, "public.message")["uncertain_file"].as_str().map(str::to_owned)
}

#[test]
fn without_checksums_headers_and_what_contradicts_itself_are_found() {
    let yard = yard();
    let mut cluster = Cluster::new(&yard, 15, "data", &[]);
    cluster.up(5432);
    cluster.ask(5432, TABLES);
    let (message, index) = (file_of(&cluster, "message"), file_of(&cluster, "message_pkey"));
    cluster.stop();
    // A header that cannot be, and an index whose entries point elsewhere.
    let file = fs::OpenOptions::new().write(true).open(cluster.data.join(&message)).unwrap();
    file.write_all_at(&[0xff; 8], 5 * 8_192 + 12).unwrap();
    flip(&cluster.data, &index, 1);
    let looked = ["salvage", "data", "--to", "new", "--dry-run", "--json"];
    let looked = lifeboat(&yard, &looked).expect(3).json();
    assert_eq!((looked["checksums"].as_bool(), looked["damaged"].as_u64()), (Some(false), Some(1)));
    assert_eq!(looked["blocks"][0]["block"], 5);
    // As root too, whose server runs as another user.
    let mut command = yard.own_command(program());
    let command = command.args(["salvage", "data", "--to", "new", "--json"]);
    let found = ran(command.output().unwrap()).expect(3).json();
    let table = table(&found, "public.message");
    assert_eq!(table["lost_blocks"], serde_json::json!([5]), "{table}");
    assert!(table["rows"].as_u64().unwrap() > 4_900);
    let database = &found["databases"][0];
    assert!(database["indexes"].to_string().contains("message_pkey"), "{database}");
    assert!(database["notes"].to_string().contains("no data checksums"), "{database}");
}

#[test]
fn a_cluster_that_cannot_replay_its_log_is_read_without_it() {
    let yard = yard();
    let mut cluster = Cluster::new(&yard, 15, "data", &["--data-checksums"]);
    cluster.up(5432);
    cluster.ask(5432, TABLES);
    cluster.ask(5432, "CHECKPOINT");
    cluster.ask(5432, "CREATE TABLE later(x int)");
    cluster.kill();
    for entry in fs::read_dir(cluster.data.join("pg_wal")).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::write(entry.path(), vec![0x5a; 16 << 20]).unwrap();
        }
    }
    let ran =
        lifeboat(&yard, &["salvage", "data", "--to", "new"]).expect(3).says("the log is lost");
    assert!(ran.out.contains("was started without it"), "{}", ran.out);
    assert!(ran.out.contains("3 tables are whole, with 5,070 rows"), "{}", ran.out);
}

/// A tablespace is read on the copy, too, and the original of it is not written.
#[test]
fn tables_in_a_tablespace_come_back() {
    let yard = yard();
    let mut cluster = Cluster::new(&yard, 15, "data", &["--data-checksums"]);
    fs::create_dir(yard.path("space")).unwrap();
    yard.own("space");
    cluster.up(5432);
    let space = yard.path("space").display().to_string();
    cluster.ask(5432, &format!("CREATE TABLESPACE space LOCATION '{space}'"));
    cluster.ask(5432, TABLES);
    cluster.ask(5432, "ALTER TABLE message SET TABLESPACE space");
    let file = file_of(&cluster, "message");
    assert!(file.starts_with("pg_tblspc/"), "{file}");
    cluster.stop();
    flip(&cluster.data, &file, 3);
    let before = fs::read(cluster.data.join(&file)).unwrap();
    let found = lifeboat(&yard, &["salvage", "data", "--to", "new", "--json"]).expect(3).json();
    assert!(found["blocks"].to_string().contains("public.message"), "{}", found["blocks"]);
    let message = table(&found, "public.message");
    assert!(message["rows"].as_u64().unwrap() > 4_800, "{message}");
    assert_eq!(table(&found, "public.room")["rows"], 50);
    assert_eq!(fs::read(cluster.data.join(&file)).unwrap(), before, "it was written");
}

/// The commands of the page `docs/runbooks/corrupt-postgres.md`, as they stand there and in their
/// order.
#[test]
fn what_the_runbook_says_works() {
    let yard = Yard::new();
    let folder = yard.path("").display().to_string();
    let address = format!("host={folder}&user=postgres");
    yard.configure(&format!(
        "[repository.local]\nurl = \"file://$YARD/repo\"\n\
         [source.cluster.postgres]\nphysical = true\nurl = \"postgresql:///postgres?{address}\"\n\
         [source.chat]\npostgres = \"postgresql:///chat?{address}\"\n"
    ));
    let mut cluster = Cluster::new(&yard, 15, "data", &["--data-checksums"]);
    cluster.set(&["archive_mode = off", "wal_level = replica"]);
    cluster.up(5432);
    cluster.ask(5432, "CREATE DATABASE chat");
    let in_chat = |cluster: &Cluster<'_>, sql: &str| {
        let mut command = cluster.psql_command(5432, sql);
        let output = done(command.args(["-d", "chat"]).output().unwrap());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    in_chat(&cluster, TABLES);
    lifeboat(&yard, &["backup"]).expect(0);
    let file = in_chat(&cluster, "SELECT pg_relation_filepath('message')");
    cluster.stop();
    flip(&cluster.data, &file, 3);
    let page = include_str!("../../../../docs/runbooks/corrupt-postgres.md");
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert_eq!(commands.len(), 10, "{commands:?}");
    for command in commands {
        let code = match command {
            _ if command.starts_with("lifeboat salvage") => 3,
            _ if command.starts_with("lifeboat diff") => 20,
            _ => 0,
        };
        if command.starts_with("createdb") {
            cluster.up(5432);
        }
        let mut shell = yard.command(Path::new("/bin/sh"));
        let path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
        let path = [cluster.program("")].into_iter().chain(path);
        let own = format!("{} ", program().display());
        let words = match command.strip_prefix("lifeboat ") {
            Some(rest) => own + rest,
            None => command.to_owned(),
        };
        shell
            .args(["-c", &words])
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("PGDATA", &cluster.data)
            .env("PGHOST", &folder)
            .env("PGUSER", "postgres")
            .env("RESCUED_URL", url(&yard, "rescued"));
        let ran = ran(shell.output().unwrap());
        assert_eq!(ran.code, code, "{command}\n{ran:?}");
    }
    let mut command = cluster.psql_command(5432, "SELECT count(*) FROM message");
    let output = done(command.args(["-d", "rescued"]).output().unwrap());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "5000");
}

/// Page repair: the restore that the report names makes a new cluster of the base backup and the
/// log, whose blocks are whole, with what was committed after the backup. A backup that was made
/// since the damage is not the one that is named.
#[test]
fn damaged_blocks_are_whole_in_the_new_cluster_that_the_report_names() {
    let yard = Yard::new();
    let mut cluster = primary(&yard, 15);
    cluster.ask(PORT, TABLES);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    cluster.ask(PORT, "UPDATE message SET body = 'later' WHERE id % 7 = 0");
    archived(&mut cluster);
    let file = cluster.ask(PORT, "SELECT pg_relation_filepath('message')");
    let digest = "SELECT md5(string_agg(m::text, ',' ORDER BY id)) FROM message AS m";
    let truth = cluster.ask(PORT, digest);
    cluster.stop();
    flip(&cluster.data, &file, 3);
    flip(&cluster.data, &file, 11);
    cluster.up(PORT);
    lifeboat(&yard, &["backup", "main"]);
    cluster.stop();
    let looked = ["salvage", "primary", "--to", "new", "--dry-run", "--json"];
    let looked = lifeboat(&yard, &looked).expect(3).json();
    assert_eq!(looked["damaged"], 2);
    let advice = looked["restore"][0].as_str().unwrap();
    assert!(advice.contains("1 newer ones have damage themselves"), "{advice}");
    let command = advice.split_once("lifeboat ").unwrap().1.split_once(" (").unwrap().0;
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!((words[0], &words[2..]), ("restore", &["--at", "latest", "--to", "DIR"][..]));
    lifeboat(&yard, &["restore", words[1], "--at", "latest", "--to", "repaired"]).expect(0);
    lifeboat(&yard, &["salvage", "repaired", "--to", "new", "--dry-run"]).expect(0);
    let mut repaired = Cluster::at(&yard, 15, "repaired");
    repaired.set(&["archive_mode = off"]);
    repaired.up(RESTORED);
    assert_eq!(repaired.ask(RESTORED, digest), truth);
    repaired.stop();
}
