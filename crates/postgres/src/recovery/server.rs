//! A server of ours on a data directory that was restored: reached by its private socket alone,
//! with settings of ours, and gone when we are gone.
//!
//! Every setting that could hinder it here, or reach out of it, is given on its command line, which
//! counts more than the files of the cluster: no address, no archive, no library that may be
//! missing, no primary, memory for a small host.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use tempfile::TempDir;

use super::write::{failed, give};
use crate::address::Address;
use crate::client::{Client, ClientOptions};
use crate::cluster::{
    RunAs, SOCKET_FOLDER_BYTES_MAX, as_user, memory_settings, missing, private_folder, run_as,
};
use crate::control::Limits;
use crate::leash::Leash;

/// How often the server is looked at, in milliseconds.
const LOOK_MS: u64 = 10;
/// How long it may take to stop.
const STOP_TIMEOUT_MS: u64 = 300_000;
/// A shell that ends with the server, and ends it when our end of a pipe closes: because we say so,
/// fail or are killed.
const STARTER: &str = "folder=$1; shift; exec 3<&0; \"$@\" 3<&- </dev/null & server=$!; \
    { cat <&3 >/dev/null; kill -TERM $server 2>/dev/null; kill -QUIT $server 2>/dev/null; \
    while kill -0 $server 2>/dev/null; do sleep 0.1; done; rm -rf -- \"$folder\"; } & watch=$!; \
    exec 3<&-; wait $server; status=$?; kill $watch 2>/dev/null; exit $status";
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("port", "5432"),
    ("external_pid_file", ""),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("ssl", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_min_messages", "warning"),
    ("log_line_prefix", ""),
    ("log_timezone", "UTC"),
    ("lc_messages", "C"),
    ("autovacuum", "off"),
    ("archive_mode", "off"),
    ("wal_level", "replica"),
    ("fsync", "off"),
    ("hot_standby", "off"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("temp_tablespaces", ""),
];

/// Programs of the version that a data directory needs.
#[derive(Clone, Debug)]
pub struct ServerPrograms {
    /// `postgres`.
    pub server: PathBuf,
    /// Its major version.
    pub major: u32,
    options: ClientOptions,
}

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It starts or recovers.
    Starting,
    /// It answers.
    Ready,
    /// It ended.
    Ended,
}

/// A server that runs on a data directory. Ended, without a checkpoint, when dropped.
pub struct FolderServer {
    data: PathBuf,
    folder: TempDir,
    sockets: PathBuf,
    _short: Option<TempDir>,
    options: ClientOptions,
    shell: Child,
    leash: Leash,
}

impl ServerPrograms {
    /// Looks for those of a major version on this host.
    pub fn find(options: &ClientOptions, major: u32) -> Result<Self> {
        let options = ClientOptions { prefix: Vec::new(), ..options.clone() };
        let finder = Client::new(Address::default(), options.clone())?;
        let found = finder.programs("initdb").into_iter().find(|found| found.major == major);
        let found = found.ok_or_else(|| missing(Some(major)))?;
        Ok(ServerPrograms { server: found.path.with_file_name("postgres"), major, options })
    }

    /// Another program beside the server, if it is there.
    pub fn beside(&self, name: &str) -> Option<PathBuf> {
        Some(self.server.with_file_name(name)).filter(|path| path.exists())
    }
}

/// The private folder of a server that is about to start: beside the data directory, so that files
/// of the log need only be renamed into it.
pub fn server_folder(data: &Path, owner: Option<(u32, u32)>) -> Result<TempDir> {
    let parent = data.parent().unwrap_or(Path::new("/"));
    let run_as = owner.map(|(uid, gid)| RunAs { uid, gid });
    private_folder(parent, run_as.as_ref())
}

/// A private folder for a cluster that is thrown away, which its server may enter.
pub fn scratch_folder(parent: &Path) -> Result<TempDir> {
    let is_root = rustix::process::geteuid().is_root();
    if !parent.exists() {
        fs::create_dir_all(parent).map_err(|error| failed("make", parent, error))?;
    }
    private_folder(parent, is_root.then(run_as).as_ref())
}

