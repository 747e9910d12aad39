//! `cargo xtask bench salvage`: us against `.recover`, piped into a second shell, as its manual
//! says.
//!
//! The shell is built from the sources that the npm package `sqlite3` brings, with the table of
//! pages that `.recover` needs; the one of the distribution is built without. It makes the
//! database, too: a chat with three indexes, one of them on random texts. Both are given the
//! healthy database, and one with a page of its large table lost, where we must go row by row as
//! well. Ours runs several times; theirs, which takes most of the time, once, unless it is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{Taken, measured, output, run as run_command};
use crate::root;

/// How many times faster we must be on a healthy database.
const TIMES_MIN: f64 = 5.0;
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// About so many bytes a message takes, with its indexes.
const MESSAGE_BYTES: u64 = 242;

struct Options {
    size_mb: u64,
    runs: usize,
    their_runs: usize,
    /// Only this one of the two databases.
    only: Option<&'static str>,
    program: Option<PathBuf>,
}

/// The two databases, and how our program ends with each.
const DATABASES: [(&str, u8); 2] = [("healthy", 0), ("one page lost", 3)];

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    let folder = root().join("target/bench/salvage");
    fs::create_dir_all(&folder)?;
    let shell = shell(&folder)?;
    let lifeboat = match &options.program {
        Some(program) => program.clone(),
        None => super::build()?.lifeboat,
    };
    let healthy = folder.join("chat.db");
    make(&shell, &healthy, options.size_mb)?;
    let damaged = folder.join("damaged.db");
    lose_a_page(&shell, &healthy, &damaged)?;
    let to = folder.join("new.db");
    let ours = |database: &Path, code: u8| {
        let words = "\"$1\" salvage \"$2\" --to \"$3\"; test $? = \"$4\"";
        let mut command = Command::new("sh");
        command.args(["-c", words, "sh"]).arg(&lifeboat).arg(database).arg(&to);
        command.arg(code.to_string());
        command
    };
    let theirs = |database: &Path| {
        let mut command = Command::new("sh");
        let words = "\"$1\" \"$2\" .recover | \"$1\" \"$3\"";
        command.args(["-c", words, "sh"]).arg(&shell).arg(database).arg(&to);
        command
    };
    let bytes = fs::metadata(&healthy)?.len();
    let path = folder.join("report.md");
    let (mut rows, mut page) = (Vec::new(), String::new());
    for ((what, code), database) in DATABASES.into_iter().zip([&healthy, &damaged]) {
        if options.only.is_some_and(|only| only != what) {
            continue;
        }
        let us = median(options.runs, &folder, &to, &|| ours(database, code))?;
        let them = median(options.their_runs, &folder, &to, &|| theirs(database))?;
        rows.push((what, us, them));
        // A run takes its time: what is known is there already.
        page = self::page(&options, bytes, &rows);
        fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for file in [&to, &damaged, &healthy] {
        fs::remove_file(file)?;
    }
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { size_mb: 1000, runs: 3, their_runs: 1, only: None, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--size-mb" => options.size_mb = value.parse().context("--size-mb")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--their-runs" => options.their_runs = value.parse().context("--their-runs")?,
            "--only" => {
                let known = DATABASES.iter().map(|(what, _)| *what).find(|what| what == value);
                options.only = Some(known.context("--only healthy, or --only 'one page lost'")?);
            }
            "--program" => options.program = Some(PathBuf::from(value)),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.size_mb == 0 || options.runs == 0 || options.their_runs == 0 {
        bail!("--size-mb, --runs and --their-runs must be at least 1");
    }
    Ok(options)
}

/// The shell with `.recover`, built if it is not there.
fn shell(folder: &Path) -> Result<PathBuf> {
    let shell = folder.join("sqlite3");
    if shell.is_file() {
        return Ok(shell);
    }
    let sources = folder.join("sources");
    if sources.exists() {
        fs::remove_dir_all(&sources)?;
    }
    fs::create_dir_all(&sources)?;
    let packed =
        output(Command::new("npm").args(["pack", "--silent", "sqlite3"]).current_dir(&sources))
            .context("the benchmark needs npm (as root: apt-get install -y npm)")?;
    let words = "tar -xzf \"$1\" && cd package/deps && tar -xzf sqlite-autoconf-*.tar.gz && \
                 cc -O2 -DSQLITE_ENABLE_DBPAGE_VTAB -DSQLITE_THREADSAFE=0 -o \"$2\" \
                 sqlite-autoconf-*/shell.c sqlite-autoconf-*/sqlite3.c -lm -ldl";
    let file = packed.trim().lines().last().unwrap_or_default().to_owned();
    run_command(
        Command::new("sh").args(["-c", words, "sh", &file]).arg(&shell).current_dir(&sources),
    )?;
    Ok(shell)
}

/// A chat of about that size.
pub(super) fn make(shell: &Path, database: &Path, size_mb: u64) -> Result<()> {
    if database.exists() {
        fs::remove_file(database)?;
    }
    let messages = size_mb * 1_000_000 / MESSAGE_BYTES;
    let numbers = |most: u64| {
        format!(
            "(WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s \
             WHERE value < {most}) SELECT value FROM s)"
        )
    };
    let sql = format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;
         CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
         CREATE TABLE messages(id INTEGER PRIMARY KEY, event_id TEXT NOT NULL,
           room INTEGER NOT NULL, user INTEGER NOT NULL, ts INTEGER NOT NULL, body TEXT NOT NULL,
           meta TEXT);
         BEGIN;
         INSERT INTO users SELECT value, 'user-' || value FROM {};
         INSERT INTO messages SELECT value, hex(randomblob(16)), abs(random()) % 1500,
           abs(random()) % 20000, 1700000000000 + value * 31,
           substr('{}', 1, 40 + abs(random()) % 120) || value,
           CASE WHEN value % 5 = 0 THEN '{{\"k\":' || value || '}}' END FROM {};
         COMMIT;
         CREATE UNIQUE INDEX messages_event ON messages(event_id);
         CREATE INDEX messages_room_ts ON messages(room, ts);
         CREATE INDEX messages_user ON messages(user);",
        numbers(20_000),
        "the quick brown fox jumps over the lazy dog and more words come here ".repeat(3),
        numbers(messages),
    );
    output(Command::new(shell).arg(database).arg(sql)).map(|_| ())
}

