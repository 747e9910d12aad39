//! The backup before a migration: the way back, which no retention takes.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::source::hold;
use crate::commands::backup::{self, Choices};
use crate::repositories;
use crate::runs::{self, RunArgs};
use crate::session::Session;
use crate::sources::{self, Target};

/// A backup that stays: the way back. The names of what was made.
pub(super) fn back_up(
    session: &Session,
    env: &Env,
    sqlite: &str,
    url: &str,
) -> Result<Vec<String>> {
    let config = &session.loaded()?.config;
    let targets = sources::named(config, &[sqlite.to_owned()])?;
    let Some(target) = targets.first() else {
        return Err(Error::new(Kind::Usage, format!("{sqlite} is no source")));
    };
    target.source.inspect()?;
    let places = backup::chosen(target, &repositories::places(session)?, session)?;
    if places.is_empty() {
        let message = "there is no repository for the backup before the migration";
        return Err(Error::new(Kind::Usage, message)
            .hint("name one with --repo, or go without it: --no-backup"));
    }
    let mut names = Vec::new();
    for place in places {
        let mut make = |env: &Env, _: &[usize]| {
            let made = store(session, env, target, &place, url);
            vec![made.map(|name| {
                names.push(name);
                json!({ "outcome": "committed" })
            })]
        };
        let run = (target, &[place.url.as_str()][..]);
        let ended = runs::backup(session, env, &RunArgs::default(), run, &mut make);
        ended.results.into_iter().collect::<Result<Vec<Value>>>()?;
    }
    session.progress.clear();
    names.iter().for_each(|name| session.printer.note(&format!("backed up and pinned: {name}")));
    Ok(names)
}

fn store(
    session: &Session,
    env: &Env,
    target: &Target,
    place: &repositories::Place,
    url: &str,
) -> Result<String> {
    use lifeboat_core::backup::BackupOutcome;
    let repository = place.open_or_create(env)?;
    let choices = Choices { pin: Some(hold(url)), ..Choices::default() };
    let mut request = backup::request(session, env, target, place, choices)?;
    // An unchanged database that was backed up before would have nothing to pin.
    request.on_change = false;
    match lifeboat_core::backup::run(env, &repository, &request)? {
        BackupOutcome::Committed { manifest, .. } => Ok(manifest.name),
        BackupOutcome::Unchanged { .. } => {
            Err(Error::new(Kind::Failed, "the backup before the migration was not made"))
        }
    }
}
