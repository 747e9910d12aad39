//! Copies from one repository to another: the logs too, sealed on the way where that is asked for,
//! mended where something is damaged, and gone on with after a kill.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rusqlite::Connection;

use crate::support::{World, add_rows, content, ran};

/// Two repositories on this host. `far` says more of the second one.
fn world(far: &str) -> World {
    let world = World::new();
    world.database("app.db", 2_000);
    fs::write(world.path("data/host_key"), b"secret").unwrap();
    configure(&world, far);
    world
}

fn configure(world: &World, far: &str) {
    world.configure(&format!(
        "[repository.near]\nurl = \"file://$DATA/near\"\n\
         [repository.far]\nurl = \"file://$DATA/far\"\n{far}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/host_key\"]\n",
    ));
}

fn artifact(world: &World, place: &str, ending: &str) -> PathBuf {
    let folder = format!("data/{place}/app");
    let mut names = world.names(&folder);
    names.retain(|name| name.ends_with(ending));
    assert_eq!(names.len(), 1, "{names:?}");
    world.path(&folder).join(&names[0])
}

fn listed(world: &World, place: &str) -> usize {
    let listed = world.run(&["--repo", place, "list", "app", "--json"]);
    if listed.code == 10 { 0 } else { listed.expect(0).json().as_array().unwrap().len() }
}

#[test]
fn the_log_of_a_database_goes_along() {
    let world = world("");
    let database = world.path("data/app.db");
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    for round in 0..3_u32 {
        let connection = Connection::open(&database).unwrap();
        add_rows(&connection, 10_000 + 10 * round, 10);
        connection.close().unwrap();
        world.run(&["--repo", "near", "backup", "--incremental", "app"]).expect(0);
    }
    let plan = world.run(&["copy", "--to", "far", "--dry-run"]).expect(0);
    assert!(plan.out.contains("is empty"), "{}", plan.out);
    world.run(&["copy", "--to", "far"]).expect(0);
    world.run(&["--repo", "far", "verify", "--level", "full"]).expect(0).says("3 states");
    // The newest state is one of the log.
    world.run(&["--repo", "far", "restore", "app", "--to", "back.db"]).expect(0);
    assert_eq!(content(&world.path("data/back.db")), content(&database));
    let again = world.run(&["copy", "--to", "far", "--json"]).expect(0).json();
    assert_eq!(again[0]["log_objects"], 0, "{again}");
    assert_eq!(again[0]["plan"]["log"]["parts"], serde_json::json!([]), "{again}");
    // One more, and one that is lost: both come.
    let connection = Connection::open(&database).unwrap();
    add_rows(&connection, 20_000, 10);
    connection.close().unwrap();
    world.run(&["--repo", "near", "backup", "--incremental", "app"]).expect(0);
    let log = world.path("data/far/app/log");
    let backup = fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let lost = fs::read_dir(backup.join("0")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(lost).unwrap();
    let copied = world.run(&["copy", "--to", "far", "--json"]).expect(0).json();
    assert_eq!(copied[0]["log_objects"], 2, "{copied}");
    world.run(&["--repo", "far", "verify", "--level", "full"]).expect(0).says("4 states");
}

#[test]
fn a_damaged_file_of_a_log_is_not_copied() {
    let world = world("");
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    let connection = Connection::open(world.path("data/app.db")).unwrap();
    add_rows(&connection, 10_000, 10);
    connection.close().unwrap();
    world.run(&["--repo", "near", "backup", "--incremental", "app"]).expect(0);
    let log = world.path("data/near/app/log");
    let backup = fs::read_dir(&log).unwrap().next().unwrap().unwrap().path();
    let file = fs::read_dir(backup.join("0")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, bytes).unwrap();
    world.run(&["copy", "--to", "far"]).expect(20).says("pagelog failed").says("is damaged");
    let files = Command::new("find").arg(world.path("data/far")).output().unwrap();
    let files = String::from_utf8(files.stdout).unwrap();
    assert!(!files.contains(".pagelog"), "{files}");
    world.run(&["--repo", "far", "verify"]).expect(0);
}

#[test]
fn damage_of_the_same_size_is_found_with_verify_and_mended() {
    let world = world("");
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    world.run(&["copy", "--to", "far"]).expect(0);
    let damage = |place: &str| {
        let file = artifact(&world, place, ".db.zst");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, bytes).unwrap();
    };
    damage("far");
    let plan = world.run(&["copy", "--to", "far", "--verify", "--dry-run"]).expect(0).out;
    assert!(plan.contains("1 to repair"), "{plan}");
    world.run(&["--repo", "far", "verify"]).expect(20);
    world.run(&["copy", "--to", "far", "--verify"]).expect(0);
    world.run(&["--repo", "far", "verify", "--level", "full"]).expect(0);
    // Where both are damaged, what is there stays: salvage may want it.
    damage("near");
    damage("far");
    let before = fs::read(artifact(&world, "far", ".db.zst")).unwrap();
    world
        .run(&["copy", "--to", "far", "--verify"])
        .expect(20)
        .says("is not what its manifest says");
    assert_eq!(fs::read(artifact(&world, "far", ".db.zst")).unwrap(), before);
}

