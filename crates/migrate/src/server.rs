//! The target: a schema in a database, and the schema beside it in which everything is made.

use std::sync::Mutex;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{Client, identifier, literal};

/// What the schema that is being made ends with.
const SCRATCH: &str = "_lifeboat_new";
/// The table that says how far it is, and later what was agreed.
pub(crate) const RECORD: &str = "_lifeboat_migration";
/// The table of rows with values that do not fit.
pub(crate) const REJECTS: &str = "_lifeboat_rejects";
/// The oldest server whose numerics know infinity.
const MAJOR_MIN: u32 = 14;
/// How often, and how long between, another migration's end is waited for.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_PAUSE_MS: u64 = 100;

/// Sessions with the server.
pub(crate) struct Server<'a> {
    env: &'a Env,
    client: &'a Client,
    /// The schema that the tables are to be in.
    pub(crate) schema: String,
    search_path: String,
    free: Mutex<Vec<LoadingConnection>>,
    /// What is tried, for errors.
    what: &'static str,
}

/// What is in the schema of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occupied {
    /// There is none.
    Absent,
    /// Nothing of ours to lose.
    Empty,
    /// Tables, views or functions.
    Full,
}

impl<'a> Server<'a> {
    /// A server whose sessions see the schema that is being made.
    pub(crate) fn of_scratch(env: &'a Env, client: &'a Client, schema: &str) -> Result<Self> {
        let scratch = scratch_name(schema);
        if scratch.len() > 63 {
            return Err(Error::new(
                Kind::Usage,
                format!("the name of schema {schema} is too long"),
            ));
        }
        Ok(Server {
            env,
            client,
            schema: schema.to_owned(),
            search_path: scratch,
            free: Mutex::default(),
            what: "cannot migrate to",
        })
    }

    /// A server whose sessions see the finished schema.
    pub(crate) fn of_schema(env: &'a Env, client: &'a Client, schema: &str) -> Self {
        Server {
            env,
            client,
            schema: schema.to_owned(),
            search_path: schema.to_owned(),
            free: Mutex::default(),
            what: "cannot compare with",
        }
    }

    /// The schema that is being made, quoted.
    pub(crate) fn scratch(&self) -> String {
        identifier(&scratch_name(&self.schema))
    }

    /// A session of its own.
    pub(crate) fn open(&self) -> Result<LoadingConnection> {
        let what = format!("{} {}", self.what, self.client.address().label());
        let settings = "-c statement_timeout=0 -c lock_timeout=0 \
                        -c idle_in_transaction_session_timeout=0 -c synchronous_commit=off \
                        -c client_min_messages=warning -c maintenance_work_mem=128MB";
        let mut connection = LoadingConnection::open(self.env, self.client, settings, &what)?;
        connection.execute(&format!("SET search_path = {}", identifier(&self.search_path)))?;
        Ok(connection)
    }

