//! The plan of a physical restore: where everything goes, whether it fits, and what is refused.
//!
//! A cluster is made beside its place under another name, and takes the place by one exchange of
//! two names at the very end. A tablespace never goes where one is already: the folder of a live
//! cluster is not touched, also not by a restore in place, whose tablespaces get folders of their
//! own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::scratch::free_bytes;
use lifeboat_core::{Error, Kind, Result};

use super::assemble::Stored;
use super::mark::{MARK, is_abandoned, leftovers};
use super::recover::running_server;
use super::server::ServerPrograms;
use super::target::{Target, Timeline};
use super::write::Place;
use crate::client::ClientOptions;
use crate::cluster::run_as;
use crate::control::Control;

/// What a restored cluster is in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Recovered, checked and promoted: a cluster of its own.
    Promote,
    /// Recovered and stopped there; its next start pauses at the moment, and answers.
    Pause,
    /// Recovered and stopped there; its next start promotes it.
    Shutdown,
    /// Not started: its next start recovers it, and promotes it.
    Leave,
    /// Not started: its next start follows a primary.
    Standby,
}

/// What is to be restored, and how.
pub struct ClusterRequest<'a> {
    /// The backups, the oldest first: a whole one, and what was built on it.
    pub chain: Vec<Stored<'a>>,
    /// The data directory that is wanted.
    pub to: &'a Path,
    /// Whether what is there is replaced, and kept aside.
    pub in_place: bool,
    /// Whether files that are there already and right are kept, and everything else makes way.
    pub delta: bool,
    /// Tablespaces that go elsewhere: from the place that they had to another.
    pub tablespaces: &'a [(PathBuf, PathBuf)],
    /// Up to where.
    pub target: Target,
    /// Along which timeline.
    pub timeline: Timeline,
    /// What it is in the end.
    pub action: Action,
    /// Where programs are looked for.
    pub options: &'a ClientOptions,
}

/// What a restore is about to do.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// The name of the newest backup.
    pub what: String,
    /// The data directory in the end.
    pub to: PathBuf,
    /// Where it is made.
    pub place: Place,
    /// Under which name what is there is kept.
    pub kept_as: Option<PathBuf>,
    /// Whether the directory that is there is made into what is wanted, at its place.
    pub reuses: bool,
    /// Bytes that are written at least.
    pub bytes: u64,
    /// What will be done, a line each.
    pub steps: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The server's programs, where one is started.
    pub programs: Option<ServerPrograms>,
    /// What killed restores left beside it, which makes way.
    pub leftovers: Vec<PathBuf>,
    /// The process of a server that has the directory open, which must end first.
    pub running: Option<u32>,
}

/// Looks, and changes nothing.
pub fn plan(env: &Env, request: &ClusterRequest<'_>) -> Result<ClusterPlan> {
    let newest = request
        .chain
        .last()
        .ok_or_else(|| Error::new(Kind::NotCovered, "there is no backup to restore"))?;
    let to = std::path::absolute(request.to).map_err(|error| {
        Error::io(Kind::Usage, format!("{} is no path", request.to.display()), error)
    })?;
    let parent = to.parent().ok_or_else(|| refused(&to, "is no place for a data directory"))?;
    let stamp = env.clock.now().to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let mut warnings = Vec::new();
    let reuses = request.delta && !is_free(&to)?;
    let kept_as = match request.in_place {
        true => Some(look_at_live(&to, &stamp)?),
        false if reuses => {
            look_at_reused(&to, newest.manifest, &mut warnings)?;
            None
        }
        false => {
            refuse_full(&to)?;
            None
        }
    };
    let staged = match &kept_as {
        Some(kept_as) => kept_as.clone(),
        None if reuses => to.clone(),
        None => beside(&to, "restoring"),
    };
    let owner = owner_of(&to, request.in_place || reuses)?;
    let tablespaces = place_tablespaces(request, newest.manifest, (&to, reuses), &stamp)?;
    let bytes = bytes_of(&request.chain);
    let place = Place { data: staged, tablespaces, owner };
    if !reuses {
        require_space(parent, bytes)?;
    }
    let starts = !matches!(request.action, Action::Leave | Action::Standby);
    let programs = match starts {
        true => Some(ServerPrograms::find(request.options, major_of(newest.manifest)?)?),
        false => None,
    };
    let unlogged = number(newest.manifest, "unlogged_relations");
    if unlogged > 0 {
        warnings.push(format!("{unlogged} unlogged tables and indexes come back empty"));
    }
    let running = running_server(&to).filter(|_| request.in_place || reuses);
    let leftovers = if reuses { Vec::new() } else { leftovers(&to) };
    let mut plan = ClusterPlan {
        what: newest.manifest.name.clone(),
        to,
        place,
        kept_as,
        reuses,
        bytes,
        steps: Vec::new(),
        warnings,
        programs,
        leftovers,
        running,
    };
    plan.steps = steps(request, &plan);
    Ok(plan)
}

