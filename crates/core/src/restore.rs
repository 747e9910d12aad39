//! The way back: staged beside the place, checked, then swapped in.
//!
//! Live data is not touched before the replacement is complete on the same file system, checked
//! and synced. What was there is kept aside under `NAME.before_restore.TIME`, side files too.
//! `undo` goes back to it.

mod request;
mod mapping;
mod aside;
mod plan;
pub(crate) mod stage;
mod swap;
mod files;
mod undo;
mod set_aside;
mod release;

use std::path::PathBuf;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{CheckLevel, CheckOutcome};
use crate::source::CheckReport;
use crate::verify::row_differences;

use self::release::release;

pub use mapping::Mapping;
pub use plan::{RestorePlan, plan};
pub use request::{FilesChoice, FilesPlace, Origin, Replay, RestoreRequest};
pub use set_aside::set_aside;
pub use undo::{UndoPlan, UndoRequest, undo, undo_plan};

/// What a restore did.
#[derive(Debug)]
pub struct RestoreOutcome {
    /// Where the database is now.
    pub place: Option<PathBuf>,
    /// Files that were moved aside, under their new names.
    pub kept_aside: Vec<PathBuf>,
    /// Companion files that were put back.
    pub files: Vec<PathBuf>,
    /// The check made before the swap.
    pub check: Option<CheckReport>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// Carries out a plan. On failure what was there is still there.
pub fn apply(
    env: &Env,
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
) -> Result<RestoreOutcome> {
    let begun_ms = env.clock.monotonic_ms();
    let mut outcome = RestoreOutcome {
        place: None,
        kept_aside: Vec::new(),
        files: Vec::new(),
        check: None,
        warnings: plan.warnings.clone(),
        elapsed_ms: 0,
    };
    let mut stopped = None;
    if let Some(place) = &plan.place {
        let mut staged = stage::stage(env, request, plan, place)?;
        outcome.warnings.extend(staged.mend(request.engine)?);
        outcome.check = check(env, request, &staged)?;
        env.crash.pass("restore.verified")?;
        outcome.warnings.extend(staged.give(plan.ownership)?);
        let service = request.service.filter(|_| plan.in_place);
        stopped = release(env, request.engine, service, place)?;
        let side_files = request.engine.side_files(place);
        outcome.kept_aside = swap::swap(env, staged, place, &side_files, &plan.aside)?;
        outcome.place = Some(place.clone());
    }
    if let Some(target) = &plan.files {
        files::restore(env, request, target, &plan.aside, &mut outcome)?;
    }
    if let Some(stopped) = stopped {
        stopped.start()?;
    }
    outcome.elapsed_ms = env.elapsed_ms(begun_ms);
    Ok(outcome)
}

/// Checks what was staged. Damage is an error, unless no check was asked for.
fn check(
    env: &Env,
    request: &RestoreRequest<'_>,
    staged: &stage::Staged,
) -> Result<Option<CheckReport>> {
    if request.check == CheckLevel::None {
        return Ok(None);
    }
    let phase = "checking";
    env.tell(Event::PhaseBegan { subject: &staged.subject, phase, bytes_total: None });
    let memory_bytes = request.check_memory_bytes;
    let mut report = request.engine.check_file(env, &staged.path, request.check, memory_bytes)?;
    env.tell(Event::PhaseEnded { phase });
    // A later state has other rows than its backup.
    let manifest = request.origin.manifest().filter(|_| request.replay.is_none());
    let rows = manifest.and_then(|manifest| manifest.rows.as_ref());
    report.damage.extend(row_differences(rows, report.rows.as_ref()));
    if report.outcome == CheckOutcome::Failed || !report.damage.is_empty() {
        let lines: Vec<&str> = report.damage.iter().take(3).map(String::as_str).collect();
        return Err(Error::new(
            Kind::CheckFailed,
            format!("{} is not sound: {}", staged.subject, lines.join("; ")),
        )
        .hint(
            "nothing was changed. Choose an older backup (lifeboat list), or take this one as it \
             is with --check none --to ANOTHER-PATH",
        ));
    }
    Ok(Some(report))
}
