//! `lifeboat backup` of whole clusters by the program: set up, damage, failures half-way, chains.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::bad_input::in_own_namespace;
use crate::postgres_server::{Server, command, kinds_of_majors, majors, run};
use crate::support::{World, ran};

/// A world with one source `main`, which is the whole cluster.
fn world_of(server: &Server, more: &str) -> World {
    let world = World::new();
    configure(&world, server, more);
    world
}

fn configure(world: &World, server: &Server, more: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.main.postgres]\nurl = \"{}\"\nphysical = true\n{more}",
        server.url("")
    ));
}

fn manifests(world: &World) -> Vec<serde_json::Value> {
    let Ok(entries) = fs::read_dir(world.path("repo/main")) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .filter(|path| !path.ends_with("source.json"))
        .collect();
    found.sort();
    found.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
}

#[test]
fn a_cluster_and_a_database_of_it_side_by_side() {
    for major in majors() {
        let server = Server::new(*major);
        server.sql("postgres", "CREATE TABLE public.t AS SELECT 1 AS one");
        let world = World::new();
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n\
             [source.main.postgres]\nurl = \"{}\"\nphysical = true\n\
             [source.dump]\npostgres = \"{}\"\n",
            server.url(""),
            server.url("postgres")
        ));
        let both = run(&world, &["backup"]).expect(0);
        assert!(both.err.contains("page checksums on pinned snapshot"), "{}", both.err);
        run(&world, &["verify"]).expect(0);
        run(&world, &["show", "main@latest"]).expect(0);
        let listed = run(&world, &["list"]).expect(0);
        assert!(listed.out.contains("main") && listed.out.contains("dump"), "{}", listed.out);
        let manifest = &manifests(&world)[0];
        assert_eq!(manifest["source"]["kind"], "postgres-cluster");
        assert_eq!(manifest["condition"], "good");
    }
}

#[test]
fn a_server_that_is_named_needs_no_configuration() {
    let server = Server::new(15);
    let world = World::new();
    let repository = format!("file://{}", world.path("repo").display());
    let url = server.url("");
    run(&world, &["backup", "--physical", &url, "--repo", &repository]).expect(0);
    // Without a database the address means the cluster.
    run(&world, &["verify", &url, "--repo", &repository]).expect(0);
    let dump = run(&world, &["backup", &url, "--repo", &repository]);
    assert_eq!(dump.code, 2, "{}", dump.err);
    assert!(dump.err.contains("--physical"), "{}", dump.err);
}

#[test]
fn damage_is_kept_told_and_never_good() {
    let server = Server::new(16);
    server.sql("postgres", "CREATE TABLE public.t AS SELECT g FROM generate_series(1, 9999) g");
    let world = world_of(&server, "");
    run(&world, &["backup"]).expect(0);
    let file = server.ask(
        "postgres",
        "CHECKPOINT; SELECT current_setting('data_directory') || '/' || pg_relation_filepath('t')",
    );
    let path = file.iter().find(|line| line.starts_with('/')).unwrap();
    fs::File::options().write(true).open(path).unwrap().write_all_at(b"!", 8_192 + 99).unwrap();
    let made = run(&world, &["backup", "--prune"]);
    assert_eq!(made.code, 20, "{}", made.err);
    assert!(made.err.contains("(public.t of the database postgres): block 1"), "{}", made.err);
    let conditions: Vec<_> =
        manifests(&world).iter().map(|manifest| manifest["condition"].clone()).collect();
    assert_eq!(conditions, ["good", "damaged"]);
}

