//! The application of a plan, in an order in which a crash anywhere leaves whole backups,
//! tombstones, and garbage that the next prune knows of: nothing else.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::level_rule;
use super::levels;
use super::log_plan;
use super::plan::{plan_at, staying};
use super::turn;
use super::{Action, Item, PrunePlan, PruneRequest, Thinned};
use crate::backup::lock::SourceLock;
use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::lease::Lease;
use crate::marks::{FORMAT, MarkKind, Pin, PruneRecord, Tombstone, to_bytes};
use crate::repository::Repository;
use crate::store::{ObjectName, put_bytes};

/// How many records of prunes of a source stay, for people who ask what went when.
const RECORDS_KEPT: usize = 10;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names of what got a tombstone.
    pub marked: Vec<String>,
    /// Names of what lost its tombstone, because a rule keeps it.
    pub unmarked: Vec<String>,
    /// Names of what was deleted.
    pub deleted: Vec<String>,
    /// How many objects of the log were deleted.
    pub log_objects: usize,
    /// What was done to the logs of its backups.
    pub thinned: Thinned,
    /// Bytes that the deleted files took.
    pub freed_bytes: u64,
    /// Names of what the store still keeps locked, and until when.
    pub locked: Vec<(String, Timestamp)>,
    /// Names of what our credentials may not delete.
    pub denied: Vec<String>,
    /// Why, in the store's words, of the first of them.
    pub denied_because: Option<String>,
}

impl Pruned {
    fn deny(&mut self, name: &str, error: &Error) {
        self.denied.push(name.to_owned());
        let because = || match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        self.denied_because.get_or_insert_with(because);
    }
}

/// Does what a plan says, if it still holds and nothing stands against it. `approval` is the id of
/// a plan that a person looked at; `lock_folder` is where the locks of backups are kept.
///
/// It holds the lease of the source's folder, so that no other host prunes it meanwhile.
///
/// [`Kind::Refused`] for a gate or a plan that no longer holds, [`Kind::Locked`] during a backup or
/// another prune.
pub fn apply(
    env: &Env,
    repository: &Repository,
    request: &PruneRequest<'_>,
    made: &PrunePlan,
    approval: Option<&str>,
    lock_folder: Option<&Path>,
) -> Result<Pruned> {
    env.crash.pass("prune.begin")?;
    // What is deleted is decided by what is there, not by what was once read.
    let repository = &repository.without_cache();
    let record = repository.source_record(request.folder)?;
    let lock = SourceLock::take(env, lock_folder, &record, repository.header().id)?;
    let lease = match made.is_idle() {
        true => None,
        false => Some(turn::take(env, repository, request.folder, &record, &lock)?),
    };
    // As of the same moment: a grace time that ended meanwhile is no change.
    let now = env.clock.now();
    let plan = plan_at(made.made_at.min(now), repository, request)?;
    let is_newer = |at: Timestamp| made.made_at < at && at <= now;
    let newer = plan.items.iter().any(|item| item.taken_at.is_some_and(is_newer));
    let of_log = log_plan::work(&plan.log) != log_plan::work(&made.log);
    if newer || of_log || work(&plan) != work(made) {
        let message = format!("the backups of `{}` changed since the plan was made", plan.folder);
        return Err(Error::new(Kind::Refused, message).hint("run `lifeboat prune` again"));
    }
    plan.permit(approval)?;
    let Some(lease) = lease.filter(|_| !plan.is_idle()) else { return Ok(Pruned::default()) };
    let (grace, pruned) = (plan.grace, Pruned::default());
    let mut apply = Apply { env, repository, request, grace, record, lease, pruned };
    apply.backups(&plan)?;
    let Apply { mut pruned, mut lease, .. } = apply;
    // The backups that needed it are gone by now: none is ever without its log.
    match log_plan::delete(env, repository, &plan.log, &mut || lease.hold()) {
        Ok((objects, bytes)) => {
            pruned.log_objects = objects;
            pruned.freed_bytes += bytes;
        }
        Err(error) if error.kind() == Kind::Denied => pruned.deny("its log", &error),
        Err(error) => return Err(error),
    }
    if let Some(log_levels) = request.levels.as_deref().filter(|_| plan.thins()) {
        let (entry, _) = repository.source_entry(request.folder)?;
        let backups = staying(&plan, &entry);
        let hold = &mut || lease.hold();
        let work = (plan.folder.as_str(), &plan.thinned[..]);
        match levels::thin(env, repository, log_levels, (work, &backups), hold) {
            Ok(thinned) => {
                level_rule::note(env, repository, (&plan.folder, plan.source), log_levels)?;
                pruned.freed_bytes += thinned.freed_bytes;
                pruned.thinned = thinned;
            }
            Err(error) if error.kind() == Kind::Denied => pruned.deny("its log", &error),
            Err(error) => return Err(error),
        }
    }
    lease.hold()?;
    write_record(env, repository, &plan, &pruned)?;
    thin_records(repository, &plan.folder, &mut || lease.hold())?;
    lease.end();
    Ok(pruned)
}

