//! From the local time in a script's name to the moment that a backup shows. Pure.
//!
//! The name decides, as times of modification are lost by a copy. They only choose between the two
//! moments of an hour that came twice, and a disagreement is told.

use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};

use crate::error::{Error, Kind, Result};
use crate::manifest::TimeFrom;
use crate::moment;

/// A script writes for a while after the second in its name.
const WRITING_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Less than this says nothing: clocks of file systems and zones of a quarter of an hour.
const APART_MIN: SignedDuration = SignedDuration::from_mins(14);
/// Times of modification may have whole seconds only.
const ROUNDING: SignedDuration = SignedDuration::from_secs(2);

/// The moment of a file, and how sure that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The moment.
    pub taken_at: Timestamp,
    /// How it was found.
    pub from: TimeFrom,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Its time of modification is more than a day away, as copies lose it: what to say of that.
    pub far: Option<String>,
}

/// Decides which moment a name's local time means in a zone, for a file that was modified last at
/// `modified`.
pub fn decide(
    local: civil::DateTime,
    zone: &TimeZone,
    modified: Timestamp,
    now: Timestamp,
) -> Result<Decided> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let impossible = |error: jiff::Error| {
        Error::new(Kind::CheckFailed, format!("{local} is no moment that can be named"))
            .caused_by(error)
    };
    let mut notes = Vec::new();
    let (taken_at, from) = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {
            (ambiguous.compatible().map_err(impossible)?, TimeFrom::Name)
        }
        AmbiguousOffset::Gap { .. } => {
            let moment = ambiguous.compatible().map_err(impossible)?;
            notes.push(format!(
                "its name says {local}, which clocks skipped when they went forward: taken for \
                 {moment}"
            ));
            (moment, TimeFrom::NameInGap)
        }
        AmbiguousOffset::Fold { .. } => {
            let first = ambiguous.earlier().map_err(impossible)?;
            let second = ambiguous.later().map_err(impossible)?;
            let (moment, from) = of_two(first, second, modified);
            notes.push(match from {
                TimeFrom::NameAndModified => format!(
                    "its name says {local}, which came twice when clocks went back: taken for \
                     {moment}, as it was modified at {modified}"
                ),
                _ => format!(
                    "its name says {local}, which came twice when clocks went back, and nothing \
                     tells which it was: taken for the first, {moment}"
                ),
            });
            (moment, from)
        }
    };
    let mut far = None;
    if from != TimeFrom::NameFirstOfTwo {
        match disagreement(taken_at, modified) {
            Some((true, note)) => far = Some(note),
            Some((false, note)) => notes.push(note),
            None => {}
        }
    }
    if taken_at > now {
        notes.push(format!("its name is dated in the future: {taken_at}"));
    }
    Ok(Decided { taken_at, from, notes, far })
}

/// Which of two moments a file is of that was finished at `modified`.
fn of_two(first: Timestamp, second: Timestamp, modified: Timestamp) -> (Timestamp, TimeFrom) {
    let fits = |moment: Timestamp| {
        let since = modified.duration_since(moment);
        since >= -ROUNDING && since <= WRITING_MAX
    };
    match (fits(first), fits(second)) {
        (_, true) => (second, TimeFrom::NameAndModified),
        (true, false) => (first, TimeFrom::NameAndModified),
        (false, false) => (first, TimeFrom::NameFirstOfTwo),
    }
}

