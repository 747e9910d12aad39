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
        // What is left is named, hinders nothing, and goes.
        let planned = run(&world, &["restore", backup, "--dry-run"]).expect(0).out;
        for name in &left {
            let drops = format!("drop {name}, which a killed restore left");
            assert!(planned.contains(&drops), "{point}: {planned}");
        }
        run(&world, &arguments).expect(0);
        assert_eq!(customers_and_items(&server, "shop"), ("100".to_owned(), 1), "{point}");
        assert!(!server.databases().iter().any(|name| name.starts_with("shop_restore_")));
        for name in server.databases().iter().filter(|name| name.contains("_restore_")) {
            server.sql("postgres", &format!("DROP DATABASE {name}"));
        }
        server.sql("shop", "DROP VIEW public.spent; DROP TABLE public.item");
    }
}

/// A folder with a `pg_restore` that loads as the real one, and is held where it has begun with the
/// rows: those of a file before the first one, those of a pipe after some of them.
fn held_loader(world: &World) -> String {
    let folder = world.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let script = "#!/bin/bash
here='HERE'; real=/usr/lib/postgresql/15/bin/pg_restore
hold() { touch $here/held; while [ ! -e $here/go ]; do sleep 0.01; done; }
case \"$*\" in
  *--jobs*) case \"$*\" in *post-data*) ;; *) hold;; esac; $real \"$@\";;
  *--section=data*) { dd bs=4096 count=4 iflag=fullblock status=none; hold; cat; } | $real \"$@\";;
  *'-f -') $real \"$@\" | { dd bs=4096 count=4 iflag=fullblock status=none; hold; cat; };;
  *) exec $real \"$@\";;
esac
code=$?; touch $here/ended; exit $code
";
    let path = folder.join("pg_restore");
    lifeboat_test_support::executable(&path, &script.replace("HERE", &world.text("tmp")));
    format!("programs = \"{}\"\n", folder.display())
}

fn wait_for_file(world: &World, name: &str) {
    crate::follow::wait_for(name, || world.path("tmp").join(name).exists());
}

/// Kills a restore while its loader is held, and lets the loader come to its end.
pub(crate) fn killed_while_loading(world: &World, url: &str, arguments: &[&str]) {
    let loader = held_loader(world);
    configure(world, url, &loader);
    for name in ["held", "go", "ended"] {
        let _ = fs::remove_file(world.path("tmp").join(name));
    }
    let mut child = command(world, arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_for_file(world, "held");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(world.path("tmp/go"), "").unwrap();
    wait_for_file(world, "ended");
    configure(world, url, "");
}

#[test]
fn killed_among_the_rows_nothing_is_lost_and_the_next_one_tidies_up() {
    let server = shop(15);
    server.sql(
        "shop",
        "CREATE TABLE public.message AS SELECT i AS id, repeat(md5(i::text), 9) AS body \
         FROM generate_series(1, 20000) AS i",
    );
    let url = server.url("shop");
    let world = world_of(&url);
    let whole = server.text("shop");
    run(&world, &["backup"]).expect(0);
    let output = server.tool("pg_dump", "shop").arg("-Fc").output().unwrap();
    fs::write(world.path("data/script.dump"), output.stdout).unwrap();
    server.sql("shop", "DELETE FROM public.message WHERE id > 5");
    let damaged = server.text("shop");
    // Of ours, from a file; of a script's, while it is read.
    let of_a_script = ["restore", "script.dump", "--to", &url, "--yes", "--without-safety-backup"];
    for arguments in [&["restore", "shop", "--yes", "--without-safety-backup"][..], &of_a_script] {
        killed_while_loading(&world, &url, arguments);
        assert!(server.text("shop") == damaged, "{arguments:?}");
        let left = server.databases().into_iter().filter(|name| name != "shop").count();
        assert_eq!(left, 2, "{:?}", server.databases());
        server.wait_for(
            "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity \
             WHERE datname LIKE 'shop_restore_%')",
        );
        run(&world, arguments).expect(0);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert!(sorted(&server.text("shop")) == sorted(&whole), "{arguments:?}");
        run(&world, &["undo", "shop", "--yes"]).expect(0);
        assert!(server.text("shop") == damaged);
        for name in server.databases().iter().filter(|name| name.contains("_before_")) {
            server.sql("postgres", &format!("DROP DATABASE {name}"));
        }
        assert_eq!(server.databases(), ["postgres", "shop"]);
    }
}

#[test]
fn what_only_a_superuser_may_make_is_refused_by_the_plan() {
    let server = shop(15);
    server.sql(
        "shop",
        "CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql \
         AS $$BEGIN NULL; END$$; CREATE ROLE maker LOGIN CREATEDB; \
         CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION public.note()",
    );
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    let as_maker = server.url_as("maker", "copy");
    run(&world, &["restore", "shop", "--no-owner", "--to", &as_maker, "--dry-run"])
        .expect(23)
        .says("what only a superuser may make, and maker is none: event trigger noted")
        .says("connect as a superuser");
    assert_eq!(server.databases(), ["postgres", "shop"]);
    run(&world, &["restore", "shop", "--to", &server.url("copy")]).expect(0);
    assert_eq!(server.ask("copy", "SELECT evtname FROM pg_event_trigger"), ["noted"]);
}

#[test]
fn who_may_do_what_with_a_database_comes_back_with_it() {
    let server = shop(15);
    server.sql(
        "postgres",
        "CREATE ROLE \"the app\" LOGIN; CREATE ROLE clerk; \
         REVOKE ALL ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO \"the app\"; \
         GRANT CREATE ON DATABASE shop TO clerk WITH GRANT OPTION; \
         ALTER DATABASE shop CONNECTION LIMIT 17; COMMENT ON DATABASE shop IS 'it''s ours'",
    );
    let about = |server: &Server, name: &str| {
        let query = format!(
            "SELECT (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a), \
             datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database \
             WHERE datname = '{name}'"
        );
        server.ask("postgres", &query)
    };
    let before = about(&server, "shop");
    let world = world_of(&server.url("shop"));
    run(&world, &["backup"]).expect(0);
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    assert_eq!(about(&server, "shop"), before);
    // On another server the roles are made that have these rights alone.
    let other = Server::new(18);
    run(&world, &["restore", "shop", "--to", &other.url("shop")]).expect(0);
    assert_eq!(about(&other, "shop"), before);
    // As it is with every new database.
    server.sql("postgres", "CREATE DATABASE plain");
    let plain = world_of(&server.url("plain"));
    run(&plain, &["backup"]).expect(0);
    run(&plain, &["restore", "shop", "--yes"]).expect(0);
    assert_eq!(about(&server, "plain"), ["|-1|"]);
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
    lifeboat_test_support::executable(&folder.join("pg_dump"), script);
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
