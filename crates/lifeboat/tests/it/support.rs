//! A world for each test: folders, databases, and the program in an environment of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rusqlite::Connection;
use tempfile::TempDir;

/// What a run of the program ended with.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code, or 128 and the signal's number.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Requires that exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "\n--- out\n{}\n--- err\n{}", self.out, self.err);
        self
    }

    /// Requires that standard error has that text.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Ran {
        assert!(self.err.contains(text), "{text:?} is not in\n{}", self.err);
        self
    }
}

/// The clock of a run that begins at that moment and is slow: names have whole seconds, and a run
/// may take a busy host some.
pub(crate) fn slowly(moment: impl std::fmt::Display) -> String {
    format!("{moment}/60")
}

/// Waits where a full hour is near: a log that is thinned out to a state of each hour goes by the
/// hours of the clock.
pub(crate) fn within_one_hour() {
    const NEAR_S: u64 = 180;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left_s = 3_600 - now.as_secs() % 3_600;
    if left_s < NEAR_S {
        std::thread::sleep(std::time::Duration::from_secs(left_s));
    }
}

/// The world of one test.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        // Whoever runs the tests may ignore them (`nohup`, a job in the background of a script),
        // and what is ignored stays so in every program that is started from here.
        for signal in [libc::SIGINT, libc::SIGHUP] {
            // SAFETY: no handler is set, only the default.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let folder = tempfile::Builder::new().prefix("lifeboat-it-").tempdir().unwrap();
        for name in ["home", "state", "tmp", "data"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        World { folder }
    }

    /// Whether a process has a file in that folder open.
    pub(crate) fn has_open(&self, process: u32, folder: &str) -> bool {
        let folder = self.path(folder);
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
        let mut places = open.filter_map(|file| std::fs::read_link(file.path()).ok());
        places.any(|place| place.starts_with(&folder))
    }

    /// A path in this world, links resolved.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The program, in this world's environment and in its `data` folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("home/config"))
            .env("XDG_DATA_HOME", self.path("home/data"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("TMPDIR", self.path("tmp"))
            .env("TZ", "UTC")
            // The disk below may be nearly full, which shortens the grace time of a prune.
            .env("LIFEBOAT_DISK_USED", "50")
            // Root's is a folder of the host, to which no test may write.
            .env("LIFEBOAT_DEFAULT_REPOSITORY", self.path("home/data/lifeboat"))
            .current_dir(self.path("data"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program with those arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    /// Runs it on this world's repository.
    pub(crate) fn repo(&self, arguments: &[&str]) -> Ran {
        ran(self.repo_command(arguments).output().unwrap())
    }

    /// The program on this world's repository.
    pub(crate) fn repo_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--repo").arg(self.path("repo"));
        command
    }

    /// Writes a configuration to the place where it is looked for.
    pub(crate) fn configure(&self, text: &str) {
        let folder = self.path("home/config/lifeboat");
        fs::create_dir_all(&folder).unwrap();
        let text = text.replace("$DATA", &self.text("data")).replace("$REPO", &self.text("repo"));
        fs::write(folder.join("config.toml"), text).unwrap();
    }

    /// A database with that many rows, in `data`. WAL mode.
    pub(crate) fn database(&self, name: &str, rows: u32) -> PathBuf {
        let path = self.path("data").join(name);
        make_database(&path, rows);
        path
    }

    /// The names in a folder of this world, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The one file of the source's folder in the repository that ends so.
    pub(crate) fn artifact(&self, source: &str, ending: &str) -> PathBuf {
        let folder = format!("repo/{source}");
        let found: Vec<String> =
            self.names(&folder).into_iter().filter(|name| name.ends_with(ending)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        self.path(&folder).join(&found[0])
    }
}

/// A database with an index, a foreign key and rows that do not compress away.
pub(crate) fn make_database(path: &Path, rows: u32) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA user_version = 42;
             PRAGMA application_id = 7;
             CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
             CREATE TABLE message(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id),
                 body TEXT);
             CREATE INDEX message_body ON message(body);
             INSERT INTO person VALUES(1, 'ann'), (2, 'bob');",
        )
        .unwrap();
    add_rows(&connection, 1, rows);
    connection.close().unwrap();
}

/// Adds messages with ids from `first` on.
pub(crate) fn add_rows(connection: &Connection, first: u32, rows: u32) {
    connection
        .execute(
            "WITH RECURSIVE n(i) AS
                 (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1 + ?2 - 1)
             INSERT INTO message
                 SELECT i, 1 + i % 2, 'message ' || i || hex(randomblob(40)) FROM n",
            [first, rows],
        )
        .unwrap();
}

/// How many messages a database has.
pub(crate) fn rows(path: &Path) -> u32 {
    let connection = Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).unwrap()
}

/// All messages of a database, for comparison.
pub(crate) fn content(path: &Path) -> Vec<(u32, String)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("SELECT id, body FROM message ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Overwrites a part of a leaf of a table, in the middle of a file with pages of 4,096 bytes.
pub(crate) fn damage(path: &Path) {
    const TABLE_LEAF: u8 = 0x0d;
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 4096 / 2;
    let page = (middle..).find(|page| bytes[page * 4096] == TABLE_LEAF).unwrap() * 4096;
    bytes[page..page + 1000].fill(0x5a);
    fs::write(path, bytes).unwrap();
}

/// Another process that has the database open, until it is dropped.
pub(crate) struct Holder {
    child: Child,
}

impl Holder {
    pub(crate) fn of(path: &Path) -> Holder {
        use std::io::{BufRead, BufReader, Write};
        let mut child = Command::new("sqlite3")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.as_mut().unwrap();
        input.write_all(b"SELECT count(*) FROM message; SELECT 'open';\n").unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"));
        Holder { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has come to a point of its run, and goes on when it may.
pub(crate) struct Held {
    child: Child,
    mark: PathBuf,
}

impl Held {
    /// Starts a command in that world and waits until it is held at the point.
    #[track_caller]
    pub(crate) fn at(world: &World, mut command: Command, point: &str) -> Held {
        let mark = world.path(&format!("held-at-{point}"));
        command.env("LIFEBOAT_PAUSE_AT", format!("{point}:{}", mark.display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while !mark.exists() {
            if child.try_wait().unwrap().is_some() {
                panic!("it ended before {point}: {:?}", child.wait_with_output().unwrap());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Held { child, mark }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// It goes on, to its end.
    pub(crate) fn go_on(self) -> Ran {
        fs::remove_file(&self.mark).unwrap();
        ran(self.child.wait_with_output().unwrap())
    }

    /// It gets that signal, and comes to its end.
    pub(crate) fn signal(self, name: &str) -> Ran {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
        ran(self.child.wait_with_output().unwrap())
    }

    /// It is killed.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn ran(output: Output) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let signal = output.status.signal().map(|signal| 128 + signal);
    Ran {
        code: output.status.code().or(signal).unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether this test runs as root, who is refused nothing.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}
