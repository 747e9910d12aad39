//! What a restore would do, before it does anything.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::manifest::{Artifact, CheckLevel, Condition, Manifest};
use crate::moment::{age, compact};
use crate::owner::Ownership;
use crate::scratch::free_bytes;
use crate::source::Holder;

use super::aside::{Aside, aside_names};
use super::mapping::Mapping;
use super::release::check_free;
use super::request::{FilesChoice, FilesPlace, Origin, RestoreRequest};

/// What a restore would do; `--dry-run` prints it, and the question before it shows it.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// What a person calls what is restored.
    pub what: String,
    /// Where the database goes; `None` where only files are restored.
    pub place: Option<PathBuf>,
    /// Whether something is there already, or was there when it was backed up.
    pub in_place: bool,
    /// What is there now, and where it will be kept.
    pub kept_aside: Vec<(PathBuf, PathBuf)>,
    /// Mode, owner and group that it gets; `None`: those of a new private file.
    pub ownership: Option<Ownership>,
    /// Where companion files go.
    pub files: Option<FilesPlace>,
    /// Plain size, where it is known.
    pub plain_bytes: Option<u64>,
    /// Who has the place open now.
    pub holders: Vec<Holder>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The steps, a line each.
    pub steps: Vec<String>,
    /// The names of what is kept aside.
    pub(super) aside: Aside,
}

/// Plans a restore. Refuses what can be refused before anything is written.
pub fn plan(env: &Env, request: &RestoreRequest<'_>) -> Result<RestorePlan> {
    let aside = Aside { label: "before_restore", time: compact(env.clock.now()) };
    let mut plan = RestorePlan {
        what: request.replay.map_or_else(|| request.origin.name(), |replay| replay.name()),
        place: None,
        in_place: false,
        kept_aside: Vec::new(),
        ownership: None,
        files: None,
        plain_bytes: None,
        holders: Vec::new(),
        warnings: Vec::new(),
        steps: Vec::new(),
        aside,
    };
    let manifest = request.origin.manifest();
    match (manifest, request.replay) {
        (Some(manifest), _) => warn_of(env, request, manifest, &mut plan),
        (None, Some(replay)) => plan.steps.extend(replay.steps()),
        (None, None) => {}
    }
    let only_files = manifest.is_some_and(|manifest| manifest.source.kind == files::KIND);
    if !only_files && request.files != FilesChoice::Only {
        plan_database(env, request, &mut plan)?;
    }
    if only_files || request.files != FilesChoice::No {
        plan_files(request, &mut plan)?;
    }
    plan_steps(request, &mut plan);
    Ok(plan)
}

fn warn_of(env: &Env, request: &RestoreRequest<'_>, manifest: &Manifest, plan: &mut RestorePlan) {
    let ago = |at| age(env.clock.now().duration_since(at));
    let taken = ago(manifest.taken_at);
    plan.warnings.extend(match manifest.condition {
        Condition::Good => None,
        Condition::Unchecked => Some("this backup was made without a check".to_owned()),
        Condition::Damaged => Some("this backup is of a damaged database".to_owned()),
    });
    let Some(replay) = request.replay else {
        plan.steps.push(format!(
            "take {} (backed up {taken} ago; what was written since then is not in it)",
            manifest.name
        ));
        return;
    };
    plan.steps.push(format!("take {} (backed up {taken} ago)", manifest.name));
    plan.steps.extend(replay.steps());
    let (until, ago) = (replay.until(), ago(replay.until()));
    plan.steps.push(format!(
        "this is the state of {} ({ago} ago; what was written since then is not in it)",
        until.strftime("%Y-%m-%dT%H:%M:%SZ")
    ));
}

