//! Throw-away clusters: a server of our own, in a private folder, reached by its socket alone.
//!
//! A full check loads a dump into one; tests live in them. The server refuses to run as root: then
//! it runs as `postgres`, or as `nobody` where there is no such user. A shell between us and the
//! server holds the other end of a pipe: when it closes, because we say so, fail or are killed, the
//! shell stops the server and removes its files.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use tempfile::TempDir;

use crate::address::Address;
use crate::child::Running;
use crate::client::{Client, ClientOptions};
use crate::leash::Leash;

/// How long a new server may take until it answers.
const START_TIMEOUT_MS: u64 = 60_000;
/// The path of a socket may have so many bytes, its name among them.
pub(crate) const SOCKET_FOLDER_BYTES_MAX: usize = 80;
/// Nothing in it must survive anything: no sync, little memory, no background work.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    // Else PGPORT of our environment would decide.
    "port=5432",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "shared_buffers=32MB",
    "max_connections=20",
    "log_min_messages=error",
];
/// Ends a server when its standard input does. Of a server that has not yet set its own, the signal
/// that ends it at once is ignored, as by all that a shell starts behind itself, and the other one
/// is its end; later the second goes before the first.
const STARTER: &str = "folder=$1; shift; \"$@\" & server=$!; cat >/dev/null; \
    kill -TERM $server 2>/dev/null; kill -QUIT $server 2>/dev/null; wait $server; \
    rm -rf -- \"$folder\"";

/// A running server of our own. Stopped and removed when dropped.
pub struct ThrowAwayCluster {
    folder: TempDir,
    sockets: PathBuf,
    _short: Option<TempDir>,
    options: ClientOptions,
    major: u32,
    port: String,
    shell: Child,
    leash: Leash,
}

/// Makes the data directory of a cluster: with that `initdb`, at that path, as the last argument
/// does it.
pub type Maker = dyn Fn(&Path, &Path, &dyn Fn(&Path) -> Result<()>) -> Result<()>;

