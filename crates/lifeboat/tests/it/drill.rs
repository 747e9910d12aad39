//! Drills: what is right passes and is proved, what is not fails, and nothing is left behind.

use std::fs;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::receivers::Receiver;
use crate::support::{Ran, World, add_rows, damage, ran};

/// A database with a host key and a configuration beside it, backed up once.
pub(crate) fn world(drill: &str) -> World {
    let world = World::new();
    world.database("app.db", 3_000);
    let key = world.text("data/ssh_host_key");
    make_key(&key);
    fs::write(world.path("data/app.toml"), "port = 2222\n").unwrap();
    configure(&world, drill);
    world.run(&["backup"]).expect(0);
    world
}

pub(crate) fn make_key(path: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f", path]).stdin(Stdio::null());
    assert!(command.status().unwrap().success());
}

pub(crate) fn configure(world: &World, drill: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         files = [\"$DATA/ssh_host_key\", \"$DATA/app.toml\"]\nrpo = \"1h\"\nrto = \"15m\"\n\
         [source.app.drill]\n{drill}\n"
    ));
}

pub(crate) fn record(ran: &Ran) -> Value {
    ran.json()[0]["record"].clone()
}

pub(crate) fn check<'a>(record: &'a Value, name: &str) -> &'a Value {
    let found = record["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name} in {record:#}"))
}

pub(crate) fn nothing_is_left(world: &World) {
    assert_eq!(world.names("tmp"), Vec::<String>::new());
}

