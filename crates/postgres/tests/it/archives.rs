//! Archives as scripts make them, and rows of every shape: what several loaders are dealt comes
//! back as it was.

use std::path::Path;
use std::process::Command;

use lifeboat_core::manifest::{CheckLevel, Manifest};
use lifeboat_core::restore::Origin;
use lifeboat_core::source::Engine;
use lifeboat_core::{Error, Kind};
use lifeboat_postgres::restore::{RestoreRequest, apply, plan};
use lifeboat_postgres::{Client, PostgresEngine, ThrowAwayCluster};

use crate::support::{
    back_up, cluster, env, kinds_of_majors, majors, options, place, run, source, text_of,
};

/// Rows longer than what is dealt out at once, empty ones, tables that end at the edge of a batch,
/// names and values that look like the marks of the format.
const SHAPES: &str = r"
SET search_path = public;
CREATE TABLE long_rows AS
  SELECT i AS id, repeat(md5(i::text), i * 20000) AS body FROM generate_series(1, 5) AS i;
CREATE TABLE many AS SELECT i AS id, md5(i::text) AS key FROM generate_series(1, 60000) AS i;
ALTER TABLE many ADD PRIMARY KEY (id);
CREATE TABLE empty_texts AS SELECT ''::text AS word FROM generate_series(1, 700000);
CREATE TABLE marks AS SELECT E'\\.\n\n\n'::text AS word FROM generate_series(1, 90000);
CREATE TABLE nothing (id int);
CREATE TABLE child (CHECK (id > 0)) INHERITS (many);
INSERT INTO child SELECT i, 'c' FROM generate_series(70000, 70010) AS i;
CREATE SEQUENCE numbers START 41;
SELECT nextval('numbers');
SELECT lo_from_bytea(4711, decode(repeat('00ff', 700000), 'hex'));
COMMENT ON LARGE OBJECT 4711 IS 'a picture';
";

const SUM: &str = "
SELECT (SELECT sum(hashtextextended(t::text, 0)) FROM long_rows t),
 (SELECT sum(hashtextextended(t::text, 0)) FROM many t),
 (SELECT count(*) FROM ONLY many), (SELECT count(*) FROM child),
 (SELECT count(*) FROM empty_texts WHERE word = ''),
 (SELECT count(*) FROM marks WHERE word = E'\\\\.\\n\\n\\n'), (SELECT count(*) FROM nothing),
 nextval('numbers'), md5(lo_get(4711)), obj_description(4711, 'pg_largeobject')";

fn shapes(cluster: &ThrowAwayCluster) -> Client {
    run(&cluster.client("postgres").unwrap(), "CREATE DATABASE shapes");
    let client = cluster.client("shapes").unwrap();
    run(&client, SHAPES);
    client
}