/// What a plan does, to compare it with another one.
fn work(plan: &PrunePlan) -> Vec<(&str, Action, &[String])> {
    let does = |item: &&Item| !matches!(item.action, Action::Keep | Action::Wait | Action::Leave);
    let items = plan.items.iter().filter(does);
    items.map(|item| (item.name.as_str(), item.action, item.files.as_slice())).collect()
}

struct Apply<'a> {
    env: &'a Env,
    repository: &'a Repository,
    request: &'a PruneRequest<'a>,
    grace: SignedDuration,
    record: SourceRecord,
    lease: Lease<'a>,
    pruned: Pruned,
}

impl Apply<'_> {
    /// What the plan says of backups and of what interrupted runs left.
    fn backups(&mut self, plan: &PrunePlan) -> Result<()> {
        // What saves a backup comes first, what frees space next: a full store has room for marks
        // then.
        for item in plan.with(Action::Unmark).chain(plan.with(Action::Forget)) {
            if self
                .is_denied(&item.name, |apply| apply.remove_mark(MarkKind::Tombstone, &item.name))?
            {
                continue;
            }
            self.env.crash.pass("prune.unmarked")?;
            if item.action == Action::Unmark {
                self.pruned.unmarked.push(item.name.clone());
            }
        }
        // The newest first: what others build on goes after them, wherever this ends.
        for item in plan.with(Action::Delete).rev() {
            self.env.proceed()?;
            self.is_denied(&item.name, |apply| apply.delete(item))?;
        }
        for item in plan.with(Action::Mark).rev() {
            self.env.proceed()?;
            self.mark(item)?;
        }
        for name in &plan.begun_over {
            self.is_denied(name, |apply| apply.remove_mark(MarkKind::Begun, name))?;
        }
        Ok(())
    }

    /// Does something that our credentials may have no right to: then it is told of, and the rest
    /// goes on. Whether that was so.
    fn is_denied(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<bool> {
        match work(self) {
            Err(error) if error.kind() == Kind::Denied => {
                self.pruned.deny(name, &error);
                Ok(true)
            }
            done => done.map(|()| false),
        }
    }

    fn mark(&mut self, item: &Item) -> Result<()> {
        let marked_at = self.env.clock.now();
        let tombstone = Tombstone {
            format: FORMAT,
            source: self.record.id,
            backup: item.name.clone(),
            id: item.id,
            files: item.files.clone(),
            reason: item.reasons.join(", "),
            marked_at,
            delete_after: marked_at.checked_add(self.grace).unwrap_or(Timestamp::MAX),
        };
        let object = self.mark_object(MarkKind::Tombstone, &item.name)?;
        self.lease.hold()?;
        put_bytes(self.repository.store(), &object, &to_bytes(&tombstone))?;
        self.env.crash.pass("prune.marked")?;
        self.pruned.marked.push(item.name.clone());
        Ok(())
    }

    /// The manifest first: from then on it is no backup, and what is left is garbage of which the
    /// tombstone knows. The tombstone last: until then the next prune goes on with it.
    fn delete(&mut self, item: &Item) -> Result<()> {
        if !self.may_still_go(item)? {
            let message = "it was taken back while the prune ran, and stays";
            self.env.warn(&item.name, message);
            return Ok(());
        }
        if item.taken_at.is_some() {
            let object = self.repository.object(self.request.folder, &manifest(&item.name))?;
            // Its artifacts are locked no longer than it is.
            let locked_until = self.repository.store().locked_until(&object)?;
            if let Some(until) = locked_until.filter(|until| *until > self.env.clock.now()) {
                self.pruned.locked.push((item.name.clone(), until));
                return Ok(());
            }
            self.remove(&object)?;
            self.env.crash.pass("prune.manifest_deleted")?;
        }
        for file in &item.files {
            // Hidden names are those of objects that were never finished.
            if file.starts_with('.') {
                let object = self.repository.object(self.request.folder, file)?;
                self.lease.hold()?;
                if !self.repository.store().discard(&object)? {
                    self.env.warn(&item.name, "it is being written, and stays");
                    return Ok(());
                }
                continue;
            }
            self.remove(&self.repository.object(self.request.folder, file)?)?;
            self.env.crash.pass("prune.artifact_deleted")?;
        }
        if item.id.is_some() {
            self.delete_log(item)?;
        }
        self.env.crash.pass("prune.artifacts_deleted")?;
        use MarkKind::{Begun, Drilled, Marker, Outcome, Pin, Proof};
        for kind in [Pin, Marker, Outcome, Begun, Proof, Drilled] {
            self.remove_mark(kind, &item.name)?;
        }
        self.remove_mark(MarkKind::Tombstone, &item.name)?;
        self.env.crash.pass("prune.deleted")?;
        self.pruned.deleted.push(item.name.clone());
        self.pruned.freed_bytes += item.stored_bytes;
        Ok(())
    }

    /// A log is worth nothing without the backup that it follows.
    fn delete_log(&mut self, item: &Item) -> Result<()> {
        let prefix = self.repository.log_prefix(self.request.folder, &item.name);
        for object in self.repository.store().list(Some(&prefix))? {
            self.remove(&object.name)?;
            self.pruned.freed_bytes += object.bytes;
        }
        levels::discard_unfinished(self.repository.store(), &prefix, self.env.clock.now())?;
        Ok(())
    }

    /// Asks the store once more: someone may have undeleted or pinned it meanwhile, or the run
    /// that seemed dead may have ended.
    fn may_still_go(&self, item: &Item) -> Result<bool> {
        let store = self.repository.store();
        if store.head(&self.mark_object(MarkKind::Tombstone, &item.name)?)?.is_none() {
            return Ok(false);
        }
        let object = self.repository.object(self.request.folder, &manifest(&item.name))?;
        // What had no manifest when the plan was made must have none now.
        if item.taken_at.is_none() {
            return Ok(store.head(&object)?.is_none());
        }
        let pin = self.mark_object(MarkKind::Pin, &item.name)?;
        if store.head(&pin)?.is_none() {
            return Ok(true);
        }
        let pin: Pin = self.repository.read_mark(&pin)?;
        let now = self.env.clock.now();
        Ok(pin.hold().is_none_or(|hold| hold.until.is_some_and(|until| until <= now)))
    }

    fn mark_object(&self, kind: MarkKind, name: &str) -> Result<ObjectName> {
        ObjectName::new(kind.object(self.request.folder, name))
    }

    fn remove_mark(&mut self, kind: MarkKind, name: &str) -> Result<()> {
        self.remove(&self.mark_object(kind, name)?)
    }

    /// Every deletion asks first whether this run is still the one that may.
    fn remove(&mut self, object: &ObjectName) -> Result<()> {
        self.lease.hold()?;
        self.repository.store().delete(object)
    }
}

