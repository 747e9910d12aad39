//! The end, in one transaction: views, triggers and sequences, then the new schema takes the place
//! of the old one. Until it is committed nobody sees anything of it.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::replication::LoadingConnection;
use lifeboat_postgres::{identifier, literal};

use crate::load::{LoadOptions, comment_statements, run_step};
use crate::plan::Plan;
use crate::schema::LeftOut;
use crate::server::{Occupied, REJECTS, Server};

/// Does it. The name of what was set aside, if anything was.
pub(crate) fn finish(
    env: &Env,
    server: &Server<'_>,
    control: &mut LoadingConnection,
    plan: &Plan,
    options: &LoadOptions,
    refused: &mut Vec<LeftOut>,
) -> Result<Option<String>> {
    // This commit is on the disk when it is answered, and with it all before it.
    control.execute("BEGIN; SET LOCAL synchronous_commit = on")?;
    let statements = &plan.statements;
    for step in statements.views.iter().chain(&statements.triggers) {
        env.proceed()?;
        refused.extend(run_step(control, step)?);
    }
    for sequence in statements.tables.iter().filter_map(|table| table.sequence.as_deref()) {
        control.execute(sequence)?;
    }
    for comment in comment_statements(plan, &plan.schema, &plan.names) {
        control.execute(&comment)?;
    }
    if plan.quarantined() == 0 {
        control.execute(&format!("DROP TABLE {}", identifier(REJECTS)))?;
    }
    let (scratch, schema) = (server.scratch(), identifier(&server.schema));
    let mut set_aside = None;
    match server.may_take(control, options.replace)? {
        Occupied::Absent => {
            control.execute(&format!("ALTER SCHEMA {scratch} RENAME TO {schema}"))?;
        }
        Occupied::Empty => move_into(control, &scratch, &schema)?,
        Occupied::Full => {
            let old = aside(env, &server.schema, control)?;
            control.execute(&format!("ALTER SCHEMA {schema} RENAME TO {}", identifier(&old)))?;
            control.execute(&format!("ALTER SCHEMA {scratch} RENAME TO {schema}"))?;
            if server.schema == "public" {
                control.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")?;
            }
            set_aside = Some(old);
        }
    }
    env.crash.pass("migrate.before_commit")?;
    control.execute("COMMIT")?;
    Ok(set_aside)
}

/// A free name for what is set aside.
fn aside(env: &Env, schema: &str, control: &mut LoadingConnection) -> Result<String> {
    let time = env.clock.now().strftime("%Y%m%d_%H%M%S").to_string();
    let wanted = format!("{schema}_before_migrate_{time}");
    let mut name = wanted.clone();
    let mut number = 1;
    loop {
        if name.len() > 63 {
            let message = format!("the name of schema {schema} is too long");
            return Err(Error::new(Kind::Usage, message));
        }
        let query = format!("SELECT count(*) FROM pg_namespace WHERE nspname = {}", literal(&name));
        if control.number(&query)? == 0 {
            return Ok(name);
        }
        number += 1;
        name = format!("{wanted}_{number}");
    }
}

/// Moves everything into a schema that is there and empty: its rights and extensions stay.
fn move_into(control: &mut LoadingConnection, scratch: &str, schema: &str) -> Result<()> {
    let rows = control.rows(&format!(
        "SELECT 'ALTER ' || CASE relkind WHEN 'v' THEN 'VIEW ' ELSE 'TABLE ' END \
         || oid::regclass::text FROM pg_catalog.pg_class \
         WHERE relnamespace = to_regnamespace({0}) AND relkind IN ('r', 'v') \
         UNION ALL SELECT 'ALTER FUNCTION ' || oid::regprocedure::text FROM pg_catalog.pg_proc \
         WHERE pronamespace = to_regnamespace({0})",
        literal(scratch)
    ))?;
    for statement in rows.into_iter().flatten().flatten() {
        control.execute(&format!("{statement} SET SCHEMA {schema}"))?;
    }
    control.execute(&format!("DROP SCHEMA {scratch}"))
}
