//! What a log makes of backups: moments that can be restored, gaps that are found, and files that
//! go when no backup needs them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::browser::{Page, Visitor};
use crate::cluster::{Cluster, Yard, program};
use crate::support::{Ran, ran, set_mode};

pub(crate) fn server<'a>(yard: &'a Yard, major: u32) -> Cluster<'a> {
    let mut cluster = Cluster::new(yard, major, "data", &["--wal-segsize=1"]);
    cluster.archive("");
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(x bigint)");
    cluster
}

/// Fills some segments, and waits until they are archived.
pub(crate) fn write(cluster: &mut Cluster<'_>) -> String {
    cluster.ask(5432, "INSERT INTO t SELECT generate_series(1, 30000)");
    let last = cluster.ask(5432, "SELECT pg_walfile_name(pg_switch_wal())");
    let done = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    cluster.wait_until(5432, &done);
    last
}

/// The program at another moment.
fn at(yard: &Yard, clock: Option<&str>, arguments: &[&str]) -> Ran {
    let mut command = yard.command(program());
    if let Some(clock) = clock {
        command.env("LIFEBOAT_CLOCK_AT", clock);
    }
    ran(command.args(arguments).output().unwrap())
}

fn days_from_now(days: i64) -> String {
    let hours = jiff::SignedDuration::from_hours(24 * days);
    jiff::Timestamp::now().checked_add(hours).unwrap().to_string()
}

fn check(yard: &Yard, more: &[&str]) -> Ran {
    let mut arguments = vec!["wal", "check", "--json", "--offline"];
    arguments.extend(more);
    at(yard, None, &arguments)
}

#[test]
fn a_lost_segment_is_a_gap_and_a_later_backup_closes_it() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = server(&yard, 16);
    at(&yard, None, &["backup", "main"]).expect(0);
    write(&mut cluster);
    let lost = write(&mut cluster);
    let after = write(&mut cluster);
    check(&yard, &["--read"]).expect(0);
    let listed: Value = at(&yard, None, &["list", "--json"]).expect(0).json();
    let restorable = &listed[0]["restorable"][0];
    assert_eq!(restorable["timeline"], 1);
    assert_eq!(restorable["gap"], Value::Null);
    // The last time in the log is later than the backup.
    let told: jiff::Timestamp = restorable["to_time"].as_str().unwrap().parse().unwrap();
    let taken: jiff::Timestamp = listed[0]["taken_at"].as_str().unwrap().parse().unwrap();
    assert!(told > taken && told < jiff::Timestamp::now(), "{restorable}");
    at(&yard, None, &["list"]).expect(0);
    // A file is lost: all behind it is out of reach.
    let object = format!("one/main/wal/{}/00000001/{lost}.zst", system(&yard));
    fs::remove_file(yard.path(&object)).unwrap();
    let checked = check(&yard, &[]).expect(22).says("timeline 1");
    assert_eq!(checked.json()["clusters"][0]["gaps"].as_array().unwrap().len(), 1);
    let shown = at(&yard, None, &["show", "main"]).expect(0);
    assert!(shown.out.contains("then the log is missing"), "{}", shown.out);
    let listed: Value = at(&yard, None, &["list", "--json"]).expect(0).json();
    let first = &listed[0]["restorable"][0];
    assert!(first["gap"]["from"].is_string(), "{first}");
    let shown = drawn(&yard);
    assert!(shown.contains("1 range in which moments can be restored, 1 gap"), "{shown}");
    // From a new backup on moments can be restored again.
    at(&yard, None, &["backup", "main"]).expect(0);
    write(&mut cluster);
    let listed: Value = at(&yard, None, &["list", "--json"]).expect(0).json();
    assert_eq!(listed[1]["restorable"][0]["gap"], Value::Null);
    let text = at(&yard, None, &["list"]).expect(0).out;
    assert_eq!(text.matches("any moment of timeline 1").count(), 2, "{text}");
    assert!(text.contains("missing on timeline 1"), "{text}");
    // The page draws it: a gap between what the one backup and what the other makes restorable.
    let drawn = drawn(&yard);
    assert_eq!(drawn.matches("class=\"gap\"").count(), 2, "one, and the legend: {drawn}");
    for words in
        ["2 ranges in which moments can be restored, 1 gap", "any moment: ", "timeline 1, "]
    {
        assert!(drawn.contains(words), "{words}: {drawn}");
    }
    // Damage is found by reading.
    let object = yard.path(&format!("one/main/wal/{}/00000001/{after}.zst", system(&yard)));
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&object, bytes).unwrap();
    check(&yard, &["--read"]).expect(20).says(&after);
}

