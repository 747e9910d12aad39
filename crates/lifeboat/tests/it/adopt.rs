//! Adopt as a person runs it: the files of other backup scripts, made here by the same tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use lifeboat_core::env::CRASH_POINTS;
use serde_json::Value;

use crate::support::{World, content, damage, make_database, ran, rows};

/// Runs a line of a script in the folder `old`.
fn script(world: &World, line: &str) {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", line])
        .current_dir(world.path("old"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A world with a configured database and a folder for what its scripts made.
fn world() -> World {
    let world = World::new();
    world.database("superchat.db", 300);
    fs::create_dir(world.path("old")).unwrap();
    configure(&world, "");
    world
}

fn configure(world: &World, more: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.superchat]\nsqlite = \"$DATA/superchat.db\"\n{more}\n"
    ));
}

/// What the guide's script makes: `.backup`, then gzip.
fn backup(world: &World, name: &str) {
    script(world, &format!("sqlite3 ../data/superchat.db \".backup '{name}.db'\"; gzip {name}.db"));
}

fn adopt(world: &World, more: &[&str]) -> crate::support::Ran {
    let mut arguments = vec!["adopt", "../old"];
    arguments.extend(more);
    world.run(&arguments)
}

fn listed(world: &World) -> Vec<Value> {
    world.run(&["list", "--json"]).expect(0).json().as_array().unwrap().clone()
}

fn names(world: &World) -> Vec<String> {
    listed(world).iter().map(|backup| backup["name"].as_str().unwrap().to_owned()).collect()
}

/// The outcome of each file by its name.
fn outcomes(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let name = |file: &Value| text(&file["path"]).rsplit('/').next().unwrap().to_owned();
    let files = value["files"].as_array().unwrap().iter();
    let mut found: Vec<_> = files.map(|file| (name(file), text(&file["outcome"]))).collect();
    found.sort();
    found
}

#[test]
fn what_scripts_made_becomes_backups_like_our_own() {
    let world = world();
    let expected = content(&world.path("data/superchat.db"));
    backup(&world, "superchat-20250708-140000");
    backup(&world, "superchat-20250108-140000");
    script(&world, "cp ../data/superchat.db superchat-20250107-140000.db");
    script(&world, "zstd -q ../data/superchat.db -o superchat-20250106-140000.db.zst");
    script(&world, "cp ../data/superchat.db superchat.db.backup-v42-20250105-120000");
    script(&world, "cp ../data/superchat.db superchat.db.before_restore.20250104_120000");
    script(&world, "echo x > ssh_host_key.backup; mkdir deep; cp *-20250708-* deep/");
    let before = fs::read(world.path("old/superchat-20250108-140000.db.gz")).unwrap();
    let files_before = world.names("old");
    let berlin = ["--zone", "Europe/Berlin"];
    let plan = adopt(&world, &[&berlin[..], &["--dry-run"]].concat()).expect(0);
    assert!(plan.out.contains("superchat-20250708-140000.db.gz"), "{}", plan.out);
    assert!(!world.path("repo").exists(), "a plan makes nothing");
    adopt(&world, &berlin).expect(0).says("host key").says("--recursive");
    let found = names(&world);
    // Summer and winter: what the script's clock said is two hours or one ahead.
    let expected_names = [
        "superchat-20250104-110000",
        "superchat-20250105-110000",
        "superchat-20250106-130000",
        "superchat-20250107-130000",
        "superchat-20250108-130000",
        "superchat-20250708-120000",
    ];
    assert_eq!(found, expected_names);
    assert_eq!(world.names("old"), files_before, "nothing is removed");
    let artifact = world.path("repo/superchat/superchat-20250108-130000.db.gz");
    assert_eq!(fs::read(&artifact).unwrap(), before, "stored byte for byte");
    for backup in listed(&world) {
        assert_eq!(backup["condition"], "good");
        assert_eq!(backup["method"], "adopted");
        assert_eq!(backup["rows"]["message"], 300);
        assert_eq!(backup["schema_version"]["version"], "42");
        assert_eq!(backup["adopted"]["zone"], "Europe/Berlin");
        let is_migration = backup["name"] == "superchat-20250105-110000";
        assert_eq!(backup["purpose"] == "migration", is_migration);
        assert_eq!(backup["adopted"]["from_version"] == "42", is_migration);
    }
    world.run(&["verify", "--level", "full"]).expect(0);
    for name in expected_names {
        world.run(&["restore", name, "--to", "back.db", "--yes"]).expect(0);
        assert_eq!(content(&world.path("data/back.db")), expected, "{name}");
    }
    let shown = world.run(&["show", "superchat-20250105-110000"]).expect(0);
    assert!(shown.out.contains("superchat.db.backup-v42-20250105-120000"), "{}", shown.out);
    // Again: nothing twice, and what is new alone.
    let again = adopt(&world, &[&berlin[..], &["--json"]].concat()).expect(0).json();
    let adopted = outcomes(&again).into_iter().filter(|(_, outcome)| outcome == "adopted").count();
    assert_eq!(adopted, 0);
    let deep = adopt(&world, &[&berlin[..], &["--recursive"]].concat()).expect(0);
    assert!(deep.err.contains("7 adopted before"), "a copy of one: {}", deep.err);
    assert_eq!(names(&world), expected_names);
    // Later backups join them.
    world.run(&["backup"]).expect(0);
    assert_eq!(listed(&world).len(), 7);
    assert_eq!(world.names("repo"), ["README.txt", "config", "lifeboat.json", "superchat"]);
    world.run(&["restore", "superchat@20250107-130000", "--yes"]).expect(0);
    assert_eq!(content(&world.path("data/superchat.db")), expected);
}

