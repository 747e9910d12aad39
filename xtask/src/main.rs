//! The chores of the project, as commands: `cargo xtask COMMAND`.
//!
//! A chore is written in Rust, not in shell, so that it runs wherever the project builds and is
//! held to the same lints. The continuous integration calls nothing that a person could not.

mod bench;
mod browser;
mod corpora;
mod docs;
mod object_storage;
mod order;
mod packages;
mod postgres;
mod postgres_17;
mod process;
mod suite;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
The chores of the project.

cargo xtask test          everything that must hold: format, lints, tidy, all tests, documents;
                          installs the tools that the tests need when it is run by root;
                          LIFEBOAT_LONG_TESTS=1 adds the long tests, and PostgreSQL 17 for them
cargo xtask servers       installs all that the tests need, and does no more
cargo xtask tidy          the rules of the house: sizes of files, order of modules, generated pages
cargo xtask docs          writes the generated pages of docs/manual anew
cargo xtask bench sqlite  measures us, a guide's script and Litestream on one database
    --size-mb N           size of the database in millions of bytes (1000)
    --runs N              how often each is run (3)
    --large               also peak memory on a database of five times the size
    --only NAME           only the contenders whose name contains NAME
cargo xtask bench postgres-logical  measures us, a guide's script and zstd on one PostgreSQL database
    --scale N             scale of pgbench (50)
    --text-mb N           size of a table of texts in millions of bytes (500)
    --runs N              how often each is run (3)
cargo xtask bench postgres-wal  measures us and pgBackRest as archive commands
    --segments N          how many segments are archived (45)
    --runs N              how often each does it (3)
cargo xtask bench pagelog  measures us and Litestream following a database under three loads, and
                          increments against restic and borg: some 12 minutes
    --short               a small database, 10 seconds for each load
    --size-mb N, --seconds N, --rate 20|200|0, --no-increments, --only-increments
cargo xtask bench postgres-physical  measures us, pgBackRest and pg_basebackup on one cluster
    --scale N|small       scale of pgbench (50); small is 5, with 20 MB of texts and 8 segments
    --text-mb N           size of a table of texts in millions of bytes (500)
    --segments N          how many segments are archived (45)
    --runs N              how often each is run (3)
    --only NAME           only what has NAME in its name: backup, restore, wal, 'zstd -1'
    --skip NAME           nothing that has NAME in its name: gz
    --program FILE        this program of ours instead of one that is built first
cargo xtask bench stores  measures a bucket against a folder, restic, and the guide's aws s3 sync
    --size-mb N           size of the database in millions of bytes (1000)
    --runs N              how often each is run (3)
    --backups N           how many backups are listed (10000)
    --program FILE        this program of ours, with its examples, instead of one that is built
cargo xtask bench migrate  measures us and pgloader from SQLite to PostgreSQL, and psql beside
cargo xtask bench drill  measures a drill against the restore and the check that it contains
    --short               a small database and a small cluster, once
    --size-mb N           size of the SQLite database in millions of bytes (1000)
    --scale N             scale of pgbench in the cluster (40)
    --runs N              how often each is run (3)
    --program FILE        this program of ours instead of one that is built first
cargo xtask bench salvage  measures us against .recover of a shell that is built for it
    --size-mb N           size of the database in millions of bytes (1000)
    --runs N              how often each is run (3)
    --program FILE        this program of ours instead of one that is built first
cargo xtask bench agent   what the agent takes of the processor and of memory
    --sources N           how many databases it follows (200)
    --seconds N           for how long it is measured (60)
    --writes              somebody writes to one of them each second
    --program FILE        this program of ours instead of one that is built first
cargo xtask bench web     how long the overview and the metrics of the page take
    --sources N           sources (200)
    --backups N           backups of all of them (10000)
    --asked N             how often each is asked for (50)
    --program PATH        a program that is built already, with --multiply PATH of many_backups
cargo xtask bench retention  times list, status and prune --dry-run on many backups; as root cold
    --backups N           how many (10000)
    --runs N              how often each is run (5)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => test::all(),
        ["servers"] => test::install(),
        ["tidy"] => tidy::run(),
        ["docs"] => docs::write(),
        ["bench", "sqlite", options @ ..] => bench::run(options),
        ["bench", "postgres-wal", options @ ..] => bench::wal::run(options),
        ["bench", "postgres-physical", options @ ..] => bench::physical::run(options),
        ["bench", "postgres-logical", options @ ..] => bench::postgres::run(options),
        ["bench", "pagelog", options @ ..] => bench::pagelog::run(options),
        ["bench", "stores", options @ ..] => bench::stores::run(options),
        ["bench", "migrate", options @ ..] => bench::migrate::run(options),
        ["bench", "drill", options @ ..] => bench::drill::run(options),
        ["bench", "salvage", options @ ..] => bench::salvage::run(options),
        ["bench", "retention", options @ ..] => bench::retention::run(options),
        ["bench", "agent", options @ ..] => bench::agent::run(options),
        ["bench", "web", options @ ..] => bench::web::run(options),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("`{}` is no chore\n\n{HELP}", arguments.join(" ")),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
