//! Every backup is restorable without this program: the tools of any Debian, run for real.

use std::fs;
use std::process::Command;

use crate::support::{World, content};

fn shell(world: &World, line: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", line])
        .current_dir(world.path("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn gunzip_zstd_and_sqlite3_restore_a_database() {
    for (compression, ending, open) in [
        ("zstd", ".db.zst", "zstd -d -q -c"),
        ("gzip", ".db.gz", "gunzip -c"),
        ("none", ".db", "cat"),
    ] {
        let world = World::new();
        let path = world.database("app.db", 5000);
        let before = content(&path);
        world.repo(&["backup", "app.db", "--compress", compression]).expect(0);
        let artifact = world.artifact("app", ending);
        shell(&world, &format!("{open} '{}' > by-hand.db", artifact.display()));
        assert_eq!(shell(&world, "sqlite3 by-hand.db 'PRAGMA integrity_check'"), "ok");
        assert_eq!(shell(&world, "sqlite3 by-hand.db 'SELECT count(*) FROM message'"), "5000");
        assert_eq!(content(&world.path("data/by-hand.db")), before, "{compression}");
        // The hashes in the manifest are those that sha256sum finds.
        let manifest = world.repo(&["show", "app", "--json"]).expect(0).json();
        let database = &manifest["artifacts"][0];
        let stored = shell(&world, &format!("sha256sum < '{}'", artifact.display()));
        assert_eq!(stored.split(' ').next(), database["stored_sha256"].as_str());
        let plain = shell(&world, &format!("{open} '{}' | sha256sum", artifact.display()));
        assert_eq!(plain.split(' ').next(), database["plain_sha256"].as_str());
    }
}

#[test]
fn the_tools_test_what_we_wrote() {
    let world = World::new();
    world.database("app.db", 5000);
    world.repo(&["backup", "app.db", "--compress", "gzip"]).expect(0);
    shell(&world, &format!("gzip -t '{}'", world.artifact("app", ".db.gz").display()));
    let world = World::new();
    world.database("app.db", 5000);
    world.repo(&["backup", "app.db"]).expect(0);
    shell(&world, &format!("zstd -q -t '{}'", world.artifact("app", ".db.zst").display()));
}

#[test]
fn tar_restores_companion_files() {
    let world = World::new();
    world.database("app.db", 10);
    fs::create_dir(world.path("etc")).unwrap();
    fs::write(world.path("etc/a file"), "one").unwrap();
    let long = format!("{}/{}", world.text("etc"), "long".repeat(40));
    fs::write(&long, "two").unwrap();
    let etc = world.text("etc");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\ncompression = \"gzip\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nfiles = [\"{etc}\"]\n"
    ));
    world.run(&["backup"]).expect(0);
    let archive = world.artifact("app", ".files.tar.gz");
    shell(&world, &format!("mkdir out && tar -C out -xpzf '{}'", archive.display()));
    let out = world.path("data/out").join(etc.trim_start_matches('/'));
    assert_eq!(fs::read(out.join("a file")).unwrap(), b"one");
    assert_eq!(fs::read(out.join("long".repeat(40))).unwrap(), b"two");
}

#[test]
fn the_readme_in_the_repository_says_how() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let text = fs::read_to_string(world.path("repo/README.txt")).unwrap();
    for word in ["zstd -d", "gunzip", "sqlite3", "tar", "sha256sum"] {
        assert!(text.contains(word), "{word}");
    }
}