/// The copies beside the database lack what was only in the `-wal`: SuperChat's own, 17,000 of
/// 20,000 rows, and that of the chatbot's restore script.
#[test]
fn t11_t15_a_copy_without_its_wal_is_told() {
    let world = world();
    script(&world, "cp ../data/superchat.db superchat.db.backup-v1-20250105-120000");
    script(&world, "cp ../data/superchat.db superchat.db.before_restore.20250104_120000");
    backup(&world, "superchat-20250106-120000");
    adopt(&world, &[]).expect(0).says("without its -wal").says("version 1 of the schema");
    let warned = |backup: &Value| backup["warnings"].to_string().contains("without its -wal");
    let warned: Vec<bool> = listed(&world).iter().map(warned).collect();
    assert_eq!(warned, [true, true, false]);
    // One that has its `-wal` is not the whole database by itself.
    script(
        &world,
        "cp superchat.db.backup-v1-20250105-120000 superchat.db.backup-v2-20250107-120000",
    );
    script(&world, "echo rows > superchat.db.backup-v2-20250107-120000-wal");
    adopt(&world, &[]).expect(3).says("not the whole database").says("lifeboat backup");
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn what_is_damaged_empty_or_foreign_stays_and_is_told() {
    let world = world();
    backup(&world, "superchat-20250108-140000");
    let good = "superchat-20250108-140000.db.gz";
    let day = |day: u32, ending: &str| format!("superchat-202501{day:02}-000000{ending}");
    script(&world, &format!("head -c 5000 {good} > {}", day(1, ".db.gz")));
    script(&world, &format!("gzip -c {good} > {}", day(2, ".db.gz")));
    script(&world, &format!("gunzip -c {good} > {}", day(3, ".db")));
    damage(&world.path("old").join(day(3, ".db")));
    let mut crc = fs::read(world.path("old").join(good)).unwrap();
    let checksum = crc.len() - 8;
    crc[checksum] ^= 1;
    fs::write(world.path("old").join(day(4, ".db.gz")), crc).unwrap();
    script(&world, &format!("head -c 9000 /dev/urandom > {}", day(5, ".db")));
    script(&world, &format!("gunzip -c {good} > {0}; truncate -s 20000 {0}", day(6, ".db")));
    // A wrong path in a script: an empty database, of one page or of no bytes.
    script(&world, &format!("sqlite3 {} 'VACUUM'", day(7, ".db")));
    script(&world, &format!("sqlite3 {0} 'PRAGMA user_version = 1'; gzip {0}", day(8, ".db")));
    script(&world, &format!(": > {}", day(9, ".db.gz")));
    script(&world, &format!("gzip < /dev/null > {}", day(10, ".db.gz")));
    script(&world, &format!("mkfifo {}; mkdir {}", day(11, ".db"), day(12, ".db")));
    let before: Vec<(String, u64)> = sizes(&world.path("old"));
    let ended = adopt(&world, &["--json"]).expect(3);
    let found = outcomes(&ended.json());
    let expected = [
        (day(1, ".db.gz"), "damaged"),
        (day(2, ".db.gz"), "foreign"),
        (day(3, ".db"), "damaged"),
        (day(4, ".db.gz"), "damaged"),
        (day(5, ".db"), "foreign"),
        (day(6, ".db"), "damaged"),
        (day(7, ".db"), "not-a-backup"),
        (day(8, ".db.gz"), "not-a-backup"),
        (day(9, ".db.gz"), "not-a-backup"),
        (day(10, ".db.gz"), "not-a-backup"),
        (day(11, ".db"), "unrecognized"),
        (day(12, ".db"), "unrecognized"),
        (good.to_owned(), "adopted"),
    ];
    let mut expected = expected.map(|(name, outcome)| (name, outcome.to_owned()));
    expected.sort();
    assert_eq!(found, expected);
    assert!(ended.out.contains("compressed twice"), "{}", ended.out);
    assert!(ended.out.contains("cut short"), "{}", ended.out);
    assert_eq!(sizes(&world.path("old")), before);
    assert_eq!(names(&world), ["superchat-20250108-140000"]);
    // What is left is not worse than the damage: with nothing good it is an error of its own.
    fs::remove_file(world.path("old").join(good)).unwrap();
    fs::remove_dir_all(world.path("repo")).unwrap();
    adopt(&world, &[]).expect(20).says("damaged");
    script(&world, "rm -r ./*");
    adopt(&world, &[]).expect(0).says("there is nothing to adopt");
}

fn sizes(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut sizes: Vec<(String, u64)> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path().symlink_metadata().unwrap().len())
        })
        .collect();
    sizes.sort();
    sizes
}

