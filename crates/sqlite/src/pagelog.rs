//! The page log: what changed in a database between two of its backups, page by page.
//!
//! A log belongs to one backup, its **base**. Each of its files covers the positions (from, to]:
//! position 0 is the base itself, every later one a state that the database had between two
//! commits. A file holds the pages that changed, as differences from their version before, with
//! the hash of each, and digests of the whole database's state before and after. So what is
//! missing, in another order or of another database is seen before anything is restored, and what
//! was restored is proved to the byte.
//!
//! | file | duty |
//! |---|---|
//! | `layout` | the bytes of a file: see docs/format.md |
//! | `label` | what a sealed file says of itself without a key |
//! | `state` | hashes of all pages, and the digest of a state |
//! | `delta` | a page as a difference from its version before |
//! | `runs` | the same where little of it is new |
//! | `cells`, `moves` | in which page a page's content stood before, and differences from that |
//! | `names` | names of objects |
//! | `write`, `read` | one file |
//! | `chain` | the files of a base: which of them lead to a position |
//! | `history` | the versions that pages had at a position, without a restore |
//! | `compare` | pages of a capture that differ from a state |
//! | `open` | the end of a log, and the writing of its next file |
//! | `journal` | what a host without a key notes of a sealed log |
//! | `increment` | a run that adds one file |
//! | `follow` | adding to a log while the application writes |
//! | `add_news` | what is new, with care, while a state is held |
//! | `outrun` | when that is not possible |
//! | `rush` | the same where the application writes so fast that no state may be held |
//! | `keeper` | the state that is held from look to look |
//! | `collected`, `pool`, `spool` | what was collected of it, in memory and aside |
//! | `rest` | what was left of it, to be read when it is stored |
//! | `catch_up` | comparing all pages of such a database |
//! | `stamp` | whether the files of a database were written since |
//! | `known` | where in a `-wal` a follower stands, and earlier versions of pages |
//! | `bounds` | how long and how much a follower holds |
//! | `guard` | letting go in time what is held while others work |
//! | `copy` | which files another repository lacks |
//! | `needed` | which versions of pages a way needs |
//! | `lay` | files laid over a database file: of each page its newest version |
//! | `replay` | laying a log over a restored backup |
//! | `in_place` | pages of a database file replaced, all or none, while readers have it open |
//! | `standby` | a copy for readers that goes from state to state |
//! | `verify` | reading a log as a restore would |
//! | `thin` | which states stay as they grow old |
//! | `merge` | one file of several |
//! | `levels` | thinning out a log by both |
//! | `pack` | several files in one object |
//! | `packing` | which files are packed, and the doing of it |

mod add_news;
mod bounds;
mod catch_up;
mod cells;
mod chain;
mod collected;
mod compare;
mod copy;
mod delta;
mod ending;
mod follow;
mod guard;
mod history;
mod in_place;
mod increment;
mod levels;
mod journal;
mod keeper;
mod known;
mod label;
mod lay;
mod layout;
mod merge;
mod moves;
mod names;
mod needed;
mod open;
mod outrun;
mod pack;
mod packing;
mod pool;
mod read;
mod rest;
mod replay;
mod runs;
mod rush;
mod spool;
mod stamp;
mod standby;
mod state;
mod thin;
mod verify;
mod write;
#[cfg(test)]
mod tests;

pub use self::bounds::{FollowBounds, Pace};
pub use self::chain::{Chain, Gap, Grain, Moment, Range, Target};
pub use self::copy::PageLogSelection;
pub use self::follow::{FollowRequest, Follower, Step};
pub use self::increment::{
    Increment, IncrementOutcome, IncrementPlan, IncrementRequest, plan, run,
};
pub use self::levels::LogThinner;
pub use self::packing::Packing;
pub use self::replay::LogReplay;
pub use self::standby::{Standby, StandbyOrigin, StandbyReplay, StandbyStep};
pub use self::thin::Resolution;
pub use self::verify::{LogReport, ScratchCheck, verify};

/// What else in this crate adds to a log.
pub(crate) mod adding {
    pub(crate) use super::delta::{Changed, Encoding};
    pub(crate) use super::increment::ready;
    pub(crate) use super::open::{Looked, OpenLog};
}

/// How many differences may lie upon one another before a page is stored whole again.
const DIFFERENCES_MAX: u8 = 64;

/// In a file of no more than so many bytes of pages a page may be a difference from another one: so
/// much may whoever lays such a file hold.
const OTHERS_BYTES_MAX: usize = 16 << 20;

/// How many objects a base's log may have before the next run makes a new backup instead. It is for
/// logs that nobody packs: at a state a second eleven days.
const FILES_MAX: usize = 1_000_000;

/// A log that is larger than both makes the next run a backup: that, and so many times the base.
const LOG_BYTES_MIN: u64 = 4 << 20;
const LOG_BYTES_TIMES: u64 = 8;

/// How large the log of a base may be that takes so many bytes.
fn log_bytes_max(base_bytes: u64) -> u64 {
    LOG_BYTES_MIN.max(base_bytes.saturating_mul(LOG_BYTES_TIMES))
}
