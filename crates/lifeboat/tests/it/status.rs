//! How fresh the backups are, against what was promised.

use std::fs;
use std::process::Command;

use crate::support::World;

fn configured() -> World {
    let world = World::new();
    world.database("app.db", 10);
    world.database("new.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nrpo = \"1h\"\n\
         [source.new]\nsqlite = \"$DATA/new.db\"\n",
    );
    world
}

#[test]
fn a_source_that_never_had_a_backup_is_said_to_be_so() {
    let world = configured();
    world.run(&["backup", "app"]).expect(0);
    let ran = world.run(&["status"]).expect(21).says("1 source is stale: new");
    let of = |name: &str| ran.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(of("app").contains("fresh") && of("app").contains("1h"), "{}", ran.out);
    assert!(of("new").contains("never"), "{}", ran.out);
    world.run(&["status", "app"]).expect(0);
    world.run(&["status", "new"]).expect(21);
    world.run(&["backup"]).expect(0);
    world.run(&["status"]).expect(0);
}

#[test]
fn an_old_backup_is_stale() {
    let world = configured();
    world.run(&["backup"]).expect(0);
    world.run(&["status", "--max-age", "1h"]).expect(0);
    // The source's own promise stands before --max-age.
    let ran = world.run(&["status", "--max-age", "0s"]).expect(21);
    assert!(ran.err.contains("stale: new") && !ran.err.contains("app"), "{}", ran.err);
    assert!(ran.err.contains("lifeboat backup new"), "{}", ran.err);
}

#[test]
fn a_backup_without_a_check_is_no_good_one() {
    let world = configured();
    world.run(&["backup", "app", "--check", "none"]).expect(0);
    world.run(&["status", "app"]).expect(21).says("not checked");
}

/// The exit codes are those of a check plugin, and there is one line whatever happens.
#[test]
fn nagios_gets_one_line_and_its_own_codes() {
    let world = configured();
    let line = |arguments: &[&str], code: i32, begin: &str| {
        let nagios = ["status", "--format", "nagios"];
        let ran = world.run(&[&nagios[..], arguments].concat()).expect(code);
        assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
        assert!(ran.out.starts_with(begin), "{}", ran.out);
        ran.out
    };
    line(&[], 2, "LIFEBOAT CRITICAL - there is no repository");
    world.run(&["backup", "app"]).expect(0);
    line(&[], 2, "LIFEBOAT CRITICAL - new: no good backup");
    world.run(&["backup", "new"]).expect(0);
    let out = line(&["--check-age", "0s"], 2, "LIFEBOAT CRITICAL - new: the newest good backup");
    assert!(out.contains("'age app'=") && out.contains("s;;3600;0 "), "{out}");
    // Whether it is a warning depends on this machine's disk.
    let used = disk_of(&world);
    let (code, begin) = if used >= 80 { (1, "LIFEBOAT WARNING") } else { (0, "LIFEBOAT OK - 2") };
    line(&[], code, begin);
    world.run(&["backup", "app", "--check", "none"]).expect(0);
    let out = line(&["app"], 1, "LIFEBOAT WARNING - ");
    assert!(out.contains("app: 1 newer backups were not checked"), "{out}");
    line(&["nothing-of-this-name"], 3, "LIFEBOAT UNKNOWN - ");
    world.run(&["status", "--format", "nagios", "--json"]).expect(2);
    fs::write(world.path("home/config/lifeboat/config.toml"), "wrong = 1\n").unwrap();
    line(&[], 3, "LIFEBOAT UNKNOWN - ");
}

#[test]
fn the_disk_of_a_repository_is_as_full_as_df_says() {
    let world = configured();
    world.run(&["backup"]).expect(0);
    let ran = world.run(&["status", "--json"]).expect(0);
    let used = disk_of(&world);
    let said = ran.json()[0]["disk_used_percent"].as_u64().unwrap();
    assert!(said.abs_diff(used) <= 1, "{said} instead of {used}: others write meanwhile");
    assert_eq!(ran.err.contains("% full"), said >= 80, "{}", ran.err);
}

fn disk_of(world: &World) -> u64 {
    let df = Command::new("df").arg("--output=pcent").arg(world.path("repo")).output().unwrap();
    let text = String::from_utf8_lossy(&df.stdout).into_owned();
    text.lines().nth(1).unwrap().trim().trim_end_matches('%').parse().unwrap()
}
