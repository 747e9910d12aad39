//! The archive and restore commands of real servers: under load, killed, cut off from their
//! repository, on a full disk, promoted.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::{Cluster, Yard, program};
use crate::cluster_restore::lifeboat_as_we_are;
use crate::postgres_server::{majors, skipped};

/// Everything that `pgbench` wrote.
const FINGERPRINT: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pgbench_history), \
    (SELECT sum(delta) FROM pgbench_history)";

/// Ends the segment, and waits until it is archived.
fn archive_all(cluster: &mut Cluster<'_>, port: u16) -> String {
    let last = cluster.ask(port, "SELECT pg_walfile_name(pg_switch_wal())");
    let done = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    cluster.wait_until(port, &done);
    last
}

/// Makes of a copy what recovers from the archive, up to where that ends.
fn recover(copy: &Cluster<'_>, more: &[&str]) {
    fs::write(copy.data.join("recovery.signal"), "").unwrap();
    let program = program().display();
    copy.set(&[&format!("restore_command = '{program} wal fetch %f %p'")]);
    copy.set(more);
}

/// Kills every helper of a cluster as a power cut would.
fn kill_helpers(cluster: &Cluster<'_>) -> usize {
    let data = cluster.data.to_str().unwrap();
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("wal helper") && line.contains(data) {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).output();
            killed += 1;
        }
    }
    killed
}

/// Names of segments of one timeline with nothing missing between them.
#[track_caller]
fn assert_no_gap(segments: &[String], per_high: u64) {
    let number = |name: &String| {
        let part = |range: std::ops::Range<usize>| u64::from_str_radix(&name[range], 16).unwrap();
        part(8..16) * per_high + part(16..24)
    };
    let numbers: Vec<u64> = segments.iter().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{segments:?}");
}