fn steps(request: &ClusterRequest<'_>, plan: &ClusterPlan) -> Vec<String> {
    let mut steps = Vec::new();
    let shown = |path: &Path| path.display().to_string();
    for folder in &plan.leftovers {
        steps.push(format!("remove {}, which a killed restore left", shown(folder)));
    }
    if plan.reuses {
        steps.push(format!(
            "keep the files in {} whose checksums are right, remove all others",
            shown(&plan.to)
        ));
    }
    for (index, stored) in request.chain.iter().enumerate() {
        let name = &stored.manifest.name;
        steps.push(match index {
            0 if plan.reuses => format!("put what is missing of {name} there, each file checked"),
            0 => format!("unpack {name} to {}, each file checked", shown(&plan.place.data)),
            _ => format!("put {name} over it, each file checked"),
        });
    }
    for (number, folder) in &plan.place.tablespaces {
        steps.push(format!("unpack the tablespace {number} to {}", shown(folder)));
    }
    let target = request.target.words();
    match request.action {
        Action::Leave => {
            steps.push(format!("leave it so that its next start recovers to {target}"))
        }
        Action::Standby => {
            steps.push("leave it so that its next start is a standby of its primary".to_owned());
        }
        _ => steps.push(format!("start a server on it, and recover to {target}")),
    }
    match request.action {
        Action::Promote => {
            steps.push("read every table, promote it, and stop the server".to_owned())
        }
        Action::Pause => steps.push("stop the server; its next start pauses there".to_owned()),
        Action::Shutdown => steps.push("stop the server; its next start promotes it".to_owned()),
        Action::Leave | Action::Standby => {}
    }
    match &plan.kept_as {
        Some(kept_as) => steps.push(format!(
            "stop the live server, exchange the two, keep the old one as {}, start it",
            shown(kept_as)
        )),
        None if plan.reuses => {}
        None => steps.push(format!("give it its name: {}", shown(&plan.to))),
    }
    steps
}

/// A name beside another: `/data/main` and `restoring` are `/data/main.restoring`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// The live data directory: it must be one, and its name must be exchangeable with another's.
fn look_at_live(to: &Path, stamp: &str) -> Result<PathBuf> {
    let metadata = fs::symlink_metadata(to).map_err(|error| {
        Error::io(Kind::SourceUnavailable, format!("cannot look at {}", to.display()), error)
            .hint("restore to a new place: --to DIR")
    })?;
    if !metadata.is_dir() || !to.join("PG_VERSION").exists() {
        return Err(refused(to, "is no data directory of PostgreSQL")
            .hint("name the data directory, or restore to a new place: --to DIR"));
    }
    let above = to.parent().and_then(|parent| fs::metadata(parent).ok());
    if above.is_some_and(|above| above.dev() != metadata.dev()) {
        return Err(refused(to, "is a file system of its own, and cannot be exchanged")
            .hint("restore to another place: --to DIR"));
    }
    let kept_as = beside(to, &format!("before_restore.{stamp}"));
    match kept_as.exists() {
        true => Err(refused(&kept_as, "is there already").hint("try again in a second")),
        false => Ok(kept_as),
    }
}

/// Whether a place is not there, or an empty folder.
pub fn is_free(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(is_empty) => Ok(is_empty),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => {
            Err(Error::io(Kind::Refused, format!("cannot look into {}", folder.display()), error))
        }
    }
}

/// A directory that is to be made into another state of the same cluster, or one that an earlier
/// such run did not finish.
fn look_at_reused(to: &Path, manifest: &Manifest, warnings: &mut Vec<String>) -> Result<()> {
    let system = manifest.facts.get("system_identifier").and_then(|text| text.as_str());
    let system = system.unwrap_or_default();
    let begun = fs::read_to_string(to.join(MARK)).ok().filter(|text| !text.is_empty());
    let found = match &begun {
        Some(text) => text.trim().to_owned(),
        None => {
            let version = fs::read_to_string(to.join("PG_VERSION")).map_err(|_| {
                refused(to, "is no data directory of PostgreSQL")
                    .hint("name the data directory, or an empty or a new folder: --to DIR")
            })?;
            if version.trim() != major_of(manifest)?.to_string() {
                return Err(refused(to, &format!("is of PostgreSQL {}", version.trim()))
                    .hint("restore to a new folder: --to DIR, without --delta"));
            }
            Control::of_folder(to)?.system_identifier.to_string()
        }
    };
    if found != system {
        return Err(refused(to, &format!("holds another cluster, {found}"))
            .hint("restore to a new folder: --to DIR, without --delta"));
    }
    warnings.push(match begun {
        Some(_) => "an earlier restore of it was not finished; this one goes on".to_owned(),
        None => "nothing is kept of what is there; if this run ends early, run it again: until \
                 then no server starts on it"
            .to_owned(),
    });
    let waiting = fs::read_dir(to.join("pg_wal/archive_status")).into_iter().flatten().flatten();
    let waiting =
        waiting.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".ready")).count();
    if waiting > 0 {
        warnings.push(format!(
            "{waiting} files of its log were never archived and are lost with it; to keep them: \
             lifeboat wal push, in that directory"
        ));
    }
    Ok(())
}

