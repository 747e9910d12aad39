//! The page `docs/from-scripts.md`: its commands, all of them, one by one, on a made-up server
//! whose scripts have left backups. Paths of the page stand for folders of the test; what they
//! are replaced by is in [`Server::here`]. Everything else runs as it is written.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Ran, World, make_database, ran, rows};

const PAGE: &str = include_str!("../../../../docs/from-scripts.md");

/// A fenced block: its language and its lines.
type Block<'a> = (&'a str, Vec<&'a str>);

/// The blocks of the section with that heading.
fn blocks<'a>(heading: &str) -> Vec<Block<'a>> {
    let start = format!("\n## {heading}\n");
    let (_, section) = PAGE.split_once(&start).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let mut blocks: Vec<Block<'a>> = Vec::new();
    let mut open = false;
    for line in section.lines() {
        match line.strip_prefix("```") {
            Some("") => open = false,
            Some(language) => {
                open = true;
                blocks.push((language, Vec::new()));
            }
            None if open => blocks.last_mut().unwrap().1.push(line),
            None => {}
        }
    }
    blocks
}

fn commands<'a>(heading: &str) -> Vec<&'a str> {
    let shell = blocks(heading).into_iter().filter(|(language, _)| *language == "sh");
    let lines = shell.flat_map(|(_, lines)| lines);
    lines.filter(|line| !line.trim().is_empty()).collect()
}

/// A server, as far as the page speaks of it.
struct Server {
    world: World,
}

impl Server {
    fn new() -> Server {
        let world = World::new();
        for folder in ["bin", "server", "etc", "old", "cron.d", "root", "chatbot/data", "sys"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        Server { world }
    }

    /// A command of the page, or the text of a configuration, with the places of the test.
    fn here(&self, text: &str) -> String {
        let sys = format!("--root {}", self.world.text("sys"));
        let mut text = text.to_owned();
        for (from, to) in [
            ("target/release/lifeboat", env!("CARGO_BIN_EXE_lifeboat").to_owned()),
            ("/usr/local/bin/", self.world.text("bin/")),
            ("/var/backups/superchat", self.world.text("old")),
            ("/var/backups/lifeboat", self.world.text("repo")),
            // Where a user who is not root has them.
            (&format!("{}/.superchat", self.world.text("home")), self.world.text("server")),
            (&self.world.text("home/data/lifeboat"), self.world.text("repo")),
            ("/var/lib/superchat", self.world.text("server")),
            ("/etc/superchat", self.world.text("etc")),
            ("/etc/cron.d/", self.world.text("cron.d/")),
            ("/root/", self.world.text("root/")),
            ("/var/www/chatbot", self.world.text("chatbot")),
            ("/data/backups", self.world.text("old")),
            ("/tmp/superchat-", self.world.text("tmp/superchat-")),
            ("/tmp/chatbot-", self.world.text("tmp/chatbot-")),
            ("/tmp/by-hand", self.world.text("tmp/by-hand")),
            // The schedules are written elsewhere, and no systemd is told.
            ("install systemd", format!("install systemd {sys}")),
            ("install cron", format!("install cron {sys}")),
        ] {
            text = text.replace(from, &to);
        }
        text
    }

    /// Runs a line in a shell, as root would in a shell of their own.
    fn shell(&self, line: &str) -> Ran {
        let path = format!("{}:{}", self.world.text("bin"), std::env::var("PATH").unwrap());
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(self.world.path("data"))
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.world.path("home"))
            .env("XDG_CONFIG_HOME", self.world.path("home/config"))
            .env("XDG_DATA_HOME", self.world.path("home/data"))
            .env("XDG_STATE_HOME", self.world.path("state"))
            .env("TMPDIR", self.world.path("tmp"))
            .env("TZ", "Europe/Berlin")
            .output()
            .unwrap();
        ran(output)
    }

    /// Runs commands of the page. Gives what each printed, with the command as the page has it.
    fn run(&self, heading: &str) -> Vec<(&'static str, Ran)> {
        let mut all = Vec::new();
        for command in commands(heading) {
            let ran = self.shell(&self.here(command));
            assert_eq!(ran.code, 0, "{command}\n{}\n{}", ran.out, ran.err);
            if command.contains("init --preset") {
                // The preset names the real places of the system.
                let path = self.world.path("home/config/lifeboat/config.toml");
                let text = self.here(&fs::read_to_string(&path).unwrap());
                fs::write(&path, text).unwrap();
            }
            all.push((command, ran));
        }
        all
    }

    /// The steps of the guide's script, so many days ago: `.backup`, the check, gzip.
    fn script_ran(&self, database: &str, prefix: &str, separator: &str, days: u32) {
        let old = self.world.text("old");
        self.shell(&format!(
            "at=$(date -d '{days} days ago' +%Y%m%d{separator}%H%M%S)
             file={old}/{prefix}$at.db
             sqlite3 {database} \".backup '$file'\"
             sqlite3 \"$file\" 'PRAGMA integrity_check;' | grep -q ok
             gzip \"$file\"
             touch -d '{days} days ago' \"$file.gz\""
        ))
        .expect(0);
    }
}

fn printed<'a>(all: &'a [(&str, Ran)], command: &str) -> &'a Ran {
    let found = all.iter().rev().find(|(line, _)| *line == command);
    &found.unwrap_or_else(|| panic!("the page has no {command}")).1
}

