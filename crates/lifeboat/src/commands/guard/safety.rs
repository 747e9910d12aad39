//! The backup that a command runs behind, in the repositories of its source, beside the database,
//! or both; and the way back to it.

use std::path::Path;

use lifeboat_core::backup::BackupOutcome;
use lifeboat_core::env::Env;
use lifeboat_core::guard::{self, Beside, BesideRequest};
use lifeboat_core::manifest::{CheckLevel, Manifest, Method, Purpose, SchemaVersion};
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::{self, FilesChoice, Mapping, Origin, RestoreOutcome, RestoreRequest};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::Guard;
use super::invariants::Before;
use super::tell::Report;
use super::work::Ended;
use crate::commands::backup::{self, Choices};
use crate::config::model::GuardPlace;
use crate::repositories::{self, Opened, Place};
use crate::runs;
use crate::selection;
use crate::ui::units;

/// How long processes that the command left may still have the database open.
const RELEASE_TIMEOUT_MS: u64 = 10_000;

/// As much of a path as stands in the name of a lock, in bytes.
const LOCK_NAME_BYTES_MAX: usize = 200;

/// What can be gone back to. Empty where there was nothing to back up.
#[derive(Default)]
pub(super) struct Safety {
    /// The first one is what a rollback takes.
    pub(super) saved: Vec<Saved>,
}

/// One copy of the database as it was.
pub(super) enum Saved {
    /// A backup.
    Stored {
        /// Where it is.
        repository: Box<Repository>,
        /// The folder of its source.
        folder: String,
        /// It.
        manifest: Box<Manifest>,
    },
    /// A plain copy beside the database.
    Beside(Beside),
}

impl Safety {
    /// Makes all that is asked for. One that fails is an error: the command must not run.
    pub(super) fn make(guard: &Guard<'_>, before: &Before) -> Result<Safety> {
        let mut safety = Safety::default();
        if guard.where_to != GuardPlace::Beside {
            safety.store(guard)?;
        }
        if guard.where_to != GuardPlace::Repository {
            safety.saved.push(Saved::Beside(beside(guard)?));
        }
        if safety.version() != before.version.as_ref() {
            let message = "the schema's version changed while it was backed up: is another \
                           migration running?";
            return Err(
                Error::new(Kind::SourceUnavailable, message).hint("wait until it has ended")
            );
        }
        Ok(safety)
    }

    fn store(&mut self, guard: &Guard<'_>) -> Result<()> {
        let (session, env, target) = (guard.session, guard.env, &guard.target);
        // Before a repository is created: nothing is made for a source that does not exist.
        target.source.inspect()?;
        let places = backup::chosen(target, &repositories::places(session)?, session)?;
        if places.is_empty() {
            let message = format!("`{}` has no repository", target.name);
            return Err(Error::new(Kind::Usage, message).hint("name one with --repo"));
        }
        for place in places {
            let mut saved = None;
            let mut make = |env: &Env, _: &[usize]| {
                vec![store_in(guard, env, &place).map(|stored| {
                    saved = Some(stored);
                    json!({ "outcome": "committed" })
                })]
            };
            let run = (target, &[place.url.as_str()][..]);
            let mut ended = runs::backup(session, env, &guard.run, run, &mut make);
            if let Some(error) = ended.after_failed {
                session.printer.warning(&target.name, &error.to_string());
            }
            ended.results.pop().transpose()?;
            self.saved.push(saved.ok_or_else(|| {
                Error::new(Kind::Locked, "another run backs the source up")
                    .hint("wait for it to end, then run the same command again")
            })?);
        }
        Ok(())
    }

    /// Says in each repository what is about to begin. A program's name alone: its arguments may
    /// hold secrets.
    pub(super) fn begin(&self, env: &Env, program: Option<String>) -> Result<()> {
        for saved in &self.saved {
            if let Saved::Stored { repository, folder, manifest } = saved {
                guard::begin(env, repository, folder, manifest, program.clone())?;
            }
        }
        Ok(())
    }

    /// Says in each repository how it ended.
    pub(super) fn end(&self, env: &Env, report: &Report, ended: &Ended) -> Result<()> {
        for saved in &self.saved {
            if let Saved::Stored { repository, folder, manifest } = saved {
                let by = (ended.exit_code, ended.signal);
                let to = report.to.clone();
                guard::end(env, repository, folder, manifest, report.ending, to, by)?;
            }
        }
        Ok(())
    }

    /// The version of the schema that a restore brings back.
    pub(super) fn version(&self) -> Option<&SchemaVersion> {
        match self.saved.first()? {
            Saved::Stored { manifest, .. } => manifest.schema_version.as_ref(),
            Saved::Beside(copy) => copy.schema_version.as_ref(),
        }
    }

    /// The command that goes back, if there is something to go back to.
    pub(super) fn way_back(&self, guard: &Guard<'_>) -> Option<String> {
        self.saved.first().map(|saved| saved.way_back(guard))
    }

    /// Puts the database back as it was, and looks whether it is.
    pub(super) fn restore(&self, guard: &Guard<'_>) -> Result<RestoreOutcome> {
        let saved = self
            .saved
            .first()
            .ok_or_else(|| Error::new(Kind::NotCovered, "there was no database to go back to"))?;
        let target = &guard.target;
        let engine = target.engine()?;
        let held = wait_for_release(guard)?;
        let request = RestoreRequest {
            origin: saved.origin(),
            replay: None,
            engine,
            to: Some(guard.place.clone()),
            files: FilesChoice::No,
            files_root: None,
            mapping: Mapping::nothing(),
            check: CheckLevel::Quick,
            check_memory_bytes: target.options.check_memory_bytes,
            // A service that is just about to start has not the database open and is left alone.
            service: target.service.as_ref().filter(|_| held),
            scratch_folder: &guard.session.folders.scratch,
        };
        let plan = restore::plan(guard.env, &request)?;
        let outcome = restore::apply(guard.env, &request, &plan)?;
        let now = Before::look(&guard.place, &[])?.version;
        if now.as_ref() != self.version() {
            let message = format!(
                "{} was restored, and has another version of the schema than before",
                guard.place.display()
            );
            return Err(Error::new(Kind::CheckFailed, message)
                .hint("is another migration running? `lifeboat list` has all backups"));
        }
        Ok(outcome)
    }

