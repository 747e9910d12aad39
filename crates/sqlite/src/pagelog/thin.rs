//! Which states of a log stay as they grow old. Pure: no clock, no input or output.
//!
//! Young states all stay. Of older ones the last of each minute does, of still older ones the last
//! of each hour, and in the end none. The newest state of a log stays in any case: what is added
//! next follows it.

use super::names::Span;

/// How finely the states of a log can be told apart, by their age. Lengths are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// For so long every state stays.
    pub all_ms: u64,
    /// For so long the last state of each minute stays.
    pub minutely_ms: u64,
    /// For so long the last state of each hour stays.
    pub hourly_ms: u64,
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS as u64;

/// The level of a file that leads to the last state of a minute, and of an hour.
const LEVEL_MINUTE: u8 = 1;
const LEVEL_HOUR: u8 = 2;

impl Default for Resolution {
    fn default() -> Self {
        Resolution { all_ms: DAY_MS, minutely_ms: 7 * DAY_MS, hourly_ms: 30 * DAY_MS }
    }
}

/// How finely states of one age are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fineness {
    /// Every one.
    All,
    /// One of each minute.
    Minute,
    /// One of each hour.
    Hour,
    /// None.
    Nothing,
}

impl Fineness {
    /// The level of files that lead to such states.
    pub(crate) fn level(self) -> u8 {
        if self <= Fineness::Minute { LEVEL_MINUTE } else { LEVEL_HOUR }
    }

    fn bucket(self, at_ms: i64) -> Option<i64> {
        match self {
            Fineness::All | Fineness::Nothing => None,
            Fineness::Minute => Some(at_ms.div_euclid(MINUTE_MS)),
            Fineness::Hour => Some(at_ms.div_euclid(HOUR_MS)),
        }
    }
}

/// A state of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Its position.
    pub(crate) position: u64,
    /// Nothing is in it that was committed later, in milliseconds since 1970. `None` of one that
    /// was thinned out already, as those right before and behind it were: it stays.
    pub(crate) until_ms: Option<i64>,
}

/// A state that stays, and how finely it and those right before it, which go, are told apart.
pub(crate) type Staying = (State, Fineness);

impl Resolution {
    /// Before which times states are told apart by minutes, by hours, and not at all.
    pub(crate) fn borders_ms(&self, newest_ms: i64) -> [i64; 3] {
        let minutely_ms = self.minutely_ms.max(self.all_ms);
        let ages_ms = [self.all_ms, minutely_ms, self.hourly_ms.max(minutely_ms)];
        ages_ms.map(|age_ms| newest_ms.saturating_sub_unsigned(age_ms))
    }

    /// How finely states of that time are told apart, seen from the newest one.
    pub(crate) fn fineness(&self, at_ms: i64, newest_ms: i64) -> Fineness {
        let age_ms = u64::try_from(newest_ms.saturating_sub(at_ms)).unwrap_or(0);
        let of_age = [
            (self.all_ms, Fineness::All),
            (self.minutely_ms, Fineness::Minute),
            (self.hourly_ms, Fineness::Hour),
        ];
        let fine = of_age.into_iter().find(|(until_ms, _)| age_ms <= *until_ms);
        fine.map_or(Fineness::Nothing, |(_, fineness)| fineness)
    }

    /// Those of the states of a log that stay, in order. The last of a bucket is one whose next
    /// state is in another, so that a clock that went back takes nothing away.
    pub(crate) fn staying(&self, newest_ms: i64, states: &[State]) -> Vec<Staying> {
        let mut staying = Vec::new();
        let mut coarsest = Fineness::All;
        for (at, state) in states.iter().enumerate() {
            let fineness = state.until_ms.map(|until_ms| self.fineness(until_ms, newest_ms));
            let fineness = fineness.unwrap_or(Fineness::All);
            let stays = match (fineness, states.get(at + 1)) {
                (Fineness::All, _) | (_, None) => true,
                (Fineness::Nothing, Some(_)) => false,
                (fineness, Some(next)) => {
                    let bucket = |state: &State| fineness.bucket(state.until_ms?);
                    next.until_ms.is_none() || bucket(state) != bucket(next)
                }
            };
            coarsest = coarsest.max(fineness);
            if stays {
                staying.push((*state, std::mem::replace(&mut coarsest, Fineness::All)));
            }
        }
        staying
    }
}

