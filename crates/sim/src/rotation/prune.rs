//! One prune of a simulated rotation: what it may do is known before it begins.

use std::collections::BTreeSet;

use jiff::Timestamp;
use lifeboat_core::Kind;
use lifeboat_core::env::CRASH_POINTS;
use lifeboat_core::policy::{Floors, Keep};
use lifeboat_core::prune::{self, Action, GRACE, GRACE_MIN, PrunePlan, PruneRequest};
use lifeboat_core::store::Space;
use lifeboat_sqlite::sample::Seeded;

use super::RotationReport;
use super::member::{FOLDER, Member, There};
use super::rule;
use crate::history::Broken;
use crate::store::Faults;

/// What a prune has to do with the backups, by the rule.
struct Expected {
    now: Timestamp,
    keep: BTreeSet<String>,
    mark: BTreeSet<String>,
    unmark: BTreeSet<String>,
    delete: BTreeSet<String>,
    wait: BTreeSet<String>,
}

/// What the last prune that came to its end wrote down.
struct Last {
    pruned_at: Timestamp,
    newest_good_at: Timestamp,
    keep: Keep,
}

impl Member {
    /// Prunes, perhaps with an approval, perhaps cut off.
    pub(super) fn prune(
        &mut self,
        random: &mut Seeded,
        report: &mut RotationReport,
    ) -> Result<String, Broken> {
        let before = self.look()?;
        let space = random.one_in(8).then_some(Space { used_bytes: 90, free_bytes: 10 });
        let request = PruneRequest {
            folder: FOLDER,
            keep: self.keep.clone(),
            also_within: None,
            floors: Floors::default(),
            grace: GRACE,
            space,
            log: None,
            levels: None,
        };
        let plan = prune::plan(&self.env, &self.repository, &request)
            .map_err(|error| format!("no plan: {error:?}"))?;
        let expected = self.expected(plan.made_at, &before, space.is_some())?;
        self.check_plan(&plan, &expected)?;
        let approval = match random.below(4) {
            0 | 1 => Some(plan.id.clone()),
            2 => Some("0123456789ab".to_owned()),
            _ => None,
        };
        let approved = approval.as_ref() == Some(&plan.id);
        let closed = self.closed(&plan, &expected, &before, approved)?;
        let fault = self.choose_fault(random);
        let approval = approval.as_deref();
        let locks = Some(self.locks.path());
        let done = prune::apply(&self.env, &self.repository, &request, &plan, approval, locks);
        self.store.reboot();
        self.power.arm(None);
        let after = self.look()?;
        let story = format!("prune of {plan_id}, {fault}, {closed:?}", plan_id = plan.id);
        let context = |broken: String| format!("{story}: {done:?}: {broken}");
        match (&done, closed) {
            (_, Some(_)) if before != after => return Err(context("it did something".into())),
            (Ok(_), Some(_)) if !plan.is_idle() => return Err(context("not refused".into())),
            (Err(error), Some(_)) if error.kind() == Kind::Refused => report.refused += 1,
            (_, Some(_)) => {}
            (Ok(_), None) => {
                report.pruned += 1;
                check_whole_work(&expected, &before, &after).map_err(context)?;
            }
            (Err(error), None) if error.kind() == Kind::Refused => {
                return Err(context("refused without a reason".into()));
            }
            (Err(_), None) => report.cut_off += 1,
        }
        check_no_more_than(&expected, &before, &after).map_err(context)?;
        self.check_floors(&expected, &before, &after).map_err(context)?;
        self.learn(&plan, &before, &after, report);
        Ok(story)
    }

