//! What another policy would keep and remove. Pure: nothing is applied, nothing is asked.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::SourceEntry;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::policy::{self, Candidate, Decision, Floors, Keep};
use lifeboat_core::prune::{self, Forecast, Simulation};

/// The largest number that a tier may have here.
pub(super) const MOST: u32 = 10_000;

/// The fields of the form: their names in the address, and what they are called.
pub(super) const FIELDS: [(&str, &str); 8] = [
    ("last", "Newest"),
    ("hourly", "Hours"),
    ("daily", "Days"),
    ("weekly", "Weeks"),
    ("monthly", "Months"),
    ("quarterly", "Quarters"),
    ("yearly", "Years"),
    ("within", "All of so many days"),
];

const DAY_S: i64 = 86_400;

/// The number of a field in a policy.
pub(super) fn number(keep: &Keep, field: &str) -> u32 {
    match field {
        "last" => keep.last,
        "hourly" => keep.hourly,
        "daily" => keep.daily,
        "weekly" => keep.weekly,
        "monthly" => keep.monthly,
        "quarterly" => keep.quarterly,
        "yearly" => keep.yearly,
        _ => {
            let days = keep.within.map_or(0, |within| within.as_secs() / DAY_S);
            u32::try_from(days).unwrap_or(MOST)
        }
    }
}

/// The policy that a form asks for, and what is wrong with its fields; `None` where it asks for
/// none, because nothing was sent.
pub(super) fn asked(given: &BTreeMap<String, String>) -> (Option<Keep>, Vec<String>) {
    let (mut keep, mut wrong) = (Keep::default(), Vec::new());
    let mut is_asked = false;
    for (field, label) in FIELDS {
        let Some(text) = given.get(field) else { continue };
        is_asked = true;
        let number = match text.trim() {
            "" => Ok(0),
            text => text.parse::<u32>(),
        };
        match number {
            Ok(number) if number <= MOST => set(&mut keep, field, number),
            _ => wrong.push(format!("{label}: write a number from 0 to {MOST}")),
        }
    }
    (is_asked.then_some(keep), wrong)
}

fn set(keep: &mut Keep, field: &str, number: u32) {
    match field {
        "last" => keep.last = number,
        "hourly" => keep.hourly = number,
        "daily" => keep.daily = number,
        "weekly" => keep.weekly = number,
        "monthly" => keep.monthly = number,
        "quarterly" => keep.quarterly = number,
        "yearly" => keep.yearly = number,
        _ => {
            let days = SignedDuration::from_secs(i64::from(number) * DAY_S);
            keep.within = (number > 0).then_some(days);
        }
    }
}

/// A policy as the configuration writes it: `{ daily = 30, monthly = 12 }`.
pub(super) fn as_toml(keep: &Keep) -> String {
    if keep.forever || keep.is_empty() {
        return "\"forever\"".to_owned();
    }
    let fields = FIELDS.iter().filter_map(|(field, _)| match (*field, number(keep, field)) {
        (_, 0) => None,
        ("within", days) => Some(format!("within = \"{days}d\"")),
        (field, number) => Some(format!("{field} = {number}")),
    });
    format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
}

/// What is decided on.
pub(super) struct Given<'a> {
    pub(super) entry: &'a SourceEntry,
    pub(super) now: Timestamp,
    /// The zone of the repository's calendar.
    pub(super) zone: &'a TimeZone,
    /// The policy in force.
    pub(super) in_force: &'a Keep,
    /// The one that is tried.
    pub(super) tried: &'a Keep,
    /// When backups will be made; empty where nobody knows.
    pub(super) moments: &'a [Timestamp],
    /// When the forecast ends.
    pub(super) until: Timestamp,
    /// What is free in the repository's place, where that is known.
    pub(super) free_bytes: Option<u64>,
}

/// What would be.
pub(super) struct RetentionView {
    /// Every backup, the newest first.
    pub(super) lines: Vec<Line>,
    /// How many the tried policy keeps, and what these take.
    pub(super) kept: (usize, u64),
    /// How many it removes, and what these take.
    pub(super) removed: (usize, u64),
    /// Of which so many are kept by the policy in force.
    pub(super) newly_removed: usize,
    /// How the tried policy goes on, where it is known when backups are made.
    pub(super) simulation: Option<Simulation>,
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) at: Timestamp,
    pub(super) stored_bytes: u64,
    /// Whether the tried policy keeps it.
    pub(super) keeps: bool,
    /// Why, in words.
    pub(super) reasons: Vec<String>,
    /// Whether the policy in force keeps it.
    pub(super) keeps_now: bool,
}

