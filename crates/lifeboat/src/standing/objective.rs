//! A promise against its measurement: how much may be lost (`rpo`), how long a restore takes
//! (`rto`). Pure.

use jiff::Timestamp;
use serde::Serialize;

use crate::ui::units;

/// How a promise stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Nothing was promised.
    #[default]
    Unpromised,
    /// What was measured is within it.
    Kept,
    /// It is not.
    Broken,
    /// Promised, and never measured.
    Unmeasured,
}

/// A promise and its measurement, of a source in one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Objective {
    /// What was promised, in milliseconds.
    pub(crate) promised_ms: Option<u64>,
    /// What was measured.
    pub(crate) measured_ms: Option<u64>,
    /// How it stands.
    pub(crate) outcome: Outcome,
    /// By what it was measured, for people.
    pub(crate) basis: String,
}

/// A drill, as far as it measures a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LastDrill {
    /// When it ended.
    pub(crate) drilled_at: Timestamp,
    /// How long its restore took, in milliseconds.
    pub(crate) restore_ms: u64,
    /// What was restored, in bytes, where that backup is still there.
    pub(crate) bytes: Option<u64>,
}

impl Objective {
    fn new(promised_ms: Option<u64>, measured_ms: Option<u64>, basis: String) -> Self {
        let outcome = match (promised_ms, measured_ms) {
            (None, _) => Outcome::Unpromised,
            (Some(_), None) => Outcome::Unmeasured,
            (Some(promised), Some(measured)) if measured > promised => Outcome::Broken,
            (Some(_), Some(_)) => Outcome::Kept,
        };
        Objective { promised_ms, measured_ms, outcome, basis }
    }

    /// How much would be lost now: the age of the newest moment that this repository can restore.
    pub(crate) fn rpo(
        promised_ms: Option<u64>,
        newest_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let age_ms = newest_at.map(|at| ms_between(at, now));
        let basis = match newest_at {
            Some(at) => format!("the newest moment that can be restored is {at}"),
            None => "nothing can be restored".to_owned(),
        };
        let mut objective = Objective::new(promised_ms, age_ms, basis);
        if promised_ms.is_some() && newest_at.is_none() {
            // Nothing to restore is more than any promise allows.
            objective.outcome = Outcome::Broken;
        }
        objective
    }

    /// How long a restore would take: as long as that of the last drill, and longer in proportion
    /// where the newest backup has more bytes than what was restored then. It is never taken to be
    /// faster than what was seen, because much of a restore does not depend on its size.
    pub(crate) fn rto(
        promised_ms: Option<u64>,
        drill: Option<LastDrill>,
        newest_bytes: Option<u64>,
    ) -> Self {
        let Some(drill) = drill else {
            return Objective::new(promised_ms, None, "no drill has measured it".to_owned());
        };
        let LastDrill { drilled_at, restore_ms, bytes } = drill;
        let took = units::duration(restore_ms);
        let grown = bytes.zip(newest_bytes).filter(|(then, now)| *then > 0 && now > then);
        let (measured_ms, basis) = match grown {
            Some((then, now)) => {
                let ms = u128::from(restore_ms) * u128::from(now) / u128::from(then);
                let (then, now) = (units::bytes(then), units::bytes(now));
                let basis = format!(
                    "the drill of {drilled_at} took {took} for {then}, in proportion to the {now} \
                     of now"
                );
                (u64::try_from(ms).unwrap_or(u64::MAX), basis)
            }
            None => (restore_ms, format!("the drill of {drilled_at} took {took}")),
        };
        Objective::new(promised_ms, Some(measured_ms), basis)
    }

    /// Whether it was promised and is not kept.
    pub(crate) fn is_broken(&self) -> bool {
        self.outcome == Outcome::Broken
    }
}

/// From one moment to a later one; 0 where that is earlier.
pub(super) fn ms_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_newest_moment_decides_how_much_is_lost() {
        let of = |promised_ms, newest: Option<i64>| {
            let objective = Objective::rpo(promised_ms, newest.map(at), at(100));
            (objective.measured_ms, objective.outcome)
        };
        assert_eq!(of(Some(60_000), Some(40)), (Some(60_000), Outcome::Kept));
        assert_eq!(of(Some(59_999), Some(40)), (Some(60_000), Outcome::Broken));
        assert_eq!(of(None, Some(40)), (Some(60_000), Outcome::Unpromised));
        assert_eq!(of(Some(60_000), None), (None, Outcome::Broken));
        // A clock that is a little behind loses nothing.
        assert_eq!(of(Some(1), Some(101)), (Some(0), Outcome::Kept));
    }

    #[test]
    fn a_restore_takes_longer_in_proportion_and_never_less() {
        let drill = |bytes| Some(LastDrill { drilled_at: at(0), restore_ms: 10_000, bytes });
        let of = |drill, newest| {
            let objective = Objective::rto(Some(20_000), drill, newest);
            (objective.measured_ms, objective.outcome)
        };
        assert_eq!(of(drill(Some(1_000)), Some(2_000)), (Some(20_000), Outcome::Kept));
        assert_eq!(of(drill(Some(1_000)), Some(2_001)), (Some(20_010), Outcome::Broken));
        assert_eq!(of(drill(Some(1_000)), Some(10)), (Some(10_000), Outcome::Kept));
        assert_eq!(of(drill(None), Some(9_000)), (Some(10_000), Outcome::Kept));
        assert_eq!(of(drill(Some(0)), Some(u64::MAX)), (Some(10_000), Outcome::Kept));
        assert_eq!(of(drill(Some(1)), Some(u64::MAX)), (Some(u64::MAX), Outcome::Broken));
        assert_eq!(of(None, Some(1)), (None, Outcome::Unmeasured));
    }
}
