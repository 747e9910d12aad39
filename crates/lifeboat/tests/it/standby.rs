//! `restore --follow`: a standby that readers have open while it goes from state to state. Whoever
//! looks sees one state, whole, whatever happens to the follower, the log or the database's shape.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use lifeboat_sqlite::sample::{
    SampleOptions, Size, Writer, WriterOptions, check_invariants, create, prove,
};
use rusqlite::Connection;

use crate::follow::{hears_its_end, wait_for};
use crate::support::{World, ran};

fn make(world: &World) {
    let options =
        SampleOptions { size: Size::Messages(300), users: 50, rooms: 9, ..Default::default() };
    create(&world.path("data/app.db"), &options).unwrap();
}

fn ticks(world: &World, count: u32) {
    let options = WriterOptions { messages_per_transaction: 2, ..WriterOptions::default() };
    let mut writer = Writer::open(&world.path("data/app.db"), options).unwrap();
    for _ in 0..count {
        writer.tick(1_800_000_000_000).unwrap();
    }
}

fn spawn(world: &World, words: &[&str]) -> Child {
    let mut command = world.repo_command(words);
    let log = fs::File::options().append(true).create(true).open(world.path("children.log"));
    command.stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap()
}

fn follower(world: &World) -> Child {
    spawn(world, &["restore", "app", "--to", "standby.db", "--follow", "--interval", "20ms"])
}

/// Ends it, as soon as it can hear that.
fn terminate(mut child: Child) -> i32 {
    wait_for("it to hear signals", || hears_its_end(child.id()));
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let status = child.wait().unwrap();
    status.code().unwrap_or(128 + status.signal().unwrap_or(0))
}

const ONCE: [&str; 6] = ["restore", "app", "--to", "standby.db", "--follow", "--once"];

/// Looks at the standby again and again, on one connection that stays open: the states that it saw.
struct Reader {
    stop: Arc<AtomicBool>,
    newest: Arc<AtomicU64>,
    thread: JoinHandle<Vec<u64>>,
}

impl Reader {
    fn start(path: &Path) -> Reader {
        let stop = Arc::new(AtomicBool::new(false));
        let newest = Arc::new(AtomicU64::new(0));
        let (path, stopped, seen) = (path.to_owned(), Arc::clone(&stop), Arc::clone(&newest));
        let thread = std::thread::spawn(move || look(&path, &stopped, &seen));
        Reader { stop, newest, thread }
    }

    /// The state that it saw last.
    fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn look(path: &Path, stop: &AtomicBool, newest: &AtomicU64) -> Vec<u64> {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let transaction = connection.unchecked_transaction().unwrap();
        let check: String =
            transaction.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        drop(transaction);
        seen.push(check_invariants(&connection).unwrap().sequence);
        newest.store(*seen.last().unwrap(), Ordering::Relaxed);
        sleep(Duration::from_millis(5));
    }
    seen
}

#[test]
fn a_reader_sees_whole_states_and_newer_ones_while_they_stream_in() {
    let world = World::new();
    make(&world);
    ticks(&world, 3);
    world.repo(&["backup", "app.db"]).expect(0);
    let agent = spawn(&world, &["run", "app.db", "--interval", "50ms"]);
    let first = follower(&world);
    wait_for("the standby", || world.path("data/standby.db").exists());
    let reader = Reader::start(&world.path("data/standby.db"));
    let mut child = first;
    for round in 0..6 {
        let before = reader.newest();
        ticks(&world, 40);
        if round == 2 {
            let connection = Connection::open(world.path("data/app.db")).unwrap();
            connection.busy_timeout(Duration::from_secs(20)).unwrap();
            connection.execute_batch("DELETE FROM reactions; VACUUM").unwrap();
        }
        if round % 2 == 1 {
            wait_for("a newer state at the reader", || reader.newest() > before);
        }
        sleep(Duration::from_millis(70 * round));
        // Wherever it is just then; the next one goes on.
        child.kill().unwrap();
        child.wait().unwrap();
        child = follower(&world);
    }
    let newest = prove(&world.path("data/app.db")).unwrap();
    wait_for("the newest state", || {
        prove(&world.path("data/standby.db")).is_ok_and(|seen| seen == newest)
    });
    let seen = reader.end();
    assert_eq!(terminate(child), 0);
    assert_eq!(terminate(agent), 0);
    assert!(seen.is_sorted(), "{seen:?}");
    let mut states = seen;
    states.dedup();
    assert!(states.len() >= 3, "{states:?}");
    assert!(!world.path("data/standby.db-journal").exists());
}