fn manifest(backup: &str) -> String {
    format!("{backup}.json")
}

/// What the next prune compares itself with.
fn write_record(
    env: &Env,
    repository: &Repository,
    plan: &PrunePlan,
    pruned: &Pruned,
) -> Result<()> {
    // Without a good backup, nothing was marked or deleted: there is nothing to compare with.
    let Some((newest_good, newest_good_at)) = plan.newest_good.clone() else { return Ok(()) };
    if pruned.marked.is_empty() && pruned.deleted.is_empty() {
        return Ok(());
    }
    let pruned_at = env.clock.now();
    let record = PruneRecord {
        format: FORMAT,
        source: plan.source,
        pruned_at,
        policy: plan.policy.clone(),
        plan: plan.id.clone(),
        newest_good,
        newest_good_at,
        marked: pruned.marked.clone(),
        deleted: pruned.deleted.clone(),
    };
    // To the millisecond: two prunes within a second have names in their order.
    let name = pruned_at.strftime("%Y%m%d-%H%M%S-%3f").to_string();
    let object = ObjectName::new(MarkKind::Record.object(&plan.folder, &name))?;
    env.crash.pass("prune.before_record")?;
    put_bytes(repository.store(), &object, &to_bytes(&record))?;
    env.crash.pass("prune.after_record")
}

/// Deletes the older records: the next prune looks at the newest alone. Their names are times.
fn thin_records(
    repository: &Repository,
    folder: &str,
    hold: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let store = repository.store();
    let is_record = |name: &ObjectName| {
        MarkKind::of_object(name.as_str())
            .is_some_and(|(kind, of, _)| kind == MarkKind::Record && of == folder)
    };
    let objects = store.list(Some(&MarkKind::Record.prefix(folder)))?;
    let mut records: Vec<ObjectName> =
        objects.into_iter().map(|object| object.name).filter(is_record).collect();
    records.sort();
    let old = records.len().saturating_sub(RECORDS_KEPT);
    for record in &records[..old] {
        hold()?;
        match store.delete(record) {
            // They are left to who may delete.
            Err(error) if error.kind() == Kind::Denied => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}