#[test]
fn a_copy_that_is_killed_leaves_no_backup_and_the_next_one_goes_on() {
    for (point, is_there) in [
        ("copy.begun", false),
        ("copy.artifact.committed", false),
        ("copy.artifact.read_back", false),
        ("copy.before_manifest", false),
        ("copy.committed", true),
        ("copy.log.committed", true),
        ("copy.log.stored", true),
    ] {
        let world = world("");
        world.run(&["--repo", "near", "backup", "app"]).expect(0);
        let connection = Connection::open(world.path("data/app.db")).unwrap();
        add_rows(&connection, 10_000, 10);
        connection.close().unwrap();
        world.run(&["--repo", "near", "backup", "--incremental", "app"]).expect(0);
        let mut command = world.command(&["copy", "--to", "far"]);
        ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap()).expect(137);
        assert_eq!(listed(&world, "far"), usize::from(is_there), "{point}");
        if is_there {
            world.run(&["--repo", "far", "verify"]).expect(0);
        }
        let again = world.run(&["copy", "--to", "far"]);
        assert_eq!(again.code, 0, "{point}: {}", again.err);
        world.run(&["--repo", "far", "verify", "--level", "full"]).expect(0).says("1 states");
        world.run(&["--repo", "far", "restore", "app", "--to", "back.db"]).expect(0);
        assert_eq!(content(&world.path("data/back.db")), content(&world.path("data/app.db")));
        let marks = world.names("data/far/begun/app");
        assert!(marks.is_empty() || is_there, "{point}: {marks:?}");
    }
}

#[test]
fn a_repair_that_is_killed_is_made_by_the_next_copy() {
    for point in ["copy.repair.compared", "copy.repair.deleted", "copy.artifact.committed"] {
        let world = world("");
        world.run(&["--repo", "near", "backup", "app"]).expect(0);
        world.run(&["copy", "--to", "far"]).expect(0);
        let cut = artifact(&world, "far", ".db.zst");
        let whole = fs::read(&cut).unwrap();
        fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
        let mut command = world.command(&["copy", "--to", "far"]);
        ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap()).expect(137);
        world.run(&["copy", "--to", "far"]).expect(0);
        world.run(&["--repo", "far", "verify", "--level", "full"]).expect(0);
    }
}

