//! What `restore` of a cluster can be told: targets, actions, tablespaces, a service, timelines;
//! and what stands in its way.

use std::fs;
use std::path::Path;

use crate::cluster::{Cluster, Yard};
use crate::cluster_restore::{
    CONFIGURATION, PORT, RESTORED, archived, latest, left, lifeboat, lifeboat_as_we_are, moment,
    primary, shown,
};
use crate::postgres_server::{Server, kinds_of_majors, majors_if_long, run};
use crate::support::{Ran, World};

fn restore(yard: &Yard, name: &str, more: &[&str]) -> Ran {
    let to = yard.path(name);
    let mut arguments = vec!["restore", "main", "--to", to.to_str().unwrap()];
    arguments.extend(more);
    lifeboat_as_we_are(yard, &arguments)
}

#[test]
fn every_target_and_every_action_shows_the_moment_that_was_meant() {
    let major = 16;
    let yard = Yard::new();
    let mut primary = primary(&yard, major);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let first = moment(&primary, 1);
    primary.ask(PORT, "SELECT pg_create_restore_point('after the first')");
    let second = "WITH one AS (INSERT INTO told (n) VALUES (2) RETURNING n) \
                  SELECT pg_current_xact_id() FROM one";
    let second = primary.ask(PORT, second);
    moment(&primary, 3);
    archived(&mut primary);
    primary.stop();
    for (name, target, last) in [
        ("name", ["--target-name", "after the first"], 1),
        ("transaction", ["--target-xid", &second], 2),
        ("time", ["--at", &first], 1),
    ] {
        let told = restore(&yard, name, &target).expect(0);
        assert!(told.err.contains("restored"), "{}", told.err);
        assert_eq!(shown(&yard, major, name), (last, "t".to_owned()), "{name}");
    }
    // Recovered to the moment: the next start pauses there, or promotes it there.
    restore(&yard, "paused", &["--at", &first, "--action", "pause"]).expect(0);
    let mut paused = Cluster::at(&yard, major, "paused");
    paused.set(&["archive_mode = off"]);
    paused.up(RESTORED);
    paused.wait_until(RESTORED, "SELECT pg_get_wal_replay_pause_state() = 'paused'");
    assert_eq!(paused.ask(RESTORED, "SELECT max(n) FROM told"), "1");
    paused.ask(RESTORED, "SELECT pg_wal_replay_resume()");
    paused.wait_until(RESTORED, "SELECT NOT pg_is_in_recovery()");
    assert_eq!(paused.ask(RESTORED, "SELECT max(n) FROM told"), "1");
    drop(paused);
    for action in ["shutdown", "leave"] {
        restore(&yard, action, &["--at", &first, "--action", action]).expect(0);
        let mut promoted = Cluster::at(&yard, major, action);
        promoted.set(&["archive_mode = off"]);
        promoted.up(RESTORED);
        promoted.wait_until(RESTORED, "SELECT NOT pg_is_in_recovery()");
        assert_eq!(promoted.ask(RESTORED, "SELECT max(n) FROM told"), "1", "{action}");
    }
}

/// A primary with a tablespace, backed up with one row in it and archived with another.
fn with_tablespace<'a>(yard: &'a Yard, major: u32) -> Cluster<'a> {
    let mut primary = primary(yard, major);
    fs::create_dir(yard.path("space")).unwrap();
    yard.own("space");
    let space = yard.path("space");
    primary.ask(PORT, &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", space.display()));
    primary.ask(PORT, "CREATE TABLE outside (n int) TABLESPACE elsewhere");
    primary.ask(PORT, "INSERT INTO outside VALUES (1)");
    moment(&primary, 1);
    lifeboat(yard, &["backup", "main"]).expect(0);
    primary.ask(PORT, "INSERT INTO outside VALUES (2)");
    moment(&primary, 2);
    archived(&mut primary);
    primary
}

