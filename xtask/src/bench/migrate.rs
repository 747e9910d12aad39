//! `cargo xtask bench migrate`: us and pgloader, from one SQLite database to one server.
//!
//! Rows of mixed types in three tables with indexes and foreign keys, none of which pgloader is
//! known to lose. It is not said to compare anything; we are measured with and without reading back
//! and comparing every row. Beside them: `psql`'s `\copy` of CSV files that were prepared before,
//! without keys and indexes, against our load alone, which reads SQLite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::postgres::{Server, build};
use crate::packages;
use crate::process::{Taken, is_there, measured, output};
use crate::root;

/// How many times pgloader's rows a second we must reach.
const TIMES_MIN: f64 = 4.0;
const TIMES_MIN_VERIFIED: f64 = 2.5;
const MEMORY_BYTES_MAX: u64 = 64 << 20;

struct Options {
    rows: u64,
    runs: usize,
    program: Option<PathBuf>,
}

/// One way to do it, and what it took: the median by wall time.
struct Line {
    what: &'static str,
    taken: Taken,
    /// The load alone, in seconds, where it is told.
    load_s: Option<f64>,
    /// All parts of it, in words.
    parts: String,
}

pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = parse(arguments)?;
    install()?;
    let folder = root().join("target/bench/migrate");
    fs::create_dir_all(&folder)?;
    let (built, cluster) = build()?;
    let lifeboat = options.program.clone().unwrap_or(built);
    let server = Server::start(&cluster)?;
    let bench = Bench { folder: folder.clone(), lifeboat, server };
    bench.make(options.rows)?;
    let lines = bench.all(&options)?;
    let page = page(&options, &lines);
    let path = folder.join("report.md");
    fs::write(&path, &page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{page}");
    eprintln!("the same is in {}", path.display());
    Ok(())
}

fn install() -> Result<()> {
    let needed = [("sqlite3", "sqlite3"), ("psql", "postgresql-client"), ("pgloader", "pgloader")];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    packages::install(&missing).context("what the benchmark compares with is not here")
}

fn parse(arguments: &[&str]) -> Result<Options> {
    let mut options = Options { rows: 2_000_000, runs: 3, program: None };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().with_context(|| format!("{name} needs a value"))?;
        match *name {
            "--rows" => options.rows = value.parse().context("--rows")?,
            "--runs" => options.runs = value.parse().context("--runs")?,
            "--program" => options.program = Some(PathBuf::from(value)),
            _ => bail!("{name} is not known: see `cargo xtask help`"),
        }
    }
    if options.rows < 100 || options.runs == 0 {
        bail!("--rows must be at least 100, and --runs at least 1");
    }
    Ok(options)
}

struct Bench {
    folder: PathBuf,
    lifeboat: PathBuf,
    server: Server,
}

impl Bench {
    fn database(&self) -> PathBuf {
        self.folder.join("source.db")
    }

    fn csv(&self, table: &str) -> PathBuf {
        self.folder.join(format!("{table}.csv"))
    }

