//! Silent failures of what was set up, not of what was run: the wrong database, the key that
//! nobody ever copied. The numbers are those of the project's checklist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::{Holder, Ran, World, make_database, ran, rows};

/// The chatbot's folder: `admin.db` is what its backup script was told, `data/chatbot.db` is what
/// the application opens.
struct Chatbot {
    world: World,
    admin: PathBuf,
    used: PathBuf,
}

impl Chatbot {
    fn new(env: &str) -> Chatbot {
        let world = World::new();
        fs::create_dir(world.path("data/data")).unwrap();
        let (admin, used) = (world.database("admin.db", 5), world.path("data/data/chatbot.db"));
        make_database(&used, 50);
        written_days_ago(&admin, 40);
        fs::write(world.path("data/.env"), format!("BACKUP_DIR=../backups\n{env}")).unwrap();
        Chatbot { world, admin, used }
    }

    fn backup(&self) -> Ran {
        self.world.run(&["backup", "--json"])
    }

    /// What is in the repository, restored: rows by the name of the source.
    fn rows_of(&self, source: &str) -> u32 {
        let to = self.world.text(&format!("tmp/{source}.back.db"));
        self.world.run(&["restore", source, "--to", &to]).expect(0);
        rows(Path::new(&to))
    }
}

fn written_days_ago(path: &Path, days: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
}

/// The variables named a leftover; it was backed up every night as "successful", and the database
/// that the application used never.
#[test]
fn t12_the_database_in_use_is_backed_up_beside_the_one_that_the_variables_name() {
    for env in [
        "ADMIN_DB_PATH=./admin.db\nDATABASE_PATH=./data/chatbot.db\n",
        "ADMIN_DB_PATH=./admin.db\nexport DATABASE_URL='sqlite:data/chatbot.db'\n",
        // The application's own default.
        "ADMIN_DB_PATH=./admin.db\n",
    ] {
        let chatbot = Chatbot::new(env);
        let made = chatbot.backup().expect(0);
        assert!(made.err.contains("both are backed up"), "{}", made.err);
        let made = made.json();
        let made = made.as_array().unwrap();
        let sources: Vec<&str> = made.iter().map(|made| made["source"].as_str().unwrap()).collect();
        assert_eq!(sources, ["admin", "chatbot"], "{env}");
        // The manifest of the leftover says so, wherever it is read later.
        let warnings = made[0]["manifest"]["warnings"].to_string();
        let opens = chatbot.used.to_str().unwrap();
        assert!(warnings.contains("the application opens") && warnings.contains(opens), "{made:?}");
        assert!(warnings.contains("which no process has open"), "{warnings}");
        assert_eq!((chatbot.rows_of("admin"), chatbot.rows_of("chatbot")), (5, 50));
    }
}

/// As the example of the system has it: the database that the script looks for is not there.
#[test]
fn t12_a_missing_database_is_a_failure_and_the_one_in_use_is_backed_up() {
    let chatbot = Chatbot::new("ADMIN_DB_PATH=./admin.db\n");
    fs::remove_file(&chatbot.admin).unwrap();
    let made = chatbot.backup().expect(3);
    assert!(made.err.contains("which is not there"), "{}", made.err);
    assert_eq!(chatbot.rows_of("chatbot"), 50);
    assert!(!chatbot.admin.exists(), "nothing is made of a wrong path");
}

#[test]
fn t12_another_engine_is_said_without_its_password() {
    let chatbot =
        Chatbot::new("ADMIN_DB_PATH=./admin.db\nDATABASE_URL=postgresql://bot:secret@db/bot\n");
    let made = chatbot.backup().expect(0);
    assert!(made.err.contains("by DATABASE_URL the application uses postgresql"), "{}", made.err);
    assert!(!made.err.contains("secret") && !made.out.contains("secret"), "{made:?}");
    // What no shell would take is said as well, and hinders no backup.
    let chatbot =
        Chatbot::new("ADMIN_DB_PATH=./admin.db\nDATABASE_URL=mysql://u:secret@h/d?a=1&b=2\n");
    let made = chatbot.backup().expect(0);
    assert!(made.err.contains("cannot be told"), "{}", made.err);
    assert!(!made.err.contains("secret") && !made.out.contains("secret"), "{made:?}");
}

/// No alarm where there is nothing to be alarmed about, or it would be read past.
#[test]
fn t12_a_database_in_use_is_called_no_leftover() {
    let chatbot = Chatbot::new("ADMIN_DB_PATH=./admin.db\nDATABASE_PATH=./data/chatbot.db\n");
    let holder = Holder::of(&chatbot.admin);
    let made = chatbot.backup().expect(0);
    assert!(!made.err.contains("both are backed up"), "{}", made.err);
    assert_eq!(made.json().as_array().unwrap().len(), 2);
    drop(holder);
    // The same database under two names is one source.
    let chatbot = Chatbot::new("ADMIN_DB_PATH=./data/chatbot.db\n");
    assert_eq!(chatbot.backup().expect(0).json().as_array().unwrap().len(), 1);
    let chatbot = Chatbot::new("ADMIN_DB_PATH=./admin.db\nDATABASE_PATH=./link.db\n");
    std::os::unix::fs::symlink("admin.db", chatbot.world.path("data/link.db")).unwrap();
    let made = chatbot.backup().expect(0);
    assert_eq!(made.json().as_array().unwrap().len(), 1);
    assert!(!made.err.contains("warning"), "{}", made.err);
}

