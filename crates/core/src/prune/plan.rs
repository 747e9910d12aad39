//! The plan: the rule's decision on every backup, what is left from before, and the gates.

use std::collections::{HashMap, HashSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::garbage::{self, Leftover};
use super::level_rule;
use super::levels;
use super::log_plan::{self, LogItem};
use super::{Action, GRACE_MIN, Gate, Item, PrunePlan, PruneRequest, Thinning};
use crate::catalog::SourceEntry;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Condition, Manifest};
use crate::marks::{Begun, MarkKind, PruneRecord, Tombstone};
use crate::policy::{self, Candidate, Decision};
use crate::repository::Repository;
use crate::store::{ObjectInfo, ObjectName, Space};

/// Hexadecimal digits of a digest: short enough to be typed, long enough not to be guessed.
const DIGEST_DIGITS: usize = 12;

/// Looks at a source's folder and says what a prune would do. Changes nothing.
pub fn plan(env: &Env, repository: &Repository, request: &PruneRequest<'_>) -> Result<PrunePlan> {
    plan_at(env.clock.now(), repository, request)
}

/// The plan as of that moment.
pub(super) fn plan_at(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
) -> Result<PrunePlan> {
    if request.grace < GRACE_MIN {
        return Err(Error::new(
            Kind::Usage,
            format!("a grace time of {:#} is too short", request.grace),
        )
        .hint(format!("the shortest is {:#}", GRACE_MIN)));
    }
    let (entry, files) = repository.source_entry(request.folder)?;
    let mut plan = of_entry(now, repository, request, &entry, &files)?;
    hold_logged(now, repository, request, &entry, &mut plan)?;
    let begun = begun(repository, &entry)?;
    let stems = begun.iter().map(|mark| mark.backup.clone()).collect();
    let shortened = plan.shortened();
    let left = leftovers(now, repository, request, shortened, &entry, &files, &stems)?;
    plan.items.extend(left);
    plan.items.extend(unfinished(now, repository, request, shortened, &entry)?);
    plan.begun_over = begun_over(now, request, &begun, &files);
    plan.log = log_of(now, repository, request, &plan, &entry)?;
    plan.thinned = thinned(now, repository, request, &plan, &entry)?;
    let rule = request.levels.as_ref().and_then(|levels| levels.rule());
    plan.id = digest(&(repository.header().id, plan.source, &plan.policy, marked(&plan), rule));
    let last = last_record(repository, request.folder)?;
    plan.gates = gates(now, &plan, last.as_ref());
    plan.gates.extend(gate_of_logs(repository, request, &plan)?);
    Ok(plan)
}

/// What waits for an approval before a prune may go on, of a source that was read already. Looks
/// at its backups only, and at the record of its last prune.
pub fn waiting(
    env: &Env,
    repository: &Repository,
    request: &PruneRequest<'_>,
    entry: &SourceEntry,
) -> Result<Vec<Gate>> {
    let now = env.clock.now();
    let mut plan = of_entry(now, repository, request, entry, &[])?;
    hold_logged(now, repository, request, entry, &mut plan)?;
    let last = last_record(repository, request.folder)?;
    let mut gates = gates(now, &plan, last.as_ref());
    // Logs are looked at only where something may stand against thinning them out.
    if let Some(levels) = &request.levels
        && level_rule::gate(repository, request.folder, &**levels)?.is_some()
    {
        plan.thinned = thinned(now, repository, request, &plan, entry)?;
        gates.extend(gate_of_logs(repository, request, &plan)?);
    }
    Ok(gates.into_iter().filter(|gate| gate.opens_with_approval).collect())
}

/// The plan as far as it is about backups, without its id and its gates.
fn of_entry(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    entry: &SourceEntry,
    files: &[ObjectInfo],
) -> Result<PrunePlan> {
    let zone_name = &repository.header().time_zone;
    let zone = zone_of(repository)?;
    let newest_good = newest_good(entry, now);
    let (grace, grace_shortened) = grace(request.grace, request.space);
    let shortened = grace_shortened.is_some().then_some(grace);
    Ok(PrunePlan {
        id: String::new(),
        folder: request.folder.to_owned(),
        source: entry.record.id,
        made_at: now,
        policy: digest(&(&request.keep, &request.floors, zone_name)),
        newest_good: newest_good.map(|backup| (backup.name.clone(), backup.taken_at)),
        grace,
        grace_shortened,
        items: backups(now, &zone, request, shortened, entry, files),
        begun_over: Vec::new(),
        log: Vec::new(),
        thinned: Vec::new(),
        gates: Vec::new(),
    })
}