/// A place that is wanted must not be there, or be an empty folder.
fn refuse_full(folder: &Path) -> Result<()> {
    match is_free(folder)? {
        true => Ok(()),
        false => Err(refused(folder, "is not empty").hint(
            "name an empty or a new folder: --to DIR; or replace a cluster with --in-place DIR; or \
             reuse what is there with --delta --to DIR",
        )),
    }
}

/// As whom the files are made: as those of the live cluster, else as `postgres`, where we are root.
fn owner_of(to: &Path, in_place: bool) -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    if in_place {
        let metadata = fs::metadata(to).map_err(|error| {
            Error::io(Kind::SourceUnavailable, format!("cannot look at {}", to.display()), error)
        })?;
        return Ok(Some((metadata.uid(), metadata.gid())));
    }
    let run_as = run_as();
    Ok(Some((run_as.uid, run_as.gid)))
}

/// Where each tablespace goes: where `--tablespace` says, else into a folder beside the data
/// directory, and never where something is.
fn place_tablespaces(
    request: &ClusterRequest<'_>,
    manifest: &Manifest,
    (to, reuses): (&Path, bool),
    stamp: &str,
) -> Result<BTreeMap<u32, PathBuf>> {
    let listed = manifest.facts.get("tablespaces").and_then(|list| list.as_array());
    let mut places = BTreeMap::new();
    let mut asked: Vec<&(PathBuf, PathBuf)> = request.tablespaces.iter().collect();
    for one in listed.into_iter().flatten() {
        let oid = one.get("oid").and_then(serde_json::Value::as_u64);
        let Some(oid) = oid.and_then(|oid| u32::try_from(oid).ok()) else { continue };
        let was = one.get("path").and_then(|path| path.as_str()).unwrap_or_default();
        let mapped = asked.iter().position(|(from, _)| from == Path::new(was));
        // A tablespace that the directory has already is reused with it.
        let linked = fs::read_link(to.join(format!("pg_tblspc/{oid}"))).ok();
        let linked = linked.filter(|place| reuses && place.is_absolute() && place.is_dir());
        let place = match mapped.map(|index| asked.remove(index)) {
            Some((_, place)) => std::path::absolute(place).unwrap_or_else(|_| place.clone()),
            None => linked.clone().unwrap_or_else(|| default_place(request, was, (to, oid), stamp)),
        };
        let own = beside(to, "tablespaces");
        let is_left = place.starts_with(&own) && is_abandoned(&own);
        if linked.as_ref() != Some(&place) && !is_left {
            refuse_full(&place)?;
        }
        let is_inside = place.starts_with(to);
        if is_inside || place.to_string_lossy().contains(['\n', '\r']) {
            return Err(refused(&place, "is no place for a tablespace")
                .hint("name a folder outside of the data directory"));
        }
        places.insert(oid, place);
    }
    match asked.first() {
        None => Ok(places),
        Some((from, _)) => Err(Error::new(
            Kind::Usage,
            format!("{} has no tablespace at {}", manifest.name, from.display()),
        )
        .hint("lifeboat show names the tablespaces of a backup")),
    }
}

/// Where a tablespace goes if nobody says where.
fn default_place(
    request: &ClusterRequest<'_>,
    was: &str,
    (to, oid): (&Path, u32),
    stamp: &str,
) -> PathBuf {
    match request.in_place {
        true => beside(Path::new(was), &format!("restored.{stamp}")),
        false => beside(to, "tablespaces").join(oid.to_string()),
    }
}

/// What the chain needs at least: the newest says how many bytes its streams have, an increment
/// less than what results.
fn bytes_of(chain: &[Stored<'_>]) -> u64 {
    chain.iter().map(|stored| stored.manifest.plain_bytes()).max().unwrap_or(0)
}

fn require_space(folder: &Path, bytes: u64) -> Result<()> {
    let mut existing = folder;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let free = free_bytes(existing)?;
    match free < bytes {
        false => Ok(()),
        true => Err(Error::new(
            Kind::NoSpace,
            format!("the restore needs {bytes} bytes in {}, {free} are free", folder.display()),
        )
        .hint("make room, or restore to another place: --to DIR")),
    }
}

/// The major version of the server that made a backup.
pub fn major_of(manifest: &Manifest) -> Result<u32> {
    match number(manifest, "server_major") {
        0 => Err(Error::new(
            Kind::CheckFailed,
            format!("{} does not say of which version its server was", manifest.name),
        )),
        major => Ok(major as u32),
    }
}

fn number(manifest: &Manifest, fact: &str) -> u64 {
    manifest.facts.get(fact).and_then(serde_json::Value::as_u64).unwrap_or(0)
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Kind::Refused, format!("{} {why}", path.display()))
}
