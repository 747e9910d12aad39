//! `lifeboat run` as one process for all that is scheduled: what it runs, what it survives, and
//! what it tells the service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

use serde_json::Value;

use crate::follow::wait_for;
use crate::postgres_server::Server;
use crate::support::{World, mode};

/// The whole agent, with a service manager that listens.
struct Agent {
    child: Child,
    told: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
}

impl Agent {
    /// Begins it at that moment, or now.
    fn start(world: &World, at: Option<&str>) -> Agent {
        let socket = world.path("notify");
        let _ = fs::remove_file(&socket);
        let listener = UnixDatagram::bind(&socket).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = listener.recv(&mut buffer) {
                heard.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
        });
        let mut command = world.command(&["run", "--verbose", "--interval", "100ms"]);
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000");
        if let Some(at) = at {
            command.env("LIFEBOAT_CLOCK_AT", at);
        }
        let log = world.path("agent.log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let agent = Agent { child, told, log };
        agent.wait("READY=1", || agent.heard("READY=1") > 0);
        agent
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn heard(&self, text: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|told| told.contains(text)).count()
    }

    #[track_caller]
    fn wait(&self, what: &str, holds: impl FnMut() -> bool) {
        let (log, what) = (self.log.clone(), what.to_owned());
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(&what, holds)));
        assert!(result.is_ok(), "{what}\n{}", fs::read_to_string(log).unwrap_or_default());
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child of ours that was not waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    fn end(&mut self) -> i32 {
        self.signal(libc::SIGTERM);
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn backups(world: &World, source: &str) -> usize {
    let names = world.names(&format!("repo/{source}"));
    names.iter().filter(|name| name.ends_with(".json") && name.starts_with(source)).count()
}

fn state(world: &World) -> Value {
    let bytes = fs::read(world.path("state/lifeboat/agent/state.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

/// A good source, one whose file is not there, and one whose hook fails.
fn configured(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n\
         [source.good]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
         random_delay = \"0s\"\n\
         [source.gone]\nsqlite = \"$DATA/gone.db\"\nschedule = \"* * * * *\"\nrandom_delay = \"0s\"\n\
         [source.wrong]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
         random_delay = \"0s\"\nhooks = {{ before = \"exit 7\" }}\n{more}"
    ));
    fs::write(world.path("data/good.txt"), "good").unwrap();
}

#[test]
fn what_is_scheduled_runs_and_what_fails_keeps_nobody_waiting() {
    let world = World::new();
    configured(&world, "");
    // A second before a full minute.
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:58Z"));
    agent.wait("the backup", || backups(&world, "good") == 1);
    agent.wait("its end", || state(&world)["runs"]["backup-good"]["outcome"] == "done");
    agent.wait("failures", || {
        let said = agent.said();
        said.contains("backup-gone: tried again in") && said.contains("backup-wrong: failed after")
    });
    let said = agent.said();
    assert!(said.contains("backup-gone: failed after") && said.contains("gone.db"), "{said}");
    // What a hook says is no reason to try again.
    assert!(!said.contains("backup-wrong: tried again"), "{said}");
    agent.wait("its status", || agent.heard("failed last: backup-gone") > 0);
    agent.wait("the watchdog", || agent.heard("WATCHDOG=1") > 1);
    assert_eq!(agent.end(), 0, "{}", agent.said());
    agent.wait("the end to be told", || agent.heard("STOPPING=1") == 1);
    assert!(agent.heard("next backup-") > 0);
    assert_eq!(mode(&world.path("state/lifeboat/agent/state.json")), 0o600);
    assert_eq!(mode(&world.path("state/lifeboat/agent")), 0o700);
}

#[test]
fn what_was_missed_is_caught_up_once_after_a_restart() {
    let world = World::new();
    configured(&world, "");
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:01Z"));
    // A second agent for the same state has no place beside it.
    world.run(&["run"]).expect(11).says("another `lifeboat run`");
    assert_eq!(agent.end(), 0);
    assert_eq!(backups(&world, "good"), 0);
    let mut later = Agent::start(&world, Some("2026-03-05T10:00:05Z"));
    later.wait("what was missed", || state(&world)["runs"]["backup-good"]["outcome"] == "done");
    assert!(later.said().contains("backup-good: begins, 2 d"), "{}", later.said());
    assert_eq!(later.end(), 0);
    assert_eq!(backups(&world, "good"), 1, "three days are one backup");
}

/// Whatever becomes of its process, the schedule goes on: here the kernel kills it at each backup.
#[test]
fn killed_in_the_middle_it_begins_that_run_again() {
    let world = World::new();
    configured(
        &world,
        "[source.slow]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
        random_delay = \"0s\"\nhooks = { before = \"touch $DATA/begun; exec sleep 60\" }\n",
    );
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:58Z"));
    agent.wait("the slow one", || world.path("data/begun").exists());
    agent.wait("the good one", || state(&world)["runs"]["backup-good"]["outcome"] == "done");
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    // Its children end with it: the lock of the agent and of the source are free.
    let configured = fs::read_to_string(world.path("home/config/lifeboat/config.toml")).unwrap();
    let configured = configured.replace("exec sleep 60", "true");
    fs::write(world.path("home/config/lifeboat/config.toml"), configured).unwrap();
    let mut again = Agent::start(&world, Some("2026-03-02T10:01:05Z"));
    again.wait("the slow one", || state(&world)["runs"]["backup-slow"]["outcome"] == "done");
    assert_eq!(again.end(), 0);
    assert_eq!((backups(&world, "slow"), backups(&world, "good")), (1, 1));
}

#[test]
fn a_configuration_that_is_wrong_is_not_taken() {
    let world = World::new();
    configured(&world, "");
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:01Z"));
    let path = world.path("home/config/lifeboat/config.toml");
    let right = fs::read_to_string(&path).unwrap();
    fs::write(&path, right.replace("schedule = \"* * * * *\"", "schedule = \"sometimes\""))
        .unwrap();
    agent.signal(libc::SIGHUP);
    agent.wait("the refusal", || agent.said().contains("the one before holds"));
    agent.wait("to be ready again", || agent.heard("READY=1") == 2);
    assert_eq!(agent.heard("RELOADING=1\nMONOTONIC_USEC="), 1);
    fs::write(&path, right.replace("source.good", "source.better")).unwrap();
    agent.signal(libc::SIGHUP);
    agent.wait("the other schedule", || agent.heard("READY=1") == 3);
    agent.wait("its next job", || agent.heard("next backup-better") > 0);
    assert_eq!(agent.end(), 0);
}

/// Runs may go on for the time that the configuration gives them; then they are asked to end, and
/// leave nothing.
#[test]
fn an_end_lets_runs_end() {
    let world = World::new();
    let slow = |seconds: u32| {
        format!(
            "[source.slow]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
             random_delay = \"0s\"\nhooks = {{ before = \"touch $DATA/begun; exec sleep {seconds}\" }}\n"
        )
    };
    configured(&world, &slow(3));
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:58Z"));
    agent.wait("the slow one", || world.path("data/begun").exists());
    assert_eq!(agent.end(), 0);
    assert!(!agent.said().contains("\nerror: "), "{}", agent.said());
    assert_eq!(backups(&world, "slow"), 1, "{}", agent.said());

    fs::remove_file(world.path("data/begun")).unwrap();
    // Alone: on a slow host others would be cut off beside it.
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n{}[agent]\ndrain = \"1s\"\n",
        slow(600)
    ));
    let mut agent = Agent::start(&world, Some("2026-03-02T10:01:58Z"));
    agent.wait("the slow one", || world.path("data/begun").exists());
    // What was cut off is no regular end.
    assert_eq!(agent.end(), 143);
    assert!(agent.said().contains("backup-slow: asked to end"), "{}", agent.said());
    assert!(agent.said().contains("ended before 1 runs were done"), "{}", agent.said());
    assert_eq!(backups(&world, "slow"), 1, "{}", agent.said());
}