#[test]
fn what_is_right_passes_and_is_proved() {
    let world = world("assert = [\"SELECT count(*) = 3000 FROM message\"]");
    let live = fs::read(world.path("data/app.db")).unwrap();
    let ran = world.run(&["drill", "--json"]).expect(0);
    let record = record(&ran);
    for name in [
        "stored_hashes",
        "restored_hash",
        "integrity_check",
        "rows_manifest",
        "assert",
        "schema_version",
        "foreign_key_check",
        "rows_live",
        "files",
        "host_key",
        "rto",
        "rpo",
    ] {
        assert_eq!(check(&record, name)["outcome"], "passed", "{name}: {record:#}");
    }
    assert_eq!(record["passed"], true);
    assert_eq!(record["chosen"], "newest");
    assert!(record["restore_ms"].as_u64().is_some() && record["data_age_ms"].as_u64().is_some());
    assert!(!record["phases"].as_array().unwrap().is_empty());
    nothing_is_left(&world);
    assert_eq!(fs::read(world.path("data/app.db")).unwrap(), live, "live data is only read");
    let object = ran.json()[0]["proof"].as_str().unwrap().to_owned();
    assert!(world.path("repo").join(&object).is_file(), "{object}");
    world.run(&["proof", "verify"]).expect(0).says("1 proofs of");
    let listed = world.run(&["proof", "list"]).expect(0);
    assert!(listed.out.contains("passed") && listed.out.contains(&object), "{}", listed.out);
    let shown = world.run(&["proof", "show", "app"]).expect(0);
    assert!(shown.out.contains("host key: ") && shown.out.contains("SHA256:"), "{}", shown.out);
    // The key of the installation is nobody else's to read.
    use std::os::unix::fs::PermissionsExt as _;
    let key = fs::metadata(world.path("state/lifeboat/proof.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_state_of_the_log_and_an_older_moment_and_any_can_be_drilled() {
    let world = world("");
    let connection = Connection::open(world.path("data/app.db")).unwrap();
    for round in 0..3 {
        add_rows(&connection, 10_000 + round * 100, 50);
        world.run(&["backup", "--incremental", "app"]).expect(0);
    }
    let newest = record(&world.run(&["drill", "app", "--json"]).expect(0));
    assert!(newest["state"].as_str().unwrap().ends_with("+3"), "{newest:#}");
    assert_eq!(check(&newest, "state_digest")["outcome"], "passed");
    assert_eq!(check(&newest, "integrity_check")["outcome"], "passed");
    assert_eq!(check(&newest, "rows_live")["outcome"], "passed");
    let backup = newest["backup"].as_str().unwrap();
    let at = backup.strip_prefix("app-").unwrap();
    let older = record(&world.run(&["drill", "app", "--at", at, "--json"]).expect(0));
    assert_eq!(older["chosen"], "at");
    assert_eq!(older["state"], Value::Null, "{older:#}");
    let any = record(&world.run(&["drill", "app", "--random", "--json"]).expect(0));
    assert_eq!((&any["chosen"], &any["passed"]), (&"random".into(), &true.into()));
    world.run(&["drill", "app", "--at", "2001-01-01T00:00:00Z"]).expect(20).says("no backup at");
    nothing_is_left(&world);
    world.run(&["proof", "verify"]).expect(0).says("4 proofs of");
}

#[test]
fn a_dry_run_does_nothing_and_keep_leaves_what_was_restored() {
    let world = world("");
    let planned = world.run(&["drill", "--dry-run"]).expect(0);
    assert!(planned.out.contains("app: restore app-"), "{}", planned.out);
    assert!(
        !world.path("repo/drills").exists() && !world.path("state/lifeboat/proof.key").exists()
    );
    let ran = world.run(&["drill", "--keep", "--no-proof", "--json"]).expect(0);
    assert!(!world.path("repo/drills").exists());
    let kept = ran.json()[0]["kept"].as_str().unwrap().to_owned();
    let connection = Connection::open(format!("{kept}/restored.db")).unwrap();
    let rows: u32 =
        connection.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 3_000);
    world.run(&["drill"]).expect(0);
    assert!(fs::metadata(&kept).unwrap().is_dir(), "no later drill removes it");
}

#[test]
fn a_query_that_is_not_true_fails_the_drill() {
    for (query, why) in [
        ("SELECT count(*) > 5000 FROM message", "gives 0, which is not true"),
        ("SELECT count(*) FROM no_table", "no such table"),
        ("DELETE FROM message", "cannot be asked"),
        ("SELECT NULL", "gives NULL"),
    ] {
        let world = world(&format!("assert = [\"{query}\"]"));
        world.run(&["drill"]).expect(20).says(why);
        nothing_is_left(&world);
        let shown = world.run(&["proof", "show", "app", "--json"]).expect(0).json();
        assert_eq!(shown["record"]["passed"], false);
    }
}

#[test]
fn rows_that_the_live_database_has_and_the_backup_lacks_fail_it() {
    let world = world("rows_within_percent = 10\nrows_slack = 5");
    world.run(&["drill"]).expect(0);
    let connection = Connection::open(world.path("data/app.db")).unwrap();
    add_rows(&connection, 10_000, 1_000);
    world.run(&["drill"]).expect(20).says("message has 3000 rows, live it has 4000");
    configure(&world, "rows_within_percent = 30\nrows_slack = 5");
    world.run(&["drill"]).expect(0);
}

#[test]
fn counts_that_are_not_the_manifests_fail_it() {
    let world = world("");
    let manifest = fs::read_dir(world.path("repo/app")).unwrap().map(|entry| entry.unwrap().path());
    let manifest = manifest
        .into_iter()
        .find(|path| {
            path.extension().is_some_and(|it| it == "json") && !path.ends_with("source.json")
        })
        .unwrap();
    let text = fs::read_to_string(&manifest).unwrap();
    let wrong = text.replace("\"message\": 3000", "\"message\": 3001");
    assert_ne!(text, wrong);
    fs::write(&manifest, wrong).unwrap();
    world.run(&["drill"]).expect(20).says("message has 3000 rows, must have 3001");
    nothing_is_left(&world);
}

#[test]
fn damage_in_the_repository_fails_it() {
    // A flipped bit.
    let flipped = world("");
    let artifact = flipped.artifact("app", ".db.zst");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&artifact, bytes).unwrap();
    flipped.run(&["drill"]).expect(20);
    nothing_is_left(&flipped);
    // A missing file.
    let missing = world("");
    fs::remove_file(missing.artifact("app", ".files.tar.zst")).unwrap();
    missing.run(&["drill"]).expect(20);
    nothing_is_left(&missing);
    let shown = missing.run(&["proof", "show", "app", "--json"]).expect(0).json();
    assert_eq!(shown["record"]["passed"], false);
    // A backup of a database that was damaged, which its maker did not look at.
    let unseen = World::new();
    damage(&unseen.database("app.db", 3_000));
    unseen.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         check = \"none\"\n",
    );
    unseen.run(&["backup"]);
    unseen.run(&["drill"]).expect(20);
}

#[test]
fn a_row_that_was_changed_behind_all_hashes_is_found_by_its_query() {
    let query = "assert = [\"SELECT count(*) = 0 FROM message WHERE body = 'forged'\"]";
    let world = world(query);
    world.run(&["drill"]).expect(0);
    let connection = Connection::open(world.path("data/app.db")).unwrap();
    connection.execute("UPDATE message SET body = 'forged' WHERE id = 1500", []).unwrap();
    world.run(&["backup"]).expect(0);
    world.run(&["drill"]).expect(20).says("body = 'forged'` gives 0");
}