/// `init` says it before the first backup is made, and writes both down.
#[test]
fn t12_init_says_which_database_the_application_opens() {
    let world = World::new();
    let folder = world.path("root/srv/bot");
    fs::create_dir_all(folder.join("data")).unwrap();
    make_database(&folder.join("data/chatbot.db"), 5);
    make_database(&folder.join("data/admin.db"), 5);
    written_days_ago(&folder.join("data/admin.db"), 40);
    let env = "ADMIN_DB_TYPE=sqlite\nADMIN_DB_PATH=./data/admin.db\n";
    fs::write(folder.join(".env"), env).unwrap();
    let root = world.text("root");
    let ran = world.run(&["init", "--root", &root, "--dry-run"]).expect(0);
    let said = "ADMIN_DB_PATH names /srv/bot/data/admin.db";
    assert!(ran.err.contains(said), "{}", ran.err);
    assert!(ran.err.contains("but the application opens /srv/bot/data/chatbot.db"), "{}", ran.err);
    assert!(ran.out.contains("WARNING: in /srv/bot/.env ADMIN_DB_PATH names"), "{}", ran.out);
    for source in ["[source.admin]", "[source.chatbot]"] {
        assert!(ran.out.contains(source), "{}", ran.out);
    }
}

/// A server with the sources of its preset, in this world's folders.
fn superchat() -> World {
    let world = World::new();
    world.run(&["init", "--preset", "superchat"]).expect(0);
    let path = world.path("home/config/lifeboat/config.toml");
    let (home, data, repo) = (world.text("home"), world.text("data"), world.text("repo"));
    let mut text = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("/var/backups/lifeboat", &repo),
        ("/var/lib/superchat", &data),
        ("/etc/superchat", &data),
        (&format!("{home}/.superchat"), &data),
        (&format!("{home}/data/lifeboat"), &repo),
    ] {
        text = text.replace(from, to);
    }
    fs::write(&path, text).unwrap();
    world.database("superchat.db", 10);
    for name in ["ssh_host_key", "config.toml", "server.log"] {
        fs::write(world.path("data").join(name), name).unwrap();
    }
    world
}

fn key_of(world: &World) -> String {
    let place = world.path("tmp/key");
    let _ = fs::remove_dir_all(&place);
    let to = place.to_str().unwrap();
    world.run(&["restore", "superchat-host-key", "--to", to]).expect(0);
    let data = world.path("data/ssh_host_key");
    fs::read_to_string(place.join(data.strip_prefix("/").unwrap())).unwrap()
}

/// The host key was copied at 3 o'clock by a script that ran at 2. Whatever the hour is, a run
/// has the key.
#[test]
fn t10_the_host_key_is_backed_up_at_every_hour_of_the_day() {
    let world = superchat();
    let key = world.path("data/ssh_host_key");
    let mut hours = std::collections::BTreeSet::new();
    for hour in 0..24 {
        // A new key each time: one that is unchanged needs no new backup.
        fs::write(&key, format!("key of hour {hour}")).unwrap();
        // Zones as POSIX writes them: all 24 hours of the day are now, somewhere.
        let zone = format!("LCL-{hour}");
        let seen = Command::new("date").arg("+%H").env("TZ", &zone).output().unwrap();
        hours.insert(seen.stdout);
        let mut command = world.command(&["backup", "--json"]);
        let made = ran(command.env("TZ", &zone).output().unwrap()).expect(0).json();
        let key = made.as_array().unwrap().iter().find(|it| it["source"] == "superchat-host-key");
        assert_eq!(key.unwrap()["outcome"], "committed", "hour {hour}: {made}");
    }
    assert_eq!(key_of(&world), "key of hour 23");
    // One may be met twice, where the clock strikes meanwhile.
    assert!(hours.len() >= 23, "{hours:?}");
}

/// The schedule has a line for the key, and that line's own command backs it up, at the hour that
/// the line says: no second clock decides again.
#[test]
fn t10_the_line_of_the_schedule_sends_the_key() {
    let world = superchat();
    let lines = world.run(&["install", "cron", "--user"]).expect(0).out;
    let ours: Vec<&str> =
        lines.lines().filter(|line| line.contains("backup superchat-host-key")).collect();
    let [line] = ours[..] else { panic!("{lines}") };
    let command: Vec<&str> = line.splitn(6, ' ').collect();
    let output = Command::new("sh")
        .args(["-c", &command[5].replace("\\%", "%")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", world.path("home"))
        .env("XDG_CONFIG_HOME", world.path("home/config"))
        .env("XDG_STATE_HOME", world.path("state"))
        .env("TMPDIR", world.path("tmp"))
        .output()
        .unwrap();
    ran(output).expect(0);
    assert_eq!(key_of(&world), "ssh_host_key");
    // And it is not the last: the monitor asks for the key as it asks for the database.
    let status = world.run(&["status", "--json"]).json();
    let sources: Vec<&str> = status
        .as_array()
        .unwrap()
        .iter()
        .map(|source| source["source"].as_str().unwrap_or_default())
        .collect();
    assert!(sources.contains(&"superchat-host-key"), "{status}");
}
