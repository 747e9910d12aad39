//! What outlives the process: which moments are done, and how the last run of each job ended.
//!
//! One small file of JSON in the state folder. Where it cannot be read or written that is a
//! warning: then what was missed meanwhile is not known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scheduler::Kept;
use crate::control::Ended;
use crate::private;
use crate::session::Session;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// What the scheduler knows of each job.
    pub(super) jobs: BTreeMap<String, Kept>,
    /// How the last run of each ended.
    pub(super) runs: BTreeMap<String, Ended>,
}

/// Where it is; `None` where there is no state folder.
pub(super) fn path(session: &Session) -> Option<PathBuf> {
    Some(session.folders.locks.as_deref()?.parent()?.join("agent/state.json"))
}

/// What an agent left; nothing where there was none.
pub(super) fn read(session: &Session, path: Option<&Path>) -> State {
    let Some(path) = path else { return State::default() };
    let read = fs::read(path).map_err(|error| (error.kind(), error.to_string()));
    let state = read.and_then(|bytes| {
        let wrong = |error: serde_json::Error| (std::io::ErrorKind::InvalidData, error.to_string());
        serde_json::from_slice(&bytes).map_err(wrong)
    });
    state.unwrap_or_else(|(kind, why)| {
        if kind != std::io::ErrorKind::NotFound {
            let message = format!("cannot read {}: {why}", path.display());
            let message = format!("{message}; what was missed before now is not caught up");
            session.printer.warning("", &message);
        }
        State::default()
    })
}

/// Writes it; says once that it cannot be written.
pub(super) fn write(session: &Session, path: Option<&Path>, state: &State, is_said: &mut bool) {
    let Some(path) = path else { return };
    let written = serde_json::to_vec_pretty(state).map_err(std::io::Error::from);
    match written.and_then(|text| private::replace(path, &text)) {
        Ok(()) => *is_said = false,
        Err(error) if !std::mem::replace(is_said, true) => {
            let message = format!("cannot write {}: {error}", path.display());
            let message = format!("{message}; after a restart nobody knows what was missed");
            session.printer.warning("", &message);
        }
        Err(_) => {}
    }
}
