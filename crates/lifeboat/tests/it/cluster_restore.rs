//! A primary lost under load is back at a moment that was named before, on each version.

use std::fs;
use std::path::Path;
use std::process::Command;

use lifeboat_core::env::CRASH_POINTS;

use crate::cluster::{Cluster, Yard, done, program};
use crate::postgres_server::{kinds_of_majors, majors, skipped};
use crate::support::{Ran, ran};

pub(crate) const PORT: u16 = 5801;
pub(crate) const RESTORED: u16 = 5802;

/// The source: a whole cluster, its log pushed into the repository.
pub(crate) const CONFIGURATION: &str = "[repository.local]\nurl = \"file://$YARD/repository\"\n\
    [source.main.postgres]\n\
    url = \"postgresql:///?host=$YARD&port=5801&user=postgres\"\nphysical = true\n";

/// Our program as the user of the tests: the repository is not the server's to read.
pub(crate) fn lifeboat(yard: &Yard, arguments: &[&str]) -> Ran {
    let mut command = yard.command(program());
    command.args(arguments);
    ran(command.output().unwrap())
}

/// The same as root, where we are: the server that it starts must be another user.
pub(crate) fn lifeboat_as_we_are(yard: &Yard, arguments: &[&str]) -> Ran {
    ran(as_we_are(yard).args(arguments).output().unwrap())
}

pub(crate) fn as_we_are(yard: &Yard) -> Command {
    let own = yard.command(program());
    let mut command = Command::new(program());
    command.env_clear().current_dir(yard.path(""));
    for (name, value) in own.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

/// A cluster with load and an archive.
pub(crate) fn primary<'a>(yard: &'a Yard, major: u32) -> Cluster<'a> {
    yard.configure(CONFIGURATION);
    let mut primary = Cluster::new(yard, major, "primary", &["--data-checksums"]);
    primary.archive("--source main");
    primary.up(PORT);
    assert!(primary.pgbench(PORT, &["-i", "-q", "-s", "1"]).wait().unwrap().success());
    primary.ask(PORT, "CREATE TABLE told (n int, at timestamptz DEFAULT clock_timestamp())");
    primary
}

/// Commits a number, and gives a moment behind it and before the next.
pub(crate) fn moment(primary: &Cluster<'_>, number: u32) -> String {
    primary.ask(PORT, &format!("INSERT INTO told (n) VALUES ({number})"));
    let time = primary.ask(PORT, "SELECT clock_timestamp() AT TIME ZONE 'UTC'");
    format!("{}Z", time.replace(' ', "T"))
}

