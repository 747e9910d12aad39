//! Replicas that the real Litestream wrote under load: what comes out is what its own restore
//! gives, and where that would be a wrong state, ours says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lifeboat_test_support::{installed, skipped};
use rusqlite::Connection;
use serde_json::Value;

use crate::s3_servers::{BUCKET, KEY, SECRET, Server};
use crate::support::World;

/// The program, where it is installed.
fn program() -> Option<PathBuf> {
    let program = installed("litestream/bin/litestream");
    if !program.exists() {
        skipped("Litestream is not installed; `cargo xtask test` installs it");
    }
    program.exists().then_some(program)
}

/// Levels in seconds instead of minutes, so that a short load has them all.
const LEVELS: &str = "levels:\n  - interval: 2s\n  - interval: 5s\n";

/// The same, with snapshots every few seconds, and nothing kept for longer than it must be.
const RETENTION: &str = "l0-retention: 2s\nl0-retention-check-interval: 1s\n\
    snapshot:\n  interval: 3s\n  retention: 4s\n";

struct Litestream {
    program: PathBuf,
    config: PathBuf,
}

impl Litestream {
    fn new(world: &World, replica: &str) -> Option<Litestream> {
        Litestream::keeping(world, replica, "")
    }

    fn keeping(world: &World, replica: &str, rule: &str) -> Option<Litestream> {
        let config = world.path("litestream.yml");
        let database = world.text("data/app.db");
        let text = format!("{LEVELS}{rule}dbs:\n  - path: {database}\n    replica:\n{replica}");
        fs::write(&config, text).unwrap();
        Some(Litestream { program: program()?, config })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("-config").arg(&self.config);
        command
            .env_remove("AWS_CA_BUNDLE")
            .env("LITESTREAM_ACCESS_KEY_ID", KEY)
            .env("LITESTREAM_SECRET_ACCESS_KEY", SECRET);
        command.stdin(Stdio::null());
        command
    }

    /// Follows while a writer writes, also through checkpoints and a VACUUM, until it is enough.
    fn follow(&self, database: &Path, enough: impl FnMut() -> bool) {
        let mut child = self.command(&["replicate"]).stdout(Stdio::null()).spawn().unwrap();
        write(database, enough);
        // Told to end, it writes what is left.
        end(&mut child);
    }

    /// What its own restore gives; `None` where it fails.
    fn restore(&self, world: &World, words: &[&str]) -> Option<Vec<u8>> {
        let to = world.path("theirs.db");
        let _ = fs::remove_file(&to);
        let mut command = self.command(&["restore", "-o", to.to_str().unwrap()]);
        let done = command.args(words).arg(world.path("data/app.db")).output().unwrap();
        done.status.success().then(|| fs::read(to).unwrap())
    }
}

fn end(child: &mut Child) {
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    child.wait().unwrap();
}

fn make(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let sql = "PRAGMA journal_mode = WAL;
               CREATE TABLE ticks(n INTEGER PRIMARY KEY, key TEXT UNIQUE, body TEXT)";
    connection.execute_batch(sql).unwrap();
}

/// Writes some hundred times, and on until it is enough.
fn write(path: &Path, mut enough: impl FnMut() -> bool) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    let begun = Instant::now();
    let mut n = 0;
    while n < 330 || !enough() {
        assert!(begun.elapsed() < Duration::from_secs(300), "never enough");
        n += 1;
        let sql = "INSERT INTO ticks(key, body) VALUES (hex(randomblob(12)), hex(randomblob(200)))";
        connection.execute_batch(sql).unwrap();
        let sql = "UPDATE ticks SET body = hex(randomblob(200)) WHERE n = abs(random()) % ?1";
        connection.execute(sql, [n + 1]).unwrap();
        match n {
            300 => connection.execute_batch("DELETE FROM ticks WHERE n < 200").unwrap(),
            320 => connection.execute_batch("VACUUM").unwrap(),
            _ => {}
        }
        sleep(Duration::from_millis(4));
    }
}

