//! Each disaster of the two guides, made to happen to a server that runs and writes, and mended by
//! one command; then the proofs of the month on one page.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use lifeboat_sqlite::sample::{self, SampleOptions, Size};
use rusqlite::Connection;
use serde_json::Value;

use crate::follow::wait_for;
use crate::postgres_server::world_of;
use crate::support::{Ran, World, mode, ran};

/// A chat server: a process that writes to its database without a pause, a service that stops and
/// starts it, a host key and a configuration beside the database, two repositories.
struct Server {
    world: World,
}

impl Server {
    fn new() -> Server {
        let world = World::new();
        let database = world.path("data/chat.db");
        let options = SampleOptions { size: Size::Messages(3_000), ..SampleOptions::default() };
        sample::create(&database, &options).unwrap();
        let key = world.text("data/ssh_host_key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
            .status()
            .unwrap();
        assert!(made.success());
        fs::write(world.path("data/config.toml"), "[retention]\n").unwrap();
        let program = env!("CARGO_BIN_EXE_lifeboat");
        let pid = world.text("pid");
        let start = format!(
            "setsid {program} demo-writer {} --rate 60 >/dev/null 2>&1 </dev/null & echo $! > {pid}",
            database.display()
        );
        // One that has ended and that nobody waited for has no program any more.
        let stop = format!(
            "p=$(cat {pid}); kill $p 2>/dev/null; while [ -e /proc/$p/exe ]; do sleep 0.02; done"
        );
        fs::write(world.path("start.sh"), start).unwrap();
        fs::write(world.path("stop.sh"), stop).unwrap();
        world.configure(&format!(
            "[repository.local]\nurl = \"file://$REPO\"\n\
             [repository.other]\nurl = \"file://{}\"\n\
             [source.chat]\nsqlite = \"$DATA/chat.db\"\n\
             files = [\"$DATA/ssh_host_key\", \"$DATA/config.toml\"]\n\
             service = {{ stop = [\"sh\", \"{}\"], start = [\"sh\", \"{}\"] }}\n",
            world.text("other"),
            world.text("stop.sh"),
            world.text("start.sh"),
        ));
        Server { world }
    }

    fn shell(&self, script: &str) {
        let ran = ran(Command::new("sh").arg(self.world.path(script)).output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    fn database(&self) -> PathBuf {
        self.world.path("data/chat.db")
    }

    fn is_running(&self) -> bool {
        let pid = fs::read_to_string(self.world.path("pid")).unwrap();
        PathBuf::from(format!("/proc/{}/exe", pid.trim())).exists()
    }

    /// How many transactions it has written; none before it has made its table.
    fn has_written(&self) -> i64 {
        let connection = Connection::open(self.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection.query_row("SELECT max(seq) FROM commits", [], |row| row.get(0)).unwrap_or(0)
    }

    /// It runs, and what it wrote is one moment of its life.
    #[track_caller]
    fn is_well(&self) {
        assert!(self.is_running());
        self.shell("stop.sh");
        sample::prove(&self.database()).unwrap();
        self.shell("start.sh");
    }

    fn crash(&self) {
        let pid = fs::read_to_string(self.world.path("pid")).unwrap();
        let killed = Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
        assert!(killed.success());
        self.shell("stop.sh");
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.world.run(arguments).expect(0)
    }

    /// The number of an offer.
    fn number_of(&self, way: &str) -> String {
        let looked = self.world.run(&["rescue", "chat", "--json"]).json();
        let offers = looked["offers"].as_array().unwrap();
        let offer = offers.iter().find(|offer| offer["way"] == way);
        offer.unwrap_or_else(|| panic!("no {way} in {looked:#}"))["number"].to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("sh").arg(self.world.path("stop.sh")).status();
    }
}

#[test]
fn a_running_server_comes_back_from_each_disaster_of_the_guides_with_one_command() {
    let server = Server::new();
    let (world, database) = (&server.world, server.database());
    server.shell("start.sh");
    // The first backup has what the writer proves itself by.
    wait_for("a commit", || server.has_written() > 0);
    server.run(&["backup", "chat"]);
    let key = fs::read(world.path("data/ssh_host_key")).unwrap();

    // Corruption: a page in the middle is garbage.
    server.crash();
    let mut bytes = fs::read(&database).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 8_192].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    server.run(&["rescue", "chat", "--take", &server.number_of("backup"), "--yes"]);
    server.is_well();

    // The database was deleted while the server ran: what it writes goes nowhere.
    server.run(&["backup", "chat"]);
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(world.path(&format!("data/chat.db{ending}")));
    }
    server.shell("stop.sh");
    server.run(&["rescue", "chat", "--take", "1", "--yes"]);
    server.is_well();

    // A migration went wrong, and the application ran on with it.
    server.shell("stop.sh");
    let migrate = "ALTER TABLE messages RENAME TO broken";
    let text = database.to_str().unwrap();
    server.run(&["guard", "chat", "--beside", "--", "sqlite3", text, migrate]);
    server.run(&["rescue", "chat", "--take", &server.number_of("migration"), "--yes"]);
    server.is_well();

    // The restore was a mistake: back to what was there before it.
    server.run(&["undo", "chat", "--yes"]);
    server.shell("stop.sh");
    let connection = Connection::open(&database).unwrap();
    connection.query_row("SELECT count(*) FROM broken", [], |_| Ok(())).unwrap();
    drop(connection);
    server.run(&["undo", "chat", "--yes"]).says("");
    server.shell("stop.sh");

    // A part of the data was deleted.
    server.run(&["restore", "chat", "--yes"]);
    server.shell("stop.sh");
    let count = |connection: &Connection| -> i64 {
        connection.query_row("SELECT count(*) FROM reactions", [], |row| row.get(0)).unwrap()
    };
    let connection = Connection::open(&database).unwrap();
    let all = count(&connection);
    connection.execute_batch("DELETE FROM reactions").unwrap();
    connection.close().unwrap();
    let rows = ["restore", "chat", "--rows-from", "chat@latest", "--table", "reactions", "--yes"];
    server.run(&rows);
    assert_eq!(count(&Connection::open(&database).unwrap()), all);
    server.shell("start.sh");
    server.is_well();

    // The host key is lost.
    fs::remove_file(world.path("data/ssh_host_key")).unwrap();
    let said = server.run(&["rescue", "--lost-host-key", "--yes"]);
    assert!(said.out.contains("no warning") && said.out.contains("SHA256:"), "{said:?}");
    assert_eq!(fs::read(world.path("data/ssh_host_key")).unwrap(), key);
    assert_eq!(mode(&world.path("data/ssh_host_key")), 0o600);
    server.is_well();

    // All backups are lost.
    for repository in ["repo", "other"] {
        fs::remove_dir_all(world.path(repository)).unwrap();
    }
    server.run(&["rescue", "chat", "--lost-backups", "--yes"]);
    for repository in ["local", "other"] {
        let list = world.run(&["list", "chat", "--repo", repository, "--json"]).expect(0).json();
        assert_eq!(list.as_array().unwrap().len(), 1, "{repository}: {list:#}");
        server.run(&["verify", "chat", "--repo", repository, "--level", "full"]);
    }
    server.is_well();

    // The server is lost, and one repository.
    server.shell("stop.sh");
    fs::remove_dir_all(world.path("data")).unwrap();
    fs::remove_dir_all(world.path("repo")).unwrap();
    fs::create_dir(world.path("data")).unwrap();
    server.run(&["restore", "--all", "--repo", "other", "--yes"]);
    assert_eq!(fs::read(world.path("data/ssh_host_key")).unwrap(), key);
    assert!(server.has_written() > 0);

    // The proofs of the month, on one page.
    server.run(&["backup", "chat"]);
    server.run(&["drill", "chat"]);
    let page = world.text("month.html");
    server.run(&["proof", "report", "--html", &page]);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("chat") && page.contains("<table"), "{page}");
    server.run(&["proof", "verify"]);
}

/// The second guide's complete loss, on PostgreSQL: the database is dropped.
#[test]
fn a_dropped_database_of_postgres_comes_back_with_one_command_and_a_wrong_restore_is_undone() {
    let server = crate::postgres_server::Server::new(15);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE public.agents AS SELECT i AS id FROM generate_series(1, 500) AS i",
    );
    let world = world_of(&server.url("shop"));
    let run = crate::postgres_server::run;
    run(&world, &["backup"]).expect(0);
    let looked = run(&world, &["rescue", "shop", "--json"]).expect(0).json();
    assert_eq!(looked["offers"][0]["way"], "leave", "{looked:#}");
    server.sql("postgres", "DROP DATABASE shop");
    let looked = run(&world, &["rescue", "shop", "--json"]).expect(20).json();
    assert_eq!(looked["offers"][0]["way"], "backup", "{looked:#}");
    assert_eq!(looked["offers"][0]["rows"], 500);
    run(&world, &["rescue", "shop", "--take", "1", "--yes"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM public.agents"), ["500"]);
    // Restored once more, and that was wrong: what was there before is offered.
    server.sql("shop", "DELETE FROM public.agents WHERE id > 100");
    run(&world, &["restore", "shop", "--yes"]).expect(0);
    let looked = run(&world, &["rescue", "shop", "--json"]).expect(0).json();
    let offers = looked["offers"].as_array().unwrap();
    let kept = offers.iter().find(|offer| offer["way"] == "kept");
    let number = kept.unwrap_or_else(|| panic!("{looked:#}"))["number"].to_string();
    run(&world, &["rescue", "shop", "--take", &number, "--yes"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM public.agents"), ["100"]);
    comes_back_from_a_dump_of_a_script(&server, &world);
}

/// No repository any more, but the folder of the guide's script; its newest dump was cut short.
fn comes_back_from_a_dump_of_a_script(server: &crate::postgres_server::Server, world: &World) {
    let run = crate::postgres_server::run;
    let dump = server.tool("pg_dump", "shop").output().unwrap().stdout;
    fs::create_dir(world.path("old")).unwrap();
    for (name, bytes) in [
        ("shop_postgres_20260106_120000.sql", &dump[..]),
        ("shop_postgres_20260107_120000.sql", &dump[..dump.len() / 2]),
        ("other_postgres_20260108_120000.sql", &dump[..]),
    ] {
        let path = world.path("old").join(name);
        fs::write(&path, bytes).unwrap();
        assert!(Command::new("gzip").arg(&path).status().unwrap().success());
    }
    fs::remove_dir_all(world.path("repo")).unwrap();
    server.sql("postgres", "DROP DATABASE shop");
    let old = world.text("old");
    let looked = run(world, &["rescue", "shop", "--look-in", &old, "--json"]).expect(20).json();
    assert_eq!(looked["offers"][0]["way"], "backup", "{looked:#}");
    assert_eq!(looked["offers"][0]["as_of"], "2026-01-06T12:00:00Z", "{looked:#}");
    let unsound = looked["unsound"].as_array().unwrap();
    assert_eq!(unsound.len(), 1, "{looked:#}");
    assert!(unsound[0]["what"].as_str().unwrap().contains("20260107"), "{looked:#}");
    run(world, &["rescue", "shop", "--look-in", &old, "--take", "1", "--yes"]).expect(0);
    assert_eq!(server.ask("shop", "SELECT count(*) FROM public.agents"), ["100"]);
}

/// A file that is as old as that.
fn old(world: &World, name: &str, days: u64) {
    let path = world.path(name);
    fs::write(&path, vec![7; 5_000]).unwrap();
    let time = SystemTime::now() - Duration::from_secs(days * 24 * 3_600);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_full_disk_gives_back_what_nobody_needs_and_nothing_else() {
    let world = World::new();
    world.database("chat.db", 50);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.chat]\nsqlite = \"$DATA/chat.db\"\n\
         keep = { daily = 6 }\n",
    );
    for day in 5..15 {
        let at = format!("2026-01-{day:02}T02:00:00Z");
        let mut command = world.command(&["backup", "--quiet"]);
        assert!(command.env("LIFEBOAT_CLOCK_AT", at).status().unwrap().success());
    }
    let goes = [
        "data/chat.db.before_restore.20260101-000000",
        "data/.chat.db.lifeboat-staging",
        "data/chat.db.backup-v1-20250101-000000",
        "repo/chat/.chat-20260101-020000.db.zst.0123456789abcdef.part",
        "tmp/lifeboat-scratch-abc",
        "data/chat.db.salvaged-20260101-000000",
    ];
    let stays = [
        "data/chat.db.before_restore.20260301-000000",
        "data/chat.db.backup-v2-20250201-000000",
        "data/chat.db.backup-v3-20250301-000000",
        "data/other.db.before_restore.20250101-000000",
        "data/server.log",
        "repo/chat/notes.part",
    ];
    goes.iter().zip([20, 20, 90, 20, 20, 20]).for_each(|(name, days)| old(&world, name, days));
    stays.iter().zip([1, 60, 50, 90, 90, 90]).for_each(|(name, days)| old(&world, name, days));
    let scratch = world.names("tmp");
    let looked = world.run(&["rescue", "--disk-full", "--json"]).expect(0).json();
    let items = looked["items"].as_array().unwrap();
    let has = |text: &str| {
        let is_it = |item: &&Value| item["what"].as_str().unwrap().contains(text);
        items.iter().filter(is_it).count()
    };
    for name in goes {
        assert_eq!(has(name.rsplit('/').next().unwrap()), 1, "{name} in {looked:#}");
    }
    assert_eq!(has("does not keep"), 1, "{looked:#}");
    assert_eq!(items.len(), 7, "{looked:#}");
    let notes = looked["notes"].to_string();
    assert!(notes.contains("daily = 3") && notes.contains("gzip"), "{notes}");
    assert_eq!(world.names("tmp"), scratch, "looking deletes nothing");
    world.run(&["rescue", "--disk-full", "--yes"]).expect(0).says("are gone");
    assert!(goes.iter().all(|name| !world.path(name).exists()));
    for name in stays {
        assert!(world.path(name).exists(), "{name}");
    }
    let list = world.run(&["list", "--json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 6);
}

#[test]
fn a_host_key_that_no_backup_holds_is_made_anew_with_what_users_need() {
    let world = World::new();
    let key = world.text("data/ssh_host_key");
    let arguments =
        ["rescue", "--lost-host-key", &key, "--address", "chat.example.com:6466", "--json"];
    world.run(&arguments).expect(24);
    assert!(!world.path("data/ssh_host_key").exists());
    let made = world.run(&[&arguments[..], &["--yes"]].concat()).expect(0).json();
    assert_eq!(made["outcome"], "made");
    assert_eq!(made["users_forget"], "ssh-keygen -R '[chat.example.com]:6466'");
    let known = made["known_hosts"].as_str().unwrap();
    assert!(known.starts_with("[chat.example.com]:6466 ssh-ed25519 AAAA"), "{known}");
    assert_eq!(mode(&world.path("data/ssh_host_key")), 0o600);
    // What ssh-keygen itself says of it.
    let listed = Command::new("ssh-keygen").args(["-lf", &key]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(made["fingerprint"].as_str().unwrap()), "{listed}");
    // Again: the one that is there is kept.
    let again = world.run(&[&arguments[..], &["--yes"]].concat()).expect(0).json();
    assert!(again["kept_aside"].as_str().unwrap().contains("before_restore"), "{again:#}");
}