#[test]
fn a_wrong_host_key_fails_it() {
    let known = "SHA256:jHYOpHiKPHHC5vnUNBHBNEMjH1TO2cyE/8kKLJ6PVYk";
    let world = world(&format!("host_key = \"{known}\""));
    world.run(&["drill"]).expect(20).says(&format!("must be {known}"));
    configure(&world, "");
    world.run(&["drill"]).expect(0);
    // The host has another one by now.
    let key = world.text("data/ssh_host_key");
    fs::remove_file(&key).unwrap();
    let _ = fs::remove_file(format!("{key}.pub"));
    make_key(&key);
    world.run(&["drill"]).expect(20).says("on this host it is SHA256:");
    // One that is cut does not load.
    fs::write(&key, &fs::read(&key).unwrap()[..100]).unwrap();
    world.run(&["backup"]).expect(0);
    world.run(&["drill"]).expect(20).says("does not load");
}

#[test]
fn a_file_that_is_configured_and_was_not_restored_fails_it() {
    let world = world("");
    fs::write(world.path("data/more.toml"), "x").unwrap();
    let config = world.path("home/config/lifeboat/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let more = format!("\"{}\", \"{}", world.text("data/more.toml"), world.text("data/app.toml"));
    let text = text.replace(&format!("\"{}", world.text("data/app.toml")), &more);
    fs::write(&config, text).unwrap();
    world.run(&["drill"]).expect(20).says("more.toml was not restored");
    world.run(&["backup"]).expect(0);
    world.run(&["drill"]).expect(0);
}

#[test]
fn the_application_is_run_and_asked() {
    let answers = "import http.server,sys,sqlite3\n\
        assert sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM message').fetchone()[0] == 3000\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20 def do_GET(s):\n\
        \x20   s.send_response(200 if s.path == '/health' else 500); s.end_headers()\n\
        http.server.HTTPServer(('127.0.0.1', int(sys.argv[2])), H).serve_forever()\n";
    let world = world("");
    let script = world.text("data/server.py");
    fs::write(&script, answers).unwrap();
    let with = |probe: &str| {
        format!("command = [\"python3\", \"{script}\", \"{{database}}\", \"{{port}}\"]\n{probe}")
    };
    configure(&world, &with("probe = \"http://127.0.0.1:{port}/health\""));
    let found = record(&world.run(&["drill", "--json"]).expect(0));
    assert!(check(&found, "application")["detail"].as_str().unwrap().contains("answers 200"));
    // One that answers all the time, and never well: it is there before anybody asks.
    let other = Receiver::new(500);
    let probe = format!("probe = \"http://{}/other\"\ncommand_timeout = \"2s\"", other.address);
    configure(&world, &format!("command = [\"sleep\", \"600\"]\n{probe}"));
    world.run(&["drill"]).expect(20).says("500");
    configure(&world, "command = [\"sleep\", \"600\"]\nprobe = \"tcp\"\ncommand_timeout = \"1s\"");
    world.run(&["drill"]).expect(20).says("gave no answer");
    configure(&world, "command = [\"/bin/sh\", \"-c\", \"echo broken >&2; exit 3\"]");
    world.run(&["drill"]).expect(20).says("it said: broken");
    configure(&world, "command = [\"/no/such/program\"]");
    world.run(&["drill"]).expect(20).says("cannot run");
    nothing_is_left(&world);
}

#[test]
fn a_budget_is_kept() {
    let world = world("space_max = \"10kB\"");
    world.run(&["drill"]).expect(14).says("its drill may take");
    nothing_is_left(&world);
    // What hinders a drill takes nothing from what an earlier one showed.
    configure(&world, "");
    world.run(&["drill"]).expect(0);
    configure(&world, "space_max = \"10kB\"");
    world.run(&["drill"]).expect(14);
    let marks = world.names("repo/drilled/app");
    let mark: Value =
        serde_json::from_slice(&fs::read(world.path("repo/drilled/app").join(&marks[0])).unwrap())
            .unwrap();
    assert_eq!(mark["passed"], false);
    assert!(mark["passed_at"].is_string(), "{mark:#}");
}

#[test]
fn a_drill_that_is_killed_is_cleaned_up_by_the_next() {
    let world = world("");
    for point in ["restore.staged", "drill.restored", "drill.checked", "drill.proved", "drill.mark"]
    {
        let mut command = world.command(&["drill"]);
        ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap()).expect(137);
        // Before what was restored is removed, or after.
        let left = world.names("tmp").len();
        assert!(left <= 1, "{point}");
        if ["restore.staged", "drill.restored"].contains(&point) {
            assert_eq!(left, 1, "{point}");
            world.run(&["drill"]).expect(0).says("removed what a killed drill left");
        } else {
            world.run(&["drill"]).expect(0);
        }
        nothing_is_left(&world);
        world.run(&["proof", "verify"]).expect(0);
    }
}