/// Everything that was written so far is in the archive.
pub(crate) fn archived(primary: &mut Cluster<'_>) {
    // A segment without a record would never be switched.
    primary.ask(PORT, "SELECT pg_create_restore_point('archived')");
    let segment = primary.ask(PORT, "SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.ask(PORT, "SELECT pg_switch_wal()");
    primary.wait_until(
        PORT,
        &format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"),
    );
}

/// What the restored cluster shows: the last number, and whether the balances agree.
pub(crate) fn shown(yard: &Yard, major: u32, name: &str) -> (u32, String) {
    let mut restored = Cluster::at(yard, major, name);
    restored.set(&["archive_mode = off"]);
    restored.up(RESTORED);
    let last = restored.ask(RESTORED, "SELECT coalesce(max(n), 0) FROM told");
    let sums = restored.ask(
        RESTORED,
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = \
                (SELECT coalesce(sum(delta), 0) FROM pgbench_history) \
            AND (SELECT sum(bbalance) FROM pgbench_branches) = \
                (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
    );
    restored.stop();
    (last.parse().unwrap(), sums)
}

/// The server's own verifier on a directory as it was unpacked, where that version's works here.
pub(crate) fn server_verifies(yard: &Yard, major: u32, data: &Path) {
    if major == 18 {
        skipped("pg_verifybackup of 18, which does not run here; our own verifier stands in");
        return;
    }
    let cluster = Cluster::at(yard, major, "nothing");
    let mut command = yard.command(&cluster.program("pg_verifybackup"));
    done(command.arg(data).output().unwrap());
}

/// `pg_amcheck` of all databases of a restored cluster, where that version comes with it.
fn amcheck(yard: &Yard, major: u32, name: &str) {
    let mut restored = Cluster::at(yard, major, name);
    let program = restored.program("pg_amcheck");
    // The others come without contrib here.
    if ![15, 17].contains(&major) {
        skipped(&format!("pg_amcheck of {major}, which is not here; every table is read instead"));
        return;
    }
    restored.up(RESTORED);
    let mut command = yard.command(&program);
    command.args(["-U", "postgres", "-p", &RESTORED.to_string(), "-h"]).arg(yard.path(""));
    command.args(["--all", "--install-missing", "--heapallindexed"]);
    done(command.output().unwrap());
    restored.stop();
}

/// How many random moments are tried: as many as LIFEBOAT_MOMENTS says.
fn moments() -> u32 {
    let asked = std::env::var("LIFEBOAT_MOMENTS").ok().map(|text| text.parse().unwrap());
    let is_long = std::env::var("LIFEBOAT_LONG_TESTS").is_ok_and(|value| value == "1");
    asked.unwrap_or(if is_long { 1_000 } else { 10 })
}

#[test]
fn a_primary_lost_under_load_is_back_at_a_moment_named_before() {
    for major in majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        let mut load = primary.load(PORT);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        let first = moment(&primary, 1);
        moment(&primary, 2);
        archived(&mut primary);
        primary.kill();
        let _ = load.wait();
        fs::remove_dir_all(yard.path("primary")).unwrap();
        let to = yard.path("restored");
        let to = to.to_str().unwrap();
        let plan = lifeboat(&yard, &["restore", "main", "--at", &first, "--to", to, "--dry-run"]);
        drop(plan.expect(0));
        assert!(!Path::new(to).exists());
        let told = lifeboat_as_we_are(&yard, &["restore", "main", "--at", &first, "--to", to]);
        let told = told.expect(0);
        drop(told.says("the last transaction in it is of"));
        assert_eq!(shown(&yard, *major, "restored"), (1, "t".to_owned()), "{major}");
        amcheck(&yard, *major, "restored");
        let unpacked = yard.path("unpacked");
        let unpacked = unpacked.to_str().unwrap();
        let leave = ["restore", "main", "--at", &first, "--to", unpacked, "--action", "leave"];
        lifeboat_as_we_are(&yard, &leave).expect(0);
        server_verifies(&yard, *major, Path::new(unpacked));
        // What stands in where these are not: each file against the server's manifest, every page,
        // the log replayed, every table read.
        lifeboat_as_we_are(&yard, &["verify", "main", "--level", "full"]).expect(0);
        let all = yard.path("all");
        lifeboat_as_we_are(&yard, &["restore", "main", "--to", all.to_str().unwrap()]).expect(0);
        assert_eq!(shown(&yard, *major, "all"), (2, "t".to_owned()), "{major}");
    }
}

#[test]
fn a_chain_of_incremental_backups_is_restored_to_a_moment_behind_it() {
    for major in kinds_of_majors() {
        let yard = Yard::new();
        let mut primary = primary(&yard, *major);
        if *major >= 17 {
            primary.ask(PORT, "ALTER SYSTEM SET summarize_wal = on");
            primary.ask(PORT, "SELECT pg_reload_conf()");
        }
        let mut load = primary.load(PORT);
        lifeboat(&yard, &["backup", "main"]).expect(0);
        for number in 1..=2 {
            moment(&primary, number);
            primary.ask(PORT, &format!("CREATE TABLE new_{number} AS SELECT 1 AS one"));
            primary.ask(PORT, "VACUUM told");
            lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        }
        let third = moment(&primary, 3);
        moment(&primary, 4);
        archived(&mut primary);
        primary.kill();
        let _ = load.wait();
        let parents = |name: &str| fs::read_to_string(name).unwrap().contains("\"parent\"");
        let folder = fs::read_dir(yard.path("repository/main")).unwrap();
        let manifests = folder.map(|entry| entry.unwrap().path().to_string_lossy().into_owned());
        let made = manifests.filter(|name| name.ends_with(".json") && !name.contains("source"));
        assert_eq!(made.filter(|name| parents(name)).count(), 2, "{major}");
        let to = yard.path("restored");
        let to = to.to_str().unwrap();
        lifeboat_as_we_are(&yard, &["restore", "main", "--at", &third, "--to", to]).expect(0);
        assert_eq!(shown(&yard, *major, "restored"), (3, "t".to_owned()), "{major}");
    }
}

#[test]
fn random_moments_under_load_show_what_was_committed_then() {
    let major = 15;
    let yard = Yard::new();
    let mut primary = primary(&yard, major);
    let mut load = primary.load(PORT);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let mut times = Vec::new();
    for number in 1..=moments() {
        times.push(moment(&primary, number));
        // As on a day with several backups: each moment has its own base.
        if number % (moments() / 3).max(1) == 0 {
            lifeboat(&yard, &["backup", "main", "--incremental"]).expect(0);
        }
    }
    moment(&primary, moments() + 1);
    archived(&mut primary);
    primary.kill();
    let _ = load.wait();
    // Each other one is made of the files of the one before.
    let to = yard.path("restored");
    let to = to.to_str().unwrap();
    for (index, time) in times.iter().enumerate() {
        let more: &[&str] = match index % 2 {
            0 => &["--yes"],
            _ => &["--yes", "--delta"],
        };
        let restore = ["restore", "main", "--at", time, "--to", to];
        lifeboat_as_we_are(&yard, &[&restore[..], more].concat()).expect(0);
        let expected = (index as u32 + 1, "t".to_owned());
        assert_eq!(shown(&yard, major, "restored"), expected, "{time} of {index}");
        if index % 2 == 1 {
            fs::remove_dir_all(to).unwrap();
        }
    }
}

#[test]
fn a_moment_that_the_log_does_not_cover_is_said_and_nothing_is_made() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 16);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    let first = moment(&primary, 1);
    moment(&primary, 2);
    archived(&mut primary);
    moment(&primary, 3);
    archived(&mut primary);
    moment(&primary, 4);
    archived(&mut primary);
    primary.stop();
    let to = yard.path("restored");
    let to = to.to_str().unwrap();
    // Later than all that is there, and a timeline that nobody has.
    lifeboat(&yard, &["restore", "main", "--at", "2100-01-01T00:00:00Z", "--to", to]).expect(22);
    lifeboat(&yard, &["restore", "main", "--timeline", "7", "--to", to]).expect(22);
    lifeboat(&yard, &["restore", "main", "--target-lsn", "7F/0", "--to", to]).expect(22);
    lifeboat(&yard, &["restore", "main", "--target-name", "nobody", "--to", to]).expect(22);
    // A segment is missing in the middle: the end of the log is not where it seems to be.
    let segments = yard.segments("repository");
    let missing = &segments[segments.len() - 2];
    let folders = fs::read_dir(yard.path("repository/main/wal")).unwrap();
    let system = folders.map(|one| one.unwrap().path()).next().unwrap();
    fs::remove_file(system.join(format!("00000001/{missing}.zst"))).unwrap();
    let gap = lifeboat(&yard, &["restore", "main", "--to", to]);
    let gap = gap.expect(22);
    drop(gap.says(missing));
    assert!(!Path::new(to).exists());
    lifeboat_as_we_are(&yard, &["restore", "main", "--at", &first, "--to", to]).expect(0);
    assert_eq!(shown(&yard, 16, "restored").0, 1);
}

