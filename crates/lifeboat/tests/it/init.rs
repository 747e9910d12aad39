//! `lifeboat init`: what it finds on a host, what it leaves out and says, and that what it writes
//! is a configuration that backs up. The host is a folder with a `/proc` of its own, but for the
//! test that has a real process hold a real database.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::postgres_server::{self, Server};
use crate::support::{Holder, Ran, World, is_root, make_database, mode, ran, set_mode};

/// A host below `root`.
fn host() -> World {
    let world = World::new();
    fs::create_dir(world.path("root")).unwrap();
    world
}

/// A file of the host, its folders made.
fn file(world: &World, path: &str, content: &str) -> PathBuf {
    let path = place(world, path);
    fs::write(&path, content).unwrap();
    path
}

fn database(world: &World, path: &str) -> PathBuf {
    let path = place(world, path);
    make_database(&path, 5);
    path
}

fn place(world: &World, path: &str) -> PathBuf {
    let path = world.path("root").join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

/// A process that has those files open.
fn process(world: &World, pid: u32, name: &str, cgroup: &str, open: &[&str]) {
    file(world, &format!("/proc/{pid}/comm"), &format!("{name}\n"));
    file(world, &format!("/proc/{pid}/cgroup"), cgroup);
    let folder = place(world, &format!("/proc/{pid}/fd/0"));
    for (number, target) in open.iter().enumerate() {
        symlink(target, folder.with_file_name((number + 3).to_string())).unwrap();
    }
}

fn init(world: &World, arguments: &[&str]) -> Ran {
    let root = world.text("root");
    world.run(&[&["init", "--root", &root][..], arguments].concat())
}

fn found(ran: &Ran) -> Vec<(String, String)> {
    let json = ran.json();
    let sources = json["sources"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    sources.map(|source| (text(&source["name"]), text(&source["path"]))).collect()
}

fn pair(name: &str, path: &str) -> (String, String) {
    (name.to_owned(), path.to_owned())
}

#[test]
fn databases_are_found_where_they_lie_and_by_their_first_bytes() {
    let world = host();
    database(&world, "/var/lib/superchat/superchat.db");
    database(&world, "/home/ann/.superchat/superchat.db");
    database(&world, "/home/ann/.local/share/notes/n.sqlite");
    database(&world, "/srv/shop/data/app.db");
    // A name that says nothing, found by what is beside it.
    let odd = database(&world, "/opt/odd/state.bin");
    let writer = Connection::open(&odd).unwrap();
    writer.execute_batch("CREATE TABLE more(x);").unwrap();
    // What is no database, whatever its name.
    file(&world, "/var/lib/other/other.db", &"x".repeat(5000));
    file(&world, "/var/lib/other/empty.db", "");
    let ran = init(&world, &["--dry-run", "--json"]).expect(0);
    assert_eq!(
        found(&ran),
        [
            pair("n", "/home/ann/.local/share/notes/n.sqlite"),
            pair("superchat", "/home/ann/.superchat/superchat.db"),
            pair("state", "/opt/odd/state.bin"),
            pair("shop", "/srv/shop/data/app.db"),
            pair("superchat-superchat", "/var/lib/superchat/superchat.db"),
        ]
    );
    assert!(!world.path("root/etc").exists(), "a plan writes nothing");
}

#[test]
fn copies_caches_and_repositories_are_left_out_and_said() {
    let world = host();
    for path in [
        "/var/lib/superchat/superchat.db.backup-v2-20250105-140000",
        "/var/lib/superchat/superchat.db.before_restore.20250105-140000",
        "/var/lib/superchat/superchat-20250105-140000.db",
        "/home/ann/.mozilla/places.sqlite",
        "/srv/shop/node_modules/x/x.db",
        "/srv/shop/backups/app.db",
        "/srv/repo/app/app-20250105-140000.db",
    ] {
        database(&world, path);
    }
    file(&world, "/srv/repo/lifeboat.json", "{}");
    database(&world, "/var/lib/superchat/superchat.db");
    let ran = init(&world, &["--dry-run", "--json"]).expect(0);
    assert_eq!(found(&ran), [pair("superchat", "/var/lib/superchat/superchat.db")]);
    let left = ran.json()["left_out"].to_string();
    for (path, reason) in [
        ("backup-v2", "before a restore or a migration"),
        ("before_restore", "before a restore or a migration"),
        ("superchat-20250105-140000.db", "a copy, by its name"),
        (".mozilla", "the profile of a browser"),
        ("node_modules", "programs and their parts"),
        ("/srv/shop/backups", "a folder of copies"),
        ("/srv/repo", "a repository of backups"),
    ] {
        assert!(left.contains(path) && left.contains(reason), "{path}: {left}");
    }
    // Who names a folder means it.
    let named = world.text("root/srv/shop/backups");
    let ran = init(&world, &["--dry-run", "--json", &named]).expect(0);
    assert!(found(&ran).contains(&pair("backups", "/srv/shop/backups/app.db")), "{}", ran.out);
}

#[test]
fn what_a_process_has_open_is_found_anywhere_with_its_unit() {
    let world = host();
    database(&world, "/usr/lib/strange/place");
    database(&world, "/tmp/scratch.db");
    database(&world, "/home/ann/.cache/x/cache.db");
    file(&world, "/srv/notes.txt", "no database");
    let unit = "0::/system.slice/strange.service\n";
    let open = [
        "/usr/lib/strange/place",
        "/usr/lib/strange/place-wal",
        "/tmp/scratch.db",
        "/home/ann/.cache/x/cache.db",
        "/srv/notes.txt",
        "socket:[77]",
        "/srv/gone.db",
    ];
    process(&world, 812, "strange", unit, &open);
    let ran = init(&world, &["--dry-run", "--json"]).expect(0);
    assert_eq!(found(&ran), [pair("place", "/usr/lib/strange/place")]);
    let source = &ran.json()["sources"][0];
    assert_eq!(source["service"], "strange.service");
    assert_eq!(source["open_in"].as_array().unwrap().len(), 1, "{source}");
    let left = ran.json()["left_out"].to_string();
    assert!(left.contains("scratch.db") && left.contains("temporary"), "{left}");
    let text = ran.json()["configuration"].as_str().unwrap().to_owned();
    assert!(text.contains("service = \"strange.service\""), "{text}");
    assert!(text.contains("open in strange (812)"), "{text}");
    // Two units that have it open: neither is the one to stop.
    process(&world, 900, "visitor", "0::/system.slice/visitor.service\n", &open[..1]);
    let ran = init(&world, &["--dry-run", "--json"]).expect(0);
    assert_eq!(ran.json()["sources"][0]["service"], serde_json::Value::Null);
}

#[test]
fn companions_have_sources_of_their_own() {
    let world = host();
    database(&world, "/var/lib/superchat/superchat.db");
    file(&world, "/var/lib/superchat/ssh_host_key", "KEY");
    file(&world, "/etc/superchat/config.toml", "port = 1");
    let ran = init(&world, &["--dry-run"]).expect(0);
    let config: toml_like::Sections = toml_like::sections(&ran.out);
    assert_eq!(config.names(), ["superchat", "superchat-host-key", "superchat-config"]);
    assert!(config.has("superchat-host-key", "keep = \"forever\""), "{}", ran.out);
    assert!(config.has("superchat-host-key", "when = \"on-change\""), "{}", ran.out);
    assert!(config.has("superchat-config", "/etc/superchat/config.toml"), "{}", ran.out);
    assert!(ran.err.contains("lifeboat init --preset superchat"), "{}", ran.err);
}

#[test]
fn tenants_of_one_application_are_one_source_with_a_glob() {
    let world = World::new();
    let tenants = ["ann", "bob", "cyd", "dan"];
    for tenant in tenants {
        fs::create_dir_all(world.path("data/tenants").join(tenant)).unwrap();
        world.database(&format!("tenants/{tenant}/app.db"), 5);
    }
    // Names that the file must not have twice.
    world.database("tenants-ann.db", 5);
    world.database("tenants-ann-config.db", 5);
    fs::write(world.path("data/config.toml"), "").unwrap();
    let folder = world.text("data");
    let (ours, path) = (world.text("data/tenants"), world.text("home/config/lifeboat/config.toml"));
    // By its name, not as the current folder: what else this host has is not asked for.
    world.run(&["init", "--yes", &folder, "--config", &path]).expect(0);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("sqlite = {{ glob = \"{ours}/*/app.db\" }}")), "{text}");
    let shown = world.run(&["config", "show", "--json"]).expect(0).json();
    let names: Vec<&str> = shown["sections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| section["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"source.tenants"), "{names:?}");
    world.run(&["backup", "tenants", "--repo", &world.text("repo")]).expect(0);
    for tenant in tenants {
        assert!(!world.names(&format!("repo/tenants-{tenant}")).is_empty(), "{tenant}");
    }
    // Nothing has a name twice, or a run of all would say so.
    let ran = world.run(&["backup", "--dry-run", "--repo", &world.text("repo")]);
    assert!(!ran.err.contains("have the name"), "{}", ran.err);
}

