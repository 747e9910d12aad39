//! By which rule logs grow old, and that nobody makes it shorter by mistake.
//!
//! Thinning out takes no backup and so asks for no approval, but for one case: a rule that keeps
//! less than the one before. The rule is written down in the repository when logs are looked at by
//! it for the first time, so that the next time can compare.

use uuid::Uuid;

use super::{Gate, LogLevels};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::marks::{FORMAT, LevelRule, LevelsRecord, MarkKind, to_bytes};
use crate::repository::Repository;
use crate::store::{ObjectName, put_bytes};

impl LevelRule {
    /// Whether there is an age at which it keeps less than another rule.
    pub fn keeps_less_than(&self, other: &LevelRule) -> bool {
        let each = |rule: &LevelRule| [rule.all_ms, rule.minutely_ms, rule.hourly_ms];
        // What stays more finely also stays as the coarser rule says.
        let reach = |lengths: [u64; 3], at: usize| lengths[..=at].iter().copied().max();
        (0..3).any(|at| reach(each(self), at) < reach(each(other), at))
    }
}

/// The object in which the rule is that was followed last, and the rule. What cannot be read is no
/// rule: a newer one is written beside it.
fn last(repository: &Repository, folder: &str) -> Result<Option<(ObjectName, LevelRule)>> {
    let objects = repository.store().list(Some(&MarkKind::Levels.prefix(folder)))?;
    let names = objects.into_iter().map(|object| object.name);
    let is_one = |name: &ObjectName| {
        matches!(MarkKind::of_object(name.as_str()), Some((MarkKind::Levels, _, _)))
    };
    let Some(name) = names.filter(is_one).max() else { return Ok(None) };
    match repository.read_mark::<LevelsRecord>(&name) {
        Ok(record) => Ok(Some((name, record.rule))),
        Err(error) if error.kind() == Kind::CheckFailed => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands against thinning out by a rule: that it keeps less than the last one.
pub(super) fn gate(
    repository: &Repository,
    folder: &str,
    levels: &dyn LogLevels,
) -> Result<Option<Gate>> {
    let Some((_, last)) = last(repository, folder)? else { return Ok(None) };
    let message = "less of its logs is to be kept than when they were thinned out last".to_owned();
    let is_less = levels.rule().is_some_and(|rule| rule.keeps_less_than(&last));
    Ok(is_less.then_some(Gate { opens_with_approval: true, message }))
}

/// The same as an error, for who has no plan that could be approved.
pub(super) fn require_no_less(
    repository: &Repository,
    folder: &str,
    levels: &dyn LogLevels,
) -> Result<()> {
    match gate(repository, folder, levels)? {
        None => Ok(()),
        Some(gate) => Err(Error::new(Kind::Refused, gate.message).hint(
            "look with `lifeboat prune --dry-run`, and approve the plan that it names with \
             --approve",
        )),
    }
}

/// Writes down by which rule logs are thinned out from now on, where that is news.
pub(super) fn note(
    env: &Env,
    repository: &Repository,
    (folder, source): (&str, Uuid),
    levels: &dyn LogLevels,
) -> Result<()> {
    let Some(rule) = levels.rule() else { return Ok(()) };
    let before = last(repository, folder)?;
    if before.as_ref().is_some_and(|(_, last)| *last == rule) {
        return Ok(());
    }
    let said_at = env.clock.now();
    // To the millisecond, and behind the one before whatever the clock says.
    let mut name = said_at.strftime("%Y%m%d-%H%M%S-%3f").to_string();
    let last_name = before.as_ref().and_then(|(object, _)| object.as_str().rsplit('/').next());
    if let Some(last_name) = last_name.and_then(|last_name| last_name.strip_suffix(".json"))
        && *last_name >= *name
    {
        name = format!("{last_name}-1");
    }
    let record = LevelsRecord { format: FORMAT, source, said_at, rule };
    let object = ObjectName::new(MarkKind::Levels.object(folder, &name))?;
    put_bytes(repository.store(), &object, &to_bytes(&record))?;
    let Some((before, _)) = before else { return Ok(()) };
    match repository.store().delete(&before) {
        // It is left to who may delete: the newest counts.
        Err(error) if error.kind() == Kind::Denied => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_keeps_less_where_an_age_has_fewer_states() {
        let rule = |all_ms, minutely_ms, hourly_ms| LevelRule { all_ms, minutely_ms, hourly_ms };
        let usual = rule(10, 70, 300);
        for less in [rule(9, 70, 300), rule(10, 60, 300), rule(10, 70, 299), rule(400, 0, 0)] {
            assert_eq!(less.keeps_less_than(&usual), less != rule(400, 0, 0), "{less:?}");
        }
        assert!(!usual.keeps_less_than(&usual));
        assert!(!rule(10, 80, 300).keeps_less_than(&usual));
        // Every state up to there is more than one of each hour.
        assert!(!rule(300, 0, 0).keeps_less_than(&usual));
        assert!(rule(200, 0, 0).keeps_less_than(&usual));
    }
}
