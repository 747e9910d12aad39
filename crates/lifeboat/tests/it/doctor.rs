//! What the doctor sees before a backup has to fail, and that it leaves no trace.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::postgres_server::{Server, configure, majors, run, world_of};
use crate::support::{Holder, Ran, World, is_root, ran, set_mode};

/// A doctor that looks for schedules in this world.
fn doctor(world: &World, arguments: &[&str]) -> Ran {
    let root = world.text("root");
    world.run(&[&["doctor", "--root", &root][..], arguments].concat())
}

/// The checks of that name in a report: the object, how it ended, what was said with its hint.
fn found(report: &Value, check: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["checks"].as_array().unwrap();
    all.iter()
        .filter(|finding| finding["check"] == check)
        .map(|finding| {
            let said = format!("{} | {}", text(&finding["message"]), text(&finding["hint"]));
            (text(&finding["object"]), text(&finding["outcome"]), said)
        })
        .collect()
}

#[track_caller]
fn expect(report: &Value, check: &str, outcome: &str, said: &str) {
    let findings = found(report, check);
    let is_it =
        |(_, ended, text): &(String, String, String)| ended == outcome && text.contains(said);
    assert!(findings.iter().any(is_it), "{check} is not {outcome} with {said:?} in {report:#}");
}

fn healthy() -> World {
    let world = World::new();
    set_mode(&world.database("app.db", 10), 0o640);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n",
    );
    world
}

/// Every name below a folder, with what could show that something was written.
fn listing(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            names.push(format!("{} {:?}", entry.path().display(), metadata.modified().unwrap()));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    names.sort();
    names
}

#[test]
fn a_healthy_host_is_good_and_stays_as_it_was() {
    let world = healthy();
    let root = world.text("root");
    world.run(&["backup"]).expect(0);
    world.run(&["install", "systemd", "--root", &root, "--yes"]).expect(0);
    let before = listing(&world.path("."));
    let text = doctor(&world, &[]).expect(0);
    let report = doctor(&world, &["--json"]).expect(0).json();
    assert_eq!(listing(&world.path(".")), before);
    assert_eq!((&report["bad"], &report["warnings"]), (&0.into(), &0.into()), "{}", text.out);
    // A disk that fills up is told in good time.
    let mut full = world.command(&["doctor", "--root", &root, "--json"]);
    let full = ran(full.env("LIFEBOAT_DISK_USED", "95").output().unwrap()).expect(0).json();
    expect(&full, "free space", "warning", "(95 % used) | lifeboat prune --dry-run");
    for check in ["configuration", "repository", "free space", "clock", "source", "tools"] {
        assert!(
            text.out.lines().any(|line| line.starts_with(&format!("good    {check}"))),
            "{check}"
        );
    }
    expect(&report, "repository", "good", "1 backups");
    expect(&report, "schedule", "good", "lifeboat-backup-app.timer runs it");
    // A crontab does as well, and its lines are known whatever else is in them.
    fs::remove_dir_all(world.path("root")).unwrap();
    world.run(&["install", "cron", "--root", &root, "--yes"]).expect(0);
    let report = doctor(&world, &["--json"]).expect(0).json();
    let schedules = found(&report, "schedule");
    assert_eq!(schedules.len(), 2, "{report:#}");
    assert!(schedules.iter().all(|(_, _, said)| !said.contains("no timer")), "{schedules:?}");
}

#[test]
fn what_is_missing_is_named_with_what_mends_it() {
    let world = healthy();
    world.database("other.db", 3);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [repository.away]\nurl = \"file://$DATA/other.db\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n\
         service = \"no-such\"\n\
         [source.gone]\nsqlite = \"$DATA/gone.db\"\n\
         [source.none]\nsqlite = { glob = \"$DATA/*/app.db\" }\n\
         [source.by-hand]\nfiles = [\"$DATA/gone\"]\n\
         service = { stop = [\"/no/such\"], start = [\"true\"] }\n",
    );
    let ran = doctor(&world, &["--json"]);
    assert_ne!(ran.code, 0);
    let report = ran.json();
    expect(&report, "repository", "good", "the first backup makes it");
    expect(&report, "repository", "bad", "is a file, not a folder");
    expect(&report, "source", "good", "SQLite, WAL mode");
    expect(&report, "source", "bad", "gone.db");
    expect(&report, "source", "bad", "matches no database");
    expect(&report, "service", "bad", "there is no unit no-such.service");
    expect(&report, "service", "bad", "`/no/such` of its service cannot be run");
    expect(
        &report,
        "schedule",
        "warning",
        "no timer and no line of cron runs it | lifeboat install",
    );
    expect(&report, "schedule", "warning", "it has none");
    let bad: Vec<&Value> = report["checks"].as_array().unwrap().iter().collect();
    let mended = bad.iter().filter(|one| one["outcome"] == "warning");
    assert!(mended.clone().all(|one| one["hint"].is_string()), "{report:#}");
}