#[test]
fn tablespaces_go_where_they_are_told_to_and_never_over_the_live_ones() {
    let major = 15;
    let yard = Yard::new();
    let mut primary = with_tablespace(&yard, major);
    let (old, new) = (yard.path("space"), yard.path("moved"));
    let mapping = format!("{}={}", old.display(), new.display());
    restore(&yard, "restored", &["--tablespace", "/no/such=/x"]).expect(2);
    let over = format!("{}={}", old.display(), old.display());
    restore(&yard, "restored", &["--tablespace", &over]).expect(23);
    restore(&yard, "restored", &["--tablespace", &mapping]).expect(0);
    primary.ask(PORT, "INSERT INTO outside VALUES (3)");
    let mut restored = Cluster::at(&yard, major, "restored");
    restored.set(&["archive_mode = off"]);
    restored.up(RESTORED);
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'";
    assert_eq!(restored.ask(RESTORED, place), new.to_str().unwrap());
    assert_eq!(restored.ask(RESTORED, "SELECT max(n) FROM outside"), "2");
    restored.ask(RESTORED, "DELETE FROM outside");
    restored.stop();
    assert_eq!(primary.ask(PORT, "SELECT count(*) FROM outside"), "3");
    // In place the new cluster has tablespaces of its own, and the old one keeps its.
    primary.stop();
    let (data, name) = (yard.path("primary"), latest(&yard));
    let data = data.to_str().unwrap();
    lifeboat_as_we_are(&yard, &["restore", &name, "--in-place", data, "--yes"]).expect(0);
    let rows = |yard: &Yard| {
        let mut cluster = Cluster::at(yard, major, "primary");
        cluster.set(&["archive_mode = off"]);
        cluster.up(RESTORED);
        let rows = cluster.ask(RESTORED, "SELECT count(*) FROM outside");
        cluster.stop();
        rows
    };
    assert_eq!(rows(&yard), "1");
    assert_eq!(left(&yard, "space.restored.").len(), 1);
    lifeboat_as_we_are(&yard, &["undo", data, "--yes"]).expect(0);
    assert_eq!(rows(&yard), "3");
}

/// A service that is the server of the primary.
fn service_of(yard: &Yard, pg_ctl: &str) -> String {
    // As root a service manager runs its server as another user.
    let as_server = match rustix::process::geteuid().is_root() {
        true => "\"setpriv\", \"--reuid=postgres\", \"--regid=postgres\", \"--clear-groups\", ",
        false => "",
    };
    let (data, log) = (yard.path("primary"), yard.path("service.log"));
    let command = format!("{as_server}{pg_ctl:?}, \"-D\", {data:?}");
    format!(
        "[source.main]\nservice = {{ stop = [{command}, \"-m\", \"fast\", \"-w\", \"stop\"], \
         start = [{command}, \"-o\", \"-p {PORT}\", \"-l\", {log:?}, \"-w\", \"start\"] }}\n"
    )
}

#[test]
fn a_service_is_stopped_and_started_around_a_restore_in_place() {
    for major in majors_if_long() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        let data = yard.path("primary");
        let pg_ctl = primary.program("pg_ctl").display().to_string();
        yard.configure(&format!("{CONFIGURATION}{}", service_of(&yard, &pg_ctl)));
        moment(&primary, 1);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        moment(&primary, 2);
        archived(&mut primary);
        let (name, to) = (latest(&yard), data.to_str().unwrap());
        let in_place = ["restore", &name, "--in-place", to, "--yes"];
        lifeboat_as_we_are(&yard, &in_place).expect(0);
        // The service runs again, on what was restored.
        assert_eq!(primary.ask(PORT, "SELECT max(n) FROM told"), "1");
        // A restore that fails leaves it running.
        let failing = ["restore", "main", "--target-name", "nobody", "--in-place", to, "--yes"];
        lifeboat_as_we_are(&yard, &failing).expect(22);
        assert_eq!(primary.ask(PORT, "SELECT max(n) FROM told"), "1");
        let stop =
            yard.command(Path::new(&pg_ctl)).args(["-D", to, "-m", "immediate", "stop"]).output();
        assert!(stop.unwrap().status.success());
    }
}

#[test]
fn timelines_behind_a_promotion_are_told_apart() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut old = primary(&yard, *major);
        if *major >= 17 {
            old.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
            old.ask(PORT, "SELECT pg_reload_conf()");
        }
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let first = moment(&old, 1);
        let lost = moment(&old, 2);
        moment(&old, 3);
        archived(&mut old);
        old.stop();
        // Back to the first; what follows is another timeline.
        restore(&yard, "promoted", &["--at", &first]).expect(0);
        let mut promoted = Cluster::at(&yard, *major, "promoted");
        promoted.up(PORT);
        let kept = moment(&promoted, 10);
        archived(&mut promoted);
        moment(&promoted, 11);
        archived(&mut promoted);
        // Without a word the newest timeline is followed, by name each that leads from the backup.
        restore(&yard, "newest", &["--at", &kept]).expect(0);
        assert_eq!(shown(&yard, *major, "newest"), (10, "t".to_owned()));
        restore(&yard, "first", &["--at", &lost, "--timeline", "1"]).expect(0);
        assert_eq!(shown(&yard, *major, "first"), (2, "t".to_owned()));
        // A backup of the new timeline, and an incremental one of it.
        lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        restore(&yard, "after", &["--target-name", "nobody"]).expect(22);
        restore(&yard, "after", &[]).expect(0);
        assert_eq!(shown(&yard, *major, "after"), (11, "t".to_owned()));
    }
}

