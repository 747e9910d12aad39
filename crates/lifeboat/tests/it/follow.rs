//! `lifeboat run` follows databases under writers that do not wait for it: every state that it
//! records is one that the writer committed, whatever happens to the `-wal`, the agent or the time.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lifeboat_core::env::CRASH_POINTS;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::{World, rows};

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A database in which row `n` holds when it was committed, `n - 1` and `n - 2` are there as well,
/// and a sum goes over all of them.
pub(crate) fn make(path: &Path, journal_mode: &str) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = {journal_mode};
             CREATE TABLE ticks(n INTEGER PRIMARY KEY, at_ms INTEGER, key TEXT UNIQUE, body TEXT);
             CREATE TABLE total(n INTEGER, sum INTEGER);
             INSERT INTO total VALUES(0, 0);"
        ))
        .unwrap();
}

/// Commits ticks until it is stopped, now and then with a checkpoint of some kind.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<i64>>,
}

impl Writer {
    pub(crate) fn start(path: &Path, pause: Duration, checkpoints: bool) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (path.to_owned(), Arc::clone(&stop));
        let pragmas = "PRAGMA wal_autocheckpoint = 100; PRAGMA synchronous = OFF";
        let thread =
            std::thread::spawn(move || write(&path, pause, checkpoints, (pragmas, &stopped)));
        Writer { stop, thread }
    }

    /// One that hardly pauses, with what SQLite does of itself.
    fn at_full_speed(path: &Path) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (path.to_owned(), Arc::clone(&stop));
        let pragmas = "PRAGMA synchronous = NORMAL";
        let thread = std::thread::spawn(move || {
            write(&path, Duration::from_micros(300), false, (pragmas, &stopped))
        });
        Writer { stop, thread }
    }

    /// When each tick was committed, from the first.
    pub(crate) fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn write(
    path: &Path,
    pause: Duration,
    checkpoints: bool,
    (pragmas, stop): (&str, &AtomicBool),
) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch(pragmas).unwrap();
    let mut committed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let n = committed.len() as i64 + 1;
        let sql = format!(
            "BEGIN IMMEDIATE;
             INSERT INTO ticks VALUES({n}, {}, hex(randomblob(12)), hex(randomblob(60)));
             UPDATE total SET n = {n}, sum = sum + {n};
             UPDATE ticks SET body = hex(randomblob(60)) WHERE n = {n} / 2;
             COMMIT",
            now_ms()
        );
        connection.execute_batch(&sql).unwrap();
        committed.push(now_ms());
        if checkpoints && n % 37 == 0 {
            let kind = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][(n / 37 % 4) as usize];
            let sql = format!("PRAGMA wal_checkpoint({kind})");
            connection.query_row(&sql, [], |_| Ok(())).unwrap();
        }
        if checkpoints && n % 301 == 0 {
            connection.execute_batch("VACUUM").unwrap();
        }
        sleep(pause);
    }
    committed
}

/// Requires that a database shows the writer's first ticks and nothing else; how many.
pub(crate) fn prefix(path: &Path) -> usize {
    let connection = Connection::open(path).unwrap();
    // A standby is locked while its changes are forced to the disk: long, where that is slow.
    connection.busy_timeout(PATIENCE).unwrap();
    // One look, whoever writes to it.
    let connection = connection.unchecked_transaction().unwrap();
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let (count, last): (i64, i64) = connection
        .query_row("SELECT count(*), coalesce(max(n), 0) FROM ticks", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let (n, sum): (i64, i64) = connection
        .query_row("SELECT n, sum FROM total", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!((count, n, sum), (last, last, last * (last + 1) / 2));
    last as usize
}

/// The agent, in a process of its own.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Agent {
        Agent::of(world, world.repo_command(&["run"]), arguments)
    }

    /// One that follows what is configured.
    pub(crate) fn configured(world: &World, arguments: &[&str]) -> Agent {
        Agent::of(world, world.command(&["run", "--follow"]), arguments)
    }

    fn of(world: &World, mut command: Command, arguments: &[&str]) -> Agent {
        command.args(arguments).args(["--interval", "100ms"]);
        let log = fs::File::create(world.path("agent.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Agent { child }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It gets no time for a while.
    fn halted(&self, meanwhile: impl FnOnce()) {
        let signal = |signal| {
            // SAFETY: a signal to a child of ours that was not waited for.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        };
        signal(libc::SIGSTOP);
        meanwhile();
        signal(libc::SIGCONT);
    }

    /// As a service manager does it: who runs until told to end has done so.
    pub(crate) fn terminate(mut self) {
        // SAFETY: a signal to a child of ours that was not waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let status = self.child.wait().unwrap();
        assert_eq!(status.code().unwrap_or(128 + status.signal().unwrap_or(0)), 0);
    }
}

/// The log of the newest backup.
pub(crate) fn log(world: &World, source: &str) -> Value {
    let listed = world.repo(&["list", source, "--json"]);
    if listed.code != 0 {
        return Value::Null;
    }
    listed.json().as_array().unwrap().last().map_or(Value::Null, |last| last["log"].clone())
}

/// Longer than any machine should take, also one that does much else.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        sleep(Duration::from_millis(20));
    }
}

/// The same of an agent, with what it said where it does not come.
#[track_caller]
fn wait_for_agent(world: &World, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        let said = || fs::read_to_string(world.path("agent.log")).unwrap_or_default();
        assert!(begun.elapsed() < PATIENCE, "no states came: {}", said());
        sleep(Duration::from_millis(20));
    }
}

/// Whether a process would hear that it is to end, and does not die of it.
pub(crate) fn hears_its_end(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (libc::SIGTERM - 1)) != 0)
}