/// User and group that a server of ours runs as, and the user's name.
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl ThrowAwayCluster {
    /// Makes a cluster with server programs of that major version, or of the newest there are, and
    /// starts it. `settings` are added to those of every throw-away cluster: `name=value`.
    pub fn start(
        env: &Env,
        options: &ClientOptions,
        major: Option<u32>,
        scratch_folder: &Path,
        settings: &[&str],
    ) -> Result<Self> {
        let make: &Maker = &|_, data, initialize| initialize(data);
        ThrowAwayCluster::start_made(env, options, (major, make), scratch_folder, settings)
    }

    /// The same, with a data directory that somebody else makes.
    pub fn start_made(
        env: &Env,
        options: &ClientOptions,
        (major, make): (Option<u32>, &Maker),
        scratch_folder: &Path,
        settings: &[&str],
    ) -> Result<Self> {
        // The server itself must be of this host, whatever the clients are run through.
        let options = ClientOptions { prefix: Vec::new(), ..options.clone() };
        let finder = Client::new(Address::default(), options.clone())?;
        let mut servers = finder.programs("initdb");
        servers.sort_by_key(|server| server.major);
        let initdb = match major {
            Some(major) => servers.into_iter().find(|server| server.major == major),
            None => servers.pop(),
        };
        let initdb = initdb.ok_or_else(|| missing(major))?;
        let run_as = rustix::process::geteuid().is_root().then(run_as);
        let folder = private_folder(scratch_folder, run_as.as_ref())?;
        let data = folder.path().join("data");
        let initialize =
            |data: &Path| initialize(&initdb.path, data, folder.path(), run_as.as_ref());
        make(&initdb.path, &data, &initialize)?;
        let (sockets, short) = match folder.path().as_os_str().len() < SOCKET_FOLDER_BYTES_MAX {
            true => (folder.path().to_owned(), None),
            false => {
                let short = private_folder(Path::new("/tmp"), run_as.as_ref())?;
                (short.path().to_owned(), Some(short))
            }
        };
        let server = initdb.path.with_file_name("postgres");
        let own = memory_settings(&options);
        let own: Vec<&str> =
            own.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        let mut shell = spawn(&server, &data, &sockets, folder.path(), run_as.as_ref(), &own)?;
        let mut leash = Leash::new(shell.stdin.take());
        leash.watch(env);
        let port = settings.iter().find_map(|setting| setting.strip_prefix("port="));
        let mut cluster = ThrowAwayCluster {
            folder,
            sockets,
            _short: short,
            options,
            major: initdb.major,
            port: port.unwrap_or("5432").to_owned(),
            shell,
            leash,
        };
        cluster.wait_until_ready(env)?;
        Ok(cluster)
    }

    /// The oldest major version on this host that is not older than that one.
    pub fn major_for(options: &ClientOptions, wanted: u32) -> Result<Option<u32>> {
        let options = ClientOptions { prefix: Vec::new(), ..options.clone() };
        let servers = Client::new(Address::default(), options)?.programs("initdb");
        Ok(servers.iter().map(|server| server.major).filter(|major| *major >= wanted).min())
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Its data directory.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The address of a database in it.
    pub fn address(&self, database: &str) -> Address {
        Address::default()
            .with("host", self.sockets.to_string_lossy())
            .with("port", self.port.as_str())
            .with("user", "postgres")
            .with_database(database)
    }

    /// A client of a database in it.
    pub fn client(&self, database: &str) -> Result<Client> {
        Client::new(self.address(database), self.options.clone())
    }

    fn wait_until_ready(&mut self, env: &Env) -> Result<()> {
        let begun_ms = env.clock.monotonic_ms();
        let pid_file = self.folder.path().join("data/postmaster.pid");
        loop {
            // Its eighth line says how far the server is.
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            let ended = self.shell.try_wait().is_ok_and(|status| status.is_some());
            let log = self.folder.path().join("server.log");
            let failed = fs::read_to_string(&log).is_ok_and(|log| log.contains("FATAL"));
            if ended || failed || env.elapsed_ms(begun_ms) > START_TIMEOUT_MS {
                let log = fs::read_to_string(&log).unwrap_or_default();
                env.proceed()?;
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                let message = "a throw-away cluster did not start";
                return Err(Error::new(Kind::Failed, format!("{message}: {}", last.join("; "))));
            }
            env.clock.sleep_ms(10);
        }
    }
}

impl Drop for ThrowAwayCluster {
    fn drop(&mut self) {
        self.leash.let_go();
        let _ = self.shell.wait();
    }
}

/// How a server of ours keeps to the memory that it may use, where that is said: a part of it for
/// pages, as much for making indexes, and little for each query.
pub(crate) fn memory_settings(options: &ClientOptions) -> Vec<String> {
    const KIB: u64 = 1 << 10;
    let Some(bytes) = options.server_memory_bytes else { return Vec::new() };
    let kib = |bytes: u64, least: u64| (bytes / KIB).clamp(least, 1 << 30);
    vec![
        format!("shared_buffers={}kB", kib(bytes / 4, 1 << 10)),
        format!("maintenance_work_mem={}kB", kib(bytes / 4, 1 << 10)),
        format!("work_mem={}kB", kib(bytes / 16, 64)),
        "max_parallel_maintenance_workers=0".to_owned(),
        "max_parallel_workers_per_gather=0".to_owned(),
    ]
}

pub(crate) fn missing(major: Option<u32>) -> Error {
    let (what, package) = match major {
        Some(major) => {
            (format!("version {major} of PostgreSQL's server"), format!("postgresql-{major}"))
        }
        None => ("PostgreSQL's server".to_owned(), "postgresql".to_owned()),
    };
    Error::new(Kind::SourceUnavailable, format!("{what} is not on this host: initdb is missing"))
        .hint(format!("install it: apt-get install {package}"))
}

pub(crate) fn run_as() -> RunAs {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(RunAs { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    };
    of("postgres").or_else(|| of("nobody")).unwrap_or(RunAs { uid: 65_534, gid: 65_534 })
}

/// A folder that only the server's user may enter.
pub(crate) fn private_folder(parent: &Path, run_as: Option<&RunAs>) -> Result<TempDir> {
    let failed = |error| {
        let message =
            format!("cannot make a folder for a throw-away cluster in {}", parent.display());
        Error::io(Kind::Failed, message, error).hint("choose another folder with TMPDIR")
    };
    let folder =
        tempfile::Builder::new().prefix("lifeboat-cluster-").tempdir_in(parent).map_err(failed)?;
    if let Some(RunAs { uid, gid }) = run_as {
        std::os::unix::fs::chown(folder.path(), Some(*uid), Some(*gid)).map_err(failed)?;
    }
    Ok(folder)
}

pub(crate) fn as_user<'a>(command: &'a mut Command, run_as: Option<&RunAs>) -> &'a mut Command {
    match run_as {
        Some(RunAs { uid, gid }) => command.uid(*uid).gid(*gid),
        None => command,
    }
}

fn initialize(initdb: &Path, data: &Path, home: &Path, run_as: Option<&RunAs>) -> Result<()> {
    let mut command = Command::new(initdb);
    as_user(&mut command, run_as)
        .args(["-A", "trust", "-U", "postgres", "--no-sync", "--locale=C", "--encoding=UTF8"])
        .arg("--data-checksums")
        .arg("-D")
        .arg(data)
        .env("LC_ALL", "C")
        .env("HOME", home)
        .current_dir("/")
        .stdin(Stdio::null());
    Running::output(command, "cannot make a throw-away cluster", 1 << 20).map(drop)
}

fn spawn(
    server: &Path,
    data: &Path,
    sockets: &Path,
    folder: &Path,
    run_as: Option<&RunAs>,
    settings: &[&str],
) -> Result<Child> {
    let failed = |error| Error::io(Kind::Failed, "cannot start a throw-away cluster", error);
    let log = fs::File::create(folder.join("server.log")).map_err(failed)?;
    let mut command = Command::new("/bin/sh");
    as_user(&mut command, run_as)
        .args(["-c", STARTER, "sh"])
        .arg(folder)
        .arg(server)
        .arg("-D")
        .arg(data)
        .arg("-c")
        .arg(format!("unix_socket_directories={}", sockets.display()));
    for setting in SETTINGS.iter().chain(settings) {
        command.args(["-c", setting]);
    }
    command
        .env("LC_ALL", "C")
        .env("HOME", folder)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)
}