#[test]
fn a_follower_that_is_killed_leaves_the_state_before_or_after() {
    let world = World::new();
    make(&world);
    ticks(&world, 2);
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&ONCE).expect(0);
    for point in ["standby.journaled", "standby.written"] {
        ticks(&world, 5);
        world.repo(&["backup", "app.db", "--incremental"]).expect(0);
        let before = prove(&world.path("data/standby.db")).unwrap().sequence;
        let mut command = world.repo_command(&ONCE);
        assert_ne!(ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap()).code, 0);
        // Half is on disk. A reader of SQLite's goes back before it looks.
        assert!(world.path("data/standby.db-journal").exists(), "{point}");
        let connection = Connection::open(world.path("data/standby.db")).unwrap();
        assert_eq!(check_invariants(&connection).unwrap().sequence, before, "{point}");
        drop(connection);
        assert_ne!(
            ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap()).code,
            0,
            "and once more"
        );
        world.repo(&ONCE).expect(0);
        let newest = prove(&world.path("data/app.db")).unwrap();
        assert_eq!(prove(&world.path("data/standby.db")).unwrap(), newest, "{point}");
    }
}

#[test]
fn another_page_size_and_a_new_backup_come_to_a_reader_that_stays() {
    let world = World::new();
    make(&world);
    ticks(&world, 2);
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&ONCE).expect(0);
    let standby = Connection::open(world.path("data/standby.db")).unwrap();
    assert_eq!(check_invariants(&standby).unwrap().sequence, 2);
    let shapes =
        ["PRAGMA page_size = 8192", "PRAGMA page_size = 1024", "PRAGMA auto_vacuum = FULL"];
    for (round, shape) in shapes.iter().enumerate() {
        let connection = Connection::open(world.path("data/app.db")).unwrap();
        let sql =
            format!("PRAGMA journal_mode = DELETE; {shape}; VACUUM; PRAGMA journal_mode = WAL");
        connection.execute_batch(&sql).unwrap();
        drop(connection);
        ticks(&world, 3);
        // Names hold whole seconds.
        sleep(Duration::from_millis(1_050));
        world.repo(&["backup", "app.db", "--incremental"]).expect(0);
        world.repo(&ONCE).expect(0);
        let sequence = check_invariants(&standby).unwrap().sequence;
        assert_eq!(sequence, 2 + 3 * (round as u64 + 1), "{shape}");
        prove(&world.path("data/standby.db")).unwrap();
    }
}

#[test]
fn a_gap_is_told_and_what_the_standby_shows_stays_whole() {
    let world = World::new();
    make(&world);
    ticks(&world, 1);
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&ONCE).expect(0);
    for _ in 0..3 {
        ticks(&world, 4);
        world.repo(&["backup", "app.db", "--incremental"]).expect(0);
    }
    let backup = world.names("repo/app/log").pop().unwrap();
    let folder = world.path("repo/app/log").join(backup).join("0");
    let second = folder.join("0000000001-0000000002.pagelog");
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    world.repo(&ONCE).expect(22);
    assert_eq!(prove(&world.path("data/standby.db")).unwrap().sequence, 1);
    fs::write(&second, &kept).unwrap();
    let mut damaged = kept;
    damaged[40] ^= 1;
    fs::write(&second, &damaged).unwrap();
    assert_eq!(world.repo(&ONCE).code, 20);
    prove(&world.path("data/standby.db")).unwrap();
    // A new backup leads on.
    sleep(Duration::from_millis(1_050));
    world.repo(&["backup", "app.db"]).expect(0);
    world.repo(&ONCE).expect(0);
    assert_eq!(prove(&world.path("data/standby.db")).unwrap().sequence, 13);
}

#[test]
fn what_is_no_standby_is_left_alone() {
    let world = World::new();
    make(&world);
    world.repo(&["backup", "app.db"]).expect(0);
    fs::copy(world.path("data/app.db"), world.path("data/standby.db")).unwrap();
    let before = fs::read(world.path("data/standby.db")).unwrap();
    world.repo(&ONCE).expect(23).says("is no standby");
    assert!(fs::read(world.path("data/standby.db")).unwrap() == before);
    world.repo(&["restore", "app", "--follow"]).expect(2);
    world.repo(&["restore", "nothing", "--to", "x.db", "--follow", "--once"]).expect(22);
    assert!(!world.path("data/x.db").exists());
}
