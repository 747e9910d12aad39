//! Restores to real servers: the old database or the new one is there under its name at every
//! moment, and what cannot be done is refused before anything is touched.

use std::fs;

use crate::postgres_server::{SHOP, Server, command, configure, run, shop, world_of};
use crate::support::{Ran, World, ran};

/// The points that a restore to a server passes, in their order.
const POINTS: &[&str] =
    &["restore.staged", "restore.verified", "restore.renaming", "restore.swapped"];

/// A server with a backup of the shop, whose database was damaged since then.
fn damaged(major: u32) -> (Server, World) {
    let server = shop(major);
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    server.sql("shop", "DROP VIEW public.spent; DROP TABLE public.item");
    (server, world)
}

fn customers_and_items(server: &Server, database: &str) -> (String, usize) {
    let customers = server.ask(database, "SELECT count(*) FROM public.customer").join("");
    (customers, server.ask(database, "SELECT 1 FROM pg_class WHERE relname = 'item'").len())
}

fn killed_at(world: &World, arguments: &[&str], point: &str) {
    let output = command(world, arguments).env("LIFEBOAT_CRASH_AT", point).output().unwrap();
    let ended = ran(output);
    assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
}

#[test]
fn killed_at_every_point_leaves_the_old_database_or_the_new_one() {
    let (server, world) = damaged(15);
    let backup = run(&world, &["list", "--json"]).expect(0).json()[0]["name"].clone();
    let backup = backup.as_str().unwrap();
    for point in POINTS {
        let arguments = ["restore", backup, "--yes", "--without-safety-backup"];
        killed_at(&world, &arguments, point);
        // What the dead one had begun ends with its sessions.
        server.wait_for(
            "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity \
             WHERE application_name = 'lifeboat' AND pid <> pg_backend_pid())",
        );
        let databases = server.databases();
        let kept: Vec<&String> =
            databases.iter().filter(|name| name.contains("_before_restore_")).collect();
        let left: Vec<&String> =
            databases.iter().filter(|name| name.starts_with("shop_restore_")).collect();
        let is_new = *point == "restore.swapped";
        assert_eq!(
            customers_and_items(&server, "shop"),
            ("100".to_owned(), usize::from(is_new)),
            "{point}"
        );
        assert_eq!(kept.len(), usize::from(is_new), "{point}: {databases:?}");
        for name in kept {
            assert_eq!(customers_and_items(&server, name), ("100".to_owned(), 0), "{point}");
            server.sql("postgres", &format!("DROP DATABASE {name}"));
        }
        // What is left is named, with what removes it, and hinders nothing.
        let planned = run(&world, &["restore", backup, "--dry-run"]).expect(0).out;
        for name in &left {
            let removes = format!("DROP DATABASE \"{name}\"");
            assert!(planned.contains(&removes), "{point}: {planned}");
        }
        run(&world, &arguments).expect(0);
        assert_eq!(customers_and_items(&server, "shop"), ("100".to_owned(), 1), "{point}");
        for name in server.databases().iter().filter(|name| name.contains("_restore_")) {
            server.sql("postgres", &format!("DROP DATABASE {name}"));
        }
        server.sql("shop", "DROP VIEW public.spent; DROP TABLE public.item");
    }
}

#[test]
fn a_dry_run_and_a_question_nobody_answers_change_nothing() {
    let (server, world) = damaged(15);
    let before = (server.text("shop"), server.databases());
    let planned = run(&world, &["restore", "shop", "--dry-run"]).expect(0);
    assert!(planned.out.contains("back up shop as it is now"), "{}", planned.out);
    run(&world, &["restore", "shop"]).expect(24);
    run(&world, &["undo", "shop", "--yes"]).expect(22);
    assert_eq!((server.text("shop"), server.databases()), before);
    assert_eq!(run(&world, &["list", "--json"]).expect(0).json().as_array().unwrap().len(), 1);
}

#[test]
fn twice_in_one_second_keeps_both_old_ones() {
    let (server, world) = damaged(15);
    let at_once = || {
        let mut command = command(&world, &["restore", "shop", "--yes", "--without-safety-backup"]);
        ran(command.env("LIFEBOAT_CLOCK_AT", "2030-01-02T03:04:59Z").output().unwrap()).expect(0)
    };
    at_once();
    at_once();
    let databases = server.databases();
    let kept = databases.iter().filter(|name| name.starts_with("shop_before_restore_20300102_"));
    assert_eq!((kept.clone().count(), databases.len()), (2, 4), "{databases:?}");
    // One of them is the damaged one, the other what the first restore brought.
    let mut items: Vec<usize> = kept.map(|name| customers_and_items(&server, name).1).collect();
    items.sort_unstable();
    assert_eq!(items, [0, 1]);
}