    /// What can be gone back to, as JSON.
    pub(super) fn to_json(&self, guard: &Guard<'_>) -> Value {
        let list = self.saved.iter().map(|saved| {
            let restore = saved.way_back(guard);
            match saved {
                Saved::Stored { repository, folder, manifest } => json!({
                    "place": "repository",
                    "repository": repository.url(),
                    "folder": folder,
                    "backup": manifest.name,
                    "id": manifest.id,
                    "taken_at": manifest.taken_at,
                    "schema_version": manifest.schema_version,
                    "restore": restore,
                }),
                Saved::Beside(copy) => json!({
                    "place": "beside",
                    "path": copy.path,
                    "plain_bytes": copy.plain_bytes,
                    "sha256": copy.sha256,
                    "taken_at": copy.taken_at,
                    "schema_version": copy.schema_version,
                    "restore": restore,
                }),
            }
        });
        list.collect()
    }
}

impl Saved {
    fn origin(&self) -> Origin<'_> {
        match self {
            Saved::Stored { repository, folder, manifest } => {
                Origin::Backup { repository, folder, manifest }
            }
            Saved::Beside(copy) => Origin::File { path: &copy.path, keys: None },
        }
    }

    fn way_back(&self, guard: &Guard<'_>) -> String {
        match self {
            Saved::Stored { folder, manifest, .. } => {
                backup::restore_command(guard.session, folder, manifest)
            }
            Saved::Beside(copy) => format!(
                "lifeboat restore {} --to {}",
                units::shell_word(&copy.path.to_string_lossy()),
                units::shell_word(&guard.place.to_string_lossy())
            ),
        }
    }

    /// For people: where it is.
    pub(super) fn shown(&self) -> String {
        match self {
            Saved::Stored { repository, folder, manifest } => {
                format!("{} in {}/{folder}", units::one_line(&manifest.name), repository.url())
            }
            Saved::Beside(copy) => units::one_line(&copy.path.to_string_lossy()),
        }
    }
}

/// A backup in one repository, as the command `backup` makes it.
fn store_in(guard: &Guard<'_>, env: &Env, place: &Place) -> Result<Saved> {
    let target = &guard.target;
    let choices = Choices {
        method: Some(method(target.options.method)),
        check: Some(guard.check),
        purpose: Some(Purpose::Migration),
        ..Choices::default()
    };
    let request = backup::request(guard.session, env, target, place, choices)?;
    let repository = place.open_or_create(env)?;
    let (BackupOutcome::Committed { folder, manifest }
    | BackupOutcome::Unchanged { folder, manifest }) =
        lifeboat_core::backup::run(env, &repository, &request)?;
    for warning in &manifest.warnings {
        guard.session.printer.detail(warning);
    }
    Ok(Saved::Stored { repository: Box::new(repository), folder, manifest })
}

/// A service must not be stopped and started again before a migration of its own.
fn method(configured: Method) -> Method {
    match configured {
        Method::Cold => Method::Online,
        other => other,
    }
}

fn beside(guard: &Guard<'_>) -> Result<Beside> {
    let target = &guard.target;
    let mut options = target.options.clone();
    options.method = method(options.method);
    options.check = guard.check;
    let copy = guard::copy_beside(
        guard.env,
        &BesideRequest {
            source: &*target.source,
            engine: target.engine()?,
            place: &guard.place,
            options,
            zone: &guard.session.surroundings.time_zone,
        },
    )?;
    for warning in &copy.warnings {
        guard.session.printer.warning(&target.name, warning);
    }
    Ok(copy)
}

/// Waits until nobody has the database open, as long as that may take. Whether somebody still has
/// it.
fn wait_for_release(guard: &Guard<'_>) -> Result<bool> {
    let engine = guard.target.engine()?;
    let begun_ms = guard.env.clock.monotonic_ms();
    loop {
        if engine.holders(&guard.place)?.is_empty() {
            return Ok(false);
        }
        let stopped_by_us = guard.target.service.is_some();
        if stopped_by_us || guard.env.elapsed_ms(begun_ms) > RELEASE_TIMEOUT_MS {
            return Ok(true);
        }
        guard.env.clock.sleep_ms(50);
    }
}

/// The newest backup of a database that is not there, where a repository that can be read has one.
pub(super) fn known_backup(guard: &Guard<'_>) -> Option<String> {
    let places = repositories::places(guard.session).ok()?;
    places.into_iter().find_map(|place| {
        let repository = place.open(guard.env).ok()?;
        let catalog = repository.catalog().ok()?;
        let opened = Opened { place, repository, catalog };
        let entry = selection::own_entry(guard.env, &opened, &guard.target).ok()??;
        Some(entry.newest_good()?.name.clone())
    })
}

/// A part of a file's name that stands for a path.
pub(super) fn lock_name(place: &Path) -> String {
    let text = place.to_string_lossy().replace('%', "%25").replace('/', "%2F");
    let from = text.len().saturating_sub(LOCK_NAME_BYTES_MAX);
    let from = (from..).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[from..].to_owned()
}
