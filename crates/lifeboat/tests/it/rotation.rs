//! Rotation as it happens every day: `backup --prune`, what it waits for, the variables of the
//! chatbot's scripts, and kill -9 in the middle of it. The clock of the program is set by a
//! variable that only debug builds know.

use std::collections::BTreeSet;
use std::fs;

use jiff::{Timestamp, ToSpan};
use lifeboat_core::env::CRASH_POINTS;
use serde_json::Value;

use crate::support::{Ran, World, ran, slowly};

/// The first moment of these tests.
fn day(number: i64) -> Timestamp {
    let first: Timestamp = "2026-01-05T02:00:00Z".parse().unwrap();
    first + (number * 24).hours()
}

/// Runs the program as if it were that moment.
fn at(world: &World, moment: Timestamp, arguments: &[&str]) -> Ran {
    let mut command = world.command(arguments);
    ran(command.env("LIFEBOAT_CLOCK_AT", slowly(moment)).output().unwrap())
}

fn configure(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n{more}\n"
    ));
}

fn world(more: &str) -> World {
    let world = World::new();
    world.database("app.db", 20);
    configure(&world, more);
    world
}

/// The names of the backups that are listed.
fn listed(world: &World) -> Vec<String> {
    let list = world.run(&["list", "--json"]).expect(0).json();
    let names = list.as_array().unwrap().iter();
    names.map(|backup| backup["name"].as_str().unwrap().to_owned()).collect()
}

/// The days of January on which the listed backups were taken.
fn days(world: &World) -> Vec<u32> {
    let day = |name: &String| name.rsplit('-').nth(1).unwrap()[4..].parse().unwrap();
    listed(world).iter().map(day).collect()
}

fn files(world: &World, folder: &str) -> BTreeSet<String> {
    world.names(folder).into_iter().collect()
}

const AFTER: &str = "keep = { last = 4 }\nprune = \"after-backup\"";

#[test]
fn each_backup_rotates_and_asks_nobody() {
    let world = world(AFTER);
    for number in 0..4 {
        let ran = at(&world, day(number), &["backup", "--json"]).expect(0);
        assert_eq!(ran.json()[0]["prune"]["outcome"], "nothing-to-do", "day {number}");
    }
    let ran = at(&world, day(4), &["backup", "--json"]).expect(0).json();
    assert_eq!(ran[0]["prune"]["outcome"], "pruned");
    assert_eq!(ran[0]["prune"]["marked"], serde_json::json!(["app-20260105-020000"]));
    assert_eq!(days(&world), [106, 107, 108, 109]);
    for number in 5..11 {
        let ran = at(&world, day(number), &["backup"]).expect(0).says("1 removed, 4 kept");
        assert!(!ran.err.contains("warning"), "{}", ran.err);
    }
    assert!(files(&world, "repo/app").contains("app-20260105-020000.db.zst"), "the grace time");
    // A moment later than a week after it was removed.
    let ran = at(&world, day(11) + 1.hours(), &["backup", "--json"]).expect(0).json();
    assert_eq!(ran[0]["prune"]["deleted"], serde_json::json!(["app-20260105-020000"]));
    assert!(!files(&world, "repo/app").iter().any(|name| name.contains("20260105")));
    world.run(&["verify", "--level", "full"]).expect(0);
    // Without the word in the configuration, only where it is asked for.
    configure(&world, "keep = { last = 4 }");
    let ran = at(&world, day(12), &["backup", "--json"]).expect(0).json();
    assert!(ran[0]["prune"].is_null());
    assert_eq!(listed(&world).len(), 5);
    at(&world, day(13), &["backup", "--prune", "--quiet"]).expect(0);
    assert_eq!(listed(&world).len(), 4);
    let plan = world.run(&["backup", "--prune", "--dry-run"]).expect(0);
    assert!(plan.out.contains("prune: remove"), "{}", plan.out);
}