/// A backup stays as long as its log holds what is to stay: without it nothing of that log can be
/// restored.
fn hold_logged(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    entry: &SourceEntry,
    plan: &mut PrunePlan,
) -> Result<()> {
    let Some(log_levels) = &request.levels else { return Ok(()) };
    if plan.with(Action::Mark).next().is_some() {
        let backups: Vec<&Manifest> = entry.backups.iter().collect();
        levels::hold(plan, &log_levels.holds(now, repository, request.folder, &backups)?);
    }
    Ok(())
}

/// What becomes of the logs of backups that stay.
fn thinned(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    plan: &PrunePlan,
    entry: &SourceEntry,
) -> Result<Vec<Thinning>> {
    let Some(log_levels) = &request.levels else { return Ok(Vec::new()) };
    let staying = staying(plan, entry);
    log_levels.plan(now, repository, request.folder, &staying)
}

/// The backups that a plan leaves listed, oldest first.
pub(super) fn staying<'e>(plan: &PrunePlan, entry: &'e SourceEntry) -> Vec<&'e Manifest> {
    let kept: HashSet<&str> = plan.with(Action::Keep).map(|item| item.name.as_str()).collect();
    entry.backups.iter().filter(|backup| kept.contains(backup.name.as_str())).collect()
}

/// What becomes of the source's log: backups whose bytes stay need it, whatever their tombstones
/// say.
fn log_of(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    plan: &PrunePlan,
    entry: &SourceEntry,
) -> Result<Vec<LogItem>> {
    let Some(rule) = &request.log else { return Ok(Vec::new()) };
    let going: HashSet<&str> = plan
        .with(Action::Delete)
        .filter(|item| item.id.is_some())
        .map(|item| &*item.name)
        .collect();
    let all = entry.backups.iter().chain(&entry.removed);
    let staying: Vec<&Manifest> = all.filter(|one| !going.contains(one.name.as_str())).collect();
    let objects = rule.judge(now, repository, request.folder, &staying)?;
    let newest_good = plan.newest_good.as_ref().map(|(_, at)| *at);
    Ok(log_plan::items(now, plan.grace, newest_good, objects))
}

/// The time zone of a repository's calendar. [`Kind::CheckFailed`] where the system has none of
/// that name.
pub fn zone_of(repository: &Repository) -> Result<TimeZone> {
    let name = &repository.header().time_zone;
    TimeZone::get(name).map_err(|error| {
        Error::new(Kind::CheckFailed, format!("no time zone is known as `{name}`"))
            .caused_by(error)
            .hint("install the package tzdata")
    })
}

/// The grace time, and why it is less than was asked for: a full store makes no backups.
fn grace(asked: SignedDuration, space: Option<Space>) -> (SignedDuration, Option<String>) {
    match space.filter(Space::is_full) {
        Some(space) if asked > GRACE_MIN => {
            let why = format!("the store is {} % full", space.used_percent());
            (GRACE_MIN, Some(why))
        }
        _ => (asked, None),
    }
}

fn newest_good(entry: &SourceEntry, now: Timestamp) -> Option<&Manifest> {
    let good = |backup: &&Manifest| backup.condition == Condition::Good && backup.taken_at <= now;
    entry.backups.iter().rev().find(good)
}

