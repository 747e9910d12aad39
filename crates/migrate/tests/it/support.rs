//! Databases on both sides.

use std::path::PathBuf;
use std::sync::OnceLock;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_migrate::{Done, LoadOptions, Options, Plan, Verified};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{Client, ThrowAwayCluster};
use lifeboat_sqlite::Moment;
pub(crate) use lifeboat_test_support::env;
use rusqlite::Connection;

/// A server that all tests of this process share, each in a database of its own.
pub(crate) fn cluster(major: u32) -> &'static ThrowAwayCluster {
    static OLD: OnceLock<ThrowAwayCluster> = OnceLock::new();
    static NEW: OnceLock<ThrowAwayCluster> = OnceLock::new();
    // Statics are never dropped: the server is stopped by the end of the pipe to its starter.
    let start = || lifeboat_test_support::postgres::cluster(major, &["max_connections=80"]);
    if major == 15 { OLD.get_or_init(start) } else { NEW.get_or_init(start) }
}

/// A SQLite database, and an empty one of PostgreSQL.
pub(crate) struct Pair {
    folder: tempfile::TempDir,
    pub(crate) client: Client,
}

impl Pair {
    /// The SQLite database is made by those statements, in WAL mode.
    pub(crate) fn new(major: u32, database: &str, statements: &str) -> Pair {
        let cluster = cluster(major);
        let maintenance = cluster.client("postgres").unwrap();
        run(&maintenance, &format!("DROP DATABASE IF EXISTS {database}"));
        run(&maintenance, &format!("CREATE DATABASE {database} TEMPLATE template0"));
        let pair = Pair {
            folder: tempfile::tempdir().unwrap(),
            client: cluster.client(database).unwrap(),
        };
        let connection = pair.sqlite();
        connection.execute_batch("PRAGMA journal_mode = wal").unwrap();
        connection.execute_batch(statements).unwrap();
        pair
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("source.db")
    }

    pub(crate) fn sqlite(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn moment(&self) -> Moment {
        Moment::open(&env(), &self.path(), 2, self.folder.path()).unwrap()
    }

    pub(crate) fn plan(&self, options: Options) -> Result<Plan> {
        lifeboat_migrate::plan(&env(), &mut self.moment(), options)
    }

    /// A mapping of that text.
    pub(crate) fn mapped(&self, text: &str) -> Options {
        let path = self.folder.path().join("mapping.toml");
        std::fs::write(&path, text).unwrap();
        let mapping = lifeboat_migrate::Mapping::read(&path).unwrap();
        Options {
            misfits: mapping.misfits.unwrap_or_default(),
            orphans: mapping.orphans.unwrap_or_default(),
            names: mapping.names.unwrap_or_default(),
            mapping_path: Some(path),
            mapping,
        }
    }

    pub(crate) fn migrate_in(&self, env: &Env, options: Options) -> Result<Done> {
        let mut moment = self.moment();
        let plan = lifeboat_migrate::plan(env, &mut moment, options)?;
        lifeboat_migrate::load(env, &mut moment, &plan, &self.client, &load_options())
    }

    pub(crate) fn migrate(&self, options: Options) -> Result<Done> {
        self.migrate_in(&env(), options)
    }

    /// Migrates by default, and compares again.
    #[track_caller]
    pub(crate) fn migrated(&self, options: Options) -> Done {
        let done = self.migrate(options).unwrap_or_else(|error| panic!("{error:?}"));
        let verified = self.verify();
        assert_eq!(verified.different(), 0, "{}", verified.text());
        done
    }

    pub(crate) fn verify(&self) -> Verified {
        lifeboat_migrate::verify(&env(), &mut self.moment(), &self.client, "public").unwrap()
    }

    /// The rows of a query in PostgreSQL: columns with a bar between them, NULL as ∅.
    #[track_caller]
    pub(crate) fn ask(&self, query: &str) -> Vec<String> {
        let mut connection = connect(&self.client);
        let rows = connection.rows(query).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let text = |value: Option<String>| value.unwrap_or_else(|| "∅".to_owned());
        let line =
            |row: Vec<Option<String>>| row.into_iter().map(text).collect::<Vec<_>>().join("|");
        rows.into_iter().map(line).collect()
    }

    /// Runs a statement in PostgreSQL: what the server says if it refuses.
    pub(crate) fn refused(&self, statement: &str) -> Option<String> {
        connect(&self.client).execute(statement).err().map(|error| error.message().to_owned())
    }

    /// Everything that the target holds, by name.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.ask(
            "SELECT n.nspname || '.' || relname FROM pg_class JOIN pg_namespace AS n \
             ON n.oid = relnamespace WHERE n.nspname NOT LIKE 'pg\\_%' \
             AND n.nspname <> 'information_schema' ORDER BY 1",
        )
    }
}

pub(crate) fn load_options() -> LoadOptions {
    LoadOptions { schema: "public".into(), replace: false, verify: true }
}

fn connect(client: &Client) -> LoadingConnection {
    LoadingConnection::open(&env(), client, "-c timezone=UTC", "the test").unwrap()
}

pub(crate) fn run(client: &Client, statement: &str) {
    connect(client).execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}