#[test]
fn to_another_database_another_server_and_only_a_part() {
    let (server, world) = damaged(15);
    let other = Server::new(16);
    let whole = ("100".to_owned(), 1);
    run(&world, &["restore", "shop", "--to", &server.url("copy")]).expect(0);
    assert_eq!(customers_and_items(&server, "copy"), whole);
    run(&world, &["restore", "shop", "--to", &other.url("shop")]).expect(0);
    assert_eq!(customers_and_items(&other, "shop"), whole);
    assert_eq!(customers_and_items(&server, "shop").1, 0, "the old one is as it was");

    let to = server.url("part");
    run(&world, &["restore", "shop", "--table", "customer", "--to", &to]).expect(0);
    assert_eq!(customers_and_items(&server, "part"), ("100".to_owned(), 0));
    let to = server.url("public_only");
    run(&world, &["restore", "shop", "--schema", "public", "--to", &to]).expect(0);
    assert_eq!(customers_and_items(&server, "public_only"), whole);
    // A part must not take the place of a whole one.
    run(&world, &["restore", "shop", "--table", "customer", "--to", &server.url("copy"), "--yes"])
        .expect(23)
        .says("must not take its place");
    // A table that the dump does not have is a mistake.
    let ran = run(&world, &["restore", "shop", "--table", "nowhere", "--to", &server.url("none")]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(!server.databases().contains(&"none".to_owned()), "{ran:?}");
    // A file is written, and pg_restore reads it.
    let file = world.text("data/shop.dump");
    run(&world, &["restore", "shop", "--to", &file]).expect(0);
    let mut listed = server.tool("pg_restore", "shop");
    listed = std::process::Command::new(listed.get_program());
    assert!(listed.arg("--list").arg(&file).output().unwrap().status.success());
}

#[test]
fn t14_a_restore_stops_where_what_is_there_cannot_be_saved() {
    let (server, world) = damaged(15);
    let before = (server.text("shop"), server.databases());
    // A reader that is broken: the dump of what is there ends too soon.
    let folder = world.path("programs");
    fs::create_dir(&folder).unwrap();
    let script = "#!/bin/sh\ncase \"$*\" in --version) exec /usr/lib/postgresql/15/bin/pg_dump \
                  --version;; esac\necho 'pg_dump: error: out of luck' >&2; exit 1\n";
    fs::write(folder.join("pg_dump"), script).unwrap();
    crate::support::set_mode(&folder.join("pg_dump"), 0o755);
    let programs = format!("programs = \"{}\"\n", folder.display());
    configure(&world, &server.url("shop"), &programs);
    let refused = run(&world, &["restore", "shop", "--yes"]).expect(23);
    let refused = refused.says("was not touched").says("out of luck");
    refused.says("--without-safety-backup");
    assert_eq!((server.text("shop"), server.databases()), before);
    assert_eq!(world.names("tmp"), [""; 0], "nothing is left where others could read it");
    // Agreed to, the old one stays all the same.
    run(&world, &["restore", "shop", "--yes", "--without-safety-backup"]).expect(0);
    assert_eq!(customers_and_items(&server, "shop").1, 1);
    assert!(server.databases().iter().any(|name| name.starts_with("shop_before_restore_")));
}

#[test]
fn roles_and_extensions_that_are_missing_are_decided_before_the_start() {
    let server = shop(15);
    server.sql(
        "shop",
        "CREATE ROLE owner LOGIN PASSWORD 'hush'; ALTER TABLE public.customer OWNER TO owner; \
         CREATE ROLE maker LOGIN CREATEDB",
    );
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    // Another server has none of them.
    let other = Server::new(18);
    let planned = run(&world, &["restore", "shop", "--to", &other.url("shop"), "--dry-run"]);
    let planned = planned.expect(0).out;
    assert!(planned.contains("make the role owner"), "{planned}");
    assert_eq!(other.databases(), ["postgres"]);
    other.sql("postgres", "CREATE ROLE maker LOGIN CREATEDB");
    let as_maker = other.url_as("maker", "shop");
    run(&world, &["restore", "shop", "--to", &as_maker])
        .expect(23)
        .says("may not make the missing roles: owner")
        .says("--no-owner");
    run(&world, &["restore", "shop", "--to", &as_maker, "--no-owner"]).expect(0);
    assert_eq!(
        other.ask("shop", "SELECT tableowner FROM pg_tables WHERE tablename = 'customer'"),
        ["maker"]
    );
    run(&world, &["restore", "shop", "--to", &other.url("second")]).expect(0);
    assert_eq!(
        other.ask("second", "SELECT tableowner FROM pg_tables WHERE tablename = 'customer'"),
        ["owner"]
    );

    // A script's dump has no roles beside it.
    let third = Server::new(15);
    let output = server.tool("pg_dump", "shop").args(["-Fc", "-Z0"]).output().unwrap();
    fs::write(world.path("data/script.dump"), output.stdout).unwrap();
    run(&world, &["restore", "script.dump", "--to", &third.url("shop")])
        .expect(23)
        .says("the server lacks roles that the dump names: owner")
        .says("CREATE ROLE");
    assert_eq!(third.databases(), ["postgres"]);

    // One that is compressed inside, as -Fc alone makes it, and a part of it.
    let output = server.tool("pg_dump", "shop").arg("-Fc").output().unwrap();
    fs::write(world.path("data/inside.dump"), output.stdout).unwrap();
    let inside = |more: &[&str], to: &str| {
        let words = ["restore", "inside.dump", "--no-owner", "--to", to];
        run(&world, &[&words[..], more].concat()).expect(0);
    };
    inside(&[], &third.url("shop"));
    assert_eq!(customers_and_items(&third, "shop"), ("100".to_owned(), 1));
    inside(&["--table", "customer"], &third.url("part"));
    assert_eq!(third.ask("part", "SELECT count(*) FROM customer"), ["100"]);

    // An extension that another server's host has not.
    let other = Server::new(16);
    let available = "SELECT name FROM pg_available_extensions WHERE name = 'vector'";
    assert_eq!(other.ask("postgres", available), ["vector"]);
    other.sql("postgres", "CREATE EXTENSION vector SCHEMA public");
    run(&world, &["backup", &other.url("postgres"), "--yes"]).expect(0);
    run(&world, &["restore", "postgres", "--to", &third.url("vectors")])
        .expect(23)
        .says("the server lacks extensions of the dump: vector");
}

#[test]
fn what_stands_against_a_swap_is_refused_before_it() {
    let server = Server::with(15, &["max_prepared_transactions=2"]);
    server.sql("postgres", "CREATE DATABASE shop; ");
    server.sql("shop", SHOP);
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    server.sql(
        "shop",
        "BEGIN; INSERT INTO public.customer VALUES (1000, 'x'); PREPARE TRANSACTION 'half'",
    );
    let refused = |ran: Ran, why: &str, mend: &str| {
        ran.expect(23).says(why).says(mend);
        assert_eq!(server.databases(), ["postgres", "shop"]);
    };
    let restore = |url: &str| {
        configure(&world, url, "");
        run(&world, &["restore", "shop", "--yes"])
    };
    refused(restore(&server.url("shop")), "1 prepared transactions of shop", "ROLLBACK PREPARED");
    server.sql("shop", "ROLLBACK PREPARED 'half'");
    server.sql("shop", "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader");
    refused(
        restore(&server.url_as("reader", "shop")),
        "the role reader may not create databases",
        "ALTER ROLE reader CREATEDB",
    );
    server.sql("shop", "ALTER ROLE reader CREATEDB");
    refused(restore(&server.url_as("reader", "shop")), "belongs to postgres", "--to");
    restore(&server.url("shop")).expect(0);
}

#[test]
fn the_undo_that_is_printed_works_as_it_is_printed() {
    let (server, world) = damaged(15);
    let restored = run(&world, &["restore", "shop", "--yes", "--json"]).expect(0).json();
    let printed = restored["undo"].as_str().unwrap().to_owned();
    let line = printed.replacen("lifeboat", env!("CARGO_BIN_EXE_lifeboat"), 1);
    let configuration = world.path("home/config");
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{line} --yes")])
        .env("XDG_CONFIG_HOME", configuration)
        .env("XDG_STATE_HOME", world.path("state"))
        .output()
        .unwrap();
    ran(output).expect(0);
    assert_eq!(customers_and_items(&server, "shop").1, 0);
}

#[test]
fn to_restore_again_brings_no_damage_back() {
    let (server, world) = damaged(15);
    let whole = ("100".to_owned(), 1);
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    assert_eq!(customers_and_items(&server, "shop"), whole);
    // What the restore saved first is the newest of all, and not meant.
    let again = run(&world, &["restore", "shop", "--yes", "--json"]).expect(0).json();
    assert_eq!(customers_and_items(&server, "shop"), whole);
    // By its name it comes back like any other.
    let saved = run(&world, &["list", "--json"]).expect(0).json();
    let saved: Vec<&str> = saved
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["name"].as_str().unwrap())
        .filter(|name| *name != again["what"].as_str().unwrap())
        .collect();
    assert_eq!(saved.len(), 2, "{saved:?}");
    let oldest = saved.iter().min().unwrap();
    run(&world, &["restore", oldest, "--yes", "--without-safety-backup"]).expect(0);
    assert_eq!(customers_and_items(&server, "shop"), ("100".to_owned(), 0));
}
