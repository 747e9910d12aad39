//! `lifeboat pin`, `unpin` and `undelete`: what a person says against the retention.

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::policy::Hold;
use lifeboat_core::{Error, Kind, Result, moment, prune};
use serde_json::json;

use crate::config::values::Period;
use crate::repositories;
use crate::selection::{self, Selected};
use crate::session::Session;
use crate::ui::units;

/// Keep a backup whatever the retention says
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup: SOURCE, SOURCE@TIME, or its name
    backup: String,
    /// Why it must stay: `lifeboat show` and `lifeboat prune --dry-run` tell it
    #[arg(long)]
    reason: String,
    /// Until when: a moment, or a length of time from now such as 90d; for ever without it
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// End the pin of a backup
#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    /// The backup: SOURCE, SOURCE@TIME, or its name
    backup: String,
}

/// Take back a backup that a prune removed
///
/// Possible until its bytes are deleted: by the first prune after seven days, or after 24 hours
/// while the repository's disk is 80 % full. The next prune removes it again, unless it is pinned.
#[derive(Debug, clap::Args)]
pub(crate) struct UndeleteArgs {
    /// The backup's name, as `lifeboat prune --dry-run` shows it
    backup: String,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let until = args.until.as_deref().map(|until| end(session, &env, until)).transpose()?;
    let (selected, entry) = selected(session, &env, &args.backup)?;
    let hold = Hold { reason: args.reason, until };
    prune::pin(&env, &selected.repository, &entry, &selected.manifest, &hold)?;
    let zone = &session.surroundings.time_zone;
    let until =
        until.map_or("for ever".to_owned(), |at| format!("until {}", units::moment(at, zone)));
    done(session, "pinned", &selected.manifest.name, &format!(" {until}"))
}

pub(crate) fn run_unpin(session: &Session, args: UnpinArgs) -> Result<ExitCode> {
    let env = session.env()?;
    let (selected, entry) = selected(session, &env, &args.backup)?;
    match prune::unpin(&env, &selected.repository, &entry, &selected.manifest)? {
        true => done(session, "unpinned", &selected.manifest.name, ""),
        false => {
            let message = format!("{} is not pinned", selected.manifest.name);
            Err(Error::new(Kind::NotCovered, message).hint("lifeboat show tells what is pinned"))
        }
    }
}

pub(crate) fn run_undelete(session: &Session, args: UndeleteArgs) -> Result<ExitCode> {
    let env = session.env()?;
    let (opened, failures) = repositories::open_all(session, &env)?;
    let name = &args.backup;
    let mut taken_back = false;
    let mut refused = None;
    for one in &opened {
        for entry in &one.catalog.sources {
            if !entry.tombstones.iter().any(|tombstone| tombstone.backup == *name) {
                continue;
            }
            match prune::undelete(&one.repository, entry, name) {
                Ok(()) => taken_back = true,
                Err(error) => refused = Some(error),
            }
        }
    }
    match (taken_back, refused) {
        (true, None) => {
            done(
                session,
                "taken back",
                name,
                "; the next prune removes it again unless it is pinned",
            )?;
            super::incomplete(&failures)
        }
        (_, Some(error)) => Err(error),
        (false, None) => {
            let message = format!("no backup `{}` was removed", units::one_line(name));
            let error = Error::new(Kind::NotCovered, message);
            Err(error.hint("lifeboat list --all shows what was removed, and by which name"))
        }
    }
}

/// The backup that is meant, with what its repository says of its source.
pub(super) fn selected(
    session: &Session,
    env: &Env,
    argument: &str,
) -> Result<(Selected, SourceEntry)> {
    let selected = selection::backup(session, env, argument, None)?;
    let catalog = selected.repository.catalog()?;
    let found = catalog.sources.into_iter().find(|entry| entry.folder == selected.folder);
    match found {
        Some(entry) => Ok((selected, entry)),
        None => {
            let message = format!("`{}` is gone from the repository", selected.folder);
            Err(Error::new(Kind::NotCovered, message).hint("lifeboat list"))
        }
    }
}

/// A moment in the future, or a length of time from now.
fn end(session: &Session, env: &Env, text: &str) -> Result<Timestamp> {
    let now = env.clock.now();
    if let Ok(period) = text.parse::<Period>() {
        let milliseconds = i64::try_from(period.milliseconds).unwrap_or(i64::MAX);
        let later = now.checked_add(SignedDuration::from_millis(milliseconds));
        return later.map_err(|error| {
            Error::new(Kind::Usage, format!("`{text}` from now is beyond the calendar"))
                .caused_by(error)
                .hint("leave --until away to pin it for ever")
        });
    }
    moment::parse(text, now, &session.surroundings.time_zone)
}

fn done(session: &Session, what: &str, backup: &str, more: &str) -> Result<ExitCode> {
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "outcome": what, "backup": backup }))?,
        false => session.printer.note(&format!("{what}: {}{more}", units::one_line(backup))),
    }
    Ok(ExitCode::SUCCESS)
}
