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

/// Two repositories on this host and one that is not to be had.
fn several(world: &World, third: &str) {
    world.configure(&format!(
        "[repository.near]\nurl = \"file://$DATA/near\"\n\
         [repository.packed]\nurl = \"file://$DATA/packed\"\ncompression = \"gzip:1\"\n{third}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/host_key\"]\n",
    ));
    fs::write(world.path("data/host_key"), b"secret").unwrap();
}

#[test]
fn a_source_is_read_once_for_all_its_repositories() {
    let world = World::new();
    let path = world.database("app.db", 3_000);
    several(&world, "");
    let made = world.run(&["backup", "app", "--json"]).expect(0).json();
    assert_eq!(made.as_array().unwrap().len(), 2, "{made}");
    for what in ["id", "name", "taken_at", "rows", "source"] {
        assert_eq!(made[0]["manifest"][what], made[1]["manifest"][what], "{what}");
    }
    assert_eq!(made[0]["manifest"]["artifacts"][0]["compression"], "zstd");
    assert_eq!(made[1]["manifest"]["artifacts"][0]["compression"], "gzip");
    let before = content(&path);
    for place in ["near", "packed"] {
        world.run(&["--repo", place, "verify", "--level", "full"]).expect(0);
        let to = format!("{place}.db");
        world.run(&["--repo", place, "restore", "app", "--to", &to]).expect(0);
        assert_eq!(content(&world.path("data").join(to)), before);
    }
}

#[test]
fn a_repository_that_fails_leaves_the_others_alone_and_the_run_incomplete() {
    let Some(mut server) = Sshd::start("a_repository_that_fails_leaves_the_others_alone", "")
    else {
        return;
    };
    let world = World::new();
    world.database("app.db", 20_000);
    let third = format!(
        "[repository.third]\nurl = \"sftp://backup-host{}\"\nssh_config = \"{}\"",
        server.path("lifeboat").display(),
        server.client_config().display(),
    );
    several(&world, &third);
    world.run(&["backup", "app"]).expect(0);
    // It goes away while the backup is stored.
    let mut command = world.command(&["backup", "app", "--json"]);
    command.env("LIFEBOAT_PAUSE_AT", "backup.artifact.committed:1500");
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while fs::read_dir(server.path("lifeboat/app")).unwrap().count() < 6 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    server.stop();
    let ran = crate::support::ran(child.wait_with_output().unwrap()).expect(3);
    assert!(ran.err.contains("in `third` failed"), "{}", ran.err);
    let made = ran.json();
    let outcomes: Vec<&str> =
        made.as_array().unwrap().iter().map(|one| one["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["committed", "committed", "failed"]);
    server.restart();
    world.run(&["--repo", "near", "verify", "--level", "full"]).expect(0);
    assert_eq!(world.run(&["--repo", "near", "list", "app"]).expect(0).out.lines().count(), 3);
    assert_eq!(world.run(&["--repo", "third", "list", "app"]).expect(0).out.lines().count(), 2);
    // What it could not delete there is garbage without a manifest; the next backup is whole again.
    world.run(&["backup", "app"]).expect(0);
    assert_eq!(world.run(&["--repo", "third", "list", "app"]).expect(0).out.lines().count(), 3);
}
