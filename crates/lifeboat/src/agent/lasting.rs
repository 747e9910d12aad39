//! Processes that are to run all the time: begun again when they end, later each time.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::retry::Retry;
use rustix::process::{Pid, Signal, kill_process};

use super::child;
use crate::session::Session;
use crate::ui::units;

/// Between an end and the next beginning.
const RETRY: Retry = Retry { times: u32::MAX, delay_ms: 1_000, delay_ms_max: 5 * 60_000 };
/// One that ran for so long was well.
const WELL_MS: u64 = 10 * 60_000;
/// Between being asked to end and being killed.
const GRACE_MS: u64 = 30_000;

/// One of them.
struct Lasting {
    command: Vec<String>,
    child: Option<Child>,
    begun_ms: u64,
    failed: u32,
    next_ms: u64,
    /// Asked to end, at that time.
    ending_since_ms: Option<u64>,
}

/// All of them, by name.
#[derive(Default)]
pub(super) struct AllLasting {
    all: BTreeMap<String, Lasting>,
    is_ending: bool,
}

impl AllLasting {
    /// Those are wanted now. One with another command ends and begins anew with the next look; all
    /// do so where the configuration changed, which they read at their beginning.
    pub(super) fn want(&mut self, wanted: &BTreeMap<String, Vec<String>>, now_ms: u64) {
        for one in self.all.values_mut() {
            one.ask_to_end(now_ms);
        }
        for (name, command) in wanted {
            let one = self.all.entry(name.clone()).or_insert_with(|| Lasting {
                command: Vec::new(),
                child: None,
                begun_ms: now_ms,
                failed: 0,
                next_ms: now_ms,
                ending_since_ms: None,
            });
            one.command.clone_from(command);
        }
        for (name, one) in &mut self.all {
            if !wanted.contains_key(name) {
                one.command.clear();
            }
        }
    }

    /// All are to end.
    pub(super) fn end(&mut self, now_ms: u64) {
        self.is_ending = true;
        self.all.values_mut().for_each(|one| one.ask_to_end(now_ms));
    }

    /// Whether none runs.
    pub(super) fn is_over(&self) -> bool {
        self.all.values().all(|one| one.child.is_none())
    }

    /// Their names, and whether each runs.
    pub(super) fn states(&self) -> Vec<(String, bool)> {
        self.all.iter().map(|(name, one)| (name.clone(), one.child.is_some())).collect()
    }

    /// Sees which have ended, and begins those whose time has come.
    pub(super) fn look(&mut self, session: &Session, env: &Env) {
        let now_ms = env.clock.monotonic_ms();
        let is_ending = self.is_ending;
        for (name, one) in &mut self.all {
            if let Some(how) = one.has_ended(now_ms)
                && !is_ending
                && !one.command.is_empty()
            {
                one.plan_next(session, env, name, how.as_deref());
            }
            let is_due = one.child.is_none() && !one.command.is_empty() && one.next_ms <= now_ms;
            if is_due && !is_ending {
                one.begin(session, env, name);
            }
        }
        self.all.retain(|_, one| one.child.is_some() || !one.command.is_empty());
    }
}

impl Lasting {
    fn ask_to_end(&mut self, now_ms: u64) {
        if let Some(child) = &self.child
            && self.ending_since_ms.is_none()
        {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            self.ending_since_ms = Some(now_ms);
        }
    }

    /// `None` while it runs. How it ended by itself, `Some(None)` where it was asked to.
    fn has_ended(&mut self, now_ms: u64) -> Option<Option<String>> {
        let child = self.child.as_mut()?;
        let status = match child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => {
                let too_long = |since_ms| now_ms.saturating_sub(since_ms) >= GRACE_MS;
                if self.ending_since_ms.is_some_and(too_long) {
                    let _ = child.kill();
                }
                return None;
            }
            Err(error) => error.to_string(),
        };
        self.child = None;
        Some(self.ending_since_ms.take().is_none().then_some(status))
    }

    fn plan_next(&mut self, session: &Session, env: &Env, name: &str, how: Option<&str>) {
        let now_ms = env.clock.monotonic_ms();
        let Some(how) = how else {
            (self.failed, self.next_ms) = (0, now_ms);
            return;
        };
        self.failed = if env.elapsed_ms(self.begun_ms) >= WELL_MS { 1 } else { self.failed + 1 };
        let mut random = [0; 8];
        env.random.fill(&mut random);
        let delay_ms = RETRY.delay_ms(self.failed, u64::from_le_bytes(random));
        self.next_ms = now_ms + delay_ms;
        let message = format!("it ended ({how}), and begins anew in {}", units::duration(delay_ms));
        session.printer.warning(&units::one_line(name), &message);
    }

    fn begin(&mut self, session: &Session, env: &Env, name: &str) {
        self.begun_ms = env.clock.monotonic_ms();
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null());
        match child::spawn(&mut command) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                self.plan_next(session, env, name, Some(&format!("cannot be begun: {error}")));
            }
        }
    }
}
