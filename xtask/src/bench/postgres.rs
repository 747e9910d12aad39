//! `cargo xtask bench postgres-logical`: us, a guide's script and zstd on one PostgreSQL database.
//!
//! A throw-away cluster that syncs as a real server does holds the tables of `pgbench` and a table
//! of texts. Each contender makes a backup of it, several times; the guide's and ours are restored
//! into new databases, whose rows must be those of the first one. The numbers are medians. The
//! server's own processor time is in nobody's numbers; the wall time has all of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::measure::{self, Measured};
use super::report::{self, Bar, Limit, bar, bytes, wall};
use crate::process::{is_there, output, run as run_command};
use crate::root;

const MAJOR: &str = "15";
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// What a server has by default or by any advice, after the throw-away's own settings.
const SETTINGS: &[&str] = &[
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "autovacuum=on",
    "shared_buffers=512MB",
];
pub(super) const MESSAGE: &str = include_str!("message.sql");
/// Bytes of a row of `message` on disk, for its size to be told in megabytes.
pub(super) const MESSAGE_ROW_BYTES: u64 = 253;
/// What our own process may take, and any child of its.
const MEMORY_BYTES_MAX: u64 = 64_000_000;

const GUIDE: &str = "backup: pg_dump to gzip (the guide)";
const ZSTD: &str = "backup: pg_dump to zstd -3";
const OURS: &str = "backup: lifeboat";
const GUIDE_BACK: &str = "restore: zcat to psql (the guide)";
const OURS_BACK: &str = "restore: lifeboat";

const BARS: &[Bar] = &[
    bar("guide / lifeboat, backup, wall", GUIDE, OURS, wall, Limit::AtLeast(4.0)),
    bar("lifeboat / guide, bytes", OURS, GUIDE, bytes, Limit::AtMost(0.88)),
    bar("lifeboat / zstd, backup, wall", OURS, ZSTD, wall, Limit::AtMost(1.15)),
    bar("guide / lifeboat, restore, wall", GUIDE_BACK, OURS_BACK, wall, Limit::AtLeast(1.6)),
];

#[derive(Clone, Copy, Debug)]
struct Options {
    scale: u64,
    text_mb: u64,
    runs: usize,
}

/// A running server. Stopped when dropped, by the end of its standard input.
pub(super) struct Server {
    process: Child,
    sockets: String,
}

