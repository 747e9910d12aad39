//! A physical restore, carried out.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::manifest::Condition;
use lifeboat_core::service::Service;
use lifeboat_core::{Error, Kind, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::assemble::{Assembled, assemble};
use super::check::{ClusterCheck, check_cluster};
use super::log_state::system_of;
use super::mark::{MARK, Marked, is_abandoned, mark, remove_leftover, settle, unmark};
use super::pages::PageCounts;
use super::plan::{Action, ClusterPlan, ClusterRequest, beside, major_of};
use super::recover::{Ending, Recovered, Recovery, running_server};
use super::reuse::{Kept, clear, survey};
use super::scan::scan_folder;
use super::serve::Supply;
use super::settings::{NextStart, write_settings};
use super::write::{failed, give, sync};

/// How long a service may take until its server is gone.
const RELEASE_TIMEOUT_MS: u64 = 60_000;

/// What a restore did.
#[derive(Debug, Default)]
pub struct ClusterOutcome {
    /// The moment that was reached, where a server was started.
    pub recovered: Option<Recovered>,
    /// What was found by SQL.
    pub check: Option<ClusterCheck>,
    /// What was found among the pages.
    pub pages: PageCounts,
    /// Whether pages have checksums.
    pub has_checksums: bool,
    /// Bytes of the backup's files.
    pub bytes: u64,
    /// Files that were there already and stayed, and their bytes, where a directory was reused.
    pub kept: Option<(u64, u64)>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// How a restore is carried out.
pub struct Carry<'a> {
    /// Where the log comes from.
    pub supply: Arc<dyn Supply>,
    /// What the next start is to do, where the cluster is not promoted.
    pub next: NextStart,
    /// Roles that may ask the cluster, tried in order.
    pub users: Vec<String>,
    /// What is stopped and started around an exchange.
    pub service: Option<&'a Service>,
    /// Whether damaged pages are an error.
    pub strict: bool,
    /// Whether amcheck is asked too. It leaves its extension: only for what is thrown away.
    pub deep: bool,
}

/// Carries a plan out. On failure what was there is still there.
pub fn apply(
    env: &Env,
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
    carry: &Carry<'_>,
) -> Result<ClusterOutcome> {
    let (_marked, kept) = match plan.reuses {
        true => reuse_folders(env, request, plan).map(|(marked, kept)| (marked, Some(kept)))?,
        false => (make_folders(plan)?, None),
    };
    let outcome = carry_out(env, request, plan, kept.as_ref(), carry);
    if plan.reuses {
        return outcome.map_err(|error| unfinished(plan, error));
    }
    if outcome.is_err() && plan.place.data.join(MARK).exists() {
        // What is not whole is nothing; after an exchange that name is the old cluster's, unmarked.
        for folder in plan.place.tablespaces.values().chain([&plan.place.data]) {
            let _ = fs::remove_dir_all(folder);
        }
        let own = beside(&plan.to, "tablespaces");
        if own.join(MARK).exists() {
            let _ = fs::remove_dir_all(own);
        }
    }
    outcome
}

fn carry_out(
    env: &Env,
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
    kept: Option<&Kept>,
    carry: &Carry<'_>,
) -> Result<ClusterOutcome> {
    let begun_ms = env.clock.monotonic_ms();
    let place = &plan.place;
    let next_first = match request.action {
        Action::Leave | Action::Standby => carry.next.clone(),
        _ => NextStart::Plain,
    };
    let assembled = assemble(env, &request.chain, place, kept, &mut |place, _| {
        write_settings(place, &next_first)
    })?;
    env.crash.pass("recovery.assembled")?;
    let mut outcome = ClusterOutcome {
        has_checksums: assembled.control.data_checksums,
        bytes: assembled.bytes,
        kept: kept.map(|kept| (kept.count(), kept.bytes)),
        warnings: plan.warnings.clone(),
        ..ClusterOutcome::default()
    };
    judge_pages(request, carry, &assembled, &mut outcome)?;
    if let Some(programs) = &plan.programs {
        let ending = match request.action {
            Action::Promote => Ending::Promoted,
            _ => Ending::Standing,
        };
        let recovery = Recovery {
            programs,
            place,
            control: &assembled.control,
            supply: Arc::clone(&carry.supply),
            target: &request.target,
            timeline: request.timeline,
            ending,
        };
        let mut check = None;
        outcome.recovered = Some(recovery.run(env, &mut |server| {
            check = Some(check_cluster(server, programs, &carry.users, carry.deep)?);
            Ok(())
        })?);
        outcome.check = check;
        env.crash.pass("recovery.recovered")?;
        after_recovery(env, request, carry, &mut outcome, plan)?;
    }
    take_place(env, plan, carry.service)?;
    outcome.pages.named.truncate(100);
    outcome.elapsed_ms = env.elapsed_ms(begun_ms);
    Ok(outcome)
}

/// Damaged pages of the base are an error, unless its manifest told of them.
fn judge_pages(
    request: &ClusterRequest<'_>,
    carry: &Carry<'_>,
    assembled: &Assembled,
    outcome: &mut ClusterOutcome,
) -> Result<()> {
    outcome.pages = assembled.pages.clone();
    if assembled.pages.damaged == 0 {
        return Ok(());
    }
    let known = request.chain.iter().any(|one| one.manifest.condition == Condition::Damaged);
    let torn = request.chain.iter().any(|one| one.manifest.facts.contains_key("torn_pages"));
    if !carry.strict || known || torn {
        outcome.warnings.extend(assembled.pages.lines(20));
        return Ok(());
    }
    Err(damaged_pages(&assembled.pages))
}

fn damaged_pages(pages: &PageCounts) -> Error {
    let lines = pages.lines(3).join("; ");
    Error::new(Kind::CheckFailed, format!("{} pages are damaged: {lines}", pages.damaged)).hint(
        "choose an older backup: lifeboat list; or take this one as it is, to another place: \
         --check none --to DIR",
    )
}

/// What the recovery left is looked at once more, page by page, and made ready for a person.
fn after_recovery(
    env: &Env,
    request: &ClusterRequest<'_>,
    carry: &Carry<'_>,
    outcome: &mut ClusterOutcome,
    plan: &ClusterPlan,
) -> Result<()> {
    if outcome.has_checksums {
        let pages = scan_folder(env, &plan.place.data)?;
        let known = request.chain.iter().any(|one| one.manifest.condition == Condition::Damaged);
        if pages.damaged > 0 && carry.strict && !known {
            return Err(damaged_pages(&pages));
        }
        outcome.pages = pages;
    }
    if let Some(check) = &outcome.check {
        if !check.damage.is_empty() && carry.strict {
            let lines = check.damage.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
            return Err(Error::new(Kind::CheckFailed, format!("tables cannot be read: {lines}"))
                .hint("choose an older backup, or take it as it is: --check none --to DIR"));
        }
        outcome.warnings.extend(check.damage.iter().cloned());
        outcome.warnings.extend(check.notes.iter().cloned());
    }
    let next = if request.action == Action::Promote { &NextStart::Plain } else { &carry.next };
    write_settings(&plan.place, next)?;
    sync(&plan.place.data)
}

/// Makes the folders, marked as not whole. What killed restores left makes way.
fn make_folders(plan: &ClusterPlan) -> Result<Vec<Marked>> {
    let data = &plan.place.data;
    if plan.kept_as.is_some() {
        settle(&plan.to)?;
    }
    let own = beside(&plan.to, "tablespaces");
    for folder in &plan.leftovers {
        remove_leftover(folder)?;
        if folder == data && is_abandoned(&own) {
            fs::remove_dir_all(&own).map_err(|error| failed("remove", &own, error))?;
        }
    }
    if data.exists() && !data.join(MARK).exists() {
        let message = format!("{} is there, and is no restore that was killed", data.display());
        return Err(Error::new(Kind::Refused, message).hint("move it away"));
    }
    make_folder(plan, data)?;
    let mut marked = vec![mark(&plan.place, data, "")?];
    for folder in plan.place.tablespaces.values() {
        if folder.starts_with(&own) && !own.exists() {
            make_folder(plan, &own)?;
            marked.push(mark(&plan.place, &own, "")?);
        }
        make_folder(plan, folder)?;
    }
    Ok(marked)
}

/// Marks a directory that is there as not whole, and leaves only what is right of it.
fn reuse_folders(
    env: &Env,
    request: &ClusterRequest<'_>,
    plan: &ClusterPlan,
) -> Result<(Vec<Marked>, Kept)> {
    let (place, data) = (&plan.place, &plan.place.data);
    let newest = request.chain.last().map(|newest| newest.manifest);
    let newest = newest.ok_or_else(|| Error::new(Kind::NotCovered, "there is no backup"))?;
    // The server of a restore that was killed is about to end.
    let was_begun = data.join(MARK).exists();
    wait_for_release(env, data, was_begun)?;
    for folder in place.tablespaces.values() {
        make_folder(plan, folder)?;
    }
    let marked = vec![mark(place, data, &system_of(newest)?.to_string())?];
    sync(data)?;
    let kept = match survey(env, &request.chain, place) {
        Ok(kept) => kept,
        Err(error) => {
            // Nothing was changed yet.
            if !was_begun {
                unmark(data)?;
            }
            return Err(error);
        }
    };
    wait_for_release(env, data, false)?;
    let cleared = clear(env, place, major_of(newest)?, &kept);
    cleared.map_err(|error| unfinished(plan, error))?;
    env.crash.pass("recovery.reused")?;
    Ok((marked, kept))
}

/// What is there now is neither the old state nor the new one.
fn unfinished(plan: &ClusterPlan, error: Error) -> Error {
    let context = format!("{} is not whole now, run it again", plan.to.display());
    match plan.place.data.join(MARK).exists() {
        true => error.context(context),
        false => error,
    }
}

fn make_folder(plan: &ClusterPlan, folder: &Path) -> Result<()> {
    // Those above it that are missing are the server's too: it must be able to enter.
    let missing: Vec<&Path> = folder.ancestors().skip(1).take_while(|it| !it.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed("make", folder, error))?;
    missing.into_iter().chain([folder]).try_for_each(|made| give(made, plan.place.owner))
}

/// The last step: the name. Until then nothing that was there was touched.
fn take_place(env: &Env, plan: &ClusterPlan, service: Option<&Service>) -> Result<()> {
    let (staged, to) = (&plan.place.data, &plan.to);
    let parent = to.parent().unwrap_or(Path::new("/"));
    if plan.reuses {
        remove_marks(plan, staged)?;
        return env.crash.pass("recovery.swapped");
    }
    if plan.kept_as.is_none() {
        remove_marks(plan, staged)?;
        if to.exists() {
            fs::remove_dir(to).map_err(|error| failed("replace", to, error))?;
        }
        fs::rename(staged, to).map_err(|error| failed("rename", staged, error))?;
        sync(parent)?;
        return env.crash.pass("recovery.swapped");
    }
    let stopped = match service {
        Some(service) => Some(service.stop(env)?),
        None => None,
    };
    wait_for_release(env, to, stopped.is_some())?;
    exchange(staged, to)?;
    env.crash.pass("recovery.kept_aside")?;
    remove_marks(plan, to)?;
    env.crash.pass("recovery.swapped")?;
    match stopped {
        Some(stopped) => stopped.start(),
        None => Ok(()),
    }
}

fn remove_marks(plan: &ClusterPlan, data: &Path) -> Result<()> {
    unmark(data)?;
    unmark(&beside(&plan.to, "tablespaces"))
}

/// Two folders exchange their names in one step: at each moment one of them is at each place.
pub(super) fn exchange(one: &Path, other: &Path) -> Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).map_err(|error| {
        let message = format!("cannot exchange {} and {}", one.display(), other.display());
        Error::io(Kind::Failed, message, error.into())
            .hint("the file system must be able to exchange names; restore with --to DIR instead")
    })?;
    sync(other.parent().unwrap_or(Path::new("/")))
}

/// Nobody may have the data directory open.
pub(super) fn wait_for_release(env: &Env, data: &Path, was_stopped: bool) -> Result<()> {
    let begun_ms = env.clock.monotonic_ms();
    while let Some(process) = running_server(data) {
        if !was_stopped || env.elapsed_ms(begun_ms) > RELEASE_TIMEOUT_MS {
            return Err(Error::new(
                Kind::Refused,
                format!("a server (process {process}) has {} open", data.display()),
            )
            .hint("stop it first, or name its `service` in the configuration"));
        }
        env.pause_ms(50)?;
    }
    Ok(())
}