#[test]
fn a_configuration_with_a_mistake_hides_nothing_else() {
    let world = healthy();
    world.configure("[sorce.app]\n");
    let ran = doctor(&world, &[]).expect(2);
    assert!(ran.out.contains("bad     configuration"), "{}", ran.out);
    assert!(ran.out.contains("did you mean `source`?"), "{}", ran.out);
    assert!(ran.out.contains("good    tools"), "{}", ran.out);
    fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
    let ran = doctor(&world, &[]).expect(0);
    assert!(ran.out.contains("mend it: lifeboat init"), "{}", ran.out);
}

#[test]
fn timers_of_another_schedule_and_missing_tools_are_warnings() {
    let world = healthy();
    world.run(&["install", "systemd", "--root", &world.text("root"), "--yes"]).expect(0);
    let path = world.path("home/config/lifeboat/config.toml");
    let text = fs::read_to_string(&path).unwrap().replace("hourly", "daily");
    fs::write(&path, text).unwrap();
    let root = world.text("root");
    let mut command = world.command(&["doctor", "--json", "--root", &root]);
    command.env("PATH", world.path("tmp")).env("TZ", "No/Such");
    let report = ran(command.output().unwrap()).expect(0).json();
    expect(&report, "time zone", "warning", "apt-get install tzdata");
    expect(&report, "schedule", "warning", "at other times than the configuration says");
    expect(&report, "tools", "warning", "apt-get install sqlite3");
    expect(&report, "tools", "warning", "apt-get install zstd");
}

#[test]
fn a_clock_behind_the_newest_backup_is_bad() {
    let world = healthy();
    world.run(&["backup"]).expect(0);
    let root = world.text("root");
    let mut command = world.command(&["doctor", "--json", "--root", &root]);
    let behind = command.env("LIFEBOAT_CLOCK_AT", "2020-01-01T00:00:00Z").output().unwrap();
    let report = ran(behind).expect(1).json();
    expect(&report, "clock", "bad", "timedatectl set-ntp true");
}

#[test]
fn a_password_that_others_can_read_is_bad() {
    let world = healthy();
    let secret = world.path("data/secret");
    fs::write(&secret, "hush\n").unwrap();
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.admin]\npostgres = { host = \"$DATA\", dbname = \"admin\", \
         password = { file = \"$DATA/secret\" } }\n\
         [source.open]\npostgres = \"postgresql://ann:hush@127.0.0.1:1/open\"\n",
    );
    set_mode(&world.path("home/config/lifeboat/config.toml"), 0o644);
    for (mode, outcome) in [(0o644, "bad"), (0o640, "warning"), (0o600, "good")] {
        set_mode(&secret, mode);
        let ran = doctor(&world, &["--json"]);
        let report = ran.json();
        let found = found(&report, "secret");
        let of_file = found.iter().find(|(object, _, _)| object == secret.to_str().unwrap());
        assert_eq!(of_file.unwrap().1, outcome, "{mode:o} {report:#}");
        expect(&report, "secret", "bad", "which others can read | chmod 600");
        expect(&report, "connection", "bad", "cannot connect to postgresql://127.0.0.1:1/open");
        assert!(!format!("{ran:?}").contains("hush"), "{ran:?}");
    }
}

#[test]
fn config_check_tries_the_same_when_it_is_asked_to() {
    let world = healthy();
    let before = world.names("data");
    world.run(&["config", "check", "--online"]).expect(0);
    let report = world.run(&["config", "check", "--online", "--json"]).expect(0).json();
    let checks: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["check"].as_str().unwrap())
        .collect();
    assert_eq!(checks, ["repository", "free space", "source"]);
    assert_eq!(world.names("data"), before);
    fs::remove_file(world.path("data/app.db")).unwrap();
    let ran = world.run(&["config", "check", "--online"]).expect(15);
    assert!(ran.out.contains("bad     source app"), "{}", ran.out);
}

