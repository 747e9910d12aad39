//! Prune: what goes, when, and who must agree. A plan first, then its application.
//!
//! Two phases. A backup that no rule keeps gets a tombstone: it is listed no more, and nothing of
//! it is touched. Its bytes go after a grace time, with a later prune, if no rule keeps it by then.
//! The garbage of interrupted runs goes the same way, and only where its bytes show that they are
//! ours. No other object is ever deleted: not by its age, nor by a pattern.
//!
//! Gates: nothing goes unless a newer good backup exists than at the last prune, nor while the
//! clock is behind it. A plan that takes more than half of the good backups, or that follows
//! another policy than the last one, or that keeps less of logs, needs the plan's id as an
//! approval.

mod apply;
mod garbage;
mod hold;
mod level_rule;
mod levels;
mod log_plan;
mod plan;
mod simulate;
mod turn;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::manifest::Condition;
use crate::policy::{Floors, Keep};
use crate::store::Space;

pub use apply::{Pruned, apply};
pub use hold::{pin, undelete, unpin};
pub use levels::{LogLevels, Thinned, Thinning, discard_unfinished, thin_logs};
pub use log_plan::{LogItem, LogObject, LogRule};
pub use plan::{candidate, plan, waiting, zone_of};
pub use simulate::{Age, Forecast, MOMENTS_MAX, Simulation, Step, departures, goes_at, simulate};
pub use turn::await_turn;

/// How long a tombstone stands before bytes are deleted, unless said otherwise.
pub const GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The shortest time that it may stand; where the store is nearly full, it stands no longer.
pub const GRACE_MIN: SignedDuration = SignedDuration::from_hours(24);

/// What is to be pruned, and by which rule.
#[derive(Clone, Debug)]
pub struct PruneRequest<'a> {
    /// The source's folder in the repository.
    pub folder: &'a str,
    /// What is kept.
    pub keep: Keep,
    /// What one run asks to be kept as well: all that are younger. It is no part of the policy that
    /// the next prune compares with: whoever asks for less takes nothing from what `keep` keeps.
    pub also_within: Option<SignedDuration>,
    /// What is kept in any case.
    pub floors: Floors,
    /// How long a tombstone stands before bytes are deleted: at least [`GRACE_MIN`].
    pub grace: SignedDuration,
    /// How full the store's place is, where that is known: below a fifth of free space the grace
    /// time is [`GRACE_MIN`].
    pub space: Option<Space>,
    /// Who knows what its log is, where it has one.
    pub log: Option<Arc<dyn LogRule>>,
    /// Who thins out the logs of its backups, where they have some.
    pub levels: Option<Arc<dyn LogLevels>>,
}

/// What a prune would do. Made by [`plan()`], done by [`apply()`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrunePlan {
    /// A digest of what gets a tombstone, by which policy: what an approval names.
    pub id: String,
    /// The source's folder.
    pub folder: String,
    /// The source's id.
    pub source: Uuid,
    /// When it was made.
    pub made_at: Timestamp,
    /// Digest of the policy.
    pub policy: String,
    /// Name and moment of the newest good backup, if there is one.
    pub newest_good: Option<(String, Timestamp)>,
    /// How long a new tombstone stands before bytes are deleted.
    pub grace: SignedDuration,
    /// Why that is less than was asked for, if it is: earlier tombstones stand no longer then.
    pub grace_shortened: Option<String>,
    /// Everything that was looked at: backups from the oldest on, then leftovers.
    pub items: Vec<Item>,
    /// Names of backups whose runs said that they began, and ended long ago: what they said goes.
    pub begun_over: Vec<String>,
    /// The objects of its log, and what becomes of them.
    pub log: Vec<LogItem>,
    /// What becomes of the logs that belong to its backups.
    pub thinned: Vec<Thinning>,
    /// What stands against it.
    pub gates: Vec<Gate>,
}

/// A backup, or what an interrupted run or prune left, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// The backup's name; of leftovers, what their files have in common.
    pub name: String,
    /// The backup's id, if it is or was one.
    pub id: Option<Uuid>,
    /// The moment that it shows.
    pub taken_at: Option<Timestamp>,
    /// Whether it may be relied on.
    pub condition: Option<Condition>,
    /// What its files take, in bytes, without the manifest.
    pub stored_bytes: u64,
    /// Its files in the source's folder, without the manifest.
    pub files: Vec<String>,
    /// What becomes of it.
    pub action: Action,
    /// Why, in words.
    pub reasons: Vec<String>,
    /// When its bytes may be deleted, if it has a tombstone.
    pub delete_after: Option<Timestamp>,
}

/// What becomes of a backup or of garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It stays.
    Keep,
    /// It gets a tombstone.
    Mark,
    /// It has a tombstone, and its time has not come.
    Wait,
    /// Its bytes are deleted.
    Delete,
    /// It has a tombstone, and a rule keeps it now: the tombstone goes.
    Unmark,
    /// Nothing of it is there any more but a tombstone, which goes.
    Forget,
    /// It is left alone: nothing shows that it is ours to delete.
    Leave,
}

/// Something that stands against a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Whether the plan's id as an approval opens it. Otherwise only time does.
    pub opens_with_approval: bool,
    /// What stands against it, in words.
    pub message: String,
}

impl PrunePlan {
    /// The shorter grace time, which also earlier tombstones have, if it is shorter.
    fn shortened(&self) -> Option<SignedDuration> {
        self.grace_shortened.is_some().then_some(self.grace)
    }

    /// The items with that action.
    pub fn with(&self, action: Action) -> impl DoubleEndedIterator<Item = &Item> {
        self.items.iter().filter(move |item| item.action == action)
    }

    /// What the items with that action take, in bytes.
    pub fn bytes_of(&self, action: Action) -> u64 {
        self.with(action).map(|item| item.stored_bytes).sum()
    }

    /// Whether it changes nothing.
    pub fn is_idle(&self) -> bool {
        use Action::{Delete, Forget, Mark, Unmark};
        let changes = |item: &Item| matches!(item.action, Mark | Delete | Unmark | Forget);
        let of_log = self.log.iter().any(|item| item.action == Delete);
        self.begun_over.is_empty() && !of_log && !self.thins() && !self.items.iter().any(changes)
    }

    /// Whether it thins out logs.
    fn thins(&self) -> bool {
        self.thinned.iter().any(Thinning::has_work)
    }

    /// Whether it may be done. `approval` is the id of the plan that a person looked at.
    pub fn permit(&self, approval: Option<&str>) -> Result<()> {
        let refused = |gate: &Gate| {
            let folder = &self.folder;
            Error::new(Kind::Refused, format!("nothing of `{folder}` is pruned: {}", gate.message))
        };
        if let Some(gate) = self.gates.iter().find(|gate| !gate.opens_with_approval) {
            return Err(refused(gate).hint("lifeboat status says how the source stands"));
        }
        match (self.gates.first(), approval) {
            (None, _) => Ok(()),
            (Some(_), Some(approval)) if approval == self.id => Ok(()),
            (Some(gate), approval) => {
                let error = match approval {
                    None => refused(gate),
                    Some(other) => refused(gate).context(format!(
                        "{other} approves another plan than that of `{}`, which is {}",
                        self.folder, self.id
                    )),
                };
                Err(error.hint(format!(
                    "look at it with --dry-run, then: lifeboat prune --approve {}",
                    self.id
                )))
            }
        }
    }
}
