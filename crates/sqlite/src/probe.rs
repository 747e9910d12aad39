//! A look at a live database beside its backup: which version its schema has, what its migration
//! tool says of unfinished work, and questions in SQL that cannot change anything.
//!
//! A probe holds a read transaction for as long as it lives: ask, then drop it. While it lives, no
//! other code of the process may open and close the database file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::{CheckLevel, SchemaVersion};
use lifeboat_core::source::CheckReport;
use lifeboat_core::{Error, Kind, Result};
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;

use crate::check::{self, Checked};
use crate::engine::count_rows;
use crate::facts;
use crate::snapshot::{Attempt, Pinned, failed, missing, pin};

/// The longest answer to a question that is kept, in bytes.
const ANSWER_BYTES_MAX: usize = 4_096;

/// Instructions of SQLite between two looks at whether the run may go on.
const STEPS: i32 = 20_000;

/// A read transaction on a live database.
pub struct Probe {
    path: PathBuf,
    pinned: Box<Pinned>,
}

/// The migrations that a database says were applied to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Where it says so: "schema_migrations.version"; `None` where nothing says so.
    pub read_from: Option<String>,
    /// What stands there, as text, in no particular order.
    pub names: Vec<String>,
}

/// Where migration tools say that a migration was begun and has not ended: a query whose rows name
/// it, for each table with that column.
const UNFINISHED: &[(&str, &str, &str)] = &[
    ("schema_migrations", "dirty", "SELECT version FROM schema_migrations WHERE dirty"),
    ("_sqlx_migrations", "success", "SELECT version FROM _sqlx_migrations WHERE NOT success"),
    (
        "flyway_schema_history",
        "success",
        "SELECT coalesce(version, description) FROM flyway_schema_history WHERE NOT success",
    ),
    (
        "_prisma_migrations",
        "finished_at",
        "SELECT migration_name FROM _prisma_migrations
         WHERE finished_at IS NULL AND rolled_back_at IS NULL",
    ),
];

impl Probe {
    /// Begins a read transaction. Never creates a file. [`Kind::SourceUnavailable`] where the
    /// database cannot be read without writing to it, as after a transaction that was cut off.
    pub fn open(path: &Path) -> Result<Probe> {
        let path = std::fs::canonicalize(path).map_err(|error| missing(path, error))?;
        let unreadable =
            |why: &str| Error::new(Kind::SourceUnavailable, format!("{} {why}", path.display()));
        let mut pinned = match pin(&path)? {
            Attempt::Pinned(pinned) => pinned,
            Attempt::HotJournal => {
                return Err(unreadable("was left within a transaction")
                    .hint("whoever opens it next rolls that transaction back"));
            }
            Attempt::NoSharedMemory => {
                return Err(unreadable("cannot be read: its -shm cannot be made beside it")
                    .hint("run as a user who may write to its folder"));
            }
            Attempt::Refused(reason) => {
                return Err(Error::new(
                    Kind::CheckFailed,
                    format!("{} cannot be read: {reason}", path.display()),
                )
                .hint("restore it from a backup: lifeboat list"));
            }
        };
        let forbid = pinned
            .connection()
            .execute_batch("PRAGMA query_only = ON; PRAGMA temp_store = FILE")
            .and_then(|()| pinned.connection_mut().authorizer(Some(authorize)));
        forbid.map_err(|error| failed(&path, error))?;
        Ok(Probe { path, pinned })
    }

    /// Has each question end with an error when the run must end.
    pub fn end_with(&mut self, env: &Env) -> Result<()> {
        let env = env.clone();
        let set = self
            .pinned
            .connection_mut()
            .progress_handler(STEPS, Some(move || env.proceed().is_err()));
        set.map_err(|error| failed(&self.path, error))
    }

    /// The version of the application's schema, where a known table or `user_version` holds one.
    pub fn schema_version(&self) -> Result<Option<SchemaVersion>> {
        let connection = self.pinned.connection();
        let user_version = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        let user_version = user_version.map_err(|error| self.failed(error))?;
        Ok(facts::schema_version(Some(connection), user_version))
    }

