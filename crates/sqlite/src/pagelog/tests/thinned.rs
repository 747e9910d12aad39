//! Thinning out a log that was thinned out before: what is settled is not read again, and what
//! stays is what one thinning at once would have left.

use std::sync::atomic::AtomicI64;

use super::super::bounds::FollowBounds;
use super::super::chain::Target;
use super::super::follow::Step;
use super::super::{LogThinner, Packing, Resolution};
use super::packed::{Set, chain, image, restore, thinned};
use super::settled::{Followed, begin_with};
use super::*;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: u64 = 60_000;

/// A followed database whose states are in that store, by a clock that begins at a full hour.
fn begin(store: &Memory) -> (Followed, Arc<Set>, Vec<u8>) {
    let clock = Arc::new(Set(AtomicI64::new(4_102_444_800_000)));
    let followed = begin_with(clock.clone(), 0, (Arc::new(store.clone()), FollowBounds::default()));
    let base = image(&followed);
    (followed, clock, base)
}

/// A state every ten seconds, for so long.
fn write(followed: &mut Followed, clock: &Set, minutes: u64) {
    for _ in 0..minutes * 6 {
        clock.0.fetch_add(10 * SECOND_MS, Ordering::SeqCst);
        followed.write();
        assert!(matches!(followed.follower.step(&followed.env).unwrap(), Step::Added(_)));
    }
}

fn minutes(all: u64, minutely: u64, hourly: u64, packing: Packing) -> LogThinner {
    let [all_ms, minutely_ms, hourly_ms] = [all, minutely, hourly].map(|count| count * MINUTE_MS);
    LogThinner { resolution: Some(Resolution { all_ms, minutely_ms, hourly_ms }), packing }
}

/// The states of a log, and the level of the file that leads to each.
fn states(followed: &Followed) -> Vec<(u64, u8)> {
    let log = chain(followed);
    log.positions().into_iter().map(|position| (position, log.level(position))).collect()
}

#[test]
fn what_was_thinned_out_before_is_not_read_again() {
    let store = Memory::default();
    let (mut followed, clock, base) = begin(&store);
    let thinner = minutes(2, 600, 6_000, Packing::default());
    write(&mut followed, &clock, 12);
    let begun = states(&followed).len();
    let (_, done) = thinned(&followed, thinner);
    assert!((8..=10).contains(&done.merged), "{done:?}");
    let asked = |work: &dyn Fn()| {
        let before = store.1.load(Ordering::SeqCst);
        work();
        store.1.load(Ordering::SeqCst) - before
    };
    // Nothing more is due: the ends are looked at, and the last one that was thinned out.
    let few = asked(&|| assert_eq!(thinned(&followed, thinner).1, Default::default()));
    write(&mut followed, &clock, 2);
    let (_, done) = thinned(&followed, thinner);
    assert!((1..=3).contains(&done.merged), "{done:?}");
    let again = asked(&|| assert_eq!(thinned(&followed, thinner).1, Default::default()));
    assert!(few < 40 && again <= few + 8, "{few}, then {again}, of {begun} states");
    let left = states(&followed);
    let fine = left.iter().filter(|(_, level)| *level == 0).count();
    assert!((12..=19).contains(&fine) && left.len() <= fine + 13, "{left:?}");
    restore(&followed, &base, left.iter().map(|(position, _)| *position));
    // By the hour where that is due, and at last not at all.
    write(&mut followed, &clock, 6);
    let (_, done) = thinned(&followed, minutes(1, 5, 6_000, Packing::default()));
    assert!(done.merged > 0, "{done:?}");
    let hours = states(&followed).iter().filter(|(_, level)| *level == 2).count();
    assert_eq!(hours, 1);
    let (_, done) = thinned(&followed, minutes(1, 5, 5, Packing::default()));
    assert_eq!(done, Default::default(), "the state of the hour leads to those of its minutes");
    let left = states(&followed);
    restore(&followed, &base, left.iter().map(|(position, _)| *position));
}

/// However often it is thinned on the way, the states that are left are those that one thinning at
/// the end leaves; a pack keeps more, as it goes as a whole.
#[test]
fn step_by_step_is_as_at_once() {
    let packs = Packing { files: 8, ..Packing::default() };
    let left = [(1, Packing::default()), (4, Packing::default()), (1, packs)];
    let left = left.map(|(every, packing)| {
        let store = Memory::default();
        let (mut followed, clock, base) = begin(&store);
        let thinner = minutes(2, 6, 600, packing);
        for round in 1..=4 {
            write(&mut followed, &clock, 3);
            if round % every == 0 {
                thinned(&followed, thinner);
            }
        }
        let left: Vec<u64> = states(&followed).into_iter().map(|(position, _)| position).collect();
        restore(&followed, &base, left.iter().copied());
        assert!(chain(&followed).moment(Target::Latest).is_ok());
        left
    });
    assert!(left[0] == left[1], "{left:?}");
    assert!(left[0].iter().all(|position| left[2].contains(position)), "{left:?}");
}