    fn expected(&self, now: Timestamp, there: &There, full: bool) -> Result<Expected, Broken> {
        let all = self.known(there.listed.union(&there.removed));
        let keep = rule::kept(now, &self.zone, &self.keep, &all);
        let (mut delete, mut wait) = (BTreeSet::new(), BTreeSet::new());
        for name in there.removed.difference(&keep) {
            let tombstone = self.json(&format!("tombstones/{FOLDER}/{name}.json"))?;
            let (marked_at, mut due) =
                (moment(&tombstone["marked_at"])?, moment(&tombstone["delete_after"])?);
            if full {
                due = due.min(marked_at + GRACE_MIN);
            }
            if due.duration_since(marked_at) < GRACE_MIN {
                return Err(format!("the tombstone of {name} stands for less than a day"));
            }
            let is_due = due <= now && marked_at < now;
            if is_due { &mut delete } else { &mut wait }.insert(name.clone());
        }
        // What can still be taken back needs what it builds on.
        let stays = all.iter().map(|one| &one.name).filter(|name| !delete.contains(*name));
        let needed = rule::with_parents(stays.cloned().collect(), &all);
        wait.extend(delete.intersection(&needed).cloned());
        delete.retain(|name| !needed.contains(name));
        Ok(Expected {
            now,
            mark: there.listed.difference(&keep).cloned().collect(),
            unmark: there.removed.intersection(&keep).cloned().collect(),
            keep,
            delete,
            wait,
        })
    }

    /// The plan says of every backup what the rule says, and of nothing that is a stranger's.
    fn check_plan(&self, plan: &PrunePlan, expected: &Expected) -> Result<(), Broken> {
        let with = |action| -> BTreeSet<String> {
            let of_backups = plan.with(action).filter(|item| item.taken_at.is_some());
            of_backups.map(|item| item.name.clone()).collect()
        };
        for (action, wanted) in [
            (Action::Mark, &expected.mark),
            (Action::Unmark, &expected.unmark),
            (Action::Delete, &expected.delete),
            (Action::Wait, &expected.wait),
        ] {
            let planned = with(action);
            if planned != *wanted {
                return Err(format!(
                    "at {}, to {action:?} are by the plan {:?}, which the rule does not say, and \
                     not {:?}, which it does",
                    expected.now,
                    planned.difference(wanted).collect::<Vec<_>>(),
                    wanted.difference(&planned).collect::<Vec<_>>()
                ));
            }
        }
        for item in plan.items.iter().filter(|item| item.taken_at.is_none()) {
            let leaves = matches!(item.action, Action::Leave | Action::Wait);
            let own = |file: &String| {
                self.garbage.contains(file)
                    || self.made.iter().any(|(name, made)| made.deleted && file.starts_with(name))
            };
            if let Some(file) = item.files.iter().find(|file| !leaves && !own(file)) {
                return Err(format!("the plan is to {:?} {file}, which is not ours", item.action));
            }
        }
        Ok(())
    }