/// An error text of 60 bytes counted as a backup for the guide's monitor.
#[test]
fn t17_an_error_text_is_no_backup() {
    let world = world();
    let message = "pg_dump: error: connection to server on socket failed";
    script(&world, &format!("echo '{message}' > admin_postgres_20251101_120000.sql"));
    script(&world, &format!("echo '{message}' | gzip > admin_postgres_20251102_120000.sql.gz"));
    let ended = adopt(&world, &["--json"]).expect(0).json();
    let all_left = outcomes(&ended).iter().all(|(_, outcome)| outcome == "not-a-backup");
    assert!(all_left, "{ended}");
    assert_eq!(names(&world).len(), 0);
}

const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\
    -- Dumped from database version 15.18\n-- Dumped by pg_dump version 15.18\n\n\
    SET client_encoding = 'UTF8';\n\
    CREATE TABLE public.agents (id integer, name text);\n\
    COPY public.agents (id, name) FROM stdin;\n1\tann\n2\tbob\n\\.\n\n\
    --\n-- PostgreSQL database dump complete\n--\n\n";

/// The script's dump with the messages of `pg_dump --verbose` in it: its restore said that it had
/// succeeded, and left 0 of 32 tables.
#[test]
fn t13_a_polluted_dump_comes_back_clean() {
    let world = world();
    let message = "pg_dump: creating TABLE \"public.agents\"\n";
    let polluted = DUMP.replace("CREATE TABLE", &format!("{message}CREATE TABLE"));
    let announced = "stdin;\npg_dump: dumping contents of table \"public.agents\"\n";
    let polluted = polluted.replace("stdin;\n", announced);
    let polluted = format!("pg_dump: last built-in OID is 16383\n{polluted}");
    fs::write(world.path("old/dump"), &polluted).unwrap();
    script(&world, "gzip -c dump > admin_postgres_20251104_120000.sql.gz");
    // Cut within the rows, and before its last lines: psql loads both without an error.
    script(&world, "sed /bob/,\\$d dump | gzip > admin_postgres_20251105_120000.sql.gz");
    script(&world, "head -n -5 dump | gzip > admin_postgres_20251106_120000.sql.gz; rm dump");
    adopt(&world, &[])
        .expect(3)
        .says("messages of pg_dump")
        .says("cut short")
        .says("within the rows");
    assert_eq!(names(&world), ["admin_postgres-20251104-120000"]);
    let backup = &listed(&world)[0];
    assert_eq!(backup["source"]["kind"], "postgres");
    assert_eq!(backup["condition"], "good");
    assert_eq!(backup["rows"]["public.agents"], 2);
    assert_eq!(backup["facts"]["server_version"], "15.18");
    world.run(&["verify", "--level", "quick"]).expect(0);
    world.run(&["restore", "admin_postgres", "--yes"]).expect(23).says("--to FILE.sql");
    world.run(&["restore", "admin_postgres", "--to", "back.sql"]).expect(0).says("left out");
    assert_eq!(fs::read_to_string(world.path("data/back.sql")).unwrap(), DUMP);
    // Damaged in the repository: found by verify, and not restored.
    let artifact = world.path("repo/admin_postgres/admin_postgres-20251104-120000.sql.gz");
    let mut bytes = fs::read(&artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&artifact, bytes).unwrap();
    world.run(&["verify"]).expect(20);
    world.run(&["restore", "admin_postgres", "--to", "again.sql"]).expect(20);
    assert!(!world.path("data/again.sql").exists());
}