#[test]
fn a_time_of_minimal_logging_ends_what_can_be_restored() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 15);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let before = moment(&primary, 1);
    moment(&primary, 2);
    archived(&mut primary);
    primary.stop();
    let minimal = ["wal_level = minimal", "max_wal_senders = 0", "archive_mode = off"];
    primary.set(&minimal);
    primary.up(PORT);
    // A backup needs more than that, and says what.
    drop(lifeboat(&yard, &["backup", "main"]).expect(15).says("wal_level = replica"));
    primary.ask(PORT, "CREATE TABLE bulk AS SELECT 1 AS one");
    primary.stop();
    primary.set(&["wal_level = replica", "max_wal_senders = 5", "archive_mode = on"]);
    primary.up(PORT);
    let after = moment(&primary, 3);
    moment(&primary, 4);
    archived(&mut primary);
    primary.stop();
    let refused = restore(&yard, "after", &["--at", &after]).expect(22);
    drop(refused.says("wal_level=minimal"));
    assert!(!yard.path("after").exists());
    restore(&yard, "before", &["--at", &before]).expect(0);
    assert_eq!(shown(&yard, 15, "before").0, 1);
}

#[test]
fn another_cluster_at_the_same_address_begins_anew() {
    let yard = Yard::new();
    let mut one = primary(&yard, 15);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let told = moment(&one, 1);
    moment(&one, 2);
    archived(&mut one);
    one.stop();
    let mut other = Cluster::new(&yard, 15, "other", &[]);
    other.archive("--source main");
    other.up(PORT);
    other.ask(PORT, "CREATE TABLE told (n int)");
    // Nothing of the first is built on.
    let ran = lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
    drop(ran.says("another cluster"));
    other.ask(PORT, "INSERT INTO told VALUES (7)");
    archived(&mut other);
    other.stop();
    // Each backup is followed by the log of its own cluster.
    restore(&yard, "first", &["--at", &told]).expect(0);
    assert_eq!(shown(&yard, 15, "first").0, 1);
    restore(&yard, "second", &[]).expect(0);
    let mut second = Cluster::at(&yard, 15, "second");
    second.set(&["archive_mode = off"]);
    second.up(RESTORED);
    assert_eq!(second.ask(RESTORED, "SELECT n FROM told"), "7");
}

#[test]
fn thousands_of_small_files_and_a_name_with_its_own_time() {
    let server = Server::new(18);
    server.sql("postgres", "CREATE DATABASE many");
    for part in 0..4 {
        let many: String = (0..500)
            .map(|n| format!("CREATE TABLE public.t{part}_{n} (id int PRIMARY KEY, x text);"))
            .collect();
        server.sql("many", &many);
    }
    let world = World::new();
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.main.postgres]\nurl = \"{}\"\nphysical = true\n",
        server.url("")
    ));
    run(&world, &["backup"]).expect(0);
    run(&world, &["verify"]).expect(0);
    let made = run(&world, &["list", "--json"]).expect(0).json();
    let name = made[0]["name"].as_str().unwrap();
    // The name has the time of the beginning: by that it is found, as by the whole name.
    let stamp = name.strip_prefix("main-").unwrap();
    let shown = run(&world, &["show", &format!("main@{stamp}"), "--json"]).expect(0).json();
    assert_eq!(shown["name"], name);
}

