//! The agent: one process that runs what is scheduled, and keeps running what never ends.
//!
//! Everything that touches a database or a repository is a child process, the same command that a
//! person or a timer would run. So whatever happens to one (a fault, a store that hangs, all memory
//! gone) happens to no other, and what hangs can be killed. `scheduler` decides what runs when and
//! is pure; `plan` makes its jobs of the configuration, `child` is a process that runs one,
//! `supervisor` carries out what the scheduler says, `lasting` keeps followers, receivers and
//! the web page alive, `control` takes questions by a socket, `asked` has what people asked for,
//! `kept` is what outlives the process, `systemd` tells the service manager.

mod asked;
mod child;
mod control;
mod kept;
mod lasting;
mod plan;
mod scheduler;
mod supervisor;
mod systemd;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

pub(crate) use self::plan::base_of as base;
pub(crate) use self::supervisor::run;
use crate::world::Surroundings;

/// The variable by which a child knows its agent.
const PARENT: &str = "LIFEBOAT_AGENT";

/// A child of an agent ends with it. What such a child runs is no child of the agent.
pub(crate) fn end_with_parent(surroundings: &Surroundings) {
    let named = surroundings.variable(PARENT).and_then(|text| text.to_str()?.parse::<i32>().ok());
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    if named.is_some() && named == parent {
        // Where that is refused, it goes on to its own end.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
}