#[test]
fn the_hour_that_comes_twice_is_kept_twice() {
    let world = world();
    // gzip refused to overwrite, so the second one stayed as it was.
    backup(&world, "superchat-20251026-023000");
    script(&world, "cp ../data/superchat.db superchat-20251026-023000.db");
    script(&world, "touch -d 2025-10-26T00:30:05Z superchat-20251026-023000.db.gz");
    script(&world, "touch -d 2025-10-26T01:30:05Z superchat-20251026-023000.db");
    // The same moment by two scripts, and a moment that never was.
    script(&world, "cp superchat-20251026-023000.db.gz superchat_20251026_023000.db.gz");
    script(&world, "touch -d 2025-10-26T00:30:09Z superchat_20251026_023000.db.gz");
    backup(&world, "superchat-20250330-023000");
    script(&world, "touch -d 2025-03-30T01:30:05Z superchat-20250330-023000.db.gz");
    adopt(&world, &["--zone", "Europe/Berlin"]).expect(0).says("came twice").says("skipped");
    let expected = [
        "superchat-20250330-013000",
        "superchat-20251026-003000",
        "superchat-20251026-003000-2",
        "superchat-20251026-013000",
    ];
    assert_eq!(names(&world), expected);
    let from: Vec<Value> =
        listed(&world).iter().map(|backup| backup["adopted"]["time_from"].clone()).collect();
    assert_eq!(from[0], "name-in-gap");
    assert!(from[1..].iter().all(|from| from == "name-and-modified"), "{from:?}");
    world.run(&["verify", "--level", "full"]).expect(0);
    adopt(&world, &["--zone", "Europe/Berlin"]).expect(0).says("4 adopted before");
    adopt(&world, &["--zone", "Europe/Berlim"]).expect(2).says("Europe/Berlim");
}