#[test]
fn a_restore_in_place_keeps_the_old_cluster_and_undo_goes_back() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 15);
    moment(&primary, 1);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    moment(&primary, 2);
    archived(&mut primary);
    let data = yard.path("primary");
    let data = data.to_str().unwrap();
    let in_place = ["restore", "main@latest", "--target-lsn", "0/1", "--in-place", data];
    lifeboat_as_we_are(&yard, &in_place).expect(22);
    let name = latest(&yard);
    let in_place = ["restore", &name, "--in-place", data];
    // A server that runs is not taken its files away.
    lifeboat_as_we_are(&yard, &in_place).expect(23);
    primary.stop();
    // No terminal, no answer: nothing happens.
    lifeboat_as_we_are(&yard, &in_place).expect(24);
    let in_place = ["restore", &name, "--in-place", data, "--yes"];
    lifeboat_as_we_are(&yard, &in_place).expect(0);
    assert_eq!(shown(&yard, 15, "primary").0, 1);
    assert_eq!(left(&yard, ".before_restore.").len(), 1);
    lifeboat_as_we_are(&yard, &["undo", data, "--yes"]).expect(0);
    assert_eq!(shown(&yard, 15, "primary").0, 2);
    assert_eq!(left(&yard, ".before_undo.").len(), 1);
}

