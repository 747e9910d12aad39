//! Companion files and sources of files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::support::{World, mode, rows, set_mode};

fn world_with_files() -> World {
    let world = World::new();
    world.database("app.db", 10);
    fs::create_dir(world.path("etc")).unwrap();
    fs::write(world.path("etc/host_key"), "PRIVATE KEY").unwrap();
    set_mode(&world.path("etc/host_key"), 0o600);
    fs::write(world.path("etc/config.toml"), "port = 1").unwrap();
    set_mode(&world.path("etc/config.toml"), 0o640);
    symlink("config.toml", world.path("etc/link")).unwrap();
    world
}

fn configure(world: &World, more: &str) {
    let etc = world.text("etc");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n\
         files = [\"{etc}/host_key\", \"{etc}/config.toml\", \"{etc}/link\"{more}]\n"
    ));
}

#[test]
fn companion_files_go_out_and_come_back_with_mode_time_and_links() {
    let world = world_with_files();
    configure(&world, "");
    let before = fs::metadata(world.path("etc/host_key")).unwrap();
    world.run(&["backup"]).expect(0);
    fs::remove_dir_all(world.path("etc")).unwrap();
    // Without --files, only the database is restored.
    world.run(&["restore", "app", "--yes"]).expect(0);
    assert!(!world.path("etc").exists());
    world.run(&["restore", "app", "--files", "--yes"]).expect(0);
    let after = fs::metadata(world.path("etc/host_key")).unwrap();
    assert_eq!(fs::read(world.path("etc/host_key")).unwrap(), b"PRIVATE KEY");
    assert_eq!((mode(&world.path("etc/host_key")), after.mtime()), (0o600, before.mtime()));
    assert_eq!(mode(&world.path("etc/config.toml")), 0o640);
    assert_eq!(fs::read_link(world.path("etc/link")).unwrap().to_str(), Some("config.toml"));
}

#[test]
fn a_changed_file_is_kept_aside() {
    let world = world_with_files();
    configure(&world, "");
    world.run(&["backup"]).expect(0);
    fs::write(world.path("etc/config.toml"), "port = 2").unwrap();
    world.run(&["restore", "app", "--files=only"]).expect(24);
    world.run(&["restore", "app", "--files=only", "--yes"]).expect(0);
    assert_eq!(fs::read(world.path("etc/config.toml")).unwrap(), b"port = 1");
    let names = world.names("etc");
    let kept = names.iter().find(|name| name.starts_with("config.toml.before_restore.")).unwrap();
    assert_eq!(fs::read(world.path("etc").join(kept)).unwrap(), b"port = 2");
    assert_eq!(rows(&world.path("data/app.db")), 10);
}

#[test]
fn nothing_in_the_repository_can_be_read_by_others() {
    let world = world_with_files();
    configure(&world, "");
    world.run(&["backup"]).expect(0);
    for folder in ["repo", "repo/app"] {
        assert_eq!(mode(&world.path(folder)) & 0o077, 0, "{folder}");
        for name in world.names(folder) {
            assert_eq!(mode(&world.path(folder).join(&name)) & 0o077, 0, "{name}");
        }
    }
}

#[test]
fn a_missing_file_fails_the_run_unless_it_is_optional() {
    let world = world_with_files();
    let etc = world.text("etc");
    configure(&world, &format!(", \"{etc}/missing\""));
    world.run(&["backup"]).expect(15).says("missing");
    assert!(world.names("repo/app").iter().all(|name| name == "source.json"));
    configure(&world, &format!(", {{ path = \"{etc}/missing\", optional = true }}"));
    world.run(&["backup"]).expect(0);
}

#[test]
fn a_source_of_files_is_backed_up_on_change_only() {
    let world = world_with_files();
    let etc = world.text("etc");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.keys]\nfiles = [\"{etc}\"]\nwhen = \"on-change\"\nkeep = \"forever\"\n"
    ));
    let outcome = |expected: &str| {
        let ran = world.run(&["backup", "--json"]).expect(0);
        assert_eq!(ran.json()[0]["outcome"], expected);
    };
    outcome("committed");
    outcome("unchanged");
    set_mode(&world.path("etc/config.toml"), 0o600);
    outcome("committed");
    fs::write(world.path("etc/config.toml"), "port = 3").unwrap();
    outcome("committed");
    outcome("unchanged");
    world.run(&["verify", "--level", "full"]).expect(0);
    assert_eq!(world.run(&["list", "--json"]).expect(0).json().as_array().unwrap().len(), 3);
    let to = world.text("unpacked");
    world.run(&["restore", "keys", "--to", &to]).expect(0);
    let back = world.path("unpacked").join(etc.trim_start_matches('/')).join("config.toml");
    assert_eq!(fs::read(back).unwrap(), b"port = 3");
}

