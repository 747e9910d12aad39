//! PostgreSQL behind a seal: what a host without the key makes, a host with it verifies, restores
//! and takes apart by hand.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Yard, program};
use crate::postgres_server::{Server, command, majors, run, shop};
use crate::support::{Ran, World, ran};

/// A world with a key in `home/key`, and the lines that seal a repository to it.
fn world_with_key() -> (World, String) {
    let world = World::new();
    let made = world.run(&["key", "new", &world.text("home/key")]).expect(0).out;
    let sealed =
        format!("[repository.off]\nurl = \"file://$REPO\"\nencrypt_to = [\"{}\"]\n", made.trim());
    (world, sealed)
}

/// Commands of a shell with the server's programs and its address in the environment.
fn shell(server: &Server, world: &World, folder: &Path, script: &str) -> Ran {
    let psql = server.tool("psql", "postgres");
    let programs = Path::new(psql.get_program()).parent().unwrap().to_owned();
    let like = command(world, &[]);
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).env_clear().current_dir(folder).stdin(Stdio::null());
    shell.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let path = like.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let own = Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap();
    shell.env(
        "PATH",
        format!("{}:{}:{}", programs.display(), own.display(), path.unwrap().to_str().unwrap()),
    );
    shell.env("PGHOST", server.sockets()).env("PGUSER", "postgres");
    ran(shell.output().unwrap())
}

#[test]
fn a_sealed_dump_is_verified_restored_and_opened_by_hand() {
    let server = shop(majors()[0]);
    server.sql("postgres", "CREATE ROLE seller LOGIN");
    server.sql("shop", "GRANT SELECT ON public.item TO seller");
    let text = server.text("shop");
    let (world, sealed) = world_with_key();
    world.configure(&format!("{sealed}[source.shop.postgres]\nurl = \"{}\"\n", server.url("shop")));
    run(&world, &["backup"]).expect(0).says("sealed");
    for name in world.names("repo/shop") {
        assert!(name.ends_with(".age") || name.ends_with(".json"), "{name} is open");
    }
    let key = world.text("home/key");
    run(&world, &["verify"]).expect(12);
    run(&world, &["verify", "--level", "stored"]).expect(0);
    run(&world, &["verify", "--level", "full", "--identity", &key]).expect(0);
    let shown = run(&world, &["show", "shop"]).expect(0).out;
    assert!(shown.contains("stored, with the key, level full"), "{shown}");
    // In place, by one command for all.
    server.sql("postgres", "DROP DATABASE shop");
    run(&world, &["restore", "--all", "--yes"]).expect(12);
    run(&world, &["restore", "--all", "--yes", "--identity", &key]).expect(0);
    assert_eq!(server.text("shop"), text);
    // By the commands of the kit, without the program: globals, createdb, pg_restore.
    let kit = run(&world, &["kit"]).expect(0).out;
    let from = kit.find("5. Back without").unwrap();
    let lines = kit[from..].lines().filter_map(|line| line.strip_prefix("    $ "));
    let script: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(script.contains("pg_restore") && script.contains("psql -d postgres"), "{script}");
    let folder = world.path("rescue");
    fs::create_dir(&folder).unwrap();
    fs::copy(&key, folder.join("recovery.key")).unwrap();
    server.sql("postgres", "DROP DATABASE shop");
    server.sql("postgres", "DROP ROLE seller");
    shell(&server, &world, &folder, &script).expect(0);
    assert_eq!(server.text("shop"), text);
}

#[test]
fn plain_sql_behind_a_seal_is_opened_by_hand() {
    let server = shop(majors()[0]);
    let text = server.text("shop");
    let (world, sealed) = world_with_key();
    world.configure(&format!(
        "{sealed}compression = \"gzip\"\n\
         [source.shop.postgres]\nurl = \"{}\"\nformat = \"plain\"\n",
        server.url("shop")
    ));
    run(&world, &["backup"]).expect(0);
    let key = world.text("home/key");
    run(&world, &["verify", "--level", "full", "--identity", &key]).expect(0);
    let kit = run(&world, &["kit"]).expect(0).out;
    let from = kit.find("5. Back without").unwrap();
    let lines = kit[from..].lines().filter_map(|line| line.strip_prefix("    $ "));
    let script: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(script.contains("psql -v ON_ERROR_STOP=1 -d shop"), "{script}");
    let folder = world.path("rescue");
    fs::create_dir(&folder).unwrap();
    fs::copy(&key, folder.join("recovery.key")).unwrap();
    server.sql("postgres", "DROP DATABASE shop");
    shell(&server, &world, &folder, &script).expect(0);
    assert_eq!(server.text("shop"), text);
}

