//! The log of a cluster (WAL) in repositories.
//!
//! `name` knows what the files of `pg_wal` are called and where they lie in a repository; `header`
//! and `control` read what a segment and a cluster say of themselves; `timeline` reads history
//! files. `archive` puts them together: one cluster's log in the folder of its source, into which
//! files are pushed and from which they are fetched. Its objects are those of
//! [`mod@lifeboat_core::log`]; they lie under the cluster's system identifier, so that an upgraded
//! cluster never meets its predecessor's segments. `ahead` and `spool` do the next files while the
//! server waits for one.

pub mod ahead;
mod archive;
mod control;
mod header;
mod name;
mod spool;
mod timeline;

pub use archive::{Archive, Fetched, Member, PushFile, Pushed};
pub use control::Control;
pub use header::{HEADER_BYTES, SegmentHeader};
pub use name::{Kept, Lsn, Segment, WalFile, log_prefix};
pub use spool::Spool;
pub use timeline::History;

/// A file beside the segments is text of a few lines.
pub const SMALL_BYTES_MAX: u64 = 1 << 20;
/// The largest segment that a cluster can have.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The smallest one.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
