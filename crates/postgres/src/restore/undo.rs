//! Undo: the database that the last restore kept takes its name again, or the schemas do.

use lifeboat_core::env::Env;
use lifeboat_core::moment::date_and_time;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use crate::client::Client;
use crate::quote::literal;
use crate::session::Session;

use super::in_place;
use super::plan::short_name;
use super::swap::rename;

/// What an undo would do.
#[derive(Clone, Debug)]
pub struct UndoPlan {
    /// The database.
    pub database: String,
    /// What the last restore kept, and what takes the name again.
    pub kept: String,
    /// The name that the present database gets, if it is there.
    pub present_as: Option<String>,
    /// The steps, a line each.
    pub steps: Vec<String>,
    /// The kept schemas, and their names before, where the restore was within the database.
    schemas: Vec<(String, String)>,
}

/// Finds what the last restore of that database kept.
pub fn undo_plan(env: &Env, target: &Client) -> Result<UndoPlan> {
    let Some(database) = target.address().database().map(str::to_owned) else {
        return Err(Error::new(Kind::Usage, "the address names no database"));
    };
    let mut session = Session::open(&maintenance(target)?, "cannot look for kept databases")?;
    let rows = session.rows("SELECT datname FROM pg_catalog.pg_database")?;
    let names = rows.iter().filter_map(|row| row.get("datname").and_then(Value::as_str));
    let names: Vec<&str> = names.collect();
    // The time in the name has a fixed length, and a long name was cut before it.
    let sample = short_name(&database, "_before_restore_00000000_000000");
    let stem = &sample[..sample.len() - "00000000_000000".len()];
    let kept = names
        .iter()
        .filter(|name| {
            name.strip_prefix(stem).is_some_and(|time| {
                time.len() == 15 && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
            })
        })
        .max();
    let within = match names.contains(&database.as_str()) {
        true => in_place::kept(target)?,
        false => None,
    };
    let is_newer = |time: &str| kept.is_none_or(|kept| &kept[stem.len()..] < time);
    if let Some((_, schemas)) = within.filter(|(time, _)| is_newer(time)) {
        return Ok(of_schemas(env, database, schemas));
    }
    let Some(kept) = kept else {
        return Err(Error::new(
            Kind::NotCovered,
            format!("there is no database {stem}TIME to go back to"),
        )
        .hint("nothing was restored there, or what was kept has been removed: lifeboat list"));
    };
    let (date, time) = date_and_time(env.clock.now());
    let present = names.contains(&database.as_str());
    let present_as = present.then(|| short_name(&database, &format!("_before_undo_{date}_{time}")));
    let mut steps = Vec::new();
    if let Some(present_as) = &present_as {
        let sessions = session.row(&format!(
            "SELECT count(*) AS count FROM pg_catalog.pg_stat_activity WHERE datname = {}",
            literal(&database)
        ))?;
        let count = sessions.get("count").and_then(Value::as_u64).unwrap_or(0);
        steps.push(format!("rename {database} to {present_as}, ending its {count} sessions"));
    }
    steps.push(format!("rename {kept} to {database}"));
    Ok(UndoPlan { kept: (*kept).to_owned(), database, present_as, steps, schemas: Vec::new() })
}

fn of_schemas(env: &Env, database: String, schemas: Vec<(String, String)>) -> UndoPlan {
    let ending = undo_ending(env);
    let step = |(kept, name): &(String, String)| {
        format!(
            "in one transaction of {database}: rename the schema {name} to {}, and {kept} to {name}",
            short_name(name, &ending)
        )
    };
    let kept: Vec<&str> = schemas.iter().map(|(kept, _)| kept.as_str()).collect();
    let present: Vec<String> = schemas.iter().map(|(_, name)| short_name(name, &ending)).collect();
    UndoPlan {
        kept: kept.join(", "),
        present_as: Some(present.join(", ")),
        steps: schemas.iter().map(step).collect(),
        database,
        schemas,
    }
}

fn undo_ending(env: &Env) -> String {
    let (date, time) = date_and_time(env.clock.now());
    format!("_before_undo_{date}_{time}")
}

/// Carries out an undo. Gives back how many sessions were ended.
pub fn undo(env: &Env, target: &Client, plan: &UndoPlan) -> Result<u64> {
    if !plan.schemas.is_empty() {
        return in_place::go_back(target, &plan.schemas, &undo_ending(env)).map(|()| 0);
    }
    let mut renames = Vec::new();
    if let Some(present_as) = &plan.present_as {
        renames.push((plan.database.as_str(), present_as.as_str()));
    }
    renames.push((plan.kept.as_str(), plan.database.as_str()));
    rename(env, &maintenance(target)?, &renames, None)
}

/// Not the database itself: a session in it would stand in its own way.
fn maintenance(target: &Client) -> Result<Client> {
    let name = match target.address().database() {
        Some("postgres") => "template1",
        _ => "postgres",
    };
    target.with_database(name)
}
