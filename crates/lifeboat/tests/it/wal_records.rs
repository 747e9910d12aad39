//! What is said of a log: ranges, gaps and times, compared with what the servers' own programs say.

use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, Yard, done};
use crate::postgres_server::majors;

/// The last time in a segment, and its restore points, by `pg_waldump`.
fn dumped(cluster: &Cluster<'_>, segment: &str) -> (Option<String>, Vec<String>) {
    let path = cluster.data.join("pg_wal").join(segment);
    let output = Command::new(cluster.program("pg_waldump")).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut last, mut points) = (None, Vec::new());
    for line in text.lines() {
        if line.contains("rmgr: Transaction") && (line.contains("COMMIT") || line.contains("ABORT"))
        {
            let desc = line.split("desc: ").nth(1).unwrap();
            let words = desc.split_once(' ').unwrap().1;
            // "2026-01-08 14:00:00.123456 UTC; ..."
            let words = words.split_once(": ").map_or(words, |(before, after)| {
                if before.bytes().all(|byte| byte.is_ascii_digit()) { after } else { words }
            });
            last = words.split(" UTC").next().map(str::to_owned);
        }
        if line.contains("RESTORE_POINT") {
            points.push(
                line.split("RESTORE_POINT ").nth(1).unwrap().split(' ').next().unwrap().to_owned(),
            );
        }
    }
    (last, points)
}

#[test]
fn times_are_those_that_pg_waldump_finds() {
    for major in majors() {
        let yard = Yard::new();
        yard.configure_main(&["one"]);
        let mut cluster = Cluster::new(&yard, *major, "data", &["--wal-segsize=1"]);
        cluster.set(&["archive_command = 'true'", "timezone = 'UTC'", "wal_keep_size = '1GB'"]);
        cluster.set(&["max_prepared_transactions = 5"]);
        cluster.up(5432);
        assert!(cluster.pgbench(5432, &["-i", "-q", "-s", "1"]).wait().unwrap().success());
        for round in 0..3 {
            let load = cluster.pgbench(5432, &["-n", "-c", "2", "-t", "150"]);
            done(load.wait_with_output().unwrap());
            cluster.ask(5432, &format!("SELECT pg_create_restore_point('point-{round}')"));
            // Records longer than a page, an abort, and a prepared transaction.
            cluster.ask(5432, "CREATE TABLE IF NOT EXISTS big(t text)");
            cluster.ask(
                5432,
                "INSERT INTO big SELECT string_agg(md5(i::text), '') FROM generate_series(1, 5000) i",
            );
            cluster.psql(5432, "BEGIN; INSERT INTO big VALUES ('x'); SELECT 1/0");
            cluster.ask(5432, "BEGIN; INSERT INTO big VALUES ('y'); PREPARE TRANSACTION 'p'");
            cluster.ask(5432, "COMMIT PREPARED 'p'");
            cluster.ask(5432, "SELECT pg_switch_wal()");
        }
        let current = cluster.ask(5432, "SELECT pg_walfile_name(pg_current_wal_lsn())");
        cluster.stop();
        let mut segments: Vec<String> = fs::read_dir(cluster.data.join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.len() == 24 && *name <= current)
            .collect();
        segments.sort();
        assert!(segments.len() > 5, "{segments:?}");
        let (mut with_time, mut points) = (0, 0);
        for segment in &segments {
            let bytes = fs::read(cluster.data.join("pg_wal").join(segment)).unwrap();
            let times = lifeboat_postgres::wal::RecordReader::read(&bytes).unwrap();
            let (last, named) = dumped(&cluster, segment);
            let ours = times.last.map(|at| at.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string());
            assert_eq!(ours, last, "{major} {segment}");
            let of_us: Vec<&str> = times.restore_points.iter().map(|(name, _)| &**name).collect();
            assert_eq!(of_us, named, "{major} {segment}");
            with_time += usize::from(last.is_some());
            points += named.len();
            // Cut anywhere, it says no more than what is there.
            let cut =
                lifeboat_postgres::wal::RecordReader::read(&bytes[..bytes.len() / 3]).unwrap();
            assert!(cut.last <= times.last && cut.end <= times.end);
        }
        assert!(with_time > 3 && points == 3, "{with_time} {points}");
    }
}
