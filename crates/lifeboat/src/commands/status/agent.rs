//! What the running agent adds to the status: what runs next, and what runs now.

use std::collections::BTreeMap;

use crate::control::{self, AgentState};
use crate::session::Session;
use crate::ui::units;

/// When the next backup of each source is, as a cell of the table; empty where no agent runs.
pub(super) fn next(session: &Session) -> BTreeMap<String, String> {
    let Some(state) = state(session) else { return BTreeMap::new() };
    let zone = &session.surroundings.time_zone;
    let jobs = state.jobs.iter().filter_map(|job| {
        let source = job.name.strip_prefix("backup-")?;
        let next = match job.is_running {
            true => "runs now".to_owned(),
            false => units::moment(job.next?, zone),
        };
        Some((source.to_owned(), next))
    });
    jobs.collect()
}

/// Says what the agent does now, where one runs.
pub(super) fn tell(session: &Session) {
    let Some(state) = state(session) else { return };
    for run in state.runs.iter().filter(|run| run.ended.is_none()) {
        session.printer.note(&format!("running {}", crate::commands::agent::line(run)));
    }
    if let Some(until) = state.paused_until {
        let until = units::moment(until, &session.surroundings.time_zone);
        session.printer.warning(
            "",
            &format!("the agent begins nothing before {until}: lifeboat agent resume"),
        );
    }
}

/// What it does. That it does not answer is no reason for a status to fail.
fn state(session: &Session) -> Option<AgentState> {
    let path = control::path(session)?;
    control::state(&path).inspect_err(|error| session.printer.detail(&error.to_string())).ok()?
}
