//! Rotation: by which rule the backups of a source go in a repository, and the prune that follows
//! a backup. It asks nobody: what needs an approval waits for it, and the backup is good.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::policy::{Floors, Hold, Keep};
use lifeboat_core::prune::{
    self, Action, Forecast, GRACE, LogLevels, LogRule, MOMENTS_MAX, PruneRequest,
};
use lifeboat_core::repository::Repository;
use lifeboat_core::retention;
use lifeboat_core::store::Space;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::{WalRule, WorldOfRule};
use lifeboat_sqlite::pagelog::{LogThinner, Packing, Resolution};
use serde_json::{Value, json};

use crate::config::schedule::Schedule;
use crate::repositories::Place;
use crate::session::Session;
use crate::sources::Target;
use crate::ui::units;

/// So far the end of a backup is foreseen when it is locked.
const FORESEEN: SignedDuration = SignedDuration::from_hours(400 * 24);

/// A number of days for which backups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Days(u16);

impl Days {
    /// What the scripts with these variables take where none is said.
    pub(crate) const DEFAULT: Days = Days(7);

    const MOST: u16 = 36_500;

    /// The number.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// As milliseconds.
    pub(crate) fn milliseconds(self) -> u64 {
        u64::from(self.0) * 24 * 60 * 60 * 1000
    }

    fn duration(self) -> SignedDuration {
        SignedDuration::from_hours(i64::from(self.0) * 24)
    }

    /// What holds a backup that is made now with this number, whatever a later run asks for.
    pub(crate) fn hold(self, now: Timestamp) -> Hold {
        let until = now.checked_add(self.duration()).unwrap_or(Timestamp::MAX);
        Hold { reason: format!("the run that made it asked for {self}"), until: Some(until) }
    }
}

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let days = text.parse().ok().filter(|days| digits && (1..=Days::MOST).contains(days));
        days.map(Days).ok_or_else(|| format!("write a number of days, 1 to {}", Days::MOST))
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} day{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// What is kept of a source in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    keep: Keep,
    also_within: Option<SignedDuration>,
    /// Of a source that has a log: how far back any moment can be restored, where that is limited.
    log: Option<Option<SignedDuration>>,
    /// How finely the states of page logs can be told apart; `None` where all are kept.
    resolution: Option<Resolution>,
}

impl Rule {
    /// The repository's rule, else the source's; `days` keep more than that and never less. Without
    /// a rule, the days are one: the newest backup of all, and what is younger. `None` where nobody
    /// says what to keep.
    pub(crate) fn of(place: &Place, target: &Target, days: Option<Days>) -> Option<Rule> {
        let keep = place.keep.as_ref().or(target.keep.as_ref()).cloned();
        let newest = Keep { within: Some(SignedDuration::ZERO), ..Keep::default() };
        let resolution = place.resolution.or(target.resolution);
        let forever = Keep { forever: true, ..Keep::default() };
        let keep = keep.or_else(|| days.map(|_| newest)).or(resolution.map(|_| forever))?;
        let is_thinned = resolution.is_some() || !(keep.forever || keep.is_empty());
        let resolution = is_thinned.then(|| resolution.unwrap_or_default());
        let window = target.log_window_ms.map(|milliseconds| {
            SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
        });
        let log = target.is_cluster().then_some(window);
        Some(Rule { keep, also_within: days.map(Days::duration), log, resolution })
    }

    fn log(&self, env: &Env) -> Option<Arc<dyn LogRule>> {
        let window = self.log?;
        Some(Arc::new(WalRule { window, env: WorldOfRule(env.clone()) }))
    }

    /// Who thins out logs by this rule, and packs them.
    pub(crate) fn levels(&self) -> Arc<dyn LogLevels> {
        let (resolution, packing) = (self.resolution, Packing::default());
        Arc::new(LogThinner { resolution, packing })
    }

    /// What is kept, without what one run asked for.
    pub(crate) fn keep(&self) -> &Keep {
        &self.keep
    }

