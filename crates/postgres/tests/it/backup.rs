//! Backups: what is stored is whole, and known to be.

use std::process::Command;
use std::sync::Arc;

use lifeboat_core::manifest::{CheckLevel, Condition};
use lifeboat_postgres::{ArchiveReader, DumpFormat, MomentGroup};

use crate::shop::{ITEMS, STATEMENTS};
use crate::support::{back_up, cluster, env, majors, place, run, source, stored};

#[test]
fn rows_are_counted_from_the_dump_of_every_version() {
    for major in majors() {
        let cluster = cluster(*major);
        run(&cluster.client("postgres").unwrap(), "CREATE DATABASE \"my shop\"");
        run(&cluster.client("my shop").unwrap(), STATEMENTS);
        for format in [DumpFormat::Custom, DumpFormat::Plain] {
            let place = place();
            let mut source = source(cluster.client("my shop").unwrap());
            source.format = format;
            let manifest = back_up(&place, &source, CheckLevel::Quick).unwrap();
            assert_eq!(manifest.condition, Condition::Good);
            let rows = manifest.rows.clone().unwrap();
            let of = |table: &str| rows.get(table).copied();
            assert_eq!(of("public.customer"), Some(1000), "{rows:?}");
            let parts = ["odd schema.items_2024", "odd schema.items_2025"].map(of);
            assert_eq!(parts.iter().flatten().sum::<u64>(), ITEMS, "{rows:?}");
            assert_eq!(of("public.empty_one"), Some(0));
            assert_eq!(of("public.no_columns"), Some(1));
            assert_eq!(of("public.guarded"), Some(2));
            assert_eq!(manifest.facts["disk_pages"], "not verified");
            assert_eq!(manifest.facts["server_major"], *major);
            let globals = stored(&place, &manifest, "globals");
            let text = Command::new("zstd").args(["-dc"]).arg(&globals).output().unwrap();
            let text = String::from_utf8(text.stdout).unwrap();
            assert!(text.contains("CREATE ROLE \"shop owner\""), "{text}");
        }
    }
}

#[test]
fn a_full_check_loads_the_dump_into_a_cluster_of_its_own() {
    for major in majors() {
        let cluster = cluster(*major);
        run(&cluster.client("postgres").unwrap(), "CREATE DATABASE \"my shop\"");
        run(&cluster.client("my shop").unwrap(), STATEMENTS);
        let place = place();
        let source = source(cluster.client("my shop").unwrap());
        let manifest = back_up(&place, &source, CheckLevel::Full).unwrap();
        let names: Vec<&str> = manifest.checks.iter().map(|check| check.name.as_str()).collect();
        assert!(names.contains(&"load_into_throw_away_cluster"), "{names:?}");
        assert_eq!(manifest.condition, Condition::Good);
    }
}

#[test]
fn databases_of_one_server_are_held_together_and_the_manifests_say_how_near() {
    let cluster = cluster(15);
    let names = ["one", "two", "three"];
    let sources: Vec<_> = names
        .iter()
        .map(|name| {
            run(&cluster.client("postgres").unwrap(), &format!("CREATE DATABASE {name}"));
            run(&cluster.client(name).unwrap(), "CREATE TABLE public.t AS SELECT 1 AS id");
            source(cluster.client(name).unwrap())
        })
        .collect();
    let group = Arc::new(MomentGroup::default());
    sources.iter().for_each(|source| source.hold(&env(), &group).unwrap());
    // Written after the moment: in none of the backups.
    for name in names {
        run(&cluster.client(name).unwrap(), "INSERT INTO public.t VALUES (2)");
    }
    let after = env().clock.now();
    for source in &sources {
        let manifest = back_up(&place(), source, CheckLevel::Quick).unwrap();
        assert_eq!(manifest.rows.unwrap()["public.t"], 1);
        assert!(manifest.taken_at < after);
        let together = &manifest.facts["held_together"];
        assert_eq!(together["databases"], serde_json::json!(["one", "three", "two"]));
        assert!(together["spread_ms"].as_u64().unwrap() < 60_000);
    }
    // What was held is held once.
    let manifest = back_up(&place(), &sources[0], CheckLevel::Quick).unwrap();
    assert_eq!(manifest.rows.unwrap()["public.t"], 2);
    assert!(!manifest.facts.contains_key("held_together"));
}

#[test]
fn the_offsets_that_a_pipe_leaves_out_are_those_that_pg_dump_writes_into_a_file() {
    for major in majors() {
        let cluster = cluster(*major);
        run(&cluster.client("postgres").unwrap(), "CREATE DATABASE \"my shop\"");
        let client = cluster.client("my shop").unwrap();
        run(&client, STATEMENTS);
        let dump = client.program("pg_dump", Some(*major)).unwrap();
        let custom = || {
            let mut command = client.command(&dump);
            command.args(["--format=custom", "--compress=0"]);
            command
        };
        let piped = custom().output().unwrap().stdout;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.dump");
        assert!(custom().arg("-f").arg(&path).status().unwrap().success());
        let written = std::fs::read(&path).unwrap();
        assert_eq!(piped.len(), written.len());
        let mut reader = ArchiveReader::new();
        piped.chunks(1000).try_for_each(|piece| reader.push(piece)).unwrap();
        let offsets = reader.offsets();
        let (contents, _) = reader.finish().unwrap();
        assert_eq!(offsets.len(), contents.entries.iter().filter(|entry| entry.has_data).count());
        for (place, bytes) in offsets {
            let place = place as usize..place as usize + bytes.len();
            assert_ne!(&piped[place.clone()], bytes, "PostgreSQL {major} has them already");
            assert_eq!(&written[place], bytes, "PostgreSQL {major}");
        }
    }
}