#[test]
fn a_dump_and_the_cluster_of_one_server_make_one_plan() {
    let major = 16;
    let yard = Yard::new();
    let mut primary = primary(&yard, major);
    let url = format!("postgresql:///postgres?host=$YARD&port={PORT}&user=postgres");
    yard.configure(&format!("{CONFIGURATION}[source.dump]\npostgres = \"{url}\"\n"));
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let early = moment(&primary, 1);
    moment(&primary, 2);
    lifeboat(&yard, &["backup", "dump"]).expect(0);
    let late = moment(&primary, 3);
    moment(&primary, 4);
    archived(&mut primary);
    // No dump is as old as that; the cluster knows the moment, and so it is said.
    let command = format!("lifeboat restore main --at {early} --to DIR");
    drop(lifeboat(&yard, &["restore", "dump", "--at", &early]).expect(22).says(&command));
    // The newest dump before a moment lacks what came between.
    let plan = lifeboat(&yard, &["restore", "dump", "--at", &late, "--dry-run"]).expect(0);
    let command = format!("lifeboat restore main --at {late} --to DIR");
    assert!(plan.out.contains(&command), "{}", plan.out);
    // Everything: the cluster goes where one says; without that its dump is loaded, and that said.
    let told = lifeboat(&yard, &["restore", "--all", "--dry-run"]).expect(3);
    drop(told.says("goes where you say"));
    let root = yard.path("root");
    let all = ["restore", "--all", "--at", &late, "--root", root.to_str().unwrap()];
    let plan = lifeboat_as_we_are(&yard, &[&all[..], &["--dry-run"]].concat()).expect(0);
    assert!(plan.out.contains("comes back with main"), "{}", plan.out);
    assert!(!root.exists());
    let done = lifeboat_as_we_are(&yard, &[&all[..], &["--yes", "--json"]].concat()).expect(0);
    let done = done.json();
    let outcomes: Vec<_> = done.as_array().unwrap().iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["restored", "with-cluster"], "{done}");
    // With its place in the configuration it goes back there, and its server must have stopped.
    let data = yard.path("primary");
    let dump = format!("[source.dump]\npostgres = \"{url}\"\n");
    let place = format!("data_directory = {:?}\n", data);
    yard.configure(&format!("{CONFIGURATION}{place}{dump}"));
    let all = ["restore", "--all", "--at", &late];
    let told = lifeboat_as_we_are(&yard, &[&all[..], &["--yes"]].concat()).expect(23);
    drop(told.says("has").says("open"));
    primary.stop();
    let plan = lifeboat_as_we_are(&yard, &[&all[..], &["--dry-run"]].concat()).expect(0);
    assert!(plan.out.contains("keep the old one as"), "{}", plan.out);
    lifeboat_as_we_are(&yard, &all).expect(24);
    assert_eq!(shown(&yard, major, "root/clusters/main"), (3, "t".to_owned()));
    let done = lifeboat_as_we_are(&yard, &[&all[..], &["--yes", "--json"]].concat()).expect(0);
    assert_eq!(done.json()[0]["outcome"], "restored");
    assert_eq!(shown(&yard, major, "primary"), (3, "t".to_owned()));
    assert_eq!(left(&yard, "primary.before_restore").len(), 1);
}

#[test]
fn by_hand_with_zstd_tar_and_a_server_any_moment_comes_back() {
    let major = 15;
    let yard = Yard::new();
    let mut primary = primary(&yard, major);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let first = moment(&primary, 1);
    moment(&primary, 2);
    archived(&mut primary);
    primary.stop();
    // As README.txt of the repository has it.
    let (data, name) = (yard.path("by-hand"), latest(&yard));
    let folder = yard.path("repository/main");
    let script = format!(
        "set -e; mkdir -m 700 {data}; zstd -dc {folder}/{name}.base.tar.zst | tar -xpf - -C {data}; \
         touch {data}/recovery.signal",
        data = data.display(),
        folder = folder.display(),
    );
    let mut shell = yard.command(Path::new("/bin/sh"));
    assert!(shell.args(["-c", &script]).status().unwrap().success());
    let system = fs::read_dir(folder.join("wal")).unwrap().next().unwrap().unwrap().path();
    let mut by_hand = Cluster::at(&yard, major, "by-hand");
    by_hand.set(&[
        "archive_mode = off",
        &format!("restore_command = 'zstd -dqf {}/00000001/%f.zst -o %p'", system.display()),
        &format!("recovery_target_time = '{}'", first.replace('T', " ").replace('Z', "+00")),
    ]);
    by_hand.up(RESTORED);
    by_hand.wait_until(RESTORED, "SELECT pg_get_wal_replay_pause_state() = 'paused'");
    assert_eq!(by_hand.ask(RESTORED, "SELECT max(n) FROM told"), "1");
    by_hand.ask(RESTORED, "SELECT pg_wal_replay_resume()");
    by_hand.wait_until(RESTORED, "SELECT NOT pg_is_in_recovery()");
    by_hand.stop();
    assert_eq!(shown(&yard, major, "by-hand"), (1, "t".to_owned()));
}
