//! Setting aside: what is at a place goes away from it, and nothing takes its place.
//!
//! For whoever wants to begin anew. It is kept under the names that a restore gives, so that
//! [`undo`](super::undo()) brings it back.

use std::fs;
use std::path::PathBuf;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::moment::compact;

use super::aside::Aside;
use super::release::release;
use super::swap::{failed, keep_aside, remove, sync_folder_of};
use super::undo::UndoRequest;

/// Moves the database at a place aside, side files too, while its service is stopped. Gives the
/// names under which they are kept.
pub fn set_aside(env: &Env, request: &UndoRequest<'_>) -> Result<Vec<PathBuf>> {
    let place = fs::canonicalize(&request.place)
        .or_else(|_| std::path::absolute(&request.place))
        .map_err(|error| failed("use the path", &request.place, error))?;
    let side_files = request.engine.side_files(&place);
    let is_there = |file: &PathBuf| fs::symlink_metadata(file).is_ok();
    if !is_there(&place) && !side_files.iter().any(is_there) {
        let message = format!("nothing is at {} that could go aside", place.display());
        return Err(Error::new(Kind::SourceUnavailable, message));
    }
    let stopped = release(env, request.engine, request.service, &place)?;
    let aside = Aside { label: "before_restore", time: compact(env.clock.now()) };
    let kept = keep_aside(&place, &side_files, &aside)?;
    sync_folder_of(&place)?;
    remove(&place)?;
    side_files.iter().try_for_each(|side| remove(side))?;
    sync_folder_of(&place)?;
    if let Some(stopped) = stopped {
        stopped.start()?;
    }
    Ok(kept)
}