/// What becomes of every backup. Those with a tombstone are decided with the others: what a rule
/// keeps now, such as a pin or a more generous policy, comes back.
fn backups(
    now: Timestamp,
    zone: &TimeZone,
    request: &PruneRequest<'_>,
    shortened: Option<SignedDuration>,
    entry: &SourceEntry,
    files: &[ObjectInfo],
) -> Vec<Item> {
    let sizes: HashMap<&str, u64> =
        files.iter().map(|object| (object.name.file_name(), object.bytes)).collect();
    let mut all: Vec<&Manifest> = entry.backups.iter().chain(&entry.removed).collect();
    all.sort_by(|a, b| (a.taken_at, &a.name).cmp(&(b.taken_at, &b.name)));
    let candidates: Vec<Candidate> = all.iter().map(|backup| candidate(entry, backup)).collect();
    let keep = request.keep.and_within(request.also_within);
    let decisions = policy::decide(now, zone, &keep, &request.floors, &candidates);
    // What one run asks for beside the policy brings nothing back: the next run removed it again.
    let of_removed = policy::decide(now, zone, &request.keep, &request.floors, &candidates);
    let mut naming: HashMap<&str, u32> = HashMap::new();
    for artifact in all.iter().flat_map(|backup| &backup.artifacts) {
        *naming.entry(&artifact.name).or_default() += 1;
    }
    let tombstones: HashMap<(&str, Option<Uuid>), &Tombstone> =
        entry.tombstones.iter().map(|one| ((one.backup.as_str(), one.id), one)).collect();
    let unreadable: HashSet<&str> =
        entry.unreadable.iter().map(|one| one.object.as_str()).collect();
    let mut items = Vec::with_capacity(all.len());
    for (index, backup) in all.into_iter().enumerate() {
        let tombstone = tombstones.get(&(backup.name.as_str(), Some(backup.id)));
        let decision = &if tombstone.is_some() { &of_removed } else { &decisions }[index];
        let unreadable =
            unreadable.contains(MarkKind::Tombstone.object(&entry.folder, &backup.name).as_str());
        let (action, reasons) = match (decision, unreadable) {
            // It is listed, as nobody knows what was said; and no second tombstone can be put.
            (Decision::Remove(_), true) => {
                (Action::Leave, vec!["its tombstone cannot be read".to_owned()])
            }
            _ => action(now, shortened, decision, tombstone.copied()),
        };
        // What two manifests name, or what has another's name, is never deleted.
        let own = backup.artifacts.iter().map(|artifact| artifact.name.as_str());
        let own = own.filter(|file| naming[file] == 1 && is_own_file(&backup.name, file));
        let own: Vec<String> = own.map(str::to_owned).collect();
        items.push(Item {
            name: backup.name.clone(),
            id: Some(backup.id),
            taken_at: Some(backup.taken_at),
            condition: Some(backup.condition),
            stored_bytes: own.iter().filter_map(|file| sizes.get(file.as_str())).sum(),
            files: own,
            action,
            reasons,
            delete_after: tombstone.map(|tombstone| tombstone.due_at(shortened)),
        });
    }
    wait_for_dependents(&mut items, &candidates);
    items
}

/// What a backup builds on is there as long as itself, also behind a tombstone: it may be taken
/// back.
fn wait_for_dependents(items: &mut [Item], candidates: &[Candidate]) {
    let places = candidates.iter().enumerate();
    let places: HashMap<&str, usize> =
        places.map(|(place, candidate)| (candidate.name.as_str(), place)).collect();
    let stays = |place: &usize| items[*place].action != Action::Delete;
    let mut open: Vec<usize> = (0..candidates.len()).filter(stays).collect();
    while let Some(place) = open.pop() {
        for name in &candidates[place].depends_on {
            let Some(needed) = places.get(name.as_str()).copied() else { continue };
            if items[needed].action == Action::Delete {
                items[needed].action = Action::Wait;
                items[needed].reasons.push(format!("{} builds on it", candidates[place].name));
                open.push(needed);
            }
        }
    }
}

/// What the rule must know of a backup.
pub fn candidate(entry: &SourceEntry, backup: &Manifest) -> Candidate {
    let all = entry.backups.iter().chain(&entry.removed);
    let is_parent = |other: &&Manifest| Some(other.id) == backup.parent;
    let parents = if backup.parent.is_some() { all.filter(is_parent).collect() } else { vec![] };
    Candidate {
        name: backup.name.clone(),
        taken_at: backup.taken_at,
        condition: backup.condition,
        purpose: backup.purpose,
        proven: entry.is_proven(backup),
        pin: entry.hold(backup),
        depends_on: parents.into_iter().map(|parent| parent.name.clone()).collect(),
    }
}

fn action(
    now: Timestamp,
    shortened: Option<SignedDuration>,
    decision: &Decision,
    tombstone: Option<&Tombstone>,
) -> (Action, Vec<String>) {
    match (decision, tombstone) {
        (Decision::Keep(_), None) => (Action::Keep, decision.words()),
        (Decision::Keep(_), Some(_)) => (Action::Unmark, decision.words()),
        (Decision::Remove(_), None) => (Action::Mark, decision.words()),
        (Decision::Remove(_), Some(tombstone)) => {
            let due = tombstone.is_due(now, shortened);
            (if due { Action::Delete } else { Action::Wait }, vec![tombstone.reason.clone()])
        }
    }
}