    fn psql(&self, database: &str, words: &[&str]) -> Command {
        let mut command = Command::new("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]);
        command.args(["-h", self.server.sockets()]);
        command.args(words.iter().flat_map(|words| ["-c", *words]));
        command
    }

    /// An empty database of that name, and a checkpoint behind it.
    fn empty(&self) -> Result<()> {
        output(&mut self.psql("postgres", &["DROP DATABASE IF EXISTS target"]))?;
        output(&mut self.psql("postgres", &["CREATE DATABASE target", "CHECKPOINT"])).map(drop)
    }

    fn make(&self, rows: u64) -> Result<()> {
        let database = self.database();
        if database.exists() {
            fs::remove_file(&database)?;
        }
        let (users, messages) = (rows / 20, rows * 13 / 20);
        let events = rows - users - messages;
        let numbers = |most: u64| {
            format!(
                "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {most}) \
                 SELECT n FROM s)"
            )
        };
        let sql = format!(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;
             CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
               admin BOOLEAN NOT NULL, joined DATETIME);
             CREATE TABLE messages(id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL
               REFERENCES users(id), parent_id INTEGER, channel INTEGER NOT NULL, body TEXT NOT NULL,
               created_at INTEGER NOT NULL, edited_at DATETIME, score FLOAT, deleted BOOLEAN);
             CREATE TABLE events(id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users(id),
               kind TEXT, amount FLOAT, payload TEXT, token BLOB);
             BEGIN;
             INSERT INTO users SELECT n, 'user-' || n, n % 2,
               datetime(1600000000 + n * 60, 'unixepoch') FROM {};
             INSERT INTO messages SELECT n, 1 + abs(random()) % {users}, n - 1, n % 300,
               substr('{}', 1, 20 + abs(random()) % 160), 1700000000000 + n * 31,
               CASE WHEN n % 3 = 0 THEN datetime(1700000000 + n, 'unixepoch') END,
               n / 7.0, n % 11 = 0 FROM {};
             INSERT INTO events SELECT n, 1 + abs(random()) % {users}, 'kind-' || (n % 40), n * 0.01,
               '{{\"n\":' || n || ',\"s\":\"x\"}}', randomblob(16) FROM {};
             COMMIT;
             CREATE INDEX messages_channel ON messages(channel, created_at);
             CREATE INDEX messages_user ON messages(user_id);
             CREATE INDEX events_user ON events(user_id);
             CREATE INDEX events_kind ON events(kind);",
            numbers(users),
            "the quick brown fox jumps over the lazy dog and more words come here ".repeat(3),
            numbers(messages),
            numbers(events),
        ) + " PRAGMA journal_mode = WAL;";
        output(Command::new("sqlite3").arg(&database).arg(sql))?;
        for table in TABLES {
            // A blob as PostgreSQL reads it.
            let columns = match *table {
                "events" => "id, user_id, kind, amount, payload, '\\x' || hex(token)",
                _ => "*",
            };
            let mut command = Command::new("sh");
            let words = "sqlite3 -csv \"$1\" \"$2\" > \"$3\"";
            let query = format!("SELECT {columns} FROM {table}");
            command.args(["-c", words, "sh"]).arg(&database).arg(query).arg(self.csv(table));
            output(&mut command)?;
        }
        Ok(())
    }

    fn all(&self, options: &Options) -> Result<Vec<Line>> {
        let lifeboat = |more: &'static [&'static str]| {
            move || {
                let mut command = Command::new(&self.lifeboat);
                command.arg("migrate").arg(self.database()).arg(self.url());
                command.args(["--no-backup", "--json"]).args(more);
                command
            }
        };
        let pgloader = || {
            let mut command = Command::new("pgloader");
            command.arg("--root-dir").arg(self.folder.join("pgloader"));
            command.arg(format!("sqlite://{}", self.database().display()));
            let sockets = self.server.sockets();
            command.arg(format!("postgresql://postgres@unix:{sockets}:5432/target"));
            command
        };
        let copy = || {
            let lines: Vec<String> = TABLES
                .iter()
                .map(|table| format!("\\copy {table} FROM '{}' CSV", self.csv(table).display()))
                .collect();
            let words: Vec<&str> =
                std::iter::once(COPY_TABLES).chain(lines.iter().map(String::as_str)).collect();
            self.psql("target", &words)
        };
        Ok(vec![
            self.line(options, "pgloader", &pgloader)?,
            self.line(options, "lifeboat, not compared", &lifeboat(&["--no-verify"]))?,
            self.line(options, "lifeboat, every row compared", &lifeboat(&[]))?,
            self.line(options, "psql \\copy of prepared CSV, no keys", &copy)?,
        ])
    }

    fn url(&self) -> String {
        format!("postgresql:///target?host={}&user=postgres", self.server.sockets())
    }

    fn line(
        &self,
        options: &Options,
        what: &'static str,
        command: &dyn Fn() -> Command,
    ) -> Result<Line> {
        let mut runs = Vec::new();
        for _ in 0..options.runs {
            self.empty()?;
            let said = self.folder.join("said");
            let taken = measured(&mut command(), &said)?;
            self.complete(options.rows, what)?;
            runs.push((taken, seconds_of(&said, "load_ms"), parts(&said)));
        }
        runs.sort_by(|a, b| a.0.wall_s.total_cmp(&b.0.wall_s));
        let memory_bytes_peak = runs.iter().map(|run| run.0.memory_bytes_peak).max().unwrap_or(0);
        let (taken, load_s, parts) = runs.swap_remove(runs.len() / 2);
        Ok(Line { what, taken: Taken { memory_bytes_peak, ..taken }, load_s, parts })
    }

    /// Whoever ends with 0 and fewer rows is not measured.
    fn complete(&self, rows: u64, what: &str) -> Result<()> {
        let query = "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM messages) + \
                     (SELECT count(*) FROM events)";
        let counted = output(&mut self.psql("target", &[query]))?;
        match counted.trim() == rows.to_string() {
            true => Ok(()),
            false => bail!("{what}: {} of {rows} rows are there", counted.trim()),
        }
    }
}

