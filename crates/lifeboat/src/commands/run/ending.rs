//! How following ends: each database that is followed is looked at a last time, so that all that
//! was committed before is stored, and it is said where that is not so.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::pagelog::{FollowBounds, Step};

use super::{Followed, Job, Told, following_of};
use crate::session::Session;
use crate::ui::units;

/// After a signal a look may go on for so long. The agent waits for twice as long, systemd longer.
const GRACE_MS: u64 = 15_000;
/// So many databases are named of which not all is stored.
const NAMED: usize = 5;

/// The world in which what is followed is looked at.
pub(super) fn looking(env: &Env) -> Env {
    Env { stop: env.stop.with_grace(GRACE_MS), ..env.clone() }
}

impl Job<'_> {
    /// Looks until all is stored that was committed before, if it is followed.
    pub(super) fn finish(&self, bounds: FollowBounds) -> Vec<Told> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(follower) = &mut followed.follower else { return Vec::new() };
        let (mut told, mut failed) = (Vec::new(), None);
        match follower.finish(&self.looking) {
            Err(error) => failed = Some(error),
            Ok(steps) => {
                for step in steps {
                    match step {
                        Step::Unchanged => {}
                        Step::Added(increment) => {
                            let following = following_of(follower, bounds, &increment.base);
                            told.push(Told::Added(increment, following));
                        }
                        Step::BackupNeeded(why) => {
                            let error =
                                Error::new(Kind::Refused, format!("it needs a backup: {why}"));
                            let hint = format!("lifeboat backup {}", self.target.name);
                            failed = Some(error.hint(hint));
                        }
                    }
                }
            }
        }
        followed.is_finished = failed.is_none();
        followed.unfinished = failed.as_ref().map(Error::kind);
        let name = &self.target.name;
        let end = |error: Error| Told::Failed(error.context(format!("the last look at `{name}`")));
        told.extend(failed.map(end));
        told
    }
}

/// Says of which databases not all is stored. That is an error where one of them was followed until
/// then: what is not followed was told of, and is no reason to call a regular end a failure.
pub(super) fn tell(
    session: &Session,
    followed: &BTreeMap<(String, String), Followed>,
) -> Result<()> {
    let left = followed.iter().filter(|(_, followed)| !followed.is_finished);
    let mut left: Vec<&str> = left.map(|((name, _), _)| &name[..]).collect();
    left.dedup();
    let printer = &session.printer;
    if followed.is_empty() {
        printer.note("ended: nothing was followed");
        return Ok(());
    }
    if left.is_empty() {
        printer.note("ended: all that was committed until then is stored");
        return Ok(());
    }
    let more = match left.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<String> =
        left.iter().take(NAMED).map(|name| format!("`{}`", units::one_line(name))).collect();
    let named = named.join(", ");
    let message = format!("ended, but what was committed last to {named}{more} may not be stored");
    let hint = format!(
        "begin `lifeboat run` again, or back it up: lifeboat backup {}",
        units::one_line(left[0])
    );
    match followed.values().find_map(|followed| followed.unfinished) {
        Some(kind) => Err(Error::new(kind, message).hint(hint)),
        None => {
            printer.warning("", &format!("{message}: {hint}"));
            Ok(())
        }
    }
}
