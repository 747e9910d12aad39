//! Whose turn it is: hundreds of databases, each at its own pace, in a few threads.

use std::sync::{Mutex, PoisonError};

use lifeboat_core::env::Env;
use lifeboat_sqlite::pagelog::Pace;

/// The time between two looks at a database whose writer is in a hurry, in milliseconds.
const HURRIED_MS: u64 = 4;
/// The time after which it is seen whether one has grown.
const WATCHED_MS: u64 = 25;
/// No sleep is longer: then a signal is seen.
const PAUSE_MS: u64 = 100;
/// Threads for each processor: most of the time they wait for a store. And bounds for all.
const THREADS_EACH: usize = 2;
const THREADS: (usize, usize) = (4, 16);

/// The turns of some databases until a time.
pub(super) struct Turns {
    all: Mutex<Vec<Turn>>,
    interval_ms: u64,
    until_ms: u64,
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

impl Turns {
    /// All of them are due.
    pub(super) fn new(count: usize, env: &Env, interval_ms: u64, until_ms: u64) -> Self {
        let now_ms = env.clock.monotonic_ms();
        let turn = Turn { look_ms: now_ms, next_ms: now_ms, is_taken: false };
        Turns { all: Mutex::new(vec![turn; count]), interval_ms, until_ms }
    }

    /// How many threads are worth it.
    pub(super) fn workers(&self, env: &Env) -> usize {
        let count = self.all.lock().unwrap_or_else(PoisonError::into_inner).len();
        (THREADS_EACH * env.threads).clamp(THREADS.0, THREADS.1).min(count.max(1))
    }

    /// Takes turns until the time is over, or a signal came. `look` gets which it is and whether it
    /// is due in any case, and says at which pace to go on.
    pub(super) fn work(&self, env: &Env, mut look: impl FnMut(usize, bool) -> Pace) {
        loop {
            let now_ms = env.clock.monotonic_ms();
            if now_ms >= self.until_ms {
                return;
            }
            match self.take(now_ms) {
                Ok((at, is_due)) => {
                    let pace = look(at, is_due);
                    self.give_back((at, is_due), now_ms, pace);
                    if env.proceed().is_err() {
                        return;
                    }
                }
                Err(next_ms) => {
                    let pause_ms = next_ms.min(self.until_ms).saturating_sub(now_ms);
                    if env.pause_ms(pause_ms.clamp(1, PAUSE_MS)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// The one that waited longest; where none is ready, when the next one is.
    fn take(&self, now_ms: u64) -> Result<(usize, bool), u64> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let free = all.iter_mut().enumerate().filter(|(_, turn)| !turn.is_taken);
        let Some((at, turn)) = free.min_by_key(|(_, turn)| turn.next_ms) else {
            return Err(u64::MAX);
        };
        match turn.next_ms <= now_ms {
            true => {
                turn.is_taken = true;
                Ok((at, turn.look_ms <= now_ms))
            }
            false => Err(turn.next_ms),
        }
    }

    fn give_back(&self, (at, was_due): (usize, bool), begun_ms: u64, pace: Pace) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
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