/// Just as much of the file's form as the tests need.
mod toml_like {
    pub(super) struct Sections(Vec<(String, String)>);

    pub(super) fn sections(text: &str) -> Sections {
        let parts = text.split("\n[source.").skip(1);
        let named = parts.map(|part| {
            let (name, rest) = part.split_once(']').unwrap();
            (name.to_owned(), rest.to_owned())
        });
        Sections(named.collect())
    }

    impl Sections {
        pub(super) fn names(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| name.as_str()).collect()
        }

        pub(super) fn has(&self, name: &str, text: &str) -> bool {
            self.0.iter().any(|(found, body)| found == name && body.contains(text))
        }
    }
}

#[test]
fn clusters_of_postgresql_are_named_and_not_called_protected() {
    let world = host();
    database(&world, "/srv/app/app.db");
    let conf = "data_directory = '/var/lib/postgresql/15/main'\nport = 5433 # changed\n";
    file(&world, "/etc/postgresql/15/main/postgresql.conf", conf);
    file(&world, "/var/lib/postgresql/15/main/PG_VERSION", "15\n");
    let pid = "812\n/var/lib/postgresql/15/main\n1700000000\n5433\n/var/run/postgresql\n";
    file(&world, "/var/lib/postgresql/15/main/postmaster.pid", pid);
    process(&world, 812, "postgres", "", &[]);
    file(&world, "/var/run/postgresql/.s.PGSQL.5433", "");
    file(&world, "/srv/pg/PG_VERSION", "16\n");
    let ran = init(&world, &["--dry-run"]).expect(0);
    let said = "# found, not yet protected: PostgreSQL 15, port 5433, data in \
                /var/lib/postgresql/15/main, running\n";
    assert!(ran.out.contains(said), "{}", ran.out);
    let other = "PostgreSQL 16, data in /srv/pg, not seen running";
    assert!(ran.out.contains(other), "{}", ran.out);
    assert_eq!(ran.out.matches("not yet protected").count(), 2, "{}", ran.out);
    assert!(ran.err.contains("found, not yet protected: PostgreSQL 15"), "{}", ran.err);
    // With nothing else there is nothing to write.
    fs::remove_dir_all(world.path("root/srv/app")).unwrap();
    init(&world, &["--yes"]).expect(15).says("no PostgreSQL server lets us in");
    assert!(!world.path("root/etc/lifeboat").exists());
}

