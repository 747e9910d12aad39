//! Trying again what may pass by itself: a lock, a store that cannot be reached, a busy source.
//!
//! The delays are a plain function of how often it failed and of a random number, so that hosts
//! which failed together do not come back together.

use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// How often and when a failed backup is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many times, after the first.
    pub times: u32,
    /// The delay before the first of them, in milliseconds; each further one is twice as long.
    pub delay_ms: u64,
    /// The longest delay, in milliseconds.
    pub delay_ms_max: u64,
}

impl Retry {
    /// No second attempt; with `times` set, delays from 10 seconds to 5 minutes.
    pub const DEFAULT: Retry = Retry { times: 0, delay_ms: 10_000, delay_ms_max: 300_000 };

    /// How long to wait after the attempt that failed as number `failed` (from 1 on): between
    /// half and all of the delay, as the random number says.
    pub fn delay_ms(&self, failed: u32, random: u64) -> u64 {
        let doubled = 1_u64.checked_shl(failed.saturating_sub(1)).unwrap_or(u64::MAX);
        let whole_ms = self.delay_ms.saturating_mul(doubled).min(self.delay_ms_max);
        let half_ms = whole_ms / 2;
        whole_ms - random % (half_ms + 1)
    }
}

/// Whether what failed may succeed later although nobody mends anything.
pub fn may_pass(kind: Kind) -> bool {
    matches!(kind, Kind::Locked | Kind::StoreUnavailable | Kind::SourceUnavailable)
}

/// Attempts until one succeeds, fails for a reason that stays, or the last one failed. Never waits
/// beyond the end of the run's time: then the error of the last attempt is given back at once.
pub fn run<T>(
    env: &Env,
    retry: &Retry,
    subject: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut failed = 0;
    loop {
        let error = match attempt() {
            Err(error) if may_pass(error.kind()) && failed < retry.times => error,
            ended => return ended,
        };
        failed += 1;
        let mut random = [0; 8];
        env.random.fill(&mut random);
        let delay_ms = retry.delay_ms(failed, u64::from_le_bytes(random));
        if env.stop.left_ms(env.clock.monotonic_ms()).is_some_and(|left_ms| left_ms <= delay_ms) {
            env.warn(subject, "no time is left for another attempt");
            return Err(error);
        }
        let (all, why) = (retry.times + 1, with_cause(&error));
        let seconds = delay_ms.div_ceil(1000);
        let message = format!("attempt {failed} of {all} failed: {why}; the next in {seconds} s");
        env.warn(subject, &message);
        env.pause_ms(delay_ms)?;
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::env::{Clock, Random};

    /// A clock that moves by being slept on, and random numbers that are all ones.
    #[derive(Default)]
    struct World {
        slept_ms: AtomicU64,
    }

    impl Clock for World {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic_ms(&self) -> u64 {
            self.slept_ms.load(Ordering::Relaxed)
        }
        fn sleep_ms(&self, milliseconds: u64) {
            self.slept_ms.fetch_add(milliseconds, Ordering::Relaxed);
        }
    }

    struct Zeros;

    impl Random for Zeros {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(0);
        }
    }

    fn world() -> (Arc<World>, Env) {
        let world = Arc::new(World::default());
        (Arc::clone(&world), Env::new(world, Arc::new(Zeros), "test"))
    }

    const RETRY: Retry = Retry { times: 4, delay_ms: 1_000, delay_ms_max: 3_000 };

    #[test]
    fn delays_double_up_to_a_bound_and_never_below_half() {
        assert_eq!(
            [1, 2, 3, 4, 200].map(|failed| RETRY.delay_ms(failed, 0)),
            [1_000, 2_000, 3_000, 3_000, 3_000]
        );
        for random in [1, 7, 500, 501, 99_999, u64::MAX] {
            for failed in 1..100 {
                let (least, most) = (RETRY.delay_ms(failed, 0) / 2, RETRY.delay_ms(failed, 0));
                assert!((least..=most).contains(&RETRY.delay_ms(failed, random)));
            }
        }
        let none = Retry { delay_ms: 0, ..RETRY };
        assert_eq!(none.delay_ms(3, 12_345), 0);
    }

    #[test]
    fn what_may_pass_is_tried_until_it_does() {
        let (world, env) = world();
        let mut attempts = 0;
        let done = run(&env, &RETRY, "x", || {
            attempts += 1;
            match attempts {
                3 => Ok(attempts),
                _ => Err(Error::new(Kind::StoreUnavailable, "gone")),
            }
        });
        assert_eq!(done.unwrap(), 3);
        assert_eq!(world.monotonic_ms(), 1_000 + 2_000);
    }

    #[test]
    fn the_last_error_is_given_back_and_what_stays_is_not_tried_again() {
        for (kind, expected) in [
            (Kind::Locked, 5),
            (Kind::SourceUnavailable, 5),
            (Kind::NoSpace, 1),
            (Kind::CheckFailed, 1),
            (Kind::Usage, 1),
            (Kind::Interrupted, 1),
            (Kind::Failed, 1),
        ] {
            let (_, env) = world();
            let mut attempts = 0;
            let failed = run(&env, &RETRY, "x", || -> Result<()> {
                attempts += 1;
                Err(Error::new(kind, attempts.to_string()))
            });
            assert_eq!(failed.unwrap_err().message(), expected.to_string(), "{kind:?}");
        }
    }

    #[test]
    fn no_wait_goes_beyond_the_limit() {
        let (world, env) = world();
        let env = env.limited(2_500, "2.5 s");
        let failed =
            run(&env, &RETRY, "x", || -> Result<()> { Err(Error::new(Kind::Locked, "taken")) });
        assert_eq!(failed.unwrap_err().kind(), Kind::Locked);
        assert_eq!(world.monotonic_ms(), 1_000);
    }
}
