//! `lifeboat adopt REPLICA`: the states of a replica of Litestream become a backup and its log.

use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::litestream::{self, Target as Meant};
use serde_json::json;

use super::{Args, place};
use crate::commands::backup::{Choices, request};
use crate::replicas::Named;
use crate::session::Session;
use crate::sources::{self, Target};
use crate::ui::printer::Style;
use crate::ui::units;

pub(super) fn run(session: &Session, env: &Env, args: &Args, named: &Named) -> Result<ExitCode> {
    let target = target(session, args)?;
    let place = place(session)?;
    let choices = Choices { check: args.check.map(Into::into), ..Choices::default() };
    let request = request(session, env, &target, &place, choices)?;
    let (replica, url) = (&named.replica, units::one_line(&named.replica.url()));
    // What is missing is told before anything is stored.
    let newest = replica.meant(Meant::Latest)?;
    let states = replica.states();
    if args.dry_run {
        let oldest = states.first().copied().unwrap_or(newest);
        if session.printer.json() {
            session.printer.json_data(&json!({
                "outcome": "planned", "replica": named.replica.url(), "source": target.name,
                "states": states.len(), "from": oldest.at, "until": newest.at,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        session.printer.data(&format!(
            "plan for {url}:\n  1. restore its oldest state ({}) to a scratch place, back it up to \
             {} as `{}`\n  2. add {} later states to its log, up to {}\n",
            oldest.at,
            place.label(),
            units::one_line(&target.name),
            states.len().saturating_sub(1),
            newest.at
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let repository = place.open_or_create(env)?;
    let imported = litestream::import(env, replica, &repository, &request)?;
    session.progress.clear();
    for note in &imported.notes {
        session.printer.warning(&target.name, note);
    }
    if session.printer.json() {
        session.printer.json_data(&json!({
            "outcome": "adopted", "replica": named.replica.url(), "source": imported.folder,
            "backup": imported.base, "position": imported.position, "states": imported.states,
            "from": imported.from.at, "until": imported.until.at,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let good = session.printer.paint_err(Style::Good, "adopted");
    session.printer.note(&format!(
        "{good} {} states of {url}, from {} to {}, as {}+{}\n  next     lifeboat run {}",
        imported.states,
        imported.from.at,
        imported.until.at,
        units::one_line(&imported.base),
        imported.position,
        units::shell_word(&imported.folder)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Whose states they are: nothing in a replica says it.
fn target(session: &Session, args: &Args) -> Result<Target> {
    let [source] = &args.source[..] else {
        return Err(Error::new(Kind::Usage, "of which database is the replica?")
            .hint("say it: lifeboat adopt REPLICA --source /path/of/the.db"));
    };
    if args.remove_originals || args.zone.is_some() || args.recursive {
        let message = "--remove-originals, --zone and --recursive are for files of scripts";
        return Err(Error::new(Kind::Usage, message).hint("leave them away"));
    }
    if let Some(target) = sources::configured_at(&session.loaded()?.config, source)? {
        return Ok(target);
    }
    if !source.contains('/') {
        let message = format!("no source is configured as `{}`", units::one_line(source));
        return Err(Error::new(Kind::Usage, message)
            .hint("name the path of its database: --source /path/of/the.db"));
    }
    let path = sources::place_of(Path::new(source))?;
    Ok(Target::database(sources::name_of(&path), path))
}
