//! Foreign keys: each is made as soon as both of its tables are finished, while others are still
//! worked at. The server looks at all rows itself.

use std::sync::{Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{identifier, literal};

use crate::load::run_step;
use crate::mapping::Orphans;
use crate::schema::LeftOut;
use crate::server::{Server, only_text};
use crate::statements::Step;

/// What a key ends with whose rows are not looked at.
pub(crate) const NOT_VALID: &str = " NOT VALID";

/// Makes the keys of tables.
pub(crate) struct Maker<'a> {
    pub(crate) env: &'a Env,
    pub(crate) server: &'a Server<'a>,
    pub(crate) orphans: Orphans,
    /// To make one takes a lock of both tables: of two that refer to each other one would wait for
    /// the other's. To look at the rows takes none that is in the way of another.
    pub(crate) one_at_a_time: Mutex<()>,
}

impl Maker<'_> {
    /// Makes the keys of one table, by its name on the server. Gives what the server refuses of
    /// them, where that is no error.
    pub(crate) fn make(&self, table: &str, steps: &[Step]) -> Result<Vec<LeftOut>> {
        let mut refused = Vec::new();
        self.server.with(|connection| {
            for step in steps {
                self.env.proceed()?;
                let name = self.add(connection, table, step)?;
                if !step.sql.ends_with(NOT_VALID) {
                    refused.extend(self.validate(connection, (table, &name), step)?);
                }
            }
            Ok(refused)
        })
    }

    /// Makes a key, and looks at no row. Its name.
    fn add(&self, connection: &mut LoadingConnection, table: &str, step: &Step) -> Result<String> {
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = format!("{}{NOT_VALID}", step.sql.trim_end_matches(NOT_VALID));
        run_step(connection, &Step { sql, ..step.clone() })?;
        let newest = format!(
            "SELECT conname FROM pg_catalog.pg_constraint WHERE contype = 'f' \
             AND conrelid = to_regclass({}) ORDER BY oid DESC LIMIT 1",
            literal(&identifier(table))
        );
        only_text(connection, &newest)
    }

    /// Lets the server look at all rows. Rows that were put aside may be those that others refer
    /// to: then the key stays NOT VALID, where that was asked for.
    fn validate(
        &self,
        connection: &mut LoadingConnection,
        (table, name): (&str, &str),
        step: &Step,
    ) -> Result<Option<LeftOut>> {
        let sql =
            format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", identifier(table), identifier(name));
        match connection.execute(&sql) {
            Ok(()) => Ok(None),
            Err(error) if [Kind::Interrupted, Kind::Terminated].contains(&error.kind()) => {
                Err(error)
            }
            Err(error) if self.orphans == Orphans::Refuse => Err(explained(error, step)),
            Err(error) => Ok(Some(LeftOut {
                what: step.what.clone(),
                why: format!("it is there, NOT VALID: PostgreSQL refuses it: {}", error.message()),
                sql: step.original.clone(),
            })),
        }
    }
}

fn explained(error: Error, step: &Step) -> Error {
    let hint = "--orphans not-valid loads the rows, and the key NOT VALID";
    error.context(step.what.clone()).hint(hint)
}

/// Drops those that an earlier run made.
pub(crate) fn drop_all(connection: &mut LoadingConnection, scratch: &str) -> Result<()> {
    let made = connection.rows(&format!(
        "SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || quote_ident(conname) \
         FROM pg_catalog.pg_constraint WHERE contype = 'f' \
         AND connamespace = to_regnamespace({})",
        literal(scratch)
    ))?;
    made.into_iter().flatten().flatten().try_for_each(|statement| connection.execute(&statement))
}
