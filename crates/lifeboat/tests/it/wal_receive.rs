//! `wal receive` on real servers: pieces and whole segments, killed and begun again, synchronous,
//! across timelines, and slots that must not fill a disk.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, Yard, program};
use crate::postgres_server::kinds_of_majors;
use crate::support::ran;

const SUM: &str = "SELECT count(*), sum(x), max(x) FROM t";

fn server<'a>(yard: &'a Yard, major: u32) -> Cluster<'a> {
    let mut cluster = Cluster::new(yard, major, "data", &["--wal-segsize=1"]);
    cluster.set(&["archive_mode = off", "wal_keep_size = 0"]);
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(x bigint)");
    cluster
}

fn receiver(yard: &Yard, arguments: &[&str]) -> Child {
    let mut command = yard.command(program());
    command.args(["wal", "receive", "--quiet"]).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the receiver says that everything up to now is durable.
#[track_caller]
fn wait_until_safe(cluster: &mut Cluster<'_>, port: u16) {
    let here = cluster.ask(port, "SELECT pg_current_wal_flush_lsn()");
    let safe = format!("SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '{here}'");
    cluster.wait_until(port, &safe);
}

/// Recovers a copy from what is in the repository, and asks it.
fn recovered(yard: &Yard, copy: &mut Cluster<'_>, query: &str) -> String {
    fs::write(copy.data.join("recovery.signal"), "").unwrap();
    yard.own(&format!("{}/recovery.signal", copy.data.file_name().unwrap().to_str().unwrap()));
    let program = program().display();
    copy.set(&[&format!("restore_command = '{program} wal fetch %f %p'")]);
    copy.up(5433);
    copy.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
    let answer = copy.ask(5433, query);
    copy.stop();
    answer
}

#[test]
fn what_was_received_survives_the_server_also_without_a_whole_segment() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        yard.configure_main(&["one", "two"]);
        let mut cluster = server(&yard, *major);
        let mut copy = cluster.copy(5432, "copy");
        let mut first = receiver(&yard, &["--every", "200ms"]);
        cluster.wait_until(5432, "SELECT count(*) FROM pg_stat_replication");
        cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 30000)");
        wait_until_safe(&mut cluster, 5432);
        // Killed at any moment, it goes on where it was.
        for round in 0..3 {
            let insert = format!("INSERT INTO t SELECT {round} FROM generate_series(1, 9000)");
            cluster.ask(5432, &insert);
            std::thread::sleep(Duration::from_millis(70 * round));
            first.kill().unwrap();
            first.wait().unwrap();
            cluster.ask(5432, "INSERT INTO t VALUES (77)");
            first = receiver(&yard, &["--every", "200ms"]);
        }
        cluster.ask(5432, "INSERT INTO t VALUES (4711)");
        wait_until_safe(&mut cluster, 5432);
        let wanted = cluster.ask(5432, SUM);
        cluster.kill();
        first.kill().unwrap();
        first.wait().unwrap();
        for repository in ["one", "two"] {
            let log = yard.log(repository);
            let pieces: Vec<_> = log.iter().filter(|name| name.ends_with(".piece")).collect();
            let segments = yard.segments(repository);
            assert!(!pieces.is_empty() && segments.len() > 2, "{log:?}");
            // Only of the segment that is not whole.
            assert!(
                pieces
                    .iter()
                    .all(|piece| !segments.iter().any(|name| piece.contains(name.as_str())))
            );
        }
        assert_eq!(recovered(&yard, &mut copy, SUM), wanted, "{major}");
    }
}

/// As many pieces and segments as there must be, and none twice.
#[track_caller]
fn assert_sound(yard: &Yard, repository: &str) {
    let log = yard.log(repository);
    let segments = yard.segments(repository);
    let is_over = |name: &&String| {
        name.ends_with(".piece") && segments.iter().any(|segment| name.contains(segment.as_str()))
    };
    assert_eq!(log.iter().find(is_over), None, "{log:?}");
    let check = ["wal", "check", "--offline", "--read", "--json"];
    let checked = yard.lifeboat_in(&yard.path(""), &check).expect(0).json();
    assert_eq!(checked["clusters"][0]["gaps"], serde_json::json!([]), "{checked}");
    assert_eq!(checked["clusters"][0]["damaged"], serde_json::json!([]), "{checked}");
}

#[test]
fn killed_at_its_crash_points_a_receiver_goes_on() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 16);
    let mut copy = cluster.copy(5432, "copy");
    let here = yard.path("");
    yard.lifeboat_in(&here, &["wal", "receive", "--once"]).expect(0);
    for point in ["wal.piece_stored", "wal.segment_stored", "wal.piece_stored"] {
        cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 30000)");
        let mut command = yard.command(program());
        command.args(["wal", "receive", "--once"]).env("LIFEBOAT_CRASH_AT", point);
        let killed = ran(command.output().unwrap());
        assert_eq!(killed.code, 128 + 9, "{point} is never passed: {killed:?}");
    }
    yard.lifeboat_in(&here, &["wal", "receive", "--once"]).expect(0);
    assert_sound(&yard, "one");
    let wanted = cluster.ask(5432, SUM);
    cluster.kill();
    assert_eq!(recovered(&yard, &mut copy, SUM), wanted);
}

