//! The page logs of SQLite databases, as the commands see them: which state is meant, what can be
//! restored.

use std::collections::HashSet;

use jiff::Timestamp;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::repository::Repository;
use lifeboat_core::store::ObjectInfo;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_sqlite::KIND;
use lifeboat_sqlite::pagelog::{Chain, LogReplay, Moment, Range, Target};

use crate::selection::{Meant, Selected};

/// How many backups before the newest one may have a log that leads further: one that was made
/// while the log of the one before went on.
const EARLIER_MAX: usize = 2;

/// What is to be restored: the backup, and the way from it to a later state, if that is meant.
pub(crate) struct State {
    /// The backup.
    pub(crate) selected: Selected,
    /// What is laid over it.
    pub(crate) replay: Option<LogReplay>,
}

impl State {
    /// The backup alone.
    pub(crate) fn of_backup(selected: Selected) -> Self {
        State { selected, replay: None }
    }

    /// The moment that it shows.
    pub(crate) fn taken_at(&self) -> Timestamp {
        let logged = self.replay.as_ref().map(|replay| replay.moment().until);
        logged.unwrap_or(self.selected.manifest.taken_at)
    }
}

/// The state that was meant by what selected a backup: for a moment, the newest that the log of it,
/// or of one before it, leads to.
pub(crate) fn meant(selected: Selected) -> Result<State> {
    let target = match selected.meant {
        Meant::Backup => return Ok(State::of_backup(selected)),
        Meant::State(_) if selected.manifest.source.kind != KIND => {
            return Ok(State::of_backup(selected));
        }
        Meant::State(target) => target,
    };
    let replay = replay_of(&selected, &selected.manifest, target)?;
    let mut best = State { selected, replay };
    // What its own log leads to is newer than all that was before it, whatever the clock was.
    let is_newest = target == Target::Latest && best.replay.is_some();
    if is_newest || matches!(target, Target::Position(_)) {
        return Ok(best);
    }
    for earlier in best.selected.earlier.clone() {
        // Its log ended with the newer backup, if all is well; one that is broken takes nothing
        // from that backup.
        let Ok(Some(replay)) = replay_of(&best.selected, &earlier, target) else { continue };
        if replay.moment().until > best.taken_at() {
            let selected = Selected { manifest: earlier, ..best.selected };
            best = State { selected, replay: Some(replay) };
        }
    }
    Ok(best)
}

/// The backups right before one, newest first, whose logs may lead further.
pub(crate) fn earlier(entry: &SourceEntry, manifest: &Manifest) -> Vec<Manifest> {
    let before = entry.backups.iter().rev().skip_while(|backup| backup.id != manifest.id).skip(1);
    before.take(EARLIER_MAX).cloned().collect()
}

fn replay_of(selected: &Selected, base: &Manifest, target: Target) -> Result<Option<LogReplay>> {
    let chain = Chain::of(&selected.repository, &selected.folder, base)?;
    match chain.is_empty() {
        true => match target {
            Target::Position(position) if position > 0 => Err(Error::new(
                Kind::NotCovered,
                format!("{} has no log, and so no position {position}", base.name),
            )
            .hint("lifeboat backup --incremental adds to it")),
            _ => Ok(None),
        },
        false => LogReplay::to(&chain, target),
    }
}

/// What a log adds to a backup.
pub(crate) struct Reach {
    /// How many states can be restored beside the backup.
    pub(crate) states: usize,
    /// How many bytes the log takes.
    pub(crate) stored_bytes: u64,
    /// The newest of these states, if there is one.
    pub(crate) newest: Option<Moment>,
    /// How finely the states are told apart, from the oldest on.
    pub(crate) ranges: Vec<Range>,
    /// Why later ones cannot be restored, if so.
    pub(crate) broken: Option<String>,
}

/// The names of the backups of a folder that have a log. One list for all of them: a store far away
/// is not asked for each.
pub(crate) fn logged(repository: &Repository, folder: &str) -> Result<HashSet<String>> {
    let prefix = format!("{folder}/log");
    let objects = repository.store().list(Some(&prefix))?;
    let backup = |object: &ObjectInfo| {
        let rest = object.name.as_str().strip_prefix(&prefix)?.strip_prefix('/')?;
        rest.split('/').next().map(str::to_owned)
    };
    Ok(objects.iter().filter_map(backup).collect())
}

/// How far the log of a backup reaches. `None` where it has none.
pub(crate) fn reach(
    repository: &Repository,
    folder: &str,
    base: &Manifest,
) -> Result<Option<Reach>> {
    if base.source.kind != KIND {
        return Ok(None);
    }
    let chain = Chain::of(repository, folder, base)?;
    if chain.is_empty() {
        return Ok(None);
    }
    let mut broken = chain.gap().map(|gap| {
        format!("files are missing between the positions {} and {}", gap.after, gap.before)
    });
    let ranges = match chain.ranges() {
        Ok(ranges) => ranges,
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
            broken.get_or_insert(error.to_string());
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let newest = match chain.end() {
        0 => None,
        end => match chain.moment(Target::Position(end)) {
            Ok(moment) => Some(moment),
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                broken.get_or_insert(error.to_string());
                None
            }
            Err(error) => return Err(error),
        },
    };
    let (states, (_, stored_bytes)) = (chain.states(), chain.size());
    Ok(Some(Reach { states, stored_bytes, newest, ranges, broken }))
}

/// The newest state of a source that its logs lead to, as `restore` takes it.
pub(crate) fn newest(
    repository: &Repository,
    entry: &SourceEntry,
) -> Result<Option<(String, Moment)>> {
    let Some(last) = entry.backups.last() else { return Ok(None) };
    Ok(newest_and_gap(repository, entry, last)?.0)
}

/// The newest state that logs lead to, and what is missing in one.
pub(crate) type Ends = (Option<(String, Moment)>, Option<String>);

/// The newest state of a source that its logs lead to, as `restore` takes it; and what is missing
/// in the log of its newest good backup.
pub(crate) fn newest_and_gap(
    repository: &Repository,
    entry: &SourceEntry,
    newest_good: &Manifest,
) -> Result<Ends> {
    let (mut best, mut broken): (Option<(String, Moment)>, Option<String>) = (None, None);
    if newest_good.source.kind != KIND {
        return Ok((best, broken));
    }
    let logged = logged(repository, &entry.folder)?;
    let latest = entry.backups.iter().rev().take(1 + EARLIER_MAX);
    let is_among = latest.clone().any(|backup| backup.id == newest_good.id);
    for backup in latest.chain((!is_among).then_some(newest_good)) {
        if !logged.contains(&backup.name) {
            continue;
        }
        let Some(reach) = reach(repository, &entry.folder, backup)? else { continue };
        if backup.id == newest_good.id {
            broken = reach.broken;
        }
        let Some(moment) = reach.newest else { continue };
        // That of a newer backup leads to what is newer, whatever the clock was.
        if best.is_none() {
            best = Some((format!("{}+{}", backup.name, moment.position), moment));
        }
    }
    Ok((best, broken))
}
