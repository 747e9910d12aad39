//! The state of notifications between runs: one private file, changed by one run at a time.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

use super::state::State;
use crate::private;
use crate::session::Session;

fn folder(session: &Session) -> Result<PathBuf> {
    let state = session.folders.locks.as_deref().and_then(Path::parent);
    state.map(|state| state.join("notify")).ok_or_else(|| {
        Error::new(Kind::Failed, "no place to note who was told what")
            .hint("set HOME or XDG_STATE_HOME")
    })
}

/// What is known. A file that was cut by a full disk is as one that was lost.
pub(super) fn read(session: &Session) -> Result<State> {
    let path = folder(session)?.join("state.json");
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::default()),
        Err(error) => {
            Err(Error::io(Kind::Failed, format!("cannot read {}", path.display()), error))
        }
    }
}

/// Reads it, changes it and writes it, while no other run does.
pub(super) fn change<T>(session: &Session, change: impl FnOnce(&mut State) -> T) -> Result<T> {
    let folder = folder(session)?;
    let failed = |error| {
        Error::io(
            Kind::Failed,
            format!("cannot note who was told what in {}", folder.display()),
            error,
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    let lock: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(failed)?;
    // Held for the time of a write alone: nothing is sent meanwhile.
    lock.lock().map_err(failed)?;
    let mut state = read(session)?;
    let result = change(&mut state);
    let text = serde_json::to_string_pretty(&state).expect("our own types are always JSON");
    private::replace(&folder.join("state.json"), text.as_bytes()).map_err(failed)?;
    Ok(result)
}
