//! A writer that is too fast for all pages to be compared while a state is held.

use std::sync::Arc;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

use super::compare::WalLimit;
use super::follow::Follower;
use super::open::Looked;
use crate::ffi::Mark;
use crate::held;
use crate::holders::side_file;
use crate::snapshot::{missing, wal};

/// A `-wal` that began anew more often between two looks is another one.
const TURNS_MAX: u32 = 1_000;

impl Follower {
    /// Whether the `-wal` began anew several times since it was known, and so fast that all pages
    /// are compared without holding a state.
    pub(super) fn is_outrun_by(&self, env: &Env, mark: &Mark) -> Result<bool> {
        let Some(known) = &self.known else { return Ok(false) };
        let Some(file) = wal::open(&side_file(&self.path, "-wal"))? else { return Ok(false) };
        let Some(header) = wal::header(&file)? else { return Ok(false) };
        let turns = header.turns_since(&known.header);
        // How long a turn is may be told by this one and the last.
        let frames = u64::from(mark.frame_max.max(known.place.frame));
        let frame_bytes = u64::from(header.page_size) + 24;
        let bytes = frames * frame_bytes * u64::from(turns.saturating_sub(1));
        let now_ms = env.clock.monotonic_ms();
        let passed_ms = now_ms.saturating_sub(self.measured.1).max(1);
        let is_fast = bytes.saturating_mul(1_000) / passed_ms > self.bounds.rush_from_bytes;
        Ok((2..TURNS_MAX).contains(&turns) && is_fast && now_ms >= self.calm_until_ms)
    }

    /// All pages are to be compared without holding a state, as the `-wal` grew too fast for it.
    /// `false` where that was tried.
    pub(super) fn outrun(&mut self, env: &Env) -> Result<bool> {
        if env.clock.monotonic_ms() < self.calm_until_ms || self.bounds.rush_from_bytes == u64::MAX
        {
            return Ok(false);
        }
        let opened = held::open(&self.path).map_err(|error| missing(&self.path, error))?;
        self.database = Some(Arc::new(opened));
        let ((), looked) = Looked::around(env, || Ok(()))?;
        self.begin_rush(env, looked, true)
    }
}

/// Whether a comparison failed because the `-wal` grew to that limit.
pub(super) fn is_outrun<T>(compared: &Result<T>, limit: Option<&WalLimit>) -> bool {
    let is_let_go = |error: &Error| error.kind() == Kind::SourceUnavailable;
    compared.as_ref().err().is_some_and(is_let_go) && limit.is_some_and(WalLimit::was_passed)
}
