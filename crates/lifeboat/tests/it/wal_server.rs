//! The archive and restore commands of real servers: under load, killed, cut off from their
//! repository, promoted.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, Yard, program};
use crate::postgres_server::majors;

/// Everything that `pgbench` wrote.
const FINGERPRINT: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pgbench_history), \
    (SELECT sum(delta) FROM pgbench_history)";

/// Ends the segment, and waits until it is archived.
fn archive_all(cluster: &mut Cluster<'_>, port: u16) -> String {
    let last = cluster.ask(port, "SELECT pg_walfile_name(pg_switch_wal())");
    let done = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    cluster.wait_until(port, &done);
    last
}

/// Makes of a copy what recovers from the archive, up to where that ends.
fn recover(copy: &Cluster<'_>, more: &[&str]) {
    fs::write(copy.data.join("recovery.signal"), "").unwrap();
    let program = program().display();
    copy.set(&[&format!("restore_command = '{program} wal fetch %f %p'")]);
    copy.set(more);
}

/// Kills every helper of a cluster as a power cut would.
fn kill_helpers(cluster: &Cluster<'_>) -> usize {
    let data = cluster.data.to_str().unwrap();
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("wal helper") && line.contains(data) {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).output();
            killed += 1;
        }
    }
    killed
}

/// Names of segments of one timeline with nothing missing between them.
#[track_caller]
fn assert_no_gap(segments: &[String], per_high: u64) {
    let number = |name: &String| {
        let part = |range: std::ops::Range<usize>| u64::from_str_radix(&name[range], 16).unwrap();
        part(8..16) * per_high + part(16..24)
    };
    let numbers: Vec<u64> = segments.iter().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{segments:?}");
}

#[test]
fn a_server_killed_under_load_loses_nothing() {
    for major in majors() {
        let yard = Yard::new();
        yard.configure_main(&["one", "two"]);
        let mut cluster = Cluster::new(&yard, *major, "data", &["--wal-segsize=1"]);
        cluster.archive("");
        cluster.up(5432);
        assert!(cluster.pgbench(5432, &["-i", "-q", "-s", "2"]).wait().unwrap().success());
        let copy = cluster.copy(5432, "copy");
        let mut killed = 0;
        for _ in 0..2 {
            let mut load = cluster.pgbench(5432, &["-n", "-c", "2", "-T", "60"]);
            std::thread::sleep(Duration::from_millis(1_200));
            killed += kill_helpers(&cluster);
            // The server ends all its sessions for it, and recovers.
            cluster.kill_one(5432, "archiver");
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill();
            killed += kill_helpers(&cluster);
            load.kill().unwrap();
            load.wait().unwrap();
            cluster.up(5432);
        }
        assert!(killed > 0, "no helper was ever at work");
        cluster.ask(5432, "INSERT INTO pgbench_history(tid, bid, aid, delta) VALUES (0, 0, 0, 7)");
        archive_all(&mut cluster, 5432);
        let wanted = cluster.ask(5432, FINGERPRINT);
        cluster.stop();
        for repository in ["one", "two"] {
            let segments = yard.segments(repository);
            assert!(segments.len() > 10, "{segments:?}");
            assert_no_gap(&segments, 4096);
        }
        // An outage ends no recovery.
        recover(&copy, &["archive_command = 'false'"]);
        let (one, aside) = (yard.path("one"), yard.path("aside"));
        fs::rename(yard.path("two"), yard.path("two-aside")).unwrap();
        fs::rename(&one, &aside).unwrap();
        let mut restored = copy;
        restored.start(5433);
        restored.wait_for_end();
        assert!(restored.log(5433).contains("could not restore file"), "{}", restored.log(5433));
        fs::rename(&aside, &one).unwrap();
        fs::rename(yard.path("two-aside"), yard.path("two")).unwrap();
        restored.up(5433);
        restored.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
        assert_eq!(restored.ask(5433, FINGERPRINT), wanted, "{major}");
        // Promoted, it goes on in the same archive under a timeline of its own.
        restored.ask(5433, "INSERT INTO pgbench_history(tid, bid, aid, delta) VALUES (1, 0, 0, 9)");
        restored.archive("");
        restored.ask(5433, "SELECT pg_reload_conf()");
        archive_all(&mut restored, 5433);
        restored.stop();
        let log = yard.log("one");
        assert!(log.iter().any(|name| name.ends_with("/00000002/00000002.history")), "{log:?}");
        assert!(log.iter().any(|name| name.contains("/00000002/000000020000")), "{log:?}");
    }
}

#[test]
fn what_cannot_be_archived_stays_and_is_caught_up() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = Cluster::new(&yard, 15, "data", &["--wal-segsize=1"]);
    cluster.archive("");
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(x text)");
    archive_all(&mut cluster, 5432);
    let archiver = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'";
    let before = cluster.ask(5432, archiver);
    let (one, aside) = (yard.path("one"), yard.path("aside"));
    fs::rename(&one, &aside).unwrap();
    fs::write(&one, "not a repository").unwrap();
    let mut last = String::new();
    for _ in 0..8 {
        cluster.ask(5432, "INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 500) AS i");
        last = cluster.ask(5432, "SELECT pg_walfile_name(pg_switch_wal())");
    }
    cluster.wait_until(5432, "SELECT failed_count > 0 FROM pg_stat_archiver");
    assert_eq!(cluster.ask(5432, archiver), before, "the archiver itself was ended");
    fs::remove_file(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    // Without waiting for the archiver's next attempt.
    cluster.ask(5432, "SELECT pg_reload_conf()");
    cluster
        .wait_until(5432, &format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"));
    let segments = yard.segments("one");
    assert!(segments.len() >= 8, "{segments:?}");
    assert_no_gap(&segments, 4096);
    cluster.stop();
}
