//! Logs in buckets and on hosts that are reached by SSH, also when these are slow, or gone for a
//! while: then what was committed meanwhile comes later, and the application does not notice.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::follow::{Agent, Writer, make, now_ms, prefix, wait_for};
use crate::proxy::{Fault, Proxy};
use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
use crate::sshd::Sshd;
use crate::support::World;

/// What the way to a store does.
const FINE: u64 = 0;
const SLOW: u64 = 1;
const GONE: u64 = 2;

/// A world whose repository is in a bucket behind that address.
pub(crate) fn in_bucket(endpoint: &str) -> World {
    let world = World::new();
    let secret = world.path("home/secret");
    fs::write(&secret, SECRET).unwrap();
    assert!(Command::new("chmod").arg("600").arg(&secret).status().unwrap().success());
    world.configure(&format!(
        "[repository.far]\nurl = \"s3://{BUCKET}/chat\"\nendpoint = \"{endpoint}\"\n\
         access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"{}\" }}\ntimeout = \"10s\"\n\
         [source.app]\nsqlite = \"{}\"\n",
        secret.display(),
        world.text("data/app.db"),
    ));
    world
}

/// A world whose repository is on a host that is reached by SSH.
pub(crate) fn by_ssh(server: &Sshd) -> World {
    let world = World::new();
    world.configure(&format!(
        "[repository.far]\nurl = \"sftp://backup-host{}\"\nssh_config = \"{}\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n",
        server.path("lifeboat").display(),
        server.client_config().display(),
    ));
    world
}

/// The position at the end of the log, where there is one.
fn position(world: &World) -> Option<u64> {
    let listed = world.run(&["list", "app", "--json"]);
    if listed.code != 0 {
        return None;
    }
    listed.json().as_array()?.last()?["log"]["position"].as_u64()
}

fn restored(world: &World, arguments: &[&str]) -> usize {
    let all = ["restore", "app", "--to", "back.db", "--yes"];
    world.run(&[&all[..], arguments].concat()).expect(0);
    prefix(&world.path("data/back.db"))
}

/// A standby as another host has it, which knows nothing but the store; and somebody who reads it
/// all the time, and sees a state of the writer's at each look.
struct Elsewhere {
    follower: Child,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<usize>>,
}

impl Elsewhere {
    fn begin(world: &World) -> Elsewhere {
        let words = ["restore", "app", "--to", "standby.db", "--follow", "--interval", "50ms"];
        let mut command = world.command(&words);
        command.env("XDG_STATE_HOME", world.path("another-host"));
        let follower = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let path = world.path("data/standby.db");
        wait_for("the standby", || path.exists());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.push(prefix(&path));
                sleep(Duration::from_millis(10));
            }
            seen
        });
        Elsewhere { follower, stop, reader }
    }

    /// Requires that it comes to that, and saw more than the beginning and the end.
    fn end(mut self, world: &World, committed: usize) {
        let path = world.path("data/standby.db");
        wait_for("the last state in the standby", || prefix(&path) == committed);
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = self.reader.join().unwrap();
        self.follower.kill().unwrap();
        self.follower.wait().unwrap();
        assert!(seen.is_sorted(), "{seen:?}");
        seen.dedup();
        assert!(seen.len() >= 3, "{seen:?}");
    }
}

/// Follows a writer into a store, that store being in trouble for a while, and goes back.
fn follow(world: &World, mut trouble: impl FnMut(u64)) {
    let path = world.path("data/app.db");
    make(&path, "WAL");
    // At once, and by the way.
    world.run(&["run", "--once"]).expect(0);
    let agent = Agent::configured(world, &["--pin-from", "0"]);
    let first = position(world).unwrap();
    let elsewhere = Elsewhere::begin(world);
    let writer = Writer::start(&path, Duration::from_millis(2), false);
    wait_for("a state", || position(world) > Some(first + 3));
    let middle_ms = now_ms();
    sleep(Duration::from_millis(500));
    let mut wal_bytes = 0;
    for state in [SLOW, GONE] {
        trouble(state);
        for _ in 0..25 {
            sleep(Duration::from_millis(100));
            wal_bytes = wal_bytes.max(fs::metadata(world.path("data/app.db-wal")).unwrap().len());
        }
    }
    trouble(FINE);
    let before = position(world).unwrap_or(0);
    wait_for("a state after that", || position(world) > Some(before));
    // It wrote all the time: an error or a busy database would have ended it.
    let committed = writer.end();
    wait_for("the last state", || restored(world, &[]) == committed.len());
    agent.terminate();
    elsewhere.end(world, committed.len());
    assert!(wal_bytes < 64 << 20, "the -wal had {wal_bytes} bytes");
    let at = jiff::Timestamp::from_millisecond(middle_ms).unwrap().to_string();
    let shown = restored(world, &["--at", &at]);
    // A commit may be seen before its writer has noted it.
    let noted = committed.iter().filter(|at_ms| **at_ms <= middle_ms).count();
    assert!(shown > 0 && shown <= noted + 1, "{shown} of {noted}");
    // Two seconds, on a machine that does nothing else.
    assert!(committed[shown] > middle_ms - 60_000, "nothing near the moment");
    world.run(&["verify", "--level", "quick"]).expect(0);
    world.run(&["status"]).expect(0);
}

#[test]
fn a_log_in_a_bucket_that_is_slow_and_then_gone_for_a_while() {
    let Some(server) = Server::s3s() else { return };
    let way = Arc::new(AtomicU64::new(FINE));
    let of_proxy = Arc::clone(&way);
    let proxy = Proxy::before(server.address, move |_| match of_proxy.load(Ordering::Relaxed) {
        SLOW => Fault::SlowDown(150),
        GONE => Fault::ResetUp(0),
        _ => Fault::None,
    });
    let world = in_bucket(&format!("http://{}", proxy.address));
    follow(&world, |state| way.store(state, Ordering::Relaxed));
}

#[test]
fn a_log_on_a_host_by_ssh_whose_sessions_are_cut_and_that_is_gone_for_a_while() {
    let Some(mut server) = Sshd::start("a_log_on_a_host_by_ssh", "") else { return };
    let world = by_ssh(&server);
    follow(&world, |state| match state {
        SLOW => {
            server.cut_sessions();
        }
        GONE => server.stop(),
        _ => server.restart(),
    });
}

#[test]
fn increments_and_looks_go_to_other_servers_that_speak_s3() {
    for server in [Server::moto(), Server::rclone()].into_iter().flatten() {
        let world = in_bucket(&format!("http://{}", server.address));
        let path = world.path("data/app.db");
        make(&path, "WAL");
        world.run(&["run", "--once"]).expect(0);
        let writer = Writer::start(&path, Duration::from_millis(5), false);
        sleep(Duration::from_millis(100));
        let committed = writer.end().len();
        world.run(&["run", "--once"]).expect(0);
        assert_eq!(restored(&world, &[]), committed);
        world.run(&["backup", "--incremental"]).expect(0);
        world.run(&["verify", "--level", "full"]).expect(0);
    }
}