#[test]
fn the_list_tells_what_is_pinned_and_what_is_removed() {
    let world = world(AFTER);
    for number in 0..5 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    let plain = world.run(&["list"]).expect(0).out;
    assert!(!plain.contains("note"), "{plain}");
    at(&world, day(4), &["pin", "app-20260107-020000", "--reason", "wanted", "--until", "9d"])
        .expect(0);
    let list = |number: i64, more: &[&str]| -> Ran {
        let now = day(number).to_string();
        world.run(&[&["list", "--now", &now], more].concat()).expect(0)
    };
    let line = |text: &str, name: &str| -> String {
        text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    };
    let text = list(5, &[]).out;
    let pinned = line(&text, "app-20260107");
    assert!(pinned.contains("pinned until 2026-01-18 02:00:00 +00:00: wanted"), "{text}");
    assert!(line(&text, "app-20260105").is_empty(), "{text}");
    assert!(!list(14, &[]).out.contains("pinned"), "the pin has ended by then");
    let text = list(5, &["--all"]).out;
    let removed = line(&text, "app-20260105");
    assert!(removed.contains("removed, deleted after 2026-01-16 02:00:00"), "{text}");
    let json = list(5, &["--all", "--json"]).json();
    assert_eq!(json.as_array().unwrap().len(), 5);
    assert_eq!(json[0]["removed"]["reason"], "no rule keeps it");
    assert!(json[0]["removed"]["delete_after"].as_str().unwrap().starts_with("2026-01-16T02"));
    assert_eq!((&json[2]["hold"]["reason"], &json[2]["removed"]), (&"wanted".into(), &Value::Null));
    let json = list(5, &["--json"]).json();
    assert_eq!(json.as_array().unwrap().len(), 4);
    assert!(json[0].get("removed").is_none());
    world.run(&["undelete", "app-20260101-020000"]).expect(22).says("lifeboat list --all");
}

#[test]
fn a_nearly_full_disk_shortens_the_grace_time() {
    let world = world(AFTER);
    for number in 0..6 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    let now = (day(6) + 1.hours()).to_string();
    let plan = |used: &str| -> Ran {
        let mut command = world.command(&["prune", "--dry-run", "--now", &now]);
        ran(command.env("LIFEBOAT_DISK_USED", used).output().unwrap()).expect(0)
    };
    let with_room = plan("79").out;
    assert!(!with_room.contains("full") && with_room.contains("2 removed before"), "{with_room}");
    let without = plan("80").out;
    let why = "app: bytes are deleted 24 hours after their removal: the store is 80 % full";
    assert!(without.contains(why) && without.contains("2 deleted"), "{without}");
    assert_eq!(world.names("repo/tombstones/app").len(), 2);
}

#[test]
fn a_prune_without_a_rule_is_a_mistake_or_a_warning() {
    let world = world("prune = \"after-backup\"");
    world.run(&["backup"]).expect(2).says("nothing says what to keep");
    configure(&world, "prune = \"sometimes\"\nkeep = { last = 1 }");
    world.run(&["backup"]).expect(2).says("after-backup");
    configure(&world, "");
    let ran = at(&world, day(0), &["backup", "--prune", "--json"]).expect(0);
    assert!(ran.err.contains("nothing is pruned"), "{}", ran.err);
    assert_eq!(ran.json()[0]["prune"]["outcome"], "no-rule");
}

#[test]
fn what_needs_an_approval_waits_and_the_backup_is_good() {
    let world = world(AFTER);
    for number in 0..6 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    assert_eq!(listed(&world).len(), 4);
    configure(&world, "keep = { last = 3 }\nprune = \"after-backup\"");
    let ran = at(&world, day(6), &["backup", "--json"]).expect(0);
    let prune = ran.json()[0]["prune"].clone();
    assert_eq!(prune["outcome"], "needs-approval");
    let command = prune["command"].as_str().unwrap();
    assert!(ran.err.contains("approves it") && ran.err.contains(command), "{}", ran.err);
    assert_eq!(listed(&world).len(), 5);
    // Whoever looks is told, and the source is fresh all the same.
    let now = day(6).to_string();
    world.run(&["status", "--now", &now]).expect(0).says("a prune waits for an approval");
    let json = world.run(&["status", "--now", &now, "--json"]).expect(0).json();
    let waits = json[0]["prune_waits"].as_str().unwrap();
    assert!(waits.contains("has changed since the last prune"), "{waits}");
    let nagios = world.run(&["status", "--now", &now, "--format", "nagios"]).expect(1);
    assert!(nagios.out.contains("app: a prune waits for an approval"), "{}", nagios.out);
    // The command does what it says, and then nothing waits any more.
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    at(&world, day(6) + 1.hours(), &words).expect(0);
    assert_eq!(listed(&world).len(), 3);
    let json = world.run(&["status", "--now", &now, "--json"]).expect(0).json();
    assert!(json[0]["prune_waits"].is_null());
    at(&world, day(7), &["backup"]).expect(0).says("1 removed, 3 kept");
}

#[test]
fn a_failed_backup_is_not_followed_by_a_prune() {
    let world = world(AFTER);
    for number in 0..5 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    configure(&world, "keep = { last = 1 }\nprune = \"after-backup\"");
    let before = (files(&world, "repo/app"), files(&world, "repo/tombstones/app"));
    fs::rename(world.path("data/app.db"), world.path("data/away.db")).unwrap();
    let ran = at(&world, day(30), &["backup", "--prune", "--json"]).expect(15);
    assert_eq!(ran.json()[0]["outcome"], "failed");
    assert_eq!((files(&world, "repo/app"), files(&world, "repo/tombstones/app")), before);
    // A backup that was not checked is none that others may go for.
    fs::rename(world.path("data/away.db"), world.path("data/app.db")).unwrap();
    configure(&world, AFTER);
    let ran = at(&world, day(31), &["backup", "--check", "none", "--json"]).expect(0);
    assert_eq!(ran.json()[0]["prune"]["outcome"], "refused", "{ran:?}");
    assert_eq!(files(&world, "repo/tombstones/app"), before.1);
}

