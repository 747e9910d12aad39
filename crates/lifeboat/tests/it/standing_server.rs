//! What a server of PostgreSQL itself tells of how everything stands: what it committed that is not
//! archived, slots that lost their log, roles and certificates that end; and a gap in its log.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::cluster::{Cluster, Yard, program, user};
use crate::follow::wait_for;
use crate::postgres_server::{Server, command};
use crate::receivers::certify;
use crate::support::{Ran, World, ran, set_mode};

const PORT: u16 = 5432;

fn in_hours(hours: i64) -> String {
    (Timestamp::now() + SignedDuration::from_hours(hours)).to_string()
}

/// The program as the server's user, with another time.
fn at(yard: &Yard, clock: &str, arguments: &[&str]) -> Ran {
    let mut command = yard.command(program());
    ran(command.args(arguments).env("LIFEBOAT_CLOCK_AT", clock).output().unwrap())
}

/// What a watch finds, but for the disk below and the certificates of a server that has none.
fn alerts(yard: &Yard, clock: &str) -> Vec<(String, String)> {
    let ran = at(yard, clock, &["watch", "--unattended", "--json"]).expect(0);
    told(&ran.json())
}

fn told(found: &Value) -> Vec<(String, String)> {
    let all = found["alerts"].as_array().unwrap().iter();
    let of = |alert: &Value, key: &str| alert[key].as_str().unwrap().to_owned();
    let all = all.map(|alert| (of(alert, "code"), of(alert, "what")));
    all.filter(|(code, _)| !code.starts_with("disk-")).collect()
}

/// Ends the segment, and waits until it is archived.
fn archived(cluster: &mut Cluster<'_>) -> String {
    let last = cluster.ask(PORT, "SELECT pg_walfile_name(pg_switch_wal())");
    cluster
        .wait_until(PORT, &format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"));
    last
}

/// A day without a commit loses nothing, and so is no broken promise; one commit that stays on the
/// host is.
#[test]
fn a_cluster_that_rests_is_not_stale_and_one_that_keeps_a_commit_to_itself_is() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let config = fs::read_to_string(yard.path("config.toml")).unwrap();
    yard.configure(&config.replace("[source.main]\n", "[source.main]\nrpo = \"1h\"\n"));
    let mut cluster = Cluster::new(&yard, 16, "data", &["--wal-segsize=1"]);
    cluster.set(&["wal_level = replica", "max_slot_wal_keep_size = 1MB"]);
    cluster.archive("");
    cluster.up(PORT);
    cluster.ask(PORT, "CREATE TABLE t(x text)");
    at(&yard, &in_hours(0), &["backup", "main"]).expect(0);
    archived(&mut cluster);
    // Whatever a server writes by itself is no commit.
    cluster.ask(PORT, "CHECKPOINT");
    let there = yard.path("one").display().to_string();
    at(&yard, &in_hours(24), &["watch", &there]).expect(21);
    assert_eq!(alerts(&yard, &in_hours(24)), []);
    let status = at(&yard, &in_hours(24), &["status", "--format", "json"]).expect(0).json();
    let row = &status["sources"][0];
    assert_eq!(row["objectives"]["rpo"]["outcome"], "kept", "{row}");
    assert_eq!(row["state"], "fresh", "{row}");
    // From another host nobody knows that, until this one has noted it, and for so long only.
    at(&yard, &in_hours(24), &["watch", &there]).expect(0);
    let folder = yard.path("one/rested/main");
    let noted = || {
        let note = fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
        fs::read_to_string(note.path()).unwrap()
    };
    let first = noted();
    let soon = (Timestamp::now() + SignedDuration::from_mins(24 * 60 + 20)).to_string();
    assert_eq!(alerts(&yard, &soon), []);
    assert_eq!(noted(), first, "a note is not written more often than needed");
    at(&yard, &in_hours(26), &["watch", &there]).expect(21).says("main: ");
    assert_eq!(alerts(&yard, &in_hours(26)), []);
    assert_ne!(noted(), first);
    at(&yard, &in_hours(26), &["watch", &there]).expect(0);
    // One that is from the future says nothing of now.
    at(&yard, &in_hours(24), &["watch", &there]).expect(21);

    cluster.ask(PORT, "INSERT INTO t VALUES ('kept to itself')");
    let kept = alerts(&yard, &in_hours(24));
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].0 == "stale" && kept[0].1.contains("is not stored"), "{kept:?}");
    let promised = at(&yard, &in_hours(24), &["status"]).expect(21);
    drop(promised.says("main"));
    let doctor = at(&yard, &in_hours(0), &["doctor"]);
    assert!(doctor.out.contains("archive_timeout is 0"), "{doctor:?}");
    // Now it is not that old.
    assert_eq!(alerts(&yard, &in_hours(0)), []);
    archived(&mut cluster);
    assert_eq!(alerts(&yard, &in_hours(24)), []);
    assert!(!cluster.log(PORT).contains("unexpected EOF"), "{}", cluster.log(PORT));

    // The role of the source ends, and a slot that nobody reads has lost its log.
    cluster.ask(PORT, "ALTER ROLE postgres VALID UNTIL '2040-01-01 UTC'");
    cluster.ask(PORT, "SELECT pg_create_physical_replication_slot('standby', true)");
    let mut last = String::new();
    for _ in 0..4 {
        cluster.ask(PORT, "INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 5000) AS i");
        last = archived(&mut cluster);
    }
    cluster.ask(PORT, "CHECKPOINT");
    let slots = "SELECT wal_status = 'lost' FROM pg_replication_slots";
    cluster.wait_until(PORT, slots);
    let found = alerts(&yard, "2039-12-30T00:00:00Z");
    let of = |code: &str| found.iter().find(|(found, _)| found == code).map(|(_, what)| &**what);
    let role = of("credential").unwrap();
    assert_eq!(role, "the password of the role postgres ends on 2040-01-01", "{found:?}");
    assert!(of("archiver").unwrap().contains("the slot standby has lost log"), "{found:?}");
    assert_eq!(of("log-gap"), None, "{found:?}");
    assert_eq!(of("stale"), None, "fourteen years without a commit: {found:?}");

    // A segment before the last one is lost: what lies behind it is out of reach.
    let segments = yard.segments("one");
    let lost = &segments[segments.iter().position(|one| *one == last).unwrap() - 1];
    let folder = fs::read_dir(yard.path("one/main/wal")).unwrap().next().unwrap().unwrap();
    fs::remove_file(folder.path().join("00000001").join(format!("{lost}.zst"))).unwrap();
    let gap = alerts(&yard, &in_hours(0));
    let gap = gap.iter().find(|(code, _)| code == "log-gap").unwrap_or_else(|| panic!("{gap:?}"));
    assert!(gap.1.contains("timeline 1"), "{gap:?}");
    let nagios = at(&yard, &in_hours(0), &["status", "--format", "nagios"]);
    assert_eq!(nagios.code, 2, "{nagios:?}");
    // A backup from here on closes it.
    at(&yard, &in_hours(0), &["backup", "main"]).expect(0);
    archived(&mut cluster);
    let after = alerts(&yard, &in_hours(0));
    assert!(after.iter().all(|(code, _)| code != "log-gap"), "{after:?}");

    // One who may only read is as good an observer.
    let only_read = match user() {
        Some(_) => "chown -R 0:0 one && chmod -R a+rX one",
        None => "chmod -R a-w one",
    };
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(["-c", only_read]).current_dir(yard.path("")).status().unwrap().success());
    at(&yard, &in_hours(0), &["watch", &there]).expect(0);
    drop(at(&yard, &in_hours(24), &["watch", &there]).expect(21).says("main: "));
    assert_ne!(at(&yard, &in_hours(24), &["backup", "main"]).code, 0);
}

