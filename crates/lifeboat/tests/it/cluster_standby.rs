//! A standby as the source: the primary does not notice, and the backup is as good.

use std::fs;
use std::process::Stdio;

use crate::cluster::{Cluster, Yard, program};
use crate::cluster_restore::{
    CONFIGURATION, PORT, RESTORED, archived, lifeboat, lifeboat_as_we_are, moment, primary, shown,
};
use crate::postgres_server::majors_if_long;
use crate::support::ran;

const STANDBY: u16 = 5803;

/// A standby of a primary, and the source that it is.
fn standby_of<'a>(yard: &'a Yard, primary: &Cluster<'a>, more: &str) -> Cluster<'a> {
    let mut standby = primary.copy(PORT, "standby");
    fs::write(standby.data.join("standby.signal"), "").unwrap();
    yard.own("standby/standby.signal");
    let info = format!("host={} port={PORT} user=postgres", yard.path("").display());
    standby.set(&[&format!("primary_conninfo = '{info}'"), "archive_mode = off"]);
    standby.up(STANDBY);
    yard.configure(&format!("{}{more}", CONFIGURATION.replace("5801", "5803")));
    standby
}

#[test]
fn a_backup_of_a_standby_under_load_comes_back_at_a_moment_named_before() {
    for major in [15, 18] {
        let yard = Yard::new();
        let mut primary = primary(&yard, major);
        let standby = standby_of(&yard, &primary, "");
        let mut load = primary.load(PORT);
        primary.wait_until(PORT, "SELECT count(*) > 50 FROM pgbench_history");
        primary.ask(PORT, "CHECKPOINT");
        let made = lifeboat(&yard, &["backup", "main", "--json"]).expect(0).json();
        assert_eq!(made[0]["outcome"], "committed", "{made}");
        let listed = lifeboat(&yard, &["show", "main@latest", "--json"]).expect(0).json();
        assert_eq!(listed["facts"]["from_standby"], true, "{listed}");
        // By itself, with the log that it brings along.
        let alone = yard.path("alone");
        let name = listed["name"].as_str().unwrap();
        let to = ["restore", name, "--to", alone.to_str().unwrap()];
        lifeboat_as_we_are(&yard, &to).expect(0);
        assert_eq!(shown(&yard, major, "alone"), (0, "t".to_owned()), "{major}");
        let first = moment(&primary, 1);
        moment(&primary, 2);
        archived(&mut primary);
        drop(standby);
        primary.kill();
        let _ = load.wait();
        let to = yard.path("restored");
        let to = ["restore", "main", "--at", &first, "--to", to.to_str().unwrap()];
        lifeboat_as_we_are(&yard, &to).expect(0);
        assert_eq!(shown(&yard, major, "restored"), (1, "t".to_owned()), "{major}");
    }
}

#[test]
fn a_standby_that_is_promoted_meanwhile_gives_no_backup() {
    let yard = Yard::new();
    let primary = primary(&yard, 16);
    primary
        .ask(PORT, "CREATE TABLE wide AS SELECT repeat('x', 900) FROM generate_series(1, 20000)");
    let mut standby = standby_of(&yard, &primary, "max_rate = \"2MB\"\n");
    let mut command = yard.command(program());
    command.args(["backup", "main"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let sending = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 999999";
    standby.wait_until(STANDBY, sending);
    standby.ask(STANDBY, "SELECT pg_promote()");
    let ended = ran(child.wait_with_output().unwrap());
    drop(ended.expect(15).says("promoted"));
    let entries = fs::read_dir(yard.path("repository/main")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.starts_with("main-") && name.ends_with(".json")));
}

#[test]
fn a_lost_primary_becomes_a_standby_of_its_successor_with_the_files_that_it_has() {
    for major in majors_if_long() {
        let yard = Yard::new();
        let mut old = primary(&yard, *major);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let first = moment(&old, 1);
        moment(&old, 2);
        archived(&mut old);
        old.stop();
        // A restore takes over, at a moment before the end of the old one.
        let (data, successor) = (yard.path("primary"), yard.path("successor"));
        let to = ["restore", "main", "--at", &first, "--to", successor.to_str().unwrap()];
        lifeboat_as_we_are(&yard, &to).expect(0);
        let mut successor = Cluster::at(&yard, *major, "successor");
        successor.up(PORT);
        moment(&successor, 10);
        archived(&mut successor);
        let here = yard.path("");
        let url = format!("postgresql:///?host={}&port={PORT}&user=postgres", here.display());
        let to = ["restore", "main", "--standby", "--primary", &url, "--delta", "--to"];
        let to = [&to[..], &[data.to_str().unwrap()]].concat();
        lifeboat_as_we_are(&yard, &to).expect(24);
        let made = lifeboat_as_we_are(&yard, &[&to[..], &["--yes", "--json"]].concat());
        let made = made.expect(0).json();
        assert!(made["kept_files"].as_u64().unwrap() > 500, "{made}");
        let mut standby = Cluster::at(&yard, *major, "primary");
        standby.set(&["archive_mode = off"]);
        standby.up(RESTORED);
        standby.wait_until(RESTORED, "SELECT max(n) = 10 FROM told");
        // What is not archived yet comes by the stream; of the old one's own end nothing is left.
        moment(&successor, 11);
        standby.wait_until(RESTORED, "SELECT max(n) = 11 FROM told");
        let shown = "SELECT pg_is_in_recovery(), string_agg(n::text, ',' ORDER BY n) FROM told";
        assert_eq!(standby.ask(RESTORED, shown), "t|1,10,11", "{major}");
    }
}
