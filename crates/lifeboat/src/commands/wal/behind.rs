//! Until when a server committed nothing that is not archived: a cluster that rests archives
//! nothing, and loses nothing.

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_postgres::wal::{Archived, ArchiverState, Behind, committed_behind};

use crate::sources::Target;
use crate::standing::LogEnd;

/// The moment up to which nothing would be lost, by what its server says, which was asked no
/// earlier than at `asked_at`; `None` where it does not say that.
pub(crate) fn unchanged_until(
    env: &Env,
    target: &Target,
    (server, asked_at): (&ArchiverState, Timestamp),
    end: LogEnd,
) -> Option<Timestamp> {
    // One that archives nothing, and whose log nobody receives, has let go of it: each question
    // would be an error in its own log.
    let keeps_log = server.mode != "off" || server.slots.iter().any(|slot| slot.is_active);
    match server.current {
        Some(current) if current == end.place => return Some(asked_at),
        Some(current) if current > end.place && keeps_log => {}
        _ => return None,
    }
    let archived = Archived { system: end.system, timeline: end.timeline, end: end.place };
    let client = target.cluster.as_ref()?.client();
    match client.and_then(|client| committed_behind(env, &client, archived)) {
        Ok(Behind::Nothing) => Some(asked_at),
        Ok(Behind::Since(first)) => Some(first.min(asked_at)),
        Ok(Behind::Unknown) => None,
        Err(error) => {
            let message = format!("{}: what is not archived is not known: {error}", target.name);
            env.tell(Event::Detail { message: &message });
            None
        }
    }
}
