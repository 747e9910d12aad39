//! Repositories elsewhere: on a host that is reached by SSH.

use std::fs;

use rusqlite::Connection;

use crate::sshd::Sshd;
use crate::support::{World, add_rows, content, rows};

/// A configuration with one database, in a repository on the server.
fn configure(world: &World, server: &Sshd, more: &str) {
    world.configure(&format!(
        "[repository.offsite]\nurl = \"sftp://backup-host{}\"\nssh_config = \"{}\"\n{more}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/host_key\"]\n",
        server.path("lifeboat").display(),
        server.client_config().display(),
    ));
    fs::write(world.path("data/host_key"), b"secret").unwrap();
}

#[test]
fn a_database_goes_to_a_host_by_ssh_and_comes_back() {
    let Some(server) = Sshd::start("a_database_goes_to_a_host_by_ssh", "") else { return };
    let world = World::new();
    let path = world.database("app.db", 3_000);
    configure(&world, &server, "keep = { last = 1 }");
    world.run(&["config", "check", "--online"]).expect(0);
    world.run(&["backup", "app"]).expect(0);
    let before = content(&path);
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 10_000, 5);
    connection.close().unwrap();
    world.run(&["backup", "app"]).expect(0);
    assert_eq!(world.run(&["list", "app"]).expect(0).out.lines().count(), 3);
    world.run(&["verify", "--level", "full"]).expect(0);
    world.run(&["status"]).expect(0);
    let found = world.run(&["doctor"]).out;
    assert!(found.contains("writable, 2 backups"), "{found}");
    world.run(&["prune", "--dry-run"]).expect(0);
    world.run(&["pin", "app@latest", "--reason", "a test"]).expect(0);
    fs::remove_file(&path).unwrap();
    world.run(&["restore", "app", "--yes"]).expect(0);
    assert_eq!(rows(&path), 3_005);
    assert!(content(&path).starts_with(&before));
}

#[test]
fn a_host_that_is_not_there_fails_the_run_with_its_own_exit_code() {
    let Some(mut server) = Sshd::start("a_host_that_is_not_there", "") else { return };
    let world = World::new();
    world.database("app.db", 10);
    configure(&world, &server, "");
    server.stop();
    let ran = world.run(&["backup", "app"]).expect(13);
    ran.says("cannot be reached").says("Connection refused");
    server.restart();
    server.configure_client("other_key", "known_hosts", "");
    world.run(&["backup", "app"]).expect(13).says("does not let us in").says("ssh-copy-id");
    server.configure_client("user_key", "no_known_hosts", "");
    world.run(&["backup", "app"]).expect(13).says("host key is not known").says("ssh-keyscan");
    assert!(!server.path("lifeboat").exists());
}

#[test]
fn a_session_that_is_cut_does_not_fail_a_backup() {
    let Some(server) = Sshd::start("a_session_that_is_cut_does_not_fail_a_backup", "") else {
        return;
    };
    let world = World::new();
    let path = world.database("app.db", 20_000);
    configure(&world, &server, "");
    let mut command = world.command(&["backup", "app"]);
    command.env("LIFEBOAT_PAUSE_AT", "backup.artifact.streamed:1500");
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = || fs::read_dir(server.path("lifeboat/app")).is_ok_and(|dir| dir.count() > 1);
    while !begun() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.cut_sessions() > 0);
    crate::support::ran(child.wait_with_output().unwrap()).expect(0);
    let before = content(&path);
    world.run(&["restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), before);
    let hidden = |name: String| name.starts_with('.');
    let names = fs::read_dir(server.path("lifeboat/app")).unwrap();
    assert!(!names.flatten().any(|entry| hidden(entry.file_name().into_string().unwrap())));
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let world = World::new();
    world.database("app.db", 10);
    let url = "sftp://ann:secret@host/backups";
    let ran = world.run(&["--repo", url, "backup", "app.db"]).expect(2);
    assert!(ran.err.contains("holds a password") && !ran.err.contains("secret"), "{}", ran.err);
    world.configure(&format!("[repository.x]\nurl = \"{url}\"\n"));
    let ran = world.run(&["config", "check"]).expect(2);
    assert!(ran.err.contains("holds a password"), "{}", ran.err);
}