#[test]
fn a_run_or_a_server_that_dies_leaves_no_backup_and_the_next_run_works() {
    let server = Server::new(15);
    server.sql(
        "postgres",
        "CREATE TABLE public.t AS SELECT g, repeat('x', 400) FROM generate_series(1, 99999) g",
    );
    let world = world_of(&server, "max_rate = \"8MB\"\n");
    for dies in ["run", "server"] {
        let mut child = command(&world, &["backup"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server
            .wait_for("SELECT 1 FROM pg_stat_progress_basebackup WHERE backup_streamed > 9999999");
        match dies {
            "run" => child.kill().unwrap(),
            _ => server.sql(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup",
            ),
        }
        let status = child.wait().unwrap();
        match dies {
            "run" => assert_eq!(status.signal(), Some(9)),
            _ => assert_eq!(status.code(), Some(15)),
        }
        assert!(manifests(&world).is_empty(), "{dies}");
        // Nothing holds on to the log of a server whose client is gone.
        for _ in 0..3_000 {
            let slots = server.ask("postgres", "SELECT slot_name FROM pg_replication_slots");
            if slots.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(server.ask("postgres", "SELECT 1 FROM pg_replication_slots").is_empty());
    }
    configure(&world, &server, "");
    run(&world, &["backup"]).expect(0);
    assert_eq!(manifests(&world).len(), 1);
    run(&world, &["verify"]).expect(0);
}

#[test]
fn incremental_backups_form_a_chain_of_bounded_length() {
    for major in kinds_of_majors() {
        let settings: &[&str] = if *major >= 17 { &["summarize_wal=on"] } else { &[] };
        let server = Server::with(*major, settings);
        let world = world_of(&server, "chain_max = 2\n");
        for _ in 0..4 {
            run(&world, &["backup", "--incremental"]).expect(0);
        }
        // The fourth was whole again; the next one builds on it, as the plan says.
        let plan = run(&world, &["backup", "--incremental", "--dry-run"]).expect(0);
        let newest = manifests(&world).pop().unwrap()["name"].as_str().unwrap().to_owned();
        assert!(plan.out.contains(&format!("build on {newest}")), "{}", plan.out);
        let made = manifests(&world);
        let parents: Vec<_> = made.iter().map(|manifest| manifest.get("parent")).collect();
        let ids: Vec<_> = made.iter().map(|manifest| &manifest["id"]).collect();
        assert_eq!(parents, [None, Some(ids[0]), Some(ids[1]), None], "{major}");
        run(&world, &["verify"]).expect(0);
    }
    let server = Server::new(18);
    let world = world_of(&server, "");
    run(&world, &["backup"]).expect(0);
    server.sql("postgres", "ALTER SYSTEM SET summarize_wal = off; SELECT pg_reload_conf()");
    let off = run(&world, &["backup", "--incremental"]);
    assert_eq!(off.code, 15, "{}", off.err);
    assert!(off.err.contains("summarize_wal = on"), "{}", off.err);
}

#[test]
fn progress_counts_what_was_read_and_not_what_changed() {
    let server = Server::new(15);
    let world = world_of(&server, "");
    run(&world, &["backup"]).expect(0);
    let next = run(&world, &["backup", "--incremental", "--json"]).expect(0);
    let lines = next.err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ended = |line: &Value| line["phase"] == "backing up" && line["state"] == "ended";
    let first = lines.into_iter().find(ended).unwrap();
    let (done, total) =
        (first["bytes_done"].as_u64().unwrap(), first["bytes_total"].as_u64().unwrap());
    // All was read, whatever little of it is stored.
    assert!(done * 10 >= total * 9 && total > 10_000_000, "{first}");
    let made = manifests(&world).pop().unwrap();
    let base = made["artifacts"].as_array().unwrap().iter().find(|one| one["role"] == "base");
    let stored = base.unwrap()["plain_bytes"].as_u64().unwrap();
    // The log of the backup's own time is not of the cluster.
    let of_log = made["facts"]["wal_bytes"].as_u64().unwrap();
    assert!(stored - of_log < total / 4, "{made}");
}

#[test]
fn what_is_not_of_a_cluster_is_a_mistake_of_the_configuration() {
    let server = Server::new(15);
    for (more, told) in [
        ("tables = [\"t\"]\n", "the whole cluster"),
        ("command = [\"docker\", \"exec\", \"db\"]\n", "connects by itself"),
        ("max_rate = \"fast\"\n", "max_rate"),
    ] {
        let refused = run(&world_of(&server, more), &["backup"]);
        assert_eq!(refused.code, 2, "{}", refused.err);
        assert!(refused.err.contains(told), "{more}: {}", refused.err);
    }
    let world = World::new();
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.main.postgres]\nurl = \"{}\"\ncheckpoint = \"spread\"\n",
        server.url("postgres")
    ));
    let refused = run(&world, &["backup"]);
    assert!(refused.code == 2 && refused.err.contains("physical = true"), "{}", refused.err);
}

#[test]
fn t38_a_flipped_bit_anywhere_in_a_physical_backup_fails_its_verification() {
    let server = Server::new(15);
    let world = world_of(&server, "");
    run(&world, &["backup"]).expect(0);
    let made = manifests(&world).remove(0);
    let folder = world.path("repo").join(made["source"]["name"].as_str().unwrap());
    let artifacts = made["artifacts"].as_array().unwrap();
    assert!(artifacts.iter().any(|artifact| artifact["role"] == "page-hashes"));
    for artifact in artifacts {
        let path = folder.join(artifact["name"].as_str().unwrap());
        let sound = fs::read(&path).unwrap();
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 4;
        fs::write(&path, &flipped).unwrap();
        for level in ["hash", "quick"] {
            assert_eq!(run(&world, &["verify", "--level", level]).code, 20, "{artifact} {level}");
        }
        fs::write(&path, &sound).unwrap();
    }
    run(&world, &["verify"]).expect(0);
}

#[test]
fn a_repository_that_is_full_holds_no_half_backup_of_a_cluster() {
    let server = Server::tcp(15);
    server.sql("postgres", "ALTER ROLE postgres PASSWORD 'hush'");
    let world = World::new();
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.main.postgres]\n\
         url = \"postgresql://postgres:hush@127.0.0.1:{}/\"\nphysical = true\n",
        server.port()
    ));
    fs::create_dir(world.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=\"$3\" tmpfs \"$1\" && \"$2\" backup --repo \"$1\"; \
                  code=$?; find \"$1\" -type f | sort; exit $code";
    for size in ["12k", "1m"] {
        let Some(mut command) = in_own_namespace(script) else { return };
        command.arg(world.path("small")).args([env!("CARGO_BIN_EXE_lifeboat"), size]);
        command.env("XDG_CONFIG_HOME", world.path("home/config"));
        command.env("XDG_STATE_HOME", world.path("state")).env("TMPDIR", world.path("tmp"));
        let ran = ran(command.current_dir(world.path("data")).output().unwrap());
        assert_eq!(ran.code, 14, "{size}: {ran:?}");
        for file in ran.out.lines().map(|line| line.rsplit('/').next().unwrap()) {
            let harmless = ["README.txt", "lifeboat.json", "source.json"].contains(&file);
            assert!(harmless, "{size}: {file} is left");
        }
    }
    server.wait_for("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_replication_slots)");
    run(&world, &["backup"]).expect(0);
}
