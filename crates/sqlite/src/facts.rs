//! What the manifest says of a database beyond its bytes: facts of the header, tables, and the
//! version of the application's schema.

use lifeboat_core::manifest::SchemaVersion;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Map, Value};

use crate::header::Header;
use crate::rows::TableRoot;

/// The facts of a captured state, for the manifest. `header` is that of the captured first page.
pub(crate) fn facts(header: &Header, page_count: u32, overlaid_pages: usize) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    put("sqlite_version", rusqlite::version().into());
    put("page_size", header.page_size.into());
    put("page_count", page_count.into());
    put("reserved_bytes", header.reserved_bytes.into());
    put("encoding", header.encoding().into());
    put("journal_mode", header.journal_mode().into());
    put("auto_vacuum", header.auto_vacuum().into());
    put("user_version", header.user_version.into());
    put("application_id", header.application_id.into());
    put("schema_cookie", header.schema_cookie.into());
    put("freelist_count", header.freelist_count.into());
    put("wal_frames", overlaid_pages.into());
    facts
}

/// The tables that have a b-tree of their own. Virtual tables have none, but the tables that
/// keep their content have; SQLite's own (`sqlite_sequence`) are left out.
pub(crate) fn tables(connection: &Connection) -> rusqlite::Result<Vec<TableRoot>> {
    let mut statement = connection.prepare(
        "SELECT name, rootpage FROM sqlite_schema
         WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        let name = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
        Ok(TableRoot { name, page: row.get(1)? })
    })?;
    rows.collect()
}

/// Where migration tools keep the version of a schema: table, column, and the row that counts.
pub const VERSION_TABLES: &[(&str, &str, &str)] = &[
    ("schema_migrations", "version", "ORDER BY CAST(version AS INTEGER) DESC, version DESC"),
    ("goose_db_version", "version_id", "WHERE is_applied ORDER BY id DESC"),
    (
        "flyway_schema_history",
        "version",
        "WHERE success AND version IS NOT NULL ORDER BY installed_rank DESC",
    ),
    ("alembic_version", "version_num", "ORDER BY version_num DESC"),
    ("django_migrations", "name", "ORDER BY id DESC"),
    ("__diesel_schema_migrations", "version", "ORDER BY version DESC"),
    ("_sqlx_migrations", "version", "WHERE success ORDER BY version DESC"),
    ("knex_migrations", "name", "ORDER BY id DESC"),
    ("__drizzle_migrations", "created_at", "ORDER BY created_at DESC"),
    (
        "_prisma_migrations",
        "migration_name",
        "WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL ORDER BY started_at DESC",
    ),
    ("__EFMigrationsHistory", "MigrationId", "ORDER BY MigrationId DESC"),
    ("migrations", "filename", "ORDER BY filename DESC"),
    ("migrations", "migration", "ORDER BY migration DESC"),
    ("migrations", "version", "ORDER BY version DESC"),
    ("migrations", "name", "ORDER BY name DESC"),
];

/// The version of the application's schema: from the table of a known migration tool, else from
/// `user_version` where it is set.
pub(crate) fn schema_version(
    connection: Option<&Connection>,
    user_version: i32,
) -> Option<SchemaVersion> {
    let tabled = connection.and_then(|connection| {
        VERSION_TABLES.iter().find_map(|&(table, column, rest)| {
            // A table of that name without these columns belongs to something else.
            let version = version_in(connection, table, column, rest).ok().flatten()?;
            Some(SchemaVersion { read_from: format!("{table}.{column}"), version })
        })
    });
    tabled.or_else(|| {
        (user_version != 0).then(|| SchemaVersion {
            read_from: "user_version".to_owned(),
            version: user_version.to_string(),
        })
    })
}

/// Whether there is a table with such a column.
pub(crate) fn has_column(connection: &Connection, table: &str, column: &str) -> bool {
    let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
    connection.query_row(sql, [table, column], |_| Ok(())).is_ok()
}

/// The table and the column of a known migration tool, also where no row stands in it yet, and
/// the rows that count: "WHERE success ", or nothing.
pub(crate) fn version_table(
    connection: &Connection,
) -> Option<(&'static str, &'static str, &'static str)> {
    let mut known = VERSION_TABLES.iter().map(|&(table, column, rest)| {
        (table, column, rest.split("ORDER BY").next().unwrap_or_default())
    });
    known.find(|(table, column, _)| has_column(connection, table, column))
}

fn version_in(
    connection: &Connection,
    table: &str,
    column: &str,
    rest: &str,
) -> rusqlite::Result<Option<String>> {
    if !has_column(connection, table, column) {
        return Ok(None);
    }
    let sql = format!("SELECT CAST(\"{column}\" AS TEXT) FROM \"{table}\" {rest} LIMIT 1");
    let version = connection.query_row(&sql, [], |row| row.get::<_, Option<String>>(0));
    Ok(version.optional()?.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sql: &str) -> Option<(String, String)> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        let version = schema_version(Some(&connection), 7)?;
        Some((version.read_from, version.version))
    }

    fn known(read_from: &str, version: &str) -> Option<(String, String)> {
        Some((read_from.to_owned(), version.to_owned()))
    }

    #[test]
    fn versions_are_read_where_tools_keep_them() {
        assert_eq!(
            version(
                "CREATE TABLE schema_migrations(version INTEGER, name, applied_at);
                 INSERT INTO schema_migrations VALUES (9,'i',1), (10,'j',2)"
            ),
            known("schema_migrations.version", "10")
        );
        assert_eq!(
            version(
                "CREATE TABLE migrations(id INTEGER PRIMARY KEY, filename TEXT);
                 INSERT INTO migrations(filename) VALUES ('001_a.sql'), ('018_b.sql')"
            ),
            known("migrations.filename", "018_b.sql")
        );
        assert_eq!(
            version(
                "CREATE TABLE goose_db_version(id INTEGER PRIMARY KEY, version_id, is_applied);
                 INSERT INTO goose_db_version VALUES (1, 1, 1), (2, 2, 1), (3, 3, 0)"
            ),
            known("goose_db_version.version_id", "2")
        );
        assert_eq!(version("CREATE TABLE migrations(a, b)"), known("user_version", "7"));
        assert_eq!(
            version("CREATE TABLE schema_migrations(version)"),
            known("user_version", "7"),
            "an empty table has no version"
        );
    }
}