/// What to say of a time of modification that is not that of the name, and whether it is far away.
fn disagreement(taken_at: Timestamp, modified: Timestamp) -> Option<(bool, String)> {
    let apart = modified.duration_since(taken_at);
    let (side, length) = match apart.is_negative() {
        true => ("before", -apart),
        false => ("after", apart),
    };
    let words = moment::age(length);
    let is_far = length > WRITING_MAX;
    let moment = format!("it was modified {words} {side} the moment in its name");
    let note = match is_far {
        true => format!("{moment}, which is taken: copies often lose that time"),
        false => format!("{moment}: was it made in another time zone? (--zone)"),
    };
    (length > APART_MIN).then_some((is_far, note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::names;
    use proptest::prelude::*;

    const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"];

    fn decided(name: &str, zone: &str, modified: &str) -> (String, TimeFrom, usize) {
        let local = names::read(name).unwrap().local;
        let zone = TimeZone::get(zone).unwrap();
        let now = "2026-11-22T00:00:00Z".parse().unwrap();
        let decided = decide(local, &zone, modified.parse().unwrap(), now).unwrap();
        let notes = decided.notes.len() + usize::from(decided.far.is_some());
        (decided.taken_at.to_string(), decided.from, notes)
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_moments() {
        let name = "superchat-20251026-023000.db.gz";
        let cases = [
            ("2025-10-26T00:30:05Z", "2025-10-26T00:30:00Z", TimeFrom::NameAndModified, 1),
            ("2025-10-26T01:30:05Z", "2025-10-26T01:30:00Z", TimeFrom::NameAndModified, 1),
            ("2026-05-01T00:00:00Z", "2025-10-26T00:30:00Z", TimeFrom::NameFirstOfTwo, 1),
            ("2025-01-01T00:00:00Z", "2025-10-26T00:30:00Z", TimeFrom::NameFirstOfTwo, 1),
        ];
        for (modified, moment, from, notes) in cases {
            let found = decided(name, "Europe/Berlin", modified);
            assert_eq!(found, (moment.to_owned(), from, notes), "{modified}");
        }
    }

    #[test]
    fn the_hour_that_never_was_is_accepted_and_told() {
        let (moment, from, notes) =
            decided("a-20250330-023000.db", "Europe/Berlin", "2025-03-30T01:30:00Z");
        assert_eq!((moment.as_str(), from), ("2025-03-30T01:30:00Z", TimeFrom::NameInGap));
        assert_eq!(notes, 1);
        // A clock change of half an hour.
        let lord_howe = decided("a-20251005-021500.db", "Australia/Lord_Howe", "2026-01-01T00:00Z");
        assert_eq!(lord_howe.1, TimeFrom::NameInGap);
    }

    #[test]
    fn a_time_of_modification_that_disagrees_is_told_and_does_not_win() {
        let name = "a-20250108-140000.db";
        for (modified, notes) in [
            ("2025-01-08T13:00:20Z", 0),
            ("2025-01-08T13:10:00Z", 0),
            ("2025-01-08T14:00:20Z", 1),
            ("2025-01-08T12:00:20Z", 1),
            ("2026-01-08T12:00:20Z", 1),
        ] {
            let found = decided(name, "Europe/Berlin", modified);
            assert_eq!(found, ("2025-01-08T13:00:00Z".to_owned(), TimeFrom::Name, notes));
        }
        assert_eq!(decided("a-20990108-140000.db", "UTC", "2099-01-08T14:00:00Z").2, 1);
    }

    proptest! {
        /// Whatever a script calls a moment, and whenever it ends within ten minutes: the moment
        /// is found again, also in the hours that come twice.
        #[test]
        fn a_name_gives_its_moment_back(
            zone in prop::sample::select(ZONES.to_vec()),
            seconds in 1_600_000_000_i64..1_900_000_000,
            took in 0_i64..600,
            dash in any::<bool>(),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            // Half of them near a change of clocks.
            let near = zone
                .following(Timestamp::from_second(seconds).unwrap())
                .next()
                .map(|change| change.timestamp().as_second() + seconds % 7_300 - 3_650)
                .filter(|_| seconds % 2 == 0)
                .unwrap_or(seconds);
            let moment = Timestamp::from_second(near).unwrap();
            let local = moment.to_zoned(zone.clone());
            let name = match dash {
                true => local.strftime("chat-%Y%m%d-%H%M%S.db.gz").to_string(),
                false => local.strftime("chat_%Y%m%d_%H%M%S.db").to_string(),
            };
            let modified = Timestamp::from_second(near + took).unwrap();
            let read = names::read(&name).unwrap();
            let decided = decide(read.local, &zone, modified, modified).unwrap();
            prop_assert_eq!(decided.taken_at, moment, "{}", name);
            prop_assert!(decided.from != TimeFrom::NameInGap);
        }
    }
}
