//! Each way in which backup scripts were seen to lose the last good backup in their daily life,
//! made to happen here. The program's clock is set by a variable that only debug builds know.

use std::collections::BTreeSet;
use std::fs;

use jiff::{Timestamp, ToSpan};

use crate::support::{Ran, World, damage, ran, rows};

fn day(number: i64) -> Timestamp {
    let first: Timestamp = "2026-01-05T02:00:00Z".parse().unwrap();
    first + (number * 24).hours()
}

fn at(world: &World, moment: Timestamp, arguments: &[&str]) -> Ran {
    let mut command = world.command(arguments);
    ran(command.env("LIFEBOAT_CLOCK_AT", moment.to_string()).output().unwrap())
}

/// A database that is backed up and pruned every day, as the scripts do.
fn world(keep: &str) -> World {
    let world = World::new();
    world.database("superchat.db", 30);
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.superchat]\n\
         sqlite = \"$DATA/superchat.db\"\nkeep = {keep}\nprune = \"after-backup\"\n"
    ));
    world
}

fn days(world: &World, from: i64, count: i64) {
    for number in from..from + count {
        at(world, day(number), &["backup", "--quiet"]).expect(0);
    }
}

fn listed(world: &World) -> Vec<String> {
    let list = world.run(&["list", "--json"]).expect(0).json();
    let names = list.as_array().unwrap().iter();
    names.map(|backup| backup["name"].as_str().unwrap().to_owned()).collect()
}

fn all_files(world: &World) -> BTreeSet<String> {
    let list = |folder: &str| world.names(&format!("repo/{folder}"));
    list("superchat").into_iter().chain(list("tombstones/superchat")).collect()
}

