//! Drills of PostgreSQL: dumps and whole clusters, to their end and to a moment, in servers that
//! are thrown away.

use std::fs;

use serde_json::Value;

use crate::cluster::Yard;
use crate::cluster_restore::{archived, lifeboat, lifeboat_as_we_are, moment, primary};
use crate::postgres_server::{configure, kinds_of_majors, majors, run, shop, world_of};
use crate::support::set_mode;

const DRILL: &str = "[source.shop.drill]\nassert = [\"SELECT count(*) = 1000 FROM item\"]\n";

fn outcome<'a>(record: &'a Value, name: &str) -> &'a str {
    let found = record["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {record:#}"))["outcome"].as_str().unwrap()
}

#[test]
fn a_dump_is_restored_into_a_server_that_is_thrown_away() {
    for major in majors() {
        let server = shop(*major);
        let url = server.url("shop");
        let world = world_of(&url);
        // The server runs as another user.
        set_mode(&world.path(""), 0o755);
        configure(&world, &url, DRILL);
        run(&world, &["backup"]).expect(0);
        let ran = run(&world, &["drill", "--json"]).expect(0);
        let record = &ran.json()[0]["record"];
        for name in [
            "stored_hashes",
            "load_into_throw_away_cluster",
            "rows_manifest",
            "assert",
            "rows_live",
        ] {
            assert_eq!(outcome(record, name), "passed", "{major}: {record:#}");
        }
        assert_eq!(outcome(record, "amcheck"), "skipped");
        assert_eq!(world.names("tmp"), Vec::<String>::new());
        run(&world, &["proof", "verify"]).expect(0);
        // What is live has gone on.
        server
            .sql("shop", "INSERT INTO public.item (price) SELECT 1 FROM generate_series(1, 5000)");
        run(&world, &["drill"]).expect(20).says("public.item has 1000 rows, live it has 6000");
        configure(&world, &url, "[source.shop.drill]\nassert = [\"SELECT 1 FROM nowhere\"]\n");
        run(&world, &["drill", "--no-proof"]).expect(20).says("nowhere");
        // The live server is not needed for a restore.
        drop(server);
        configure(&world, &url, DRILL);
        let ran = run(&world, &["drill", "--json"]).expect(0);
        assert_eq!(outcome(&ran.json()[0]["record"], "rows_live"), "skipped");
        assert_eq!(world.names("tmp"), Vec::<String>::new());
    }
}

#[test]
fn a_dump_that_lost_a_byte_fails_its_drill() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    set_mode(&world.path(""), 0o755);
    run(&world, &["backup"]).expect(0);
    let artifact = world.artifact("shop", ".dump.zst");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&artifact, bytes).unwrap();
    run(&world, &["drill"]).expect(20);
    assert_eq!(world.names("tmp"), Vec::<String>::new());
}

#[test]
fn a_cluster_is_recovered_to_its_end_and_to_a_moment() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        let text = format!(
            "{}[source.main.drill]\nassert = [\"SELECT max(n) >= 1 FROM told\"]\nrows_slack = 100\n",
            crate::cluster_restore::CONFIGURATION
        );
        yard.configure(&text);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let first = moment(&primary, 1);
        moment(&primary, 2);
        archived(&mut primary);
        let ran = lifeboat_as_we_are(&yard, &["drill", "main", "--json", "--no-proof"]).expect(0);
        let record = ran.json()[0]["record"].clone();
        for name in
            ["server_manifest", "page_checksums", "log", "every_row_read", "assert", "rows_live"]
        {
            assert_eq!(outcome(&record, name), "passed", "{major}: {record:#}");
        }
        // Where it is installed; else it is named as skipped.
        assert!(["passed", "skipped"].contains(&outcome(&record, "amcheck")), "{record:#}");
        primary.stop();
        let at = ["drill", "main", "--at", &first, "--json", "--no-proof"];
        let record = lifeboat_as_we_are(&yard, &at).expect(0).json()[0]["record"].clone();
        assert_eq!((&record["chosen"], outcome(&record, "rows_live")), (&"at".into(), "skipped"));
        yard.configure(&text.replace("max(n) >= 1", "max(n) = 1"));
        lifeboat_as_we_are(&yard, &["drill", "main", "--at", &first, "--no-proof"]).expect(0);
        drop(
            lifeboat_as_we_are(&yard, &["drill", "main", "--no-proof"])
                .expect(20)
                .says("which is not true"),
        );
        let never = ["drill", "main", "--at", "2100-01-01T00:00:00Z", "--no-proof"];
        lifeboat_as_we_are(&yard, &never).expect(20);
        assert!(yard.path("tmp").read_dir().unwrap().next().is_none(), "nothing is left");
    }
}
