//! Crash points that end a simulated process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use lifeboat_core::env::{CRASH_POINTS, CrashPoints};
use lifeboat_core::{Error, Kind, Result};

use crate::store::FaultyStore;

/// Ends the process at the point that was armed: from there on its store answers nothing, so
/// that what its destructors still try is as futile as after a power cut.
pub struct PowerCuts {
    store: Arc<FaultyStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    armed: Option<&'static str>,
    passed: BTreeSet<&'static str>,
}

impl PowerCuts {
    /// Cuts the power of that store's client.
    pub fn new(store: Arc<FaultyStore>) -> Self {
        PowerCuts { store, state: Mutex::default() }
    }

    /// The next time that this point is passed, the power is cut.
    pub fn arm(&self, point: Option<&'static str>) {
        self.lock().armed = point;
    }

    /// The points that were passed so far.
    pub fn passed(&self) -> BTreeSet<&'static str> {
        self.lock().passed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl CrashPoints for PowerCuts {
    fn pass(&self, point: &'static str) -> Result<()> {
        let mut state = self.lock();
        if !CRASH_POINTS.contains(&point) {
            return Err(Error::new(Kind::Failed, format!("the crash point {point} is not listed")));
        }
        state.passed.insert(point);
        if state.armed != Some(point) {
            return Ok(());
        }
        state.armed = None;
        self.store.crash();
        Err(Error::new(Kind::Interrupted, format!("the power was cut at {point}")))
    }
}