#[test]
fn databases_are_followed_beside_the_schedules_and_again_after_a_fault() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.main]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"daily 02:00\"\n",
    );
    let mut agent = Agent::start(&world, None);
    agent.wait("the follower", || agent.said().contains("following app in"));
    // A watch may just be running, too.
    let is_follower = |id: &u32| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("--follow")
    };
    let children = children_of(agent.child.id()).into_iter();
    let follower: Vec<u32> = children.filter(is_follower).collect();
    assert_eq!(follower.len(), 1, "{follower:?}");
    // SAFETY: a signal to a process that this test began, by way of the agent.
    unsafe { libc::kill(follower[0] as i32, libc::SIGKILL) };
    agent.wait("another one", || agent.said().matches("following app in").count() == 2);
    assert!(agent.said().contains("follow: it ended (signal: 9"), "{}", agent.said());
    assert_eq!(agent.end(), 0);
    sleep(Duration::from_millis(50));
    assert!(agent.said().contains("ending"), "{}", agent.said());
}

#[test]
fn the_log_of_a_cluster_is_received_beside_the_schedules() {
    let server = Server::new(15);
    let world = World::new();
    world.configure(&format!(
        "[repository.main]\nurl = \"file://$REPO\"\n[source.main.postgres]\nphysical = true\n\
         receive = true\nurl = \"{}\"\n",
        server.url("postgres")
    ));
    let mut agent = Agent::start(&world, None);
    agent.wait("its slot", || {
        !server.ask("postgres", "SELECT 1 FROM pg_replication_slots WHERE active").is_empty()
    });
    let lasting = world.run(&["agent", "status"]).expect(0).out;
    assert!(lasting.contains("all the time: receive-main runs"), "{lasting}");
    server.sql("postgres", "CREATE TABLE public.t(x int); SELECT pg_switch_wal()");
    agent.wait("the segment", || {
        let Some(system) = world.names("repo/main/wal").into_iter().next() else { return false };
        let segments = world.names(&format!("repo/main/wal/{system}/00000001"));
        segments.iter().any(|name| name.len() == "000000010000000000000001.zst".len())
    });
    assert_eq!(agent.end(), 0, "{}", agent.said());
    assert!(agent.said().contains("kept by the slot"), "{}", agent.said());
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap();
    text.split_ascii_whitespace().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn the_agent_needs_a_configuration_and_takes_no_repository() {
    let world = World::new();
    configured(&world, "");
    world.run(&["--repo", "main", "run"]).expect(2).says("--repo has no meaning");
    configured(&world, "[agent]\nat_once = 0\n");
    world.run(&["run"]).expect(2).says("at_once").says("no backup would ever run");
    configured(&world, "[agent]\nhang = \"1s\"\n");
    world.run(&["run"]).expect(2).says("hang");
}

/// A run that does nothing is ended and tried again; one that takes too long by its own limit ends
/// by itself; and meanwhile everybody else has their turn.
#[test]
fn what_hangs_is_ended_and_tried_again_and_starves_no_other() {
    let world = World::new();
    let hook = "echo begun >> $DATA/hangs; exec sleep 600";
    configured(
        &world,
        &format!(
            "[source.hangs]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
             random_delay = \"0s\"\nhooks = {{ before = \"{hook}\" }}\n\
             [source.limited]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
             random_delay = \"0s\"\ntime_limit = \"2s\"\nhooks = {{ before = \"exec sleep 601\" }}\n\
             [agent]\nat_once = 3\nhang = \"15s\"\nretry = {{ times = 1, delay = \"1s\" }}\n"
        ),
    );
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:58Z"));
    agent.wait("the good one", || state(&world)["runs"]["backup-good"]["outcome"] == "done");
    agent.wait("the limit", || agent.said().contains("backup-limited: failed after"));
    assert!(!agent.said().contains("backup-limited: asked to end"), "{}", agent.said());
    agent.wait("the end of what hangs", || {
        agent.said().contains("backup-hangs: asked to end: it did nothing for 15.0 s")
    });
    let begun = || fs::read_to_string(world.path("data/hangs")).unwrap_or_default().lines().count();
    agent.wait("another attempt", || begun() == 2);
    assert!(agent.said().contains("backup-hangs: tried again in"), "{}", agent.said());
    assert!(backups(&world, "good") >= 1, "{}", agent.said());
    agent.end();
    // The hook of a run that was ended ends with it.
    let others =
        std::process::Command::new("pgrep").args(["-fx", "sleep 60[01]"]).output().unwrap();
    let cwd = |id: &str| fs::read_link(format!("/proc/{id}/cwd")).ok();
    let ours = fs::canonicalize(world.path("data")).unwrap();
    let left = String::from_utf8_lossy(&others.stdout).into_owned();
    let mut left = left.split_whitespace().filter_map(cwd);
    assert!(!left.any(|folder| folder.starts_with(&ours)), "{}", agent.said());
}

/// One that does not even hear that it is to end, as where a disk is gone, is killed.
#[test]
fn what_does_not_end_is_killed_and_begun_again() {
    if std::env::var_os("LIFEBOAT_LONG_TESTS").is_none() {
        return;
    }
    let world = World::new();
    let slow = "touch $DATA/begun; exec sleep 600";
    configured(
        &world,
        &format!(
            "[source.stuck]\nfiles = [\"$DATA/good.txt\"]\nschedule = \"* * * * *\"\n\
             random_delay = \"0s\"\nhooks = {{ before = \"{slow}\" }}\n\
             [agent]\nhang = \"5s\"\nretry = {{ times = 2, delay = \"1s\" }}\n"
        ),
    );
    let mut agent = Agent::start(&world, Some("2026-03-02T10:00:58Z"));
    agent.wait("the stuck one", || world.path("data/begun").exists());
    let is_stuck = |id: &u32| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("stuck")
    };
    let stuck = children_of(agent.child.id()).into_iter().find(is_stuck).unwrap();
    // SAFETY: a signal to a process that this test began, by way of the agent.
    unsafe { libc::kill(stuck as i32, libc::SIGSTOP) };
    agent.wait("the question", || agent.said().contains("backup-stuck: asked to end"));
    sleep(Duration::from_secs(62));
    agent.wait("the end", || agent.said().contains("backup-stuck: killed"));
    agent.wait("its failure", || agent.said().contains("backup-stuck: failed after"));
    agent.wait("another attempt", || agent.said().contains("backup-stuck: tried again"));
    agent.end();
}

