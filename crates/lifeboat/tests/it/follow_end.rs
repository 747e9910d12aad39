//! Who ends `lifeboat run` has what was committed before in the repository, or is told that it is
//! not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rusqlite::Connection;

use crate::follow::{hears_its_end, wait_for};
use crate::support::World;

/// A follower that looks once, and not again for long.
fn begin(world: &World, arguments: &[&str]) -> Child {
    let mut command = world.repo_command(&["run", "--interval", "1h"]);
    let log = fs::File::create(world.path("agent.log")).unwrap();
    command.args(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Ends it as a service manager does: what it said, and its exit code.
fn end_with(world: &World, mut agent: Child) -> (String, Option<i32>) {
    // SAFETY: a signal to a child of ours that was not waited for.
    unsafe { libc::kill(agent.id() as i32, libc::SIGTERM) };
    let code = agent.wait().unwrap().code();
    (said(world), code)
}

/// The same of one that ends well.
fn end(world: &World, agent: Child) -> String {
    let (said, code) = end_with(world, agent);
    assert_eq!(code, Some(0), "{said}");
    said
}

fn said(world: &World) -> String {
    fs::read_to_string(world.path("agent.log")).unwrap_or_default()
}

fn database(world: &World, name: &str, mode: &str) -> PathBuf {
    let path = world.path("data").join(name);
    let sql = format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(x)");
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    path
}

/// Inserts rows, and leaves the `-wal` as it is where there is one.
fn insert(path: &Path, rows: u32) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    for _ in 0..rows {
        connection.execute("INSERT INTO t VALUES(randomblob(100))", []).unwrap();
    }
    connection
}

fn count(world: &World, source: &str) -> i64 {
    let to = world.path("data/back.db");
    let _ = fs::remove_file(&to);
    world.repo(&["restore", source, "--to", "back.db", "--yes"]).expect(0);
    let connection = Connection::open(&to).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_was_committed_before_the_end_is_stored() {
    for arguments in [&[][..], &["--hurry-from", "0", "--pin-from", "0"]] {
        let world = World::new();
        let databases = [("wal", "WAL"), ("rollback", "DELETE"), ("still", "WAL")]
            .map(|(name, mode)| database(&world, &format!("{name}.db"), mode));
        let names = ["wal.db", "rollback.db", "still.db"];
        let agent = begin(&world, &[&names[..], arguments].concat());
        wait_for("following", || said(&world).matches("following").count() == names.len());
        let writers = [insert(&databases[0], 300), insert(&databases[1], 20)];
        let said = end(&world, agent);
        assert!(said.contains("ended: all that was committed until then is stored"), "{said}");
        drop(writers);
        assert_eq!(["wal", "rollback", "still"].map(|name| count(&world, name)), [300, 20, 0]);
    }
}

#[test]
fn what_could_not_be_stored_at_the_end_is_named() {
    let world = World::new();
    let path = database(&world, "app.db", "WAL");
    fs::write(world.path("data/broken.db"), "no database, whatever it is called").unwrap();
    let agent = begin(&world, &["app.db", "broken.db"]);
    wait_for("both", || {
        let said = said(&world);
        said.contains("following") && said.contains("`broken` is not followed")
    });
    let said = end(&world, agent);
    assert!(said.contains("committed last to `broken` may not be stored"), "{said}");

    let agent = begin(&world, &["app.db"]);
    wait_for("following", || self::said(&world).contains("following"));
    let writer = insert(&path, 1);
    let (there, away) = (world.path("repo"), world.path("away"));
    fs::rename(&there, &away).unwrap();
    fs::write(&there, "").unwrap();
    let (said, code) = end_with(&world, agent);
    assert!(code.is_some_and(|code| code != 0), "{code:?} {said}");
    assert!(said.contains("the last look at `app`"), "{said}");
    assert!(said.contains("committed last to `app` may not be stored"), "{said}");
    assert!(said.contains("lifeboat backup app"), "{said}");
    fs::remove_file(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    drop(writer);

    let agent = begin(&world, &["--follow"]);
    wait_for("it to hear signals", || hears_its_end(agent.id()));
    assert!(end(&world, agent).contains("ended: nothing was followed"));
}
