//! What is said of a restore of a cluster.

use lifeboat_core::Result;
use lifeboat_postgres::recovery::log_state::LogState;
use lifeboat_postgres::recovery::plan::{Action, ClusterPlan, ClusterRequest};
use lifeboat_postgres::recovery::restore::ClusterOutcome;
use lifeboat_postgres::recovery::reuse::Kept;
use lifeboat_postgres::recovery::target::Timeline;
use lifeboat_postgres::replication::Lsn;
use serde_json::json;

use super::shown;
use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::units;

/// A plan, and what it is about.
pub(in crate::commands::restore) struct Planned<'a> {
    pub(in crate::commands::restore) request: &'a ClusterRequest<'a>,
    pub(in crate::commands::restore) plan: &'a ClusterPlan,
    pub(in crate::commands::restore) log: &'a LogState,
    /// What of a directory that is there is right.
    pub(in crate::commands::restore) kept: Option<&'a Kept>,
}

impl Planned<'_> {
    /// For people.
    pub(in crate::commands::restore) fn text(&self) -> String {
        let mut text = plan_text(self.request, self.plan, self.log);
        if let Some(kept) = self.kept {
            let (count, bytes) = (kept.count(), units::bytes(kept.bytes));
            let (missing, missing_bytes) = (kept.missing.0, units::bytes(kept.missing.1));
            text.push_str(&format!(
                "  there: {count} files ({bytes}) are right and stay, {missing} ({missing_bytes}) \
                 are made anew\n"
            ));
        }
        text
    }

    /// On standard output.
    pub(in crate::commands::restore) fn print(&self, session: &Session) -> Result<()> {
        match session.printer.json() {
            true => session.printer.json_data(&self.as_json()),
            false => session.printer.data(&self.text()),
        }
    }
}

fn plan_text(request: &ClusterRequest<'_>, plan: &ClusterPlan, log: &LogState) -> String {
    let (what, target) = (units::one_line(&plan.what), request.target.words());
    let mut text = format!("plan for {what}, to {target}:\n");
    for (index, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", index + 1, units::one_line(step)));
    }
    if let Timeline::Number(number) = request.timeline {
        text.push_str(&format!("  timeline: {number}\n"));
    }
    for one in log.covered() {
        let (from, to) = (Lsn(one.from), Lsn(one.to));
        text.push_str(&format!("  log: {from} to {to} of the timeline {}\n", one.branch));
    }
    if let Some(process) = plan.running {
        text.push_str(&format!("  a server (process {process}) runs there now\n"));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  warning: {}\n", units::one_line(warning)));
    }
    text
}

impl Planned<'_> {
    pub(in crate::commands::restore) fn as_json(&self) -> serde_json::Value {
        let Planned { request, plan, log, kept } = self;
        let covered = log.covered();
        json!({
            "outcome": "planned",
            "what": plan.what,
            "target": request.target.words(),
            "place": plan.to,
            "in_place": request.in_place,
            "kept_aside": plan.kept_as,
            "tablespaces": plan.place.tablespaces.iter()
                .map(|(oid, place)| json!({ "oid": oid, "place": place }))
                .collect::<Vec<_>>(),
            "plain_bytes": plan.bytes,
            "log": covered.iter()
                .map(|one| json!({
                    "timeline": one.branch,
                    "from": Lsn(one.from).to_string(),
                    "to": Lsn(one.to).to_string(),
                }))
                .collect::<Vec<_>>(),
            "kept_files": kept.map(Kept::count),
            "kept_bytes": kept.map(|kept| kept.bytes),
            "steps": plan.steps,
            "warnings": plan.warnings,
        })
    }
}

pub(in crate::commands::restore) fn outcome(
    session: &Session,
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
    outcome: &ClusterOutcome,
) -> Result<()> {
    warn(session, plan, outcome);
    if session.printer.json() {
        let undo = undo(plan);
        return session.printer.json_data(&as_json(request, plan, outcome, undo.as_deref()));
    }
    text(session, request, plan, outcome);
    Ok(())
}

pub(in crate::commands::restore) fn warn(
    session: &Session,
    plan: &ClusterPlan,
    outcome: &ClusterOutcome,
) {
    for warning in &outcome.warnings {
        session.printer.warning(&units::one_line(&plan.what), warning);
    }
}

/// The command that goes back to what was there.
fn undo(plan: &ClusterPlan) -> Option<String> {
    let place = units::shell_word(&plan.to.to_string_lossy());
    plan.kept_as.as_ref().map(|_| format!("lifeboat undo {place}"))
}