/// What is to be done to a log so that only some of its states stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thin {
    /// The way through the states that stay, as far as it is looked at.
    pub(crate) way: Vec<Leg>,
    /// The files that no state needs any more, by their place among those of the log: in the order
    /// in which they may go.
    pub(crate) going: Vec<usize>,
}

/// A part of the way: from one state that stays to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leg {
    /// A file that is there.
    There(usize),
    /// Files that are to be merged, and what the merged one is to be named.
    Merge(Vec<usize>, Span),
}

/// Plans over the files of a log without a gap, sorted by where they begin. `staying` are states
/// that stay, `end` is the last position that is looked at: files that lead beyond it all stay.
pub(crate) fn plan(files: &[Span], staying: &[Staying], end: u64) -> Thin {
    let mut thin = Thin::default();
    let mut needed = vec![false; files.len()];
    let mut from = 0;
    for (state, fineness) in staying.iter().filter(|(state, _)| state.position <= end) {
        let to = state.position;
        let leg = match shortest(files, from, to) {
            Some(one) if one.len() == 1 => Leg::There(one[0]),
            Some(several) => Leg::Merge(several, Span { from, to, level: fineness.level() }),
            // What leads there jumps over the state before, which therefore cannot be left.
            None => {
                needed.fill(true);
                break;
            }
        };
        if let Leg::There(file) = &leg {
            needed[*file] = true;
        }
        thin.way.push(leg);
        from = to;
    }
    // The newest first: at each moment all that is left can be reached.
    let goes = |&at: &usize| files[at].to <= end.min(from) && !needed[at];
    thin.going = (0..files.len()).filter(goes).collect();
    thin.going.sort_by_key(|&at| std::cmp::Reverse((files[at].to, files[at].from)));
    thin
}

