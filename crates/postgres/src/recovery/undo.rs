//! Back to the cluster that was there before the last restore in place.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::mark::{MARK, settle};
use super::plan::beside;
use super::recover::running_server;
use super::restore::{exchange, wait_for_release};
use super::write::{failed, sync};
use crate::control;

/// What an undo is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterUndo {
    /// The data directory.
    pub data: PathBuf,
    /// What was kept of it, and comes back.
    pub kept: PathBuf,
    /// The name that what is there now gets.
    pub aside: PathBuf,
    /// The process of a server that runs there now.
    pub running: Option<u32>,
}

/// Whether a path is a data directory.
pub fn is_data_folder(path: &Path) -> bool {
    path.join("PG_VERSION").is_file() && path.join("global").is_dir()
}

/// Looks for what was kept, and changes nothing.
pub fn undo_plan(env: &Env, data: &Path) -> Result<ClusterUndo> {
    let data = std::path::absolute(data)
        .map_err(|error| Error::io(Kind::Usage, "that is no path", error))?;
    let name = data.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let prefix = format!("{name}.before_restore.");
    let parent = data.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(parent).map_err(|error| failed("read", parent, error))?;
    // A folder with the mark is a restore that was killed; one without pg_control is not whole.
    let is_whole = |path: &PathBuf| path.join(control::PATH).is_file() && !path.join(MARK).exists();
    let kept = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .filter(is_whole)
        .max();
    let kept = kept.ok_or_else(|| {
        Error::new(Kind::NotCovered, format!("nothing was kept of {}", data.display()))
            .hint("a restore in place keeps what was there as NAME.before_restore.TIME beside it")
    })?;
    let stamp = env.clock.now().to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let aside = beside(&data, &format!("before_undo.{stamp}"));
    Ok(ClusterUndo { running: running_server(&data), data, kept, aside })
}

/// Exchanges the two in one step, then gives what was there its name.
pub fn undo(env: &Env, plan: &ClusterUndo) -> Result<()> {
    wait_for_release(env, &plan.data, false)?;
    settle(&plan.data)?;
    exchange(&plan.kept, &plan.data)?;
    env.crash.pass("undo.swapped")?;
    fs::rename(&plan.kept, &plan.aside).map_err(|error| failed("rename", &plan.kept, error))?;
    sync(plan.data.parent().unwrap_or(Path::new("/")))
}
