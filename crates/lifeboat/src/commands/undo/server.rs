//! `lifeboat undo` on a server: the database that the last restore kept takes its name again.

use std::process::ExitCode;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_postgres::restore::{UndoPlan, undo, undo_plan};
use serde_json::{Value, json};

use super::Args;
use crate::postgres::Database;
use crate::session::Session;
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;

/// Goes back.
pub(super) fn run(
    session: &Session,
    env: &Env,
    args: &Args,
    database: &Database,
) -> Result<ExitCode> {
    let client = database.client()?;
    let plan = undo_plan(env, &client)?;
    if args.dry_run {
        match session.printer.json() {
            true => session.printer.json_data(&as_json("planned", &plan, None))?,
            false => session.printer.data(&plan_text(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        plan_text(&plan).lines().for_each(|line| session.printer.line(line));
        let question = format!("undoing the restore of {}", units::one_line(&plan.database));
        confirm(&session.surroundings, &session.printer, &question, &plan.database)?;
    }
    let ended = undo(env, &client, &plan)?;
    if session.printer.json() {
        session.printer.json_data(&as_json("undone", &plan, Some(ended)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let good = session.printer.paint_err(Style::Good, "undone");
    let mut text = format!("{good}: {} is what it was", units::one_line(&plan.database));
    if let Some(present_as) = &plan.present_as {
        text.push_str(&format!("\n  kept     {}", units::one_line(present_as)));
    }
    session.printer.note(&text);
    Ok(ExitCode::SUCCESS)
}

fn plan_text(plan: &UndoPlan) -> String {
    let mut text = format!("plan for {}:\n", units::one_line(&plan.database));
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", index + 1, units::one_line(step)));
    }
    text
}

fn as_json(outcome: &str, plan: &UndoPlan, sessions_ended: Option<u64>) -> Value {
    json!({
        "outcome": outcome,
        "database": plan.database,
        "steps": plan.steps,
        "kept_as": plan.present_as,
        "sessions_ended": sessions_ended,
    })
}