/// The fewest files that lead from one position to another.
fn shortest(files: &[Span], from: u64, to: u64) -> Option<Vec<usize>> {
    let first = files.partition_point(|file| file.from < from);
    // Of each position that can be reached: by how many files, and the last of them.
    let mut reached: std::collections::HashMap<u64, (usize, usize)> = Default::default();
    for (at, file) in files.iter().enumerate().skip(first) {
        if file.from >= to {
            break;
        }
        let before = match file.from == from {
            true => Some(0),
            false => reached.get(&file.from).map(|(count, _)| *count),
        };
        if let Some(before) = before.filter(|_| file.to <= to) {
            let way = (before + 1, at);
            let best = reached.entry(file.to).or_insert(way);
            *best = way.min(*best);
        }
    }
    let mut way = Vec::new();
    let mut at = to;
    while at > from {
        let (_, file) = reached.get(&at)?;
        way.push(*file);
        at = files[*file].from;
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn resolution(all: u64, minutely: u64, hourly: u64) -> Resolution {
        Resolution { all_ms: all, minutely_ms: minutely, hourly_ms: hourly }
    }

    fn states(times: &[i64]) -> Vec<State> {
        let number = |(at, &until_ms): (usize, &i64)| State {
            position: at as u64 + 1,
            until_ms: Some(until_ms),
        };
        times.iter().enumerate().map(number).collect()
    }

    fn positions(staying: &[Staying]) -> Vec<u64> {
        staying.iter().map(|(state, _)| state.position).collect()
    }

    fn fine(count: u64) -> Vec<Span> {
        (0..count).map(|from| Span { from, to: from + 1, level: 0 }).collect()
    }

    #[test]
    fn older_states_are_told_apart_less_finely() {
        let minute = 60_000_u64;
        let rule = resolution(minute, 10 * minute, 300 * minute);
        let times: Vec<i64> = (0..=6 * 360).map(|at| at * 10_000).collect();
        let newest = *times.last().unwrap();
        let kept = rule.staying(newest, &states(&times));
        let count = |fine| kept.iter().filter(|(_, fineness)| *fineness == fine).count();
        // A minute of every ten seconds, nine of one each, nearly five hours of one each. The first
        // of each is right behind what is told apart less finely.
        assert_eq!(count(Fineness::All), 7);
        assert_eq!(count(Fineness::Minute), 8);
        assert_eq!(count(Fineness::Hour), 4);
        assert_eq!(count(Fineness::Nothing), 1);
        assert_eq!(positions(&kept).last(), Some(&(times.len() as u64)));
        // Whatever the rule: the newest one.
        assert_eq!(positions(&resolution(0, 0, 0).staying(newest + 9, &states(&times))).len(), 1);
    }

    #[test]
    fn a_clock_that_went_back_takes_nothing_that_is_alone_in_its_minute() {
        let rule = resolution(0, u64::MAX, u64::MAX);
        let times = [60_000, 120_000, 61_000, 62_000, 200_000, 900_000];
        assert_eq!(positions(&rule.staying(900_000, &states(&times))), [1, 2, 4, 5, 6]);
    }

    #[test]
    fn the_way_of_fewest_files_is_found_and_the_rest_goes_newest_first() {
        let mut files = fine(6);
        files.push(Span { from: 0, to: 3, level: 1 });
        files.sort();
        let staying: Vec<Staying> = [3, 5, 6]
            .map(|position| (State { position, until_ms: None }, Fineness::Minute))
            .to_vec();
        let thin = plan(&files, &staying, 6);
        let merged = Span { from: 3, to: 5, level: 1 };
        assert_eq!(thin.way, [Leg::There(1), Leg::Merge(vec![4, 5], merged), Leg::There(6)]);
        assert_eq!(thin.going, [5, 4, 3, 2, 0]);
        // What lies beyond what was looked at stays.
        assert_eq!(plan(&files, &staying[..1], 3).going, [3, 2, 0]);
        // A file that jumps over a state that stays: then nothing is touched.
        let jump = [Span { from: 0, to: 2, level: 1 }];
        let staying = [1, 2].map(|position| (State { position, until_ms: None }, Fineness::Hour));
        assert_eq!(plan(&jump, &staying, 2).going, [0; 0]);
    }

    proptest! {
        /// However often and however late it is thinned: what stays is what the rule asks for, and
        /// thinning again at the same moment changes nothing.
        #[test]
        fn thinning_is_the_same_at_once_and_step_by_step(
            steps in proptest::collection::vec(1_i64..40_000, 1..120),
            at in any::<prop::sample::Index>(),
        ) {
            let rule = resolution(50_000, 400_000, 5_000_000);
            let times: Vec<i64> = steps.iter().scan(0, |sum, step| { *sum += step; Some(*sum) })
                .collect();
            let all = states(&times);
            let newest = *times.last().unwrap() + 300_000;
            let once = rule.staying(newest, &all);
            let early = times[at.index(times.len())];
            let (before, after): (Vec<State>, Vec<State>) =
                all.iter().partition(|state| state.until_ms <= Some(early));
            let first: Vec<State> =
                rule.staying(early, &before).iter().map(|(state, _)| *state).chain(after).collect();
            let twice = rule.staying(newest, &first);
            // The end of the first thinning may stand where the whole would have stood later.
            let wanted: BTreeSet<u64> = positions(&once).into_iter().collect();
            let got: BTreeSet<u64> = positions(&twice).into_iter().collect();
            prop_assert_eq!(&wanted, &got);
            let kept: Vec<State> = twice.iter().map(|(state, _)| *state).collect();
            prop_assert_eq!(positions(&rule.staying(newest, &kept)), positions(&twice));
        }

        #[test]
        fn every_state_that_stays_is_reached_at_each_moment(
            count in 1_u64..40,
            merged in proptest::collection::vec((0_u64..40, 2_u64..9), 0..5),
            chosen in proptest::collection::btree_set(1_u64..41, 0..12),
        ) {
            let mut files: BTreeSet<Span> = fine(count).into_iter().collect();
            files.extend(merged.iter().filter(|(from, length)| from + length <= count)
                .map(|&(from, length)| Span { from, to: from + length, level: 1 }));
            let files: Vec<Span> = files.into_iter().collect();
            let staying: Vec<Staying> = chosen.into_iter().filter(|position| *position < count)
                .chain([count])
                .map(|position| (State { position, until_ms: None }, Fineness::Minute))
                .collect();
            let thin = plan(&files, &staying, count);
            let mut left = files.clone();
            left.extend(thin.way.iter().filter_map(|leg| match leg {
                Leg::Merge(_, span) => Some(*span),
                Leg::There(_) => None,
            }));
            left.sort();
            let reaches = |left: &[Span]| {
                staying.iter().all(|(state, _)| shortest(left, 0, state.position).is_some())
            };
            prop_assert!(reaches(&left));
            for going in thin.going {
                left.retain(|file| *file != files[going]);
                prop_assert!(reaches(&left));
                // And of what is left nothing hangs in the air.
                prop_assert!(left.iter().all(|file| shortest(&left, 0, file.to).is_some()
                    || left.iter().any(|over| over.from <= file.from && file.to <= over.to
                        && over != file)));
            }
            prop_assert_eq!(left.len(), staying.len());
        }
    }
}
