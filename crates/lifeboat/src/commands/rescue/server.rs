//! Looks at a database of a server, or a whole cluster: whether it answers, what the last restore
//! kept, the restore points of every repository, and dumps that scripts left.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use lifeboat_core::Result;
use lifeboat_core::env::Env;
use lifeboat_postgres::restore::undo_plan;

use super::look::{entries, good, opened};
use super::offers::{Copy, Facts, Live, Way};
use super::scripts;
use super::steps::Step;
use crate::session::Session;
use crate::sources::Target;

/// So many good backups of a repository are offered, the newest first.
const BACKUPS_MAX: usize = 3;

/// Gathers the facts.
pub(super) fn look(
    session: &Session,
    env: &Env,
    target: &Target,
    look_in: &[PathBuf],
) -> Result<Facts> {
    let mut notes = Vec::new();
    let live = match target.source.inspect() {
        // It answers, which is no check of what is in it.
        Ok(found) => {
            notes.push(format!(
                "{}; what is in it was not checked: see lifeboat drill, or amcheck",
                found.description
            ));
            Live::Sound(None)
        }
        Err(error) => Live::Unreadable(error.to_string()),
    };
    let opened = opened(session, env, &mut notes);
    let mut copies = Vec::new();
    for (one, entry) in entries(env, target, &opened) {
        let label = one.place.label();
        copies.extend(good(entry).take(BACKUPS_MAX).map(|backup| {
            let mut notes = Vec::new();
            if target.is_cluster() {
                notes.push(
                    "with the log that follows it: all that was archived, or --at TIME".to_owned(),
                );
            }
            Copy {
                way: Way::Backup,
                title: format!("{} of {label}, a backup", backup.name),
                as_of: backup.taken_at,
                rows: backup.rows.as_ref().map(|rows| rows.values().sum()),
                unsound: None,
                notes,
                steps: vec![Step::command(&["restore", &backup.name, "--repo", label])],
            }
        }));
    }
    if let Some(database) = &target.database
        && let Ok(client) = database.client()
        && let Ok(plan) = undo_plan(env, &client)
    {
        copies.push(Copy {
            way: Way::Kept,
            title: format!("{}, kept by the last restore", plan.kept),
            as_of: kept_at(&plan.kept).unwrap_or_else(|| env.clock.now()),
            rows: None,
            unsound: None,
            notes: Vec::new(),
            steps: vec![Step::command(&["undo", &target.name])],
        });
    }
    match &target.database {
        Some(database) => {
            copies.extend(scripts::dumps(session, env, (target, database), look_in, &mut notes));
        }
        None if !look_in.is_empty() => {
            notes
                .push("--look-in finds nothing that takes the place of a whole cluster".to_owned());
        }
        None => {}
    }
    Ok(Facts {
        now: env.clock.now(),
        name: target.name.clone(),
        place: target.location()?,
        live,
        written: None,
        copies,
        salvage: None,
        fresh: None,
        notes,
    })
}

/// When a database was kept, of its name: `chat_before_restore_20250108_140000`.
fn kept_at(name: &str) -> Option<Timestamp> {
    let digits = name.rsplit_once("_before_restore_")?.1;
    let time = civil::DateTime::strptime("%Y%m%d_%H%M%S", digits).ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}