fn plan_database(env: &Env, request: &RestoreRequest<'_>, plan: &mut RestorePlan) -> Result<()> {
    let artifact = request.origin.manifest().and_then(|manifest| manifest.artifacts.first());
    if let (None, Some(instead)) = (&request.to, request.engine.instead_of_in_place()) {
        let message = format!("{} cannot be restored in place", request.origin.name());
        return Err(Error::new(Kind::Refused, message).hint(instead));
    }
    let place = match (&request.to, request.origin.manifest()) {
        (Some(to), _) => to.clone(),
        (None, Some(manifest)) => request.mapping.path(Path::new(&manifest.source.location)),
        (None, None) => {
            return Err(Error::new(
                Kind::Usage,
                format!("where should {} be restored to?", request.origin.name()),
            )
            .hint("say it with --to PATH"));
        }
    };
    let place = resolve(&place)?;
    if place.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{} is a folder", place.display()))
            .hint("name the file of the database with --to"));
    }
    let sides = request.engine.side_files(&place);
    plan.kept_aside = aside_names(&place, &sides, &plan.aside);
    plan.in_place = request.to.is_none() || !plan.kept_aside.is_empty();
    match request.service {
        Some(_) => plan.holders = request.engine.holders(&place)?,
        None => check_free(env, request.engine, &place)?,
    }
    plan.plain_bytes = artifact.map(|artifact| artifact.plain_bytes);
    plan.ownership = ownership(&place, artifact, request.mapping);
    let after = request.replay.map_or(0, |replay| replay.plain_bytes());
    check_space(&place, plan.plain_bytes.unwrap_or(0).max(after))?;
    plan.place = Some(place);
    Ok(())
}

/// A symbolic link at the place stays: its target is what is replaced.
fn resolve(place: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(place).map_err(|error| {
        Error::io(Kind::Usage, format!("cannot use the path {}", place.display()), error)
    })?;
    if absolute.file_name().is_none() {
        return Err(Error::new(Kind::Usage, format!("{} names no file", absolute.display())));
    }
    match fs::canonicalize(&absolute) {
        Ok(real) => Ok(real),
        Err(_) => Ok(absolute),
    }
}

/// Who owns what is there now wins: numbers may have changed since the backup.
fn ownership(place: &Path, artifact: Option<&Artifact>, mapping: &Mapping) -> Option<Ownership> {
    match fs::metadata(place) {
        Ok(now) => Some(Ownership { mode: now.mode() & 0o1777, uid: now.uid(), gid: now.gid() }),
        Err(_) => {
            let facts = artifact.and_then(|artifact| artifact.file.as_ref())?;
            let owner = (facts.owner.as_deref(), facts.uid);
            let group = (facts.group.as_deref(), facts.gid);
            Some(mapping.ownership(facts.mode, owner, group))
        }
    }
}

fn check_space(place: &Path, bytes: u64) -> Result<()> {
    let Some(existing) = place.ancestors().skip(1).find(|path| path.exists()) else {
        return Ok(());
    };
    let free = free_bytes(existing)?;
    match free < bytes {
        true => Err(Error::new(
            Kind::NoSpace,
            format!("{} needs {bytes} bytes, {free} are free there", place.display()),
        )
        .hint("make room, or restore to another place with --to")),
        false => Ok(()),
    }
}

fn plan_files(request: &RestoreRequest<'_>, plan: &mut RestorePlan) -> Result<()> {
    let Origin::Backup { manifest, .. } = request.origin else {
        return Err(Error::new(Kind::Usage, "a single file has no companion files"));
    };
    if manifest.artifact(files::ROLE).is_none() {
        return Err(Error::new(
            Kind::NotCovered,
            format!("{} holds no companion files", manifest.name),
        )
        .hint("leave --files away"));
    }
    let is_files = manifest.source.kind == files::KIND;
    let root = match (&request.to, &request.files_root) {
        (_, Some(root)) => root.clone(),
        (None, None) => PathBuf::from("/"),
        (Some(to), None) if is_files => to.clone(),
        (Some(to), None) => {
            let mut beside = to.clone().into_os_string();
            beside.push(".files");
            beside.into()
        }
    };
    plan.in_place |= request.to.is_none();
    plan.files = Some(FilesPlace { root });
    Ok(())
}

fn plan_steps(request: &RestoreRequest<'_>, plan: &mut RestorePlan) {
    let mut steps = Vec::new();
    if let Some(place) = &plan.place {
        steps.push(format!("stage it beside {} and sync it", place.display()));
        if request.check != CheckLevel::None {
            steps.push(format!("check it ({:?})", request.check));
        }
        if let Some(service) = request.service.filter(|_| plan.in_place) {
            steps.push(format!("stop {}", service.name));
        }
        for (from, to) in &plan.kept_aside {
            steps.push(format!("keep {} as {}", from.display(), to.display()));
        }
        steps.push(format!("put it in place at {}", place.display()));
    }
    if let Some(files) = &plan.files {
        steps.push(format!(
            "put its files back below {}, keeping what is there as NAME.before_restore.{}",
            files.root.display(),
            plan.aside.time
        ));
    }
    if let Some(service) = request.service.filter(|_| plan.in_place && plan.place.is_some()) {
        steps.push(format!("start {}", service.name));
    }
    plan.steps.extend(steps);
}
