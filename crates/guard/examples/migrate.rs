//! A program with migrations of its own, numbered in `user_version`, each in a transaction.
//!
//! `cargo run -p lifeboat-guard --example migrate -- app.db file:///var/backups/lifeboat`

use lifeboat_guard::Guard;
use rusqlite::Connection;

const MIGRATIONS: &[&str] = &[
    "CREATE TABLE user(id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    "ALTER TABLE user ADD COLUMN email TEXT",
    "CREATE UNIQUE INDEX user_email ON user(email)",
];

/// Applies what is missing. The connection is closed when this returns: a rollback needs that.
fn migrate(path: &str) -> rusqlite::Result<usize> {
    let mut connection = Connection::open(path)?;
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let missing = (1_u32..).zip(MIGRATIONS).skip_while(|(number, _)| *number <= version);
    let mut applied = 0;
    for (number, sql) in missing {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
        applied += 1;
    }
    connection.close().map_err(|(_, error)| error)?;
    Ok(applied)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name the database")?;
    let mut guard = Guard::new(&path).rollback(true);
    if let Some(repository) = arguments.next() {
        guard = guard.repository(repository);
    }
    if let Some(program) = std::env::var_os("LIFEBOAT_PROGRAM") {
        guard = guard.program(program);
    }
    let applied = guard.run(|_ready| migrate(&path))?;
    #[expect(clippy::print_stdout, reason = "an example tells what it did")]
    {
        println!("{applied} migrations applied");
    }
    Ok(())
}
