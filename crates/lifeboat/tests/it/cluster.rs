//! Clusters of PostgreSQL that are started, killed and started again, whose server runs our program
//! as its archive and restore command.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::postgres_server::folders;
use crate::support::{Ran, is_root, ran, set_mode};

/// The program where the server's user can run it: a checkout in root's home it cannot enter.
pub(crate) fn program() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let original = Path::new(env!("CARGO_BIN_EXE_lifeboat"));
        if !is_root() {
            return original.to_owned();
        }
        // One for all runs of the tests with this build.
        let built = fs::metadata(original).unwrap().modified().unwrap();
        let stamp = built.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        // Of this checkout: another one has tests of its own.
        let place: String = env!("CARGO_MANIFEST_DIR").replace('/', "_");
        let folder = PathBuf::from(format!("/var/tmp/lifeboat-program-of-tests{place}"));
        fs::create_dir_all(&folder).unwrap();
        set_mode(&folder, 0o755);
        let copy = folder.join(format!("lifeboat-{stamp}"));
        if !copy.exists() {
            for old in fs::read_dir(&folder).unwrap().flatten() {
                let _ = fs::remove_file(old.path());
            }
            let staged = folder.join(format!("staged-{}", std::process::id()));
            lifeboat_test_support::copied_program(original, &staged);
            fs::rename(&staged, &copy).unwrap();
        }
        copy
    })
}

/// User and group of the server.
pub(crate) fn user() -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    is_root().then(|| of("postgres").or_else(|| of("nobody")).unwrap())
}

/// A folder of the server's user with everything of one test.
pub(crate) struct Yard {
    folder: TempDir,
}

impl Yard {
    pub(crate) fn new() -> Yard {
        let folder =
            tempfile::Builder::new().prefix("lifeboat-yard-").tempdir_in("/var/tmp").unwrap();
        let yard = Yard { folder };
        for name in ["home", "state", "tmp"] {
            fs::create_dir(yard.path(name)).unwrap();
            yard.own(name);
        }
        yard.own("");
        yard
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn own(&self, name: &str) {
        if let Some((uid, gid)) = user() {
            std::os::unix::fs::chown(self.path(name), Some(uid), Some(gid)).unwrap();
        }
    }

    /// Writes a configuration; `$YARD` is the folder.
    pub(crate) fn configure(&self, text: &str) {
        let text = text.replace("$YARD", self.folder.path().to_str().unwrap());
        fs::write(self.path("config.toml"), text).unwrap();
        self.own("config.toml");
    }

    /// One source `main` in the repositories of those names.
    pub(crate) fn configure_main(&self, repositories: &[&str]) {
        let mut text = String::new();
        for name in repositories {
            text.push_str(&format!("[repository.{name}]\nurl = \"file://$YARD/{name}\"\n"));
        }
        text.push_str(MAIN);
        self.configure(&text);
    }

    /// A command as the server's user, in the environment of this yard.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = self.own_command(program);
        if let Some((uid, gid)) = user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// The same as the user of the tests.
    pub(crate) fn own_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let mut paths = folders();
        paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        command
            .env_clear()
            .env("PATH", std::env::join_paths(paths).unwrap())
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("TMPDIR", self.path("tmp"))
            .env("LIFEBOAT_CONFIG", self.path("config.toml"))
            .env("LIFEBOAT_DISK_USED", "50")
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Our program in a data directory, as a server runs it.
    pub(crate) fn lifeboat_in(&self, data: &Path, arguments: &[&str]) -> Ran {
        ran(self.command(program()).args(arguments).current_dir(data).output().unwrap())
    }

    /// The log's objects of a repository: below the folder of the source, without the ending.
    pub(crate) fn log(&self, repository: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(repository).join("main/wal"), "", &mut found);
        found.sort();
        found
    }

    /// The names alone of those that are segments.
    pub(crate) fn segments(&self, repository: &str) -> Vec<String> {
        let names = self.log(repository).into_iter();
        let names = names.map(|name| name.rsplit('/').next().unwrap().to_owned());
        names.filter(|name| name.len() == 24).collect()
    }
}

/// The source of these tests.
pub(crate) const MAIN: &str = "[source.main]\nid = \"0a8b6a34-11a5-4a0c-8a2e-3f0f6f1f5d11\"\n\
    [source.main.postgres]\nphysical = true\n\
    url = \"postgresql:///postgres?user=postgres&host=$YARD\"\n";

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), &path, found),
            false if !name.starts_with('.') => {
                found.push(path.strip_suffix(".zst").unwrap().to_owned());
            }
            false => {}
        }
    }
}

/// A cluster.
pub(crate) struct Cluster<'a> {
    yard: &'a Yard,
    programs: PathBuf,
    pub(crate) data: PathBuf,
    server: Option<Child>,
}