fn sum(client: &Client) -> String {
    let program = client.program("psql", None).unwrap();
    let output = client.command(&program).args(["-XAtc", SUM]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn restored(origin: Origin<'_>, target: &Client) -> Result<(), Error> {
    let request = RestoreRequest {
        origin,
        target,
        with_owners: true,
        schemas: &[],
        tables: &[],
        scratch_folder: Path::new("/var/tmp"),
    };
    let plan = plan(&env(), &request)?;
    apply(&env(), &request, &plan).map(drop)
}

#[test]
fn rows_of_every_shape_are_dealt_out_and_come_back() {
    for major in kinds_of_majors() {
        let cluster = cluster(*major);
        let client = shapes(&cluster);
        let place = place();
        let manifest = back_up(&place, &source(client), CheckLevel::Quick).unwrap();
        let target = cluster.client("again").unwrap();
        let origin =
            Origin::Backup { repository: &place.repository, folder: "shop", manifest: &manifest };
        restored(origin, &target).unwrap();
        assert_eq!(sum(&target), sum(&cluster.client("shapes").unwrap()), "PostgreSQL {major}");
        // Written once: no reader of them writes again that they are committed. From 16 on a table
        // is extended by some pages more than it needs.
        let frozen = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class \
                      WHERE relkind = 'r' AND relpages > 0 AND relallvisible >= relpages * 0.9 \
                      AND relnamespace = 'public'::regnamespace";
        assert_eq!(text_of(&target, frozen), "child,empty_texts,long_rows,many,marks");
    }
}

/// Where the manifest says where rows begin, they come straight from there; that it is right is
/// seen, and what does not fit changes nothing.
#[test]
fn rows_are_loaded_from_where_the_manifest_says_they_are() {
    for major in kinds_of_majors() {
        let cluster = cluster(*major);
        let client = shapes(&cluster);
        run(&client, "SELECT lo_unlink(4711)");
        let place = place();
        let manifest = back_up(&place, &source(client), CheckLevel::Quick).unwrap();
        let begins = manifest.facts["data_begins"].as_object().unwrap();
        let restore = |manifest: &Manifest, database: &str| {
            let target = cluster.client(database).unwrap();
            let repository = &place.repository;
            restored(Origin::Backup { repository, folder: "shop", manifest }, &target)
        };
        restore(&manifest, "straight").unwrap();
        let straight = cluster.client("straight").unwrap();
        let of_rows = "SELECT concat((SELECT sum(hashtextextended(t::text, 0)) FROM long_rows t), \
                       (SELECT sum(hashtextextended(t::text, 0)) FROM many t), \
                       (SELECT count(*) FROM empty_texts WHERE word = ''), \
                       (SELECT count(*) FROM marks), (SELECT last_value FROM numbers))";
        let wanted = text_of(&cluster.client("shapes").unwrap(), of_rows);
        assert_eq!(text_of(&straight, of_rows), wanted, "PostgreSQL {major}");

        // Two tables change places.
        let mut wrong = manifest.clone();
        let mut swapped = begins.clone();
        let names: Vec<String> = begins.keys().take(2).cloned().collect();
        swapped.insert(names[0].clone(), begins[&names[1]].clone());
        swapped.insert(names[1].clone(), begins[&names[0]].clone());
        wrong.facts.insert("data_begins".into(), swapped.into());
        let error = restore(&wrong, "wrong").unwrap_err();
        assert_eq!(error.kind(), Kind::CheckFailed, "{error}");
        // Its stored bytes are others than those of the manifest.
        let mut other = manifest.clone();
        other.artifacts[0].stored_sha256 = "0".repeat(64);
        let error = restore(&other, "other").unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        // Places beyond the end are no places.
        let mut beyond = manifest.clone();
        beyond.facts["data_begins"][&names[0]] = u64::MAX.into();
        restore(&beyond, "beyond").unwrap();
        // A manifest from before that says nothing.
        let mut older = manifest.clone();
        older.facts.remove("data_begins");
        restore(&older, "older").unwrap();
        let there = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database \
                     WHERE datname IN ('straight', 'wrong', 'other', 'beyond', 'older') OR datname ~ '_restore_'";
        let postgres = cluster.client("postgres").unwrap();
        assert_eq!(text_of(&postgres, there), "beyond,older,straight", "PostgreSQL {major}");
    }
}

#[test]
fn archives_of_scripts_come_back_whatever_is_inside() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = shapes(&cluster);
        let wanted = sum(&client);
        let dump = client.program("pg_dump", Some(*major)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.dump");
        let kinds: &[&[&str]] = &[
            &["-Fc"],
            &["-Fc", "-Z9"],
            &["-Fc", "-Z0", "--rows-per-insert=1000"],
            &["-Fc", "--compress=zstd"],
            &["-Fc", "--compress=lz4"],
        ];
        for (number, kind) in kinds.iter().enumerate() {
            let mut command = client.command(&dump);
            let output = command.args(*kind).arg("-f").arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Only some builds know them, and only from 16 on: that of 17, in the long tests.
            let may_lack = kind.iter().any(|word| word.starts_with("--compress="));
            if may_lack && !output.status.success() && *major != 17 {
                assert!(said.contains("compress"), "{said}");
                continue;
            }
            assert!(output.status.success(), "{kind:?}: {said}");
            let report = PostgresEngine { options: options() }
                .check_file(&env(), &path, CheckLevel::Quick, 1 << 28)
                .unwrap();
            let rows = report.rows.unwrap();
            if !kind.contains(&"--rows-per-insert=1000") {
                assert_eq!(rows["public.empty_texts"], 700_000, "PostgreSQL {major} {kind:?}");
                assert_eq!(rows["public.long_rows"], 5);
            }
            let target = cluster.client(&format!("again{number}")).unwrap();
            restored(Origin::File { path: &path, keys: None }, &target).unwrap();
            // The number that a sequence gives next is another one after each question.
            let same = |text: &str| text.split('|').skip(8).collect::<Vec<_>>().join("|");
            let (is, must) = (sum(&target), &wanted);
            assert_eq!(same(&is), same(must), "PostgreSQL {major} {kind:?}");
            let before = |text: &str| text.split('|').take(7).collect::<Vec<_>>().join("|");
            assert_eq!(before(&is), before(must), "PostgreSQL {major} {kind:?}");
        }
    }
}

#[test]
fn an_archive_that_is_damaged_inside_is_refused() {
    let cluster = cluster(15);
    let client = shapes(&cluster);
    let dump = client.program("pg_dump", Some(15)).unwrap();
    let whole = client.command(&dump).arg("-Fc").output().unwrap().stdout;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.dump");
    let mut refused = 0;
    for part in 1..5 {
        // Within the rows, behind the contents.
        let at = whole.len() / 4 + part * (whole.len() / 2) / 5;
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, &damaged).unwrap();
        let target = cluster.client("again").unwrap();
        match restored(Origin::File { path: &path, keys: None }, &target) {
            Err(error) => {
                assert!([Kind::CheckFailed, Kind::Failed].contains(&error.kind()), "{error:?}");
                refused += 1;
            }
            Ok(()) => panic!("damage at {at} was not seen"),
        }
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(
            restored(Origin::File { path: &path, keys: None }, &target).is_err(),
            "cut at {at}"
        );
        let list = "SELECT datname FROM pg_database WHERE datname LIKE 'again%'";
        let psql = client.program("psql", None).unwrap();
        let mut command: Command = client.command(&psql);
        let left = command.args(["-XAtc", list]).output().unwrap().stdout;
        assert!(left.is_empty(), "{}", String::from_utf8_lossy(&left));
    }
    assert_eq!(refused, 4);
}