pub(crate) fn is_long() -> bool {
    std::env::var_os("LIFEBOAT_LONG_TESTS").is_some()
}

/// The commits of the newest state that can be restored.
fn restored(world: &World, arguments: &[&str]) -> usize {
    let mut all = vec!["restore", "app", "--to", "back.db", "--yes"];
    all.extend(arguments);
    world.repo(&all).expect(0);
    prefix(&world.path("data/back.db"))
}

#[test]
fn any_second_of_a_lost_database_comes_back() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let agent = Agent::start(&world, &["app.db"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let first = log(&world, "app")["position"].as_u64();
    let writer = Writer::start(&path, Duration::from_millis(5), false);
    wait_for("states of the writer", || {
        log(&world, "app")["position"].as_u64() > first.map(|first| first + 2)
    });
    let begun_ms = now_ms();
    sleep(Duration::from_secs(if is_long() { 60 } else { 3 }));
    let committed = writer.end();
    let ended_ms = *committed.last().unwrap();
    wait_for("the last commit", || {
        let held = log(&world, "app")["held"].as_str().map(|held| held.parse::<jiff::Timestamp>());
        held.is_some_and(|held| held.unwrap().as_millisecond() > ended_ms)
    });
    agent.kill();
    for name in world.names("data") {
        fs::remove_file(world.path("data").join(name)).unwrap();
    }
    // A moment in the middle, chosen by when this test happens to run.
    let span_ms = ended_ms - begun_ms;
    let at_ms = begun_ms + span_ms / 4 + now_ms() % (span_ms / 2);
    let at = jiff::Timestamp::from_millisecond(at_ms).unwrap().to_string();
    let shown = restored(&world, &["--at", &at]);
    // Nothing younger than was asked for. A commit is noted a little later than it is there: by
    // when it was begun it is told, and by the one before it.
    let begun = Connection::open(world.path("data/back.db")).unwrap();
    let sql = "SELECT at_ms FROM ticks WHERE n = ?1";
    let begun_ms: i64 = begun.query_row(sql, [shown as i64], |row| row.get(0)).unwrap();
    assert!(begun_ms <= at_ms && committed[shown.saturating_sub(2)] <= at_ms, "{begun_ms} {at}");
    drop(begun);
    // The resolution, as it is printed: what is missing was committed later than that, and that is
    // at most two seconds before the moment that was asked for, on a machine that does nothing
    // else.
    let resolution_ms = if is_long() { 2_000 } else { 60_000 };
    let plan = ["restore", "app", "--to", "x.db", "--at", &at, "--dry-run"];
    let plan = world.repo(&plan).expect(0).out;
    let held = plan.split("committed until ").nth(1).unwrap().split(',').next().unwrap();
    let held_ms = held.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    println!(
        "{shown} of {} commits for {at}: all until {held}, {} ms before",
        committed.len(),
        at_ms - held_ms
    );
    assert!((at_ms - resolution_ms..=at_ms).contains(&held_ms), "{held} for {at}");
    assert!(committed[shown] >= held_ms, "{} is missing, and {held} printed", committed[shown]);
    assert_eq!(restored(&world, &[]), committed.len());
    world.repo(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn checkpoints_vacuums_and_kills_of_the_agent_leave_whole_states() {
    under_checkpoints(&["app.db"]);
}

#[test]
fn a_wal_that_is_kept_from_beginning_anew_leaves_whole_states() {
    under_checkpoints(&["app.db", "--pin-from", "0", "--wal-max", "1"]);
}

#[test]
fn a_writer_in_a_hurry_under_checkpoints_leaves_whole_states() {
    under_checkpoints(&["app.db", "--hurry-from", "0"]);
}

/// As fast as it can, with the checkpoints that SQLite makes of itself: every state is whole, the
/// last one is all, and nothing kept the `-wal` from beginning anew.
#[test]
fn a_writer_at_full_speed_is_followed_without_its_wal_growing() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let agent = Agent::start(&world, &["app.db", "--hurry-from", "0", "--pin-from", "0"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let writer = Writer::at_full_speed(&path);
    wait_for_agent(&world, || log(&world, "app")["position"].as_u64() > Some(11));
    wait_for("a place aside", || world.has_open(agent.id(), "state/lifeboat/aside"));
    let wal_bytes = fs::metadata(world.path("data/app.db-wal")).unwrap().len();
    restored(&world, &[]);
    let committed = writer.end().len();
    wait_for("the last state", || restored(&world, &[]) == committed);
    agent.terminate();
    assert!(wal_bytes < 72 << 20, "{wal_bytes}");
    world.repo(&["verify", "--level", "quick"]).expect(0);
}

/// Turns of its `-wal` that the agent did not see, as it got no time, are made up for while the
/// writer goes on: all pages are compared, and nothing is missing.
#[test]
fn a_writer_in_a_hurry_that_the_agent_lost_sight_of_is_caught_up_with() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    // Held from look to look, as it is else, no turn is missed by one that is halted.
    let arguments = ["--hurry-from", "0", "--pin-from", "0", "--wal-max", "0", "--verbose"];
    let agent = Agent::start(&world, &[&["app.db"], &arguments[..]].concat());
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let writer = Writer::at_full_speed(&path);
    let first = log(&world, "app")["position"].as_u64().unwrap();
    wait_for_agent(&world, || log(&world, "app")["position"].as_u64() > Some(first + 2));
    let said = || fs::read_to_string(world.path("agent.log")).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.busy_timeout(Duration::from_millis(300)).unwrap();
    wait_for("a turn that was missed", || {
        agent.halted(|| {
            for _ in 0..4 {
                let _ = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
                sleep(Duration::from_millis(20));
            }
        });
        sleep(Duration::from_millis(200));
        said().contains("its -wal began anew unseen: its pages are compared")
    });
    let now = log(&world, "app")["position"].as_u64().unwrap();
    wait_for_agent(&world, || log(&world, "app")["position"].as_u64() > Some(now + 1));
    restored(&world, &[]);
    let committed = writer.end().len();
    wait_for("the last state", || restored(&world, &[]) == committed);
    agent.terminate();
    world.repo(&["verify", "--level", "quick"]).expect(0);
}

/// Nothing is written, and yet the newest state grows no older than the heartbeat.
#[test]
fn an_idle_database_goes_on_by_a_heartbeat() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let agent = Agent::start(&world, &["app.db", "--heartbeat", "300ms"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let file = fs::read(&path).unwrap();
    let moment = |log: &Value| log["held"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let mut newest = log(&world, "app");
    for _ in 0..3 {
        let before = newest.clone();
        wait_for("a heartbeat", || {
            newest = log(&world, "app");
            newest["position"].as_u64() > before["position"].as_u64()
        });
        assert!(moment(&newest) >= moment(&before) + Duration::from_millis(300), "{newest}");
    }
    agent.terminate();
    assert!(fs::read(&path).unwrap() == file);
    // A moment of which only a heartbeat tells, to the byte.
    let at = moment(&newest).to_string();
    let plan = ["restore", "app", "--to", "x.db", "--at", &at, "--dry-run"];
    let plan = world.repo(&plan).expect(0).out;
    assert!(plan.contains("everything that was committed until"), "{plan}");
    assert_eq!(restored(&world, &["--at", "now"]), 0);
    world.repo(&["verify", "--level", "full"]).expect(0);
}

fn under_checkpoints(arguments: &[&str]) {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let writer = Writer::start(&path, Duration::from_millis(1), true);
    for round in 0..if is_long() { 40 } else { 4 } {
        let agent = Agent::start(&world, arguments);
        let before = log(&world, "app")["position"].as_u64().unwrap_or(0);
        wait_for("states", || {
            log(&world, "app")["position"]
                .as_u64()
                .is_some_and(|now| now > before + 3 || now < before)
        });
        agent.kill();
        restored(&world, &[]);
        let end = log(&world, "app")["position"].as_u64().unwrap();
        let listed = world.repo(&["list", "app", "--json"]).expect(0).json();
        let base = listed.as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
        let state = format!("{base}+{}", (end * 2 / 3).max(round % 2));
        world.repo(&["restore", &state, "--to", "back.db", "--yes"]).expect(0);
        prefix(&world.path("data/back.db"));
    }
    let agent = Agent::start(&world, arguments);
    let committed = writer.end().len();
    wait_for("the last state", || restored(&world, &[]) == committed);
    agent.terminate();
    // To the byte: nobody has it open any more, so its file is the state.
    let connection = Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    connection.close().unwrap();
    restored(&world, &[]);
    assert!(fs::read(&path).unwrap() == fs::read(world.path("data/back.db")).unwrap());
    world.repo(&["verify", "--level", "quick"]).expect(0);
}

/// Nothing goes to the empty folder that an unmounted drive leaves, and no second repository is
/// made there: what was committed meanwhile comes when it is back.
#[test]
fn a_repository_that_was_moved_away_is_waited_for() {
    let world = World::new();
    let (path, repo, away) = (world.path("data/app.db"), world.path("repo"), world.path("away"));
    make(&path, "WAL");
    let agent = Agent::start(&world, &["app.db"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let said = |what: &str| {
        let said = || fs::read_to_string(world.path("agent.log")).unwrap();
        wait_for(what, || said().contains(what));
    };
    fs::rename(&repo, &away).unwrap();
    let writer = Writer::start(&path, Duration::from_millis(5), false);
    said("is not there any more");
    assert!(!repo.exists());
    fs::create_dir(&repo).unwrap();
    said("the repository that was at");
    assert_eq!(world.names("repo"), [""; 0]);
    fs::remove_dir(&repo).unwrap();
    fs::rename(&away, &repo).unwrap();
    let committed = writer.end().len();
    wait_for("the last state", || restored(&world, &[]) == committed);
    let backups = world.repo(&["list", "app", "--json"]).expect(0).json();
    assert_eq!(backups.as_array().unwrap().len(), 1, "{backups}");
    agent.terminate();
    world.repo(&["verify"]).expect(0);
}

#[test]
fn the_application_is_left_alone() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let schema = |path: &Path| -> (i64, String) {
        let connection = Connection::open(path).unwrap();
        let tables =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
        let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0));
        (tables.unwrap(), mode.unwrap())
    };
    let before = schema(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO total VALUES(1, 1)")
        .unwrap();
    let agent = Agent::start(&world, &["app.db"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let first = log(&world, "app")["position"].as_u64().unwrap();
    let file = fs::read(&path).unwrap();
    connection.execute_batch("DELETE FROM total WHERE n = 1").unwrap();
    wait_for("a state", || log(&world, "app")["position"].as_u64() > Some(first));
    // No checkpoint was made: the file is what it was, and what is new is in its `-wal`.
    assert!(fs::read(&path).unwrap() == file);
    assert_eq!(schema(&path), before);
    agent.terminate();
}

#[test]
fn a_newer_backup_is_followed_from_then_on() {
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    let agent = Agent::start(&world, &["app.db"]);
    wait_for("the first state", || log(&world, "app") != Value::Null);
    let writer = Writer::start(&path, Duration::from_millis(5), false);
    wait_for("some commits", || prefix(&path) > 50);
    // Names have whole seconds: the next backup has another than the first.
    world.repo(&["backup", "app.db"]).expect(0);
    let shown = restored(&world, &[]);
    wait_for("a log of the newer backup", || log(&world, "app")["states"].as_u64() > Some(2));
    let committed = writer.end().len();
    wait_for("the last state", || restored(&world, &[]) == committed);
    assert!(shown > 0 && shown < committed);
    world.repo(&["verify"]).expect(0);
    agent.terminate();
}

#[test]
fn a_database_in_rollback_mode_is_compared() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let world = World::new();
        let path = world.path("data/app.db");
        make(&path, mode);
        // Its interval is what may be lost: it is said.
        let ran = world.repo(&["run", "app.db", "--once", "--json"]).expect(0);
        let began = ran.json().as_array().unwrap().last().unwrap().clone();
        assert!(began["rpo_ms"].as_u64() >= Some(1_000), "{began}");
        let ran = world.repo(&["run", "app.db", "--once"]).expect(0);
        ran.says("it is not in WAL mode: its pages are compared");
        let agent = Agent::start(&world, &["app.db"]);
        let writer = Writer::start(&path, Duration::from_millis(20), false);
        sleep(Duration::from_millis(700));
        let committed = writer.end().len();
        wait_for("the last state", || restored(&world, &[]) == committed);
        let status = world.repo(&["status", "--json"]).expect(0).json();
        let following = &status[0]["following"];
        assert!(following["rpo_ms"].as_u64() >= Some(100), "{status}");
        assert_eq!(following["pages_are_compared"], true, "{status}");
        for command in ["status", "list"] {
            let shown = world.repo(&[command]).expect(0).out;
            assert!(shown.contains("RPO ") && shown.contains("its pages are compared"), "{shown}");
        }
        // The interval follows what a comparison costs, so it may change between two questions.
        wait_for("the same of both", || {
            let status = world.repo(&["status", "--json"]).expect(0).json();
            log(&world, "app")["following"] == status[0]["following"]
        });
        agent.terminate();
    }
    // Where nothing is compared it is the time between two looks.
    let world = World::new();
    make(&world.path("data/app.db"), "WAL");
    let agent = Agent::start(&world, &["app.db"]);
    let expected = serde_json::json!({ "rpo_ms": 100, "pages_are_compared": false });
    wait_for("what may be lost", || {
        let status = world.repo(&["status", "--json"]);
        status.code == 0 && status.json()[0]["following"] == expected
    });
    agent.terminate();
}

#[test]
fn killed_at_each_point_under_a_writer() {
    killed_at_each_point(&[]);
}

/// The same where no state is held, and what was collected is stored beside the looking.
#[test]
fn killed_at_each_point_under_a_writer_in_a_hurry() {
    killed_at_each_point(&["--hurry-from", "0", "--pin-from", "0"]);
}

fn killed_at_each_point(arguments: &[&str]) {
    let points = CRASH_POINTS.iter().filter(|point| point.starts_with("increment."));
    let world = World::new();
    let path = world.path("data/app.db");
    make(&path, "WAL");
    world.repo(&["backup", "app.db"]).expect(0);
    let writer = match arguments.is_empty() {
        true => Writer::start(&path, Duration::from_millis(2), false),
        false => Writer::at_full_speed(&path),
    };
    for point in points.filter(|point| **point != "increment.begin") {
        let mut command = world.repo_command(&["run", "app.db", "--interval", "50ms"]);
        command.args(arguments);
        let output = command.env("LIFEBOAT_CRASH_AT", point).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{point} is never passed");
        let shown = restored(&world, &[]);
        world.repo(&["verify"]).expect(0);
        world.repo(&["run", "app.db", "--once"]).expect(0);
        assert!(restored(&world, &[]) > shown, "{point}");
    }
    let committed = writer.end().len();
    world.repo(&["run", "app.db", "--once"]).expect(0);
    assert_eq!(restored(&world, &[]), committed);
    assert_eq!(rows_of(&path), committed);
}

fn rows_of(path: &Path) -> usize {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM ticks", [], |row| row.get::<_, i64>(0)).unwrap()
        as usize
}

#[test]
fn what_cannot_be_followed_is_said() {
    let world = World::new();
    world.repo(&["run", "gone.db", "--once"]).expect(15);
    world.repo(&["run", "--once"]).expect(2).says("there is no SQLite database to follow");
    let path = world.database("app.db", 10);
    world.repo(&["run", "app.db", "--once"]).expect(0);
    assert_eq!(rows(&path), 10);
    // Two that add to one log would spoil it for each other.
    let agent = Agent::start(&world, &["app.db"]);
    wait_for("the agent", || world.repo(&["run", "app.db", "--once"]).code == 11);
    agent.terminate();
}

/// A database that is torn gets no backup, which it would need to be followed: that is said with
/// what was found and what mends it. The one that takes its place is followed at once.
#[test]
fn a_damaged_database_is_said_to_be_damaged_and_a_whole_one_in_its_place_is_followed() {
    let world = World::new();
    let path = world.path("data/app.db");
    let whole = world.database("whole.db", 2_000);
    fs::copy(&whole, &path).unwrap();
    let torn = fs::metadata(&path).unwrap().len() / 8192 * 4096;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(torn).unwrap();
    let once = world.repo(&["run", "app.db", "--once"]).expect(20);
    let once = once.says("it needs a backup (there is no sound backup of it yet), which failed");
    once.says("is damaged: quick_check found: the file ends after").says("lifeboat salvage");
    let agent = Agent::start(&world, &["app.db"]);
    let said = || fs::read_to_string(world.path("agent.log")).unwrap();
    wait_for("what is wrong with it", || said().contains("is damaged"));
    fs::rename(&whole, &path).unwrap();
    wait_for("the whole one", || said().contains("following app"));
    agent.terminate();
    // Once, however often it was tried; while the file is replaced it may be something else.
    assert_eq!(said().matches("is damaged: quick_check").count(), 1, "{}", said());
}