#[test]
fn a_server_is_asked_for_all_that_a_backup_and_a_restore_need() {
    for major in majors() {
        let server = Server::new(*major);
        server.sql("postgres", "CREATE ROLE clerk LOGIN");
        server.sql("postgres", "CREATE DATABASE shop");
        server.sql(
            "shop",
            "CREATE TABLE public.mine(x int); CREATE TABLE public.\"not mine\"(x int)",
        );
        let world = world_of(&server.url("shop"));
        let root = world.text("root");
        let doctor = || run(&world, &["doctor", "--json", "--root", &root]);
        let report = doctor().expect(0).json();
        for check in ["client programs", "rights", "role passwords", "restore", "full check"] {
            assert_eq!(found(&report, check)[0].1, "good", "{major} {check}: {report:#}");
        }
        let said = format!("as postgres, PostgreSQL {major}");
        expect(&report, "connection", "good", &said);

        server.sql("shop", "GRANT SELECT ON public.mine TO clerk");
        configure(&world, &server.url_as("clerk", "shop"), "");
        let report = doctor().expect(15).json();
        expect(&report, "rights", "bad", "clerk may not read public.\"not mine\" | as a superuser");
        expect(&report, "role passwords", "warning", "clerk may not read them");
        expect(&report, "restore", "warning", "clerk may not make databases or rename");
        let online = run(&world, &["config", "check", "--online"]).expect(15);
        assert!(online.out.contains("bad     rights shop: clerk may not"), "{}", online.out);
        run(&world, &["backup"]).expect(15);
        // What is left out of the dump need not be readable.
        let left_out = "exclude_tables = ['public.\"not mine\"']";
        configure(&world, &server.url_as("clerk", "shop"), left_out);
        expect(&doctor().expect(0).json(), "rights", "warning", "not mine");
        run(&world, &["backup"]).expect(0);
        // What it says to do is enough.
        configure(&world, &server.url_as("clerk", "shop"), "");
        server.sql("postgres", "GRANT pg_read_all_data TO clerk");
        expect(&doctor().expect(0).json(), "rights", "good", "clerk may read all of shop");
        run(&world, &["backup"]).expect(0);

        configure(&world, &server.url_as("nobody here", "shop"), "");
        let report = doctor().expect(15).json();
        expect(&report, "connection", "bad", "role \"nobody here\" does not exist");
    }
}

#[test]
fn programs_that_are_older_than_the_server_are_named_with_their_package() {
    let server = Server::new(18);
    let world = world_of(&server.url("postgres"));
    let root = world.text("root");
    let mut command = world.command(&["doctor", "--json", "--root", &root]);
    let report = ran(command.env("PATH", "/usr/bin:/bin").output().unwrap()).expect(15).json();
    expect(&report, "client programs", "bad", "apt-get install postgresql-client-18");
    expect(&report, "full check", "warning", "apt-get install postgresql-18");
}

#[test]
fn what_this_user_may_not_do_is_bad() {
    use std::os::unix::process::CommandExt as _;
    let world = healthy();
    let path = world.path("data/app.db");
    // A reader that is still there keeps the side files.
    let _holder = Holder::of(&path);
    world.run(&["backup"]).expect(0);
    for name in ["repo", "state", "data"] {
        set_mode(&world.path(name), 0o555);
    }
    for file in ["app.db", "app.db-wal", "app.db-shm"] {
        set_mode(&world.path("data").join(file), 0o444);
    }
    let root = world.text("root");
    let mut command = world.command(&["doctor", "--json", "--root", &root]);
    if is_root() {
        // The repository as a whole can be read, as can its way there.
        let kept = format!("repo/config/{}", world.names("repo/config")[0]);
        for name in
            ["", "repo/app", "repo/config", &kept, "home", "home/config", "home/config/lifeboat"]
        {
            set_mode(&world.path(name), 0o755);
        }
        for name in world.names("repo/app") {
            set_mode(&world.path("repo/app").join(name), 0o644);
        }
        set_mode(&world.path("repo/lifeboat.json"), 0o644);
        set_mode(&world.path("home/config/lifeboat/config.toml"), 0o644);
        command.uid(65_534).gid(65_534);
    }
    let report = ran(command.output().unwrap()).expect(1).json();
    expect(&report, "repository", "bad", "cannot write to");
    expect(&report, "source", "bad", "app.db-shm");
    expect(&report, "source", "bad", "run backups as user");
    expect(&report, "state folder", "warning", "cannot write to");
}