/// A block in a language that is not run would be a command that nobody tried.
#[test]
fn every_block_of_the_page_is_run() {
    let (mut run, mut headings) = (0, Vec::new());
    for line in PAGE.lines().filter(|line| line.starts_with("## ")) {
        let heading = &line[3..];
        headings.push(heading);
        for (language, lines) in blocks(heading) {
            match language {
                "sh" => run += lines.len(),
                "text" => {
                    let is_ours = lines.iter().any(|line| line.starts_with("lifeboat"));
                    assert!(!is_ours, "{lines:?}");
                }
                other => panic!("a block in `{other}`: is it run?"),
            }
        }
    }
    assert_eq!(headings, ["Install", "SuperChat", "The chatbot"], "the sections that are run");
    let fences = PAGE.lines().filter(|line| line.starts_with("```")).count();
    let blocks: usize = headings.iter().map(|heading| blocks(heading).len()).sum();
    assert_eq!(fences, 2 * blocks, "a fence outside of the sections");
    assert!(run > 30, "{run}");
}

/// What the text says in passing is at least a command, with options that it has.
#[test]
fn what_the_text_names_exists() {
    let world = World::new();
    let spans: Vec<&str> = PAGE.split('`').skip(1).step_by(2).collect();
    let ours: Vec<&str> = spans
        .into_iter()
        .filter(|span| span.starts_with("lifeboat ") && !span.contains("\n\n"))
        .filter(|span| span.lines().count() <= 2 && !span.contains("```"))
        .collect();
    assert!(ours.len() >= 5, "{ours:?}");
    for span in ours {
        let words: Vec<&str> = span.split_whitespace().skip(1).collect();
        let verbs: Vec<&str> =
            words.iter().copied().take_while(|word| !word.starts_with('-')).collect();
        let help = world.run(&[&verbs[..], &["--help"]].concat()).expect(0).out;
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{span}: no {option}");
        }
    }
}

#[test]
fn superchat_comes_from_its_scripts_to_lifeboat_with_its_old_backups() {
    let server = Server::new();
    let world = &server.world;
    let database = world.path("server/superchat.db");
    make_database(&database, 40);
    for (path, text) in [
        ("server/ssh_host_key", "KEY"),
        ("etc/config.toml", "[server]\n"),
        // Where a user who is not root has it.
        ("server/config.toml", "[server]\n"),
        ("server/server.log", "started\n"),
        ("cron.d/superchat-backup", "0 * * * * superchat superchat-backup.sh\n"),
    ] {
        fs::write(world.path(path), text).unwrap();
    }
    for days in [3, 2, 1] {
        server.script_ran(database.to_str().unwrap(), "superchat-", "-", days);
    }
    server
        .shell(&format!(
            "cp {0} {0}.backup-v1-$(date -d yesterday +%Y%m%d-%H%M%S)",
            database.display()
        ))
        .expect(0);
    let old = world.names("old");
    assert_eq!(old.len(), 3);

    server.run("Install");
    assert!(world.path("bin/lifeboat").exists());
    let all = server.run("SuperChat");

    // Three of the script, one of a migration, one of ours.
    let listed = server.shell("lifeboat list superchat --json").expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 5, "{listed}");
    assert_eq!(world.names("old"), old, "the originals stay");
    let tables = printed(&all, "sqlite3 /tmp/superchat-look.db .tables");
    assert!(tables.out.contains("message"), "{tables:?}");
    let integrity = printed(&all, "sqlite3 /tmp/by-hand.db \"PRAGMA integrity_check\"");
    assert_eq!(integrity.out, "ok\n");
    let rehearsed = printed(&all, "find /tmp/superchat-rehearsal -type f").out.clone();
    for part in ["/server/superchat.db\n", "/ssh_host_key\n", "/config.toml\n", "/server.log\n"] {
        assert!(rehearsed.contains(part), "{part}: {rehearsed}");
    }
    // An old one is restorable like one of ours.
    let back = world.text("tmp/back.db");
    server.shell(&format!("lifeboat restore superchat --at -47h --to {back}")).expect(0);
    assert_eq!(rows(Path::new(&back)), 40);
    // At the end everything is as it was before.
    assert_eq!(world.names("cron.d"), ["superchat-backup"]);
    assert_eq!(world.names("sys/etc/systemd/system"), [""; 0]);
    assert_eq!(world.names("sys/etc/cron.d"), [""; 0]);
    assert_eq!(rows(&database), 40);
}

#[test]
fn the_chatbot_comes_from_its_script_to_lifeboat_with_its_old_backups() {
    let server = Server::new();
    let world = &server.world;
    let database = world.path("chatbot/data/chatbot.db");
    make_database(&database, 40);
    // As it is shipped: the script's variable names a file that the application does not use.
    make_database(&world.path("chatbot/data/admin.db"), 3);
    let env = "ADMIN_DB_TYPE=sqlite\nADMIN_DB_PATH=./data/admin.db\n";
    fs::write(world.path("chatbot/.env"), env).unwrap();
    fs::create_dir(world.path("chatbot/logs")).unwrap();
    fs::write(world.path("chatbot/logs/chatbot.log"), "started\n").unwrap();
    for days in [3, 2, 1] {
        server.script_ran(database.to_str().unwrap(), "admin_sqlite_", "_", days);
    }
    let old = world.names("old");

    server.run("Install");
    let all = server.run("The chatbot");

    let found = printed(&all, "lifeboat init --dry-run /var/www/chatbot");
    assert!(found.err.contains("but the application opens"), "{}", found.err);
    let listed = server.shell("lifeboat list chatbot --json").expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 4, "{listed}");
    assert_eq!(world.names("old"), old, "the originals stay");
    let units = world.names("sys/etc/systemd/system");
    for source in ["chatbot", "chatbot-config", "chatbot-logs"] {
        let timer = format!("lifeboat-backup-{source}.timer");
        assert!(units.contains(&timer), "{timer}: {units:?}");
    }
    let integrity = printed(&all, "sqlite3 /tmp/chatbot-look.db \"PRAGMA integrity_check\"");
    assert_eq!(integrity.out, "ok\n");
}