/// A copy of the database in which a leaf of the large table holds only zeros.
fn lose_a_page(shell: &Path, healthy: &Path, damaged: &Path) -> Result<()> {
    const PAGE_BYTES: usize = 4096;
    const TABLE_LEAF: u8 = 13;
    fs::copy(healthy, damaged)?;
    let half = "SELECT (SELECT page_count FROM pragma_page_count) / 4";
    let page: u64 = output(Command::new(shell).arg(healthy).arg(half))?.trim().parse()?;
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().read(true).write(true).open(damaged)?;
    for page in page.. {
        let mut first = [0];
        file.read_exact_at(&mut first, page * PAGE_BYTES as u64)?;
        if first[0] == TABLE_LEAF {
            file.write_all_at(&[0; PAGE_BYTES], page * PAGE_BYTES as u64)?;
            break;
        }
    }
    Ok(())
}

/// The run in the middle, by wall time; the memory of the worst.
fn median(count: usize, folder: &Path, to: &Path, command: &dyn Fn() -> Command) -> Result<Taken> {
    let mut runs = Vec::new();
    for _ in 0..count {
        if to.exists() {
            fs::remove_file(to)?;
        }
        runs.push(measured(&mut command(), &folder.join("said"))?);
    }
    runs.sort_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
    let memory_bytes_peak = runs.iter().map(|run| run.memory_bytes_peak).max().unwrap_or(0);
    Ok(Taken { memory_bytes_peak, ..runs[runs.len() / 2] })
}

fn page(options: &Options, bytes: u64, rows: &[(&str, Taken, Taken)]) -> String {
    let mut page = format!(
        "`cargo xtask bench salvage --size-mb {} --runs {} --their-runs {}`: a database of {} MB \
         with three indexes\n\n| database | | wall s | CPU s | memory MB | times faster |\n\
         |---|---|---|---|---|---|\n",
        options.size_mb,
        options.runs,
        options.their_runs,
        bytes / 1_000_000
    );
    for (what, us, them) in rows {
        let times = them.wall_s / us.wall_s;
        let mut line = |name: &str, taken: &Taken, times: String| {
            page.push_str(&format!(
                "| {what} | {name} | {:.1} | {:.1} | {} | {times} |\n",
                taken.wall_s,
                taken.cpu_s,
                taken.memory_bytes_peak >> 20
            ));
        };
        line("lifeboat salvage", us, format!("{times:.1}"));
        line("`.recover` into `sqlite3`", them, String::new());
        let is_fast = *what != "healthy" || times >= TIMES_MIN;
        if !is_fast || us.memory_bytes_peak > MEMORY_BYTES_MAX {
            page.push_str(&format!("| {what} | **a bar is missed** | | | | |\n"));
        }
    }
    page.push_str(
        "\nOurs is proved before it has its name: what `integrity_check` looks at, by itself; theirs is not.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--size-mb", "50", "--runs", "1", "--program", "/x"]).unwrap();
        assert_eq!((options.size_mb, options.runs), (50, 1));
        assert_eq!(parse(&["--only", "healthy"]).unwrap().only, Some("healthy"));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--what", "1"], &["--only", "x"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_miss_is_printed_as_one() {
        let options = parse(&["--size-mb", "1"]).unwrap();
        let taken = |wall_s| Taken { wall_s, cpu_s: 1.0, memory_bytes_peak: 1 << 20 };
        let slow = page(&options, 1, &[("healthy", taken(2.0), taken(9.0))]);
        assert!(slow.contains("a bar is missed"));
        let fast = page(&options, 1, &[("healthy", taken(2.0), taken(11.0))]);
        assert!(!fast.contains("a bar is missed"));
    }
}