/// Whether a file is an artifact by its name: a damaged manifest or tombstone must not lead us to
/// another backup's files, nor to what is no artifact.
fn is_own_file(backup: &str, file: &str) -> bool {
    garbage::stem_of(file) == Some(backup) && !file.contains('/')
}

/// What interrupted runs and prunes left, and tombstones that mean nothing any more.
fn leftovers(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    shortened: Option<SignedDuration>,
    entry: &SourceEntry,
    files: &[ObjectInfo],
    begun: &HashSet<String>,
) -> Result<Vec<Item>> {
    let there: HashMap<&str, u64> =
        files.iter().map(|object| (object.name.file_name(), object.bytes)).collect();
    let all = || entry.backups.iter().chain(&entry.removed);
    let mut named: HashSet<String> = all()
        .flat_map(|backup| backup.artifacts.iter().map(|artifact| artifact.name.clone()))
        .collect();
    let known: HashSet<(&str, Uuid)> =
        all().map(|backup| (backup.name.as_str(), backup.id)).collect();
    let (mut items, mut of_garbage) = (Vec::new(), HashMap::new());
    for tombstone in &entry.tombstones {
        let name = tombstone.backup.as_str();
        let has_manifest = there.contains_key(format!("{name}.json").as_str());
        match tombstone.id {
            Some(id) if known.contains(&(name, id)) => {}
            // Of an object that was never finished: see `unfinished`.
            None if tombstone.files.iter().all(|file| file.starts_with('.')) => {}
            None if !has_manifest => {
                of_garbage.insert(name, tombstone);
            }
            // Another backup has taken the name, or the run that seemed dead has ended well.
            _ if has_manifest => items.push(forgotten(entry, tombstone)),
            _ => {
                let own = |file: &&String| is_own_file(name, file) && !named.contains(*file);
                let own: Vec<String> = tombstone.files.iter().filter(own).cloned().collect();
                let mut item = of_tombstone(now, shortened, tombstone, own.clone(), &there);
                item.reasons = vec![format!("its deletion was interrupted: {}", tombstone.reason)];
                items.push(item);
                named.extend(own);
            }
        }
    }
    let old = |object: &ObjectInfo| now.duration_since(object.modified) >= request.grace;
    for leftover in garbage::leftovers(repository, files, &named, begun, old)? {
        let tombstone = of_garbage.remove(leftover.stem.as_str());
        items.extend(garbage_items(now, shortened, leftover, tombstone, &there));
    }
    items.extend(of_garbage.into_values().map(|tombstone| forgotten(entry, tombstone)));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

/// What the source's runs said when they began, and did not take back.
fn begun(repository: &Repository, entry: &SourceEntry) -> Result<Vec<Begun>> {
    let mut found: Vec<Begun> = Vec::new();
    for object in repository.store().list(Some(&MarkKind::Begun.prefix(&entry.folder)))? {
        let Some((MarkKind::Begun, _, name)) = MarkKind::of_object(object.name.as_str()) else {
            continue;
        };
        match repository.read_mark::<Begun>(&object.name) {
            Ok(mark) if mark.source == entry.record.id && mark.backup == name => found.push(mark),
            // One that means another, or cannot be read, makes nothing ours.
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), Kind::CheckFailed | Kind::Failed | Kind::NotCovered) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The marks of runs that ended well, or that left nothing.
fn begun_over(
    now: Timestamp,
    request: &PruneRequest<'_>,
    begun: &[Begun],
    files: &[ObjectInfo],
) -> Vec<String> {
    let stems: HashSet<&str> =
        files.iter().filter_map(|object| garbage::stem_of(object.name.file_name())).collect();
    let there: HashSet<&str> = files.iter().map(|object| object.name.file_name()).collect();
    let is_over = |mark: &&Begun| {
        let old = now.duration_since(mark.begun_at) >= request.grace;
        let ended_well = there.contains(format!("{}.json", mark.backup).as_str());
        old && (ended_well || !stems.contains(mark.backup.as_str()))
    };
    begun.iter().filter(is_over).map(|mark| mark.backup.clone()).collect()
}

/// Objects that killed writers did not finish: the store knows them by their names, which nothing
/// else has, and by their locks. A tombstone names each on its own.
fn unfinished(
    now: Timestamp,
    repository: &Repository,
    request: &PruneRequest<'_>,
    shortened: Option<SignedDuration>,
    entry: &SourceEntry,
) -> Result<Vec<Item>> {
    let parts = repository.store().unfinished(&entry.folder)?;
    let there: HashMap<&str, u64> =
        parts.iter().map(|part| (part.name.file_name(), part.bytes)).collect();
    let is_part = |tombstone: &&Tombstone| {
        tombstone.id.is_none() && tombstone.files.iter().all(|file| file.starts_with('.'))
    };
    let mut tombstones: HashMap<&str, &Tombstone> = entry
        .tombstones
        .iter()
        .filter(is_part)
        .map(|tombstone| (tombstone.backup.as_str(), tombstone))
        .collect();
    let mut items = Vec::new();
    for part in &parts {
        let file = part.name.file_name();
        // A tombstone's name must not be hidden itself.
        let name = file.trim_start_matches('.').trim_end_matches(".part");
        let old = now.duration_since(part.modified) >= request.grace;
        let reason = "left by a run that was killed while it stored it".to_owned();
        match tombstones.remove(name) {
            Some(tombstone) if tombstone.files == [file] => {
                let files = vec![file.to_owned()];
                items.push(of_tombstone(now, shortened, tombstone, files, &there));
            }
            None if old => items.push(Item {
                name: name.to_owned(),
                id: None,
                taken_at: None,
                condition: None,
                stored_bytes: part.bytes,
                files: vec![file.to_owned()],
                action: Action::Mark,
                reasons: vec![reason],
                delete_after: None,
            }),
            _ => {}
        }
    }
    items.extend(tombstones.into_values().map(|tombstone| forgotten(entry, tombstone)));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

fn of_tombstone(
    now: Timestamp,
    shortened: Option<SignedDuration>,
    tombstone: &Tombstone,
    files: Vec<String>,
    there: &HashMap<&str, u64>,
) -> Item {
    Item {
        name: tombstone.backup.clone(),
        id: tombstone.id,
        taken_at: None,
        condition: None,
        stored_bytes: files.iter().filter_map(|file| there.get(file.as_str())).sum(),
        files,
        action: if tombstone.is_due(now, shortened) { Action::Delete } else { Action::Wait },
        reasons: vec![tombstone.reason.clone()],
        delete_after: Some(tombstone.due_at(shortened)),
    }
}

/// A tombstone that goes: unless it cannot be told from that of a manifest that cannot be read.
fn forgotten(entry: &SourceEntry, tombstone: &Tombstone) -> Item {
    let manifest = format!("{}/{}.json", entry.folder, tombstone.backup);
    let unreadable = entry.unreadable.iter().any(|one| one.object == manifest);
    let (action, reason) = match unreadable {
        true => (Action::Leave, "its manifest cannot be read"),
        false => (Action::Forget, "the tombstone means nothing that is there"),
    };
    Item {
        name: tombstone.backup.clone(),
        id: tombstone.id,
        taken_at: None,
        condition: None,
        stored_bytes: 0,
        files: Vec::new(),
        action,
        reasons: vec![reason.to_owned()],
        delete_after: Some(tombstone.delete_after),
    }
}

fn garbage_items(
    now: Timestamp,
    shortened: Option<SignedDuration>,
    leftover: Leftover,
    tombstone: Option<&Tombstone>,
    there: &HashMap<&str, u64>,
) -> Vec<Item> {
    let names = |objects: &[ObjectInfo]| -> Vec<String> {
        objects.iter().map(|object| object.name.file_name().to_owned()).collect()
    };
    let (ours, unclear) = (names(&leftover.ours), names(&leftover.unclear));
    let item = |files: Vec<String>, action, reason: &str| Item {
        name: leftover.stem.clone(),
        id: None,
        taken_at: None,
        condition: None,
        stored_bytes: files.iter().filter_map(|file| there.get(file.as_str())).sum(),
        files,
        action,
        reasons: vec![reason.to_owned()],
        delete_after: None,
    };
    let mut items = Vec::new();
    match tombstone {
        Some(tombstone) => {
            // Only what was there when it was marked: a file that came later waits for its own.
            let marked = ours.into_iter().filter(|file| tombstone.files.contains(file)).collect();
            items.push(of_tombstone(now, shortened, tombstone, marked, there));
        }
        None if !ours.is_empty() => {
            items.push(item(ours, Action::Mark, "left by a run that ended before its manifest"));
        }
        None => {}
    }
    if !unclear.is_empty() {
        let reason = "no manifest names it, and nothing shows that lifeboat wrote it";
        items.push(item(unclear, Action::Leave, reason));
    }
    items
}

/// What stands against what is done to logs, and to backups that were kept for them.
fn gate_of_logs(
    repository: &Repository,
    request: &PruneRequest<'_>,
    plan: &PrunePlan,
) -> Result<Option<Gate>> {
    let takes = plan.thins() || plan.with(Action::Mark).any(|item| item.id.is_some());
    match &request.levels {
        Some(levels) if takes => level_rule::gate(repository, request.folder, &**levels),
        _ => Ok(None),
    }
}

/// What gets a tombstone, for the plan's id.
fn marked(plan: &PrunePlan) -> Vec<(&str, Option<Uuid>)> {
    plan.with(Action::Mark).map(|item| (item.name.as_str(), item.id)).collect()
}

/// The record of the last prune, and its object's name: an error text where it cannot be read.
fn last_record(
    repository: &Repository,
    folder: &str,
) -> Result<Option<(ObjectName, Result<PruneRecord, String>)>> {
    let records = repository.store().list(Some(&MarkKind::Record.prefix(folder)))?;
    let names = records.into_iter().map(|object| object.name);
    let is_record = |name: &ObjectName| {
        matches!(MarkKind::of_object(name.as_str()), Some((MarkKind::Record, _, _)))
    };
    // Their names are times, so the last by name is the last that any clock has seen.
    let Some(last) = names.filter(is_record).max() else { return Ok(None) };
    match repository.read_mark::<PruneRecord>(&last) {
        Ok(record) => Ok(Some((last, Ok(record)))),
        Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::Failed) => {
            Ok(Some((last, Err(error.message().to_owned()))))
        }
        Err(error) => Err(error),
    }
}

fn gates(
    now: Timestamp,
    plan: &PrunePlan,
    last: Option<&(ObjectName, Result<PruneRecord, String>)>,
) -> Vec<Gate> {
    let removes = |item: &&Item| item.action == Action::Delete || item.action == Action::Mark;
    let of_log = plan.log.iter().any(|item| item.action == Action::Delete);
    if !of_log && !plan.items.iter().any(|item| removes(&item)) {
        return Vec::new();
    }
    let mut gates = Vec::new();
    let mut gate = |opens_with_approval, message: String| {
        gates.push(Gate { opens_with_approval, message });
    };
    let object = last.map(|(object, _)| object);
    let last = match last {
        Some((_, Ok(record))) => Some(record),
        Some((_, Err(reason))) => {
            gate(true, format!("what the last prune did is not known: {reason}"));
            None
        }
        None => None,
    };
    match (&plan.newest_good, last) {
        (None, _) => gate(false, "there is no good backup".into()),
        (Some((name, at)), Some(last)) if *at <= last.newest_good_at => {
            let pruned_at = last.pruned_at;
            gate(
                false,
                format!(
                    "no good backup is newer than {name}, the newest at the last prune ({pruned_at})"
                ),
            );
        }
        _ => {}
    }
    if let Some((last, object)) = last.zip(object).filter(|(last, _)| now < last.pruned_at) {
        let pruned_at = last.pruned_at;
        gate(
            false,
            format!(
                "the clock says {now}, before the last prune at {pruned_at}; if the clock is right \
                 now and was ahead then, remove {object} from the repository, the record of that \
                 prune"
            ),
        );
    }
    let good = |item: &&Item| {
        item.condition == Some(Condition::Good) && item.taken_at.is_some_and(|at| at <= now)
    };
    let marked = plan.with(Action::Mark).filter(good).count();
    let listed = plan.with(Action::Keep).filter(good).count() + marked;
    if marked * 2 > listed {
        gate(true, format!("it takes {marked} of {listed} good backups, more than half"));
    }
    let of_backups = plan.with(Action::Mark).any(|item| item.id.is_some());
    if of_backups && last.is_some_and(|last| last.policy != plan.policy) {
        gate(true, "what is to be kept has changed since the last prune".into());
    }
    gates
}

fn digest(value: &impl serde::Serialize) -> String {
    let bytes = serde_json::to_vec(value).expect("our own types are always JSON");
    blake3::hash(&bytes).to_hex()[..DIGEST_DIGITS].to_owned()
}