#[test]
fn a_prune_that_fails_leaves_the_backup_good() {
    let world = world(AFTER);
    for number in 0..4 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    fs::write(world.path("repo/tombstones"), "not a folder").unwrap();
    let ran = at(&world, day(4), &["backup", "--json"]).expect(3);
    assert!(ran.err.contains("is good, the prune after it failed"), "{}", ran.err);
    assert_eq!(ran.json()[0]["outcome"], "committed");
    assert_eq!(ran.json()[0]["prune"]["outcome"], "failed");
    fs::remove_file(world.path("repo/tombstones")).unwrap();
    assert_eq!(listed(&world).len(), 5);
    world.run(&["verify", "--level", "full"]).expect(0);
    at(&world, day(5), &["backup"]).expect(0).says("2 removed, 4 kept");
}

/// Only the chatbot's variables: their scripts rotate, so does this.
#[test]
fn the_variables_alone_rotate_after_seven_days() {
    let world = World::new();
    world.database("admin.db", 20);
    // A minute earlier each day: seven days are never exceeded by how long a run takes.
    let day = |number: i64| day(number) - number.minutes();
    let run = |moment: Timestamp, arguments: &[&str], days: Option<&str>| {
        let mut command = world.command(arguments);
        command.env("ADMIN_DB_PATH", world.path("data/admin.db"));
        command.env("BACKUP_DIR", world.path("repo")).env("LIFEBOAT_CLOCK_AT", slowly(moment));
        days.map(|days| command.env("RETENTION_DAYS", days));
        ran(command.output().unwrap())
    };
    for wrong in ["0", "-1", "a week", "7 days", "1.5", "99999999999999999999"] {
        run(day(0), &["backup"], Some(wrong)).expect(2).says("write a number of days, 1 to 36500");
        let arguments = ["backup", &format!("--retention-days={wrong}")];
        run(day(0), &arguments, None).expect(2).says("write a number of days");
    }
    assert!(world.names("repo").is_empty());
    for number in 0..8 {
        let ran = run(day(number), &["backup", "--json"], None).expect(0).json();
        assert_eq!(ran[0]["prune"]["outcome"], "nothing-to-do");
    }
    let ran = run(day(8), &["backup", "--json"], None).expect(0).json();
    assert_eq!(ran[0]["prune"]["marked"], serde_json::json!(["admin_sqlite_20260105_020000"]));
    // Fewer days are another rule, for which someone must stand.
    let ran = run(day(9), &["backup", "--json"], Some("3")).expect(0).json();
    assert_eq!(ran[0]["prune"]["outcome"], "needs-approval");
    let listed = run(day(9), &["list", "--json"], None).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 9);
}

#[test]
fn killed_at_every_point_of_a_backup_that_prunes() {
    let points: Vec<&str> = CRASH_POINTS
        .iter()
        .copied()
        .filter(|point| point.starts_with("backup.") || point.starts_with("prune."))
        .collect();
    assert!(points.len() > 12);
    for point in points {
        let world = world(AFTER);
        // One to delete, one to take back, one to remove.
        for number in 0..6 {
            at(&world, day(number), &["backup"]).expect(0);
        }
        let tombstone = world.path("repo/tombstones/app/app-20260106-020000.json");
        let saved = fs::read(&tombstone).unwrap();
        at(&world, day(6), &["undelete", "app-20260106-020000"]).expect(0);
        at(&world, day(6), &["pin", "app-20260106-020000", "--reason", "wanted"]).expect(0);
        fs::write(&tombstone, saved).unwrap();
        let mut command = world.command(&["backup"]);
        command.env("LIFEBOAT_CRASH_AT", point);
        command.env("LIFEBOAT_CLOCK_AT", slowly(day(12) + 1.hours()));
        let ended = ran(command.output().unwrap());
        assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
        world.run(&["verify", "--level", "full"]).expect(0);
        let now = day(12).to_string();
        world.run(&["status", "--now", &now, "--json"]).expect(0);
        assert!(listed(&world).len() >= 4, "{point}");
        // The next run goes on with all of it.
        at(&world, day(13), &["backup"]).expect(0);
        let names = listed(&world);
        assert!(names.contains(&"app-20260106-020000".to_owned()), "{point}: {names:?}");
        assert_eq!(names.len(), 5, "{point}: {names:?}");
        assert!(!files(&world, "repo/app").iter().any(|name| name.contains("20260105")), "{point}");
        world.run(&["verify", "--level", "full"]).expect(0);
        world.run(&["restore", "app", "--to", "back.db"]).expect(0);
    }
}