#[test]
fn without_a_configuration_all_of_a_repository_is_drilled() {
    let world = world("");
    fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
    fs::remove_file(world.path("data/app.db")).unwrap();
    let ran = world.repo(&["drill", "--json"]).expect(0);
    assert_eq!(check(&record(&ran), "rows_live")["outcome"], "skipped");
    let empty = World::new();
    empty.repo(&["drill"]).expect(10);
}

#[test]
fn a_key_that_opens_no_more_fails_it() {
    let world = World::new();
    world.database("app.db", 500);
    let public = |name: &str| {
        let made = world.run(&["key", "new", &world.text(name), "--json"]).expect(0);
        made.json()["recipient"].as_str().map(str::to_owned).unwrap_or_else(|| made.out.clone())
    };
    let recipient = public("data/old.key");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\nencrypt_to = [\"{recipient}\"]\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n"
    ));
    world.run(&["backup"]).expect(0);
    world.run(&["drill", "--identity", &world.text("data/old.key")]).expect(0);
    public("data/new.key");
    world.run(&["drill", "--identity", &world.text("data/new.key")]).expect(12);
    world.run(&["drill"]).expect(12);
    let shown = world.run(&["proof", "show", "app", "--json"]).expect(0).json();
    assert_eq!(shown["record"]["passed"], false, "that no key opened it is proved as well");
}

#[test]
fn nothing_but_the_kit_is_needed() {
    let world = World::new();
    world.database("app.db", 700);
    let key = world.text("data/recovery.key");
    let recipient = world.run(&["key", "new", &key]).expect(0).out;
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\nencrypt_to = [\"{}\"]\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n\
         [source.app.drill]\nassert = [\"SELECT count(*) = 700 FROM message\"]\n",
        recipient.trim()
    ));
    world.run(&["backup"]).expect(0);
    let kit = world.run(&["kit", "--to", &world.text("home"), "--json"]).expect(0).json();
    let kit = kit["text"].as_str().unwrap();
    fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
    fs::remove_file(world.path("data/app.db")).unwrap();
    world.run(&["drill", "--from-kit", kit]).expect(12).says("the key is not on the page");
    let ran = world.run(&["drill", "--from-kit", kit, "--identity", &key, "--json"]).expect(0);
    let found = record(&ran);
    assert_eq!((&found["from_kit"], &found["passed"]), (&true.into(), &true.into()), "{found:#}");
    // What must hold is known from the configuration that the repository keeps.
    assert_eq!(check(&found, "assert")["outcome"], "passed");
    assert_eq!(check(&found, "rows_live")["outcome"], "skipped");
    nothing_is_left(&world);
    fs::write(world.path("data/none.txt"), "no kit").unwrap();
    world.run(&["drill", "--from-kit", &world.text("data/none.txt")]).expect(2);
    // As its month reads for people.
    let report = world.repo(&["proof", "report"]).expect(0).out;
    assert!(report.contains("## app, "), "{report}");
}

/// Every command of the page, in its order.
#[test]
fn the_page_of_the_restore_test_is_followed() {
    let page = include_str!("../../../../docs/runbooks/restore-test.md");
    let world = World::new();
    world.database("app.db", 300);
    make_key(&world.text("data/ssh_host_key"));
    let config = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = config
        .replace("/var/backups", &world.text("repo"))
        .replace("/var/lib/superchat/superchat.db", &world.text("data/app.db"))
        .replace("/var/lib/superchat/ssh_host_key", &world.text("data/ssh_host_key"))
        .replace("FROM User", "FROM person");
    world.configure(&config);
    world.run(&["backup"]).expect(0);
    let kit = world.run(&["kit", "--to", &world.text("home"), "--json"]).expect(0).json();
    fs::rename(kit["text"].as_str().unwrap(), world.path("data/recovery-kit.txt")).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let mut run = 0;
    for line in blocks.flat_map(str::lines).filter(|line| line.starts_with("lifeboat ")) {
        let line = line.split(" #").next().unwrap();
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        world.run(&words).expect(0);
        run += 1;
    }
    assert!(run >= 8, "{run}");
}

#[test]
fn a_proof_that_cannot_be_stored_is_told_and_no_failed_drill() {
    let world = world("");
    // A file lies where the folder of the proofs must be.
    fs::write(world.path("repo/drills"), "x").unwrap();
    let ran = world.run(&["drill"]);
    assert!(![0, 20].contains(&ran.code), "{ran:?}");
    drop(ran.says("is not recorded"));
    world.run(&["drill", "--no-proof"]).expect(0);
    nothing_is_left(&world);
}
