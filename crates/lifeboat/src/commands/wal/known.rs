//! Which repository was at a place when the log was pushed there last.
//!
//! The first push creates a repository where there is none. Where a drive was unmounted, or a
//! bucket is another one now, that would be a new archive that begins in the middle: so what was
//! known must be there again.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use lifeboat_core::env::Env;
use lifeboat_core::repository::Repository;
use lifeboat_core::{Error, Kind, Result};

use crate::repositories::Place;
use crate::session::Session;

/// The file that holds the id; none where there is no folder for state.
fn note(session: &Session, place: &Place) -> Option<PathBuf> {
    let folder = session.folders.spool.as_ref()?.join("known");
    let name: String = place
        .url
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        })
        .collect();
    // A name has at most 255 bytes.
    (name.len() <= 250).then(|| folder.join(name))
}

/// Opens a repository, or creates it if none was ever known at that place.
pub(super) fn open_or_create(session: &Session, env: &Env, place: &Place) -> Result<Repository> {
    let Some(note) = note(session, place) else { return place.open_or_create(env) };
    let Ok(known) = fs::read_to_string(&note) else {
        let repository = place.open_or_create(env)?;
        remember(&note, &repository);
        return Ok(repository);
    };
    let url = &place.url;
    let hint = format!("mount it again; if it is meant to be a new one: rm {}", note.display());
    let repository = match place.open(env) {
        Err(error) if error.kind() == Kind::NoRepository => {
            let message = format!("the repository that was at {url} is not there");
            return Err(Error::new(Kind::StoreAbsent, message).hint(hint));
        }
        opened => opened?,
    };
    match repository.header().id.to_string() == known.trim() {
        // Opened as what is stored there now must be sealed.
        true => place.open_or_create(env),
        false => {
            let message = format!("another repository is at {url} than before");
            Err(Error::new(Kind::StoreAbsent, message).hint(hint))
        }
    }
}

/// What cannot be noted is not known the next time: nothing else comes of it.
fn remember(note: &std::path::Path, repository: &Repository) {
    let Some(folder) = note.parent() else { return };
    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let staged = note.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&staged);
    let written = opened.and_then(|mut file| write!(file, "{}", repository.header().id));
    if written.is_ok() {
        let _ = fs::rename(&staged, note);
    }
}