    /// Does something in a session, which is kept for the next one where it succeeds.
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut LoadingConnection) -> Result<R>,
    ) -> Result<R> {
        let kept = self.free.lock().ok().and_then(|mut free| free.pop());
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.open()?,
        };
        let result = work(&mut connection)?;
        if let Ok(mut free) = self.free.lock() {
            free.push(connection);
        }
        Ok(result)
    }

    /// Fails where the server cannot hold what we have. Nobody else migrates there as long as the
    /// session lives.
    pub(crate) fn prepare(&self, connection: &mut LoadingConnection) -> Result<()> {
        let label = self.client.address().label();
        if connection.server_major() < MAJOR_MIN {
            let message = format!("{label} is older than PostgreSQL {MAJOR_MIN}");
            return Err(Error::new(Kind::Usage, message));
        }
        let encoding = only_text(connection, "SHOW server_encoding")?;
        if encoding != "UTF8" {
            let message = format!("{label} keeps texts in {encoding}, not in UTF8");
            return Err(Error::new(Kind::Usage, message).hint(
                "make another database: createdb --encoding UTF8 --template template0 NAME",
            ));
        }
        let may = "has_database_privilege(current_database(), 'CREATE')";
        self.needs(connection, may, "'CREATE ON DATABASE ' || quote_ident(current_database())")?;
        let lock = format!(
            "SELECT pg_try_advisory_lock(hashtextextended({}, 0))",
            literal(&format!("lifeboat migrate {}", self.schema))
        );
        // The server may not have noticed yet that a session of before is gone.
        for _ in 0..LOCK_ATTEMPTS {
            if only_text(connection, &lock)? == "t" {
                return Ok(());
            }
            self.env.pause_ms(LOCK_PAUSE_MS)?;
        }
        Err(Error::new(Kind::Locked, format!("another migration to {label} goes on now")))
    }

    /// Fails where we lack a right: an expression that says whether we have it, and its name.
    fn needs(&self, connection: &mut LoadingConnection, may: &str, right: &str) -> Result<()> {
        let rows = connection.rows(&format!("SELECT {may}, {right}, current_user"))?;
        let row = rows.into_iter().next().unwrap_or_default();
        let mut texts = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || texts.next().unwrap_or_default();
        let (may, right, role) = (next(), next(), next());
        match may == "t" {
            true => Ok(()),
            false => Err(Error::new(
                Kind::SourceUnavailable,
                format!("role {role} may not migrate to {}", self.client.address().label()),
            )
            .hint(format!("as the owner or a superuser: GRANT {right} TO {}", identifier(&role)))),
        }
    }

    /// What is in the schema.
    pub(crate) fn occupied(&self, connection: &mut LoadingConnection) -> Result<Occupied> {
        let schema = literal(&self.schema);
        let of_extension = "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d \
                            WHERE d.objid = o.oid AND d.deptype = 'e')";
        let query = format!(
            "SELECT (SELECT count(*) FROM pg_catalog.pg_class AS o WHERE relnamespace = n.oid \
             AND {of_extension}) + (SELECT count(*) FROM pg_catalog.pg_proc AS o \
             WHERE pronamespace = n.oid AND {of_extension}) \
             FROM pg_catalog.pg_namespace AS n WHERE nspname = {schema}"
        );
        let rows = connection.rows(&query)?;
        Ok(match rows.first().and_then(|row| row.first()?.as_deref()) {
            None => Occupied::Absent,
            Some("0") => Occupied::Empty,
            Some(_) => Occupied::Full,
        })
    }

    /// Fails where the target holds something that nobody gave up.
    pub(crate) fn may_take(
        &self,
        connection: &mut LoadingConnection,
        replace: bool,
    ) -> Result<Occupied> {
        let occupied = self.occupied(connection)?;
        let schema = &self.schema;
        if occupied == Occupied::Empty {
            let name = literal(schema);
            let may = format!("has_schema_privilege({name}, 'CREATE')");
            let right = format!("'CREATE ON SCHEMA ' || quote_ident({name})");
            self.needs(connection, &may, &right)?;
        }
        if occupied != Occupied::Full {
            return Ok(occupied);
        }
        if !replace {
            return Err(Error::new(
                Kind::Refused,
                format!("schema {schema} of {} is not empty", self.client.address().label()),
            )
            .hint("name another database or --schema, or set it aside with --replace"));
        }
        let owner =
            format!("(SELECT nspowner FROM pg_namespace WHERE nspname = {})", literal(schema));
        let may = format!("pg_has_role({owner}, 'USAGE')");
        self.needs(connection, &may, &format!("{owner}::regrole::text"))?;
        let query = format!(
            "SELECT string_agg(extname, ', ') FROM pg_catalog.pg_extension \
             WHERE extnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {})",
            literal(schema)
        );
        let rows = connection.rows(&query)?;
        match rows.into_iter().flatten().flatten().next() {
            Some(names) => Err(Error::new(
                Kind::Refused,
                format!("schema {schema} cannot be set aside: extensions live in it: {names}"),
            )
            .hint("name another --schema")),
            None => Ok(occupied),
        }
    }
}

fn scratch_name(schema: &str) -> String {
    format!("{schema}{SCRATCH}")
}

/// The only value of the only row.
pub(crate) fn only_text(connection: &mut LoadingConnection, query: &str) -> Result<String> {
    let rows = connection.rows(query)?;
    rows.into_iter()
        .flatten()
        .flatten()
        .next()
        .ok_or_else(|| Error::new(Kind::Failed, format!("the server does not answer: {query}")))
}
