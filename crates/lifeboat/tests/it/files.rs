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