    /// Why nothing may happen, if so.
    fn closed(
        &self,
        plan: &PrunePlan,
        expected: &Expected,
        there: &There,
        approved: bool,
    ) -> Result<Option<&'static str>, Broken> {
        let removes = plan.with(Action::Mark).chain(plan.with(Action::Delete)).count() > 0;
        if !removes {
            return Ok(None);
        }
        let listed = self.known(&there.listed);
        let good = rule::good(expected.now, &listed);
        let Some(newest) = good.first() else { return Ok(Some("no good backup")) };
        let last = self.last(there)?;
        if let Some(last) = &last {
            if newest.taken_at <= last.newest_good_at {
                return Ok(Some("no newer good backup"));
            }
            if expected.now < last.pruned_at {
                return Ok(Some("the clock went back"));
            }
        }
        if approved {
            return Ok(None);
        }
        let marked = good.iter().filter(|one| expected.mark.contains(&one.name)).count();
        if marked * 2 > good.len() {
            return Ok(Some("more than half"));
        }
        let other_policy = last.is_some_and(|last| last.keep != self.keep);
        Ok((other_policy && !expected.mark.is_empty()).then_some("another policy"))
    }

    /// What the newest record says.
    fn last(&self, there: &There) -> Result<Option<Last>, Broken> {
        let prefix = format!("prunes/{FOLDER}/");
        let newest = there.objects.keys().rfind(|name| name.starts_with(&prefix));
        let Some(newest) = newest else { return Ok(None) };
        let record = self.json(newest)?;
        let keep = self.records.get(newest).cloned();
        Ok(Some(Last {
            pruned_at: moment(&record["pruned_at"])?,
            newest_good_at: moment(&record["newest_good_at"])?,
            keep: keep.ok_or_else(|| format!("nobody wrote {newest}"))?,
        }))
    }

    fn choose_fault(&self, random: &mut Seeded) -> String {
        match random.below(10) {
            0..3 => {
                let of_prune: Vec<_> =
                    CRASH_POINTS.iter().filter(|point| point.starts_with("prune.")).collect();
                let Some(point) = of_prune.get(random.below(of_prune.len() as u64) as usize) else {
                    return "no fault".into();
                };
                self.power.arm(Some(point));
                format!("power cut at {point}")
            }
            3 => {
                let dies_after_calls = 1 + random.below(80);
                self.store.set_faults(Faults { dies_after_calls, ..Faults::default() });
                format!("dead after {dies_after_calls} calls")
            }
            4 => {
                let faults = Faults { call_fails: 20, commit_fails_late: 4, ..Faults::default() };
                self.store.set_faults(faults);
                format!("{faults:?}")
            }
            _ => "no fault".into(),
        }
    }

    /// However a prune ended: the newest good ones, the pinned and those of the future that were
    /// listed still are.
    fn check_floors(
        &self,
        expected: &Expected,
        before: &There,
        after: &There,
    ) -> Result<(), Broken> {
        let listed = self.known(&before.listed);
        let newest = rule::good(expected.now, &listed).into_iter().take(rule::GOOD_MIN);
        let others =
            listed.iter().filter(|one| one.is_pinned(expected.now) || one.taken_at > expected.now);
        match newest.chain(others).find(|one| !after.listed.contains(&one.name)) {
            Some(lost) => Err(format!("{} was a floor, and is not listed any more", lost.name)),
            None => Ok(()),
        }
    }

    /// Takes note of what happened.
    fn learn(
        &mut self,
        plan: &PrunePlan,
        before: &There,
        after: &There,
        report: &mut RotationReport,
    ) {
        for name in after.objects.keys().filter(|name| name.starts_with("prunes/")) {
            if !before.objects.contains_key(name) {
                self.records.insert(name.clone(), self.keep.clone());
            }
        }
        if before.objects != after.objects {
            self.horizon = self.horizon.max(plan.made_at);
        }
        for name in before.listed.union(&before.removed) {
            let is_there = after.listed.contains(name) || after.removed.contains(name);
            if let Some(made) = self.made.get_mut(name).filter(|_| !is_there) {
                made.deleted = true;
                report.deleted += 1;
            }
        }
        report.marked += before.listed.difference(&after.listed).count() as u64;
        report.taken_back += after.listed.difference(&before.listed).count() as u64;
        let left = self.garbage.len();
        self.garbage.retain(|file| after.objects.contains_key(&format!("{FOLDER}/{file}")));
        report.garbage += (left - self.garbage.len()) as u64;
    }
}

/// A prune that says that it was done did all of it.
fn check_whole_work(expected: &Expected, before: &There, after: &There) -> Result<(), Broken> {
    let kept: BTreeSet<String> = before.listed.intersection(&expected.keep).cloned().collect();
    let listed: BTreeSet<String> = kept.union(&expected.unmark).cloned().collect();
    let removed: BTreeSet<String> = expected.wait.union(&expected.mark).cloned().collect();
    match listed == after.listed && removed == after.removed {
        true => Ok(()),
        false => Err("what is there is not what the rule says".into()),
    }
}

/// However far a prune came, it did nothing else.
fn check_no_more_than(expected: &Expected, before: &There, after: &There) -> Result<(), Broken> {
    let all = |there: &There| -> BTreeSet<String> {
        there.listed.union(&there.removed).cloned().collect()
    };
    let gone: BTreeSet<String> = all(before).difference(&all(after)).cloned().collect();
    let unlisted: BTreeSet<String> = before.listed.difference(&after.listed).cloned().collect();
    let listed: BTreeSet<String> = after.listed.difference(&before.listed).cloned().collect();
    let within = |done: &BTreeSet<String>, asked: &BTreeSet<String>, what: &str| match done
        .difference(asked)
        .next()
    {
        Some(name) => Err(format!("{name} was {what}, which nothing asked for")),
        None => Ok(()),
    };
    within(&gone, &expected.delete, "deleted")?;
    within(&unlisted, &expected.mark, "marked")?;
    within(&listed, &expected.unmark, "taken back")
}

fn moment(value: &serde_json::Value) -> Result<Timestamp, Broken> {
    let text = value.as_str().ok_or_else(|| format!("{value} is no time"))?;
    text.parse().map_err(|error| format!("{text}: {error}"))
}