    /// What core is asked for.
    pub(crate) fn request<'a>(
        &self,
        session: &Session,
        env: &Env,
        repository: &Repository,
        folder: &'a str,
    ) -> PruneRequest<'a> {
        PruneRequest {
            folder,
            keep: self.keep.clone(),
            also_within: self.also_within,
            floors: Floors::default(),
            grace: GRACE,
            space: space_of(session, env, repository),
            log: self.log(env),
            levels: Some(self.levels()),
        }
    }
}

/// How full the repository's place is; `None` where its store does not know.
fn space_of(session: &Session, env: &Env, repository: &Repository) -> Option<Space> {
    if let Some(used_bytes) = session.surroundings.disk_used_percent() {
        return Some(Space { used_bytes, free_bytes: 100_u64.saturating_sub(used_bytes) });
    }
    repository.store().space().unwrap_or_else(|error| {
        env.warn(&repository.url(), &format!("cannot ask how full it is: {error}"));
        None
    })
}

/// How the prune after a backup ended.
pub(crate) struct Rotated {
    /// What the result of the backup says of it.
    pub(crate) json: Value,
    /// What a person should read, in a line.
    pub(crate) note: Option<String>,
    /// What a person must do, or know.
    pub(crate) warning: Option<String>,
}

/// Prunes a source after its backup is in that repository. An error leaves the backup good.
/// `command` is the one that prunes this source by hand.
pub(crate) fn after_backup(
    session: &Session,
    env: &Env,
    repository: &Repository,
    folder: &str,
    rule: Option<&Rule>,
    command: &str,
) -> Result<Rotated> {
    retention::extend(env, repository, folder)?;
    let Some(rule) = rule else {
        return Ok(Rotated {
            json: json!({ "outcome": "no-rule" }),
            note: None,
            warning: Some("nothing says what to keep, so nothing is pruned: write `keep`".into()),
        });
    };
    let request = rule.request(session, env, repository, folder);
    let plan = prune::plan(env, repository, &request)?;
    if let Some(gate) = plan.gates.iter().find(|gate| !gate.opens_with_approval) {
        return Ok(Rotated {
            json: json!({ "outcome": "refused", "plan": plan.id, "gates": plan.gates }),
            note: None,
            warning: Some(format!("nothing is pruned: {}", gate.message)),
        });
    }
    if let Some(gate) = plan.gates.first() {
        let command = format!("{command} --approve {}", plan.id);
        let warning = format!(
            "nothing is pruned before someone approves it: {}; look with --dry-run, then: {command}",
            gate.message
        );
        let json = json!({
            "outcome": "needs-approval", "plan": plan.id, "gates": plan.gates, "command": command,
        });
        return Ok(Rotated { json, note: None, warning: Some(warning) });
    }
    let locks = session.folders.locks.as_deref();
    let pruned = match prune::apply(env, repository, &request, &plan, None, locks) {
        // The one that is running does it, or the next backup.
        Err(error) if error.kind() == Kind::Locked => {
            return Ok(Rotated {
                json: json!({ "outcome": "waiting", "plan": plan.id, "why": error.message() }),
                note: Some(format!("nothing is pruned for now: {error}")),
                warning: None,
            });
        }
        pruned => pruned?,
    };
    let outcome = if plan.is_idle() { "nothing-to-do" } else { "pruned" };
    let parts = [
        (pruned.unmarked.len(), "taken back".to_owned()),
        (pruned.marked.len(), "removed".to_owned()),
        (pruned.log_objects, "files of the log deleted".to_owned()),
        (pruned.thinned.deleted, "files of logs merged or deleted".to_owned()),
        (pruned.thinned.packed, "files of logs packed".to_owned()),
        (pruned.deleted.len(), format!("deleted ({})", units::bytes(pruned.freed_bytes))),
    ];
    let done = parts.into_iter().filter(|(count, _)| *count > 0);
    let done: Vec<String> = done.map(|(count, what)| format!("{count} {what}")).collect();
    let kept = plan.with(Action::Keep).count();
    let note = (!done.is_empty()).then(|| format!("{}, {kept} kept", done.join(", ")));
    // What these credentials may not delete is for a prune with others, and no failure.
    let denied = pruned.denied_because.as_ref().map(|because| {
        format!(
            "{} could not be deleted, which is left to a prune whose credentials may: {because}",
            pruned.denied.len()
        )
    });
    pack(env, repository, folder);
    Ok(Rotated {
        json: json!({
            "outcome": outcome,
            "plan": plan.id,
            "kept": kept,
            "marked": pruned.marked,
            "unmarked": pruned.unmarked,
            "deleted": pruned.deleted,
            "log_objects": pruned.log_objects,
            "log_merged": pruned.thinned.merged,
            "log_thinned": pruned.thinned.deleted,
            "log_packed": pruned.thinned.packed,
            "freed_bytes": pruned.freed_bytes,
            "denied": pruned.denied,
            "denied_because": pruned.denied_because,
        }),
        note: match (note, denied) {
            (Some(note), Some(denied)) => Some(format!("{note}; {denied}")),
            (note, denied) => note.or(denied),
        },
        warning: None,
    })
}