#[test]
fn a_simulation_tells_what_there_will_be() {
    let world = world("keep = { daily = 7, weekly = 4 }\nschedule = \"daily 02:00\"");
    world.run(&["prune", "--simulate", "90d"]).expect(10);
    for number in 0..3 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    let before = files(&world, "repo/app");
    let now = (day(2) + 1.hours()).to_string();
    let simulate = |more: &[&str]| world.run(&[&["prune", "--now", &now], more].concat());
    let text = simulate(&["--simulate", "90d"]).expect(0).out;
    assert!(text.contains("app: forecast of a backup by the schedule \"daily 02:00\""), "{text}");
    assert!(text.contains("2026-04-07") && text.contains("age at the end"), "{text}");
    let json = simulate(&["--simulate", "90d", "--json"]).expect(0).json();
    let steps = json[0]["simulation"]["steps"].as_array().unwrap();
    assert_eq!(steps[0]["backups"], 3);
    // Seven days, of this week and the last, and the Sundays of the two weeks before.
    assert_eq!(steps.last().unwrap()["backups"], 9, "{json}");
    let ages = json[0]["simulation"]["ages"].as_array().unwrap();
    let counts: Vec<u64> = ages.iter().map(|age| age["backups"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 6, 2, 0, 0, 0]);
    let json = simulate(&["--simulate", "10d", "--every", "1h", "--json"]).expect(0).json();
    assert_eq!(json[0]["rhythm"], "every 1h");
    assert_eq!(json[0]["simulation"]["steps"].as_array().unwrap().len(), 11);
    // Nothing is done, and what cannot be simulated is said.
    assert_eq!(files(&world, "repo/app"), before);
    simulate(&["--simulate", "2y", "--every", "1s"]).expect(2).says("backups to come");
    simulate(&["--simulate", "2y", "--every", "0s"]).expect(2).says("--every");
    simulate(&["--simulate", "5m"]).expect(2).says("a day to 100 years");
    simulate(&["--simulate", "200y"]).expect(2);
    simulate(&["--simulate", "2y", "--dry-run"]).expect(2);
    simulate(&["--every", "1h"]).expect(2);
    configure(&world, "keep = \"forever\"\nschedule = \"Mon *-*-* 02:00\"");
    let json = simulate(&["--simulate", "2y", "--json"]).expect(0).json();
    assert!((100..=110).contains(&json[0]["simulation"]["steps"][25]["backups"].as_u64().unwrap()));
    configure(&world, "keep = \"forever\"");
    simulate(&["--simulate", "2y"]).expect(2).says("nothing says how often");
    let json = simulate(&["--simulate", "2y", "--every", "1d", "--json"]).expect(0).json();
    assert_eq!(json[0]["simulation"]["steps"][25]["backups"], 733, "{json}");
}

/// `--now` is for looking. Nothing is done by a clock that someone made up.
#[test]
fn another_moment_is_for_looking_alone() {
    let world = world("keep = { daily = 2 }");
    for number in 0..6 {
        at(&world, day(number), &["backup"]).expect(0);
    }
    let before = files(&world, "repo/app");
    let now = day(5).to_string();
    for arguments in [
        &["prune", "--yes", "--now", &now][..],
        &["prune", "--approve", "0123456789ab", "--now", &now],
        &["backup", "--now", &now],
        &["restore", "app", "--to", "back.db", "--now", &now],
        &["verify", "--now", &now],
    ] {
        world.run(arguments).expect(2).says("--now");
    }
    world.run(&["list", "--now", "yesteryear"]).expect(2).says("is not a time");
    assert_eq!(files(&world, "repo/app"), before);
    let later = (day(7) + 90.minutes()).to_string();
    let list = world.run(&["list", "--now", &later]).expect(0);
    assert!(list.out.contains("2 d 1 h ago"), "{}", list.out);
    let old = day(20).to_string();
    world.run(&["status", "--max-age", "7d", "--now", &old]).expect(21);
    world.run(&["status", "--max-age", "7d", "--now", &now]).expect(0);
    let plan = |now: &str| -> Value {
        world.run(&["prune", "--dry-run", "--json", "--now", now]).expect(0).json()[0].clone()
    };
    assert_eq!(plan(&now)["plan"]["items"][0]["action"], "mark");
    // At an earlier moment most of them are of the future, which is kept.
    let reasons = plan(&day(1).to_string())["plan"]["items"][5]["reasons"].clone();
    assert_eq!(reasons[0], "dated in the future");
    assert!(!world.run(&["prune", "--help"]).expect(0).out.contains("--now"));
}