#[test]
fn the_certificate_of_a_server_is_told_before_it_ends() {
    let world = World::new();
    certify(&world);
    let key = world.path("server.key");
    set_mode(&key, 0o600);
    set_mode(&world.path(""), 0o755);
    if let Some((uid, gid)) = user() {
        std::os::unix::fs::chown(&key, Some(uid), Some(gid)).unwrap();
    }
    // Free a moment ago; the server takes it at once.
    let port = lifeboat_test_support::free_port();
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", world.text("server.pem")),
        format!("ssl_key_file={}", key.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let _server = Server::with(15, &settings);
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.shop.postgres]\n\
         url = \"postgresql://nobody@localhost:{port}/shop?sslmode=verify-full&sslrootcert={}\"\n",
        world.text("ca.pem")
    ));
    let watched = |days: i64| -> Vec<(String, String)> {
        let mut command = command(&world, &["watch", "--unattended", "--json"]);
        let found = ran(command.env("LIFEBOAT_CLOCK_AT", in_hours(24 * days)).output().unwrap());
        let found = told(&found.expect(0).json());
        found.into_iter().filter(|(code, _)| code == "certificate").collect()
    };
    let mut soon = Vec::new();
    // A server that is slow to answer is not known.
    wait_for("both certificates", || {
        soon = watched(0);
        soon.len() == 2
    });
    let has = |words: &str| soon.iter().any(|(_, what)| what.contains(words));
    assert!(has(&format!("localhost:{port}, the server of `shop`")) && has("ca.pem"), "{soon:?}");
    assert_eq!(watched(-30), []);
}
