//! Why a run must end before its work is done: a signal, or a limit of its time.
//!
//! Nothing is broken off from outside. A run asks at each step, and at each piece of a stream,
//! and leaves as it does after any error: what it stored is deleted, a service that it stopped is
//! started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::error::{Error, Kind, Result};

/// The value of a signal cell for SIGINT.
pub const INTERRUPT: u8 = 130;
/// The value of a signal cell for SIGTERM, and what else asks politely.
pub const TERMINATE: u8 = 143;

/// What may end a run. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Zero until a signal was caught, then its exit code; written by a signal handler.
    signal: Option<&'static AtomicU8>,
    grace: Option<Grace>,
    limit: Option<Limit>,
}

/// How long a run may go on after a signal.
#[derive(Clone, Debug)]
struct Grace {
    milliseconds: u64,
    /// When it was asked first after one, by the monotonic clock; zero before.
    since_ms: Arc<AtomicU64>,
}

impl Grace {
    fn is_over(&self, now_ms: u64) -> bool {
        let (first_ms, order) = (now_ms.max(1), Ordering::Relaxed);
        let asked = self.since_ms.compare_exchange(0, first_ms, order, order);
        let since_ms = asked.map_or_else(|since_ms| since_ms, |_| first_ms);
        now_ms.saturating_sub(since_ms) >= self.milliseconds
    }
}

#[derive(Clone, Debug)]
struct Limit {
    ends_at_ms: u64,
    words: Arc<str>,
}

impl Stop {
    /// Ends as soon as that cell holds [`INTERRUPT`] or [`TERMINATE`].
    pub fn at_signal(signal: &'static AtomicU8) -> Self {
        Stop { signal: Some(signal), ..Stop::default() }
    }

    /// The same, which a signal ends so many milliseconds later than it was asked first after it,
    /// in any thread.
    #[must_use]
    pub fn with_grace(&self, milliseconds: u64) -> Self {
        let grace = Grace { milliseconds, since_ms: Arc::default() };
        Stop { grace: Some(grace), ..self.clone() }
    }

    /// The same, with an end at that reading of the monotonic clock, or at the earlier one that it
    /// has already. `words` are the limit for people: "2h".
    #[must_use]
    pub fn until(&self, ends_at_ms: u64, words: &str) -> Self {
        let own = Limit { ends_at_ms, words: words.into() };
        let limit = match &self.limit {
            Some(limit) if limit.ends_at_ms <= ends_at_ms => limit.clone(),
            _ => own,
        };
        Stop { limit: Some(limit), ..self.clone() }
    }

    /// Why the run must end now, if it must.
    ///
    /// Errors: [`Kind::Interrupted`], [`Kind::Terminated`], or [`Kind::Failed`] after the limit.
    pub fn ask(&self, now_ms: u64) -> Result<()> {
        match self.signal.map_or(0, |signal| signal.load(Ordering::Relaxed)) {
            0 => {}
            _ if self.grace.as_ref().is_some_and(|grace| !grace.is_over(now_ms)) => {}
            INTERRUPT => return Err(Error::new(Kind::Interrupted, "interrupted")),
            _ => return Err(Error::new(Kind::Terminated, "ended by SIGTERM")),
        }
        match &self.limit {
            Some(limit) if now_ms >= limit.ends_at_ms => {
                Err(Error::new(Kind::Failed, format!("the time limit of {} is over", limit.words))
                    .hint("see with --verbose what takes the time, or raise `time_limit`"))
            }
            _ => Ok(()),
        }
    }

    /// How many milliseconds are left; `None` without a limit.
    pub fn left_ms(&self, now_ms: u64) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.ends_at_ms.saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_what_has_grace_later() {
        static SIGNAL: AtomicU8 = AtomicU8::new(0);
        let stop = Stop::at_signal(&SIGNAL);
        let (late, limited) = (stop.with_grace(50), stop.with_grace(50).until(1_020, "20 ms"));
        let also_late = late.clone();
        assert!(late.ask(900).is_ok());
        SIGNAL.store(TERMINATE, Ordering::Relaxed);
        assert_eq!(stop.ask(1_000).unwrap_err().kind(), Kind::Terminated);
        assert!(late.ask(1_000).is_ok() && also_late.ask(1_049).is_ok());
        assert_eq!(also_late.ask(1_050).unwrap_err().kind(), Kind::Terminated);
        assert_eq!(late.ask(1_051).unwrap_err().kind(), Kind::Terminated);
        assert_eq!(limited.ask(1_020).unwrap_err().kind(), Kind::Failed);
    }

    #[test]
    fn the_earlier_limit_holds() {
        let stop = Stop::default().until(100, "100 ms").until(200, "200 ms");
        assert!(stop.ask(99).is_ok());
        let error = stop.ask(100).unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Failed, "the time limit of 100 ms is over")
        );
        assert_eq!(stop.until(50, "50 ms").left_ms(20), Some(30));
        assert_eq!(stop.left_ms(1_000), Some(0));
    }

    #[test]
    fn a_signal_has_its_kind() {
        static CELL: AtomicU8 = AtomicU8::new(0);
        let stop = Stop::at_signal(&CELL).until(5, "5 ms");
        assert!(stop.ask(0).is_ok());
        CELL.store(INTERRUPT, Ordering::Relaxed);
        assert_eq!(stop.ask(0).unwrap_err().kind(), Kind::Interrupted);
        CELL.store(TERMINATE, Ordering::Relaxed);
        assert_eq!(stop.ask(9).unwrap_err().kind(), Kind::Terminated);
    }
}