impl<'a> Cluster<'a> {
    /// A new one in a folder of the yard, not started. `more` are arguments of `initdb`.
    pub(crate) fn new(yard: &'a Yard, major: u32, name: &str, more: &[&str]) -> Cluster<'a> {
        let cluster = Cluster::at(yard, major, name);
        let initdb = cluster.program("initdb");
        let initialize = |data: &Path| -> Result<(), Infallible> {
            let mut command = yard.command(&initdb);
            let plain = ["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"];
            done(command.args(plain).args(more).arg("-D").arg(data).output().unwrap());
            Ok(())
        };
        let arguments = [&["plain"], more].concat();
        let Ok(()) =
            lifeboat_test_support::template::make(&initdb, &arguments, &cluster.data, initialize);
        cluster.set(&[
            "listen_addresses = ''",
            &format!("unix_socket_directories = '{}'", yard.path("").display()),
            "fsync = off",
            "shared_buffers = 32MB",
            "autovacuum = off",
            "max_connections = 20",
            "archive_mode = on",
        ]);
        cluster
    }

    /// One that lies in a folder already.
    pub(crate) fn at(yard: &'a Yard, major: u32, name: &str) -> Cluster<'a> {
        let places = folders().into_iter().chain([PathBuf::from("/usr/lib/postgresql/15/bin")]);
        let is_it = |place: &PathBuf| {
            let output = Command::new(place.join("postgres")).arg("--version").output();
            let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            version.is_ok_and(|text| text.contains(&format!("(PostgreSQL) {major}.")))
        };
        let programs = places.into_iter().find(is_it);
        let programs =
            programs.unwrap_or_else(|| panic!("PostgreSQL {major} (cargo xtask test installs it)"));
        Cluster { yard, programs, data: yard.path(name), server: None }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Adds settings.
    pub(crate) fn set(&self, lines: &[&str]) {
        use std::io::Write as _;
        let path = self.data.join("postgresql.auto.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
    }

    /// The archive command with more arguments.
    pub(crate) fn archive(&self, more: &str) {
        let program = program().display();
        self.set(&[&format!("archive_command = '{program} wal push %p {more}'")]);
    }

    pub(crate) fn start(&mut self, port: u16) {
        let log = fs::File::create(self.yard.path(&format!("server-{port}.log"))).unwrap();
        let mut command = self.yard.command(&self.program("postgres"));
        command.arg("-D").arg(&self.data).args(["-p", &port.to_string()]).stderr(log);
        self.server = Some(command.stdout(Stdio::null()).spawn().unwrap());
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn up(&mut self, port: u16) {
        self.start(port);
        self.wait_until(port, "SELECT 1");
    }

    /// Waits until a query answers `1` or `t`.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, port: u16, query: &str) {
        for _ in 0..6_000 {
            let output = self.psql(port, query);
            let text = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && matches!(text.trim(), "1" | "t") {
                return;
            }
            let ended = self.server.as_mut().and_then(|server| server.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended: {}", self.log(port));
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("nobody answers {query}: {}", self.log(port));
    }

    /// Waits until the server has ended by itself.
    pub(crate) fn wait_for_end(&mut self) {
        let _ = self.server.take().unwrap().wait().unwrap();
    }

    pub(crate) fn log(&self, port: u16) -> String {
        fs::read_to_string(self.yard.path(&format!("server-{port}.log"))).unwrap_or_default()
    }

    pub(crate) fn psql(&self, port: u16, query: &str) -> Output {
        self.psql_command(port, query).output().unwrap()
    }

    pub(crate) fn psql_command(&self, port: u16, query: &str) -> Command {
        let mut command = self.yard.command(&self.program("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", &port.to_string()]);
        command.arg("-h").arg(self.yard.path("")).args(["-d", "postgres", "-c", query]);
        command
    }

    /// What a query answers.
    #[track_caller]
    pub(crate) fn ask(&self, port: u16, query: &str) -> String {
        let output = done(self.psql(port, query));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// `pgbench` with those arguments; not waited for.
    pub(crate) fn pgbench(&self, port: u16, arguments: &[&str]) -> Child {
        let mut command = self.yard.command(&self.program("pgbench"));
        command.args(["-U", "postgres", "-p", &port.to_string(), "-h"]).arg(self.yard.path(""));
        command.args(arguments).arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Commits until the server is gone. As fast as it can only in the long tests: elsewhere that
    /// would be what the machine does all the time, and all that it wrote is replayed at each
    /// restore.
    pub(crate) fn load(&self, port: u16) -> Child {
        let all = ["-n", "-c", "2", "-T", "6000", "-R", "300"];
        let arguments = if lifeboat_test_support::is_long() { &all[..5] } else { &all };
        self.pgbench(port, arguments)
    }

    /// A plain copy of the running server, made by its own program.
    pub(crate) fn copy(&self, port: u16, name: &str) -> Cluster<'a> {
        let mut command = self.yard.command(&self.program("pg_basebackup"));
        command.args(["-U", "postgres", "-p", &port.to_string(), "-h"]).arg(self.yard.path(""));
        command.args(["-X", "stream", "-c", "fast", "-D"]).arg(self.yard.path(name));
        done(command.output().unwrap());
        Cluster {
            data: self.yard.path(name),
            programs: self.programs.clone(),
            server: None,
            ..*self
        }
    }

    /// Kills one of its processes alone.
    pub(crate) fn kill_one(&self, port: u16, kind: &str) {
        let query = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'");
        done(Command::new("kill").args(["-9", &self.ask(port, &query)]).output().unwrap());
    }

    /// Kills it, and all of its children, as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let children = children_of(server.id());
            server.kill().unwrap();
            server.wait().unwrap();
            for child in &children {
                let _ = Command::new("kill").args(["-9", &child.to_string()]).output();
            }
            // As long as one of them lives, its memory is in use and no server begins.
            for _ in 0..6_000 {
                if !children.iter().any(|child| is_alive(*child)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Stops it in good order: the last segments are archived first.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let id = server.id().to_string();
            done(Command::new("kill").args(["-INT", &id]).output().unwrap());
            server.wait().unwrap();
        }
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a process has not ended.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// The children of a process.
pub(crate) fn children_of(id: u32) -> Vec<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[track_caller]
pub(crate) fn done(output: Output) -> Output {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {said}", output.status);
    output
}
