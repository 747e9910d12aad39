//! Packs: a log of many states has few objects, each state comes back, and what is packed goes late
//! and never before it was compared.
#![allow(clippy::disallowed_methods)] // real time is measured

use std::fs::File;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::SignedDuration;
use lifeboat_core::manifest::Manifest;
use lifeboat_core::prune::{LogLevels, Thinned, Thinning};
use lifeboat_core::restore::Replay;

use super::super::chain::{Chain, Target};
use super::super::follow::Step;
use super::super::replay::LogReplay;
use super::super::{LogThinner, Packing, Resolution};
use super::settled::{Followed, begin, begin_at};
use super::*;
use crate::snapshot::Snapshot;

/// Four files make a pack.
const FOURS: Packing = Packing { files: 4, bytes: 8 << 20, spare: SignedDuration::from_hours(1) };

/// A log with so many states, and what the database was at its base.
fn log_of(states: u64) -> (Followed, Vec<u8>) {
    let mut followed = begin();
    let base = image(&followed);
    // The first one is there already, maybe.
    while chain(&followed).end() < states {
        followed.write();
        let step = followed.follower.step(&followed.env).unwrap();
        assert!(matches!(step, Step::Added(_)), "{step:?}");
    }
    (followed, base)
}

pub(super) fn image(followed: &Followed) -> Vec<u8> {
    let mut snapshot = Snapshot::take(&followed.path).unwrap();
    let (page_size, count) = (snapshot.page_size() as usize, snapshot.page_count());
    let mut image = vec![0; page_size * count as usize];
    for (page, content) in (1..).zip(image.chunks_mut(page_size)) {
        snapshot.read_pages(page, content).unwrap();
    }
    image
}

pub(super) fn thinned(followed: &Followed, thinner: LogThinner) -> (Thinning, Thinned) {
    let log = &followed.follower.log;
    let (env, backups) = (&followed.env, [&log.base]);
    let now = env.clock.now();
    let plan = thinner.plan(now, &log.repository, &log.folder, &backups).unwrap().remove(0);
    let logs: (&[&Manifest], &Manifest) = (&backups, &log.base);
    let done = thinner.thin(env, &log.repository, &log.folder, logs, &mut || Ok(())).unwrap();
    (plan, done)
}

pub(super) fn chain(followed: &Followed) -> Chain<'_> {
    let log = &followed.follower.log;
    Chain::of(&log.repository, &log.folder, &log.base).unwrap()
}

/// Restores each of these positions: that what comes out is the state, a replay compares itself.
pub(super) fn restore(followed: &Followed, base: &[u8], positions: impl Iterator<Item = u64>) {
    let chain = chain(followed);
    assert_eq!(chain.gap(), None);
    for position in positions {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("back.db");
        std::fs::write(&place, base).unwrap();
        let mut file = File::options().read(true).write(true).open(&place).unwrap();
        let replay = LogReplay::to(&chain, Target::Position(position)).unwrap().unwrap();
        assert_eq!(replay.moment().position, position);
        replay.apply(&followed.env, &mut file, &place).unwrap();
    }
}

#[test]
fn a_log_is_packed_and_every_state_of_it_comes_back() {
    let (mut followed, base) = log_of(11);
    let thinner = LogThinner { resolution: None, packing: FOURS };
    let (plan, done) = thinned(&followed, thinner);
    assert_eq!((plan.packed, plan.spare, plan.states), ((8, 2), 0, (11, 11)));
    assert_eq!((done.packed, done.deleted, done.merged), (8, 0, 0));
    assert_eq!((chain(&followed).size().0, chain(&followed).spare.len()), (5, 8));
    restore(&followed, &base, 1..=11);
    // The store says that all is very old.
    let (plan, done) = thinned(&followed, thinner);
    assert_eq!((plan.packed, plan.spare, done.deleted), ((0, 0), 8, 8));
    assert_eq!((chain(&followed).states(), chain(&followed).spare.len()), (11, 0));
    restore(&followed, &base, 1..=11);
    assert_eq!(thinned(&followed, thinner).1, Thinned::default());
    let report = verified(&followed);
    assert_eq!((report.states, report.files, report.damage), (11, 5, Vec::<String>::new()));
    // It goes on, here and from what is stored.
    followed.write();
    assert!(matches!(followed.follower.step(&followed.env).unwrap(), Step::Added(_)));
    restore(&followed, &base, 11..=12);
    assert_eq!(thinned(&followed, thinner).1.packed, 4);
}

fn verified(followed: &Followed) -> super::super::LogReport {
    let log = &followed.follower.log;
    super::super::verify(&followed.env, &log.repository, &log.folder, &log.base, None).unwrap()
}

/// Changes a byte of an object.
fn damage(followed: &Followed, name: &ObjectName) {
    let store = followed.follower.log.repository.store();
    let mut bytes = Vec::new();
    store.get(name, None).unwrap().read_to_end(&mut bytes).unwrap();
    bytes[20] ^= 1;
    store.delete(name).unwrap();
    lifeboat_core::store::put_bytes(store, name, &bytes).unwrap();
}