/// The screen of the cluster.
fn drawn(yard: &Yard) -> String {
    let mut command = yard.command(program());
    command.args(["web", "serve", "--listen", "127.0.0.1:0"]);
    let _page = Page::of(command);
    let link = at(yard, None, &["web", "open"]).expect(0).out;
    Visitor::by_link(&link).get("/sources/main").expect(200).body
}

/// The system identifier of the only log.
fn system(yard: &Yard) -> String {
    let mut systems = fs::read_dir(yard.path("one/main/wal")).unwrap();
    systems.next().unwrap().unwrap().file_name().into_string().unwrap()
}

#[test]
fn the_log_of_a_backup_goes_after_it_and_never_before() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let config = fs::read_to_string(yard.path("config.toml")).unwrap();
    let config = config.replace("[source.main]\n", "[source.main]\nkeep = { last = 1 }\n");
    yard.configure(&config);
    let mut cluster = server(&yard, 15);
    let before = write(&mut cluster);
    for _ in 0..5 {
        at(&yard, None, &["backup", "main"]).expect(0);
        write(&mut cluster);
    }
    let all = yard.segments("one");
    assert!(all.contains(&before));
    let prune = |clock: Option<&str>, more: &[&str]| {
        let mut arguments = vec!["prune", "main", "--yes", "--json"];
        arguments.extend(more);
        at(&yard, clock, &arguments)
    };
    // The first one marks backups, and leaves the log: the grace time is that of the backups.
    let planned: Value = prune(None, &["--dry-run"]).expect(0).json();
    let plan = planned[0]["plan"]["id"].as_str().unwrap().to_owned();
    assert!(planned[0]["plan"]["log"].as_array().unwrap().len() > 1, "{planned}");
    let first: Value = prune(None, &["--approve", &plan]).expect(0).json();
    assert_eq!(first[0]["log_objects"], 0);
    assert_eq!(first[0]["marked"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(yard.segments("one"), all);
    // When their bytes go, so does the log that only they needed.
    let later = days_from_now(8);
    at(&yard, Some(&later), &["backup", "main"]).expect(0);
    let later = days_from_now(9);
    // Killed between two files, it goes on, and keeps what it would have kept.
    let copied = yard.command(Path::new("cp")).args(["-a", "one", "aside"]).status().unwrap();
    assert!(copied.success());
    let mut killed = yard.command(program());
    killed.args(["prune", "main", "--yes"]).env("LIFEBOAT_CLOCK_AT", &later);
    let killed = ran(killed.env("LIFEBOAT_CRASH_AT", "wal.deleted").output().unwrap());
    assert_eq!(killed.code, 128 + 9, "{killed:?}");
    check(&yard, &["--read"]).expect(0);
    prune(Some(&later), &[]).expect(0);
    let after_kill = yard.segments("one");
    fs::remove_dir_all(yard.path("one")).unwrap();
    fs::rename(yard.path("aside"), yard.path("one")).unwrap();
    let second: Value = prune(Some(&later), &[]).expect(0).json();
    assert_eq!(second[0]["deleted"].as_array().unwrap().len(), 2, "{second}");
    assert!(second[0]["log_objects"].as_u64().unwrap() > 0, "{second}");
    let left = yard.segments("one");
    assert_eq!(left, after_kill);
    assert!(left.len() < all.len() && !left.contains(&before), "{left:?}");
    // Every backup that is left has its log.
    let checked = check(&yard, &["--read"]).expect(0).json();
    assert_eq!(checked["clusters"][0]["backups_without_their_log"], serde_json::json!([]));
    assert_eq!(checked["clusters"][0]["gaps"], serde_json::json!([]));
    let listed: Value = at(&yard, None, &["list", "--json"]).expect(0).json();
    let oldest = &listed[0]["restorable"][0];
    assert_eq!(oldest["backups"].as_array().unwrap().len(), listed.as_array().unwrap().len());
}

#[test]
fn a_server_is_set_up_and_another_program_is_not_replaced_unasked() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = Cluster::new(&yard, 18, "data", &["--wal-segsize=1"]);
    cluster.set(&["archive_mode = off", "archive_timeout = 0"]);
    cluster.up(5432);
    let install = |more: &[&str]| {
        let mut arguments = vec!["install", "postgres"];
        arguments.extend(more);
        at(&yard, None, &arguments)
    };
    let planned = install(&["--dry-run"]).expect(0);
    assert!(planned.out.contains("ALTER SYSTEM SET archive_mode = 'on'"), "{}", planned.out);
    assert!(planned.out.contains("wal push %p"), "{}", planned.out);
    // Nothing without a word.
    install(&[]).expect(24);
    assert_eq!(cluster.ask(5432, "SHOW archive_timeout"), "0");
    // What another program set stays.
    cluster.ask(5432, "ALTER SYSTEM SET archive_command = 'pgbackrest archive-push %p'");
    cluster.ask(5432, "ALTER SYSTEM SET archive_mode = 'on'");
    cluster.stop();
    cluster.up(5432);
    install(&["--yes"]).expect(23).says("pgbackrest archive-push");
    install(&["--yes", "--replace"]).expect(0);
    cluster.wait_until(5432, "SELECT current_setting('archive_command') LIKE '%wal push %p%'");
    install(&["--yes"]).expect(0).says("nothing to do");
    // As it is set up, it archives.
    cluster.ask(5432, "CREATE TABLE t(x bigint)");
    write(&mut cluster);
    let doctor = at(&yard, None, &["doctor", "--json"]);
    assert!(doctor.out.contains("archiver"), "{doctor:?}");
    // A repository that takes nothing is an archiver that fails. It stays so while it is asked for:
    // the server tries again when it likes.
    let segment = yard.path("one/main/wal").join(yard.log("one").pop().unwrap());
    let objects = segment.parent().unwrap();
    set_mode(objects, 0o500);
    cluster.ask(5432, "INSERT INTO t VALUES (1)");
    cluster.ask(5432, "SELECT pg_switch_wal()");
    cluster.wait_until(
        5432,
        "SELECT failed_count > 0 AND last_failed_time > last_archived_time FROM pg_stat_archiver",
    );
    let doctor = at(&yard, None, &["doctor", "--json"]);
    assert!(doctor.out.contains("the archiver fails"), "{}", doctor.out);
    at(&yard, None, &["status"]).says("the archiver fails");
    let nagios = at(&yard, None, &["status", "--format", "nagios"]);
    assert!(nagios.out.contains("the archiver fails"), "{}", nagios.out);
    set_mode(objects, 0o700);
    // What was there before comes back, and what somebody set since stays.
    cluster.ask(5432, "ALTER SYSTEM SET archive_timeout = '5min'");
    cluster.ask(5432, "SELECT pg_reload_conf()");
    cluster.wait_until(5432, "SELECT current_setting('archive_timeout') = '5min'");
    let planned = install(&["--dry-run", "--uninstall"]).expect(0);
    assert!(planned.out.contains("'pgbackrest archive-push %p'"), "{}", planned.out);
    install(&["--yes", "--uninstall"]).expect(0);
    let before = "SELECT current_setting('archive_command') = 'pgbackrest archive-push %p'";
    cluster.wait_until(5432, before);
    assert_eq!(cluster.ask(5432, "SHOW archive_timeout"), "5min");
    install(&["--yes", "--uninstall"]).expect(0).says("nothing to do");
}

