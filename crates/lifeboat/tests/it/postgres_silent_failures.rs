//! Silent failures of scripts around PostgreSQL, by their numbers: what ended with 0 and a loss
//! there is an error here, or whole.

use std::fs;

use crate::postgres_server::{Server, command, run, shop, world_of};
use crate::support::{World, ran};

/// A world, a shop, and its dump as a script writes it, changed by that.
fn with_dump(edit: impl Fn(String) -> String) -> (World, Server) {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    let output = server.tool("pg_dump", "shop").output().unwrap();
    let text = edit(String::from_utf8(output.stdout).unwrap());
    fs::write(world.path("data/shop.sql"), text).unwrap();
    (world, server)
}

/// A restore of it is refused with that code and those words, and nothing is changed.
#[track_caller]
fn refused(edit: impl Fn(String) -> String, code: i32, why: &str) {
    let (world, server) = with_dump(edit);
    let before = (server.text("shop"), server.databases());
    let to = server.url("shop");
    let arguments = ["restore", "shop.sql", "--to", &to, "--yes", "--without-safety-backup"];
    run(&world, &arguments).expect(code).says(why).says("hint: ");
    assert_eq!((server.text("shop"), server.databases()), before);
}

#[test]
fn t12_the_variables_name_another_database_than_the_application() {
    let server = shop(15);
    let world = World::new();
    let mut command = command(&world, &["backup"]);
    command
        .env("ADMIN_DB_TYPE", "postgres")
        .env("ADMIN_DATABASE_URL", server.url("shop"))
        .env("BACKUP_DIR", world.path("backups"));
    ran(command.output().unwrap()).expect(0);
    // The type says SQLite, and the address of a server is left over: it is not what is taken.
    let mut command = crate::postgres_server::command(&world, &["backup"]);
    command
        .env("ADMIN_DB_TYPE", "sqlite")
        .env("ADMIN_DATABASE_URL", server.url("shop"))
        .env("BACKUP_DIR", world.path("other"));
    let ran = ran(command.output().unwrap());
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(world.names("other"), [""; 0]);
}

#[test]
fn t13_a_dump_with_log_lines_comes_back_whole() {
    let (world, server) = with_dump(|text| text);
    let before = server.text("shop");
    let output = server.tool("pg_dump", "shop").arg("--verbose").output().unwrap();
    // As `> file 2>&1` mixes them: line by line, but never within the rows of a table.
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(messages.lines().count() > 20, "{messages}");
    let mut mixed = String::new();
    let mut messages = messages.lines();
    let mut rows = false;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if !rows && line.is_empty() {
            messages.next().into_iter().for_each(|line| mixed.push_str(&format!("{line}\n")));
        }
        rows = (rows && line != "\\.") || line.starts_with("COPY ");
        mixed.push_str(&format!("{line}\n"));
    }
    fs::write(world.path("data/shop.sql"), mixed).unwrap();
    let restored = run(&world, &["restore", "shop.sql", "--to", &server.url("copy")]).expect(0);
    restored.says("were left out");
    assert_eq!(server.text("copy"), before);
}

#[test]
fn t30_a_dump_that_is_cut_within_rows_is_refused() {
    let cut = |text: String| {
        let at = text.find("COPY public.item").unwrap() + 5_000;
        text[..at].to_owned()
    };
    refused(cut, 20, "ends within the rows");
}

#[test]
fn t31_a_row_that_does_not_fit_is_refused() {
    refused(
        |text| text.replacen("\n50\tname 50", "\nfifty\tname 50", 1),
        1,
        "invalid input syntax",
    );
}

#[test]
fn t32_a_duplicate_key_is_refused() {
    let twice = |text: String| text.replacen("\n51\tname 51", "\n50\tname 51", 1);
    refused(twice, 1, "could not create unique index");
}

#[test]
fn t33_a_dump_without_its_end_is_refused() {
    let cut = |text: String| text.replace("-- PostgreSQL database dump complete", "");
    refused(cut, 20, "lacks its end");
}

#[test]
fn t34_a_dump_runs_no_command_of_the_shell() {
    let marker = tempfile::tempdir().unwrap();
    let touch = marker.path().join("ran");
    let hostile = format!("\n\\! touch {}\n", touch.display());
    refused(|text| text.replacen("\nSET ", &format!("{hostile}SET "), 1), 20, "command for psql");
    assert!(!touch.exists());
}

#[test]
fn t35_an_archive_that_is_cut_is_no_backup_and_no_restore() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    let folder = world.path("repo/shop");
    let stored = world.artifact("shop", ".dump.zst");
    let dump = world.path("data/cut.dump");
    run(&world, &["restore", "shop", "--to", dump.to_str().unwrap()]).expect(0);
    let bytes = fs::read(&dump).unwrap();
    fs::write(&dump, &bytes[..bytes.len() - 2_000]).unwrap();
    // pg_restore lists it, and says nothing.
    let mut listed = server.tool("pg_restore", "shop");
    listed = std::process::Command::new(listed.get_program());
    assert!(listed.arg("--list").arg(&dump).output().unwrap().status.success());
    let to = server.url("copy");
    run(&world, &["restore", "cut.dump", "--to", &to]).expect(20).says("ends within the data");
    assert_eq!(server.databases(), ["postgres", "shop"]);
    // The same in the repository: every level of a check sees it.
    let bytes = fs::read(&stored).unwrap();
    fs::write(&stored, &bytes[..bytes.len() / 2]).unwrap();
    for level in ["quick", "full"] {
        run(&world, &["verify", "--level", level]).expect(20);
    }
    run(&world, &["restore", "shop", "--to", &to]).expect(20);
    assert_eq!(server.databases(), ["postgres", "shop"]);
    assert!(folder.exists());
}

#[test]
fn t36_a_dump_says_that_it_proves_no_page_on_the_disk() {
    let server = shop(15);
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    let shown = run(&world, &["show", "shop"]).expect(0).out;
    assert!(shown.contains("disk pages       not verified"), "{shown}");
    let shown = run(&world, &["show", "shop", "--json"]).expect(0).json().to_string();
    assert!(shown.contains("\"disk_pages\":\"not verified\""), "{shown}");
}
