//! Configuration: where it is found, what it refuses and how it says so.

use std::fs;

use crate::support::{World, mode, rows};

fn refused(text: &str) -> String {
    let world = World::new();
    let path = world.path("c.toml");
    fs::write(&path, text).unwrap();
    let ran = world.run(&["--config", path.to_str().unwrap(), "config", "show"]).expect(2);
    assert_eq!(ran.out, "");
    ran.err.replace(path.to_str().unwrap(), "c.toml")
}

const HINT: &str =
    "  hint: `lifeboat config schema` lists every key, `lifeboat config check` tries the file\n";

#[test]
fn an_unknown_key_is_shown_with_its_place_and_what_was_meant() {
    let text = "[repository.local]\nurl = \"file:///b\"\n  compresion = \"zstd\"\n";
    let expected = "error: c.toml:3:3: unknown key `compresion`, did you mean `compression`?
   |
 3 |   compresion = \"zstd\"
   |   ^^^^^^^^^^
";
    assert_eq!(refused(text), format!("{expected}{HINT}"));
}

#[test]
fn an_unknown_key_in_a_table_in_a_section() {
    let text = "[source.chat]\nsqlite = { path = \"/x\", metod = \"cold\" }\n";
    let expected = "error: c.toml:2:25: unknown key `metod`, did you mean `method`?
   |
 2 | sqlite = { path = \"/x\", metod = \"cold\" }
   |                         ^^^^^
";
    assert_eq!(refused(text), format!("{expected}{HINT}"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = "hots = \"x\"\n[repository.r]\nurl = 3\n\
                [source.a]\nsqlite = \"/a\"\ncheck = \"quik\"\n\
                [source.b]\nfiles = [\"/x\", \"y\"]\n";
    let err = refused(text);
    assert!(err.starts_with("error: the configuration has 4 mistakes\n"), "{err}");
    for line in [
        "c.toml:1:1: unknown key `hots`, did you mean `host`?",
        "c.toml:3:7: invalid type: integer `3`, expected a string",
        "c.toml:6:9: unknown value `quik`, did you mean `quick`?",
        "c.toml:8:16: `y` is not an absolute path",
    ] {
        assert!(err.lines().any(|found| found == line), "{line} is not in\n{err}");
    }
}

#[test]
fn broken_toml_has_a_place() {
    let err = refused("[source.a]\nsqlite = \"/a\n");
    assert!(err.starts_with("error: c.toml:2:"), "{err}");
    let err = refused("[source.a\n");
    assert!(err.starts_with("error: c.toml:1:"), "{err}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (text, line) in [
        (
            "[source.a]\nkeep = \"forever\"\n",
            "c.toml:1:9: it has neither `sqlite` nor `postgres` nor `files`",
        ),
        (
            "[source.a]\nsqlite = \"x.db\"\n",
            "c.toml:2:1: the path is not absolute (`~` is not expanded)",
        ),
        (
            "[source]\nsqlite = \"/x.db\"\n",
            "c.toml:2:1: `sqlite` stands in [source] itself: write [source.NAME]",
        ),
        (
            "[source.a]\nsqlite = \"/x\"\nrepository = \"b\"\n",
            "c.toml:3:1: unknown repository `b`: none is configured",
        ),
        (
            "[source.a]\nsqlite = { path = \"/x\", method = \"cold\" }\n",
            "c.toml:2:25: `method = \"cold\"` needs a `service` to stop and start",
        ),
        (
            "[source.a]\nsqlite = \"/x\"\nwhen = \"on-change\"\n",
            "c.toml:3:1: `when = \"on-change\"` is for sources of files alone",
        ),
        (
            "[source.a]\nsqlite = \"/x\"\nname = \"x-{date}\"\n",
            "c.toml:3:8: the name pattern `x-{date}` must contain {date} and {time}, or names would repeat: an example: {source}-{date}-{time}",
        ),
        (
            "[source.\"a/b\"]\nsqlite = \"/x\"\n",
            "c.toml:1:9: `a/b` cannot be the name of a source: no `/`, `@` or control character in it, no `.` or `-` at its start, 200 bytes at most",
        ),
        ("[repository.a]\nurl = \"/b\"\n", "c.toml:2:1: `/b` is not the URL of a repository"),
        ("[repository.a]\ncompression = \"none\"\n", "c.toml:1:1: the key `url` is missing"),
        (
            "[source.a]\nsqlite = \"/x\"\nrpo = \"1 fortnight\"\n",
            "c.toml:3:7: `1 fortnight` is not a length of time: write 90s, 15m, 1h, 7d or 2w",
        ),
        (
            "[source.a]\nsqlite = \"/x\"\nkeep = { hourlyy = 2 }\n",
            "c.toml:3:10: unknown key `hourlyy`, did you mean `hourly`?",
        ),
        (
            "[source.a]\nsqlite = \"/x\"\nservice = { stop = [\"a\"] }\n",
            "c.toml:3:1: `stop` and `start` belong together",
        ),
    ] {
        let err = refused(text);
        assert_eq!(err.lines().next().unwrap(), format!("error: {line}"), "{text}");
    }
}

#[test]
fn a_configuration_that_was_named_and_is_missing_is_an_error() {
    let world = World::new();
    world.database("app.db", 10);
    let ran = world.run(&["--config", "/no/such.toml", "backup", "app.db"]).expect(2);
    assert!(ran.err.contains("cannot read the configuration /no/such.toml"), "{}", ran.err);
    let output = world
        .command(&["config", "show"])
        .env("LIFEBOAT_CONFIG", world.path("nowhere.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_search_has_an_order_and_reads_fragments() {
    let world = World::new();
    world.configure("[repository.local]\nurl = \"file:///main\"\n");
    let fragments = world.path("home/config/lifeboat/conf.d");
    fs::create_dir(&fragments).unwrap();
    fs::write(fragments.join("b.toml"), "[source.b]\nsqlite = \"/b.db\"\n").unwrap();
    fs::write(fragments.join("a.toml"), "[source.a]\nsqlite = \"/a.db\"\n").unwrap();
    fs::write(fragments.join(".hidden.toml"), "nonsense").unwrap();
    fs::write(fragments.join("notes.txt"), "nonsense").unwrap();
    let shown = world.run(&["config", "show"]).expect(0).out;
    assert!(shown.contains("[repository.local]") && shown.contains("[source.a]"), "{shown}");
    assert!(shown.contains("conf.d/b.toml:2"), "{shown}");
    assert!(shown.contains("# default"), "{shown}");

    // The same section twice names both places.
    fs::write(fragments.join("c.toml"), "[source.a]\nsqlite = \"/c.db\"\n").unwrap();
    let ran = world.run(&["config", "show"]).expect(2);
    assert!(ran.err.contains("[source.a] is already in"), "{}", ran.err);
    assert!(ran.err.contains("conf.d/a.toml:1"), "{}", ran.err);

    // A file that is named is read alone.
    let named = world.path("named.toml");
    fs::write(&named, "[repository.other]\nurl = \"file:///named\"\n").unwrap();
    let shown = world.run(&["config", "show", "--config", named.to_str().unwrap()]).expect(0).out;
    assert!(shown.contains("repository.other") && !shown.contains("source"), "{shown}");
}

#[test]
fn config_init_writes_an_example_that_works_and_never_overwrites() {
    let world = World::new();
    world.run(&["config", "init", "--example"]).expect(0).says("is written");
    let path = world.path("home/config/lifeboat/config.toml");
    assert_eq!(mode(&path), 0o600);
    world.run(&["config", "show"]).expect(0);
    let before = fs::read(&path).unwrap();
    world.run(&["config", "init", "--example"]).expect(23).says("is not overwritten");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn config_check_looks_at_sources_and_names_what_is_used_later() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\nkeep = { last = 3 }\nrto = \"1h\"\n\
         [source.gone]\nsqlite = \"$DATA/gone.db\"\n[agent]\nlisten = \"127.0.0.1:6464\"\n",
    );
    let ran = world.run(&["config", "check"]).expect(15);
    assert!(ran.out.contains("ok source app: SQLite, WAL mode"), "{}", ran.out);
    assert!(ran.out.contains("failed source gone: "), "{}", ran.out);
    assert!(ran.out.contains("none yet, the first backup makes it"), "{}", ran.out);
    assert!(!ran.err.contains("source.app.schedule"), "{}", ran.err);
    assert!(ran.err.contains("agent"), "{}", ran.err);
    assert!(!ran.err.contains("source.app.rto"), "{}", ran.err);
    assert!(!ran.err.contains("source.app.keep"), "{}", ran.err);
    assert!(!world.path("repo").exists(), "a check must make nothing");
    assert!(!world.path("data/gone.db").exists(), "a check must make nothing");
}

#[test]
fn the_schema_is_json_with_every_key() {
    let schema = World::new().run(&["config", "schema"]).expect(0).json();
    let source = &schema["$defs"]["SourceConfig"];
    assert_eq!(source["additionalProperties"], false);
    for key in ["sqlite", "files", "repository", "name", "check", "keep", "rpo", "service", "id"] {
        assert!(source["properties"][key]["description"].is_string(), "{key}");
    }
}

#[test]
fn a_glob_makes_a_source_of_each_database_and_never_none() {
    let world = World::new();
    for tenant in ["one", "two"] {
        fs::create_dir(world.path("data").join(tenant)).unwrap();
        world.database(&format!("{tenant}/app.db"), 10);
    }
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.tenant]\nsqlite = { glob = \"$DATA/*/app.db\" }\n",
    );
    world.run(&["backup"]).expect(0);
    let backups = world.run(&["list", "--json"]).expect(0).json();
    let sources: Vec<&str> = backups
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["source"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(sources, ["tenant-one", "tenant-two"]);
    world.run(&["restore", "tenant-two", "--to", "back.db"]).expect(0);
    assert_eq!(rows(&world.path("data/back.db")), 10);

    world.configure("[source.tenant]\nsqlite = { glob = \"$DATA/*/none.db\" }\n");
    world.repo(&["backup"]).expect(15).says("matches no database");
}

#[test]
fn the_variables_of_the_chatbots_scripts_are_understood() {
    let world = World::new();
    world.database("admin.db", 10);
    let output = world
        .command(&["backup"])
        .env("ADMIN_DB_TYPE", "sqlite")
        .env("ADMIN_DB_PATH", "./admin.db")
        .env("BACKUP_DIR", world.path("backups"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let names = world.names("backups/admin");
    let database = names.iter().find(|name| name.ends_with(".db.zst")).unwrap();
    assert!(database.starts_with("admin_sqlite_20"), "{database}");
}

#[test]
fn a_file_of_the_chatbots_variables_is_read_as_a_shell_reads_it() {
    let world = World::new();
    world.database("chat bot.db", 10);
    let env = world.path("data/.env");
    let text = "APP_NAME=My Chatbot\nexport ADMIN_DB_PATH=\"./chat bot.db\" # there\n\
                BACKUP_DIR='../from file'\nRETENTION_DAYS=30\n";
    fs::write(&env, text).unwrap();
    world.run(&["backup"]).expect(0);
    assert_eq!(world.names("from file/chat bot").len(), 4, "manifest, database, pages, source");
    // Elsewhere, the file's folder is what paths are relative to; the environment wins.
    let mut command = world.command(&["backup", "--env-file", env.to_str().unwrap()]);
    command.current_dir("/").env("BACKUP_DIR", world.path("from environment"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(" --env-file "), "{said}");
    assert_eq!(world.names("from environment/chat bot").len(), 4);
    assert_eq!(world.names("from file/chat bot").len(), 4);
}

#[test]
fn a_file_of_variables_that_cannot_be_meant_is_an_error() {
    let world = World::new();
    world.database("app.db", 10);
    let env = world.text("data/.env");
    let with = |text: &str| fs::write(&env, text).unwrap();
    with("ADMIN_DB_PATH=$(find . -name app.db)\n");
    world.run(&["backup"]).expect(2).says("line 1: ADMIN_DB_PATH is given with the command");
    with("ADMIN_DB_TYPE=postgres\nADMIN_DATABASE_URL=postgresql://u:secret@h:x/d\n");
    let ran = world.run(&["backup"]).expect(2).says("ADMIN_DATABASE_URL is not the address");
    assert!(!ran.err.contains("secret"), "{}", ran.err);
    world.run(&["backup", "--env-file", "gone"]).expect(2).says("cannot read gone");
    // Of another program: nothing in it is ours, whatever it says.
    with("KEY=$(pass show key)\n");
    world.repo(&["backup", "app.db"]).expect(0);
    world.run(&["backup", "--env-file", &env]).expect(2).says("command substitution");
}

/// What a preset writes is taken by the program, and backs up all four parts of a server.
#[test]
fn the_preset_of_superchat_covers_the_server() {
    let world = World::new();
    let path = world.path("home/config/lifeboat/config.toml");
    world.run(&["init", "--preset", "superchat"]).expect(0);
    assert_eq!(mode(&path), 0o600);
    let before = fs::read_to_string(&path).unwrap();
    world.run(&["init", "--preset", "gpt-chatbot"]).expect(23).says("is not overwritten");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    world.run(&["config", "show"]).expect(0);
    let (home, data, repo) = (world.text("home"), world.text("data"), world.text("repo"));
    let mut text = before.replace("/var/backups/lifeboat", &repo);
    for folder in ["/var/lib/superchat", "/etc/superchat", &format!("{home}/.superchat")] {
        text = text.replace(folder, &data);
    }
    fs::write(&path, text).unwrap();
    world.database("superchat.db", 10);
    for name in ["ssh_host_key", "config.toml", "server.log"] {
        fs::write(world.path("data").join(name), name).unwrap();
    }
    world.run(&["backup"]).expect(0);
    let status = world.run(&["status", "--json"]).expect(0).json();
    assert_eq!(status.as_array().unwrap().len(), 4, "{status}");
    let lines = world.run(&["install", "cron", "--user"]).expect(0).out;
    assert_eq!(lines.matches(" backup superchat").count(), 4, "{lines}");
}

#[test]
fn the_preset_of_the_chatbot_is_taken() {
    let world = World::new();
    world.run(&["init", "--preset", "gpt-chatbot"]).expect(0);
    let shown = world.run(&["config", "show"]).expect(0).out;
    assert!(shown.contains("monthly = 12") && shown.contains("/.env"), "{shown}");
    world.run(&["init", "--yes"]).expect(23).says("is not overwritten");
    world.run(&["init", "--preset", "superhcat"]).expect(2);
}