#[test]
fn a_server_that_never_archived_does_so_no_more_after_uninstall() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = Cluster::new(&yard, 15, "data", &["--wal-segsize=1"]);
    cluster.set(&["archive_mode = off"]);
    cluster.up(5432);
    let install = |more: &[&str]| {
        let mut arguments = vec!["install", "postgres"];
        arguments.extend(more);
        at(&yard, None, &arguments)
    };
    // A role without the right gets the lines, and nothing is changed.
    cluster.ask(5432, "CREATE ROLE plain LOGIN");
    let config = fs::read_to_string(yard.path("config.toml")).unwrap();
    yard.configure(&config.replace("user=postgres", "user=plain"));
    let refused = install(&["--yes"]).expect(23).says("ALTER SYSTEM");
    assert!(refused.out.contains("\narchive_mode = 'on'"), "{}", refused.out);
    assert!(refused.out.contains("wal push %p"), "{}", refused.out);
    install(&["--dry-run"]).expect(0);
    yard.configure(&config);
    install(&["--yes"]).expect(0).says("must be restarted");
    cluster.stop();
    cluster.up(5432);
    assert_eq!(cluster.ask(5432, "SHOW archive_mode"), "on");
    install(&["--yes", "--uninstall"]).expect(0).says("must be restarted");
    cluster.stop();
    cluster.up(5432);
    assert_eq!(cluster.ask(5432, "SHOW archive_mode"), "off");
    assert_eq!(cluster.ask(5432, "SELECT current_setting('archive_command')"), "(disabled)");
}
