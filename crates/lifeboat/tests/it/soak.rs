//! Ten minutes of the agent with 200 databases, while somebody writes: its memory does not grow.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::follow::wait_for;
use crate::support::World;

const SOURCES: usize = 200;
const SOAK: Duration = Duration::from_secs(600);

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // SAFETY: a signal to a child of ours that was not waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

#[test]
fn ten_minutes_with_two_hundred_databases_take_no_more_memory_than_one() {
    if std::env::var_os("LIFEBOAT_LONG_TESTS").is_none() {
        return;
    }
    let world = World::new();
    let mut config = "[repository.main]\nurl = \"file://$REPO\"\n".to_owned();
    for number in 0..SOURCES {
        world.database(&format!("{number}.db"), 5);
        config.push_str(&format!(
            "[source.app{number}]\nsqlite = \"$DATA/{number}.db\"\nschedule = \"*/5 * * * *\"\n\
             rpo = \"10m\"\nkeep = {{ last = 3 }}\nprune = \"after-backup\"\n"
        ));
    }
    world.configure(&format!("{config}[agent]\nwatch = \"* * * * *\"\n"));
    let log = world.path("agent.log");
    let file = fs::File::create(&log).unwrap();
    let mut command = world.command(&["run"]);
    let agent = Agent(command.stdout(Stdio::null()).stderr(file).spawn().unwrap());
    let followed = || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.matches("following app").count() >= SOURCES
    };
    let begun = Instant::now();
    while !followed() && begun.elapsed() < Duration::from_secs(240) {
        sleep(Duration::from_millis(200));
    }
    wait_for("all to be followed", followed);
    let begun = Instant::now();
    let (mut memory, mut rounds) = (Vec::new(), 0_usize);
    while begun.elapsed() < SOAK {
        sleep(Duration::from_secs(1));
        let connection =
            Connection::open(world.path(&format!("data/{}.db", rounds % SOURCES))).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS soak (x); INSERT INTO soak SELECT 1")
            .unwrap();
        rounds += 1;
        memory.push(resident_kib(agent.0.id()));
    }
    // What is in the way of a comparison is the beginning: caches fill, the first backups run.
    let part = |from: usize, to: usize| {
        let mut part = memory[memory.len() * from / 10..memory.len() * to / 10].to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let (early, late) = (part(2, 5), part(7, 10));
    let told = format!("{early} KiB, then {late} KiB, {rounds} writes");
    let note = format!("the agent and its follower after ten minutes: {told}\n");
    std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).unwrap();
    assert!(late <= early + early / 10 + 2_048, "{told}: {memory:?}");
}

/// The memory of a process and of the one below it that lasts: its follower.
fn resident_kib(process: u32) -> u64 {
    let of = |id: u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        text.lines()
            .find(|line| line.starts_with("VmRSS:"))?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let is_follower = |id: &u32| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("--follow")
    };
    let children = children.unwrap_or_default();
    let lasting = children.split_whitespace().filter_map(|id| id.parse().ok()).filter(is_follower);
    lasting.chain([process]).filter_map(of).sum()
}
