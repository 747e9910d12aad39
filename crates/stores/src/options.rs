//! What a store is opened with beside its URL.

use std::path::PathBuf;

use crate::drive::Drive;

/// Everything that may be said of a place. What a kind of store does not know it ignores; the
/// configuration refuses it before.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration of `ssh` that is used instead of the user's.
    pub ssh_config: Option<PathBuf>,
    /// The drive on which a folder of this host lies, where it is there at times.
    pub drive: Option<Drive>,
}