#[test]
fn a_folder_that_holds_the_database_itself_is_backed_up_without_it() {
    let world = world_with_files();
    fs::write(world.path("data/notes.txt"), "keep me").unwrap();
    let data = world.text("data");
    configure(&world, &format!(", \"{data}\""));
    let ran = world.run(&["backup", "--json"]).expect(0);
    let folder = world.path("repo/app");
    let archive = ran.json()[0]["manifest"]["artifacts"].as_array().unwrap().clone();
    let archive = archive.iter().find(|artifact| artifact["role"] == "files").unwrap();
    let archive = folder.join(archive["name"].as_str().unwrap());
    let listed = Command::new("sh")
        .args(["-c", "zstd -dc \"$0\" | tar -tf -"])
        .arg(&archive)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("data/notes.txt"), "{listed}");
    assert!(!listed.contains("app.db"), "{listed}");
}

#[test]
fn a_longer_list_of_files_is_still_the_same_source() {
    let world = world_with_files();
    let etc = world.text("etc");
    let configure = |files: &str| {
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n[source.keys]\nfiles = [{files}]\n"
        ));
    };
    configure(&format!("\"{etc}/config.toml\""));
    world.run(&["backup"]).expect(0);
    configure(&format!("\"{etc}/config.toml\", \"{etc}\""));
    world.run(&["backup"]).expect(0);
    assert_eq!(world.names("repo").iter().filter(|name| name.starts_with("keys")).count(), 1);
}

fn logs(world: &World, entry: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.logs]\nfiles = [{entry}]\n"
    ));
}

#[test]
fn a_pattern_takes_rotated_logs_and_what_it_misses_is_said() {
    let world = World::new();
    logs(&world, "{ glob = \"$DATA/*.log*\" }");
    world.run(&["backup"]).expect(15).says("*.log* matches no file");
    world.run(&["config", "check"]).expect(15);
    logs(&world, "{ glob = \"$DATA/*.log*\", optional = true }");
    world.run(&["backup"]).expect(15).says("none of the files exists");
    logs(&world, "{ glob = \"$DATA/*.log*\" }");
    for name in ["server.log", "server.log.1", "errors.log.2.gz", "notes.txt"] {
        fs::write(world.path("data").join(name), name).unwrap();
    }
    world.run(&["backup"]).expect(0);
    let to = world.text("unpacked");
    world.run(&["restore", "logs", "--to", &to]).expect(0);
    let back = world.path("unpacked").join(world.text("data").trim_start_matches('/'));
    let mut names: Vec<_> =
        fs::read_dir(back).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["errors.log.2.gz", "server.log", "server.log.1"]);
    for (entry, said) in [
        ("\"$DATA/*.log\"", "write { glob = "),
        ("{ glob = \"$DATA/x.log\" }", "write `path`"),
        ("{ glob = \"*.log\" }", "not an absolute path"),
        ("{ path = \"/x\", glob = \"/*\" }", "exclude each other"),
        ("{ optional = true }", "neither `path` nor `glob`"),
    ] {
        logs(&world, entry);
        world.run(&["config", "check"]).expect(2).says(said);
    }
    // A name that has a `*` can still be written.
    fs::write(world.path("data/odd*.txt"), "odd").unwrap();
    logs(&world, "{ path = \"$DATA/odd*.txt\" }");
    world.run(&["backup"]).expect(0);
}

/// A server that writes its log, rotates it and empties it at each start, all the time.
#[test]
fn logs_are_backed_up_while_a_server_writes_and_rotates_them() {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    let world = World::new();
    fs::write(world.path("data/app.log"), "started\n").unwrap();
    fs::write(world.path("data/errors.log"), "").unwrap();
    logs(&world, "{ glob = \"$DATA/*.log*\" }");
    let (folder, ended) = (world.path("data"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let log = folder.join("app.log");
            for turn in 0_u64.. {
                let mut file = fs::File::create(&log).unwrap();
                for line in 0..200 {
                    writeln!(file, "{turn} {line} {}", "x".repeat(80)).unwrap();
                }
                for age in (1..4).rev() {
                    let (from, to) = (format!("app.log.{age}"), format!("app.log.{}", age + 1));
                    let _ = fs::rename(folder.join(from), folder.join(to));
                }
                fs::rename(&log, folder.join("app.log.1")).unwrap();
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let backups: Vec<_> = (0..8).map(|_| world.run(&["backup", "--json"])).collect();
        ended.store(true, Ordering::Relaxed);
        for ran in backups {
            ran.expect(0);
        }
    });
    assert_eq!(world.run(&["list", "--json"]).expect(0).json().as_array().unwrap().len(), 8);
    world.run(&["verify", "--level", "full"]).expect(0);
}
