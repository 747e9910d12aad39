//! Whose turn it is: hundreds of databases, each at its own pace, in a few threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifeboat_core::env::Env;
use lifeboat_sqlite::pagelog::Pace;

/// The time between two looks at a database whose writer is in a hurry, in milliseconds.
const HURRIED_MS: u64 = 4;
/// The time after which it is seen whether one has grown.
const WATCHED_MS: u64 = 25;
/// No sleep of the first thread is longer, and none of the others: then a signal is seen. Where
/// all rest, being woken is most of what is done.
const PAUSE_MS: (u64, u64) = (250, 500);
/// Each thread waits so much longer for a turn than the one before it: the first takes what there
/// is, and the others are there for when it is busy. Of a database that is to be looked at soon,
/// and of one that is not.
const BEHIND_MS: (u64, u64) = (1, 15);
/// Whoever is awake looks at what is due within that part of the time between two looks as well:
/// so databases that rest come to be looked at together, and a thread is woken once for many.
const EARLIER_PART: u64 = 8;
/// Threads for each processor: most of the time they wait for a store. And bounds for all.
const THREADS_EACH: usize = 2;
const THREADS: (usize, usize) = (4, 16);

/// The turns of some databases.
pub(super) struct Turns {
    all: Mutex<Vec<Turn>>,
    /// One of the threads that wait is needed sooner.
    called: Condvar,
    interval_ms: u64,
    is_over: AtomicBool,
    /// How many were taken a last time.
    last: AtomicUsize,
}

/// When one is to be looked at, by the clock that never goes back.
#[derive(Clone, Copy)]
struct Turn {
    /// In any case.
    look_ms: u64,
    /// Or sooner, if that is worth it.
    next_ms: u64,
    is_taken: bool,
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It looks at one, which is due in any case or not.
    Turn(usize, bool),
    /// Nothing is ready: it waits until then.
    Wait(u64),
}

impl Turns {
    /// All of them are due.
    pub(super) fn new(count: usize, env: &Env, interval_ms: u64) -> Self {
        let now_ms = env.clock.monotonic_ms();
        let turn = Turn { look_ms: now_ms, next_ms: now_ms, is_taken: false };
        Turns::of(vec![turn; count], interval_ms)
    }

