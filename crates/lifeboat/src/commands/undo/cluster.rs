//! `lifeboat undo` of a restore of a PostgreSQL cluster in place.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_postgres::recovery::undo::{ClusterUndo, undo, undo_plan};
use serde_json::json;

use super::Args;
use crate::session::Session;
use crate::ui::confirm::confirm;
use crate::ui::printer::Style;
use crate::ui::units;

/// Goes back to the data directory that was there before.
pub(super) fn run(session: &Session, env: &Env, args: &Args, place: &Path) -> Result<ExitCode> {
    let plan = undo_plan(env, place)?;
    if args.dry_run {
        match session.printer.json() {
            true => session.printer.json_data(&as_json("planned", &plan))?,
            false => session.printer.data(&plan_text(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !session.globals.yes {
        plan_text(&plan).lines().for_each(|line| session.printer.line(line));
        let name = plan.data.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let question = format!("undoing the restore of {}", shown(&plan.data));
        confirm(&session.surroundings, &session.printer, &question, &name)?;
    }
    undo(env, &plan)?;
    if session.printer.json() {
        session.printer.json_data(&as_json("undone", &plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    let good = session.printer.paint_err(Style::Good, "undone");
    let (data, aside) = (shown(&plan.data), shown(&plan.aside));
    session.printer.note(&format!("{good}: {data} is what it was\n  kept     {aside}"));
    Ok(ExitCode::SUCCESS)
}

fn plan_text(plan: &ClusterUndo) -> String {
    let (data, kept, aside) = (shown(&plan.data), shown(&plan.kept), shown(&plan.aside));
    let mut text = format!("plan for {data}:\n");
    text.push_str(&format!("  1. exchange it with {kept}\n  2. keep what is there as {aside}\n"));
    if let Some(process) = plan.running {
        text.push_str(&format!("  a server (process {process}) runs there: stop it first\n"));
    }
    text
}

fn as_json(outcome: &str, plan: &ClusterUndo) -> serde_json::Value {
    json!({
        "outcome": outcome,
        "place": plan.data,
        "brings_back": plan.kept,
        "kept_aside": plan.aside,
    })
}

fn shown(path: &Path) -> String {
    units::one_line(&path.to_string_lossy())
}
