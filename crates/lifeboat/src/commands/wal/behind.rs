//! Until when a server committed nothing that is not archived: a cluster that rests archives
//! nothing, and loses nothing.

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_postgres::wal::{Archived, ArchiverState, Behind, committed_behind};

use crate::sources::Target;
use crate::standing::LogEnd;

/// The moment up to which nothing would be lost, by what its server says; `None` where it does not
/// say that.
pub(crate) fn unchanged_until(
    env: &Env,
    target: &Target,
    server: &ArchiverState,
    end: LogEnd,
) -> Option<Timestamp> {
    let now = env.clock.now();
    // What it wrote since then is asked for as a standby asks, which needs the right to replicate.
    let archived = Archived { system: end.system, timeline: end.timeline, end: end.place };
    if server.current.is_none_or(|current| current < end.place) {
        return None;
    }
    let client = target.cluster.as_ref()?.client();
    match client.and_then(|client| committed_behind(env, &client, archived)) {
        Ok(Behind::Nothing) => Some(now),
        Ok(Behind::Since(first)) => Some(first.min(now)),
        Ok(Behind::Unknown) => None,
        Err(error) => {
            let message = format!("{}: what is not archived is not known: {error}", target.name);
            env.tell(Event::Detail { message: &message });
            None
        }
    }
}