#[test]
fn originals_go_only_when_asked_and_only_behind_their_backups() {
    let world = world();
    for day in 1..=3 {
        backup(&world, &format!("superchat-2025010{day}-140000"));
    }
    script(
        &world,
        "head -c 3000 superchat-20250101-140000.db.gz > superchat-20250104-140000.db.gz",
    );
    script(&world, "touch notes");
    let all = world.names("old");
    adopt(&world, &["--remove-originals"]).expect(24).says("superchat-20250102-140000.db.gz");
    assert_eq!(world.names("old"), all);
    assert!(!world.path("repo").exists());
    // One that was adopted before goes too, and only if its backup is still what it was.
    adopt(&world, &[]).expect(3);
    let artifact = world.path("repo/superchat/superchat-20250102-140000.db.gz");
    let whole = fs::read(&artifact).unwrap();
    fs::write(&artifact, &whole[..whole.len() - 1]).unwrap();
    adopt(&world, &["--remove-originals", "--yes"]).expect(3).says("is not sound");
    let left = ["notes", "superchat-20250102-140000.db.gz", "superchat-20250104-140000.db.gz"];
    assert_eq!(world.names("old"), left);
    fs::write(&artifact, whole).unwrap();
    adopt(&world, &["--remove-originals", "--yes"]).expect(3);
    assert_eq!(world.names("old"), ["notes", "superchat-20250104-140000.db.gz"]);
    world.run(&["verify", "--level", "full"]).expect(0);
    assert_eq!(names(&world).len(), 3);
}

#[test]
fn killed_at_every_point_it_goes_on_where_it_was() {
    let points = CRASH_POINTS.iter().filter(|point| point.starts_with("adopt."));
    let points: Vec<&&str> = points.collect();
    assert_eq!(points.len(), 5);
    for point in points {
        let world = world();
        let expected = content(&world.path("data/superchat.db"));
        backup(&world, "superchat-20250101-140000");
        script(&world, "cp ../data/superchat.db superchat.db.backup-v42-20250102-140000");
        let arguments = ["adopt", "../old", "--remove-originals", "--yes"];
        let mut command = world.command(&arguments);
        let ended = ran(command.env("LIFEBOAT_CRASH_AT", point).output().unwrap());
        assert_eq!(ended.code, 128 + 9, "{point} is never passed: {ended:?}");
        let backups = names(&world);
        // An original is there as long as its backup is not.
        assert!(world.names("old").len() + backups.len() >= 2, "{point}");
        if !backups.is_empty() {
            world.run(&["verify", "--level", "full"]).expect(0);
        }
        world.run(&arguments).expect(0);
        assert_eq!(world.names("old"), [""; 0], "{point}");
        let all = ["superchat-20250101-140000", "superchat-20250102-140000"];
        assert_eq!(names(&world), all, "{point}");
        // What the killed run had stored was used, not stored again.
        let stored = world.names("repo/superchat");
        assert_eq!(stored.len(), 5, "{point}: {stored:?}");
        for name in all {
            world.run(&["restore", name, "--to", "back.db", "--yes"]).expect(0);
            assert_eq!(content(&world.path("data/back.db")), expected, "{point}");
        }
    }
}