#[test]
fn a_server_killed_under_load_loses_nothing() {
    for major in majors() {
        let yard = Yard::new();
        yard.configure_main(&["one", "two"]);
        let mut cluster = Cluster::new(&yard, *major, "data", &["--wal-segsize=1"]);
        cluster.archive("");
        cluster.up(5432);
        assert!(cluster.pgbench(5432, &["-i", "-q", "-s", "2"]).wait().unwrap().success());
        let copy = cluster.copy(5432, "copy");
        let mut killed = 0;
        for _ in 0..2 {
            let mut load = cluster.pgbench(5432, &["-n", "-c", "2", "-T", "60"]);
            std::thread::sleep(Duration::from_millis(1_200));
            for _ in 0..1_000 {
                killed += kill_helpers(&cluster);
                if killed > 0 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // The server ends all its sessions for it, and recovers.
            cluster.kill_one(5432, "archiver");
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill();
            killed += kill_helpers(&cluster);
            load.kill().unwrap();
            load.wait().unwrap();
            cluster.up(5432);
        }
        assert!(killed > 0, "no helper was ever at work");
        cluster.ask(5432, "INSERT INTO pgbench_history(tid, bid, aid, delta) VALUES (0, 0, 0, 7)");
        archive_all(&mut cluster, 5432);
        let wanted = cluster.ask(5432, FINGERPRINT);
        cluster.stop();
        for repository in ["one", "two"] {
            let segments = yard.segments(repository);
            assert!(segments.len() > 10, "{segments:?}");
            assert_no_gap(&segments, 4096);
        }
        // An outage ends no recovery.
        recover(&copy, &["archive_command = 'false'"]);
        let (one, aside) = (yard.path("one"), yard.path("aside"));
        fs::rename(yard.path("two"), yard.path("two-aside")).unwrap();
        fs::rename(&one, &aside).unwrap();
        let mut restored = copy;
        restored.start(5433);
        restored.wait_for_end();
        assert!(restored.log(5433).contains("could not restore file"), "{}", restored.log(5433));
        fs::rename(&aside, &one).unwrap();
        fs::rename(yard.path("two-aside"), yard.path("two")).unwrap();
        restored.up(5433);
        restored.wait_until(5433, "SELECT NOT pg_is_in_recovery()");
        assert_eq!(restored.ask(5433, FINGERPRINT), wanted, "{major}");
        // Promoted, it goes on in the same archive under a timeline of its own.
        restored.ask(5433, "INSERT INTO pgbench_history(tid, bid, aid, delta) VALUES (1, 0, 0, 9)");
        restored.archive("");
        restored.ask(5433, "SELECT pg_reload_conf()");
        archive_all(&mut restored, 5433);
        restored.stop();
        let log = yard.log("one");
        assert!(log.iter().any(|name| name.ends_with("/00000002/00000002.history")), "{log:?}");
        assert!(log.iter().any(|name| name.contains("/00000002/000000020000")), "{log:?}");
    }
}

#[test]
fn what_cannot_be_archived_stays_and_is_caught_up() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let mut cluster = Cluster::new(&yard, 15, "data", &["--wal-segsize=1"]);
    cluster.archive("");
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(x text)");
    archive_all(&mut cluster, 5432);
    let archiver = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'";
    let before = cluster.ask(5432, archiver);
    let (one, aside) = (yard.path("one"), yard.path("aside"));
    fs::rename(&one, &aside).unwrap();
    fs::write(&one, "not a repository").unwrap();
    let mut last = String::new();
    for _ in 0..8 {
        cluster.ask(5432, "INSERT INTO t SELECT md5(i::text) FROM generate_series(1, 500) AS i");
        last = cluster.ask(5432, "SELECT pg_walfile_name(pg_switch_wal())");
    }
    cluster.wait_until(5432, "SELECT failed_count > 0 FROM pg_stat_archiver");
    assert_eq!(cluster.ask(5432, archiver), before, "the archiver itself was ended");
    fs::remove_file(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    // Without waiting for the archiver's next attempt.
    cluster.ask(5432, "SELECT pg_reload_conf()");
    cluster
        .wait_until(5432, &format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"));
    let segments = yard.segments("one");
    assert!(segments.len() >= 8, "{segments:?}");
    assert_no_gap(&segments, 4096);
    cluster.stop();
}

/// A small file system that only one process has mounted, through which everybody reaches it.
struct SmallDisk {
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// One in a folder of the yard, for the server's user. `None` where nothing can be mounted.
    fn new(yard: &Yard, size: &str) -> Option<SmallDisk> {
        fs::create_dir(yard.path("small")).unwrap();
        let script = "mount -t tmpfs -o size=$1,mode=777 tmpfs $2 && echo mounted && \
                      exec setpriv --reuid=postgres --regid=postgres --clear-groups sleep 900";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", size]);
        let spawned = command.arg(yard.path("small")).stdout(Stdio::piped()).spawn();
        let mut holder = spawned.unwrap();
        let mut said = [0; 8];
        let is_mounted = holder.stdout.take().unwrap().read_exact(&mut said).is_ok();
        let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
        let small = yard.path("small");
        let path = root.join(small.strip_prefix("/").unwrap());
        let disk = SmallDisk { holder, path };
        if !is_mounted {
            skipped("a server on a full disk: no file system can be mounted here");
            return None;
        }
        // Until then it is still root's, and nobody else may look through it.
        for _ in 0..6_000 {
            let mut look = yard.command(Path::new("ls"));
            if look.arg(&disk.path).output().unwrap().status.success() {
                return Some(disk);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} cannot be reached", disk.path.display());
    }

    fn resize(&self, yard: &Yard, size: &str) {
        let holder = self.holder.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &holder, "-m", "mount", "-o", &format!("remount,size={size}")]);
        assert!(command.arg(yard.path("small")).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Server, log and our own state on one disk, which fills while the repository is away.
#[test]
fn a_server_whose_disk_filled_while_nothing_was_archived_loses_nothing() {
    let yard = Yard::new();
    yard.configure_main(&["one"]);
    let Some(disk) = SmallDisk::new(&yard, "100m") else { return };
    let (data, state) = (disk.path.join("data"), disk.path.join("state"));
    fs::create_dir(&state).unwrap();
    crate::support::set_mode(&state, 0o777);
    fs::remove_dir(yard.path("state")).unwrap();
    std::os::unix::fs::symlink(&state, yard.path("state")).unwrap();
    let name = data.to_str().unwrap();
    let mut cluster = Cluster::new(&yard, 15, name, &["--wal-segsize=1"]);
    cluster.archive("");
    cluster.set(&["max_wal_size = 1GB", "min_wal_size = 2MB", "checkpoint_timeout = 1h"]);
    cluster.up(5432);
    cluster.ask(5432, "CREATE TABLE t(n int, x text)");
    yard.lifeboat_in(&data, &["backup", "main"]).expect(0);
    archive_all(&mut cluster, 5432);
    let (one, aside) = (yard.path("one"), yard.path("aside"));
    fs::rename(&one, &aside).unwrap();
    fs::write(&one, "not a repository").unwrap();
    let mut written = 0;
    let insert = |number: u32| {
        format!("INSERT INTO t SELECT {number}, md5(g::text) FROM generate_series(1, 6000) g")
    };
    while cluster.psql(5432, &insert(written)).status.success() {
        written += 1;
        assert!(written < 500, "the disk never fills");
    }
    // Somebody writes into the last bytes of it.
    let _ = fs::write(disk.path.join("rest"), vec![1; 16 << 20]);
    fs::remove_file(&one).unwrap();
    fs::rename(&aside, &one).unwrap();
    // A segment that waits can be pushed all the same: then its server can let go of it.
    let waiting = fs::read_dir(data.join("pg_wal/archive_status")).unwrap().flatten();
    let mut waiting: Vec<String> =
        waiting.map(|entry| entry.file_name().into_string().unwrap()).collect();
    waiting.retain(|name| name.ends_with(".ready"));
    waiting.sort();
    assert!(waiting.len() > 5, "{waiting:?}");
    let first = waiting[0].trim_end_matches(".ready");
    yard.lifeboat_in(&data, &["wal", "push", &format!("pg_wal/{first}")]).expect(0);
    cluster.kill();
    disk.resize(&yard, "300m");
    cluster.up(5432);
    // Not that of the transaction that met the end of the disk.
    assert_eq!(cluster.ask(5432, "SELECT count(DISTINCT n) FROM t"), written.to_string());
    let wanted = cluster.ask(5432, "SELECT count(*), max(n) FROM t");
    archive_all(&mut cluster, 5432);
    cluster.stop();
    assert_no_gap(&yard.segments("one"), 4096);
    let to = yard.path("restored");
    lifeboat_as_we_are(&yard, &["restore", "main", "--to", to.to_str().unwrap()]).expect(0);
    let mut restored = Cluster::at(&yard, 15, "restored");
    restored.set(&["archive_mode = off"]);
    restored.up(5433);
    assert_eq!(restored.ask(5433, "SELECT count(*), max(n) FROM t"), wanted);
}
