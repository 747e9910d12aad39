//! `lifeboat diff A B`: two databases compared by table and key.

pub(crate) mod say;
pub(crate) mod side;

use std::process::ExitCode;

use lifeboat_core::diff::Comparison;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use crate::session::Session;
use crate::signals;

use self::side::{Holder, Side};

/// Rows that a person reads of one table, where nothing else is asked for.
const ROWS_SHOWN: usize = 5;
/// Rows of a table that are kept in memory at most.
const ROWS_MAX: usize = 100_000;

/// Compare two databases, table by table and row by row
///
/// Each side is a live database, a backup, or a file: the name of a source is its live database;
/// SOURCE@TIME, SOURCE@latest or the name of a backup is what the repository holds, restored to a
/// scratch place that is removed; a path is a database as it lies there (NAME.before_restore.TIME,
/// what salvage made, a copy), or a backup that something else made, compressed or not; a URL is a
/// database of PostgreSQL. Live databases are only read, and each at one moment.
///
/// Rows belong together by the primary key, by rowid where a table of SQLite has no other, and are
/// the same where all values are, to the last bit. It is said how many there are in A alone, in B
/// alone, changed (with the columns) and the same. Columns that are generated follow from others
/// and are left out. Tables of PostgreSQL without a key are compared as bags of rows.
///
/// Exit code 0: the same. 20: they differ. 3: what could be compared is the same, and not
/// everything could be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One side: SOURCE, SOURCE@TIME, the name of a backup, a file, or postgresql://HOST/DATABASE
    a: String,
    /// The other side
    b: String,
    /// This table alone, repeatable: TABLE, or SCHEMA.TABLE in PostgreSQL
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// So many rows that differ are shown of each table [default: 5 with --table, else 0]
    #[arg(long, value_name = "COUNT")]
    rows: Option<usize>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let rows_max = args.rows.unwrap_or(if args.table.is_empty() { 0 } else { ROWS_SHOWN });
    if rows_max > ROWS_MAX {
        return Err(Error::new(Kind::Usage, format!("--rows is {ROWS_MAX} at most"))
            .hint("name a single table with --table, or ask the two databases with SQL"));
    }
    let holder = Holder::default();
    let mut a = Side::open(session, &env, &holder, &args.a)?;
    let mut b = Side::open(session, &env, &holder, &args.b)?;
    let comparison = compare(&env, (&mut a, &mut b), &args.table, rows_max)?;
    session.progress.clear();
    say::result(session, (&a.label, &b.label), &comparison)?;
    Ok(match (comparison.differs(), comparison.not_compared()) {
        (true, _) => ExitCode::from(Kind::CheckFailed.exit_code()),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(Kind::Incomplete.exit_code()),
    })
}

fn compare(
    env: &Env,
    (a, b): (&mut Side, &mut Side),
    tables: &[String],
    rows_max: usize,
) -> Result<Comparison> {
    use self::side::Database::{Postgres, Sqlite};
    match (&mut a.database, &mut b.database) {
        (Sqlite(a), Sqlite(b)) => lifeboat_sqlite::compare(env, a, b, tables, rows_max),
        (Postgres(a), Postgres(b)) => lifeboat_postgres::compare(env, a, b, tables, rows_max),
        _ => Err(Error::new(Kind::Usage, format!("{} and {} are of two kinds", a.label, b.label))
            .hint("compare two databases of SQLite, or two of PostgreSQL")),
    }
}
