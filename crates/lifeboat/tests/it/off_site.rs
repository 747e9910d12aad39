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
    configure(&world, &server, "timeout = \"5s\"");
    server.stop();
    let ran = world.run(&["backup", "app"]).expect(13);
    ran.says("cannot be reached").says("Connection refused");
    server.restart();
    configure(&world, &server, "");
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
    let command = world.command(&["backup", "app"]);
    let held = crate::support::Held::at(&world, command, "backup.artifact.streamed");
    assert!(fs::read_dir(server.path("lifeboat/app")).unwrap().count() > 1);
    assert!(server.cut_sessions() > 0);
    held.go_on().expect(0);
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

/// While a writer never rests, two reads would show two states.
#[test]
fn both_repositories_have_the_bytes_of_one_read() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let world = World::new();
    let path = world.database("app.db", 5_000);
    several(&world, "");
    let ends = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let ends = Arc::clone(&ends);
        move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(std::time::Duration::from_secs(300)).unwrap();
            connection.pragma_update(None, "synchronous", "off").unwrap();
            let mut written = 0;
            while !ends.load(Ordering::Relaxed) {
                add_rows(&connection, 10_000 + written, 1);
                written += 1;
            }
            written
        }
    });
    let mut seen = Vec::new();
    for _ in 0..3 {
        let made = world.run(&["backup", "app", "--json"]).expect(0).json();
        let plain = |place: usize| made[place]["manifest"]["artifacts"][0]["plain_sha256"].clone();
        assert!(plain(0).is_string());
        assert_eq!(
            (plain(0), &made[0]["manifest"]["rows"]),
            (plain(1), &made[1]["manifest"]["rows"])
        );
        seen.push(plain(0));
    }
    ends.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 3);
    seen.dedup();
    assert_eq!(seen.len(), 3, "the writer rested, and nothing was proved");
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
    let command = world.command(&["backup", "app", "--json"]);
    let held = crate::support::Held::at(&world, command, "backup.artifact.committed");
    server.stop();
    let ran = held.go_on().expect(3);
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

