//! `wal receive` on real servers: pieces and whole segments, killed and begun again, synchronous,
//! across timelines, and slots that must not fill a disk.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, Yard, program};
use crate::postgres_server::majors;

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
    for major in majors() {
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

#[test]
fn a_synchronous_commit_waits_for_the_repository() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 16);
    let mut copy = cluster.copy(5432, "copy");
    cluster.set(&["synchronous_standby_names = 'lifeboat'"]);
    cluster.ask(5432, "SELECT pg_reload_conf()");
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
    assert_eq!(recovered(&yard, &mut copy, SUM), wanted);
}

#[test]
fn a_switch_of_the_timeline_is_followed() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 18);
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
