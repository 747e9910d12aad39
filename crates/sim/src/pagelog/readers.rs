//! A standby of the simulated database, and what a reader of it sees: the state that it is said to
//! show, or, where the follower was cut off, the one before or a later one, whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_core::event::{Event, Observer};
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind};
use lifeboat_sqlite::pagelog::{
    LogReplay, Standby, StandbyOrigin, StandbyReplay, StandbyStep, Target,
};

use super::{Broken, History, debug, writer};

/// The standby.
pub(super) struct Readers {
    path: PathBuf,
    standby: Option<Standby>,
    /// What was seen last.
    shown: Vec<u8>,
}

impl Readers {
    /// None yet.
    pub(super) fn none(folder: &Path) -> Self {
        Readers { path: folder.join("readers.db"), standby: None, shown: Vec::new() }
    }
}

impl History {
    /// The standby is brought up to date, and somebody reads it.
    pub(super) fn follow_for_readers(&mut self) -> Result<String, Broken> {
        let Some((base, image)) = self.bases.last_key_value() else { return self.back_up() };
        if !self.readers.path.exists() {
            fs::write(&self.readers.path, &**image).map_err(|error| error.to_string())?;
            self.make_local(&base.clone())?;
        }
        let fault = self.choose_fault(&["standby."]);
        let advanced = self.advance(&self.bases.keys().next_back().cloned().unwrap_or_default());
        self.store.reboot();
        self.power.arm(None);
        let seen = as_read(writer::image(&self.readers.path, &self.folder)?);
        let told = match advanced {
            Ok((base, position)) => {
                self.report.shown.0 += 1;
                if !self.is_state(&base, position, &seen) {
                    return Err(format!("readers with {fault}: {base}+{position} is not shown"));
                }
                format!("{base}+{position}")
            }
            Err(error) if fault == "no fault" => return Err(format!("readers: {error:?}")),
            Err(error) => {
                self.report.shown.1 += 1;
                self.readers.standby = None;
                if seen != self.readers.shown && !self.is_any_state(&seen) {
                    return Err(format!("readers with {fault}, {error:?}: no state is shown"));
                }
                format!("{error:?}")
            }
        };
        self.readers.shown = seen;
        Ok(format!("readers with {fault}: {told}"))
    }

    /// Makes of a restored base one that readers may have open.
    fn make_local(&self, base: &str) -> Result<(), Broken> {
        let place = &self.readers.path;
        let mut file = File::options().read(true).write(true).open(place);
        let file = file.as_mut().map_err(|error| error.to_string())?;
        let made = self.with_chain(base, |chain| {
            StandbyReplay { replay: None, base: chain.base() }.apply(&self.env, file, place)
        })?;
        made.map_err(debug)
    }

    /// As far as the log leads; the state that it says that it shows.
    fn advance(&mut self, newest: &str) -> lifeboat_core::Result<(String, u64)> {
        let repository = self.repository()?;
        let (env, folder) = (self.env.clone(), self.folder.clone());
        if let Some(mut standby) =
            self.readers.standby.take().filter(|one| one.base().name == newest)
        {
            loop {
                match standby.step(&env, &folder)? {
                    StandbyStep::Advanced(_) => {}
                    StandbyStep::Unchanged => {
                        let shown = (newest.to_owned(), standby.moment().position);
                        self.readers.standby = Some(standby);
                        return Ok(shown);
                    }
                    StandbyStep::Lost => break,
                }
            }
        }
        let place = &self.readers.path;
        let brought = self.with_chain(newest, |chain| {
            let replay = LogReplay::to(chain, Target::Latest)?;
            let (folder_of_source, base) = (chain.folder(), chain.base());
            let origin = StandbyOrigin {
                repository: &repository,
                folder: folder_of_source,
                base,
                replay: replay.as_ref(),
            };
            Standby::bring(&env, place, &origin, &folder)
        });
        let standby = brought.map_err(|why| Error::new(Kind::StoreUnavailable, why))??;
        let shown = (newest.to_owned(), standby.moment().position);
        self.readers.standby = Some(standby);
        Ok(shown)
    }

    fn is_state(&self, base: &str, position: u64, seen: &[u8]) -> bool {
        let is_it = |image: &[u8]| as_read(image.to_vec()) == seen;
        match (position, self.recorded.get(&(base.to_owned(), position))) {
            (0, _) => self.bases.get(base).is_some_and(|image| is_it(image)),
            (_, Some(recorded)) => is_it(&recorded.image),
            (_, None) => self.attempted.iter().any(|image| is_it(image)),
        }
    }

    fn is_any_state(&self, seen: &[u8]) -> bool {
        let recorded = self.recorded.values().map(|one| &one.image);
        let mut all = recorded.chain(&self.attempted).chain(self.bases.values());
        all.any(|image| as_read(image.to_vec()) == seen)
    }
}

/// An image without what a standby has of its own: its mode, its counter of changes, and the size
/// that is beside it.
fn as_read(mut image: Vec<u8>) -> Vec<u8> {
    for own in [18..20, 24..32, 92..96] {
        image.get_mut(own).into_iter().for_each(|bytes| bytes.fill(0));
    }
    image
}

/// Counts how often a follower made up for a turn of the `-wal` that it had missed.
#[derive(Default)]
pub(super) struct CaughtUp {
    begun: AtomicU64,
    given_up: AtomicU64,
}

impl CaughtUp {
    pub(super) fn count(&self) -> u64 {
        self.begun.load(Ordering::SeqCst).saturating_sub(self.given_up.load(Ordering::SeqCst))
    }
}

impl Observer for CaughtUp {
    fn observe(&self, event: &Event<'_>) {
        let Event::Detail { message } = event else { return };
        let counted = match message.strip_prefix("its -wal began anew unseen: ") {
            Some("its pages are compared") => &self.begun,
            Some(_) => &self.given_up,
            None => return,
        };
        counted.fetch_add(1, Ordering::SeqCst);
    }
}
