//! What the settings of a server were before we set them: kept in our state folder, so that they
//! can be set again. It is lost with the folder; what was set is shown in each plan as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use lifeboat_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use crate::private;
use crate::session::Session;
use crate::sources::Target;

/// The settings of one server, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) settings: BTreeMap<String, Was>,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Was {
    /// What it was.
    pub(super) value: String,
    /// Whether it was set by ALTER SYSTEM; else it comes back when ours is taken away.
    pub(super) by_alter_system: bool,
    /// What we set it to: what is another now was set by somebody since, and stays.
    pub(super) ours: String,
}

fn path(session: &Session, target: &Target, system: &str) -> Option<PathBuf> {
    let folder = session.folders.locks.as_deref()?.parent()?.join("installed");
    // A name of a source is one of a file.
    Some(folder.join(format!("postgres-{}-{system}.json", target.name)))
}

impl Before {
    /// What is known of a server; nothing where nothing was kept.
    pub(super) fn read(session: &Session, target: &Target, system: &str) -> Before {
        let text = path(session, target, system).and_then(|path| fs::read(path).ok());
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Notes a setting that we set: of one that we set before, the first value stays.
    pub(super) fn note(&mut self, name: &str, was: Was) {
        match self.settings.get_mut(name) {
            Some(known) => known.ours = was.ours,
            None => drop(self.settings.insert(name.to_owned(), was)),
        }
    }

    /// Keeps it. Before anything is changed.
    pub(super) fn write(&self, session: &Session, target: &Target, system: &str) -> Result<()> {
        let Some(path) = path(session, target, system) else {
            return Err(Error::new(Kind::Failed, "there is no folder for state"));
        };
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let staged = path.with_extension("new");
        let _ = fs::remove_file(&staged);
        private::write_new(&staged, &text)?;
        let failed =
            |error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error);
        fs::rename(&staged, &path).map_err(failed)
    }

    /// Forgets it.
    pub(super) fn forget(session: &Session, target: &Target, system: &str) {
        if let Some(path) = path(session, target, system) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays_whatever_we_set_later() {
        let was = |value: &str, ours: &str| Was {
            value: value.to_owned(),
            by_alter_system: true,
            ours: ours.to_owned(),
        };
        let mut before = Before::default();
        before.note("archive_command", was("pgbackrest archive-push %p", "a wal push %p"));
        before.note("archive_command", was("a wal push %p", "b wal push %p"));
        let kept = &before.settings["archive_command"];
        assert_eq!(*kept, was("pgbackrest archive-push %p", "b wal push %p"));
    }
}
