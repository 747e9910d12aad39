//! A folder of the server's user with everything of one benchmark in it: clusters, repositories,
//! and the program where that user can run it. All of it goes at the end; a server ends with the
//! benchmark, also with one that is killed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{output, run};

/// The programs of the distribution's version.
pub(super) const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// The folder.
pub(super) struct Arena {
    folder: PathBuf,
    /// Servers that run.
    running: Vec<Child>,
}

impl Arena {
    /// Makes the folder anew, with the program in it.
    pub(super) fn new(name: &str, program: &Path) -> Result<Arena> {
        if !Path::new(PROGRAMS).join("initdb").exists() {
            bail!("the benchmark needs postgresql-15 (as root: cargo xtask servers)");
        }
        let folder = PathBuf::from(format!("/var/tmp/lifeboat-bench-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        if let Some((uid, gid)) = user() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid))?;
        }
        fs::copy(program, folder.join("lifeboat"))?;
        Ok(Arena { folder, running: Vec::new() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder as text.
    pub(super) fn here(&self) -> String {
        self.folder.display().to_string()
    }

    /// A program as the server's user, which sees no configuration but that of the benchmark.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = user() {
            command.uid(uid).gid(gid);
        }
        command.env_clear().env("PATH", format!("{PROGRAMS}:/usr/bin:/bin")).env("LC_ALL", "C");
        command.env("HOME", &self.folder).env("PGHOST", &self.folder).env("PGUSER", "postgres");
        command.env("XDG_STATE_HOME", self.path("state")).current_dir(&self.folder);
        command.env("LIFEBOAT_CONFIG", self.path("config.toml"));
        command
    }

    /// Our program.
    pub(super) fn lifeboat(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("lifeboat"));
        command.args(arguments);
        command
    }

    /// Makes a cluster and starts it. Its sockets lie in the folder.
    pub(super) fn start(
        &mut self,
        name: &str,
        programs: &Path,
        port: u16,
        settings: &str,
    ) -> Result<()> {
        let data = self.path(name);
        let mut initdb = self.command(programs.join("initdb"));
        initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "--data-checksums"]);
        output(initdb.args(["--locale=C", "-E", "UTF8", "-D"]).arg(&data))?;
        let all = format!(
            "listen_addresses = ''\nport = {port}\nunix_socket_directories = '{}'\n{settings}",
            self.here()
        );
        fs::write(data.join("postgresql.auto.conf"), all)?;
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        let mut start = self.command("setpriv");
        start.args(["--pdeathsig", "QUIT"]).arg(programs.join("postgres")).arg("-D").arg(&data);
        self.running.push(start.stdout(log.try_clone()?).stderr(log).spawn()?);
        for _ in 0..600 {
            if self.psql(port, "postgres", "SELECT 1").is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("no server answers at {}, port {port}", self.here());
    }

    /// What a server says to a statement.
    pub(super) fn psql(&self, port: u16, database: &str, statement: &str) -> Result<String> {
        let mut command = self.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-p", &port.to_string()]);
        output(command.args(["-d", database, "-c", statement]))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for server in &mut self.running {
            // At once, as by `pg_ctl -m immediate`.
            let _ = run(Command::new("kill").args(["-QUIT", &server.id().to_string()]));
            let _ = server.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// User and group of the server, which refuses to run as root.
fn user() -> Option<(u32, u32)> {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    let ids = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    is_root.then_some(ids)
}