impl FolderServer {
    /// Starts the server. `owner` is as whom, where we are root.
    pub fn start(
        programs: &ServerPrograms,
        data: &Path,
        folder: TempDir,
        owner: Option<(u32, u32)>,
        limits: &Limits,
        settings: &[(&str, String)],
    ) -> Result<Self> {
        let run_as = owner.map(|(uid, gid)| RunAs { uid, gid });
        let (sockets, short) = match folder.path().as_os_str().len() < SOCKET_FOLDER_BYTES_MAX {
            true => (folder.path().to_owned(), None),
            false => {
                let short = private_folder(Path::new("/tmp"), run_as.as_ref())?;
                (short.path().to_owned(), Some(short))
            }
        };
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [
            ("postgresql.conf", ""),
            ("pg_ident.conf", ""),
            ("pg_hba.conf", "local all all trust\n"),
        ] {
            fs::write(path(name), text).map_err(|error| failed("write", &path(name), error))?;
            give(&path(name), owner)?;
        }
        let log = File::create(path("server.log"))
            .map_err(|error| failed("write", &path("server.log"), error))?;
        let mut command = Command::new("/bin/sh");
        as_user(&mut command, run_as.as_ref())
            .args(["-c", STARTER, "sh"])
            .arg(folder.path())
            .arg(&programs.server)
            .arg("-D")
            .arg(data);
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("config_file", &path("postgresql.conf").to_string_lossy());
        set("hba_file", &path("pg_hba.conf").to_string_lossy());
        set("ident_file", &path("pg_ident.conf").to_string_lossy());
        set("unix_socket_directories", &sockets.to_string_lossy());
        SETTINGS.iter().for_each(|(name, value)| set(name, value));
        for (name, value) in limit_settings(limits) {
            set(name, &value.to_string());
        }
        for setting in memory_settings(&programs.options) {
            let (name, value) = setting.split_once('=').unwrap_or_default();
            set(name, value);
        }
        settings.iter().for_each(|(name, value)| set(name, value));
        let mut shell = command
            .env("LC_ALL", "C")
            .env("HOME", folder.path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| {
                Error::io(Kind::Failed, "cannot start a server on what was restored", error)
            })?;
        Ok(FolderServer {
            data: data.to_owned(),
            folder,
            sockets,
            _short: short,
            options: programs.options.clone(),
            leash: Leash::new(shell.stdin.take()),
            shell,
        })
    }

    /// Has it end when the run must, whoever waits for an answer of it then.
    pub fn end_with(&mut self, env: &Env) {
        self.leash.watch(env);
    }

    /// How far it is.
    pub fn standing(&mut self) -> Standing {
        if self.shell.try_wait().is_ok_and(|status| status.is_some()) {
            return Standing::Ended;
        }
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        match text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
            true => Standing::Ready,
            false => Standing::Starting,
        }
    }

    /// Waits until it answers or has ended; `look` hears of each look at it, and may end it.
    pub fn wait(&mut self, env: &Env, look: &mut dyn FnMut() -> Result<()>) -> Result<Standing> {
        loop {
            match self.standing() {
                Standing::Starting => {}
                standing => return Ok(standing),
            }
            look()?;
            env.pause_ms(LOOK_MS)?;
        }
    }

    /// What it said.
    pub fn log(&self) -> String {
        let path = self.folder.path().join("server.log");
        fs::read(path).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// A client of one of its databases.
    pub fn client(&self, user: &str, database: &str) -> Result<Client> {
        let address = Address::default()
            .with("host", self.sockets.to_string_lossy())
            .with("port", "5432")
            .with("user", user)
            .with_database(database);
        Client::new(address, self.options.clone())
    }

    /// Stops it in good order.
    pub fn stop(mut self, env: &Env) -> Result<()> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let process = text.lines().next().and_then(|line| line.trim().parse().ok());
        if let Some(process) = process.and_then(rustix::process::Pid::from_raw) {
            let sent = rustix::process::kill_process(process, rustix::process::Signal::INT);
            sent.map_err(|error| {
                Error::io(Kind::Failed, "cannot stop the server of a restore", error.into())
            })?;
        }
        let begun_ms = env.clock.monotonic_ms();
        let pid_file = self.data.join("postmaster.pid");
        while pid_file.exists() && self.standing() != Standing::Ended {
            if env.elapsed_ms(begun_ms) > STOP_TIMEOUT_MS {
                return Err(Error::new(Kind::Failed, "the server of a restore does not stop"));
            }
            env.clock.sleep_ms(LOOK_MS);
        }
        match pid_file.exists() {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Failed,
                format!("the server of a restore ended by itself: {}", last_words(&self.log())),
            )),
        }
    }
}

impl Drop for FolderServer {
    fn drop(&mut self) {
        self.leash.let_go();
        let _ = self.shell.wait();
    }
}

/// The settings that hold those limits.
pub fn limit_settings(limits: &Limits) -> [(&'static str, u32); 5] {
    [
        ("max_connections", limits.connections),
        ("max_worker_processes", limits.worker_processes),
        ("max_wal_senders", limits.wal_senders),
        ("max_prepared_transactions", limits.prepared_transactions),
        ("max_locks_per_transaction", limits.locks_per_transaction),
    ]
}

/// The lines of a log that say why it ended.
pub(super) fn last_words(log: &str) -> String {
    let is_bad = |line: &&str| ["FATAL", "PANIC", "ERROR"].iter().any(|word| line.contains(word));
    let bad: Vec<&str> = log.lines().filter(is_bad).take(3).collect();
    match bad.is_empty() {
        true => log.lines().rev().take(3).collect::<Vec<_>>().join("; "),
        false => bad.join("; "),
    }
}
