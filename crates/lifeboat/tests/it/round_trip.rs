//! Backed up, listed, shown, verified, restored: with every compression, check and odd name.

use std::fs;

use rusqlite::Connection;

use crate::support::{World, add_rows, content, make_database, ran, rows};

#[test]
fn every_compression_and_check_comes_back_equal() {
    for compression in ["zstd", "zstd:1", "zstd:19", "gzip", "gzip:1", "none"] {
        for check in ["none", "quick", "full"] {
            let world = World::new();
            let path = world.database("app.db", 2000);
            let before = content(&path);
            let arguments = ["backup", "app.db", "--compress", compression, "--check", check];
            world.repo(&arguments).expect(0);
            world.repo(&["verify", "--level", "full"]).expect(0);
            world.repo(&["restore", "app", "--to", "back.db"]).expect(0);
            assert_eq!(content(&world.path("data/back.db")), before, "{compression} {check}");
        }
    }
}

#[test]
fn odd_names_survive_the_whole_way() {
    for name in [
        "my chat.db",
        "two\nlines.db",
        "чат.db",
        "聊天.sqlite3",
        "a'b\"c$d.db",
        "-dash.db",
        "no ending",
        "a@b.db",
        "%41.db",
    ] {
        let world = World::new();
        let path = world.path("data").join(name);
        make_database(&path, 20);
        let argument = path.to_str().unwrap();
        world.repo(&["backup", argument]).expect(0);
        let list = world.repo(&["list"]).expect(0).out;
        assert_eq!(list.lines().count(), 2, "one line for each backup: {list}");
        world.repo(&["show", argument]).expect(0);
        world.repo(&["verify", argument]).expect(0);
        let connection = Connection::open(&path).unwrap();
        add_rows(&connection, 1000, 5);
        connection.close().unwrap();
        world.repo(&["restore", argument, "--yes"]).expect(0);
        assert_eq!(rows(&path), 20, "{name}");
        world.repo(&["undo", argument, "--yes"]).expect(0);
        assert_eq!(rows(&path), 25, "{name}");
    }
}

#[test]
fn the_command_that_backup_prints_restores() {
    let world = World::new();
    let path = world.path("data/it's my chat.db");
    make_database(&path, 20);
    let ran = world.repo(&["backup", "it's my chat.db", "--json"]).expect(0);
    let command = ran.json()[0]["restore"].as_str().unwrap().to_owned();
    fs::remove_file(&path).unwrap();
    let script =
        format!("{} --yes", command.replacen("lifeboat", env!("CARGO_BIN_EXE_lifeboat"), 1));
    let shell = world.command(&[]);
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", &script]).current_dir("/");
    for (name, value) in shell.get_envs() {
        sh.env(name, value.unwrap());
    }
    let output = sh.output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(&path), 20);
}

