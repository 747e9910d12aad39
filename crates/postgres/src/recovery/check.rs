//! What a recovered cluster is asked by SQL.

use std::collections::BTreeMap;

use lifeboat_core::{Error, Kind, Result};

use super::server::{FolderServer, ServerPrograms};
use crate::child::Running;
use crate::quote::{identifier, literal};
use crate::session::{Row, Session};

const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// What was found in a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterCheck {
    /// Rows of each table, `database.schema.table`; every one was read.
    pub rows: BTreeMap<String, u64>,
    /// Tables that come back empty because they are not logged.
    pub unlogged: Vec<String>,
    /// Databases that amcheck looked at.
    pub amcheck: Vec<String>,
    /// What is damaged, a line each.
    pub damage: Vec<String>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// Reads every row of every table. `deep`: also amcheck, where it is installed; it adds its
/// extension, so only where the cluster is thrown away afterwards.
pub fn check_cluster(
    server: &FolderServer,
    programs: &ServerPrograms,
    users: &[String],
    deep: bool,
) -> Result<ClusterCheck> {
    let mut check = ClusterCheck::default();
    let Some((user, databases)) = databases(server, users) else {
        check.notes.push(format!(
            "its tables were not read: none of the roles {} is in it",
            users.join(", ")
        ));
        return Ok(check);
    };
    for database in &databases {
        read_tables(server, &user, database, &mut check)?;
        if deep {
            amcheck(server, programs, &user, database, &mut check)?;
        }
    }
    Ok(check)
}

/// The first role that is let in, and all databases.
fn databases(server: &FolderServer, users: &[String]) -> Option<(String, Vec<String>)> {
    users.iter().find_map(|user| {
        let client = ["postgres", "template1"].into_iter().find_map(|database| {
            let client = server.client(user, database).ok()?;
            Session::open(&client, "the restored cluster").ok()
        });
        let names = client?
            .rows("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1")
            .ok()?;
        Some((user.clone(), names.iter().map(|row| text(row, "datname")).collect()))
    })
}

fn read_tables(
    server: &FolderServer,
    user: &str,
    database: &str,
    check: &mut ClusterCheck,
) -> Result<()> {
    let client = server.client(user, database)?;
    let what = format!("the restored database {database}");
    let mut session = Session::open(&client, &what)?;
    let tables = session.rows(
        "SELECT n.nspname, c.relname, c.relpersistence \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence IN ('p', 'u') \
         AND n.nspname NOT IN ('information_schema') ORDER BY 1, 2",
    )?;
    for row in tables {
        let (schema, table) = (text(&row, "nspname"), text(&row, "relname"));
        let persistence = text(&row, "relpersistence");
        let name = format!("{database}.{schema}.{table}");
        if persistence == "u" {
            check.unlogged.push(name.clone());
        }
        // The whole row, so that what is stored beside the table is read too.
        let query = format!(
            "SELECT count(*) AS count, sum(length(t::text)) AS bytes FROM {}.{} t",
            identifier(&schema),
            identifier(&table)
        );
        match session.rows(&query) {
            Ok(rows) if schema != "pg_catalog" => {
                let count = rows.first().and_then(|row| row.get("count")?.as_u64());
                check.rows.insert(name, count.unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) => {
                check.damage.push(format!("{name}: {error}"));
                session = Session::open(&client, &what)?;
            }
        }
    }
    Ok(())
}

fn amcheck(
    server: &FolderServer,
    programs: &ServerPrograms,
    user: &str,
    database: &str,
    check: &mut ClusterCheck,
) -> Result<()> {
    let client = server.client(user, database)?;
    let found = client.programs("pg_amcheck").into_iter();
    let Some(program) = found.into_iter().find(|found| found.major == programs.major) else {
        note(check, format!("pg_amcheck of version {} is not on this host", programs.major));
        return Ok(());
    };
    let mut session = Session::open(&client, "the restored cluster")?;
    let query = format!(
        "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = {}",
        literal("amcheck")
    );
    if session.rows(&query)?.is_empty() {
        note(check, "the extension amcheck is not on this host".to_owned());
        return Ok(());
    }
    drop(session);
    // Its `-d` is a pattern of names, and no address.
    let mut command = client.offline(&program);
    for (option, name) in [("-h", "host"), ("-p", "port"), ("-U", "user")] {
        command.arg(option).arg(client.address().get(name).unwrap_or_default());
    }
    command.args(["-w", "--install-missing", "--heapallindexed", "--", database]);
    match Running::output(command, "amcheck", OUTPUT_BYTES_MAX) {
        Ok(_) => check.amcheck.push(database.to_owned()),
        Err(error) if error.kind() == Kind::Interrupted => return Err(error),
        Err(error) => check.damage.push(format!("{database}: {}", cause(&error))),
    }
    Ok(())
}

fn note(check: &mut ClusterCheck, note: String) {
    if !check.notes.contains(&note) {
        check.notes.push(note);
    }
}

fn text(row: &Row, column: &str) -> String {
    row.get(column).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
}

fn cause(error: &Error) -> String {
    error.to_string().lines().take(3).collect::<Vec<_>>().join("; ")
}
