//! The guide of the chatbot's scripts, its pages about PostgreSQL, with the program in their place:
//! the same variables, a server that wants a password, and nowhere a trace of it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::postgres_server::{Server, command, majors};
use crate::support::{Ran, World, mode, ran};

/// What a person types who was told to choose a strong one.
const PASSWORD: &str = "p@ss:w/rd?#%41 \\'\"ü&=";
/// The same as it stands in a URL.
const ENCODED: &str = "p%40ss%3Aw%2Frd%3F%23%2541%20%5C%27%22%C3%BC%26%3D";

const TABLES: &str = "
CREATE TABLE agents (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE audit_messages (id bigint PRIMARY KEY, agent int REFERENCES agents, body text);
CREATE TABLE jobs (id int PRIMARY KEY, state text);
INSERT INTO agents SELECT i, 'agent ' || i FROM generate_series(1, 20) AS i;
INSERT INTO audit_messages SELECT i, 1 + i % 20, repeat('x', i % 50) FROM generate_series(1, 2000) AS i;
";

/// A chatbot's host: the server, the variables, and the folder of the backups.
struct Chatbot {
    world: World,
    server: Server,
}

impl Chatbot {
    fn new(major: u32) -> Chatbot {
        let server = Server::tcp(major);
        let password = PASSWORD.replace('\'', "''");
        server.sql(
            "postgres",
            &format!("CREATE ROLE \"chat bot\" LOGIN CREATEDB PASSWORD '{password}'"),
        );
        server.sql("postgres", "CREATE DATABASE chatbot_admin OWNER \"chat bot\"");
        server.sql(
            "chatbot_admin",
            &format!("SET ROLE \"chat bot\"; SET search_path = public; {TABLES}"),
        );
        Chatbot { world: World::new(), server }
    }

    fn url(&self) -> String {
        format!("postgresql://chat%20bot:{ENCODED}@127.0.0.1:{}/chatbot_admin", self.server.port())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.world, arguments);
        command
            .env("ADMIN_DB_TYPE", "postgres")
            .env("ADMIN_DATABASE_URL", self.url())
            .env("BACKUP_DIR", self.world.path("backups"))
            .env("RETENTION_DAYS", "30");
        command
    }

    /// Runs the program. Whatever it says, it never says the password.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ran {
        let ran = ran(self.command(arguments).output().unwrap());
        for text in [&ran.out, &ran.err] {
            assert!(!holds_password(text.as_bytes()), "{arguments:?} says the password: {text}");
        }
        ran
    }

    fn agents(&self) -> Vec<String> {
        self.server.ask("chatbot_admin", "SELECT count(*) FROM agents")
    }
}

