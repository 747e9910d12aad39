//! PostgreSQL: programs that fit the server, a connection, and the rights that a dump and a
//! restore need.

use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::{Client, Rights, ServerFacts, Session, ThrowAwayCluster};

use super::{Finding, Subject};
use crate::postgres::Database;

/// What a backup runs, and what a restore does.
const PROGRAMS: &[&str] = &["pg_dump", "pg_dumpall", "pg_restore"];

pub(super) fn servers(subject: &Subject<'_>) -> Vec<Finding> {
    let databases = subject.targets.iter().filter_map(|target| {
        target.database.as_ref().map(|database| (target.name.as_str(), database))
    });
    databases.flat_map(|(name, database)| one(name, database)).collect()
}

fn one(name: &str, database: &Database) -> Vec<Finding> {
    let (client, facts, rights) = match connect(database) {
        Ok(connected) => connected,
        Err(error) => return vec![Finding::bad("connection", name, &error)],
    };
    let mut findings = vec![Finding::good(
        "connection",
        name,
        format!("{} as {}, PostgreSQL {}", database.address().label(), rights.role, facts.version),
    )];
    findings.push(programs(name, &client, facts.major));
    findings.push(tables(name, database, &facts.database, &rights));
    findings.push(role_passwords(name, &rights));
    findings.push(restore(name, &rights));
    findings.push(server_programs(name, database, facts.major));
    findings
}

fn connect(database: &Database) -> Result<(Client, ServerFacts, Rights)> {
    let client = database.client()?;
    let what = format!("cannot connect to {}", database.address().label());
    let mut session = Session::open(&client, &what)?;
    let facts = ServerFacts::read(&mut session)?;
    let rights = Rights::read(&mut session)?;
    Ok((client, facts, rights))
}

fn programs(name: &str, client: &Client, major: u32) -> Finding {
    let found: Result<Vec<String>> = PROGRAMS
        .iter()
        .map(|program| {
            let found = client.program(program, Some(major))?;
            Ok(format!("{program} {}", found.version))
        })
        .collect();
    Finding::of("client programs", name, found.map(|found| found.join(", ")))
}

/// A dump fails at the first table that it may not read.
fn tables(name: &str, database: &Database, in_database: &str, rights: &Rights) -> Finding {
    const CHECK: &str = "rights";
    let role = lifeboat_postgres::identifier(&rights.role);
    let mut wrong = Vec::new();
    let mut hint = format!("as a superuser: GRANT pg_read_all_data TO {role}");
    if !rights.unreadable.is_empty() {
        let named = rights.unreadable.join(", ");
        let more = match rights.unreadable_count - rights.unreadable.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        wrong.push(format!("{} may not read {named}{more}", rights.role));
    }
    if rights.unreadable_large_objects > 0 {
        let count = rights.unreadable_large_objects;
        wrong.push(format!("{} may not read {count} large objects", rights.role));
        if rights.unreadable.is_empty() {
            let owner = lifeboat_postgres::identifier(&rights.owner);
            hint = format!("as a superuser: GRANT {owner} TO {role}");
        }
    }
    if !rights.row_security.is_empty() {
        let named = rights.row_security.join(", ");
        wrong.push(format!("row security would hide rows of {named} from {}", rights.role));
        if wrong.len() == 1 {
            hint = format!("as a superuser: ALTER ROLE {role} BYPASSRLS");
        } else {
            hint.push_str(&format!("; ALTER ROLE {role} BYPASSRLS"));
        }
    }
    if wrong.is_empty() {
        return Finding::good(
            CHECK,
            name,
            format!("{} may read all of {in_database}", rights.role),
        );
    }
    let error = Error::new(Kind::SourceUnavailable, wrong.join("; ")).hint(hint);
    let finding = Finding::bad(CHECK, name, &error);
    // What is not dumped need not be readable; only the server knows what the patterns match.
    match database.selection().is_everything() {
        true => finding,
        false => finding.at_most_a_warning(),
    }
}

fn role_passwords(name: &str, rights: &Rights) -> Finding {
    const CHECK: &str = "role passwords";
    match rights.role_passwords {
        true => Finding::good(CHECK, name, "they will be in the backup, with the roles"),
        false => {
            let role = &rights.role;
            let message = format!(
                "{role} may not read them: after a restore on a new server each role with a \
                 password needs a new one"
            );
            let role = lifeboat_postgres::identifier(role);
            let hint = format!(
                "as a superuser: GRANT SELECT ON pg_catalog.pg_authid TO {role}, in each database; \
                 or keep them elsewhere"
            );
            Finding::warning(CHECK, name, message, hint)
        }
    }
}

/// A restore makes a new database, and swaps it in by name.
fn restore(name: &str, rights: &Rights) -> Finding {
    const CHECK: &str = "restore";
    let (role, owner) = (&rights.role, &rights.owner);
    let mut missing = Vec::new();
    if !rights.creates_databases {
        missing.push("make databases".to_owned());
    }
    if !rights.renames_database {
        missing.push(format!("rename that of {owner}"));
    }
    if missing.is_empty() {
        return Finding::good(CHECK, name, format!("{role} may make and rename databases"));
    }
    let message = format!("{role} may not {}: a restore needs another role", missing.join(" or "));
    let word = lifeboat_postgres::identifier;
    let hint = match rights.creates_databases {
        true => format!("as a superuser: GRANT {} TO {}", word(owner), word(role)),
        false => format!(
            "as a superuser: ALTER ROLE {} CREATEDB; or restore as another role",
            word(role)
        ),
    };
    Finding::warning(CHECK, name, message, hint)
}

/// A full check loads the dump into a cluster of this host.
fn server_programs(name: &str, database: &Database, major: u32) -> Finding {
    const CHECK: &str = "full check";
    match ThrowAwayCluster::major_for(database.options(), major) {
        Ok(Some(found)) => {
            Finding::good(CHECK, name, format!("loads dumps into a throw-away cluster of {found}"))
        }
        Ok(None) => Finding::warning(
            CHECK,
            name,
            format!("no server programs of {major} or newer: `verify --level full` stays partial"),
            format!("apt-get install postgresql-{major}"),
        ),
        Err(error) => Finding::bad(CHECK, name, &error).at_most_a_warning(),
    }
}