/// Who packs logs of which nothing says what to keep: all.
pub(crate) fn packer() -> Arc<dyn LogLevels> {
    Arc::new(LogThinner { resolution: None, packing: Packing::default() })
}

/// Packs the manifests of a source where that is worth it, for hosts that have read none of them.
/// Without it all is as good, only slower: so an error is told to who asks for details.
pub(crate) fn pack(env: &Env, repository: &Repository, folder: &str) {
    if let Err(error) = repository.pack(env, folder) {
        let message = format!("the manifests of {folder} could not be packed: {error}");
        env.tell(Event::Detail { message: &message });
    }
}

/// In a bucket that locks what it gets: locks a new backup for as long as its rule will keep it, if
/// backups are made by the source's schedule. As long as it is kept beyond that, prunes extend it.
pub(crate) fn lock_as_planned(
    session: &Session,
    env: &Env,
    repository: &Repository,
    (folder, backup): (&str, &Manifest),
    (rule, schedule): (&Rule, Option<&str>),
) -> Result<()> {
    let Some(period) = repository.store().lock_period() else { return Ok(()) };
    let now = env.clock.now();
    let later = |by: SignedDuration| now.checked_add(by).unwrap_or(Timestamp::MAX);
    let (own_zone, until) = (&session.surroundings.time_zone, later(FORESEEN));
    let schedule = schedule.and_then(|text| Schedule::read(text).ok());
    let moments = schedule.map(|schedule| schedule.moments(now, until, own_zone, MOMENTS_MAX));
    let Some(moments) = moments.filter(|moments| moments.len() < MOMENTS_MAX) else {
        // Nobody knows when what follows it is made: what was promised to itself is known.
        return match backup.pin_until.filter(|until| *until > later(period)) {
            Some(until) => retention::lock_backup(repository, folder, backup, until),
            None => Ok(()),
        };
    };
    let (entry, _) = repository.source_entry(folder)?;
    let zone = prune::zone_of(repository)?;
    let keep = rule.keep.and_within(rule.also_within);
    let goes_at = prune::goes_at(
        Forecast {
            now,
            until,
            zone: &zone,
            keep: &keep,
            floors: Floors::default(),
            grace: GRACE,
            existing: entry.backups.iter().map(|one| (prune::candidate(&entry, one), 0)).collect(),
            removed: Vec::new(),
            moments: &moments,
            backup_bytes: 0,
            free_bytes: None,
        },
        &backup.name,
    );
    match goes_at > later(period) {
        true => retention::lock_backup(repository, folder, backup, goes_at),
        false => Ok(()),
    }
}

/// The error of a run whose backup is good and after which something failed, such as "the prune
/// after it".
pub(crate) fn failed(source: &str, what: &str, error: Error) -> Error {
    let source = units::one_line(source);
    let hint = error.hint_text().unwrap_or("the next backup tries it again").to_owned();
    let message = format!("the backup of `{source}` is good, {what} failed");
    Error::new(Kind::Incomplete, message).caused_by(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_days_are_days() {
        assert_eq!("7".parse(), Ok(Days::DEFAULT));
        assert_eq!("1".parse::<Days>().unwrap().to_string(), "1 day");
        for wrong in ["", "0", "-1", "+7", "7d", "1.5", "a week", "36501", "99999999999", " 7"] {
            assert!(wrong.parse::<Days>().is_err(), "{wrong}");
        }
    }
}