const PORT: u16 = 5811;
const RESTORED: u16 = 5812;

/// A cluster and its log, sealed, and copied to a second place that is sealed to the same key.
#[test]
fn a_sealed_cluster_and_its_log_are_opened_copied_and_restored_to_a_moment() {
    let (major, yard) = (majors()[0], Yard::new());
    let lifeboat =
        |arguments: &[&str]| ran(yard.command(program()).args(arguments).output().unwrap());
    let key = yard.path("key").to_str().unwrap().to_owned();
    yard.configure("");
    let recipient = lifeboat(&["key", "new", &key]).expect(0).out;
    let places = |name: &str| {
        let recipient = recipient.trim();
        format!(
            "[repository.{name}]\nurl = \"file://$YARD/{name}\"\nencrypt_to = [\"{recipient}\"]\n"
        )
    };
    let source = format!(
        "[source.main.postgres]\nurl = \"postgresql:///?host=$YARD&port={PORT}&user=postgres\"\n\
         physical = true\n"
    );
    yard.configure(&format!("{}{source}", places("near")));
    let mut primary = Cluster::new(&yard, major, "primary", &["--data-checksums"]);
    primary.archive("--source main");
    primary.up(PORT);
    primary.ask(PORT, "CREATE TABLE told (n int)");
    lifeboat(&["backup"]).expect(0);
    primary.ask(PORT, "INSERT INTO told VALUES (1)");
    let segment = primary.ask(PORT, "SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.ask(PORT, "SELECT pg_switch_wal()");
    let archived = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
    primary.wait_until(PORT, &archived);
    primary.kill();
    lifeboat(&["verify"]).expect(12);
    lifeboat(&["verify", "--level", "full", "--identity", &key]).expect(0);

    // `age -d` opens each object, of the backup and of the log.
    let list = "find near/main -name '*.age' | wc -l";
    let count = |line: &str| {
        let mut command = Command::new("sh");
        let output = command.args(["-euc", line]).current_dir(yard.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap()
    };
    let opened = "find near/main -name '*.age' | while read f; do \
        age -d -i key \"$f\" | zstd -dc > opened && test -s opened && echo yes; done | wc -l";
    assert!(count(list) >= 4 && count(opened) == count(list));
    let bare = "find near/main -type f ! -name '*.age' ! -name '*.json' ! -name '*.blake3' | wc -l";
    assert_eq!(count(bare), 0);
    let segment_line =
        format!("age -d -i key \"$(find near/main -name {segment}.zst.age)\" | zstd -dc | wc -c");
    assert_eq!(count(&segment_line), 16 << 20);

    // The log goes along to a second place.
    yard.configure(&format!("{}{}{source}", places("near"), places("far")));
    let copied = lifeboat(&["copy", "--to", "far", "--json"]).expect(0).json();
    assert!(copied[0]["log_objects"].as_u64().unwrap() >= 2, "{copied}");
    let again = lifeboat(&["copy", "--to", "far", "--json"]).expect(0).json();
    assert_eq!(
        (&again[0]["log_objects"], &again[0]["plan"]["log"]["parts"]),
        (&0.into(), &serde_json::json!([]))
    );
    fs::rename(yard.path("near"), yard.path("lost")).unwrap();
    let to = yard.path("back").to_str().unwrap().to_owned();
    let mut restore = match crate::support::is_root() {
        true => {
            let own = yard.command(program());
            let mut command = Command::new(program());
            command.env_clear().current_dir(yard.path(""));
            command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        }
        false => yard.command(program()),
    };
    restore.args(["--repo", "far", "restore", "main", "--to", &to, "--identity", &key]);
    ran(restore.output().unwrap()).expect(0);
    let mut restored = Cluster::at(&yard, major, "back");
    restored.up(RESTORED);
    assert_eq!(restored.ask(RESTORED, "SELECT n FROM told"), "1");
    restored.kill();
}
