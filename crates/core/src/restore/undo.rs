//! Undo: back to what was there before the last restore.
//!
//! What is there now goes aside as `NAME.before_undo.TIME`; what was kept as
//! `NAME.before_restore.TIME` takes its place again, side files too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::moment::compact;
use crate::service::Service;
use crate::source::Engine;

use super::aside::Aside;
use super::release::{check_free, release};
use super::swap::{failed, keep_aside, link, remove, sync_folder_of};

/// What is to be undone.
pub struct UndoRequest<'a> {
    /// The place of the database.
    pub place: PathBuf,
    /// The engine of its kind.
    pub engine: &'a dyn Engine,
    /// What is stopped and started around it.
    pub service: Option<&'a Service>,
}

/// What an undo would do.
#[derive(Clone, Debug)]
pub struct UndoPlan {
    /// The place, links resolved.
    pub place: PathBuf,
    /// What was kept before the last restore, and where each file goes.
    pub moves: Vec<(PathBuf, PathBuf)>,
    /// The steps, a line each.
    pub steps: Vec<String>,
    time: String,
}

/// Finds what the last restore kept aside.
pub fn undo_plan(env: &Env, request: &UndoRequest<'_>) -> Result<UndoPlan> {
    let place = fs::canonicalize(&request.place)
        .or_else(|_| std::path::absolute(&request.place))
        .map_err(|error| failed("use the path", &request.place, error))?;
    let newest = newest_kept(&place)?.ok_or_else(|| {
        Error::new(
            Kind::NotCovered,
            format!("there is no {}.before_restore.TIME to go back to", place.display()),
        )
        .hint("nothing was restored there, or what was kept has been removed: lifeboat list")
    })?;
    let mut moves = vec![(newest.clone(), place.clone())];
    let kept_sides = request.engine.side_files(&newest);
    for (from, to) in kept_sides.into_iter().zip(request.engine.side_files(&place)) {
        if fs::symlink_metadata(&from).is_ok() {
            moves.push((from, to));
        }
    }
    if request.service.is_none() {
        check_free(env, request.engine, &place)?;
    }
    let time = compact(env.clock.now());
    let mut steps = Vec::new();
    steps.extend(request.service.map(|service| format!("stop {}", service.name)));
    if place.exists() {
        let place = place.display();
        steps.push(format!("keep {place} as {place}.before_undo.{time}"));
    }
    for (from, to) in &moves {
        steps.push(format!("move {} to {}", from.display(), to.display()));
    }
    steps.extend(request.service.map(|service| format!("start {}", service.name)));
    Ok(UndoPlan { place, moves, steps, time })
}

/// The newest `NAME.before_restore.TIME` that is a database, not the side file of one.
fn newest_kept(place: &Path) -> Result<Option<PathBuf>> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    let mut prefix = place.file_name().unwrap_or_default().to_owned();
    prefix.push(".before_restore.");
    let prefix = prefix.as_encoded_bytes();
    let mut newest: Option<((String, u32), PathBuf)> = None;
    for entry in fs::read_dir(folder).map_err(|error| failed("list", folder, error))? {
        let entry = entry.map_err(|error| failed("list", folder, error))?;
        let name = entry.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix) else { continue };
        let Some(key) = std::str::from_utf8(rest).ok().and_then(kept_key) else { continue };
        if newest.as_ref().is_none_or(|(newest, _)| *newest < key) {
            newest = Some((key, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// `20250108-140000` or `20250108-140000.2`: time and number; nothing else is a database.
fn kept_key(text: &str) -> Option<(String, u32)> {
    let (time, number) = match text.split_once('.') {
        Some((time, number)) => (time, number.parse().ok()?),
        None => (text, 1),
    };
    let digits =
        |part: &str, count| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let (date, clock) = time.split_once('-').or_else(|| time.split_once('_'))?;
    (digits(date, 8) && digits(clock, 6)).then(|| (time.to_owned(), number))
}

/// Carries out an undo. Gives back the names under which the present files are kept.
pub fn undo(env: &Env, request: &UndoRequest<'_>, plan: &UndoPlan) -> Result<Vec<PathBuf>> {
    let place = &plan.place;
    let stopped = release(env, request.engine, request.service, place)?;
    let side_files = request.engine.side_files(place);
    let aside = Aside { label: "before_undo", time: plan.time.clone() };
    let kept = keep_aside(place, &side_files, &aside)?;
    sync_folder_of(place)?;
    env.crash.pass("undo.kept_aside")?;
    remove(place)?;
    for side_file in &side_files {
        remove(side_file)?;
    }
    // Side files first: a database must not be there without its `-wal`. All keep their old names
    // until every new name is there.
    for (from, to) in plan.moves.iter().rev() {
        link(from, to)?;
    }
    sync_folder_of(place)?;
    env.crash.pass("undo.swapped")?;
    for (from, _) in &plan.moves {
        remove(from)?;
    }
    sync_folder_of(place)?;
    if let Some(stopped) = stopped {
        stopped.start()?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files_and_strangers_are_no_databases() {
        assert_eq!(kept_key("20250108-140000"), Some(("20250108-140000".into(), 1)));
        assert_eq!(kept_key("20250108-140000.2"), Some(("20250108-140000".into(), 2)));
        assert_eq!(kept_key("20250108_140000"), Some(("20250108_140000".into(), 1)));
        for wrong in ["20250108-140000-wal", "20250108-140000.db", "2025-01-08", "", "x"] {
            assert_eq!(kept_key(wrong), None, "{wrong}");
        }
    }
}