/// What was done, for people.
pub(in crate::commands::restore) fn text(
    session: &Session,
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
    outcome: &ClusterOutcome,
) {
    let printer = &session.printer;
    let undo = undo(plan);
    let good = printer.paint_err(Style::Good, "restored");
    let took = units::duration(outcome.elapsed_ms);
    let mut text = format!("{good} {} in {took}", units::one_line(&plan.what));
    let mut line = |name: &str, value: &str| {
        text.push_str(&format!("\n  {name:<8} {}", units::one_line(value)));
    };
    line("where", &shown(&plan.to));
    for (oid, place) in &plan.place.tablespaces {
        line("space", &format!("{oid} in {}", shown(place)));
    }
    if let Some((count, bytes)) = outcome.kept {
        line("stayed", &format!("{count} files, {}", units::bytes(bytes)));
    }
    line("moment", &moment(request, outcome));
    line("checked", &checked(outcome));
    if let Some(check) = outcome.check.as_ref().filter(|check| !check.unlogged.is_empty()) {
        line("empty", &format!("{} (not logged)", check.unlogged.join(", ")));
    }
    if let Some(kept_as) = &plan.kept_as {
        line("kept", &shown(kept_as));
    }
    if let Some(undo) = &undo {
        line("undo", undo);
    }
    line("next", next(request.action));
    printer.note(&text);
}

pub(in crate::commands::restore) fn as_json(
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
    outcome: &ClusterOutcome,
    undo: Option<&str>,
) -> serde_json::Value {
    let recovered = outcome.recovered.as_ref();
    let reached = recovered.map(|recovered| &recovered.reached);
    json!({
        "outcome": "restored",
        "what": plan.what,
        "target": request.target.words(),
        "place": plan.to,
        "kept_aside": plan.kept_as,
        "last_commit": reached.and_then(|reached| reached.last_commit.clone()),
        "position": reached.and_then(|reached| reached.position).map(|at| at.to_string()),
        "stopped": reached.and_then(|reached| reached.stopped.clone()),
        "timeline": recovered.map(|recovered| recovered.timeline),
        "log_files": recovered.map(|recovered| recovered.log_files),
        "rows": outcome.check.as_ref().map(|check| &check.rows),
        "unlogged": outcome.check.as_ref().map(|check| &check.unlogged),
        "pages": outcome.pages.pages,
        "damaged_pages": outcome.pages.damaged,
        "has_checksums": outcome.has_checksums,
        "bytes": outcome.bytes,
        "kept_files": outcome.kept.map(|(count, _)| count),
        "kept_bytes": outcome.kept.map(|(_, bytes)| bytes),
        "elapsed_ms": outcome.elapsed_ms,
        "undo": undo,
    })
}

/// The moment that was reached.
fn moment(request: &ClusterRequest<'_>, outcome: &ClusterOutcome) -> String {
    let Some(recovered) = &outcome.recovered else {
        return format!("{}, when it is started", request.target.words());
    };
    let reached = &recovered.reached;
    let mut parts = Vec::new();
    if let Some(time) = &reached.last_commit {
        parts.push(format!("the last transaction in it is of {time}"));
    }
    if let Some(position) = reached.position {
        parts.push(format!("position {position}"));
    }
    if let Some(stopped) = reached.stopped.as_ref().filter(|_| parts.is_empty()) {
        parts.push(stopped.clone());
    }
    parts.push(format!("timeline {}", recovered.timeline));
    parts.join(", ")
}

fn checked(outcome: &ClusterOutcome) -> String {
    let mut parts = vec!["each file against the server's manifest".to_owned()];
    match outcome.has_checksums {
        true => parts.push(format!("{} pages", outcome.pages.pages)),
        false => parts.push("no pages: the cluster has no checksums".to_owned()),
    }
    if let Some(check) = &outcome.check {
        let rows: u64 = check.rows.values().sum();
        parts.push(format!("{rows} rows in {} tables read", check.rows.len()));
    }
    parts.join(", ")
}

fn next(action: Action) -> &'static str {
    match action {
        Action::Promote => "start it with its own settings; it is a cluster of its own",
        Action::Pause => "start it: it pauses there; SELECT pg_wal_replay_resume() promotes it",
        Action::Shutdown => "start it: it is promoted at the moment",
        Action::Leave => "start it: it recovers, and is promoted at the moment",
        Action::Standby => "start it: it catches up, then follows its primary",
    }
}