#[test]
fn killed_in_a_restore_in_place_the_old_cluster_or_the_new_one_is_there() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 15);
    moment(&primary, 1);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    moment(&primary, 2);
    archived(&mut primary);
    primary.stop();
    let (data, name) = (yard.path("primary"), latest(&yard));
    let data = data.to_str().unwrap();
    let is_passed = |it: &&&str| it.starts_with("recovery.") && **it != "recovery.reused";
    let points: Vec<_> = CRASH_POINTS.iter().filter(is_passed).collect();
    assert_eq!(points.len(), 6);
    for point in points {
        let mut command = as_we_are(&yard);
        command.args(["restore", &name, "--in-place", data, "--yes"]);
        let ended = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
        let is_new = ["recovery.kept_aside", "recovery.swapped"].contains(point);
        assert_eq!(shown(&yard, 15, "primary").0, if is_new { 1 } else { 2 }, "{point}");
        // What was left hinders nobody. What is kept has a name with whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        lifeboat_as_we_are(&yard, &["restore", &name, "--in-place", data, "--yes"]).expect(0);
        assert_eq!(shown(&yard, 15, "primary").0, 1, "{point}");
        // And what was left half made is gone.
        for kept in left(&yard, "primary") {
            assert!(!yard.path(&kept).join("lifeboat.restoring").exists(), "{point}: {kept}");
        }
        for _ in 0..if is_new { 2 } else { 1 } {
            std::thread::sleep(std::time::Duration::from_millis(1_100));
            lifeboat_as_we_are(&yard, &["undo", data, "--yes"]).expect(0);
        }
        assert_eq!(shown(&yard, 15, "primary").0, 2, "{point}");
    }
}

/// Folders of the yard with that in their names.
pub(crate) fn left(yard: &Yard, part: &str) -> Vec<String> {
    let entries = fs::read_dir(yard.path("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

/// The name of the newest backup.
pub(crate) fn latest(yard: &Yard) -> String {
    let entries = fs::read_dir(yard.path("repository/main")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let manifests = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
    manifests.filter(|name| name.starts_with("main-")).max().unwrap()
}

#[test]
fn a_standby_catches_up_from_the_repository_and_then_streams() {
    let yard = Yard::new();
    let mut primary = primary(&yard, 16);
    lifeboat(&yard, &["backup", "main"]).expect(0);
    moment(&primary, 1);
    archived(&mut primary);
    let to = yard.path("standby");
    let url = format!("postgresql:///?host={}&port={PORT}&user=postgres", yard.path("").display());
    let secret = "postgresql://postgres:secret@localhost/";
    let standby = |url: &str| {
        let to = to.to_str().unwrap();
        lifeboat_as_we_are(&yard, &["restore", "main", "--standby", "--primary", url, "--to", to])
    };
    standby(secret).expect(2);
    assert!(!to.exists());
    standby(&url).expect(0);
    let mut standby = Cluster::at(&yard, 16, "standby");
    standby.set(&["archive_mode = off"]);
    standby.up(RESTORED);
    assert_eq!(standby.ask(RESTORED, "SELECT pg_is_in_recovery()"), "t");
    standby.wait_until(RESTORED, "SELECT max(n) = 1 FROM told");
    // What was not archived comes by the stream.
    moment(&primary, 2);
    standby.wait_until(RESTORED, "SELECT max(n) = 2 FROM told");
    primary.kill();
    standby.ask(RESTORED, "SELECT pg_promote()");
    standby.ask(RESTORED, "INSERT INTO told (n) VALUES (3)");
    // The checkpoint that says so comes a moment later.
    standby.wait_until(RESTORED, "SELECT timeline_id = 2 FROM pg_control_checkpoint()");
}