#[test]
fn what_is_open_here_is_sealed_on_the_way() {
    let world = World::new();
    world.database("app.db", 1_000);
    fs::write(world.path("data/host_key"), b"secret").unwrap();
    let key = world.text("home/key");
    let recipient = world.run(&["key", "new", &key]).expect(0).out;
    configure(&world, &format!("encrypt_to = [\"{}\"]", recipient.trim()));
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    let mut killed = world.command(&["copy", "--to", "far"]);
    ran(killed.env("LIFEBOAT_CRASH_AT", "copy.before_manifest").output().unwrap()).expect(137);
    // Its bytes cannot be compared with any that come now: it may go on elsewhere for a day.
    world.run(&["copy", "--to", "far"]).expect(3).says("less than a day ago");
    let mut later = world.command(&["copy", "--to", "far"]);
    later.env("LIFEBOAT_CLOCK_AT", "2100-01-01T00:00:00Z");
    ran(later.output().unwrap()).expect(0);
    for name in world.names("data/far/app") {
        assert!(name.ends_with(".age") || name.ends_with(".json"), "{name} is open");
    }
    world.run(&["--repo", "far", "verify"]).expect(12);
    let sealed = ["--repo", "far", "verify", "--level", "full", "--identity", &key];
    world.run(&sealed).expect(0);
    world.run(&["--repo", "far", "restore", "app", "--to", "x.db", "--identity", &key]).expect(0);
    assert_eq!(content(&world.path("data/x.db")), content(&world.path("data/app.db")));
    let line = format!(
        "age -d -i {key} {} | zstd -d | head -c 15",
        artifact(&world, "far", ".db.zst.age").display()
    );
    let opened = Command::new("sh").args(["-c", &line]).output().unwrap().stdout;
    assert_eq!(opened, b"SQLite format 3");
    // The same backup, and nothing more to do.
    let again = world.run(&["copy", "--to", "far", "--verify", "--json"]).expect(0).json();
    assert_eq!(again[0]["sent"], serde_json::json!([]), "{again}");
}

#[test]
fn what_is_sealed_to_others_needs_its_key_to_be_sealed_anew() {
    let world = World::new();
    world.database("app.db", 1_000);
    fs::write(world.path("data/host_key"), b"secret").unwrap();
    let recipient = |name: &str| {
        let made = world.run(&["key", "new", &world.text(&format!("home/{name}"))]).expect(0).out;
        made.trim().to_owned()
    };
    let (old, new) = (recipient("old"), recipient("new"));
    world.configure(&format!(
        "[repository.near]\nurl = \"file://$DATA/near\"\nencrypt_to = [\"{old}\"]\n\
         [repository.far]\nurl = \"file://$DATA/far\"\nencrypt_to = [\"{new}\"]\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"$DATA/host_key\"]\n",
    ));
    world.run(&["--repo", "near", "backup", "app"]).expect(0);
    world.run(&["copy", "--to", "far"]).expect(3).says("not sealed to the recipients");
    assert_eq!(listed(&world, "far"), 0);
    let (old, new) = (world.text("home/old"), world.text("home/new"));
    world.run(&["copy", "--to", "far", "--identity", &new]).expect(12);
    assert_eq!(listed(&world, "far"), 0);
    world.run(&["copy", "--to", "far", "--identity", &old]).expect(0);
    world.run(&["--repo", "far", "verify", "--identity", &old]).expect(12);
    world.run(&["--repo", "far", "verify", "--level", "full", "--identity", &new]).expect(0);
    // What is sealed goes as it is to a place that asks for no seal.
    world.run(&["copy", "--from", "near", "--to", &world.text("third")]).expect(0);
    let names = world.names("third/app");
    assert!(names.iter().any(|name| name.ends_with(".db.zst.age")), "{names:?}");
}

#[test]
fn a_source_goes_only_where_its_configuration_sends_it() {
    let world = World::new();
    world.database("app.db", 100);
    world.database("private.db", 100);
    world.configure(
        "[repository.near]\nurl = \"file://$DATA/near\"\n\
         [repository.far]\nurl = \"file://$DATA/far\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n\
         [source.private]\nsqlite = \"$DATA/private.db\"\nrepository = \"near\"\n",
    );
    world.run(&["--repo", "near", "backup"]).expect(0);
    world.run(&["copy", "--to", "far"]).expect(0);
    assert!(world.path("data/far/app").exists() && !world.path("data/far/private").exists());
    // Whoever names it means it.
    world.run(&["copy", "private", "--to", "far"]).expect(0);
    assert!(world.path("data/far/private").exists());
}