#[test]
fn what_is_written_is_private_taken_and_never_overwritten() {
    let world = host();
    database(&world, "/srv/app/app.db");
    let path = world.path("root/etc/lifeboat/config.toml");
    init(&world, &[]).expect(24).says("no terminal to ask on");
    assert!(!path.exists());
    let ran = init(&world, &["--yes"]).expect(0).says("is written");
    assert!(ran.out.contains("/srv/app/app.db"), "the table: {}", ran.out);
    assert_eq!(mode(&path), 0o600);
    let before = fs::read(&path).unwrap();
    init(&world, &["--yes"]).expect(23).says("is not overwritten");
    assert_eq!(fs::read(&path).unwrap(), before);
    // The program takes what it wrote, as far as this host has the place.
    let ran = world.run(&["--config", path.to_str().unwrap(), "config", "show"]).expect(0);
    assert!(ran.out.contains("[source.app]") || ran.out.contains("source."), "{}", ran.out);
    init(&world, &["--yes", "--json", "--config", "new/other.toml"]).expect(0);
    assert_eq!(world.names("data/new"), ["other.toml"], "nothing else is left");
    assert_eq!(mode(&world.path("data/new")), 0o700);
    init(&world, &["--yes", "--config", "bare.toml"]).expect(0);
    assert!(world.path("data/bare.toml").exists());
}

