//! The donor of a salvage: a file, or a state that a repository holds, restored to a scratch place.

use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_salvage::{Donor, WalPlace};
use lifeboat_sqlite::WalPlace as Stored;

use crate::commands::diff::side::{Holder, restored_file};
use crate::logs::{self, State};
use crate::selection;
use crate::session::Session;

/// A donor that can be read.
pub(super) struct Found {
    path: PathBuf,
    wal_place: Option<WalPlace>,
}

impl Found {
    /// As a salvage takes it.
    pub(super) fn donor(&self) -> Donor<'_> {
        Donor { path: &self.path, wal_place: self.wal_place }
    }
}

/// Finds what `--donor` means. What is made for that lives as long as the holder.
pub(super) fn find(session: &Session, env: &Env, holder: &Holder, what: &Path) -> Result<Found> {
    let text = what.to_string_lossy();
    let state = match selection::artifact(session, env, &text)? {
        Some(selected) => State::of_backup(selected),
        // A file first: what lies there is meant, whatever a source is called.
        None if what.is_file() => return Ok(Found { path: what.to_owned(), wal_place: None }),
        None => logs::meant(selection::backup(session, env, &text, None)?)?,
    };
    let kind = &state.selected.manifest.source.kind;
    if kind != lifeboat_sqlite::KIND {
        let message = format!("{text} is no backup of a SQLite database");
        return Err(Error::new(Kind::Usage, message).hint("lifeboat list shows what there is"));
    }
    let stored = match &state.replay {
        Some(replay) => replay.wal_place(),
        None => Stored::of_facts(&state.selected.manifest.facts),
    };
    let wal_place =
        stored.map(|Stored { salts, frame, checksum }| WalPlace { salts, frame, checksum });
    let replay = state.replay.as_ref().map(|replay| replay as &dyn Replay);
    let path = restored_file(session, env, holder, (state.selected.origin(), replay))?;
    Ok(Found { path, wal_place })
}
