//! How full the places of repositories are, and when they will be.

use lifeboat_core::env::Env;
use lifeboat_core::store::Space;
use serde::Serialize;

use crate::repositories::Opened;
use crate::session::Session;
use crate::standing::{Forecast, SpaceHistory};
use crate::ui::units;

/// The disk below a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// The repository's URL.
    pub(crate) repository: String,
    /// How full it is.
    pub(crate) space: Space,
    /// When it will be full, where this host knows how it went so far.
    pub(crate) forecast: Option<Forecast>,
}

impl Disk {
    /// What is wrong with it.
    pub(crate) fn complaint(&self) -> String {
        let free = units::bytes(self.space.free_bytes);
        let percent = self.space.used_percent();
        format!("the disk of the repository is {percent} % full, {free} are left")
    }
}

/// The disks of those repositories that know theirs. One that does not say how full it is is a
/// warning and left out.
pub(crate) fn of(session: &Session, env: &Env, opened: &[Opened]) -> Vec<Disk> {
    let now = env.clock.now();
    let mut disks = Vec::new();
    for one in opened {
        let repository = one.repository.url();
        match one.repository.store().space() {
            Ok(space) => disks.extend(space.map(|space| {
                let mut history = SpaceHistory::of(session, &repository);
                history.note(session, now, space);
                let forecast = history.forecast(now, space);
                Disk { repository, space, forecast }
            })),
            Err(error) => env.warn(&repository, &error.to_string()),
        }
    }
    disks
}
