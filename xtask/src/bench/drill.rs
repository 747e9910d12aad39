//! `cargo xtask bench drill`: what a drill takes beside the restore that it contains and its
//! integrity check.
//!
//! Of a SQLite database the two are one command, `restore --check full`. Of a whole PostgreSQL
//! cluster they are the restore, recovered and with every table read, and `pg_amcheck` on what was
//! restored. A drill adds the hash of what lies on the disk, questions to the restored and to the
//! live database, and the removal of it all; it may take half as much again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::arena::{Arena, PROGRAMS};
use super::salvage::make;
use crate::process::{Taken, is_there, measured, run as run_command};
use crate::root;

/// How many times longer than what it contains a drill may take.
const TIMES_MAX: f64 = 1.5;
const PORT: u16 = 5432;
/// The port of what was restored, where `pg_amcheck` asks it.
const RESTORED_PORT: u16 = 5433;
/// A server as it is by any advice.
const SETTINGS: &str = "shared_buffers = '512MB'\nmax_wal_size = '2GB'\narchive_mode = on\n";

#[derive(Debug)]
struct Options {
    size_mb: u64,
    scale: u64,
    runs: usize,
    program: Option<PathBuf>,
}

/// One kind of source.
struct Line {
    what: String,
    restore: f64,
    check: f64,
    drill: f64,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    for tool in ["sqlite3", "sync"] {
        if !is_there(tool) {
            bail!("the benchmark needs {tool} (as root: apt-get install -y sqlite3)");
        }
    }
    let program = options.program.clone().map_or_else(super::physical::build, Ok)?;
    let mut lines = vec![sqlite(&options, &program)?];
    match Path::new(PROGRAMS).join("initdb").exists() {
        true => lines.push(cluster(&options, &program)?),
        false => eprintln!("without a cluster (as root: cargo xtask servers)"),
    }
    let page = page(&options, &lines);
    let path = root().join("target/bench/drill-report.md");
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { size_mb: 1000, scale: 40, runs: 3, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if *name == "--short" {
            (options.size_mb, options.scale, options.runs) = (100, 4, 1);
            continue;
        }
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--size-mb" => options.size_mb = value.parse().context("--size-mb")?,
            "--scale" => options.scale = value.parse().context("--scale")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--program" => options.program = Some(PathBuf::from(value)),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.size_mb == 0 || options.scale == 0 || options.runs == 0 {
        bail!("--size-mb, --scale and --runs must be at least 1");
    }
    Ok(options)
}

fn sqlite(options: &Options, program: &Path) -> Result<Line> {
    let folder = root().join("target/bench/drill");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let database = folder.join("chat.db");
    make(Path::new("sqlite3"), &database, options.size_mb)?;
    // As an application has it.
    run_command(Command::new("sqlite3").arg(&database).arg("PRAGMA journal_mode = wal"))?;
    let config = folder.join("config.toml");
    let text = format!(
        "[repository.local]\nurl = \"file://{0}/repository\"\n[source.chat]\n\
         sqlite = \"{0}/chat.db\"\n",
        folder.display()
    );
    fs::write(&config, text)?;
    let to = folder.join("restored.db");
    let lifeboat = |arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).args(["--quiet", "--yes"]).env("LIFEBOAT_CONFIG", &config);
        command.env("XDG_STATE_HOME", folder.join("state")).env("TMPDIR", &folder);
        command
    };
    run_command(&mut lifeboat(&["backup", "chat"]))?;
    let restore = ["restore", "chat@latest", "--check", "full", "--to"];
    let restore = [&restore[..], &[to.to_str().unwrap_or_default()]].concat();
    let said = folder.join("said");
    let (mut restores, mut drills) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        restores.push(settled(&mut lifeboat(&restore), &said)?);
        fs::remove_file(&to)?;
        drills.push(settled(&mut lifeboat(&["drill", "chat", "--no-proof"]), &said)?);
    }
    let bytes = fs::metadata(&database)?.len();
    fs::remove_dir_all(&folder)?;
    Ok(Line {
        what: format!("SQLite, {} MB", bytes / 1_000_000),
        restore: median(restores),
        check: 0.0,
        drill: median(drills),
    })
}

