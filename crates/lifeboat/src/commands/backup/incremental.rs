//! `lifeboat backup --incremental`: what changed since the last run, in the log of the newest
//! backup.

use lifeboat_core::backup::BackupRequest;
use lifeboat_core::env::Env;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Kind, Result};
use lifeboat_sqlite::pagelog::{
    self, Increment, IncrementOutcome, IncrementPlan, IncrementRequest,
};
use serde_json::{Value, json};

use super::options_of_run;
use crate::repositories::Place;
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::units;

fn of_backup<'a>(request: &BackupRequest<'a>) -> IncrementRequest<'a> {
    IncrementRequest {
        source: request.source,
        identity: request.identity.clone(),
        options: request.options.clone(),
        lock_folder: request.lock_folder,
    }
}

/// What an increment would do. Nothing is created for it.
pub(super) fn plan(env: &Env, place: &Place, request: &BackupRequest<'_>) -> Result<IncrementPlan> {
    let repository = match place.open(env) {
        Ok(repository) => Some(repository),
        Err(error) if error.kind() == Kind::NoRepository => None,
        Err(error) => return Err(error),
    };
    pagelog::plan(env, repository.as_ref(), &place.url, &of_backup(request))
}

/// Adds to the log of the newest backup. `None` where a backup is needed: why has been said then.
pub(super) fn add(
    session: &Session,
    env: &Env,
    repository: &Repository,
    request: &BackupRequest<'_>,
) -> Result<Option<Value>> {
    let name = units::one_line(&request.identity.name);
    let increment = match pagelog::run(env, repository, &of_backup(request))? {
        IncrementOutcome::Added(increment) => increment,
        IncrementOutcome::BackupNeeded(why) => {
            session.progress.clear();
            let why = units::one_line(&why);
            session.printer.note(&format!("{name}: a backup is made instead: {why}"));
            return Ok(None);
        }
    };
    session.progress.clear();
    say(session, repository, &name, &increment);
    Ok(Some(json!({
        "source": request.identity.name,
        "repository": repository.url(),
        "outcome": "incremented",
        "folder": increment.folder,
        "backup": increment.base,
        "position": increment.position,
        "object": increment.object,
        "held": increment.held,
        "pages_changed": increment.pages.0,
        "pages": increment.pages.1,
        "stored_bytes": increment.stored_bytes,
        "plain_bytes": increment.plain_bytes,
        "checks": increment.checks,
        "elapsed_ms": increment.elapsed_ms,
        "restore": restore_command(session, &increment),
    })))
}

fn say(session: &Session, repository: &Repository, name: &str, increment: &Increment) {
    let printer = &session.printer;
    let good = printer.paint_err(Style::Good, "added");
    let Increment { base, position, .. } = increment;
    let (changed, pages) = increment.pages;
    let mut text = format!(
        "{good} {name} as {}+{position} in {}\n",
        units::one_line(base),
        units::duration(increment.elapsed_ms)
    );
    text.push_str(&format!("  where    {}/{}\n", repository.url(), increment.object));
    text.push_str(&format!(
        "  size     {} stored of {}: {} of {} pages changed\n",
        units::bytes(increment.stored_bytes),
        units::bytes(increment.plain_bytes),
        units::count(u64::from(changed)),
        units::count(u64::from(pages)),
    ));
    let checks: Vec<String> =
        increment.checks.iter().map(|check| check.replace('_', " ")).collect();
    let checks = match checks.is_empty() {
        true => "read back; the database itself was not checked".to_owned(),
        false => format!("read back, {} on pinned snapshot", checks.join(", ")),
    };
    text.push_str(&format!("  checked  {checks}\n"));
    text.push_str(&format!("  restore  {}", restore_command(session, increment)));
    printer.note(&text);
    for warning in &increment.warnings {
        printer.warning(name, warning);
    }
}

fn restore_command(session: &Session, increment: &Increment) -> String {
    let state = format!("{}+{}", increment.base, increment.position);
    format!("lifeboat restore {}{}", units::shell_word(&state), options_of_run(session))
}
