//! Compares again, whenever it is asked: each table that was migrated, by what was agreed then.

use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Client, identifier, literal};
use lifeboat_sqlite::Moment;

use crate::compare;
use crate::layout::Layout;
use crate::plan::on_all;
use crate::read;
use crate::report::{TableVerified, Verified};
use crate::server::{RECORD, REJECTS, Server};

/// Whether a schema holds all that a migration brings.
pub fn is_finished(env: &Env, client: &Client, schema: &str) -> Result<bool> {
    let record = literal(&format!("{}.{}", identifier(schema), identifier(RECORD)));
    let server = Server::of_schema(env, client, schema);
    server.with(|connection| {
        let is_there = format!("SELECT to_regclass({record}) IS NOT NULL");
        Ok(crate::server::only_text(connection, &is_there)? == "t")
    })
}

/// Compares all tables. Differences are in the result, not an error.
pub fn verify(env: &Env, moment: &mut Moment, client: &Client, schema: &str) -> Result<Verified> {
    let server = Server::of_schema(env, client, schema);
    let record = format!("{}.{}", identifier(schema), identifier(RECORD));
    let layouts = server.with(|connection| {
        let is_there = format!("SELECT to_regclass({}) IS NOT NULL", literal(&record));
        if crate::server::only_text(connection, &is_there)? != "t" {
            let message = format!("schema {schema} was not migrated by lifeboat");
            return Err(Error::new(Kind::Usage, message).hint(format!("{RECORD} is not in it")));
        }
        connection.rows(&format!("SELECT layout FROM {record} ORDER BY table_name"))
    })?;
    let layouts = layouts.into_iter().flatten().flatten().map(|text| {
        serde_json::from_str::<Layout>(&text).map_err(|error| {
            Error::new(Kind::CheckFailed, format!("{RECORD} cannot be read")).caused_by(error)
        })
    });
    let layouts: Vec<Layout> = layouts.collect::<Result<_>>()?;
    let tables = read::read(moment.reader()).map_err(|error| {
        Error::new(Kind::SourceUnavailable, "cannot read the schema").caused_by(error)
    })?;
    let phase = "comparing";
    env.tell(Event::PhaseBegan { subject: schema, phase, bytes_total: None });
    let verified = on_all(moment.readers_mut(), &layouts, |reader, layout| {
        let Some(table) = tables.table(&layout.table) else {
            let mut gone = TableVerified::of(layout);
            gone.problem = Some("it is not in the SQLite database".into());
            return Ok(gone);
        };
        let mut done = TableVerified::of(layout);
        let here = compare::digest_of_sqlite(env, reader, (table, layout), |_, _| Ok(()));
        let (here, aside) = match here {
            Ok(here) => here,
            Err(error) if error.kind() == Kind::CheckFailed => {
                done.problem = Some(error.message().to_owned());
                return Ok(done);
            }
            Err(error) => return Err(error),
        };
        server.with(|connection| {
            let there = compare::digest_of_server(env, connection, layout, |_, _| Ok(()))?;
            (done.rows, done.rows_there, done.aside) = (here.rows, there.rows, aside);
            (done.digest, done.digest_there) = (here.text(), there.text());
            if aside > 0 {
                let query = format!(
                    "SELECT count(DISTINCT row_name) FROM {} WHERE table_name = {}",
                    identifier(REJECTS),
                    literal(&layout.table)
                );
                let kept = connection.number(&query)?;
                if kept != aside {
                    done.problem = Some(format!("{aside} rows were put aside, {kept} are there"));
                }
            }
            if here != there {
                done.differences =
                    Some(compare::differences(env, reader, connection, table, layout)?);
            }
            Ok(())
        })?;
        Ok(done)
    })?;
    env.tell(Event::PhaseEnded { phase });
    Ok(Verified { tables: verified })
}