const TABLES: &[&str] = &["users", "messages", "events"];
const COPY_TABLES: &str = "CREATE TABLE users(id bigint, name text, admin boolean, joined timestamptz); \
     CREATE TABLE messages(id bigint, user_id bigint, parent_id bigint, channel bigint, body text, \
     created_at bigint, edited_at timestamptz, score float8, deleted boolean); \
     CREATE TABLE events(id bigint, user_id bigint, kind text, amount float8, payload text, \
     token bytea)";

/// What our result says of a part of it.
fn seconds_of(said: &Path, part: &str) -> Option<f64> {
    let text = fs::read_to_string(said).ok()?;
    let (_, rest) = text.split_once(&format!("\"{part}\":"))?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<f64>().ok().map(|milliseconds| milliseconds / 1_000.0)
}

fn parts(said: &Path) -> String {
    let parts = [
        ("plan_ms", "examined"),
        ("load_ms", "loaded"),
        ("proof_ms", "indexes, keys and comparison to their end"),
        ("finish_ms", "views and swap"),
    ];
    let told = parts.iter().filter_map(|(part, what)| {
        seconds_of(said, part).map(|seconds| format!("{what} {seconds:.2} s"))
    });
    told.collect::<Vec<_>>().join(", ")
}

fn page(options: &Options, lines: &[Line]) -> String {
    let mut page = format!(
        "`cargo xtask bench migrate --rows {} --runs {}`: users, messages and events with indexes \
         and foreign keys\n\n| | wall s | rows/s | load alone s | CPU s | memory MB |\n\
         |---|---|---|---|---|---|\n",
        options.rows, options.runs
    );
    let speed = |line: &Line| options.rows as f64 / line.taken.wall_s;
    for line in lines {
        let Line { what, taken, load_s, .. } = line;
        let load = load_s.map_or(String::new(), |seconds| format!("{seconds:.2}"));
        page.push_str(&format!(
            "| {what} | {:.2} | {:.0} | {load} | {:.1} | {} |\n",
            taken.wall_s,
            speed(line),
            taken.cpu_s,
            taken.memory_bytes_peak >> 20
        ));
    }
    let [pgloader, plain, compared, copy] = lines else { return page };
    let bars = [
        ("not compared, times pgloader", speed(plain) / speed(pgloader), TIMES_MIN),
        ("compared, times pgloader", speed(compared) / speed(pgloader), TIMES_MIN_VERIFIED),
        (
            "the load alone, times \\copy",
            copy.taken.wall_s / plain.load_s.unwrap_or(f64::INFINITY),
            1.0,
        ),
        (
            "64 MB, times ours",
            MEMORY_BYTES_MAX as f64 / compared.taken.memory_bytes_peak.max(1) as f64,
            1.0,
        ),
    ];
    page.push('\n');
    for line in lines.iter().filter(|line| !line.parts.is_empty()) {
        page.push_str(&format!("- {}: {}\n", line.what, line.parts));
    }
    page.push('\n');
    for (what, value, least) in bars {
        let verdict = if value >= least { "held" } else { "**missed**" };
        page.push_str(&format!("- {what}: {value:.2}, at least {least}: {verdict}\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        let options = parse(&["--rows", "1000", "--runs", "1", "--program", "/x"]).unwrap();
        assert_eq!((options.rows, options.runs), (1000, 1));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--what", "1"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_miss_is_printed_as_one() {
        let options = Options { rows: 1_000, runs: 1, program: None };
        let line = |what, wall_s, load_s| {
            let taken = Taken { wall_s, cpu_s: 1.0, memory_bytes_peak: 1 << 20 };
            Line { what, taken, load_s, parts: String::new() }
        };
        let with = |ours| {
            [
                line("pgloader", 8.0, None),
                line("us", ours, Some(0.5)),
                line("us too", ours, None),
                line("copy", 1.0, None),
            ]
        };
        assert!(!page(&options, &with(1.9)).contains("missed"));
        assert!(page(&options, &with(2.1)).contains("missed"));
    }
}