#[test]
fn names_that_would_break_the_file_do_not() {
    let world = host();
    for name in ["a\"b\\c.db", "x\n[source.evil].db", "spa ce.db", "é.db", "'.db"] {
        database(&world, &format!("/srv/odd/{name}"));
    }
    let path = world.text("config.toml");
    init(&world, &["--yes", "--config", &path]).expect(0);
    let shown = world.run(&["--config", &path, "config", "show", "--json"]).expect(0).json();
    let sections = shown["sections"].as_array().unwrap();
    assert_eq!(sections.len(), 6, "{shown}");
    assert!(!sections.iter().any(|section| section["name"] == "source.evil"), "{shown}");
}

#[test]
fn what_cannot_be_read_is_said() {
    if is_root() {
        // Root reads everything; the folder that is a file stands for what cannot be listed.
        return not_a_folder();
    }
    let world = host();
    database(&world, "/srv/app/app.db");
    let secret = database(&world, "/srv/secret/app.db");
    let unreadable = database(&world, "/srv/app/hidden.db");
    set_mode(&unreadable, 0o000);
    set_mode(secret.parent().unwrap(), 0o000);
    let ran = init(&world, &["--dry-run", "--json"]).expect(0);
    set_mode(secret.parent().unwrap(), 0o700);
    assert!(ran.json()["notes"].to_string().contains("/srv/secret"), "{}", ran.out);
    assert!(ran.json()["left_out"].to_string().contains("cannot be read"), "{}", ran.out);
    assert_eq!(found(&ran).len(), 1);
}

fn not_a_folder() {
    let world = host();
    let ran = world.run(&["init", "--root", &world.text("nowhere")]).expect(2);
    assert!(ran.err.contains("cannot look in"), "{}", ran.err);
    init(&world, &[world.text("data").as_str()]).expect(2).says("is not below");
    let file = file(&world, "/srv/file", "");
    init(&world, &[file.to_str().unwrap()]).expect(2).says("is no folder");
}

#[test]
fn a_link_or_a_second_name_makes_no_second_source() {
    let world = host();
    let path = database(&world, "/srv/app/shop.db");
    fs::hard_link(&path, place(&world, "/opt/app/shop.db")).unwrap();
    symlink("/srv/app/shop.db", place(&world, "/data/link.db")).unwrap();
    symlink("/srv", place(&world, "/data/srv")).unwrap();
    assert_eq!(found(&init(&world, &["--dry-run", "--json"]).expect(0)).len(), 1);
}

/// The whole way, on this host: a real process, its real files, a backup of what was written.
#[test]
fn a_database_that_a_process_has_open_is_found_and_backed_up() {
    let world = World::new();
    let folder = world.path("data");
    let path = world.database("held.db", 30);
    let holder = Holder::of(&path);
    let before = listing(&folder);
    let ran = world.run(&["init", "--dry-run", "--json"]).expect(0);
    let json = ran.json();
    let source = json["sources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|source| source["path"] == path.to_str().unwrap())
        .unwrap_or_else(|| panic!("{}", ran.out));
    let pids: Vec<u64> = source["open_in"]
        .as_array()
        .unwrap()
        .iter()
        .map(|opener| opener["pid"].as_u64().unwrap())
        .collect();
    assert!(pids.contains(&u64::from(holder.id())), "{source}");
    assert_eq!(listing(&folder), before, "nothing is made beside it");
    let name = source["name"].as_str().unwrap().to_owned();
    world.run(&["init", "--yes"]).expect(0);
    world.run(&["backup", &name]).expect(0);
    drop(holder);
}

fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut names: Vec<(String, u64)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), entry.metadata().unwrap().len())
        })
        .collect();
    names.sort();
    names
}

/// A database was replaced under a process that goes on writing to the old file.
#[test]
fn a_database_that_was_removed_under_its_process_is_an_alarm() {
    let world = World::new();
    let path = world.database("removed.db", 5);
    let holder = Holder::of(&path);
    fs::remove_file(&path).unwrap();
    let ran = world.run(&["init", "--dry-run", "--json"]);
    let warnings = ran.json()["warnings"].to_string();
    let expected = format!("({}) has {} open, which was removed", holder.id(), path.display());
    assert!(warnings.contains(&expected), "{warnings}");
}