fn cluster(options: &Options, program: &Path) -> Result<Line> {
    let mut arena = Arena::new("drill", program)?;
    arena.start("data", Path::new(PROGRAMS), PORT, SETTINGS)?;
    let here = arena.here();
    let text = format!(
        "[repository.one]\nurl = \"file://{here}/repository\"\n[source.main.postgres]\n\
         physical = true\nurl = \"postgresql:///postgres?user=postgres&host={here}&port={PORT}\"\n"
    );
    fs::write(arena.path("config.toml"), text)?;
    let push = format!("ALTER SYSTEM SET archive_command = '{here}/lifeboat wal push %p'");
    arena.psql(PORT, "postgres", &push)?;
    arena.psql(PORT, "postgres", "SELECT pg_reload_conf()")?;
    let scale = options.scale.to_string();
    let mut fill = arena.command("pgbench");
    run_command(fill.args(["-i", "-q", "-s", &scale, "-p", &PORT.to_string(), "postgres"]))?;
    let lifeboat =
        |arguments: &[&str]| arena.lifeboat(&[arguments, &["--quiet", "--yes"]].concat());
    run_command(&mut lifeboat(&["backup", "main"]))?;
    // Some log to replay.
    arena.psql(PORT, "postgres", "UPDATE pgbench_tellers SET tbalance = tbalance + 1")?;
    arena.psql(PORT, "postgres", "SELECT pg_switch_wal()")?;
    let (to, said) = (arena.path("restored"), arena.path("said"));
    let restore = ["restore", "main@latest", "--to", to.to_str().unwrap_or_default()];
    let (mut restores, mut checks, mut drills) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        restores.push(settled(&mut lifeboat(&restore), &said)?);
        checks.push(settled(&mut amcheck(&arena), &said)?);
        fs::remove_dir_all(&to)?;
        drills.push(settled(&mut lifeboat(&["drill", "main", "--no-proof"]), &said)?);
    }
    Ok(Line {
        what: format!("PostgreSQL cluster, pgbench -s {scale}"),
        restore: median(restores),
        check: median(checks),
        drill: median(drills),
    })
}

/// What a drill asks of the restored cluster, with the start of a server for it.
fn amcheck(arena: &Arena) -> Command {
    let words = "programs=$1; data=$2; port=$3; \
        $programs/pg_ctl -s -w -D \"$data\" -o \"-p $port -c archive_mode=off\" -l \"$data.log\" \
        start && $programs/pg_amcheck -p $port --all --install-missing --heapallindexed; code=$?; \
        $programs/pg_ctl -s -w -m fast -D \"$data\" stop; exit $code";
    let mut command = arena.command("sh");
    command.args(["-c", words, "sh", PROGRAMS]).arg(arena.path("restored"));
    command.arg(RESTORED_PORT.to_string());
    command
}

/// Nobody pays for the writes of another.
fn settled(command: &mut Command, said: &Path) -> Result<Taken> {
    run_command(&mut Command::new("sync"))?;
    measured(command, said)
}

fn median(runs: Vec<Taken>) -> f64 {
    let mut walls: Vec<f64> = runs.iter().map(|run| run.wall_s).collect();
    walls.sort_by(f64::total_cmp);
    walls[walls.len() / 2]
}

fn page(options: &Options, lines: &[Line]) -> String {
    let mut page = format!(
        "`cargo xtask bench drill --size-mb {} --scale {} --runs {}`: medians of wall time\n\n\
         | source | restore s | its check s | drill s | times | at most {TIMES_MAX} |\n\
         |---|--:|--:|--:|--:|---|\n",
        options.size_mb, options.scale, options.runs
    );
    for Line { what, restore, check, drill } in lines {
        let times = drill / (restore + check);
        let check = match *check > 0.0 {
            true => format!("{check:.2}"),
            false => "within".to_owned(),
        };
        let verdict = super::report::verdict(times <= TIMES_MAX);
        page.push_str(&format!(
            "| {what} | {restore:.2} | {check} | {drill:.2} | {times:.2} | {verdict} |\n"
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--short", "--runs", "2"]).unwrap();
        assert_eq!((options.size_mb, options.scale, options.runs), (100, 4, 2));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_miss_is_printed_as_one() {
        let options = parse(&[]).unwrap();
        let line = |drill| Line { what: "x".into(), restore: 2.0, check: 2.0, drill };
        assert_ne!(
            page(&options, &[line(7.0)]).split("1.75").nth(1),
            page(&options, &[line(4.0)]).split("1.00").nth(1)
        );
    }
}
