//! A PostgreSQL database as a source.

use std::sync::{Arc, Mutex};

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Method;
use lifeboat_core::source::{Capture, CaptureOptions, Inspection, Source};
use lifeboat_core::{Error, Kind, Result};

use crate::capture::DumpCapture;
use crate::client::Client;
use crate::facts::ServerFacts;
use crate::moment::{Held, MomentGroup, hold, hold_with};
use crate::session::Session;

/// The kind of these sources.
pub const KIND: &str = "postgres";

/// How a dump is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DumpFormat {
    /// The archive of `pg_dump -Fc`, uncompressed inside: `zstd -d | pg_restore` reads it.
    #[default]
    Custom,
    /// SQL text: `zstd -d | psql` reads it.
    Plain,
}

/// What of a database is dumped. Patterns are those of `pg_dump`; none means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these schemas.
    pub schemas: Vec<String>,
    /// Not these schemas.
    pub exclude_schemas: Vec<String>,
    /// Only these tables.
    pub tables: Vec<String>,
    /// Not these tables.
    pub exclude_tables: Vec<String>,
    /// These tables without their rows.
    pub exclude_table_data: Vec<String>,
}

impl Selection {
    /// Whether everything is dumped.
    pub fn is_everything(&self) -> bool {
        *self == Selection::default()
    }

    /// The options of `pg_dump`.
    pub(crate) fn options(&self) -> Vec<String> {
        let lists = [
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--exclude-table-data", &self.exclude_table_data),
        ];
        let one = |(option, patterns): (&str, &Vec<String>)| {
            patterns.iter().map(|pattern| format!("{option}={pattern}")).collect::<Vec<_>>()
        };
        let mut options: Vec<String> = lists.into_iter().flat_map(one).collect();
        if !self.schemas.is_empty() || !self.tables.is_empty() {
            // A pattern that matches nothing is a mistake, not an empty backup.
            options.push("--strict-names".to_owned());
        }
        options
    }
}

/// One database of a server.
pub struct PostgresSource {
    /// How it is reached.
    pub client: Client,
    /// How it is dumped.
    pub format: DumpFormat,
    /// What of it is dumped.
    pub selection: Selection,
    held: Mutex<Option<(Held, Arc<MomentGroup>)>>,
}

impl PostgresSource {
    /// A database as a source.
    pub fn new(client: Client, format: DumpFormat, selection: Selection) -> Self {
        PostgresSource { client, format, selection, held: Mutex::new(None) }
    }

    /// Takes hold of the moment that the next capture shows, together with others of a group. All
    /// of them must be held before the first capture begins.
    pub fn hold(&self, env: &Env, group: &Arc<MomentGroup>) -> Result<()> {
        let held = hold_with(env, &self.client, &self.attempt(), group)?;
        let mut place = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *place = Some((held, Arc::clone(group)));
        Ok(())
    }

    /// What is held, or the present moment.
    pub(crate) fn moment(&self, env: &Env) -> Result<(Held, Option<Arc<MomentGroup>>)> {
        let held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match held {
            Some((held, group)) => Ok((held, Some(group))),
            None => Ok((hold(env, &self.client, &self.attempt())?, None)),
        }
    }

    /// What is tried, for errors.
    pub(crate) fn attempt(&self) -> String {
        format!("cannot read the PostgreSQL database {}", self.client.address().label())
    }
}

impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn location(&self) -> Result<String> {
        Ok(self.client.address().label())
    }

    fn inspect(&self) -> Result<Inspection> {
        let mut session = Session::open(&self.client, &self.attempt())?;
        let facts = ServerFacts::read(&mut session)?;
        self.client.program("pg_dump", Some(facts.major))?;
        Ok(Inspection {
            plain_bytes: facts.database_bytes,
            description: format!(
                "PostgreSQL {}, database {}, {} bytes on disk",
                facts.version, facts.database, facts.database_bytes
            ),
        })
    }

    fn capture<'a>(
        &'a self,
        env: &'a Env,
        options: &CaptureOptions,
    ) -> Result<Box<dyn Capture + 'a>> {
        if options.method != Method::Online {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{} is dumped while it runs: the other methods are for files",
                    self.location()?
                ),
            )
            .hint("leave `method` away, or write method = \"online\""));
        }
        Ok(Box::new(DumpCapture::begin(env, self, options.check)?))
    }
}