/// The states that a replica leads to: name and time of each.
fn states(world: &World, replica: &str) -> Vec<(String, String)> {
    let listed = world.run(&["list", replica, "--json"]).expect(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let states = listed["states"].as_array().unwrap().iter();
    states.map(|state| (text(&state["transaction"]), text(&state["at"]))).collect()
}

fn restored(world: &World, words: &[&str]) -> Vec<u8> {
    let _ = fs::remove_file(world.path("data/ours.db"));
    let mut all = vec!["restore"];
    all.extend(words);
    all.extend(["--to", "ours.db", "--yes"]);
    world.run(&all).expect(0);
    fs::read(world.path("data/ours.db")).unwrap()
}

/// Whether so many files of that level are in the replica in the world.
fn has(world: &World, level: u32, count: usize) -> bool {
    world.names(&format!("replica/ltx/{level}")).len() >= count
}

/// A replica in a folder that has so many files of that level.
fn replica(level: u32, count: usize) -> Option<(World, Litestream, String)> {
    let world = World::new();
    let database = world.path("data/app.db");
    make(&database);
    let replica = world.text("replica");
    let litestream =
        Litestream::new(&world, &format!("      type: file\n      path: {replica}\n"))?;
    litestream.follow(&database, || has(&world, 0, 4) && has(&world, level, count));
    Some((world, litestream, replica))
}

/// The newest state, one by its time and one by its transaction are what Litestream makes of them.
fn require_equal(world: &World, litestream: &Litestream, replica: &str) {
    let states = states(world, replica);
    assert!(states.len() >= 3, "{states:?}");
    assert!(restored(world, &[replica]) == litestream.restore(world, &[]).unwrap());
    let (transaction, at) = &states[states.len() / 2];
    let ours = restored(world, &[&format!("{replica}+{transaction}")]);
    let theirs = litestream.restore(world, &["-txid", transaction]).unwrap();
    assert!(ours == theirs, "{transaction}");
    assert!(restored(world, &[replica, "--at", at]) == ours, "{at}");
    world.run(&["verify", replica, "--level", "full"]).expect(0).says("sound");
    world.run(&["restore", replica, "--at", "2020-01-01", "--to", "x.db"]).expect(22);
    assert!(!world.path("data/x.db").exists());
    let listed = world.run(&["list", replica]).expect(0);
    assert!(listed.out.contains("states can be restored"), "{}", listed.out);
}

#[test]
fn what_litestream_wrote_comes_back_and_goes_on_as_ours() {
    let Some((world, litestream, replica)) = replica(2, 1) else { return };
    require_equal(&world, &litestream, &replica);
    // Taken over: each state is a position of our log.
    let database = world.text("data/app.db");
    world.repo(&["adopt", &replica]).expect(2).says("--source");
    let adopt = ["adopt", &replica, "--source", &database, "--json"];
    let adopted = world.repo(&adopt).expect(0).json();
    assert_eq!(adopted["outcome"], "adopted", "{adopted}");
    let position = adopted["position"].as_u64().unwrap();
    let base = adopted["backup"].as_str().unwrap();
    assert!(position >= 2, "{adopted}");
    let newest = litestream.restore(&world, &[]).unwrap();
    let back = |name: &str| {
        world.repo(&["restore", name, "--to", "back.db", "--yes"]).expect(0);
        fs::read(world.path("data/back.db")).unwrap()
    };
    assert!(back(&format!("{base}+{position}")) == newest);
    let oldest = &states(&world, &replica)[0].0;
    assert!(back(base) == restored(&world, &[&format!("{replica}+{oldest}")]));
    world.repo(&["verify", "app", "--level", "full"]).expect(0);
    world.repo(&adopt).expect(23).says("taken over before");
    write(&world.path("data/app.db"), || true);
    let added = world.repo(&["backup", &database, "--incremental", "--json"]).expect(0).json();
    assert_eq!(added[0]["outcome"], "incremented", "{added}");
    assert_eq!(added[0]["position"].as_u64(), Some(position + 1));
}

/// Snapshots were made, and old files removed: what is left is what can be restored.
#[test]
fn what_litestream_left_after_its_retention_comes_back() {
    let world = World::new();
    let database = world.path("data/app.db");
    make(&database);
    let replica = world.text("replica");
    let of_replica = format!("      type: file\n      path: {replica}\n");
    let Some(litestream) = Litestream::keeping(&world, &of_replica, RETENTION) else { return };
    // Snapshots, and whatever ended with its first transaction removed.
    let first = "0000000000000001-0000000000000001";
    litestream.follow(&database, || {
        let levels = (0..=9).flat_map(|level| world.names(&format!("replica/ltx/{level}")));
        has(&world, 9, 1)
            && has(&world, 0, 2)
            && !levels.into_iter().any(|name| name.starts_with(first))
    });
    let states = states(&world, &replica);
    assert!(!states.is_empty());
    assert!(restored(&world, &[&replica]) == litestream.restore(&world, &[]).unwrap());
    for (transaction, _) in &states {
        let theirs = litestream.restore(&world, &["-txid", transaction]).unwrap();
        assert!(
            restored(&world, &[&format!("{replica}+{transaction}")]) == theirs,
            "{transaction}"
        );
    }
    world.run(&["verify", &replica, "--level", "full"]).expect(0).says("sound");
    world.run(&["restore", &format!("{replica}+0000000000000001"), "--to", "x.db"]).expect(22);
    let adopt = ["adopt", &replica, "--source", &world.text("data/app.db"), "--json"];
    let adopted = world.repo(&adopt).expect(0).json();
    let name = match adopted["position"].as_u64() {
        Some(position) => format!("{}+{position}", adopted["backup"].as_str().unwrap()),
        None => adopted["backup"].as_str().unwrap().to_owned(),
    };
    world.repo(&["restore", &name, "--to", "ours.db", "--yes"]).expect(0);
    let ours = fs::read(world.path("data/ours.db")).unwrap();
    assert!(ours == litestream.restore(&world, &[]).unwrap());
}

#[test]
fn what_is_missing_or_damaged_is_refused_with_what_can_be_had() {
    let Some((world, litestream, replica)) = replica(0, 5) else { return };
    let levels = world.path("replica/ltx");
    // Only what was written first: then each file is needed.
    for level in fs::read_dir(&levels).unwrap().map(|entry| entry.unwrap().path()) {
        if !level.ends_with("0") {
            fs::remove_dir_all(level).unwrap();
        }
    }
    let names = world.names("replica/ltx/0");
    assert!(names.len() >= 4, "{names:?}");
    let middle = levels.join("0").join(&names[names.len() / 2]);
    let whole = fs::read(&middle).unwrap();
    let last = states(&world, &replica).pop().unwrap().1;

    let mut damaged = whole.clone();
    let at = whole.len() / 2;
    damaged[at] ^= 0x10;
    fs::write(&middle, damaged).unwrap();
    world.run(&["verify", &replica]).expect(20).says("damaged");
    let refused = world.run(&["restore", &replica, "--to", "x.db"]).expect(20);
    let hint = refused.err.split("lifeboat restore ").nth(1).unwrap().to_owned();
    let instead = hint.split_whitespace().next().unwrap();
    restored(&world, &[instead]);

    // Litestream's own restore to a time gives an older state here, with success.
    fs::remove_file(&middle).unwrap();
    world.run(&["verify", &replica]).expect(20).says("missing");
    for words in [vec![], vec!["--at", &last]] {
        let all = [vec!["restore", &replica, "--to", "x.db"], words].concat();
        let refused = world.run(&all).expect(22);
        let hint = refused.err.split("lifeboat restore ").nth(1).unwrap().to_owned();
        restored(&world, &[hint.split_whitespace().next().unwrap()]);
    }
    if let Some(theirs) = litestream.restore(&world, &["-timestamp", &last]) {
        assert!(theirs == fs::read(world.path("data/ours.db")).unwrap(), "an older state");
    }
    world.repo(&["adopt", &replica, "--source", &world.text("data/app.db")]).expect(22);
    assert!(!world.path("data/x.db").exists());
    fs::write(&middle, &whole[..whole.len() - 3]).unwrap();
    world.run(&["verify", &replica]).expect(20).says("cut short");
    fs::write(&middle, whole).unwrap();
    world.run(&["verify", &replica]).expect(0);
}

#[test]
fn a_leftover_wal_does_not_undo_a_restore_to_a_time() {
    let Some((world, _litestream, replica)) = replica(0, 4) else { return };
    let database = world.path("data/app.db");
    let states = states(&world, &replica);
    let at = &states[states.len() / 2];
    let wanted = restored(&world, &[&format!("{replica}+{}", at.0)]);
    // Litestream leaves the -wal; the database is lost, and comes back at its place.
    let writer = Connection::open(&database).unwrap();
    writer.execute_batch("DELETE FROM ticks; INSERT INTO ticks(key) VALUES ('ransom')").unwrap();
    let wal = fs::read(world.path("data/app.db-wal")).unwrap();
    drop(writer);
    fs::remove_file(&database).unwrap();
    fs::write(world.path("data/app.db-wal"), wal).unwrap();
    let words = ["restore", &replica, "--at", &at.1, "--to", "app.db", "--yes"];
    world.run(&words).expect(0);
    assert!(!world.path("data/app.db-wal").exists());
    assert!(fs::read(&database).unwrap() == wanted);
    let connection = Connection::open(&database).unwrap();
    let sql = "SELECT count(*) FROM ticks WHERE key = 'ransom'";
    let ransom: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(ransom, 0);
}

#[test]
fn replicas_in_buckets_are_read_too() {
    for server in [Server::s3s(), Server::moto()].into_iter().flatten() {
        let world = World::new();
        make(&world.path("data/app.db"));
        let endpoint = format!("http://{}", server.address);
        let replica = format!(
            "      type: s3\n      bucket: {BUCKET}\n      path: app\n      endpoint: {endpoint}\n      \
             region: us-east-1\n      force-path-style: true\n"
        );
        let Some(litestream) = Litestream::new(&world, &replica) else { return };
        let secret = world.path("home/secret");
        fs::write(&secret, SECRET).unwrap();
        crate::support::set_mode(&secret, 0o600);
        world.configure(&format!(
            "[repository.theirs]\nurl = \"s3://{BUCKET}/app\"\nendpoint = \"{endpoint}\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key = {{ file = \"{}\" }}\n",
            secret.display(),
        ));
        let replica = format!("s3://{BUCKET}/app");
        let mut asked = Instant::now();
        litestream.follow(&world.path("data/app.db"), || {
            let is_due = asked.elapsed() > Duration::from_secs(1);
            asked = if is_due { Instant::now() } else { asked };
            // Before the first state there is nothing to list.
            is_due && {
                let listed = world.run(&["list", &replica, "--json"]);
                listed.code == 0 && listed.json()["states"].as_array().unwrap().len() >= 4
            }
        });
        require_equal(&world, &litestream, &replica);
        // Taken over from there as from a folder.
        let database = world.text("data/app.db");
        let adopt = ["adopt", &replica, "--source", &database, "--json"];
        let adopted = world.repo(&adopt).expect(0).json();
        let (base, position) = (&adopted["backup"], &adopted["position"]);
        let state = format!("{}+{position}", base.as_str().unwrap());
        world.repo(&["restore", &state, "--to", "ours.db", "--yes"]).expect(0);
        let ours = fs::read(world.path("data/ours.db")).unwrap();
        assert!(ours == litestream.restore(&world, &[]).unwrap());
    }
}