#[test]
fn each_way_to_name_a_backup() {
    let world = World::new();
    let path = world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let connection = Connection::open(&path).unwrap();
    add_rows(&connection, 100, 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let list = world.repo(&["list", "--json"]).expect(0).json();
    let taken = |index: usize| {
        list[index]["taken_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let (first, second) = (taken(0), taken(1));
    let name = |index: usize| list[index]["name"].as_str().unwrap().to_owned();
    let compact = name(0).strip_prefix("app-").unwrap().to_owned();
    let artifact = world.path("repo/app").join(format!("{}.db.zst", name(0)));
    let manifest = world.path("repo/app").join(format!("{}.json", name(1)));
    for (expression, expected) in [
        ("app".to_owned(), 1),
        ("app@latest".to_owned(), 1),
        (format!("app@{compact}"), 0),
        (format!("app@{first}"), 0),
        (format!("app@{second}"), 1),
        // Local time, which is UTC here.
        (format!("app@{}", second.strftime("%Y-%m-%dT%H:%M:%S")), 1),
        (name(0), 0),
        (name(1), 1),
        (artifact.to_str().unwrap().to_owned(), 0),
        (format!("file://{}", artifact.to_str().unwrap()), 0),
        (manifest.to_str().unwrap().to_owned(), 1),
        ("app.db".to_owned(), 1),
        (path.to_str().unwrap().to_owned(), 1),
    ] {
        let shown = world.repo(&["show", &expression, "--json"]).expect(0).json();
        assert_eq!(shown["name"], name(expected).as_str(), "{expression}");
    }
    let ran = world.repo(&["restore", "app", "--at", &first.to_string(), "--to", "old.db"]);
    ran.expect(0);
    assert_eq!(rows(&world.path("data/old.db")), 10);
}

#[test]
fn local_times_are_those_of_the_zone() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db"]).expect(0);
    let taken: jiff::Timestamp = {
        let shown = world.repo(&["show", "app", "--json"]).expect(0).json();
        shown["taken_at"].as_str().unwrap().parse().unwrap()
    };
    // A zone that needs no database of zones: 5:45 before UTC, as POSIX counts.
    let offset = jiff::tz::Offset::from_seconds(5 * 3600 + 45 * 60).unwrap();
    let there = taken.to_zoned(jiff::tz::TimeZone::fixed(offset));
    let show = |expression: &str| {
        let mut command = world.repo_command(&["show", expression]);
        crate::support::ran(command.env("TZ", "NPT-5:45").output().unwrap())
    };
    let shown = show(&format!("app@{}", there.strftime("%Y-%m-%d %H:%M:%S"))).expect(0).out;
    assert!(shown.contains(" +05:45 ("), "{shown}");
    // The same digits in UTC lie hours before the backup.
    show(&format!("app@{}", taken.strftime("%Y-%m-%d %H:%M:%S"))).expect(22);
}

#[test]
fn odd_names_of_repositories_survive_as_well() {
    for name in ["a b", "100%", "%41", "données\n2", "#x?y"] {
        let world = World::new();
        let path = world.database("app.db", 20);
        let repository = world.path(name);
        let repository = repository.to_str().unwrap();
        let ran = world.run(&["backup", "app.db", "--repo", repository, "--json"]).expect(0);
        assert!(world.path(name).join("app/source.json").exists(), "{name}");
        let command = ran.json()[0]["restore"].as_str().unwrap().to_owned();
        let url = command.split(" --repo ").nth(1).unwrap().trim_matches('\'');
        fs::remove_file(&path).unwrap();
        world.run(&["restore", "app", "--repo", url, "--yes"]).expect(0);
        assert_eq!(rows(&path), 20, "{name}");
    }
}

#[test]
fn a_dry_run_does_nothing() {
    let world = World::new();
    let path = world.database("app.db", 10);
    let plan = world.repo(&["backup", "app.db", "--dry-run"]).expect(0).out;
    assert!(plan.contains("commit the manifest"), "{plan}");
    assert!(!world.path("repo").exists());
    world.repo(&["backup", "app.db"]).expect(0);
    let before = (fs::read(&path).unwrap(), world.names("data"));
    let plan = world.repo(&["restore", "app", "--dry-run"]).expect(0).out;
    assert!(plan.contains(".before_restore."), "{plan}");
    let plan = world.repo(&["restore", "app", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan["place"], path.to_str().unwrap());
    assert_eq!((fs::read(&path).unwrap(), world.names("data")), before);
}

#[test]
fn the_names_of_both_guides_can_be_had() {
    let world = World::new();
    world.database("superchat.db", 10);
    world.database("admin.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\ncompression = \"gzip\"\n\
         [source.superchat]\nsqlite = \"$DATA/superchat.db\"\n\
         [source.admin]\nsqlite = \"$DATA/admin.db\"\nname = \"admin_sqlite_{date}_{time}\"\n",
    );
    world.run(&["backup"]).expect(0);
    let has_form = |name: &str, form: &str| {
        let digits: String =
            name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        digits == form
    };
    let of = |source: &str| world.artifact(source, ".db.gz").file_name().unwrap().to_owned();
    assert!(has_form(of("superchat").to_str().unwrap(), "superchat-00000000-000000.db.gz"));
    assert!(has_form(of("admin").to_str().unwrap(), "admin_sqlite_00000000_000000.db.gz"));
    world.run(&["restore", "admin@latest", "--to", "back.db"]).expect(0);
}

#[test]
fn each_repository_of_a_source_gets_its_backup() {
    let world = World::new();
    world.database("app.db", 10);
    let other = world.text("other");
    world.configure(&format!(
        "[repository.one]\nurl = \"file://$REPO\"\n[repository.two]\nurl = \"file://{other}\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n\
         [source.second]\nsqlite = \"$DATA/app.db\"\nrepository = \"two\"\n"
    ));
    world.run(&["backup", "app"]).expect(0);
    assert!(world.path("repo/app").exists() && world.path("other/app").exists());
    let list = world.run(&["list", "app"]).expect(0).out;
    assert!(list.contains("repository") && list.lines().count() == 3, "{list}");
    world.run(&["list", "--repo", "two"]).expect(0);
    // One of them broken: the other takes its backup, and the run says that it is not all.
    world.run(&["backup", "second"]).expect(0);
    fs::rename(world.path("repo"), world.path("moved")).unwrap();
    fs::write(world.path("repo"), "a file").unwrap();
    world.run(&["backup", "app"]).expect(3).says("1 of 2 backups failed, 1 are good");
    fs::remove_file(world.path("repo")).unwrap();
    fs::rename(world.path("moved"), world.path("repo")).unwrap();
    // One of them lost: the other restores, and lists say that they are incomplete.
    fs::remove_dir_all(world.path("repo")).unwrap();
    world.run(&["restore", "app", "--to", "back.db"]).expect(0).says("left out");
    assert_eq!(rows(&world.path("data/back.db")), 10);
    world.run(&["list"]).expect(3);
}

#[test]
fn a_database_without_configuration_goes_to_the_default_repository() {
    let world = World::new();
    world.database("app.db", 10);
    // Without what tells tests from people, root's is a folder of the host; a plan writes nothing.
    let mut command = world.command(&["backup", "app.db", "--dry-run"]);
    let plan = ran(command.env_remove("LIFEBOAT_DEFAULT_REPOSITORY").output().unwrap()).expect(0);
    let of_root = if crate::support::is_root() { "file:///var/backups/lifeboat" } else { "home/" };
    assert!(plan.out.contains(of_root), "{plan:?}");
    world.run(&["backup", "app.db"]).expect(0).says("home/data/lifeboat");
    assert!(world.path("home/data/lifeboat/app").exists());
}

#[test]
fn a_pin_is_kept_in_the_manifest() {
    let world = World::new();
    world.database("app.db", 10);
    world.repo(&["backup", "app.db", "--pin", "before v2"]).expect(0);
    assert_eq!(world.repo(&["show", "app", "--json"]).expect(0).json()["pin"], "before v2");
}

#[test]
fn a_cold_backup_stops_and_starts_its_service() {
    let world = World::new();
    world.database("app.db", 10);
    let log = world.text("log");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = {{ path = \"$DATA/app.db\", method = \"cold\" }}\n\
         service = {{ stop = [\"sh\", \"-c\", \"echo stop >> {log}\"], \
                      start = [\"sh\", \"-c\", \"echo start >> {log}\"] }}\n"
    ));
    world.run(&["backup"]).expect(0);
    assert_eq!(fs::read_to_string(&log).unwrap(), "stop\nstart\n");
    assert_eq!(world.run(&["show", "app", "--json"]).expect(0).json()["method"], "cold");
    // Started again also where the backup fails, and where it is killed.
    fs::remove_file(&log).unwrap();
    let killed = world
        .command(&["backup"])
        .env("LIFEBOAT_CRASH_AT", "backup.artifact.streamed")
        .output()
        .unwrap();
    assert_eq!(crate::support::ran(killed).code, 128 + 9);
    crate::follow::wait_for("a service that was started again", || {
        fs::read_to_string(&log).is_ok_and(|text| text == "stop\nstart\n")
    });
}