#[test]
fn what_a_repository_lacks_is_copied_and_never_removed() {
    let world = World::new();
    let path = world.database("app.db", 3_000);
    several(&world, "");
    world.run(&["backup", "app"]).expect(0);
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    world.run(&["--repo", "near", "pin", "app@latest", "--reason", "kept"]).expect(0);
    let count = |place: &str| {
        world.run(&["--repo", place, "list", "app"]).expect(0).out.lines().count() - 1
    };
    assert_eq!((count("near"), count("packed")), (2, 1));
    let plan = world.run(&["copy", "--to", "packed", "--dry-run"]).expect(0).out;
    assert!(plan.contains("1 to copy") && plan.contains("1 there"), "{plan}");
    assert_eq!(count("packed"), 1);
    world.run(&["copy", "app", "--to", "packed"]).expect(0);
    assert_eq!(count("packed"), 2);
    let show = |place: &str| {
        let shown = world.run(&["--repo", place, "show", "app@latest", "--json"]).expect(0).json();
        (shown["id"].clone(), shown["artifacts"].clone())
    };
    assert_eq!(show("near"), show("packed"));
    assert!(world.run(&["--repo", "packed", "show", "app@latest"]).out.contains("kept"));
    world.run(&["--repo", "packed", "verify", "--level", "full"]).expect(0);
    // The second time there is nothing to do.
    let again = world.run(&["copy", "--to", "packed", "--json"]).expect(0).json();
    assert_eq!(again[0]["sent"], serde_json::json!([]), "{again}");
    let before = content(&path);
    world.run(&["--repo", "packed", "restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), before);
}

/// T09: `rsync --delete` after the local folder was emptied emptied the remote.
#[test]
fn t09_emptying_one_repository_empties_no_other() {
    let world = World::new();
    world.database("app.db", 500);
    several(&world, "");
    world.run(&["backup", "app"]).expect(0);
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    world.run(&["copy", "--to", "packed"]).expect(0);
    for name in world.names("data/near/app") {
        fs::remove_file(world.path("data/near/app").join(name)).unwrap();
    }
    let emptied = world.run(&["copy", "--to", "packed"]);
    assert!(emptied.code == 0 || emptied.code == 3, "{emptied:?}");
    world.run(&["backup", "app"]).expect(0);
    assert_eq!(world.run(&["--repo", "packed", "list", "app"]).expect(0).out.lines().count(), 4);
    world.run(&["--repo", "packed", "verify", "--level", "full"]).expect(0);
    // And the way back: what was emptied gets all of it again.
    world.run(&["copy", "--to", "near"]).expect(0);
    world.run(&["--repo", "near", "verify", "--level", "full"]).expect(0);
    assert_eq!(world.run(&["--repo", "near", "list", "app"]).expect(0).out.lines().count(), 4);
}

#[test]
fn a_copy_repairs_what_is_missing_and_sends_nothing_that_is_damaged() {
    let world = World::new();
    world.database("app.db", 2_000);
    several(&world, "");
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    world.run(&["copy", "--to", "packed"]).expect(0);
    let artifact = |place: &str, ending: &str| {
        let folder = format!("data/{place}/app");
        let mut names = world.names(&folder);
        names.retain(|name| name.ends_with(ending));
        world.path(&folder).join(&names[0])
    };
    // One is gone, one is cut.
    fs::remove_file(artifact("packed", ".files.tar.zst")).unwrap();
    let cut = artifact("packed", ".db.zst");
    let whole = fs::read(&cut).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    world.run(&["--repo", "packed", "verify"]).expect(20);
    let plan = world.run(&["copy", "--to", "packed", "--dry-run"]).expect(0).out;
    assert!(plan.contains("1 to repair"), "{plan}");
    world.run(&["copy", "--to", "packed"]).expect(0);
    world.run(&["--repo", "packed", "verify", "--level", "full"]).expect(0);
    // A flipped bit is no copy of anything.
    let mut bytes = fs::read(artifact("near", ".db.zst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(artifact("near", ".db.zst"), bytes).unwrap();
    world.configure("[repository.near]\nurl = \"file://$DATA/near\"\n");
    let third = world.text("data/third");
    let ran = world.run(&["copy", "--from", "near", "--to", &third]).expect(20);
    assert!(ran.err.contains("is not what its manifest says"), "{}", ran.err);
    let left = world.names("data/third/app");
    assert_eq!(left, ["source.json"], "{left:?}");
}

/// T10: the script sent the host key at an hour that its schedule never has.
#[test]
fn t10_the_host_key_is_sent_at_any_hour() {
    let Some(server) = Sshd::start("t10_the_host_key_is_sent_at_any_hour", "") else { return };
    for hour in ["00", "02", "08", "09", "23"] {
        let world = World::new();
        let folder = server.path(&format!("at-{hour}"));
        world.configure(&format!(
            "[repository.offsite]\nurl = \"sftp://backup-host{}\"\nssh_config = \"{}\"\n\
             [source.host-key]\nfiles = [\"$DATA/ssh_host_key\"]\nwhen = \"on-change\"\n",
            folder.display(),
            server.client_config().display(),
        ));
        fs::write(world.path("data/ssh_host_key"), b"secret").unwrap();
        let mut command = world.command(&["backup"]);
        command.env("LIFEBOAT_CLOCK_AT", format!("2026-03-01T{hour}:00:10Z"));
        crate::support::ran(command.output().unwrap()).expect(0);
        let names = fs::read_dir(folder.join("host-key")).unwrap().count();
        assert_eq!(names, 3, "at {hour}: the archive, its manifest and whose folder it is");
    }
}

#[test]
fn what_a_repository_lacks_is_told_and_its_copy_is_scheduled() {
    let world = World::new();
    world.database("app.db", 300);
    std::fs::create_dir(world.path("drive")).unwrap();
    let drive = world.text("drive");
    let places = format!(
        "[repository.near]\nurl = \"file://$DATA/near\"\n\
         [repository.packed]\nurl = \"file://$DATA/packed\"\n\
         [repository.drive]\nurl = \"file://{drive}/x\"\nmount = \"{drive}\"\n\
         [repository.far]\nurl = \"sftp://host.example.org/x\"\n"
    );
    let source = "[source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n";
    world.configure(&format!("{places}{source}"));
    let root = world.text("root");
    world.run(&["install", "systemd", "--yes", "--root", &root]).expect(0);
    let unit =
        |name: &str| fs::read_to_string(world.path("root/etc/systemd/system").join(name)).unwrap();
    let copy = unit("lifeboat-copy-drive.service");
    assert!(copy.contains(" copy --to drive\n"), "{copy}");
    assert!(copy.contains("SuccessExitStatus=75\n"), "{copy}");
    assert!(unit("lifeboat-copy-drive.timer").contains(":20:00\n"));
    assert!(!unit("lifeboat-copy-far.service").contains("SuccessExitStatus"));
    let names = world.names("root/etc/systemd/system");
    assert!(!names.iter().any(|name| name.contains("copy-near")), "{names:?}");
    // Where a source goes to one place alone, there is nothing to catch up.
    world.configure(&format!("{places}{source}repository = \"far\"\n"));
    world.run(&["install", "systemd", "--yes", "--root", &root]).expect(0);
    let names = world.names("root/etc/systemd/system");
    assert!(!names.iter().any(|name| name.contains("copy-")), "{names:?}");

    several(&world, "");
    fs::write(world.path("data/host_key"), b"secret").unwrap();
    world.run(&["backup", "app"]).expect(0);
    let told = world.run(&["status"]).expect(0);
    assert!(!told.err.contains("another repository"), "{}", told.err);
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    let told = world.run(&["status"]).expect(0).says("1 backup of another repository not in");
    let line = told.err.lines().find(|line| line.contains("copy app --to")).unwrap();
    let words: Vec<&str> = line.split("lifeboat ").nth(1).unwrap().split_whitespace().collect();
    world.run(&words).expect(0);
    let told = world.run(&["status", "--json"]).expect(0);
    assert!(!told.err.contains("another repository"), "{}", told.err);
    assert!(told.json().as_array().unwrap().iter().all(|row| row["lacking"] == 0), "{}", told.out);
}