    /// Rows of each table; `None` where one cannot be counted.
    pub fn rows(&self) -> Option<BTreeMap<String, u64>> {
        count_rows(self.pinned.connection())
    }

    /// Whether it has no table at all.
    pub fn is_empty(&self) -> Result<bool> {
        let tables = self.names_of("SELECT name FROM sqlite_schema LIMIT 1");
        tables.map(|tables| tables.is_empty()).map_err(|error| self.failed(error))
    }

    /// What its migration tool began and did not end, a line each.
    pub fn unfinished(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (table, column, sql) in UNFINISHED {
            if facts::has_column(self.pinned.connection(), table, column) {
                // A table of that name with other columns belongs to something else.
                let found = self.names_of(sql).unwrap_or_default();
                lines.extend(found.into_iter().map(|name| format!("{table}: {name}")));
            }
        }
        lines
    }

    /// Everything that the table of its migration tool lists.
    pub fn applied(&self) -> Result<Applied> {
        let Some((table, column, counts)) = facts::version_table(self.pinned.connection()) else {
            return Ok(Applied::default());
        };
        let sql = format!("SELECT CAST(\"{column}\" AS TEXT) FROM \"{table}\" {counts}");
        let names = self.names_of(&sql).map_err(|error| self.failed(error))?;
        Ok(Applied { read_from: Some(format!("{table}.{column}")), names })
    }

    /// Checks the state that it holds.
    pub fn check(
        &mut self,
        env: &Env,
        level: CheckLevel,
        memory_bytes: u64,
    ) -> Result<CheckReport> {
        // The check needs more than a question may; nobody's SQL but its own is run meanwhile.
        let connection = self.pinned.connection_mut();
        let none = None::<fn(AuthContext<'_>) -> Authorization>;
        let freed = connection.authorizer(none);
        freed.map_err(|error| failed(&self.path, error))?;
        let checked = check::check(connection, &env.clock, level, memory_bytes, None);
        let forbidden = connection.authorizer(Some(authorize));
        forbidden.map_err(|error| failed(&self.path, error))?;
        match checked {
            Checked::Done(report) => Ok(report),
            Checked::Stopped => Err(Error::new(Kind::Failed, "the check was interrupted")),
        }
    }

    /// How many rows refer to one that is not there.
    pub fn violations(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM pragma_foreign_key_check";
        let count = self.pinned.connection().query_row(sql, [], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(|error| self.failed(error))
    }

    /// The first value of the answer to a query, as SQL writes it: `NULL`, `7`, `'text'`,
    /// `x'00ff'`; `no row` where there is none. [`Kind::Usage`] for what is no query or may change
    /// something.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let wrong = |error: rusqlite::Error| {
            let shown = sql.escape_debug();
            Error::new(Kind::Usage, format!("`{shown}` cannot be asked"))
                .caused_by(error)
                .hint("write one SELECT that reads tables of the database and changes nothing")
        };
        let mut statement = self.pinned.connection().prepare(sql).map_err(wrong)?;
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(Error::new(Kind::Usage, format!("`{}` is no query", sql.escape_debug()))
                .hint("write one SELECT; its first value counts"));
        }
        let mut rows = statement.query([]).map_err(wrong)?;
        match rows.next().map_err(wrong)? {
            Some(row) => Ok(written(row.get_ref(0).map_err(wrong)?)),
            None => Ok("no row".to_owned()),
        }
    }

    /// Its connection, for questions of this crate.
    pub(crate) fn connection(&self) -> &Connection {
        self.pinned.connection()
    }

    /// Which database it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn names_of(&self, sql: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.pinned.connection().prepare(sql)?;
        let names = statement.query_map([], |row| match row.get_ref(0)? {
            ValueRef::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            other => Ok(written(other)),
        })?;
        names.collect()
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failed(&self.path, error)
    }
}