#[test]
fn the_example_and_the_presets_can_be_looked_at_first() {
    let world = World::new();
    for arguments in [&["--example"][..], &["--preset", "superchat"], &["--preset", "gpt-chatbot"]]
    {
        let ran = world.run(&[&["init", "--dry-run"][..], arguments].concat()).expect(0);
        assert!(ran.out.contains("[repository.local]"), "{}", ran.out);
    }
    assert!(!world.path("home/config").exists());
    world.run(&["init", "--example", "--preset", "superchat"]).expect(2);
}

#[test]
fn the_answer_at_a_terminal_decides() {
    for (answer, code) in [("yes", 0), ("config.toml", 0), ("no", 24), ("", 24)] {
        let world = host();
        database(&world, "/srv/app/app.db");
        // `script` gives the program a terminal.
        let line = format!("{} init --root {}", env!("CARGO_BIN_EXE_lifeboat"), world.text("root"));
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("HOME", world.path("home"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{answer}: {}", ran.out);
        assert!(ran.out.contains("/srv/app/app.db"), "what was found: {}", ran.out);
        assert!(ran.out.contains("with 1 source? Answer"), "{}", ran.out);
        let is_there = world.path("root/etc/lifeboat/config.toml").exists();
        assert_eq!(is_there, code == 0, "{answer}");
    }
}

/// A database of a server as a `.env` names it: the source has no password in it, and backs up.
#[test]
fn the_server_of_a_file_of_variables_becomes_a_source_without_its_password() {
    let server = Server::tcp(15);
    server.sql("postgres", "CREATE ROLE ann LOGIN PASSWORD 'hu:s/h@1'");
    server.sql("postgres", "CREATE DATABASE admin OWNER ann");
    server.sql("admin", "CREATE TABLE public.t(x int); ALTER TABLE public.t OWNER TO ann");
    let world = World::new();
    let url =
        |password: &str| format!("postgresql://ann:{password}@127.0.0.1:{}/admin", server.port());
    let variables = |password: &str| {
        let text = format!("DATABASE_URL={0}\nADMIN_DATABASE_URL={0}\n", url(password));
        fs::write(world.path("data/.env"), text).unwrap();
    };
    variables("wrong");
    let ran = world.run(&["init", "--dry-run"]).expect(0);
    let said = "found, not yet protected: DATABASE_URL in";
    assert!(ran.out.contains(said) && ran.err.contains(said), "{ran:?}");
    assert!(ran.out.contains("# It does not let us in:"), "{}", ran.out);
    assert!(ran.out.contains("\n# [source.admin]\n"), "{}", ran.out);
    assert!(!ran.out.contains("wrong") && !ran.err.contains("wrong"), "{ran:?}");

    variables("hu%3As%2Fh%401");
    let json = world.run(&["init", "--dry-run", "--json"]).expect(0).json();
    let servers = json["servers"].as_array().unwrap();
    let ours: Vec<_> = servers.iter().filter(|server| server["name"] == "admin").collect();
    assert_eq!(ours.len(), 1, "both variables name one database: {json}");
    assert_eq!(ours[0]["reached"], true, "{json}");
    assert!(!world.path("home/config").exists(), "a dry run keeps no password");
    let ran = world.run(&["init", "--yes"]).expect(0).says("holds a password");
    assert!(!format!("{ran:?}").contains("hu:s"), "{ran:?}");
    let text = fs::read_to_string(world.path("home/config/lifeboat/config.toml")).unwrap();
    assert!(!text.contains("hu:s") && !text.contains("hu%3A"), "{text}");
    let secret = world.path("home/config/lifeboat/admin.password");
    assert_eq!(mode(&secret), 0o600);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "hu:s/h@1\n");
    world.run(&["backup", "admin"]).expect(0);
    world.run(&["verify", "admin"]).expect(0);
}

/// A cluster that lets us in by its socket is taken whole.
#[test]
fn a_cluster_that_lets_us_in_becomes_a_source_of_all_its_databases() {
    let server = Server::new(16);
    server.sql("postgres", "CREATE DATABASE shop");
    let world = World::new();
    let folder = server.sockets();
    let ran = postgres_server::run(&world, &["init", &folder, "--yes"]).expect(0);
    let text = fs::read_to_string(world.path("home/config/lifeboat/config.toml")).unwrap();
    let line = format!(
        "postgres = {{ host = \"{folder}\", port = 5432, user = \"postgres\", databases = \"all\" }}"
    );
    assert!(text.contains(&line), "{text}");
    let name = text.split(&line).next().unwrap().rsplit("[source.").next().unwrap();
    let name = name.trim().trim_end_matches(']').to_owned();
    assert!(ran.out.contains(&name), "{}", ran.out);
    postgres_server::run(&world, &["backup", &name]).expect(0);
    let made = world.names(&format!("home/data/lifeboat/{name}-shop"));
    assert!(made.iter().any(|name| name.ends_with(".dump.zst")), "{made:?}");
}

/// As distributions set servers up: only the system's user `postgres` is the administrator.
#[test]
fn root_becomes_the_administrator_where_the_server_goes_by_the_user() {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    if !is_root() || !users.lines().any(|line| line.starts_with("postgres:")) {
        return;
    }
    let world = World::new();
    let access = tempfile::NamedTempFile::new().unwrap();
    fs::write(access.path(), "local all all peer\n").unwrap();
    set_mode(access.path(), 0o644);
    let hba = format!("hba_file={}", access.path().display());
    let server = Server::with(15, &[&hba]);
    let folder = server.sockets();
    world.run(&["init", &folder, "--yes"]).expect(0);
    let path = world.path("home/config/lifeboat/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().find(|line| line.contains(&folder) && !line.starts_with('#')).unwrap();
    assert!(line.contains("user = \"postgres\", databases = \"all\""), "{line}");
    assert!(
        line.ends_with(
            "command = [\"setpriv\", \"--reuid=postgres\", \
                            \"--regid=postgres\", \"--init-groups\", \"--\"] }"
        ),
        "{line}"
    );
    let name = text.split(line).next().unwrap().rsplit("[source.").next().unwrap();
    let name = name.trim().trim_end_matches(']').to_owned();
    world.run(&["backup", &name]).expect(0);
    let made = world.names(&format!("home/data/lifeboat/{name}-postgres"));
    assert!(made.iter().any(|name| name.ends_with(".dump.zst")), "{made:?}");
}

/// Off the machine from the first day: a second place, sealed, in what is found and in a preset.
#[test]
fn a_second_place_is_written_where_one_is_named() {
    let world = host();
    database(&world, "/srv/app/app.db");
    let recipient = world.run(&["key", "new", &world.text("home/key")]).expect(0).out;
    let recipient = recipient.trim();
    let url = "s3://my-backups/chat";
    let sealed = ["--copy-to", url, "--encrypt-to", recipient];
    let places = |text: &str| {
        let config: toml::Table = text.parse().unwrap();
        config["repository"].as_table().unwrap().clone()
    };
    let preset = [&["init", "--preset", "superchat", "--dry-run"][..], &sealed].concat();
    let both = places(&world.run(&preset).expect(0).out);
    assert_eq!(both["off-site"]["url"].as_str(), Some(url));
    assert_eq!(both["off-site"]["encrypt_to"][0].as_str(), Some(recipient));
    assert_eq!(both.len(), 2);
    // Without a recipient it says how one is made.
    let open = ["init", "--preset", "gpt-chatbot", "--dry-run", "--copy-to", "sftp://host/backups"];
    let text = world.run(&open).expect(0).out;
    assert!(text.contains("lifeboat key new") && places(&text).len() == 2, "{text}");
    init(&world, &[&sealed[..], &["--yes"]].concat()).expect(0);
    let written = fs::read_to_string(world.path("root/etc/lifeboat/config.toml")).unwrap();
    assert_eq!(places(&written).len(), 2, "{written}");
    for wrong in [
        &["--copy-to", "ftp://host/x"][..],
        &["--copy-to", "s3://"],
        &["--encrypt-to", recipient],
        &["--copy-to", url, "--encrypt-to", "nonsense"],
    ] {
        world.run(&[&["init", "--preset", "superchat", "--dry-run"][..], wrong].concat()).expect(2);
    }
}