/// Where everything happens.
struct Place {
    arena: PathBuf,
    said: PathBuf,
    lifeboat: PathBuf,
    server: Server,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    for tool in ["gzip", "zcat", "zstd", "bash"] {
        if !is_there(tool) {
            bail!("the benchmark needs {tool} (as root: apt-get install -y gzip zstd bash)");
        }
    }
    let folder = root().join("target/bench/postgres");
    fs::create_dir_all(&folder)?;
    let (lifeboat, cluster) = build()?;
    let server = Server::start(&cluster)?;
    let place =
        Place { arena: folder.join("arena"), said: folder.join("said.txt"), lifeboat, server };
    let plain_bytes = place.make_database(&options)?;
    let wanted = place.fingerprint("app")?;
    let mut measured = Measured::default();
    let path = folder.join("report.md");
    let mut page = String::new();
    for round in 1..=options.runs {
        eprintln!("round {round} of {}", options.runs);
        place.round(&mut measured, &wanted)?;
        // A run takes its time: what is known is there already, of as many rounds as were made.
        page = report_page(&Options { runs: round, ..options }, &measured, plain_bytes);
        fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { scale: 50, text_mb: 500, runs: 3 };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--scale" => options.scale = value.parse().context("--scale")?,
            "--text-mb" => options.text_mb = value.parse().context("--text-mb")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.scale == 0 || options.text_mb == 0 || options.runs == 0 {
        bail!("--scale, --text-mb and --runs must be at least 1");
    }
    Ok(options)
}

/// Our program, and the one that keeps a cluster.
pub(super) fn build() -> Result<(PathBuf, PathBuf)> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        run_command(command.args(["build", "--release", "--locked"]).args(arguments))
    };
    cargo(&["--package", "lifeboat"])?;
    cargo(&["--package", "lifeboat-postgres", "--example", "throw_away_cluster"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let release = root().join(target).join("release");
    Ok((release.join("lifeboat"), release.join("examples/throw_away_cluster")))
}

impl Server {
    /// One of those programs, running.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(MAJOR).args(SETTINGS).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start the cluster")?;
        let stdout = process.stdout.take().context("the cluster has no output")?;
        let mut sockets = String::new();
        BufReader::new(stdout).read_line(&mut sockets)?;
        let sockets = sockets.trim().to_owned();
        if sockets.is_empty() {
            bail!("the cluster did not start (it needs postgresql-{MAJOR}: cargo xtask test)");
        }
        Ok(Server { process, sockets })
    }

    /// The folder of its socket.
    pub(super) fn sockets(&self) -> &str {
        &self.sockets
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Place {
    /// A program that speaks with our server, sees no configuration, and finds PostgreSQL's.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{PROGRAMS}:{path}"));
        command.env("PGHOST", &self.server.sockets).env("PGUSER", "postgres");
        for variable in ["HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, self.arena.join("home"));
        }
        command.env("TMPDIR", self.arena.join("temporary")).env_remove("LIFEBOAT_CONFIG");
        command
    }

    fn bash(&self, script: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-o", "pipefail", "-c", script]).current_dir(&self.arena);
        command
    }

    fn lifeboat(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.lifeboat);
        let repository = format!("file://{}", self.arena.join("repository").display());
        command.args(arguments).args(["--repo", &repository, "--quiet"]).arg("--yes");
        command
    }

    fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@/{database}?host={}", self.server.sockets)
    }

    fn psql(&self, database: &str, statement: &str) -> Result<String> {
        let mut command = self.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]);
        output(&mut command)
    }

    /// Gives back its size on disk.
    fn make_database(&self, options: &Options) -> Result<u64> {
        self.clear()?;
        eprintln!("making the database");
        self.psql("postgres", "CREATE DATABASE app")?;
        let scale = options.scale.to_string();
        output(self.command("pgbench").args(["-i", "-q", "-s", &scale, "app"]))?;
        let script = self.arena.join("message.sql");
        fs::write(&script, MESSAGE)?;
        let rows = format!("rows={}", options.text_mb * 1_000_000 / MESSAGE_ROW_BYTES);
        let mut make = self.command("psql");
        make.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-v", &rows, "-d", "app", "-f"]).arg(&script);
        output(make.stdout(Stdio::piped()))?;
        self.psql("app", "VACUUM ANALYZE")?;
        let size = self.psql("app", "SELECT pg_database_size('app')")?;
        size.trim().parse().context("the size of the database")
    }

    /// Rows of each table and a sum over all that is in them.
    fn fingerprint(&self, database: &str) -> Result<String> {
        let tables = ["message", "pgbench_accounts", "pgbench_branches", "pgbench_tellers"];
        let of = |table: &&str| {
            format!("SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)) FROM {table} t")
        };
        let parts: Vec<String> = tables.iter().map(of).collect();
        self.psql(database, &format!("{} ORDER BY 1", parts.join(" UNION ALL ")))
    }

    fn clear(&self) -> Result<()> {
        if self.arena.exists() {
            fs::remove_dir_all(&self.arena)?;
        }
        for folder in ["home", "temporary", "stored", "repository"] {
            fs::create_dir_all(self.arena.join(folder))?;
        }
        Ok(())
    }

    /// Nobody pays for the writes of another.
    fn settle(&self) -> Result<()> {
        self.psql("postgres", "CHECKPOINT")?;
        run_command(&mut Command::new("sync"))
    }

    fn round(&self, measured: &mut Measured, wanted: &str) -> Result<()> {
        self.clear()?;
        let stored = |name: &str| measure::allocated_bytes(&[self.arena.join(name)]);
        let mut backup = |name: &str, mut command: Command, stored_in: &str| -> Result<()> {
            eprintln!("  {name}");
            self.settle()?;
            let taken =
                measure::with_disk(&mut command, &self.said, std::slice::from_ref(&self.arena))?;
            measured.add(name, taken, stored(stored_in));
            Ok(())
        };
        let zstd = "pg_dump app | zstd -q -3 -o zstd/app.sql.zst";
        fs::create_dir_all(self.arena.join("zstd"))?;
        backup(GUIDE, self.bash("pg_dump app | gzip > stored/app.sql.gz"), "stored")?;
        backup(ZSTD, self.bash(zstd), "zstd")?;
        backup(OURS, self.lifeboat(&["backup", &self.url("app")]), "repository")?;
        let guide = "createdb again && zcat stored/app.sql.gz | psql -q -d again";
        let ours = ["restore", "app@latest", "--to", &self.url("again")];
        for (name, mut command) in
            [(GUIDE_BACK, self.bash(guide)), (OURS_BACK, self.lifeboat(&ours))]
        {
            eprintln!("  {name}");
            self.settle()?;
            let taken =
                measure::with_disk(&mut command, &self.said, std::slice::from_ref(&self.arena))?;
            if self.fingerprint("again")? != wanted {
                bail!("{name}: the database that came back is another one");
            }
            let size = self.psql("again", "SELECT pg_database_size('again')")?;
            measured.add(name, taken, size.trim().parse().context("the size of a database")?);
            self.psql("postgres", "DROP DATABASE again")?;
        }
        Ok(())
    }
}

fn report_page(options: &Options, measured: &Measured, size_bytes: u64) -> String {
    let Options { scale, text_mb, runs } = options;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let mut page = format!(
        "`cargo xtask bench postgres-logical --scale {scale} --text-mb {text_mb} --runs {runs}`: \
         PostgreSQL {MAJOR}, a database of {:.0} MB, {threads} cores, load at the end {}, medians; \
         of memory and extra disk the worst. Without the server's processor time.\n\n",
        size_bytes as f64 / 1e6,
        load.join(" ")
    );
    page.push_str(&report::table(measured));
    page.push_str("\n| bar | reached | asked | |\n|---|--:|--:|---|\n");
    for bar in BARS {
        page.push_str(&report::bar_line(bar, measured));
    }
    for name in [OURS, OURS_BACK] {
        let Some(run) = measured.median(name) else { continue };
        let peak = run.taken.memory_bytes_peak;
        page.push_str(&format!(
            "| {name}, peak memory | {:.0} MB | below {:.0} MB | {} |\n",
            peak as f64 / 1e6,
            MEMORY_BYTES_MAX as f64 / 1e6,
            report::verdict(peak < MEMORY_BYTES_MAX)
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--scale", "5", "--text-mb", "50"]).unwrap();
        assert_eq!((options.scale, options.text_mb, options.runs), (5, 50, 3));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--scale", "x"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_page_has_every_bar_also_of_what_was_not_measured() {
        let options = Options { scale: 1, text_mb: 1, runs: 1 };
        let page = report_page(&options, &Measured::default(), 1);
        assert_eq!(page.matches("not measured").count(), BARS.len(), "{page}");
    }
}
