//! A tighter retention, tried on what is there: how much it would free, and what to write for it.

use lifeboat_core::Result;
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::env::Env;
use lifeboat_core::policy::Keep;
use lifeboat_core::prune::{self, Action, PrunePlan, PruneRequest};

use crate::repositories::Opened;
use crate::sources::Target;
use crate::ui::units;

/// What half of each tier would free.
pub(super) fn note(
    env: &Env,
    one: &Opened,
    (target, entry): (&Target, &SourceEntry),
    request: &PruneRequest<'_>,
) -> Result<Option<String>> {
    let keep = half(&request.keep);
    if keep == request.keep {
        return Ok(None);
    }
    let now = kept(&prune::plan(env, &one.repository, request)?);
    let tighter = PruneRequest {
        folder: &entry.folder,
        keep: keep.clone(),
        also_within: request.also_within,
        floors: request.floors,
        grace: request.grace,
        space: request.space,
        log: request.log.clone(),
        levels: request.levels.clone(),
    };
    let then = kept(&prune::plan(env, &one.repository, &tighter)?);
    let freed = now.saturating_sub(then);
    Ok((freed > 0).then(|| {
        format!(
            "half of `keep` of {} would free {} more in {}: keep = {{ {} }}, then lifeboat prune \
             --dry-run",
            target.name,
            units::bytes(freed),
            one.place.label(),
            words(&keep)
        )
    }))
}

/// The bytes that stay.
fn kept(plan: &PrunePlan) -> u64 {
    let stays = plan.items.iter().filter(|item| item.action == Action::Keep);
    stays.map(|item| item.stored_bytes).sum()
}

/// Each tier halved, and never to nothing.
fn half(keep: &Keep) -> Keep {
    let half = |count: u32| count.div_ceil(2);
    Keep {
        last: half(keep.last),
        hourly: half(keep.hourly),
        daily: half(keep.daily),
        weekly: half(keep.weekly),
        monthly: half(keep.monthly),
        quarterly: half(keep.quarterly),
        yearly: half(keep.yearly),
        within: keep.within.map(|within| within / 2),
        ..keep.clone()
    }
}

/// As the configuration is written.
fn words(keep: &Keep) -> String {
    let counts = [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("quarterly", keep.quarterly),
        ("yearly", keep.yearly),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    let mut words: Vec<String> = counts.map(|(name, count)| format!("{name} = {count}")).collect();
    if let Some(within) = keep.within {
        words.push(format!("within = \"{}h\"", within.as_hours().max(1)));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_rule_keeps_something_of_each_tier() {
        let keep = Keep { last: 1, daily: 7, ..Keep::default() };
        let half = half(&keep);
        assert_eq!((half.last, half.daily, half.weekly), (1, 4, 0));
        assert_eq!(words(&half), "last = 1, daily = 4");
    }
}