/// Decides on all backups by both policies.
pub(super) fn view(given: &Given<'_>) -> RetentionView {
    let candidates: Vec<Candidate> =
        given.entry.backups.iter().map(|one| prune::candidate(given.entry, one)).collect();
    let decide =
        |keep: &Keep| policy::decide(given.now, given.zone, keep, &Floors::default(), &candidates);
    let (tried, in_force) = (decide(given.tried), decide(given.in_force));
    let line = |((backup, tried), in_force): ((&Manifest, &Decision), &Decision)| Line {
        name: backup.name.clone(),
        at: backup.taken_at,
        stored_bytes: backup.stored_bytes(),
        keeps: tried.keeps(),
        reasons: tried.words(),
        keeps_now: in_force.keeps(),
    };
    let decided = given.entry.backups.iter().zip(&tried).zip(&in_force);
    let lines: Vec<Line> = decided.rev().map(line).collect();
    let sum = |keeps: bool| {
        let those = lines.iter().filter(|line| line.keeps == keeps);
        (those.clone().count(), those.map(|line| line.stored_bytes).sum())
    };
    RetentionView {
        kept: sum(true),
        removed: sum(false),
        newly_removed: lines.iter().filter(|line| !line.keeps && line.keeps_now).count(),
        simulation: simulation(given, candidates),
        lines,
    }
}

fn simulation(given: &Given<'_>, candidates: Vec<Candidate>) -> Option<Simulation> {
    let newest = given.entry.backups.last()?;
    if given.moments.is_empty() {
        return None;
    }
    let bytes = given.entry.backups.iter().map(Manifest::stored_bytes);
    Some(prune::simulate(Forecast {
        now: given.now,
        until: given.until,
        zone: given.zone,
        keep: given.tried,
        floors: Floors::default(),
        grace: prune::GRACE,
        existing: candidates.into_iter().zip(bytes).collect(),
        removed: Vec::new(),
        moments: given.moments,
        backup_bytes: newest.stored_bytes(),
        free_bytes: given.free_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::made;

    fn form(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_form_is_a_policy_or_says_which_field_is_wrong() {
        let (keep, wrong) = asked(&form(&[("daily", "7"), ("within", "2"), ("hourly", " ")]));
        let expected =
            Keep { daily: 7, within: Some(SignedDuration::from_hours(48)), ..Keep::default() };
        assert_eq!((keep.as_ref(), wrong.len()), (Some(&expected), 0));
        assert_eq!(as_toml(&expected), "{ daily = 7, within = \"2d\" }");
        for field in ["-1", "1.5", "99999999999", "10001", "<b>"] {
            let (_, wrong) = asked(&form(&[("daily", field)]));
            assert_eq!(wrong, ["Days: write a number from 0 to 10000"], "{field}");
        }
        assert_eq!(asked(&form(&[("source", "app")])).0, None);
        assert_eq!(as_toml(&Keep::default()), "\"forever\"");
        for (field, _) in FIELDS {
            let (keep, _) = asked(&form(&[(field, "3")]));
            assert_eq!(number(&keep.unwrap(), field), 3, "{field}");
        }
    }

    #[test]
    fn both_policies_are_compared() {
        let hours: Vec<i64> = (-10 * 24..0).collect();
        let entry = made::entry("app", &hours);
        let in_force = Keep { hourly: 48, daily: 7, ..Keep::default() };
        let tried = Keep { daily: 3, ..Keep::default() };
        let moments: Vec<Timestamp> = (1..48).map(made::hour).collect();
        let given = Given {
            entry: &entry,
            now: made::hour(0),
            zone: const { &TimeZone::UTC },
            in_force: &in_force,
            tried: &tried,
            moments: &moments,
            until: made::hour(48),
            free_bytes: None,
        };
        let view = view(&given);
        // The three newest days, and the three newest of all, of which one is of the first of them.
        assert_eq!(view.kept, (5, 5_000));
        assert_eq!(view.removed, (235, 235_000));
        assert_eq!(view.newly_removed, 48 + 5 - 5);
        assert_eq!(
            view.lines[0].reasons,
            ["newest good", "one of the 3 newest good", "daily 2026-01-07"]
        );
        assert!(view.lines[0].keeps && view.lines[9].keeps_now && !view.lines[9].keeps);
        assert_eq!(view.simulation.unwrap().steps.len(), 3);
        let nobody_knows = super::view(&Given { moments: &[], ..given });
        assert!(nobody_knows.simulation.is_none());
    }
}