#[test]
fn the_first_prune_after_it_deletes_no_mass_unasked() {
    let world = world();
    configure(&world, "keep = { last = 3 }");
    for day in 1..=9 {
        backup(&world, &format!("superchat-2025010{day}-140000"));
    }
    script(&world, "cp ../data/superchat.db superchat.db.backup-v42-20240102-140000");
    script(&world, "cp ../data/superchat.db superchat.db.backup-v42-20240103-140000");
    adopt(&world, &[]).expect(0);
    let refused = world.run(&["prune", "--yes"]).expect(23).says("6 of 11 good backups");
    let plan = world.run(&["prune", "--dry-run", "--json"]).expect(0).json()[0]["plan"].clone();
    let id = plan["id"].as_str().unwrap();
    assert!(refused.err.contains(id), "{}", refused.err);
    world.run(&["prune", "--approve", id]).expect(0);
    // The two migration backups are a floor of their own, and adopted ones rotate like ours.
    let kept = [
        "superchat-20240102-140000",
        "superchat-20240103-140000",
        "superchat-20250107-140000",
        "superchat-20250108-140000",
        "superchat-20250109-140000",
    ];
    assert_eq!(names(&world), kept);
    // What a prune removed is not adopted again, and its original stays.
    adopt(&world, &["--remove-originals", "--yes"]).expect(3).says("removed by a prune");
    assert_eq!(names(&world), kept);
    assert_eq!(world.names("old").len(), 6);
    for name in world.names("repo/tombstones/superchat") {
        let path = world.path("repo/tombstones/superchat").join(name);
        let mut tombstone: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        tombstone["delete_after"] = "2025-01-08T14:00:00Z".into();
        fs::write(&path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
    }
    world.run(&["backup"]).expect(0);
    world.run(&["prune", "--yes"]).expect(0);
    let files = world.names("repo/superchat");
    assert!(!files.iter().any(|file| file.contains("20250101")), "deleted: {files:?}");
    world.run(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn a_file_whose_source_is_not_known_is_asked_for() {
    let world = world();
    world.database("other.db", 10);
    fs::create_dir(world.path("data/copy")).unwrap();
    make_database(&world.path("data/copy/superchat.db"), 5);
    backup(&world, "strange-20250108-140000");
    backup(&world, "superchat-20250108-140000");
    adopt(&world, &[]).expect(3).says("--source strange=NAME");
    assert_eq!(names(&world), ["superchat-20250108-140000"]);
    adopt(&world, &["--source", "strange=nobody"]).expect(3).says("no source is named `nobody`");
    adopt(&world, &["--source", "strange="]).expect(2);
    // What is said of all is said of the databases: a dump beside them has a source of its own.
    fs::write(world.path("old/admin_postgres_20250108_140000.sql"), DUMP).unwrap();
    let plan = adopt(&world, &["--source", "superchat", "--dry-run", "--json"]).expect(0).json();
    let sources: Vec<&Value> =
        plan["files"].as_array().unwrap().iter().map(|file| &file["source"]).collect();
    assert_eq!(sources, ["admin_postgres", "superchat", "superchat"]);
    script(&world, "rm *.sql");
    // A database that is gone: its place is what its later backups are known by.
    let gone = world.text("data/gone.db");
    adopt(&world, &["--source", &format!("strange={gone}")]).expect(0);
    assert_eq!(names(&world), ["gone-20250108-140000", "superchat-20250108-140000"]);
    make_database(Path::new(&gone), 7);
    world.run(&["backup", "gone.db"]).expect(0);
    assert_eq!(world.names("repo"), ["README.txt", "config", "gone", "lifeboat.json", "superchat"]);
    world.run(&["restore", "gone@20250108-150000", "--yes"]).expect(0);
    assert_eq!(rows(Path::new(&gone)), 300);
    // The name of one database, the file of another.
    configure(&world, "[source.chat]\nsqlite = \"$DATA/copy/superchat.db\"");
    script(&world, "rm *; cp ../data/superchat.db superchat.db.backup-v1-20250109-140000");
    adopt(&world, &[]).expect(2).says("chat or superchat");
    adopt(&world, &["--source", "chat"]).expect(0);
    assert!(names(&world).contains(&"chat-20250109-140000".to_owned()));
    // Beside a database it is of that one.
    script(
        &world,
        "mv superchat.db.backup-v1-20250109-140000 ../data/superchat.db.backup-v3-20250110-140000",
    );
    world.run(&["adopt", "."]).expect(0);
    assert!(names(&world).contains(&"superchat-20250110-140000".to_owned()));
}

#[test]
fn a_repository_is_not_adopted_but_what_scripts_left_in_it_is() {
    let world = world();
    world.run(&["backup"]).expect(0);
    // As a whole it would be taken over, by a host that has no configuration.
    world.run(&["adopt", "../repo"]).expect(23).says("never overwritten");
    let folder = "../repo/superchat";
    world.run(&["adopt", folder]).expect(2).says("is a repository already").says("--repo");
    world.run(&["adopt", "../gone"]).expect(15).says("gone");
    // The folder of the chatbot's scripts is the repository of the same variables.
    let flat = "admin_sqlite_20251104_120000.db.gz";
    fs::create_dir(world.path("bot")).unwrap();
    make_database(&world.path("bot/admin.db"), 20);
    fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
    script(&world, &format!("gzip -c ../bot/admin.db > ../repo/{flat}"));
    let variables = format!(
        "ADMIN_DB_TYPE=sqlite\nADMIN_DB_PATH={}\nBACKUP_DIR={}\n",
        world.text("bot/admin.db"),
        world.text("repo")
    );
    fs::write(world.path("bot/.env"), variables).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        ran(command.current_dir(world.path("bot")).output().unwrap())
    };
    run(&["adopt", "../repo", "--recursive"]).expect(0);
    run(&["backup"]).expect(0);
    let backups = run(&["list", "admin", "--json"]).expect(0).json();
    assert_eq!(backups.as_array().unwrap().len(), 2);
    assert_eq!(backups[0]["name"], "admin_sqlite_20251104_120000");
    assert!(world.path("repo").join(flat).exists());
    run(&["adopt", "../repo", "--remove-originals", "--yes"]).expect(0);
    assert!(!world.path("repo").join(flat).exists());
    run(&["verify", "--level", "full"]).expect(0);
}

#[test]
fn a_file_that_is_being_written_waits_for_the_next_run() {
    let world = world();
    backup(&world, "superchat-20250108-140000");
    backup(&world, "superchat-20250109-140000");
    let writing = fs::OpenOptions::new()
        .append(true)
        .open(world.path("old/superchat-20250109-140000.db.gz"))
        .unwrap();
    let mut child =
        Command::new("sleep").arg("600").stdout(writing).stdin(Stdio::null()).spawn().unwrap();
    let ended = adopt(&world, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    ended.expect(3).says("being written by sleep");
    assert_eq!(names(&world), ["superchat-20250108-140000"]);
    adopt(&world, &[]).expect(0);
    assert_eq!(names(&world).len(), 2);
}

#[test]
fn hostile_names_are_only_names() {
    let world = world();
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    backup(&world, "superchat-20250108-140000");
    let good = world.path("old/superchat-20250108-140000.db.gz");
    fs::copy(&good, outside.join("superchat-20250109-140000.db.gz")).unwrap();
    symlink(&outside, world.path("old/linked")).unwrap();
    let link = world.path("old/superchat-20250110-140000.db.gz");
    symlink(outside.join("superchat-20250109-140000.db.gz"), link).unwrap();
    let odd = world.path("old/a\n@b-20250111-140000.db.gz");
    fs::rename(&good, odd).unwrap();
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(b"bad\xff-20250112-140000.db.gz");
    fs::copy(outside.join("superchat-20250109-140000.db.gz"), world.path("old").join(name))
        .unwrap();
    let ended = adopt(&world, &["--recursive", "--source", "superchat", "--json"]).expect(0);
    let found = outcomes(&ended.json());
    let adopted: Vec<_> = found.iter().filter(|(_, outcome)| outcome == "adopted").collect();
    assert_eq!(adopted.len(), 1, "{found:?}");
    assert!(adopted[0].0.starts_with("a\n@b"));
    assert_eq!(names(&world), ["superchat-20250111-140000"]);
    let plan = adopt(&world, &["--source", "superchat", "--dry-run"]).expect(0);
    assert!(!plan.out.contains("a\n@b"), "escaped: {}", plan.out);
    let shown = world.run(&["show", "superchat"]).expect(0);
    assert!(!shown.out.contains("a\n@b"), "escaped: {}", shown.out);
}
