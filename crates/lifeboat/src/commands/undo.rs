//! `lifeboat undo`: back to what was there before the last restore.

mod cluster;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::restore::{self, UndoPlan, UndoRequest};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::Address;
use lifeboat_postgres::recovery::undo;
use lifeboat_sqlite::SqliteEngine;
use serde_json::json;

use crate::postgres::{self, Database};
use crate::repositories;
use crate::selection;
use crate::session::Session;
use crate::sources::{self, Target};
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;

/// Go back to what was there before the last restore
///
/// What is there now is kept beside it under the name NAME.before_undo.TIME.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of a source, the path of a database, or its URL
    #[arg(value_name = "SOURCE|PATH|URL")]
    what: String,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let target = selection::target_of(session, &args.what)?;
    if let Some(database) = database(session, &env, &args.what, target.as_ref())? {
        return server::run(session, &env, &args, &database);
    }
    let place = match target.as_ref().and_then(|target| target.path.clone()) {
        Some(path) => path,
        None => place(session, &env, &args.what)?,
    };
    if undo::is_data_folder(&place) {
        return cluster::run(session, &env, &args, &place);
    }
    let request = UndoRequest {
        place,
        engine: &SqliteEngine,
        service: target.as_ref().and_then(|target| target.service.as_ref()),
    };
    let plan = restore::undo_plan(&env, &request)?;
    if args.dry_run {
        match session.printer.json() {
            true => session.printer.json_data(&as_json("planned", &plan, &[]))?,
            false => session.printer.data(&plan_text(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        for line in plan_text(&plan).lines() {
            session.printer.line(line);
        }
        let name = target
            .as_ref()
            .map_or_else(|| sources::name_of(&plan.place), |target| target.name.clone());
        let question = format!("undoing the restore of {name}");
        confirm(&session.surroundings, &session.printer, &question, &name)?;
    }
    let kept = restore::undo(&env, &request, &plan)?;
    if session.printer.json() {
        session.printer.json_data(&as_json("undone", &plan, &kept))?;
        return Ok(ExitCode::SUCCESS);
    }
    let good = session.printer.paint_err(Style::Good, "undone");
    let mut text = format!("{good}: {} is what it was", shown(&plan.place));
    for kept in &kept {
        text.push_str(&format!("\n  kept     {}", shown(kept)));
    }
    session.printer.note(&text);
    Ok(ExitCode::SUCCESS)
}

/// The database of a server that is meant, if it is one.
fn database(
    session: &Session,
    env: &Env,
    what: &str,
    target: Option<&Target>,
) -> Result<Option<Database>> {
    if let Some(target) = target {
        let database = target.database.as_ref();
        return match postgres::is_address(what) {
            true => {
                let typed = postgres::typed(what)?;
                Ok(database.map(|database| database.as_typed(&typed)))
            }
            false => Ok(database.cloned()),
        };
    }
    if what.contains('/') || Path::new(what).exists() {
        return Ok(None);
    }
    let (opened, _) = repositories::open_all(session, env)?;
    let found = selection::entries(session, env, &opened, what).unwrap_or_default();
    let found = found.iter().find(|found| found.entry.record.kind == postgres::KIND);
    match found {
        Some(found) => Address::parse(&found.entry.record.location).map(Database::at).map(Some),
        None => Ok(None),
    }
}

/// The place of a database that nobody configured: its path, or what a repository says of it.
fn place(session: &Session, env: &Env, what: &str) -> Result<PathBuf> {
    let path = Path::new(what);
    if what.contains('/') || path.exists() {
        return Ok(path.to_owned());
    }
    let (opened, _) = repositories::open_all(session, env)?;
    let found = selection::entries(session, env, &opened, what)?;
    let database = found.iter().find(|found| found.entry.record.kind == lifeboat_sqlite::KIND);
    database.map(|found| PathBuf::from(&found.entry.record.location)).ok_or_else(|| {
        Error::new(Kind::Usage, format!("`{what}` is no database: only those can be undone"))
            .hint("name the path of a database")
    })
}

fn shown(path: &Path) -> String {
    units::one_line(&path.to_string_lossy())
}

fn plan_text(plan: &UndoPlan) -> String {
    let mut text = format!("plan for {}:\n", shown(&plan.place));
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", index + 1, units::one_line(step)));
    }
    text
}

fn as_json(outcome: &str, plan: &UndoPlan, kept: &[PathBuf]) -> serde_json::Value {
    json!({ "outcome": outcome, "place": plan.place, "steps": plan.steps, "kept_aside": kept })
}
