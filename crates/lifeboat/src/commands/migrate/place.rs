//! The database that is migrated to: the one that was named, or a new one beside it that gets its
//! name at the end.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{Client, identifier, literal};

use crate::postgres::Database;

/// What a database is named until it is finished.
const SCRATCH: &str = "_lifeboat_new";
/// The database from which others are made and renamed.
const MAINTENANCE: &str = "postgres";

/// Where the rows go.
pub(super) struct Place {
    client: Client,
    /// The name that it gets at the end, and from where.
    new: Option<(String, Client)>,
}

impl Place {
    /// Looks for the database; where there is none, makes one under another name, or takes the one
    /// of a run that ended too soon.
    pub(super) fn prepare(env: &Env, database: &Database, schema: &str) -> Result<Self> {
        let name = database.address().database().unwrap_or_default().to_owned();
        let maintenance = database.named(MAINTENANCE).client()?;
        let what = format!("cannot look for the database {name}");
        // Who may not enter there cannot make databases either.
        let Ok(mut connection) = LoadingConnection::open(env, &maintenance, "", &what) else {
            return Ok(Place { client: database.client()?, new: None });
        };
        if is_there(&mut connection, &name)? {
            return Ok(Place { client: database.client()?, new: None });
        }
        let scratch = format!("{name}{SCRATCH}");
        if scratch.len() > 63 {
            let message = format!("the name of the database {name} is too long to be made");
            return Err(Error::new(Kind::Usage, message).hint(format!("createdb {name}")));
        }
        let may = "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user";
        let rows = connection.rows(may)?;
        if rows.first().and_then(|row| row.first()?.as_deref()) != Some("t") {
            let message = format!("there is no database {name}, and this role may make none");
            return Err(Error::new(Kind::SourceUnavailable, message)
                .hint(format!("as a superuser: createdb --owner ROLE {name}")));
        }
        let client = database.named(&scratch).client()?;
        let mut is_new = !is_there(&mut connection, &scratch)?;
        if !is_new && lifeboat_migrate::is_finished(env, &client, schema)? {
            // A run ended right before the new name: what it read may not be the newest.
            connection.execute(&format!("DROP DATABASE {}", identifier(&scratch)))?;
            is_new = true;
        }
        if is_new {
            connection.execute(&format!(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'",
                identifier(&scratch)
            ))?;
        }
        Ok(Place { client, new: Some((name, maintenance)) })
    }

    /// A client of it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Gives a new database its name. No session of ours is in it any more.
    pub(super) fn finish(&self, env: &Env) -> Result<()> {
        let Some((name, maintenance)) = &self.new else { return Ok(()) };
        let scratch = format!("{name}{SCRATCH}");
        let what = format!("cannot give the database {scratch} the name {name}");
        let mut connection = LoadingConnection::open(env, maintenance, "", &what)?;
        let rename =
            format!("ALTER DATABASE {} RENAME TO {}", identifier(&scratch), identifier(name));
        // The server may not have noticed yet that our sessions are gone.
        for _ in 0..50 {
            match connection.execute(&rename) {
                Err(error) if error.message().contains("is being accessed by other users") => {
                    env.pause_ms(100)?;
                }
                other => return other,
            }
        }
        connection.execute(&rename)
    }
}

fn is_there(connection: &mut LoadingConnection, database: &str) -> Result<bool> {
    let query = format!("SELECT 1 FROM pg_database WHERE datname = {}", literal(database));
    connection.rows(&query).map(|rows| !rows.is_empty())
}