fn holds_password(bytes: &[u8]) -> bool {
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    [PASSWORD, ENCODED, escaped.as_str()]
        .iter()
        .any(|password| bytes.windows(password.len()).any(|window| window == password.as_bytes()))
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn the_guide_from_a_backup_to_an_undo() {
    for major in majors() {
        let bot = Chatbot::new(*major);
        let before = bot.server.text("chatbot_admin");

        // ./scripts/db_backup.sh
        bot.run(&["backup"]).expect(0);
        let listed = bot.run(&["list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        let name = listed[0]["name"].as_str().unwrap().to_owned();
        let digits: String =
            name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(digits, "admin_postgres_00000000_000000");
        // A role that may not read the passwords of roles goes on, and it is said.
        bot.run(&["show", &name]).expect(0);
        let shown = bot.run(&["show", &name, "--json"]).expect(0).json().to_string();
        assert!(shown.contains("\"role_passwords\":false"), "{shown}");
        assert!(shown.contains("the role may not read them"), "{shown}");
        // T36: a dump is no proof of the pages on the disk.
        assert!(shown.contains("\"disk_pages\":\"not verified\""), "{shown}");
        assert!(shown.contains("\"public.audit_messages\":2000"), "{shown}");
        for file in files(&bot.world.path("backups")) {
            assert_eq!(mode(&file) & 0o077, 0, "{}", file.display());
            assert!(!holds_password(&fs::read(&file).unwrap()), "{}", file.display());
        }
        bot.run(&["verify"]).expect(0);
        bot.run(&["verify", "--level", "full"]).expect(0);

        // Something goes wrong: a table is gone, another one is half empty.
        bot.server.sql(
            "chatbot_admin",
            "DROP TABLE public.audit_messages; DELETE FROM public.agents WHERE id > 10",
        );
        let damaged = bot.server.text("chatbot_admin");

        // ./scripts/db_restore.sh: without a terminal it asks nothing, and does nothing.
        bot.run(&["restore", &name]).expect(24);
        let planned = bot.run(&["restore", &name, "--dry-run"]).expect(0);
        assert!(planned.out.contains("rename chatbot_admin to chatbot_admin_before_restore_"));
        assert_eq!(bot.server.text("chatbot_admin"), damaged);
        assert_eq!(bot.server.databases(), ["chatbot_admin", "postgres"]);
        let restored = bot.run(&["restore", &name, "--yes", "--json"]).expect(0).json();
        assert_eq!(bot.server.text("chatbot_admin"), before, "PostgreSQL {major}");
        assert_eq!(bot.agents(), ["20"]);
        let kept = restored["kept_as"].as_str().unwrap();
        assert_eq!(bot.server.text(kept), damaged);
        // The pre-restore backup is in the repository, and pinned.
        let safety = restored["safety_backup"].as_str().unwrap();
        assert!(safety.starts_with("admin_postgres_"), "{safety}");
        let shown = bot.run(&["show", safety, "--json"]).expect(0).json().to_string();
        assert!(shown.contains("before the restore of"), "{shown}");
        let owner =
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'chatbot_admin'";
        assert_eq!(bot.server.ask("postgres", owner), ["chat bot"]);

        let source = restored["undo"].as_str().unwrap();
        assert!(source.starts_with("lifeboat undo "), "{source}");
        bot.run(&["undo", "chatbot_admin", "--yes"]).expect(0);
        assert_eq!(bot.server.text("chatbot_admin"), damaged);

        // The guide's restore takes the path of a file as well.
        let file = files(&bot.world.path("backups")).into_iter().find(|path| {
            let file = path.file_name().unwrap().to_string_lossy();
            file.starts_with(&name) && file.contains(".dump")
        });
        let file = file.unwrap();
        bot.run(&["restore", file.to_str().unwrap(), "--yes"]).expect(0);
        assert_eq!(bot.server.text("chatbot_admin"), before);

        bot.run(&["prune", "--dry-run"]).expect(0);
        bot.run(&["prune", "--yes"]).expect(0);
        bot.run(&["backup", "--retention-days", "30"]).expect(0);
        // Nothing is older than thirty days.
        let listed = bot.run(&["list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().unwrap().len(), 4, "{listed}");
    }
}

/// The children of a process.
fn children(id: u32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        if fields.split(' ').nth(1) == Some(id.to_string().as_str()) {
            found.push(name);
        }
    }
    found
}

#[test]
fn the_password_is_in_no_command_line_and_no_environment_of_a_child() {
    let bot = Chatbot::new(15);
    let mut holder = bot.server.session("chatbot_admin");
    holder.execute("BEGIN; LOCK TABLE public.agents").unwrap();
    let mut command = bot.command(&["backup"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // pg_dump is there, and waits for the table.
    bot.server.wait_for("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
    let mut seen = Vec::new();
    for id in children(child.id()) {
        let folder = Path::new("/proc").join(id);
        let (line, environment) =
            (fs::read(folder.join("cmdline")), fs::read(folder.join("environ")));
        let (Ok(line), Ok(environment)) = (line, environment) else { continue };
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!holds_password(&line), "{text}");
        assert!(!holds_password(&environment), "{}", String::from_utf8_lossy(&environment));
        seen.push(text);
    }
    for name in ["pg_dump ", "psql "] {
        assert!(seen.iter().any(|line| line.contains(name)), "{seen:?}");
    }
    let line = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    assert!(!holds_password(&line));
    // The private file of the password is ours alone, and gone at the end.
    let passwords = || {
        let names = bot.world.names("tmp").into_iter();
        names.filter(|name| name.contains("pgpass")).collect::<Vec<_>>()
    };
    assert!(!passwords().is_empty());
    for name in passwords() {
        assert_eq!(mode(&bot.world.path("tmp").join(name)), 0o600);
    }
    holder.execute("ROLLBACK").unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(passwords().is_empty(), "{:?}", passwords());
}
