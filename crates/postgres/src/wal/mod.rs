//! The log of a cluster (WAL) in repositories.
//!
//! `name` knows what the files of `pg_wal` are called and where they lie in a repository; `header`
//! reads what a segment says of itself; `timeline` reads history files. `archive` puts them
//! together: one cluster's log in the folder of its source, into which files are pushed and from
//! which they are fetched. Its objects are those of [`mod@lifeboat_core::log`]; they lie under the
//! cluster's system identifier, so that an upgraded cluster never meets its predecessor's segments.
//! `ahead` and `spool` do the next files while the server waits for one; `receive` takes the log as
//! the server writes it.
//!
//! What is stored is looked at by `view`: which moments can be restored, what is missing; `records`
//! finds times in segments; `keep` says what base backups need. `server` asks a running server how
//! its archiver does, `since` what it committed that is not archived.

pub mod ahead;
mod archive;
mod copy;
mod header;
mod keep;
mod name;
pub mod receive;
mod records;
mod server;
mod since;
mod spool;
mod timeline;
mod view;

pub use archive::{Archive, Fetched, Member, PushFile, Pushed};
pub use copy::WalSelection;
pub use header::{HEADER_BYTES, SegmentHeader};
pub use keep::{WalRule, WorldOfRule};
pub use name::{Kept, Lsn, Segment, WalFile, log_prefix};
pub use records::{RecordReader, Times};
pub use server::{ArchiverState, Complaint, Slot};
pub use since::{Archived, Behind, committed_behind};
pub use spool::Spool;
pub use timeline::History;
pub(crate) use view::stretch;
pub use view::{
    BasePlace, ClusterLog, EndTimes, NoCache, Range, TimesCache, check_object, times_of,
};

/// A file beside the segments is text of a few lines.
pub const SMALL_BYTES_MAX: u64 = 1 << 20;
/// The largest segment that a cluster can have.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The smallest one.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