    fn of(all: Vec<Turn>, interval_ms: u64) -> Self {
        Turns {
            all: Mutex::new(all),
            called: Condvar::new(),
            interval_ms,
            is_over: AtomicBool::new(false),
            last: AtomicUsize::new(0),
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Turn>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads are worth it.
    pub(super) fn workers(&self, env: &Env) -> usize {
        let count = self.all().len();
        (THREADS_EACH * env.threads).clamp(THREADS.0, THREADS.1).min(count.max(1))
    }

    /// From now on nobody takes a turn.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether nobody takes a turn any more, because that was said or a signal came.
    pub(super) fn are_over(&self, env: &Env) -> bool {
        self.is_over.load(Ordering::Relaxed) || env.proceed().is_err()
    }

    /// That one is worth a look at once.
    pub(super) fn call(&self, at: usize) {
        let mut all = self.all();
        if !all[at].is_taken {
            all[at].next_ms = 0;
            self.called.notify_one();
        }
    }

    /// When nobody takes a turn any more: the next one that is looked at a last time.
    pub(super) fn take_last(&self) -> Option<usize> {
        let at = self.last.fetch_add(1, Ordering::Relaxed);
        let count = self.all().len();
        (at < count).then_some(at)
    }

    /// Takes turns until that is ended, or a signal came, as the thread of that number. `look`
    /// gets which it is and whether it is due in any case, and says at which pace to go on.
    pub(super) fn work(&self, env: &Env, thread: usize, mut look: impl FnMut(usize, bool) -> Pace) {
        loop {
            let now_ms = env.clock.monotonic_ms();
            if self.are_over(env) {
                return;
            }
            match self.take(now_ms, thread) {
                Taken::Turn(at, is_due) => {
                    let pace = look(at, is_due);
                    self.give_back((at, is_due), now_ms, pace);
                }
                Taken::Wait(next_ms) => {
                    let pause_ms = next_ms.saturating_sub(now_ms);
                    let most_ms = if thread == 0 { PAUSE_MS.0 } else { PAUSE_MS.1 };
                    self.pause(now_ms, pause_ms.clamp(1, most_ms));
                }
            }
        }
    }

    /// The one that waited longest; where none is ready, when this thread comes again.
    fn take(&self, now_ms: u64, thread: usize) -> Taken {
        let mut all = self.all();
        let free = all.iter_mut().enumerate().filter(|(_, turn)| !turn.is_taken);
        let Some((at, turn)) = free.min_by_key(|(_, turn)| turn.next_ms) else {
            return Taken::Wait(u64::MAX);
        };
        let is_look = turn.next_ms == turn.look_ms;
        let earlier_ms = if is_look { self.interval_ms / EARLIER_PART } else { 0 };
        if turn.next_ms <= now_ms + earlier_ms {
            turn.is_taken = true;
            return Taken::Turn(at, is_look || turn.look_ms <= now_ms);
        }
        let behind_ms = if is_look { BEHIND_MS.1 } else { BEHIND_MS.0 };
        Taken::Wait(turn.next_ms + behind_ms * thread as u64)
    }

    /// Nothing was ready then: waits for so long, or until one is called.
    fn pause(&self, since_ms: u64, pause_ms: u64) {
        let all = self.all();
        if !all.iter().any(|turn| !turn.is_taken && turn.next_ms <= since_ms) {
            let pause = Duration::from_millis(pause_ms);
            // Woken for nothing it takes a turn or waits again.
            drop(self.called.wait_timeout(all, pause));
        }
    }

    fn give_back(&self, (at, was_due): (usize, bool), begun_ms: u64, pace: Pace) {
        let mut all = self.all();
        let turn = &mut all[at];
        if was_due {
            turn.look_ms = begun_ms + self.interval_ms.max(1);
        }
        let sooner_ms = match pace {
            Pace::Hurried => begun_ms + HURRIED_MS,
            Pace::Watched => begun_ms + WATCHED_MS,
            Pace::Calm => u64::MAX,
        };
        (turn.next_ms, turn.is_taken) = (turn.look_ms.min(sooner_ms), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN_MS: u64 = 1_000;

    fn turns(look_ms: &[u64]) -> Turns {
        let turn = |look_ms: &u64| Turn { look_ms: *look_ms, next_ms: *look_ms, is_taken: false };
        Turns::of(look_ms.iter().map(turn).collect(), 1_000)
    }

    #[test]
    fn who_is_woken_for_one_that_rests_looks_at_those_that_are_due_soon() {
        let turns = turns(&[BEGUN_MS + 50, BEGUN_MS, BEGUN_MS + 125, BEGUN_MS + 126]);
        let take = |now_ms| turns.take(now_ms, 0);
        for at in [1, 0, 2] {
            assert_eq!(take(BEGUN_MS), Taken::Turn(at, true));
            turns.give_back((at, true), BEGUN_MS, Pace::Calm);
        }
        // Those are due together from now on.
        assert_eq!(take(BEGUN_MS), Taken::Wait(BEGUN_MS + 126));
        assert_eq!(take(BEGUN_MS + 1), Taken::Turn(3, true));
        assert_eq!(take(BEGUN_MS + 1), Taken::Wait(BEGUN_MS + 1_000));
    }

    #[test]
    fn one_that_is_called_is_looked_at_at_once() {
        let turns = turns(&[BEGUN_MS + 100, BEGUN_MS + 100]);
        assert_eq!(turns.take(BEGUN_MS - 100, 0), Taken::Wait(BEGUN_MS + 100));
        turns.call(1);
        // Called before it waits, it does not.
        turns.pause(BEGUN_MS - 100, 3_600_000);
        assert_eq!(turns.take(BEGUN_MS - 100, 1), Taken::Turn(1, false));
        // Somebody looks at it already.
        turns.call(1);
        assert_eq!(turns.take(BEGUN_MS - 100, 0), Taken::Wait(BEGUN_MS + 100));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.pause(BEGUN_MS - 100, 3_600_000));
            turns.call(0);
            waiting.join().unwrap();
        });
        assert_eq!(turns.take(BEGUN_MS - 100, 0), Taken::Turn(0, false));
    }

    #[test]
    fn one_in_a_hurry_is_looked_at_when_it_is_to_be_and_by_the_next_thread_soon_after() {
        let turns = turns(&[BEGUN_MS, BEGUN_MS + 900]);
        assert_eq!(turns.take(BEGUN_MS, 0), Taken::Turn(0, true));
        turns.give_back((0, true), BEGUN_MS, Pace::Hurried);
        let next_ms = BEGUN_MS + HURRIED_MS;
        assert_eq!(turns.take(BEGUN_MS, 0), Taken::Wait(next_ms));
        assert_eq!(turns.take(BEGUN_MS, 3), Taken::Wait(next_ms + 3 * BEHIND_MS.0));
        assert_eq!(turns.take(next_ms, 3), Taken::Turn(0, false));
        // While it is looked at, the other one is what there is to wait for.
        assert_eq!(turns.take(next_ms, 1), Taken::Wait(BEGUN_MS + 900 + BEHIND_MS.1));
        turns.give_back((0, false), next_ms, Pace::Calm);
        // Its own look is still to come.
        assert_eq!(turns.take(next_ms, 0), Taken::Wait(BEGUN_MS + 900));
    }
}
