//! Dumps and restores on real servers of several versions, in throw-away clusters.

#![allow(clippy::disallowed_methods, reason = "tests run on the real clock")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod archives;
mod backup;
mod cluster_restore;
mod data_folder;
mod physical;
mod replication;
mod recovery;
mod restore;
mod rights;
mod shop;
mod support;
mod throw_away;