/// The script made an empty database at a wrong path, called that a backup, and rotated: after 30
/// days only empty ones were left.
#[test]
fn a_wrong_path_and_thirty_days_of_rotation_lose_nothing() {
    let world = world("{ within = \"30d\" }");
    days(&world, 0, 10);
    fs::rename(world.path("data/superchat.db"), world.path("data/moved.db")).unwrap();
    let before = all_files(&world);
    for number in 10..50 {
        at(&world, day(number), &["backup", "--quiet"]).expect(15);
    }
    assert_eq!(all_files(&world), before);
    assert!(!world.path("data/superchat.db").exists(), "nothing was made at the wrong path");
    let now = day(50).to_string();
    let plan = world.run(&["prune", "--dry-run", "--json", "--now", &now]).expect(0).json();
    let items = plan[0]["plan"]["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["action"] == "keep"), "{plan}");
    world.run(&["status", "--max-age", "1d", "--now", &now]).expect(21);
    world.run(&["restore", "superchat", "--to", "back.db"]).expect(0);
    assert_eq!(rows(&world.path("data/back.db")), 30);
}

/// Retention by age alone, after a week in which every backup failed, took all that was left.
#[test]
fn a_week_of_failures_then_retention_leaves_the_last_good_ones() {
    let world = world("{ within = \"7d\" }");
    days(&world, 0, 6);
    let sound = fs::read(world.path("data/superchat.db")).unwrap();
    let whole = world.database("large.db", 3000);
    damage(&whole);
    fs::copy(&whole, world.path("data/superchat.db")).unwrap();
    for number in 6..16 {
        at(&world, day(number), &["backup", "--quiet"]).expect(20);
    }
    assert_eq!(listed(&world).len(), 6);
    // The next good one is alone in its week: what is older may go, and not all of it.
    fs::write(world.path("data/superchat.db"), sound).unwrap();
    let ran = at(&world, day(16), &["backup", "--json"]).expect(0).json();
    assert_eq!(ran[0]["prune"]["outcome"], "needs-approval", "{ran}");
    assert_eq!(listed(&world).len(), 7);
    let id = ran[0]["prune"]["plan"].as_str().unwrap();
    at(&world, day(16) + 1.hours(), &["prune", "--approve", id]).expect(0);
    let left = listed(&world);
    assert_eq!(left.len(), 3, "the three newest good ones stay: {left:?}");
    world.run(&["verify", "--level", "full"]).expect(0);
}

/// `admin_*` covered both engines and anything else; `find -delete` took what it matched.
#[test]
fn files_of_strangers_in_the_folder_are_never_touched() {
    let world = world("{ last = 3 }");
    days(&world, 0, 2);
    let folder = world.path("repo/superchat");
    let strangers = [
        "admin_postgres_20251104_120000.sql.gz",
        "superchat-20251104-120000.db.gz",
        "superchat-20251104-120000.db",
        "superchat.db.backup-v8-20251104-120000",
        "superchat-20251104-120000.db.zst.gz",
        "full_backup_20251104.tar.gz",
        "notes.json.txt",
        ".hidden",
    ];
    for name in strangers {
        fs::write(folder.join(name), format!("not ours: {name}")).unwrap();
    }
    fs::create_dir(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/superchat-20251104-120000.db"), "x").unwrap();
    std::os::unix::fs::symlink(world.path("data/superchat.db"), folder.join("link.db")).unwrap();
    days(&world, 2, 14);
    assert!(!folder.join("superchat-20260105-020000.db.zst").exists(), "ours did rotate");
    for name in strangers {
        let bytes = fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(bytes, format!("not ours: {name}"));
    }
    assert!(folder.join("sub/superchat-20251104-120000.db").exists());
    assert!(folder.join("link.db").exists() && world.path("data/superchat.db").exists());
}

/// The second run of a second found the name taken, failed, and left a file that nobody rotated.
#[test]
fn two_runs_in_one_second_are_two_backups() {
    let world = world("{ last = 3 }");
    at(&world, day(0), &["backup"]).expect(0);
    at(&world, day(0), &["backup"]).expect(0);
    // At once: either both are made, or one says that another runs.
    let start = || {
        let mut command = world.command(&["backup"]);
        command.env("LIFEBOAT_CLOCK_AT", day(1).to_string());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [start(), start()];
    let ended = both.map(|child| ran(child.wait_with_output().unwrap()));
    let good = ended.iter().filter(|ran| ran.code == 0).count();
    assert!(ended.iter().all(|ran| ran.code == 0 || ran.code == 11), "{ended:?}");
    assert!(good >= 1, "{ended:?}");
    let names = listed(&world);
    assert_eq!(names.len() + tombstones(&world), 2 + good, "{names:?}");
    let unique: BTreeSet<&String> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    let plain = |name: &String| name.ends_with(".db") || name.ends_with(".part");
    assert!(!world.names("repo/superchat").iter().any(plain));
    world.run(&["verify", "--level", "full"]).expect(0);
}

fn tombstones(world: &World) -> usize {
    world.names("repo/tombstones/superchat").len()
}

/// The local folder was emptied, and what followed emptied the copy as well.
#[test]
fn an_emptied_folder_empties_no_other() {
    let world = World::new();
    world.database("superchat.db", 30);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [repository.other]\nurl = \"file://$DATA/other\"\n\
         [source.superchat]\nsqlite = \"$DATA/superchat.db\"\nkeep = { last = 4 }\n\
         prune = \"after-backup\"\n",
    );
    days(&world, 0, 4);
    let other = || -> Vec<String> {
        let names = world.names("data/other/superchat").into_iter();
        names.filter(|name| name.ends_with(".db.zst")).collect()
    };
    let before = other();
    assert_eq!(before.len(), 4);
    for name in world.names("repo/superchat") {
        fs::remove_file(world.path("repo/superchat").join(name)).unwrap();
    }
    days(&world, 4, 1);
    assert!(before.iter().all(|name| other().contains(name)));
    let list = world.run(&["list", "--repo", "other", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 4, "its own rule, no more and no less");
    let list = world.run(&["list", "--repo", "local", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    // Emptied to the last file: the next run begins anew, the other one goes on.
    fs::remove_dir_all(world.path("repo")).unwrap();
    days(&world, 5, 1);
    assert_eq!(listed(&world).len(), 5);
    world.run(&["verify", "--level", "full"]).expect(0);
}

/// An error text of 60 bytes, named as a backup is, was one for the monitor.
#[test]
fn t17_an_error_text_beside_the_backups_counts_as_none() {
    let world = world("{ last = 3 }");
    days(&world, 0, 1);
    let text = "pg_dump: error: connection to server at \"localhost\" failed\n";
    for name in ["superchat-20260112-020000.db.gz", "superchat-20260112-020000.json"] {
        fs::write(world.path("repo/superchat").join(name), text).unwrap();
    }
    let now = (day(7) + 1.hours()).to_string();
    let ran = world.run(&["status", "--max-age", "2d", "--now", &now, "--json"]).expect(21);
    let row = &ran.json()[0];
    assert_eq!((row["backups"].as_u64(), row["unreadable"].as_u64()), (Some(1), Some(1)));
    assert_eq!(row["newest_good"], "superchat-20260105-020000");
    let nagios = ["status", "--check-age", "2d", "--now", &now, "--format", "nagios"];
    assert!(world.run(&nagios).expect(2).out.contains("superchat: the newest good backup is 7 d"));
    assert_eq!(listed(&world).len(), 1);
    // Nor does rotation count it, or take it for its own.
    days(&world, 8, 5);
    assert_eq!(listed(&world).len(), 3);
    assert!(world.path("repo/superchat/superchat-20260112-020000.db.gz").exists());
}

/// All tiers share a folder: the line with `--retention-days 2` took what the others were to keep.
#[test]
fn t18_the_shortest_retention_takes_nothing_from_the_longer_ones() {
    let world = World::new();
    world.database("admin.db", 30);
    let run = |moment: Timestamp, arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("ADMIN_DB_PATH", world.path("data/admin.db")).env("RETENTION_DAYS", "1");
        command.env("BACKUP_DIR", world.path("repo"));
        ran(command.env("LIFEBOAT_CLOCK_AT", moment.to_string()).output().unwrap())
    };
    // Short, daily for 5 days, weekly for 20, and once for a year, as lines of a crontab.
    let (mut daily, mut weekly, mut yearly) = (Vec::new(), Vec::new(), Vec::new());
    let days_max = 30;
    for number in 0..days_max {
        let base = day(number);
        let make = |moment: Timestamp, days: &str| -> String {
            let ran = run(moment, &["backup", "--json", "--retention-days", days]).expect(0);
            assert!(!ran.err.contains("approve"), "{}", ran.err);
            ran.json()[0]["backup"].as_str().unwrap().to_owned()
        };
        daily.push((number, make(base, "5")));
        if number % 7 == 0 {
            weekly.push((number, make(base + 1.hours(), "20")));
        }
        if number == 0 {
            yearly.push((number, make(base + 2.hours(), "365")));
        }
        make(base + 3.hours(), "2");
    }
    let now = (day(days_max - 1) + 4.hours()).to_string();
    let list = run(day(days_max), &["list", "--json", "--now", &now]).expect(0).json();
    let list: BTreeSet<&str> =
        list.as_array().unwrap().iter().map(|backup| backup["name"].as_str().unwrap()).collect();
    for (made, days) in [(&daily, 5), (&weekly, 20), (&yearly, 365)] {
        for (number, name) in made {
            let age_days = days_max - 1 - number;
            if age_days < days {
                assert!(list.contains(name.as_str()), "{name} was to be kept {days} days");
            }
            // With a day to spare, what is over has gone: it does rotate.
            if age_days > days + 1 {
                assert!(!list.contains(name.as_str()), "{name} was kept {age_days} days");
            }
        }
    }
    assert!(list.len() < 16, "{list:?}");
}

/// The same beside tiers in the configuration: fewer days take nothing from them.
#[test]
fn t18_a_number_of_days_takes_nothing_from_the_tiers_that_are_configured() {
    let world = world("{ last = 1, weekly = 3 }");
    days(&world, 0, 16);
    let before = listed(&world);
    assert_eq!(before.len(), 4, "{before:?}");
    let mut removed = Vec::new();
    for number in 16..20 {
        let arguments = ["backup", "--retention-days", "1", "--json"];
        let ran = at(&world, day(number), &arguments).expect(0).json();
        removed.extend(ran[0]["prune"]["marked"].as_array().unwrap().clone());
    }
    // Those of the weeks before stay; what goes is what would have gone.
    assert_eq!(removed, [&before[2], &before[3], "superchat-20260121-020000"]);
    assert_eq!(listed(&world)[..2], before[..2]);
    let plan = world.run(&["prune", "--dry-run", "--json", "--now", &day(19).to_string()]);
    let plan = plan.expect(0).json();
    let items = plan[0]["plan"]["items"].as_array().unwrap();
    let held = items[items.len() - 2]["reasons"].to_string();
    assert!(held.contains("the run that made it asked for 1 day"), "{held}");
}