#[test]
fn what_differs_from_its_pack_does_not_go_and_a_damaged_pack_does() {
    let (followed, base) = log_of(5);
    let thinner = LogThinner { resolution: None, packing: FOURS };
    thinned(&followed, thinner);
    let pack = chain(&followed).packs[0].0.object.clone();
    damage(&followed, &pack);
    assert_eq!(thinned(&followed, thinner).1.deleted, 0);
    assert_eq!((chain(&followed).packs.len(), chain(&followed).size().0), (0, 5));
    restore(&followed, &base, 1..=5);
    assert_eq!(thinned(&followed, thinner).1.packed, 4);
    let spare = chain(&followed).spare[2].name.clone();
    damage(&followed, &spare);
    let log = &followed.follower.log;
    let logs: (&[&Manifest], &Manifest) = (&[&log.base], &log.base);
    let hold = &mut || Ok(());
    let thinning = thinner.thin(&followed.env, &log.repository, &log.folder, logs, hold);
    assert_eq!(thinning.unwrap_err().kind(), Kind::CheckFailed);
    assert_eq!(chain(&followed).spare.len(), 4);
}

#[test]
fn a_pack_goes_when_all_of_its_states_are_old_and_not_before() {
    let (followed, base) = log_of(10);
    let packs = LogThinner { resolution: None, packing: FOURS };
    // What is in the packs lies beside them still, and goes with them.
    thinned(&followed, packs);
    // Of the states up to the sixth one is kept: the second pack begins before and ends behind.
    let at = |position| chain(&followed).at(position).unwrap().until.as_millisecond();
    let all_ms = (at(10) - at(6)) as u64;
    let resolution = |all_ms| Some(Resolution { all_ms, minutely_ms: all_ms, hourly_ms: 1 << 40 });
    let (plan, done) = thinned(&followed, LogThinner { resolution: resolution(all_ms), ..packs });
    assert_eq!((done.merged, plan.files), (1, (4, 4)), "{plan:?}");
    assert_eq!((done.deleted, chain(&followed).spare.len()), (9, 0));
    let left: Vec<u64> = chain(&followed).positions();
    assert_eq!(left, [4, 5, 6, 7, 8, 9, 10]);
    restore(&followed, &base, left.into_iter());
    let (_, done) = thinned(&followed, LogThinner { resolution: resolution(0), ..packs });
    assert!(done.merged >= 1 && done.deleted >= 2, "{done:?}");
    let left = chain(&followed).positions();
    assert_eq!((left.last(), chain(&followed).packs.len()), (Some(&10), 0));
    restore(&followed, &base, left.into_iter());
    assert_eq!(verified(&followed).damage, Vec::<String>::new());
}

/// A clock that a test sets.
pub(super) struct Set(pub(super) AtomicI64);

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst) as u64
    }

    fn sleep_ms(&self, _milliseconds: u64) {}
}

/// A day of a state a second: what it takes, and what a restore of its end does.
#[test]
fn a_day_of_a_state_a_second_is_one_log() {
    let (states, rows) = match std::env::var_os("LIFEBOAT_LONG_TESTS") {
        Some(_) => (86_400, 500_000),
        None => (200, 5_000),
    };
    let clock = Arc::new(Set(AtomicI64::new(4_102_444_800_000)));
    let mut followed = begin_at(clock.clone(), rows);
    let base = image(&followed);
    let rule = Resolution::default();
    let packing = Packing { files: 1_024.min(states / 8), ..Packing::default() };
    let thinner = LogThinner { resolution: Some(rule), packing };
    let (mut added, mut needed) = (chain(&followed).states(), 0);
    for second in 1..=states {
        clock.0.fetch_add(1_000, Ordering::SeqCst);
        followed.run("INSERT INTO t(b) VALUES(hex(randomblob(40))), (hex(randomblob(40)))");
        match followed.follower.step(&followed.env).unwrap() {
            Step::Added(_) => added += 1,
            Step::Unchanged => {}
            Step::BackupNeeded(_) => needed += 1,
        }
        if second % 3_600.min(states / 3) == 0 {
            thinned(&followed, thinner);
        }
    }
    let listed = Instant::now();
    let log = chain(&followed);
    let (objects, bytes) = log.size();
    let listed_ms = listed.elapsed().as_millis();
    let restored = Instant::now();
    restore(&followed, &base, [log.end()].into_iter());
    println!(
        "{added} states, {needed} too large for the base of {} bytes: {objects} objects and {} of \
         packed files, {bytes} bytes, listed in {listed_ms} ms, restored in {} ms",
        followed.follower.log.base.artifacts[0].stored_bytes,
        log.spare.len(),
        restored.elapsed().as_millis(),
    );
    assert!(added >= states * 9 / 10 && log.states() == added, "{added}");
    assert!(log.packs.len() >= 6 && objects < added / 2, "{objects}");
    let middle = log.positions()[added / 2];
    restore(&followed, &base, [middle].into_iter());
}