#[test]
fn a_receiver_killed_under_load_loses_nothing() {
    const FINGERPRINT: &str = "SELECT count(*), sum(delta), (SELECT sum(abalance) FROM \
                               pgbench_accounts) FROM pgbench_history";
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 18);
    assert!(cluster.pgbench(5432, &["-i", "-q", "-s", "1"]).wait().unwrap().success());
    // From here on the slot holds the log.
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    let mut copy = cluster.copy(5432, "copy");
    let mut load = cluster.pgbench(5432, &["-n", "-c", "2", "-T", "60"]);
    for round in 0..5 {
        let mut receiving = receiver(&yard, &["--every", "100ms"]);
        std::thread::sleep(Duration::from_millis(500 + 90 * round));
        receiving.kill().unwrap();
        receiving.wait().unwrap();
    }
    let mut receiving = receiver(&yard, &["--every", "100ms"]);
    cluster.wait_until(5432, "SELECT count(*) FROM pg_stat_replication");
    load.kill().unwrap();
    load.wait().unwrap();
    // What it had sent is done all the same.
    let gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'";
    cluster.wait_until(5432, gone);
    let wanted = cluster.ask(5432, FINGERPRINT);
    wait_until_safe(&mut cluster, 5432);
    cluster.kill();
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    assert_sound(&yard, "one");
    assert_eq!(recovered(&yard, &mut copy, FINGERPRINT), wanted);
}

#[test]
fn what_a_promoted_standby_left_unfinished_counts() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = Cluster::new(&yard, 18, "data", &["--wal-segsize=1"]);
    cluster.archive("");
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(x bigint)");
    let mut copy = cluster.copy(5432, "copy");
    let mut standby = standby(&yard, &cluster);
    cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    cluster.ask(5432, "SELECT pg_switch_wal()");
    cluster.ask(5432, "INSERT INTO t VALUES (4711)");
    let here = cluster.ask(5432, "SELECT pg_current_wal_lsn()");
    standby.wait_until(5433, &format!("SELECT pg_last_wal_replay_lsn() >= '{here}'"));
    let wanted = cluster.ask(5432, SUM);
    cluster.kill();
    standby.ask(5433, "SELECT pg_promote()");
    standby.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
    let end = "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal LIKE '%.partial'";
    standby.wait_until(5433, end);
    standby.kill();
    // Its own timeline is lost: the last transaction is in what the old one left, and nowhere else.
    for name in yard.log("one").iter().filter(|name| name.contains("/00000002/")) {
        fs::remove_file(yard.path(&format!("one/main/wal/{name}.zst"))).unwrap();
    }
    copy.set(&["archive_command = 'false'"]);
    assert_eq!(recovered(&yard, &mut copy, SUM), wanted);
}

/// A running standby of a server, on port 5433.
fn standby<'a>(yard: &'a Yard, cluster: &Cluster<'a>) -> Cluster<'a> {
    cluster.ask(5432, "SELECT pg_create_physical_replication_slot('standby', true)");
    let mut standby = cluster.copy(5432, "standby");
    fs::write(standby.data.join("standby.signal"), "").unwrap();
    yard.own("standby/standby.signal");
    let here = yard.path("").display().to_string();
    standby.set(&[
        &format!("primary_conninfo = 'host={here} port=5432 user=postgres'"),
        "primary_slot_name = 'standby'",
    ]);
    standby.up(5433);
    standby
}

#[test]
fn a_receiver_follows_a_standby_that_is_promoted_under_it() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 15);
    let mut standby = standby(&yard, &cluster);
    let mut copy = cluster.copy(5432, "copy");
    let here = cluster.ask(5432, "SELECT pg_current_wal_lsn()");
    standby.wait_until(5433, &format!("SELECT pg_last_wal_replay_lsn() >= '{here}'"));
    let text = fs::read_to_string(yard.path("config.toml")).unwrap();
    yard.configure(&text.replace("?user=", "?port=5433&user="));
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    let mut receiving = receiver(&yard, &["--every", "200ms"]);
    standby.wait_until(5433, "SELECT count(*) FROM pg_stat_replication");
    cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    let here = cluster.ask(5432, "SELECT pg_current_wal_lsn()");
    standby.wait_until(5433, &format!("SELECT pg_last_wal_replay_lsn() >= '{here}'"));
    cluster.stop();
    standby.ask(5433, "SELECT pg_promote()");
    standby.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
    standby.ask(5433, "INSERT INTO t VALUES (99)");
    standby.wait_until(5433, "SELECT count(*) FROM pg_stat_replication");
    wait_until_safe(&mut standby, 5433);
    let wanted = standby.ask(5433, SUM);
    // What the server says of its history is stored to the byte.
    let object =
        yard.log("one").into_iter().find(|name| name.ends_with("00000002.history")).unwrap();
    let object = yard.path(&format!("one/main/wal/{object}.zst"));
    let plain = std::process::Command::new("zstd").arg("-dc").arg(&object).output().unwrap();
    let own = fs::read(standby.data.join("pg_wal/00000002.history")).unwrap();
    assert!(!own.is_empty() && plain.stdout == own, "{plain:?}");
    standby.kill();
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    assert_sound(&yard, "one");
    assert_eq!(recovered(&yard, &mut copy, SUM), wanted);
}