/// What breaks a promise is told by the agent itself, without anybody who asks.
#[test]
fn broken_promises_are_told_by_the_agent() {
    let world = World::new();
    world.configure(
        "host = \"db1\"\n[repository.main]\nurl = \"file://$REPO\"\n\
         [source.good]\nfiles = [\"$DATA/good.txt\"]\nrpo = \"1h\"\n\
         [agent]\nwatch = \"* * * * *\"\n\
         [notify.ops]\nwebhook = \"http://127.0.0.1:9/nobody\"\ntimeout = \"1s\"\n",
    );
    fs::write(world.path("data/good.txt"), "good").unwrap();
    world.run(&["backup"]).expect(0);
    let mut agent = Agent::start(&world, Some("2099-03-02T10:00:59Z"));
    let told = || -> Value {
        let bytes = fs::read(world.path("state/lifeboat/notify/state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    };
    agent.wait("what is told", || told()["outbox"][0]["message"]["title"] == "good: stale on db1");
    agent.wait("the end of the watch", || state(&world)["runs"]["watch"]["outcome"] == "done");
    assert_eq!(agent.end(), 0, "{}", agent.said());
    // Nobody took it: that is said, it waits, and metrics have it.
    let metrics = world.run(&["status", "--format", "prometheus"]).expect(0).out;
    for name in ["lifeboat_notify_waiting", "lifeboat_notify_failures_total"] {
        let begin = format!("{name}{{notifier=\"ops\"}} ");
        let line = metrics.lines().find(|line| line.starts_with(&begin)).unwrap();
        assert!(line[begin.len()..].parse::<u32>().unwrap() >= 1, "{line}");
    }
}
