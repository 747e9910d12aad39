//! The last looks at a database: when they are over, what was committed before is stored.
//!
//! Between two looks commits are in the database alone. Who ends a follower, before a server is
//! shut down or moved, relies on it that the log has all of them.

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use super::follow::{Follower, Step};
use super::rush::{LOOK_MS, Rush};

impl Follower {
    /// Looks until everything that was committed before now is stored: what the looks led to.
    /// Where `env` says that it takes too long, that is the error.
    pub fn finish(&mut self, env: &Env) -> Result<Vec<Step>> {
        let now_ms = env.clock.now().as_millisecond();
        let mut steps = Vec::new();
        loop {
            env.proceed()?;
            self.hasten();
            let step = self.step(env)?;
            let is_over = match &step {
                Step::Added(increment) => increment.held.as_millisecond() >= now_ms,
                Step::Unchanged => !self.is_behind(),
                Step::BackupNeeded(_) => true,
            };
            steps.push(step);
            if is_over {
                return Ok(steps);
            }
            env.pause_ms(LOOK_MS)?;
        }
    }

    /// The next look stores what it finds, and does not wait for its time.
    fn hasten(&mut self) {
        self.compare_after_ms = 0;
        self.rush.as_mut().map(Rush::hasten);
    }
}