#[test]
fn a_slot_is_watched_also_while_no_repository_takes_anything() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let cluster = server(&yard, 16);
    let here = yard.path("");
    yard.lifeboat_in(&here, &["wal", "receive", "--once"]).expect(0);
    fs::rename(yard.path("one"), yard.path("aside")).unwrap();
    fs::write(yard.path("one"), "not a repository").unwrap();
    for _ in 0..3 {
        cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    }
    let arguments = ["wal", "receive", "--slot-max", "1MB"];
    yard.lifeboat_in(&here, &[&arguments[..], &["--once"]].concat()).says("holds on to");
    assert_eq!(cluster.ask(5432, "SELECT count(*) FROM pg_replication_slots"), "1");
    // It does not wait for the repository first.
    let dropped = yard.lifeboat_in(&here, &[&arguments[..], &["--drop-slot"]].concat());
    dropped.expect(22).says("held on to");
    assert_eq!(cluster.ask(5432, "SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn a_synchronous_commit_waits_for_all_repositories() {
    let yard = Yard::new();
    yard.configure_main(&["one", "two"]);
    let mut cluster = server(&yard, 16);
    let mut copy = cluster.copy(5432, "copy");
    cluster.set(&["synchronous_standby_names = 'lifeboat'"]);
    cluster.ask(5432, "SELECT pg_reload_conf()");
    // Commits wait once the checkpointer has read it, which it does before it does this.
    cluster.ask(5432, "CHECKPOINT");
    // Nobody receives: nothing is committed.
    let mut waits = cluster.psql_command(5432, "INSERT INTO t VALUES (1)").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(waits.try_wait().unwrap().is_none(), "a commit did not wait");
    let mut receiving = receiver(&yard, &["--synchronous"]);
    cluster.wait_until(5432, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'");
    assert!(waits.wait().unwrap().success());
    for number in 0..20 {
        cluster.ask(5432, &format!("INSERT INTO t VALUES ({})", 1000 + number));
    }
    // What was acknowledged is safe, without a wait.
    let wanted = cluster.ask(5432, SUM);
    cluster.kill();
    receiving.kill().unwrap();
    receiving.wait().unwrap();
    copy.set(&["synchronous_standby_names = ''"]);
    // Of the one that is configured first it is fetched; without it the other one has all as well.
    assert_eq!(yard.segments("one"), yard.segments("two"));
    fs::remove_dir_all(yard.path("one/main/wal")).unwrap();
    assert_eq!(recovered(&yard, &mut copy, SUM), wanted);
}

#[test]
fn a_switch_of_the_timeline_is_followed() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 18);
    let mut standby = standby(&yard, &cluster);
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    cluster.stop();
    standby.ask(5433, "SELECT pg_promote()");
    standby.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
    standby.ask(5433, "INSERT INTO t VALUES (99)");
    let text = fs::read_to_string(yard.path("config.toml")).unwrap();
    yard.configure(&text.replace("?user=", "?port=5433&user="));
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    let log = yard.log("one");
    assert!(log.iter().any(|name| name.ends_with("00000002.history")), "{log:?}");
    assert!(log.iter().any(|name| name.contains("/00000002/00000002")), "{log:?}");
    let checked = yard.lifeboat_in(&yard.path(""), &["wal", "check", "--read", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&checked.out).unwrap();
    assert_eq!(json["clusters"][0]["gaps"], serde_json::json!([]), "{checked:?}");
    assert_eq!(json["clusters"][0]["damaged"], serde_json::json!([]), "{checked:?}");
}

#[test]
fn a_slot_that_holds_on_to_too_much_goes() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 15);
    yard.lifeboat_in(&yard.path(""), &["wal", "receive", "--once"]).expect(0);
    assert_eq!(cluster.ask(5432, "SELECT count(*) FROM pg_replication_slots"), "1");
    for _ in 0..4 {
        cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    }
    // Behind by more than it may be, from the first word of the server on.
    let arguments = ["wal", "receive", "--slot-max", "1MB", "--drop-slot", "--every", "1h"];
    yard.lifeboat_in(&yard.path(""), &arguments).expect(22).says("held on to");
    assert_eq!(cluster.ask(5432, "SELECT count(*) FROM pg_replication_slots"), "0");
    cluster.ask(5432, "CHECKPOINT");
    // It begins anew, and the gap shows.
    cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 40000)");
    cluster.wait_until(5432, "SELECT true");
}