/// What a question may do: read. The transaction is read-only besides, by three ways.
fn authorize(context: AuthContext<'_>) -> Authorization {
    const PRAGMAS: &[&str] = &[
        "user_version",
        "application_id",
        "foreign_key_check",
        "foreign_key_list",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "encoding",
        "module_list",
        "page_count",
        "freelist_count",
        "schema_version",
    ];
    match context.action {
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let known = PRAGMAS.iter().any(|known| known.eq_ignore_ascii_case(pragma_name));
            let sets = ["user_version", "application_id", "schema_version", "encoding"]
                .iter()
                .any(|name| name.eq_ignore_ascii_case(pragma_name) && pragma_value.is_some());
            if known && !sets { Authorization::Allow } else { Authorization::Deny }
        }
        _ => Authorization::Deny,
    }
}

fn written(value: ValueRef<'_>) -> String {
    let text = match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => {
            format!("'{}'", String::from_utf8_lossy(text).replace('\'', "''"))
        }
        ValueRef::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    };
    match text.len() > ANSWER_BYTES_MAX {
        // A long answer is compared by its hash.
        true => format!("blake3:{}", blake3::hash(text.as_bytes()).to_hex()),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(sql: &str) -> (tempfile::TempDir, Probe) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it's.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal;").unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let probe = Probe::open(&path).unwrap();
        (folder, probe)
    }

    #[test]
    fn questions_are_answered_as_sql_writes_values() {
        let (_folder, probe) = probe("CREATE TABLE t(a); INSERT INTO t VALUES (7), ('it''s')");
        for (sql, answer) in [
            ("SELECT count(*) FROM t", "2"),
            ("SELECT a FROM t WHERE a <> 7", "'it''s'"),
            ("SELECT NULL", "NULL"),
            ("SELECT 1.0 / 4", "0.25"),
            ("SELECT x'00ff'", "x'00ff'"),
            ("SELECT a FROM t WHERE 0", "no row"),
            (
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 9)
              SELECT sum(i) FROM n",
                "45",
            ),
            ("PRAGMA user_version", "0"),
        ] {
            assert_eq!(probe.ask(sql).unwrap(), answer, "{sql}");
        }
        let long = probe.ask("SELECT hex(zeroblob(5000))").unwrap();
        assert!(long.starts_with("blake3:"), "{long}");
    }

    #[test]
    fn what_may_change_something_is_refused() {
        let (_folder, probe) = probe("CREATE TABLE t(a); PRAGMA user_version = 3");
        for sql in [
            "DELETE FROM t",
            "INSERT INTO t VALUES (1) RETURNING a",
            "PRAGMA user_version = 9",
            "PRAGMA query_only = OFF",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA writable_schema = ON",
            "ATTACH '/tmp/x' AS x",
            "CREATE TEMP TABLE x(a)",
            "SELECT 1; DELETE FROM t",
            "COMMIT",
            "SELECT load_extension('x')",
            "",
            "SELECT nothing FROM nowhere",
        ] {
            let error = probe.ask(sql).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{sql}: {error}");
        }
        assert_eq!(probe.schema_version().unwrap().unwrap().version, "3");
    }

    #[test]
    fn what_migration_tools_left_undone_is_told() {
        let (_folder, probe) = probe(
            "CREATE TABLE schema_migrations(version INTEGER, dirty INTEGER);
             INSERT INTO schema_migrations VALUES (4, 0), (5, 1);
             PRAGMA foreign_keys = OFF;
             CREATE TABLE child(p REFERENCES parent(id)); CREATE TABLE parent(id PRIMARY KEY);
             INSERT INTO child VALUES (1), (2)",
        );
        assert_eq!(probe.unfinished(), ["schema_migrations: 5"]);
        assert_eq!(probe.violations().unwrap(), 2);
        let mut applied = probe.applied().unwrap();
        applied.names.sort();
        assert_eq!(applied.read_from.as_deref(), Some("schema_migrations.version"));
        assert_eq!(applied.names, ["4", "5"]);
        assert!(!probe.is_empty().unwrap());
    }

    #[test]
    fn an_empty_database_has_no_version_and_applied_nothing() {
        let (_folder, probe) = probe("");
        assert!(probe.is_empty().unwrap());
        assert_eq!(probe.schema_version().unwrap(), None);
        assert_eq!(probe.applied().unwrap(), Applied::default());
    }
}
