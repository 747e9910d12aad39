//! What is migrated: a live database, or a restore point in a scratch place that is removed.

use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::policy::Hold;
use lifeboat_core::{Error, Kind, Result, prune};
use lifeboat_sqlite::Moment;

use crate::commands::diff::side::{Holder, Side};
use crate::commands::pin;
use crate::session::Session;

/// A database of SQLite that can be read.
pub(super) struct Source {
    /// What people call it.
    pub(super) label: String,
    path: PathBuf,
    /// The backup that it was restored from.
    backup: Option<String>,
    is_scratch: bool,
    // What was restored goes with it.
    _holder: Holder,
}

impl Source {
    /// Finds what an argument means; a restore point is restored.
    pub(super) fn open(
        session: &Session,
        env: &Env,
        argument: &str,
        at: Option<&str>,
    ) -> Result<Self> {
        let is_missing = at.is_none()
            && !argument.contains('@')
            && argument.contains(['/', '.'])
            && !Path::new(argument).exists();
        if is_missing {
            let message = format!("{argument} is not there");
            return Err(Error::new(Kind::SourceUnavailable, message)
                .hint("name a database's file, or a restore point: SOURCE@latest, SOURCE@TIME"));
        }
        let holder = Holder::default();
        let side = match at {
            Some(at) => Side::open_at(session, env, &holder, argument, at)?,
            None => Side::open(session, env, &holder, argument)?,
        };
        session.progress.clear();
        let Some(path) = side.path else {
            let message = format!("{} is no database of SQLite", side.label);
            return Err(Error::new(Kind::Usage, message).hint("migrate SQLITE POSTGRES-URL"));
        };
        let is_scratch = !Path::new(argument).exists() && side.backup.is_some();
        Ok(Source { label: side.label, path, backup: side.backup, is_scratch, _holder: holder })
    }

    /// One moment of it.
    pub(super) fn moment(&self, session: &Session, env: &Env, workers: usize) -> Result<Moment> {
        match self.is_scratch {
            true => Moment::of_file(&self.path, workers),
            false => Moment::open(env, &self.path, workers, &session.folders.scratch),
        }
    }

    /// Whether it comes from a repository.
    pub(super) fn is_restored(&self) -> bool {
        self.backup.is_some()
    }

    /// How it is read, for the report.
    pub(super) fn way(&self, moment: &Moment) -> String {
        match (&self.backup, moment.is_live()) {
            (Some(backup), _) => format!("restored from the backup {backup}"),
            (None, true) => "one moment of the live database, while its application went on".into(),
            (None, false) => "a copy of it, made under one lock".into(),
        }
    }

    /// The size of its file.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the backup that it was restored from, whatever the retention says. Its name.
    pub(super) fn pin(&self, session: &Session, env: &Env, url: &str) -> Result<Option<String>> {
        let Some(name) = &self.backup else { return Ok(None) };
        let (selected, entry) = pin::selected(session, env, name)?;
        prune::pin(env, &selected.repository, &entry, &selected.manifest, &hold(url))?;
        Ok(Some(name.clone()))
    }
}

/// Why the backup before a migration stays.
pub(super) fn hold(url: &str) -> Hold {
    Hold { reason: format!("before the migration to {url}"), until: None }
}
